//! Partners that refuse, hang, answer garbage, repeat themselves and go away: retried, visible, nothing twice.

use std::time::Duration;

use loopgate::app::{Busy, Owed};
use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::gateway::{BASE, EHR, Fault, PANTRY, TestGateway};

const LEASE: Duration = Duration::from_secs(41);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The Tasks at the pantry.
fn theirs(county: &TestGateway) -> Vec<Value> {
    county.world.at(PANTRY, |pantry| pantry.all("Task").into_iter().cloned().collect())
}

/// Seconds between the tries of a delivery.
async fn pauses(county: &TestGateway, kind: Owed, subject: &str) -> Vec<i64> {
    let tries = county.gateway.app.attempts(kind, subject).await.unwrap();
    tries.windows(2).map(|pair| (pair[1].at.0 - pair[0].at.0 + 500_000) / 1_000_000).collect()
}

/// A food referral that is fetched and relayed, and not yet delivered: the source's Task and ours.
async fn relayed(county: &TestGateway, faults: &[Fault]) -> (String, String) {
    let task = county.refers("sr1", "food-insecurity").await;
    county.world.fault(PANTRY, faults);
    county.deliver_due().await;
    let ours = county.relayed(&task).await.pop().unwrap();
    (task, ours)
}

/// How often `$loop-status` says that it was delivered.
async fn deliveries(county: &TestGateway, task: &str) -> usize {
    let steps = county.get("desk", &format!("Task/{task}/$loop-status")).await.body.to_string();
    steps.matches("\"valueCode\":\"delivered\"").count()
}

const HTML: Fault = Fault::Say(200, &[("content-type", "text/html")], "<html>Please log in</html>");

// D5, D6: whatever a target's server says, it is tried as often as configured, and then the source learns of it.
#[tokio::test]
async fn a_target_that_never_takes_it_is_given_up_visibly() {
    for fault in [
        Fault::Answer(500),
        Fault::Answer(503),
        Fault::Answer(401),
        Fault::Answer(422),
        Fault::Answer(302),
        Fault::LoseRequest,
        HTML,
        Fault::Say(200, &[], "[1]"),
    ] {
        let county = TestGateway::county().await.settled().await;
        let (task, ours) = relayed(&county, &[fault; 4]).await;
        for pause in [5, 30, 120] {
            assert_eq!(county.later(secs(pause - 1)).await, 0, "{fault:?}: too early");
            assert_eq!(county.later(secs(1)).await, 1, "{fault:?}: not tried after {pause} s");
        }
        assert_eq!(pauses(&county, Owed::Deliver, &ours).await, [5, 30, 120], "{fault:?}");
        let tries = county.gateway.app.attempts(Owed::Deliver, &ours).await.unwrap();
        assert_eq!(tries.last().unwrap().outcome, "exhausted", "{fault:?}");
        assert!(tries.iter().all(|one| one.detail.is_some()), "{tries:?}");
        let metrics = county.gateway.app.metrics().await.unwrap();
        assert!(metrics.contains("loopgate_deliveries{kind=\"deliver\",state=\"exhausted\"} 1"), "{metrics}");
        let ended = county.task(&task).await;
        assert_eq!(ended["status"], "failed", "{fault:?}");
        assert!(ended["statusReason"]["text"].as_str().unwrap().contains("could not be delivered"), "{ended}");
        assert_eq!(county.level(&task).await, ("L2".to_string(), false), "{fault:?}: the source does not know yet");
        assert!(theirs(&county).is_empty());
    }
}

// D15a's rule for pauses holds for all that is owed: what the partner asks for replaces the next pause.
#[tokio::test]
async fn a_pause_that_a_partner_asks_for_is_kept() {
    let county = TestGateway::county().await.settled().await;
    relayed(&county, &[Fault::Say(503, &[("retry-after", "600")], "")]).await;
    assert_eq!(county.later(secs(599)).await, 0);
    assert!(county.later(secs(1)).await > 0);
    assert_eq!(theirs(&county).len(), 1);
}

