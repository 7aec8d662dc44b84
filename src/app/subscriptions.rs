//! The life of a Subscription: taken in, shaken hands with, changed, failed, asked for anew, switched off, ended.
//!
//! The resource and its standing (`store::Subscription`) change in one transaction. A topic's Subscription is active once
//! a handshake has succeeded; only its owner brings it back from `error`. A classic one is active at once.

use serde_json::{Value, json};

use super::sealing::Seal;
use super::sockets::unbound;
use super::{Answer, App, Context, Stored};
use crate::config::{Config, PartnerAddresses, Role};
use crate::error::Error;
use crate::fhir::subscription::{self, Asked, Channel, Content};
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::{Access, Delivery, Kind as Owed, Reason, Store, Subscription, Terms, Tx};
use crate::time::Timestamp;
use std::time::Duration;

/// The handshake follows the answer to the create: small clients learn the id from that answer (S-050).
const HANDSHAKE_AFTER: Duration = Duration::from_millis(300);

impl App {
    /// Takes in a new Subscription: as `requested`, until the handshake succeeds; without one, as `active`.
    pub(super) async fn subscribe(
        &self,
        tx: &mut Tx,
        context: &Context,
        mut resource: Resource,
    ) -> Result<Answer, Error> {
        self.room_for_one_more(tx, context).await?;
        let asked = self.check_subscription(&mut resource)?;
        self.check_filters(context, asked.subject.kind(), &asked.filters)?;
        self.check_told(context, asked.subject.kind())?;
        if asked.off {
            return Err(Error::invalid("Subscription.status", "A Subscription is created as requested."));
        }
        let status = first_status(&asked);
        resource.set("status", json!(status));
        resource.set("error", Value::Null);
        let secret = resource.clone();
        let written = self.insert(tx, without_headers(&resource), &context.partner.id).await?;
        tx.grant(&context.partner.id, std::slice::from_ref(&written.stored.key), "", Reason::Author).await?;
        let id = written.stored.key.id.clone();
        let one = self.stand(tx, context, &id, &secret, &asked, status).await?;
        self.owe_notice(tx, &one, self.now().plus(HANDSHAKE_AFTER)).await?;
        // The creator sees the headers it sent, this once.
        let mut shown = secret;
        shown.stamp(&id, written.stored.version, written.stored.updated);
        Ok(Answer::new(Stored { content: shown.to_text().into(), ..written.stored }, true))
    }

    async fn room_for_one_more(&self, tx: &mut Tx, context: &Context) -> Result<(), Error> {
        if context.person.is_some() {
            return Err(Error::forbidden("People have no Subscriptions here; systems do."));
        }
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
        let id = stored.key.id.clone();
        let before = tx.subscription(&id).await?;
        // Headers are not read back, so a client that PUTs what it read keeps those it set.
        if let Some(before) = &before {
            let kept = self.with_headers(before)?;
            let kept = kept.at("channel").and_then(|channel| channel.get("header")).cloned();
            if let (Some(header), Some(Value::Object(channel))) = (kept, resource.elements_mut().get_mut("channel")) {
                // The other channels have none.
                if channel.get("type").is_some_and(|kind| kind == "rest-hook") {
                    channel.entry("header").or_insert(header);
                }
            }
        }
        let asked = self.check_subscription(&mut resource)?;
        self.check_filters(context, asked.subject.kind(), &asked.filters)?;
        if !asked.off {
            self.check_told(context, asked.subject.kind())?;
        }
        let was_off = before.as_ref().is_none_or(|before| before.status == "off");
        if was_off && !asked.off {
            self.room_for_one_more(tx, context).await?;
        }
        let status = if asked.off { "off" } else { first_status(&asked) };
        resource.set("status", json!(status));
        resource.set("error", Value::Null);
        let written = self.save(tx, stored, without_headers(&resource), &context.partner.id).await?;
        let one = self.stand(tx, context, &id, &resource, &asked, status).await?;
        if before.is_some_and(|before| before.socket.is_some()) && asked.channel != Channel::Websocket {
            tx.keep_for_nobody(&id).await?;
        }
        if !asked.off {
            self.owe_notice_afresh(tx, &one).await?;
        }
        Ok(Answer::new(written.stored, false))
    }

    /// What only the configuration can judge: the end, and how open the wire is. A past end that is taken as none is
    /// taken out.
    fn check_subscription(&self, resource: &mut Resource) -> Result<Asked, Error> {
        let mut asked = subscription::parse(resource, self.own())?;
        if asked.channel == Channel::Email && self.config().email.is_none() && !asked.off {
            let text = "This gateway has no mail server; use rest-hook.";
            return Err(Error::invalid("Subscription.channel.type", text).code("not-supported"));
        }
        let attaches = self.config().email.as_ref().is_some_and(|email| email.attach);
        if asked.channel == Channel::Email && asked.payload.is_some() && !attaches && !asked.off {
            let text = "This gateway attaches nothing to its mails; ask for text/plain alone.";
            return Err(Error::invalid("Subscription.channel.payload", text).code("not-supported"));
        }
        if asked.channel == Channel::Sms && self.config().sms.is_none() && !asked.off {
            let text = "This gateway sends no text messages; use rest-hook.";
            return Err(Error::invalid("Subscription.channel.type", text).code("not-supported"));
        }
        let tests = self.config().delivery.partner_addresses == PartnerAddresses::AllowPrivateForTestsOnly;
        if asked.channel == Channel::RestHook && asked.endpoint.starts_with("http://") && !tests {
            return Err(Error::invalid(
                "Subscription.channel.endpoint",
                "The endpoint is https: notifications are about patients.",
            ));
        }
        if asked.end.is_some_and(|end| end <= self.now()) && !asked.off {
            if !self.config().subscriptions.accept_past_end {
                return Err(Error::invalid("Subscription.end", "This end has passed."));
            }
            resource.set("end", Value::Null);
            asked.end = None;
        }
        Ok(asked)
    }

