//! FHIRPath Patch. Where an element goes is found by [`crate::fhir::path`], how its JSON is named by the element tables.
//!
//! A primitive's id and extensions (`_status`) go where it goes. <https://hl7.org/fhir/R4/fhirpatch.html>

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::given::{Given, Why, add, edit_in, given, keys_of, made, named, set, why};
use super::place::{Step, at, find, object_at, type_at};
use super::{MOST_OPERATIONS, check_depth};
use crate::error::Error;
use crate::fhir::definitions::{self, Form};
use crate::fhir::path::{Context, Expression, Fault, Item};

/// What an operation does.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    Add(String, Given),
    Insert(usize, Given),
    Delete,
    Replace(Given),
    Move(usize, usize),
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operation {
    act: Act,
    path: Expression,
    /// Its place in Parameters.parameter.
    place: usize,
}

/// Reads the operations.
pub(super) fn read(value: &Value) -> Result<Vec<Operation>, Error> {
    if value.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        let text = "A patch is Parameters (FHIRPath Patch) or a JSON Patch as application/json-patch+json.";
        return Err(Error::malformed(text).at("resourceType"));
    }
    let items = value.get("parameter").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if items.len() > MOST_OPERATIONS {
        return Err(
            Error::malformed(format!("A patch has at most {MOST_OPERATIONS} operations here.")).code("too-costly")
        );
    }
    let read = |(place, item)| {
        operation(item, place).map_err(|why| {
            Error::malformed(format!("Operation {} of the patch: {why}", place + 1)).at(expression(place))
        })
    };
    items.iter().enumerate().map(read).collect()
}

fn expression(place: usize) -> String {
    format!("Parameters.parameter[{place}]")
}

fn operation(item: &Value, place: usize) -> Result<Operation, String> {
    if item.get("name").and_then(Value::as_str) != Some("operation") {
        return Err("a FHIRPath Patch has parameters named operation and no others.".into());
    }
    let part = |name: &str| {
        let mut parts = item.get("part").and_then(Value::as_array).into_iter().flatten();
        parts.find(|part| part.get("name").and_then(Value::as_str) == Some(name))
    };
    let text = |name: &str, keys: &[&str]| {
        let found = part(name).and_then(|part| keys.iter().find_map(|key| part.get(*key)?.as_str()));
        found.map(str::to_string).ok_or_else(|| format!("it has a part {name} with {}.", keys.join(" or ")))
    };
    let whole = |name: &str| {
        let found = part(name)
            .and_then(|part| part.get("valueInteger")?.as_u64())
            .and_then(|number| usize::try_from(number).ok());
        found.ok_or_else(|| format!("it has a part {name} with valueInteger."))
    };
    let value = || {
        part("value").and_then(|part| given(part, 0)).ok_or_else(|| "it has a part value with one value.".to_string())
    };
    let act = match text("type", &["valueCode", "valueString"])?.as_str() {
        "add" => Act::Add(text("name", &["valueString"])?, value()?),
        "insert" => Act::Insert(whole("index")?, value()?),
        "delete" => Act::Delete,
        "replace" => Act::Replace(value()?),
        "move" => Act::Move(whole("source")?, whole("destination")?),
        _ => return Err("its type is add, insert, delete, replace or move.".into()),
    };
    let path = text("path", &["valueString"])?;
    let path = Expression::parse(&path)
        .map_err(|fault| format!("its path is not understood: {}.", fault.to_string().trim_end_matches('.')))?;
    Ok(Operation { act, path, place })
}

/// Applies them.
pub(super) fn apply(operations: &[Operation], root: &mut Value, deepest: usize) -> Result<(), Error> {
    for operation in operations {
        let done =
            act(operation, root).and_then(|()| check_depth(root, deepest).map_err(|why| ("too-long", why.to_string())));
        done.map_err(|(code, why)| {
            let (number, name) = (operation.place + 1, operation.act.name());
            let text = format!("Operation {number} of the patch ({name}): {why} Nothing was changed.");
            Error::invalid(expression(operation.place), text).code(code)
        })?;
    }
    Ok(())
}

