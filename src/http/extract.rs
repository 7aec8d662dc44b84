//! From a request to what an interaction needs: parameters decoded, formats agreed on, the body whole and bounded.
//!
//! Promises that a body is never larger in memory than `limits.body`, and never waited for longer than [`PATIENCE`].
//! Parsing into resources is [`Asked::resource`] and its siblings; what they mean is [`super::interactions`]'s.
//! <https://hl7.org/fhir/R4/http.html>

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use super::Seen;
use super::door::Place;
use super::negotiate::{self, Format};
use crate::config::Limits;
use crate::error::{Error, Kind};
use crate::fhir::bundle::Entry;
use crate::fhir::json::{self, Bounds};
use crate::fhir::patch::Patch;
use crate::fhir::query;
use crate::fhir::{Resource, ResourceType, xml};

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that may be answered.
#[derive(Debug)]
pub(super) struct Asked {
    /// `HEAD` has become `GET`.
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// The query's pairs, then those of a search's form (R-100).
    pub(super) pairs: Vec<(String, String)>,
    /// They came in a body, or from a link that sealed such: no link shows them (R-116).
    pub(super) hidden: bool,
    pub(super) body: Sent,
    /// Of the body.
    format: Format,
    bounds: Bounds,
}

/// A body.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    /// None.
    Nothing,
    /// As it arrived.
    Bytes(Vec<u8>),
    /// Read already, as part of a Bundle.
    Json(Value),
}

/// Reads a request, of which this is known. A search's form may say anew which format its answer shall have.
pub(super) async fn read(request: Request, place: &Place, limits: &Limits, known: &mut Seen) -> Result<Asked, Error> {
    let (parts, body) = request.into_parts();
    let mut pairs = known.agreed()?;
    encoded(&parts.headers)?;
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method };
    let mut bytes = Vec::new();
    if method == Method::POST || method == Method::PUT || method == Method::PATCH {
        bytes = self::body(body, &parts.headers, limits.body).await?;
    }
    let mut format = Format::Json;
    if let Place::Search(_) = place {
        if !bytes.is_empty() {
            negotiate::form(&parts.headers)?;
        }
        let form = std::str::from_utf8(&bytes).map_err(|_| Error::malformed("The form is not UTF-8.").code("value"))?;
        pairs.extend(query::pairs(Some(form.trim()))?);
        known.format = Ok(negotiate::acceptable(&parts.headers, &pairs)?);
    } else if !bytes.is_empty() {
        format = match method {
            Method::PATCH => negotiate::patch(&parts.headers)?,
            _ => negotiate::resource(&parts.headers)?,
        };
    }
    let bounds = Bounds { depth: limits.depth, string: limits.string };
    let body = if bytes.is_empty() { Sent::Nothing } else { Sent::Bytes(bytes) };
    let hidden = method == Method::POST;
    Ok(Asked { method, headers: parts.headers, pairs, hidden, body, format, bounds })
}

/// `X-Provenance`: who says what about what this request writes, as a Provenance in JSON without its target (A-122).
pub(super) fn provenance(headers: &HeaderMap, limits: &Limits) -> Result<Option<Arc<Resource>>, Error> {
    let Some(value) = headers.get("x-provenance") else { return Ok(None) };
    let wrong = |text: &str| Error::malformed(text).at("X-Provenance");
    let bounds = Bounds { depth: limits.depth, string: limits.string };
    let resource = json::parse(value.as_bytes(), bounds).and_then(Resource::from_value);
    let resource = resource.map_err(|_| wrong("X-Provenance is a Provenance in JSON, on one line."))?;
    if resource.kind() != ResourceType::PROVENANCE {
        return Err(wrong("X-Provenance is a Provenance in JSON, on one line."));
    }
    if resource.at("target").is_some() {
        return Err(wrong("Leave out the target of X-Provenance: it is what this request writes."));
    }
    Ok(Some(Arc::new(resource)))
}

/// 415 for a compressed body: it would be a second size to bound.
fn encoded(headers: &HeaderMap) -> Result<(), Error> {
    let plain = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.trim().eq_ignore_ascii_case("identity"));
    if headers.get_all(CONTENT_ENCODING).into_iter().all(plain) {
        return Ok(());
    }
    Err(Error::new(Kind::UnsupportedMediaType, "This server reads bodies without a Content-Encoding."))
}

