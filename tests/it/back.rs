//! The way back: how the targets' answers become the source's status (D5), cancellation both ways (D7), outcomes, and
//! what one target never learns of another.

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::{by_hand, reference};
use crate::gateway::{BASE, Fault, PANTRY, TestGateway};

// D5: every row, with one target and with two.
#[tokio::test]
async fn the_answers_of_all_targets_become_one_status() {
    let rows: [(&[&str], &str); 16] = [
        (&["a:accepted"], "in-progress"),
        (&["a:rejected"], "accepted"),
        (&["a:rejected", "k:rejected"], "failed"),
        (&["a:accepted", "k:rejected"], "in-progress"),
        (&["a:accepted", "a:completed"], "in-progress"),
        (&["a:accepted", "a:completed", "k:rejected"], "completed"),
        (&["a:accepted", "a:completed", "k:cancelled"], "completed"),
        (&["a:accepted", "a:completed", "k:accepted", "k:completed"], "completed"),
        (&["a:accepted", "a:completed", "k:accepted", "k:failed"], "completed"),
        (&["a:accepted", "a:failed", "k:accepted", "k:cancelled"], "failed"),
        (&["a:accepted", "a:on-hold"], "in-progress"),
        (&["a:accepted", "a:on-hold", "k:accepted"], "in-progress"),
        (&["a:accepted", "a:on-hold", "k:accepted", "k:on-hold"], "on-hold"),
        (&["a:accepted", "a:on-hold", "k:rejected"], "on-hold"),
        (&["a:accepted", "a:on-hold", "k:rejected", "a:in-progress"], "in-progress"),
        (&["a:cancelled", "k:cancelled"], "failed"),
    ];
    for (acts, expected) in rows {
        let county = TestGateway::county().await;
        let (task, relayed) = county.split("sr1", &["Organization/agency", "Organization/kitchen"]).await;
        for act in acts {
            let (who, status) = act.split_once(':').unwrap();
            let (partner, theirs) = if who == "a" { ("agency", &relayed[0]) } else { ("kitchen", &relayed[1]) };
            let answer = county.answers(partner, theirs, status).await;
            assert_eq!(answer.status, 200, "{act}: {}", answer.body);
        }
        let source = county.task(&task).await;
        assert_eq!(source["status"], expected, "{acts:?}");
        if expected == "failed" {
            assert!(source["statusReason"]["text"].as_str().unwrap().contains("can't help"), "{acts:?}");
        }
        let steps = county.steps(&task).await;
        assert_eq!(&steps[..2], ["requested", "accepted"], "{steps:?}");
    }
}

// D5, G-095, G-096
#[tokio::test]
async fn a_full_house_is_asked_past_and_the_sources_task_stays_open() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county
        .pantry_says(|task| {
            task["status"] = json!("rejected");
            task["statusReason"] = json!({"text": "Rejected - at capacity"});
        })
        .await;
    assert_eq!(county.status(&task).await, "accepted");
    let relayed = county.relayed(&task).await;
    assert_eq!(relayed.len(), 2);
    let (first, second) = (county.task(&relayed[0]).await, county.task(&relayed[1]).await);
    assert_eq!((&first["status"], reference(&second["owner"])), (&json!("rejected"), "Organization/kitchen".into()));
    assert_ne!(first["focus"], second["focus"]);
    county.answers("kitchen", &relayed[1], "accepted").await;
    assert_eq!(county.status(&task).await, "in-progress");
    // The last one is full, too.
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    county
        .change("agency", &theirs, |task| {
            task["status"] = json!("rejected");
            task["statusReason"] =
                json!({"coding": [{"system": loopgate::fhir::views::SDOHCC, "code": "no-capacity"}], "text": "full"});
        })
        .await;
    let ended = county.task(&task).await;
    assert_eq!((&ended["status"], &ended["statusReason"]["text"]), (&json!("failed"), &json!("full")));
    assert_eq!(ended["statusReason"]["coding"][0]["code"], "no-capacity");
}

// D11a
#[tokio::test]
async fn a_full_house_under_a_coordinators_routing_waits_for_the_coordinator() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let theirs = county.relays(&task, &["Organization/kitchen"]).await.remove(0);
    county
        .change("kitchen", &theirs, |task| {
            task["status"] = json!("rejected");
            task["statusReason"] = json!({"text": "at capacity"});
        })
        .await;
    assert_eq!((county.status(&task).await, county.waiting_on(&task).await), ("accepted".into(), "hub".into()));
    county.relays(&task, &["Organization/agency"]).await;
    assert_eq!(county.waiting_on(&task).await, "agency");
}

