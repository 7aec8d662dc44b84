//! SMART Backend Services as a client's developer meets it: discovery, the invalid matrix, scopes, replay, key sets by
//! address, introspection and revocation.

mod signing_in;
mod tokens;

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA384, RsaKeyPair};
use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::{Answered, TestGateway, county, partner};
use crate::notifications::subscription;
use crate::on_both;

const TOKEN_URL: &str = "https://hub.test/auth/token";
const SET_URL: &str = "https://portal.test/jwks.json";

/// A client with a key of its own.
struct Client {
    id: &'static str,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Client {
    fn new(id: &'static str) -> Client {
        let ec = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        Client { id, ec, rsa }
    }

    /// Both public keys: `ec-1` and `rsa-1`.
    fn set(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let rsa: &aws_lc_rs::rsa::PublicKey = self.rsa.public_key();
        let (n, e) =
            (rsa.modulus().big_endian_without_leading_zero(), rsa.exponent().big_endian_without_leading_zero());
        json!({"keys": [
            {"kty": "EC", "crv": "P-384", "kid": "ec-1", "x": base64(&point[1..49]), "y": base64(&point[49..]), "alg": "ES384"},
            {"kty": "RSA", "kid": "rsa-1", "n": base64(n), "e": base64(e), "alg": "RS384"},
        ]})
    }

    fn claims(&self, now: i64) -> Value {
        json!({"iss": self.id, "sub": self.id, "aud": TOKEN_URL, "exp": now + 300, "jti": loopgate::id::new()})
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match header["alg"].as_str() {
            Some("RS384") => {
                let mut out = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA384, &random, text.as_bytes(), &mut out).unwrap();
                out
            }
            _ => self.ec.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{text}.{}", base64(&signature))
    }

    fn assertion(&self, now: i64) -> String {
        self.signed(&json!({"alg": "ES384", "kid": "ec-1", "typ": "JWT"}), &self.claims(now))
    }
}

/// The county and two partners more: `app` with its keys by value, `portal` with an address.
async fn with_clients(place: Place) -> (TestGateway, Client, Client) {
    let (app, portal) = (Client::new("app"), Client::new("portal"));
    let by_value = format!("credentials = {{ jwks = '{}' }}", app.set());
    let settings = [
        county(),
        without_token(&partner("app", "\"source\"", ""), &by_value),
        without_token(
            &partner("portal", "\"source\"", "scopes = [\"system/Task.rs\", \"system/ServiceRequest.r\"]"),
            &format!("credentials = {{ jwks_url = \"{SET_URL}\" }}"),
        ),
    ];
    let county = TestGateway::with(place, &settings.concat()).await;
    county.world.page(SET_URL, "max-age=600", &portal.set().to_string());
    (county, app, portal)
}

fn without_token(block: &str, credentials: &str) -> String {
    let lines: Vec<&str> = block.lines().filter(|line| !line.starts_with("credentials")).collect();
    format!("{}\n{credentials}\n", lines.join("\n"))
}

async fn form(county: &TestGateway, path: &str, bearer: Option<&str>, pairs: &[(&str, &str)]) -> Answered {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let body: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    let request = match bearer {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    };
    let response = county.gateway.router().oneshot(request.body(Body::from(body.join("&"))).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answered { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
}

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

async fn token(county: &TestGateway, assertion: &str, scope: &str) -> Answered {
    let pairs = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", TYPE),
        ("client_assertion", assertion),
        ("scope", scope),
    ];
    form(county, "/auth/token", None, &pairs).await
}

fn now(county: &TestGateway) -> i64 {
    county.clock.now().seconds()
}

/// A-001, A-002, A-003
/// R-010
/// M-1.01, M-1.02, M-1.04
#[tokio::test]
async fn discovery_names_what_there_is() {
    let (county, ..) = with_clients(Place::sqlite()).await;
    let request = Request::get("/fhir/.well-known/smart-configuration").header("accept", "application/fhir+xml");
    let answer = county.gateway.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    // A page may send headers of its own there, and to nothing that is behind a token.
    for (path, status) in [("/fhir/.well-known/smart-configuration", 204), ("/fhir/metadata", 204), ("/fhir/Task", 401)]
    {
        let request = Request::options(path).header("access-control-request-method", "GET").body(Body::empty());
        let answer = county.gateway.router().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let allowed = answer.headers().get("access-control-allow-methods").map(|methods| methods.to_str().unwrap());
        assert_eq!(allowed, (status == 204).then_some("GET, HEAD"), "{path}");
    }
    let body: Value =
        serde_json::from_slice(&axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap()).unwrap();
    assert_eq!(body["token_endpoint"], TOKEN_URL);
    let has = |name: &str, value: &str| body[name].as_array().unwrap().contains(&json!(value));
    assert!(has("grant_types_supported", "client_credentials"));
    assert!(has("capabilities", "client-confidential-asymmetric") && has("capabilities", "permission-v2"));
    assert!(has("token_endpoint_auth_methods_supported", "private_key_jwt"));
    assert!(has("token_endpoint_auth_signing_alg_values_supported", "ES384"));
    assert!(has("token_endpoint_auth_signing_alg_values_supported", "RS384"));
    assert!(has("code_challenge_methods_supported", "S256") && !has("code_challenge_methods_supported", "plain"));
    assert!(body["scopes_supported"].is_array() && body["introspection_endpoint"].is_string());
    assert!(body.get("issuer").is_none() && body.get("authorization_endpoint").is_none());
    for (path, method) in [("/fhir/.well-known/udap", "GET"), ("/auth/nothing", "POST")] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        assert_eq!(county.gateway.router().oneshot(request).await.unwrap().status().as_u16(), 404, "{path}");
    }
}

