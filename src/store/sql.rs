//! Connections, transactions and the two dialects behind one text.
//!
//! SQLite group commit: a transaction is a savepoint inside an outer transaction. Whoever ends while others wait for the
//! writer leaves the outer one open for them; whoever ends last, or as the sixty-fourth, commits it for all. `commit`
//! returns when that has happened and is on disk (`synchronous = full`). A transaction that is dropped is rolled back
//! to its savepoint, alone.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, PgPool, Postgres, Row as _, Sqlite, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::error::Error;
use crate::time::{Clock, Timestamp};

/// Most transactions in one commit.
const GROUP: usize = 64;
/// Readers of the embedded database.
const READERS: u32 = 4;
/// Connections to PostgreSQL per gateway.
const CONNECTIONS: u32 = 16;
/// Longest a PostgreSQL write transaction may take; what was stamped longer ago is visible or never will be.
const LONGEST: Duration = Duration::from_secs(5);

/// The migrations, in order; append only.
const MIGRATIONS: &[(i64, &str, &str)] = &[(1, "spine", include_str!("../../migrations/0001_spine.sql"))];

/// A value for a placeholder.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// text
    Text(String),
    /// bigint
    Int(i64),
    /// text that is null
    NoText,
    /// bigint that is null
    NoInt,
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Arg::Text(text.to_string())
    }
}
impl From<String> for Arg {
    fn from(text: String) -> Self {
        Arg::Text(text)
    }
}
impl From<&String> for Arg {
    fn from(text: &String) -> Self {
        Arg::Text(text.clone())
    }
}
impl From<i64> for Arg {
    fn from(number: i64) -> Self {
        Arg::Int(number)
    }
}
impl From<bool> for Arg {
    fn from(flag: bool) -> Self {
        Arg::Int(i64::from(flag))
    }
}
impl From<Timestamp> for Arg {
    fn from(time: Timestamp) -> Self {
        Arg::Int(time.0)
    }
}
impl From<Option<String>> for Arg {
    fn from(text: Option<String>) -> Self {
        text.map_or(Arg::NoText, Arg::Text)
    }
}
impl From<Option<&str>> for Arg {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Arg::NoText, Arg::from)
    }
}
impl From<Option<i64>> for Arg {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Arg::NoInt, Arg::Int)
    }
}
impl From<Option<Timestamp>> for Arg {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Arg::NoInt, Arg::from)
    }
}

/// The arguments of a statement, in the order of its placeholders.
#[macro_export]
#[doc(hidden)]
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::Arg::from($value)),*] };
}

/// A row of either database.
#[derive(Debug)]
pub enum Row {
    /// of SQLite
    Sqlite(SqliteRow),
    /// of PostgreSQL
    Postgres(PgRow),
}

impl Row {
    /// A text column that is not null.
    pub fn text(&self, index: usize) -> Result<String, Error> {
        self.text_or_null(index)?.ok_or_else(|| Error::internal(format!("column {index} is null")))
    }
    /// A text column.
    pub fn text_or_null(&self, index: usize) -> Result<Option<String>, Error> {
        match self {
            Row::Sqlite(row) => row.try_get(index),
            Row::Postgres(row) => row.try_get(index),
        }
        .map_err(Error::internal)
    }
    /// A bigint column that is not null.
    pub fn int(&self, index: usize) -> Result<i64, Error> {
        self.int_or_null(index)?.ok_or_else(|| Error::internal(format!("column {index} is null")))
    }
    /// A bigint column.
    pub fn int_or_null(&self, index: usize) -> Result<Option<i64>, Error> {
        match self {
            Row::Sqlite(row) => row.try_get(index),
            Row::Postgres(row) => row.try_get(index),
        }
        .map_err(Error::internal)
    }
    /// A time column that is not null.
    pub fn time(&self, index: usize) -> Result<Timestamp, Error> {
        self.int(index).map(Timestamp)
    }
    /// A time column.
    pub fn time_or_null(&self, index: usize) -> Result<Option<Timestamp>, Error> {
        Ok(self.int_or_null(index)?.map(Timestamp))
    }
    /// A flag column.
    pub fn flag(&self, index: usize) -> Result<bool, Error> {
        Ok(self.int(index)? != 0)
    }
}

