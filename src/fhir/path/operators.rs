//! What the operators mean between values: equal, equivalent, before, plus.
//!
//! What is not known is none (FHIRPath's empty), never a guess. <https://hl7.org/fhirpath/N1/#operations>

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::Value;

use super::Fault;
use super::decimal::Decimal;
use super::item::{Item, Node, shown};
use super::parse::Operator;
use super::quantity::Quantity;

/// Numbers as one kind, for working with a whole one and one with places.
pub(super) fn number(item: &Item<'_>) -> Option<Decimal> {
    match item.atom()? {
        Item::Integer(number) => Some(Decimal::from(number)),
        Item::Decimal(number) => Some(number),
        _ => None,
    }
}

/// Whether two items are equal; none if that is not known.
pub(super) fn equal(left: &Item<'_>, right: &Item<'_>) -> Result<Option<bool>, Fault> {
    if matches!(left, Item::Elsewhere(_)) || matches!(right, Item::Elsewhere(_)) {
        return Err(Fault::elsewhere());
    }
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return Ok(Some(left == right));
    }
    match (left.atom(), right.atom()) {
        (Some(Item::Boolean(left)), Some(Item::Boolean(right))) => Ok(Some(left == right)),
        (Some(Item::Text(left)), Some(Item::Text(right))) => Ok(Some(left == right)),
        (Some(Item::Moment(left)), Some(Item::Moment(right))) => {
            let times = |one: super::date::Moment| one.shape() == super::date::Shape::Time;
            if times(left) != times(right) {
                return Ok(Some(false));
            }
            Ok(left.compare(&right).map(|order| order == Ordering::Equal))
        }
        (Some(Item::Quantity(left)), Some(Item::Quantity(right))) => {
            left.compare(&right).map(|order| Some(order == Ordering::Equal))
        }
        (None, None) => match (left, right) {
            (Item::Node(left), Item::Node(right)) => {
                Ok(Some(same(left.value, right.value) && same(left.beside, right.beside)))
            }
            _ => Ok(Some(false)),
        },
        _ => Ok(Some(false)),
    }
}

/// Whether two JSON values say the same: numbers by value, keys in any order.
pub(super) fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => {
            match (Decimal::parse(left.as_str()), Decimal::parse(right.as_str())) {
                (Some(left), Some(right)) => left == right,
                _ => left == right,
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(Some(left), Some(right)))
        }
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            left.len() == right.len() && left.iter().all(|(key, value)| same(Some(value), right.get(key)))
        }
        (left, right) => left == right,
    }
}

/// Whether two collections are equal, in order; none if either is empty or it is not known.
pub(super) fn all_equal(left: &[Item<'_>], right: &[Item<'_>]) -> Result<Option<bool>, Fault> {
    if left.is_empty() || right.is_empty() {
        return Ok(None);
    }
    if left.len() != right.len() {
        return Ok(Some(false));
    }
    let mut known = true;
    for (left, right) in left.iter().zip(right) {
        match equal(left, right)? {
            Some(false) => return Ok(Some(false)),
            Some(true) => {}
            None => known = false,
        }
    }
    Ok(known.then_some(true))
}

