//! The way back: how the targets' answers become the source's status (D5), cancellation both ways (D7), outcomes, the
//! Task kept at the EHR (direct light), and `$loop-status` (D12b).

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::{by_hand, reference, there};
use crate::databases::Place;
use crate::gateway::{EHR, Fault, HOOK, PANTRY, TestGateway, county};

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
    county.pantry_says(|task| patient::completed_with(task, &format!("https://hub.test/fhir/{secret}"))).await;
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

// D7
#[tokio::test]
async fn a_completion_that_came_first_stands_and_the_source_is_told() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let sent = county.at_pantry();
    let id = sent["id"].as_str().unwrap().to_string();
    county.world.at(PANTRY, |pantry| {
        let procedure = pantry.put(patient::procedure(
            &reference(&sent["focus"]),
            &reference(&sent["for"]),
            "food-insecurity",
            "2027-01-15T09:00:00Z",
        ));
        pantry.update("Task", &id, |task| patient::completed_with(task, &format!("Procedure/{procedure}")))
    });
    county.change("clinic", &task, |task| task["status"] = json!("cancelled")).await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    assert_eq!(
        (county.at_pantry()["status"].clone(), county.status(&theirs).await),
        (json!("completed"), "completed".into())
    );
    let before = county.waiting_on(&task).await;
    let told = county.get("clinic", &format!("Task/{task}")).await.body;
    assert_eq!((before.as_str(), told["output"].as_array().map(Vec::len)), ("clinic", Some(1)));
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

/// The clinic keeps its Task at its own server: owner as written there. The county and our id of it.
async fn kept(settings: &str, owner: &str) -> (TestGateway, String) {
    let county = TestGateway::with(Place::sqlite(), settings).await;
    county.referral("sr1", "housing-instability", None);
    let body = patient::referral_task(
        Some("kept"),
        "ServiceRequest/sr1",
        patient::REQUESTER,
        patient::PATIENT,
        Some(owner),
        "2027-01-15T08:00:00Z",
    );
    county.world.at(EHR, |ehr| ehr.put(body));
    county.poll("clinic").await;
    let found = county.get("root", "Task?owner=Organization/hub").await.entries();
    (county, found.first().map_or(String::new(), |task| task["id"].as_str().unwrap().to_string()))
}

fn at_ehr(county: &TestGateway) -> Value {
    county.world.at(EHR, |ehr| ehr.get("Task", "kept").unwrap().clone())
}

// §1.3 direct light, G-067, D12a
#[tokio::test]
async fn a_task_kept_at_the_ehr_is_found_and_written_back_step_by_step() {
    let ours = county().replace(
        "follow = \"poll\", poll_every = \"1h\" }\n",
        "follow = \"poll\", poll_every = \"1h\", our_reference = \"https://ehr.test/fhir/Organization/cp\" }\n",
    );
    for (settings, owner) in [
        (county(), "https://hub.test/fhir/Organization/hub"),
        (ours.clone(), "Organization/cp"),
        (ours.clone(), "https://ehr.test/fhir/Organization/cp"),
    ] {
        let (county, task) = kept(&settings, owner).await;
        assert!(!task.is_empty(), "{owner}");
        assert_eq!(at_ehr(&county)["status"], "accepted");
        let theirs = county.relayed(&task).await.remove(0);
        county.answers("agency", &theirs, "accepted").await;
        county.deliver_due().await;
        // Somebody at the EHR changes it between our read and our write.
        county.world.at(EHR, |ehr| ehr.update("Task", "kept", |task| task["description"] = json!("by the ward")));
        let done = county.did("agency", &theirs).await;
        county.change("agency", &theirs, |task| patient::completed_with(task, &done)).await;
        county.deliver_due().await;
        let there = at_ehr(&county);
        assert_eq!((&there["status"], &there["description"]), (&json!("completed"), &json!("by the ward")));
        assert_eq!(reference(&there["output"][0]["valueReference"]), format!("https://hub.test/fhir/{done}"));
        assert_eq!(reference(&there["owner"]), owner);
        let steps: Vec<Value> =
            county.world.at(EHR, |ehr| ehr.history("Task", "kept").iter().map(|task| task["status"].clone()).collect());
        let mut legal = steps.clone();
        legal.dedup();
        assert_eq!(legal, ["requested", "accepted", "in-progress", "completed"].map(|one| json!(one)));
        assert_eq!(county.level(&task).await, ("L4".into(), true));
    }
}

// 412 in between
#[tokio::test]
async fn a_version_that_changed_under_the_write_is_read_again() {
    let (county, task) = kept(&county(), "https://hub.test/fhir/Organization/hub").await;
    let theirs = county.relayed(&task).await.remove(0);
    county.answers("agency", &theirs, "accepted").await;
    // One read is answered, then the write meets 412; then both succeed.
    county.world.fault(EHR, &[Fault::None, Fault::Answer(412)]);
    county.deliver_due().await;
    assert_eq!(at_ehr(&county)["status"], "in-progress");
    // Cancelled at the EHR while an answer is under way: the source's word is followed.
    county.answers("agency", &theirs, "on-hold").await;
    county.world.at(EHR, |ehr| ehr.update("Task", "kept", |task| task["status"] = json!("cancelled")));
    county.deliver_due().await;
    assert_eq!((county.status(&task).await, county.status(&theirs).await), ("cancelled".into(), "cancelled".into()));
    assert_eq!(at_ehr(&county)["status"], "cancelled");
}

