//! Mutants of an instance that follow from a StructureDefinition alone, read here a second time and in another way than
//! the product reads it: each breaks one rule of one element, and knows which element must be told.

use std::collections::HashMap;

use loopgate::fhir::definitions::{self, TypeDef};
use loopgate::fhir::terminology::{Membership, Terminology};
use serde_json::{Value, json};

use super::{Mutant, values};

/// A definition with its elements by id.
pub struct Snapshot<'a> {
    type_name: &'a str,
    url: &'a str,
    elements: Vec<(&'a str, &'a Value)>,
    by_id: HashMap<&'a str, &'a Value>,
    terminology: &'a Terminology,
    /// The type that a profile's canonical is about.
    type_of: &'a dyn Fn(&str) -> Option<String>,
}

/// A place in the instance, as a JSON pointer and as FHIRPath.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    pointer: String,
    path: String,
}

/// An element's occurrences in one holder.
struct Spot {
    holder: Place,
    name: String,
    found: Vec<Place>,
}

impl Spot {
    fn told(&self) -> String {
        format!("{}.{}", self.holder.path, self.name)
    }
}

fn bare(url: &str) -> &str {
    url.split('|').next().unwrap()
}

fn split(segment: &str) -> (&str, Option<&str>) {
    let (name, slice) = segment.split_once(':').map_or((segment, None), |(name, slice)| (name, Some(slice)));
    (name, slice)
}

fn by_prefix<'v>(told: &'v Value, prefix: &str) -> Option<&'v Value> {
    let typed =
        |key: &&String| key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_uppercase()));
    told.as_object()?.iter().find(|(key, _)| typed(key)).map(|(_, value)| value)
}

fn holds(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::Object(pattern), Value::Object(value)) => {
            pattern.iter().all(|(key, part)| value.get(key).is_some_and(|value| holds(part, value)))
        }
        (Value::Array(pattern), Value::Array(value)) => pattern.iter().all(|part| value.iter().any(|v| holds(part, v))),
        _ => pattern == value,
    }
}

fn foreign() -> Value {
    json!({"system": "http://mutant.example", "code": "mutant"})
}

fn def_of<'v>(root: &'static TypeDef, names: impl Iterator<Item = &'v str>) -> Option<&'static definitions::Element> {
    let mut def = root;
    let mut element = None;
    for name in names {
        let name = split(name).0.trim_end_matches("[x]");
        let found = def.element(name).or_else(|| def.element_for_json_key(name).map(|(element, _)| element))?;
        def = found.types[0].def();
        element = Some(found);
    }
    element
}

impl<'a> Snapshot<'a> {
    pub fn read(
        definition: &'a Value,
        terminology: &'a Terminology,
        type_of: &'a dyn Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let list = ["snapshot", "differential"].iter().find_map(|form| definition[*form]["element"].as_array())?;
        let elements: Vec<(&str, &Value)> = list.iter().filter_map(|told| Some((told["id"].as_str()?, told))).collect();
        let by_id = elements.iter().copied().collect();
        let (type_name, url) = (definition["type"].as_str()?, definition["url"].as_str()?);
        (definition["derivation"] == "constraint").then_some(Snapshot {
            type_name,
            url,
            elements,
            by_id,
            terminology,
            type_of,
        })
    }

    /// Where this definition's things are: the resource itself, or every extension with its URL.
    fn roots(&self, instance: &Value) -> Vec<Place> {
        let kind = instance["resourceType"].as_str().unwrap();
        if self.type_name != "Extension" {
            let here = Place { pointer: String::new(), path: kind.to_string() };
            return if kind == self.type_name { vec![here] } else { Vec::new() };
        }
        let mut found = Vec::new();
        let mut todo =
            vec![(Place { pointer: String::new(), path: kind.to_string() }, definitions::resource(kind).unwrap())];
        while let Some((place, def)) = todo.pop() {
            let Some(map) = instance.pointer(&place.pointer).and_then(Value::as_object) else { continue };
            if def.name == "Extension" && map.get("url").is_some_and(|url| url == self.url) {
                found.push(place.clone());
            }
            for (key, value) in map {
                let Some((element, type_)) = def.element_for_json_key(key) else { continue };
                for place in items(&place, key, element.name, value) {
                    todo.push((place, type_.def()));
                }
            }
        }
        found
    }

