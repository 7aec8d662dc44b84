//! PostgreSQL for a while: a throw-away cluster with its durability on, the one-statement referral (D7), and a proxy
//! that counts round trips.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A running cluster; stopped and removed when the pipe closes, however this program ends.
pub struct Cluster {
    pub port: u16,
    _open: ChildStdin,
}

const SCRIPT: &str = r#"
trap '' INT TERM HUP
programs=$1; port=$2
place=$(mktemp -d /tmp/loopgate-bench.XXXXXX) || exit 1
"$programs/initdb" -D "$place/tables" -U loopgate --auth=trust --encoding=UTF8 --locale=C --data-checksums >"$place/log" 2>&1
printf "listen_addresses = '127.0.0.1'\nmax_connections = 200\nshared_buffers = '512MB'\nmax_wal_size = '4GB'\n" >>"$place/tables/postgresql.conf"
"$programs/pg_ctl" -D "$place/tables" -w -l "$place/log" -o "-p $port -k $place" start >>"$place/log" 2>&1 && echo "port $port"
tail -n 5 "$place/log"
exec >/dev/null
cat >/dev/null
"$programs/pg_ctl" -D "$place/tables" -m immediate stop
rm -rf "$place"
"#;

impl Cluster {
    /// None where PostgreSQL is not installed.
    pub fn start() -> Option<Cluster> {
        let programs = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs: PathBuf =
            programs.map(|entry| entry.path().join("bin")).filter(|at| at.join("initdb").is_file()).max()?;
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let mut command = Command::new(if is_root { "runuser" } else { "sh" });
        if is_root {
            command.args(["-u", "postgres", "--", "sh"]);
        }
        command.args(["-c", SCRIPT, "sh"]).arg(programs).arg(port.to_string()).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let (open, said) = (child.stdin.take()?, child.stdout.take()?);
        let started = BufReader::new(said).lines().map_while(Result::ok).any(|line| line == format!("port {port}"));
        started.then_some(Cluster { port, _open: open })
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://loopgate@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn create(&self, database: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("create database {database}"))).execute(&mut connection).await.unwrap();
    }
}

const TABLES: &str = "
create table res (type text not null, id text not null, version bigint not null, updated bigint not null, primary key (type, id));
create table hist (type text not null, id text not null, version bigint not null, content text not null, primary key (type, id, version));
create table idx (type text not null, id text not null, parameter text not null, value text not null, updated bigint not null);
create index idx_resource on idx (type, id);
create index idx_value on idx (type, parameter, value, updated, id);
create table outbox (id text not null primary key, subject text not null, due_at bigint not null);
create table audit (id text not null primary key, at bigint not null, type text not null, resource text not null, version bigint not null);
create index audit_resource on audit (type, resource, at);";

/// D7: SR and Task with history, 16 index rows, 2 outbox and 2 audit rows in one statement.
const REFERRAL: &str = "
with r as (insert into res values ('ServiceRequest', $1, 1, $3), ('Task', $2, 1, $3)),
h as (insert into hist values ('ServiceRequest', $1, 1, $4), ('Task', $2, 1, $5)),
i as (insert into idx select case when n < 8 then 'ServiceRequest' else 'Task' end, case when n < 8 then $1 else $2 end,
    'parameter-' || (n % 8), 'Some/value-' || $2, $3 from generate_series(0, 15) n),
o as (insert into outbox values ($1, $1, $3), ($2, $2, $3))
insert into audit values ($1, $3, 'ServiceRequest', $1, 1), ($2, $3, 'Task', $2, 1)";

/// D7's rate and the clients' CPU is ours; measured over so many connections for a while.
pub async fn one_statement(cluster: &Cluster, connections: u32, time: Duration, content: &str) -> f64 {
    let pool: PgPool = PgPoolOptions::new().max_connections(connections).connect(&cluster.url("bare")).await.unwrap();
    let exists: (bool,) = sqlx::query_as("select to_regclass('res') is not null").fetch_one(&pool).await.unwrap();
    if !exists.0 {
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
    }
    let done = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (pool, done, content) = (pool.clone(), done.clone(), content.to_string());
        tasks.push(tokio::spawn(async move {
            while began.elapsed() < time {
                let query = sqlx::query(REFERRAL).bind(loopgate::id::new()).bind(loopgate::id::new());
                query.bind(1_i64).bind(&content).bind(&content).execute(&pool).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for task in tasks {
        let _ = task.await;
    }
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Stands between the product and the cluster and counts what is answered: a Sync or a simple query is one round trip.
pub async fn counting_proxy(port: u16) -> (u16, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mine = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut held: Vec<u8> = Vec::new();
                let mut buffer = vec![0; 1 << 16];
                loop {
                    let Ok(length @ 1..) = from_client.read(&mut buffer).await else { return };
                    if to_server.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                    held.extend_from_slice(&buffer[..length]);
                    // Start-up messages have no type and begin with a zero byte of their length.
                    while let Some(first) = held.first().copied() {
                        let start = usize::from(first != 0);
                        let Some(bytes) = held.get(start..start + 4) else { break };
                        let size = start + u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
                        if held.len() < size {
                            break;
                        }
                        if matches!(first, b'S' | b'Q') {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        held.drain(..size);
                    }
                }
            });
        }
    });
    (mine, count)
}
