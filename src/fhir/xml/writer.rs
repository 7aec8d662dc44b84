//! JSON into XML: elements in the standard's order, whatever order JSON had.
//!
//! Promises well-formed XML for any resource, also for one that validation never saw (a copy from a partner): elements
//! the tables don't know follow the known ones, by their JSON shape; characters that XML can't hold become U+FFFD; a
//! narrative that is no XHTML is shown as text. What is valid reads back as it was.

use serde_json::{Map, Value};

use super::{FHIR, is_char, is_name, narrative};
use crate::fhir::definitions::{self, Form, TypeDef};

/// The XML document of a resource.
pub fn write(resource: &Value) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    if let Value::Object(body) = resource {
        write_resource(&mut out, body, true);
    }
    out
}

/// An element named by the resource's type.
fn write_resource(out: &mut String, body: &Map<String, Value>, outermost: bool) {
    let name = body.get("resourceType").and_then(Value::as_str).filter(|name| is_name(name)).unwrap_or("Resource");
    out.push('<');
    out.push_str(name);
    if outermost {
        attribute(out, "xmlns", FHIR);
    }
    content(out, name, Some(body), definitions::resource(name));
}

/// What stands behind an element's name and its attributes: its children and its end.
fn content(out: &mut String, name: &str, body: Option<&Map<String, Value>>, def: Option<&'static TypeDef>) {
    let mark = out.len();
    out.push('>');
    if let Some(body) = body {
        children(out, body, def);
    }
    if out.len() == mark + 1 {
        out.truncate(mark);
        out.push_str("/>");
    } else {
        close(out, name);
    }
}

fn close(out: &mut String, name: &str) {
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// The children of an element, in the order of its type.
fn children(out: &mut String, body: &Map<String, Value>, def: Option<&'static TypeDef>) {
    let mut found = Vec::with_capacity(body.len());
    for key in body.keys() {
        let bare = key.strip_prefix('_').unwrap_or(key);
        // `_key` is written with its key.
        if !is_name(bare) || bare == "resourceType" || (bare.len() < key.len() && body.contains_key(bare)) {
            continue;
        }
        let place = def.and_then(|def| def.position_of_json_key(bare));
        found.push((place.unwrap_or((usize::MAX, 0)), bare));
    }
    found.sort_by_key(|(place, _)| *place);
    for ((number, type_), key) in found {
        let element = def.and_then(|def| def.elements().get(number));
        if element.is_some_and(|element| element.xml_attribute) {
            continue;
        }
        let def = element.and_then(|element| element.types.get(type_)).map(|type_| type_.def());
        let (value, extra) = (body.get(key), body.get(&format!("_{key}")));
        let count = |from: Option<&Value>| from.and_then(Value::as_array).map(Vec::len);
        match count(value).max(count(extra)) {
            None => one(out, key, value, extra, def),
            Some(many) => (0..many).for_each(|number| one(out, key, item(value, number), item(extra, number), def)),
        }
    }
}

fn item(list: Option<&Value>, number: usize) -> Option<&Value> {
    match list? {
        Value::Array(items) => items.get(number),
        single => (number == 0).then_some(single),
    }
}

/// One element: an object, or a primitive with what stands beside it.
fn one(out: &mut String, key: &str, value: Option<&Value>, extra: Option<&Value>, def: Option<&'static TypeDef>) {
    let is_narrative = def.is_some_and(|def| def.name == "xhtml");
    // A narrative has nothing beside it.
    let beside = extra.and_then(Value::as_object).filter(|_| !is_narrative);
    let (body, text) = match value {
        None | Some(Value::Null) => match beside {
            Some(beside) => (Some(beside), None),
            None => return,
        },
        Some(Value::Object(body)) => (Some(body), None),
        // A list in a list is no FHIR; its items are kept.
        Some(Value::Array(items)) => return items.iter().for_each(|item| one(out, key, Some(item), None, def)),
        Some(Value::String(text)) if is_narrative => {
            out.push_str(&narrative::written(text));
            return;
        }
        Some(Value::String(text)) => (beside, Some(text.clone())),
        Some(Value::Bool(flag)) => (beside, Some(flag.to_string())),
        Some(Value::Number(number)) => (beside, Some(number.to_string())),
    };
    out.push('<');
    out.push_str(key);
    // A resource in a resource has its own element within this one.
    if let Some(body) = body.filter(|body| body.contains_key("resourceType")) {
        out.push('>');
        write_resource(out, body, false);
        close(out, key);
        return;
    }
    let def = def.filter(|def| def.form != Form::Abstract);
    for name in ["id", "url"] {
        let is_attribute = def.is_some_and(|def| def.element(name).is_some_and(|element| element.xml_attribute));
        let text = body.and_then(|body| body.get(name)).and_then(Value::as_str);
        if let (true, Some(text)) = (is_attribute, text) {
            attribute(out, name, text);
        }
    }
    if let Some(text) = text {
        attribute(out, "value", &text);
    }
    content(out, key, body, def);
}

fn attribute(out: &mut String, name: &str, text: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    escape(out, text);
    out.push('"');
}

/// Text as it may stand in an attribute or between tags, and is read back as it was.
pub(super) fn escape(out: &mut String, text: &str) {
    for one in text.chars() {
        match one {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            one if is_char(one) => out.push(one),
            _ => out.push('\u{fffd}'),
        }
    }
}
