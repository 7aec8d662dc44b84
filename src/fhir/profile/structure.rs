//! One StructureDefinition, read into a tree of what it adds to its base.
//!
//! The snapshot is read where there is one, else the differential; what R4 says already is left out, so that the tree
//! holds what the profile adds and no fault is told twice. Leaves out mustSupport, which is about systems.
//! <https://hl7.org/fhir/R4/profiling.html>

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::Additional;
use super::slicing::Slicing;
use crate::fhir::definitions::{self, Element, Strength, TypeDef};
use crate::fhir::path::{Expression, Fault};

/// R4's own canonicals: what they are about is checked along the tables.
const CORE: &str = "http://hl7.org/fhir/StructureDefinition/";
/// The extension that says which other profile an instance of this one meets as well.
const COMPLIES_WITH: &str = "http://hl7.org/fhir/StructureDefinition/structuredefinition-compliesWithProfile";
/// Most elements of one profile.
const MOST_ELEMENTS: usize = 10_000;

/// A profile of a resource or data type, or an extension's definition.
#[derive(Debug)]
pub struct Profile {
    /// Its canonical, without version.
    pub url: String,
    /// What people call it.
    pub title: String,
    /// `Task`, `Extension`, `Quantity`.
    pub type_name: String,
    /// What it builds on.
    pub base: String,
    /// Whether it holds what it builds on as well: it was read from a snapshot.
    pub whole: bool,
    /// Profiles of others that an instance of this one meets.
    pub complies_with: Vec<String>,
    pub(in crate::fhir) root: Node,
}

/// What a profile says of one element.
#[derive(Debug, Default)]
pub(in crate::fhir) struct Node {
    pub min: u64,
    pub max: Option<u64>,
    pub fixed: Option<Value>,
    pub pattern: Option<Value>,
    pub binding: Option<(Strength, String)>,
    pub additional: Vec<Additional>,
    pub types: Vec<Type>,
    pub rules: Vec<Rule>,
    pub children: Vec<Child>,
    pub slicing: Option<Slicing>,
    pub slices: Vec<(String, Node)>,
}

/// An element within, or a choice when it holds one type.
#[derive(Debug)]
pub(in crate::fhir) struct Child {
    pub name: String,
    pub only: Option<&'static str>,
    pub node: Node,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::fhir) struct Type {
    pub code: String,
    pub profiles: Vec<String>,
    pub targets: Vec<String>,
}

#[derive(Debug)]
pub(in crate::fhir) struct Rule {
    pub key: String,
    pub error: bool,
    /// The one element that its definition says it is a condition of; it is told there.
    pub at: Option<String>,
    pub text: String,
    pub expression: Result<Expression, Fault>,
}

impl Profile {
    /// Reads a StructureDefinition; `None` for one that constrains nothing (a logical model, a base type).
    pub fn read(definition: &Map<String, Value>) -> Option<Profile> {
        let text = |name: &str| definition.get(name).and_then(Value::as_str);
        if text("resourceType") != Some("StructureDefinition") || text("derivation") != Some("constraint") {
            return None;
        }
        let type_name = text("type")?;
        let def = definitions::of(type_name)?;
        let elements =
            ["snapshot", "differential"].iter().find_map(|form| definition.get(*form)?.get("element")?.as_array());
        let mut root = Node::default();
        let mut conditions: Vec<(&str, &str)> = Vec::new();
        for element in elements?.iter().take(MOST_ELEMENTS) {
            let id = element.get("id").or_else(|| element.get("path")).and_then(Value::as_str)?;
            let segments = id.split('.').skip(1);
            if let (Some(name), None) = (segments.clone().next(), segments.clone().nth(1)) {
                let keys = element["condition"].as_array().into_iter().flatten().filter_map(Value::as_str);
                conditions.extend(keys.map(|key| (key, name.trim_end_matches("[x]"))));
            }
            root.place(def, segments, element);
        }
        root.prune();
        for rule in &mut root.rules {
            if let [one] = conditions.iter().filter(|(key, _)| *key == rule.key).collect::<Vec<_>>().as_slice() {
                rule.at = Some(one.1.to_string());
            }
        }
        let extensions = definition.get("extension").and_then(Value::as_array).into_iter().flatten();
        let complies = extensions.filter(|extension| extension["url"] == COMPLIES_WITH);
        Some(Profile {
            url: text("url")?.to_string(),
            title: text("title").or_else(|| text("name")).unwrap_or(type_name).to_string(),
            type_name: type_name.to_string(),
            base: text("baseDefinition").map(bare).unwrap_or_default().to_string(),
            whole: definition.contains_key("snapshot"),
            complies_with: complies
                .filter_map(|extension| extension["valueCanonical"].as_str())
                .map(str::to_string)
                .collect(),
            root,
        })
    }
}

/// A canonical without its version.
pub(in crate::fhir) fn bare(canonical: &str) -> &str {
    canonical.split('|').next().unwrap_or(canonical)
}

