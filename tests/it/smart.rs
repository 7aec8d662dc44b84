//! SMART Backend Services as a client's developer meets it: discovery, the invalid matrix, scopes, replay, key sets by
//! address, introspection and revocation.

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
use crate::gateway::{Answered, PANTRY, TestGateway, county, partner};
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

/// M-5.12
/// A-020, A-032, A-035: configured scopes bound what is granted; what lies outside is left out, and nothing is refused.
#[tokio::test]
async fn nothing_is_granted_beyond_the_configuration() {
    let (county, _, portal) = with_clients(Place::sqlite()).await;
    let granted = |scope: &'static str| {
        let (county, assertion) = (&county, portal.assertion(now(&county)));
        async move { token(county, &assertion, scope).await.body }
    };
    assert_eq!(granted("system/*.cruds").await["scope"], "system/Task.rs system/ServiceRequest.r");
    assert_eq!(granted("system/Task.read launch system/Patient.rs").await["scope"], "system/Task.read");
    assert_eq!(granted("system/Patient.rs").await["error"], "invalid_scope");
    // A-034: a part is granted as it was asked for; what can't be enforced is not.
    let part = "system/Task.rs?owner=Organization/x";
    assert_eq!(granted(part).await["scope"], part);
    assert_eq!(
        granted("system/Task.rs?patient.name=x system/ServiceRequest.r").await["scope"],
        "system/ServiceRequest.r"
    );
    let refused = granted("system/Task.rs?patient.name=x").await;
    assert_eq!(refused["error"], "invalid_scope");
    assert!(refused["error_description"].as_str().unwrap().contains("without chains"), "{refused}");
}

/// A-033, A-034, S-160: a token of a part opens the part, and no Subscription that outlives it.
#[tokio::test]
async fn a_token_of_a_part_opens_the_part() {
    let (county, app, _) = with_clients(Place::sqlite()).await;
    let with = async |scope: &str| {
        let answer = token(&county, &app.assertion(now(&county)), scope).await;
        assert_eq!(answer.body["scope"], scope, "{}", answer.body);
        answer.body["access_token"].as_str().unwrap().to_string()
    };
    let (all, part) = (
        with("system/*.cruds").await,
        with("system/Patient.cruds?gender=female system/Subscription.c system/Task.r?status=draft").await,
    );
    let person = |gender: &str| json!({"resourceType": "Patient", "gender": gender});
    let bob = county.post(&all, "Patient", &person("male")).await.id();
    let ada = county.post(&part, "Patient", &person("female")).await.id();
    assert_eq!(county.post(&part, "Patient", &person("male")).await.status, 403);
    assert_eq!(county.get(&part, &format!("Patient/{bob}")).await.status, 404);
    let found = county.get(&part, "Patient").await.entries();
    assert_eq!((found.len(), &found[0]["id"]), (1, &json!(ada)));
    let refused = county.post(&part, "Subscription", &crate::notifications::subscription(crate::gateway::HOOK)).await;
    assert_eq!(refused.status, 403);
    assert!(refused.said().contains("after your token"), "{}", refused.body);
}

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

