//! Visits to subscribers: many notifications under one lease, each of them as if it were the only one.

use std::time::Duration;

use loopgate::app::{Busy, Claimed, Owed, Visit};
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Fault, HANDSHAKE, HOOK, TestGateway, county as partners};
use crate::notifications::{foci, heard, numbers, put, says, status, subscription, up_to};
use crate::on_both;

const MAX_COUNT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-max-count";

/// A Subscription of the clinic's to Tasks, one event a notification, for which so many referrals' events wait.
async fn waiting(place: Place, referrals: usize) -> (TestGateway, String, i64) {
    let county = TestGateway::with(place, &partners()).await.settled().await;
    let mut body = subscription(HOOK);
    body["channel"]["extension"] = json!([{"url": MAX_COUNT, "valuePositiveInt": 1}]);
    let id = county.post("clinic", "Subscription", &body).await.id();
    county.later(HANDSHAKE).await;
    assert_eq!(operation(&county, "root", &id, "pause").await, 200);
    for number in 0..referrals {
        county.refers(&format!("sr{number}"), "housing-instability").await;
        county.deliver_due().await;
    }
    assert_eq!(operation(&county, "root", &id, "resume").await, 200);
    let counted = kept(&county, &id).await;
    assert!(counted.len() >= 2 * referrals && heard(&county, HOOK).is_empty());
    (county, id, counted.len() as i64)
}

async fn operation(county: &TestGateway, who: &str, id: &str, name: &str) -> u16 {
    county.post(who, &format!("Subscription/{id}/${name}"), &json!({"resourceType": "Parameters"})).await.status
}

async fn kept(county: &TestGateway, id: &str) -> Vec<i64> {
    numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body)
}

async fn claimed(county: &TestGateway, id: &str) -> Claimed {
    let claimed = county.gateway.app.claim(100, &Busy::default()).await.unwrap();
    claimed.into_iter().find(|one| one.subject == id).expect("it is due")
}

/// Plans the next notification of a visit and counts it as taken: its event numbers.
async fn told(county: &TestGateway, claimed: &Claimed, visit: &mut Visit) -> Option<Vec<i64>> {
    let plan = county.gateway.app.notify_plan(claimed, visit).await.unwrap()?;
    let bundle: Value = serde_json::from_str(plan.body.as_deref().unwrap()).unwrap();
    visit.took(plan);
    Some(numbers(&bundle))
}

// S-087, S-106: all that waits goes out under one lease and one record, a notification at a time.
on_both!(what_waits_is_told_in_one_visit, async |place: Place| {
    let (county, id, count) = waiting(place, 3).await;
    let tries = async || county.gateway.app.attempts(Owed::Notify, &id).await.unwrap().len();
    let before = tries().await;
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK), up_to(count));
    assert!(county.world.heard(HOOK).iter().all(|bundle| numbers(bundle).len() <= 1), "max-count");
    assert_eq!(tries().await, before + 1);
    let shown = county.get("root", &format!("Subscription/{id}/$deliveries")).await.body.to_string();
    assert!(shown.contains(&format!("events 1 to {count}")), "{shown}");
    assert_eq!(county.deliver_due().await, 0, "nothing is owed any more");
});

// S-107, S-109: a try that fails in the middle of a visit is the first since the last success; what was taken before is not
// told again, and the rest follows in order.
on_both!(a_failure_in_mid_visit_takes_nothing_back, async |place: Place| {
    let (county, id, count) = waiting(place, 3).await;
    county.world.fault(HOOK, &[Fault::None, Fault::None, Fault::Answer(503)]);
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK), [1, 2]);
    let tries = county.gateway.app.attempts(Owed::Notify, &id).await.unwrap();
    let last: Vec<&str> = tries.iter().rev().take(2).map(|one| one.outcome.as_str()).collect();
    assert_eq!(last, ["retry", "done"]);
    let shown = county.get("root", &format!("Subscription/{id}/$deliveries")).await.body.to_string();
    assert!(shown.contains(r#""name":"tries","valueInteger":1"#), "{shown}");
    county.later(Duration::from_secs(4)).await;
    assert_eq!(heard(&county, HOOK), [1, 2], "the first pause");
    county.later(Duration::from_secs(4)).await;
    assert_eq!(heard(&county, HOOK), up_to(count));
});

