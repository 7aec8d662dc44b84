//! The demo's example resources: one fictional patient of the guide's example clinic, with what a referral refers to.
//!
//! For the demo, the integration tests and the simulation, which need a referral that is right in every detail.
//! Promises: each resource conforms to its profile of the SDOH Clinical Care guide 3.0.0 (US Core 7.0.0 where the
//! guide has none); ids are fixed; every reference made here is relative (`Patient/pat-53234`) and leads to a
//! resource of [`context`]; time comes from the caller. Facts and codes are those of the guide's own example (CC0),
//! codes for other needs those in use at public reference clients.
//! Leaves out: real people, screening results, and codes for needs that public clients have no code for (these get
//! the general "Social service procedure"). Absolute references are the caller's: pass them where another server reads.
//!
//! Specification: <http://hl7.org/fhir/us/sdoh-clinicalcare/STU3/artifacts.html>

use serde_json::{Value, json};

/// The patient, as context resources refer to it.
pub const PATIENT: &str = "Patient/pat-53234";
/// Who asks: the role of the clinic's physician.
pub const REQUESTER: &str = "PractitionerRole/role-jan-water";
/// The clinic.
pub const CLINIC: &str = "Organization/better-health-clinic";
/// The concern behind a food referral.
pub const CONDITION: &str = "Condition/food-insecurity";
/// The patient's permission to disclose.
pub const CONSENT: &str = "Consent/disclosure";

const SNOMED: &str = "http://snomed.info/sct";
const SDOHCC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
const SOCIAL_SERVICE: (&str, &str) = ("410606002", "Social service procedure");
const FOOD: &str = "food-insecurity";

/// What is asked for, why, and what is done about it, in SNOMED CT, for the categories that have codes of their own.
struct Need {
    category: &'static str,
    request: (&'static str, &'static str),
    reason: (&'static str, &'static str),
    activity: (&'static str, &'static str),
}

const NEEDS: [Need; 3] = [
    Need {
        category: FOOD,
        request: ("467771000124109", "Assistance with application for food pantry program"),
        reason: ("733423003", "Food insecurity"),
        activity: ("467771000124109", "Assistance with application for food pantry program"),
    },
    Need {
        category: "housing-instability",
        request: ("710911006", "Referral to housing service"),
        reason: ("1156191002", "Housing instability"),
        activity: ("225340009", "Housing assessment"),
    },
    Need {
        category: "transportation-insecurity",
        request: ("428632005", "Transportation request"),
        reason: ("551691000124106", "Transportation insecurity"),
        activity: ("410365006", "Transportation case management"),
    },
];

/// What a referral refers to, in an order in which every reference leads backwards:
/// Patient, Practitioner, Organization (the clinic), PractitionerRole, Condition, Goal, Consent.
pub fn context(now: &str) -> Vec<Value> {
    vec![patient(), practitioner(), clinic(), practitioner_role(), condition(now), goal(now), consent(now)]
}

/// A need of the example patient: an active order in this SDOH category (a code of the guide's own code system).
/// The reason of a food referral is the Condition of [`context`]; other needs carry theirs as a code.
pub fn service_request(id: &str, category: &str, now: &str) -> Value {
    let need = need(category);
    let mut request = json!({
        "resourceType": "ServiceRequest",
        "id": id,
        "meta": { "profile": [gravity("SDOHCC-ServiceRequest")] },
        "status": "active",
        "intent": "order",
        "category": [concept(&[snomed(SOCIAL_SERVICE)]), concept(&[domain(category)])],
        "priority": "routine",
        "code": concept(&[snomed(need.map_or(SOCIAL_SERVICE, |need| need.request))]),
        "subject": reference(PATIENT),
        "occurrencePeriod": { "start": now },
        "authoredOn": now,
        "requester": reference(REQUESTER),
        "supportingInfo": [reference(CONSENT)],
    });
    match need {
        Some(need) if need.category == FOOD => request["reasonReference"] = json!([reference(CONDITION)]),
        Some(need) => request["reasonCode"] = json!([concept(&[snomed(need.reason)])]),
        None => {}
    }
    request
}

