//! Subscribers of a program that is killed in a burst of updates, again and again, at random moments.
//!
//! What is taken is an event for everybody whom it concerns; every event reaches its subscriber's hook, or is there to be
//! asked for by `$events`; none is skipped, none comes out of order, and what comes twice is known by its number.
//! `LOOPGATE_KILLS=n` kills it n times (default 24, and 12 on PostgreSQL).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use loopgate::demo::patient;
use loopgate::fhir::{Key, ResourceType};
use loopgate::store::Store;
use loopgate::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::databases::Place;
use crate::gateway::{HANDSHAKE, HOOK, TestGateway, county};
use crate::notifications::{foci, heard, numbers, parameters, says, subscription};
use crate::running::{Running, kills, now, random};

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
const WRITERS: usize = 4;

/// The subscribers' hooks, one server: what each was told, in order of arrival, and how each behaves.
#[derive(Clone)]
pub struct Hooks {
    base: String,
    heard: Arc<Mutex<BTreeMap<String, Vec<Value>>>>,
}

impl Hooks {
    pub async fn open() -> Hooks {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let hooks = Hooks { base, heard: Arc::default() };
        let answering = hooks.clone();
        let router = Router::new().fallback(move |uri: Uri, body: Bytes| {
            let hooks = answering.clone();
            async move { hooks.answer(uri.path(), &body).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        hooks
    }

    /// What is taken is on record before the answer: the program may be killed between the two.
    async fn answer(&self, path: &str, body: &[u8]) -> StatusCode {
        let bundle: Value = serde_json::from_slice(body).unwrap();
        let is_event = says(&bundle, "type") == "event-notification";
        let before = self.of(path).len();
        match path {
            "/ailing" if is_event && random(3) == 0 => return StatusCode::SERVICE_UNAVAILABLE,
            "/gone" if before > 4 => return StatusCode::GONE,
            _ => self.heard.lock().unwrap().entry(path.to_string()).or_default().push(bundle),
        }
        tokio::time::sleep(Duration::from_millis(random(40))).await;
        // Taken, and said otherwise: a repeat comes.
        if path == "/liar" && is_event && random(4) == 0 { StatusCode::BAD_GATEWAY } else { StatusCode::OK }
    }

    pub fn of(&self, path: &str) -> Vec<Value> {
        self.heard.lock().unwrap().get(path).cloned().unwrap_or_default()
    }
}

/// Number, focus, time: what a notification says of each of its events.
fn told(bundle: &Value) -> Vec<(i64, String, String)> {
    let all = parameters(bundle);
    let events = all.iter().filter(|one| one["name"] == "notification-event");
    let part = |event: &Value, name: &str, value: &str| {
        let parts = event["part"].as_array().unwrap();
        let found = parts.iter().find(|part| part["name"] == name).unwrap();
        found.pointer(value).and_then(Value::as_str).unwrap().to_string()
    };
    let one = |event: &Value| {
        let number = part(event, "event-number", "/valueString").parse().unwrap();
        let focus = part(event, "focus", "/valueReference/reference");
        (number, focus, part(event, "timestamp", "/valueInstant"))
    };
    events.map(one).collect()
}

/// A Subscription to Tasks at this hook, and what makes it special.
pub fn wish(hooks: &Hooks, path: &str, content: &str, filter: Option<&str>, max_count: Option<u32>) -> Value {
    let mut body = subscription(&format!("{}{path}", hooks.base));
    body["channel"]["_payload"]["extension"][0]["valueCode"] = json!(content);
    if let Some(filter) = filter {
        let url = format!("{BACKPORT}/backport-filter-criteria");
        body["_criteria"] = json!({"extension": [{"url": url, "valueString": filter}]});
    }
    if let Some(most) = max_count {
        body["channel"]["extension"] =
            json!([{"url": format!("{BACKPORT}/backport-max-count"), "valuePositiveInt": most}]);
    }
    body
}

/// Creates it, however busy the gateway is.
pub async fn made(running: &Running, kind: &str, body: &Value) -> Value {
    for _ in 0..10 {
        let asking = running.ask("clinic", Method::POST, &format!("/fhir/{kind}"));
        let asking = asking.header("content-type", "application/fhir+json").body(body.to_string());
        let answer = asking.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        if status != 503 {
            assert_eq!(status, 201, "{text}");
            return serde_json::from_str(&text).unwrap();
        }
    }
    panic!("it is never taken: {}", running.log());
}

/// A Task that the clinic keeps for itself: a change of it is one version and asks nobody else.
pub fn task(patient: &str, text: &str) -> Value {
    let mut task = patient::referral_task(None, "x", "Organization/clinic", patient, Some(patient), &now());
    task.as_object_mut().unwrap().shift_remove("focus");
    task["meta"] =
        json!({"profile": ["http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForPatient"]});
    task["description"] = json!(text);
    task
}

/// One writer changes its Task as fast as it is answered; the last version it was told of.
async fn writes(
    places: Vec<(reqwest::Client, String)>,
    id: String,
    patient: String,
    stop: Arc<AtomicBool>,
) -> (String, i64, usize) {
    let (mut last, mut acknowledged) = (1, 0);
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        let (http, base) = &places[round % places.len()];
        let mut body = task(&patient, &format!("round {round}"));
        body["id"] = json!(id);
        let asking = http
            .put(format!("{base}/fhir/Task/{id}"))
            .header("authorization", "Bearer clinic")
            .header("content-type", "application/fhir+json");
        let answer = match asking.body(body.to_string()).send().await {
            Ok(answer) if answer.status() == 200 => answer.bytes().await.ok(),
            Ok(answer) if answer.status().is_client_error() => panic!("{}", answer.text().await.unwrap_or_default()),
            _ => None,
        };
        let version = answer.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        match version.and_then(|task| task["meta"]["versionId"].as_str()?.parse().ok()) {
            Some(version) => {
                last = version;
                acknowledged += 1;
            }
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        tokio::time::sleep(Duration::from_millis(random(25))).await;
    }
    (id, last, acknowledged)
}

/// The one that is killed is the last; others go on.
async fn burst(mut running: Vec<Running>, kills: u64) {
    let hooks = Hooks::open().await;
    let one = &running[0];
    let mut patient = patient::context(&now()).into_iter().find(|one| one["resourceType"] == "Patient").unwrap();
    patient.as_object_mut().unwrap().shift_remove("id");
    let patient = made(one, "Patient", &patient).await;
    let patient = format!("Patient/{}", patient["id"].as_str().unwrap());

    // Many, because a kill keeps what it hits waiting for the end of a lease: the next one shall hit something too.
    let all = ["/full", "/ailing", "/liar", "/gone", "/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h"];
    let mut subscriptions: BTreeMap<&str, String> = BTreeMap::new();
    let mut wishes: Vec<(&str, Value)> = all
        .iter()
        .map(|path| {
            let content = if *path == "/full" { "full-resource" } else { "id-only" };
            // It goes away after some notifications, and a long backlog may be in one.
            let most = (*path == "/gone").then_some(1);
            (*path, wish(&hooks, path, content, None, most))
        })
        .collect();
    wishes.push(("/mine", wish(&hooks, "/mine", "id-only", Some("requester=Organization/clinic"), Some(3))));
    wishes.push(("/none", wish(&hooks, "/none", "id-only", Some("owner=Organization/pantry"), None)));
    for (path, body) in wishes {
        let made = made(one, "Subscription", &body).await;
        subscriptions.insert(path, made["id"].as_str().unwrap().to_string());
    }
    let is = async |running: &Running, path: &str, wanted: &str| {
        let id = &subscriptions[path];
        running.get("clinic", &format!("/fhir/Subscription/{id}")).await.is_some_and(|one| one["status"] == wanted)
    };
    for path in subscriptions.keys() {
        one.until(&format!("{path} active"), async || is(one, path, "active").await).await;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    let places: Vec<(reqwest::Client, String)> = running.iter().map(|one| (one.http.clone(), one.url(""))).collect();
    for _ in 0..WRITERS {
        let made = made(one, "Task", &task(&patient, "made")).await;
        let id = made["id"].as_str().unwrap().to_string();
        writers.spawn(writes(places.clone(), id, patient.clone(), stop.clone()));
    }
    let victim = running.last_mut().unwrap();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random(500))).await;
        victim.kill();
        victim.start().await;
    }
    stop.store(true, Ordering::SeqCst);
    let written = writers.join_all().await;

    // Quiet again: whatever was owed arrives.
    let one = &running[0];
    let waiting = async |path: &str| {
        let at = format!("/fhir/Subscription/{}/$deliveries", subscriptions[path]);
        let told = one.get("clinic", &at).await.unwrap_or_default();
        let parts = told["parameter"][0]["part"].as_array().cloned().unwrap_or_default();
        let part = |name: &str| parts.iter().find(|part| part["name"] == name).cloned().unwrap_or_default();
        assert_ne!(part("status")["valueCode"], "error", "{path} was given up: {told}");
        part("waiting")["valueString"].as_str().map(str::to_string)
    };
    for path in subscriptions.keys().filter(|path| **path != "/gone") {
        // A long backlog takes its time; standing still is what may not be.
        let mut last = waiting(path).await;
        while last.as_deref() != Some("0") {
            one.until(&format!("{path} hears more"), async || waiting(path).await != last).await;
            last = waiting(path).await;
        }
    }
    one.until("/gone in error", async || is(one, "/gone", "error").await).await;

    // What is stored, as the last version says: every version is one event, for everybody, in one order.
    let store = Store::open(&running[0].database, Clock::system()).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let mut versions: BTreeMap<String, i64> = BTreeMap::new();
    for (id, last, _) in &written {
        let stored = tx.resource(&Key::new(ResourceType::TASK, id.as_str())).await.unwrap().unwrap();
        assert!(stored.version >= *last, "acknowledged and lost");
        versions.insert(id.clone(), stored.version);
    }
    let mut order: Option<Vec<(String, i64)>> = None;
    let mut stored = BTreeMap::new();
    for path in all.iter().chain(&["/mine"]) {
        let events = tx.events(&subscriptions[path], 1, i64::MAX, 100_000).await.unwrap();
        let counted: Vec<i64> = events.iter().map(|event| event.number).collect();
        assert_eq!(counted, (1..=counted.len() as i64).collect::<Vec<_>>(), "{path}: no gap");
        for (id, last) in &versions {
            let seen: Vec<i64> =
                events.iter().filter(|event| event.focus.id == *id).map(|event| event.version).collect();
            assert_eq!(seen, (1..=*last).collect::<Vec<_>>(), "{path}: each version is one event, in order");
        }
        let this: Vec<(String, i64)> = events.iter().map(|event| (event.focus.id.clone(), event.version)).collect();
        assert_eq!(order.get_or_insert_with(|| this.clone()), &this, "{path}: one order for everybody");
        stored.insert(*path, events);
    }
    drop(tx);

    // What arrived: nothing skipped, nothing out of order, and a repeat says what it said before.
    let (mut arrived, mut repeated) = (0, 0);
    for (path, events) in &stored {
        let mut highest = 0;
        for bundle in hooks.of(path).iter().filter(|bundle| says(bundle, "type") == "event-notification") {
            arrived += 1;
            let told = told(bundle);
            let first = told.first().map_or(0, |event| event.0);
            assert!(first >= 1 && first <= highest + 1, "{path}: {first} after {highest}");
            repeated += usize::from(first <= highest);
            for (at, (number, focus, time)) in told.iter().enumerate() {
                assert_eq!(*number, first + at as i64, "{path}: in order");
                let event = &events[usize::try_from(number - 1).unwrap()];
                let known = (format!("https://hub.test/fhir/{}", event.focus), event.at.to_string());
                assert_eq!((focus, time), (&known.0, &known.1), "{path}: a number means one event");
            }
            highest = highest.max(first + told.len() as i64 - 1);
        }
        if *path == "/gone" {
            assert!(highest < events.len() as i64, "it has not heard all");
        } else {
            assert_eq!(highest, events.len() as i64, "{path} has heard all");
        }
        // Whatever did not arrive is there to be asked for.
        let mut asked = Vec::new();
        while asked.len() < events.len() {
            let from = asked.len() + 1;
            let at = format!("/fhir/Subscription/{}/$events?eventsSinceNumber={from}", subscriptions[path]);
            let more = numbers(&one.get("clinic", &at).await.unwrap());
            assert!(!more.is_empty());
            asked.extend(more);
        }
        assert_eq!(asked, (1..=events.len() as i64).collect::<Vec<_>>(), "{path} by $events");
    }
    let others = hooks.of("/none");
    assert!(others.iter().all(|bundle| says(bundle, "type") == "handshake"), "not its business");
    for one in &running {
        one.log_is_clean();
    }
    let acknowledged: usize = written.iter().map(|(_, _, count)| count).sum();
    eprintln!(
        "{acknowledged} writes acknowledged, {} events, {arrived} notifications, {kills} kills: lost 0, out of order 0, {repeated} repeated with their numbers",
        stored.values().map(Vec::len).sum::<usize>(),
    );
    assert!(acknowledged as u64 > kills, "hardly anything happened");
}

async fn prepared(database: Option<&str>) -> Running {
    let mut running = Running::prepared(database).await;
    // Leases that run out soon after a kill, and pauses that are short.
    (running.timeout, running.pause) = ("1s", "100ms");
    running.start().await;
    running
}

// S-060, S-066, S-106, S-109, D15
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_burst_no_subscriber_misses_an_event() {
    burst(vec![prepared(None).await], kills(24)).await;
}

// S-060, S-066, S-106, S-109, D15: one of two gateways on one database is killed, the other goes on.
#[tokio::test(flavor = "multi_thread")]
async fn killed_beside_another_gateway_no_subscriber_misses_an_event() {
    let Some(place) = Place::postgres().await else { return };
    let one = prepared(Some(place.url())).await;
    let mut other = Running::prepared(Some(place.url())).await;
    (other.ehr, other.pantry) = (one.ehr.clone(), one.pantry.clone());
    (other.timeout, other.pause) = (one.timeout, one.pause);
    other.start().await;
    burst(vec![one, other], kills(12)).await;
}

/// Waits until so many transactions of this database wait for a lock.
async fn waiting(store: &Store, count: i64) {
    let text = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let enough = async {
        while store.read().await.unwrap().one(text, Vec::new()).await.unwrap().unwrap().int(0).unwrap() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), enough).await.expect("nobody waits");
}