/// Whether two items are one for a set: what is not known to be equal is two.
pub(super) fn one(left: &Item<'_>, right: &Item<'_>) -> Result<bool, Fault> {
    match equal(left, right) {
        Ok(known) => Ok(known == Some(true)),
        Err(Fault::NotKnown(_)) if !matches!(left, Item::Elsewhere(_)) && !matches!(right, Item::Elsewhere(_)) => {
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}

/// A collection in which items are looked up by what they are.
#[derive(Default)]
pub(super) struct Set<'a> {
    items: Vec<Item<'a>>,
    places: HashMap<u64, Vec<usize>>,
}

impl<'a> Set<'a> {
    /// Of these items, equal ones once.
    pub(super) fn of(items: impl IntoIterator<Item = Item<'a>>) -> Result<Self, Fault> {
        let mut set = Set::default();
        for item in items {
            set.add(item)?;
        }
        Ok(set)
    }

    /// Whether it has an equal item.
    pub(super) fn has(&self, item: &Item<'a>) -> Result<bool, Fault> {
        for place in self.places.get(&item.likeness()).into_iter().flatten() {
            if let Some(other) = self.items.get(*place)
                && one(item, other)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds it, unless an equal one is there; whether it was added.
    pub(super) fn add(&mut self, item: Item<'a>) -> Result<bool, Fault> {
        if self.has(&item)? {
            return Ok(false);
        }
        self.places.entry(item.likeness()).or_default().push(self.items.len());
        self.items.push(item);
        Ok(true)
    }

    /// Its items, in the order they came.
    pub(super) fn into_items(self) -> Vec<Item<'a>> {
        self.items
    }
}

/// Whether two items are equivalent: texts but for case and white space, decimals to the coarser one's places.
fn equivalent(left: &Item<'_>, right: &Item<'_>) -> Result<bool, Fault> {
    if let (Some(one), Some(two)) = (number(left), number(right)) {
        let places = one.places().min(two.places());
        return Ok(one.rounded(places) == two.rounded(places));
    }
    match (left.atom(), right.atom()) {
        (Some(Item::Text(left)), Some(Item::Text(right))) => Ok(folded(&left) == folded(&right)),
        (None, None) => match (left, right) {
            (Item::Node(Node { value: Some(left), .. }), Item::Node(Node { value: Some(right), .. })) => {
                Ok(alike(left, right))
            }
            _ => one(left, right),
        },
        _ => one(left, right),
    }
}

fn folded(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether two JSON values are equivalent: lists in any order, ids left out.
fn alike(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::String(left), Value::String(right)) => folded(left) == folded(right),
        (Value::Array(left), Value::Array(right)) => {
            let mut rest: Vec<&Value> = right.iter().collect();
            left.len() == right.len()
                && left
                    .iter()
                    .all(|one| rest.iter().position(|two| alike(one, two)).map(|at| rest.swap_remove(at)).is_some())
        }
        (Value::Object(left), Value::Object(right)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().filter(|key| *key != "id").count();
            keys(left) == keys(right)
                && left
                    .iter()
                    .filter(|(key, _)| *key != "id")
                    .all(|(key, one)| right.get(key).is_some_and(|two| alike(one, two)))
        }
        (left, right) => same(Some(left), Some(right)),
    }
}

/// Whether two collections are equivalent, in any order. Nothing is equivalent to nothing.
pub(super) fn all_equivalent(left: &[Item<'_>], right: &[Item<'_>]) -> Result<bool, Fault> {
    if left.len() != right.len() {
        return Ok(false);
    }
    let mut rest: Vec<&Item<'_>> = right.iter().collect();
    for one in left {
        let mut place = None;
        for (at, two) in rest.iter().enumerate() {
            if equivalent(one, two)? {
                place = Some(at);
                break;
            }
        }
        match place {
            Some(at) => rest.swap_remove(at),
            None => return Ok(false),
        };
    }
    Ok(true)
}

/// The order of two items; none if it is not known.
pub(super) fn compare(left: &Item<'_>, right: &Item<'_>) -> Result<Option<Ordering>, Fault> {
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return Ok(Some(left.cmp(&right)));
    }
    match (left.atom(), right.atom()) {
        (Some(Item::Text(left)), Some(Item::Text(right))) => Ok(Some(left.cmp(&right))),
        (Some(Item::Moment(left)), Some(Item::Moment(right))) => Ok(left.compare(&right)),
        (Some(Item::Quantity(left)), Some(Item::Quantity(right))) => left.compare(&right).map(Some),
        (Some(Item::Quantity(left)), _) if number(right).is_some() => Ok(number(right)
            .filter(|_| left.unit == super::quantity::Unit::Ucum("1".into()))
            .map(|right| left.value.cmp(&right))),
        // A primitive without a value, or a Quantity without an amount, has no order.
        (None, _) | (_, None) if valueless(left) || valueless(right) => Ok(None),
        _ => Err(Fault::Mismatch("Two things are compared that have no order.")),
    }
}

