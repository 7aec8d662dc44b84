//! The four flows, end to end.

use loopgate::demo::patient;
use serde_json::json;

use crate::gateway::{PANTRY, TestGateway};

// G-015…G-026: indirect, both sides with servers.
#[tokio::test]
async fn a_referral_goes_round_through_a_target_with_a_server() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    assert_eq!(county.status(&task).await, "requested");
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "accepted");
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0].clone());
    let id = theirs["id"].as_str().unwrap();
    assert_eq!(theirs["status"], "requested");
    assert!(theirs["focus"]["reference"].as_str().unwrap().starts_with("https://hub.test/fhir/ServiceRequest/"));

    county.world.at(PANTRY, |pantry| pantry.update("Task", id, |task| task["status"] = json!("accepted")));
    county.poll("pantry").await;
    assert_eq!(county.status(&task).await, "in-progress");

    county.world.at(PANTRY, |pantry| {
        let focus = theirs["focus"]["reference"].as_str().unwrap();
        let subject = theirs["for"]["reference"].as_str().unwrap();
        let procedure = pantry.put(patient::procedure(focus, subject, "food-insecurity", "2027-01-15T09:00:00Z"));
        pantry.update("Task", id, |task| patient::completed_with(task, &format!("Procedure/{procedure}")));
    });
    county.poll("pantry").await;
    assert_eq!(county.status(&task).await, "completed");
    assert_eq!(county.level(&task).await, ("L3".to_string(), false));

    let mine = county.get("clinic", &format!("Task/{task}")).await;
    let outcome = mine.body["output"][0]["valueReference"]["reference"].as_str().unwrap().to_string();
    assert_eq!(county.get("clinic", &outcome).await.status, 200);
    assert_eq!(county.level(&task).await, ("L4".to_string(), true));
}

// G-035: indirect light.
#[tokio::test]
async fn a_light_target_works_on_our_api() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let found = county.get("agency", "Task?owner=Organization/agency&status=requested").await.entries();
    let theirs = found[0]["id"].as_str().unwrap();
    assert_eq!(county.answers("agency", theirs, "accepted").await.status, 200);
    assert_eq!(county.status(&task).await, "in-progress");
}