/// The Task that asks `owner` (or, without one, anybody) to fulfil `focus`: requested, authored now.
pub fn referral_task(
    id: Option<&str>,
    focus: &str,
    requester: &str,
    patient: &str,
    owner: Option<&str>,
    now: &str,
) -> Value {
    let mut task = json!({ "resourceType": "Task" });
    if let Some(id) = id {
        task["id"] = json!(id);
    }
    task["meta"] = json!({ "profile": [gravity("SDOHCC-TaskForReferralManagement")] });
    task["status"] = json!("requested");
    task["intent"] = json!("order");
    task["priority"] = json!("routine");
    task["code"] =
        concept(&[coding("http://hl7.org/fhir/CodeSystem/task-code", "fulfill", "Fulfill the focal request")]);
    task["focus"] = reference(focus);
    task["for"] = reference(patient);
    task["authoredOn"] = json!(now);
    task["requester"] = reference(requester);
    if let Some(owner) = owner {
        task["owner"] = reference(owner);
    }
    task
}

/// What was done about a need, for the ServiceRequest `based_on`. Without an id: the server that takes it gives one.
pub fn procedure(based_on: &str, subject: &str, category: &str, now: &str) -> Value {
    json!({
        "resourceType": "Procedure",
        "meta": { "profile": [gravity("SDOHCC-Procedure")] },
        "basedOn": [reference(based_on)],
        "status": "completed",
        "category": concept(&[snomed(SOCIAL_SERVICE), domain(category)]),
        "code": concept(&[snomed(need(category).map_or(SOCIAL_SERVICE, |need| need.activity))]),
        "subject": reference(subject),
        "performedDateTime": now,
    })
}

/// Completes a Task with one more outcome. A reason belonged to the status before and goes.
pub fn completed_with(task: &mut Value, procedure_reference: &str) {
    let Some(elements) = task.as_object_mut() else { return };
    elements.insert("status".to_owned(), json!("completed"));
    elements.shift_remove("statusReason");
    let output = json!({
        "type": concept(&[coding(SDOHCC, "resulting-activity", "Resulting Activity")]),
        "valueReference": reference(procedure_reference),
    });
    match elements.get_mut("output").and_then(Value::as_array_mut) {
        Some(outputs) => outputs.push(output),
        None => {
            elements.insert("output".to_owned(), json!([output]));
        }
    }
}

fn patient() -> Value {
    json!({
        "resourceType": "Patient",
        "id": "pat-53234",
        "meta": { "profile": [us_core("us-core-patient")] },
        "identifier": [{
            "use": "usual",
            "type": concept(&[coding("http://terminology.hl7.org/CodeSystem/v2-0203", "MR", "Medical record number")]),
            "system": "http://hospital.smarthealthit.org",
            "value": "1032702",
        }],
        "active": true,
        "name": [{ "family": "BAXTER", "given": ["COLIN", "V."] }],
        "telecom": [{ "system": "phone", "value": "555-555-5555", "use": "home" }],
        "gender": "male",
        "birthDate": "1987-02-20",
        "address": [{
            "line": ["183 Mountain View St"],
            "city": "Mounds",
            "state": "OK",
            "postalCode": "74048",
            "country": "US",
        }],
    })
}

fn practitioner() -> Value {
    json!({
        "resourceType": "Practitioner",
        "id": "jan-water",
        "meta": { "profile": [us_core("us-core-practitioner")] },
        "identifier": [{ "system": "http://www.deerland.org/practitioners", "value": "24242" }],
        "active": true,
        "name": [{ "family": "Water", "given": ["Jan"], "prefix": ["Dr"] }],
    })
}

fn clinic() -> Value {
    json!({
        "resourceType": "Organization",
        "id": "better-health-clinic",
        "meta": { "profile": [us_core("us-core-organization")] },
        "identifier": [{ "system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893" }],
        "active": true,
        "name": "Better Health Clinic",
        "telecom": [{ "system": "phone", "value": "555-555-1000", "use": "work" }],
        "address": [{
            "line": ["133th Street"],
            "city": "Deerland",
            "state": "IL",
            "postalCode": "62223",
            "country": "US",
        }],
    })
}

fn practitioner_role() -> Value {
    json!({
        "resourceType": "PractitionerRole",
        "id": "role-jan-water",
        "meta": { "profile": [gravity("SDOHCC-practitionerrole")] },
        "identifier": [{ "system": "http://www.deerland.org/practitioners", "value": "2424" }],
        "active": true,
        "practitioner": reference("Practitioner/jan-water"),
        "organization": reference(CLINIC),
        "code": [concept(&[
            coding("http://nucc.org/provider-taxonomy", "207Q00000X", "Family Medicine Physician"),
            coding(SNOMED, "62247001", "Family medicine specialist"),
        ])],
        "telecom": [
            { "system": "phone", "value": "639 442 6719", "use": "work" },
            { "system": "email", "value": "jan.water@deerland.org", "use": "work" },
        ],
    })
}

