//! The embedded database's one writer, and group commit.
//!
//! A transaction is a savepoint inside an outer transaction. Whoever ends while others wait for the writer leaves the
//! outer one open for them; whoever ends last, or as the sixty-fourth, commits it for all. A commit returns when that
//! has happened and is on disk (`synchronous = full`). Whoever gives up waiting harms nobody: what was begun is taken
//! back, and a group that nobody is left to commit is committed.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::error::Error;
use crate::store::sql::failed;
use crate::store::stamps::Stamped;

/// Most transactions in one commit.
pub(super) const GROUP: usize = 64;

/// Readers of the embedded database.
pub(super) const READERS: u32 = 4;

/// Longest anybody waits for the writer or a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The one writer of the embedded database.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: SqliteConnection,
    /// An outer transaction is open.
    pub(super) open: bool,
    /// A transaction was dropped in the middle; its savepoint is still there.
    pub(super) dirty: bool,
    /// Who waits for the commit.
    pub(super) group: Vec<(Stamped, oneshot::Sender<Result<(), String>>)>,
}

impl Writer {
    pub(super) async fn run(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(text).execute(&mut self.connection).await.map(|_| ())
    }

    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.clean().await?;
        // One walk to the connection's thread. If only half of it was done, whoever commits finds out.
        let text = if self.open { "savepoint one" } else { "begin immediate; savepoint one" };
        self.open = true;
        self.run(text).await
    }

    /// Takes back what a dropped transaction left.
    pub(super) async fn clean(&mut self) -> Result<(), sqlx::Error> {
        if self.dirty {
            self.run("rollback to one; release one").await?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Commits for everybody in the group and tells them.
    pub(super) async fn commit_group(&mut self) {
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
pub(super) struct Held {
    pub(super) writer: Option<OwnedMutexGuard<Writer>>,
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Held {
    pub(super) fn writer(&mut self) -> Result<&mut Writer, Error> {
        self.writer.as_deref_mut().ok_or_else(|| Error::internal("the transaction has ended"))
    }

    pub(super) async fn begin(mut self) -> Result<Held, Error> {
        let begun = self.writer()?.begin().await;
        if let Err(error) = begun {
            self.writer()?.commit_group().await;
            self.writer = None;
            return Err(Error::unavailable(error));
        }
        Ok(self)
    }

    /// Joins the group, and commits it unless somebody waits who will. What comes out is told after the commit.
    pub(super) async fn commit(mut self, stamped: Stamped) -> Result<oneshot::Receiver<Result<(), String>>, Error> {
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
pub(super) fn let_go(guard: OwnedMutexGuard<Writer>, waiting: &AtomicUsize) {
    let writer = OwnedMutexGuard::mutex(&guard).clone();
    drop(guard);
    if waiting.load(Ordering::SeqCst) == 0 {
        settle(&writer);
    }
}

/// Commits an open group that nobody is left to commit. Whoever has the writer now will look for himself.
pub(super) fn settle(writer: &Arc<Mutex<Writer>>) {
    let free = writer.clone().try_lock_owned();
    if let (Ok(mut writer), Ok(runtime)) = (free, tokio::runtime::Handle::try_current())
        && writer.open
    {
        runtime.spawn(async move { writer.commit_group().await });
    }
}

/// Does this to its end, also when whoever waits for it gives up.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(Error::unavailable)?
}

#[derive(Debug)]
pub(super) struct Embedded {
    pub(super) writer: Arc<Mutex<Writer>>,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) readers: SqlitePool,
}

impl Embedded {
    pub(super) async fn open(url: &str) -> Result<Embedded, Error> {
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
            // In KiB: what is read at start or by one large page must not stay in memory five times.
            .pragma("cache_size", "-16384");
        let connection = SqliteConnection::connect_with(&options).await.map_err(Error::unavailable)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            // Asking a file whether it lives costs a walk to its thread.
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().pragma("cache_size", "-8192").pragma("query_only", "on"));
        let writer = Writer { connection, open: false, dirty: false, group: Vec::new() };
        Ok(Embedded { writer: Arc::new(Mutex::new(writer)), waiting: Arc::default(), readers })
    }
}

/// Counts those who wait for the writer, also when they give up.
pub(super) struct Waiting<'a> {
    pub(super) embedded: &'a Embedded,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(embedded: &'a Embedded) -> Self {
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
