//! Batch and transaction as a client sees them (R-070…R-081): order, identity, links, conditions, all or nothing.

use serde_json::{Value, json};

use crate::gateway::{Answered, EHR, TestGateway};

fn patient(value: &str) -> Value {
    json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": value}],
        "name": [{"family": "Doe", "given": ["Jo"]}], "gender": "female"})
}

fn observation(subject: &str) -> Value {
    json!({"resourceType": "Observation", "status": "final", "code": {"text": "Housing"}, "subject": {"reference": subject}})
}

fn entry(method: &str, url: &str) -> Value {
    json!({"request": {"method": method, "url": url}})
}

fn post(full_url: &str, resource: Value) -> Value {
    json!({"fullUrl": full_url, "request": {"method": "POST", "url": resource["resourceType"]}, "resource": resource})
}

fn put(url: &str, resource: Value) -> Value {
    json!({"request": {"method": "PUT", "url": url}, "resource": resource})
}

fn bundle(kind: &str, entries: &[Value]) -> Value {
    json!({"resourceType": "Bundle", "type": kind, "entry": entries})
}

fn statuses(answer: &Answered) -> Vec<&str> {
    let entries = answer.body["entry"].as_array().unwrap_or_else(|| panic!("{}", answer.body));
    entries.iter().map(|entry| entry["response"]["status"].as_str().unwrap()).collect()
}

async fn count(county: &TestGateway, search: &str) -> u64 {
    let joint = if search.contains('?') { '&' } else { '?' };
    county.get("root", &format!("{search}{joint}_summary=count")).await.body["total"].as_u64().unwrap()
}

