//! What the worker asks and reports: claim, plan, result. The worker sends; what it means is decided here.
//!
//! A plan is made from the state at the time of sending, so nothing stale goes out. A report is one transaction, and
//! counts only while the worker's lease is its own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::rights::Place;
use super::{App, Claimed, Copy};
use crate::config::{Partner, Role, WriteOutcomes};
use crate::error::Error;
use crate::fhir::reference::{Reference, lies_under};
use crate::fhir::subscription::{self, Notice, Standing};
use crate::fhir::views::{BUSINESS_STATUS, STATUS_REASON, Task, concept, identifiers, reference_of};
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::{self, Basis, Event, moved, status_of};
use crate::store::{Kind as Owed, Outcome, Referral, Relay, Stored, Tx, Viewer};
use crate::time::Timestamp;

/// Read these URLs, and what they refer to at the same server.
#[derive(Debug, Clone)]
pub struct FetchPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Absolute URLs below its base.
    pub starts: Vec<String>,
}

/// Bring the target's server in line with our Task.
#[derive(Debug, Clone)]
pub struct DeliverPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Our Task as it is to stand there: absolute references, no id.
    pub task: Resource,
    /// Its identifier there, system and value: what an earlier try may have left is found by it.
    pub identifier: (String, String),
    /// The absolute URL of the Task it is part of: the second mark of an earlier try.
    pub part_of: String,
    /// Its URL there, once it is known.
    pub remote: Option<String>,
    /// It has to be called off, with this reason.
    pub withdrawn: Option<String>,
}

/// Read a Task at a partner's server, and what its output names.
#[derive(Debug, Clone)]
pub struct CollectPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// The Task's URL.
    pub url: String,
    /// Whether outcomes are to be read with it.
    pub outcomes: bool,
}

/// A Task as it stands at a partner's server, and what was read with it.
#[derive(Debug, Clone)]
pub struct Reported {
    /// The Task.
    pub task: Copy,
    /// What its output names.
    pub outcomes: Vec<Copy>,
}

/// Bring a Task kept at the source's server in line with ours: each status a legal step, and nothing else but reason,
/// business status, output and note.
#[derive(Debug, Clone)]
pub struct WriteBackPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// The Task's URL there.
    pub url: String,
    /// Our Task, references absolute.
    pub task: Resource,
    /// Its version here.
    pub version: i64,
    /// Outcomes to create there first: our absolute reference, and the content.
    pub outcomes: Vec<(String, Resource)>,
}

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

/// Ask a partner's server what has changed.
#[derive(Debug, Clone)]
pub struct PollPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Searches below its base, each to be read to its last page.
    pub searches: Vec<String>,
}

/// The shortest pause before a next try, whatever the partner asks for: "at once" would use the tries up in a moment.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Most events in one notification.
const EVENTS: usize = 100;
/// How far a cursor overlaps with what was read before (design D15b).
const OVERLAP: Duration = Duration::from_secs(2);
/// Ids in one search for changed copies.
const IDS: usize = 40;

impl App {
    /// Claims deliveries that are due now, none of these partners'.
    pub async fn claim(&self, most: usize, busy: &[String]) -> Result<Vec<Claimed>, Error> {
        let mut tx = self.store().begin().await?;
        let lease = self.config().delivery.timeout * 2;
        let claimed = tx.claim(self.now(), lease, most, busy).await?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// When the next delivery is due, if any is owed.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        self.store().read().await?.next_due().await
    }

    /// The lease of a delivery that takes long, made anew. False when somebody else has it.
    pub async fn renew(&self, claimed: &Claimed) -> Result<bool, Error> {
        let mut tx = self.store().begin().await?;
        let till = self.now().plus(self.config().delivery.timeout * 2);
        let ours = tx.renew(claimed, till).await?;
        tx.commit().await?;
        Ok(ours)
    }