#[tokio::test]
async fn a_pause_of_nothing_is_still_a_pause() {
    let county = TestGateway::county().await.settled().await;
    let (task, _) = relayed(&county, &[Fault::Say(503, &[("retry-after", "0")], ""); 3]).await;
    assert_eq!(county.status(&task).await, "accepted", "given up within a moment");
    county.world.fault(EHR, &[Fault::Say(429, &[("retry-after", "0")], ""); 50]);
    county.gateway.app.poll_now("clinic").await.unwrap();
    let before = county.world.requests().len();
    county.deliver_due().await;
    assert!(county.world.requests().len() - before <= 2, "asked again and again at once");
}

// A slow house delays nobody: others are served while one is being retried.
#[tokio::test]
async fn other_partners_are_undisturbed() {
    let county = TestGateway::county().await.settled().await;
    county.world.down(PANTRY);
    let (food, _) = relayed(&county, &[]).await;
    let housing = county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&housing).await.pop().unwrap();
    assert_eq!(county.answers("agency", &theirs, "accepted").await.status, 200);
    assert_eq!(county.status(&housing).await, "in-progress");
    assert_eq!(county.status(&food).await, "accepted");
}

// Vanished for a while and back before the tries are used up: delivered, once.
#[tokio::test]
async fn a_target_that_comes_back_gets_it_once() {
    let county = TestGateway::county().await.settled().await;
    county.world.down(PANTRY);
    let (task, _) = relayed(&county, &[]).await;
    county.later(secs(5)).await;
    county.world.up(PANTRY);
    county.later(secs(30)).await;
    assert_eq!(theirs(&county).len(), 1);
    assert_eq!(deliveries(&county, &task).await, 1);
}

