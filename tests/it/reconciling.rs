//! Reconciling with partners' servers (design D3): what differs is found within a day, mended where a rule says how, and
//! on record with both versions where none does.

use std::time::Duration;

use loopgate::demo::patient;
use loopgate::fhir::{Key, ResourceType};
use loopgate::store::Reason;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{EHR, PANTRY, TestGateway, county};
use crate::on_both;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The pantry's Task of this referral, by what it is part of.
fn theirs(county: &TestGateway, task: &str) -> Value {
    let part_of = format!("https://hub.test/fhir/Task/{task}");
    county.world.at(PANTRY, |pantry| {
        let mut all = pantry.all("Task").into_iter().filter(|one| one["partOf"][0]["reference"] == part_of.as_str());
        all.next_back().cloned().unwrap_or_default()
    })
}

fn pantry_sets(county: &TestGateway, task: &str, status: &str) {
    let id = theirs(county, task)["id"].as_str().unwrap().to_string();
    county.world.at(PANTRY, |pantry| pantry.update("Task", &id, |task| task["status"] = json!(status)));
}

/// What is in conflict: Task, what, and the status as it stands there.
async fn conflicts(county: &TestGateway) -> Vec<(String, Value)> {
    let answer = county.get("desk", "Task/$conflicts").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let all = answer.body["parameter"].as_array().cloned().unwrap_or_default();
    let part = |one: &Value, name: &str| {
        one["part"].as_array().unwrap().iter().find(|part| part["name"] == name).cloned().unwrap_or_default()
    };
    all.iter()
        .map(|one| {
            let what = part(one, "what")["valueCode"].as_str().unwrap().to_string();
            (what, part(one, "theirs")["resource"]["status"].clone())
        })
        .collect()
}

async fn in_conflict(county: &TestGateway, task: &str) -> Vec<String> {
    let status = county.get("clinic", &format!("Task/{task}/$loop-status")).await;
    let all = status.body["parameter"].as_array().cloned().unwrap_or_default();
    all.iter()
        .filter(|one| one["name"] == "conflict")
        .map(|one| one["part"][0]["valueCode"].as_str().unwrap().to_string())
        .collect()
}

async fn referred(county: &TestGateway, request: &str) -> String {
    let task = county.refers(request, "food-insecurity").await;
    county.deliver_due().await;
    task
}

/// A Task that the clinic keeps at home, found and relayed: its id there, and here.
async fn kept(county: &TestGateway) -> (String, String) {
    let mut task = county.referral("kept", "food-insecurity", Some("https://hub.test/fhir/Organization/hub"));
    task["id"] = json!("kept-1");
    county.world.at(EHR, |ehr| ehr.put(task));
    county.poll("clinic").await;
    let all = county.get("root", "Task?intent=order").await.entries();
    let ours = all.iter().find(|one| one["partOf"].is_null()).unwrap();
    ("kept-1".into(), ours["id"].as_str().unwrap().to_string())
}

fn at_home(county: &TestGateway, id: &str) -> String {
    county.world.at(EHR, |ehr| ehr.get("Task", id).unwrap()["status"].as_str().unwrap().to_string())
}

/// Hour by hour, as a day goes.
async fn a_day_goes_by(county: &TestGateway) {
    for _ in 0..25 {
        county.later(HOUR).await;
    }
}

/// Agreement costs one question a day, and finds nothing.
#[tokio::test]
async fn agreement_costs_one_question() {
    let county = TestGateway::county().await.settled().await;
    a_day_goes_by(&county).await;
    let by_id = |county: &TestGateway| county.world.requests().iter().filter(|one| one.contains("Task?_id=")).count();
    assert_eq!(by_id(&county), 0, "nothing is open, nothing is asked");
    let task = referred(&county, "r1").await;
    pantry_sets(&county, &task, "accepted");
    a_day_goes_by(&county).await;
    let (reads, before) = (county.world.asked(), by_id(&county));
    assert!(before > 0);
    a_day_goes_by(&county).await;
    assert_eq!(by_id(&county), before + 1);
    let day = county.world.requests().split_off(reads);
    assert!(day.iter().all(|one| !one.starts_with(&format!("GET {PANTRY}/Task/"))), "{day:?}");
    assert_eq!(conflicts(&county).await, []);
}

