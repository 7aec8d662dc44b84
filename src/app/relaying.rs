//! Relaying: our own Task and ServiceRequest for a target, what it may see with them, and a coordinator's relay by hand.

use super::{Answer, App, Context, Stored};
use crate::config::{Channel, Role};
use crate::error::Error;
use crate::fhir::reference::{self, Reference};
use crate::fhir::views::{BUSINESS_STATUS, ServiceRequest, Task, concept};
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::status_of;
use crate::referral::relay::{self, Parts, Target};
use crate::store::{Kind as Owed, Reason, Referral, Relay, Tx};
use serde_json::{Value, json};
use std::sync::Arc;

/// How far references are followed from where a referral begins.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Steps from the start.
    pub depth: usize,
    /// Resources in all.
    pub most: usize,
}

/// What is read of a referral at its source, and what a target is granted of it: enough for a Condition's evidence and
/// a role's practitioner, too little to drain a record.
pub(super) const REFERRAL: Reach = Reach { depth: 3, most: 60 };

/// What is read with a Task at a target's server: what its output names, no more.
pub(super) const OUTCOMES: Reach = Reach { depth: 0, most: 60 };

impl App {
    /// Relays to these targets (none: an open Task), and accepts the source's Task.
    pub(super) async fn relay_to(
        &self,
        tx: &mut Tx,
        referral: Referral,
        targets: &[Option<Target>],
    ) -> Result<(), Error> {
        for target in targets {
            self.relay_one(tx, &referral, target.clone()).await?;
        }
        self.accept_source(tx, referral).await
    }

    /// Makes our Task for one target; a draft while what it is about is still being fetched.
    pub(super) async fn relay_one(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        target: Option<Target>,
    ) -> Result<Stored, Error> {
        let original = self.says(tx, &Key::new(ResourceType::TASK, &referral.task)).await?;
        let (id, request) = (crate::id::new(), crate::id::new());
        tx.unused(&Key::new(ResourceType::SERVICE_REQUEST, &request));
        let system = format!("{}/Task", self.own());
        let parts = Parts {
            original: &original,
            request: &request,
            gateway: self.gateway(),
            identifier_system: &system,
            id: &id,
        };
        let mut task = relay::task(parts, target.as_ref(), tx.stamp());
        if !referral.fetched {
            task.set("status", json!("draft"));
        }
        let written = self.insert_as(tx, task, &id, self.gateway(), "POST").await?;
        let relay = self.keep_relay(tx, referral, target, &id, request).await?;
        match referral.fetched {
            true => self.finish_relay(tx, referral, relay).await?,
            false => tx.grant(self.gateway(), std::slice::from_ref(&written.stored.key), &id, Reason::Author).await?,
        }
        self.must(tx, &written.stored.key).await
    }

    /// Keeps what has to be known of a Task of ours.
    async fn keep_relay(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        target: Option<Target>,
        task: &str,
        request: String,
    ) -> Result<Relay, Error> {
        let channel = match &target {
            None => "open",
            Some(target) => match self.partner(&target.partner).and_then(|partner| partner.channel) {
                Some(Channel::Fhir) => "fhir",
                Some(Channel::Light | Channel::Mapped | Channel::Email) | None => "light",
            },
        };
        let (partner, service) = target.map_or((None, None), |target| (Some(target.partner), target.service));
        let relay = Relay {
            task: task.to_string(),
            referral: referral.task.clone(),
            partner,
            service,
            channel: channel.to_string(),
            request,
            remote: None,
            withdrawn: false,
            reached: None,
            created: tx.stamp(),
        };
        tx.insert_relay(&relay).await?;
        Ok(relay)
    }

