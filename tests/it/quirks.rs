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
    let asked = asked.iter().rev().find(|one| one.contains("Task?requester=") && one.contains("ge2031")).unwrap();
    assert!(asked.contains("_lastUpdated=ge2031-04-05T11:06:08.123Z&"), "{asked}; it was {now}");
}

// What stands before a server may answer in its place, with 200 and a page for people: what was not taken is written again.
#[tokio::test]
async fn a_success_that_is_not_the_servers_is_none() {
    const PAGE: Fault = Fault::Say(200, &[("content-type", "text/html")], "<html>We are back soon.</html>");
    const FINE: Fault = Fault::Say(200, &[], r#"{"resourceType":"OperationOutcome","issue":[]}"#);
    for answer in [PAGE, FINE] {
        let county = TestGateway::county().await.settled().await;
        let ours = kept(&county).await;
        county.world.fault(EHR, &[Fault::None, answer]);
        county.answers("agency", &ours, "accepted").await;
        county.deliver_due().await;
        assert_eq!(at_home(&county), "accepted", "{answer:?}");
        county.later(Duration::from_secs(6)).await;
        assert_eq!(at_home(&county), "in-progress", "{answer:?}");
        // Calling off, at a target's server.
        let task = referred(&county, 1).await.remove(0);
        let theirs = || county.world.at(PANTRY, |pantry| pantry.all("Task").last().unwrap()["status"].clone());
        county.world.fault(PANTRY, &[Fault::None, answer]);
        county.change("clinic", &task, |task| task["status"] = json!("cancelled")).await;
        county.deliver_due().await;
        assert_eq!(theirs(), "requested", "{answer:?}");
        county.later(Duration::from_secs(6)).await;
        assert_eq!(theirs(), "cancelled", "{answer:?}");
    }
}

// A server may know Tasks and not find, or not show, something that they refer to: the rest is followed all the same.
#[tokio::test]
async fn a_search_that_is_refused_holds_up_no_other() {
    for status in [400, 403, 404, 501] {
        let county = TestGateway::county().await;
        county.world.at(EHR, |ehr| ehr.set_batch(false));
        let county = county.settled().await;
        let ours = kept(&county).await;
        for kind in ["Patient?_id", "Consent?_id", "PractitionerRole?_id"] {
            county.world.refuse(EHR, "GET", kind, &[status; 100]);
        }
        county.later(HOUR).await;
        county.later(Duration::from_secs(10)).await;
        county.world.at(EHR, |ehr| {
            ehr.update("Task", "kept-1", |task| task["status"] = json!("cancelled"));
            ehr.update("ServiceRequest", "kept", |one| one["note"] = json!([{"text": "by the back door"}]))
        });
        county.later(HOUR).await;
        assert_eq!(county.status(&ours).await, "cancelled", "{status}");
        let failures = county.gateway.app.metrics().await.unwrap();
        assert!(failures.contains("loopgate_partner_failures{partner=\"clinic\"} 0"), "{status}: {failures}");
        let before = county.world.asked();
        county.later(24 * HOUR).await;
        assert!(county.world.asked() - before < 60, "{status}: {:?}", &county.world.requests()[before..]);
    }
}

// Who asks for two hours of peace gets them, though it would be asked each hour.
#[tokio::test]
async fn a_server_that_wants_peace_is_left_in_peace() {
    let county = TestGateway::county().await.settled().await;
    referred(&county, 1).await;
    county.world.fault(PANTRY, &[Fault::Say(429, &[("retry-after", "7200")], "{}")]);
    county.later(HOUR).await;
    let before = county.world.asked();
    for _ in 0..119 {
        county.later(Duration::from_secs(60)).await;
    }
    let asked = county.world.requests().split_off(before);
    assert!(!asked.iter().any(|one| one.contains(PANTRY)), "{asked:?}");
    county.later(Duration::from_secs(60)).await;
    assert!(county.world.requests().iter().skip(before).any(|one| one.contains("Task?requester")));
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
