//! SMART Backend Services: a partner shows a signed assertion and gets an access token for five minutes.
//!
//! Promises: an assertion counts once, on all gateways and across a restart; a token allows no more than was
//! asked for and than the partner's configuration allows, also when that is narrowed after it was given; a token that
//! was taken back ends within a second everywhere. Leaves out HTTP, how a partner's public keys are come by
//! ([`super::key_sets`]), and how a token is checked when it is shown ([`super::access_tokens`]).
//! <https://hl7.org/fhir/smart-app-launch/backend-services.html>

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::App;
use super::access_tokens::Ring;
use super::key_sets::KeySets;
use crate::config::{Certified, Config, Credentials, Partner, Role};
use crate::error::{Error, Kind};
use crate::fhir::scope::Scopes;
use crate::fhir::{Key, ResourceType};
use crate::id;
use crate::jwt::{Assertion, Claims};
use crate::store::Access;
use crate::time::Timestamp;

/// The one assertion type (RFC 7523).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Furthest an assertion may expire ahead, and how much clocks may differ.
const FURTHEST: i64 = 300;
const SKEW: i64 = 10;
/// Longest `jti`.
const LONGEST_JTI: usize = 256;
/// What a token request said; each parameter at most once.
#[derive(Debug, Default)]
pub struct TokenRequest {
    /// `client_credentials`
    pub grant_type: Option<String>,
    /// What is asked for.
    pub scope: Option<String>,
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`
    pub client_assertion_type: Option<String>,
    /// The signed JWT.
    pub client_assertion: Option<String>,
    /// What the certificate that the connection proved is known by.
    pub certificate: Vec<Certified>,
}

/// Why there is no token (RFC 6749 §5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `invalid_client` and its like.
    pub code: &'static str,
    /// For the client's developer; shows nothing that was sent.
    pub description: String,
}

impl Refused {
    fn new(code: &'static str, description: impl Into<String>) -> Refused {
        Refused { code, description: description.into() }
    }
    pub(super) fn client(description: impl Into<String>) -> Refused {
        Refused::new("invalid_client", description)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        tracing::error!(cause = error.cause.as_deref().unwrap_or(""), "a token request failed");
        Refused::new("temporarily_unavailable", "This server is in trouble; please try again.")
    }
}

/// An access token.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token itself.
    pub token: String,
    /// What it allows.
    pub scope: String,
    /// Seconds it is good for.
    pub expires_in: u64,
}

/// What a token is good for (RFC 7662).
#[derive(Debug, Clone)]
pub struct Active {
    /// What it allows.
    pub scope: String,
    /// Whose it is.
    pub client: String,
    /// When it ends and when it was given, in seconds; none for a static token.
    pub times: Option<(i64, i64)>,
}

/// Who asks, and what its token allows.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The partner.
    pub partner: Arc<Partner>,
    /// Its configured scopes, narrowed by its token's.
    pub scopes: Arc<Scopes>,
    /// The token's jti; none of a static one.
    pub token: Option<String>,
    /// Who it is, where a person signed in.
    pub person: Option<String>,
}

/// What this gateway keeps in memory of keys and tokens.
pub(super) struct Tokens {
    /// Configured scopes by partner.
    scopes: HashMap<String, Arc<Scopes>>,
    pub(super) key_sets: KeySets,
    /// What the identity provider says of itself.
    pub(super) provider: tokio::sync::Mutex<Option<super::people::Known>>,
    ring: Mutex<Ring>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Tokens(..)")
    }
}

impl Tokens {
    pub(super) fn new(config: &Config) -> Tokens {
        let scopes = config.partners.iter().map(|partner| {
            let allowed =
                partner.scopes.as_ref().map(|list| Scopes::parse(list.list.iter().map(String::as_str), &config.base()));
            (partner.id.clone(), Arc::new(allowed.unwrap_or_else(Scopes::all)))
        });
        Tokens {
            scopes: scopes.collect(),
            key_sets: KeySets::new(config),
            provider: Default::default(),
            ring: Mutex::default(),
        }
    }

    pub(super) fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// The address of the token endpoint, which is the audience of an assertion.
    pub fn token_url(&self) -> String {
        format!("{}/auth/token", self.config().server.public_url)
    }

    /// The keys we prove ourselves with at partners' servers, as they may verify them: a JWK Set.
    pub fn public_keys(&self) -> serde_json::Value {
        let fhir = self.partners().iter().filter_map(|partner| partner.fhir.as_ref());
        let mut keys: Vec<&serde_json::Value> = Vec::new();
        for key in fhir.flat_map(|fhir| fhir.auth.keys()) {
            if !keys.contains(&&key.public) {
                keys.push(&key.public);
            }
        }
        json!({ "keys": keys })
    }

    /// A partner's scopes as configured.
    pub(super) fn configured_scopes(&self, partner: &str) -> Arc<Scopes> {
        self.tokens().scopes.get(partner).cloned().unwrap_or_else(|| Arc::new(Scopes::parse([], self.own())))
    }

    /// Gives an access token for a signed assertion. A client of ours that fails is on record, its assertion is not
    ///
    pub async fn grant_token(&self, request: &TokenRequest) -> Result<Issued, Refused> {
        let issued = self.grant(request).await;
        let claimed = request.client_assertion.as_deref().and_then(|token| Assertion::read(token).ok());
        let partner = claimed.and_then(|claimed| self.partner(claimed.issuer()?).cloned());
        if let (Err(refused), Some(partner)) = (&issued, partner)
            && refused.code != "temporarily_unavailable"
        {
            let seen = vec![(Key::new(ResourceType::ORGANIZATION, &partner.id), 0)];
            let failed = Access { partner: partner.id.clone(), action: "login", seen, outcome: 4, ..Access::default() };
            self.0.recorder.record(failed).await?;
        }
        issued
    }

    async fn grant(&self, request: &TokenRequest) -> Result<Issued, Refused> {
        match request.grant_type.as_deref() {
            Some("client_credentials") => {}
            Some(_) => return Err(Refused::new("unsupported_grant_type", "grant_type must be client_credentials")),
            None => return Err(Refused::new("invalid_request", "grant_type is missing")),
        }
        if request.client_assertion_type.as_deref() != Some(ASSERTION_TYPE) {
            return Err(Refused::client(format!("client_assertion_type must be {ASSERTION_TYPE}")));
        }
        let Some(token) = &request.client_assertion else {
            return Err(Refused::client("client_assertion is missing"));
        };
        let partner = self.prove(token, &request.certificate).await?;
        let allowed = self.configured_scopes(&partner.id);
        let wish = request.scope.as_deref().unwrap_or("");
        let granted = allowed.grant(&Scopes::parse(wish.split_ascii_whitespace(), self.own()));
        if granted.is_empty() {
            let what = "scope must name at least one scope this client may have, such as system/Task.rs; its parameters \
                        must be search parameters of that type, without chains, _has, results' and other servers' references";
            return Err(Refused::new("invalid_scope", what));
        }
        let (scope, life) = (granted.to_string(), self.config().auth.token_lifetime.as_secs());
        let key = self.signing_key().await?;
        let now = self.now().seconds();
        let public_url = &self.config().server.public_url;
        let claims = json!({"iss": public_url, "aud": self.own(), "sub": partner.id, "client_id": partner.id,
            "scope": scope, "iat": now, "exp": now + i64::try_from(life).unwrap_or(FURTHEST), "jti": id::new()});
        let token = key.sign(&claims).ok_or_else(|| Error::internal("an access token could not be signed"))?;
        Ok(Issued { token, scope, expires_in: life })
    }

    /// The partner that made this assertion, which is used up by that.
    async fn prove(&self, token: &str, certificate: &[Certified]) -> Result<Arc<Partner>, Refused> {
        let assertion = Assertion::read(token).map_err(Refused::client)?;
        let unknown = || Refused::client("iss and sub must be the client id, which is the partner's id here");
        let partner = assertion.issuer().and_then(|issuer| self.partner(issuer)).ok_or_else(unknown)?.clone();
        let claims = match &partner.credentials {
            Some(Credentials::Jwks(set)) => {
                if assertion.jku.is_some() {
                    return Err(Refused::client("this client's keys are registered by value; leave jku out"));
                }
                assertion.verify(set).map_err(Refused::client)?
            }
            Some(Credentials::JwksUrl(url)) => {
                if assertion.jku.as_ref().is_some_and(|jku| jku != url) {
                    return Err(Refused::client("jku must be the registered address, or be left out"));
                }
                let set = self.key_set(&partner.id, url, &assertion.kid).await?;
                assertion.verify(&set).map_err(Refused::client)?
            }
            Some(Credentials::BearerSha256(_)) | None => return Err(unknown()),
        };
        let bound = self.check_certificate(&partner, certificate);
        bound.map_err(|error| Refused::client(error.text()))?;
        if claims.text("sub") != Some(partner.id.as_str()) {
            return Err(unknown());
        }
        if !claims.is_for(&self.token_url()) {
            return Err(Refused::client("aud must be this token endpoint's address, and nothing else"));
        }
        let expires = self.in_time(claims)?;
        let jti = claims.text("jti").filter(|jti| !jti.is_empty() && jti.len() <= LONGEST_JTI);
        let jti = jti.ok_or_else(|| Refused::client("jti must be a text of 1 to 256 bytes"))?;
        let mut tx = self.store().begin().await?;
        let first = tx.use_assertion(&partner.id, jti, expires).await?;
        tx.commit().await?;
        if first { Ok(partner) } else { Err(Refused::client("this jti was used before; each assertion counts once")) }
    }

    /// Checks an assertion's times; until when its `jti` must be remembered.
    fn in_time(&self, claims: &Claims) -> Result<Timestamp, Refused> {
        let now = self.now().seconds();
        let expires = claims.seconds("exp").ok_or_else(|| Refused::client("exp is missing or no number"))?;
        if expires <= now - SKEW {
            return Err(Refused::client("the assertion has expired"));
        }
        if expires > now + FURTHEST + SKEW {
            return Err(Refused::client("exp must be at most five minutes ahead"));
        }
        for name in ["nbf", "iat"] {
            if claims.has(name) && claims.seconds(name).is_none_or(|time| time > now + SKEW) {
                return Err(Refused::client(format!("{name} must be a number and not in the future")));
            }
        }
        Ok(Timestamp::from_seconds(expires + 2 * SKEW))
    }

    /// What a token is good for: an operator may ask about any, a partner about its own; nobody else learns more than
    /// that it is not good for him.
    pub async fn introspect(&self, asking: &Identity, token: &str) -> Result<Option<Active>, Error> {
        let may = |client: &Partner| client.id == asking.partner.id || asking.partner.roles.contains(&Role::Operator);
        let found = self.holder(token).await?.filter(|(identity, _)| may(&identity.partner));
        Ok(found.map(|(identity, signed)| Active {
            scope: identity.scopes.to_string(),
            client: identity.partner.id.clone(),
            times: signed.map(|signed| (signed.expires, signed.given)),
        }))
    }

    /// Takes an access token back: its holder's own, or any for an operator. Others' and unknown ones are passed over in
    /// silence (RFC 7009 §2.2). A static token is the configuration's to change.
    pub async fn revoke(&self, asking: &Identity, token: &str) -> Result<(), Error> {
        let Some((identity, Some(signed))) = self.holder(token).await? else { return Ok(()) };
        let own = identity.partner.id == asking.partner.id || asking.partner.roles.contains(&Role::Operator);
        if !own {
            return Ok(());
        }
        let mut tx = self.store().begin().await?;
        tx.revoke_token(&signed.jti, Timestamp::from_seconds(signed.expires)).await?;
        tx.commit().await?;
        self.tokens().ring().revoked.insert(signed.jti.clone());
        Ok(())
    }
}

impl Identity {
    /// 401 for whoever has no token that is known.
    pub fn known(found: Option<Identity>) -> Result<Identity, Error> {
        found.ok_or_else(|| Error::new(Kind::Unauthenticated, "This token is not known here, or is good no longer."))
    }
}
