//! The record of who saw what: sealed, so that nobody changes it unseen, and read as AuditEvents by auditors alone.

use std::time::Duration;

use loopgate::app::{Verified, verify};
use loopgate::fhir::Key;
use loopgate::fhir::ResourceType;
use loopgate::store::{Access, Arg, Span, Store};
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{TestGateway, county};
use crate::on_both;

const KEY: &str = "abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789";

async fn read(store: &Store, who: &str, id: &str) {
    let mut tx = store.begin().await.unwrap();
    let seen = vec![(Key::new(ResourceType::TASK, id), 1)];
    tx.audit(&[Access { partner: who.into(), action: "read", seen, request: "r".into(), ..Access::default() }])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn change(store: &Store, text: &str) {
    let mut tx = store.begin().await.unwrap();
    tx.run(text, Vec::<Arg>::new()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn verified(county: &TestGateway, seal: Option<&str>) -> Verified {
    verify(&county.store().await, county.gateway.app.config(), seal).await.unwrap()
}

/// Six rows under two seals, and one that is not sealed yet.
async fn sealed(place: Place, settings: &str) -> TestGateway {
    let county = TestGateway::with(place, &format!("{}{settings}", county())).await;
    let store = county.store().await;
    for block in 0..2 {
        for number in 0..3 {
            read(&store, "clinic", &format!("t{block}{number}")).await;
            county.clock.advance(Duration::from_micros(5));
        }
        county.clock.advance(Duration::from_secs(60));
        assert_eq!(county.gateway.app.seal_audit().await.unwrap(), 3);
        assert_eq!(county.gateway.app.seal_audit().await.unwrap(), 0, "sealed once");
        county.clock.advance(Duration::from_secs(1));
    }
    read(&store, "pantry", "t9").await;
    county
}

/// Whatever somebody does to a sealed record is found, and only the last of these leaves a chain that looks whole.
const TAMPERING: [(&str, &str, &str); 9] = [
    ("altered", "update audit set partner = 'nobody' where resource = 't01'", "not what was sealed"),
    ("a null for a text", "update audit set query = '' where resource = 't01'", "not what was sealed"),
    ("deleted", "delete from audit where resource = 't11'", "removed"),
    (
        "inserted",
        "insert into audit (id, at, partner, action, type, resource, version, request) select substr(id, 1, 35) || 'g', at, 'x', action, type, 'y', 1, '' from audit where resource = 't00'",
        "added",
    ),
    (
        "reordered",
        "update audit set resource = case resource when 't00' then 't02' else 't00' end where resource in ('t00', 't02')",
        "not what was sealed",
    ),
    ("moved to another time", "update audit set at = at + 1 where resource = 't12'", "not what was sealed"),
    ("a seal altered", "update audit_seal set hash = '00' where number = 1", "not what was sealed"),
    ("a seal removed", "delete from audit_seal where number = 1", "missing"),
    ("the end cut off", "delete from audit_seal where number = 2", "written down"),
];

// A-107
on_both!(whatever_is_done_to_the_record_is_found, async |place: Place| {
    let county = sealed(place, "").await;
    let store = county.store().await;
    let whole = verified(&county, None).await;
    assert_eq!((whole.seals, whole.rows, whole.unsealed, whole.faults.len()), (2, 6, 1, 0), "{:?}", whole.faults);
    let last = whole.last.clone().unwrap();
    assert!(verified(&county, Some(&last)).await.faults.is_empty());
    change(&store, "create table audit_was as select * from audit").await;
    change(&store, "create table seal_was as select * from audit_seal").await;
    for (what, text, said) in TAMPERING {
        change(&store, text).await;
        let found = verified(&county, Some(&last)).await;
        assert!(found.faults.iter().any(|fault| fault.contains(said)), "{what}: {:?}", found.faults);
        for table in ["audit", "audit_seal"] {
            change(&store, &format!("delete from {table}")).await;
        }
        change(&store, "insert into audit select * from audit_was").await;
        change(&store, "insert into audit_seal select * from seal_was").await;
        assert_eq!(verified(&county, Some(&last)).await, whole, "{what} was undone");
    }
});

// A-107: with a key, whoever can write to the database can't make the chain anew.
on_both!(seals_under_a_key_are_not_made_without_it, async |place: Place| {
    let settings = format!("[audit]\nkey = \"{KEY}\"\n");
    let county = sealed(place, &settings).await;
    assert!(verified(&county, None).await.faults.is_empty());
    // Whoever has the database, and not the key, takes off the end and seals it as a gateway without a key would.
    let store = county.store().await;
    change(&store, "update audit set partner = 'nobody' where resource = 't11'").await;
    change(&store, "delete from audit_seal where number = 2").await;
    let other = county.over(&crate::gateway::county()).await;
    assert!(other.app.seal_audit().await.unwrap() > 0);
    let found = verified(&county, None).await.faults;
    assert!(found[0].contains("without the key"), "{found:?}");
    let other = verify(&store, other.app.config(), None).await.unwrap().faults;
    assert!(other[0].contains("give that one as audit.key"), "{other:?}");
});

// More rows than a block takes, from several gateways, make one chain.
on_both!(many_rows_are_one_chain, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    let (store, other) = (county.store().await, county.another().await);
    let mut tx = store.begin().await.unwrap();
    let one = |number: usize| Access {
        partner: "clinic".into(),
        action: "read",
        seen: vec![(Key::new(ResourceType::TASK, format!("t{number}")), 1)],
        request: "r".into(),
        ..Access::default()
    };
    tx.audit(&(0..2_500).map(one).collect::<Vec<_>>()).await.unwrap();
    tx.commit().await.unwrap();
    county.clock.advance(Duration::from_secs(60));
    let (first, second) = tokio::join!(county.gateway.app.seal_audit(), other.app.seal_audit());
    assert_eq!(first.unwrap() + second.unwrap(), 2_500);
    county.gateway.app.seal_audit().await.unwrap();
    let found = verified(&county, None).await;
    assert_eq!((found.seals, found.rows, found.unsealed, found.faults), (3, 2_500, 0, vec![]));
});

/// What an AuditEvent says: action, subtype, who, outcome.
fn told(event: &Value) -> (String, String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let who = text(&event["agent"][0]["who"]["reference"]);
    (text(&event["action"]), text(&event["subtype"][0]["code"]), who, text(&event["outcome"]))
}

/// A referral went to the pantry's server, and the agency tried to look.
async fn referred() -> (TestGateway, String) {
    let settings = format!("{}{}", county(), crate::gateway::partner("eye", "\"auditor\"", ""));
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county.get("clinic", &format!("Task/{task}")).await;
    assert_eq!(county.get("agency", &format!("Task/{task}")).await.status, 404);
    (county, task)
}

// A-024, A-107: the record is for auditors and operators, nobody writes it, and looking at it is on record.
#[tokio::test]
async fn the_record_is_read_by_auditors_alone_and_written_by_nobody() {
    let (county, task) = referred().await;
    for who in ["clinic", "pantry", "desk"] {
        assert_eq!(county.get(who, "AuditEvent").await.status, 403, "{who}");
    }
    // An auditor sees the record, and nothing of what it is about.
    assert_eq!(county.get("eye", &format!("Task/{task}")).await.status, 404);
    let all = county.get("eye", "AuditEvent?_count=1000").await;
    assert_eq!(all.status, 200, "{}", all.body);
    let id = all.entries()[0]["id"].as_str().unwrap().to_string();
    for (method, path) in [
        ("POST", "AuditEvent".to_string()),
        ("PUT", format!("AuditEvent/{id}")),
        ("DELETE", format!("AuditEvent/{id}")),
        ("PATCH", format!("AuditEvent/{id}")),
    ] {
        for who in ["eye", "root"] {
            let body = json!({"resourceType": "AuditEvent", "id": id});
            assert_eq!(county.ask(who, method, &path, Some(&body), &[]).await.status, 405, "{who} {method}");
        }
    }
    let one = county.get("root", &format!("AuditEvent/{id}")).await;
    assert_eq!((one.status, one.id()), (200, id.clone()));
    assert_eq!(county.get("eye", "AuditEvent/nothing").await.status, 404);
    let looks = county.get("eye", "AuditEvent?agent=Organization/eye&_count=1000").await.entries();
    assert!(looks.iter().any(|event| told(event).1 == "search-type"), "{looks:?}");
    let read = county.get("eye", "AuditEvent?agent=Organization/root&action=R").await.entries();
    assert!(read.iter().any(|event| event["entity"].to_string().contains(&id)), "{read:?}");
    let refused = county.get("eye", "AuditEvent?agent=Organization/desk&outcome=4").await.entries();
    assert_eq!(refused.len(), 1, "{refused:?}");
}

// A-100, A-103, A-105, G-178: who has seen my data?
#[tokio::test]
async fn a_patient_learns_who_has_seen_what_is_theirs() {
    let (county, task) = referred().await;
    let patient = county.task(&task).await["for"]["reference"].as_str().unwrap().to_string();
    let events = county.get("eye", &format!("AuditEvent?patient={patient}&_count=1000")).await.entries();
    let lines: Vec<_> = events.iter().map(told).collect();
    let has = |action: &str, subtype: &str, who: &str, outcome: &str| {
        lines.contains(&(action.into(), subtype.into(), format!("Organization/{who}"), outcome.into()))
    };
    assert!(has("R", "read", "clinic", "0"), "its source read it: {lines:?}");
    assert!(has("R", "disclose", "pantry", "0"), "it was sent to the pantry: {lines:?}");
    assert!(has("R", "read", "agency", "4"), "the agency was refused: {lines:?}");
    assert!(events.iter().all(|event| event["entity"][0]["what"]["reference"] == patient.as_str()));
    // Another's search sees none of it, and one by time and by page sees all of it once.
    let none = county.get("eye", "AuditEvent?patient=Patient/nobody").await;
    assert!(none.entries().is_empty());
    let (mut path, mut seen) = ("AuditEvent?date=ge2027-01-01&_count=2&_sort=date".to_string(), Vec::new());
    let all = county.get("eye", "AuditEvent?date=ge2027-01-01&_count=1000&_sort=date").await.entries();
    for _ in 0..40 {
        let page = county.get("eye", &path).await;
        seen.extend(page.entries().iter().map(|event| event["id"].clone()));
        let links = page.body["link"].as_array().unwrap().clone();
        let Some(next) = links.iter().find(|link| link["relation"] == "next") else { break };
        path = next["url"].as_str().unwrap().split_once("/fhir/").unwrap().1.to_string();
    }
    let all: Vec<Value> = all.iter().map(|event| event["id"].clone()).collect();
    assert_eq!(seen[..all.len()], all[..], "the pages are the whole");
    let about = county.get("eye", &format!("AuditEvent?entity=Task/{task}&outcome=0")).await.entries();
    assert!(!about.is_empty() && about.iter().all(|event| event["entity"].to_string().contains(&task)));
    // A-107: a total is that of all pages, not only of this one.
    let half = county.get("eye", &format!("AuditEvent?patient={patient}&_total=accurate&_count=1")).await;
    let whole = county.get("eye", &format!("AuditEvent?patient={patient}&_count=1000")).await.entries().len();
    assert_eq!((half.entries().len(), &half.body["total"]), (1, &json!(whole)));
    let counted = county.get("eye", &format!("AuditEvent?patient={patient}&_summary=count")).await;
    assert_eq!((counted.entries().len(), &counted.body["total"]), (0, &json!(whole)));
    for bad in ["AuditEvent?_sort=action", "AuditEvent?patient.name=x"] {
        assert_eq!(county.get("eye", bad).await.status, 400, "{bad}");
    }
}

// A-107: whatever a search asks of the rows, it finds what one that reads every event finds, in pages and counted.
on_both!(a_search_of_the_record_finds_what_reading_all_of_it_does, async |place: Place| {
    let unlimited = "[limits]\nrequests_per_minute = 1000000\nrequests_per_minute_by_address = 1000000\n";
    let settings = format!("{unlimited}{}{}", county(), crate::gateway::partner("eye", "\"auditor\"", ""));
    let county = TestGateway::with(place, &settings).await;
    let mut known = Vec::new();
    for number in 0..3 {
        let patient =
            json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": number.to_string()}]});
        let patient = county.post("clinic", "Patient", &patient).await.id();
        for status in ["active", "completed"] {
            let goal = json!({"resourceType": "Goal", "lifecycleStatus": status, "description": {"text": "x"},
                "subject": {"reference": format!("Patient/{patient}")}});
            known.push(Key::parse(&format!("Goal/{}", county.post("clinic", "Goal", &goal).await.id())).unwrap());
        }
        known.push(Key::parse(&format!("Patient/{patient}")).unwrap());
    }
    let actions = [
        "create",
        "read",
        "search",
        "history",
        "update",
        "delete",
        "disclose",
        "notify",
        "login",
        "lockout",
        "user-role",
        "consent",
        "send",
        "operation",
        "$relay",
    ];
    let mut tx = county.store().await.begin().await.unwrap();
    for number in 0..240_usize {
        let seen =
            (0..[1, 1, 0, 3, 2][number % 5]).map(|more| (known[(number * 7 + more * 5) % known.len()].clone(), 1));
        let access = Access {
            partner: ["clinic", "pantry", "agency", ""][number / 3 % 4].into(),
            action: actions[number / 2 % actions.len()],
            seen: seen.collect(),
            kind: Some(ResourceType::TASK),
            outcome: [0, 0, 4, 8][number / 7 % 4],
            request: format!("q{}", number % 9),
            token: (number % 3 == 0).then(|| format!("j{}", number % 5)),
            person: (number % 4 == 0).then(|| "https://id|ana".to_string()),
            ..Access::default()
        };
        tx.audit(&[access]).await.unwrap();
    }
    tx.commit().await.unwrap();
    let events = async |path: String| {
        let (mut path, mut all) = (path, Vec::new());
        for _ in 0..300 {
            let page = county.get("eye", &path).await;
            assert_eq!(page.status, 200, "{path}: {}", page.body);
            all.extend(page.entries());
            let links = page.body["link"].as_array().unwrap().clone();
            let Some(next) = links.iter().find(|link| link["relation"] == "next") else { return all };
            path = next["url"].as_str().unwrap().split_once("/fhir/").unwrap().1.to_string();
        }
        panic!("pages without end: {path}");
    };
    // What is on record before any of these questions is: they are, too.
    county.clock.advance(Duration::from_secs(1));
    let until = county.clock.now().to_string();
    county.clock.advance(Duration::from_secs(1));
    let whole = events(format!("AuditEvent?_lastUpdated=le{until}&_sort=date&_count=1000")).await;
    let (goal, patient) = (known[0].to_string(), known[2].to_string());
    let (mut found, mut asked) = (0, 0);
    for one in [
        "",
        "agent=Organization/pantry",
        "agent=Organization/clinic,Organization/agency",
        "agent=Organization/hub",
        "agent:identifier=pantry",
        "outcome=4",
        "outcome:not=0",
        "action:not=R",
    ] {
        for other in [
            "",
            &format!("patient={patient}"),
            &format!("entity={goal}"),
            &format!("entity={goal},{patient}"),
            "entity:identifier=q3",
            "action=E",
            "action=R,D",
            "type=110106",
            "subtype=read,search-type",
            "action=X",
            "policy=urn:ietf:params:oauth:jti:j3",
            "patient:missing=true",
        ] {
            asked += 1;
            if (asked + asked / 12) % 2 == 0 {
                continue;
            }
            let text = [one, other].join("&");
            let pairs: Vec<(String, String)> = text
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.into(), value.into()))
                .collect();
            let query = loopgate::fhir::search::parse(ResourceType::AUDIT_EVENT, &pairs, "https://hub.test/fhir", true)
                .unwrap();
            let expected: Vec<&Value> = whole
                .iter()
                .filter(|event| {
                    let event = loopgate::fhir::Resource::from_value((*event).clone()).unwrap();
                    let rows = loopgate::fhir::search_index::rows(&event, "https://hub.test/fhir");
                    query
                        .filters
                        .iter()
                        .all(|filter| loopgate::fhir::search::satisfies(filter, "", county.clock.now(), &rows))
                })
                .map(|event| &event["id"])
                .collect();
            let (sort, count) = [("date", 1000), ("-date", 90)][asked / 2 % 2];
            let answer = events(format!("AuditEvent?{text}&_lastUpdated=le{until}&_sort={sort}&_count={count}")).await;
            let mut ids: Vec<&Value> = answer.iter().map(|event| &event["id"]).collect();
            let mut sorted = expected.clone();
            // Events of one row keep their order either way: what is compared is which, and that none comes twice.
            ids.sort_by_key(|id| id.to_string());
            sorted.sort_by_key(|id| id.to_string());
            assert_eq!(ids, sorted, "{text}");
            let counted = county.get("eye", &format!("AuditEvent?{text}&_lastUpdated=le{until}&_summary=count")).await;
            assert_eq!(counted.body["total"], expected.len(), "{text}");
            found += ids.len();
        }
    }
    assert!(found > 300 && whole.len() > 240, "{found} of {}", whole.len());
    // However many rows there are: they are gone along by their key.
    let store = county.store().await;
    let mut reader = store.read().await.unwrap();
    let clinic = ["clinic".to_string()];
    let about = [known[0].clone(), known[1].clone()];
    for span in [
        Span {
            from: "",
            till: "g",
            descending: true,
            partners: &clinic,
            actions: &["read"],
            outcomes: &[0],
            ..Span::default()
        },
        Span { from: "", till: "g", about: &about, ..Span::default() },
        Span { from: "", till: "g", about: &about[..1], ..Span::default() },
    ] {
        let plan = reader.explained_entries(&span, 50).await.unwrap();
        assert!(!plan.contains("Seq Scan") && !plan.contains("SCAN"), "{span:?}: {plan}");
        assert!(!plan.to_lowercase().contains("b-tree"), "sorted: {span:?}: {plan}");
    }
});

