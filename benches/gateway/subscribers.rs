//! Subscribers: what a notification costs beside a plain POST, who waits for whom, and how many may subscribe before a
//! change notices.
//!
//! Everybody who subscribes here is an operator's program, which sees all: grants are what P1 to P7 measure.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::client::{Connection, Requests, Until, load, request};
use super::goals::{Size, file, latency};
use super::product::Product;
use super::runner::{Report, Round, Server, cpu_of, in_turn, middle, ms};
use super::world::World;

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
/// Subscribers of P10's many.
pub const MANY: usize = 50;

/// Plain POSTs of a round: enough for a clock that ticks a hundred times a second.
const PLAIN: usize = 16_000;

/// A Subscription to Tasks: id-only, one event a notification, so that both sides count the same.
fn subscription(endpoint: &str, filter: &str) -> String {
    let mut body = json!({"resourceType": "Subscription", "status": "requested", "reason": "r",
        "criteria": "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task",
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json",
            "header": ["Authorization: Bearer secret"],
            "extension": [{"url": format!("{BACKPORT}/backport-max-count"), "valuePositiveInt": 1}],
            "_payload": {"extension": [{"url": format!("{BACKPORT}/backport-payload-content"), "valueCode": "id-only"}]}}});
    if !filter.is_empty() {
        let url = format!("{BACKPORT}/backport-filter-criteria");
        body["_criteria"] = json!({"extension": [{"url": url, "valueString": filter}]});
    }
    body.to_string()
}

/// Subscribes and waits for the handshakes.
async fn subscribe(product: &Product, wishes: &[(String, String)]) -> Vec<String> {
    let mut ids = Vec::new();
    for (who, body) in wishes {
        let made = product.ask(who, "POST", "/fhir/Subscription", body).await;
        ids.push(made["id"].as_str().unwrap().to_string());
    }
    let began = Instant::now();
    while product.ask("root", "GET", "/fhir/Subscription?status=requested&_summary=count", "").await["total"] != 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "the handshakes failed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ids
}

async fn hold(product: &Product, ids: &[String], name: &str) {
    for id in ids {
        product.ask("root", "POST", &format!("/fhir/Subscription/{id}/${name}"), "").await;
    }
}

/// How many POSTs the sink has had.
async fn counted(sink: &Server) -> usize {
    let mut connection = Connection::open(&sink.address).await.unwrap();
    let (_, body) = connection.ask(&request("GET", "/count", "", &[], "")).await.unwrap();
    String::from_utf8_lossy(&body).parse().unwrap()
}

