//! What the targets answer, and what the source sees of it: outcomes linked, statuses aggregated, in the same transaction
//! as the answer (design D5).

use super::App;
use crate::config::{Role, Routing};
use crate::error::Error;
use crate::fhir::reference::{self};
use crate::fhir::views::{SDOHCC, Task, reference_of};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::referral::Status;
use crate::referral::aggregate::{self, Answer as TargetAnswer, Next};
use crate::referral::decide::status_of;
use crate::referral::relay::Target;
use crate::store::{Kind as Owed, Reason, Referral, Relay, Tx, Viewer, Written};
use crate::time::Timestamp;
use serde_json::{Value, json};

use super::relaying::REFERRAL;

/// What a cancelled Task of a source says where the cancellation came too late.
const OVERTAKEN: &str = "The organization that was asked had completed this before it could be called off.";

impl App {
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
    pub(super) async fn claimed(
        &self,
        tx: &mut Tx,
        relay: &mut Relay,
        written: &Written,
        by: &str,
    ) -> Result<(), Error> {
        for other in tx.grantees_for(&relay.task, Reason::Claim).await? {
            tx.end_grants(&other, &relay.task, Some(Reason::Claim)).await?;
        }
        relay.partner = Some(by.to_string());
        relay.channel = "light".to_string();
        relay.reached = Some(tx.stamp());
        tx.update_relay(relay).await?;
        let request = self.must(tx, &Key::new(ResourceType::SERVICE_REQUEST, &relay.request)).await?;
        let mut body = Resource::clone(&*tx.parsed(&request)?);
        body.set("performer", json!([{"reference": format!("Organization/{by}")}]));
        self.save(tx, &request, body, self.gateway()).await?;
        if let Some(referral) = tx.referral(&relay.referral).await? {
            self.allowed(tx, &referral, by).await?;
        }
        self.grant_target(tx, by, &written.resource, relay).await.map(|_| ())
    }

    /// A completed Task names the Procedures that were posted for it before (G-036, G-037).
    /// True when there were any that it did not name.
    pub(super) async fn link_done(&self, tx: &mut Tx, relay: &Relay, key: &Key) -> Result<bool, Error> {
        let pair = ("based-on".to_string(), format!("ServiceRequest/{}", relay.request));
        let mut query = search::parse(ResourceType::PROCEDURE, &[pair], self.own(), true)?;
        query.count = REFERRAL.most;
        let found: Vec<Key> =
            tx.search(&query, &Viewer::Operator).await?.hits.iter().map(|hit| hit.key.clone()).collect();
        self.add_outputs(tx, relay, key, &found).await
    }

