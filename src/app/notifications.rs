//! Sending to subscribers: what is due to one is planned from its standing at that moment, and recorded when it is taken.
//!
//! One delivery per Subscription, so that its notifications follow each other. It stands for the handshake, the next
//! events, those asked for again, a heartbeat and the end, whatever is due first. Who may see what is asked once more
//! here: an event that may not be seen any more keeps its number and says nothing else (design D11, D15a).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;

use super::{App, Claimed, Line};
use crate::error::Error;
use crate::fhir::subscription::{
    self, Asked, Channel, Content, Event, Format, Notice, SHORTEST_HEARTBEAT, Shown, Standing, notification,
};
use crate::fhir::{ResourceType, xml};
use crate::store::{Access, Outcome, Subscription, Tx};
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
    /// The server it goes to.
    lane: String,
    /// The socket it goes over.
    pub line: Option<Line>,
    /// How long it may take.
    pub timeout: Duration,
    /// Its server has just failed several times: it is left in peace.
    pub rests: bool,
    /// What it is.
    pub said: Said,
    /// The Tasks it names, with their versions: evidence that the subscriber knows them.
    tasks: Vec<(String, i64)>,
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

/// Tries of this gateway since it started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    taken: AtomicU64,
    failed: AtomicU64,
    /// Subscriptions that are in error for it.
    pub(super) given_up: AtomicU64,
}

/// Most events in one notification, whatever the subscriber takes.
const EVENTS: usize = 100;
/// From this size on, in bytes, a notification takes no further resource.
const FULL: usize = 1024 * 1024;

