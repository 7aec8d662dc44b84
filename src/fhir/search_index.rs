//! Which search parameters each type has, and what a resource puts into the index for them.
//!
//! One table, read by the index, the query parser, the CapabilityStatement and the subscription filters. Paths are
//! dotted element names; lists are walked. The parameters are those of the guide's coordination platform (G-139…
//! G-154) and the ones public clients send (`reference-clients`). <https://hl7.org/fhir/R4/search.html>

use serde_json::Value;

use super::reference::Reference;
use super::resource::{Resource, ResourceType};
use crate::time::{Timestamp, span_of};

/// The parameter types of R4 that we serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    /// `token`
    Token,
    /// `reference`
    Reference,
    /// `date`
    Date,
    /// `string`
    Text,
    /// `uri`
    Uri,
}

impl ParameterType {
    /// The code the CapabilityStatement uses.
    pub fn code(self) -> &'static str {
        match self {
            ParameterType::Token => "token",
            ParameterType::Reference => "reference",
            ParameterType::Date => "date",
            ParameterType::Text => "string",
            ParameterType::Uri => "uri",
        }
    }
}

/// One search parameter of one type.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in a query.
    pub name: &'static str,
    /// Its type.
    pub kind: ParameterType,
    /// The elements it looks at.
    pub paths: &'static [&'static str],
    /// For references: the types a bare id may mean.
    pub targets: &'static [&'static str],
}

