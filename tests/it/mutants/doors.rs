//! The same mutants at every door: POST, PUT, PATCH, a transaction, a batch, `$validate` and `loopgate validate`, in JSON
//! and in XML. What a door refuses it does not keep, and it names the element.

use std::process::Command;

use axum::body::Body;
use axum::http::Request;
use loopgate::demo::patient;
use loopgate::fhir::xml;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::gateway::{Answered, TestGateway};
use crate::validation::set;

/// What is put where (null: taken out), the element told, the status; `false` where XML can't say it.
const MUTANTS: &[(&str, &str, &str, u16, bool)] = &[
    ("/status", "\"done\"", "Task.status", 422, true),
    ("/intent", "\"plan\"", "Task.intent", 422, true),
    ("/intent", "null", "Task.intent", 422, true),
    ("/code", "null", "Task.code", 422, true),
    ("/code/coding/0/code", "\"approve\"", "Task.code", 422, true),
    ("/focus", "null", "Task.focus", 422, true),
    ("/focus/reference", "\"Patient/1\"", "Task.focus", 422, true),
    ("/for/reference", "\"Device/1\"", "Task.for", 422, true),
    ("/authoredOn", "null", "Task.authoredOn", 422, true),
    ("/authoredOn", "\"2026-02-30\"", "Task.authoredOn", 422, true),
    ("/requester/reference", "\"Practitioner/1\"", "Task.requester", 422, true),
    ("/statusReason", "{\"coding\": [{\"code\": \"x\"}]}", "Task.statusReason.text", 422, true),
    ("/priority", "\"soon\"", "Task.priority", 422, true),
    ("/executionPeriod", "{\"start\": \"2026\", \"end\": \"2025\"}", "Task.executionPeriod", 422, true),
    ("/note", "[{\"time\": \"2026\"}]", "Task.note[0].text", 422, true),
    ("/output", "[{\"type\": {\"text\": \"x\"}}]", "Task.output[0].value", 422, true),
    ("/location", "{\"reference\": \"#nowhere\"}", "Task.location", 422, true),
    ("/restriction", "{\"repetitions\": 0}", "Task.restriction.repetitions", 422, true),
    ("/note", "[]", "Task.note", 422, false),
    ("/colour", "\"red\"", "Task.colour", 400, false),
    ("/description", "7", "Task.description", 400, false),
    ("/priority", "[\"routine\"]", "Task.priority", 400, false),
];

fn good() -> Value {
    patient::referral_task(
        None,
        "https://mercy.example/fhir/ServiceRequest/sr1",
        "Organization/clinic",
        "Patient/x",
        Some("Organization/hub"),
        "2026-01-02T03:04:05Z",
    )
}

fn mutants() -> impl Iterator<Item = (Value, &'static str, u16, bool)> {
    MUTANTS.iter().map(|(pointer, put, told, status, in_xml)| {
        let mut mutant = good();
        let value: Value = serde_json::from_str(put).unwrap();
        let here = mutant.pointer(pointer).is_some();
        if !value.is_null() || here {
            set(&mut mutant, pointer, Some(value).filter(|value| !value.is_null()));
        }
        (mutant, *told, *status, *in_xml)
    })
}

/// Where the errors of an outcome are, without what a Bundle's entry puts before it.
fn told(outcome: &Value) -> Vec<String> {
    let issues = outcome["issue"].as_array().into_iter().flatten();
    let errors =
        issues.filter(|issue| issue["severity"] == "error").filter_map(|issue| issue["expression"][0].as_str());
    errors.map(|at| at.split_once(".resource.").map_or(at.to_string(), |(_, rest)| format!("Task.{rest}"))).collect()
}

fn refuses(what: &str, answer: &Answered, element: &str, status: u16) {
    assert_eq!(answer.status, status, "{what} of {element}: {}", answer.body);
    assert!(told(&answer.body).iter().any(|at| at == element), "{what} of {element}: {}", answer.body);
}

