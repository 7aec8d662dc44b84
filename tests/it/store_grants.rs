//! Grants: nobody finds, counts, includes or guesses what he may not see.

use std::collections::BTreeSet;

use loopgate::fhir::search::{Cursor, Include, Order, Query, Sort};
use loopgate::fhir::{Key, ResourceType};
use loopgate::store::{Reason, Store, Viewer};
use serde_json::json;

use crate::databases::Place;
use crate::on_both;
use crate::store::{OWN, insert, resource, task, task_key};
use crate::store_search::{find, person, query};

fn grantee(partner: &str) -> Viewer {
    Viewer::Grantees(vec![partner.to_string()])
}

async fn grant(store: &Store, partner: &str, keys: &[Key], reason: Reason) {
    let mut tx = store.begin().await.unwrap();
    tx.grant(partner, keys, "t1", reason).await.unwrap();
    tx.commit().await.unwrap();
}

on_both!(nobody_finds_counts_or_includes_what_he_was_not_granted, async |place: Place| {
    let store = place.store().await;
    let patient = |id: &str| Key::new(ResourceType::PATIENT, id);
    for number in ["1", "2", "3"] {
        insert(&store, &format!("p{number}"), person(None, None)).await;
        let body =
            json!({"resourceType": "Task", "status": "requested", "for": {"reference": format!("Patient/p{number}")}});
        insert(&store, &format!("t{number}"), resource(body)).await;
    }
    insert(&store, "o1", resource(json!({"resourceType": "Organization", "name": "Pantry"}))).await;
    grant(&store, "pantry", &[task_key("t1"), task_key("t2"), patient("p1")], Reason::Party).await;
    grant(&store, "clinic", &[task_key("t3"), patient("p3")], Reason::Author).await;

    let tasks = query(ResourceType::TASK);
    let organizations = query(ResourceType::ORGANIZATION);
    let both = Viewer::Grantees(vec!["pantry".into(), "clinic".into()]);
    let nobody = Viewer::Grantees(Vec::new());
    for (viewer, ids) in [
        (Viewer::Operator, vec!["t3", "t2", "t1"]),
        (grantee("pantry"), vec!["t2", "t1"]),
        (grantee("clinic"), vec!["t3"]),
        (both, vec!["t3", "t2", "t1"]),
        (grantee("stranger"), vec![]),
        (nobody, vec![]),
    ] {
        let (found, total) = find(&store, &tasks, &viewer).await;
        assert_eq!((&found, total), (&ids.iter().map(ToString::to_string).collect(), ids.len() as u64), "{viewer:?}");
        assert_eq!(find(&store, &organizations, &viewer).await, (vec!["o1".to_string()], 1));
        let mut reader = store.read().await.unwrap();
        for id in ["t1", "t2", "t3"] {
            assert_eq!(reader.may_see(&viewer, &task_key(id)).await.unwrap(), ids.contains(&id));
        }
        assert!(reader.may_see(&viewer, &Key::new(ResourceType::ORGANIZATION, "o1")).await.unwrap());
    }

    let mut reader = store.read().await.unwrap();
    let hits = reader.search(&tasks, &grantee("pantry")).await.unwrap().hits;
    let mut included = async |target, viewer: &Viewer, readable: bool| {
        let (source, names) = (ResourceType::TASK, vec!["patient"]);
        let include = Include { source, names, target, iterate: false, reverse: false };
        let found = reader.included(&hits, &[include], viewer, &|_| readable.then(Vec::new)).await.unwrap();
        found.into_iter().map(|found| found.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(included(None, &grantee("pantry"), true).await, [patient("p1")]);
    assert_eq!(included(None, &grantee("pantry"), false).await, [], "out of scope");
    assert_eq!(included(None, &Viewer::Operator, true).await.len(), 2);
    assert_eq!(included(Some(ResourceType::TASK), &Viewer::Operator, true).await, []);
    assert_eq!(included(None, &Viewer::Grantees(Vec::new()), true).await, []);
    // Small pages stay full: what is hidden takes no place in them.
    let first = Query { count: 2, ..tasks };
    assert_eq!(reader.search(&first, &grantee("pantry")).await.unwrap().hits.len(), 2);
    assert_eq!(reader.grantees(&task_key("t1")).await.unwrap(), ["pantry"]);
});

on_both!(ended_grants_hide_and_new_ones_show_again, async |place: Place| {
    let store = place.store().await;
    for id in ["t1", "t2"] {
        insert(&store, id, task("requested")).await;
    }
    let tasks = query(ResourceType::TASK);
    let seen = async |partner: &str| find(&store, &tasks, &grantee(partner)).await.0;
    grant(&store, "pantry", &[task_key("t1")], Reason::Party).await;
    grant(&store, "pantry", &[task_key("t2"), task_key("t1"), task_key("t2")], Reason::Context).await;
    assert_eq!(seen("pantry").await, ["t2", "t1"]);

    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.grantees_for("t1", Reason::Context).await.unwrap(), ["pantry"]);
    tx.end_grants("pantry", "t1", Some(Reason::Context)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(seen("pantry").await, ["t1"], "a party stays one");

    let mut tx = store.begin().await.unwrap();
    tx.end_grants("pantry", "t1", None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(seen("pantry").await, [""; 0]);
    grant(&store, "pantry", &[task_key("t1")], Reason::Context).await;
    assert_eq!(seen("pantry").await, ["t1"]);
    let mut tx = store.begin().await.unwrap();
    tx.end_grants("pantry", "t1", Some(Reason::Context)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(seen("pantry").await, [""; 0], "a party that ended does not come back as one");
});

// what was seen is a place in a list, and what became of it afterwards is not.
on_both!(a_page_goes_on_from_what_was_seen_alone, async |place: Place| {
    let store = place.store().await;
    let patient = |id: &str| Key::new(ResourceType::PATIENT, id);
    for (id, born) in [("a", "1950"), ("b", "1960"), ("c", "1990")] {
        insert(&store, id, person(None, Some(born))).await;
    }
    grant(&store, "pantry", &[patient("a"), patient("b"), patient("c")], Reason::Party).await;
    let from = async |id: &str, version: i64| {
        let cursor = Some(Cursor { key: version, id: id.into(), moment: None });
        let by_birth = vec![Sort { by: Order::Date("birthdate"), descending: false }];
        let asked = Query { sort: by_birth, cursor, ..query(ResourceType::PATIENT) };
        let found = store.read().await.unwrap().search(&asked, &grantee("pantry")).await;
        found.map(|page| page.hits.iter().map(|hit| hit.key.id.clone()).collect::<Vec<_>>()).ok()
    };
    let mut tx = store.begin().await.unwrap();
    tx.end_grants("pantry", "t1", None).await.unwrap();
    tx.commit().await.unwrap();
    grant(&store, "pantry", &[patient("a"), patient("c")], Reason::Context).await;
    let mut tx = store.begin().await.unwrap();
    let current = tx.resource_for_update(&patient("b")).await.unwrap().unwrap();
    tx.update_resource(&current, person(None, Some("1940")), "clinic", OWN).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(from("b", 1).await, Some(vec!["c".to_string()]), "it stood there when it was seen");
    assert_eq!((from("b", 2).await, from("nobody", 1).await), (None, None));
});

on_both!(who_lost_a_claim_is_known, async |place: Place| {
    let store = place.store().await;
    insert(&store, "t1", task("requested")).await;
    for partner in ["pantry", "shelter"] {
        grant(&store, partner, &[task_key("t1")], Reason::Claim).await;
    }
    let mut tx = store.begin().await.unwrap();
    tx.grant("pantry", &[task_key("t1")], "t1", Reason::Party).await.unwrap();
    for loser in tx.grantees_for("t1", Reason::Claim).await.unwrap() {
        assert_eq!(loser, "shelter");
        tx.end_grants(&loser, "t1", Some(Reason::Claim)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut reader = store.read().await.unwrap();
    assert!(reader.lost_the_claim(&grantee("shelter"), &task_key("t1")).await.unwrap());
    for viewer in [grantee("pantry"), grantee("stranger"), Viewer::Operator, Viewer::Grantees(Vec::new())] {
        assert!(!reader.lost_the_claim(&viewer, &task_key("t1")).await.unwrap(), "{viewer:?}");
    }
});

on_both!(a_made_up_cursor_tells_nothing_about_what_is_hidden, async |place: Place| {
    let store = place.store().await;
    insert(&store, "mine", person(Some("mmm"), None)).await;
    let mut answers = BTreeSet::new();
    for (id, family) in [("hidden1", "aaa"), ("hidden2", "zzz")] {
        insert(&store, id, person(Some(family), None)).await;
        grant(&store, "pantry", &[Key::new(ResourceType::PATIENT, "mine")], Reason::Party).await;
        for descending in [true, false] {
            let sort = vec![Sort { by: Order::Value("family"), descending }];
            let mut asked = Query { sort, ..query(ResourceType::PATIENT) };
            asked.cursor = Some(Cursor { key: 1, id: id.into(), moment: None });
            let page = store.read().await.unwrap().search(&asked, &grantee("pantry")).await;
            answers.insert(page.map(|page| page.hits.len()).map_err(|error| format!("{:?}", error.kind)));
        }
    }
    assert_eq!(answers.len(), 1, "aaa and zzz can be told apart");
});
