//! Subscriptions Backport 1.1.0 on R4: what a subscriber asks for, and the notifications it gets.
//!
//! A first version: the guide's Task topic, rest-hook, `empty` and `id-only`, JSON. What we can't do is refused, never
//! dropped (G-125). <http://hl7.org/fhir/uv/subscriptions-backport>

use serde_json::{Value, json};

use super::resource::{Key, Resource, ResourceType};
use super::search::{self, Filter};
use crate::error::Error;
use crate::time::Timestamp;

/// The guide's topic: a Task was created or changed, but no draft (G-116).
pub const TASK_TOPIC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task";
const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
/// The filters the Task topic allows (G-117); the rest is refused.
const FILTERS: &[&str] = &["_lastUpdated", "code", "owner", "requester", "status", "patient", "_id"];
/// Headers a subscriber may not set: they belong to the transport.
const RESERVED: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "content-type",
    "content-encoding",
];

/// How much a notification carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Only that something happened.
    Empty,
    /// References to what changed.
    IdOnly,
}

/// A Subscription that we can serve.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where notifications go.
    pub endpoint: String,
    /// Headers to send with them.
    pub headers: Vec<(String, String)>,
    /// The media type they are sent as.
    pub payload: String,
    /// How much they carry.
    pub content: Content,
    /// All must hold for the Task of an event.
    pub filters: Vec<Filter>,
    /// When it ends by itself.
    pub end: Option<Timestamp>,
    /// The subscriber switches it off.
    pub off: bool,
}

/// Reads a Subscription; every fault names its element.
pub fn parse(resource: &Resource, own: &str) -> Result<Asked, Error> {
    let fault = |element: &str, text: &str| Err(Error::invalid(format!("Subscription.{element}"), text));
    let off = match resource.text_at("status") {
        Some("requested" | "active" | "error") => false,
        Some("off") => true,
        _ => {
            return fault("status", "A Subscription is created as requested, and updated to requested, active or off.");
        }
    };
    if resource.text_at("reason").is_none() {
        return fault("reason", "A Subscription has a reason.");
    }
    let criteria = resource.text_at("criteria").unwrap_or("");
    if criteria.split('|').next() != Some(TASK_TOPIC) {
        return fault("criteria", &format!("The topic served here is {TASK_TOPIC}."));
    }
    let Some(channel) = resource.at("channel") else { return fault("channel", "A Subscription has a channel.") };
    let text = |name: &str| channel.get(name).and_then(Value::as_str);
    if text("type") != Some("rest-hook") {
        return fault("channel.type", "The channel served here is rest-hook.");
    }
    let Some(endpoint) = text("endpoint").filter(|url| url.starts_with("http://") || url.starts_with("https://"))
    else {
        return fault("channel.endpoint", "A rest-hook has an http(s) endpoint.");
    };
    let payload = match text("payload") {
        Some(payload @ ("application/fhir+json" | "application/json")) => payload.to_string(),
        _ => return fault("channel.payload", "Notifications are written as application/fhir+json."),
    };
    let content =
        match extension(channel.get("_payload"), "backport-payload-content").and_then(|item| item.get("valueCode")) {
            Some(code) if code == "empty" => Content::Empty,
            Some(code) if code == "id-only" => Content::IdOnly,
            _ => {
                return fault(
                    "channel.payload.extension",
                    "The content level (backport-payload-content) is empty or id-only.",
                );
            }
        };
    for name in ["backport-heartbeat-period", "backport-timeout", "backport-max-count"] {
        if extension(Some(channel), name).is_some() {
            return fault("channel.extension", &format!("{name} is not served by this version; leave it out."));
        }
    }
    let mut headers = Vec::new();
    for (index, header) in channel.get("header").and_then(Value::as_array).into_iter().flatten().enumerate() {
        match header.as_str().and_then(split_header) {
            Some(pair) => headers.push(pair),
            None => {
                return fault(
                    &format!("channel.header[{index}]"),
                    "A header is “Name: value”, one line, and not the transport's own.",
                );
            }
        }
    }
    let mut filters = Vec::new();
    let criteria = resource.at("_criteria").and_then(|item| item.get("extension")).and_then(Value::as_array);
    for item in criteria.into_iter().flatten() {
        if item.get("url").is_some_and(|url| url == &format!("{BACKPORT}/backport-filter-criteria")) {
            let filter = item.get("valueString").and_then(Value::as_str).unwrap_or("");
            match filter_of(filter, own) {
                Some(found) => filters.extend(found),
                None => {
                    let known = FILTERS.join(", ");
                    return fault("criteria.extension", &format!("This topic filters Task by: {known}."));
                }
            }
        }
    }
    let end = match resource.text_at("end") {
        None => None,
        Some(end) => match Timestamp::parse(end) {
            Some(end) => Some(end),
            None => return fault("end", "end is an instant, such as 2027-12-31T00:00:00Z."),
        },
    };
    Ok(Asked { endpoint: endpoint.to_string(), headers, payload, content, filters, end, off })
}

