//! Which slice each of a list's items belongs to, and what each slice asks.
//!
//! Slices are told apart by value or pattern, by existence, by type, and by profile as far as a reference's text tells.
//! An item that can't be told apart here belongs to no slice, and no slice is missed because of it.
//! <https://hl7.org/fhir/R4/profiling.html#slicing>

use serde_json::{Map, Value};

use super::conform::{Conform, Occurrence, matches, occurrences};
use super::place::Place;
use super::reading::text;
use super::{Severity, target_type};
use crate::fhir::profile::{Child, Discriminator, Node, Slicing};
use crate::fhir::terminology::Membership;

/// Whether an item is of a slice; `None` when that can't be told.
type Belongs = Option<bool>;

impl Conform<'_> {
    pub(super) fn slices(&mut self, node: &Node, found: &[Occurrence<'_>], place: &Place<'_>) {
        let by_url =
            Slicing { discriminators: vec![(Discriminator::Value, "url".into())], closed: false, ordered: false };
        let slicing = match &node.slicing {
            Some(slicing) => slicing,
            // Extensions are told apart by their URL, said or not.
            None if found.iter().all(|item| item.def.name == "Extension") => &by_url,
            None => return,
        };
        let mut counts = vec![0_usize; node.slices.len()];
        let mut unsure = false;
        let mut last = 0;
        for item in found {
            let mut own = None;
            for (number, (_, slice)) in node.slices.iter().enumerate() {
                match self.belongs(slice, *item, slicing) {
                    Some(true) => {
                        own = Some(number);
                        break;
                    }
                    Some(false) => {}
                    None => unsure = true,
                }
            }
            let place = place.nth(item.index);
            match own.and_then(|number| Some((number, node.slices.get(number)?))) {
                Some((number, (_, slice))) => {
                    if let Some(count) = counts.get_mut(number) {
                        *count += 1;
                    }
                    if slicing.ordered && number < last {
                        self.fault("structure", &place, "the slices come in the order of the profile");
                    }
                    last = number;
                    self.occurrence(slice, *item, &place);
                }
                None if slicing.closed && !unsure => {
                    self.fault("structure", &place, "this belongs to none of the slices that may be here");
                }
                None => {}
            }
        }
        for ((name, slice), count) in node.slices.iter().zip(counts) {
            let missing = u64::try_from(count).is_ok_and(|count| count < slice.min);
            if missing && unsure {
                let text = format!("not checked: whether the slice {name} is here can't be told");
                self.finding(Severity::Information, "informational", place, &text);
            } else {
                self.count(slice, count, place, name);
            }
        }
    }

    fn belongs(&self, slice: &Node, item: Occurrence<'_>, slicing: &Slicing) -> Belongs {
        let mut sure = !slicing.discriminators.is_empty();
        for (kind, path) in &slicing.discriminators {
            match self.fits(*kind, path, slice, item) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => sure = false,
            }
        }
        sure.then_some(true)
    }

    fn fits(&self, kind: Discriminator, path: &str, slice: &Node, item: Occurrence<'_>) -> Belongs {
        let (path, resolved) = match path.strip_suffix("resolve()") {
            Some(path) => (path.trim_end_matches('.'), true),
            None => (path, false),
        };
        let steps: Vec<&str> = path.split('.').filter(|step| !matches!(*step, "$this" | "")).collect();
        // The definition of an extension that a path asks for by its URL, and other functions, are left open.
        if steps.iter().any(|step| step.contains('(')) {
            return None;
        }
        let (node, items) = descend(slice, item, &steps)?;
        if resolved {
            return match kind {
                Discriminator::Type | Discriminator::Profile => self.points_at(node?, &items),
                Discriminator::Value | Discriminator::Exists => None,
            };
        }
        match kind {
            Discriminator::Value => {
                let node = node?;
                any(items.iter().map(|item| self.meets(node, *item)))
            }
            Discriminator::Exists => match node {
                Some(node) if node.max == Some(0) => Some(items.is_empty()),
                Some(node) if node.min > 0 => Some(!items.is_empty()),
                _ => None,
            },
            Discriminator::Type => {
                let node = node?;
                let fits = |item: &Occurrence<'_>| node.types.iter().any(|type_| item.def.is(&type_.code));
                if node.types.is_empty() { None } else { Some(items.iter().any(fits)) }
            }
            Discriminator::Profile => None,
        }
    }

    /// Whether the slice's reference targets are of the type that the reference's text tells.
    fn points_at(&self, node: &Node, items: &[Occurrence<'_>]) -> Belongs {
        let targets: Option<Vec<&str>> =
            node.types.iter().flat_map(|type_| &type_.targets).map(|url| self.profiles.type_of(url)).collect();
        let targets = targets.filter(|targets| !targets.is_empty())?;
        let reference = items.first()?.value?.as_object()?;
        let told = text(reference, "reference").and_then(|reference| target_type(reference, self.root));
        told.or_else(|| text(reference, "type")).map(|told| targets.contains(&told))
    }

    /// Whether an item has what a node of a slice says of it; `None` when it says nothing that tells.
    fn meets(&self, node: &Node, item: Occurrence<'_>) -> Belongs {
        let value = item.value.unwrap_or(&Value::Null);
        let mut told = false;
        if let Some(fixed) = &node.fixed {
            told = true;
            if fixed != value {
                return Some(false);
            }
        }
        if let Some(pattern) = &node.pattern {
            told = true;
            if !matches(pattern, value) {
                return Some(false);
            }
        }
        if let Some((_, value_set)) = node.binding.as_ref().filter(|_| !told) {
            match self.membership(value_set, item.def.name, value) {
                Membership::Known(true) => told = true,
                Membership::Known(false) => return Some(false),
                Membership::Unknown => return None,
            }
        }
        let empty = Map::new();
        let map = value.as_object().unwrap_or(&empty);
        for child in &node.children {
            let found = occurrences(map, item.def, child);
            if child.node.min > 0 && found.is_empty() {
                return Some(false);
            }
            if let Some(met) = self.child_meets(child, &found) {
                told = true;
                if !met {
                    return Some(false);
                }
            }
        }
        told.then_some(true)
    }

    fn child_meets(&self, child: &Child, found: &[Occurrence<'_>]) -> Belongs {
        let own = any(found.iter().map(|item| self.meets(&child.node, *item)));
        let mut slices = child.node.slices.iter().filter(|(_, slice)| slice.min > 0).peekable();
        if slices.peek().is_none() {
            return own.filter(|_| !found.is_empty());
        }
        let each = slices.map(|(_, slice)| any(found.iter().map(|item| self.meets(slice, *item))));
        let each: Vec<Belongs> = each.collect();
        if each.contains(&Some(false)) {
            Some(false)
        } else if each.contains(&None) {
            None
        } else {
            Some(true)
        }
    }
}

/// The node and the occurrences at a path below an item. No node where the slice says nothing there.
fn descend<'n, 'a>(
    slice: &'n Node,
    item: Occurrence<'a>,
    steps: &[&str],
) -> Option<(Option<&'n Node>, Vec<Occurrence<'a>>)> {
    let mut node = Some(slice);
    let mut items = vec![item];
    for step in steps {
        let child = node.and_then(|node| node.children.iter().find(|child| child.name == *step));
        let plain = Child { name: (*step).to_string(), only: None, node: Node::default() };
        let at = child.unwrap_or(&plain);
        let found = items.iter().filter_map(|item| Some((item.value?.as_object()?, item.def)));
        items = found.flat_map(|(map, def)| occurrences(map, def, at)).collect();
        node = child.map(|child| &child.node);
    }
    Some((node, items))
}

/// Whether one of these is true; false if all are false, or there are none.
fn any(each: impl Iterator<Item = Belongs>) -> Belongs {
    let mut sum = Some(false);
    for one in each {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => sum = None,
        }
    }
    sum
}
