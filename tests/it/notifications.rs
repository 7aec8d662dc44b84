//! Subscriptions as a subscriber lives them: handshake, numbered events, refusals, and what a house may learn.

use std::time::Duration;

use loopgate::app::{Busy, Owed, Visit};
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, EHR, Fault, HANDSHAKE, HOOK, TestGateway, county as partners};

const TOPIC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task";
const CONTENT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content";
const OTHER_HOOK: &str = "https://agency.test/hook";

/// A Subscription to Tasks, id-only.
pub fn subscription(hook: &str) -> Value {
    json!({"resourceType": "Subscription", "status": "requested", "reason": "to know", "criteria": TOPIC,
        "channel": {"type": "rest-hook", "endpoint": hook, "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": CONTENT, "valueCode": "id-only"}]},
            "header": ["Authorization: Bearer hush", "X-Place: here"]}})
}

/// It, taken in and shaken hands with; its id.
pub async fn subscribed(county: &TestGateway, partner: &str, hook: &str) -> String {
    let answer = county.post(partner, "Subscription", &subscription(hook)).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (201, Some("requested")), "{}", answer.body);
    county.later(HANDSHAKE).await;
    answer.id()
}

/// A notification's status.
pub fn parameters(bundle: &Value) -> Vec<Value> {
    bundle["entry"][0]["resource"]["parameter"].as_array().cloned().unwrap()
}

/// A parameter of a notification's status.
pub fn says(bundle: &Value, name: &str) -> String {
    let all = parameters(bundle);
    let one = all.iter().find(|one| one["name"] == name).cloned().unwrap_or_default();
    let value = one.as_object().and_then(|one| one.iter().find(|(name, _)| name.starts_with("value")));
    value.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_string()
}

/// The event numbers of a notification.
pub fn numbers(bundle: &Value) -> Vec<i64> {
    let number = |part: &Value| part["part"][0]["valueString"].as_str().unwrap().parse().unwrap();
    parameters(bundle).iter().filter(|one| one["name"] == "notification-event").map(number).collect()
}

/// The numbers that arrived at a hook, in order of arrival.
pub fn heard(county: &TestGateway, hook: &str) -> Vec<i64> {
    county.world.heard(hook).iter().flat_map(numbers).collect()
}

/// What a notification is about.
pub fn foci(bundle: &Value) -> Vec<String> {
    let entries = bundle["entry"].as_array().unwrap();
    entries.iter().skip(1).map(|entry| entry["fullUrl"].as_str().unwrap().to_string()).collect()
}

/// A Subscription's status.
pub async fn status(county: &TestGateway, partner: &str, id: &str) -> String {
    let answer = county.get(partner, &format!("Subscription/{id}")).await;
    answer.body["status"].as_str().unwrap_or_default().to_string()
}

/// The clinic updates its Subscription.
pub async fn put(county: &TestGateway, id: &str, status: &str, hook: &str) -> Answered {
    let mut body = subscription(hook);
    body["id"] = json!(id);
    body["status"] = json!(status);
    county.put("clinic", &format!("Subscription/{id}"), &body).await
}

/// 1, 2, 3 …
pub fn up_to(last: i64) -> Vec<i64> {
    (1..=last).collect()
}

// S-010, S-021, S-051, S-052, S-055, S-056, S-085, S-100
// S-020…S-023, S-036, G-127, G-128, D15: the whole life of one subscription that goes well.
// G-111, G-115, G-126, G-109
#[tokio::test]
async fn a_subscriber_is_told_each_step_once_and_in_order() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    let handshake = county.world.heard(HOOK).remove(0);
    assert_eq!(says(&handshake, "type"), "handshake");
    assert_eq!(says(&handshake, "status"), "requested");
    assert_eq!(says(&handshake, "events-since-subscription-start"), "0");
    assert_eq!(status(&county, "clinic", &id).await, "active");

    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    for step in ["accepted", "completed"] {
        county.answers("agency", &relayed, step).await;
        county.deliver_due().await;
    }
    let all = county.world.heard(HOOK);
    let heard = heard(&county, HOOK);
    assert!(heard.len() >= 3);
    assert_eq!(heard, up_to(heard.len() as i64));
    for bundle in &all[1..] {
        assert_eq!((says(bundle, "type"), says(bundle, "status")), ("event-notification".into(), "active".into()));
        assert_eq!(says(bundle, "events-since-subscription-start"), numbers(bundle).last().unwrap().to_string());
        assert_eq!(foci(bundle), [format!("https://hub.test/fhir/Task/{task}")]);
        assert_eq!(bundle["type"], "history");
        for entry in bundle["entry"].as_array().unwrap() {
            assert!(entry["request"]["method"].is_string() && entry["response"]["status"].is_string(), "{entry}");
        }
        assert!(bundle["entry"].as_array().unwrap()[1..].iter().all(|entry| entry.get("resource").is_none()));
    }
    let letters = county.world.letters();
    let letters: Vec<_> = letters.iter().filter(|letter| letter.url == HOOK).collect();
    for letter in letters {
        for header in [("Authorization", "Bearer hush"), ("X-Place", "here"), ("content-type", "application/fhir+json")]
        {
            assert!(letter.headers.contains(&(header.0.to_string(), header.1.to_string())), "S-101, S-102: {letter:?}");
        }
    }
    // The notification is the evidence that the source knows; no read is needed.
    assert_eq!(county.level(&task).await.0, "L4");
}

