//! Where a referral goes and what an intermediary makes of it: routing, capacity, open Tasks, coordinators, and who may
//! see what (design D9, D11, D12; guide G-016…G-029, G-075, G-094…G-096).

use loopgate::demo::patient;
use loopgate::fhir::views::{CAPACITY_EXTENSION, SDOHCC};
use serde_json::{Value, json};

use crate::acts::{by_hand, reference, relay_to, there, without_coordinator};
use crate::gateway::{EHR, PANTRY, TestGateway};

// G-016, G-017, G-018, G-021, G-075, D12a
// G-048
#[tokio::test]
async fn our_request_and_task_are_the_intermediarys() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    county.world.at(EHR, |ehr| {
        ehr.update("ServiceRequest", "sr1", |request| {
            request["orderDetail"] = json!([{"coding": [{"system": SDOHCC, "code": "contacting-subject-prohibited"}]}]);
            request["identifier"] = json!([{"system": "urn:ehr", "value": "order-9"}]);
        })
    });
    body["identifier"] = json!([{"system": "urn:ehr", "value": "task-9"}]);
    body["priority"] = json!("urgent");
    let task = county.post("clinic", "Task", &body).await.id();
    county.clock.advance(std::time::Duration::from_secs(60));
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let ours = county.get("agency", &format!("Task/{theirs}")).await.body;
    let source = county.task(&task).await;
    assert_eq!(
        (&ours["status"], &ours["intent"], &ours["priority"]),
        (&json!("requested"), &json!("order"), &json!("urgent"))
    );
    assert_eq!(reference(&ours["partOf"][0]), format!("Task/{task}"));
    assert_eq!(reference(&ours["requester"]), "Organization/hub");
    assert_eq!(reference(&ours["owner"]), "Organization/agency");
    assert_eq!(ours["for"], source["for"]);
    assert_eq!(ours["identifier"], json!([{"system": "https://hub.test/fhir/Task", "value": theirs}]));
    assert!(ours["authoredOn"].as_str() > source["authoredOn"].as_str());
    let request = county.get("agency", &reference(&ours["focus"])).await.body;
    assert_eq!((&request["intent"], &request["status"]), (&json!("filler-order"), &json!("active")));
    assert_eq!(request["basedOn"][0], source["focus"]);
    assert_eq!(request["orderDetail"][0]["coding"][0]["code"], "contacting-subject-prohibited");
    assert!(request["identifier"].is_null());
    assert_eq!(county.get("agency", &reference(&request["basedOn"][0])).await.status, 200);
}

// G-050, §1.9: content-rich referrals.
#[tokio::test]
async fn additional_content_goes_with_the_referral() {
    for category in ["housing-instability", "food-insecurity"] {
        let county = TestGateway::county().await;
        county.world.at(EHR, |ehr| {
            ehr.put(json!({"resourceType": "DocumentReference", "id": "letter", "status": "current",
                "subject": {"reference": patient::PATIENT}, "content": [{"attachment": {"contentType": "text/plain", "data": "aGk="}}]}))
        });
        let mut body = county.referral("sr1", category, Some("Organization/hub"));
        body["input"] = json!([{"type": {"coding": [{"system": SDOHCC, "code": "additional-content"}]},
            "valueReference": {"reference": there("DocumentReference/letter")}}]);
        let task = county.post("clinic", "Task", &body).await.id();
        county.deliver_due().await;
        let theirs = county.relayed(&task).await.remove(0);
        let target = if category == "food-insecurity" { "pantry" } else { "agency" };
        let ours = county.get(target, &format!("Task/{theirs}")).await.body;
        let named = reference(&ours["input"][0]["valueReference"]);
        let read = county.get(target, &named).await;
        assert_eq!((read.status, &read.body["resourceType"]), (200, &json!("DocumentReference")), "{named}");
        if target == "pantry" {
            assert_eq!(
                reference(&county.at_pantry()["input"][0]["valueReference"]),
                format!("https://hub.test/fhir/{named}")
            );
        }
    }
}

