//! The history of a type: every version once, to those who may see it.

use std::time::Duration;

use loopgate::fhir::{Key, ResourceType};
use loopgate::store::{Position, Reason, Stored, Viewer, When};
use serde_json::json;

use crate::databases::Place;
use crate::gateway::{Answered, TestGateway, county, partner};
use crate::on_both;
use crate::store::{OWN, insert, task, task_key};

/// Of each entry: method, the resource's id, and whether there is a resource.
fn told(answer: &Answered) -> Vec<(String, String, bool)> {
    assert_eq!((answer.status, answer.body["type"].as_str()), (200, Some("history")), "{}", answer.body);
    let entries = answer.body["entry"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let one = |entry: &serde_json::Value| {
        assert!(entry["response"]["status"].is_string() && entry["response"]["lastModified"].is_string(), "{entry}");
        let id = text(&entry["fullUrl"]).rsplit('/').next().unwrap().to_string();
        (text(&entry["request"]["method"]), id, entry.get("resource").is_some())
    };
    entries.iter().map(one).collect()
}

fn next(answer: &Answered) -> Option<String> {
    let links = answer.body["link"].as_array().unwrap();
    let link = links.iter().find(|link| link["relation"] == "next")?;
    Some(link["url"].as_str().unwrap().strip_prefix("https://hub.test/fhir/").unwrap().to_string())
}

//
on_both!(the_history_of_a_type_tells_every_version_once, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    let mut ids = Vec::new();
    for family in ["A", "B", "C"] {
        county.clock.advance(Duration::from_secs(1));
        let made =
            county.post("clinic", "Patient", &json!({"resourceType": "Patient", "name": [{"family": family}]})).await;
        assert_eq!(made.status, 201, "{}", made.body);
        ids.push(made.id());
    }
    county.clock.advance(Duration::from_secs(1));
    let body = json!({"resourceType": "Patient", "id": ids[1], "name": [{"family": "B"}], "gender": "other"});
    let changed = county.put("clinic", &format!("Patient/{}", ids[1]), &body).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    county.clock.advance(Duration::from_secs(1));
    assert_eq!(county.ask("clinic", "DELETE", &format!("Patient/{}", ids[0]), None, &[]).await.status, 204);
    let entry = |method: &str, index: usize, there: bool| (method.to_string(), ids[index].clone(), there);
    let all = [
        entry("DELETE", 0, false),
        entry("PUT", 1, true),
        entry("POST", 2, true),
        entry("POST", 1, true),
        entry("POST", 0, true),
    ];
    for who in ["clinic", "root"] {
        assert_eq!(told(&county.get(who, "Patient/_history").await), all, "{who}");
    }
    let whole = county.get("clinic", "Patient/_history?_count=5").await;
    assert_eq!(
        whole.body["link"],
        json!([{"relation": "self", "url": "https://hub.test/fhir/Patient/_history?_count=5"}])
    );
    let since = changed.body["meta"]["lastUpdated"].as_str().unwrap();
    assert_eq!(told(&county.get("clinic", &format!("Patient/_history?_since={since}")).await), all[..2], "at or after");
    assert_eq!(told(&county.get("clinic", "Patient/_history?_count=0").await), []);
    let part = county.get("clinic", "Patient/_history?_elements=gender").await;
    assert!(part.entries().iter().all(|one| one.get("name").is_none()), "{}", part.body);

    // Page by page, while the third gets a new version: that one is newer than where the first page began.
    let mut page = county.get("clinic", "Patient/_history?_count=2&_format=json").await;
    let body = json!({"resourceType": "Patient", "id": ids[2], "name": [{"family": "C"}], "gender": "male"});
    assert_eq!(county.put("clinic", &format!("Patient/{}", ids[2]), &body).await.status, 200);
    let mut read = told(&page);
    while let Some(link) = next(&page) {
        assert!(!link.contains("male") && link.contains("_count=2&_format=json"), "{link}");
        page = county.get("clinic", &link).await;
        read.extend(told(&page));
    }
    assert_eq!(read, all);

    // A stranger sees nothing and learns nothing, with a link of somebody else's either.
    let link = next(&county.get("clinic", "Patient/_history?_count=1").await).unwrap();
    for path in ["Patient/_history", "Patient/_history?_count=0", &link] {
        let nothing = county.get("agency", path).await;
        assert!(told(&nothing).is_empty() && next(&nothing).is_none(), "{}", nothing.body);
        assert!(ids.iter().all(|id| !nothing.body["entry"].to_string().contains(id)));
    }

    // What is shown is on record, and what is not shown is not.
    let histories = async |index: usize| {
        let key = Key::new(ResourceType::PATIENT, &ids[index]);
        let seen = county.store().await.read().await.unwrap().accesses(&key).await.unwrap();
        seen.into_iter().filter(|(_, who, what, _)| who == "clinic" && what == "history").count()
    };
    let before = (histories(0).await, histories(2).await);
    county.get("clinic", "Patient/_history?_count=1").await;
    assert_eq!((histories(0).await, histories(2).await), (before.0, before.1 + 1));

    for bad in ["_since=soon", "_count=x", "_page=2", "_since=2026&_since=2026", "_count=1&_count=1"] {
        assert_eq!(county.get("clinic", &format!("Patient/_history?{bad}")).await.status, 400, "{bad}");
    }
    assert_eq!(county.get("", "Patient/_history").await.status, 401);
    assert_eq!(county.post("clinic", "Patient/_history", &json!({})).await.status, 405);
    assert_eq!(county.get("clinic", "Encounter/_history").await.status, 404, "only copied: it has none");
});

