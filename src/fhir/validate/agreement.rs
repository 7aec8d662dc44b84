//! R4's invariants twice: our functions against the FHIRPath evaluator over the expressions as published, on good
//! resources and on many broken ones.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::invariant::{self, Verdict};
use crate::fhir::definitions::{self, Element, Form, TypeDef, TypeRef};
use crate::fhir::path::{Context, Expression, Item, Truth};
use crate::fhir::published;

/// Rules whose function differs from the published expression on purpose.
const APART: &[(&str, &str)] = &[
    ("ppc-2", "its expression asks for a scope of the system “something”, which nothing has"),
    ("ppc-3", "as ppc-2"),
    ("ppc-4", "as ppc-2"),
    ("ppc-5", "as ppc-2"),
    ("txt-1", "checked where the narrative's text is"),
    ("txt-2", "checked where the narrative's text is"),
    ("dom-2", "checked by the walk"),
    ("dom-3", "checked by the walk"),
    ("dom-4", "checked by the walk"),
    ("dom-5", "checked by the walk"),
];

/// A place that is an object, the resource that its `#…` refer to, and what it is.
struct Spot {
    pointer: String,
    root: String,
    def: &'static TypeDef,
}

fn spots(def: &'static TypeDef, value: &Value, pointer: &str, root: &str, out: &mut Vec<Spot>) {
    let Some(map) = value.as_object() else { return };
    out.push(Spot { pointer: pointer.into(), root: root.into(), def });
    for (key, value) in map {
        let Some((_, type_)) = def.element_for_json_key(key) else { continue };
        let list = value.as_array();
        let each: Vec<(String, &Value)> = match list {
            Some(list) => list.iter().enumerate().map(|(n, one)| (format!("{pointer}/{key}/{n}"), one)).collect(),
            None => vec![(format!("{pointer}/{key}"), value)],
        };
        for (at, one) in each {
            if type_.name != "Resource" {
                spots(type_.def(), one, &at, root, out);
            } else if let Some(def) = one["resourceType"].as_str().and_then(definitions::resource) {
                spots(def, one, &at, if key == "contained" { root } else { &at }, out);
            }
        }
    }
}

/// Something to put where an element is not.
fn sample(element: &Element, type_: &TypeRef) -> Value {
    let one = match (type_.def().form, type_.name) {
        (_, "Resource") => json!({"resourceType": "Basic", "code": {"text": "x"}}),
        (Form::Primitive, "boolean") => json!(true),
        (Form::Primitive, "integer" | "positiveInt" | "unsignedInt" | "decimal") => json!(1),
        (Form::Primitive, "date" | "dateTime") => json!("2026-01-01"),
        (Form::Primitive, "instant") => json!("2026-01-01T00:00:00Z"),
        (Form::Primitive, _) => json!("x"),
        _ => json!({"extension": [{"url": "http://x.test", "valueString": "x"}]}),
    };
    if element.is_list() { json!([one]) } else { one }
}

/// Everything that is one change away: a key less, a key more, another value.
fn changes(def: &'static TypeDef, map: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let mut out = Vec::new();
    for (key, value) in map.iter().filter(|(key, _)| *key != "resourceType") {
        let mut less = map.clone();
        less.shift_remove(key);
        out.push(less);
        let others: &[Value] = match value {
            Value::Number(_) => &[json!(-1), json!(0), json!(1.5)],
            Value::String(_) => {
                &[json!("x"), json!("2000-01-01"), json!("display"), json!("group"), json!("transaction")]
            }
            Value::Bool(_) => &[json!(true), json!(false)],
            _ => &[],
        };
        for other in others {
            let mut changed = map.clone();
            changed.insert(key.clone(), other.clone());
            out.push(changed);
        }
    }
    for element in def.elements() {
        let Some(type_) = element.types.first() else { continue };
        let key = if element.choice { element.json_key(type_) } else { element.name.to_string() };
        if !map.contains_key(&key) && element.name != "contained" {
            let mut more = map.clone();
            more.insert(key, sample(element, type_));
            out.push(more);
        }
    }
    out
}

#[derive(Default)]
struct Compared {
    expressions: BTreeMap<&'static str, Option<Expression>>,
    /// How often a rule was found to hold, and to be broken, by both.
    agreed: BTreeMap<String, (usize, usize)>,
    apart: BTreeSet<String>,
    unsure: BTreeSet<String>,
}