// G-029, D12
#[tokio::test]
async fn a_named_performer_is_asked_however_it_is_named() {
    let npi = json!({"identifier": {"system": "urn:npi", "value": "77"}});
    for (performer, target) in [
        (json!({"reference": "https://hub.test/fhir/Organization/kitchen"}), "kitchen"),
        (json!({"reference": "https://hub.test/fhir/HealthcareService/zz-kitchen-food"}), "kitchen"),
        (npi.clone(), "pantry"),
        (json!({"reference": "Organization/own-id-of-it", "identifier": npi["identifier"]}), "pantry"),
    ] {
        let county = TestGateway::county().await;
        county.referral("sr1", "transportation-insecurity", None);
        county
            .world
            .at(EHR, |ehr| ehr.update("ServiceRequest", "sr1", |request| request["performer"] = json!([performer])));
        let body = patient::referral_task(
            None,
            &there("ServiceRequest/sr1"),
            &there(patient::REQUESTER),
            &there(patient::PATIENT),
            Some("Organization/hub"),
            "2027-01-15T08:00:00Z",
        );
        let task = county.post("clinic", "Task", &body).await.id();
        county.deliver_due().await;
        let theirs = county.relayed(&task).await.remove(0);
        assert_eq!(reference(&county.task(&theirs).await["owner"]), format!("Organization/{target}"), "{performer}");
    }
    for (owner, target) in [
        ("Organization/kitchen", "kitchen"),
        ("https://hub.test/fhir/Organization/kitchen", "kitchen"),
        ("HealthcareService/zz-kitchen-food", "kitchen"),
        ("Organization/what-the-ehr-calls-us", "agency"),
        ("https://hub.test/fhir/Organization/hub", "agency"),
    ] {
        let county = TestGateway::county().await;
        let body = county.referral("sr1", "housing-instability", Some(owner));
        let task = county.post("clinic", "Task", &body).await;
        assert_eq!(task.status, 201, "{owner}: {}", task.body);
        county.deliver_due().await;
        let theirs = county.relayed(&task.id()).await.remove(0);
        assert_eq!(reference(&county.task(&theirs).await["owner"]), format!("Organization/{target}"), "{owner}");
    }
}

/// A HealthcareService with a capacity.
fn service(provider: &str, category: &str, capacity: &str) -> Value {
    json!({"resourceType": "HealthcareService", "active": true, "name": "x",
        "providedBy": {"reference": format!("Organization/{provider}")},
        "category": [{"coding": [{"system": SDOHCC, "code": category}]}],
        "extension": [{"url": CAPACITY_EXTENSION, "extension": [
            {"url": "capacityStatus", "valueCodeableConcept": {"coding": [{"system": SDOHCC, "code": capacity}]}}]}]})
}

