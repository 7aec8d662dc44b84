//! Connections, transactions and the two dialects behind one text.
//!
//! A caller may give up at any await. What moves a connection from one state to the next (begin, commit) therefore runs
//! on a task of its own, to its end. A transaction in which a statement failed, or was given up, can't be committed:
//! PostgreSQL would take the commit for a rollback and say that all is well.

use std::collections::HashSet;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgPool, Postgres};

use crate::error::Error;
use crate::fhir::Key;
use crate::fhir::search::{MAX_OPEN, Moment};
use crate::store::Stored;
use crate::store::later::{Later, Shape, Values};
use crate::store::marks::Marks;
use crate::store::met::Met;
use crate::store::migrations;
use crate::store::numbers::Numbers;
use crate::store::outbox::Kind;
use crate::store::resources::Changed;
use crate::store::sqlite::{self, Reader, Readers};
use crate::store::stamps::{Stamped, Stamps, locked};
use crate::store::values::{Arg, Row};
use crate::store::versions::Versions;
use crate::store::writer::{Embedded, Held};
use crate::time::{Clock, Timestamp};

/// Longest anybody waits for the writer or a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Connections to PostgreSQL per gateway.
const CONNECTIONS: u32 = 16;

/// Longest a PostgreSQL write transaction may take before it commits.
const LONGEST: Duration = Duration::from_secs(5);

/// What was stamped longer ago at any gateway is visible or never will be: the longest transaction, and as much again
/// for the commit itself and for clocks that differ.
const LAG: Duration = Duration::from_secs(10);

/// What every connection to PostgreSQL is told. A gateway that hangs, or whose network does, must not keep its row locks for
/// ever. And plans stay with a connection: one that was made while a table was nearly empty must not read it whole, or
/// into a hash, when it has grown. Everything asked here is an index walk.
const SESSION: &str = "set idle_in_transaction_session_timeout = '10s';
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off";

/// How a row is locked: alone, or together with others. Either may have to wait.
const LOCKS: [&str; 2] = [" for update", " for share"];

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
    versions: Arc<Versions>,
    pub(super) numbers: Arc<Numbers>,
}

impl Store {
    /// Opens the database of this URL (`sqlite://file` or `postgres://…`). Does not migrate.
    pub async fn open(url: &str, clock: Clock) -> Result<Store, Error> {
        let database = if url.starts_with("sqlite:") {
            Database::Embedded(Embedded::open(url)?)
        } else {
            let options = PgConnectOptions::from_str(url).map_err(Error::internal)?;
            let pool = PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(PATIENCE)
                // Asking whether it lives is a round trip of its own; what finds it dead fails, and the next one is new.
                .test_before_acquire(false)
                .after_connect(|connection, _| {
                    Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
                });
            Database::Postgres(pool.connect_with(options).await.map_err(Error::unavailable)?)
        };
        let database = Arc::new(database);
        let (stamps, marks, versions, numbers) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        Ok(Store { database, clock, stamps, marks, versions, numbers })
    }

    /// Brings the schema up to date. Safe to run from several gateways at once.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut tx = self.unstamped().await?;
        tx.unhurried = true;
        migrations::run(&mut tx).await?;
        let newest = tx.one("select max(updated) from resource", args![]).await?;
        let newest = newest.map(|row| row.int_or_null(0)).transpose()?.flatten().unwrap_or(0);
        // Nor is anything added to what is sealed, though the clock was set back.
        let sealed = tx.last_seal().await?.and_then(|seal| crate::id::time_of(&seal.till)).unwrap_or(0);
        let newest = newest.max(sealed);
        tx.commit().await?;
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

    /// Begins a transaction of which nothing is found by time.
    pub(super) async fn unstamped(&self) -> Result<Tx, Error> {
        Ok(self.tx(self.connect().await?, self.clock.now(), Some(Stamped::default())))
    }

    /// Begins a write transaction.
    pub async fn begin(&self) -> Result<Tx, Error> {
        self.stock_numbers().await?;
        let connection = self.connect().await?;
        // Stamped after the writer is ours, so that stamps rise in commit order on the embedded database.
        let mut stamps = locked(&self.stamps);
        let stamp = self.clock.now().0.max(stamps.last.max(stamps.promised) + 1);
        stamps.last = stamp;
        stamps.open.push(stamp);
        let stamped = Some(Stamped { stamp, stamps: self.stamps.clone() });
        Ok(self.tx(connection, Timestamp(stamp), stamped))
    }

