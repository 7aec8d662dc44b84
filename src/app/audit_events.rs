//! The record of who saw what, as AuditEvents: for auditors and operators, and reading it goes on record too.
//!
//! Nothing is stored twice: a row of the record is rendered when it is asked for, one event for each patient it was about.
//! Pages go along the record by time. Who, what was done, to what or to whose, and how it ended is asked of the rows; the
//! rest, and all of it once more, of the rendered events. A search looks through [`LOOKED_AT`] rows for one page, renders
//! [`RENDERED`] of them and answers with what it found and a next link, so that none is endless; a total is counted over
//! [`COUNTED`] rows or refused, never guessed.

use std::collections::{HashMap, HashSet};

use super::reading::access;
use super::{App, Context, Found, Stored};
use crate::config::{Partner, Role};
use crate::error::{Error, Kind};
use crate::fhir::audit_event::{ACTIONS, Event, OUTCOMES, TOKEN, render};
use crate::fhir::bundle::Hit;
use crate::fhir::search::{Cursor, Filter, Order, Prefix, Query, Search, Test, satisfies};
use crate::fhir::{Key, Resource, ResourceType, query, search_index};
use crate::id;
use crate::store::{Access, Entry, Span, Tx};
use crate::time::Timestamp;

/// Rows read at once: few at first, then more.
const FEW: i64 = 50;
const ROWS: i64 = 500;
/// Rows that are looked through at once.
const STRETCH: i64 = 10_000;
/// Most rows that are looked through for one page, and most that are rendered.
const LOOKED_AT: usize = 100_000;
const RENDERED: usize = 2_000;
/// Most rows that are looked through for one total, and most that are rendered.
const COUNTED: usize = 200_000;
const COUNTED_ONES: usize = 20_000;
/// Most resources of one patient that the record is asked about by their names.
const OF_ONE: i64 = 2_000;

/// What a refusal for want of consent is said of.
const CONSENT_PLACE: &str = "supportingInfo";

/// What was seen: references, each with its version.
type References = Vec<(String, i64)>;

