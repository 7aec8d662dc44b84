//! Connections, transactions and the two dialects behind one text.
//!
//! SQLite group commit: a transaction is a savepoint inside an outer transaction. Whoever ends while others wait for the
//! writer leaves the outer one open for them; whoever ends last, or as the sixty-fourth, commits it for all. `commit`
//! returns when that has happened and is on disk (`synchronous = full`). A transaction that is dropped is rolled back
//! to its savepoint, alone.
//!
//! A caller may give up at any await. What moves a connection from one state to the next (begin, commit) therefore runs
//! on a task of its own, to its end. A transaction in which a statement failed, or was given up, can't be committed:
//! PostgreSQL would take the commit for a rollback and say that all is well.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection, PgPool, Postgres, Row as _, Sqlite, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::error::Error;
use crate::fhir::Key;
use crate::store::Stored;
use crate::store::marks::Marks;
use crate::time::{Clock, Timestamp};

/// Most transactions in one commit.
const GROUP: usize = 64;
/// Readers of the embedded database.
const READERS: u32 = 4;
/// Connections to PostgreSQL per gateway.
const CONNECTIONS: u32 = 16;
/// Longest anybody waits for the writer or a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest a PostgreSQL write transaction may take before it commits.
const LONGEST: Duration = Duration::from_secs(5);
/// What was stamped longer ago at any gateway is visible or never will be: the longest transaction, and as much again
/// for the commit itself and for clocks that differ.
const LAG: Duration = Duration::from_secs(10);

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
        Arg::from(text.to_string())
    }
}
/// PostgreSQL's text can't hold the zero character; both databases get its replacement instead of one an error.
impl From<String> for Arg {
    fn from(text: String) -> Self {
        Arg::Text(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text })
    }
}
impl From<&String> for Arg {
    fn from(text: &String) -> Self {
        Arg::from(text.clone())
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
        text.map_or(Arg::NoText, Arg::from)
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
    group: Vec<(Stamped, oneshot::Sender<Result<(), String>>)>,
}

impl Writer {
    async fn run(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(text).execute(&mut self.connection).await.map(|_| ())
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.clean().await?;
        // One walk to the connection's thread. If only half of it was done, whoever commits finds out.
        let text = if self.open { "savepoint one" } else { "begin immediate; savepoint one" };
        self.open = true;
        self.run(text).await
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
        for (stamped, waiting) in self.group.drain(..) {
            drop(stamped);
            let _ = waiting.send(result.clone());
        }
    }
}

/// The writer in the hands of one transaction. Let go without a commit, it takes the transaction back.
#[derive(Debug)]
struct Held {
    writer: Option<OwnedMutexGuard<Writer>>,
    waiting: Arc<AtomicUsize>,
}

impl Held {
    fn writer(&mut self) -> Result<&mut Writer, Error> {
        self.writer.as_deref_mut().ok_or_else(|| Error::internal("the transaction has ended"))
    }

    async fn begin(mut self) -> Result<Held, Error> {
        let begun = self.writer()?.begin().await;
        if let Err(error) = begun {
            self.writer()?.commit_group().await;
            self.writer = None;
            return Err(Error::unavailable(error));
        }
        Ok(self)
    }

    /// Joins the group, and commits it unless somebody waits who will. What comes out is told after the commit.
    async fn commit(mut self, stamped: Stamped) -> Result<oneshot::Receiver<Result<(), String>>, Error> {
        let alone = self.waiting.load(Ordering::SeqCst) == 0;
        let writer = self.writer()?;
        let last = alone || writer.group.len() + 1 >= GROUP;
        // A commit releases the savepoint as well.
        if !last && let Err(error) = writer.run("release one").await {
            writer.dirty = true;
            writer.commit_group().await;
            self.writer = None;
            return Err(failed(error));
        }
        let (done, wait) = oneshot::channel();
        writer.group.push((stamped, done));
        if last || self.waiting.load(Ordering::SeqCst) == 0 {
            self.writer()?.commit_group().await;
        }
        if let Some(writer) = self.writer.take() {
            let_go(writer, &self.waiting);
        }
        Ok(wait)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            writer.dirty = true;
            let_go(writer, &self.waiting);
        }
    }
}