// also where many versions have one time, and where the viewer may see some of them.
on_both!(pages_neither_repeat_nor_skip, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    for number in 0..7 {
        tx.insert_resource(task("requested"), &format!("t.{number}"), "clinic", "POST", OWN).await.unwrap();
    }
    let mine = [task_key("t.1"), task_key("t.4")];
    tx.grant("pantry", &mine, "", Reason::Party).await.unwrap();
    tx.grant("agency", &[task_key("t.2")], "t.2", Reason::Context).await.unwrap();
    tx.commit().await.unwrap();
    for key in &mine {
        let mut tx = store.begin().await.unwrap();
        let old = tx.resource_for_update(key).await.unwrap().unwrap();
        tx.update_resource(&old, task("accepted"), "pantry", OWN).await.unwrap();
        tx.end_grants("agency", "t.2", None).await.unwrap();
        tx.commit().await.unwrap();
    }
    let pantry = Viewer::Grantees(vec!["pantry".into(), "pantry-too".into()]);
    let agency = Viewer::Grantees(vec!["agency".into()]);
    let mut made = 0;
    for (viewer, count) in [(&Viewer::Operator, 9), (&pantry, 4), (&agency, 0)] {
        for most in [1, 2, 3] {
            let (mut read, mut from): (Vec<Stored>, Option<Position>) = (Vec::new(), None);
            loop {
                let mut reader = store.read().await.unwrap();
                let page = reader
                    .type_history(ResourceType::TASK, viewer, &[], from.as_ref(), &When::EVER, most)
                    .await
                    .unwrap();
                drop(reader);
                let Some(last) = page.last() else { break };
                let (updated, id) = (last.updated, last.key.id.clone());
                from = Some(Position { updated, id, version: last.version });
                read.extend(page);
                made += 1;
                insert(&store, &format!("new-{made}"), task("draft")).await;
            }
            assert!(read.is_sorted_by(|one, two| one.updated >= two.updated));
            let mut places: Vec<(String, i64)> = read
                .iter()
                .map(|one| (one.key.id.clone(), one.version))
                .filter(|one| !one.0.starts_with("new"))
                .collect();
            places.sort();
            places.dedup();
            let known = read.iter().filter(|one| !one.key.id.starts_with("new")).count();
            assert_eq!((places.len(), known), (count, count), "{viewer:?} by {most}");
        }
    }
});

//
on_both!(a_history_tells_what_was_current_at_a_time, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    let mut times = Vec::new();
    let mut then = || {
        times.push(county.clock.now().to_string());
        county.clock.advance(Duration::from_secs(60));
    };
    let patient = json!({"resourceType": "Patient", "gender": "male"});
    then();
    let ids =
        [county.post("clinic", "Patient", &patient).await.id(), county.post("clinic", "Patient", &patient).await.id()];
    then();
    let changed = json!({"resourceType": "Patient", "id": ids[0], "gender": "female"});
    assert_eq!(county.put("clinic", &format!("Patient/{}", ids[0]), &changed).await.status, 200);
    then();
    assert_eq!(county.ask("clinic", "DELETE", &format!("Patient/{}", ids[0]), None, &[]).await.status, 204);
    then();
    let one = format!("Patient/{}/_history", ids[0]);
    for (moment, of_one, of_all) in [
        (0, &[][..], &[][..]),
        (1, &["POST"][..], &["POST", "POST"][..]),
        (2, &["PUT"][..], &["PUT", "POST"][..]),
        (3, &["DELETE"][..], &["DELETE", "POST"][..]),
    ] {
        for (path, expected) in [(one.as_str(), of_one), ("Patient/_history", of_all), ("_history", of_all)] {
            let found = county.get("clinic", &format!("{path}?_at={}", times[moment])).await;
            // The directory, which is everybody's, has a history as well.
            let mine = told(&found).into_iter().filter(|(_, id, _)| ids.contains(id));
            let methods: Vec<String> = mine.map(|entry| entry.0).collect();
            assert_eq!(methods, expected, "{path} {moment}");
        }
    }
    // At some point of a day that saw them all.
    let whole = county.get("clinic", &format!("{one}?_at={}&_count=2", &times[0][..10])).await;
    assert_eq!(told(&whole).len(), 2);
    let rest = county.get("clinic", &next(&whole).unwrap()).await;
    assert_eq!(told(&rest).len(), 1, "{}", rest.body);
    for bad in ["_at=soon", "_list=l", "_at=2026&_at=2027"] {
        assert_eq!(county.get("clinic", &format!("{one}?{bad}")).await.status, 400, "{bad}");
    }
});

