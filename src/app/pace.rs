//! How often a partner's server is asked: by what is open there, within the guide's limits (G-133…G-135), and spread over
//! time, so that thousands of partners don't coincide.
//!
//! `poll_every` is the pause while anything is open. Something urgent is watched closely, which the guide allows for
//! nothing else; a target where nothing is open is asked hourly. A source is asked at its pause whatever is open: a new
//! referral may wait there. Where push works the round is the net below it, and nothing is asked sooner for urgency.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::App;
use crate::config::Role;
use crate::error::Error;
use crate::fhir::Key;
use crate::store::{Delivery, Kind as Owed, Tx};
use crate::time::Timestamp;

/// The pause while something urgent is open.
const URGENT: Duration = Duration::from_secs(5 * 60);
/// The pause while nothing is open at a target: the longest that the guide wants (G-134).
const IDLE: Duration = Duration::from_secs(60 * 60);
/// Sooner than this nobody is asked but for something urgent (G-135).
pub(super) const SOONEST: Duration = Duration::from_secs(15 * 60);
/// Rounds come due at whole ones of these, where their pause is not about as short itself: what is due together is claimed
/// and recorded together.
const TICK: Duration = Duration::from_millis(250);

/// What is open at a partner's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Something,
    Urgent,
}

impl App {
    /// The pause before this partner's next round, as things stand.
    pub(super) async fn pause(&self, tx: &mut Tx, id: &str) -> Result<Duration, Error> {
        let open = match tx.open_at(id).await? {
            (_, 1..) => Open::Urgent,
            (1.., _) => Open::Something,
            _ => Open::Nothing,
        };
        self.pause_while(tx, id, open).await
    }

    /// The pause while this is open at a partner.
    async fn pause_while(&self, tx: &mut Tx, id: &str, open: Open) -> Result<Duration, Error> {
        let Some(partner) = self.partner(id) else { return Ok(IDLE) };
        let every = partner.fhir.as_ref().map_or(IDLE, |fhir| fhir.poll_every);
        let is_source = partner.roles.contains(&Role::Source);
        let pause = match open {
            Open::Urgent if !is_pushed(tx, id).await? => every.min(URGENT),
            Open::Nothing if !is_source => every.max(IDLE),
            Open::Urgent | Open::Something | Open::Nothing => every,
        };
        Ok(spread(id, pause, self.config().delivery.jitter))
    }

    /// When this partner's next round comes, counted from now.
    pub(super) async fn next_round(&self, tx: &mut Tx, id: &str) -> Result<Timestamp, Error> {
        let pause = self.pause(tx, id).await?;
        Ok(self.after(pause))
    }

    /// When a round comes after this pause from now.
    fn after(&self, pause: Duration) -> Timestamp {
        let next = self.now().plus(pause);
        if pause < TICK * 20 { next } else { whole(next) }
    }

    /// A referral with this request has become open at this partner: its next round comes no later than that wants;
    /// what else is open there had its say before. In a transaction of its own: a round holds its own row first and owes
    /// what it found after, and whoever owes the round does it the other way about. Were this lost, the round would come
    /// at its old time.
    pub(super) async fn hasten(&self, partner: &str, request: &Key) -> Result<(), Error> {
        if self.partner(partner).is_none_or(|partner| partner.fhir.is_none()) {
            return Ok(());
        }
        let mut tx = self.store().begin().await?;
        let open = if tx.is_urgent(&request.id).await? { Open::Urgent } else { Open::Something };
        let due_at = self.after(self.pause_while(&mut tx, partner, open).await?);
        if tx.due_of(Owed::Poll, partner).await?.is_some_and(|due| due <= due_at) {
            return Ok(());
        }
        let (subject, partner) = (partner.to_string(), partner.to_string());
        let lane = super::lane_to(&partner);
        tx.enqueue(&Delivery { kind: Owed::Poll, subject, partner, lane, due_at }).await?;
        self.commit(tx).await
    }
}

/// Whether this partner's server tells us of everything by itself.
async fn is_pushed(tx: &mut Tx, id: &str) -> Result<bool, Error> {
    let subscribed = tx.subscribed(id).await?;
    Ok(!subscribed.is_empty() && subscribed.iter().all(|one| one.state == "active"))
}

/// This time, or the next tick.
fn whole(time: Timestamp) -> Timestamp {
    let tick = i64::try_from(TICK.as_micros()).unwrap_or(1);
    Timestamp((time.0 + tick - 1).div_euclid(tick) * tick)
}

/// A pause that is a partner's own: up to so many percent shorter, or longer where shorter would be too soon.
fn spread(partner: &str, pause: Duration, percent: u32) -> Duration {
    let mut hasher = DefaultHasher::new();
    partner.hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 1_000).unwrap_or(0);
    let by = pause * percent * share / 100_000;
    let shorter = pause.saturating_sub(by);
    if pause >= SOONEST && shorter < SOONEST { pause + by } else { shorter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_comes_at_a_tick_and_never_sooner() {
        for (time, tick) in [(0, 0), (1, 250_000), (250_000, 250_000), (1_999_999, 2_000_000)] {
            assert_eq!(whole(Timestamp(time)), Timestamp(tick), "{time}");
        }
    }

    // G-134, G-135
    #[test]
    fn pauses_are_spread_within_the_limits_and_stay_a_partners_own() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let mut hourly: Vec<Duration> = Vec::new();
        for number in 0..1_000 {
            let id = format!("partner-{number}");
            let hour = spread(&id, minutes(60), 10);
            assert!((minutes(54)..=minutes(60)).contains(&hour), "{hour:?}");
            assert!((minutes(15)..minutes(17)).contains(&spread(&id, minutes(15), 10)));
            assert!((minutes(15)..=minutes(18)).contains(&spread(&id, minutes(16), 10)));
            assert!(spread(&id, minutes(5), 10) <= minutes(5));
            assert_eq!((spread(&id, minutes(60), 10), spread(&id, minutes(60), 0)), (hour, minutes(60)));
            hourly.push(hour);
        }
        // A tenth of an hour has ten times 36 seconds: nowhere does a fifth of them meet.
        for part in 0..10 {
            let from = minutes(54) + Duration::from_secs(36 * part);
            let many = hourly.iter().filter(|one| (from..from + Duration::from_secs(36)).contains(one)).count();
            assert!((50..200).contains(&many), "{many} in part {part}");
        }
    }
}