// M-3.01, M-3.02, M-3.03
// A-040, A-041 and the interface: an operator about any token, a partner about its own, nobody else anything.
on_both!(tokens_can_be_asked_about_and_taken_back, async |place: Place| {
    let (county, app, _) = with_clients(place).await;
    let access = token(&county, &app.assertion(now(&county)), "system/Task.rs").await.body["access_token"].clone();
    let access = access.as_str().unwrap();
    let other = county.another().await;
    let ask = |who: &'static str| {
        let county = &county;
        async move { form(county, "/auth/introspect", Some(who), &[("token", access)]).await }
    };
    let operator = ask("root").await.body;
    assert_eq!((&operator["active"], &operator["client_id"]), (&json!(true), &json!("app")));
    assert_eq!((&operator["scope"], &operator["exp"]), (&json!("system/Task.rs"), &json!(now(&county) + 300)));
    let own = form(&county, "/auth/introspect", Some(access), &[("token", access)]).await.body;
    assert_eq!(own["active"], true);
    assert_eq!(ask("clinic").await.body, json!({"active": false}));
    let garbage = form(&county, "/auth/introspect", Some("root"), &[("token", "abc")]).await.body;
    assert_eq!(garbage, json!({"active": false}));
    let nobody = form(&county, "/auth/introspect", None, &[("token", access)]).await;
    assert_eq!((nobody.status, &nobody.headers["www-authenticate"][..]), (401, "Bearer"));

    // Another's token can't be taken back, and nothing tells that it is one.
    assert_eq!(form(&county, "/auth/revoke", Some("clinic"), &[("token", access)]).await.status, 200);
    assert_eq!(county.get(access, "Task").await.status, 200);
    assert!(other.app.authenticate(access).await.unwrap().is_some());
    assert_eq!(form(&county, "/auth/revoke", Some(access), &[("token", access)]).await.status, 200);
    assert_eq!(county.get(access, "Task").await.status, 401);
    assert_eq!(ask("root").await.body, json!({"active": false}));
    if !other_is_embedded(&county) {
        county.clock.advance(Duration::from_secs(1));
        assert!(other.app.authenticate(access).await.unwrap().is_none(), "within a second everywhere");
    }
});

// A-040: a token that was checked before is checked again for everything but its signature: its end, its key. One
// that differs in a letter is another token, and what was refused is not remembered as good or bad.
on_both!(a_token_that_was_good_is_asked_about_each_time, async |place: Place| {
    let (county, app, _) = with_clients(place).await;
    let fresh = || async {
        let body = token(&county, &app.assertion(now(&county)), "system/Task.rs").await.body;
        body["access_token"].as_str().unwrap().to_string()
    };
    let access = fresh().await;
    let good = |token: &str| {
        let (app, token) = (county.gateway.app.clone(), token.to_string());
        async move { app.authenticate(&token).await.unwrap().is_some() }
    };
    assert!(good(&access).await && good(&access).await);
    let (head, signature) = access.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{head}.{other}{}", &signature[1..]);
    assert!(!good(&forged).await && !good(&forged).await);
    assert!(!good(&format!("{access}A")).await && !good(head).await);
    county.clock.advance(Duration::from_secs(299));
    assert!(good(&access).await);
    county.clock.advance(Duration::from_secs(1));
    assert!(!good(&access).await && !good(&access).await, "it has ended");
    let access = fresh().await;
    assert!(good(&access).await);
    if !other_is_embedded(&county) {
        // Another gateway forgets the key that signed it.
        let store = county.store().await;
        let mut tx = store.begin().await.unwrap();
        tx.add_signing_key("new", "another secret", county.gateway.app.now().plus(Duration::from_secs(1)))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        county.clock.advance(Duration::from_secs(1));
        assert!(!good(&access).await, "its key has gone");
        assert!(good(&fresh().await).await);
    }
});

/// SQLite serves one gateway only; on PostgreSQL another one must hear of a revocation.
fn other_is_embedded(county: &TestGateway) -> bool {
    county.gateway.app.config().store.url.expose().starts_with("sqlite")
}

