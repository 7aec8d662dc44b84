//! The servers of the field as they are: HAPI's and the older reference systems' ways, which the standard leaves open or
//! forbids, and which we get along with.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{EHR, Fault, PANTRY, TestGateway};

const HOUR: Duration = Duration::from_secs(3_600);

/// Relayed to the pantry: the sources' Tasks.
async fn referred(county: &TestGateway, many: usize) -> Vec<String> {
    let mut tasks = Vec::new();
    for number in 0..many {
        tasks.push(county.refers(&format!("r{number}"), "food-insecurity").await);
    }
    county.deliver_due().await;
    tasks
}

fn pantry_accepts_all(county: &TestGateway) {
    county.world.at(PANTRY, |pantry| {
        let ids: Vec<String> = pantry.all("Task").iter().map(|task| task["id"].as_str().unwrap().to_string()).collect();
        for id in ids {
            pantry.update("Task", &id, |task| task["status"] = json!("accepted"));
        }
    });
}

/// A Task that the clinic keeps at home, relayed to the agency; ours.
async fn kept(county: &TestGateway) -> String {
    let mut task = county.referral("kept", "housing-instability", Some("https://hub.test/fhir/Organization/hub"));
    task["id"] = json!("kept-1");
    county.world.at(EHR, |ehr| ehr.put(task));
    county.poll("clinic").await;
    let all = county.get("root", "Task?requester=Organization/hub").await.entries();
    all[0]["id"].as_str().unwrap().to_string()
}

fn at_home(county: &TestGateway) -> Value {
    county.world.at(EHR, |ehr| ehr.get("Task", "kept-1").unwrap()["status"].clone())
}

// Behind a proxy HAPI gives pages and places under the address that it knows itself by.
#[tokio::test]
async fn a_server_behind_a_proxy_is_paged_through_at_its_registered_base() {
    let county = TestGateway::county().await;
    county.world.inside(PANTRY, "http://hapi:8080/fhir");
    county.world.at(PANTRY, |pantry| pantry.set_page_size(1));
    let county = county.settled().await;
    let tasks = referred(&county, 3).await;
    county.later(HOUR).await;
    pantry_accepts_all(&county);
    county.later(HOUR).await;
    for task in &tasks {
        assert_eq!(county.status(task).await, "in-progress");
    }
    assert!(county.world.requests().iter().all(|one| !one.contains("hapi:8080")), "nobody dials what is inside");
}

// What a page calls its own base is believed for that page's own search alone.
#[tokio::test]
async fn a_page_does_not_lead_away() {
    let county = TestGateway::county().await.settled().await;
    const AWAY: &str = r#"{"resourceType":"Bundle","type":"searchset","link":[{"relation":"self","url":"https://evil.test/fhir/Patient"},
        {"relation":"next","url":"https://evil.test/fhir/Task?page=2"}]}"#;
    county.world.fault(PANTRY, &[Fault::Say(200, &[], AWAY)]);
    county.later(HOUR).await;
    assert!(county.world.requests().iter().all(|one| !one.contains("evil")));
}

// HAPI takes weak tags, and asks for them; a server by RFC 9110 takes none but strong ones.
#[tokio::test]
async fn a_tag_is_shown_in_the_form_that_a_server_takes() {
    for strong in [false, true] {
        let county = TestGateway::county().await;
        if strong {
            county.world.strong(EHR);
            county.world.strong(PANTRY);
        }
        let county = county.settled().await;
        let ours = kept(&county).await;
        assert_eq!(at_home(&county), "accepted", "strong: {strong}");
        county.answers("agency", &ours, "accepted").await;
        county.answers("agency", &ours, "in-progress").await;
        county.answers("agency", &ours, "completed").await;
        county.deliver_due().await;
        assert_eq!(at_home(&county), "completed", "strong: {strong}");
        // Calling off, at a target's server.
        let task = referred(&county, 1).await.remove(0);
        let mut body = county.get("clinic", &format!("Task/{task}")).await.body;
        body["status"] = json!("cancelled");
        assert_eq!(county.put("clinic", &format!("Task/{task}"), &body).await.status, 200);
        county.deliver_due().await;
        let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task").last().unwrap()["status"].clone());
        assert_eq!(theirs, "cancelled", "strong: {strong}");
    }
}

// A time stamp is written in many ways, and read in fewer.
#[tokio::test]
async fn times_are_asked_for_in_milliseconds() {
    let county = TestGateway::county().await.settled().await;
    let now = county.clock.now();
    county.world.at(PANTRY, |pantry| pantry.set_now("2031-04-05T06:07:08.123456-05:00"));
    county.gateway.app.poll_now("pantry").await.unwrap();
    county.deliver_due().await;
    county.later(HOUR).await;
    let asked = county.world.requests();
    let asked = asked.iter().rev().find(|one| one.contains("Task?requester=")).unwrap();
    assert!(asked.contains("_lastUpdated=ge2031-04-05T11:07:06.123Z&"), "{asked}; it was {now}");
}

// The older reference systems know a Task by `received` once they have it, and by `ready`: neither is ever sent on.
#[tokio::test]
async fn the_older_statuses_are_understood() {
    let county = TestGateway::county().await.settled().await;
    let task = referred(&county, 1).await.remove(0);
    for (theirs, ours) in [("received", "accepted"), ("ready", "in-progress")] {
        county.later(Duration::from_secs(60)).await;
        county.world.at(PANTRY, |pantry| {
            let id = pantry.all("Task")[0]["id"].as_str().unwrap().to_string();
            pantry.update("Task", &id, |task| task["status"] = json!(theirs));
        });
        county.later(HOUR).await;
        assert_eq!(county.status(&task).await, ours, "{theirs}");
    }
    assert!(
        county.world.bodies().iter().all(|(_, body)| !body.contains("\"received\"") && !body.contains("\"ready\""))
    );
}
