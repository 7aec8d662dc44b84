//! The codes of a need are those of its domain, wherever a deployment has the value sets: VSAC's are licensed and don't
//! ship with the program, a package of them is named by `validation.packages`.

use loopgate::fhir::Resource;
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::profile::package::Package;
use loopgate::fhir::validate::{self, Severity, examine};
use serde_json::{Value, json};

use crate::validation::{fixtures, packed};

const SDOHCC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
const SNOMED: &str = "http://snomed.info/sct";
const LOINC: &str = "http://loinc.org";

fn vsac(number: &str, more: Value) -> Value {
    let url = format!("http://cts.nlm.nih.gov/fhir/ValueSet/2.16.840.1.113762.1.4.1247.{number}");
    let mut set = json!({"resourceType": "ValueSet", "url": url, "status": "active",
        "compose": {"include": [{"system": SNOMED, "filter": [{"property": "concept", "op": "is-a", "value": "1"}]}]}});
    set.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    set
}

fn expanded(number: &str, system: &str, codes: &[&str]) -> Value {
    let codes: Vec<Value> = codes.iter().map(|code| json!({"system": system, "code": code})).collect();
    vsac(number, json!({"expansion": {"timestamp": "2026-01-01", "total": codes.len(), "contains": codes}}))
}

/// A package of value sets and nothing else, as terminologies are published.
fn terminology() -> Package {
    let grouped = json!({"expansion": {"timestamp": "2026-01-01", "contains": [
        {"abstract": true, "display": "all", "contains": [{"system": SNOMED, "code": "467771000124109"}]}]}});
    let listed = json!({"compose": {"include": [{"system": SNOMED, "concept": [{"code": "467681000124101"}]}]}});
    let whole = json!({"expansion": {"timestamp": "2026-01-01", "contains": [{"system": SNOMED, "code": "733423003"}],
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/valueset-toocostly", "valueBoolean": true}]}});
    let all = ["467771000124109", "467681000124101", "710925007"].map(|code| json!({"system": SNOMED, "code": code}));
    let us_core = json!({"resourceType": "ValueSet", "status": "active",
        "url": "http://hl7.org/fhir/us/core/ValueSet/us-core-procedure-code",
        "expansion": {"timestamp": "2026-01-01", "contains": all}});
    let files = [
        json!({"name": "us.nlm.vsac", "version": "0.1.0"}),
        vsac("11", grouped),
        vsac("45", listed),
        expanded("7", SNOMED, &["710925007"]),
        expanded("17", SNOMED, &["733423003"]),
        expanded("311", SNOMED, &["1137434003"]),
        expanded("16", SNOMED, &["1078229009"]),
        expanded("194", LOINC, &["88124-3"]),
        expanded("174", LOINC, &["LA19952-3"]),
        vsac("18", whole),
        us_core,
    ];
    Package::read(&packed(&files)).unwrap()
}

fn category(code: &str) -> Value {
    json!({"coding": [{"system": SDOHCC, "code": code}]})
}

/// The severities of what is told of codes at a place: errors, then what could not be checked.
fn told(resource: &Value, profiles: &Profiles, at: &str) -> (usize, usize) {
    let found = examine(resource, profiles);
    let here = |severity| {
        let same = |finding: &&validate::Finding| {
            finding.severity == severity && finding.issue.expression.as_deref() == Some(at)
        };
        found.iter().filter(same).count()
    };
    (here(Severity::Error), here(Severity::Information))
}

fn coded(mut resource: Value, pointer: &str, code: &str) -> Value {
    *resource.pointer_mut(pointer).unwrap() = json!(code);
    resource
}

// G-070, G-082, G-160, G-163, G-165: the code of another domain is told at its element, and only where it can be known.
#[test]
fn a_code_is_of_its_domains_value_set() {
    let profiles = Profiles::with(&[terminology()]);
    for (name, pointer, at, good, bad) in [
        ("service-request", "/code/coding/0/code", "ServiceRequest.code", "467771000124109", "467681000124101"),
        ("procedure", "/code/coding/0/code", "Procedure.code", "710925007", "467681000124101"),
        ("condition", "/code/coding/0/code", "Condition.code", "733423003", "32911000"),
        ("goal", "/description/coding/0/code", "Goal.description", "1078229009", "710925007"),
        ("screening-response", "/code/coding/0/code", "Observation.code", "88124-3", "71802-3"),
        ("screening-response", "/valueCodeableConcept/coding/0/code", "Observation.value", "LA19952-3", "LA30190-5"),
    ] {
        let resource = fixtures()[name].clone();
        assert_eq!(told(&coded(resource.clone(), pointer, good), &profiles, at).0, 0, "{at}");
        let bad = coded(resource, pointer, bad);
        assert_eq!(told(&bad, &profiles, at).0, 1, "{at}");
        // Without the package nothing is pretended.
        let (errors, open) = told(&bad, Profiles::own(), at);
        assert!(errors == 0 && open > 0, "{at}: {errors} {open}");
    }
    // A write is refused where the referral's own profiles are broken, and stored with a warning elsewhere.
    let check = |resource: Value| validate::check(&Resource::from_value(resource).unwrap(), &profiles);
    let request = coded(fixtures()["service-request"].clone(), "/code/coding/0/code", "467681000124101");
    assert_eq!(check(request).unwrap_err().issues[0].expression.as_deref(), Some("ServiceRequest.code"));
    let condition = coded(fixtures()["condition"].clone(), "/code/coding/0/code", "32911000");
    assert!(!check(condition).unwrap().is_empty());
}

// G-071: of several domains one is enough; one whose codes are not held leaves it open.
#[test]
fn of_several_domains_one_has_the_code() {
    let profiles = Profiles::with(&[terminology()]);
    let at = "ServiceRequest.code";
    let with = |categories: &[&str], code: &str| {
        let mut request = coded(fixtures()["service-request"].clone(), "/code/coding/0/code", code);
        request["category"] = categories.iter().map(|code| category(code)).collect();
        told(&request, &profiles, at)
    };
    assert_eq!(with(&["housing-instability"], "467681000124101"), (0, 0));
    assert_eq!(with(&["housing-instability"], "467771000124109").0, 1);
    assert_eq!(with(&["housing-instability", "food-insecurity"], "467771000124109"), (0, 0));
    assert_eq!(with(&["food-insecurity", "housing-instability"], "467681000124101"), (0, 0));
    assert_eq!(with(&["food-insecurity", "housing-instability"], "710925007").0, 1);
    assert_eq!(with(&["food-insecurity", "veteran-status"], "710925007"), (0, 1));
    // The domain that isn't said allows every code that US Core has, which the package tells as well.
    assert_eq!(with(&["sdoh-category-unspecified"], "467681000124101"), (0, 0));
    assert_eq!(with(&["sdoh-category-unspecified"], "32911000").0, 1);
    assert_eq!(with(&[], "467681000124101"), (0, 0));
}

// G-162: a protective factor is a Condition of that category, with a code of its value set.
#[test]
fn a_protective_factor_has_codes_of_its_own() {
    let profiles = Profiles::with(&[terminology()]);
    let with = |code: &str| {
        let mut condition = coded(fixtures()["condition"].clone(), "/code/coding/0/code", code);
        let categories = condition["category"].as_array_mut().unwrap();
        categories.retain(|one| one["coding"][0]["system"] != SDOHCC);
        categories.push(category("protective-factor"));
        told(&condition, &profiles, "Condition.code").0
    };
    assert_eq!((with("1137434003"), with("733423003")), (0, 1));
}

/// What its publisher says is no whole expansion tells nothing.
#[test]
fn a_part_of_a_value_set_refuses_nothing() {
    let profiles = Profiles::with(&[terminology()]);
    let mut condition = fixtures()["condition"].clone();
    let categories = condition["category"].as_array_mut().unwrap();
    categories.retain(|one| one["coding"][0]["system"] != SDOHCC);
    categories.push(category("homelessness"));
    let (errors, open) = told(&condition, &profiles, "Condition.code");
    assert!(errors == 0 && open > 0);
}

fn places(resource: &Value) -> Vec<String> {
    let found = examine(resource, Profiles::own());
    let errors = found.into_iter().filter(|finding| finding.severity == Severity::Error);
    errors.filter_map(|finding| finding.issue.expression).collect()
}

// G-166: what groups answers has a panel's code; what an answer was made from is let stand (`back.rs` shows it passed on).
#[test]
fn a_grouping_answer_has_a_panels_code() {
    let mut answer = fixtures()["screening-response"].clone();
    answer["derivedFrom"] = json!([{"reference": "QuestionnaireResponse/1"}]);
    answer["hasMember"] = json!([{"reference": "Observation/2"}]);
    assert_eq!(places(&answer), Vec::<String>::new());
    answer["code"] = json!({"coding": [{"system": SNOMED, "code": "733423003"}]});
    assert!(places(&answer).contains(&"Observation.code".to_string()), "{:?}", places(&answer));
    answer.as_object_mut().unwrap().shift_remove("hasMember");
    let found = examine(&answer, Profiles::own());
    assert!(found.iter().all(|finding| !finding.issue.text.contains("lg-panel")), "{found:?}");
}

// G-008, G-014: a reason for absence stands where US Core lets it, and not for what the guide's own profiles demand.
#[test]
fn a_reason_stands_for_a_value_only_where_the_profile_lets_it() {
    let absent = json!({"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]});
    for (name, element, at) in [
        ("referral-task", "for", "Task.for"),
        ("referral-task", "focus", "Task.focus"),
        ("referral-task", "requester", "Task.requester"),
        ("referral-task", "code", "Task.code"),
        ("referral-task", "_status", "Task.status"),
        ("referral-task", "_intent", "Task.intent"),
        ("information-task", "owner", "Task.owner"),
        ("procedure", "subject", "Procedure.subject"),
        ("procedure", "code", "Procedure.code"),
        ("condition", "code", "Condition.code"),
        ("condition", "subject", "Condition.subject"),
    ] {
        let mut resource = fixtures()[name].clone();
        resource.as_object_mut().unwrap().shift_remove(element.trim_start_matches('_'));
        resource[element] = absent.clone();
        assert!(places(&resource).contains(&at.to_string()), "{name}.{element}: {:?}", places(&resource));
    }
    // What a referral does not hang on is told and let stand: R4 itself allows it.
    for (name, element, at) in
        [("referral-task", "_authoredOn", "Task.authoredOn"), ("information-task", "_priority", "Task.priority")]
    {
        let mut resource = fixtures()[name].clone();
        resource.as_object_mut().unwrap().shift_remove(element.trim_start_matches('_'));
        resource[element] = absent.clone();
        assert_eq!(places(&resource), Vec::<String>::new(), "{name}.{element}");
        let warned = |finding: &validate::Finding| {
            finding.severity == Severity::Warning && finding.issue.expression.as_deref() == Some(at)
        };
        let found = examine(&resource, Profiles::own());
        assert!(found.iter().any(warned), "{name}.{element}: {found:?}");
    }
    for (name, element) in [
        ("service-request", "subject"),
        ("goal", "subject"),
        ("screening-response", "_effectiveDateTime"),
        ("practitioner-role", "practitioner"),
        ("location", "_name"),
        ("patient", "_gender"),
        ("care-team", "subject"),
    ] {
        let mut resource = fixtures()[name].clone();
        resource.as_object_mut().unwrap().shift_remove(element.trim_start_matches('_'));
        resource[element] = absent.clone();
        assert_eq!(places(&resource), Vec::<String>::new(), "{name}.{element}");
    }
    // The codes US Core has for what is not known, where a code is demanded.
    let unknown =
        json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}]});
    let mut goal = fixtures()["goal"].clone();
    goal["description"] = unknown;
    assert_eq!(places(&goal), Vec::<String>::new());
}