// A-107: what can't be put on record does not happen, and is not shown.
on_both!(what_cannot_be_put_on_record_does_not_happen, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    let patient =
        json!({"resourceType": "Patient", "gender": "female", "identifier": [{"system": "urn:p", "value": "1"}]});
    let id = county.post("clinic", "Patient", &patient).await.id();
    let path = format!("Patient/{id}");
    let store = county.store().await;
    change(&store, "alter table audit rename to audit_away").await;
    let mut changed = patient.clone();
    (changed["id"], changed["gender"]) = (json!(id), json!("male"));
    let patch = json!([{"op": "replace", "path": "/gender", "value": "male"}]);
    let as_patch = [("content-type", "application/json-patch+json")];
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": patient, "request": {"method": "POST", "url": "Patient"}}]});
    let history = format!("{path}/_history");
    let wishes: [(&str, &str, Option<&Value>, &[(&str, &str)]); 8] = [
        ("GET", &path, None, &[]),
        ("GET", &history, None, &[]),
        ("GET", "Patient?identifier=urn:p|1", None, &[]),
        ("POST", "Patient", Some(&patient), &[]),
        ("PUT", &path, Some(&changed), &[]),
        ("PATCH", &path, Some(&patch), &as_patch),
        ("DELETE", &path, None, &[]),
        ("POST", "", Some(&bundle), &[]),
    ];
    for (method, path, body, headers) in wishes {
        let answer = county.ask("clinic", method, path, body, headers).await;
        assert!(answer.status >= 500, "{method} {path}: {} {}", answer.status, answer.body);
        assert!(!answer.body.to_string().contains("female"), "{method} {path}: {}", answer.body);
    }
    change(&store, "alter table audit_away rename to audit").await;
    let kept = county.get("clinic", &path).await;
    assert_eq!(
        (kept.status, &kept.body["gender"], &kept.body["meta"]["versionId"]),
        (200, &json!("female"), &json!("1"))
    );
    assert_eq!(county.get("root", "Patient?_summary=count").await.body["total"], 1);
});

