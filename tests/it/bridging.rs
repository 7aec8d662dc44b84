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
