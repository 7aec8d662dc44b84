//! The element tables of FHIR R4: every resource and data type with its elements in order, their cardinalities, types,
//! bindings and invariants. Validation, XML, `_summary` and FHIRPath read them here.
//!
//! The tables come from HL7's own package `hl7.fhir.r4.core#4.0.1`; `profiles/r4/generate.py` writes them to
//! `profiles/r4/definitions.txt`. The text is part of the program and read once, on first use (a few milliseconds).
//! An element that holds elements of its own (`Task.restriction`) is a type of its own here, named by its path.
//! Leaves out profiles and texts. <https://hl7.org/fhir/R4/elementdefinition.html>
//!
//! The file has one entry a line, its fields parted by tabs:
//!
//! | line | fields |
//! |---|---|
//! | `T` | a type: name, base type (whose elements come first), form |
//! | `E` | an element of that type: name, cardinality, flags (`!` modifier, `S` summary, `@` XML attribute), types (`#path`: a type named by its path), binding |
//! | `C` | an invariant of the element, or of the type where no element stands before it: key, severity, text, FHIRPath |
//! | `V` | a value set that is complete: its URL |
//! | `S` | its codes from one system: system, codes |

use std::collections::HashMap;
use std::sync::OnceLock;

use super::path::Expression;

const TEXT: &str = include_str!("../../profiles/r4/definitions.txt");

/// What kind of type it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A JSON string, number or boolean, with an `id` and extensions beside it.
    Primitive,
    /// A data type, such as CodeableConcept.
    Complex,
    /// A resource.
    Resource,
    /// An element that holds elements of its own, such as `Task.restriction`.
    Element,
    /// Only ever the base of others: Element, BackboneElement, Resource, DomainResource.
    Abstract,
}

/// A type: a resource, a data type, or an element that holds elements of its own.
#[derive(Debug)]
pub struct TypeDef {
    /// `Task`, `CodeableConcept`, `Task.restriction`.
    pub name: &'static str,
    /// What kind of type it is.
    pub form: Form,
    base: Option<&'static str>,
    elements: Vec<Element>,
    invariants: Vec<Invariant>,
    /// JSON keys, sorted, with the numbers of the element and of its type.
    keys: Vec<(String, u16, u16)>,
}

/// One element of a type.
#[derive(Debug, Clone)]
pub struct Element {
    /// Without `[x]`: `value`, not `value[x]`.
    pub name: &'static str,
    /// Whether its JSON key carries the type: `valueString`.
    pub choice: bool,
    /// Fewest occurrences.
    pub min: u32,
    /// Most occurrences; `None` without limit.
    pub max: Option<u32>,
    /// Whether it changes the meaning of what it stands in.
    pub modifier: bool,
    /// Whether it belongs to `_summary=true`.
    pub summary: bool,
    /// Whether XML writes it as an attribute (`id` of elements, `Extension.url`).
    pub xml_attribute: bool,
    /// Its possible types, in order. One, unless it is a choice.
    pub types: Vec<TypeRef>,
    /// The value set that its codes come from.
    pub binding: Option<Binding>,
    /// Rules of this element beyond those of its type.
    pub invariants: Vec<Invariant>,
}

/// A possible type of an element.
#[derive(Debug, Clone)]
pub struct TypeRef {
    /// `string`, `Reference`, `Task.restriction`, `Resource` (any).
    pub name: &'static str,
    /// Resource types that a Reference or canonical may point at; empty means any.
    pub targets: Vec<&'static str>,
    index: u16,
}

/// How strictly codes come from a value set. <https://hl7.org/fhir/R4/terminologies.html#strength>
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Anything goes.
    Example,
    /// Encouraged.
    Preferred,
    /// From the set if it has a fitting code.
    Extensible,
    /// From the set.
    Required,
}

/// An element's tie to a value set.
#[derive(Debug, Clone)]
pub struct Binding {
    /// How strict it is.
    pub strength: Strength,
    /// URL of the value set, without version.
    pub value_set: &'static str,
}

/// A rule that FHIRPath tells.
#[derive(Debug, Clone)]
pub struct Invariant {
    /// `per-1`
    pub key: &'static str,
    /// Whether breaking it is an error, or only worth a warning.
    pub error: bool,
    /// What it asks, in the standard's words.
    pub text: &'static str,
    /// FHIRPath that must be true.
    pub expression: &'static str,
    parsed: OnceLock<Option<Expression>>,
}

