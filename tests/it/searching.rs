//! Search as clients ask it: chains, `_has`, includes and pages on both databases, nothing about what is hidden, and
//! plans that go by an index.

use std::collections::BTreeSet;
use std::time::Duration;

use loopgate::fhir::search::{self, Query};
use loopgate::fhir::search_index::{number, rows};
use loopgate::fhir::{Key, ResourceType};
use loopgate::store::{Reason, Store, Viewer};
use serde_json::{Value, json};

use crate::databases::{BEGINNING, Place};
use crate::gateway::TestGateway;
use crate::on_both;
use crate::store::{OWN, insert, resource};

fn kind(name: &str) -> ResourceType {
    ResourceType::parse(name).unwrap()
}

fn read(name: &str, text: &str) -> Query {
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap());
    let pairs: Vec<(String, String)> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    search::parse(kind(name), &pairs, OWN, true).unwrap()
}

fn grantee(partner: &str) -> Viewer {
    Viewer::Grantees(vec![partner.to_string()])
}

async fn grant(store: &Store, partner: &str, keys: &[&str]) {
    let keys: Vec<Key> = keys.iter().map(|key| Key::parse(key).unwrap()).collect();
    let mut tx = store.begin().await.unwrap();
    tx.grant(partner, &keys, "t1", Reason::Party).await.unwrap();
    tx.commit().await.unwrap();
}

/// Matches and, after a bar, what came along; `Task?…` asked by a viewer.
async fn ask(store: &Store, text: &str, viewer: &Viewer) -> String {
    let (name, text) = text.split_once('?').unwrap_or((text, ""));
    let query = read(name, text);
    let mut reader = store.read().await.unwrap();
    let page = reader.search(&query, viewer).await.unwrap();
    let more = reader.included(&page.hits, &query.includes, viewer, &|_| Some(Vec::new())).await.unwrap();
    let ids = |list: Vec<std::sync::Arc<loopgate::store::Stored>>| {
        list.iter().map(|found| found.key.id.clone()).collect::<Vec<_>>().join(" ")
    };
    let total = page.total.map(|total| format!(" of {total}")).unwrap_or_default();
    let more = if more.is_empty() { String::new() } else { format!(" | {}", ids(more)) };
    format!("{}{total}{more}", ids(page.hits))
}

/// A clinic's referral to each of two houses, about two people.
async fn people(store: &Store, hidden: &str) {
    let put = async |id: &str, body: Value| {
        insert(store, id, resource(body)).await;
    };
    let concept = |code: &str| json!([{"coding": [{"system": "c", "code": code}]}]);
    put(
        "o1",
        json!({"resourceType": "Organization", "name": "Food Pantry", "identifier": [{"system": "npi", "value": "1"}]}),
    )
    .await;
    put("o2", json!({"resourceType": "Organization", "name": "Shelter"})).await;
    put("p1", json!({"resourceType": "Patient", "name": [{"family": "Abbas"}], "gender": "female"})).await;
    put("p2", json!({"resourceType": "Patient", "name": [{"family": hidden}], "birthDate": if hidden < "n" {"1950"} else {"2000"}})).await;
    for (number, category) in [("1", "food"), ("2", "housing")] {
        let patient = json!({"reference": format!("Patient/p{number}")});
        put(
            &format!("s{number}"),
            json!({"resourceType": "ServiceRequest", "status": "active", "category": concept(category),
            "subject": patient, "requester": {"reference": "Organization/o2"}}),
        )
        .await;
        put(&format!("t{number}"), json!({"resourceType": "Task", "status": "requested", "for": patient,
            "focus": {"reference": format!("ServiceRequest/s{number}")}, "owner": {"reference": format!("Organization/o{number}")}})).await;
        put(
            &format!("v{number}"),
            json!({"resourceType": "Provenance", "target": [{"reference": format!("Task/t{number}")}]}),
        )
        .await;
    }
    put("t3", json!({"resourceType": "Task", "status": "draft", "partOf": [{"reference": "Task/t1"}], "for": {"reference": "Patient/p2"}})).await;
}

