//! The outbox: what the gateway owes, saved in the transaction that causes it and sent later.
//!
//! One row per kind and subject: owing the same again raises the row's generation and makes it due, so a delivery always
//! brings the other side to the current state and nothing stale is sent. A worker claims due rows with a lease and a
//! fencing token, commits, sends, and records the result with that token; after a crash or a pause past the lease,
//! somebody else has the row and the late result is dropped. `attempts` counts claims, also those whose worker was lost;
//! `repeated` says that the outcome of an earlier try may be unknown (design D8).

use std::time::Duration;

use crate::error::Error;
use crate::id;
use crate::store::grants::marks;
use crate::store::later::Shape;
use crate::store::{Arg, Row, Tx};
use crate::time::Timestamp;

/// What is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Read what a source's Task refers to. Subject: the Task's id.
    Fetch,
    /// Bring the target's server in line with our Task: post it, or call it off. Subject: our Task's id.
    Deliver,
    /// Read a Task at a partner's server and its outcome. Subject: its URL.
    Collect,
    /// Bring the Task kept at the source's server in line with ours. Subject: the Task's id.
    WriteBack,
    /// Shake hands with a subscriber, or send it its next events. Subject: the Subscription's id.
    Notify,
    /// Ask a partner's server what has changed. Subject: the partner's id.
    Poll,
    /// See to our Subscription at a partner's server. Subject: the partner's id and the side, `id/target`.
    Subscribe,
    /// Find out what a partner's server offers. Subject: the partner's id.
    Discover,
    /// Compare everything that is open with what a partner's server says. Subject: the partner's id.
    Reconcile,
    /// Look at what rests on a Consent that has come to its end. Subject: its id; of no partner, but ours.
    Expire,
}

impl Kind {
    /// Its code in the database and in metrics.
    pub fn code(self) -> &'static str {
        match self {
            Kind::Fetch => "fetch",
            Kind::Deliver => "deliver",
            Kind::Collect => "collect",
            Kind::WriteBack => "write-back",
            Kind::Notify => "notify",
            Kind::Poll => "poll",
            Kind::Subscribe => "subscribe",
            Kind::Discover => "discover",
            Kind::Reconcile => "reconcile",
            Kind::Expire => "expire",
        }
    }
    fn parse(code: &str) -> Result<Kind, Error> {
        const ALL: [Kind; 10] = [
            Kind::Fetch,
            Kind::Deliver,
            Kind::Collect,
            Kind::WriteBack,
            Kind::Notify,
            Kind::Poll,
            Kind::Subscribe,
            Kind::Discover,
            Kind::Reconcile,
            Kind::Expire,
        ];
        ALL.into_iter()
            .find(|kind| kind.code() == code)
            .ok_or_else(|| Error::internal(format!("unknown delivery kind {code}")))
    }
}

/// Something owed to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What.
    pub kind: Kind,
    /// About what.
    pub subject: String,
    /// To whom.
    pub partner: String,
    /// Over which server, so that a slow one is asked little at a time: `fhir:` and the partner for its own.
    pub lane: String,
    /// From when on it may be sent.
    pub due_at: Timestamp,
}

/// A delivery that this worker holds the lease of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The row.
    pub id: String,
    /// What.
    pub kind: Kind,
    /// About what.
    pub subject: String,
    /// To whom.
    pub partner: String,
    /// Over which server.
    pub lane: String,
    /// Tries since the last success, this one included.
    pub attempts: i64,
    /// An earlier try may have reached the other side though nobody recorded so (design D8): it failed, for good
    /// even, or its worker was lost.
    pub repeated: bool,
    /// Proof that the lease is still ours.
    pub lease: String,
    generation: i64,
}

#[cfg(test)]
impl Claimed {
    /// One that nobody has claimed.
    pub fn for_test(id: &str, partner: &str, lane: &str) -> Claimed {
        Claimed {
            id: id.into(),
            kind: Kind::Notify,
            subject: id.into(),
            partner: partner.into(),
            lane: lane.into(),
            attempts: 1,
            repeated: false,
            lease: String::new(),
            generation: 1,
        }
    }
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; unless it has become owed again meanwhile.
    Done,
    /// The same, and this was told.
    Told(String),
    /// Done, and due again then (polls), whatever the same transaction owes beside.
    Again(Timestamp),
    /// Failed; to be tried again then.
    Retry(Timestamp, String),
    /// Failed for good.
    Exhausted(String),
}

/// A try, for people who look what went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// `done`, `retry`, `exhausted`.
    pub outcome: String,
    /// What went wrong, or was told; never health data.
    pub detail: Option<String>,
}

