//! Validation from outside: one-rule mutants of good resources, what is legal and must pass, the guide's examples, a
//! guide's package, `$validate` and the warnings of a write.
//!
//! `validation/fixtures.json` holds good resources; `validation/mutants.txt` breaks one rule of one of them a line and
//! names the element that must be told. <https://hl7.org/fhir/R4/validation.html>

mod broken;
mod guides;

use loopgate::error::Kind;
use loopgate::fhir::Resource;
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::validate::{self, Finding, Severity, examine};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::gateway::TestGateway;

use broken::places;
pub use guides::{examples, is_definition, packaged, packed};

const FIXTURES: &str = include_str!("validation/fixtures.json");
const MUTANTS: &str = include_str!("validation/mutants.txt");
const SDOHCC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
const GUIDE: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-";
/// The guide's compiled examples, where they lie beside the project.
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/gravity-ig");

pub fn fixtures() -> Map<String, Value> {
    serde_json::from_str(FIXTURES).unwrap()
}

fn findings(resource: &Value) -> Vec<Finding> {
    examine(resource, Profiles::own())
}

fn errors(findings: &[Finding]) -> Vec<&str> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.issue.expression.as_deref().unwrap_or_default()).collect()
}

pub fn set(resource: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match resource.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}")) {
        Value::Object(map) => match value {
            Some(value) => drop(map.insert(last.to_string(), value)),
            None => drop(map.shift_remove(last).unwrap_or_else(|| panic!("{pointer}"))),
        },
        Value::Array(list) if last == "-" => list.push(value.unwrap()),
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value.unwrap(),
        _ => panic!("{pointer}"),
    }
}

#[test]
fn good_resources_pass() {
    for (name, resource) in fixtures() {
        let findings = findings(&resource);
        assert!(findings.iter().all(|finding| finding.severity != Severity::Error), "{name}: {findings:#?}");
        if let Ok(resource) = Resource::from_value(resource) {
            validate::check(&resource, Profiles::own()).unwrap();
        }
    }
}

// G-038, G-039, G-040, G-041, G-042, G-043, G-044, G-046, G-050, G-051, G-052, G-053 (referral Task), G-101, G-102, G-103,
// G-104, G-105, G-106 (patient Task), G-068, G-069, G-072, G-074, G-076 (ServiceRequest), G-081, G-083, G-084 (Procedure),
// G-090, G-091, G-092, G-157, G-159, G-160, G-161, G-163, G-164, G-167, G-168, G-169, G-170, G-171, G-172 (the other profiles).
#[test]
fn each_mutant_is_told_at_its_element() {
    let fixtures = fixtures();
    let mut missed = Vec::new();
    let mut count = 0;
    for line in MUTANTS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let line = line.replace("\"SDOHCC\"", &format!("\"{SDOHCC}\"")).replace("\"GUIDE", &format!("\"{GUIDE}"));
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, pointer, put, expected, rule] = fields.as_slice() else { panic!("{line}") };
        let mut mutant = fixtures.get(*name).unwrap_or_else(|| panic!("{line}")).clone();
        match put.strip_prefix('@').map(|put| put.split_once(' ').unwrap()) {
            Some((other, value)) => {
                set(&mut mutant, pointer, None);
                let (parent, _) = pointer.rsplit_once('/').unwrap();
                set(&mut mutant, &format!("{parent}/{other}"), Some(serde_json::from_str(value).unwrap()));
            }
            None if put.is_empty() => set(&mut mutant, pointer, None),
            None => set(&mut mutant, pointer, Some(serde_json::from_str(put).unwrap_or_else(|_| panic!("{line}")))),
        }
        let found = findings(&mutant);
        count += 1;
        if !errors(&found).contains(expected) {
            missed.push(format!("{name} {pointer} {put} ({rule}): not told at {expected}: {:?}", errors(&found)));
        }
    }
    assert!(missed.is_empty(), "{} of {count} missed:\n{}", missed.len(), missed.join("\n"));
    assert!(count > 300);
}