// G-036, D5: either order, and later still.
// G-193, G-080
#[tokio::test]
async fn a_procedure_counts_whether_it_comes_before_or_after_the_completion() {
    for order in ["first", "last", "named"] {
        let county = TestGateway::county().await;
        let task = county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        let theirs = county.relayed(&task).await.remove(0);
        county.answers("agency", &theirs, "accepted").await;
        let mut done = String::new();
        if order != "last" {
            done = county.did("agency", &theirs).await;
            assert_eq!(county.get("clinic", &done).await.status, 404, "not before it is said");
        }
        let named = done.clone();
        let answer = county
            .change("agency", &theirs, |task| match order {
                "named" => patient::completed_with(task, &named),
                _ => task["status"] = json!("completed"),
            })
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(county.status(&task).await, "completed");
        if order == "last" {
            assert_eq!(county.get("clinic", &format!("Task/{task}")).await.status, 200);
            assert_eq!(county.level(&task).await, ("L4".into(), true));
            done = county.did("agency", &theirs).await;
            // Reopened until it is read again.
            assert_eq!(
                (county.level(&task).await, county.waiting_on(&task).await),
                (("L3".into(), false), "clinic".into())
            );
        }
        let mine = county.get("clinic", &format!("Task/{task}")).await.body;
        assert_eq!(mine["output"].as_array().unwrap().len(), 1, "{order}");
        assert_eq!(reference(&mine["output"][0]["valueReference"]), done);
        assert_eq!(county.get("clinic", &done).await.status, 200);
        assert_eq!(county.level(&task).await, ("L4".into(), true));
    }
}

// D5, G-025, G-026: an outcome at the target's own server, also one that comes late.
// G-037, G-085, G-193
#[tokio::test]
async fn an_outcome_at_the_targets_server_is_copied_for_the_source() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county.pantry_says(|task| task["status"] = json!("completed")).await;
    assert_eq!(county.steps(&task).await, ["requested", "accepted", "in-progress", "completed"]);
    let sent = county.at_pantry();
    let procedure = patient::procedure(
        &reference(&sent["focus"]),
        &reference(&sent["for"]),
        "food-insecurity",
        "2027-01-15T09:00:00Z",
    );
    let id = county.world.at(PANTRY, |pantry| pantry.put(procedure));
    county.pantry_says(|task| patient::completed_with(task, &format!("Procedure/{id}"))).await;
    let mine = county.get("clinic", &format!("Task/{task}")).await.body;
    let named = reference(&mine["output"][0]["valueReference"]);
    let copy = county.get("clinic", &named).await.body;
    assert_eq!(copy["meta"]["source"], format!("{PANTRY}/Procedure/{id}"));
    let based: Vec<String> = copy["basedOn"].as_array().unwrap().iter().map(reference).collect();
    assert!(based.contains(&reference(&mine["focus"])), "{based:?}");
    assert_eq!(reference(&copy["subject"]), reference(&mine["for"]));
    let found = county.get("clinic", &format!("Procedure?based-on={}", reference(&mine["focus"]))).await.entries();
    assert_eq!(found.len(), 1);
}

// What a target names at its own server is its own; a URL into ours hands nothing on.
#[tokio::test]
async fn an_output_at_the_targets_server_opens_nothing_here() {
    let county = TestGateway::county().await;
    let (_, other) = county.split("sr2", &["Organization/kitchen"]).await;
    let secret = county.did("kitchen", &other[0]).await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county.pantry_says(|task| patient::completed_with(task, &format!("{BASE}/{secret}"))).await;
    assert_eq!(county.status(&task).await, "completed");
    for who in ["pantry", "clinic"] {
        assert_eq!(county.get(who, &secret).await.status, 404, "{who}");
    }
}

// D11: one target never sees another's answer.
#[tokio::test]
async fn one_target_never_sees_what_another_said() {
    let county = TestGateway::county().await;
    let (task, relayed) = county.split("sr1", &["Organization/agency", "Organization/kitchen"]).await;
    county.answers("agency", &relayed[0], "accepted").await;
    let done = county.did("agency", &relayed[0]).await;
    county.change("agency", &relayed[0], |task| patient::completed_with(task, &done)).await;
    county.answers("kitchen", &relayed[1], "rejected").await;
    let source = county.task(&task).await;
    assert_eq!((&source["status"], source["output"].as_array().unwrap().len()), (&json!("completed"), 1));
    let view = county.get("kitchen", &format!("Task/{task}")).await.body;
    assert_eq!(view["id"], json!(task));
    for name in ["output", "note", "statusReason"] {
        assert!(view[name].is_null(), "{name}");
    }
    for path in [
        done.clone(),
        format!("Task/{}", relayed[0]),
        format!("Task/{task}/_history"),
        format!("Task/{task}/_history/1"),
    ] {
        assert_eq!(county.get("kitchen", &path).await.status, 404, "{path}");
    }
    assert_eq!(county.get("kitchen", "Task").await.entries().len(), 1);
    assert_eq!(county.get("kitchen", "Procedure?_total=accurate").await.body["total"], 0);
}

