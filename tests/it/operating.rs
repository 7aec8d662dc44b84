//! What keeps notifications going: replays, holds, endpoints that fail, sealed headers, and what operators see.

use std::time::Duration;

use loopgate::app::Owed;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Fault, HANDSHAKE, HOOK, TestGateway, county};
use crate::notifications::{heard, numbers, put, says, status, subscribed, subscription, up_to};
use crate::on_both;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn operation(county: &TestGateway, who: &str, id: &str, name: &str, query: &str) -> u16 {
    let path = format!("Subscription/{id}/${name}{query}");
    let input = json!({"resourceType": "Parameters"});
    county.post(who, &path, &input).await.status
}

// S-111: what lies in the database says nothing, whatever the key; and it is still sent.
on_both!(headers_are_sealed_in_the_database, async |place: Place| {
    let key = "0123456789abcdef".repeat(4);
    for settings in [county(), format!("[subscriptions]\nkey = \"{key}\"\n{}", county())] {
        let county = TestGateway::with(place_like(&place).await, &settings).await.settled().await;
        let id = subscribed(&county, "clinic", HOOK).await;
        let mut reader = county.store().await.read().await.unwrap();
        let one = reader.subscription(&id).await.unwrap().unwrap();
        assert!(one.headers.is_some() && !format!("{one:?}").contains("hush"), "{one:?}");
        let sent = county.world.letters().pop().unwrap();
        assert!(sent.headers.contains(&("Authorization".into(), "Bearer hush".into())));
    }
});

/// Another fresh database of the same kind.
async fn place_like(place: &Place) -> Place {
    if place.is_sqlite() { Place::sqlite() } else { Place::postgres().await.unwrap() }
}

// S-184, `$resend` of Backport 1.2.0: the numbers of before, in order, before what is new; by number or by time.
#[tokio::test]
async fn events_are_sent_again_when_asked_for() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let first = heard(&county, HOOK);
    let last = first.len() as i64;
    assert!(last >= 3 && first == up_to(last));
    assert_eq!(operation(&county, "clinic", &id, "resend", "?eventsSinceNumber=2&eventsUntilNumber=3").await, 200);
    county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    let all = heard(&county, HOOK);
    assert_eq!(all[first.len()..first.len() + 2], [2, 3]);
    assert_eq!(all[first.len() + 2], last + 1, "what is new comes after it, and none twice");
    assert_eq!(operation(&county, "root", &id, "resend", "?eventsSinceInstant=2020-01-01T00:00:00Z").await, 200);
    county.deliver_due().await;
    let again = heard(&county, HOOK);
    assert_eq!(again[all.len()..], up_to((again.len() - all.len()) as i64));
    for (who, query, expected) in [
        ("agency", "", 404),
        ("clinic", "?eventsSinceNumber=x", 400),
        ("clinic", "?eventsSinceInstant=soon", 400),
        ("clinic", "?eventsSinceNumber=999", 200),
    ] {
        assert_eq!(operation(&county, who, &id, "resend", query).await, expected, "{who} {query}");
    }
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK).len(), again.len());
}

// An operator holds a Subscription: counted, not sent; then all of it, in order.
#[tokio::test]
async fn a_held_subscription_counts_and_is_silent() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    assert_eq!(operation(&county, "clinic", &id, "pause", "").await, 403);
    assert_eq!(operation(&county, "agency", &id, "pause", "").await, 404);
    assert_eq!(operation(&county, "root", &id, "pause", "").await, 200);
    county.refers("sr1", "housing-instability").await;
    county.later(secs(60)).await;
    assert!(heard(&county, HOOK).is_empty());
    let counted = numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body);
    assert_eq!(counted, up_to(counted.len() as i64));
    let metrics = county.gateway.app.metrics().await.unwrap();
    let waiting = format!("loopgate_events_waiting{{status=\"held\"}} {}\n", counted.len());
    assert!(metrics.contains(&waiting), "nobody takes it for an endpoint that is slow: {metrics}");
    assert_eq!(operation(&county, "root", &id, "resume", "").await, 200);
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK), counted);
}