    /// Begins a look at what goes on record before it is shown. On the embedded database that is the writer, whose page
    /// cache no commit empties: what is read and the record of it are one transaction. A look that takes long goes on as
    /// a reader, so that it keeps nobody waiting; so is every look at PostgreSQL.
    pub async fn look(&self) -> Result<Tx, Error> {
        match &*self.database {
            Database::Embedded(embedded) => {
                let aside = Some(embedded.readers.clone());
                Ok(Tx { aside, ..self.begin().await? })
            }
            Database::Postgres(_) => self.read().await,
        }
    }

    async fn connect(&self) -> Result<Connected, Error> {
        match &*self.database {
            Database::Embedded(embedded) => embedded.begin().await.map(Connected::Writer),
            Database::Postgres(pool) => {
                let pool = pool.clone();
                let begun = to_the_end(async move { pool.begin().await.map_err(Error::unavailable) });
                begun.await.map(Connected::Postgres)
            }
        }
    }

    fn tx(&self, connection: Connected, stamp: Timestamp, stamped: Option<Stamped>) -> Tx {
        let (clock, marks, versions) = (self.clock.clone(), self.marks.clone(), self.versions.clone());
        Tx {
            connection,
            stamp,
            stamped,
            state: State::Sound,
            clock,
            later: Later::default(),
            met: Met::default(),
            changes: Vec::new(),
            promised: HashSet::new(),
            owes: false,
            owed: Vec::new(),
            unhurried: false,
            marks,
            versions,
            numbers: self.numbers.clone(),
            own_numbers: 0..0,
            met_versions: Vec::new(),
            aside: None,
            stamps: self.stamps.clone(),
        }
    }

    /// A connection for reading; sees what is committed.
    pub async fn read(&self) -> Result<Tx, Error> {
        let connection = match &*self.database {
            Database::Embedded(embedded) => Connected::Reader(Some(embedded.readers.acquire().await?)),
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

enum Connected {
    Writer(Held),
    /// None while it is away, searching.
    Reader(Option<Reader>),
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
    pub(super) later: Later,
    pub(super) met: Met,
    /// What this transaction changed and has told no subscriber yet.
    pub(super) changes: Vec<Changed>,
    /// What this transaction will store before it ends, and may be referred to already.
    promised: HashSet<Key>,
    /// It has owed something that a worker may want to look at.
    pub(super) owes: bool,
    /// What that was, each as often as it was owed.
    pub(super) owed: Vec<(Kind, String)>,
    /// May take longer than [`LONGEST`].
    unhurried: bool,
    pub(super) marks: Arc<Marks>,
    pub(super) versions: Arc<Versions>,
    pub(super) numbers: Arc<Numbers>,
    /// A block that was taken in this transaction.
    pub(super) own_numbers: Range<i64>,
    /// Versions that were read here: to be kept once all that was read is committed.
    pub(super) met_versions: Vec<Arc<Stored>>,
    /// Of a look: where it goes on when it takes long.
    aside: Option<Arc<Readers>>,
    stamps: Arc<std::sync::Mutex<Stamps>>,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tx({})", self.stamp)
    }
}

async fn ask(connection: &mut PgConnection, text: String, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
    let rows = bound(text, args).fetch_all(connection).await.map_err(failed)?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}

fn bound(text: String, args: Vec<Arg>) -> Query<'static, Postgres, PgArguments> {
    args.into_iter().fold(sqlx::query::<Postgres>(AssertSqlSafe(text)), |query, arg| match arg {
        Arg::Text(text) => query.bind(text),
        Arg::Int(number) => query.bind(number),
        Arg::NoText => query.bind(None::<String>),
        Arg::NoInt => query.bind(None::<i64>),
        Arg::Texts(list) => query.bind(list),
        Arg::Ints(list) => query.bind(list),
    })
}

impl Tx {
    /// Whether this transaction owes something that a worker may want to look at.
    pub fn owes(&self) -> bool {
        self.owes
    }

    /// This resource will be stored before the transaction ends: entries of one Bundle may refer to each other in a circle.
    pub fn promise(&mut self, key: &Key) {
        self.promised.insert(key.clone());
    }

    /// Whether it was promised.
    pub fn is_promised(&self, key: &Key) -> bool {
        self.promised.contains(key)
    }

