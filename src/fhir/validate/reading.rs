//! Reading JSON objects as elements: what is there, as text, as a list, as codings. Reads only; never copies.

use serde_json::{Map, Value};

/// Whether the element is there: with a value, or with extensions alone (`_name`).
pub(super) fn has(map: &Map<String, Value>, name: &str) -> bool {
    map.contains_key(name) || map.keys().any(|key| key.strip_prefix('_').is_some_and(|bare| bare == name))
}

/// Whether a choice is there in any type: `value` as `valueString` or `_valueString`.
pub(super) fn any(map: &Map<String, Value>, name: &str) -> bool {
    map.keys().any(|key| {
        let bare = key.strip_prefix('_').unwrap_or(key);
        bare.strip_prefix(name).is_some_and(|type_| type_.starts_with(|c: char| c.is_ascii_uppercase()))
    })
}

/// The element as text.
pub(super) fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    map.get(name).and_then(Value::as_str)
}

/// The element as a number.
pub(super) fn number(map: &Map<String, Value>, name: &str) -> Option<f64> {
    map.get(name).and_then(Value::as_f64)
}

/// The element as an object.
pub(super) fn object<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Map<String, Value>> {
    map.get(name).and_then(Value::as_object)
}

/// The objects of an element, one or a list.
pub(super) fn items<'a>(map: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    each(map.get(name)).filter_map(Value::as_object)
}

/// The texts of an element, one or a list.
pub(super) fn texts_of<'a>(map: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a str> {
    each(map.get(name)).filter_map(Value::as_str)
}

/// One value, or those of a list.
pub(super) fn each(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let list = match value {
        Some(Value::Array(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    list.iter()
}

/// Whether one of the element's CodeableConcepts has one of these codes.
pub(super) fn coded(map: &Map<String, Value>, name: &str, system: &str, codes: &[&str]) -> bool {
    items(map, name).flat_map(|concept| items(concept, "coding")).any(|coding| {
        text(coding, "system") == Some(system) && text(coding, "code").is_some_and(|code| codes.contains(&code))
    })
}
