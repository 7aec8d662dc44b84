//! Copies of what partners hold: stored under our own ids, linked to their origin, references rewritten (design D2).
//!
//! A relative reference in a copy is relative to the partner's server, never to ours: what is not copied with it becomes
//! an absolute URL. One Provenance a round says where the copies came from.

use serde_json::json;

use super::conflicts::What;
use super::{App, Claimed};
use crate::config::Partner;
use crate::error::Error;
use crate::fhir::reference::{self, Reference, rewrite};
use crate::fhir::views::{STATUS_REASON, ServiceRequest, Task, concept};
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::decide::status_of;
use crate::store::{Outcome, Reason, Tx};

/// A resource as a partner's server gave it.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Its absolute URL there, without a version.
    pub url: String,
    /// What tells this version from every other there.
    pub mark: Option<String>,
    /// Its content.
    pub resource: Resource,
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its URL.
    pub url: String,
    /// Why; never health data.
    pub why: String,
    /// Its server says that it was there, and was deleted.
    pub deleted: bool,
}

impl App {
    /// Stores copies: new ones under new ids, changed ones as new versions. Answers the copies that are new or changed.
    pub(super) async fn store_copies(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        copies: Vec<Copy>,
    ) -> Result<Vec<Key>, Error> {
        let base = partner.fhir.as_ref().map(|fhir| fhir.base.clone()).unwrap_or_default();
        let mut places: Vec<(String, Key, bool)> = Vec::with_capacity(copies.len());
        for copy in &copies {
            let (key, new) = match tx.link_from(&partner.id, &copy.url).await? {
                Some(link) => (link.key, false),
                None => (Key::new(copy.resource.kind(), crate::id::new()), true),
            };
            places.push((copy.url.clone(), key, new));
        }
        for (_, key, _) in places.iter().filter(|(_, _, new)| !new) {
            self.hold_referrals(tx, key).await?;
        }
        let mut changed = Vec::new();
        for (copy, (url, key, new)) in copies.into_iter().zip(places.clone()) {
            let mut resource = copy.resource;
            self.rewrite_copy(tx, partner, &base, &places, &mut resource).await?;
            resource.set_source(&url);
            if new {
                let written = self.insert_as(tx, resource, &key.id, &partner.id, "POST").await?;
                tx.grant(&partner.id, std::slice::from_ref(&key), "", Reason::Author).await?;
                changed.push(written.stored.key);
            } else {
                let stored = tx.resource_for_update(&key).await?;
                let Some(stored) = stored else { continue };
                if stored.deleted || !stored.resource()?.same_content(&resource) {
                    self.save(tx, &stored, resource, &partner.id).await?;
                    changed.push(key.clone());
                }
            }
            tx.put_link(&partner.id, &url, &key, copy.mark.as_deref()).await?;
        }
        Ok(changed)
    }

    /// References in something that stands at a partner's server become ours.
    pub(super) async fn rewrite_copy(
        &self,
        tx: &mut Tx,
        partner: &Partner,
        base: &str,
        places: &[(String, Key, bool)],
        resource: &mut Resource,
    ) -> Result<(), Error> {
        let mut known: Vec<(String, String)> = Vec::new();
        for text in reference::all(resource) {
            if known.iter().any(|(from, _)| *from == text) {
                continue;
            }
            let origin = match Reference::parse(&text, self.own()) {
                Reference::Local(key) if text.starts_with("http") => {
                    known.push((text, key.to_string()));
                    continue;
                }
                Reference::Local(key) => format!("{base}/{key}"),
                Reference::Remote { base, key } => format!("{base}/{key}"),
                Reference::Contained(_) | Reference::Urn(_) | Reference::Other(_) => continue,
            };
            let placed = places.iter().find(|(url, ..)| *url == origin).map(|(_, key, _)| key.clone());
            let key = match placed {
                Some(key) => Some(key),
                None => tx.link_from(&partner.id, &origin).await?.map(|link| link.key),
            };
            known.push((text, key.map_or(origin, |key| key.to_string())));
        }
        rewrite(resource, &mut |text| known.iter().find(|(from, _)| from == text).map(|(_, to)| to.clone()));
        Ok(())
    }

