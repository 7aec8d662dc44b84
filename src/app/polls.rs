//! Following a partner's server by polling: what to ask, and what the answer makes us owe (design D15b).

use super::peers::{Copies, Known, Way, source_filter, target_filter};
use super::rounds::Progress;
use super::{App, Claimed, Copy};
use crate::config::{Partner, Role};
use crate::error::Error;
use crate::fhir::ResourceType;
use crate::fhir::views::{Task, identifiers};
use crate::referral::Status;
use crate::store::{Copied, Kind as Owed};
use crate::time::Timestamp;
use std::sync::Arc;

/// Ask a partner's server what has changed.
#[derive(Debug, Clone)]
pub struct PollPlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Searches below its base, each to be read to its last page.
    pub searches: Vec<String>,
    /// Whether it takes them all in one batch.
    pub batch: bool,
    /// Since when they ask, by the server's own clock.
    pub since: Option<Timestamp>,
    /// When it was last heard of, by ours.
    pub heard_at: Option<Timestamp>,
    /// A round that was interrupted goes on here: the first of the searches is the one that was being read.
    pub begun: Option<Progress>,
}

/// Ids in one search for changed copies.
const IDS: usize = 40;
/// Hits in one page of Tasks; a server may give fewer.
const PAGE: usize = 200;

/// What has no patient to be asked with, of what a referral refers to.
const NOT_OF_A_PATIENT: [&str; 8] = [
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "Organization",
    "Location",
    "HealthcareService",
    "Questionnaire",
    "Group",
];

/// Searches for these copies by their ids, a type at a time, and with their patients where the server wants them.
fn for_copies(copies: &[Copied], way: Copies) -> impl Iterator<Item = String> {
    let of_a_kind = copies.chunk_by(|one, other| one.key.kind == other.key.kind);
    of_a_kind.flat_map(|same| same.chunks(IDS)).filter_map(move |some| {
        let kind = some.first()?.key.kind;
        let ids: Vec<&str> = some.iter().map(|one| one.key.id.as_str()).collect();
        let mut patients: Vec<&str> = some.iter().filter_map(|one| one.patient.as_deref()).collect();
        patients.sort_unstable();
        patients.dedup();
        let named = way == Copies::WithPatient && !NOT_OF_A_PATIENT.contains(&kind.name()) && !patients.is_empty();
        let patients = if named { format!("&patient={}", patients.join(",")) } else { String::new() };
        Some(format!("{kind}?_id={}{patients}", ids.join(",")))
    })
}

impl App {
    /// What to ask a partner's server. One Task search; for a source also what we hold copies of.
    pub async fn poll_plan(&self, claimed: &Claimed) -> Result<Option<PollPlan>, Error> {
        let Some(partner) = self.partner(&claimed.partner).cloned() else { return Ok(None) };
        if partner.fhir.is_none() {
            return Ok(None);
        }
        let mut tx = self.store().read().await?;
        let known = self.known(&mut tx, &partner.id).await?.unwrap_or_else(Known::nothing);
        let following = tx.following(&partner.id).await?;
        let since = following.cursor.as_ref().map_or(String::new(), |cursor| format!("&_lastUpdated=ge{cursor}"));
        let mut searches = Vec::new();
        if partner.roles.contains(&Role::Source) {
            searches.push(format!("{}&_count={PAGE}", known.source.search(&source_filter(&partner), &since)));
            if !since.is_empty() && known.copies != Copies::Unasked {
                let copies = tx.open_copies(&partner.id, self.gateway()).await?;
                searches.extend(for_copies(&copies, known.copies).map(|search| format!("{search}{since}")));
            }
        }
        if partner.roles.contains(&Role::Target) {
            match known.target {
                Way::Plain | Way::Coded | Way::Whole => {
                    let search = known.target.search(&target_filter(self.own(), self.gateway()), &since);
                    searches.push(format!("{search}&_count={PAGE}"));
                }
                Way::ById => {
                    let ids = tx.open_remotes(&partner.id).await?;
                    searches.extend(ids.chunks(IDS).map(|ids| format!("Task?_id={}", ids.join(","))));
                }
            }
        }
        let begun = following.round.as_deref().and_then(Progress::parse);
        // What is asked in another way by now begins anew.
        let begun = begun.filter(|begun| searches.contains(&begun.search));
        if let Some(begun) = &begun {
            searches = searches.into_iter().skip_while(|search| *search != begun.search).collect();
        }
        let since = following.cursor.as_deref().and_then(Timestamp::parse);
        let heard_at = following.heard_at;
        Ok(Some(PollPlan { partner, searches, batch: known.batch, since, heard_at, begun }))
    }

    /// A page of a round brought these resources: what changed is owed to be read, and the round has come so far. False
    /// when the lease was lost.
    pub async fn polled(
        &self,
        claimed: &Claimed,
        found: Vec<Copy>,
        progress: Option<&Progress>,
    ) -> Result<bool, Error> {
        let mut tx = self.store().begin().await?;
        if !tx.holds(claimed).await? {
            return Ok(false);
        }
        let mut newest = None;
        for copy in found {
            let link = tx.link_from(&claimed.partner, &copy.url).await?;
            if link.as_ref().is_some_and(|link| copy.mark.is_some() && link.mark == copy.mark) {
                continue;
            }
            if copy.resource.kind() == ResourceType::TASK {
                if link.is_none() && !self.may_be_ours(&claimed.partner, &copy) {
                    continue;
                }
                newest = newest.max(copy.resource.last_updated());
                self.owe(&mut tx, Owed::Collect, &copy.url, &claimed.partner).await?;
            } else if let Some(link) = link {
                self.owe_fetches(&mut tx, &claimed.partner, &link.origin).await?;
            }
        }
        if let Some(changed) = newest {
            self.silent(&mut tx, &claimed.partner, changed).await?;
        }
        if let Some(progress) = progress {
            tx.put_round(&claimed.partner, Some(&progress.text())).await?;
        }
        self.commit(tx).await?;
        Ok(true)
    }

    /// Whether a Task at a partner's server that we know nothing of may be a new referral, or one that we left there.
    fn may_be_ours(&self, partner: &str, copy: &Copy) -> bool {
        let Some((partner, fhir)) = self.partner(partner).and_then(|one| Some((one, one.fhir.as_ref()?))) else {
            return false;
        };
        let asks_us = Task(&copy.resource).status() == Some(Status::Requested.code())
            && self.names_us(partner, &fhir.base, &copy.resource);
        let system = format!("{}/Task", self.own());
        let marked = identifiers(&copy.resource).any(|(its, _)| its == system);
        partner.roles.contains(&Role::Source) && asks_us || partner.roles.contains(&Role::Target) && marked
    }

    /// Owes a poll of this partner now: an operator, a test, a coordinator who can't wait.
    pub async fn poll_now(&self, partner: &str) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        self.owe_afresh(&mut tx, Owed::Poll, partner, partner).await?;
        self.commit(tx).await
    }
}
