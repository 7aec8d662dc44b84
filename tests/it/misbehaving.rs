//! Subscribers' servers that misbehave, on real sockets; clocks that jump; Subscriptions that change while something is
//! under way to them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loopgate::app::{Busy, Owed, Visit};
use loopgate::config::Config;
use loopgate::delivery::Network;
use loopgate::gateway::Gateway;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::databases::Place;
use crate::gateway::{Fault, HANDSHAKE, HOOK, TestGateway, partner};
use crate::notifications::{heard, numbers, parameters, put, says, status, subscribed, subscription, up_to};
use crate::on_both;

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// These bytes, and the connection ends.
    Say(&'static str),
    /// Nothing, ever.
    Hang,
    /// These bytes, and then one more each time, for ever.
    Drip(&'static str),
    /// These bytes, and then as many more as go through.
    Flood(&'static str),
}

const FINE: Way = Way::Say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");

/// A server: fine, until it is told to misbehave.
#[derive(Clone)]
struct Animal {
    port: u16,
    way: Arc<Mutex<Way>>,
    heard: Arc<Mutex<Vec<Value>>>,
    sent: Arc<AtomicUsize>,
    shut: Arc<AtomicBool>,
}

impl Animal {
    async fn born() -> Animal {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(Mutex::new(FINE));
        let animal = Animal { port, way, heard: Arc::default(), sent: Arc::default(), shut: Arc::default() };
        let living = animal.clone();
        tokio::spawn(async move {
            while !living.shut.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept().await else { return };
                let animal = living.clone();
                tokio::spawn(async move { animal.meets(stream).await });
            }
        });
        animal
    }

    async fn meets(&self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        let head = loop {
            match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if stream.read_buf(&mut bytes).await.ok()? == 0 => return None,
                None => {}
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length = text.split("content-length:").nth(1)?.split("\r\n").next()?.trim().parse::<usize>().ok()?;
        while bytes.len() < head + length {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        self.heard.lock().unwrap().push(serde_json::from_slice(&bytes[head..head + length]).unwrap());
        let way = *self.way.lock().unwrap();
        match way {
            Way::Say(text) => stream.write_all(text.as_bytes()).await.ok(),
            Way::Hang => std::future::pending().await,
            Way::Drip(text) => {
                stream.write_all(text.as_bytes()).await.ok()?;
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    stream.write_all(b"a").await.ok()?;
                }
            }
            Way::Flood(text) => {
                stream.write_all(text.as_bytes()).await.ok()?;
                loop {
                    stream.write_all(&[b'a'; 16_384]).await.ok()?;
                    self.sent.fetch_add(16_384, Ordering::SeqCst);
                }
            }
        }
    }

    fn does(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn numbers(&self) -> Vec<i64> {
        self.heard.lock().unwrap().iter().flat_map(numbers).collect()
    }
}

/// A gateway with the real network and a clock of ours.
struct Keeper {
    gateway: Gateway,
    place: Place,
}

impl Keeper {
    async fn open() -> Keeper {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let place = Place::sqlite();
        let text = format!(
            "[server]\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"{}\"\n\
             [delivery]\ntimeout = \"1s\"\nbackoff = [\"5s\", \"5s\", \"5s\"]\njitter = \"0%\"\npartner_addresses = \"allow_private_for_tests_only\"\n{}",
            place.url(),
            partner("clinic", "\"source\"", "")
        );
        let config = Config::parse(&text, std::path::Path::new(".")).unwrap();
        let network = Arc::new(Network::new(&config).unwrap());
        let gateway = Gateway::open_with(config, place.clock.clone(), network).await.unwrap();
        Keeper { gateway, place }
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = axum::http::Request::builder()
            .method(method)
            .uri(format!("/fhir/{path}"))
            .header("authorization", "Bearer clinic")
            .header("content-type", "application/fhir+json")
            .body(axum::body::Body::from(if body.is_null() { String::new() } else { body.to_string() }))
            .unwrap();
        let answer = tower::ServiceExt::oneshot(self.gateway.router(), request).await.unwrap();
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        assert!(status.is_success(), "{method} {path}: {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn later(&self, seconds: u64) {
        self.place.clock.advance(Duration::from_secs(seconds));
        self.gateway.worker.deliver_due().await.unwrap();
    }

    async fn subscribes(&self, endpoint: &str) -> String {
        let made = self.ask("POST", "Subscription", &subscription(endpoint)).await;
        made["id"].as_str().unwrap().to_string()
    }

    async fn last_try(&self, id: &str) -> (String, String) {
        let last = self.gateway.app.attempts(Owed::Notify, id).await.unwrap().pop().unwrap();
        (last.outcome, last.detail.unwrap_or_default())
    }
}

// S-107, S-165, F8: whatever a server does, the notification is taken when it says 2xx, and tried again when it does not;
// nothing is skipped, and nobody waits longer than the time for a try.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_misbehaves_gets_its_events_in_order() {
    let keeper = Keeper::open().await;
    let canary = Animal::born().await;
    let elsewhere: &'static str =
        format!("HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\n\r\n", canary.port).leak();
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n";
    let ways: &[(&str, Way, Option<&str>)] = &[
        ("in trouble", Way::Say("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), Some("answered 500")),
        ("busy", Way::Say("HTTP/1.1 429 No\r\nretry-after: 77\r\ncontent-length: 0\r\n\r\n"), Some("answered 429")),
        ("away to", Way::Say(elsewhere), Some("answered 307")),
        ("silent", Way::Hang, Some("no answer in time")),
        ("slow from the first byte", Way::Drip("HTTP/1.1 200 "), Some("no answer in time")),
        ("gone in mid-head", Way::Say("HTTP/1.1 200 OK\r\ncontent-le"), Some("the connection broke")),
        ("no HTTP", Way::Say("SSH-2.0-OpenSSH\r\n\r\n"), Some("the connection broke")),
        ("gone in mid-body", Way::Say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"), None),
        ("slow in its body", Way::Drip("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"), None),
        ("without end", Way::Flood(CHUNKED), None),
        ("no FHIR", Way::Say("HTTP/1.1 202 OK\r\ncontent-length: 6\r\n\r\n<html>"), None),
    ];
    let mut zoo = Vec::new();
    for (name, way, why) in ways {
        let animal = Animal::born().await;
        let id = keeper.subscribes(&format!("http://127.0.0.1:{}/hook?who=1", animal.port)).await;
        zoo.push((*name, animal, *way, *why, id));
    }
    keeper.later(1).await;
    for (_, animal, way, ..) in &zoo {
        animal.does(*way);
    }
    let patient = json!({"resourceType": "Patient", "name": [{"family": "X", "given": ["Y"]}], "gender": "unknown",
        "identifier": [{"system": "urn:x", "value": "1"}]});
    let patient = keeper.ask("POST", "Patient", &patient).await["id"].as_str().unwrap().to_string();
    let mut task = crate::bursts::task(&format!("Patient/{patient}"), "made");
    let made = keeper.ask("POST", "Task", &task).await["id"].as_str().unwrap().to_string();
    let began = std::time::Instant::now();
    keeper.later(0).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for (name, animal, _, why, id) in &zoo {
        assert_eq!(animal.numbers(), [1], "{name}");
        let (outcome, detail) = keeper.last_try(id).await;
        match why {
            Some(why) => assert_eq!((outcome.as_str(), detail.as_str()), ("retry", *why), "{name}"),
            None => assert_eq!((outcome.as_str(), detail.as_str()), ("done", "event 1"), "{name}"),
        }
        assert!(animal.sent.load(Ordering::SeqCst) < 16 << 20, "{name}: it was listened to for long");
    }
    assert!(canary.heard.lock().unwrap().is_empty(), "a redirect was followed");

    // They behave again, and meanwhile something else has happened.
    task["id"] = json!(made);
    task["description"] = json!("changed");
    keeper.ask("PUT", &format!("Task/{made}"), &task).await;
    for (_, animal, ..) in &zoo {
        animal.does(FINE);
    }
    keeper.later(5).await;
    for (name, animal, _, why, _) in &zoo {
        let expected: &[i64] = match (why, *name) {
            (_, "busy") => &[1],
            (Some(_), _) => &[1, 1, 2],
            (None, _) => &[1, 2],
        };
        assert_eq!(animal.numbers(), expected, "{name}");
    }
    keeper.later(71).await;
    keeper.later(1).await;
    for (name, animal, _, why, id) in &zoo {
        let expected: &[i64] = if why.is_some() { &[1, 1, 2] } else { &[1, 2] };
        assert_eq!(animal.numbers(), expected, "{name}");
        assert_eq!(keeper.ask("GET", &format!("Subscription/{id}"), &Value::Null).await["status"], "active", "{name}");
    }
}

// S-053, S-127: who can't be reached at all is in error, and $status says of what kind.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_in_error() {
    let keeper = Keeper::open().await;
    let plain = Animal::born().await;
    let place = Place::sqlite();
    let (stranger, _stop, _serving) = crate::tls::serve(&place, "").await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (name, endpoint, code) in [
        ("refused", format!("http://127.0.0.1:{closed}/hook"), "no-response"),
        ("no such name", "https://nowhere.invalid/hook".to_string(), "dns-resolution-error"),
        ("no TLS", format!("https://127.0.0.1:{}/hook", plain.port), "no-response"),
        ("a certificate that nobody vouches for", format!("{stranger}/hook"), "no-response"),
    ] {
        let id = keeper.subscribes(&endpoint).await;
        keeper.later(1).await;
        let told = keeper.ask("GET", &format!("Subscription/{id}/$status"), &Value::Null).await;
        assert_eq!(says(&told, "status"), "error", "{name}");
        let error = parameters(&told).into_iter().find(|one| one["name"] == "error").unwrap();
        assert_eq!(error["valueCodeableConcept"]["coding"][0]["code"], code, "{name}: {error}");
    }
    assert!(plain.heard.lock().unwrap().is_empty());
}

async fn county() -> TestGateway {
    TestGateway::county().await.settled().await
}

async fn kept(county: &TestGateway, id: &str) -> Vec<i64> {
    numbers(&county.get("clinic", &format!("Subscription/{id}/$events")).await.body)
}

// F10: a clock that is set back makes a pause longer and loses nothing; what is new is told at once to whoever does not
// wait, and numbers and times go on rising.
on_both!(a_clock_that_is_set_back_loses_nothing, async |place: Place| {
    let other = "https://ehr.test/hook/2";
    let county = TestGateway::with(place, &crate::gateway::county()).await.settled().await;
    subscribed(&county, "clinic", HOOK).await;
    let id = subscribed(&county, "clinic", other).await;
    county.world.fault(HOOK, &[Fault::Answer(503)]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let before = heard(&county, other).len() as i64;
    assert!(heard(&county, HOOK).is_empty() && before > 0);
    county.clock.turn_back(Duration::from_secs(3_600));
    county.refers("sr2", "housing-instability").await;
    county.deliver_due().await;
    let all = heard(&county, other).len() as i64;
    assert!(all > before, "told at once");
    assert_eq!(heard(&county, other), up_to(all));
    county.later(Duration::from_secs(3_605)).await;
    let all = heard(&county, other).len() as i64;
    assert_eq!((heard(&county, HOOK), heard(&county, other)), (up_to(all), up_to(all)));
    let events = county.store().await.read().await.unwrap().events(&id, 1, i64::MAX, 100).await.unwrap();
    assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "times do not go back with the clock");
});

// F10, F12: a clock that jumps ahead takes the lease away in mid-flight: another sends the same numbers, and the first
// one's late word counts for nothing.
on_both!(a_clock_that_jumps_ahead_skips_nothing, async |place: Place| {
    let county = TestGateway::with(place, &crate::gateway::county()).await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    let app = &county.gateway.app;
    let task = county.refers("sr1", "housing-instability").await;
    let claimed = app.claim(100, &Busy::default()).await.unwrap();
    let claimed = claimed.into_iter().find(|one| one.subject == id).expect("the notification is due");
    let mut visit = Visit::default();
    let plan = app.notify_plan(&claimed, &mut visit).await.unwrap().unwrap();
    county.later(Duration::from_secs(86_400)).await;
    let told = heard(&county, HOOK);
    assert!(!told.is_empty() && told == up_to(told.len() as i64), "{told:?}");
    county.world.fault(HOOK, &[Fault::Answer(503)]);
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.deliver_due().await;
    visit.took(plan);
    app.notified(&claimed, visit).await.unwrap();
    app.failed(&claimed, "no answer in time", None).await.unwrap();
    county.later(Duration::from_secs(5)).await;
    let all = kept(&county, &id).await;
    assert!(all.len() > told.len());
    assert_eq!(heard(&county, HOOK), all);
    assert_eq!(status(&county, "clinic", &id).await, "active");
});

// S-037, S-038, S-183: the Subscription changes while a notification is under way. Off and gone are silent; elsewhere goes
// on with the numbers that follow, and what fell between is there to be asked for.
#[tokio::test]
async fn what_is_under_way_when_a_subscription_changes_disturbs_nothing() {
    for act in ["off", "delete", "elsewhere"] {
        for fails in [false, true] {
            let county = county().await;
            let id = subscribed(&county, "clinic", HOOK).await;
            let app = &county.gateway.app;
            let task = county.refers("sr1", "housing-instability").await;
            let claimed = app.claim(100, &Busy::default()).await.unwrap();
            let claimed = claimed.into_iter().find(|one| one.subject == id).unwrap();
            let mut visit = Visit::default();
            let plan = app.notify_plan(&claimed, &mut visit).await.unwrap().unwrap();
            let other = "https://ehr.test/hook/2";
            match act {
                "off" => assert_eq!(put(&county, &id, "off", HOOK).await.status, 200),
                "elsewhere" => assert_eq!(put(&county, &id, "requested", other).await.status, 200),
                _ => drop(county.ask("clinic", "DELETE", &format!("Subscription/{id}"), None, &[]).await),
            }
            if fails {
                app.failed(&claimed, "answered 500", None).await.unwrap();
            } else {
                visit.took(plan);
                app.notified(&claimed, visit).await.unwrap();
            }
            county.later(Duration::from_secs(120)).await;
            let before = county.world.heard(HOOK).len();
            let relayed = county.relayed(&task).await.pop().unwrap();
            county.answers("agency", &relayed, "accepted").await;
            county.later(Duration::from_secs(3_600)).await;
            assert_eq!(county.world.heard(HOOK).len(), before, "{act}: nothing more goes to the old place");
            if act == "elsewhere" {
                let all = county.world.heard(other);
                assert_eq!(says(&all[0], "type"), "handshake");
                let count: i64 = says(&all[0], "events-since-subscription-start").parse().unwrap();
                let told = heard(&county, other);
                assert_eq!(told, (count + 1..=count + told.len() as i64).collect::<Vec<_>>());
                assert_eq!(kept(&county, &id).await, up_to(count + told.len() as i64), "all of them are kept");
                assert!(!told.is_empty());
            } else {
                assert!(county.world.heard(other).is_empty());
            }
        }
    }
}

// S-040: the end comes between a try that failed and the next: nothing more is sent, and nothing is lost that can be asked
// for; a restart in between changes neither.
#[tokio::test]
async fn an_end_between_two_tries_ends_them() {
    let mut county = county().await;
    let mut body = subscription(HOOK);
    body["end"] = json!(county.clock.now().plus(Duration::from_secs(60)).to_string());
    let id = county.post("clinic", "Subscription", &body).await.id();
    county.later(HANDSHAKE).await;
    county.world.fault(HOOK, &[Fault::Say(503, &[("retry-after", "120")], "")]);
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let counted = kept(&county, &id).await;
    assert!(!counted.is_empty());
    county.restart().await;
    for _ in 0..3 {
        county.later(Duration::from_secs(100)).await;
    }
    assert!(heard(&county, HOOK).is_empty(), "after its end");
    assert_eq!(status(&county, "clinic", &id).await, "off");
    assert_eq!(kept(&county, &id).await, counted);
}

// S-183: restarts in between, and the numbers go on.
#[tokio::test]
async fn numbers_go_on_across_restarts() {
    let mut county = county().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    for round in 0..3 {
        county.refers(&format!("sr{round}"), "housing-instability").await;
        county.restart().await;
        county.deliver_due().await;
        county.restart().await;
    }
    let told = heard(&county, HOOK);
    assert!(told.len() >= 3);
    assert_eq!((&told, &kept(&county, &id).await), (&up_to(told.len() as i64), &told));
}

// S-108: a gateway that dies in the middle of its tries, again and again, uses up none of the subscriber's.
on_both!(tries_of_a_gateway_that_dies_are_not_the_subscribers, async |place: Place| {
    let county = TestGateway::with(place, &crate::gateway::county()).await.settled().await;
    let id = subscribed(&county, "clinic", HOOK).await;
    county.refers("sr1", "housing-instability").await;
    for _ in 0..20 {
        let claimed = county.gateway.app.claim(100, &Busy::default()).await.unwrap();
        let mine = claimed.iter().find(|one| one.subject == id).expect("it is due when the lease has run out");
        assert!(mine.attempts <= 2, "{}", mine.attempts);
        county.clock.advance(Duration::from_secs(600));
    }
    county.world.fault(HOOK, &[Fault::Answer(503)]);
    county.deliver_due().await;
    assert_eq!(status(&county, "clinic", &id).await, "active");
    county.later(Duration::from_secs(30)).await;
    assert_eq!(heard(&county, HOOK), kept(&county, &id).await);
});
