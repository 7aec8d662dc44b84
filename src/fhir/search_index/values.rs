//! From an element's value to index rows, by the parameter's type; and how values are compared: folded, canonical.

use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::super::reference::Reference;
use super::{Parameter, ParameterType, Row};
use crate::time::span_of;

/// Stands between the parts of a composite, and before what only a modifier asks for (`:identifier`, `:of-type`). No
/// FHIR string holds it.
pub const SEPARATOR: char = '\u{1f}';

/// The rows of one parameter.
pub(super) fn index(parameter: &Parameter, elements: &Map<String, Value>, own: &str, found: &mut Vec<Row>) {
    for path in parameter.paths {
        match parameter.kind {
            ParameterType::Composite if path.is_empty() => {
                pairs(parameter, &|part| inside(elements, part), found);
            }
            ParameterType::Composite => {
                for item in inside(elements, path) {
                    if let Value::Object(map) = item {
                        pairs(parameter, &|part| inside(map, part), found);
                    }
                }
            }
            _ => inside(elements, path).into_iter().for_each(|value| index_value(parameter, value, own, found)),
        }
    }
}

/// What stands at a path.
fn inside<'a>(map: &'a Map<String, Value>, path: &str) -> Vec<&'a Value> {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, only) =
        step.trim_end_matches(']').split_once('[').map_or((step, None), |(name, only)| (name, Some(only)));
    let items = match map.get(name) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(one) => vec![one],
    };
    let wanted = items.into_iter().filter(|item| only.is_none_or(|only| is_that(item, only)));
    if rest.is_empty() {
        // A list in a list is no FHIR; what is null has an extension instead of a value.
        return wanted.filter(|item| !item.is_null()).collect();
    }
    wanted.filter_map(Value::as_object).flat_map(|map| inside(map, rest)).collect()
}

/// `[x]` of a path: an extension by the end of its URL, anything else by its system.
fn is_that(item: &Value, only: &str) -> bool {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    text("url").is_some_and(|url| url.rsplit('/').next() == Some(only)) || text("system") == Some(only)
}

fn index_value(parameter: &Parameter, value: &Value, own: &str, found: &mut Vec<Row>) {
    let mut add = |value: String, system: &str| found.push(row(parameter, value, system.to_string()));
    match parameter.kind {
        ParameterType::Token => tokens(parameter, value, found),
        ParameterType::Reference => {
            if let Some(text) = value.get("reference").and_then(Value::as_str)
                && may_mean(parameter, text, own)
            {
                add(canonical_reference(text, own), "");
            }
            if let Some(identifier) = value.get("identifier").and_then(Value::as_object)
                && let Some(its) = identifier.get("value").and_then(Value::as_str)
            {
                let system = identifier.get("system").and_then(Value::as_str).unwrap_or("");
                add(format!("{SEPARATOR}{its}"), system);
            }
        }
        ParameterType::Date => {
            if let Some((low, high)) = span(value) {
                found.push(Row { low, high, ..row(parameter, String::new(), String::new()) });
            }
        }
        ParameterType::Text => {
            if let Some(text) = value.as_str() {
                add(fold(text), text);
            }
        }
        ParameterType::Uri | ParameterType::Canonical => {
            if let Some(text) = value.as_str() {
                let (bare, version) =
                    text.split_once('|').map_or((text, None), |(bare, version)| (bare, Some(version)));
                let bare = match parameter.kind {
                    ParameterType::Canonical => canonical_reference(bare, own),
                    _ => bare.to_string(),
                };
                if let Some(version) = version {
                    add(format!("{bare}|{version}"), "");
                }
                add(bare, "");
            }
        }
        ParameterType::Quantity => {
            let text = |name: &str| value.get(name).and_then(Value::as_str);
            if let Some((low, _)) = value.get("value").and_then(|number| decimal(&number.to_string())) {
                let high = low.saturating_add(1);
                let code = text("code").or_else(|| text("unit")).unwrap_or("");
                let system = text("system").unwrap_or("").to_string();
                // A value, so that the index of dates keeps to dates.
                let value = format!("{SEPARATOR}{code}");
                found.push(Row { low, high, ..row(parameter, value, system) });
                if let Some(unit) = text("unit").filter(|unit| *unit != code) {
                    found.push(Row { low, high, ..row(parameter, format!("{SEPARATOR}{unit}"), String::new()) });
                }
            }
        }
        ParameterType::Composite => {}
    }
}

