//! SQLite, asked on the thread that asks: a statement is a few microseconds, less than sending it to another thread.
//!
//! What may take longer goes to a thread that may wait: taking the file's lock (`writer`), and a search that turns out to
//! look through much ([`Reader::briefly`], [`Reader::aside`]).

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, ToSql};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::store::sql::{PATIENCE, conflict};
use crate::store::values::{Arg, Row};

/// Readers of the embedded database.
const READERS: usize = 4;

/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 256;

/// A search that takes no more steps than this stays on the thread that asks: about a millisecond. Walking to another
/// thread and back costs as much as a page.
const BRIEF: i32 = 20_000;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Write,
    Read,
}

/// Makes the file, if it is not there, for nobody but whom the gateway runs as: referrals and keys lie in it in clear. What
/// SQLite puts beside it is as open as the file is, and a file that is there stays as it is.
fn make(path: &str) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // What is wrong with the path is told when it is opened.
    let _ = options.open(path);
}

/// Opens the file, makes it if it is not there.
pub(super) fn open(path: &str, purpose: Use) -> Result<Connection, rusqlite::Error> {
    make(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // The checkpoint copies pages inside somebody's commit; rarer and larger is cheaper. The cache is in KiB: what is
    // read at start or by one large page must not stay in memory five times.
    connection.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on;
         pragma wal_autocheckpoint = 8000",
    )?;
    // Or a statement whose values might fit a partial index is planned anew each time it is asked.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(match purpose {
        // What a savepoint may have to take back is kept in memory, not written to a file that is thrown away.
        Use::Write => "pragma cache_size = -16384; pragma temp_store = memory",
        Use::Read => "pragma cache_size = -8192; pragma query_only = on",
    })?;
    Ok(connection)
}

impl ToSql for Arg {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Arg::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Arg::Int(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Arg::NoText | Arg::NoInt => ToSqlOutput::Owned(Value::Null),
            Arg::Texts(_) | Arg::Ints(_) => return Err(rusqlite::Error::InvalidQuery),
        })
    }
}

/// `$3` is a name to SQLite; it means the third argument. 0 is none.
fn number(statement: &CachedStatement<'_>, index: usize) -> usize {
    statement.parameter_name(index).and_then(|name| name.get(1..)?.parse().ok()).unwrap_or(0)
}

fn prepared<'a>(connection: &'a Connection, text: &str, args: &[Arg]) -> rusqlite::Result<CachedStatement<'a>> {
    let mut statement = connection.prepare_cached(text)?;
    for index in 1..=statement.parameter_count() {
        let arg = number(&statement, index).checked_sub(1).and_then(|place| args.get(place));
        statement.raw_bind_parameter(index, arg.ok_or(rusqlite::Error::InvalidParameterCount(args.len(), index))?)?;
    }
    Ok(statement)
}

/// All rows of a statement.
pub(super) fn all(connection: &Connection, text: &str, args: &[Arg]) -> Result<Vec<Row>, Error> {
    asked(connection, text, args).map_err(failed)
}

fn asked(connection: &Connection, text: &str, args: &[Arg]) -> rusqlite::Result<Vec<Row>> {
    let mut statement = prepared(connection, text, args)?;
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let cells: rusqlite::Result<Vec<Value>> = (0..columns).map(|index| row.get(index)).collect();
        found.push(Row::Sqlite(cells?));
    }
    Ok(found)
}

/// The same of a statement that reads: nothing, if it has not come to its end after so many steps.
pub(super) fn briefly(connection: &Connection, text: &str, args: &[Arg]) -> Result<Option<Vec<Row>>, Error> {
    // The count goes on from one use of a statement to the next: only the second time have so many steps gone by.
    let mut once = false;
    let enough = move || std::mem::replace(&mut once, true);
    connection.progress_handler(BRIEF, Some(enough)).map_err(failed)?;
    let rows = asked(connection, text, args);
    connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
    match rows {
        Err(rusqlite::Error::SqliteFailure(fault, _)) if fault.code == ErrorCode::OperationInterrupted => Ok(None),
        rows => rows.map(Some).map_err(failed),
    }
}

