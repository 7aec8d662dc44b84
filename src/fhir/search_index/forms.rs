//! The parameters of questionnaires and their answers (G-153).

use super::{
    ENCOUNTER, IDENTIFIER, PARTIES, PATIENT, Parameter, SUBJECT, canonical, composite, date, reference, status, text,
    token, uri,
};

pub(super) fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "Questionnaire" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    IDENTIFIER,
                    status("http://hl7.org/fhir/publication-status"),
                    token("code", &["item.code"]),
                    token("subject-type", &["subjectType"]),
                    token("context", &["useContext.valueCodeableConcept"]),
                    token("context-type", &["useContext.code"]),
                    composite("context-type-value", &["useContext"], &[&["code"], &["valueCodeableConcept"]]),
                    date("date", &["date"]),
                    text("name", &["name"]),
                    text("publisher", &["publisher"]),
                    text("title", &["title"]),
                    text("description", &["description"]),
                ]
            }
        }
        "QuestionnaireResponse" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/questionnaire-answers-status"),
                    date("authored", &["authored"]),
                    canonical("questionnaire", &["questionnaire"]),
                    PATIENT,
                    SUBJECT,
                    ENCOUNTER,
                    reference("author", &["author"], PARTIES),
                    reference("source", &["source"], PARTIES),
                    reference("based-on", &["basedOn"], &["ServiceRequest", "CarePlan"]),
                    reference("part-of", &["partOf"], &["Observation", "Procedure"]),
                ]
            }
        }
        _ => return None,
    })
}
