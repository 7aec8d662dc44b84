//! How referrals come in: copies, retries, duplicates, consent, bad input (design D1, D2, D6, D8, D12, D15c).

use std::time::Duration;

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::{HOSPITAL, by_hand, reference, there, two_sources};
use crate::databases::Place;
use crate::gateway::{EHR, Fault, PANTRY, TestGateway, county};

// G-015, G-022, G-030, D2
// G-074
//
#[tokio::test]
async fn what_a_referral_refers_to_is_copied_under_our_own_ids_and_says_where_it_came_from() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let stored = county.task(&task).await;
    let focus = reference(&stored["focus"]);
    assert!(focus.starts_with("ServiceRequest/") && focus != "ServiceRequest/sr1");
    let request = county.get("clinic", &focus).await.body;
    assert_eq!(request["meta"]["source"], there("ServiceRequest/sr1"));
    for text in [
        reference(&request["subject"]),
        reference(&request["supportingInfo"][0]),
        reference(&request["reasonReference"][0]),
    ] {
        let copy = county.get("clinic", &text).await;
        assert_eq!(copy.status, 200, "{text}");
        assert!(copy.body["meta"]["source"].as_str().unwrap().starts_with(EHR));
        let from = county.get("root", &format!("Provenance?target={text}")).await.entries();
        assert_eq!(from.len(), 1);
        assert!(from[0]["entity"].to_string().contains(&there(&text.replace(copy.body["id"].as_str().unwrap(), ""))));
    }
    assert_eq!(stored["for"], request["subject"]);
}

// G-031: what is sent as ended already is on record, and nobody is asked to do it.
#[tokio::test]
async fn what_has_ended_when_it_comes_is_asked_of_nobody() {
    let county = TestGateway::county().await;
    for (request, status) in [("sr1", "completed"), ("sr2", "cancelled"), ("sr3", "entered-in-error")] {
        let mut sent = county.referral(request, "food-insecurity", Some("Organization/hub"));
        sent["status"] = json!(status);
        sent["statusReason"] = json!({"text": "Before our time."});
        let made = county.post("clinic", "Task", &sent).await;
        assert_eq!(made.status, 201, "{status}: {}", made.body);
        county.deliver_due().await;
        assert_eq!(county.status(&made.id()).await, status);
        assert!(county.relayed(&made.id()).await.is_empty(), "{status}");
        assert!(
            !county.world.requests().iter().any(|one| one.contains(request)),
            "{status}: nothing is fetched for it"
        );
    }
    let open = county.refers("sr4", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!(county.relayed(&open).await.len(), 1);
}

// G-060, G-061: that somebody has agreed to it, works on it or has paused is not for the one who asks to say; neither does
// the gateway take it for asked. A repeat of what was taken as requested is still that referral.
#[tokio::test]
async fn a_new_task_does_not_say_what_only_its_owner_may() {
    let county = TestGateway::county().await.settled().await;
    let before = county.world.asked();
    for status in ["accepted", "ready", "in-progress", "on-hold"] {
        for owner in [None, Some("Organization/hub"), Some("Organization/pantry")] {
            let mut sent = county.referral("sr1", "food-insecurity", owner);
            sent["status"] = json!(status);
            let transaction = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
                {"fullUrl": "urn:uuid:6a1f7c1e-5b0e-4c8e-9b55-0d6a3f1f2a01", "resource": sent, "request": {"method": "POST", "url": "Task"}}]});
            for answer in [
                county.post("clinic", "Task", &sent).await,
                county.post("desk", "Task", &sent).await,
                county.post("clinic", "", &transaction).await,
            ] {
                assert_eq!(answer.status, 422, "{status}: {}", answer.body);
                assert!(answer.expression().ends_with("status"), "{}", answer.body);
                assert!(
                    answer.body["issue"][0]["diagnostics"].as_str().unwrap().contains("requested"),
                    "{}",
                    answer.body
                );
            }
        }
    }
    county.deliver_due().await;
    assert_eq!(county.world.asked(), before, "nothing is fetched, and nobody is asked");
    assert!(county.get("root", "Task").await.entries().is_empty());
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let mut again = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    again["status"] = json!("accepted");
    let repeated = county.post("clinic", "Task", &again).await;
    assert_eq!((repeated.status, repeated.id()), (200, task), "the same referral once more");
}