/// The decisions about consent that are on record: for whom, and what was decided.
async fn decisions(county: &TestGateway) -> Vec<(String, String)> {
    let found = county.get("root", "AuditEvent?subtype=AuthZ-Consent&_count=1000").await;
    assert_eq!(found.status, 200, "{}", found.body);
    let events = found.entries();
    for event in &events {
        assert_eq!((&event["type"]["code"], &event["action"]), (&json!("110113"), &json!("E")));
    }
    events.iter().map(told).map(|(_, _, who, outcome)| (who, outcome)).collect()
}

// A-106: what was decided about consent, for whom, and on which Consent; permitted, refused and taken back.
#[tokio::test]
async fn decisions_about_consent_are_on_record() {
    let county = TestGateway::county().await;
    let mut bundle = crate::intake::transaction(&county, "housing-instability");
    let sent = county.post("clinic", "", &bundle).await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    let find = |kind: &str| sent.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    let of = |who: &str, outcome: &str| (format!("Organization/{who}"), outcome.to_string());
    let so_far = decisions(&county).await;
    assert!(so_far.contains(&of("agency", "0")) && so_far.iter().all(|(_, outcome)| outcome == "0"), "{so_far:?}");
    let mut consent = find("Consent");
    let named = format!("Consent/{}", consent["id"].as_str().unwrap());
    let person = format!("Patient/{}", find("Patient")["id"].as_str().unwrap());
    let events = county.get("root", &format!("AuditEvent?patient={person}&subtype=AuthZ-Consent")).await.entries();
    assert!(
        !events.is_empty() && events.iter().all(|event| event["entity"].to_string().contains(&named)),
        "{events:?}"
    );
    consent["status"] = json!("inactive");
    assert_eq!(county.put("clinic", &named, &consent).await.status, 200);
    assert!(decisions(&county).await.contains(&of("agency", "4")));
    crate::intake::entry(&mut bundle, "Consent")["status"] = json!("inactive");
    assert_eq!(county.post("clinic", "", &bundle).await.status, 422);
    assert!(decisions(&county).await.contains(&of("clinic", "4")));
}

