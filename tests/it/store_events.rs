//! Subscriptions' events, numbered without gaps in the order of commit, and the audit's records.

use std::time::Duration;

use loopgate::fhir::Key;
use loopgate::fhir::subscription::Change;
use loopgate::store::{Access, Evidence, News, Reason, Recorder, Store, Subscription, Terms, Tx};
use tokio::task::JoinSet;

use crate::databases::Place;
use crate::on_both;
use crate::store::task_key;

const TOPIC: &str = "https://hub/topic";

fn subscription(id: &str, partner: &str) -> Subscription {
    Subscription {
        id: id.into(),
        partner: partner.into(),
        sees: partner.into(),
        status: "requested".into(),
        endpoint: "https://ehr/hook".into(),
        resource: "{}".into(),
        ..Subscription::default()
    }
}

/// Found by every change of the topic.
fn by() -> Terms<'static> {
    Terms { topic: TOPIC, open: false, terms: vec![String::new()] }
}

/// Those that a change of this resource finds, when nothing narrows them.
async fn subscribers(tx: &mut Tx, key: &Key, topic: &str) -> Vec<Subscription> {
    let news = News { focus: key.clone(), topics: vec![topic.to_string()], terms: vec![String::new()] };
    tx.subscribers(&[news]).await.unwrap().remove(0)
}

/// A subscription whose handshake has succeeded.
async fn subscribed(store: &Store, id: &str, partner: &str) {
    let mut tx = store.begin().await.unwrap();
    let mut one = subscription(id, partner);
    tx.put_subscription(&one, &by()).await.unwrap();
    (one.status, one.begun) = ("active".into(), true);
    tx.update_subscription(&one).await.unwrap();
    tx.commit().await.unwrap();
}

async fn numbers(store: &Store, id: &str) -> Vec<i64> {
    let events = store.read().await.unwrap().events(id, 1, i64::MAX, 1_000).await.unwrap();
    events.iter().map(|event| event.number).collect()
}

on_both!(numbers_have_no_gap_under_eight_writers_of_whom_some_roll_back, async |place: Place| {
    let store = place.store().await;
    subscribed(&store, "a", "clinic").await;
    subscribed(&store, "b", "pantry").await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = if place.is_sqlite() { store.clone() } else { place.open().await };
        writers.spawn(async move {
            for round in 0..15 {
                let mut tx = store.begin().await.unwrap();
                let focus = task_key(&format!("t{writer}-{round}"));
                for partner in ["pantry", "clinic"] {
                    tx.grant(partner, std::slice::from_ref(&focus), "t", Reason::Party).await.unwrap();
                }
                for one in subscribers(&mut tx, &focus, TOPIC).await {
                    tx.insert_event(&one.id, &focus, 1, Change::Updated).await.unwrap();
                }
                if round % 3 == 1 {
                    drop(tx);
                } else {
                    tx.commit().await.unwrap();
                }
            }
        });
    }
    writers.join_all().await;
    let expected: Vec<i64> = (1..=80).collect();
    assert_eq!(numbers(&store, "a").await, expected);
    assert_eq!(numbers(&store, "b").await, expected);
    let one = store.read().await.unwrap().subscription("a").await.unwrap().unwrap();
    assert_eq!(one.events, 80);
});

on_both!(no_number_shows_before_a_smaller_one_of_an_open_transaction, async |place: Place| {
    let (store, other) = (place.store().await, place.open().await);
    let other = if place.is_sqlite() { store.clone() } else { other };
    subscribed(&store, "a", "clinic").await;
    let mut open = store.begin().await.unwrap();
    assert_eq!(open.insert_event("a", &task_key("t1"), 1, Change::Updated).await.unwrap(), Some((1, true)));
    let later = tokio::spawn(async move {
        let mut tx = other.begin().await.unwrap();
        let number = tx.insert_event("a", &task_key("t2"), 1, Change::Updated).await.unwrap();
        tx.commit().await.unwrap();
        number
    });
    // Ample time to overtake, if it could.
    for _ in 0..50 {
        assert_eq!(numbers(&store, "a").await, [0; 0]);
        assert!(!later.is_finished());
    }
    assert!(store.horizon() < open.stamp());
    open.commit().await.unwrap();
    assert_eq!(later.await.unwrap(), Some((2, true)));
    assert_eq!(numbers(&store, "a").await, [1, 2]);
});