async fn stored(county: &TestGateway, value: &str) -> Answered {
    let answer = county.post("clinic", "Patient", &patient(value)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer
}

// R-072, R-077: deletes, creates, updates, reads, whatever the order sent; answered in that order.
// R-076
#[tokio::test]
async fn a_transaction_is_done_in_the_standards_order_and_answered_in_the_senders() {
    let county = TestGateway::county().await;
    let (kept, gone) = (stored(&county, "kept").await, stored(&county, "gone").await);
    let mut changed = kept.body.clone();
    changed["gender"] = json!("other");
    let sent = bundle(
        "transaction",
        &[
            entry("GET", "Patient?identifier=urn:p|new"),
            entry("HEAD", &format!("Patient/{}", kept.id())),
            put(&format!("Patient/{}", kept.id()), changed),
            // The condition holds only once the deletion is done.
            json!({"resource": patient("gone"), "request": {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:p|gone"}}),
            post("urn:uuid:n", patient("new")),
            entry("DELETE", &format!("Patient/{}", gone.id())),
            json!({"request": {"method": "GET", "url": format!("Patient/{}", kept.id()), "ifNoneMatch": "W/\"2\""}}),
        ],
    );
    let answer = county.post("clinic", "", &sent).await;
    assert_eq!((answer.status, answer.body["type"].as_str()), (200, Some("transaction-response")), "{}", answer.body);
    assert_eq!(statuses(&answer), ["200", "200", "200", "201", "201", "204", "304"]);
    let at = |index: usize| &answer.body["entry"][index];
    assert_eq!(at(0)["resource"]["entry"].as_array().map(Vec::len), Some(1), "reads see what was written");
    assert!(at(1).get("resource").is_none() && at(6).get("resource").is_none());
    assert_eq!(at(2)["resource"]["gender"], "other");
    let response = &at(4)["response"];
    let id = at(4)["resource"]["id"].as_str().unwrap();
    assert_eq!(response["location"], format!("https://hub.test/fhir/Patient/{id}/_history/1"));
    assert_eq!(
        (&response["etag"], &at(4)["fullUrl"]),
        (&json!("W/\"1\""), &json!(format!("https://hub.test/fhir/Patient/{id}")))
    );
    assert_eq!(response["lastModified"], at(4)["resource"]["meta"]["lastUpdated"]);
    assert_eq!(county.get("clinic", &format!("Patient/{}", gone.id())).await.status, 410);
}

// R-071: one bad entry, and nothing has happened: nothing stored, nothing on record.
// R-074, R-076
#[tokio::test]
async fn a_transaction_with_one_bad_entry_changes_nothing() {
    let county = TestGateway::county().await;
    let kept = stored(&county, "kept").await;
    let path = format!("Patient/{}", kept.id());
    let mut changed = kept.body.clone();
    changed["gender"] = json!("other");
    let good = [post("urn:uuid:n", patient("new")), put(&path, changed), entry("DELETE", "Patient/none")];
    let stale = json!({"resource": kept.body, "request": {"method": "PUT", "url": path, "ifMatch": "W/\"7\""}});
    let bad = [
        (entry("GET", "Patient/none"), 404),
        (entry("GET", "Patient/none?_summary=count"), 404),
        (entry("GET", "Nope/1"), 404),
        (entry("GET", "Task?status:fuzzy=x"), 400),
        (entry("GET", "Task/1/$loop-status"), 400),
        (entry("DELETE", "Task/1"), 405),
        (entry("POST", "Patient/1"), 400),
        (post("urn:uuid:o", json!({"resourceType": "Nope"})), 404),
        (post("urn:uuid:o", observation("urn:uuid:nobody")), 422),
        (post("urn:uuid:o", observation("Patient?identifier=urn:p|nobody")), 422),
        (post("urn:uuid:o", observation("Patient/none")), 422),
        (post("urn:uuid:o", json!({"resourceType": "Task", "status": "requested"})), 422),
        // R-079: the desk's to write, not the clinic's.
        (post("urn:uuid:o", json!({"resourceType": "Organization", "name": "x"})), 403),
        (post("urn:uuid:n", patient("other")), 400),
        (stale, 412),
        (put(&path, patient("kept")), 400),
        (entry("GET", ""), 400),
    ];
    for (one, status) in bad {
        let mut entries = good.to_vec();
        entries.push(one.clone());
        let answer = county.post("clinic", "", &bundle("transaction", &entries)).await;
        // A second write of one resource is refused as such, whatever else is wrong with it.
        let expected = if one["request"]["url"] == path { 400 } else { status };
        assert_eq!(answer.status, expected, "{one}: {}", answer.body);
        assert!(answer.expression().starts_with("Bundle.entry[3]"), "{one}: {}", answer.body);
        entries.remove(1);
        let answer = county.post("clinic", "", &bundle("transaction", &entries)).await;
        assert_eq!(answer.status, status, "{one}: {}", answer.body);
    }
    assert_eq!(count(&county, "Patient").await, 1);
    assert_eq!(county.get("clinic", &path).await.headers["etag"], "W/\"1\"");
    // Without the bad one it is done.
    assert_eq!(county.post("clinic", "", &bundle("transaction", &good)).await.status, 200);
    assert_eq!(count(&county, "Patient").await, 2);
}

// R-072: what conditions lead to counts, too.
#[tokio::test]
async fn a_resource_stands_once_in_a_transaction_however_it_is_named() {
    let county = TestGateway::county().await;
    let kept = stored(&county, "kept").await;
    let path = format!("Patient/{}", kept.id());
    for twice in [
        [put(&path, kept.body.clone()), put("Patient?identifier=urn:p|kept", patient("kept"))],
        [entry("DELETE", &path), put(&format!("https://hub.test/fhir/{path}/_history/1"), kept.body.clone())],
        [entry("DELETE", "Patient?identifier=urn:p|kept"), entry("DELETE", &path)],
    ] {
        let answer = county.post("clinic", "", &bundle("transaction", &twice)).await;
        assert_eq!(
            (answer.status, answer.body["issue"][0]["code"].as_str()),
            (400, Some("duplicate")),
            "{}",
            answer.body
        );
    }
    assert_eq!(count(&county, "Patient").await, 1);
}

// R-073: links of every kind, in a circle, to what is created, found, updated and brought along from elsewhere.
#[tokio::test]
async fn links_between_entries_lead_to_where_they_stand() {
    let county = TestGateway::county().await;
    let there = stored(&county, "there").await;
    let mut organized = patient("new");
    organized["text"] = json!({"status": "additional", "div":
        "<div xmlns=\"http://www.w3.org/1999/xhtml\"><a href=\"urn:uuid:o\">urn:uuid:o</a></div>"});
    organized["link"] = json!([{"other": {"reference": "urn:uuid:r"}, "type": "seealso"}]);
    let related = json!({"resourceType": "RelatedPerson", "patient": {"reference": "urn:uuid:p"}});
    let mut seen = observation("urn:uuid:p");
    seen["focus"] = json!([{"reference": "urn:uuid:found"}]);
    seen["extension"] = json!([{"url": "http://x.test/e", "valueUri": "urn:uuid:p"}, {"url": "http://x.test/e", "valueCanonical": "urn:uuid:p"}]);
    let mut second = observation("Patient/7");
    second["derivedFrom"] = json!([{"reference": "Observation/8/_history/3"}, {"reference": "Observation/9"}]);
    let found = json!({"fullUrl": "urn:uuid:found", "resource": patient("there"), "request":
        {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn%3Ap%7Cthere"}});
    let sent = bundle(
        "transaction",
        &[
            post("urn:uuid:o", seen),
            post("urn:uuid:r", related),
            post("urn:uuid:p", organized),
            found,
            post(&format!("{EHR}/Observation/6"), second),
            post(&format!("{EHR}/Patient/7"), patient("seven")),
            post(&format!("{EHR}/Observation/8"), observation("Patient/7")),
        ],
    );
    let answer = county.post("clinic", "", &sent).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(statuses(&answer), ["201", "201", "201", "200", "201", "201", "201"]);
    let entries = answer.entries();
    let key = |index: usize| {
        format!("{}/{}", entries[index]["resourceType"].as_str().unwrap(), entries[index]["id"].as_str().unwrap())
    };
    assert_eq!(entries[3]["id"], there.id(), "R-076");
    assert_eq!(entries[0]["subject"]["reference"], key(2));
    assert_eq!(entries[0]["focus"][0]["reference"], key(3));
    assert_eq!(entries[0]["extension"][0]["valueUri"], key(2));
    assert_eq!(entries[0]["extension"][1]["valueCanonical"], "urn:uuid:p");
    assert_eq!(entries[1]["patient"]["reference"], key(2));
    assert_eq!(entries[2]["link"][0]["other"]["reference"], key(1));
    assert!(entries[2]["text"]["div"].as_str().unwrap().contains(&format!("<a href=\"{}\">urn:uuid:o</a>", key(0))));
    // R-074: relative to where the entry says it comes from.
    assert_eq!(entries[4]["subject"]["reference"], key(5));
    assert_eq!(entries[4]["derivedFrom"][0]["reference"], format!("{}/_history/1", key(6)));
    assert_eq!(entries[4]["derivedFrom"][1]["reference"], format!("{EHR}/Observation/9"));
    for index in 0..7 {
        assert_eq!(county.get("clinic", &key(index)).await.status, 200);
    }
}

// R-075
#[tokio::test]
async fn a_conditional_reference_finds_exactly_one() {
    let county = TestGateway::county().await;
    stored(&county, "twin").await;
    stored(&county, "twin").await;
    let there = stored(&county, "there").await;
    let sent = bundle(
        "transaction",
        &[
            post("urn:uuid:1", observation("Patient?identifier=urn:p|there")),
            post("urn:uuid:2", observation("Patient?identifier=urn:p|new")),
            post("urn:uuid:3", patient("new")),
        ],
    );
    let answer = county.post("clinic", "", &sent).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let entries = answer.entries();
    assert_eq!(entries[0]["subject"]["reference"], format!("Patient/{}", there.id()));
    assert_eq!(entries[1]["subject"]["reference"], format!("Patient/{}", entries[2]["id"].as_str().unwrap()));
    for (text, status, code) in [
        ("Patient?identifier=urn:p|twin", 412, "multiple-matches"),
        ("Patient?identifier=urn:p|nobody", 422, "not-found"),
        ("Patient?_count=1&identifier=urn:p|there", 400, "not-supported"),
        ("Patient?colour=blue", 400, "not-supported"),
    ] {
        let answer = county.post("clinic", "", &bundle("transaction", &[post("urn:uuid:1", observation(text))])).await;
        assert_eq!(
            (answer.status, answer.body["issue"][0]["code"].as_str()),
            (status, Some(code)),
            "{text}: {}",
            answer.body
        );
        assert_eq!(answer.expression(), "Bundle.entry[0].resource.subject", "{text}");
    }
    // Others' patients are nobody's.
    let body = bundle("transaction", &[post("urn:uuid:1", observation("Patient?identifier=urn:p|there"))]);
    assert_eq!(county.post("agency", "", &body).await.status, 422);
}

// R-078
#[tokio::test]
async fn the_entries_of_a_batch_stand_alone() {
    let county = TestGateway::county().await;
    let kept = stored(&county, "kept").await;
    let sent = bundle(
        "batch",
        &[
            post("urn:uuid:p", patient("new")),
            post("urn:uuid:o", observation("urn:uuid:p")),
            post("urn:uuid:x", json!({"resourceType": "Nope"})),
            entry("GET", "Nope/1"),
            entry("DELETE", "Task/1"),
            entry("GET", &format!("Patient/{}/_history", kept.id())),
            entry("GET", &format!("Patient/{}/_history/1", kept.id())),
            entry("GET", "Subscription/$status"),
            entry("GET", "Patient?identifier=urn:p|kept"),
            json!({"request": {"method": "GET", "url": format!("Patient/{}", kept.id()), "ifNoneMatch": "W/\"1\""}}),
            post("urn:uuid:y", json!({"resourceType": "Organization", "name": "x"})),
            entry("DELETE", "Patient?identifier=urn:p|nobody"),
            json!({"resource": patient("1"), "request": {"method": "PUT", "url": "Patient/1", "ifMatch": "W/1"}}),
            entry("POST", ""),
            entry("GET", "metadata"),
            json!({"resource": patient("1"), "request": {"method": "POST", "url": "metadata"}}),
        ],
    );
    let mut sent = sent;
    sent["entry"][13]["resource"] = json!({"resourceType": "Bundle", "type": "batch"});
    let answer = county.post("clinic", "", &sent).await;
    assert_eq!((answer.status, answer.body["type"].as_str()), (200, Some("batch-response")), "{}", answer.body);
    let expected = [
        "201", "400", "404", "404", "405", "200", "200", "200", "200", "304", "403", "204", "400", "400", "200", "405",
    ];
    assert_eq!(statuses(&answer), expected, "{}", answer.body);
    for (index, status) in expected.iter().enumerate() {
        let response = &answer.body["entry"][index]["response"];
        assert_eq!(response["outcome"]["resourceType"] == "OperationOutcome", status.starts_with('4'), "{index}");
    }
    assert_eq!(answer.body["entry"][5]["resource"]["type"], "history");
    assert_eq!(answer.body["entry"][14]["resource"]["fhirVersion"], "4.0.1");
    assert_eq!(
        answer.body["entry"][8]["resource"]["link"][0]["url"],
        "https://hub.test/fhir/Patient?identifier=urn:p%7Ckept"
    );
    let at_once = county.post("clinic", "", &bundle("transaction", &[entry("GET", "metadata")])).await;
    assert_eq!(at_once.status, 400, "{}", at_once.body);
    let none = county.post("clinic", "", &json!({"resourceType": "Bundle", "type": "batch"})).await;
    assert!(none.status == 200 && none.body.get("entry").is_none());
}

// R-056, R-077
#[tokio::test]
async fn entries_are_answered_as_the_client_prefers() {
    let county = TestGateway::county().await;
    for kind in ["batch", "transaction"] {
        for (prefer, resource, outcome) in [
            ("return=minimal", false, false),
            ("return=representation", true, false),
            ("return=OperationOutcome", false, true),
        ] {
            let sent = bundle(kind, &[post("urn:uuid:p", patient("new"))]);
            let answer = county.ask("clinic", "POST", "", Some(&sent), &[("prefer", prefer)]).await;
            let entry = &answer.body["entry"][0];
            assert_eq!(entry["response"]["status"], "201", "{}", answer.body);
            assert!(entry["response"]["location"].is_string() && entry["response"]["lastModified"].is_string());
            assert_eq!(
                (entry.get("resource").is_some(), entry["response"].get("outcome").is_some()),
                (resource, outcome)
            );
        }
    }
}

// R-070
#[tokio::test]
async fn other_bundles_and_entries_without_a_request_are_refused() {
    let county = TestGateway::county().await;
    let list: &[(Value, u16)] = &[
        (json!({"resourceType": "Bundle"}), 422),
        (bundle("collection", &[]), 422),
        (bundle("history", &[]), 422),
        (bundle("batch", &[json!({"resource": patient("1")})]), 400),
        (bundle("transaction", &[entry("POST", "Patient")]), 400),
        (bundle("transaction", &[entry("PUT", "Patient/1")]), 400),
        (patient("1"), 400),
    ];
    for (body, status) in list {
        let answer = county.post("clinic", "", body).await;
        assert_eq!(answer.status, *status, "{body}: {}", answer.body);
    }
    assert_eq!(count(&county, "Patient").await, 0);
}

// R-071, design D8: the same transaction again creates no second referral, and what it says of the Task leads to the first.
#[tokio::test]
async fn a_referral_sent_twice_in_transactions_is_one() {
    let county = TestGateway::county().await;
    let mut sent = crate::intake::transaction(&county, "housing-instability");
    let entries = sent["entry"].as_array_mut().unwrap();
    let task = entries.iter_mut().find(|one| one["resource"]["resourceType"] == "Task").unwrap();
    task["resource"]["identifier"] = json!([{"system": "urn:ehr", "value": "r-1"}]);
    let place = task["fullUrl"].clone();
    let mut seen = observation("x");
    seen["focus"] = json!([{"reference": place}]);
    seen.as_object_mut().unwrap().shift_remove("subject");
    entries.push(post("urn:uuid:about", seen));
    let (first, again) = (county.post("clinic", "", &sent).await, county.post("clinic", "", &sent).await);
    assert_eq!((first.status, again.status), (200, 200), "{} {}", first.body, again.body);
    let task = |answer: &Answered| {
        answer.entries().into_iter().find(|one| one["resourceType"] == "Task").unwrap()["id"].clone()
    };
    assert_eq!(task(&first), task(&again));
    let about = again.entries().pop().unwrap();
    assert_eq!(about["focus"][0]["reference"], format!("Task/{}", task(&first).as_str().unwrap()));
}