/// Whoever lets the writer go looks, after that, whether anybody is left to commit an open group.
fn let_go(guard: OwnedMutexGuard<Writer>, waiting: &AtomicUsize) {
    let writer = OwnedMutexGuard::mutex(&guard).clone();
    drop(guard);
    if waiting.load(Ordering::SeqCst) == 0 {
        settle(&writer);
    }
}

/// Commits an open group that nobody is left to commit. Whoever has the writer now will look for himself.
fn settle(writer: &Arc<Mutex<Writer>>) {
    let free = writer.clone().try_lock_owned();
    if let (Ok(mut writer), Ok(runtime)) = (free, tokio::runtime::Handle::try_current())
        && writer.open
    {
        runtime.spawn(async move { writer.commit_group().await });
    }
}

/// Does this to its end, also when whoever waits for it gives up.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(Error::unavailable)?
}

/// The stamps of one gateway: they always rise.
#[derive(Debug, Default)]
struct Stamps {
    /// The last one given out.
    last: i64,
    /// Up to here was said that nothing more would come.
    promised: i64,
    /// Given out, and what they stand on is not visible yet.
    open: Vec<i64>,
}

/// A stamp until what it stands on is visible, or never will be.
#[derive(Debug)]
struct Stamped {
    stamp: i64,
    stamps: Arc<std::sync::Mutex<Stamps>>,
}

impl Drop for Stamped {
    fn drop(&mut self) {
        let mut stamps = locked(&self.stamps);
        if let Some(index) = stamps.open.iter().position(|stamp| *stamp == self.stamp) {
            stamps.open.swap_remove(index);
        }
    }
}

fn locked(stamps: &std::sync::Mutex<Stamps>) -> std::sync::MutexGuard<'_, Stamps> {
    stamps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
    stamps: Arc<std::sync::Mutex<Stamps>>,
    pub(super) marks: Arc<Marks>,
}

impl Store {
    /// Opens the database of this URL (`sqlite://file` or `postgres://…`). Does not migrate.
    pub async fn open(url: &str, clock: Clock) -> Result<Store, Error> {
        let database = if url.starts_with("sqlite:") {
            Database::Embedded(Embedded::open(url).await?)
        } else {
            let options = PgConnectOptions::from_str(url).map_err(Error::internal)?;
            let pool = PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(PATIENCE)
                // A gateway that hangs, or whose network does, must not keep its row locks for ever.
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        let text = "set idle_in_transaction_session_timeout = '10s'";
                        sqlx::raw_sql(text).execute(connection).await.map(|_| ())
                    })
                });
            Database::Postgres(pool.connect_with(options).await.map_err(Error::unavailable)?)
        };
        Ok(Store { database: Arc::new(database), clock, stamps: Arc::default(), marks: Arc::default() })
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
                writer.commit_group().await;
                // The migrator takes no lock on SQLite; this one makes a second process wait.
                let whole = writer.connection.begin_with("begin immediate").await;
                let mut whole = whole.map_err(Error::unavailable)?;
                // `run` would do the same, but its future can not be sent to another thread.
                migrator.run_direct(None, &mut *whole, false).await.map_err(Error::internal)?;
                whole.commit().await.map_err(Error::internal)?;
            }
            Database::Postgres(pool) => migrator.run(pool).await.map_err(Error::internal)?,
        }
        let mut reader = self.read().await?;
        let newest = reader.one("select max(updated) from resource", args![]).await?;
        let newest = newest.map(|row| row.int_or_null(0)).transpose()?.flatten().unwrap_or(0);
        let mut stamps = locked(&self.stamps);
        stamps.last = stamps.last.max(newest);
        if self.is_embedded() {
            self.marks.begin(stamps.last);
        }
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
                let writer = tokio::time::timeout(PATIENCE, embedded.writer.clone().lock_owned()).await;
                let writer = writer.map_err(Error::unavailable)?;
                drop(waiting);
                let held = Held { writer: Some(writer), waiting: embedded.waiting.clone() };
                Connected::Writer(to_the_end(held.begin()).await?)
            }
            Database::Postgres(pool) => {
                let pool = pool.clone();
                let begun = to_the_end(async move { pool.begin().await.map_err(Error::unavailable) });
                Connected::Postgres(begun.await?)
            }
        };
        // Stamped after the writer is ours, so that stamps rise in commit order on the embedded database.
        let mut stamps = locked(&self.stamps);
        let stamp = self.clock.now().0.max(stamps.last.max(stamps.promised) + 1);
        stamps.last = stamp;
        stamps.open.push(stamp);
        let stamped = Some(Stamped { stamp, stamps: self.stamps.clone() });
        Ok(self.tx(connection, Timestamp(stamp), stamped))
    }

    fn tx(&self, connection: Connected, stamp: Timestamp, stamped: Option<Stamped>) -> Tx {
        let (clock, marks) = (self.clock.clone(), self.marks.clone());
        Tx { connection, stamp, stamped, state: State::Sound, clock, known: HashMap::new(), owes: false, marks }
    }

    /// A connection for reading; sees what is committed.
    pub async fn read(&self) -> Result<Tx, Error> {
        let connection = match &*self.database {
            Database::Embedded(embedded) => {
                Connected::Reader(embedded.readers.acquire().await.map_err(Error::unavailable)?)
            }
            Database::Postgres(pool) => Connected::PostgresReader(pool.acquire().await.map_err(Error::unavailable)?),
        };
        Ok(self.tx(connection, self.clock.now(), None))
    }

    /// Everything stamped up to here is visible, and nothing more will be stamped so: a poller that goes on from it
    /// misses nothing, though transactions that were stamped earlier may still be under way.
    pub fn horizon(&self) -> Timestamp {
        let mut stamps = locked(&self.stamps);
        let now = self.clock.now().0.max(stamps.last);
        stamps.promised = stamps.promised.max(now);
        let first_open = stamps.open.iter().min().map_or(now, |stamp| stamp - 1);
        match &*self.database {
            Database::Embedded(_) => Timestamp(now.min(first_open)),
            // Other replicas' transactions are not seen from here.
            Database::Postgres(_) => Timestamp(now.min(first_open)).minus(LAG),
        }
    }

    /// The newest stamp given out.
    pub fn newest(&self) -> Timestamp {
        Timestamp(locked(&self.stamps).last)
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
            .busy_timeout(PATIENCE)
            .statement_cache_capacity(256)
            // The checkpoint copies pages inside somebody's commit; rarer and larger is cheaper.
            .pragma("wal_autocheckpoint", "8000")
            .pragma("cache_size", "-65536");
        let connection = SqliteConnection::connect_with(&options).await.map_err(Error::unavailable)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            // Asking a file whether it lives costs a walk to its thread.
            .test_before_acquire(false)
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
            settle(&self.embedded.writer);
        }
    }
}