impl Invariant {
    /// Its expression, read when it is first needed; none where it can't be read.
    pub fn parsed(&self) -> Option<&Expression> {
        self.parsed.get_or_init(|| Expression::parse(self.expression).ok()).as_ref()
    }
}

/// The codes of a value set whose code systems are complete in the package.
#[derive(Debug, Default)]
pub struct Codes {
    systems: Vec<(&'static str, Vec<&'static str>)>,
}

/// The type of this name, abstract ones and those named by a path included.
pub fn of(name: &str) -> Option<&'static TypeDef> {
    let all = all();
    all.types.get(usize::from(*all.by_name.get(name)?))
}

/// The resource type of this name; no abstract one.
pub fn resource(name: &str) -> Option<&'static TypeDef> {
    of(name).filter(|def| def.form == Form::Resource)
}

/// Every type: data types, primitives, resources, each followed by the elements within it.
pub fn types() -> impl Iterator<Item = &'static TypeDef> {
    all().types.iter()
}

/// The codes of a value set that R4 binds as required; `None` where they are not complete (MIME types, UCUM).
pub fn codes(value_set: &str) -> Option<&'static Codes> {
    let url = value_set.split('|').next().unwrap_or(value_set);
    all().value_sets.get(url)
}

impl TypeDef {
    /// The type that it builds on.
    pub fn base(&self) -> Option<&'static TypeDef> {
        of(self.base?)
    }
    /// Whether it is this type or builds on it: an Age is a Quantity is an Element.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.base().is_some_and(|base| base.is(name))
    }
    /// Its elements in the standard's order, those of its base first.
    pub fn elements(&self) -> &[Element] {
        &self.elements
    }
    /// Its rules, those of its base first (but ele-1 and ext-1, which hold everywhere).
    pub fn invariants(&self) -> &[Invariant] {
        &self.invariants
    }
    /// The element of this name; a choice by its name without type: `value`.
    pub fn element(&self, name: &str) -> Option<&Element> {
        self.elements.iter().find(|element| element.name == name)
    }
    /// The element that a JSON key stands for, with its type: `valueString` is `value` as a string. Without `_`.
    pub fn element_for_json_key(&self, key: &str) -> Option<(&Element, &TypeRef)> {
        let (number, type_) = self.position_of_json_key(key)?;
        let element = self.elements.get(number)?;
        Some((element, element.types.get(type_)?))
    }
    /// As [`TypeDef::element_for_json_key`], as places in [`TypeDef::elements`] and [`Element::types`].
    pub fn position_of_json_key(&self, key: &str) -> Option<(usize, usize)> {
        let found = self.keys.binary_search_by(|(known, ..)| known.as_str().cmp(key)).ok()?;
        self.keys.get(found).map(|(_, element, type_)| (usize::from(*element), usize::from(*type_)))
    }
}

impl Element {
    /// Whether JSON writes it as a list.
    pub fn is_list(&self) -> bool {
        self.max != Some(1)
    }
    /// The JSON key when it holds this type: `valueString`, or just `status`.
    pub fn json_key(&self, type_: &TypeRef) -> String {
        if !self.choice {
            return self.name.to_string();
        }
        let mut letters = type_.name.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        self.name.chars().chain(first).chain(letters).collect()
    }
}

impl TypeRef {
    /// The type's own definition. For `Resource` the value's `resourceType` says which it is.
    pub fn def(&self) -> &'static TypeDef {
        all().types.get(usize::from(self.index)).unwrap_or(&NONE)
    }
}

/// Stands for a type that the file does not tell; a test sees to it that there is none.
static NONE: TypeDef = TypeDef {
    name: "",
    form: Form::Abstract,
    base: None,
    elements: Vec::new(),
    invariants: Vec::new(),
    keys: Vec::new(),
};

impl Codes {
    /// Whether it has this code; without a system, in any of its systems.
    pub fn contains(&self, system: Option<&str>, code: &str) -> bool {
        let mut own = self.systems.iter().filter(|(url, _)| system.is_none_or(|system| system == *url));
        own.any(|(_, codes)| codes.binary_search(&code).is_ok())
    }
    /// Its systems with their codes, sorted.
    pub fn systems(&self) -> &[(&'static str, Vec<&'static str>)] {
        &self.systems
    }
}

#[derive(Default)]
struct Definitions {
    types: Vec<TypeDef>,
    by_name: HashMap<&'static str, u16>,
    value_sets: HashMap<&'static str, Codes>,
}

fn all() -> &'static Definitions {
    static ALL: OnceLock<Definitions> = OnceLock::new();
    ALL.get_or_init(|| read(TEXT).0)
}