    /// Gives a relayed Task its ServiceRequest and its target the grants, and owes the delivery.
    pub(super) async fn finish_relay(&self, tx: &mut Tx, referral: &Referral, mut relay: Relay) -> Result<(), Error> {
        let original =
            referral.request.as_ref().ok_or_else(|| Error::internal("a fetched referral without a request"))?;
        let original = self.says(tx, &Key::new(ResourceType::SERVICE_REQUEST, original)).await?;
        let target = relay.partner.clone().map(|partner| Target { partner, service: relay.service.clone() });
        let request_key = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
        if tx.resource(&request_key).await?.is_none() {
            let request = relay::service_request(&original, target.as_ref(), tx.stamp());
            self.insert_as(tx, request, &relay.request, self.gateway(), "POST").await?;
        }
        let key = Key::new(ResourceType::TASK, &relay.task);
        let stored = self.must(tx, &key).await?;
        let mut task = Resource::clone(&*tx.parsed(&stored)?);
        let drafted = status_of(&task) == Status::Draft;
        let light = relay.channel == "light";
        if drafted {
            let source_task = self.says(tx, &Key::new(ResourceType::TASK, &referral.task)).await?;
            for name in ["for", "input", "encounter"] {
                task.set(name, source_task.at(name).cloned().unwrap_or(Value::Null));
            }
            relay::carry_contained(&mut task, &source_task);
            task.set("status", json!("requested"));
        }
        // A name or an identifier leads nobody to the patient; what the request is about does (G-021).
        let led = Task(&task).patient().is_some_and(|text| self.local(text).is_some());
        if !led {
            task.set("for", original.at("subject").cloned().unwrap_or(Value::Null));
        }
        let own = [key.clone(), request_key.clone()];
        tx.grant(self.gateway(), &own, &relay.task, Reason::Author).await?;
        match &relay.partner {
            Some(partner) => {
                self.allowed(tx, referral, partner).await?;
                let context = self.grant_target(tx, partner, &task, &relay).await?;
                self.say_what_is_bridged(tx, &referral.source, partner, &relay.task, &context).await?;
            }
            None => {
                // Enough to decide on, not enough to know who it is.
                for offer in self.candidates(tx, &original, &[]).await? {
                    tx.grant(&offer.partner, &own, &relay.task, Reason::Claim).await?;
                }
            }
        }
        if drafted || !led {
            self.save(tx, &stored, task, self.gateway()).await?;
        }
        self.note(tx, referral, &key, self.gateway(), "relayed", "decided", stored.version).await?;
        if light {
            // It is at its place as soon as it can be read.
            relay.reached = Some(tx.stamp());
            tx.update_relay(&relay).await?;
        }
        match &relay.partner {
            Some(partner) if relay.channel == "fhir" => self.owe(tx, Owed::Deliver, &relay.task, partner).await,
            _ => Ok(()),
        }
    }

    /// What a target may see with a Task: the Task's parties for as long as it shows, the rest, which it answers, while
    /// it is open (D11).
    pub(super) async fn grant_target(
        &self,
        tx: &mut Tx,
        partner: &str,
        task: &Resource,
        relay: &Relay,
    ) -> Result<Vec<Key>, Error> {
        let key = Key::new(ResourceType::TASK, &relay.task);
        let request_key = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
        let request = self.says(tx, &request_key).await?;
        let source = tx.referral(&relay.referral).await?.map(|referral| referral.source).unwrap_or_default();
        let mut party = vec![key, request_key];
        party.extend(Task(task).patient().and_then(|text| self.local(text)));
        party.extend(ServiceRequest(&request).subject().and_then(|text| self.local(text)));
        let consents = ServiceRequest(&request).supporting_info().filter_map(|text| self.local(text));
        party.extend(consents.filter(|key| key.kind == ResourceType::CONSENT));
        party.sort_unstable();
        party.dedup();
        let mut context = self.reach(tx, &source, &request).await?;
        context.extend(self.reach(tx, &source, task).await?);
        context.retain(|key| !party.contains(key) && key.kind != ResourceType::TASK && !key.kind.is_directory());
        context.sort_unstable();
        context.dedup();
        tx.grant(partner, &party, &relay.task, Reason::Party).await?;
        tx.grant(partner, &context, &relay.task, Reason::Context).await?;
        Ok(context)
    }

    /// What a source's resource refers to here, followed a few steps, as far as it is the source's to refer to.
    pub(super) async fn reach(&self, tx: &mut Tx, source: &str, from: &Resource) -> Result<Vec<Key>, Error> {
        let mut found: Vec<Key> = Vec::new();
        let mut level: Vec<Arc<Resource>> = Vec::new();
        for step in 0..REFERRAL.depth {
            let mut next = Vec::new();
            let texts = match step {
                0 => reference::all(from),
                _ => level.iter().flat_map(|resource| reference::all(resource)).collect(),
            };
            for text in texts {
                let Reference::Local(key) = Reference::parse(&text, self.own()) else { continue };
                // A Task leads to other parties' business, and the directory is everybody's.
                if key.kind == ResourceType::TASK || found.contains(&key) || found.len() >= REFERRAL.most {
                    continue;
                }
                if let Some(stored) = tx.resource(&key).await?.filter(|stored| !stored.deleted) {
                    if !self.may_refer(tx, source, &stored).await? {
                        continue;
                    }
                    if !key.kind.is_directory() {
                        next.push(tx.parsed(&stored)?);
                    }
                    found.push(key);
                }
            }
            level = next;
        }
        Ok(found)
    }

