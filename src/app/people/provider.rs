//! Signing in at an identity provider: OpenID Connect, by authorization code with PKCE.
//!
//! One secret per sign-in lies in the browser's cookie; state, nonce and verifier follow from it, and only its SHA-256
//! is kept here, until it is used. So whoever comes back is the browser that went, once. Promises that an ID token
//! counts only if the provider's key signed it, for us, now, and for this sign-in; and that who has no role here any
//! more loses what sessions there are. Leaves out how addresses are asked (`gateway` hands that in, behind the egress
//! guard). <https://openid.net/specs/openid-connect-core-1_0.html>, RFC 7636, RFC 9207, RFC 9700

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use std::time::Duration;

use super::{Person, Visit, sha256};
use crate::app::{App, Wanted};
use crate::config::Provider;
use crate::error::{Error, Kind};
use crate::fhir::query;
use crate::id;
use crate::jwt::{Claims, KeySet, ProviderToken};
use crate::time::Timestamp;

/// How long a person may take at the provider, and most sign-ins that are under way.
const PATIENCE: Duration = Duration::from_secs(600);
const MOST: i64 = 10_000;
/// How much clocks may differ, in seconds.
pub(super) const SKEW: i64 = 60;
/// Longest name of a person, in characters, and longest `sub`, in bytes.
const LONGEST_NAME: usize = 200;
const LONGEST_SUBJECT: usize = 255;

/// What its discovery document says.
#[derive(Debug, Clone)]
pub(in crate::app) struct Known {
    authorization: String,
    token: String,
    keys: String,
    /// Whether our secret goes into the header; else into the form.
    basic: bool,
    /// Whether it names itself when it sends somebody back (RFC 9207).
    names_itself: bool,
    end_session: Option<String>,
    until: Timestamp,
}

/// A sign-in that begins.
#[derive(Debug)]
pub struct Begun {
    /// Where the browser goes.
    pub address: String,
    /// What its cookie holds meanwhile.
    pub cookie: String,
}

/// What the browser came back with.
#[derive(Debug, Default)]
pub struct Back<'a> {
    /// What we gave it to take along.
    pub state: Option<&'a str>,
    /// What stands for the ID token.
    pub code: Option<&'a str>,
    /// Who says to have sent it.
    pub iss: Option<&'a str>,
    /// What its cookie holds.
    pub cookie: Option<String>,
}

/// A sign-in that ended well.
#[derive(Debug)]
pub struct Arrived {
    /// What the session's cookie holds.
    pub cookie: String,
    /// Where to, within this site.
    pub return_to: Option<String>,
}

fn refused(text: &str) -> Error {
    Error::new(Kind::Forbidden, text)
}

/// A name that the provider gave, as ours.
pub(super) fn of_provider(provider: &Provider, name: &str) -> String {
    format!("{}|{name}", provider.issuer)
}

/// The provider is at fault, or whoever stands in its place: the log says how.
fn unfit(why: &str) -> Error {
    tracing::warn!(why, "the identity provider's answer is refused");
    Error::new(
        Kind::Forbidden,
        "The identity provider's answer is not valid here; you are not signed in. Please try again.",
    )
}

