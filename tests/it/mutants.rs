//! Mutants: good resources with one rule broken, made by machine from R4's tables and from profiles' definitions. Each
//! must be told as an error at the element that is wrong; what they are made of must pass.

use std::collections::BTreeMap;

use loopgate::fhir::profile::Profiles;
use loopgate::fhir::validate::{Severity, examine};
use serde_json::{Map, Value};

mod base;
mod doors;
mod profiles;
mod rules;
mod snapshot;
mod values;

const FIXTURES: &str = include_str!("validation/fixtures.json");

fn fixtures() -> Map<String, Value> {
    serde_json::from_str(FIXTURES).unwrap()
}

/// A broken resource.
pub struct Mutant {
    /// What kind of rule is broken.
    kind: &'static str,
    /// Which.
    what: String,
    resource: Value,
    /// The places that may be told: one of them, or something within it.
    told: Vec<String>,
}

impl Mutant {
    fn new(kind: &'static str, what: &str, resource: Value, told: &[&str]) -> Self {
        Mutant { kind, what: what.to_string(), resource, told: told.iter().map(|told| (*told).to_string()).collect() }
    }
    fn is_told(&self, errors: &[String]) -> bool {
        let within = |error: &String, told: &String| {
            error
                .strip_prefix(told.as_str())
                .is_some_and(|rest| rest.is_empty() || (told.contains('.') && rest.starts_with(['.', '['])))
        };
        errors.iter().any(|error| self.told.iter().any(|told| within(error, told)))
    }
}

/// Where errors are told.
fn errors(resource: &Value, profiles: &Profiles) -> Vec<String> {
    let found = examine(resource, profiles).into_iter();
    found.filter(|one| one.severity == Severity::Error).filter_map(|one| one.issue.expression).collect()
}

/// Every mutant is told where it should be; says how many of each kind there were.
fn judge(name: &str, mutants: &[Mutant], profiles: &Profiles, least: usize) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut missed = Vec::new();
    for mutant in mutants {
        *kinds.entry(mutant.kind).or_default() += 1;
        let told = errors(&mutant.resource, profiles);
        if !mutant.is_told(&told) {
            missed.push(format!("{}: {} wanted {:?}, told {told:?}", mutant.kind, mutant.what, mutant.told));
        }
    }
    eprintln!("{name}: {} mutants {kinds:?}", mutants.len());
    let shown = missed.len().min(150);
    assert!(missed.is_empty(), "{name}: {} of {} missed:\n{}", missed.len(), mutants.len(), missed[..shown].join("\n"));
    assert!(mutants.len() >= least, "{name}: only {}", mutants.len());
}
