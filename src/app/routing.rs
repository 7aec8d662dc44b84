//! Where a referral goes, once everything it refers to is here: may it be passed on, and to whom (design D9, D12).

use super::intake::Meant;
use super::{App, Claimed, Stored};
use crate::config::{Partner, Role, Routing};
use crate::directory::matching::{Offer, candidates};
use crate::error::{Error, Kind};
use crate::fhir::reference::{self};
use crate::fhir::views::{SDOHCC, STATUS_REASON, ServiceRequest, Task, capacity, concept, reference_of};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::referral::Status;
use crate::referral::consent::{self, Disclosure, Recipient, Refusal};
use crate::referral::decide::status_of;
use crate::referral::relay::Target;
use crate::store::{Access, Delivery, Kind as Owed, Outcome, Reason, Referral, Tx, Viewer, Written};
use crate::time::{Timestamp, span_of};
use serde_json::Value;
use std::sync::Arc;

/// Security labels of what takes a Consent that names the need and the recipient: 42 CFR Part 2, substance use.
const SENSITIVE_LABELS: [&str; 4] = ["42CFRPart2", "ETH", "ETHUD", "OPIOIDUD"];

impl App {
    /// Everything the referral refers to is here: check consent, then route. A refusal is an error; nothing is stored.
    pub(super) async fn proceed(&self, tx: &mut Tx, mut referral: Referral, request: &Key) -> Result<(), Error> {
        let stored = self.says(tx, request).await?;
        let view = ServiceRequest(&stored);
        referral.request = Some(request.id.clone());
        referral.patient = view.subject().map(str::to_string);
        referral.fetched = true;
        if let Some((partner, service)) = self.named_performer(tx, view.performers()).await? {
            referral.performer = referral.performer.or(Some(partner));
            referral.service = referral.service.or(service);
        }
        if matches!(view.status(), Some("revoked" | "entered-in-error" | "completed" | "draft" | "unknown")) {
            return Err(Error::refused("ServiceRequest.status", "Only an active ServiceRequest can be referred."));
        }
        if view.is_not_to_be_done() {
            let text = "A request that something is not done is nothing to refer.";
            return Err(Error::refused("ServiceRequest.doNotPerform", text));
        }
        self.check_own(tx, &referral, &stored).await?;
        self.hold_consents(tx, &stored).await?;
        let refused = |refusal: Refusal| Error::refused("ServiceRequest.supportingInfo", refusal.text());
        let said = self.check_consent(tx, &stored, None).await;
        self.consent_said(tx, request, &stored, None, said.is_ok()).await?;
        said.map_err(refused)?;
        self.await_ends(tx, &stored).await?;
        let reach: Vec<Key> =
            self.reach(tx, &referral.source, &stored).await?.into_iter().chain([request.clone()]).collect();
        tx.grant(self.gateway(), &reach, &referral.task, Reason::Party).await?;
        tx.update_referral(&referral).await?;
        // What a coordinator asked for before everything was here.
        let waiting = tx.relays(&referral.task).await?;
        if !waiting.is_empty() {
            for relay in waiting {
                if let Some(partner) = &relay.partner {
                    self.check_consent(tx, &stored, Some(partner)).await.map_err(refused)?;
                }
                self.finish_relay(tx, &referral, relay).await?;
            }
            return self.accept_source(tx, referral).await;
        }
        self.route(tx, referral, &stored).await
    }

