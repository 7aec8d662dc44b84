//! Resources, links, partners, referrals and the schema: what is stored is what comes back, the same on both databases.

use std::time::Duration;

use loopgate::error::Kind;
use loopgate::fhir::{Key, Resource, ResourceType};
use loopgate::store::{Referral, Relay, Store, Stored, Tx, When};
use serde_json::{Value, json};

use crate::databases::{BEGINNING, Place};
use crate::on_both;

pub const OWN: &str = "https://hub/fhir";

pub fn resource(value: Value) -> Resource {
    Resource::from_value(value).unwrap()
}

pub fn task(status: &str) -> Resource {
    resource(json!({"resourceType": "Task", "status": status}))
}

pub fn task_key(id: &str) -> Key {
    Key::new(ResourceType::TASK, id)
}

/// Inserts a resource in a transaction of its own.
pub async fn insert(store: &Store, id: &str, resource: Resource) -> Stored {
    let mut tx = store.begin().await.unwrap();
    let written = tx.insert_resource(resource, id, "clinic", "POST", OWN).await.unwrap();
    tx.commit().await.unwrap();
    written.stored
}

async fn current(store: &Store, id: &str) -> Option<Stored> {
    store.read().await.unwrap().resource(&task_key(id)).await.unwrap()
}

on_both!(every_version_of_a_resource_comes_back_as_it_was_stored, async |place: Place| {
    let store = place.store().await;
    let first = insert(&store, "t1", task("requested")).await;
    assert_eq!((first.version, first.updated, first.author.as_str()), (1, BEGINNING, "clinic"));
    assert_eq!(current(&store, "t1").await.unwrap(), first);

    place.clock.advance(Duration::from_secs(1));
    let mut tx = store.begin().await.unwrap();
    let old = tx.resource_for_update(&task_key("t1")).await.unwrap().unwrap();
    let second = tx.update_resource(&old, task("accepted"), "pantry", OWN).await.unwrap().stored;
    tx.commit().await.unwrap();
    assert_eq!((second.version, second.author.as_str(), second.method.as_str()), (2, "clinic", "PUT"));
    assert_eq!(current(&store, "t1").await.unwrap(), second);
    assert_eq!(second.resource().unwrap().version(), Some(2));

    let mut tx = store.begin().await.unwrap();
    tx.delete_resource(&second, "clinic").await.unwrap();
    tx.commit().await.unwrap();
    let gone = current(&store, "t1").await.unwrap();
    assert!(gone.deleted && gone.content.is_empty() && gone.version == 3 && gone.method == "DELETE");

    let mut reader = store.read().await.unwrap();
    let key = task_key("t1");
    assert_eq!(reader.resource_version(&key, 1).await.unwrap().unwrap(), first);
    assert_eq!(reader.resource_version(&key, 4).await.unwrap(), None);
    let history = reader.resource_history(&key, i64::MAX, &When::EVER, 2).await.unwrap();
    assert_eq!(history, [gone.clone(), second.clone()]);
    assert_eq!(reader.resource_history(&key, 2, &When::EVER, 9).await.unwrap(), [first]);
    //
    let when = When { since: second.updated, at: None };
    let since = reader.resource_history(&key, i64::MAX, &when, 9).await.unwrap();
    assert_eq!(since, [gone.clone(), second.clone()]);
    drop(reader);

    let mut tx = store.begin().await.unwrap();
    let back = tx.update_resource(&gone, task("draft"), "clinic", OWN).await.unwrap().stored;
    tx.commit().await.unwrap();
    assert_eq!((back.version, back.deleted), (4, false));
    assert_eq!(current(&store, "t1").await.unwrap(), back);
});