// G-094; reference-clients §2.4 row 6
// G-097, G-012
#[tokio::test]
async fn the_best_match_has_room_and_targets_say_themselves_whether_they_have() {
    let county = TestGateway::county().await;
    // Without a word the first by id is asked: the pantry. A kitchen that says it has room comes before it.
    let mut own = county.get("kitchen", "HealthcareService/zz-kitchen-food").await.body;
    own["extension"] = service("kitchen", "food-insecurity", "capacity")["extension"].clone();
    assert_eq!(county.put("kitchen", "HealthcareService/zz-kitchen-food", &own).await.status, 200);
    let owner = async |request: &str, category: &str| {
        let task = county.refers(request, category).await;
        county.deliver_due().await;
        match county.relayed(&task).await.first() {
            Some(theirs) => reference(&county.task(theirs).await["owner"]),
            None => String::new(),
        }
    };
    assert_eq!(owner("sr1", "food-insecurity").await, "Organization/kitchen");
    own["extension"] = service("kitchen", "food-insecurity", "no-capacity")["extension"].clone();
    county.put("kitchen", "HealthcareService/zz-kitchen-food", &own).await;
    assert_eq!(owner("sr2", "food-insecurity").await, "Organization/pantry");
    // A light target posts a service for something new.
    assert_eq!(owner("sr3", "elder-abuse").await, "");
    let posted = county.post("agency", "HealthcareService", &service("agency", "elder-abuse", "waitlist")).await;
    assert_eq!(posted.status, 201, "{}", posted.body);
    assert_eq!(owner("sr4", "elder-abuse").await, "Organization/agency");
    let mut full = posted.body.clone();
    full["extension"] = service("agency", "elder-abuse", "no-capacity")["extension"].clone();
    assert_eq!(county.put("agency", &format!("HealthcareService/{}", posted.id()), &full).await.status, 200);
    assert_eq!(owner("sr5", "elder-abuse").await, "");
    // Nobody speaks for another house.
    assert_eq!(
        county.post("agency", "HealthcareService", &service("kitchen", "elder-abuse", "capacity")).await.status,
        422
    );
    let theirs = county.get("agency", "HealthcareService/zz-kitchen-food").await.body;
    assert!([403, 404, 422].contains(&county.put("agency", "HealthcareService/zz-kitchen-food", &theirs).await.status));
}

/// An open referral for food, relayed without an owner: the county, the source's Task, ours.
async fn open() -> (TestGateway, String, String) {
    let county = TestGateway::county().await;
    let body = county.referral("sr1", "food-insecurity", None);
    let task = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    (county, task, theirs)
}

/// A claim: oneself as owner, accepted.
fn claim(task: &Value, partner: &str) -> Value {
    let mut body = task.clone();
    body["owner"] = json!({"reference": format!("Organization/{partner}")});
    body["status"] = json!("accepted");
    body
}

// D9, G-045
#[tokio::test]
async fn an_open_task_is_seen_by_targets_in_its_category_alone_and_tells_no_name() {
    let (county, task, theirs) = open().await;
    let path = format!("Task/{theirs}");
    for partner in ["pantry", "kitchen"] {
        let read = county.get(partner, &path).await;
        assert_eq!((read.status, read.body["owner"].is_null()), (200, true));
        assert_eq!(county.get(partner, &reference(&read.body["focus"])).await.status, 200);
        assert_eq!(county.get(partner, &reference(&read.body["for"])).await.status, 404);
    }
    assert_eq!(county.get("agency", &path).await.status, 404);
    assert_eq!(county.get("agency", "Task").await.entries().len(), 0);
    let body = county.get("kitchen", &path).await.body;
    let mut half = body.clone();
    half["status"] = json!("accepted");
    for wrong in [half, claim(&body, "pantry"), {
        let mut only = claim(&body, "kitchen");
        only["status"] = json!("requested");
        only
    }] {
        let refused = county.put("kitchen", &path, &wrong).await;
        assert_eq!((refused.status, refused.expression()), (422, "Task.owner"));
    }
    assert_eq!(county.put("agency", &path, &claim(&body, "agency")).await.status, 404);
    let won = county.put("kitchen", &path, &claim(&body, "kitchen")).await;
    assert_eq!((won.status, &won.body["status"]), (200, &json!("accepted")));
    assert_eq!(county.get("kitchen", &reference(&body["for"])).await.status, 200);
    assert_eq!(county.status(&task).await, "in-progress");
}