fn act(operation: &Operation, root: &mut Value) -> Result<(), Why> {
    let path = &operation.path;
    match &operation.act {
        Act::Add(name, value) => {
            let place = one(path, root)?;
            let mut def = type_at(root, &place).ok_or_else(nothing_there)?;
            if def.form != Form::Primitive {
                return add(object_at(root, &place).ok_or_else(nothing_there)?, def, name, value);
            }
            // A primitive has its id and extensions beside it.
            let (key, above) =
                above(&place).map_err(|_| why("structure", "a primitive in a list is replaced as a whole."))?;
            def = definitions::of("Element").ok_or_else(nothing_there)?;
            let map = object_at(root, above).ok_or_else(nothing_there)?;
            let beside = map.entry(format!("_{key}")).or_insert_with(|| Value::Object(Map::new()));
            add(beside.as_object_mut().ok_or_else(nothing_there)?, def, name, value)
        }
        Act::Insert(index, value) => {
            let list = place(path, root, Wanted::List)?.ok_or_else(nothing_there)?;
            let def = type_at(root, &list).ok_or_else(nothing_there)?;
            let (key, above) = above(&list)?;
            let (made, beside) = made(value, def)?;
            edit(root, above, &key, |items, others| {
                if *index > items.len() {
                    return Err(why("not-found", "its index lies behind the end of the list."));
                }
                items.insert(*index, made);
                others.insert(*index, beside);
                Ok(())
            })
        }
        Act::Delete => match place(path, root, Wanted::AtMostOne)? {
            None => Ok(()),
            Some(place) => delete(root, &place),
        },
        Act::Replace(value) => replace(root, &one(path, root)?, value),
        Act::Move(source, destination) => {
            let list = place(path, root, Wanted::List)?.ok_or_else(nothing_there)?;
            let (key, above) = above(&list)?;
            edit(root, above, &key, |items, others| {
                if *source >= items.len() || *destination >= items.len() {
                    return Err(why("not-found", "its source or destination lies behind the end of the list."));
                }
                let (item, other) = (items.remove(*source), others.remove(*source));
                items.insert(*destination, item);
                others.insert(*destination, other);
                Ok(())
            })
        }
    }
}

fn nothing_there() -> Why {
    why("not-found", "its path finds nothing that can be changed.")
}

/// How many elements a path is to find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    One,
    AtMostOne,
    /// Some of one list.
    List,
}

/// Most steps that finding them takes.
const MOST_STEPS: usize = 100_000;

/// Where the element stands that a path finds, or the list that it finds elements of.
fn place(path: &Expression, root: &Value, wanted: Wanted) -> Result<Option<Vec<Step>>, Why> {
    let context = Context { steps: MOST_STEPS, ..Context::new(root) };
    let found = path.evaluate(&context, Item::resource(root)).map_err(|fault| match fault {
        Fault::NotSupported(_) | Fault::NotKnown(_) => {
            ("not-supported", format!("its path can't be followed: {fault}."))
        }
        Fault::TooCostly => ("too-costly", format!("its path can't be followed: {fault}.")),
        Fault::Syntax { .. } | Fault::Mismatch(_) => ("invalid", format!("its path can't be followed: {fault}")),
    })?;
    let Some(first) = found.first() else {
        return match wanted {
            Wanted::One => Err(why("not-found", "its path finds nothing.")),
            Wanted::AtMostOne => Ok(None),
            Wanted::List => Err(why("not-found", "its path finds nothing; an element that is not there yet is added.")),
        };
    };
    if wanted != Wanted::List && found.len() > 1 {
        return Err(why("multiple-matches", "its path finds several elements; it must find one."));
    }
    let foreign = || why("invalid", "its path finds something that is no element of this resource.");
    let mut place = located(root, first).ok_or_else(foreign)?;
    if wanted == Wanted::List {
        let no_list = || why("invalid", "its path finds no list.");
        let Some(Step::Index(_)) = place.pop() else { return Err(no_list()) };
        let (key, above) = above(&place)?;
        let owner = at(root, above).ok_or_else(no_list)?;
        let items = [key.clone(), format!("_{key}")].map(|key| owner.get(key).and_then(Value::as_array));
        let own: HashSet<*const Value> = items.into_iter().flatten().flatten().map(std::ptr::from_ref).collect();
        let within = |item: &Item<'_>| value_of(item).is_some_and(|value| own.contains(&std::ptr::from_ref(value)));
        if !found.iter().all(within) {
            return Err(no_list());
        }
    }
    Ok(Some(place))
}

