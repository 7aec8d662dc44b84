//! Our Subscriptions at partners' servers: what we ask for, and how we read what they tell us.
//!
//! A notification only says that it is time to ask: what has changed is read by the same search as without one, so
//! that a lost, late or repeated notification changes nothing but when. Reads the Backport's notifications (a history
//! Bundle that begins with a status) and a classic one, whose body is empty or anything else.
//! <http://hl7.org/fhir/uv/subscriptions-backport>

use serde_json::{Value, json};

use super::subscription::TASK_TOPIC;

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";

/// Where notifications are to go, and what they must show.
#[derive(Debug, Clone)]
pub struct Hook {
    /// The address.
    pub endpoint: String,
    /// The secret of the `Authorization` header.
    pub secret: String,
}

impl Hook {
    /// A Subscription to the guide's Task topic, of the Tasks this search finds (S-169 ff.).
    pub fn to_topic(&self, search: &str) -> Value {
        let mut subscription = self.channel(TASK_TOPIC);
        subscription["meta"] = json!({"profile": [format!("{BACKPORT}/backport-subscription")]});
        subscription["_criteria"] =
            json!({"extension": [{"url": format!("{BACKPORT}/backport-filter-criteria"), "valueString": search}]});
        subscription["channel"]["payload"] = "application/fhir+json".into();
        subscription["channel"]["_payload"] =
            json!({"extension": [{"url": format!("{BACKPORT}/backport-payload-content"), "valueCode": "id-only"}]});
        subscription
    }

    /// A classic R4 Subscription: the search is the criterion, and without a payload nothing is sent but the fact.
    pub fn to_criteria(&self, search: &str) -> Value {
        self.channel(search)
    }

    fn channel(&self, criteria: &str) -> Value {
        json!({"resourceType": "Subscription", "status": "requested",
            "reason": "To learn what becomes of referrals that run over this gateway", "criteria": criteria,
            "channel": {"type": "rest-hook", "endpoint": self.endpoint,
                "header": [format!("Authorization: Bearer {}", self.secret)]}})
    }
}

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What it is for.
    pub what: What,
    /// The number of the newest event it carries or counts, if it numbers them.
    pub newest: Option<i64>,
    /// Whether its server says that the subscription has come to an end or into trouble.
    pub ailing: bool,
}

/// What a notification is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The first one: the channel works.
    Handshake,
    /// Nothing happened.
    Heartbeat,
    /// Something changed, or nobody knows.
    Events,
}

/// Reads a notification. What can't be read as one counts as news: it costs a question, and no change is missed.
pub fn told(body: &Value) -> Told {
    let status = body.pointer("/entry/0/resource").filter(|_| body["resourceType"] == "Bundle");
    let Some(status) = status else { return Told { what: What::Events, newest: None, ailing: false } };
    let what = match text(status, "type") {
        Some("handshake") => What::Handshake,
        Some("heartbeat") => What::Heartbeat,
        _ => What::Events,
    };
    let counted =
        number(named(status, "events-since-subscription-start").or(status.get("eventsSinceSubscriptionStart")));
    let events = parts(status, "notification-event").filter_map(|event| number(named_in(event, "event-number"))).chain(
        status["notificationEvent"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|event| number(event.get("eventNumber"))),
    );
    let ailing = matches!(text(status, "status"), Some("error" | "off"));
    Told { what, newest: events.max().or(counted), ailing }
}

/// A parameter of this name (Parameters, as on R4), or the element (SubscriptionStatus, as from R4B on).
fn text<'v>(status: &'v Value, name: &str) -> Option<&'v str> {
    named(status, name).or(status.get(name)).and_then(Value::as_str)
}

fn parts<'v>(status: &'v Value, name: &'static str) -> impl Iterator<Item = &'v Value> {
    let parameters = status["parameter"].as_array().into_iter().flatten();
    parameters.filter(move |one| one["name"] == name).filter_map(|one| one.get("part"))
}

fn named<'v>(status: &'v Value, name: &str) -> Option<&'v Value> {
    named_in(status.get("parameter")?, name)
}

/// The value of a named parameter, whatever its type.
fn named_in<'v>(list: &'v Value, name: &str) -> Option<&'v Value> {
    let one = list.as_array()?.iter().find(|one| one["name"] == name)?;
    one.as_object()?.iter().find(|(key, _)| key.starts_with("value")).map(|(_, value)| value)
}

/// An event number, which servers send as a string or as a number.
fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Resource;
    use crate::fhir::subscription;

    fn hook() -> Hook {
        Hook { endpoint: "https://hub/hooks/pantry".into(), secret: "s".into() }
    }

    /// What we ask of others we would take ourselves.
    #[test]
    fn what_we_ask_for_is_a_subscription_we_would_serve() {
        let ours = hook().to_topic("Task?requester=https://hub/fhir/Organization/hub");
        let asked = subscription::parse(&Resource::from_value(ours).unwrap(), "https://pantry/fhir").unwrap();
        assert_eq!(asked.headers, [("Authorization".to_string(), "Bearer s".to_string())]);
        let classic = hook().to_criteria("Task?owner=Organization/hub");
        assert_eq!(classic["criteria"], "Task?owner=Organization/hub");
        assert!(classic["channel"].get("payload").is_none());
    }

    #[test]
    fn notifications_of_all_kinds_are_read() {
        let parameters = |kind: &str, count: &str, events: &[&str]| {
            let mut list = vec![
                json!({"name": "status", "valueCode": "active"}),
                json!({"name": "type", "valueCode": kind}),
                json!({"name": "events-since-subscription-start", "valueString": count}),
            ];
            list.extend(events.iter().map(|number| {
                json!({"name": "notification-event", "part": [{"name": "event-number", "valueString": number}]})
            }));
            json!({"resourceType": "Bundle", "type": "history",
                "entry": [{"resource": {"resourceType": "Parameters", "parameter": list}}]})
        };
        let is = |what, newest| Told { what, newest, ailing: false };
        assert_eq!(told(&parameters("handshake", "0", &[])), is(What::Handshake, Some(0)));
        assert_eq!(told(&parameters("heartbeat", "4", &[])), is(What::Heartbeat, Some(4)));
        assert_eq!(told(&parameters("event-notification", "9", &["3", "5"])), is(What::Events, Some(5)));
        let later = json!({"resourceType": "Bundle", "type": "subscription-notification", "entry": [{"resource": {
            "resourceType": "SubscriptionStatus", "status": "error", "type": "event-notification",
            "eventsSinceSubscriptionStart": "2", "notificationEvent": [{"eventNumber": 2}]}}]});
        assert_eq!(told(&later), Told { what: What::Events, newest: Some(2), ailing: true });
        for anything in [Value::Null, json!({}), json!([1]), json!({"resourceType": "Task"})] {
            assert_eq!(told(&anything), is(What::Events, None), "{anything}");
        }
    }
}
