//! Places in a resource's JSON, and the types the tables have there.

use serde_json::{Map, Value};

use crate::fhir::definitions::{self, TypeDef};

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The value at a place.
pub(super) fn at_mut<'v>(root: &'v mut Value, place: &[Step]) -> Option<&'v mut Value> {
    place.iter().try_fold(root, |value, step| match (value, step) {
        (Value::Object(map), Step::Key(key)) => map.get_mut(key),
        (Value::Array(items), Step::Index(index)) => items.get_mut(*index),
        _ => None,
    })
}

/// The object at a place.
pub(super) fn object_at<'v>(root: &'v mut Value, place: &[Step]) -> Option<&'v mut Map<String, Value>> {
    at_mut(root, place)?.as_object_mut()
}

/// Where this very value stands.
pub(super) fn find(root: &Value, wanted: &Value) -> Option<Vec<Step>> {
    fn below(value: &Value, wanted: &Value, place: &mut Vec<Step>) -> bool {
        if std::ptr::eq(value, wanted) {
            return true;
        }
        let children: Box<dyn Iterator<Item = (Step, &Value)>> = match value {
            Value::Object(map) => Box::new(map.iter().map(|(key, value)| (Step::Key(key.clone()), value))),
            Value::Array(items) => Box::new(items.iter().enumerate().map(|(index, value)| (Step::Index(index), value))),
            _ => return false,
        };
        for (step, child) in children {
            place.push(step);
            if below(child, wanted, place) {
                return true;
            }
            place.pop();
        }
        false
    }
    let mut place = Vec::new();
    below(root, wanted, &mut place).then_some(place)
}

/// The type of what stands at a place, as the tables have it.
pub(super) fn type_at(root: &Value, place: &[Step]) -> Option<&'static TypeDef> {
    let mut value = root;
    let mut def = resource(root)?;
    for step in place {
        match step {
            Step::Index(index) => value = value.get(index).unwrap_or(&Value::Null),
            Step::Key(key) => {
                value = value.get(key).unwrap_or(&Value::Null);
                def = match key.strip_prefix('_') {
                    // What stands beside a primitive.
                    Some(_) => definitions::of("Element")?,
                    None => def.element_for_json_key(key)?.1.def(),
                };
            }
        }
        if def.name == "Resource" && value.is_object() {
            def = resource(value)?;
        }
    }
    Some(def)
}

fn resource(value: &Value) -> Option<&'static TypeDef> {
    definitions::resource(value.get("resourceType")?.as_str()?)
}