/// M-2.05, M-2.06, M-2.07, M-5.14, M-5.15, M-5.16
/// A-020, A-021, A-022: a token for either algorithm, as long as configured, and it opens what it says.
/// G-182
#[tokio::test]
async fn an_assertion_gets_a_token_that_opens_what_it_says() {
    let (county, app, _) = with_clients(Place::sqlite()).await;
    let answer = token(&county, &app.assertion(now(&county)), "system/Task.read system/Patient.rs").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((&answer.headers["cache-control"][..], &answer.headers["pragma"][..]), ("no-store", "no-cache"));
    assert_eq!((&answer.body["token_type"], &answer.body["expires_in"]), (&json!("bearer"), &json!(300)));
    assert_eq!(answer.body["scope"], "system/Task.read system/Patient.rs");
    assert!(answer.body.get("refresh_token").is_none());
    let access = answer.body["access_token"].as_str().unwrap();
    assert_eq!(county.get(access, "Task").await.status, 200);
    // A-023: 403 where the scope ends, 401 when the token has ended.
    assert_eq!(county.get(access, "Procedure").await.status, 403);
    county.clock.advance(Duration::from_secs(300));
    let ended = county.get(access, "Task").await;
    assert_eq!((ended.status, &ended.headers["www-authenticate"][..]), (401, "Bearer error=\"invalid_token\""));

    let rsa = app.signed(&json!({"alg": "RS384", "kid": "rsa-1", "typ": "JWT"}), &app.claims(now(&county)));
    assert_eq!(token(&county, &rsa, "system/*.cruds").await.status, 200);
}