    /// What a source's Task refers to has been read, as far as it could be: `missing` names the URLs that could not,
    /// and why. What the referral can't do without is asked for again, with backoff (design D6).
    pub async fn fetched(&self, claimed: &Claimed, copies: Vec<Copy>, missing: &[Missing]) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(referral) = tx.referral(&claimed.subject).await? else { return self.done(tx, claimed).await };
        let key = Key::new(ResourceType::TASK, &referral.task);
        let task_stored = self.must(&mut tx, &key).await?;
        let task = task_stored.resource()?;
        let Some(partner) = self.partner(&referral.source).cloned() else { return self.done(tx, claimed).await };
        if !tx.holds(claimed).await? || status_of(&task).is_terminal() {
            return self.done(tx, claimed).await;
        }
        let mut lacking = missing.iter().find(|one| essential(self, &task, &copies, &one.url));
        for one in missing {
            // Once copied it is a reference to us; a change there that is not read would go unheard.
            let copied = tx.link_from(&partner.id, &one.url).await?.filter(|link| is_essential(link.key.kind));
            if let Some(link) = copied.as_ref().filter(|_| one.deleted && referral.fetched)
                && self.deleted_at_source(&mut tx, &referral, &link.key).await?
            {
                return self.done(tx, claimed).await;
            }
            lacking = lacking.or(copied.map(|_| one));
        }
        if let Some(Missing { url, why, .. }) = lacking {
            let kind = reference::split_absolute(url).map_or("resource", |(_, key)| key.kind.name());
            drop(tx);
            return self.failed(claimed, &format!("{kind} could not be read: {why}"), None).await;
        }
        let origins: Vec<String> = copies.iter().map(|copy| copy.url.clone()).collect();
        let changed = self.store_copies(&mut tx, &partner, copies).await?;
        self.say_where_from(&mut tx, &changed, &origins, &partner.id).await?;
        let mut local = task.clone();
        self.localise(&mut tx, &mut local, Some(&partner)).await?;
        if local != task {
            self.save(&mut tx, &task_stored, local.clone(), self.gateway()).await?;
        }
        let request = Task(&local).focus().and_then(|focus| self.local(focus));
        let Some(request) = request else {
            drop(tx);
            return self.failed(claimed, "the ServiceRequest could not be read", None).await;
        };
        if referral.fetched {
            self.agreed(&mut tx, &key, &[What::Unread]).await?;
            for key in changed {
                let resource = self.says(&mut tx, &key).await?;
                self.origin_changed(&mut tx, &key, &resource).await?;
            }
            return self.done(tx, claimed).await;
        }
        match self.proceed(&mut tx, referral.clone(), &request).await {
            Ok(()) => {}
            Err(refusal) if super::routing::is_refusal(&refusal) => {
                let no_consent = refusal
                    .issues
                    .iter()
                    .any(|issue| issue.expression.as_deref() == Some("ServiceRequest.supportingInfo"));
                let code = if no_consent { "no-consent" } else { "other" };
                self.end_source(&mut tx, referral, concept(STATUS_REASON, code, refusal.text())).await?;
            }
            Err(error) => return Err(error),
        }
        self.done(tx, claimed).await?;
        self.hasten(&partner.id, &request).await
    }

    /// Records a delivery as done and commits.
    pub(super) async fn done(&self, mut tx: Tx, claimed: &Claimed) -> Result<(), Error> {
        tx.finish(claimed, &Outcome::Done).await?;
        self.commit(tx).await
    }

    async fn say_where_from(
        &self,
        tx: &mut Tx,
        copies: &[Key],
        origins: &[String],
        partner: &str,
    ) -> Result<(), Error> {
        if copies.is_empty() {
            return Ok(());
        }
        let targets: Vec<_> = copies.iter().map(|key| json!({"reference": key.to_string()})).collect();
        let entities: Vec<_> =
            origins.iter().map(|origin| json!({"role": "source", "what": {"reference": origin}})).collect();
        let provenance = json!({"resourceType": "Provenance", "target": targets, "recorded": tx.stamp().to_string(),
            "agent": [
                {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type", "code": "author"}]},
                 "who": {"reference": format!("Organization/{partner}")}},
                {"type": {"coding": [{"system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-provenance-participant-type", "code": "transmitter"}]},
                 "who": {"reference": format!("Organization/{}", self.gateway())}}],
            "entity": entities});
        let written = self.insert(tx, Resource::from_value(provenance)?, self.gateway()).await?;
        let key = std::slice::from_ref(&written.stored.key);
        tx.grant(partner, key, "", Reason::Author).await?;
        tx.grant(self.gateway(), key, "", Reason::Author).await
    }
}

fn is_essential(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::SERVICE_REQUEST | ResourceType::PATIENT | ResourceType::CONSENT)
}

/// Whether a referral can't do without what stands at this URL: the ServiceRequest, the patient, the consents.
fn essential(app: &App, task: &Resource, copies: &[Copy], url: &str) -> bool {
    let away = |text: &str| match Reference::parse(text, app.own()) {
        Reference::Remote { base, key } => format!("{base}/{key}") == url,
        _ => false,
    };
    let view = Task(task);
    if view.focus().is_some_and(away) || view.patient().is_some_and(away) {
        return true;
    }
    copies.iter().filter(|copy| copy.resource.kind() == ResourceType::SERVICE_REQUEST).any(|copy| {
        let base = reference::split_absolute(&copy.url).map_or("", |(base, _)| base);
        let there = |text: &str| away(text) || format!("{base}/{text}") == url;
        let request = ServiceRequest(&copy.resource);
        let focus = view.focus().is_some_and(|focus| focus.starts_with(copy.url.as_str()));
        focus
            && (request.subject().is_some_and(there)
                || request.supporting_info().any(|text| text.contains("Consent/") && there(text)))
    })
}
