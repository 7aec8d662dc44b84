//! Code systems and value sets: whether a code belongs, which codes there are, what a code is called.
//!
//! Held are those the program publishes ([`super::published`]), the complete value sets of R4
//! ([`super::definitions`]), and what a guide's package brings. Whatever is not held, licensed systems above all, is
//! answered with "unknown" and never guessed; a code that its system can't have is wrong all the same
//! ([`super::licensed`]). Leaves out filters by properties, and post-coordination.
//! <https://hl7.org/fhir/R4/terminology-module.html>

mod value_set;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde_json::Value;

use super::definitions;
use super::licensed::{self, Form};
use super::published;
use super::resource::Resource;
use value_set::{Filter, Part, Set};

/// How deep value sets may name value sets, and codes hold codes.
const DEEPEST: usize = 12;

/// Whether a code is in a value set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// It is, or it is not.
    Known(bool),
    /// We don't hold what it takes to tell.
    Unknown,
}

impl Membership {
    fn and(self, other: Membership) -> Membership {
        match (self, other) {
            (Membership::Known(false), _) | (_, Membership::Known(false)) => Membership::Known(false),
            (Membership::Unknown, _) | (_, Membership::Unknown) => Membership::Unknown,
            (Membership::Known(true), Membership::Known(true)) => Membership::Known(true),
        }
    }
    fn not(self) -> Membership {
        match self {
            Membership::Known(yes) => Membership::Known(!yes),
            Membership::Unknown => Membership::Unknown,
        }
    }
    /// One of the two is enough.
    pub(in crate::fhir) fn or(self, other: Membership) -> Membership {
        self.not().and(other.not()).not()
    }
}

/// A code and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concept {
    /// The URL of its code system.
    pub system: String,
    /// The code.
    pub code: String,
    /// What people read.
    pub display: Option<String>,
    /// What it means.
    pub definition: Option<String>,
}

/// What is known of a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// We hold it.
    Held(&'a Concept),
    /// Its system, held whole, has no such code.
    NoSuchCode,
    /// Its system is not held, and no code of it looks like this.
    Malformed(Form),
    /// Its system is not held, or only in part: it may exist.
    NotChecked,
}

#[derive(Debug, Clone)]
struct System {
    name: String,
    version: Option<String>,
    complete: bool,
    case_sensitive: bool,
    concepts: Vec<Concept>,
    /// The concept that each stands under, by its place.
    above: Vec<Option<usize>>,
    places: HashMap<String, usize>,
}

impl System {
    fn read(resource: &Resource) -> Option<(String, System)> {
        let url = resource.text_at("url")?.to_string();
        let mut system = System {
            name: resource.text_at("name").unwrap_or(&url).to_string(),
            version: resource.text_at("version").map(str::to_string),
            complete: resource.text_at("content") == Some("complete"),
            case_sensitive: resource.at("caseSensitive") != Some(&Value::Bool(false)),
            concepts: Vec::new(),
            above: Vec::new(),
            places: HashMap::new(),
        };
        system.add(&url, resource.list("concept"), None, 0);
        Some((url, system))
    }

    fn add(&mut self, url: &str, list: &[Value], above: Option<usize>, depth: usize) {
        for item in list {
            let text = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_string);
            let Some(code) = text("code") else { continue };
            let place = self.concepts.len();
            self.places.insert(self.place(&code), place);
            self.above.push(above);
            let (display, definition) = (text("display"), text("definition"));
            self.concepts.push(Concept { system: url.to_string(), code, display, definition });
            if let Some(within) = item.get("concept").and_then(Value::as_array).filter(|_| depth < DEEPEST) {
                self.add(url, within, Some(place), depth + 1);
            }
        }
    }

    fn place(&self, code: &str) -> String {
        if self.case_sensitive { code.to_string() } else { code.to_lowercase() }
    }

    fn concept(&self, code: &str) -> Option<&Concept> {
        self.concepts.get(*self.places.get(&self.place(code))?)
    }

    /// Whether a code passes a part's filters.
    fn pass(&self, part: &Part, code: &str) -> Membership {
        let each = part.filters.iter().map(|filter| match filter {
            Filter::Under { code: above, itself, wanted } if self.complete => {
                let mut line = self.places.get(&self.place(code)).into_iter().flat_map(|place| self.line(*place));
                let above = self.places.get(&self.place(above)).copied();
                if !itself {
                    line.next();
                }
                Membership::Known(line.any(|one| Some(one) == above) == *wanted)
            }
            Filter::Under { .. } | Filter::Other => Membership::Unknown,
        });
        each.fold(Membership::Known(true), Membership::and)
    }

    /// The concept at this place, and those that it stands under.
    fn line(&self, place: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(place), |place| self.above.get(*place).copied().flatten())
    }
}

