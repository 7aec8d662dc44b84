//! Bridging the releases of the guide: what was written by an older one is passed on in the words of 3.0.0.
//!
//! A Condition or Observation of 2.0 to 2.2 about a social need lacks the category `sdoh` (G-190); a capacity of the
//! ballot has its old code (G-192). Both are added to or replaced where others read them; what its author sent is
//! stored, and read by its author, as it came. The status codes of 2.0 are read by [`super::status`] (G-188), an intent
//! other than filler-order is put right by the relay (G-191). The maps are those in `mappings/`.
//! <http://hl7.org/fhir/us/sdoh-clinicalcare>

use serde_json::{Value, json};

use crate::fhir::concept_map::{Question, translate};
use crate::fhir::terminology::{Membership, Terminology};
use crate::fhir::views::{CAPACITY_EXTENSION, SDOHCC, codings, has_coding};
use crate::fhir::{Resource, ResourceType};

const US_CORE_CATEGORY: &str = "http://hl7.org/fhir/us/core/CodeSystem/us-core-category";
const SDOH_CATEGORIES: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/ValueSet/SDOHCC-ValueSetSDOHCategory";
/// The profiles whose instances are about a social need, whichever domain they name.
const SDOH_PROFILES: &[&str] =
    &["/SDOHCC-Condition", "/SDOHCC-ObservationScreeningResponse", "/SDOHCC-ObservationAssessment"];
/// The ballot's code for a waiting list.
const BALLOT_WAITLIST: &str = "no-capacity-has-waitlist";

/// Whether a resource with this text may have to be bridged: told without reading it.
pub fn may_differ(kind: ResourceType, text: &str) -> bool {
    match kind.name() {
        "Condition" | "Observation" => !(text.contains(US_CORE_CATEGORY) && text.contains("\"sdoh\"")),
        "HealthcareService" => text.contains(BALLOT_WAITLIST),
        _ => false,
    }
}

/// Brings a resource to release 3.0.0; answers what was changed, as people read it.
pub fn to_current(resource: &mut Resource) -> Vec<&'static str> {
    match resource.kind().name() {
        "Condition" | "Observation" if lacks_sdoh(resource) => {
            let mut categories = resource.list("category").to_vec();
            categories.push(json!({"coding": [{"system": US_CORE_CATEGORY, "code": "sdoh", "display": "SDOH"}]}));
            resource.set("category", Value::Array(categories));
            vec!["The category sdoh of US Core was added, as release 3.0.0 of SDOH Clinical Care asks for."]
        }
        "HealthcareService" if capacity_renamed(resource) => {
            vec!["A capacity of the ballot of release 3.0.0 was given its present code."]
        }
        _ => Vec::new(),
    }
}

fn lacks_sdoh(resource: &Resource) -> bool {
    let categories = resource.list("category");
    let has = |system: &str, code: &str| categories.iter().any(|one| has_coding(one, Some(system), code));
    if has(US_CORE_CATEGORY, "sdoh") {
        return false;
    }
    let profiles = resource.at("meta").and_then(|meta| meta.get("profile")).and_then(Value::as_array);
    let claims = profiles.into_iter().flatten().filter_map(Value::as_str).any(|url| {
        let bare = url.split('|').next().unwrap_or(url);
        SDOH_PROFILES.iter().any(|profile| bare.ends_with(profile))
    });
    let domain = |(system, code): (&str, &str)| {
        system == SDOHCC && Terminology::held().contains(SDOH_CATEGORIES, system, code) == Membership::Known(true)
    };
    claims || categories.iter().flat_map(codings).any(domain)
}