// G-054
/// What the standard permits is never refused: extensions that nobody here knows, more slices, reasons for what is missing.
#[test]
fn what_is_legal_passes() {
    let reason = json!([{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]);
    for (name, pointer, value) in [
        ("referral-task", "/modifierExtension", json!([{"url": "http://example.org/m", "valueBoolean": true}])),
        (
            "referral-task",
            "/for/extension",
            json!([{"url": "http://example.org/m", "extension": [{"url": "a", "valueString": "b"}]}]),
        ),
        ("referral-task", "/input/-", json!({"type": {"text": "mine"}, "valueQuantity": {"value": 1.00}})),
        (
            "referral-task",
            "/output/-",
            json!({"type": {"coding": [{"system": "http://mine", "code": "x"}]}, "valueBoolean": true}),
        ),
        (
            "referral-task",
            "/output/-",
            json!({"type": {"coding": [{"system": SDOHCC, "code": "resulting-activity"}]}, "valueCodeableConcept": {"text": "Food box given"}}),
        ),
        ("referral-task", "/code/coding/-", json!({"system": "http://mine", "code": "x"})),
        ("referral-task", "/meta/profile/-", json!("http://example.org/StructureDefinition/unknown")),
        ("referral-task", "/description", json!("a\u{a0}b\r\n\tc\u{202f}")),
        ("referral-task", "/owner", json!({"identifier": {"system": "urn:x", "value": "1"}})),
        ("referral-task", "/owner", json!({"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"})),
        ("referral-task", "/owner", json!({"reference": "https://e.example/other/api?id=1"})),
        ("referral-task", "/owner", json!({"extension": reason})),
        ("referral-task", "/owner", json!({"display": "The hub"})),
        ("referral-task", "/owner", json!({"reference": "Organization/hub/_history/2"})),
        ("referral-task", "/owner", json!({"reference": "ftp://e.example/x"})),
        ("referral-task", "/id", json!("a".repeat(64))),
        ("referral-task", "/authoredOn", json!("2016-12-31T23:59:60Z")),
        ("referral-task", "/authoredOn", json!("2024-02-29")),
        ("referral-task", "/executionPeriod", json!({"start": "2026-01-15", "end": "2026-01"})),
        ("referral-task", "/input/-", json!({"type": {"text": "x"}, "valueBase64Binary": "YW\nI="})),
        ("referral-task", "/input/-", json!({"type": {"text": "x"}, "valueMoney": {"value": 1, "currency": "USD"}})),
        (
            "referral-task",
            "/text/div",
            json!(
                "<div xmlns=\"http://www.w3.org/1999/xhtml\">a&nbsp;&alpha;<!-- c --><img src=\"data:image/png;base64,AAAA\" alt=\"x\"/></div>"
            ),
        ),
        ("patient", "/photo", json!([{"contentType": "image/svg+xml; charset=utf-8", "url": "https://e.example/a"}])),
        ("patient", "/name/0/given", json!(["Ann", "Lee", "Jo"])),
        ("referral-task", "/authoredOn", json!("2026")),
        ("referral-task", "/lastModified", json!("2026-01-01T10:00:00.123456789-05:00")),
        ("service-request", "/category/-", json!({"coding": [{"system": "http://mine", "code": "x"}]})),
        ("service-request", "/code/coding/-", json!({"system": "http://mine", "code": "x"})),
        ("condition", "/category/-", json!({"text": "other"})),
        ("consent", "/category/-", json!({"coding": [{"system": "http://loinc.org", "code": "59284-0"}]})),
        ("capacity", "/extension/-", json!({"url": "http://example.org/x", "valueString": "y"})),
        ("capacity", "/extension/0/extension/0/valueCodeableConcept", json!({"text": "It depends"})),
        ("patient", "/communication/0/language", json!({"text": "Klingon"})),
        (
            "patient",
            "/contained",
            json!([{"resourceType": "Practitioner", "id": "p", "extension": [{"url": "http://e/x", "valueReference": {"reference": "#"}}]}]),
        ),
        ("medication-request", "/dosageInstruction/0/timing/repeat/frequency", json!(2)),
        ("location", "/position/longitude", serde_json::from_str("-83.6945691000000000000001").unwrap()),
        ("group", "/characteristic/-", json!({"code": {"text": "x"}, "valueBoolean": true, "exclude": true})),
        ("bundle", "/entry/0/fullUrl", json!("https://e.example/fhir/Location/1")),
    ] {
        let mut resource = fixtures()[name].clone();
        set(&mut resource, pointer, Some(value));
        let findings = findings(&resource);
        assert_eq!(errors(&findings), Vec::<&str>::new(), "{name} {pointer}: {findings:#?}");
    }
    // White space alone says nothing: R4 has it that it should not be, and no more.
    let mut task = fixtures()["referral-task"].clone();
    task["description"] = json!(" \n ");
    let blank = findings(&task);
    assert_eq!(errors(&blank), Vec::<&str>::new());
    let warned = |one: &Finding| {
        one.severity == Severity::Warning && one.issue.expression.as_deref() == Some("Task.description")
    };
    assert!(blank.iter().any(warned), "{blank:?}");
    // A required primitive may say why it has no value.
    let mut task = fixtures()["referral-task"].clone();
    set(&mut task, "/authoredOn", None);
    set(&mut task, "/_authoredOn", Some(json!({"extension": reason})));
    assert_eq!(errors(&findings(&task)), Vec::<&str>::new());
}

/// D16b: a write refuses faults against R4 and against the referral's own profiles; it stores the others with warnings.
#[test]
fn a_write_refuses_some_and_warns_of_others() {
    let refused = |name: &str, pointer: &str, value: Option<Value>| {
        let mut resource = fixtures()[name].clone();
        set(&mut resource, pointer, value);
        validate::check(&Resource::from_value(resource).unwrap(), Profiles::own())
    };
    assert_eq!(refused("referral-task", "/colour", Some(json!(1))).unwrap_err().kind, Kind::Malformed);
    assert_eq!(refused("referral-task", "/status", Some(json!("done"))).unwrap_err().kind, Kind::Invalid);
    assert_eq!(refused("referral-task", "/focus", None).unwrap_err().kind, Kind::Invalid);
    assert_eq!(refused("contact-task", "/owner", None).unwrap_err().kind, Kind::Invalid);
    assert_eq!(refused("service-request", "/code", Some(json!({"text": "x"}))).unwrap_err().kind, Kind::Invalid);
    assert_eq!(refused("procedure", "/performedDateTime", None).unwrap_err().kind, Kind::Invalid);
    let warnings = refused("condition", "/category/1", Some(json!({"text": "x"}))).unwrap();
    assert!(warnings.iter().all(|finding| finding.severity == Severity::Warning) && !warnings.is_empty());
    // G-188: peers of the guide's first release say received and ready; strictly that is wrong, and it is taken.
    for status in ["received", "ready"] {
        let warnings = refused("referral-task", "/status", Some(json!(status))).unwrap();
        assert_eq!(warnings[0].issue.expression.as_deref(), Some("Task.status"));
    }
    // Two faults at once are told at once, the structure first.
    let mut task = fixtures()["referral-task"].clone();
    set(&mut task, "/focus", None);
    set(&mut task, "/note/0/text", Some(json!(7)));
    assert_eq!(errors(&findings(&task)), ["Task.note[0].text", "Task.focus"]);
    // Texts name elements and never repeat a value.
    set(&mut task, "/status", Some(json!("secret-1")));
    set(&mut task, "/authoredOn", Some(json!("secret-2")));
    assert!(findings(&task).iter().all(|finding| !finding.issue.text.contains("secret")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Any JSON in the place of any element: findings, never a panic.
    #[test]
    fn any_json_never_panics(seed in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), junk in junk()) {
        let fixtures = fixtures();
        let names: Vec<&String> = fixtures.keys().collect();
        let resource = &fixtures[*seed.get(&names)];
        let mut found = Vec::new();
        places(resource, &mut Vec::new(), &mut found);
        let pointer = place.get(&found).iter().fold(String::new(), |sum, step| format!("{sum}/{step}"));
        let mut mutant = resource.clone();
        *mutant.pointer_mut(&pointer).unwrap() = junk.clone();
        let _ = findings(&mutant);
        let _ = validate::examine_value(&junk, Profiles::own(), None);
    }
}

fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("#")),
        Just(json!("Task")),
    ];
    let key = prop_oneof![
        Just("resourceType".to_string()),
        Just("extension".to_string()),
        Just("url".to_string()),
        Just("contained".to_string()),
        Just("id".to_string()),
        Just("valueString".to_string()),
        Just("_valueString".to_string()),
        Just("reference".to_string()),
        Just("coding".to_string()),
        Just("code".to_string()),
        Just("entry".to_string()),
        Just("_".to_string()),
        "\\PC{0,6}"
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

// ------------------------------------------------------------------------------------------- the guide's examples

// ------------------------------------------------------------------------------------------- a guide's package

// ------------------------------------------------------------------------------------------- over HTTP

//
#[tokio::test]
async fn validate_answers_an_outcome_and_stores_nothing() {
    let county = TestGateway::county().await;
    let fixtures = fixtures();
    let issues = |body: &Value| {
        assert_eq!(body["resourceType"], "OperationOutcome");
        let all = body["issue"].as_array().unwrap().clone();
        let errors = all.into_iter().filter(|issue| issue["severity"] == "error");
        errors.map(|issue| issue["expression"][0].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let mut task = fixtures["referral-task"].clone();
    let good = county.post("clinic", "Task/$validate", &task).await;
    assert_eq!((good.status, issues(&good.body)), (200, vec![]));
    set(&mut task, "/focus", None);
    let bad = county.post("clinic", "Task/$validate", &task).await;
    assert_eq!((bad.status, issues(&bad.body)), (200, vec!["Task.focus".to_string()]));
    // As Parameters, against a profile that the resource doesn't claim.
    let service = json!({"resourceType": "HealthcareService", "active": true});
    let parameters = json!({"resourceType": "Parameters", "parameter": [
        {"name": "resource", "resource": service}, {"name": "profile", "valueUri": format!("{GUIDE}HealthcareService")}]});
    let bad = county.post("clinic", "HealthcareService/$validate", &parameters).await;
    assert_eq!((bad.status, issues(&bad.body)[0].as_str()), (200, "HealthcareService.telecom"));
    let unknown = county.post("clinic", "HealthcareService/$validate?profile=http://x/y", &service).await;
    assert_eq!(unknown.status, 400);
    assert_eq!(county.post("clinic", "Task/$validate", &service).await.status, 400);
    let stored = county.get("root", "Organization/hub/$validate").await;
    assert_eq!(stored.status, 200);
    assert_eq!(stored.body["resourceType"], "OperationOutcome");
    assert!(county.get("root", "HealthcareService?name=none").await.entries().is_empty());
}