// D7
#[tokio::test]
async fn a_source_that_cancels_reaches_every_target() {
    let county = TestGateway::county().await;
    let (task, relayed) = county.split("sr1", &["Organization/agency", "Organization/pantry"]).await;
    county.answers("agency", &relayed[0], "accepted").await;
    let cancelled = county
        .change("clinic", &task, |task| {
            task["status"] = json!("cancelled");
            task["statusReason"] = json!({"text": "the client moved away"});
        })
        .await;
    assert_eq!(cancelled.status, 200);
    let theirs = county.get("agency", &format!("Task/{}", relayed[0])).await.body;
    assert_eq!(
        (&theirs["status"], &theirs["statusReason"]["text"]),
        (&json!("cancelled"), &json!("the client moved away"))
    );
    county.deliver_due().await;
    let theirs = county.at_pantry();
    assert_eq!(
        (&theirs["status"], &theirs["statusReason"]["text"]),
        (&json!("cancelled"), &json!("the client moved away"))
    );
    assert_eq!(county.status(&relayed[1]).await, "cancelled");
    assert_eq!(county.answers("agency", &relayed[0], "in-progress").await.status, 422);
}

// D7, D8: it may already be there, or never come.
#[tokio::test]
async fn a_cancellation_overtakes_the_delivery() {
    for fault in [Fault::LoseRequest, Fault::LoseAnswer] {
        let county = TestGateway::county().await;
        county.deliver_due().await;
        county.world.fault(PANTRY, &[fault]);
        let task = county.refers("sr1", "food-insecurity").await;
        county.deliver_due().await;
        county.change("clinic", &task, |task| task["status"] = json!("cancelled")).await;
        for pause in [5, 30, 120] {
            county.later(std::time::Duration::from_secs(pause)).await;
        }
        let theirs = county.relayed(&task).await.remove(0);
        assert_eq!(county.status(&theirs).await, "cancelled", "{fault:?}");
        let there = county
            .world
            .at(PANTRY, |pantry| pantry.all("Task").iter().map(|task| task["status"].clone()).collect::<Vec<_>>());
        assert!(there.len() <= 1 && there.iter().all(|status| status == "cancelled"), "{fault:?} {there:?}");
    }
}