// G-003, R-141, D16b
#[tokio::test]
async fn every_door_refuses_what_breaks_one_rule() {
    let county = TestGateway::county().await;
    let mut count = 0;
    let before = county.get("root", "Task?_summary=count").await.body["total"].clone();
    for (mutant, element, status, in_xml) in mutants() {
        refuses("POST", &county.post("clinic", "Task", &mutant).await, element, status);
        let mut named = mutant.clone();
        named["id"] = json!("mutant");
        refuses("PUT", &county.put("root", "Task/mutant", &named).await, element, status);
        let entry = json!({"fullUrl": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "resource": mutant, "request": {"method": "POST", "url": "Task"}});
        let bundle = |kind: &str| json!({"resourceType": "Bundle", "type": kind, "entry": [entry]});
        refuses("transaction", &county.post("clinic", "", &bundle("transaction")).await, element, status);
        let batch = county.post("clinic", "", &bundle("batch")).await;
        assert_eq!(batch.status, 200, "{}", batch.body);
        let answer = &batch.body["entry"][0]["response"];
        assert!(answer["status"].as_str().unwrap().starts_with(&status.to_string()), "{element}: {answer}");
        assert!(told(&answer["outcome"]).iter().any(|at| at == element), "batch of {element}: {answer}");
        let validated = county.post("clinic", "Task/$validate", &mutant).await;
        assert!(told(&validated.body).iter().any(|at| at == element), "$validate of {element}: {}", validated.body);
        count += 5;
        if in_xml {
            let answer = county.raw("clinic", "POST", "Task", "application/fhir+xml", xml::write(&mutant)).await;
            refuses("POST in XML", &answer, element, status);
            let answer =
                county.raw("clinic", "POST", "Task/$validate", "application/fhir+xml", xml::write(&mutant)).await;
            assert!(
                told(&answer.body).iter().any(|at| at == element),
                "$validate in XML of {element}: {}",
                answer.body
            );
            count += 2;
        }
    }
    assert!(count > 140, "{count}");
    // Nothing of it was kept.
    assert_eq!(county.get("root", "Task?_summary=count").await.body["total"], before);
}

/// A patch is judged by what it makes; it is no malformed request.
#[tokio::test]
async fn a_patch_that_breaks_a_rule_is_refused() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    let path = format!("Task/{task}");
    let before = county.task(&task).await;
    for (pointer, put, element, ..) in MUTANTS.iter().filter(|mutant| {
        !matches!(mutant.0, "/code/coding/0/code" | "/focus/reference" | "/for/reference" | "/requester/reference")
    }) {
        let value: Value = serde_json::from_str(put).unwrap();
        let there = before.pointer(pointer).is_some();
        let operation = match (value.is_null(), there) {
            (true, _) => json!([{"op": "remove", "path": pointer}]),
            (false, _) => json!([{"op": "add", "path": pointer, "value": value}]),
        };
        let answer = county
            .ask("clinic", "PATCH", &path, Some(&operation), &[("content-type", "application/json-patch+json")])
            .await;
        refuses("PATCH", &answer, element, 422);
    }
    assert_eq!(county.task(&task).await, before);
}

#[test]
fn the_command_line_tells_the_same_of_json_and_xml() {
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    for (number, (mutant, element, _, in_xml)) in mutants().enumerate() {
        let file = folder.path().join(format!("{number}.json"));
        std::fs::write(&file, mutant.to_string()).unwrap();
        wanted.push((file, element));
        if in_xml {
            let file = folder.path().join(format!("{number}.xml"));
            std::fs::write(&file, xml::write(&mutant)).unwrap();
            wanted.push((file, element));
        }
    }
    let run = Command::new(env!("CARGO_BIN_EXE_loopgate"))
        .arg("validate")
        .args(wanted.iter().map(|(file, _)| file))
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(text.lines().count(), wanted.len());
    for (line, (file, element)) in text.lines().zip(&wanted) {
        let outcome: Value = serde_json::from_str(line).unwrap();
        assert!(told(&outcome).iter().any(|at| at == element), "{} {element}: {line}", file.display());
    }
}

impl TestGateway {
    /// A body of any media type; the answer is JSON.
    async fn raw(&self, partner: &str, method: &str, path: &str, kind: &str, body: String) -> Answered {
        let request = Request::builder().method(method).uri(format!("/fhir/{path}"));
        let request = request.header("authorization", format!("Bearer {partner}")).header("content-type", kind);
        let request = request.header("accept", "application/fhir+json").body(Body::from(body)).unwrap();
        let response = self.gateway.router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answered { status, headers: Default::default(), body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }
}
