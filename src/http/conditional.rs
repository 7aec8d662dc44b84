//! Preconditions and preferences: `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-None-Exist`, `Prefer`.
//!
//! A malformed precondition is 400: who meant to be careful must not be answered as if he had not been. Malformed
//! preferences and read conditions are ignored, as HTTP says. <https://www.rfc-editor.org/rfc/rfc9110#name-preconditions>,
//! <https://hl7.org/fhir/R4/http.html#concurrency>

use axum::http::HeaderMap;
use axum::http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH};

use crate::error::Error;
use crate::fhir::ResourceType;
use crate::fhir::precondition::{self, Precondition};
use crate::fhir::query::Criteria;
use crate::time::Timestamp;

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let mut all = headers.get_all(name).into_iter();
    let Some(first) = all.next() else { return Ok(None) };
    let fault = || Error::malformed(format!("The header {name} stands once, in visible ASCII.")).code("value");
    if all.next().is_some() {
        return Err(fault());
    }
    first.to_str().map(|text| Some(text.trim())).map_err(|_| fault())
}

/// What a write demands of what it replaces.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Error> {
    Precondition::read(text(headers, IF_MATCH.as_str())?, text(headers, IF_NONE_MATCH.as_str())?)
}

/// The search of a conditional create.
pub(super) fn if_none_exist(kind: ResourceType, headers: &HeaderMap) -> Result<Option<Criteria>, Error> {
    text(headers, "if-none-exist")?.map(|text| Criteria::if_none_exist(kind, text)).transpose()
}

/// What a conditional read names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: answer in full.
    Nothing,
    /// The client has a copy with one of these tags (`*`: any).
    Tags(Vec<String>),
    /// The client has a copy of this time, to the second.
    Since(Timestamp),
}

impl Known {
    /// Reads the headers; a tag outweighs a time.
    pub(super) fn of(headers: &HeaderMap) -> Known {
        let header = |name| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        let tags = |list| if list == "*" { vec!["*"] } else { precondition::tags(list).unwrap_or_default() };
        if headers.contains_key(IF_NONE_MATCH) {
            let lists = header(IF_NONE_MATCH).map(str::trim);
            return Known::Tags(lists.flat_map(tags).map(String::from).collect());
        }
        header(IF_MODIFIED_SINCE).next().and_then(http_date).map_or(Known::Nothing, Known::Since)
    }

    /// Whether the client's copy carries this tag.
    pub(super) fn has_tag(&self, current: &str) -> bool {
        matches!(self, Known::Tags(tags) if tags.iter().any(|one| one == "*" || one == current))
    }

    /// Whether the client's copy is as young as this time, in whole seconds: HTTP dates have no more.
    pub(super) fn covers(&self, updated: Timestamp) -> bool {
        matches!(self, Known::Since(since) if second(updated) <= second(*since))
    }
}

/// The second an instant lies in.
pub(super) fn second(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000_000)
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`; the two obsolete forms are ignored, and the answer is then in full.
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.trim().split_once(", ")?.1.split(' ');
    let (day, month, year, clock, zone) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    if zone != "GMT" || parts.next().is_some() {
        return None;
    }
    Timestamp::parse(&format!("{year}-{month:02}-{day}T{clock}Z"))
}

/// What a write answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// The headers alone.
    Minimal,
    /// The resource; also when nothing is said.
    Representation,
    /// An OperationOutcome.
    Outcome,
}

/// What a search does with parameters it doesn't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// Ignores them (D16).
    Silent,
    /// Ignores them and says so: the client asked for it.
    Lenient,
    /// Refuses them.
    Strict,
}

/// The items of all `Prefer` headers.
fn preferences(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let items = values.flat_map(|value| value.split([',', ';']));
    items.filter_map(|item| item.split_once('=')).map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
}

/// `Prefer: return=…`
pub(super) fn preferred_return(headers: &HeaderMap) -> Return {
    let asked = preferences(headers).find(|(name, _)| name.eq_ignore_ascii_case("return"));
    match asked.map(|(_, value)| value.to_ascii_lowercase()).as_deref() {
        Some("minimal") => Return::Minimal,
        Some("operationoutcome") => Return::Outcome,
        _ => Return::Representation,
    }
}

/// `Prefer: handling=…`
pub(super) fn preferred_handling(headers: &HeaderMap) -> Handling {
    let asked = preferences(headers).find(|(name, _)| name.eq_ignore_ascii_case("handling"));
    match asked.map(|(_, value)| value.to_ascii_lowercase()).as_deref() {
        Some("strict") => Handling::Strict,
        Some("lenient") => Handling::Lenient,
        _ => Handling::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    //
    #[test]
    fn a_precondition_stands_once() {
        assert_eq!(precondition(&with("if-match", " \"3\" ")).unwrap(), Precondition::Version(vec![3]));
        assert_eq!(precondition(&with("if-none-match", "*")).unwrap(), Precondition::Absent);
        assert_eq!(precondition(&HeaderMap::new()).unwrap(), Precondition::Nothing);
        let mut twice = with("if-match", "\"1\"");
        twice.append("if-match", "\"2\"".parse().unwrap());
        assert!(precondition(&twice).is_err());
    }

    #[test]
    fn a_conditional_read_knows_tags_before_times() {
        let mut headers = with("if-none-match", "W/\"2\", \"3\"");
        headers.insert("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        let known = Known::of(&headers);
        assert!(known.has_tag("3") && known.has_tag("2") && !known.has_tag("4") && !known.covers(Timestamp(0)));
        headers.append("if-none-match", "\"5\"".parse().unwrap());
        assert!(Known::of(&headers).has_tag("5") && Known::of(&headers).has_tag("2"), "a list may be sent in lines");
        assert!(Known::of(&with("if-none-match", "*")).has_tag("9"));
        assert_eq!(Known::of(&with("if-modified-since", "yesterday")), Known::Nothing);
    }

    //
    #[test]
    fn a_time_covers_its_whole_second() {
        let at = Timestamp::parse("1994-11-06T08:49:37.9Z").unwrap();
        let known = |text: &str| Known::of(&with("if-modified-since", text));
        assert!(known("Sun, 06 Nov 1994 08:49:37 GMT").covers(at));
        assert!(known(&at.http_date()).covers(at));
        assert!(!known("Sun, 06 Nov 1994 08:49:36 GMT").covers(at));
    }

    //
    #[test]
    fn preferences_are_read_from_lists_and_ignored_when_unknown() {
        let headers = with("prefer", "respond-async, return=minimal; handling=strict");
        assert_eq!((preferred_return(&headers), preferred_handling(&headers)), (Return::Minimal, Handling::Strict));
        assert_eq!(preferred_return(&with("prefer", "return=OperationOutcome")), Return::Outcome);
        assert_eq!(preferred_return(&with("prefer", "return=everything")), Return::Representation);
        assert_eq!(preferred_handling(&HeaderMap::new()), Handling::Silent);
    }
}
