//! The simulated server beside what public servers do.

use super::*;

const BASE: &str = "http://127.0.0.1:4711/fhir";
const NOON: &str = "2026-08-03T12:00:00Z";

fn server() -> FhirServer {
    let mut server = FhirServer::new(BASE);
    server.set_now(NOON);
    server
}

fn ask(server: &mut FhirServer, method: &str, target: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.answer(&Request { method: method.to_owned(), target: format!("/fhir{target}"), headers, body })
}

fn get(server: &mut FhirServer, target: &str) -> (u16, Value) {
    let response = ask(server, "GET", target, &[], &Value::Null);
    (response.status, serde_json::from_str(&response.body).unwrap_or_default())
}

fn ids(server: &mut FhirServer, target: &str) -> String {
    let (status, bundle) = get(server, target);
    assert_eq!((status, text(&bundle, "type")), (200, "searchset"), "{target}");
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| text(&entry["resource"], "id")).collect::<Vec<_>>().join(" ")
}

fn shown<'a>(response: &'a Response, name: &str) -> &'a str {
    header(&response.headers, name).unwrap_or_default()
}

#[test]
fn a_created_resource_is_read_and_updated_by_version() {
    let mut server = server();
    let task = json!({ "resourceType": "Task", "id": "mine", "meta": { "profile": ["p"], "versionId": "9" } });
    let created = ask(&mut server, "POST", "/Task", &[], &task);
    assert_eq!(created.status, 201);
    assert_eq!(shown(&created, "location"), format!("{BASE}/Task/1/_history/1"));
    assert_eq!(shown(&created, "etag"), "W/\"1\"");
    assert_eq!(shown(&created, "last-modified"), "Mon, 03 Aug 2026 12:00:00 GMT");
    let stored: Value = serde_json::from_str(&created.body).unwrap();
    assert_eq!(stored["meta"], json!({ "profile": ["p"], "versionId": "1", "lastUpdated": NOON }));

    for (tag, status) in [("W/\"2\"", 412), ("\"1\"", 200), ("W/\"2\"", 200), ("\"2\"", 412)] {
        assert_eq!(ask(&mut server, "PUT", "/Task/1", &[("if-match", tag)], &stored).status, status, "{tag}");
    }
    assert_eq!(server.history("Task", "1").len(), 3);
    assert_eq!(get(&mut server, "/Task/1/_history/2").1["meta"]["versionId"], "2");
    let (status, outcome) = get(&mut server, "/Task/2");
    assert_eq!((status, text(&outcome, "resourceType")), (404, "OperationOutcome"));
    let other = json!({ "resourceType": "Task", "id": "t" });
    assert_eq!(ask(&mut server, "PUT", "/Task/t", &[("If-Match", "\"1\"")], &other).status, 412);
    assert_eq!(ask(&mut server, "PUT", "/Task/t", &[], &other).status, 201);
    assert_eq!(ask(&mut server, "PUT", "/Task/u", &[], &other).status, 400);
}

#[test]
fn local_acts_make_versions() {
    let mut server = server();
    assert_eq!(server.put(json!({ "resourceType": "Patient", "id": "1" })), "1");
    assert_eq!(server.put(json!({ "resourceType": "Patient" })), "2");
    assert!(server.update("Patient", "1", |patient| patient["active"] = json!(true)));
    assert!(!server.update("Patient", "x", |_| ()));
    assert_eq!(server.get("Patient", "1").unwrap()["meta"]["versionId"], "2");
    assert_eq!((server.all("Patient").len(), server.history("Patient", "1").len()), (2, 2));
}

#[test]
fn a_conditional_create_happens_once_where_it_is_offered() {
    let mut server = server();
    let task = json!({ "resourceType": "Task", "identifier": [{ "system": "urn:s", "value": "a b" }] });
    let condition = [("If-None-Exist", "identifier=urn:s%7Ca%20b")];
    let mut post = |condition| ask(&mut server, "POST", "/Task", condition, &task);
    assert_eq!(post(&condition).status, 201);
    let again = post(&condition);
    assert_eq!((again.status, shown(&again, "Location")), (200, &*format!("{BASE}/Task/1/_history/1")));
    assert_eq!(post(&[("If-None-Exist", "colour=red")]).status, 400);
    assert_eq!(post(&[]).status, 201);
    assert_eq!(post(&condition).status, 412);
    server.set_if_none_exist(false);
    assert_eq!(ask(&mut server, "POST", "/Task", &condition, &task).status, 201);
}

