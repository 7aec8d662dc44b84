//! What the worker claims and how a try ends: retried with backoff, given up visibly, handed back.
//!
//! What is sent is planned from the state at the time of sending (see `targets`, `sources`, `polls`, `notifications`), so
//! nothing stale goes out. A report is one transaction, and counts only while the worker's lease is its own.

use super::conflicts::What;
use super::rights::Place;
use super::{App, Busy, Claimed};
use crate::error::Error;
use crate::fhir::views::{STATUS_REASON, concept};
use crate::fhir::{Key, ResourceType};
use crate::store::{Attempt, Kind as Owed, Outcome, Referral, Relay, Tx};
use crate::time::Timestamp;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// The shortest pause before a next try, whatever the partner asks for: "at once" would use the tries up in a moment.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

impl App {
    /// The tries of one delivery, oldest first: when, how it ended, why.
    pub async fn attempts(&self, kind: Owed, subject: &str) -> Result<Vec<Attempt>, Error> {
        self.store().read().await?.attempts(kind, subject).await
    }

    /// Claims deliveries that are due now, where there is room for them. Rounds that have ended are recorded beside; where
    /// that fails they are asked once more, and keep nothing else from being sent.
    pub async fn claim(&self, most: usize, busy: &Busy) -> Result<Vec<Claimed>, Error> {
        let mut tx = self.store().begin().await?;
        let rounds = self.rounds_to_record();
        self.record_rounds(&mut tx, &rounds).await?;
        let lease = self.config().delivery.timeout * 2;
        let claimed = tx.claim(self.0.sockets.gateway(), self.now(), lease, most, busy).await?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// When the next delivery is due, if any is owed that may be claimed then.
    pub async fn next_due(&self, busy: &Busy) -> Result<Option<Timestamp>, Error> {
        self.store().read().await?.next_due(self.0.sockets.gateway(), busy).await
    }

    /// The lease of a delivery that takes long, made anew. False when somebody else has it.
    pub async fn renew(&self, claimed: &Claimed) -> Result<bool, Error> {
        let mut tx = self.store().begin().await?;
        let till = self.now().plus(self.config().delivery.timeout * 2);
        let ours = tx.renew(claimed, till).await?;
        tx.commit().await?;
        Ok(ours)
    }

    /// Gives back what was being sent when the gateway was told to stop: it is due at once, and whether it arrived is
    /// unknown.
    pub async fn let_go(&self, claimed: &[Claimed]) -> Result<(), Error> {
        // One by one: whoever locks several rows must do so in everybody's order.
        for one in claimed {
            self.give_back(one, self.now()).await?;
        }
        Ok(())
    }

    /// What was told to a subscriber could not be recorded, because the database had trouble: it is told again after a
    /// pause, and the subscriber is not to blame for it.
    pub async fn unrecorded(&self, claimed: &Claimed) -> Result<(), Error> {
        let pause = self.config().delivery.backoff.first().copied().unwrap_or(SHORTEST_PAUSE);
        let at = self.now().plus(self.jittered(claimed, pause));
        self.give_back(claimed, at).await
    }

    /// A try failed. It is tried again after the configured pause, or the one the partner asked for, until the pauses
    /// are used up; then what was owed ends in the way its kind ends, visibly.
    pub async fn failed(&self, claimed: &Claimed, why: &str, retry_after: Option<Duration>) -> Result<(), Error> {
        let Claimed { partner, subject, attempts, .. } = claimed;
        tracing::info!(kind = claimed.kind.code(), partner, subject, attempt = attempts, why, "a delivery failed");
        let now = self.now();
        let pauses = &self.config().delivery.backoff;
        let index = usize::try_from(claimed.attempts - 1).unwrap_or(usize::MAX);
        let mut tx = self.store().begin().await?;
        if claimed.kind == Owed::Poll {
            let failures = tx.not_followed(&claimed.partner, why).await?;
            let most = self.pause(&mut tx, &claimed.partner).await?;
            let index = usize::try_from(failures - 1).unwrap_or(usize::MAX).min(pauses.len().saturating_sub(1));
            let pause = pauses.get(index).copied().unwrap_or(most);
            // By itself a round comes no later than it would anyway; its server may want more peace.
            let pause = pause.min(most.max(super::pace::SOONEST));
            let pause = retry_after.map_or(pause, |asked| asked.max(pause));
            tx.finish(claimed, &Outcome::Retry(now.plus(pause), why.to_string())).await?;
            return self.commit(tx).await;
        }
        // A server that can't be reached is looked at again for as long as it is configured.
        let looking = matches!(claimed.kind, Owed::Subscribe | Owed::Discover | Owed::Reconcile | Owed::Expire)
            .then_some(&super::peers::DAILY);
        if let Some(pause) = pauses.get(index).or(looking) {
            if claimed.kind == Owed::Notify {
                self.stumbled(&mut tx, &claimed.subject, why).await?;
                self.tried(&mut tx, claimed, 8).await?;
            }
            let pause = retry_after.map_or_else(|| self.jittered(claimed, *pause), |asked| asked.max(SHORTEST_PAUSE));
            let at = now.plus(pause);
            tx.finish(claimed, &Outcome::Retry(at, why.to_string())).await?;
            return self.commit(tx).await;
        }
        self.give_up(tx, claimed, why).await
    }

    /// A server is left in peace till then. That was no try: nobody is given up for what became of others' there. It is
    /// looked at again when the server has rested, and no sooner than after the pause that the last try is due.
    pub async fn left_in_peace(&self, claimed: &Claimed, till: Timestamp) -> Result<(), Error> {
        let before = usize::try_from(claimed.attempts - 2).ok();
        let pause = before.and_then(|index| self.config().delivery.backoff.get(index));
        let at = pause.map_or(till, |pause| till.max(self.now().plus(self.jittered(claimed, *pause))));
        self.give_back(claimed, at).await
    }

    /// Nothing was made of it: it is due again then.
    async fn give_back(&self, claimed: &Claimed, at: Timestamp) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        tx.let_go(claimed, at).await?;
        tx.commit().await
    }