// R-112, G-139, G-140
on_both!(chains_and_has_find_what_is_connected, async |place: Place| {
    let store = place.store().await;
    people(&store, "Zimmer").await;
    for (text, expected) in [
        ("Task?patient.name=abb", "t1"),
        ("Task?patient.family:exact=Abbas", "t1"),
        ("Task?patient.gender:not=female", "t3 t2"),
        ("Task?owner:Organization.name=food", "t1"),
        ("Task?owner.name=food,shel", "t2 t1"),
        ("Task?owner:Organization.identifier=npi|1&status:not=completed", "t1"),
        ("Task?focus:ServiceRequest.category=c|food", "t1"),
        ("Task?focus:ServiceRequest.patient.name=zimmer", "t2"),
        ("Task?focus:ServiceRequest.status=active&_total=accurate", "t2 t1 of 2"),
        ("Task?focus:ServiceRequest.status=active&owner:Organization.name=shelter", "t2"),
        ("Task?patient.name=nobody&_total=accurate", " of 0"),
        ("Task?part-of.owner:Organization.name=food", "t3"),
        ("Task?patient._id=p2", "t3 t2"),
        ("ServiceRequest?_has:Task:focus:status=requested", "s2 s1"),
        ("ServiceRequest?_has:Task:focus:owner:Organization.name=shelter", "s2"),
        ("ServiceRequest?_has:Task:focus:status:not=requested", ""),
        ("Patient?_has:Task:patient:status=draft", "p2"),
        ("Patient?_has:Task:patient:_has:Provenance:target:_id=v1", "p1"),
        ("Organization?_has:Task:owner:focus:ServiceRequest.category=food", "o1"),
        ("Task?_has:Task:part-of:_id=t3", "t1"),
    ] {
        assert_eq!(ask(&store, text, &Viewer::Operator).await, expected, "{text}");
    }
});

// More than are looked up beforehand: the same answers, found from each hit.
on_both!(a_chain_over_many_finds_the_same, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    for number in 0..150 {
        let (even, id) = (number % 2 == 0, format!("{number:03}"));
        let family = if even { "Even" } else { "Odd" };
        let patient = json!({"resourceType": "Patient", "active": true, "name": [{"family": family}]});
        tx.insert_resource(resource(patient), &format!("p{id}"), "clinic", "POST", OWN).await.unwrap();
        let task = json!({"resourceType": "Task", "status": if even {"draft"} else {"requested"},
            "for": {"reference": format!("Patient/p{id}")}});
        tx.insert_resource(resource(task), &format!("t{id}"), "clinic", "POST", OWN).await.unwrap();
    }
    tx.commit().await.unwrap();
    for (text, expected) in [
        ("Task?patient.active=true&_count=0", " of 150"),
        ("Task?patient.active=false&_count=0", " of 0"),
        ("Task?patient.active=true&status=draft&_count=0", " of 75"),
        ("Task?patient.name=even&_count=0", " of 75"),
        ("Patient?_has:Task:patient:status=draft,requested&_count=0", " of 150"),
        ("Patient?_has:Task:patient:status=draft,requested&name=odd&_count=0", " of 75"),
        ("Task?patient.active=true&_count=2&_sort=_id", "t000 t001"),
        ("Task?subject.active=true&_count=0", " of 150"),
    ] {
        assert_eq!(ask(&store, text, &Viewer::Operator).await, expected, "{text}");
        assert!(ask(&store, text, &grantee("stranger")).await.trim().trim_start_matches("of 0").is_empty(), "{text}");
    }
});

// R-113, R-114, R-115, G-139, G-150
// A-121
on_both!(includes_bring_what_the_viewer_may_see, async |place: Place| {
    let store = place.store().await;
    people(&store, "Zimmer").await;
    grant(&store, "pantry", &["Task/t1", "Task/t2", "ServiceRequest/s1", "Patient/p1", "Provenance/v1"]).await;
    for (text, operator, pantry) in [
        ("Task?_id=t1&_include=Task:focus", "t1 | s1", "t1 | s1"),
        ("Task?_id=t1,t2&_include=Task:focus&_include=Task:patient", "t2 t1 | p1 p2 s1 s2", "t2 t1 | p1 s1"),
        ("Task?_id=t1&_include=Task:focus:Questionnaire", "t1", "t1"),
        ("Task?_id=t1&_include=Task:owner:Organization", "t1 | o1", "t1 | o1"),
        ("Task?_id=t1&_include=Task:focus&_include:iterate=ServiceRequest:requester", "t1 | s1 | o2", "t1 | s1 | o2"),
        ("Task?_id=t2&_include=Task:focus&_include:iterate=ServiceRequest:requester", "t2 | s2 | o2", "t2"),
        ("Task?_id=t3&_include:iterate=Task:part-of&_include:iterate=Task:focus", "t3 | t1 | s1", ""),
        ("Task?_id=t1&_revinclude=Provenance:target", "t1 | v1", "t1 | v1"),
        ("Task?_id=t2&_revinclude=Provenance:target", "t2 | v2", "t2"),
        ("ServiceRequest?_revinclude=Task:focus&_include=ServiceRequest:patient", "s2 s1 | p1 p2 t1 t2", "s1 | p1 t1"),
        ("Task?_id=t1&_include=*", "t1 | o1 p1 s1", "t1 | o1 p1 s1"),
        ("Task?_id=t1&_include=Task:*&_count=0", " of 1", " of 1"),
    ] {
        let flat = |answer: String| answer.replacen(" | ", " / ", 1).replace(" | ", " ").replace(" / ", " | ");
        let sorted = |answer: &str| {
            let (hits, more) = answer.split_once(" | ").unwrap_or((answer, ""));
            let mut more: Vec<&str> = more.split_whitespace().filter(|word| *word != "|").collect();
            more.sort_unstable();
            format!("{hits} | {}", more.join(" "))
        };
        assert_eq!(sorted(&flat(ask(&store, text, &Viewer::Operator).await)), sorted(operator), "{text}");
        assert_eq!(sorted(&flat(ask(&store, text, &grantee("pantry")).await)), sorted(pantry), "{text}");
    }
});

