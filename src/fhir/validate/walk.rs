//! The walk over a resource along the element tables of R4: names, JSON types, cardinalities, formats, codes, reference
//! targets, invariants, contained resources. Every fault is found; nothing is allocated while there is none.
//!
//! What profiles add is [`super::conform`]'s. <https://hl7.org/fhir/R4/validation.html>, <https://hl7.org/fhir/R4/json.html>

use serde_json::{Map, Value};

use super::conform::{Conform, Occurrence};
use super::invariant::{self, Verdict};
use super::place::Place;
use super::primitive::{self, Json};
use super::reading::{any, has, items, text};
use super::{Finding, Severity, Source, conformance, definition_of, narrative};
use crate::fhir::definitions::{self, Binding, Element, Form, Strength, TypeDef, TypeRef};
use crate::fhir::path::{Context, Item, Truth};
use crate::fhir::profile::{Profile, Profiles};

/// Longest reference, in bytes: what both databases can index.
const LONGEST_REFERENCE: usize = 1_000;
/// Most elements that a type of R4 has, by far; one bit each.
const MOST_ELEMENTS: usize = 128;

/// Where a resource stands.
#[derive(Clone, Copy)]
pub(super) enum Position<'p> {
    /// On its own, or in a Bundle or Parameters; what it must meet beside the profiles that it calls for.
    Own(&'p [&'p Profile]),
    /// In `contained`.
    Contained,
}

/// One walk; collects the findings.
pub(super) struct Walk<'w> {
    pub(super) profiles: &'w Profiles,
    pub(super) findings: Vec<Finding>,
}

/// What is looked at: an object, its place, and the resource that its `#…` references look into.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    value: &'a Value,
    pub(super) map: &'a Map<String, Value>,
    pub(super) place: &'a Place<'a>,
    root: &'a Value,
}