/// Runs a statement once for each of these rows of values, whose first is `$1`: placeholders stand in it in any order, but
/// are named by their numbers.
pub(super) fn run_each(connection: &Connection, text: &str, rows: &[Vec<Arg>]) -> Result<(), Error> {
    let each = || {
        let mut statement = connection.prepare_cached(text)?;
        let places: Vec<usize> = (1..=statement.parameter_count()).map(|index| number(&statement, index)).collect();
        for row in rows {
            for (index, place) in places.iter().enumerate() {
                let arg = place.checked_sub(1).and_then(|place| row.get(place));
                let arg = arg.ok_or(rusqlite::Error::InvalidParameterCount(row.len(), *place))?;
                statement.raw_bind_parameter(index + 1, arg)?;
            }
            statement.raw_execute()?;
        }
        Ok(())
    };
    each().map_err(failed)
}

/// Runs a statement; how many rows it changed.
pub(super) fn run(connection: &Connection, text: &str, args: &[Arg]) -> Result<u64, Error> {
    let changed = prepared(connection, text, args).and_then(|mut statement| statement.raw_execute());
    changed.map(|changed| changed as u64).map_err(failed)
}

/// A unique constraint is somebody being faster; busy, locked, full and broken disks may pass; anything else will not.
pub(super) fn failed(error: rusqlite::Error) -> Error {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    match &error {
        rusqlite::Error::SqliteFailure(fault, _) => match (fault.code, fault.extended_code) {
            (_, SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE) => conflict(error.to_string()),
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _)
            | (ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen, _) => {
                Error::unavailable(error)
            }
            _ => Error::internal(error),
        },
        _ => Error::internal(error),
    }
}

/// The readers' connections, opened when they are needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: String,
    idle: Mutex<Vec<Connection>>,
    room: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn of(path: &str) -> Readers {
        Readers { path: path.to_string(), idle: Mutex::default(), room: Arc::new(Semaphore::new(READERS)) }
    }

    /// A connection, when one is free.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Reader, Error> {
        let turn = tokio::time::timeout(PATIENCE, self.room.clone().acquire_owned()).await;
        let turn = turn.map_err(Error::unavailable)?.map_err(Error::unavailable)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open(&self.path, Use::Read).map_err(Error::unavailable)?,
        };
        Ok(Reader { connection: Some(connection), readers: self.clone(), _turn: turn })
    }
}

/// A connection for reading; let go, it is the next one's.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Option<Connection>,
    readers: Arc<Readers>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Before the turn is given on, so that the next one finds it.
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
    }
}

impl Reader {
    pub(super) fn all(&self, text: &str, args: &[Arg]) -> Result<Vec<Row>, Error> {
        let connection = self.connection.as_ref().ok_or_else(|| Error::internal("a reader without a connection"))?;
        all(connection, text, args)
    }

    /// The same of a statement that may look through much: nothing, if it has not come to its end before long.
    pub(super) fn briefly(&self, text: &str, args: &[Arg]) -> Result<Option<Vec<Row>>, Error> {
        let connection = self.connection.as_ref().ok_or_else(|| Error::internal("a reader without a connection"))?;
        briefly(connection, text, args)
    }

    /// The same on a thread that may take its time. Given up meanwhile, the connection goes back by itself.
    pub(super) async fn aside(self, text: String, args: Vec<Arg>) -> Result<(Reader, Vec<Row>), Error> {
        let asked = tokio::task::spawn_blocking(move || self.all(&text, &args).map(|rows| (self, rows)));
        asked.await.map_err(Error::unavailable)?
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    // Whoever else has an account on the machine reads no referrals and no keys.
    #[test]
    fn what_is_stored_is_for_nobody_else_on_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hub.db");
        let connection = open(path.to_str().unwrap(), Use::Write).unwrap();
        connection.execute_batch("create table t (a text); insert into t values ('x')").unwrap();
        let mut count = 0;
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.file_name());
            count += 1;
        }
        assert_eq!(count, 3, "the file, and what is beside it");
        // What an operator has opened to others stays so.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        drop(open(path.to_str().unwrap(), Use::Read).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