#[test]
fn searches_find_by_reference_token_and_time() {
    let mut server = server();
    for (id, now) in [("a", "2026-08-03T10:00:00.250Z"), ("b", "2026-08-03T11:00:00Z"), ("c", NOON)] {
        server.set_now(now);
        server.put(json!({
            "resourceType": "Task", "id": id, "status": if id == "a" { "requested" } else { "accepted" },
            "owner": { "reference": match id { "a" => "Organization/hub", "b" => "http://hub/fhir/Organization/hub",
                _ => "http://127.0.0.1:4711/fhir/Organization/hub" } },
            "for": { "reference": "Patient/p" },
            "partOf": [{ "reference": "http://hub/fhir/Task/0" }],
            "identifier": [{ "system": "urn:s", "value": id }],
            "code": { "coding": [{ "system": "urn:c", "code": "fulfill" }] },
        }));
    }
    for (query, expected) in [
        ("", "a b c"),
        ("?owner=Organization/hub", "a b c"),
        ("?owner=http%3A%2F%2Fhub/fhir/Organization/hub", "b"),
        ("?owner=http://127.0.0.1:4711/fhir/Organization/hub", "a c"),
        ("?owner=Organization/ub", ""),
        ("?patient=p&colour=red", "a b c"),
        ("?subject=Patient/p&status=accepted", "b c"),
        ("?status=requested,accepted&_id=a,c", "a c"),
        ("?part-of=http://hub/fhir/Task/0&identifier=urn:s|b,c", "b c"),
        ("?identifier=other|a", ""),
        ("?code=urn:c|fulfill&_id=b", "b"),
        ("?_lastUpdated=gt2026-08-03T11:00:00Z", "c"),
        ("?_lastUpdated=ge2026-08-03T13:00:00%2B02:00", "b c"),
        ("?_lastUpdated=ge2026-08-03T13:00:00+02:00&_lastUpdated=lt2026-08-03T12:00:00Z", "b"),
        ("?_lastUpdated=le2026-08-03T10:00:00.250000Z", "a"),
        ("?_lastUpdated=2026-08-03T11:00:00Z", "b"),
        ("?_lastUpdated=eq2026-08-03", "a b c"),
        ("?_sort=-_lastUpdated", "c b a"),
        ("?_sort=_lastUpdated", "a b c"),
        ("?_count=0", ""),
    ] {
        assert_eq!(ids(&mut server, &format!("/Task{query}")), expected, "{query}");
    }
    assert_eq!(get(&mut server, "/Task?_lastUpdated=gtsoon").0, 400);
    let (_, bundle) = get(&mut server, "/Task?_id=a&colour=red");
    assert_eq!(bundle["meta"]["lastUpdated"], NOON);
    assert_eq!(bundle["entry"][0]["fullUrl"], format!("{BASE}/Task/a"));
    assert_eq!(bundle["entry"][0]["search"]["mode"], "match");
    assert_eq!(bundle["link"][0]["url"], format!("{BASE}/Task?_id=a"));
}

#[test]
fn pages_stand_still_while_resources_change() {
    let mut server = server();
    server.set_page_size(2);
    (0..5).for_each(|_| drop(server.put(json!({ "resourceType": "Task" }))));
    let mut next = format!("{BASE}/Task?_sort=-_lastUpdated&_count=50");
    let mut seen = Vec::new();
    while !next.is_empty() {
        let request = Request { method: "GET".to_owned(), target: next.clone(), ..Request::default() };
        let bundle: Value = serde_json::from_str(&server.answer(&request).body).unwrap();
        assert_eq!(bundle["total"], 5);
        seen.extend(bundle["entry"].as_array().unwrap().iter().map(|e| text(&e["resource"], "id").to_owned()));
        next = text(&bundle["link"][1], "url").to_owned();
        server.set_now("2026-08-03T13:00:00Z");
        server.update("Task", "1", |_| ());
    }
    assert_eq!(seen, ["5", "4", "3", "2", "1"]);
    assert_eq!(get(&mut server, "/Task?_getpages=99").0, 410);
}

