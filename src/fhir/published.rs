//! What this program publishes: its profiles, code systems, value sets, maps, operations and search parameters, from
//! `profiles/` and `mappings/`.
//!
//! Part of the program and the same for everybody; nobody writes them over FHIR. Leaves out the two SubscriptionTopics,
//! which R4 has no resource for. <https://hl7.org/fhir/R4/conformance-module.html>

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use super::resource::{Key, Resource, ResourceType};
use crate::time::Timestamp;

/// When one of them last changed, microseconds: 2026-11-26.
const CHANGED: Timestamp = Timestamp(1_795_651_200_000_000);

macro_rules! text {
    ($path:literal) => {
        include_str!(concat!("../../", $path))
    };
}

/// Every file, but for the SubscriptionTopics; a test compares with the folders.
const TEXTS: &[&str] = &[
    text!("profiles/CodeSystem-business-status.json"),
    text!("profiles/CodeSystem-need-outcome.json"),
    text!("profiles/CodeSystem-status-reason.json"),
    text!("profiles/CodeSystem-task-output-type.json"),
    text!("profiles/OperationDefinition-Organization-following.json"),
    text!("profiles/OperationDefinition-Organization-poll.json"),
    text!("profiles/OperationDefinition-Subscription-deliveries.json"),
    text!("profiles/OperationDefinition-Subscription-pause.json"),
    text!("profiles/OperationDefinition-Subscription-resume.json"),
    text!("profiles/OperationDefinition-Task-conflicts.json"),
    text!("profiles/OperationDefinition-Task-loop-status.json"),
    text!("profiles/OperationDefinition-Task-relay.json"),
    text!("profiles/OperationDefinition-Task-settle.json"),
    text!("profiles/SearchParameter-ServiceRequest-supporting-info.json"),
    text!("profiles/SearchParameter-Task-output-reference.json"),
    text!("profiles/StructureDefinition-assessment.json"),
    text!("profiles/StructureDefinition-capacity.json"),
    text!("profiles/StructureDefinition-condition.json"),
    text!("profiles/StructureDefinition-consent.json"),
    text!("profiles/StructureDefinition-enrollment.json"),
    text!("profiles/StructureDefinition-goal.json"),
    text!("profiles/StructureDefinition-group.json"),
    text!("profiles/StructureDefinition-healthcare-service.json"),
    text!("profiles/StructureDefinition-location.json"),
    text!("profiles/StructureDefinition-organization.json"),
    text!("profiles/StructureDefinition-patient-task.json"),
    text!("profiles/StructureDefinition-practitioner-role.json"),
    text!("profiles/StructureDefinition-procedure.json"),
    text!("profiles/StructureDefinition-referral-task.json"),
    text!("profiles/StructureDefinition-screening-response.json"),
    text!("profiles/StructureDefinition-service-request.json"),
    text!("profiles/ValueSet-business-status.json"),
    text!("profiles/ValueSet-need-outcome.json"),
    text!("profiles/ValueSet-status-reason.json"),
    text!("profiles/terminology/CodeSystem-SDOHCC-CodeSystemTemporaryCodes.json"),
    text!("profiles/terminology/CodeSystem-condition-category.json"),
    text!("profiles/terminology/CodeSystem-condition-clinical.json"),
    text!("profiles/terminology/CodeSystem-condition-ver-status.json"),
    text!("profiles/terminology/CodeSystem-goal-achievement.json"),
    text!("profiles/terminology/CodeSystem-goal-status.json"),
    text!("profiles/terminology/CodeSystem-observation-category.json"),
    text!("profiles/terminology/CodeSystem-sdc-temp.json"),
    text!("profiles/terminology/CodeSystem-us-core-category.json"),
    text!("profiles/terminology/CodeSystem-us-core-condition-category.json"),
    text!("profiles/terminology/CodeSystem-us-core-provenance-participant-type.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetCapacityStatus.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetEnrollmentCategory.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetEnrollmentStatus.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetHealthcareServiceType.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetObservationDataAbsentReason.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetObservationMethod.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetObservationStatus.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetReferralTaskStatus.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetSDOHCategory.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetSDOHQuestionnaireCategory.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetServiceCategory.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetTaskCode.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetTaskPriority.json"),
    text!("profiles/terminology/ValueSet-SDOHCC-ValueSetTaskStatus.json"),
    text!("profiles/terminology/ValueSet-us-core-condition-code.json"),
    text!("profiles/terminology/ValueSet-us-core-goal-description.json"),
    text!("profiles/terminology/ValueSet-us-core-problem-or-health-concern.json"),
    text!("profiles/terminology/ValueSet-us-core-procedure-code.json"),
    text!("profiles/terminology/ValueSet-us-core-screening-assessment-condition-category.json"),
    text!("profiles/terminology/ValueSet-us-core-screening-assessment-observation-category.json"),
    text!("profiles/terminology/ValueSet-us-core-servicerequest-category.json"),
    text!("profiles/terminology/ValueSet-us-core-simple-observation-category.json"),
    text!("profiles/terminology/ValueSet-us-core-survey-codes.json"),
    text!("mappings/ConceptMap-capacity-status-3.0-ballot-to-3.0.json"),
    text!("mappings/ConceptMap-task-status-2.0-to-3.0.json"),
];

