//! What a resource must satisfy before it is stored: shape, required elements, codes, and the guide's rules for
//! referral Tasks, ServiceRequests and Procedures. All faults at once, each with its FHIRPath.
//!
//! Wrong JSON types and unknown elements are [`Kind::Malformed`]; the rest is [`Kind::Invalid`] (design D16b). Leaves
//! out the other profiles and terminology, which come with the definitions. Rules are named by their ids in
//! `conformance/requirements`.

use serde_json::{Map, Value};

use super::resource::Resource;
use super::views::{SDOHCC, TASK_CODE, Task, has_coding, reference_of};
use crate::error::{Error, Issue, Kind};
use crate::id;
use crate::time::span_of;

/// The JSON form of an element.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Text,
    Flag,
    Object,
    Objects,
    Texts,
}
use Form::{Flag, Object, Objects, Text, Texts};

const RESOURCE: &[(&str, Form)] = &[
    ("resourceType", Text),
    ("id", Text),
    ("meta", Object),
    ("implicitRules", Text),
    ("language", Text),
    ("text", Object),
    ("contained", Objects),
    ("extension", Objects),
    ("modifierExtension", Objects),
    ("identifier", Objects),
];

/// Top-level elements of the types whose faults are refused (R4 4.0.1 StructureDefinitions).
fn elements(kind: &str) -> Option<&'static [(&'static str, Form)]> {
    Some(match kind {
        "Task" => &[
            ("instantiatesCanonical", Text),
            ("instantiatesUri", Text),
            ("basedOn", Objects),
            ("groupIdentifier", Object),
            ("partOf", Objects),
            ("status", Text),
            ("statusReason", Object),
            ("businessStatus", Object),
            ("intent", Text),
            ("priority", Text),
            ("code", Object),
            ("description", Text),
            ("focus", Object),
            ("for", Object),
            ("encounter", Object),
            ("executionPeriod", Object),
            ("authoredOn", Text),
            ("lastModified", Text),
            ("requester", Object),
            ("performerType", Objects),
            ("owner", Object),
            ("location", Object),
            ("reasonCode", Object),
            ("reasonReference", Object),
            ("insurance", Objects),
            ("note", Objects),
            ("relevantHistory", Objects),
            ("restriction", Object),
            ("input", Objects),
            ("output", Objects),
        ],
        "ServiceRequest" => &[
            ("instantiatesCanonical", Texts),
            ("instantiatesUri", Texts),
            ("basedOn", Objects),
            ("replaces", Objects),
            ("requisition", Object),
            ("status", Text),
            ("intent", Text),
            ("category", Objects),
            ("priority", Text),
            ("doNotPerform", Flag),
            ("code", Object),
            ("orderDetail", Objects),
            ("quantityQuantity", Object),
            ("quantityRatio", Object),
            ("quantityRange", Object),
            ("subject", Object),
            ("encounter", Object),
            ("occurrenceDateTime", Text),
            ("occurrencePeriod", Object),
            ("occurrenceTiming", Object),
            ("asNeededBoolean", Flag),
            ("asNeededCodeableConcept", Object),
            ("authoredOn", Text),
            ("requester", Object),
            ("performerType", Object),
            ("performer", Objects),
            ("locationCode", Objects),
            ("locationReference", Objects),
            ("reasonCode", Objects),
            ("reasonReference", Objects),
            ("insurance", Objects),
            ("supportingInfo", Objects),
            ("specimen", Objects),
            ("bodySite", Objects),
            ("note", Objects),
            ("patientInstruction", Text),
            ("relevantHistory", Objects),
        ],
        "Procedure" => &[
            ("instantiatesCanonical", Texts),
            ("instantiatesUri", Texts),
            ("basedOn", Objects),
            ("partOf", Objects),
            ("status", Text),
            ("statusReason", Object),
            ("category", Object),
            ("code", Object),
            ("subject", Object),
            ("encounter", Object),
            ("performedDateTime", Text),
            ("performedPeriod", Object),
            ("performedString", Text),
            ("performedAge", Object),
            ("performedRange", Object),
            ("recorder", Object),
            ("asserter", Object),
            ("performer", Objects),
            ("location", Object),
            ("reasonCode", Objects),
            ("reasonReference", Objects),
            ("bodySite", Objects),
            ("outcome", Object),
            ("report", Objects),
            ("complication", Objects),
            ("complicationDetail", Objects),
            ("followUp", Objects),
            ("note", Objects),
            ("focalDevice", Objects),
            ("usedReference", Objects),
            ("usedCode", Objects),
        ],
        _ => return None,
    })
}

