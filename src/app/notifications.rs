//! Sending to subscribers: what is due to one is planned from its standing at that moment.
//!
//! One delivery per Subscription, so that its notifications follow each other. It stands for the handshake, the next
//! events, those asked for again, a heartbeat and the end, whatever is due first. Who may see what is asked once more
//! for each notification: an event that may not be seen any more keeps its number and says nothing else (design D11,
//! D15a). What was taken is recorded by `visits`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::visits::Visit;
use super::{App, Claimed, Line, webhook_signature};
use crate::error::Error;
use crate::fhir::subscription::{
    self, Asked, Bundle, Channel, Content, Event, Format, Notice, SHORTEST_HEARTBEAT, Shown, Standing, notification,
};
use crate::fhir::{ResourceType, xml};
use crate::store::{Access, Subscription, Tx};
use crate::time::Timestamp;

/// Send this to a subscriber.
#[derive(Debug, Clone)]
pub struct NotifyPlan {
    /// The way it takes.
    pub channel: Channel,
    /// A request's: `POST`, or `PUT` for classic criteria.
    pub method: &'static str,
    /// Where.
    pub endpoint: String,
    /// With these headers.
    pub headers: Vec<(String, String)>,
    /// The Bundle, or the text of a mail or message; nothing where the subscriber wants none.
    pub body: Option<String>,
    /// What a mail carries beside its text: the media type, and the Bundle.
    pub attached: Option<(String, String)>,
    /// The server it goes to.
    pub(super) lane: String,
    /// The socket it goes over.
    pub line: Option<Line>,
    /// How long it may take.
    pub timeout: Duration,
    /// Its server has just failed several times: it is left in peace till then.
    pub rests: Option<Timestamp>,
    /// What it is.
    pub said: Said,
    /// The Tasks it names, with their versions: evidence that the subscriber knows them; version 0: told by number alone.
    pub(super) tasks: Vec<(String, i64)>,
}

/// What a notification says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A handshake, with the number of events so far.
    Handshake(i64),
    /// A heartbeat.
    Heartbeat,
    /// The events up to this number.
    Events(i64),
    /// Events asked for again, up to this number.
    Again(i64),
}

/// Most events in one notification, whatever the subscriber takes.
const EVENTS: usize = 100;
/// From this size on, in bytes, a notification takes no further resource.
const FULL: usize = 1024 * 1024;

impl App {
    /// What to send to a subscriber next; nothing, when this visit is over.
    pub async fn notify_plan(&self, claimed: &Claimed, visit: &mut Visit) -> Result<Option<NotifyPlan>, Error> {
        let now = self.now();
        if visit.is_over(now) {
            return Ok(None);
        }
        let mut tx = self.store().read().await?;
        let Some(one) = tx.subscription(&claimed.subject).await? else { return Ok(None) };
        if self.has_ended(&one) {
            drop(tx);
            self.end(&one.id).await?;
            return Ok(None);
        }
        let asked = self.asked_of(&one)?;
        if visit.is_new() {
            visit.begins(now, tx.lane(&one.lane).await?);
        }
        let line = match asked.channel {
            Channel::Websocket => {
                drop(tx);
                // Bound to nothing: nothing is tried.
                let Some(line) = self.line_of(&one).await? else { return Ok(None) };
                tx = self.store().read().await?;
                Some(line)
            }
            Channel::RestHook | Channel::Email | Channel::Sms => None,
        };
        let plan = match one.status.as_str() {
            "requested" if !visit.has_told() => {
                let standing = Standing { count: one.events, ..standing(&one, &asked) };
                let body = self.said_to(&asked, standing, Notice::Handshake, &[])?;
                let attached = self.attached(&asked, standing, Notice::Handshake, &[])?;
                let plan = self.plan(&asked, body, Said::Handshake(one.events), Vec::new());
                Some(NotifyPlan { attached, ..plan })
            }
            "active" => self.events_plan(tx, &one, &asked, visit).await?,
            // A classic one is tried on in spite of its error (S-206).
            "error" if asked.subject.is_classic() => self.events_plan(tx, &one, &asked, visit).await?,
            _ => None,
        };
        // Whoever has asked for a handshake hears of it now, once.
        let rests = |said: Said| visit.rests(now).filter(|_| !matches!(said, Said::Handshake(_)));
        let secret = self.partner(&one.partner).and_then(|partner| partner.webhook_secret.as_ref());
        Ok(plan.map(|mut plan| {
            if let (Some(secret), Channel::RestHook) = (secret, plan.channel) {
                let id = webhook_signature::id_of(&one.id, plan.said, now);
                let body = plan.body.as_deref().unwrap_or("");
                plan.headers.extend(webhook_signature::headers(secret, &id, now, body));
            }
            NotifyPlan { rests: rests(plan.said), line, lane: one.lane, ..plan }
        }))
    }

