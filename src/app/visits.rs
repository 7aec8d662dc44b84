//! Visits to subscribers: under one lease, one notification after the other, recorded together.
//!
//! The next notification goes out when the one before was taken, so the order of a Subscription is kept; what was taken
//! is on record when the visit ends, and a visit is short. A gateway that dies in the middle of one tells the last few
//! again, with the same numbers (S-109). Whether the subscriber may still be told, and see, is asked for each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::notifications::heartbeat_at;
use super::{App, Claimed, NotifyPlan, Said};
use crate::error::Error;
use crate::fhir::subscription::Event;
use crate::fhir::{Key, ResourceType};
use crate::store::{Access, Outcome, Subscription, Tx};
use crate::time::Timestamp;

/// Most notifications of one visit, and how long after its beginning another one is begun: so many may be told twice.
const MOST: usize = 64;
const LONGEST: Duration = Duration::from_millis(100);
/// How long a server is left in peace that has failed several times; no longer than the longest pause between two tries.
const REST: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub struct Visit {
    until: Option<Timestamp>,
    /// Its server has failed: until when it rests.
    lane: Option<Timestamp>,
    /// What was asked for again when the visit began.
    again: Option<(i64, i64)>,
    /// The next events, read in one go: they do not change.
    ahead: VecDeque<Event>,
    taken: usize,
    /// The number of the first event that was told in it.
    first: Option<i64>,
    last: Option<Said>,
    tasks: Vec<(String, i64)>,
}

impl Visit {
    pub(super) fn is_new(&self) -> bool {
        self.until.is_none()
    }

    pub(super) fn begins(&mut self, now: Timestamp, lane: Option<Timestamp>) {
        (self.until, self.lane) = (Some(now.plus(LONGEST)), lane);
    }

    pub(super) fn rests(&self, now: Timestamp) -> Option<Timestamp> {
        self.lane.filter(|till| *till > now)
    }

    /// Whether anything was taken yet.
    pub fn has_told(&self) -> bool {
        self.taken > 0
    }

    /// Whether nothing more is told in it.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        let goes_on = match self.last {
            // What follows depends on what becomes of it.
            Some(Said::Handshake(_) | Said::Heartbeat) => false,
            Some(Said::Events(_) | Said::Again(_)) | None => true,
        };
        !goes_on || self.taken >= MOST || (self.has_told() && self.until.is_some_and(|until| until <= now))
    }

    /// The numbers to tell next: of events, or of those that were asked for again; never the ones after the others.
    pub(super) fn next(&mut self, one: &Subscription) -> Option<(i64, i64)> {
        match (self.last, one.again) {
            (None, again) => {
                self.again = again;
                Some(again.unwrap_or((one.sent + 1, one.events)))
            }
            (Some(Said::Events(last)), None) => Some((last.max(one.sent) + 1, one.events)),
            (Some(Said::Again(last)), Some((_, to))) if one.again == self.again => Some((last + 1, to)),
            (Some(Said::Events(_) | Said::Again(_) | Said::Handshake(_) | Said::Heartbeat), _) => None,
        }
    }

    pub(super) fn knows_no_more(&self) -> bool {
        self.ahead.is_empty()
    }

    pub(super) fn learns(&mut self, events: Vec<Event>) {
        self.ahead.extend(events);
    }

    /// The next event, if its number is not beyond this.
    pub(super) fn event(&mut self, to: i64) -> Option<Event> {
        let event = self.ahead.pop_front_if(|event| event.number <= to)?;
        self.first.get_or_insert(event.number);
        Some(event)
    }

    /// What was told, for people who look.
    fn told(&self) -> String {
        let events = |last: i64| match self.first {
            Some(first) if first < last => format!("events {first} to {last}"),
            Some(_) | None => format!("event {last}"),
        };
        match self.last {
            None => String::new(),
            Some(Said::Handshake(_)) => "handshake".to_string(),
            Some(Said::Heartbeat) => "heartbeat".to_string(),
            Some(Said::Events(last)) => events(last),
            Some(Said::Again(last)) => format!("{} again", events(last)),
        }
    }

    /// The subscriber has taken it.
    pub fn took(&mut self, plan: NotifyPlan) {
        self.taken += 1;
        self.last = Some(plan.said);
        self.tasks.extend(plan.tasks);
    }
}

/// Tries of this gateway since it started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) taken: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Subscriptions that are in error for it.
    pub(super) given_up: AtomicU64,
}

