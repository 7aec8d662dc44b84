//! Signed tokens: what partners show to prove who they are, and what they get for it.
//!
//! An [`Assertion`] is read first, so that its issuer can be looked up, and trusted only after [`Assertion::verify`].
//! Access tokens are our own: HMAC-SHA256 with a key that every replica has, so that checking one costs no asymmetric
//! cryptography. Promises that no algorithm but the named ones is ever tried, that a key must fit the algorithm, and
//! that no text here shows a token. Leaves out clocks, replay and scopes, which are the app's.
//! <https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html>, <https://www.rfc-editor.org/rfc/rfc7519>

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA384, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

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
    /// Reads a partner's JWK Set; the fault names what is wrong and shows nothing of it.
    pub fn parse(text: &str) -> Result<KeySet, &'static str> {
        let set = KeySet::read(text)?;
        if !set.0.iter().any(is_usable) {
            return Err("must have a key with a kid and n and e (RSA), or crv P-384, x and y (EC)");
        }
        Ok(set)
    }

    /// Reads an identity provider's, which may sign with other keys.
    pub fn of_provider(text: &str) -> Result<KeySet, &'static str> {
        let set = KeySet::read(text)?;
        let fits = |key: &Value| PROVIDERS.iter().any(|(_, _, kty, curve)| is_of(key, kty, *curve));
        if !set.0.iter().any(fits) {
            return Err("must have an RSA key, or an EC key on P-256 or P-384");
        }
        Ok(set)
    }

    fn read(text: &str) -> Result<KeySet, &'static str> {
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

/// Whether a key has what it takes to verify. Others may stand beside it, for other purposes.
fn is_usable(key: &Value) -> bool {
    let has = |member: &str| key.get(member).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let is = |member: &str, value: &str| key.get(member).and_then(Value::as_str) == Some(value);
    let rsa = is("kty", "RSA") && has("n") && has("e");
    let ec = is("kty", "EC") && is("crv", "P-384") && has("x") && has("y");
    has("kid") && (rsa || ec)
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

    /// Whether a claim is this text, or a list with it.
    pub fn names(&self, name: &str, text: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(only)) => only == text,
            Some(Value::Array(list)) => list.iter().any(|one| one == text),
            _ => false,
        }
    }

    /// Whether a claim is an object that holds an object by this name.
    pub fn holds(&self, name: &str, member: &str) -> bool {
        self.0.get(name).and_then(|object| object.get(member)).is_some_and(Value::is_object)
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
            return Err("the header's alg must be ES384, RS384 or RS256");
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

/// What an identity provider may sign with, and the type and the curve of a key that does.
const PROVIDERS: [(Algorithm, &str, &str, Option<&str>); 4] = [
    (Algorithm::RS256, "RS256", "RSA", None),
    (Algorithm::RS384, "RS384", "RSA", None),
    (Algorithm::ES256, "ES256", "EC", Some("P-256")),
    (Algorithm::ES384, "ES384", "EC", Some("P-384")),
];

/// Whether a key is of this type, and on this curve.
fn is_of(key: &Value, kty: &str, curve: Option<&str>) -> bool {
    let is = |member: &str, wanted: &str| key.get(member).and_then(Value::as_str) == Some(wanted);
    is("kty", kty) && curve.is_none_or(|curve| is("crv", curve))
}

/// An ID token or a logout token of an identity provider, read and not yet verified.
#[derive(Debug)]
pub struct ProviderToken<'t> {
    token: &'t str,
    algorithm: Algorithm,
    /// What it says it is.
    pub typ: Option<String>,
    /// The id of the key it says it was signed with.
    pub kid: Option<String>,
}

impl<'t> ProviderToken<'t> {
    /// Reads the header. The fault is for the log.
    pub fn read(token: &'t str) -> Result<ProviderToken<'t>, &'static str> {
        let header = (token.len() <= LONGEST).then(|| jsonwebtoken::decode_header(token).ok()).flatten();
        let header = header.ok_or("it is no signed JWT")?;
        if header.crit.is_some() {
            return Err("its header names extensions in crit");
        }
        if PROVIDERS.iter().all(|(known, ..)| *known != header.alg) {
            return Err("its alg is none of RS256, RS384, ES256, ES384");
        }
        Ok(ProviderToken { token, algorithm: header.alg, typ: header.typ, kid: header.kid })
    }

