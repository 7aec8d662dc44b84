//! Following partners' servers (design D15b): one question a round, nothing missed, nobody pestered.

mod rounds;

use std::time::Duration;

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{BASE, EHR, Fault, PANTRY, TestGateway, county as partners};
use crate::on_both;
use rounds::offsets;

const HOUR: Duration = Duration::from_secs(3_600);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What was asked since, without the base.
fn asked(county: &TestGateway, base: &str, since: usize) -> Vec<String> {
    let all = county.world.requests();
    all[since..].iter().filter(|one| one.contains(base)).map(|one| one.replace(base, "")).collect()
}

fn count(county: &TestGateway) -> usize {
    county.world.requests().len()
}

/// Refers this many needs to the pantry and delivers them; the ids there and ours, in order.
async fn referred(county: &TestGateway, many: usize) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for number in 0..many {
        let task = county.refers(&format!("need{number}"), "food-insecurity").await;
        county.deliver_due().await;
        let theirs: Value = county.world.at(PANTRY, |pantry| pantry.all("Task").last().cloned().cloned().unwrap());
        list.push((theirs["id"].as_str().unwrap().to_string(), task));
    }
    list
}

fn sets(county: &TestGateway, id: &str, status: &str) {
    county.world.at(PANTRY, |pantry| pantry.update("Task", id, |task| task["status"] = json!(status)));
}

// S-223
// G-003, G-033, G-132, G-133, G-134, G-195
#[tokio::test]
async fn a_quiet_round_is_one_request() {
    let county = TestGateway::county().await.settled().await;
    referred(&county, 2).await;
    county.later(HOUR).await;
    for _ in 0..3 {
        let before = count(&county);
        county.later(HOUR).await;
        let pantry = asked(&county, PANTRY, before);
        assert_eq!(pantry.len(), 1, "{pantry:?}");
        assert!(
            pantry[0].starts_with(&format!("GET /Task?requester={BASE}/Organization/hub&_lastUpdated=ge")),
            "{pantry:?}"
        );
        // A source that offers it is asked in one batch, also for what we hold copies of.
        assert_eq!(asked(&county, EHR, before), ["POST "], "one batch");
    }
}

#[tokio::test]
async fn a_source_without_batch_is_asked_one_by_one() {
    let county = TestGateway::county().await;
    county.world.at(EHR, |ehr| ehr.set_batch(false));
    let county = county.settled().await;
    referred(&county, 1).await;
    county.later(HOUR).await;
    let before = count(&county);
    county.later(HOUR).await;
    let asked = asked(&county, EHR, before);
    assert!(
        asked.len() > 1 && asked.iter().all(|one| one.starts_with("GET /") && one.contains("_lastUpdated=ge")),
        "{asked:?}"
    );
}

// G-135, S-223
#[tokio::test]
async fn nobody_is_asked_faster_than_configured() {
    let mut county = TestGateway::county().await.settled().await;
    let before = count(&county);
    county.later(HOUR - secs(2)).await;
    assert_eq!(count(&county), before);
    // Nor because the gateway starts again, or another one does: it looks once at what is offered.
    county.restart().await;
    county.deliver_due().await;
    county.another().await.worker.deliver_due().await.unwrap();
    let look = ["GET /metadata", "GET /.well-known/smart-configuration", "POST "];
    assert_eq!(asked(&county, PANTRY, before), look);
    let before = count(&county);
    county.later(secs(2)).await;
    assert_eq!(asked(&county, PANTRY, before).len(), 1);
}

/// How often the pantry is asked in so many minutes, a minute at a time.
async fn rounds(county: &TestGateway, minutes: u64) -> usize {
    let before = count(county);
    for _ in 0..minutes {
        county.later(secs(60)).await;
    }
    asked(county, PANTRY, before).iter().filter(|one| one.starts_with("GET /Task?requester")).count()
}

// G-134, G-135: urgent referrals are watched closely, and only those; where nothing is open it is asked hourly.
on_both!(what_is_open_says_how_often, async |place: Place| {
    let settings = partners().replace(
        &format!("base = \"{PANTRY}\", follow = \"poll\", poll_every = \"1h\""),
        &format!("base = \"{PANTRY}\", follow = \"poll\", poll_every = \"15m\""),
    );
    let county = TestGateway::with(place, &settings).await.settled().await;
    assert_eq!(rounds(&county, 120).await, 2, "nothing is open");
    let list = referred(&county, 1).await;
    rounds(&county, 15).await;
    assert_eq!(rounds(&county, 60).await, 4, "something is open");
    let body = county.referral("hot", "food-insecurity", Some("Organization/hub"));
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "hot", |one| one["priority"] = json!("urgent")));
    let hot = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    assert!(rounds(&county, 5).await >= 1, "at once it is watched closely");
    assert_eq!(rounds(&county, 60).await, 12);
    let theirs =
        county.world.at(PANTRY, |pantry| pantry.all("Task").last().unwrap()["id"].as_str().unwrap().to_string());
    for id in [&theirs, &list[0].0] {
        county.world.at(PANTRY, |pantry| {
            pantry.update("Task", id, |task| {
                task["status"] = json!("rejected");
                task["statusReason"] = json!({"text": "not here"});
            });
        });
        county.later(secs(900)).await;
        let per_hour = if *id == theirs { 4 } else { 1 };
        rounds(&county, 60).await;
        assert_eq!(rounds(&county, 60).await, per_hour);
    }
    for task in [&hot, &list[0].1] {
        assert_eq!(county.status(task).await, "failed");
    }
});

