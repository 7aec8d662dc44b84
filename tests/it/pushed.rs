//! Following partners by subscription: push tells when, the poll tells what, and nobody drifts when push fails.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::{PANTRY, TestGateway, county};
use crate::on_both;

/// The county, its pantry followed so.
async fn followed(place: Place, follow: &str) -> TestGateway {
    let settings = pantry_by(follow);
    assert!(settings.contains(&format!("follow = \"{follow}\"")));
    let county = TestGateway::with(place, &settings).await;
    county.world.at(PANTRY, |pantry| pantry.set_subscriptions(follow == "subscribe"));
    county.settled().await
}

/// Our Subscription at the pantry's server, if it stands there.
fn ours(county: &TestGateway) -> Option<Value> {
    county.world.at(PANTRY, |pantry| pantry.all("Subscription").last().map(|one| (*one).clone()))
}

fn secret(subscription: &Value) -> String {
    let header = subscription["channel"]["header"][0].as_str().unwrap();
    header.strip_prefix("Authorization: ").unwrap().to_string()
}

/// The pantry's server tells us something; the status of our answer.
async fn tells(county: &TestGateway, partner: &str, authorization: &str, body: &str) -> u16 {
    let format = if body.starts_with('<') { "xml" } else { "json" };
    let request =
        Request::post(format!("/hooks/{partner}")).header("content-type", format!("application/fhir+{format}"));
    let request = match authorization {
        "" => request,
        shown => request.header("authorization", shown),
    };
    let request = request.body(Body::from(body.to_string())).unwrap();
    county.gateway.router().oneshot(request).await.unwrap().status().as_u16()
}

fn notification(kind: &str, count: i64, events: &[i64]) -> String {
    let mut list = vec![
        json!({"name": "status", "valueCode": "active"}),
        json!({"name": "type", "valueCode": kind}),
        json!({"name": "events-since-subscription-start", "valueString": count.to_string()}),
    ];
    list.extend(events.iter().map(|number| {
        json!({"name": "notification-event", "part": [{"name": "event-number", "valueString": number.to_string()}]})
    }));
    let status = json!({"resource": {"resourceType": "Parameters", "parameter": list}});
    json!({"resourceType": "Bundle", "type": "history", "entry": [status]}).to_string()
}

/// How our Subscription is, as the operator's metrics tell it.
async fn state(county: &TestGateway) -> String {
    let metrics = county.gateway.app.metrics().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("loopgate_following{partner=\"pantry\"")).unwrap();
    line.split("state=\"").nth(1).unwrap().split('"').next().unwrap().to_string()
}

/// The pantry accepts what it was referred, at its own server; nobody tells us.
fn pantry_accepts(county: &TestGateway) {
    county.world.at(PANTRY, |pantry| {
        let id = pantry.all("Task").last().unwrap()["id"].as_str().unwrap().to_string();
        pantry.update("Task", &id, |task| task["status"] = json!("accepted"));
    });
}

fn searches(county: &TestGateway) -> usize {
    county.world.requests().iter().filter(|one| one.starts_with(&format!("GET {PANTRY}/Task?"))).count()
}

// S-169 ff., D15b: we subscribe with a secret; a notification brings the change at once, a repeat asks nobody.
// G-114
on_both!(a_notification_brings_the_change_at_once, async |place: Place| {
    let county = followed(place, "subscribe").await;
    let subscription = ours(&county).expect("we subscribed");
    assert_eq!(subscription["criteria"], "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task");
    assert_eq!(subscription["channel"]["endpoint"], "https://hub.test/hooks/pantry");
    assert_eq!(state(&county).await, "requested");
    let secret = secret(&subscription);
    assert_eq!(tells(&county, "pantry", &secret, &notification("handshake", 0, &[])).await, 200);
    assert_eq!(state(&county).await, "active");

    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    pantry_accepts(&county);
    county.clock.advance(Duration::from_secs(1));
    assert_eq!(tells(&county, "pantry", &secret, &notification("event-notification", 1, &[1])).await, 200);
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "in-progress");

    // Repeats and heartbeats that count nothing new cost no question; a heartbeat that counts more does.
    let asked = searches(&county);
    let in_xml = loopgate::fhir::xml::write(&serde_json::from_str(&notification("heartbeat", 1, &[])).unwrap());
    for body in [notification("event-notification", 1, &[1]), notification("heartbeat", 1, &[]), in_xml] {
        assert_eq!(tells(&county, "pantry", &secret, &body).await, 200);
        county.deliver_due().await;
    }
    assert_eq!(searches(&county), asked);
    assert_eq!(tells(&county, "pantry", &secret, &notification("heartbeat", 3, &[])).await, 200);
    county.deliver_due().await;
    assert_eq!(searches(&county), asked + 1, "two events were lost on the way");
});