    /// Names these resources in the outputs of our Task, a version more; false when it names them already.
    pub(super) async fn add_outputs(
        &self,
        tx: &mut Tx,
        relay: &Relay,
        key: &Key,
        found: &[Key],
    ) -> Result<bool, Error> {
        let stored = self.must(tx, key).await?;
        let mut task = Resource::clone(&*tx.parsed(&stored)?);
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
            let task = self.says(tx, &key).await?;
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
        let task = tx.parsed(&stored)?;
        let source = status_of(&task);
        let mut answers = Vec::new();
        let mut asked = Vec::new();
        for relay in tx.relays(&referral.task).await? {
            let theirs = self.says(tx, &Key::new(ResourceType::TASK, &relay.task)).await?;
            let status = status_of(&theirs);
            let called_off = status == Status::Cancelled && self.is_called_off(tx, &relay).await?;
            answers.push(TargetAnswer { status, reason: theirs.at("statusReason").cloned(), called_off });
            asked.extend(relay.partner);
        }
        if source.is_terminal() {
            // A late outcome, or a completion that met a cancellation: it is told, the status stands (D5, D7).
            let mut task = Resource::clone(&task);
            let linked = self.link_outcomes(tx, &referral, &mut task).await?;
            let overtaken = source == Status::Cancelled
                && answers.iter().any(|answer| answer.status == Status::Completed)
                && self.says_overtaken(&mut task, tx.stamp());
            if linked || overtaken {
                let written = self.save(tx, &stored, task, self.gateway()).await?;
                if overtaken {
                    self.note(
                        tx,
                        &referral,
                        &key,
                        self.gateway(),
                        "completed-first",
                        "decided",
                        written.stored.version,
                    )
                    .await?;
                }
                let mut referral = referral;
                referral.closing = Some(written.stored.version);
                referral.informed_at = None;
                referral.informed_how = None;
                tx.update_referral(&referral).await?;
                if linked {
                    self.note(tx, &referral, &key, self.gateway(), "outcome", "decided", written.stored.version)
                        .await?;
                }
                self.owe_write_back(tx, &referral).await?;
            }
            return Ok(());
        }
        let by_hand = self.partner(&referral.source).is_some_and(|partner| partner.routing == Routing::Coordinator);
        let next = aggregate::next(source, &answers, true);
        // Who else there is, is asked only where it matters.
        let offers = match &referral.request {
            Some(request) if next == Next::RelayAgain && !by_hand => {
                let request = self.says(tx, &Key::new(ResourceType::SERVICE_REQUEST, request)).await?;
                self.candidates(tx, &request, &asked).await?
            }
            _ => Vec::new(),
        };
        let next = if by_hand || !offers.is_empty() { next } else { aggregate::next(source, &answers, false) };
        match next {
            Next::Stay => Ok(()),
            Next::Move(status, reason) => self.move_source(tx, referral, status, reason).await,
            Next::Wait => self.hold(tx, referral, "A coordinator called the relayed Task off.").await,
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

    /// The source's cancelled Task says that it came too late, with or without an outcome (D7); false when it says so already.
    fn says_overtaken(&self, task: &mut Resource, now: Timestamp) -> bool {
        let mut notes = task.list("note").to_vec();
        if notes.iter().any(|note| note.get("text").is_some_and(|text| text == OVERTAKEN)) {
            return false;
        }
        let us = json!({"reference": format!("Organization/{}", self.gateway())});
        notes.push(json!({"authorReference": us, "time": now.to_string(), "text": OVERTAKEN}));
        task.set("note", Value::Array(notes));
        true
    }

    /// Whether a coordinator cancelled one of our Tasks, and not its owner.
    async fn is_called_off(&self, tx: &mut Tx, relay: &Relay) -> Result<bool, Error> {
        let steps = tx.evidence(&relay.referral).await?;
        let by = steps.iter().rev().find(|step| step.task == relay.task && step.what == Status::Cancelled.code());
        let by = by.and_then(|step| self.partner(&step.who));
        Ok(by.is_some_and(|by| by.roles.contains(&Role::Coordinator) && relay.partner.as_ref() != Some(&by.id)))
    }

    /// Adds to the source's Task what its relayed Tasks name as outputs; true if something was new. The source and the
    /// gateway may read them from now on.
    pub(super) async fn link_outcomes(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        task: &mut Resource,
    ) -> Result<bool, Error> {
        let mut outputs = Task(task).outputs().to_vec();
        let before = outputs.len();
        for relay in tx.relays(&referral.task).await? {
            let theirs = self.says(tx, &Key::new(ResourceType::TASK, &relay.task)).await?;
            for output in Task(&theirs).outputs() {
                if !outputs.contains(output) {
                    outputs.push(output.clone());
                }
                if let Some(key) = reference_of(output.get("valueReference")).and_then(|text| self.local(text)) {
                    let mut keys = vec![key.clone()];
                    if let Some(stored) = tx.resource(&key).await?.filter(|stored| !stored.deleted) {
                        // An outcome's own details (an Observation's answers) go with it; the case file does not.
                        for text in reference::all(&*tx.parsed(&stored)?) {
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
}
