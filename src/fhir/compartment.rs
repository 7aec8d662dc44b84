//! The patient compartment: what is about a patient, or by them.
//!
//! As R4 defines it, of the types that are held; a Task for the patient is in it, too, as from R5 on: a referral is what
//! clients look for here. A Patient's is that one alone, not those it is linked with.
//! <https://hl7.org/fhir/R4/compartmentdefinition-patient.html>

use super::resource::ResourceType;
use super::search::Filter;

/// Its definition.
pub const DEFINITION: &str = "http://hl7.org/fhir/CompartmentDefinition/patient";

/// The search parameters that lead from each type to the patient.
const MEMBERS: &[(&str, &[&str])] = &[
    ("AllergyIntolerance", &["patient", "recorder", "asserter"]),
    ("Appointment", &["actor"]),
    ("AuditEvent", &["patient"]),
    ("CarePlan", &["patient", "performer"]),
    ("CareTeam", &["patient", "participant"]),
    ("Claim", &["patient", "payee"]),
    ("Communication", &["subject", "sender", "recipient"]),
    ("CommunicationRequest", &["subject", "sender", "recipient", "requester"]),
    ("Condition", &["patient", "asserter"]),
    ("Consent", &["patient"]),
    ("Coverage", &["policy-holder", "subscriber", "beneficiary", "payor"]),
    ("DiagnosticReport", &["subject"]),
    ("DocumentReference", &["subject", "author"]),
    ("Encounter", &["patient"]),
    ("EpisodeOfCare", &["patient"]),
    ("FamilyMemberHistory", &["patient"]),
    ("Goal", &["patient"]),
    ("Group", &["member"]),
    ("Immunization", &["patient"]),
    ("Media", &["subject"]),
    ("MedicationRequest", &["subject"]),
    ("MedicationStatement", &["subject"]),
    ("NutritionOrder", &["patient"]),
    ("Observation", &["subject", "performer"]),
    ("Patient", &[]),
    ("Procedure", &["patient", "performer"]),
    ("Provenance", &["patient"]),
    ("QuestionnaireResponse", &["subject", "author"]),
    ("RelatedPerson", &["patient"]),
    ("RiskAssessment", &["subject"]),
    ("ServiceRequest", &["subject", "performer"]),
    ("Specimen", &["subject"]),
    ("Task", &["patient"]),
];

/// What leads from a type to the patient; nothing where no resource of it is in the compartment.
fn parameters(kind: ResourceType) -> Option<&'static [&'static str]> {
    MEMBERS.iter().find(|(name, _)| *name == kind.name()).map(|(_, parameters)| *parameters)
}

/// Whether resources of this type may be in it.
pub fn holds(kind: ResourceType) -> bool {
    parameters(kind).is_some()
}

/// The condition that a resource of this type is in the compartment of the patient with this id.
pub fn within(kind: ResourceType, patient: &str) -> Filter {
    match parameters(kind) {
        Some(names) if !names.is_empty() => {
            Filter::Refers { names, to: format!("{}/{patient}", ResourceType::PATIENT) }
        }
        Some(_) => Filter::Ids(vec![patient.to_string()]),
        None => Filter::Ids(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::search_index::{ParameterType, parameter};

    //
    #[test]
    fn every_member_is_led_to_by_references_to_patients() {
        for (name, names) in MEMBERS {
            let kind = ResourceType::parse(name).unwrap();
            assert!(holds(kind) && (!names.is_empty() || kind == ResourceType::PATIENT), "{name}");
            for name in *names {
                let known = parameter(kind, name).unwrap_or_else(|| panic!("{kind} has no {name}"));
                assert_eq!(known.kind, ParameterType::Reference, "{kind}.{name}");
                assert!(known.targets.contains(&"Patient"), "{kind}.{name}");
            }
        }
        assert!(!holds(ResourceType::ORGANIZATION));
        assert_eq!(within(ResourceType::ORGANIZATION, "p"), Filter::Ids(Vec::new()));
        assert_eq!(within(ResourceType::PATIENT, "p"), Filter::Ids(vec!["p".into()]));
    }
}
