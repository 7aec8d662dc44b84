//! dom-2 to dom-5: what a resource contains. <https://hl7.org/fhir/R4/references.html#contained>

use serde_json::Value;

use super::reading::{each, has, object, text};
use super::walk::{Spot, Walk};

impl Walk<'_> {
    /// dom-2 to dom-5 of what is contained, seen from its holder.
    pub(super) fn contained(&mut self, spot: Spot<'_>) {
        let place = spot.place.at("contained");
        let list: Vec<&Value> = each(spot.map.get("contained")).collect();
        for (index, contained) in list.iter().enumerate() {
            let Some(body) = contained.as_object() else { continue };
            let place = place.nth(Some(index));
            let Some(id) = text(body, "id") else {
                self.rule("required", &place.at("id"), "What is contained has an id to refer to.");
                continue;
            };
            if list.iter().take(index).any(|other| other.get("id").and_then(Value::as_str) == Some(id)) {
                self.rule("value", &place.at("id"), "Two contained resources have the same id.");
            }
            let refers = |value: &Value| mentions(value, &|text| text.strip_prefix('#') == Some(id));
            if !spot.map.values().any(refers) && !mentions(contained, &|text| text == "#") {
                self.rule(
                    "invariant",
                    &place,
                    "What is contained is referred to by its holder, or refers to it (dom-3).",
                );
            }
        }
    }

    /// dom-2, dom-4 and dom-5 in what is contained.
    pub(super) fn as_contained(&mut self, spot: Spot<'_>) {
        if spot.map.contains_key("contained") {
            let text = "What is contained does not contain resources of its own (dom-2).";
            self.rule("invariant", &spot.place.at("contained"), text);
        }
        let Some(meta) = object(spot.map, "meta") else { return };
        let place = spot.place.at("meta");
        for name in ["versionId", "lastUpdated"] {
            if has(meta, name) {
                self.rule("invariant", &place.at(name), "What is contained has no version of its own (dom-4).");
            }
        }
        if has(meta, "security") {
            self.rule(
                "invariant",
                &place.at("security"),
                "What is contained has no security label of its own (dom-5).",
            );
        }
    }
}

fn mentions(value: &Value, is: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(list) => list.iter().any(|item| mentions(item, is)),
        Value::Object(map) => map.values().any(|item| mentions(item, is)),
        _ => false,
    }
}
