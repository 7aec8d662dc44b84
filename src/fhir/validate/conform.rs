//! A resource against its profiles: what they add to R4, element by element.
//!
//! What can't be told here (a code of a system that is not held, an expression that asks for another server) is
//! information, never a silent pass and never an error. Slices are told apart in [`super::slicing`].
//! <https://hl7.org/fhir/R4/profiling.html>

use serde_json::{Map, Value};

use super::binding::is_member;
use super::place::Place;
use super::reading::text;
use super::{Finding, Severity, Source, contained, definition_of, target_type};
use crate::fhir::definitions::{self, Element, Form, TypeDef, TypeRef};
use crate::fhir::path::{Context, Item, Truth};
use crate::fhir::profile::{Child, Node, Profile, Profiles, Rule};

/// How deep profiles of types may lead into one another.
const DEEPEST: usize = 40;

/// One thing at an element's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occurrence<'a> {
    /// None for a primitive that has extensions alone.
    pub value: Option<&'a Value>,
    pub beside: Option<&'a Value>,
    pub def: &'static TypeDef,
    /// Its number, where the element is a list.
    pub index: Option<usize>,
}

impl Occurrence<'_> {
    /// Whether a profile that names this type means it. A choice's key names its type: a markdown is no string there.
    pub(super) fn is_of(&self, code: &str) -> bool {
        if self.def.form == Form::Primitive { self.def.name == code } else { self.def.is(code) }
    }
}

/// The check of one resource against one profile.
pub(super) struct Conform<'a> {
    pub profiles: &'a Profiles,
    pub profile: &'a Profile,
    pub source: Source,
    pub root: &'a Value,
    pub findings: Vec<Finding>,
    depth: usize,
}

impl<'a> Conform<'a> {
    pub(super) fn new(profiles: &'a Profiles, profile: &'a Profile, source: Source, root: &'a Value) -> Self {
        Conform { profiles, profile, source, root, findings: Vec::new(), depth: 0 }
    }

    /// Checks the resource itself.
    pub(super) fn resource(&mut self, def: &'static TypeDef, place: &Place<'_>) {
        if self.depth >= DEEPEST {
            return;
        }
        if !def.is(&self.profile.type_name) {
            return self.fault("value", place, &format!("this profile is one of {}", self.profile.type_name));
        }
        let Value::Object(map) = self.root else { return };
        let node = &self.profile.root;
        self.children(node, map, def, place);
        self.rules(&node.rules, Item::resource(self.root), place);
    }

    /// Checks one occurrence, such as an extension against its definition.
    pub(super) fn occurrence(&mut self, node: &Node, occurrence: Occurrence<'_>, place: &Place<'_>) {
        if self.depth >= DEEPEST {
            return;
        }
        self.depth += 1;
        let value = occurrence.value.unwrap_or(&Value::Null);
        if node.fixed.as_ref().is_some_and(|fixed| fixed != value) {
            self.fault("value", place, &format!("this is always {}", told(node.fixed.as_ref())));
        }
        if node.pattern.as_ref().is_some_and(|pattern| !matches(pattern, value)) {
            self.fault("value", place, &format!("this holds {}", told(node.pattern.as_ref())));
        }
        if let Some((strength, value_set)) = &node.binding {
            self.binding(*strength, value_set, occurrence, place);
        }
        if !node.additional.is_empty() {
            self.additional(&node.additional, occurrence, place);
        }
        if !node.types.is_empty() {
            self.types(node, occurrence, place);
        }
        if let Some(map) = occurrence.value.or(occurrence.beside).and_then(Value::as_object) {
            self.children(node, map, occurrence.def, place);
        } else if node.children.iter().any(|child| child.node.min > 0) && occurrence.value.is_some() {
            // A primitive without the extensions that it must have.
            self.children(node, &Map::new(), occurrence.def, place);
        }
        self.rules(&node.rules, Item::element(occurrence.value, occurrence.beside, occurrence.def), place);
        self.depth -= 1;
    }

    fn children(&mut self, node: &Node, map: &Map<String, Value>, def: &'static TypeDef, place: &Place<'_>) {
        for child in &node.children {
            let found = occurrences(map, def, child);
            let place = place.at(&child.name);
            self.count(&child.node, found.len(), &place, "");
            for occurrence in &found {
                self.occurrence(&child.node, *occurrence, &place.nth(occurrence.index));
            }
            if !child.node.slices.is_empty() || child.node.slicing.is_some() {
                self.slices(&child.node, &found, &place);
            }
        }
    }

