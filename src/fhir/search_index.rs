//! Which search parameters each type has, and what a resource puts into the index for them.
//!
//! One table, by groups of types in the files beside this one; read by the index, the query parser, the
//! CapabilityStatement and the subscription filters. The parameters are those of the guide's coordination platform
//! (G-139…G-154), of US Core 6.1 and 7.0 on the types we hold, and the ones public clients send. Their expressions are
//! R4's, spelt as paths: dotted element names, lists are walked; `extension[x]` is the extension whose URL ends with
//! `/x`, and `telecom[phone]` the items of that system. <https://hl7.org/fhir/R4/search.html>

mod clinical;
mod definitions;
mod directory;
mod forms;
mod people;
mod referral;
mod values;

use super::resource::{Resource, ResourceType};

pub(in crate::fhir) use values::decimal;
pub use values::{SEPARATOR, canonical_reference, fold, fold_code};

/// Raised when what a resource puts into the index changes: then what is stored is indexed anew at the next start.
pub const GENERATION: i64 = 4;

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
    /// `reference`, by a canonical URL: compared as a uri, with and without its version
    Canonical,
    /// `quantity`
    Quantity,
    /// `composite` of two tokens
    Composite,
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
            ParameterType::Canonical => "reference",
            ParameterType::Quantity => "quantity",
            ParameterType::Composite => "composite",
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
    /// The elements it looks at; of a composite, the element that holds both parts (empty: the resource).
    pub paths: &'static [&'static str],
    /// For references: the types a bare id may mean.
    pub targets: &'static [&'static str],
    /// Of a composite: the paths of its two parts.
    pub parts: &'static [&'static [&'static str]],
    /// Of a token: compared to the letter, as identifiers are. Codes are not.
    pub exact: bool,
    /// Of a token whose elements are plain codes: the system they are of without saying so.
    pub implied: Option<&'static str>,
    /// Its definition, where it is not R4's own.
    pub definition: Option<&'static str>,
}