    /// The claims, once the one key of the set that fits kid and alg is found to have signed them.
    pub fn verify(&self, keys: &KeySet) -> Result<Claims, &'static str> {
        let fits = |key: &&Value| {
            let is = |member: &str, wanted: &str| key.get(member).and_then(Value::as_str) == Some(wanted);
            let may_be = |member: &str, wanted: &str| key.get(member).is_none() || is(member, wanted);
            PROVIDERS.iter().any(|(algorithm, name, kty, curve)| {
                *algorithm == self.algorithm
                    && is_of(key, kty, *curve)
                    && may_be("alg", name)
                    && may_be("use", "sig")
                    && self.kid.as_deref().is_none_or(|kid| is("kid", kid))
            })
        };
        let mut found = keys.0.iter().filter(fits);
        let (Some(key), None) = (found.next(), found.next()) else {
            return Err("none, or more than one, of the provider's keys fits its kid and alg");
        };
        let key = serde_json::from_value::<Jwk>(key.clone()).ok().and_then(|key| DecodingKey::from_jwk(&key).ok());
        let key = key.ok_or("the provider's key can't be used")?;
        verified(self.token, self.algorithm, &key).ok_or("the signature is not of the provider's key")
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

/// A private key of ours, for proving who we are at a partner's server.
#[derive(Clone)]
pub struct PrivateKey {
    pair: Pair,
    /// The public half as a JWK, `kid` its RFC 7638 thumbprint.
    pub public: Value,
}

#[derive(Clone)]
enum Pair {
    Ec(Arc<EcdsaKeyPair>),
    Rsa(Arc<RsaKeyPair>),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// The keys of a PEM text, at least one: EC on P-384 or RSA of at least 2,048 bits.
    pub fn parse(pem: &str) -> Result<Vec<PrivateKey>, &'static str> {
        const WRONG: &str = "must be PEM with private keys: EC on P-384, or RSA of at least 2048 bits";
        let keys: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(pem.as_bytes()).collect();
        let keys = keys.map_err(|_| WRONG)?.iter().map(PrivateKey::new).collect::<Option<Vec<_>>>();
        keys.filter(|keys| !keys.is_empty()).ok_or(WRONG)
    }

    fn new(der: &PrivateKeyDer<'_>) -> Option<PrivateKey> {
        let rsa = match der {
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()).ok(),
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
            _ => None,
        };
        if let Some(pair) = rsa {
            let key: &aws_lc_rs::rsa::PublicKey = pair.public_key();
            let (n, e) = (key.modulus(), key.exponent());
            let n = base64(n.big_endian_without_leading_zero());
            let required = json!({"e": base64(e.big_endian_without_leading_zero()), "kty": "RSA", "n": n});
            return Some(PrivateKey { public: published(required, "RS384"), pair: Pair::Rsa(Arc::new(pair)) });
        }
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, der.secret_der()).ok()?;
        // An uncompressed point: one byte that says so, then x and y of 48 bytes each.
        let (x, y) = pair.public_key().as_ref().get(1..)?.split_at_checked(48)?;
        let required = json!({"crv": "P-384", "kty": "EC", "x": base64(x), "y": base64(y)});
        Some(PrivateKey { public: published(required, "ES384"), pair: Pair::Ec(Arc::new(pair)) })
    }

    /// Signs claims into a client assertion.
    pub fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": self.public["alg"], "kid": self.public["kid"], "typ": "JWT"});
        let text = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, text.as_bytes()).ok()?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA384, &random, text.as_bytes(), &mut out).ok()?;
                out
            }
        };
        Some(format!("{text}.{}", base64(&signature)))
    }
}