impl Compared {
    fn spot(&mut self, whole: &Value, spot: &Spot) {
        let (Some(value), Some(root)) = (whole.pointer(&spot.pointer), whole.pointer(&spot.root)) else { return };
        let Some(map) = value.as_object() else { return };
        // Without what is required, an expression speaks of nothing; that is told anyhow.
        let there = |element: &Element| {
            element.types.iter().any(|type_| {
                let key = if element.choice { element.json_key(type_) } else { element.name.to_string() };
                map.contains_key(&key)
            })
        };
        if spot.def.elements().iter().any(|element| element.min > 0 && !there(element)) {
            return;
        }
        for rule in spot.def.invariants() {
            let ours = match invariant::check(spot.def.name, rule.key, map, root) {
                Verdict::Holds => true,
                Verdict::Broken(_) => false,
                Verdict::Unknown => continue,
            };
            if APART.iter().any(|(key, _)| *key == rule.key) {
                continue;
            }
            let read =
                self.expressions.entry(rule.expression).or_insert_with(|| Expression::parse(rule.expression).ok());
            let name = format!("{} {}", spot.def.name, rule.key);
            let context = Context::new(root);
            let item = if map.contains_key("resourceType") {
                Item::resource(value)
            } else {
                Item::element(Some(value), None, spot.def)
            };
            let truth = read.as_ref().and_then(|expression| expression.is_true(&context, item).ok());
            match truth {
                None => drop(self.unsure.insert(name)),
                // Neither true nor false, as where what is compared is not there.
                Some(Truth::Empty) => {}
                Some(truth) if ours == (truth != Truth::False) => {
                    let (held, broken) = self.agreed.entry(name).or_default();
                    *(if ours { held } else { broken }) += 1;
                }
                Some(truth) => drop(self.apart.insert(format!("{name}: ours {ours}, by path {truth:?}: {value}"))),
            }
        }
    }
}

#[test]
fn our_functions_and_the_published_expressions_agree() {
    let fixtures: Map<String, Value> =
        serde_json::from_str(include_str!("../../../tests/it/validation/fixtures.json")).unwrap();
    let mut seeds: Vec<Value> = fixtures.into_iter().map(|(_, value)| value).collect();
    seeds.extend(more());
    let mut compared = Compared::default();
    for seed in published::all() {
        let value = Value::Object(seed.elements().clone());
        let Some(def) = definitions::resource(seed.kind().name()) else { continue };
        let mut all = Vec::new();
        spots(def, &value, "", "", &mut all);
        all.iter().for_each(|spot| compared.spot(&value, spot));
    }
    for seed in &seeds {
        let def = definitions::resource(seed["resourceType"].as_str().unwrap()).unwrap();
        let mut all = Vec::new();
        spots(def, seed, "", "", &mut all);
        all.iter().for_each(|spot| compared.spot(seed, spot));
        for spot in &all {
            let map = seed.pointer(&spot.pointer).unwrap().as_object().unwrap();
            for changed in changes(spot.def, map) {
                let mut mutant = seed.clone();
                *mutant.pointer_mut(&spot.pointer).unwrap() = Value::Object(changed);
                // What was not touched gives the same answer as before.
                let above = |other: &&Spot| spot.pointer.starts_with(&other.pointer);
                all.iter().filter(above).for_each(|spot| compared.spot(&mutant, spot));
            }
        }
    }
    assert!(compared.apart.is_empty(), "{}", compared.apart.into_iter().collect::<Vec<_>>().join("\n"));
    // A date against what is none can't be compared; against a date it can.
    compared.unsure.retain(|name| !compared.agreed.contains_key(name));
    assert!(compared.unsure.is_empty(), "not comparable: {:?}", compared.unsure);
    let both = compared.agreed.values().filter(|(held, broken)| *held > 0 && *broken > 0).count();
    let one: Vec<_> = compared.agreed.iter().filter(|(_, (held, broken))| *held == 0 || *broken == 0).collect();
    assert!(both > 60, "{both} rules seen both ways; these were not: {one:?}");
}