// D2
#[tokio::test]
async fn two_sources_with_equal_ids_do_not_meet() {
    let county = two_sources().await;
    let first = county.refers("sr1", "food-insecurity").await;
    let mut body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    county.world.at(HOSPITAL, |hospital| {
        hospital.put(patient::service_request("sr1", "housing-instability", "2027-01-15T08:00:00Z"))
    });
    body = serde_json::from_str(&body.to_string().replace(EHR, HOSPITAL)).unwrap();
    let second = county.post("hospital", "Task", &body).await;
    assert_eq!(second.status, 201);
    county.deliver_due().await;
    let (first, second) = (county.task(&first).await, county.task(&second.id()).await);
    assert_ne!(first["focus"], second["focus"]);
    assert_ne!(first["for"], second["for"]);
    assert_eq!(second["status"], "accepted");
    assert_eq!(county.get("clinic", &reference(&second["for"])).await.status, 404);
    assert_eq!(county.get("hospital", &reference(&second["for"])).await.status, 200);
}

// G-020, D2: a copy is kept fresh, and what changed travels on.
#[tokio::test]
async fn what_changes_at_the_source_reaches_the_copy_and_our_own_request() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.poll("clinic").await;
    county.ehr_changes("ServiceRequest", "sr1", |request| request["patientInstruction"] = json!("bring a bag")).await;
    county.ehr_changes("Patient", "pat-53234", |patient| patient["gender"] = json!("other")).await;
    let theirs = county.relayed(&task).await.remove(0);
    let ours = county.get("agency", &format!("Task/{theirs}")).await.body;
    let request = county.get("agency", &reference(&ours["focus"])).await.body;
    assert_eq!((&request["patientInstruction"], &request["intent"]), (&json!("bring a bag"), &json!("filler-order")));
    assert_eq!(county.get("agency", &reference(&ours["for"])).await.body["gender"], "other");
}

// A transaction brings everything itself.
#[tokio::test]
async fn a_transaction_is_a_referral_with_nothing_to_fetch() {
    let county = TestGateway::county().await;
    let answer = county.post("clinic", "", &transaction(&county, "housing-instability")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let task = answer.entries().iter().find(|one| one["resourceType"] == "Task").unwrap()["id"].clone();
    let task = task.as_str().unwrap();
    assert_eq!(county.status(task).await, "accepted");
    let theirs = county.relayed(task).await.remove(0);
    let ours = county.get("agency", &format!("Task/{theirs}")).await.body;
    for text in [reference(&ours["focus"]), reference(&ours["for"])] {
        assert_eq!(county.get("agency", &text).await.status, 200);
    }
    county.deliver_due().await;
    assert!(!county.world.requests().iter().any(|one| one.contains("/ServiceRequest") || one.contains("/Patient")));
    assert!(!answer.body.to_string().contains("urn:uuid"));
}

// reference-clients §2.2 row 20: the EHR client posts to one server, one resource after the other.
#[tokio::test]
async fn the_public_ehr_client_posts_a_request_and_then_a_task_with_relative_references() {
    let county = TestGateway::county().await;
    let ids = county.posts_context("clinic").await;
    let mut request = patient::service_request("x", "food-insecurity", "2027-01-15T08:00:00Z");
    request
        .as_object_mut()
        .unwrap()
        .retain(|name, _| !["id", "requester", "authoredOn", "occurrencePeriod", "priority"].contains(&name.as_str()));
    request["subject"] = json!({"reference": format!("Patient/{}", ids["Patient"])});
    request["reasonReference"] = json!([{"reference": format!("Condition/{}", ids["Condition"])}]);
    request["supportingInfo"] = json!([{"reference": format!("Consent/{}", ids["Consent"])}]);
    let request = county.post("clinic", "ServiceRequest", &request).await;
    assert_eq!(request.status, 201, "{}", request.body);
    let role = format!("PractitionerRole/{}", ids["PractitionerRole"]);
    let focus = format!("ServiceRequest/{}", request.id());
    let mut body = patient::referral_task(
        None,
        &focus,
        &role,
        &format!("Patient/{}", ids["Patient"]),
        Some("Organization/hub"),
        "2027-01-15T08:00:00Z",
    );
    body.as_object_mut().unwrap().shift_remove("priority");
    let task = county.post("clinic", "Task", &body).await;
    assert_eq!((task.status, &task.body["status"]), (201, &json!("accepted")), "{}", task.body);
    county.deliver_due().await;
    assert_eq!(county.at_pantry()["status"], "requested");
    // Rows 11 and 22.
    let query = format!(
        "Task?_profile=http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForReferralManagement&_sort=-_lastUpdated&requester={role}&subject={}",
        ids["Patient"]
    );
    let found = county.get("clinic", &query).await.entries();
    assert_eq!(found.len(), 1);
    let cancelled = county.change("clinic", &task.id(), |task| task["status"] = json!("cancelled")).await;
    assert_eq!(cancelled.status, 200);
    let mut revoked = county.get("clinic", &focus).await.body;
    revoked["status"] = json!("revoked");
    assert_eq!(county.put("clinic", &focus, &revoked).await.status, 200);
    county.deliver_due().await;
    assert_eq!(county.at_pantry()["status"], "cancelled");
}

// reference-clients §2.2 row 21
// G-031
#[tokio::test]
async fn a_draft_does_nothing_until_it_is_requested() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    body["status"] = json!("draft");
    let task = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "draft");
    assert!(!county.world.requests().iter().any(|one| one.contains("ServiceRequest")));
    assert_eq!(county.get("desk", &format!("Task/{task}")).await.status, 404);
    assert_eq!(county.change("clinic", &task, |task| task["status"] = json!("requested")).await.status, 200);
    county.deliver_due().await;
    assert_eq!(
        (county.status(&task).await, county.at_pantry()["status"].clone()),
        ("accepted".into(), json!("requested"))
    );
}