/// The public kit's client suite: its mock server takes a Subscription without heartbeats, shakes hands, tells of an
/// event at each level of content, and looks at what it was sent and at our answers.
/// L-1.1.01, L-1.2.01, L-1.2.02, L-1.3.01, L-1.3.02, L-1.3.03
#[tokio::test]
async fn the_kits_mock_server_is_answered_as_it_checks() {
    let county = followed(Place::sqlite(), "subscribe").await;
    let sent = ours(&county).expect("L-1.1.01: a Subscription");
    let letters = county.world.letters();
    let letter = letters.iter().find(|one| one.method == "POST" && one.url.ends_with("/Subscription")).unwrap();
    let written: Value = serde_json::from_str(letter.body.as_deref().unwrap()).unwrap();
    assert_eq!(written["status"], "requested");
    assert_eq!(
        (&sent["channel"]["type"], &sent["channel"]["payload"]),
        (&json!("rest-hook"), &json!("application/fhir+json"))
    );
    assert!(sent["criteria"].as_str().unwrap().starts_with("http") && sent["reason"].is_string());
    assert!(!written.to_string().contains("heartbeat"), "its server refuses those");
    assert!(!written.to_string().contains("/5.0/"), "no extension of FHIR 5");
    let backport = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
    assert!(written["meta"]["profile"].to_string().contains(&format!("{backport}/backport-subscription")), "{written}");
    let found = loopgate::fhir::validate::examine(&written, loopgate::fhir::profile::Profiles::own());
    assert!(found.iter().all(|one| one.severity != loopgate::fhir::validate::Severity::Error), "L-1.3.01: {found:?}");

    let id = sent["id"].as_str().unwrap();
    let secret = secret(&sent);
    let told = |kind: &str, status: &str, count: usize, focus: Option<&str>, resource: Option<&Value>| {
        let mut list = vec![
            json!({"name": "subscription", "valueReference": {"reference": format!("{PANTRY}/Subscription/{id}")}}),
            json!({"name": "topic", "valueCanonical": sent["criteria"]}),
            json!({"name": "status", "valueCode": status}),
            json!({"name": "type", "valueCode": kind}),
            json!({"name": "events-since-subscription-start", "valueString": count.to_string()}),
        ];
        let mut entries = Vec::new();
        if kind == "event-notification" {
            let mut parts = vec![json!({"name": "event-number", "valueString": count.to_string()})];
            parts.extend(focus.map(|focus| json!({"name": "focus", "valueReference": {"reference": focus}})));
            list.push(json!({"name": "notification-event", "part": parts}));
        }
        let url = format!("{PANTRY}/Subscription/{id}/$status");
        entries.push(json!({"fullUrl": "urn:uuid:9601a07c-a34f-4945-93ca-6efb5394c995",
            "resource": {"resourceType": "Parameters", "id": "9601a07c", "meta": {"profile": [format!("{backport}/backport-subscription-status-r4")]}, "parameter": list},
            "request": {"method": "GET", "url": url}, "response": {"status": "200"}}));
        if let Some(focus) = focus {
            let mut entry =
                json!({"fullUrl": focus, "request": {"method": "PUT", "url": focus}, "response": {"status": "200"}});
            if let Some(resource) = resource {
                entry["resource"] = resource.clone();
            }
            entries.push(entry);
        }
        json!({"resourceType": "Bundle", "id": "n", "meta": {"profile": [format!("{backport}/backport-subscription-notification-r4")]},
            "type": "history", "timestamp": "2027-01-15T08:00:00Z", "entry": entries})
        .to_string()
    };
    assert_eq!(
        tells(&county, "pantry", &secret, &told("handshake", "requested", 0, None, None)).await,
        200,
        "L-1.2.01"
    );
    assert_eq!(state(&county).await, "active");
    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task").last().map(|one| (*one).clone())).unwrap();
    let focus = format!("{PANTRY}/Task/{}", theirs["id"].as_str().unwrap());
    // What a notification says is a hint: the Task is read, and a lie about it changes nothing.
    let mut lie = theirs.clone();
    lie["status"] = json!("completed");
    for (number, focus, resource) in
        [(1, None, None), (2, Some(focus.as_str()), None), (3, Some(focus.as_str()), Some(&lie))]
    {
        let asked = searches(&county);
        county.clock.advance(Duration::from_secs(1));
        let body = told("event-notification", "active", number, focus, resource);
        assert_eq!(tells(&county, "pantry", &secret, &body).await, 200, "L-1.2.02: {number}");
        county.deliver_due().await;
        assert_eq!(searches(&county), asked + 1, "L-1.3.03: {number}");
    }
    assert_ne!(county.status(&task).await, "completed");
    pantry_accepts(&county);
    county.clock.advance(Duration::from_secs(1));
    assert_eq!(
        tells(&county, "pantry", &secret, &told("event-notification", "active", 4, Some(&focus), None)).await,
        200
    );
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "in-progress", "L-1.3.02");
}

