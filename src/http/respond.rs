//! From results to HTTP: resources with their version headers, refusals as OperationOutcomes, the request id on all.
//!
//! The one place where an [`Error`] becomes a status ([`crate::error::Kind::status`] is the table). Stored text is sent
//! as stored. <https://hl7.org/fhir/R4/http.html#return>

use axum::body::{Body, HttpBody};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::conditional::Return;
use super::negotiate::Format;
use crate::app::{Answer, App, Stored};
use crate::error::{Error, Kind};
use crate::fhir::{outcome, xml};
use crate::id;
use crate::time::Timestamp;

const FHIR_JSON: &str = "application/fhir+json; charset=utf-8";
const FHIR_XML: &str = "application/fhir+xml; charset=utf-8";
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Who changed something between its author and its reader (R-013).
pub(super) const INTERMEDIARY: HeaderName = HeaderName::from_static("x-intermediary");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// Warnings about what was stored all the same, as an OperationOutcome in one line (design D16b).
const OUTCOME: HeaderName = HeaderName::from_static("x-operationoutcome");
/// Most warnings that the header tells; all of them are told with `Prefer: return=OperationOutcome`.
const MOST_WARNINGS: usize = 10;
/// Longest request id taken from a caller.
const LONGEST_ID: usize = 128;