const fn token(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    Parameter { name, kind: ParameterType::Token, paths, targets: &[] }
}
const fn date(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    Parameter { name, kind: ParameterType::Date, paths, targets: &[] }
}
const fn text(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    Parameter { name, kind: ParameterType::Text, paths, targets: &[] }
}
const fn uri(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    Parameter { name, kind: ParameterType::Uri, paths, targets: &[] }
}
const fn reference(name: &'static str, paths: &'static [&'static str], targets: &'static [&'static str]) -> Parameter {
    Parameter { name, kind: ParameterType::Reference, paths, targets }
}

const PATIENT: &[&str] = &["Patient"];
const SUBJECT: &[&str] = &["Patient", "Group", "RelatedPerson", "Location"];
const PARTY: &[&str] = &[
    "Organization",
    "PractitionerRole",
    "Practitioner",
    "HealthcareService",
    "Patient",
    "CareTeam",
    "RelatedPerson",
    "Device",
];
const OUTCOME: &[&str] = &["Procedure", "Observation", "QuestionnaireResponse", "Condition", "Goal", "CarePlan"];

/// Parameters every type has, besides `_id` and `_lastUpdated`, which need no index of their own.
const COMMON: &[Parameter] = &[
    uri("_profile", &["meta.profile"]),
    token("_tag", &["meta.tag"]),
    token("_security", &["meta.security"]),
    uri("_source", &["meta.source"]),
];

const IDENTIFIED: &[Parameter] = &[token("identifier", &["identifier"])];

/// The parameters of a type, without the common ones.
pub fn own_parameters(kind: ResourceType) -> &'static [Parameter] {
    match kind.name() {
        "Task" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    token("code", &["code"]),
                    token("intent", &["intent"]),
                    token("priority", &["priority"]),
                    token("business-status", &["businessStatus"]),
                    token("group-identifier", &["groupIdentifier"]),
                    date("authored-on", &["authoredOn"]),
                    date("modified", &["lastModified"]),
                    reference("owner", &["owner"], PARTY),
                    reference("requester", &["requester"], PARTY),
                    reference("patient", &["for"], PATIENT),
                    reference("subject", &["for"], SUBJECT),
                    reference("focus", &["focus"], &["ServiceRequest", "DocumentReference", "Questionnaire"]),
                    reference("part-of", &["partOf"], &["Task"]),
                    reference("based-on", &["basedOn"], &["Task", "ServiceRequest"]),
                    reference("output", &["output.valueReference"], OUTCOME),
                ]
            }
        }
        "ServiceRequest" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    token("intent", &["intent"]),
                    token("category", &["category"]),
                    token("code", &["code"]),
                    token("priority", &["priority"]),
                    token("requisition", &["requisition"]),
                    date("authored", &["authoredOn"]),
                    date("occurrence", &["occurrenceDateTime", "occurrencePeriod"]),
                    reference("patient", &["subject"], PATIENT),
                    reference("subject", &["subject"], SUBJECT),
                    reference("requester", &["requester"], PARTY),
                    reference("performer", &["performer"], PARTY),
                    reference("based-on", &["basedOn"], &["ServiceRequest", "CarePlan"]),
                    reference("supporting-info", &["supportingInfo"], &["Consent", "DocumentReference", "Observation"]),
                ]
            }
        }
        "Procedure" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    token("category", &["category"]),
                    token("code", &["code"]),
                    date("date", &["performedDateTime", "performedPeriod"]),
                    reference("patient", &["subject"], PATIENT),
                    reference("subject", &["subject"], SUBJECT),
                    reference("based-on", &["basedOn"], &["ServiceRequest", "CarePlan"]),
                    reference("performer", &["performer.actor"], PARTY),
                ]
            }
        }
        "Condition" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("category", &["category"]),
                    token("clinical-status", &["clinicalStatus"]),
                    token("verification-status", &["verificationStatus"]),
                    token("code", &["code"]),
                    reference("patient", &["subject"], PATIENT),
                    reference("subject", &["subject"], SUBJECT),
                ]
            }
        }
        "Observation" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("category", &["category"]),
                    token("status", &["status"]),
                    token("code", &["code"]),
                    date("date", &["effectiveDateTime", "effectivePeriod", "effectiveInstant"]),
                    reference("patient", &["subject"], PATIENT),
                    reference("subject", &["subject"], SUBJECT),
                    reference("derived-from", &["derivedFrom"], &["QuestionnaireResponse", "Observation"]),
                ]
            }
        }
        "Goal" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("category", &["category"]),
                    token("achievement-status", &["achievementStatus"]),
                    token("lifecycle-status", &["lifecycleStatus"]),
                    date("target-date", &["target.dueDate"]),
                    reference("patient", &["subject"], PATIENT),
                    reference("subject", &["subject"], SUBJECT),
                ]
            }
        }
        "Consent" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    token("category", &["category"]),
                    date("date", &["dateTime"]),
                    reference("patient", &["patient"], PATIENT),
                    reference(
                        "source-reference",
                        &["sourceReference"],
                        &["DocumentReference", "Consent", "Contract", "QuestionnaireResponse"],
                    ),
                ]
            }
        }
        "DocumentReference" | "Device" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    token("type", &["type"]),
                    reference("patient", &["subject", "patient"], PATIENT),
                ]
            }
        }
        "CareTeam" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    reference("patient", &["subject"], PATIENT),
                ]
            }
        }
        "Patient" | "RelatedPerson" | "Practitioner" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    text("name", &["name.text", "name.family", "name.given"]),
                    text("family", &["name.family"]),
                    date("birthdate", &["birthDate"]),
                    reference("patient", &["patient"], PATIENT),
                ]
            }
        }
        "PractitionerRole" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("role", &["code"]),
                    reference("organization", &["organization"], &["Organization"]),
                    reference("practitioner", &["practitioner"], &["Practitioner"]),
                ]
            }
        }
        "Organization" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("type", &["type"]),
                    token("active", &["active"]),
                    text("name", &["name", "alias"]),
                    reference("partof", &["partOf"], &["Organization"]),
                ]
            }
        }
        "HealthcareService" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("active", &["active"]),
                    token("service-category", &["category"]),
                    token("service-type", &["type"]),
                    token("program", &["program"]),
                    text("name", &["name"]),
                    reference("organization", &["providedBy"], &["Organization"]),
                    reference("location", &["location"], &["Location"]),
                ]
            }
        }
        "Location" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    text("name", &["name", "alias"]),
                    reference("organization", &["managingOrganization"], &["Organization"]),
                ]
            }
        }
        "Group" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("characteristic", &["characteristic.code"]),
                    reference("member", &["member.entity"], PARTY),
                    reference("managing-entity", &["managingEntity"], PARTY),
                ]
            }
        }
        "Questionnaire" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    token("code", &["item.code"]),
                    token("subject-type", &["subjectType"]),
                    text("publisher", &["publisher"]),
                    text("title", &["title"]),
                ]
            }
        }
        "QuestionnaireResponse" => {
            const {
                &[
                    token("identifier", &["identifier"]),
                    token("status", &["status"]),
                    date("authored", &["authored"]),
                    uri("questionnaire", &["questionnaire"]),
                    reference("patient", &["subject"], PATIENT),
                    reference("subject", &["subject"], SUBJECT),
                    reference("author", &["author"], PARTY),
                ]
            }
        }
        "Subscription" => {
            const {
                &[
                    token("status", &["status"]),
                    token("type", &["channel.type"]),
                    uri("url", &["channel.endpoint"]),
                    uri("criteria", &["criteria"]),
                    token("payload", &["channel.payload"]),
                    // The Backport guide's (S-008).
                    uri("topic", &["criteria"]),
                    uri("filter-criteria", &["_criteria.extension.valueString"]),
                    token("payload-type", &["channel.payload"]),
                    token("custom-channel", &["channel._type.extension.valueCoding"]),
                ]
            }
        }
        "Provenance" => {
            const {
                &[
                    reference("target", &["target"], &["Task", "ServiceRequest", "Patient"]),
                    reference("agent", &["agent.who"], PARTY),
                    date("recorded", &["recorded"]),
                ]
            }
        }
        "CodeSystem" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    text("name", &["name"]),
                    text("title", &["title"]),
                    token("status", &["status"]),
                    token("code", &["concept.code"]),
                    uri("system", &["url"]),
                ]
            }
        }
        "ValueSet" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    text("name", &["name"]),
                    text("title", &["title"]),
                    token("status", &["status"]),
                    uri("reference", &["compose.include.system"]),
                ]
            }
        }
        "ConceptMap" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    text("name", &["name"]),
                    text("title", &["title"]),
                    token("status", &["status"]),
                    uri("source-system", &["group.source"]),
                    uri("target-system", &["group.target"]),
                    token("source-code", &["group.element.code"]),
                ]
            }
        }
        "StructureDefinition" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    text("name", &["name"]),
                    text("title", &["title"]),
                    token("status", &["status"]),
                    uri("type", &["type"]),
                    token("kind", &["kind"]),
                    token("derivation", &["derivation"]),
                ]
            }
        }
        "SearchParameter" | "OperationDefinition" => {
            const {
                &[
                    uri("url", &["url"]),
                    token("version", &["version"]),
                    text("name", &["name"]),
                    token("status", &["status"]),
                    token("code", &["code"]),
                    token("base", &["base", "resource"]),
                ]
            }
        }
        _ => IDENTIFIED,
    }
}