// D12, D6: a draft is judged as it stands when it is requested, not as it was when it was begun.
#[tokio::test]
async fn what_a_draft_says_when_it_is_requested_is_what_counts() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    body["status"] = json!("draft");
    let task = county.post("clinic", "Task", &body).await.id();
    let named = county
        .change("clinic", &task, |task| {
            task["status"] = json!("requested");
            task["owner"] = json!({"reference": "Organization/kitchen"});
        })
        .await;
    assert_eq!(named.status, 200, "{}", named.body);
    county.deliver_due().await;
    assert_eq!(county.get("kitchen", "Task?owner=Organization/kitchen").await.entries().len(), 1);

    body["focus"] = json!({"reference": "https://evil.test/fhir/ServiceRequest/1"});
    let outside = county.post("clinic", "Task", &body).await.id();
    county.change("clinic", &outside, |task| task["status"] = json!("requested")).await;
    assert_eq!(county.status(&outside).await, "rejected");
    assert!(!county.world.requests().iter().any(|one| one.contains("evil.test")));
}

// D6
#[tokio::test]
async fn a_missing_condition_does_not_hold_a_referral_up() {
    let county = TestGateway::county().await;
    county.referral("sr1", "food-insecurity", None);
    county.world.at(EHR, |ehr| {
        ehr.update("ServiceRequest", "sr1", |request| {
            request["reasonReference"] = json!([{"reference": "Condition/lost"}])
        })
    });
    let focus = there("ServiceRequest/sr1");
    let body = patient::referral_task(
        None,
        &focus,
        &there(patient::REQUESTER),
        &there(patient::PATIENT),
        Some("Organization/hub"),
        "2027-01-15T08:00:00Z",
    );
    let task = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "accepted");
    assert!(!county.at_pantry().is_null());
}

