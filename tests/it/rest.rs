//! REST rules that are about one answer: parts of resources, versions, headers (R-012, R-016, R-020… …R-057).

use serde_json::{Value, json};

use crate::gateway::TestGateway;

fn patient() -> Value {
    json!({"resourceType": "Patient", "text": {"status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">Jo</div>"},
        "extension": [{"url": "http://x.test/unknown", "valueDecimal": 1.50}],
        "name": [{"family": "Doe", "given": ["Jo"]}], "gender": "female", "maritalStatus": {"text": "single"}})
}

// in reads, versions, searches and histories; and a part is never taken for the whole.
#[tokio::test]
async fn parts_of_resources_are_marked_and_never_stored() {
    let county = TestGateway::county().await;
    let id = county.post("clinic", "Patient", &patient()).await.id();
    let part = |answer: &Value| {
        (
            answer.get("gender").is_some(),
            answer.get("maritalStatus").is_some(),
            answer["meta"]["tag"][0]["code"] == "SUBSETTED",
        )
    };
    for (query, expected) in [
        ("_summary=true", (true, false, true)),
        ("_summary=text", (false, false, true)),
        ("_summary=data", (true, true, true)),
        ("_elements=maritalStatus", (false, true, true)),
        ("_summary=false", (true, true, false)),
    ] {
        for path in ["", "/_history/1"] {
            let answer = county.get("clinic", &format!("Patient/{id}{path}?{query}")).await;
            assert_eq!((answer.status, part(&answer.body)), (200, expected), "{path} {query}: {}", answer.body);
            assert_eq!((answer.headers["etag"].as_str(), answer.body["id"].as_str()), ("W/\"1\"", Some(id.as_str())));
        }
        for path in ["Patient", &format!("Patient/{id}/_history")] {
            let found = county.get("clinic", &format!("{path}?{query}")).await;
            assert_eq!(part(&found.entries()[0]), expected, "{path} {query}");
            assert!(found.body["link"][0]["url"].as_str().unwrap().ends_with(query), "{}", found.body["link"]);
        }
    }
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry":
        [{"request": {"method": "GET", "url": format!("Patient/{id}?_elements=gender")}}]});
    assert_eq!(part(&county.post("clinic", "", &batch).await.entries()[0]), (true, false, true));
    let sent = county.get("clinic", &format!("Patient/{id}?_summary=true")).await.body;
    let refused = county.put("clinic", &format!("Patient/{id}"), &sent).await;
    assert_eq!((refused.status, refused.expression()), (422, "Patient.meta.tag"));
    assert_eq!(county.get("clinic", "Task?_summary=text&_include=Task:focus").await.status, 400);
    let strict = [("prefer", "handling=strict")];
    assert_eq!(county.ask("clinic", "GET", "Patient?_summary=data&_elements=name", None, &strict).await.status, 200);
    assert_eq!(county.ask("clinic", "GET", "Patient?_summary=nonsense", None, &strict).await.status, 400);
}

