//! What is passed on: in the words of the present release, with everything that the source said, and saying that it went
//! through us (guide §4.5, R-013).

use loopgate::demo::patient;
use loopgate::fhir::views::{CAPACITY_EXTENSION, SDOHCC};
use serde_json::{Value, json};

use crate::acts::{reference, there};
use crate::gateway::{EHR, TestGateway};

const US_CORE_CATEGORY: &str = "http://hl7.org/fhir/us/core/CodeSystem/us-core-category";

fn category(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

// G-190, R-013: a Condition of release 2.1, without the category sdoh.
#[tokio::test]
async fn a_condition_of_an_older_release_is_read_by_others_in_the_present_one() {
    let county = TestGateway::county().await;
    let older = json!([
        category("http://terminology.hl7.org/CodeSystem/condition-category", "problem-list-item"),
        category(SDOHCC, "food-insecurity")
    ]);
    county.world.at(EHR, |ehr| ehr.update("Condition", "food-insecurity", |one| one["category"] = older.clone()));
    let body = county.referral("sr1", "food-insecurity", Some("Organization/kitchen"));
    let task = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let ours = county.get("kitchen", &format!("Task/{theirs}")).await.body;
    let request = county.get("kitchen", &reference(&ours["focus"])).await.body;
    let condition = reference(&request["reasonReference"][0]);
    let read = county.get("kitchen", &condition).await;
    let categories = read.body["category"].as_array().unwrap();
    assert_eq!(categories[..2], older.as_array().unwrap()[..]);
    assert_eq!(categories[2]["coding"][0], json!({"system": US_CORE_CATEGORY, "code": "sdoh", "display": "SDOH"}));
    assert_eq!(read.headers["x-intermediary"], "hub.test");
    let id = condition.split_once('/').unwrap().1;
    let found = county.get("kitchen", &format!("Condition?_id={id}")).await.entries().remove(0);
    assert_eq!(found["category"], read.body["category"]);
    let included = county.get("kitchen", &format!("{condition}/_history")).await.entries().remove(0);
    assert_eq!(included["category"], read.body["category"]);
    // Its author reads what it wrote; what is done for others is on record.
    assert_eq!(county.get("clinic", &condition).await.body["category"], older);
    let record = county.get("clinic", &format!("Provenance?target={condition}")).await.entries();
    let told: Vec<&Value> = record.iter().filter(|one| one["activity"]["text"].is_string()).collect();
    assert_eq!(told.len(), 1, "{record:?}");
    assert!(told[0]["activity"]["text"].as_str().unwrap().contains("sdoh"));
    assert_eq!(reference(&told[0]["agent"][0]["who"]), "Organization/hub");
}

// G-192: read by all but its author with the present code.
// G-091
#[tokio::test]
async fn a_capacity_of_the_ballot_is_read_with_its_present_code() {
    let county = TestGateway::county().await;
    let mut service = county.get("kitchen", "HealthcareService/zz-kitchen-food").await.body;
    service["extension"] = json!([{"url": CAPACITY_EXTENSION, "extension": [
        {"url": "capacityStatus", "valueCodeableConcept": category(SDOHCC, "no-capacity-has-waitlist")},
        {"url": "capacityNotes", "valueString": "about two weeks"}]}]);
    let put = county.put("kitchen", "HealthcareService/zz-kitchen-food", &service).await;
    assert_eq!(put.status, 200, "{}", put.body);
    let seen = county.get("clinic", "HealthcareService/zz-kitchen-food").await.body["extension"].to_string();
    assert!(seen.contains("\"waitlist\"") && seen.contains("about two weeks"), "{seen}");
}

// A source says all that the guide lets it say; nothing of it is lost on the way to the target, and the source's own
// ServiceRequest stays the source's.
// G-004, G-005, G-006, G-009, G-010, G-011, G-073, G-077, G-078, G-179
#[tokio::test]
async fn everything_a_request_says_reaches_the_target() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "food-insecurity", Some("Organization/kitchen"));
    body["priority"] = json!("stat");
    body["description"] = json!("A family of four.");
    let said = [
        ("priority", json!("urgent")),
        ("occurrencePeriod", json!({"start": "2027-01-20", "end": "2027-02-20"})),
        ("patientInstruction", json!("Bring a paper with your name.")),
        ("orderDetail", json!([category(SDOHCC, "contacting-subject-prohibited")])),
        ("reasonCode", json!([{"text": "no home"}])),
        ("note", json!([{"text": "call the sister", "time": "2027-01-15T08:00:00Z"}])),
        ("quantityQuantity", json!({"value": 2})),
        ("_status", json!({"extension": [{"url": "http://example.org/why", "valueString": "asked"}]})),
    ];
    county.world.at(EHR, |ehr| {
        ehr.put(json!({"resourceType": "DocumentReference", "id": "letter", "status": "current",
            "content": [{"attachment": {"contentType": "text/plain", "data": "aGk="}}]}));
        ehr.update("ServiceRequest", "sr1", |request| {
            request.as_object_mut().unwrap().shift_remove("occurrenceDateTime");
            for (name, value) in &said {
                request[*name] = value.clone();
            }
            request["meta"] = json!({"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]});
            request["category"].as_array_mut().unwrap().push(json!({"text": "of our own"}));
            request["extension"] = json!([
                {"url": "http://hl7.org/fhir/StructureDefinition/resource-pertainsToGoal", "valueReference": {"reference": "Goal/g1"}},
                {"url": "http://example.org/own", "valueCode": "x"}]);
            request["supportingInfo"].as_array_mut().unwrap().push(json!({"reference": "DocumentReference/letter"}));
        });
        ehr.put(json!({"resourceType": "Goal", "id": "g1", "lifecycleStatus": "active", "description": {"text": "a home"},
            "subject": {"reference": patient::PATIENT}}))
    });
    let before = county.world.at(EHR, |ehr| ehr.get("ServiceRequest", "sr1").unwrap().clone());
    let task = county.post("clinic", "Task", &body).await;
    assert_eq!(task.status, 201, "{}", task.body);
    county.deliver_due().await;
    let theirs = county.relayed(&task.id()).await.remove(0);
    let ours = county.get("kitchen", &format!("Task/{theirs}")).await.body;
    assert_eq!((&ours["priority"], &ours["description"]), (&body["priority"], &body["description"]));
    let request = county.get("kitchen", &reference(&ours["focus"])).await.body;
    for (name, value) in &said {
        assert_eq!(request[*name], *value, "{name}");
    }
    assert_eq!((&request["category"], &request["code"]), (&before["category"], &before["code"]));
    assert_eq!(request["meta"]["security"], before["meta"]["security"]);
    assert_eq!(request["extension"][1], before["extension"][1]);
    for named in [
        &request["extension"][0]["valueReference"],
        &request["subject"],
        &request["requester"],
        &request["reasonReference"][0],
        &request["supportingInfo"][0],
        &request["supportingInfo"][1],
    ] {
        assert_eq!(county.get("kitchen", &reference(named)).await.status, 200, "{named}");
    }
    // To the end, what the source wrote is the source's.
    let copy = reference(&county.task(&task.id()).await["focus"]);
    county.answers("kitchen", &theirs, "accepted").await;
    county.answers("kitchen", &theirs, "completed").await;
    county.deliver_due().await;
    let kept = county.get("clinic", &copy).await.body;
    assert_eq!(
        (&kept["intent"], &kept["status"], &kept["meta"]["versionId"]),
        (&before["intent"], &before["status"], &json!("1"))
    );
    assert_eq!(county.world.at(EHR, |ehr| ehr.get("ServiceRequest", "sr1").unwrap().clone()), before);
    assert_eq!(kept["meta"]["source"], there("ServiceRequest/sr1"));
}

// An assessment's results, and an output of a kind that the guide does not name, reach the source as they are.
// G-013, G-054, G-087
#[tokio::test]
async fn whatever_came_of_it_reaches_the_source() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let ours = county.answers("agency", &theirs, "accepted").await.body;
    let subject = &ours["for"];
    let code = json!({"text": "as told"});
    let screened = json!({"resourceType": "Observation", "status": "final", "code": code, "subject": subject,
        "effectiveDateTime": "2027-01-15", "category": [category(US_CORE_CATEGORY, "sdoh")],
        "dataAbsentReason": category("http://terminology.hl7.org/CodeSystem/data-absent-reason", "asked-declined")});
    let answered = json!({"resourceType": "QuestionnaireResponse", "status": "completed", "subject": subject,
        "authored": "2027-01-15T09:00:00Z"});
    let found = json!({"resourceType": "Condition", "code": code, "subject": subject,
        "_recordedDate": {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}});
    let aim = json!({"resourceType": "Goal", "lifecycleStatus": "proposed", "description": code, "subject": subject});
    let mut outputs = Vec::new();
    for body in [screened, answered, found, aim] {
        let kind = body["resourceType"].as_str().unwrap();
        let made = county.post("agency", kind, &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        for (name, value) in body.as_object().unwrap() {
            assert_eq!(made.body[name], *value, "{name}");
        }
        outputs.push(json!({"type": category(SDOHCC, "additional-content"), "valueReference": {"reference": format!("{kind}/{}", made.id())}}));
    }
    outputs.push(json!({"type": {"text": "of our own"}, "valueString": "two nights"}));
    let done = county
        .change("agency", &theirs, |task| {
            task["status"] = json!("completed");
            task["output"] = json!(outputs);
        })
        .await;
    assert_eq!(done.status, 200, "{}", done.body);
    let seen = county.get("clinic", &format!("Task/{task}")).await.body;
    assert_eq!((&seen["status"], &seen["output"]), (&json!("completed"), &json!(outputs)));
    for output in &outputs[..4] {
        let named = reference(&output["valueReference"]);
        assert_eq!(county.get("clinic", &named).await.status, 200, "{named}");
    }
}

/// Where a body holds nothing at all.
fn empty_places(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Null => vec![path.into()],
        Value::String(text) if text.is_empty() => vec![path.into()],
        Value::Array(items) if items.is_empty() => vec![path.into()],
        Value::Object(map) if map.is_empty() => vec![path.into()],
        Value::Array(items) => items.iter().flat_map(|item| empty_places(item, path)).collect(),
        Value::Object(map) => {
            map.iter().flat_map(|(name, value)| empty_places(value, &format!("{path}.{name}"))).collect()
        }
        _ => Vec::new(),
    }
}

