//! The permission matrix, made from the route table: every type × every interaction × nobody, strangers and the
//! operator. A new type or interaction fails here until somebody decides what strangers get.
//!
//! What the parties to a referral may do is told in `steps`, `relaying`, `consent` and `store_grants`; here is what
//! everybody else may not.

use loopgate::config::PersonRole;
use loopgate::http::routes::{Interaction, ROWS, Row};
use serde_json::{Value, json};

use crate::gateway::{Answered, BASE, TestGateway};
use crate::people::{User, signs_in};

/// Partners that have no part in what the operator stores: a source, a target, the coordinator.
const STRANGERS: [&str; 3] = ["clinic", "kitchen", "desk"];

/// Who may read a type besides the parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// Nobody.
    Parties,
    /// Every partner: the shared directory (design D11a).
    Partners,
    /// Every partner, and nobody writes it: part of the program.
    Program,
}

fn readers(kind: &str) -> Readers {
    match kind {
        "Organization" | "HealthcareService" | "Location" | "Practitioner" | "PractitionerRole" | "Questionnaire" => {
            Readers::Partners
        }
        "CodeSystem"
        | "ValueSet"
        | "ConceptMap"
        | "StructureDefinition"
        | "SearchParameter"
        | "OperationDefinition" => Readers::Program,
        _ => Readers::Parties,
    }
}

