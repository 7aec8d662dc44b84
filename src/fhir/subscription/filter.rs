//! What narrows a subscription: filters in the spellings of the field, classic criteria, and the terms by which the
//! subscriptions that one change may concern are found without looking at all of them.

use crate::fhir::published;
use crate::fhir::resource::{Key, ResourceType};
use crate::fhir::search::{self, Filter, Test};
use crate::fhir::search_index::{Row, parameter};

/// The parameters that subscriptions are found by: those that tell one subscriber's resources from another's.
const TERMS: &[&str] = &["owner", "requester", "patient", "based-on", "part-of", "focus", "organization"];

/// The term of a subscription that none of these parameters narrows.
const ANY: &str = "";

/// One filter extension. The three spellings: `Task?owner=x&status=y`, `Task.owner=x`, `owner=x`; none for anything that
/// is no filter among `known` (S-025: refused, never dropped).
pub(super) fn filters(text: &str, kind: ResourceType, known: &[&str], own: &str) -> Option<Vec<Filter>> {
    let named = |text: &str, mark: char| text.split_once(mark).map(|(before, _)| before.to_string());
    let bare = match (named(text, '?'), named(text, '.')) {
        (Some(before), _) if !before.contains('=') => text.strip_prefix(&format!("{kind}?"))?,
        (_, Some(before)) if ResourceType::parse(&before).is_some() => text.strip_prefix(&format!("{kind}."))?,
        _ => text,
    };
    let offered = |name: &str| known.contains(&name);
    conditions(bare, kind, &offered, own)
}

/// Classic criteria, `Task?status=requested`: any search parameter of the type, but none that shapes a result (S-201).
pub(super) fn criteria(text: &str, own: &str) -> Option<(ResourceType, Vec<Filter>)> {
    let text = text.strip_prefix('/').unwrap_or(text);
    let (name, query) = text.split_once('?').unwrap_or((text, ""));
    // A subscription to Subscriptions would notify itself; the record is for auditors, and makes no events; what is part of
    // the program does not change.
    let eventful = |kind: &ResourceType| {
        ![ResourceType::SUBSCRIPTION, ResourceType::AUDIT_EVENT].contains(kind) && !published::holds(*kind)
    };
    let kind = ResourceType::parse(name).filter(eventful)?;
    let offered = |name: &str| matches!(name, "_id" | "_lastUpdated") || parameter(kind, name).is_some();
    let found = if query.is_empty() { Vec::new() } else { conditions(query, kind, &offered, own)? };
    Some((kind, found))
}

/// A query as conditions on the resource itself; nothing unless all of it is that.
pub(in crate::fhir) fn conditions(
    query: &str,
    kind: ResourceType,
    offered: &dyn Fn(&str) -> bool,
    own: &str,
) -> Option<Vec<Filter>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (decoded(name)?, decoded(value)?);
        let fits = !value.is_empty() && offered(name.split(':').next().unwrap_or(&name));
        fits.then_some((name, value))
    };
    let pairs: Vec<(String, String)> = query.split('&').map(pair).collect::<Option<_>>()?;
    let found = search::parse(kind, &pairs, own, true).ok()?.filters;
    // A chain asks about other resources, which a change does not carry.
    let own = found.len() == pairs.len() && found.iter().all(Filter::is_of_one_resource);
    own.then_some(found)
}

/// `%7C` is `|`; a plus is a plus, for these are no form fields.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                bytes.push(u8::try_from(value).ok()?);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// The terms a subscription is found by: the alternatives of its most telling filter. Whoever finds it by one of them
/// still checks all filters.
pub fn terms(filters: &[Filter]) -> Vec<String> {
    let telling = filters.iter().filter_map(|filter| match filter {
        Filter::Ids(ids) => Some((0, ids.iter().map(|id| format!("_id={id}")).collect::<Vec<String>>())),
        Filter::Indexed { name, test: Test::References(list), not: false } => {
            let place = TERMS.iter().position(|known| known == name)?;
            Some((place + 1, list.iter().map(|value| format!("{name}={value}")).collect()))
        }
        Filter::Indexed { .. }
        | Filter::Updated(..)
        | Filter::Refers { .. }
        | Filter::Chain { .. }
        | Filter::Has { .. }
        | Filter::Any(_) => None,
    });
    let best = telling.min_by_key(|(place, list)| (*place > 0, list.len(), *place));
    best.map_or_else(|| vec![ANY.to_string()], |(_, list)| list)
}

