//! The four flows, end to end.

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::{reference, there};
use crate::databases::Place;
use crate::gateway::{BASE, EHR, Fault, PANTRY, TestGateway, county};
use crate::on_both;

// G-015…G-026: indirect, both sides with servers.
// G-019, G-023, G-024, G-080, G-155
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
// G-019, G-024
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
// G-155
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
        // Each write names the version it was read in, and no other.
        let letters = county.world.letters();
        let writes: Vec<_> =
            letters.iter().filter(|one| one.method == "PUT" && one.url.ends_with("/Task/kept")).collect();
        assert!(writes.len() >= 3, "{owner}");
        for write in writes {
            let body: Value = serde_json::from_str(write.body.as_deref().unwrap()).unwrap();
            let version = body["meta"]["versionId"].as_str().unwrap();
            let named: Vec<&str> = write
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("if-match"))
                .map(|(_, tag)| tag.as_str())
                .collect();
            assert_eq!(named, [format!("W/\"{version}\"")], "{owner}");
        }
        let steps: Vec<Value> =
            county.world.at(EHR, |ehr| ehr.history("Task", "kept").iter().map(|task| task["status"].clone()).collect());
        let mut legal = steps.clone();
        legal.dedup();
        assert_eq!(legal, ["requested", "accepted", "in-progress", "completed"].map(|one| json!(one)));
        assert_eq!(county.level(&task).await, ("L4".into(), true));
    }
}

// 412 in between
// G-067
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
// G-155
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

/// Everything once on this database: a target with a server, a light target, an open Task and its claim.
async fn all_around(place: Place) {
    let county = TestGateway::with(place, &county()).await;
    let served = county.refers("sr1", "food-insecurity").await;
    let light = county.refers("sr2", "housing-instability").await;
    let open = county.post("clinic", "Task", &county.referral("sr3", "food-insecurity", None)).await.id();
    county.deliver_due().await;
    county.pantry_says(|task| task["status"] = json!("accepted")).await;
    let sent = county.at_pantry();
    let done = patient::procedure(
        &reference(&sent["focus"]),
        &reference(&sent["for"]),
        "food-insecurity",
        "2027-01-15T09:00:00Z",
    );
    let done = county.world.at(PANTRY, |pantry| pantry.put(done));
    county.pantry_says(|task| patient::completed_with(task, &format!("Procedure/{done}"))).await;

    let theirs = county.relayed(&light).await.remove(0);
    county.answers("agency", &theirs, "accepted").await;
    let done = county.did("agency", &theirs).await;
    county.change("agency", &theirs, |task| patient::completed_with(task, &done)).await;

    let theirs = county.relayed(&open).await.remove(0);
    let path = format!("Task/{theirs}");
    let mut claims = Vec::new();
    for who in ["kitchen", "pantry"] {
        let mut body = county.get(who, &path).await.body;
        body["owner"] = json!({"reference": format!("Organization/{who}")});
        body["status"] = json!("accepted");
        claims.push(body);
    }
    let (one, other) = tokio::join!(county.put("kitchen", &path, &claims[0]), county.put("pantry", &path, &claims[1]));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let winner = if one.status == 200 { "kitchen" } else { "pantry" };
    assert_eq!(county.answers(winner, &theirs, "completed").await.status, 200);

    for task in [&served, &light, &open] {
        assert_eq!(county.steps(task).await, ["requested", "accepted", "in-progress", "completed"]);
    }
    for task in [&served, &light] {
        assert_eq!(county.level(task).await, ("L3".into(), false));
    }
    let found = county.get("clinic", "Task?status=completed&_total=accurate").await;
    assert_eq!((found.entries().len(), &found.body["total"]), (3, &json!(3)));
    for task in [&served, &light, &open] {
        assert_eq!(county.level(task).await, ("L4".into(), true));
    }
    for task in found.entries().iter().filter(|task| !task["output"].is_null()) {
        let outcome = reference(&task["output"][0]["valueReference"]);
        assert_eq!(county.get("clinic", &outcome).await.status, 200);
    }
}

// G-032, G-035
on_both!(everything_goes_round, async |place| all_around(place).await);

// reference-clients §2.7: one transaction posts the Procedure and completes the Task with it.
#[tokio::test]
async fn a_target_says_what_it_did_and_completes_in_one_transaction() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let mut body = county.answers("agency", &theirs, "accepted").await.body;
    let url = "urn:uuid:00000000-0000-4000-8000-000000000001";
    let done = patient::procedure(
        &reference(&body["focus"]),
        &reference(&body["for"]),
        "housing-instability",
        "2027-01-15T09:00:00Z",
    );
    patient::completed_with(&mut body, url);
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        {"fullUrl": format!("https://hub.test/fhir/Task/{theirs}"), "resource": body, "request": {"method": "PUT", "url": format!("Task/{theirs}")}},
        {"fullUrl": url, "resource": done, "request": {"method": "POST", "url": "Procedure"}}]});
    let answer = county.post("agency", "", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mine = county.get("clinic", &format!("Task/{task}")).await.body;
    assert_eq!((&mine["status"], mine["output"].as_array().unwrap().len()), (&json!("completed"), 1));
    assert_eq!(county.get("clinic", &reference(&mine["output"][0]["valueReference"])).await.status, 200);
}

