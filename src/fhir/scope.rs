//! SMART scopes for systems: `system/Task.rs`, `system/*.cruds`, v1's `system/Task.read`, and those of a part of a type,
//! `system/Task.rs?status=requested`.
//!
//! A scope narrows what a partner's roles and grants allow and never widens it. Promises that what is granted is never
//! more than what was asked for, nor more than what is allowed. Leaves out `patient/` and `user/` scopes, which no
//! partner has here, and search parameters that don't tell by a resource alone whether it is meant (chains, `_has`, a
//! date's `ap`, other servers' references): those are not granted, as the standard has it for what a server can't
//! enforce. <https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>

use std::fmt;

use super::resource::ResourceType;
use super::search::{Filter, foreign_references_of};
use super::search_index::parameter;
use super::subscription::conditions;

/// The letters of v2, in their only order.
const LETTERS: &str = "cruds";
/// Most scopes in one request.
const MOST: usize = 200;
/// Most scopes of a part of a type in one list; a resource is looked at by each.
const MOST_PARTS: usize = 20;
/// Most parameters of one scope.
const MOST_PARAMETERS: usize = 10;

/// What may be done: a set of `c r u d s`, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letters(u8);

impl Letters {
    const ALL: Letters = Letters(0b1_1111);

    /// v2 letters in order, or a word of v1 (A-030, A-031).
    fn parse(text: &str) -> Option<Letters> {
        match text {
            "read" => return Letters::parse("rs"),
            "write" => return Letters::parse("cud"),
            "*" => return Some(Letters::ALL),
            _ => {}
        }
        let mut set = 0;
        let mut left = LETTERS.chars().enumerate();
        for letter in text.chars() {
            let (bit, _) = left.find(|(_, known)| *known == letter)?;
            set |= 1 << bit;
        }
        (set > 0).then_some(Letters(set))
    }

    fn has(self, letter: char) -> bool {
        LETTERS.find(letter).is_some_and(|bit| self.0 & (1 << bit) != 0)
    }

    fn and(self, other: Letters) -> Option<Letters> {
        let both = self.0 & other.0;
        (both > 0).then_some(Letters(both))
    }
}

impl fmt::Display for Letters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        LETTERS.chars().filter(|letter| self.has(*letter)).try_for_each(|letter| write!(out, "{letter}"))
    }
}

/// A part of a type: what must hold of a resource, and how that was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    filters: Vec<Filter>,
    parameters: Vec<String>,
}

impl Part {
    /// What stands behind the question mark; nothing where it can't be enforced.
    fn parse(kind: ResourceType, text: &str, own: &str) -> Option<Part> {
        let known = |name: &str| matches!(name, "_id" | "_lastUpdated") || parameter(kind, name).is_some();
        let filters = conditions(text, kind, &known, own)?;
        let enforced = !filters.iter().any(Filter::moves) && foreign_references_of(&filters).is_empty();
        let parameters: Vec<String> = text.split('&').map(str::to_string).collect();
        (enforced && parameters.len() <= MOST_PARAMETERS).then_some(Part { filters, parameters })
    }

    /// What lies in both.
    fn and(&self, other: &Part) -> Part {
        let mut both = self.clone();
        both.filters.extend(other.filters.iter().filter(|one| !self.filters.contains(one)).cloned());
        both.parameters.extend(other.parameters.iter().filter(|one| !self.parameters.contains(one)).cloned());
        both
    }
}

/// One scope: what may be done to one type, to a part of it, or to all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    /// None: every type.
    kind: Option<ResourceType>,
    letters: Letters,
    /// Without conditions: all of the type.
    part: Part,
    /// As it was asked for, while nothing was taken away: who asks in v1 is answered in v1.
    text: String,
}

impl Scope {
    fn parse(text: &str, own: &str) -> Option<Scope> {
        let (kind, rest) = text.strip_prefix("system/")?.split_once('.')?;
        let (letters, part) = rest.split_once('?').map_or((rest, None), |(letters, part)| (letters, Some(part)));
        let kind = match kind {
            "*" => None,
            name => Some(ResourceType::parse(name)?),
        };
        let part = match part {
            Some(part) => Part::parse(kind?, part, own)?,
            None => Part::default(),
        };
        Some(Scope { kind, letters: Letters::parse(letters)?, part, text: text.to_string() })
    }

    fn new(kind: Option<ResourceType>, letters: Letters, part: Part) -> Scope {
        let mut text = format!("system/{}.{letters}", kind.map_or("*", ResourceType::name));
        if !part.parameters.is_empty() {
            text.push('?');
            text.push_str(&part.parameters.join("&"));
        }
        Scope { kind, letters, part, text }
    }

    fn is_part(&self) -> bool {
        !self.part.filters.is_empty()
    }

