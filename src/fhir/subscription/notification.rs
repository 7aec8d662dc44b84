//! What a subscriber gets: notification Bundles, and the search set that answers `$status`.
//!
//! Every entry of a history Bundle has a request and a response (bdl-3, bdl-4); those of a search set have none. Counters
//! are strings, because R4 has no 64-bit integer. An event whose focus the subscriber may not see keeps its number, and
//! nothing else is said about it. Backport 0.1.0 had other names: it counts the events and does not number them, so the
//! last one's number is the count.

use serde::Serialize;
use serde_json::{Value, json};

use super::asked::{BACKPORT, Content};
use super::topic::Change;
use crate::error::Error;
use crate::fhir::resource::Key;
use crate::time::Timestamp;

/// The codes of what went wrong with an endpoint.
const ERRORS: &str = "http://terminology.hl7.org/CodeSystem/subscription-error";

/// Why a Bundle is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Tries the endpoint out.
    Handshake,
    /// Nothing has happened for a while.
    Heartbeat,
    /// Events happened.
    Events,
    /// The answer to `$status`.
    Status,
    /// The answer to `$events`.
    Query,
}

impl Notice {
    fn code(self) -> &'static str {
        match self {
            Notice::Handshake => "handshake",
            Notice::Heartbeat => "heartbeat",
            Notice::Events => "event-notification",
            Notice::Status => "query-status",
            Notice::Query => "query-event",
        }
    }
}

/// One event of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counted from 1 per subscription, without gaps.
    pub number: i64,
    /// When it happened.
    pub at: Timestamp,
    /// What it is about.
    pub focus: Key,
    /// The version that made it.
    pub version: i64,
    /// What happened to it.
    pub change: Change,
}

/// An event as one subscriber may see it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The event.
    pub event: Event,
    /// Whether its focus may be named.
    pub named: bool,
    /// The focus as it is now, for `full-resource`, if it is there.
    pub resource: Option<Value>,
}

/// A subscription's standing, as notifications tell it.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its status code.
    pub status: &'a str,
    /// Events since it began.
    pub count: i64,
    /// How much it carries.
    pub content: Content,
    /// Its topic, as the subscriber wrote it; none for classic criteria.
    pub topic: Option<&'a str>,
    /// What went wrong last.
    pub error: Option<&'a str>,
    /// As Backport 0.1.0 says it.
    pub older: bool,
}

/// A Bundle to be sent or answered: written straight from what it is about, because each notification has its own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle<'a> {
    resource_type: &'static str,
    id: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entry: Vec<Entry<'a>>,
}

