//! What a subscriber can ask for: topics, filters, content levels, batches, heartbeats, older encodings, and `$status`.

mod asking;
mod topics;

use std::time::Duration;

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{BASE, EHR, Fault, HANDSHAKE, HOOK, TestGateway, county};
use crate::notifications::{foci, heard, numbers, parameters, put, says, status, subscribed, subscription, up_to};
use crate::on_both;

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
const GUIDE: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic";
const OURS: &str = "https://loopgate.org/fhir/SubscriptionTopic";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn about(topic: &str, hook: &str, filters: &[&str], content: &str) -> Value {
    let mut body = subscription(hook);
    body["criteria"] = json!(topic);
    body["channel"]["_payload"]["extension"][0]["valueCode"] = json!(content);
    let url = format!("{BACKPORT}/backport-filter-criteria");
    let filters: Vec<Value> = filters.iter().map(|one| json!({"url": url, "valueString": one})).collect();
    if !filters.is_empty() {
        body["_criteria"] = json!({"extension": filters});
    }
    body
}

fn wishing(name: &str, value: u32) -> Value {
    let mut body = subscription(HOOK);
    let kind = if name == "backport-max-count" { "valuePositiveInt" } else { "valueUnsignedInt" };
    body["channel"]["extension"] = json!([{"url": format!("{BACKPORT}/{name}"), kind: value}]);
    body
}

