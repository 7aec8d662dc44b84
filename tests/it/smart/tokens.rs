//! The life of an access token: what it is granted, asked about, taken back, and what outlives it.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

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
