//! `resolve()` and `memberOf()`: what an expression asks about other resources and about value sets.
//!
//! Contained resources and the entries of a Bundle are found here; everything else through the context. A resource that
//! is elsewhere still has a type, which its reference names: so `resolve() is Organization` can be told, but nothing else
//! about it. <https://hl7.org/fhir/R4/fhirpath.html#functions>

use serde_json::Value;

use super::Fault;
use super::evaluate::{Evaluator, Items, known, single};
use super::item::{Item, shown};
use crate::fhir::definitions::{self, TypeDef};

impl<'a> Evaluator<'_, 'a> {
    pub(super) fn resolved(&self, input: &[Item<'a>]) -> Result<Items<'a>, Fault> {
        let mut found = Vec::new();
        for item in input {
            self.here(item)?;
            let Item::Node(node) = item else {
                if let Item::Text(text) = item {
                    found.extend(self.target(text, None)?);
                }
                continue;
            };
            match node.value {
                Some(Value::String(text)) => found.extend(self.target(text, None)?),
                Some(value @ Value::Object(_)) => match value.get("reference").and_then(Value::as_str) {
                    Some(text) => found.extend(self.target(text, value.get("type").and_then(Value::as_str))?),
                    // Named by an identifier, or in words: who that is isn't known.
                    None => found.extend(
                        value.get("type").and_then(Value::as_str).and_then(definitions::resource).map(Item::Elsewhere),
                    ),
                },
                _ => {}
            }
        }
        Ok(found)
    }

    fn target(&self, text: &str, type_: Option<&str>) -> Result<Option<Item<'a>>, Fault> {
        let root = match &self.context.root {
            Item::Node(node) => node.value,
            _ => None,
        };
        if let Some(id) = text.strip_prefix('#') {
            if id.is_empty() {
                return Ok(Some(self.context.root.clone()));
            }
            let contained = root.and_then(|root| root.get("contained")?.as_array()).into_iter().flatten();
            let mut contained = contained.filter(|one| one.get("id").and_then(Value::as_str) == Some(id));
            return Ok(contained.next().map(Item::resource));
        }
        if let Some(entry) = root.and_then(|root| entry(root, text)) {
            self.step(1)?;
            return Ok(Some(Item::resource(entry)));
        }
        if let Some(found) = self.context.resolve.and_then(|resolve| resolve(text)) {
            return Ok(Some(Item::resource(found)));
        }
        let def = type_of(text).or_else(|| type_.and_then(definitions::resource));
        def.map(|def| Some(Item::Elsewhere(def))).ok_or_else(Fault::elsewhere)
    }

    pub(super) fn member_of(&self, input: &[Item<'a>], value_set: &[Item<'a>]) -> Result<Items<'a>, Fault> {
        let Some(url) = single(value_set)?.and_then(shown) else { return Ok(Vec::new()) };
        let mut any = None;
        for item in input {
            self.here(item)?;
            let answer = self.context.member_of.and_then(|member_of| member_of(item, &url));
            match answer {
                Some(true) => return Ok(known(Some(true))),
                Some(false) => any = Some(false),
                None => return Err(Fault::NotKnown(format!("the value set {url}"))),
            }
        }
        Ok(known(any))
    }
}

/// The type that a reference names: the last part but one of its path.
fn type_of(text: &str) -> Option<&'static TypeDef> {
    let bare = text.split(['?', '#']).next()?.split("/_history/").next()?;
    definitions::resource(bare.rsplit('/').nth(1)?)
}

/// The resource of the Bundle's entry that a reference means.
fn entry<'a>(bundle: &'a Value, text: &str) -> Option<&'a Value> {
    if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return None;
    }
    let bare = text.split("/_history/").next()?;
    let relative = !bare.contains(':');
    let fits = |url: &str| url == bare || (relative && url.strip_suffix(bare).is_some_and(|base| base.ends_with('/')));
    let mut entries = bundle.get("entry")?.as_array()?.iter();
    entries.find(|entry| entry.get("fullUrl").and_then(Value::as_str).is_some_and(fits))?.get("resource")
}
