//! Additional bindings: value sets that hold beside an element's own where another element calls for them, such as the
//! codes of a need's domain.
//!
//! Read are those whose use is told by the codes of an element of the resource (`usage`), or that always hold. Leaves
//! out uses for people (`ui`, `starter`) and contexts that no instance tells, such as a jurisdiction.
//! <http://hl7.org/fhir/tools/StructureDefinition/additional-binding>

use serde_json::{Map, Value};

use crate::fhir::definitions::Strength;
use crate::fhir::views::has_coding;

const URL: &str = "http://hl7.org/fhir/tools/StructureDefinition/additional-binding";

/// One of them.
#[derive(Debug)]
pub(in crate::fhir) struct Additional {
    pub strength: Strength,
    pub value_set: String,
    usage: Option<Usage>,
}

/// An element of the resource that has this code.
#[derive(Debug)]
struct Usage {
    element: String,
    system: String,
    code: String,
}

impl Additional {
    /// Those of an element's binding.
    pub(super) fn all(binding: &Value) -> Vec<Additional> {
        let list = binding["extension"].as_array().into_iter().flatten();
        list.filter(|extension| extension["url"] == URL).filter_map(Additional::read).collect()
    }

    fn read(extension: &Value) -> Option<Additional> {
        let parts = || extension["extension"].as_array().into_iter().flatten();
        let part = |name: &str| parts().find(|part| part["url"] == name);
        let strength = match part("purpose")?["valueCode"].as_str()? {
            "required" | "maximum" => Strength::Required,
            "extensible" => Strength::Extensible,
            _ => return None,
        };
        let usage = match part("usage") {
            None => None,
            Some(part) => Some(Usage::read(&part["valueUsageContext"])?),
        };
        Some(Additional { strength, value_set: part("valueSet")?["valueCanonical"].as_str()?.to_string(), usage })
    }

    /// Whether this resource calls for it.
    pub fn holds_in(&self, resource: &Map<String, Value>) -> bool {
        let Some(usage) = &self.usage else { return true };
        let one = |concept: &Value| has_coding(concept, Some(&usage.system), &usage.code);
        match resource.get(&usage.element) {
            Some(Value::Array(list)) => list.iter().any(one),
            Some(concept) => one(concept),
            None => false,
        }
    }
}

impl Usage {
    /// The code of the context is an element's path, such as `ServiceRequest.category`.
    fn read(context: &Value) -> Option<Usage> {
        let (_, element) = context["code"]["code"].as_str()?.split_once('.')?;
        let coding = &context["valueCodeableConcept"]["coding"][0];
        Some(Usage {
            element: element.to_string(),
            system: coding["system"].as_str()?.to_string(),
            code: coding["code"].as_str()?.to_string(),
        })
    }
}