// R-028, R-112, R-122: what a partner may not see, he can't guess letter by letter. Two worlds that differ in the hidden
// patient alone answer alike, whatever is asked.
on_both!(nothing_hidden_can_be_guessed, async |place: Place| {
    let mut answers: Vec<Vec<String>> = Vec::new();
    let mut differ = 0;
    for hidden in ["Adams", "Zimmer"] {
        let store = place.store().await;
        let mut tx = store.begin().await.unwrap();
        for table in ["resource", "resource_version", "search_index", "resource_grant"] {
            tx.run(format!("delete from {table}"), Vec::new()).await.unwrap();
        }
        tx.commit().await.unwrap();
        people(&store, hidden).await;
        // The Task about the hidden patient is visible, and so is who owns it; the patient and the request are not.
        grant(&store, "pantry", &["Task/t1", "Task/t2", "Task/t3", "Patient/p1", "ServiceRequest/s1"]).await;
        let mut asked: Vec<String> = Vec::new();
        for letter in ["a", "ad", "z", "zi"] {
            for text in [
                "Task?patient.name=",
                "Task?patient.name:contains=",
                "Task?subject:Patient.family=",
                "Task?focus:ServiceRequest.patient.name=",
                "Task?part-of.patient.name=",
                "Patient?name=",
                "Organization?_has:Task:owner:patient.name=",
                "ServiceRequest?_has:Task:focus:patient.name=",
                "Task?_has:Provenance:target:target:Task.patient.name=",
            ] {
                asked.push(format!("{text}{letter}"));
                asked.push(format!("{text}{letter}&_total=accurate&_include=*&_count=1"));
                asked.push(format!("{text}{letter}&_summary=count"));
            }
        }
        for text in [
            "Task?patient.birthdate=lt1970",
            "Task?patient.birthdate:missing=true",
            "Task?patient.family:missing=false",
            "Task?patient.gender:not=male",
            "Task?_sort=patient&_include=Task:patient&_include:iterate=ServiceRequest:patient",
            "Patient?_sort=name&_total=accurate&_revinclude=Task:patient",
            "Patient?_has:Task:patient:status=requested",
            "Patient?_id=p2&_total=accurate",
        ] {
            asked.push(text.to_string());
        }
        let mut mine = Vec::new();
        for text in &asked {
            mine.push(format!("{text}: {}", ask(&store, text, &grantee("pantry")).await));
            let everything = ask(&store, text, &Viewer::Operator).await;
            differ += usize::from(!mine.last().unwrap().ends_with(&format!(": {everything}")));
        }
        answers.push(mine);
    }
    assert_eq!(answers[0], answers[1], "the two worlds can be told apart");
    assert!(differ > 20, "the questions reach what is hidden: the operator's answers differ");
    assert!(answers[0].iter().any(|answer| answer == "Task?patient.name=a: t1"), "what is visible is found");
});