/// All parameters of a type but `_id` and `_lastUpdated`.
pub fn parameters(kind: ResourceType) -> impl Iterator<Item = &'static Parameter> {
    own_parameters(kind).iter().chain(COMMON)
}

/// The parameter of this name.
pub fn parameter(kind: ResourceType, name: &str) -> Option<&'static Parameter> {
    parameters(kind).find(|parameter| parameter.name == name)
}

/// One row of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The parameter.
    pub parameter: &'static str,
    /// Code, reference, folded text, or uri; empty for dates.
    pub value: String,
    /// The token's system; empty when it has none.
    pub system: String,
    /// Dates: start of the span, microseconds, inclusive.
    pub low: i64,
    /// Dates: end of the span, exclusive.
    pub high: i64,
}

/// What a resource puts into the index. References to our own base are indexed as relative.
pub fn rows(resource: &Resource, own: &str) -> Vec<Row> {
    let mut found: Vec<Row> = Vec::new();
    for parameter in parameters(resource.kind()) {
        for path in parameter.paths {
            let mut values = Vec::new();
            walk(resource.elements().get(first(path)), rest(path), &mut values);
            for value in values {
                index_value(parameter, value, own, &mut found);
            }
        }
    }
    let mut kept: Vec<Row> = Vec::with_capacity(found.len());
    for row in found {
        if !kept.contains(&row) {
            kept.push(row);
        }
    }
    kept
}

fn first(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}
fn rest(path: &str) -> &str {
    path.split_once('.').map_or("", |(_, rest)| rest)
}

fn walk<'a>(value: Option<&'a Value>, path: &str, found: &mut Vec<&'a Value>) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => items.iter().for_each(|item| walk(Some(item), path, found)),
        Some(value) if path.is_empty() => found.push(value),
        Some(value) => walk(value.get(first(path)), rest(path), found),
    }
}

