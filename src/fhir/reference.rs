//! References: what a `Reference.reference` points at, and rewriting all of a resource's references at once.
//!
//! Our own base written absolutely is the same as relative. `http` and `https` of one authority are one identity
//! . <https://hl7.org/fhir/R4/references.html>

use serde_json::{Map, Value};

use super::resource::{Key, Resource};

/// What a reference text points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A resource on this server.
    Local(Key),
    /// A resource elsewhere: base without trailing slash, then the key, without a version.
    Remote {
        /// `https://ehr.example/fhir`
        base: String,
        /// `Task/1`
        key: Key,
    },
    /// `#id`: inside the same resource.
    Contained(String),
    /// `urn:uuid:…` or `urn:oid:…`.
    Urn(String),
    /// Anything else: a logical URL, a type we don't know, a conditional reference.
    Other(String),
}

impl Reference {
    /// Reads a reference text; `own` is this server's base without trailing slash.
    pub fn parse(text: &str, own: &str) -> Reference {
        if let Some(id) = text.strip_prefix('#') {
            return Reference::Contained(id.to_string());
        }
        if text.starts_with("urn:") {
            return Reference::Urn(text.to_string());
        }
        if let Some(key) = Key::parse(text) {
            return Reference::Local(key);
        }
        match split_absolute(text) {
            Some((base, key)) if same_base(base, own) => Reference::Local(key),
            Some((base, key)) => Reference::Remote { base: base.to_string(), key },
            None => Reference::Other(text.to_string()),
        }
    }
}

/// Splits `https://x/fhir/Task/1` into base and key.
pub fn split_absolute(text: &str) -> Option<(&str, Key)> {
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return None;
    }
    let bare = text.split_once("/_history/").map_or(text, |(bare, _)| bare);
    let (front, id) = bare.rsplit_once('/')?;
    let (base, kind) = front.rsplit_once('/')?;
    Some((base, Key::parse(&format!("{kind}/{id}"))?))
}

/// Whether two bases are the same but for `http`/`https` and a trailing slash.
pub fn same_base(one: &str, other: &str) -> bool {
    fn bare(base: &str) -> &str {
        let base = base.trim_end_matches('/');
        base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")).unwrap_or(base)
    }
    bare(one) == bare(other)
}

/// Whether a URL lies under a base: the only URLs a partner's resources can make us fetch (design D2).
pub fn lies_under(url: &str, base: &str) -> bool {
    url.strip_prefix(base.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
        && !url.contains("/../")
        && !url.contains(['?', '#', '\\', '@', '%'])
}

/// Calls `change` with every `Reference.reference` text of a resource, contained resources included.
pub fn rewrite(resource: &mut Resource, change: &mut dyn FnMut(&str) -> Option<String>) {
    rewrite_map(resource.elements_mut(), change);
}

fn rewrite_map(map: &mut Map<String, Value>, change: &mut dyn FnMut(&str) -> Option<String>) {
    for (name, value) in map {
        match value {
            Value::String(text) if name == "reference" => {
                if let Some(new) = change(text) {
                    *text = new;
                }
            }
            other => rewrite_value(other, change),
        }
    }
}

fn rewrite_value(value: &mut Value, change: &mut dyn FnMut(&str) -> Option<String>) {
    match value {
        Value::Object(map) => rewrite_map(map, change),
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite_value(item, change)),
        _ => {}
    }
}

/// Every reference text of a resource, in order, repeats included.
pub fn all(resource: &Resource) -> Vec<String> {
    let mut found = Vec::new();
    resource.elements().values().for_each(|value| gather(value, &mut found));
    found
}

/// The same of JSON that may not be a resource.
pub fn texts(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    gather(value, &mut found);
    found
}

fn gather(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == "reference" => found.push(text.clone()),
                    other => gather(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
        _ => {}
    }
}

/// The FHIRPath of the first element with this reference.
pub fn path_of(resource: &Resource, text: &str) -> String {
    fn walk(value: &Value, text: &str, path: &str) -> Option<String> {
        match value {
            Value::Object(map) => {
                if map.get("reference").is_some_and(|its| its == text) {
                    return Some(path.to_string());
                }
                map.iter().find_map(|(name, value)| walk(value, text, &format!("{path}.{name}")))
            }
            Value::Array(items) => {
                items.iter().enumerate().find_map(|(index, item)| walk(item, text, &format!("{path}[{index}]")))
            }
            _ => None,
        }
    }
    let name = resource.kind().name();
    resource
        .elements()
        .iter()
        .find_map(|(element, value)| walk(value, text, &format!("{name}.{element}")))
        .unwrap_or_else(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OWN: &str = "https://hub.example/fhir";

    #[test]
    fn every_spelling_of_a_reference_is_told_apart() {
        let local = Reference::Local(Key::parse("Task/1").unwrap());
        for text in ["Task/1", "Task/1/_history/3", "https://hub.example/fhir/Task/1", "http://hub.example/fhir/Task/1"]
        {
            assert_eq!(Reference::parse(text, OWN), local, "{text}");
        }
        let key = Key::parse("Task/1").unwrap();
        assert_eq!(
            Reference::parse("https://ehr/fhir/Task/1/_history/2", OWN),
            Reference::Remote { base: "https://ehr/fhir".into(), key }
        );
        assert_eq!(Reference::parse("#p", OWN), Reference::Contained("p".into()));
        assert_eq!(Reference::parse("urn:uuid:1", OWN), Reference::Urn("urn:uuid:1".into()));
        for text in ["Consent/", "Patient?identifier=1", "mailto:x", "https://x"] {
            assert!(matches!(Reference::parse(text, OWN), Reference::Other(_)), "{text}");
        }
    }

    #[test]
    fn only_urls_below_the_base_are_ours_to_fetch() {
        let base = "https://ehr.example/fhir";
        assert!(lies_under("https://ehr.example/fhir/Patient/1", base));
        for bad in [
            "https://ehr.example/fhirx/Patient/1",
            "https://ehr.example.evil/fhir/Patient/1",
            "https://ehr.example/fhir",
            "https://ehr.example/fhir/../admin",
            "https://ehr.example/fhir/Patient/1?x=y",
            "http://ehr.example/fhir/Patient/1",
            "https://ehr.example/fhir/%2e%2e/x",
            "https://user@ehr.example/fhir/Patient/1",
        ] {
            assert!(!lies_under(bad, base), "{bad}");
        }
    }

    #[test]
    fn rewriting_reaches_nested_and_contained_references_and_no_other_text() {
        let mut task = Resource::from_value(json!({"resourceType":"Task","description":"Patient/1",
            "for":{"reference":"Patient/1"},"output":[{"valueReference":{"reference":"Procedure/2"}}],
            "contained":[{"resourceType":"Provenance","target":[{"reference":"Patient/1"}]}]}))
        .unwrap();
        assert_eq!(all(&task), ["Patient/1", "Procedure/2", "Patient/1"]);
        rewrite(&mut task, &mut |text| (text == "Patient/1").then(|| "Patient/9".to_string()));
        assert_eq!(all(&task), ["Patient/9", "Procedure/2", "Patient/9"]);
        assert_eq!(task.text_at("description"), Some("Patient/1"));
    }
}
