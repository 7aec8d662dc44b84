//! The goals, each measured against its denominator.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::checks;
use super::client::{Connection, Requests, Seen, Until, load, request};
use super::fsync;
use super::partners;
use super::postgres::{self, Cluster};
use super::product::Product;
use super::runner::{Report, Round, Server, in_turn, median, middle, ms};
use super::safety;
use super::scale;
use super::subscribers;
use super::world::{self, World};

/// How much of everything.
pub struct Size {
    pub rounds: usize,
    /// A round by time.
    pub time: Duration,
    /// A round by writes.
    pub writes: usize,
    /// Referrals of the large database.
    pub large: usize,
    /// Subscribers' servers, of which some fail.
    pub endpoints: usize,
}

impl Size {
    fn quick() -> Size {
        Size { rounds: 1, time: Duration::from_millis(700), writes: 240, large: 5_000, endpoints: 200 }
    }
    fn full() -> Size {
        Size { rounds: 3, time: Duration::from_millis(1_000), writes: 400, large: 10_000, endpoints: 500 }
    }
    /// A round that lasts a time.
    fn lasting(&self) -> Until {
        Until { time: self.time, count: usize::MAX }
    }
    /// A round of so many requests.
    pub fn counting(&self) -> Until {
        Until { time: Duration::from_secs(20), count: self.writes }
    }
}