const TASK_STATUS: &[&str] = &[
    "draft",
    "requested",
    "received",
    "accepted",
    "rejected",
    "ready",
    "cancelled",
    "in-progress",
    "on-hold",
    "failed",
    "completed",
    "entered-in-error",
];
const REQUEST_STATUS: &[&str] = &["draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown"];
const REQUEST_INTENT: &[&str] = &[
    "proposal",
    "plan",
    "directive",
    "order",
    "original-order",
    "reflex-order",
    "filler-order",
    "instance-order",
    "option",
];
const EVENT_STATUS: &[&str] =
    &["preparation", "in-progress", "not-done", "on-hold", "stopped", "completed", "entered-in-error", "unknown"];
const PRIORITY: &[&str] = &["routine", "urgent", "asap", "stat"];

/// Checks a resource that a client wants stored.
pub fn check(resource: &Resource) -> Result<(), Error> {
    let name = resource.kind().name();
    let mut malformed = Faults::new(name);
    if let Some(own) = elements(name) {
        forms(resource.elements(), own, &mut malformed);
    }
    if let Some(error) = Error::from_issues(Kind::Malformed, malformed.issues) {
        return Err(error);
    }
    let mut faults = Faults::new(name);
    if resource.id().is_some_and(|text| !id::is_valid(text)) {
        faults.add("value", "id", "An id is 1 to 64 letters, digits, “-” and “.”.");
    }
    empties(&Value::Object(resource.elements().clone()), name, &mut faults.issues);
    match name {
        "Task" => task(Task(resource), &mut faults),
        "ServiceRequest" => service_request(resource, &mut faults),
        "Procedure" => procedure(resource, &mut faults),
        _ => {}
    }
    Error::from_issues(Kind::Invalid, faults.issues).map_or(Ok(()), Err)
}

/// Longest reference, in bytes: what both databases can index.
const LONGEST_REFERENCE: usize = 1_000;

struct Faults {
    name: &'static str,
    issues: Vec<Issue>,
}

impl Faults {
    fn new(name: &'static str) -> Self {
        Faults { name, issues: Vec::new() }
    }
    fn add(&mut self, code: &'static str, element: &str, text: impl Into<String>) {
        let expression = Some(format!("{}.{element}", self.name));
        self.issues.push(Issue { code, text: text.into(), expression });
    }
    fn required(&mut self, resource: &Resource, element: &str) -> bool {
        let there = resource.at(element).is_some() || resource.at(&format!("_{element}")).is_some();
        if !there {
            self.add("required", element, format!("{}.{element} is required.", self.name));
        }
        there
    }
    fn code_of(&mut self, resource: &Resource, element: &str, known: &[&str]) {
        if resource.text_at(element).is_some_and(|code| !known.contains(&code)) {
            self.add("code-invalid", element, format!("{}.{element} is one of: {}.", self.name, known.join(", ")));
        }
    }
    fn date(&mut self, resource: &Resource, element: &str) {
        if resource.text_at(element).is_some_and(|text| span_of(text).is_none()) {
            self.add("value", element, "This is no FHIR date or dateTime, such as 2026-11-21 or 2026-11-21T10:00:00Z.");
        }
    }
    /// A Reference that is there must say something, and may only point at these types.
    fn reference(&mut self, value: Option<&Value>, element: &str, types: &[&str]) {
        let Some(value) = value else { return };
        let Some(text) = reference_of(Some(value)) else {
            if value.get("identifier").is_none() && value.get("display").is_none() {
                self.add("value", element, "A Reference has a reference, an identifier or a display.");
            }
            return;
        };
        if text.ends_with('/') || text.is_empty() {
            self.add(
                "value",
                element,
                "This reference has no id behind the type; leave the element out if there is none.",
            );
        }
        let kind = text.split("/_history/").next().and_then(|bare| bare.rsplit('/').nth(1));
        if !types.is_empty()
            && kind.is_some_and(|kind| crate::fhir::ResourceType::parse(kind).is_some() && !types.contains(&kind))
        {
            self.add("value", element, format!("This reference may point at: {}.", types.join(", ")));
        }
    }
}

