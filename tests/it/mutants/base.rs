//! R4 itself: every element of every type that is held, put in alone, must pass; broken in every way, must be told.

use std::collections::HashSet;

use loopgate::fhir::ResourceType;
use loopgate::fhir::definitions::{self, Element, Form, Strength, TypeDef, TypeRef};
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::validate::{Finding, Severity, examine};
use serde_json::{Map, Value, json};

use super::{Mutant, errors, judge, values};

/// How deep elements within elements are tried.
const DEEPEST: usize = 3;

struct Tried {
    /// The whole resource, and where in it the element stands.
    resource: Value,
    pointer: String,
    expression: String,
}

/// Every element of a type, alone in the smallest resource; those within it too.
fn each(
    def: &'static TypeDef,
    base: &Value,
    at: (&str, &str),
    depth: usize,
    found: &mut dyn FnMut(&'static Element, &'static TypeRef, &Tried) -> bool,
) {
    let (pointer, expression) = at;
    for element in def.elements() {
        // What is contained has rules of its own (`validation/mutants.txt`).
        let once = ["extension", "modifierExtension", "id"].contains(&element.name) && depth > 0;
        if once || element.name == "contained" {
            continue;
        }
        for type_ in &element.types {
            // One of each kind is enough of Extension's fifty.
            if def.name == "Extension" && !["string", "Reference", "Period", "instant"].contains(&type_.name) {
                continue;
            }
            let mut resource = base.clone();
            let holder = resource.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
            for other in &element.types {
                holder.shift_remove(&element.json_key(other));
            }
            values::put_as(holder, element, type_);
            let item = if element.is_list() { ("/0", "[0]") } else { ("", "") };
            let inner = format!("{pointer}/{}{}", element.json_key(type_), item.0);
            let told = format!("{expression}.{}{}", element.name, item.1);
            let tried = Tried { resource, pointer: inner, expression: told };
            if !found(element, type_, &tried) {
                continue;
            }
            let within = type_.def();
            let wide = within.form == Form::Element || (within.form == Form::Complex && depth == 0);
            let bound = element.binding.as_ref().is_some_and(|binding| binding.strength == Strength::Required);
            if wide && !bound && depth < DEEPEST && !["Extension", "Reference", "Meta"].contains(&within.name) {
                let next = if within.form == Form::Element { depth + 1 } else { DEEPEST };
                each(within, &tried.resource, (&tried.pointer, &tried.expression), next, found);
            }
        }
    }
}

fn without_index<'a>(text: &'a str, index: &str) -> &'a str {
    text.strip_suffix(index).unwrap_or(text)
}