/// Measures all goals, or those chosen.
pub async fn run(quick: bool, large: Option<usize>, chosen: &[String]) {
    let mut size = if quick { Size::quick() } else { Size::full() };
    if let Some(referrals) = large {
        size.large = referrals;
        size.endpoints = 5_000;
    }
    let wanted = |goals: &[&str]| chosen.is_empty() || goals.iter().any(|goal| chosen.iter().any(|one| one == goal));
    let mut report = Report::new();
    checks::measure(&mut report, quick, &wanted);
    if !chosen.is_empty() && chosen.iter().all(|one| matches!(one.as_str(), "P8" | "P9")) {
        return report.end();
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let token = if wanted(&["P17", "P23"]) { safety::tokens(&mut report, folder, quick).await } else { 0.0 };
    let mut world = world::open().await;
    println!("CPU time of the server per request; rates and latencies on the wall clock, load generator included.");
    let began = Instant::now();

    let hello = Server::bare("hello", "-");
    let ideal = Server::bare("ideal", &file(folder, "ideal.db"));
    let product =
        Product::fresh(&format!("sqlite://{}", file(folder, "product.db")), folder, &world.address, &Vec::new()).await;
    report.note(&format!(
        "{:.0} MB resident, {} from start to first 200, empty database",
        product.server.memory(),
        ms(product.start)
    ));
    let empty = (product.server.memory(), product.start);
    let small: Value = json!(product.task("ServiceRequest/x", "Organization/agency"));
    denominators(&mut report, &size, &hello, folder, &small).await;
    if wanted(&["P1"]) {
        creates(&mut report, &size, &ideal, &product).await;
    }
    if wanted(&["P23"]) {
        safety::tax(&mut report, &size, folder, (&ideal, &product), token).await;
    }
    if wanted(&["P2"]) {
        transactions(&mut report, &size, &ideal, &product).await;
    }
    if wanted(&["P3", "P4", "P5", "P6", "P7"]) {
        reads(&mut report, &size, (&hello, &ideal), &product, &wanted).await;
    }
    if wanted(&["P7"]) {
        updates(&mut report, &size, &ideal, &product).await;
    }
    if wanted(&["E2E"]) {
        report.heading("Taken in and relayed to the pantry's FHIR server, end to end");
        round_trip(&mut report, &size, &product, &world, "SQLite").await;
    }
    if wanted(&["P11"]) {
        let states = [("idle", 0.0, 2.0, 10.0), ("at 500 writes/s", 500.0, 5.0, 50.0)];
        latency(&mut report, "", quick, &states, &product, &mut world).await;
    }
    drop(product);
    if wanted(&["P10"]) {
        subscribers::notifications(&mut report, &size, folder, &world, &hello).await;
    }
    if wanted(&["P12"]) {
        subscribers::head_of_line(&mut report, &size, folder, &mut world).await;
    }
    if wanted(&["P16"]) {
        subscribers::many(&mut report, &size, quick, folder, &mut world).await;
    }
    if wanted(&["P13"]) {
        group_commit(&mut report, &size, folder, &world).await;
    }
    if wanted(&["P14"]) {
        on_postgres(&mut report, &size, folder, &world, &small.to_string()).await;
    }
    if wanted(&["B1", "B2", "B3"]) {
        partners::measure(&mut report, (quick, large.is_some()), folder, &world.address, &hello, &wanted).await;
    }
    if wanted(&["P18", "P19"]) {
        scale::measure(&mut report, &size, folder, &world.address, empty).await;
    }
    if wanted(&["P15", "P20"]) {
        scale::invariance(&mut report, &size, folder, &world.address).await;
    }
    report.end();
    println!("{} s", began.elapsed().as_secs());
}

pub fn file(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

pub fn always(method: &'static str, path: &str, token: &'static str, body: &str) -> Requests {
    let bytes = request(method, path, token, &[], body);
    Arc::new(move |_| bytes.clone())
}

async fn denominators(report: &mut Report, size: &Size, hello: &Server, folder: &Path, task: &Value) {
    report.heading("Denominators without a database");
    let (one, two) = in_turn(
        size.rounds,
        (hello, 8, always("GET", "/hello", "", ""), size.lasting()),
        (hello, 8, always("POST", "/echo", "", &task.to_string()), size.lasting()),
    )
    .await;
    report.note(&format!("D1  axum hello {:.0} µs, {:.0}/s", one.cpu, one.rate));
    report.note(&format!(
        "D2  axum POST of {} bytes, parsed and serialised {:.0} µs, {:.0}/s",
        task.to_string().len(),
        two.cpu,
        two.rate
    ));
    let client = reqwest::Client::new();
    let (mut times, body) = (Vec::new(), task.to_string());
    let before = super::runner::cpu_of(std::process::id());
    for _ in 0..1_000 {
        let sent = Instant::now();
        let answer = client.post(format!("http://{}/sink", hello.address)).body(body.clone()).send().await.unwrap();
        let _ = answer.bytes().await;
        times.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    let cpu = (super::runner::cpu_of(std::process::id()) - before).as_secs_f64() * 1e6 / 1_000.0;
    report.note(&format!("D9  reqwest POST, kept alive {cpu:.0} µs of the client, p50 {:.0} µs", median(times)));
    report.note(&format!("D11 append of 4 kB and fdatasync p50 {:.0} µs", sync_time(folder)));
}

/// The median of an append and its fdatasync, in microseconds.
fn sync_time(folder: &Path) -> f64 {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("sync")).unwrap();
    let times = (0..200).map(|_| {
        let began = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed().as_secs_f64() * 1e6
    });
    median(times.collect())
}

async fn creates(report: &mut Report, size: &Size, ideal: &Server, product: &Product) {
    report.heading("P1  create a Task of 4 kB");
    for connections in [1, 8, 32, 128] {
        let until = Until { count: if connections == 1 { size.writes / 2 } else { size.writes }, ..size.counting() };
        let (kept, task) = product.kept();
        let bare = always("POST", "/Task", "", &task.to_string());
        let (mine, theirs) =
            in_turn(size.rounds, (&product.server, connections, kept, until), (ideal, connections, bare, until)).await;
        report.ratio("P1", &format!("kept, c={connections}"), (&mine, "D3", &theirs), 2.0, 1.5);
        let (mut mine, mut theirs, mut equal) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..size.rounds {
            let (creates, tasks) = product.creates(until.count).await;
            mine.push(product.server.round(connections, &creates, until).await);
            let body = tasks[0].to_string();
            theirs.push(ideal.round(connections, &always("POST", "/Task", "", &body), until).await);
            equal.push(ideal.round(connections, &always("POST", "/Task?versions=4", "", &body), until).await);
        }
        let (mine, theirs, equal) = (middle(mine), middle(theirs), middle(equal));
        report.ratio("P1", &format!("brokered at once, c={connections}"), (&mine, "D3", &theirs), 2.0, 1.5);
        report.note(&format!(
            "of these, the same four versions stored bare {:.0} µs: {:.2}×",
            equal.cpu,
            mine.cpu / equal.cpu
        ));
    }
}

async fn transactions(report: &mut Report, size: &Size, ideal: &Server, product: &Product) {
    report.heading("P2  referral transaction: ServiceRequest and Task");
    for connections in [8, 32] {
        let body = product.referral("Organization/agency").to_string();
        let (mine, theirs) = in_turn(
            size.rounds,
            (&product.server, connections, product.referrals("Organization/agency"), size.counting()),
            (ideal, connections, always("POST", "/", "", &body), size.counting()),
        )
        .await;
        report.ratio("P2", &format!("taken in and relayed, c={connections}"), (&mine, "D4", &theirs), 2.0, 1.5);
        let draft = draft_referral(product);
        let (mine, theirs) = in_turn(
            size.rounds,
            (&product.server, connections, always("POST", "/fhir", "clinic", &draft), size.counting()),
            (ideal, connections, always("POST", "/", "", &draft), size.counting()),
        )
        .await;
        report.ratio("P2", &format!("taken in as a draft, c={connections}"), (&mine, "D4", &theirs), 2.0, 1.5);
    }
}

/// The same referral, to be taken in and not yet sent on: the two resources that D4 and D7 store.
fn draft_referral(product: &Product) -> String {
    let mut draft = product.referral("Organization/agency");
    draft["entry"][1]["resource"]["status"] = json!("draft");
    draft.to_string()
}

async fn reads(
    report: &mut Report,
    size: &Size,
    (hello, ideal): (&Server, &Server),
    product: &Product,
    wanted: &dyn Fn(&[&str]) -> bool,
) {
    product.seed(200).await;
    let body = product.task("ServiceRequest/x", "Organization/agency").to_string();
    let until = Until { time: Duration::from_secs(20), count: 200 };
    let made = load(&ideal.address, 16, &always("POST", "/Task", "", &body), until, true, None).await;
    let made: Value = serde_json::from_slice(&made.bodies[0]).unwrap();
    let tasks = product.open_tasks(100).await;
    let (mine, theirs) = (tasks[0]["id"].as_str().unwrap(), made["id"].as_str().unwrap());
    if wanted(&["P3"]) {
        report.heading("P3  read by id, authorised and on record");
        for connections in [1, 8, 32] {
            let (mine, theirs) = in_turn(
                size.rounds,
                (
                    &product.server,
                    connections,
                    always("GET", &format!("/fhir/Task/{mine}"), "agency", ""),
                    size.lasting(),
                ),
                (ideal, connections, always("GET", &format!("/Task/{theirs}"), "", ""), size.lasting()),
            )
            .await;
            report.ratio("P3", &format!("c={connections}"), (&mine, "D5", &theirs), 2.0, 1.4);
        }
    }
    let bare = always("GET", "/Task?owner=Organization/agency&status=requested", "", "");
    let pages = [
        ("P4", "page of 20, owner+status", "status=requested&_count=20", 1.5, 1.2),
        (
            "P4",
            "page of 20, owner+status, _lastUpdated",
            "status=requested&_lastUpdated=gt2020-01-01&_count=20",
            1.5,
            1.2,
        ),
        ("P5", "page of 20 and _include=Task:focus", "status=requested&_include=Task:focus&_count=20", 2.2, 1.7),
    ];
    for (goal, what, query, must, reach) in pages {
        if !wanted(&[goal]) {
            continue;
        }
        report.heading(&format!("{goal}  search: {what}"));
        let path = format!("/fhir/Task?owner=Organization/agency&{query}");
        let page = product.ask("agency", "GET", &path, "").await.to_string();
        let mine = always("GET", &path, "agency", "");
        let (mine, theirs) =
            in_turn(size.rounds, (&product.server, 8, mine, size.lasting()), (ideal, 8, bare.clone(), size.lasting()))
                .await;
        report.ratio(goal, &format!("{what}, c=8, {} kB", page.len() / 1000), (&mine, "D6", &theirs), must, reach);
    }
    if wanted(&["P6"]) {
        report.heading("P6  empty poll");
        let path = "/fhir/Task?owner=Organization/agency&status=requested&_lastUpdated=gt2099-01-01T00:00:00Z";
        // What a client does: it asks for what is newer than the newest it has.
        let newest = tasks.iter().filter_map(|task| task["meta"]["lastUpdated"].as_str()).max().unwrap();
        let real = format!("/fhir/Task?owner=Organization/agency&_lastUpdated=gt{newest}");
        let newer = product.ask("agency", "GET", &real, "").await;
        let since = newer["meta"]["lastUpdated"].as_str().unwrap().to_string();
        for (what, path) in [
            ("later than ever", path.to_string()),
            ("since the last answer", format!("/fhir/Task?owner=Organization/agency&_lastUpdated=gt{since}")),
        ] {
            let (mine, theirs) = in_turn(
                size.rounds,
                (&product.server, 8, always("GET", &path, "agency", ""), size.lasting()),
                (hello, 8, always("GET", "/hello", "", ""), size.lasting()),
            )
            .await;
            report.ratio("P6", &format!("{what}, c=8"), (&mine, "D1", &theirs), 4.0, 2.0);
        }
    }
}

async fn updates(report: &mut Report, size: &Size, ideal: &Server, product: &Product) {
    report.heading("P7  a target's status update, and the source's Task in the same commit");
    for connections in [8, 32] {
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..size.rounds {
            product.seed(size.writes).await;
            let tasks = product.open_tasks(size.writes).await;
            let body = tasks[0].to_string();
            let until = Until { count: tasks.len(), ..size.counting() };
            mine.push(product.server.round(connections, &Product::accepts(tasks), until).await);
            theirs.push(ideal.round(connections, &always("POST", "/Task", "", &body), until).await);
        }
        let (mine, theirs) = (middle(mine), middle(theirs));
        report.ratio("P7", &format!("both Tasks, c={connections}"), (&mine, "D3", &theirs), 1.8, 1.8);
    }
}

/// Referrals a second from the POST at the gateway to the Task at the pantry's server.
async fn round_trip(report: &mut Report, size: &Size, product: &Product, world: &World, on: &str) {
    let count = size.writes * 2;
    let before = world.tasks.load(Ordering::SeqCst);
    let cpu = product.server.cpu();
    let began = Instant::now();
    let until = Until { time: Duration::from_secs(30), count };
    let seen = load(&product.server.address, 16, &product.referrals("Organization/pantry"), until, false, None).await;
    let taken = seen.rate();
    while world.tasks.load(Ordering::SeqCst) - before < seen.answered && began.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let arrived = world.tasks.load(Ordering::SeqCst) - before;
    let cpu = (product.server.cpu() - cpu).as_secs_f64() * 1e6 / count as f64;
    report.note(&format!(
        "{on}: {arrived} of {count} referrals at the target, {:.0}/s end to end (taken in at {taken:.0}/s), {cpu:.0} µs of CPU each",
        arrived as f64 / began.elapsed().as_secs_f64()
    ));
}

/// P11, idle and beside writes: name, writes a second, and the bounds of p50 and p99 in milliseconds.
pub async fn latency(
    report: &mut Report,
    what: &str,
    quick: bool,
    states: &[(&str, f64, f64, f64)],
    product: &Product,
    world: &mut World,
) {
    report.heading("P11 from the target's PUT to the source's notification");
    let extension = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content";
    let subscription = json!({"resourceType": "Subscription", "status": "requested", "reason": "r",
        "criteria": "http://hl7.org/fhir/us/sdoh-clinicalcare/SubscriptionTopic/Task",
        "channel": {"type": "rest-hook", "endpoint": format!("http://{}/hook", world.address),
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": extension, "valueCode": "id-only"}]}}});
    let made = product.ask("clinic", "POST", "/fhir/Subscription", &subscription.to_string()).await;
    let path = format!("/fhir/Subscription/{}", made["id"].as_str().unwrap());
    let began = Instant::now();
    while product.ask("clinic", "GET", &path, "").await["status"] != "active" {
        assert!(began.elapsed() < Duration::from_secs(20), "the handshake failed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = if quick { 40 } else { 150 };
    for &(name, rate, half, most) in states {
        product.seed(count).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let accepts = Product::accepts(product.open_tasks(count).await);
        let mut draft = product.task("ServiceRequest/x", "Organization/agency");
        draft["focus"] = json!({"reference": product.service_requests(1).await[0]});
        draft["status"] = json!("draft");
        let background = async {
            if rate > 0.0 {
                let (drafts, _) = product.kept_draft(&draft);
                let until = Until { time: Duration::from_millis(count as u64 * 15), count: usize::MAX };
                Some(load(&product.server.address, 16, &drafts, until, false, Some(rate)).await)
            } else {
                None
            }
        };
        let measured = async {
            let mut connection = Connection::open(&product.server.address).await.unwrap();
            let (mut whole, mut after) = (Vec::new(), Vec::new());
            while world.heard.try_recv().is_ok() {}
            for number in 0..count {
                let sent = Instant::now();
                let (status, _) = connection.ask(&accepts(number)).await.unwrap();
                let answered = Instant::now();
                assert_eq!(status, 200);
                let Ok(Some((heard, _))) = tokio::time::timeout(Duration::from_secs(5), world.heard.recv()).await
                else {
                    continue;
                };
                whole.push(heard - sent);
                after.push(heard.saturating_duration_since(answered));
                tokio::time::sleep(Duration::from_millis(8)).await;
            }
            (whole, after)
        };
        let (load, (mut whole, mut after)) = tokio::join!(background, measured);
        whole.sort_unstable();
        after.sort_unstable();
        let at =
            |list: &[Duration], share: f64| list.get((list.len() as f64 * share) as usize).copied().unwrap_or_default();
        let (p50, p99) = (at(&after, 0.5), at(&after, 0.99));
        let written = load.map_or(String::new(), |seen: Seen| format!(", {:.0} writes/s beside it", seen.rate()));
        let shown = format!(
            "{} of {count} heard; from the answer p50 {} p99 {}; from the PUT p50 {} p99 {}{written}",
            after.len(),
            ms(p50),
            ms(p99),
            ms(at(&whole, 0.5)),
            ms(at(&whole, 0.99))
        );
        let met = after.len() == count && p50.as_secs_f64() * 1e3 <= half && p99.as_secs_f64() * 1e3 <= most;
        report.line(
            "P11",
            &format!("{what}{name}"),
            &shown,
            &ms(p50),
            &format!("p50 ≤ {half} ms, p99 ≤ {most} ms"),
            met,
        );
    }
}

async fn group_commit(report: &mut Report, size: &Size, folder: &Path, world: &World) {
    report.heading("P13 group commit");
    let (Some(full), Some(normal)) = (fsync::library(folder, false), fsync::library(folder, true)) else {
        report.note("left out: there is no C compiler for the library that counts syncs");
        return;
    };
    let url = |name: &str| format!("sqlite://{}", file(folder, name));
    let full = Product::fresh(&url("full.db"), folder, &world.address, &full).await;
    let normal = Product::fresh(&url("normal.db"), folder, &world.address, &normal).await;
    let (kept, _) = full.kept();
    let (other, _) = normal.kept();
    for connections in [1, 32, 128] {
        let until = Until { count: size.writes * if connections == 1 { 1 } else { 4 }, ..size.counting() };
        let (mut of_full, mut of_normal, mut syncs, mut answered) = (Vec::new(), Vec::new(), 0, 0);
        for _ in 0..size.rounds.max(3) {
            let before = fsync::counted(folder, false);
            of_full.push(full.server.round(connections, &kept, until).await);
            syncs += fsync::counted(folder, false) - before;
            answered += of_full.last().map_or(0, |round| round.answered);
            of_normal.push(normal.server.round(connections, &other, until).await);
        }
        let rate = |rounds: &[Round]| median(rounds.iter().map(|round| round.rate).collect());
        let (full, normal) = (rate(&of_full), rate(&of_normal));
        let round = middle(of_full);
        let per_sync = answered as f64 / syncs.max(1) as f64;
        let shown = format!("{answered} transactions, {full:.0}/s, p50 {}", ms(round.p50));
        let what = format!("transactions per fsync, c={connections}");
        match connections {
            1 => report.line("P13", &what, &shown, &format!("{per_sync:.2}"), "≤ 1 fsync per commit", per_sync >= 0.98),
            128 => report.line("P13", &what, &shown, &format!("{per_sync:.1}"), "≥ 20", per_sync >= 20.0),
            _ => report.note(&format!("{what}: {shown} = {per_sync:.1}")),
        }
        if connections > 1 {
            let ratio = full / normal;
            let shown = format!("FULL {full:.0}/s, NORMAL {normal:.0}/s");
            let what = format!("FULL against NORMAL, c={connections}");
            report.line("P13", &what, &shown, &format!("{ratio:.2}×"), "≥ 0.9×", ratio >= 0.9);
        }
    }
}

async fn on_postgres(report: &mut Report, size: &Size, folder: &Path, world: &World, task: &str) {
    report.heading("P14 PostgreSQL");
    let Some(cluster) = Cluster::start() else {
        report.note("left out: PostgreSQL is not installed");
        return;
    };
    cluster.create("bare").await;
    cluster.create("product").await;
    let (port, trips) = postgres::counting_proxy(cluster.port).await;
    let direct = Product::fresh(&cluster.url("product"), folder, &world.address, &Vec::new()).await;
    let draft = draft_referral(&direct);
    for connections in [8_u32, 32] {
        let (mut drafts, mut relayed, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..size.rounds {
            let (taken_in, sent_on) =
                (always("POST", "/fhir", "clinic", &draft), direct.referrals("Organization/agency"));
            drafts.push(direct.server.round(connections as usize, &taken_in, size.lasting()).await);
            relayed.push(direct.server.round(connections as usize, &sent_on, size.lasting()).await);
            theirs.push(postgres::one_statement(&cluster, connections.min(16), size.time, task).await);
        }
        let theirs = median(theirs);
        for (what, mine) in [("taken in as drafts", middle(drafts)), ("relayed", middle(relayed))] {
            let ratio = mine.rate / theirs;
            let shown = format!("{:.0}/s (p50 {}) / D7 {theirs:.0}/s", mine.rate, ms(mine.p50));
            let what = format!("referrals {what}, c={connections}");
            report.line("P14", &what, &shown, &format!("{ratio:.2}×"), "≥ 0.8×", ratio >= 0.8);
        }
    }
    round_trip(report, size, &direct, world, "PostgreSQL").await;
    drop(direct);
    cluster.create("counted").await;
    let url = format!("postgres://loopgate@127.0.0.1:{port}/counted?sslmode=disable");
    let product = Product::fresh(&url, folder, &world.address, &Vec::new()).await;
    let count = 40;
    let relayed = product.referral("Organization/agency").to_string();
    for (what, body) in [("taken in as a draft", draft_referral(&product)), ("relayed", relayed)] {
        // The first of its kind prepares the statements; idle looks of the worker are taken off.
        product.ask("clinic", "POST", "/fhir", &body).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let before = trips.load(Ordering::SeqCst);
        for _ in 0..count {
            product.ask("clinic", "POST", "/fhir", &body).await;
        }
        let each = (trips.load(Ordering::SeqCst) - before) as f64 / f64::from(count);
        let shown = "statements answered, the worker's looks included";
        report.line(
            "P14",
            &format!("round trips per referral, {what}"),
            shown,
            &format!("{each:.0}"),
            "≤ 3",
            each <= 3.0,
        );
    }
}