    /// The source's Task is accepted once it is on its way to somebody.
    pub(super) async fn accept_source(&self, tx: &mut Tx, mut referral: Referral) -> Result<(), Error> {
        referral.held = false;
        referral.held_why = None;
        tx.update_referral(&referral).await?;
        let key = Key::new(ResourceType::TASK, &referral.task);
        if status_of(&*self.says(tx, &key).await?) == Status::Requested && referral.fetched {
            return self.move_source(tx, referral, Status::Accepted, None).await;
        }
        Ok(())
    }

    /// `$relay`: a coordinator sends a referral to these targets, also before everything has been fetched.
    pub async fn relay(&self, context: &Context, task: &str, targets: &[String]) -> Result<String, Error> {
        self.check_scope(context, ResourceType::TASK, 'c')?;
        let mut tx = self.store().begin().await?;
        let key = Key::new(ResourceType::TASK, task);
        if !context.is(Role::Coordinator) {
            let seen = tx.may_see(&self.viewer(context), &key).await?;
            return Err(if seen {
                Error::forbidden("Only a coordinator relays referrals.")
            } else {
                Error::not_found("Task", task)
            });
        }
        let Some(referral) = tx.referral(task).await? else { return Err(Error::not_found("Task", task)) };
        if !tx.may_see(&self.viewer(context), &key).await? {
            return Err(Error::not_found("Task", task));
        }
        let status = status_of(&*self.says(&mut tx, &key).await?);
        if status.is_terminal() || status == Status::Draft {
            return Err(Error::refused("Task.status", format!("A Task that is {status} can't be relayed.")));
        }
        if targets.is_empty() {
            return Err(Error::invalid("Parameters.parameter", "Give one or more “target” with a valueReference."));
        }
        self.check_request_allows(&mut tx, &referral, None).await?;
        let mut made = Vec::new();
        for (index, text) in targets.iter().enumerate() {
            let target = self.target_named(&mut tx, text).await?.ok_or_else(|| {
                let text = "This is no Organization or HealthcareService of a partner that takes referrals.";
                Error::invalid(format!("Parameters.parameter[{index}].valueReference"), text).code("not-found")
            })?;
            self.check_request_allows(&mut tx, &referral, Some(&target.partner)).await?;
            // Asked again for one that is on its way, the same Task is the answer (design D1).
            made.push(match self.open_relay(&mut tx, &referral, &target).await? {
                Some(stored) => stored,
                None => self.relay_one(&mut tx, &referral, Some(target)).await?,
            });
        }
        self.accept_source(&mut tx, referral).await?;
        for stored in &made {
            self.audit(&mut tx, context, "create", stored).await?;
        }
        let now = tx.stamp();
        self.commit(tx).await?;
        let hits: Vec<crate::fhir::bundle::Hit> = made
            .into_iter()
            .map(|stored| crate::fhir::bundle::Hit {
                full_url: format!("{}/{}", self.own(), stored.key),
                content: stored.content,
                mode: "match",
            })
            .collect();
        Ok(crate::fhir::bundle::searchset(&hits, Some(hits.len() as u64), &[], now))
    }

    /// Our open Task for this target, if there is one.
    pub(super) async fn open_relay(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        target: &Target,
    ) -> Result<Option<Stored>, Error> {
        for relay in tx.relays(&referral.task).await? {
            if relay.partner.as_ref() == Some(&target.partner) && relay.service == target.service {
                let stored = self.must(tx, &Key::new(ResourceType::TASK, &relay.task)).await?;
                if !status_of(&*tx.parsed(&stored)?).is_terminal() {
                    return Ok(Some(stored));
                }
            }
        }
        Ok(None)
    }

    /// A fetched request must still be one that may be passed on.
    pub(super) async fn check_request_allows(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        partner: Option<&str>,
    ) -> Result<(), Error> {
        let Some(request) = &referral.request else { return Ok(()) };
        let request = self.says(tx, &Key::new(ResourceType::SERVICE_REQUEST, request)).await?;
        self.check_consent(tx, &request, partner)
            .await
            .map_err(|refusal| Error::refused("ServiceRequest.supportingInfo", refusal.text()))
    }

