//! The Gravity project's public clients, request by request as they were seen on the wire: the EHR client, the
//! coordination platform's and the community organization's (Rails), and the EHR server (HAPI) that pushes a Task.
//! They send no preference, no condition and no typed reference; what they can't read, they show as nothing at all.

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::{by_hand, reference, there};
use crate::gateway::{Answered, EHR, TestGateway};

/// What all three Rails clients send.
const RAILS: &[(&str, &str)] = &[
    ("accept", "application/fhir+json"),
    ("accept-charset", "utf-8"),
    ("accept-encoding", "gzip;q=1.0,deflate;q=0.6,identity;q=0.3"),
    ("user-agent", "Ruby FHIR Client"),
];
/// What HAPI's client sends.
const HAPI: (&str, &str) = (
    "accept",
    "application/fhir+xml;q=1.0, application/fhir+json;q=1.0, application/xml+fhir;q=0.9, application/json+fhir;q=0.9",
);
const PROFILE: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForReferralManagement";
const PATIENT_PROFILE: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForPatient";

/// What these clients can show of a list: each entry a match with its address; nothing else, no second page.
fn listed(answer: &Answered) -> Vec<Value> {
    assert_eq!((answer.status, &answer.body["type"]), (200, &json!("searchset")), "{}", answer.body);
    let entries = answer.body["entry"].as_array().cloned().unwrap_or_default();
    for entry in &entries {
        assert!(entry["fullUrl"].as_str().is_some_and(|url| url.starts_with("https://hub.test/fhir/")));
        assert_eq!(entry["search"]["mode"], "match");
    }
    assert!(answer.body["link"].as_array().unwrap().iter().all(|link| link["relation"] != "next"));
    answer.entries()
}

impl TestGateway {
    async fn rails(&self, who: &str, path: &str) -> Answered {
        self.ask(who, "GET", path, None, RAILS).await
    }
    async fn lists(&self, who: &str, path: &str) -> Vec<Value> {
        listed(&self.rails(who, path).await)
    }
    /// They read a reference by its last segment, from the server they are connected to.
    async fn follows(&self, who: &str, kind: &str, value: &Value) -> Value {
        let text = reference(value);
        let read = self.rails(who, &format!("{kind}/{}", text.rsplit('/').next().unwrap())).await;
        assert_eq!((read.status, &read.body["resourceType"]), (200, &json!(kind)), "{text}");
        read.body
    }
    /// Reads, changes, and PUTs all that it read, its old meta included.
    async fn writes(&self, who: &str, path: &str, change: impl FnOnce(&mut Value)) -> Answered {
        let mut body = self.rails(who, path).await.body;
        change(&mut body);
        let answer = self.ask(who, "PUT", path, Some(&body), RAILS).await;
        if answer.status == 200 {
            assert_eq!(answer.body["id"], body["id"], "the answer carries the resource");
        }
        answer
    }
    /// The public EHR client refers: a ServiceRequest, then a Task about it; both by relative references.
    async fn ehr_client_refers(&self) -> (std::collections::HashMap<String, String>, Value, Value) {
        let ids = self.posts_context("clinic").await;
        let of = |kind: &str| json!({"reference": format!("{kind}/{}", ids[kind])});
        let mut request = patient::service_request("x", "food-insecurity", "2027-01-15T08:00:00Z");
        request.as_object_mut().unwrap().retain(|name, _| {
            !["id", "requester", "authoredOn", "occurrencePeriod", "priority"].contains(&name.as_str())
        });
        (request["subject"], request["reasonReference"]) = (of("Patient"), json!([of("Condition")]));
        request["supportingInfo"] = json!([of("Consent")]);
        let request = self.ask("clinic", "POST", "ServiceRequest", Some(&request), RAILS).await;
        assert_eq!(request.status, 201, "{}", request.body);
        let mut task = patient::referral_task(
            None,
            &format!("ServiceRequest/{}", request.id()),
            &reference(&of("PractitionerRole")),
            &reference(&of("Patient")),
            Some("Organization/hub"),
            "2027-01-15T08:00:00Z",
        );
        task.as_object_mut().unwrap().shift_remove("priority");
        let task = self.ask("clinic", "POST", "Task", Some(&task), RAILS).await;
        assert_eq!(task.status, 201, "{}", task.body);
        (ids, request.body, task.body)
    }
}