/// A change that no cursor shows, as one with an old time stamp, is found by the day's round.
#[tokio::test]
async fn a_change_that_a_poll_can_not_see_is_found() {
    let county = TestGateway::county().await.settled().await;
    let task = referred(&county, "r1").await;
    county.later(HOUR).await;
    let now = county.clock.now();
    county.world.at(PANTRY, |pantry| pantry.set_now(&now.minus(DAY).to_string()));
    pantry_sets(&county, &task, "accepted");
    county.later(HOUR).await;
    assert_eq!(county.status(&task).await, "accepted", "no poll sees it");
    a_day_goes_by(&county).await;
    assert_eq!(county.status(&task).await, "in-progress");
}

// D3: a backup from before our Task came: it is posted again, once, and the loop goes on.
on_both!(a_task_that_was_lost_there_is_posted_again_once, async |place: Place| {
    let county = TestGateway::with(place, &county()).await.settled().await;
    let backup = county.world.at(PANTRY, |pantry| pantry.backup());
    let task = referred(&county, "r1").await;
    pantry_sets(&county, &task, "accepted");
    county.later(HOUR).await;
    assert_eq!(county.status(&task).await, "in-progress");
    county.world.at(PANTRY, |pantry| {
        pantry.restore(&backup);
        // Somebody else's Task has taken its place and its id.
        pantry.put(json!({"resourceType": "Task", "id": "1", "status": "rejected", "intent": "order"}));
    });
    a_day_goes_by(&county).await;
    assert_eq!(theirs(&county, &task)["status"], "accepted", "as it stood");
    assert_eq!((conflicts(&county).await, county.status(&task).await), (vec![], "in-progress".into()));
    pantry_sets(&county, &task, "in-progress");
    pantry_sets(&county, &task, "completed");
    county.later(HOUR).await;
    assert_eq!(county.status(&task).await, "completed");

    // Once more it is not put back: somebody has to look.
    let task = referred(&county, "r2").await;
    for _ in 0..2 {
        county.world.at(PANTRY, |pantry| pantry.restore(&backup));
        a_day_goes_by(&county).await;
    }
    assert_eq!(theirs(&county, &task), Value::Null);
    assert_eq!(conflicts(&county).await, [("gone".to_string(), Value::Null)]);
    assert_eq!(in_conflict(&county, &task).await.len(), 1);
});

// D3: an older status there is no step; both versions are on record until they agree, or a person has settled it.
on_both!(an_older_status_there_is_a_conflict_on_record, async |place: Place| {
    let county = TestGateway::with(place, &county()).await.settled().await;
    let task = referred(&county, "r1").await;
    let backup = county.world.at(PANTRY, |pantry| pantry.backup());
    pantry_sets(&county, &task, "accepted");
    county.later(HOUR).await;
    county.world.at(PANTRY, |pantry| pantry.restore(&backup));
    a_day_goes_by(&county).await;
    assert_eq!(county.status(&task).await, "in-progress", "the owner's acceptance stands");
    assert_eq!(conflicts(&county).await, [("status".to_string(), json!("requested"))]);
    assert_eq!(in_conflict(&county, &task).await, ["status"]);
    assert!(county.gateway.app.metrics().await.unwrap().contains("loopgate_conflicts 1"));
    for (partner, status) in [("clinic", 403), ("pantry", 403), ("root", 200)] {
        assert_eq!(county.get(partner, "Task/$conflicts").await.status, status, "{partner}");
    }
    let ours = county.relayed(&task).await.remove(0);
    let nothing = json!({"resourceType": "Parameters"});
    for (partner, status) in [("clinic", 403), ("pantry", 403), ("desk", 200), ("desk", 404)] {
        let answer = county.post(partner, &format!("Task/{ours}/$settle"), &nothing).await;
        assert_eq!(answer.status, status, "{partner}: {}", answer.body);
    }
    assert_eq!(conflicts(&county).await, []);
    // The pantry accepts it once more: both agree.
    county.world.at(PANTRY, |pantry| pantry.restore(&backup));
    county.later(HOUR).await;
    pantry_sets(&county, &task, "accepted");
    a_day_goes_by(&county).await;
    assert_eq!(conflicts(&county).await, []);
});

