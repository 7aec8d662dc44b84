//! XML into JSON: one pass over the events, guided by the element tables.
//!
//! Promises for any bytes: an error, or the JSON of one resource whose elements all stand in the tables; bounded as JSON
//! is (depth, string length; attributes by [`MOST_ATTRIBUTES`]). Errors tell line, column and element, never a value.
//! Leaves cardinalities, codes and the order of elements to validation.

use quick_xml::errors::Error as Fault;
use quick_xml::events::{BytesDecl, BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::{NsReader, XmlVersion};
use serde_json::{Map, Number, Value};

use super::narrative;
use super::{FHIR, XHTML, is_char, is_name};
use crate::error::{Error, Kind};
use crate::fhir::definitions::{self, Element, Form, TypeDef};
use crate::fhir::json::{Bounds, DEEPEST};

/// Most attributes of one element, declarations of namespaces included.
pub(super) const MOST_ATTRIBUTES: usize = 64;
/// Where `schemaLocation` comes from, which many clients write on the root.
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Reads one resource. Errors are [`Kind::Malformed`] with line, column and element, or [`Kind::TooLarge`].
pub fn read(bytes: &[u8], bounds: Bounds) -> Result<Value, Error> {
    let text = decoded(bytes)?;
    let bounds = Bounds { depth: bounds.depth.min(DEEPEST), ..bounds };
    let mut reader = Reader { events: events(text), text, bounds, place: Vec::new(), began: 0 };
    reader.document()
}

/// The text of a document: UTF-8, with or without a byte-order mark.
fn decoded(bytes: &[u8]) -> Result<&str, Error> {
    let other = matches!(bytes, [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, b'<', ..] | [b'<', 0, ..]);
    let text = (!other).then(|| std::str::from_utf8(bytes).ok()).flatten();
    let text = text.ok_or_else(|| Error::malformed("XML is read in UTF-8 only; this is another encoding."))?;
    match text.find(|one| !is_char(one)) {
        Some(offset) => Err(fault(text, offset, "a character that XML does not allow")),
        None => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
    }
}

/// A reader of events that checks what it can: end tags match, comments hold no `--`.
pub(super) fn events(text: &str) -> NsReader<&[u8]> {
    let mut events = NsReader::from_str(text);
    events.config_mut().expand_empty_elements = true;
    events.config_mut().enable_all_checks(true);
    events
}

/// What is wrong, with its place in the text.
fn fault(text: &str, offset: usize, what: &str) -> Error {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    Error::malformed(format!("This is not the XML of one resource: {what} (line {line}, column {column})"))
}

/// Which of the namespaces a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Fhir,
    Xhtml,
    Other,
}

impl Space {
    pub(super) fn of(resolved: &ResolveResult) -> Space {
        match resolved {
            ResolveResult::Bound(Namespace(FHIR)) => Space::Fhir,
            ResolveResult::Bound(Namespace(XHTML)) => Space::Xhtml,
            ResolveResult::Bound(_) | ResolveResult::Unbound | ResolveResult::Unknown(_) => Space::Other,
        }
    }
}

/// What comes next inside an element: a child, or the element's end.
enum Next<'a> {
    Child(Space, BytesStart<'a>),
    End,
}

struct Reader<'a> {
    events: NsReader<&'a [u8]>,
    text: &'a str,
    bounds: Bounds,
    /// The elements we are in: name, and number where it repeats.
    place: Vec<(&'static str, Option<usize>)>,
    /// Where the last event began.
    began: usize,
}

/// The attributes that FHIR knows.
#[derive(Default)]
struct Attributes {
    id: Option<String>,
    url: Option<String>,
    value: Option<String>,
}

impl Attributes {
    fn is_empty(&self) -> bool {
        self.id.is_none() && self.url.is_none() && self.value.is_none()
    }
}