/// The one writer of the embedded database.
#[derive(Debug)]
struct Writer {
    connection: SqliteConnection,
    /// An outer transaction is open.
    open: bool,
    /// A transaction was dropped in the middle; its savepoint is still there.
    dirty: bool,
    /// Who waits for the commit.
    group: Vec<oneshot::Sender<Result<(), String>>>,
}

impl Writer {
    async fn run(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(text).execute(&mut self.connection).await.map(|_| ())
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.clean().await?;
        if !self.open {
            self.run("begin immediate").await?;
            self.open = true;
        }
        self.run("savepoint one").await
    }

    /// Takes back what a dropped transaction left.
    async fn clean(&mut self) -> Result<(), sqlx::Error> {
        if self.dirty {
            self.run("rollback to one; release one").await?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Commits for everybody in the group and tells them.
    async fn commit_group(&mut self) {
        if !self.open {
            return;
        }
        let result = match self.clean().await {
            Ok(()) => self.run("commit").await,
            Err(error) => Err(error),
        };
        let result = result.map_err(|error| error.to_string());
        if result.is_err() {
            // Nothing of the group is stored: the next one starts afresh.
            let _ = self.run("rollback").await;
            self.dirty = false;
        }
        self.open = false;
        for waiting in self.group.drain(..) {
            let _ = waiting.send(result.clone());
        }
    }
}

#[derive(Debug)]
struct Embedded {
    writer: Arc<Mutex<Writer>>,
    waiting: Arc<AtomicUsize>,
    readers: SqlitePool,
}

#[derive(Debug)]
enum Database {
    Embedded(Embedded),
    Postgres(PgPool),
}

/// The database of this gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    database: Arc<Database>,
    clock: Clock,
    /// The last stamp given out: stamps of one gateway always rise.
    last: Arc<AtomicI64>,
    /// When the first of the transactions that are not visible yet was stamped.
    open_since: Arc<std::sync::Mutex<Vec<i64>>>,
}

impl Store {
    /// Opens the database of this URL (`sqlite://file` or `postgres://…`). Does not migrate.
    pub async fn open(url: &str, clock: Clock) -> Result<Store, Error> {
        let database = if url.starts_with("sqlite:") {
            Database::Embedded(Embedded::open(url).await?)
        } else {
            let options = PgConnectOptions::from_str(url).map_err(Error::internal)?;
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(10));
            Database::Postgres(pool.connect_with(options).await.map_err(Error::unavailable)?)
        };
        Ok(Store {
            database: Arc::new(database),
            clock,
            last: Arc::new(AtomicI64::new(0)),
            open_since: Arc::default(),
        })
    }

    /// Brings the schema up to date. Safe to run from several gateways at once.
    pub async fn migrate(&self) -> Result<(), Error> {
        use sqlx::SqlStr;
        use sqlx::migrate::{Migration, MigrationType, Migrator};
        let steps = MIGRATIONS.iter().map(|(version, name, text)| {
            Migration::new(*version, (*name).into(), MigrationType::Simple, SqlStr::from_static(text), false)
        });
        let migrator = Migrator::with_migrations(steps.collect());
        match &*self.database {
            Database::Embedded(embedded) => {
                let mut writer = embedded.writer.lock().await;
                migrator.run(&mut writer.connection).await.map_err(Error::internal)?;
            }
            Database::Postgres(pool) => migrator.run(pool).await.map_err(Error::internal)?,
        }
        let mut reader = self.read().await?;
        let newest = reader.one("select max(updated) from resource", args![]).await?;
        let newest = newest.map(|row| row.int_or_null(0)).transpose()?.flatten().unwrap_or(0);
        self.last.fetch_max(newest, Ordering::SeqCst);
        Ok(())
    }