fn mutants(element: &'static Element, type_: &'static TypeRef, tried: &Tried) -> Vec<Mutant> {
    let mut out = Vec::new();
    let mut add = |kind: &'static str, pointer: &str, value: Value, told: &[&str]| {
        let mut resource = tried.resource.clone();
        *resource.pointer_mut(pointer).unwrap() = value;
        out.push(Mutant::new(kind, &tried.expression, resource, told));
    };
    let (pointer, here) = (tried.pointer.as_str(), tried.expression.as_str());
    let def = type_.def();
    let good = tried.resource.pointer(pointer).unwrap().clone();
    add("null", pointer, Value::Null, &[here]);
    if def.form == Form::Primitive {
        add("object", pointer, json!({"a": 1}), &[here]);
        add("empty", pointer, json!(""), &[here]);
        let name = if element.name == "id" && !element.xml_attribute { "id" } else { type_.name };
        for bad in values::bad(name) {
            add("format", pointer, serde_json::from_str(bad).unwrap(), &[here]);
        }
    } else {
        add("text", pointer, json!("x"), &[here]);
        add("empty", pointer, json!({}), &[here, &format!("{here}.resourceType")]);
        if let Value::Object(map) = &good {
            let mut more = map.clone();
            more.insert("colour".into(), json!("red"));
            add("unknown", pointer, Value::Object(more), &[&format!("{here}.colour")]);
            for required in def.elements().iter().filter(|inner| inner.min > 0) {
                let mut less = map.clone();
                for type_ in &required.types {
                    less.shift_remove(&required.json_key(type_));
                }
                add("required", pointer, Value::Object(less), &[&format!("{here}.{}", required.name), here]);
            }
        }
    }
    let whole = without_index(pointer, "/0");
    let all = without_index(here, "[0]");
    if element.is_list() {
        add("single", whole, good.clone(), &[all]);
        add("empty list", whole, json!([]), &[all]);
        add("list in list", pointer, json!([good]), &[here]);
    } else {
        add("list", pointer, json!([good]), &[here]);
    }
    if element
        .binding
        .as_ref()
        .is_some_and(|b| b.strength == Strength::Required && definitions::codes(b.value_set).is_some())
    {
        match type_.name {
            "code" => add("binding", pointer, json!("no-such-code"), &[here]),
            "Coding" => add("binding", pointer, json!({"system": "http://x", "code": "no-such-code"}), &[here]),
            "CodeableConcept" => {
                add("binding", pointer, json!({"coding": [{"system": "http://x", "code": "no-such-code"}]}), &[here]);
                add("binding", pointer, json!({"text": "words"}), &[here]);
            }
            _ => {}
        }
    }
    if type_.name == "Reference" && !type_.targets.is_empty() {
        let wrong = ["Basic", "Linkage"].into_iter().find(|name| !type_.targets.contains(name)).unwrap();
        add("target", pointer, json!({"reference": format!("{wrong}/1")}), &[here]);
        add("target", pointer, json!({"reference": format!("https://x.example/fhir/{wrong}/1/_history/2")}), &[here]);
        add("target", pointer, json!({"type": wrong, "display": "x"}), &[here]);
        add("unresolved", pointer, json!({"reference": "#nobody"}), &[here]);
    }
    // What stands beside the key: a second choice, `_key`.
    let (parent, key) = whole.rsplit_once('/').unwrap();
    let mut beside = |kind: &'static str, name: String, value: Value| {
        let mut resource = tried.resource.clone();
        resource.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name, value);
        out.push(Mutant::new(kind, &tried.expression, resource, &[all]));
    };
    if let Some(other) = element.types.iter().find(|other| element.choice && other.name != type_.name) {
        beside("two choices", element.json_key(other), values::of(other, element));
    }
    if def.form == Form::Primitive && type_.name != "xhtml" {
        let extension = json!({"extension": [{"url": "http://e/x", "valueString": "y"}]});
        if element.is_list() {
            beside("beside", format!("_{key}"), extension);
            beside("beside null", format!("_{key}"), json!([null, null]));
            beside("beside empty", format!("_{key}"), json!([{}]));
            beside("beside id", format!("_{key}"), json!([null, {"id": "a"}]));
        } else {
            beside("beside", format!("_{key}"), json!([extension]));
            beside("beside text", format!("_{key}"), json!("x"));
            beside("beside null", format!("_{key}"), Value::Null);
            beside("beside empty", format!("_{key}"), json!({}));
        }
    } else if def.form != Form::Primitive {
        beside("beside complex", format!("_{key}"), json!({"id": "a"}));
    }
    out
}

fn start(kind: &str, fixtures: &Map<String, Value>) -> Value {
    // Where a profile of ours is called for by the type, what it asks for must be there.
    let own =
        fixtures.values().find(|fixture| fixture["resourceType"] == kind && kind != "Task" && kind != "Observation");
    let mut smallest = Value::Object(values::resource(kind));
    if kind == "StructureDefinition" {
        smallest["differential"] = json!({"element": [{"id": "Task", "path": "Task"}]});
        smallest["type"] = json!("Task");
    }
    own.cloned().unwrap_or(smallest)
}

// G-003, R-004, R-141
#[test]
fn every_element_of_r4_passes_alone_and_is_told_when_broken() {
    let fixtures = super::fixtures();
    let mut not_alone = 0;
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for kind in ResourceType::all().map(ResourceType::name).chain(["Bundle", "Parameters", "OperationOutcome"]) {
        let base = start(kind, &fixtures);
        let def = definitions::resource(kind).unwrap();
        assert_eq!(
            errors(&base, Profiles::own()),
            Vec::<String>::new(),
            "{kind} {:#?}",
            examine(&base, Profiles::own())
        );
        each(def, &base, ("", kind), 0, &mut |element, type_, tried| {
            let found = examine(&tried.resource, Profiles::own());
            let mut told = found.iter().filter(|one| one.severity == Severity::Error).peekable();
            let passes = told.peek().is_none();
            if passes {
                all.extend(mutants(element, type_, tried));
            } else {
                // Only what an invariant or a profile asks of the elements beside it keeps an element from passing.
                not_alone += 1;
                let more =
                    |one: &Finding| one.issue.code == "invariant" || one.issue.text.starts_with("By the profile");
                assert!(told.all(more), "{} as {}: {found:#?}", tried.expression, type_.name);
            }
            // A data type is the same wherever it stands: what is within it is tried once.
            passes && (type_.def().form != Form::Complex || seen.insert(type_.name))
        });
    }
    assert!(not_alone < 100, "{not_alone}");
    judge("R4", &all, Profiles::own(), 10_000);
}
