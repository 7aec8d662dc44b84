//! Every element of every fixture, broken in every way that R4's JSON forbids whatever the element.

use serde_json::{Value, json};

use super::{errors, findings, fixtures};

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

pub fn places(value: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
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
