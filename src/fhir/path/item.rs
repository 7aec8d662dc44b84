//! What a path finds: elements of a resource with their types, and the values that are made of them.
//!
//! An element keeps its place in the resource: its JSON, what stands beside it (`_status`), its type from
//! [`definitions`]. Nothing is copied until it is worked with. <https://hl7.org/fhir/R4/fhirpath.html#types>

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use super::date::{Moment, Shape};
use super::decimal::Decimal;
use super::quantity::Quantity;
use crate::fhir::definitions::{self, TypeDef};

/// One item of a collection.
#[derive(Debug, Clone)]
pub enum Item<'a> {
    /// An element of a resource.
    Node(Node<'a>),
    /// What a reference points at, of this type, when it isn't here.
    Elsewhere(&'static TypeDef),
    /// true, false
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number with places.
    Decimal(Decimal),
    /// A string.
    Text(Cow<'a, str>),
    /// A date, dateTime or time.
    Moment(Moment),
    /// A number with a unit.
    Quantity(Quantity),
}

/// An element of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its JSON; none for a primitive that has extensions only.
    pub value: Option<&'a Value>,
    /// What stands beside a primitive: its id and extensions.
    pub beside: Option<&'a Value>,
    /// Its type, where the tables know it.
    pub def: Option<&'static TypeDef>,
}

impl<'a> Item<'a> {
    /// A resource, by its own word for its type.
    pub fn resource(value: &'a Value) -> Self {
        Item::Node(Node { value: Some(value), beside: None, def: definition_of(value) })
    }

    /// An element of this type.
    pub fn element(value: Option<&'a Value>, beside: Option<&'a Value>, def: &'static TypeDef) -> Self {
        Item::Node(Node { value, beside, def: typed(def, value) })
    }

    /// The value that a primitive or a Quantity stands for; other elements stand for none.
    pub(super) fn atom(&self) -> Option<Item<'a>> {
        match self {
            Item::Node(node) => node.atom(),
            Item::Elsewhere(_) => None,
            other => Some(other.clone()),
        }
    }

    /// The elements of this name.
    pub(super) fn members(&self, name: &str, found: &mut Vec<Item<'a>>) {
        if let Item::Node(node) = self {
            node.members(name, found);
        }
    }

    /// All elements directly in it.
    pub(super) fn children(&self, found: &mut Vec<Item<'a>>) {
        if let Item::Node(node) = self {
            node.children(found);
        }
    }

    /// A number that equal items share. Unequal ones may share it too.
    pub(super) fn likeness(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match self.atom() {
            Some(Item::Text(text)) => text.hash(&mut hasher),
            Some(Item::Boolean(flag)) => flag.hash(&mut hasher),
            Some(Item::Integer(number)) => Decimal::from(number).key().hash(&mut hasher),
            Some(Item::Decimal(number)) => number.key().hash(&mut hasher),
            Some(Item::Moment(_) | Item::Quantity(_)) => 1.hash(&mut hasher),
            Some(Item::Node(_) | Item::Elsewhere(_)) | None => {
                if let Item::Node(Node { value: Some(Value::Object(map)), .. }) = self {
                    alike(map, &mut hasher);
                }
            }
        }
        hasher.finish()
    }
}

/// An object's texts, whatever the order of its keys.
fn alike(map: &Map<String, Value>, hasher: &mut DefaultHasher) {
    let mut sum = map.len() as u64;
    for (key, value) in map {
        if let Value::String(text) = value {
            let mut own = DefaultHasher::new();
            (key, text).hash(&mut own);
            sum = sum.wrapping_add(own.finish());
        }
    }
    sum.hash(hasher);
}

fn definition_of(value: &Value) -> Option<&'static TypeDef> {
    definitions::resource(value.get("resourceType")?.as_str()?)
}

