//! R4's own invariants of data types and of the resources we hold, as functions named by their keys.
//!
//! What each asks is told in `profiles/r4/definitions.txt`; here is how it is checked. Where FHIRPath compares what
//! can't be compared (dates of unlike precision, quantities in unlike units) nothing is found broken.
//! <https://hl7.org/fhir/R4/conformance-rules.html#constraints>

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::reading::{any, coded, each, has, items, number, object, text, texts_of};
use crate::time::span_of;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    /// Broken; which element within is to be mended, "" for the thing itself.
    Broken(&'static str),
    /// Not among these rules.
    Unknown,
}
use Verdict::{Broken, Holds, Unknown};

const UCUM: &str = "http://unitsofmeasure.org";
const CONDITION_STATUS: &str = "http://terminology.hl7.org/CodeSystem/condition-clinical";
const CONDITION_VERIFICATION: &str = "http://terminology.hl7.org/CodeSystem/condition-ver-status";
const ALLERGY_VERIFICATION: &str = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification";

/// Checks one rule of this type on one value. `root` is the resource that holds what `#…` refers to.
pub(super) fn check(type_name: &str, key: &str, map: &Map<String, Value>, root: &Value) -> Verdict {
    match data_type(key, map, root) {
        Unknown => resource(type_name, key, map),
        verdict => verdict,
    }
}

fn holds(condition: bool, at: &'static str) -> Verdict {
    if condition { Holds } else { Broken(at) }
}

fn data_type(key: &str, map: &Map<String, Value>, root: &Value) -> Verdict {
    let has = |name| has(map, name);
    let positive = |name| number(map, name).is_none_or(|value| value >= 0.0);
    let ucum = || text(map, "system").is_none_or(|system| system == UCUM);
    match key {
        "ref-1" => holds(text(map, "reference").is_none_or(|reference| is_contained(reference, root)), ""),
        "per-1" => holds(!text(map, "start").zip(text(map, "end")).is_some_and(|(start, end)| after(start, end)), ""),
        "att-1" => holds(!has("data") || has("contentType"), ""),
        "cpt-2" => holds(!has("value") || has("system"), ""),
        "exp-1" => holds(has("expression") || has("reference"), ""),
        "qty-3" => holds(!has("code") || has("system"), ""),
        "sqty-1" => holds(!has("comparator"), ""),
        "rng-2" => holds(!object(map, "low").zip(object(map, "high")).is_some_and(|(low, high)| more(low, high)), ""),
        "rat-1" => {
            let both = has("numerator") == has("denominator");
            holds(both && (has("numerator") || has("extension")), "")
        }
        "age-1" => {
            let value = number(map, "value").is_none_or(|value| value > 0.0);
            holds((has("code") || !has("value")) && ucum() && value, "")
        }
        "dis-1" => holds((has("code") || !has("value")) && ucum(), ""),
        "drt-1" => holds(!has("code") || (text(map, "system") == Some(UCUM) && has("value")), ""),
        "cnt-3" => {
            let code = text(map, "code").is_none_or(|code| code == "1");
            let whole = map.get("value").is_none_or(|value| !value.to_string().contains('.'));
            holds((has("code") || !has("value")) && ucum() && code && whole, "")
        }
        "tim-1" => holds(!has("duration") || has("durationUnit"), ""),
        "tim-2" => holds(!has("period") || has("periodUnit"), ""),
        "tim-4" => holds(positive("duration"), ""),
        "tim-5" => holds(positive("period"), ""),
        "tim-6" => holds(!has("periodMax") || has("period"), ""),
        "tim-7" => holds(!has("durationMax") || has("duration"), ""),
        "tim-8" => holds(!has("countMax") || has("count"), ""),
        "tim-9" => {
            let meal = texts_of(map, "when").any(|when| matches!(when, "C" | "CM" | "CD" | "CV"));
            holds(!has("offset") || (has("when") && !meal), "")
        }
        "tim-10" => holds(!has("timeOfDay") || !has("when"), ""),
        "drq-1" | "drq-2" => holds(has("path") != has("searchParam"), ""),
        // The formats of a narrative are checked where its text is.
        "txt-1" | "txt-2" => Holds,
        _ => Unknown,
    }
}