// R-116: neither repeated nor skipped, though Tasks come, go and change their status between two pages.
on_both!(pages_of_open_tasks_hold_while_tasks_change, async |place: Place| {
    let store = place.store().await;
    let body = |number: usize, status: &str| json!({"resourceType": "Task", "status": status, "owner": {"reference": format!("Organization/o{}", number % 3)}});
    for number in 0..60 {
        place.clock.advance(Duration::from_millis(1));
        let status = ["requested", "accepted", "completed"][number / 3 % 3];
        insert(&store, &format!("t{number:02}"), resource(body(number, status))).await;
    }
    for text in [
        "owner=Organization/o1&_count=3",
        "owner=Organization/o1&status=requested&_count=2",
        "owner=Organization/o1,Organization/o2&status=requested,accepted&_count=4",
        "owner=o0,o1,o2&_sort=_lastUpdated&_count=5",
        "status=requested,accepted&_count=7",
        "status=accepted&_sort=status,-_id&_count=3",
        "owner=o2&_lastUpdated=ge2000-01-01&_count=4",
        "_lastUpdated=ge2000-01-01&_count=9",
    ] {
        let mut query = read("Task", text);
        let whole = Query { count: 1_000, ..query.clone() };
        let before = store.read().await.unwrap().search(&whole, &Viewer::Operator).await.unwrap().hits;
        let (mut seen, mut number) = (Vec::new(), 100 + seen_once(&store).await);
        loop {
            let page = store.read().await.unwrap().search(&query, &Viewer::Operator).await.unwrap();
            seen.extend(page.hits.iter().map(|hit| hit.key.id.clone()));
            let Some(next) = page.next else { break };
            // Another one comes, and the last one seen changes: it stays where it was, or goes, but moves nobody else.
            place.clock.advance(Duration::from_millis(1));
            number += 1;
            insert(&store, &format!("n{number}"), resource(body(number, "requested"))).await;
            let mut tx = store.begin().await.unwrap();
            let last = tx.resource_for_update(&page.hits.last().unwrap().key).await.unwrap().unwrap();
            let mut changed = last.resource().unwrap();
            changed.set("status", json!("on-hold"));
            tx.update_resource(&last, changed, "clinic", OWN).await.unwrap();
            tx.commit().await.unwrap();
            query.cursor = Some(next);
        }
        let old: Vec<&String> = seen.iter().filter(|id| id.starts_with('t')).collect();
        let once: BTreeSet<&&String> = old.iter().collect();
        assert_eq!(once.len(), old.len(), "repeated: {text}");
        let expected: BTreeSet<String> =
            before.into_iter().map(|hit| hit.key.id.clone()).filter(|id| id.starts_with('t')).collect();
        let found: BTreeSet<String> = old.into_iter().cloned().collect();
        assert_eq!(found, expected, "skipped: {text}");
    }
});

/// Orders in which Tasks move when they change, along every way that a page is read.
const MOVING: [&str; 17] = [
    "_sort=_lastUpdated",
    "_sort=-_lastUpdated",
    "_sort=status",
    "_sort=-status,_lastUpdated",
    "_sort=owner,-authored-on",
    "_sort=-authored-on",
    "_sort=authored-on,_id",
    "_sort=-_lastUpdated,status",
    "owner=o1&_sort=-_lastUpdated",
    "owner=o1,o2&status=requested,accepted&_sort=_lastUpdated",
    "status=requested&_sort=-_lastUpdated",
    "owner=o1&status=requested,accepted&_sort=-authored-on",
    "patient=p1&_sort=status",
    "patient=p0,p1&_sort=_lastUpdated",
    "authored-on:missing=false&_sort=-authored-on",
    "_lastUpdated=gt1960-01-01&_sort=_lastUpdated",
    "owner=o1&_lastUpdated=gt1960-01-01&_sort=-_lastUpdated",
];