fn extension<'a>(element: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    let url = format!("{BACKPORT}/{name}");
    element?.get("extension")?.as_array()?.iter().find(|item| item.get("url").is_some_and(|its| *its == url))
}

fn split_header(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once(':')?;
    let value = value.strip_prefix(' ').unwrap_or(value);
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let fits = !name.is_empty() && name.chars().all(token) && value.chars().all(|c| c == '\t' || !c.is_control());
    let lower = name.to_ascii_lowercase();
    let free = !RESERVED.contains(&lower.as_str()) && !lower.starts_with("proxy-");
    (fits && free).then(|| (name.to_string(), value.to_string()))
}

/// The three spellings of the field: `Task?owner=x`, `Task.owner=x`, `owner=x`.
fn filter_of(text: &str, own: &str) -> Option<Vec<Filter>> {
    let bare = text.strip_prefix("Task?").or_else(|| text.strip_prefix("Task.")).unwrap_or(text);
    let pairs: Option<Vec<(String, String)>> = bare
        .split('&')
        .map(|pair| pair.split_once('=').map(|(name, value)| (name.to_string(), value.to_string())))
        .collect();
    let pairs = pairs?;
    let known = |name: &str| FILTERS.contains(&name.split(':').next().unwrap_or(name));
    if pairs.is_empty() || !pairs.iter().all(|(name, _)| known(name)) {
        return None;
    }
    search::parse(ResourceType::TASK, &pairs, own, true).ok().map(|query| query.filters)
}

/// Why a Bundle is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Tries the endpoint out.
    Handshake,
    /// Events happened.
    Events,
    /// The answer to `$status`.
    Status,
    /// The answer to `$events`.
    Query,
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
}

/// The status Parameters of a subscription (backport-subscription-status-r4).
fn status_of(
    own: &str,
    id: &str,
    status: &str,
    notice: Notice,
    count: i64,
    content: Content,
    events: &[Event],
) -> Value {
    let kind = match notice {
        Notice::Handshake => "handshake",
        Notice::Events => "event-notification",
        Notice::Status => "query-status",
        Notice::Query => "query-event",
    };
    let mut parameters = vec![
        json!({"name": "subscription", "valueReference": {"reference": format!("{own}/Subscription/{id}")}}),
        json!({"name": "status", "valueCode": status}),
        json!({"name": "type", "valueCode": kind}),
        json!({"name": "events-since-subscription-start", "valueString": count.to_string()}),
    ];
    if content != Content::Empty {
        parameters.insert(1, json!({"name": "topic", "valueCanonical": TASK_TOPIC}));
    }
    for event in events {
        let mut parts = vec![
            json!({"name": "event-number", "valueString": event.number.to_string()}),
            json!({"name": "timestamp", "valueInstant": event.at.to_string()}),
        ];
        if content != Content::Empty {
            parts.push(json!({"name": "focus", "valueReference": {"reference": format!("{own}/{}", event.focus)}}));
        }
        parameters.push(json!({"name": "notification-event", "part": parts}));
    }
    json!({"resourceType": "Parameters", "id": crate::id::new(),
        "meta": {"profile": [format!("{BACKPORT}/backport-subscription-status-r4")]}, "parameter": parameters})
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
}

/// A notification Bundle (backport-subscription-notification-r4): every entry has a request and a response (bdl-3,
/// bdl-4).
pub fn notification(own: &str, standing: Standing<'_>, notice: Notice, events: &[Event], now: Timestamp) -> Value {
    let Standing { id, status, count, content } = standing;
    let status = status_of(own, id, status, notice, count, content, events);
    let full_url = format!("urn:uuid:{}", status["id"].as_str().unwrap_or(""));
    let mut entries = vec![json!({"fullUrl": full_url, "resource": status,
        "request": {"method": "GET", "url": format!("{own}/Subscription/{id}/$status")}, "response": {"status": "200"}})];
    if content != Content::Empty {
        let mut named: Vec<&Key> = Vec::new();
        for event in events {
            if !named.contains(&&event.focus) {
                named.push(&event.focus);
                let (method, status) = if event.version == 1 { ("POST", "201") } else { ("PUT", "200") };
                let url =
                    if event.version == 1 { event.focus.kind.name().to_string() } else { event.focus.to_string() };
                entries.push(json!({"fullUrl": format!("{own}/{}", event.focus),
                    "request": {"method": method, "url": url}, "response": {"status": status}}));
            }
        }
    }
    json!({"resourceType": "Bundle", "id": crate::id::new(), "type": "history", "timestamp": now.to_string(), "entry": entries})
}

