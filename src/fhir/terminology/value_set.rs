//! A ValueSet as it is held: what it is composed of, and what its publisher has expanded.
//!
//! Leaves out what the parts mean, which hangs on the code systems that are held (the module above).
//! <https://hl7.org/fhir/R4/valueset.html>

use std::collections::HashMap;

use serde_json::Value;

use super::{Concept, DEEPEST};
use crate::fhir::resource::Resource;

/// One `include` or `exclude`: everything in it must hold.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub system: Option<String>,
    pub concepts: Option<Vec<Concept>>,
    pub filters: Vec<Filter>,
    pub sets: Vec<String>,
}

/// What tells the codes of a part among those of its system.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    /// By what stands above a code: this one, where `itself` says whether it counts as its own.
    Under { code: String, itself: bool, wanted: bool },
    /// Anything else: not done here.
    Other,
}

impl Filter {
    fn read(told: &Value) -> Filter {
        let text = |name: &str| told.get(name).and_then(Value::as_str);
        let (Some("concept"), Some(code)) = (text("property"), text("value")) else { return Filter::Other };
        let under = |itself, wanted| Filter::Under { code: code.to_string(), itself, wanted };
        match text("op") {
            Some("is-a") => under(true, true),
            Some("descendent-of") => under(false, true),
            Some("is-not-a") => under(true, false),
            _ => Filter::Other,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Set {
    pub include: Vec<Part>,
    pub exclude: Vec<Part>,
    /// What its publisher has expanded, whole.
    pub expansion: Option<Expansion>,
}

#[derive(Debug, Clone)]
pub(super) struct Expansion {
    pub concepts: Vec<Concept>,
    /// The systems of each code.
    members: HashMap<String, Vec<String>>,
}

impl Expansion {
    /// None where its publisher says that it is a part of the whole.
    fn read(told: &Value) -> Option<Expansion> {
        let extensions = told.get("extension").and_then(Value::as_array).into_iter().flatten();
        let mut urls = extensions.filter_map(|extension| extension.get("url")?.as_str());
        if urls.any(|url| ["/valueset-unclosed", "/valueset-toocostly"].iter().any(|end| url.ends_with(end))) {
            return None;
        }
        let mut concepts = Vec::new();
        contained(told, &mut concepts, 0);
        let total = told.get("total").and_then(Value::as_u64);
        if concepts.is_empty() || total.is_some_and(|total| total > concepts.len() as u64) {
            return None;
        }
        let mut members: HashMap<String, Vec<String>> = HashMap::new();
        for concept in &concepts {
            members.entry(concept.code.clone()).or_default().push(concept.system.clone());
        }
        Some(Expansion { concepts, members })
    }

    pub fn has(&self, system: &str, code: &str) -> bool {
        let systems = self.members.get(code);
        systems.is_some_and(|systems| system.is_empty() || systems.iter().any(|own| own == system))
    }
}

/// The codes of an expansion; what only groups others is none of them.
fn contained(told: &Value, out: &mut Vec<Concept>, depth: usize) {
    let list = told.get("contains").and_then(Value::as_array).filter(|_| depth < DEEPEST);
    for item in list.into_iter().flatten() {
        if item.get("abstract") != Some(&Value::Bool(true)) {
            out.extend(coding(item));
        }
        contained(item, out, depth + 1);
    }
}

impl Set {
    pub fn read(resource: &Resource) -> Option<(String, Set)> {
        let parts = |name: &str| {
            let list = resource.at("compose").and_then(|compose| compose.get(name)).and_then(Value::as_array);
            list.into_iter().flatten().map(Part::read).collect()
        };
        let expansion = resource.at("expansion").and_then(Expansion::read);
        Some((
            resource.text_at("url")?.to_string(),
            Set { include: parts("include"), exclude: parts("exclude"), expansion },
        ))
    }
}

impl Part {
    fn read(value: &Value) -> Part {
        let system = value.get("system").and_then(Value::as_str).map(str::to_string);
        let list = |name: &str| value.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
        let concepts = list("concept").map(|list| {
            let with_system = list.iter().filter_map(|item| {
                let found = coding(item)?;
                Some(Concept { system: system.clone().unwrap_or_default(), ..found })
            });
            with_system.collect()
        });
        let sets = list("valueSet").into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        let filters = list("filter").into_iter().flatten().map(Filter::read).collect();
        Part { concepts, filters, sets, system }
    }
}

fn coding(item: &Value) -> Option<Concept> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_string);
    Some(Concept {
        system: text("system").unwrap_or_default(),
        code: text("code")?,
        display: text("display"),
        definition: None,
    })
}
