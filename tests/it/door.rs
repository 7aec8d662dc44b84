//! The HTTP door as a client sees it: every refusal says what is wrong and what to do, whatever is thrown at it.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::http::Request;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::{Answered, TestGateway, county as partners};

/// One request as it stands: any path, any headers, any body.
async fn raw(
    county: &TestGateway,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answered {
    send(&county.gateway.router(), method, path, headers, body.into()).await.expect("a request that can be made")
}

async fn send(
    router: &axum::Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Option<Answered> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body).ok()?).await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Some(Answered { status, headers, body })
}

const CLINIC: (&str, &str) = ("authorization", "Bearer clinic");
const JSON: (&str, &str) = ("content-type", "application/fhir+json");

fn is_outcome(answer: &Answered) -> bool {
    let issue = &answer.body["issue"][0];
    answer.body["resourceType"] == "OperationOutcome"
        && issue["severity"] == "error"
        && issue["code"].is_string()
        && issue["diagnostics"].as_str().is_some_and(|text| text.len() > 10)
        && answer.headers["content-type"].starts_with("application/fhir+json")
}

/// Method, path, headers, body, status.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16);

// Design §6: one table of errors, and each answer tells the way out.
//
#[tokio::test]
async fn every_error_is_an_operation_outcome() {
    let settings = format!("[limits]\nbody = \"64KiB\"\nbundle_entries = 3\ndepth = 20\n{}", partners());
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let big = "x".repeat(70_000);
    let many: Vec<Value> = (0..4).map(|_| json!({"request": {"method": "GET", "url": "Task"}})).collect();
    let many = json!({"resourceType": "Bundle", "type": "batch", "entry": many}).to_string();
    let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    let cases: &[Case] = &[
        ("GET", "/fhir/Task", &[], "", 401),
        ("GET", "/fhir/Task", &[("authorization", "Bearer nobody")], "", 401),
        ("GET", "/fhir/Task", &[("authorization", "Basic Y2xpbmljOg==")], "", 401),
        ("POST", "/fhir/Task", &[JSON], "{}", 401),
        ("GET", "/metrics", &[], "", 401),
        ("GET", "/metrics", &[CLINIC], "", 403),
        ("GET", "/nowhere", &[CLINIC], "", 404),
        ("GET", "/fhir/Nope", &[CLINIC], "", 404),
        ("GET", "/fhir/Task/none", &[CLINIC], "", 404),
        ("GET", "/fhir/Task/a%00b", &[CLINIC], "", 404),
        ("DELETE", "/fhir/Task/1", &[CLINIC], "", 405),
        ("PATCH", "/fhir/Provenance/1", &[CLINIC, JSON], "[]", 405),
        ("PATCH", "/fhir/Task/1", &[CLINIC, JSON], "[]", 400),
        ("PATCH", "/fhir/Task/1", &[CLINIC, ("content-type", "application/json-patch+json")], "[]", 404),
        ("PATCH", "/fhir/Task/1", &[CLINIC, ("content-type", "application/xml-patch+xml")], "<diff/>", 415),
        ("GET", "/fhir", &[CLINIC], "", 400),
        ("PUT", "/fhir", &[CLINIC, JSON], "{}", 405),
        ("POST", "/fhir/metadata", &[CLINIC], "", 405),
        ("POST", "/health/live", &[], "", 405),
        ("GET", "/fhir/Task", &[CLINIC, ("accept", "text/turtle")], "", 406),
        ("GET", "/fhir/Task?_format=ttl", &[CLINIC], "", 406),
        ("POST", "/fhir/Task", &[CLINIC, JSON], &big, 413),
        ("POST", "/fhir", &[CLINIC, JSON], &many, 413),
        ("POST", "/fhir/Task", &[CLINIC, ("content-type", "text/turtle")], "<Task/>", 415),
        ("POST", "/fhir/Task", &[CLINIC, JSON], "", 400),
        ("POST", "/fhir/Task", &[CLINIC, JSON], "{", 400),
        ("POST", "/fhir/Task", &[CLINIC, JSON], &deep, 400),
        ("POST", "/fhir/Task", &[CLINIC, JSON], "{\"resourceType\":\"Task\",\"resourceType\":\"Task\"}", 400),
        ("POST", "/fhir/Task", &[CLINIC, JSON], "{\"resourceType\":\"Patient\"}", 400),
        ("GET", "/fhir/Task?status:fuzzy=x", &[CLINIC], "", 400),
        ("POST", "/fhir/Task", &[CLINIC, JSON], "{\"resourceType\":\"Task\"}", 422),
    ];
    for (method, path, headers, body, status) in cases {
        let answer = raw(&county, method, path, headers, body.to_string()).await;
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.body);
        assert!(is_outcome(&answer), "{method} {path}: {}", answer.body);
        assert!(answer.headers.contains_key("x-request-id"), "{method} {path}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), [401, 403].contains(status), "{method} {path}");
        assert_eq!(answer.headers.contains_key("allow"), *status == 405, "{method} {path}");
    }
    assert!(county.get("root", "Task").await.entries().is_empty(), "nothing is stored");
}

