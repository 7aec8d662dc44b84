//! ConceptMaps: a code in other words. Reads those in `mappings/`, which `$translate` and the bridging of older releases
//! share.
//!
//! Promises to answer only from a map that is held. Leaves out `dependsOn`, maps from a package, and translating back.
//! <https://hl7.org/fhir/R4/conceptmap.html>

use serde_json::Value;

use super::published;
use super::resource::Resource;
use super::terminology::bare;

/// What is to be translated, and by which map.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'a> {
    /// The map's canonical URL; without it, every map that fits.
    pub map: Option<&'a str>,
    /// The value set the code comes from.
    pub source: Option<&'a str>,
    /// The value set it is to be from.
    pub target: Option<&'a str>,
    /// The code's system; without it, any that the map reads.
    pub system: Option<&'a str>,
    /// The code.
    pub code: &'a str,
    /// The system to translate to.
    pub target_system: Option<&'a str>,
}

/// One translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The map that says so.
    pub map: &'static str,
    /// <https://hl7.org/fhir/R4/valueset-concept-map-equivalence.html>
    pub equivalence: &'static str,
    /// The other system.
    pub system: &'static str,
    /// The code there; none where the map says that there is none.
    pub code: Option<String>,
    /// What people read.
    pub display: Option<&'static str>,
    /// What else has to be said, so that nothing is lost: property, system, code, display.
    pub products: Vec<(&'static str, Option<&'static str>, &'static str, Option<&'static str>)>,
}

/// The translations of a code; `None` when no map fits the question.
pub fn translate(question: Question<'_>) -> Option<Vec<Match>> {
    let maps = published::all().iter().filter(|resource| resource.kind().name() == "ConceptMap");
    let maps: Vec<&Resource> = maps.filter(|map| asks_for(question, map)).collect();
    if maps.is_empty() {
        return None;
    }
    let found = maps.into_iter().flat_map(|map| {
        let groups = map.list("group").iter().filter(move |group| reads(question, group));
        groups.flat_map(move |group| in_group(question, map, group))
    });
    Some(found.collect())
}

fn asks_for(question: Question<'_>, map: &Resource) -> bool {
    let is = |wanted: Option<&str>, name: &str| {
        wanted.is_none_or(|wanted| map.text_at(name).is_some_and(|url| bare(url) == bare(wanted)))
    };
    is(question.map, "url")
        && is(question.source, "sourceCanonical")
        && is(question.target, "targetCanonical")
        && map.list("group").iter().any(|group| reads(question, group))
}

fn reads(question: Question<'_>, group: &Value) -> bool {
    let is = |wanted: Option<&str>, name: &str| wanted.is_none_or(|wanted| text(group, name) == Some(wanted));
    is(question.system, "source") && is(question.target_system, "target")
}

fn in_group(question: Question<'_>, map: &'static Resource, group: &'static Value) -> Vec<Match> {
    let url = map.text_at("url").unwrap_or_default();
    let system = text(group, "target").unwrap_or_default();
    let of = |equivalence, code: Option<String>| Match {
        map: url,
        equivalence,
        system,
        code,
        display: None,
        products: Vec::new(),
    };
    let element = items(group, "element").find(|element| text(element, "code") == Some(question.code));
    match element {
        Some(element) => items(element, "target")
            .map(|target| Match {
                display: text(target, "display"),
                products: items(target, "product").filter_map(product).collect(),
                ..of(text(target, "equivalence").unwrap_or("relatedto"), text(target, "code").map(str::to_string))
            })
            .collect(),
        None => match group.get("unmapped").and_then(|unmapped| text(unmapped, "mode")) {
            Some("provided") => vec![of("equal", Some(question.code.to_string()))],
            _ => Vec::new(),
        },
    }
}

fn product(value: &'static Value) -> Option<(&'static str, Option<&'static str>, &'static str, Option<&'static str>)> {
    Some((text(value, "property")?, text(value, "system"), text(value, "value")?, text(value, "display")))
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::views::SDOHCC;

    #[test]
    fn older_words_are_read_as_what_they_mean() {
        let status = Question {
            map: Some("https://loopgate.org/fhir/ConceptMap/task-status-2.0-to-3.0"),
            ..Question::default()
        };
        let found = translate(Question { code: "received", ..status }).unwrap();
        assert_eq!((found[0].code.as_deref(), found[0].equivalence), (Some("requested"), "wider"));
        assert_eq!(found[0].products[0].2, "delivered");
        let same = translate(Question { code: "accepted", ..status }).unwrap();
        assert_eq!((same[0].code.as_deref(), same[0].equivalence), (Some("accepted"), "equal"));
        let full =
            translate(Question { system: Some(SDOHCC), code: "no-capacity-has-waitlist", ..Question::default() });
        assert!(full.unwrap().iter().any(|one| one.code.as_deref() == Some("waitlist")));
    }

    #[test]
    fn without_a_map_there_is_no_answer() {
        for question in [
            Question { map: Some("urn:none"), code: "x", ..Question::default() },
            Question { system: Some("http://snomed.info/sct"), code: "1", ..Question::default() },
            Question {
                system: Some(SDOHCC),
                target_system: Some("http://loinc.org"),
                code: "x",
                ..Question::default()
            },
            Question { source: Some("urn:v"), code: "x", ..Question::default() },
        ] {
            assert_eq!(translate(question), None);
        }
    }
}