// D12a: write_outcomes = "create", once each whatever happens.
#[tokio::test]
async fn an_outcome_is_created_at_the_ehr_once() {
    let settings = county().replace(
        "follow = \"poll\", poll_every = \"1h\" }\n",
        "follow = \"poll\", poll_every = \"1h\", write_outcomes = \"create\" }\n",
    );
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        for skipped in 0..3 {
            let (county, task) = kept(&settings, "https://hub.test/fhir/Organization/hub").await;
            let theirs = county.relayed(&task).await.remove(0);
            county.answers("agency", &theirs, "accepted").await;
            county.deliver_due().await;
            let done = county.did("agency", &theirs).await;
            county.change("agency", &theirs, |task| patient::completed_with(task, &done)).await;
            let mut faults = vec![Fault::None; skipped];
            faults.push(fault);
            county.world.fault(EHR, &faults);
            for pause in [0, 5, 30, 120] {
                county.later(std::time::Duration::from_secs(pause)).await;
            }
            let made =
                county.world.at(EHR, |ehr| ehr.all("Procedure").iter().map(|one| (*one).clone()).collect::<Vec<_>>());
            assert_eq!(made.len(), 1, "{fault:?} after {skipped}");
            assert_eq!(reference(&made[0]["subject"]), there(patient::PATIENT));
            assert!(made[0]["basedOn"].to_string().contains(&there("ServiceRequest/sr1")), "{}", made[0]["basedOn"]);
            let kept = at_ehr(&county);
            assert_eq!(
                reference(&kept["output"][0]["valueReference"]),
                format!("Procedure/{}", made[0]["id"].as_str().unwrap())
            );
            assert_eq!(county.level(&task).await, ("L4".into(), true));
        }
    }
}

// D12b
#[tokio::test]
async fn the_loop_says_at_each_stage_how_far_it_is_and_whose_turn() {
    let county = TestGateway::county().await;
    let stage = async |task: &str| (county.level(task).await.0, county.waiting_on(task).await);
    let is = |level: &str, who: &str| (level.to_string(), who.to_string());
    county.deliver_due().await;
    county.world.fault(PANTRY, &[Fault::LoseRequest]);
    let task = county.refers("sr1", "food-insecurity").await;
    assert_eq!(stage(&task).await, is("L0", "hub"));
    county.deliver_due().await;
    assert_eq!(stage(&task).await, is("L0", "hub"), "not yet delivered");
    county.later(std::time::Duration::from_secs(5)).await;
    assert_eq!(stage(&task).await, is("L0", "pantry"));
    assert!(
        county.loop_part(&task, "due", "valueDateTime").await.as_str().unwrap()
            > county.clock.now().to_string().as_str()
    );
    county.pantry_says(|task| task["status"] = json!("accepted")).await;
    assert_eq!(stage(&task).await, is("L1", "pantry"));
    county.pantry_says(|task| task["status"] = json!("completed")).await;
    assert_eq!(stage(&task).await, is("L2", "clinic"));
    // Asking is not reading, and nobody else's reading is the source's.
    for who in ["clinic", "desk"] {
        assert_eq!(county.get(who, &format!("Task/{task}/$loop-status")).await.status, 200);
    }
    county.get("desk", &format!("Task/{task}")).await;
    county.get("pantry", &format!("Task/{task}")).await;
    assert_eq!(stage(&task).await, is("L2", "clinic"));
    for who in ["pantry", "kitchen", "agency"] {
        assert_eq!(county.get(who, &format!("Task/{task}/$loop-status")).await.status, 404, "{who}");
    }
    county.get("clinic", "Task?status=completed").await;
    assert_eq!(stage(&task).await, is("L4", ""));
    let answer = county
        .ask("clinic", "POST", &format!("Task/{task}/$loop-status"), Some(&json!({"resourceType": "Parameters"})), &[])
        .await;
    let said: Vec<String> = answer.body["parameter"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["name"] == "step")
        .map(|step| step["part"][0]["valueCode"].as_str().unwrap().to_string())
        .collect();
    for what in ["received", "relayed", "accepted", "delivered", "in-progress", "completed", "informed"] {
        assert!(said.iter().any(|one| one == what), "{what}: {said:?}");
    }
}

// D12b: a notification that was taken is evidence.
#[tokio::test]
async fn a_notification_that_the_source_took_closes_the_loop() {
    let county = TestGateway::county().await;
    let subscription = json!({"resourceType": "Subscription", "status": "requested", "reason": "status",
        "criteria": "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task",
        "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content", "valueCode": "id-only"}]}}});
    let made = county.post("clinic", "Subscription", &subscription).await;
    assert_eq!(made.status, 201, "{}", made.body);
    county.deliver_due().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    county.answers("agency", &theirs, "rejected").await;
    assert_eq!(county.level(&task).await, ("L2".into(), false));
    county.deliver_due().await;
    assert!(!county.world.heard(HOOK).is_empty());
    assert_eq!(county.level(&task).await, ("L4".into(), true));
    assert_eq!(county.waiting_on(&task).await, "");
}
