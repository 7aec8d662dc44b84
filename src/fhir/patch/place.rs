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

/// The value at a place, to look at.
pub(super) fn at<'v>(root: &'v Value, place: &[Step]) -> Option<&'v Value> {
    place.iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

/// Where this very value stands.
pub(super) fn find(root: &Value, wanted: &Value) -> Option<Vec<Step>> {
    /// The steps from the value up to the root.
    fn below(value: &Value, wanted: &Value) -> Option<Vec<Step>> {
        if std::ptr::eq(value, wanted) {
            return Some(Vec::new());
        }
        let with = |mut steps: Vec<Step>, step: Step| {
            steps.push(step);
            steps
        };
        match value {
            Value::Object(map) => map
                .iter()
                .find_map(|(key, child)| below(child, wanted).map(|steps| with(steps, Step::Key(key.clone())))),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, child)| below(child, wanted).map(|steps| with(steps, Step::Index(index)))),
            _ => None,
        }
    }
    let mut steps = below(root, wanted)?;
    steps.reverse();
    Some(steps)
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
