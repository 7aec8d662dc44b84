//! Mutants of our profiles and of the guide's, against ours alone and with the guide's package loaded.

use std::collections::HashMap;

use loopgate::fhir::profile::Profiles;
use loopgate::fhir::published;
use serde_json::{Value, json};

use super::snapshot::Snapshot;
use super::{Mutant, errors, fixtures, judge};
use crate::validation::{examples, is_definition, packaged};

/// The guide's profile that each fixture meets.
const GUIDES: &[(&str, &str)] = &[
    ("referral-task", "TaskForReferralManagement"),
    ("contact-task", "TaskForPatient"),
    ("questionnaire-task", "TaskForPatient"),
    ("pdf-task", "TaskForPatient"),
    ("review-task", "TaskForPatient"),
    ("information-task", "TaskForPatient"),
    ("service-request", "ServiceRequest"),
    ("procedure", "Procedure"),
    ("condition", "Condition"),
    ("goal", "Goal"),
    ("consent", "Consent"),
    ("screening-response", "ObservationScreeningResponse"),
    ("assessment", "ObservationAssessment"),
    ("enrollment", "ObservationProgramEnrollmentStatus"),
    ("practitioner-role", "practitionerrole"),
    ("location", "Location"),
    ("group", "Group"),
    ("healthcare-service", "HealthcareService"),
    ("capacity", "HealthcareServiceForReferralManagement"),
];
const GUIDE: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-";
const US_CORE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-";

/// The resource type that a profile's canonical is about, told without the product.
fn type_of(url: &str) -> Option<String> {
    let last = url.rsplit('/').next()?;
    let known = [
        ("us-core-patient", "Patient"),
        ("us-core-organization", "Organization"),
        ("us-core-location", "Location"),
        ("us-core-practitioner", "Practitioner"),
        ("us-core-practitionerrole", "PractitionerRole"),
        ("us-core-relatedperson", "RelatedPerson"),
        ("us-core-careteam", "CareTeam"),
        ("us-core-careplan", "CarePlan"),
        ("us-core-encounter", "Encounter"),
        ("us-core-documentreference", "DocumentReference"),
        ("us-core-questionnaireresponse", "QuestionnaireResponse"),
        ("us-core-observation-screening-assessment", "Observation"),
        ("sdc-questionnaireresponse", "QuestionnaireResponse"),
        ("SDOHCC-TaskForReferralManagement", "Task"),
        ("SDOHCC-TaskForPatient", "Task"),
        ("SDOHCC-ServiceRequest", "ServiceRequest"),
        ("SDOHCC-Procedure", "Procedure"),
        ("SDOHCC-Condition", "Condition"),
        ("SDOHCC-Goal", "Goal"),
        ("SDOHCC-Consent", "Consent"),
        ("SDOHCC-practitionerrole", "PractitionerRole"),
        ("SDOHCC-HealthcareService", "HealthcareService"),
        ("SDOHCC-Location", "Location"),
        ("service-request", "ServiceRequest"),
        ("procedure", "Procedure"),
        ("goal", "Goal"),
        ("condition", "Condition"),
        ("practitioner-role", "PractitionerRole"),
        ("organization", "Organization"),
        ("healthcare-service", "HealthcareService"),
        ("consent", "Consent"),
        ("location", "Location"),
        ("referral-task", "Task"),
        ("patient-task", "Task"),
    ];
    if let Some((_, name)) = known.iter().find(|(own, _)| *own == last) {
        return Some((*name).to_string());
    }
    if last.starts_with("SDOHCC-Observation") {
        return Some("Observation".to_string());
    }
    url.strip_prefix("http://hl7.org/fhir/StructureDefinition/").map(str::to_string)
}

