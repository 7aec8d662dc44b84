//! The denominators: servers that do what the database and HTTP cost and nothing else. No authentication, no
//! validation, no decisions. Each runs in a process of its own (this program again), so that its CPU time is its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, SqlitePool};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

const INDEX_ROWS: usize = 13;
const GROUP: usize = 256;

const SCHEMA: &str = "
create table res (type text not null, id text not null, version integer not null, updated integer not null,
    primary key (type, id));
create table hist (type text not null, id text not null, version integer not null, updated integer not null,
    content text not null, primary key (type, id, version));
create table idx (type text not null, id text not null, parameter text not null, value text not null, updated integer not null);
create index idx_resource on idx (type, id, parameter, value);
create index idx_value on idx (type, parameter, value, updated, id);
create table outbox (id text not null primary key, subject text not null, due_at integer not null);
create table audit (id text not null primary key, at integer not null, type text not null, resource text not null,
    version integer not null);
create index audit_resource on audit (type, resource, at);";

/// What one request has to store.
struct Write {
    kind: String,
    id: String,
    content: String,
    index: Vec<(String, String)>,
}

type Job = (Vec<Write>, oneshot::Sender<()>);

#[derive(Clone)]
struct Ideal {
    writer: mpsc::Sender<Job>,
    readers: SqlitePool,
}

/// Serves until the process is killed; says its port on standard output.
pub async fn serve(what: &str, file: &str) {
    let router = match what {
        "hello" => hello(),
        _ => ideal(file, what == "ideal-normal", what != "ideal-untold").await,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    axum::serve(listener, router).await.unwrap();
}

/// What the sink has swallowed.
static SUNK: AtomicUsize = AtomicUsize::new(0);

fn hello() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route(
            "/sink",
            post(async |_: Bytes| {
                SUNK.fetch_add(1, Ordering::SeqCst);
            }),
        )
        .route("/count", get(async || SUNK.load(Ordering::SeqCst).to_string()))
        .route(
            "/echo",
            post(|body: Bytes| async move {
                let value: Value = serde_json::from_slice(&body).unwrap();
                (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/fhir+json")], value.to_string())
            }),
        )
}

/// `told`: whether a change has its rows in the audit and in the outbox.
async fn ideal(file: &str, normal: bool, told: bool) -> Router {
    let sync = if normal { SqliteSynchronous::Normal } else { SqliteSynchronous::Full };
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(sync)
        .statement_cache_capacity(256)
        .pragma("wal_autocheckpoint", "8000")
        .pragma("cache_size", "-65536");
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&mut connection).await.unwrap();
    let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let (writer, mut jobs) = mpsc::channel::<Job>(1024);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while jobs.recv_many(&mut batch, GROUP).await > 0 {
            sqlx::raw_sql("begin immediate").execute(&mut connection).await.unwrap();
            for (writes, _) in &batch {
                store(&mut connection, writes, told).await.unwrap();
            }
            sqlx::raw_sql("commit").execute(&mut connection).await.unwrap();
            for (_, done) in batch.drain(..) {
                let _ = done.send(());
            }
        }
    });
    Router::new()
        .route("/Task", post(create).get(search))
        .route("/Task/{id}", get(read))
        .route("/", post(transaction))
        .with_state(Arc::new(Ideal { writer, readers }))
}

