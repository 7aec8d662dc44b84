//! The history of one resource, of a type or of all as a Bundle, written from stored text.
//!
//! Newest first; every entry has a request and a response (bdl-3, bdl-4), deletions have no resource (R-024).
//! <https://hl7.org/fhir/R4/http.html#history>

use serde_json::{Value, json};

use crate::app::{Position, Stored, Versions, When, Whose};
use crate::error::Error;
use crate::fhir::search::{DEFAULT_PAGE, MAX_PAGE};
use crate::fhir::{ResourceType, query};
use crate::id;
use crate::time::{Timestamp, span_of};

/// Which part of a history is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) count: usize,
    /// The last entry of the page before, and its type.
    pub(super) before: Option<(ResourceType, Position)>,
    pub(super) when: When,
}

impl Page {
    pub(super) fn of(whose: &Whose, pairs: &[(String, String)]) -> Result<Page, Error> {
        if pairs.iter().any(|(name, _)| name == "_list") {
            // Ignored, it would answer another question.
            let text = "Lists are not held here, so there is no _list of a history; _since, _at and _count there are.";
            return Err(Error::malformed(text).code("not-supported"));
        }
        let bad = |name: &str, what: &str| Error::malformed(format!("The parameter {name} {what}")).code("value");
        let count = match query::once(pairs, "_count")? {
            None => DEFAULT_PAGE,
            Some(text) => text.parse::<usize>().map_err(|_| bad("_count", "is no number."))?.min(MAX_PAGE),
        };
        let before = match query::once(pairs, "_page")? {
            None => None,
            Some(text) => Some(parsed(whose, text).ok_or_else(|| bad("_page", "is not one of our links."))?),
        };
        let since = match query::once(pairs, "_since")? {
            None => When::EVER.since,
            Some(text) => span_of(text).ok_or_else(|| bad("_since", "is no instant."))?.0,
        };
        let at = match query::once(pairs, "_at")? {
            None => None,
            Some(text) => Some(span_of(text).ok_or_else(|| bad("_at", "is no date or time."))?),
        };
        Ok(Page { count, before, when: When { since, at } })
    }
}

/// Where this version stands.
pub(super) fn position(version: &Stored) -> Position {
    Position { updated: version.updated, id: version.key.id.clone(), version: version.version }
}

/// The opaque form in a link: time, id and number of the last entry, and no health data (R-116). In the history of all
/// its type stands before.
fn text(whose: &Whose, kind: ResourceType, position: &Position) -> String {
    let own = format!("{:x}.{}.{}", position.updated.0, position.id, position.version);
    match whose {
        Whose::One(_) | Whose::Type(_) => own,
        Whose::All(_) => format!("{kind}.{own}"),
    }
}

fn parsed(whose: &Whose, text: &str) -> Option<(ResourceType, Position)> {
    let (kind, text) = match whose {
        Whose::One(key) => (key.kind, text),
        Whose::Type(kind) => (*kind, text),
        Whose::All(_) => {
            let (kind, rest) = text.split_once('.')?;
            (ResourceType::parse(kind)?, rest)
        }
    };
    let (updated, rest) = text.split_once('.')?;
    let (id, version) = rest.rsplit_once('.')?;
    let updated = Timestamp(i64::from_str_radix(updated, 16).ok()?);
    let version = version.parse().ok()?;
    id::is_valid(id).then(|| (kind, Position { updated, id: id.to_string(), version }))
}