    fn covers(&self, kind: ResourceType, letter: char) -> bool {
        self.kind.is_none_or(|its| its == kind) && self.letters.has(letter)
    }

    /// What both allow.
    fn and(&self, other: &Scope) -> Option<Scope> {
        let letters = self.letters.and(other.letters)?;
        let kind = match (self.kind, other.kind) {
            (Some(one), Some(two)) if one != two => return None,
            (one, two) => one.or(two),
        };
        let part = self.part.and(&other.part);
        let same = kind == self.kind && letters == self.letters && part == self.part;
        Some(if same { self.clone() } else { Scope::new(kind, letters, part) })
    }
}

/// Several scopes: what any of them allows is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Everything.
    pub fn all() -> Scopes {
        Scopes(vec![Scope::new(None, Letters::ALL, Part::default())])
    }

    /// The scopes of a list that are ones of ours; the others count as not asked for. At most 200 are looked at, and of
    /// them 20 with parameters. `own` is this server's base.
    pub fn parse<'a>(list: impl IntoIterator<Item = &'a str>, own: &str) -> Scopes {
        let mut scopes: Vec<Scope> = list.into_iter().take(MOST).filter_map(|text| Scope::parse(text, own)).collect();
        at_most_parts(&mut scopes);
        Scopes(scopes)
    }

    /// Whether this may be done to all of a type: `c` create, `r` read, vread and an instance's history, `u` update and
    /// patch, `d` delete, `s` search and a type's history (A-032).
    pub fn allow(&self, kind: ResourceType, letter: char) -> bool {
        self.part_of(kind, letter).is_some_and(|part| part.is_empty())
    }

    /// To which resources of a type this may be done: those that satisfy all of these; none: to no resource (A-034).
    pub fn part_of(&self, kind: ResourceType, letter: char) -> Option<Vec<Filter>> {
        let mut parts = Vec::new();
        for scope in self.0.iter().filter(|scope| scope.covers(kind, letter)) {
            if !scope.is_part() {
                return Some(Vec::new());
            }
            parts.push(scope.part.filters.clone());
        }
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(vec![Filter::Any(parts)]),
        }
    }

    /// What of this wish lies within these scopes, in the wish's order.
    pub fn grant(&self, wish: &Scopes) -> Scopes {
        let mut granted: Vec<Scope> = Vec::new();
        for asked in &wish.0 {
            for both in self.0.iter().filter_map(|allowed| asked.and(allowed)) {
                if !granted.contains(&both) {
                    granted.push(both);
                }
            }
        }
        at_most_parts(&mut granted);
        Scopes(granted)
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Leaves out the parts that are too many: less is granted, and that is said.
fn at_most_parts(scopes: &mut Vec<Scope>) {
    let mut parts = 0;
    scopes.retain(|scope| {
        parts += usize::from(scope.is_part());
        !scope.is_part() || parts <= MOST_PARTS
    });
}

impl fmt::Display for Scopes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.0.iter().enumerate() {
            write!(out, "{}{}", if index == 0 { "" } else { " " }, scope.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::satisfies;
    use super::*;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    const OWN: &str = "https://hub.test/fhir";

    fn scopes(text: &str) -> Scopes {
        Scopes::parse(text.split(' '), OWN)
    }

    /// A-030: the letters stand in order and there is at least one; what is no scope of ours is left out.
    #[test]
    fn only_the_grammar_is_a_scope() {
        for good in [
            "system/Task.c",
            "system/Task.rs",
            "system/*.cruds",
            "system/Task.read",
            "system/Task.*",
            "system/Task.rs?status=requested&owner=Organization/x",
            "system/Task.rs?owner=https://hub.test/fhir/Organization/x",
            "system/Condition.rs?category=http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/c%7Cx,y",
            "system/Patient.read?_id=a,b&_lastUpdated=ge2026-01-01",
            "system/Task.rs?status:not=draft&output:missing=true",
        ] {
            assert_eq!(scopes(good).to_string(), good);
        }
        for bad in [
            "system/Task.dus",
            "system/Task.rr",
            "system/Task.",
            "system/Task",
            "system/task.r",
            "system/*.rs?_id=x",
            "system/Task.rs?",
            "system/Task.rs?status",
            "system/Task.rs?status=",
            "system/Task.rs?colour=blue",
            "system/Task.rs?status:loud=x",
            "system/Task.rs?_sort=status",
            "system/Task.rs?status=requested&_include=Task:focus",
            "system/Task.rs?patient.name=x",
            "system/Task.rs?_has:Provenance:target:recorded=ge2026",
            "system/Task.rs?authored-on=ap2026-01-01",
            "system/Task.rs?owner=https://elsewhere.test/fhir/Organization/x",
            "system/Task.rs?_id=1&_id=2&_id=3&_id=4&_id=5&_id=6&_id=7&_id=8&_id=9&_id=a&_id=b",
            "patient/Task.rs",
            "user/*.rs",
            "openid",
            "",
        ] {
            assert!(scopes(bad).is_empty(), "{bad}");
        }
    }

    /// A-031, A-032
    #[test]
    fn a_scope_of_v1_is_its_letters() {
        let read = scopes("system/Task.read");
        let allowed: String = LETTERS.chars().filter(|letter| read.allow(ResourceType::TASK, *letter)).collect();
        assert_eq!(allowed, "rs");
        let write = scopes("system/*.write");
        let allowed: String = LETTERS.chars().filter(|letter| write.allow(ResourceType::PATIENT, *letter)).collect();
        assert_eq!(allowed, "cud");
        assert!(!scopes("system/Task.cruds").allow(ResourceType::PATIENT, 'r'));
    }

    /// A-020, A-031
    #[test]
    fn a_grant_is_what_both_sides_allow_in_the_wishs_words() {
        let grant = |allowed: &str, wish: &str| scopes(allowed).grant(&scopes(wish)).to_string();
        assert_eq!(grant("system/*.cruds", "system/Task.read system/Patient.rs"), "system/Task.read system/Patient.rs");
        assert_eq!(grant("system/Task.r", "system/Task.read"), "system/Task.r");
        assert_eq!(grant("system/Task.rs system/Patient.r", "system/*.cruds"), "system/Task.rs system/Patient.r");
        assert_eq!(grant("system/Task.rs", "system/Patient.rs"), "");
        assert_eq!(grant("system/*.rs", "system/*.cud"), "");
        assert_eq!(grant("system/*.rs system/Task.cruds", "system/Task.rs"), "system/Task.rs");
        // A-034: parts are met by parts.
        let part = "system/Task.rs?status=requested";
        assert_eq!(grant(part, "system/*.cruds"), part);
        assert_eq!(grant("system/*.cruds", part), part);
        assert_eq!(grant(part, part), part);
        assert_eq!(
            grant(part, "system/Task.r?owner=Organization/x"),
            "system/Task.r?owner=Organization/x&status=requested"
        );
        assert_eq!(grant(part, "system/Patient.rs?_id=x"), "");
    }

    /// A-034: what several allow is what any of them allows; who is allowed all needs no part.
    #[test]
    fn a_type_is_allowed_whole_in_part_or_not() {
        let part = |text: &str| scopes(text).part_of(ResourceType::TASK, 'r');
        assert_eq!(part("system/Task.s?status=requested"), None);
        assert_eq!(part("system/Task.r?status=requested system/*.r"), Some(Vec::new()));
        assert_eq!(part("system/Task.r?status=requested&_id=a").map(|all| all.len()), Some(2));
        let two = part("system/Task.r?status=requested system/Task.rs?_id=a").unwrap();
        assert!(matches!(two.as_slice(), [Filter::Any(ways)] if ways.len() == 2));
        assert!(!scopes("system/Task.rs?_id=a").allow(ResourceType::TASK, 'r'));
        let many: Vec<String> = (0..30).map(|id| format!("system/Task.r?_id={id}")).collect();
        assert_eq!(scopes(&many.join(" ")).0.len(), MOST_PARTS);
    }

    fn any_scopes() -> impl Strategy<Value = Scopes> {
        let one = ("(\\*|Task|Patient|Procedure)", "c?r?u?d?s?", "(|\\?_id=[ab](&_id=[ab])?)")
            .prop_map(|(kind, letters, part)| format!("system/{kind}.{letters}{part}"));
        proptest::collection::vec(one, 0..5).prop_map(|list| Scopes::parse(list.iter().map(String::as_str), OWN))
    }

    proptest! {
        #[test]
        fn a_grant_allows_exactly_what_both_allow(allowed in any_scopes(), wish in any_scopes()) {
            let granted = allowed.grant(&wish);
            for kind in [ResourceType::TASK, ResourceType::PATIENT, ResourceType::CONSENT] {
                for (letter, id) in LETTERS.chars().flat_map(|letter| ["a", "b"].map(|id| (letter, id))) {
                    let reached = |scopes: &Scopes| {
                        let part = scopes.part_of(kind, letter);
                        part.is_some_and(|all| all.iter().all(|filter| satisfies(filter, id, Timestamp(0), &[])))
                    };
                    let both = reached(&allowed) && reached(&wish);
                    prop_assert_eq!(reached(&granted), both, "{} {} {}", kind, letter, id);
                }
            }
            prop_assert_eq!(scopes(&granted.to_string()), granted);
        }
    }
}