impl Bundle<'_> {
    /// As JSON text.
    pub fn to_text(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(Error::internal)
    }
    /// As a tree, for answers and other formats.
    pub fn to_value(&self) -> Result<Value, Error> {
        serde_json::to_value(self).map_err(Error::internal)
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    full_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Inside<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<Search>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Request>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Response>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Inside<'a> {
    Status(Parameters<'a>),
    Focus(&'a Value),
}

#[derive(Debug, Serialize)]
struct Search {
    mode: &'static str,
}

#[derive(Debug, Serialize)]
struct Request {
    method: &'static str,
    url: String,
}

#[derive(Debug, Serialize)]
struct Response {
    status: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    resource_type: &'static str,
    id: String,
    meta: Meta,
    parameter: Vec<Parameter<'a>>,
}

#[derive(Debug, Serialize)]
struct Meta {
    profile: [String; 1],
}

#[derive(Debug, Serialize)]
struct Parameter<'a> {
    name: &'static str,
    #[serde(flatten)]
    says: Says<'a>,
}

#[derive(Debug, Serialize)]
enum Says<'a> {
    #[serde(rename = "valueReference")]
    Reference(Reference),
    #[serde(rename = "valueCanonical")]
    Canonical(&'a str),
    #[serde(rename = "valueCode")]
    Code(&'a str),
    #[serde(rename = "valueString")]
    Text(String),
    #[serde(rename = "valueInstant")]
    Instant(String),
    #[serde(rename = "valueUnsignedInt")]
    Count(i64),
    #[serde(rename = "valueCodeableConcept")]
    Concept(Value),
    #[serde(rename = "part")]
    Parts(Vec<Parameter<'a>>),
}

#[derive(Debug, Serialize)]
struct Reference {
    reference: String,
}

/// The status Parameters of a subscription (backport-subscription-status-r4).
fn status_of<'a>(own: &str, standing: Standing<'a>, notice: Notice, events: &[Shown]) -> Parameters<'a> {
    let Standing { id, status, count, content, topic, error, older } = standing;
    let mut parameter = Vec::with_capacity(6 + events.len());
    let mut says = |name, says| parameter.push(Parameter { name, says });
    says("subscription", Says::Reference(Reference { reference: format!("{own}/Subscription/{id}") }));
    // SHOULD NOT for `empty` (S-080); 0.1.0 has it always.
    if let Some(topic) = topic.filter(|_| older || content != Content::Empty) {
        says("topic", Says::Canonical(topic));
    }
    says("status", Says::Code(status));
    says("type", Says::Code(notice.code()));
    says("events-since-subscription-start", if older { Says::Count(count) } else { Says::Text(count.to_string()) });
    if older && !events.is_empty() {
        says("events-in-notification", Says::Count(i64::try_from(events.len()).unwrap_or(i64::MAX)));
    }
    for Shown { event, named, .. } in events.iter().filter(|_| !older) {
        let mut parts = vec![
            Parameter { name: "event-number", says: Says::Text(event.number.to_string()) },
            Parameter { name: "timestamp", says: Says::Instant(event.at.to_string()) },
        ];
        if *named && content != Content::Empty {
            let reference = format!("{own}/{}", event.focus);
            parts.push(Parameter { name: "focus", says: Says::Reference(Reference { reference }) });
        }
        says("notification-event", Says::Parts(parts));
    }
    if let Some(error) = error.filter(|_| status == "error") {
        let code = match error {
            error if error.contains("answered") => "error-response",
            error if error.contains("name could not be resolved") => "dns-resolution-error",
            _ => "no-response",
        };
        says("error", Says::Concept(json!({"coding": [{"system": ERRORS, "code": code}], "text": error})));
    }
    let profile = if older { "backport-subscriptionstatus" } else { "backport-subscription-status-r4" };
    let meta = Meta { profile: [format!("{BACKPORT}/{profile}")] };
    Parameters { resource_type: "Parameters", id: crate::id::uuid(), meta, parameter }
}

/// A notification Bundle (backport-subscription-notification-r4).
pub fn notification<'a>(
    own: &str,
    standing: Standing<'a>,
    notice: Notice,
    events: &'a [Shown],
    now: Timestamp,
) -> Bundle<'a> {
    let status = status_of(own, standing, notice, events);
    let mut entry = vec![Entry {
        full_url: format!("urn:uuid:{}", status.id),
        resource: Some(Inside::Status(status)),
        request: Some(Request { method: "GET", url: format!("{own}/Subscription/{}/$status", standing.id) }),
        response: Some(Response { status: "200" }),
        ..Entry::default()
    }];
    if standing.content != Content::Empty {
        entry.extend(latest(events).map(|shown| about(own, shown, standing.content)));
    }
    let (id, timestamp) = (crate::id::new(), Some(now.to_string()));
    Bundle { resource_type: "Bundle", id, r#type: "history", total: None, timestamp, entry }
}

/// Each focus once, by its last event (S-088), in the order of their first.
fn latest(events: &[Shown]) -> impl Iterator<Item = &Shown> {
    let named = || events.iter().enumerate().filter(|(_, shown)| shown.named);
    let first = named().filter(move |(index, shown)| {
        !events[..*index].iter().any(|other| other.named && other.event.focus == shown.event.focus)
    });
    first.filter_map(move |(_, shown)| {
        events.iter().rev().find(|other| other.named && other.event.focus == shown.event.focus)
    })
}