    /// Whether this gateway is the database's only one, so that what it knows in memory is all there is.
    pub fn is_embedded(&self) -> bool {
        matches!(&*self.database, Database::Embedded(_))
    }

    /// Begins a write transaction.
    pub async fn begin(&self) -> Result<Tx, Error> {
        let connection = match &*self.database {
            Database::Embedded(embedded) => {
                let waiting = Waiting::new(embedded);
                let mut writer = embedded.writer.clone().lock_owned().await;
                drop(waiting);
                if let Err(error) = writer.begin().await {
                    writer.commit_group().await;
                    return Err(Error::unavailable(error));
                }
                Connected::Writer { writer: Some(writer), waiting: embedded.waiting.clone() }
            }
            Database::Postgres(pool) => {
                let mut connection = pool.acquire().await.map_err(Error::unavailable)?;
                sqlx::raw_sql("begin").execute(&mut *connection).await.map_err(Error::unavailable)?;
                Connected::Postgres { connection: Some(connection), open: true }
            }
        };
        // Stamped after the writer is ours, so that stamps rise in commit order on the embedded database.
        let now = self.clock.now();
        let stamp = loop {
            let last = self.last.load(Ordering::SeqCst);
            let next = now.0.max(last + 1);
            if self.last.compare_exchange(last, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                break next;
            }
        };
        self.lock_open().push(stamp);
        Ok(Tx { connection, stamp: Timestamp(stamp), open_since: Some(self.open_since.clone()), clock: self.clock.clone() })
    }

    /// A connection for reading; sees what is committed.
    pub async fn read(&self) -> Result<Tx, Error> {
        let connection = match &*self.database {
            Database::Embedded(embedded) => {
                Connected::Reader(embedded.readers.acquire().await.map_err(Error::unavailable)?)
            }
            Database::Postgres(pool) => {
                Connected::Postgres { connection: Some(pool.acquire().await.map_err(Error::unavailable)?), open: false }
            }
        };
        Ok(Tx { connection, stamp: self.clock.now(), open_since: None, clock: self.clock.clone() })
    }

    /// Everything stamped up to here is visible: a poller that goes on from it misses nothing, though transactions
    /// that were stamped earlier may still be under way.
    pub fn horizon(&self) -> Timestamp {
        let now = self.clock.now().0.max(self.last.load(Ordering::SeqCst));
        let first_open = self.lock_open().iter().min().map_or(now, |stamp| stamp - 1);
        match &*self.database {
            Database::Embedded(_) => Timestamp(now.min(first_open)),
            // Other replicas' transactions are not seen from here; none lasts longer than this.
            Database::Postgres(_) => Timestamp(now.min(first_open)).minus(LONGEST),
        }
    }

    /// The newest stamp given out.
    pub fn newest(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::SeqCst))
    }

    fn lock_open(&self) -> std::sync::MutexGuard<'_, Vec<i64>> {
        self.open_since.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Embedded {
    async fn open(url: &str) -> Result<Embedded, Error> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(Error::internal)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256)
            // The checkpoint copies pages inside somebody's commit; rarer and larger is cheaper.
            .pragma("wal_autocheckpoint", "8000")
            .pragma("cache_size", "-65536");
        let connection = SqliteConnection::connect_with(&options).await.map_err(Error::unavailable)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options.clone().pragma("query_only", "on"));
        let writer = Writer { connection, open: false, dirty: false, group: Vec::new() };
        Ok(Embedded { writer: Arc::new(Mutex::new(writer)), waiting: Arc::default(), readers })
    }
}

/// Counts those who wait for the writer, also when they give up.
struct Waiting<'a> {
    embedded: &'a Embedded,
}

