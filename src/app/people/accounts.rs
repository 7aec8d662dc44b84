//! Accounts of our own, where no identity provider is: a name, a password and a one-time code, all three at once.
//!
//! Promises that whoever guesses is told the same whatever was wrong, at the same cost, also of a name that nobody has;
//! that a code counts once; that a new password, another role or the end of an account ends its sessions; and that each
//! of these goes on record in its own transaction. Accounts are kept from the command line. <https://cheatsheetseries.owasp.org/cheatsheets/Authentication_Cheat_Sheet.html>

use super::lockout::{Counted, Try};
use super::{Person, Visit, password, totp};
use crate::app::App;
use crate::config::{Config, PersonRole};
use crate::error::{Error, Kind};
use crate::fhir::ResourceType;
use crate::fhir::query;
use crate::store::{Access, Account, Store, Tx};

/// Longest name of an account.
const LONGEST_NAME: usize = 64;

/// What was typed to sign in.
pub struct SignIn {
    /// The account's name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// The one-time code, or a recovery code.
    pub code: String,
}

/// What a person needs to sign in, shown once.
#[derive(Debug, Clone)]
pub struct Given {
    /// What an authenticator reads.
    pub authenticator: String,
    /// Codes for when it is lost, each once.
    pub recovery: Vec<String>,
}

/// Which proof of a code is used up by a sign-in.
enum Proof {
    Step(i64),
    Recovery(Vec<String>),
}

impl App {
    /// Signs a person in by an account; what the session's cookie holds, or none: something was wrong, or there were too
    /// many tries.
    pub async fn sign_in(&self, typed: &SignIn, visit: &Visit) -> Result<Option<String>, Error> {
        if self.config().people.provider.is_some() {
            return Err(Error::new(Kind::NotFound, "People sign in at their identity provider here."));
        }
        let name = typed.name.trim().to_lowercase();
        let counted = Counted::new(&name, visit.address);
        let tried = self.count_try(&counted).await?;
        let found = self.store().read().await?.account(&name).await?;
        let acting = |account: &Account| {
            let role = PersonRole::read(&account.role, &account.partner);
            role.map(|role| self.house_of(&role).to_string()).unwrap_or_default()
        };
        // A name that nobody has is not put on record: it may be a password.
        let (house, who) = found.as_ref().map(|one| (acting(one), Some(one.name.clone()))).unwrap_or_default();
        let in_vain = |action| self.visited(action, 4, house.clone(), who.clone(), visit);
        let last = match tried {
            Try::Locked => {
                self.0.recorder.record(in_vain("login")).await?;
                return Ok(None);
            }
            Try::Counted { last } => last,
        };
        let account = found.map_or_else(|| self.nobody(), Ok)?;
        let fits = self.0.passwords.verify(&typed.password, &account.password).await?;
        let secret = self.0.seal.open(&place(&account.name), &account.secret)?;
        let proof = self.proof(&account, &secret, &typed.code);
        if let (true, Some(proof)) = (fits, proof)
            && let Some(cookie) = self.enter(&account, proof, &counted, visit).await?
        {
            return Ok(Some(cookie));
        }
        self.0.recorder.record(in_vain(if last { "lockout" } else { "login" })).await?;
        Ok(None)
    }

    /// What this code proves.
    fn proof(&self, account: &Account, secret: &str, code: &str) -> Option<Proof> {
        if let Some(step) = totp::step_of(secret, code, self.now()) {
            return Some(Proof::Step(step));
        }
        let hash = totp::recovery_hash(code);
        let left: Vec<String> = account.recovery.iter().filter(|one| **one != hash).cloned().collect();
        (left.len() < account.recovery.len()).then_some(Proof::Recovery(left))
    }

    /// Uses the proof up and opens the session, in one transaction; none when the proof was used, or the account has
    /// changed meanwhile.
    async fn enter(
        &self,
        account: &Account,
        proof: Proof,
        counted: &Counted,
        visit: &Visit,
    ) -> Result<Option<String>, Error> {
        let Some(role) = PersonRole::read(&account.role, &account.partner) else { return Ok(None) };
        let person = Person { subject: account.name.clone(), name: account.name.clone(), role };
        if self.identity_of(&person).is_none() {
            return Ok(None);
        }
        let mut tx = self.store().begin().await?;
        let first = match &proof {
            Proof::Step(step) => tx.use_step(&account.name, *step).await?,
            Proof::Recovery(left) => tx.use_recovery(&account.name, &account.recovery, left).await?,
        };
        let now = tx.account(&account.name).await?;
        let same = |now: &Account| now.password == account.password && now.role == account.role;
        if !first || !now.as_ref().is_some_and(same) {
            return Ok(None);
        }
        App::forgive(&mut tx, counted).await?;
        let cookie = self.open_session(&mut tx, &person, "", visit).await?;
        tx.commit().await?;
        Ok(Some(cookie))
    }

    /// What stands in for an account that is not there, so that looking at it costs the same.
    fn nobody(&self) -> Result<Account, Error> {
        let (name, secret) = (String::new(), self.0.seal.seal(&place(""), &totp::secret())?);
        let (role, partner, recovery) = (String::new(), String::new(), Vec::new());
        Ok(Account { name, role, partner, password: password::nobodys(), secret, step: 0, recovery })
    }
}