/// Writes the page.
pub(super) fn bundle(own: &str, whose: &Whose, pairs: &[(String, String)], versions: &Versions) -> String {
    let Versions { list: versions, more, horizon } = versions;
    let address = match whose {
        Whose::One(key) => format!("{own}/{key}/_history"),
        Whose::Type(kind) => format!("{own}/{kind}/_history"),
        Whose::All(_) => format!("{own}/_history"),
    };
    let used = pairs.iter().filter(|(name, value)| {
        ["_count", "_page", "_since", "_at", "_summary", "_elements", "_format", "_pretty"].contains(&name.as_str())
            && !value.is_empty()
    });
    let used: Vec<(&str, &str)> = used.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut links = vec![json!({"relation": "self", "url": query::link(&address, used.iter().copied())})];
    if let Some(last) = versions.last().filter(|_| *more) {
        let before = text(whose, last.key.kind, &position(last));
        let kept = used.iter().copied().filter(|(name, _)| *name != "_page");
        links.push(json!({"relation": "next", "url": query::link(&address, kept.chain([("_page", before.as_str())]))}));
    }

    let size: usize = versions.iter().map(|version| version.content.len() + 400).sum();
    let mut out = String::with_capacity(size + 512);
    let (id, links) = (id::new(), Value::Array(links));
    out.push_str(&format!(
        r#"{{"resourceType":"Bundle","id":"{id}","meta":{{"lastUpdated":"{horizon}"}},"type":"history","link":{links}"#
    ));
    for (index, version) in versions.iter().enumerate() {
        out.push_str(if index == 0 { r#","entry":["# } else { "," });
        entry(own, version, &mut out);
    }
    if !versions.is_empty() {
        out.push(']');
    }
    out.push('}');
    out
}

fn entry(own: &str, version: &Stored, out: &mut String) {
    let key = &version.key;
    out.push_str(&format!("{{\"fullUrl\":{},", Value::from(format!("{own}/{key}"))));
    if !version.deleted {
        out.push_str(&format!("\"resource\":{},", version.content));
    }
    let (method, url, status) = match version.method.as_str() {
        "DELETE" => ("DELETE", key.to_string(), "204"),
        "POST" => ("POST", key.kind.to_string(), "201"),
        _ if version.version == 1 => ("PUT", key.to_string(), "201"),
        _ => ("PUT", key.to_string(), "200"),
    };
    let request = json!({"method": method, "url": url});
    let etag = format!("W/\"{}\"", version.version);
    let response = json!({"status": status, "etag": etag, "lastModified": version.updated.to_string()});
    out.push_str(&format!("\"request\":{request},\"response\":{response}}}"));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fhir::Key;

    const OWN: &str = "https://hub/fhir";

    fn version(version: i64, method: &str) -> Stored {
        Stored {
            key: Key::new(ResourceType::TASK, "t1"),
            number: 0,
            version,
            updated: Timestamp(version * 1_000_000),
            created: Timestamp(1_000_000),
            author: "a".into(),
            deleted: method == "DELETE",
            method: method.into(),
            content: format!(r#"{{"resourceType":"Task","x":{version}.00}}"#).into(),
        }
    }

    fn written(query: &str, list: Vec<Stored>, more: bool) -> (String, Value) {
        let pairs = query::pairs(Some(query)).unwrap();
        let whose = Whose::One(Key::new(ResourceType::TASK, "t1"));
        let text = bundle(
            OWN,
            &whose,
            &pairs,
            &Versions { list: list.into_iter().map(Arc::new).collect(), more, horizon: Timestamp(0) },
        );
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    // R-055, R-024
    #[test]
    fn every_entry_says_what_was_asked_and_answered() {
        let (text, bundle) = written("", vec![version(3, "DELETE"), version(2, "PUT"), version(1, "POST")], false);
        assert!(text.contains("2.00"), "stored text is sent as stored");
        assert_eq!(bundle["type"], "history");
        assert_eq!(bundle["entry"][0]["request"], json!({"method":"DELETE","url":"Task/t1"}));
        assert!(bundle["entry"][0].get("resource").is_none());
        assert_eq!(
            bundle["entry"][1]["response"],
            json!({"status":"200","etag":"W/\"2\"","lastModified":"1970-01-01T00:00:02Z"})
        );
        assert_eq!(bundle["entry"][2]["request"], json!({"method":"POST","url":"Task"}));
        assert_eq!(bundle["entry"][2]["fullUrl"], "https://hub/fhir/Task/t1");
        assert_eq!(bundle["link"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn pages_follow_each_other() {
        let (_, bundle) = written("_count=1&_format=json", vec![version(2, "PUT")], true);
        assert_eq!(bundle["entry"].as_array().map(Vec::len), Some(1));
        assert_eq!(bundle["link"][0]["url"], "https://hub/fhir/Task/t1/_history?_count=1&_format=json");
        assert_eq!(
            bundle["link"][1]["url"],
            "https://hub/fhir/Task/t1/_history?_count=1&_format=json&_page=1e8480.t1.2"
        );
        let at = position(&version(2, "PUT"));
        let one = Whose::One(Key::new(ResourceType::TASK, "t1"));
        let kind = ResourceType::TASK;
        assert_eq!(parsed(&one, &text(&one, kind, &at)), Some((kind, at.clone())));
        let all = Whose::All(Vec::new());
        assert_eq!(text(&all, kind, &at), "Task.1e8480.t1.2");
        assert_eq!(parsed(&all, &text(&all, kind, &at)), Some((kind, at)));
        let dots = Position { updated: Timestamp(1), id: "a.b-c.3".into(), version: 7 };
        assert_eq!(parsed(&one, &text(&one, kind, &dots)), Some((kind, dots)));
        let (_, bundle) = written("_since=1970-01-01T00:00:02Z", vec![version(2, "PUT")], false);
        assert_eq!(bundle["link"][0]["url"], "https://hub/fhir/Task/t1/_history?_since=1970-01-01T00:00:02Z");
        assert!(written("_count=0", vec![], true).1.get("entry").is_none());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in [
            "_at=2026&_at=2027",
            "_at=ge2026",
            "_list=l",
            "_count=x",
            "_page=x",
            "_page=2",
            "_page=1..2",
            "_page=1.a%20b.2",
            "_since=soon",
            "_count=1&_count=2",
        ] {
            assert!(Page::of(&Whose::Type(ResourceType::TASK), &query::pairs(Some(bad)).unwrap()).is_err(), "{bad}");
        }
    }
}