// D9: one wins, whoever comes when.
// G-045
#[tokio::test]
async fn of_two_claims_at_once_exactly_one_wins() {
    for round in 0..4 {
        let (county, _, theirs) = open().await;
        let path = format!("Task/{theirs}");
        let read = county.get("kitchen", &path).await;
        let etag = read.headers["etag"].clone();
        let with: &[(&str, &str)] = if round % 2 == 0 { &[] } else { &[("if-match", &etag)] };
        let (kitchens, pantrys) = (claim(&read.body, "kitchen"), claim(&read.body, "pantry"));
        let (first, second) = tokio::join!(
            county.ask("kitchen", "PUT", &path, Some(&kitchens), with),
            county.ask("pantry", "PUT", &path, Some(&pantrys), with)
        );
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, if round % 2 == 0 { 409 } else { 412 }]);
        let (winner, loser) = if first.status == 200 { ("kitchen", "pantry") } else { ("pantry", "kitchen") };
        assert_eq!(reference(&county.task(&theirs).await["owner"]), format!("Organization/{winner}"));
        assert_eq!(county.get(loser, &path).await.status, 404);
        assert_eq!(county.get(loser, "Task").await.entries().len(), 0);
        assert_eq!(county.answers(winner, &theirs, "in-progress").await.status, 200);
    }
}

#[tokio::test]
async fn what_nobody_offers_waits_for_a_coordinator_and_without_one_the_source_is_told() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "elder-abuse").await;
    county.deliver_due().await;
    assert_eq!((county.status(&task).await, county.waiting_on(&task).await), ("requested".into(), "hub".into()));
    assert!(county.loop_part(&task, "held", "valueString").await.as_str().unwrap().contains("capacity"));
    county.relays(&task, &["Organization/agency"]).await;
    assert_eq!((county.status(&task).await, county.waiting_on(&task).await), ("accepted".into(), "agency".into()));

    let county = without_coordinator().await;
    let task = county.refers("sr1", "elder-abuse").await;
    county.deliver_due().await;
    let ended = county.task(&task).await;
    assert_eq!(
        (&ended["status"], &ended["statusReason"]["coding"][0]["code"]),
        (&json!("rejected"), &json!("unroutable"))
    );
}

// D12, interface §3
// G-028
#[tokio::test]
async fn a_coordinator_relays_what_is_held_to_one_or_several() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!((county.status(&task).await, county.relayed(&task).await.len()), ("requested".into(), 0));
    let path = format!("Task/{task}/$relay");
    for (who, allowed) in [("clinic", 403), ("kitchen", 404), ("pantry", 404)] {
        assert_eq!(county.post(who, &path, &relay_to(&["Organization/kitchen"])).await.status, allowed, "{who}");
    }
    for wrong in [
        relay_to(&[]),
        relay_to(&["Organization/nobody"]),
        relay_to(&["Organization/clinic"]),
        relay_to(&["Organization/kitchen", "Organization/hub"]),
    ] {
        let refused = county.post("desk", &path, &wrong).await;
        assert_eq!(refused.status, 422, "{wrong}");
        assert!(refused.expression().starts_with("Parameters.parameter"), "{}", refused.expression());
    }
    assert!(county.relayed(&task).await.is_empty());
    let made = county
        .relays(
            &task,
            &["HealthcareService/zz-kitchen-food", "Organization/pantry", "https://hub.test/fhir/Organization/agency"],
        )
        .await;
    county.deliver_due().await;
    assert_eq!((made.len(), county.status(&task).await), (3, "accepted".to_string()));
    for (index, who) in ["kitchen", "pantry", "agency"].iter().enumerate() {
        let mine = county.get(who, "Task").await.entries();
        assert_eq!((mine.len(), mine[0]["id"].as_str().unwrap()), (1, made[index].as_str()), "{who}");
    }
    assert_eq!(county.at_pantry()["status"], "requested");
    // Sent again, as anything may be.
    let again = county.relays(&task, &["Organization/pantry"]).await;
    assert_eq!((again, county.relayed(&task).await.len()), (vec![made[1].clone()], 3));
}