/// Where an account's secret is sealed for.
fn place(name: &str) -> String {
    format!("account/{name}")
}

/// Adds an account. For the command line, as is all that follows.
pub async fn add(store: &Store, config: &Config, name: &str, role: &PersonRole, typed: &str) -> Result<Given, Error> {
    check_name(name)?;
    check_role(config, role)?;
    let (mut account, given) = made(store, config, name, typed).await?;
    let (word, partner) = role.words();
    (account.role, account.partner) = (word.to_string(), partner.to_string());
    let mut tx = store.begin().await?;
    if !tx.add_account(&account).await? {
        return Err(Error::conflict("There is an account of this name."));
    }
    on_record(&mut tx, config, "user-added", &account).await?;
    tx.commit().await?;
    Ok(given)
}

/// Gives an account another password, another one-time secret and other recovery codes, and lets it try again.
pub async fn reset(store: &Store, config: &Config, name: &str, typed: &str) -> Result<Given, Error> {
    let (made, given) = made(store, config, name, typed).await?;
    let mut tx = store.begin().await?;
    let before = tx.account(name).await?.ok_or_else(unknown)?;
    tx.remove_account(name).await?;
    let now = Account { role: before.role, partner: before.partner, ..made };
    tx.add_account(&now).await?;
    on_record(&mut tx, config, "user-reset", &now).await?;
    tx.forget_failures(&super::sha256(&format!("name:{name}"))).await?;
    tx.end_sessions(name).await?;
    tx.commit().await?;
    Ok(given)
}

/// Gives an account another role.
pub async fn set_role(store: &Store, config: &Config, name: &str, role: &PersonRole) -> Result<(), Error> {
    check_role(config, role)?;
    let (word, partner) = role.words();
    let mut tx = store.begin().await?;
    let before = tx.account(name).await?.ok_or_else(unknown)?;
    tx.remove_account(name).await?;
    let now = Account { role: word.to_string(), partner: partner.to_string(), ..before };
    tx.add_account(&now).await?;
    on_record(&mut tx, config, "user-role", &now).await?;
    tx.end_sessions(name).await?;
    tx.commit().await
}

/// Removes an account. The record of what its holder did stays.
pub async fn remove(store: &Store, config: &Config, name: &str) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    let before = tx.account(name).await?.ok_or_else(unknown)?;
    tx.remove_account(name).await?;
    on_record(&mut tx, config, "user-removed", &before).await?;
    tx.end_sessions(name).await?;
    tx.commit().await
}

/// Names and roles.
pub async fn list(store: &Store) -> Result<Vec<(String, String, String)>, Error> {
    let accounts = store.read().await?.accounts().await?;
    Ok(accounts.into_iter().map(|one| (one.name, one.role, one.partner)).collect())
}

/// A change of an account, with the role it leaves; who typed it, the machine knows.
async fn on_record(tx: &mut Tx, config: &Config, action: &'static str, account: &Account) -> Result<(), Error> {
    let role = format!("{} {}", account.role, account.partner);
    let changed = Access {
        partner: config.gateway.id.clone(),
        action,
        kind: Some(ResourceType::ORGANIZATION),
        query: Some(role.trim_end().to_string()),
        person: Some(account.name.clone()),
        ..Access::default()
    };
    tx.audit(&[changed]).await
}

/// An account without a role, and what its holder needs.
async fn made(store: &Store, config: &Config, name: &str, typed: &str) -> Result<(Account, Given), Error> {
    password::check(name, typed)?;
    let secret = totp::secret();
    let recovery = totp::recovery_codes();
    let account = Account {
        name: name.to_string(),
        role: String::new(),
        partner: String::new(),
        password: password::hash(typed)?,
        secret: App::seal(config, store).await?.seal(&place(name), &secret)?,
        step: 0,
        recovery: recovery.iter().map(|code| totp::recovery_hash(code)).collect(),
    };
    let pairs = [("secret", secret.as_str()), ("issuer", &config.gateway.name)];
    Ok((account, Given { authenticator: query::link(&format!("otpauth://totp/{name}"), pairs), recovery }))
}

fn unknown() -> Error {
    Error::new(Kind::NotFound, "There is no account of this name.")
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@".contains(&byte);
    if !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::invalid("name", "A name has 1 to 64 letters a to z, digits, and any of . _ - @"))
}

/// Staff need a partner that is a source or a target.
fn check_role(config: &Config, role: &PersonRole) -> Result<(), Error> {
    use crate::config::Role;
    match role {
        PersonRole::Coordinator | PersonRole::Administrator | PersonRole::Auditor => Ok(()),
        PersonRole::Staff(id) => {
            let acts = |role: &Role| matches!(role, Role::Source | Role::Target);
            let known = config.partners.iter().any(|one| one.id == *id && one.roles.iter().any(acts));
            known.then_some(()).ok_or_else(|| {
                Error::invalid("partner", "Staff need a configured partner that is a source or a target.")
            })
        }
    }
}