/// A county with two Tasks of the clinic's that nobody else is asked about, and their PUTs.
async fn two_tasks(place: Place) -> (TestGateway, [(String, Value); 2]) {
    let county = TestGateway::with(place, &county()).await.settled().await;
    let mut patient = patient::context(&now()).into_iter().find(|one| one["resourceType"] == "Patient").unwrap();
    patient.as_object_mut().unwrap().shift_remove("id");
    let patient = format!("Patient/{}", county.post("clinic", "Patient", &patient).await.id());
    let mut puts = Vec::new();
    for text in ["one", "two"] {
        let id = county.post("clinic", "Task", &task(&patient, "made")).await.id();
        let mut changed = task(&patient, text);
        changed["id"] = json!(id);
        puts.push((format!("Task/{id}"), changed));
    }
    (county, puts.try_into().unwrap())
}

async fn subscribed(county: &TestGateway, body: &Value) -> String {
    let made = county.post("clinic", "Subscription", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    county.later(HANDSHAKE).await;
    made.id()
}

// D15: whoever has a number and has not committed keeps the next ones waiting: the subscriber hears of neither before,
// and of both in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_not_committed_is_not_overtaken() {
    let Some(place) = Place::postgres().await else { return };
    let (county, [(one, first), (two, second)]) = two_tasks(place).await;
    // Rows are locked in the order of their ids: the first transaction has its number of the one and waits for the other.
    let mut ids = [subscribed(&county, &subscription(HOOK)).await, subscribed(&county, &subscription(HOOK)).await];
    ids.sort();
    let (store, holder) = (county.store().await, county.store().await);
    let mut held = holder.begin().await.unwrap();
    held.subscription(&ids[1]).await.unwrap().unwrap();
    let (first, second, ()) = tokio::join!(
        county.put("clinic", &one, &first),
        async {
            waiting(&store, 1).await;
            county.put("clinic", &two, &second).await
        },
        async {
            waiting(&store, 2).await;
            county.deliver_due().await;
            assert!(heard(&county, HOOK).is_empty(), "told of what is not committed");
            drop(held);
        }
    );
    assert_eq!((first.status, second.status), (200, 200));
    county.deliver_due().await;
    for id in ids {
        let told: Vec<Value> =
            county.world.heard(HOOK).into_iter().filter(|one| one.to_string().contains(&id)).collect();
        let events: Vec<Value> = told.into_iter().filter(|one| says(one, "type") == "event-notification").collect();
        assert_eq!(events.iter().flat_map(numbers).collect::<Vec<_>>(), [1, 2]);
        let foci: Vec<String> = events.iter().flat_map(foci).collect();
        assert_eq!(foci, [&one, &two].map(|path| format!("https://hub.test/fhir/{path}")));
    }
}