// D5, D12: who calls a relayed Task off by hand sends the referral elsewhere; the source's Task stays open for that.
#[tokio::test]
async fn what_a_coordinator_calls_off_is_relayed_to_another() {
    for routing in ["automatic", "coordinator"] {
        let routed = format!("roles = [\"source\"]\nrouting = \"{routing}\"");
        let settings = crate::gateway::county().replace("roles = [\"source\"]", &routed);
        let county = TestGateway::with(crate::databases::Place::sqlite(), &settings).await;
        let task = county.refers("sr1", "food-insecurity").await;
        county.deliver_due().await;
        if routing == "coordinator" {
            county.relays(&task, &["Organization/pantry"]).await;
            county.deliver_due().await;
        }
        let first = county.relayed(&task).await.remove(0);
        let off = |task: &mut Value| {
            task["status"] = json!("cancelled");
            task["statusReason"] = json!({"text": "They are closed."});
        };
        assert_eq!(county.change("desk", &first, off).await.status, 200);
        county.deliver_due().await;
        assert_eq!((county.status(&task).await, county.waiting_on(&task).await), ("accepted".into(), "hub".into()));
        assert!(county.loop_part(&task, "held", "valueString").await.as_str().unwrap().contains("called"));
        let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0]["status"].clone());
        assert_eq!(theirs, "cancelled", "{routing}");
        let second = county.relays(&task, &["Organization/kitchen"]).await.remove(0);
        county.answers("kitchen", &second, "accepted").await;
        assert_eq!(county.status(&task).await, "in-progress");
        // Its owner's own word ends it.
        assert_eq!(county.answers("kitchen", &second, "cancelled").await.status, 200);
        assert_eq!(county.status(&task).await, "failed", "{routing}");
    }
}

// D9: who begins to offer it later may claim what is still open.
#[tokio::test]
async fn a_new_service_may_claim_what_is_still_open() {
    let (county, task, theirs) = open().await;
    let (claimed, other) = {
        let body = county.referral("sr2", "food-insecurity", None);
        let other = county.post("clinic", "Task", &body).await.id();
        county.deliver_due().await;
        let claimed = county.relayed(&other).await.remove(0);
        let read = county.get("kitchen", &format!("Task/{claimed}")).await.body;
        assert_eq!(county.put("kitchen", &format!("Task/{claimed}"), &claim(&read, "kitchen")).await.status, 200);
        (claimed, other)
    };
    let path = format!("Task/{theirs}");
    assert_eq!(county.get("agency", &path).await.status, 404);
    let mut service = county.get("desk", "HealthcareService/zz-kitchen-food").await.body;
    service["providedBy"] = json!({"reference": "Organization/agency"});
    service["active"] = json!(false);
    let made = county.post("desk", "HealthcareService", &service).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(county.get("agency", &path).await.status, 404, "not yet");
    let mut service = made.body.clone();
    service["active"] = json!(true);
    assert_eq!(county.put("desk", &format!("HealthcareService/{}", made.id()), &service).await.status, 200);
    let read = county.get("agency", &path).await;
    assert_eq!(read.status, 200);
    assert_eq!(county.get("agency", &reference(&read.body["for"])).await.status, 404, "it tells no name");
    assert_eq!(county.get("agency", &format!("Task/{claimed}")).await.status, 404, "{other}: somebody has it");
    assert_eq!(county.put("agency", &path, &claim(&read.body, "agency")).await.status, 200);
    assert_eq!(county.status(&task).await, "in-progress");
}

// interface §3: usable before the fetch has ended.
#[tokio::test]
async fn a_relay_asked_for_before_the_fetch_waits_as_a_draft() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let made = county.relays(&task, &["Organization/pantry", "Organization/kitchen"]).await;
    for one in &made {
        assert_eq!(county.status(one).await, "draft");
    }
    assert_eq!(county.get("kitchen", "Task").await.entries().len(), 0);
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "accepted");
    let theirs = county.get("kitchen", &format!("Task/{}", made[1])).await.body;
    assert_eq!(theirs["status"], "requested");
    for text in [reference(&theirs["focus"]), reference(&theirs["for"])] {
        assert_eq!(county.get("kitchen", &text).await.status, 200, "{text}");
    }
    assert_eq!((&county.at_pantry()["status"], county.relayed(&task).await.len()), (&json!("requested"), 2));
}

