//! Validation from outside: one-rule mutants of good resources, what is legal and must pass, the guide's examples, a
//! guide's package, `$validate` and the warnings of a write.
//!
//! `validation/fixtures.json` holds good resources; `validation/mutants.txt` breaks one rule of one of them a line and
//! names the element that must be told. <https://hl7.org/fhir/R4/validation.html>

use std::collections::BTreeMap;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use loopgate::error::Kind;
use loopgate::fhir::Resource;
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::profile::package::Package;
use loopgate::fhir::validate::{self, Finding, Severity, examine};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::gateway::TestGateway;
use loopgate::http::routes::{Interaction, ROWS};

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

/// The FHIRPath of a JSON pointer's place, told without the element tables.
fn expression(resource: &Value, steps: &[String]) -> String {
    let mut out = resource["resourceType"].as_str().unwrap().to_string();
    // As keys and not by name, so that this is no second copy of the tables.
    let types = [
        "String",
        "Reference",
        "CodeableConcept",
        "Period",
        "DateTime",
        "Quantity",
        "Boolean",
        "Attachment",
        "Markdown",
        "Canonical",
        "Range",
        "Ratio",
        "Integer",
        "Date",
        "Duration",
        "Url",
        "Code",
    ];
    let whole = [
        "reasonReference",
        "locationReference",
        "executionPeriod",
        "referenceRange",
        "minutesDuration",
        "fullUrl",
        "startDate",
    ];
    for step in steps {
        if step.parse::<usize>().is_ok() {
            out += &format!("[{step}]");
            continue;
        }
        let base = types.iter().find_map(|type_| step.strip_suffix(type_)).filter(|base| !base.is_empty());
        let name =
            if step == "dueDate" { "due" } else { base.filter(|_| !whole.contains(&step.as_str())).unwrap_or(step) };
        out += &format!(".{name}");
    }
    out
}

/// Breaks a value in every way that R4's JSON forbids whatever the element; each with a word.
fn broken(value: &Value) -> Vec<(&'static str, Value)> {
    let mut out = vec![("null", Value::Null)];
    match value {
        Value::String(_) => out.extend([
            ("empty", json!("")),
            ("number", json!(7)),
            ("list", json!([value])),
            ("object", json!({"a": 1})),
        ]),
        Value::Number(_) => out.extend([("text", json!("7")), ("list", json!([value])), ("flag", json!(true))]),
        Value::Bool(_) => out.extend([("text", json!("true")), ("list", json!([value])), ("number", json!(1))]),
        Value::Array(list) => {
            out.extend([("single", list[0].clone()), ("empty list", json!([])), ("text", json!("x"))])
        }
        Value::Object(map) => {
            let mut more = map.clone();
            more.insert("colour".into(), json!("red"));
            out.extend([
                ("text", json!("x")),
                ("empty", json!({})),
                ("list", json!([value])),
                ("unknown", Value::Object(more)),
            ]);
        }
        Value::Null => out.clear(),
    }
    out
}

fn places(value: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let steps: Vec<String> = match value {
        Value::Object(map) => map.keys().cloned().collect(),
        Value::Array(list) => (0..list.len()).map(|index| index.to_string()).collect(),
        _ => return,
    };
    for step in steps {
        at.push(step.clone());
        found.push(at.clone());
        let inner = match value {
            Value::Object(map) => &map[&step],
            _ => &value[step.parse::<usize>().unwrap()],
        };
        places(inner, at, found);
        at.pop();
    }
}

