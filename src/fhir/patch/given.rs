//! A value as Parameters give it, and the JSON it becomes where it is put.
//!
//! How an element's JSON is named, and whether it is a list, the element tables tell.
//! <https://hl7.org/fhir/R4/fhirpatch.html#operation>

use serde_json::{Map, Value};

use crate::fhir::definitions::TypeDef;

/// An issue's code, and what is wrong.
pub(super) type Why = (&'static str, String);

pub(super) fn why(code: &'static str, text: &str) -> Why {
    (code, text.to_string())
}

/// A value as Parameters give it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given {
    /// `valueCode`: the type behind `value`, the value, and what stands beside it (`_valueCode`).
    Value(String, Option<Value>, Option<Value>),
    /// A resource.
    Resource(Value),
    /// An element that has no type of its own: its elements by name.
    Parts(Vec<(String, Given)>),
}

/// Deepest nesting of parts.
const DEEPEST_PARTS: usize = 20;

pub(super) fn given(part: &Value, depth: usize) -> Option<Given> {
    let map = part.as_object()?;
    if let Some(parts) = map.get("part").filter(|_| depth < DEEPEST_PARTS) {
        let read = |part: &Value| Some((part.get("name")?.as_str()?.to_string(), given(part, depth + 1)?));
        return parts.as_array()?.iter().map(read).collect::<Option<Vec<_>>>().map(Given::Parts);
    }
    if let Some(resource) = map.get("resource") {
        return Some(Given::Resource(resource.clone()));
    }
    let mut keys = map.keys().filter_map(|key| key.strip_prefix('_').unwrap_or(key).strip_prefix("value"));
    let type_ = keys.next()?.to_string();
    if keys.any(|other| other != type_) {
        return None;
    }
    let value = map.get(&format!("value{type_}")).cloned();
    let beside = map.get(&format!("_value{type_}")).cloned();
    Some(Given::Value(type_, value, beside))
}

/// An element of a type, as it holds a value.
pub(super) struct Named {
    /// `value`
    pub(super) element: &'static str,
    /// `valueCode`
    pub(super) key: String,
    pub(super) def: &'static TypeDef,
    pub(super) is_list: bool,
}

pub(super) fn named(owner: &'static TypeDef, name: &str, given: &Given) -> Result<Named, Why> {
    let key = match (owner.element(name), given) {
        (Some(element), Given::Value(type_, ..)) if element.choice => format!("{name}{type_}"),
        _ => name.to_string(),
    };
    let (element, type_) = owner.element_for_json_key(&key).ok_or_else(|| match owner.element(name) {
        Some(_) => why("structure", "the element of the given name does not take a value of this type."),
        None => why("structure", "there is no element of the given name here."),
    })?;
    Ok(Named { element: element.name, key, def: type_.def(), is_list: element.is_list() })
}

/// The value as JSON, and what stands beside it; null where there is none.
pub(super) fn made(given: &Given, def: &'static TypeDef) -> Result<(Value, Value), Why> {
    let or_null = |value: &Option<Value>| value.clone().unwrap_or(Value::Null);
    match given {
        Given::Value(_, value, beside) => Ok((or_null(value), or_null(beside))),
        Given::Resource(value) => Ok((value.clone(), Value::Null)),
        Given::Parts(parts) => {
            let mut map = Map::new();
            for (name, given) in parts {
                add(&mut map, def, name, given)?;
            }
            Ok((Value::Object(map), Value::Null))
        }
    }
}

pub(super) fn add(
    target: &mut Map<String, Value>,
    owner: &'static TypeDef,
    name: &str,
    given: &Given,
) -> Result<(), Why> {
    let named = named(owner, name, given)?;
    let (value, beside) = made(given, named.def)?;
    if named.is_list {
        return edit_in(target, &named.key, |items, others| {
            items.push(value);
            others.push(beside);
            Ok(())
        });
    }
    if !keys_of(target, owner, named.element).is_empty() {
        return Err(why("conflict", "the element is there already; replace it."));
    }
    set(target, &named.key, value);
    set(target, &format!("_{}", named.key), beside);
    Ok(())
}

/// The JSON keys that an element has in an object: `status` and `_status`, or `valueString`.
pub(super) fn keys_of(map: &Map<String, Value>, owner: &'static TypeDef, name: &str) -> Vec<String> {
    let is = |key: &&String| {
        let bare = key.strip_prefix('_').unwrap_or(key);
        owner.element_for_json_key(bare).is_some_and(|(element, _)| element.name == name)
    };
    map.keys().filter(is).cloned().collect()
}

pub(super) fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    if value.is_null() {
        map.shift_remove(key);
    } else {
        map.insert(key.to_string(), value);
    }
}

pub(super) fn edit_in(
    map: &mut Map<String, Value>,
    key: &str,
    change: impl FnOnce(&mut Vec<Value>, &mut Vec<Value>) -> Result<(), Why>,
) -> Result<(), Why> {
    let hidden = format!("_{key}");
    let mut items = taken(map, key)?;
    let mut others = taken(map, &hidden)?;
    let most = items.len().max(others.len());
    items.resize(most, Value::Null);
    others.resize(most, Value::Null);
    change(&mut items, &mut others)?;
    let list = |items: Vec<Value>, kept: bool| if kept { Value::Array(items) } else { Value::Null };
    let (any, beside) = (!items.is_empty(), others.iter().any(|other| !other.is_null()));
    set(map, key, list(items, any));
    set(map, &hidden, list(others, beside));
    Ok(())
}

pub(super) fn taken(map: &mut Map<String, Value>, key: &str) -> Result<Vec<Value>, Why> {
    match map.get_mut(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(std::mem::take(items)),
        Some(_) => Err(why("invalid", "its path finds no list.")),
    }
}