// S-111: headers are secrets, shown to their creator once and to nobody after.
#[tokio::test]
async fn headers_are_never_read_back() {
    let county = TestGateway::county().await.settled().await;
    let answer = county.post("clinic", "Subscription", &subscription(HOOK)).await;
    assert_eq!(answer.body["channel"]["header"][0], "Authorization: Bearer hush", "S-022");
    let id = answer.id();
    county.later(HANDSHAKE).await;
    for who in ["clinic", "root", "desk", "agency"] {
        for path in ["", "/_history", "/_history/1", "/_history/2", "/$status", "/$events"] {
            let read = county.get(who, &format!("Subscription/{id}{path}")).await;
            assert!(!read.body.to_string().contains("hush"), "{who} {path}");
        }
        assert!(!county.get(who, "Subscription").await.body.to_string().contains("hush"));
    }
    // Nor is it in the database.
    let url = county.gateway.app.config().store.url.expose().to_string();
    let file = url.strip_prefix("sqlite://").unwrap();
    let mut stored = Vec::new();
    for end in ["", "-wal"] {
        stored.extend(std::fs::read(format!("{file}{end}")).unwrap_or_default());
    }
    let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&id) && !holds("hush"));
    // What was read and is PUT back keeps the headers.
    let mut read = county.get("clinic", &format!("Subscription/{id}")).await.body;
    read["status"] = json!("requested");
    let put = county.put("clinic", &format!("Subscription/{id}"), &read).await;
    assert!(put.status == 200 && !put.body.to_string().contains("hush"), "{}", put.body);
    county.deliver_due().await;
    let last = county.world.letters().pop().unwrap();
    assert!(last.headers.contains(&("Authorization".into(), "Bearer hush".into())));
    let foreign = county.put("agency", &format!("Subscription/{id}"), &read).await;
    assert!(matches!(foreign.status, 404 | 405), "{}", foreign.status);
}

// S-061, S-160
// D11, D15a: each house hears of its own Tasks and of nothing else; drafts and bare grants are no events.
// G-131
#[tokio::test]
async fn each_house_hears_of_its_own_tasks_only() {
    let county = TestGateway::county().await.settled().await;
    subscribed(&county, "clinic", HOOK).await;
    let theirs = subscribed(&county, "agency", OTHER_HOOK).await;
    subscribed(&county, "kitchen", "https://kitchen.test/hook").await;
    let mut draft = county.referral("sr0", "housing-instability", Some("Organization/hub"));
    draft["status"] = json!("draft");
    assert_eq!(county.post("clinic", "Task", &draft).await.status, 201);
    county.deliver_due().await;
    assert!(heard(&county, HOOK).is_empty(), "G-116: a draft is no event");
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.deliver_due().await;
    for bundle in county.world.heard(OTHER_HOOK).iter().skip(1) {
        assert_eq!(foci(bundle), [format!("https://hub.test/fhir/Task/{relayed}")]);
    }
    let number = heard(&county, OTHER_HOOK);
    assert!(!number.is_empty());
    assert_eq!(number, up_to(number.len() as i64));
    assert_eq!(county.world.heard("https://kitchen.test/hook").len(), 1, "the handshake and nothing more");
    for bundle in county.world.heard(HOOK).iter().skip(1) {
        assert_eq!(foci(bundle), [format!("https://hub.test/fhir/Task/{task}")]);
    }
    for path in [
        format!("Subscription/{theirs}"),
        format!("Subscription/{theirs}/$events"),
        format!("Subscription/{theirs}/$status"),
    ] {
        assert_eq!(county.get("clinic", &path).await.status, 404, "{path}");
    }
}

