//! Conditional interactions and preconditions as a client sees them (R-042… ).

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{TestGateway, county};
use crate::on_both;

fn patient(value: &str) -> Value {
    json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": value}],
        "name": [{"family": "Doe", "given": ["Jo"]}], "gender": "female"})
}

// criteria alone, percent-encoded or not; none, one, several.
#[tokio::test]
async fn a_conditional_create_finds_none_one_or_several() {
    let county = TestGateway::county().await;
    let create = async |value: &str, criteria: &str| {
        county.ask("clinic", "POST", "Patient", Some(&patient(value)), &[("if-none-exist", criteria)]).await
    };
    let first = create("a", "identifier=urn:p|a").await;
    let again = create("a", "?identifier=urn%3Ap%7Ca").await;
    assert_eq!((first.status, again.status, first.id()), (201, 200, again.id()));
    // HAPI's client writes the whole address.
    for address in ["Patient?identifier=urn:p|a", "https://hub.test/fhir/Patient?identifier=urn%3Ap%7Ca"] {
        assert_eq!(create("a", address).await.id(), first.id(), "{address}");
    }
    assert_eq!(first.headers["location"], again.headers["location"]);
    assert_eq!(county.post("clinic", "Patient", &patient("a")).await.status, 201);
    let several = create("a", "identifier=urn:p|a").await;
    assert_eq!((several.status, several.body["issue"][0]["code"].as_str()), (412, Some("multiple-matches")));
    for bad in [
        "",
        "identifier=",
        "_count=1&identifier=a",
        "colour=blue",
        "identifier:fuzzy=a",
        "identifier=%ff",
        "Task?identifier=a",
    ] {
        assert_eq!(create("b", bad).await.status, 400, "{bad}");
    }
    // What others have is not there for oneself.
    let theirs = county.ask("root", "POST", "Patient", Some(&patient("b")), &[]).await;
    assert_eq!(theirs.status, 201);
    assert_eq!(create("b", "identifier=urn:p|b").await.status, 201);
}

/// Method, path, body, headers.
type Wish<'a> = (&'a str, &'a str, &'a Value, &'a [(&'a str, &'a str)]);

// R-042, design D8: the same thing sent by many at once is there once.
on_both!(what_is_created_at_the_same_time_is_there_once, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    let mut task = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    task["identifier"] = json!([{"system": "urn:ehr", "value": "r-1"}]);
    let unnamed = county.referral("sr2", "food-insecurity", Some("Organization/hub"));
    let body = patient("a");
    let condition = [("if-none-exist", "identifier=urn:p|a")];
    let change =
        json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": "c"}], "gender": "male"});
    let wishes: Vec<Wish> = vec![
        ("POST", "Patient", &body, &condition),
        ("POST", "Task", &task, &[]),
        ("POST", "Task", &unnamed, &[]),
        ("PUT", "Patient?identifier=urn:p|c", &change, &[]),
    ];
    for (method, path, body, headers) in wishes {
        let ask = || county.ask("clinic", method, path, Some(body), headers);
        let answers = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask());
        let answers = [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5];
        let mut codes: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        codes.sort_unstable();
        assert_eq!(codes, [200, 200, 200, 200, 200, 201], "{method} {path}");
        assert!(answers.iter().all(|answer| answer.id() == answers[0].id()), "{method} {path}");
    }
});

//
#[tokio::test]
async fn a_conditional_update_updates_the_one_or_creates_it() {
    let county = TestGateway::county().await;
    let put = async |query: &str, body: &Value| county.put("clinic", &format!("Patient?{query}"), body).await;
    let first = put("identifier=urn:p|a", &patient("a")).await;
    assert_eq!((first.status, first.headers.contains_key("location")), (201, true), "{}", first.body);
    let mut changed = patient("a");
    changed["gender"] = json!("other");
    let second = put("identifier=urn:p|a", &changed).await;
    assert_eq!((second.status, second.id(), second.headers["etag"].as_str()), (200, first.id(), "W/\"2\""));
    changed["id"] = json!(first.id());
    assert_eq!(put("identifier=urn:p|a", &changed).await.status, 200, "the same id may stand in the body");
    changed["id"] = json!("other");
    let other = put("identifier=urn:p|a", &changed).await;
    assert_eq!((other.status, other.expression()), (400, "Patient.id"));
    // Nothing matches, and an id was given: ids are ours to give, but to operators.
    assert_eq!(put("identifier=urn:p|z", &changed).await.status, 405);
    changed["id"] = json!(first.id());
    assert_eq!(put("identifier=urn:p|z", &changed).await.status, 409, "the id is another's");
    changed["id"] = json!("given");
    let import = county.put("root", "Patient?identifier=urn:p|z", &changed).await;
    assert_eq!((import.status, import.id()), (201, "given".to_string()), "{}", import.body);
    county.post("clinic", "Patient", &patient("a")).await;
    assert_eq!(put("identifier=urn:p|a", &patient("a")).await.status, 412);
    for bad in ["", "_count=1", "colour=blue", "identifier="] {
        assert_eq!(put(bad, &patient("a")).await.status, 400, "{bad}");
    }
    // If-Match is about what the search finds.
    let stale = [("if-match", "W/\"1\"")];
    county.put("clinic", "Patient?identifier=urn:p|b", &patient("b")).await;
    let mut moved = patient("b");
    moved["gender"] = json!("male");
    let path = "Patient?identifier=urn:p|b";
    assert_eq!(county.ask("clinic", "PUT", path, Some(&moved), &stale).await.status, 200);
    assert_eq!(county.ask("clinic", "PUT", path, Some(&patient("b")), &stale).await.status, 412);
    let nobody = county.ask("clinic", "PUT", "Patient?identifier=urn:p|y", Some(&patient("y")), &stale).await;
    assert_eq!(nobody.status, 412);
}