// Direct light: a draft at the EHR is none of ours; what is called off there is called off, and nobody waits.
#[tokio::test]
async fn a_task_kept_at_the_ehr_begins_and_ends_when_its_author_says_so() {
    let (county, task) = kept(&county(), "https://hub.test/fhir/Organization/hub").await;
    let theirs = county.relayed(&task).await.remove(0);
    county.answers("agency", &theirs, "accepted").await;
    county.deliver_due().await;
    county
        .ehr_changes("Task", "kept", |task| {
            task["status"] = json!("cancelled");
            task["statusReason"] = json!({"text": "moved away"});
        })
        .await;
    let told = county.get("agency", &format!("Task/{theirs}")).await.body;
    assert_eq!((&told["status"], &told["statusReason"]["text"]), (&json!("cancelled"), &json!("moved away")));
    assert_eq!(county.level(&task).await, ("L4".into(), true));
    // A draft, and one whose request lies elsewhere.
    county.world.at(EHR, |ehr| {
        let mut draft = ehr.get("Task", "kept").unwrap().clone();
        draft["id"] = json!("draft");
        draft["status"] = json!("draft");
        draft["focus"] = json!({"reference": "https://evil.test/fhir/ServiceRequest/1"});
        draft.as_object_mut().unwrap().shift_remove("statusReason");
        ehr.put(draft)
    });
    county.poll("clinic").await;
    assert_eq!(county.get("root", "Task?owner=Organization/hub").await.entries().len(), 1);
    county.ehr_changes("Task", "draft", |task| task["status"] = json!("requested")).await;
    let there = county.world.at(EHR, |ehr| ehr.get("Task", "draft").unwrap().clone());
    assert_eq!(there["status"], "rejected");
    assert!(there["statusReason"]["text"].as_str().unwrap().contains("base"));
    assert!(county.world.requests().iter().all(|one| !one.contains("evil")));
}

// G-101, reference-clients §2.2 row 23: a questionnaire for a patient is kept, in its own words, and not brokered.
#[tokio::test]
async fn a_task_for_a_patient_is_kept_and_not_referred() {
    use loopgate::fhir::views::SDOHCC;
    let county = TestGateway::county().await;
    let patient = county.post("clinic", "Patient", &json!({"resourceType": "Patient", "active": true})).await.id();
    let mut task = json!({"resourceType": "Task", "status": "ready", "intent": "order", "priority": "routine",
        "meta": {"profile": ["http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForPatient"]},
        "code": {"coding": [{"system": "http://hl7.org/fhir/uv/sdc/CodeSystem/temp", "code": "complete-questionnaire"}]},
        "for": {"reference": format!("Patient/{patient}")}, "owner": {"reference": format!("Patient/{patient}")},
        "requester": {"reference": "Organization/clinic"}, "authoredOn": "2027-01-01",
        "input": [
            {"type": {"coding": [{"system": "http://hl7.org/fhir/uv/sdc/CodeSystem/temp", "code": "questionnaire"}]},
             "valueCanonical": "https://clinic.example/fhir/Questionnaire/hunger"},
            {"type": {"coding": [{"system": SDOHCC, "code": "questionnaire-category"}]},
             "valueCodeableConcept": {"coding": [{"system": SDOHCC, "code": "risk-questionnaire"}]}}]});
    let made = county.post("clinic", "Task", &task).await;
    assert_eq!((made.status, made.body["status"].as_str()), (201, Some("ready")));
    county.deliver_due().await;
    assert!(county.relayed(&made.id()).await.is_empty());
    task = made.body;
    task["status"] = json!("in-progress");
    let path = format!("Task/{}", task["id"].as_str().unwrap());
    assert_eq!(county.put("clinic", &path, &task).await.body["status"], "in-progress");
    assert_eq!(county.get("agency", &path).await.status, 404);
}

// G-049: a referral may be part of another referral, and of no other Task: neither when it is made nor when a draft is
// changed.
#[tokio::test]
async fn a_referral_is_part_of_nothing_but_a_referral() {
    let county = TestGateway::county().await.settled().await;
    let whole = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let other = json!({"resourceType": "Task", "status": "ready", "intent": "order",
        "requester": {"reference": "Organization/clinic"}});
    let other = county.post("clinic", "Task", &other).await;
    assert_eq!(other.status, 201, "{}", other.body);
    let part = |request: &str, of: &str, status: &str| {
        let mut task = county.referral(request, "housing-instability", Some("Organization/hub"));
        task["status"] = json!(status);
        task["partOf"] = json!([{"reference": of}]);
        task
    };
    for of in [format!("Task/{}", other.id()), format!("{BASE}/Task/{}", other.id()), "Patient/1".to_string()] {
        let refused = county.post("clinic", "Task", &part("sr2", &of, "requested")).await;
        assert_eq!(refused.status, 422, "{of}: {}", refused.body);
        assert!(refused.expression().starts_with("Task.partOf"), "{}", refused.body);
    }
    let urn = "urn:uuid:6a1f7c1e-5b0e-4c8e-9b55-0d6a3f1f2a01";
    let kind = json!({"resourceType": "Task", "status": "ready", "intent": "order",
        "requester": {"reference": "Organization/clinic"}});
    let to = json!({"method": "POST", "url": "Task"});
    let both = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": part("sr2", urn, "requested"), "request": to}, {"fullUrl": urn, "resource": kind, "request": to}]});
    let refused = county.post("clinic", "", &both).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(refused.expression().contains("partOf"), "{}", refused.body);
    let whole = format!("Task/{whole}");
    let made = county.post("clinic", "Task", &part("sr2", &whole, "draft")).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let path = format!("Task/{}", made.id());
    let mut draft = county.get("clinic", &path).await.body;
    draft["partOf"] = json!([{"reference": format!("Task/{}", other.id())}]);
    let refused = county.put("clinic", &path, &draft).await;
    assert_eq!((refused.status, refused.expression()), (422, "Task.partOf"), "{}", refused.body);
    let kept = county.get("clinic", &path).await.body["partOf"][0]["reference"].clone();
    assert!(kept.as_str().unwrap().ends_with(&whole), "{kept}");
}
