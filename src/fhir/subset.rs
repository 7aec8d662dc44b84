//! `_summary` and `_elements`: part of a resource, marked as such so that nobody takes it for the whole (R-027, R-119).
//!
//! What is mandatory and what changes the meaning always stays. Choices are made among a resource's own elements and
//! those of its parts; data types are whole or not there. <https://hl7.org/fhir/R4/search.html#summary>,
//! <https://hl7.org/fhir/R4/search.html#elements>

use serde_json::{Map, Value, json};

use super::definitions::{self, Element, Form, TypeDef};
use super::resource::Resource;
use crate::error::Error;

const SYSTEM: &str = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue";
const SUBSETTED: &str = "SUBSETTED";

/// Which part of each resource is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subset {
    /// `_summary=true`: what the standard marks as summary.
    Summary,
    /// `_summary=text`: the narrative and what is mandatory.
    Text,
    /// `_summary=data`: all but the narrative.
    Data,
    /// `_elements`: these, each perhaps of one type only.
    Elements(Vec<String>),
}

impl Subset {
    /// What the parameters of a request ask for; `_summary=count` is a search's own business.
    pub fn asked(pairs: &[(String, String)]) -> Option<Subset> {
        let value = |name: &str| pairs.iter().find(|(known, value)| known == name && !value.is_empty());
        match value("_summary").map(|(_, value)| value.as_str()) {
            Some("true") => return Some(Subset::Summary),
            Some("text") => return Some(Subset::Text),
            Some("data") => return Some(Subset::Data),
            _ => {}
        }
        let lists = pairs.iter().filter(|(name, _)| name == "_elements");
        let names: Vec<String> = lists
            .flat_map(|(_, list)| list.split(','))
            .map(|name| name.trim().to_string())
            .filter(|name| !name.is_empty())
            .collect();
        (!names.is_empty()).then_some(Subset::Elements(names))
    }

    /// The part of this resource, as text.
    pub fn of(&self, text: &str) -> Result<String, Error> {
        let mut resource = Resource::stored(text)?;
        let name = resource.kind().name();
        if let Some(def) = definitions::resource(name) {
            let kept = |element: &Element| self.keeps(name, element);
            cut(resource.elements_mut(), def, &kept, *self == Subset::Summary);
        }
        mark(resource.elements_mut());
        Ok(resource.to_text())
    }

    fn keeps(&self, kind: &str, element: &Element) -> bool {
        let always = matches!(element.name, "id" | "meta" | "implicitRules") || element.min > 0;
        always
            || match self {
                Subset::Summary => element.summary || element.modifier,
                Subset::Text => element.name == "text",
                Subset::Data => element.name != "text",
                Subset::Elements(names) => {
                    element.modifier || names.iter().any(|name| asks_for(name, kind, element.name))
                }
            }
    }
}

/// `name`, `name.family`, `Patient.name`: of an element's parts no choice is made.
fn asks_for(asked: &str, kind: &str, element: &str) -> bool {
    let mut parts = asked.split('.');
    let first = parts.next().unwrap_or("");
    let first = if first == kind { parts.next().unwrap_or("") } else { first };
    first == element || first.strip_suffix("[x]") == Some(element)
}

/// Takes out what is not kept; `deep`: also from the parts.
fn cut(body: &mut Map<String, Value>, def: &TypeDef, kept: &dyn Fn(&Element) -> bool, deep: bool) {
    body.retain(|key, item| {
        if key == "resourceType" {
            return true;
        }
        let bare = key.strip_prefix('_').unwrap_or(key);
        let Some((element, type_)) = def.element_for_json_key(bare) else { return false };
        if !kept(element) {
            return false;
        }
        if deep && type_.def().form == Form::Element {
            match item {
                Value::Object(part) => cut(part, type_.def(), kept, deep),
                Value::Array(parts) => {
                    let parts = parts.iter_mut().filter_map(Value::as_object_mut);
                    parts.for_each(|part| cut(part, type_.def(), kept, deep));
                }
                _ => {}
            }
        }
        true
    });
}

