//! Subscriptions and their events: numbered per subscription, without gaps, in the order of commit (design D15).
//!
//! The number comes from the subscription's own row in the transaction of the change, so that two transactions that
//! concern one subscriber follow each other and a rolled-back one leaves no gap. A change finds its subscribers by
//! terms (`subscription_term`): what is looked at does not grow with the subscriptions that it does not concern.

use std::collections::{BTreeSet, HashMap};

use crate::error::Error;
use crate::fhir::subscription::{Change, Event};
use crate::fhir::{Key, ResourceType};
use crate::store::grants::marks;
use crate::store::{Arg, Row, Tx};
use crate::time::Timestamp;

/// Terms written in one statement: four placeholders each.
const CHUNK: usize = 100;

/// A subscription as delivery sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub partner: String,
    /// Which grants it follows: the partner's id, the gateway's for a coordinator, `*` for an operator.
    pub sees: String,
    /// `requested`, `active`, `error`, `off`.
    pub status: String,
    /// Where notifications go.
    pub endpoint: String,
    /// The server behind it.
    pub lane: String,
    /// Its own JSON, without headers: what delivery reads the content level and filters from.
    pub resource: String,
    /// Its headers, sealed.
    pub headers: Option<String>,
    /// When it ends.
    pub ends: Option<Timestamp>,
    /// The last number given out.
    pub events: i64,
    /// The last number acknowledged.
    pub sent: i64,
    /// Whether it was ever active: events count from then on.
    pub begun: bool,
    /// What went wrong last.
    pub error: Option<String>,
    /// When something was last sent.
    pub said: Option<Timestamp>,
    /// An operator holds it: events count, nothing is sent.
    pub held: bool,
    /// Numbers asked for again: from, to.
    pub again: Option<(i64, i64)>,
    /// The socket it is bound to; empty: to none yet. None: it takes another way.
    pub socket: Option<String>,
}

impl Subscription {
    /// Whether anything can be sent at all: over a socket only while one is bound.
    pub fn is_reachable(&self) -> bool {
        self.socket.as_deref() != Some("")
    }
}

/// How the notifications of a subscription stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underway {
    /// The subscription.
    pub id: String,
    /// Whose it is.
    pub partner: String,
    /// Its status.
    pub status: String,
    /// Whether an operator holds it.
    pub held: bool,
    /// The last number given out.
    pub events: i64,
    /// The last number acknowledged.
    pub sent: i64,
    /// When something was last taken.
    pub said: Option<Timestamp>,
    /// Since when the oldest event waits.
    pub waiting_since: Option<Timestamp>,
    /// `due`, `done`, `exhausted`.
    pub delivery: Option<String>,
    /// When it is tried next.
    pub due_at: Option<Timestamp>,
    /// Tries since the last success.
    pub attempts: i64,
    /// What went wrong last.
    pub error: Option<String>,
    /// Whether a socket is bound; none: it takes another way.
    pub bound: Option<bool>,
}

/// By what a subscription is found.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Whether its resources need no grant.
    pub open: bool,
    /// `parameter=value`, or empty.
    pub terms: Vec<String>,
}

/// A change, as its followers are looked for.
#[derive(Debug, Clone)]
pub struct News {
    /// What changed.
    pub focus: Key,
    /// What subscriptions to it are about.
    pub topics: Vec<String>,
    /// What they may be found by.
    pub terms: Vec<String>,
}

const COLUMNS: &str = "id, partner, sees, status, endpoint, resource, headers, ends, events, sent, begun, error, said, held, again, again_to, lane, socket";

fn subscription_of(row: &Row) -> Result<Subscription, Error> {
    Ok(Subscription {
        id: row.text(0)?,
        partner: row.text(1)?,
        sees: row.text(2)?,
        status: row.text(3)?,
        endpoint: row.text(4)?,
        resource: row.text(5)?,
        headers: row.text_or_null(6)?,
        ends: row.time_or_null(7)?,
        events: row.int(8)?,
        sent: row.int(9)?,
        begun: row.flag(10)?,
        error: row.text_or_null(11)?,
        said: row.time_or_null(12)?,
        held: row.flag(13)?,
        again: row.int_or_null(14)?.zip(row.int_or_null(15)?),
        lane: row.text(16)?,
        socket: row.text_or_null(17)?,
    })
}

