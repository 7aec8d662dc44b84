//! Signing in at an identity provider, and every way to get in without being let in. The provider is a real HTTP server
//! with real keys; what it says is up to the test.

mod provider;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use loopgate::config::{Config, PersonRole};
use loopgate::delivery::Network;
use loopgate::gateway::Gateway;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::partner;
use crate::on_both;
use crate::people_pages::Seen;
pub use provider::Keys;
use provider::{Provider, SECRET, base64};

pub const SESSION: &str = "__Host-loopgate";
const AWAY: &str = "__Host-loopgate-sign-in";

/// A gateway whose people sign in there.
pub struct House {
    pub place: Place,
    pub provider: Arc<Provider>,
    pub gateway: Gateway,
}

pub fn settings(place: &Place, issuer: &str, roles: &str) -> String {
    format!(
        "[server]\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"{}\"\n\
         [delivery]\npartner_addresses = \"allow_private_for_tests_only\"\n\
         [people.provider]\nissuer = \"{issuer}\"\nclient_id = \"loopgate\"\nclient_secret = \"{SECRET}\"\nroles = [{roles}]\n{}",
        place.url(),
        partner("kitchen", "\"target\"", "channel = \"light\"")
    )
}

pub const ROLES: &str = "{ value = \"hub-admins\", role = \"administrator\" }, { value = \"hub-desk\", role = \"coordinator\" }, { value = \"kitchen\", role = \"staff\", partner = \"kitchen\" }";

impl House {
    pub async fn new(place: Place) -> House {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let provider = Provider::start(place.clock.clone()).await;
        let gateway = open(&place, &settings(&place, &provider.issuer, ROLES)).await;
        House { place, provider, gateway }
    }

    async fn get(&self, path: &str, cookies: &str) -> Seen {
        get(&self.gateway, path, cookies).await
    }

    /// The browser goes to the provider: what it is asked there, and its cookie.
    pub async fn begins(&self, return_to: &str) -> (HashMap<String, String>, String) {
        let seen = self.get(&format!("/sign-in/provider?return_to={return_to}"), "").await;
        assert_eq!(seen.status, 303, "{}", seen.text);
        let (address, asked) = seen.header("location").split_once('?').unwrap();
        assert_eq!(address, format!("{}/authorize", self.provider.issuer));
        let line = seen.header("set-cookie").to_string();
        assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=600"), "{line}");
        let asked = loopgate::fhir::query::pairs(Some(asked)).unwrap().into_iter().collect();
        (asked, seen.cookie(AWAY).unwrap())
    }

    /// It comes back.
    pub async fn returns(&self, code: &str, state: &str, cookie: &str) -> Seen {
        let iss = loopgate::fhir::query::link("", [("iss", self.provider.issuer.as_str())]);
        self.get(&format!("/sign-in/callback{iss}&code={code}&state={state}"), &format!("{AWAY}={cookie}")).await
    }

    /// The whole way, with these roles there.
    pub async fn signs_in(&self, roles: &Value) -> Seen {
        let (asked, cookie) = self.begins("/").await;
        let token = self.provider.keys.sign("RS256", "rsa", &self.provider.claims(&asked, roles));
        let code = self.provider.grants(&asked, token);
        self.returns(&code, &asked["state"], &cookie).await
    }

    pub async fn role(&self, cookie: &str) -> Option<PersonRole> {
        self.gateway.app.session(cookie).await.unwrap().map(|session| session.person.role)
    }
}

pub async fn open(place: &Place, settings: &str) -> Gateway {
    let config = Config::parse(settings, std::path::Path::new(".")).unwrap();
    let network = Arc::new(Network::new(&config).unwrap());
    Gateway::open_with(config, place.clock.clone(), network).await.unwrap()
}