fn mutants<'a>(
    definitions: impl Iterator<Item = &'a Value>,
    instances: &[(String, Value)],
    profiles: &Profiles,
) -> Vec<Mutant> {
    let terminology = profiles.terminology();
    let mut all = Vec::new();
    for definition in definitions {
        let Some(snapshot) = Snapshot::read(definition, terminology, &type_of) else { continue };
        let url = definition["url"].as_str().unwrap();
        let title = url.rsplit('/').next().unwrap();
        for (name, instance) in instances {
            let claims = instance["meta"]["profile"].as_array().into_iter().flatten();
            let claimed = claims.filter_map(Value::as_str).any(|claim| claim.split('|').next() == Some(url));
            if !claimed && definition["type"] != "Extension" {
                continue;
            }
            all.extend(
                snapshot
                    .mutants(instance)
                    .into_iter()
                    .map(|mutant| Mutant { what: format!("{name} by {title}: {}", mutant.what), ..mutant }),
            );
        }
    }
    all
}

/// The fixtures, each claiming the guide's profile, and ours.
pub fn instances() -> Vec<(String, Value)> {
    let ours: HashMap<String, String> = published::all()
        .iter()
        .flat_map(|own| {
            let complies =
                own.list("extension").iter().filter_map(|one| one["valueCanonical"].as_str()).map(str::to_string);
            complies.map(|url| (url, own.text_at("url").unwrap_or_default().to_string())).collect::<Vec<_>>()
        })
        .collect();
    let mut out = Vec::new();
    for (name, mut fixture) in fixtures() {
        let guide = GUIDES.iter().find(|(own, _)| *own == name).map(|(_, guide)| format!("{GUIDE}{guide}"));
        let guide = guide.or_else(|| (name == "organization").then(|| format!("{US_CORE}organization")));
        let Some(guide) = guide else { continue };
        fixture["meta"]["profile"] = json!([guide, ours.get(&guide).unwrap_or_else(|| panic!("{guide}"))]);
        out.push((name, fixture));
    }
    out
}

#[test]
fn our_profiles_told_by_themselves() {
    let definitions: Vec<Value> = published::all()
        .iter()
        .filter(|own| own.kind().name() == "StructureDefinition")
        .map(|own| own.clone().into_value())
        .collect();
    let instances = instances();
    for (name, instance) in &instances {
        assert_eq!(errors(instance, Profiles::own()), Vec::<String>::new(), "{name}");
    }
    let all = mutants(definitions.iter(), &instances, Profiles::own());
    judge("our profiles", &all, Profiles::own(), 100);
}

/// The guide's snapshots and examples, where they lie beside the project: by ours alone, and by its package.
#[test]
fn the_guides_profiles_told_with_and_without_its_package() {
    for release in ["3.0.0", "2.3.0", "2.2.0"] {
        let Some((profiles, definitions)) = packaged(release) else { continue };
        let own = examples().into_iter().filter(|((of, _), value)| of == release && !is_definition(value));
        let theirs = own.map(|((_, name), value)| (name, value));
        let instances: Vec<(String, Value)> =
            theirs.chain(instances()).filter(|(_, value)| errors(value, &profiles).is_empty()).collect();
        let all = mutants(definitions.iter(), &instances, &profiles);
        judge(&format!("the guide's {release}, its package loaded"), &all, &profiles, 300);
        // Ours stand for the guide's current release.
        if release == "3.0.0" {
            let strict: Vec<Mutant> = all.into_iter().filter(|mutant| !passed_through(&mutant.what)).collect();
            judge("the guide's 3.0.0, ours alone", &strict, Profiles::own(), 300);
        }
    }
}

/// Characteristics of people are passed on as they come: the guide asks nothing of them, and no profile of ours does.
pub fn passed_through(what: &str) -> bool {
    let kinds = [
        "Ethnicity",
        "GenderIdentity",
        "PersonalCharacteristic",
        "PersonalPronouns",
        "Race",
        "RecordedSex",
        "SexualOrientation",
    ];
    kinds.iter().any(|kind| what.contains(&format!("by SDOHCC-Observation{kind}")))
}
