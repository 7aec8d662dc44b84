//! The parameters of the referral itself: Task, ServiceRequest, and what travels with them (G-139…G-141, G-145, G-154).

use super::{
    CATEGORY, CODE, ENCOUNTER, IDENTIFIER, PARTIES, PATIENT, Parameter, SUBJECT, SUBJECTS, TYPE, code, date, defined,
    identifier, reference, status, text, token, uri,
};

/// What a Task is about.
const FOCUS: &[&str] = &["ServiceRequest", "DocumentReference", "Questionnaire", "QuestionnaireResponse", "Task"];
/// What a Task may have brought about.
const OUTCOMES: &[&str] =
    &["Procedure", "Observation", "QuestionnaireResponse", "DocumentReference", "Condition", "Goal", "CarePlan"];
const TASK_OUTPUT: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SearchParameter/Task-output-reference";
const SUPPORTING_INFO: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SearchParameter/ServiceRequest-supporting-info";
const TOPIC: &str = "http://hl7.org/fhir/uv/subscriptions-backport/SearchParameter/Subscription-topic";

pub(super) fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "Task" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/task-status"),
                    CODE,
                    code("intent", &["intent"], "http://hl7.org/fhir/task-intent"),
                    code("priority", &["priority"], "http://hl7.org/fhir/request-priority"),
                    token("business-status", &["businessStatus"]),
                    identifier("group-identifier", &["groupIdentifier"]),
                    date("authored-on", &["authoredOn"]),
                    date("modified", &["lastModified"]),
                    date("period", &["executionPeriod"]),
                    reference("owner", &["owner"], PARTIES),
                    reference("requester", &["requester"], PARTIES),
                    reference("patient", &["for"], &["Patient"]),
                    reference("subject", &["for"], SUBJECTS),
                    reference("focus", &["focus"], FOCUS),
                    reference("part-of", &["partOf"], &["Task"]),
                    reference("based-on", &["basedOn"], &["Task", "ServiceRequest", "CarePlan"]),
                    defined(TASK_OUTPUT, reference("output", &["output.valueReference"], OUTCOMES)),
                ]
            }
        }
        "ServiceRequest" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/request-status"),
                    code("intent", &["intent"], "http://hl7.org/fhir/request-intent"),
                    CATEGORY,
                    CODE,
                    code("priority", &["priority"], "http://hl7.org/fhir/request-priority"),
                    identifier("requisition", &["requisition"]),
                    date("authored", &["authoredOn"]),
                    date("occurrence", &["occurrenceDateTime", "occurrencePeriod", "occurrenceTiming"]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("requester", &["requester"], PARTIES),
                    reference("performer", &["performer"], PARTIES),
                    reference("based-on", &["basedOn"], &["ServiceRequest", "CarePlan", "MedicationRequest"]),
                    defined(
                        SUPPORTING_INFO,
                        reference(
                            "supporting-info",
                            &["supportingInfo"],
                            &["Consent", "DocumentReference", "Observation", "QuestionnaireResponse", "Condition"],
                        ),
                    ),
                ]
            }
        }
        "Procedure" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/event-status"),
                    CATEGORY,
                    CODE,
                    date("date", &["performedDateTime", "performedPeriod"]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("based-on", &["basedOn"], &["ServiceRequest", "CarePlan"]),
                    reference("performer", &["performer.actor"], PARTIES),
                    reference("reason-reference", &["reasonReference"], &["Condition", "Observation", "Procedure"]),
                ]
            }
        }
        "Consent" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/consent-state-codes"),
                    CATEGORY,
                    token("scope", &["scope"]),
                    date("date", &["dateTime"]),
                    date("period", &["provision.period"]),
                    reference("patient", &["patient"], &["Patient"]),
                    reference("organization", &["organization"], &["Organization"]),
                    reference("actor", &["provision.actor.reference"], PARTIES),
                    reference(
                        "source-reference",
                        &["sourceReference"],
                        &["DocumentReference", "Consent", "Contract", "QuestionnaireResponse"],
                    ),
                ]
            }
        }
        "DocumentReference" => {
            const {
                &[
                    identifier("identifier", &["masterIdentifier", "identifier"]),
                    status("http://hl7.org/fhir/document-reference-status"),
                    TYPE,
                    CATEGORY,
                    date("date", &["date"]),
                    date("period", &["context.period"]),
                    PATIENT,
                    SUBJECT,
                    reference("author", &["author"], PARTIES),
                    reference("related", &["context.related"], &["ServiceRequest", "Task", "Consent", "Procedure"]),
                ]
            }
        }
        "Provenance" => {
            const {
                &[
                    reference(
                        "target",
                        &["target"],
                        &[
                            "Task",
                            "ServiceRequest",
                            "Patient",
                            "Procedure",
                            "Condition",
                            "Observation",
                            "Goal",
                            "Consent",
                        ],
                    ),
                    reference("patient", &["target"], &["Patient"]),
                    reference("agent", &["agent.who"], PARTIES),
                    reference("entity", &["entity.what"], &["Task", "ServiceRequest", "DocumentReference"]),
                    date("recorded", &["recorded"]),
                ]
            }
        }
        // Rendered from the record (`app::audit_events`), never stored.
        "AuditEvent" => {
            const {
                &[
                    date("date", &["recorded"]),
                    TYPE,
                    token("subtype", &["subtype"]),
                    code("action", &["action"], "http://hl7.org/fhir/audit-event-action"),
                    code("outcome", &["outcome"], "http://hl7.org/fhir/audit-event-outcome"),
                    reference("agent", &["agent.who"], PARTIES),
                    reference("source", &["source.observer"], PARTIES),
                    reference("patient", &["entity.what"], &["Patient"]),
                    reference("entity", &["entity.what"], &["Patient", "Task", "ServiceRequest", "Consent"]),
                    uri("policy", &["agent.policy"]),
                    text("address", &["agent.network.address"]),
                ]
            }
        }
        "Subscription" => {
            const {
                &[
                    status("http://hl7.org/fhir/subscription-status"),
                    token("type", &["channel.type"]),
                    token("payload", &["channel.payload"]),
                    uri("url", &["channel.endpoint"]),
                    text("criteria", &["criteria"]),
                    // The Backport guide's (S-008): the criteria of a topic-based Subscription is its topic.
                    defined(TOPIC, uri("topic", &["criteria"])),
                    uri("filter-criteria", &["_criteria.extension.valueString"]),
                    token("payload-type", &["channel.payload"]),
                    token("custom-channel", &["channel._type.extension.valueCoding"]),
                ]
            }
        }
        _ => return None,
    })
}