/// Whoever does not know the secret is told nothing and changes nothing.
#[tokio::test]
async fn only_who_knows_the_secret_is_heard() {
    let county = followed(Place::sqlite(), "subscribe").await;
    let secret = secret(&ours(&county).unwrap());
    let body = notification("event-notification", 1, &[1]);
    let asked = searches(&county);
    for (partner, shown) in [
        ("pantry", ""),
        ("pantry", "Bearer wrong"),
        ("pantry", "Basic abc"),
        ("clinic", &*secret),
        ("nobody", &*secret),
    ] {
        assert_eq!(tells(&county, partner, shown, &body).await, 401, "{partner} {shown}");
    }
    county.deliver_due().await;
    assert_eq!((searches(&county), state(&county).await), (asked, "requested".into()));
    // What can't be read counts as news: a classic notification is empty, and some are garbage.
    for body in ["", "{", "[]"] {
        assert_eq!(tells(&county, "pantry", &secret, body).await, 200);
    }
    county.deliver_due().await;
    assert_eq!(searches(&county), asked + 1, "one question answers them all");
}

/// A server that knows no topics gets a classic Subscription; one that takes none is polled, and asked again a day later.
#[tokio::test]
async fn a_server_gets_the_kind_it_takes() {
    let county = TestGateway::with(Place::sqlite(), &pantry_by("subscribe")).await;
    // The first requests of the round are the poll's and our POST's, in an order that is the worker's.
    county.world.at(PANTRY, |pantry| pantry.set_subscriptions(true));
    county.world.refuse(PANTRY, "POST", "Subscription", &[422]);
    county.deliver_due().await;
    assert_eq!(ours(&county).unwrap()["criteria"], "Task?requester=https://hub.test/fhir/Organization/hub");

    let county = TestGateway::with(Place::sqlite(), &pantry_by("subscribe")).await;
    county.world.at(PANTRY, |pantry| pantry.set_subscriptions(true));
    county.world.refuse(PANTRY, "POST", "Subscription", &[422, 404]);
    county.deliver_due().await;
    assert_eq!((ours(&county), state(&county).await), (None, "refused".into()));
    county.later(Duration::from_secs(25 * 3600)).await;
    assert!(ours(&county).is_some(), "by now it takes one");
}

fn pantry_by(follow: &str) -> String {
    let base = format!("base = \"{PANTRY}\", follow = \"poll\"");
    county().replace(&base, &format!("base = \"{PANTRY}\", follow = \"{follow}\""))
}

/// `auto`: no Subscription where the CapabilityStatement offers none.
#[tokio::test]
async fn auto_polls_where_nothing_is_offered() {
    let county = followed(Place::sqlite(), "auto").await;
    assert_eq!((ours(&county), state(&county).await), (None, "refused".into()));
    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    pantry_accepts(&county);
    county.later(Duration::from_secs(3700)).await;
    assert_eq!(county.status(&task).await, "in-progress");
    county.world.at(PANTRY, |pantry| pantry.set_subscriptions(true));
    county.later(Duration::from_secs(25 * 3600)).await;
    assert!(ours(&county).is_some(), "offered by now");
}

/// Push that stops is found out by the poll below it, is looked into, and counts again when something is heard.
#[tokio::test]
async fn silence_is_found_out_and_ends() {
    let county = followed(Place::sqlite(), "subscribe").await;
    let secret = secret(&ours(&county).unwrap());
    tells(&county, "pantry", &secret, &notification("handshake", 0, &[])).await;
    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    county.later(Duration::from_secs(60)).await;
    pantry_accepts(&county);
    county.later(Duration::from_secs(3700)).await;
    assert_eq!(county.status(&task).await, "in-progress", "the poll is the net below");
    assert_eq!(state(&county).await, "silent");
    assert!(county.world.requests().iter().any(|one| one.starts_with(&format!("GET {PANTRY}/Subscription/"))));
    assert_eq!(tells(&county, "pantry", &secret, &notification("event-notification", 2, &[2])).await, 200);
    assert_eq!(state(&county).await, "active");
}

