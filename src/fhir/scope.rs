//! SMART scopes for systems: `system/Task.rs`, `system/*.cruds`, and v1's `system/Task.read`.
//!
//! A scope narrows what a partner's roles and grants allow and never widens it. Promises that what is granted is never
//! more than what was asked for, nor more than what is allowed. Leaves out `patient/` and `user/` scopes, which no
//! partner has here, and scopes with search parameters: those are not granted, as the standard has it for what a server
//! can't enforce. <https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>

use std::fmt;

use super::resource::ResourceType;

/// The letters of v2, in their only order.
const LETTERS: &str = "cruds";
/// Most scopes in one request.
const MOST: usize = 200;

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

/// One scope: what may be done to one type, or to all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    /// None: every type.
    kind: Option<ResourceType>,
    letters: Letters,
    /// As it was asked for, while nothing was taken away: who asks in v1 is answered in v1.
    text: String,
}

impl Scope {
    fn parse(text: &str) -> Option<Scope> {
        let (kind, letters) = text.strip_prefix("system/")?.split_once('.')?;
        let kind = match kind {
            "*" => None,
            name => Some(ResourceType::parse(name)?),
        };
        Some(Scope { kind, letters: Letters::parse(letters)?, text: text.to_string() })
    }

    fn new(kind: Option<ResourceType>, letters: Letters) -> Scope {
        let text = format!("system/{}.{letters}", kind.map_or("*", ResourceType::name));
        Scope { kind, letters, text }
    }

    /// What both allow.
    fn and(&self, other: &Scope) -> Option<Scope> {
        let letters = self.letters.and(other.letters)?;
        let kind = match (self.kind, other.kind) {
            (Some(one), Some(two)) if one != two => return None,
            (one, two) => one.or(two),
        };
        if kind == self.kind && letters == self.letters { Some(self.clone()) } else { Some(Scope::new(kind, letters)) }
    }
}

/// Several scopes: what any of them allows is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Everything.
    pub fn all() -> Scopes {
        Scopes(vec![Scope::new(None, Letters::ALL)])
    }

    /// The scopes of a list that are ones of ours; the others count as not asked for. At most 200 are looked at.
    pub fn parse<'a>(list: impl IntoIterator<Item = &'a str>) -> Scopes {
        Scopes(list.into_iter().take(MOST).filter_map(Scope::parse).collect())
    }

    /// Whether this may be done: `c` create, `r` read, vread and an instance's history, `u` update and patch, `d` delete,
    /// `s` search and a type's history (A-032).
    pub fn allow(&self, kind: ResourceType, letter: char) -> bool {
        self.0.iter().any(|scope| scope.kind.is_none_or(|its| its == kind) && scope.letters.has(letter))
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
        Scopes(granted)
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
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
    use super::*;
    use proptest::prelude::*;

    fn scopes(text: &str) -> Scopes {
        Scopes::parse(text.split(' '))
    }

    /// A-030: the letters stand in order and there is at least one; what is no scope of ours is left out.
    #[test]
    fn only_the_grammar_is_a_scope() {
        for good in ["system/Task.c", "system/Task.rs", "system/*.cruds", "system/Task.read", "system/Task.*"] {
            assert_eq!(scopes(good).to_string(), good);
        }
        for bad in [
            "system/Task.dus",
            "system/Task.rr",
            "system/Task.",
            "system/Task",
            "system/task.r",
            "system/Task.rs?owner=Organization/x",
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
    }

    fn any_scopes() -> impl Strategy<Value = Scopes> {
        let one = ("(\\*|Task|Patient|Procedure)", "c?r?u?d?s?")
            .prop_map(|(kind, letters)| format!("system/{kind}.{letters}"));
        proptest::collection::vec(one, 0..5).prop_map(|list| Scopes::parse(list.iter().map(String::as_str)))
    }

    proptest! {
        #[test]
        fn a_grant_allows_exactly_what_both_allow(allowed in any_scopes(), wish in any_scopes()) {
            let granted = allowed.grant(&wish);
            for kind in [ResourceType::TASK, ResourceType::PATIENT, ResourceType::CONSENT] {
                for letter in LETTERS.chars() {
                    let both = allowed.allow(kind, letter) && wish.allow(kind, letter);
                    prop_assert_eq!(granted.allow(kind, letter), both, "{} {}", kind, letter);
                }
            }
            prop_assert_eq!(Scopes::parse(granted.to_string().split(' ')), granted);
        }
    }
}