// along its index for who sees all, by key for who sees little; nothing is sorted that is not short.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_type_goes_by_an_index() {
    let place = Place::sqlite();
    let store = place.store().await;
    let one = insert(&store, "t1", task("requested")).await;
    let from = Position { updated: one.updated, id: "t1".into(), version: 1 };
    let mut reader = store.read().await.unwrap();
    for from in [None, Some(&from)] {
        let plan = reader.type_history_explained(ResourceType::TASK, &Viewer::Operator, from).await.unwrap();
        assert!(plan.contains("INDEX resource_version_updated (type=? AND updated"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        let viewer = Viewer::Grantees(vec!["pantry".into()]);
        let plan = reader.type_history_explained(ResourceType::TASK, &viewer, from).await.unwrap();
        assert!(plan.contains("(type=? AND id=?)") && !plan.contains("resource_version_updated"), "{plan}");
    }
}

// one resource's history is `r`, a type's is `s`.
#[tokio::test]
async fn a_types_history_needs_the_scope_of_a_search() {
    let settings = [
        county(),
        partner("reader", "\"operator\"", "scopes = [\"system/Patient.r\"]"),
        partner("lister", "\"operator\"", "scopes = [\"system/Patient.s\"]"),
    ];
    let county = TestGateway::with(Place::sqlite(), &settings.concat()).await;
    let id = county.post("clinic", "Patient", &json!({"resourceType": "Patient", "gender": "other"})).await.id();
    let instance = format!("Patient/{id}/_history");
    for (who, path, status) in [
        ("reader", instance.as_str(), 200),
        ("reader", "Patient/_history", 403),
        ("lister", instance.as_str(), 403),
        ("lister", "Patient/_history", 200),
        ("lister", "Task/_history", 403),
    ] {
        let answer = county.get(who, path).await;
        assert_eq!(answer.status, status, "{who} {path}: {}", answer.body);
    }
}

// the history of all, page by page; of one time, types follow each other by name, and ids of two types may be one.
on_both!(the_history_of_all_tells_every_version_once, async |place: Place| {
    let lister = partner("lister", "\"operator\"", "scopes = [\"system/Patient.s\"]");
    let nobody = partner("nobody", "\"operator\"", "scopes = [\"system/ValueSet.rs\"]");
    let county = TestGateway::with(place, &[county(), lister, nobody].concat()).await;
    let entry = |kind: &str, id: &str| json!({"request": {"method": "PUT", "url": format!("{kind}/{id}")}, "resource": {"resourceType": kind, "id": id, "active": true}});
    let mut made = Vec::new();
    for id in ["same", "other"] {
        // One transaction is of one time.
        let entries = ["Patient", "Organization", "Practitioner", "CareTeam"].map(|kind| {
            let mut entry = entry(kind, id);
            if kind == "Organization" {
                entry["resource"]["name"] = json!("Org");
            }
            if kind == "CareTeam" {
                entry["resource"].as_object_mut().unwrap().shift_remove("active");
                entry["resource"]["name"] = json!("Team");
            }
            entry
        });
        let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": entries});
        let answer = county.post("root", "", &bundle).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        made.extend(["CareTeam", "Organization", "Patient", "Practitioner"].map(|kind| format!("{kind}/{id}")));
        county.clock.advance(Duration::from_secs(1));
    }
    let of = |answer: &Answered| -> Vec<String> {
        assert_eq!((answer.status, answer.body["type"].as_str()), (200, Some("history")), "{}", answer.body);
        let entries = answer.body["entry"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["request"]["url"].as_str().unwrap().to_string()).collect()
    };
    for count in [1, 2, 3, 100] {
        let mut page = county.get("root", &format!("_history?_count={count}")).await;
        let mut read = of(&page);
        while let Some(link) = next(&page) {
            assert!(link.starts_with("_history?"), "{link}");
            page = county.get("root", &link).await;
            read.extend(of(&page));
        }
        let known: Vec<&String> = read.iter().filter(|one| made.contains(one)).collect();
        let expected: Vec<&String> = made[4..].iter().chain(&made[..4]).collect();
        assert_eq!(known, expected, "by {count}");
        let mut once = read.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), read.len(), "by {count}: {read:?}");
    }
    // Limited by grants and by scopes; the directory is everybody's.
    assert!(of(&county.get("agency", "_history").await).iter().all(|one| !one.starts_with("Patient")));
    assert!(of(&county.get("agency", "_history").await).contains(&"Organization/same".to_string()));
    assert!(of(&county.get("lister", "_history").await).iter().all(|one| one.starts_with("Patient/")));
    assert_eq!(county.get("nobody", "_history").await.status, 403);
    assert_eq!(county.get("", "_history").await.status, 401);
    assert_eq!(county.post("root", "_history", &json!({})).await.status, 405);
    for bad in ["_page=1.same.1", "_page=Nope.1.same.1", "_at=soon", "_list=x", "_since=soon"] {
        assert_eq!(county.get("root", &format!("_history?{bad}")).await.status, 400, "{bad}");
    }
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "GET", "url": "_history?_count=1"}}]});
    assert_eq!(county.post("root", "", &batch).await.entries()[0]["type"], "history");
});