enum Connected {
    Writer(Held),
    Reader(sqlx::pool::PoolConnection<Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
    PostgresReader(sqlx::pool::PoolConnection<Postgres>),
}

/// Whether a write transaction may still be committed.
enum State {
    Sound,
    /// A statement is under way; found so later, it was given up and nobody knows what it did.
    Running,
    Failed(Error),
}

/// One transaction, or one reader. Dropped without [`Tx::commit`], nothing of it is stored.
pub struct Tx {
    connection: Connected,
    stamp: Timestamp,
    /// None for a reader.
    stamped: Option<Stamped>,
    state: State,
    clock: Clock,
    /// What this transaction wrote, or read and can't change under it: no statement twice for one resource.
    pub(super) known: HashMap<Key, Stored>,
    /// It has owed something that a worker may want to look at.
    pub(super) owes: bool,
    pub(super) marks: Arc<Marks>,
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
    /// Whether this transaction owes something that a worker may want to look at.
    pub fn owes(&self) -> bool {
        self.owes
    }

    /// Whether what was read in this transaction stays so until its end, locked or not: the embedded database's one
    /// writer.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.connection, Connected::Writer(_))
    }

    /// The time of this transaction: what it writes carries it. Stamps of one gateway always rise.
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    fn check(&mut self) -> Result<(), Error> {
        match &self.state {
            State::Sound => {}
            State::Running => return Err(Error::unavailable("a statement of this transaction was given up")),
            State::Failed(error) => return Err(error.clone()),
        }
        if self.stamped.is_some() {
            self.state = State::Running;
        }
        Ok(())
    }

    fn checked<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, Error> {
        let result = result.map_err(failed);
        if self.stamped.is_some() {
            self.state = result.as_ref().err().map_or(State::Sound, |error| State::Failed(error.clone()));
        }
        result
    }