async fn get(gateway: &Gateway, path: &str, cookies: &str) -> Seen {
    let request = Request::builder().uri(path).header("cookie", cookies).header("sec-fetch-site", "cross-site");
    let response = gateway.router().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Seen { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

//
on_both!(a_person_signs_in_at_the_provider_and_gets_the_first_role_that_fits, async |place| {
    let house = House::new(place).await;
    let page = house.get("/sign-in?return_to=/fhir/metadata", "").await;
    assert!(
        page.text.contains("href=\"/sign-in/provider?return_to=/fhir/metadata\"") && !page.text.contains("password")
    );
    let (asked, away) = house.begins("/fhir/metadata").await;
    assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));
    assert_eq!(
        (asked["scope"].as_str(), asked["tenant"].as_str(), asked["client_id"].as_str()),
        ("openid profile", "1", "loopgate")
    );
    assert!(asked.values().all(|value| *value != away), "what the cookie holds goes nowhere");
    let claims = house.provider.claims(&asked, &json!(["other", "kitchen", "hub-desk"]));
    let code = house.provider.grants(&asked, house.provider.keys.sign("ES384", "p384", &claims));
    // At another gateway of the same database than the one where it began.
    let another = open(&house.place, &settings(&house.place, &house.provider.issuer, ROLES)).await;
    let iss = loopgate::fhir::query::link("", [("iss", house.provider.issuer.as_str())]);
    let seen = get(
        &another,
        &format!("/sign-in/callback{iss}&code={code}&state={}", asked["state"]),
        &format!("{AWAY}={away}"),
    )
    .await;
    assert_eq!((seen.status, seen.header("location")), (303, "/fhir/metadata"), "{}", seen.text);
    assert_eq!(seen.cookie(AWAY).as_deref(), Some(""));
    let cookie = seen.cookie(SESSION).unwrap();
    let session = house.gateway.app.session(&cookie).await.unwrap().unwrap();
    assert_eq!((session.person.name.as_str(), session.person.role), ("Ana Ruiz", PersonRole::Coordinator));
    assert_eq!(session.person.subject, format!("{}|u-17", house.provider.issuer));
    let page = house.get("/", &format!("{SESSION}={cookie}")).await;
    assert!(page.text.contains("Ana Ruiz") && page.text.contains("Coordinator"));
});

#[tokio::test]
async fn each_algorithm_that_is_allowed_is_taken() {
    let house = House::new(Place::sqlite()).await;
    for (alg, kid) in [("RS256", "rsa"), ("RS384", "rsa"), ("ES256", "p256"), ("ES384", "p384")] {
        let (asked, away) = house.begins("/").await;
        let token = house.provider.keys.sign(alg, kid, &house.provider.claims(&asked, &json!("kitchen")));
        let code = house.provider.grants(&asked, token);
        let seen = house.returns(&code, &asked["state"], &away).await;
        assert_eq!(seen.status, 303, "{alg}: {}", seen.text);
        assert_eq!(house.role(&seen.cookie(SESSION).unwrap()).await, Some(PersonRole::Staff("kitchen".into())));
    }
    let read = house.provider.asked.lock().unwrap().clone();
    let count = |path: &str| read.iter().filter(|asked| asked.ends_with(path)).count();
    assert_eq!(
        (count("openid-configuration"), count("/keys"), count("/token")),
        (1, 1, 4),
        "read once, kept as it says"
    );
}

#[tokio::test]
async fn whatever_is_wrong_with_an_id_token_lets_nobody_in() {
    let house = House::new(Place::sqlite()).await;
    let keys = &house.provider.keys;
    let strangers = Keys::new();
    type Made<'a> = Box<dyn Fn(Value) -> String + 'a>;
    let with = |name: &'static str, value: Value| -> Made<'_> {
        Box::new(move |mut claims: Value| {
            claims[name] = value.clone();
            keys.sign("RS256", "rsa", &claims)
        })
    };
    let now = house.place.clock.now().seconds();
    let wrong: Vec<(&str, Made<'_>)> = vec![
        ("alg none", Box::new(|claims| keys.sign("none", "rsa", &claims))),
        ("the public key as a shared secret", Box::new(|claims| keys.sign("HS256", "rsa", &claims))),
        ("an alg that is not allowed", Box::new(|claims| keys.sign("RS512", "rsa", &claims))),
        ("another's key", Box::new(|claims| strangers.sign("RS256", "rsa", &claims))),
        ("a key of another curve", Box::new(|claims| keys.sign("ES256", "p384", &claims))),
        ("a key that is not for signing", Box::new(|claims| keys.sign("RS256", "for-secrets", &claims))),
        ("a key that is not there", Box::new(|claims| keys.sign("RS256", "nowhere", &claims))),
        ("no JWT", Box::new(|_| "x.y.z".into())),
        (
            "altered",
            Box::new(|claims| {
                let token = keys.sign("RS256", "rsa", &claims);
                let [head, _, tail] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
                format!("{head}.{}.{tail}", base64(claims.to_string().replace("u-17", "u-18").as_bytes()))
            }),
        ),
        ("another issuer", with("iss", json!("https://evil.test"))),
        ("for another client", with("aud", json!("other"))),
        ("for others too", with("aud", json!(["loopgate", "other"]))),
        ("given to another client", with("azp", json!("other"))),
        ("another sign-in's nonce", with("nonce", json!("0".repeat(64)))),
        ("no nonce", with("nonce", Value::Null)),
        ("expired", with("exp", json!(now - 61))),
        ("no end", with("exp", Value::Null)),
        ("of the future", with("iat", json!(now + 61))),
        ("not yet", with("nbf", json!(now + 61))),
        ("nobody", with("sub", json!(""))),
        ("somebody too long", with("sub", json!("x".repeat(300)))),
    ];
    for (what, make) in wrong {
        let (asked, away) = house.begins("/").await;
        let token = make(house.provider.claims(&asked, &json!(["hub-admins"])));
        let code = house.provider.grants(&asked, token);
        let seen = house.returns(&code, &asked["state"], &away).await;
        assert_eq!((seen.status, seen.cookie(SESSION)), (403, None), "{what}: {}", seen.text);
        assert_eq!(seen.header("cache-control"), "no-store");
    }
    assert_eq!(house.signs_in(&json!(["hub-admins"])).await.status, 303, "and the honest one does");
}