impl App {
    /// What to send to a subscriber next.
    pub async fn notify_plan(&self, claimed: &Claimed) -> Result<Option<NotifyPlan>, Error> {
        let mut tx = self.store().read().await?;
        let Some(one) = tx.subscription(&claimed.subject).await? else { return Ok(None) };
        if self.has_ended(&one) {
            drop(tx);
            self.end(&one.id).await?;
            return Ok(None);
        }
        let asked = self.asked_of(&one)?;
        let now = self.now();
        // Nobody is given up without having been asked.
        let tries = i64::try_from(self.config().delivery.backoff.len()).unwrap_or(i64::MAX);
        let rests = claimed.attempts <= tries && tx.lane_rests(&one.lane, now).await?;
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
            "requested" => {
                let standing = Standing { count: one.events, ..standing(&one, &asked) };
                let body = self.said_to(&asked, standing, Notice::Handshake, &[]);
                let plan = self.plan(&asked, body, Said::Handshake(one.events), Vec::new());
                return Ok(Some(NotifyPlan { lane: one.lane, ..plan }));
            }
            // A classic one is tried on in spite of its error (S-206).
            "active" => self.events_plan(tx, &one, asked).await?,
            "error" if asked.subject.is_classic() => self.events_plan(tx, &one, asked).await?,
            _ => None,
        };
        Ok(plan.map(|plan| NotifyPlan { rests, line, lane: one.lane, ..plan }))
    }

    async fn events_plan(&self, mut tx: Tx, one: &Subscription, asked: Asked) -> Result<Option<NotifyPlan>, Error> {
        let now = self.now();
        if one.held {
            return Ok(None);
        }
        let most = asked.max_count.map_or(EVENTS, |most| EVENTS.min(usize::try_from(most).unwrap_or(EVENTS)));
        let most = if asked.subject.is_classic() { 1 } else { most };
        let (from, to) = one.again.unwrap_or((one.sent + 1, one.events));
        let mut shown = Vec::new();
        let mut size = 0;
        for event in tx.events(&one.id, from, to, most).await? {
            let event = self.shown(&mut tx, one, event, asked.content).await?;
            size += event.resource.as_ref().map_or(0, |resource| resource.to_string().len());
            shown.push(event);
            if size >= FULL {
                break;
            }
        }
        drop(tx);
        let Some(last) = shown.last().map(|shown| shown.event.number) else {
            if one.again.is_some() {
                // What was asked for again is forgotten already: there is nothing to say, and that is done.
                self.nothing_again(&one.id).await?;
            }
            let silent = heartbeat_at(one, &asked).is_some_and(|at| at <= now);
            return Ok(silent.then(|| {
                let body = self.said_to(&asked, standing(one, &asked), Notice::Heartbeat, &[]);
                self.plan(&asked, body, Said::Heartbeat, Vec::new())
            }));
        };
        let said = if one.again.is_some() { Said::Again(last) } else { Said::Events(last) };
        self.disclosed(one, &shown).await?;
        let tasks = match asked.channel {
            Channel::RestHook => {
                let named = shown.iter().filter(|shown| shown.named && shown.event.focus.kind == ResourceType::TASK);
                named.map(|shown| (shown.event.focus.id.clone(), shown.event.version)).collect()
            }
            // That somebody took a mail or message on its way, or a socket a frame, is no evidence that anybody knows.
            Channel::Email | Channel::Sms | Channel::Websocket => Vec::new(),
        };
        if asked.subject.is_classic() {
            let plan = self.classic_plan(one, &asked, shown.pop(), said, tasks);
            if plan.is_none() {
                // It would be due for ever, and nothing after it would be told.
                self.passed_over(&one.id, last).await?;
            }
            return Ok(plan);
        }
        let count = if one.again.is_some() { one.events } else { last };
        let standing = Standing { count, status: "active", ..standing(one, &asked) };
        let body = self.said_to(&asked, standing, Notice::Events, &shown);
        Ok(Some(self.plan(&asked, body, said, tasks)))
    }

    /// A notification as its channel carries it.
    pub(super) fn said_to(&self, asked: &Asked, standing: Standing<'_>, notice: Notice, shown: &[Shown]) -> String {
        match asked.channel {
            Channel::Websocket if asked.subject.is_classic() => format!("bound {}", standing.id),
            Channel::RestHook | Channel::Websocket => {
                written(asked, &notification(self.own(), standing, notice, shown, self.now()))
            }
            Channel::Sms => subscription::sms(&self.config().gateway.name, standing.id, !shown.is_empty()),
            Channel::Email => {
                let house = &self.config().gateway.name;
                subscription::mail(house, self.own(), standing.id, asked.content, shown)
            }
        }
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
            lane: String::new(),
            rests: false,
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
        Some(NotifyPlan { method: "PUT", endpoint, body: Some(written(asked, &resource)), ..plan })
    }

    /// An event as this subscriber may see it now.
    pub(super) async fn shown(
        &self,
        tx: &mut Tx,
        one: &Subscription,
        event: Event,
        content: Content,
    ) -> Result<Shown, Error> {
        let named = self.subscriber_sees(tx, one, &event).await?;
        let resource = match content {
            Content::FullResource if named => tx.resource(&event.focus).await?,
            Content::Empty | Content::IdOnly | Content::FullResource => None,
        };
        let resource = resource.filter(|stored| !stored.deleted).map(|stored| stored.resource()).transpose()?;
        let resource = resource.map(|resource| Value::Object(self.absolute(&resource).elements().clone()));
        Ok(Shown { event, named, resource })
    }

    /// Health data that is about to leave is on record first (S-170).
    pub(super) async fn disclosed(&self, one: &Subscription, shown: &[Shown]) -> Result<(), Error> {
        let told = shown.iter().filter(|shown| shown.resource.is_some());
        let access = Access {
            partner: one.partner.clone(),
            action: "notify",
            seen: told.map(|shown| (shown.event.focus.clone(), shown.event.version)).collect(),
            request: one.id.clone(),
            ..Access::default()
        };
        self.0.recorder.record(access).await
    }

    /// A subscriber has taken a notification.
    pub async fn notified(&self, claimed: &Claimed, plan: &NotifyPlan) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(mut one) = tx.subscription(&claimed.subject).await? else { return self.done(tx, claimed).await };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        one.said = Some(self.now());
        tx.lane_works(&one.lane).await?;
        self.0.counts.taken.fetch_add(1, Relaxed);
        match plan.said {
            Said::Handshake(count) => {
                // Switched off, or asked for anew, while it was on the way: that answer is about nothing now.
                if one.status == "requested" && tx.is_latest(claimed).await? {
                    one.begun = true;
                    one.sent = count;
                    self.subscription_becomes(&mut tx, &mut one, "active", None).await?;
                }
            }
            Said::Heartbeat => tx.update_subscription(&one).await?,
            Said::Events(last) => {
                one.sent = one.sent.max(last);
                tx.update_subscription(&one).await?;
            }
            Said::Again(last) => {
                one.again = one.again.map(|(_, to)| (last + 1, to)).filter(|(from, to)| from <= to);
                tx.update_subscription(&one).await?;
            }
        }
        if one.status == "error" && self.asked_of(&one)?.subject.is_classic() {
            self.subscription_becomes(&mut tx, &mut one, "active", None).await?;
        }
        self.rest(tx, claimed, &one).await?;
        self.source_saw(&one.partner, &plan.tasks, "notification").await
    }

    /// Nothing was to be sent to a subscriber after all.
    pub(super) async fn nothing_to_tell(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(one) = tx.subscription(&claimed.subject).await? else { return self.done(tx, claimed).await };
        self.rest(tx, claimed, &one).await
    }

    /// This try is over; the next thing that will be due to the subscriber is owed.
    async fn rest(&self, mut tx: Tx, claimed: &Claimed, one: &Subscription) -> Result<(), Error> {
        if !tx.finish(claimed, &Outcome::Done).await? {
            return Ok(());
        }
        let sends = one.status == "active" && !one.held && one.is_reachable();
        let next = if sends && (one.again.is_some() || one.sent < one.events) {
            Some(self.now())
        } else {
            let heartbeat = if sends { heartbeat_at(one, &self.asked_of(one)?) } else { None };
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
        tx.lane_failed(&plan.lane, self.now()).await?;
        tx.commit().await
    }

    /// Notifications in numbers, as Prometheus text.
    pub(super) async fn notification_metrics(&self, tx: &mut Tx) -> Result<String, Error> {
        let mut out = String::from("# TYPE loopgate_subscriptions gauge\n");
        let counts = tx.subscription_counts().await?;
        for (status, count, ..) in &counts {
            out.push_str(&format!("loopgate_subscriptions{{status=\"{status}\"}} {count}\n"));
        }
        out.push_str("# TYPE loopgate_events_waiting gauge\n# TYPE loopgate_events_waiting_seconds gauge\n");
        for (status, _, waiting, since) in &counts {
            let seconds = since.map_or(0, |since| self.now().since(since).as_secs());
            out.push_str(&format!("loopgate_events_waiting{{status=\"{status}\"}} {waiting}\n"));
            out.push_str(&format!("loopgate_events_waiting_seconds{{status=\"{status}\"}} {seconds}\n"));
        }
        out.push_str("# TYPE loopgate_sockets gauge\n");
        out.push_str(&format!("loopgate_sockets {}\n", self.0.sockets.open()));
        out.push_str("# TYPE loopgate_notification_attempts_total counter\n");
        let Counts { taken, failed, given_up } = &self.0.counts;
        for (outcome, count) in [("taken", taken), ("failed", failed), ("given_up", given_up)] {
            let count = count.load(Relaxed);
            out.push_str(&format!("loopgate_notification_attempts_total{{outcome=\"{outcome}\"}} {count}\n"));
        }
        Ok(out)
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

    /// Nothing can be told of this event.
    async fn passed_over(&self, id: &str, number: i64) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if let Some(mut one) = tx.subscription(id).await? {
            one.sent = one.sent.max(number);
            tx.update_subscription(&one).await?;
        }
        self.commit(tx).await
    }

    async fn nothing_again(&self, id: &str) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if let Some(mut one) = tx.subscription(id).await? {
            one.again = None;
            tx.update_subscription(&one).await?;
        }
        self.commit(tx).await
    }

    /// What a subscription asks for, its headers included.
    pub(super) fn asked_of(&self, one: &Subscription) -> Result<Asked, Error> {
        subscription::parse(&self.with_headers(one)?, self.own())
    }

    async fn subscriber_sees(&self, tx: &mut Tx, one: &Subscription, event: &Event) -> Result<bool, Error> {
        let Some(partner) = self.partner(&one.partner) else { return Ok(false) };
        let context = super::Context {
            scopes: self.configured_scopes(&partner.id),
            partner: partner.clone(),
            request: String::new(),
            token: None,
            address: None,
            person: None,
        };
        Ok(context.scopes.allow(event.focus.kind, 'r') && tx.may_see(&self.viewer(&context), &event.focus).await?)
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
fn written(asked: &Asked, value: &Value) -> String {
    match asked.payload {
        Some((_, Format::Xml)) => xml::write(value),
        Some((_, Format::Json)) | None => value.to_string(),
    }
}

/// How a subscription stands.
pub(super) fn standing<'a>(one: &'a Subscription, asked: &'a Asked) -> Standing<'a> {
    let topic = (!asked.subject.is_classic()).then_some(asked.topic.as_str());
    let error = one.error.as_deref();
    Standing { id: &one.id, status: &one.status, count: one.events, content: asked.content, topic, error }
}

/// When a heartbeat is due, if nothing else is said before (S-104).
fn heartbeat_at(one: &Subscription, asked: &Asked) -> Option<Timestamp> {
    let period = asked.heartbeat?.max(SHORTEST_HEARTBEAT);
    Some(one.said?.plus(Duration::from_secs(period.into())))
}