impl Tx {
    /// Stores or replaces a subscription's standing and the terms it is found by; its counters go on.
    pub async fn put_subscription(&mut self, one: &Subscription, by: &Terms<'_>) -> Result<(), Error> {
        let Subscription { id, partner, sees, status, .. } = one.clone();
        let one = one.clone();
        self.run(
            "insert into subscription
             (id, partner, topic, status, endpoint, resource, headers, ends, sees, events, sent, begun, lane, socket)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, $10, $11, $12)
             on conflict (id) do update set topic = excluded.topic, status = excluded.status, sees = excluded.sees,
             endpoint = excluded.endpoint, resource = excluded.resource, headers = excluded.headers,
             ends = excluded.ends, lane = excluded.lane, error = null, again = null, again_to = null,
             socket = case when excluded.socket is null then null else coalesce(subscription.socket, '') end,
             begun = case when subscription.begun = 1 then 1 else excluded.begun end",
            args![
                one.id,
                one.partner,
                by.topic,
                one.status,
                one.endpoint,
                one.resource,
                one.headers,
                one.ends,
                one.sees,
                one.begun,
                one.lane,
                one.socket,
            ],
        )
        .await?;
        self.forget_terms(&id).await?;
        if status == "off" {
            return Ok(());
        }
        let viewers = match (by.open || sees == "*", sees == partner) {
            (true, _) => vec!["*".to_string()],
            (false, true) => vec![partner],
            (false, false) => vec![sees, partner],
        };
        let rows: Vec<(&String, &String)> =
            viewers.iter().flat_map(|viewer| by.terms.iter().map(move |term| (viewer, term))).collect();
        for chunk in rows.chunks(CHUNK) {
            let mut args = args![by.topic, &id];
            let mut values = Vec::new();
            for (viewer, term) in chunk {
                let first = args.len() + 1;
                values.push(format!("($1, ${first}, ${}, $2)", first + 1));
                args.extend(args![*viewer, *term]);
            }
            let text = format!(
                "insert into subscription_term (topic, viewer, term, subscription) values {} on conflict do nothing",
                values.join(", ")
            );
            self.run(text, args).await?;
        }
        Ok(())
    }

    /// No change finds this subscription any more.
    pub async fn forget_terms(&mut self, id: &str) -> Result<(), Error> {
        self.run("delete from subscription_term where subscription = $1", args![id]).await?;
        Ok(())
    }

    /// A subscription, locked for this transaction.
    pub async fn subscription(&mut self, id: &str) -> Result<Option<Subscription>, Error> {
        let text = format!("select {COLUMNS} from subscription where id = $1{}", self.for_update());
        self.one(text, args![id]).await?.as_ref().map(subscription_of).transpose()
    }

    /// How many subscriptions a partner has that are not off.
    pub async fn subscription_count(&mut self, partner: &str) -> Result<i64, Error> {
        let row = self
            .one("select count(*) from subscription where partner = $1 and status <> 'off'", args![partner])
            .await?;
        row.map_or(Ok(0), |row| row.int(0))
    }

    /// For each of these changes the begun subscriptions that it may concern: of one of its topics, found by one of its
    /// terms, and whose holders may see it. In the order in which their rows must be locked.
    pub async fn subscribers(&mut self, list: &[News]) -> Result<Vec<Vec<Subscription>>, Error> {
        let viewers = self.viewers(list).await?;
        let (text, args) = followers(list, &viewers);
        let mut found: Vec<BTreeSet<String>> = vec![BTreeSet::new(); list.len()];
        for row in self.all(text, args).await? {
            let (topic, viewer, term, id) = (row.text(0)?, row.text(1)?, row.text(2)?, row.text(3)?);
            for ((news, viewers), ids) in list.iter().zip(&viewers).zip(&mut found) {
                if news.topics.contains(&topic) && viewers.contains(&viewer) && news.terms.contains(&term) {
                    ids.insert(id.clone());
                }
            }
        }
        let all: Vec<String> = found.iter().flatten().collect::<BTreeSet<_>>().into_iter().cloned().collect();
        let mut known: HashMap<String, Subscription> = HashMap::new();
        for ids in all.chunks(CHUNK) {
            let mut args = args![];
            let marks = marks(ids, &mut args);
            let text =
                format!("select {COLUMNS} from subscription where id in ({marks}) and begun = 1 and status <> 'off'");
            for row in self.all(text, args).await? {
                let one = subscription_of(&row)?;
                known.insert(one.id.clone(), one);
            }
        }
        Ok(found.iter().map(|ids| ids.iter().filter_map(|id| known.get(id).cloned()).collect()).collect())
    }

    /// How the database would look for them.
    pub async fn subscribers_plan(&mut self, list: &[News]) -> Result<Vec<String>, Error> {
        let viewers = self.viewers(list).await?;
        let (text, args) = followers(list, &viewers);
        let (word, column) = self.explain();
        self.all(format!("{word} {text}"), args).await?.iter().map(|row| row.text(column)).collect()
    }

    /// Who may see each of these, and who sees all. What was made in this transaction was granted in it.
    async fn viewers(&mut self, list: &[News]) -> Result<Vec<BTreeSet<String>>, Error> {
        let mut viewers: Vec<BTreeSet<String>> = Vec::with_capacity(list.len());
        for news in list {
            let granted = self.met.grantees(&news.focus).cloned();
            viewers.push(granted.chain(["*".to_string()]).collect());
        }
        let older: BTreeSet<&Key> =
            list.iter().map(|news| &news.focus).filter(|focus| !self.met.born.contains(*focus)).collect();
        let older: Vec<&Key> = older.into_iter().collect();
        for keys in older.chunks(CHUNK) {
            let mut args = args![];
            let places: Vec<String> = padded(keys)
                .map(|key| {
                    args.extend(args![key.kind.name(), &key.id]);
                    format!("(${}, ${})", args.len() - 1, args.len())
                })
                .collect();
            let text = format!(
                // In this order: SQLite would look through all grants for more than one resource.
                "select g.type, g.id, g.partner from (values {}) as w cross join resource_grant g
                 where g.type = w.column1 and g.id = w.column2 and g.ended is null",
                places.join(", ")
            );
            // Those that are outstanding were met.
            for row in self.ask_now(text, args).await? {
                let (kind, id, partner) = (row.text(0)?, row.text(1)?, row.text(2)?);
                for (news, viewers) in list.iter().zip(&mut viewers) {
                    if news.focus.kind.name() == kind && news.focus.id == id {
                        viewers.insert(partner.clone());
                    }
                }
            }
        }
        Ok(viewers)
    }

    /// A partner's subscriptions, or everybody's.
    pub async fn subscriptions(&mut self, partner: Option<&str>) -> Result<Vec<Subscription>, Error> {
        let text = format!("select {COLUMNS} from subscription where $1 = '' or partner = $1 order by id");
        self.all(text, args![partner.unwrap_or("")]).await?.iter().map(subscription_of).collect()
    }

    /// Gives an event its number and stores it; the number, and whether it is to be sent now. None if the subscription
    /// has been switched off meanwhile.
    pub async fn insert_event(
        &mut self,
        subscription: &str,
        focus: &Key,
        version: i64,
        change: Change,
    ) -> Result<Option<(i64, bool)>, Error> {
        let stamp = self.stamp();
        // The status as it is under the lock: a handshake may have just succeeded.
        let text = "update subscription set events = events + 1 where id = $1 and status <> 'off'
             returning events, status, held, coalesce(socket, '-')";
        let Some(row) = self.one(text, args![subscription]).await? else { return Ok(None) };
        let (number, sends) = (row.int(0)?, row.text(1)? == "active" && !row.flag(2)? && !row.text(3)?.is_empty());
        self.run(
            "insert into event (subscription, number, at, type, id, version, change) values ($1, $2, $3, $4, $5, $6, $7)",
            args![subscription, number, stamp, focus.kind.name(), &focus.id, version, change.code()],
        )
        .await?;
        Ok(Some((number, sends)))
    }

    /// Events of a subscription in order, both ends included.
    pub async fn events(&mut self, subscription: &str, from: i64, to: i64, most: usize) -> Result<Vec<Event>, Error> {
        let rows = self
            .all(
                "select number, at, type, id, version, change from event
                 where subscription = $1 and number >= $2 and number <= $3 order by number limit $4",
                args![subscription, from, to, i64::try_from(most).unwrap_or(i64::MAX)],
            )
            .await?;
        let event_of = |row: &Row| {
            let kind = ResourceType::parse(&row.text(2)?).ok_or_else(|| Error::internal("unknown type of an event"))?;
            let change = Change::parse(&row.text(5)?).ok_or_else(|| Error::internal("unknown change of an event"))?;
            Ok(Event {
                number: row.int(0)?,
                at: row.time(1)?,
                focus: Key::new(kind, row.text(3)?),
                version: row.int(4)?,
                change,
            })
        };
        rows.iter().map(event_of).collect()
    }

    /// Records how far a subscriber has acknowledged, or that its standing has changed.
    pub async fn update_subscription(&mut self, one: &Subscription) -> Result<(), Error> {
        let one = one.clone();
        let (again, again_to) = one.again.unzip();
        self.run(
            "update subscription set status = $1, sent = $2, begun = $3, error = $4, said = $5, held = $6, again = $7,
             again_to = $8 where id = $9",
            args![one.status, one.sent, one.begun, one.error, one.said, one.held, again, again_to, one.id],
        )
        .await?;
        Ok(())
    }

    /// The first and the last number of the events kept of this time.
    pub async fn event_range(
        &mut self,
        subscription: &str,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Option<(i64, i64)>, Error> {
        let text = "select min(number), max(number) from event where subscription = $1 and at >= $2 and at <= $3";
        let Some(row) = self.one(text, args![subscription, since, until]).await? else { return Ok(None) };
        Ok(row.int_or_null(0)?.zip(row.int_or_null(1)?))
    }

    /// How the notifications of subscriptions stand: of one partner's, or of all; of one of them, if an id is given.
    pub async fn underway(
        &mut self,
        partner: Option<&str>,
        id: Option<&str>,
        most: i64,
    ) -> Result<Vec<Underway>, Error> {
        let text = "select s.id, s.partner, s.status, s.held, s.events, s.sent, s.said,
             (select e.at from event e where e.subscription = s.id and e.number = s.sent + 1),
             d.state, d.due_at, d.attempts, d.last_error, s.socket
             from subscription s left join delivery d on d.kind = 'notify' and d.subject = s.id
             where ($1 = '' or s.partner = $1) and ($2 = '' or s.id = $2) order by s.id limit $3";
        let rows = self.all(text, args![partner.unwrap_or(""), id.unwrap_or(""), most]).await?;
        let one = |row: &Row| {
            Ok(Underway {
                id: row.text(0)?,
                partner: row.text(1)?,
                status: row.text(2)?,
                held: row.flag(3)?,
                events: row.int(4)?,
                sent: row.int(5)?,
                said: row.time_or_null(6)?,
                waiting_since: row.time_or_null(7)?,
                delivery: row.text_or_null(8)?,
                due_at: row.time_or_null(9)?,
                attempts: row.int_or_null(10)?.unwrap_or(0),
                error: row.text_or_null(11)?,
                bound: row.text_or_null(12)?.map(|socket| !socket.is_empty()),
            })
        };
        rows.iter().map(one).collect()
    }

    /// Subscriptions by status, or as `held`, with the events that wait to be sent, and the time of the oldest of them.
    pub async fn subscription_counts(&mut self) -> Result<Vec<(String, i64, i64, Option<Timestamp>)>, Error> {
        let text = "select standing, count(*), cast(sum(waiting) as bigint), min(since) from
             (select case when s.held = 1 and s.status = 'active' then 'held' else s.status end as standing,
             s.events - s.sent as waiting,
             (select e.at from event e where e.subscription = s.id and e.number = s.sent + 1) as since
             from subscription s) as standings group by standing order by standing";
        let rows = self.all(text, args![]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?, row.int(2)?, row.time_or_null(3)?))).collect()
    }

    /// Forgets events older than this: design D15 keeps them a configured time. At most a thousand at once.
    pub async fn forget_events(&mut self, before: Timestamp) -> Result<u64, Error> {
        let text = "delete from event where (subscription, number) in
            (select subscription, number from event where at < $1 order by at limit 1000)";
        self.run(text, args![before]).await
    }
}

