//! What R4 and our own definitions ask in FHIRPath: read, and told right.

use super::*;
use crate::fhir::definitions;

/// The rules that R4 itself gives its types: all are read.
#[test]
fn all_of_r4s_own_invariants_are_read() {
    let mut count = 0;
    let own = definitions::types().flat_map(|def| {
        let elements = def.elements().iter().flat_map(|element| element.invariants.iter());
        def.invariants().iter().chain(elements)
    });
    for rule in own {
        count += 1;
        if let Err(fault) = Expression::parse(rule.expression) {
            panic!("{}: {}: {fault}", rule.key, rule.expression);
        }
    }
    assert!(count > 200, "{count}");
    for text in ["hasValue() or (children().count() > id.count())", "extension.exists() != value.exists()"] {
        assert!(Expression::parse(text).is_ok());
    }
}

/// What our own definitions ask in FHIRPath is read.
#[test]
fn the_expressions_of_our_own_profiles_are_read() {
    fn expressions(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key == "expression" || key == "fhirPathCriteria" => {
                            found.push(text.clone())
                        }
                        value => expressions(value, found),
                    }
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            expressions(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(), &mut found);
        }
    }
    assert!(found.contains(&"Task.output.value.ofType(Reference)".to_string()), "{found:?}");
    for text in found {
        assert!(Expression::parse(&text).is_ok(), "{text}");
    }
}

/// A valid resource breaks none of its type's rules; a broken one breaks the rule it breaks.
#[test]
fn r4s_invariants_tell_valid_from_broken() {
    let broken = |resource: &Value| -> Vec<&'static str> {
        let def = definitions::resource(resource["resourceType"].as_str().unwrap()).unwrap();
        let fails = |rule: &&definitions::Invariant| {
            let expression = Expression::parse(rule.expression).unwrap();
            let found = expression.is_true(&Context::new(resource), Item::resource(resource));
            found.unwrap_or_else(|fault| panic!("{}: {fault}", rule.key)) != Truth::True
        };
        def.invariants().iter().filter(fails).map(|rule| rule.key).collect()
    };
    let mut patient = person();
    assert_eq!(broken(&patient), Vec::<&str>::new());
    patient["managingOrganization"]["reference"] = json!("#other");
    assert_eq!(broken(&patient), ["dom-3"]);
    patient["contained"][0]["meta"] = json!({"versionId": "1"});
    assert_eq!(broken(&patient), ["dom-3", "dom-4"]);
    let mut task = json!({"resourceType": "Task", "status": "requested", "intent": "order",
        "authoredOn": "2026-11-26T10:00:00Z", "lastModified": "2026-11-26T11:30:00+01:00",
        "text": {"status": "empty", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\"/>"}});
    assert_eq!(broken(&task), Vec::<&str>::new());
    task["lastModified"] = json!("2026-11-26T10:30:00+01:00");
    assert_eq!(broken(&task), ["inv-1"]);
    task.as_object_mut().unwrap().shift_remove("text");
    assert_eq!(broken(&task), ["dom-6", "inv-1"]);
    let bundle = json!({"resourceType": "Bundle", "type": "searchset", "total": 1,
        "entry": [{"fullUrl": "https://a/Task/1", "resource": task, "search": {"mode": "match"}}]});
    assert_eq!(broken(&bundle), Vec::<&str>::new());
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "total": 1, "entry": [{"fullUrl": "https://a/Task/1", "resource": task}]});
    assert_eq!(broken(&bundle), ["bdl-1", "bdl-3"]);
}