// What is no answer to a create is not taken for one.
#[tokio::test]
async fn garbage_after_a_post_is_no_delivery() {
    for garbage in [
        HTML,
        Fault::Say(201, &[], "not json"),
        Fault::Say(201, &[("location", "https://pantry.test/fhir/Patient/1/_history/1")], "{}"),
        Fault::Say(200, &[], r#"{"resourceType":"OperationOutcome","id":"7","issue":[]}"#),
        Fault::Say(200, &[], r#"{"resourceType":"Bundle","id":"8","type":"searchset"}"#),
        Fault::Say(204, &[], ""),
    ] {
        let county = TestGateway::county().await.settled().await;
        let (_, ours) = relayed(&county, &[garbage]).await;
        let tries = county.gateway.app.attempts(Owed::Deliver, &ours).await.unwrap();
        assert_eq!(tries[0].outcome, "retry", "{garbage:?}");
        county.later(secs(5)).await;
        assert_eq!(theirs(&county).len(), 1, "{garbage:?}");
        assert_eq!(county.task(&ours).await["businessStatus"]["coding"][0]["code"], "delivered", "{garbage:?}");
    }
}

// D8: an answer that was lost after the POST, at servers of every kind.
#[tokio::test]
async fn a_lost_answer_makes_no_second_task() {
    for (conditional, deaf) in [(true, false), (false, false), (true, true), (false, true)] {
        let county = TestGateway::county().await.settled().await;
        county.world.at(PANTRY, |pantry| {
            pantry.set_if_none_exist(conditional);
            pantry.set_page_size(1);
            for number in 0..3 {
                pantry.put(json!({"resourceType": "Task", "status": "draft", "intent": "order", "description": number.to_string()}));
            }
        });
        if deaf {
            county.world.deaf(PANTRY);
        }
        relayed(&county, &[Fault::LoseAnswer, Fault::LoseAnswer]).await;
        for pause in [5, 30, 120] {
            county.later(secs(pause)).await;
        }
        assert_eq!(theirs(&county).len(), 4, "conditional {conditional}, deaf {deaf}");
    }
}

/// The Task arrives at the pantry and nobody writes that down: the claim of the worker that died.
async fn posted_and_died(county: &TestGateway) -> (loopgate::app::Claimed, String) {
    county.world.at(PANTRY, |pantry| pantry.set_if_none_exist(false));
    let task = county.refers("sr1", "food-insecurity").await;
    let app = &county.gateway.app;
    for one in app.claim(10, &Busy::default()).await.unwrap() {
        county.worker().attend(&one).await;
    }
    let one = app.claim(10, &Busy::default()).await.unwrap().into_iter().find(|one| one.kind == Owed::Deliver).unwrap();
    let plan = app.deliver_plan(&one).await.unwrap().unwrap();
    let body: Value = serde_json::from_str(&plan.task.to_text()).unwrap();
    county.world.at(PANTRY, |pantry| pantry.put(body));
    (one, task)
}

#[tokio::test]
async fn a_crash_after_the_post_makes_no_second_task() {
    let mut county = TestGateway::county().await.settled().await;
    let (_, task) = posted_and_died(&county).await;
    county.restart().await;
    county.deliver_due().await;
    assert_eq!(theirs(&county).len(), 1, "sent while the lease still ran");
    county.later(LEASE).await;
    assert_eq!(theirs(&county).len(), 1);
    assert_eq!(deliveries(&county, &task).await, 1);
}

#[tokio::test]
async fn a_second_worker_after_the_lease_makes_no_second_task() {
    let county = TestGateway::county().await.settled().await;
    let (late, task) = posted_and_died(&county).await;
    let other = county.another().await;
    county.clock.advance(LEASE);
    other.worker.deliver_due().await.unwrap();
    county.gateway.app.delivered(&late, &format!("{PANTRY}/Task/elsewhere"), None).await.unwrap();
    county.gateway.app.failed(&late, "too late", None).await.unwrap();
    county.deliver_due().await;
    assert_eq!(theirs(&county).len(), 1);
    assert_eq!(deliveries(&county, &task).await, 1);
}

// D6: garbage from the source, and then the truth; or garbage until the end.
#[tokio::test]
async fn garbage_from_a_source_is_asked_for_again_and_then_named() {
    const OTHER: &str = r#"{"resourceType":"Patient","id":"sr1"}"#;
    const WRONG: &str = r#"{"resourceType":"ServiceRequest","id":"sr2","status":"active","intent":"order","subject":{"reference":"Patient/1"}}"#;
    for garbage in [HTML, Fault::Say(200, &[], "{"), Fault::Say(200, &[], OTHER), Fault::Say(200, &[], WRONG)] {
        let county = TestGateway::county().await.settled().await;
        let task = county.refers("sr1", "food-insecurity").await;
        county.world.fault(EHR, &[garbage]);
        county.deliver_due().await;
        assert_eq!(county.status(&task).await, "requested", "{garbage:?}");
        county.later(secs(5)).await;
        assert_eq!(county.status(&task).await, "accepted", "{garbage:?}");
    }
    let county = TestGateway::county().await.settled().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.world.down(EHR);
    for pause in [0, 5, 30, 120] {
        county.later(secs(pause)).await;
    }
    let ended = county.task(&task).await;
    assert_eq!(ended["status"], "rejected");
    assert!(ended["statusReason"]["text"].as_str().unwrap().contains("ServiceRequest"), "{ended}");
    assert_eq!(pauses(&county, Owed::Fetch, &task).await, [5, 30, 120]);
}

// A source's server that hangs on something we can do without delays the referral, and does not end it.
#[tokio::test]
async fn what_can_be_done_without_does_not_end_a_referral() {
    let county = TestGateway::county().await.settled().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let request = county.world.at(EHR, |ehr| ehr.get("ServiceRequest", "sr1").cloned().unwrap());
    let mut broken = request.clone();
    broken["reasonReference"] = json!([{"reference": "Condition/nowhere"}]);
    county.world.at(EHR, |ehr| ehr.put(broken));
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "accepted");
}

/// A referral that the pantry has, with the id of its Task there.
async fn at_the_pantry(county: &TestGateway) -> (String, String, String) {
    let (task, ours) = relayed(county, &[]).await;
    let id = theirs(county)[0]["id"].as_str().unwrap().to_string();
    (task, ours, id)
}

fn pantry_says(county: &TestGateway, id: &str, status: &str) {
    county.world.at(PANTRY, |pantry| {
        pantry.update("Task", id, |task| {
            task["status"] = json!(status);
            if matches!(status, "rejected" | "cancelled" | "failed") {
                task["statusReason"] = json!({"text": "we are full"});
            }
        })
    });
}

// D4, G-055…G-067: what a target skips becomes legal steps here; what goes backwards is not followed.
#[tokio::test]
async fn jumps_at_a_target_become_legal_steps() {
    for (says, source) in [
        (vec!["completed"], "completed"),
        (vec!["accepted", "rejected"], "failed"),
        (vec!["in-progress", "requested"], "in-progress"),
        (vec!["completed", "in-progress"], "completed"),
        (vec!["received", "ready", "completed"], "completed"),
        (vec!["nonsense"], "accepted"),
    ] {
        let county = TestGateway::county().await.settled().await;
        let (task, ours, id) = at_the_pantry(&county).await;
        for status in &says {
            pantry_says(&county, &id, status);
            county.poll("pantry").await;
        }
        assert_eq!(county.status(&task).await, source, "{says:?}");
        let history = county.get("root", &format!("Task/{ours}/_history?_count=100")).await.entries();
        let mut steps: Vec<String> = history.iter().map(|task| task["status"].as_str().unwrap().to_string()).collect();
        steps.reverse();
        steps.dedup();
        let legal = [
            "requested accepted",
            "accepted in-progress",
            "in-progress completed",
            "accepted completed",
            "in-progress cancelled",
            "accepted cancelled",
        ];
        for pair in steps.windows(2) {
            assert!(legal.contains(&format!("{} {}", pair[0], pair[1]).as_str()), "{says:?}: {steps:?}");
        }
    }
}

// A server restored from a backup counts its versions anew: equal version numbers are not equal content.
#[tokio::test]
async fn a_target_restored_from_a_backup_is_still_followed() {
    let county = TestGateway::county().await.settled().await;
    let (task, _, id) = at_the_pantry(&county).await;
    let backup = theirs(&county)[0].clone();
    pantry_says(&county, &id, "accepted");
    county.poll("pantry").await;
    pantry_says(&county, &id, "in-progress");
    county.poll("pantry").await;
    assert_eq!(county.status(&task).await, "in-progress");
    // The restored server has version 1 again; two changes later it has version 3 again.
    county.clock.advance(secs(60));
    county.world.open(PANTRY);
    county.world.tell_time(&county.clock.now().to_string());
    county.world.at(PANTRY, |pantry| pantry.put(backup));
    pantry_says(&county, &id, "accepted");
    pantry_says(&county, &id, "completed");
    assert_eq!(theirs(&county)[0]["meta"]["versionId"], "3");
    county.poll("pantry").await;
    assert_eq!(county.status(&task).await, "completed");
}

// The answer of a read is lost, or the outcome can't be read yet: tried again, and nothing is missed.
#[tokio::test]
async fn what_a_target_says_is_collected_in_spite_of_lost_answers() {
    let county = TestGateway::county().await.settled().await;
    let (task, _, id) = at_the_pantry(&county).await;
    pantry_says(&county, &id, "completed");
    county.gateway.app.poll_now("pantry").await.unwrap();
    let poll = county.gateway.app.claim(1, &Busy::default()).await.unwrap();
    county.worker().attend(&poll[0]).await;
    county.world.fault(PANTRY, &[Fault::LoseAnswer, Fault::Answer(500), HTML]);
    for pause in [0, 5, 30, 120] {
        county.later(secs(pause)).await;
    }
    assert_eq!(county.status(&task).await, "completed");
}

/// A Task kept at the EHR that names us: taken in, relayed and delivered. Our copy's id.
async fn kept_at_the_ehr(county: &TestGateway) -> String {
    let now = county.clock.now().to_string();
    county.world.at(EHR, |ehr| {
        ehr.put(patient::service_request("sr9", "housing-instability", &now));
        let owner = format!("{BASE}/Organization/hub");
        ehr.put(patient::referral_task(
            Some("kept"),
            "ServiceRequest/sr9",
            patient::REQUESTER,
            patient::PATIENT,
            Some(&owner),
            &now,
        ));
    });
    county.poll("clinic").await;
    let found = county.get("root", "Task?code=fulfill&_count=10").await.entries();
    let ours = found.iter().find(|task| task.get("partOf").is_none()).unwrap();
    ours["id"].as_str().unwrap().to_string()
}

fn statuses_at_the_ehr(county: &TestGateway) -> Vec<String> {
    let list = county.world.at(EHR, |ehr| ehr.history("Task", "kept").into_iter().cloned().collect::<Vec<Value>>());
    let mut list: Vec<String> = list.iter().map(|task| task["status"].as_str().unwrap().to_string()).collect();
    list.dedup();
    list
}

// D12a, G-067: written back step by step, whatever happens to single answers.
#[tokio::test]
async fn a_task_kept_at_the_source_is_written_in_spite_of_lost_answers_and_races() {
    for faults in [
        vec![Fault::LoseAnswer],
        vec![Fault::LoseRequest],
        vec![Fault::Answer(412), Fault::Answer(412)],
        vec![Fault::Answer(409)],
        vec![HTML],
        // A storm: read and write, four times, all refused.
        vec![Fault::Answer(500), Fault::Answer(503)],
    ] {
        let county = TestGateway::county().await.settled().await;
        let ours = kept_at_the_ehr(&county).await;
        assert_eq!(statuses_at_the_ehr(&county), ["requested", "accepted"]);
        let relayed = county.relayed(&ours).await.pop().unwrap();
        county.answers("agency", &relayed, "accepted").await;
        county.answers("agency", &relayed, "completed").await;
        // The first request is the read; the faults meet the writes.
        county.world.fault(EHR, &faults);
        county.deliver_due().await;
        for pause in [5, 30, 120] {
            county.later(secs(pause)).await;
        }
        assert_eq!(statuses_at_the_ehr(&county), ["requested", "accepted", "completed"], "{faults:?}");
        assert_eq!(county.level(&ours).await.0, "L4", "{faults:?}: its server has taken our write");
    }
}

#[tokio::test]
async fn a_source_restored_from_a_backup_is_written_again() {
    let county = TestGateway::county().await.settled().await;
    let ours = kept_at_the_ehr(&county).await;
    let relayed = county.relayed(&ours).await.pop().unwrap();
    let backup = county.world.at(EHR, |ehr| ehr.history("Task", "kept")[0].clone());
    county.answers("agency", &relayed, "accepted").await;
    county.deliver_due().await;
    assert_eq!(statuses_at_the_ehr(&county), ["requested", "accepted", "in-progress"]);
    county.world.at(EHR, |ehr| ehr.put(backup));
    county.answers("agency", &relayed, "completed").await;
    county.deliver_due().await;
    let there = statuses_at_the_ehr(&county);
    assert_eq!(there.last().unwrap(), "completed", "{there:?}");
    assert_eq!(county.status(&ours).await, "completed");
}

// D15b: whoever was away longer than the tries last is caught up with when it is back.
#[tokio::test]
async fn what_was_given_up_while_a_source_was_away_is_made_up_for() {
    let county = TestGateway::county().await.settled().await;
    let ours = kept_at_the_ehr(&county).await;
    let relayed = county.relayed(&ours).await.pop().unwrap();
    county.world.down(EHR);
    county.answers("agency", &relayed, "accepted").await;
    county.answers("agency", &relayed, "completed").await;
    for pause in [0, 5, 30, 120, 3_600, 20 * 3_600] {
        county.later(secs(pause)).await;
    }
    let tries = county.gateway.app.attempts(Owed::WriteBack, &ours).await.unwrap();
    assert_eq!(tries.last().unwrap().outcome, "exhausted");
    county.world.up(EHR);
    county.later(secs(3_600)).await;
    assert_eq!(statuses_at_the_ehr(&county), ["requested", "accepted", "completed"]);
}

// D8: given up, and it did arrive after all: nobody there works on for nothing.
#[tokio::test]
async fn a_task_that_arrived_and_was_given_up_is_called_off_when_it_is_found() {
    let county = TestGateway::county().await.settled().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.world.fault(PANTRY, &[Fault::LoseAnswer]);
    county.deliver_due().await;
    county.world.down(PANTRY);
    for _ in 0..5 {
        county.later(Duration::from_secs(600)).await;
    }
    assert_eq!(county.status(&task).await, "failed");
    county.world.up(PANTRY);
    county.poll("pantry").await;
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task").into_iter().cloned().collect::<Vec<_>>());
    assert_eq!(theirs.len(), 1);
    assert_eq!(theirs[0]["status"], "cancelled", "{}", theirs[0]);
}