/// D9: plain POSTs by reqwest over kept-alive connections, so many at a time; the CPU time of whoever sends.
async fn plain(sink: &Server, body: &str, at_once: usize) -> Round {
    let most = PLAIN;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (before, began) = (cpu_of(std::process::id()), Instant::now());
    let mut senders = Vec::new();
    for _ in 0..at_once {
        let (client, body, url) = (client.clone(), body.to_string(), format!("http://{}/sink", sink.address));
        senders.push(tokio::spawn(async move {
            for _ in 0..most / at_once {
                let asking = client.post(&url).header("content-type", "application/fhir+json");
                let answer = asking.header("authorization", "Bearer secret").body(body.clone()).send().await.unwrap();
                let _ = answer.bytes().await;
            }
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    let cpu = (cpu_of(std::process::id()) - before).as_secs_f64() * 1e6 / most as f64;
    Round { cpu, rate: most as f64 / began.elapsed().as_secs_f64(), answered: most, ..Round::default() }
}

/// P10: what waits at held Subscriptions is let go, and everything but that stands still.
pub async fn notifications(report: &mut Report, size: &Size, folder: &Path, world: &World, sink: &Server) {
    report.heading("P10 notifications: durable, in order, recorded; beside plain POSTs to the same sink");
    let body = notification_like();
    let count = size.writes * 5;
    for (name, subscribers, at_once) in [("through one subscription", 1, 1), ("through 50 subscriptions", MANY, 16)] {
        let path = format!("sqlite://{}", file(folder, &format!("notify{subscribers}.db")));
        let product = Product::with_subscribers(&path, folder, &world.address, subscribers).await;
        let hook = format!("http://{}/sink", sink.address);
        let wishes: Vec<(String, String)> =
            (0..subscribers).map(|number| (format!("s{number}"), subscription(&hook, ""))).collect();
        let ids = subscribe(&product, &wishes).await;
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..size.rounds {
            hold(&product, &ids, "pause").await;
            let each = count / subscribers;
            let (kept, _) = product.kept();
            let until = Until { time: Duration::from_secs(60), count: each };
            let seen = load(&product.server.address, 8, &kept, until, false, None).await;
            assert_eq!(seen.bad, 0, "{}", seen.first_bad);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (from, wanted) = (counted(sink).await, each * subscribers);
            let (before, began) = (product.server.cpu(), Instant::now());
            hold(&product, &ids, "resume").await;
            while counted(sink).await < from + wanted {
                assert!(began.elapsed() < Duration::from_secs(120), "they do not come");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let wall = began.elapsed();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let cpu = (product.server.cpu() - before).as_secs_f64() * 1e6 / wanted as f64;
            let rate = wanted as f64 / wall.as_secs_f64();
            mine.push(Round { cpu, rate, answered: wanted, ..Round::default() });
            theirs.push(plain(sink, &body, at_once).await);
        }
        report.ratio("P10", name, (&middle(mine), "D9", &middle(theirs)), 2.5, 1.8);
    }
}

/// As large as an id-only notification of one event.
fn notification_like() -> String {
    json!({"resourceType": "Bundle", "text": "x".repeat(1_250)}).to_string()
}

/// P12: what a hook that is well hears, with and without others that are not.
pub async fn head_of_line(report: &mut Report, size: &Size, folder: &Path, world: &mut World) {
    let endpoints = size.endpoints;
    report.heading(&format!("P12 {endpoints} endpoints, of which 5 % are gone and 5 % answer after 30 s"));
    let path = format!("sqlite://{}", file(folder, "line.db"));
    let product = Product::with_subscribers(&path, folder, &world.address, endpoints).await;
    let dead = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    dead.set_nonblocking(true).unwrap();
    let dead_port = dead.local_addr().unwrap().port();
    let dying = tokio::net::TcpListener::from_std(dead).unwrap();
    let router = axum::Router::new().fallback(async || "");
    let mortal = tokio::spawn(async move { axum::serve(dying, router).await });
    let port = world.address.rsplit(':').next().unwrap().to_string();
    let wishes: Vec<(String, String)> = (0..endpoints)
        .map(|number| {
            // An address of its own for each, and so a server of its own.
            let host = format!("127.0.{}.{}", 1 + number / 250, 1 + number % 250);
            let endpoint = match number % 20 {
                0 => format!("http://{host}:{dead_port}/hook"),
                1 => format!("http://{host}:{port}/slow"),
                _ => format!("http://{host}:{port}/hook"),
            };
            (format!("s{number}"), subscription(&endpoint, ""))
        })
        .collect();
    subscribe(&product, &wishes).await;
    let well = (0..endpoints).filter(|number| number % 20 > 1).count();
    // The first opens the connections.
    heard_by(&product, world, well, 1).await;
    let without = heard_by(&product, world, well, 6).await;
    mortal.abort();
    world.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    // The first change finds them out; the others are counted.
    heard_by(&product, world, well, 1).await;
    let with = heard_by(&product, world, well, 6).await;
    world.slow.store(false, std::sync::atomic::Ordering::SeqCst);
    let shown = format!(
        "p50 {} p99 {}; without them p50 {} p99 {}",
        ms(at(&with, 0.5)),
        ms(at(&with, 0.99)),
        ms(at(&without, 0.5)),
        ms(at(&without, 0.99))
    );
    let ratio = at(&with, 0.99).as_secs_f64() / at(&without, 0.99).as_secs_f64();
    let all = with.len() == well * 6 && without.len() == with.len();
    report.line("P12", "those that are well", &shown, &format!("{ratio:.2}×"), "≤ 1.2×", all && ratio <= 1.2);
}

fn at(list: &[Duration], share: f64) -> Duration {
    list.get((list.len() as f64 * share) as usize).copied().unwrap_or_default()
}

/// Changes, one after the other, each heard by all who are well: from the answer to the receipt, sorted.
async fn heard_by(product: &Product, world: &mut World, well: usize, changes: usize) -> Vec<Duration> {
    let (kept, _) = product.kept();
    let mut connection = Connection::open(&product.server.address).await.unwrap();
    let mut all = Vec::new();
    for number in 0..changes {
        while world.heard.try_recv().is_ok() {}
        let (status, _) = connection.ask(&kept(number)).await.unwrap();
        assert_eq!(status, 201);
        let answered = Instant::now();
        for _ in 0..well {
            let Ok(Some((heard, _))) = tokio::time::timeout(Duration::from_secs(20), world.heard.recv()).await else {
                break;
            };
            all.push(heard.saturating_duration_since(answered));
        }
    }
    all.sort_unstable();
    all
}

/// P16 and P11 with many: the same create where ten subscribe to the topic and where ten thousand do.
pub async fn many(report: &mut Report, size: &Size, quick: bool, folder: &Path, world: &mut World) {
    report.heading("P16 subscriptions to one topic that a change does not concern");
    let mut products = Vec::new();
    for count in [10, 1_000, 10_000] {
        let path = file(folder, &format!("many{count}.db"));
        let product = Product::with_subscribers(&format!("sqlite://{path}"), folder, &world.address, 1).await;
        let hook = format!("http://{}/hook", world.address);
        let id = subscribe(&product, &[("s0".into(), subscription(&hook, "patient=Patient/nobody"))]).await.remove(0);
        copied(&path, &id, count - 1).await;
        products.push((count, product));
    }
    let until = Until { count: size.writes * 3, ..size.counting() };
    let kept = |product: &Product| -> Requests { product.kept().0 };
    let [(_, few), _, (_, most)] = &products[..] else { return };
    let (mine, theirs) =
        in_turn(size.rounds.max(3), (&most.server, 8, kept(most), until), (&few.server, 8, kept(few), until)).await;
    report.ratio("P16", "create, 10,000 against 10", (&mine, "10", &theirs), 1.05, 1.05);
    for (count, product) in &products {
        latency(report, &format!("{count} subscriptions, "), quick, &[("idle", 0.0, 2.0, 10.0)], product, world).await;
    }
}

/// The rows of a Subscription once more under other ids, each about another patient.
async fn copied(path: &str, id: &str, count: usize) {
    let options = SqliteConnectOptions::new().filename(path).synchronous(SqliteSynchronous::Off);
    let options = options.busy_timeout(Duration::from_secs(20));
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("begin immediate").execute(&mut db).await.unwrap();
    for table in ["subscription", "subscription_term"] {
        let names: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select name from pragma_table_info('{table}')")))
                .fetch_all(&mut db)
                .await
                .unwrap();
        let changed: Vec<String> = names
            .iter()
            .map(|name| match name.as_str() {
                "id" | "subscription" | "term" | "resource" => {
                    format!("replace(replace(t.{name}, '{id}', '{id}' || n.n), 'nobody', 'nobody' || n.n)")
                }
                name => format!("t.{name}"),
            })
            .collect();
        let mine = if table == "subscription" { "id" } else { "subscription" };
        let text = format!(
            "with recursive n(n) as (select 1 union all select n + 1 from n where n < {count}),
             t as materialized (select * from {table} where {mine} = '{id}')
             insert into {table} ({}) select {} from n cross join t",
            names.join(", "),
            changed.join(", ")
        );
        let done = sqlx::query(AssertSqlSafe(text)).execute(&mut db).await.unwrap();
        assert!(done.rows_affected() as usize >= count, "{table}");
    }
    sqlx::raw_sql("commit").execute(&mut db).await.unwrap();
}
