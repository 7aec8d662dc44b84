//! Who may change a Task, and how: rights (D3), the status machine (D4), versions (D10).

use serde_json::{Value, json};

use crate::acts::reference;
use crate::databases::Place;
use crate::gateway::{TestGateway, county};

/// A referral on its way to the light agency: the county, the source's Task, the agency's.
async fn at_the_agency() -> (TestGateway, String, String) {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    (county, task, theirs)
}

// D3, G-056, G-059
#[tokio::test]
async fn what_an_owner_changes_beyond_its_own_elements_is_ignored_and_the_answer_shows_what_is_stored() {
    let (county, _, theirs) = at_the_agency().await;
    let answer = county
        .change("agency", &theirs, |task| {
            task["status"] = json!("accepted");
            task["priority"] = json!("stat");
            task["description"] = json!("changed");
            task["requester"] = json!({"reference": "Organization/agency"});
            task["note"] = json!([{"text": "call after five"}]);
        })
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!((&answer.body["status"], &answer.body["priority"]), (&json!("accepted"), &json!("routine")));
    assert_eq!(answer.body["note"][0]["text"], "call after five");
    assert!(answer.body["description"].is_null());
    assert_eq!(reference(&answer.body["requester"]), "Organization/hub");
    assert_eq!(answer.body, county.task(&theirs).await);
}

// D3, G-055, G-061
// G-058
#[tokio::test]
async fn a_source_changes_what_it_asked_for_but_not_what_the_owner_decides() {
    let (county, task, _) = at_the_agency().await;
    let answer = county
        .change("clinic", &task, |task| {
            task["priority"] = json!("urgent");
            task["businessStatus"] = json!({"text": "mine"});
            task["output"] = json!([{"type": {"text": "x"}, "valueString": "y"}]);
            task["owner"] = json!({"reference": "Organization/kitchen"});
        })
        .await;
    assert_eq!((answer.status, &answer.body["priority"]), (200, &json!("urgent")));
    assert_ne!(answer.body["businessStatus"]["text"], "mine");
    assert!(answer.body["output"].is_null());
    assert_eq!(reference(&answer.body["owner"]), "Organization/hub");
    let refused = county.change("clinic", &task, |task| task["status"] = json!("in-progress")).await;
    assert_eq!((refused.status, refused.expression()), (422, "Task.status"));
}

// G-057, D11
//
#[tokio::test]
async fn a_third_party_changes_nothing_and_is_not_told_that_the_task_exists() {
    let (county, task, theirs) = at_the_agency().await;
    let body = county.task(&theirs).await;
    for partner in ["kitchen", "pantry", "clinic"] {
        let answer = county.put(partner, &format!("Task/{theirs}"), &body).await;
        assert_eq!(answer.status, 404, "{partner}");
    }
    let source = county.task(&task).await;
    assert_eq!(county.put("kitchen", &format!("Task/{task}"), &source).await.status, 404);
    // The target reads the source's Task as a view; it is not its to change.
    assert_eq!(county.get("agency", &format!("Task/{task}")).await.status, 200);
    assert_eq!(county.put("agency", &format!("Task/{task}"), &source).await.status, 404);
    assert_eq!(county.task(&theirs).await, body);
}

// G-060…G-064: what a target may not set, from each status it can reach.
#[tokio::test]
async fn an_illegal_step_is_refused_by_name_and_nothing_is_stored() {
    let (county, _, theirs) = at_the_agency().await;
    let all =
        ["draft", "requested", "accepted", "rejected", "cancelled", "in-progress", "on-hold", "failed", "completed"];
    let ways: [(&str, &[&str]); 5] = [
        ("requested", &["accepted", "rejected", "cancelled"]),
        ("accepted", &["in-progress", "on-hold", "completed", "failed", "cancelled"]),
        ("in-progress", &["on-hold", "completed", "failed", "cancelled"]),
        ("on-hold", &["in-progress", "completed", "failed", "cancelled"]),
        ("completed", &[]),
    ];
    for (from, allowed) in ways {
        if from != "requested" {
            assert_eq!(county.answers("agency", &theirs, from).await.status, 200);
        }
        let before = county.task(&theirs).await;
        for to in all.iter().chain(&["entered-in-error"]).filter(|to| **to != from && !allowed.contains(to)) {
            let refused = county.answers("agency", &theirs, to).await;
            assert_eq!((refused.status, refused.expression()), (422, "Task.status"), "{from} -> {to}");
            assert_eq!(refused.body["issue"][0]["code"], "business-rule");
        }
        assert_eq!(county.task(&theirs).await, before);
    }
}