// reference-clients §2.2, rows 1 to 19; rules 1 to 5 and 8
//
#[tokio::test]
async fn the_ehr_client_sees_its_patient() {
    let county = by_hand().await;
    let (ids, request, task) = county.ehr_client_refers().await;
    let (person, role) = (ids["Patient"].as_str(), format!("PractitionerRole/{}", ids["PractitionerRole"]));
    assert_eq!(county.rails("", "/metadata").await.body["fhirVersion"], "4.0.1");
    for (path, many) in [
        ("Practitioner".to_string(), 1),
        ("Patient".into(), 1),
        ("Questionnaire?_sort=title".into(), 0),
        (format!("Observation?_sort=-date&category=personal-characteristic&subject={person}"), 0),
        (format!("Condition?_sort=-_lastUpdated&subject={person}"), 1),
        (format!("Goal?_sort=-_lastUpdated&subject={person}"), 0),
        (format!("PractitionerRole?practitioner={}", ids["Practitioner"]), 1),
        (format!("Task?_profile={PROFILE}&_sort=-_lastUpdated&requester={role}&subject={person}"), 1),
        (format!("Task?_profile={PATIENT_PROFILE}&_sort=-_lastUpdated&requester={role}&subject={person}"), 0),
        (format!("ServiceRequest?_sort=-_lastUpdated&subject={person}"), 1),
        (format!("Consent?patient={person}"), 1),
    ] {
        assert_eq!(county.lists("clinic", &path).await.len(), many, "{path}");
    }
    assert!(county.lists("clinic", "Organization?_sort=-_lastUpdated").await.len() >= 5);
    let shown = county.lists("clinic", &format!("Task?_profile={PROFILE}&subject={person}")).await.remove(0);
    assert_eq!(shown["id"], task["id"]);
    let focus = county.follows("clinic", "ServiceRequest", &shown["focus"]).await;
    assert_eq!(focus["id"], request["id"]);
    county.follows("clinic", "Consent", &focus["supportingInfo"][0]).await;
    county.follows("clinic", "Condition", &focus["reasonReference"][0]).await;

    // Adds a concern and promotes it, sets a goal, notes a characteristic and takes it back.
    let code = |system: &str, code: &str| json!({"coding": [{"system": system, "code": code}]});
    let concern = json!({"resourceType": "Condition", "subject": {"reference": format!("Patient/{person}")},
        "clinicalStatus": code("http://terminology.hl7.org/CodeSystem/condition-clinical", "active"),
        "category": [code("http://hl7.org/fhir/us/core/CodeSystem/condition-category", "health-concern")],
        "code": code("http://snomed.info/sct", "733423003")});
    let made = county.ask("clinic", "POST", "Condition", Some(&concern), RAILS).await;
    assert_eq!((made.status, &made.body["resourceType"]), (201, &json!("Condition")), "{}", made.body);
    let promoted = county
        .writes("clinic", &format!("Condition/{}", made.id()), |one| {
            one["category"] =
                json!([code("http://terminology.hl7.org/CodeSystem/condition-category", "problem-list-item")]);
        })
        .await;
    assert_eq!((promoted.status, &promoted.body["meta"]["versionId"]), (200, &json!("2")), "{}", promoted.body);
    let newest = county.lists("clinic", &format!("Condition?_sort=-_lastUpdated&subject={person}")).await;
    assert_eq!((newest.len(), &newest[0]["id"]), (2, &made.body["id"]));
    let goal = json!({"resourceType": "Goal", "lifecycleStatus": "active", "description": {"text": "food on the table"},
        "subject": {"reference": format!("Patient/{person}")}, "addresses": [{"reference": format!("Condition/{}", made.id())}]});
    let goal = county.ask("clinic", "POST", "Goal", Some(&goal), RAILS).await;
    assert_eq!(goal.status, 201, "{}", goal.body);
    let met = county
        .writes("clinic", &format!("Goal/{}", goal.id()), |goal| goal["lifecycleStatus"] = json!("completed"))
        .await;
    assert_eq!((met.status, &met.body["lifecycleStatus"]), (200, &json!("completed")));
    let note = json!({"resourceType": "Observation", "status": "final", "code": {"text": "pronouns"}, "valueString": "they",
        "category": [code(loopgate::fhir::views::SDOHCC, "personal-characteristic")],
        "subject": {"reference": format!("Patient/{person}")}, "effectiveDateTime": "2027-01-15"});
    let note = county.ask("clinic", "POST", "Observation", Some(&note), RAILS).await;
    assert_eq!(note.status, 201, "{}", note.body);
    let path = format!("Observation?_sort=-date&category=personal-characteristic&subject={person}");
    assert_eq!(county.lists("clinic", &path).await.len(), 1);
    assert_eq!(county.ask("clinic", "DELETE", &format!("Observation/{}", note.id()), None, RAILS).await.status, 204);
    assert_eq!(county.lists("clinic", &path).await.len(), 0);
    // What it forgot to fill in is named, not guessed.
    for (kind, body, element) in [
        ("Task", json!({"focus": {"reference": "ServiceRequest/"}}), "Task.focus"),
        ("ServiceRequest", json!({"supportingInfo": [{"reference": "Consent/"}]}), "ServiceRequest.supportingInfo[0]"),
        (
            "ServiceRequest",
            json!({"reasonReference": [{"reference": "Condition/"}]}),
            "ServiceRequest.reasonReference[0]",
        ),
    ] {
        let mut whole = if kind == "Task" { task.clone() } else { request.clone() };
        body.as_object().unwrap().iter().for_each(|(name, value)| whole[name] = value.clone());
        let refused = county.ask("clinic", "POST", kind, Some(&whole), RAILS).await;
        assert_eq!(refused.status, 422, "{element}: {}", refused.body);
        assert!(refused.expression().starts_with(element), "{element}: {}", refused.expression());
    }
}

