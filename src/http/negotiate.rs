//! Formats: FHIR JSON and FHIR XML, in and out; who can only take or send something else is told so.
//!
//! What is read is told by `Content-Type` alone; what is written by `_format`, else by `Accept`: the format that the
//! client likes better, JSON where it likes both the same. <https://hl7.org/fhir/R4/http.html#mime-type>,
//! <https://www.rfc-editor.org/rfc/rfc9110#name-content-negotiation>

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};

use crate::error::{Error, Kind};
use crate::fhir::patch::JSON_PATCH;

/// How a resource is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `application/fhir+json`: also how resources are stored.
    Json,
    /// `application/fhir+xml`
    Xml,
}

/// The names clients have for FHIR JSON; the last is DSTU1's, which public clients still send.
const JSON: &[&str] = &["application/fhir+json", "application/json", "text/json", "application/json+fhir"];
/// The same for XML.
const XML: &[&str] = &["application/fhir+xml", "application/xml", "text/xml", "application/xml+fhir"];

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

    /// The format of this name.
    fn format(&self) -> Option<Format> {
        let name = self.name.as_str();
        let known = if JSON.contains(&name) {
            Some(Format::Json)
        } else if XML.contains(&name) {
            Some(Format::Xml)
        } else {
            None
        };
        known.filter(|_| self.is_r4())
    }

    /// How precisely this range names a format: 2 by name, 1 and 0 by wildcard.
    fn names(&self, format: Format) -> Option<u8> {
        match self.name.as_str() {
            "*/*" | "*" => Some(0),
            "application/*" => Some(1),
            _ => (self.format() == Some(format)).then_some(2),
        }
    }

    fn quality(&self) -> f32 {
        self.parameter("q").and_then(|q| q.parse::<f32>().ok()).filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0)
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// The format of the answer; 406 when the client can take neither. `_format` overrides `Accept`.
pub(super) fn acceptable(headers: &HeaderMap, pairs: &[(String, String)]) -> Result<Format, Error> {
    let refusal =
        || Error::new(Kind::NotAcceptable, "This server writes application/fhir+json and application/fhir+xml.");
    let format = pairs.iter().find(|(name, value)| name == "_format" && !value.is_empty());
    if let Some((_, format)) = format {
        return match format.trim().to_ascii_lowercase().as_str() {
            "json" => Ok(Format::Json),
            "xml" => Ok(Format::Xml),
            _ => Media::parse(format).format().ok_or_else(refusal),
        };
    }
    let ranges = values(headers, &ACCEPT).flat_map(|value| value.split(',')).filter(|range| !range.trim().is_empty());
    let ranges: Vec<Media> = ranges.map(Media::parse).collect();
    if ranges.is_empty() {
        return Ok(Format::Json);
    }
    // The most precise range that names a format decides on it.
    let liking = |format| {
        let named = ranges.iter().filter_map(|range| Some((range.names(format)?, range.quality())));
        named.fold((0, 0.0), |best, one| if one.0 > best.0 || (one.0 == best.0 && one.1 > best.1) { one } else { best })
    };
    let (json, xml) = (liking(Format::Json).1, liking(Format::Xml).1);
    if xml > json {
        Ok(Format::Xml)
    } else if json > 0.0 {
        Ok(Format::Json)
    } else {
        Err(refusal())
    }
}

/// The media type of a body, unless it is in another encoding than UTF-8. `None`: not a word about it.
fn content(headers: &HeaderMap) -> Option<Media<'_>> {
    let media = Media::parse(headers.get(CONTENT_TYPE)?.to_str().unwrap_or(""));
    let utf8 = media
        .parameter("charset")
        .is_none_or(|name| ["utf-8", "utf8", "us-ascii"].contains(&name.to_ascii_lowercase().as_str()));
    Some(if utf8 { media } else { Media::parse("") })
}

/// The format of a resource in the body; 415 when it is none of ours. Without a word about it, it is taken as JSON:
/// reading it will tell.
pub(super) fn resource(headers: &HeaderMap) -> Result<Format, Error> {
    let Some(media) = content(headers) else { return Ok(Format::Json) };
    media.format().ok_or_else(|| unreadable("application/fhir+json and application/fhir+xml"))
}

/// The format of a patch in the body: a JSON Patch, or Parameters; 415 when it is neither.
pub(super) fn patch(headers: &HeaderMap) -> Result<Format, Error> {
    let Some(media) = content(headers) else { return Ok(Format::Json) };
    if media.name == JSON_PATCH {
        return Ok(Format::Json);
    }
    let reads = "application/json-patch+json, and Parameters as application/fhir+json or application/fhir+xml";
    media.format().ok_or_else(|| unreadable(reads))
}