impl<'a> Waiting<'a> {
    fn new(embedded: &'a Embedded) -> Self {
        embedded.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { embedded }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.embedded.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            // If I gave up waiting and was the one the group waited for, somebody must commit it. (If I got the writer
            // this finds it locked by me, and my own end commits.)
            settle(&self.embedded.writer, &self.embedded.waiting);
        }
    }
}

/// Commits an open group that nobody is left to commit.
fn settle(writer: &Arc<Mutex<Writer>>, waiting: &Arc<AtomicUsize>) {
    let free = writer.clone().try_lock_owned();
    if let (Ok(mut writer), Ok(runtime)) = (free, tokio::runtime::Handle::try_current()) {
        if !writer.open {
            return;
        }
        let waiting = waiting.clone();
        runtime.spawn(async move {
            if waiting.load(Ordering::SeqCst) == 0 {
                writer.commit_group().await;
            }
        });
    }
}

enum Connected {
    Writer { writer: Option<OwnedMutexGuard<Writer>>, waiting: Arc<AtomicUsize> },
    Reader(sqlx::pool::PoolConnection<Sqlite>),
    Postgres { connection: Option<sqlx::pool::PoolConnection<Postgres>>, open: bool },
}

/// One transaction, or one reader. Dropped without [`Tx::commit`], nothing of it is stored.
pub struct Tx {
    connection: Connected,
    stamp: Timestamp,
    open_since: Option<Arc<std::sync::Mutex<Vec<i64>>>>,
    clock: Clock,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tx({})", self.stamp)
    }
}

macro_rules! bound {
    ($query:expr, $args:expr) => {{
        let mut query = $query;
        for arg in $args {
            query = match arg {
                Arg::Text(text) => query.bind(text),
                Arg::Int(number) => query.bind(number),
                Arg::NoText => query.bind(None::<String>),
                Arg::NoInt => query.bind(None::<i64>),
            };
        }
        query
    }};
}

