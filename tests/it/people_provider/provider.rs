//! The identity provider of these tests, and its keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RsaKeyPair,
};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use loopgate::time::Clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const SECRET: &str = "a secret: of ours%";

pub fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub struct Keys {
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

impl Keys {
    pub fn new() -> Keys {
        Keys {
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            rsa: RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap(),
        }
    }

    pub fn set(&self) -> Value {
        let ec = |pair: &EcdsaKeyPair, curve: &str, kid: &str| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
            json!({"kty": "EC", "crv": curve, "kid": kid, "x": base64(x), "y": base64(y), "use": "sig"})
        };
        let rsa: &aws_lc_rs::rsa::PublicKey = self.rsa.public_key();
        let (n, e) =
            (rsa.modulus().big_endian_without_leading_zero(), rsa.exponent().big_endian_without_leading_zero());
        json!({"keys": [ec(&self.p256, "P-256", "p256"), ec(&self.p384, "P-384", "p384"),
            {"kty": "RSA", "kid": "rsa", "n": base64(n), "e": base64(e)},
            {"kty": "RSA", "kid": "for-secrets", "n": base64(n), "e": base64(e), "use": "enc"}]})
    }

    /// Signs by this alg, whatever it is.
    pub fn sign(&self, alg: &str, kid: &str, claims: &Value) -> String {
        self.sign_as("JWT", alg, kid, claims)
    }

    pub fn sign_as(&self, typ: &str, alg: &str, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": alg, "kid": kid, "typ": typ});
        let text = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let (random, bytes) = (SystemRandom::new(), text.as_bytes());
        let mut long = vec![0; self.rsa.public_modulus_len()];
        let signature = match alg {
            "none" => Vec::new(),
            // The public key taken for a shared secret: what a verifier that trusts the header would check with.
            "HS256" => {
                let public: &aws_lc_rs::rsa::PublicKey = self.rsa.public_key();
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_ref()), bytes).as_ref().to_vec()
            }
            "RS256" => self.rsa.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut long).map(|()| long).unwrap(),
            "RS384" => self.rsa.sign(&RSA_PKCS1_SHA384, &random, bytes, &mut long).map(|()| long).unwrap(),
            "ES256" => self.p256.sign(&random, bytes).unwrap().as_ref().to_vec(),
            _ => self.p384.sign(&random, bytes).unwrap().as_ref().to_vec(),
        };
        format!("{text}.{}", base64(&signature))
    }
}

/// A person at the provider who said yes: what was asked, and the ID token to come.
pub struct Granted {
    challenge: String,
    token: String,
}

pub struct Provider {
    pub issuer: String,
    pub keys: Keys,
    clock: Clock,
    pub codes: Mutex<HashMap<String, Granted>>,
    /// What the discovery document says otherwise.
    pub says: Mutex<Value>,
    /// What was asked for, in order.
    pub asked: Mutex<Vec<String>>,
}

impl Provider {
    pub async fn start(clock: Clock) -> Arc<Provider> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/realm", listener.local_addr().unwrap());
        let provider = Arc::new(Provider {
            issuer,
            keys: Keys::new(),
            clock,
            codes: Mutex::default(),
            says: Mutex::new(json!({})),
            asked: Mutex::default(),
        });
        let answers = provider.clone();
        let router = axum::Router::new().fallback(move |request: Request| {
            let provider = answers.clone();
            async move { provider.answer(request).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        provider
    }

    async fn answer(&self, request: Request) -> impl IntoResponse + use<> {
        let (parts, body) = request.into_parts();
        self.asked.lock().unwrap().push(parts.uri.path().to_string());
        let json = |value: Value| {
            (
                StatusCode::OK,
                [("content-type", "application/json"), ("cache-control", "max-age=600")],
                value.to_string(),
            )
        };
        let no = (
            StatusCode::BAD_REQUEST,
            [("content-type", "application/json"), ("cache-control", "no-store")],
            "{\"error\":\"invalid_grant\"}".to_string(),
        );
        let at = |path: &str| format!("{}{path}", self.issuer);
        match parts.uri.path() {
            "/realm/.well-known/openid-configuration" => {
                let mut document = json!({"issuer": self.issuer, "authorization_endpoint": at("/authorize?tenant=1"),
                    "token_endpoint": at("/token"), "jwks_uri": at("/keys"), "end_session_endpoint": at("/logout"),
                    "authorization_response_iss_parameter_supported": true});
                for (name, value) in self.says.lock().unwrap().as_object().unwrap() {
                    document[name] = value.clone();
                }
                json(document)
            }
            "/realm/keys" => json(self.keys.set()),
            "/realm/token" => {
                let bytes = axum::body::to_bytes(body, 100_000).await.unwrap();
                let form = loopgate::fhir::query::pairs(Some(std::str::from_utf8(&bytes).unwrap())).unwrap();
                let value =
                    |name: &str| form.iter().find(|(its, _)| its == name).map_or("", |(_, value)| value.as_str());
                let basic = STANDARD.encode("loopgate:a%20secret%3A%20of%20ours%25");
                let known = parts
                    .headers
                    .get("authorization")
                    .is_some_and(|value| value.to_str().unwrap() == format!("Basic {basic}"));
                let posted = value("client_secret") == SECRET && value("client_id") == "loopgate";
                let granted = self.codes.lock().unwrap().remove(value("code"));
                let Some(granted) = granted.filter(|_| known || posted) else { return no };
                let challenge = base64(digest(&SHA256, value("code_verifier").as_bytes()).as_ref());
                let right = challenge == granted.challenge
                    && value("redirect_uri") == "https://hub.test/sign-in/callback"
                    && value("grant_type") == "authorization_code";
                if right {
                    json(json!({"access_token": "x", "token_type": "Bearer", "id_token": granted.token}))
                } else {
                    no
                }
            }
            _ => no,
        }
    }

    /// What an honest ID token says.
    pub fn claims(&self, asked: &HashMap<String, String>, roles: &Value) -> Value {
        let now = self.clock.now().seconds();
        json!({"iss": self.issuer, "aud": "loopgate", "sub": "u-17", "name": "Ana Ruiz", "roles": roles, "iat": now, "exp": now + 300, "nonce": asked["nonce"]})
    }

    /// The person says yes; the code that the browser takes back.
    pub fn grants(&self, asked: &HashMap<String, String>, token: String) -> String {
        let code = loopgate::id::new();
        self.codes.lock().unwrap().insert(code.clone(), Granted { challenge: asked["code_challenge"].clone(), token });
        code
    }
}