/// A clinic's own Task that falls behind is brought up again; one that is deleted is for a person.
#[tokio::test]
async fn a_kept_task_that_falls_behind_is_written_again() {
    let county = TestGateway::county().await.settled().await;
    let backup = |county: &TestGateway| county.world.at(EHR, |ehr| ehr.backup());
    let (id, task) = kept(&county).await;
    assert_eq!(at_home(&county, &id), "accepted");
    let old = backup(&county);
    pantry_sets(&county, &task, "accepted");
    county.later(HOUR).await;
    assert_eq!(at_home(&county, &id), "in-progress");
    county.world.at(EHR, |ehr| ehr.restore(&old));
    assert_eq!(at_home(&county, &id), "accepted");
    a_day_goes_by(&county).await;
    assert_eq!(at_home(&county, &id), "in-progress");
    assert_eq!(conflicts(&county).await, []);
    // The clinic's staff end it by themselves, which is the owner's to say.
    county.world.at(EHR, |ehr| ehr.update("Task", &id, |task| task["status"] = json!("completed")));
    county.later(HOUR).await;
    assert_eq!(conflicts(&county).await, [("status".to_string(), json!("completed"))]);
    county.world.at(EHR, |ehr| ehr.erase("Task", &id));
    a_day_goes_by(&county).await;
    let found = conflicts(&county).await;
    assert!(found.contains(&("gone".to_string(), Value::Null)), "{found:?}");
}

// G-020, D7, D15c: what a source deletes after it was copied.
#[tokio::test]
async fn what_is_deleted_at_the_source_ends_what_rests_on_it() {
    let erase = |county: &TestGateway, what: &str| {
        let (kind, id) = what.split_once('/').unwrap();
        county.world.at(EHR, |ehr| ehr.erase(kind, id));
    };
    for (what, status, reason) in [
        ("ServiceRequest/r1", "cancelled", "deleted the ServiceRequest"),
        (patient::CONSENT, "cancelled", "consent is not at the referral source"),
    ] {
        let county = TestGateway::county().await.settled().await;
        let task = referred(&county, "r1").await;
        erase(&county, what);
        a_day_goes_by(&county).await;
        let ended = county.task(&task).await;
        assert_eq!(ended["status"], status, "{what}");
        assert!(ended["statusReason"]["text"].as_str().unwrap().contains(reason), "{}", ended["statusReason"]);
        assert_eq!(theirs(&county, &task)["status"], "cancelled", "{what}");
        if what == patient::CONSENT {
            let ours = county.relayed(&task).await.remove(0);
            assert_eq!(county.get("pantry", &format!("Task/{ours}")).await.status, 404);
        }
    }
    // A patient who is not there any more: nobody knows what that means.
    let county = TestGateway::county().await.settled().await;
    let task = referred(&county, "r1").await;
    erase(&county, patient::PATIENT);
    a_day_goes_by(&county).await;
    for _ in 0..5 {
        county.later(HOUR).await;
    }
    assert_eq!(
        (county.status(&task).await, in_conflict(&county, &task).await),
        ("accepted".into(), vec!["unread".into()])
    );
    // Whatever it was, it is over.
    let now = county.clock.now().to_string();
    county.world.at(EHR, |ehr| patient::context(&now).into_iter().for_each(|one| drop(ehr.put(one))));
    a_day_goes_by(&county).await;
    assert_eq!(in_conflict(&county, &task).await, Vec::<String>::new());
}