// R-116: in an order that changes the pages show, each once and as it stood, what stood at the first, whatever changes.
on_both!(pages_in_an_order_that_changes_show_what_stood_at_the_first, async |place: Place| {
    let store = place.store().await;
    let mut dice = 23_u64;
    let mut below = move |bound: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((dice >> 33) % bound as u64).unwrap()
    };
    let made_up = move |below: &mut dyn FnMut(usize) -> usize| {
        let status = ["requested", "accepted", "completed"][below(3)];
        let mut body = json!({"resourceType": "Task", "status": status,
            "for": {"reference": format!("Patient/p{}", below(3))},
            "owner": {"reference": format!("Organization/o{}", below(3))}});
        if below(3) > 0 {
            body["authoredOn"] = json!(["2026-01-01", "2026-01", "2026-02-03T04:05:06Z"][below(3)]);
        }
        resource(body)
    };
    let (mut number, mut moved) = (0, 0);
    for round in 0..3 * MOVING.len() {
        let text = MOVING[round % MOVING.len()];
        let mut tx = store.begin().await.unwrap();
        for table in ["resource", "resource_version", "search_index", "resource_grant"] {
            tx.run(format!("delete from {table}"), Vec::new()).await.unwrap();
        }
        tx.commit().await.unwrap();
        let first = number;
        for _ in 0..25 {
            place.clock.advance(Duration::from_micros(below(2) as u64));
            insert(&store, &format!("t{number}"), made_up(&mut below)).await;
            grant(&store, "pantry", &[&format!("Task/t{number}")]).await;
            number += 1;
        }
        let viewer = if below(2) == 0 { Viewer::Operator } else { grantee("pantry") };
        let mut query = Query { count: 1 + below(7), ..read("Task", text) };
        let all = Query { count: 1_000, ..query.clone() };
        let at_first = store.read().await.unwrap().search(&all, &viewer).await.unwrap().hits;
        let (mut seen, mut lost) = (Vec::new(), BTreeSet::new());
        // Its first page may be read while something is under way that ends later.
        let mut open = None;
        if below(2) == 0 {
            let mut tx = store.begin().await.unwrap();
            let key = Key::new(kind("Task"), format!("t{}", first + below(number - first)));
            if let Some(current) = tx.resource_for_update(&key).await.unwrap().filter(|current| !current.deleted) {
                let written = tx.update_resource(&current, made_up(&mut below), "clinic", OWN).await.unwrap();
                open = Some((tx, written));
            }
        }
        loop {
            let page = store.read().await.unwrap().search(&query, &viewer).await.unwrap();
            seen.extend(page.hits.iter().map(|hit| (hit.key.id.clone(), hit.version)));
            let mut changed = Vec::new();
            if let Some((tx, written)) = open.take() {
                tx.commit().await.unwrap();
                changed.push(written);
            }
            let Some(next) = page.next else { break };
            for _ in 0..below(4) {
                place.clock.advance(Duration::from_micros(below(2) as u64));
                if below(4) == 0 {
                    insert(&store, &format!("t{number}"), made_up(&mut below)).await;
                    grant(&store, "pantry", &[&format!("Task/t{number}")]).await;
                    number += 1;
                    continue;
                }
                let mut tx = store.begin().await.unwrap();
                let key = Key::new(kind("Task"), format!("t{}", first + below(number - first)));
                let current = tx.resource_for_update(&key).await.unwrap().unwrap();
                if below(5) == 0 && !current.deleted {
                    tx.delete_resource(&current, "clinic").await.unwrap();
                    lost.insert(key.id);
                } else {
                    changed.push(tx.update_resource(&current, made_up(&mut below), "clinic", OWN).await.unwrap());
                }
                tx.commit().await.unwrap();
            }
            for written in changed {
                let (stored, its) = (&written.stored, rows(&written.resource, OWN));
                moved += 1;
                if !query.filters.iter().all(|filter| search::satisfies(filter, &stored.key.id, stored.updated, &its)) {
                    lost.insert(stored.key.id.clone());
                }
            }
            query.cursor = Some(next);
        }
        let expected: Vec<(String, i64)> = at_first.iter().map(|hit| (hit.key.id.clone(), hit.version)).collect();
        let mut rest = expected.iter();
        for one in &seen {
            assert!(
                rest.any(|stood| stood == one),
                "{text}: {one:?} is new, again or out of its place: {seen:?} of {expected:?}"
            );
        }
        let skipped: Vec<_> = expected.iter().filter(|one| !seen.contains(one) && !lost.contains(&one.0)).collect();
        assert!(skipped.is_empty(), "{text}: skipped {skipped:?}");
    }
    assert!(moved > 300, "{moved}");
});

async fn seen_once(store: &Store) -> usize {
    let all = read("Task", "_count=0");
    usize::try_from(store.read().await.unwrap().search(&all, &Viewer::Operator).await.unwrap().total.unwrap()).unwrap()
}