    /// A referral is about one patient, and about nothing that is another party's.
    pub(super) async fn check_own(&self, tx: &mut Tx, referral: &Referral, request: &Resource) -> Result<(), Error> {
        for text in reference::all(request) {
            let Some(key) = self.local(&text) else { continue };
            let there = tx.resource(&key).await?.filter(|stored| !stored.deleted);
            let Some(stored) = there else { continue };
            if !self.may_refer(tx, &referral.source, &stored).await? {
                let text = format!("The ServiceRequest refers to a {} that is not here.", key.kind);
                return Err(Error::refused("ServiceRequest", text).code("not-found"));
            }
        }
        let task = self.says(tx, &Key::new(ResourceType::TASK, &referral.task)).await?;
        let patient =
            |text: Option<&str>| text.and_then(|text| self.local(text)).filter(|key| key.kind.name() == "Patient");
        match (patient(Task(&task).patient()), patient(ServiceRequest(request).subject())) {
            (Some(asked), Some(subject)) if asked != subject => {
                Err(Error::refused("Task.for", "Task.for is another patient than ServiceRequest.subject."))
            }
            _ => Ok(()),
        }
    }

    /// Whether a referral of this source may lead to a resource: its own, or one that a coordinator added.
    pub(super) async fn may_refer(&self, tx: &mut Tx, source: &str, stored: &Stored) -> Result<bool, Error> {
        let by_gateway = stored.author == self.gateway()
            || self.partner(&stored.author).is_some_and(|partner| partner.roles.contains(&Role::Coordinator));
        Ok(by_gateway || tx.may_see(&Viewer::Grantees(vec![source.to_string()]), &stored.key).await?)
    }

    /// Whether consent allows this disclosure now: to this partner, or while nobody is chosen, at all.
    pub(super) async fn check_consent(
        &self,
        tx: &mut Tx,
        request: &Resource,
        partner: Option<&str>,
    ) -> Result<(), Refusal> {
        if !self.config().consent.required {
            return Ok(());
        }
        let consents = self.consents_of(tx, request).await;
        let mut recipient = Recipient::default();
        for reference in consents.iter().flat_map(|(_, consent)| consent::recipients(consent)) {
            match self.named(tx, reference).await.ok().flatten() {
                Some(Meant::Us) => recipient.gateway.push(reference.clone()),
                Some(Meant::Partner(named, _)) if Some(named.as_str()) == partner => {
                    recipient.itself.push(reference.clone());
                }
                Some(Meant::Partner(..) | Meant::Anyone) | None => {}
            }
        }
        let view = ServiceRequest(request);
        let domains: Vec<&str> = view.domains().collect();
        let labels = request.at("meta").and_then(|meta| meta.get("security")).and_then(Value::as_array);
        let mut labels = labels.into_iter().flatten().filter_map(|label| label.get("code").and_then(Value::as_str));
        let sensitive = domains.iter().any(|domain| self.config().consent.sensitive.iter().any(|one| one == domain))
            || labels.any(|label| SENSITIVE_LABELS.contains(&label));
        let asked = Disclosure {
            patient: view.subject().unwrap_or(""),
            now: tx.stamp(),
            domains: &domains,
            sensitive,
            recipient: partner.map(|_| &recipient),
        };
        match consent::allows(consents.iter().map(|(_, consent)| &**consent), &asked) {
            // Where none is named an agreement may stand in; one that was deleted was named.
            Err(Refusal::Missing) if !sensitive && Self::names_no_consent(request) => {
                let agreed =
                    |one: &Partner| term(one).is_some_and(|(from, until)| from <= asked.now && asked.now < until);
                let agreed = match partner {
                    Some(partner) => self.partner(partner).is_some_and(|one| agreed(one)),
                    None => self.partners().iter().any(|one| agreed(one)),
                };
                if agreed { Ok(()) } else { Err(Refusal::Missing) }
            }
            said => said,
        }
    }

    fn names_no_consent(request: &Resource) -> bool {
        // Wherever it stands, and whether it could be read.
        !ServiceRequest(request).supporting_info().any(|text| text.contains("Consent/"))
    }

    /// A partner is about to be told of a referral: that consent or an agreement allows it is on record with the grant.
    pub(super) async fn allowed(&self, tx: &mut Tx, referral: &Referral, partner: &str) -> Result<(), Error> {
        let Some(id) = &referral.request else { return Ok(()) };
        let key = Key::new(ResourceType::SERVICE_REQUEST, id);
        let request = self.must(tx, &key).await?.resource()?;
        self.consent_said(tx, &key, &request, Some(partner), true).await?;
        self.await_agreement(tx, &key, &request, partner).await
    }