/// Data types that the good resources have none of.
fn more() -> Vec<Value> {
    vec![
        json!({"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"reference": "#p"},
            "contained": [{"resourceType": "Patient", "id": "p"}], "code": {"text": "x"}, "orderDetail": [{"text": "x"}],
            "occurrenceTiming": {"repeat": {"boundsRange": {"low": {"value": 1, "code": "d", "system": "http://unitsofmeasure.org"},
                "high": {"value": 2, "code": "d", "system": "http://unitsofmeasure.org"}}, "count": 1, "countMax": 2, "duration": 1.5,
                "durationMax": 2, "durationUnit": "h", "frequency": 1, "period": 1, "periodMax": 2, "periodUnit": "d",
                "when": ["MORN"], "offset": 5}},
            "quantityRatio": {"numerator": {"value": 1}, "denominator": {"value": 2}}}),
        json!({"resourceType": "FamilyMemberHistory", "status": "completed", "patient": {"reference": "Patient/1"},
            "relationship": {"text": "x"}, "ageAge": {"value": 40, "code": "a", "system": "http://unitsofmeasure.org"},
            "estimatedAge": true, "condition": [{"code": {"text": "x"},
                "onsetAge": {"value": 30, "code": "a", "system": "http://unitsofmeasure.org"}}]}),
        json!({"resourceType": "Observation", "status": "final", "code": {"coding": [{"system": "urn:s", "code": "a"}]},
            "valueQuantity": {"value": 1, "code": "g", "system": "http://unitsofmeasure.org"},
            "component": [{"code": {"coding": [{"system": "urn:s", "code": "b"}]}, "valueString": "x"}],
            "referenceRange": [{"low": {"value": 1}, "high": {"value": 2}, "text": "x"}],
            "effectivePeriod": {"start": "2026-01-01", "end": "2026-02-01"}}),
        json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"},
            "dataAbsentReason": {"text": "x"}, "valueSampledData": {"origin": {"value": 1}, "period": 1, "dimensions": 1}}),
        json!({"resourceType": "Questionnaire", "status": "draft", "name": "Good", "item": [
            {"linkId": "1", "type": "group", "item": [{"linkId": "1.1", "type": "choice", "answerOption": [{"valueString": "a"}]},
                {"linkId": "1.2", "type": "display", "text": "t"}]},
            {"linkId": "2", "type": "string", "maxLength": 5, "initial": [{"valueString": "x"}],
                "enableWhen": [{"question": "1.1", "operator": "exists", "answerBoolean": true}]}]}),
        json!({"resourceType": "Bundle", "type": "history", "total": 1, "entry": [{"fullUrl": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
            "resource": {"resourceType": "Patient"}, "request": {"method": "PUT", "url": "Patient/1"},
            "response": {"status": "200", "lastModified": "2026-01-01T00:00:00Z"}}]}),
        json!({"resourceType": "Bundle", "type": "searchset", "entry": [{"fullUrl": "http://e/Patient/1",
            "resource": {"resourceType": "Patient", "id": "1"}, "search": {"mode": "match"}}]}),
        json!({"resourceType": "Bundle", "type": "document", "timestamp": "2026-01-01T00:00:00Z",
            "identifier": {"system": "urn:x", "value": "1"}, "entry": [{"fullUrl": "http://e/Composition/1",
            "resource": {"resourceType": "Composition", "id": "1"}}]}),
        json!({"resourceType": "Patient", "contact": [{"name": {"text": "x"}}],
            "identifier": [{"period": {"start": "2026", "end": "2027"}}], "telecom": [{"system": "phone", "value": "1"}],
            "photo": [{"contentType": "image/png", "data": "AAAA"}]}),
        json!({"resourceType": "Condition", "subject": {"reference": "Patient/1"}, "abatementDateTime": "2026",
            "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "resolved"}]},
            "verificationStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": "entered-in-error"}]},
            "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-category", "code": "problem-list-item"}]}],
            "stage": [{"summary": {"text": "x"}}], "evidence": [{"code": [{"text": "x"}]}]}),
        json!({"resourceType": "CarePlan", "status": "active", "intent": "plan", "subject": {"reference": "Patient/1"},
            "activity": [{"detail": {"status": "scheduled", "dailyAmount": {"value": 1}}}]}),
        json!({"resourceType": "NutritionOrder", "status": "active", "intent": "order", "patient": {"reference": "Patient/1"},
            "dateTime": "2026", "oralDiet": {"instruction": "x"}}),
        json!({"resourceType": "Immunization", "status": "completed", "patient": {"reference": "Patient/1"}, "vaccineCode": {"text": "x"},
            "occurrenceString": "x", "education": [{"documentType": "x"}]}),
        json!({"resourceType": "Group", "type": "person", "actual": true, "member": [{"entity": {"reference": "Patient/1"}}]}),
        json!({"resourceType": "Goal", "lifecycleStatus": "active", "description": {"text": "x"}, "subject": {"reference": "Patient/1"},
            "target": [{"measure": {"text": "x"}, "detailString": "x"}]}),
        json!({"resourceType": "CareTeam", "participant": [{"member": {"reference": "Practitioner/1"}}]}),
    ]
}