/// The occurrences of one JSON key: values beside what `_key` holds.
struct Field {
    key: String,
    list: bool,
    values: Vec<Value>,
    extras: Vec<Value>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Value, Error> {
        let (space, start) = loop {
            match self.event()? {
                (_, Event::Decl(declared)) if self.began == 0 => self.declaration(&declared)?,
                (_, Event::Text(text)) if is_blank(&text) => {}
                (_, Event::Comment(_) | Event::PI(_)) => {}
                (space, Event::Start(start)) => break (space, start),
                (_, Event::DocType(_)) => return Err(self.doctype()),
                _ => return Err(self.fault("no resource")),
            }
        };
        let resource = self.resource(space, &start, 0)?;
        loop {
            match self.event()?.1 {
                Event::Eof => return Ok(Value::Object(resource)),
                Event::Text(text) if is_blank(&text) => {}
                Event::Comment(_) | Event::PI(_) => {}
                _ => return Err(self.fault("more than one resource")),
            }
        }
    }

    fn declaration(&self, declared: &BytesDecl) -> Result<(), Error> {
        if declared.xml_version().ok() != Some(XmlVersion::Explicit1_0) {
            return Err(self.fault("another version of XML than 1.0"));
        }
        let encoding = match declared.encoding() {
            None => return Ok(()),
            Some(name) => name.map_err(|_| self.fault("a declaration that can't be read"))?,
        };
        if ["utf-8", "us-ascii"].contains(&encoding.to_ascii_lowercase().as_str()) {
            return Ok(());
        }
        Err(self.fault("XML is read in UTF-8 only; another encoding is declared"))
    }

    /// The next event, with the namespace if it is a start.
    fn event(&mut self) -> Result<(Space, Event<'a>), Error> {
        self.began = self.position();
        match self.events.read_resolved_event() {
            Ok((resolved, event)) => Ok((Space::of(&resolved), event)),
            Err(fault) => {
                let what = match fault {
                    Fault::Namespace(_) => "a namespace prefix that is not declared, or too many of them",
                    _ => "it is not well-formed",
                };
                self.began = usize::try_from(self.events.error_position()).unwrap_or(self.began);
                Err(self.fault(what))
            }
        }
    }

    fn position(&self) -> usize {
        usize::try_from(self.events.buffer_position()).unwrap_or(self.text.len())
    }

