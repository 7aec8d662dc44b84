//! The formats of FHIR's primitive types. <https://hl7.org/fhir/R4/datatypes.html#primitive>
//!
//! Each check answers what the text should be, or nothing when it is that. Never repeats the value.

use serde_json::{Number, Value};

use crate::fhir::definitions;
use crate::id;

/// The JSON form of a primitive type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Json {
    Text,
    Number,
    Flag,
}

impl Json {
    pub(super) fn of(type_name: &str) -> Json {
        match type_name {
            "boolean" => Json::Flag,
            "integer" | "positiveInt" | "unsignedInt" | "decimal" => Json::Number,
            _ => Json::Text,
        }
    }
    pub(super) fn fits(self, value: &Value) -> bool {
        match self {
            Json::Text => value.is_string(),
            Json::Number => value.is_number(),
            Json::Flag => value.is_boolean(),
        }
    }
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Json::Text => "a JSON string",
            Json::Number => "a JSON number, without quotes",
            Json::Flag => "true or false, without quotes",
        }
    }
}

/// What is wrong with a value of this type; its JSON form is right already.
pub(super) fn fault(type_name: &str, value: &Value) -> Option<&'static str> {
    match value {
        Value::String(text) => text_fault(type_name, text),
        Value::Number(number) => number_fault(type_name, number),
        _ => None,
    }
}

fn text_fault(type_name: &str, text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("An element is never an empty string; leave it out.");
    }
    let (fine, wanted) = match type_name {
        "string" | "markdown" => {
            let control = text.bytes().any(|byte| byte < b' ' && !matches!(byte, b'\t' | b'\r' | b'\n'));
            (!control, "A text has no control characters but tab and line ends.")
        }
        "code" => (is_code(text), "A code has no white space around it and no more than one blank inside."),
        "id" => (id::is_valid(text), "An id is 1 to 64 letters, digits, “-” and “.”."),
        "uri" | "url" | "canonical" => {
            (!text.chars().any(|c| c.is_whitespace() || c.is_control()), "A URI has no white space.")
        }
        "oid" => (text.strip_prefix("urn:oid:").is_some_and(is_oid), "An OID is written urn:oid:1.2.3."),
        "uuid" => (
            text.strip_prefix("urn:uuid:").is_some_and(is_uuid),
            "A UUID is written urn:uuid: and 36 lower-case characters.",
        ),
        "date" => (is_date(text), "A date is written 2026, 2026-11 or 2026-11-21."),
        "dateTime" => {
            (is_date_time(text, false), "A dateTime is written 2026, 2026-11, 2026-11-21 or 2026-11-21T10:00:00Z.")
        }
        "instant" => (is_date_time(text, true), "An instant is written 2026-11-21T10:00:00Z, with its time zone."),
        "time" => (is_time(text), "A time is written 10:00:00."),
        "base64Binary" => (is_base64(text), "This is no base64."),
        _ => (true, ""),
    };
    (!fine).then_some(wanted)
}

fn number_fault(type_name: &str, number: &Number) -> Option<&'static str> {
    let least = match type_name {
        "integer" => i64::from(i32::MIN),
        "unsignedInt" => 0,
        "positiveInt" => 1,
        _ => return None,
    };
    let fine = number.as_i64().is_some_and(|value| (least..=i64::from(i32::MAX)).contains(&value));
    let wanted = match type_name {
        "unsignedInt" => "This is a whole number from 0 to 2147483647.",
        "positiveInt" => "This is a whole number from 1 to 2147483647.",
        _ => "This is a whole number of at most 32 bits.",
    };
    (!fine).then_some(wanted)
}

/// `type/subtype` and perhaps parameters. <https://www.rfc-editor.org/rfc/rfc6838#section-4.2>
pub(super) fn is_media_type(text: &str) -> bool {
    let name = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !name.is_empty() && name.bytes().all(fits)
    };
    let bare = text.split(';').next().unwrap_or_default().trim_end();
    bare.split_once('/').is_some_and(|(kind, sub)| name(kind) && name(sub))
}

/// Three capital letters.
pub(super) fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The form of a literal reference: absolute, `#…`, or relative to a base: `Type/id`, `Type/id/_history/version`, and in a
/// transaction `Type?criteria`. <https://hl7.org/fhir/R4/references.html#literal>
pub(super) fn is_reference(text: &str) -> bool {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    let scheme = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    if text.starts_with('#') || text.split_once(':').is_some_and(|(name, _)| scheme(name)) {
        return true;
    }
    let known = |name: &str| definitions::resource(name).is_some();
    if let Some((kind, _)) = text.split_once('?') {
        return known(kind);
    }
    let bare = text.split('#').next().unwrap_or_default();
    match bare.split('/').collect::<Vec<_>>().as_slice() {
        [kind, id] => known(kind) && id::is_valid(id),
        [kind, id, "_history", version] => known(kind) && id::is_valid(id) && id::is_valid(version),
        _ => false,
    }
}

/// `[^\s]+(\s[^\s]+)*`
fn is_code(text: &str) -> bool {
    let mut blank = true;
    for c in text.chars() {
        if c.is_control() || (c.is_whitespace() && (blank || c != ' ')) {
            return false;
        }
        blank = c == ' ';
    }
    !blank
}

fn is_oid(text: &str) -> bool {
    let mut arcs = text.split('.');
    let arc = |arc: &str| arc == "0" || (!arc.starts_with('0') && digits(arc));
    arcs.next().is_some_and(|first| matches!(first, "0" | "1" | "2")) && text.contains('.') && arcs.all(arc)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text has this shape, `9` standing for any digit.
fn shaped(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(byte, form)| if form == b'9' { byte.is_ascii_digit() } else { byte == form })
}