    /// Owes a look at a request that is passed on by an agreement, when that ends.
    async fn await_agreement(&self, tx: &mut Tx, key: &Key, request: &Resource, partner: &str) -> Result<(), Error> {
        let term = self.partner(partner).and_then(|partner| term(partner));
        let Some((_, until)) = term.filter(|_| self.config().consent.required && Self::names_no_consent(request))
        else {
            return Ok(());
        };
        self.owe_expiry(tx, key.to_string(), until).await
    }

    async fn owe_expiry(&self, tx: &mut Tx, subject: String, due_at: Timestamp) -> Result<(), Error> {
        let partner = self.gateway().to_string();
        let lane = super::lane_to(&partner);
        tx.enqueue(&Delivery { kind: Owed::Expire, subject, partner, lane, due_at }).await
    }

    /// A decision about consent goes on record: which request and which Consents, for whom.
    pub(super) async fn consent_said(
        &self,
        tx: &mut Tx,
        key: &Key,
        request: &Resource,
        partner: Option<&str>,
        allowed: bool,
    ) -> Result<(), Error> {
        if !self.config().consent.required {
            return Ok(());
        }
        let mut seen = vec![(key.clone(), 0)];
        seen.extend(self.consents_of(tx, request).await.into_iter().map(|(consent, _)| (consent, 0)));
        let partner = partner.unwrap_or(self.gateway()).to_string();
        let outcome = if allowed { 0 } else { 4 };
        tx.audit(&[Access { partner, action: "consent", seen, outcome, ..Access::default() }]).await
    }

    /// The Consents that a request rests on.
    async fn consents_of(&self, tx: &mut Tx, request: &Resource) -> Vec<(Key, Arc<Resource>)> {
        let mut consents = Vec::new();
        for key in ServiceRequest(request).supporting_info().filter_map(|text| self.local(text)) {
            if key.kind == ResourceType::CONSENT {
                let stored = tx.resource(&key).await.ok().flatten().filter(|stored| !stored.deleted);
                consents.extend(stored.and_then(|stored| tx.parsed(&stored).ok()).map(|consent| (key, consent)));
            }
        }
        consents
    }

    /// Nobody finds a referral by a Consent that it did not rest on before, until this is committed: whoever takes that
    /// Consent back waits for us, or we for them. Other referrals that rest on it do not.
    pub(super) async fn hold_consents(&self, tx: &mut Tx, request: &Resource) -> Result<(), Error> {
        let named = ServiceRequest(request).supporting_info().filter_map(|text| self.local(text));
        let mut consents: Vec<Key> = named.filter(|key| key.kind == ResourceType::CONSENT).collect();
        // In order, so that two transactions lock alike.
        consents.sort_unstable();
        for key in &consents {
            tx.resource_held(key).await?;
        }
        Ok(())
    }

    /// Owes a look at each Consent of a request when it ends.
    pub(super) async fn await_ends(&self, tx: &mut Tx, request: &Resource) -> Result<(), Error> {
        for (key, _) in self.consents_of(tx, request).await {
            self.await_end(tx, &key).await?;
        }
        Ok(())
    }

    /// Owes a look at a Consent when it ends.
    pub(super) async fn await_end(&self, tx: &mut Tx, consent: &Key) -> Result<(), Error> {
        let Some(due_at) = self.end_of(tx, consent).await? else { return Ok(()) };
        self.owe_expiry(tx, consent.id.clone(), due_at).await
    }

    /// When a Consent will end, if it will.
    async fn end_of(&self, tx: &mut Tx, consent: &Key) -> Result<Option<Timestamp>, Error> {
        let Some(stored) = tx.resource(consent).await?.filter(|stored| !stored.deleted) else { return Ok(None) };
        Ok(consent::ends(&*tx.parsed(&stored)?).filter(|end| *end > tx.stamp()))
    }

