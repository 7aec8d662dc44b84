//! The public Subscriptions test kit's server suite for R4, check by check, each test under the kit's numbers.
//!
//! The kit prepares what a tester gives it (its own listener as the endpoint, its token among the headers), subscribes,
//! has an event happen, and looks at what its listener got and at the answers. So does this: the same requests, the same
//! assertions. `conformance/requirements/subscription-kit.csv` has the list.
//! <https://github.com/inferno-framework/subscriptions-test-kit>

use serde_json::{Value, json};

use crate::gateway::{HANDSHAKE, TestGateway};
use crate::notifications::{parameters, says};

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
const TOPIC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task";
/// The listener's address and the token by which the kit knows its notifications.
const LISTENER: &str = "https://kit.test/hook?run=1";
const TOKEN: &str = "Bearer notification-access-token";

/// What a tester gives: status and dates as the guide's own examples have them.
fn given(content: &str) -> Value {
    json!({"resourceType": "Subscription", "meta": {"profile": [format!("{BACKPORT}/backport-subscription")]},
        "status": "active", "reason": "to test", "end": "2099-12-31T12:00:00Z", "criteria": TOPIC,
        "_criteria": {"extension": [{"url": format!("{BACKPORT}/backport-filter-criteria"),
            "valueString": "Task?owner=https://hub.test/fhir/Organization/hub"}]},
        "channel": {"type": "rest-hook", "endpoint": "https://tester.test/elsewhere", "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": format!("{BACKPORT}/backport-payload-content"), "valueCode": content}]},
            "header": ["X-Tester: one: two"]}})
}

/// 1.1.01: as the kit sends it.
fn prepared(content: &str) -> Value {
    let mut body = given(content);
    assert_eq!(body["channel"]["type"], "rest-hook");
    assert!(body["criteria"].as_str().unwrap().starts_with("http"));
    body["channel"]["endpoint"] = json!(LISTENER);
    body["channel"]["header"].as_array_mut().unwrap().push(json!(format!("Authorization: {TOKEN}")));
    body
}

/// A notification that the listener got: its headers and its body.
struct Got {
    headers: Vec<(String, String)>,
    bundle: Value,
}

/// The kit knows what is for it by its token.
fn listened(county: &TestGateway) -> Vec<Got> {
    let ours = |headers: &[(String, String)]| headers.contains(&("Authorization".to_string(), TOKEN.to_string()));
    let letters = county.world.letters().into_iter().filter(|letter| letter.url == LISTENER && ours(&letter.headers));
    letters
        .map(|letter| {
            assert_eq!(letter.method, "POST");
            let bundle = serde_json::from_str(&letter.body.unwrap()).expect("a JSON body");
            Got { headers: letter.headers, bundle }
        })
        .collect()
}

fn of_type<'a>(all: &'a [Got], kind: &str) -> Vec<&'a Got> {
    let found: Vec<&Got> = all.iter().filter(|got| says(&got.bundle, "type") == kind).collect();
    assert!(!found.is_empty(), "the listener got no {kind}");
    found
}

/// Taken and shaken hands with; what the answer to the create says.
async fn subscribed(county: &TestGateway, body: &Value) -> Value {
    let answer = county.post("clinic", "Subscription", body).await;
    assert_eq!(answer.status, 201, "1.1.02: {}", answer.body);
    county.later(HANDSHAKE).await;
    answer.body
}

/// What the tester does by hand: something happens to a Task.
async fn something_happens(county: &TestGateway) -> String {
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    task
}

/// 1.2.02, 4.01, 4.02: a notification's form.
fn conforms(bundle: &Value, id: &str, kind: &str, status: &str) {
    assert_eq!((&bundle["resourceType"], &bundle["type"]), (&json!("Bundle"), &json!("history")));
    let entries = bundle["entry"].as_array().filter(|entries| !entries.is_empty()).expect("entries");
    for entry in entries {
        assert!(entry["request"]["method"].is_string() && entry["request"]["url"].is_string(), "{entry}");
        assert!(entry["response"]["status"].is_string(), "{entry}");
    }
    let asked = entries[0]["request"]["url"].as_str().unwrap();
    assert!(asked.ends_with(&format!("Subscription/{id}/$status")), "{asked}");
    is_status(&entries[0]["resource"], id);
    assert_eq!((says(bundle, "type").as_str(), says(bundle, "status").as_str()), (kind, status));
    let findings = loopgate::fhir::validate::examine(bundle, loopgate::fhir::profile::Profiles::own());
    let wrong = |one: &&loopgate::fhir::validate::Finding| one.severity == loopgate::fhir::validate::Severity::Error;
    assert_eq!(findings.iter().find(wrong), None, "valid FHIR");
}

