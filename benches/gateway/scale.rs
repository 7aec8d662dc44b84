//! Memory, start-up, disk and speed with many referrals stored. One referral goes through the product; its rows are then copied in
//! the database with other ids, which gives the state that as many referrals would have left.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::client::{Until, request};
use super::goals::{Size, always, file};
use super::product::Product;
use super::runner::{Report, in_turn, ms};

/// The columns that hold ids, and texts that contain them, by table.
const TABLES: &[&str] = &[
    "resource",
    "resource_version",
    "search_index",
    "resource_grant",
    "referral",
    "relay",
    "link",
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

/// Every operation beside a tenth of the referrals and beside all of them: what an index answers costs the same.
pub async fn invariance(report: &mut Report, size: &Size, folder: &Path, world: &str) {
    let (few, many) = (size.large / 10, size.large);
    report.heading(&format!("P15, P20  {many} referrals stored, beside {few}"));
    let mut products = Vec::new();
    for count in [few, many] {
        let path = file(folder, &format!("of-{count}.db"));
        let product = Product::fresh(&format!("sqlite://{path}"), folder, world, &Vec::new()).await;
        product.seed(1).await;
        let task = product.open_tasks(1).await.remove(0)["id"].as_str().unwrap().to_string();
        drop_on(&product).await;
        let product = stop(product).await;
        copy(&path, count).await;
        if count == many {
            disk(report, &path, count).await;
        }
        products.push((product.restart().await, task));
    }
    let owner = "/fhir/Task?owner=Organization/agency&status=requested";
    let asked = [
        ("read", None),
        ("page of 20", Some("&_count=20")),
        ("page of 20, _lastUpdated", Some("&_lastUpdated=gt2020-01-01&_count=20")),
        ("page of 20 and _include", Some("&_include=Task:focus&_count=20")),
        ("empty poll", Some("&_lastUpdated=gt2099-01-01")),
    ];
    let [(few, first), (many, other)] = products.as_slice() else { return };
    let until = Until { time: size.time, count: usize::MAX };
    for (what, query) in asked {
        let path = |task: &str| query.map_or_else(|| format!("/fhir/Task/{task}"), |query| format!("{owner}{query}"));
        let ask = |task: &str| always("GET", &path(task), "agency", "");
        let (mine, theirs) =
            in_turn(size.rounds, (&many.server, 8, ask(other), until), (&few.server, 8, ask(first), until)).await;
        report.ratio("P15", &format!("{what}, c=8"), (&mine, "at a tenth", &theirs), 1.3, 1.3);
    }
    let (mine, theirs) = in_turn(
        size.rounds,
        (&many.server, 8, many.referrals("Organization/agency"), size.counting()),
        (&few.server, 8, few.referrals("Organization/agency"), size.counting()),
    )
    .await;
    report.ratio("P15", "referral taken in and relayed, c=8", (&mine, "at a tenth", &theirs), 1.3, 1.3);
}

/// What the file holds, by table with its indexes.
async fn disk(report: &mut Report, path: &str, referrals: usize) {
    let mut db = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
    let versions: i64 = sqlx::query("select count(*) from resource_version").fetch_one(&mut db).await.unwrap().get(0);
    let text = "select m.tbl_name, sum(s.pgsize) from dbstat s join sqlite_schema m on m.name = s.name
        where s.aggregate = true group by 1 order by 2 desc limit 5";
    if let Ok(rows) = sqlx::query(text).fetch_all(&mut db).await {
        let each = |row: &sqlx::sqlite::SqliteRow| {
            format!("{} {:.1}", row.get::<String, _>(0), row.get::<i64, _>(1) as f64 / 1e3 / referrals as f64)
        };
        let tables: Vec<String> = rows.iter().map(each).collect();
        report.note(&format!("kB a referral by table with its indexes: {}", tables.join(", ")));
    }
    let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len()) as f64;
    let each = bytes / 1e3 / versions as f64;
    report.line(
        "P20",
        "disk a version, indexes, grants, audit and evidence included",
        &format!("{:.1} kB a referral, {versions} versions", bytes / 1e3 / referrals as f64),
        &format!("{each:.1} kB"),
        "≤ 1.0 kB",
        each <= 1.0,
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

/// Whether a column holds numbers of resources.
fn is_number(table: &str, column: &str) -> bool {
    [("resource", "number"), ("search_index", "resource")].contains(&(table, column))
}

/// The id of this copy's resource, as [`copy`] makes it.
pub fn copied(id: &str, number: usize) -> String {
    format!("{}{number:06x}{}", &id[..10], &id[16..])
}

/// The Tasks and ServiceRequests in the database, as they were made: types and ids.
pub async fn made(path: &str) -> Vec<(String, String)> {
    let mut db = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
    let text = "select type, id from resource where type in ('Task', 'ServiceRequest') order by created, id";
    sqlx::query(text).fetch_all(&mut db).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// So many more of the one referral that is in the database.
pub async fn copy(path: &str, count: usize) -> i64 {
    let options =
        SqliteConnectOptions::new().filename(path).synchronous(SqliteSynchronous::Off).pragma("cache_size", "-262144");
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let ids: Vec<String> = made(path).await.into_iter().map(|(_, id)| id).collect();
    // Their numbers, and where those of the copies begin.
    let told = sqlx::query(
        "select min(number), max(number), (select max(number) from resource), group_concat(number) from resource
         where type in ('Task', 'ServiceRequest')",
    )
    .fetch_one(&mut db)
    .await
    .unwrap();
    let (first, last, top): (i64, i64, i64) = (told.get(0), told.get(1), told.get(2));
    let numbers: String = told.get(3);
    // A copy's id may be that of what it is made from. What versions say is packed: a copy says the id that it is a copy of, which nobody here looks at.
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
        // An id has its copy's number behind its time; so they stay in order, as made ones do.
        let changed: Vec<String> = columns
            .iter()
            .map(|(name, kind, key)| {
                if is_number(table, name) {
                    let copied = format!("t.{name} + {} + (n.n - 1) * {}", top + 1 - first, last + 1 - first);
                    return format!("case when t.{name} in ({numbers}) then {copied} else t.{name} end");
                }
                if kind != "TEXT" && kind != "text" {
                    return format!("t.{name}");
                }
                match *table {
                    "audit" if *key == 1 => {
                        return format!("substr(t.{name}, 1, 28) || printf('%05x', n.n) || substr(t.{name}, 34, 3)");
                    }
                    "evidence" | "delivery" if *key == 1 => {
                        return format!("substr(t.{name}, 1, 10) || printf('%06x', n.n) || substr(t.{name}, 17, 4)");
                    }
                    _ => {}
                }
                ids.iter().fold(format!("t.{name}"), |text, id| {
                    let (start, end) = (&id[..10], &id[16..]);
                    format!("replace({text}, '{id}', '{start}' || printf('%06x', n.n) || '{end}')")
                })
            })
            .collect();
        let text: Vec<String> = columns.iter().map(|(name, _, _)| format!("coalesce(t.{name}, '')")).collect();
        let by_number = names.iter().filter(|name| is_number(table, name));
        let any = ids.iter().map(|id| format!("instr({}, '{id}') > 0", text.join(" || ")));
        let any: Vec<String> = any.chain(by_number.map(|name| format!("{name} in ({numbers})"))).collect();
        let sql = format!(
            "with recursive n(n) as (select 1 union all select n + 1 from n where n < {count}),
             t as materialized (select * from {table} t where {})
             insert or ignore into {table} ({}) select {} from n cross join t",
            any.join(" or "),
            names.join(", "),
            changed.join(", ")
        );
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
        rows += i64::try_from(done.rows_affected()).unwrap();
    }
    let next = "update resource_number set next = (select max(number) + 1 from resource)";
    sqlx::raw_sql(next).execute(&mut db).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut db).await.unwrap();
    sqlx::raw_sql("pragma wal_checkpoint(truncate)").execute(&mut db).await.unwrap();
    rows
}