// D4, G-047
#[tokio::test]
async fn a_targets_negative_ending_needs_a_reason() {
    for (way, end) in
        [(None, "rejected"), (None, "cancelled"), (Some("accepted"), "failed"), (Some("accepted"), "cancelled")]
    {
        let (county, _, theirs) = at_the_agency().await;
        if let Some(step) = way {
            county.answers("agency", &theirs, step).await;
        }
        let refused = county.change("agency", &theirs, |task| task["status"] = json!(end)).await;
        assert_eq!((refused.status, refused.expression()), (422, "Task.statusReason.text"), "{end}");
        let blank = county
            .change("agency", &theirs, |task| {
                task["status"] = json!(end);
                task["statusReason"] = json!({"text": "  "});
            })
            .await;
        assert_eq!(blank.status, 422, "{end}");
        assert_eq!(county.answers("agency", &theirs, end).await.status, 200, "{end}");
    }
}

// D4: public EHR clients send no reason.
// G-062
#[tokio::test]
async fn a_source_cancels_without_a_reason_and_a_standard_one_is_given() {
    let (county, task, theirs) = at_the_agency().await;
    let answer = county.change("clinic", &task, |task| task["status"] = json!("cancelled")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["statusReason"]["text"].as_str().unwrap().contains("without a reason"));
    assert_eq!(county.status(&theirs).await, "cancelled");
    assert_eq!(county.level(&task).await, ("L4".to_string(), true));
}

// D4, G-188
#[tokio::test]
async fn older_codes_are_read_as_what_they_mean_and_never_sent() {
    let (county, task, theirs) = at_the_agency().await;
    let answer = county.answers("agency", &theirs, "received").await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("requested")));
    assert_eq!(answer.body["businessStatus"]["coding"][0]["code"], "delivered");
    let answer = county.answers("agency", &theirs, "ready").await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("accepted")));
    assert_eq!(county.status(&task).await, "in-progress");
}

// D10, G-066
#[tokio::test]
async fn an_update_from_an_older_version_does_not_undo_a_newer_one() {
    let (county, _, theirs) = at_the_agency().await;
    let path = format!("Task/{theirs}");
    let first = county.get("agency", &path).await;
    let etag = first.headers["etag"].clone();
    let strong = etag.trim_start_matches("W/").to_string();
    let mut body = first.body.clone();
    body["status"] = json!("accepted");
    assert_eq!(county.ask("agency", "PUT", &path, Some(&body), &[("if-match", &strong)]).await.status, 200);
    for stale in [&etag, &strong] {
        body["status"] = json!("in-progress");
        let refused = county.ask("agency", "PUT", &path, Some(&body), &[("if-match", stale)]).await;
        assert_eq!((refused.status, &refused.body["issue"][0]["code"]), (412, &json!("conflict")));
    }
    let current = county.get("agency", &path).await;
    assert_eq!(
        county.ask("agency", "PUT", &path, Some(&body), &[("if-match", &current.headers["etag"])]).await.status,
        200
    );
    // The body read first still says requested.
    let undo = county.put("agency", &path, &first.body).await;
    assert_eq!((undo.status, undo.expression()), (409, "Task.status"));
    assert_eq!(county.status(&theirs).await, "in-progress");
    for garbage in ["latest", "W/\"x\"", ""] {
        let refused = county.ask("agency", "PUT", &path, Some(&body), &[("if-match", garbage)]).await;
        assert!([400, 412].contains(&refused.status), "{garbage}: {}", refused.status);
    }
}

// D10: a partner can be bound to send If-Match.
//
#[tokio::test]
async fn where_if_match_is_required_an_update_without_it_is_refused() {
    let settings = county().replace("id = \"agency\"", "id = \"agency\"\nrequire_if_match = true");
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    assert_eq!(county.answers("agency", &theirs, "accepted").await.status, 400);
    assert_eq!(county.status(&theirs).await, "requested");
    let read = county.get("agency", &format!("Task/{theirs}")).await;
    let mut body = read.body.clone();
    body["status"] = json!("accepted");
    let with = [("if-match", read.headers["etag"].as_str())];
    assert_eq!(county.ask("agency", "PUT", &format!("Task/{theirs}"), Some(&body), &with).await.status, 200);
}

