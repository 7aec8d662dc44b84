//! The status of a referral Task and the steps between statuses: the guide's diagram as one match (G-063, G-064).
//!
//! `received` and `ready` of older peers are read as `requested` and `accepted` and never sent (design D4, G-188).

use std::fmt;

/// `Task.status` of a referral (G-038).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not yet ready to act on.
    Draft,
    /// Someone is asked to act.
    Requested,
    /// The target agreed.
    Accepted,
    /// The target declined before doing anything.
    Rejected,
    /// Called off, by either side.
    Cancelled,
    /// The target has begun.
    InProgress,
    /// Begun and paused.
    OnHold,
    /// Tried, and could not be done.
    Failed,
    /// Done.
    Completed,
    /// Should never have existed.
    EnteredInError,
}

use Status::{Accepted, Cancelled, Completed, Draft, EnteredInError, Failed, InProgress, OnHold, Rejected, Requested};

impl Status {
    /// Every status, in the order of the guide's table.
    pub const ALL: [Status; 10] =
        [Draft, Requested, Accepted, Rejected, Cancelled, InProgress, OnHold, Failed, Completed, EnteredInError];

    /// Reads a code; the two of older peers as what they mean.
    pub fn parse(code: &str) -> Option<Status> {
        match code {
            "received" => Some(Requested),
            "ready" => Some(Accepted),
            _ => Status::ALL.into_iter().find(|status| status.code() == code),
        }
    }

    /// The code of <http://hl7.org/fhir/task-status>.
    pub fn code(self) -> &'static str {
        match self {
            Draft => "draft",
            Requested => "requested",
            Accepted => "accepted",
            Rejected => "rejected",
            Cancelled => "cancelled",
            InProgress => "in-progress",
            OnHold => "on-hold",
            Failed => "failed",
            Completed => "completed",
            EnteredInError => "entered-in-error",
        }
    }

    /// Whether nothing but `entered-in-error` can follow.
    pub fn is_terminal(self) -> bool {
        match self {
            Rejected | Cancelled | Failed | Completed | EnteredInError => true,
            Draft | Requested | Accepted | InProgress | OnHold => false,
        }
    }

    /// Whether it ends the referral without a service, and so owes a reason (G-047, design D4).
    pub fn needs_reason(self) -> bool {
        matches!(self, Rejected | Cancelled | Failed)
    }

    /// The diagram: whether this step may be taken.
    pub fn may_become(self, next: Status) -> bool {
        match (self, next) {
            (EnteredInError, _) => false,
            (_, EnteredInError) => true,
            (Draft, Requested) => true,
            (Requested, Accepted | Rejected | Cancelled) => true,
            (Accepted, InProgress | OnHold | Completed | Failed | Cancelled) => true,
            (InProgress, OnHold | Completed | Failed | Cancelled) => true,
            (OnHold, InProgress | Completed | Failed | Cancelled) => true,
            (Draft | Requested | Accepted | InProgress | OnHold, _) => false,
            (Rejected | Cancelled | Failed | Completed, _) => false,
        }
    }

    /// The shortest legal way from here to there, without the start; `None` if there is none. A partner that was
    /// polled too late to see a step, and one that we write to, gets each step as a version of its own.
    pub fn way_to(self, end: Status) -> Option<Vec<Status>> {
        if self == end {
            return Some(Vec::new());
        }
        let mut ways: Vec<Vec<Status>> = vec![vec![self]];
        let mut seen = vec![self];
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in &ways {
                let last = way.last().copied().unwrap_or(self);
                for next in Status::ALL.into_iter().filter(|next| last.may_become(*next)) {
                    if next == EnteredInError && end != EnteredInError || seen.contains(&next) {
                        continue;
                    }
                    let mut way = way.clone();
                    way.push(next);
                    if next == end {
                        way.remove(0);
                        return Some(way);
                    }
                    seen.push(next);
                    longer.push(way);
                }
            }
            ways = longer;
        }
        None
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // G-063, G-064: the whole table, written out once more.
    #[test]
    fn the_diagram_is_the_guides() {
        let allowed = [
            ("draft", vec!["requested"]),
            ("requested", vec!["accepted", "rejected", "cancelled"]),
            ("accepted", vec!["in-progress", "on-hold", "completed", "failed", "cancelled"]),
            ("in-progress", vec!["on-hold", "completed", "failed", "cancelled"]),
            ("on-hold", vec!["in-progress", "completed", "failed", "cancelled"]),
            ("rejected", vec![]),
            ("cancelled", vec![]),
            ("failed", vec![]),
            ("completed", vec![]),
        ];
        for (from, nexts) in allowed {
            for to in Status::ALL {
                let expected = nexts.contains(&to.code()) || to == EnteredInError;
                assert_eq!(Status::parse(from).unwrap().may_become(to), expected, "{from} -> {to}");
            }
        }
        assert!(Status::ALL.into_iter().all(|to| !EnteredInError.may_become(to)));
    }

    // G-188
    #[test]
    fn older_codes_read_as_what_they_mean() {
        assert_eq!(
            (Status::parse("received"), Status::parse("ready"), Status::parse("done")),
            (Some(Requested), Some(Accepted), None)
        );
    }

    #[test]
    fn a_missed_step_is_made_up() {
        assert_eq!(Requested.way_to(Completed), Some(vec![Accepted, Completed]));
        assert_eq!(Requested.way_to(InProgress), Some(vec![Accepted, InProgress]));
        assert_eq!(Draft.way_to(Cancelled), Some(vec![Requested, Cancelled]));
        assert_eq!(Accepted.way_to(Rejected), None);
        assert_eq!(Completed.way_to(InProgress), None);
    }

    fn any_status() -> impl Strategy<Value = Status> {
        proptest::sample::select(Status::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn nothing_leaves_a_terminal_state(from in any_status(), to in any_status()) {
            if from.is_terminal() && to != EnteredInError {
                prop_assert!(!from.may_become(to));
            }
        }

        #[test]
        fn every_way_is_made_of_legal_steps(from in any_status(), to in any_status()) {
            if let Some(way) = from.way_to(to) {
                let mut at = from;
                for next in way {
                    prop_assert!(at.may_become(next));
                    at = next;
                }
                prop_assert_eq!(at, to);
            }
        }
    }
}
