//! Where the entries of a transaction will stand, and every link to them rewritten.
//!
//! A link is a `Reference.reference`, any element of type uri, url, oid or uuid, and `href` and `src` in a narrative.
//! Canonical URLs are not: they name a definition wherever it stands. A relative reference is relative to the server that
//! its entry's `fullUrl` names. A version in a link stays, as that of what is stored now; so does a fragment. Leaves out
//! conditional references, which only the store can resolve ([`conditional`] finds them).
//! <https://hl7.org/fhir/R4/http.html#trules>, <https://hl7.org/fhir/R4/bundle.html#references>

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::definitions::{self, TypeDef};
use super::reference::{self, split_absolute};
use super::resource::{Key, Resource, ResourceType};
use crate::error::Error;

/// Where entries will stand, by their `fullUrl`.
#[derive(Debug, Default)]
pub struct Places {
    own: String,
    by_url: HashMap<String, Key>,
}

impl Places {
    /// None yet; `own` is this server's base.
    pub fn new(own: &str) -> Self {
        Places { own: own.to_string(), by_url: HashMap::new() }
    }

    /// What links to this `fullUrl` mean.
    pub fn put(&mut self, full_url: &str, key: Key) {
        self.by_url.insert(full_url.to_string(), key);
    }

    /// Rewrites all links of the resource of one entry. A `urn:` reference that names no entry is refused.
    pub fn rewrite(&self, resource: &mut Resource, full_url: Option<&str>) -> Result<(), Error> {
        let base = full_url.and_then(split_absolute).map_or(self.own.as_str(), |(base, _)| base).to_string();
        let name = resource.kind().name();
        if let Some(def) = definitions::resource(name) {
            map(resource.elements_mut(), def, &mut |link, text| self.moved(link, text, &base));
        }
        let dangling = reference::all(resource).into_iter().find(|text| text.starts_with("urn:"));
        dangling.map_or(Ok(()), |text| {
            let place = reference::path_of(resource, &text);
            Err(Error::invalid(place, "This urn: names no entry of this transaction.").code("not-found"))
        })
    }

    fn moved(&self, link: Link, text: &str, base: &str) -> Option<String> {
        let (bare, fragment) = text.find('#').map_or((text, ""), |at| text.split_at(at));
        let (bare, version) = bare.split_once("/_history/").map_or((bare, false), |(bare, _)| (bare, true));
        if bare.is_empty() {
            return None;
        }
        if let Some(key) = self.by_url.get(bare) {
            return Some(place(key, version, fragment));
        }
        if link == Link::Reference && Key::parse(bare).is_some() {
            let there = format!("{base}/{bare}");
            if let Some(key) = self.by_url.get(&there) {
                return Some(place(key, version, fragment));
            }
            // Relative to another server, and not brought along: it stays there.
            if !reference::same_base(base, &self.own) {
                return Some(format!("{base}/{text}"));
            }
        }
        None
    }
}

/// What is new here has one version.
fn place(key: &Key, version: bool, fragment: &str) -> String {
    format!("{key}{}{fragment}", if version { "/_history/1" } else { "" })
}

/// What kind of element a link stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Reference,
    Address,
}

type Change<'a> = &'a mut dyn FnMut(Link, &str) -> Option<String>;

fn map(body: &mut Map<String, Value>, def: &TypeDef, change: Change) {
    for (key, item) in body {
        if def.name == "Narrative" && key == "div" {
            narrative(item, change);
        } else if def.name == "Reference" && key == "reference" {
            text(item, Link::Reference, change);
        } else if let Some((_, type_)) = def.element_for_json_key(key) {
            match type_.name {
                "uri" | "url" | "oid" | "uuid" => value(item, None, change),
                _ => value(item, Some(type_.def()), change),
            }
        }
    }
}

/// An element of this type; without one it is an address.
fn value(item: &mut Value, def: Option<&TypeDef>, change: Change) {
    match (item, def) {
        (Value::Array(items), _) => items.iter_mut().for_each(|item| value(item, def, change)),
        (item, None) => text(item, Link::Address, change),
        (Value::Object(body), Some(def)) => {
            let kind = body.get("resourceType").and_then(Value::as_str).and_then(definitions::resource);
            map(body, kind.unwrap_or(def), change);
        }
        _ => {}
    }
}

fn text(item: &mut Value, link: Link, change: Change) {
    if let Value::String(text) = item
        && let Some(new) = change(link, text)
    {
        *text = new;
    }
}

/// Rewrites `href="…"` and `src="…"` inside the tags of a narrative.
fn narrative(item: &mut Value, change: Change) {
    let Value::String(div) = item else { return };
    let mut out = String::with_capacity(div.len());
    let mut rest = div.as_str();
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag_end(tag);
        let (tag, after) = tag.split_at(end);
        attributes(tag, &mut out, change);
        rest = after;
    }
    out.push_str(rest);
    *div = out;
}