const DELIVERY: Shape = Shape {
    table: "delivery",
    columns: &[
        "kind",
        "subject",
        "id",
        "partner",
        "lane",
        "generation",
        "due_at",
        "attempts",
        "state",
        "leased_till",
        "created",
    ],
    key: 2,
    or: " on conflict (kind, subject) do update set generation = delivery.generation + 1, partner = excluded.partner,
         lane = excluded.lane,
         due_at = case when delivery.state = 'due' and (delivery.due_at < excluded.due_at or delivery.attempts > 0)
         then delivery.due_at
         else excluded.due_at end,
         attempts = case when delivery.state = 'due' then delivery.attempts else 0 end,
         state = 'due'",
};
/// One more try. That a worker was lost is not what the other side did, so its try is not counted twice however often that
/// happens; but it was one, whose outcome nobody knows. (A notification carries its number: it may come twice.)
const TRY: &str =
    "case when lease is null then attempts + 1 when attempts > 1 or kind = 'notify' then attempts else 2 end";
const ATTEMPT: Shape = Shape::new("attempt", &["id", "delivery", "at", "outcome", "detail"], 1);

/// Where there is no room for more at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Partners and lanes that take none (a partner's id has no colon, a lane's name has one).
    pub full: Vec<String>,
    /// Most that any other lane takes.
    pub per_lane: i64,
    /// Most that any other partner takes.
    pub per_partner: i64,
}

impl Default for Busy {
    /// There is room everywhere.
    fn default() -> Busy {
        Busy { full: Vec::new(), per_lane: i64::MAX, per_partner: i64::MAX }
    }
}

/// Due deliveries that are looked at in one claim. A lane that fills up by it is left out of the next: nobody hides behind
/// it for longer.
const LOOK: i64 = 64;

/// A condition that leaves these partners and lanes out.
fn not_of(busy: &Busy, args: &mut Vec<Arg>) -> String {
    if busy.full.is_empty() {
        return String::new();
    }
    let list = marks(&busy.full, args);
    format!(" and partner not in ({list}) and lane not in ({list})")
}

impl Tx {
    /// Owes a delivery. If it is owed already, it becomes due (no later than it was) and newer; but a pause after a failed
    /// try is kept, because it is the endpoint that needs it.
    pub async fn enqueue(&mut self, delivery: &Delivery) -> Result<(), Error> {
        let stamp = self.stamp();
        self.owes = true;
        self.owed.push((delivery.kind, delivery.subject.clone()));
        let Delivery { subject, partner, lane, .. } = delivery;
        let row =
            args![delivery.kind.code(), subject, id::new(), partner, lane, 1, delivery.due_at, 0, "due", 0, stamp];
        self.insert(DELIVERY, vec![row]).await
    }