    fn spots(&self, instance: &Value, root: &Place, id: &[&str]) -> Vec<Spot> {
        let Some((last, before)) = id.split_last() else { return Vec::new() };
        let holders: Vec<Place> = match before {
            [] => Vec::new(),
            [_] => vec![root.clone()],
            _ => self.spots(instance, root, before).into_iter().flat_map(|spot| spot.found).collect(),
        };
        let (name, slice) = split(last);
        let element = def_of(definitions::of(self.type_name).unwrap(), id.iter().skip(1).copied());
        let Some(element) = element else { return Vec::new() };
        let keys: Vec<String> = match element.types.iter().find(|type_| {
            let key = element.json_key(type_);
            element.choice && (key == name || Some(key.as_str()) == slice)
        }) {
            Some(type_) => vec![element.json_key(type_)],
            None => element.types.iter().map(|type_| element.json_key(type_)).collect(),
        };
        let of_type = element.choice;
        holders
            .into_iter()
            .filter_map(|holder| {
                let map = instance.pointer(&holder.pointer)?.as_object()?;
                let all = keys.iter().filter_map(|key| Some((key, map.get(key)?)));
                let mut found: Vec<Place> =
                    all.flat_map(|(key, value)| items(&holder, key, element.name, value)).collect();
                if let (Some(_), false) = (slice, of_type) {
                    let list: Vec<&str> = before.iter().copied().chain([name]).collect();
                    let mut unsure = false;
                    found.retain(|place| {
                        match self.is_in(&list.join("."), &id.join("."), instance.pointer(&place.pointer).unwrap()) {
                            Some(yes) => yes,
                            None => {
                                unsure = true;
                                false
                            }
                        }
                    });
                    if unsure {
                        return None;
                    }
                }
                Some(Spot { holder, name: element.name.to_string(), found })
            })
            .collect()
    }

    /// Whether an item is of a slice, by the slicing of its list.
    fn is_in(&self, list: &str, slice: &str, item: &Value) -> Option<bool> {
        let told = self.by_id.get(list).map_or(&Value::Null, |list| &list["slicing"]["discriminator"]);
        let by_url = json!([{"type": "value", "path": "url"}]);
        let told = if list.ends_with("xtension") && !told.is_array() { &by_url } else { told };
        let mut all = true;
        for one in told.as_array()? {
            all &= self.discriminates(one["type"].as_str()?, one["path"].as_str()?, slice, item)?;
        }
        Some(all)
    }

    fn discriminates(&self, kind: &str, path: &str, slice: &str, item: &Value) -> Option<bool> {
        let value = |path: &str| path.split('.').try_fold(item, |value, step| value.get(step));
        match (kind, path) {
            ("value" | "pattern", "url") => Some(item["url"].as_str() == Some(&self.extension_url(slice)?)),
            ("value" | "pattern", "$this") => self.says(slice, item),
            ("value" | "pattern", "coding") => {
                by_prefix(self.by_id.get(slice)?, "pattern").map(|pattern| holds(pattern, item))
            }
            ("value" | "pattern", path) => self.says(&format!("{slice}.{path}"), value(path)?),
            ("type", "value") => {
                let types = ["value[x]", "value[x]:valueReference", "value[x]:valueCodeableConcept"].iter();
                let told = types.filter_map(|name| self.by_id.get(format!("{slice}.{name}").as_str())).next_back()?;
                let key = item.as_object()?.keys().find(|key| key.starts_with("value"))?;
                Some(told["type"].as_array()?.iter().any(|type_| {
                    key.strip_prefix("value")
                        .is_some_and(|own| type_["code"].as_str().is_some_and(|code| own.eq_ignore_ascii_case(code)))
                }))
            }
            ("exists", path) => {
                let url = path.strip_prefix("extension('")?.strip_suffix("')")?;
                Some(item["extension"].as_array().into_iter().flatten().any(|one| one["url"] == url))
            }
            _ => None,
        }
    }

