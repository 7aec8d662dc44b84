//! What a subscriber asks for: a Subscription in one of three encodings, read and checked whole.
//!
//! Backport 1.1.0 (`criteria` is the topic), Backport 0.1.0 (the topic in an extension, `criteria` the filter) and
//! classic R4 (`criteria` is a search). What can't be served is refused with its element, never dropped (G-125). What
//! only the configuration can judge is the app's. <http://hl7.org/fhir/uv/subscriptions-backport>

use serde_json::Value;

use super::channel::{self, Channel, Format};
use super::filter;
use super::topic::{Topic, topic};
use crate::error::Error;
use crate::fhir::resource::{Resource, ResourceType};
use crate::fhir::search::Filter;
use crate::time::Timestamp;

/// Where the Backport guide's extensions are defined.
pub const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
/// Most headers, filters, and the longest endpoint or header, in bytes.
pub(super) const MOST: usize = 20;
pub(super) const LONGEST: usize = 2_048;
/// Heartbeats come no more often, in seconds, whatever is asked for (S-105, design D15a).
pub const SHORTEST_HEARTBEAT: u32 = 10;
/// Longest time for one attempt, in seconds (S-103).
pub const LONGEST_TIMEOUT: u32 = 60;

/// How much a notification carries; more comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Only that something happened.
    Empty,
    /// References to what changed.
    IdOnly,
    /// What changed.
    FullResource,
}

impl Content {
    /// The level of this code of the backport-content-code-system.
    pub fn parse(code: &str) -> Option<Content> {
        match code {
            "empty" => Some(Content::Empty),
            "id-only" => Some(Content::IdOnly),
            "full-resource" => Some(Content::FullResource),
            _ => None,
        }
    }
}

/// What it is about.
#[derive(Debug, Clone, Copy)]
pub enum Subject {
    /// A topic: notification Bundles, handshake, event numbers.
    Topic(&'static Topic),
    /// Classic criteria over this type: the change itself, or an empty request.
    Criteria(ResourceType),
}

impl Subject {
    /// The type of resource it is about.
    pub fn kind(self) -> ResourceType {
        match self {
            Subject::Topic(topic) => topic.kind,
            Subject::Criteria(kind) => kind,
        }
    }
    /// What it is found by in the database.
    pub fn code(self) -> String {
        match self {
            Subject::Topic(topic) => topic.url.to_string(),
            Subject::Criteria(kind) => criteria_code(kind),
        }
    }
    /// Whether it is a classic one.
    pub fn is_classic(self) -> bool {
        matches!(self, Subject::Criteria(_))
    }
}

/// What the classic subscriptions to a type are found by.
pub fn criteria_code(kind: ResourceType) -> String {
    format!("{kind}?")
}

/// A Subscription that we can serve.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it is about.
    pub subject: Subject,
    /// `Subscription.criteria` or the topic extension, as sent: notifications name it so (S-012).
    pub topic: String,
    /// In the encoding of Backport 0.1.0: whoever asks so is notified so.
    pub older: bool,
    /// The way.
    pub channel: Channel,
    /// Where notifications go.
    pub endpoint: String,
    /// Headers to send with them.
    pub headers: Vec<(String, String)>,
    /// The media type they are sent, or attached, as, and how that is written; none: an empty request (classic only),
    /// or a mail without attachment.
    pub payload: Option<(String, Format)>,
    /// How much they carry.
    pub content: Content,
    /// All must hold for the resource of an event.
    pub filters: Vec<Filter>,
    /// Seconds of silence after which a heartbeat is sent.
    pub heartbeat: Option<u32>,
    /// Seconds one attempt may take.
    pub timeout: Option<u32>,
    /// Most events in one notification.
    pub max_count: Option<u32>,
    /// When it ends by itself.
    pub end: Option<Timestamp>,
    /// The subscriber switches it off.
    pub off: bool,
}

impl Asked {
    /// The server behind the endpoint of the Subscription with this id: scheme, host and port.
    pub fn server(&self, id: &str) -> String {
        match self.channel {
            Channel::RestHook => {
                let (scheme, rest) = self.endpoint.split_once("://").unwrap_or(("", &self.endpoint));
                let server = rest.split(['/', '?', '#']).next().unwrap_or(rest);
                format!("{scheme}://{server}").to_ascii_lowercase()
            }
            // Ours, which all mails or messages go through.
            Channel::Email => "mailto:".to_string(),
            Channel::Sms => "tel:".to_string(),
            Channel::Websocket => format!("websocket:{id}"),
        }
    }
}