fn about<'a>(own: &str, shown: &'a Shown, content: Content) -> Entry<'a> {
    let Event { focus, change, .. } = &shown.event;
    let (method, url, status) = match change {
        Change::Created => ("POST", focus.kind.name().to_string(), "201"),
        Change::Updated => ("PUT", focus.to_string(), "200"),
        Change::Deleted => ("DELETE", focus.to_string(), "204"),
    };
    Entry {
        full_url: format!("{own}/{focus}"),
        resource: shown.resource.as_ref().filter(|_| content == Content::FullResource).map(Inside::Focus),
        request: Some(Request { method, url }),
        response: Some(Response { status }),
        ..Entry::default()
    }
}

/// The answer to `$status`: a search set, whose entries have no request and response.
pub fn status_set<'a>(own: &str, standings: &[Standing<'a>]) -> Bundle<'a> {
    let entry: Vec<Entry<'a>> = standings
        .iter()
        .map(|one| {
            let status = status_of(own, *one, Notice::Status, &[]);
            Entry {
                full_url: format!("urn:uuid:{}", status.id),
                resource: Some(Inside::Status(status)),
                search: Some(Search { mode: "match" }),
                ..Entry::default()
            }
        })
        .collect();
    let (id, total) = (crate::id::new(), Some(entry.len()));
    Bundle { resource_type: "Bundle", id, r#type: "searchset", total, timestamp: None, entry }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::resource::ResourceType;
    use crate::fhir::subscription::topic::TASK_TOPIC;

    fn shown(number: i64, id: &str, change: Change) -> Shown {
        let focus = Key::new(ResourceType::TASK, id);
        let event = Event { number, at: Timestamp(0), focus, version: number, change };
        Shown { event, named: true, resource: Some(json!({"resourceType": "Task", "id": id, "status": "requested"})) }
    }

    const STANDING: Standing<'_> = Standing {
        id: "s1",
        status: "active",
        count: 7,
        content: Content::IdOnly,
        topic: Some(TASK_TOPIC),
        error: None,
        older: false,
    };

    fn told(content: Content, events: &[Shown]) -> Value {
        let standing = Standing { content, ..STANDING };
        notification("https://hub/fhir", standing, Notice::Events, events, Timestamp(0)).to_value().unwrap()
    }

    // G-127, G-128, S-081: a history Bundle, request and response everywhere, references and no resources.
    #[test]
    fn an_id_only_notification_carries_references_and_no_resource() {
        let bundle = told(
            Content::IdOnly,
            &[shown(1, "a", Change::Created), shown(2, "b", Change::Deleted), shown(3, "a", Change::Updated)],
        );
        assert_eq!(bundle["type"], "history");
        let entries = bundle["entry"].as_array().unwrap();
        assert_eq!(entries.len(), 3, "S-088: each focus once");
        assert!(
            entries
                .iter()
                .all(|entry| entry["request"]["method"].is_string() && entry["response"]["status"].is_string())
        );
        assert_eq!(entries[0]["request"]["url"], "https://hub/fhir/Subscription/s1/$status");
        assert_eq!(entries[0]["fullUrl"], format!("urn:uuid:{}", entries[0]["resource"]["id"].as_str().unwrap()));
        assert_eq!(entries[0]["resource"]["id"].as_str().unwrap().len(), 36, "a UUID");
        assert_eq!(
            (&entries[1]["fullUrl"], &entries[1]["request"]["method"]),
            (&json!("https://hub/fhir/Task/a"), &json!("PUT"))
        );
        assert_eq!(
            (&entries[2]["request"]["method"], &entries[2]["response"]["status"]),
            (&json!("DELETE"), &json!("204"))
        );
        assert!(entries[1..].iter().all(|entry| entry.get("resource").is_none()));
        let parameters = entries[0]["resource"]["parameter"].as_array().unwrap();
        assert!(parameters.iter().any(|one| one["name"] == "topic" && one["valueCanonical"] == TASK_TOPIC));
        let counter = parameters.iter().find(|one| one["name"] == "events-since-subscription-start").unwrap();
        assert_eq!(counter["valueString"], "7", "trap 1: a string");
    }

    // S-080
    #[test]
    fn an_empty_notification_says_that_something_happened() {
        let bundle = told(Content::Empty, &[shown(1, "a", Change::Created)]);
        let text = bundle.to_string();
        assert_eq!(bundle["entry"].as_array().unwrap().len(), 1);
        assert!(!text.contains("focus") && !text.contains("\"topic\"") && text.contains("notification-event"));
    }

    // S-082, S-083
    #[test]
    fn a_full_notification_carries_what_is_there() {
        let mut gone = shown(2, "b", Change::Deleted);
        gone.resource = None;
        let bundle = told(Content::FullResource, &[shown(1, "a", Change::Updated), gone]);
        assert_eq!(bundle["entry"][1]["resource"]["id"], "a");
        assert!(bundle["entry"][2].get("resource").is_none() && bundle["entry"][2]["request"]["method"] == "DELETE");
    }

    // G-189: the names and types of 0.1.0, in the same Bundle; the topic also where there is no content.
    #[test]
    fn the_older_backport_counts_its_events() {
        let events = [shown(6, "a", Change::Created), shown(7, "b", Change::Updated)];
        for content in [Content::Empty, Content::IdOnly] {
            let standing = Standing { content, older: true, ..STANDING };
            let bundle = notification("https://hub/fhir", standing, Notice::Events, &events, Timestamp(0));
            let bundle: Value = serde_json::from_str(&bundle.to_text().unwrap()).unwrap();
            let status = &bundle["entry"][0]["resource"];
            assert_eq!(status["meta"]["profile"][0], format!("{BACKPORT}/backport-subscriptionstatus"));
            assert_eq!(
                status["parameter"],
                json!([
                    {"name": "subscription", "valueReference": {"reference": "https://hub/fhir/Subscription/s1"}},
                    {"name": "topic", "valueCanonical": TASK_TOPIC},
                    {"name": "status", "valueCode": "active"},
                    {"name": "type", "valueCode": "event-notification"},
                    {"name": "events-since-subscription-start", "valueUnsignedInt": 7},
                    {"name": "events-in-notification", "valueUnsignedInt": 2},
                ])
            );
            let entries = if content == Content::Empty { 1 } else { 3 };
            assert_eq!(bundle["entry"].as_array().unwrap().len(), entries);
        }
    }

    // Privacy: the number stays, the focus is not disclosed.
    #[test]
    fn what_may_not_be_seen_keeps_its_number_and_nothing_else() {
        let mut hidden = shown(1, "secret", Change::Updated);
        hidden.named = false;
        for content in [Content::Empty, Content::IdOnly, Content::FullResource] {
            let bundle = told(content, std::slice::from_ref(&hidden));
            let text = bundle.to_string();
            assert!(!text.contains("secret") && text.contains("\"event-number\""), "{text}");
            assert_eq!(bundle["entry"].as_array().unwrap().len(), 1);
        }
    }

    // S-120, S-127: entries without request and response; the error where there is one.
    #[test]
    fn a_status_set_is_a_search_set() {
        let standing = |status, error| Standing {
            id: "s1",
            status,
            count: 3,
            content: Content::IdOnly,
            topic: Some(TASK_TOPIC),
            error,
            older: false,
        };
        let set =
            status_set("https://hub/fhir", &[standing("error", Some("answered 500")), standing("active", Some("old"))]);
        let set = set.to_value().unwrap();
        assert_eq!((&set["type"], &set["total"]), (&json!("searchset"), &json!(2)));
        let entry = &set["entry"][0];
        assert!(entry.get("request").is_none() && entry.get("response").is_none());
        let of = |index: usize| set["entry"][index]["resource"]["parameter"].to_string();
        assert!(of(0).contains("error-response") && of(0).contains("query-status"));
        assert!(!of(1).contains("valueCodeableConcept"));
        assert!(status_set("x", &[]).to_value().unwrap().get("entry").is_none());
    }
}