impl Walk<'_> {
    /// Walks a resource; `root` holds what it contains.
    pub(super) fn resource(&mut self, value: &Value, root: &Value, place: &Place<'_>, position: Position) {
        let (Some(def), Some(map)) = (definition_of(value), value.as_object()) else {
            return self.structure(&place.at("resourceType"), "A resource says its resourceType, one of R4's.");
        };
        let spot = Spot { value, map, place, root };
        // What is found of this resource alone, so that a Bundle's profiles cost no more the more it holds.
        let others = std::mem::take(&mut self.findings);
        self.elements(def, spot, true);
        match position {
            Position::Own(also) => {
                if map.contains_key("contained") {
                    self.contained(spot);
                }
                conformance(value, self.profiles, also, place, &mut self.findings);
            }
            Position::Contained => self.as_contained(spot),
        }
        let own = std::mem::replace(&mut self.findings, others);
        self.findings.extend(own);
    }

    fn elements(&mut self, def: &'static TypeDef, spot: Spot<'_>, resource: bool) {
        let mut seen: u128 = 0;
        for (key, value) in spot.map {
            if resource && key == "resourceType" {
                continue;
            }
            let (bare, beside) = key.strip_prefix('_').map_or((key.as_str(), false), |bare| (bare, true));
            let found = def.position_of_json_key(bare).and_then(|(number, type_)| {
                let element = def.elements().get(number)?;
                Some((number, element, element.types.get(type_)?))
            });
            let Some((number, element, type_)) = found else {
                self.unknown(def, spot.place, key);
                continue;
            };
            let bit = 1_u128 << (number % MOST_ELEMENTS);
            if element.choice && seen & bit != 0 {
                self.second_choice(element, bare, spot);
            }
            seen |= bit;
            let place = spot.place.at(element.name);
            let spot = Spot { place: &place, ..spot };
            if beside {
                self.beside(element, type_, bare, value, spot)
            } else {
                self.values(element, type_, key, value, spot)
            }
        }
        for (number, element) in def.elements().iter().enumerate() {
            if element.min > 0 && seen & (1 << (number % MOST_ELEMENTS)) == 0 {
                self.rule(
                    "required",
                    &spot.place.at(element.name),
                    format!("{}.{} is required.", def.name, element.name),
                );
            }
        }
        for rule in def.invariants() {
            self.invariant(def.name, rule, spot);
        }
    }

    fn invariant(&mut self, type_name: &str, rule: &'static definitions::Invariant, spot: Spot<'_>) {
        let verdict = match invariant::check(type_name, rule.key, spot.map, spot.root) {
            Verdict::Unknown => by_path(type_name, rule, spot),
            known => known,
        };
        if let Verdict::Broken(at) = verdict {
            let expression = if at.is_empty() { spot.place.to_string() } else { spot.place.at(at).to_string() };
            let severity = if rule.error { Severity::Error } else { Severity::Warning };
            let text = format!("{} ({}).", rule.text.trim_end_matches('.'), rule.key);
            self.findings.push(Finding::new(severity, "invariant", text, expression));
        }
    }

    /// The values of an element under its plain key.
    fn values(&mut self, element: &'static Element, type_: &'static TypeRef, key: &str, value: &Value, spot: Spot<'_>) {
        match (element.is_list(), value) {
            (true, Value::Array(list)) if list.is_empty() => {
                self.rule("value", spot.place, "A list is never empty; leave it out.");
            }
            (true, Value::Array(list)) => {
                if element.max.is_some_and(|max| list.len() > usize::try_from(max).unwrap_or(usize::MAX)) {
                    self.rule("structure", spot.place, "There are more of these than may be.");
                }
                for (index, item) in list.iter().enumerate() {
                    let place = spot.place.nth(Some(index));
                    let spot = Spot { place: &place, ..spot };
                    // In a list of primitives null holds the place of a value that has extensions alone.
                    if item.is_null() && beside_at(spot.map, key, index) && is_primitive(type_) {
                        continue;
                    }
                    self.value(element, type_, item, spot);
                }
            }
            (true, _) => self.structure(spot.place, "This must be a list, also with one item."),
            (false, Value::Array(_)) => self.structure(spot.place, "This must be one, not a list."),
            (false, one) => self.value(element, type_, one, spot),
        }
    }

    fn value(&mut self, element: &'static Element, type_: &'static TypeRef, value: &Value, spot: Spot<'_>) {
        if value.is_null() {
            return self.structure(
                spot.place,
                "null stands only in a list of primitives, beside extensions; leave the element out.",
            );
        }
        let def = type_.def();
        if def.form == Form::Primitive {
            return self.primitive(element, type_, value, spot);
        }
        let Value::Object(map) = value else {
            return self.structure(spot.place, "This must be an object.");
        };
        if type_.name == "Resource" {
            return match element.name {
                "contained" => self.resource(value, spot.root, spot.place, Position::Contained),
                _ => self.resource(value, value, spot.place, Position::Own(&[])),
            };
        }
        let spot = Spot { value, map, ..spot };
        if !map.keys().any(|key| key != "id") {
            return self.rule(
                "value",
                spot.place,
                "An element has a value or content of its own (ele-1); leave it out.",
            );
        }
        self.elements(def, spot, false);
        for rule in &element.invariants {
            self.invariant(def.name, rule, spot);
        }
        match def.name {
            "Reference" => self.reference(type_, spot),
            "Extension" => self.extension(value, spot),
            "CodeableConcept" | "Coding" => {
                if let Some(binding) = required(element) {
                    self.concept(binding, def.name, spot);
                }
            }
            _ => {}
        }
    }

    fn primitive(&mut self, element: &'static Element, type_: &'static TypeRef, value: &Value, spot: Spot<'_>) {
        let json = Json::of(type_.name);
        if !json.fits(value) {
            return self.structure(spot.place, &format!("This must be {}.", json.wanted()));
        }
        // R4 writes the type of Resource.id as string.
        let is_id = element.name == "id" && !element.xml_attribute;
        let fault = if is_id { primitive::fault("id", value) } else { primitive::fault(type_.name, value) };
        if let Some(fault) = fault {
            return self.rule("value", spot.place, fault);
        }
        let Value::String(text) = value else { return };
        if matches!(type_.name, "string" | "markdown") && text.trim().is_empty() {
            let said = "A text of white space alone says nothing; leave the element out.".to_string();
            self.findings.push(Finding::new(Severity::Warning, "value", said, spot.place.to_string()));
        }
        if type_.name == "xhtml"
            && let Some(fault) = narrative::fault(text)
        {
            return self.rule("invariant", spot.place, fault);
        }
        if element.name == "id" && element.xml_attribute && text.contains(char::is_whitespace) {
            return self.rule("value", spot.place, "The id of an element has no spaces.");
        }
        let bound = required(element).and_then(|binding| definitions::codes(binding.value_set));
        if let Some(codes) = bound.filter(|codes| !codes.contains(None, text)) {
            self.rule("code-invalid", spot.place, one_of(codes));
        }
        // A required binding to a list that is not R4's: by the form of its codes.
        if element.name == "contentType" && !primitive::is_media_type(text) {
            self.rule("code-invalid", spot.place, "A content type is written type/subtype, such as text/plain.");
        }
        if element.name == "currency" && !primitive::is_currency(text) {
            self.rule("code-invalid", spot.place, "A currency is three capital letters of ISO 4217, such as USD.");
        }
    }

    /// `_name`: the id and extensions of a primitive.
    fn beside(
        &mut self,
        element: &'static Element,
        type_: &'static TypeRef,
        bare: &str,
        value: &Value,
        spot: Spot<'_>,
    ) {
        if !is_primitive(type_) {
            return self.structure(spot.place, "Only a primitive has a key with “_”.");
        }
        let plain = spot.map.get(bare);
        match (element.is_list(), value) {
            (true, Value::Array(list)) if list.is_empty() => {
                self.rule("value", spot.place, "A list is never empty; leave it out.");
            }
            (true, Value::Array(list)) => {
                for (index, item) in list.iter().enumerate() {
                    let place = spot.place.nth(Some(index));
                    let beside = plain.and_then(|plain| plain.get(index)).filter(|value| !value.is_null());
                    let listed = plain.is_some_and(|plain| plain.get(index).is_some());
                    match item {
                        // Told already where the value should be, if there is a list of values that long.
                        Value::Null if beside.is_some() || listed => {}
                        _ => self.extensions(type_, item, beside.is_some(), Spot { place: &place, ..spot }),
                    }
                }
            }
            (true, _) => self.structure(spot.place, "This must be a list, also with one item."),
            (false, item) => self.extensions(type_, item, plain.is_some(), spot),
        }
    }

    fn extensions(&mut self, type_: &'static TypeRef, value: &Value, has_value: bool, spot: Spot<'_>) {
        let Value::Object(map) = value else {
            return self.structure(spot.place, "Beside a primitive stands an object with its id and extensions.");
        };
        if map.is_empty() || (!has_value && !map.contains_key("extension")) {
            return self.rule("value", spot.place, "An element has a value or extensions (ele-1); leave it out.");
        }
        self.elements(type_.def(), Spot { value, map, ..spot }, false);
    }

    fn second_choice(&mut self, element: &'static Element, bare: &str, spot: Spot<'_>) {
        let own = |key: &&String| {
            let bare = key.strip_prefix('_').unwrap_or(key);
            bare.strip_prefix(element.name)
                .is_some_and(|type_| element.types.iter().any(|known| ends(known.name, type_)))
        };
        let mut names: Vec<&str> =
            spot.map.keys().filter(own).map(|key| key.strip_prefix('_').unwrap_or(key)).collect();
        names.dedup();
        // Told once, at the second name.
        if names.len() > 1 && names.get(1) == Some(&bare) {
            let text = format!("There is only one of the types of {}[x] at a time.", element.name);
            self.rule("structure", &spot.place.at(element.name), text);
        }
    }

    fn reference(&mut self, type_: &'static TypeRef, spot: Spot<'_>) {
        let Some(reference) = text(spot.map, "reference") else {
            let says = ["identifier", "display", "extension", "_reference", "_display"];
            if !says.iter().any(|name| spot.map.contains_key(*name)) {
                self.rule("value", spot.place, "A Reference has a reference, an identifier or a display.");
            }
            return self.target(text(spot.map, "type"), type_, spot);
        };
        if reference.len() > LONGEST_REFERENCE {
            return self.rule("value", spot.place, "A reference is at most 1,000 bytes long here.");
        }
        if reference.ends_with('/') {
            let text = "This reference has no id behind the type; leave the element out if there is none.";
            return self.rule("value", spot.place, text);
        }
        if !primitive::is_reference(reference) {
            let text = "A reference is Type/id of a type of R4, a URL, urn:… or #… of what is contained.";
            return self.rule("value", spot.place, text);
        }
        let target = super::target_type(reference, spot.root).or_else(|| text(spot.map, "type"));
        self.target(target, type_, spot);
        let told = text(spot.map, "type").filter(|told| Some(*told) != target);
        if target.is_some() && told.is_some_and(|told| definitions::resource(told).is_some()) {
            self.rule("value", &spot.place.at("type"), "The type of a Reference is that of what it points at.");
        }
    }

    /// Whether the element may point at this type, as the reference's text or its `type` tells it.
    fn target(&mut self, target: Option<&str>, type_: &'static TypeRef, spot: Spot<'_>) {
        let known = target.filter(|target| definitions::resource(target).is_some());
        if known.is_some_and(|target| !type_.targets.is_empty() && !type_.targets.contains(&target)) {
            self.rule("value", spot.place, format!("This reference may point at: {}.", type_.targets.join(", ")));
        }
    }

    /// A required binding of a CodeableConcept or Coding: one of its codings is of the set.
    fn concept(&mut self, binding: &'static Binding, type_name: &str, spot: Spot<'_>) {
        let Some(codes) = definitions::codes(binding.value_set) else { return };
        let of_set = |coding: &Map<String, Value>| {
            text(coding, "code")
                .is_some_and(|code| codes.contains(Some(text(coding, "system").unwrap_or_default()), code))
        };
        let fine = if type_name == "Coding" { of_set(spot.map) } else { items(spot.map, "coding").any(of_set) };
        // What has no code may say why by an extension.
        let silent = has(spot.map, "extension") && !has(spot.map, "coding") && !has(spot.map, "code");
        if !fine && !silent {
            self.rule("code-invalid", spot.place, one_of(codes));
        }
    }

    /// ext-1, and the extension's own definition where it is known.
    fn extension(&mut self, value: &Value, spot: Spot<'_>) {
        if any(spot.map, "value") == has(spot.map, "extension") {
            self.rule("invariant", spot.place, "An extension has either a value or extensions (ext-1).");
        }
        let url = text(spot.map, "url");
        // A part of an extension has a name; what stands in a resource has the URL of its definition.
        if url.is_some_and(|url| !url.contains(':')) && !spot.place.is_within("extension") {
            self.rule("value", &spot.place.at("url"), "An extension has the absolute URL of its definition.");
        }
        let known = url.and_then(|url| self.profiles.get(url));
        if let (Some(profile), Some(def)) =
            (known.filter(|known| known.type_name == "Extension"), definitions::of("Extension"))
        {
            let mut conform = Conform::new(self.profiles, profile, Source::Advising, spot.root);
            let itself = Occurrence { value: Some(value), beside: None, def, index: None };
            conform.occurrence(&profile.root, itself, spot.place);
            self.findings.append(&mut conform.findings);
        }
    }

    fn unknown(&mut self, def: &'static TypeDef, place: &Place<'_>, key: &str) {
        let shown: String = key.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        let name = def.name;
        let text = match def.element(key).filter(|element| element.choice) {
            Some(element) => {
                format!("{name}.{}[x] is written with its type, such as {}String.", element.name, element.name)
            }
            None => format!("{name} has no element “{shown}” in R4; send data of your own as an extension."),
        };
        self.structure(&place.at(&shown), &text);
    }

    fn structure(&mut self, place: &Place<'_>, text: &str) {
        self.findings.push(Finding::structure(text.to_string(), place.to_string()));
    }

    pub(super) fn rule(&mut self, code: &'static str, place: &Place<'_>, text: impl Into<String>) {
        self.findings.push(Finding::new(Severity::Error, code, text.into(), place.to_string()));
    }
}

