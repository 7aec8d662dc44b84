//! Subscriptions by text message, through a gateway of messages that misbehaves on request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Fault, HANDSHAKE, TestGateway, county as partners};
use crate::notifications::{numbers, status, subscription};

/// Where messages are sent from: the tests' world collects what comes to a hook.
pub const SENDER: &str = "https://sms.test/hook";

pub async fn county() -> TestGateway {
    let settings = format!("[sms]\nurl = \"{SENDER}\"\nauthorization = \"Bearer s3cret\"\n{}", partners());
    TestGateway::with(Place::sqlite(), &settings).await.settled().await
}

fn by_sms() -> Value {
    let mut body = subscription("tel:+1-555-123-4567");
    body["channel"]["type"] = json!("sms");
    body["channel"]["_payload"]["extension"][0]["valueCode"] = json!("empty");
    let channel = body["channel"].as_object_mut().unwrap();
    channel.remove("header");
    channel.remove("payload");
    body
}

pub async fn subscribed(county: &TestGateway) -> String {
    let answer = county.post("clinic", "Subscription", &by_sms()).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (201, Some("requested")), "{}", answer.body);
    county.later(HANDSHAKE).await;
    answer.id()
}

// S-157, G-113, G-122, G-123, G-124: a first message, then one for what happened; the id and no more.
#[tokio::test]
async fn a_message_holds_the_id_and_no_more() {
    let county = county().await;
    let id = subscribed(&county).await;
    assert_eq!(status(&county, "clinic", &id).await, "active");
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let all = county.world.heard(SENDER);
    assert!(all.len() >= 2);
    let first = json!({"id": format!("{id}-handshake-0"), "to": "+15551234567",
        "text": format!("Hub: you get a message here when something changes. Subscription {id}")});
    assert_eq!(all[0], first);
    for message in &all[1..] {
        assert_eq!(message["text"], format!("Hub: updated content is available. Subscription {id}"));
        assert!(!message.to_string().contains(&task) && message.as_object().unwrap().len() == 3, "{message}");
    }
    let letters = county.world.letters();
    let letter = letters.iter().find(|letter| letter.url == SENDER).unwrap();
    assert!(letter.headers.contains(&("authorization".into(), "Bearer s3cret".into())));
    // That a gateway took a message is no evidence that the source knows.
    assert_ne!(county.level(&task).await.0, "L4");
    let kept = numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body);
    assert_eq!(all.last().unwrap()["id"], format!("{id}-event-{}", kept.last().unwrap()));
}

// S-107: what the gateway of messages did not take comes again, under the same id.
#[tokio::test]
async fn a_message_waits_for_its_gateway() {
    let county = county().await;
    county.world.fault(SENDER, &[Fault::Answer(500), Fault::LoseAnswer]);
    let id = subscribed(&county).await;
    assert_eq!(status(&county, "clinic", &id).await, "requested");
    county.later(Duration::from_secs(5)).await;
    county.later(Duration::from_secs(30)).await;
    assert_eq!(status(&county, "clinic", &id).await, "active");
    let ids: Vec<Value> = county.world.heard(SENDER).iter().map(|message| message["id"].clone()).collect();
    assert_eq!(ids, [json!(format!("{id}-handshake-0")), json!(format!("{id}-handshake-0"))]);
}

// S-028, S-030, S-154: what a message can't do is refused with its element.
#[tokio::test]
async fn what_a_message_cannot_do_is_refused() {
    let county = county().await;
    for (pointer, value, element) in [
        ("/channel/endpoint", json!("tel:5551234567"), "Subscription.channel.endpoint"),
        ("/channel/endpoint", json!("https://x.org/hook"), "Subscription.channel.endpoint"),
        ("/channel/payload", json!("application/fhir+json"), "Subscription.channel.payload"),
        ("/channel/_payload/extension/0/valueCode", json!("id-only"), "Subscription.channel.payload.extension"),
        ("/channel/header", json!(["X: y"]), "Subscription.channel.header"),
    ] {
        let mut body = by_sms();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        let answer = county.post("clinic", "Subscription", &body).await;
        assert_eq!((answer.status, answer.expression()), (422, element), "{pointer}: {}", answer.body);
    }
    let without = TestGateway::county().await.settled().await;
    let answer = without.post("clinic", "Subscription", &by_sms()).await;
    assert_eq!((answer.status, answer.expression()), (422, "Subscription.channel.type"), "{}", answer.body);
}