/// A public key with its use and its thumbprint, which is made of the required members in this order.
fn published(required: Value, algorithm: &str) -> Value {
    let kid = base64(digest(&SHA256, required.to_string().as_bytes()).as_ref());
    let mut key = required;
    key["kid"] = kid.into();
    key["alg"] = algorithm.into();
    key["use"] = "sig".into();
    key
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    fn p384() -> Vec<u8> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap().as_ref().to_vec()
    }

    /// what we sign, our published key verifies; several keys in one text overlap.
    #[test]
    fn what_we_sign_our_published_key_verifies() {
        let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let rsa = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
        let keys = PrivateKey::parse(&format!("{}{}", pem(&p384()), pem(rsa.as_ref()))).unwrap();
        assert_eq!(keys.len(), 2);
        let published = json!({"keys": keys.iter().map(|key| &key.public).collect::<Vec<_>>()}).to_string();
        let set = KeySet::parse(&published).unwrap();
        for key in &keys {
            let token = key.sign(&json!({"iss": "us", "exp": 7})).unwrap();
            let assertion = Assertion::read(&token).unwrap();
            assert_eq!(assertion.verify(&set).unwrap().text("iss"), Some("us"));
            let other = PrivateKey::parse(&pem(&p384())).unwrap();
            let others = json!({"keys": [other[0].public]}).to_string();
            assert!(assertion.verify(&KeySet::parse(&others).unwrap()).is_err());
        }
    }

    ///
    #[test]
    fn a_set_has_a_key_that_can_be_used_and_none_that_is_private() {
        let rsa = json!({"kty": "RSA", "kid": "1", "n": "AQ", "e": "AQAB"});
        let ec = json!({"kty": "EC", "kid": "2", "crv": "P-384", "x": "AQ", "y": "AQ"});
        let set = |keys: Value| KeySet::parse(&json!({"keys": keys}).to_string());
        let other = json!({"kty": "OKP", "kid": "3", "crv": "Ed25519", "x": "AQ"});
        assert!(set(json!([rsa])).is_ok() && set(json!([ec])).is_ok() && set(json!([other, ec])).is_ok());
        assert!(set(json!([])).is_err() && set(json!([other])).is_err());
        for member in ["kty", "kid", "n", "e"] {
            let mut without = rsa.clone();
            without.as_object_mut().unwrap().shift_remove(member);
            assert!(set(json!([without])).is_err(), "RSA without {member}");
        }
        for member in ["kty", "kid", "crv", "x", "y"] {
            let mut without = ec.clone();
            without.as_object_mut().unwrap().shift_remove(member);
            assert!(set(json!([without])).is_err(), "EC without {member}");
        }
        for member in PRIVATE {
            let mut shown = rsa.clone();
            shown[*member] = json!("AQ");
            assert!(set(json!([ec, shown])).unwrap_err().contains("private"), "{member}");
        }
    }

    /// A-015, M-5.06: of two keys with one id and type nobody can say whose signature it is.
    #[test]
    fn two_keys_with_one_id_open_nothing() {
        let key = PrivateKey::parse(&pem(&p384())).unwrap().remove(0);
        let other = PrivateKey::parse(&pem(&p384())).unwrap().remove(0);
        let token = key.sign(&json!({"iss": "us", "exp": 7})).unwrap();
        let assertion = Assertion::read(&token).unwrap();
        let set = |keys: &[&Value]| KeySet::parse(&json!({ "keys": keys }).to_string()).unwrap();
        let mut twin = other.public.clone();
        twin["kid"] = key.public["kid"].clone();
        assert!(assertion.verify(&set(&[&key.public, &other.public])).is_ok());
        assert!(assertion.verify(&set(&[&key.public, &twin])).is_err());
        assert!(assertion.verify(&set(&[&twin])).is_err());
    }

    /// RFC 7638 §3.1
    #[test]
    fn the_thumbprint_is_the_standards() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = published(json!({"e": "AQAB", "kty": "RSA", "n": n}), "RS384");
        assert_eq!(key["kid"], "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn other_keys_are_refused() {
        let curve = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let p256 = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        for bad in [String::new(), "key".into(), pem(b"abc"), pem(p256.as_ref())] {
            assert!(PrivateKey::parse(&bad).is_err());
        }
        assert!(format!("{:?}", PrivateKey::parse(&pem(&p384())).unwrap()).contains("(..)"));
    }
}
