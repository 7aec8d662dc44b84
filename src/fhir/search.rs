//! A search as the client asked it: query text becomes a typed [`Query`] or a 400 that says which parameter is wrong.
//!
//! Unknown parameters are ignored and left out of the self link, or refused when the client asks for
//! `handling=strict`; unknown modifiers are always refused (design D16). Here: the query as a whole. What a condition
//! asks is `filter`'s, reading one parameter's `condition`'s, its values `value`'s, and what holds of one resource in
//! memory `satisfies`'s. Leaves out how a search is answered (store). <https://hl7.org/fhir/R4/search.html>

mod condition;
mod filter;
mod person;
mod satisfies;
mod value;
mod whole;

use super::resource::ResourceType;
use super::search_index::{ParameterType, parameter, parameters};
use crate::error::Error;
use crate::id;
use crate::time::Timestamp;

pub use filter::{Amount, Filter, Prefix, Test, Token};
pub use satisfies::{foreign_references, foreign_references_of, satisfies};
pub use whole::Search;

/// Entries of a page unless the client asks otherwise (design D16a).
pub const DEFAULT_PAGE: usize = 200;
/// Most entries of a page.
pub const MAX_PAGE: usize = 1_000;
/// Most values of one query, commas included, and most codes that one of them means.
const MAX_VALUES: usize = 500;
/// Most references one after the other in a chain, or one inside the other in `_has`.
pub const MAX_CHAIN: usize = 3;
/// Most keys of `_sort`.
const MAX_KEYS: usize = 4;
/// Most changes under way at the moment of a first page.
pub const MAX_OPEN: usize = 64;
/// Most `_include`s and `_revinclude`s.
const MAX_INCLUDES: usize = 50;

/// What the results are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Creation; an unchanging key, so that pages don't shift (design D16a).
    Created,
    /// `_lastUpdated`
    Updated,
    /// `_id`
    Id,
    /// A parameter of type date or quantity.
    Date(&'static str),
    /// A parameter of any other type.
    Value(&'static str),
}

/// One key of an order. Equal keys are ordered by the id, in the way of the last key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// The key.
    pub by: Order,
    /// Newest or largest first.
    pub descending: bool,
}

/// `_include` and `_revinclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The type that refers.
    pub source: ResourceType,
    /// Its reference parameters.
    pub names: Vec<&'static str>,
    /// Only targets of this type.
    pub target: Option<ResourceType>,
    /// Also of what was included (`:iterate`).
    pub iterate: bool,
    /// From the target to who refers to it (`_revinclude`).
    pub reverse: bool,
}

/// When the first page of a search was read. In an order that changes, all its pages show what stood then, as it stood
/// then: so nothing moves from page to page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// What was stamped up to here stood then, in microseconds,
    pub at: i64,
    /// but for these stamps: what they stand on was under way.
    pub open: Vec<i64>,
}

impl Moment {
    /// What was stamped up to here stood then, without exception.
    pub fn floor(&self) -> i64 {
        self.open.iter().min().map_or(self.at, |first| self.at.min(first.saturating_sub(1)))
    }
}

/// Where the next page begins; made of an unchanging or time key and an id, never of health data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Where the only key is a time: the last entry's, in microseconds. Else its version, of which the keys are looked up.
    pub key: i64,
    /// The id of the last entry.
    pub id: String,
    /// Of an order that changes.
    pub moment: Option<Moment>,
}

impl Cursor {
    /// The opaque form in a link: `key.id`, or `key~moment~open.id`, numbers in hexadecimal, those that are open as their
    /// distance from the moment.
    pub fn to_text(&self) -> String {
        let moment = self.moment.as_ref().map(|moment| {
            let open: Vec<String> =
                moment.open.iter().map(|stamp| format!("~{:x}", moment.at.saturating_sub(*stamp))).collect();
            format!("~{:x}{}", moment.at, open.concat())
        });
        format!("{:x}{}.{}", self.key, moment.unwrap_or_default(), self.id)
    }
    fn read(text: &str, is_id: impl Fn(&str) -> bool) -> Option<Self> {
        let (numbers, id) = text.split_once('.')?;
        let mut numbers = numbers.split('~').map(|number| i64::from_str_radix(number, 16).ok());
        let (key, at) = (numbers.next()??, numbers.next());
        let open: Option<Vec<i64>> = numbers.take(MAX_OPEN + 1).collect();
        let open = open.filter(|open| open.len() <= MAX_OPEN)?;
        let moment = match at {
            None => None,
            Some(None) => return None,
            Some(Some(at)) => Some(Moment { at, open: open.iter().map(|before| at.saturating_sub(*before)).collect() }),
        };
        is_id(id).then(|| Cursor { key, id: id.to_string(), moment })
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The type searched.
    pub kind: ResourceType,
    /// All must hold.
    pub filters: Vec<Filter>,
    /// The order of the results; never empty.
    pub sort: Vec<Sort>,
    /// Most matches of a page; 0 asks for the total alone.
    pub count: usize,
    /// Where the page begins.
    pub cursor: Option<Cursor>,
    /// What to add to the page.
    pub includes: Vec<Include>,
    /// Whether the total was asked for.
    pub total: bool,
    /// The parameters that were used, for the self link.
    pub used: Vec<(String, String)>,
    /// This server's base: references to it are relative in the index.
    pub own: String,
}

impl Query {
    /// Whether its order is one in which resources move when they change: any but creation's and the ids'.
    pub fn is_ordered_by_change(&self) -> bool {
        self.sort.iter().any(|sort| match sort.by {
            Order::Created | Order::Id => false,
            Order::Updated | Order::Date(_) | Order::Value(_) => true,
        })
    }

