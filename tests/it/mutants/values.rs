//! Smallest values of every type of R4, to put where an element is to stand.

use loopgate::fhir::definitions::{self, Element, Form, Strength, TypeDef, TypeRef};
use serde_json::{Map, Value, json};

const UCUM: &str = "http://unitsofmeasure.org";

/// A good value of this type.
pub fn of(type_: &TypeRef, element: &Element) -> Value {
    let code = || first_code(element);
    match type_.name {
        "Resource" => json!({"resourceType": "Basic", "id": "b", "code": {"text": "x"}}),
        "code" => match element.name {
            "contentType" => json!("text/plain"),
            "currency" => json!("USD"),
            _ => code().map_or(json!("x"), |(_, code)| json!(code)),
        },
        "Coding" => code().map_or(json!({"code": "x"}), |(system, code)| json!({"system": system, "code": code})),
        "CodeableConcept" => {
            code().map_or(json!({"text": "x"}), |(system, code)| json!({"coding": [{"system": system, "code": code}]}))
        }
        "Reference" => match type_.targets.first() {
            Some(target) => json!({"reference": format!("{target}/1")}),
            None => json!({"reference": "Basic/1"}),
        },
        "canonical" => json!("http://example.org/x"),
        _ => plain(type_.def()),
    }
}

/// The first code that a required binding allows, with its system.
fn first_code(element: &Element) -> Option<(&'static str, &'static str)> {
    let binding = element.binding.as_ref().filter(|binding| binding.strength == Strength::Required)?;
    let (system, codes) = definitions::codes(binding.value_set)?.systems().first()?;
    Some((*system, *codes.first()?))
}

pub fn plain(def: &'static TypeDef) -> Value {
    match def.name {
        "boolean" => json!(true),
        "integer" | "positiveInt" | "unsignedInt" => json!(1),
        "decimal" => json!(1.5),
        "date" | "dateTime" => json!("2026-01-02"),
        "instant" => json!("2026-01-02T03:04:05Z"),
        "time" => json!("03:04:05"),
        "base64Binary" => json!("YQ=="),
        "oid" => json!("urn:oid:1.2"),
        "uuid" => json!("urn:uuid:c757873d-ec9a-4326-a141-556f43239520"),
        "uri" | "url" | "canonical" => json!("http://example.org/x"),
        "xhtml" => json!("<div xmlns=\"http://www.w3.org/1999/xhtml\">x</div>"),
        "Extension" => json!({"url": "http://example.org/x", "valueString": "x"}),
        "Age" => json!({"value": 1, "system": UCUM, "code": "a"}),
        "Distance" => json!({"value": 1, "system": UCUM, "code": "m"}),
        "Duration" => json!({"value": 1, "system": UCUM, "code": "h"}),
        "Count" => json!({"value": 1, "system": UCUM, "code": "1"}),
        "Ratio" => json!({"numerator": {"value": 1}, "denominator": {"value": 2}}),
        "Attachment" => json!({"title": "x"}),
        "Identifier" => json!({"value": "x"}),
        "Reference" => json!({"display": "x"}),
        "Dosage" => json!({"text": "x"}),
        "Expression" => json!({"language": "text/fhirpath", "expression": "true"}),
        "ContactPoint" => json!({"system": "phone", "value": "1"}),
        "Timing" => json!({"event": ["2026"]}),
        "TriggerDefinition" => json!({"type": "named-event", "name": "x"}),
        _ if def.form == Form::Primitive => json!("x"),
        _ => {
            let mut map = Map::new();
            for element in def.elements().iter().filter(|element| element.min > 0) {
                put(&mut map, element);
            }
            if map.is_empty() {
                let simple = |element: &&Element| {
                    !["id", "extension", "modifierExtension"].contains(&element.name)
                        && element.types[0].def().form == Form::Primitive
                };
                let one = def.elements().iter().find(simple).or_else(|| def.elements().get(2));
                put(&mut map, one.unwrap_or_else(|| panic!("{} has no elements", def.name)));
            }
            Value::Object(map)
        }
    }
}

/// Puts a good value of the element's first type under its key.
pub fn put(map: &mut Map<String, Value>, element: &Element) {
    put_as(map, element, &element.types[0]);
}

pub fn put_as(map: &mut Map<String, Value>, element: &Element, type_: &TypeRef) {
    let value = of(type_, element);
    map.insert(element.json_key(type_), if element.is_list() { json!([value]) } else { value });
}

/// The smallest resource of this type that R4's structure allows.
pub fn resource(name: &str) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("resourceType".into(), json!(name));
    for element in definitions::resource(name).unwrap().elements().iter().filter(|element| element.min > 0) {
        put(&mut map, element);
    }
    map
}

/// The values that a primitive type must not have.
pub fn bad(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "date" => &["\"2026-13\"", "\"2026-02-30\"", "\"26\"", "\"2026-1-2\"", "\"2026-01-02T03:04:05Z\"", "\"today\""],
        "dateTime" => {
            &["\"2026-13-01\"", "\"2026-02-30\"", "\"2026-01-02T03:04:05\"", "\"2026-01-02T25:00:00Z\"", "\"today\""]
        }
        "instant" => &["\"2026-01-02\"", "\"2026-01-02T03:04:05\"", "\"2026-01-02T03:04Z\"", "\"now\""],
        "time" => &["\"3:04\"", "\"25:00:00\"", "\"03:04\"", "\"03:04:05Z\""],
        "code" => &["\" x\"", "\"x \"", "\"x  y\"", "\"x\\ty\""],
        "id" => {
            &["\"a_b\"", "\"a b\"", "\"a/b\"", "\"0123456789012345678901234567890123456789012345678901234567890123x\""]
        }
        "uri" | "url" | "canonical" => &["\"a b\"", "\"http://x y\""],
        "oid" => &["\"1.2\"", "\"urn:oid:3.1\"", "\"urn:oid:1\""],
        "uuid" => &["\"c757873d-ec9a-4326-a141-556f43239520\"", "\"urn:uuid:1\""],
        "base64Binary" => &["\"YQ\"", "\"!\"", "\"YQ=!\""],
        "integer" => &["1.5", "2147483648", "\"1\"", "1e40"],
        "unsignedInt" => &["-1", "1.5", "2147483648", "\"1\""],
        "positiveInt" => &["0", "-1", "1.5", "2147483648", "\"1\""],
        "decimal" => &["\"1.5\""],
        "boolean" => &["\"true\"", "1"],
        "string" | "markdown" => &["\"a\\u0000\"", "\"\\u0007\""],
        _ => &[],
    }
}