impl App {
    /// Sends a person to the provider.
    pub async fn begin_sign_in(&self, return_to: Option<&str>) -> Result<Begun, Error> {
        let provider = self.provider()?;
        let known = self.provider_says(provider).await?;
        let cookie = id::secret();
        let mut tx = self.store().begin().await?;
        if !tx.add_sign_in(&sha256(&cookie), return_to.unwrap_or(""), self.now().plus(PATIENCE), MOST).await? {
            let text = "Too many people are signing in at this moment. Please try again in a few minutes.";
            return Err(Error { retry_after: Some(60), ..Error::new(Kind::Throttled, text) });
        }
        tx.commit().await?;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, derived("verifier", &cookie).as_bytes()).as_ref());
        let (state, nonce, back) = (derived("state", &cookie), derived("nonce", &cookie), self.callback());
        let pairs = [
            ("response_type", "code"),
            ("client_id", provider.client_id.as_str()),
            ("redirect_uri", &back),
            ("scope", &provider.scope),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let asked = query::link("", pairs);
        let mark = if known.authorization.contains('?') { "&" } else { "?" };
        let address = format!("{}{mark}{}", known.authorization, asked.trim_start_matches('?'));
        Ok(Begun { address, cookie })
    }

    /// Takes in a person who comes back from the provider.
    pub async fn finish_sign_in(&self, back: &Back<'_>, visit: &Visit) -> Result<Arrived, Error> {
        let provider = self.provider()?;
        let strange = || {
            refused(
                "This sign-in did not begin in this browser, was used before, or took too long. Please begin again.",
            )
        };
        let cookie = back.cookie.as_deref().ok_or_else(strange)?;
        let state = back.state.ok_or_else(strange)?;
        verify_slices_are_equal(derived("state", cookie).as_bytes(), state.as_bytes()).map_err(|_| strange())?;
        let mut tx = self.store().begin().await?;
        let return_to = tx.use_sign_in(&sha256(cookie)).await?;
        tx.commit().await?;
        let return_to = return_to.ok_or_else(strange)?;
        match self.proven(provider, back, cookie).await {
            Ok(claims) => {
                let cookie = self.let_in(provider, &claims, visit).await?;
                Ok(Arrived { cookie, return_to: Some(return_to).filter(|text| !text.is_empty()) })
            }
            Err(error) => {
                self.0.recorder.record(self.visited("login", 4, String::new(), None, visit)).await?;
                Err(error)
            }
        }
    }

    /// Where one may sign out at the provider, too.
    pub async fn provider_sign_out(&self) -> Option<String> {
        let provider = self.config().people.provider.as_ref()?;
        let end = self.tokens().provider.lock().await.as_ref()?.end_session.clone()?;
        let home = format!("{}/", self.config().server.public_url);
        let asked = query::link("", [("client_id", provider.client_id.as_str()), ("post_logout_redirect_uri", &home)]);
        let mark = if end.contains('?') { "&" } else { "?" };
        Some(format!("{end}{mark}{}", asked.trim_start_matches('?')))
    }

    pub(super) fn provider(&self) -> Result<&Provider, Error> {
        let provider = self.config().people.provider.as_ref();
        provider.ok_or_else(|| Error::new(Kind::NotFound, "No identity provider is configured here."))
    }

    fn callback(&self) -> String {
        format!("{}/sign-in/callback", self.config().server.public_url)
    }

    /// The claims of the ID token that the code stands for.
    async fn proven(&self, provider: &Provider, back: &Back<'_>, cookie: &str) -> Result<Claims, Error> {
        let known = self.provider_says(provider).await?;
        // Who sent the browser back with another provider's code would have us ask here for it (mix-up, RFC 9207).
        match back.iss {
            Some(iss) if iss != provider.issuer => return Err(unfit("iss is another provider's")),
            None if known.names_itself => return Err(unfit("iss is missing")),
            Some(_) | None => {}
        }
        let Some(code) = back.code else {
            return Err(refused("The identity provider did not let you in."));
        };
        let (verifier, redirect) = (derived("verifier", cookie), self.callback());
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect),
            ("client_id", &provider.client_id),
            ("code_verifier", &verifier),
        ];
        let secret = provider.client_secret.as_ref().map(|secret| secret.expose());
        let mut authorization = None;
        match secret {
            Some(secret) if known.basic => {
                // RFC 6749 §2.3.1: each encoded as in a form, then both in base64.
                let form = |text: &str| query::link("", [("", text)]).trim_start_matches("?=").replace(':', "%3A");
                let both = STANDARD.encode(format!("{}:{}", form(&provider.client_id), form(secret)));
                authorization = Some(format!("Basic {both}"));
            }
            Some(secret) => pairs.push(("client_secret", secret)),
            None => {}
        }
        let form = query::link("", pairs).trim_start_matches('?').to_string();
        let answer = self.fetch(Wanted { url: known.token.clone(), form: Some(form), authorization }).await;
        let answer = answer.map_err(|why| unfit(&format!("its token endpoint: {why}")))?;
        let answer: Value =
            serde_json::from_str(&answer.text).map_err(|_| unfit("its token endpoint answers no JSON"))?;
        let token = answer.get("id_token").and_then(Value::as_str).ok_or_else(|| unfit("there is no ID token"))?;
        let read = ProviderToken::read(token).map_err(unfit)?;
        let keys = self.provider_keys(&known, &read).await.map_err(|why| unfit(&format!("its keys: {why}")))?;
        let claims = read.verify(&keys).map_err(unfit)?;
        self.check_claims(provider, &claims).map_err(unfit)?;
        let shown = claims.text("nonce").unwrap_or("");
        verify_slices_are_equal(shown.as_bytes(), derived("nonce", cookie).as_bytes())
            .map_err(|_| unfit("its nonce is another one"))?;
        match claims.text("sub") {
            Some(sub) if !sub.is_empty() && sub.len() <= LONGEST_SUBJECT => Ok(claims),
            _ => Err(unfit("the ID token names nobody")),
        }
    }

    /// The provider's keys, among them the one that signed this if it is one of them.
    pub(super) async fn provider_keys(&self, known: &Known, read: &ProviderToken<'_>) -> Result<KeySet, String> {
        let kid = read.kid.as_deref().unwrap_or("");
        self.read_key_set(&self.tokens().key_sets.provider, &known.keys, kid, KeySet::of_provider).await
    }

    /// What an ID token and a logout token have in common (OpenID Connect Core §3.1.3.7).
    pub(super) fn check_claims(&self, provider: &Provider, claims: &Claims) -> Result<(), &'static str> {
        let now = self.now().seconds();
        if claims.text("iss") != Some(&provider.issuer) {
            return Err("its iss is another one");
        }
        if !claims.is_for(&provider.client_id) {
            return Err("it is not for us alone");
        }
        if claims.has("azp") && claims.text("azp") != Some(&provider.client_id) {
            return Err("it was given to somebody else");
        }
        if claims.seconds("exp").is_none_or(|exp| exp <= now - SKEW) {
            return Err("it has expired, or never does");
        }
        if claims.seconds("iat").is_none_or(|iat| iat > now + SKEW) {
            return Err("it is of the future, or of no time");
        }
        if claims.has("nbf") && claims.seconds("nbf").is_none_or(|nbf| nbf > now + SKEW) {
            return Err("it is not good yet");
        }
        Ok(())
    }

    /// Gives somebody whom the provider knows a session, in the first role that the configuration has for this person.
    async fn let_in(&self, provider: &Provider, claims: &Claims, visit: &Visit) -> Result<String, Error> {
        let subject = of_provider(provider, claims.text("sub").unwrap_or(""));
        let sid = claims.text("sid").map(|sid| sha256(&of_provider(provider, sid))).unwrap_or_default();
        let role = provider.roles.iter().find(|(value, _)| claims.names(&provider.roles_claim, value));
        let name = ["name", "preferred_username", "email", "sub"].iter().find_map(|claim| claims.text(claim));
        let name: String = name.unwrap_or("").chars().take(LONGEST_NAME).collect();
        let person = role.map(|(_, role)| Person { subject: subject.clone(), name, role: role.clone() });
        let person = person.filter(|person| self.identity_of(person).is_some());
        let mut tx = self.store().begin().await?;
        let (word, partner) = person.as_ref().map_or(("", ""), |person| person.role.words());
        tx.end_sessions_of_other_roles(&subject, word, partner).await?;
        let opened = match &person {
            Some(person) => Some(self.open_session(&mut tx, person, &sid, visit).await?),
            None => {
                tx.audit(&[self.visited("login", 4, String::new(), Some(subject), visit)]).await?;
                None
            }
        };
        tx.commit().await?;
        opened.ok_or_else(|| {
            refused("The identity provider knows you, but you have no role here. Ask whoever runs this site for one.")
        })
    }

    /// What the provider's discovery document says, read again when it has aged.
    pub(super) async fn provider_says(&self, provider: &Provider) -> Result<Known, Error> {
        let mut slot = self.tokens().provider.lock().await;
        if let Some(known) = slot.as_ref().filter(|known| self.now() < known.until) {
            return Ok(known.clone());
        }
        let url = format!("{}/.well-known/openid-configuration", provider.issuer.trim_end_matches('/'));
        let failed = |why: &str| Error::unavailable(format!("the identity provider's discovery document: {why}"));
        let document = self.fetch(Wanted { url, ..Wanted::default() }).await.map_err(|why| failed(&why))?;
        let value: Value = serde_json::from_str(&document.text).map_err(|_| failed("it is no JSON"))?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_string);
        if text("issuer").as_deref() != Some(&provider.issuer) {
            return Err(failed("it names another issuer"));
        }
        // What it names must be as safe as it is itself.
        let scheme = if provider.issuer.starts_with("https:") { "https://" } else { "http" };
        let address = |name: &str| {
            let fits = |text: &String| text.starts_with(scheme) && text.bytes().all(|byte| byte.is_ascii_graphic());
            text(name).filter(fits).ok_or_else(|| failed(&format!("{name} is missing or unsafe")))
        };
        let methods = value.get("token_endpoint_auth_methods_supported").and_then(Value::as_array);
        let known = Known {
            authorization: address("authorization_endpoint")?,
            token: address("token_endpoint")?,
            keys: address("jwks_uri")?,
            basic: methods.is_none_or(|list| list.iter().any(|one| one == "client_secret_basic")),
            names_itself: value.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
            end_session: address("end_session_endpoint").ok(),
            until: self.kept_till(&document),
        };
        *slot = Some(known.clone());
        Ok(known)
    }
}

/// What follows from a sign-in's secret, and does not tell it.
fn derived(what: &str, secret: &str) -> String {
    sha256(&format!("{what}:{secret}"))
}