// a failure is told as an error (above), a success as a warning at most.
#[tokio::test]
async fn a_success_is_told_without_an_error() {
    let county = TestGateway::county().await;
    let task = county.referral("r1", "food-insecurity", Some("Organization/hub"));
    let prefer = [("prefer", "return=OperationOutcome")];
    let patient =
        county.post("clinic", "Patient", &json!({"resourceType": "Patient", "name": [{"family": "X"}]})).await;
    let patient = format!("Patient/{}", patient.id());
    let condition = json!({"resourceType": "Condition", "subject": {"reference": patient},
        "code": {"text": "Food insecurity"}, "category": [{"text": "social"}]});
    for (kind, body) in [("Task", &task), ("Condition", &condition)] {
        let answer = county.ask("clinic", "POST", kind, Some(body), &prefer).await;
        assert_eq!((answer.status, &answer.body["resourceType"]), (201, &json!("OperationOutcome")), "{}", answer.body);
        let issues = answer.body["issue"].as_array().unwrap();
        assert!(!issues.is_empty());
        assert!(issues.iter().all(|issue| issue["severity"] == "information" || issue["severity"] == "warning"));
    }
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let settings = format!("[limits]\nrequests_per_minute = 3\n{}", partners());
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let router = county.gateway.router();
    let ask = async |token: &str, path: &str| {
        send(&router, "GET", path, &[("authorization", token)], Body::empty()).await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(ask("Bearer clinic", "/fhir/Task").await.status, 200);
    }
    let refused = ask("Bearer clinic", "/fhir/Task").await;
    assert!(refused.status == 429 && is_outcome(&refused), "{}", refused.body);
    let wait: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(ask("Bearer agency", "/fhir/Task").await.status, 200, "others have their own allowance");
    for open in ["/health/live", "/health/ready", "/fhir/metadata"] {
        assert_eq!(ask("Bearer clinic", open).await.status, 200, "{open}");
    }
    county.clock.advance(std::time::Duration::from_secs(wait));
    assert_eq!(ask("Bearer clinic", "/fhir/Task").await.status, 200);
}