fn resource(type_name: &str, key: &str, map: &Map<String, Value>) -> Verdict {
    let has = |name| has(map, name);
    let any = |name| any(map, name);
    let status = || text(map, "status").unwrap_or_default();
    match (type_name, key) {
        ("Task", "inv-1") => {
            let times = text(map, "authoredOn").zip(text(map, "lastModified"));
            holds(!times.is_some_and(|(authored, modified)| after(authored, modified)), "lastModified")
        }
        ("Parameters.parameter", "inv-1") => {
            let single = any("value") != has("resource");
            holds(if has("part") { !any("value") && !has("resource") } else { single }, "")
        }
        (_, "prr-1") => holds(!has("orderDetail") || has("code"), "orderDetail"),
        (_, "ppc-1") => holds(has("policy") || has("policyRule"), "policyRule"),
        // As published they ask for a scope of the system “something”, which nothing has.
        (_, "ppc-2" | "ppc-3" | "ppc-4" | "ppc-5") => Holds,
        (_, "con-1") => holds(has("summary") || has("assessment"), ""),
        (_, "con-2") => holds(has("code") || has("detail"), ""),
        (_, "con-3") => {
            let wrong = coded(map, "verificationStatus", CONDITION_VERIFICATION, &["entered-in-error"]);
            let category = "http://terminology.hl7.org/CodeSystem/condition-category";
            let listed = coded(map, "category", category, &["problem-list-item"]);
            holds(has("clinicalStatus") || wrong || !listed, "clinicalStatus")
        }
        (_, "con-4") => {
            let over = coded(map, "clinicalStatus", CONDITION_STATUS, &["resolved", "remission", "inactive"]);
            holds(!any("abatement") || over, "clinicalStatus")
        }
        (_, "con-5") => {
            let wrong = coded(map, "verificationStatus", CONDITION_VERIFICATION, &["entered-in-error"]);
            holds(!wrong || !has("clinicalStatus"), "clinicalStatus")
        }
        (_, "ait-1" | "ait-2") => {
            let wrong = coded(map, "verificationStatus", ALLERGY_VERIFICATION, &["entered-in-error"]);
            let fine = if key == "ait-1" { wrong || has("clinicalStatus") } else { !wrong || !has("clinicalStatus") };
            holds(fine, "clinicalStatus")
        }
        (_, "app-1") => holds(has("type") || has("actor"), ""),
        (_, "app-2") => holds(has("start") == has("end"), "end"),
        (_, "app-3") => {
            let open = matches!(status(), "proposed" | "cancelled" | "waitlist");
            holds((has("start") && has("end")) || open, "start")
        }
        (_, "app-4") => {
            holds(!has("cancelationReason") || matches!(status(), "no-show" | "cancelled"), "cancelationReason")
        }
        (_, "sev-1") => holds(!has("name") || !has("query"), ""),
        (_, "cpl-3") => holds(!has("detail") || !has("reference"), ""),
        (_, "fhs-1") => holds(!any("age") || !any("born"), "age"),
        (_, "fhs-2") => holds(any("age") || !has("estimatedAge"), "estimatedAge"),
        (_, "gol-1") => holds(!any("detail") || has("measure"), ""),
        (_, "grp-1") => holds(!has("member") || map.get("actual").and_then(Value::as_bool) == Some(true), "member"),
        (_, "imm-1") => holds(has("documentType") || has("reference"), ""),
        (_, "nor-1") => holds(has("oralDiet") || has("supplement") || has("enteralFormula"), ""),
        (_, "obs-3") => holds(has("low") || has("high") || has("text"), ""),
        (_, "obs-6") => holds(!has("dataAbsentReason") || !any("value"), "dataAbsentReason"),
        (_, "obs-7") => holds(!any("value") || !component_repeats_code(map), "value"),
        (_, "org-1") => holds(has("identifier") || has("name"), ""),
        (_, "org-2" | "org-3") => holds(text(map, "use") != Some("home"), ""),
        (_, "pat-1") => holds(["name", "telecom", "address", "organization"].iter().any(|name| has(name)), ""),
        (_, "qrs-1") => holds(!has("answer") || !has("item"), ""),
        (_, "dom-6") => holds(object(map, "text").is_some_and(|text| super::reading::has(text, "div")), "text"),
        // These look into what is contained; the walk sees to them where there is any.
        (_, "dom-2" | "dom-3" | "dom-4" | "dom-5") => Holds,
        (_, rule) if rule.starts_with("que-") => questionnaire(rule, map),
        (_, rule) if rule.starts_with("bdl-") => bundle(rule, map),
        _ => Unknown,
    }
}

fn questionnaire(key: &str, map: &Map<String, Value>) -> Verdict {
    let has = |name| has(map, name);
    let type_ = text(map, "type").unwrap_or_default();
    let display = type_ == "display";
    match key {
        "que-0" => {
            let fine = |name: &str| {
                name.len() <= 255
                    && name.starts_with(|c: char| c.is_ascii_uppercase())
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            holds(text(map, "name").is_none_or(fine), "name")
        }
        "que-1" => holds(if type_ == "group" { has("item") } else { !display || !has("item") }, ""),
        "que-2" => {
            let mut seen = Vec::new();
            link_ids(map, &mut seen);
            let count = seen.len();
            seen.sort_unstable();
            seen.dedup();
            holds(seen.len() == count, "item")
        }
        "que-3" => holds(!display || !has("code"), ""),
        "que-4" => holds(!has("answerOption") || !has("answerValueSet"), ""),
        "que-5" => {
            let fits = matches!(
                type_,
                "choice" | "open-choice" | "decimal" | "integer" | "date" | "dateTime" | "time" | "string" | "quantity"
            );
            holds(fits || (!has("answerValueSet") && !has("answerOption")), "")
        }
        "que-6" => holds(!display || (!has("required") && !has("repeats")), ""),
        "que-7" => {
            let asks = text(map, "operator") == Some("exists");
            holds(!asks || map.contains_key("answerBoolean"), "")
        }
        "que-8" => holds(!(display || type_ == "group") || !has("initial"), ""),
        "que-9" => holds(!display || !has("readOnly"), ""),
        "que-10" => {
            let fits = matches!(type_, "boolean" | "decimal" | "integer" | "string" | "text" | "url" | "open-choice");
            holds(fits || !has("maxLength"), "")
        }
        "que-11" => holds(!has("answerOption") || !has("initial"), ""),
        "que-12" => holds(items(map, "enableWhen").count() <= 2 || has("enableBehavior"), ""),
        "que-13" => {
            let repeats = map.get("repeats").and_then(Value::as_bool) == Some(true);
            holds(repeats || items(map, "initial").count() <= 1, "")
        }
        _ => Unknown,
    }
}

fn link_ids<'a>(map: &'a Map<String, Value>, seen: &mut Vec<&'a str>) {
    for item in items(map, "item") {
        seen.extend(text(item, "linkId"));
        link_ids(item, seen);
    }
}