#[tokio::test]
async fn only_the_browser_that_went_comes_back_and_once() {
    let house = House::new(Place::sqlite()).await;
    let begin = async || {
        let (asked, away) = house.begins("/").await;
        let token = house.provider.keys.sign("RS256", "rsa", &house.provider.claims(&asked, &json!(["hub-admins"])));
        (house.provider.grants(&asked, token), asked["state"].clone(), away)
    };
    let (code, state, away) = begin().await;
    let (other_code, other_state, other_away) = begin().await;
    let iss = loopgate::fhir::query::link("", [("iss", house.provider.issuer.as_str())]);
    let cookie = format!("{AWAY}={away}");
    for (what, path, cookie) in [
        ("no cookie: somebody else's sign-in, pushed on this browser", format!("{iss}&code={code}&state={state}"), ""),
        ("another's cookie", format!("{iss}&code={code}&state={state}"), &format!("{AWAY}={other_away}")),
        ("no state", format!("{iss}&code={code}"), &cookie),
        ("another's state", format!("{iss}&code={code}&state={other_state}"), &cookie),
        ("an empty state", format!("{iss}&code={code}&state="), &cookie),
        ("two cookies", format!("{iss}&code={code}&state={state}"), &format!("{cookie}; {AWAY}={other_away}")),
    ] {
        let seen = house.get(&format!("/sign-in/callback{path}"), cookie).await;
        assert_eq!((seen.status, seen.cookie(SESSION)), (403, None), "{what}: {}", seen.text);
    }
    let twice =
        house.get(&format!("/sign-in/callback{iss}&code={code}&code={other_code}&state={state}"), &cookie).await;
    assert_eq!(twice.status, 400, "a parameter that stands twice");
    assert_eq!(house.returns(&code, &state, &away).await.status, 303);
    assert_eq!(house.returns(&code, &state, &away).await.status, 403, "replayed");
    assert_eq!(house.returns(&other_code, &state, &away).await.status, 403, "with another code");
    house.place.clock.advance(Duration::from_secs(601));
    assert_eq!(house.returns(&other_code, &other_state, &other_away).await.status, 403, "too late");
    // RFC 9207: who sent it must be the provider, and it says that it always says so.
    for wrong in ["iss=https://evil.test&", ""] {
        let (code, state, away) = begin().await;
        let seen =
            house.get(&format!("/sign-in/callback?{wrong}code={code}&state={state}"), &format!("{AWAY}={away}")).await;
        assert_eq!((seen.status, seen.cookie(SESSION)), (403, None), "{wrong}");
        assert_eq!(
            house.provider.codes.lock().unwrap().remove(&code).map(|_| ()),
            Some(()),
            "the code was shown to nobody"
        );
    }
    // What the provider says to a refusal is not repeated.
    let (asked, away) = house.begins("/").await;
    let path =
        format!("/sign-in/callback{iss}&error=access_denied&error_description=%3Cscript%3E&state={}", asked["state"]);
    let seen = house.get(&path, &format!("{AWAY}={away}")).await;
    assert!(
        seen.status == 403 && !seen.text.contains("script") && seen.text.contains("did not let you in"),
        "{}",
        seen.text
    );
}