/// What changes are found by: of one topic and viewer at once, or the terms of all would be tried with the topics of all.
fn followers(list: &[News], viewers: &[BTreeSet<String>]) -> (String, Vec<Arg>) {
    type Together<'a> = (&'a [String], BTreeSet<&'a String>, BTreeSet<&'a String>);
    let mut together: Vec<Together<'_>> = Vec::new();
    for (news, viewers) in list.iter().zip(viewers) {
        let place = together.iter().position(|(topics, ..)| *topics == news.topics).unwrap_or(together.len());
        if place == together.len() {
            together.push((&news.topics, BTreeSet::new(), BTreeSet::new()));
        }
        if let Some((_, all, terms)) = together.get_mut(place) {
            all.extend(viewers);
            terms.extend(&news.terms);
        }
    }
    let mut args = args![];
    let mut listed = |list: Vec<&String>| {
        let list: Vec<String> = padded(&list).map(|one| (*one).clone()).collect();
        marks(&list, &mut args)
    };
    let parts: Vec<String> = together
        .into_iter()
        .map(|(topics, viewers, terms)| {
            let topics = listed(topics.iter().collect());
            let viewers = listed(viewers.into_iter().collect());
            let terms = listed(terms.into_iter().collect());
            format!(
                "select topic, viewer, term, subscription from subscription_term
                 where topic in ({topics}) and viewer in ({viewers}) and term in ({terms})"
            )
        })
        .collect();
    (parts.join(" union all "), args)
}

/// A list made longer by repeating its last, so that there are few lengths, and few statements to plan.
fn padded<T>(list: &[T]) -> impl Iterator<Item = &T> {
    let length = list.len().next_power_of_two();
    list.iter().chain(std::iter::repeat(list.last()).flatten()).take(if list.is_empty() { 0 } else { length })
}