    /// Whether what was read in this transaction stays so until its end, locked or not: the embedded database's one
    /// writer.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.connection, Connected::Writer(_))
    }

    /// Whether this is a transaction, and no reader.
    pub fn is_writing(&self) -> bool {
        self.stamped.is_some()
    }

    /// Whether this is PostgreSQL.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.connection, Connected::Postgres(_) | Connected::PostgresReader(_))
    }

    /// What stands now, told by its stamps: nothing more is going to. `newest` is the newest stamp that is visible, which
    /// may be another gateway's.
    pub(super) fn moment(&self, newest: i64) -> Moment {
        let mut stamps = locked(&self.stamps);
        let at = self.clock.now().0.max(stamps.last).max(newest);
        stamps.promised = stamps.promised.max(at);
        let mine = self.stamped.as_ref().map(|stamped| stamped.stamp);
        let open = stamps.open.iter().copied().filter(|stamp| Some(*stamp) != mine);
        match &self.connection {
            // Whoever writes sees all that was stamped before; a look may go on as a reader, and then does not.
            Connected::Writer(_) if self.aside.is_none() => Moment { at, open: Vec::new() },
            // They become visible in their order.
            Connected::Writer(_) | Connected::Reader(_) => {
                Moment { at: open.min().map_or(at, |first| at.min(first - 1)), open: Vec::new() }
            }
            Connected::Postgres(_) | Connected::PostgresReader(_) => Moment { at, open: open.take(MAX_OPEN).collect() },
        }
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

    fn checked<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if self.stamped.is_some() {
            self.state = result.as_ref().err().map_or(State::Sound, |error| State::Failed(error.clone()));
        }
        result
    }

    /// All rows of a statement. After an error nothing more can be done in this transaction.
    pub async fn all(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        let text = text.into();
        self.before(&text).await?;
        self.ask_now(text, args).await
    }

    /// The first row of a statement about what this key names: what is outstanding of others does not concern it.
    pub(super) async fn one_named(
        &mut self,
        shape: Shape,
        key: &[Arg],
        text: impl Into<String>,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, Error> {
        let text = text.into();
        if self.later.touches(shape, key) {
            self.before(&text).await?;
        }
        Ok(self.ask_now(text, args).await?.into_iter().next())
    }

    /// The same of a statement that was told what is outstanding.
    pub(super) async fn ask_now(&mut self, text: String, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        self.check()?;
        if !text.starts_with("select") || LOCKS.iter().any(|lock| text.ends_with(lock)) {
            self.met.waited();
        }
        let rows = match &mut self.connection {
            Connected::Writer(held) => held.writer().and_then(|writer| sqlite::all(&writer.connection, &text, &args)),
            Connected::Reader(Some(reader)) => reader.all(&text, &args),
            Connected::Reader(None) => Err(Error::unavailable("a search of this reader was given up")),
            Connected::Postgres(connection) => ask(connection, text, args).await,
            Connected::PostgresReader(connection) => ask(connection, text, args).await,
        };
        self.checked(rows)
    }

    /// What has to be done before a statement.
    async fn before(&mut self, text: &str) -> Result<(), Error> {
        // Statements that need no wait must not keep everybody else waiting.
        tokio::task::coop::consume_budget().await;
        if self.later.concerns(text) { self.tell().await } else { Ok(()) }
    }

    /// Tells the database what is outstanding. Given up in the middle, it spoils the transaction.
    pub(super) async fn tell(&mut self) -> Result<(), Error> {
        if self.later.is_empty() {
            return Ok(());
        }
        self.check()?;
        self.met.waited();
        let told = match &mut self.connection {
            Connected::Postgres(connection) => match self.later.take() {
                Some((text, args)) => bound(text, args).execute(&mut **connection).await.map(|_| ()).map_err(failed),
                None => Ok(()),
            },
            Connected::Writer(held) => held.writer().and_then(|writer| {
                let mut parts = self.later.take_apart().into_iter();
                parts.try_for_each(|(text, rows)| sqlite::run_each(&writer.connection, &text, &rows))
            }),
            Connected::Reader(_) | Connected::PostgresReader(_) => Err(Error::internal("a reader can't write")),
        };
        self.checked(told)
    }

    /// The same of a statement that may look through much: if it does, a reader of the embedded database goes elsewhere.
    pub(super) async fn all_aside(&mut self, text: String, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        tokio::task::coop::consume_budget().await;
        let brief = match (&mut self.connection, &self.aside) {
            (Connected::Reader(Some(reader)), _) => reader.briefly(&text, &args)?,
            (Connected::Writer(held), Some(readers)) => {
                let rows = sqlite::briefly(&held.writer()?.connection, &text, &args)?;
                if rows.is_none() {
                    let readers = readers.clone();
                    self.stamped = None;
                    // The writer is let go first: whoever waits for a reader must not keep everybody waiting.
                    self.connection = Connected::Reader(None);
                    self.connection = Connected::Reader(Some(readers.acquire().await?));
                }
                rows
            }
            (
                Connected::Writer(_) | Connected::Reader(None) | Connected::Postgres(_) | Connected::PostgresReader(_),
                _,
            ) => None,
        };
        if let Some(rows) = brief {
            return Ok(rows);
        }
        if let Connected::Reader(reader) = &mut self.connection
            && let Some(away) = reader.take()
        {
            let (back, rows) = away.aside(text, args).await?;
            self.connection = Connected::Reader(Some(back));
            return Ok(rows);
        }
        self.all(text, args).await
    }

    /// The first row of a statement.
    pub async fn one(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<Option<Row>, Error> {
        Ok(self.all(text, args).await?.into_iter().next())
    }

    /// Runs a statement; how many rows it changed. After an error nothing more can be done in this transaction.
    pub async fn run(&mut self, text: impl Into<String>, args: Vec<Arg>) -> Result<u64, Error> {
        let text = text.into();
        self.before(&text).await?;
        self.check()?;
        self.met.waited();
        let changed = match &mut self.connection {
            Connected::Writer(held) => held.writer().and_then(|writer| sqlite::run(&writer.connection, &text, &args)),
            Connected::Postgres(connection) => {
                let done = bound(text, args).execute(&mut **connection).await;
                done.map(|done| done.rows_affected()).map_err(failed)
            }
            Connected::Reader(_) | Connected::PostgresReader(_) => Err(Error::internal("a reader can't write")),
        };
        self.checked(changed)
    }

    /// Whether rows may be left outstanding now.
    fn takes_rows(&mut self) -> Result<(), Error> {
        if !self.is_writing() {
            return Err(Error::internal("a reader can't write"));
        }
        self.check()?;
        self.checked(Ok(()))
    }

    /// Inserts rows, later. A row that is there already is a conflict when it is told.
    pub(super) async fn insert(&mut self, shape: Shape, rows: Vec<Vec<Arg>>) -> Result<(), Error> {
        self.takes_rows()?;
        if self.later.has(shape, &rows) || self.later.is_much() {
            self.tell().await?;
        }
        self.later.insert(shape, rows);
        Ok(())
    }

    /// Changes the rows that this key names, where nobody asks whether they were there; later.
    pub(super) async fn set(&mut self, shape: Shape, key: Vec<Arg>, values: Values) -> Result<(), Error> {
        self.takes_rows()?;
        if self.later.is_much() {
            self.tell().await?;
        }
        self.later.set(shape, key, values);
        Ok(())
    }

    /// Removes the rows that these keys name, of each all that there are; later.
    pub(super) async fn remove(&mut self, shape: Shape, keys: Vec<Vec<Arg>>) -> Result<(), Error> {
        self.takes_rows()?;
        for key in keys {
            if self.later.is_much() {
                self.tell().await?;
            }
            self.later.remove(shape, key);
        }
        Ok(())
    }

    /// Runs several statements without arguments.
    pub(super) async fn script(&mut self, text: &'static str) -> Result<(), Error> {
        self.before(text).await?;
        self.check()?;
        let done = match &mut self.connection {
            Connected::Writer(held) => held.writer().and_then(|writer| writer.run(text)),
            Connected::Postgres(connection) => {
                // Where rows are kept in the order of their key is SQLite's to say.
                let text = AssertSqlSafe(text.replace(") without rowid;", ");"));
                sqlx::raw_sql(text).execute(&mut **connection).await.map(|_| ()).map_err(failed)
            }
            Connected::Reader(_) | Connected::PostgresReader(_) => Err(Error::internal("a reader can't write")),
        };
        self.checked(done)
    }

    /// Whoever changes the schema does so alone. SQLite's one writer is.
    pub(super) async fn lock_schema(&mut self) -> Result<(), Error> {
        match self.connection {
            Connected::Postgres(_) => self.script("select pg_advisory_xact_lock(7305804402)").await,
            Connected::Writer(_) | Connected::Reader(_) | Connected::PostgresReader(_) => Ok(()),
        }
    }

    /// ` for update skip locked` where the database has it: the one dialect function. SQLite has one writer and needs
    /// none.
    pub(super) fn skip_locked(&self) -> &'static str {
        match self.connection {
            Connected::Postgres(_) => " for update skip locked",
            Connected::Writer(_) | Connected::Reader(_) | Connected::PostgresReader(_) => "",
        }
    }

    /// What makes a database explain a statement, and the column of its answer that does.
    pub(super) fn explain(&self) -> (&'static str, usize) {
        match self.connection {
            Connected::Postgres(_) | Connected::PostgresReader(_) => ("explain", 0),
            Connected::Writer(_) | Connected::Reader(_) => ("explain query plan", 3),
        }
    }

    /// Takes a row lock where several gateways may write: ` for update`, which SQLite's one writer makes needless.
    pub(super) fn for_update(&self) -> &'static str {
        self.lock(LOCKS[0])
    }

    /// The same, shared with others who only need it to stay as it is: ` for share`.
    pub(super) fn for_share(&self) -> &'static str {
        self.lock(LOCKS[1])
    }

    fn lock(&self, lock: &'static str) -> &'static str {
        match self.connection {
            Connected::Postgres(_) => lock,
            Connected::Writer(_) | Connected::Reader(_) | Connected::PostgresReader(_) => "",
        }
    }

    /// Makes it all durable and visible. When this returns an error nothing of it was stored, unless the connection broke
    /// in the middle of the commit. Once begun, a commit goes to its end, also when nobody waits for it any more.
    pub async fn commit(mut self) -> Result<(), Error> {
        let (versions, met) = (self.versions.clone(), std::mem::take(&mut self.met_versions));
        self.ended().await?;
        met.iter().for_each(|stored| versions.put(stored));
        Ok(())
    }

    async fn ended(mut self) -> Result<(), Error> {
        if self.is_postgres() {
            return to_the_end(self.end()).await;
        }
        self.tell().await?;
        self.check()?;
        match (self.connection, self.stamped) {
            (Connected::Writer(held), Some(stamped)) => {
                let wait = held.commit(stamped)?;
                wait.await.map_err(Error::unavailable)?.map_err(Error::unavailable)
            }
            (
                Connected::Writer(_) | Connected::Reader(_) | Connected::Postgres(_) | Connected::PostgresReader(_),
                _,
            ) => Ok(()),
        }
    }

    /// Tells PostgreSQL what is outstanding, and commits.
    async fn end(mut self) -> Result<(), Error> {
        self.tell().await?;
        self.check()?;
        let late = !self.unhurried && self.clock.now() > self.stamp.plus(LONGEST);
        let (Connected::Postgres(transaction), Some(stamped)) = (self.connection, self.stamped) else { return Ok(()) };
        let result = if late {
            let _ = transaction.rollback().await;
            Err(Error::unavailable("the transaction took too long"))
        } else {
            transaction.commit().await.map_err(failed)
        };
        drop(stamped);
        result
    }
}

/// Does this to its end, also when whoever waits for it gives up.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(Error::unavailable)?
}

/// Somebody was faster.
pub(super) fn conflict(cause: String) -> Error {
    let mut conflict = Error::conflict("Somebody else has just done this. Read again and decide again.");
    conflict.cause = Some(cause);
    conflict
}

/// A unique constraint is somebody being faster; anything else is the database's trouble.
fn failed(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(fault) if fault.is_unique_violation() => conflict(error.to_string()),
        sqlx::Error::Database(fault) if fault.code().is_some_and(|code| passes(&code)) => Error::unavailable(error),
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Error::unavailable(error),
        _ => Error::internal(error),
    }
}

/// Whether this trouble of PostgreSQL passes by itself: a lost race, shutting down, no room, no connection.
fn passes(code: &str) -> bool {
    ["25P03", "40001", "40P01", "55P03"].contains(&code)
        || (code.len() == 5 && ["08", "53", "57"].iter().any(|class| code.starts_with(class)))
}