// what we send to others says that it went through us, too. G-007: and holds nothing that says nothing.
#[tokio::test]
async fn what_is_sent_says_who_changed_it() {
    let county = TestGateway::county().await;
    county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let letters = county.world.letters();
    let named = |letter: &loopgate::delivery::Request| {
        letter.headers.iter().any(|(name, value)| name == "x-intermediary" && value == "hub.test")
    };
    assert!(letters.iter().any(|letter| letter.method == "POST" && letter.url.ends_with("/Task")));
    for letter in &letters {
        assert_eq!(named(letter), letter.body.is_some(), "{} {}", letter.method, letter.url);
        let body: Value = letter.body.as_ref().map_or(json!(true), |body| serde_json::from_str(body).unwrap());
        assert_eq!(empty_places(&body, ""), Vec::<String>::new(), "{}", letter.url);
    }
    assert!(!county.get("", "metadata").await.headers.contains_key("x-intermediary"));
}

/// With every reference the same, so that copies can be compared.
fn without_references(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let part = |(name, value): (&String, &Value)| match value {
                Value::String(_) if name == "reference" => (name.clone(), json!("*")),
                other => (name.clone(), without_references(other)),
            };
            map.iter().map(part).collect()
        }
        Value::Array(list) => list.iter().map(without_references).collect(),
        other => other.clone(),
    }
}

