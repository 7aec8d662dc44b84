//! When the loop is closed, at which level, and whose turn it is until then. Pure.
//!
//! Levels L0…L4 are those of the status sheet (LP rows): sent, decided, terminal, served, closed. The loop is closed only
//! when the source's Task is terminal with a reason or an outcome **and** there is evidence that the source
//! has it (design §3, D12b).

use std::time::Duration;

use super::status::Status;
use crate::time::Timestamp;

/// How far the loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Left the source.
    L0,
    /// A target said yes or no.
    L1,
    /// Ended, with a reason or an outcome.
    L2,
    /// A service was received.
    L3,
    /// Ended, and the source has the information.
    L4,
}

impl Level {
    /// `L0` … `L4`
    pub fn code(self) -> &'static str {
        match self {
            Level::L0 => "L0",
            Level::L1 => "L1",
            Level::L2 => "L2",
            Level::L3 => "L3",
            Level::L4 => "L4",
        }
    }
}

/// Who has to act next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// The gateway: fetching, delivering.
    Gateway,
    /// The one who referred.
    Source,
    /// A coordinator at the gateway's organization.
    Coordinator,
    /// This target partner.
    Target(String),
    /// Nobody: the loop is closed.
    Nobody,
}

/// What is known about a referral.
#[derive(Debug, Clone)]
pub struct Known {
    /// The status of the source's Task.
    pub source: Status,
    /// Whether it names an outcome.
    pub outcome: bool,
    /// Whether it says why.
    pub reason: bool,
    /// Whether the source has been seen to have the final version.
    pub informed: bool,
    /// Whether the gateway still has to fetch, or gave the referral to a coordinator.
    pub fetched: bool,
    /// Whether a coordinator has to route it.
    pub held: bool,
    /// The relayed Tasks: target partner (none while open), status, since when, whether it reached the target.
    pub relays: Vec<(Option<String>, Status, Timestamp, bool)>,
    /// When the source's Task last changed.
    pub since: Timestamp,
}

/// The level, whose turn it is, and when that turn is due.
pub fn assess(known: &Known) -> (Level, Turn, Option<Timestamp>) {
    let decided = known.relays.iter().any(|(_, status, ..)| !matches!(status, Status::Requested | Status::Draft));
    let served = known.outcome && known.source == Status::Completed;
    // Completion and error need no words; every other ending owes them.
    let speaks = matches!(known.source, Status::Completed | Status::EnteredInError) || known.reason;
    let ended = known.source.is_terminal() && speaks;
    let level = match (ended, known.informed, served, decided) {
        (true, true, ..) => Level::L4,
        (true, false, true, _) => Level::L3,
        (true, false, false, _) => Level::L2,
        (false, _, _, true) => Level::L1,
        (false, _, _, false) => Level::L0,
    };
    let turn = turn(known, ended);
    let due = match &turn {
        Turn::Nobody => None,
        Turn::Gateway => Some(known.since.plus(GATEWAY_TIME)),
        Turn::Source | Turn::Coordinator => Some(known.since.plus(DECIDE_TIME)),
        Turn::Target(_) => {
            let waiting = known.relays.iter().filter(|(_, status, ..)| !status.is_terminal());
            waiting.map(|(_, status, since, _)| since.plus(target_time(*status))).min()
        }
    };
    (level, turn, due)
}

/// The gateway delivers within 15 minutes (`submitted`), everybody else decides within two days, and a service that
/// was accepted is looked at again after 14 days: defaults, until partners agree on their own.
const GATEWAY_TIME: Duration = Duration::from_secs(15 * 60);
const DECIDE_TIME: Duration = Duration::from_secs(2 * 86_400);
const SERVICE_TIME: Duration = Duration::from_secs(14 * 86_400);

fn target_time(status: Status) -> Duration {
    match status {
        Status::Draft | Status::Requested => DECIDE_TIME,
        _ => SERVICE_TIME,
    }
}

fn turn(known: &Known, ended: bool) -> Turn {
    if ended {
        return if known.informed { Turn::Nobody } else { Turn::Source };
    }
    if known.source == Status::Draft {
        return Turn::Source;
    }
    if known.held {
        return Turn::Coordinator;
    }
    if !known.fetched || known.source.is_terminal() {
        return Turn::Gateway;
    }
    match known.relays.iter().find(|(_, status, ..)| !status.is_terminal()) {
        Some((Some(partner), _, _, true)) => Turn::Target(partner.clone()),
        Some((None, ..)) => Turn::Coordinator,
        Some((Some(_), _, _, false)) | None => Turn::Gateway,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            source: Status::Requested,
            outcome: false,
            reason: false,
            informed: false,
            fetched: true,
            held: false,
            relays: vec![(Some("pantry".into()), Status::Requested, Timestamp(0), true)],
            since: Timestamp(0),
        }
    }

    #[test]
    fn levels_and_turns_follow_the_referral() {
        let pantry = Turn::Target("pantry".into());
        let with = |change: &dyn Fn(&mut Known)| {
            let mut known = known();
            change(&mut known);
            let (level, turn, _) = assess(&known);
            (level, turn)
        };
        assert_eq!(with(&|_| {}), (Level::L0, pantry.clone()));
        assert_eq!(with(&|known| known.fetched = false), (Level::L0, Turn::Gateway));
        assert_eq!(with(&|known| known.held = true), (Level::L0, Turn::Coordinator));
        assert_eq!(with(&|known| known.relays[0].3 = false), (Level::L0, Turn::Gateway));
        assert_eq!(with(&|known| known.relays[0].0 = None), (Level::L0, Turn::Coordinator));
        assert_eq!(with(&|known| known.relays[0].1 = Status::Accepted), (Level::L1, pantry));
        let completed = |known: &mut Known| {
            known.source = Status::Completed;
            known.relays[0].1 = Status::Completed;
        };
        assert_eq!(with(&completed), (Level::L2, Turn::Source));
        assert_eq!(
            with(&|known| {
                completed(known);
                known.outcome = true
            }),
            (Level::L3, Turn::Source)
        );
        assert_eq!(
            with(&|known| {
                completed(known);
                known.informed = true
            }),
            (Level::L4, Turn::Nobody)
        );
        let rejected = |known: &mut Known| {
            known.source = Status::Rejected;
            known.reason = true;
        };
        assert_eq!(with(&rejected), (Level::L2, Turn::Source));
        assert_eq!(
            with(&|known| {
                rejected(known);
                known.informed = true
            }),
            (Level::L4, Turn::Nobody)
        );
    }

    #[test]
    fn a_turn_has_a_time() {
        let (_, _, due) = assess(&known());
        assert_eq!(due, Some(Timestamp(0).plus(DECIDE_TIME)));
    }
}