// the life of a resource.
#[tokio::test]
async fn a_resource_is_created_read_changed_deleted_and_revived() {
    let county = TestGateway::county().await;
    let mut sent = patient();
    sent["id"] = json!("mine");
    sent["meta"] = json!({"versionId": "9", "lastUpdated": "2001-01-01T00:00:00Z"});
    let created = county.post("clinic", "Patient", &sent).await;
    let id = created.id();
    let path = format!("Patient/{id}");
    assert_eq!((created.status, id == "mine", created.body["meta"]["versionId"].as_str()), (201, false, Some("1")));
    assert_eq!(created.headers["location"], format!("https://hub.test/fhir/{path}/_history/1"));
    assert!(created.headers.contains_key("last-modified") && created.headers["etag"] == "W/\"1\"");
    assert_eq!(created.body["extension"], patient()["extension"], "what is not known is kept");
    assert!(created.body.to_string().contains("1.5"));
    let mut body = created.body.clone();
    for (id, status) in [(json!("other"), 400), (Value::Null, 400)] {
        body["id"] = id;
        assert_eq!(county.put("clinic", &path, &body).await.status, status);
    }
    body["id"] = json!(id);
    assert_eq!(county.put("clinic", "Task/x", &body).await.status, 400, "another type");
    let since = created.body["meta"]["lastUpdated"].as_str().unwrap().to_string();
    county.clock.advance(std::time::Duration::from_secs(2));
    body["gender"] = json!("other");
    let changed = county.put("clinic", &path, &body).await;
    assert_eq!((changed.status, changed.headers["etag"].as_str()), (200, "W/\"2\""));
    county.clock.advance(std::time::Duration::from_secs(2));
    let delete = async || county.ask("clinic", "DELETE", &path, None, &[]).await.status;
    assert_eq!((delete().await, delete().await), (204, 204));
    assert_eq!(county.get("clinic", &path).await.status, 410);
    assert_eq!(county.get("clinic", &format!("{path}/_history/3")).await.status, 410);
    assert_eq!(county.get("clinic", &format!("{path}/_history/2")).await.body["gender"], "other");
    for bad in ["0", "01", "-1", "x", "4", "99999999999999999999"] {
        assert_eq!(county.get("clinic", &format!("{path}/_history/{bad}")).await.status, 404, "{bad}");
    }
    assert_eq!(county.put("clinic", &path, &body).await.status, 201, "made anew");
    let history = async |query: &str| {
        let answer = county.get("clinic", &format!("{path}/_history?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
    };
    let all = history("").await;
    let methods: Vec<&str> =
        all.body["entry"].as_array().unwrap().iter().map(|one| one["request"]["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["PUT", "DELETE", "PUT", "POST"]);
    assert!(
        all.body["entry"][1].get("resource").is_none() && all.body["entry"][1]["response"]["lastModified"].is_string()
    );
    let later = changed.body["meta"]["lastUpdated"].as_str().unwrap().to_string();
    assert_eq!(history(&format!("_since={since}")).await.entries().len(), 4, "at or after");
    assert_eq!(history(&format!("_since={later}")).await.entries().len(), 3);
    let page = history(&format!("_since={later}&_count=2")).await;
    let next = page.body["link"][1]["url"].as_str().unwrap().split("?").nth(1).unwrap().to_string();
    assert_eq!((page.entries().len(), history(&next).await.entries().len()), (2, 1));
    assert_eq!(county.get("clinic", &format!("{path}/_history?_since={since}&_since={since}")).await.status, 400);
    assert_eq!(county.get("agency", &format!("{path}/_history")).await.status, 404, "R-028");
}

//
#[tokio::test]
async fn a_request_keeps_its_id_or_hears_it_again() {
    let county = TestGateway::county().await;
    let long = "x".repeat(200);
    for (sent, taken) in [("mine-1", true), ("a b", false), (long.as_str(), false)] {
        let answer = county.ask("clinic", "GET", "Patient", None, &[("x-request-id", sent)]).await;
        assert_eq!(answer.headers["x-request-id"] == sent, taken, "{sent}");
        assert_eq!(answer.headers.get("x-correlation-id").map(String::as_str), (!taken).then_some(sent));
    }
    assert!(!county.get("clinic", "Patient").await.headers.contains_key("x-correlation-id"));
}

//
#[tokio::test]
async fn answers_are_as_the_client_prefers() {
    let county = TestGateway::county().await;
    for (prefer, kind) in [
        ("return=minimal", Value::Null),
        ("return=representation", json!("Patient")),
        ("return=OperationOutcome", json!("OperationOutcome")),
        ("respond-async", json!("Patient")),
    ] {
        let answer = county.ask("clinic", "POST", "Patient", Some(&patient()), &[("prefer", prefer)]).await;
        assert_eq!((answer.status, &answer.body["resourceType"]), (201, &kind), "{prefer}");
        assert!(answer.headers.contains_key("location") && answer.headers.contains_key("etag"));
    }
    let read = county.get("clinic", "Patient?_pretty=true&_count=1").await;
    assert!(read.status == 200 && read.entries().len() == 1);
}