    /// Whether a value is what the element of this id says: by its fixed value or pattern, those within it, or its binding.
    fn says(&self, id: &str, value: &Value) -> Option<bool> {
        let mut known = None;
        let both = |known: Option<bool>, one: bool| Some(known.unwrap_or(true) && one);
        if let Some(told) = self.by_id.get(id) {
            if let Some(fixed) = by_prefix(told, "fixed") {
                known = both(known, fixed == value);
            }
            if let Some(pattern) = by_prefix(told, "pattern") {
                known = both(known, holds(pattern, value));
            }
            if known.is_none() && told["binding"]["strength"] == "required" {
                match self.member(told["binding"]["valueSet"].as_str()?, value) {
                    Membership::Known(yes) => known = Some(yes),
                    Membership::Unknown => return None,
                }
            }
        }
        let inner = format!("{id}.");
        for (other, told) in &self.elements {
            let Some(rest) = other.strip_prefix(&inner).filter(|rest| !rest.contains(':')) else { continue };
            if let Some(wanted) = by_prefix(told, "fixed").or_else(|| by_prefix(told, "pattern")) {
                known = both(known, any_at(value, rest).into_iter().any(|own| holds(wanted, own)));
            }
        }
        known
    }

    fn member(&self, value_set: &str, value: &Value) -> Membership {
        let coding = |one: &Value| {
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_string();
            self.terminology.contains(value_set, &text("system"), &text("code"))
        };
        match value {
            Value::String(code) => self.terminology.contains(value_set, "", code),
            Value::Object(map) if map.contains_key("code") => coding(value),
            _ => {
                let each: Vec<_> = value["coding"].as_array().into_iter().flatten().map(coding).collect();
                let yes = each.iter().find(|one| **one == Membership::Known(true));
                *yes.or(each.iter().find(|one| **one == Membership::Unknown)).unwrap_or(&Membership::Known(false))
            }
        }
    }

    fn extension_url(&self, slice: &str) -> Option<String> {
        let fixed = self.by_id.get(format!("{slice}.url").as_str()).and_then(|told| told["fixedUri"].as_str());
        let of_type = || self.by_id.get(slice)?["type"][0]["profile"][0].as_str();
        fixed.or_else(of_type).map(|url| bare(url).to_string())
    }

    /// Every mutant of this instance that breaks one rule of this definition.
    pub fn mutants(&self, instance: &Value) -> Vec<Mutant> {
        let mut out = Vec::new();
        for root in self.roots(instance) {
            for (id, told) in &self.elements {
                let steps: Vec<&str> = id.split('.').collect();
                // Another URL makes it another extension, which may be there.
                if steps.len() > 1 && !id.contains('/') && *id != "Extension.url" {
                    self.of_element(instance, &root, &steps, told, &mut out);
                }
            }
        }
        out
    }