pub(super) fn fault<T>(element: &str, text: impl Into<String>) -> Result<T, Error> {
    Err(Error::invalid(format!("Subscription.{element}"), text))
}

/// Reads a Subscription; every fault names its element.
pub fn parse(resource: &Resource, own: &str) -> Result<Asked, Error> {
    let off = match resource.text_at("status") {
        Some("requested" | "active") => false,
        Some("off") => true,
        Some("error") => return fault("status", "Ask for it again with requested; error is this server's word."),
        _ => {
            return fault("status", "A Subscription is created as requested, and updated to requested, active or off.");
        }
    };
    if resource.text_at("reason").is_none() {
        return fault("reason", "A Subscription has a reason.");
    }
    if resource.at("modifierExtension").is_some() {
        return fault("modifierExtension", "This changes the meaning in a way that is not known here; leave it out.");
    }
    no_later_elements(resource)?;
    let Some(of) = resource.at("channel").filter(|channel| channel.is_object()) else {
        return fault("channel", "A Subscription has a channel.");
    };
    let (subject, topic, filters) = subject(resource, own)?;
    known_extensions(
        "channel",
        Some(of),
        &["backport-heartbeat-period", "backport-timeout", "backport-max-count", "backport-notification-url-location"],
    )?;
    let way = channel::way(of)?;
    let endpoint = channel::endpoint(of, way)?;
    let payload = channel::payload(of, subject, way)?;
    let content = content(of, subject, way)?;
    let heartbeat = number(of, "backport-heartbeat-period", 1, u32::MAX)?;
    let headers = channel::headers(of)?;
    channel::fits(way, subject, content, heartbeat, &headers)?;
    let timeout = number(of, "backport-timeout", 1, LONGEST_TIMEOUT)?;
    let max_count = number(of, "backport-max-count", 1, u32::MAX)?;
    let end = match resource.text_at("end") {
        None => None,
        Some(end) => match Timestamp::parse(end) {
            Some(end) => Some(end),
            None => return fault("end", "end is an instant, such as 2027-12-31T00:00:00Z."),
        },
    };
    Ok(Asked {
        subject,
        topic,
        older: older_topic(resource).is_some(),
        channel: way,
        endpoint,
        headers,
        payload,
        content,
        filters,
        heartbeat,
        timeout,
        max_count,
        end,
        off,
    })
}

/// Elements of a later FHIR version, as extensions: a filter among them would be overlooked (S-032).
fn no_later_elements(resource: &Resource) -> Result<(), Error> {
    for item in resource.list("extension") {
        let url = item.get("url").and_then(Value::as_str).unwrap_or("");
        let later = url.starts_with("http://hl7.org/fhir/") && url.contains("extension-Subscription.");
        if later && !url.ends_with("extension-Subscription.identifier") {
            return fault("extension", "Elements of later FHIR versions are not read here; use the backport's own.");
        }
    }
    Ok(())
}

/// Extensions that are not known are refused where they would change what is sent (S-032).
pub(super) fn known_extensions(element: &str, value: Option<&Value>, known: &[&str]) -> Result<(), Error> {
    let list = value.and_then(|value| value.get("extension")).and_then(Value::as_array);
    for (index, item) in list.into_iter().flatten().enumerate() {
        let url = item.get("url").and_then(Value::as_str).unwrap_or("");
        let name = url.strip_prefix(BACKPORT).and_then(|rest| rest.strip_prefix('/'));
        if !name.is_some_and(|name| known.contains(&name)) {
            return fault(&format!("{element}.extension[{index}]"), "This extension is not known here; leave it out.");
        }
    }
    Ok(())
}

pub(super) fn extensions<'a>(element: Option<&'a Value>, name: &str) -> Vec<&'a Value> {
    let url = format!("{BACKPORT}/{name}");
    let list = element.and_then(|element| element.get("extension")).and_then(Value::as_array);
    list.into_iter().flatten().filter(|item| item.get("url").is_some_and(|its| *its == url)).collect()
}