fn forms(body: &Map<String, Value>, own: &[(&str, Form)], faults: &mut Faults) {
    for (name, value) in body {
        let bare = name.strip_prefix('_').unwrap_or(name);
        let Some((_, form)) = RESOURCE.iter().chain(own).find(|(known, _)| *known == bare) else {
            let shown: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
            let text =
                format!("{} has no element “{shown}” in R4; send data of your own as an extension.", faults.name);
            faults.add("structure", &shown, text);
            continue;
        };
        let fits = match (name.starts_with('_'), form, value) {
            (true, Text | Flag, Value::Object(_)) | (true, Texts, Value::Array(_)) => true,
            (true, ..) => false,
            (false, Text, Value::String(_)) | (false, Flag, Value::Bool(_)) | (false, Object, Value::Object(_)) => true,
            (false, Objects, Value::Array(items)) => items.iter().all(Value::is_object),
            (false, Texts, Value::Array(items)) => items.iter().all(|item| item.is_string() || item.is_null()),
            (false, ..) => false,
        };
        if !fits {
            let wanted = match form {
                Text => "a string",
                Flag => "true or false",
                Object => "one object, not a list",
                Objects => "a list of objects",
                Texts => "a list of strings",
            };
            faults.add("structure", bare, format!("{}.{bare} must be {wanted}.", faults.name));
        }
    }
}

/// Empty strings, lists and objects, and null where FHIR has none (ele-1, JSON rules of R4).
fn empties(value: &Value, path: &str, issues: &mut Vec<Issue>) {
    let mut fault = |text: &str| {
        issues.push(Issue { code: "value", text: text.into(), expression: Some(path.to_string()) });
    };
    match value {
        Value::String(text) if text.is_empty() => fault("An element is never an empty string; leave it out."),
        Value::String(text) if text.len() > LONGEST_REFERENCE && path.ends_with(".reference") => {
            fault("A reference is at most 1,000 bytes long here.");
        }
        Value::Array(items) if items.is_empty() => fault("A list is never empty; leave it out."),
        Value::Object(map) if map.is_empty() => fault("An element is never empty; leave it out."),
        Value::Null => fault("null stands only in a list of primitives; leave the element out."),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().filter(|(_, item)| !item.is_null()) {
                empties(item, &format!("{path}[{index}]"), issues);
            }
        }
        Value::Object(map) => map.iter().for_each(|(name, value)| empties(value, &format!("{path}.{name}"), issues)),
        _ => {}
    }
}