/// Twenty thousand Tasks of fifty houses, one in a hundred of them open.
async fn many(store: &Store, analyze: bool) {
    let mut tx = store.begin().await.unwrap();
    let numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)";
    let (id, status) = ("'t' || cast(i as text)", "case when i / 50 % 100 = 0 then 'requested' else 'completed' end");
    let index = |parameter: &str, value: &str, system: &str, created: &str| {
        format!(
            "{numbers} insert into search_index (resource, parameter, place, found, value, system, text, low, high, updated, created)
             select i, {}, 1, 1, {value}, {system}, '', 0, 0, i, {created} from n",
            number(ResourceType::TASK, parameter)
        )
    };
    for sql in [
        format!(
            "{numbers} insert into resource (type, id, number, version, updated, created, author, deleted)
                 select 'Task', {id}, i, 1, i, i, 'clinic', 0 from n"
        ),
        format!(
            "{numbers} insert into resource_version (type, id, version, updated, method, author, content)
                 select 'Task', {id}, 1, i, 'POST', 'clinic', '{{}}' from n"
        ),
        format!(
            "{numbers} insert into resource_grant (partner, type, id, task, reason, since)
                 select 'house' || cast(i % 50 as text), 'Task', {id}, {id}, 'party', 0 from n"
        ),
        index("owner", "'Organization/o' || cast(i % 50 as text)", status, "i"),
        index("requester", "'Organization/hub'", status, "i"),
        index("patient", "'Patient/p' || cast(i % 5000 as text)", "''", "cast(null as bigint)"),
        index("status", status, "''", "i"),
        index("identifier", "'v' || cast(i as text)", "'s'", "cast(null as bigint)"),
        index("code", "'fulfill'", "'t'", "cast(null as bigint)"),
    ] {
        tx.run(sql, Vec::new()).await.unwrap();
    }
    // PostgreSQL does so by itself, the embedded database never.
    if analyze {
        tx.run("analyze", Vec::new()).await.unwrap();
    }
    tx.commit().await.unwrap();
}

// P4, P15, G-136, G-137: the polling searches go by an index, never through a whole table.
on_both!(polls_and_pages_go_by_an_index, async |place: Place| {
    let store = place.store().await;
    many(&store, !place.is_sqlite()).await;
    let recent = BEGINNING.minus(Duration::from_secs(1));
    let house = grantee("house7");
    for (text, viewer, index) in [
        ("owner=Organization/o7&_count=20", &house, "search_index_created"),
        ("owner=Organization/o7&status=requested&_count=20", &house, "search_index_party"),
        ("owner=Organization/o7&status=requested,accepted&_count=20", &house, "search_index_party"),
        ("owner=Organization/o7&_lastUpdated=gt1969-01-01&_count=20", &house, "search_index_"),
        ("owner=Organization/o7&status=requested&_lastUpdated=gt{recent}&_count=20", &house, "search_index_"),
        ("owner=Organization/o7&_sort=-_lastUpdated&_count=20", &house, "search_index_value"),
        ("requester=Organization/hub&_count=20", &Viewer::Operator, "search_index_created"),
        ("requester=Organization/hub&status=requested&_count=20", &Viewer::Operator, "search_index_party"),
        ("requester=Organization/hub&_lastUpdated=gt{recent}&_count=20", &Viewer::Operator, "search_index_value"),
        ("status=requested&_count=20", &Viewer::Operator, "search_index_created"),
        ("status=requested&_lastUpdated=gt{recent}&_count=20", &Viewer::Operator, "search_index_value"),
        ("owner:missing=true&status=requested&_count=20", &Viewer::Operator, "search_index_created"),
        ("identifier=s|v17", &Viewer::Operator, "search_index_value"),
        ("patient=p17&_sort=-_lastUpdated", &Viewer::Operator, "search_index_"),
        ("_count=20", &Viewer::Operator, "resource_created"),
        ("_sort=-_lastUpdated&_count=20", &Viewer::Operator, "resource_updated"),
        ("_count=20", &house, "resource_grant"),
        ("code=fulfill&_count=20", &Viewer::Operator, "resource_created"),
    ] {
        if index == "resource_grant" && !place.is_sqlite() {
            continue; // Two in a hundred of a small table: PostgreSQL rightly hashes them.
        }
        let text = text.replace("{recent}", &recent.to_string());
        let query = read("Task", &text);
        let plan = store.read().await.unwrap().explained(&query, viewer).await.unwrap();
        // PostgreSQL weighs by what it counted, and may sort a short list of another index.
        let index = if place.is_sqlite() { index } else { index.split('_').next().unwrap() };
        assert!(plan.contains(index), "{text} should go by {index}:\n{plan}");
        let whole = plan.lines().filter(|line| {
            line.contains("Seq Scan")
                || ["SCAN r", "SCAN l", "SCAN v", "SCAN g", "SCAN s"].iter().any(|scan| line.contains(scan))
        });
        assert_eq!(whole.collect::<Vec<_>>(), Vec::<&str>::new(), "{text} goes through a whole table:\n{plan}");
        let of_type = plan.lines().any(|line| line.contains("SEARCH r ") && line.ends_with("(type=?)"));
        let along_all = ["resource_created", "resource_updated"].contains(&index);
        assert!(along_all || !of_type, "{text} goes through all of a type:\n{plan}");
    }
    for (text, viewer, count) in [
        ("owner=Organization/o50&status=requested", &Viewer::Operator, 0),
        ("owner=Organization/o0&status=requested", &Viewer::Operator, 4),
        ("requester=Organization/hub&status=requested&_lastUpdated=gt1969-01-01", &Viewer::Operator, 200),
        ("status=requested", &grantee("house0"), 4),
        ("patient=p17", &Viewer::Operator, 4),
    ] {
        let query = Query { total: true, ..read("Task", text) };
        let page = store.read().await.unwrap().search(&query, viewer).await.unwrap();
        assert_eq!((page.total, page.hits.len()), (Some(count), usize::try_from(count).unwrap().min(200)), "{text}");
    }
});

