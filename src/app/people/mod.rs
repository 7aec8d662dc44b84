//! People: who signed in, for how long, and as whom they act.
//!
//! A session is the same [`Identity`] that a token is, so that grants, roles and the record hold for people as they do
//! for partners. Staff act as their partner, as source and target alone; everybody else acts for the gateway's
//! organization (design D11a). Promises that of a session only the SHA-256 is kept, that signing in gives a new one, and
//! that what the configuration no longer says (a provider, a partner, a role) ends with its restart. Leaves out cookies and pages, which are
//! the door's. <https://cheatsheetseries.owasp.org/cheatsheets/Session_Management_Cheat_Sheet.html>

pub mod accounts;
mod back_channel_logout;
mod lockout;
mod password;
mod provider;
mod totp;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::sealing::sha256;
use super::{App, Identity};
use crate::config::{Partner, PersonRole, Role};
use crate::error::Error;
use crate::fhir::ResourceType;
use crate::fhir::scope::Scopes;
use crate::id;
use crate::store::{self, Access, Tx};

pub use password::Passwords;
pub(super) use provider::Known;
pub use provider::{Arrived, Back, Begun};
pub use totp::code_now;

/// A session's use is noted at most this often.
const NOTED: Duration = Duration::from_secs(60);

/// Somebody who signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Who, on record: an account's name, or `issuer|sub`.
    pub subject: String,
    /// What the person is called.
    pub name: String,
    /// What the person may do.
    pub role: PersonRole,
}

/// Where a request for signing in or out comes from.
#[derive(Debug, Clone, Default)]
pub struct Visit {
    /// The X-Request-Id.
    pub request: String,
    /// The other end.
    pub address: Option<IpAddr>,
    /// The cookie that was shown, if any.
    pub cookie: Option<String>,
}

/// Somebody who has signed in.
#[derive(Debug, Clone)]
pub struct Session {
    /// Who.
    pub person: Person,
    /// As whom the person acts.
    pub identity: Identity,
    /// What a form of this session must carry.
    pub form_token: String,
}

impl App {
    /// Who holds this cookie, while the session is good.
    pub async fn session(&self, cookie: &str) -> Result<Option<Session>, Error> {
        let hash = sha256(cookie);
        let Some(kept) = self.store().read().await?.session(&hash).await? else { return Ok(None) };
        let (now, idle) = (self.now(), self.config().people.session_idle);
        if now >= kept.expires_at || now >= kept.seen_at.plus(idle) {
            return Ok(None);
        }
        let store::Session { subject, name, role, partner, seen_at, .. } = kept;
        let Some(role) = PersonRole::read(&role, &partner) else { return Ok(None) };
        let person = Person { subject, name, role };
        let Some(identity) = self.identity_of(&person) else { return Ok(None) };
        if now >= seen_at.plus(NOTED) {
            let mut tx = self.store().begin().await?;
            tx.touch_session(&hash).await?;
            tx.commit().await?;
        }
        Ok(Some(Session { person, identity, form_token: sha256(&format!("form:{cookie}")) }))
    }

    /// Signs out; whoever was not signed in is no more so than before.
    pub async fn sign_out(&self, visit: &Visit) -> Result<(), Error> {
        let Some(cookie) = &visit.cookie else { return Ok(()) };
        let mut tx = self.store().begin().await?;
        let hash = sha256(cookie);
        let Some(kept) = tx.session(&hash).await? else { return Ok(()) };
        tx.end_session(&hash).await?;
        let acting = PersonRole::read(&kept.role, &kept.partner).map(|role| self.house_of(&role).to_string());
        tx.audit(&[self.visited("logout", 0, acting.unwrap_or_default(), Some(kept.subject), visit)]).await?;
        tx.commit().await
    }

    /// Gives a person a session, in place of the one whose cookie was shown; what its cookie holds. `sid` is the
    /// SHA-256 of what the provider calls it, or empty.
    async fn open_session(&self, tx: &mut Tx, person: &Person, sid: &str, visit: &Visit) -> Result<String, Error> {
        if let Some(before) = &visit.cookie {
            tx.end_session(&sha256(before)).await?;
        }
        let (cookie, now) = (id::secret(), self.now());
        let (role, partner) = person.role.words();
        tx.add_session(&store::Session {
            hash: sha256(&cookie),
            subject: person.subject.clone(),
            name: person.name.clone(),
            role: role.to_string(),
            partner: partner.to_string(),
            sid: sid.to_string(),
            seen_at: now,
            expires_at: now.plus(self.config().people.session_lifetime),
        })
        .await?;
        let acting = self.house_of(&person.role).to_string();
        tx.audit(&[self.visited("login", 0, acting, Some(person.subject.clone()), visit)]).await?;
        Ok(cookie)
    }

    /// Whether the configuration still has it so: the provider, and the role somebody may get there; or accounts.
    fn stands(&self, person: &Person) -> bool {
        let issuer = person.subject.split_once('|').map(|(issuer, _)| issuer);
        match &self.config().people.provider {
            Some(provider) => {
                let mapped = provider.roles.iter().any(|(_, role)| *role == person.role);
                issuer == Some(provider.issuer.as_str()) && mapped
            }
            None => issuer.is_none(),
        }
    }

    /// As whom a person acts; none when the configuration has changed, or there is no such partner any more.
    fn identity_of(&self, person: &Person) -> Option<Identity> {
        if !self.stands(person) {
            return None;
        }
        let (partner, scopes) = match &person.role {
            PersonRole::Staff(id) => {
                let mut partner = Partner::clone(self.partner(id)?);
                partner.roles.retain(|role| matches!(role, Role::Source | Role::Target));
                let scopes = self.configured_scopes(id);
                (Some(partner).filter(|partner| !partner.roles.is_empty())?, scopes)
            }
            PersonRole::Coordinator => (self.house(Role::Coordinator), Arc::new(Scopes::all())),
            PersonRole::Administrator => (self.house(Role::Operator), Arc::new(Scopes::all())),
            // Of what our organization may see, the record and nothing else.
            PersonRole::Auditor => {
                (self.house(Role::Auditor), Arc::new(Scopes::parse(["system/AuditEvent.rs"], self.own())))
            }
        };
        Some(Identity { partner: Arc::new(partner), scopes, token: None, person: Some(person.subject.clone()) })
    }

    /// Our own organization, in one role.
    fn house(&self, role: Role) -> Partner {
        let gateway = &self.config().gateway;
        Partner::new(gateway.id.clone(), gateway.name.clone(), vec![role])
    }

    /// The organization that a person acts for.
    fn house_of<'a>(&'a self, role: &'a PersonRole) -> &'a str {
        match role {
            PersonRole::Staff(partner) => partner,
            PersonRole::Coordinator | PersonRole::Administrator | PersonRole::Auditor => self.gateway(),
        }
    }

    /// A sign-in, a sign-out or a failure, as it goes on record.
    fn visited(
        &self,
        action: &'static str,
        outcome: i64,
        acting: String,
        who: Option<String>,
        visit: &Visit,
    ) -> Access {
        Access {
            partner: acting,
            action,
            kind: Some(ResourceType::ORGANIZATION),
            request: visit.request.clone(),
            outcome,
            address: visit.address.map(|address| address.to_string()),
            person: who,
            ..Access::default()
        }
    }
}
