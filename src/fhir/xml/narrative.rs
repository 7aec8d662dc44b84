//! Narratives: XHTML that JSON holds as one string and XML as elements. It is copied byte for byte, never re-written.
//!
//! Checked is what copying needs: well-formed, one `div`, nothing but XHTML's namespace, no entities but XML's five.
//! Which elements a narrative may use is validation's to say. <https://hl7.org/fhir/R4/narrative.html>

use std::borrow::Cow;

use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::PrefixDeclaration;
use quick_xml::{NsReader, XmlVersion};

use super::reader::{MOST_ATTRIBUTES, Space, events};
use super::writer::escape;
use super::{XHTML, is_char, is_name};
use crate::fhir::json::DEEPEST;
use crate::fhir::xhtml;

/// What is wrong, and where in the text.
type Fault = (&'static str, usize);

/// The narrative as a string. `start`, its `div`, began at `began` and was the last event of `events`, which read
/// `text`; afterwards the last is the end of the `div`.
pub(super) fn read<'a>(
    events: &mut NsReader<&'a [u8]>,
    text: &'a str,
    began: usize,
    start: &BytesStart<'a>,
    deepest: usize,
) -> Result<String, Fault> {
    let mut out = String::new();
    let raw = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let at = |events: &NsReader<&'a [u8]>| usize::try_from(events.buffer_position()).unwrap_or(text.len());
    open(&mut out, start, raw(began, at(events)), true).map_err(|what| (what, began))?;
    let mut depth = 1;
    loop {
        let from = at(events);
        let (space, event) = match events.read_resolved_event() {
            Ok((resolved, event)) => (Space::of(&resolved), event),
            Err(_) => return Err(("a narrative that is not well-formed", from)),
        };
        let source = raw(from, at(events));
        let fault = |what| Err((what, from));
        match event {
            Event::Start(start) => {
                if space != Space::Xhtml {
                    return fault("a narrative holds elements of XHTML only");
                }
                depth += 1;
                if depth > deepest {
                    return fault("a narrative that is nested too deeply");
                }
                open(&mut out, &start, source, false).map_err(|what| (what, from))?;
            }
            Event::End(end) => {
                // Nothing stands in the text where `<br/>` ends.
                if end.name().prefix().is_some() && !source.is_empty() {
                    out.push_str("</");
                    out.push_str(end.local_name().as_ref());
                    out.push('>');
                } else {
                    out.push_str(source);
                }
                depth -= 1;
                if depth == 0 {
                    return Ok(out);
                }
            }
            Event::Text(text) if text.contains("]]>") => return fault("a narrative that is not well-formed"),
            Event::Comment(text) if text.ends_with('-') => return fault("a narrative that is not well-formed"),
            Event::GeneralRef(name) => {
                let known = match name.resolve_char_ref() {
                    Ok(Some(one)) => is_char(one),
                    Ok(None) => ["lt", "gt", "amp", "quot", "apos"].contains(&&*name),
                    Err(_) => false,
                };
                if !known {
                    return fault("a narrative with an entity that XML does not predefine");
                }
                out.push_str(source);
            }
            Event::Text(_) | Event::Comment(_) | Event::CData(_) => out.push_str(source),
            Event::PI(_) => {}
            Event::DocType(_) | Event::Decl(_) | Event::Empty(_) => {
                return fault("a narrative that is not well-formed");
            }
            Event::Eof => return fault("a narrative that ends too early"),
        }
    }
}

/// Copies a start tag; a prefix is dropped, and the `div` gets its namespace where something around it declared it.
fn open(out: &mut String, start: &BytesStart, source: &str, outermost: bool) -> Result<(), &'static str> {
    let name = start.name();
    if !is_name(name.local_name().as_ref()) {
        return Err("a narrative that is not well-formed");
    }
    let mut declared = false;
    for (count, attribute) in start.attributes().enumerate() {
        let attribute = attribute.map_err(|_| "an attribute that is not well-formed or stands twice")?;
        if count >= MOST_ATTRIBUTES {
            return Err("more attributes than any element has");
        }
        declared |= attribute.key.as_namespace_binding() == Some(PrefixDeclaration::Default);
        let fits = is_name(attribute.key.local_name().as_ref())
            && attribute.key.prefix().is_none_or(|prefix| ["xml", "xmlns"].contains(&prefix.as_ref()));
        if !fits {
            return Err("a narrative with an attribute that XHTML does not have");
        }
        self::attribute(&attribute).ok_or("a narrative with an attribute that is not well-formed")?;
    }
    if name.prefix().is_none() && (declared || !outermost) {
        out.push_str(source);
        return Ok(());
    }
    out.push('<');
    out.push_str(name.local_name().as_ref());
    if !declared && outermost {
        out.push_str(" xmlns=\"");
        out.push_str(XHTML);
        out.push('"');
    }
    // What stands behind the name, the end of the tag included.
    out.push_str(source.get(1 + name.as_ref().len()..).unwrap_or(">"));
    Ok(())
}

/// An attribute's value with its references resolved; `None` when it is not well-formed.
pub(super) fn attribute<'a>(attribute: &Attribute<'a>) -> Option<Cow<'a, str>> {
    if attribute.value.contains('<') {
        return None;
    }
    let value = attribute.normalized_value(XmlVersion::Explicit1_0).ok()?;
    value.chars().all(is_char).then_some(value)
}

/// The narrative of a JSON string as XML can hold it. HTML's names for characters, which XML doesn't have, are written
/// as numbers; what is no XHTML at all is shown as the text that it is.
pub(super) fn written(text: &str) -> Cow<'_, str> {
    if is_whole(text) {
        return Cow::Borrowed(text);
    }
    let numbered = numbered(text);
    if is_whole(&numbered) {
        return Cow::Owned(numbered);
    }
    let mut out = format!("<div xmlns=\"{XHTML}\"><pre>");
    escape(&mut out, text);
    out.push_str("</pre></div>");
    Cow::Owned(out)
}

/// Whether this is one well-formed `div` and nothing else.
fn is_whole(text: &str) -> bool {
    let mut events = events(text);
    let start = match events.read_resolved_event() {
        Ok((space, Event::Start(start))) if Space::of(&space) == Space::Xhtml => start,
        _ => return false,
    };
    start.name().as_ref() == "div"
        && text.chars().all(is_char)
        && read(&mut events, text, 0, &start, DEEPEST).is_ok_and(|read| read == text)
        && matches!(events.read_event(), Ok(Event::Eof))
}

/// The text with HTML's names of characters as numbers.
fn numbered(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('&');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let named = part.split_once(';').and_then(|(name, rest)| Some(format!("&#{};{rest}", xhtml::number(name)?)));
        match named {
            Some(named) => out.push_str(&named),
            None => {
                out.push('&');
                out.push_str(part);
            }
        }
    }
    out
}