/// The least a type may be.
fn least(kind: &str) -> Value {
    let patient = json!({"reference": "Patient/m-patient"});
    let coded = json!({"coding": [{"system": "http://snomed.info/sct", "code": "467771000124109"}]});
    let sdoh =
        json!([{"coding": [{"system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-category", "code": "sdoh"}]}]);
    let mut least = match kind {
        "CareTeam" => json!({"subject": patient}),
        "Condition" => json!({"subject": patient, "category": sdoh, "code": coded,
            "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}}),
        "Consent" => json!({"status": "active", "patient": patient, "dateTime": "2026-01-01",
            "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
            "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
            "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]}}),
        "Device" => json!({"patient": patient}),
        "DocumentReference" => json!({"status": "current", "content": [{"attachment": {"url": "https://x.test/a"}}]}),
        "Goal" => json!({"lifecycleStatus": "active", "description": coded, "subject": patient}),
        "Group" => json!({"type": "person", "actual": true}),
        "HealthcareService" => json!({"active": true, "name": "A service"}),
        "Location" => json!({"status": "active", "name": "A place"}),
        "Observation" => json!({"status": "final", "code": coded, "subject": patient, "category": sdoh,
            "effectiveDateTime": "2026-01-01", "valueBoolean": true}),
        "Organization" => json!({"active": true, "name": "A house"}),
        "Patient" => json!({"name": [{"family": "Nobody"}], "gender": "unknown",
            "identifier": [{"system": "urn:x", "value": "1"}]}),
        "Practitioner" => json!({"name": [{"family": "Nobody"}]}),
        "PractitionerRole" => json!({"active": true}),
        "Procedure" => json!({"status": "completed", "category": sdoh[0], "code": coded, "subject": patient,
            "performedDateTime": "2026-01-01"}),
        "Questionnaire" => json!({"status": "active"}),
        "QuestionnaireResponse" => json!({"status": "completed"}),
        "RelatedPerson" => json!({"patient": patient}),
        "ServiceRequest" => json!({"status": "active", "intent": "order", "category": sdoh, "code": coded,
            "subject": patient, "occurrenceDateTime": "2026-01-01", "authoredOn": "2026-01-01",
            "requester": {"reference": "Organization/clinic"}}),
        "Subscription" => json!({"status": "off", "reason": "r",
            "criteria": "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task",
            "channel": {"type": "rest-hook", "endpoint": "https://ehr.test/hook", "payload": "application/fhir+json"}}),
        "Task" => json!({"status": "requested", "intent": "order", "code": {"coding": [
                {"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]},
            "focus": {"reference": "ServiceRequest/m-servicerequest"}, "for": patient, "authoredOn": "2026-01-01T00:00:00Z",
            "requester": {"reference": "Organization/hub"}, "owner": {"reference": "Organization/hub"}}),
        other => panic!("{other} can be updated: say here what the least of it is, and above who may read it"),
    };
    let id = format!("m-{}", kind.to_lowercase());
    let body = least.as_object_mut().unwrap();
    body.insert("resourceType".into(), json!(kind));
    body.insert("id".into(), json!(id));
    least
}

/// One interaction with one resource.
async fn ask(
    county: &TestGateway,
    who: &str,
    interaction: Interaction,
    kind: &str,
    id: &str,
    body: &Value,
) -> Answered {
    let at = format!("{kind}/{id}");
    match interaction {
        Interaction::Create => {
            let mut body = body.clone();
            body.as_object_mut().unwrap().remove("id");
            county.post(who, kind, &body).await
        }
        Interaction::Read => county.get(who, &at).await,
        Interaction::Vread => county.get(who, &format!("{at}/_history/1")).await,
        Interaction::Update => county.put(who, &at, body).await,
        Interaction::Patch => {
            let patch = json!([{"op": "add", "path": "/language", "value": "en"}]);
            county.ask(who, "PATCH", &at, Some(&patch), &[("content-type", "application/json-patch+json")]).await
        }
        Interaction::Delete => county.ask(who, "DELETE", &at, None, &[]).await,
        Interaction::History => county.get(who, &format!("{at}/_history")).await,
        Interaction::TypeHistory => county.get(who, &format!("{kind}/_history?_count=200")).await,
        Interaction::Search => county.get(who, &format!("{kind}?_id={id}&_total=accurate")).await,
    }
}

fn is_stored(row: &Row) -> bool {
    row.interactions.contains(&Interaction::Update)
}

/// M-5.18, M-5.19
/// A-084, D11, G-178: what strangers get is what they would get if there were nothing.
#[tokio::test]
async fn strangers_see_and_change_nothing() {
    strangers(TestGateway::county().await).await;
}

/// A-044: the same holds for people: staff are their partner, a coordinator the coordinator.
#[tokio::test]
async fn people_see_and_change_no_more_than_their_partner() {
    let county = TestGateway::county().await;
    for (name, role) in [
        ("clinic", PersonRole::Staff("clinic".into())),
        ("kitchen", PersonRole::Staff("kitchen".into())),
        ("desk", PersonRole::Coordinator),
    ] {
        let user = User::add(&county, name, role).await;
        let cookie = signs_in(&county, &user).await;
        let token = county.gateway.app.session(&cookie).await.unwrap().unwrap().form_token;
        county.sessions.lock().unwrap().insert(name.to_string(), (cookie, token));
    }
    strangers(county).await;
}

async fn strangers(county: TestGateway) {
    let mut kinds: Vec<&Row> = ROWS.iter().filter(|row| is_stored(row)).collect();
    // What others refer to first.
    kinds.sort_by_key(|row| !matches!(row.kind, "Patient" | "ServiceRequest"));
    kinds.sort_by_key(|row| row.kind != "Patient");
    for row in &kinds {
        let body = least(row.kind);
        let id = body["id"].as_str().unwrap();
        let made = county.put("root", &format!("{}/{id}", row.kind), &body).await;
        assert_eq!(made.status, 201, "{}: {}", row.kind, made.body);
    }
    for row in &kinds {
        let (kind, body) = (row.kind, least(row.kind));
        let id = body["id"].as_str().unwrap();
        let shared = readers(kind) == Readers::Partners;
        for interaction in row.interactions.iter().copied() {
            let nobody = ask(&county, "", interaction, kind, id, &body).await;
            assert_eq!(nobody.status, 401, "{kind} {interaction:?} without a token");
            for who in STRANGERS {
                let what = format!("{who}: {interaction:?} {kind}");
                let writes = matches!(interaction, Interaction::Update | Interaction::Patch | Interaction::Delete);
                if shared && writes && who == "desk" {
                    continue; // The directory is the coordinator's to keep.
                }
                let answer = ask(&county, who, interaction, kind, id, &body).await;
                let absent = ask(&county, who, interaction, kind, "m-nothing", &{
                    let mut other = body.clone();
                    other["id"] = json!("m-nothing");
                    other
                })
                .await;
                match interaction {
                    // What one may create is one's own: no stranger's business.
                    Interaction::Create => {}
                    Interaction::Read | Interaction::Vread | Interaction::History if shared => {
                        assert_eq!(answer.status, 200, "{what}");
                    }
                    Interaction::Read | Interaction::Vread | Interaction::History => {
                        assert_eq!(answer.status, 404, "{what}: {}", answer.body);
                        let said = answer.body.to_string().replace(id, "m-nothing");
                        assert_eq!(said, absent.body.to_string(), "{what}: the answer tells that it is there");
                    }
                    Interaction::TypeHistory => {
                        let shows = answer.body.to_string().contains(&format!("{kind}/{id}\""));
                        assert_eq!((answer.status, shows), (200, shared), "{what}: {}", answer.body);
                    }
                    Interaction::Search => {
                        let found = usize::from(shared);
                        assert_eq!((answer.status, answer.entries().len()), (200, found), "{what}");
                        assert_eq!(answer.body["total"], found, "{what}: the total tells that it is there");
                    }
                    Interaction::Update | Interaction::Patch | Interaction::Delete => {
                        let refused = if shared { 403 } else { 404 };
                        assert_eq!(answer.status, refused, "{what}: {}", answer.body);
                    }
                }
            }
        }
        let still = county.get("root", &format!("{kind}/{id}")).await;
        assert_eq!((still.status, &still.body["meta"]["versionId"]), (200, &json!("1")), "{kind} was changed");
    }
    // Nor does a list of everything, an include from the directory, or somebody else's address show any of it.
    for who in STRANGERS {
        for row in kinds.iter().filter(|row| readers(row.kind) == Readers::Parties) {
            let all = county.get(who, row.kind).await;
            let own = all.entries().iter().filter(|one| one["id"].as_str().unwrap().starts_with("m-")).count();
            assert_eq!((all.status, own), (200, 0), "{who} lists {}", row.kind);
        }
        let absolute =
            county.get(who, &format!("Task?focus={BASE}/ServiceRequest/m-servicerequest&_total=accurate")).await;
        assert_eq!(absolute.body["total"], 0, "{who}");
    }
}

/// What the table does not offer is offered to nobody, the operator included.
#[tokio::test]
async fn what_the_table_does_not_offer_nobody_gets() {
    let county = TestGateway::county().await;
    for row in ROWS.iter().filter(|row| !is_stored(row)) {
        let body = json!({"resourceType": row.kind, "id": "m-x"});
        for interaction in [Interaction::Create, Interaction::Update, Interaction::Patch, Interaction::Delete] {
            assert!(!row.interactions.contains(&interaction), "{}: decide above", row.kind);
            for who in STRANGERS.into_iter().chain(["root"]) {
                let answer = ask(&county, who, interaction, row.kind, "m-x", &body).await;
                assert_eq!(answer.status, 405, "{who}: {interaction:?} {}", row.kind);
            }
        }
        let nobody = ask(&county, "", Interaction::Search, row.kind, "m-x", &body).await;
        let open = readers(row.kind) == Readers::Program && nobody.status == 200;
        assert!(open || nobody.status == 401, "{}: {}", row.kind, nobody.status);
    }
}
