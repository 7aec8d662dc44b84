//! JSON at the door: partner bytes become a [`Value`] once, or an error that says what is wrong.
//!
//! Stricter than serde_json: duplicate keys, too deep nesting, too long strings and trailing bytes are refused. A byte-order
//! mark in front, as some clients write it, means nothing. Numbers keep their text. <https://hl7.org/fhir/R4/json.html>

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Kind};

/// The key under which serde_json hands over a number's text when it keeps numbers as written.
const NUMBER: &str = "$serde_json::private::Number";

/// Deeper than this nothing is read, whatever is configured: serde_json ends at 128, and what is stored must still be
/// readable inside a Bundle.
pub const DEEPEST: usize = 120;

/// What the reader bounds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Deepest nesting of objects and arrays.
    pub depth: usize,
    /// Longest string, in bytes.
    pub string: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { depth: 100, string: 1 << 20 }
    }
}

/// Reads one JSON value. Errors are [`Kind::Malformed`] with line and column, or [`Kind::TooLarge`].
pub fn parse(bytes: &[u8], bounds: Bounds) -> Result<Value, Error> {
    let bounds = Bounds { depth: bounds.depth.min(DEEPEST), ..bounds };
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { bounds, depth: 0 }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|fault| {
        let text = fault.to_string();
        if text.contains(TOO_LONG) {
            return Error::new(Kind::TooLarge, "A string is longer than this server takes.");
        }
        // serde_json's own texts never quote the document; ours name keys only when the key is the fault.
        Error::malformed(format!("This is not the JSON of one resource: {text}"))
    })
}

/// A text as JSON has it.
pub fn quoted(text: &str) -> String {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        return ["\"", text, "\""].concat();
    }
    Value::from(text).to_string()
}

const TOO_LONG: &str = "string too long";

#[derive(Clone, Copy)]
struct Seed {
    bounds: Bounds,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed {
    fn deeper<E: de::Error>(self) -> Result<Seed, E> {
        if self.depth >= self.bounds.depth {
            return Err(E::custom(format!("nested deeper than {} levels", self.bounds.depth)));
        }
        Ok(Seed { depth: self.depth + 1, ..self })
    }

    fn text<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text.len() > self.bounds.string { Err(E::custom(TOO_LONG)) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(text)?;
        Ok(Value::String(text.to_string()))
    }
    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        self.text(&text)?;
        Ok(Value::String(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == NUMBER {
                let text: String = entries.next_value()?;
                let number: Number = text.parse().map_err(|_| de::Error::custom("not a number"))?;
                return Ok(Value::Number(number));
            }
            self.text(&key)?;
            if map.contains_key(&key) {
                return Err(de::Error::custom("the same key stands twice in one object"));
            }
            map.insert(key, entries.next_value_seed(seed)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_quoted_as_json_has_it() {
        for text in ["", "https://hub/fhir/Task/1", "é", "\"", "a\\b", "\n", "\u{7f}\u{1f}"] {
            assert_eq!(quoted(text), Value::from(text).to_string());
        }
    }
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value, Error> {
        parse(text.as_bytes(), Bounds::default())
    }

    // R-015
    #[test]
    fn numbers_keep_their_text() {
        let text = r#"{"a":1.00,"b":0.010000000000000000000000001,"c":-7,"d":[null,true,"x"]}"#;
        assert_eq!(read(text).unwrap().to_string(), text);
    }

    #[test]
    fn bad_json_is_refused_with_its_place() {
        for bad in [r#"{"a":1,"a":2}"#, "{} x", "{", "", "{}\u{feff}", r#"{"a":01}"#, r#"{"a":NaN}"#] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed, "{bad}");
        }
        assert!(read(r#"{"a":1,"a":2}"#).unwrap_err().text().contains("twice"));
    }

    #[test]
    fn a_byte_order_mark_in_front_means_nothing() {
        assert_eq!(read("\u{feff}{\"a\":1}").unwrap().to_string(), r#"{"a":1}"#);
    }

    // R-015
    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(read(&nested(99)).is_ok());
        assert!(read(&nested(100_000)).unwrap_err().text().contains("nested deeper"));
        let long = format!("\"{}\"", "x".repeat((1 << 20) + 1));
        assert_eq!(read(&long).unwrap_err().kind, Kind::TooLarge);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Bounds::default());
        }

        #[test]
        fn what_serde_json_reads_reads_the_same(text in "\\{\"[a-z]{1,5}\":(1|\"x\"|\\[1,2\\]|null|2\\.50)\\}") {
            let theirs: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read(&text).unwrap(), theirs);
        }
    }
}
