//! From one type to another, and rounding. What can't be converted is empty.
//!
//! <https://hl7.org/fhirpath/N1/#conversion>, <https://hl7.org/fhirpath/N1/#math>

use std::borrow::Cow;

use super::Fault;
use super::date::{Moment, Shape};
use super::decimal::Decimal;
use super::evaluate::{Evaluator, Items, Scope, known, single};
use super::functions::Function;
use super::item::{Item, shown};
use super::operators::number;
use super::parse::Tree;
use super::quantity::{Quantity, Unit};

/// Most places that `round` is asked for.
const MOST_PLACES: i64 = 38;

impl<'a> Evaluator<'_, 'a> {
    pub(super) fn converted(
        &self,
        function: Function,
        input: &[Item<'a>],
        arguments: &'a [Tree],
        scope: &Scope<'a>,
    ) -> Result<Items<'a>, Fault> {
        let Some(item) = single(input)? else { return Ok(Vec::new()) };
        self.here(item)?;
        let asked = |converted: Option<Item<'a>>| known(Some(converted.is_some()));
        let made = |converted: Option<Item<'a>>| converted.into_iter().collect();
        Ok(match function {
            Function::ToBoolean => made(boolean(item)),
            Function::ToInteger => made(integer(item)),
            Function::ToDecimal => made(decimal(item)),
            Function::ToString => made(text(item)),
            Function::ToDate => made(date(item)),
            Function::ToDateTime => made(date_time(item)),
            Function::ToTime => made(time(item)),
            Function::ToQuantity => made(quantity(item)),
            Function::ConvertsToBoolean => asked(boolean(item)),
            Function::ConvertsToInteger => asked(integer(item)),
            Function::ConvertsToDecimal => asked(decimal(item)),
            Function::ConvertsToString => asked(text(item)),
            Function::ConvertsToDate => asked(date(item)),
            Function::ConvertsToDateTime => asked(date_time(item)),
            Function::ConvertsToTime => asked(time(item)),
            Function::ConvertsToQuantity => asked(quantity(item)),
            Function::Abs => made(signless(item)?),
            Function::Ceiling => made(whole(item, Decimal::ceiling)?),
            Function::Floor => made(whole(item, Decimal::floor)?),
            Function::Truncate => made(whole(item, Decimal::truncated)?),
            Function::Round => {
                let places = match single(&self.argument(arguments, 0, scope)?)?.and_then(Item::atom) {
                    None => 0,
                    Some(Item::Integer(places @ 0..=MOST_PLACES)) => u32::try_from(places).unwrap_or(0),
                    Some(_) => return Err(Fault::Mismatch("round is given a number of places.")),
                };
                made(numeric(item)?.rounded(places).map(Item::Decimal))
            }
            _ => Vec::new(),
        })
    }

    pub(super) fn clock(&self, function: Function) -> Result<Items<'a>, Fault> {
        let now = self.context.now.and_then(Moment::of).ok_or_else(|| Fault::NotKnown("the time".into()))?;
        Ok(vec![Item::Moment(match function {
            Function::Today => now.to_date(),
            Function::TimeOfDay => now.to_time(),
            _ => now,
        })])
    }
}

fn numeric(item: &Item<'_>) -> Result<Decimal, Fault> {
    number(item).ok_or(Fault::Mismatch("Only a number is rounded."))
}

fn whole<'a>(item: &Item<'a>, to: impl Fn(Decimal) -> Option<Decimal>) -> Result<Option<Item<'a>>, Fault> {
    Ok(to(numeric(item)?).and_then(Decimal::to_integer).map(Item::Integer))
}

fn signless<'a>(item: &Item<'a>) -> Result<Option<Item<'a>>, Fault> {
    match item.atom() {
        Some(Item::Integer(number)) => Ok(number.checked_abs().map(Item::Integer)),
        Some(Item::Decimal(number)) => Ok(number.absolute().map(Item::Decimal)),
        Some(Item::Quantity(one)) => {
            Ok(one.value.absolute().map(|value| Item::Quantity(Quantity { value, unit: one.unit })))
        }
        _ => Err(Fault::Mismatch("Only a number has a sign.")),
    }
}

fn boolean<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let flag = match item.atom()? {
        Item::Boolean(flag) => flag,
        Item::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" | "1.0" => true,
            "false" | "f" | "no" | "n" | "0" | "0.0" => false,
            _ => return None,
        },
        other => match number(&other)?.to_integer()? {
            1 => true,
            0 => false,
            _ => return None,
        },
    };
    Some(Item::Boolean(flag))
}

fn integer<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let number = match item.atom()? {
        Item::Integer(number) => number,
        Item::Boolean(flag) => i64::from(flag),
        Item::Text(text) => text.parse::<i32>().ok()?.into(),
        _ => return None,
    };
    Some(Item::Integer(number))
}

fn decimal<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let number = match item.atom()? {
        Item::Boolean(flag) => Decimal::from(i64::from(flag)),
        Item::Text(text) if !text.contains(['e', 'E']) => Decimal::parse(&text)?,
        other => number(&other)?,
    };
    Some(Item::Decimal(number))
}

fn text<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    shown(item).map(|text| Item::Text(Cow::Owned(text)))
}

fn date<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let moment = match item.atom()? {
        Item::Moment(moment) if moment.shape() != Shape::Time => moment,
        Item::Text(text) => Moment::date_time(&text)?,
        _ => return None,
    };
    Some(Item::Moment(moment.to_date()))
}

fn date_time<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let moment = match item.atom()? {
        Item::Moment(moment) if moment.shape() != Shape::Time => moment,
        Item::Text(text) => Moment::date_time(&text)?,
        _ => return None,
    };
    Some(Item::Moment(moment.to_date_time()))
}

fn time<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    match item.atom()? {
        Item::Moment(moment) if moment.shape() == Shape::Time => Some(Item::Moment(moment)),
        Item::Text(text) => Moment::time(&text).map(Item::Moment),
        _ => None,
    }
}

fn quantity<'a>(item: &Item<'a>) -> Option<Item<'a>> {
    let bare = |value| Quantity { value, unit: Unit::Ucum("1".into()) };
    let quantity = match item.atom()? {
        Item::Quantity(quantity) => quantity,
        Item::Text(text) => Quantity::parse(&text)?,
        Item::Boolean(flag) => bare(Decimal::from(i64::from(flag))),
        other => bare(number(&other)?),
    };
    Some(Item::Quantity(quantity))
}
