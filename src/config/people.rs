//! `[people]`: who signs in at the console, and for how long.

use std::time::Duration;

use super::reader::Section;
use super::values::{DAY, MINUTE, between, fault, fhir_id, partner_url, text};
use super::{Partner, Role, Secret};

/// `[people]`
#[derive(Debug, Clone)]
pub struct People {
    /// A session ends when nothing was asked for so long.
    pub session_idle: Duration,
    /// It ends in any case.
    pub session_lifetime: Duration,
    /// Where people sign in; none: by accounts of ours.
    pub provider: Option<Provider>,
}

/// `people.provider`
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its name, an http(s) address, as it writes it.
    pub issuer: String,
    /// Our client id there.
    pub client_id: String,
    /// Our secret there.
    pub client_secret: Option<Secret>,
    /// What is asked for; with `openid`.
    pub scope: String,
    /// The claim that holds roles.
    pub roles_claim: String,
    /// Its values and what they mean here, in the file's order; not empty.
    pub roles: Vec<(String, PersonRole)>,
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

pub(super) fn people(s: &Section<'_, '_>, private_allowed: bool, partners: &[Option<Partner>]) -> Option<People> {
    let idle = s.read("session_idle", |t| between(t, MINUTE..=DAY, "must be between 1m and 24h"));
    let lifetime = s.read("session_lifetime", |t| between(t, MINUTE..=DAY * 7, "must be between 1m and 7d"));
    let provider = s.table("provider").map(|s| provider(&s, private_allowed, partners));
    let provider = match provider {
        Some(provider) => Some(provider?),
        None => None,
    };
    Some(People { session_idle: idle?, session_lifetime: lifetime?, provider })
}

fn provider(s: &Section<'_, '_>, private_allowed: bool, partners: &[Option<Partner>]) -> Option<Provider> {
    // An issuer is compared letter by letter: it is kept as written, its last slash too.
    let issuer = s.read("issuer", |t| partner_url(t, private_allowed).map(|_| t.to_owned()));
    let (client_id, client_secret) = (s.read("client_id", text), s.read("client_secret", |t| text(t).map(Secret)));
    let scope = s.read("scope", |t| match t.split(' ').any(|one| one == "openid") {
        true => Ok(t.to_owned()),
        false => fault("must hold openid"),
    });
    let roles_claim = s.read("roles_claim", text);
    let roles: Vec<_> = s.tables("roles").iter().map(|s| role(s, partners)).collect();
    if roles.is_empty() {
        s.fault("roles", "must map at least one value to a role");
    }
    Some(Provider {
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        scope: scope?,
        roles_claim: roles_claim?,
        roles: roles.into_iter().collect::<Option<_>>()?,
    })
}

fn role(s: &Section<'_, '_>, partners: &[Option<Partner>]) -> Option<(String, PersonRole)> {
    let (value, word, partner) = (s.read("value", text), s.read("role", text), s.read("partner", fhir_id));
    let (word, partner) = (word?, partner.unwrap_or_default());
    let role = PersonRole::read(&word, &partner);
    if role.is_none() {
        s.fault("role", "must be coordinator, administrator, auditor, or staff with a partner");
    }
    let acts = |one: &Partner| one.roles.iter().any(|role| matches!(role, Role::Source | Role::Target));
    // A partner that has faults of its own is not in the list: no fault may follow from them.
    let whole = partners.iter().all(Option::is_some);
    if whole && !partner.is_empty() && !partners.iter().flatten().any(|one| one.id == partner && acts(one)) {
        s.fault("partner", "must be a partner that is a source or a target");
    }
    Some((value?, role?))
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
