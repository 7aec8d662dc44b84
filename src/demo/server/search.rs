//! Searching a simulated server: its few parameters, and pages that stand still while resources change.
//!
//! <https://hl7.org/fhir/R4/search.html>

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::store::Stored;
use super::{Answer, FhirServer, ok, refusal, text};
use crate::fhir::query;
use crate::time::{Timestamp, span_of};

/// Search parameter, its type, and the elements it looks at. Others are ignored.
pub(super) const PARAMETERS: [(&str, &str, &[&str]); 13] = [
    ("_id", "token", &[]),
    ("_lastUpdated", "date", &[]),
    ("based-on", "reference", &["basedOn"]),
    ("code", "token", &["code"]),
    ("focus", "reference", &["focus"]),
    ("identifier", "token", &["identifier"]),
    ("owner", "reference", &["owner"]),
    ("part-of", "reference", &["partOf"]),
    ("patient", "reference", &["subject", "patient", "for"]),
    ("requester", "reference", &["requester"]),
    ("status", "token", &["status"]),
    ("subject", "reference", &["subject", "patient", "for"]),
    ("organization", "reference", &["organization", "providedBy"]),
];

/// Most searches whose pages are kept.
const REMEMBERED_SEARCHES: usize = 100;

impl FhirServer {
    pub(super) fn search(&mut self, type_: &str, query: &str) -> Result<Answer, Answer> {
        let asked = parameters(query);
        let value = |wanted: &str| asked.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let number = |wanted: &str| value(wanted).and_then(|value| value.parse::<usize>().ok());
        let count = number("_count").unwrap_or(self.page_size).min(self.page_size);
        let start = number("_offset").unwrap_or(0);
        let (search, hits) = match number("_getpages") {
            None => (None, self.sorted(self.matching(type_, &asked)?, value("_sort"))),
            Some(search) => match self.searches.iter().find(|(known, _)| *known == search) {
                Some((_, hits)) => (Some(search), hits.clone()),
                None => return Err(refusal(410, "expired", "that page is no longer kept")),
            },
        };
        let used = query.split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            is_parameter(name) || ["_count", "_sort", "_getpages", "_offset"].contains(&name)
        });
        let mut link = vec![json!({
            "relation": "self",
            "url": format!("{}/{type_}?{}", self.base, used.collect::<Vec<_>>().join("&")),
        })];
        let entry: Vec<Value> = hits.iter().skip(start).take(count).filter_map(|hit| self.entry(*hit)).collect();
        if count > 0 && start + count < hits.len() {
            let search = search.unwrap_or_else(|| self.remember(hits.clone()));
            let offset = start + count;
            let url = format!("{}/{type_}?_getpages={search}&_offset={offset}&_count={count}", self.base);
            link.push(json!({ "relation": "next", "url": url }));
        }
        let mut bundle = json!({
            "resourceType": "Bundle",
            "meta": { "lastUpdated": self.now },
            "type": "searchset",
            "total": hits.len(),
            "link": link,
        });
        if !entry.is_empty() {
            bundle["entry"] = json!(entry);
        }
        Ok(ok(bundle))
    }

    fn entry(&self, position: usize) -> Option<Value> {
        let Stored { type_, id, versions } = self.store.resources.get(position)?;
        let full_url = format!("{}/{type_}/{id}", self.base);
        Some(json!({ "fullUrl": full_url, "resource": versions.last()?, "search": { "mode": "match" } }))
    }

    /// Keeps what a search found, so that its pages don't shift while resources change.
    fn remember(&mut self, hits: Vec<usize>) -> usize {
        self.searched += 1;
        self.searches.push_back((self.searched, hits));
        if self.searches.len() > REMEMBERED_SEARCHES {
            self.searches.pop_front();
        }
        self.searched
    }

    pub(super) fn matching(&self, type_: &str, asked: &[(String, String)]) -> Result<Vec<usize>, Answer> {
        if asked.iter().any(|(name, value)| name == "_lastUpdated" && span(value).is_none()) {
            return Err(refusal(400, "value", "_lastUpdated is no instant"));
        }
        let fits = |resource: &Value| {
            let mut heeded = asked.iter().filter(|(name, _)| !self.ignored.contains(name));
            heeded.all(|(name, values)| values.split(',').any(|value| self.meets(resource, name, value)))
        };
        let found = self.store.resources.iter().enumerate().filter(|(_, stored)| stored.type_ == type_);
        Ok(found.filter(|(_, stored)| stored.versions.last().is_some_and(fits)).map(|(position, _)| position).collect())
    }

    fn meets(&self, resource: &Value, name: &str, value: &str) -> bool {
        let Some((_, kind, elements)) = PARAMETERS.iter().find(|(known, ..)| *known == name) else { return true };
        match (name, *kind) {
            ("_id", _) => text(resource, "id") == value,
            (_, "date") => updated(resource, value),
            (_, "token") => items(resource, elements).any(|item| has_token(item, value)),
            _ => items(resource, elements).any(|item| self.refers(text(item, "reference"), value)),
        }
    }

    /// Exactly as stored, or the same under our base, or, for a relative query, the same last `Type/id` (or id).
    fn refers(&self, stored: &str, asked: &str) -> bool {
        let unversioned = stored.split("/_history/").next().unwrap_or(stored);
        let relative = |url: &str| self.below_base(url).unwrap_or(url).trim_start_matches('/').to_owned();
        let ends_with_asked = unversioned.strip_suffix(asked).is_some_and(|rest| rest.ends_with('/'));
        stored == asked || relative(unversioned) == relative(asked) || (!asked.contains("://") && ends_with_asked)
    }

    fn sorted(&self, mut hits: Vec<usize>, sort: Option<&str>) -> Vec<usize> {
        let instant = |hit: &usize| {
            let newest = self.store.resources.get(*hit).and_then(|stored| stored.versions.last());
            newest.and_then(last_updated)
        };
        match sort {
            Some("_lastUpdated") => hits.sort_by_key(instant),
            Some("-_lastUpdated") => hits.sort_by_key(|hit| Reverse((instant(hit), *hit))),
            _ => {}
        }
        hits
    }
}