fn valueless(item: &Item<'_>) -> bool {
    match item {
        Item::Node(node) => node.value.is_none() || node.def.is_some_and(|def| def.is("Quantity")),
        _ => false,
    }
}

/// `+ - * / div mod`
pub(super) fn calculate<'a>(operator: Operator, left: &Item<'a>, right: &Item<'a>) -> Result<Option<Item<'a>>, Fault> {
    use Operator::{Div, Minus, Mod, Over, Plus, Times};
    let (Some(left), Some(right)) = (left.atom(), right.atom()) else {
        return if valueless(left) || valueless(right) { Ok(None) } else { Err(no_numbers()) };
    };
    if let (Item::Integer(left), Item::Integer(right)) = (&left, &right) {
        let whole = match operator {
            Plus => left.checked_add(*right),
            Minus => left.checked_sub(*right),
            Times => left.checked_mul(*right),
            Div => left.checked_div(*right),
            Mod => left.checked_rem(*right),
            _ => return Ok(Decimal::from(*left).over(Decimal::from(*right)).map(Item::Decimal)),
        };
        return Ok(whole.map(Item::Integer));
    }
    if let (Some(left), Some(right)) = (number(&left), number(&right)) {
        return Ok(match operator {
            Plus => left.plus(right),
            Minus => left.minus(right),
            Times => left.times(right),
            Over => left.over(right),
            Div => return Ok(left.whole_over(right).and_then(Decimal::to_integer).map(Item::Integer)),
            _ => left.remainder(right),
        }
        .map(Item::Decimal));
    }
    match (operator, &left, &right) {
        (Plus, Item::Text(left), Item::Text(right)) => Ok(Some(Item::Text(Cow::Owned(format!("{left}{right}"))))),
        (Plus | Minus, Item::Moment(moment), Item::Quantity(quantity)) => {
            let step = quantity.unit.step().ok_or(Fault::Mismatch("Only a span of time is added to a date."))?;
            let sign = if operator == Plus { 1 } else { -1 };
            let amount =
                quantity.value.truncated().and_then(Decimal::to_integer).and_then(|whole| whole.checked_mul(sign));
            Ok(amount.and_then(|amount| moment.plus(amount, step)).map(Item::Moment))
        }
        (Plus, Item::Quantity(left), Item::Quantity(right)) => Ok(left.plus(right, 1)?.map(Item::Quantity)),
        (Minus, Item::Quantity(left), Item::Quantity(right)) => Ok(left.plus(right, -1)?.map(Item::Quantity)),
        (Times | Over, Item::Quantity(quantity), factor) if number(factor).is_some() => {
            let value = number(factor).and_then(|factor| match operator {
                Times => quantity.value.times(factor),
                _ => quantity.value.over(factor),
            });
            Ok(value.map(|value| Item::Quantity(Quantity { value, unit: quantity.unit.clone() })))
        }
        _ => Err(no_numbers()),
    }
}

fn no_numbers() -> Fault {
    Fault::Mismatch("Something is calculated that are no numbers.")
}

/// `&`: nothing is an empty text.
pub(super) fn joined<'a>(left: Option<&Item<'a>>, right: Option<&Item<'a>>) -> Result<Item<'a>, Fault> {
    let text = |item: Option<&Item<'a>>| match item {
        None => Ok(String::new()),
        Some(item) if item.atom().is_none() && valueless(item) => Ok(String::new()),
        Some(item) => shown(item).ok_or(Fault::Mismatch("Only strings are joined with &.")),
    };
    Ok(Item::Text(Cow::Owned(text(left)? + &text(right)?)))
}