/// A canonical URL without its version.
pub fn bare(canonical: &str) -> &str {
    canonical.split('|').next().unwrap_or(canonical)
}

/// Code systems and value sets that are held.
#[derive(Debug, Clone, Default)]
pub struct Terminology {
    systems: HashMap<String, System>,
    sets: HashMap<String, Set>,
}

impl Terminology {
    /// What the program itself holds.
    pub fn held() -> &'static Terminology {
        static HELD: OnceLock<Terminology> = OnceLock::new();
        HELD.get_or_init(|| Terminology::default().with(published::all()))
    }

    /// These as well, from a guide's package; where a URL is held already, what is held stays, and an expansion that
    /// tells more joins it.
    #[must_use]
    pub fn with(mut self, resources: &[Resource]) -> Terminology {
        for resource in resources {
            match resource.kind().name() {
                "CodeSystem" => {
                    if let Some((url, system)) = System::read(resource).filter(|(_, one)| !one.concepts.is_empty()) {
                        self.systems.entry(url).or_insert(system);
                    }
                }
                "ValueSet" => {
                    let Some((url, set)) = Set::read(resource) else { continue };
                    // An expansion tells of licensed codes what their composition alone can't.
                    let tells_more = set.expansion.is_some() && self.expand(&url).is_err();
                    match self.sets.entry(url) {
                        Entry::Occupied(mut held) if tells_more => held.get_mut().expansion = set.expansion,
                        Entry::Occupied(_) => {}
                        Entry::Vacant(free) => drop(free.insert(set)),
                    }
                }
                _ => {}
            }
        }
        self
    }

    /// Whether a value set has this code. An empty `system` means any of its systems, as for an element of type code.
    pub fn contains(&self, value_set: &str, system: &str, code: &str) -> Membership {
        self.member(value_set, system, code, 0)
    }

    fn member(&self, value_set: &str, system: &str, code: &str, depth: usize) -> Membership {
        let url = bare(value_set);
        let Some(set) = self.sets.get(url).filter(|_| depth < DEEPEST) else {
            return definitions::codes(url).map_or(Membership::Unknown, |codes| {
                Membership::Known(codes.contains(Some(system).filter(|system| !system.is_empty()), code))
            });
        };
        if let Some(expansion) = &set.expansion {
            return Membership::Known(expansion.has(system, code));
        }
        let any = |parts: &[Part]| {
            let each = parts.iter().map(|part| self.in_part(part, system, code, depth));
            each.fold(Membership::Known(false), Membership::or)
        };
        any(&set.include).and(any(&set.exclude).not())
    }

    fn in_part(&self, part: &Part, system: &str, code: &str, depth: usize) -> Membership {
        let own = match &part.system {
            None => Membership::Known(true),
            Some(its) if !system.is_empty() && its != system => Membership::Known(false),
            Some(its) => match &part.concepts {
                Some(concepts) => Membership::Known(has(concepts, its, code)),
                None => match self.lookup(its, code) {
                    Lookup::Held(_) => {
                        self.systems.get(bare(its)).map_or(Membership::Unknown, |held| held.pass(part, code))
                    }
                    Lookup::NoSuchCode | Lookup::Malformed(Form::Wrong) => Membership::Known(false),
                    Lookup::Malformed(_) | Lookup::NotChecked => Membership::Unknown,
                },
            },
        };
        part.sets.iter().fold(own, |sum, set| sum.and(self.member(set, system, code, depth + 1)))
    }

    /// What is known of a code of a system.
    pub fn lookup(&self, system: &str, code: &str) -> Lookup<'_> {
        match self.systems.get(bare(system)) {
            Some(held) => match held.concept(code) {
                Some(concept) => Lookup::Held(concept),
                None if held.complete => Lookup::NoSuchCode,
                None => Lookup::NotChecked,
            },
            None => match licensed::form(bare(system), code) {
                Some(form @ (Form::Wrong | Form::WrongCheckDigit)) => Lookup::Malformed(form),
                Some(Form::Fits) | None => Lookup::NotChecked,
            },
        }
    }

    /// The code and all that it subsumes, or with `up` all that subsume it; nothing where its system has no such code.
    /// None: the system is not held whole.
    pub fn subsumed(&self, system: &str, code: &str, up: bool) -> Option<Vec<&Concept>> {
        let held = self.systems.get(bare(system)).filter(|held| held.complete)?;
        let Some(of) = held.places.get(&held.place(code)).copied() else { return Some(Vec::new()) };
        let is_in = |place: &usize| match up {
            true => held.line(of).any(|one| one == *place),
            false => held.line(*place).any(|one| one == of),
        };
        Some((0..held.concepts.len()).filter(is_in).filter_map(|place| held.concepts.get(place)).collect())
    }

    /// Name and version of a system that is held.
    pub fn system(&self, url: &str) -> Option<(&str, Option<&str>)> {
        self.systems.get(bare(url)).map(|system| (system.name.as_str(), system.version.as_deref()))
    }

    /// Whether anything is known of this value set.
    pub fn knows(&self, value_set: &str) -> bool {
        self.sets.contains_key(bare(value_set)) || definitions::codes(value_set).is_some()
    }

    /// All codes of a value set, in its order; the system that is lacking, where one is not held whole.
    pub fn expand(&self, value_set: &str) -> Result<Vec<Concept>, String> {
        self.expanded(value_set, 0)
    }

    fn expanded(&self, value_set: &str, depth: usize) -> Result<Vec<Concept>, String> {
        let url = bare(value_set);
        let Some(set) = self.sets.get(url).filter(|_| depth < DEEPEST) else {
            let codes = definitions::codes(url).ok_or_else(|| url.to_string())?;
            let all =
                codes.systems().iter().flat_map(|(system, codes)| codes.iter().map(|code| self.named(system, code)));
            return Ok(all.collect());
        };
        if let Some(expansion) = &set.expansion {
            return Ok(expansion.concepts.clone());
        }
        let mut found: Vec<Concept> = Vec::new();
        let mut seen: HashSet<(String, String)> = HashSet::new();
        for part in &set.include {
            for concept in self.part_expanded(part, depth)? {
                if seen.insert((concept.system.clone(), concept.code.clone())) {
                    found.push(concept);
                }
            }
        }
        for part in &set.exclude {
            let out = self.part_expanded(part, depth)?;
            found.retain(|concept| !has(&out, &concept.system, &concept.code));
        }
        Ok(found)
    }

    fn part_expanded(&self, part: &Part, depth: usize) -> Result<Vec<Concept>, String> {
        let mut sets = part.sets.iter().map(|set| self.expanded(set, depth + 1));
        let mut own = match (&part.system, &part.concepts) {
            (Some(_), Some(concepts)) => concepts.iter().map(|one| self.with_display(one)).collect(),
            (Some(system), None) => {
                let held = self.systems.get(bare(system)).filter(|held| held.complete).ok_or_else(|| system.clone())?;
                let mut own = Vec::new();
                for concept in &held.concepts {
                    match held.pass(part, &concept.code) {
                        Membership::Known(true) => own.push(concept.clone()),
                        Membership::Known(false) => {}
                        Membership::Unknown => return Err(system.clone()),
                    }
                }
                own
            }
            (None, _) => sets.next().transpose()?.unwrap_or_default(),
        };
        for set in sets {
            let set = set?;
            own.retain(|concept| has(&set, &concept.system, &concept.code));
        }
        Ok(own)
    }

    fn named(&self, system: &str, code: &str) -> Concept {
        let bare = Concept { system: system.to_string(), code: code.to_string(), display: None, definition: None };
        self.with_display(&bare)
    }

    fn with_display(&self, concept: &Concept) -> Concept {
        match self.lookup(&concept.system, &concept.code) {
            Lookup::Held(held) if concept.display.is_none() => held.clone(),
            _ => concept.clone(),
        }
    }
}

