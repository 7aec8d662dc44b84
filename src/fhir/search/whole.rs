//! A search with its place: over one type, over several, or over what a patient's compartment holds of them.
//!
//! Over several types each has a query of its own; what they have in common is asked of all of them, and the pages follow
//! one time: creation, or the last change. What not every type knows is as unknown as what none does (D16); an `_include`
//! is known where one type has it. <https://hl7.org/fhir/R4/http.html#vsearch>,
//! <https://hl7.org/fhir/R4/search.html#searchcontexts>

use std::cmp::Ordering;

use super::super::compartment;
use super::super::query::once;
use super::super::resource::{Key, ResourceType};
use super::{Cursor, Include, Query, bad, parse, shown};
use crate::error::Error;
use crate::time::Timestamp;

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Where it looks, below the base: `Task`, `Patient/1/Task`, `Patient/1/*`; empty for everything.
    pub address: String,
    /// One for each type, alike but for their conditions; never empty.
    pub queries: Vec<Query>,
    /// Whether it is over any number of types, one included: then a link says of which its last entry is.
    pub several: bool,
    /// Whether its types were named, and must all be readable.
    pub named: bool,
}

impl Search {
    /// Over one type, of a patient's compartment or of all.
    pub fn of_type(
        kind: ResourceType,
        patient: Option<&str>,
        pairs: &[(String, String)],
        own: &str,
        strict: bool,
    ) -> Result<Search, Error> {
        let mut query = parse(kind, pairs, own, strict)?;
        query.filters.extend(patient.map(|patient| compartment::within(kind, patient)));
        let address = patient.map_or_else(|| kind.to_string(), |patient| format!("Patient/{patient}/{kind}"));
        Ok(Search { address, queries: vec![query], several: false, named: true })
    }

    /// Over those of these types that `_type` names, or all of them.
    pub fn of_types(
        kinds: &[ResourceType],
        patient: Option<&str>,
        pairs: &[(String, String)],
        own: &str,
        strict: bool,
    ) -> Result<Search, Error> {
        let named = once(pairs, "_type")?;
        let kinds = match named {
            Some(names) => chosen(kinds, names)?,
            None => kinds.to_vec(),
        };
        let place = once(pairs, "_page")?.map(|text| {
            let cursor = Cursor::read(text, |id| Key::parse(id).is_some_and(|key| key.to_string() == id));
            cursor.and_then(|cursor| Some((Key::parse(&cursor.id)?, cursor)))
        });
        let place = place.map(|place| place.ok_or_else(|| bad("_page", "is not one of our links."))).transpose()?;
        let apart = |name: &str| name == "_type" || name == "_page";
        let asked: Vec<(String, String)> = pairs.iter().filter(|pair| !apart(&pair.0)).map(by_time).collect();
        let each: Vec<Query> =
            kinds.iter().map(|kind| parse(*kind, &asked, own, false)).collect::<Result<_, Error>>()?;
        let used = |pair: &&(String, String)| {
            let mut uses = each.iter().map(|query| query.used.contains(pair));
            if is_include(&pair.0) { uses.any(|used| used) } else { uses.all(|used| used) }
        };
        let common: Vec<(String, String)> = asked.iter().filter(used).cloned().collect();
        if strict
            && let Some((name, _)) =
                pairs.iter().find(|pair| !apart(&pair.0) && !pair.1.is_empty() && !common.contains(pair))
        {
            let text =
                format!("Not all of these types have the search parameter “{}”; name fewer in _type.", shown(name));
            return Err(Error::malformed(text).code("not-supported"));
        }
        let mut includes: Vec<Include> = Vec::new();
        for include in each.into_iter().flat_map(|query| query.includes) {
            if !includes.contains(&include) {
                includes.push(include);
            }
        }
        let conditions: Vec<(String, String)> = common.iter().filter(|pair| !is_include(&pair.0)).cloned().collect();
        let used: Vec<(String, String)> = pairs
            .iter()
            .filter(|pair| (apart(&pair.0) && !pair.1.is_empty()) || common.contains(pair))
            .cloned()
            .collect();
        let mut queries = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let mut query = parse(kind, &conditions, own, true)?;
            query.filters.extend(patient.map(|patient| compartment::within(kind, patient)));
            query.cursor = place.as_ref().map(|(last, cursor)| seen_from(last, cursor, &query));
            (query.includes, query.used) = (includes.clone(), used.clone());
            queries.push(query);
        }
        let address = patient.map_or_else(String::new, |patient| format!("Patient/{patient}/*"));
        Ok(Search { address, queries, several: true, named: named.is_some() })
    }

    /// What is the same in all its queries: order, size, includes, what was used.
    pub fn first(&self) -> Option<&Query> {
        self.queries.first()
    }

    /// Its type, if it is a search over one.
    pub fn kind(&self) -> Option<ResourceType> {
        self.first().filter(|_| !self.several).map(|query| query.kind)
    }

    /// [`Query::asked_at`] of all.
    #[must_use]
    pub fn asked_at(mut self, now: Timestamp) -> Search {
        self.queries = self.queries.into_iter().map(|query| query.asked_at(now)).collect();
        self
    }

    /// Where the page behind this entry begins: its time and its id, and its type where there are several.
    pub fn behind(&self, last: &Key, cursor: Cursor) -> Cursor {
        if self.several { Cursor { id: last.to_string(), ..cursor } } else { cursor }
    }
}

fn is_include(name: &str) -> bool {
    ["_include", "_revinclude"].contains(&name.split(':').next().unwrap_or(name))
}

/// Several types are ordered by a time that all have; any other key of `_sort` is none here.
fn by_time((name, value): &(String, String)) -> (String, String) {
    let known = value.strip_prefix('-').unwrap_or(value).eq_ignore_ascii_case("_lastUpdated");
    let name = if name == "_sort" && !known { "_sort-by-type" } else { name };
    (name.to_string(), value.clone())
}

/// The types that `_type` names.
fn chosen(offered: &[ResourceType], names: &str) -> Result<Vec<ResourceType>, Error> {
    let mut chosen = Vec::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let kind = ResourceType::parse(name).filter(|kind| offered.contains(kind));
        let kind = kind.ok_or_else(|| bad("_type", "names a type that is not searched here together with others."))?;
        if !chosen.contains(&kind) {
            chosen.push(kind);
        }
    }
    if chosen.is_empty() { Err(bad("_type", "names no type.")) } else { Ok(chosen) }
}

/// The place of an entry among the resources of another query's type: those of one time stand in the order of their
/// types' names.
fn seen_from(last: &Key, cursor: &Cursor, query: &Query) -> Cursor {
    let (at, moment) = (cursor.key, cursor.moment.clone());
    let descending = query.sort.last().is_some_and(|sort| sort.descending);
    // No id is empty: it stands before all others of its time.
    let (key, id) = match query.kind.name().cmp(last.kind.name()) {
        Ordering::Equal => (at, last.id.clone()),
        // All of that time were shown.
        Ordering::Less => (if descending { at } else { at.saturating_add(1) }, String::new()),
        // None of that time was.
        Ordering::Greater => (if descending { at.saturating_add(1) } else { at }, String::new()),
    };
    Cursor { key, id, moment }
}
