//! Signing out from afar: the identity provider says that somebody's session has ended there, and ours ends with it.
//!
//! Promises that a logout token counts only if the provider's key signed it, for us, now, and once; that an ID token is
//! none; and that the sessions have ended, and that is on record, when the provider gets its answer. Whoever can't be
//! told apart by a session's name loses all of that person's.
//! <https://openid.net/specs/openid-connect-backchannel-1_0.html>

use super::provider::{SKEW, of_provider};
use super::{Visit, sha256};
use crate::app::App;
use crate::config::{PersonRole, Provider};
use crate::error::{Error, Kind};
use crate::jwt::{Claims, ProviderToken};
use crate::time::Timestamp;

/// What makes a token one for logging out.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// Longest `jti`.
const LONGEST_JTI: usize = 256;

impl App {
    /// Ends the sessions that a logout token names; how many there were.
    pub async fn back_channel_logout(&self, token: &str, visit: &Visit) -> Result<usize, Error> {
        let provider = self.provider()?;
        let known = self.provider_says(provider).await?;
        let read = ProviderToken::read(token).map_err(refused)?;
        // A provider's other tokens say what they are, too (RFC 8725 §3.11); older ones call this one a JWT or nothing.
        let fits = |typ: &str| ["logout+jwt", "jwt"].iter().any(|one| typ.eq_ignore_ascii_case(one));
        if read.typ.as_deref().is_some_and(|typ| !fits(typ.trim_start_matches("application/"))) {
            return Err(refused("its typ is another token's"));
        }
        let keys = self.provider_keys(&known, &read).await;
        let keys = keys.map_err(|why| Error::unavailable(format!("the identity provider's keys: {why}")))?;
        let claims = read.verify(&keys).map_err(refused)?;
        self.check_claims(provider, &claims).map_err(refused)?;
        let jti = about_logout(&claims).map_err(refused)?;
        let expires = claims.seconds("exp").unwrap_or_default().saturating_add(2 * SKEW);
        let mut tx = self.store().begin().await?;
        // In one table with what partners show: an issuer is an address, and no partner's id is one.
        if !tx.use_assertion(&provider.issuer, jti, Timestamp::from_seconds(expires)).await? {
            return Err(refused("its jti was used before"));
        }
        let (sub, sid) = named(provider, &claims).map_err(refused)?;
        let ended = match (&sub, &sid) {
            (Some(sub), sid) => tx.end_sessions_of(sub, sid.as_deref()).await?,
            (None, Some(sid)) => tx.end_sessions_called(sid).await?,
            (None, None) => Vec::new(),
        };
        let on_record: Vec<_> = ended
            .iter()
            .map(|session| {
                let role = PersonRole::read(&session.role, &session.partner);
                let acting = role.map(|role| self.house_of(&role).to_string()).unwrap_or_default();
                self.visited("logout", 0, acting, Some(session.subject.clone()), visit)
            })
            .collect();
        tx.audit(&on_record).await?;
        tx.commit().await?;
        Ok(ended.len())
    }
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Malformed, format!("This logout token is refused: {why}."))
}

/// What only a logout token says, and no ID token (§2.4, §2.6); its `jti`.
fn about_logout(claims: &Claims) -> Result<&str, &'static str> {
    if !claims.holds("events", EVENT) {
        return Err("its events do not say that somebody logged out");
    }
    if claims.has("nonce") {
        return Err("it has a nonce, as an ID token has");
    }
    let jti = claims.text("jti").filter(|jti| !jti.is_empty() && jti.len() <= LONGEST_JTI);
    jti.ok_or("jti must be a text of 1 to 256 bytes")
}

/// Whose sessions: the person as the session's subject, and the SHA-256 of what the provider calls the session.
fn named(provider: &Provider, claims: &Claims) -> Result<(Option<String>, Option<String>), &'static str> {
    let text = |name: &str| match claims.text(name) {
        Some("") => Err("sub and sid must not be empty"),
        None if claims.has(name) => Err("sub and sid must be texts"),
        text => Ok(text.map(|text| of_provider(provider, text))),
    };
    match (text("sub")?, text("sid")?) {
        (None, None) => Err("it names neither a person nor a session: sub or sid"),
        (sub, sid) => Ok((sub, sid.map(|sid| sha256(&sid)))),
    }
}