// reference-clients §2.3 row 5, D11a, G-191
#[tokio::test]
async fn the_public_coordination_client_accepts_and_forwards() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let early = county.get("desk", &format!("Task/{task}")).await.body;
    county.deliver_due().await;
    let profile = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForReferralManagement";
    let listed = county.get("desk", &format!("Task?_profile={profile}&_sort=-_lastUpdated")).await.entries().remove(0);
    let mut request = county.get("desk", &reference(&listed["focus"])).await.body;
    for text in [reference(&request["supportingInfo"][0]), reference(&listed["for"]), reference(&listed["requester"])] {
        assert_eq!(county.get("desk", &text).await.status, 200, "{text}");
    }
    let accepted = county.change("desk", &task, |task| task["status"] = json!("accepted")).await;
    assert_eq!((accepted.status, accepted.id()), (200, task.clone()));
    assert_eq!(reference(&accepted.body["owner"]), "Organization/hub");
    request["basedOn"] = json!([{"reference": format!("ServiceRequest/{}", request["id"].as_str().unwrap())}]);
    request["intent"] = json!("original-order");
    request.as_object_mut().unwrap().shift_remove("id");
    let copy = county.post("desk", "ServiceRequest", &request).await;
    assert_eq!(copy.status, 201, "{}", copy.body);
    let mut forwarded = accepted.body.clone();
    forwarded.as_object_mut().unwrap().shift_remove("id");
    forwarded["partOf"] = json!([{"reference": format!("Task/{task}")}]);
    forwarded["status"] = json!("requested");
    forwarded["requester"] = forwarded["owner"].clone();
    forwarded["owner"] = json!({"reference": "Organization/kitchen"});
    forwarded["focus"] = json!({"reference": format!("ServiceRequest/{}", copy.id())});
    let ours = county.post("desk", "Task", &forwarded).await;
    assert_eq!(ours.status, 201, "{}", ours.body);
    let theirs = county.get("kitchen", &format!("Task/{}", ours.id())).await.body;
    assert_eq!((&theirs["status"], reference(&theirs["requester"])), (&json!("requested"), "Organization/hub".into()));
    assert_eq!(theirs["identifier"][0]["value"], theirs["id"]);
    let sent = county.get("kitchen", &reference(&theirs["focus"])).await.body;
    assert_eq!(sent["intent"], "filler-order");
    assert_ne!(sent["meta"]["source"], there("ServiceRequest/sr1"));
    county.answers("kitchen", &ours.id(), "accepted").await;
    assert_eq!(county.status(&task).await, "in-progress");
    county.answers("kitchen", &ours.id(), "completed").await;
    assert_eq!(county.status(&task).await, "completed");
    // Its own roll-up afterwards changes nothing.
    let late = county.change("desk", &task, |task| task["status"] = json!("completed")).await;
    assert_eq!(late.status, 200);
    assert_eq!(early["status"], "requested");
}

#[tokio::test]
async fn a_coordinators_own_task_waits_until_the_source_has_been_read() {
    let county = by_hand().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let mut body = county.get("desk", &format!("Task/{task}")).await.body;
    body.as_object_mut().unwrap().shift_remove("id");
    body["partOf"] = json!([{"reference": format!("Task/{task}")}]);
    body["owner"] = json!({"reference": "Organization/kitchen"});
    let refused = county.post("desk", "Task", &body).await;
    assert_eq!((refused.status, refused.expression()), (409, "Task.partOf[0]"));
}

