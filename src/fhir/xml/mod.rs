//! FHIR XML: the same resources as JSON in the other format of the standard.
//!
//! [`read`] makes of partner bytes the JSON that the rest of the gateway works on, [`write()`] makes XML of JSON; both
//! follow the element tables ([`super::definitions`]) and lose nothing: numbers as written, ids and extensions of
//! primitives, contained resources, the white space of narratives. Comments and processing instructions are dropped.
//! Refused: DOCTYPE, entities of one's own, other encodings than UTF-8, and what the tables don't know.
//! <https://hl7.org/fhir/R4/xml.html>

mod narrative;
mod reader;
mod writer;

pub use reader::read;
pub use writer::write;

/// The namespace of FHIR's elements.
const FHIR: &str = "http://hl7.org/fhir";
/// The namespace of a narrative's elements.
const XHTML: &str = "http://www.w3.org/1999/xhtml";

/// Whether XML can hold this character at all. <https://www.w3.org/TR/xml/#charsets>
fn is_char(one: char) -> bool {
    !matches!(one, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether this may name an element or attribute here: XML allows more, FHIR and XHTML use no more.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests;