// A-108: what becomes of a Subscription, and of each try to tell it; nothing of what was told.
#[tokio::test]
async fn subscriptions_and_the_tries_of_their_notifications_are_on_record() {
    let settings = format!("{}{}", county(), crate::gateway::partner("eye", "\"auditor\"", ""));
    let county = TestGateway::with(Place::sqlite(), &settings).await.settled().await;
    let hook = "https://ehr.test/hook";
    let made = county.post("clinic", "Subscription", &crate::notifications::subscription(hook)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    county.later(crate::gateway::HANDSHAKE).await;
    county.world.fault(hook, &[crate::gateway::Fault::Answer(500)]);
    county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    county.later(std::time::Duration::from_secs(5)).await;
    let entity = format!("entity=Subscription/{}", made.id());
    let events = county.get("eye", &format!("AuditEvent?{entity}&_count=1000&_sort=date")).await.entries();
    let lines: Vec<_> = events.iter().map(told).collect();
    let count = |action: &str, subtype: &str, outcome: &str| {
        lines
            .iter()
            .filter(|(one, of, _, what)| (one.as_str(), of.as_str(), what.as_str()) == (action, subtype, outcome))
            .count()
    };
    assert_eq!(count("C", "create", "0"), 1, "{lines:?}");
    assert_eq!(count("U", "update", "0"), 1, "it became active: {lines:?}");
    assert_eq!(count("E", "transmit", "8"), 1, "a try that failed: {lines:?}");
    assert!(count("E", "transmit", "0") >= 2, "the handshake, and the event: {lines:?}");
    assert!(events.iter().all(|event| !event.to_string().contains(hook)));
}

// A-101: that there is nobody of a name, or how many, is told of a person, too. What asks for news is only counted.
on_both!(a_search_that_names_a_person_and_shows_nothing_is_on_record, async |place: Place| {
    let settings = format!("{}{}", county(), crate::gateway::partner("eye", "\"auditor\"", ""));
    let county = TestGateway::with(place, &settings).await;
    let person = json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": "1"}]});
    let patient = county.post("clinic", "Patient", &person).await.id();
    for poll in
        ["Task?owner=Organization/pantry&_lastUpdated=ge2027", "Task?status=requested", "Patient?_lastUpdated=ge2099"]
    {
        assert!(county.get("pantry", poll).await.entries().is_empty(), "{poll}");
    }
    let probes = [
        "Patient?identifier=urn:p|1",
        "Patient?name=Ruiz&_lastUpdated=ge2099",
        "Patient?birthdate=1990-01-01&_summary=count",
        "Task?patient.birthdate=1990-01-01",
        "Organization?_has:Patient:organization:name=Ruiz",
    ];
    for probe in probes {
        assert!(county.get("pantry", probe).await.entries().is_empty(), "{probe}");
    }
    let entry = json!({"request": {"method": "GET", "url": "Patient?name=Ruiz&gender=other"}});
    for kind in ["batch", "transaction"] {
        let bundle = json!({"resourceType": "Bundle", "type": kind, "entry": [entry]});
        assert_eq!(county.post("pantry", "", &bundle).await.status, 200, "{kind}");
    }
    assert_eq!(county.ask("clinic", "DELETE", "Patient?identifier=urn:p|9", None, &[]).await.status, 204);
    let asked = "AuditEvent?subtype=search-type&_count=1000&_sort=date";
    let events = county.get("eye", asked).await.entries();
    let told: Vec<(String, String)> = events
        .iter()
        .map(|event| {
            let query = event["entity"][0]["query"].as_str().unwrap_or_default();
            let query = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, query).unwrap();
            let who = event["agent"].to_string();
            let name = ["clinic", "pantry", "eye"].iter().find(|name| who.contains(&format!("Organization/{name}")));
            (name.unwrap().to_string(), String::from_utf8(query).unwrap())
        })
        .collect();
    let mut expected: Vec<String> = probes.iter().map(|probe| probe.to_string()).collect();
    expected.extend(["Patient?name=Ruiz&gender=other", "Patient?name=Ruiz&gender=other"].map(String::from));
    let pantrys: Vec<String> =
        told.iter().filter(|(who, _)| who == "pantry").map(|(_, query)| query.replace("%7C", "|")).collect();
    assert_eq!(pantrys, expected);
    let clinics: Vec<&String> = told.iter().filter(|(who, _)| who == "clinic").map(|(_, query)| query).collect();
    assert_eq!(clinics, ["Patient?identifier=urn:p%7C9"]);
    // Nobody's own record is longer for it.
    let own = county.get("eye", &format!("AuditEvent?patient=Patient/{patient}&_count=1000")).await.entries();
    assert!(own.iter().all(|event| !event["agent"].to_string().contains("Organization/pantry")), "{own:?}");
});