    fn of_element(&self, instance: &Value, root: &Place, id: &[&str], told: &Value, out: &mut Vec<Mutant>) {
        let def = definitions::of(self.type_name).unwrap();
        let Some(element) = def_of(def, id.iter().skip(1).copied()) else { return };
        let slice = split(id[id.len() - 1]).1;
        for spot in self.spots(instance, root, id) {
            let mut add = |kind: &'static str, resource: Value, told: &[&str]| {
                out.extend(self.judged(instance, root, id, Mutant::new(kind, &id.join("."), resource, told)));
            };
            let here = spot.told();
            let (min, max) =
                (told["min"].as_u64().unwrap_or(0), told["max"].as_str().and_then(|max| max.parse::<usize>().ok()));
            if min > 0 && !spot.found.is_empty() {
                let mut mutant = instance.clone();
                for place in spot.found.iter().rev().take(spot.found.len() + 1 - usize::try_from(min).unwrap()) {
                    remove(&mut mutant, &place.pointer);
                }
                let empty = mutant
                    .pointer(&spot.holder.pointer)
                    .is_none_or(|holder| holder.as_object().is_some_and(|map| map.keys().all(|key| key == "id")));
                // An extension without its value is told as that.
                let holder = empty || spot.name == "value";
                let places: &[&str] = &[&here, &spot.holder.path];
                add("required", mutant, if holder { places } else { &places[..1] });
            }
            if let Some(max) = max.filter(|max| element.is_list() && spot.found.len() <= *max) {
                let mut mutant = instance.clone();
                let key = element.json_key(&element.types[0]);
                let list = mutant
                    .pointer_mut(&spot.holder.pointer)
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .entry(key)
                    .or_insert(json!([]));
                let more = match spot.found.last() {
                    Some(one) => Some(instance.pointer(&one.pointer).unwrap().clone()),
                    None if slice.is_none() && max == 0 => Some(values::of(&element.types[0], element)),
                    None => None,
                };
                if let (Some(more), Value::Array(list)) = (more, list) {
                    for _ in spot.found.len()..=max {
                        list.push(more.clone());
                    }
                    add("too many", mutant, &[&here]);
                }
            } else if max == Some(0) && spot.found.is_empty() && slice.is_none() {
                let mut mutant = instance.clone();
                values::put(mutant.pointer_mut(&spot.holder.pointer).unwrap().as_object_mut().unwrap(), element);
                add("forbidden", mutant, &[&here]);
            }
            for place in &spot.found {
                let value = instance.pointer(&place.pointer).unwrap();
                let mut put = |kind: &'static str, value: Value| {
                    let mut mutant = instance.clone();
                    *mutant.pointer_mut(&place.pointer).unwrap() = value;
                    add(kind, mutant, &[&place.path]);
                };
                if by_prefix(told, "fixed").or_else(|| by_prefix(told, "pattern")).is_some()
                    && let Some(other) = other_than(value, element)
                {
                    put("fixed", other);
                }
                let bound = told["binding"]["strength"] == "required";
                if let (true, Some(set)) = (bound, told["binding"]["valueSet"].as_str())
                    && let Some(other) = other_than(value, element)
                    && self.member(set, &other) == Membership::Known(false)
                {
                    put("binding", other);
                }
                if let Some(reference) =
                    value.get("reference").and_then(Value::as_str).filter(|text| !text.starts_with('#'))
                    && let Some(wrong) = self.wrong_target(told, element, reference)
                {
                    put("target", json!({"reference": wrong}));
                }
            }
            self.wrong_type(instance, &spot, told, element, slice, &mut add);
        }
    }

    fn wrong_target(&self, told: &Value, element: &definitions::Element, _: &str) -> Option<String> {
        let types: Vec<&Value> = told["type"].as_array()?.iter().filter(|type_| type_["code"] == "Reference").collect();
        let urls: Vec<&str> = types
            .iter()
            .filter_map(|type_| type_["targetProfile"].as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let allowed: Option<Vec<String>> = urls.iter().map(|url| (self.type_of)(bare(url))).collect();
        let allowed =
            allowed.filter(|allowed| !allowed.is_empty() && !allowed.iter().any(|name| name == "Resource"))?;
        let base = element.types.iter().find(|type_| type_.name == "Reference")?;
        let wrong =
            base.targets.iter().copied().chain(["Basic"]).find(|name| !allowed.iter().any(|own| own == name))?;
        Some(format!("{wrong}/mutant"))
    }

    fn wrong_type(
        &self,
        instance: &Value,
        spot: &Spot,
        told: &Value,
        element: &definitions::Element,
        slice: Option<&str>,
        add: &mut dyn FnMut(&'static str, Value, &[&str]),
    ) {
        let Some(types) =
            told["type"].as_array().filter(|_| element.choice && slice.is_none() && !spot.found.is_empty())
        else {
            return;
        };
        let others = element.types.iter().filter(|other| !types.iter().any(|type_| type_["code"] == other.name));
        for other in others.take(2) {
            let mut mutant = instance.clone();
            for place in &spot.found {
                remove(&mut mutant, &place.pointer);
            }
            values::put_as(mutant.pointer_mut(&spot.holder.pointer).unwrap().as_object_mut().unwrap(), element, other);
            add("type", mutant, &[&spot.told()]);
        }
    }

    /// A mutant that has left a slice breaks that slice's minimum, if it has one; else it breaks nothing.
    fn judged(&self, instance: &Value, root: &Place, id: &[&str], mut mutant: Mutant) -> Option<Mutant> {
        for end in 1..=id.len() {
            let part = &id[..end];
            if split(part[end - 1]).1.is_none() {
                continue;
            }
            let count =
                |value: &Value| self.spots(value, root, part).iter().map(|spot| spot.found.len()).collect::<Vec<_>>();
            let (before, after) = (count(instance), count(&mutant.resource));
            if after.iter().sum::<usize>() >= before.iter().sum::<usize>() {
                continue;
            }
            let min = self.by_id.get(part.join(".").as_str())?["min"].as_u64().unwrap_or(0);
            if after.iter().all(|count| *count as u64 >= min) && !(end == id.len() && mutant.kind == "required") {
                return None;
            }
            let lists = self.spots(instance, root, part);
            mutant.told.extend(lists.iter().map(Spot::told));
        }
        Some(mutant)
    }
}

/// The places of a value: one, or those of a list.
fn items(holder: &Place, key: &str, name: &str, value: &Value) -> Vec<Place> {
    let place = |pointer: String, path: String| Place { pointer, path };
    match value {
        Value::Array(list) => (0..list.len())
            .map(|index| place(format!("{}/{key}/{index}", holder.pointer), format!("{}.{name}[{index}]", holder.path)))
            .collect(),
        _ => vec![place(format!("{}/{key}", holder.pointer), format!("{}.{name}", holder.path))],
    }
}

fn any_at<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
    path.split('.').fold(vec![value], |values, step| {
        let flat = values.into_iter().filter_map(|value| value.get(step));
        flat.flat_map(|value| value.as_array().map_or(vec![value], |list| list.iter().collect())).collect()
    })
}