/// A write-back that the clinic's server refuses for ever: seen by people, tried once a day, and done when it is taken.
#[tokio::test]
async fn a_refused_write_back_is_bounded_and_seen() {
    let county = TestGateway::county().await.settled().await;
    county.world.refuse_exactly(&format!("PUT {EHR}/Task/kept-1"), 422);
    let (id, task) = kept(&county).await;
    for _ in 0..5 {
        county.later(HOUR).await;
    }
    assert_eq!(at_home(&county, &id), "requested");
    let writes = || county.world.requests().iter().filter(|one| one.starts_with("PUT")).count();
    assert_eq!(writes(), 4, "the first and one after each pause");
    assert_eq!(in_conflict(&county, &task).await, ["refused"]);
    let before = writes();
    for _ in 0..3 {
        a_day_goes_by(&county).await;
    }
    assert!((3..=4).contains(&(writes() - before)), "{}", writes() - before);
    county.world.heal();
    a_day_goes_by(&county).await;
    assert_eq!((at_home(&county, &id), in_conflict(&county, &task).await), ("accepted".into(), vec![]));
}

/// What reconciliation asks the clinic for by id, as it was asked.
fn compared(county: &TestGateway, kind: &str) -> Vec<String> {
    let start = format!("GET {EHR}/{kind}?_id=");
    let asked = county.world.requests();
    let ids = asked.iter().filter_map(|one| one.strip_prefix(&start)?.strip_suffix("&_count=40"));
    ids.flat_map(|ids| ids.split(',').map(str::to_string)).collect()
}

// However much is shared, a pass leaves nothing out: a part goes on where the last one stopped.
on_both!(a_pass_goes_on_where_it_stopped, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    county.world.at(EHR, |ehr| ehr.set_batch(false));
    let county = county.settled().await;
    let task = referred(&county, "r1").await;
    let ids: Vec<String> = (0..1_100).map(|number| format!("o-{number}")).collect();
    let mut tx = county.store().await.begin().await.unwrap();
    for id in &ids {
        let observation = json!({"resourceType": "Observation", "id": id, "status": "final"});
        let meta = county.world.at(EHR, |ehr| {
            ehr.put(observation);
            ehr.get("Observation", id).unwrap()["meta"].clone()
        });
        let mark = format!("{} {}", meta["versionId"].as_str().unwrap(), meta["lastUpdated"].as_str().unwrap());
        let key = Key::new(ResourceType::parse("Observation").unwrap(), loopgate::id::new());
        tx.put_link("clinic", &format!("{EHR}/Observation/{id}"), &key, Some(&mark)).await.unwrap();
        tx.grant("hub", &[key], &task, Reason::Party).await.unwrap();
    }
    tx.commit().await.unwrap();
    county.later(DAY).await;
    let first = compared(&county, "Observation").len();
    assert!((400..=500).contains(&first), "one part: {first}");
    county.later(Duration::from_secs(14 * 60)).await;
    assert_eq!(compared(&county, "Observation").len(), first, "it is not asked faster than anybody");
    for _ in 0..4 {
        county.later(Duration::from_secs(16 * 60)).await;
    }
    let mut asked = compared(&county, "Observation");
    asked.sort_unstable();
    let mut all = ids.clone();
    all.sort_unstable();
    assert_eq!(asked, all, "each once");
    assert_eq!(compared(&county, "ServiceRequest"), ["r1"]);
    county.later(HOUR * 20).await;
    assert_eq!(compared(&county, "Observation").len(), ids.len(), "the next pass is a day later");
});

// G-020: a request that is not found any more, by a server that does not say that it was deleted.
#[tokio::test]
async fn a_request_that_is_not_found_any_more_is_on_record() {
    let county = TestGateway::county().await.settled().await;
    let task = referred(&county, "r1").await;
    county.later(HOUR).await;
    county.world.refuse_exactly(&format!("GET {EHR}/ServiceRequest/r1"), 404);
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "r1", |one| one["note"] = json!([{"text": "gone"}])));
    for _ in 0..5 {
        county.later(HOUR).await;
    }
    assert_eq!(
        (county.status(&task).await, in_conflict(&county, &task).await),
        ("accepted".into(), vec!["unread".into()])
    );
    county.world.heal();
    a_day_goes_by(&county).await;
    assert_eq!(in_conflict(&county, &task).await, Vec::<String>::new());
}