/// Reads the file. Also how many of its lines it could not read.
fn read(text: &'static str) -> (Definitions, usize) {
    let mut all = Definitions::default();
    let mut value_set = "";
    let mut in_element = false;
    let mut unread = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&'static str> = line.split('\t').collect();
        let done = match fields.as_slice() {
            ["T", name, base, form] => {
                in_element = false;
                all.add_type(name, base, form)
            }
            ["E", name, range, flags, types, binding] => {
                in_element = true;
                all.add_element(name, range, flags, types, binding)
            }
            ["C", key, severity, text, expression] => all.add_invariant(
                Invariant { key, error: *severity == "error", text, expression, parsed: OnceLock::new() },
                in_element,
            ),
            ["V", url] => {
                value_set = url;
                Some(())
            }
            ["S", system, codes] => {
                let systems = &mut all.value_sets.entry(value_set).or_default().systems;
                systems.push((system, codes.split(' ').collect()));
                Some(())
            }
            _ => None,
        };
        unread += usize::from(done.is_none());
    }
    all.link();
    (all, unread)
}

impl Definitions {
    fn add_type(&mut self, name: &'static str, base: &'static str, form: &str) -> Option<()> {
        let form = match form {
            "primitive" => Form::Primitive,
            "complex" => Form::Complex,
            "resource" => Form::Resource,
            "element" => Form::Element,
            "abstract" => Form::Abstract,
            _ => return None,
        };
        let base = (base != "-").then_some(base);
        let above = base.and_then(|base| self.types.get(usize::from(*self.by_name.get(base)?)));
        let (elements, invariants) =
            above.map(|above| (above.elements.clone(), above.invariants.clone())).unwrap_or_default();
        self.by_name.insert(name, u16::try_from(self.types.len()).ok()?);
        self.types.push(TypeDef { name, form, base, elements, invariants, keys: Vec::new() });
        Some(())
    }

    fn add_element(
        &mut self,
        name: &'static str,
        range: &str,
        flags: &str,
        types: &'static str,
        binding: &'static str,
    ) -> Option<()> {
        let (min, max) = range.split_once("..")?;
        self.types.last_mut()?.elements.push(Element {
            name: name.trim_end_matches("[x]"),
            choice: name.ends_with("[x]"),
            min: min.parse().ok()?,
            max: if max == "*" { None } else { Some(max.parse().ok()?) },
            modifier: flags.contains('!'),
            summary: flags.contains('S'),
            xml_attribute: flags.contains('@'),
            types: types.split(',').map(type_ref).collect(),
            binding: if binding == "-" { None } else { Some(bound(binding)?) },
            invariants: Vec::new(),
        });
        Some(())
    }

    fn add_invariant(&mut self, rule: Invariant, in_element: bool) -> Option<()> {
        let def = self.types.last_mut()?;
        let rules = if in_element { &mut def.elements.last_mut()?.invariants } else { &mut def.invariants };
        rules.push(rule);
        Some(())
    }

    /// Points every element at its types and sorts the JSON keys.
    fn link(&mut self) {
        for def in &mut self.types {
            let mut keys = Vec::new();
            for (number, element) in (0..).zip(&mut def.elements) {
                for type_ in &mut element.types {
                    type_.index = self.by_name.get(type_.name).copied().unwrap_or(u16::MAX);
                }
                keys.extend((0..).zip(&element.types).map(|(place, type_)| (element.json_key(type_), number, place)));
            }
            keys.sort_unstable();
            def.keys = keys;
        }
    }
}

fn type_ref(text: &'static str) -> TypeRef {
    let text = text.trim_start_matches('#').trim_end_matches(')');
    let (name, targets) = text.split_once('(').unwrap_or((text, ""));
    TypeRef { name, targets: targets.split('|').filter(|target| !target.is_empty()).collect(), index: u16::MAX }
}

