//! A source's server: what a referral refers to is read from it, Tasks kept there are found and followed, and our status is
//! written back to them (design D2, D12a).

use super::conflicts::What;
use super::relaying::{REFERRAL, Reach};
use super::rights::Place;
use super::{App, Claimed, Copy};
use crate::config::{Partner, WriteOutcomes};
use crate::error::Error;
use crate::fhir::reference::{Reference, lies_under};
use crate::fhir::views::Task;
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::{self, Basis, Event, status_of};
use crate::store::{Kind as Owed, Referral, Stored, Tx, Viewer};
use serde_json::Value;
use std::sync::Arc;

/// Read these URLs, and what they refer to at the same server.
#[derive(Debug, Clone)]
pub struct FetchPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Absolute URLs below its base.
    pub starts: Vec<String>,
    /// How far to follow what they refer to.
    pub reach: Reach,
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
    /// Where what it is about stands there.
    pub focus: Vec<String>,
    /// Outcomes to create there first: our absolute reference, and the content.
    pub outcomes: Vec<(String, Resource)>,
}

impl App {
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
        Ok(Some(FetchPlan { partner, starts, reach: REFERRAL }))
    }

    /// Where a Task's focus stands at this partner: one that is kept there may give its id to another Task, when its server
    /// is set back to a backup; what it is about tells them apart.
    async fn focus_there(&self, tx: &mut Tx, partner: &Partner, task: &Resource) -> Result<Vec<String>, Error> {
        let base = partner.fhir.as_ref().map_or("", |fhir| fhir.base.as_str());
        let focus = Task(task).focus().unwrap_or("");
        Ok(match Reference::parse(focus, self.own()) {
            Reference::Remote { base, key } => vec![format!("{base}/{key}")],
            Reference::Local(key) => {
                let links = tx.links_of(&key).await?.into_iter().filter(|link| link.partner == partner.id);
                let there = (!focus.starts_with("http")).then(|| format!("{base}/{key}"));
                links.map(|link| link.origin).chain(there).chain([format!("{}/{key}", self.own())]).collect()
            }
            Reference::Contained(_) | Reference::Urn(_) | Reference::Other(_) => Vec::new(),
        })
    }

    /// Whether a Task at a source's server is about what ours is about.
    pub(super) async fn is_about_the_same(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        ours: &Key,
        theirs: &Resource,
    ) -> Result<bool, Error> {
        let ours = self.says(tx, ours).await?;
        let (one, other) = (self.focus_there(tx, partner, &ours).await?, self.focus_there(tx, partner, theirs).await?);
        Ok(one == other || one.iter().any(|place| other.contains(place)))
    }

    /// A source's Task kept at its own server has changed there: only what an author may change counts.
    pub(super) async fn source_reported(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        referral: Referral,
        key: &Key,
        copy: Copy,
    ) -> Result<(), Error> {
        let base = partner.fhir.as_ref().map(|fhir| fhir.base.clone()).unwrap_or_default();
        let theirs = copy.resource.clone();
        let mut sent = copy.resource;
        self.rewrite_copy(tx, partner, &base, &[], &mut sent).await?;
        tx.put_link(&partner.id, &copy.url, key, copy.mark.as_deref()).await?;
        self.agreed(tx, key, &[What::Gone]).await?;
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
                let why = format!("it says {} and we say {}", wished.code(), status.code());
                self.conflict(tx, &referral, key, &partner.id, What::Status, Some(&theirs), why).await?;
            } else if wished != status && wished.way_to(status).is_none() {
                let why = format!("it says {} and we say {}", wished.code(), status.code());
                self.conflict(tx, &referral, key, &partner.id, What::Status, Some(&theirs), why).await?;
            } else {
                self.agreed(tx, key, &[What::Status]).await?;
                if wished != status {
                    // It lags behind, as after a backup was restored: the status is ours to write, as the owner's.
                    self.owe_write_back(tx, &referral).await?;
                }
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
    pub(super) async fn found_at_source(&self, tx: &mut Tx, partner: &Partner, copy: Copy) -> Result<(), Error> {
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
        let taken = match self.check(&task) {
            Ok(_) => self.take_in(tx, &partner.id, &viewer, task.clone(), Some(&copy.url)).await,
            Err(faults) => Err(faults),
        };
        let written = match taken {
            Ok(written) => written,
            Err(refusal) if super::routing::is_refusal(&refusal) => {
                let why = format!("This Task can't be taken. {refusal}");
                self.refuse_kept(tx, &partner.id, task, &copy.url, &why).await?
            }
            Err(error) => return Err(error),
        };
        tx.put_link(&partner.id, &copy.url, &written.stored.key, copy.mark.as_deref()).await
    }

    pub(super) fn names_us(&self, partner: &Partner, base: &str, task: &Resource) -> bool {
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
        let focus = self.focus_there(&mut tx, &partner, &task).await?;
        drop(tx);
        self.sent_to(&partner, &stored).await?;
        Ok(Some(WriteBackPlan { partner, url, task: self.absolute(&task), version: stored.version, focus, outcomes }))
    }

    /// An outcome as the source's own server would hold it: its own patient and request, our identifier.
    pub(super) async fn for_source(&self, tx: &mut Tx, partner: &Partner, stored: Stored) -> Result<Resource, Error> {
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
    pub(super) async fn asked_with(&self, tx: &mut Tx, key: &Key) -> Result<Key, Error> {
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
            self.agreed(&mut tx, &key, &[What::Refused, What::Status]).await?;
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
}
