//! The record of who saw what, as AuditEvents: for auditors and operators, and reading it goes on record too.
//!
//! Nothing is stored twice: a row of the record is rendered when it is asked for, one event for each patient it was about.
//! Pages go along the record by time; what can't be asked of the rows is asked of the rendered events. A search looks
//! through [`LOOKED_AT`] rows for one page and answers with what it found and a next link, so that none is endless; a
//! total is counted over [`COUNTED`] rows or refused, never guessed.

use std::collections::HashMap;

use super::reading::access;
use super::{App, Context, Found, Stored};
use crate::config::{Partner, Role};
use crate::error::{Error, Kind};
use crate::fhir::audit_event::{Event, render};
use crate::fhir::bundle::Hit;
use crate::fhir::search::{Cursor, Filter, Order, Prefix, Query, Search, Test, satisfies};
use crate::fhir::{Key, Resource, ResourceType, query, search_index};
use crate::id;
use crate::store::{Access, Entry, Span, Tx};

/// Rows read at once, and most of them for one page.
const ROWS: i64 = 500;
const LOOKED_AT: usize = 20_000;
/// Most rows that are counted for one total.
const COUNTED: usize = 200_000;

/// What a refusal for want of consent is said of.
const CONSENT_PLACE: &str = "supportingInfo";

/// What was seen: references, each with its version.
type References = Vec<(String, i64)>;

impl App {
    /// One event.
    pub(super) async fn audit_event(&self, context: &Context, key: &Key) -> Result<Stored, Error> {
        self.check_auditor(context, 'r')?;
        let row = row_of(&key.id);
        let span = Span { from: row, till: &after(row), descending: false, partners: &[], about: None };
        let mut reader = self.store().read().await?;
        let rows = reader.entries_of(&span, 1).await?;
        let events = self.rendered(&mut reader, &rows).await?;
        drop(reader);
        let not_found = || Error::not_found(key.kind.name(), &key.id);
        let (row, event) = events.into_iter().find(|(_, event)| event.id() == Some(&key.id)).ok_or_else(not_found)?;
        self.0.recorder.record(access(context, "read", vec![(key.clone(), 1)])).await?;
        Ok(Stored {
            key: key.clone(),
            version: 1,
            updated: row.at,
            created: row.at,
            author: self.gateway().to_string(),
            deleted: false,
            method: "POST".into(),
            content: event.to_text().into(),
        })
    }

    /// A search over the record.
    pub(super) async fn find_audit_events(
        &self,
        context: &Context,
        query: &Query,
        asked: String,
    ) -> Result<Found, Error> {
        self.check_auditor(context, 's')?;
        if query.filters.iter().any(|filter| matches!(filter, Filter::Chain { .. } | Filter::Has { .. })) {
            return Err(Error::new(Kind::NotSupported, "AuditEvents are not searched by chains or _has."));
        }
        let descending = descending(query)?;
        let horizon = self.store().horizon();
        let kind = Some(ResourceType::AUDIT_EVENT);
        self.0.recorder.record(Access { kind, query: Some(asked), ..access(context, "search", Vec::new()) }).await?;
        let mut total = None;
        if query.total {
            let mut all = 0;
            let count = &mut |_: String, _: Resource| {
                all += 1;
                true
            };
            if self.walk(query, (false, None), COUNTED, count).await?.is_some() {
                let text =
                    "This is too much of the record to be counted; ask for less of it, by date, or leave out _total.";
                return Err(Error::new(Kind::TooLarge, text).code("too-costly"));
            }
            total = Some(all);
        }
        let (mut found, mut more) = (Vec::new(), false);
        let past = query.cursor.as_ref().map(|cursor| cursor.id.clone());
        let take = &mut |id: String, event: Resource| {
            more = found.len() >= query.count;
            if !more {
                found.push((id, event.to_text()));
            }
            !more
        };
        let stopped = match query.count {
            0 => None,
            _ => self.walk(query, (descending, past), LOOKED_AT, take).await?,
        };
        let next = match stopped {
            Some(last) => Some(format!("{last}.{}", usize::MAX)),
            None => found.last().filter(|_| more).map(|(id, _): &(String, String)| id.clone()),
        };
        let hit = |(id, content): (String, String)| {
            let full_url = format!("{}/AuditEvent/{id}", self.own());
            Hit { full_url, content: content.into(), mode: "match" }
        };
        let next = next.map(|id| Cursor { key: 0, id, moment: None });
        Ok(Found { hits: found.into_iter().map(hit).collect(), total, next, horizon })
    }