// reference-clients §2.3 and §2.4, rules 6 and 7: the platform relays by hand, the organization works on its Tasks.
//
#[tokio::test]
async fn the_platform_and_the_organization_work_it_off() {
    let county = by_hand().await;
    let (_, _, task) = county.ehr_client_refers().await;
    let parent = format!("Task/{}", task["id"].as_str().unwrap());
    // The platform's dashboard, and what it reads of each Task.
    let all = format!("Task?_profile={PROFILE}&_sort=-_lastUpdated");
    let shown = county.lists("desk", &all).await.remove(0);
    let request = county.follows("desk", "ServiceRequest", &shown["focus"]).await;
    county.follows("desk", "PractitionerRole", &shown["requester"]).await;
    county.follows("desk", "Consent", &request["supportingInfo"][0]).await;
    county.follows("desk", "Patient", &shown["for"]).await;
    let houses = county.lists("desk", "Organization?_sort=-_lastUpdated&type=cbo").await;
    assert!(houses.iter().any(|one| one["id"] == "kitchen") && houses.iter().all(|one| one["id"] != "clinic"));
    let new = json!({"resourceType": "Organization", "active": true, "name": "New house",
        "type": [{"coding": [{"system": "http://hl7.org/gravity/CodeSystem/sdohcc-temporary-organization-type-codes", "code": "cbo"}]}],
        "contact": [{"telecom": [{"system": "url", "value": "https://new.test/fhir"}]}]});
    assert_eq!(county.ask("desk", "POST", "Organization", Some(&new), RAILS).await.status, 201);
    // Accepts and forwards; the copies hold the old meta.
    let accepted = county.writes("desk", &parent, |task| task["status"] = json!("accepted")).await;
    assert_eq!((accepted.status, &accepted.body["status"]), (200, &json!("accepted")), "{}", accepted.body);
    let mut copy = request.clone();
    copy.as_object_mut().unwrap().shift_remove("id");
    copy["intent"] = json!("original-order");
    copy["basedOn"] = json!([{"reference": format!("ServiceRequest/{}", request["id"].as_str().unwrap())}]);
    let copy = county.ask("desk", "POST", "ServiceRequest", Some(&copy), RAILS).await;
    assert_eq!(copy.status, 201, "{}", copy.body);
    let mut forwarded = accepted.body.clone();
    forwarded.as_object_mut().unwrap().shift_remove("id");
    forwarded["partOf"] = json!([{"reference": parent}]);
    (forwarded["status"], forwarded["requester"]) = (json!("requested"), forwarded["owner"].clone());
    forwarded["owner"] = json!({"reference": "Organization/kitchen"});
    forwarded["focus"] = json!({"reference": format!("ServiceRequest/{}", copy.id())});
    let ours = county.ask("desk", "POST", "Task", Some(&forwarded), RAILS).await;
    assert_eq!(ours.status, 201, "{}", ours.body);

    // The organization finds itself, then its Task, still to be answered, made now and not when the EHR made its own.
    assert!(county.lists("kitchen", "Organization").await.iter().any(|one| one["id"] == "kitchen"));
    county.deliver_due().await;
    let mine = format!("Task?_profile={PROFILE}&_sort=-_lastUpdated&owner=Organization/kitchen");
    let shown = county.lists("kitchen", &mine).await.remove(0);
    assert_eq!((&shown["status"], &shown["id"]), (&json!("requested"), &ours.body["id"]));
    assert_ne!(shown["authoredOn"], task["authoredOn"]);
    let request = county.follows("kitchen", "ServiceRequest", &shown["focus"]).await;
    county.follows("kitchen", "Organization", &shown["requester"]).await;
    county.follows("kitchen", "Consent", &request["supportingInfo"][0]).await;
    county.follows("kitchen", "Patient", &shown["for"]).await;
    // Capacity.
    let service = county.lists("kitchen", "HealthcareService?organization=kitchen").await.remove(0);
    let path = format!("HealthcareService/{}", service["id"].as_str().unwrap());
    let noted = county
        .writes("kitchen", &path, |service| {
            service["extension"] = json!([{"url": loopgate::fhir::views::CAPACITY_EXTENSION, "extension": [{"url": "capacityStatus",
                "valueCodeableConcept": {"coding": [{"system": loopgate::fhir::views::SDOHCC, "code": "waitlist"}]}}]}]);
        })
        .await;
    assert_eq!(noted.status, 200, "{}", noted.body);
    // It skips a step: refused, and what it shows stays as it was.
    let path = format!("Task/{}", ours.id());
    let skipped = county.writes("kitchen", &path, |task| task["status"] = json!("in-progress")).await;
    assert_eq!((skipped.status, skipped.expression()), (422, "Task.status"));
    assert_eq!(county.rails("kitchen", &path).await.body["status"], "requested");
    for status in ["accepted", "in-progress"] {
        assert_eq!(county.writes("kitchen", &path, |task| task["status"] = json!(status)).await.status, 200);
        assert_eq!(county.rails("clinic", &parent).await.body["status"], "in-progress");
    }
    // Completes: a Procedure, then the Task that names it.
    let procedure = json!({"resourceType": "Procedure", "status": "completed", "basedOn": [shown["focus"]],
        "category": request["category"][0], "code": request["code"], "subject": shown["for"],
        "performedDateTime": "2027-01-15", "reasonReference": request["reasonReference"]});
    let procedure = county.ask("kitchen", "POST", "Procedure", Some(&procedure), RAILS).await;
    assert_eq!(procedure.status, 201, "{}", procedure.body);
    let done = county
        .writes("kitchen", &path, |task| patient::completed_with(task, &format!("Procedure/{}", procedure.id())))
        .await;
    assert_eq!(done.status, 200, "{}", done.body);
    let seen = county.rails("clinic", &parent).await.body;
    assert_eq!(seen["status"], "completed");
    county.follows("clinic", "Procedure", &seen["output"][0]["valueReference"]).await;
    for task in county.lists("desk", &all).await {
        county.follows("desk", "Procedure", &task["output"][0]["valueReference"]).await;
    }
}