fn has(list: &[Concept], system: &str, code: &str) -> bool {
    list.iter().any(|concept| concept.code == code && (system.is_empty() || concept.system == system))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::views::SDOHCC;
    use serde_json::json;

    const GRAVITY: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/ValueSet/SDOHCC-ValueSet";
    const US_CORE: &str = "http://hl7.org/fhir/us/core/ValueSet/us-core-";
    const SNOMED: &str = "http://snomed.info/sct";

    fn known(value_set: &str, system: &str, code: &str) -> Membership {
        Terminology::held().contains(value_set, system, code)
    }

    #[test]
    fn what_is_held_is_known_and_what_is_licensed_stays_open() {
        use Membership::{Known, Unknown};
        let category = format!("{GRAVITY}SDOHCategory");
        for (set, system, code, expected) in [
            (category.clone(), SDOHCC, "food-insecurity", Known(true)),
            (format!("{category}|3.0.0"), SDOHCC, "food-insecurity", Known(true)),
            (category.clone(), "", "food-insecurity", Known(true)),
            (category.clone(), SDOHCC, "fulfill", Known(false)),
            (category, SNOMED, "food-insecurity", Known(false)),
            (format!("{GRAVITY}ReferralTaskStatus"), "", "accepted", Known(true)),
            (format!("{GRAVITY}ReferralTaskStatus"), "", "ready", Known(false)),
            ("http://hl7.org/fhir/ValueSet/task-status|4.0.1".into(), "", "ready", Known(true)),
            ("http://hl7.org/fhir/ValueSet/task-status".into(), "", "done", Known(false)),
            (format!("{US_CORE}procedure-code"), SNOMED, "467771000124109", Unknown),
            (format!("{US_CORE}procedure-code"), SNOMED, "food", Known(false)),
            (format!("{US_CORE}procedure-code"), "http://example.org", "467771000124109", Known(false)),
            (format!("{US_CORE}condition-code"), SNOMED, "160245001", Known(true)),
            (format!("{US_CORE}condition-code"), "http://hl7.org/fhir/sid/icd-10-cm", "Z59.41", Unknown),
            (format!("{US_CORE}condition-code"), "http://loinc.org", "88124-3", Known(false)),
            (
                format!("{US_CORE}simple-observation-category"),
                "http://terminology.hl7.org/CodeSystem/observation-category",
                "survey",
                Known(true),
            ),
            (format!("{US_CORE}servicerequest-category"), SNOMED, "410606002", Known(true)),
            ("http://cts.nlm.nih.gov/fhir/ValueSet/2.16.840.1.113762.1.4.1247.17".into(), SNOMED, "733423003", Unknown),
        ] {
            assert_eq!(known(&set, system, code), expected, "{set} {system} {code}");
        }
    }

    #[test]
    fn a_set_is_expanded_when_all_of_it_is_held() {
        let held = Terminology::held();
        let statuses = held.expand(&format!("{GRAVITY}ReferralTaskStatus")).unwrap();
        assert_eq!((statuses.len(), statuses[0].display.as_deref()), (10, Some("Draft")));
        assert_eq!(held.expand(&format!("{GRAVITY}SDOHCategory")).unwrap().len(), 24);
        assert_eq!(held.expand("https://loopgate.org/fhir/ValueSet/business-status").unwrap().len(), 14);
        assert_eq!(held.expand("http://hl7.org/fhir/ValueSet/task-status").unwrap().len(), 12);
        assert_eq!(held.expand(&format!("{US_CORE}condition-code")).unwrap_err(), SNOMED);
        assert!(held.expand("http://example.org/none").is_err());
    }

    /// Every value set that is published can be asked about, and those of our own codes are held whole.
    #[test]
    fn every_published_set_is_understood() {
        for resource in published::all().iter().filter(|one| one.kind().name() == "ValueSet") {
            let url = resource.text_at("url").unwrap();
            let expanded = Terminology::held().expand(url);
            assert!(Terminology::held().knows(url));
            if !url.contains("/us/core/") {
                assert!(expanded.as_ref().is_ok_and(|codes| !codes.is_empty()), "{url}: {expanded:?}");
            }
            for concept in expanded.into_iter().flatten() {
                assert_eq!(known(url, &concept.system, &concept.code), Membership::Known(true), "{url} {concept:?}");
                assert!(concept.display.is_some() || concept.system.contains("hl7.org"), "{url} {concept:?}");
            }
        }
    }

    #[test]
    fn a_code_is_looked_up() {
        let held = Terminology::held();
        let found = held.lookup(SDOHCC, "waitlist");
        assert!(
            matches!(&found, Lookup::Held(concept) if concept.display.as_deref() == Some("No Capacity - Has Waitlist"))
        );
        assert_eq!(held.lookup(SDOHCC, "nothing"), Lookup::NoSuchCode);
        assert_eq!(held.lookup(SNOMED, "733423003"), Lookup::NotChecked);
        assert_eq!(held.lookup(SNOMED, "733423004"), Lookup::Malformed(Form::WrongCheckDigit));
        assert_eq!(held.lookup("http://hl7.org/fhir/uv/sdc/CodeSystem/temp", "other"), Lookup::NotChecked);
    }

    #[test]
    fn a_code_subsumes_what_stands_under_it() {
        let clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical";
        let codes = |system: &str, code: &str, up: bool| -> Option<Vec<String>> {
            let found = Terminology::held().subsumed(system, code, up)?;
            Some(found.into_iter().map(|one| one.code.clone()).collect())
        };
        let some = |list: &[&str]| Some(list.iter().map(|code| (*code).to_string()).collect::<Vec<_>>());
        assert_eq!(codes(clinical, "active", false), some(&["active", "recurrence", "relapse"]));
        assert_eq!(codes(clinical, "relapse", true), some(&["active", "relapse"]));
        assert_eq!(codes(clinical, "relapse", false), some(&["relapse"]));
        assert_eq!(codes(SDOHCC, "waitlist", false), some(&["waitlist"]));
        assert_eq!(codes(clinical, "none", true), some(&[]));
        for open in [SNOMED, "http://hl7.org/fhir/uv/sdc/CodeSystem/temp", "urn:x"] {
            assert_eq!(codes(open, "733423003", false), None, "{open}");
        }
    }

    #[test]
    fn a_package_adds_to_it_and_replaces_nothing() {
        let of = |value| Resource::from_value(value).unwrap();
        let all = Terminology::held().clone().with(&[
            of(json!({"resourceType": "CodeSystem", "url": "urn:s", "content": "complete", "caseSensitive": false,
                "concept": [{"code": "A", "concept": [{"code": "b"}]}]})),
            of(json!({"resourceType": "ValueSet", "url": "urn:v", "compose": {
                "include": [{"valueSet": ["urn:w"]}], "exclude": [{"system": "urn:s", "concept": [{"code": "A"}]}]}})),
            of(json!({"resourceType": "ValueSet", "url": "urn:w", "compose": {"include": [{"system": "urn:s"}]}})),
            of(json!({"resourceType": "ValueSet", "url": "urn:loop", "compose": {"include": [{"valueSet": ["urn:loop"]}]}})),
            of(json!({"resourceType": "ValueSet", "url": "urn:x", "compose": {"include": [{"system": "urn:far"}]},
                "expansion": {"total": 1, "contains": [{"system": "urn:far", "code": "c"}]}})),
            of(json!({"resourceType": "CodeSystem", "url": SDOHCC, "content": "complete", "concept": [{"code": "x"}]})),
        ]);
        assert_eq!(all.contains("urn:v", "urn:s", "B"), Membership::Known(true));
        assert_eq!(all.contains("urn:v", "urn:s", "A"), Membership::Known(false));
        assert_eq!(all.expand("urn:v").unwrap().len(), 1);
        assert_eq!(all.contains("urn:x", "urn:far", "d"), Membership::Known(false));
        assert_eq!(all.contains("urn:loop", "", "d"), Membership::Unknown);
        assert!(all.expand("urn:loop").is_err());
        assert_eq!(all.lookup(SDOHCC, "x"), Lookup::NoSuchCode);
    }
}
