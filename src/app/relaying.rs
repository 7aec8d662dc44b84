//! Deciding where a referral goes, relaying it, and turning the targets' answers into the one the source sees.

use serde_json::{Value, json};

use super::{Answer, App, Context, Stored};
use crate::config::{Channel, Role, Routing};
use crate::directory::matching::{Offer, candidates};
use crate::error::{Error, Kind};
use crate::fhir::reference::{self, Reference};
use crate::fhir::views::{
    BUSINESS_STATUS, SDOHCC, STATUS_REASON, ServiceRequest, Task, capacity, concept, reference_of,
};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::referral::Status;
use crate::referral::aggregate::{self, Answer as TargetAnswer, Next};
use crate::referral::consent::{self, Refusal};
use crate::referral::decide::{moved, status_of};
use crate::referral::relay::{self, Parts, Target};
use crate::store::{Kind as Owed, Reason, Referral, Relay, Tx, Viewer, Written};

/// How deep a referral's references are followed, and how many: enough for a Condition's evidence and a role's
/// practitioner, too little to drain a record.
pub(super) const DEPTH: usize = 3;
/// See [`DEPTH`].
pub(super) const MOST: usize = 60;

impl App {
    /// Everything the referral refers to is here: check consent, then route. A refusal is an error; nothing is stored.
    pub(super) async fn proceed(&self, tx: &mut Tx, mut referral: Referral, request: &Key) -> Result<(), Error> {
        let stored = self.must(tx, request).await?.resource()?;
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
        self.check_own(tx, &referral, &stored).await?;
        self.check_consent(tx, &stored)
            .await
            .map_err(|refusal| Error::refused("ServiceRequest.supportingInfo", refusal.text()))?;
        let reach: Vec<Key> =
            self.reach(tx, &referral.source, &stored).await?.into_iter().chain([request.clone()]).collect();
        tx.grant(self.gateway(), &reach, &referral.task, Reason::Party).await?;
        tx.update_referral(&referral).await?;
        // What a coordinator asked for before everything was here.
        let waiting = tx.relays(&referral.task).await?;
        if !waiting.is_empty() {
            for relay in waiting {
                self.finish_relay(tx, &referral, relay).await?;
            }
            return self.accept_source(tx, referral).await;
        }
        self.route(tx, referral, &stored).await
    }