    /// Cardinality, of an element or of one of its slices.
    pub(super) fn count(&mut self, node: &Node, found: usize, place: &Place<'_>, slice: &str) {
        let found = u64::try_from(found).unwrap_or(u64::MAX);
        let of = if slice.is_empty() { String::new() } else { format!(" of the slice {slice}") };
        if found < node.min {
            let text =
                if node.min == 1 { format!("one{of} is required") } else { format!("{}{of} are required", node.min) };
            self.fault("required", place, &text);
        }
        match node.max {
            Some(0) if found > 0 => self.fault("structure", place, &format!("there is none{of}")),
            Some(max) if found > max => self.fault("structure", place, &format!("there are at most {max}{of}")),
            _ => {}
        }
    }

    fn types(&mut self, node: &Node, occurrence: Occurrence<'_>, place: &Place<'_>) {
        let mut fitting = node.types.iter().filter(|type_| occurrence.is_of(&type_.code)).peekable();
        if fitting.peek().is_none() {
            let names: Vec<&str> = node.types.iter().map(|type_| type_.code.as_str()).collect();
            return self.fault("value", place, &format!("this is of the type {}", names.join(" or ")));
        }
        let fitting: Vec<_> = fitting.collect();
        if let ("Reference", Some(map)) = (occurrence.def.name, occurrence.value.and_then(Value::as_object)) {
            let targets: Vec<&str> = fitting.iter().flat_map(|type_| &type_.targets).map(String::as_str).collect();
            self.target(&targets, map, place);
        }
        // A profile of the data type itself.
        let mut profiles = fitting.iter().flat_map(|type_| &type_.profiles).filter_map(|url| self.profiles.get(url));
        if let (Some(profile), None) = (profiles.next(), profiles.next())
            && occurrence.def.form != Form::Resource
        {
            self.occurrence(&profile.root, occurrence, place);
        }
    }

    /// What a Reference may point at, as far as its text and the profiles that are known tell.
    fn target(&mut self, targets: &[&str], reference: &Map<String, Value>, place: &Place<'_>) {
        if targets.is_empty() {
            return;
        }
        let told = text(reference, "reference").and_then(|reference| target_type(reference, self.root));
        let Some(told) = told.or_else(|| text(reference, "type")) else { return };
        let names: Option<Vec<&str>> = targets.iter().map(|url| self.profiles.type_of(url)).collect();
        // One that is not known here may be of any type.
        let Some(mut names) = names else { return };
        names.sort_unstable();
        names.dedup();
        if definitions::resource(told).is_some() && !names.contains(&told) && !names.contains(&"Resource") {
            return self.fault("value", place, &format!("this points at: {}", names.join(", ")));
        }
        // What is contained can be looked at.
        let targets: Vec<String> = targets.iter().map(|url| (*url).to_string()).collect();
        if contained(reference, self.root).and_then(|contained| self.is_of(contained, &targets)) == Some(false) {
            let text = format!("what is contained meets none of: {}", targets.join(", "));
            let found = self.findings.len();
            self.fault("value", place, &text);
            // As it would be told of the resource on its own.
            self.findings.iter_mut().skip(found).for_each(|finding| finding.source = Source::Advising);
        }
    }

    /// Whether a resource at hand meets one of these profiles; `None` if it may be one that is not known here.
    pub(super) fn is_of(&self, resource: &Value, profiles: &[String]) -> Option<bool> {
        let def = definition_of(resource)?;
        let mut told = None;
        for url in profiles {
            if self.profiles.type_of(url).is_some_and(|name| !def.is(name)) {
                told = told.or(Some(false));
                continue;
            }
            let profile = self.profiles.get(url)?;
            let mut duties = Vec::new();
            self.profiles.add(&mut duties, profile);
            let meets = duties.iter().all(|duty| {
                let mut conform = Conform::new(self.profiles, duty.profile, self.source, resource);
                conform.depth = self.depth + 1;
                conform.resource(def, &Place::root(def.name));
                conform.findings.iter().all(|finding| finding.severity != Severity::Error)
            });
            if meets {
                return Some(true);
            }
            told = Some(false);
        }
        told
    }

    fn rules(&mut self, rules: &[Rule], focus: Item<'_>, place: &Place<'_>) {
        if rules.is_empty() {
            return;
        }
        let profiles = self.profiles;
        let member = |item: &Item<'_>, value_set: &str| is_member(profiles, item, value_set);
        for rule in rules {
            let mut context = Context::new(self.root);
            context.member_of = Some(&member);
            let truth = match &rule.expression {
                Ok(expression) => expression.is_true(&context, focus.clone()).map_err(|fault| fault.to_string()),
                Err(fault) => Err(fault.to_string()),
            };
            match truth {
                Ok(Truth::True | Truth::Empty) => {}
                Ok(Truth::False) => {
                    let severity = if rule.error { Severity::Error } else { Severity::Warning };
                    let text = format!("{} ({})", rule.text, rule.key);
                    match &rule.at {
                        Some(at) => self.finding(severity, "invariant", &place.at(at), &text),
                        None => self.finding(severity, "invariant", place, &text),
                    }
                }
                Err(why) => {
                    let text = format!("not checked: {} ({}): {why}", rule.text, rule.key);
                    self.finding(Severity::Information, "informational", place, &text);
                }
            }
        }
    }

