//! Memory and start-up with many referrals stored. One referral goes through the product; its rows are then copied in
//! the database with other ids, which gives the state that as many referrals would have left.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::client::{Until, request};
use super::goals::{Size, file};
use super::product::Product;
use super::runner::{Report, ms};

/// The columns that hold ids, and texts that contain them, by table.
const TABLES: &[&str] = &[
    "resource",
    "resource_version",
    "search_index",
    "resource_grant",
    "referral",
    "relay",
    "delivery",
    "audit",
    "evidence",
];

pub async fn measure(report: &mut Report, size: &Size, folder: &Path, world: &str, empty: (f64, Duration)) {
    report.heading(&format!("P18, P19  memory and start-up with {} referrals stored", size.large));
    let path = file(folder, "large.db");
    let product = Product::fresh(&format!("sqlite://{path}"), folder, world, &Vec::new()).await;
    product.seed(1).await;
    let template = product.open_tasks(1).await;
    drop_on(&product).await;
    let began = Instant::now();
    let product = stop(product).await;
    let rows = copy(&path, size.large).await;
    let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    report.note(&format!(
        "copied in {} s: {rows} rows, {} MB, {:.1} kB a referral",
        began.elapsed().as_secs(),
        bytes / 1_000_000,
        bytes as f64 / 1e3 / size.large as f64
    ));
    let product = product.restart().await;
    let (memory, start) = (product.server.memory(), product.start);
    report.line(
        "P18",
        "memory at rest, empty",
        "resident after start",
        &format!("{:.0} MB", empty.0),
        "≤ 40 MB",
        empty.0 <= 40.0,
    );
    report.line(
        "P18",
        &format!("memory at rest, {} referrals", size.large),
        "resident after start",
        &format!("{memory:.0} MB"),
        "≤ 40 MB",
        memory <= 40.0,
    );
    report.line(
        "P19",
        "start to first 200, empty",
        "process, migration, socket",
        &ms(empty.1),
        "≤ 150 ms",
        empty.1.as_millis() <= 150,
    );
    report.line(
        "P19",
        &format!("start to first 200, {} referrals", size.large),
        "",
        &ms(start),
        "≤ 1 s",
        start.as_millis() <= 1_000,
    );
    let id = template[0]["id"].as_str().unwrap();
    let load = [
        ("read", request("GET", &format!("/fhir/Task/{id}"), "agency", &[], "")),
        (
            "search page of 20",
            request("GET", "/fhir/Task?owner=Organization/agency&status=requested&_count=20", "agency", &[], ""),
        ),
        (
            "empty poll",
            request(
                "GET",
                "/fhir/Task?owner=Organization/agency&status=requested&_lastUpdated=gt2099-01-01",
                "agency",
                &[],
                "",
            ),
        ),
        ("referral", request("POST", "/fhir", "clinic", &[], &product.referral("Organization/agency").to_string())),
    ];
    for (what, bytes) in load {
        let until = Until { time: size.time, count: usize::MAX };
        let requests: super::client::Requests = std::sync::Arc::new(move |_| bytes.clone());
        let round = product.server.round(8, &requests, until).await;
        report.note(&format!(
            "{what} at this size, c=8: {:.0} µs, {:.0}/s, p99 {}",
            round.cpu,
            round.rate,
            ms(round.p99)
        ));
    }
    let memory = product.server.memory();
    report.line(
        "P18",
        "memory under load",
        "resident after the above",
        &format!("{memory:.0} MB"),
        "≤ 200 MB",
        memory <= 200.0,
    );
}

/// Lets what is under way end.
async fn drop_on(product: &Product) {
    let _ = product.ask("root", "GET", "/fhir/metadata", "").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
}

async fn stop(product: Product) -> Product {
    // A new process at once, so that the address stays with somebody; it is idle while the rows are copied.
    product.restart().await
}

async fn copy(path: &str, count: usize) -> i64 {
    let options =
        SqliteConnectOptions::new().filename(path).synchronous(SqliteSynchronous::Off).pragma("cache_size", "-262144");
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let ids: Vec<String> =
        sqlx::query("select id from resource where type in ('Task', 'ServiceRequest') order by created, id")
            .fetch_all(&mut db)
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
    sqlx::raw_sql("begin immediate").execute(&mut db).await.unwrap();
    let mut rows = 0;
    for table in TABLES {
        let columns = sqlx::query(AssertSqlSafe(format!("select name, type, pk from pragma_table_info('{table}')")))
            .fetch_all(&mut db)
            .await
            .unwrap();
        let columns: Vec<(String, String, i64)> =
            columns.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let names: Vec<&str> = columns.iter().map(|(name, _, _)| name.as_str()).collect();
        // Ids end in the number of the copy; so they stay in order and differ in the last places, as made ones do.
        let changed: Vec<String> = columns
            .iter()
            .map(|(name, kind, key)| {
                if kind != "TEXT" && kind != "text" {
                    return format!("t.{name}");
                }
                if *key == 1 && ["audit", "evidence", "delivery"].contains(table) {
                    return format!("substr(t.{name}, 1, 28) || printf('%08x', n.n) || substr(t.{name}, 34, 3)");
                }
                ids.iter().fold(format!("t.{name}"), |text, id| {
                    let (start, end) = (&id[..28], &id[33..]);
                    format!("replace({text}, '{id}', '{start}' || printf('%08x', n.n) || '{end}')")
                })
            })
            .collect();
        let text: Vec<String> = columns.iter().map(|(name, _, _)| format!("coalesce(t.{name}, '')")).collect();
        let any: Vec<String> = ids.iter().map(|id| format!("instr({}, '{id}') > 0", text.join(" || "))).collect();
        let sql = format!(
            "with recursive n(n) as (select 1 union all select n + 1 from n where n < {count}),
             t as materialized (select * from {table} t where {})
             insert into {table} ({}) select {} from n cross join t",
            any.join(" or "),
            names.join(", "),
            changed.join(", ")
        );
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
        rows += i64::try_from(done.rows_affected()).unwrap();
    }
    sqlx::raw_sql("commit").execute(&mut db).await.unwrap();
    sqlx::raw_sql("pragma wal_checkpoint(truncate)").execute(&mut db).await.unwrap();
    rows
}