on_both!(what_is_stored_is_indexed_anew_when_the_rules_change, async |place: Place| {
    let store = place.store().await;
    people(&store, "Zimmer").await;
    let before = ask(&store, "Task?owner:Organization.name=food&status=requested", &Viewer::Operator).await;
    assert_eq!(before, "t1");
    let mut tx = store.begin().await.unwrap();
    tx.run("update search_index set value = 'old', system = ''", Vec::new()).await.unwrap();
    tx.run("delete from search_generation", Vec::new()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ask(&store, "Task?owner=o1", &Viewer::Operator).await, "");
    store.reindex(OWN).await.unwrap();
    store.reindex(OWN).await.unwrap();
    for text in
        ["Task?owner:Organization.name=food&status=requested", "Task?owner=o1&status=requested", "Task?patient=p1"]
    {
        assert_eq!(ask(&store, text, &Viewer::Operator).await, "t1", "{text}");
    }
});

// R-102: whatever is asked is answered or refused, never an error of the database's.
on_both!(any_query_is_answered_or_refused, async |place: Place| {
    let store = place.store().await;
    people(&store, "Zimmer").await;
    let names = [
        "status",
        "status:not",
        "status:text",
        "status:missing",
        "owner",
        "owner:identifier",
        "owner:Organization",
        "owner.name",
        "patient.name:contains",
        "focus:ServiceRequest.category:not",
        "part-of.part-of.status",
        "_has:Task:part-of:_id",
        "_has:Provenance:target:recorded",
        "identifier",
        "identifier:of-type",
        "authored-on",
        "period",
        "_lastUpdated",
        "_id",
        "_profile:below",
        "_profile:above",
        "_source",
        "_sort",
        "_count",
        "_total",
        "_page",
        "_include",
        "_include:iterate",
        "_revinclude",
        "_since",
        "_summary",
        "code:text",
        "output",
    ];
    let values = [
        "requested",
        "true",
        "o1",
        "Organization/o1",
        "s|v",
        "|",
        "s|",
        "|v",
        "a|b|c",
        "2026",
        "ge2026-01-01T00:00:00Z",
        "ap2026-02",
        "eb9999-12-31",
        "sa0001",
        "-status,_id",
        "owner",
        "5",
        "0",
        "accurate",
        "0.t1",
        "1.t1",
        "7fffffffffffffff.t1",
        "-8000000000000000.t1",
        "*",
        "Task:*",
        "Task:part-of",
        "Provenance:target",
        "a\\,b,c",
        "%",
        "_",
        "!",
        "'",
        "\u{0}",
        "\u{1f}",
        "é",
        "\\",
        ",",
        "$",
        "https://ehr/fhir/Task/1",
        "urn:uuid:1",
    ];
    let (mut dice, mut answered) = (17_u64, 0);
    let mut below = |bound: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((dice >> 33) % bound as u64).unwrap()
    };
    for _ in 0..1_500 {
        let pairs: Vec<(String, String)> =
            (0..1 + below(3)).map(|_| (names[below(names.len())].into(), values[below(values.len())].into())).collect();
        let viewer = if below(2) == 0 { Viewer::Operator } else { grantee("pantry") };
        let Ok(query) = search::parse(ResourceType::TASK, &pairs, OWN, false) else { continue };
        let mut reader = store.read().await.unwrap();
        match reader.search(&query, &viewer).await {
            Ok(page) => {
                answered += 1;
                reader.included(&page.hits, &query.includes, &viewer, &|_| Some(Vec::new())).await.unwrap();
            }
            Err(error) => assert_eq!(error.kind, loopgate::error::Kind::Malformed, "{pairs:?}: {error:?}"),
        }
    }
    assert!(answered > 300, "{answered}");
});