    pub(super) fn fault(&mut self, code: &'static str, place: &Place<'_>, text: &str) {
        self.finding(Severity::Error, code, place, text);
    }

    pub(super) fn finding(&mut self, severity: Severity, code: &'static str, place: &Place<'_>, text: &str) {
        let text = format!("By the profile {}: {text}.", self.profile.title);
        self.findings.push(Finding { source: self.source, ..Finding::new(severity, code, text, place.to_string()) });
    }
}

/// What stands at a child's place in this object.
pub(super) fn occurrences<'a>(
    map: &'a Map<String, Value>,
    def: &'static TypeDef,
    child: &Child,
) -> Vec<Occurrence<'a>> {
    let mut found = Vec::new();
    let Some(element) = def.element(&child.name) else { return found };
    if !element.choice {
        let mut types = element.types.iter();
        if let Some(type_) = types.find(|type_| child.only.is_none_or(|only| only == type_.def().name)) {
            stand(map.get(element.name), beside(map, element.name), element, type_, &mut found);
        }
        return found;
    }
    // By the keys that are there: an extension's value has fifty types, and one of them at most.
    for (key, value) in map {
        let bare = key.strip_prefix('_').unwrap_or(key);
        let known = Some(bare).filter(|bare| bare.starts_with(element.name));
        let Some((of, type_)) = known.and_then(|bare| def.element_for_json_key(bare)) else { continue };
        let other = !std::ptr::eq(of, element) || child.only.is_some_and(|only| only != type_.def().name);
        if other {
            continue;
        }
        match bare.len() == key.len() {
            true => stand(Some(value), beside(map, bare), element, type_, &mut found),
            // Else it was seen with its value.
            false if !map.contains_key(bare) => stand(None, Some(value), element, type_, &mut found),
            false => {}
        }
    }
    found
}

/// `_key`
fn beside<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.iter().find(|(name, _)| name.strip_prefix('_') == Some(key)).map(|(_, value)| value)
}

/// The occurrences under one key.
fn stand<'a>(
    value: Option<&'a Value>,
    beside: Option<&'a Value>,
    element: &'static Element,
    type_: &'static TypeRef,
    found: &mut Vec<Occurrence<'a>>,
) {
    let def = |value: Option<&Value>| match type_.name {
        "Resource" => value
            .and_then(|value| value.get("resourceType")?.as_str())
            .and_then(definitions::resource)
            .unwrap_or(type_.def()),
        _ => type_.def(),
    };
    if !element.is_list() {
        if value.is_some() || beside.is_some() {
            found.push(Occurrence { value, beside, def: def(value), index: None });
        }
        return;
    }
    let list = |value: Option<&'a Value>| value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (values, besides) = (list(value), list(beside));
    for index in 0..values.len().max(besides.len()) {
        let there = |list: &'a [Value]| list.get(index).filter(|value| !value.is_null());
        let value = there(values);
        found.push(Occurrence { value, beside: there(besides), def: def(value), index: Some(index) });
    }
}

/// Whether a value holds everything of a pattern. <https://hl7.org/fhir/R4/elementdefinition-definitions.html#ElementDefinition.pattern_x_>
pub(super) fn matches(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::Object(pattern), Value::Object(value)) => {
            pattern.iter().all(|(name, part)| value.get(name).is_some_and(|value| matches(part, value)))
        }
        (Value::Array(pattern), Value::Array(value)) => {
            pattern.iter().all(|part| value.iter().any(|value| matches(part, value)))
        }
        (pattern, value) => pattern == value,
    }
}

/// The codes or the text of what a profile asks for; it comes from the profile, never from the resource.
fn told(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    let codings = value.get("coding").and_then(Value::as_array).map_or(std::slice::from_ref(value), Vec::as_slice);
    let shown = codings.iter().map(|coding| match (coding.get("system"), coding.get("code").and_then(Value::as_str)) {
        (Some(Value::String(system)), Some(code)) => format!("{system}#{code}"),
        (_, Some(code)) => code.to_string(),
        _ => coding.to_string(),
    });
    shown.collect::<Vec<_>>().join(", ")
}
