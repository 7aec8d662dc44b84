//! Every step on a Task: the one place where a status changes, whichever way it came.
//!
//! A light target's PUT, a polled Task, a source's cancellation and the gateway's own aggregation all go through
//! [`App::write_step`]: save, tell the subscribers, put the step on record, and owe what follows.

use super::intake::Meant;
use super::rights::Place;
use super::{Answer, App, Context, lane_to};
use crate::error::{Error, Kind};
use crate::fhir::precondition::Precondition;
use crate::fhir::views::{BUSINESS_STATUS, Task, concept};
use crate::fhir::{Key, Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::{self, Basis, Event, Standing, moved, status_of};
use crate::referral::patients;
use crate::store::{Delivery, Evidence, Kind as Owed, Reason, Referral, Stored, Tx, Written};
use serde_json::Value;

impl App {
    /// A party's update of a Task.
    pub(super) async fn step(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        mut sent: Resource,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        let mut place = self.place(tx, key).await?;
        let viewer = self.viewer(context);
        let Some(stored) = tx.resource_for_update(key).await? else {
            return self.import(tx, context, key, sent, precondition).await;
        };
        self.check_in_scope(context, 'u', &stored)?;
        self.check_seen(tx, context, key, precondition).await?;
        let current = tx.parsed(&stored)?;
        let standing = self.standing(tx, context, &stored, &current, &place).await?;
        self.check_version(context, &stored, precondition)?;
        let basis = self.basis(tx, &stored, &sent, precondition).await?;
        if standing == Standing::Claimant {
            self.check_claim(tx, context, &sent).await?;
        }
        self.localise(tx, &mut sent, Some(&context.partner)).await?;
        if matches!(place, Place::Other) && !Task(&current).is_referral() {
            let Some(task) = patients::update_other(&current, &sent, standing)? else {
                return Ok(Answer::new(stored, false));
            };
            self.check_added(tx, &viewer, &current, &task).await?;
            let written = self.save(tx, &stored, task, &context.partner.id).await?;
            return Ok(Answer::new(written.stored, false));
        }
        let Event::Changed { mut task, from, to } = decide::update(&current, &sent, standing, basis)? else {
            return Ok(Answer::new(stored, false));
        };
        if let (Place::Source(referral), Status::Draft) = (&mut place, from) {
            self.aim(tx, referral, &mut task).await?;
        }
        self.check_added(tx, &viewer, &current, &task).await?;
        let by = context.partner.id.clone();
        let of_source = matches!(place, Place::Source(_));
        self.write_step(tx, place, &stored, task, (from, to), &by, "put").await?;
        let stored = self.must(tx, key).await?;
        if of_source && !self.is_kept(tx, key).await? {
            self.own_end(tx, context, &stored).await?;
        }
        Ok(Answer::new(stored, false))
    }

    /// 404 for what a partner may not see, unless it is a Task that it could have claimed: then it is told that it lost.
    pub(super) async fn check_seen(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        let viewer = self.viewer(context);
        if tx.may_see(&viewer, key).await? {
            return Ok(());
        }
        if key.kind == ResourceType::TASK && tx.lost_the_claim(&viewer, key).await? {
            let kind = if precondition.names_a_version() { Kind::VersionConflict } else { Kind::Conflict };
            let text = "This Task can't be claimed any more: another organization has it, or it was called off.";
            return Err(Error::new(kind, text));
        }
        Err(Error::not_found(key.kind.name(), &key.id))
    }

    /// A source that ended its referral itself has the final version in the answer to its own update.
    pub(super) async fn own_end(&self, tx: &mut Tx, context: &Context, stored: &Stored) -> Result<(), Error> {
        let Some(referral) = tx.referral(&stored.key.id).await? else { return Ok(()) };
        if self.sources(&context.partner).contains(&referral.source.as_str()) && referral.closing.is_some() {
            self.informed(tx, &referral.task, stored.version, "own update").await?;
        }
        Ok(())
    }

    pub(super) async fn is_kept(&self, tx: &mut Tx, key: &Key) -> Result<bool, Error> {
        Ok(tx.referral(&key.id).await?.is_some_and(|referral| referral.kept_at.is_some()))
    }

    /// What status the client read, when it read an older version (design D10). `If-Match` has settled that already.
    pub(super) async fn basis(
        &self,
        tx: &mut Tx,
        stored: &Stored,
        sent: &Resource,
        precondition: &Precondition,
    ) -> Result<Basis, Error> {
        let settled = precondition.names_a_version();
        let read = sent.version().filter(|version| !settled && *version < stored.version && *version > 0);
        let Some(version) = read else { return Ok(Basis { stale_status: None }) };
        let older = tx.resource_version(&stored.key, version).await?;
        let stale_status = older.map(|older| older.resource()).transpose()?.map(|older| status_of(&older));
        Ok(Basis { stale_status })
    }

    /// One claims for oneself: one's Organization, or one of its services.
    pub(super) async fn check_claim(&self, tx: &mut Tx, context: &Context, sent: &Resource) -> Result<(), Error> {
        let named = match sent.at("owner") {
            Some(owner) => self.named(tx, owner).await?,
            None => None,
        };
        match named {
            Some(Meant::Partner(partner, _)) if partner == context.partner.id => Ok(()),
            _ => Err(Error::refused(
                "Task.owner",
                format!(
                    "To claim this Task, set Task.owner to your own Organization/{} and accept it.",
                    context.partner.id
                ),
            )),
        }
    }

    /// Saves a step and does everything that follows from it, in this transaction.
    #[expect(clippy::too_many_arguments, reason = "what happened, to what, by whom, and how we know")]
    pub(super) async fn write_step(
        &self,
        tx: &mut Tx,
        place: Place,
        stored: &Stored,
        task: Resource,
        (from, to): (Status, Status),
        by: &str,
        how: &str,
    ) -> Result<(), Error> {
        let written = self.save(tx, stored, task, by).await?;
        match place {
            Place::Other => Ok(()),
            Place::Relayed(relay, referral) => {
                if from != to {
                    self.note(tx, &referral, &written.stored.key, by, to.code(), how, written.stored.version).await?;
                }
                self.after_target(tx, relay, referral, written, (from, to), by).await
            }
            Place::Source(referral) => {
                if from != to {
                    self.note(tx, &referral, &written.stored.key, by, to.code(), how, written.stored.version).await?;
                }
                self.after_source(tx, referral, written, (from, to)).await
            }
        }
    }

    /// What follows from a step on the source's Task that aggregation did not make.
    pub(super) async fn after_source(
        &self,
        tx: &mut Tx,
        mut referral: Referral,
        written: Written,
        (from, to): (Status, Status),
    ) -> Result<(), Error> {
        if from == Status::Draft && to == Status::Requested {
            let key = &written.stored.key;
            tx.grant(self.gateway(), std::slice::from_ref(key), &key.id, Reason::Party).await?;
            let reachable = self.reachable(tx, &referral.source, &written.resource).await?;
            return self.begin_work(tx, referral, reachable).await;
        }
        if to.is_terminal() && from != to {
            referral.closing = Some(written.stored.version);
            referral.held = false;
            tx.update_referral(&referral).await?;
            let why = Task(&written.resource).reason_text().unwrap_or("Cancelled by the referral source.").to_string();
            self.withdraw(tx, &referral, &why).await?;
        }
        self.owe_write_back(tx, &referral).await
    }

    /// Puts a step on record.
    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    pub(super) async fn note(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        task: &Key,
        who: &str,
        what: &str,
        how: &str,
        version: i64,
    ) -> Result<(), Error> {
        let step = Evidence {
            referral: referral.task.clone(),
            task: task.id.clone(),
            at: tx.stamp(),
            who: who.to_string(),
            what: what.to_string(),
            how: how.to_string(),
            version,
        };
        tx.put_evidence(&step).await
    }

    /// The source has this version of its Task; if it is the final one, the loop is closed (design D12b).
    pub(super) async fn informed(&self, tx: &mut Tx, task: &str, version: i64, how: &str) -> Result<(), Error> {
        let Some(mut referral) = tx.referral(task).await? else { return Ok(()) };
        let Some(closing) = referral.closing else { return Ok(()) };
        if referral.informed_at.is_some() || version < closing {
            return Ok(());
        }
        referral.informed_at = Some(tx.stamp());
        referral.informed_how = Some(how.to_string());
        tx.update_referral(&referral).await?;
        let (key, source) = (Key::new(ResourceType::TASK, task), referral.source.clone());
        self.note(tx, &referral, &key, &source, "informed", how, version).await
    }

    /// Owes something now.
    pub(super) async fn owe(&self, tx: &mut Tx, kind: Owed, subject: &str, partner: &str) -> Result<(), Error> {
        let due_at = self.now();
        let (subject, lane) = (subject.to_string(), lane_to(partner));
        tx.enqueue(&Delivery { kind, subject, partner: partner.to_string(), lane, due_at }).await
    }

    /// The same now, whatever went wrong before: somebody has asked for it.
    pub(super) async fn owe_afresh(&self, tx: &mut Tx, kind: Owed, subject: &str, partner: &str) -> Result<(), Error> {
        self.owe(tx, kind, subject, partner).await?;
        tx.make_due(kind, subject, self.now()).await
    }

    /// A Task kept at the source's server has to be brought in line. Also when the source made the change: it may have
    /// made it here; and where its own Task says so already, nothing is written and the source is known to know.
    pub(super) async fn owe_write_back(&self, tx: &mut Tx, referral: &Referral) -> Result<(), Error> {
        if referral.kept_at.is_some() {
            self.owe(tx, Owed::WriteBack, &referral.task, &referral.source).await?;
        }
        Ok(())
    }

    /// Ends the source's Task negatively: rejected while nothing was accepted, failed after (design D6).
    pub(super) async fn end_source(&self, tx: &mut Tx, referral: Referral, reason: Value) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &referral.task);
        let from = status_of(&*self.says(tx, &key).await?);
        let to = if matches!(from, Status::Requested | Status::Draft) { Status::Rejected } else { Status::Failed };
        let why = reason.get("text").and_then(Value::as_str).unwrap_or("").to_string();
        self.move_source(tx, referral.clone(), to, Some(reason)).await?;
        // Nobody goes on working for a referral that has ended; what was prepared for it goes too.
        self.withdraw(tx, &referral, &why).await
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
        let from = status_of(&*tx.parsed(&stored)?);
        let Some(way) = from.way_to(to) else { return Ok(()) };
        let last = way.len().saturating_sub(1);
        for (index, status) in way.into_iter().enumerate() {
            let stored = self.must(tx, &key).await?;
            let why = reason.clone().filter(|_| index == last);
            let mut task = moved(&*tx.parsed(&stored)?, status, why);
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
}