// P20
on_both!(what_is_said_is_packed_and_what_was_stored_before_is_read_on, async |place: Place| {
    let store = place.store().await;
    let line = "The family needs food, and nobody has time. ".repeat(40);
    let mut one = task("requested");
    one.set("note", json!([{"text": line}]));
    let first = insert(&store, "t1", one).await;
    let packed = "select content from resource_version where id = $1 order by version";
    let mut tx = store.begin().await.unwrap();
    let stored = tx.all(packed, vec!["t1".into()]).await.unwrap()[0].text(0).unwrap();
    assert!(stored.len() * 4 < first.content.len() && !stored.contains("family"), "{}", stored.len());
    // As an older program has left it.
    let text = "update resource_version set content = $1 where id = $2";
    tx.run(text, vec![(&*first.content).into(), "t1".into()]).await.unwrap();
    tx.commit().await.unwrap();
    drop(store);
    let store = place.store().await;
    assert_eq!(current(&store, "t1").await.unwrap(), first);
    let mut tx = store.begin().await.unwrap();
    let old = tx.resource_for_update(&task_key("t1")).await.unwrap().unwrap();
    let mut next = old.resource().unwrap();
    next.set("status", json!("accepted"));
    let second = tx.update_resource(&old, next, "pantry", OWN).await.unwrap().stored;
    tx.commit().await.unwrap();
    let mut reader = store.read().await.unwrap();
    let history = reader.resource_history(&task_key("t1"), i64::MAX, &When::EVER, 9).await.unwrap();
    assert_eq!(history, [second, first]);
    let begins: Vec<String> = reader
        .all(packed, vec!["t1".into()])
        .await
        .unwrap()
        .iter()
        .map(|row| row.text(0).unwrap()[..1].to_string())
        .collect();
    assert_eq!(begins, ["{", "1"]);
});

// P14: PostgreSQL alone, for SQLite has one writer.
on_both!(what_many_rest_on_is_held_by_all_of_them_and_changed_by_nobody, async |place: Place| {
    let store = place.store().await;
    let first = insert(&store, "t1", task("requested")).await;
    if place.is_sqlite() {
        let mut tx = store.begin().await.unwrap();
        assert_eq!(tx.resource_held(&first.key).await.unwrap(), Some(first));
        return;
    }
    let (mut one, mut other) = (store.begin().await.unwrap(), store.begin().await.unwrap());
    assert_eq!(one.resource_held(&first.key).await.unwrap().as_ref(), Some(&first));
    assert_eq!(other.resource_held(&first.key).await.unwrap().as_ref(), Some(&first));
    one.commit().await.unwrap();
    let lock = "select version from resource where id = 't1' for update nowait";
    let mut third = store.begin().await.unwrap();
    assert_eq!(third.one(lock, Vec::new()).await.unwrap_err().kind, Kind::Unavailable);
    drop(third);
    other.commit().await.unwrap();
    let mut third = store.begin().await.unwrap();
    assert_eq!(third.one(lock, Vec::new()).await.unwrap().unwrap().int(0).unwrap(), 1);
});

on_both!(an_id_that_is_taken_is_a_conflict, async |place: Place| {
    let store = place.store().await;
    insert(&store, "t1", task("requested")).await;
    let mut tx = store.begin().await.unwrap();
    // PostgreSQL hears of it with everything else.
    let error = match tx.insert_resource(task("draft"), "t1", "other", "PUT", OWN).await {
        Ok(_) => tx.commit().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind, Kind::Conflict);
});

on_both!(of_eight_concurrent_updates_of_one_version_exactly_one_wins, async |place: Place| {
    let store = place.store().await;
    let first = insert(&store, "t1", task("requested")).await;
    let mut racers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (store, first) = (store.clone(), first.clone());
        racers.spawn(async move {
            let mut tx = store.begin().await?;
            tx.update_resource(&first, task(&format!("s{number}")), "clinic", OWN).await?;
            tx.commit().await
        });
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|error| error.kind == Kind::Conflict));
    assert_eq!(current(&store, "t1").await.unwrap().version, 2);
});

on_both!(whoever_locks_a_resource_decides_on_its_newest_version, async |place: Place| {
    let (one, two) = (place.store().await, place.store().await);
    insert(&one, "t1", task("0")).await;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let store = if number % 2 == 0 || place.is_sqlite() { one.clone() } else { two.clone() };
        writers.spawn(async move {
            let mut tx = store.begin().await.unwrap();
            let old = tx.resource_for_update(&task_key("t1")).await.unwrap().unwrap();
            let count: u32 = old.resource().unwrap().text_at("status").unwrap().parse().unwrap();
            tx.update_resource(&old, task(&(count + 1).to_string()), "clinic", OWN).await.unwrap();
            tx.commit().await.unwrap();
        });
    }
    writers.join_all().await;
    let last = current(&one, "t1").await.unwrap();
    assert_eq!((last.version, last.resource().unwrap().text_at("status")), (21, Some("20")));
});