async fn store(connection: &mut SqliteConnection, writes: &[Write], told: bool) -> Result<(), sqlx::Error> {
    let now = micros();
    for one in writes {
        sqlx::query("insert into res values ($1, $2, 1, $3)")
            .bind(&one.kind)
            .bind(&one.id)
            .bind(now)
            .execute(&mut *connection)
            .await?;
        sqlx::query("insert into hist values ($1, $2, 1, $3, $4)")
            .bind(&one.kind)
            .bind(&one.id)
            .bind(now)
            .bind(&one.content)
            .execute(&mut *connection)
            .await?;
        let mut text = String::from("insert into idx values ");
        for number in 0..one.index.len() {
            let comma = if number == 0 { "" } else { ", " };
            text.push_str(&format!("{comma}($1, $2, ${}, ${}, $3)", number * 2 + 4, number * 2 + 5));
        }
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(&one.kind).bind(&one.id).bind(now);
        for (name, value) in &one.index {
            query = query.bind(name).bind(value);
        }
        query.execute(&mut *connection).await?;
    }
    if let Some(one) = writes.last().filter(|_| told) {
        sqlx::query("insert into outbox values ($1, $2, $3)")
            .bind(loopgate::id::new())
            .bind(&one.id)
            .bind(now)
            .execute(&mut *connection)
            .await?;
        sqlx::query("insert into audit values ($1, $2, $3, $4, 1)")
            .bind(loopgate::id::new())
            .bind(now)
            .bind(&one.kind)
            .bind(&one.id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn micros() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_micros()).unwrap_or(0)
}

/// An id, meta and thirteen index rows: owner and status among them, the rest as many as a Task's.
fn prepared(mut value: Value) -> Write {
    let id = loopgate::id::new();
    value["id"] = json!(id);
    value["meta"]["versionId"] = json!("1");
    let kind = value["resourceType"].as_str().unwrap_or("").to_string();
    let owner = value["owner"]["reference"].as_str().unwrap_or("").to_string();
    let status = value["status"].as_str().unwrap_or("").to_string();
    let mut index = vec![("owner".to_string(), owner), ("status".to_string(), status)];
    index.extend((index.len()..INDEX_ROWS).map(|number| (format!("parameter-{number}"), format!("Some/value-{id}"))));
    Write { kind, id, content: value.to_string(), index }
}

async fn committed(ideal: &Ideal, writes: Vec<Write>) {
    let (done, wait) = oneshot::channel();
    ideal.writer.send((writes, done)).await.unwrap();
    wait.await.unwrap();
}

fn answer(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/fhir+json")], body).into_response()
}

/// `?versions=n` stores as many resources in the same transaction: what brokering writes, without deciding anything.
async fn create(State(ideal): State<Arc<Ideal>>, RawQuery(query): RawQuery, body: Bytes) -> Response {
    let value: Value = serde_json::from_slice(&body).unwrap();
    let versions = query.and_then(|text| text.strip_prefix("versions=")?.parse().ok()).unwrap_or(1);
    let mut writes: Vec<Write> = (1..versions).map(|_| prepared(value.clone())).collect();
    writes.push(prepared(value));
    let content = writes.last().map(|one| one.content.clone()).unwrap_or_default();
    committed(&ideal, writes).await;
    answer(StatusCode::CREATED, content)
}

async fn transaction(State(ideal): State<Arc<Ideal>>, body: Bytes) -> Response {
    let mut value: Value = serde_json::from_slice(&body).unwrap();
    let entries = value["entry"].as_array_mut().unwrap();
    let writes: Vec<Write> = entries.iter_mut().map(|entry| prepared(entry["resource"].take())).collect();
    let list: Vec<String> =
        writes.iter().map(|one| format!(r#"{{"resource":{},"response":{{"status":"201"}}}}"#, one.content)).collect();
    committed(&ideal, writes).await;
    answer(StatusCode::OK, format!(r#"{{"resourceType":"Bundle","entry":[{}]}}"#, list.join(",")))
}

async fn read(State(ideal): State<Arc<Ideal>>, Path(id): Path<String>) -> Response {
    let text = "select h.content from res r join hist h on h.type = r.type and h.id = r.id and h.version = r.version
        where r.type = 'Task' and r.id = $1";
    match sqlx::query(text).bind(id).fetch_optional(&ideal.readers).await.unwrap() {
        Some(row) => answer(StatusCode::OK, row.get(0)),
        None => answer(StatusCode::NOT_FOUND, String::new()),
    }
}

/// The newest twenty Tasks of the owner in the query, in this status.
async fn search(State(ideal): State<Arc<Ideal>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let value =
        |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_string));
    let text = "select h.content from idx o
        cross join idx s on s.type = o.type and s.id = o.id and s.parameter = 'status' and s.value = $2
        cross join res r on r.type = o.type and r.id = o.id
        cross join hist h on h.type = r.type and h.id = r.id and h.version = r.version
        where o.type = 'Task' and o.parameter = 'owner' and o.value = $1 order by o.updated desc, o.id desc limit 20";
    let rows = sqlx::query(text)
        .bind(value("owner").unwrap_or_default())
        .bind(value("status").unwrap_or_default())
        .fetch_all(&ideal.readers)
        .await
        .unwrap();
    let mut out = String::from(r#"{"resourceType":"Bundle","type":"searchset","entry":["#);
    for (number, row) in rows.iter().enumerate() {
        out.push_str(if number == 0 { r#"{"resource":"# } else { r#",{"resource":"# });
        out.push_str(&row.get::<String, _>(0));
        out.push('}');
    }
    out.push_str("]}");
    answer(StatusCode::OK, out)
}