/// Where a tag ends: at the first `>` outside quotes.
fn tag_end(tag: &str) -> usize {
    let mut quote = None;
    for (at, character) in tag.char_indices() {
        match (quote, character) {
            (None, '>') => return at + 1,
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
    }
    tag.len()
}

fn attributes(tag: &str, out: &mut String, change: Change) {
    let mut rest = tag;
    while let Some(equals) = rest.find('=') {
        let (name, after) = rest.split_at(equals + 1);
        out.push_str(name);
        rest = after;
        let name = name.trim_end_matches('=').trim_end();
        let links = name.ends_with("href") || name.ends_with("src");
        let space = after.len() - after.trim_start().len();
        let Some(quote) = after.trim_start().chars().next().filter(|one| *one == '"' || *one == '\'') else { continue };
        let start = space + 1;
        let Some(length) = after.get(start..).and_then(|value| value.find(quote)) else { continue };
        let value = after.get(start..start + length).unwrap_or("");
        out.push_str(after.get(..start).unwrap_or(""));
        let plain = value.replace("&amp;", "&");
        match change(Link::Address, &plain).filter(|_| links) {
            Some(new) => out.push_str(&new.replace('&', "&amp;")),
            None => out.push_str(value),
        }
        rest = after.get(start + length..).unwrap_or("");
    }
    out.push_str(rest);
}

/// The conditional references of a resource, such as `Patient?identifier=a|b`: text, type and criteria.
pub fn conditional(resource: &Resource) -> Vec<(String, ResourceType, String)> {
    let one = |text: String| {
        let (name, criteria) = text.split_once('?')?;
        let (kind, criteria) = (ResourceType::parse(name)?, criteria.to_string());
        Some((text, kind, criteria))
    };
    reference::all(resource).into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OWN: &str = "https://hub/fhir";

    fn rewritten(full_url: Option<&str>, value: Value) -> Result<Value, Error> {
        let mut places = Places::new(OWN);
        for (url, key) in [
            ("urn:uuid:a", "Patient/9"),
            ("urn:oid:1.2", "Binary/8"),
            ("https://ehr/fhir/Patient/1", "Patient/9"),
            ("https://hub/fhir/Patient/temporary", "Patient/9"),
        ] {
            places.put(url, Key::parse(key).unwrap());
        }
        let mut resource = Resource::from_value(value).unwrap();
        places.rewrite(&mut resource, full_url).map(|()| resource.into_value())
    }

    //
    #[test]
    fn every_link_is_rewritten_and_nothing_else() {
        let sent = |patient: &str, file: &str| {
            json!({"resourceType": "DocumentReference", "description": "urn:uuid:a",
                "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:uuid:a"}],
                "subject": {"reference": patient, "display": "urn:uuid:a"},
                "text": {"status": "additional", "div": format!("<div>urn:uuid:a href=\"urn:uuid:a\" <a title='>' href='{patient}#n'>x</a><img alt=\"urn:uuid:a\" src = \"{file}\"/></div>")},
                "content": [{"attachment": {"url": file, "title": "urn:oid:1.2"}}],
                "contained": [{"resourceType": "Provenance", "target": [{"reference": patient}], "policy": [file]}],
                "extension": [{"url": "http://x", "valueUri": patient}, {"url": "http://x", "valueCanonical": "urn:uuid:a"},
                    {"url": "http://x", "valueUuid": patient}, {"url": "http://x", "valueString": "urn:uuid:a"}]})
        };
        assert_eq!(rewritten(None, sent("urn:uuid:a", "urn:oid:1.2")).unwrap(), sent("Patient/9", "Binary/8"));
    }

    //
    #[test]
    fn references_are_relative_to_where_the_entry_says_it_comes_from() {
        let subject = |full_url: Option<&str>, text: &str| {
            let sent = json!({"resourceType": "Observation", "subject": {"reference": text}});
            rewritten(full_url, sent).map(|value| value["subject"]["reference"].as_str().unwrap().to_string())
        };
        let ehr = Some("https://ehr/fhir/Observation/5");
        for (full_url, text, expected) in [
            (ehr, "Patient/1", "Patient/9"),
            (ehr, "https://ehr/fhir/Patient/1", "Patient/9"),
            (ehr, "https://ehr/fhir/Patient/1/_history/4", "Patient/9/_history/1"),
            (ehr, "https://ehr/fhir/Patient/1#name", "Patient/9#name"),
            (ehr, "Patient/2", "https://ehr/fhir/Patient/2"),
            (ehr, "#inside", "#inside"),
            (None, "Patient/1", "Patient/1"),
            (None, "Patient/temporary", "Patient/9"),
            (Some("urn:uuid:b"), "https://else/fhir/Patient/1", "https://else/fhir/Patient/1"),
            (Some("https://hub/fhir/Observation/x"), "Patient/7/_history/2", "Patient/7/_history/2"),
        ] {
            assert_eq!(subject(full_url, text).unwrap(), expected, "{full_url:?} {text}");
        }
        let error = subject(None, "urn:uuid:nobody").unwrap_err();
        assert_eq!(error.issues[0].expression.as_deref(), Some("Observation.subject"));
    }

    //
    #[test]
    fn conditional_references_are_found() {
        let sent = json!({"resourceType": "Observation", "subject": {"reference": "Patient?identifier=a|b"},
            "encounter": {"reference": "Nobody?x=y"}});
        let found = conditional(&Resource::from_value(sent).unwrap());
        assert_eq!(found, [("Patient?identifier=a|b".into(), ResourceType::PATIENT, "identifier=a|b".into())]);
    }
}
