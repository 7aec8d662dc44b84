//! `[people]`: who signs in at the console, and for how long.

use std::time::Duration;

use super::reader::Section;
use super::values::{DAY, MINUTE, between};

/// `[people]`
#[derive(Debug, Clone)]
pub struct People {
    /// A session ends when nothing was asked for so long.
    pub session_idle: Duration,
    /// It ends in any case.
    pub session_lifetime: Duration,
}

/// What a person may do here: one role each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PersonRole {
    /// Acts for the gateway's organization.
    Coordinator,
    /// Acts for this partner, as source and target alone.
    Staff(String),
    /// Runs this gateway.
    Administrator,
    /// Reads who saw what.
    Auditor,
}

impl PersonRole {
    /// The role's word, and the partner's id where there is one.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            PersonRole::Coordinator => ("coordinator", ""),
            PersonRole::Staff(partner) => ("staff", partner),
            PersonRole::Administrator => ("administrator", ""),
            PersonRole::Auditor => ("auditor", ""),
        }
    }

    /// The role of these words; a partner belongs to staff, and to nobody else.
    pub fn read(role: &str, partner: &str) -> Option<PersonRole> {
        match (role, partner) {
            ("coordinator", "") => Some(PersonRole::Coordinator),
            ("staff", partner) if !partner.is_empty() => Some(PersonRole::Staff(partner.to_string())),
            ("administrator", "") => Some(PersonRole::Administrator),
            ("auditor", "") => Some(PersonRole::Auditor),
            _ => None,
        }
    }
}

pub(super) fn people(s: &Section<'_, '_>) -> Option<People> {
    let idle = s.read("session_idle", |t| between(t, MINUTE..=DAY, "must be between 1m and 24h"));
    let lifetime = s.read("session_lifetime", |t| between(t, MINUTE..=DAY * 7, "must be between 1m and 7d"));
    Some(People { session_idle: idle?, session_lifetime: lifetime? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_reads_back_as_written() {
        let staff = PersonRole::Staff("pantry".into());
        for role in [PersonRole::Coordinator, staff, PersonRole::Administrator, PersonRole::Auditor] {
            let (word, partner) = role.words();
            assert_eq!(PersonRole::read(word, partner), Some(role.clone()));
        }
        for (word, partner) in [("staff", ""), ("auditor", "pantry"), ("operator", ""), ("", "")] {
            assert_eq!(PersonRole::read(word, partner), None, "{word} {partner}");
        }
    }
}