/// Every element of every fixture, broken in every way; each is told at the element, or at what it stands in.
#[test]
fn every_element_broken_in_every_way_is_told() {
    let mut missed = Vec::new();
    let mut count = 0;
    for (name, resource) in fixtures() {
        let mut found = Vec::new();
        places(&resource, &mut Vec::new(), &mut found);
        // The key that says what it is, and what stands beside a primitive, have rules of their own.
        for steps in found.iter().filter(|steps| !steps.iter().any(|s| s == "resourceType" || s.starts_with('_'))) {
            let pointer = steps.iter().fold(String::new(), |sum, step| format!("{sum}/{step}"));
            let original = resource.pointer(&pointer).unwrap();
            for (how, bad) in broken(original) {
                // A list in a list, and one item of a list standing for it, are told one step up.
                let mut mutant = resource.clone();
                *mutant.pointer_mut(&pointer).unwrap() = bad;
                let mut place = steps.clone();
                if how == "unknown" {
                    place.push("colour".into());
                }
                let told = expression(&resource, &place);
                let findings = findings(&mutant);
                count += 1;
                let hit = errors(&findings).iter().any(|error| {
                    *error == told
                        || (how != "unknown" && told.starts_with(error))
                        || (how == "empty" && error.starts_with(&told))
                });
                if !hit {
                    missed.push(format!("{name} {pointer} {how}: {:?}", errors(&findings)));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{} of {count} missed:\n{}", missed.len(), missed.join("\n"));
    assert!(count > 2_000, "{count}");
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

/// The examples that break rules of the guide's current release, by name, and the element that is told.
const FAULTS: &[(&str, &str, &str)] = &[
    // Its characteristic is a Reference to a ValueSet; a CodeableConcept since 3.0.
    ("2.3.0", "Group-SDOHCC-GroupSDOHPatientsForPayerExample", "Group.characteristic[0].value"),
    ("2.2.0", "Group-SDOHCC-GroupSDOHPatientsForPayerExample", "Group.characteristic[0].value"),
    // These lack the category sdoh, which came with 2.3.
    ("2.2.0", "Condition-SDOHCC-ConditionAsserterDeviceExample", "Condition.category"),
    ("2.2.0", "Condition-SDOHCC-ConditionFoodInsecurityExample", "Condition.category"),
    ("2.2.0", "Condition-SDOHCC-ConditionHomelessExample", "Condition.category"),
    ("2.2.0", "Condition-SDOHCC-ConditionUnemployedExample", "Condition.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationAssessmentInadequateFoodIntakeExample", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationAssessmentTransportTooExpensiveExample", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseHungerVitalSignQuestion3Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESGroupingExample", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESQuestion1Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESQuestion2Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESQuestion3Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESQuestion4Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESQuestion5Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponseNHANESQuestion6Example", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponsePRAPAREChildCareNeedExample", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponsePRAPAREClothingNeedExample", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponsePRAPAREEmploymentStatusExample", "Observation.category"),
    ("2.2.0", "Observation-SDOHCC-ObservationResponsePRAPAREHousingStatusExample", "Observation.category"),
];

/// The element of the one fault that this example is known for.
fn known_fault(release: &str, name: &str) -> Option<&'static str> {
    let found = FAULTS.iter().find(|(of, known, _)| *of == release && name.strip_suffix(".json") == Some(*known));
    found.map(|(.., element)| *element)
}

pub fn examples() -> BTreeMap<(String, String), Value> {
    let mut found = BTreeMap::new();
    for release in ["3.0.0", "2.3.0", "2.2.0"] {
        let Ok(folder) = std::fs::read_dir(Path::new(SHARED).join(release)) else { continue };
        for file in folder.flatten() {
            let name = file.file_name().to_string_lossy().to_string();
            if let Ok(value) = serde_json::from_slice::<Value>(&std::fs::read(file.path()).unwrap_or_default())
                && value.get("resourceType").is_some()
            {
                found.insert((release.to_string(), name), value);
            }
        }
    }
    found
}

pub fn is_definition(value: &Value) -> bool {
    let conformance = [
        "StructureDefinition",
        "ValueSet",
        "CodeSystem",
        "ImplementationGuide",
        "CapabilityStatement",
        "SearchParameter",
        "ConceptMap",
        "OperationDefinition",
    ];
    value["resourceType"].as_str().is_some_and(|kind| conformance.contains(&kind))
}

#[test]
fn the_guides_examples_pass() {
    for ((release, name), value) in examples().iter().filter(|(_, value)| !is_definition(value)) {
        let findings = findings(value);
        // Strictly wrong, and stored all the same: the gateway bridges them.
        if let Ok(resource) = Resource::from_value(value.clone()) {
            validate::check(&resource, Profiles::own()).unwrap_or_else(|error| panic!("{release}/{name}: {error}"));
        }
        let mut told = errors(&findings);
        told.dedup();
        let expected: Vec<&str> = known_fault(release, name).into_iter().collect();
        assert_eq!(told, expected, "{release}/{name}: {findings:#?}");
    }
}

/// The server takes every example of a type that is written here, in JSON and in XML, and gives back what it was given.
//
#[tokio::test]
async fn the_guides_examples_are_stored_and_read_as_they_are() {
    for release in ["3.0.0", "2.3.0", "2.2.0"] {
        let county = TestGateway::county().await;
        let written = |kind: &str| {
            let row = ROWS.iter().find(|row| row.kind == kind);
            row.is_some_and(|row| row.interactions.contains(&Interaction::Update))
        };
        for ((_, name), value) in examples().iter().filter(|((of, _), _)| of == release) {
            let kind = value["resourceType"].as_str().unwrap();
            if !written(kind) {
                continue;
            }
            let path = format!("{kind}/{}", value["id"].as_str().unwrap());
            let made = county.put("root", &path, value).await;
            assert_eq!(made.status, 201, "{release}/{name}: {}", made.body);
            let read = county.get("root", &path).await.body;
            let as_xml = [("accept", "application/fhir+xml")];
            let xml = crate::xml::send(&county, "root", "GET", &path, &as_xml, String::new()).await;
            assert_eq!(xml.says, read, "{release}/{name}");
            for (element, value) in value.as_object().unwrap() {
                match element.as_str() {
                    "meta" => assert_eq!(read["meta"]["profile"], value["profile"], "{release}/{name}"),
                    _ => assert_eq!(read[element], *value, "{release}/{name} {element}"),
                }
            }
        }
    }
}

/// The guide's own snapshots, as a package, agree about its own examples.
#[test]
fn the_guides_own_profiles_take_its_examples() {
    for release in ["3.0.0", "2.3.0", "2.2.0"] {
        let Some((profiles, definitions)) = packaged(release) else { continue };
        assert!(definitions.len() > 15, "{}", definitions.len());
        for ((_, name), value) in examples().iter().filter(|((of, _), value)| of == release && !is_definition(value)) {
            let findings = examine(value, &profiles);
            if known_fault(release, name).is_none() {
                assert_eq!(errors(&findings), Vec::<&str>::new(), "{release}/{name}: {findings:#?}");
            }
        }
    }
}

/// A release of the guide as a package, where it lies beside the project, and its StructureDefinitions.
pub fn packaged(release: &str) -> Option<(Profiles, Vec<Value>)> {
    let own = examples().into_iter().filter(|((of, _), value)| of == release && is_definition(value));
    let definitions: Vec<Value> = own.map(|(_, value)| value).collect();
    if definitions.is_empty() {
        return None;
    }
    let mut files = vec![json!({"name": "hl7.fhir.us.sdoh-clinicalcare", "version": release})];
    files.extend(definitions.iter().cloned());
    let profiles = Profiles::with(&[Package::read(&packed(&files)).unwrap()]);
    Some((profiles, definitions.into_iter().filter(|one| one["resourceType"] == "StructureDefinition").collect()))
}

// ------------------------------------------------------------------------------------------- a guide's package

/// A `.tgz` of these files.
pub fn packed(files: &[Value]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    let mut put = |bytes: &[u8]| std::io::Write::write_all(&mut out, bytes).unwrap();
    for file in files {
        let content = file.to_string().into_bytes();
        let mut header = [0_u8; 512];
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        put(&header);
        put(&content);
        put(&vec![0; content.len().next_multiple_of(512) - content.len()]);
    }
    put(&[0; 1024]);
    out.finish().unwrap()
}

const GUIDE_URL: &str = "http://example.org/fhir/StructureDefinition/";

/// A guide with a profile that slices in every way, by its snapshot or differential.
fn guide() -> Vec<Value> {
    let element = |id: &str, more: Value| {
        let mut out = json!({"id": id, "path": id.split('.').map(|s| s.split(':').next().unwrap()).collect::<Vec<_>>().join(".")});
        out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        out
    };
    let slicing = |kind: &str, path: &str, rules: &str, ordered: bool| json!({"slicing": {"discriminator": [{"type": kind, "path": path}], "rules": rules, "ordered": ordered}});
    let profile = |name: &str, type_: &str, base: &str, form: &str, elements: Vec<Value>| {
        json!({"resourceType": "StructureDefinition", "url": format!("{GUIDE_URL}{name}"), "name": name, "title": name,
            "status": "active", "kind": "resource", "abstract": false, "type": type_, "derivation": "constraint",
            "baseDefinition": base, form: {"element": elements}})
    };
    let core = "http://hl7.org/fhir/StructureDefinition/";
    let pressure = profile(
        "pressure",
        "Observation",
        &format!("{core}Observation"),
        "snapshot",
        vec![
            element(
                "Observation",
                json!({"constraint": [
            {"key": "g-1", "severity": "error", "human": "Final ones have a time", "expression": "status = 'final' implies effective.exists()"},
            {"key": "g-2", "severity": "warning", "human": "A note is good", "expression": "note.exists()"},
            {"key": "g-3", "severity": "error", "human": "Nobody knows", "expression": "status.frobnicate()"}]}),
            ),
            element(
                "Observation.status",
                json!({"min": 1, "max": "1", "type": [{"code": "code"}],
            "binding": {"strength": "required", "valueSet": "http://example.org/fhir/ValueSet/status|1"}}),
            ),
            element(
                "Observation.code",
                json!({"min": 1, "max": "1", "patternCodeableConcept": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}}),
            ),
            element("Observation.component", slicing("value", "code", "closed", true)),
            element("Observation.component:systolic", json!({"min": 1, "max": "1"})),
            element(
                "Observation.component:systolic.code",
                json!({"patternCodeableConcept": {"coding": [{"code": "8480-6"}]}}),
            ),
            element("Observation.component:systolic.value[x]", json!({"min": 1, "type": [{"code": "Quantity"}]})),
            element("Observation.component:systolic.value[x].code", json!({"min": 1, "fixedCode": "mm[Hg]"})),
            element("Observation.component:diastolic", json!({"min": 1, "max": "1"})),
            element(
                "Observation.component:diastolic.code",
                json!({"patternCodeableConcept": {"coding": [{"code": "8462-4"}]}}),
            ),
            element("Observation.extension", slicing("value", "url", "open", false)),
            element(
                "Observation.extension:mood",
                json!({"min": 1, "max": "1", "type": [{"code": "Extension", "profile": [format!("{GUIDE_URL}mood")]}]}),
            ),
            element("Observation.performer", slicing("type", "resolve()", "open", false)),
            element(
                "Observation.performer:nurse",
                json!({"min": 1, "type": [{"code": "Reference", "targetProfile": [format!("{core}Practitioner")]}]}),
            ),
            element("Observation.note", slicing("exists", "time", "open", false)),
            element("Observation.note:dated", json!({"max": "1"})),
            element("Observation.note:dated.time", json!({"min": 1})),
        ],
    );
    let narrower = profile(
        "narrower",
        "Observation",
        &format!("{GUIDE_URL}pressure"),
        "differential",
        vec![element("Observation.bodySite", json!({"max": "0"}))],
    );
    let mood = profile(
        "mood",
        "Extension",
        &format!("{core}Extension"),
        "snapshot",
        vec![
            element("Extension.url", json!({"fixedUri": format!("{GUIDE_URL}mood")})),
            element("Extension.value[x]", json!({"min": 1, "type": [{"code": "code"}]})),
        ],
    );
    let set = json!({"resourceType": "ValueSet", "url": "http://example.org/fhir/ValueSet/status", "status": "active",
        "compose": {"include": [{"system": "http://hl7.org/fhir/observation-status", "concept": [{"code": "final"}, {"code": "amended"}]}]}});
    vec![json!({"name": "example.guide", "version": "1.0.0"}), pressure, narrower, mood, set]
}

fn pressure() -> Value {
    let part = |code: &str| {
        json!({"code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "valueQuantity": {"value": 120, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}})
    };
    json!({"resourceType": "Observation", "meta": {"profile": [format!("{GUIDE_URL}pressure")]}, "status": "final",
        "extension": [{"url": format!("{GUIDE_URL}mood"), "valueCode": "calm"}, {"url": "http://other", "valueString": "x"}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}, "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2026", "performer": [{"reference": "Practitioner/1"}, {"reference": "Organization/1"}],
        "note": [{"text": "a"}, {"time": "2026", "text": "b"}], "component": [part("8480-6"), part("8462-4")]})
}

#[test]
fn a_guides_package_is_enforced() {
    let profiles = Profiles::with(&[Package::read(&packed(&guide())).unwrap()]);
    let found = |value: &Value| examine(value, &profiles);
    assert_eq!(errors(&found(&pressure())), Vec::<&str>::new(), "{:#?}", found(&pressure()));
    // An expression that can't be read is said not to be checked; it never passes in silence.
    let unsure = found(&pressure());
    let unsure = unsure.iter().find(|finding| finding.issue.text.contains("g-3")).unwrap();
    assert_eq!(unsure.severity, Severity::Information);
    assert!(unsure.issue.text.contains("not checked"));
    for (pointer, value, expected) in [
        ("/component/1", Some(json!({"code": {"coding": [{"code": "other"}]}})), "Observation.component"),
        ("/component/-", Some(json!({"code": {"coding": [{"code": "other"}]}})), "Observation.component[2]"),
        ("/component/0/valueQuantity/code", Some(json!("kPa")), "Observation.component[0].value.code"),
        ("/component/0/valueQuantity", None, "Observation.component[0].value"),
        ("/extension/0", Some(json!({"url": "http://x", "valueString": "x"})), "Observation.extension"),
        (
            "/extension/0",
            Some(json!({"url": format!("{GUIDE_URL}mood"), "valueString": "x"})),
            "Observation.extension[0].value",
        ),
        ("/performer/0/reference", Some(json!("Organization/2")), "Observation.performer"),
        ("/note/0/time", Some(json!("2026")), "Observation.note"),
        ("/status", Some(json!("preliminary")), "Observation.status"),
        ("/effectiveDateTime", None, "Observation"),
        ("/code/coding/0/code", Some(json!("x")), "Observation.code"),
    ] {
        let mut mutant = pressure();
        set(&mut mutant, pointer, value);
        assert!(errors(&found(&mutant)).contains(&expected), "{pointer}: {:#?}", found(&mutant));
    }
    let mut swapped = pressure();
    swapped["component"].as_array_mut().unwrap().swap(0, 1);
    assert_eq!(errors(&found(&swapped)), ["Observation.component[1]"]);
    // What builds on another profile holds to that one, too.
    let mut narrower = pressure();
    narrower["meta"]["profile"] = json!([format!("{GUIDE_URL}narrower")]);
    assert_eq!(errors(&found(&narrower)), Vec::<&str>::new());
    narrower["bodySite"] = json!({"text": "arm"});
    narrower["code"]["coding"][0]["code"] = json!("x");
    assert_eq!(errors(&found(&narrower)), ["Observation.bodySite", "Observation.code"]);
    // Stored with a warning: its faults are no faults of the referral's own profiles.
    let warnings = validate::check(&Resource::from_value(narrower).unwrap(), &profiles).unwrap();
    assert!(warnings.len() >= 2);
}

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