fn index_value(parameter: &Parameter, value: &Value, own: &str, found: &mut Vec<Row>) {
    let mut add = |value: String, system: &str, low: i64, high: i64| {
        found.push(Row { parameter: parameter.name, value, system: system.to_string(), low, high });
    };
    match parameter.kind {
        ParameterType::Token => token_values(value, &mut |system, code| add(code.to_string(), system, 0, 0)),
        ParameterType::Reference => {
            if let Some(text) = value.get("reference").and_then(Value::as_str) {
                add(canonical_reference(text, own), "", 0, 0);
            }
        }
        ParameterType::Date => {
            let text = |name| value.get(name).and_then(Value::as_str).and_then(span_of);
            let span = match value {
                Value::String(text) => span_of(text),
                _ => match (text("start"), text("end")) {
                    (None, None) => None,
                    (start, end) => Some((
                        start.map_or(Timestamp(i64::MIN), |span| span.0),
                        end.map_or(Timestamp(i64::MAX), |span| span.1),
                    )),
                },
            };
            if let Some((low, high)) = span {
                add(String::new(), "", low.0, high.0);
            }
        }
        ParameterType::Text => {
            if let Some(text) = value.as_str() {
                add(fold(text), "", 0, 0);
            }
        }
        ParameterType::Uri => {
            if let Some(text) = value.as_str() {
                add(text.to_string(), "", 0, 0);
            }
        }
    }
}

fn token_values(value: &Value, add: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::String(code) => add("", code),
        Value::Bool(flag) => add("", if *flag { "true" } else { "false" }),
        Value::Object(map) => {
            let text = |name: &str| map.get(name).and_then(Value::as_str);
            if let Some(codings) = map.get("coding").and_then(Value::as_array) {
                codings.iter().for_each(|coding| token_values(coding, add));
            } else if let Some(code) = text("code").or_else(|| text("value")) {
                add(text("system").unwrap_or(""), code);
            }
        }
        _ => {}
    }
}

/// A reference in the form the index holds: `Type/id` when it is ours, the URL without version when not.
pub fn canonical_reference(text: &str, own: &str) -> String {
    match Reference::parse(text, own) {
        Reference::Local(key) => key.to_string(),
        Reference::Remote { base, key } => format!("{base}/{key}"),
        Reference::Contained(_) | Reference::Urn(_) | Reference::Other(_) => text.to_string(),
    }
}

/// Text as string search compares it: without case.
pub fn fold(text: &str) -> String {
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OWN: &str = "https://hub/fhir";

    fn indexed(value: Value, name: &str) -> Vec<(String, String)> {
        let resource = Resource::from_value(value).unwrap();
        let rows = rows(&resource, OWN).into_iter().filter(|row| row.parameter == name);
        rows.map(|row| (row.system, row.value)).collect()
    }

    #[test]
    fn every_kind_of_token_is_indexed() {
        let task = json!({"resourceType":"Task","status":"requested","identifier":[{"system":"s","value":"v"},{"value":"w"}],
            "code":{"coding":[{"system":"t","code":"fulfill"},{"code":"x"}]}});
        assert_eq!(indexed(task.clone(), "status"), [("".into(), "requested".into())]);
        assert_eq!(indexed(task.clone(), "identifier"), [("s".into(), "v".into()), ("".into(), "w".into())]);
        assert_eq!(indexed(task, "code"), [("t".into(), "fulfill".into()), ("".into(), "x".into())]);
        let service = json!({"resourceType":"HealthcareService","active":true,
            "category":[{"coding":[{"code":"a"}]},{"coding":[{"code":"b"}]}]});
        assert_eq!(indexed(service.clone(), "active"), [("".into(), "true".into())]);
        assert_eq!(indexed(service, "service-category").len(), 2);
    }

    #[test]
    fn references_to_us_are_relative_and_others_as_they_came() {
        let task = json!({"resourceType":"Task","owner":{"reference":"https://hub/fhir/Organization/1"},
            "output":[{"valueReference":{"reference":"Procedure/2/_history/1"}},
                      {"valueReference":{"reference":"https://cbo/fhir/Procedure/3"}},{"valueString":"x"}]});
        assert_eq!(indexed(task.clone(), "owner"), [("".into(), "Organization/1".into())]);
        assert_eq!(
            indexed(task, "output"),
            [("".into(), "Procedure/2".into()), ("".into(), "https://cbo/fhir/Procedure/3".into())]
        );
    }

    #[test]
    fn open_periods_have_no_end() {
        let procedure =
            Resource::from_value(json!({"resourceType":"Procedure","performedPeriod":{"start":"2026-01-01"}})).unwrap();
        let rows = rows(&procedure, OWN);
        let row = rows.iter().find(|row| row.parameter == "date").unwrap();
        assert_eq!((row.low, row.high), (1_767_225_600_000_000, i64::MAX));
    }

    #[test]
    fn parameter_names_are_unique_per_type() {
        for name in ["Task", "ServiceRequest", "Procedure", "Subscription", "Encounter"] {
            let kind = ResourceType::parse(name).unwrap();
            let mut names: Vec<_> = parameters(kind).map(|parameter| parameter.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{name}");
        }
    }
}
