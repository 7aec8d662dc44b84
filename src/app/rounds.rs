//! A round of polling from its beginning to its end: how far it has come, and what the server's clock says of it.
//!
//! Promises that a round which is interrupted, by a fault there or by the end of this process, goes on where it was, as
//! long as the server still knows the place, and that the cursor moves when all of it has been read. A server's clock may
//! be wrong, and may be set right: what changed meanwhile is asked for all the same.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::{App, Claimed, PollPlan};
use crate::error::Error;
use crate::store::{Outcome, Tx};
use crate::time::Timestamp;

/// How far a cursor overlaps with what was read before (design D15b): servers commit a change after the time that they
/// give it, and find it later still.
const OVERLAP: Duration = Duration::from_secs(60);
/// Rounds that are recorded in one transaction, at most.
const TOGETHER: usize = 64;
/// Tries in a row that come no further than the one before; then the round begins anew.
const STUCK: u64 = 3;

/// How far a round has come: what is to be asked for next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The search that is being read.
    pub search: String,
    /// Where its next page is; none: at its beginning.
    pub next: Option<String>,
    /// What the server takes for its own base.
    pub inside: Option<String>,
    /// The pages of this search that were read.
    pub pages: usize,
    /// The server's own time at the beginning of the round.
    pub time: Option<Timestamp>,
    /// How often it was tried from here in vain.
    pub stuck: u64,
}

impl Progress {
    pub(super) fn text(&self) -> String {
        json!({"search": self.search, "next": self.next, "inside": self.inside, "pages": self.pages,
            "time": self.time.map(|time| time.to_string()), "stuck": self.stuck})
        .to_string()
    }

    pub(super) fn parse(text: &str) -> Option<Progress> {
        let value: Value = serde_json::from_str(text).ok()?;
        let said = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_string);
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        Some(Progress {
            search: said("search")?,
            next: said("next"),
            inside: said("inside"),
            pages: usize::try_from(number("pages")?).ok()?,
            time: said("time").and_then(|time| Timestamp::parse(&time)),
            stuck: number("stuck")?,
        })
    }
}

/// A round that was read to its end.
#[derive(Debug)]
pub(super) struct Ended {
    claimed: Claimed,
    /// From when the next one asks.
    cursor: Option<Timestamp>,
    /// Whether the next one is due at once.
    at_once: bool,
}

impl App {
    /// A round was read to its end; the server's own time at its beginning was this. It is recorded with others, by the
    /// next look for what is due: were it lost until then, the server would be asked the same once more.
    pub fn round_ended(&self, claimed: &Claimed, plan: &PollPlan, server_time: Option<Timestamp>) {
        let mut cursor = server_time.map(|time| time.minus(OVERLAP));
        // Its clock was set back: what changed after that looks older than what was asked for.
        let set_back = plan.since.is_some_and(|since| server_time.is_some_and(|time| time < since));
        if set_back {
            let unheard = plan.heard_at.map_or(Duration::ZERO, |heard| self.now().since(heard));
            cursor = cursor.map(|cursor| cursor.minus(unheard));
            tracing::warn!(
                partner = claimed.partner,
                "the clock of a partner's server was set back; it is asked again"
            );
        }
        let mut ended = self.ended_rounds();
        ended.push(Ended { claimed: claimed.clone(), cursor, at_once: set_back });
        if ended.len().is_multiple_of(TOGETHER) {
            self.wake();
        }
    }

    /// A round has been read for long, and goes on at once in another try.
    pub async fn round_goes_on(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if tx.finish(claimed, &Outcome::Again(self.now())).await? {
            tx.follows(&claimed.partner).await?;
        }
        self.commit(tx).await
    }

    /// A round broke off, further than the try before: its server is not away, and is asked again soon.
    pub async fn round_got_on(&self, claimed: &Claimed) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if tx.holds(claimed).await? {
            tx.follows(&claimed.partner).await?;
        }
        self.commit(tx).await
    }

    /// A round could not be read further from where an earlier try had come to; `dead`: the server knows the place no more.
    pub async fn round_stuck(&self, claimed: &Claimed, progress: &Progress, dead: bool) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if tx.holds(claimed).await? {
            let stuck = progress.stuck + 1;
            let kept = (!dead && stuck < STUCK).then(|| Progress { stuck, ..progress.clone() }.text());
            tx.put_round(&claimed.partner, kept.as_deref()).await?;
        }
        self.commit(tx).await
    }

    fn ended_rounds(&self) -> MutexGuard<'_, Vec<Ended>> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many rounds wait to be recorded.
    pub fn rounds_waiting(&self) -> usize {
        self.ended_rounds().len()
    }

    /// Rounds that are to be recorded now; in one order, whoever records others beside us.
    pub(super) fn rounds_to_record(&self) -> Vec<Ended> {
        let mut waiting = self.ended_rounds();
        let many = waiting.len().min(TOGETHER);
        let mut some: Vec<Ended> = waiting.drain(..many).collect();
        some.sort_by(|one, other| one.claimed.partner.cmp(&other.claimed.partner));
        some
    }

    pub(super) async fn record_rounds(&self, tx: &mut Tx, rounds: &[Ended]) -> Result<(), Error> {
        for Ended { claimed, cursor, at_once } in rounds {
            let next = if *at_once { self.now() } else { self.next_round(tx, &claimed.partner).await? };
            if !tx.finish(claimed, &Outcome::Again(next)).await? {
                continue;
            }
            // In milliseconds: no server of the field tells more, and not every one reads more.
            let cursor = cursor.map(|time| Timestamp(time.0 / 1_000 * 1_000).to_string());
            tx.followed(&claimed.partner, cursor.as_deref()).await?;
            tx.try_again(&claimed.partner, self.now(), false).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_it_was_written() {
        let begun = Progress {
            search: "Task?owner=Organization/hub".into(),
            next: None,
            inside: None,
            pages: 0,
            time: None,
            stuck: 0,
        };
        let further = Progress {
            next: Some("https://ehr.test/fhir?page=2".into()),
            inside: Some("http://inside/fhir".into()),
            pages: 7,
            time: Timestamp::parse("2027-01-15T08:00:00.123Z"),
            stuck: 2,
            ..begun.clone()
        };
        for one in [begun, further] {
            assert_eq!(Progress::parse(&one.text()), Some(one));
        }
        for nonsense in ["", "{}", "[]", r#"{"search": "Task"}"#] {
            assert_eq!(Progress::parse(nonsense), None, "{nonsense}");
        }
    }
}