/// The profile backport-subscription-status-r4: names, types and how often.
fn is_status(resource: &Value, id: &str) {
    assert_eq!(resource["resourceType"], "Parameters");
    assert_eq!(resource["meta"]["profile"], json!([format!("{BACKPORT}/backport-subscription-status-r4")]));
    let rows: &[(&str, &str, usize, usize)] = &[
        ("subscription", "valueReference", 1, 1),
        ("topic", "valueCanonical", 0, 1),
        ("status", "valueCode", 1, 1),
        ("type", "valueCode", 1, 1),
        ("events-since-subscription-start", "valueString", 1, 1),
        ("notification-event", "part", 0, usize::MAX),
        ("error", "valueCodeableConcept", 0, usize::MAX),
    ];
    has_parts(resource["parameter"].as_array().unwrap(), rows);
    let parts: &[(&str, &str, usize, usize)] = &[
        ("event-number", "valueString", 1, 1),
        ("timestamp", "valueInstant", 0, 1),
        ("focus", "valueReference", 0, 1),
        ("additional-context", "valueReference", 0, usize::MAX),
    ];
    for event in named(resource["parameter"].as_array().unwrap(), "notification-event") {
        has_parts(event["part"].as_array().unwrap(), parts);
    }
    let about = &named(resource["parameter"].as_array().unwrap(), "subscription")[0]["valueReference"]["reference"];
    assert_eq!(about.as_str().unwrap().rsplit('/').next(), Some(id));
}

fn named<'a>(list: &'a [Value], name: &str) -> Vec<&'a Value> {
    list.iter().filter(|one| one["name"] == name).collect()
}

fn has_parts(list: &[Value], rows: &[(&str, &str, usize, usize)]) {
    for one in list {
        let (_, value, ..) = rows.iter().find(|(name, ..)| one["name"] == *name).expect("a known name");
        let elements: Vec<&String> = one.as_object().unwrap().keys().collect();
        assert!(elements.len() == 2 && !one[*value].is_null(), "{one}");
    }
    for (name, _, least, most) in rows {
        let count = named(list, name).len();
        assert!((*least..=*most).contains(&count), "{name} stands {count} times");
    }
}

fn id_of(created: &Value) -> &str {
    created["id"].as_str().unwrap()
}

// K-1.1.01, K-1.1.02, K-1.1.03: what the kit prepares is taken as requested, and answered with what was sent.
#[tokio::test]
async fn a_subscription_is_created_as_the_kit_does() {
    for content in ["empty", "id-only", "full-resource"] {
        let county = TestGateway::county().await.settled().await;
        let sent = prepared(content);
        let created = subscribed(&county, &sent).await;
        assert_eq!(created["resourceType"], "Subscription");
        assert_eq!((&created["channel"]["type"], &created["status"]), (&json!("rest-hook"), &json!("requested")));
        for pointer in ["/channel/header", "/channel/payload", "/channel/_payload", "/criteria", "/_criteria"] {
            assert_eq!(created.pointer(pointer), sent.pointer(pointer), "{pointer}");
        }
    }
}

// K-1.2.01, K-1.2.02: notifications of events come to the listener, in form, with the headers that were asked for.
#[tokio::test]
async fn event_notifications_conform() {
    for content in ["empty", "id-only", "full-resource"] {
        let county = TestGateway::county().await.settled().await;
        let created = subscribed(&county, &prepared(content)).await;
        something_happens(&county).await;
        let all = listened(&county);
        for got in of_type(&all, "event-notification") {
            conforms(&got.bundle, id_of(&created), "event-notification", "active");
            let header = |name: &str| {
                let mut all = got.headers.iter().filter(|(its, _)| its.eq_ignore_ascii_case(name));
                let value = all.next().map(|(_, value)| value.clone());
                assert!(all.next().is_none(), "{name} once");
                value.unwrap_or_default()
            };
            assert!(header("content-type").starts_with(created["channel"]["payload"].as_str().unwrap()));
            for asked in created["channel"]["header"].as_array().unwrap() {
                let (name, value) = asked.as_str().unwrap().split_once(": ").unwrap();
                assert_eq!(header(name), value);
            }
        }
    }
}