async fn taken(county: &TestGateway, who: &str, body: &Value) -> String {
    let answer = county.post(who, "Subscription", body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    county.later(HANDSHAKE).await;
    answer.id()
}

fn events(county: &TestGateway, hook: &str) -> Vec<Value> {
    let all = county.world.heard(hook);
    all.into_iter().filter(|bundle| says(bundle, "type") == "event-notification").collect()
}

// S-082, S-102, D11: full-resource carries the Task as it is, with absolute references; the disclosure is on record.
#[tokio::test]
async fn a_full_notification_carries_the_resource_and_is_on_record() {
    let county = TestGateway::county().await.settled().await;
    let topic = format!("{GUIDE}/Task");
    taken(&county, "clinic", &about(&topic, HOOK, &[], "full-resource")).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let told = events(&county, HOOK);
    let last = told.last().unwrap();
    assert_eq!(says(last, "topic"), topic);
    let entry = &last["entry"][1];
    assert_eq!((&entry["resource"]["id"], &entry["fullUrl"]), (&json!(task), &json!(format!("{BASE}/Task/{task}"))));
    let requester = entry["resource"]["requester"]["reference"].as_str().unwrap();
    assert!(requester.starts_with(BASE), "D12a: {requester}");
    let mut reader = county.store().await.read().await.unwrap();
    let key = loopgate::fhir::Key::new(loopgate::fhir::ResourceType::TASK, task.as_str());
    let seen = reader.accesses(&key).await.unwrap();
    assert!(seen.iter().any(|(_, who, action, _)| who == "clinic" && action == "notify"), "S-170: {seen:?}");
}

// S-087, G-127: no more than asked for in one Bundle; all of them come, in order.
#[tokio::test]
async fn a_batch_is_no_larger_than_asked_for() {
    let county = TestGateway::county().await.settled().await;
    taken(&county, "clinic", &wishing("backport-max-count", 2)).await;
    county.world.fault(HOOK, &[Fault::Answer(503)]);
    for number in 0..3 {
        county.refers(&format!("sr{number}"), "housing-instability").await;
    }
    county.deliver_due().await;
    county.later(secs(5)).await;
    let told = events(&county, HOOK);
    assert!(told.iter().all(|bundle| numbers(bundle).len() <= 2), "{told:?}");
    assert!(told.iter().any(|bundle| numbers(bundle).len() == 2));
    let all = heard(&county, HOOK);
    assert!(all.len() >= 6 && all == up_to(all.len() as i64), "{all:?}");
}

// S-104, S-105, D15a: after so much silence, and only where it was asked for; never more often than every ten seconds.
#[tokio::test]
async fn a_heartbeat_comes_after_silence_and_only_if_asked_for() {
    for (asked, every) in [(60, 60), (1, 10)] {
        let county = TestGateway::county().await.settled().await;
        let id = taken(&county, "clinic", &wishing("backport-heartbeat-period", asked)).await;
        subscribed(&county, "clinic", "https://silent.test/hook").await;
        let beats = || county.world.heard(HOOK).iter().filter(|bundle| says(bundle, "type") == "heartbeat").count();
        let read = county.get("clinic", &format!("Subscription/{id}")).await.body;
        assert!(read["channel"]["extension"].to_string().contains(&format!(":{asked}}}")), "echoed as asked: {read}");
        county.later(secs(every) - HANDSHAKE * 2).await;
        assert_eq!(beats(), 0);
        county.later(HANDSHAKE * 3).await;
        assert_eq!(beats(), 1);
        let beat = county.world.heard(HOOK).pop().unwrap();
        assert_eq!(
            (says(&beat, "status"), says(&beat, "events-since-subscription-start")),
            ("active".into(), "0".into())
        );
        assert_eq!((beat["entry"].as_array().unwrap().len(), numbers(&beat).len()), (1, 0));
        // Something else was said: the silence begins anew.
        county.later(secs(every - 1)).await;
        county.refers("sr1", "housing-instability").await;
        county.deliver_due().await;
        let before = beats();
        county.later(secs(every - 1)).await;
        assert_eq!(beats(), before);
        county.later(secs(1)).await;
        assert_eq!(beats(), before + 1);
        let silent = county.world.heard("https://silent.test/hook");
        assert!(silent.iter().all(|bundle| says(bundle, "type") != "heartbeat"), "trap 4");
    }
}

// S-053
// S-054: a handshake is tried once; the subscriber asks again.
#[tokio::test]
async fn a_failed_handshake_is_an_error_at_once() {
    for fault in [Fault::Answer(500), Fault::Answer(302), Fault::Answer(404), Fault::LoseRequest, Fault::LoseAnswer] {
        let county = TestGateway::county().await.settled().await;
        county.world.fault(HOOK, &[fault]);
        let id = taken(&county, "clinic", &subscription(HOOK)).await;
        assert_eq!(status(&county, "clinic", &id).await, "error", "{fault:?}");
        let told = county.get("clinic", &format!("Subscription/{id}/$status")).await.body;
        let error = parameters(&told).into_iter().find(|one| one["name"] == "error").unwrap();
        let code = error["valueCodeableConcept"]["coding"][0]["code"].clone();
        let expected = if matches!(fault, Fault::Answer(_)) { "error-response" } else { "no-response" };
        assert_eq!(code, expected, "S-127: {error}");
        let before = county.world.heard(HOOK).len();
        county.later(secs(86_400)).await;
        assert_eq!(county.world.heard(HOOK).len(), before, "S-181");
        assert_eq!(put(&county, &id, "requested", HOOK).await.status, 200);
        county.deliver_due().await;
        assert_eq!(status(&county, "clinic", &id).await, "active", "S-182");
    }
}

// S-066, S-067, S-069: in the transaction of the change; no change, no event; the writer hears of its own change.
#[tokio::test]
async fn nothing_changed_is_no_event_and_a_bundle_is_one_per_change() {
    let county = TestGateway::county().await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let before = heard(&county, HOOK).len();
    let body = county.get("clinic", &format!("Task/{task}")).await.body;
    assert_eq!(county.put("clinic", &format!("Task/{task}"), &body).await.status, 200);
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK).len(), before, "S-067");
    let entry = |name: &str| {
        let task = county.referral(name, "housing-instability", Some("Organization/hub"));
        json!({"fullUrl": format!("urn:uuid:00000000-0000-4000-8000-0000000000{name}"), "resource": task,
            "request": {"method": "POST", "url": "Task"}})
    };
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [entry("01"), entry("02")]});
    let answer = county.post("clinic", "", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let counted = county.get("clinic", &format!("Subscription/{id}/$events")).await.body;
    assert_eq!(numbers(&counted).len(), before + 2, "S-066, S-069");
    let mut refused = bundle.clone();
    refused["entry"][0]["resource"]["description"] = json!("another");
    refused["entry"][1]["resource"]["status"] = json!("no such status");
    assert!(county.post("clinic", "", &refused).await.status >= 400);
    let counted = county.get("clinic", &format!("Subscription/{id}/$events")).await.body;
    assert_eq!(numbers(&counted).len(), before + 2, "what was rolled back is no event");
}