const fn plain(name: &'static str, kind: ParameterType, paths: &'static [&'static str]) -> Parameter {
    Parameter { name, kind, paths, targets: &[], parts: &[], exact: false, implied: None, definition: None }
}
const fn token(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    plain(name, ParameterType::Token, paths)
}
const fn code(name: &'static str, paths: &'static [&'static str], system: &'static str) -> Parameter {
    Parameter { implied: Some(system), ..token(name, paths) }
}
const fn status(system: &'static str) -> Parameter {
    code("status", &["status"], system)
}
const fn identifier(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    Parameter { exact: true, ..token(name, paths) }
}
const fn date(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    plain(name, ParameterType::Date, paths)
}
const fn text(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    plain(name, ParameterType::Text, paths)
}
const fn uri(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    plain(name, ParameterType::Uri, paths)
}
const fn canonical(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    plain(name, ParameterType::Canonical, paths)
}
const fn quantity(name: &'static str, paths: &'static [&'static str]) -> Parameter {
    plain(name, ParameterType::Quantity, paths)
}
const fn reference(name: &'static str, paths: &'static [&'static str], targets: &'static [&'static str]) -> Parameter {
    Parameter { targets, ..plain(name, ParameterType::Reference, paths) }
}
const fn composite(
    name: &'static str,
    base: &'static [&'static str],
    parts: &'static [&'static [&'static str]],
) -> Parameter {
    Parameter { parts, ..plain(name, ParameterType::Composite, base) }
}
const fn defined(url: &'static str, parameter: Parameter) -> Parameter {
    Parameter { definition: Some(url), ..parameter }
}

const IDENTIFIER: Parameter = identifier("identifier", &["identifier"]);
const CATEGORY: Parameter = token("category", &["category"]);
const CODE: Parameter = token("code", &["code"]);
const TYPE: Parameter = token("type", &["type"]);
const ACTIVE: Parameter = token("active", &["active"]);
const PHONE: Parameter = token("phone", &["telecom[phone]"]);
const EMAIL: Parameter = token("email", &["telecom[email]"]);
const ADDRESS: Parameter = text(
    "address",
    &[
        "address.text",
        "address.line",
        "address.city",
        "address.district",
        "address.state",
        "address.postalCode",
        "address.country",
    ],
);
const CITY: Parameter = text("address-city", &["address.city"]);
const STATE: Parameter = text("address-state", &["address.state"]);
const POSTALCODE: Parameter = text("address-postalcode", &["address.postalCode"]);
/// `patient` of the types whose subject may be somebody else as well.
const PATIENT: Parameter = reference("patient", &["subject"], &["Patient"]);
const SUBJECT: Parameter = reference("subject", &["subject"], SUBJECTS);
const ENCOUNTER: Parameter = reference("encounter", &["encounter"], &["Encounter", "EpisodeOfCare"]);

const SUBJECTS: &[&str] = &["Patient", "Group", "Device", "Location"];
const PARTIES: &[&str] = &[
    "Organization",
    "PractitionerRole",
    "Practitioner",
    "HealthcareService",
    "Patient",
    "CareTeam",
    "RelatedPerson",
    "Device",
];

/// Parameters every type has, besides `_id` and `_lastUpdated`, which need no index of their own.
pub const EVERYWHERE: &[Parameter] = &[
    uri("_profile", &["meta.profile"]),
    token("_tag", &["meta.tag"]),
    token("_security", &["meta.security"]),
    uri("_source", &["meta.source"]),
];

/// The parameters of a type, without the ones every type has.
pub fn own_parameters(kind: ResourceType) -> &'static [Parameter] {
    let name = kind.name();
    referral::parameters(name)
        .or_else(|| clinical::parameters(name))
        .or_else(|| people::parameters(name))
        .or_else(|| directory::parameters(name))
        .or_else(|| forms::parameters(name))
        .or_else(|| definitions::parameters(name))
        .unwrap_or(const { &[IDENTIFIER] })
}

/// All parameters of a type but `_id` and `_lastUpdated`.
pub fn parameters(kind: ResourceType) -> impl Iterator<Item = &'static Parameter> {
    own_parameters(kind).iter().chain(EVERYWHERE)
}

/// The parameter of this name.
pub fn parameter(kind: ResourceType, name: &str) -> Option<&'static Parameter> {
    parameters(kind).find(|parameter| parameter.name == name)
}

/// References to those who have to do with very many resources. Of a patient or a request few resources speak.
const WITH_MANY: [&str; 11] = [
    "owner",
    "requester",
    "performer",
    "organization",
    "author",
    "agent",
    "actor",
    "participant",
    "managing-entity",
    "payor",
    "location",
];

/// Whether a reference of this name is to somebody whom very many resources name.
pub fn has_many(name: &str) -> bool {
    WITH_MANY.contains(&name)
}

/// Whether the index keeps the rows of a parameter in the order of pages: references to those whom many resources name,
/// and the status of what is polled by it. What few resources say is listed and sorted.
pub fn is_ordered(kind: ResourceType, name: &str) -> bool {
    let party = |parameter: &Parameter| parameter.kind == ParameterType::Reference && has_many(name);
    parameter(kind, name).is_some_and(party) || (kind == ResourceType::TASK && name == "status")
}

/// Codes and uris that half of all resources have.
const OF_MOST: [&str; 5] = ["_profile", "intent", "priority", "gender", "active"];

/// Whether the index finds a parameter's rows by their value. Dates are found by their time; texts are compared as they
/// begin, one by one; of what half of all resources have, none is found sooner so.
pub fn is_found(kind: ResourceType, name: &str) -> bool {
    parameter(kind, name).is_some_and(|parameter| match parameter.kind {
        ParameterType::Date | ParameterType::Quantity | ParameterType::Text => false,
        ParameterType::Token | ParameterType::Uri => !OF_MOST.contains(&name),
        ParameterType::Reference | ParameterType::Canonical | ParameterType::Composite => true,
    })
}

/// The parties whose rows carry the status beside them: `owner=…&status=…` is the commonest question there is, and of
/// all Tasks a party ever had few are open.
pub fn carries_status(kind: ResourceType, name: &str) -> bool {
    kind == ResourceType::TASK && ["owner", "requester"].contains(&name)
}

/// The number that the index knows a type's parameter by: a hash of their names (FNV-1a) of 23 bits, for it must be the same
/// to every version of this program that works on one database. No two parameters share one.
pub fn number(kind: ResourceType, name: &str) -> i64 {
    let text = kind.name().bytes().chain([b'.']).chain(name.bytes());
    let hash = text.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    i64::from((hash >> 23 ^ hash) & 0x7f_ffff)
}

/// One row of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The parameter.
    pub parameter: &'static str,
    /// Code, reference, folded text, or uri; empty for dates.
    pub value: String,
    /// The token's system, the text as it was written, the unit of a quantity; of a Task's parties, its status.
    pub system: String,
    /// What a token says to people, folded, each text after a line break.
    pub text: String,
    /// Dates: start of the span, microseconds, inclusive. Quantities: millionths.
    pub low: i64,
    /// Dates: end of the span, exclusive.
    pub high: i64,
}

/// What a resource puts into the index. References to our own base are indexed as relative.
pub fn rows(resource: &Resource, own: &str) -> Vec<Row> {
    let kind = resource.kind();
    let mut found: Vec<Row> = Vec::new();
    for parameter in parameters(kind) {
        values::index(parameter, resource.elements(), own, &mut found);
    }
    let status = found.iter().find(|row| row.parameter == "status").map(|row| row.value.clone()).unwrap_or_default();
    let mut kept: Vec<Row> = Vec::with_capacity(found.len());
    for mut row in found {
        if carries_status(kind, row.parameter) && !row.value.starts_with(SEPARATOR) {
            row.system.clone_from(&status);
        }
        if !kept.contains(&row) {
            kept.push(row);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OWN: &str = "https://hub/fhir";

    fn indexed(value: Value, name: &str) -> Vec<(String, String)> {
        let resource = Resource::from_value(value).unwrap();
        let rows = rows(&resource, OWN).into_iter().filter(|row| row.parameter == name);
        rows.map(|row| (row.system, row.value)).collect()
    }

    // P20
    #[test]
    fn no_two_parameters_share_a_number_and_none_ever_changes() {
        let mut known = std::collections::HashMap::new();
        for kind in ResourceType::all() {
            for name in parameters(kind).map(|parameter| parameter.name) {
                let other = known.insert(number(kind, name), (kind, name));
                assert_eq!(other, None, "{kind}.{name} needs another name, or all numbers another basis");
            }
        }
        assert_eq!(number(ResourceType::TASK, "owner"), 8_169_406, "what is stored could not be found any more");
    }

    fn span(value: Value, name: &str) -> Option<(i64, i64)> {
        let resource = Resource::from_value(value).unwrap();
        rows(&resource, OWN).into_iter().find(|row| row.parameter == name).map(|row| (row.low, row.high))
    }

    #[test]
    fn every_kind_of_token_is_indexed() {
        let task = json!({"resourceType":"Task","status":"requested","identifier":[{"system":"s","value":"v"},{"value":"W"}],
            "code":{"coding":[{"system":"t","code":"Fulfill"},{"code":"x"}]},"businessStatus":{"text":"Waiting"}});
        assert_eq!(indexed(task.clone(), "status"), [("".into(), "requested".into())]);
        assert_eq!(indexed(task.clone(), "identifier"), [("s".into(), "v".into()), ("".into(), "W".into())]);
        assert_eq!(indexed(task.clone(), "code"), [("t".into(), "fulfill".into()), ("".into(), "x".into())]);
        assert_eq!(indexed(task, "business-status"), [("".into(), "".into())]);
        let service = json!({"resourceType":"HealthcareService","active":true,
            "category":[{"coding":[{"code":"a"}]},{"coding":[{"code":"b"}]}]});
        assert_eq!(indexed(service.clone(), "active"), [("".into(), "true".into())]);
        assert_eq!(indexed(service, "service-category").len(), 2);
    }

    #[test]
    fn references_to_us_are_relative_and_others_as_they_came() {
        let task = json!({"resourceType":"Task","status":"draft","owner":{"reference":"https://hub/fhir/Organization/1"},
            "requester":{"identifier":{"system":"s","value":"V"}},"for":{"reference":"Group/1"},
            "output":[{"valueReference":{"reference":"Procedure/2/_history/1"}},
                      {"valueReference":{"reference":"https://cbo/fhir/Procedure/3"}},{"valueString":"x"}]});
        assert_eq!(indexed(task.clone(), "owner"), [("draft".into(), "Organization/1".into())]);
        assert_eq!(indexed(task.clone(), "requester"), [("s".into(), format!("{SEPARATOR}V"))]);
        assert_eq!(
            indexed(task.clone(), "output"),
            [("".into(), "Procedure/2".into()), ("".into(), "https://cbo/fhir/Procedure/3".into())]
        );
        assert!(indexed(task.clone(), "patient").is_empty(), "a group is no patient");
        assert_eq!(indexed(task, "subject"), [("".into(), "Group/1".into())]);
    }

    //
    #[test]
    fn periods_and_timings_have_the_ends_they_say() {
        let day = 86_400_000_000;
        let first = 1_767_225_600_000_000; // 2026-01-01
        let procedure = |period| json!({"resourceType":"Procedure","performedPeriod":period});
        let asked = |timing| json!({"resourceType":"ServiceRequest","occurrenceTiming":timing});
        for (value, name, expected) in [
            (procedure(json!({"start":"2026-01-01"})), "date", Some((first, i64::MAX))),
            (procedure(json!({"end":"2026-01-01"})), "date", Some((i64::MIN, first + day))),
            (procedure(json!({"start":"2026-01-01","end":"9999-12-31"})), "date", Some((first, i64::MAX))),
            (procedure(json!({})), "date", None),
            (procedure(json!({"start":"soon"})), "date", None),
            (
                asked(json!({"event":["2026-01-03","2026-01-01T00:00:00Z"]})),
                "occurrence",
                Some((first, first + 3 * day)),
            ),
            (asked(json!({"repeat":{"boundsPeriod":{"start":"2026-01-01"}}})), "occurrence", Some((first, i64::MAX))),
            (asked(json!({"repeat":{"frequency":2}})), "occurrence", Some((i64::MIN, i64::MAX))),
            (json!({"resourceType":"Task","authoredOn":"2026-01-01"}), "authored-on", Some((first, first + day))),
            // An end before the start is the sender's slip: found at either.
            (procedure(json!({"start":"2026-01-02","end":"2026-01-01"})), "date", Some((first, first + 2 * day))),
        ] {
            assert_eq!(span(value.clone(), name), expected, "{value}");
        }
    }

    #[test]
    fn texts_keep_what_was_written_beside_what_is_compared() {
        let patient = json!({"resourceType":"Patient","name":[{"family":"Ångström","given":["Zoë"]}],
            "telecom":[{"system":"phone","value":"555"},{"system":"email","value":"A@b"}],
            "address":[{"line":["1 Main St"],"city":"Łódź"}],
            "identifier":[{"type":{"coding":[{"system":"t","code":"MR"}]},"system":"s","value":"V1"}]});
        assert_eq!(
            indexed(patient.clone(), "name"),
            [("Ångström".into(), "angstrom".into()), ("Zoë".into(), "zoe".into())]
        );
        assert_eq!(indexed(patient.clone(), "address-city"), [("Łódź".into(), "lodz".into())]);
        assert_eq!(indexed(patient.clone(), "address").len(), 2);
        assert_eq!(indexed(patient.clone(), "phone"), [("phone".into(), "555".into())]);
        assert_eq!(indexed(patient.clone(), "email"), [("email".into(), "a@b".into())]);
        assert_eq!(
            indexed(patient, "identifier"),
            [("s".into(), "V1".into()), (format!("{SEPARATOR}t"), format!("{SEPARATOR}mr{SEPARATOR}V1"))]
        );
    }

    #[test]
    fn composites_pair_the_parts_of_one_element() {
        let group = json!({"resourceType":"Group","characteristic":[
            {"code":{"coding":[{"system":"s","code":"A"}]},"valueCodeableConcept":{"coding":[{"system":"t","code":"b"}]}},
            {"code":{"coding":[{"code":"c"}]},"valueBoolean":true}]});
        assert_eq!(
            indexed(group, "characteristic-value"),
            [
                (format!("s{SEPARATOR}t"), format!("a{SEPARATOR}b")),
                (format!("{SEPARATOR}"), format!("c{SEPARATOR}true"))
            ]
        );
    }

    #[test]
    fn parameter_names_are_unique_per_type_and_their_targets_are_types() {
        for kind in ResourceType::all() {
            let mut names: Vec<_> = parameters(kind).map(|parameter| parameter.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{kind}");
            for parameter in parameters(kind) {
                let held = parameter.targets.iter().all(|target| ResourceType::parse(target).is_some());
                assert!(held, "{kind}.{}", parameter.name);
                assert_eq!(parameter.kind == ParameterType::Composite, parameter.parts.len() == 2, "{kind}");
                assert_eq!(parameter.kind == ParameterType::Reference, !parameter.targets.is_empty(), "{kind}");
            }
        }
    }
}
