//! A database that an earlier program has left comes over by itself: its resources with their history, who may see what,
//! and what searches find.

use std::collections::BTreeSet;
use std::path::Path;

use loopgate::fhir::search::{self, Query};
use loopgate::fhir::{Key, ResourceType};
use loopgate::store::{Reason, Store, Viewer, When};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::databases::{BEGINNING, Place};
use crate::on_both;
use crate::store::{OWN, insert, task_key};

/// The last migration before resources got numbers.
const BEFORE: &str = "0024";

/// Two partners, a referral from one to the other, a Task that was deleted, a grant that has ended.
const LEFT: &str = r#"
insert into search_generation (id, generation) values (1, 3);
insert into resource (type, id, version, updated, created, author, deleted) values
    ('Patient', 'p1', 1, 10, 10, 'clinic', 0), ('ServiceRequest', 's1', 1, 20, 20, 'clinic', 0),
    ('Task', 't1', 2, 50, 30, 'clinic', 0), ('Task', 't2', 1, 40, 40, 'hub', 0), ('Task', 't3', 2, 60, 45, 'clinic', 1),
    ('Organization', 'o1', 1, 5, 5, 'hub', 0);
insert into resource_version (type, id, version, updated, method, author, content) values
    ('Patient', 'p1', 1, 10, 'POST', 'clinic', '{"resourceType":"Patient","id":"p1","name":[{"family":"Zimmer"}]}'),
    ('ServiceRequest', 's1', 1, 20, 'POST', 'clinic',
        '{"resourceType":"ServiceRequest","id":"s1","status":"active","priority":"urgent","subject":{"reference":"Patient/p1"}}'),
    ('Task', 't1', 1, 30, 'POST', 'clinic',
        '{"resourceType":"Task","id":"t1","status":"requested","for":{"reference":"Patient/p1"},"focus":{"reference":"ServiceRequest/s1"}}'),
    ('Task', 't1', 2, 50, 'PUT', 'hub',
        '{"resourceType":"Task","id":"t1","status":"accepted","for":{"reference":"Patient/p1"},"focus":{"reference":"ServiceRequest/s1"},"owner":{"reference":"Organization/o1"}}'),
    ('Task', 't2', 1, 40, 'POST', 'hub',
        '{"resourceType":"Task","id":"t2","status":"requested","for":{"reference":"Patient/p1"},"owner":{"reference":"Organization/o1"},"partOf":[{"reference":"Task/t1"}]}'),
    ('Task', 't3', 1, 45, 'POST', 'clinic', '{"resourceType":"Task","id":"t3","status":"draft"}'),
    ('Task', 't3', 2, 60, 'DELETE', 'clinic', ''),
    ('Organization', 'o1', 1, 5, 'PUT', 'hub', '{"resourceType":"Organization","id":"o1","name":"Food Bank"}');
insert into search_index (type, id, parameter, found, value, system, text, low, high, updated, created) values
    ('Task', 't1', 'status', 1, 'accepted', '', '', 0, 0, 50, 30), ('Task', 't3', 'status', 1, 'draft', '', '', 0, 0, 45, 45);
insert into resource_grant (partner, type, id, task, reason, since, ended) values
    ('clinic', 'Patient', 'p1', '', 'author', 10, null), ('clinic', 'ServiceRequest', 's1', '', 'author', 20, null),
    ('clinic', 'Task', 't1', '', 'author', 30, null), ('hub', 'Task', 't1', 't1', 'party', 30, null),
    ('hub', 'Patient', 'p1', 't1', 'party', 30, null), ('hub', 'ServiceRequest', 's1', 't1', 'party', 30, null),
    ('agency', 'Task', 't2', 't2', 'claim', 40, null), ('agency', 'Patient', 'p1', 't2', 'context', 40, null),
    ('shelter', 'Task', 't2', 't2', 'claim', 40, 55), ('shelter', 'Patient', 'p1', 't2', 'context', 40, 55);
insert into referral (task, source, focus, request, patient, fetched, held, created)
    values ('t1', 'clinic', 'ServiceRequest/s1', 's1', 'Patient/p1', 1, 0, 30);
insert into relay (task, referral, partner, channel, request, withdrawn, created)
    values ('t2', 't1', 'agency', 'fhir', 's1', 0, 40);
insert into link (partner, origin, type, id, checked) values
    ('clinic', 'https://clinic.example/fhir/Patient/7', 'Patient', 'p1', 10);
"#;

/// Statements without arguments, as they stand.
async fn run(place: &Place, text: String) {
    let text = AssertSqlSafe(text);
    match place.is_sqlite() {
        true => {
            let url = format!("{}?mode=rwc", place.url());
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        false => {
            let mut connection = PgConnection::connect(place.url()).await.unwrap();
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
        }
    }
}

/// A database as the program left it whose last migration this was.
async fn leave(place: &Place, last: &str, rows: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "sql"));
    files.sort();
    let mut text = String::from("create table migration (version bigint not null primary key, text text not null);\n");
    for (index, path) in files.iter().enumerate() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if &name[..last.len()] > last {
            break;
        }
        let step = std::fs::read_to_string(path).unwrap();
        let quoted = step.replace('\'', "''");
        text.push_str(&format!("{step}\ninsert into migration (version, text) values ({}, '{quoted}');\n", index + 1));
    }
    run(place, format!("{text}{rows}")).await;
}