/// An answer with a body.
pub(super) fn text(status: u16, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer in FHIR JSON.
pub(super) fn fhir(status: u16, body: String) -> Response {
    text(status, FHIR_JSON, body)
}

/// An answer without a body.
pub(super) fn empty(status: u16) -> Response {
    let mut response = fhir(status, String::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// What a browser is told before it lets anybody's page ask for what needs no token (R-010).
pub(super) fn preflight() -> Response {
    let mut response = empty(204);
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Sets a header whose value we made ourselves; what can't stand in one is left out.
pub(super) fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What a Bundle says of an entry that holds a version, and headers say less well: HTTP's times are whole seconds.
#[derive(Debug, Clone)]
pub(super) struct Versioned {
    /// Its absolute address.
    pub(super) full_url: String,
    /// When the version was made.
    pub(super) updated: Timestamp,
}

fn versioned(mut response: Response, own: &str, stored: &Stored) -> Response {
    let told = Versioned { full_url: format!("{own}/{}", stored.key), updated: stored.updated };
    response.extensions_mut().insert(told);
    set(&mut response, ETAG, &format!("W/\"{}\"", stored.version));
    set(&mut response, LAST_MODIFIED, &stored.updated.http_date());
    response
}

/// A version that was read.
pub(super) fn resource(own: &str, stored: &Stored) -> Response {
    versioned(fhir(200, stored.content.to_string()), own, stored)
}

/// 304: the client has this version.
pub(super) fn not_modified(own: &str, stored: &Stored) -> Response {
    versioned(empty(304), own, stored)
}

/// What a create or update stored, in the form the client prefers.
pub(super) fn written(own: &str, answer: &Answer, preferred: Return, locate: bool) -> Response {
    let stored = &answer.stored;
    let status = if answer.created { 201 } else { 200 };
    let body = match preferred {
        Return::Minimal => empty(status),
        Return::Representation => fhir(status, stored.content.to_string()),
        Return::Outcome => fhir(status, outcome::of_findings(&answer.warnings, "This is stored.").to_string()),
    };
    let mut response = versioned(body, own, stored);
    if !answer.warnings.is_empty() && preferred != Return::Outcome {
        let first = answer.warnings.get(..MOST_WARNINGS).unwrap_or(&answer.warnings);
        set(&mut response, OUTCOME, &ascii(&outcome::of_findings(first, "")));
    }
    if locate || answer.created {
        set(&mut response, LOCATION, &format!("{own}/{}/_history/{}", stored.key, stored.version));
    }
    response
}

/// JSON on one line in ASCII, as a header takes it.
fn ascii(value: &Value) -> String {
    let mut out = String::new();
    for unit in value.to_string().encode_utf16() {
        match char::from_u32(u32::from(unit)).filter(char::is_ascii) {
            Some(letter) => out.push(letter),
            None => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out
}

/// It is gone (R-055).
pub(super) fn deleted(preferred: Return) -> Response {
    match preferred {
        Return::Minimal | Return::Representation => empty(204),
        Return::Outcome => fhir(200, outcome::fine("This is deleted.").to_string()),
    }
}

/// The text of an answer's body, which we made ourselves.
pub(super) async fn body_text(body: Body) -> Result<String, Error> {
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(Error::internal)?;
    String::from_utf8(bytes.into()).map_err(Error::internal)
}

/// An error, told. `allow` are the methods that stay, for a 405; `token_shown`: whether a 401 is about a wrong token.
pub(super) fn refusal(error: &Error, allow: &[&str], token_shown: bool) -> Response {
    let mut response = fhir(error.kind.status(), outcome::of(error).to_string());
    match error.kind {
        Kind::Unauthenticated if token_shown => set(&mut response, WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""),
        Kind::Unauthenticated => set(&mut response, WWW_AUTHENTICATE, "Bearer"),
        Kind::Forbidden => set(&mut response, WWW_AUTHENTICATE, "Bearer error=\"insufficient_scope\""),
        Kind::MethodNotAllowed => set(&mut response, ALLOW, &allow.join(", ")),
        _ => {}
    }
    if let Some(seconds) = error.retry_after {
        set(&mut response, RETRY_AFTER, &seconds.to_string());
    }
    response
}

/// 404 for a path that leads nowhere.
pub(super) fn no_such_path() -> Error {
    Error::new(Kind::NotFound, "There is nothing at this address; /fhir/metadata lists what there is.")
}

/// A caller whose id we could not take hears it again beside ours (R-012).
pub(super) fn correlate(response: &mut Response, sent: Option<HeaderValue>, id: &str) {
    if let Some(sent) = sent.filter(|sent| sent.as_bytes() != id.as_bytes() && !sent.is_empty()) {
        response.headers_mut().insert(CORRELATION_ID, sent);
    }
}

/// The caller's request id, if it is one; else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits =
        |text: &&str| !text.is_empty() && text.len() <= LONGEST_ID && text.bytes().all(|byte| byte.is_ascii_graphic());
    sent.filter(fits).map_or_else(id::new, str::to_string)
}

/// What every answer gets: the request id, and for HEAD the headers of the body without it.
pub(super) fn finish(mut response: Response, method: &Method, id: &str) -> Response {
    set(&mut response, REQUEST_ID, id);
    set(&mut response, HeaderName::from_static("x-content-type-options"), "nosniff");
    if method == Method::HEAD {
        let length = response.body().size_hint().exact().filter(|length| *length > 0);
        *response.body_mut() = Body::empty();
        if let Some(length) = length {
            set(&mut response, CONTENT_LENGTH, &length.to_string());
        }
    }
    response
}

/// The answer in the format that was asked for. Every answer is made in JSON, which is how resources are stored; only
/// for XML, and where a person wants to read it (`_pretty`, R-016), it is read again.
pub(super) async fn formatted(response: Response, format: Format, pretty: bool) -> Response {
    let is_fhir = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == FHIR_JSON);
    if (format == Format::Json && !pretty) || !is_fhir {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The body is in memory: this neither waits nor grows.
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let resource: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if format == Format::Json {
        return Response::from_parts(parts, Body::from(format!("{resource:#}")));
    }
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(FHIR_XML));
    Response::from_parts(parts, Body::from(xml::write(&resource)))
}

/// A health answer.
pub(super) fn live() -> Response {
    text(200, "application/json", json!({"status": "live"}).to_string())
}

/// Whether the gateway can work; the details of a no are for the log.
pub(super) fn ready(result: Result<(), Error>) -> Response {
    match result {
        Ok(()) => text(200, "application/json", json!({"status": "ready"}).to_string()),
        Err(error) => {
            let cause = error.cause.as_deref().unwrap_or("");
            tracing::warn!(cause, "not ready");
            let reason = if cause.contains("is full") || cause.contains("No space left") {
                "The disk of the database is full."
            } else {
                "The database takes no writes; the log says why."
            };
            text(503, "application/json", json!({"status": "unavailable", "reason": reason}).to_string())
        }
    }
}

/// The metrics, as Prometheus reads them.
pub(super) async fn metrics(app: &App) -> Result<Response, Error> {
    Ok(text(200, "text/plain; version=0.0.4; charset=utf-8", app.metrics().await?))
}

/// A JSON resource made for this answer.
pub(super) fn made(value: &Value) -> Response {
    fhir(200, value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::{Key, ResourceType};

    fn answer(created: bool) -> Answer {
        let key = Key::new(ResourceType::TASK, "t1");
        let (author, method) = ("a".to_string(), "POST".to_string());
        let stored = Stored {
            key,
            number: 0,
            version: 3,
            updated: Timestamp(0),
            created: Timestamp(0),
            author,
            deleted: false,
            method,
            content: "{\"x\":1.00}".into(),
        };
        Answer::new(stored, created)
    }

    // D16b: stored with warnings; they come in a header, or as the body if asked for.
    #[test]
    fn warnings_are_told_in_a_header_or_as_the_body() {
        let condition = serde_json::json!({"resourceType":"Condition","subject":{"reference":"Patient/1"}});
        let resource = crate::fhir::Resource::from_value(condition).unwrap();
        let warnings = crate::fhir::validate::check(&resource, crate::fhir::profile::Profiles::own()).unwrap();
        assert!(!warnings.is_empty());
        let answer = Answer { warnings, ..answer(true) };
        let response = written("", &answer, Return::Representation, true);
        let told: Value = serde_json::from_str(header(&response, "x-operationoutcome").unwrap()).unwrap();
        assert_eq!(told["issue"][0]["severity"], "warning");
        assert_eq!(told["issue"][0]["expression"][0], "Condition.category");
        assert!(header(&written("", &answer, Return::Outcome, true), "x-operationoutcome").is_none());
        assert_eq!(ascii(&serde_json::json!("a“é😀")), r#""a\u201c\u00e9\ud83d\ude00""#);
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    // R-056
    #[test]
    fn a_create_says_where_and_which_version() {
        let response = written("https://hub/fhir", &answer(true), Return::Representation, true);
        assert_eq!(response.status(), 201);
        assert_eq!(header(&response, "location"), Some("https://hub/fhir/Task/t1/_history/3"));
        assert_eq!(header(&response, "etag"), Some("W/\"3\""));
        assert_eq!(header(&response, "last-modified"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        assert_eq!(header(&response, "content-type"), Some(FHIR_JSON));
        // R-042: the one that existed, and where it is.
        let response = written("https://hub/fhir", &answer(false), Return::Minimal, true);
        assert_eq!((response.status().as_u16(), response.body().size_hint().exact()), (200, Some(0)));
        assert!(header(&response, "location").is_some() && header(&response, "content-type").is_none());
        assert!(header(&written("", &answer(false), Return::Outcome, false), "location").is_none());
    }

    #[test]
    fn refusals_carry_what_the_caller_needs() {
        let unknown = Error::new(Kind::Unauthenticated, "x");
        assert_eq!(header(&refusal(&unknown, &[], false), "www-authenticate"), Some("Bearer"));
        assert_eq!(header(&refusal(&unknown, &[], true), "www-authenticate"), Some("Bearer error=\"invalid_token\""));
        let response = refusal(&Error::new(Kind::MethodNotAllowed, "x"), &["GET", "HEAD"], true);
        assert_eq!((response.status().as_u16(), header(&response, "allow")), (405, Some("GET, HEAD")));
        assert_eq!(header(&refusal(&Error::unavailable("x"), &[], true), "retry-after"), Some("1"));
    }

    #[test]
    fn a_request_id_is_the_callers_if_it_is_one() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, value.parse().unwrap());
            request_id(&headers)
        };
        assert_eq!(with("abc-1/2"), "abc-1/2");
        for bad in ["", "a b", "a\tb", "x".repeat(129).as_str()] {
            assert!(id::is_valid(&with(bad)), "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn head_keeps_the_headers_alone() {
        let response = finish(resource("", &answer(false).stored), &Method::HEAD, "r");
        assert_eq!((header(&response, "content-length"), response.body().size_hint().exact()), (Some("10"), Some(0)));
    }
}