/// The values of these elements, repeated ones one by one.
fn items<'a>(resource: &'a Value, elements: &'a [&str]) -> impl Iterator<Item = &'a Value> {
    let found = elements.iter().filter_map(|element| resource.get(element));
    found.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice))
}

/// A code, an Identifier, a Coding or a CodeableConcept against `value`, `system|value`, `|value` or `system|`.
fn has_token(item: &Value, asked: &str) -> bool {
    if let Some(codings) = item.get("coding").and_then(Value::as_array) {
        return codings.iter().any(|coding| has_token(coding, asked));
    }
    let (system, value) = asked.split_once('|').map_or((None, asked), |(system, value)| (Some(system), value));
    if let Some(code) = item.as_str() {
        return code == value;
    }
    let own = item.get("value").or_else(|| item.get("code")).and_then(Value::as_str);
    system.is_none_or(|system| text(item, "system") == system) && (value.is_empty() || own == Some(value))
}

/// The prefix, and the first and last microsecond that an instant (exactly) or a partial date means.
fn span(asked: &str) -> Option<(&str, Timestamp, Timestamp)> {
    let (prefix, asked) = match asked.get(..2) {
        Some(prefix @ ("gt" | "ge" | "lt" | "le" | "eq")) => (prefix, asked.get(2..)?),
        _ => ("eq", asked),
    };
    let instant = Timestamp::parse(asked).map(|instant| (prefix, instant, instant));
    instant.or_else(|| span_of(asked).map(|(start, end)| (prefix, start, Timestamp(end.0 - 1))))
}

fn updated(resource: &Value, asked: &str) -> bool {
    let Some(((prefix, first, last), own)) = span(asked).zip(last_updated(resource)) else { return false };
    match prefix {
        "gt" => own > last,
        "ge" => own >= first,
        "lt" => own < first,
        "le" => own <= last,
        _ => (first..=last).contains(&own),
    }
}

pub(super) fn last_updated(resource: &Value) -> Option<Timestamp> {
    Timestamp::parse(text(&resource["meta"], "lastUpdated"))
}

pub(super) fn is_parameter(name: &str) -> bool {
    PARAMETERS.iter().any(|(known, ..)| *known == name)
}

pub(super) fn parameters(asked: &str) -> Vec<(String, String)> {
    query::pairs(Some(asked)).unwrap_or_default()
}
