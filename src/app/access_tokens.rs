//! Access tokens of ours as they come back: the keys that sign them, and what a token is still good for.
//!
//! Promises: a signature is verified once for each token and gateway, and everything that may change is asked at every
//! request: the token's time, its key's age, whether it was taken back, its partner's configuration. What is remembered
//! is bounded, holds no token (only its SHA-256) and nothing that was refused. Keys rotate daily. Leaves out how a token
//! is come by ([`super::tokens`]). <https://www.rfc-editor.org/rfc/rfc9068>

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::App;
use super::tokens::Identity;
use crate::error::Error;
use crate::fhir::scope::Scopes;
use crate::id;
use crate::jwt::{self, Claims, Secret};
use crate::time::Timestamp;

/// How long a key signs. It verifies for as long again and for the longest token's life (24 h), then it is forgotten.
const KEY_SIGNS: Duration = Duration::from_secs(24 * 60 * 60);
const KEY_VERIFIES: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// Keys and revocations of other gateways are looked for at most this often.
const LOOK: Duration = Duration::from_secs(1);
/// Most tokens whose signature is remembered as checked; beyond it the memory starts over.
const MOST_SIGNED: usize = 1_000;

#[derive(Default)]
pub(super) struct Ring {
    keys: Vec<(Secret, Timestamp)>,
    pub(super) revoked: HashSet<String>,
    looked_at: Option<Timestamp>,
    /// What was signed with one of our keys, by the SHA-256 of the token. Only what was good once comes in.
    signed: HashMap<[u8; 32], Arc<Signed>>,
}

/// What an access token says. That we signed it is known; whether it is still good is asked each time.
#[derive(Debug)]
pub(super) struct Signed {
    kid: String,
    client: String,
    pub(super) jti: String,
    asked: Scopes,
    pub(super) given: i64,
    pub(super) expires: i64,
}

impl Signed {
    /// Reads what a key of ours signed for this audience; none when something is missing.
    fn read(kid: String, claims: &Claims, audience: &str) -> Option<Signed> {
        let text = |name: &str| claims.text(name).map(str::to_owned);
        Some(Signed {
            kid,
            client: text("client_id").filter(|_| claims.is_for(audience))?,
            jti: text("jti")?,
            asked: Scopes::parse(claims.text("scope").unwrap_or("").split(' '), audience),
            given: claims.seconds("iat")?,
            expires: claims.seconds("exp")?,
        })
    }
}

impl Ring {
    /// A key that still verifies, and when it was made.
    fn key(&self, kid: &str, now: Timestamp) -> Option<&(Secret, Timestamp)> {
        self.keys.iter().find(|(key, made)| key.kid == kid && now < made.plus(KEY_VERIFIES))
    }

    /// Whether the token has begun and not ended, its key is not too old, and nobody took it back.
    fn stands(&self, signed: &Signed, now: Timestamp) -> bool {
        now.seconds() < signed.expires
            && self.key(&signed.kid, now).is_some_and(|(_, made)| made.seconds() <= signed.given)
            && !self.revoked.contains(&signed.jti)
    }

    fn remember(&mut self, token: [u8; 32], signed: &Arc<Signed>) {
        if self.signed.len() >= MOST_SIGNED {
            self.signed.clear();
        }
        self.signed.insert(token, signed.clone());
    }
}

/// The SHA-256 of a token.
fn sha256(token: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    out
}

impl App {
    /// The key that signs today; the first to miss it makes it.
    pub(super) async fn signing_key(&self) -> Result<Secret, Error> {
        let signs = |keys: &[(Secret, Timestamp)], now: Timestamp| {
            keys.first().filter(|(_, made)| now < made.plus(KEY_SIGNS)).map(|(key, _)| key.clone())
        };
        if let Some(key) = signs(&self.tokens().ring().keys, self.now()) {
            return Ok(key);
        }
        let mut tx = self.store().begin().await?;
        let now = self.now();
        if signs(&tx.signing_keys().await?, now).is_none() {
            tx.add_signing_key(&id::new(), &id::secret(), now.minus(KEY_VERIFIES)).await?;
        }
        let keys = tx.signing_keys().await?;
        tx.commit().await?;
        let key = signs(&keys, now).ok_or_else(|| Error::internal("there is no signing key"))?;
        self.tokens().ring().keys = keys;
        Ok(key)
    }