    /// A Consent's end has come, or was moved: what rested on it ends.
    pub async fn consent_ends(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if let Some(request) = Key::parse(&claimed.subject) {
            return self.agreement_ends(tx, claimed, &request).await;
        }
        let key = Key::new(ResourceType::CONSENT, &claimed.subject);
        self.end_refused(&mut tx, &key).await?;
        let outcome = self.end_of(&mut tx, &key).await?.map_or(Outcome::Done, Outcome::Again);
        if tx.finish(claimed, &outcome).await? { self.commit(tx).await } else { Ok(()) }
    }

    /// A service is offered that was not, or not so: its house may claim what is still open for claiming (design D9).
    pub(super) async fn service_offered(&self, tx: &mut Tx, written: &Written) -> Result<(), Error> {
        if written.stored.key.kind != ResourceType::HEALTHCARE_SERVICE {
            return Ok(());
        }
        for relay in tx.unclaimed().await? {
            // The referral's row is locked first, as everywhere; what has been claimed meanwhile shows then.
            let Some(referral) = tx.referral(&relay.referral).await? else { continue };
            let Some(relay) = tx.relay(&relay.task).await?.filter(|relay| relay.partner.is_none()) else { continue };
            let key = Key::new(ResourceType::TASK, &relay.task);
            let task = self.says(tx, &key).await?;
            let Some(request) = referral.request.as_ref().filter(|_| status_of(&task) == Status::Requested) else {
                continue;
            };
            let request = self.says(tx, &Key::new(ResourceType::SERVICE_REQUEST, request)).await?;
            let may = tx.grantees_for(&relay.task, Reason::Claim).await?;
            let own = [key, Key::new(ResourceType::SERVICE_REQUEST, &relay.request)];
            for offer in self.candidates(tx, &request, &may).await? {
                tx.grant(&offer.partner, &own, &relay.task, Reason::Claim).await?;
            }
        }
        Ok(())
    }

    /// An agreement has ended, or the configuration may have changed: what is passed on by it ends, if nothing else allows.
    async fn agreement_ends(&self, mut tx: Tx, claimed: &Claimed, request: &Key) -> Result<(), Error> {
        let now = tx.stamp();
        let stored = tx.resource(request).await?.filter(|stored| !stored.deleted);
        if let Some(stored) = stored {
            self.end_refused_of(&mut tx, request, &stored.resource()?).await?;
        }
        let ends = self.partners().iter().filter_map(|one| term(one).map(|(_, until)| until));
        let next = ends.filter(|until| *until > now).min();
        let outcome = next.map_or(Outcome::Done, Outcome::Again);
        if tx.finish(claimed, &outcome).await? { self.commit(tx).await } else { Ok(()) }
    }