    /// Gives back what was being sent when the gateway was told to stop: it is due at once, and whether it arrived is
    /// unknown.
    pub async fn let_go(&self, claimed: &[Claimed]) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        for one in claimed {
            tx.let_go(one).await?;
        }
        tx.commit().await
    }

    /// Gives claimed deliveries back, unsent.
    pub async fn hand_back(&self, claimed: &[Claimed]) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        for one in claimed {
            tx.hand_back(one).await?;
        }
        tx.commit().await
    }

    /// A try failed. It is tried again after the configured pause, or the one the partner asked for, until the pauses
    /// are used up; then what was owed ends in the way its kind ends, visibly.
    pub async fn failed(&self, claimed: &Claimed, why: &str, retry_after: Option<Duration>) -> Result<(), Error> {
        let now = self.now();
        let pauses = &self.config().delivery.backoff;
        let index = usize::try_from(claimed.attempts - 1).unwrap_or(usize::MAX);
        let mut tx = self.store().begin().await?;
        if claimed.kind == Owed::Poll {
            let failures = tx.not_followed(&claimed.partner, why).await?;
            let most = self.poll_every(&claimed.partner);
            let index = usize::try_from(failures - 1).unwrap_or(usize::MAX).min(pauses.len().saturating_sub(1));
            let pause = pauses.get(index).copied().unwrap_or(most);
            // A poll is never asked for sooner than it would be anyway.
            let pause = retry_after.map_or(pause, |asked| asked.max(pause)).min(most.max(Duration::from_secs(900)));
            tx.finish(claimed, &Outcome::Retry(now.plus(pause), why.to_string())).await?;
            return self.commit(tx).await;
        }
        if let Some(pause) = pauses.get(index) {
            let at = now.plus(retry_after.map_or(*pause, |asked| asked.max(SHORTEST_PAUSE)));
            tx.finish(claimed, &Outcome::Retry(at, why.to_string())).await?;
            return self.commit(tx).await;
        }
        self.give_up(tx, claimed, why).await
    }

    /// There is no point in trying again.
    pub async fn gone(&self, claimed: &Claimed, why: &str) -> Result<(), Error> {
        let tx = self.store().begin().await?;
        self.give_up(tx, claimed, why).await
    }

    async fn give_up(&self, mut tx: Tx, claimed: &Claimed, why: &str) -> Result<(), Error> {
        let referral = self.referral_of(&mut tx, claimed).await?;
        let latest = tx.is_latest(claimed).await?;
        if !tx.finish(claimed, &Outcome::Exhausted(why.to_string())).await? {
            return Ok(());
        }
        tracing::warn!(
            kind = claimed.kind.code(),
            partner = claimed.partner,
            subject = claimed.subject,
            why,
            "given up"
        );
        match (claimed.kind, referral) {
            // What was fetched once is kept; the next round that goes well tries again.
            (Owed::Fetch, Some((referral, _))) if referral.fetched => {}
            (Owed::Fetch, Some((referral, _))) => {
                let text = format!("What this referral refers to could not be read at the source: {why}.");
                self.end_source(&mut tx, referral, concept(STATUS_REASON, "not-found", &text)).await?;
            }
            (Owed::Deliver, Some((referral, Some(mut relay)))) => {
                let text = "The referral could not be delivered to the organization's server.";
                self.call_off(&mut tx, &referral, &relay, text).await?;
                // A lost answer may have left it there: it is called off there too, when the server can be reached.
                relay.withdrawn = true;
                tx.update_relay(&relay).await?;
                self.aggregate(&mut tx, referral).await?;
            }
            (Owed::Notify, _) => self.subscription_failed(&mut tx, &claimed.subject, why, latest).await?,
            _ => {}
        }
        self.commit(tx).await
    }

    /// The referral, and relay, that a delivery is about; its row is locked first.
    async fn referral_of(&self, tx: &mut Tx, claimed: &Claimed) -> Result<Option<(Referral, Option<Relay>)>, Error> {
        let task = Key::new(ResourceType::TASK, &claimed.subject);
        match claimed.kind {
            Owed::Fetch | Owed::Deliver | Owed::WriteBack => Ok(match self.place(tx, &task).await? {
                Place::Source(referral) => Some((referral, None)),
                Place::Relayed(relay, referral) => Some((referral, Some(relay))),
                Place::Other => None,
            }),
            Owed::Collect | Owed::Notify | Owed::Poll => Ok(None),
        }
    }

    /// What to read for a referral; nothing when it has ended meanwhile.
    pub async fn fetch_plan(&self, claimed: &Claimed) -> Result<Option<FetchPlan>, Error> {
        let mut tx = self.store().read().await?;
        let Some(referral) = tx.referral(&claimed.subject).await? else { return Ok(None) };
        let Some(partner) = self.partner(&referral.source).cloned() else { return Ok(None) };
        let Some(fhir) = &partner.fhir else { return Ok(None) };
        let Some(stored) = tx.resource(&Key::new(ResourceType::TASK, &referral.task)).await? else { return Ok(None) };
        let task = stored.resource()?;
        if status_of(&task).is_terminal() {
            return Ok(None);
        }
        let mut starts = Vec::new();
        let mut add = |text: &str| {
            if let Reference::Remote { base, key } = Reference::parse(text, self.own()) {
                let url = format!("{base}/{key}");
                if lies_under(&url, &fhir.base) && key.kind != ResourceType::TASK && !starts.contains(&url) {
                    starts.push(url);
                }
            }
        };
        crate::fhir::reference::all(&task).iter().for_each(|text| add(text));
        // The copies already made are read again, and what our request says is looked through for what is still away.
        let keys = Task(&task).focus().and_then(|text| self.local(text)).into_iter();
        for key in keys.chain(Task(&task).patient().and_then(|text| self.local(text))) {
            for link in tx.links_of(&key).await? {
                if link.partner == partner.id {
                    add(&link.origin);
                }
            }
            if let Some(stored) = tx.resource(&key).await?.filter(|stored| !stored.deleted) {
                crate::fhir::reference::all(&stored.resource()?).iter().for_each(|text| add(text));
            }
        }
        Ok(Some(FetchPlan { partner, starts }))
    }

    /// What to send to a target's server; nothing when there is nothing left to say.
    pub async fn deliver_plan(&self, claimed: &Claimed) -> Result<Option<DeliverPlan>, Error> {
        let mut tx = self.store().read().await?;
        let Some(relay) = tx.relay(&claimed.subject).await? else { return Ok(None) };
        let partner = relay.partner.as_ref().and_then(|id| self.partner(id)).cloned();
        let Some(partner) = partner.filter(|partner| partner.fhir.is_some()) else { return Ok(None) };
        let Some(stored) = tx.resource(&Key::new(ResourceType::TASK, &relay.task)).await? else { return Ok(None) };
        let task = stored.resource()?;
        let status = status_of(&task);
        let settled = status.is_terminal() || relay.remote.is_some();
        if status == Status::Draft || (settled && !relay.withdrawn) {
            return Ok(None);
        }
        let source = tx.resource(&Key::new(ResourceType::TASK, &relay.referral)).await?;
        let why = source.map(|stored| stored.resource()).transpose()?;
        let why = why.as_ref().filter(|_| !status.is_terminal()).or(Some(&task));
        let why = why.and_then(|task| Task(task).reason_text()).unwrap_or("Called off by the referral source.");
        let mut out = self.absolute(&task);
        out.set("id", Value::Null);
        if let Some(Value::Object(meta)) = out.elements_mut().get_mut("meta") {
            meta.shift_remove("versionId");
            meta.shift_remove("lastUpdated");
        }
        let identifier = identifiers(&task).next().map(|(system, value)| (system.to_string(), value.to_string()));
        Ok(Some(DeliverPlan {
            partner,
            task: out,
            identifier: identifier.unwrap_or_default(),
            part_of: format!("{}/Task/{}", self.own(), relay.referral),
            remote: relay.remote,
            withdrawn: relay.withdrawn.then(|| why.to_string()),
        }))
    }

    /// Our Task stands at the target's server.
    pub async fn delivered(&self, claimed: &Claimed, remote: &str, mark: Option<&str>) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some((referral, Some(mut relay))) = self.referral_of(&mut tx, claimed).await? else {
            return self.done(tx, claimed).await;
        };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        let key = Key::new(ResourceType::TASK, &relay.task);
        let partner = relay.partner.clone().unwrap_or_default();
        let first = relay.remote.is_none();
        relay.remote = Some(remote.to_string());
        relay.reached = relay.reached.or(Some(tx.stamp()));
        tx.update_relay(&relay).await?;
        tx.put_link(&partner, remote, &key, mark).await?;
        if first {
            let stored = self.must(&mut tx, &key).await?;
            let mut task = stored.resource()?;
            if status_of(&task) == Status::Requested {
                task.set("businessStatus", concept(BUSINESS_STATUS, "delivered", "delivered"));
                self.save(&mut tx, &stored, task, self.gateway()).await?;
            }
            self.note(&mut tx, &referral, &key, &partner, "delivered", "delivered", stored.version).await?;
        }
        if relay.withdrawn {
            // Called off while it was on its way: the row stays due.
            self.owe(&mut tx, Owed::Deliver, &relay.task, &partner).await?;
        }
        self.done(tx, claimed).await
    }

    /// The target's server has it as called off; or never had it.
    pub async fn called_off(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some((referral, Some(mut relay))) = self.referral_of(&mut tx, claimed).await? else {
            return self.done(tx, claimed).await;
        };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        relay.withdrawn = false;
        tx.update_relay(&relay).await?;
        let ours = self.must(&mut tx, &Key::new(ResourceType::TASK, &relay.task)).await?.resource()?;
        if !status_of(&ours).is_terminal() {
            self.call_off(&mut tx, &referral, &relay, "The referral source called it off.").await?;
        }
        self.done(tx, claimed).await
    }

    /// The target had ended it before it could be called off: its ending stands and is collected (design D7).
    pub async fn ended_first(&self, claimed: &Claimed, remote: &str, mark: Option<&str>) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some((_, Some(mut relay))) = self.referral_of(&mut tx, claimed).await? else {
            return self.done(tx, claimed).await;
        };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        let partner = relay.partner.clone().unwrap_or_default();
        relay.withdrawn = false;
        relay.remote = Some(remote.to_string());
        relay.reached = relay.reached.or(Some(tx.stamp()));
        tx.update_relay(&relay).await?;
        tx.put_link(&partner, remote, &Key::new(ResourceType::TASK, &relay.task), mark).await?;
        self.owe(&mut tx, Owed::Collect, remote, &partner).await?;
        self.done(tx, claimed).await
    }

    /// Which Task to read at a partner's server.
    pub async fn collect_plan(&self, claimed: &Claimed) -> Result<Option<CollectPlan>, Error> {
        let partner = self.partner(&claimed.partner).cloned();
        let Some(partner) = partner
            .filter(|partner| partner.fhir.as_ref().is_some_and(|fhir| lies_under(&claimed.subject, &fhir.base)))
        else {
            return Ok(None);
        };
        let outcomes = partner.roles.contains(&Role::Target);
        Ok(Some(CollectPlan { partner, url: claimed.subject.clone(), outcomes }))
    }

    /// A Task at a partner's server says this: a target's answer, or a source's wish.
    pub async fn collected(&self, claimed: &Claimed, reported: Reported) -> Result<(), Error> {
        let Some(partner) = self.partner(&claimed.partner).cloned() else { return Ok(()) };
        let mut tx = self.store().begin().await?;
        let known = tx.link_from(&partner.id, &reported.task.url).await?.map(|link| link.key);
        let known = match known {
            Some(key) => Some(key),
            None => self.ours_by_identifier(&mut tx, &partner, &reported.task).await?,
        };
        // The referral's row is locked before the lease's, as everywhere.
        let place = match &known {
            Some(key) => self.place(&mut tx, key).await?,
            None => Place::Other,
        };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        match (place, known) {
            (Place::Relayed(relay, referral), Some(key)) if relay.partner.as_deref() == Some(partner.id.as_str()) => {
                self.target_reported(&mut tx, &partner, relay, referral, &key, reported).await?;
            }
            (Place::Source(referral), Some(key)) if referral.source == partner.id => {
                self.source_reported(&mut tx, &partner, referral, &key, reported.task).await?;
            }
            (_, None) if partner.roles.contains(&Role::Source) => {
                self.found_at_source(&mut tx, &partner, reported.task).await?
            }
            _ => {}
        }
        self.done(tx, claimed).await
    }

    /// A Task at a target's server that an answer we never got left there.
    async fn ours_by_identifier(&self, tx: &mut Tx, partner: &Partner, copy: &Copy) -> Result<Option<Key>, Error> {
        let system = format!("{}/Task", self.own());
        for (its_system, value) in identifiers(&copy.resource) {
            if its_system == system
                && crate::id::is_valid(value)
                && let Some(mut relay) = tx.relay(value).await?
                && relay.partner.as_deref() == Some(partner.id.as_str())
            {
                let key = Key::new(ResourceType::TASK, value);
                relay.remote = Some(copy.url.clone());
                relay.reached = relay.reached.or(Some(tx.stamp()));
                tx.update_relay(&relay).await?;
                tx.put_link(&partner.id, &copy.url, &key, None).await?;
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// A target's answer that was read at its server: each missed step becomes a version, its outcome a copy here.
    async fn target_reported(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        relay: Relay,
        referral: Referral,
        key: &Key,
        reported: Reported,
    ) -> Result<(), Error> {
        let base = partner.fhir.as_ref().map(|fhir| fhir.base.clone()).unwrap_or_default();
        let mut outcomes = reported.outcomes;
        self.base_on_original(&mut outcomes, &relay, &referral);
        self.store_copies(tx, partner, outcomes).await?;
        let mut remote = reported.task.resource;
        self.rewrite_copy(tx, partner, &base, &[], &mut remote).await?;
        self.drop_foreign_outputs(tx, partner, &mut remote).await?;
        tx.put_link(&partner.id, &reported.task.url, key, reported.task.mark.as_deref()).await?;
        let stored = self.must(tx, key).await?;
        let from = status_of(&stored.resource()?);
        let wished = Task(&remote).status().and_then(Status::parse).unwrap_or(from);
        let (end, reason) = match (from.way_to(wished), wished) {
            (Some(_), _) => (wished, remote.at("statusReason").cloned()),
            // A refusal after the acceptance is a withdrawal; the diagram has no other word for it.
            (None, Status::Rejected) if !from.is_terminal() => (Status::Cancelled, remote.at("statusReason").cloned()),
            _ => {
                if wished != from {
                    self.note(tx, &referral, key, &partner.id, "ignored", "poll", stored.version).await?;
                }
                (from, None)
            }
        };
        let reason = match reason {
            Some(reason) if reason.get("text").is_some() => Some(reason),
            _ if end.needs_reason() => Some(concept(STATUS_REASON, "other", "The organization gave no reason.")),
            other => other,
        };
        let way = from.way_to(end).unwrap_or_default();
        for (index, status) in way.iter().enumerate() {
            let stored = self.must(tx, key).await?;
            let last = index + 1 == way.len();
            let before = status_of(&stored.resource()?);
            let mut task = moved(&stored.resource()?, *status, reason.clone().filter(|_| last));
            if last {
                take_over(&mut task, &remote);
            }
            let place = self.place(tx, key).await?;
            self.write_step(tx, place, &stored, task, (before, *status), &partner.id, "poll").await?;
        }
        if way.is_empty() {
            let stored = self.must(tx, key).await?;
            let before = stored.resource()?;
            let mut task = before.clone();
            take_over(&mut task, &remote);
            if !task.same_content(&before) {
                let place = self.place(tx, key).await?;
                self.write_step(tx, place, &stored, task, (from, from), &partner.id, "poll").await?;
            }
        }
        Ok(())
    }

    /// An output at a target's server may not hand on something here that the target can't see.
    async fn drop_foreign_outputs(&self, tx: &mut Tx, partner: &Partner, task: &mut Resource) -> Result<(), Error> {
        let viewer = Viewer::Grantees(vec![partner.id.clone()]);
        let mut kept = Vec::new();
        for output in task.list("output") {
            let named = reference_of(output.get("valueReference")).and_then(|text| self.local(text));
            match named {
                Some(key) if !tx.may_see(&viewer, &key).await? => {
                    tracing::warn!(partner = partner.id, %key, "an output that names what is not its own is left out");
                }
                _ => kept.push(output.clone()),
            }
        }
        if kept.len() < task.list("output").len() {
            task.set("output", if kept.is_empty() { Value::Null } else { Value::Array(kept) });
        }
        Ok(())
    }

    /// An outcome copied for the source says that it is based on the source's own request, too.
    fn base_on_original(&self, outcomes: &mut [Copy], relay: &Relay, referral: &Referral) {
        let Some(original) = &referral.request else { return };
        let ours = format!("{}/ServiceRequest/{}", self.own(), relay.request);
        for copy in outcomes.iter_mut().filter(|copy| copy.resource.kind() == ResourceType::PROCEDURE) {
            let mut list = copy.resource.list("basedOn").to_vec();
            if list.iter().any(|item| reference_of(Some(item)) == Some(ours.as_str())) {
                list.push(serde_json::json!({"reference": format!("{}/ServiceRequest/{original}", self.own())}));
                copy.resource.set("basedOn", Value::Array(list));
            }
        }
    }

    /// A source's Task kept at its own server has changed there: only what an author may change counts.
    async fn source_reported(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        referral: Referral,
        key: &Key,
        copy: Copy,
    ) -> Result<(), Error> {
        let base = partner.fhir.as_ref().map(|fhir| fhir.base.clone()).unwrap_or_default();
        let mut sent = copy.resource;
        self.rewrite_copy(tx, partner, &base, &[], &mut sent).await?;
        tx.put_link(&partner.id, &copy.url, key, copy.mark.as_deref()).await?;
        let stored = self.must(tx, key).await?;
        let current = stored.resource()?;
        let status = status_of(&current);
        let wished = Task(&sent).status().and_then(Status::parse).unwrap_or(status);
        // Its server may lag behind what we have not written yet; only what an author sets is a wish.
        let by_author = matches!(wished, Status::Cancelled | Status::EnteredInError)
            || (status == Status::Draft && wished == Status::Requested);
        if !by_author || !status.may_become(wished) {
            if by_author && wished != status {
                // Too late: it had ended otherwise here. Both stand, and that is on record.
                self.note(tx, &referral, key, &partner.id, "ignored", "poll", stored.version).await?;
            }
            sent.set("status", serde_json::json!(status.code()));
        }
        let meta = current.at("meta").cloned().unwrap_or(Value::Null);
        sent.set("meta", meta);
        let basis = Basis { stale_status: None };
        if let Event::Changed { mut task, from, to } = decide::update(&current, &sent, decide::Standing::Author, basis)?
        {
            let mut referral = referral;
            let viewer = Viewer::Grantees(vec![partner.id.clone()]);
            let mut checked = self.check_added(tx, &viewer, &current, &task).await;
            if from == Status::Draft && checked.is_ok() {
                checked = self.aim(tx, &mut referral, &mut task).await;
            }
            if let Err(refusal) = checked {
                tracing::warn!(partner = partner.id, url = copy.url, %refusal, "a change at the source's server is not taken");
                return Ok(());
            }
            let id = referral.task.clone();
            self.write_step(tx, Place::Source(referral), &stored, task, (from, to), &partner.id, "poll").await?;
            if to.is_terminal() && from != to {
                // It ended it itself, at its own server: it knows.
                let version = self.must(tx, key).await?.version;
                self.informed(tx, &id, version, "own update").await?;
            }
        }
        Ok(())
    }

    /// A Task at a source's server that names us: a referral in the direct light flow.
    async fn found_at_source(&self, tx: &mut Tx, partner: &Partner, copy: Copy) -> Result<(), Error> {
        let base = partner.fhir.as_ref().map(|fhir| fhir.base.clone()).unwrap_or_default();
        let mut task = copy.resource;
        let status = Task(&task).status().and_then(Status::parse);
        let names_us = self.names_us(partner, &base, &task);
        if status != Some(Status::Requested) || !Task(&task).is_referral() || !names_us {
            return Ok(());
        }
        decide::normalise(&mut task);
        task.set("id", Value::Null);
        // Its relative references are the source's: taken as absolute, so that they are read there.
        crate::fhir::reference::rewrite(&mut task, &mut |text| Key::parse(text).map(|_| format!("{base}/{text}")));
        task.set("owner", serde_json::json!({"reference": format!("Organization/{}", self.gateway())}));
        task.set_source(&copy.url);
        if let Some(existing) = self.same_referral(tx, &partner.id, &task).await? {
            // It was posted here, too: one referral, and what its author does over there counts (design D8).
            if !self.is_kept(tx, &existing.key).await? {
                tx.put_link(&partner.id, &copy.url, &existing.key, copy.mark.as_deref()).await?;
            }
            return Ok(());
        }
        let viewer = Viewer::Grantees(vec![partner.id.clone()]);
        let taken = match crate::fhir::validate::check(&task) {
            Ok(()) => self.take_in(tx, &partner.id, &viewer, task.clone(), Some(&copy.url)).await,
            Err(faults) => Err(faults),
        };
        let written = match taken {
            Ok(written) => written,
            Err(refusal) if super::relaying::is_refusal(&refusal) => {
                let why = format!("This Task can't be taken. {refusal}");
                self.refuse_kept(tx, &partner.id, task, &copy.url, &why).await?
            }
            Err(error) => return Err(error),
        };
        tx.put_link(&partner.id, &copy.url, &written.stored.key, copy.mark.as_deref()).await
    }

    fn names_us(&self, partner: &Partner, base: &str, task: &Resource) -> bool {
        let Some(owner) = Task(task).owner() else { return false };
        let ours = partner.fhir.as_ref().map_or("", |fhir| fhir.our_reference.as_str());
        owner == ours
            || Some(owner) == ours.strip_prefix(&format!("{base}/"))
            || format!("{base}/{owner}") == ours
            || (owner.starts_with("http") && self.local(owner) == Some(App::organization(self.gateway())))
    }

    /// What a Task kept at the source should look like there.
    pub async fn write_back_plan(&self, claimed: &Claimed) -> Result<Option<WriteBackPlan>, Error> {
        let mut tx = self.store().read().await?;
        let Some(referral) = tx.referral(&claimed.subject).await? else { return Ok(None) };
        let (Some(url), Some(partner)) = (referral.kept_at.clone(), self.partner(&referral.source).cloned()) else {
            return Ok(None);
        };
        let Some(stored) = tx.resource(&Key::new(ResourceType::TASK, &referral.task)).await? else { return Ok(None) };
        let task = stored.resource()?;
        let create = partner.fhir.as_ref().is_some_and(|fhir| fhir.write_outcomes == WriteOutcomes::Create);
        let mut outcomes = Vec::new();
        if create {
            for key in Task(&task).output_references().filter_map(|text| self.local(text)) {
                let Some(stored) = tx.resource(&key).await?.filter(|stored| !stored.deleted) else { continue };
                outcomes.push((format!("{}/{key}", self.own()), self.for_source(&mut tx, &partner, stored).await?));
            }
        }
        Ok(Some(WriteBackPlan { partner, url, task: self.absolute(&task), version: stored.version, outcomes }))
    }

    /// An outcome as the source's own server would hold it: its own patient and request, our identifier.
    async fn for_source(&self, tx: &mut Tx, partner: &Partner, stored: Stored) -> Result<Resource, Error> {
        let mut resource = stored.resource()?;
        let mut known: Vec<(String, String)> = Vec::new();
        for text in crate::fhir::reference::all(&resource) {
            if let Some(key) = self.local(&text) {
                let asked = self.asked_with(tx, &key).await?;
                let origin = tx.links_of(&asked).await?.into_iter().find(|link| link.partner == partner.id);
                known.push((text, origin.map_or(format!("{}/{key}", self.own()), |link| link.origin)));
            }
        }
        crate::fhir::reference::rewrite(&mut resource, &mut |text| {
            known.iter().find(|(from, _)| from == text).map(|(_, to)| to.clone())
        });
        let mut based: Vec<Value> = Vec::new();
        for item in resource.list("basedOn") {
            if !based.contains(item) {
                based.push(item.clone());
            }
        }
        if !based.is_empty() {
            resource.set("basedOn", Value::Array(based));
        }
        let mine = serde_json::json!({"system": format!("{}/{}", self.own(), stored.key.kind), "value": stored.key.id});
        let mut list = resource.list("identifier").to_vec();
        list.push(mine);
        resource.set("identifier", Value::Array(list));
        resource.set("id", Value::Null);
        resource.set("meta", Value::Null);
        Ok(resource)
    }

    /// The source's request that ours to a target was made from; anything else is itself.
    async fn asked_with(&self, tx: &mut Tx, key: &Key) -> Result<Key, Error> {
        let relay = match key.kind {
            ResourceType::SERVICE_REQUEST => tx.relay_by_request(&key.id).await?,
            _ => None,
        };
        let Some(relay) = relay else { return Ok(key.clone()) };
        let request = tx.referral(&relay.referral).await?.and_then(|referral| referral.request);
        Ok(request.map_or_else(|| key.clone(), |id| Key::new(ResourceType::SERVICE_REQUEST, id)))
    }

    /// The source's server has taken this version of our Task.
    pub async fn written_back(&self, claimed: &Claimed, version: i64, mark: Option<&str>) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some((referral, _)) = self.referral_of(&mut tx, claimed).await? else {
            return self.done(tx, claimed).await;
        };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        if let Some(url) = &referral.kept_at {
            let key = Key::new(ResourceType::TASK, &referral.task);
            tx.put_link(&referral.source, url, &key, mark).await?;
        }
        self.informed(&mut tx, &referral.task, version, "write-back").await?;
        self.done(tx, claimed).await
    }

    /// The source had cancelled its Task before our status reached it: that is read and followed.
    pub async fn overtaken(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some((referral, _)) = self.referral_of(&mut tx, claimed).await? else {
            return self.done(tx, claimed).await;
        };
        if let Some(url) = &referral.kept_at {
            self.owe(&mut tx, Owed::Collect, url, &referral.source).await?;
        }
        self.done(tx, claimed).await
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

    /// What to ask a partner's server. One Task search; for a source also what we hold copies of.
    pub async fn poll_plan(&self, claimed: &Claimed) -> Result<Option<PollPlan>, Error> {
        let Some(partner) = self.partner(&claimed.partner).cloned() else { return Ok(None) };
        let Some(fhir) = &partner.fhir else { return Ok(None) };
        let mut tx = self.store().read().await?;
        let following = tx.following(&partner.id).await?;
        let since = following.cursor.map_or(String::new(), |cursor| format!("&_lastUpdated=ge{cursor}"));
        let mut searches = Vec::new();
        if partner.roles.contains(&Role::Source) {
            let ours = fhir.our_reference.strip_prefix(&format!("{}/", fhir.base)).unwrap_or(&fhir.our_reference);
            searches.push(format!("Task?owner={ours}{since}"));
            if !since.is_empty() {
                let mut by_type: Vec<(ResourceType, Vec<String>)> = Vec::new();
                for key in tx.open_copies(&partner.id, self.gateway()).await? {
                    match by_type.iter_mut().find(|(kind, ids)| *kind == key.kind && ids.len() < IDS) {
                        Some((_, ids)) => ids.push(key.id),
                        None => by_type.push((key.kind, vec![key.id])),
                    }
                }
                searches.extend(by_type.into_iter().map(|(kind, ids)| format!("{kind}?_id={}{since}", ids.join(","))));
            }
        }
        if partner.roles.contains(&Role::Target) {
            searches.push(format!("Task?requester={}/Organization/{}{since}", self.own(), self.gateway()));
        }
        Ok(Some(PollPlan { partner, searches }))
    }

    /// A round brought these resources; the server's own time was this. What changed is owed to be read.
    pub async fn polled(
        &self,
        claimed: &Claimed,
        found: Vec<Copy>,
        server_time: Option<Timestamp>,
    ) -> Result<(), Error> {
        let next = self.now().plus(self.poll_every(&claimed.partner));
        let mut tx = self.store().begin().await?;
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        for copy in found {
            let link = tx.link_from(&claimed.partner, &copy.url).await?;
            if link.as_ref().is_some_and(|link| copy.mark.is_some() && link.mark == copy.mark) {
                continue;
            }
            if copy.resource.kind() == ResourceType::TASK {
                self.owe(&mut tx, Owed::Collect, &copy.url, &claimed.partner).await?;
            } else if let Some(link) = link {
                for task in tx.open_referrals_with(&claimed.partner, &link.key, self.gateway()).await? {
                    self.owe(&mut tx, Owed::Fetch, &task, &claimed.partner).await?;
                }
            }
        }
        let cursor = server_time.map(|time| time.minus(OVERLAP).to_string());
        tx.followed(&claimed.partner, cursor.as_deref()).await?;
        tx.try_again(&claimed.partner, self.now()).await?;
        tx.finish(claimed, &Outcome::Again(next)).await?;
        self.commit(tx).await
    }

    pub(super) fn poll_every(&self, partner: &str) -> Duration {
        let fhir = self.partner(partner).and_then(|partner| partner.fhir.as_ref());
        fhir.map_or(Duration::from_secs(3_600), |fhir| fhir.poll_every)
    }

    /// Nothing was to be sent after all.
    pub async fn nothing_owed(&self, claimed: &Claimed) -> Result<(), Error> {
        let tx = self.store().begin().await?;
        self.done(tx, claimed).await
    }

    /// Owes a poll of this partner now: an operator, a test, a coordinator who can't wait.
    pub async fn poll_now(&self, partner: &str) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        self.owe_afresh(&mut tx, Owed::Poll, partner, partner).await?;
        self.commit(tx).await
    }

    pub(super) async fn subscriber_sees(
        &self,
        tx: &mut Tx,
        one: &crate::store::Subscription,
        key: &Key,
    ) -> Result<bool, Error> {
        let Some(partner) = self.partner(&one.partner) else { return Ok(false) };
        let context = super::Context { partner: partner.clone(), request: String::new() };
        tx.may_see(&self.viewer(&context), key).await
    }
}

/// What an owner decides, taken over from the owner's server.
fn take_over(task: &mut Resource, remote: &Resource) {
    for name in ["output", "note", "businessStatus"] {
        if let Some(value) = remote.at(name) {
            task.set(name, value.clone());
        }
    }
}