fn row(parameter: &Parameter, value: String, system: String) -> Row {
    Row { parameter: parameter.name, value, system, text: String::new(), low: 0, high: 0 }
}

/// Whether a reference is to one of the types that a parameter of one type means (`patient`).
fn may_mean(parameter: &Parameter, text: &str, own: &str) -> bool {
    match (parameter.targets, Reference::parse(text, own)) {
        ([only], Reference::Local(key) | Reference::Remote { key, .. }) => key.kind.name() == *only,
        _ => true,
    }
}

/// A token of any data type: code, boolean, Coding, CodeableConcept, Identifier, ContactPoint.
fn tokens(parameter: &Parameter, value: &Value, found: &mut Vec<Row>) {
    for (system, code, text) in tokens_of(value, parameter.exact) {
        found.push(Row { text, ..row(parameter, code, system) });
    }
    // `:of-type`: the identifier's type and value.
    let Some(its) = value.get("value").and_then(Value::as_str) else { return };
    for (system, code, _) in value.get("type").map(|kind| tokens_of(kind, false)).unwrap_or_default() {
        if !code.is_empty() {
            found.push(row(parameter, format!("{SEPARATOR}{code}{SEPARATOR}{its}"), format!("{SEPARATOR}{system}")));
        }
    }
}

/// System, code and folded texts of each coding; a concept of words alone has them without a code.
fn tokens_of(value: &Value, exact: bool) -> Vec<(String, String, String)> {
    let cased = |code: &str| if exact { code.to_string() } else { fold_code(code) };
    match value {
        Value::String(code) => vec![(String::new(), cased(code), String::new())],
        Value::Bool(flag) => vec![(String::new(), flag.to_string(), String::new())],
        Value::Object(map) => {
            let text = |name: &str| map.get(name).and_then(Value::as_str);
            let words = |map: &Map<String, Value>, name: &str| {
                map.get(name).and_then(Value::as_str).map(|text| format!("\n{}", fold(text))).unwrap_or_default()
            };
            if let Some(codings) = map.get("coding").and_then(Value::as_array) {
                let own = words(map, "text");
                let each = codings.iter().flat_map(|coding| tokens_of(coding, exact));
                each.map(|(system, code, text)| (system, code, text + &own)).collect()
            } else if let Some(code) = text("code").or_else(|| text("value")) {
                let named = map.get("type").and_then(Value::as_object).map(|kind| words(kind, "text"));
                let shown = words(map, "display") + &named.unwrap_or_default();
                vec![(text("system").unwrap_or("").to_string(), cased(code), shown)]
            } else {
                let shown = words(map, "text") + &words(map, "display");
                if shown.is_empty() { Vec::new() } else { vec![(String::new(), String::new(), shown)] }
            }
        }
        Value::Null | Value::Number(_) | Value::Array(_) => Vec::new(),
    }
}

/// Every pair of the two parts' tokens.
fn pairs<'a>(parameter: &Parameter, at: &dyn Fn(&str) -> Vec<&'a Value>, found: &mut Vec<Row>) {
    let part = |index: usize| -> Vec<(String, String, String)> {
        let paths = parameter.parts.get(index).copied().unwrap_or(&[]);
        paths.iter().flat_map(|path| at(path)).flat_map(|value| tokens_of(value, false)).collect()
    };
    let second = part(1);
    for (system, code, _) in part(0) {
        for (other_system, other_code, _) in &second {
            let value = format!("{code}{SEPARATOR}{other_code}");
            found.push(row(parameter, value, format!("{system}{SEPARATOR}{other_system}")));
        }
    }
}