    async fn events_plan(
        &self,
        mut tx: Tx,
        one: &Subscription,
        asked: &Asked,
        visit: &mut Visit,
    ) -> Result<Option<NotifyPlan>, Error> {
        if one.held {
            return Ok(None);
        }
        let Some((from, to)) = visit.next(one) else { return Ok(None) };
        let most = asked.max_count.map_or(EVENTS, |most| EVENTS.min(usize::try_from(most).unwrap_or(EVENTS)));
        let most = if asked.subject.is_classic() { 1 } else { most };
        if visit.knows_no_more() && from <= to {
            visit.learns(tx.events(&one.id, from, to, EVENTS).await?);
        }
        let mut shown: Vec<Shown> = Vec::new();
        let mut size = 0;
        while shown.len() < most
            && size < FULL
            && let Some(event) = visit.event(to)
        {
            let event = self.shown(&mut tx, one, event, asked.content).await?;
            size += event.resource.as_ref().map_or(0, |resource| resource.to_string().len());
            shown.push(event);
        }
        drop(tx);
        let Some(last) = shown.last().map(|shown| shown.event.number) else {
            if visit.has_told() {
                return Ok(None);
            }
            if one.again.is_some() {
                // What was asked for again is forgotten already: there is nothing to say, and that is done.
                self.nothing_again(one).await?;
            }
            let silent = heartbeat_at(one, asked).is_some_and(|at| at <= self.now());
            if !silent {
                return Ok(None);
            }
            let body = self.said_to(asked, standing(one, asked), Notice::Heartbeat, &[])?;
            return Ok(Some(self.plan(asked, body, Said::Heartbeat, Vec::new())));
        };
        let said = if one.again.is_some() { Said::Again(last) } else { Said::Events(last) };
        let count = if one.again.is_some() && !asked.older { one.events } else { last };
        let standing = Standing { count, status: "active", ..standing(one, asked) };
        let attached = self.attached(asked, standing, Notice::Events, &shown)?;
        if matches!(asked.channel, Channel::Email | Channel::Sms) {
            // People get none about what they may not see: a number alone tells a program something, and them nothing.
            shown.retain(|shown| shown.named);
            if shown.is_empty() {
                self.passed_over(one, said).await?;
                return Ok(None);
            }
        }
        self.disclosed(one, &shown).await?;
        let tasks = match asked.channel {
            Channel::RestHook => {
                let tasks = shown.iter().filter(|shown| shown.event.focus.kind == ResourceType::TASK);
                let version = |shown: &Shown| if shown.named { shown.event.version } else { 0 };
                tasks.map(|shown| (shown.event.focus.id.clone(), version(shown))).collect()
            }
            // That somebody took a mail or message on its way, or a socket a frame, is no evidence that anybody knows.
            Channel::Email | Channel::Sms | Channel::Websocket => Vec::new(),
        };
        if asked.subject.is_classic() {
            let plan = self.classic_plan(one, asked, shown.pop(), said, tasks);
            if plan.is_none() {
                // It would be due for ever, and nothing after it would be told.
                self.passed_over(one, said).await?;
            }
            return Ok(plan);
        }
        let body = self.said_to(asked, standing, Notice::Events, &shown)?;
        Ok(Some(NotifyPlan { attached, ..self.plan(asked, body, said, tasks) }))
    }

    /// A notification as its channel carries it.
    pub(super) fn said_to(
        &self,
        asked: &Asked,
        standing: Standing<'_>,
        notice: Notice,
        shown: &[Shown],
    ) -> Result<String, Error> {
        Ok(match asked.channel {
            Channel::Websocket if asked.subject.is_classic() => format!("bound {}", standing.id),
            Channel::RestHook | Channel::Websocket => {
                written(asked, &notification(self.own(), standing, notice, shown, self.now()))?
            }
            Channel::Sms => subscription::sms(&self.config().gateway.name, standing.id, !shown.is_empty()),
            Channel::Email => {
                let house = &self.config().gateway.name;
                subscription::mail(house, self.own(), standing.id, asked.content, shown)
            }
        })
    }