    /// Who holds this token: an access token, or a partner's static one, compared by its SHA-256 in constant time.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Identity>, Error> {
        Ok(self.holder(token).await?.map(|(identity, _)| identity))
    }

    /// Who holds this token, and what it says if it is an access token. That is verified once and then known by the
    /// token's SHA-256; its time, its key's age, its revocation and its partner's configuration are asked each time.
    pub(super) async fn holder(&self, token: &str) -> Result<Option<(Identity, Option<Arc<Signed>>)>, Error> {
        let (shown, now) = (sha256(token), self.now());
        let known = self.tokens().ring().signed.get(&shown).cloned();
        let is_new = known.is_none();
        let signed = match known {
            Some(signed) => {
                self.look(&signed.kid, now).await?;
                signed
            }
            None => {
                let Some(kid) = jwt::key_of(token) else { return Ok(self.by_static_token(&shown)) };
                self.look(&kid, now).await?;
                let Some(signed) = self.verified(token, kid, now) else { return Ok(None) };
                Arc::new(signed)
            }
        };
        let Some(partner) = self.partner(&signed.client).cloned() else { return Ok(None) };
        let good = {
            let mut ring = self.tokens().ring();
            let good = ring.stands(&signed, now);
            if good && is_new {
                ring.remember(shown, &signed);
            }
            good
        };
        if !good {
            return Ok(None);
        }
        let scopes = Arc::new(self.configured_scopes(&partner.id).grant(&signed.asked));
        Ok(Some((Identity { partner, scopes, token: Some(signed.jti.clone()), person: None }, Some(signed))))
    }

    fn by_static_token(&self, shown: &[u8; 32]) -> Option<(Identity, Option<Arc<Signed>>)> {
        let partner = super::rights::holder(self.partners(), shown)?;
        let scopes = self.configured_scopes(&partner.id);
        Some((Identity { partner, scopes, token: None, person: None }, None))
    }

    /// What a token says, if the key it names signed it.
    fn verified(&self, token: &str, kid: String, now: Timestamp) -> Option<Signed> {
        let (key, _) = self.tokens().ring().key(&kid, now).cloned()?;
        Signed::read(kid, &key.verify(token)?, self.own())
    }

    /// Learns what other gateways, or an earlier life of this one, made or took back.
    async fn look(&self, kid: &str, now: Timestamp) -> Result<(), Error> {
        let fresh = {
            let ring = self.tokens().ring();
            let recent = ring.looked_at.is_some_and(|looked| now < looked.plus(LOOK));
            // The embedded database has no other gateway: what was learned once is all there is.
            recent
                || (self.store().is_embedded()
                    && ring.looked_at.is_some()
                    && ring.keys.iter().any(|(key, _)| key.kid == kid))
        };
        if fresh {
            return Ok(());
        }
        let mut reader = self.store().read().await?;
        let (keys, revoked) = (reader.signing_keys().await?, reader.revoked_tokens(now).await?);
        let mut ring = self.tokens().ring();
        ring.keys = keys;
        ring.revoked = revoked.into_iter().collect();
        ring.looked_at = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn signed(number: usize) -> Arc<Signed> {
        let (given, expires) = (NOW.seconds(), NOW.seconds() + 300);
        let (client, asked) = ("app".to_string(), Scopes::all());
        Arc::new(Signed { kid: "k".into(), client, jti: format!("t{number}"), asked, given, expires })
    }

    fn ring() -> Ring {
        Ring { keys: vec![(Secret::new("k", "secret"), NOW)], ..Ring::default() }
    }

    /// that a token was good says nothing of whether it is.
    #[test]
    fn what_was_good_once_is_asked_about_each_time() {
        let (mut ring, one) = (ring(), signed(1));
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert!(ring.stands(&one, later(299)));
        assert!(!ring.stands(&one, later(300)), "it has ended");
        let long = Signed { expires: i64::MAX, ..Arc::into_inner(signed(1)).unwrap() };
        assert!(ring.stands(&long, NOW.plus(KEY_VERIFIES).minus(Duration::from_secs(1))));
        assert!(!ring.stands(&long, NOW.plus(KEY_VERIFIES)), "its key is too old");
        ring.keys = vec![(Secret::new("k2", "secret"), NOW)];
        assert!(!ring.stands(&one, NOW), "its key has gone");
        ring.keys = vec![(Secret::new("k", "secret"), later(1))];
        assert!(!ring.stands(&one, NOW), "its key was made after it");
        ring = self::ring();
        ring.revoked.insert("t1".into());
        assert!(!ring.stands(&one, NOW), "it was taken back");
        assert!(ring.stands(&signed(2), NOW));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut ring = ring();
        for number in 0..3 * MOST_SIGNED {
            ring.remember(sha256(&format!("token {number}")), &signed(number));
            assert!((1..=MOST_SIGNED).contains(&ring.signed.len()));
        }
    }
}