// R-100, R-101, R-113, R-116, R-117, R-118, R-120, R-121
#[tokio::test]
async fn the_door_shows_what_was_used_and_where_it_goes_on() {
    let county = TestGateway::county().await;
    let found = county.get("clinic", "Organization?_sort=name&_count=3&colour=red").await;
    let links = |body: &Value, relation: &str| {
        let all = body["link"].as_array().unwrap();
        all.iter().find(|link| link["relation"] == relation).map(|link| link["url"].as_str().unwrap().to_string())
    };
    let posted = county.ask("clinic", "POST", "Organization/_search?_sort=name&_count=3", None, &[]).await;
    assert_eq!((posted.status, posted.entries()), (200, found.entries()), "both ways are one");
    let own = links(&found.body, "self").unwrap();
    assert!(own.ends_with("/fhir/Organization?_sort=name&_count=3"), "{own}");
    let mut names: Vec<String> = Vec::new();
    let mut page = found;
    for _ in 0..10 {
        for entry in page.body["entry"].as_array().unwrap() {
            assert_eq!(entry["search"]["mode"], "match");
            assert!(entry["fullUrl"].as_str().unwrap().starts_with("https://hub.test/fhir/Organization/"));
        }
        names.extend(page.entries().iter().map(|one| one["name"].as_str().unwrap().to_lowercase()));
        let Some(next) = links(&page.body, "next") else { break };
        assert!(!names.iter().any(|name| next.contains(&format!("={name}"))), "no link carries a value: {next}");
        page = county.get("clinic", next.split("/fhir/").nth(1).unwrap()).await;
    }
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(names, sorted);
    let all = county.get("clinic", "Organization?_total=accurate&_count=1").await;
    assert_eq!(all.body["total"], names.len());
    let none = county.get("clinic", "Organization?_count=0").await;
    assert_eq!((&none.body["total"], none.entries().len()), (&json!(names.len()), 0));
    for count in ["_summary=count", "_summary=count&_count=2", "_count=2&_summary=count"] {
        let counted = county.get("clinic", &format!("Organization?{count}")).await;
        assert_eq!((&counted.body["total"], counted.body.get("entry")), (&json!(names.len()), None), "{count}");
        assert_eq!(links(&counted.body, "next"), None, "{count}");
    }
    // What every resource has is missing nowhere.
    for (query, count) in [
        ("_lastUpdated:missing=false", names.len()),
        ("_id:missing=false", names.len()),
        ("_lastUpdated:missing=true", 0),
    ] {
        assert_eq!(
            county.get("clinic", &format!("Organization?{query}&_total=accurate")).await.body["total"],
            count,
            "{query}"
        );
    }
    assert_eq!(county.get("clinic", "Organization?_id:missing=perhaps").await.status, 400);

    let with = county
        .get("clinic", "HealthcareService?organization.name=PÁNTRY&_include=HealthcareService:organization")
        .await;
    let modes: Vec<&Value> = with.body["entry"].as_array().unwrap().iter().map(|one| &one["search"]["mode"]).collect();
    assert_eq!(modes, ["match", "include"]);
    // What came in a body stands in no link that is fetched by GET, on the pages behind it either, and nobody else can
    // open what stands there instead.
    let mut page = posted;
    let mut behind = names[..3].to_vec();
    for _ in 0..10 {
        let Some(next) = links(&page.body, "next") else { break };
        assert!(next.contains("/fhir/Organization?_page=~") && !next.contains("_sort"), "{next}");
        let path = next.split("/fhir/").nth(1).unwrap().to_string();
        assert_eq!(county.get("pantry", &path).await.status, 400);
        page = county.get("clinic", &path).await;
        behind.extend(page.entries().iter().map(|one| one["name"].as_str().unwrap().to_lowercase()));
    }
    assert_eq!(behind, names, "the same pages");
    assert_eq!(county.get("clinic", "Organization?_page=~00").await.status, 400);

    let has = county.get("clinic", "Organization?_has:HealthcareService:organization:name=Kitchen").await;
    assert_eq!(has.entries()[0]["id"], "kitchen");
    for bad in ["Organization?name:above=x", "Organization?_sort:x=name", "Organization?_page=1.none&_sort=name"] {
        assert_eq!(county.get("clinic", bad).await.status, 400, "{bad}");
    }
}