    /// The target that a reference names, if it takes referrals.
    pub(super) async fn target_named(&self, tx: &mut Tx, text: &str) -> Result<Option<Target>, Error> {
        let named = self.named_performer(tx, &[json!({"reference": text})]).await?;
        let target = named.map(|(partner, service)| Target { partner, service });
        Ok(target.filter(|target| self.can_be_reached(&target.partner)))
    }

    /// A coordinator's own Task, `partOf` the source's: a relay made by hand (design D11a, D12; G-191).
    pub(super) async fn relay_by_hand(
        &self,
        tx: &mut Tx,
        context: &Context,
        mut task: Resource,
    ) -> Result<Answer, Error> {
        self.localise(tx, &mut task, Some(&context.partner)).await?;
        let no_parent = || Error::invalid("Task.partOf[0]", "partOf names the source's Task on this server.");
        let parent = Task(&task).part_of().find_map(|text| self.local(text)).ok_or_else(no_parent)?;
        let referral = tx.referral(&parent.id).await?.ok_or_else(|| no_parent().code("not-found"))?;
        let owner = Task(&task).owner().unwrap_or("").to_string();
        let target = self.target_named(tx, &owner).await?.ok_or_else(|| {
            Error::invalid(
                "Task.owner",
                "The owner is an Organization or HealthcareService of a partner that takes referrals.",
            )
        })?;
        let status = status_of(&*self.says(tx, &parent).await?);
        if status.is_terminal() || status_of(&task) != Status::Requested {
            return Err(Error::refused("Task.status", "An open referral is relayed with a Task that is requested."));
        }
        if !referral.fetched {
            let text = "What the source refers to is still being read. Try again, or use $relay.";
            return Err(Error::conflict(text).at("Task.partOf[0]"));
        }
        self.check_request_allows(tx, &referral, Some(&target.partner)).await?;
        let focus = Task(&task).focus().and_then(|text| self.local(text));
        let focus =
            focus.ok_or_else(|| Error::invalid("Task.focus", "The focus is a ServiceRequest on this server."))?;
        let request = tx.resource_for_update(&focus).await?.filter(|stored| stored.author == self.gateway());
        let Some(request) = request else {
            return Err(Error::invalid(
                "Task.focus",
                "Post your own ServiceRequest, based on the source's, and refer to that.",
            )
            .code("not-found"));
        };
        let mut body = Resource::clone(&*tx.parsed(&request)?);
        // Public clients make both from a copy of the source's, old meta inside: what is ours has no origin elsewhere.
        forget_source(&mut body);
        body.set("intent", json!("filler-order"));
        if let Some(original) = &referral.request {
            body.set("basedOn", json!([{"reference": format!("ServiceRequest/{original}")}]));
        }
        if !tx.parsed(&request)?.same_content(&body) {
            self.save(tx, &request, body, self.gateway()).await?;
        }
        forget_source(&mut task);
        for name in ["statusReason", "output"] {
            task.set(name, Value::Null);
        }
        task.set("businessStatus", concept(BUSINESS_STATUS, "submitted", "submitted"));
        let id = task.id().map_or_else(crate::id::new, str::to_string);
        let system = format!("{}/Task", self.own());
        task.set("identifier", json!([{"system": system, "value": id}]));
        task.set("partOf", json!([{"reference": parent.to_string()}]));
        task.set("requester", json!({"reference": format!("Organization/{}", self.gateway())}));
        task.set("owner", json!({"reference": format!("Organization/{}", target.partner)}));
        task.set("authoredOn", json!(tx.stamp().to_string()));
        let written = self.insert_as(tx, task, &id, self.gateway(), "POST").await?;
        let relay = self.keep_relay(tx, &referral, Some(target), &id, focus.id).await?;
        self.finish_relay(tx, &referral, relay).await?;
        self.accept_source(tx, referral).await?;
        let stored = self.must(tx, &written.stored.key).await?;
        Ok(Answer::new(stored, true))
    }
}

fn forget_source(resource: &mut Resource) {
    if let Some(Value::Object(meta)) = resource.elements_mut().get_mut("meta") {
        meta.shift_remove("source");
    }
}
