//! Reconciling: once a day a partner's server is asked for everything we share with it that is open, or ended lately,
//! whatever its clock and its notifications have told, and what differs is looked at.
//!
//! A pass goes over it in parts, and a part goes on where the last one stopped, so that however much is open, nothing is
//! left out. It compares marks (version and time), so agreement costs no more than the question. What differs is read by the
//! same paths that follow changes: a legal step is taken over, what we owe is written again, a Task that was lost there is
//! posted again once, and the rest is a conflict on record ([`super::conflicts`]).

use std::sync::Arc;
use std::time::Duration;

use super::conflicts::What;
use super::pace::SOONEST;
use super::peers::{Copies, DAILY, Known};
use super::rights::Place;
use super::{App, Claimed, Copy};
use crate::config::Partner;
use crate::error::Error;
use crate::fhir::reference::split_absolute;
use crate::fhir::views::reference_of;
use crate::fhir::{Key, ResourceType};
use crate::referral::decide::status_of;
use crate::store::{Delivery, Kind as Owed, Link, Outcome, Tx};

/// Ids in one search.
const IDS: usize = 40;
/// How long after its end a referral is compared, for a server may be set back to a time before it, and an outcome looked
/// for that its Task does not name.
const LATE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What one part of a pass is about, at most.
const PART: usize = 500;

/// Ask a partner's server for what is open.
#[derive(Debug, Clone)]
pub struct ReconcilePlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Searches by id below its base.
    pub searches: Vec<String>,
    /// The URLs that they ask for.
    pub asked: Vec<String>,
    /// The referrals that have to be read whole, for it can't be asked for what it has changed.
    pub whole: Vec<String>,
    /// Where the next part begins; none: this is the last one.
    pub next: Option<String>,
    /// Whether it takes them all in one batch.
    pub batch: bool,
}

impl App {
    /// Owes each server a round a day; one that is owed already stays where it is, however often we start.
    pub(super) async fn owe_reconciliations(&self, tx: &mut Tx) -> Result<(), Error> {
        for partner in self.partners().iter().filter(|partner| partner.fhir.is_some()) {
            let (subject, partner, due_at) = (partner.id.clone(), partner.id.clone(), self.now().plus(DAILY));
            let lane = super::lane_to(&partner);
            tx.enqueue(&Delivery { kind: Owed::Reconcile, subject, partner, lane, due_at }).await?;
        }
        Ok(())
    }

    /// What to ask for in this part of a pass.
    pub async fn reconcile_plan(&self, claimed: &Claimed) -> Result<Option<ReconcilePlan>, Error> {
        let Some(partner) = self.partner(&claimed.partner).filter(|one| one.fhir.is_some()).cloned() else {
            return Ok(None);
        };
        let mut tx = self.store().read().await?;
        let known = self.known(&mut tx, &partner.id).await?.unwrap_or_else(Known::nothing);
        let after = tx.reconciled_to(&partner.id).await?;
        let answers = (known.copies == Copies::ById, known.outcomes);
        let (parties, since) = ((partner.id.as_str(), self.gateway()), self.now().minus(LATE));
        let shared = tx.shared_with(parties, answers, since, after.as_deref(), PART).await?;
        let next = shared.last().filter(|_| shared.len() == PART).cloned();
        let (asked, rest): (Vec<String>, Vec<String>) =
            shared.into_iter().partition(|one| split_absolute(one).is_some());
        let (fulfilled, whole): (Vec<String>, Vec<String>) = rest.into_iter().partition(|one| one.contains('/'));
        let mut keys: Vec<Key> = asked.iter().filter_map(|url| split_absolute(url)).map(|(_, key)| key).collect();
        keys.sort_by(|one, other| (one.kind.name(), &one.id).cmp(&(other.kind.name(), &other.id)));
        let of_a_kind = keys.chunk_by(|one, other| one.kind == other.kind);
        let searches = of_a_kind.flat_map(|same| same.chunks(IDS)).filter_map(|some| {
            let ids: Vec<&str> = some.iter().map(|key| key.id.as_str()).collect();
            Some(format!("{}?_id={}&_count={IDS}", some.first()?.kind, ids.join(",")))
        });
        let mut searches: Vec<String> = searches.collect();
        for some in fulfilled.chunks(IDS) {
            let requests: Vec<String> = some.iter().map(|request| format!("{}/{request}", self.own())).collect();
            searches.push(format!("Procedure?based-on={}&_count={IDS}", requests.join(",")));
        }
        Ok(Some(ReconcilePlan { partner, searches, asked, whole, next, batch: known.batch }))
    }