impl App {
    /// One event.
    pub(super) async fn audit_event(&self, context: &Context, key: &Key) -> Result<Stored, Error> {
        self.check_auditor(context, 'r')?;
        let row = row_of(&key.id);
        let span = Span { from: row, till: &after(row), ..Span::default() };
        let mut reader = self.store().read().await?;
        let rows = reader.entries_of(&span, 1).await?;
        let events = self.rendered(&mut reader, &rows).await?;
        drop(reader);
        let not_found = || Error::not_found(key.kind.name(), &key.id);
        let (row, event) = events.into_iter().find(|(_, event)| event.id() == Some(&key.id)).ok_or_else(not_found)?;
        self.0.recorder.record(access(context, "read", vec![(key.clone(), 1)])).await?;
        Ok(Stored {
            key: key.clone(),
            number: 0,
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
            if self.walk(query, (false, None), (COUNTED, COUNTED_ONES), count).await?.is_some() {
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
            _ => self.walk(query, (descending, past), (LOOKED_AT, RENDERED), take).await?,
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
    /// wants more; where it stopped, when it has looked through so many rows, or rendered so many, before the end.
    async fn walk(
        &self,
        query: &Query,
        (descending, past): (bool, Option<String>),
        (most, most_rendered): (usize, usize),
        show: &mut (dyn FnMut(String, Resource) -> bool + Send),
    ) -> Result<Option<String>, Error> {
        let (mut from, mut till) = bounds(query);
        if let Some(id) = &past {
            // A row may be several events: it is looked at again, and what was shown is left out.
            match descending {
                true => till = till.min(after(row_of(id))),
                false => from = from.max(row_of(id).to_string()),
            }
        }
        let mut reader = self.store().read().await?;
        let partners = partners(query, self.gateway());
        let (but, actions) = actions(query, self.own());
        let (outcomes, tokens) = (outcomes(query, self.own()), tokens(query));
        let about = self.about(&mut reader, query).await?;
        if [partners.as_ref().map(Vec::is_empty), about.as_ref().map(Vec::is_empty)].contains(&Some(true))
            || outcomes.is_empty()
            || (actions.is_empty() && !but)
        {
            return Ok(None);
        }
        let (partners, about) = (partners.unwrap_or_default(), about.unwrap_or_default());
        let named: HashSet<&Key> = about.iter().collect();
        let (mut looked, mut rendered, mut at_once) = (0, 0, FEW);
        loop {
            let edge = reader.entry_after(&from, &till, descending, STRETCH).await?;
            let (mut low, mut high) = (from.clone(), till.clone());
            match (&edge, descending) {
                (Some(edge), true) => low.clone_from(edge),
                (Some(edge), false) => high = after(edge),
                (None, _) => {}
            }
            loop {
                let span = Span {
                    from: &low,
                    till: &high,
                    descending,
                    partners: &partners,
                    about: &about,
                    actions: &actions,
                    but,
                    outcomes: &outcomes,
                    tokens: &tokens,
                };
                let mut rows = reader.entries_of(&span, at_once).await?;
                let last = rows
                    .last()
                    .map(|row| row.id.clone())
                    .filter(|_| rows.len() >= usize::try_from(at_once).unwrap_or(0));
                rows.retain(|row| named.is_empty() || seen_in(row).iter().any(|(key, _)| named.contains(key)));
                rendered += rows.len();
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
                let Some(last) = last else { break };
                if rendered >= most_rendered {
                    return Ok(Some(last));
                }
                at_once = ROWS.min(at_once * 2);
                match descending {
                    true => high = last,
                    false => low = after(&last),
                }
            }
            looked += usize::try_from(STRETCH).unwrap_or(usize::MAX);
            match edge {
                None => return Ok(None),
                Some(edge) if looked >= most => return Ok(Some(edge)),
                Some(edge) if descending => till = edge,
                Some(edge) => from = after(&edge),
            }
        }
    }

    /// Whose or what a query's events are about, where it says so: one resource, or all that a patient's index names.
    async fn about(&self, reader: &mut Tx, query: &Query) -> Result<Option<Vec<Key>>, Error> {
        let named = |name: &str| {
            let lists = query.filters.iter().filter_map(move |filter| match filter {
                Filter::Indexed { name: known, test: Test::References(list), not: false } if *known == name => {
                    Some(list)
                }
                _ => None,
            });
            // What is no reference of ours may stand there as an identifier.
            lists.filter_map(|list| list.iter().map(|one| Key::parse(one)).collect::<Option<Vec<Key>>>()).next()
        };
        let mut about: Vec<Key> = Vec::new();
        let Some(keys) = named("entity").or_else(|| named("patient")) else { return Ok(None) };
        for key in keys {
            match key.kind {
                ResourceType::PATIENT => match reader.resources_of(&key, OF_ONE).await? {
                    Some(list) => about.extend(list),
                    None => return Ok(None),
                },
                _ => about.push(key),
            }
        }
        Ok(Some(about))
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
fn partners(query: &Query, gateway: &str) -> Option<Vec<String>> {
    let agents = query.filters.iter().find_map(|filter| match filter {
        Filter::Indexed { name: "agent", test: Test::References(list), not: false } => Some(list),
        _ => None,
    })?;
    // What is no reference of ours may stand there as an identifier; the gateway is an agent of every event.
    let keys = agents.iter().map(|agent| Key::parse(agent)).collect::<Option<Vec<Key>>>()?;
    let ids = keys.into_iter().filter(|key| key.kind == ResourceType::ORGANIZATION).map(|key| key.id);
    Some(ids.collect()).filter(|ids: &Vec<String>| !ids.iter().any(|id| id == gateway))
}

/// The access tokens whose events are asked for, where only theirs are.
fn tokens(query: &Query) -> Vec<String> {
    let policies = query.filters.iter().find_map(|filter| match filter {
        Filter::Indexed { name: "policy", test: Test::Is(list), not: false } => Some(list),
        _ => None,
    });
    let all = policies.map(|list| list.iter().map(|one| one.strip_prefix(TOKEN).map(str::to_string)).collect());
    all.and_then(|all: Option<Vec<String>>| all).unwrap_or_default()
}

/// An event that nothing is known of but what was done and how it ended.
fn bare(action: &str, outcome: i64, own: &str) -> Vec<search_index::Row> {
    let event = render(&Event {
        id: "",
        at: Timestamp(0),
        action,
        kind: "",
        outcome,
        partner: "",
        token: None,
        address: None,
        query: None,
        person: None,
        request: "",
        seen: &[],
        patient: None,
        server: "",
        host: "",
    });
    Resource::from_value(event).map(|event| search_index::rows(&event, own)).unwrap_or_default()
}

/// Whether a query may find events of these rows, by parameters of these names alone.
fn may_find(query: &Query, names: &[&str], rows: &[search_index::Row]) -> bool {
    let speaks = |filter: &&Filter| matches!(filter, Filter::Indexed { name, .. } if names.contains(name));
    query.filters.iter().filter(speaks).all(|filter| satisfies(filter, "", Timestamp(0), rows))
}

/// The actions that a query finds, or (`true`) that it does not find.
fn actions(query: &Query, own: &str) -> (bool, Vec<&'static str>) {
    let found = |action: &str| may_find(query, &["type", "subtype", "action"], &bare(action, 0, own));
    let but = found("operation");
    (but, ACTIONS.into_iter().filter(|action| found(action) != but).collect())
}

/// The outcomes that a query finds.
fn outcomes(query: &Query, own: &str) -> Vec<i64> {
    OUTCOMES.into_iter().filter(|outcome| may_find(query, &["outcome"], &bare("read", *outcome, own))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_knows_its_row_and_its_place() {
        assert_eq!((row_of("a-b"), place_of("a-b")), ("a-b", 0));
        assert_eq!((row_of("a-b.12"), place_of("a-b.12")), ("a-b", 12));
        assert!("a-b" < after("a-b").as_str() && after("a-b").as_str() < "a-c");
    }

    #[test]
    fn what_was_done_and_how_it_ended_is_asked_of_the_rows() {
        let asked = |text: &str| {
            let pairs = query::pairs(Some(text)).unwrap();
            crate::fhir::search::parse(ResourceType::AUDIT_EVENT, &pairs, "https://hub/fhir", true).unwrap()
        };
        let of = |text: &str| actions(&asked(text), "https://hub/fhir");
        assert_eq!(of(""), (true, Vec::new()), "anything");
        assert_eq!(of("action=D"), (false, vec!["delete", "user-removed"]));
        assert_eq!(of("type=110114"), (false, vec!["login", "logout", "lockout"]));
        assert_eq!(of("subtype=vread,read&action=R"), (false, vec!["read", "vread"]));
        assert!(of("action=E").0 && of("action:not=R").1.contains(&"read"), "operations are among these");
        assert_eq!(of("action=X"), (false, Vec::new()), "nothing is");
        assert_eq!(outcomes(&asked("outcome=4,8"), ""), [4, 8]);
        assert_eq!(outcomes(&asked("outcome:not=0"), ""), [4, 8]);
        assert_eq!(tokens(&asked("policy=urn:ietf:params:oauth:jti:a")), ["a"]);
        assert!(tokens(&asked("policy=urn:ietf:params:oauth:jti:a,urn:x")).is_empty(), "any or none");
        for action in ACTIONS {
            assert_ne!(bare(action, 0, ""), bare("operation", 0, ""), "{action} is told as any operation is");
        }
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
        assert_eq!(partners(&asked("agent=Organization/clinic"), "hub"), Some(vec!["clinic".to_string()]));
        assert!(partners(&asked("agent=Organization/hub"), "hub").is_none());
        assert!(partners(&asked("agent:identifier=clinic"), "hub").is_none(), "a name that is no reference");
        assert!(descending(&asked("_sort=-date")).unwrap() && !descending(&asked("_sort=date")).unwrap());
        assert!(descending(&asked("_sort=action")).is_err());
    }
}