// G-037, G-193: written down at its own server days after the completion, and not named by its Task.
on_both!(a_late_outcome_at_a_targets_server_is_found, async |place: Place| {
    let county = TestGateway::with(place, &county()).await.settled().await;
    let task = referred(&county, "r1").await;
    pantry_sets(&county, &task, "accepted");
    county.later(HOUR).await;
    pantry_sets(&county, &task, "completed");
    county.later(HOUR).await;
    assert_eq!((county.status(&task).await, &county.task(&task).await["output"]), ("completed".into(), &Value::Null));
    county.later(DAY * 3).await;
    let theirs = theirs(&county, &task);
    let text = |name: &str| theirs[name]["reference"].as_str().unwrap().to_string();
    let done = patient::procedure(&text("focus"), &text("for"), "food-insecurity", "2026-11-26");
    county.world.at(PANTRY, |pantry| pantry.put(done));
    a_day_goes_by(&county).await;
    let outputs = county.task(&task).await["output"].as_array().cloned().unwrap_or_default();
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    let outcome = outputs[0]["valueReference"]["reference"].as_str().unwrap().to_string();
    let read = county.get("clinic", &outcome).await;
    assert_eq!((read.status, &read.body["resourceType"]), (200, &json!("Procedure")));
    let asked = |county: &TestGateway| {
        let asked = county.world.requests().into_iter().chain(county.world.bodies().into_iter().map(|(_, body)| body));
        let about = |one: &String| one.contains("Procedure?based-on=") && !one.contains("loopgate-nobody");
        asked.filter(about).count()
    };
    let version = county.task(&task).await["meta"]["versionId"].clone();
    let before = asked(&county);
    a_day_goes_by(&county).await;
    assert!(asked(&county) > before);
    assert_eq!(county.task(&task).await["meta"]["versionId"], version, "once");
    county.later(DAY * 31).await;
    let before = asked(&county);
    a_day_goes_by(&county).await;
    assert_eq!(asked(&county), before, "it is not looked for for ever");
});

// D2: a server that is set back gives ids anew: what has taken the place of ours is neither read as ours nor written to.
#[tokio::test]
async fn another_task_with_the_same_id_is_left_alone() {
    let county = TestGateway::county().await.settled().await;
    let (id, task) = kept(&county).await;
    let other = |status: &str| {
        json!({"resourceType": "Task", "id": "kept-1", "status": status, "intent": "order", "description": "another",
            "focus": {"reference": "ServiceRequest/another"}, "owner": {"reference": "https://hub.test/fhir/Organization/hub"}})
    };
    county.world.at(EHR, |ehr| ehr.put(other("cancelled")));
    pantry_sets(&county, &task, "accepted");
    for _ in 0..6 {
        county.later(HOUR).await;
    }
    let there = county.world.at(EHR, |ehr| ehr.get("Task", &id).unwrap().clone());
    assert_eq!((&there["description"], &there["status"]), (&json!("another"), &json!("cancelled")));
    assert_eq!(county.status(&task).await, "in-progress", "the source did not cancel this one");
    let mut found = in_conflict(&county, &task).await;
    found.sort_unstable();
    assert_eq!(found, ["gone", "refused"]);

    // At a target's: ours is called off, and has gone; the one in its place is somebody else's.
    let county = TestGateway::county().await.settled().await;
    let task = referred(&county, "r1").await;
    let place = theirs(&county, &task)["id"].as_str().unwrap().to_string();
    county.world.at(PANTRY, |pantry| {
        pantry.put(json!({"resourceType": "Task", "id": place, "status": "accepted", "intent": "order"}))
    });
    let mut body = county.get("clinic", &format!("Task/{task}")).await.body;
    body["status"] = json!("cancelled");
    assert_eq!(county.put("clinic", &format!("Task/{task}"), &body).await.status, 200);
    for _ in 0..3 {
        county.later(HOUR).await;
    }
    assert_eq!(county.world.at(PANTRY, |pantry| pantry.get("Task", &place).unwrap()["status"].clone()), "accepted");
    let ours = county.relayed(&task).await.remove(0);
    assert_eq!((county.status(&ours).await, conflicts(&county).await), ("cancelled".into(), vec![]));
}
