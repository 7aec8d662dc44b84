//! How the slices of a list are told apart, as a StructureDefinition says it. Finding an item's slice is
//! [`crate::fhir::validate`]'s. <https://hl7.org/fhir/R4/profiling.html#discriminator>

use serde_json::Value;

#[derive(Debug)]
pub(in crate::fhir) struct Slicing {
    pub discriminators: Vec<Discriminator>,
    pub closed: bool,
    /// What belongs to no slice comes after all that do.
    pub open_at_end: bool,
    pub ordered: bool,
}

/// What an item is told apart by.
#[derive(Debug)]
pub(in crate::fhir) struct Discriminator {
    pub kind: Kind,
    /// The way from the item to what is looked at; none if it takes what is not done here.
    pub path: Option<Vec<Step>>,
    /// Whether it is what stands there, or what that refers to.
    pub resolved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fhir) enum Kind {
    Value,
    Exists,
    Type,
    Profile,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::fhir) enum Step {
    Element(String),
    /// `extension('url')`
    Extension(String),
}

impl Discriminator {
    pub fn new(kind: Kind, path: &str) -> Self {
        let (path, resolved) = match path.strip_suffix("resolve()") {
            Some(path) => (path.trim_end_matches('.'), true),
            None => (path, false),
        };
        Discriminator { kind, path: steps(path), resolved }
    }
}

/// The steps of a discriminator's path. <https://hl7.org/fhir/R4/profiling.html#discriminator>
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("extension('") {
            let (url, after) = quoted.split_once("')")?;
            steps.push(Step::Extension(url.to_string()));
            rest = after.strip_prefix('.').unwrap_or(after);
            continue;
        }
        let (step, after) = rest.split_once('.').unwrap_or((rest, ""));
        if step.contains('(') {
            return None;
        }
        if step != "$this" {
            steps.push(Step::Element(step.to_string()));
        }
        rest = after;
    }
    Some(steps)
}

impl Slicing {
    pub fn read(told: &Value) -> Slicing {
        let discriminator = |told: &Value| {
            let kind = match told["type"].as_str()? {
                "value" | "pattern" => Kind::Value,
                "exists" => Kind::Exists,
                "type" => Kind::Type,
                "profile" => Kind::Profile,
                _ => return None,
            };
            Some(Discriminator::new(kind, told["path"].as_str()?))
        };
        Slicing {
            discriminators: told["discriminator"].as_array().into_iter().flatten().filter_map(discriminator).collect(),
            closed: told["rules"] == "closed",
            open_at_end: told["rules"] == "openAtEnd",
            ordered: told["ordered"] == true,
        }
    }
}