    /// A referral is about one patient, and about nothing that is another party's.
    async fn check_own(&self, tx: &mut Tx, referral: &Referral, request: &Resource) -> Result<(), Error> {
        for text in reference::all(request) {
            let Some(key) = self.local(&text) else { continue };
            let there = tx.resource(&key).await?.filter(|stored| !stored.deleted);
            let Some(stored) = there else { continue };
            if !self.may_refer(tx, &referral.source, &stored).await? {
                let text = format!("The ServiceRequest refers to a {} that is not here.", key.kind);
                return Err(Error::refused("ServiceRequest", text).code("not-found"));
            }
        }
        let task = self.must(tx, &Key::new(ResourceType::TASK, &referral.task)).await?.resource()?;
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
    async fn may_refer(&self, tx: &mut Tx, source: &str, stored: &Stored) -> Result<bool, Error> {
        let by_gateway = stored.author == self.gateway()
            || self.partner(&stored.author).is_some_and(|partner| partner.roles.contains(&Role::Coordinator));
        Ok(by_gateway || tx.may_see(&Viewer::Grantees(vec![source.to_string()]), &stored.key).await?)
    }

    async fn check_consent(&self, tx: &mut Tx, request: &Resource) -> Result<(), Refusal> {
        if !self.config().consent.required {
            return Ok(());
        }
        let mut consents = Vec::new();
        for key in ServiceRequest(request).supporting_info().filter_map(|text| self.local(text)) {
            if key.kind == ResourceType::CONSENT {
                let stored = tx.resource(&key).await.ok().flatten().filter(|stored| !stored.deleted);
                consents.extend(stored.and_then(|stored| stored.resource().ok()));
            }
        }
        let patient = ServiceRequest(request).subject().unwrap_or("");
        consent::allows(consents.iter(), patient, self.now())
    }

    /// Where does it go? To who was named, else to the best match, else to whoever claims it, else to a coordinator.
    async fn route(&self, tx: &mut Tx, referral: Referral, request: &Resource) -> Result<(), Error> {
        let by_hand = self.partner(&referral.source).is_some_and(|partner| partner.routing == Routing::Coordinator);
        if by_hand {
            return self.hold(tx, referral, "The source's referrals are routed by a coordinator.").await;
        }
        if request.text_at("status") == Some("on-hold") {
            return self.hold(tx, referral, "The source has put the ServiceRequest on hold.").await;
        }
        if let Some(partner) = referral.performer.clone() {
            let target = Target { partner, service: referral.service.clone() };
            if self.can_be_reached(&target.partner) {
                return self.relay_to(tx, referral, &[Some(target)]).await;
            }
            return self.unroutable(tx, referral, "The named performer can't be reached through this gateway.").await;
        }
        let task = self.must(tx, &Key::new(ResourceType::TASK, &referral.task)).await?.resource()?;
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
    async fn unroutable(&self, tx: &mut Tx, referral: Referral, text: &str) -> Result<(), Error> {
        if self.partners().iter().any(|partner| partner.roles.contains(&Role::Coordinator)) {
            return self.hold(tx, referral, text).await;
        }
        self.end_source(tx, referral, concept(STATUS_REASON, "unroutable", text)).await
    }

    async fn hold(&self, tx: &mut Tx, mut referral: Referral, why: &str) -> Result<(), Error> {
        referral.held = true;
        referral.held_why = Some(why.to_string());
        tx.update_referral(&referral).await?;
        let key = Key::new(ResourceType::TASK, &referral.task);
        let version = self.must(tx, &key).await?.version;
        self.note(tx, &referral, &key, self.gateway(), "held", "decided", version).await
    }

    fn can_be_reached(&self, partner: &str) -> bool {
        self.partner(partner).is_some_and(|partner| partner.roles.contains(&Role::Target) && partner.channel.is_some())
    }

    /// The targets with a service in the request's category, best first, but those already asked.
    async fn candidates(&self, tx: &mut Tx, request: &Resource, asked: &[String]) -> Result<Vec<Offer>, Error> {
        let domains: Vec<String> = ServiceRequest(request).domains().map(|code| format!("{SDOHCC}|{code}")).collect();
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        let pairs = [("service-category".to_string(), domains.join(",")), ("active".to_string(), "true".to_string())];
        let mut query = search::parse(ResourceType::HEALTHCARE_SERVICE, &pairs, self.own(), true)?;
        query.count = search::MAX_PAGE;
        let mut offers = Vec::new();
        for hit in tx.search(&query, &Viewer::Operator).await?.hits {
            let service = Resource::stored(&hit.content)?;
            let provider = reference_of(service.at("providedBy")).and_then(|text| self.local(text));
            let Some(provider) = provider.filter(|provider| self.can_be_reached(&provider.id)) else { continue };
            offers.push(Offer {
                partner: provider.id,
                service: hit.key.id,
                capacity: capacity(&service).map(str::to_string),
            });
        }
        Ok(candidates(&offers, asked))
    }

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
    async fn relay_one(&self, tx: &mut Tx, referral: &Referral, target: Option<Target>) -> Result<Stored, Error> {
        let original = self.must(tx, &Key::new(ResourceType::TASK, &referral.task)).await?.resource()?;
        let (id, request) = (crate::id::new(), crate::id::new());
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
        let channel = match &target {
            None => "open",
            Some(target) => match self.partner(&target.partner).and_then(|partner| partner.channel) {
                Some(Channel::Fhir) => "fhir",
                _ => "light",
            },
        };
        let relay = Relay {
            task: id.clone(),
            referral: referral.task.clone(),
            partner: target.as_ref().map(|target| target.partner.clone()),
            service: target.and_then(|target| target.service),
            channel: channel.to_string(),
            request,
            remote: None,
            withdrawn: false,
            reached: None,
            created: tx.stamp(),
        };
        tx.insert_relay(&relay).await?;
        tx.grant(self.gateway(), std::slice::from_ref(&written.stored.key), &id, Reason::Author).await?;
        if referral.fetched {
            self.finish_relay(tx, referral, relay).await?;
        }
        self.must(tx, &written.stored.key).await
    }

    /// Gives a relayed Task its ServiceRequest and its target the grants, and owes the delivery.
    async fn finish_relay(&self, tx: &mut Tx, referral: &Referral, mut relay: Relay) -> Result<(), Error> {
        let original =
            referral.request.as_ref().ok_or_else(|| Error::internal("a fetched referral without a request"))?;
        let original = self.must(tx, &Key::new(ResourceType::SERVICE_REQUEST, original)).await?.resource()?;
        let target = relay.partner.clone().map(|partner| Target { partner, service: relay.service.clone() });
        let request_key = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
        if tx.resource(&request_key).await?.is_none() {
            let request = relay::service_request(&original, target.as_ref(), tx.stamp());
            self.insert_as(tx, request, &relay.request, self.gateway(), "POST").await?;
        }
        let key = Key::new(ResourceType::TASK, &relay.task);
        let stored = self.must(tx, &key).await?;
        let mut task = stored.resource()?;
        let drafted = status_of(&task) == Status::Draft;
        let light = relay.channel == "light";
        if drafted {
            let source_task = self.must(tx, &Key::new(ResourceType::TASK, &referral.task)).await?.resource()?;
            for name in ["for", "input", "encounter"] {
                task.set(name, source_task.at(name).cloned().unwrap_or(Value::Null));
            }
            task.set("status", json!("requested"));
        }
        let own = [key.clone(), request_key.clone()];
        tx.grant(self.gateway(), &own, &relay.task, Reason::Author).await?;
        match &relay.partner {
            Some(partner) => self.grant_target(tx, partner, &task, &relay).await?,
            None => {
                // Enough to decide on, not enough to know who it is.
                for offer in self.candidates(tx, &original, &[]).await? {
                    tx.grant(&offer.partner, &own, &relay.task, Reason::Claim).await?;
                }
            }
        }
        if drafted {
            self.save(tx, &stored, task, self.gateway()).await?;
        } else {
            let written = self.as_written(&stored)?;
            self.publish(tx, &written).await?;
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

    fn as_written(&self, stored: &Stored) -> Result<Written, Error> {
        let resource = stored.resource()?;
        let rows = crate::fhir::search_index::rows(&resource, self.own());
        Ok(Written { stored: stored.clone(), resource, rows })
    }

    /// What a target may see with a Task: the Task's parties for as long as it shows, the rest while it is open (D11).
    async fn grant_target(&self, tx: &mut Tx, partner: &str, task: &Resource, relay: &Relay) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &relay.task);
        let request_key = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
        let request = self.must(tx, &request_key).await?.resource()?;
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
        tx.grant(partner, &context, &relay.task, Reason::Context).await
    }

    /// What a source's resource refers to here, followed a few steps, as far as it is the source's to refer to.
    pub(super) async fn reach(&self, tx: &mut Tx, source: &str, from: &Resource) -> Result<Vec<Key>, Error> {
        let mut found: Vec<Key> = Vec::new();
        let mut level = vec![from.clone()];
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for resource in &level {
                for text in reference::all(resource) {
                    let Reference::Local(key) = Reference::parse(&text, self.own()) else { continue };
                    // A Task leads to other parties' business, and the directory is everybody's.
                    if key.kind == ResourceType::TASK || found.contains(&key) || found.len() >= MOST {
                        continue;
                    }
                    if let Some(stored) = tx.resource(&key).await?.filter(|stored| !stored.deleted) {
                        if !self.may_refer(tx, source, &stored).await? {
                            continue;
                        }
                        if !key.kind.is_directory() {
                            next.push(stored.resource()?);
                        }
                        found.push(key);
                    }
                }
            }
            level = next;
        }
        Ok(found)
    }

    /// The source's Task is accepted once it is on its way to somebody.
    async fn accept_source(&self, tx: &mut Tx, mut referral: Referral) -> Result<(), Error> {
        referral.held = false;
        referral.held_why = None;
        tx.update_referral(&referral).await?;
        let key = Key::new(ResourceType::TASK, &referral.task);
        if status_of(&self.must(tx, &key).await?.resource()?) == Status::Requested && referral.fetched {
            return self.move_source(tx, referral, Status::Accepted, None).await;
        }
        Ok(())
    }

    /// Moves the source's Task, each legal step a version of its own; at the end everything that was done is linked.
    pub(super) async fn move_source(
        &self,
        tx: &mut Tx,
        mut referral: Referral,
        to: Status,
        reason: Option<Value>,
    ) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &referral.task);
        let stored = self.must(tx, &key).await?;
        let from = status_of(&stored.resource()?);
        let Some(way) = from.way_to(to) else { return Ok(()) };
        let last = way.len().saturating_sub(1);
        for (index, status) in way.into_iter().enumerate() {
            let stored = self.must(tx, &key).await?;
            let why = reason.clone().filter(|_| index == last);
            let mut task = moved(&stored.resource()?, status, why);
            if status == Status::Accepted {
                let relays = tx.relays(&referral.task).await?;
                let code = if relays.iter().any(|relay| relay.reached.is_some()) { "delivered" } else { "submitted" };
                task.set("businessStatus", concept(BUSINESS_STATUS, code, code));
            }
            if status == Status::Completed {
                self.link_outcomes(tx, &referral, &mut task).await?;
            }
            let written = self.save(tx, &stored, task, self.gateway()).await?;
            self.note(tx, &referral, &key, self.gateway(), status.code(), "decided", written.stored.version).await?;
            if status.is_terminal() {
                referral.closing = Some(written.stored.version);
                referral.held = false;
                tx.update_referral(&referral).await?;
            }
        }
        self.owe_write_back(tx, &referral).await
    }

    /// Adds to the source's Task what its relayed Tasks name as outputs; true if something was new. The source and the
    /// gateway may read them from now on.
    async fn link_outcomes(&self, tx: &mut Tx, referral: &Referral, task: &mut Resource) -> Result<bool, Error> {
        let mut outputs = Task(task).outputs().to_vec();
        let before = outputs.len();
        for relay in tx.relays(&referral.task).await? {
            let theirs = self.must(tx, &Key::new(ResourceType::TASK, &relay.task)).await?.resource()?;
            for output in Task(&theirs).outputs() {
                if !outputs.contains(output) {
                    outputs.push(output.clone());
                }
                if let Some(key) = reference_of(output.get("valueReference")).and_then(|text| self.local(text)) {
                    let mut keys = vec![key.clone()];
                    if let Some(stored) = tx.resource(&key).await?.filter(|stored| !stored.deleted) {
                        // An outcome's own details (an Observation's answers) go with it; the case file does not.
                        for text in reference::all(&stored.resource()?) {
                            let detail = self.local(&text);
                            let by_target = match &detail {
                                Some(detail) => tx
                                    .resource(detail)
                                    .await?
                                    .is_some_and(|stored| relay.partner.as_ref() == Some(&stored.author)),
                                None => false,
                            };
                            keys.extend(detail.filter(|_| by_target));
                        }
                    }
                    tx.grant(&referral.source, &keys, &referral.task, Reason::Party).await?;
                    tx.grant(self.gateway(), &keys, &referral.task, Reason::Party).await?;
                }
            }
        }
        let changed = outputs.len() > before;
        if changed {
            task.set("output", Value::Array(outputs));
        }
        Ok(changed)
    }

    /// What follows from a target's step on its Task.
    pub(super) async fn after_target(
        &self,
        tx: &mut Tx,
        mut relay: Relay,
        referral: Referral,
        written: Written,
        (from, to): (Status, Status),
        by: &str,
    ) -> Result<(), Error> {
        let key = written.stored.key.clone();
        if relay.partner.is_none() && to == Status::Accepted {
            self.claimed(tx, &mut relay, &written, by).await?;
        }
        let partner = relay.partner.clone();
        if let Some(partner) = &partner {
            let outputs: Vec<Key> =
                Task(&written.resource).output_references().filter_map(|text| self.local(text)).collect();
            tx.grant(self.gateway(), &outputs, &relay.task, Reason::Party).await?;
            tx.grant(partner, &outputs, &relay.task, Reason::Party).await?;
        }
        if to == Status::Completed {
            self.link_done(tx, &relay, &key).await?;
        }
        if let Some(partner) = partner.filter(|_| to.is_terminal() && from != to) {
            tx.end_grants(&partner, &relay.task, Some(Reason::Context)).await?;
            // Ended by a coordinator's hand: a target with a server has still to be told (design D7).
            let untold = by != partner && relay.channel == "fhir";
            if untold {
                self.mirror_request(tx, &relay, "revoked").await?;
                self.owe(tx, Owed::Deliver, &relay.task, &partner).await?;
            }
            if relay.withdrawn != untold {
                relay.withdrawn = untold;
                tx.update_relay(&relay).await?;
            }
        }
        self.aggregate(tx, referral).await
    }

    /// Somebody claimed an open Task: it is theirs, and the others no longer see it.
    async fn claimed(&self, tx: &mut Tx, relay: &mut Relay, written: &Written, by: &str) -> Result<(), Error> {
        for other in tx.grantees_for(&relay.task, Reason::Claim).await? {
            tx.end_grants(&other, &relay.task, Some(Reason::Claim)).await?;
        }
        relay.partner = Some(by.to_string());
        relay.channel = "light".to_string();
        relay.reached = Some(tx.stamp());
        tx.update_relay(relay).await?;
        let request = self.must(tx, &Key::new(ResourceType::SERVICE_REQUEST, &relay.request)).await?;
        let mut body = request.resource()?;
        body.set("performer", json!([{"reference": format!("Organization/{by}")}]));
        self.save(tx, &request, body, self.gateway()).await?;
        self.grant_target(tx, by, &written.resource, relay).await
    }

    /// A completed Task names the Procedures that were posted for it before (G-036, G-037).
    async fn link_done(&self, tx: &mut Tx, relay: &Relay, key: &Key) -> Result<(), Error> {
        let pair = ("based-on".to_string(), format!("ServiceRequest/{}", relay.request));
        let mut query = search::parse(ResourceType::PROCEDURE, &[pair], self.own(), true)?;
        query.count = MOST;
        let found: Vec<Key> = tx.search(&query, &Viewer::Operator).await?.hits.into_iter().map(|hit| hit.key).collect();
        self.add_outputs(tx, relay, key, &found).await.map(|_| ())
    }

    /// Names these resources in the outputs of our Task, a version more; false when it names them already.
    async fn add_outputs(&self, tx: &mut Tx, relay: &Relay, key: &Key, found: &[Key]) -> Result<bool, Error> {
        let stored = self.must(tx, key).await?;
        let mut task = stored.resource()?;
        let known: Vec<String> = Task(&task).output_references().map(str::to_string).collect();
        let new: Vec<&Key> = found.iter().filter(|found| !known.contains(&found.to_string())).collect();
        if new.is_empty() {
            return Ok(false);
        }
        let mut outputs = Task(&task).outputs().to_vec();
        for found in &new {
            let code = if found.kind == ResourceType::PROCEDURE { "resulting-activity" } else { "additional-content" };
            outputs.push(json!({"type": {"coding": [{"system": SDOHCC, "code": code}]}, "valueReference": {"reference": found.to_string()}}));
        }
        task.set("output", Value::Array(outputs));
        self.save(tx, &stored, task, self.gateway()).await?;
        let keys: Vec<Key> = new.into_iter().cloned().collect();
        tx.grant(self.gateway(), &keys, &relay.task, Reason::Party).await?;
        Ok(true)
    }

    /// A resource arrived that says what became of one of our requests: late, or before the Task was completed (D5).
    pub(super) async fn outcome_arrived(&self, tx: &mut Tx, written: &Written) -> Result<(), Error> {
        if written.stored.key.kind != ResourceType::PROCEDURE {
            return Ok(());
        }
        let requests: Vec<Key> = written
            .resource
            .list("basedOn")
            .iter()
            .filter_map(|item| reference_of(Some(item)).and_then(|text| self.local(text)))
            .filter(|key| key.kind == ResourceType::SERVICE_REQUEST)
            .collect();
        for request in requests {
            let Some(relay) = tx.relay_by_request(&request.id).await? else { continue };
            if relay.partner.as_deref() != Some(written.stored.author.as_str()) {
                continue;
            }
            let Some(referral) = tx.referral(&relay.referral).await? else { continue };
            let key = Key::new(ResourceType::TASK, &relay.task);
            let task = self.must(tx, &key).await?.resource()?;
            if status_of(&task) == Status::Completed
                && self.add_outputs(tx, &relay, &key, std::slice::from_ref(&written.stored.key)).await?
            {
                self.aggregate(tx, referral).await?;
            }
        }
        Ok(())
    }

    /// The answers of all targets become the source's status, in the same transaction as the answer.
    pub(super) async fn aggregate(&self, tx: &mut Tx, referral: Referral) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &referral.task);
        let stored = self.must(tx, &key).await?;
        let mut task = stored.resource()?;
        let source = status_of(&task);
        let mut answers = Vec::new();
        let mut asked = Vec::new();
        for relay in tx.relays(&referral.task).await? {
            let theirs = self.must(tx, &Key::new(ResourceType::TASK, &relay.task)).await?.resource()?;
            answers.push(TargetAnswer { status: status_of(&theirs), reason: theirs.at("statusReason").cloned() });
            asked.extend(relay.partner);
        }
        if source.is_terminal() {
            // A late outcome, or a completion that met a cancellation: it is told, the status stands (D5, D7).
            if self.link_outcomes(tx, &referral, &mut task).await? {
                let written = self.save(tx, &stored, task, self.gateway()).await?;
                let mut referral = referral;
                referral.closing = Some(written.stored.version);
                referral.informed_at = None;
                referral.informed_how = None;
                tx.update_referral(&referral).await?;
                self.note(tx, &referral, &key, self.gateway(), "outcome", "decided", written.stored.version).await?;
                self.owe_write_back(tx, &referral).await?;
            }
            return Ok(());
        }
        let by_hand = self.partner(&referral.source).is_some_and(|partner| partner.routing == Routing::Coordinator);
        let offers = match &referral.request {
            Some(request) if !by_hand => {
                let request = self.must(tx, &Key::new(ResourceType::SERVICE_REQUEST, request)).await?.resource()?;
                self.candidates(tx, &request, &asked).await?
            }
            _ => Vec::new(),
        };
        match aggregate::next(source, &answers, by_hand || !offers.is_empty()) {
            Next::Stay => Ok(()),
            Next::Move(status, reason) => self.move_source(tx, referral, status, reason).await,
            Next::RelayAgain if by_hand => {
                self.hold(tx, referral, "The organization that was asked has no capacity.").await
            }
            Next::RelayAgain => {
                let Some(best) = offers.first() else { return Ok(()) };
                let target = Target { partner: best.partner.clone(), service: Some(best.service.clone()) };
                self.relay_to(tx, referral, &[Some(target)]).await
            }
        }
    }

    /// Calls off what is still open at the targets: at once where the Task is here, else owed to the target's server.
    pub(super) async fn withdraw(&self, tx: &mut Tx, referral: &Referral, why: &str) -> Result<(), Error> {
        for mut relay in tx.relays(&referral.task).await? {
            let key = Key::new(ResourceType::TASK, &relay.task);
            let stored = self.must(tx, &key).await?;
            let status = status_of(&stored.resource()?);
            if status.is_terminal() || relay.withdrawn {
                continue;
            }
            self.mirror_request(tx, &relay, "revoked").await?;
            if relay.channel == "fhir" && status != Status::Draft {
                relay.withdrawn = true;
                tx.update_relay(&relay).await?;
                let partner = relay.partner.clone().unwrap_or_default();
                self.owe(tx, Owed::Deliver, &relay.task, &partner).await?;
            } else {
                self.call_off(tx, referral, &relay, why).await?;
            }
        }
        Ok(())
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
        let way = status_of(&stored.resource()?).way_to(Status::Cancelled).unwrap_or_default();
        let ended = !way.is_empty();
        for status in way {
            let reason = (status == Status::Cancelled).then(|| concept(STATUS_REASON, "cancelled-by-source", why));
            let task = moved(&stored.resource()?, status, reason);
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
    async fn mirror_request(&self, tx: &mut Tx, relay: &Relay, status: &str) -> Result<(), Error> {
        let key = Key::new(ResourceType::SERVICE_REQUEST, &relay.request);
        let Some(stored) = tx.resource(&key).await? else { return Ok(()) };
        let mut request = stored.resource()?;
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
                for referral in tx.referrals_by_request(&key.id).await? {
                    self.request_changed(tx, referral, resource).await?;
                }
                Ok(())
            }
            ResourceType::CONSENT => self.consent_changed(tx, key).await,
            _ => Ok(()),
        }
    }

    async fn request_changed(&self, tx: &mut Tx, referral: Referral, request: &Resource) -> Result<(), Error> {
        let Some(referral) = tx.referral(&referral.task).await? else { return Ok(()) };
        let status = ServiceRequest(request).status().unwrap_or("");
        if matches!(status, "revoked" | "entered-in-error") {
            let reason =
                concept(STATUS_REASON, "cancelled-by-source", "The referral source revoked the ServiceRequest.");
            return self.cancel_source(tx, referral, reason).await;
        }
        let source = self.must(tx, &Key::new(ResourceType::TASK, &referral.task)).await?.resource()?;
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
            let task = self.must(tx, &Key::new(ResourceType::TASK, &relay.task)).await?.resource()?;
            if status_of(&task).is_terminal() {
                continue;
            }
            let before = stored.resource()?;
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
        let status = status_of(&self.must(tx, &key).await?.resource()?);
        if status.is_terminal() {
            return Ok(());
        }
        let why = reason.get("text").and_then(Value::as_str).unwrap_or("").to_string();
        self.move_source(tx, referral.clone(), Status::Cancelled, Some(reason)).await?;
        self.withdraw(tx, &referral, &why).await
    }

    /// A consent that no longer allows: the referrals that rest on it end, and the targets see nothing more (D15c).
    pub(super) async fn consent_changed(&self, tx: &mut Tx, consent: &Key) -> Result<(), Error> {
        let pair = ("supporting-info".to_string(), consent.to_string());
        let mut query = search::parse(ResourceType::SERVICE_REQUEST, &[pair], self.own(), true)?;
        query.count = search::MAX_PAGE;
        for hit in tx.search(&query, &Viewer::Operator).await?.hits {
            let request = Resource::stored(&hit.content)?;
            if self.check_consent(tx, &request).await.is_ok() {
                continue;
            }
            for referral in tx.referrals_by_request(&hit.key.id).await? {
                let relays = tx.relays(&referral.task).await?;
                let reason = concept(STATUS_REASON, "no-consent", "The consent no longer allows this referral.");
                if let Some(referral) = tx.referral(&referral.task).await? {
                    self.cancel_source(tx, referral, reason).await?;
                }
                for relay in relays {
                    if let Some(partner) = &relay.partner {
                        tx.end_grants(partner, &relay.task, None).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `$relay`: a coordinator sends a referral to these targets, also before everything has been fetched.
    pub async fn relay(&self, context: &Context, task: &str, targets: &[String]) -> Result<String, Error> {
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
        let status = status_of(&self.must(&mut tx, &key).await?.resource()?);
        if status.is_terminal() || status == Status::Draft {
            return Err(Error::refused("Task.status", format!("A Task that is {status} can't be relayed.")));
        }
        if targets.is_empty() {
            return Err(Error::invalid("Parameters.parameter", "Give one or more “target” with a valueReference."));
        }
        self.check_request_allows(&mut tx, &referral).await?;
        let mut made = Vec::new();
        for (index, text) in targets.iter().enumerate() {
            let target = self.target_named(&mut tx, text).await?.ok_or_else(|| {
                let text = "This is no Organization or HealthcareService of a partner that takes referrals.";
                Error::invalid(format!("Parameters.parameter[{index}].valueReference"), text).code("not-found")
            })?;
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
    async fn open_relay(&self, tx: &mut Tx, referral: &Referral, target: &Target) -> Result<Option<Stored>, Error> {
        for relay in tx.relays(&referral.task).await? {
            if relay.partner.as_ref() == Some(&target.partner) && relay.service == target.service {
                let stored = self.must(tx, &Key::new(ResourceType::TASK, &relay.task)).await?;
                if !status_of(&stored.resource()?).is_terminal() {
                    return Ok(Some(stored));
                }
            }
        }
        Ok(None)
    }

    /// A fetched request must still be one that may be passed on.
    async fn check_request_allows(&self, tx: &mut Tx, referral: &Referral) -> Result<(), Error> {
        let Some(request) = &referral.request else { return Ok(()) };
        let request = self.must(tx, &Key::new(ResourceType::SERVICE_REQUEST, request)).await?.resource()?;
        self.check_consent(tx, &request)
            .await
            .map_err(|refusal| Error::refused("ServiceRequest.supportingInfo", refusal.text()))
    }

    /// The target that a reference names, if it takes referrals.
    async fn target_named(&self, tx: &mut Tx, text: &str) -> Result<Option<Target>, Error> {
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
        let parent = Task(&task).part_of().find_map(|text| self.local(text));
        let parent =
            parent.ok_or_else(|| Error::invalid("Task.partOf[0]", "partOf names the source's Task on this server."))?;
        let Some(referral) = tx.referral(&parent.id).await? else {
            return Err(
                Error::invalid("Task.partOf[0]", "partOf names the source's Task on this server.").code("not-found")
            );
        };
        let owner = Task(&task).owner().unwrap_or("").to_string();
        let target = self.target_named(tx, &owner).await?.ok_or_else(|| {
            Error::invalid(
                "Task.owner",
                "The owner is an Organization or HealthcareService of a partner that takes referrals.",
            )
        })?;
        let status = status_of(&self.must(tx, &parent).await?.resource()?);
        if status.is_terminal() || status_of(&task) != Status::Requested {
            return Err(Error::refused("Task.status", "An open referral is relayed with a Task that is requested."));
        }
        if !referral.fetched {
            let text = "What the source refers to is still being read. Try again, or use $relay.";
            return Err(Error::conflict(text).at("Task.partOf[0]"));
        }
        self.check_request_allows(tx, &referral).await?;
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
        // Public clients make both from a copy of the source's, old meta inside: what is ours has no origin elsewhere.
        let mut body = request.resource()?;
        forget_source(&mut body);
        body.set("intent", json!("filler-order"));
        if let Some(original) = &referral.request {
            body.set("basedOn", json!([{"reference": format!("ServiceRequest/{original}")}]));
        }
        if !request.resource()?.same_content(&body) {
            self.save(tx, &request, body, self.gateway()).await?;
        }
        forget_source(&mut task);
        for name in ["statusReason", "output"] {
            task.set(name, Value::Null);
        }
        task.set("businessStatus", concept(BUSINESS_STATUS, "submitted", "submitted"));
        let id = crate::id::new();
        let system = format!("{}/Task", self.own());
        task.set("identifier", json!([{"system": system, "value": id}]));
        task.set("partOf", json!([{"reference": parent.to_string()}]));
        task.set("requester", json!({"reference": format!("Organization/{}", self.gateway())}));
        task.set("owner", json!({"reference": format!("Organization/{}", target.partner)}));
        task.set("authoredOn", json!(tx.stamp().to_string()));
        let written = self.insert_as(tx, task, &id, self.gateway(), "POST").await?;
        let channel = self.partner(&target.partner).and_then(|partner| partner.channel);
        let relay = Relay {
            task: id.clone(),
            referral: referral.task.clone(),
            partner: Some(target.partner),
            service: target.service,
            channel: if channel == Some(Channel::Fhir) { "fhir" } else { "light" }.to_string(),
            request: focus.id,
            remote: None,
            withdrawn: false,
            reached: None,
            created: tx.stamp(),
        };
        tx.insert_relay(&relay).await?;
        self.finish_relay(tx, &referral, relay).await?;
        self.accept_source(tx, referral).await?;
        let stored = self.must(tx, &written.stored.key).await?;
        Ok(Answer { stored, created: true })
    }
}

fn forget_source(resource: &mut Resource) {
    if let Some(Value::Object(meta)) = resource.elements_mut().get_mut("meta") {
        meta.shift_remove("source");
    }
}

/// An outcome that can't be stored is refused with a kind the caller can act on.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, Kind::Refused | Kind::Invalid | Kind::Malformed)
}