// S-060
// Two subscriptions to one Task count apart.
#[tokio::test]
async fn two_subscriptions_count_apart() {
    let county = TestGateway::county().await.settled().await;
    subscribed(&county, "clinic", HOOK).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let before = heard(&county, HOOK).len() as i64;
    subscribed(&county, "clinic", OTHER_HOOK).await;
    county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    let (one, other) = (heard(&county, HOOK), heard(&county, OTHER_HOOK));
    assert_eq!(one, up_to(one.len() as i64));
    assert_eq!(other, up_to(one.len() as i64 - before));
}

// S-108, S-126, S-130
// D15a, S-107…S-110: a failing hook is tried as configured, then `error`; counting goes on; a PUT reactivates.
// G-126, G-129, G-119
#[tokio::test]
async fn a_failing_hook_ends_in_error_and_comes_back_by_put() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    county.world.fault(HOOK, &[Fault::Answer(500), Fault::LoseRequest, Fault::Answer(401), Fault::Answer(302)]);
    let task = county.refers("sr1", "housing-instability").await;
    for pause in [0, 5, 30] {
        county.later(Duration::from_secs(pause)).await;
        assert_eq!(status(&county, "clinic", &id).await, "active");
    }
    county.later(Duration::from_secs(120)).await;
    assert_eq!(status(&county, "clinic", &id).await, "error");
    assert!(heard(&county, HOOK).is_empty());
    let tries = county.gateway.app.attempts(Owed::Notify, &id).await.unwrap();
    assert_eq!(tries.iter().filter(|one| one.outcome != "done").count(), 4, "{tries:?}");

    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.later(Duration::from_secs(86_400)).await;
    assert_eq!(county.world.heard(HOOK).len(), 1, "nothing is pushed while in error");
    let events = county.get("clinic", &format!("Subscription/{id}/$events")).await;
    let missed = numbers(&events.body);
    assert_eq!(missed, up_to(missed.len() as i64), "S-110: the backlog is kept");
    let standing = county.get("clinic", &format!("Subscription/{id}/$status")).await;
    let text = standing.body.to_string();
    assert!(text.contains("\"error\"") && text.contains(&format!("\"{}\"", missed.len())), "{text}");

    assert_eq!(put(&county, &id, "active", HOOK).await.status, 200);
    county.deliver_due().await;
    let handshake = county.world.heard(HOOK).pop().unwrap();
    assert_eq!(says(&handshake, "type"), "handshake");
    assert_eq!(says(&handshake, "events-since-subscription-start"), missed.len().to_string());
    assert_eq!(status(&county, "clinic", &id).await, "active");
    county.answers("agency", &relayed, "completed").await;
    county.deliver_due().await;
    let next = heard(&county, HOOK);
    assert_eq!(next[0], missed.len() as i64 + 1, "the sequence goes on: {next:?}");
    let part =
        county.get("clinic", &format!("Subscription/{id}/$events?eventsSinceNumber=2&eventsUntilNumber=3")).await;
    assert_eq!(numbers(&part.body), [2, 3]);
}

// S-107
// D15a: 410 is an answer for good; Retry-After replaces the next pause.
#[tokio::test]
async fn a_hook_that_is_gone_is_in_error_at_once_and_a_busy_one_is_waited_for() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    county.world.fault(HOOK, &[Fault::Say(429, &[("retry-after", "77")], "")]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.later(Duration::from_secs(76)).await;
    assert!(heard(&county, HOOK).is_empty());
    county.later(Duration::from_secs(1)).await;
    assert!(!heard(&county, HOOK).is_empty());
    county.world.fault(HOOK, &[Fault::Answer(410)]);
    county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &id).await, "error");
    // A handshake that is refused for good, too.
    county.world.fault(OTHER_HOOK, &[Fault::Answer(410)]);
    let other = subscribed(&county, "agency", OTHER_HOOK).await;
    assert_eq!(status(&county, "agency", &other).await, "error");
}

