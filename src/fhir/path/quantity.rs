//! Quantities: a number and its unit. Units are compared by what they are called, but for those of time.
//!
//! Leaves out UCUM: whether 1 g is 1000 mg is not known here, and said so rather than guessed.
//! <https://hl7.org/fhirpath/N1/#quantity>

use std::cmp::Ordering;

use serde_json::Value;

use super::Fault;
use super::decimal::Decimal;
use super::step::Step;

/// The system of UCUM's units.
pub(super) const UCUM: &str = "http://unitsofmeasure.org";

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// A word of the calendar: `day`, `months`.
    Calendar(&'static str),
    /// A UCUM code; `1` where there is none.
    Ucum(String),
    /// A code of another system, or a unit that is but written out.
    Other(String),
}

/// The calendar's words, each with its step and the UCUM code that means the same, if one does.
const CALENDAR: &[(&str, Step, Option<&str>)] = &[
    ("year", Step::Year, None),
    ("month", Step::Month, None),
    ("week", Step::Week, Some("wk")),
    ("day", Step::Day, Some("d")),
    ("hour", Step::Hour, Some("h")),
    ("minute", Step::Minute, Some("min")),
    ("second", Step::Second, Some("s")),
    ("millisecond", Step::Millisecond, Some("ms")),
];

impl Unit {
    /// The calendar's word, in the singular or plural.
    pub(super) fn calendar(name: &str) -> Option<Unit> {
        let word = CALENDAR.iter().find(|(word, ..)| name == *word || name.strip_suffix('s') == Some(word))?;
        Some(Unit::Calendar(word.0))
    }

    /// The step in time it means.
    pub(super) fn step(&self) -> Option<Step> {
        let known = CALENDAR.iter().find(|(word, _, code)| match self {
            Unit::Calendar(name) => word == name,
            Unit::Ucum(name) => *code == Some(name),
            Unit::Other(_) => false,
        });
        known.map(|(_, step, _)| *step)
    }

    /// How it is written behind a number.
    pub(super) fn shown(&self) -> String {
        match self {
            Unit::Calendar(word) => (*word).to_string(),
            Unit::Ucum(code) | Unit::Other(code) => format!("'{code}'"),
        }
    }
}

/// A number and its unit.
#[derive(Debug, Clone)]
pub struct Quantity {
    /// How much.
    pub value: Decimal,
    /// Of what.
    pub unit: Unit,
}

impl Quantity {
    /// A FHIR Quantity that says one amount: with a value and without a comparator.
    pub(super) fn of(value: &Value) -> Option<Quantity> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if value.get("comparator").is_some() {
            return None;
        }
        let number = match value.get("value")? {
            Value::Number(number) => Decimal::parse(number.as_str())?,
            _ => return None,
        };
        let unit = match (text("system"), text("code")) {
            (Some(UCUM), Some(code)) => Unit::Ucum(code.to_string()),
            (Some(system), Some(code)) => Unit::Other(format!("{system}|{code}")),
            (None, Some(code)) => Unit::Other(code.to_string()),
            (_, None) => text("unit").map_or(Unit::Ucum("1".into()), |unit| Unit::Other(unit.to_string())),
        };
        Some(Quantity { value: number, unit })
    }

    /// Reads `4 days`, `10 'mg'` or a bare number.
    pub(super) fn parse(text: &str) -> Option<Quantity> {
        let (number, unit) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        let value = Decimal::parse(number)?;
        let unit = match unit.trim() {
            "" => Unit::Ucum("1".into()),
            quoted if quoted.len() > 2 && quoted.starts_with('\'') && quoted.ends_with('\'') => {
                Unit::Ucum(quoted.trim_matches('\'').to_string())
            }
            word => Unit::calendar(word)?,
        };
        Some(Quantity { value, unit })
    }

    /// Both numbers in one unit. Units of fixed length in time are made one; others that differ are not known.
    fn in_one_unit(&self, other: &Quantity) -> Result<(Decimal, Decimal), Fault> {
        if self.unit == other.unit {
            return Ok((self.value, other.value));
        }
        let unknown = || Fault::NotKnown("how two units compare".into());
        let fixed = |one: &Quantity| match one.unit.step()? {
            Step::Year | Step::Month => None,
            Step::Week => one.value.times(Decimal::from(604_800_000)),
            Step::Day => one.value.times(Decimal::from(86_400_000)),
            Step::Hour => one.value.times(Decimal::from(3_600_000)),
            Step::Minute => one.value.times(Decimal::from(60_000)),
            Step::Second => one.value.times(Decimal::from(1_000)),
            Step::Millisecond => Some(one.value),
        };
        match (fixed(self), fixed(other)) {
            (Some(left), Some(right)) => Ok((left, right)),
            _ => match (self.unit.step(), other.unit.step()) {
                (Some(Step::Year), Some(Step::Month)) => {
                    Ok((self.value.times(Decimal::from(12)).ok_or_else(unknown)?, other.value))
                }
                (Some(Step::Month), Some(Step::Year)) => {
                    Ok((self.value, other.value.times(Decimal::from(12)).ok_or_else(unknown)?))
                }
                _ => Err(unknown()),
            },
        }
    }

    /// Their order.
    pub(super) fn compare(&self, other: &Quantity) -> Result<Ordering, Fault> {
        let (left, right) = self.in_one_unit(other)?;
        Ok(left.cmp(&right))
    }

    /// The sum or difference, in this one's unit; only of one unit.
    pub(super) fn plus(&self, other: &Quantity, sign: i64) -> Result<Option<Quantity>, Fault> {
        if self.unit != other.unit {
            return Err(Fault::NotKnown("how two units add up".into()));
        }
        let value = other.value.times(Decimal::from(sign)).and_then(|other| self.value.plus(other));
        Ok(value.map(|value| Quantity { value, unit: self.unit.clone() }))
    }
}
