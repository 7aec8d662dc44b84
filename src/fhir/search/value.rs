//! The values of a parameter: escapes, lists, prefixes, dates, tokens, quantities.
//! <https://hl7.org/fhir/R4/search.html#escaping>

use super::super::search_index::{SEPARATOR, decimal};
use super::{Amount, Prefix, Token};
use crate::time::span_of;

/// Splits at separators that are not escaped; the escapes stay. Empty parts are kept but for those of a list.
pub(super) fn pieces(value: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    let parts = value.split(|character| {
        let ends = character == separator && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    });
    parts.filter(|part| separator != ',' || !part.is_empty()).collect()
}

/// Takes the escapes off.
pub(super) fn plain(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.extend(characters.next()),
            other => out.push(other),
        }
    }
    out
}

/// The alternatives of a list.
pub(super) fn split(value: &str) -> Vec<String> {
    pieces(value, ',').iter().map(|part| plain(part)).collect()
}

/// `code`, `system|code`, `|code`, `system|`
pub(super) fn token(text: &str) -> Token {
    let parts = pieces(text, '|');
    match parts.as_slice() {
        [system, code @ ..] if !code.is_empty() => {
            let code = plain(&code.join("|"));
            Token { system: Some(plain(system)), code: (!code.is_empty()).then_some(code) }
        }
        _ => Token { system: None, code: Some(plain(text)) },
    }
}

fn prefixed(text: &str) -> (Prefix, &str) {
    let found = Prefix::ALL.iter().find_map(|(code, prefix)| Some((*prefix, text.strip_prefix(code)?)));
    found.unwrap_or((Prefix::Eq, text))
}

/// A date: prefix, and the span it means at its precision.
pub(super) fn date(text: &str) -> Option<(Prefix, i64, i64)> {
    let (prefix, rest) = prefixed(text);
    let (low, high) = span_of(rest)?;
    Some((prefix, low.0, high.0))
}

/// A `_lastUpdated` value. With a time of day it is the instant itself, not the second it lies in: a poller that
/// asks for what came after the last thing it saw must never lose what came later in the same second.
pub(super) fn instant(text: &str) -> Option<(Prefix, i64, i64)> {
    let (prefix, low, high) = date(text)?;
    Some(match prefix {
        Prefix::Gt | Prefix::Sa if text.contains('T') => (prefix, low, low + 1),
        _ => (prefix, low, high),
    })
}

/// `[prefix]number|system|code`. Equal is whatever rounds to it; more and less are than exactly it. Approximately is a
/// tenth more or less.
pub(super) fn amount(text: &str) -> Option<Amount> {
    let (prefix, rest) = prefixed(text);
    let parts: Vec<String> = pieces(rest, '|').iter().map(|part| plain(part)).collect();
    let (number, system, unit) = match parts.as_slice() {
        [number] => (number, None, None),
        [number, system, unit] => (number, Some(system), Some(unit)),
        _ => return None,
    };
    let (point, half) = decimal(number)?;
    let (from, to) = match prefix {
        Prefix::Eq | Prefix::Ne => (point.saturating_sub(half), point.saturating_add(half.max(1))),
        Prefix::Ap => {
            let margin = (point / 10).saturating_abs().max(half);
            (point.saturating_sub(margin), point.saturating_add(margin).saturating_add(1))
        }
        Prefix::Gt | Prefix::Lt | Prefix::Ge | Prefix::Le | Prefix::Sa | Prefix::Eb => (point, point.saturating_add(1)),
    };
    // The unit may be written as such or as its code, the system left out.
    let given = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    let unit = given(unit).map(|unit| format!("{SEPARATOR}{unit}"));
    Some(Amount { prefix, from, to, system: given(system), unit })
}