#[tokio::test]
async fn changes_with_one_timestamp_are_all_seen_also_a_page_at_a_time() {
    let county = TestGateway::county().await.settled().await;
    county.world.at(PANTRY, |pantry| pantry.set_page_size(1));
    let list = referred(&county, 3).await;
    county.clock.advance(HOUR);
    county.world.tell_time(&county.clock.now().to_string());
    sets(&county, &list[0].0, "accepted");
    county.deliver_due().await;
    assert_eq!(county.status(&list[0].1).await, "in-progress");
    // At the very instant of the last question, after its answer.
    sets(&county, &list[1].0, "accepted");
    sets(&county, &list[2].0, "accepted");
    county.later(HOUR).await;
    for (_, task) in &list {
        assert_eq!(county.status(task).await, "in-progress");
    }
}

// The cursor is the server's own time: whatever its clock says, nothing is missed.
#[tokio::test]
async fn a_partners_clock_may_be_wrong() {
    for skew in [-600_i64, 600] {
        let county = TestGateway::county().await.settled().await;
        let tell = |county: &TestGateway| {
            let now = county.clock.now();
            let by = secs(skew.unsigned_abs());
            let theirs = if skew < 0 { now.minus(by) } else { now.plus(by) };
            county.world.at(PANTRY, |pantry| pantry.set_now(&theirs.to_string()));
        };
        tell(&county);
        let list = referred(&county, 2).await;
        for (round, (id, task)) in list.iter().enumerate() {
            county.clock.advance(HOUR);
            tell(&county);
            county.deliver_due().await;
            county.clock.advance(secs(1));
            tell(&county);
            sets(&county, id, "accepted");
            county.clock.advance(HOUR);
            tell(&county);
            county.deliver_due().await;
            assert_eq!(county.status(task).await, "in-progress", "skew {skew}, round {round}");
        }
    }
}

#[tokio::test]
async fn a_partner_that_was_away_is_caught_up_with() {
    let mut county = TestGateway::county().await.settled().await;
    let list = referred(&county, 2).await;
    county.later(HOUR).await;
    county.world.down(PANTRY);
    county.clock.advance(secs(10));
    county.world.tell_time(&county.clock.now().to_string());
    sets(&county, &list[0].0, "accepted");
    let before = count(&county);
    county.later(HOUR).await;
    for pause in [5, 30, 120, 120, 120] {
        assert_eq!(county.later(secs(pause - 1)).await, 0, "asked before {pause} s");
        county.later(secs(1)).await;
    }
    assert_eq!(asked(&county, PANTRY, before).len(), 6);
    let metrics = county.gateway.app.metrics().await.unwrap();
    assert!(metrics.contains("loopgate_partner_failures{partner=\"pantry\"} 6"), "{metrics}");
    assert!(metrics.contains("loopgate_partner_heard_seconds{partner=\"pantry\"} "), "{metrics}");
    county.later(24 * HOUR).await;
    county.restart().await;
    sets(&county, &list[1].0, "accepted");
    county.world.up(PANTRY);
    county.later(HOUR).await;
    for (_, task) in &list {
        assert_eq!(county.status(task).await, "in-progress");
    }
    // Quiet again: once an hour.
    let before = count(&county);
    county.later(HOUR).await;
    assert_eq!(asked(&county, PANTRY, before).len(), 1);
}