    async fn stand(
        &self,
        tx: &mut Tx,
        context: &Context,
        id: &str,
        resource: &Resource,
        asked: &Asked,
        status: &str,
    ) -> Result<Subscription, Error> {
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
            endpoint: asked.endpoint.clone(),
            lane: asked.server(id),
            resource: without_headers(resource).to_text(),
            headers: self.sealed_headers(id, resource)?,
            ends: asked.end,
            socket: unbound(asked.channel),
            begun: status == "active",
            ..Subscription::default()
        };
        let topic = asked.subject.code();
        let open = asked.subject.kind().is_directory();
        let by = Terms { topic: &topic, open, terms: subscription::terms(&asked.filters) };
        tx.put_subscription(&one, &by).await?;
        Ok(one)
    }

    /// The keys that headers are sealed with.
    pub(super) async fn seal(config: &Config, store: &Store) -> Result<Seal, Error> {
        let mut tx = store.begin().await?;
        let own = tx.own_secret("headers", &crate::id::secret()).await?;
        tx.commit().await?;
        match &config.subscriptions.key {
            Some(key) => Seal::new(&[key.expose(), &own]),
            None => {
                tracing::warn!("subscriptions.key is not set: the key to subscribers' headers lies in the database");
                Seal::new(&[&own])
            }
        }
    }

    fn sealed_headers(&self, id: &str, resource: &Resource) -> Result<Option<String>, Error> {
        let headers = resource.at("channel").and_then(|channel| channel.get("header"));
        headers.map(|headers| self.0.seal.seal(id, &headers.to_string())).transpose()
    }

    /// The Subscription as it was sent, secret headers included.
    pub(super) fn with_headers(&self, one: &Subscription) -> Result<Resource, Error> {
        let mut resource = Resource::stored(&one.resource)?;
        if let (Some(sealed), Some(Value::Object(channel))) = (&one.headers, resource.elements_mut().get_mut("channel"))
        {
            let headers = self.0.seal.open(&one.id, sealed)?;
            channel.insert("header".to_string(), serde_json::from_str(&headers).map_err(Error::internal)?);
        }
        Ok(resource)
    }

    /// A deleted Subscription is off.
    pub(super) async fn unsubscribe(&self, tx: &mut Tx, id: &str) -> Result<(), Error> {
        if let Some(mut one) = tx.subscription(id).await? {
            one.status = "off".to_string();
            tx.update_subscription(&one).await?;
            tx.forget_terms(id).await?;
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
        if status == "off" {
            tx.forget_terms(&one.id).await?;
        }
        if let (true, Some(end)) = (status == "error", one.ends) {
            // Nothing is sent any more, but the end still comes.
            self.owe_notice(tx, one, end).await?;
        }
        let key = Key::new(ResourceType::SUBSCRIPTION, &one.id);
        let Some(stored) = tx.resource_for_update(&key).await?.filter(|stored| !stored.deleted) else { return Ok(()) };
        let mut resource = stored.resource()?;
        resource.set("status", json!(status));
        resource.set("error", why.map_or(Value::Null, |why| json!(why)));
        let written = self.save(tx, &stored, resource, self.gateway()).await?;
        //
        let (partner, seen) = (self.gateway().to_string(), vec![(key, written.stored.version)]);
        let outcome = if status == "error" { 8 } else { 0 };
        tx.audit(&[Access { partner, action: "update", seen, outcome, ..Access::default() }]).await
    }

    /// Owes a subscriber what is due then.
    pub(super) async fn owe_notice(&self, tx: &mut Tx, one: &Subscription, due_at: Timestamp) -> Result<(), Error> {
        let (subject, partner, lane) = (one.id.clone(), one.partner.clone(), one.lane.clone());
        tx.enqueue(&Delivery { kind: Owed::Notify, subject, partner, lane, due_at }).await
    }

    /// The same now, whatever went wrong before.
    pub(super) async fn owe_notice_afresh(&self, tx: &mut Tx, one: &Subscription) -> Result<(), Error> {
        self.owe_notice(tx, one, self.now()).await?;
        tx.make_due(Owed::Notify, &one.id, self.now()).await
    }
}

/// A topic's Subscription shakes hands first, by mail and message too (S-051, S-151, S-205). One by websocket counts from now on, so
/// that nothing is missed until a socket is bound, and each binding has its handshake (S-057).
fn first_status(asked: &Asked) -> &'static str {
    match asked.channel {
        Channel::RestHook if asked.subject.is_classic() => "active",
        Channel::Websocket => "active",
        Channel::RestHook | Channel::Email | Channel::Sms => "requested",
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

/// How much of an event a subscription tells, when its holder asks for at most this.
pub(super) fn at_most(asked: &Asked, wanted: Option<Content>) -> Content {
    wanted.map_or(asked.content, |wanted| wanted.min(asked.content))
}