fn task(task: Task<'_>, faults: &mut Faults) {
    let resource = task.0;
    faults.required(resource, "status");
    faults.required(resource, "intent");
    faults.code_of(resource, "status", TASK_STATUS);
    faults.code_of(resource, "priority", PRIORITY);
    faults.date(resource, "authoredOn");
    faults.date(resource, "lastModified");
    for (index, item) in resource.list("output").iter().enumerate() {
        typed_value(item, &format!("output[{index}]"), faults);
    }
    for (index, item) in resource.list("input").iter().enumerate() {
        typed_value(item, &format!("input[{index}]"), faults);
        let additional =
            item.get("type").is_some_and(|concept| has_coding(concept, Some(SDOHCC), "additional-content"));
        if additional && item.get("valueReference").is_none() {
            faults.add("required", &format!("input[{index}].value"), "Additional content is a valueReference (G-050).");
        }
    }
    if resource.at("statusReason").is_some() && task.reason_text().is_none() {
        faults.add("required", "statusReason.text", "A statusReason has a text that people can read (G-046).");
    }
    if !task.is_referral() {
        return;
    }
    if resource.text_at("intent").is_some_and(|intent| intent != "order") {
        faults.add("value", "intent", "A referral Task has the intent order (G-039).");
    }
    if faults.required(resource, "code")
        && !resource.at("code").is_some_and(|code| has_coding(code, Some(TASK_CODE), "fulfill"))
    {
        faults.add("value", "code", format!("A referral Task has the code {TASK_CODE}#fulfill (G-040)."));
    }
    if faults.required(resource, "focus") {
        faults.reference(resource.at("focus"), "focus", &["ServiceRequest"]);
    }
    if faults.required(resource, "for") {
        faults.reference(resource.at("for"), "for", &["Patient", "RelatedPerson", "Group"]);
    }
    faults.required(resource, "authoredOn");
    if faults.required(resource, "requester") {
        faults.reference(resource.at("requester"), "requester", &["PractitionerRole", "Organization"]);
    }
    faults.reference(resource.at("owner"), "owner", &[]);
    for (index, part) in resource.list("partOf").iter().enumerate() {
        faults.reference(Some(part), &format!("partOf[{index}]"), &["Task"]);
    }
}

/// Task.input and Task.output: a type and exactly one value[x].
fn typed_value(item: &Value, path: &str, faults: &mut Faults) {
    if item.get("type").is_none() {
        faults.add("required", &format!("{path}.type"), "It has a type.");
    }
    let values = item.as_object().map_or(0, |map| map.keys().filter(|name| name.starts_with("value")).count());
    if values != 1 {
        faults.add("structure", &format!("{path}.value"), "It has exactly one value[x].");
    }
}

fn service_request(resource: &Resource, faults: &mut Faults) {
    for element in ["status", "intent", "subject", "code"] {
        faults.required(resource, element);
    }
    faults.code_of(resource, "status", REQUEST_STATUS);
    faults.code_of(resource, "intent", REQUEST_INTENT);
    faults.code_of(resource, "priority", PRIORITY);
    faults.date(resource, "authoredOn");
    faults.date(resource, "occurrenceDateTime");
    faults.reference(resource.at("subject"), "subject", &["Patient", "Group", "Location"]);
    for element in ["bodySite", "specimen"] {
        if resource.at(element).is_some() {
            faults.add("structure", element, format!("A social-care ServiceRequest has no {element} (G-076)."));
        }
    }
    if resource.at("orderDetail").is_some() && resource.at("code").is_none() {
        faults.add("invariant", "orderDetail", "orderDetail needs a code (prr-1).");
    }
    for element in ["supportingInfo", "reasonReference", "performer"] {
        for (index, item) in resource.list(element).iter().enumerate() {
            faults.reference(Some(item), &format!("{element}[{index}]"), &[]);
        }
    }
}

