//! PATCH as a client sees it: the same rights and steps as PUT, and nothing half applied.

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, TestGateway, county};
use crate::on_both;

const JSON_PATCH: (&str, &str) = ("content-type", "application/json-patch+json");

impl TestGateway {
    /// A JSON Patch.
    async fn patch(&self, partner: &str, path: &str, operations: Value) -> Answered {
        self.ask(partner, "PATCH", path, Some(&operations), &[JSON_PATCH]).await
    }
}

/// A FHIRPath Patch of one operation.
fn operation(type_: &str, path: &str, further: Value) -> Value {
    let mut parts = vec![json!({"name": "type", "valueCode": type_}), json!({"name": "path", "valueString": path})];
    parts.extend(further.as_array().unwrap().iter().cloned());
    json!({"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]})
}

fn to(status: &str) -> Value {
    json!({"op": "replace", "path": "/status", "value": status})
}

async fn at_the_agency(place: Place) -> (TestGateway, String, String) {
    let county = TestGateway::with(place, &county()).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    (county, task, theirs)
}

// the steps of an owner, as it would PUT them.
//
on_both!(a_target_patches_its_task_to_the_end, async |place: Place| {
    let (county, task, theirs) = at_the_agency(place).await;
    let path = format!("Task/{theirs}");
    let accepted = county
        .patch("agency", &path, json!([{"op": "test", "path": "/status", "value": "requested"}, to("accepted")]))
        .await;
    assert_eq!((accepted.status, &accepted.body["status"]), (200, &json!("accepted")), "{}", accepted.body);
    assert_eq!(accepted.headers["etag"], format!("W/\"{}\"", accepted.body["meta"]["versionId"].as_str().unwrap()));
    assert_eq!(county.status(&task).await, "in-progress");
    let note = json!([{"name": "name", "valueString": "note"}, {"name": "value", "valueAnnotation": {"text": "call after five"}}]);
    let noted = county.ask("agency", "PATCH", &path, Some(&operation("add", "Task", note)), &[]).await;
    assert_eq!((noted.status, &noted.body["note"][0]["text"]), (200, &json!("call after five")), "{}", noted.body);
    let value = json!([{"name": "value", "valueCode": "completed"}]);
    let done = county.ask("agency", "PATCH", &path, Some(&operation("replace", "Task.status", value)), &[]).await;
    assert_eq!((done.status, &done.body["status"]), (200, &json!("completed")), "{}", done.body);
    assert_eq!(county.status(&task).await, "completed");
    assert_eq!(done.body, county.task(&theirs).await);
});

// R-049, D3, D4
#[tokio::test]
async fn a_patch_may_no_more_than_a_put_and_nothing_is_half_applied() {
    let (county, _, theirs) = at_the_agency(Place::sqlite()).await;
    let path = format!("Task/{theirs}");
    let before = county.task(&theirs).await;
    let add = json!({"op": "add", "path": "/note", "value": [{"text": "x"}]});
    for (operations, status, expression, code) in [
        (json!([add, to("in-progress")]), 422, "Task.status", "business-rule"),
        (json!([add, to("rejected")]), 422, "Task.statusReason.text", "required"),
        (json!([add, to("done")]), 422, "Task.status", "code-invalid"),
        (json!([add, {"op": "test", "path": "/status", "value": "accepted"}]), 422, "Task.status", "conflict"),
        (json!([add, {"op": "remove", "path": "/output"}]), 422, "Task.output", "not-found"),
        (json!([add, {"op": "add", "path": "/colour", "value": "blue"}]), 422, "Task.colour", "structure"),
        (json!([add, {"op": "replace", "path": "/id", "value": "other"}]), 422, "Task.id", "invalid"),
    ] {
        let refused = county.patch("agency", &path, operations.clone()).await;
        assert_eq!((refused.status, refused.expression()), (status, expression), "{operations} {}", refused.body);
        assert_eq!(refused.body["issue"][0]["code"], code, "{operations} {}", refused.body);
    }
    let wrong = operation("replace", "Task.colour", json!([{"name": "value", "valueCode": "blue"}]));
    let refused = county.ask("agency", "PATCH", &path, Some(&wrong), &[]).await;
    assert_eq!((refused.status, refused.expression()), (422, "Parameters.parameter[0]"));
    for (body, media, status) in [
        (json!([{"op": "rename"}]), JSON_PATCH.1, 400),
        (json!({"resourceType": "Task"}), "application/fhir+json", 400),
        (operation("replace", "Task.(", json!([])), "application/fhir+json", 400),
        (json!([]), "application/merge-patch+json", 415),
        //
        (json!([]), "application/xml-patch+xml", 415),
    ] {
        let refused = county.ask("agency", "PATCH", &path, Some(&body), &[("content-type", media)]).await;
        assert_eq!(refused.status, status, "{media} {body} {}", refused.body);
    }
    // What an owner may not change is ignored, as with PUT.
    let ignored = county.patch("agency", &path, json!([{"op": "replace", "path": "/priority", "value": "stat"}])).await;
    assert_eq!((ignored.status, &ignored.body), (200, &before));
    assert_eq!(county.task(&theirs).await, before);
}

// R-044, D10
#[tokio::test]
async fn a_stale_if_match_is_412_and_a_patch_that_changes_nothing_makes_no_version() {
    let (county, _, theirs) = at_the_agency(Place::sqlite()).await;
    let path = format!("Task/{theirs}");
    let version = county.task(&theirs).await["meta"]["versionId"].as_str().unwrap().to_string();
    let tag = |version: &str| format!("W/\"{version}\"");
    let patch = async |operations: Value, headers: &[(&str, &str)]| {
        let headers: Vec<(&str, &str)> = [JSON_PATCH].into_iter().chain(headers.iter().copied()).collect();
        county.ask("agency", "PATCH", &path, Some(&operations), &headers).await
    };
    let nothing = patch(json!([]), &[("if-match", &tag(&version))]).await;
    assert_eq!((nothing.status, &nothing.body["meta"]["versionId"]), (200, &json!(version)));
    assert_eq!(patch(json!([to("accepted")]), &[("if-match", "W/\"77\"")]).await.status, 412);
    // The version is looked at before the patch: who is late is told so.
    assert_eq!(patch(json!([{"op": "remove", "path": "/x"}]), &[("if-match", "W/\"77\"")]).await.status, 412);
    let minimal = patch(json!([to("accepted")]), &[("if-match", &tag(&version)), ("prefer", "return=minimal")]).await;
    assert_eq!((minimal.status, &minimal.body), (200, &Value::Null));
    assert_eq!(county.status(&theirs).await, "accepted");
    assert_eq!(patch(json!([to("in-progress")]), &[("if-match", &tag(&version))]).await.status, 412);
}

// G-057, D11: no test operation tells a stranger what stands there.
#[tokio::test]
async fn who_may_not_change_a_resource_learns_nothing_from_a_patch() {
    let (county, task, theirs) = at_the_agency(Place::sqlite()).await;
    let test = |value: &str| json!([{"op": "test", "path": "/status", "value": value}]);
    for (partner, id) in [("kitchen", &theirs), ("clinic", &theirs), ("kitchen", &task), ("agency", &task)] {
        let status = county.status(id).await;
        for value in [status.as_str(), "draft"] {
            let refused = county.patch(partner, &format!("Task/{id}"), test(value)).await;
            assert_eq!(refused.status, 404, "{partner} {}", refused.body);
        }
    }
    assert_eq!(county.patch("clinic", "Task/none", test("draft")).await.status, 404);
    let directory =
        county.patch("clinic", "Organization/agency", json!([{"op": "test", "path": "/name", "value": "x"}])).await;
    assert!([403, 405].contains(&directory.status), "{}", directory.body);
    assert_eq!(county.patch("clinic", "Provenance/1", json!([])).await.status, 405);
}

//
#[tokio::test]
async fn a_conditional_patch_finds_one_or_none_or_too_many() {
    let county = TestGateway::county().await;
    let patient = |value: &str| json!({"resourceType": "Patient", "gender": "female", "identifier": [{"system": "urn:p", "value": value}]});
    let first = county.post("clinic", "Patient", &patient("a")).await;
    let change = json!([{"op": "replace", "path": "/gender", "value": "unknown"}]);
    let found = county.patch("clinic", "Patient?identifier=urn:p|a", change.clone()).await;
    assert_eq!((found.status, found.id(), &found.body["gender"]), (200, first.id(), &json!("unknown")));
    assert_eq!(county.patch("clinic", "Patient?identifier=urn:p|b", change.clone()).await.status, 404);
    county.post("clinic", "Patient", &patient("a")).await;
    assert_eq!(county.patch("clinic", "Patient?identifier=urn:p|a", change.clone()).await.status, 412);
    assert_eq!(county.patch("clinic", "Patient", change).await.status, 400);
}

//
#[tokio::test]
async fn a_narrative_is_not_left_to_lie() {
    let county = TestGateway::county().await;
    let patient = |status: &str| {
        json!({"resourceType": "Patient", "gender": "female",
        "text": {"status": status, "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">female</div>"}})
    };
    let change = json!([{"op": "replace", "path": "/gender", "value": "male"}]);
    let generated = county.post("clinic", "Patient", &patient("generated")).await.id();
    let changed = county.patch("clinic", &format!("Patient/{generated}"), change.clone()).await;
    assert_eq!((changed.status, &changed.body["text"]), (200, &Value::Null));
    let additional = county.post("clinic", "Patient", &patient("additional")).await.id();
    let refused = county.patch("clinic", &format!("Patient/{additional}"), change).await;
    assert_eq!((refused.status, refused.expression()), (422, "Patient.text"));
}

//
on_both!(patches_stand_in_batches_and_transactions, async |place: Place| {
    let (county, task, theirs) = at_the_agency(place).await;
    county.patch("agency", &format!("Task/{theirs}"), json!([to("accepted")])).await;
    let url = format!("Task/{theirs}");
    let subject = county.task(&theirs).await["for"].clone();
    let procedure = json!({"resourceType": "Procedure", "status": "completed", "subject": subject, "performedDateTime": "2026-11-26T10:00:00Z",
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "710925007"}]}, "basedOn": [county.task(&theirs).await["focus"]]});
    let output = json!([{"name": "name", "valueString": "output"}, {"name": "value", "part": [
        {"name": "type", "valueCodeableConcept": {"coding": [{
            "system": "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes", "code": "resulting-activity"}]}},
        {"name": "value", "valueReference": {"reference": "urn:uuid:1f4e8c1a-0000-4000-8000-000000000001"}}]}]);
    let mut done = operation("add", "Task", output);
    let status = json!([{"name": "value", "valueCode": "completed"}]);
    let also = operation("replace", "Task.status", status)["parameter"][0].clone();
    done["parameter"].as_array_mut().unwrap().push(also);
    let bundle = |kind: &str, patch: &Value| {
        json!({"resourceType": "Bundle", "type": kind, "entry": [
        {"resource": patch, "request": {"method": "PATCH", "url": url}},
        {"fullUrl": "urn:uuid:1f4e8c1a-0000-4000-8000-000000000001", "resource": procedure, "request": {"method": "POST", "url": "Procedure"}}]})
    };
    // One that is refused takes the other with it.
    let illegal = operation("replace", "Task.status", json!([{"name": "value", "valueCode": "requested"}]));
    let refused = county.post("agency", "", &bundle("transaction", &illegal)).await;
    assert_eq!((refused.status, refused.expression()), (422, "Bundle.entry[0].resource.status"), "{}", refused.body);
    assert!(county.get("agency", "Procedure").await.entries().is_empty());
    assert_eq!(county.status(&theirs).await, "accepted");

    let both = county.post("agency", "", &bundle("transaction", &done)).await;
    assert_eq!(both.status, 200, "{}", both.body);
    let now = county.task(&theirs).await;
    let made = county.get("agency", "Procedure").await.entries();
    assert_eq!((made.len(), &now["status"]), (1, &json!("completed")));
    let outputs = now["output"].as_array().unwrap();
    let expected = format!("Procedure/{}", made[0]["id"].as_str().unwrap());
    assert!(outputs.iter().all(|one| one["valueReference"]["reference"] == expected.as_str()), "{outputs:?}");
    assert_eq!(county.status(&task).await, "completed");

    // A JSON Patch comes as a Binary.
    let binary = json!({"resourceType": "Binary", "contentType": JSON_PATCH.1,
        "data": "W3sib3AiOiJhZGQiLCJwYXRoIjoiL25vdGUiLCJ2YWx1ZSI6W3sidGV4dCI6ImJ5ZSJ9XX1d"});
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"resource": binary, "request": {"method": "PATCH", "url": url}},
        {"resource": illegal, "request": {"method": "PATCH", "url": url}},
        {"resource": binary, "request": {"method": "PATCH", "url": "Task/none"}}]});
    let batch = county.post("agency", "", &batch).await;
    let codes: Vec<&Value> =
        batch.body["entry"].as_array().unwrap().iter().map(|one| &one["response"]["status"]).collect();
    assert_eq!(codes, ["200", "422", "404"], "{}", batch.body);
    assert_eq!(county.task(&theirs).await["note"][0]["text"], "bye");
});

// D10: patches without a version follow each other; none is lost.
on_both!(patches_at_the_same_time_all_count, async |place: Place| {
    let (county, _, theirs) = at_the_agency(place).await;
    let path = format!("Task/{theirs}");
    county
        .patch("agency", &path, json!([to("accepted"), {"op": "add", "path": "/note", "value": [{"text": "0"}]}]))
        .await;
    let add =
        |text: &str| county.patch("agency", &path, json!([{"op": "add", "path": "/note/-", "value": {"text": text}}]));
    let answers = tokio::join!(add("1"), add("2"), add("3"), add("4"));
    assert_eq!([answers.0.status, answers.1.status, answers.2.status, answers.3.status], [200; 4]);
    let notes = county.task(&theirs).await["note"].as_array().unwrap().len();
    assert_eq!(notes, 5);
});