//
/// Requests that mean to slip past a check or to break something.
#[tokio::test]
async fn tricks_of_http_open_nothing() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let at = format!("/fhir/Task/{task}");
    // A method is what the request line says.
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let headers = [CLINIC, (name, "DELETE")];
        assert_eq!(raw(&county, "POST", &at, &headers, Body::empty()).await.status, 405, "{name}");
        assert_eq!(raw(&county, "GET", &at, &headers, Body::empty()).await.status, 200, "{name}");
    }
    assert_eq!(raw(&county, "GET", &format!("{at}?_method=DELETE"), &[CLINIC], Body::empty()).await.status, 200);
    // A token in the address is none, and one header is believed, not a list of them.
    let address = "/fhir/Task?access_token=clinic";
    assert_eq!(raw(&county, "GET", address, &[], Body::empty()).await.status, 401);
    let two = [("authorization", "Bearer nobody"), ("authorization", "Bearer clinic")];
    assert_eq!(raw(&county, "GET", "/fhir/Task", &two, Body::empty()).await.status, 401);
    // RFC 9112 §3.2
    let hosts = [CLINIC, ("host", "hub.test"), ("host", "evil.test")];
    assert_eq!(raw(&county, "GET", "/fhir/Task", &hosts, Body::empty()).await.status, 400);
    // Who asks is told by the token alone.
    let claims = [CLINIC, ("x-forwarded-user", "root"), ("x-forwarded-for", "127.0.0.1"), ("host", "evil.test")];
    let found = raw(&county, "GET", "/fhir/Task", &claims, Body::empty()).await;
    assert!(found.status == 200 && !found.body.to_string().contains("evil.test"), "{}", found.body);
    // Nothing that was sent breaks a line of the answer's head.
    for path in ["/fhir/Task?a=%0d%0aset-cookie:%20x=1", "/fhir/Task/%0d%0ax", "/fhir/Task?_format=%0d%0ax:%20y"] {
        let answer = raw(&county, "GET", path, &[CLINIC], Body::empty()).await;
        assert!(answer.status < 500 && !answer.headers.contains_key("set-cookie"), "{path}: {}", answer.status);
    }
    // Repeated parameters are one more condition each, and never an error of ours.
    let many = format!("/fhir/Task?{}", "status=requested&".repeat(2_000));
    for path in [
        "/fhir/Task?status=requested&status=completed",
        "/fhir/Task?_count=1&_count=2",
        "/fhir/Task?_id=a&_id=b",
        &many,
    ] {
        let answer = raw(&county, "GET", path, &[CLINIC], Body::empty()).await;
        assert!(answer.status < 500, "{:.60}: {}", path, answer.body);
        assert!(answer.status == 200 || is_outcome(&answer), "{:.60}: {}", path, answer.body);
    }
    // A small body that would become a large one.
    let bomb = [CLINIC, JSON, ("content-encoding", "gzip")];
    let zipped: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(raw(&county, "POST", "/fhir/Task", &bomb, zipped.to_vec()).await.status, 415);
    assert_eq!(county.get("clinic", "Task").await.entries().len(), 1, "nothing came of it");
}

/// JSON that was written to hurt.
#[tokio::test]
async fn hostile_json_is_refused() {
    let county = TestGateway::county().await;
    let long = "x".repeat((1 << 20) + 1);
    let wide: String = (0..50_000).map(|n| format!(",\"a{n}\":1")).collect();
    for (status, body) in [
        (400, format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))),
        (400, format!("{{\"resourceType\":\"Task\",\"extension\":{}", "[{\"extension\":".repeat(50_000))),
        (413, format!("{{\"resourceType\":\"Task\",\"description\":\"{long}\"}}")),
        (413, format!("{{\"resourceType\":\"Task\",\"{long}\":1}}")),
        (400, format!("{{\"resourceType\":\"Task\"{wide}}}")),
        (400, "{\"resourceType\":\"Task\",\"status\":\"a\",\"status\":\"b\"}".to_string()),
        (400, "{\"resourceType\":\"Task\",\"priority\":1e999999999}".to_string()),
        (400, "{\"resourceType\":\"Task\",\"status\":\"\\ud800\"}".to_string()),
        (400, "{\"resourceType\":\"Task\"}\u{feff}".to_string()),
        // A byte-order mark in front is none of it: this is read, and lacks what a Task must have.
        (422, "\u{feff}{\"resourceType\":\"Task\"}".to_string()),
    ] {
        let answer = raw(&county, "POST", "/fhir/Task", &[CLINIC, JSON], body.clone()).await;
        assert_eq!(answer.status, status, "{body:.60}: {:.200}", answer.body.to_string());
        assert!(is_outcome(&answer), "{body:.60}");
    }
    assert!(county.get("root", "Task").await.entries().is_empty());
}