// A round that breaks off in the middle moves no cursor; what does not belong here is passed over.
#[tokio::test]
async fn a_broken_round_loses_nothing() {
    const GARBAGE: [Fault; 6] = [
        Fault::Say(200, &[], "<html/>"),
        Fault::Say(200, &[], "{}"),
        Fault::Say(200, &[], r#"{"resourceType":"Task","id":"1"}"#),
        Fault::Answer(500),
        Fault::LoseAnswer,
        Fault::Say(
            200,
            &[],
            r#"{"resourceType":"Bundle","type":"searchset","link":[{"relation":"next","url":"https://evil.test/fhir/Task?page=2"}]}"#,
        ),
    ];
    for garbage in GARBAGE {
        let county = TestGateway::county().await.settled().await;
        let list = referred(&county, 1).await;
        county.clock.advance(secs(10));
        county.world.tell_time(&county.clock.now().to_string());
        sets(&county, &list[0].0, "accepted");
        county.world.fault(PANTRY, &[garbage]);
        county.later(HOUR).await;
        assert_eq!(county.status(&list[0].1).await, "accepted", "{garbage:?}");
        county.later(secs(5)).await;
        assert_eq!(county.status(&list[0].1).await, "in-progress", "{garbage:?}");
        assert!(!county.world.requests().iter().any(|one| one.contains("evil")));
    }
}

// D2: a page's `next` may lead nowhere but below the base, however it is spelled.
#[tokio::test]
async fn a_next_page_outside_the_base_is_not_asked_for() {
    for next in [
        r#"{"resourceType":"Bundle","link":[{"relation":"next","url":"https://pantry.test/fhir/../admin"}]}"#,
        r#"{"resourceType":"Bundle","link":[{"relation":"next","url":"https://pantry.test/fhir/%2e%2E/admin"}]}"#,
        r#"{"resourceType":"Bundle","link":[{"relation":"next","url":"https://pantry.test/fhirx/Task"}]}"#,
        r#"{"resourceType":"Bundle","link":[{"relation":"next","url":"https://pantry.test@evil.test/fhir"}]}"#,
        r#"{"resourceType":"Bundle","link":[{"relation":"next","url":"../admin"}]}"#,
        r#"{"resourceType":"Bundle","link":[{"relation":"next","url":"https://evil.test/fhir/Task?page=2"}],
            "entry":[{"resource":{"resourceType":"Task","id":"x","status":"draft","intent":"order"}}]}"#,
    ] {
        let county = TestGateway::county().await.settled().await;
        county.world.fault(PANTRY, &[Fault::Say(200, &[], next)]);
        let before = count(&county);
        county.later(HOUR).await;
        assert_eq!(asked(&county, PANTRY, before).len(), 1, "{next}");
        county.later(secs(5)).await;
        assert_eq!(offsets(&county, before), [0, 0], "{next}: nor is it where the next round goes on");
        assert!(!county.world.requests().iter().any(|one| one.contains("admin") || one.contains("evil")), "{next}");
    }
}

// A Task of somebody else on the same server, an empty one, and one that names us wrongly: none is taken in.
#[tokio::test]
async fn what_does_not_name_us_is_not_taken_in() {
    let county = TestGateway::county().await.settled().await;
    let now = county.clock.now().to_string();
    county.world.at(EHR, |ehr| {
        ehr.put(patient::service_request("sr1", "food-insecurity", &now));
        let other = format!("{BASE}/Organization/hub2");
        for (id, owner) in [("t1", Some(other.as_str())), ("t2", None), ("t3", Some("Organization/9"))] {
            ehr.put(patient::referral_task(
                Some(id),
                "ServiceRequest/sr1",
                patient::REQUESTER,
                patient::PATIENT,
                owner,
                &now,
            ));
        }
    });
    county.poll("clinic").await;
    assert!(county.get("root", "Task").await.entries().is_empty());
}

// The source's changes of what we hold copies of reach the copies, once each, and only while it is open.
#[tokio::test]
async fn copies_are_kept_fresh() {
    let county = TestGateway::county().await.settled().await;
    referred(&county, 1).await;
    county.later(HOUR).await;
    county.clock.advance(secs(10));
    county.world.tell_time(&county.clock.now().to_string());
    let patient = patient::PATIENT.strip_prefix("Patient/").unwrap();
    county.world.at(EHR, |ehr| ehr.update("Patient", patient, |one| one["birthDate"] = json!("1999-09-09")));
    county.later(HOUR).await;
    let found = county.get("root", "Patient").await.entries();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["birthDate"], "1999-09-09");
    let version = found[0]["meta"]["versionId"].clone();
    county.later(HOUR).await;
    assert_eq!(county.get("root", "Patient").await.entries()[0]["meta"]["versionId"], version);
}

// An answer without end is cut off, and costs others nothing.
#[tokio::test]
async fn a_search_without_a_last_page_ends() {
    let settings = partners().replace("\"poll\", poll_every = \"1h\"", "\"poll\", poll_every = \"2h\"");
    let county = TestGateway::with(Place::sqlite(), &settings).await.settled().await;
    const LOOP: Fault = Fault::Say(
        200,
        &[],
        r#"{"resourceType":"Bundle","type":"searchset","link":[{"relation":"next","url":"https://pantry.test/fhir/Task?page=1"}]}"#,
    );
    county.world.fault(PANTRY, &vec![LOOP; 5_000]);
    let before = count(&county);
    county.later(2 * HOUR).await;
    assert!(asked(&county, PANTRY, before).len() < 5, "a page that leads to itself was asked for again and again");
}