fn subject(resource: &Resource, own: &str) -> Result<(Subject, String, Vec<Filter>), Error> {
    let criteria = resource.text_at("criteria").unwrap_or("");
    if criteria.is_empty() || criteria.len() > LONGEST {
        return fault("criteria", "criteria is the canonical of a topic; /metadata lists those served here.");
    }
    let beside = resource.at("_criteria");
    known_extensions("criteria", beside, &["backport-filter-criteria", "backport-additional-criteria"])?;
    let mut texts: Vec<(String, &str)> = Vec::new();
    let canonical = match older_topic(resource) {
        // Backport 0.1.0
        Some(item) => {
            texts.push(("criteria".to_string(), criteria));
            let value = ["valueUri", "valueCanonical", "valueUrl"].iter().find_map(|name| item.get(*name));
            value.and_then(Value::as_str).unwrap_or("")
        }
        None if ["http://", "https://", "urn:"].iter().any(|scheme| criteria.starts_with(scheme)) => criteria,
        None => {
            return match filter::criteria(criteria, own) {
                Some((kind, found)) if beside.is_none() => Ok((Subject::Criteria(kind), criteria.to_string(), found)),
                Some(_) => fault("criteria.extension", "Classic criteria say all in one search."),
                None => fault(
                    "criteria",
                    "criteria is the canonical of a topic, or a search by parameters that this server has for the type; /metadata lists both.",
                ),
            };
        }
    };
    let Some(found) = topic(canonical) else {
        return fault("criteria", "This topic is not served here; /metadata lists those that are.")
            .map_err(|error: Error| error.code("not-supported"));
    };
    let extensions = beside.and_then(|item| item.get("extension")).and_then(Value::as_array);
    for (index, item) in extensions.into_iter().flatten().enumerate() {
        let text = item.get("valueString").and_then(Value::as_str).unwrap_or("");
        texts.push((format!("criteria.extension[{index}]"), text));
    }
    if texts.len() > MOST {
        return fault("criteria", format!("A Subscription has at most {MOST} filters."));
    }
    let mut filters = Vec::new();
    for (element, text) in texts {
        match filter::filters(text, found.kind, found.filters, own) {
            Some(more) => filters.extend(more),
            None => {
                let known = found.filters.join(", ");
                return fault(&element, format!("This topic filters {} by: {known}.", found.kind));
            }
        }
    }
    Ok((Subject::Topic(found), canonical.to_string(), filters))
}

/// Where Backport 0.1.0 names the topic.
fn older_topic(resource: &Resource) -> Option<&Value> {
    let url = format!("{BACKPORT}/backport-topic-canonical");
    resource.list("extension").iter().find(|item| item.get("url").is_some_and(|its| *its == url))
}

fn content(channel: &Value, subject: Subject, way: Channel) -> Result<Content, Error> {
    let element = "channel.payload.extension";
    known_extensions("channel.payload", channel.get("_payload"), &["backport-payload-content"])?;
    let found = extensions(channel.get("_payload"), "backport-payload-content");
    match (found.as_slice(), subject) {
        // A classic one sends the resource, or nothing at all; over a socket always nothing but a ping.
        ([], Subject::Criteria(_)) if channel.get("payload").is_some() && way != Channel::Websocket => {
            Ok(Content::FullResource)
        }
        ([], Subject::Criteria(_)) => Ok(Content::Empty),
        ([one], Subject::Topic(_)) => {
            let code = one.get("valueCode").and_then(Value::as_str).and_then(Content::parse);
            code.map_or_else(
                || fault(element, "The content level (backport-payload-content) is empty, id-only or full-resource."),
                Ok,
            )
        }
        (_, Subject::Criteria(_)) => fault(element, "Classic criteria have no content level."),
        _ => fault(element, "A Subscription to a topic has one content level (backport-payload-content)."),
    }
}

fn number(channel: &Value, name: &str, least: u32, most: u32) -> Result<Option<u32>, Error> {
    let found = extensions(Some(channel), name);
    let [item] = found.as_slice() else {
        return if found.is_empty() { Ok(None) } else { fault("channel.extension", format!("{name} stands once.")) };
    };
    let value = ["valueUnsignedInt", "valuePositiveInt", "valueInteger"].iter().find_map(|name| item.get(*name));
    let value = value.and_then(Value::as_u64).and_then(|value| u32::try_from(value).ok());
    match value.filter(|value| (least..=most).contains(value)) {
        Some(value) => Ok(Some(value)),
        None if most == u32::MAX => fault("channel.extension", format!("{name} is a number from {least} on.")),
        None => fault("channel.extension", format!("{name} is a number of seconds from {least} to {most}.")),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