// reference-clients §2.3 row 6, rule 7: a rejection reaches the EHR client in what it shows.
#[tokio::test]
async fn a_rejection_is_seen_with_its_reason() {
    let county = by_hand().await;
    let (ids, _, task) = county.ehr_client_refers().await;
    let path = format!("Task/{}", task["id"].as_str().unwrap());
    let answer = county
        .writes("desk", &path, |task| {
            task["status"] = json!("rejected");
            task["statusReason"] = json!({"text": "outside the county"});
        })
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let shown = county.lists("clinic", &format!("Task?_profile={PROFILE}&subject={}", ids["Patient"])).await.remove(0);
    assert_eq!((&shown["status"], &shown["statusReason"]["text"]), (&json!("rejected"), &json!("outside the county")));
    assert_eq!(county.writes("desk", &path, |task| task["status"] = json!("accepted")).await.status, 422);
}

// reference-clients §2.6: pushed again and again until it is answered, by references of its own, the owner as it calls us.
#[tokio::test]
async fn the_ehr_server_pushes_asks_and_cancels() {
    let county = TestGateway::county().await;
    let mut body = county.referral("sr1", "housing-instability", Some("Organization/what-it-calls-us"));
    body["meta"] = json!({"versionId": "1", "lastUpdated": "2020-01-01T00:00:00Z", "profile": [PROFILE]});
    body["id"] = json!("its-own");
    let first = county.ask("clinic", "POST", "Task", Some(&body), &[HAPI]).await;
    assert_eq!((first.status, first.headers["content-type"].contains("json")), (201, true), "{}", first.body);
    for _ in 0..3 {
        let again = county.ask("clinic", "POST", "Task", Some(&body), &[HAPI]).await;
        assert_eq!((again.status, again.id()), (200, first.id()));
    }
    assert_eq!(county.get("root", "Task?_summary=count").await.body["total"], 1);
    county.deliver_due().await;
    let path = format!("Task/{}", first.id());
    let ask = || county.ask("clinic", "GET", &path, None, &[HAPI]);
    assert_eq!(ask().await.body["status"], "accepted");
    let theirs = county.relayed(&first.id()).await.remove(0);
    county.answers("agency", &theirs, "accepted").await;
    let done = county.did("agency", &theirs).await;
    county.change("agency", &theirs, |task| patient::completed_with(task, &done)).await;
    let seen = ask().await.body;
    let output = reference(&seen["output"][0]["valueReference"]);
    assert_eq!((&seen["status"], output.starts_with("Procedure/")), (&json!("completed"), true), "{output}");
    assert_eq!(county.ask("clinic", "GET", &output, None, &[HAPI]).await.status, 200);

    // Another one, called off with the strong form of If-Match.
    let mut other = county.referral("sr2", "housing-instability", Some("Organization/what-it-calls-us"));
    other["focus"]["reference"] = json!(there("ServiceRequest/sr2"));
    let path = format!("Task/{}", county.ask("clinic", "POST", "Task", Some(&other), &[HAPI]).await.id());
    county.deliver_due().await;
    let mut seen = county.ask("clinic", "GET", &path, None, &[HAPI]).await.body;
    let version = seen["meta"]["versionId"].as_str().unwrap().to_string();
    seen["status"] = json!("cancelled");
    let strong = |version: &str| format!("\"{version}\"");
    let stale = county.ask("clinic", "PUT", &path, Some(&seen), &[HAPI, ("if-match", &strong("1"))]).await;
    assert_eq!(stale.status, 412, "{}", stale.body);
    let cancelled = county.ask("clinic", "PUT", &path, Some(&seen), &[HAPI, ("if-match", &strong(&version))]).await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")), "{}", cancelled.body);
    assert!(county.world.requests().iter().all(|one| one.contains(EHR) || !one.contains("what-it-calls-us")));
}