/// G-187: an application of a community organization is registered with its keys, gets one token after the other, and works
/// by query, when it likes.
#[tokio::test]
async fn an_application_works_by_query_with_one_token_after_the_other() {
    let app = Client::new("app");
    let rides = "channel = \"light\"\nservices = [{ id = \"app-rides\", name = \"Rides\", categories = [\"transportation-insecurity\"] }]";
    let credentials = format!("credentials = {{ jwks = '{}' }}", app.set());
    let block = without_token(&partner("app", "\"target\"", rides), &credentials);
    let county = TestGateway::with(Place::sqlite(), &format!("{}{block}", county())).await;
    let sent = county.refers("sr1", "transportation-insecurity").await;
    county.deliver_due().await;
    let fresh = async || {
        let answer = token(&county, &app.assertion(now(&county)), "system/Task.rus system/ServiceRequest.rs").await;
        answer.body["access_token"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_string()
    };
    let mut access = fresh().await;
    let asked = "Task?owner=Organization/app&status=requested&_include=Task:focus";
    let found = county.get(&access, asked).await.entries();
    let kinds: Vec<&Value> = found.iter().map(|one| &one["resourceType"]).collect();
    assert_eq!(kinds, [&json!("Task"), &json!("ServiceRequest")]);
    let mut task = found[0].clone();
    for status in ["accepted", "in-progress"] {
        let path = format!("Task/{}", task["id"].as_str().unwrap());
        task["status"] = json!(status);
        let stepped = county.put(&access, &path, &task).await;
        assert_eq!(stepped.status, 200, "{}", stepped.body);
        assert_eq!(county.status(&sent).await, "in-progress", "its acceptance is the source's in-progress");
        county.clock.advance(Duration::from_secs(300));
        assert_eq!(county.get(&access, &path).await.status, 401, "this token has ended");
        access = fresh().await;
        task = county.get(&access, &path).await.body;
        assert_eq!(task["status"], status);
    }
}

/// M-2.02, M-2.03, M-2.04, M-5.02, M-5.03, M-5.04, M-5.05, M-5.07, M-5.08, M-5.09, M-5.10, M-5.13
/// A-010, A-011, A-012, A-013, A-015, A-017: every row of the invalid matrix, each with its OAuth error and without a token.
#[tokio::test]
async fn whatever_is_wrong_with_an_assertion_gets_no_token() {
    let (county, app, portal) = with_clients(Place::sqlite()).await;
    let now = now(&county);
    let header = json!({"alg": "ES384", "kid": "ec-1", "typ": "JWT"});
    let with = |name: &str, value: Value| {
        let mut claims = app.claims(now);
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        app.signed(&header, &claims)
    };
    let headed = |name: &str, value: Value| {
        let mut header = header.clone();
        if value.is_null() {
            header.as_object_mut().unwrap().remove(name);
        } else {
            header[name] = value;
        }
        app.signed(&header, &app.claims(now))
    };
    let good = app.assertion(now);
    let mut broken = good.clone();
    broken.replace_range(broken.len() - 8.., "AAAAAAAA");
    let stolen = portal.signed(&header, &app.claims(now));
    let unsigned = format!(
        "{}.{}.",
        base64(br#"{"alg":"none","kid":"ec-1","typ":"JWT"}"#),
        base64(app.claims(now).to_string().as_bytes())
    );
    for (what, assertion) in [
        ("no JWT", "abc".to_string()),
        ("a broken signature", broken),
        ("another's key", stolen),
        ("no signature", unsigned),
        ("a shared secret", headed("alg", json!("HS256"))),
        ("an algorithm we don't take", headed("alg", json!("ES256"))),
        ("an algorithm that isn't the key's", headed("alg", json!("RS256"))),
        ("no kid", headed("kid", Value::Null)),
        ("an unknown kid", headed("kid", json!("ec-2"))),
        ("a kid of another type", headed("kid", json!("rsa-1"))),
        ("another typ", headed("typ", json!("at+jwt"))),
        ("no typ", headed("typ", Value::Null)),
        ("keys from elsewhere", headed("jku", json!("https://evil.test/jwks.json"))),
        ("extensions that must be known", headed("crit", json!(["b64"]))),
        ("an unknown client", with("iss", json!("nobody"))),
        ("a client with a static token", with("iss", json!("clinic"))),
        ("no issuer", with("iss", Value::Null)),
        ("another subject", with("sub", json!("clinic"))),
        ("no subject", with("sub", Value::Null)),
        ("another audience", with("aud", json!("https://hub.test/fhir"))),
        ("more audiences", with("aud", json!([TOKEN_URL, "https://elsewhere.test"]))),
        ("no audience", with("aud", Value::Null)),
        ("an end in the past", with("exp", json!(now - 60))),
        ("an end too far ahead", with("exp", json!(now + 3600))),
        ("an end that is no number", with("exp", json!("soon"))),
        ("no end", with("exp", Value::Null)),
        ("not yet", with("nbf", json!(now + 120))),
        ("made in the future", with("iat", json!(now + 120))),
        ("no jti", with("jti", Value::Null)),
        ("an empty jti", with("jti", json!(""))),
        ("a very long jti", with("jti", json!("x".repeat(300)))),
    ] {
        let answer = token(&county, &assertion, "system/Task.rs").await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!("invalid_client")), "{what}: {}", answer.body);
        assert!(answer.body["error_description"].as_str().unwrap().len() > 10, "{what}");
        assert!(answer.body.get("access_token").is_none(), "{what}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{what}");
    }
    // Fractions of seconds, which some clients send, are no fault; nor is the one audience in a list.
    let fraction = app.signed(&header, &{
        let mut claims = app.claims(now);
        claims["exp"] = serde_json::from_str(&format!("{}.5", now + 200)).unwrap();
        claims["aud"] = json!([TOKEN_URL]);
        claims
    });
    assert_eq!(token(&county, &fraction, "system/Task.rs").await.status, 200);
    let fresh = || app.assertion(now);
    let base = [("grant_type", "client_credentials"), ("client_assertion_type", TYPE), ("scope", "system/Task.rs")];
    for (name, value, error) in [
        ("grant_type", Some("authorization_code"), "unsupported_grant_type"),
        ("grant_type", None, "invalid_request"),
        ("client_assertion_type", Some("jwt"), "invalid_client"),
        ("client_assertion_type", None, "invalid_client"),
        ("scope", None, "invalid_scope"),
        ("scope", Some("system/Task.dus"), "invalid_scope"),
        ("scope", Some("patient/Task.rs"), "invalid_scope"),
        ("client_assertion", None, "invalid_client"),
    ] {
        let assertion = fresh();
        let all = [base.as_slice(), &[("client_assertion", &assertion)]].concat();
        let pairs: Vec<(&str, &str)> = all
            .into_iter()
            .filter_map(|(its, old)| if its == name { value.map(|new| (its, new)) } else { Some((its, old)) })
            .collect();
        let answer = form(&county, "/auth/token", None, &pairs).await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!(error)), "{name} {value:?}");
    }
    let twice = [("grant_type", "client_credentials"), ("grant_type", "client_credentials")];
    assert_eq!(form(&county, "/auth/token", None, &twice).await.body["error"], "invalid_request");
}