/// The type of a value where `def` is declared: a resource inside another says itself which it is.
fn typed(def: &'static TypeDef, value: Option<&Value>) -> Option<&'static TypeDef> {
    if def.name == "Resource" || def.name == "DomainResource" { value.and_then(definition_of) } else { Some(def) }
}

impl<'a> Node<'a> {
    fn object(&self) -> Option<&'a Map<String, Value>> {
        self.value.and_then(Value::as_object)
    }

    fn atom(&self) -> Option<Item<'a>> {
        let name = self.def.map_or("", |def| def.name);
        match self.value? {
            Value::Bool(flag) => Some(Item::Boolean(*flag)),
            Value::Number(number) => {
                let text = number.as_str();
                let whole = if name == "decimal" { None } else { text.parse().ok().map(Item::Integer) };
                whole.or_else(|| Decimal::parse(text).map(Item::Decimal))
            }
            Value::String(text) => {
                let moment = match name {
                    "date" => Moment::date(text),
                    "dateTime" | "instant" => Moment::date_time(text),
                    "time" => Moment::time(text),
                    _ => None,
                };
                Some(moment.map_or(Item::Text(Cow::Borrowed(text)), Item::Moment))
            }
            value @ Value::Object(_) if self.def.is_some_and(|def| def.is("Quantity")) => {
                Quantity::of(value).map(Item::Quantity)
            }
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Its text as it stands in the resource, if it is a string.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.value.and_then(Value::as_str)
    }

    /// Whether it is a primitive with a value.
    pub(super) fn has_value(&self) -> bool {
        self.value.is_some_and(|value| !value.is_object() && !value.is_null())
    }

    fn members(&self, name: &str, found: &mut Vec<Item<'a>>) {
        let Some(map) = self.object() else {
            // A primitive has its id and extensions beside it.
            if let Some(Value::Object(beside)) = self.beside {
                let def = element_type().and_then(|def| def.element(name)).and_then(|element| element.types.first());
                if let Some(def) = def {
                    expand(beside.get(name), None, Some(def.def()), found);
                }
            }
            return;
        };
        let Some(def) = self.def else { return untyped(map, name, found) };
        match def.element(name) {
            Some(element) if element.choice => {
                // The JSON key carries the type: value is found as valueString.
                let keys = map.keys().map(|key| key.strip_prefix('_').unwrap_or(key));
                let fitting = keys.filter(|key| key.starts_with(name));
                let mut seen: Option<&str> = None;
                for key in fitting {
                    if let Some((its, type_)) = def.element_for_json_key(key)
                        && its.name == name
                        && seen != Some(key)
                    {
                        seen = Some(key);
                        expand(map.get(key), map.get(&format!("_{key}")), Some(type_.def()), found);
                    }
                }
            }
            Some(element) => {
                let def = element.types.first().map(|type_| type_.def());
                expand(map.get(name), map.get(&format!("_{name}")), def, found);
            }
            // valueString is no FHIRPath for value as a string, but some guides write it.
            None => {
                if let Some((_, type_)) = def.element_for_json_key(name) {
                    expand(map.get(name), map.get(&format!("_{name}")), Some(type_.def()), found);
                }
            }
        }
    }

    fn children(&self, found: &mut Vec<Item<'a>>) {
        let Some(map) = self.object() else {
            self.members("id", found);
            self.members("extension", found);
            return;
        };
        for (key, value) in map {
            let (name, value, beside) = match key.strip_prefix('_') {
                Some(name) if map.contains_key(name) => continue,
                Some(name) => (name, None, Some(value)),
                None => (key.as_str(), Some(value), map.get(&format!("_{key}"))),
            };
            if name == "resourceType" && self.def.is_none_or(|def| def.is("Resource")) {
                continue;
            }
            let def = self.def.and_then(|def| def.element_for_json_key(name)).map(|(_, type_)| type_.def());
            expand(value, beside, def, found);
        }
    }
}

fn element_type() -> Option<&'static TypeDef> {
    definitions::of("Element")
}

