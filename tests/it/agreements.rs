//! Agreements that stand in for a Consent which is not there (issue of safety: consent, G-184).

use std::time::Duration;

use serde_json::{Value, json};

use crate::acts::reference;
use crate::databases::Place;
use crate::gateway::{TestGateway, county};
use crate::intake::{entry, transaction};

/// A county whose agency has an agreement until the end of this day (the clock of tests stands on 2027-01-15).
async fn agreed(more: &str) -> TestGateway {
    let with = "channel = \"light\"\nagreement = { from = \"2026-01-01\", until = \"2027-01-15\" }\nservices = [{ id = \"agency-housing\"";
    let settings = county().replacen("channel = \"light\"\nservices = [{ id = \"agency-housing\"", with, 1);
    assert_ne!(settings, county());
    TestGateway::with(Place::sqlite(), &format!("{more}{settings}")).await
}

/// A referral that names no Consent.
fn without_consent(county: &TestGateway, category: &str) -> Value {
    let mut bundle = transaction(county, category);
    entry(&mut bundle, "ServiceRequest").as_object_mut().unwrap().shift_remove("supportingInfo");
    bundle
}

async fn told(county: &TestGateway, bundle: &Value) -> (String, String) {
    let answer = county.post("clinic", "", bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let find = |kind: &str| answer.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    (find("Task")["id"].as_str().unwrap().to_string(), reference(&find("ServiceRequest")["subject"]))
}

#[tokio::test]
async fn an_agreement_stands_in_for_a_consent_until_it_ends() {
    let county = agreed("").await;
    let (task, person) = told(&county, &without_consent(&county, "housing-instability")).await;
    assert_eq!(county.get("agency", &person).await.status, 200);
    let decided = county.get("root", "AuditEvent?subtype=AuthZ-Consent&agent=Organization/agency").await.entries();
    assert!(!decided.is_empty() && decided.iter().all(|one| !one.to_string().contains("Consent/")), "{decided:?}");
    // Until the day is over, and no longer.
    let midnight = loopgate::time::Timestamp::parse("2027-01-16T00:00:00Z").unwrap();
    county.later(midnight.since(county.clock.now()) - Duration::from_secs(1)).await;
    assert_eq!(county.get("agency", &person).await.status, 200);
    county.later(Duration::from_secs(2)).await;
    assert_eq!(county.get("agency", &person).await.status, 404);
    let source = county.task(&task).await;
    assert_eq!(
        (&source["status"], &source["statusReason"]["coding"][0]["code"]),
        (&json!("cancelled"), &json!("no-consent"))
    );
    let refused = county.post("clinic", "", &without_consent(&county, "housing-instability")).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
}

// It is one target's, for what names no Consent, and never for sensitive needs; a Consent that is named counts.
#[tokio::test]
async fn an_agreement_goes_no_further() {
    let county = agreed("[consent]\nsensitive = [\"homelessness\"]\n").await;
    // Nobody who offers food has one.
    let (task, person) = told(&county, &without_consent(&county, "food-insecurity")).await;
    assert!(county.relayed(&task).await.is_empty());
    for who in ["agency", "kitchen", "pantry"] {
        assert_eq!(county.get(who, &person).await.status, 404, "{who}");
    }
    let sensitive = county.post("clinic", "", &without_consent(&county, "homelessness")).await;
    assert_eq!(sensitive.status, 422, "{}", sensitive.body);
    for change in [json!({"status": "inactive"}), json!({"provision": {"type": "deny"}})] {
        let mut bundle = transaction(&county, "housing-instability");
        let consent = entry(&mut bundle, "Consent");
        change.as_object().unwrap().iter().for_each(|(name, value)| consent[name] = value.clone());
        let refused = county.post("clinic", "", &bundle).await;
        assert_eq!(refused.status, 422, "{change}: {}", refused.body);
    }
    // Nor does a coordinator get round it.
    let target = json!({"resourceType": "Parameters", "parameter": [{"name": "target",
        "valueReference": {"reference": "Organization/kitchen"}}]});
    assert_eq!(county.post("desk", &format!("Task/{task}/$relay"), &target).await.status, 422);
}

// What is taken out of the configuration ends what rests on it at the next start.
#[tokio::test]
async fn an_agreement_that_is_gone_ends_at_the_next_start() {
    let county = agreed("").await;
    let (task, person) = told(&county, &without_consent(&county, "housing-instability")).await;
    assert_eq!(county.get("agency", &person).await.status, 200);
    let later = county.over(&crate::gateway::county()).await;
    later.worker.deliver_due().await.unwrap();
    assert_eq!(county.get("agency", &person).await.status, 404);
    assert_eq!(county.status(&task).await, "cancelled");
}
