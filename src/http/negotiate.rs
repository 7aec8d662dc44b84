//! Formats: what we read and write is FHIR JSON; who can only take or send something else is told so.
//!
//! Refused is only what leaves nothing: a client that names XML first and JSON at all gets JSON.
//! <https://hl7.org/fhir/R4/http.html#mime-type>, <https://www.rfc-editor.org/rfc/rfc9110#name-content-negotiation>

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};

use crate::error::{Error, Kind};

/// The names clients have for FHIR JSON; the last is DSTU1's, which public clients still send.
const JSON: &[&str] = &["application/fhir+json", "application/json", "text/json", "application/json+fhir"];

/// A media type with its parameters, in lower case.
struct Media<'a> {
    name: String,
    parameters: Vec<(String, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';');
        let name = parts.next().unwrap_or("").trim().to_ascii_lowercase();
        let pairs = parts.filter_map(|part| part.split_once('='));
        let parameters =
            pairs.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'))).collect();
        Media { name, parameters }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// R4, or no word about it.
    fn is_r4(&self) -> bool {
        self.parameter("fhirversion").is_none_or(|version| version == "4.0" || version == "4.0.1")
    }

    fn is_json(&self) -> bool {
        JSON.contains(&self.name.as_str()) && self.is_r4()
    }

    fn takes_json(&self) -> bool {
        let refused = self.parameter("q").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        !refused && (["*/*", "application/*", "*"].contains(&self.name.as_str()) || self.is_json())
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// 406 when the client can take nothing we write. `_format` overrides `Accept`.
pub(super) fn acceptable(headers: &HeaderMap, pairs: &[(String, String)]) -> Result<(), Error> {
    let refusal = || Error::new(Kind::NotAcceptable, "This server writes application/fhir+json only.");
    let format = pairs.iter().find(|(name, value)| name == "_format" && !value.is_empty());
    if let Some((_, format)) = format {
        // A bare + in a URL arrives as a space.
        let format = format.trim().replace(' ', "+");
        let known = format.eq_ignore_ascii_case("json") || Media::parse(&format).is_json();
        return known.then_some(()).ok_or_else(refusal);
    }
    let mut ranges =
        values(headers, &ACCEPT).flat_map(|value| value.split(',')).filter(|range| !range.trim().is_empty());
    let mut any = false;
    let taken = ranges.any(|range| {
        any = true;
        Media::parse(range).takes_json()
    });
    if taken || !any { Ok(()) } else { Err(refusal()) }
}

/// What a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// A resource or Parameters.
    Json,
    /// The parameters of a search.
    Form,
}

/// 415 unless the body is what this place reads. Without a word about it, it is taken as that: reading it will tell.
pub(super) fn readable(headers: &HeaderMap, expected: Body) -> Result<(), Error> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let media = Media::parse(value.to_str().unwrap_or(""));
    let utf8 = media
        .parameter("charset")
        .is_none_or(|name| ["utf-8", "utf8", "us-ascii"].contains(&name.to_ascii_lowercase().as_str()));
    let (known, reads) = match expected {
        Body::Json => (media.is_json(), "application/fhir+json in UTF-8"),
        Body::Form => (media.name == "application/x-www-form-urlencoded", "application/x-www-form-urlencoded in UTF-8"),
    };
    if known && utf8 {
        return Ok(());
    }
    Err(Error::new(Kind::UnsupportedMediaType, format!("This server reads {reads} here.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(accept: &str, format: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let pairs: Vec<(String, String)> = format.map(|value| ("_format".into(), value.into())).into_iter().collect();
        acceptable(&headers, &pairs).is_ok()
    }

    //
    #[test]
    fn whoever_can_take_json_gets_it() {
        for accept in [
            "",
            "*/*",
            "application/*",
            "application/json",
            "text/json",
            "application/fhir+json",
            "APPLICATION/FHIR+JSON",
            "application/fhir+json; charset=utf-8",
            "application/fhir+json;fhirVersion=4.0",
            "application/json;q=0.1",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/fhir+xml;q=1.0, application/fhir+json;q=1.0, application/xml+fhir;q=0.9, application/json+fhir;q=0.9",
        ] {
            assert!(accepts(accept, None), "{accept}");
        }
        assert!(acceptable(&HeaderMap::new(), &[]).is_ok());
    }

    #[test]
    fn whoever_cannot_is_told() {
        for accept in [
            "application/fhir+xml",
            "application/xml",
            "text/turtle",
            "text/html",
            "application/fhir+json;q=0",
            "application/fhir+json;fhirVersion=5.0",
            "nonsense",
        ] {
            assert!(!accepts(accept, None), "{accept}");
        }
    }

    //
    #[test]
    fn the_format_parameter_overrides_the_header() {
        for format in ["json", "application/json", "application/fhir+json", "application/fhir json", "text/json", ""] {
            assert!(accepts(if format.is_empty() { "*/*" } else { "application/xml" }, Some(format)), "{format}");
        }
        for format in ["xml", "application/fhir+xml", "text/xml", "html", "ttl"] {
            assert!(!accepts("*/*", Some(format)), "{format}");
        }
    }

    //
    #[test]
    fn bodies_are_json_in_utf_8() {
        let check = |text: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            readable(&headers, expected).is_ok()
        };
        for text in [
            "application/fhir+json",
            "application/json",
            "application/fhir+json;charset=utf-8",
            "application/fhir+json; charset=UTF-8",
            "application/json; charset=\"utf-8\"",
            "application/fhir+json; fhirVersion=4.0",
        ] {
            assert!(check(text, Body::Json), "{text}");
        }
        for text in [
            "application/fhir+xml",
            "application/xml",
            "text/plain",
            "application/fhir+json; charset=utf-16",
            "application/fhir+json; fhirVersion=3.0",
            "application/x-www-form-urlencoded",
        ] {
            assert!(!check(text, Body::Json), "{text}");
        }
        assert!(check("application/x-www-form-urlencoded; charset=utf-8", Body::Form));
        assert!(!check("application/json", Body::Form));
    }
}