// S-109: an answer lost after the hook took it: told again, with the same numbers.
#[tokio::test]
async fn a_notification_told_twice_has_the_same_numbers() {
    let county = TestGateway::county().await.settled().await;
    subscribed(&county, "clinic", HOOK).await;
    county.world.fault(HOOK, &[Fault::LoseAnswer]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let first = numbers(&county.world.heard(HOOK)[1]);
    county.later(Duration::from_secs(5)).await;
    let again = county.world.heard(HOOK);
    let told: Vec<i64> = again[2..].iter().flat_map(numbers).collect();
    assert_eq!(told[..first.len()], first);
    assert_eq!(told, up_to(told.len() as i64));
}

// S-037, S-038: off and delete stop at once, also what is under way and what is still to be tried again.
#[tokio::test]
async fn off_and_delete_stop_at_once() {
    for delete in [false, true] {
        let county = TestGateway::county().await.settled().await;
        let id = subscribed(&county, "clinic", HOOK).await;
        county.world.fault(HOOK, &[Fault::Answer(500)]);
        county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        let path = format!("Subscription/{id}");
        if delete {
            assert!(matches!(county.ask("clinic", "DELETE", &path, None, &[]).await.status, 200 | 204));
            assert_eq!(county.get("clinic", &path).await.status, 410);
        } else {
            assert_eq!(put(&county, &id, "off", HOOK).await.status, 200);
            assert_eq!(status(&county, "clinic", &id).await, "off");
        }
        county.refers("sr2", "housing-instability").await;
        county.later(Duration::from_secs(3_600)).await;
        assert_eq!(county.world.heard(HOOK).len(), 1, "delete: {delete}");
    }
}

// S-050
// The answer to a handshake that arrives after the subscriber has changed its mind changes nothing.
#[tokio::test]
async fn a_late_answer_does_not_wake_a_subscription_that_was_switched_off() {
    for act in ["off", "delete", "elsewhere"] {
        let county = TestGateway::county().await.settled().await;
        let id = county.post("clinic", "Subscription", &subscription(HOOK)).await.id();
        county.clock.advance(HANDSHAKE);
        let app = &county.gateway.app;
        let claimed = app.claim(1, &Busy::default()).await.unwrap().remove(0);
        let mut visit = Visit::default();
        let plan = app.notify_plan(&claimed, &mut visit).await.unwrap().unwrap();
        match act {
            "off" => assert_eq!(put(&county, &id, "off", HOOK).await.status, 200),
            "elsewhere" => assert_eq!(put(&county, &id, "requested", OTHER_HOOK).await.status, 200),
            _ => drop(county.ask("clinic", "DELETE", &format!("Subscription/{id}"), None, &[]).await),
        }
        visit.took(plan);
        app.notified(&claimed, visit).await.unwrap();
        county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        assert!(county.world.heard(HOOK).is_empty(), "{act}");
        match act {
            "off" => assert_eq!(status(&county, "clinic", &id).await, "off"),
            "elsewhere" => {
                let first = county.world.heard(OTHER_HOOK).remove(0);
                assert_eq!(says(&first, "type"), "handshake", "a new endpoint shakes hands first");
            }
            _ => assert!(county.world.heard(OTHER_HOOK).is_empty()),
        }
    }
}

// The same for a last try that fails after the subscriber has switched off, or asked anew.
#[tokio::test]
async fn a_late_failure_does_not_stop_a_subscription_that_was_asked_for_anew() {
    for act in ["off", "requested"] {
        let county = TestGateway::county().await.settled().await;
        let id = county.post("clinic", "Subscription", &subscription(HOOK)).await.id();
        county.clock.advance(HANDSHAKE);
        let app = &county.gateway.app;
        let claimed = app.claim(1, &Busy::default()).await.unwrap().remove(0);
        put(&county, &id, act, OTHER_HOOK).await;
        app.gone(&claimed, "answered 410").await.unwrap();
        county.deliver_due().await;
        let expected = if act == "off" { "off" } else { "active" };
        assert_eq!(status(&county, "clinic", &id).await, expected);
    }
}

// D15a: an event between the handshake and its answer is told after it.
#[tokio::test]
async fn an_event_during_the_handshake_is_not_skipped() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    put(&county, &id, "requested", HOOK).await;
    let app = &county.gateway.app;
    let claimed = app.claim(1, &Busy::default()).await.unwrap().remove(0);
    let mut visit = Visit::default();
    let plan = app.notify_plan(&claimed, &mut visit).await.unwrap().unwrap();
    county.refers("sr1", "housing-instability").await;
    visit.took(plan);
    app.notified(&claimed, visit).await.unwrap();
    county.deliver_due().await;
    let told = heard(&county, HOOK);
    assert!(!told.is_empty() && told == up_to(told.len() as i64), "{told:?}");
}

