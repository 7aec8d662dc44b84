//! What is known to find nothing finds nothing: the marks that answer an empty poll never hide a change.

use loopgate::fhir::search::{Filter, Prefix, Query};
use loopgate::fhir::{Key, ResourceType};
use loopgate::store::{Reason, Store, Tx, Viewer, Written};
use loopgate::time::Timestamp;

use crate::databases::Place;
use crate::store::{OWN, task};
use crate::store_search::query;

fn since(kind: ResourceType, time: Timestamp) -> Query {
    Query { filters: vec![Filter::Updated(Prefix::Gt, time.0, time.0 + 1)], total: false, ..query(kind) }
}

fn partner(id: &str) -> Viewer {
    Viewer::Grantees(vec![id.to_string()])
}

async fn made(tx: &mut Tx, id: &str) -> Written {
    tx.insert_resource(task("requested"), id, "clinic", "POST", OWN).await.unwrap()
}

/// Where the marks say that a poll finds nothing, the database says so too; answers how often they said it.
async fn check(store: &Store, times: &[Timestamp]) -> usize {
    let mut said = 0;
    for viewer in [partner("a"), partner("b"), Viewer::Grantees(vec!["a".into(), "b".into()]), Viewer::Operator] {
        for time in times {
            let query = since(ResourceType::TASK, *time);
            if store.finds_nothing(&query, &viewer) {
                said += 1;
                let page = store.read().await.unwrap().search(&query, &viewer).await.unwrap();
                assert!(page.hits.is_empty(), "{viewer:?} since {time:?} was hidden {:?}", page.hits);
            }
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_never_hide_a_change() {
    let place = Place::sqlite();
    let store = place.store().await;
    let (mut keys, mut times): (Vec<Key>, Vec<Timestamp>) = (Vec::new(), vec![store.horizon()]);
    let (mut dice, mut said) = (7_u64, 0);
    for step in 0..300 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (choice, who) = ((dice >> 33) % 7, ["a", "b", "c"][usize::try_from((dice >> 40) % 3).unwrap()]);
        let any = usize::try_from((dice >> 45) % 64).unwrap() % keys.len().max(1);
        let mut tx = store.begin().await.unwrap();
        match (choice, keys.get(any).cloned()) {
            (0 | 1, _) | (_, None) => {
                let written = made(&mut tx, &format!("t{step}")).await;
                tx.grant(who, std::slice::from_ref(&written.stored.key), "", Reason::Author).await.unwrap();
                keys.push(written.stored.key);
            }
            (2 | 3, Some(key)) => {
                let stored = tx.resource(&key).await.unwrap().unwrap();
                tx.update_resource(&stored, task("accepted"), who, OWN).await.unwrap();
            }
            (4, Some(key)) => tx.grant(who, &[key], "later", Reason::Party).await.unwrap(),
            (5, Some(_)) => tx.end_grants(who, "later", None).await.unwrap(),
            (_, Some(key)) => {
                let stored = tx.resource(&key).await.unwrap().unwrap();
                tx.delete_resource(&stored, who).await.unwrap();
                keys.remove(any);
            }
        }
        // While it is under way: a poller who sees it afterwards must not have been told that there is nothing then.
        times.push(store.horizon());
        times.push(tx.stamp());
        let recent = &times[times.len().saturating_sub(8)..];
        said += check(&store, recent).await;
        match step % 5 {
            0 => drop(tx),
            _ => tx.commit().await.unwrap(),
        }
        if step % 5 == 0 {
            // What was taken back is not there.
            let mut reader = store.read().await.unwrap();
            let mut there = Vec::new();
            for key in &keys {
                there.push(reader.resource(key).await.unwrap().is_some_and(|stored| !stored.deleted));
            }
            let mut there = there.into_iter();
            keys.retain(|_| there.next() == Some(true));
        }
        times.push(store.horizon());
        let recent = &times[times.len().saturating_sub(8)..];
        said += check(&store, recent).await;
    }
    assert!(said > 1_000, "the marks say something at all: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_way_is_looked_for_and_what_was_before_the_start_too() {
    let place = Place::sqlite();
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    let written = made(&mut tx, "t1").await;
    tx.grant("a", std::slice::from_ref(&written.stored.key), "", Reason::Author).await.unwrap();
    let before = Timestamp(tx.stamp().0 - 1);
    let poll = since(ResourceType::TASK, before);
    assert!(!store.finds_nothing(&poll, &partner("a")) && store.finds_nothing(&poll, &partner("b")));
    tx.commit().await.unwrap();
    let again = place.store().await;
    assert!(!again.finds_nothing(&poll, &partner("a")), "a new process knows nothing of before");
    let after = since(ResourceType::TASK, written.stored.updated);
    assert!(again.finds_nothing(&after, &partner("a")));
    let mut other = again.begin().await.unwrap();
    other.grant("b", std::slice::from_ref(&written.stored.key), "", Reason::Party).await.unwrap();
    assert!(!again.finds_nothing(&after, &partner("b")) && again.finds_nothing(&after, &partner("a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgresql_nothing_is_known_without_looking() {
    let Some(place) = Place::postgres().await else { return };
    let store = place.store().await;
    assert!(!store.finds_nothing(&since(ResourceType::TASK, store.newest()), &partner("a")));
}