// D11, D11a
// G-027, G-185, G-186, R-028, R-103, R-122
#[tokio::test]
async fn a_target_sees_its_own_referral_and_nobody_elses() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let ours = county.task(&theirs).await;
    let request = county.get("root", &reference(&ours["focus"])).await.body;
    let own = [
        reference(&ours["focus"]),
        reference(&ours["for"]),
        reference(&request["supportingInfo"][0]),
        reference(&request["reasonReference"][0]),
    ];
    for text in own.iter().chain([&format!("Task/{theirs}")]) {
        assert_eq!(county.get("pantry", text).await.status, 200, "{text}");
        assert_eq!(county.get("pantry", &format!("{text}/_history/1")).await.status, 200, "{text}");
        for path in [text.clone(), format!("{text}/_history"), format!("{text}/_history/1")] {
            assert_eq!(county.get("agency", &path).await.status, 404, "{path}");
        }
        let (kind, id) = text.split_once('/').unwrap();
        let found = county.get("agency", &format!("{kind}?_id={id}&_total=accurate")).await;
        assert_eq!((found.entries().len(), &found.body["total"]), (0, &json!(0)), "{kind}");
        let found = county.get("pantry", &format!("{kind}?_id={id}&_total=accurate")).await;
        assert_eq!((found.entries().len(), &found.body["total"]), (1, &json!(1)), "{kind}");
    }
    // Of the Task it is part of, a target has a view, and no history.
    assert_eq!(county.get("pantry", &format!("Task/{task}/_history")).await.status, 404);
    let found =
        county.get("pantry", "Task?_include=Task:focus&_include=Task:part-of&_include=Task:patient").await.entries();
    assert!(found.iter().all(|one| one["id"] != json!(task)), "the source's Task came along");
    assert_eq!(found.len(), 3);
    assert_eq!(county.get("agency", "Task?_include=Task:focus").await.entries().len(), 0);
    for path in ["Organization/pantry", "HealthcareService/pantry-food", "Organization/hub"] {
        for who in ["agency", "clinic", "pantry", "desk"] {
            assert_eq!(county.get(who, path).await.status, 200);
        }
    }
    assert!(county.get("root", "Task?_total=accurate").await.entries().len() == 2);
    // Narrowed once it has declined: what it was told about the case goes, what its Task shows stays.
    county
        .pantry_says(|task| {
            task["status"] = json!("rejected");
            task["statusReason"] = json!({"text": "not eligible"});
        })
        .await;
    assert_eq!(county.get("pantry", &own[3]).await.status, 404);
    for text in &own[..3] {
        assert_eq!(county.get("pantry", text).await.status, 200, "{text}");
    }
}

// G-138: what is asked of organizations, and what they answer there, is not shared back by any search: a source finds its
// own Task alone, and in it what was put there for it.
#[tokio::test]
async fn a_source_finds_its_own_task_alone() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    for (query, expected) in [
        ("Task?_total=accurate".to_string(), 1),
        (format!("Task?_id={task},{theirs}&_total=accurate"), 1),
        (format!("Task?_id={theirs}&_total=accurate"), 0),
        ("Task?requester=Organization/hub&_total=accurate".to_string(), 0),
        ("Task?owner=Organization/pantry&_total=accurate".to_string(), 0),
        (format!("Task?part-of=Task/{task}&_total=accurate"), 0),
    ] {
        let found = county.get("clinic", &query).await;
        assert_eq!((found.entries().len(), &found.body["total"]), (expected, &json!(expected)), "{query}");
        let all = county.get("root", &query).await.entries().len();
        assert!(all > expected || query.starts_with(&format!("Task?_id={task}")), "{query}: there is more to find");
    }
    for query in [format!("Task?_id={task}&_revinclude=Task:part-of"), "Task/_history".into(), "_history".into()] {
        let answer = county.get("clinic", &query).await;
        assert_eq!(answer.status, 200, "{query}");
        assert!(!answer.body.to_string().contains(&format!("Task/{theirs}\"")), "{query}: {}", answer.body);
    }
}
