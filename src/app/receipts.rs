//! Receipts: that consent has ended is told to whoever still works on the referral, and who has taken that is on record
//! (LP-15, SP-10).
//!
//! A target's sight ends with the consent, whether it hears of it or not. It hears by the calling off at its server, by a
//! notification that says that something has changed and not what, or by being told that the Task is not there when it
//! asks for it. The first of these that it took is its receipt; until then `$loop-status` names it as `untold`. The source's
//! receipt is the one of every ending (`informed`).

use super::App;
use crate::error::Error;
use crate::fhir::{Key, ResourceType};
use crate::store::{Evidence, Referral, Relay, Tx};

/// The step that a target's sight has ended for want of consent.
const ENDED: &str = "consent-ended";
/// The step that the target has taken it.
const TOLD: &str = "consent-ended-told";

/// Who has not taken yet that consent has ended, and for which Task.
pub(super) fn untold(steps: &[Evidence]) -> Vec<(&str, &str)> {
    let told = |ended: &Evidence| {
        steps.iter().any(|step| step.what == TOLD && step.task == ended.task && step.who == ended.who)
    };
    let ended = steps.iter().filter(|step| step.what == ENDED && !told(step));
    ended.map(|step| (step.who.as_str(), step.task.as_str())).collect()
}

impl App {
    /// Consent has ended for a target that still had work to do; it is to be told.
    pub(super) async fn consent_ended(&self, tx: &mut Tx, referral: &Referral, relay: &Relay) -> Result<(), Error> {
        let Some(partner) = relay.partner.as_deref().filter(|_| relay.reached.is_some()) else { return Ok(()) };
        let key = Key::new(ResourceType::TASK, &relay.task);
        tx.parts_from(partner, &key);
        let version = self.must(tx, &key).await?.version;
        self.note(tx, referral, &key, partner, ENDED, "closed", version).await
    }

    /// The target has taken it, if there was something to take.
    pub(super) async fn told_in(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        relay: &Relay,
        how: &str,
    ) -> Result<(), Error> {
        let Some(partner) = &relay.partner else { return Ok(()) };
        let steps = tx.evidence(&relay.referral).await?;
        if !untold(&steps).contains(&(partner.as_str(), relay.task.as_str())) {
            return Ok(());
        }
        let key = Key::new(ResourceType::TASK, &relay.task);
        let version = self.must(tx, &key).await?.version;
        self.note(tx, referral, &key, partner, TOLD, how, version).await
    }

    /// A partner was told, by a notification or by an answer, that a Task is not for it any more.
    pub(super) async fn told_of(&self, partner: &str, task: &str, how: &str) -> Result<(), Error> {
        let mut reader = self.store().read().await?;
        let Some(relay) = reader.relay(task).await?.filter(|relay| relay.partner.as_deref() == Some(partner)) else {
            return Ok(());
        };
        let waits = untold(&reader.evidence(&relay.referral).await?).contains(&(partner, task));
        drop(reader);
        if !waits {
            return Ok(());
        }
        let mut tx = self.store().begin().await?;
        // The referral's row is locked first, as everywhere.
        if let Some(referral) = tx.referral(&relay.referral).await? {
            self.told_in(&mut tx, &referral, &relay, how).await?;
        }
        self.commit(tx).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn who_has_taken_it_is_told_by_task_and_partner() {
        let step = |what: &str, who: &str, task: &str| Evidence {
            referral: "r".into(),
            task: task.into(),
            at: Timestamp(0),
            who: who.into(),
            what: what.into(),
            how: String::new(),
            version: 1,
        };
        let steps = [step(ENDED, "a", "1"), step(ENDED, "b", "2"), step(TOLD, "b", "2"), step(TOLD, "c", "1")];
        assert_eq!(untold(&steps), [("a", "1")]);
        assert!(untold(&[]).is_empty());
    }
}
