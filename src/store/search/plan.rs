//! Which way a page is read, so that it costs the same among a million resources as among ten.
//!
//! - *A short list*: a condition that few resources satisfy (an id, an identifier, one patient) drives the search, and the
//!   page is sorted. What is short is known by the parameter, or found out by counting no further than [`SHORT`].
//! - *A walk*: index rows that stand in the order of the page are read along until it is full. Of a party's Tasks of one
//!   status, of a status, or of a type.
//!
//! No statistics are needed, and the answer is the same either way.

use crate::fhir::ResourceType;
use crate::fhir::search::{Filter, Order, Prefix, Query, Test};
use crate::fhir::search_index::{carries_status, has_many, is_ordered};

/// Up to so many rows are sorted; more are walked.
pub(in crate::store) const SHORT: i64 = 1_000;
/// Most walks that are joined into one page: values of a list times statuses.
const MAX_WALKS: usize = 12;

/// Tokens and uris whose one value few resources have; of a status or a code, many do.
const SELECTIVE: [&str; 5] = ["identifier", "group-identifier", "requisition", "url", "phone"];

/// A walk along the index rows of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) parameter: &'static str,
    /// One walk each.
    pub(super) values: Vec<String>,
    /// Where a party's rows carry it: the statuses asked for, one walk each; empty for any.
    pub(super) statuses: Vec<String>,
    /// The filters it answers.
    pub(super) answers: Vec<usize>,
}

/// A time that everything asked for is later than, if there is one.
pub(super) fn since(query: &Query) -> Option<i64> {
    let later = |filter: &Filter| match filter {
        Filter::Updated(Prefix::Gt | Prefix::Sa, _, to) => Some(to - 1),
        Filter::Updated(Prefix::Ge, from, _) => Some(from - 1),
        _ => None,
    };
    query.filters.iter().filter_map(later).max()
}

/// The filter that is known to hold of few resources, the shortest list first.
pub(super) fn short(filters: &[Filter]) -> Option<usize> {
    let rank = |filter: &Filter| match filter {
        Filter::Ids(_) => Some(0),
        // Of a patient, few speak.
        Filter::Refers { .. } => Some(2),
        Filter::Indexed { name, test: Test::Tokens(list), not: false } if SELECTIVE.contains(name) => {
            list.iter().all(|token| token.code.is_some()).then_some(1)
        }
        Filter::Indexed { name, test: Test::Is(_), not: false } if SELECTIVE.contains(name) => Some(1),
        // `:identifier` of a reference is one party's.
        Filter::Indexed { name, test: Test::References(_), not: false } if !has_many(name) => Some(2),
        _ => None,
    };
    let ranked = filters.iter().enumerate().filter_map(|(index, filter)| Some((rank(filter)?, index)));
    ranked.min().map(|(_, index)| index)
}

/// The one time the page is ordered by, if it is.
pub(super) fn time_order(query: &Query) -> Option<(Order, bool)> {
    match query.sort.as_slice() {
        [one] => match one.by {
            Order::Created | Order::Updated => Some((one.by, one.descending)),
            Order::Id | Order::Date(_) | Order::Value(_) => None,
        },
        _ => None,
    }
}

/// The walk that answers most of these filters.
pub(super) fn walk(kind: ResourceType, filters: &[Filter]) -> Option<Walk> {
    let status = filters.iter().position(|filter| plain_statuses(filter).is_some());
    let statuses = status.and_then(|index| plain_statuses(filters.get(index)?)).unwrap_or_default();
    let party = filters.iter().enumerate().find_map(|(index, filter)| match filter {
        Filter::Indexed { name, test: Test::References(list), not: false } if !list.is_empty() => {
            Some((index, *name, list.clone()))
        }
        _ => None,
    });
    let walk = match (party, status) {
        (Some((index, name, values)), Some(status))
            if carries_status(kind, name) && values.len() * statuses.len() <= MAX_WALKS =>
        {
            Walk { parameter: name, values, statuses, answers: vec![index, status] }
        }
        (Some((index, name, values)), _) => {
            Walk { parameter: name, values, statuses: Vec::new(), answers: vec![index] }
        }
        (None, Some(status)) => {
            Walk { parameter: "status", values: statuses, statuses: Vec::new(), answers: vec![status] }
        }
        (None, None) => return None,
    };
    (is_ordered(kind, walk.parameter) && walk.values.len() <= MAX_WALKS).then_some(walk)
}

/// The codes of a condition on the status that speaks of codes alone.
fn plain_statuses(filter: &Filter) -> Option<Vec<String>> {
    let Filter::Indexed { name: "status", test: Test::Tokens(list), not: false } = filter else { return None };
    let codes = list.iter().map(|token| match token.system.as_deref() {
        None | Some("") => token.code.clone().filter(|code| !code.is_empty()),
        Some(_) => None,
    });
    codes.collect::<Option<Vec<String>>>().filter(|codes| !codes.is_empty())
}