// D6: what a referral can't do without is asked for again, then named.
// G-023
#[tokio::test]
async fn what_stays_missing_is_named_in_the_rejection() {
    for (kind, change) in [
        ("ServiceRequest", json!({"focus": {"reference": there("ServiceRequest/none")}})),
        ("Patient", json!({"for": {"reference": there("Patient/none")}})),
        ("Consent", Value::Null),
    ] {
        let county = TestGateway::county().await;
        let mut body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
        if change.is_null() {
            county.world.at(EHR, |ehr| {
                ehr.update("ServiceRequest", "sr1", |request| {
                    request["supportingInfo"] = json!([{"reference": "Consent/none"}])
                })
            });
        }
        for (name, value) in change.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let task = county.post("clinic", "Task", &body).await.id();
        county.deliver_due().await;
        assert_eq!(county.status(&task).await, "requested", "{kind}");
        assert_eq!(county.waiting_on(&task).await, "hub");
        for pause in [5, 30, 120] {
            assert_eq!(county.status(&task).await, "requested", "{kind}");
            county.later(Duration::from_secs(pause)).await;
        }
        let ended = county.task(&task).await;
        assert_eq!(ended["status"], "rejected", "{kind}");
        assert!(ended["statusReason"]["text"].as_str().unwrap().contains(kind), "{}", ended["statusReason"]);
        assert_eq!(county.level(&task).await, ("L2".to_string(), false));
    }
}

// D6: what a coordinator had prepared ends with it.
#[tokio::test]
async fn drafts_made_before_the_fetch_are_called_off_when_the_fetch_fails() {
    let county = by_hand().await;
    county.world.down(EHR);
    let task = county.refers("sr1", "food-insecurity").await;
    let drafts = county.relays(&task, &["Organization/agency"]).await;
    for pause in [0, 5, 30, 120] {
        county.later(Duration::from_secs(pause)).await;
    }
    assert_eq!((county.status(&task).await, county.status(&drafts[0]).await), ("rejected".into(), "cancelled".into()));
}

// D6: it recovers within the retries.
#[tokio::test]
async fn a_source_that_comes_back_in_time_is_read() {
    let county = TestGateway::county().await;
    county.world.fault(EHR, &[Fault::Answer(503), Fault::LoseAnswer, Fault::LoseRequest]);
    let task = county.refers("sr1", "food-insecurity").await;
    for pause in [0, 5, 30, 120] {
        county.later(Duration::from_secs(pause)).await;
    }
    assert_eq!(county.status(&task).await, "accepted");
}

// D6: never fetched.
#[tokio::test]
async fn a_focus_outside_the_registered_base_is_rejected_unread() {
    let county = TestGateway::county().await;
    for focus in [
        "https://evil.test/fhir/ServiceRequest/1",
        "https://ehr.test/fhirst/ServiceRequest/1",
        "https://ehr.test/fhir/../admin/ServiceRequest/1",
    ] {
        let mut body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
        body["focus"] = json!({"reference": focus});
        let answer = county.post("clinic", "Task", &body).await;
        if answer.status == 422 {
            continue;
        }
        assert_eq!((answer.status, &answer.body["status"]), (201, &json!("rejected")), "{focus}");
        assert!(answer.body["statusReason"]["text"].as_str().unwrap().contains("base"));
    }
    county.deliver_due().await;
    assert!(
        county
            .world
            .requests()
            .iter()
            .all(|one| !one.contains("evil") && !one.contains("fhirst") && !one.contains("admin"))
    );
    assert!(county.world.at(PANTRY, |pantry| pantry.all("Task").is_empty()));
}

// D8
#[tokio::test]
async fn the_same_referral_twice_is_one() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    let first = county.post("clinic", "Task", &body).await;
    county.deliver_due().await;
    let again = county.post("clinic", "Task", &body).await;
    assert_eq!((again.status, again.id()), (200, first.id()));
    body["focus"]["reference"] = json!(format!("{}/_history/1", there("ServiceRequest/sr1")));
    let versioned = county.post("clinic", "Task", &body).await;
    assert_eq!((versioned.status, versioned.id()), (200, first.id()));
    // After it ended, the same focus is a new referral.
    county.change("clinic", &first.id(), |task| task["status"] = json!("cancelled")).await;
    let new = county.post("clinic", "Task", &body).await;
    assert_eq!(new.status, 201);
    // An identifier stays one referral for ever.
    body["identifier"] = json!([{"system": "urn:ehr", "value": "7"}]);
    body["focus"]["reference"] = json!(there("ServiceRequest/sr2"));
    county.referral("sr2", "housing-instability", None);
    let named = county.post("clinic", "Task", &body).await;
    assert_eq!(named.status, 201);
    county.change("clinic", &named.id(), |task| task["status"] = json!("cancelled")).await;
    let again = county.post("clinic", "Task", &body).await;
    assert_eq!((again.status, again.id()), (200, named.id()));
    let only_once =
        county.ask("clinic", "POST", "Task", Some(&body), &[("if-none-exist", "identifier=urn:ehr|7")]).await;
    assert_eq!((only_once.status, only_once.id()), (200, named.id()));
}

