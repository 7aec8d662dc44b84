//! What patches do, and what they refuse.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn task() -> Resource {
    Resource::from_value(json!({
        "resourceType": "Task", "id": "t1",
        "meta": {"versionId": "3", "lastUpdated": "2026-11-26T10:00:00Z"},
        "status": "accepted", "intent": "order",
        "description": "d", "_description": {"extension": [{"url": "http://x", "valueCode": "y"}]},
        "note": [{"text": "one"}, {"text": "two"}],
        "input": [{"type": {"text": "a"}, "valueString": "x"}],
        "instantiatesUri": "urn:a"
    }))
    .unwrap()
}

fn bounds() -> Bounds {
    Bounds::default()
}

fn json_patch(operations: Value) -> Result<Resource, Error> {
    Patch::json(operations)?.apply(&task(), bounds())
}

/// Operations as (type, path, further parts).
fn path_patch(resource: &Resource, operations: &[(&str, &str, Value)]) -> Result<Resource, Error> {
    let operation = |(type_, path, further): &(&str, &str, Value)| {
        let mut parts = vec![json!({"name": "type", "valueCode": type_}), json!({"name": "path", "valueString": path})];
        parts.extend(further.as_array().into_iter().flatten().cloned());
        json!({"name": "operation", "part": parts})
    };
    let all: Vec<Value> = operations.iter().map(operation).collect();
    Patch::parameters(&json!({"resourceType": "Parameters", "parameter": all}))?.apply(resource, bounds())
}

fn value(key: &str, value: Value) -> Value {
    let mut part = json!({"name": "value"});
    part[key] = value;
    part
}

fn name(text: &str) -> Value {
    json!({"name": "name", "valueString": text})
}

// R-050
#[test]
fn a_json_patch_does_what_rfc_6902_says_and_keeps_the_order() {
    let changed = json_patch(json!([
        {"op": "test", "path": "/status", "value": "accepted"},
        {"op": "replace", "path": "/status", "value": "in-progress"},
        {"op": "remove", "path": "/description"},
        {"op": "remove", "path": "/_description"},
        {"op": "add", "path": "/note/1", "value": {"text": "between"}},
        {"op": "add", "path": "/note/-", "value": {"text": "last"}},
        {"op": "move", "from": "/note/0", "path": "/note/2"},
        {"op": "copy", "from": "/note/0", "path": "/note/-"},
        {"op": "add", "path": "/priority", "value": "asap"}
    ]))
    .unwrap();
    let keys: Vec<&str> = changed.elements().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["resourceType", "id", "meta", "status", "intent", "note", "input", "instantiatesUri", "priority"]
    );
    let notes: Vec<&str> = changed.list("note").iter().map(|note| note["text"].as_str().unwrap()).collect();
    assert_eq!(notes, ["between", "two", "one", "last", "between"]);
}