fn procedure(resource: &Resource, faults: &mut Faults) {
    for element in ["status", "subject", "code"] {
        faults.required(resource, element);
    }
    faults.code_of(resource, "status", EVENT_STATUS);
    faults.date(resource, "performedDateTime");
    faults.reference(resource.at("subject"), "subject", &["Patient", "Group"]);
    let performed = resource
        .elements()
        .keys()
        .any(|name| name.trim_start_matches('_').starts_with("performed") && name != "performer");
    if matches!(resource.text_at("status"), Some("completed" | "in-progress")) && !performed {
        faults.add(
            "invariant",
            "performed",
            "A completed or running Procedure says when it was performed (us-core-7, G-083).",
        );
    }
    let domains = resource
        .at("category")
        .map_or(0, |category| super::views::codings(category).filter(|(system, _)| *system == SDOHCC).count());
    if domains > 1 {
        faults.add("structure", "category", "A Procedure has at most one SDOH domain (G-084).");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task() -> Value {
        json!({"resourceType":"Task","status":"requested","intent":"order",
            "code":{"coding":[{"system":TASK_CODE,"code":"fulfill"}]},"focus":{"reference":"https://e/fhir/ServiceRequest/1"},
            "for":{"reference":"https://e/fhir/Patient/1"},"authoredOn":"2026-01-01T00:00:00Z",
            "requester":{"reference":"PractitionerRole/1"}})
    }

    fn faults(value: Value) -> Vec<String> {
        match check(&Resource::from_value(value).unwrap()) {
            Ok(()) => Vec::new(),
            Err(error) => error.issues.into_iter().filter_map(|issue| issue.expression).collect(),
        }
    }

    fn with(name: &str, value: Value) -> Value {
        let mut task = task();
        task[name] = value;
        task
    }

    #[test]
    fn a_good_referral_task_passes_and_keeps_extensions() {
        assert_eq!(faults(task()), Vec::<String>::new());
        assert_eq!(faults(with("_status", json!({"extension":[{"url":"x","valueCode":"y"}]}))), Vec::<String>::new());
    }

    // G-038 to G-050: each rule broken alone names its element.
    // G-039, G-040, G-041, G-042, G-044, G-046
    #[test]
    fn each_broken_rule_names_its_element() {
        for (name, value, expression) in [
            ("status", json!("done"), "Task.status"),
            ("intent", json!("plan"), "Task.intent"),
            ("code", json!({"coding":[{"system":TASK_CODE,"code":"approve"}]}), "Task.code"),
            ("focus", json!({"reference":"ServiceRequest/"}), "Task.focus"),
            ("focus", json!({"reference":"Patient/1"}), "Task.focus"),
            ("for", json!({"reference":"Organization/1"}), "Task.for"),
            ("requester", json!({"reference":"Practitioner/1"}), "Task.requester"),
            ("authoredOn", json!("yesterday"), "Task.authoredOn"),
            ("statusReason", json!({"coding":[{"code":"x"}]}), "Task.statusReason.text"),
            ("priority", json!("soon"), "Task.priority"),
            ("output", json!([{"type":{"text":"x"}}]), "Task.output[0].value"),
            (
                "input",
                json!([{"type":{"coding":[{"system":SDOHCC,"code":"additional-content"}]},"valueString":"x"}]),
                "Task.input[0].value",
            ),
            ("note", json!([]), "Task.note"),
            ("description", json!(""), "Task.description"),
        ] {
            assert_eq!(faults(with(name, value)), [expression], "{name}");
        }
        for name in ["status", "intent", "focus", "for", "authoredOn", "requester"] {
            let mut bare = task();
            bare.as_object_mut().unwrap().shift_remove(name);
            assert_eq!(faults(bare), [format!("Task.{name}")]);
        }
    }

    #[test]
    fn wrong_forms_and_unknown_elements_are_malformed() {
        for (name, value) in [
            ("status", json!(["requested"])),
            ("for", json!("Patient/1")),
            ("colour", json!("red")),
            ("output", json!({"type":{}})),
            ("description", json!(1)),
        ] {
            let error = check(&Resource::from_value(with(name, value)).unwrap()).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed, "{name}");
        }
    }

    // G-083
    #[test]
    fn all_faults_come_at_once() {
        assert_eq!(
            faults(json!({"resourceType":"ServiceRequest","status":"x","intent":"order","bodySite":[{"text":"x"}]})),
            ["ServiceRequest.subject", "ServiceRequest.code", "ServiceRequest.status", "ServiceRequest.bodySite"]
        );
        assert_eq!(
            faults(
                json!({"resourceType":"Procedure","status":"completed","subject":{"reference":"Patient/1"},"code":{"text":"x"}})
            ),
            ["Procedure.performed"]
        );
    }
}