    /// Claims deliveries that are due, oldest first, no more of a lane or a partner than there is room for, and none that
    /// another gateway alone can send.
    pub async fn claim(
        &mut self,
        gateway: &str,
        now: Timestamp,
        lease: Duration,
        most: usize,
        busy: &Busy,
    ) -> Result<Vec<Claimed>, Error> {
        let token = id::new();
        let till = now.plus(lease);
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut args = args![&token, till, now, most, gateway, busy.per_lane, busy.per_partner, LOOK];
        let others = not_of(busy, &mut args);
        // Materialized: inside `in (…)` PostgreSQL may ask more than once, and then more than `most` are claimed.
        let text = format!(
            "with due as materialized (
             select id, due_at, lane, partner from delivery where state = 'due' and due_at <= $3 and leased_till <= $3
             and (gateway_till <= $3 or gateway = $5){others}
             order by due_at limit $8{}),
             placed as (select id, due_at, row_number() over (partition by lane order by due_at, id) as of_lane,
             row_number() over (partition by partner order by due_at, id) as of_partner from due),
             next as materialized (
             select id from placed where of_lane <= $6 and of_partner <= $7 order by due_at, id limit $4)
             update delivery set lease = $1, leased_till = $2, attempts = {TRY}
             where id in (select id from next)
             returning id, kind, subject, partner, attempts, generation, last_error, lane",
            self.skip_locked()
        );
        let rows = self.all(text, args).await?;
        let claimed = |row: &Row| {
            Ok(Claimed {
                id: row.text(0)?,
                kind: Kind::parse(&row.text(1)?)?,
                subject: row.text(2)?,
                partner: row.text(3)?,
                attempts: row.int(4)?,
                repeated: row.int(4)? > 1 || row.text_or_null(6)?.is_some(),
                lane: row.text(7)?,
                lease: token.clone(),
                generation: row.int(5)?,
            })
        };
        rows.iter().map(claimed).collect()
    }

    /// Whether the lease is still ours; locks the row, so that it stays so until the end of this transaction.
    pub async fn holds(&mut self, claimed: &Claimed) -> Result<bool, Error> {
        let text = format!("select id from delivery where id = $1 and lease = $2{}", self.for_update());
        Ok(self.one(text, args![&claimed.id, &claimed.lease]).await?.is_some())
    }

    /// Records how a try ended. False when the lease was lost, and then nothing is recorded.
    pub async fn finish(&mut self, claimed: &Claimed, outcome: &Outcome) -> Result<bool, Error> {
        let stamp = self.stamp();
        let (state, due, name, detail) = match outcome {
            Outcome::Done => ("done", stamp, "done", None),
            Outcome::Told(what) => ("done", stamp, "done", Some(what.clone())),
            Outcome::Again(at) => ("due", *at, "done", None),
            Outcome::Retry(at, why) => ("due", *at, "retry", Some(why.clone())),
            Outcome::Exhausted(why) => ("exhausted", stamp, "exhausted", Some(why.clone())),
        };
        let reset = matches!(outcome, Outcome::Done | Outcome::Told(_) | Outcome::Again(_));
        let error = detail.clone().filter(|_| !reset);
        // Whoever says when it is due again knows what it has owed itself, and would else be due at once for ever.
        let own = |one: &&(Kind, String)| one.0 == claimed.kind && one.1 == claimed.subject;
        let own = match outcome {
            Outcome::Again(_) => i64::try_from(self.owed.iter().filter(own).count()).unwrap_or(0),
            Outcome::Done | Outcome::Told(_) | Outcome::Retry(..) | Outcome::Exhausted(_) => 0,
        };
        // Owed again since it was claimed: due at once, whatever this try made of the older state; after the pause, if
        // it failed.
        let ended = self
            .one(
                "update delivery set lease = null, leased_till = 0, last_error = $1,
                 state = case when generation = $2 then $3 else 'due' end,
                 due_at = case when generation = $2 or $3 = 'due' and $5 = 0 then $4 else due_at end,
                 attempts = case when $5 = 1 or (generation <> $2 and $3 = 'exhausted') then 0 else attempts end
                 where id = $6 and lease = $7 returning state",
                args![error, claimed.generation + own, state, due, reset, &claimed.id, &claimed.lease],
            )
            .await?;
        let Some(ended) = ended else { return Ok(false) };
        self.owes |= ended.text(0)? == "due";
        // A quiet poll is no news.
        if !matches!(outcome, Outcome::Again(_)) {
            self.insert(ATTEMPT, vec![args![id::new(), &claimed.id, stamp, name, detail]]).await?;
        }
        Ok(true)
    }

    /// Goes on under the same lease after a success: what fails next is the first try since then.
    pub async fn goes_on(&mut self, claimed: &Claimed, told: &str) -> Result<Claimed, Error> {
        let stamp = self.stamp();
        let text = "update delivery set attempts = 1 where id = $1 and lease = $2";
        self.run(text, args![&claimed.id, &claimed.lease]).await?;
        self.insert(ATTEMPT, vec![args![id::new(), &claimed.id, stamp, "done", told]]).await?;
        Ok(Claimed { attempts: 1, ..claimed.clone() })
    }

    /// Whether nothing newer has become owed since it was claimed.
    pub async fn is_latest(&mut self, claimed: &Claimed) -> Result<bool, Error> {
        let text = format!("select generation from delivery where id = $1 and lease = $2{}", self.for_update());
        let row = self.one(text, args![&claimed.id, &claimed.lease]).await?;
        row.map_or(Ok(false), |row| Ok(row.int(0)? == claimed.generation))
    }

    /// Makes what is owed due now, as if it had not been tried.
    pub async fn make_due(&mut self, kind: Kind, subject: &str, now: Timestamp) -> Result<(), Error> {
        self.run(
            "update delivery set due_at = $1, attempts = 0 where kind = $2 and subject = $3 and state = 'due'",
            args![now, kind.code(), subject],
        )
        .await?;
        Ok(())
    }

    /// Makes a lease anew. False when it was lost.
    pub async fn renew(&mut self, claimed: &Claimed, till: Timestamp) -> Result<bool, Error> {
        let text = "update delivery set leased_till = $1 where id = $2 and lease = $3";
        Ok(self.run(text, args![till, &claimed.id, &claimed.lease]).await? > 0)
    }

    /// Gives a lease back in the middle of a try, whose outcome nobody will know: it is due then. That was not the other
    /// side's doing, so it counts against nobody; but whatever must not be done twice was tried (design D8).
    pub async fn let_go(&mut self, claimed: &Claimed, at: Timestamp) -> Result<(), Error> {
        self.run(
            "update delivery set lease = null, leased_till = 0, due_at = $1,
             attempts = case when attempts > 1 or kind = 'notify' then attempts - 1 else 1 end
             where id = $2 and lease = $3",
            args![at, &claimed.id, &claimed.lease],
        )
        .await?;
        Ok(())
    }

    /// A partner's server answers again: what was given up there is due once more. Its tries stay counted, so that one
    /// more failure gives it up again. What it said no to, or has moved past, is offered again only where `refused` says so.
    pub async fn try_again(&mut self, partner: &str, now: Timestamp, refused: bool) -> Result<(), Error> {
        self.run(
            "update delivery set state = 'due', due_at = $1
             where partner = $2 and state = 'exhausted' and kind not in ('notify', 'poll')
             and ($3 = 1 or kind <> 'write-back' or last_error = 'answered 429'
                 or (last_error not like 'answered 4%' and last_error not like 'its Task %'))",
            args![now, partner, refused],
        )
        .await?;
        Ok(())
    }

    /// When the next delivery is due or its lease ends, of those that this gateway may send, to none of these.
    pub async fn next_due(&mut self, gateway: &str, busy: &Busy) -> Result<Option<Timestamp>, Error> {
        // Those under way stand first and are few; a backlog behind them need not be looked through.
        let now = self.stamp();
        let mut args = args![now, gateway];
        let others = not_of(busy, &mut args);
        let text = format!(
            "select min(case when leased_till > due_at then leased_till else due_at end) from
             (select due_at, leased_till from delivery where state = 'due' and (gateway_till <= $1 or gateway = $2)
             {others} order by due_at limit 256) as first"
        );
        let row = self.one(text, args).await?;
        row.map_or(Ok(None), |row| row.time_or_null(0))
    }

    /// When this is due, if it is owed.
    pub async fn due_of(&mut self, kind: Kind, subject: &str) -> Result<Option<Timestamp>, Error> {
        let text = "select due_at from delivery where kind = $1 and subject = $2 and state = 'due'";
        let row = self.one(text, args![kind.code(), subject]).await?;
        row.map_or(Ok(None), |row| row.time(0).map(Some))
    }

    /// What is owed of this kind, for subjects that begin so, is due at this time at the latest.
    pub async fn due_by(&mut self, now: Timestamp, kind: Kind, subjects: &str) -> Result<(), Error> {
        let subjects = format!("{subjects}%");
        let text =
            "update delivery set due_at = $1 where kind = $2 and subject like $3 and state = 'due' and due_at > $1";
        self.run(text, args![now, kind.code(), subjects]).await.map(|_| ())
    }

    /// What went wrong last, by kind, with what is owed still or was given up.
    pub async fn last_errors(&mut self) -> Result<Vec<(String, String)>, Error> {
        let text =
            "select distinct kind, last_error from delivery where last_error is not null order by kind limit 100";
        let rows = self.all(text, args![]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
    }

    /// How many deliveries stand in each state, by kind.
    pub async fn delivery_counts(&mut self) -> Result<Vec<(String, String, i64)>, Error> {
        let rows = self
            .all("select kind, state, count(*) from delivery group by kind, state order by kind, state", args![])
            .await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?, row.int(2)?))).collect()
    }

    /// Forgets tries older than this; at most a thousand at once.
    pub async fn forget_attempts(&mut self, before: Timestamp) -> Result<u64, Error> {
        let text = "delete from attempt where id in (select id from attempt where at < $1 order by at limit 1000)";
        self.run(text, args![before]).await
    }

    /// The last hundred tries of a delivery, oldest first.
    pub async fn attempts(&mut self, kind: Kind, subject: &str) -> Result<Vec<Attempt>, Error> {
        let rows = self
            .all(
                "select a.at, a.outcome, a.detail from attempt a join delivery d on d.id = a.delivery
                 where d.kind = $1 and d.subject = $2 order by a.at desc, a.id desc limit 100",
                args![kind.code(), subject],
            )
            .await?;
        rows.iter()
            .rev()
            .map(|row| Ok(Attempt { at: row.time(0)?, outcome: row.text(1)?, detail: row.text_or_null(2)? }))
            .collect()
    }
}