fn condition(now: &str) -> Value {
    let terminology = "http://terminology.hl7.org/CodeSystem";
    json!({
        "resourceType": "Condition",
        "id": "food-insecurity",
        "meta": { "profile": [gravity("SDOHCC-Condition")] },
        "clinicalStatus": concept(&[coding(&format!("{terminology}/condition-clinical"), "active", "Active")]),
        "verificationStatus": concept(&[coding(
            &format!("{terminology}/condition-ver-status"), "confirmed", "Confirmed",
        )]),
        "category": [
            concept(&[coding(&format!("{terminology}/condition-category"), "problem-list-item", "Problem List Item")]),
            concept(&[coding("http://hl7.org/fhir/us/core/CodeSystem/us-core-category", "sdoh", "SDOH")]),
            concept(&[domain(FOOD)]),
        ],
        "code": concept(&[
            snomed(("733423003", "Food insecurity")),
            coding("http://hl7.org/fhir/sid/icd-10-cm", "Z59.41", "Food insecurity"),
        ]),
        "subject": reference(PATIENT),
        "onsetPeriod": { "start": "2019-08-18" },
        "recordedDate": now,
        "asserter": reference(REQUESTER),
    })
}

fn goal(now: &str) -> Value {
    json!({
        "resourceType": "Goal",
        "id": "food-security",
        "meta": { "profile": [gravity("SDOHCC-Goal")] },
        "lifecycleStatus": "active",
        "achievementStatus": concept(&[coding(
            "http://terminology.hl7.org/CodeSystem/goal-achievement", "in-progress", "In Progress",
        )]),
        "category": [concept(&[domain(FOOD)])],
        "description": concept(&[snomed(("1078229009", "Food security"))]),
        "subject": reference(PATIENT),
        "startDate": date(now),
        "target": [{
            "measure": concept(&[coding("http://loinc.org", "88124-3", "Food insecurity risk [HVS]")]),
            "detailCodeableConcept": concept(&[coding("http://loinc.org", "LA19983-8", "No risk")]),
        }],
        "statusDate": date(now),
        "addresses": [reference(CONDITION)],
    })
}

fn consent(now: &str) -> Value {
    let terminology = "http://terminology.hl7.org/CodeSystem";
    json!({
        "resourceType": "Consent",
        "id": "disclosure",
        "meta": { "profile": [gravity("SDOHCC-Consent")] },
        "status": "active",
        "scope": concept(&[coding(&format!("{terminology}/consentscope"), "patient-privacy", "Privacy Consent")]),
        "category": [concept(&[coding(&format!("{terminology}/v3-ActCode"), "IDSCL", "information disclosure")])],
        "patient": reference(PATIENT),
        "dateTime": now,
        "organization": [reference(CLINIC)],
        "sourceAttachment": {
            "contentType": "text/plain",
            "language": "en",
            // "I agree that what this referral needs is shared with those who help me."
            "data": "SSBhZ3JlZSB0aGF0IHdoYXQgdGhpcyByZWZlcnJhbCBuZWVkcyBpcyBzaGFyZWQgd2l0aCB0aG9zZSB3aG8gaGVscCBtZS4=",
            "title": "Consent to disclosure",
        },
        "policyRule": concept(&[coding(
            &format!("{terminology}/consentpolicycodes"), "hipaa-auth", "HIPAA Authorization",
        )]),
        "provision": { "type": "permit", "period": { "start": now } },
    })
}

fn need(category: &str) -> Option<&'static Need> {
    NEEDS.iter().find(|need| need.category == category)
}

fn gravity(profile: &str) -> String {
    format!("http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/{profile}")
}

fn us_core(profile: &str) -> String {
    format!("http://hl7.org/fhir/us/core/StructureDefinition/{profile}")
}

fn reference(to: &str) -> Value {
    json!({ "reference": to })
}

fn concept(codings: &[Value]) -> Value {
    json!({ "coding": codings })
}

fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({ "system": system, "code": code, "display": display })
}

fn snomed((code, display): (&str, &str)) -> Value {
    coding(SNOMED, code, display)
}