// S-057
// S-200…S-210: classic criteria: active at once, the resource put below the endpoint, error and back by themselves.
#[tokio::test]
async fn a_classic_subscription_lives_as_r4_says() {
    let county = TestGateway::county().await.settled().await;
    let classic = |endpoint: &str, payload: bool| {
        let mut body = subscription(endpoint);
        body["criteria"] = json!("Task?status=requested,accepted");
        let channel = body["channel"].as_object_mut().unwrap();
        channel.remove("_payload");
        if !payload {
            channel.remove("payload");
        }
        body
    };
    let answer = county.post("clinic", "Subscription", &classic("https://copy.test/hook/fhir", true)).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (201, Some("active")), "S-205: {}", answer.body);
    let id = answer.id();
    taken(&county, "clinic", &classic("https://bare.test/hook", false)).await;
    let task = county.refers("sr1", "housing-instability").await;
    let place = format!("https://copy.test/hook/fhir/Task/{task}");
    county.world.fault(&place, &[Fault::Answer(500)]);
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &id).await, "error", "S-206");
    county.later(secs(5)).await;
    assert_eq!(status(&county, "clinic", &id).await, "active", "S-206");
    let copies = county.world.heard(&place);
    assert!(!copies.is_empty() && copies.iter().all(|copy| copy["id"] == json!(task)), "S-204");
    let letters = county.world.letters();
    assert!(letters.iter().any(|letter| letter.url == place && letter.method == "PUT"));
    let bare: Vec<_> = letters.iter().filter(|letter| letter.url == "https://bare.test/hook").collect();
    assert!(!bare.is_empty() && bare.iter().all(|one| one.method == "POST" && one.body.is_none()), "S-203");
    let count = copies.len();
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.answers("agency", &relayed, "completed").await;
    county.deliver_due().await;
    assert_eq!(county.world.heard(&place).len(), count, "S-202: it stopped matching, and nobody is told");
    let asked = county.get("clinic", &format!("Subscription/{id}/$events")).await;
    assert_eq!((asked.status, asked.body["issue"][0]["code"].as_str()), (422, Some("not-supported")), "S-210");
    let told = county.get("clinic", &format!("Subscription/{id}/$status")).await.body;
    assert!(parameters(&told).iter().all(|one| one["name"] != "topic"));
    assert!(!county.world.requests().iter().any(|request| request.contains("handshake")));
}

// Backport 0.1.0: the topic in an extension, the filter in criteria.
// G-189
#[tokio::test]
async fn the_older_backport_is_understood() {
    let county = TestGateway::county().await.settled().await;
    let mut body = subscription(HOOK);
    body["criteria"] = json!("Task?owner=Organization/hub");
    body["extension"] =
        json!([{"url": format!("{BACKPORT}/backport-topic-canonical"), "valueUri": format!("{GUIDE}/Task")}]);
    let id = taken(&county, "clinic", &body).await;
    let count = |bundle: &Value, name: &str| {
        let all = parameters(bundle);
        all.iter().find(|one| one["name"] == name).and_then(|one| one["valueUnsignedInt"].as_u64())
    };
    let (since, here) = ("events-since-subscription-start", "events-in-notification");
    let handshake = county.world.heard(HOOK).remove(0);
    assert_eq!((count(&handshake, since), count(&handshake, here)), (Some(0), None), "{handshake}");
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let told = events(&county, HOOK);
    assert_eq!(says(&told[0], "topic"), format!("{GUIDE}/Task"));
    let mut highest = 0;
    for bundle in &told {
        assert_eq!(
            count(bundle, since),
            Some(highest + count(bundle, here).unwrap()),
            "as in its own version: {bundle}"
        );
        highest = count(bundle, since).unwrap();
    }
    let kept = county.get("clinic", &format!("Subscription/{id}/$events")).await.body;
    assert_eq!(crate::notifications::numbers(&kept).len() as u64, highest, "the newer operation has the numbers");
}

// S-041: a retrying EHR does not subscribe twice.
#[tokio::test]
async fn a_conditional_create_makes_one_subscription() {
    let county = TestGateway::county().await.settled().await;
    let condition = format!("url={HOOK}&criteria={GUIDE}/Task");
    let headers = [("if-none-exist", condition.as_str())];
    let body = subscription(HOOK);
    let first = county.ask("clinic", "POST", "Subscription", Some(&body), &headers).await;
    let again = county.ask("clinic", "POST", "Subscription", Some(&body), &headers).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.id(), again.id());
    assert!(!again.body.to_string().contains("hush"));
}