// D3, reference-clients §2.1: fhir_models drops primitive extensions on the way.
#[tokio::test]
async fn what_a_client_dropped_on_the_way_is_kept() {
    let county = TestGateway::county().await;
    let mut sent = county.referral("sr1", "housing-instability", Some("Organization/hub"));
    sent["_authoredOn"] = json!({"extension": [{"url": "http://example.org/how", "valueString": "guessed"}]});
    sent["_priority"] = json!({"extension": [{"url": "http://example.org/why", "valueString": "asked"}]});
    let task = county.post("clinic", "Task", &sent).await.id();
    county.deliver_due().await;
    let drop = |body: &mut Value| {
        for name in ["_authoredOn", "_priority"] {
            body.as_object_mut().unwrap().shift_remove(name);
        }
    };
    let answer = county
        .change("clinic", &task, |body| {
            drop(body);
            body["description"] = json!("one bedroom");
        })
        .await;
    assert_eq!(answer.body["description"], "one bedroom");
    assert_eq!(answer.body["_authoredOn"], sent["_authoredOn"]);
    assert_eq!(answer.body["_priority"], sent["_priority"]);
    let accepted = county
        .change("desk", &task, |body| {
            drop(body);
            body["status"] = json!("in-progress");
        })
        .await;
    assert_eq!((accepted.status, &accepted.body["_priority"]), (200, &sent["_priority"]));
}

#[tokio::test]
async fn a_repeated_update_makes_no_new_version() {
    let (county, task, theirs) = at_the_agency().await;
    let first = county.answers("agency", &theirs, "accepted").await;
    let source = county.task(&task).await;
    for _ in 0..3 {
        let again = county.answers("agency", &theirs, "accepted").await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    assert_eq!(county.task(&task).await, source);
}

// An output may only name what its writer may see.
#[tokio::test]
async fn an_output_that_names_what_the_target_cannot_see_is_refused() {
    let (county, task, theirs) = at_the_agency().await;
    county.answers("agency", &theirs, "accepted").await;
    let (_, other) = county.split("sr2", &["Organization/kitchen"]).await;
    let secret = county.did("kitchen", &other[0]).await;
    for named in [secret.as_str(), "Procedure/nowhere", &format!("https://hub.test/fhir/{secret}")] {
        let refused =
            county.change("agency", &theirs, |task| loopgate::demo::patient::completed_with(task, named)).await;
        assert_eq!((refused.status, refused.expression()), (422, "Task.output[0].valueReference"), "{named}");
    }
    assert_eq!((county.status(&theirs).await, county.status(&task).await), ("accepted".into(), "in-progress".into()));
}

// D13: a client that sends back what it read says nothing about who acts next.
#[tokio::test]
async fn the_business_status_follows_the_status_when_the_target_only_repeats_what_it_read() {
    let (county, _, theirs) = at_the_agency().await;
    let says = |task: Value| task["businessStatus"]["coding"][0]["code"].as_str().unwrap_or("").to_string();
    assert_eq!(says(county.answers("agency", &theirs, "accepted").await.body), "service-pending");
    assert_eq!(says(county.answers("agency", &theirs, "in-progress").await.body), "service-started");
    let own = county
        .change("agency", &theirs, |task| {
            task["status"] = json!("on-hold");
            task["statusReason"] = json!({"text": "no room yet"});
            task["businessStatus"] = json!({"coding": [{"system": "https://loopgate.org/fhir/CodeSystem/business-status", "code": "waitlisted"}]});
        })
        .await;
    assert_eq!(says(own.body), "waitlisted");
    let on = county.answers("agency", &theirs, "in-progress").await.body;
    assert!(on["statusReason"].is_null(), "the reason belonged to the pause: {}", on["statusReason"]);
}

// G-060: the source takes it back altogether; nothing is left for anybody to do.
#[tokio::test]
async fn a_referral_entered_in_error_ends_everywhere_and_waits_for_nobody() {
    let (county, task, theirs) = at_the_agency().await;
    let answer = county.change("clinic", &task, |task| task["status"] = json!("entered-in-error")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(county.status(&theirs).await, "cancelled");
    assert_eq!(county.waiting_on(&task).await, "");
}