fn mark(body: &mut Map<String, Value>) {
    let Value::Object(meta) = body.entry("meta").or_insert_with(|| json!({})) else { return };
    if let Value::Array(tags) = meta.entry("tag").or_insert_with(|| json!([])) {
        let tag = json!({"system": SYSTEM, "code": SUBSETTED});
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
}

/// 422 for a resource that says itself that it is not whole: stored, it would lose the rest (R-027).
pub fn check_whole(resource: &Resource) -> Result<(), Error> {
    let tags = resource.at("meta").and_then(|meta| meta.get("tag")).and_then(Value::as_array);
    let part = tags.into_iter().flatten().any(|tag| {
        tag.get("code").is_some_and(|code| code == SUBSETTED)
            && tag.get("system").is_some_and(|system| system == SYSTEM)
    });
    if !part {
        return Ok(());
    }
    let text = "This is only part of the resource (SUBSETTED). Read it whole, change that, and send it.";
    Err(Error::refused(format!("{}.meta.tag", resource.kind()), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = r#"{"resourceType":"Task","id":"1","meta":{"versionId":"1"},"text":{"status":"generated","div":"<div/>"},"status":"requested","_status":{"id":"s"},"intent":"order","description":"x","for":{"reference":"Patient/1","display":"d"},"note":[{"text":"n"}],"input":[{"type":{"text":"t"},"valueString":"v"}]}"#;

    fn keys(asked: &str, text: &str) -> Vec<String> {
        let pairs = crate::fhir::query::pairs(Some(asked)).unwrap();
        let part: Value = serde_json::from_str(&Subset::asked(&pairs).unwrap().of(text).unwrap()).unwrap();
        assert_eq!(part["meta"]["tag"][0], json!({"system": SYSTEM, "code": "SUBSETTED"}), "{asked}");
        assert_eq!(part["meta"]["versionId"], "1", "{asked}");
        assert!(check_whole(&Resource::from_value(part.clone()).unwrap()).is_err());
        part.as_object().unwrap().keys().skip(3).cloned().collect()
    }

    // R-027, R-119
    #[test]
    fn a_part_holds_what_was_asked_for_and_what_must_be_there() {
        for (asked, expected) in [
            ("_summary=true", "status _status intent description for"),
            ("_summary=text", "text status _status intent"),
            ("_summary=data", "status _status intent description for note input"),
            ("_elements=note", "status _status intent note"),
            ("_elements=Task.input,nothing&_elements=for.display", "status _status intent for input"),
            ("_elements=Patient.note", "status _status intent"),
            ("_summary=true&_elements=note", "status _status intent description for"),
        ] {
            assert_eq!(keys(asked, TASK).join(" "), expected, "{asked}");
        }
        for whole in ["", "_summary=false", "_summary=count", "_elements=", "_summary=nonsense"] {
            assert_eq!(Subset::asked(&crate::fhir::query::pairs(Some(whole)).unwrap()), None, "{whole}");
        }
    }

    // R-119: parts have summary elements of their own.
    #[test]
    fn a_summary_goes_into_the_parts() {
        let patient = r#"{"resourceType":"Patient","id":"1","meta":{"versionId":"1"},"contact":[{"gender":"male"}],"link":[{"id":"l","other":{"reference":"Patient/2"},"type":"refer"}],"gender":"male"}"#;
        assert_eq!(keys("_summary=true", patient), ["link", "gender"]);
        assert!(
            Subset::Summary
                .of(patient)
                .unwrap()
                .contains(r#""link":[{"id":"l","other":{"reference":"Patient/2"},"type":"refer"}]"#)
        );
        assert!(check_whole(&Resource::stored(patient).unwrap()).is_ok());
    }
}
