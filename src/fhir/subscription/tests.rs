//! Subscriptions in their three encodings, and every way in which they can't be served.

use super::*;
use crate::fhir::subscription::topic::TASK_TOPIC;
use serde_json::json;

fn subscription() -> Value {
    json!({"resourceType":"Subscription","status":"requested","reason":"r","criteria":TASK_TOPIC,
        "_criteria":{"extension":[{"url":format!("{BACKPORT}/backport-filter-criteria"),"valueString":"Task?requester=Organization/x"}]},
        "channel":{"type":"rest-hook","endpoint":"https://ehr/hook?a=b","payload":"application/fhir+json",
        "extension":[{"url":format!("{BACKPORT}/backport-heartbeat-period"),"valueUnsignedInt":60},
            {"url":format!("{BACKPORT}/backport-timeout"),"valueUnsignedInt":20},
            {"url":format!("{BACKPORT}/backport-max-count"),"valuePositiveInt":7}],
        "header":["Authorization: Bearer s"],
        "_payload":{"extension":[{"url":format!("{BACKPORT}/backport-payload-content"),"valueCode":"id-only"}]}}})
}

fn read(value: Value) -> Result<Asked, Error> {
    parse(&Resource::from_value(value).unwrap(), "https://hub/fhir")
}

fn with(pointer: &str, value: Value) -> Value {
    let mut asked = subscription();
    *asked.pointer_mut(pointer).unwrap() = value;
    asked
}

#[test]
fn the_guides_subscription_is_understood() {
    let asked = read(subscription()).unwrap();
    assert_eq!(asked.headers, [("Authorization".to_string(), "Bearer s".to_string())]);
    assert_eq!((asked.content, asked.filters.len(), asked.off), (Content::IdOnly, 1, false));
    assert_eq!((asked.heartbeat, asked.timeout, asked.max_count), (Some(60), Some(20), Some(7)));
    assert_eq!(asked.endpoint, "https://ehr/hook?a=b", "S-100: the query stays");
    // S-031: parameters of the media type are read, and it is sent as it was asked for (S-101).
    let sent = "application/fhir+json; fhirVersion=4.0";
    assert_eq!(read(with("/channel/payload", json!(sent))).unwrap().payload.unwrap().0, sent);
}