/// The terms that a resource with these index rows answers to.
pub fn answers_to(key: &Key, rows: &[Row]) -> Vec<String> {
    let mut found = vec![ANY.to_string(), format!("_id={}", key.id)];
    for row in rows.iter().filter(|row| TERMS.contains(&row.parameter)) {
        let term = format!("{}={}", row.parameter, row.value);
        if !found.contains(&term) {
            found.push(term);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Resource;
    use crate::fhir::search::satisfies;
    use crate::fhir::search_index::rows;
    use crate::fhir::subscription::topic::{TASK_TOPIC, topic};
    use crate::time::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    const OWN: &str = "https://hub/fhir";

    fn of(text: &str) -> Option<Vec<Filter>> {
        filters(text, ResourceType::TASK, topic(TASK_TOPIC).unwrap().filters, OWN)
    }

    // S-064 and the three spellings.
    #[test]
    fn all_spellings_of_a_filter_mean_the_same() {
        let one = of("Task?owner=Organization/1").unwrap();
        for text in ["Task.owner=Organization/1", "owner=Organization/1", "owner=https://hub/fhir/Organization/1"] {
            assert_eq!(of(text).unwrap(), one, "{text}");
        }
        assert_eq!(of("code=http://x/y%7Cfulfill"), of("code=http://x/y|fulfill"));
        assert_eq!(of("Task?owner=Organization/1&status=requested,accepted").unwrap().len(), 2);
        assert_eq!(of("_lastUpdated=gt2026-01-01").unwrap().len(), 1);
    }

    // S-025: what can't be applied is refused.
    #[test]
    fn what_is_no_filter_of_the_topic_is_none() {
        for text in [
            "",
            "Task?",
            "owner",
            "owner=",
            "Task?colour=red",
            "Patient?name=x",
            "Patient.name=x",
            "owner=x&",
            "status:contains=x",
            "intent=order",
            "_count=3",
            "owner=%zz",
            "_lastUpdated=yesterday",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn criteria_are_searches_without_a_shape() {
        let (kind, found) = criteria("/Task?status=requested&intent=order", OWN).unwrap();
        assert_eq!((kind, found.len()), (ResourceType::TASK, 2));
        assert!(criteria("Observation", OWN).is_some_and(|(_, found)| found.is_empty()));
        for text in ["Nope?x=y", "Task?nope=1", "Task?_include=Task:focus", "Task?_sort=x", "Subscription?status=off"] {
            assert_eq!(criteria(text, OWN), None, "{text}");
        }
        for uneventful in ["AuditEvent", "AuditEvent?type=rest", "ValueSet"] {
            assert_eq!(criteria(uneventful, OWN), None, "{uneventful}");
        }
    }

    #[test]
    fn a_subscription_is_found_by_its_most_telling_filter() {
        assert_eq!(terms(&of("status=requested").unwrap()), [""]);
        assert_eq!(terms(&of("status=requested&owner=Organization/1").unwrap()), ["owner=Organization/1"]);
        assert_eq!(terms(&of("owner=Organization/1&_id=a,b").unwrap()), ["_id=a", "_id=b"]);
        assert_eq!(terms(&of("owner:missing=true").unwrap()), [""]);
    }

    proptest! {
        /// Whatever satisfies all filters of a subscription answers to one of its terms: the index hides no match.
        #[test]
        fn no_match_is_hidden(
            parts in proptest::collection::vec(prop_oneof![
                Just("owner=Organization/a"), Just("owner=Organization/a,Organization/b"), Just("requester=Organization/b"),
                Just("patient=Patient/a"), Just("status=requested,accepted"), Just("_id=a,b"), Just("owner:missing=true"),
                Just("status:not=draft"), Just("_lastUpdated=gt2020-01-01"), Just("owner:Organization=a")], 0..4),
            id in "[a-c]", owner in "[a-c]", requester in "[a-c]", patient in "[a-c]", has_owner: bool,
        ) {
            let filters: Vec<Filter> = parts.iter().flat_map(|part| of(part).unwrap()).collect();
            let mut task = json!({"resourceType": "Task", "status": "requested", "for": {"reference": format!("Patient/{patient}")},
                "requester": {"reference": format!("https://hub/fhir/Organization/{requester}")}});
            if has_owner {
                task["owner"] = json!({"reference": format!("Organization/{owner}")});
            }
            let rows = rows(&Resource::from_value(task).unwrap(), OWN);
            let key = Key::new(ResourceType::TASK, id.as_str());
            let now = Timestamp::parse("2026-03-01T10:00:00Z").unwrap();
            if filters.iter().all(|filter| satisfies(filter, &id, now, &rows)) {
                let answers = answers_to(&key, &rows);
                prop_assert!(terms(&filters).iter().any(|term| answers.contains(term)));
            }
        }
    }
}