/// Every reference within.
fn references(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == "reference" => found.push(text.clone()),
                    other => found.extend(references(other)),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|one| found.extend(references(one))),
        _ => {}
    }
    found
}

// G-004, G-005, G-006, G-010, G-011: the elements that the guide's profiles mark as must-support, filled, each read by the
// target as the source wrote it, and what they refer to can be read, too. G-186: the Consent's document among them.
#[tokio::test]
async fn every_must_support_element_reaches_the_target() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "food-insecurity", Some("Organization/pantry"));
    body["priority"] = json!("urgent");
    body["input"] = json!([{"type": category(SDOHCC, "additional-content"),
        "valueReference": {"reference": there("DocumentReference/letter")}}]);
    let subject = json!({"reference": patient::PATIENT});
    let encounter = json!({"reference": "Encounter/e1"});
    let by = json!({"reference": "Practitioner/dr-jan-water"});
    let fixtures = crate::validation::fixtures();
    let filled = |name: &str, id: &str, more: Value| {
        let mut one = fixtures[name].clone();
        (one["id"], one["subject"]) = (json!(id), subject.clone());
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let told = county.world.at(EHR, |ehr| {
        let practitioner = ehr.all("Practitioner").first().map(|one| format!("Practitioner/{}", one["id"].as_str().unwrap()));
        let by = practitioner.map_or(by, |text| json!({"reference": text}));
        ehr.put(json!({"resourceType": "Encounter", "id": "e1", "status": "finished", "subject": subject,
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}}));
        for id in ["letter", "consent-paper"] {
            ehr.put(json!({"resourceType": "DocumentReference", "id": id, "status": "current", "subject": subject,
                "content": [{"attachment": {"contentType": "text/plain", "data": "aGk="}}]}));
        }
        let told = vec![
            filled("condition", "c1", json!({"encounter": encounter, "asserter": by, "recordedDate": "2026-01-02", "abatementDateTime": "2026-02-01",
                "clinicalStatus": category("http://terminology.hl7.org/CodeSystem/condition-clinical", "resolved"),
                "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/condition-assertedDate", "valueDateTime": "2026-01-01"}],
                "evidence": [{"detail": [{"reference": "Observation/o1"}]}]})),
            filled("goal", "g1", json!({"addresses": [{"reference": "Condition/c1"}], "outcomeReference": [{"reference": "Observation/o2"}],
                "achievementStatus": category("http://terminology.hl7.org/CodeSystem/goal-achievement", "in-progress")})),
            filled("screening-response", "o1", json!({"performer": [subject], "derivedFrom": [{"reference": "Observation/o3"}]})),
            filled("assessment", "o2", json!({"performer": [by], "hasMember": [{"reference": "Observation/o1"}], "derivedFrom": [{"reference": "Observation/o3"}]})),
            {
                let mut silent = filled("screening-response", "o3", json!({"performer": [subject],
                    "dataAbsentReason": category("http://terminology.hl7.org/CodeSystem/data-absent-reason", "asked-declined")}));
                silent.as_object_mut().unwrap().retain(|name, _| !name.starts_with("value") && name != "derivedFrom");
                silent
            },
        ];
        told.iter().for_each(|one| drop(ehr.put(one.clone())));
        ehr.update("Consent", "disclosure", |consent| {
            consent.as_object_mut().unwrap().retain(|name, _| !name.starts_with("source"));
            consent["sourceReference"] = json!({"reference": "DocumentReference/consent-paper"});
        });
        ehr.update("ServiceRequest", "sr1", |request| {
            request["encounter"] = encounter.clone();
            request["extension"] = json!([{"url": "http://hl7.org/fhir/StructureDefinition/resource-pertainsToGoal", "valueReference": {"reference": "Goal/g1"}}]);
            request["reasonReference"] = json!([{"reference": "Condition/c1"}]);
            request["priority"] = json!("urgent");
            request["orderDetail"] = json!([category(SDOHCC, "contacting-subject-prohibited")]);
            let also = ["o1", "o2", "o3"].map(|id| json!({"reference": format!("Observation/{id}")}));
            request["supportingInfo"].as_array_mut().unwrap().extend(also);
        });
        told.into_iter()
            .chain(["Consent", "Patient"].map(|kind| ehr.all(kind)[0].clone()))
            .chain([ehr.get("ServiceRequest", "sr1").unwrap().clone()])
            .collect::<Vec<Value>>()
    });
    let made = county.post("clinic", "Task", &body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    county.deliver_due().await;
    let theirs = county.relayed(&made.id()).await.remove(0);
    let sent = county.world.at(crate::gateway::PANTRY, |pantry| pantry.all("Task")[0].clone());
    for element in ["status", "intent", "code", "priority"] {
        assert_eq!(sent[element], body[element], "Task.{element}");
    }
    for element in ["focus", "for", "requester", "owner", "partOf", "authoredOn"] {
        assert!(!sent[element].is_null(), "Task.{element}: {sent}");
    }
    assert_eq!(without_references(&sent["input"]), without_references(&body["input"]), "Task.input");
    // What stands behind each reference, and behind those in it, as the target reads it.
    let base = format!("{}/", crate::gateway::BASE);
    let mut waiting = vec![format!("Task/{theirs}")];
    let mut read: Vec<Value> = Vec::new();
    while let Some(path) = waiting.pop() {
        let answer = county.get("pantry", &path).await;
        assert_eq!(answer.status, 200, "{path}");
        for text in references(&answer.body) {
            let text = text.strip_prefix(&base).unwrap_or(&text).to_string();
            let known = read.iter().any(|one| {
                format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap()) == text
            });
            // The source's own, and the Task ours is part of, are not the target's to read.
            let own =
                answer.body["resourceType"] == "ServiceRequest" && references(&answer.body["basedOn"]).contains(&text);
            if !known
                && !own
                && !text.contains("://")
                && text != format!("Task/{}", made.id())
                && text != path
                && !waiting.contains(&text)
            {
                waiting.push(text);
            }
        }
        read.push(answer.body);
    }
    for before in &told {
        let kind = before["resourceType"].as_str().unwrap();
        let same = |one: &&Value| {
            let source = one["meta"]["source"].as_str().unwrap_or_default();
            kind == "ServiceRequest" && one["resourceType"] == kind
                || source.ends_with(&format!("{kind}/{}", before["id"].as_str().unwrap()))
        };
        let after = read.iter().find(same).unwrap_or_else(|| panic!("{kind}/{} did not come", before["id"]));
        for (element, value) in before.as_object().unwrap() {
            match (kind, element.as_str()) {
                (_, "id" | "meta" | "resourceType") => {}
                // Ours: whose order it is, since when, and for whom (G-016, G-017, D12a).
                ("ServiceRequest", "intent" | "basedOn" | "performer" | "requester" | "authoredOn") => {
                    assert!(!after[element].is_null())
                }
                _ => assert_eq!(without_references(&after[element]), without_references(value), "{kind}.{element}"),
            }
        }
    }
    assert!(read.iter().filter(|one| one["resourceType"] == "DocumentReference").count() == 2, "G-186, G-050");
}
