//! What a guide's package says is enforced, or said not to be: slices of slices, what comes after the slices, limits of
//! values, profiles of what is contained or in a Bundle, filters of value sets, bases that are not there.

use loopgate::fhir::profile::Profiles;
use loopgate::fhir::profile::package::Package;
use loopgate::fhir::validate::{Severity, examine};
use serde_json::{Value, json};

use crate::validation::packed;

const BASE: &str = "http://example.org/fhir/StructureDefinition/";

fn profile(name: &str, type_: &str, base: &str, elements: &[(&str, Value)]) -> Value {
    let element = |(id, more): &(&str, Value)| {
        let path: Vec<&str> = id.split('.').map(|segment| segment.split(':').next().unwrap()).collect();
        let mut out = json!({"id": id, "path": path.join(".")});
        out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        out
    };
    json!({"resourceType": "StructureDefinition", "url": format!("{BASE}{name}"), "name": name, "title": name, "status": "active",
        "kind": "resource", "abstract": false, "type": type_, "derivation": "constraint", "baseDefinition": base,
        "differential": {"element": elements.iter().map(element).collect::<Vec<_>>()}})
}

fn slicing(kind: &str, path: &str, rules: &str) -> Value {
    json!({"slicing": {"discriminator": [{"type": kind, "path": path}], "rules": rules}})
}

fn profiles() -> Profiles {
    let core = |name: &str| format!("http://hl7.org/fhir/StructureDefinition/{name}");
    let set = json!({"resourceType": "ValueSet", "url": "http://example.org/fhir/ValueSet/under", "status": "active",
        "compose": {"include": [{"system": "http://example.org/codes", "filter": [{"property": "concept", "op": "is-a", "value": "a"}]}]}});
    let codes = json!({"resourceType": "CodeSystem", "url": "http://example.org/codes", "status": "active", "content": "complete",
        "concept": [{"code": "a", "concept": [{"code": "a1"}]}, {"code": "b"}]});
    let category = |code: &str| json!({"patternCodeableConcept": {"coding": [{"code": code}]}});
    let person = profile(
        "person",
        "Patient",
        &core("Patient"),
        &[
            ("Patient.birthDate", json!({"min": 1, "minValueDate": "1900-01-01"})),
            ("Patient.multipleBirth[x]", json!({"maxValueInteger": 9})),
            ("Patient.name.text", json!({"maxLength": 5})),
            ("Patient.identifier", slicing("value", "system", "open")),
            ("Patient.identifier:gov.system", json!({"fixedUri": "http://gov"})),
            ("Patient.identifier:gov", slicing("value", "use", "open")),
            ("Patient.identifier:gov/official", json!({"min": 1, "max": "1"})),
            ("Patient.identifier:gov/official.use", json!({"fixedCode": "official"})),
            ("Patient.identifier:gov/official.period", json!({"min": 1})),
        ],
    );
    let seen = profile(
        "seen",
        "Observation",
        &core("Observation"),
        &[
            ("Observation.category", slicing("pattern", "$this", "openAtEnd")),
            ("Observation.category:x", category("x")),
            ("Observation.category:x.text", json!({"min": 1})),
            (
                "Observation.subject",
                json!({"type": [{"code": "Reference", "targetProfile": [format!("{BASE}person")]}]}),
            ),
            ("Observation.performer", slicing("profile", "resolve()", "open")),
            (
                "Observation.performer:person",
                json!({"max": "1", "type": [{"code": "Reference", "targetProfile": [format!("{BASE}person")]}]}),
            ),
            (
                "Observation.method",
                json!({"binding": {"strength": "required", "valueSet": "http://example.org/fhir/ValueSet/under"}}),
            ),
        ],
    );
    let bundle = profile(
        "bundle",
        "Bundle",
        &core("Bundle"),
        &[
            ("Bundle.entry", slicing("profile", "resource", "open")),
            ("Bundle.entry:person", json!({"min": 1})),
            (
                "Bundle.entry:person.resource",
                json!({"min": 1, "type": [{"code": "Patient", "profile": [format!("{BASE}person")]}]}),
            ),
        ],
    );
    let orphan = profile("orphan", "Patient", "http://nowhere.example/base", &[("Patient.gender", json!({"min": 1}))]);
    let files = [json!({"name": "example", "version": "1"}), person, seen, bundle, orphan, set, codes];
    Profiles::with(&[Package::read(&packed(&files)).unwrap()])
}