// D7: its own Task stays cancelled, as its author said; that it came too late it reads there, with the outcome if there is
// one, and the coordinator sees it.
#[tokio::test]
async fn a_completion_that_came_first_stands_and_the_source_is_told() {
    for (with_outcome, informed) in [(true, true), (false, true), (false, false)] {
        let county = TestGateway::county().await;
        let task = county.refers("sr1", "food-insecurity").await;
        county.deliver_due().await;
        let sent = county.at_pantry();
        let id = sent["id"].as_str().unwrap().to_string();
        county.world.at(PANTRY, |pantry| {
            let procedure = patient::procedure(
                &reference(&sent["focus"]),
                &reference(&sent["for"]),
                "food-insecurity",
                "2027-01-15T09:00:00Z",
            );
            let done = with_outcome.then(|| pantry.put(procedure));
            pantry.update("Task", &id, |task| match done {
                Some(done) => patient::completed_with(task, &format!("Procedure/{done}")),
                None => task["status"] = json!("completed"),
            })
        });
        county.change("clinic", &task, |task| task["status"] = json!("cancelled")).await;
        if informed {
            assert_eq!(county.get("clinic", &format!("Task/{task}")).await.body["status"], "cancelled");
        }
        county.deliver_due().await;
        let theirs = county.relayed(&task).await.remove(0);
        assert_eq!(
            (county.at_pantry()["status"].clone(), county.status(&theirs).await),
            (json!("completed"), "completed".into())
        );
        // It knew that it had ended; this it does not know yet.
        assert_eq!(county.waiting_on(&task).await, "clinic", "{with_outcome} {informed}");
        let steps = county.get("desk", &format!("Task/{task}/$loop-status")).await.body.to_string();
        for what in ["cancelled", "completed", "completed-first"] {
            assert!(steps.contains(&format!(r#""valueCode":"{what}""#)), "{what}: {steps}");
        }
        assert_eq!(steps.contains(r#""valueCode":"outcome""#), with_outcome);
        let told = county.get("clinic", &format!("Task/{task}")).await.body;
        assert_eq!(told["status"], "cancelled");
        assert_eq!(told["output"].as_array().map_or(0, Vec::len), usize::from(with_outcome));
        let notes = told["note"].as_array().unwrap();
        assert!(notes.len() == 1 && notes[0]["text"].as_str().unwrap().contains("before it could be called off"));
        assert!(county.level(&task).await.1, "and by that it is closed");
        // Said once, however often it is looked at.
        let version = told["meta"]["versionId"].clone();
        county.poll("pantry").await;
        county.later(std::time::Duration::from_secs(100_000)).await;
        assert_eq!(county.task(&task).await["meta"]["versionId"], version);
    }
}

// D7: by its ServiceRequest, at its server and here.
#[tokio::test]
async fn a_revoked_or_paused_request_reaches_the_target() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.poll("clinic").await;
    let theirs = county.relayed(&task).await.remove(0);
    let request = reference(&county.task(&theirs).await["focus"]);
    for status in ["on-hold", "active", "revoked"] {
        county.ehr_changes("ServiceRequest", "sr1", |request| request["status"] = json!(status)).await;
        assert_eq!(county.get("agency", &request).await.body["status"], status);
    }
    assert_eq!((county.status(&theirs).await, county.status(&task).await), ("cancelled".into(), "cancelled".into()));
    assert_eq!(county.level(&task).await, ("L2".into(), false));
}

// D7; reference-clients §2.3 row 9: a coordinator calls off one target's Task at its own hand.
#[tokio::test]
async fn a_coordinator_who_cancels_our_task_reaches_the_targets_server() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let relayed = county.relays(&task, &["Organization/pantry", "Organization/kitchen"]).await;
    county.deliver_due().await;
    county.pantry_says(|task| task["status"] = json!("accepted")).await;
    let cancelled = county
        .change("desk", &relayed[0], |task| {
            task["status"] = json!("cancelled");
            task["statusReason"] = json!({"text": "somebody nearer was found"});
        })
        .await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
    county.deliver_due().await;
    let there = county.at_pantry();
    assert_eq!(
        (&there["status"], &there["statusReason"]["text"]),
        (&json!("cancelled"), &json!("somebody nearer was found"))
    );
    assert_eq!(county.status(&relayed[1]).await, "requested");
    assert!(!["failed", "cancelled"].contains(&county.status(&task).await.as_str()));
}

// D7: called off before anything was read, or while it waits for the coordinator.
#[tokio::test]
async fn what_is_cancelled_early_goes_nowhere() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let draft = county.relays(&task, &["Organization/pantry"]).await.remove(0);
    county.change("clinic", &task, |task| task["status"] = json!("cancelled")).await;
    county.deliver_due().await;
    assert_eq!((county.status(&draft).await, county.at_pantry()), ("cancelled".into(), Value::Null));
    let held = county.refers("sr2", "food-insecurity").await;
    county.deliver_due().await;
    county.change("clinic", &held, |task| task["status"] = json!("cancelled")).await;
    let late =
        county.post("desk", &format!("Task/{held}/$relay"), &crate::acts::relay_to(&["Organization/kitchen"])).await;
    assert_eq!((late.status, late.expression()), (422, "Task.status"));
    assert_eq!(county.waiting_on(&held).await, "");
}

// reference-clients §2.3 row 6
#[tokio::test]
async fn a_coordinator_who_declines_says_why_and_the_source_is_told() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!(county.change("desk", &task, |task| task["status"] = json!("rejected")).await.status, 422);
    assert_eq!(county.answers("desk", &task, "rejected").await.status, 200);
    assert_eq!((county.level(&task).await, county.waiting_on(&task).await), (("L2".into(), false), "clinic".into()));
}

// Outputs other than Procedures, with their own details (G-053), and what they were made from (G-166).
// G-086
#[tokio::test]
async fn an_observation_and_what_it_rests_on_reach_the_source() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let ours = county.answers("agency", &theirs, "accepted").await.body;
    let answers = json!({"resourceType": "QuestionnaireResponse", "status": "completed", "subject": ours["for"]});
    let answers = county.post("agency", "QuestionnaireResponse", &answers).await;
    assert_eq!(answers.status, 201, "{}", answers.body);
    let seen = json!({"resourceType": "Observation", "status": "final", "subject": ours["for"], "code": {"text": "enrolled"},
        "valueString": "yes", "derivedFrom": [{"reference": format!("QuestionnaireResponse/{}", answers.id())}]});
    let seen = county.post("agency", "Observation", &seen).await;
    assert_eq!(seen.status, 201, "{}", seen.body);
    county
        .change("agency", &theirs, |task| {
            task["status"] = json!("completed");
            task["output"] = json!([{"type": {"coding": [{"system": loopgate::fhir::views::SDOHCC, "code": "additional-content"}]},
                "valueReference": {"reference": format!("Observation/{}", seen.id())}}]);
        })
        .await;
    for path in [format!("Observation/{}", seen.id()), format!("QuestionnaireResponse/{}", answers.id())] {
        assert_eq!(county.get("clinic", &path).await.status, 200, "{path}");
        assert_eq!(county.get("kitchen", &path).await.status, 404, "{path}");
    }
    // The case is done, and what was told of it goes.
    assert_eq!(county.get("agency", &reference(&ours["for"])).await.status, 200);
}