// S-023: what the subscriber asked to be sent is read back as it was written, at once and later.
#[tokio::test]
async fn payload_and_content_level_are_read_back() {
    let county = TestGateway::county().await.settled().await;
    for (media, content) in [
        ("application/fhir+json", "empty"),
        ("application/json", "id-only"),
        ("application/fhir+xml", "full-resource"),
        ("application/fhir+json; fhirVersion=4.0", "id-only"),
    ] {
        let mut body = about(&format!("{GUIDE}/Task"), HOOK, &[], content);
        body["channel"]["payload"] = json!(media);
        let made = county.post("clinic", "Subscription", &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        county.later(HANDSHAKE).await;
        let read = county.get("clinic", &format!("Subscription/{}", made.id())).await.body;
        for answer in [&made.body, &read] {
            assert_eq!(answer["channel"]["payload"], json!(media));
            assert_eq!(answer["channel"]["_payload"], body["channel"]["_payload"], "{media}");
        }
    }
}

// S-103: backport-timeout is the time for one try; more than the longest is refused.
#[tokio::test]
async fn a_try_lasts_as_long_as_the_subscriber_allows() {
    let county = TestGateway::county().await.settled().await;
    let refused = county.post("clinic", "Subscription", &wishing("backport-timeout", 61)).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    for (body, seconds) in [(wishing("backport-timeout", 7), 7), (subscription(HOOK), 20)] {
        let made = county.post("clinic", "Subscription", &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        county.clock.advance(HANDSHAKE);
        let claimed = county.gateway.app.claim(1, &loopgate::app::Busy::default()).await.unwrap().remove(0);
        let mut visit = loopgate::app::Visit::default();
        let plan = county.gateway.app.notify_plan(&claimed, &mut visit).await.unwrap().unwrap();
        assert_eq!(plan.timeout, secs(seconds));
        visit.took(plan);
        county.gateway.app.notified(&claimed, visit).await.unwrap();
    }
}

// S-207: classic criteria find what their creator may see, and nothing else.
#[tokio::test]
async fn classic_criteria_see_what_their_creator_sees() {
    let county = TestGateway::county().await.settled().await;
    let place = |who: &str| format!("https://{who}.test/hook");
    for who in ["clinic", "agency", "kitchen"] {
        let mut body = subscription(&place(who));
        body["criteria"] = json!("Task?status=requested,accepted,in-progress");
        body["channel"].as_object_mut().unwrap().remove("_payload");
        taken(&county, who, &body).await;
    }
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.deliver_due().await;
    let put = |who: &str| -> Vec<String> {
        let letters = county.world.letters().into_iter().filter(|letter| letter.url.starts_with(&place(who)));
        let mut urls: Vec<String> = letters.map(|letter| letter.url).collect();
        urls.sort();
        urls.dedup();
        urls
    };
    assert_eq!(put("clinic"), [format!("{}/Task/{task}", place("clinic"))]);
    assert_eq!(put("agency"), [format!("{}/Task/{relayed}", place("agency"))]);
    assert!(put("kitchen").is_empty());
}

on_both!(many_subscriptions_and_a_change_looks_at_those_it_concerns, async |place: Place| {
    let county = TestGateway::with(place, &county()).await.settled().await;
    let topic = format!("{GUIDE}/Task");
    for number in 0..30 {
        let hook = format!("https://ehr.test/hook/{number}");
        let filter = format!("_id=nobody-{number}");
        taken(&county, "clinic", &about(&topic, &hook, &[&filter], "empty")).await;
    }
    let id = taken(&county, "clinic", &about(&topic, HOOK, &["owner=Organization/hub"], "id-only")).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert!(!heard(&county, HOOK).is_empty());
    assert!((0..30).all(|number| heard(&county, &format!("https://ehr.test/hook/{number}")).is_empty()));
    // A changed filter is found by its new terms, and by nothing else.
    let mut body = about(&topic, HOOK, &["owner=Organization/nobody"], "id-only");
    body["id"] = json!(id);
    assert_eq!(county.put("clinic", &format!("Subscription/{id}"), &body).await.status, 200);
    county.deliver_due().await;
    let before = heard(&county, HOOK).len();
    county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK).len(), before);
    assert!(county.world.requests().iter().any(|request| request.contains(EHR)));
});