#[test]
fn a_test_compares_numbers_by_value_and_keys_in_any_order() {
    let number = Resource::from_value(
        serde_json::from_str(r#"{"resourceType":"Task","id":"1","x":{"a":1.50,"b":[1]}}"#).unwrap(),
    )
    .unwrap();
    let patch = |text: &str| Patch::json(serde_json::from_str(text).unwrap()).unwrap().apply(&number, bounds());
    assert!(patch(r#"[{"op":"test","path":"/x","value":{"b":[1.0],"a":1.5}}]"#).is_ok());
    assert!(patch(r#"[{"op":"test","path":"/x/a","value":"1.50"}]"#).is_err());
    let kept = patch(r#"[{"op":"copy","from":"/x/a","path":"/y"}]"#).unwrap();
    assert_eq!(kept.at("y").unwrap().to_string(), "1.50");
}

#[test]
fn a_json_patch_that_does_not_fit_names_its_operation_and_place() {
    for (operation, expression, code) in [
        (json!({"op": "test", "path": "/status", "value": "draft"}), "Task.status", "conflict"),
        (json!({"op": "remove", "path": "/priority"}), "Task.priority", "not-found"),
        (json!({"op": "replace", "path": "/note/7/text", "value": "x"}), "Task.note[7].text", "not-found"),
        (json!({"op": "add", "path": "/note/3", "value": {}}), "Task.note[3]", "not-found"),
        (json!({"op": "add", "path": "/note/01", "value": {}}), "Task.note.01", "not-found"),
        (json!({"op": "add", "path": "/status/x", "value": 1}), "Task.status.x", "not-found"),
        (json!({"op": "move", "from": "/note", "path": "/note/0/x"}), "Task.note[0].x", "invalid"),
        (json!({"op": "copy", "from": "/nothing", "path": "/x"}), "Task.x", "not-found"),
        (json!({"op": "remove", "path": ""}), "Task", "invalid"),
    ] {
        let error = json_patch(json!([{"op": "test", "path": "/intent", "value": "order"}, operation])).unwrap_err();
        assert_eq!((error.kind, error.kind.status()), (Kind::Invalid, 422), "{operation}");
        assert_eq!(
            (error.issues[0].expression.as_deref(), error.issues[0].code),
            (Some(expression), code),
            "{operation}"
        );
        assert!(error.text().starts_with("Operation 2 of the patch"), "{}", error.text());
    }
}

#[test]
fn what_is_no_json_patch_is_malformed() {
    for bad in [
        json!({}),
        json!("x"),
        json!([1]),
        json!([{"op": "add", "path": "/a"}]),
        json!([{"op": "add", "path": "a", "value": 1}]),
        json!([{"op": "add", "path": "/~2", "value": 1}]),
        json!([{"op": "move", "path": "/a"}]),
        json!([{"op": "merge", "path": "/a", "value": 1}]),
        json!([{"path": "/a"}]),
        Value::Array(vec![json!({"op": "remove", "path": "/a"}); MOST_OPERATIONS + 1]),
    ] {
        assert_eq!(Patch::json(bad.clone()).unwrap_err().kind, Kind::Malformed, "{bad}");
    }
}

#[test]
fn a_patch_makes_nothing_too_large_or_too_deep() {
    let deep = (0..60).map(|_| json!({"op": "copy", "from": "/note", "path": "/note/0/x"})).collect();
    assert!(json_patch(Value::Array(deep)).is_err());
    let long =
        Resource::from_value(json!({"resourceType": "Task", "id": "1", "description": "x".repeat(300_000)})).unwrap();
    let copies = (0..9).map(|n| json!({"op": "copy", "from": "/description", "path": format!("/x{n}")})).collect();
    let error = Patch::json(Value::Array(copies)).unwrap().apply(&long, bounds()).unwrap_err();
    assert_eq!(error.issues[0].code, "too-costly");
}

// R-051
#[test]
fn a_fhirpath_patch_adds_inserts_deletes_replaces_and_moves() {
    let changed = path_patch(
        &task(),
        &[
            ("replace", "Task.status", json!([value("valueCode", json!("in-progress"))])),
            ("add", "Task", json!([name("priority"), value("valueCode", json!("asap"))])),
            ("add", "Task", json!([name("note"), value("valueAnnotation", json!({"text": "three"}))])),
            (
                "insert",
                "Task.note",
                json!([{"name": "index", "valueInteger": 1}, value("valueAnnotation", json!({"text": "between"}))]),
            ),
            (
                "move",
                "Task.note",
                json!([{"name": "source", "valueInteger": 0}, {"name": "destination", "valueInteger": 3}]),
            ),
            ("delete", "Task.note.where(text = 'two')", json!([])),
            ("delete", "Task.description", json!([])),
            ("delete", "Task.restriction", json!([])),
            ("replace", "Task.input[0].value", json!([value("valueCode", json!("c"))])),
            (
                "add",
                "Task",
                json!([name("output"), {"name": "value", "part": [
                {"name": "type", "valueCodeableConcept": {"text": "done"}},
                {"name": "value", "valueReference": {"reference": "Procedure/1"}}]}]),
            ),
            (
                "add",
                "Task.instantiatesUri",
                json!([name("extension"), value("valueExtension", json!({"url": "urn:e", "valueCode": "z"}))]),
            ),
        ],
    )
    .unwrap();
    let mut expected = json!({
        "resourceType": "Task", "id": "t1",
        "meta": {"versionId": "3", "lastUpdated": "2026-11-26T10:00:00Z"},
        "status": "in-progress", "intent": "order",
        "note": [{"text": "between"}, {"text": "three"}, {"text": "one"}],
        "input": [{"type": {"text": "a"}, "valueCode": "c"}],
        "instantiatesUri": "urn:a", "_instantiatesUri": {"extension": [{"url": "urn:e", "valueCode": "z"}]},
        "priority": "asap",
        "output": [{"type": {"text": "done"}, "valueReference": {"reference": "Procedure/1"}}]
    });
    assert_eq!(changed.clone().into_value(), expected);
    let again = path_patch(&changed, &[("delete", "Task.instantiatesUri.extension('urn:e')", json!([]))]).unwrap();
    expected.as_object_mut().unwrap().shift_remove("_instantiatesUri");
    assert_eq!(again.into_value(), expected);
}

#[test]
fn what_stands_beside_the_primitives_of_a_list_goes_with_them() {
    let person = Resource::from_value(json!({"resourceType": "Patient", "id": "1", "name": [
        {"given": ["a", null, "c"], "_given": [null, {"extension": [{"url": "urn:x", "valueCode": "b"}]}, {"id": "i"}]}]}))
    .unwrap();
    let names = |operations: &[(&str, &str, Value)]| {
        let mut name = path_patch(&person, operations).unwrap().at("name").unwrap()[0].clone();
        (name["given"].take(), name["_given"].take())
    };
    let beside = json!({"extension": [{"url": "urn:x", "valueCode": "b"}]});
    assert_eq!(
        names(&[("delete", "Patient.name.given[0]", json!([]))]),
        (json!([null, "c"]), json!([beside, {"id": "i"}]))
    );
    assert_eq!(
        names(&[("delete", "Patient.name.given[1]", json!([]))]),
        (json!(["a", "c"]), json!([null, {"id": "i"}]))
    );
    assert_eq!(
        names(&[(
            "move",
            "Patient.name.given",
            json!([{"name": "source", "valueInteger": 2}, {"name": "destination", "valueInteger": 0}])
        )]),
        (json!(["c", "a", null]), json!([{"id": "i"}, null, beside]))
    );
    assert_eq!(
        names(&[
            ("replace", "Patient.name.given[2]", json!([value("valueString", json!("d"))])),
            ("delete", "Patient.name.given[1]", json!([]))
        ]),
        (json!(["a", "d"]), json!(null))
    );
}

#[test]
fn a_fhirpath_patch_that_does_not_fit_names_its_operation() {
    for (type_, path, further, code) in [
        ("replace", "Task.priority", json!([value("valueCode", json!("x"))]), "not-found"),
        ("replace", "Task.note.text", json!([value("valueString", json!("x"))]), "multiple-matches"),
        ("delete", "Task.note", json!([]), "multiple-matches"),
        ("add", "Task", json!([name("status"), value("valueCode", json!("x"))]), "conflict"),
        ("add", "Task", json!([name("nothing"), value("valueCode", json!("x"))]), "structure"),
        ("add", "Task.input[0]", json!([name("value"), value("valueCode", json!("x"))]), "conflict"),
        ("replace", "Task.input[0].value", json!([value("valueNothing", json!("x"))]), "structure"),
        (
            "insert",
            "Task.note",
            json!([{"name": "index", "valueInteger": 9}, value("valueAnnotation", json!({}))]),
            "not-found",
        ),
        (
            "insert",
            "Task.status",
            json!([{"name": "index", "valueInteger": 0}, value("valueCode", json!("x"))]),
            "invalid",
        ),
        (
            "move",
            "Task.note",
            json!([{"name": "source", "valueInteger": 0}, {"name": "destination", "valueInteger": 2}]),
            "not-found",
        ),
        ("replace", "Task", json!([value("valueCode", json!("x"))]), "invalid"),
        ("replace", "'x'", json!([value("valueCode", json!("x"))]), "invalid"),
        ("replace", "Task.focus.resolve()", json!([value("valueCode", json!("x"))]), "not-found"),
        ("delete", "%nothing", json!([]), "not-supported"),
    ] {
        let error = path_patch(&task(), &[("delete", "Task.priority", json!([])), (type_, path, further)]).unwrap_err();
        assert_eq!((error.kind.status(), error.issues[0].code), (422, code), "{type_} {path}: {error}");
        assert_eq!(error.issues[0].expression.as_deref(), Some("Parameters.parameter[1]"), "{type_} {path}");
        assert!(error.text().starts_with("Operation 2 of the patch"), "{}", error.text());
    }
}

#[test]
fn what_is_no_fhirpath_patch_is_malformed() {
    let operation =
        |parts: Value| json!({"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]});
    let path = json!({"name": "path", "valueString": "Task.status"});
    let type_ = |text: &str| json!({"name": "type", "valueCode": text});
    for bad in [
        json!({"resourceType": "Task"}),
        json!([]),
        json!({"resourceType": "Parameters", "parameter": [{"name": "other"}]}),
        operation(json!([path])),
        operation(json!([type_("delete")])),
        operation(json!([type_("rename"), path])),
        operation(json!([type_("replace"), path])),
        operation(json!([type_("add"), path, value("valueCode", json!("x"))])),
        operation(json!([type_("insert"), path, value("valueCode", json!("x"))])),
        operation(json!([type_("replace"), path, {"name": "value", "valueCode": "x", "valueString": "y"}])),
        operation(json!([type_("delete"), {"name": "path", "valueString": "Task.("}])),
        operation(json!([type_("delete"), {"name": "path", "valueString": "foo()"}])),
    ] {
        let error = Patch::parameters(&bad).unwrap_err();
        assert_eq!(error.kind, Kind::Malformed, "{bad}");
    }
}

#[test]
fn identity_is_not_for_a_patch_to_change() {
    for operation in [
        json!({"op": "replace", "path": "/id", "value": "t2"}),
        json!({"op": "remove", "path": "/id"}),
        json!({"op": "replace", "path": "/resourceType", "value": "Patient"}),
        json!({"op": "replace", "path": "/resourceType", "value": "Nothing"}),
        json!({"op": "replace", "path": "", "value": []}),
    ] {
        assert_eq!(json_patch(json!([operation])).unwrap_err().kind, Kind::Invalid, "{operation}");
    }
    let changed =
        json_patch(json!([{"op": "replace", "path": "/meta", "value": {"versionId": "1", "profile": ["urn:p"]}}]))
            .unwrap();
    assert_eq!(
        changed.at("meta"),
        Some(&json!({"versionId": "3", "profile": ["urn:p"], "lastUpdated": "2026-11-26T10:00:00Z"}))
    );
}

// R-054
#[test]
fn a_narrative_does_not_outlive_what_it_tells() {
    let with = |status: &str| {
        let mut task = task();
        task.set(
            "text",
            json!({"status": status, "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">accepted</div>"}),
        );
        task
    };
    let step = json!({"op": "replace", "path": "/status", "value": "completed"});
    let patch = |operations: Value| Patch::json(operations).unwrap();
    for status in ["generated", "extensions", "empty"] {
        assert_eq!(patch(json!([step])).apply(&with(status), bounds()).unwrap().at("text"), None, "{status}");
    }
    let error = patch(json!([step])).apply(&with("additional"), bounds()).unwrap_err();
    assert_eq!((error.kind.status(), error.issues[0].expression.as_deref()), (422, Some("Task.text")));
    let told = patch(json!([step, {"op": "replace", "path": "/text/div", "value": "<div>completed</div>"}]));
    assert!(told.apply(&with("additional"), bounds()).unwrap().at("text").is_some());
    let nothing = patch(json!([{"op": "test", "path": "/status", "value": "accepted"}]));
    assert!(nothing.apply(&with("additional"), bounds()).unwrap().at("text").is_some());
}

// R-080
#[test]
fn in_a_bundle_a_json_patch_comes_as_a_binary() {
    let binary = |media: &str, data: &str| json!({"resourceType": "Binary", "contentType": media, "data": data});
    // [{"op":"remove","path":"/description"}]
    let data = "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2Rlc2NyaXB0aW9uIn1d";
    let read = Patch::entry(&binary("application/json-patch+json; charset=utf-8", data), bounds()).unwrap();
    assert!(read.apply(&task(), bounds()).unwrap().at("description").is_none());
    assert_eq!(Patch::entry(&binary("text/plain", data), bounds()).unwrap_err().kind, Kind::UnsupportedMediaType);
    for bad in ["", "W", "%%%%", "e30"] {
        assert_eq!(Patch::entry(&binary(JSON_PATCH, bad), bounds()).unwrap_err().kind, Kind::Malformed, "{bad}");
    }
    assert!(Patch::entry(&json!({"resourceType": "Parameters"}), bounds()).is_ok());
}

#[test]
fn base64_is_read_with_and_without_padding() {
    for (text, bytes) in [
        ("", Some("")),
        ("Zg==", Some("f")),
        ("Zm8", Some("fo")),
        ("Zm9v\n", Some("foo")),
        ("Z", None),
        ("Zm9=v", None),
    ] {
        assert_eq!(decoded(text), bytes.map(|text| text.as_bytes().to_vec()), "{text}");
    }
}

proptest! {
    #[test]
    fn any_json_is_a_patch_or_an_error(
        operations in proptest::collection::vec((
            prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]),
            "(/(status|note|input|0|1|-|text|_description|extension|meta|~0|))*",
            "(/(status|note|input|0|1|text))*",
            prop::sample::select(vec![json!(null), json!("x"), json!([]), json!({"a": 1})])), 0..6)) {
        let list = operations.into_iter().map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value})).collect();
        if let Ok(patch) = Patch::json(Value::Array(list)) {
            let _ = patch.apply(&task(), bounds());
        }
    }

    #[test]
    fn any_operation_on_any_path_is_done_or_refused(
        operations in proptest::collection::vec((
            prop::sample::select(vec!["add", "insert", "delete", "replace", "move"]),
            prop::sample::select(vec!["Task", "Task.note", "Task.note[0]", "Task.status", "note.text", "input.value", "description", "description.extension",
                "descendants()", "meta", "input.type", "%resource.note.first()", "1"]),
            prop::sample::select(vec!["note", "status", "extension", "value", "input", "text", "output", "id"]),
            0_usize..4, 0_usize..4), 0..6)) {
        let all: Vec<_> = operations.iter().map(|(type_, path, element, one, two)| (*type_, *path, json!([
            name(element), value("valueString", json!("x")), {"name": "index", "valueInteger": one},
            {"name": "source", "valueInteger": one}, {"name": "destination", "valueInteger": two}]))).collect();
        let _ = path_patch(&task(), &all);
    }
}