    /// The notification beside a mail's text, where it was asked for (S-152): a program that reads it finds each number.
    fn attached(
        &self,
        asked: &Asked,
        standing: Standing<'_>,
        notice: Notice,
        shown: &[Shown],
    ) -> Result<Option<(String, String)>, Error> {
        let Some((media, _)) = asked.payload.as_ref().filter(|_| asked.channel == Channel::Email) else {
            return Ok(None);
        };
        let bundle = written(asked, &notification(self.own(), standing, notice, shown, self.now()))?;
        Ok(Some((media.clone(), bundle)))
    }

    fn plan(&self, asked: &Asked, body: String, said: Said, tasks: Vec<(String, i64)>) -> NotifyPlan {
        let media = asked.payload.iter().map(|(media, _)| ("content-type".to_string(), media.clone()));
        let limit = self.config().delivery.timeout;
        NotifyPlan {
            channel: asked.channel,
            method: "POST",
            endpoint: asked.endpoint.clone(),
            headers: media.chain(asked.headers.clone()).collect(),
            body: Some(body),
            attached: None,
            lane: String::new(),
            rests: None,
            line: None,
            timeout: asked.timeout.map_or(limit, |seconds| Duration::from_secs(seconds.into())),
            said,
            tasks,
        }
    }

    /// S-203, S-204, S-208: a ping; the changed resource put below the endpoint, or an empty request to it. What may not be seen, or is
    /// gone, is not told at all.
    fn classic_plan(
        &self,
        one: &Subscription,
        asked: &Asked,
        shown: Option<Shown>,
        said: Said,
        tasks: Vec<(String, i64)>,
    ) -> Option<NotifyPlan> {
        let shown = shown?;
        let plan = self.plan(asked, String::new(), said, tasks);
        if asked.channel == Channel::Websocket {
            return Some(NotifyPlan { body: Some(format!("ping {}", one.id)), ..plan });
        }
        if asked.payload.is_none() {
            return Some(NotifyPlan { body: None, tasks: Vec::new(), ..plan });
        }
        let resource = shown.resource?;
        let endpoint = format!("{}/{}", plan.endpoint.trim_end_matches('/'), shown.event.focus);
        let body = match asked.payload {
            Some((_, Format::Xml)) => xml::write(&resource),
            Some((_, Format::Json)) | None => resource.to_string(),
        };
        Some(NotifyPlan { method: "PUT", endpoint, body: Some(body), ..plan })
    }

    /// An event as this subscriber may see it now.
    pub(super) async fn shown(
        &self,
        tx: &mut Tx,
        one: &Subscription,
        event: Event,
        content: Content,
    ) -> Result<Shown, Error> {
        let subscriber = self.subscriber(one);
        let named = match &subscriber {
            Some(subscriber) => self.subscriber_sees(tx, subscriber, &event).await?,
            None => false,
        };
        let stored = match content {
            Content::FullResource if named => tx.resource(&event.focus).await?.filter(|stored| !stored.deleted),
            Content::Empty | Content::IdOnly | Content::FullResource => None,
        };
        let passed = subscriber.as_ref().zip(stored);
        let passed = passed.map(|(subscriber, stored)| self.passed_on(subscriber, Arc::new(stored))).transpose()?;
        let resource = passed.map(|stored| stored.resource()).transpose()?;
        let resource = resource.map(|resource| Value::Object(self.absolute(&resource).elements().clone()));
        Ok(Shown { event, named, resource })
    }

    /// Health data that is about to leave is on record first (S-170).
    pub(super) async fn disclosed(&self, one: &Subscription, shown: &[Shown]) -> Result<(), Error> {
        let told = shown.iter().filter(|shown| shown.resource.is_some());
        if told.clone().next().is_none() {
            return Ok(());
        }
        let access = Access {
            partner: one.partner.clone(),
            action: "notify",
            seen: told.map(|shown| (shown.event.focus.clone(), shown.event.version)).collect(),
            request: one.id.clone(),
            ..Access::default()
        };
        self.0.recorder.record(access).await
    }

    /// A classic subscription shows that a try failed, and is tried on (S-206).
    pub(super) async fn stumbled(&self, tx: &mut Tx, id: &str, why: &str) -> Result<(), Error> {
        let Some(mut one) = tx.subscription(id).await?.filter(|one| one.status == "active") else { return Ok(()) };
        let asked = self.asked_of(&one)?;
        if asked.subject.is_classic() && asked.channel == Channel::RestHook {
            self.subscription_becomes(tx, &mut one, "error", Some(why)).await?;
        }
        Ok(())
    }