#[test]
fn a_batch_answers_each_entry_and_a_transaction_all_or_none() {
    let mut server = server();
    server.put(json!({ "resourceType": "Patient", "id": "p" }));
    let gets = |urls: &[&str]| {
        urls.iter().map(|url| json!({ "request": { "method": "GET", "url": url } })).collect::<Vec<_>>()
    };
    let urls = ["Patient/p", "Patient/q", "http://127.0.0.1:4711/fhir/Patient?_id=p"];
    let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": gets(&urls) });
    let answer = ask(&mut server, "POST", "", &[], &batch);
    let bundle: Value = serde_json::from_str(&answer.body).unwrap();
    let statuses: Vec<&str> = (0..3).map(|at| text(&bundle["entry"][at]["response"], "status")).collect();
    assert_eq!((text(&bundle, "type"), statuses), ("batch-response", vec!["200", "404", "200"]));
    assert_eq!(bundle["entry"][1]["response"]["outcome"]["resourceType"], "OperationOutcome");
    assert_eq!(bundle["entry"][2]["resource"]["total"], 1);
    server.set_batch(false);
    assert_eq!(ask(&mut server, "POST", "/", &[], &batch).status, 405);

    let mut entry = gets(&["ServiceRequest"]);
    entry.push(json!({
        "resource": { "resourceType": "Task", "id": "t", "focus": { "reference": "urn:uuid:1" } },
        "request": { "method": "PUT", "url": "http://127.0.0.1:4711/fhir/Task/t/_history/3" },
    }));
    entry.push(json!({
        "fullUrl": "urn:uuid:1",
        "resource": { "resourceType": "ServiceRequest" },
        "request": { "method": "POST", "url": "ServiceRequest" },
    }));
    let mut transaction = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entry });
    let answer = ask(&mut server, "POST", "/", &[], &transaction);
    let bundle: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, text(&bundle, "type")), (200, "transaction-response"));
    assert_eq!(bundle["entry"][0]["resource"]["total"], 1);
    assert_eq!(bundle["entry"][2]["response"]["location"], format!("{BASE}/ServiceRequest/1/_history/1"));
    assert_eq!(server.get("Task", "t").unwrap()["focus"]["reference"], "ServiceRequest/1");

    transaction["entry"][0]["request"]["url"] = json!("Patient/q");
    assert_eq!(ask(&mut server, "POST", "/", &[], &transaction).status, 404);
    assert_eq!((server.history("Task", "t").len(), server.all("ServiceRequest").len()), (1, 1));
}

#[test]
fn the_capability_statement_says_what_is_offered() {
    let mut server = server();
    for offered in [true, false] {
        server.set_batch(offered);
        server.set_if_none_exist(offered);
        let (_, statement) = get(&mut server, "/metadata");
        let rest = &statement["rest"][0];
        assert_eq!(rest["resource"][0]["conditionalCreate"], offered);
        assert_eq!(rest["interaction"].as_array().unwrap().contains(&json!({ "code": "batch" })), offered);
        assert_eq!(statement["fhirVersion"], "4.0.1");
    }
}

#[test]
fn it_refuses_what_it_does_not_offer_and_fails_when_told_to() {
    let mut server = server();
    server.fail_next(vec![503, 500]);
    let task = json!({ "resourceType": "Task" });
    for (method, target, body, status) in [
        ("POST", "/Task", &task, 503),
        ("POST", "/Task", &task, 500),
        ("POST", "/Task", &Value::Null, 400),
        ("POST", "/Patient", &task, 400),
        ("POST", "/Subscription", &json!({ "resourceType": "Subscription" }), 404),
        ("DELETE", "/Task/1", &Value::Null, 405),
        ("GET", "", &Value::Null, 405),
        ("PUT", "/Task", &task, 405),
        ("GET", "/Task/1/$x/y", &Value::Null, 404),
        ("GET", "x/Task", &Value::Null, 404),
        ("GET", "//metadata", &Value::Null, 200),
    ] {
        let answer = ask(&mut server, method, target, &[], body);
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(answer.body.contains("OperationOutcome"), status >= 400);
    }
    assert!(server.all("Task").is_empty());
    assert_eq!(server.log().len(), 11);
    assert_eq!(server.log()[5], "DELETE /Task/1 -> 405");
    assert_eq!(server.log()[9], "GET /fhirx/Task -> 404");
}

#[test]
fn a_required_token_is_checked() {
    let mut server = server();
    server.require_bearer("secret");
    let refused = ask(&mut server, "GET", "/Task", &[("authorization", "Bearer other")], &Value::Null);
    assert_eq!((refused.status, shown(&refused, "WWW-Authenticate")), (401, "Bearer"));
    assert_eq!(ask(&mut server, "GET", "/Task", &[("authorization", "bearer secret")], &Value::Null).status, 200);
    assert_eq!(get(&mut server, "/metadata").0, 200);
    assert_eq!(server.log(), ["GET /Task -> 401", "GET /Task -> 200", "GET /metadata -> 200"]);
}