impl App {
    /// A visit is over: what was taken is recorded, and what will be due next is owed.
    pub async fn notified(&self, claimed: &Claimed, visit: Visit) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(mut one) = tx.subscription(&claimed.subject).await? else { return self.done(tx, claimed).await };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        self.took(&mut tx, claimed, &mut one, &visit).await?;
        self.rest(tx, claimed, &one, &Outcome::Told(visit.told())).await?;
        self.source_saw(&one.partner, &visit.tasks, "notification").await
    }

    /// A visit ended with a failure: what was taken before is recorded, and the failed try is the first since then.
    pub async fn notified_before(&self, claimed: &Claimed, visit: Visit) -> Result<Claimed, Error> {
        if !visit.has_told() {
            return Ok(claimed.clone());
        }
        let mut tx = self.store().begin().await?;
        let Some(mut one) = tx.subscription(&claimed.subject).await? else { return Ok(claimed.clone()) };
        if !tx.holds(claimed).await? {
            return Ok(claimed.clone());
        }
        self.took(&mut tx, claimed, &mut one, &visit).await?;
        let first = tx.goes_on(claimed, &visit.told()).await?;
        self.commit(tx).await?;
        self.source_saw(&one.partner, &visit.tasks, "notification").await?;
        Ok(first)
    }

    async fn took(&self, tx: &mut Tx, claimed: &Claimed, one: &mut Subscription, visit: &Visit) -> Result<(), Error> {
        one.said = Some(self.now());
        if visit.lane.is_some() {
            tx.lane_works(&one.lane).await?;
        }
        self.tried(tx, claimed, 0).await?;
        self.0.counts.taken.fetch_add(u64::try_from(visit.taken).unwrap_or(0), Relaxed);
        match visit.last {
            Some(Said::Handshake(count)) if one.status == "requested" && tx.is_latest(claimed).await? => {
                one.begun = true;
                one.sent = count;
                self.subscription_becomes(tx, one, "active", None).await?;
            }
            Some(said @ (Said::Heartbeat | Said::Events(_) | Said::Again(_))) => {
                one.is_past(said, visit.again);
                tx.update_subscription(one).await?;
            }
            // Switched off, or asked for anew, while the handshake was on the way: its answer is about nothing now.
            Some(Said::Handshake(_)) | None => {}
        }
        if one.status == "error" && self.asked_of(one)?.subject.is_classic() {
            self.subscription_becomes(tx, one, "active", None).await?;
        }
        Ok(())
    }

    /// A try to tell a subscriber, as it goes on record: whom, and whether it was taken; not what was told.
    pub(super) async fn tried(&self, tx: &mut Tx, claimed: &Claimed, outcome: i64) -> Result<(), Error> {
        let seen = vec![(Key::new(ResourceType::SUBSCRIPTION, &claimed.subject), 0)];
        let partner = claimed.partner.clone();
        tx.audit(&[Access { partner, action: "send", seen, outcome, ..Access::default() }]).await
    }

    /// Nothing was to be sent to a subscriber after all.
    pub(super) async fn nothing_to_tell(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(one) = tx.subscription(&claimed.subject).await? else { return self.done(tx, claimed).await };
        self.rest(tx, claimed, &one, &Outcome::Done).await
    }

    /// This try is over; the next thing that will be due to the subscriber is owed.
    async fn rest(&self, mut tx: Tx, claimed: &Claimed, one: &Subscription, outcome: &Outcome) -> Result<(), Error> {
        if !tx.finish(claimed, outcome).await? {
            return Ok(());
        }
        let sends = one.status == "active" && !one.held && one.is_reachable();
        let next = if sends && (one.again.is_some() || one.sent < one.events) {
            Some(self.now())
        } else {
            let heartbeat = if sends { heartbeat_at(one, self.asked_of(one)?.as_ref()) } else { None };
            let end = one.ends.filter(|_| one.status != "off");
            heartbeat.into_iter().chain(end).min()
        };
        if let Some(at) = next {
            self.owe_notice(&mut tx, one, at).await?;
        }
        self.commit(tx).await
    }

    /// A try failed. Whether it was the server's doing: no answer, or its own trouble.
    pub async fn endpoint_failed(&self, plan: &NotifyPlan, trouble: bool) -> Result<(), Error> {
        self.0.counts.failed.fetch_add(1, Relaxed);
        if !trouble {
            return Ok(());
        }
        let mut tx = self.store().begin().await?;
        let rest = self.config().delivery.backoff.iter().max().map_or(REST, |longest| REST.min(*longest));
        tx.lane_failed(&plan.lane, self.now().plus(rest)).await?;
        tx.commit().await
    }
}
