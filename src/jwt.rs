//! Signed tokens: what partners show to prove who they are, and what they get for it.
//!
//! An [`Assertion`] is read first, so that its issuer can be looked up, and trusted only after [`Assertion::verify`].
//! Access tokens are our own: HMAC-SHA256 with a key that every replica has, so that checking one costs no asymmetric
//! cryptography. Promises that no algorithm but the named ones is ever tried, that a key must fit the algorithm, and
//! that no text here shows a token. Leaves out clocks, replay and scopes, which are the app's.
//! <https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html>, <https://www.rfc-editor.org/rfc/rfc7519>

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value};

/// Longest token that is read, in bytes.
const LONGEST: usize = 16 * 1024;
/// Most keys in one set.
const MOST_KEYS: usize = 100;
/// Members of a JWK that only its owner may know (RFC 7518 §6).
const PRIVATE: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What partners may sign with (SMART; RS256 for UDAP-style clients).
pub const ALGORITHMS: &[&str] = &["ES384", "RS384", "RS256"];

/// A JWK Set: a partner's public keys.
#[derive(Debug, Clone)]
pub struct KeySet(Vec<Value>);

impl KeySet {
    /// Reads a JWK Set; the fault names what is wrong and shows nothing of it.
    pub fn parse(text: &str) -> Result<KeySet, &'static str> {
        let value: Value = serde_json::from_str(text).map_err(|_| "must be a JWK Set as JSON")?;
        let Some(keys) = value.get("keys").and_then(Value::as_array) else {
            return Err("must be a JWK Set: an object with keys");
        };
        if keys.len() > MOST_KEYS {
            return Err("must have at most 100 keys");
        }
        if keys.iter().any(|key| PRIVATE.iter().any(|member| key.get(member).is_some())) {
            return Err("must hold public keys only; this one shows a private key, which is lost with it");
        }
        Ok(KeySet(keys.clone()))
    }

    /// The one key of this id and type; none when there are none or several.
    fn find(&self, kid: &str, kty: &str) -> Option<Jwk> {
        let text = |key: &Value, member: &str| key.get(member).and_then(Value::as_str).map(str::to_owned);
        let fits = |key: &&Value| text(key, "kid").as_deref() == Some(kid) && text(key, "kty").as_deref() == Some(kty);
        let mut found = self.0.iter().filter(fits);
        let (key, None) = (found.next()?, found.next()) else { return None };
        serde_json::from_value(key.clone()).ok()
    }

    /// Whether a key of this id is in the set.
    pub fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.get("kid").and_then(Value::as_str) == Some(kid))
    }
}

/// What is claimed in a token.
#[derive(Debug, Clone)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// The text of a claim.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A claim that is a time, in seconds; fractions, which some clients send, are cut off.
    pub fn seconds(&self, name: &str) -> Option<i64> {
        let number = self.0.get(name)?.as_number()?.to_string();
        number.split('.').next()?.parse().ok()
    }

    /// Whether a claim is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether this is the one audience.
    pub fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(list)) => matches!(list.as_slice(), [Value::String(only)] if only == audience),
            _ => false,
        }
    }
}

/// A client assertion that was read and not yet verified.
#[derive(Debug)]
pub struct Assertion<'t> {
    token: &'t str,
    algorithm: Algorithm,
    /// The id of the key it says it was signed with.
    pub kid: String,
    /// Where it says its keys are.
    pub jku: Option<String>,
    claims: Claims,
}

impl<'t> Assertion<'t> {
    /// Reads header and claims. The fault is for the client's developer.
    pub fn read(token: &'t str) -> Result<Assertion<'t>, &'static str> {
        if token.len() > LONGEST {
            return Err("the assertion is too long");
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| "the assertion is no signed JWT")?;
        if header.typ.as_deref().is_none_or(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err("the header's typ must be JWT");
        }
        if header.crit.is_some() {
            return Err("the header names extensions in crit that this server does not know");
        }
        if !ALGORITHMS.contains(&format!("{:?}", header.alg).as_str()) {
            return Err("the header's alg must be ES384 or RS384");
        }
        let kid = header.kid.filter(|kid| !kid.is_empty()).ok_or("the header needs a kid")?;
        let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token)
            .map_err(|_| "the claims can't be read")?;
        Ok(Assertion { token, algorithm: header.alg, kid, jku: header.jku, claims: Claims(claims) })
    }

    /// Who says to have made it. Nothing is proven by that.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.text("iss")
    }

    /// The claims, once one of these keys is found to have signed them.
    pub fn verify(&self, keys: &KeySet) -> Result<&Claims, &'static str> {
        let kty = match self.algorithm {
            Algorithm::ES384 => "EC",
            _ => "RSA",
        };
        let jwk = keys.find(&self.kid, kty).ok_or("none, or more than one, of the registered keys fits kid and alg")?;
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| "the registered key can't be used")?;
        verified(self.token, self.algorithm, &key).map(|_| &self.claims).ok_or("the signature is not of that key")
    }
}

/// Checks a signature, and nothing else.
fn verified(token: &str, algorithm: Algorithm, key: &DecodingKey) -> Option<Claims> {
    let mut bare = Validation::new(algorithm);
    bare.required_spec_claims.clear();
    // Times and audience are checked by whoever knows the clock; the crate refuses fractional times that clients send.
    bare.validate_exp = false;
    bare.validate_aud = false;
    jsonwebtoken::decode::<Map<String, Value>>(token, key, &bare).ok().map(|data| Claims(data.claims))
}

/// A key for access tokens.
#[derive(Clone)]
pub struct Secret {
    /// Its id.
    pub kid: String,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Secret({})", self.kid)
    }
}

impl Secret {
    /// A key from its stored form.
    pub fn new(kid: impl Into<String>, text: &str) -> Secret {
        Secret { kid: kid.into(), bytes: text.as_bytes().to_vec() }
    }

    /// Signs claims into an access token (RFC 9068).
    pub fn sign(&self, claims: &Value) -> Option<String> {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some("at+jwt".into());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&self.bytes)).ok()
    }

    /// The claims, if this key signed them.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        verified(token, Algorithm::HS256, &DecodingKey::from_secret(&self.bytes))
    }
}

/// The id of the key that an access token of ours says it was signed with; none for anything else.
pub fn key_of(token: &str) -> Option<String> {
    let header = (token.len() <= LONGEST).then(|| jsonwebtoken::decode_header(token).ok()).flatten()?;
    (header.alg == Algorithm::HS256 && header.typ.as_deref() == Some("at+jwt")).then_some(header.kid).flatten()
}