/// S-162, S-207: a Subscription made with an access token goes on after the token has ended, and sees no more than its
/// creator does.
#[tokio::test]
async fn a_subscription_outlives_the_token_that_made_it() {
    let (county, app, _) = with_clients(Place::sqlite()).await;
    let county = county.settled().await;
    let answer = token(&county, &app.assertion(now(&county)), "system/*.cruds").await;
    let access = answer.body["access_token"].as_str().unwrap().to_string();
    let hooks = ["https://app.test/hook/capacity", "https://app.test/hook/tasks", "https://app.test/hook/copies"];
    for (hook, criteria) in hooks.into_iter().zip([
        "https://loopgate.org/fhir/SubscriptionTopic/capacity",
        "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task",
        "HealthcareService?active=true,false",
    ]) {
        let mut body = subscription(hook);
        body["criteria"] = json!(criteria);
        if criteria.contains('?') {
            body["channel"].as_object_mut().unwrap().remove("_payload");
        }
        let made = county.post(&access, "Subscription", &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    county.later(Duration::from_secs(600)).await;
    assert_eq!(county.get(&access, "Subscription").await.status, 401, "the token has ended");
    let said = |hook: &str| county.world.letters().iter().filter(|letter| letter.url.starts_with(hook)).count();
    assert_eq!(hooks.map(said), [1, 1, 0], "two handshakes");

    county.refers("sr1", "housing-instability").await;
    let service = "HealthcareService/agency-housing";
    let mut body = county.get("agency", service).await.body;
    body["active"] = json!(true);
    body["extension"] = json!([{
        "url": "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-ExtensionHealthcareServiceCapacityStatus",
        "extension": [{"url": "capacityStatus", "valueCodeableConcept": {"coding": [{
            "system": "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes",
            "code": "no-capacity"}]}}]}]);
    let put = county.put("agency", service, &body).await;
    assert_eq!(put.status, 200, "{}", put.body);
    county.deliver_due().await;
    assert_eq!(hooks.map(said), [2, 1, 1], "the clinic's Tasks are none of the app's business");
}

/// Keys rotate daily, a token given just before is good to its end, and a very old key opens nothing.
#[tokio::test]
async fn keys_rotate() {
    let (county, app, _) = with_clients(Place::sqlite()).await;
    let kid = |answer: &Answered| {
        let token = answer.body["access_token"].as_str().unwrap().to_string();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&header).unwrap()["kid"].clone()
    };
    let first = token(&county, &app.assertion(now(&county)), "system/Task.rs").await;
    county.clock.advance(Duration::from_secs(24 * 3600 - 100));
    let second = token(&county, &app.assertion(now(&county)), "system/Task.rs").await;
    assert_eq!(kid(&first), kid(&second));
    county.clock.advance(Duration::from_secs(150));
    let third = token(&county, &app.assertion(now(&county)), "system/Task.rs").await;
    assert_ne!(kid(&second), kid(&third));
    let still = second.body["access_token"].as_str().unwrap();
    assert_eq!(county.get(still, "Task").await.status, 200);
}

const ENDPOINT: &str = "https://login.pantry.test/token";

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

/// The county, whose pantry has us sign in with these keys.
async fn signing_in(keys: &str) -> TestGateway {
    let auth = format!(
        "auth = {{ kind = \"backend-services\", client_id = \"hub-at-pantry\", token_url = \"{ENDPOINT}\", key = \"\"\"\n{keys}\"\"\" }}"
    );
    let base = format!("fhir = {{ base = \"{PANTRY}\",");
    let settings = crate::gateway::county();
    assert!(settings.contains(&base));
    TestGateway::with(Place::sqlite(), &settings.replace(&base, &format!("{base} {auth},"))).await
}

/// What the token endpoint was first asked with.
fn asked_with(county: &TestGateway) -> Vec<(String, String)> {
    let form = county.world.letters().into_iter().find(|one| one.url == ENDPOINT).unwrap().body.unwrap();
    loopgate::fhir::query::pairs(Some(&form)).unwrap()
}

/// Our published keys.
async fn published(county: &TestGateway) -> String {
    let request = Request::get("/auth/jwks").body(Body::empty()).unwrap();
    let published = county.gateway.router().oneshot(request).await.unwrap();
    assert_eq!(published.headers()["cache-control"], "public, max-age=3600");
    let published = axum::body::to_bytes(published.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(published.to_vec()).unwrap()
}

/// A-042: our own keys rotate: the new one goes in front of the old, and both are published while a server may hold an old
/// set; by either kind.
#[tokio::test]
async fn our_own_keys_rotate() {
    let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let rsa = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
    let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let (old, new) = (pem(rsa.as_ref()), pem(ec.as_ref()));
    let mut sets: Vec<String> = Vec::new();
    for (keys, algorithm, many) in [(old.clone(), "RS384", 1), (format!("{new}{old}"), "ES384", 2), (new, "ES384", 1)] {
        let county = signing_in(&keys).await;
        county.world.page(ENDPOINT, "", &json!({"access_token": "one", "expires_in": 300}).to_string());
        county.world.at(PANTRY, |pantry| pantry.require_bearer("one"));
        county.refers("r1", "food-insecurity").await;
        county.deliver_due().await;
        assert_eq!(county.world.at(PANTRY, |pantry| pantry.all("Task").len()), 1);
        let pairs = asked_with(&county);
        let token = &pairs.iter().find(|(name, _)| name == "client_assertion").unwrap().1;
        let header: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
        assert_eq!(header["alg"], algorithm);
        let set = published(&county).await;
        let shown: Value = serde_json::from_str(&set).unwrap();
        assert_eq!(shown["keys"].as_array().unwrap().len(), many);
        assert!(!set.contains("\"d\""), "no private part");
        // Whoever read the set before the old key was left out can verify what is signed now.
        sets.push(set);
        for set in sets.iter().rev().take(2).filter(|_| sets.len() != 2) {
            let set = loopgate::jwt::KeySet::parse(set).unwrap();
            assert!(loopgate::jwt::Assertion::read(token).unwrap().verify(&set).is_ok());
        }
    }
}

/// M-4.01, M-4.02, M-4.03
/// A-042: at a partner's server we sign in with a key of ours: one token serves until it ends, a 401 gets another, and
/// our published keys verify what we signed.
#[tokio::test]
async fn we_sign_in_where_a_partner_asks_for_it() {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let county = signing_in(&pem(key.as_ref())).await;
    let says = |token: &str| {
        county.world.page(ENDPOINT, "", &json!({"access_token": token, "expires_in": 300}).to_string());
        county.world.at(PANTRY, |pantry| pantry.require_bearer(token));
    };
    let asked = || county.world.requests().iter().filter(|one| one.ends_with(ENDPOINT)).count();
    says("one");
    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!(county.relayed(&task).await.len(), 1);
    assert_eq!(county.world.at(PANTRY, |pantry| pantry.all("Task").len()), 1);
    assert_eq!(asked(), 1);

    // The assertion is ours, by the keys we publish.
    let pairs = asked_with(&county);
    let said = |name: &str| pairs.iter().find(|(its, _)| its == name).unwrap().1.clone();
    assert_eq!((said("grant_type"), said("scope")), ("client_credentials".into(), "system/*.cruds".into()));
    let set = loopgate::jwt::KeySet::parse(&published(&county).await).unwrap();
    let assertion = said("client_assertion");
    let assertion = loopgate::jwt::Assertion::read(&assertion).unwrap();
    let claims = assertion.verify(&set).unwrap();
    assert_eq!((claims.text("iss"), claims.text("sub")), (Some("hub-at-pantry"), Some("hub-at-pantry")));
    assert!(claims.is_for(ENDPOINT) && claims.seconds("exp").unwrap() <= now(&county) + 300);

    // The pantry forgets our token: one more is got, and the poll goes through.
    says("two");
    county.poll("pantry").await;
    assert_eq!(asked(), 2);
    county.later(Duration::from_secs(400)).await;
    county.poll("pantry").await;
    assert_eq!(asked(), 3, "an old token is not shown");
    // A login that fails is retried like a server that is away, and nothing is lost.
    county.world.page(ENDPOINT, "", "{}");
    county.clock.advance(Duration::from_secs(400));
    county.refers("r2", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!(county.world.at(PANTRY, |pantry| pantry.all("Task").len()), 1);
    says("three");
    county.later(Duration::from_secs(10)).await;
    assert_eq!(county.world.at(PANTRY, |pantry| pantry.all("Task").len()), 2);
    // Each assertion is another, each time by the client's own word, and none asks to refresh anything.
    let asked: Vec<_> = county.world.letters().into_iter().filter(|one| one.url == ENDPOINT).collect();
    let mut seen = Vec::new();
    for letter in &asked {
        let pairs = loopgate::fhir::query::pairs(letter.body.as_deref()).unwrap();
        let said =
            |name: &str| pairs.iter().find(|(its, _)| its == name).map(|(_, value)| value.clone()).unwrap_or_default();
        assert_eq!((said("grant_type").as_str(), said("client_assertion_type").as_str()), ("client_credentials", TYPE));
        let shown = said("client_assertion");
        let assertion = loopgate::jwt::Assertion::read(&shown).unwrap();
        seen.push(assertion.verify(&set).unwrap().text("jti").unwrap().to_string());
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert!(count >= 4 && seen.len() == count, "a jti counts once");
}