fn bound(text: &'static str) -> Option<Binding> {
    let (strength, value_set) = text.split_once(' ')?;
    let strength = match strength {
        "example" => Strength::Example,
        "preferred" => Strength::Preferred,
        "extensible" => Strength::Extensible,
        "required" => Strength::Required,
        _ => return None,
    };
    Some(Binding { strength, value_set })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(name: &str) -> &'static TypeDef {
        of(name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn the_file_is_read_whole_and_every_type_is_told() {
        let (all, unread) = read(TEXT);
        assert_eq!(unread, 0);
        assert_eq!(all.types.iter().filter(|def| def.form == Form::Resource).count(), 146);
        assert_eq!(all.types.iter().filter(|def| def.form == Form::Primitive).count(), 20);
        for def in &all.types {
            assert!(def.base.is_none_or(|base| all.by_name.contains_key(base)), "{}", def.name);
            for element in &def.elements {
                for type_ in &element.types {
                    assert!(all.by_name.contains_key(type_.name), "{}.{}: {}", def.name, element.name, type_.name);
                }
            }
            assert!(def.keys.windows(2).all(|pair| pair[0].0 != pair[1].0), "{}: a key twice", def.name);
        }
    }

    #[test]
    fn elements_come_in_order_with_those_of_the_base_first() {
        let names: Vec<&str> = def("Task").elements().iter().map(|element| element.name).collect();
        assert_eq!(
            names[..12],
            [
                "id",
                "meta",
                "implicitRules",
                "language",
                "text",
                "contained",
                "extension",
                "modifierExtension",
                "identifier",
                "instantiatesCanonical",
                "instantiatesUri",
                "basedOn"
            ]
        );
        assert_eq!(names.last(), Some(&"output"));
        let status = def("Task").element("status").unwrap();
        assert_eq!((status.min, status.max, status.modifier, status.summary), (1, Some(1), true, true));
        assert!(!status.is_list() && def("Task").element("basedOn").unwrap().is_list());
        assert!(def("Task").element("nothing").is_none());
    }

    #[test]
    fn a_json_key_names_element_and_type() {
        let (value, type_) = def("Task.input").element_for_json_key("valueCodeableConcept").unwrap();
        assert_eq!((value.name, value.choice, type_.name), ("value", true, "CodeableConcept"));
        assert_eq!(value.json_key(type_), "valueCodeableConcept");
        assert_eq!(type_.def().element("coding").unwrap().types[0].name, "Coding");
        assert!(def("Task.input").element_for_json_key("value").is_none());
        assert_eq!(def("Task").element_for_json_key("restriction").unwrap().1.def().name, "Task.restriction");
    }

    #[test]
    fn types_know_what_they_build_on() {
        assert!(def("Age").is("Quantity") && def("Age").is("Element") && !def("Age").is("Resource"));
        assert!(def("Task").is("DomainResource") && !def("Bundle").is("DomainResource"));
        assert!(def("id").is("string") && def("Task.input").is("BackboneElement"));
        assert!(resource("Task").is_some() && resource("DomainResource").is_none() && resource("Period").is_none());
    }

    #[test]
    fn bindings_tell_their_codes_where_they_are_complete() {
        let binding = def("Task").element("status").unwrap().binding.as_ref().unwrap();
        assert_eq!(binding.strength, Strength::Required);
        let status = codes(binding.value_set).unwrap();
        assert!(status.contains(None, "on-hold") && !status.contains(None, "done"));
        let clinical = codes("http://hl7.org/fhir/ValueSet/condition-clinical|4.0.1").unwrap();
        assert!(clinical.contains(Some("http://terminology.hl7.org/CodeSystem/condition-clinical"), "active"));
        assert!(!clinical.contains(Some("http://other"), "active"));
        assert!(codes("http://hl7.org/fhir/ValueSet/mimetypes").is_none());
    }

    #[test]
    fn what_else_the_tables_tell() {
        // References, invariants, XML attributes, elements that repeat another's definition.
        assert_eq!(def("Task").element("partOf").unwrap().types[0].targets, ["Task"]);
        assert!(def("Task").element("focus").unwrap().types[0].targets.is_empty());
        let keys = |def: &TypeDef| def.invariants().iter().map(|rule| rule.key).collect::<Vec<_>>();
        assert_eq!(keys(def("Task")), ["dom-2", "dom-3", "dom-4", "dom-5", "dom-6", "inv-1"]);
        assert_eq!(keys(def("Period")), ["per-1"]);
        assert!(def("Task").invariants().iter().all(|rule| rule.error == (rule.key != "dom-6")));
        assert!(
            def("Extension").element("url").unwrap().xml_attribute
                && def("Period").element("id").unwrap().xml_attribute
        );
        assert!(!def("Task").element("id").unwrap().xml_attribute);
        let item = def("Questionnaire.item").element("item").unwrap();
        assert_eq!(item.types[0].def().name, "Questionnaire.item");
        assert_eq!(def("Narrative").element("div").unwrap().types[0].name, "xhtml");
        assert_eq!(def("Task").element("id").unwrap().types[0].name, "string");
        assert_eq!(def("Observation.referenceRange").element("low").unwrap().invariants[0].key, "sqty-1");
    }
}