// K-2.01, K-2.02: what the CapabilityStatement says of Subscription, and the topic as it stands in criteria.
#[tokio::test]
async fn the_capability_statement_conforms() {
    let county = TestGateway::county().await.settled().await;
    let created = subscribed(&county, &prepared("id-only")).await;
    let answer = county.ask("", "GET", "metadata", None, &[]).await;
    assert_eq!((answer.status, &answer.body["resourceType"]), (200, &json!("CapabilityStatement")));
    let rest = answer.body["rest"].as_array().unwrap().iter().find(|rest| rest["mode"] == "server").unwrap();
    let all = rest["resource"].as_array().unwrap();
    let entry = all.iter().find(|entry| entry["type"] == "Subscription").expect("2.01");
    let profile = json!(format!("{BACKPORT}/backport-subscription"));
    assert!(entry["supportedProfile"].as_array().unwrap().contains(&profile), "2.01");
    let url = format!("{BACKPORT}/capabilitystatement-subscriptiontopic-canonical");
    let topics = entry["extension"].as_array().unwrap().iter().filter(|one| one["url"] == url);
    let topics: Vec<&Value> = topics.map(|one| &one["valueCanonical"]).collect();
    assert!(topics.contains(&&created["criteria"]), "2.02");
    // Every topic that stands there can be subscribed to.
    for topic in topics {
        let mut body = prepared("empty");
        body["criteria"] = topic.clone();
        body.as_object_mut().unwrap().shift_remove("_criteria");
        assert_eq!(county.post("clinic", "Subscription", &body).await.status, 201, "2.02: {topic}");
    }
}

// K-3.1.2.03: empty says that something happened and no more.
#[tokio::test]
async fn an_empty_notification_conforms() {
    let county = TestGateway::county().await.settled().await;
    subscribed(&county, &prepared("empty")).await;
    something_happens(&county).await;
    let all = listened(&county);
    for got in of_type(&all, "event-notification") {
        assert_eq!(got.bundle["entry"].as_array().unwrap().len(), 1);
        let list = parameters(&got.bundle);
        let events = named(&list, "notification-event");
        assert!(!events.is_empty());
        for event in events {
            let parts = event["part"].as_array().unwrap();
            assert!(named(parts, "focus").is_empty() && named(parts, "additional-context").is_empty());
        }
        assert!(named(&list, "topic").is_empty(), "a warning of the kit's");
    }
}

// K-3.2.2.03: id-only says what it was, and carries none of it.
#[tokio::test]
async fn an_id_only_notification_conforms() {
    let county = TestGateway::county().await.settled().await;
    subscribed(&county, &prepared("id-only")).await;
    let task = something_happens(&county).await;
    let all = listened(&county);
    for got in of_type(&all, "event-notification") {
        let list = parameters(&got.bundle);
        let events = named(&list, "notification-event");
        assert!(!events.is_empty());
        assert!(events.iter().all(|event| named(event["part"].as_array().unwrap(), "focus").len() == 1));
        let entries = &got.bundle["entry"].as_array().unwrap()[1..];
        assert!(!entries.is_empty());
        for entry in entries {
            assert!(entry.get("resource").is_none() && entry["fullUrl"].is_string(), "{entry}");
            assert!(entry["fullUrl"].as_str().unwrap().ends_with(&format!("/Task/{task}")));
        }
    }
}

