//! Minimum necessary: what a target is not to have of others' resources it gets nowhere (G-185).

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::reference;
use crate::databases::Place;
use crate::gateway::{Answered, EHR, TestGateway, county};

const HOOK: &str = "https://agency.test/hook";

/// A county whose agency gets of a Patient what it calls somebody by, and of a Condition what is mandatory.
async fn narrow() -> (TestGateway, String, String) {
    let with = "channel = \"light\"\nreceives = [{ type = \"Patient\", elements = [\"name\", \"telecom\"] }, \
        { type = \"Condition\", elements = [] }, { type = \"ServiceRequest\", elements = [] }]\nservices = [{ id = \"agency-housing\"";
    let settings = county().replacen("channel = \"light\"\nservices = [{ id = \"agency-housing\"", with, 1);
    assert_ne!(settings, county());
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let body = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    let system = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
    let never_call = json!([{"coding": [{"system": system, "code": "contacting-subject-prohibited"}]}]);
    county.world.at(EHR, |ehr| {
        ehr.update("ServiceRequest", "sr1", |request| {
            request["orderDetail"] = never_call;
            request["reasonReference"] = json!([{"reference": "Condition/food-insecurity"}]);
        })
    });
    let task = county.post("clinic", "Task", &body).await.id();
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let person = reference(&county.task(&theirs).await["for"]);
    (county, theirs, person)
}

fn is_part(body: &Value) -> bool {
    body["meta"]["tag"].to_string().contains("SUBSETTED")
}

// G-185, G-177: the same part wherever it is read, and it says that it is one.
#[tokio::test]
async fn a_target_gets_what_it_is_to_have_whichever_way_it_asks() {
    let (county, theirs, person) = narrow().await;
    let whole = county.get("clinic", &person).await.body;
    assert!(whole["birthDate"].is_string() && !is_part(&whole), "{whole}");
    let id = person.strip_prefix("Patient/").unwrap();
    let batch = json!({"resourceType": "Bundle", "type": "batch",
        "entry": [{"request": {"method": "GET", "url": person}}]});
    let transaction = batch.to_string().replace("\"batch\"", "\"transaction\"");
    let asked: Vec<(&str, Answered)> = vec![
        ("read", county.get("agency", &person).await),
        ("vread", county.get("agency", &format!("{person}/_history/1")).await),
        ("history", county.get("agency", &format!("{person}/_history")).await),
        ("type history", county.get("agency", "Patient/_history").await),
        ("system history", county.get("agency", "_history").await),
        ("search", county.get("agency", "Patient").await),
        ("search by id", county.get("agency", &format!("Patient?_id={id}&_elements=birthDate,name")).await),
        ("include", county.get("agency", &format!("Task?_id={theirs}&_include=Task:patient")).await),
        ("batch", county.post("agency", "", &batch).await),
        ("transaction", county.post("agency", "", &serde_json::from_str(&transaction).unwrap()).await),
    ];
    for (how, answer) in &asked {
        assert_eq!(answer.status, 200, "{how}: {}", answer.body);
        let all = if answer.body["resourceType"] == "Bundle" { answer.entries() } else { vec![answer.body.clone()] };
        let found: Vec<&Value> = all.iter().filter(|one| one["resourceType"] == "Patient").collect();
        assert!(!found.is_empty(), "{how}: {}", answer.body);
        for one in found {
            assert!(is_part(one) && one["name"].is_array(), "{how}: {one}");
            let shown = one.to_string();
            for left_out in ["birthDate", "gender", "address", "race"] {
                assert!(!shown.contains(left_out), "{how} shows {left_out}: {one}");
            }
            assert_eq!(shown.matches("SUBSETTED").count(), 1, "{how}");
        }
    }
    let conditions = county.get("agency", "Condition").await.entries();
    assert!(!conditions.is_empty() && conditions.iter().all(|one| is_part(one) && one["code"].is_null()));
    // Whatever is left out, that nobody may call is told (TC-06).
    let request = county.get("agency", "ServiceRequest").await.entries().remove(0);
    assert!(is_part(&request) && request["category"].is_null(), "{request}");
    assert!(request["orderDetail"].to_string().contains("contacting-subject-prohibited"), "{request}");
    // The Task is whole, for its owner writes it back; and what the agency makes is its own.
    assert_eq!(county.answers("agency", &theirs, "accepted").await.status, 200);
    let did = county.did("agency", &theirs).await;
    assert!(!is_part(&county.get("agency", &did).await.body));
    // Everybody else, and the operator, reads the whole.
    for who in ["clinic", "root"] {
        assert_eq!(county.get(who, &person).await.body["birthDate"], whole["birthDate"], "{who}");
    }
}