    /// What a part found. What was asked for and is not there, or differs, is looked at.
    pub async fn reconciled(&self, claimed: &Claimed, plan: &ReconcilePlan, found: &[Copy]) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        let mut differ = 0_usize;
        for url in &plan.asked {
            let there = found.iter().find(|copy| copy.url == *url);
            let link = tx.link_from(&claimed.partner, url).await?;
            let same = |copy: &Copy| copy.mark.is_some() && link.as_ref().is_some_and(|link| link.mark == copy.mark);
            if there.is_some_and(same) {
                continue;
            }
            differ += 1;
            match split_absolute(url) {
                Some((_, key)) if key.kind == ResourceType::TASK => {
                    self.owe(&mut tx, Owed::Collect, url, &claimed.partner).await?;
                }
                _ => self.owe_fetches(&mut tx, &claimed.partner, url).await?,
            }
        }
        for procedure in found.iter().filter(|copy| copy.resource.kind() == ResourceType::PROCEDURE) {
            self.late_outcome(&mut tx, &claimed.partner, procedure).await?;
        }
        for task in &plan.whole {
            self.owe(&mut tx, Owed::Fetch, task, &claimed.partner).await?;
        }
        let (partner, shared) = (&claimed.partner, plan.asked.len() + plan.whole.len());
        tx.put_reconciled(partner, plan.next.as_deref()).await?;
        let pause = match &plan.next {
            Some(_) => SOONEST,
            None => {
                // What it did not take is offered once more a day.
                tx.try_again(partner, self.now(), true).await?;
                DAILY
            }
        };
        tracing::info!(partner, shared, differ, ended = plan.next.is_none(), "reconciled");
        tx.finish(claimed, &Outcome::Again(self.now().plus(pause))).await?;
        self.commit(tx).await
    }

    /// An outcome at a target's server, of one of our requests, that we have not seen so: its Task is read again, and
    /// with it what became of the request.
    async fn late_outcome(&self, tx: &mut Tx, partner: &str, procedure: &Copy) -> Result<(), Error> {
        let known = tx.link_from(partner, &procedure.url).await?;
        if known.is_some_and(|link| procedure.mark.is_some() && link.mark == procedure.mark) {
            return Ok(());
        }
        for item in procedure.resource.list("basedOn") {
            let request = reference_of(Some(item)).and_then(|text| self.local(text));
            let Some(request) = request.filter(|key| key.kind == ResourceType::SERVICE_REQUEST) else { continue };
            let relay = tx.relay_by_request(&request.id).await?;
            let relay = relay.filter(|relay| relay.partner.as_deref() == Some(partner));
            if let Some(remote) = relay.and_then(|relay| relay.remote) {
                self.owe(tx, Owed::Collect, &remote, partner).await?;
            }
        }
        Ok(())
    }

    /// The open referrals that rest on this copy are to be read again.
    pub(super) async fn owe_fetches(&self, tx: &mut Tx, partner: &str, url: &str) -> Result<(), Error> {
        let Some(link) = tx.link_from(partner, url).await? else { return Ok(()) };
        for task in tx.open_referrals_with(partner, &link.key, self.gateway()).await? {
            self.owe(tx, Owed::Fetch, &task, partner).await?;
        }
        Ok(())
    }

    /// A Task of ours is not at a partner's server any more. One that a target never heard of, as after a backup was
    /// restored, is posted again, once; one that was deleted, or is gone again, is for a person to decide.
    pub async fn vanished(&self, claimed: &Claimed, deleted: bool) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let Some(link) = tx.link_from(&claimed.partner, &claimed.subject).await? else {
            return self.done(tx, claimed).await;
        };
        // The referral's row is locked before the lease's, as everywhere.
        let place = self.place(&mut tx, &link.key).await?;
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        self.lost(&mut tx, place, &link, deleted).await?;
        self.done(tx, claimed).await
    }

    /// Another Task stands, or is about to, where this server had one of ours: it was set back to a backup, and gives ids
    /// anew.
    pub(super) async fn displaced(&self, tx: &mut Tx, partner: &str, url: &str, by: &Key) -> Result<(), Error> {
        let Some(link) = tx.link_from(partner, url).await?.filter(|link| link.key != *by) else { return Ok(()) };
        let place = self.place(tx, &link.key).await?;
        self.lost(tx, place, &link, false).await
    }

    /// What was at this place is not there any more.
    pub(super) async fn lost(&self, tx: &mut Tx, place: Place, link: &Link, deleted: bool) -> Result<(), Error> {
        let ended = status_of(&*self.says(tx, &link.key).await?).is_terminal();
        let why = if deleted { "its Task was deleted there" } else { "its Task is not there" }.to_string();
        let (task, partner) = (&link.key, &link.partner);
        match place {
            Place::Relayed(mut relay, referral) if !ended && relay.remote.as_ref() == Some(&link.origin) => {
                let before = tx.conflict(&task.id, What::Gone.code()).await?;
                self.conflict(tx, &referral, task, partner, What::Gone, None, why).await?;
                if before.is_none() && !deleted {
                    relay.remote = None;
                    tx.update_relay(&relay).await?;
                    self.owe_afresh(tx, Owed::Deliver, &relay.task, partner).await?;
                }
            }
            Place::Source(referral) if !ended && referral.kept_at.as_ref() == Some(&link.origin) => {
                self.conflict(tx, &referral, task, partner, What::Gone, None, why).await?;
            }
            Place::Relayed(..) | Place::Source(_) | Place::Other => {}
        }
        Ok(())
    }
}
