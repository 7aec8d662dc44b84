//! The way notifications take, and what a Subscription may ask of it: where they go, how they are written, with which
//! headers. What a channel can't do is refused with its element. <http://hl7.org/fhir/uv/subscriptions-backport/channels.html>

use serde_json::Value;

use super::asked::{Content, LONGEST, MOST, Subject, extensions, fault, known_extensions};
use super::{mail, sms};
use crate::error::Error;

/// Headers a subscriber may not set: they belong to the transport (S-112).
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
    "expect",
    "keep-alive",
];

/// The way notifications take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A request to the endpoint.
    RestHook,
    /// A mail to the address.
    Email,
    /// A frame on the socket that the subscriber has opened here and bound.
    Websocket,
    /// A text message to the number.
    Sms,
}

/// How what is sent is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// FHIR JSON
    Json,
    /// FHIR XML
    Xml,
}

/// Where sockets are opened, below the public URL that the FHIR base `own` stands below, too.
pub fn websocket_url(own: &str) -> String {
    let house = own.strip_suffix("/fhir").unwrap_or(own);
    // http becomes ws, https becomes wss.
    format!("{}/websocket", house.replacen("http", "ws", 1))
}

pub(super) fn way(channel: &Value) -> Result<Channel, Error> {
    let name = channel.get("type").and_then(Value::as_str);
    let way = match name {
        Some("rest-hook") => Channel::RestHook,
        Some("email") => Channel::Email,
        Some("websocket") => Channel::Websocket,
        Some("sms") => Channel::Sms,
        _ => return fault("channel.type", "The channels served here are rest-hook, websocket, email and sms."),
    };
    known_extensions("channel.type", channel.get("_type"), &["backport-channel-type"])?;
    for item in extensions(channel.get("_type"), "backport-channel-type") {
        // A custom channel instead of the code; the same one twice is no contradiction (S-026).
        if item.get("valueCoding").and_then(|coding| coding.get("code")).and_then(Value::as_str) != name {
            return fault("channel.type.extension", "This channel is not served here.");
        }
    }
    Ok(way)
}

pub(super) fn endpoint(channel: &Value, way: Channel) -> Result<String, Error> {
    let endpoint = channel.get("endpoint").and_then(Value::as_str).unwrap_or("");
    let plain = |text: &str| text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic());
    let fits = match way {
        Channel::RestHook => {
            let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or(rest));
            plain(endpoint) && host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        }
        Channel::Email => mail::address(endpoint).is_some(),
        Channel::Websocket => channel.get("endpoint").is_none(),
        Channel::Sms => sms::number(endpoint).is_some(),
    };
    if fits {
        // A number without what only helps the eye.
        let number = if way == Channel::Sms { sms::number(endpoint) } else { None };
        return Ok(number.unwrap_or_else(|| endpoint.to_string()));
    }
    match way {
        Channel::RestHook => fault("channel.endpoint", "A rest-hook has an http(s) endpoint without a user in it."),
        Channel::Email => fault("channel.endpoint", "A mail goes to one plain address: mailto:someone@example.org."),
        Channel::Websocket => fault("channel.endpoint", "It is you who connects; $get-ws-binding-token says where."),
        Channel::Sms => fault("channel.endpoint", "A message goes to one number with its country: tel:+15551234567."),
    }
}

