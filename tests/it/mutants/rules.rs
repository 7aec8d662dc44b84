//! Mutants of the guide's own invariants, one rule each, and of those texts of the guide that its invariants miss.

use std::collections::HashSet;

use loopgate::fhir::profile::Profiles;
use serde_json::{Value, json};

use super::profiles::{instances, passed_through};
use super::{Mutant, judge};
use crate::validation::{packaged, set};

const S: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
const SDC: &str = "http://hl7.org/fhir/uv/sdc/CodeSystem/temp";
const ASSERTER: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-ExtensionConditionAsserter";

/// Published as asking for a Consent's scope of the system “something”, which nothing has: R4's ppc-2 to ppc-5.
const NEVER: &[&str] = &["ppc-2", "ppc-3", "ppc-4", "ppc-5"];
/// R4's own, which the package names as its own; told by the tables (`validation/mutants.txt`).
const OF_R4: &[&str] = &[
    "con-1", "con-2", "con-3", "con-4", "con-5", "ext-1", "grp-1", "inv-1", "ppc-1", "obs-3", "obs-6", "obs-7", "prr-1",
];

fn typed(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

/// An invariant, the fixture that breaks it, by what, and where it is told.
type Broken = (&'static str, &'static str, Vec<(&'static str, Value)>, &'static str);

/// The key, the fixture, what is put where (null: taken out), where it is told.
fn broken() -> Vec<Broken> {
    let url = || json!({"type": typed(S, "questionnaire-url"), "valueUrl": "https://e.example/q"});
    let pdf = || json!({"type": typed(S, "questionnaire-pdf"), "valueReference": {"reference": "DocumentReference/1"}});
    let other = || json!({"type": {"text": "x"}, "valueString": "x"});
    vec![
        (
            "SDOH-Con-1",
            "condition",
            vec![("/extension", json!([{"url": ASSERTER, "valueReference": {"reference": "Device/1"}}]))],
            "Condition.asserter",
        ),
        ("SDOH-Con-2", "condition", vec![("/category/0", json!({"text": "x"}))], "Condition.category"),
        ("SDOH-Con-3", "condition", vec![("/category/1", json!({"text": "x"}))], "Condition.category"),
        ("SDOH-Obs-4", "screening-response", vec![("/category/1", json!({"text": "x"}))], "Observation.category"),
        ("SDOH-Obs-4", "assessment", vec![("/category/0", json!({"text": "x"}))], "Observation.category"),
        ("SDOH-Task-1", "questionnaire-task", vec![("/input/0", other())], "Task.input"),
        ("SDOH-Task-1", "questionnaire-task", vec![("/input/1", other())], "Task.input"),
        ("SDOH-Task-1", "questionnaire-task", vec![("/input/-", url())], "Task.input"),
        // Two and two make four: the published chain of xor lets all three pass.
        ("SDOH-Task-1", "questionnaire-task", vec![("/input/-", url()), ("/input/-", pdf())], "Task.input"),
        ("SDOH-Task-2", "information-task", vec![("/description", Value::Null)], "Task.description"),
        ("SDOH-Task-2", "information-task", vec![("/output/0/type", typed(S, "chosen-contact"))], "Task.output"),
        ("SDOH-Task-3", "review-task", vec![("/focus/reference", json!("Patient/1"))], "Task.focus"),
        ("SDOH-Task-3", "review-task", vec![("/focus", Value::Null)], "Task.focus"),
        ("SDOH-Task-4", "contact-task", vec![("/input", Value::Null)], "Task.input"),
        ("SDOH-Task-5", "questionnaire-task", vec![("/output/0/type", typed(SDC, "x"))], "Task.output"),
        ("SDOH-Task-6", "pdf-task", vec![("/output/0/type", typed(S, "questionnaire-url"))], "Task.output"),
        ("SDOH-Task-7", "contact-task", vec![("/description", Value::Null)], "Task.description"),
        (
            "SDOH-Task-7",
            "contact-task",
            vec![("/output/0/type", typed(S, "general-information-response"))],
            "Task.output",
        ),
        ("us-core-1", "screening-response", vec![("/effectiveDateTime", json!("2026-01"))], "Observation.effective"),
        ("us-core-2", "screening-response", vec![("/valueCodeableConcept", Value::Null)], "Observation.value"),
        ("us-core-2", "assessment", vec![("/valueBoolean", Value::Null)], "Observation.value"),
        (
            "us-core-3",
            "screening-response",
            vec![
                ("/valueCodeableConcept", Value::Null),
                ("/valueQuantity", json!({"value": 1, "system": "http://x", "code": "x"})),
            ],
            "Observation.value",
        ),
        ("us-core-7", "procedure", vec![("/performedDateTime", Value::Null)], "Procedure.performed"),
        (
            "us-core-7",
            "procedure",
            vec![("/status", json!("in-progress")), ("/performedDateTime", Value::Null)],
            "Procedure.performed",
        ),
        ("pd-1", "practitioner-role", vec![("/telecom", Value::Null)], "PractitionerRole.telecom"),
        (
            "us-core-13",
            "practitioner-role",
            vec![("/practitioner", Value::Null), ("/organization", Value::Null)],
            "PractitionerRole.practitioner",
        ),
    ]
}

// G-101 to G-106, G-159, G-161, G-164, G-167, G-171, G-083
#[test]
fn each_invariant_of_the_guide_is_told_with_and_without_its_package() {
    let fixtures: std::collections::HashMap<String, Value> = instances().into_iter().collect();
    let all: Vec<Mutant> = broken()
        .into_iter()
        .map(|(key, name, edits, told)| {
            let mut mutant = fixtures[name].clone();
            for (pointer, value) in edits {
                set(&mut mutant, pointer, Some(value).filter(|value| !value.is_null()));
            }
            Mutant::new("invariant", &format!("{key} of {name}"), mutant, &[told])
        })
        .collect();
    judge("invariants, ours alone", &all, Profiles::own(), 20);
    for release in ["3.0.0", "2.3.0", "2.2.0"] {
        let Some((profiles, definitions)) = packaged(release) else { continue };
        judge(&format!("invariants, with {release}"), &all, &profiles, 20);
        let tried: HashSet<&str> = broken().iter().map(|(key, ..)| *key).collect();
        for definition in
            definitions.iter().filter(|one| !passed_through(&format!("by {}", one["id"].as_str().unwrap())))
        {
            let elements = definition["snapshot"]["element"].as_array().into_iter().flatten();
            for rule in elements.filter_map(|element| element["constraint"].as_array()).flatten() {
                let key = rule["key"].as_str().unwrap();
                let of_r4 = rule["source"]
                    .as_str()
                    .is_some_and(|source| source.starts_with("http://hl7.org/fhir/StructureDefinition/"));
                let known = of_r4 || NEVER.contains(&key) || OF_R4.contains(&key) || tried.contains(key);
                assert!(known || rule["severity"] != "error", "{release}: no mutant of {key}");
            }
        }
    }
}