fn is_date(text: &str) -> bool {
    if text.starts_with("0000") || !["9999", "9999-99", "9999-99-99"].iter().any(|shape| shaped(text, shape)) {
        return false;
    }
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|part| part.parse::<u16>().ok());
    let days = match number(5..7) {
        None => return text.len() == 4,
        Some(4 | 6 | 9 | 11) => 30,
        Some(2) => match number(0..4) {
            Some(year) if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            _ => 28,
        },
        Some(1..=12) => 31,
        Some(_) => return false,
    };
    number(8..10).map_or(text.len() == 7, |day| (1..=days).contains(&day))
}

/// A leap second is taken, as FHIR's expression does.
fn is_time(text: &str) -> bool {
    let (clock, fraction) = text.split_once('.').map_or((text, None), |(clock, fraction)| (clock, Some(fraction)));
    shaped(clock, "99:99:99")
        && clock.get(..2).is_some_and(|hours| hours < "24")
        && clock.get(3..5).is_some_and(|minutes| minutes < "60")
        && clock.get(6..).is_some_and(|seconds| seconds <= "60")
        && fraction.is_none_or(digits)
}

fn is_date_time(text: &str, instant: bool) -> bool {
    let Some((date, rest)) = text.split_once('T') else { return !instant && is_date(text) };
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone);
    let zoned = zone == "Z"
        || (zone.starts_with(['+', '-'])
            && zone.get(1..).is_some_and(|offset| {
                shaped(offset, "99:99") && offset <= "14:00" && offset.get(3..).is_some_and(|m| m < "60")
            }));
    date.len() == 10 && is_date(date) && is_time(clock) && zoned
}

fn is_base64(text: &str) -> bool {
    let mut count = 0_usize;
    let mut padding = 0_usize;
    for byte in text.bytes() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => {}
            _ => return false,
        }
        count += 1;
    }
    count > 0 && count.is_multiple_of(4) && padding <= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn each_format_takes_the_good_and_refuses_the_bad() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "date",
                &["2026", "2026-02", "2024-02-29", "2000-02-29"],
                &[
                    "26",
                    "2026-13",
                    "2026-00",
                    "2026-04-31",
                    "2026-04-00",
                    "1900-02-29",
                    "2026-02-30",
                    "2026-2-3",
                    "0000",
                    "2026-02-03T10:00:00Z",
                    "yesterday",
                ],
            ),
            (
                "dateTime",
                &[
                    "2026",
                    "2026-02",
                    "2026-02-03",
                    "2026-02-03T10:00:00Z",
                    "2026-02-03T10:00:00.123456789-05:00",
                    "2026-02-03T23:59:60Z",
                ],
                &[
                    "2026-02-03T10:00:00",
                    "2026-02-03T10:00Z",
                    "2026-02-03T24:00:00Z",
                    "2026-02-03 10:00:00Z",
                    "2026-02-03T10:00:00+15:00",
                    "2026-02-03T10:00:00 05:00",
                    "2020-13-45",
                ],
            ),
            (
                "instant",
                &["2026-02-03T10:00:00Z", "2026-02-03T10:00:00.1+14:00"],
                &["2026-02-03", "2026-02-03T10:00:00"],
            ),
            ("time", &["10:00:00", "23:59:59.25"], &["10:00", "25:00:00", "10:60:00", "10:00:00Z", "10:00:00."]),
            ("id", &["a", "A-1.b"], &["a_b", "a b", "é"]),
            ("code", &["a", "a b", "é"], &[" a", "a ", "a  b", "a\tb\n"]),
            ("uri", &["x", "http://a/b?c#d", "urn:oid:1"], &["a b", "a\n"]),
            ("oid", &["urn:oid:1.2.840.0"], &["1.2.3", "urn:oid:3.1", "urn:oid:1.02", "urn:oid:1", "urn:oid:1..2"]),
            (
                "uuid",
                &["urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
                &["c757873d-ec9a-4326-a141-556f43239520", "urn:uuid:C757873D-ec9a-4326-a141-556f43239520"],
            ),
            ("base64Binary", &["YQ==", "YWJj", "YW Jj\nYWJj"], &["YQ", "Y=Q=", "YQ=!", " "]),
            ("string", &["a", " a\tb\r\n\u{a0}"], &["a\u{0}", "\u{7}"]),
            ("markdown", &["# a"], &["\u{1}"]),
        ];
        for (type_name, good, bad) in cases {
            for text in *good {
                assert_eq!(fault(type_name, &json!(text)), None, "{type_name} {text}");
            }
            for text in bad.iter().chain(&[""]) {
                assert!(fault(type_name, &json!(text)).is_some(), "{type_name} {text}");
            }
        }
    }

    #[test]
    fn numbers_have_their_ranges() {
        let number = |type_name, text: &str| fault(type_name, &serde_json::from_str(text).unwrap()).is_none();
        assert!(number("integer", "-2147483648") && !number("integer", "2147483648") && !number("integer", "1.0"));
        assert!(number("unsignedInt", "0") && !number("unsignedInt", "-1"));
        assert!(number("positiveInt", "1") && !number("positiveInt", "0") && !number("positiveInt", "99999999999"));
        assert!(number("decimal", "1.00") && number("decimal", "-1.5e10"));
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in any::<String>(), type_ in 0..12_usize) {
            let names = ["date", "dateTime", "instant", "time", "id", "code", "uri", "oid", "uuid", "base64Binary", "string", "xhtml"];
            let _ = fault(names[type_], &Value::String(text));
        }
    }
}