    /// The same, asked now: what is approximately a date lies no further from it than a tenth of its distance from now,
    /// as R4 recommends. <https://hl7.org/fhir/R4/search.html#prefix>
    #[must_use]
    pub fn asked_at(mut self, now: Timestamp) -> Query {
        for filter in &mut self.filters {
            filter.each_date(&mut |prefix, from, to| {
                if prefix == Prefix::Ap {
                    let distance = from.saturating_sub(now.0).max(now.0.saturating_sub(*to)).max(0);
                    (*from, *to) = (from.saturating_sub(distance / 10), to.saturating_add(distance / 10));
                }
            });
        }
        self
    }
}

/// What became of one parameter.
enum Applied {
    /// Used as it was written.
    Whole,
    /// Used as far as it is known: this much of it.
    Part(String),
    /// Not known.
    Unknown,
}

/// Reads a query. `own` is this server's base.
pub fn parse(kind: ResourceType, pairs: &[(String, String)], own: &str, strict: bool) -> Result<Query, Error> {
    let by_creation = Sort { by: Order::Created, descending: true };
    let mut query = Query {
        kind,
        filters: Vec::new(),
        sort: Vec::new(),
        count: DEFAULT_PAGE,
        cursor: None,
        includes: Vec::new(),
        total: false,
        used: Vec::new(),
        own: own.to_string(),
    };
    let mut values = 0;
    for (name, value) in pairs {
        values += 1 + value.matches(',').count();
        if values > MAX_VALUES {
            return Err(Error::malformed("This search has too many values.").code("too-costly"));
        }
        // What is said twice is said once.
        if value.is_empty() || query.used.iter().any(|(known, its)| known == name && its == value) {
            continue;
        }
        if ONCE.contains(&name.as_str()) && query.used.iter().any(|(known, _)| known == name) {
            return Err(bad(name, "stands here at most once."));
        }
        match apply(&mut query, name, value, own)? {
            Applied::Whole => query.used.push((name.clone(), value.clone())),
            Applied::Part(_) | Applied::Unknown if strict => return Err(unknown(kind, name)),
            Applied::Part(part) => query.used.push((name.clone(), part)),
            Applied::Unknown => {}
        }
    }
    // whatever else is said, a count has no entries.
    if query.used.iter().any(|(name, value)| name == "_summary" && value == "count") {
        (query.count, query.total) = (0, true);
    }
    if query.sort.is_empty() {
        query.sort.push(by_creation);
    }
    Ok(query)
}

/// Parameters that mean nothing when they are given twice with different values.
const ONCE: [&str; 5] = ["_count", "_page", "_total", "_summary", "_sort"];

fn unknown(kind: ResourceType, name: &str) -> Error {
    Error::malformed(format!(
        "{kind} has no search parameter “{}” here, or not all of this one; /metadata lists them.",
        shown(name)
    ))
    .code("not-supported")
}

/// A parameter's name as an error may repeat it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_:.".contains(*c)).take(64).collect()
}

fn bad(name: &str, what: &str) -> Error {
    Error::malformed(format!("The search parameter {} {what}", shown(name))).code("value")
}