//
#[tokio::test]
async fn what_public_clients_send_is_understood() {
    let county = TestGateway::county().await;
    let hapi = "application/fhir+xml;q=1.0, application/fhir+json;q=1.0, application/xml+fhir;q=0.9, application/json+fhir;q=0.9";
    let task = county.refers("sr1", "food-insecurity").await;
    let read = raw(&county, "GET", &format!("/fhir/Task/{task}"), &[CLINIC, ("accept", hapi)], Body::empty()).await;
    assert_eq!((read.status, read.body["id"].as_str()), (200, Some(task.as_str())));
    for path in ["/fhir//metadata", "/fhir/metadata/", "//fhir/metadata"] {
        let answer = raw(&county, "GET", path, &[("accept", hapi)], Body::empty()).await;
        assert_eq!((answer.status, answer.body["resourceType"].as_str()), (200, Some("CapabilityStatement")), "{path}");
    }
    let form = [CLINIC, ("content-type", "application/x-www-form-urlencoded")];
    let found = raw(&county, "POST", "/fhir/Task/_search", &form, "status=requested").await;
    assert_eq!((found.status, found.entries().len()), (200, 1));

    let own = [CLINIC, ("x-request-id", "mine-1")];
    let head = raw(&county, "HEAD", &format!("/fhir/Task/{task}"), &own, Body::empty()).await;
    assert_eq!((head.status, head.headers["x-request-id"].as_str(), &head.body), (200, "mine-1", &Value::Null));
    assert!(head.headers["content-length"].parse::<usize>().unwrap() > 100);
    let etag = read.headers["etag"].clone();
    for seen in [etag.as_str(), etag.strip_prefix("W/").unwrap(), "*"] {
        let same =
            raw(&county, "GET", &format!("/fhir/Task/{task}"), &[CLINIC, ("if-none-match", seen)], Body::empty()).await;
        assert_eq!(same.status, 304, "{seen}");
    }
    let other =
        raw(&county, "GET", &format!("/fhir/Task/{task}"), &[CLINIC, ("if-none-match", "W/\"99\"")], Body::empty())
            .await;
    assert_eq!(other.status, 200);
    county.deliver_due().await;
    let history = county.get("clinic", &format!("Task/{task}/_history")).await;
    assert_eq!((history.body["type"].as_str(), history.entries().len() > 1), (Some("history"), true));
    for entry in history.body["entry"].as_array().unwrap() {
        assert!(entry["request"]["method"].is_string() && entry["response"]["status"].is_string());
    }
    assert_eq!(county.get("clinic", &format!("Task/{task}/_history/1")).await.body["status"], "requested");
    assert_eq!(county.get("clinic", &format!("Task/{task}/_history/99")).await.status, 404);
}

// D8: a conditional create, and the same one again.
//
#[tokio::test]
async fn a_conditional_create_creates_once() {
    let county = TestGateway::county().await;
    let mut task = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    task["identifier"] = json!([{"system": "urn:ehr", "value": "r-1"}]);
    let headers = [("if-none-exist", "identifier=urn:ehr|r-1")];
    let first = county.ask("clinic", "POST", "Task", Some(&task), &headers).await;
    let again = county.ask("clinic", "POST", "Task", Some(&task), &headers).await;
    assert_eq!((first.status, again.status, first.id()), (201, 200, again.id()), "{}", again.body);
    assert_eq!(county.post("clinic", "Task", &task).await.status, 200, "by its identifier alone");
    assert!(first.headers["location"].contains(&format!("/fhir/Task/{}", first.id())));
}