fn one(path: &Expression, root: &Value) -> Result<Vec<Step>, Why> {
    place(path, root, Wanted::One)?.ok_or_else(nothing_there)
}

/// An element's JSON; of a primitive with extensions only, what would stand beside it.
fn value_of<'a>(item: &Item<'a>) -> Option<&'a Value> {
    match item {
        Item::Node(node) => node.value.or(node.beside),
        _ => None,
    }
}

fn located(root: &Value, item: &Item<'_>) -> Option<Vec<Step>> {
    let mut place = find(root, value_of(item)?)?;
    if matches!(item, Item::Node(node) if node.value.is_none()) {
        let last = place.iter_mut().rev().find_map(|step| match step {
            Step::Key(key) => Some(key),
            Step::Index(_) => None,
        })?;
        *last = last.strip_prefix('_')?.to_string();
    }
    Some(place)
}

/// The key at the end of a place, and the object that has it.
fn above(place: &[Step]) -> Result<(String, &[Step]), Why> {
    match place.split_last() {
        Some((Step::Key(key), above)) => Ok((key.clone(), above)),
        _ => Err(why("invalid", "its path finds the resource itself.")),
    }
}

/// Changes a list together with what stands beside its primitives.
fn edit(
    root: &mut Value,
    above: &[Step],
    key: &str,
    change: impl FnOnce(&mut Vec<Value>, &mut Vec<Value>) -> Result<(), Why>,
) -> Result<(), Why> {
    edit_in(object_at(root, above).ok_or_else(nothing_there)?, key, change)
}

fn delete(root: &mut Value, place: &[Step]) -> Result<(), Why> {
    let emptied = match place.split_last() {
        None => return Err(why("invalid", "its path finds the resource itself.")),
        Some((Step::Index(index), list)) => {
            let (key, above) = above(list)?;
            edit(root, above, &key, |items, others| {
                items.remove(*index);
                others.remove(*index);
                Ok(())
            })?;
            above
        }
        Some((Step::Key(key), above)) => {
            let map = object_at(root, above).ok_or_else(nothing_there)?;
            map.shift_remove(key);
            map.shift_remove(&format!("_{key}"));
            above
        }
    };
    // An element is never empty: what is left with nothing goes, too.
    match object_at(root, emptied) {
        Some(map) if map.is_empty() && !emptied.is_empty() => delete(root, emptied),
        _ => Ok(()),
    }
}

fn replace(root: &mut Value, place: &[Step], given: &Given) -> Result<(), Why> {
    match place.split_last() {
        None => Err(why("invalid", "its path finds the resource itself.")),
        Some((Step::Index(index), list)) => {
            let def = type_at(root, place).ok_or_else(nothing_there)?;
            let (value, beside) = made(given, def)?;
            let (key, above) = above(list)?;
            edit(root, above, &key, |items, others| {
                items[*index] = value;
                others[*index] = beside;
                Ok(())
            })
        }
        Some((Step::Key(key), above)) => {
            let owner = type_at(root, above).ok_or_else(nothing_there)?;
            let element = owner.element_for_json_key(key).ok_or_else(nothing_there)?.0.name;
            let named = named(owner, element, given)?;
            let (value, beside) = made(given, named.def)?;
            let map = object_at(root, above).ok_or_else(nothing_there)?;
            let hidden = format!("_{}", named.key);
            for other in keys_of(map, owner, element).iter().filter(|other| **other != named.key && **other != hidden) {
                map.shift_remove(other);
            }
            set(map, &named.key, value);
            set(map, &hidden, beside);
            Ok(())
        }
    }
}

impl Act {
    fn name(&self) -> &'static str {
        match self {
            Act::Add(..) => "add",
            Act::Insert(..) => "insert",
            Act::Delete => "delete",
            Act::Replace(_) => "replace",
            Act::Move(..) => "move",
        }
    }
}