fn bundle(key: &str, map: &Map<String, Value>) -> Verdict {
    let type_ = text(map, "type").unwrap_or_default();
    let entries = || items(map, "entry");
    let first =
        || entries().next().and_then(|entry| object(entry, "resource")).and_then(|body| text(body, "resourceType"));
    match key {
        "bdl-1" => holds(!has(map, "total") || matches!(type_, "searchset" | "history"), "total"),
        // These are no primitives: there is no `_search`, `_request` or `_response` to look for.
        "bdl-2" => holds(type_ == "searchset" || !entries().any(|entry| entry.contains_key("search")), "entry"),
        "bdl-3" => {
            let asks = matches!(type_, "batch" | "transaction" | "history");
            holds(entries().all(|entry| entry.contains_key("request") == asks), "entry")
        }
        "bdl-4" => {
            let answers = matches!(type_, "batch-response" | "transaction-response" | "history");
            holds(entries().all(|entry| entry.contains_key("response") == answers), "entry")
        }
        "bdl-5" => holds(["resource", "request", "response"].iter().any(|name| has(map, name)), ""),
        "bdl-7" => {
            let name = |entry| {
                let meta = object(entry, "resource").and_then(|body| object(body, "meta"));
                Some((text(entry, "fullUrl")?, meta.and_then(|meta| text(meta, "versionId"))))
            };
            let mut names = HashSet::new();
            holds(type_ == "history" || entries().filter_map(name).all(|name| names.insert(name)), "entry")
        }
        "bdl-8" => holds(text(map, "fullUrl").is_none_or(|url| !url.contains("/_history/")), "fullUrl"),
        "bdl-9" => {
            let named = object(map, "identifier").is_some_and(|own| has(own, "system") && has(own, "value"));
            holds(type_ != "document" || named, "identifier")
        }
        "bdl-10" => holds(type_ != "document" || has(map, "timestamp"), "timestamp"),
        "bdl-11" => holds(type_ != "document" || first() == Some("Composition"), "entry"),
        "bdl-12" => holds(type_ != "message" || first() == Some("MessageHeader"), "entry"),
        _ => Unknown,
    }
}

/// Whether what a `#…` reference names is in this resource; `#` alone is the resource itself.
fn is_contained(reference: &str, root: &Value) -> bool {
    match reference.strip_prefix('#') {
        None | Some("") => true,
        Some(id) => {
            let contained = each(root.get("contained")).filter_map(Value::as_object);
            contained.into_iter().any(|contained| text(contained, "id") == Some(id))
        }
    }
}

fn component_repeats_code(map: &Map<String, Value>) -> bool {
    let codings = |holder| object(holder, "code").into_iter().flat_map(|code| items(code, "coding"));
    let same = |one: &Map<String, Value>, other: &Map<String, Value>| {
        text(one, "code").is_some() && ["system", "code"].iter().all(|name| one.get(*name) == other.get(*name))
    };
    items(map, "component").flat_map(codings).any(|coding| codings(map).any(|own| same(own, coding)))
}

/// Whether an instant is surely later than another, as far as their precisions tell.
fn after(one: &str, other: &str) -> bool {
    /// A date without a zone may be a day of any zone.
    const ZONES: std::time::Duration = std::time::Duration::from_secs(14 * 3600);
    let zoned = |text: &str| text.contains('T');
    let (Some((start, _)), Some((_, end))) = (span_of(one), span_of(other)) else { return false };
    start >= if zoned(one) == zoned(other) { end } else { end.plus(ZONES) }
}

/// Whether one quantity is more than another in the same unit.
fn more(low: &Map<String, Value>, high: &Map<String, Value>) -> bool {
    let same = ["system", "code", "unit"].iter().all(|name| low.get(*name) == high.get(*name));
    same && number(low, "value").zip(number(high, "value")).is_some_and(|(low, high)| low > high)
}
