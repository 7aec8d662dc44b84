//! What can be asked about Subscriptions: `$status`, `$events`, `$deliveries`; and what can be done to them: `$resend`,
//! `$pause`, `$resume`.
//!
//! Another partner's Subscription does not exist for the one who asks (S-125).

use serde_json::{Value, json};

use super::notifications::standing;
use super::subscriptions::at_most;
use super::{App, Context};
use crate::config::Role;
use crate::error::{Error, Kind};
use crate::fhir::subscription::{Content, Notice, Standing, notification, status_set};
use crate::fhir::{Key, ResourceType};
use crate::store::{Kind as Owed, Subscription, Tx};
use crate::time::Timestamp;

/// Which events, by number and by time, both ends included.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// From and to this number.
    pub numbers: (Option<i64>, Option<i64>),
    /// From and to this time.
    pub instants: (Option<Timestamp>, Option<Timestamp>),
}

/// Most events in one answer; the rest is asked for by number.
const EVENTS: usize = 1_000;

impl App {
    /// `$status` of one Subscription, or of those of the caller's that have one of these ids and one of these statuses.
    pub async fn subscription_status(
        &self,
        context: &Context,
        id: Option<&str>,
        ids: &[&str],
        statuses: &[&str],
    ) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::SUBSCRIPTION, 'r')?;
        let mut tx = self.store().read().await?;
        let list: Vec<Subscription> = match id {
            Some(id) => vec![self.own_subscription(&mut tx, context, id).await?],
            None => {
                let owner = (!context.is(Role::Operator)).then_some(context.partner.id.as_str());
                let mut all = tx.subscriptions(owner).await?;
                all.retain(|one| {
                    (ids.is_empty() || ids.contains(&one.id.as_str()))
                        && (statuses.is_empty() || statuses.contains(&one.status.as_str()))
                });
                all
            }
        };
        let asked = list.iter().map(|one| self.asked_of(one)).collect::<Result<Vec<_>, Error>>()?;
        let standings: Vec<Standing<'_>> = list.iter().zip(&asked).map(|(one, asked)| standing(one, asked)).collect();
        status_set(self.own(), &standings).to_value()
    }

    /// `$events`: events again, as a notification Bundle, with at most the Subscription's own content; what the caller may
    /// no longer see keeps its number alone (S-130…S-134).
    pub async fn subscription_events(
        &self,
        context: &Context,
        id: &str,
        (from, to): (Option<i64>, Option<i64>),
        content: Option<Content>,
    ) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::SUBSCRIPTION, 'r')?;
        let mut tx = self.store().read().await?;
        let one = self.own_subscription(&mut tx, context, id).await?;
        let asked = self.asked_of(&one)?;
        self.check_told(context, asked.subject.kind())?;
        if asked.subject.is_classic() {
            return Err(Error::new(Kind::Invalid, "Classic criteria have no numbered events.").code("not-supported"));
        }
        let (from, to) = (from.unwrap_or(1).max(1), to.unwrap_or(i64::MAX));
        if from > to {
            return Err(
                Error::new(Kind::Malformed, "eventsSinceNumber is larger than eventsUntilNumber.").code("value")
            );
        }
        let content = at_most(&asked, content);
        let mut shown = Vec::new();
        for event in tx.events(id, from, to, EVENTS).await? {
            shown.push(self.shown(&mut tx, &one, event, content).await?);
        }
        drop(tx);
        self.disclosed(&one, &shown).await?;
        // Backport 0.1.0 had no such operation: whoever asks knows the newer names.
        let standing = Standing { content, older: false, ..standing(&one, &asked) };
        notification(self.own(), standing, Notice::Query, &shown, self.now()).to_value()
    }

    /// `$resend`: the kept events of this range are sent again over the channel, in order, with their numbers, before what
    /// is new (Backport 1.2.0). How many that are.
    pub async fn resend(&self, context: &Context, id: &str, range: Range) -> Result<i64, Error> {
        self.check_scope(context, ResourceType::SUBSCRIPTION, 'u')?;
        let mut tx = self.store().begin().await?;
        let mut one = self.own_subscription(&mut tx, context, id).await?;
        if one.status != "active" || self.asked_of(&one)?.subject.is_classic() {
            let text = "Only an active Subscription to a topic can be sent events again; $events has them at any time.";
            return Err(Error::refused("Subscription.status", text));
        }
        let (since, until) = range.instants;
        let (since, until) = (since.unwrap_or(Timestamp(0)), until.unwrap_or(Timestamp(i64::MAX)));
        let Some((first, last)) = tx.event_range(id, since, until).await? else { return Ok(0) };
        let (from, to) = (range.numbers.0.unwrap_or(1).max(first), range.numbers.1.unwrap_or(i64::MAX).min(last));
        if from > to {
            return Ok(0);
        }
        one.again = Some((from, to));
        tx.update_subscription(&one).await?;
        self.owe_notice_afresh(&mut tx, &one).await?;
        self.done_to(&mut tx, context, "resend", &one).await?;
        self.commit(tx).await?;
        Ok(to - from + 1)
    }

    /// `$pause`, `$resume`: an operator holds a Subscription. Events count, nothing is sent; what waited is sent in order.
    pub async fn hold_subscription(&self, context: &Context, id: &str, held: bool) -> Result<(), Error> {
        self.check_scope(context, ResourceType::SUBSCRIPTION, 'u')?;
        let mut tx = self.store().begin().await?;
        let mut one = self.own_subscription(&mut tx, context, id).await?;
        if !context.is(Role::Operator) {
            return Err(Error::forbidden("Only an operator holds Subscriptions; switch yours off instead."));
        }
        one.held = held;
        tx.update_subscription(&one).await?;
        if !held && one.status != "off" {
            self.owe_notice_afresh(&mut tx, &one).await?;
        }
        self.done_to(&mut tx, context, if held { "pause" } else { "resume" }, &one).await?;
        self.commit(tx).await
    }

    async fn done_to(
        &self,
        tx: &mut Tx,
        context: &Context,
        action: &'static str,
        one: &Subscription,
    ) -> Result<(), Error> {
        let key = Key::new(ResourceType::SUBSCRIPTION, &one.id);
        match tx.resource(&key).await? {
            Some(stored) => self.audit(tx, context, action, &stored).await,
            None => Ok(()),
        }
    }

    /// `$deliveries`: how the notifications of one Subscription stand, with its last tries, or of all the caller's.
    pub async fn subscription_deliveries(&self, context: &Context, id: Option<&str>) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::SUBSCRIPTION, 'r')?;
        let mut tx = self.store().read().await?;
        if let Some(id) = id {
            self.own_subscription(&mut tx, context, id).await?;
        }
        let owner = (!context.is(Role::Operator)).then_some(context.partner.id.as_str());
        let most = i64::try_from(EVENTS).unwrap_or(i64::MAX);
        let mut parameters: Vec<Value> = Vec::new();
        for one in tx.underway(owner, id, most).await? {
            let reference = |text: String| json!({"reference": text});
            let mut parts = vec![
                json!({"name": "subscription", "valueReference": reference(format!("Subscription/{}", one.id))}),
                json!({"name": "partner", "valueReference": reference(format!("Organization/{}", one.partner))}),
                json!({"name": "status", "valueCode": one.status}),
                json!({"name": "held", "valueBoolean": one.held}),
                json!({"name": "events", "valueString": one.events.to_string()}),
                json!({"name": "waiting", "valueString": (one.events - one.sent).to_string()}),
                json!({"name": "tries", "valueInteger": one.attempts}),
            ];
            parts.extend(one.bound.map(|bound| json!({"name": "bound", "valueBoolean": bound})));
            let times = [("waiting-since", one.waiting_since), ("last-taken", one.said)];
            let next = ("next", one.due_at.filter(|_| one.delivery.as_deref() == Some("due")));
            for (name, time) in times.into_iter().chain([next]) {
                parts.extend(time.map(|time| json!({"name": name, "valueInstant": time.to_string()})));
            }
            parts.extend(one.error.map(|error| json!({"name": "last-error", "valueString": error})));
            if id.is_some() {
                for attempt in tx.attempts(Owed::Notify, &one.id).await? {
                    let mut about = vec![
                        json!({"name": "at", "valueInstant": attempt.at.to_string()}),
                        json!({"name": "outcome", "valueCode": attempt.outcome}),
                    ];
                    about.extend(attempt.detail.map(|detail| json!({"name": "detail", "valueString": detail})));
                    parts.push(json!({"name": "attempt", "part": about}));
                }
            }
            parameters.push(json!({"name": "delivery", "part": parts}));
        }
        let mut answer = json!({"resourceType": "Parameters"});
        if !parameters.is_empty() {
            answer["parameter"] = Value::Array(parameters);
        }
        Ok(answer)
    }

    /// A Subscription of the caller's, or anybody's for an operator.
    pub(super) async fn own_subscription(
        &self,
        tx: &mut Tx,
        context: &Context,
        id: &str,
    ) -> Result<Subscription, Error> {
        let one = tx.subscription(id).await?;
        let one = one.filter(|one| context.is(Role::Operator) || one.partner == context.partner.id);
        one.ok_or_else(|| Error::not_found("Subscription", id))
    }
}
