//! The identity provider ends sessions (OpenID Connect Back-Channel Logout 1.0), and nobody else does.

use axum::extract::Request;
use loopgate::config::PersonRole;
use loopgate::gateway::Gateway;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;
use crate::on_both;
use crate::people_provider::{House, Keys, ROLES, SESSION, open, settings};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

async fn post(gateway: &Gateway, kind: &str, body: String) -> (u16, String, String) {
    let request = Request::builder().method("POST").uri("/sign-out/back-channel").header("content-type", kind);
    let response = gateway.router().oneshot(request.body(axum::body::Body::from(body)).unwrap()).await.unwrap();
    let cache = response.headers()["cache-control"].to_str().unwrap().to_string();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap(), cache)
}

async fn logs_out(gateway: &Gateway, token: &str) -> u16 {
    let (status, text, cache) =
        post(gateway, "application/x-www-form-urlencoded", format!("logout_token={token}&more=1")).await;
    assert_eq!(cache, "no-store");
    assert!(!text.contains("u-17") && !text.contains("sid-"), "{text}");
    status
}

fn claims(house: &House, more: Value) -> Value {
    let now = house.place.clock.now().seconds();
    let mut claims = json!({"iss": house.provider.issuer, "aud": "loopgate", "iat": now, "exp": now + 120,
        "jti": loopgate::id::new(), "events": {EVENT: {}}});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

fn token(house: &House, more: Value) -> String {
    house.provider.keys.sign_as("logout+jwt", "ES256", "p256", &claims(house, more))
}

/// A browser signs in; the provider calls its session by this name, or by none.
async fn signs_in(house: &House, sub: &str, sid: Option<&str>) -> String {
    let (asked, away) = house.begins("/").await;
    let mut claims = house.provider.claims(&asked, &json!(["hub-desk"]));
    claims["sub"] = sub.into();
    if let Some(sid) = sid {
        claims["sid"] = sid.into();
    }
    let code = house.provider.grants(&asked, house.provider.keys.sign("RS256", "rsa", &claims));
    house.returns(&code, &asked["state"], &away).await.cookie(SESSION).unwrap()
}

async fn live(house: &House, cookies: &[&String]) -> Vec<bool> {
    let mut live = Vec::new();
    for cookie in cookies {
        live.push(house.role(cookie).await == Some(PersonRole::Coordinator));
    }
    live
}

//
on_both!(the_provider_ends_the_sessions_it_names_and_no_others, async |place| {
    let house = House::new(place).await;
    let (one, other) = (signs_in(&house, "u-17", Some("sid-1")).await, signs_in(&house, "u-17", Some("sid-2")).await);
    let (strangers, unnamed) = (signs_in(&house, "u-18", Some("sid-3")).await, signs_in(&house, "u-18", None).await);
    let all = [&one, &other, &strangers, &unnamed];
    // A name that is unknown, or another person's, ends nothing, and the provider is told that all is well.
    for nobodys in [json!({"sid": "sid-9"}), json!({"sub": "u-99"}), json!({"sub": "u-99", "sid": "sid-1"})] {
        assert_eq!(logs_out(&house.gateway, &token(&house, nobodys)).await, 200);
    }
    assert_eq!(live(&house, &all).await, [true; 4]);
    assert_eq!(logs_out(&house.gateway, &token(&house, json!({"sid": "sid-1"}))).await, 200);
    assert_eq!(live(&house, &all).await, [false, true, true, true]);
    // Of a person: that session, and those of which nobody knows what the provider calls them.
    assert_eq!(logs_out(&house.gateway, &token(&house, json!({"sub": "u-18", "sid": "sid-3"}))).await, 200);
    assert_eq!(live(&house, &all).await, [false, true, false, false]);
    // At another gateway of the same database: all of a person's.
    let more = signs_in(&house, "u-17", Some("sid-4")).await;
    let another = open(&house.place, &settings(&house.place, &house.provider.issuer, ROLES)).await;
    assert_eq!(logs_out(&another, &token(&house, json!({"sub": "u-17"}))).await, 200);
    assert_eq!(live(&house, &[&other, &more]).await, [false, false]);
    let store = house.place.open().await;
    let rows = store.read().await.unwrap().all("select person from audit where action = 'logout'", Vec::new()).await;
    let whose: Vec<String> = rows.unwrap().iter().map(|row| row.text(0).unwrap()).collect();
    assert_eq!(whose.iter().filter(|person| person.ends_with("|u-17")).count(), 3, "{whose:?}");
    assert_eq!(whose.iter().filter(|person| person.ends_with("|u-18")).count(), 2, "{whose:?}");
});

#[tokio::test]
async fn whatever_is_wrong_with_a_logout_token_ends_nothing() {
    let house = House::new(Place::sqlite()).await;
    let cookie = signs_in(&house, "u-17", Some("sid-1")).await;
    let (keys, strangers, now) = (&house.provider.keys, Keys::new(), house.place.clock.now().seconds());
    let whole = || claims(&house, json!({"sub": "u-17", "sid": "sid-1"}));
    let with = |name: &str, value: Value| {
        let mut claims = whole();
        claims[name] = value;
        keys.sign_as("logout+jwt", "RS256", "rsa", &claims)
    };
    let without = |names: &[&str]| {
        let mut claims = whole();
        claims.as_object_mut().unwrap().retain(|name, _| !names.contains(&name.as_str()));
        keys.sign("RS256", "rsa", &claims)
    };
    let good = keys.sign("RS256", "rsa", &whole());
    let (head, rest) = good.split_once('.').unwrap();
    let (body, _) = rest.split_once('.').unwrap();
    for (what, token) in [
        ("nothing", String::new()),
        ("no JWT", "x.y.z".into()),
        ("no signature", format!("{head}.{body}.")),
        ("too long", "x".repeat(20_000)),
        ("alg none", keys.sign("none", "rsa", &whole())),
        ("the public key as a shared secret", keys.sign("HS256", "rsa", &whole())),
        ("another's key", strangers.sign("RS256", "rsa", &whole())),
        ("a key that is not there", keys.sign("RS256", "nowhere", &whole())),
        ("a key for secrets", keys.sign("RS256", "for-secrets", &whole())),
        ("an access token", keys.sign_as("at+jwt", "RS256", "rsa", &whole())),
        ("a security event of another kind", keys.sign_as("secevent+jwt", "RS256", "rsa", &whole())),
        ("another issuer's", with("iss", json!("https://evil.test"))),
        ("for another client", with("aud", json!("other"))),
        ("for others too", with("aud", json!(["loopgate", "other"]))),
        ("expired", with("exp", json!(now - 61))),
        ("of the future", with("iat", json!(now + 61))),
        ("an ID token", with("nonce", json!("n"))),
        ("a nonce that is null", with("nonce", Value::Null)),
        ("no event", with("events", json!({}))),
        ("another event", with("events", json!({"http://schemas.openid.net/event/other": {}}))),
        ("an event that is no object", with("events", json!({EVENT: true}))),
        ("events as a list", with("events", json!([EVENT]))),
        ("a sid that is no text", with("sid", json!(1))),
        ("an empty sub", with("sub", json!(""))),
        ("a long jti", with("jti", json!("x".repeat(257)))),
        ("no events", without(&["events"])),
        ("no jti", without(&["jti"])),
        ("no iat", without(&["iat"])),
        ("no exp", without(&["exp"])),
        ("no iss", without(&["iss"])),
        ("no aud", without(&["aud"])),
        ("nobody", without(&["sub", "sid"])),
    ] {
        assert_eq!(logs_out(&house.gateway, &token).await, 400, "{what}");
        assert_eq!(live(&house, &[&cookie]).await, [true], "{what}");
    }
    for (kind, body) in [
        ("application/json", format!("{{\"logout_token\":\"{good}\"}}")),
        ("application/x-www-form-urlencoded", format!("logout_token={good}&logout_token={good}")),
        ("application/x-www-form-urlencoded", format!("id_token={good}")),
        ("application/x-www-form-urlencoded", String::new()),
    ] {
        assert_eq!(post(&house.gateway, kind, body).await.0, 400, "{kind}");
    }
    assert_eq!(live(&house, &[&cookie]).await, [true]);
    // Once, everywhere: shown again it ends nothing that began since.
    assert_eq!(logs_out(&house.gateway, &good).await, 200);
    assert_eq!(live(&house, &[&cookie]).await, [false]);
    let cookie = signs_in(&house, "u-17", Some("sid-1")).await;
    let another = open(&house.place, &settings(&house.place, &house.provider.issuer, ROLES)).await;
    assert_eq!((logs_out(&house.gateway, &good).await, logs_out(&another, &good).await), (400, 400));
    assert_eq!(live(&house, &[&cookie]).await, [true]);
    // A logout token lets nobody in.
    let (asked, away) = house.begins("/").await;
    let mut token = whole();
    token["roles"] = json!(["hub-desk"]);
    let code = house.provider.grants(&asked, keys.sign("RS256", "rsa", &token));
    assert_eq!(house.returns(&code, &asked["state"], &away).await.status, 403);
}