/// A category of the guide's code system, whose displays are the codes' own words.
fn domain(category: &str) -> Value {
    let words: Vec<String> = category.split('-').map(title).collect();
    coding(SDOHCC, category, &words.join(" "))
}

fn title(word: &str) -> String {
    if word == "sdoh" {
        return "SDOH".to_owned();
    }
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The date of an RFC 3339 instant.
fn date(instant: &str) -> &str {
    instant.get(..10).unwrap_or(instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-08-03T10:00:00Z";

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(elements) => {
                for (name, element) in elements {
                    match element.as_str() {
                        Some(text) if name == "reference" => found.push(text),
                        _ => references(element, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_into_the_context() {
        let context = context(NOW);
        let ids: Vec<String> = context
            .iter()
            .map(|r| format!("{}/{}", r["resourceType"].as_str().unwrap(), r["id"].as_str().unwrap()))
            .collect();
        let types: Vec<&str> = ids.iter().map(|id| id.split('/').next().unwrap()).collect();
        assert_eq!(
            types,
            ["Patient", "Practitioner", "Organization", "PractitionerRole", "Condition", "Goal", "Consent"]
        );
        for category in ["food-insecurity", "housing-instability", "elder-abuse"] {
            let request = service_request("sr-1", category, NOW);
            let mut found = Vec::new();
            context.iter().chain([&request]).for_each(|resource| references(resource, &mut found));
            assert!(found.len() > 8);
            for reference in found {
                assert!(ids.iter().any(|id| id == reference), "{reference} leads nowhere");
            }
        }
    }

    #[test]
    fn a_request_has_a_code_of_its_domain() {
        for (category, code, display) in [
            ("food-insecurity", "467771000124109", "Food Insecurity"),
            ("housing-instability", "710911006", "Housing Instability"),
            ("transportation-insecurity", "428632005", "Transportation Insecurity"),
            ("health-insurance-coverage-status", "410606002", "Health Insurance Coverage Status"),
            ("sdoh-category-unspecified", "410606002", "SDOH Category Unspecified"),
        ] {
            let request = service_request("sr-1", category, NOW);
            assert_eq!(request["code"]["coding"][0]["code"], code);
            assert_eq!(request["category"][0]["coding"][0]["code"], "410606002");
            assert_eq!(request["category"][1]["coding"][0], coding(SDOHCC, category, display));
        }
        assert_eq!(service_request("1", FOOD, NOW)["reasonReference"][0]["reference"], CONDITION);
        let housing = service_request("1", "housing-instability", NOW);
        assert!(housing.get("reasonReference").is_none());
        assert_eq!(housing["reasonCode"][0]["coding"][0]["code"], "1156191002");
    }

    #[test]
    fn a_task_is_requested_then_completed_with_its_outcomes() {
        let mut task = referral_task(None, "http://ehr/fhir/ServiceRequest/1", REQUESTER, PATIENT, None, NOW);
        assert!(task.get("id").is_none() && task.get("owner").is_none());
        assert_eq!((&task["status"], &task["authoredOn"]), (&json!("requested"), &json!(NOW)));
        task["statusReason"] = json!({ "text": "Waiting for the client" });
        completed_with(&mut task, "Procedure/1");
        completed_with(&mut task, "Procedure/2");
        assert_eq!(task["status"], "completed");
        assert!(task.get("statusReason").is_none());
        assert_eq!(task["output"][0]["type"]["coding"][0]["code"], "resulting-activity");
        assert_eq!(task["output"][1]["valueReference"]["reference"], "Procedure/2");
        let owned = referral_task(Some("t1"), "ServiceRequest/1", REQUESTER, PATIENT, Some(CLINIC), NOW);
        assert_eq!((&owned["id"], &owned["owner"]["reference"]), (&json!("t1"), &json!(CLINIC)));
    }

    #[test]
    fn a_procedure_says_what_was_done() {
        let done = procedure("http://hub/fhir/ServiceRequest/7", PATIENT, "transportation-insecurity", NOW);
        assert_eq!(done["basedOn"][0]["reference"], "http://hub/fhir/ServiceRequest/7");
        assert_eq!(done["code"]["coding"][0]["code"], "410365006");
        assert_eq!(done["category"]["coding"][1]["code"], "transportation-insecurity");
        assert_eq!((&done["status"], &done["performedDateTime"]), (&json!("completed"), &json!(NOW)));
    }
}