on_both!(the_number_of_a_transaction_that_is_rolled_back_goes_to_the_one_behind_it, async |place: Place| {
    let store = place.store().await;
    subscribed(&store, "a", "clinic").await;
    let mut open = store.begin().await.unwrap();
    open.insert_event("a", &task_key("t1"), 1, Change::Updated).await.unwrap();
    let other = store.clone();
    let later = tokio::spawn(async move {
        let mut tx = other.begin().await.unwrap();
        tx.insert_event("a", &task_key("t2"), 3, Change::Updated).await.unwrap();
        tx.commit().await.unwrap();
    });
    for _ in 0..20 {
        assert_eq!(numbers(&store, "a").await, [0; 0]);
    }
    drop(open);
    later.await.unwrap();
    let events = store.read().await.unwrap().events("a", 1, 9, 9).await.unwrap();
    assert_eq!((events.len(), events[0].number, &events[0].focus, events[0].version), (1, 1, &task_key("t2"), 3));
});

on_both!(a_subscription_keeps_its_counters_when_it_is_sent_again, async |place: Place| {
    let store = place.store().await;
    subscribed(&store, "a", "clinic").await;
    let mut tx = store.begin().await.unwrap();
    for version in 1..=3 {
        tx.insert_event("a", &task_key("t1"), version, Change::Updated).await.unwrap();
    }
    let mut one = tx.subscription("a").await.unwrap().unwrap();
    (one.sent, one.status, one.error) = (2, "error".into(), Some("410".into()));
    tx.update_subscription(&one).await.unwrap();
    let again =
        Subscription { endpoint: "https://ehr/new".into(), ends: Some(tx.stamp()), ..subscription("a", "clinic") };
    tx.put_subscription(&again, &by()).await.unwrap();
    tx.commit().await.unwrap();
    let mut reader = store.read().await.unwrap();
    let now = reader.subscription("a").await.unwrap().unwrap();
    assert_eq!((now.events, now.sent, now.begun, now.error.as_deref()), (3, 2, true, None));
    assert_eq!((now.status.as_str(), now.endpoint.as_str(), now.ends), ("requested", "https://ehr/new", again.ends));
    assert_eq!(reader.subscription("b").await.unwrap(), None);
});

on_both!(events_count_for_begun_subscriptions_of_the_topic_whose_holder_may_see, async |place: Place| {
    let store = place.store().await;
    for id in ["b", "a"] {
        subscribed(&store, id, "clinic").await;
    }
    subscribed(&store, "other", "pantry").await;
    let mut tx = store.begin().await.unwrap();
    for (id, status, begun) in [("not-begun", "requested", false), ("off", "off", true)] {
        let mut one = subscription(id, "clinic");
        tx.put_subscription(&one, &by()).await.unwrap();
        (one.status, one.begun) = (status.into(), begun);
        tx.update_subscription(&one).await.unwrap();
    }
    // A coordinator follows the gateway's grants besides its own; an operator sees all.
    for (id, sees) in [("coordinator", "hub"), ("operator", "*")] {
        let mut one = Subscription { sees: sees.into(), ..subscription(id, id) };
        tx.put_subscription(&one, &by()).await.unwrap();
        one.begun = true;
        tx.update_subscription(&one).await.unwrap();
    }
    let key = task_key("t1");
    let ids = |list: Vec<Subscription>| list.into_iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids(subscribers(&mut tx, &key, TOPIC).await), ["operator"]);
    tx.grant("clinic", std::slice::from_ref(&key), "t1", Reason::Party).await.unwrap();
    assert_eq!(ids(subscribers(&mut tx, &key, TOPIC).await), ["a", "b", "operator"]);
    assert_eq!(ids(subscribers(&mut tx, &key, "https://other/topic").await), [""; 0]);
    tx.grant("hub", std::slice::from_ref(&key), "t1", Reason::Party).await.unwrap();
    tx.end_grants("clinic", "t1", None).await.unwrap();
    assert_eq!(ids(subscribers(&mut tx, &key, TOPIC).await), ["coordinator", "operator"]);
    assert_eq!(tx.subscription_count("clinic").await.unwrap(), 3);
    assert_eq!(ids(tx.subscriptions(Some("clinic")).await.unwrap()), ["a", "b", "not-begun", "off"]);
    assert_eq!(tx.subscriptions(None).await.unwrap().len(), 7);
});

// S-132
on_both!(old_events_are_forgotten_and_numbers_go_on, async |place: Place| {
    let store = place.store().await;
    subscribed(&store, "a", "clinic").await;
    for version in 1..=4 {
        let mut tx = store.begin().await.unwrap();
        tx.insert_event("a", &task_key("t1"), version, Change::Updated).await.unwrap();
        tx.commit().await.unwrap();
        place.clock.advance(Duration::from_secs(60));
    }
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.forget_events(place.clock.now().minus(Duration::from_secs(120))).await.unwrap(), 2);
    assert_eq!(tx.insert_event("a", &task_key("t1"), 5, Change::Updated).await.unwrap(), Some((5, true)));
    tx.commit().await.unwrap();
    assert_eq!(numbers(&store, "a").await, [3, 4, 5]);
    let two = store.read().await.unwrap().events("a", 2, 4, 9).await.unwrap();
    assert_eq!(two.iter().map(|event| event.number).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(store.read().await.unwrap().events("a", 1, 9, 2).await.unwrap().len(), 2);
});

