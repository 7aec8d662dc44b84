//! Subscriptions: taking them in, giving events their numbers in the transaction of the change, and answering for them.
//!
//! A first version of the guide's Task topic over rest-hook. Who is told is decided twice: by grant when it happens and
//! by grant again when it is sent (design D15, D15a).

use super::{Answer, App, Claimed, Context, Stored};
use crate::config::{PartnerAddresses, Role};
use crate::error::{Error, Kind};
use crate::fhir::search::satisfies;
use crate::fhir::subscription::{self, Notice, Standing, TASK_TOPIC};
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::status_of;
use crate::store::{Kind as Owed, Reason, Subscription, Tx, Written};
use serde_json::{Value, json};

/// Send this to a subscriber.
#[derive(Debug, Clone)]
pub struct NotifyPlan {
    /// Where.
    pub endpoint: String,
    /// With these headers.
    pub headers: Vec<(String, String)>,
    /// The Bundle.
    pub body: String,
    /// The last event in it; nothing in a handshake.
    pub upto: Option<i64>,
    /// The number of events it tells of.
    count: i64,
}

/// Most events in one notification.
const EVENTS: usize = 100;

impl App {
    /// Tells the subscribers of a Task that it has a new version: each gets an event with its own next number.
    pub(super) async fn publish(&self, tx: &mut Tx, written: &Written) -> Result<(), Error> {
        let key = &written.stored.key;
        let intent = written.resource.text_at("intent");
        if key.kind != ResourceType::TASK || status_of(&written.resource) == Status::Draft || intent != Some("order") {
            return Ok(());
        }
        let now = self.now();
        for one in tx.subscribers(key, TASK_TOPIC).await? {
            if one.ends.is_some_and(|end| end <= now) {
                continue;
            }
            let resource = Resource::stored(&one.resource)?;
            let asked = subscription::parse(&resource, self.own())?;
            let updated = written.stored.updated;
            if asked.filters.iter().all(|filter| satisfies(filter, &key.id, updated, &written.rows)) {
                tx.insert_event(&one.id, key, written.stored.version).await?;
                if one.status == "active" {
                    self.owe(tx, Owed::Notify, &one.id, &one.partner).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes in a new Subscription: always as `requested`, until the handshake succeeds.
    pub(super) async fn subscribe(
        &self,
        tx: &mut Tx,
        context: &Context,
        mut resource: Resource,
    ) -> Result<Answer, Error> {
        self.room_for_one_more(tx, context).await?;
        self.check_subscription(&mut resource)?;
        let asked = subscription::parse(&resource, self.own())?;
        if asked.off {
            return Err(Error::invalid("Subscription.status", "A Subscription is created as requested."));
        }
        resource.set("status", json!("requested"));
        let secret = resource.clone();
        let written = self.insert(tx, without_headers(&resource), &context.partner.id).await?;
        tx.grant(&context.partner.id, std::slice::from_ref(&written.stored.key), "", Reason::Author).await?;
        let id = written.stored.key.id.clone();
        self.stand(tx, context, &id, &secret, "requested").await?;
        self.owe(tx, Owed::Notify, &id, &context.partner.id).await?;
        // The creator sees the headers it sent, this once.
        let mut shown = secret;
        shown.stamp(&id, written.stored.version, written.stored.updated);
        Ok(Answer { stored: Stored { content: shown.to_text(), ..written.stored }, created: true })
    }

    pub(super) async fn room_for_one_more(&self, tx: &mut Tx, context: &Context) -> Result<(), Error> {
        let most = i64::from(self.config().subscriptions.per_partner);
        if tx.subscription_count(&context.partner.id).await? >= most {
            return Err(Error::refused("Subscription", format!("A partner has at most {most} subscriptions here.")));
        }
        Ok(())
    }

    /// A subscriber changes, reactivates or switches off its Subscription.
    pub(super) async fn resubscribe(
        &self,
        tx: &mut Tx,
        context: &Context,
        stored: &Stored,
        mut resource: Resource,
    ) -> Result<Answer, Error> {
        self.check_subscription(&mut resource)?;
        let id = stored.key.id.clone();
        let before = tx.subscription(&id).await?;
        let was_off = before.as_ref().is_none_or(|before| before.status == "off");
        if was_off && resource.text_at("status") != Some("off") {
            self.room_for_one_more(tx, context).await?;
        }
        // Headers are not read back, so a client that PUTs what it read keeps those it set.
        if let Some(before) = &before {
            let kept = Resource::stored(&before.resource)?;
            let kept = kept.at("channel").and_then(|channel| channel.get("header")).cloned();
            if let (Some(header), Some(Value::Object(channel))) = (kept, resource.elements_mut().get_mut("channel")) {
                channel.entry("header").or_insert(header);
            }
        }
        let asked = subscription::parse(&resource, self.own())?;
        let status = if asked.off { "off" } else { "requested" };
        resource.set("status", json!(status));
        resource.set("error", Value::Null);
        let written = self.save(tx, stored, without_headers(&resource), &context.partner.id).await?;
        self.stand(tx, context, &id, &resource, status).await?;
        if !asked.off {
            self.owe_afresh(tx, Owed::Notify, &id, &context.partner.id).await?;
        }
        Ok(Answer { stored: written.stored, created: false })
    }

    /// What only the configuration can judge: the end, and how open the wire is.
    pub(super) fn check_subscription(&self, resource: &mut Resource) -> Result<(), Error> {
        let asked = subscription::parse(resource, self.own())?;
        let tests = self.config().delivery.partner_addresses == PartnerAddresses::AllowPrivateForTestsOnly;
        if asked.endpoint.starts_with("http://") && !tests {
            return Err(Error::invalid(
                "Subscription.channel.endpoint",
                "The endpoint is https: notifications are about patients.",
            ));
        }
        if asked.end.is_some_and(|end| end <= self.now()) {
            if !self.config().subscriptions.accept_past_end {
                return Err(Error::invalid("Subscription.end", "This end has passed."));
            }
            resource.set("end", Value::Null);
        }
        Ok(())
    }

    pub(super) async fn stand(
        &self,
        tx: &mut Tx,
        context: &Context,
        id: &str,
        resource: &Resource,
        status: &str,
    ) -> Result<(), Error> {
        let asked = subscription::parse(resource, self.own())?;
        let sees = if context.is(Role::Operator) {
            "*"
        } else if context.is(Role::Coordinator) {
            self.gateway()
        } else {
            &context.partner.id
        };
        let one = Subscription {
            id: id.to_string(),
            partner: context.partner.id.clone(),
            sees: sees.to_string(),
            status: status.to_string(),
            endpoint: asked.endpoint,
            resource: resource.to_text(),
            ends: asked.end,
            events: 0,
            sent: 0,
            begun: false,
            error: None,
        };
        tx.put_subscription(&one, TASK_TOPIC).await
    }

    /// A deleted Subscription is off.
    pub(super) async fn unsubscribe(&self, tx: &mut Tx, id: &str) -> Result<(), Error> {
        if let Some(mut one) = tx.subscription(id).await? {
            one.status = "off".to_string();
            tx.update_subscription(&one).await?;
        }
        Ok(())
    }

    /// The subscriber can't be reached: `error`, until it asks again. Counting goes on. Whoever has switched off, or asked
    /// anew (and then this was not about its `latest` wish), is left alone.
    pub(super) async fn subscription_failed(
        &self,
        tx: &mut Tx,
        id: &str,
        why: &str,
        latest: bool,
    ) -> Result<(), Error> {
        let failed = |one: &Subscription| one.status == "active" || (one.status == "requested" && latest);
        if let Some(mut one) = tx.subscription(id).await?.filter(failed) {
            self.subscription_becomes(tx, &mut one, "error", Some(why)).await?;
        }
        Ok(())
    }

    /// The Subscription resource and its standing change together.
    pub(super) async fn subscription_becomes(
        &self,
        tx: &mut Tx,
        one: &mut Subscription,
        status: &str,
        why: Option<&str>,
    ) -> Result<(), Error> {
        one.status = status.to_string();
        one.error = why.map(str::to_string);
        tx.update_subscription(one).await?;
        let key = Key::new(ResourceType::SUBSCRIPTION, &one.id);
        let Some(stored) = tx.resource_for_update(&key).await?.filter(|stored| !stored.deleted) else { return Ok(()) };
        let mut resource = stored.resource()?;
        resource.set("status", json!(status));
        resource.set("error", why.map_or(Value::Null, |why| json!(why)));
        self.save(tx, &stored, resource, self.gateway()).await?;
        Ok(())
    }

    /// `$status` of one Subscription or of all the caller's.
    pub async fn subscription_status(&self, context: &Context, id: Option<&str>) -> Result<Value, Error> {
        let mut tx = self.store().read().await?;
        let operator = context.is(Role::Operator);
        let owner = (!operator).then_some(context.partner.id.as_str());
        let list: Vec<Subscription> = match id {
            Some(id) => {
                let one = tx.subscription(id).await?.filter(|one| operator || one.partner == context.partner.id);
                vec![one.ok_or_else(|| Error::not_found("Subscription", id))?]
            }
            None => tx.subscriptions(owner).await?,
        };
        let mut standings = Vec::new();
        for one in &list {
            let asked = subscription::parse(&Resource::stored(&one.resource)?, self.own())?;
            standings.push(Standing { id: &one.id, status: &one.status, count: one.events, content: asked.content });
        }
        Ok(subscription::status_set(self.own(), &standings))
    }

    /// `$events`: events again, as a notification Bundle; what the caller may no longer see is left out.
    pub async fn subscription_events(
        &self,
        context: &Context,
        id: &str,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<Value, Error> {
        let mut tx = self.store().read().await?;
        let one =
            tx.subscription(id).await?.filter(|one| context.is(Role::Operator) || one.partner == context.partner.id);
        let one = one.ok_or_else(|| Error::not_found("Subscription", id))?;
        let asked = subscription::parse(&Resource::stored(&one.resource)?, self.own())?;
        let (from, to) = (from.unwrap_or(1).max(1), to.unwrap_or(i64::MAX));
        if from > to {
            return Err(
                Error::new(Kind::Malformed, "eventsSinceNumber is larger than eventsUntilNumber.").code("value")
            );
        }
        let mut named = Vec::new();
        for event in tx.events(id, from, to, 1_000).await? {
            if self.subscriber_sees(&mut tx, &one, &event.focus).await? {
                named.push(event);
            }
        }
        let standing = Standing { id, status: &one.status, count: one.events, content: asked.content };
        Ok(subscription::notification(self.own(), standing, Notice::Query, &named, self.now()))
    }

    /// Forgets events that are older than the configured time, some at a time; false when none is left. Part of the
    /// worker's quiet moments.
    pub async fn forget_old_events(&self) -> Result<bool, Error> {
        let before = self.now().minus(self.config().subscriptions.keep_events);
        let mut tx = self.store().begin().await?;
        let forgotten = tx.forget_events(before).await?;
        tx.commit().await?;
        Ok(forgotten > 0)
    }

    /// What to send to a subscriber next.
    pub async fn notify_plan(&self, claimed: &Claimed) -> Result<Option<NotifyPlan>, Error> {
        let mut tx = self.store().read().await?;
        let Some(one) = tx.subscription(&claimed.subject).await? else { return Ok(None) };
        let resource = Resource::stored(&one.resource)?;
        let asked = subscription::parse(&resource, self.own())?;
        let standing = |status| Standing { id: &one.id, status, count: one.events, content: asked.content };
        let now = self.now();
        let (body, upto) = match one.status.as_str() {
            "requested" => {
                (subscription::notification(self.own(), standing("requested"), Notice::Handshake, &[], now), None)
            }
            "active" => {
                let events = tx.events(&one.id, one.sent + 1, one.events, EVENTS).await?;
                let Some(last) = events.last().map(|event| event.number) else { return Ok(None) };
                // Only what the subscriber may see at the moment of sending is named (S privacy).
                let mut named = Vec::new();
                for event in events {
                    if self.subscriber_sees(&mut tx, &one, &event.focus).await? {
                        named.push(event);
                    }
                }
                let standing = Standing { count: last, ..standing("active") };
                (subscription::notification(self.own(), standing, Notice::Events, &named, now), Some(last))
            }
            _ => return Ok(None),
        };
        let count = upto.unwrap_or(one.events);
        let headers = std::iter::once(("content-type".to_string(), asked.payload)).chain(asked.headers).collect();
        Ok(Some(NotifyPlan { endpoint: asked.endpoint, headers, body: body.to_string(), upto, count }))
    }

    /// A subscriber has taken a notification.
    pub async fn notified(&self, claimed: &Claimed, plan: &NotifyPlan) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(mut one) = tx.subscription(&claimed.subject).await? else { return self.done(tx, claimed).await };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        let mut told = Vec::new();
        match plan.upto {
            // Switched off, or asked for anew, while its handshake was on the way: that answer is about nothing now.
            None if one.status != "requested" || !tx.is_latest(claimed).await? => {}
            None => {
                one.begun = true;
                one.sent = plan.count;
                self.subscription_becomes(&mut tx, &mut one, "active", None).await?;
            }
            Some(upto) => {
                told = tx.events(&one.id, one.sent + 1, upto, EVENTS).await?;
                one.sent = one.sent.max(upto);
                tx.update_subscription(&one).await?;
            }
        }
        if one.status == "active" && one.sent < one.events {
            self.owe(&mut tx, Owed::Notify, &one.id, &one.partner).await?;
        }
        self.done(tx, claimed).await?;
        let tasks: Vec<(String, i64)> = told.into_iter().map(|event| (event.focus.id, event.version)).collect();
        self.source_saw(&one.partner, &tasks, "notification").await
    }

    pub(super) async fn subscriber_sees(
        &self,
        tx: &mut Tx,
        one: &crate::store::Subscription,
        key: &Key,
    ) -> Result<bool, Error> {
        let Some(partner) = self.partner(&one.partner) else { return Ok(false) };
        let context = super::Context {
            scopes: self.configured_scopes(&partner.id),
            partner: partner.clone(),
            request: String::new(),
        };
        tx.may_see(&self.viewer(&context), key).await
    }
}

/// Headers carry secrets: they are kept for sending and never read back.
fn without_headers(resource: &Resource) -> Resource {
    let mut open = resource.clone();
    if let Some(Value::Object(channel)) = open.elements_mut().get_mut("channel") {
        channel.shift_remove("header");
    }
    open
}