/// Whether the body says that it is a JSON Patch.
pub(super) fn is_json_patch(headers: &HeaderMap) -> bool {
    content(headers).is_some_and(|media| media.name == JSON_PATCH)
}

/// 415 unless the body is a form.
pub(super) fn form(headers: &HeaderMap) -> Result<(), Error> {
    let known = content(headers).is_none_or(|media| media.name == "application/x-www-form-urlencoded");
    known.then_some(()).ok_or_else(|| unreadable("application/x-www-form-urlencoded"))
}

fn unreadable(reads: &str) -> Error {
    Error::new(Kind::UnsupportedMediaType, format!("This server reads {reads} here, in UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(accept: &str, format: Option<&str>) -> Option<Format> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let pairs: Vec<(String, String)> = format.map(|value| ("_format".into(), value.into())).into_iter().collect();
        acceptable(&headers, &pairs).ok()
    }

    //
    #[test]
    fn a_client_gets_what_it_likes_better() {
        for (accept, format) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("application/*", Some(Format::Json)),
            ("application/json", Some(Format::Json)),
            ("text/json", Some(Format::Json)),
            ("APPLICATION/FHIR+JSON", Some(Format::Json)),
            ("application/fhir+json; charset=utf-8", Some(Format::Json)),
            ("application/fhir+json;fhirVersion=4.0", Some(Format::Json)),
            ("application/json;q=0.1", Some(Format::Json)),
            ("application/fhir+xml", Some(Format::Xml)),
            ("application/xml", Some(Format::Xml)),
            ("text/xml", Some(Format::Xml)),
            ("application/fhir+xml; fhirVersion=4.0", Some(Format::Xml)),
            ("application/fhir+json;q=0.8, application/fhir+xml;q=0.9", Some(Format::Xml)),
            ("application/fhir+json;q=0, */*", Some(Format::Xml)),
            ("application/fhir+xml, application/fhir+json;q=0.5", Some(Format::Xml)),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Format::Xml)),
            (
                "application/fhir+xml;q=1.0, application/fhir+json;q=1.0, application/xml+fhir;q=0.9, application/json+fhir;q=0.9",
                Some(Format::Json),
            ),
            ("text/turtle", None),
            ("text/html", None),
            ("application/fhir+json;q=0", None),
            ("application/fhir+json;fhirVersion=5.0", None),
            ("application/fhir+xml;fhirVersion=3.0", None),
            ("nonsense", None),
        ] {
            assert_eq!(answered(accept, None), format, "{accept}");
        }
        assert_eq!(acceptable(&HeaderMap::new(), &[]).ok(), Some(Format::Json));
    }

    //
    #[test]
    fn the_format_parameter_overrides_the_header() {
        for format in ["json", "JSON", "application/json", "application/fhir+json", "text/json"] {
            assert_eq!(answered("application/xml", Some(format)), Some(Format::Json), "{format}");
        }
        for format in ["xml", "application/fhir+xml", "application/xml", "text/xml"] {
            assert_eq!(answered("application/json", Some(format)), Some(Format::Xml), "{format}");
        }
        for format in ["html", "ttl", "application/fhir+json;fhirVersion=5.0"] {
            assert_eq!(answered("*/*", Some(format)), None, "{format}");
        }
        assert_eq!(answered("application/xml", Some("")), Some(Format::Xml));
    }

    fn sent(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())])
    }

    // also the format that `_format` did not ask for.
    #[test]
    fn bodies_are_json_or_xml_in_utf_8() {
        for (text, format) in [
            ("application/fhir+json", Some(Format::Json)),
            ("application/json", Some(Format::Json)),
            ("application/fhir+json;charset=utf-8", Some(Format::Json)),
            ("application/json; charset=\"UTF-8\"", Some(Format::Json)),
            ("application/fhir+json; fhirVersion=4.0", Some(Format::Json)),
            ("application/fhir+xml", Some(Format::Xml)),
            ("application/xml; charset=utf-8", Some(Format::Xml)),
            ("text/xml", Some(Format::Xml)),
            ("text/plain", None),
            ("application/fhir+json; charset=utf-16", None),
            ("application/fhir+xml; charset=iso-8859-1", None),
            ("application/fhir+json; fhirVersion=3.0", None),
            ("application/x-www-form-urlencoded", None),
        ] {
            assert_eq!(resource(&sent(text)).ok(), format, "{text}");
        }
        assert_eq!(resource(&HeaderMap::new()).ok(), Some(Format::Json));
    }

    //
    #[test]
    fn a_form_is_a_form() {
        assert!(
            form(&sent("application/x-www-form-urlencoded; charset=utf-8")).is_ok() && form(&HeaderMap::new()).is_ok()
        );
        assert!(form(&sent("application/json")).is_err());
        assert!(form(&sent("application/x-www-form-urlencoded; charset=latin1")).is_err());
    }
}