/// An element of something whose type the tables don't know.
fn untyped<'a>(map: &'a Map<String, Value>, name: &str, found: &mut Vec<Item<'a>>) {
    if map.contains_key(name) || map.contains_key(&format!("_{name}")) {
        return expand(map.get(name), map.get(&format!("_{name}")), None, found);
    }
    for (key, value) in map {
        let Some(suffix) = key.strip_prefix(name) else { continue };
        let lower = suffix.get(..1).map(str::to_ascii_lowercase).unwrap_or_default() + suffix.get(1..).unwrap_or("");
        let def = definitions::of(suffix).or_else(|| definitions::of(&lower));
        if suffix.starts_with(|c: char| c.is_ascii_uppercase()) && def.is_some() {
            expand(Some(value), map.get(&format!("_{key}")), def, found);
        }
    }
}

/// The items of a JSON value: those of a list one by one, each with what stands beside it.
fn expand<'a>(
    value: Option<&'a Value>,
    beside: Option<&'a Value>,
    def: Option<&'static TypeDef>,
    found: &mut Vec<Item<'a>>,
) {
    let mut push = |value: Option<&'a Value>, beside: Option<&'a Value>| {
        let (value, beside) = (value.filter(|value| !value.is_null()), beside.filter(|beside| !beside.is_null()));
        if value.is_some() || beside.is_some() {
            let def = match def {
                Some(def) => typed(def, value),
                None => value.and_then(definition_of),
            };
            found.push(Item::Node(Node { value, beside, def }));
        }
    };
    match (value, beside) {
        (Some(Value::Array(items)), beside) => {
            let beside = beside.and_then(Value::as_array);
            for index in 0..items.len().max(beside.map_or(0, Vec::len)) {
                push(items.get(index), beside.and_then(|beside| beside.get(index)));
            }
        }
        (None, Some(Value::Array(beside))) => beside.iter().for_each(|beside| push(None, Some(beside))),
        (value, beside) => push(value, beside),
    }
}

/// How a value is written as a string; elements that hold others are not.
pub(super) fn shown(item: &Item<'_>) -> Option<String> {
    if let Item::Node(node) = item
        && let Some(text) = node.text()
    {
        return Some(text.to_string());
    }
    match item.atom()? {
        Item::Boolean(flag) => Some(flag.to_string()),
        Item::Integer(number) => Some(number.to_string()),
        Item::Decimal(number) => Some(number.to_string()),
        Item::Text(text) => Some(text.into_owned()),
        Item::Moment(moment) => Some(moment.to_string()),
        Item::Quantity(quantity) => Some(format!("{} {}", quantity.value, quantity.unit.shown())),
        Item::Node(_) | Item::Elsewhere(_) => None,
    }
}

/// Whether a FHIRPath type of its own has this name, and the FHIR primitives that are read as it.
pub(super) const SYSTEM: &[(&str, &[&str])] = &[
    ("Boolean", &["boolean"]),
    ("String", &["string", "uri", "base64Binary", "xhtml"]),
    ("Integer", &["integer"]),
    ("Decimal", &["decimal"]),
    ("Date", &["date"]),
    ("DateTime", &["dateTime", "instant"]),
    ("Time", &["time"]),
    ("Quantity", &["Quantity"]),
];

/// The name of the FHIRPath type that a value has.
pub(super) fn system_name(item: &Item<'_>) -> Option<&'static str> {
    Some(match item {
        Item::Boolean(_) => "Boolean",
        Item::Integer(_) => "Integer",
        Item::Decimal(_) => "Decimal",
        Item::Text(_) => "String",
        Item::Moment(moment) => match moment.shape() {
            Shape::Date => "Date",
            Shape::DateTime => "DateTime",
            Shape::Time => "Time",
        },
        Item::Quantity(_) => "Quantity",
        Item::Node(_) | Item::Elsewhere(_) => return None,
    })
}