/// Puts one parameter into the query.
fn apply(query: &mut Query, written: &str, value: &str, own: &str) -> Result<Applied, Error> {
    let (name, modifier) = match written.split_once(':') {
        Some((name, modifier)) => (name, Some(modifier)),
        None => (written, None),
    };
    let applied = match name {
        "_count" => {
            query.count = value.parse::<usize>().map_err(|_| bad(name, "is no number."))?.min(MAX_PAGE);
            query.total |= query.count == 0;
            Applied::Whole
        }
        // What is shown of each resource is no question of what is found ([`super::subset`]).
        "_summary" => match value {
            "count" | "true" | "text" | "data" | "false" => Applied::Whole,
            _ => Applied::Unknown,
        },
        "_total" => {
            // An estimate that is right is one, too.
            query.total |= match value {
                "none" => false,
                "estimate" | "accurate" => true,
                _ => return Err(bad(name, "is none, estimate or accurate.")),
            };
            Applied::Whole
        }
        "_page" => {
            query.cursor =
                Some(Cursor::read(value, id::is_valid).ok_or_else(|| bad(name, "is not one of our links."))?);
            Applied::Whole
        }
        "_sort" => sort(query, value)?,
        "_include" | "_revinclude" => return include(query, name == "_revinclude", modifier, value),
        "_format" | "_pretty" | "_elements" => Applied::Whole,
        "_contained" if value == "false" => Applied::Whole,
        // a query that is ignored would answer another question.
        "_query" => return Err(bad(name, "names a query that is not known here.").code("not-supported")),
        _ => {
            return Ok(match condition::read(query.kind, written, value, own, 0)? {
                None => Applied::Unknown,
                Some(filter) => {
                    query.filters.push(filter);
                    Applied::Whole
                }
            });
        }
    };
    match modifier {
        Some(_) => Err(bad(name, "takes no such modifier.")),
        None => Ok(applied),
    }
}

/// `_sort`: keys that are not known are left out.
fn sort(query: &mut Query, value: &str) -> Result<Applied, Error> {
    let mut kept = Vec::new();
    for key in value.split(',') {
        let (name, descending) = key.strip_prefix('-').map_or((key, false), |name| (name, true));
        let by = match (name, parameter(query.kind, name)) {
            ("_lastUpdated" | "_lastupdated", _) => Order::Updated,
            ("_id", _) => Order::Id,
            (_, Some(known)) => match known.kind {
                ParameterType::Date | ParameterType::Quantity => Order::Date(known.name),
                ParameterType::Token
                | ParameterType::Reference
                | ParameterType::Text
                | ParameterType::Uri
                | ParameterType::Canonical
                | ParameterType::Composite => Order::Value(known.name),
            },
            (_, None) => continue,
        };
        kept.push(key);
        query.sort.push(Sort { by, descending });
    }
    if kept.len() > MAX_KEYS {
        return Err(bad("_sort", "has too many keys.").code("too-costly"));
    }
    let whole = kept.join(",");
    Ok(if kept.is_empty() {
        Applied::Unknown
    } else if whole == value {
        Applied::Whole
    } else {
        Applied::Part(whole)
    })
}

fn include(query: &mut Query, reverse: bool, modifier: Option<&str>, value: &str) -> Result<Applied, Error> {
    let name = if reverse { "_revinclude" } else { "_include" };
    let iterate = match modifier {
        None => false,
        Some("iterate" | "recurse") => true,
        Some(_) => return Err(bad(name, "takes no such modifier.")),
    };
    let mut parts = value.split(':');
    let (source, path, target) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let source = match source {
        "*" if !reverse && path.is_none() => Some(query.kind),
        // The guide's own statement spells HealthcareService with a capital C (gravity §4.2).
        source => ResourceType::all().find(|known| known.name().eq_ignore_ascii_case(source)),
    };
    // What the matches are not, only what was included can be.
    let Some(source) = source.filter(|source| reverse || iterate || *source == query.kind) else {
        return Ok(Applied::Unknown);
    };
    let path = path.unwrap_or(if value == "*" { "*" } else { "" });
    let found = parameters(source)
        .filter(|known| matches!(known.kind, ParameterType::Reference | ParameterType::Canonical))
        .filter(|known| known.name == path || path == "*");
    let names: Vec<&'static str> = found.map(|known| known.name).collect();
    if names.is_empty() {
        return Ok(Applied::Unknown);
    }
    let target = match target {
        None => None,
        Some(kind) => Some(ResourceType::parse(kind).ok_or_else(|| bad(name, "names a type that is not known here."))?),
    };
    if query.includes.len() >= MAX_INCLUDES {
        return Err(bad(name, "stands here too often.").code("too-costly"));
    }
    query.includes.push(Include { source, names, target, iterate, reverse });
    Ok(Applied::Whole)
}

#[cfg(test)]
mod tests;