// D8 and the direct light flow: an EHR that posts its Task and keeps a copy that names us has one referral.
#[tokio::test]
async fn a_task_that_was_posted_and_is_also_kept_at_the_ehr_is_one_referral() {
    let county = TestGateway::county().await;
    let hub = "https://hub.test/fhir/Organization/hub";
    let body = county.referral("sr1", "housing-instability", Some(hub));
    let task = county.post("clinic", "Task", &body).await.id();
    county.world.at(EHR, |ehr| {
        let mut kept = body.clone();
        kept["id"] = json!("kept");
        ehr.put(kept)
    });
    county.poll("clinic").await;
    let all = county.get("root", "Task?requester:missing=false&_summary=count").await;
    let ours = county.relayed(&task).await;
    assert_eq!((all.body["total"].clone(), ours.len()), (json!(2), 1));
    // What its author does there counts.
    county.ehr_changes("Task", "kept", |task| task["status"] = json!("cancelled")).await;
    assert_eq!((county.status(&task).await, county.status(&ours[0]).await), ("cancelled".into(), "cancelled".into()));
}

// D1
#[tokio::test]
async fn at_most_so_many_needs_are_sent_together() {
    let settings = county() + "[limits]\nneeds_per_request = 2\n";
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    for number in 0..3 {
        let mut body = county.referral(&format!("sr{number}"), "housing-instability", Some("Organization/hub"));
        body["groupIdentifier"] = json!({"system": "urn:ehr", "value": "G1"});
        let answer = county.post("clinic", "Task", &body).await;
        assert_eq!(answer.status, if number < 2 { 201 } else { 422 });
        if number == 2 {
            assert_eq!(answer.expression(), "Task.groupIdentifier");
        }
    }
    assert_eq!(county.get("root", "Task?group-identifier=G1").await.entries().len(), 2);
}

// G-038…G-046, G-050
// G-030, G-039, G-040, G-041, G-042, G-044, R-041
#[tokio::test]
async fn bad_input_is_named_by_its_element_and_not_stored() {
    let county = TestGateway::county().await;
    let good = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    for (element, value, status) in [
        ("status", json!("done"), 422),
        ("status", Value::Null, 422),
        ("intent", json!("plan"), 422),
        ("code", Value::Null, 422),
        ("focus", Value::Null, 422),
        ("focus", json!({"reference": "ServiceRequest/"}), 422),
        ("focus", json!({"reference": "ServiceRequest/none"}), 422),
        ("for", Value::Null, 422),
        ("authoredOn", json!("yesterday"), 422),
        ("requester", json!({"reference": "Practitioner/1"}), 422),
        ("owner", json!({"reference": "https://elsewhere.test/fhir/Organization/1"}), 422),
        ("statusReason", json!({"coding": [{"code": "x"}]}), 422),
        ("priority", json!("soon"), 422),
        ("status", json!(7), 400),
        ("output", json!("none"), 400),
        ("colour", json!("red"), 400),
    ] {
        let mut body = good.clone();
        match value.is_null() {
            true => drop(body.as_object_mut().unwrap().shift_remove(element)),
            false => body[element] = value.clone(),
        }
        let refused = county.post("clinic", "Task", &body).await;
        assert_eq!(
            (refused.status, &refused.body["resourceType"]),
            (status, &json!("OperationOutcome")),
            "{element} {value}"
        );
        assert!(refused.expression().starts_with(&format!("Task.{element}")), "{element}: {}", refused.expression());
        assert!(!refused.said().is_empty());
    }
    assert!(county.get("root", "Task").await.entries().is_empty());
}

