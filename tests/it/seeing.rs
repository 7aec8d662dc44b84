//! What a subscriber may see when it is sent, whatever it might when it happened: at each content level, in both formats,
//! in classic ways too; and what those ask for themselves who are told little, or nothing.

use serde_json::{Value, json};

use crate::gateway::{Fault, HANDSHAKE, TestGateway};
use crate::notifications::{numbers, subscription, up_to};

const HOOK: &str = "https://agency.test/hook";

/// The agency subscribes so, and is held; it is given a referral, and before it is let go on its grant has ended.
/// What was sent then, and the id of the Task.
async fn told_too_late(body: &Value) -> (TestGateway, String, Vec<String>, String) {
    let county = TestGateway::county().await.settled().await;
    let answer = county.post("agency", "Subscription", body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    county.later(HANDSHAKE).await;
    let id = answer.id();
    let order = async |name: &str| {
        let nothing = json!({"resourceType": "Parameters"});
        county.post("root", &format!("Subscription/{id}/${name}"), &nothing).await.status
    };
    assert_eq!(order("pause").await, 200);
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.takes_back("agency", &relayed).await;
    let before = county.world.letters().len();
    assert_eq!(order("resume").await, 200);
    county.deliver_due().await;
    let sent = county.world.letters().split_off(before);
    let sent = sent.into_iter().filter(|letter| letter.url.starts_with(HOOK));
    let sent = sent.map(|letter| format!("{} {}", letter.url, letter.body.unwrap_or_default())).collect();
    (county, id, sent, relayed)
}

// S-161, S-133, D11: a grant that ended between the event and the sending: the number comes, and nothing it is about.
#[tokio::test]
async fn a_grant_that_ended_meanwhile_leaves_a_number() {
    for content in ["id-only", "full-resource"] {
        for payload in ["application/fhir+json", "application/fhir+xml"] {
            let mut body = subscription(HOOK);
            body["channel"]["payload"] = json!(payload);
            body["channel"]["_payload"]["extension"][0]["valueCode"] = json!(content);
            let (county, id, sent, relayed) = told_too_late(&body).await;
            assert!(!sent.is_empty() && sent[0].contains("event-number"), "{content} {payload}: {sent:?}");
            assert!(sent.iter().all(|text| !text.contains(&relayed)), "{content} {payload}: {sent:?}");
            let asked = county.get("agency", &format!("Subscription/{id}/$events")).await.body;
            assert!(!numbers(&asked).is_empty() && !asked.to_string().contains(&relayed));
        }
    }
}

// S-202, S-204: a classic copy that may not be seen any more is not sent, and what comes after it is.
#[tokio::test]
async fn a_classic_copy_that_may_not_be_seen_is_passed_over() {
    let mut body = subscription(HOOK);
    body["criteria"] = json!("Task?status=requested,accepted");
    body["channel"].as_object_mut().unwrap().remove("_payload");
    let (county, _, sent, relayed) = told_too_late(&body).await;
    assert!(sent.is_empty(), "{sent:?}");
    let next = county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&next).await.pop().unwrap();
    assert_eq!(county.world.heard(&format!("{HOOK}/Task/{theirs}")).len(), 1);
    assert!(county.world.heard(&format!("{HOOK}/Task/{relayed}")).is_empty());
}

// S-221, S-222, G-120: what is asked for after an id-only notification, and instead of any.
#[tokio::test]
async fn clients_ask_for_what_they_were_told_of() {
    let county = TestGateway::county().await.settled().await;
    let id = crate::notifications::subscribed(&county, "clinic", crate::gateway::HOOK).await;
    county.world.fault(crate::gateway::HOOK, &[Fault::Answer(503)]);
    let (one, two) =
        (county.refers("sr1", "housing-instability").await, county.refers("sr2", "housing-instability").await);
    county.deliver_due().await;
    let found = county.get("clinic", &format!("Task?_id={one},{two}&_include=Task:focus")).await;
    let of = |kind: &str| found.entries().iter().filter(|one| one["resourceType"] == kind).count();
    assert_eq!((of("Task"), of("ServiceRequest")), (2, 2), "{}", found.body);
    let free = county.referral("sr3", "housing-instability", None);
    let free = county.post("clinic", "Task", &free).await;
    assert_eq!((free.status, &free.body["status"]), (201, &json!("requested")), "{}", free.body);
    let asked = "Task?owner:missing=true&status=requested&_lastUpdated=gt2020-01-01T00:00:00Z";
    let open = county.get("clinic", asked).await;
    assert_eq!(open.entries().iter().map(|one| one["id"].clone()).collect::<Vec<_>>(), [json!(free.id())]);
    let kept = numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body);
    assert_eq!(kept, up_to(kept.len() as i64));
    // S-039: an id that nobody has is not made by a PUT.
    let mut body = subscription(crate::gateway::HOOK);
    body["id"] = json!("mine");
    assert_eq!(county.put("clinic", "Subscription/mine", &body).await.status, 405);
}
