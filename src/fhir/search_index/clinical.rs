//! The parameters of clinical types (G-142…G-144, G-151, US Core), and of those that are only copied for a referral.

use super::{
    CATEGORY, CODE, ENCOUNTER, IDENTIFIER, PARTIES, PATIENT, Parameter, SUBJECT, TYPE, code, composite, date, defined,
    quantity, reference, status, text, token,
};

macro_rules! us_core {
    ($name:literal) => {
        concat!("http://hl7.org/fhir/us/core/SearchParameter/us-core-", $name)
    };
}

const SENDER: Parameter = reference("sender", &["sender"], PARTIES);
const RECIPIENT: Parameter = reference("recipient", &["recipient"], PARTIES);

pub(super) fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "Condition" => {
            const {
                &[
                    IDENTIFIER,
                    CATEGORY,
                    token("clinical-status", &["clinicalStatus"]),
                    token("verification-status", &["verificationStatus"]),
                    CODE,
                    date("onset-date", &["onsetDateTime", "onsetPeriod"]),
                    date("abatement-date", &["abatementDateTime", "abatementPeriod"]),
                    date("recorded-date", &["recordedDate"]),
                    defined(
                        us_core!("condition-asserted-date"),
                        date("asserted-date", &["extension[condition-assertedDate].valueDateTime"]),
                    ),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("asserter", &["asserter"], PARTIES),
                    reference("evidence-detail", &["evidence.detail"], &["Observation", "QuestionnaireResponse"]),
                ]
            }
        }
        "Observation" => {
            const {
                &[
                    IDENTIFIER,
                    CATEGORY,
                    status("http://hl7.org/fhir/observation-status"),
                    CODE,
                    date("date", &["effectiveDateTime", "effectivePeriod", "effectiveInstant", "effectiveTiming"]),
                    token("value-concept", &["valueCodeableConcept"]),
                    quantity("value-quantity", &["valueQuantity"]),
                    composite("code-value-concept", &[""], &[&["code"], &["valueCodeableConcept"]]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("performer", &["performer"], PARTIES),
                    reference("based-on", &["basedOn"], &["ServiceRequest", "CarePlan"]),
                    reference("has-member", &["hasMember"], &["Observation", "QuestionnaireResponse"]),
                    reference(
                        "derived-from",
                        &["derivedFrom"],
                        &["QuestionnaireResponse", "Observation", "DocumentReference"],
                    ),
                ]
            }
        }
        "Goal" => {
            const {
                &[
                    IDENTIFIER,
                    CATEGORY,
                    token("achievement-status", &["achievementStatus"]),
                    code("lifecycle-status", &["lifecycleStatus"], "http://hl7.org/fhir/goal-status"),
                    defined(us_core!("goal-description"), token("description", &["description"])),
                    date("start-date", &["startDate"]),
                    date("target-date", &["target.dueDate"]),
                    PATIENT,
                    SUBJECT,
                ]
            }
        }
        "CareTeam" => {
            const {
                &[
                    IDENTIFIER,
                    CATEGORY,
                    status("http://hl7.org/fhir/care-team-status"),
                    defined(us_core!("careteam-role"), token("role", &["participant.role"])),
                    PATIENT,
                    SUBJECT,
                    reference("participant", &["participant.member"], PARTIES),
                ]
            }
        }
        "CarePlan" => {
            const {
                &[
                    IDENTIFIER,
                    CATEGORY,
                    status("http://hl7.org/fhir/request-status"),
                    code("intent", &["intent"], "http://hl7.org/fhir/request-intent"),
                    date("date", &["period"]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("performer", &["activity.detail.performer"], PARTIES),
                    reference("based-on", &["basedOn"], &["CarePlan"]),
                    reference("condition", &["addresses"], &["Condition"]),
                    reference("goal", &["goal"], &["Goal"]),
                ]
            }
        }
        "Encounter" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/encounter-status"),
                    TYPE,
                    token("class", &["class"]),
                    defined(
                        us_core!("encounter-discharge-disposition"),
                        token("discharge-disposition", &["hospitalization.dischargeDisposition"]),
                    ),
                    date("date", &["period"]),
                    PATIENT,
                    SUBJECT,
                    reference("location", &["location.location"], &["Location"]),
                ]
            }
        }
        "Device" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/device-status"),
                    TYPE,
                    text("device-name", &["deviceName.name", "type.text"]),
                    reference("patient", &["patient"], &["Patient"]),
                    reference("organization", &["owner"], &["Organization"]),
                ]
            }
        }
        "Coverage" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/fm-status"),
                    TYPE,
                    reference("patient", &["beneficiary"], &["Patient"]),
                    reference("beneficiary", &["beneficiary"], &["Patient"]),
                    reference("policy-holder", &["policyHolder"], PARTIES),
                    reference("subscriber", &["subscriber"], &["Patient", "RelatedPerson"]),
                    reference("payor", &["payor"], PARTIES),
                ]
            }
        }
        "AllergyIntolerance" => {
            const {
                &[
                    IDENTIFIER,
                    token("clinical-status", &["clinicalStatus"]),
                    CODE,
                    reference("patient", &["patient"], &["Patient"]),
                    reference("recorder", &["recorder"], PARTIES),
                    reference("asserter", &["asserter"], PARTIES),
                ]
            }
        }
        "DiagnosticReport" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/diagnostic-report-status"),
                    CATEGORY,
                    CODE,
                    date("date", &["effectiveDateTime", "effectivePeriod"]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                ]
            }
        }
        "Immunization" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/event-status"),
                    date("date", &["occurrenceDateTime"]),
                    reference("patient", &["patient"], &["Patient"]),
                ]
            }
        }
        "MedicationRequest" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/CodeSystem/medicationrequest-status"),
                    code("intent", &["intent"], "http://hl7.org/fhir/request-intent"),
                    date("authoredon", &["authoredOn"]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("medication", &["medicationReference"], &["Medication"]),
                ]
            }
        }
        "Appointment" => {
            const {
                &[
                    IDENTIFIER,
                    token("status", &["status"]),
                    date("date", &["start"]),
                    reference("patient", &["participant.actor"], &["Patient"]),
                    reference("actor", &["participant.actor"], PARTIES),
                ]
            }
        }
        "Claim" => {
            const {
                &[
                    IDENTIFIER,
                    token("status", &["status"]),
                    reference("patient", &["patient"], &["Patient"]),
                    reference("payee", &["payee.party"], PARTIES),
                ]
            }
        }
        "Communication" => const { &[IDENTIFIER, token("status", &["status"]), PATIENT, SUBJECT, SENDER, RECIPIENT] },
        "CommunicationRequest" => {
            const {
                &[
                    IDENTIFIER,
                    token("status", &["status"]),
                    PATIENT,
                    SUBJECT,
                    SENDER,
                    RECIPIENT,
                    reference("requester", &["requester"], PARTIES),
                ]
            }
        }
        "EpisodeOfCare" | "FamilyMemberHistory" | "NutritionOrder" => {
            const { &[IDENTIFIER, token("status", &["status"]), reference("patient", &["patient"], &["Patient"])] }
        }
        "Specimen" | "Media" | "MedicationStatement" | "RiskAssessment" => {
            const { &[IDENTIFIER, token("status", &["status"]), PATIENT, SUBJECT] }
        }
        _ => return None,
    })
}