on_both!(what_a_client_may_send_is_stored_on_both_databases, async |place: Place| {
    // What PostgreSQL alone would choke on: a zero character, and a value longer than an index entry may be.
    let store = place.store().await;
    let long: String = (0..9_000_u32).map(|n| char::from_u32(0x4e00 + n * 7919 % 20_000).unwrap()).collect();
    let odd = json!({"resourceType": "Task", "status": "a\u{0}b", "identifier": [{"system": long, "value": long}]});
    let stored = insert(&store, "t1", resource(odd)).await;
    assert_eq!(current(&store, "t1").await.unwrap(), stored);
    assert_eq!(stored.resource().unwrap().text_at("status"), Some("a\u{0}b"));
});

on_both!(equal_origins_of_two_partners_do_not_collide, async |place: Place| {
    let store = place.store().await;
    let origin = "https://ehr/fhir/Patient/1";
    let (one, two) = (Key::new(ResourceType::PATIENT, "a"), Key::new(ResourceType::PATIENT, "b"));
    let mut tx = store.begin().await.unwrap();
    tx.put_link("clinic", origin, &one, Some("W/\"1\"")).await.unwrap();
    tx.put_link("hospital", origin, &two, None).await.unwrap();
    tx.put_link("clinic", origin, &one, Some("W/\"2\"")).await.unwrap();
    tx.commit().await.unwrap();
    let mut reader = store.read().await.unwrap();
    let mine = reader.link_from("clinic", origin).await.unwrap().unwrap();
    assert_eq!((&mine.key, mine.mark.as_deref()), (&one, Some("W/\"2\"")));
    assert_eq!(reader.link_from("hospital", origin).await.unwrap().unwrap().key, two);
    assert_eq!(reader.link_from("pantry", origin).await.unwrap(), None);
    assert_eq!(reader.links_of(&one).await.unwrap(), [mine]);
});

on_both!(partners_are_followed_and_those_that_have_gone_stay_on_record, async |place: Place| {
    let store = place.store().await;
    let named =
        |list: &[&str]| -> Vec<(String, String)> { list.iter().map(|id| (id.to_string(), "x".into())).collect() };
    let mut tx = store.begin().await.unwrap();
    tx.put_partners(&named(&["clinic", "pantry"])).await.unwrap();
    tx.followed("clinic", Some("2026-01-01T00:00:00Z")).await.unwrap();
    assert_eq!(tx.not_followed("clinic", "timeout").await.unwrap(), 1);
    assert_eq!(tx.not_followed("clinic", "timeout").await.unwrap(), 2);
    tx.put_partners(&named(&["pantry"])).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.following("clinic").await.unwrap().failures, 2);
    tx.followed("clinic", None).await.unwrap();
    let following = tx.following("clinic").await.unwrap();
    assert_eq!((following.cursor.as_deref(), following.failures), (Some("2026-01-01T00:00:00Z"), 0));
    assert_eq!(following.heard_at, Some(tx.stamp()));
});

fn referral(task: &str, tx: &Tx) -> Referral {
    Referral {
        task: task.into(),
        source: "clinic".into(),
        focus: "ServiceRequest/s1".into(),
        performer: None,
        service: Some("h1".into()),
        kept_at: None,
        request: Some("s1".into()),
        patient: None,
        fetched: false,
        held: true,
        held_why: Some("no target".into()),
        closing: None,
        informed_at: None,
        informed_how: None,
        created: tx.stamp(),
    }
}