    fn next(&mut self) -> Result<Next<'a>, Error> {
        loop {
            match self.event()? {
                (space, Event::Start(start)) => return Ok(Next::Child(space, start)),
                (_, Event::End(_)) => return Ok(Next::End),
                (_, Event::Text(text)) if is_blank(&text) => {}
                (_, Event::Comment(_) | Event::PI(_)) => {}
                (_, Event::Text(_) | Event::CData(_) | Event::GeneralRef(_)) => {
                    return Err(self.fault("text beside elements: values stand in value attributes"));
                }
                (_, Event::DocType(_)) => return Err(self.doctype()),
                (_, Event::Decl(_) | Event::Empty(_)) => return Err(self.fault("it is not well-formed")),
                (_, Event::Eof) => return Err(self.fault("it ends too early")),
            }
        }
    }

    /// A resource whose start was read.
    fn resource(&mut self, space: Space, start: &BytesStart<'a>, depth: usize) -> Result<Map<String, Value>, Error> {
        let name = start.local_name();
        let known = (space == Space::Fhir).then(|| definitions::resource(name.as_ref())).flatten();
        let Some(def) = known else {
            return Err(self.fault("the element is no resource of FHIR R4 in the namespace http://hl7.org/fhir"));
        };
        if self.place.is_empty() {
            self.place.push((def.name, None));
        }
        if !self.attributes(start)?.is_empty() {
            return Err(self.fault("a resource has no attributes"));
        }
        let mut body = Map::new();
        body.insert("resourceType".into(), def.name.into());
        self.children(def, self.deeper(depth, 1)?, &mut body)?;
        Ok(body)
    }

    /// The children of an element up to its end.
    fn children(&mut self, def: &'static TypeDef, depth: usize, body: &mut Map<String, Value>) -> Result<(), Error> {
        let mut fields: Vec<Field> = Vec::new();
        while let Next::Child(space, start) = self.next()? {
            let name = start.local_name();
            let found = def.element_for_json_key(name.as_ref()).filter(|(element, _)| !element.xml_attribute);
            let Some((element, type_)) = found else {
                return Err(self.unknown("element", name.as_ref()));
            };
            let narrative = type_.name == "xhtml";
            if space != if narrative { Space::Xhtml } else { Space::Fhir } {
                return Err(self.fault("an element in a namespace where it does not belong"));
            }
            let number = match fields.iter().rposition(|field| field.key == name.as_ref()) {
                Some(number) => number,
                None => {
                    let (values, extras) = (Vec::new(), Vec::new());
                    fields.push(Field { key: name.as_ref().to_string(), list: element.is_list(), values, extras });
                    fields.len() - 1
                }
            };
            let before = fields.get(number).map_or(0, |field| field.values.len());
            self.place.push((element.name, element.is_list().then_some(before)));
            if before > 0 && !element.is_list() {
                return Err(self.fault("the element stands here once"));
            }
            let inner = self.deeper(depth, usize::from(element.is_list()))?;
            let (value, extra) = if narrative {
                (Value::String(self.narrative(&start)?), Value::Null)
            } else {
                self.element(element, type_.def(), &start, inner)?
            };
            self.place.pop();
            if let Some(field) = fields.get_mut(number) {
                field.values.push(value);
                field.extras.push(extra);
            }
        }
        for field in fields {
            field.into(body);
        }
        Ok(())
    }

    /// One element whose start was read: its value, and what stands beside a primitive's.
    fn element(
        &mut self,
        element: &Element,
        def: &'static TypeDef,
        start: &BytesStart<'a>,
        depth: usize,
    ) -> Result<(Value, Value), Error> {
        let attributes = self.attributes(start)?;
        if def.name == "Resource" {
            if !attributes.is_empty() {
                return Err(self.fault("an element that holds a resource has no attributes"));
            }
            let Next::Child(space, inner) = self.next()? else {
                return Err(self.fault("an element that should hold a resource is empty"));
            };
            let body = self.resource(space, &inner, depth)?;
            let Next::End = self.next()? else {
                return Err(self.fault("an element that holds more than one resource"));
            };
            return Ok((Value::Object(body), Value::Null));
        }
        let primitive = def.form == Form::Primitive;
        let mut body = Map::new();
        if let Some(id) = attributes.id {
            body.insert("id".into(), Value::String(id));
        }
        if let Some(url) = attributes.url {
            if !def.element("url").is_some_and(|element| element.xml_attribute) {
                return Err(self.unknown("attribute", "url"));
            }
            body.insert("url".into(), Value::String(url));
        }
        if !primitive && attributes.value.is_some() {
            return Err(self.fault("a value where elements belong"));
        }
        self.children(def, depth + 1, &mut body)?;
        if !body.is_empty() {
            self.deeper(depth, 1)?;
        } else if attributes.value.is_none() {
            return Err(self.fault("an element without value or children"));
        }
        if !primitive {
            return Ok((Value::Object(body), Value::Null));
        }
        let value = attributes.value.map_or(Ok(Value::Null), |text| self.primitive(def, text))?;
        // The id of a resource and of nothing else is an element without an id or extensions of its own.
        if element.name == "id" && !body.is_empty() {
            return Err(self.fault("an id has no id and no extensions"));
        }
        Ok((value, if body.is_empty() { Value::Null } else { Value::Object(body) }))
    }

    /// A primitive's value in its JSON type.
    fn primitive(&self, def: &TypeDef, text: String) -> Result<Value, Error> {
        let value = match def.name {
            "boolean" => match text.as_str() {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => None,
            },
            "decimal" => number(&text),
            "integer" | "unsignedInt" | "positiveInt" => {
                // XML may write a plus; JSON can't.
                number(text.strip_prefix('+').unwrap_or(&text)).filter(|_| !text.contains(['.', 'e', 'E']))
            }
            _ => Some(Value::String(text)),
        };
        value.ok_or_else(|| self.fault(&format!("a value that is no {}", def.name)))
    }

    /// The attributes of a start: those FHIR knows; declarations of namespaces and `schemaLocation` are passed over.
    fn attributes(&self, start: &BytesStart) -> Result<Attributes, Error> {
        let mut found = Attributes::default();
        for (count, attribute) in start.attributes().enumerate() {
            let attribute =
                attribute.map_err(|_| self.fault("an attribute that is not well-formed or stands twice"))?;
            if count >= MOST_ATTRIBUTES {
                return Err(self.fault("more attributes than any element has"));
            }
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            if attribute.value.len() > self.bounds.string {
                return Err(self.too_long());
            }
            let (resolved, name) = self.events.resolver().resolve_attribute(attribute.key);
            let slot = match (resolved, name.as_ref()) {
                (ResolveResult::Bound(Namespace(INSTANCE)), "schemaLocation") => continue,
                (ResolveResult::Unbound, "id") => &mut found.id,
                (ResolveResult::Unbound, "url") => &mut found.url,
                (ResolveResult::Unbound, "value") => &mut found.value,
                (_, name) => return Err(self.unknown("attribute", name)),
            };
            let value = narrative::attribute(&attribute).ok_or_else(|| {
                self.fault("an attribute with an entity that XML does not predefine, or not well-formed")
            })?;
            *slot = Some(value.into_owned());
        }
        Ok(found)
    }

    /// The narrative whose `div` was just read, as JSON holds it.
    fn narrative(&mut self, start: &BytesStart<'a>) -> Result<String, Error> {
        let (began, text) = (self.began, self.text);
        let read = narrative::read(&mut self.events, text, began, start, self.bounds.depth);
        let text = read.map_err(|(what, offset)| {
            self.began = offset;
            self.fault(what)
        })?;
        if text.len() > self.bounds.string { Err(self.too_long()) } else { Ok(text) }
    }

    fn deeper(&self, depth: usize, by: usize) -> Result<usize, Error> {
        if depth + by > self.bounds.depth {
            return Err(self.fault(&format!("nested deeper than {} levels", self.bounds.depth)));
        }
        Ok(depth + by)
    }

    fn too_long(&self) -> Error {
        self.placed(Error::new(Kind::TooLarge, "A string is longer than this server takes."))
    }

    fn doctype(&self) -> Error {
        self.fault("a DOCTYPE, which is refused with all it could bring")
    }

    /// A name is no value; but only a plain one is repeated.
    fn unknown(&self, what: &str, name: &str) -> Error {
        let shown = if is_name(name) && name.len() <= 64 { format!(" \"{name}\"") } else { String::new() };
        self.fault(&format!("an {what}{shown} that FHIR R4 does not have here"))
    }

    fn fault(&self, what: &str) -> Error {
        self.placed(fault(self.text, self.began, what))
    }

    /// Names the element we are in.
    fn placed(&self, error: Error) -> Error {
        let mut expression = String::new();
        for (name, number) in &self.place {
            if !expression.is_empty() {
                expression.push('.');
            }
            expression.push_str(name);
            if let Some(number) = number {
                expression.push_str(&format!("[{number}]"));
            }
        }
        if expression.is_empty() { error } else { error.at(expression) }
    }
}

impl Field {
    /// Writes the key and its `_key`, each as far as there is something in it.
    fn into(self, body: &mut Map<String, Value>) {
        let beside = format!("_{}", self.key);
        for (key, mut items) in [(self.key, self.values), (beside, self.extras)] {
            if items.iter().all(Value::is_null) {
                continue;
            }
            let value = if self.list { Value::Array(items) } else { items.pop().unwrap_or_default() };
            body.insert(key, value);
        }
    }
}

fn number(text: &str) -> Option<Value> {
    // What JSON calls a number, and nothing around it.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    plain.then(|| text.parse::<Number>().ok()).flatten().map(Value::Number)
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}
