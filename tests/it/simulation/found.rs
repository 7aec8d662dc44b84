//! What seeds once found, as tests of their own.

use super::*;

/// A Task for a ride home that the clinic keeps at its own server, found and relayed; its id here, and our Task's.
async fn kept_at_home(county: &TestGateway) -> (String, String) {
    let now = county.clock.now().to_string();
    let owner = Some("https://hub.test/fhir/Organization/hub");
    let focus = "ServiceRequest/sr";
    county.world.at(EHR, |ehr| {
        ehr.put(patient::service_request("sr", "housing-instability", &now));
        ehr.put(patient::referral_task(Some("kept"), focus, patient::REQUESTER, patient::PATIENT, owner, &now));
    });
    county.poll("clinic").await;
    let relayed = county.get("root", "Task?requester=Organization/hub").await.entries();
    let parent = relayed[0]["partOf"][0]["reference"].as_str().unwrap().trim_start_matches("Task/").to_string();
    (parent, relayed[0]["id"].as_str().unwrap().to_string())
}

fn status_at(county: &TestGateway, base: &str, id: &str) -> String {
    county.world.at(base, |house| house.get("Task", id).unwrap()["status"].as_str().unwrap().to_string())
}

/// The partner is away until every try has been used up, and comes back.
async fn away_too_long(county: &TestGateway, base: &str) {
    county.world.down(base);
    for _ in 0..6 {
        county.later(Duration::from_secs(300)).await;
    }
    county.world.up(base);
    for _ in 0..2 {
        county.later(Duration::from_secs(3_700)).await;
    }
}

// Seeds 60 and 146 of the first version: only a change made at its own server needs no writing there.
#[tokio::test]
async fn a_source_that_keeps_its_task_may_cancel_it_here() {
    let county = TestGateway::county().await;
    let (task, _) = kept_at_home(&county).await;
    let mut body = county.get("clinic", &format!("Task/{task}")).await.body;
    body["status"] = json!("cancelled");
    assert_eq!(county.put("clinic", &format!("Task/{task}"), &body).await.status, 200);
    county.deliver_due().await;
    assert_eq!(status_at(&county, EHR, "kept"), "cancelled");
    assert!(county.level(&task).await.1, "the loop is open");
}

// Seeds 1, 110 and 144.
#[tokio::test]
async fn an_ehr_that_was_away_too_long_gets_its_status_when_it_is_back() {
    let county = TestGateway::county().await;
    let (task, ours) = kept_at_home(&county).await;
    county.answers("agency", &ours, "accepted").await;
    away_too_long(&county, EHR).await;
    assert_eq!(status_at(&county, EHR, "kept"), "in-progress");
    assert_eq!(county.status(&task).await, "in-progress");
}

// Read once, a referral does not end because a copy could not be read again.
#[tokio::test]
async fn a_copy_that_cannot_be_read_again_does_not_end_the_referral() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.poll("clinic").await;
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "sr1", |one| one["note"] = json!([{"text": "urgent"}])));
    // The change is heard of, and then its EHR answers nothing but searches.
    county.clock.advance(Duration::from_secs(3_700));
    county.world.tell_time(&county.clock.now().to_string());
    let polls = county.gateway.app.claim(9, &Busy::default()).await.unwrap();
    for poll in polls {
        county.worker().attend(&poll).await;
    }
    away_too_long(&county, EHR).await;
    assert_eq!(county.status(&task).await, "accepted");
    let ours = county.relayed(&task).await.remove(0);
    let focus = county.task(&ours).await["focus"]["reference"].as_str().unwrap().to_string();
    assert_eq!(county.get("agency", &focus).await.body["note"][0]["text"], "urgent");
}

// What may stand at the pantry though no answer came back is called off there once it can be reached.
#[tokio::test]
async fn a_delivery_given_up_does_not_stay_at_the_target() {
    let county = TestGateway::county().await;
    county.deliver_due().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.world.fault(PANTRY, &[Fault::LoseAnswer]);
    county.deliver_due().await;
    away_too_long(&county, PANTRY).await;
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0]["id"].as_str().unwrap().to_string());
    assert_eq!(status_at(&county, PANTRY, &theirs), "cancelled");
    assert_eq!(county.status(&task).await, "failed");
}

// What a target answered while it could not be read is read when it can.
#[tokio::test]
async fn an_answer_that_could_not_be_read_in_time_is_read_later() {
    let county = TestGateway::county().await;
    county.deliver_due().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0]["id"].as_str().unwrap().to_string());
    county.world.at(PANTRY, |pantry| pantry.update("Task", &theirs, |task| task["status"] = json!("accepted")));
    county.gateway.app.poll_now("pantry").await.unwrap();
    let polls = county.gateway.app.claim(9, &Busy::default()).await.unwrap();
    for poll in polls {
        county.worker().attend(&poll).await;
    }
    away_too_long(&county, PANTRY).await;
    assert_eq!(county.status(&task).await, "in-progress");
}

// Seed 142: both have ended it, each in its own way.
#[tokio::test]
async fn two_endings_are_on_record() {
    let county = TestGateway::county().await;
    let (task, ours) = kept_at_home(&county).await;
    county.answers("agency", &ours, "rejected").await;
    county.world.at(EHR, |ehr| ehr.update("Task", "kept", |task| task["status"] = json!("cancelled")));
    county.poll("clinic").await;
    assert_eq!((county.status(&task).await, status_at(&county, EHR, "kept")), ("failed".into(), "cancelled".into()));
    let standing = county.get("desk", &format!("Task/{task}/$loop-status")).await.body.to_string();
    assert!(standing.contains("ignored"), "{standing}");
}