/// The span of a date, a Period or a Timing. An open end is infinite; of a Timing only the outer limits count.
fn span(value: &Value) -> Option<(i64, i64)> {
    let limits =
        |value: Option<&Value>| value.and_then(Value::as_str).and_then(span_of).map(|(low, high)| (low.0, high.0));
    let ordered = |low: i64, high: i64| if low < high { (low, high) } else { (high, low) };
    match value {
        Value::String(_) => limits(Some(value)),
        Value::Object(map) if map.contains_key("event") || map.contains_key("repeat") || map.contains_key("code") => {
            let events = map.get("event").and_then(Value::as_array).into_iter().flatten();
            let bounds = map.get("repeat").and_then(|repeat| repeat.get("boundsPeriod")).and_then(span);
            let all: Vec<(i64, i64)> = events.filter_map(|event| limits(Some(event))).chain(bounds).collect();
            let low = all.iter().map(|span| span.0).min().unwrap_or(i64::MIN);
            Some((low, all.iter().map(|span| span.1).max().unwrap_or(i64::MAX)))
        }
        Value::Object(map) => match (limits(map.get("start")), limits(map.get("end"))) {
            (None, None) => None,
            (Some(start), Some(end)) if start.0 < end.1 => Some((start.0, end.1)),
            // An end before the start is the sender's slip: it is found at either.
            (Some(start), Some(end)) => Some(ordered(end.0.min(start.0), start.1.max(end.1))),
            (start, end) => Some((start.map_or(i64::MIN, |span| span.0), end.map_or(i64::MAX, |span| span.1))),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// A decimal in millionths, and half of what its last digit is worth: `5.40` is 5.4 ± 0.005. `None` for what is no
/// decimal; what is too large for the index stands at its end.
pub(in crate::fhir) fn decimal(text: &str) -> Option<(i64, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !numeric(digits) || !numeric(fraction) || text.len() > 40 || !(-30..=30).contains(&exponent)
    {
        return None;
    }
    let value = format!("{whole}.{fraction}0").parse::<f64>().ok()?;
    let last = exponent - i32::try_from(fraction.len()).ok()?;
    // `as` saturates.
    Some(((value * 10_f64.powi(exponent + 6)).round() as i64, (0.5 * 10_f64.powi(last + 6)).round() as i64))
}

/// A reference in the form the index holds: `Type/id` when it is ours, the URL without version when not.
pub fn canonical_reference(text: &str, own: &str) -> String {
    match Reference::parse(text, own) {
        Reference::Local(key) => key.to_string(),
        Reference::Remote { base, key } => format!("{base}/{key}"),
        Reference::Contained(_) | Reference::Urn(_) | Reference::Other(_) => text.to_string(),
    }
}

/// Text as string search compares it: without case, accents and doubled spaces.
pub fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.nfkd().filter(|character| !is_combining_mark(*character)).flat_map(char::to_lowercase) {
        match character {
            // Letters with a stroke or tied together, which no decomposition takes apart.
            'ß' => out.push_str("ss"),
            'æ' => out.push_str("ae"),
            'œ' => out.push_str("oe"),
            'ø' => out.push('o'),
            'ł' => out.push('l'),
            'đ' | 'ð' => out.push('d'),
            'ı' => out.push('i'),
            'þ' => out.push_str("th"),
            space if space.is_whitespace() => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            // What lower case makes of some capitals begins with a letter and ends in a mark.
            mark if is_combining_mark(mark) => {}
            other => out.push(other),
        }
    }
    out
}

/// A code as it is compared: when in doubt, without case.
pub fn fold_code(code: &str) -> String {
    code.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    //
    #[test]
    fn folding_takes_case_accents_and_spaces() {
        for (text, folded) in [
            ("Ängström  Łódź", "angstrom lodz"),
            ("STRASSE", "strasse"),
            ("Straße", "strasse"),
            ("İpek ılık", "ipek ilik"),
            ("Ærø", "aero"),
            (" a\t b ", "a b "),
            ("日本", "日本"),
            ("ﬁve", "five"),
        ] {
            assert_eq!(fold(text), folded, "{text}");
        }
    }

    #[test]
    fn decimals_mean_their_precision() {
        for (text, expected) in [
            ("5.4", Some((5_400_000, 50_000))),
            ("5.40", Some((5_400_000, 5_000))),
            ("100", Some((100_000_000, 500_000))),
            ("1e2", Some((100_000_000, 50_000_000))),
            ("-5", Some((-5_000_000, 500_000))),
            ("-0.5", Some((-500_000, 50_000))),
            ("0.000000001", Some((0, 0))),
            ("1e30", Some((i64::MAX, i64::MAX))),
            ("", None),
            ("x", None),
            (".5", None),
            ("1e99", None),
            ("--1", None),
            ("1.2.3", None),
        ] {
            assert_eq!(decimal(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in "\\PC{0,24}") {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once.clone());
        }
    }
}