/// A-043: what failed is on record, and nothing of what was shown.
#[tokio::test]
async fn a_failed_request_for_a_token_is_on_record_without_the_assertion() {
    let (county, app, portal) = with_clients(Place::sqlite()).await;
    let now = now(&county);
    let header = json!({"alg": "ES384", "kid": "ec-1", "typ": "JWT"});
    let stolen = portal.signed(&header, &app.claims(now));
    assert_eq!(token(&county, &stolen, "system/Task.rs").await.status, 400);
    let found = county.get("root", "AuditEvent?agent=Organization/app").await.entries();
    assert_eq!(found.len(), 1, "{found:?}");
    let event = found[0].to_string();
    assert_eq!((&found[0]["outcome"], &found[0]["subtype"][0]["code"]), (&json!("4"), &json!("110122")), "{event}");
    assert!(stolen.split('.').all(|part| !event.contains(part)), "{event}");
    assert_eq!(token(&county, &app.assertion(now), "system/Task.rs").await.status, 200);
    assert_eq!(county.get("root", "AuditEvent?agent=Organization/app&outcome=4").await.entries().len(), 1);
}

// M-5.01
// A-014: an assertion counts once, also after a restart and at another gateway on the same database.
on_both!(an_assertion_counts_once_everywhere, async |place: Place| {
    let (mut county, app, _) = with_clients(place).await;
    let assertion = app.assertion(now(&county));
    let first = token(&county, &assertion, "system/Task.rs").await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(token(&county, &assertion, "system/Task.rs").await.body["error"], "invalid_client");
    county.restart().await;
    assert_eq!(token(&county, &assertion, "system/Task.rs").await.body["error"], "invalid_client");
    // The token outlives the restart, too.
    let access = first.body["access_token"].as_str().unwrap();
    assert_eq!(county.get(access, "Task").await.status, 200);
});

/// M-5.11
/// A-005, A-015, A-016: keys by address are kept as long as their server says, and read again once for an unknown key.
#[tokio::test]
async fn keys_by_address_are_kept_and_read_again() {
    let (county, _, portal) = with_clients(Place::sqlite()).await;
    let asked = || county.world.requests().iter().filter(|one| one.ends_with(SET_URL)).count();
    let kid = |kid: &str| {
        let header = json!({"alg": "ES384", "kid": kid, "typ": "JWT", "jku": SET_URL});
        portal.signed(&header, &portal.claims(now(&county)))
    };
    assert_eq!(token(&county, &kid("ec-1"), "system/Task.rs").await.status, 200);
    assert_eq!(token(&county, &kid("ec-1"), "system/Task.rs").await.status, 200);
    assert_eq!(asked(), 1);
    // A key nobody knows: at most one more reading a minute.
    for _ in 0..3 {
        assert_eq!(token(&county, &kid("ec-9"), "system/Task.rs").await.body["error"], "invalid_client");
    }
    assert_eq!(asked(), 1, "the set was read a moment ago");
    county.clock.advance(Duration::from_secs(61));
    let rotated = portal.set().to_string().replace("ec-1", "ec-9");
    county.world.page(SET_URL, "max-age=600", &rotated);
    assert_eq!(token(&county, &kid("ec-9"), "system/Task.rs").await.status, 200);
    assert_eq!(asked(), 2);
    // The old key is gone with the old set; and after the set's time it is read again.
    assert_eq!(token(&county, &kid("ec-1"), "system/Task.rs").await.body["error"], "invalid_client");
    county.clock.advance(Duration::from_secs(601));
    assert_eq!(token(&county, &kid("ec-9"), "system/Task.rs").await.status, 200);
    assert_eq!(asked(), 3);
    // A server that is away, or answers something else, is said to be.
    county.clock.advance(Duration::from_secs(601));
    county.world.page(SET_URL, "", "<html>");
    let answer = token(&county, &kid("ec-9"), "system/Task.rs").await;
    assert_eq!(answer.body["error"], "invalid_client");
    assert!(answer.body["error_description"].as_str().unwrap().contains("registered address"));
}