/// The body whole, no larger than this and not waited for longer than [`PATIENCE`].
pub(super) async fn body(body: Body, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, Error> {
    in_time(PATIENCE, bounded(body, headers, limit)).await
}

async fn in_time<T>(patience: Duration, reading: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(patience, reading).await {
        Ok(read) => read,
        Err(_) => Err(Error::new(Kind::Slow, "The body did not arrive in time.")),
    }
}

fn too_large(limit: usize) -> Error {
    Error::new(Kind::TooLarge, format!("A body has at most {limit} bytes here."))
}

/// The body, if it is small enough. What is too large is read on for as much again, and dropped: a client that is
/// still sending when the connection closes would see a broken pipe instead of the 413.
async fn bounded(mut body: Body, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, Error> {
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    if declared > limit && (headers.contains_key(EXPECT) || declared > limit.saturating_mul(2)) {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(declared.min(limit).min(1 << 20));
    let mut seen = 0_usize;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Error::malformed("The body broke off."))?;
        let Ok(chunk) = frame.into_data() else { continue };
        seen = seen.saturating_add(chunk.len());
        if seen <= limit {
            bytes.extend_from_slice(&chunk);
        } else if seen > limit.saturating_mul(2) {
            break;
        }
    }
    if seen > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

impl Asked {
    /// One entry of a Bundle, as if it had been sent by itself; what a client prefers holds for all of them.
    pub(super) fn entry(&self, entry: Entry) -> Result<Asked, Error> {
        let mut headers = HeaderMap::new();
        for value in self.headers.get_all("prefer") {
            headers.append("prefer", value.clone());
        }
        for (name, text) in entry.headers {
            let value = HeaderValue::from_str(&text);
            let value =
                value.map_err(|_| Error::malformed(format!("An entry's {name} is visible ASCII.")).code("value"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let method = match entry.method.as_str() {
            "HEAD" => Method::GET,
            name => Method::from_bytes(name.as_bytes()).map_err(|_| Error::malformed("This is no method."))?,
        };
        let pairs = query::pairs(entry.url.split_once('?').map(|(_, query)| query))?;
        let body = entry.resource.map_or(Sent::Nothing, Sent::Json);
        let hidden = method == Method::POST;
        Ok(Asked { method, headers, pairs, hidden, body, format: self.format, bounds: self.bounds })
    }

    /// The body's resource, as JSON. It is read once: it is gone then.
    pub(super) fn json(&mut self) -> Result<Value, Error> {
        match std::mem::replace(&mut self.body, Sent::Nothing) {
            Sent::Nothing => Err(Error::malformed("This request needs a body.").code("required")),
            Sent::Bytes(bytes) => match self.format {
                Format::Json => json::parse(&bytes, self.bounds),
                Format::Xml => xml::read(&bytes, self.bounds),
            },
            Sent::Json(value) => Ok(value),
        }
    }

    /// The body as a resource of this type.
    pub(super) fn resource(&mut self, kind: ResourceType) -> Result<Resource, Error> {
        let resource = Resource::from_value(self.json()?)?;
        if resource.kind() != kind {
            return Err(Error::malformed(format!("A {kind} was to be sent to this address.")).at("resourceType"));
        }
        Ok(resource)
    }

    /// The body as a patch: Parameters, or a JSON Patch, which inside a Bundle stands in a Binary.
    pub(super) fn patch(&mut self) -> Result<Patch, Error> {
        match &self.body {
            Sent::Json(value) => Patch::entry(value, self.bounds),
            Sent::Nothing | Sent::Bytes(_) if negotiate::is_json_patch(&self.headers) => Patch::json(self.json()?),
            Sent::Nothing | Sent::Bytes(_) => Patch::parameters(&self.json()?),
        }
    }

    /// The body as Parameters: the items of `parameter`. No body is no parameters.
    pub(super) fn parameters(&mut self) -> Result<Vec<Value>, Error> {
        if matches!(self.body, Sent::Nothing) {
            return Ok(Vec::new());
        }
        let Value::Object(mut body) = self.json()? else {
            return Err(Error::malformed("Parameters are a JSON object."));
        };
        if body.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
            return Err(Error::malformed("An operation takes Parameters.").at("resourceType"));
        }
        match body.shift_remove("parameter") {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(Error::malformed("Parameters.parameter is a list.").at("Parameters.parameter")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::door::Area;
    use super::*;

    /// Reads a request of which nothing was known.
    async fn read_new(request: Request, place: &Place, limits: &Limits) -> Result<Asked, Error> {
        let mut known = Seen::of(&request);
        read(request, place, limits, &mut known).await
    }

    const LIMITS: Limits = Limits {
        body: 16,
        depth: 10,
        bundle_entries: 1,
        string: 100,
        requests_per_minute: 1,
        requests_per_minute_by_address: 1,
        token_requests_per_minute: 1,
        needs_per_request: 1,
    };

    fn request(method: &str, uri: &str, kind: &str, body: &str) -> Request {
        Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", kind)
            .body(Body::from(body.to_string()))
            .unwrap()
    }

    #[tokio::test]
    async fn a_body_is_bounded_also_when_its_length_is_not_declared() {
        let place = Place::Base;
        for (body, kind) in
            [("x".repeat(16), None), ("x".repeat(17), Some(Kind::TooLarge)), ("x".repeat(99), Some(Kind::TooLarge))]
        {
            let asked = read_new(request("POST", "/fhir", "application/json", &body), &place, &LIMITS).await;
            assert_eq!(asked.err().map(|error| error.kind), kind, "{}", body.len());
        }
        let mut declared = request("POST", "/fhir", "application/json", "");
        declared.headers_mut().insert(CONTENT_LENGTH, "9000000000".parse().unwrap());
        assert_eq!(read_new(declared, &place, &LIMITS).await.unwrap_err().kind, Kind::TooLarge);
    }

    // RFC 9110 §15.5.9
    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = std::future::pending::<Result<(), Error>>();
        let error = in_time(Duration::ZERO, never).await.unwrap_err();
        assert_eq!((error.kind.status(), error.issues[0].code), (408, "timeout"));
    }

    // R-100
    #[tokio::test]
    async fn a_searchs_form_joins_its_query() {
        let place = Place::Search(Area::Type(ResourceType::TASK));
        let form = "application/x-www-form-urlencoded";
        let asked = read_new(request("POST", "/fhir/Task/_search?a=1", form, "b=2+3"), &place, &LIMITS).await.unwrap();
        assert_eq!(asked.pairs, [("a".into(), "1".into()), ("b".into(), "2 3".into())]);
        let wrong = read_new(request("POST", "/fhir/Task/_search", "application/json", "{}"), &place, &LIMITS).await;
        assert_eq!(wrong.unwrap_err().kind, Kind::UnsupportedMediaType);
        let wanted = request("POST", "/fhir/Task/_search", form, "_format=xml");
        let mut known = Seen::of(&wanted);
        assert!(matches!(known.format, Ok(Format::Json)));
        read(wanted, &place, &LIMITS, &mut known).await.unwrap();
        assert!(matches!(known.format, Ok(Format::Xml)));
    }

    #[tokio::test]
    async fn a_body_comes_as_it_is() {
        let limits = Limits { body: 1_000, ..LIMITS };
        for (encoding, fits) in [("identity", true), ("gzip", false), ("br", false), ("identity, gzip", false)] {
            let mut sent = request("POST", "/fhir/Task", "application/json", "{}");
            sent.headers_mut().insert(CONTENT_ENCODING, encoding.parse().unwrap());
            let read = read_new(sent, &Place::Base, &limits).await;
            assert_eq!(read.err().map(|error| error.kind), (!fits).then_some(Kind::UnsupportedMediaType), "{encoding}");
        }
    }

    #[tokio::test]
    async fn a_body_may_be_xml() {
        let limits = Limits { body: 1_000, ..LIMITS };
        let body = "<Task xmlns=\"http://hl7.org/fhir\"><status value=\"draft\"/></Task>";
        let sent = request("POST", "/fhir/Task", "text/xml", body);
        let mut asked = read_new(sent, &Place::Base, &limits).await.unwrap();
        assert_eq!(asked.resource(ResourceType::TASK).unwrap().text_at("status"), Some("draft"));
        let sent = request("POST", "/fhir/Task", "application/json", body);
        let mut asked = read_new(sent, &Place::Base, &limits).await.unwrap();
        assert_eq!(asked.json().unwrap_err().kind, Kind::Malformed);
    }

    // R-040
    #[tokio::test]
    async fn the_body_is_of_the_places_type() {
        let place = Place::Type(ResourceType::TASK);
        let limits = Limits { body: 1_000, ..LIMITS };
        let sent = async |body: &'static str| {
            let request = request("POST", "/fhir/Task", "application/json", body);
            read_new(request, &place, &limits).await
        };
        assert!(sent(r#"{"resourceType":"Task"}"#).await.unwrap().resource(ResourceType::TASK).is_ok());
        for bad in [r#"{"resourceType":"Patient"}"#, "{}", "", "[]", "{"] {
            let error = sent(bad).await.unwrap().resource(ResourceType::TASK).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed, "{bad}");
        }
        assert!(sent("").await.unwrap().parameters().unwrap().is_empty());
        assert!(sent(r#"{"resourceType":"Task"}"#).await.unwrap().parameters().is_err());
    }
}