/// A resource in a Bundle.
pub fn entry<'a>(bundle: &'a mut Value, kind: &str) -> &'a mut Value {
    let entries = bundle["entry"].as_array_mut().unwrap();
    let found = entries.iter_mut().find(|entry| entry["resource"]["resourceType"] == kind).unwrap();
    &mut found["resource"]
}

/// A referral with all it refers to, as one transaction, its Task first.
pub fn transaction(county: &TestGateway, category: &str) -> Value {
    let now = county.clock.now().to_string();
    let mut resources = patient::context(&now);
    resources.retain(|one| !["Goal", "Organization"].contains(&one["resourceType"].as_str().unwrap()));
    resources.push(patient::service_request("sr", category, &now));
    resources.push(patient::referral_task(
        Some("task"),
        "ServiceRequest/sr",
        patient::REQUESTER,
        patient::PATIENT,
        Some("Organization/hub"),
        &now,
    ));
    resources.reverse();
    let mut places = Vec::new();
    for (index, one) in resources.iter().enumerate() {
        let key = format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap());
        places.push((key, format!("urn:uuid:00000000-0000-4000-8000-00000000000{index}")));
    }
    let entries: Vec<Value> = resources
        .into_iter()
        .zip(&places)
        .map(|(mut resource, (_, url))| {
            let kind = resource["resourceType"].clone();
            resource.as_object_mut().unwrap().shift_remove("id");
            json!({"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": kind}})
        })
        .collect();
    let mut text = json!({"resourceType": "Bundle", "type": "transaction", "entry": entries}).to_string();
    for (key, url) in places {
        text = text.replace(&format!("\"reference\":\"{key}\""), &format!("\"reference\":\"{url}\""));
    }
    serde_json::from_str(&text.replace(patient::CLINIC, "Organization/clinic")).unwrap()
}

// G-021, G-042: a name or an identifier says who is meant, and leads no target to the patient; what is relayed does.
#[tokio::test]
async fn a_patient_who_is_only_named_is_the_requests() {
    for (named, drafted) in [
        (json!({"display": "Somebody"}), false),
        (json!({"identifier": {"system": "urn:mrn", "value": "7"}}), false),
        (json!({"display": "Somebody"}), true),
    ] {
        let county = TestGateway::county().await;
        let mut body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
        body["for"] = named.clone();
        if drafted {
            county.world.down(EHR);
        }
        let made = county.post("clinic", "Task", &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        if drafted {
            county.relays(&made.id(), &["Organization/kitchen"]).await;
            county.world.heal();
            county.later(Duration::from_secs(5)).await;
        }
        county.deliver_due().await;
        let theirs = county.task(&county.relayed(&made.id()).await[0]).await;
        let request = county.get("root", &reference(&theirs["focus"])).await.body;
        assert_eq!(theirs["for"], request["subject"], "{named}");
        let owner = reference(&theirs["owner"]).replace("Organization/", "");
        assert_eq!(county.get(&owner, &reference(&theirs["for"])).await.status, 200, "{named}");
        assert_eq!(county.task(&made.id()).await["for"], named, "what the source wrote is the source's");
    }
}

// A request that something is not done is nothing to refer; one that becomes such is called off.
#[tokio::test]
async fn what_is_not_to_be_done_is_not_referred() {
    let county = TestGateway::county().await;
    let body = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "sr1", |request| request["doNotPerform"] = json!(true)));
    let task = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    let ended = county.task(&task).await;
    assert_eq!(ended["status"], "rejected");
    assert!(ended["statusReason"]["text"].as_str().unwrap().contains("not done"), "{}", ended["statusReason"]);
    assert!(county.world.at(PANTRY, |pantry| pantry.all("Task").is_empty()));

    let task = county.refers("sr2", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "accepted");
    county.ehr_changes("ServiceRequest", "sr2", |request| request["doNotPerform"] = json!(true)).await;
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "cancelled");
    assert_eq!(county.world.at(PANTRY, |pantry| pantry.all("Task")[0]["status"].clone()), "cancelled");
}