/// `channel.payload`: the media type, with its parameters (S-029, S-031); of a mail, that of its attachment (S-152).
pub(super) fn payload(channel: &Value, subject: Subject, way: Channel) -> Result<Option<(String, Format)>, Error> {
    let refused = || {
        fault(
            "channel.payload",
            "Notifications are written as application/fhir+json or application/fhir+xml, in FHIR 4.0.",
        )
    };
    let sent = channel.get("payload").and_then(Value::as_str);
    if way == Channel::Email {
        let text = sent.unwrap_or("").to_ascii_lowercase().replace([' ', '"'], "");
        let (text, attached) = text.split_once(";attach=").map_or((text.as_str(), None), |(text, of)| (text, Some(of)));
        return match (text, attached) {
            ("text/plain" | "text/plain;charset=utf-8", None) => Ok(None),
            ("text/plain" | "text/plain;charset=utf-8", Some("application/fhir+json")) => {
                Ok(Some(("application/fhir+json".to_string(), Format::Json)))
            }
            ("text/plain" | "text/plain;charset=utf-8", Some("application/fhir+xml")) => {
                Ok(Some(("application/fhir+xml".to_string(), Format::Xml)))
            }
            _ => fault(
                "channel.payload",
                "A mail is text/plain; ;attach=application/fhir+json or application/fhir+xml adds the notification.",
            ),
        };
    }
    if way == Channel::Sms {
        // The guide has no type for it (G-124), its profile wants one.
        return match sent {
            None | Some("text/plain") => Ok(None),
            Some(_) => fault("channel.payload", "A message is text/plain; it carries no Bundle."),
        };
    }
    let Some(text) = sent else {
        return if subject.is_classic() { Ok(None) } else { refused() };
    };
    let mut parts = text.split(';').map(str::trim);
    let format = match parts.next() {
        Some("application/fhir+json" | "application/json") => Format::Json,
        Some("application/fhir+xml" | "application/xml") => Format::Xml,
        _ => return refused(),
    };
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim_matches('"');
        let fits = match name.to_ascii_lowercase().as_str() {
            "fhirversion" => matches!(value, "4.0" | "4.0.1"),
            "charset" => value.eq_ignore_ascii_case("utf-8"),
            _ => false,
        };
        if !fits {
            return refused();
        }
    }
    Ok(Some((text.to_string(), format)))
}

/// What a channel can't do is refused (S-030, S-114, S-155).
pub(super) fn fits(
    way: Channel,
    subject: Subject,
    content: Content,
    heartbeat: Option<u32>,
    headers: &[(String, String)],
) -> Result<(), Error> {
    if subject.is_classic() && heartbeat.is_some() {
        return fault("channel.extension", "Classic criteria have no heartbeats; leave backport-heartbeat-period out.");
    }
    match way {
        Channel::RestHook => Ok(()),
        Channel::Email | Channel::Sms if subject.is_classic() => {
            fault("criteria", "Mails and messages are sent about topics; classic criteria have a rest-hook.")
        }
        Channel::Email if content == Content::FullResource => {
            fault("channel.payload.extension", "A mail lies open on its way; its content is empty or id-only.")
        }
        Channel::Sms if content != Content::Empty => {
            fault("channel.payload.extension", "A message says that something has changed; its content is empty.")
        }
        Channel::Email | Channel::Sms if heartbeat.is_some() => fault(
            "channel.extension",
            "There are no heartbeats by mail or message; leave backport-heartbeat-period out.",
        ),
        Channel::Email | Channel::Sms if !headers.is_empty() => {
            fault("channel.header", "A mail or message takes no headers from outside; leave them out.")
        }
        Channel::Websocket if !headers.is_empty() => {
            fault("channel.header", "A socket has no headers; leave them out.")
        }
        Channel::Email | Channel::Sms | Channel::Websocket => Ok(()),
    }
}

pub(super) fn headers(channel: &Value) -> Result<Vec<(String, String)>, Error> {
    let list = channel.get("header").and_then(Value::as_array);
    let mut headers = Vec::new();
    for (index, header) in list.into_iter().flatten().enumerate() {
        match header.as_str().and_then(split_header).filter(|_| index < MOST) {
            Some(pair) => headers.push(pair),
            None => {
                return fault(
                    &format!("channel.header[{index}]"),
                    format!("A header is “Name: value”, one line, not the transport's own; at most {MOST} of them."),
                );
            }
        }
    }
    Ok(headers)
}

fn split_header(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once(':')?;
    let value = value.strip_prefix(' ').unwrap_or(value);
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let fits = !name.is_empty()
        && text.len() <= LONGEST
        && name.chars().all(token)
        && value.chars().all(|c| c == '\t' || !c.is_control());
    let lower = name.to_ascii_lowercase();
    let free = !RESERVED.contains(&lower.as_str()) && !lower.starts_with("proxy-");
    (fits && free).then(|| (name.to_string(), value.to_string()))
}