fn person(more: Value) -> Value {
    let official = json!({"system": "http://gov", "use": "official", "period": {"start": "2020"}});
    let mut out = json!({"resourceType": "Patient", "meta": {"profile": [format!("{BASE}person")]}, "birthDate": "2000-01-01", "identifier": [official]});
    out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    out
}

fn seen(more: Value) -> Value {
    let mut out = json!({"resourceType": "Observation", "meta": {"profile": [format!("{BASE}seen")]}, "status": "final", "code": {"text": "x"},
        "contained": [person(json!({"id": "p"}))], "subject": {"reference": "#p"}});
    out["contained"][0].as_object_mut().unwrap().remove("meta");
    out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    out
}

fn bundle(resource: Value) -> Value {
    json!({"resourceType": "Bundle", "meta": {"profile": [format!("{BASE}bundle")]}, "type": "collection",
        "entry": [{"fullUrl": "http://example.org/fhir/x", "resource": resource}]})
}

#[test]
fn what_a_package_says_is_enforced() {
    let profiles = profiles();
    let told = |resource: &Value, severity: Severity| -> Vec<(String, String)> {
        let found = examine(resource, &profiles).into_iter().filter(|one| one.severity == severity);
        found.map(|one| (one.issue.expression.unwrap_or_default(), one.issue.text)).collect()
    };
    let young = || json!({"resourceType": "Patient", "id": "p", "gender": "male"});
    let code = |code: &str| json!({"method": {"coding": [{"system": "http://example.org/codes", "code": code}]}});
    for good in [
        person(json!({"multipleBirthInteger": 9, "name": [{"text": "abcde"}]})),
        seen(json!({})),
        seen(code("a1")),
        seen(json!({"category": [{"text": "t", "coding": [{"code": "x"}]}, {"text": "other"}]})),
        bundle(person(json!({"id": "x"}))),
    ] {
        assert_eq!(told(&good, Severity::Error), [], "{good}");
    }
    for (broken, place) in [
        (person(json!({"birthDate": "1899-12-31"})), "Patient.birthDate"),
        (person(json!({"multipleBirthInteger": 10})), "Patient.multipleBirth"),
        (person(json!({"name": [{"text": "abcdef"}]})), "Patient.name[0].text"),
        (person(json!({"identifier": [{"system": "http://gov", "use": "usual"}]})), "Patient.identifier"),
        (person(json!({"identifier": [{"system": "http://gov", "use": "official"}]})), "Patient.identifier[0].period"),
        (
            seen(json!({"category": [{"text": "other"}, {"text": "t", "coding": [{"code": "x"}]}]})),
            "Observation.category[1]",
        ),
        (seen(json!({"category": [{"coding": [{"code": "x"}]}]})), "Observation.category[0].text"),
        (seen(code("b")), "Observation.method"),
        (seen(json!({"contained": [young()]})), "Observation.subject"),
        (seen(json!({"performer": [{"reference": "#p"}, {"reference": "#p"}]})), "Observation.performer"),
        (bundle(young()), "Bundle.entry"),
    ] {
        let errors = told(&broken, Severity::Error);
        assert!(errors.iter().any(|(told, _)| told == place), "{place}: {errors:?}");
    }
    // Of no slice: what is contained is of another profile.
    let other = seen(json!({"contained": [person(json!({"id": "p"})), young()], "performer": [{"reference": "#p"}]}));
    assert!(told(&other, Severity::Error).iter().all(|(place, _)| place != "Observation.performer"));
    let orphan = json!({"resourceType": "Patient", "meta": {"profile": [format!("{BASE}orphan")]}, "gender": "male"});
    assert!(
        told(&orphan, Severity::Information).iter().any(|(_, text)| text.starts_with("Not checked: what the profile"))
    );
}