on_both!(referrals_and_relays_come_back_with_every_column, async |place: Place| {
    let store = place.store().await;
    let mut tx = store.begin().await.unwrap();
    let mut one = referral("t1", &tx);
    tx.insert_referral(&one).await.unwrap();
    assert_eq!(tx.referral("t1").await.unwrap().as_ref(), Some(&one));
    let mut relay = Relay {
        task: "r1".into(),
        referral: "t1".into(),
        partner: None,
        service: None,
        channel: "open".into(),
        request: "f1".into(),
        remote: None,
        withdrawn: false,
        reached: None,
        created: tx.stamp(),
    };
    tx.insert_relay(&relay).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    one.fetched = true;
    one.held = false;
    one.held_why = None;
    one.patient = Some("Patient/p1".into());
    one.performer = Some("pantry".into());
    one.closing = Some(4);
    tx.update_referral(&one).await.unwrap();
    relay.partner = Some("pantry".into());
    relay.remote = Some("https://pantry/fhir/Task/9".into());
    relay.withdrawn = true;
    relay.reached = Some(tx.stamp());
    tx.update_relay(&relay).await.unwrap();
    tx.commit().await.unwrap();

    let mut reader = store.read().await.unwrap();
    assert_eq!(reader.referral("t1").await.unwrap().as_ref(), Some(&one));
    assert_eq!(reader.relay("r1").await.unwrap().as_ref(), Some(&relay));
    assert_eq!(reader.relays("t1").await.unwrap(), [relay.clone()]);
    assert_eq!(reader.relay_by_request("f1").await.unwrap(), Some(relay));
    assert_eq!(reader.referrals_by_focus("clinic", "ServiceRequest/s1").await.unwrap(), [one.clone()]);
    assert_eq!(reader.referrals_by_focus("hospital", "ServiceRequest/s1").await.unwrap(), []);
    assert_eq!(reader.referrals_by_request("s1").await.unwrap(), [one.clone()]);
    let tasks = ["t1".to_string(), "t2".to_string()];
    assert_eq!(reader.uninformed("clinic", &tasks).await.unwrap(), [one.clone()]);
    assert_eq!(reader.uninformed("hospital", &tasks).await.unwrap(), []);
    assert_eq!(reader.uninformed("clinic", &[]).await.unwrap(), []);
    assert_eq!(reader.referral_counts().await.unwrap(), (1, 1, 0));
});

on_both!(migrating_twice_and_from_several_gateways_at_once_is_fine, async |place: Place| {
    let mut gateways = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = place.open().await;
        gateways.spawn(async move {
            store.migrate().await.unwrap();
            store.migrate().await.unwrap();
            store
        });
    }
    for (index, store) in gateways.join_all().await.iter().enumerate() {
        insert(store, &format!("t{index}"), task("requested")).await;
    }
});

on_both!(a_restarted_gateway_goes_on_with_later_stamps, async |place: Place| {
    let store = place.store().await;
    place.clock.advance(Duration::from_secs(60));
    let stored = insert(&store, "t1", task("requested")).await;
    drop(store);
    let behind = loopgate::time::Clock::manual(BEGINNING);
    let store = Store::open(place.url(), behind).await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.newest(), stored.updated);
    assert!(insert(&store, "t2", task("requested")).await.updated > stored.updated);
});

on_both!(a_reader_can_not_write, async |place: Place| {
    let store = place.store().await;
    let mut reader = store.read().await.unwrap();
    let text = "insert into partner (id, name, active) values ('x', 'x', 1)";
    assert_eq!(reader.run(text, Vec::new()).await.unwrap_err().kind, Kind::Internal);
    let there = reader.all("select 1 from partner", Vec::new()).await.unwrap();
    assert!(there.is_empty());
    reader.commit().await.unwrap();
});

/// Tables with their columns in order, their types and whether they may be null.
async fn schema(place: &Place) -> Vec<(String, String, String, bool)> {
    let store = place.store().await;
    let mut reader = store.read().await.unwrap();
    let text = if place.is_sqlite() {
        "select m.name, c.name, lower(c.type), c.\"notnull\" from sqlite_master m join pragma_table_info(m.name) c
         where m.type = 'table' and m.name not like 'sqlite%' order by m.name, c.cid"
    } else {
        "select table_name::text, column_name::text, data_type::text,
         (case is_nullable when 'NO' then 1 else 0 end)::bigint
         from information_schema.columns where table_schema = 'public'
         order by table_name collate \"C\", ordinal_position"
    };
    let rows = reader.all(text, Vec::new()).await.unwrap();
    let columns =
        rows.iter().map(|row| (row.text(0).unwrap(), row.text(1).unwrap(), row.text(2).unwrap(), row.flag(3).unwrap()));
    columns.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables_and_columns_of_two_types() {
    let embedded = schema(&Place::sqlite()).await;
    assert!(embedded.len() > 100);
    assert!(embedded.iter().all(|column| column.2 == "text" || column.2 == "bigint"));
    if let Some(place) = Place::postgres().await {
        assert_eq!(embedded, schema(&place).await);
    }
}
