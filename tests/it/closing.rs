//! `$loop-status`: how far, whose turn, and what counts as evidence that the source knows (design D12b).

use loopgate::demo::patient;
use serde_json::json;

use crate::acts::reference;
use crate::databases::Place;
use crate::gateway::{Fault, HANDSHAKE, HOOK, PANTRY, TestGateway, county, partner};

// D12b
#[tokio::test]
async fn the_loop_says_at_each_stage_how_far_it_is_and_whose_turn() {
    let county = TestGateway::county().await;
    let stage = async |task: &str| (county.level(task).await.0, county.waiting_on(task).await);
    let is = |level: &str, who: &str| (level.to_string(), who.to_string());
    county.deliver_due().await;
    county.world.fault(PANTRY, &[Fault::LoseRequest]);
    let task = county.refers("sr1", "food-insecurity").await;
    assert_eq!(stage(&task).await, is("L0", "hub"));
    county.deliver_due().await;
    assert_eq!(stage(&task).await, is("L0", "hub"), "not yet delivered");
    county.later(std::time::Duration::from_secs(5)).await;
    assert_eq!(stage(&task).await, is("L0", "pantry"));
    assert!(
        county.loop_part(&task, "due", "valueDateTime").await.as_str().unwrap()
            > county.clock.now().to_string().as_str()
    );
    county.pantry_says(|task| task["status"] = json!("accepted")).await;
    assert_eq!(stage(&task).await, is("L1", "pantry"));
    county.pantry_says(|task| task["status"] = json!("completed")).await;
    assert_eq!(stage(&task).await, is("L2", "clinic"));
    // Asking is not reading, and nobody else's reading is the source's.
    for who in ["clinic", "desk"] {
        assert_eq!(county.get(who, &format!("Task/{task}/$loop-status")).await.status, 200);
    }
    county.get("desk", &format!("Task/{task}")).await;
    county.get("pantry", &format!("Task/{task}")).await;
    assert_eq!(stage(&task).await, is("L2", "clinic"));
    for who in ["pantry", "kitchen", "agency"] {
        assert_eq!(county.get(who, &format!("Task/{task}/$loop-status")).await.status, 404, "{who}");
    }
    county.get("clinic", "Task?status=completed").await;
    assert_eq!(stage(&task).await, is("L4", ""));
    let answer = county
        .ask("clinic", "POST", &format!("Task/{task}/$loop-status"), Some(&json!({"resourceType": "Parameters"})), &[])
        .await;
    let said: Vec<String> = answer.body["parameter"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["name"] == "step")
        .map(|step| step["part"][0]["valueCode"].as_str().unwrap().to_string())
        .collect();
    for what in ["received", "relayed", "accepted", "delivered", "in-progress", "completed", "informed"] {
        assert!(said.iter().any(|one| one == what), "{what}: {said:?}");
    }
}

// D12b: a notification that was taken is evidence.
#[tokio::test]
async fn a_notification_that_the_source_took_closes_the_loop() {
    let county = TestGateway::county().await;
    let subscription = json!({"resourceType": "Subscription", "status": "requested", "reason": "status",
        "criteria": "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task",
        "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content", "valueCode": "id-only"}]}}});
    let made = county.post("clinic", "Subscription", &subscription).await;
    assert_eq!(made.status, 201, "{}", made.body);
    county.later(HANDSHAKE).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    county.answers("agency", &theirs, "rejected").await;
    assert_eq!(county.level(&task).await, ("L2".into(), false));
    county.deliver_due().await;
    assert!(!county.world.heard(HOOK).is_empty());
    assert_eq!(county.level(&task).await, ("L4".into(), true));
    assert_eq!(county.waiting_on(&task).await, "");
}

// D11a: a coordinator refers as the gateway's organization, which is then the source.
#[tokio::test]
async fn a_coordinators_own_referral_closes_when_the_coordinator_has_read_its_end() {
    let county = TestGateway::county().await;
    let now = county.clock.now().to_string();
    let post = async |mut body: serde_json::Value| {
        body.as_object_mut().unwrap().shift_remove("id");
        let kind = body["resourceType"].as_str().unwrap().to_string();
        let answer = county.post("desk", &kind, &body).await;
        assert_eq!(answer.status, 201, "{kind}: {}", answer.body);
        json!({"reference": format!("{kind}/{}", answer.id())})
    };
    let mut context = patient::context(&now).into_iter();
    let person = post(context.next().unwrap()).await;
    let mut consent = context.find(|one| one["resourceType"] == "Consent").unwrap();
    consent["patient"] = person.clone();
    consent["organization"] = json!([{"reference": "Organization/hub"}]);
    let consent = post(consent).await;
    let mut request = patient::service_request("x", "housing-instability", &now);
    (request["subject"], request["supportingInfo"]) = (person.clone(), json!([consent]));
    request["requester"] = json!({"reference": "Organization/hub"});
    let request = post(request).await;
    let task = patient::referral_task(None, &reference(&request), "Organization/hub", &reference(&person), None, &now);
    for end in ["rejected", "cancelled"] {
        let made = county.post("desk", "Task", &task).await;
        assert_eq!((made.status, &made.body["status"]), (201, &json!("accepted")), "{}", made.body);
        let theirs = county.relayed(&made.id()).await.remove(0);
        assert_eq!(county.waiting_on(&made.id()).await, "agency");
        if end == "rejected" {
            county.answers("agency", &theirs, end).await;
            assert_eq!(
                (county.level(&made.id()).await, county.waiting_on(&made.id()).await),
                (("L2".into(), false), "hub".into())
            );
            county.get("desk", &format!("Task/{}", made.id())).await;
        } else {
            // Its author needs no reason.
            let ended = county.change("desk", &made.id(), |task| task["status"] = json!(end)).await;
            assert_eq!(ended.status, 200, "{}", ended.body);
            assert_eq!(county.status(&theirs).await, end);
        }
        assert_eq!(county.level(&made.id()).await, ("L4".into(), true), "{end}");
    }
}

// D11a: roles add up. A pantry that refers, too, is still asked for its answers.
#[tokio::test]
async fn a_target_that_is_also_a_source_is_heard() {
    let plain = county();
    let both = plain.replace(
        "id = \"pantry\"\nname = \"pantry\"\nroles = [\"target\"]",
        "id = \"pantry\"\nname = \"pantry\"\nroles = [\"source\", \"target\"]",
    );
    assert_ne!(plain, both);
    let county = TestGateway::with(Place::sqlite(), &(both + &partner("other", "\"source\"", ""))).await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county.pantry_says(|task| task["status"] = json!("accepted")).await;
    assert_eq!(county.status(&task).await, "in-progress");
    county.pantry_says(|task| task["status"] = json!("completed")).await;
    assert_eq!(county.status(&task).await, "completed");
}

// D15b: what happened while a target's server was away is caught up with.
#[tokio::test]
async fn what_a_target_did_while_it_could_not_be_reached_is_caught_up_with() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county.poll("pantry").await;
    county.world.down(PANTRY);
    county.pantry_says(|task| task["status"] = json!("accepted")).await;
    county.pantry_says(|task| task["status"] = json!("in-progress")).await;
    assert_eq!(county.status(&task).await, "accepted");
    county.world.up(PANTRY);
    county.later(std::time::Duration::from_secs(3_600)).await;
    assert_eq!(county.steps(&task).await, ["requested", "accepted", "in-progress"]);
    let theirs = county.relayed(&task).await.remove(0);
    assert_eq!(county.steps(&theirs).await, ["requested", "accepted", "in-progress"]);
}
