//! Partners' servers that are followed: what thousands of them cost, and how soon a change is seen by each way. Catching up
//! with a long absence is measured in [`super::outage`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use loopgate::demo::server::{self, FhirServer};
use loopgate::time::{Clock, Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::client::{Connection, request};
use super::goals::file;
use super::outage;
use super::product::{Product, partner};
use super::runner::{Report, Server, cpu_of, median, ms};

/// Partners that are polled at once, and how often each is; a window in which it is measured.
const POLLED: usize = 5_000;
const EVERY: u64 = 10;
const WINDOW: Duration = Duration::from_secs(20);
/// The shortest pause outside tests (G-135), in seconds.
const QUARTER: f64 = 900.0;
/// Hits in a page of the partners' servers.
const PAGE: usize = 200;

/// All partners' servers in one: `/{who}/fhir`.
#[derive(Default)]
pub struct Houses {
    pub address: String,
    looks: AtomicUsize,
    rounds: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
pub struct Kept {
    /// What stands there: when it changed, and its text.
    pub tasks: Vec<(Timestamp, String)>,
    /// Which of them has this id: the one that we gave it in `identifier`.
    ids: HashMap<String, usize>,
    /// What our Subscription's notifications are to show.
    secret: Option<String>,
}

impl Kept {
    pub fn add(&mut self, id: String, at: Timestamp, text: String) {
        self.ids.insert(id, self.tasks.len());
        self.tasks.push((at, text));
    }
}

impl Houses {
    pub async fn open() -> Arc<Houses> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let houses = Arc::new(Houses { address, ..Houses::default() });
        let here = houses.clone();
        let router = Router::new().fallback(move |method: Method, uri: Uri, body: Bytes| {
            let here = here.clone();
            async move { here.answer(&method, &uri, &body) }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        houses
    }

    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn arrived(&self) -> usize {
        self.kept().tasks.len()
    }

    /// Staff accept this Task.
    pub fn accepts(&self, index: usize) {
        let now = Clock::system().now();
        let (at, text) = &mut self.kept().tasks[index];
        let mut task: Value = serde_json::from_str(text).unwrap();
        task["status"] = json!("accepted");
        task["meta"]["versionId"] = json!("2");
        task["meta"]["lastUpdated"] = json!(now.to_string());
        (*at, *text) = (now, task.to_string());
    }

    fn answer(&self, method: &Method, uri: &Uri, body: &Bytes) -> Response {
        let (who, rest) = uri.path().trim_start_matches('/').split_once("/fhir").unwrap_or_default();
        let base = format!("http://{}/{who}/fhir", self.address);
        let query = uri.query().unwrap_or("");
        match (method.as_str(), rest.trim_start_matches('/')) {
            ("GET", "metadata") => {
                self.looks.fetch_add(1, Ordering::SeqCst);
                let mut house = FhirServer::new(&base);
                house.set_batch(false);
                house.set_subscriptions(who == "near");
                let asked =
                    server::Request { method: "GET".into(), target: "/fhir/metadata".into(), ..Default::default() };
                fhir(house.answer(&server::Request { target: format!("{base}/metadata"), ..asked }).body)
            }
            ("GET", "Task") => self.search(&base, query),
            ("GET", rest) if rest.starts_with("Task/") => {
                let kept = self.kept();
                let index = kept.ids.get(rest.trim_start_matches("Task/"));
                match index.and_then(|index| kept.tasks.get(*index)) {
                    Some((_, text)) => fhir(text.clone()),
                    None => StatusCode::NOT_FOUND.into_response(),
                }
            }
            ("POST", "Task") => {
                let (now, mut task) = (Clock::system().now(), serde_json::from_slice::<Value>(body).unwrap());
                let id = task["identifier"][0]["value"].as_str().unwrap().to_string();
                let place = format!("{base}/Task/{id}");
                task["id"] = json!(id);
                task["meta"]["versionId"] = json!("1");
                task["meta"]["lastUpdated"] = json!(now.to_string());
                self.kept().add(id, now, task.to_string());
                (StatusCode::CREATED, [(header::LOCATION, place)], fhir(task.to_string())).into_response()
            }
            ("POST", "Subscription") => {
                let mut made: Value = serde_json::from_slice(body).unwrap();
                let shown = made["channel"]["header"][0].as_str().unwrap_or("");
                self.kept().secret = shown.strip_prefix("Authorization: ").map(str::to_string);
                made["id"] = json!("1");
                let place = format!("{base}/Subscription/1");
                (StatusCode::CREATED, [(header::LOCATION, place)], fhir(made.to_string())).into_response()
            }
            ("GET", _) if rest.contains("well-known") => StatusCode::NOT_FOUND.into_response(),
            _ => fhir(r#"{"resourceType":"Bundle","type":"searchset","entry":[]}"#.into()),
        }
    }

    /// What has changed since, a page at a time, in the order in which it came.
    fn search(&self, base: &str, query: &str) -> Response {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let since = value("_lastUpdated=ge").and_then(Timestamp::parse);
        if since.is_some() && value("requester=").or(value("owner=")).is_some_and(|who| !who.contains("nobody")) {
            self.rounds.fetch_add(1, Ordering::SeqCst);
        }
        let nobody = query.contains("nobody") || query.contains("identifier=");
        let since = since.unwrap_or(Timestamp(0));
        let from: usize = value("page=").and_then(|text| text.parse().ok()).unwrap_or(0);
        let kept = self.kept();
        let mut found = kept.tasks.iter().enumerate().skip(from).filter(|(_, (at, _))| !nobody && *at >= since);
        let page: Vec<String> = found
            .by_ref()
            .take(PAGE)
            .map(|(_, (_, text))| format!(r#"{{"resource":{text},"search":{{"mode":"match"}}}}"#))
            .collect();
        let next = found.next().map(|(index, _)| {
            format!(r#"{{"relation":"next","url":"{base}/Task?page={index}&_lastUpdated=ge{since}"}}"#)
        });
        let now = Clock::system().now();
        fhir(format!(
            r#"{{"resourceType":"Bundle","type":"searchset","meta":{{"lastUpdated":"{now}"}},"link":[{}],"entry":[{}]}}"#,
            next.unwrap_or_default(),
            page.join(",")
        ))
    }
}

fn fhir(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/fhir+json")], body).into_response()
}

/// Waits until it holds, at most so many seconds; how long it took.
pub async fn until(what: &str, seconds: u64, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(seconds), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

pub async fn measure(
    report: &mut Report,
    (quick, large): (bool, bool),
    folder: &Path,
    world: &str,
    hello: &Server,
    wanted: &impl Fn(&[&str]) -> bool,
) {
    if wanted(&["B1"]) {
        polled(report, quick, folder, world, hello).await;
    }
    if wanted(&["B2"]) {
        seen(report, quick, folder, world).await;
    }
    if wanted(&["B3"]) {
        let changes = if large {
            100_000
        } else if quick {
            400
        } else {
            2_000
        };
        outage::caught_up(report, changes, folder, world).await;
    }
}

/// B1: sources with servers, nothing new at any of them.
async fn polled(report: &mut Report, quick: bool, folder: &Path, world: &str, hello: &Server) {
    let many = if quick { POLLED / 5 } else { POLLED };
    report.heading(&format!("B1  {many} partners' servers polled, each every {EVERY} s, nothing new at any"));
    let houses = Houses::open().await;
    let fhir = |number: usize| {
        let base = format!("http://{}/p{number}/fhir", houses.address);
        format!("fhir = {{ base = \"{base}\", follow = \"poll\", poll_every = \"{EVERY}s\" }}")
    };
    let partners: String = (0..many).map(|number| partner(&format!("p{number}"), "source", &fhir(number))).collect();
    let product =
        Product::with_partners(&format!("sqlite://{}", file(folder, "polled.db")), folder, world, &partners).await;
    let before = product.server.cpu();
    let took = until("all are looked at", 600, async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        houses.looks.load(Ordering::SeqCst) >= many && houses.rounds.load(Ordering::SeqCst) >= many
    })
    .await;
    report.note(&format!(
        "{} from start to first 200; all looked at and asked once {} s later, {:.0} µs of CPU each; {:.0} MB",
        ms(product.start),
        took.as_secs(),
        (product.server.cpu() - before).as_secs_f64() * 1e6 / many as f64,
        product.server.memory()
    ));
    let (cpu, rounds) = (product.server.cpu(), houses.rounds.load(Ordering::SeqCst));
    let began = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let (cpu, rounds) = (product.server.cpu() - cpu, houses.rounds.load(Ordering::SeqCst) - rounds);
    let each = cpu.as_secs_f64() * 1e6 / rounds.max(1) as f64;
    let rate = rounds as f64 / began.elapsed().as_secs_f64();
    let bare = bare_get(hello).await;
    report.note(&format!(
        "{rate:.0} rounds/s, {each:.0} µs of CPU a round ({:.1}× a bare GET by reqwest, {bare:.0} µs), {:.0} MB",
        each / bare,
        product.server.memory()
    ));
    let share = each * POLLED as f64 / QUARTER / 1e6;
    report.line(
        "B1",
        &format!("{POLLED} partners, each asked every quarter of an hour"),
        &format!("{each:.0} µs a round, {:.1} rounds/s", POLLED as f64 / QUARTER),
        &format!("{:.2} % of a core", share * 100.0),
        "≤ 5 %",
        share <= 0.05,
    );
    let memory = product.server.memory();
    report.line("B1", "memory with them", "resident", &format!("{memory:.0} MB"), "≤ 200 MB", memory <= 200.0);
}

/// What one GET costs who asks, by the client that the product has.
async fn bare_get(hello: &Server) -> f64 {
    let (client, count) = (reqwest::Client::builder().no_proxy().build().unwrap(), 4_000);
    let before = cpu_of(std::process::id());
    for _ in 0..count {
        let answer = client.get(format!("http://{}/hello", hello.address)).send().await.unwrap();
        let _ = answer.bytes().await;
    }
    (cpu_of(std::process::id()) - before).as_secs_f64() * 1e6 / f64::from(count)
}

/// B2: from the change at the target's server to the source's status here.
async fn seen(report: &mut Report, quick: bool, folder: &Path, world: &str) {
    report.heading("B2  from a target's change to the source's status, by each way");
    let houses = Houses::open().await;
    let target = |id: &str, how: &str| {
        let base = format!("http://{}/{id}/fhir", houses.address);
        partner(id, "target", &format!("channel = \"fhir\"\nfhir = {{ base = \"{base}\", {how} }}"))
    };
    let polled = 2_000.0;
    let partners = target("near", "follow = \"subscribe\", poll_every = \"1h\"")
        + &target("far", "follow = \"poll\", poll_every = \"2s\"");
    let product =
        Product::with_partners(&format!("sqlite://{}", file(folder, "seen.db")), folder, world, &partners).await;
    until("our Subscription", 30, async || houses.kept().secret.is_some()).await;
    let secret = houses.kept().secret.clone().unwrap();
    let mut events = 0;
    for (who, way, bound) in [
        ("near", "its notification", 20.0),
        ("far", "a poll every 2 s", polled + 20.0),
        ("agency", "its own PUT here", 20.0),
    ] {
        let mut times = Vec::new();
        for _ in 0..if quick { 6 } else { 20 } {
            let before = houses.arrived();
            let referral = product.referral(&format!("Organization/{who}")).to_string();
            let made = product.ask("clinic", "POST", "/fhir", &referral).await;
            let task = made["entry"][1]["resource"]["id"].as_str().unwrap().to_string();
            let mut connection = Connection::open(&product.server.address).await.unwrap();
            let began;
            if who == "agency" {
                let open = product.open_tasks(1).await;
                let put = Product::accepts(open)(0);
                began = Instant::now();
                connection.ask(&put).await.unwrap();
            } else {
                until("the Task arrives", 30, async || houses.arrived() > before).await;
                // Its first round after the delivery is over.
                tokio::time::sleep(Duration::from_millis(300)).await;
                began = Instant::now();
                houses.accepts(before);
                if who == "near" {
                    events += 1;
                    let body = notification(events);
                    let shown = [("authorization", secret.as_str())];
                    let (status, _) = connection.ask(&request("POST", "/hooks/near", "", &shown, &body)).await.unwrap();
                    assert_eq!(status, 200);
                }
            }
            let read = request("GET", &format!("/fhir/Task/{task}"), "clinic", &[], "");
            until("the source's status", 60, async || {
                let (_, body) = connection.ask(&read).await.unwrap();
                String::from_utf8_lossy(&body).contains(r#""status":"in-progress""#)
            })
            .await;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let half = median(times);
        report.line("B2", way, "p50", &format!("{half:.1} ms"), &format!("≤ {bound:.0} ms"), half <= bound);
    }
}

fn notification(number: usize) -> String {
    let number = number.to_string();
    let list = json!([
        {"name": "status", "valueCode": "active"},
        {"name": "type", "valueCode": "event-notification"},
        {"name": "events-since-subscription-start", "valueString": number},
        {"name": "notification-event", "part": [{"name": "event-number", "valueString": number}]}
    ]);
    json!({"resourceType": "Bundle", "type": "history",
        "entry": [{"resource": {"resourceType": "Parameters", "parameter": list}}]})
    .to_string()
}
