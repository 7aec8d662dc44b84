//! Reading and searching what the program publishes ([`crate::fhir::published`]): every partner may, nobody writes.
//!
//! The same questions as to the store, answered in memory; not on record, for no resource here is about a person.

use std::cmp::Ordering;

use super::{App, Found, Stored};
use crate::error::Error;
use crate::fhir::bundle::Hit;
use crate::fhir::search::{Cursor, Order, Query, satisfies};
use crate::fhir::{Key, Resource, published, search_index};

impl App {
    /// The one at this place, in its one version.
    pub(super) fn published(&self, key: &Key) -> Result<Stored, Error> {
        let found = published::at(key).ok_or_else(|| Error::not_found(key.kind.name(), &key.id))?;
        Ok(Stored {
            key: key.clone(),
            number: 0,
            version: found.version().unwrap_or(1),
            updated: published::changed(),
            created: published::changed(),
            author: self.gateway().to_string(),
            deleted: false,
            method: "PUT".into(),
            content: found.to_text().into(),
        })
    }

    /// Those that a query finds.
    pub(super) fn find_published(&self, query: &Query) -> Found {
        let mut found: Vec<(Vec<String>, &str, &Resource)> = Vec::new();
        for resource in published::all().iter().filter(|resource| resource.kind() == query.kind) {
            let id = resource.id().unwrap_or_default();
            let rows = search_index::rows(resource, self.own());
            if query.filters.iter().all(|filter| satisfies(filter, id, published::changed(), &rows)) {
                let places = query.sort.iter().map(|sort| place_in(sort.by, id, &rows)).collect();
                found.push((places, id, resource));
            }
        }
        found.sort_by(|one, other| {
            let way = |descending: bool, order: Ordering| if descending { order.reverse() } else { order };
            let keys = query.sort.iter().zip(one.0.iter().zip(&other.0));
            let by_keys = keys.map(|(sort, (one, other))| way(sort.descending, one.cmp(other)));
            let last = query.sort.last().is_some_and(|sort| sort.descending);
            by_keys.fold(Ordering::Equal, Ordering::then).then(way(last, one.1.cmp(other.1)))
        });
        let total = query.total.then_some(found.len() as u64);
        if let Some(cursor) = &query.cursor {
            let before = found.iter().position(|(_, id, _)| *id == cursor.id).map_or(0, |place| place + 1);
            found.drain(..before);
        }
        let more = found.len() > query.count;
        found.truncate(query.count);
        let next =
            found.last().filter(|_| more).map(|(_, id, _)| Cursor { key: 0, id: (*id).to_string(), moment: None });
        let hit = |(_, id, resource): &(Vec<String>, &str, &Resource)| Hit {
            full_url: format!("{}/{}/{id}", self.own(), resource.kind()),
            content: resource.to_text().into(),
            mode: "match",
        };
        Found { hits: found.iter().map(hit).collect(), total, next, horizon: self.store().horizon() }
    }
}

/// What orders it; what has no such value comes first, and equals are ordered by id.
fn place_in(order: Order, id: &str, rows: &[search_index::Row]) -> String {
    match order {
        Order::Created | Order::Updated => String::new(),
        Order::Id => id.to_string(),
        Order::Date(name) | Order::Value(name) => {
            let row = rows.iter().find(|row| row.parameter == name);
            row.map_or_else(String::new, |row| format!("{:020}{}", row.low, row.value))
        }
    }
}