impl Node {
    /// Finds the place of an element of the profile, making the way there, and notes what it says.
    fn place<'s>(&mut self, def: &'static TypeDef, segments: impl Iterator<Item = &'s str>, told: &Value) {
        let mut node = self;
        let mut def = Some(def);
        let mut element: Option<&'static Element> = None;
        let mut extension = false;
        let mut in_slice = false;
        for segment in segments {
            let (name, slice) = segment.split_once(':').map_or((segment, None), |(name, slice)| (name, Some(slice)));
            let name = name.trim_end_matches("[x]");
            let holder = def.take();
            let by_key = |key: &str| holder.and_then(|holder| holder.element_for_json_key(key));
            element = holder.and_then(|holder| holder.element(name));
            let mut only = None;
            // `valueString` as a name, and `value[x]:valueString` as a slice, are the choice when it holds that type.
            if element.is_none()
                && let Some((choice, type_)) = by_key(name)
            {
                element = Some(choice);
                only = Some(type_.def());
            }
            let typed = slice.and_then(by_key).filter(|(choice, _)| choice.choice && choice.name == name);
            let slice = if let Some((_, type_)) = typed {
                only = Some(type_.def());
                None
            } else {
                slice
            };
            def = only.or_else(|| match element.map(|element| element.types.as_slice()) {
                Some([one]) => Some(one.def()),
                _ => None,
            });
            extension = matches!(name, "extension" | "modifierExtension");
            in_slice = only.is_some();
            let name = element.map_or(name, |element| element.name);
            node = node.child(name, only.map(|def| def.name));
            // `gov/official` is a slice of the slice `gov`.
            for slice in slice.into_iter().flat_map(|slice| slice.split('/')) {
                node = node.slice(slice);
                in_slice = true;
            }
        }
        // A slice has cardinalities of its own; elsewhere R4's are checked along the tables.
        node.note(told, element.filter(|_| !in_slice));
        // The types of a choice are told apart by their keys; its list of types says which may be there.
        if element.is_some_and(|element| element.choice) {
            node.slicing = None;
        }
        if extension && in_slice {
            node.name_extension();
        }
    }

    fn child(&mut self, name: &str, only: Option<&'static str>) -> &mut Node {
        let found = self.children.iter().position(|child| child.name == name && child.only == only);
        let at = found.unwrap_or(self.children.len());
        if found.is_none() {
            self.children.push(Child { name: name.to_string(), only, node: Node::default() });
        }
        &mut self.children[at].node
    }

    fn slice(&mut self, name: &str) -> &mut Node {
        let found = self.slices.iter().position(|(own, _)| own == name);
        let at = found.unwrap_or(self.slices.len());
        if found.is_none() {
            self.slices.push((name.to_string(), Node::default()));
        }
        &mut self.slices[at].1
    }

    fn note(&mut self, told: &Value, element: Option<&'static Element>) {
        let base_min = element.map_or(0, |element| u64::from(element.min));
        self.min = told["min"].as_u64().filter(|min| *min > base_min).unwrap_or(0);
        let max = told["max"].as_str().and_then(|max| max.parse::<u64>().ok());
        self.max =
            max.filter(|max| element.is_none_or(|element| element.max.is_none_or(|base| *max < u64::from(base))));
        let by_prefix = |prefix: &str| {
            let mut own = told.as_object().into_iter().flatten();
            let found = own.find(|(key, _)| {
                key.strip_prefix(prefix).is_some_and(|type_| type_.starts_with(|c: char| c.is_ascii_uppercase()))
            });
            found.map(|(_, value)| value.clone())
        };
        self.fixed = by_prefix("fixed");
        self.pattern = by_prefix("pattern");
        self.binding = binding(&told["binding"]).filter(|(_, url)| {
            element.and_then(|element| element.binding.as_ref()).is_none_or(|base| base.value_set != bare(url))
        });
        self.additional = Additional::all(&told["binding"]);
        self.types = types(&told["type"], element);
        self.rules = told["constraint"].as_array().into_iter().flatten().filter_map(rule).collect();
        self.rules.extend(limits(told));
        if told["slicing"].is_object() {
            self.slicing = Some(Slicing::read(&told["slicing"]));
        }
    }

    /// A slice of extensions is told by the canonical of its definition.
    fn name_extension(&mut self) {
        let url = self.types.first().and_then(|type_| type_.profiles.first()).map(|url| bare(url).to_string());
        let Some(url) = url else { return };
        let child = self.child("url", None);
        if child.fixed.is_none() {
            child.fixed = Some(Value::String(url));
        }
    }

    /// Whether this is the slice of the extensions with this URL.
    pub fn is_extension(&self, url: &str) -> bool {
        let told = self.children.iter().find(|child| child.name == "url").and_then(|child| child.node.fixed.as_ref());
        told.is_some_and(|told| told == url)
    }

    /// Takes out what says nothing.
    fn prune(&mut self) {
        for child in &mut self.children {
            child.node.prune();
        }
        for (_, slice) in &mut self.slices {
            slice.prune();
        }
        self.children.retain(|child| !child.node.is_silent());
        if self.slices.is_empty() && self.slicing.as_ref().is_none_or(|slicing| !slicing.closed) {
            self.slicing = None;
        }
    }

    fn is_silent(&self) -> bool {
        self.min == 0
            && self.max.is_none()
            && self.fixed.is_none()
            && self.pattern.is_none()
            && self.binding.is_none()
            && self.additional.is_empty()
            && self.types.is_empty()
            && self.rules.is_empty()
            && self.children.is_empty()
            && self.slicing.is_none()
            && self.slices.is_empty()
    }
}