// K-3.3.2.03: full-resource carries every focus, valid, under its own reference.
#[tokio::test]
async fn a_full_resource_notification_conforms() {
    let county = TestGateway::county().await.settled().await;
    subscribed(&county, &prepared("full-resource")).await;
    something_happens(&county).await;
    let all = listened(&county);
    for got in of_type(&all, "event-notification") {
        let list = parameters(&got.bundle);
        assert!(!named(&list, "topic").is_empty(), "a warning of the kit's");
        let events = named(&list, "notification-event");
        assert!(!events.is_empty());
        let entries = &got.bundle["entry"].as_array().unwrap()[1..];
        let mut wanted = Vec::new();
        for event in events {
            let parts = event["part"].as_array().unwrap();
            assert_eq!(named(parts, "focus").len(), 1);
            wanted.extend(named(parts, "focus"));
            wanted.extend(named(parts, "additional-context"));
        }
        for one in wanted {
            let reference = one["valueReference"]["reference"].as_str().unwrap();
            let found = entries.iter().any(|entry| {
                let resource = &entry["resource"];
                let (kind, id) = (resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
                reference.contains(&format!("{kind}/{id}"))
            });
            assert!(found, "{reference}");
        }
        for entry in entries {
            let kind = entry["resource"]["resourceType"].as_str().unwrap();
            let told = county.post("clinic", &format!("{kind}/$validate"), &entry["resource"]).await;
            assert!(!told.body.to_string().contains("\"error\""), "{}", told.body);
        }
    }
}

// K-4.01: every rest-hook that is created gets a handshake first.
#[tokio::test]
async fn a_handshake_conforms() {
    let county = TestGateway::county().await.settled().await;
    let mut created = Vec::new();
    for content in ["empty", "id-only", "full-resource"] {
        created.push(subscribed(&county, &prepared(content)).await);
    }
    something_happens(&county).await;
    let all = listened(&county);
    for one in &created {
        let about = |got: &&&Got| got.bundle.to_string().contains(&format!("Subscription/{}/", id_of(one)));
        let handshakes = of_type(&all, "handshake");
        let handshake = handshakes.iter().find(about).expect("a handshake");
        conforms(&handshake.bundle, id_of(one), "handshake", "requested");
        let first = all.iter().find(|got| about(&got)).unwrap();
        assert_eq!(says(&first.bundle, "type"), "handshake", "before anything else");
    }
}

// K-4.02: a heartbeat for who asked for it, and for nobody else.
#[tokio::test]
async fn a_heartbeat_conforms() {
    let county = TestGateway::county().await.settled().await;
    let mut asking = prepared("id-only");
    asking["channel"]["extension"] =
        json!([{"url": format!("{BACKPORT}/backport-heartbeat-period"), "valueUnsignedInt": 15}]);
    let beats = subscribed(&county, &asking).await;
    subscribed(&county, &prepared("id-only")).await;
    county.later(std::time::Duration::from_secs(60)).await;
    let all = listened(&county);
    for got in of_type(&all, "heartbeat") {
        conforms(&got.bundle, id_of(&beats), "heartbeat", "active");
    }
}

// K-5.01: $status of an instance.
#[tokio::test]
async fn status_is_answered() {
    let county = TestGateway::county().await.settled().await;
    let created = subscribed(&county, &prepared("id-only")).await;
    let id = id_of(&created);
    something_happens(&county).await;
    let answer = county.get("clinic", &format!("Subscription/{id}/$status")).await;
    assert_eq!(answer.status, 200);
    assert_eq!((&answer.body["resourceType"], &answer.body["type"]), (&json!("Bundle"), &json!("searchset")));
    let entries = answer.body["entry"].as_array().unwrap();
    assert!(
        entries.iter().all(|entry| entry.get("request").is_none() && entry.get("response").is_none()),
        "bdl-3, bdl-4"
    );
    let is_parameters = |entry: &&Value| entry["resource"]["resourceType"] == "Parameters";
    let found = entries.iter().find(is_parameters).expect("Parameters");
    is_status(&found["resource"], id);
    assert_eq!(says(&answer.body, "type"), "query-status");
}

// K-6.01, K-6.02, K-6.03, K-6.04, K-6.05, K-6.06, K-6.07: what is not supported is refused, and nothing is stored.
#[tokio::test]
async fn what_is_not_supported_is_refused() {
    let county = TestGateway::county().await.settled().await;
    let later = "http://hl7.org/fhir/5.0/subscriptions-backport/StructureDefinition/backport-filter-criteria";
    let filter = |url: &str, text: &str| json!({"extension": [{"url": url, "valueString": text}]});
    let ours = format!("{BACKPORT}/backport-filter-criteria");
    let cases: &[(&str, &[(&str, Value)])] = &[
        ("6.01", &[("/_criteria", filter(later, "Task?status=requested"))]),
        ("6.02", &[("/criteria", json!("http://unsupported.test/SubscriptionTopic/none"))]),
        ("6.03", &[("/_criteria", filter(&ours, "Task?unsupported=none"))]),
        ("6.03", &[("/_criteria", filter(&ours, "Encounter.patient=Patient/123"))]),
        ("6.04", &[("/channel/type", json!("message"))]),
        ("6.04", &[("/channel/type", json!("carrier-pigeon"))]),
        ("6.05", &[("/channel/endpoint", json!("not a url"))]),
        ("6.05", &[("/channel/endpoint", json!("ftp://kit.test/hook"))]),
        ("6.06", &[("/channel/payload", json!("text/csv"))]),
        ("6.06", &[("/channel/payload", json!("application/fhir+turtle"))]),
        ("6.07", &[("/channel/type", json!("email")), ("/channel/payload", json!("application/fhir+json"))]),
        ("6.07", &[("/channel/type", json!("rest-hook")), ("/channel/payload", json!("text/plain"))]),
    ];
    for (number, changes) in cases {
        let mut body = prepared("id-only");
        for (pointer, value) in *changes {
            *body.pointer_mut(pointer).unwrap() = value.clone();
        }
        let answer = county.post("clinic", "Subscription", &body).await;
        assert!(matches!(answer.status, 400 | 422), "{number}: {} {}", answer.status, answer.body);
        assert_eq!(answer.body["resourceType"], "OperationOutcome");
    }
    assert!(county.get("clinic", "Subscription").await.entries().is_empty(), "nothing is stored");
    assert!(listened(&county).is_empty(), "nobody was called");
}
