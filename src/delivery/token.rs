//! Our access tokens at partners' servers: a static one, or one got for a signed assertion (SMART Backend Services).
//!
//! Promises that a token is asked for once while it is good, however many requests wait for it, that each assertion has
//! an id of its own, and that a token goes to its partner's registered base alone ([`super::client`] sees to that).
//! <https://hl7.org/fhir/smart-app-launch/backend-services.html>

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Failure, Request, Transport};
use crate::config::{OutboundAuth, Partner};
use crate::id;
use crate::jwt::PrivateKey;
use crate::time::{Clock, Timestamp};

/// How long an assertion is good for, in seconds; servers refuse more than 300, and clocks differ.
const ASSERTION: i64 = 240;
/// How long a token is taken to be good for when its server does not say, and at most: one that was taken back costs a
/// request that is refused, and no more.
const LIFE: Duration = Duration::from_secs(300);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How much earlier we ask for the next, at most; of a short life it is a tenth.
const EARLIER: Duration = Duration::from_secs(30);
/// How long a token is kept at least: who hands out shorter ones is not asked for one with each request.
const SHORTEST: Duration = Duration::from_secs(5);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A token and when to ask for the next.
type Slot = Arc<tokio::sync::Mutex<Option<(String, Timestamp)>>>;

/// The tokens we hold, by partner.
pub(super) struct Tokens {
    clock: Clock,
    held: Mutex<HashMap<String, Slot>>,
}

impl Tokens {
    pub(super) fn new(clock: Clock) -> Tokens {
        Tokens { clock, held: Mutex::default() }
    }

    fn slot(&self, partner: &str) -> Slot {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).entry(partner.to_string()).or_default().clone()
    }

    /// The token to show at a partner's server; none where none is asked for.
    pub(super) async fn token(&self, transport: &dyn Transport, partner: &Partner) -> Result<Option<String>, Failure> {
        let (client_id, token_url, scope, keys) = match partner.fhir.as_ref().map(|fhir| &fhir.auth) {
            None | Some(OutboundAuth::None) => return Ok(None),
            Some(OutboundAuth::Bearer(token)) => return Ok(Some(token.expose().to_string())),
            Some(OutboundAuth::BackendServices { client_id, token_url, scope, keys }) => {
                (client_id, token_url, scope, keys)
            }
        };
        let slot = self.slot(&partner.id);
        let mut held = slot.lock().await;
        let now = self.clock.now();
        if let Some((token, _)) = held.as_ref().filter(|(_, until)| now < *until) {
            return Ok(Some(token.clone()));
        }
        let key = keys.first().ok_or_else(|| Failure::new("there is no key to sign with"))?;
        let request = asking(key, client_id, token_url, scope, now)?;
        let answer = transport.ask(partner, request).await?;
        if !answer.is_success() {
            let mut failure = Failure::answered(&answer);
            failure.why = format!("its token endpoint {}", failure.why);
            // What the token endpoint says of itself is not what the FHIR server would say of a resource.
            failure.status = None;
            return Err(failure);
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = body.get("access_token").and_then(Value::as_str).filter(|token| is_token(token));
        let token = token.ok_or_else(|| Failure::new("its token endpoint answered without a token"))?.to_string();
        let life = body.get("expires_in").and_then(seconds).map_or(LIFE, Duration::from_secs);
        *held = Some((token.clone(), now.plus(kept_for(life))));
        Ok(Some(token))
    }

    /// The server did not take this token: the next request asks for another. False when there is no other to be had.
    pub(super) async fn refused(&self, partner: &Partner, token: &str) -> bool {
        let renewed =
            matches!(partner.fhir.as_ref().map(|fhir| &fhir.auth), Some(OutboundAuth::BackendServices { .. }));
        if renewed {
            let slot = self.slot(&partner.id);
            let mut held = slot.lock().await;
            if held.as_ref().is_some_and(|(its, _)| its == token) {
                *held = None;
            }
        }
        renewed
    }
}

/// A number of seconds; there are servers that write it as text, or with a fraction.
fn seconds(value: &Value) -> Option<u64> {
    let whole = |text: &str| text.split('.').next().unwrap_or(text).parse().ok();
    match value {
        Value::Number(number) => whole(&number.to_string()),
        Value::String(text) => whole(text.trim()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// How long a token with this life is shown.
fn kept_for(life: Duration) -> Duration {
    life.saturating_sub(EARLIER.min(life / 10)).clamp(SHORTEST, LONGEST)
}

/// What may stand in a header.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn asking(key: &PrivateKey, client_id: &str, token_url: &str, scope: &str, now: Timestamp) -> Result<Request, Failure> {
    let claims = json!({"iss": client_id, "sub": client_id, "aud": token_url, "iat": now.seconds(),
        "exp": now.seconds() + ASSERTION, "jti": id::new()});
    let assertion = key.sign(&claims).ok_or_else(|| Failure::new("the assertion could not be signed"))?;
    let pairs = [
        ("grant_type", "client_credentials"),
        ("scope", scope),
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", &assertion),
    ];
    let body = crate::fhir::query::link("", pairs);
    let headers = [("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")];
    Ok(Request {
        method: "POST",
        url: token_url.to_string(),
        headers: headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        body: Some(body.trim_start_matches('?').to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_token_is_shown_for_most_of_its_life() {
        for (life, kept) in
            [(0, 5), (1, 5), (5, 5), (10, 9), (30, 27), (60, 54), (300, 270), (3_600, 3_570), (u64::MAX, 86_400)]
        {
            assert_eq!(kept_for(Duration::from_secs(life)), Duration::from_secs(kept), "{life}");
        }
    }

    #[test]
    fn a_life_is_read_however_it_is_written() {
        for (value, read) in [
            (json!(300), Some(300)),
            (json!("300"), Some(300)),
            (json!(299.9), Some(299)),
            (json!(-1), None),
            (json!("soon"), None),
            (Value::Null, None),
        ] {
            assert_eq!(seconds(&value), read, "{value}");
        }
    }
}