fn access(seen: Vec<(Key, i64)>) -> Access {
    Access { partner: "clinic".into(), action: "read", seen, request: "r".into(), ..Access::default() }
}

on_both!(five_hundred_accesses_are_on_record_when_record_returns, async |place: Place| {
    let store = place.store().await;
    let recorder = Recorder::start(store.clone());
    let mut readers = JoinSet::new();
    for number in 0..500 {
        let (store, recorder) = (store.clone(), recorder.clone());
        readers.spawn(async move {
            let key = task_key(&format!("t{number}"));
            recorder.record(access(vec![(key.clone(), 1), (key.clone(), 2)])).await.unwrap();
            if number % 10 == 0 {
                let found = store.read().await.unwrap().accesses(&key).await.unwrap();
                assert_eq!(found.iter().map(|one| one.3).collect::<Vec<_>>(), [1, 2]);
            }
        });
    }
    readers.join_all().await;
    let text = "select count(*) from audit";
    let count = store.read().await.unwrap().one(text, Vec::new()).await.unwrap().unwrap().int(0).unwrap();
    assert_eq!(count, 500);
});

on_both!(large_answers_are_recorded_too_and_nothing_is_nothing, async |place: Place| {
    let store = place.store().await;
    let recorder = Recorder::start(store.clone());
    recorder.record(access(Vec::new())).await.unwrap();
    let mut readers = JoinSet::new();
    for number in 0..6 {
        let recorder = recorder.clone();
        let size = if number == 0 { 5_000 } else { 1_500 };
        readers.spawn(async move { recorder.record(access(vec![(task_key("t1"), 1); size])).await.unwrap() });
    }
    readers.join_all().await;
    assert_eq!(store.read().await.unwrap().accesses(&task_key("t1")).await.unwrap().len(), 12_500);
});

on_both!(evidence_comes_back_oldest_first, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    let step = |what: &str, at| Evidence {
        referral: "t1".into(),
        task: "t1".into(),
        at,
        who: "clinic".into(),
        what: what.into(),
        how: "post".into(),
        version: 1,
    };
    let (first, second) = (step("received", tx.stamp()), step("accepted", tx.stamp().plus(Duration::from_secs(1))));
    tx.put_evidence(&second).await.unwrap();
    tx.put_evidence(&first).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().evidence("t1").await.unwrap(), [first, second]);
});

// P16: ten thousand subscriptions to one topic, and a change looks at the one that it concerns.
on_both!(a_change_finds_its_subscribers_by_terms, async |place: Place| {
    let store = place.store().await;
    let many = if place.is_sqlite() { 10_000 } else { 3_000 };
    let mut tx = store.begin().await.unwrap();
    for number in 0..many {
        let one =
            Subscription { begun: true, status: "active".into(), ..subscription(&format!("s{number}"), "clinic") };
        tx.put_subscription(&one, &by_owner(number)).await.unwrap();
    }
    let key = task_key("t1");
    tx.grant("clinic", std::slice::from_ref(&key), "t1", Reason::Party).await.unwrap();
    tx.run("analyze", vec![]).await.unwrap();
    let topics = vec![TOPIC.to_string(), "Task?".to_string()];
    let terms = vec!["".to_string(), "_id=t1".to_string(), "owner=Organization/o77".to_string()];
    // Another change beside it, which somebody else may see.
    let mine = News { focus: key, topics: topics.clone(), terms };
    let other = News { focus: task_key("t2"), topics, terms: vec!["owner=Organization/o78".to_string()] };
    let news = [other, mine];
    let found = tx.subscribers(&news).await.unwrap().remove(1);
    assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["s77"]);
    let plan = tx.subscribers_plan(&news).await.unwrap().join("\n");
    let scans = ["Seq Scan on subscription", "SCAN subscription", "SCAN t"];
    assert!(!scans.iter().any(|scan| plan.contains(scan)), "{plan}");
    let by = if place.is_sqlite() { "topic=? AND viewer=? AND term=?" } else { "subscription_term_pkey" };
    assert!(plan.contains(by), "{plan}");
    // Switched off, it is found no more.
    let off = Subscription { status: "off".into(), ..found[0].clone() };
    tx.put_subscription(&off, &by_owner(77)).await.unwrap();
    assert!(tx.subscribers(&news).await.unwrap().iter().all(Vec::is_empty));
});

fn by_owner(number: usize) -> Terms<'static> {
    Terms { topic: TOPIC, open: false, terms: vec![format!("owner=Organization/o{number}")] }
}
