//! Codes against the value sets that a profile binds them to, its additional bindings included.
//!
//! A value set that is not held is told as not checked. Of additional bindings that hold together, such as those of two
//! domains, one is enough (G-071). <https://hl7.org/fhir/R4/terminologies.html#strength>

use serde_json::{Map, Value};

use super::Severity;
use super::conform::{Conform, Occurrence};
use super::place::Place;
use super::reading::{items, text};
use crate::fhir::definitions::Strength;
use crate::fhir::path::Item;
use crate::fhir::profile::{Additional, Profiles};
use crate::fhir::terminology::Membership;

impl Conform<'_> {
    pub(super) fn binding(
        &mut self,
        strength: Strength,
        value_set: &str,
        occurrence: Occurrence<'_>,
        place: &Place<'_>,
    ) {
        let Some(value) = occurrence.value else { return };
        let membership = self.membership(value_set, occurrence.def.name, value);
        self.bound(strength, membership, value_set, value, place);
    }

    /// Those that the resource calls for: a code of one of them is enough.
    pub(super) fn additional(&mut self, all: &[Additional], occurrence: Occurrence<'_>, place: &Place<'_>) {
        let Some(value) = occurrence.value else { return };
        let root = self.root;
        for strength in [Strength::Required, Strength::Extensible] {
            let called: Vec<&str> = all
                .iter()
                .filter(|one| one.strength == strength && root.as_object().is_some_and(|root| one.holds_in(root)))
                .map(|one| one.value_set.as_str())
                .collect();
            let each = called.iter().map(|set| self.membership(set, occurrence.def.name, value));
            if let Some(any) = each.reduce(Membership::or) {
                self.bound(strength, any, &called.join(" or "), value, place);
            }
        }
    }

    fn bound(&mut self, strength: Strength, membership: Membership, set: &str, value: &Value, place: &Place<'_>) {
        match (strength, membership) {
            (_, Membership::Known(true)) => {}
            (Strength::Required, Membership::Known(false)) => {
                self.fault("code-invalid", place, &format!("this is a code of the value set {set}"));
            }
            (Strength::Extensible, Membership::Known(false)) => {
                let coded = value.get("coding").is_some() || value.get("code").is_some();
                if coded {
                    let text = format!("this is a code of the value set {set} where it has one that fits");
                    self.finding(Severity::Warning, "code-invalid", place, &text);
                }
            }
            (Strength::Required | Strength::Extensible, Membership::Unknown) => {
                let text = format!("not checked: the codes of {set} are not held here");
                self.finding(Severity::Information, "informational", place, &text);
            }
            (Strength::Preferred | Strength::Example, _) => {}
        }
    }

    /// Whether a code, Coding, CodeableConcept or Quantity is in a value set; a concept is if one of its codings is.
    pub(super) fn membership(&self, value_set: &str, type_name: &str, value: &Value) -> Membership {
        let terminology = self.profiles.terminology();
        let coding = |map: &Map<String, Value>| match text(map, "code") {
            Some(code) => terminology.contains(value_set, text(map, "system").unwrap_or_default(), code),
            // A Quantity without a coded unit is bound to nothing.
            None => Membership::Known(type_name != "Coding" && type_name != "CodeableConcept"),
        };
        let Value::Object(map) = value else {
            return value.as_str().map_or(Membership::Known(true), |code| terminology.contains(value_set, "", code));
        };
        if type_name != "CodeableConcept" {
            return coding(map);
        }
        items(map, "coding").map(coding).fold(Membership::Known(false), Membership::or)
    }
}

/// `memberOf()` for expressions.
pub(super) fn is_member(profiles: &Profiles, item: &Item<'_>, value_set: &str) -> Option<bool> {
    let terminology = profiles.terminology();
    let known = |system: &str, code: &str| match terminology.contains(value_set, system, code) {
        Membership::Known(yes) => Some(yes),
        Membership::Unknown => None,
    };
    let Item::Node(node) = item else {
        return if let Item::Text(code) = item { known("", code) } else { None };
    };
    let coding = |map: &Map<String, Value>| {
        text(map, "code").map_or(Some(false), |code| known(text(map, "system").unwrap_or_default(), code))
    };
    match node.value? {
        Value::String(code) => known("", code),
        Value::Object(map) if map.contains_key("coding") => {
            let each: Vec<Option<bool>> = items(map, "coding").map(coding).collect();
            if each.contains(&Some(true)) {
                Some(true)
            } else if each.contains(&None) {
                None
            } else {
                Some(false)
            }
        }
        Value::Object(map) => coding(map),
        _ => None,
    }
}