fn capacity_renamed(resource: &mut Resource) -> bool {
    let Some(Value::Array(extensions)) = resource.elements_mut().get_mut("extension") else { return false };
    let ours = extensions.iter_mut().filter(|one| one.get("url").is_some_and(|url| url == CAPACITY_EXTENSION));
    let parts = ours.filter_map(|one| one.get_mut("extension")?.as_array_mut()).flatten();
    let codings = parts.filter_map(|part| part.get_mut("valueCodeableConcept")?.get_mut("coding")?.as_array_mut());
    let mut changed = false;
    for coding in codings.flatten() {
        let code = coding.get("code").and_then(Value::as_str).unwrap_or("").to_string();
        let system = coding.get("system").and_then(Value::as_str).map(str::to_string);
        let question =
            Question { system: system.as_deref(), target_system: Some(SDOHCC), code: &code, ..Question::default() };
        let found =
            translate(question).into_iter().flatten().find(|one| one.code.as_ref().is_some_and(|to| *to != code));
        if let Some(found) = found {
            coding["code"] = json!(found.code);
            if let Some(display) = found.display {
                coding["display"] = json!(display);
            }
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::views::capacity;
    use crate::referral::Status;

    fn of(value: Value) -> Resource {
        Resource::from_value(value).unwrap()
    }

    fn category(system: &str, code: &str) -> Value {
        json!({"coding": [{"system": system, "code": code}]})
    }

    // G-190
    #[test]
    fn an_older_condition_or_observation_gets_the_category_and_keeps_its_own() {
        let health_concern = category("http://hl7.org/fhir/us/core/CodeSystem/condition-category", "health-concern");
        let survey = category("http://terminology.hl7.org/CodeSystem/observation-category", "survey");
        let food = category(SDOHCC, "food-insecurity");
        let profile = |name: &str| json!({"profile": [format!("http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-{name}|2.1.0")]});
        for older in [
            json!({"resourceType": "Condition", "category": [health_concern, food]}),
            json!({"resourceType": "Condition", "meta": profile("Condition"), "category": [health_concern]}),
            json!({"resourceType": "Observation", "meta": profile("ObservationScreeningResponse"), "category": [survey]}),
            json!({"resourceType": "Observation", "category": [survey, food]}),
        ] {
            assert!(may_differ(of(older.clone()).kind(), &older.to_string()));
            let mut resource = of(older.clone());
            assert_eq!(to_current(&mut resource).len(), 1, "{older}");
            let (before, after) = (older["category"].as_array().unwrap(), resource.list("category"));
            assert_eq!((&after[..before.len()], after.len()), (&before[..], before.len() + 1));
            assert!(has_coding(&after[before.len()], Some(US_CORE_CATEGORY), "sdoh"));
            assert!(to_current(&mut resource).is_empty(), "once");
            assert!(!may_differ(resource.kind(), &resource.to_text()));
        }
        // What is about no social need, or says so already, stays as it is.
        for other in [
            json!({"resourceType": "Condition", "category": [health_concern]}),
            json!({"resourceType": "Condition"}),
            json!({"resourceType": "Observation", "category": [survey, category(SDOHCC, "personal-characteristic")]}),
            json!({"resourceType": "Condition", "category": [food, category(US_CORE_CATEGORY, "sdoh")]}),
            json!({"resourceType": "Goal", "category": [food]}),
        ] {
            let mut resource = of(other.clone());
            assert!(to_current(&mut resource).is_empty() && resource == of(other.clone()), "{other}");
        }
    }

    // G-192
    #[test]
    fn the_ballots_capacity_is_given_its_present_code() {
        let service = |code: &str| {
            of(json!({"resourceType": "HealthcareService", "extension": [{"url": CAPACITY_EXTENSION, "extension": [
                {"url": "capacityStatus", "valueCodeableConcept": {"coding": [{"system": SDOHCC, "code": code}]}},
                {"url": "capacityNotes", "valueString": "two weeks"}]}]}))
        };
        let mut older = service(BALLOT_WAITLIST);
        assert!(may_differ(older.kind(), &older.to_text()));
        assert_eq!(to_current(&mut older).len(), 1);
        assert!(older.to_text().contains("\"waitlist\"") && older.to_text().contains("two weeks"));
        assert_eq!(capacity(&older), Some("waitlist"));
        for code in ["waitlist", "capacity", "no-capacity", "of our own"] {
            let mut present = service(code);
            assert!(to_current(&mut present).is_empty() && present == service(code), "{code}");
        }
    }

    /// The status codes of release 2.0 mean to the state machine what the published map says (G-188).
    #[test]
    fn the_published_map_and_the_state_machine_agree() {
        let map = Some("https://loopgate.org/fhir/ConceptMap/task-status-2.0-to-3.0");
        for code in ["received", "ready"].into_iter().chain(Status::ALL.map(Status::code)) {
            let found = translate(Question { map, code, ..Question::default() }).unwrap();
            assert_eq!(found[0].code.as_deref(), Status::parse(code).map(Status::code), "{code}");
        }
    }
}