// S-109: a gateway that dies in the middle of a visit tells again what it has not recorded, with the same numbers.
on_both!(a_visit_that_nobody_recorded_is_told_again, async |place: Place| {
    let (county, id, count) = waiting(place, 2).await;
    let (one, mut visit) = (claimed(&county, &id).await, Visit::default());
    assert_eq!(told(&county, &one, &mut visit).await, Some(vec![1]));
    assert_eq!(told(&county, &one, &mut visit).await, Some(vec![2]));
    drop(visit);
    county.later(Duration::from_secs(3_600)).await;
    assert_eq!(heard(&county, HOOK), up_to(count));
});

// S-038, S-161: what is decided while a visit is under way counts for its next notification.
#[tokio::test]
async fn a_visit_ends_when_its_subscription_is_held_or_changed() {
    for act in ["pause", "off", "delete", "anew"] {
        let (county, id, count) = waiting(Place::sqlite(), 2).await;
        let (one, mut visit) = (claimed(&county, &id).await, Visit::default());
        assert_eq!(told(&county, &one, &mut visit).await, Some(vec![1]));
        match act {
            "pause" => assert_eq!(operation(&county, "root", &id, "pause").await, 200),
            "off" => assert_eq!(put(&county, &id, "off", HOOK).await.status, 200),
            "anew" => assert_eq!(put(&county, &id, "requested", HOOK).await.status, 200),
            _ => drop(county.ask("clinic", "DELETE", &format!("Subscription/{id}"), None, &[]).await),
        }
        assert_eq!(told(&county, &one, &mut visit).await, None, "{act}");
        county.gateway.app.notified(&one, visit).await.unwrap();
        let before = county.world.heard(HOOK).len();
        county.later(Duration::from_secs(3_600)).await;
        match act {
            "pause" => {
                assert!(heard(&county, HOOK).is_empty());
                assert_eq!(operation(&county, "root", &id, "resume").await, 200);
                county.deliver_due().await;
                assert_eq!(heard(&county, HOOK), (2..=count).collect::<Vec<_>>(), "from the next one on");
            }
            "anew" => {
                assert_eq!(says(&county.world.heard(HOOK)[before], "type"), "handshake");
                assert_eq!(status(&county, "clinic", &id).await, "active");
            }
            _ => assert_eq!(county.world.heard(HOOK).len(), before, "{act}"),
        }
    }
}

// S-161, D11: a grant that ends in the middle of a visit ends what its next notification says.
on_both!(a_grant_is_asked_for_before_each_notification, async |place: Place| {
    let (county, id, _) = waiting(place, 2).await;
    let (one, mut visit) = (claimed(&county, &id).await, Visit::default());
    let plan = county.gateway.app.notify_plan(&one, &mut visit).await.unwrap().unwrap();
    let first: Value = serde_json::from_str(plan.body.as_deref().unwrap()).unwrap();
    let task = foci(&first).pop().unwrap().rsplit('/').next().unwrap().to_string();
    visit.took(plan);
    // What it made itself.
    county.takes_back("clinic", "").await;
    let plan = county.gateway.app.notify_plan(&one, &mut visit).await.unwrap().unwrap();
    let next: Value = serde_json::from_str(plan.body.as_deref().unwrap()).unwrap();
    assert_eq!((numbers(&next), foci(&next).len()), (vec![2], 0));
    assert!(!next.to_string().contains(&task));
});

// S-184: what is asked for again while something is told again comes whole.
on_both!(asked_for_again_twice_it_comes_again_from_the_beginning, async |place: Place| {
    let (county, id, count) = waiting(place, 2).await;
    county.deliver_due().await;
    assert_eq!(operation(&county, "clinic", &id, "resend").await, 200);
    let (one, mut visit) = (claimed(&county, &id).await, Visit::default());
    for number in 1..=3 {
        assert_eq!(told(&county, &one, &mut visit).await, Some(vec![number]));
    }
    let path = format!("Subscription/{id}/$resend?eventsUntilNumber=2");
    assert_eq!(county.post("clinic", &path, &json!({"resourceType": "Parameters"})).await.status, 200);
    assert_eq!(told(&county, &one, &mut visit).await, None, "what was asked for last goes first");
    county.gateway.app.notified(&one, visit).await.unwrap();
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK), (1..=count).chain(1..=2).collect::<Vec<_>>());
});