//
#[tokio::test]
async fn a_conditional_delete_deletes_one_or_none() {
    let county = TestGateway::county().await;
    let delete = async |path: &str| county.ask("clinic", "DELETE", path, None, &[]).await.status;
    let one = county.post("clinic", "Patient", &patient("a")).await.id();
    assert_eq!(delete("Patient?identifier=urn:p|nobody").await, 204);
    assert_eq!(delete("Patient?identifier=urn:p|a").await, 204);
    assert_eq!(county.get("clinic", &format!("Patient/{one}")).await.status, 410);
    for _ in 0..2 {
        county.post("clinic", "Patient", &patient("b")).await;
    }
    assert_eq!(delete("Patient?identifier=urn:p|b").await, 412);
    assert_eq!(delete("Patient").await, 400, "never all of them");
    assert_eq!(delete("Task?status=requested").await, 405);
    assert_eq!(delete("Patient/never-there").await, 204);
}

// what a Task is about stays as long as the Task.
#[tokio::test]
async fn what_a_task_rests_on_is_not_deleted() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let patient = county.task(&task).await["for"]["reference"].as_str().unwrap().to_string();
    for partner in ["clinic", "root"] {
        let refused = county.ask(partner, "DELETE", &patient, None, &[]).await;
        assert_eq!((refused.status, refused.body["issue"][0]["code"].as_str()), (409, Some("conflict")), "{partner}");
    }
    assert_eq!(county.get("clinic", &patient).await.status, 200);
}

//
#[tokio::test]
async fn preconditions_hold_for_every_write() {
    let county = TestGateway::county().await;
    let id = county.post("clinic", "Patient", &patient("a")).await.id();
    let path = format!("Patient/{id}");
    let mut body = patient("a");
    body["id"] = json!(id);
    let put = async |header: (&str, &str), body: &Value| {
        county.ask("clinic", "PUT", &path, Some(body), &[header]).await.status
    };
    body["gender"] = json!("other");
    for (header, status) in [
        (("if-match", "W/\"9\""), 412),
        (("if-match", "\"9\", W/\"8\""), 412),
        (("if-match", "1"), 400),
        (("if-none-match", "*"), 412),
        (("if-none-match", "W/\"1\""), 400),
        (("if-match", "W/\"7\", \"1\""), 200),
        (("if-match", "*"), 200),
    ] {
        assert_eq!(put(header, &body).await, status, "{header:?}");
    }
    let delete = async |text: &str| county.ask("clinic", "DELETE", &path, None, &[("if-match", text)]).await.status;
    assert_eq!((delete("W/\"1\"").await, delete("x").await, delete("\"2\"").await), (412, 400, 204));
    assert_eq!(delete("\"2\"").await, 412, "it is gone");
    assert_eq!(put(("if-match", "*"), &body).await, 412);
    // What was deleted may be made anew.
    assert_eq!(put(("if-none-match", "*"), &body).await, 201);
    let mut given = patient("g");
    given["id"] = json!("given");
    let import =
        async |header: (&str, &str)| county.ask("root", "PUT", "Patient/given", Some(&given), &[header]).await.status;
    assert_eq!(import(("if-match", "*")).await, 412);
    assert_eq!((import(("if-none-match", "*")).await, import(("if-none-match", "*")).await), (201, 412));
}

// the body's id is another's: what one learns is what an update of that id tells.
#[tokio::test]
async fn a_conditional_update_tells_no_more_of_an_id_than_an_update_of_it() {
    let county = TestGateway::county().await;
    let hidden = county.post("clinic", "Patient", &patient("a")).await.id();
    let mut body = patient("b");
    body["id"] = json!(hidden);
    let direct = county.put("agency", &format!("Patient/{hidden}"), &body).await;
    let where_none = county.put("agency", "Patient?identifier=urn:p|none", &body).await;
    assert_eq!((direct.status, where_none.status), (404, 404), "{}", where_none.body);
    assert_eq!(direct.body["issue"], where_none.body["issue"]);
    let own = county.put("clinic", "Patient?identifier=urn:p|none", &body).await;
    assert_eq!(own.status, 409, "its own is named as what it is");
}