// S-027, S-028, S-029, S-031, S-033, S-034, S-112, S-113, S-154, S-156
// G-125, S-024…S-035: what we can't serve is refused, with the element.
#[test]
fn what_we_cannot_serve_is_refused() {
    let filter = "/_criteria/extension/0/valueString";
    for (pointer, value, expression) in [
        ("/criteria", json!("http://x/Topic"), "Subscription.criteria"),
        ("/criteria", json!(format!("{TASK_TOPIC}|1.2.3")), "Subscription.criteria"),
        ("/status", json!("gone"), "Subscription.status"),
        ("/status", json!("error"), "Subscription.status"),
        ("/channel/type", json!("message"), "Subscription.channel.type"),
        ("/channel/endpoint", json!("ftp://x"), "Subscription.channel.endpoint"),
        ("/channel/endpoint", json!("https://"), "Subscription.channel.endpoint"),
        ("/channel/endpoint", json!("https://user@x/"), "Subscription.channel.endpoint"),
        ("/channel/endpoint", json!("https://x/a b"), "Subscription.channel.endpoint"),
        ("/channel/payload", json!("application/fhir+garbage"), "Subscription.channel.payload"),
        ("/channel/payload", json!("application/fhir+json; fhirVersion=5.0"), "Subscription.channel.payload"),
        ("/channel/header/0", json!("Host: x"), "Subscription.channel.header[0]"),
        ("/channel/header/0", json!("Proxy-Authorization: x"), "Subscription.channel.header[0]"),
        ("/channel/header/0", json!("X=y"), "Subscription.channel.header[0]"),
        ("/channel/header/0", json!("X: a\r\nY: b"), "Subscription.channel.header[0]"),
        (filter, json!("Task?colour=red"), "Subscription.criteria.extension[0]"),
        (filter, json!("Patient?name=x"), "Subscription.criteria.extension[0]"),
        ("/_criteria/extension/0/url", json!("http://hl7.org/fhir/5.0/x"), "Subscription.criteria.extension[0]"),
        ("/channel/extension/0/url", json!("http://x/y"), "Subscription.channel.extension[0]"),
        ("/channel/extension/0/valueUnsignedInt", json!(0), "Subscription.channel.extension"),
        ("/channel/extension/1/valueUnsignedInt", json!(0), "Subscription.channel.extension"),
        ("/channel/extension/1/valueUnsignedInt", json!(61), "Subscription.channel.extension"),
        ("/channel/extension/2/valuePositiveInt", json!(0), "Subscription.channel.extension"),
        ("/channel/_payload/extension/0/valueCode", json!("all"), "Subscription.channel.payload.extension"),
        ("/channel/_payload/extension", json!([]), "Subscription.channel.payload.extension"),
    ] {
        let error = read(with(pointer, value.clone())).unwrap_err();
        assert_eq!(error.issues[0].expression.as_deref(), Some(expression), "{pointer} {value}");
    }
    for (element, expression) in [("reason", "reason"), ("criteria", "criteria"), ("channel", "channel")] {
        let mut asked = subscription();
        asked.as_object_mut().unwrap().remove(element);
        let error = read(asked).unwrap_err();
        assert_eq!(error.issues[0].expression, Some(format!("Subscription.{expression}")));
    }
    let mut asked = subscription();
    let later = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Subscription.filterBy";
    asked["extension"] = json!([{"url": later, "valueString": "x"}]);
    assert!(read(asked.clone()).is_err(), "S-032");
    asked["extension"][0]["url"] =
        json!("http://hl7.org/fhir/5.0/StructureDefinition/extension-Subscription.identifier");
    assert!(read(asked).is_ok(), "1.2.0 carries the identifier so");
    let mut asked = subscription();
    asked["channel"]["_type"] = json!({"extension": [{"url": format!("{BACKPORT}/backport-channel-type"),
        "valueCoding": {"code": "zulip"}}]});
    assert!(read(asked).is_err(), "S-026");
}

#[test]
fn the_older_backport_names_its_topic_in_an_extension() {
    let mut asked = subscription();
    asked["criteria"] = json!("Task?owner=Organization/1");
    asked["_criteria"]["extension"][0]["url"] = json!(format!("{BACKPORT}/backport-additional-criteria"));
    asked["extension"] = json!([{"url": format!("{BACKPORT}/backport-topic-canonical"), "valueUri": TASK_TOPIC}]);
    let read_one = read(asked.clone()).unwrap();
    assert!(matches!(read_one.subject, Subject::Topic(topic) if topic.url == TASK_TOPIC));
    assert_eq!((read_one.topic.as_str(), read_one.filters.len()), (TASK_TOPIC, 2));
    asked["criteria"] = json!("Task?colour=red");
    assert_eq!(read(asked).unwrap_err().issues[0].expression.as_deref(), Some("Subscription.criteria"));
}

// S-200, S-201
#[test]
fn classic_criteria_are_a_search() {
    let mut asked = subscription();
    asked["criteria"] = json!("Task?status=requested");
    asked.as_object_mut().unwrap().remove("_criteria");
    let channel = asked["channel"].as_object_mut().unwrap();
    channel.remove("_payload");
    channel.remove("extension");
    let read_one = read(asked.clone()).unwrap();
    assert!(matches!(read_one.subject, Subject::Criteria(ResourceType::TASK)));
    assert_eq!(read_one.content, Content::FullResource);
    asked["channel"].as_object_mut().unwrap().remove("payload");
    assert!(read(asked.clone()).unwrap().payload.is_none(), "S-203");
    asked["criteria"] = json!("Task?colour=red");
    assert_eq!(read(asked).unwrap_err().issues[0].expression.as_deref(), Some("Subscription.criteria"));
}
