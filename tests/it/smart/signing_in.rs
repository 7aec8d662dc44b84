//! We as a client: signing in at a partner's token endpoint with keys of ours.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::*;
use crate::gateway::PANTRY;

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

/// our own keys rotate: the new one goes in front of the old, and both are published while a server may hold an old
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
/// at a partner's server we sign in with a key of ours: one token serves until it ends, a 401 gets another, and
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

/// a token that is good for a moment, or says nothing sensible of its life, is not asked for with each request.
#[tokio::test]
async fn a_short_token_is_not_asked_for_with_each_request() {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    for (life, kept) in [(json!(30), 27), (json!(10), 9), (json!(0), 5), (json!("60"), 54), (json!(-5), 270)] {
        let county = signing_in(&pem(key.as_ref())).await;
        county.world.page(ENDPOINT, "", &json!({"access_token": "one", "expires_in": life}).to_string());
        county.world.at(PANTRY, |pantry| pantry.require_bearer("one"));
        let asked = || county.world.requests().iter().filter(|one| one.ends_with(ENDPOINT)).count();
        for number in 0..3 {
            county.refers(&format!("r{number}"), "food-insecurity").await;
        }
        county.deliver_due().await;
        assert_eq!(county.world.at(PANTRY, |pantry| pantry.all("Task").len()), 3);
        assert_eq!(asked(), 1, "{life}");
        county.clock.advance(Duration::from_secs(kept - 2));
        county.poll("pantry").await;
        assert_eq!(asked(), 1, "{life}: it is good for a while");
        county.clock.advance(Duration::from_secs(1));
        county.poll("pantry").await;
        assert_eq!(asked(), 2, "{life}: and is renewed before it ends");
    }
}