/// A rule of a type that we don't hold, by its FHIRPath; what can't be told (who is behind a reference) is not broken.
fn by_path(type_name: &str, rule: &'static definitions::Invariant, spot: Spot<'_>) -> Verdict {
    let (Some(expression), Some(def)) = (rule.parsed(), definitions::of(type_name)) else {
        return Verdict::Unknown;
    };
    match expression.is_true(&Context::new(spot.root), Item::element(Some(spot.value), None, def)) {
        Ok(Truth::False) => Verdict::Broken(""),
        Ok(Truth::True | Truth::Empty) => Verdict::Holds,
        Err(_) => Verdict::Unknown,
    }
}

fn is_primitive(type_: &TypeRef) -> bool {
    type_.def().form == Form::Primitive
}

fn required(element: &'static Element) -> Option<&'static Binding> {
    element.binding.as_ref().filter(|binding| binding.strength == Strength::Required)
}

/// Whether `_key` has extensions at this place of its list.
fn beside_at(map: &Map<String, Value>, key: &str, index: usize) -> bool {
    map.get(&format!("_{key}")).and_then(|list| list.get(index)).is_some_and(Value::is_object)
}

/// Whether a JSON key's ending names this type: `CodeableConcept`, `String` for string.
fn ends(type_name: &str, ending: &str) -> bool {
    type_name.len() == ending.len() && type_name.get(1..) == ending.get(1..) && type_name.eq_ignore_ascii_case(ending)
}

fn one_of(codes: &definitions::Codes) -> String {
    /// Most codes that an error text lists.
    const LISTED: usize = 20;
    let mut all = codes.systems().iter().flat_map(|(_, codes)| codes.iter().copied());
    let listed: Vec<&str> = all.by_ref().take(LISTED).collect();
    let more = if all.next().is_some() { ", …" } else { "" };
    format!("This must be one of: {}{more}.", listed.join(", "))
}