/// The answer to `$status`: a search set, whose entries have no request and response.
pub fn status_set(own: &str, standings: &[Standing<'_>]) -> Value {
    let entries: Vec<Value> = standings
        .iter()
        .map(|one| {
            let status = status_of(own, one.id, one.status, Notice::Status, one.count, one.content, &[]);
            json!({"fullUrl": format!("urn:uuid:{}", status["id"].as_str().unwrap_or("")), "resource": status,
                "search": {"mode": "match"}})
        })
        .collect();
    json!({"resourceType": "Bundle", "id": crate::id::new(), "type": "searchset", "total": entries.len(), "entry": entries})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> Value {
        json!({"resourceType":"Subscription","status":"requested","reason":"r","criteria":TASK_TOPIC,
            "_criteria":{"extension":[{"url":format!("{BACKPORT}/backport-filter-criteria"),"valueString":"Task?requester=Organization/x"}]},
            "channel":{"type":"rest-hook","endpoint":"https://ehr/hook","payload":"application/fhir+json",
            "header":["Authorization: Bearer s"],
            "_payload":{"extension":[{"url":format!("{BACKPORT}/backport-payload-content"),"valueCode":"id-only"}]}}})
    }

    fn read(value: Value) -> Result<Asked, Error> {
        parse(&Resource::from_value(value).unwrap(), "https://hub/fhir")
    }

    #[test]
    fn the_guides_subscription_is_understood() {
        let asked = read(subscription()).unwrap();
        assert_eq!(asked.headers, [("Authorization".to_string(), "Bearer s".to_string())]);
        assert_eq!((asked.content, asked.filters.len(), asked.off), (Content::IdOnly, 1, false));
    }

    // G-125: what we can't serve is refused, with the element.
    #[test]
    fn what_we_cannot_serve_is_refused() {
        for (pointer, value, expression) in [
            ("/criteria", json!("http://x/Topic"), "Subscription.criteria"),
            ("/status", json!("gone"), "Subscription.status"),
            ("/channel/type", json!("sms"), "Subscription.channel.type"),
            ("/channel/endpoint", json!("ftp://x"), "Subscription.channel.endpoint"),
            ("/channel/payload", json!("application/fhir+xml"), "Subscription.channel.payload"),
            ("/channel/header/0", json!("Host: x"), "Subscription.channel.header[0]"),
            ("/channel/header/0", json!("X: a\r\nY: b"), "Subscription.channel.header[0]"),
            ("/_criteria/extension/0/valueString", json!("Task?colour=red"), "Subscription.criteria.extension"),
            ("/_criteria/extension/0/valueString", json!("Patient?name=x"), "Subscription.criteria.extension"),
            (
                "/channel/_payload/extension/0/valueCode",
                json!("full-resource"),
                "Subscription.channel.payload.extension",
            ),
        ] {
            let mut asked = subscription();
            *asked.pointer_mut(pointer).unwrap() = value;
            let error = read(asked).unwrap_err();
            assert_eq!(error.issues[0].expression.as_deref(), Some(expression), "{pointer}");
        }
    }

    #[test]
    fn all_three_spellings_of_a_filter_mean_the_same() {
        let one = filter_of("Task?owner=Organization/1", "x").unwrap();
        assert_eq!(filter_of("Task.owner=Organization/1", "x").unwrap(), one);
        assert_eq!(filter_of("owner=Organization/1", "x").unwrap(), one);
    }

    // G-127, G-128: a history Bundle, request and response everywhere, references and no resources.
    #[test]
    fn an_id_only_notification_carries_references_and_no_resource() {
        let focus = Key::new(ResourceType::TASK, "t1");
        let events = [
            Event { number: 7, at: Timestamp(0), focus: focus.clone(), version: 1 },
            Event { number: 8, at: Timestamp(0), focus, version: 2 },
        ];
        let standing = Standing { id: "s1", status: "active", count: 8, content: Content::IdOnly };
        let bundle = notification("https://hub/fhir", standing, Notice::Events, &events, Timestamp(0));
        assert_eq!(bundle["type"], "history");
        let entries = bundle["entry"].as_array().unwrap();
        assert_eq!(entries.len(), 2);
        for entry in entries {
            assert!(entry["request"]["url"].is_string() && entry["response"]["status"].is_string());
        }
        assert!(entries[1].get("resource").is_none());
        let empty = Standing { content: Content::Empty, ..standing };
        assert!(
            !notification("https://hub/fhir", empty, Notice::Events, &events, Timestamp(0)).to_string().contains("t1")
        );
    }
}
