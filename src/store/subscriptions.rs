//! Subscriptions and their events: numbered per subscription, without gaps, in the order of commit (design D15).
//!
//! The number comes from the subscription's own row in the transaction of the change, so that two transactions that
//! concern one subscriber follow each other and a rolled-back one leaves no gap.

use crate::error::Error;
use crate::fhir::subscription::Event;
use crate::fhir::{Key, ResourceType};
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// A subscription as delivery sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Its own JSON, headers included: what delivery reads the content level, headers and filters from.
    pub resource: String,
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
}

const COLUMNS: &str = "id, partner, sees, status, endpoint, resource, ends, events, sent, begun, error";

fn subscription_of(row: &Row) -> Result<Subscription, Error> {
    Ok(Subscription {
        id: row.text(0)?,
        partner: row.text(1)?,
        sees: row.text(2)?,
        status: row.text(3)?,
        endpoint: row.text(4)?,
        resource: row.text(5)?,
        ends: row.time_or_null(6)?,
        events: row.int(7)?,
        sent: row.int(8)?,
        begun: row.flag(9)?,
        error: row.text_or_null(10)?,
    })
}

impl Tx {
    /// Stores or replaces a subscription's standing; its counters go on.
    pub async fn put_subscription(&mut self, one: &Subscription, topic: &str) -> Result<(), Error> {
        let one = one.clone();
        self.run(
            "insert into subscription (id, partner, topic, status, endpoint, resource, ends, sees, events, sent, begun)
             values ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0)
             on conflict (id) do update set status = excluded.status, sees = excluded.sees, endpoint = excluded.endpoint,
             resource = excluded.resource, ends = excluded.ends, error = null",
            args![one.id, one.partner, topic, one.status, one.endpoint, one.resource, one.ends, one.sees],
        )
        .await?;
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

    /// The begun subscriptions to a topic whose holders may see this resource, in the order their rows must be locked.
    pub async fn subscribers(&mut self, focus: &Key, topic: &str) -> Result<Vec<Subscription>, Error> {
        let text = format!(
            "select {COLUMNS} from subscription s where s.topic = $1 and s.begun = 1 and s.status <> 'off'
             and (s.sees = '*' or exists (select 1 from resource_grant g where g.type = $2 and g.id = $3
             and g.ended is null and (g.partner = s.sees or g.partner = s.partner))) order by s.id"
        );
        self.all(text, args![topic, focus.kind.name(), &focus.id]).await?.iter().map(subscription_of).collect()
    }

    /// A partner's subscriptions, or everybody's.
    pub async fn subscriptions(&mut self, partner: Option<&str>) -> Result<Vec<Subscription>, Error> {
        let text = format!("select {COLUMNS} from subscription where $1 = '' or partner = $1 order by id");
        self.all(text, args![partner.unwrap_or("")]).await?.iter().map(subscription_of).collect()
    }

    /// Gives an event its number and stores it.
    pub async fn insert_event(&mut self, subscription: &str, focus: &Key, version: i64) -> Result<i64, Error> {
        let stamp = self.stamp();
        let row = self
            .one("update subscription set events = events + 1 where id = $1 returning events", args![subscription])
            .await?;
        let number = row.ok_or_else(|| Error::internal("the subscription has gone"))?.int(0)?;
        self.run(
            "insert into event (subscription, number, at, type, id, version) values ($1, $2, $3, $4, $5, $6)",
            args![subscription, number, stamp, focus.kind.name(), &focus.id, version],
        )
        .await?;
        Ok(number)
    }

    /// Events of a subscription in order, both ends included.
    pub async fn events(&mut self, subscription: &str, from: i64, to: i64, most: usize) -> Result<Vec<Event>, Error> {
        let rows = self
            .all(
                "select number, at, type, id, version from event
                 where subscription = $1 and number >= $2 and number <= $3 order by number limit $4",
                args![subscription, from, to, i64::try_from(most).unwrap_or(i64::MAX)],
            )
            .await?;
        let event_of = |row: &Row| {
            let kind = ResourceType::parse(&row.text(2)?).ok_or_else(|| Error::internal("unknown type of an event"))?;
            Ok(Event {
                number: row.int(0)?,
                at: row.time(1)?,
                focus: Key::new(kind, row.text(3)?),
                version: row.int(4)?,
            })
        };
        rows.iter().map(event_of).collect()
    }

    /// Records how far a subscriber has acknowledged, or that its standing has changed.
    pub async fn update_subscription(&mut self, one: &Subscription) -> Result<(), Error> {
        let one = one.clone();
        self.run(
            "update subscription set status = $1, sent = $2, begun = $3, error = $4 where id = $5",
            args![one.status, one.sent, one.begun, one.error, one.id],
        )
        .await?;
        Ok(())
    }

    /// Forgets events older than this: design D15 keeps them a configured time. At most a thousand at once.
    pub async fn forget_events(&mut self, before: Timestamp) -> Result<u64, Error> {
        let text = "delete from event where (subscription, number) in
            (select subscription, number from event where at < $1 order by at limit 1000)";
        self.run(text, args![before]).await
    }
}