// Operators see how it stands: lag, last error, tries; a partner sees its own.
#[tokio::test]
async fn how_notifications_stand_can_be_seen() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    subscribed(&county, "agency", "https://agency.test/hook").await;
    county.world.fault(HOOK, &[Fault::Answer(503)]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let of = async |who: &str, path: &str| {
        let answer = county.get(who, &format!("Subscription/{path}$deliveries")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["parameter"].as_array().cloned().unwrap_or_default()
    };
    assert_eq!((of("root", "").await.len(), of("clinic", "").await.len(), of("kitchen", "").await.len()), (2, 1, 0));
    let one = of("root", &format!("{id}/")).await.remove(0);
    let part = |name: &str| {
        let parts = one["part"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == name).cloned().unwrap_or_default()
    };
    assert_ne!(part("waiting")["valueString"], "0");
    assert_eq!(part("last-error")["valueString"], "answered 503");
    assert_eq!(part("attempt")["part"][1]["valueCode"], "done", "the handshake was the first");
    assert!(part("next")["valueInstant"].is_string() && part("waiting-since")["valueInstant"].is_string());
    assert_eq!(county.get("clinic", &format!("Subscription/{id}/$deliveries")).await.status, 200);
    assert_eq!(county.get("agency", &format!("Subscription/{id}/$deliveries")).await.status, 404);
    let metrics = county.gateway.app.metrics().await.unwrap();
    for line in [
        "loopgate_subscriptions{status=\"active\"} 2",
        "loopgate_notification_attempts_total{outcome=\"failed\"} 1",
        "loopgate_events_waiting{status=\"active\"}",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

// S-106, S-168: a server that has failed three times in a row is left in peace; its last try is made all the same.
on_both!(a_server_that_fails_rests, async |place: Place| {
    let county = TestGateway::with(place, &county()).await.settled().await;
    let hooks: Vec<String> = (0..4).map(|number| format!("https://dead.test/hook/{number}")).collect();
    let mut ids = Vec::new();
    for hook in &hooks {
        ids.push(subscribed(&county, "clinic", hook).await);
    }
    let well = subscribed(&county, "clinic", HOOK).await;
    for hook in &hooks {
        county.world.down(hook);
    }
    let sent = |county: &TestGateway| county.world.requests().iter().filter(|one| one.contains("dead.test")).count();
    let before = sent(&county);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(sent(&county) - before, 3, "the fourth was not tried");
    assert!(!heard(&county, HOOK).is_empty(), "who is well hears at once");
    county.later(secs(5)).await;
    assert_eq!(sent(&county) - before, 3, "still resting");
    // One asks in the name of all, again and again; nobody is given up for what became of another.
    county.later(secs(30)).await;
    assert_eq!(sent(&county) - before, 4);
    let tried = async || {
        let mut tried = Vec::new();
        for id in &ids {
            let tries = county.gateway.app.attempts(Owed::Notify, id).await.unwrap();
            tried.push(tries.iter().filter(|one| one.outcome != "done").count());
        }
        tried
    };
    let mut rounds = 0;
    while tried().await.iter().any(|tried| *tried < 4) {
        assert_eq!(tried().await.iter().sum::<usize>(), sent(&county) - before, "what was not sent was no try");
        county.later(secs(120)).await;
        rounds += 1;
        assert!(rounds < 20, "somebody is never asked");
    }
    for id in &ids {
        assert_eq!(status(&county, "clinic", id).await, "error");
        let tries = county.gateway.app.attempts(Owed::Notify, id).await.unwrap();
        assert_eq!(tries.last().unwrap().outcome, "exhausted");
    }
    assert_eq!(status(&county, "clinic", &well).await, "active");
    // It is mended, and asked for anew while its server still rests: the handshake does not wait.
    county.world.up(&hooks[0]);
    assert_eq!(put(&county, &ids[0], "requested", &hooks[0]).await.status, 200);
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &ids[0]).await, "active");
});

// S-107: pauses are longer by up to so much, and each delivery's differently.
#[tokio::test]
async fn pauses_are_spread() {
    let settings = format!("[delivery]\nbackoff = [\"100s\", \"100s\"]\njitter = \"50%\"\n{}", county());
    let county = TestGateway::with(Place::sqlite(), &settings).await.settled().await;
    let mut next = Vec::new();
    for number in 0..3 {
        let hook = format!("https://h{number}.test/hook");
        let id = subscribed(&county, "clinic", &hook).await;
        county.world.fault(&hook, &[Fault::Answer(500)]);
        next.push(id);
    }
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let now = county.clock.now();
    let mut pauses = Vec::new();
    let mut reader = county.store().await.read().await.unwrap();
    for one in reader.underway(Some("clinic"), None, 9).await.unwrap() {
        pauses.push(one.due_at.unwrap().since(now));
    }
    assert!(pauses.iter().all(|pause| (secs(100)..=secs(150)).contains(pause)), "{pauses:?}");
    assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]), "{pauses:?}");
}

// S-086, G-002: XML, where it is asked for.
#[tokio::test]
async fn notifications_come_in_xml_where_it_is_asked_for() {
    let county = TestGateway::county().await.settled().await;
    let mut body = subscription(HOOK);
    body["channel"]["payload"] = json!("application/fhir+xml");
    assert_eq!(county.post("clinic", "Subscription", &body).await.status, 201);
    county.later(HANDSHAKE).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let letters = county.world.letters();
    let sent: Vec<_> = letters.iter().filter(|letter| letter.url == HOOK).collect();
    assert!(sent.len() >= 2);
    for letter in sent {
        assert!(letter.headers.contains(&("content-type".into(), "application/fhir+xml".into())), "S-101");
        let read = loopgate::fhir::xml::read(letter.body.as_ref().unwrap().as_bytes(), Default::default()).unwrap();
        assert_eq!(read["type"], "history");
        assert!(!says(&read, "events-since-subscription-start").is_empty(), "{read}");
    }
}

// S-180, S-183, S-184: what happens in error is counted, and comes again when asked for.
#[tokio::test]
async fn what_happened_in_error_is_not_lost() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    county.world.fault(HOOK, &[Fault::Answer(410)]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &id).await, "error");
    assert_eq!(operation(&county, "clinic", &id, "resend", "").await, 422, "asked for anew first");
    let missed: Vec<i64> = numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body);
    let mut body: Value = subscription(HOOK);
    body["id"] = json!(id);
    assert_eq!(county.put("clinic", &format!("Subscription/{id}"), &body).await.status, 200);
    county.deliver_due().await;
    assert!(heard(&county, HOOK).is_empty(), "D15a: not by itself");
    assert_eq!(operation(&county, "clinic", &id, "resend", "").await, 200);
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK), missed);
}