// D15: two transactions that commit in the opposite order of their beginning: numbers follow the commits, without a gap.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_follow_the_commits() {
    let Some(place) = Place::postgres().await else { return };
    let (county, [(one, first), (two, second)]) = two_tasks(place).await;
    let id = subscribed(&county, &subscription(HOOK)).await;
    let (store, holder) = (county.store().await, county.store().await);
    let mut held = holder.begin().await.unwrap();
    held.resource_for_update(&Key::parse(&one).unwrap()).await.unwrap().unwrap();
    let (first, second) = tokio::join!(county.put("clinic", &one, &first), async {
        waiting(&store, 1).await;
        let second = county.put("clinic", &two, &second).await;
        county.deliver_due().await;
        assert_eq!(heard(&county, HOOK), [1], "the later one is committed and told");
        drop(held);
        second
    });
    assert_eq!((first.status, second.status), (200, 200));
    county.deliver_due().await;
    assert_eq!(heard(&county, HOOK), [1, 2]);
    let events = store.read().await.unwrap().events(&id, 1, 9, 9).await.unwrap();
    let foci: Vec<String> = events.iter().map(|event| event.focus.to_string()).collect();
    assert_eq!(foci, [two, one]);
    assert!(events[1].at < events[0].at, "begun in the opposite order");
    let asked = county.get("clinic", &format!("Subscription/{id}/$events")).await.body;
    assert_eq!(numbers(&asked), [1, 2]);
}