#[tokio::test]
async fn a_partner_that_left_the_configuration_is_nobody() {
    let county = TestGateway::county().await;
    assert_eq!(county.get("kitchen", "Task").await.status, 200);
    let fewer = partners()
        .split("[[partner]]")
        .filter(|one| !one.contains("id = \"kitchen\""))
        .collect::<Vec<_>>()
        .join("[[partner]]");
    let smaller = county.over(&fewer).await.router();
    let answer =
        send(&smaller, "GET", "/fhir/Task", &[("authorization", "Bearer kitchen")], Body::empty()).await.unwrap();
    assert_eq!(answer.status, 401);
    assert!(answer.headers["www-authenticate"].contains("invalid_token"));
    let metrics = send(&smaller, "GET", "/metrics", &[("authorization", "Bearer root")], Body::empty()).await.unwrap();
    assert_eq!(metrics.status, 200);
    assert!(metrics.headers["content-type"].starts_with("text/plain"));
}

// R4 http.html#transaction: a batch's entries stand alone; a transaction is one.
// G-003, R-071
//
#[tokio::test]
async fn a_batch_is_many_and_a_transaction_is_one() {
    let county = TestGateway::county().await;
    let patient = |id: &str| json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": id}], "name": [{"family": "Doe", "given": ["Jo"]}], "gender": "female"});
    let entry = |resource: Value| json!({"fullUrl": format!("urn:uuid:{}", loopgate::id::new()), "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}});
    let bad = json!({"resourceType": "Task", "status": "requested"});
    for (kind, status, stored) in [("batch", 200, 2), ("transaction", 422, 0)] {
        let bundle = json!({"resourceType": "Bundle", "type": kind, "entry": [entry(patient("1")), entry(bad.clone()), entry(patient("2"))]});
        let before = county.get("root", "Patient?_summary=count").await.body["total"].clone();
        let answer = county.post("root", "", &bundle).await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.body);
        let after = county.get("root", "Patient?_summary=count").await.body["total"].clone();
        assert_eq!(after.as_u64().unwrap() - before.as_u64().unwrap(), stored, "{kind}");
        if kind == "batch" {
            let entries = answer.body["entry"].as_array().unwrap();
            let codes: Vec<&str> = entries.iter().map(|one| one["response"]["status"].as_str().unwrap()).collect();
            assert!(
                codes[0].starts_with("201") && codes[1].starts_with("422") && codes[2].starts_with("201"),
                "{codes:?}"
            );
            assert_eq!(entries[1]["response"]["outcome"]["resourceType"], "OperationOutcome");
        } else {
            assert!(is_outcome(&answer) && answer.expression().contains("entry[1]"), "{}", answer.body);
        }
    }
}

/// Anything at all, with a liking for what nearly fits.
fn anything() -> impl Strategy<Value = (String, String, Vec<u8>, String)> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"]);
    let path = prop_oneof![
        "/[ -~]{0,40}",
        "/fhir/(Task|Patient|Subscription|ServiceRequest|Procedure|Bundle|Nope)(/[A-Za-z0-9$_%.-]{0,12}){0,3}",
        "/fhir/Task\\?[a-z_:-]{0,14}=[ -~]{0,30}(&[_a-z:.]{0,16}=[!-~]{0,20}){0,3}",
        "/fhir/(Task|Patient)\\?(_lastUpdated|_count|_sort|_include|_cursor|_id|birthdate|owner|_total|_elements)=[!-~]{0,24}",
        Just("/fhir".to_string()),
        "/fhir/(Task|Patient|Observation)(/[a-z0-9]{1,3})?(/_history(/[0-9]{1,2})?)?\\?(identifier|_summary|_elements|_since|_pretty|_at)=[!-~]{0,16}",
        Just("/fhir/Task/_search".to_string()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("Task")),
        Just(json!("requested")),
        Just(json!("2027-01-15")),
        Just(json!("Patient/1")),
    ];
    let names = prop::sample::select(vec![
        "resourceType",
        "id",
        "status",
        "intent",
        "code",
        "focus",
        "for",
        "owner",
        "meta",
        "identifier",
        "system",
        "value",
        "reference",
        "entry",
        "type",
        "request",
        "method",
        "url",
        "resource",
        "coding",
        "channel",
        "extension",
        "contained",
        "criteria",
        "_status",
        "versionId",
        "lastUpdated",
        "fullUrl",
        "parameter",
        "name",
        "birthDate",
        "text",
        "div",
    ]);
    let tree = leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_string), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let kinds = prop::sample::select(vec!["Task", "Bundle", "Patient", "Subscription", "ServiceRequest", "Parameters"]);
    let resource = (tree.clone(), kinds).prop_map(|(mut value, kind)| {
        if let Value::Object(map) = &mut value {
            map.insert("resourceType".into(), json!(kind));
        }
        value.to_string().into_bytes()
    });
    // R-070…R-081: entries of any shape, with a liking for each other.
    let url = prop_oneof![
        "(Task|Patient|Observation|Nope)(/[a-z0-9]{1,2})?(/_history(/[0-9])?)?",
        "(Task|Patient)\\?(identifier|_id|subject|_summary)=[!-~]{0,8}",
        "[ -~]{0,12}",
    ];
    let verb = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "BREW"]);
    let name = prop::sample::select(vec![
        "urn:uuid:a",
        "urn:uuid:b",
        "http://ehr.test/fhir/Patient/1",
        "Patient?identifier=a",
    ]);
    let demand = prop::sample::select(vec!["*", "W/\"1\"", "\"2\", \"3\"", "x", "identifier=a"]);
    let entry = (verb, url, name.clone(), name, demand, tree.clone()).prop_map(|(method, url, own, other, demand, tree)| {
        let kind = url.split(['/', '?']).next().unwrap_or_default().to_string();
        let resource = json!({"resourceType": kind, "status": "final", "code": {"text": "x"}, "subject": {"reference": other},
            "extension": [{"url": "http://x.test", "valueUri": own}], "note": tree});
        json!({"fullUrl": own, "resource": resource, "request":
            {"method": method, "url": url, "ifMatch": demand, "ifNoneExist": demand}})
    });
    let bundle = (prop::sample::select(vec!["batch", "transaction"]), prop::collection::vec(entry, 0..4)).prop_map(
        |(kind, entries)| json!({"resourceType": "Bundle", "type": kind, "entry": entries}).to_string().into_bytes(),
    );
    let body = prop_oneof![
        bundle,
        prop::collection::vec(any::<u8>(), 0..64),
        tree.prop_map(|value| value.to_string().into_bytes()),
        resource
    ];
    let kind = prop::sample::select(vec![
        "application/fhir+json",
        "application/fhir+xml",
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "",
    ]);
    (method.prop_map(str::to_string), path, body, kind.prop_map(str::to_string))
}

// G-178
#[test]
fn nothing_that_is_thrown_at_it_breaks_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let county = runtime.block_on(async {
        let settings = format!("[limits]\nrequests_per_minute = 1000000\n{}", partners());
        TestGateway::with(Place::sqlite(), &settings).await
    });
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_500);
    let mut runner = TestRunner::new(Runs { cases, failure_persistence: None, ..Runs::default() });
    let router = county.gateway.router();
    let router = AssertUnwindSafe(&router);
    let result = runner.run(&anything(), |(method, path, body, kind)| {
        let who = if body.len() % 3 == 0 { "Bearer root" } else { "Bearer clinic" };
        let headers = [("authorization", who), ("content-type", kind.as_str())];
        let Some(answer) = runtime.block_on(send(&router, &method, &path, &headers, body.into())) else {
            return Ok(());
        };
        prop_assert!(answer.status < 500, "{} {}: {}", method, path, answer.body);
        prop_assert!(answer.headers.contains_key("x-request-id"));
        if answer.status >= 400 && method != "HEAD" {
            prop_assert!(is_outcome(&answer), "{} {}: {} {}", method, path, answer.status, answer.body);
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