/// The types that are published, and never stored.
pub fn holds(kind: ResourceType) -> bool {
    matches!(
        kind.name(),
        "CodeSystem" | "ConceptMap" | "OperationDefinition" | "SearchParameter" | "StructureDefinition" | "ValueSet"
    )
}

/// All of them, each with a version that follows its text.
pub fn all() -> &'static [Resource] {
    static ALL: OnceLock<Vec<Resource>> = OnceLock::new();
    ALL.get_or_init(|| TEXTS.iter().filter_map(|text| published(text)).collect())
}

/// The one at this place.
pub fn at(key: &Key) -> Option<&'static Resource> {
    all().iter().find(|resource| resource.kind() == key.kind && resource.id() == Some(key.id.as_str()))
}

/// When it was last changed.
pub fn changed() -> Timestamp {
    CHANGED
}

fn published(text: &str) -> Option<Resource> {
    let mut resource = Resource::stored(text).ok()?;
    let id = resource.id()?.to_string();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    resource.stamp(&id, i64::from(hasher.finish() as u32), CHANGED);
    Some(resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// What stands in the folders is published, under its own canonical URL and nobody else's.
    #[test]
    fn every_file_is_published_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = 0;
        for folder in ["profiles", "profiles/terminology", "mappings"] {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if !name.ends_with(".json") || name.starts_with("SubscriptionTopic") {
                    continue;
                }
                files += 1;
                let text = fs::read_to_string(&path).unwrap();
                assert!(TEXTS.contains(&text.as_str()), "{folder}/{name} is not in TEXTS");
                let resource = Resource::stored(&text).unwrap();
                assert_eq!(format!("{}-{}.json", resource.kind(), resource.id().unwrap()), name);
                assert!(holds(resource.kind()), "{name}");
            }
        }
        assert_eq!((files, all().len()), (TEXTS.len(), TEXTS.len()));
        let mut urls: Vec<_> = all().iter().map(|one| one.text_at("url").unwrap()).collect();
        urls.sort_unstable();
        urls.dedup();
        assert_eq!(urls.len(), files, "two have one URL");
    }

    #[test]
    fn it_is_found_by_its_key() {
        let key = Key::parse("OperationDefinition/Task-relay").unwrap();
        let found = at(&key).unwrap();
        assert!(found.version().is_some_and(|version| version > 0));
        assert_eq!(found.text_at("url"), Some("https://loopgate.org/fhir/OperationDefinition/Task-relay"));
        assert!(at(&Key::parse("ValueSet/none").unwrap()).is_none());
    }
}
