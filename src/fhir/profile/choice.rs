//! Which of our profiles a resource calls for by its type and content, claimed or not (design D16b).
//!
//! A partner that names no profile is held to the same rules. Where two of the guide's profiles share a type, content
//! decides; where it can't, none is called for.

use serde_json::{Map, Value};

use super::claims;
use crate::fhir::views::{
    CAPACITY_EXTENSION, PATIENT_TASK_PROFILE, REFERRAL_TASK_PROFILE, SDOHCC, TASK_CODE, has_coding,
};

const US_CORE_CATEGORY: &str = "http://hl7.org/fhir/us/core/CodeSystem/us-core-category";
const OBSERVATION_CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";
const ASSESSMENT_PROFILE: &str =
    "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-ObservationAssessment";
const SDC: &str = "http://hl7.org/fhir/uv/sdc/CodeSystem/temp";

/// The names of our profiles, as in `profiles/StructureDefinition-{name}.json`.
pub(super) fn called_for(resource: &Map<String, Value>) -> &'static [&'static str] {
    match resource.get("resourceType").and_then(Value::as_str).unwrap_or_default() {
        "Task" => task(resource),
        "ServiceRequest" => &["service-request"],
        "Procedure" => &["procedure"],
        "Condition" => &["condition"],
        "Goal" => &["goal"],
        "Consent" => &["consent"],
        "PractitionerRole" => &["practitioner-role"],
        "Organization" => &["organization"],
        "Location" => &["location"],
        "HealthcareService" if has_extension(resource, CAPACITY_EXTENSION) => &["capacity"],
        "Observation" => observation(resource),
        _ => &[],
    }
}

fn task(task: &Map<String, Value>) -> &'static [&'static str] {
    let claims = |url: &str| claims(task).any(|claim| super::bare(claim) == url);
    if claims(PATIENT_TASK_PROFILE) {
        return &["patient-task"];
    }
    let coded = |system, code| task.get("code").is_some_and(|concept| has_coding(concept, Some(system), code));
    let focus = task.get("focus").and_then(|focus| focus.get("reference")).and_then(Value::as_str);
    if claims(REFERRAL_TASK_PROFILE)
        || coded(TASK_CODE, "fulfill")
        || focus.is_some_and(|focus| focus.contains("ServiceRequest/"))
    {
        return &["referral-task"];
    }
    let patients = ["make-contact", "review-material", "general-information"];
    if patients.iter().any(|code| coded(SDOHCC, code)) || coded(SDC, "complete-questionnaire") {
        return &["patient-task"];
    }
    &[]
}

/// Survey answers and assessments of social needs; a blood pressure is neither.
fn observation(observation: &Map<String, Value>) -> &'static [&'static str] {
    let categories = || observation.get("category").and_then(Value::as_array).into_iter().flatten();
    let in_category = |system, code| categories().any(|category| has_coding(category, Some(system), code));
    // Its category is what tells it apart, and what may be missing: who claims to be one is held to it (G-167).
    if claims(observation).any(|claim| super::bare(claim) == ASSESSMENT_PROFILE) {
        &["assessment"]
    } else if in_category(SDOHCC, "program-enrollment") {
        &["enrollment"]
    } else if in_category(OBSERVATION_CATEGORY, "survey") {
        &["screening-response"]
    } else if in_category(US_CORE_CATEGORY, "sdoh") {
        &["assessment"]
    } else {
        &[]
    }
}

fn has_extension(resource: &Map<String, Value>, url: &str) -> bool {
    let list = resource.get("extension").and_then(Value::as_array).into_iter().flatten();
    list.into_iter().any(|extension| extension.get("url").is_some_and(|own| own == url))
}
