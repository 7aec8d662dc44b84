//! The embedded database's one writer, and group commit.
//!
//! A transaction is a savepoint inside an outer transaction; the first of them needs none, for nothing else would be taken
//! back with it. Whoever ends while others wait for the writer leaves the outer one open for them; whoever ends last, or as
//! the sixty-fourth, commits it for all. A commit returns when that
//! has happened and is on disk (`synchronous = full`). Whoever gives up waiting harms nobody: what was begun is taken
//! back, and a group that nobody is left to commit is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::error::{Error, Kind};
use crate::store::sql::PATIENCE;
use crate::store::sqlite::{self, Readers, Use};
use crate::store::stamps::Stamped;

/// Most transactions in one commit.
pub(super) const GROUP: usize = 64;

/// The one writer of the embedded database.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: Connection,
    /// An outer transaction is open.
    open: bool,
    /// The transaction under way has a savepoint.
    saved: bool,
    /// A transaction was dropped in the middle; what it did is still there.
    dirty: bool,
    /// Who waits for the commit.
    group: Vec<(Stamped, oneshot::Sender<Result<(), String>>)>,
}

impl Writer {
    /// Runs statements without arguments.
    pub(super) fn run(&self, text: &'static str) -> Result<(), Error> {
        self.connection.execute_batch(text).map_err(sqlite::failed)
    }

    /// Runs one of the few words that begin and end transactions; it stays prepared.
    fn word(&self, text: &'static str) -> Result<(), Error> {
        let run = self.connection.prepare_cached(text).and_then(|mut statement| statement.raw_execute());
        run.map(|_| ()).map_err(sqlite::failed)
    }

    /// Opens a group for others to join. Waits so long for another process that has the file.
    fn open(&mut self, patience: Duration) -> Result<(), Error> {
        self.connection.busy_timeout(patience).map_err(sqlite::failed)?;
        self.word("begin immediate")?;
        self.open = true;
        Ok(())
    }

    /// Takes back what a dropped transaction left.
    fn clean(&mut self) -> Result<(), Error> {
        if self.dirty && self.saved {
            self.run("rollback to one; release one")?;
        } else if self.dirty {
            // After some errors SQLite has done so by itself.
            if !self.connection.is_autocommit() {
                self.run("rollback")?;
            }
            self.open = false;
        }
        self.dirty = false;
        Ok(())
    }

    /// Commits for everybody in the group and tells them. Waits for the disk.
    fn commit_group(&mut self) {
        let cleaned = self.clean();
        if !self.open {
            return;
        }
        let result = cleaned.and_then(|()| self.word("commit")).map_err(cause);
        if result.is_err() {
            // Nothing of the group is stored: the next one starts afresh.
            let _ = self.run("rollback");
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
    writer: Option<OwnedMutexGuard<Writer>>,
    waiting: Arc<AtomicUsize>,
}

impl Held {
    pub(super) fn writer(&mut self) -> Result<&mut Writer, Error> {
        self.writer.as_deref_mut().ok_or_else(|| Error::internal("the transaction has ended"))
    }

    /// Begins a transaction: in the open group, or with a new one. Only where another process has the file is that
    /// waited for, on a thread that may.
    async fn begin(mut self) -> Result<Held, Error> {
        if let Err(error) = self.writer()?.clean() {
            self.writer()?.commit_group();
            self.writer = None;
            return Err(Error::unavailable(cause(error)));
        }
        if !self.writer()?.open
            && let Err(error) = self.writer()?.open(Duration::ZERO)
        {
            if error.kind != Kind::Unavailable {
                self.writer = None;
                return Err(error);
            }
            let patient = move || {
                let opened = self.writer()?.open(PATIENCE);
                if opened.is_err() {
                    drop(self.writer.take());
                }
                opened.map(|()| self)
            };
            self = tokio::task::spawn_blocking(patient).await.map_err(Error::unavailable)??;
        }
        let writer = self.writer()?;
        writer.saved = !writer.group.is_empty();
        if writer.saved
            && let Err(error) = writer.word("savepoint one")
        {
            writer.commit_group();
            self.writer = None;
            return Err(Error::unavailable(cause(error)));
        }
        Ok(self)
    }

    /// Joins the group, and has it committed unless somebody waits who will. What comes out is told after the commit.
    pub(super) fn commit(mut self, stamped: Stamped) -> Result<oneshot::Receiver<Result<(), String>>, Error> {
        let alone = self.waiting.load(Ordering::SeqCst) == 0;
        let writer = self.writer()?;
        let last = alone || writer.group.len() + 1 >= GROUP;
        // A commit releases the savepoint as well.
        let released = if last || !writer.saved { Ok(()) } else { writer.word("release one") };
        let (done, wait) = oneshot::channel();
        match &released {
            Ok(()) => writer.group.push((stamped, done)),
            Err(_) => writer.dirty = true,
        }
        let waiting = self.waiting.clone();
        match self.writer.take() {
            Some(writer) if last || released.is_err() => finish(writer, &waiting),
            Some(writer) => let_go(writer, &waiting),
            None => {}
        }
        released.map(|()| wait)
    }
}

/// What the log is to say: a full disk, for one.
fn cause(error: Error) -> String {
    error.cause.clone().unwrap_or_else(|| error.to_string())
}

/// Commits the group and lets the writer go. On this thread: whoever has the writer is the only one who waits for the
/// disk, and a walk to another thread and back costs as much as the commit (`main` starts a thread more than it needs).
fn finish(mut writer: OwnedMutexGuard<Writer>, waiting: &Arc<AtomicUsize>) {
    writer.commit_group();
    let_go(writer, waiting);
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
fn let_go(guard: OwnedMutexGuard<Writer>, waiting: &Arc<AtomicUsize>) {
    let writer = OwnedMutexGuard::mutex(&guard).clone();
    drop(guard);
    if waiting.load(Ordering::SeqCst) == 0 {
        settle(&writer, waiting);
    }
}

/// Commits an open group that nobody is left to commit. Whoever has the writer now will look for himself.
fn settle(writer: &Arc<Mutex<Writer>>, waiting: &Arc<AtomicUsize>) {
    if let Ok(writer) = writer.clone().try_lock_owned()
        && writer.open
    {
        finish(writer, waiting);
    }
}

#[derive(Debug)]
pub(super) struct Embedded {
    writer: Arc<Mutex<Writer>>,
    waiting: Arc<AtomicUsize>,
    pub(super) readers: Arc<Readers>,
}

impl Embedded {
    /// Opens the file of this URL.
    pub(super) fn open(url: &str) -> Result<Embedded, Error> {
        let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
        let connection = sqlite::open(path, Use::Write).map_err(Error::unavailable)?;
        let writer = Writer { connection, open: false, saved: false, dirty: false, group: Vec::new() };
        let readers = Arc::new(Readers::of(path));
        Ok(Embedded { writer: Arc::new(Mutex::new(writer)), waiting: Arc::default(), readers })
    }

    /// Begins a transaction when it is this one's turn.
    pub(super) async fn begin(&self) -> Result<Held, Error> {
        let waiting = Waiting::new(self);
        let writer = tokio::time::timeout(PATIENCE, self.writer.clone().lock_owned()).await;
        let writer = writer.map_err(Error::unavailable)?;
        drop(waiting);
        Held { writer: Some(writer), waiting: self.waiting.clone() }.begin().await
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