fn binding(told: &Value) -> Option<(Strength, String)> {
    let strength = match told["strength"].as_str()? {
        "required" => Strength::Required,
        "extensible" => Strength::Extensible,
        _ => return None,
    };
    Some((strength, told["valueSet"].as_str()?.to_string()))
}

/// The types that are left, where they are fewer or narrower than R4's.
fn types(told: &Value, element: Option<&'static Element>) -> Vec<Type> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(|url| bare(url).to_string()).collect()
    };
    let types: Vec<Type> = told
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|type_| {
            let code = type_["code"].as_str()?.to_string();
            Some(Type { code, profiles: list(&type_["profile"]), targets: list(&type_["targetProfile"]) })
        })
        .collect();
    // R4 writes the types of ids and the like as FHIRPath's own.
    if types.iter().any(|type_| type_.code.starts_with("http://hl7.org/fhirpath/")) {
        return Vec::new();
    }
    let as_base = element.is_some_and(|element| {
        types.len() == element.types.len()
            && types.iter().all(|type_| {
                let base = element.types.iter().find(|base| base.name == type_.code);
                type_.profiles.is_empty() && base.is_some_and(|base| same_targets(&type_.targets, &base.targets))
            })
    });
    if as_base { Vec::new() } else { types }
}

fn same_targets(told: &[String], base: &[&str]) -> bool {
    let names: Option<Vec<&str>> = told.iter().map(|url| url.strip_prefix(CORE)).collect();
    names.is_some_and(|mut names| {
        names.retain(|name| *name != "Resource");
        names.len() == base.len() && names.iter().all(|name| base.contains(name))
    })
}

fn rule(told: &Value) -> Option<Rule> {
    let key = told["key"].as_str()?;
    let of_r4 = match told["source"].as_str() {
        Some(source) => bare(source).strip_prefix(CORE).is_some_and(|name| definitions::of(name).is_some()),
        None => false,
    };
    if of_r4 || (told["source"].is_null() && known_keys().contains(key)) {
        return None;
    }
    let expression = told["expression"].as_str()?;
    Some(Rule {
        key: key.to_string(),
        at: None,
        error: told["severity"] == "error",
        text: told["human"].as_str().unwrap_or_default().trim_end_matches('.').to_string(),
        expression: Expression::parse(expression),
    })
}

/// `maxLength`, `minValue[x]` and `maxValue[x]`, as rules.
fn limits(told: &Value) -> impl Iterator<Item = Rule> {
    let rule = |key: &str, text: String, expression: String| Rule {
        key: key.to_string(),
        error: true,
        at: None,
        text,
        expression: Expression::parse(&expression),
    };
    let longest = told["maxLength"].as_u64();
    let longest = longest
        .map(|most| rule("maxLength", format!("At most {most} characters"), format!("$this.length() <= {most}")));
    let ends = told.as_object().into_iter().flatten().filter_map(move |(name, value)| {
        let (key, text, type_, order) = match (name.strip_prefix("minValue"), name.strip_prefix("maxValue")) {
            (Some(type_), _) => ("minValue", "No less than", type_, ">="),
            (_, Some(type_)) => ("maxValue", "No more than", type_, "<="),
            (None, None) => return None,
        };
        let (of, shown) = match (type_, value) {
            ("Quantity", value) => ("value", value.get("value")?.to_string()),
            ("Date" | "DateTime" | "Instant", Value::String(date)) => ("$this", format!("@{date}")),
            ("Time", Value::String(time)) => ("$this", format!("@T{time}")),
            (_, Value::Number(number)) => ("$this", number.to_string()),
            _ => return None,
        };
        Some(rule(key, format!("{text} {}", shown.trim_start_matches(['@', 'T'])), format!("{of} {order} {shown}")))
    });
    longest.into_iter().chain(ends)
}

/// The keys of R4's own invariants.
fn known_keys() -> &'static HashSet<&'static str> {
    static KEYS: OnceLock<HashSet<&'static str>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let types = definitions::types();
        let rules =
            types.flat_map(|def| def.invariants().iter().chain(def.elements().iter().flat_map(|e| &e.invariants)));
        rules.map(|rule| rule.key).chain(["ele-1", "ext-1"]).collect()
    })
}