    /// Goes along the record, behind the event that was shown last, and shows each event that a query finds until nobody
    /// wants more; where it stopped, when it has looked at `most` rows before the end.
    async fn walk(
        &self,
        query: &Query,
        (descending, mut past): (bool, Option<String>),
        most: usize,
        show: &mut (dyn FnMut(String, Resource) -> bool + Send),
    ) -> Result<Option<String>, Error> {
        let (mut from, mut till) = bounds(query);
        let (partners, about) = (partners(query, self.gateway()), about(query));
        if let Some(id) = &past {
            // A row may be several events: it is looked at again, and what was shown is left out.
            match descending {
                true => till = till.min(after(row_of(id))),
                false => from = from.max(row_of(id).to_string()),
            }
        }
        let (mut looked, mut reader) = (0, self.store().read().await?);
        loop {
            let span = Span { from: &from, till: &till, descending, partners: &partners, about: about.as_ref() };
            let rows = reader.entries_of(&span, ROWS).await?;
            let Some(last) = rows.last().map(|row| row.id.clone()) else { return Ok(None) };
            looked += rows.len();
            for (row, event) in self.rendered(&mut reader, &rows).await? {
                let id = event.id().unwrap_or_default().to_string();
                if let Some(shown) = past.as_ref().filter(|shown| row_of(shown) == row.id) {
                    // Events of one row keep their order either way.
                    if place_of(&id) <= place_of(shown) {
                        continue;
                    }
                }
                let index = search_index::rows(&event, self.own());
                if query.filters.iter().all(|filter| satisfies(filter, &id, row.at, &index)) && !show(id, event) {
                    return Ok(None);
                }
            }
            past = None;
            if looked >= most {
                return Ok(Some(last));
            }
            match descending {
                true => till = last,
                false => from = after(&last),
            }
        }
    }

    /// A request that was refused goes on record: who asked for what, and got nothing; a referral without consent as the
    /// decision that it is. Faults of form show nothing and change nothing; they do not.
    pub async fn refused(
        &self,
        context: &Context,
        action: &'static str,
        why: &Error,
        about: Option<(ResourceType, Option<&str>)>,
    ) -> Result<(), Error> {
        let place = |expression: &String| expression.ends_with(CONSENT_PLACE);
        let consent = why.issues.iter().filter_map(|issue| issue.expression.as_ref()).any(place);
        let (action, about) = match why.kind {
            Kind::Refused if consent => ("consent", Some((ResourceType::SERVICE_REQUEST, None))),
            Kind::Forbidden | Kind::NotFound | Kind::Gone => (action, about),
            _ => return Ok(()),
        };
        let Some((kind, id)) = about else { return Ok(()) };
        let seen = id.map(|id| (Key::new(kind, id), 0)).into_iter().collect();
        let refused = Access { kind: Some(kind), outcome: 4, ..access(context, action, seen) };
        self.0.recorder.record(refused).await?;
        match id.filter(|_| kind == ResourceType::TASK && why.kind == Kind::NotFound) {
            Some(task) => self.told_of(&context.partner.id, task, "asked").await,
            None => Ok(()),
        }
    }

    /// What is about to be sent to a partner's server is on record first.
    pub(super) async fn sent_to(&self, partner: &Partner, stored: &Stored) -> Result<(), Error> {
        let seen = vec![(stored.key.clone(), stored.version)];
        let access = Access { partner: partner.id.clone(), action: "disclose", seen, ..Access::default() };
        self.0.recorder.record(access).await
    }