impl Tx {
    /// The time of this transaction: what it writes carries it. Stamps of one gateway always rise.
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// All rows of a statement.
    pub async fn all(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        let text = AssertSqlSafe(text.into());
        let rows = match &mut self.connection {
            Connected::Writer { writer, .. } => {
                let connection = &mut writer.as_mut().ok_or_else(ended)?.connection;
                let rows = bound!(sqlx::query::<Sqlite>(text), args).fetch_all(connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Connected::Reader(connection) => {
                let rows = bound!(sqlx::query::<Sqlite>(text), args).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Connected::Postgres { connection, .. } => {
                let connection = connection.as_mut().ok_or_else(ended)?;
                let rows = bound!(sqlx::query::<Postgres>(text), args).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Postgres).collect())
            }
        };
        rows.map_err(failed)
    }

    /// The first row of a statement.
    pub async fn one(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<Option<Row>, Error> {
        Ok(self.all(text, args).await?.into_iter().next())
    }

    /// Runs a statement; how many rows it changed.
    pub async fn run(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<u64, Error> {
        let text = AssertSqlSafe(text.into());
        let changed = match &mut self.connection {
            Connected::Writer { writer, .. } => {
                let connection = &mut writer.as_mut().ok_or_else(ended)?.connection;
                let done = bound!(sqlx::query::<Sqlite>(text), args).execute(connection).await;
                done.map(|done| done.rows_affected())
            }
            Connected::Reader(_) => return Err(Error::internal("a reader can't write")),
            Connected::Postgres { connection, .. } => {
                let connection = connection.as_mut().ok_or_else(ended)?;
                let done = bound!(sqlx::query::<Postgres>(text), args).execute(&mut **connection).await;
                done.map(|done| done.rows_affected())
            }
        };
        changed.map_err(failed)
    }

    /// ` for update skip locked` where the database has it: the one dialect function. SQLite has one writer and needs
    /// none.
    pub(super) fn skip_locked(&self) -> &'static str {
        match self.connection {
            Connected::Postgres { .. } => " for update skip locked",
            Connected::Writer { .. } | Connected::Reader(_) => "",
        }
    }

    /// Takes a row lock where several gateways may write: ` for update`, which SQLite's one writer makes needless.
    pub(super) fn for_update(&self) -> &'static str {
        match self.connection {
            Connected::Postgres { open: true, .. } => " for update",
            _ => "",
        }
    }

    /// Makes it all durable and visible. When this returns an error nothing of it was stored.
    pub async fn commit(mut self) -> Result<(), Error> {
        let result = match &mut self.connection {
            Connected::Reader(_) => Ok(()),
            Connected::Writer { writer, waiting } => {
                let mut guard = writer.take().ok_or_else(ended)?;
                let waiting = waiting.clone();
                if let Err(error) = guard.run("release one").await {
                    guard.dirty = true;
                    guard.commit_group().await;
                    return Err(failed(error));
                }
                let (done, wait) = oneshot::channel();
                guard.group.push(done);
                if waiting.load(Ordering::SeqCst) == 0 || guard.group.len() >= GROUP {
                    guard.commit_group().await;
                    drop(guard);
                } else {
                    let writer = OwnedMutexGuard::mutex(&guard).clone();
                    drop(guard);
                    // Whoever waited may have given up in between.
                    if waiting.load(Ordering::SeqCst) == 0 {
                        settle(&writer, &waiting);
                    }
                }
                match wait.await {
                    Ok(result) => result.map_err(Error::unavailable),
                    Err(_) => Err(Error::unavailable("the group was lost")),
                }
            }
            Connected::Postgres { connection, open } => {
                let late = self.clock.now() > self.stamp.plus(LONGEST);
                let mut connection = connection.take().ok_or_else(ended)?;
                *open = false;
                let end = if late { "rollback" } else { "commit" };
                match sqlx::raw_sql(end).execute(&mut *connection).await {
                    Ok(_) if late => Err(Error::unavailable("the transaction took too long")),
                    Ok(_) => Ok(()),
                    Err(error) => {
                        connection.close_on_drop();
                        Err(Error::unavailable(error))
                    }
                }
            }
        };
        self.close();
        result
    }

    fn close(&mut self) {
        if let Some(open) = self.open_since.take() {
            let mut open = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(index) = open.iter().position(|stamp| *stamp == self.stamp.0) {
                open.swap_remove(index);
            }
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        match &mut self.connection {
            Connected::Writer { writer, waiting } => {
                if let Some(mut guard) = writer.take() {
                    guard.dirty = true;
                    let writer = OwnedMutexGuard::mutex(&guard).clone();
                    drop(guard);
                    if waiting.load(Ordering::SeqCst) == 0 {
                        settle(&writer, waiting);
                    }
                }
            }
            Connected::Postgres { connection, open: true } => {
                if let (Some(mut connection), Ok(runtime)) = (connection.take(), tokio::runtime::Handle::try_current()) {
                    runtime.spawn(async move {
                        if sqlx::raw_sql("rollback").execute(&mut *connection).await.is_err() {
                            connection.close_on_drop();
                        }
                    });
                }
            }
            Connected::Postgres { .. } | Connected::Reader(_) => {}
        }
        self.close();
    }
}

fn ended() -> Error {
    Error::internal("the transaction has ended")
}

/// A unique constraint is somebody being faster; anything else is the database's trouble.
fn failed(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(fault) if fault.is_unique_violation() => {
            let mut conflict = Error::conflict("Somebody else has just done this. Read again and decide again.");
            conflict.cause = Some(error.to_string());
            conflict
        }
        sqlx::Error::Database(fault) if matches!(fault.code().as_deref(), Some("40001" | "40P01" | "5" | "517")) => {
            Error::unavailable(error)
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Error::unavailable(error),
        _ => Error::internal(error),
    }
}
