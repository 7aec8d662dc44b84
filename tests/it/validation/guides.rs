//! Guides and their packages: the guide's own examples pass, are stored and read as they are, and what a package adds is
//! enforced.

use std::collections::BTreeMap;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use loopgate::fhir::Resource;
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::profile::package::Package;
use loopgate::fhir::validate::{self, Severity, examine};
use loopgate::http::routes::{Interaction, ROWS};
use serde_json::{Value, json};

use super::{SHARED, errors, findings, set};
use crate::gateway::TestGateway;

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
