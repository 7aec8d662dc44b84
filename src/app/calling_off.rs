//! Calling off: a cancelled Task, a revoked or changed request, a consent taken back reach every target (design D7, D15c).

use super::App;
use crate::error::Error;
use crate::fhir::views::{STATUS_REASON, ServiceRequest, concept};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::referral::Status;
use crate::referral::decide::{moved, status_of};
use crate::referral::relay::{self, Target};
use crate::store::{Kind as Owed, Reason, Referral, Relay, Stored, Tx, Viewer};
use serde_json::{Value, json};
use std::sync::Arc;

/// Why a referral ends that no consent allows any more.
const NO_CONSENT: &str = "The consent no longer allows this referral.";

impl App {
    /// Calls off what is still open at the targets: at once where the Task is here, else owed to the target's server.
    pub(super) async fn withdraw(&self, tx: &mut Tx, referral: &Referral, why: &str) -> Result<(), Error> {
        for relay in tx.relays(&referral.task).await? {
            self.withdraw_one(tx, referral, relay, why).await?;
        }
        Ok(())
    }

    async fn withdraw_one(&self, tx: &mut Tx, referral: &Referral, mut relay: Relay, why: &str) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &relay.task);
        let stored = self.must(tx, &key).await?;
        let status = status_of(&*tx.parsed(&stored)?);
        if status.is_terminal() || relay.withdrawn {
            return Ok(());
        }
        self.mirror_request(tx, &relay, "revoked").await?;
        if relay.channel == "fhir" && status != Status::Draft {
            relay.withdrawn = true;
            tx.update_relay(&relay).await?;
            let partner = relay.partner.clone().unwrap_or_default();
            return self.owe(tx, Owed::Deliver, &relay.task, &partner).await;
        }
        self.call_off(tx, referral, &relay, why).await
    }

    /// Our Task to a target becomes cancelled, by us.
    pub(super) async fn call_off(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        relay: &Relay,
        why: &str,
    ) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &relay.task);
        let mut stored = self.must(tx, &key).await?;
        let way = status_of(&*tx.parsed(&stored)?).way_to(Status::Cancelled).unwrap_or_default();
        let ended = !way.is_empty();
        for status in way {
            let reason = (status == Status::Cancelled).then(|| concept(STATUS_REASON, "cancelled-by-source", why));
            let task = moved(&*tx.parsed(&stored)?, status, reason);
            self.save(tx, &stored, task, self.gateway()).await?;
            stored = self.must(tx, &key).await?;
        }
        if ended {
            self.note(tx, referral, &key, self.gateway(), "cancelled", "decided", stored.version).await?;
        }
        for other in tx.grantees_for(&relay.task, Reason::Claim).await? {
            tx.end_grants(&other, &relay.task, Some(Reason::Claim)).await?;
        }
        if let Some(partner) = &relay.partner {
            tx.end_grants(partner, &relay.task, Some(Reason::Context)).await?;
        }
        Ok(())
    }

    /// Our ServiceRequest takes on this status, if it is not there yet.
    pub(super) async fn mirror_request(&self, tx: &mut Tx, relay: &Relay, status: &str) -> Result<(), Error> {
        let key = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
        let Some(stored) = tx.resource(&key).await? else { return Ok(()) };
        let mut request = Resource::clone(&*tx.parsed(&stored)?);
        if request.text_at("status") != Some(status) {
            request.set("status", json!(status));
            self.save(tx, &stored, request, self.gateway()).await?;
        }
        Ok(())
    }

    /// What a source changed of something a referral rests on reaches the targets: a revoked request or consent calls
    /// it off, a request on hold or with other content changes ours (design D2, D7).
    pub(super) async fn origin_changed(&self, tx: &mut Tx, key: &Key, resource: &Resource) -> Result<(), Error> {
        match key.kind {
            ResourceType::SERVICE_REQUEST => {
                // It may rest on other Consents now, or be of another kind of need.
                self.hold_consents(tx, resource).await?;
                for referral in tx.referrals_by_request(&key.id).await? {
                    self.request_changed(tx, referral, resource).await?;
                }
                self.end_refused_of(tx, key, resource).await?;
                self.await_ends(tx, resource).await
            }
            ResourceType::CONSENT => self.consent_changed(tx, key).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn request_changed(
        &self,
        tx: &mut Tx,
        referral: Referral,
        request: &Resource,
    ) -> Result<(), Error> {
        let Some(referral) = tx.referral(&referral.task).await? else { return Ok(()) };
        let status = ServiceRequest(request).status().unwrap_or("");
        if matches!(status, "revoked" | "entered-in-error") || ServiceRequest(request).is_not_to_be_done() {
            let reason =
                concept(STATUS_REASON, "cancelled-by-source", "The referral source revoked the ServiceRequest.");
            return self.cancel_source(tx, referral, reason).await;
        }
        let source = self.says(tx, &Key::new(ResourceType::TASK, &referral.task)).await?;
        if status_of(&source).is_terminal() {
            return Ok(());
        }
        let relays = tx.relays(&referral.task).await?;
        if relays.is_empty() && referral.held && status == "active" {
            // It was waiting for this.
            return self.route(tx, referral, request).await;
        }
        for relay in relays {
            let ours = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
            let Some(stored) = tx.resource(&ours).await? else { continue };
            let task = self.says(tx, &Key::new(ResourceType::TASK, &relay.task)).await?;
            if status_of(&task).is_terminal() {
                continue;
            }
            let before = tx.parsed(&stored)?;
            let target = relay.partner.clone().map(|partner| Target { partner, service: relay.service.clone() });
            let mut after = relay::service_request(request, target.as_ref(), tx.stamp());
            for name in ["authoredOn", "meta", "identifier"] {
                after.set(name, before.at(name).cloned().unwrap_or(Value::Null));
            }
            after.set("status", json!(if status == "on-hold" { "on-hold" } else { "active" }));
            if !before.same_content(&after) {
                self.save(tx, &stored, after, self.gateway()).await?;
                if let Some(partner) = &relay.partner {
                    self.grant_target(tx, partner, &task, &relay).await?;
                }
            }
        }
        Ok(())
    }

    /// The source called its referral off by other means than its Task.
    pub(super) async fn cancel_source(&self, tx: &mut Tx, referral: Referral, reason: Value) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &referral.task);
        let status = status_of(&*self.says(tx, &key).await?);
        if status.is_terminal() {
            return Ok(());
        }
        let why = reason.get("text").and_then(Value::as_str).unwrap_or("").to_string();
        self.move_source(tx, referral.clone(), Status::Cancelled, Some(reason)).await?;
        self.withdraw(tx, &referral, &why).await
    }

    /// The source has deleted what a referral rests on: its request is then revoked, its consent taken back. True where
    /// that is what it means; anything else that was deleted is for a person to look at.
    pub(super) async fn deleted_at_source(&self, tx: &mut Tx, referral: &Referral, copy: &Key) -> Result<bool, Error> {
        match copy.kind {
            ResourceType::SERVICE_REQUEST => {
                let text = "The referral source deleted the ServiceRequest.";
                let reason = concept(STATUS_REASON, "cancelled-by-source", text);
                self.cancel_source(tx, referral.clone(), reason).await?;
                Ok(true)
            }
            ResourceType::CONSENT => {
                let reason =
                    concept(STATUS_REASON, "no-consent", "The consent is not at the referral source any more.");
                self.end_for_consent(tx, referral, reason).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A referral ends because nobody may know of it any more.
    async fn end_for_consent(&self, tx: &mut Tx, referral: &Referral, reason: Value) -> Result<(), Error> {
        let relays = tx.relays(&referral.task).await?;
        for relay in &relays {
            if !self.is_over(tx, relay).await? {
                self.consent_ended(tx, referral, relay).await?;
            }
        }
        if let Some(referral) = tx.referral(&referral.task).await? {
            self.cancel_source(tx, referral, reason).await?;
        }
        for relay in relays {
            if let Some(partner) = &relay.partner {
                tx.end_grants(partner, &relay.task, None).await?;
            }
        }
        Ok(())
    }

    /// A consent that no longer allows: the referrals that rest on it end, and the targets see nothing more (D15c).
    pub(super) async fn consent_changed(&self, tx: &mut Tx, consent: &Key) -> Result<(), Error> {
        self.end_refused(tx, consent).await?;
        self.await_end(tx, consent).await
    }

    /// The requests that rest on a Consent.
    async fn resting_on(&self, tx: &mut Tx, consent: &Key) -> Result<Vec<Arc<Stored>>, Error> {
        let pair = ("supporting-info".to_string(), consent.to_string());
        let mut query = search::parse(ResourceType::SERVICE_REQUEST, &[pair], self.own(), true)?;
        query.count = search::MAX_PAGE;
        Ok(tx.search(&query, &Viewer::Operator).await?.hits)
    }

    /// Locks the referrals that rest on this, before it is locked itself: a referral's row comes first, then its request,
    /// then the Consents, so that nobody waits in a circle.
    pub(super) async fn hold_referrals(&self, tx: &mut Tx, key: &Key) -> Result<(), Error> {
        if !tx.is_remote() {
            return Ok(()); // There is one writer.
        }
        let requests = match key.kind {
            ResourceType::SERVICE_REQUEST => vec![key.clone()],
            ResourceType::CONSENT => self.resting_on(tx, key).await?.iter().map(|hit| hit.key.clone()).collect(),
            _ => return Ok(()),
        };
        for request in requests {
            for referral in tx.referrals_by_request(&request.id).await? {
                tx.referral(&referral.task).await?;
            }
        }
        Ok(())
    }

    /// Ends what rests on a Consent and is not allowed any more.
    pub(super) async fn end_refused(&self, tx: &mut Tx, consent: &Key) -> Result<(), Error> {
        for hit in self.resting_on(tx, consent).await? {
            let request = tx.parsed(&hit)?;
            self.end_refused_of(tx, &hit.key, &request).await?;
        }
        Ok(())
    }

    /// Ends what rests on a request whose Consents do not allow it any more.
    pub(super) async fn end_refused_of(&self, tx: &mut Tx, key: &Key, request: &Resource) -> Result<(), Error> {
        let allowed = self.check_consent(tx, request, None).await.is_ok();
        for referral in tx.referrals_by_request(&key.id).await? {
            // The referral's row is locked first, as everywhere.
            let Some(referral) = tx.referral(&referral.task).await? else { continue };
            let (mut refused, mut kept, mut lost) = (Vec::new(), false, !allowed);
            for relay in tx.relays(&referral.task).await? {
                let (partner, open) = (relay.partner.as_deref(), !self.is_over(tx, &relay).await?);
                if allowed && (partner.is_none() || self.check_consent(tx, request, partner).await.is_ok()) {
                    kept |= open;
                    self.end_claims(tx, &relay, request).await?;
                } else {
                    lost |= open;
                    if open {
                        self.consent_ended(tx, &referral, &relay).await?;
                    }
                    refused.push(relay);
                }
            }
            if allowed && refused.is_empty() {
                continue;
            }
            if lost && !kept {
                self.consent_said(tx, key, request, None, false).await?;
                let reason = concept(STATUS_REASON, "no-consent", NO_CONSENT);
                self.cancel_source(tx, referral.clone(), reason).await?;
            }
            for relay in refused {
                // Eyes are closed at once; its server hears of it as of any calling off.
                if let Some(partner) = relay.partner.clone() {
                    self.consent_said(tx, key, request, Some(&partner), false).await?;
                    self.withdraw_one(tx, &referral, relay.clone(), NO_CONSENT).await?;
                    tx.end_grants(&partner, &relay.task, None).await?;
                }
            }
        }
        Ok(())
    }

    async fn is_over(&self, tx: &mut Tx, relay: &Relay) -> Result<bool, Error> {
        let task = self.says(tx, &Key::new(ResourceType::TASK, &relay.task)).await?;
        Ok(status_of(&task).is_terminal())
    }

    /// Who may not have an open Task any more can't claim it either.
    async fn end_claims(&self, tx: &mut Tx, relay: &Relay, request: &Resource) -> Result<(), Error> {
        for partner in tx.grantees_for(&relay.task, Reason::Claim).await? {
            if self.check_consent(tx, request, Some(&partner)).await.is_err() {
                tx.end_grants(&partner, &relay.task, Some(Reason::Claim)).await?;
            }
        }
        Ok(())
    }
}
