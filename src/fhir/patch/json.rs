//! JSON Patch. Keys keep their order; numbers are compared by value.
//!
//! <https://www.rfc-editor.org/rfc/rfc6902>, <https://www.rfc-editor.org/rfc/rfc6901>

use serde_json::Value;

use super::{MOST_OPERATIONS, check_depth};
use crate::error::Error;
use crate::fhir::path::same_json;

/// Most that one patch copies, in bytes of JSON.
const MOST_COPIED: usize = 1 << 20;

/// What an operation does.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    Add(Value),
    Remove,
    Replace(Value),
    Move(Pointer),
    Copy(Pointer),
    Test(Value),
}

/// The keys and indexes of a JSON Pointer.
type Pointer = Vec<String>;

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operation {
    act: Act,
    path: Pointer,
}

/// Reads the operations.
pub(super) fn read(value: Value) -> Result<Vec<Operation>, Error> {
    let Value::Array(items) = value else { return Err(Error::malformed("A JSON Patch is a list of operations.")) };
    if items.len() > MOST_OPERATIONS {
        return Err(
            Error::malformed(format!("A patch has at most {MOST_OPERATIONS} operations here.")).code("too-costly")
        );
    }
    let read = |(index, item): (usize, Value)| {
        operation(item).map_err(|why| Error::malformed(format!("Operation {} of the patch: {why}", index + 1)))
    };
    items.into_iter().enumerate().map(read).collect()
}

fn operation(mut item: Value) -> Result<Operation, &'static str> {
    let pointer = |name: &str| item.get(name).and_then(Value::as_str).map(pointer);
    let path = pointer("path").flatten().ok_or("it has a path, which is a JSON Pointer.")?;
    let from = pointer("from").flatten().ok_or("it has a from, which is a JSON Pointer.");
    let act = item.get("op").and_then(Value::as_str).unwrap_or("").to_string();
    let value = item.as_object_mut().and_then(|map| map.shift_remove("value")).ok_or("it has a value.");
    let act = match act.as_str() {
        "add" => Act::Add(value?),
        "remove" => Act::Remove,
        "replace" => Act::Replace(value?),
        "move" => Act::Move(from?),
        "copy" => Act::Copy(from?),
        "test" => Act::Test(value?),
        _ => return Err("its op is add, remove, replace, move, copy or test."),
    };
    Ok(Operation { act, path })
}

fn pointer(text: &str) -> Option<Pointer> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let key = |part: &str| {
        let mut rest = part;
        while let Some((_, after)) = rest.split_once('~') {
            rest = after.strip_prefix(['0', '1'])?;
        }
        Some(part.replace("~1", "/").replace("~0", "~"))
    };
    text.strip_prefix('/')?.split('/').map(key).collect()
}

/// Applies them; `name` is the resource's type.
pub(super) fn apply(operations: &[Operation], root: &mut Value, name: &str, deepest: usize) -> Result<(), Error> {
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        let done = act(operation, root, &mut copied)
            .and_then(|()| check_depth(root, deepest).map_err(|why| ("too-long", why)));
        done.map_err(|(code, why)| {
            let text =
                format!("Operation {} of the patch ({}): {why} Nothing was changed.", index + 1, operation.act.name());
            Error::invalid(expression(name, &operation.path), text).code(code)
        })?;
    }
    Ok(())
}

/// An issue's code, and what is wrong.
type Why = (&'static str, &'static str);

const NOT_FOUND: Why = ("not-found", "its path finds nothing.");

fn act(operation: &Operation, root: &mut Value, copied: &mut usize) -> Result<(), Why> {
    let path = operation.path.as_slice();
    match &operation.act {
        Act::Add(value) => add(root, path, value.clone()),
        Act::Remove => remove(root, path).map(|_| ()),
        Act::Replace(value) => {
            *at_mut(root, path).ok_or(NOT_FOUND)? = value.clone();
            Ok(())
        }
        Act::Move(from) => {
            if path.len() > from.len() && path.starts_with(from) {
                return Err(("invalid", "nothing is moved into itself."));
            }
            let value = remove(root, from).map_err(|_| ("not-found", "its from finds nothing."))?;
            add(root, path, value)
        }
        Act::Copy(from) => {
            let value = at_mut(root, from).ok_or(("not-found", "its from finds nothing."))?.clone();
            *copied += value.to_string().len();
            if *copied > MOST_COPIED {
                return Err(("too-costly", "the patch copies more than this server takes."));
            }
            add(root, path, value)
        }
        Act::Test(value) => {
            let found = at_mut(root, path).ok_or(NOT_FOUND)?;
            if same_json(found, value) {
                Ok(())
            } else {
                Err(("conflict", "the test fails: another value stands there."))
            }
        }
    }
}

/// An index of a list: digits without a zero before them.
fn index(text: &str) -> Option<usize> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { text.parse().ok() } else { None }
}

fn at_mut<'v>(root: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(root, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(items) => items.get_mut(index(step)?),
        _ => None,
    })
}

fn add(root: &mut Value, path: &[String], value: Value) -> Result<(), Why> {
    let Some((last, above)) = path.split_last() else {
        *root = value;
        return Ok(());
    };
    match at_mut(root, above).ok_or(NOT_FOUND)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
            Ok(())
        }
        Value::Array(items) => {
            let place = if last == "-" { Some(items.len()) } else { index(last) };
            let place = place.filter(|place| *place <= items.len());
            items.insert(place.ok_or(("not-found", "its path names no place in the list."))?, value);
            Ok(())
        }
        _ => Err(NOT_FOUND),
    }
}

fn remove(root: &mut Value, path: &[String]) -> Result<Value, Why> {
    let Some((last, above)) = path.split_last() else {
        return Err(("invalid", "the whole resource is not removed by a patch."));
    };
    match at_mut(root, above).ok_or(NOT_FOUND)? {
        // shift_remove: the other keys stay in their order.
        Value::Object(map) => map.shift_remove(last).ok_or(NOT_FOUND),
        Value::Array(items) => match index(last).filter(|place| *place < items.len()) {
            Some(place) => Ok(items.remove(place)),
            None => Err(NOT_FOUND),
        },
        _ => Err(NOT_FOUND),
    }
}

/// The pointer as FHIRPath, as far as it looks like the path of an element: `/output/0/type` is `Task.output[0].type`.
fn expression(name: &str, path: &[String]) -> String {
    let mut text = name.to_string();
    for step in path {
        match index(step) {
            Some(index) => text.push_str(&format!("[{index}]")),
            None if step.len() <= 64
                && step.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !step.is_empty() =>
            {
                text.push('.');
                text.push_str(step);
            }
            None => break,
        }
    }
    text
}

impl Act {
    fn name(&self) -> &'static str {
        match self {
            Act::Add(_) => "add",
            Act::Remove => "remove",
            Act::Replace(_) => "replace",
            Act::Move(_) => "move",
            Act::Copy(_) => "copy",
            Act::Test(_) => "test",
        }
    }
}