// What is left out is not to be found out either: by a hit, an order, a chain, a condition or a filter.
#[tokio::test]
async fn what_is_left_out_can_not_be_guessed_by_asking() {
    let (county, theirs, person) = narrow().await;
    let born = county.get("clinic", &person).await.body["birthDate"].as_str().unwrap().to_string();
    for path in [
        format!("Patient?birthdate={born}"),
        "Patient?birthdate=ge1900-01-01&name=x".to_string(),
        "Patient?gender:not=male".to_string(),
        "Patient?_sort=birthdate".to_string(),
        format!("Task?patient.birthdate={born}"),
        format!("Task?_id={theirs}&patient:Patient.gender=female"),
        "Patient?_has:Condition:subject:code=x".to_string(),
        "Condition?code:text=food".to_string(),
    ] {
        let answer = county.get("agency", &path).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
        assert!(!answer.body.to_string().contains(&born));
        let found = county.get("clinic", &path).await;
        assert_eq!(found.status, 200, "the source may ask {path}: {}", found.body);
    }
    let id = person.strip_prefix("Patient/").unwrap();
    for path in [format!("Patient?_id={id}"), format!("Condition?patient={id}"), "Task?patient.active=true".to_string()]
    {
        let answer = county.get("agency", &path).await;
        assert_eq!(answer.status, if path.contains("active") { 403 } else { 200 }, "{path}: {}", answer.body);
    }
    let classic = json!({"resourceType": "Subscription", "status": "requested", "reason": "x",
        "criteria": format!("Patient?birthdate={born}"),
        "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json"}});
    assert_eq!(county.post("agency", "Subscription", &classic).await.status, 403);
    let patch = json!([{"op": "test", "path": "/active", "value": true}]);
    let headers = [("content-type", "application/json-patch+json")];
    let answer = county.ask("agency", "PATCH", &format!("Patient?birthdate={born}"), Some(&patch), &headers).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
}

// Nor does a notification bring more than a read.
#[tokio::test]
async fn a_notification_brings_the_same_part() {
    let (county, _, person) = narrow().await;
    let asked = json!({"resourceType": "Subscription", "status": "requested", "reason": "x",
        "criteria": "Patient?_lastUpdated=ge2000-01-01",
        "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json"}});
    let made = county.post("agency", "Subscription", &asked).await;
    assert_eq!(made.status, 201, "{}", made.body);
    county.later(crate::gateway::HANDSHAKE).await;
    county
        .ehr_changes("Patient", patient::PATIENT.strip_prefix("Patient/").unwrap(), |one| {
            one["gender"] = json!("other")
        })
        .await;
    county.deliver_due().await;
    let path = format!("{HOOK}/{person}");
    let heard = county.world.heard(&path);
    assert_eq!(heard.len(), 1, "{:?}", county.world.requests());
    assert!(is_part(&heard[0]) && heard[0]["name"].is_array(), "{}", heard[0]);
    assert!(heard[0].get("gender").is_none() && heard[0].get("birthDate").is_none(), "{}", heard[0]);
}

// What would hold nothing back is a fault of the configuration.
#[tokio::test]
async fn types_and_elements_that_are_none_are_faults() {
    for (receives, fault) in [
        ("{ type = \"Pateint\", elements = [] }", "type must be one"),
        ("{ type = \"Task\", elements = [] }", "not Task"),
        ("{ type = \"Patient\", elements = [\"nmae\"] }", "must be elements of the type"),
    ] {
        let text = format!(
            "[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"sqlite://x\"\n[[partner]]\n\
             id = \"a\"\nname = \"A\"\nroles = [\"target\"]\nchannel = \"light\"\nreceives = [{receives}]\n"
        );
        let config = loopgate::config::Config::parse(&text, std::path::Path::new(".")).unwrap();
        let faults = loopgate::app::validation::profiles(&config).err().unwrap();
        let said = faults[0].to_string();
        assert!(said.starts_with("line 10: partner[0] (a).receives[0]: ") && said.contains(fault), "{said}");
    }
}
