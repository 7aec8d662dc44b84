//! An independent reader of FHIR R4 (fhirbolt) must read what the gateway makes: relayed Tasks and requests, Provenance,
//! notifications, the CapabilityStatement, outcomes. It is an oracle for form alone; it checks no profile.

use fhirbolt::FhirReleases;
use fhirbolt::element::Element;
use serde_json::{Value, json};

use crate::gateway::{HANDSHAKE, HOOK, TestGateway};

fn reads(value: &Value) {
    let read = fhirbolt::json::from_str::<Element<{ FhirReleases::R4 }>>(&value.to_string(), None);
    assert!(read.is_ok(), "{}: {value:#}", read.err().map(|error| error.to_string()).unwrap_or_default());
}

#[tokio::test]
async fn what_we_make_is_fhir_to_another_reader() {
    let county = TestGateway::county().await;
    let backport = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content";
    let subscription = json!({"resourceType": "Subscription", "status": "requested", "reason": "x",
        "criteria": loopgate::fhir::subscription::TASK_TOPIC,
        "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": backport, "valueCode": "id-only"}]}}});
    assert_eq!(county.post("clinic", "Subscription", &subscription).await.status, 201);
    county.later(HANDSHAKE).await;
    let food = county.refers("sr1", "food-insecurity").await;
    let housing = county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&housing).await;
    assert_eq!(county.answers("agency", &theirs[0], "rejected").await.status, 200);
    county.deliver_due().await;
    for kind in ["Task", "ServiceRequest", "Provenance", "Organization", "HealthcareService", "Subscription", "Consent"]
    {
        let found = county.get("root", kind).await;
        assert!(!found.entries().is_empty(), "{kind}");
        reads(&found.body);
    }
    reads(&county.get("root", &format!("Task/{food}/_history")).await.body);
    reads(&county.get("desk", &format!("Task/{food}/$loop-status")).await.body);
    reads(&county.get("", "metadata").await.body);
    reads(&county.get("root", "Task/none").await.body);
    let heard = county.world.heard(HOOK);
    assert!(heard.len() >= 3);
    heard.iter().for_each(reads);
    let sent = county.world.at(crate::gateway::PANTRY, |pantry| pantry.all("Task")[0].clone());
    reads(&sent);
}
