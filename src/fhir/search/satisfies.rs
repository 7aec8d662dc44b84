//! Whether one resource satisfies a condition: what the store answers in SQL, answered in memory for subscription
//! filters, and the naive model that the store's answers are compared with.

use super::super::reference::split_absolute;
use super::super::search_index::{Row, SEPARATOR};
use super::{Filter, Query, Test, Token};
use crate::time::Timestamp;

/// Whether a resource with these index rows satisfies a condition. One about other resources is never satisfied here
/// ([`Filter::is_of_one_resource`]).
pub fn satisfies(filter: &Filter, id: &str, updated: Timestamp, rows: &[Row]) -> bool {
    match filter {
        Filter::Ids(ids) => ids.iter().any(|wanted| wanted == id),
        Filter::Updated(prefix, from, to) => prefix.holds((updated.0, updated.0 + 1), (*from, *to)),
        Filter::Indexed { name, test, not } => {
            let mut mine = rows.iter().filter(|row| row.parameter == *name);
            let found = match test {
                Test::Present(wanted) => mine.next().is_some() == *wanted,
                _ => mine.any(|row| holds(test, row)),
            };
            found != *not
        }
        Filter::Refers { names, to } => rows.iter().any(|row| names.contains(&row.parameter) && row.value == *to),
        Filter::Chain { .. } | Filter::Has { .. } => false,
        Filter::Any(ways) => ways.iter().any(|all| all.iter().all(|filter| satisfies(filter, id, updated, rows))),
    }
}

fn holds(test: &Test, row: &Row) -> bool {
    match test {
        Test::Present(wanted) => *wanted,
        Test::Tokens(list) => list.iter().any(|token| is_token(token, &row.system, &row.value)),
        Test::Says(list) => list.iter().any(|text| row.text.contains(&format!("\n{text}"))),
        Test::References(list) | Test::Is(list) => list.contains(&row.value),
        Test::Pairs(list) => {
            let (systems, codes) = (row.system.split_once(SEPARATOR), row.value.split_once(SEPARATOR));
            let (Some(systems), Some(codes)) = (systems, codes) else { return false };
            list.iter().any(|(one, other)| is_token(one, systems.0, codes.0) && is_token(other, systems.1, codes.1))
        }
        Test::Begins(list) => list.iter().any(|text| row.value.starts_with(text)),
        Test::Contains(list) => list.iter().any(|text| row.value.contains(text)),
        Test::Exact(list) => list.contains(&row.system),
        Test::Below(list) => list.iter().any(|text| row.value.starts_with(text)),
        Test::Above(list) => list.iter().any(|text| text.starts_with(&row.value)),
        Test::Dates(list) => list.iter().any(|(prefix, from, to)| prefix.holds((row.low, row.high), (*from, *to))),
        Test::Amounts(list) => list.iter().any(|one| {
            one.prefix.holds((row.low, row.high), (one.from, one.to))
                && one.system.as_ref().is_none_or(|system| *system == row.system)
                && one.unit.as_ref().is_none_or(|unit| *unit == row.value)
        }),
    }
}

fn is_token(token: &Token, system: &str, code: &str) -> bool {
    token.system.as_ref().is_none_or(|wanted| wanted == system)
        && token.code.as_ref().is_none_or(|wanted| wanted == code)
}

/// The absolute URLs of other servers that a query's references name, so that they can be looked up among the
/// copies.
pub fn foreign_references(query: &Query) -> Vec<String> {
    foreign_references_of(&query.filters)
}

/// The same of conditions.
pub fn foreign_references_of(filters: &[Filter]) -> Vec<String> {
    let mut found = Vec::new();
    for filter in filters {
        filter.clone().each_references(&mut |list| {
            found.extend(list.iter().filter(|text| split_absolute(text).is_some()).cloned());
        });
    }
    found
}