    /// All rows of a statement. After an error nothing more can be done in this transaction.
    pub async fn all(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        self.check()?;
        let text = AssertSqlSafe(text.into());
        let rows = match &mut self.connection {
            Connected::Writer(held) => {
                let rows = bound!(sqlx::query::<Sqlite>(text), args).fetch_all(&mut held.writer()?.connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Connected::Reader(connection) => {
                let rows = bound!(sqlx::query::<Sqlite>(text), args).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Connected::Postgres(connection) => {
                let rows = bound!(sqlx::query::<Postgres>(text), args).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Postgres).collect())
            }
            Connected::PostgresReader(connection) => {
                let rows = bound!(sqlx::query::<Postgres>(text), args).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Postgres).collect())
            }
        };
        self.checked(rows)
    }

    /// The first row of a statement.
    pub async fn one(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<Option<Row>, Error> {
        Ok(self.all(text, args).await?.into_iter().next())
    }

    /// Runs a statement; how many rows it changed. After an error nothing more can be done in this transaction.
    pub async fn run(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<u64, Error> {
        self.check()?;
        let text = AssertSqlSafe(text.into());
        let changed = match &mut self.connection {
            Connected::Writer(held) => {
                let done = bound!(sqlx::query::<Sqlite>(text), args).execute(&mut held.writer()?.connection).await;
                done.map(|done| done.rows_affected())
            }
            Connected::Postgres(connection) => {
                let done = bound!(sqlx::query::<Postgres>(text), args).execute(&mut **connection).await;
                done.map(|done| done.rows_affected())
            }
            Connected::Reader(_) | Connected::PostgresReader(_) => {
                return Err(Error::internal("a reader can't write"));
            }
        };
        self.checked(changed)
    }

    /// ` for update skip locked` where the database has it: the one dialect function. SQLite has one writer and needs
    /// none.
    pub(super) fn skip_locked(&self) -> &'static str {
        match self.connection {
            Connected::Postgres(_) => " for update skip locked",
            Connected::Writer(_) | Connected::Reader(_) | Connected::PostgresReader(_) => "",
        }
    }

    /// Takes a row lock where several gateways may write: ` for update`, which SQLite's one writer makes needless.
    pub(super) fn for_update(&self) -> &'static str {
        match self.connection {
            Connected::Postgres(_) => " for update",
            Connected::Writer(_) | Connected::Reader(_) | Connected::PostgresReader(_) => "",
        }
    }

    /// Makes it all durable and visible. When this returns an error nothing of it was stored, unless the connection broke
    /// in the middle of the commit. Once begun, a commit goes to its end, also when nobody waits for it any more.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.check()?;
        let late = self.clock.now() > self.stamp.plus(LONGEST);
        match (self.connection, self.stamped) {
            (Connected::Writer(held), Some(stamped)) => {
                let wait = to_the_end(held.commit(stamped)).await?;
                wait.await.map_err(Error::unavailable)?.map_err(Error::unavailable)
            }
            (Connected::Postgres(transaction), Some(stamped)) => {
                to_the_end(async move {
                    let result = if late {
                        let _ = transaction.rollback().await;
                        Err(Error::unavailable("the transaction took too long"))
                    } else {
                        transaction.commit().await.map_err(failed)
                    };
                    drop(stamped);
                    result
                })
                .await
            }
            (Connected::Writer(_) | Connected::Postgres(_), None)
            | (Connected::Reader(_) | Connected::PostgresReader(_), _) => Ok(()),
        }
    }
}

/// A unique constraint is somebody being faster; anything else is the database's trouble.
fn failed(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(fault) if fault.is_unique_violation() => {
            let mut conflict = Error::conflict("Somebody else has just done this. Read again and decide again.");
            conflict.cause = Some(error.to_string());
            conflict
        }
        sqlx::Error::Database(fault) if fault.code().is_some_and(|code| passes(&code)) => Error::unavailable(error),
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Error::unavailable(error),
        _ => Error::internal(error),
    }
}

/// Whether this trouble of a database passes by itself: busy, a lost race, shutting down, no room, no connection.
fn passes(code: &str) -> bool {
    ["5", "6", "13", "261", "517", "25P03", "40001", "40P01", "55P03"].contains(&code)
        || (code.len() == 5 && ["08", "53", "57"].iter().any(|class| code.starts_with(class)))
}