// S-042: a limit, also for those that were switched off and on again.
#[tokio::test]
async fn a_partner_has_as_many_subscriptions_as_configured() {
    let settings = format!("[subscriptions]\nper_partner = 2\n{}", partners());
    let county = TestGateway::with(Place::sqlite(), &settings).await.settled().await;
    let first = subscribed(&county, "clinic", HOOK).await;
    subscribed(&county, "clinic", HOOK).await;
    let third = county.post("clinic", "Subscription", &subscription(HOOK)).await;
    assert_eq!((third.status, third.expression()), (422, "Subscription"));
    assert_eq!(county.post("agency", "Subscription", &subscription(HOOK)).await.status, 201, "others have their own");
    assert_eq!(put(&county, &first, "off", HOOK).await.status, 200);
    assert_eq!(county.post("clinic", "Subscription", &subscription(HOOK)).await.status, 201);
    assert_eq!(put(&county, &first, "requested", HOOK).await.status, 422, "on again, beyond the limit");
}

// S-209
// S-040: after its end nothing is counted and nothing sent.
#[tokio::test]
async fn a_subscription_ends_at_its_end() {
    let county = TestGateway::county().await.settled().await;
    let mut body = subscription(HOOK);
    body["end"] = json!(county.clock.now().plus(Duration::from_secs(60)).to_string());
    let id = county.post("clinic", "Subscription", &body).await.id();
    county.later(HANDSHAKE).await;
    county.later(Duration::from_secs(58)).await;
    assert_eq!(status(&county, "clinic", &id).await, "active");
    county.later(Duration::from_secs(2)).await;
    assert_eq!(status(&county, "clinic", &id).await, "off", "S-040: nobody has to do anything for it");
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(county.world.heard(HOOK).len(), 1);
    body["end"] = json!("2020-12-31T00:00:00Z");
    let past = county.post("clinic", "Subscription", &body).await;
    assert_eq!((past.status, past.expression()), (422, "Subscription.end"));
}

// S-030, S-164
// S-024…S-035: what can't be served is refused and nothing is stored.
// G-125
#[tokio::test]
async fn what_cannot_be_served_is_refused() {
    let county = TestGateway::county().await.settled().await;
    for (pointer, value) in [
        ("/criteria", json!("Task?colour=red")),
        ("/channel/type", json!("message")),
        ("/channel/endpoint", json!("ehr.test/hook")),
        ("/channel/endpoint", json!("http://ehr.test/hook")),
        ("/channel/payload", json!("text/plain")),
        ("/channel/header/0", json!("Content-Length: 0")),
        ("/channel/header/0", json!("X: a\r\nHost: b")),
        ("/channel/_payload/extension/0/valueCode", json!("everything")),
        ("/status", json!("off")),
        ("/reason", Value::Null),
    ] {
        let mut body = subscription(HOOK);
        *body.pointer_mut(pointer).unwrap() = value;
        if pointer == "/reason" {
            body.as_object_mut().unwrap().remove("reason");
        }
        let answer = county.post("clinic", "Subscription", &body).await;
        assert!(matches!(answer.status, 400 | 422), "{pointer}: {}", answer.status);
        assert_eq!(answer.body["resourceType"], "OperationOutcome");
    }
    assert!(county.get("clinic", "Subscription").await.entries().is_empty());
    assert!(county.world.requests().iter().all(|request| request.contains(EHR) || !request.contains("hook")));
}

// who has a secret gets signed what it gets, over the bytes that it gets; the same again under the same id.
#[tokio::test]
async fn notifications_are_signed_where_a_secret_is_agreed() {
    let secret = "fhir = { base = \"https://ehr.test/fhir\"";
    let signed = partners().replacen(
        secret,
        &format!("webhook_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n{secret}"),
        1,
    );
    assert_ne!(signed, partners());
    let county = TestGateway::with(Place::sqlite(), &signed).await;
    subscribed(&county, "clinic", HOOK).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let letters: Vec<_> = county.world.letters().into_iter().filter(|letter| letter.url == HOOK).collect();
    assert!(letters.len() >= 2);
    let mut ids = Vec::new();
    for letter in &letters {
        let header =
            |name: &str| letter.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let (id, time) = (header("webhook-id").unwrap(), header("webhook-timestamp").unwrap());
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &KEY);
        let said = format!("{id}.{time}.{}", letter.body.as_deref().unwrap());
        let tag = header("webhook-signature").unwrap().strip_prefix("v1,").unwrap();
        let tag = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, tag).unwrap();
        aws_lc_rs::hmac::verify(&key, said.as_bytes(), &tag).expect("signed");
        assert_eq!(header("Authorization"), Some("Bearer hush"), "beside its own");
        ids.push(id.to_string());
    }
    ids.dedup();
    assert_eq!(ids.len(), letters.len());
}

/// The bytes of the secret above.
const KEY: [u8; 24] = [
    0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4, 0x3c, 0x3f, 0x08, 0x2c, 0xf6, 0x48, 0xa3,
    0x62, 0xda, 0x2d, 0xa4, 0xb0,
];
