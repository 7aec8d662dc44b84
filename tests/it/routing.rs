//! Where a referral goes, and that none is looked over in silence.

use std::time::Duration;

use loopgate::demo::patient;
use serde_json::json;

use crate::databases::Place;
use crate::gateway::{EHR, TestGateway, county, partner};

// D6, direct light: an EHR's Task that can't be taken says so on the EHR's own server.
#[tokio::test]
async fn an_invalid_task_at_the_ehr_is_rejected_there_with_the_fault() {
    let county = TestGateway::county().await;
    let now = county.clock.now().to_string();
    let mut task = county.referral("sr1", "food-insecurity", Some("https://hub.test/fhir/Organization/hub"));
    task["id"] = json!("kept");
    task["intent"] = json!("plan");
    county.world.at(EHR, |ehr| ehr.put(task));
    county.poll("clinic").await;
    let kept = county.world.at(EHR, |ehr| ehr.get("Task", "kept").cloned().unwrap());
    assert_eq!(kept["status"], "rejected", "{kept} {now}");
    assert!(kept["statusReason"]["text"].as_str().unwrap().contains("Task.intent"));
    let found = county.get("desk", "Task?status=rejected").await.entries();
    assert_eq!(found.len(), 1);
    assert_eq!(county.level(found[0]["id"].as_str().unwrap()).await, ("L4".to_string(), true));
}

// D12: the named performer is found by the identifiers of the source's own record of it.
#[tokio::test]
async fn a_performer_is_known_by_the_identifiers_of_the_sources_own_record() {
    let county = TestGateway::county().await;
    let task = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    county.world.at(EHR, |ehr| {
        ehr.put(json!({"resourceType": "Organization", "id": "their-pantry", "active": true, "name": "x",
            "identifier": [{"system": "urn:npi", "value": "77"}]}));
        ehr.update("ServiceRequest", "sr1", |request| {
            request["performer"] = json!([{"reference": "Organization/their-pantry"}])
        });
    });
    let id = county.post("clinic", "Task", &task).await.id();
    county.deliver_due().await;
    let ours = county.relayed(&id).await;
    assert_eq!(county.task(&ours[0]).await["owner"]["reference"], "Organization/pantry");
}

// D12: whoever was named is not replaced by somebody else because the gateway can't reach them.
#[tokio::test]
async fn a_named_organization_that_cannot_be_reached_waits_for_a_coordinator() {
    let county = TestGateway::county().await;
    let other = json!({"resourceType": "Organization", "active": true, "name": "Elsewhere"});
    let other = county.post("desk", "Organization", &other).await.id();
    let task = county.referral("sr1", "food-insecurity", Some(&format!("Organization/{other}")));
    let id = county.post("clinic", "Task", &task).await.id();
    county.deliver_due().await;
    assert_eq!(county.status(&id).await, "requested");
    assert!(county.relayed(&id).await.is_empty());
    let loop_status = county.get("desk", &format!("Task/{id}/$loop-status")).await.body.to_string();
    assert!(loop_status.contains("Organization/hub") && loop_status.contains("held"), "{loop_status}");
}

#[tokio::test]
async fn without_a_coordinator_the_source_is_told_that_nobody_offers_it() {
    let settings = partner("clinic", "\"source\"", &format!("fhir = {{ base = \"{EHR}\" }}"))
        + &partner("root", "\"operator\"", "");
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let id = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let task = county.task(&id).await;
    assert_eq!(task["status"], "rejected");
    assert_eq!(task["statusReason"]["coding"][0]["code"], "unroutable");
}

#[tokio::test]
async fn a_request_on_hold_is_routed_when_it_is_active_again() {
    let county = TestGateway::county().await;
    let task = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "sr1", |request| request["status"] = json!("on-hold")));
    let id = county.post("clinic", "Task", &task).await.id();
    county.deliver_due().await;
    assert!(county.relayed(&id).await.is_empty());
    county.poll("clinic").await;
    county.clock.advance(Duration::from_secs(60));
    county.world.tell_time(&county.clock.now().to_string());
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "sr1", |request| request["status"] = json!("active")));
    county.poll("clinic").await;
    assert_eq!(county.status(&id).await, "accepted");
    assert_eq!(county.relayed(&id).await.len(), 1);
}

// $relay before the fetch has ended: what was prepared goes when the consent turns out to be missing.
#[tokio::test]
async fn a_relay_prepared_too_early_ends_with_the_refusal() {
    let county = TestGateway::county().await;
    let task = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    county.world.at(EHR, |ehr| {
        ehr.update("Consent", &patient::CONSENT.replace("Consent/", ""), |consent| {
            consent["status"] = json!("inactive")
        })
    });
    let id = county.post("clinic", "Task", &task).await.id();
    let asked = json!({"resourceType": "Parameters", "parameter": [{"name": "target", "valueReference": {"reference": "Organization/agency"}}]});
    let made = county.post("desk", &format!("Task/{id}/$relay"), &asked).await;
    assert_eq!((made.status, made.entries()[0]["status"].as_str()), (200, Some("draft")));
    assert!(county.get("agency", "Task").await.entries().is_empty());
    county.deliver_due().await;
    assert_eq!(county.status(&id).await, "rejected");
    assert_eq!(county.status(&county.relayed(&id).await[0]).await, "cancelled");
    assert!(county.get("agency", "Task").await.entries().is_empty());
}

// A partner that leaves the configuration is not a referral that is forgotten.
#[tokio::test]
async fn what_is_owed_to_a_partner_that_left_fails_and_is_told() {
    let place = Place::sqlite();
    let mut county = TestGateway::with(place, &county()).await;
    let id = county.refers("sr1", "food-insecurity").await;
    county.world.down(crate::gateway::PANTRY);
    county.deliver_due().await;
    assert_eq!(county.status(&id).await, "accepted");
    county.without("pantry").await;
    for _ in 0..4 {
        county.later(Duration::from_secs(600)).await;
    }
    assert_eq!(county.status(&id).await, "failed");
}

// What the door does not offer, no entry of a Bundle gets either.
//
#[tokio::test]
async fn an_entry_gets_no_more_than_a_single_request() {
    let county = TestGateway::county().await;
    let encounter = json!({"resourceType": "Encounter", "status": "finished", "class": {"code": "AMB"}});
    assert_eq!(county.post("clinic", "Encounter", &encounter).await.status, 405);
    let entry = json!({"resource": encounter, "request": {"method": "POST", "url": "Encounter"}});
    for (kind, path) in [("batch", "/entry/0/response/status"), ("transaction", "/issue/0/code")] {
        let bundle = json!({"resourceType": "Bundle", "type": kind, "entry": [entry.clone()]});
        let answer = county.post("clinic", "", &bundle).await.body;
        let found = answer.pointer(path).and_then(|value| value.as_str()).unwrap_or("");
        assert!(found == "405" || found == "not-supported", "{kind}: {answer}");
    }
}

// A configured scope is enforced in every use case.
// G-177
#[tokio::test]
async fn scopes_narrow_what_a_role_allows() {
    let narrow = partner("narrow", "\"source\"", "scopes = [\"system/Task.rs\", \"system/Patient.read\"]");
    let county = TestGateway::with(Place::sqlite(), &(county() + &narrow)).await;
    assert_eq!(county.get("narrow", "Task").await.status, 200);
    assert_eq!(county.get("narrow", "Patient").await.status, 200);
    assert_eq!(county.get("narrow", "ServiceRequest").await.status, 403);
    let patient = json!({"resourceType": "Patient"});
    assert_eq!(county.post("narrow", "Patient", &patient).await.status, 403);
}