/// Takes an element out; a list that has lost its last item too.
fn remove(resource: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match resource.pointer_mut(parent).unwrap() {
        Value::Object(map) => {
            map.shift_remove(last);
            map.shift_remove(&format!("_{last}"));
        }
        Value::Array(list) => {
            list.remove(last.parse().unwrap());
            if list.is_empty() {
                remove(resource, parent);
            }
        }
        _ => panic!("{pointer}"),
    }
}

/// Another value of the same form: a code of R4's own, a Coding of a foreign system.
fn other_than(value: &Value, element: &definitions::Element) -> Option<Value> {
    Some(match value {
        Value::Bool(flag) => json!(!flag),
        Value::String(text) => {
            let codes = element.binding.as_ref().and_then(|binding| definitions::codes(binding.value_set));
            let all = codes.into_iter().flat_map(|codes| codes.systems()).flat_map(|(_, codes)| codes);
            // The last of R4's that is not this one: what the guide leaves out is mostly at the end.
            let mut all: Vec<_> = all.filter(|code| **code != text).collect();
            json!(all.pop().copied().unwrap_or("http://mutant.example"))
        }
        Value::Object(map) if map.contains_key("code") && !map.contains_key("coding") => foreign(),
        Value::Object(_) => json!({"coding": [foreign()]}),
        _ => return None,
    })
}