    /// What a search asked for, as it goes on record.
    pub(super) fn asked(&self, search: &Search) -> String {
        let used = search.first().map_or(&[][..], |query| query.used.as_slice());
        query::link(&search.address, used.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    fn check_auditor(&self, context: &Context, letter: char) -> Result<(), Error> {
        self.check_scope(context, ResourceType::AUDIT_EVENT, letter)?;
        if context.is(Role::Auditor) || context.is(Role::Operator) {
            return Ok(());
        }
        Err(Error::forbidden("The record of who saw what is for auditors."))
    }

    /// Rows as events, each with the row it is of.
    async fn rendered<'a>(&self, tx: &mut Tx, rows: &'a [Entry]) -> Result<Vec<(&'a Entry, Resource)>, Error> {
        let seen: Vec<Vec<(Key, i64)>> = rows.iter().map(seen_in).collect();
        let mut keys: Vec<Key> = seen.iter().flatten().map(|(key, _)| key.clone()).collect();
        keys.sort_unstable_by_key(Key::to_string);
        keys.dedup();
        let patients: HashMap<String, String> = tx.patients_of(&keys).await?.into_iter().collect();
        let mut out = Vec::new();
        for (row, seen) in rows.iter().zip(&seen) {
            let mut groups: Vec<(Option<String>, References)> = Vec::new();
            for (key, version) in seen {
                let patient = match key.kind {
                    ResourceType::PATIENT => Some(key.to_string()),
                    _ => patients.get(&key.to_string()).cloned(),
                };
                match groups.iter_mut().find(|(known, _)| *known == patient) {
                    Some((_, list)) => list.push((key.to_string(), *version)),
                    None => groups.push((patient, vec![(key.to_string(), *version)])),
                }
            }
            if groups.is_empty() {
                groups.push((None, Vec::new()));
            }
            for (place, (patient, seen)) in groups.iter().enumerate() {
                let id = if place == 0 { row.id.clone() } else { format!("{}.{place}", row.id) };
                let event = render(&Event {
                    id: &id,
                    at: row.at,
                    action: &row.action,
                    kind: &row.kind,
                    outcome: row.outcome,
                    partner: &row.partner,
                    token: row.token.as_deref(),
                    address: row.address.as_deref(),
                    query: row.query.as_deref(),
                    person: row.person.as_deref(),
                    request: &row.request,
                    seen,
                    patient: patient.as_deref(),
                    server: self.gateway(),
                    host: self.name_as_intermediary(),
                });
                out.push((row, Resource::from_value(event)?));
            }
        }
        Ok(out)
    }
}

/// What a row shows.
fn seen_in(row: &Entry) -> Vec<(Key, i64)> {
    match &row.detail {
        Some(listed) => {
            let one = |one: &str| {
                let (key, version) = one.rsplit_once('/')?;
                Some((Key::parse(key)?, version.parse().ok()?))
            };
            listed.split(' ').filter_map(one).collect()
        }
        None => {
            let kind = ResourceType::parse(&row.kind).filter(|_| !row.resource.is_empty());
            kind.map(|kind| (Key::new(kind, &row.resource), row.version)).into_iter().collect()
        }
    }
}

/// The row that an event is of.
fn row_of(event: &str) -> &str {
    event.split_once('.').map_or(event, |(row, _)| row)
}

/// Which of its row's events it is.
fn place_of(event: &str) -> usize {
    event.split_once('.').and_then(|(_, place)| place.parse().ok()).unwrap_or(0)
}

/// The least text that is greater than an id.
fn after(id: &str) -> String {
    format!("{id}.")
}

/// Whether the newest come first; the record has one order and its reverse.
fn descending(query: &Query) -> Result<bool, Error> {
    match query.sort.as_slice() {
        [one] => match one.by {
            Order::Created | Order::Updated | Order::Id | Order::Date("date") => Ok(one.descending),
            Order::Date(_) | Order::Value(_) => Err(unsorted()),
        },
        _ => Err(unsorted()),
    }
}

fn unsorted() -> Error {
    Error::new(Kind::NotSupported, "AuditEvents are sorted by date alone: _sort=date or _sort=-date.")
}

/// Between which ids all that a query asks for lies.
fn bounds(query: &Query) -> (String, String) {
    let (mut from, mut till) = (i64::MIN, i64::MAX);
    let mut narrow = |prefix: Prefix, low: i64, high: i64| match prefix {
        Prefix::Eq => (from, till) = (from.max(low), till.min(high)),
        Prefix::Ge | Prefix::Gt | Prefix::Sa => from = from.max(low),
        Prefix::Le | Prefix::Lt | Prefix::Eb => till = till.min(high),
        Prefix::Ne | Prefix::Ap => {}
    };
    for filter in &query.filters {
        match filter {
            Filter::Updated(prefix, low, high) => narrow(*prefix, *low, *high),
            Filter::Indexed { name: "date", test: Test::Dates(list), not: false } => {
                if let [(prefix, low, high)] = list.as_slice() {
                    narrow(*prefix, *low, *high);
                }
            }
            _ => {}
        }
    }
    // No id is greater than this, also where databases sort as people do; the least is the empty text.
    let end = if till == i64::MAX { "g".to_string() } else { id::from(till.saturating_add(1)) };
    (if from > 0 { id::from(from) } else { String::new() }, end)
}

/// Whose events are asked for, where only theirs are.
fn partners(query: &Query, gateway: &str) -> Vec<String> {
    let agents = query.filters.iter().find_map(|filter| match filter {
        Filter::Indexed { name: "agent", test: Test::References(list), not: false } => Some(list),
        _ => None,
    });
    // The gateway is an agent of every event.
    let ids: Option<Vec<String>> = agents.and_then(|list| {
        let organizations = list.iter().filter(|one| one.starts_with("Organization/"));
        organizations.map(|one| one.strip_prefix("Organization/").map(str::to_string)).collect()
    });
    ids.filter(|ids| !ids.iter().any(|id| id == gateway)).unwrap_or_default()
}

/// The one resource whose events are asked for. Of a patient they are all that is theirs.
fn about(query: &Query) -> Option<Key> {
    query.filters.iter().find_map(|filter| match filter {
        Filter::Indexed { name: "entity", test: Test::References(list), not: false } => match list.as_slice() {
            [one] => Key::parse(one).filter(|key| key.kind != ResourceType::PATIENT),
            _ => None,
        },
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn an_event_knows_its_row_and_its_place() {
        assert_eq!((row_of("a-b"), place_of("a-b")), ("a-b", 0));
        assert_eq!((row_of("a-b.12"), place_of("a-b.12")), ("a-b", 12));
        assert!("a-b" < after("a-b").as_str() && after("a-b").as_str() < "a-c");
    }

    #[test]
    fn a_query_by_date_bounds_the_rows() {
        let asked = |text: &str| {
            let pairs = query::pairs(Some(text)).unwrap();
            crate::fhir::search::parse(ResourceType::AUDIT_EVENT, &pairs, "https://hub/fhir", true).unwrap()
        };
        let time = Timestamp::parse("2027-01-02T00:00:00Z").unwrap().0;
        let (from, till) = bounds(&asked("date=ge2027-01-02&date=lt2027-01-02"));
        assert!(from == id::from(time) && till > id::at(time) && till < id::at(time + 90_000_000_000));
        assert_eq!(bounds(&asked("action=R")), (String::new(), "g".to_string()));
        assert_eq!(partners(&asked("agent=Organization/clinic"), "hub"), ["clinic"]);
        assert!(partners(&asked("agent=Organization/hub"), "hub").is_empty());
        assert!(about(&asked("entity=Patient/p")).is_none() && about(&asked("entity=Task/t")).is_some());
        assert!(descending(&asked("_sort=-date")).unwrap() && !descending(&asked("_sort=date")).unwrap());
        assert!(descending(&asked("_sort=action")).is_err());
    }
}
