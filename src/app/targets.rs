//! A target's server: our Task brought there or called off there, and what its Task says read from there.

use super::conflicts::What;
use super::relaying::{OUTCOMES, Reach};
use super::rights::Place;
use super::{App, Claimed, Copy};
use crate::config::{Partner, Role};
use crate::error::Error;
use crate::fhir::reference::lies_under;
use crate::fhir::views::{BUSINESS_STATUS, STATUS_REASON, Task, concept, identifiers, reference_of};
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::{moved, status_of};
use crate::store::{Kind as Owed, Referral, Relay, Tx, Viewer};
use serde_json::Value;
use std::sync::Arc;

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
    /// It was there once: an earlier one may be there still.
    pub lost: bool,
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
    /// Whether outcomes are to be read with it, and how far.
    pub outcomes: Option<Reach>,
    /// Our request, once it is fulfilled: what became of it is searched for, too, where the server finds it so.
    pub request: Option<String>,
}

/// A Task as it stands at a partner's server, and what was read with it.
#[derive(Debug, Clone)]
pub struct Reported {
    /// The Task.
    pub task: Copy,
    /// What its output names.
    pub outcomes: Vec<Copy>,
}

impl App {
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
        let referral = tx.referral(&relay.referral).await?;
        if let (false, Some(referral)) = (relay.withdrawn, referral)
            && self.check_request_allows(&mut tx, &referral, Some(&partner.id)).await.is_err()
        {
            // Nothing is sent; what ends with the consent is ended by `consent_changed`.
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
        drop(tx);
        self.sent_to(&partner, &stored).await?;
        let identifier = identifiers(&task).next().map(|(system, value)| (system.to_string(), value.to_string()));
        Ok(Some(DeliverPlan {
            partner,
            task: out,
            identifier: identifier.unwrap_or_default(),
            part_of: format!("{}/Task/{}", self.own(), relay.referral),
            lost: relay.reached.is_some(),
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
        self.displaced(&mut tx, &partner, remote, &key).await?;
        relay.remote = Some(remote.to_string());
        relay.reached = relay.reached.or(Some(tx.stamp()));
        tx.update_relay(&relay).await?;
        tx.put_link(&partner, remote, &key, mark).await?;
        self.agreed(&mut tx, &key, &[What::Gone, What::Refused]).await?;
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
        self.done(tx, claimed).await?;
        self.hasten(&partner, &Key::new(ResourceType::SERVICE_REQUEST, &relay.request)).await
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
        let key = Key::new(ResourceType::TASK, &relay.task);
        self.agreed(&mut tx, &key, &[What::Refused]).await?;
        self.told_in(&mut tx, &referral, &relay, "delivered").await?;
        let ours = self.says(&mut tx, &key).await?;
        if !status_of(&ours).is_terminal() {
            self.call_off(&mut tx, &referral, &relay, "The referral source called it off.").await?;
        }
        self.done(tx, claimed).await
    }

    /// The target had ended it before it could be called off: its ending stands and is collected (design D7).
    pub async fn ended_first(&self, claimed: &Claimed, remote: &str, mark: Option<&str>) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some((referral, Some(mut relay))) = self.referral_of(&mut tx, claimed).await? else {
            return self.done(tx, claimed).await;
        };
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        self.told_in(&mut tx, &referral, &relay, "ended first").await?;
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
        let outcomes = partner.roles.contains(&Role::Target).then_some(OUTCOMES);
        let mut tx = self.store().read().await?;
        let finds = outcomes.is_some() && self.known(&mut tx, &partner.id).await?.is_some_and(|known| known.outcomes);
        let ours = match tx.link_from(&partner.id, &claimed.subject).await? {
            Some(link) if finds => tx.relay(&link.key.id).await?,
            _ => None,
        };
        let request = ours.map(|relay| format!("{}/ServiceRequest/{}", self.own(), relay.request));
        Ok(Some(CollectPlan { partner, url: claimed.subject.clone(), outcomes, request }))
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
        if let Place::Relayed(relay, _) = &place
            && !self.is_same(relay, &reported.task.resource)
        {
            // Its ids began again, as after a backup was restored: this is another Task.
            drop(tx);
            return self.vanished(claimed, false).await;
        }
        let place = match (place, &known) {
            (Place::Source(referral), Some(key))
                if referral.kept_at.as_ref() == Some(&claimed.subject)
                    && !self.is_about_the_same(&mut tx, &partner, key, &reported.task.resource).await? =>
            {
                // The same at a source's: this one may be a new referral.
                if let Some(link) = tx.link_from(&partner.id, &claimed.subject).await? {
                    self.lost(&mut tx, Place::Source(referral), &link, false).await?;
                }
                self.found_at_source(&mut tx, &partner, reported.task).await?;
                return self.done(tx, claimed).await;
            }
            (place, _) => place,
        };
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

    /// Whether a Task at a target's server is the one we posted: by our identifier, or by what it is part of.
    fn is_same(&self, relay: &Relay, theirs: &Resource) -> bool {
        let system = format!("{}/Task", self.own());
        let part_of = format!("{system}/{}", relay.referral);
        identifiers(theirs).any(|(its, value)| its == system && value == relay.task)
            || Task(theirs).part_of().any(|part| part == part_of)
    }

    /// A Task at a target's server that an answer we never got left there.
    pub(super) async fn ours_by_identifier(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        copy: &Copy,
    ) -> Result<Option<Key>, Error> {
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
    pub(super) async fn target_reported(
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
        let theirs = reported.task.resource.clone();
        let mut remote = reported.task.resource;
        self.rewrite_copy(tx, partner, &base, &[], &mut remote).await?;
        self.drop_foreign_outputs(tx, partner, &mut remote).await?;
        tx.put_link(&partner.id, &reported.task.url, key, reported.task.mark.as_deref()).await?;
        let stored = self.must(tx, key).await?;
        let from = status_of(&*tx.parsed(&stored)?);
        let wished = Task(&remote).status().and_then(Status::parse).unwrap_or(from);
        let mut differs = false;
        let (end, reason) = match (from.way_to(wished), wished) {
            (Some(_), _) => (wished, remote.at("statusReason").cloned()),
            // A refusal after the acceptance is a withdrawal; the diagram has no other word for it.
            (None, Status::Rejected) if !from.is_terminal() => (Status::Cancelled, remote.at("statusReason").cloned()),
            _ => {
                if wished != from {
                    self.note(tx, &referral, key, &partner.id, "ignored", "poll", stored.version).await?;
                }
                differs = wished != from;
                (from, None)
            }
        };
        if differs {
            let why = format!("it says {} and we say {}", wished.code(), from.code());
            self.conflict(tx, &referral, key, &partner.id, What::Status, Some(&theirs), why).await?;
            self.agreed(tx, key, &[What::Gone]).await?;
        } else {
            self.agreed(tx, key, &[What::Status, What::Gone]).await?;
        }
        let reason = match reason {
            Some(reason) if reason.get("text").is_some() => Some(reason),
            _ if end.needs_reason() => Some(concept(STATUS_REASON, "other", "The organization gave no reason.")),
            other => other,
        };
        let way = from.way_to(end).unwrap_or_default();
        for (index, status) in way.iter().enumerate() {
            let stored = self.must(tx, key).await?;
            let last = index + 1 == way.len();
            let before = status_of(&*tx.parsed(&stored)?);
            let mut task = moved(&*tx.parsed(&stored)?, *status, reason.clone().filter(|_| last));
            if last {
                take_over(&mut task, &remote);
            }
            let place = self.place(tx, key).await?;
            self.write_step(tx, place, &stored, task, (before, *status), &partner.id, "poll").await?;
        }
        if way.is_empty() {
            let stored = self.must(tx, key).await?;
            let before = tx.parsed(&stored)?;
            let mut task = Resource::clone(&before);
            take_over(&mut task, &remote);
            if !task.same_content(&before) {
                let place = self.place(tx, key).await?;
                self.write_step(tx, place, &stored, task, (from, from), &partner.id, "poll").await?;
            }
        }
        // What was found and its Task does not name: of now, or late.
        if end == Status::Completed
            && self.link_done(tx, &relay, key).await?
            && let Some(referral) = tx.referral(&relay.referral).await?
        {
            self.aggregate(tx, referral).await?;
        }
        Ok(())
    }

    /// An output at a target's server may not hand on something here that the target can't see.
    pub(super) async fn drop_foreign_outputs(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        task: &mut Resource,
    ) -> Result<(), Error> {
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
    pub(super) fn base_on_original(&self, outcomes: &mut [Copy], relay: &Relay, referral: &Referral) {
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
}

/// What an owner decides, taken over from the owner's server.
fn take_over(task: &mut Resource, remote: &Resource) {
    for name in ["output", "note", "businessStatus"] {
        if let Some(value) = remote.at(name) {
            task.set(name, value.clone());
        }
    }
}
