//! Which slice each of a list's items belongs to, and what each slice asks.
//!
//! Slices are told apart by value or pattern, by existence, by type, and by profile as far as a reference's text tells.
//! An item that can't be told apart here belongs to no slice, and no slice is missed because of it; that is said.
//! <https://hl7.org/fhir/R4/profiling.html#slicing>

use serde_json::{Map, Value};

use super::conform::{Conform, Occurrence, matches, occurrences};
use super::place::Place;
use super::reading::{each, text};
use super::{Severity, contained, target_type};
use crate::fhir::profile::{Child, Discriminator, Kind, Node, Slicing, Step};
use crate::fhir::terminology::Membership;

/// Whether an item is of a slice; `None` when that can't be told.
type Belongs = Option<bool>;

impl Conform<'_> {
    pub(super) fn slices(&mut self, node: &Node, found: &[Occurrence<'_>], place: &Place<'_>) {
        let by_url = Slicing {
            discriminators: vec![Discriminator::new(Kind::Value, "url")],
            closed: false,
            open_at_end: false,
            ordered: false,
        };
        let slicing = match &node.slicing {
            Some(slicing) => slicing,
            // Extensions are told apart by their URL, said or not.
            None if found.iter().all(|item| item.def.name == "Extension") => &by_url,
            None => return,
        };
        let mut members: Vec<Vec<Occurrence<'_>>> = vec![Vec::new(); node.slices.len()];
        // Whether an item of no other slice may be of this one.
        let mut unsure = vec![false; node.slices.len()];
        let mut last = 0;
        let mut ended = false;
        for item in found {
            let each: Vec<Belongs> = node.slices.iter().map(|(_, slice)| self.belongs(slice, *item, slicing)).collect();
            let place = place.nth(item.index);
            let own = each.iter().position(|belongs| *belongs == Some(true));
            match own.and_then(|number| Some((number, node.slices.get(number)?))) {
                Some((number, (_, slice))) => {
                    if let Some(members) = members.get_mut(number) {
                        members.push(*item);
                    }
                    if slicing.open_at_end && ended {
                        self.fault("structure", &place, "this comes before what belongs to no slice");
                    }
                    if slicing.ordered && number < last {
                        self.fault("structure", &place, "the slices come in the order of the profile");
                    }
                    last = number;
                    self.occurrence(slice, *item, &place);
                }
                None if each.contains(&None) => {
                    for (unsure, belongs) in unsure.iter_mut().zip(each) {
                        *unsure |= belongs.is_none();
                    }
                }
                None if slicing.closed => {
                    self.fault("structure", &place, "this belongs to none of the slices that may be here");
                }
                None => ended = true,
            }
        }
        for (((name, slice), members), unsure) in node.slices.iter().zip(members).zip(unsure) {
            if unsure {
                let text = format!("not checked: what is of the slice {name} can't be told");
                self.finding(Severity::Information, "informational", place, &text);
            }
            let missing = u64::try_from(members.len()).is_ok_and(|count| count < slice.min);
            if !(missing && unsure) {
                self.count(slice, members.len(), place, name);
            }
            // Slices of this slice.
            if !slice.slices.is_empty() {
                self.slices(slice, &members, place);
            }
        }
    }

    fn belongs(&self, slice: &Node, item: Occurrence<'_>, slicing: &Slicing) -> Belongs {
        let mut sure = !slicing.discriminators.is_empty();
        for discriminator in &slicing.discriminators {
            match self.fits(discriminator, slice, item) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => sure = false,
            }
        }
        sure.then_some(true)
    }

    fn fits(&self, discriminator: &Discriminator, slice: &Node, item: Occurrence<'_>) -> Belongs {
        let at = descend(slice, item, discriminator.path.as_ref()?);
        if discriminator.resolved {
            return match discriminator.kind {
                Kind::Type => self.points_at(at.node?, &at.items),
                Kind::Profile => match self.points_at(at.node?, &at.items) {
                    Some(true) => self.points_at_profile(at.node?, &at.items).or(Some(true)),
                    told => told,
                },
                Kind::Value | Kind::Exists => None,
            };
        }
        match discriminator.kind {
            // A pattern of what it stands in tells, too.
            Kind::Value => match (at.node.filter(|node| says(node)), at.pattern.as_slice()) {
                (Some(node), _) => any(at.items.iter().map(|item| self.meets(node, *item))),
                // A slice that only asks for something there.
                (None, []) => at.node.filter(|node| node.min > 0).map(|_| !at.items.is_empty()),
                (None, wanted) => {
                    let held = |wanted: &&Value| {
                        at.items.iter().any(|item| matches(wanted, item.value.unwrap_or(&Value::Null)))
                    };
                    Some(wanted.iter().all(held))
                }
            },
            Kind::Exists => match at.node {
                Some(node) if node.max == Some(0) => Some(at.items.is_empty()),
                Some(node) if node.min > 0 => Some(!at.items.is_empty()),
                _ => None,
            },
            Kind::Type => {
                let node = at.node?;
                let fits = |item: &Occurrence<'_>| node.types.iter().any(|type_| item.is_of(&type_.code));
                if node.types.is_empty() { None } else { Some(at.items.iter().any(fits)) }
            }
            Kind::Profile => {
                let [type_] = at.node?.types.as_slice() else { return None };
                any(at.items.iter().map(|item| match item.def.is(&type_.code) {
                    true => self.is_of(item.value?, &type_.profiles),
                    false => Some(false),
                }))
            }
        }
    }

    /// Whether what a reference points at in this resource is of one of the slice's profiles; `None` where it points
    /// elsewhere.
    fn points_at_profile(&self, node: &Node, items: &[Occurrence<'_>]) -> Belongs {
        let contained = contained(items.first()?.value?.as_object()?, self.root)?;
        let targets: Vec<String> = node.types.iter().flat_map(|type_| &type_.targets).cloned().collect();
        self.is_of(contained, &targets)
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
        // What else the slice asks of its items does not tell them apart.
        if told {
            return Some(true);
        }
        if let Some((_, value_set)) = &node.binding {
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

/// What is at a path below an item of a slice.
struct At<'n, 'a> {
    /// What the slice says there itself.
    node: Option<&'n Node>,
    /// What a pattern or fixed value above it says there.
    pattern: Vec<&'n Value>,
    items: Vec<Occurrence<'a>>,
}

fn descend<'n, 'a>(slice: &'n Node, item: Occurrence<'a>, path: &[Step]) -> At<'n, 'a> {
    let mut at = At { node: Some(slice), pattern: Vec::new(), items: vec![item] };
    for step in path {
        let (name, url) = match step {
            Step::Element(name) => (name.as_str(), None),
            Step::Extension(url) => ("extension", Some(url.as_str())),
        };
        at.pattern.extend(at.node.and_then(|node| node.pattern.as_ref().or(node.fixed.as_ref())));
        at.pattern =
            at.pattern.iter().filter_map(|value| value.get(name)).flat_map(|value| each(Some(value))).collect();
        let child = at.node.and_then(|node| node.children.iter().find(|child| child.name == name));
        let plain = Child { name: name.to_string(), only: None, node: Node::default() };
        let found = at.items.iter().filter_map(|item| Some((item.value?.as_object()?, item.def)));
        at.items = found.flat_map(|(map, def)| occurrences(map, def, child.unwrap_or(&plain))).collect();
        at.node = child.map(|child| &child.node);
        if let Some(url) = url {
            let is = |value: Option<&Value>| value.and_then(|value| value.get("url")?.as_str()) == Some(url);
            at.items.retain(|item| is(item.value));
            at.node = at
                .node
                .and_then(|node| node.slices.iter().find(|(_, slice)| slice.is_extension(url)).map(|(_, slice)| slice));
        }
    }
    at
}

/// Whether a slice tells its items apart here.
fn says(node: &Node) -> bool {
    node.fixed.is_some() || node.pattern.is_some() || node.binding.is_some() || !node.children.is_empty()
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