async fn found(store: &Store, kind: ResourceType, text: &str, viewer: &Viewer) -> BTreeSet<String> {
    let pairs: Vec<(String, String)> = text
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let query: Query = search::parse(kind, &pairs, OWN, true).unwrap();
    let page = store.read().await.unwrap().search(&query, viewer).await.unwrap();
    page.hits.iter().map(|hit| hit.key.id.clone()).collect()
}

// P20
on_both!(what_an_earlier_program_left_comes_over_whole, async |place: Place| {
    leave(&place, BEFORE, LEFT).await;
    let store = place.store().await;
    store.reindex(OWN).await.unwrap();
    let viewer = |name: &str| Viewer::Grantees(vec![name.to_string()]);
    let key = |text: &str| Key::parse(text).unwrap();

    let mut reader = store.read().await.unwrap();
    let task = reader.resource(&task_key("t1")).await.unwrap().unwrap();
    assert_eq!((task.version, task.updated.0, task.created.0, task.author.as_str()), (2, 50, 30, "clinic"));
    let history = reader.resource_history(&task_key("t1"), i64::MAX, &When::EVER, 10).await.unwrap();
    let versions: Vec<_> = history.iter().map(|one| (one.version, one.method.as_str(), one.updated.0)).collect();
    assert_eq!(versions, [(2, "PUT", 50), (1, "POST", 30)]);
    assert!(history[1].content.contains("\"requested\""));
    assert!(reader.resource(&task_key("t3")).await.unwrap().unwrap().deleted);

    for (who, what, may) in [
        ("clinic", "Patient/p1", true),
        ("clinic", "ServiceRequest/s1", true),
        ("clinic", "Task/t1", true),
        ("clinic", "Task/t2", false),
        ("hub", "Task/t1", true),
        ("hub", "Patient/p1", true),
        ("hub", "ServiceRequest/s1", true),
        ("hub", "Task/t2", false),
        ("agency", "Task/t2", true),
        ("agency", "Patient/p1", true),
        ("agency", "Task/t1", false),
        ("shelter", "Task/t2", false),
        ("shelter", "Patient/p1", false),
    ] {
        assert_eq!(reader.may_see(&viewer(who), &key(what)).await.unwrap(), may, "{who} {what}");
    }
    assert!(
        reader.lost_the_claim(&viewer("shelter"), &task_key("t2")).await.unwrap(),
        "what has ended stays on record"
    );
    assert_eq!(reader.grantees(&key("Patient/p1")).await.unwrap(), ["agency", "clinic", "hub"]);
    assert_eq!(reader.grantees_for("t2", Reason::Claim).await.unwrap(), ["agency"]);
    assert_eq!(reader.open_at("agency").await.unwrap(), (1, 1), "and it is urgent");
    assert_eq!(reader.open_copies("clinic", "hub").await.unwrap().len(), 1);
    assert_eq!(reader.open_referrals_with("clinic", &key("Patient/p1"), "hub").await.unwrap(), ["t1"]);
    drop(reader);

    let tasks = ResourceType::TASK;
    for (text, who, ids) in [
        ("status=requested", Viewer::Operator, &["t2"][..]),
        ("owner=Organization/o1", Viewer::Operator, &["t1", "t2"]),
        ("owner=Organization/o1", viewer("agency"), &["t2"]),
        ("owner=Organization/o1&status=accepted", viewer("clinic"), &["t1"]),
        ("patient.name=zimmer", viewer("agency"), &["t2"]),
        ("part-of=Task/t1", Viewer::Operator, &["t2"]),
        ("_lastUpdated=ge1970-01-01", Viewer::Operator, &["t1", "t2"]),
        ("status=draft", Viewer::Operator, &[]),
    ] {
        let ids: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
        assert_eq!(found(&store, tasks, text, &who).await, ids, "{text} {who:?}");
    }
    assert_eq!(found(&store, ResourceType::PATIENT, "family=Zimmer", &viewer("hub")).await.len(), 1);

    // And it goes on: what is new meets nothing old.
    let new = insert(&store, "t9", crate::store::task("requested")).await;
    assert!(new.number > task.number && new.updated > BEGINNING.minus(std::time::Duration::from_secs(1)));
    let mut tx = store.begin().await.unwrap();
    let current = tx.resource_for_update(&task_key("t2")).await.unwrap().unwrap();
    let mut changed = current.resource().unwrap();
    changed.set("status", serde_json::json!("completed"));
    tx.update_resource(&current, changed, "agency", OWN).await.unwrap();
    tx.grant("shelter", &[key("Patient/p1")], "t2", Reason::Party).await.unwrap();
    tx.end_grants("agency", "t2", None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(found(&store, tasks, "status=completed", &Viewer::Operator).await.len(), 1);
    assert_eq!(found(&store, tasks, "status=requested", &Viewer::Operator).await, BTreeSet::from(["t9".to_string()]));
    let mut reader = store.read().await.unwrap();
    assert!(reader.may_see(&viewer("shelter"), &key("Patient/p1")).await.unwrap());
    assert!(!reader.may_see(&viewer("agency"), &key("Patient/p1")).await.unwrap());
});