    /// Where does it go? To who was named, else to the best match, else to whoever claims it, else to a coordinator.
    pub(super) async fn route(&self, tx: &mut Tx, referral: Referral, request: &Resource) -> Result<(), Error> {
        let by_hand = self.partner(&referral.source).is_some_and(|partner| partner.routing == Routing::Coordinator);
        if by_hand {
            return self.hold(tx, referral, "The source's referrals are routed by a coordinator.").await;
        }
        if request.text_at("status") == Some("on-hold") {
            return self.hold(tx, referral, "The source has put the ServiceRequest on hold.").await;
        }
        if let Some(partner) = referral.performer.clone() {
            let target = Target { partner, service: referral.service.clone() };
            if let Err(refusal) = self.check_consent(tx, request, Some(&target.partner)).await {
                if let Some(id) = &referral.request {
                    let key = Key::new(ResourceType::SERVICE_REQUEST, id);
                    self.consent_said(tx, &key, request, Some(&target.partner), false).await?;
                }
                return self.end_source(tx, referral, concept(STATUS_REASON, "no-consent", refusal.text())).await;
            }
            if self.can_be_reached(&target.partner) {
                return self.relay_to(tx, referral, &[Some(target)]).await;
            }
            return self.unroutable(tx, referral, "The named performer can't be reached through this gateway.").await;
        }
        let task = self.says(tx, &Key::new(ResourceType::TASK, &referral.task)).await?;
        let open = Task(&task).owner().is_none();
        let offers = self.candidates(tx, request, &[]).await?;
        match (offers.as_slice(), open) {
            ([], _) => {
                self.unroutable(tx, referral, "No organization at this gateway offers this with capacity.").await
            }
            ([only], _) => {
                let target = Target { partner: only.partner.clone(), service: Some(only.service.clone()) };
                self.relay_to(tx, referral, &[Some(target)]).await
            }
            (_, true) => self.relay_to(tx, referral, &[None]).await,
            ([best, ..], false) => {
                let target = Target { partner: best.partner.clone(), service: Some(best.service.clone()) };
                self.relay_to(tx, referral, &[Some(target)]).await
            }
        }
    }

    /// Nobody offers it: a coordinator looks, and where there is none the source is told.
    pub(super) async fn unroutable(&self, tx: &mut Tx, referral: Referral, text: &str) -> Result<(), Error> {
        if self.partners().iter().any(|partner| partner.roles.contains(&Role::Coordinator)) {
            return self.hold(tx, referral, text).await;
        }
        self.end_source(tx, referral, concept(STATUS_REASON, "unroutable", text)).await
    }

    pub(super) async fn hold(&self, tx: &mut Tx, mut referral: Referral, why: &str) -> Result<(), Error> {
        referral.held = true;
        referral.held_why = Some(why.to_string());
        tx.update_referral(&referral).await?;
        let key = Key::new(ResourceType::TASK, &referral.task);
        let version = self.must(tx, &key).await?.version;
        self.note(tx, &referral, &key, self.gateway(), "held", "decided", version).await
    }

    pub(super) fn can_be_reached(&self, partner: &str) -> bool {
        self.partner(partner).is_some_and(|partner| partner.roles.contains(&Role::Target) && partner.channel.is_some())
    }

    /// The targets with a service in the request's category that consent allows, best first, but those already asked.
    pub(super) async fn candidates(
        &self,
        tx: &mut Tx,
        request: &Resource,
        asked: &[String],
    ) -> Result<Vec<Offer>, Error> {
        let domains: Vec<String> = ServiceRequest(request).domains().map(|code| format!("{SDOHCC}|{code}")).collect();
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        let pairs = [("service-category".to_string(), domains.join(",")), ("active".to_string(), "true".to_string())];
        let mut query = search::parse(ResourceType::HEALTHCARE_SERVICE, &pairs, self.own(), true)?;
        query.count = search::MAX_PAGE;
        let mut offers = Vec::new();
        for hit in tx.search(&query, &Viewer::Operator).await?.hits {
            let service = tx.parsed(&hit)?;
            let provider = reference_of(service.at("providedBy")).and_then(|text| self.local(text));
            let Some(provider) = provider.filter(|provider| self.can_be_reached(&provider.id)) else { continue };
            if self.check_consent(tx, request, Some(&provider.id)).await.is_err() {
                continue;
            }
            offers.push(Offer {
                partner: provider.id,
                service: hit.key.id.clone(),
                capacity: capacity(&service).map(str::to_string),
            });
        }
        Ok(candidates(&offers, asked))
    }
}

/// From when until when a partner's agreement holds.
fn term(partner: &Partner) -> Option<(Timestamp, Timestamp)> {
    let agreement = partner.agreement.as_ref()?;
    Some((span_of(&agreement.from)?.0, span_of(&agreement.until)?.1))
}

/// An outcome that can't be stored is refused with a kind the caller can act on.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, Kind::Refused | Kind::Invalid | Kind::Malformed)
}