on_both!(who_has_no_role_any_more_is_refused_and_loses_every_session, async |place| {
    let mut house = House::new(place).await;
    for none in [
        json!([]),
        json!("other"),
        json!(["hub-admin"]),
        json!({"hub-admins": true}),
        Value::Null,
        json!(["HUB-ADMINS"]),
    ] {
        let seen = house.signs_in(&none).await;
        assert_eq!((seen.status, seen.cookie(SESSION)), (403, None), "{none}");
        assert!(seen.text.contains("no role here"), "{}", seen.text);
    }
    let first = house.signs_in(&json!(["hub-admins"])).await.cookie(SESSION).unwrap();
    let second = house.signs_in(&json!(["hub-admins", "hub-desk"])).await.cookie(SESSION).unwrap();
    assert_eq!(
        (house.role(&first).await, house.role(&second).await),
        (Some(PersonRole::Administrator), Some(PersonRole::Administrator))
    );
    // Another role there: what was signed in with the old one has ended.
    let third = house.signs_in(&json!(["hub-desk"])).await.cookie(SESSION).unwrap();
    assert_eq!(
        (house.role(&first).await, house.role(&second).await, house.role(&third).await),
        (None, None, Some(PersonRole::Coordinator))
    );
    assert_eq!(house.signs_in(&json!([])).await.status, 403);
    assert_eq!(house.role(&third).await, None);
    // The configuration takes a role out, or the provider: the sessions go with it.
    let cookie = house.signs_in(&json!(["hub-desk"])).await.cookie(SESSION).unwrap();
    let fewer = settings(&house.place, &house.provider.issuer, "{ value = \"hub-admins\", role = \"administrator\" }");
    house.gateway = open(&house.place, &fewer).await;
    assert_eq!(house.role(&cookie).await, None);
    let (before, rest) = fewer.split_once("[people.provider]").unwrap();
    let without = format!("{before}{}", &rest[rest.find("[[partner]]").unwrap()..]);
    house.gateway = open(&house.place, &without).await;
    assert_eq!(house.role(&cookie).await, None);
    assert_eq!(house.get("/sign-in/provider", "").await.status, 404);
});

#[tokio::test]
async fn a_discovery_document_that_lies_is_not_believed() {
    let house = House::new(Place::sqlite()).await;
    for lie in [
        json!({"issuer": "https://evil.test"}),
        json!({"token_endpoint": null}),
        json!({"jwks_uri": "file:///etc/passwd"}),
    ] {
        *house.provider.says.lock().unwrap() = lie.clone();
        assert_eq!(house.get("/sign-in/provider", "").await.status, 503, "{lie}");
    }
    *house.provider.says.lock().unwrap() = json!({"token_endpoint_auth_methods_supported": ["client_secret_post"]});
    let seen = house.signs_in(&json!(["hub-admins"])).await;
    assert_eq!(seen.status, 303, "our secret in the form, where it wants it there: {}", seen.text);
    // Signing out says where the provider's own session ends.
    let out = {
        let session = house.gateway.app.session(&seen.cookie(SESSION).unwrap()).await.unwrap().unwrap();
        let request = Request::builder()
            .method("POST")
            .uri("/sign-out")
            .header("origin", "https://hub.test")
            .header("cookie", format!("{SESSION}={}", seen.cookie(SESSION).unwrap()));
        let body = axum::body::Body::from(format!("token={}", session.form_token));
        let response = house.gateway.router().oneshot(request.body(body).unwrap()).await.unwrap();
        String::from_utf8(axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
    };
    assert!(
        out.contains(&format!(
            "{}/logout?client_id=loopgate&amp;post_logout_redirect_uri=https://hub.test/",
            house.provider.issuer
        )),
        "{out}"
    );
    // Accounts of ours let nobody in beside it.
    let typed = loopgate::app::people::accounts::SignIn { name: "ana".into(), password: "x".into(), code: "y".into() };
    assert!(house.gateway.app.sign_in(&typed, &Default::default()).await.is_err());
}

/// The provider's addresses are behind the same guard as everybody's.
#[tokio::test]
async fn a_provider_inside_our_network_is_never_dialled() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let place = Place::sqlite();
    let text =
        settings(&place, "https://127.0.0.1:1/realm", ROLES).replace("allow_private_for_tests_only", "public_only");
    let gateway = open(&place, &text).await;
    assert_eq!(get(&gateway, "/sign-in/provider", "").await.status, 503);
    let http = settings(&place, "http://idp.test", ROLES).replace("allow_private_for_tests_only", "public_only");
    let faults = Config::parse(&http, std::path::Path::new(".")).unwrap_err();
    assert!(
        faults.iter().any(|fault| fault.key == "people.provider.issuer" && fault.message.contains("https")),
        "{faults:?}"
    );
    for (from, to, key) in [
        ("role = \"coordinator\"", "role = \"king\"", "people.provider.roles[1].role"),
        ("partner = \"kitchen\"", "partner = \"nobody\"", "people.provider.roles[2].partner"),
        (ROLES, "", "people.provider.roles"),
        ("client_id = \"loopgate\"", "client_id = \"loopgate\"\nscope = \"profile\"", "people.provider.scope"),
    ] {
        let text = settings(&place, "https://idp.test", ROLES).replacen(from, to, 1);
        let faults = Config::parse(&text, std::path::Path::new(".")).unwrap_err();
        assert!(faults.iter().any(|fault| fault.key == key), "{key}: {faults:?}");
    }
}