    /// A pause and up to so much more, so that what failed together is not tried again together; the same for the same
    /// try, whoever asks.
    fn jittered(&self, claimed: &Claimed, pause: Duration) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&claimed.id, claimed.attempts).hash(&mut hasher);
        let share = u32::try_from(hasher.finish() % 1_000).unwrap_or(0);
        pause + pause * self.config().delivery.jitter * share / 100_000
    }

    /// There is no point in trying again.
    pub async fn gone(&self, claimed: &Claimed, why: &str) -> Result<(), Error> {
        let tx = self.store().begin().await?;
        self.give_up(tx, claimed, why).await
    }

    pub(super) async fn give_up(&self, mut tx: Tx, claimed: &Claimed, why: &str) -> Result<(), Error> {
        let referral = self.referral_of(&mut tx, claimed).await?;
        if claimed.kind == Owed::Notify {
            // Its row before the delivery's, as whoever counts an event takes them.
            tx.subscription(&claimed.subject).await?;
        }
        let latest = tx.is_latest(claimed).await?;
        if !tx.finish(claimed, &Outcome::Exhausted(why.to_string())).await? {
            return Ok(());
        }
        tracing::warn!(
            kind = claimed.kind.code(),
            partner = claimed.partner,
            subject = claimed.subject,
            why,
            "given up"
        );
        match (claimed.kind, referral) {
            // What was fetched once is kept; the next round that goes well tries again.
            (Owed::Fetch, Some((referral, _))) if referral.fetched => {
                let (task, source) = (Key::new(ResourceType::TASK, &referral.task), referral.source.clone());
                self.conflict(&mut tx, &referral, &task, &source, What::Unread, None, why.to_string()).await?;
            }
            (Owed::WriteBack, Some((referral, _))) => {
                let (task, source) = (Key::new(ResourceType::TASK, &referral.task), referral.source.clone());
                self.conflict(&mut tx, &referral, &task, &source, What::Refused, None, why.to_string()).await?;
            }
            (Owed::Fetch, Some((referral, _))) => {
                let text = format!("What this referral refers to could not be read at the source: {why}.");
                self.end_source(&mut tx, referral, concept(STATUS_REASON, "not-found", &text)).await?;
            }
            (Owed::Deliver, Some((referral, Some(mut relay)))) => {
                let text = "The referral could not be delivered to the organization's server.";
                self.call_off(&mut tx, &referral, &relay, text).await?;
                // A lost answer may have left it there: it is called off there too, when the server can be reached.
                relay.withdrawn = true;
                tx.update_relay(&relay).await?;
                let (task, partner) = (Key::new(ResourceType::TASK, &relay.task), claimed.partner.clone());
                self.conflict(&mut tx, &referral, &task, &partner, What::Refused, None, why.to_string()).await?;
                self.aggregate(&mut tx, referral).await?;
            }
            (Owed::Notify, _) => {
                self.0.counts.given_up.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.tried(&mut tx, claimed, 8).await?;
                self.subscription_failed(&mut tx, &claimed.subject, why, latest).await?;
            }
            _ => {}
        }
        self.commit(tx).await
    }

    /// The referral, and relay, that a delivery is about; its row is locked first.
    pub(super) async fn referral_of(
        &self,
        tx: &mut Tx,
        claimed: &Claimed,
    ) -> Result<Option<(Referral, Option<Relay>)>, Error> {
        let task = Key::new(ResourceType::TASK, &claimed.subject);
        match claimed.kind {
            Owed::Fetch | Owed::Deliver | Owed::WriteBack => Ok(match self.place(tx, &task).await? {
                Place::Source(referral) => Some((referral, None)),
                Place::Relayed(relay, referral) => Some((referral, Some(relay))),
                Place::Other => None,
            }),
            Owed::Collect
            | Owed::Notify
            | Owed::Poll
            | Owed::Subscribe
            | Owed::Discover
            | Owed::Reconcile
            | Owed::Expire => Ok(None),
        }
    }

    /// What went wrong last, for people: `deliver: answered 403`.
    pub async fn troubles(&self) -> Result<Vec<String>, Error> {
        let all = self.store().read().await?.last_errors().await?;
        Ok(all.into_iter().map(|(kind, why)| format!("{kind}: {why}")).collect())
    }

    /// Nothing was to be sent after all.
    pub async fn nothing_owed(&self, claimed: &Claimed) -> Result<(), Error> {
        if claimed.kind == Owed::Notify {
            return self.nothing_to_tell(claimed).await;
        }
        let tx = self.store().begin().await?;
        self.done(tx, claimed).await
    }
}