/// A Subscription that its server has switched off is switched on; one that has gone is made anew, and counts anew.
#[tokio::test]
async fn a_subscription_that_ended_there_begins_again() {
    let county = followed(Place::sqlite(), "subscribe").await;
    let first = ours(&county).unwrap();
    tells(&county, "pantry", &secret(&first), &notification("event-notification", 7, &[7])).await;
    let id = first["id"].as_str().unwrap().to_string();
    county.world.at(PANTRY, |pantry| pantry.update("Subscription", &id, |one| one["status"] = json!("error")));
    county.later(Duration::from_secs(25 * 3600)).await;
    assert_eq!(ours(&county).unwrap()["status"], "requested");

    county.world.refuse(PANTRY, "GET", "Subscription", &[410]);
    county.later(Duration::from_secs(25 * 3600)).await;
    let second = ours(&county).unwrap();
    assert_ne!(second["id"], first["id"]);
    let asked = searches(&county);
    tells(&county, "pantry", &secret(&second), &notification("event-notification", 1, &[1])).await;
    county.deliver_due().await;
    assert_eq!(searches(&county), asked + 1, "number 1 is news again");

    // Its server says itself that it is in trouble: we look at once.
    let looks =
        || county.world.requests().iter().filter(|one| one.contains("GET") && one.contains("/Subscription/")).count();
    let before = looks();
    let ailing = notification("event-notification", 2, &[2]).replace("\"active\"", "\"error\"");
    tells(&county, "pantry", &secret(&second), &ailing).await;
    county.deliver_due().await;
    assert_eq!(looks(), before + 1);
}

/// A server that is away is tried again for as long as it is configured, and asked no more often for our restarts.
#[tokio::test]
async fn a_server_that_is_away_is_subscribed_to_when_it_is_back() {
    let mut county = TestGateway::with(Place::sqlite(), &pantry_by("subscribe")).await;
    county.world.at(PANTRY, |pantry| pantry.set_subscriptions(true));
    county.world.down(PANTRY);
    county.deliver_due().await;
    for _ in 0..12 {
        county.later(Duration::from_secs(12 * 3600)).await;
    }
    assert_eq!(state(&county).await, "wanted");
    county.world.up(PANTRY);
    county.later(Duration::from_secs(25 * 3600)).await;
    let posts = |county: &TestGateway| {
        county.world.requests().iter().filter(|one| **one == format!("POST {PANTRY}/Subscription")).count()
    };
    assert!(ours(&county).is_some());
    let before = (posts(&county), county.world.requests().iter().filter(|one| one.contains("/Subscription/")).count());
    for _ in 0..3 {
        county.restart().await;
        county.deliver_due().await;
    }
    let after = (posts(&county), county.world.requests().iter().filter(|one| one.contains("/Subscription/")).count());
    assert_eq!(after, before);
}

// A Subscription that we may not look at is not made again each day.
#[tokio::test]
async fn a_subscription_that_can_not_be_read_stands() {
    for status in [403, 405] {
        let county = followed(Place::sqlite(), "subscribe").await;
        let made = |county: &TestGateway| county.world.at(PANTRY, |pantry| pantry.all("Subscription").len());
        assert_eq!(made(&county), 1);
        county.world.refuse(PANTRY, "GET", "Subscription/", &[status; 20]);
        for _ in 0..4 {
            county.later(Duration::from_secs(86_400)).await;
        }
        assert_eq!(made(&county), 1, "{status}");
        let secret = secret(&ours(&county).unwrap());
        assert_eq!(tells(&county, "pantry", &secret, &notification("event-notification", 1, &[1])).await, 200);
        assert_eq!(state(&county).await, "active");
    }
}

// A server that was set back counts events anew: what it tells looks like repeats until a poll finds it out, or until it
// shakes hands.
#[tokio::test]
async fn events_that_are_counted_anew_are_heard_again() {
    for shakes_hands in [false, true] {
        let county = followed(Place::sqlite(), "subscribe").await;
        let secret = secret(&ours(&county).unwrap());
        let told = async |kind: &str, count: i64| {
            let events = if count > 0 { vec![count] } else { vec![] };
            assert_eq!(tells(&county, "pantry", &secret, &notification(kind, count, &events)).await, 200);
            county.deliver_due().await;
        };
        told("handshake", 0).await;
        told("event-notification", 500).await;
        let task = county.refers("r1", "food-insecurity").await;
        county.deliver_due().await;
        county.later(Duration::from_secs(3_600)).await;
        county.later(Duration::from_secs(600)).await;
        let mut number = 1;
        if shakes_hands {
            told("handshake", 0).await;
        } else {
            // Nothing but that number is told of it.
            pantry_accepts(&county);
            told("event-notification", number).await;
            county.later(Duration::from_secs(3_600)).await;
            assert_eq!(county.status(&task).await, "in-progress", "the net below has it");
            assert_eq!(state(&county).await, "silent");
            number += 1;
        }
        county.later(Duration::from_secs(60)).await;
        let task = county.refers("r2", "food-insecurity").await;
        county.deliver_due().await;
        county.clock.advance(Duration::from_secs(5));
        county.world.tell_time(&county.clock.now().to_string());
        pantry_accepts(&county);
        told("event-notification", number).await;
        assert_eq!(county.status(&task).await, "in-progress", "shakes hands: {shakes_hands}");
        assert_eq!(state(&county).await, "active");
    }
}