    fn has_ended(&self, one: &Subscription) -> bool {
        one.status != "off" && one.ends.is_some_and(|end| end <= self.now())
    }

    /// Its end has come (S-040, S-209).
    async fn end(&self, id: &str) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if let Some(mut one) = tx.subscription(id).await?.filter(|one| self.has_ended(one)) {
            self.subscription_becomes(&mut tx, &mut one, "off", None).await?;
        }
        self.commit(tx).await
    }

    /// Nothing can be told of these events.
    async fn passed_over(&self, planned: &Subscription, said: Said) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if let Some(mut one) = tx.subscription(&planned.id).await? {
            one.is_past(said, planned.again);
            tx.update_subscription(&one).await?;
        }
        self.commit(tx).await
    }

    async fn nothing_again(&self, asked: &Subscription) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if let Some(mut one) = tx.subscription(&asked.id).await?.filter(|one| one.again == asked.again) {
            one.again = None;
            tx.update_subscription(&one).await?;
        }
        self.commit(tx).await
    }

    /// Who a subscription tells, as if it asked itself.
    fn subscriber(&self, one: &Subscription) -> Option<super::Context> {
        let partner = self.partner(&one.partner)?;
        Some(super::Context {
            scopes: self.configured_scopes(&partner.id),
            partner: partner.clone(),
            request: String::new(),
            token: None,
            address: None,
            person: None,
            provenance: None,
        })
    }

    async fn subscriber_sees(&self, tx: &mut Tx, subscriber: &super::Context, event: &Event) -> Result<bool, Error> {
        let Ok(part) = self.scope(subscriber, event.focus.kind, 'r') else { return Ok(false) };
        if !part.is_empty() {
            // What is told is what stands now.
            let now = tx.resource(&event.focus).await?;
            let within = now.as_ref().map(|now| self.in_scope(subscriber, 'r', now)).transpose()?;
            if within != Some(true) {
                return Ok(false);
            }
        }
        tx.may_see(&self.viewer(subscriber), &event.focus).await
    }

    /// Forgets events and tries that are older than the configured time, some at a time; false when none is left. Part of
    /// the worker's quiet moments. What was seen and done stays on record.
    pub async fn forget_old_events(&self) -> Result<bool, Error> {
        let before = self.now().minus(self.config().subscriptions.keep_events);
        let mut tx = self.store().begin().await?;
        let forgotten = tx.forget_events(before).await? + tx.forget_attempts(before).await?;
        tx.commit().await?;
        Ok(forgotten > 0)
    }
}

/// As the subscriber wants it written.
fn written(asked: &Asked, bundle: &Bundle<'_>) -> Result<String, Error> {
    match asked.payload {
        Some((_, Format::Xml)) => bundle.to_value().map(|bundle| xml::write(&bundle)),
        Some((_, Format::Json)) | None => bundle.to_text(),
    }
}

impl Subscription {
    /// These events need not be told any more: how far it has come, with what is new, or with what was asked for `again`.
    /// More may have been asked for again meanwhile: that is still to come, whole.
    pub(super) fn is_past(&mut self, said: Said, again: Option<(i64, i64)>) {
        match said {
            Said::Events(last) => self.sent = self.sent.max(last),
            Said::Again(last) if self.again == again => {
                self.again = again.map(|(_, to)| (last + 1, to)).filter(|(from, to)| from <= to);
            }
            Said::Again(_) | Said::Handshake(_) | Said::Heartbeat => {}
        }
    }
}

/// How a subscription stands.
pub(super) fn standing<'a>(one: &'a Subscription, asked: &'a Asked) -> Standing<'a> {
    let topic = (!asked.subject.is_classic()).then_some(asked.topic.as_str());
    let error = one.error.as_deref();
    let (count, content, older) = (one.events, asked.content, asked.older);
    Standing { id: &one.id, status: &one.status, count, content, topic, error, older }
}

/// When a heartbeat is due, if nothing else is said before (S-104).
pub(super) fn heartbeat_at(one: &Subscription, asked: &Asked) -> Option<Timestamp> {
    let period = asked.heartbeat?.max(SHORTEST_HEARTBEAT);
    Some(one.said?.plus(Duration::from_secs(period.into())))
}
