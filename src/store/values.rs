//! Values for placeholders, and rows of either database: text and bigint, nothing else.

use rusqlite::types::Value;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::error::Error;
use crate::time::Timestamp;

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
    /// a column of texts, for PostgreSQL
    Texts(Vec<Option<String>>),
    /// a column of bigints, for PostgreSQL
    Ints(Vec<Option<i64>>),
}

impl Arg {
    /// The placeholder of the column that this is a value of.
    pub(super) fn list_type(&self, number: usize) -> String {
        match self {
            Arg::Text(_) | Arg::NoText | Arg::Texts(_) => format!("${number}::text[]"),
            Arg::Int(_) | Arg::NoInt | Arg::Ints(_) => format!("${number}::bigint[]"),
        }
    }

    /// Rows as columns.
    pub(super) fn lists(rows: Vec<Vec<Arg>>) -> Vec<Arg> {
        let empty = |arg: &Arg| match arg {
            Arg::Text(_) | Arg::NoText | Arg::Texts(_) => Arg::Texts(Vec::new()),
            Arg::Int(_) | Arg::NoInt | Arg::Ints(_) => Arg::Ints(Vec::new()),
        };
        let mut lists: Vec<Arg> = rows.first().into_iter().flatten().map(empty).collect();
        for row in rows {
            for (list, arg) in lists.iter_mut().zip(row) {
                let (text, number) = match arg {
                    Arg::Text(text) => (Some(text), None),
                    Arg::Int(number) => (None, Some(number)),
                    Arg::NoText | Arg::NoInt | Arg::Texts(_) | Arg::Ints(_) => (None, None),
                };
                match list {
                    Arg::Texts(list) => list.push(text),
                    Arg::Ints(list) => list.push(number),
                    Arg::Text(_) | Arg::Int(_) | Arg::NoText | Arg::NoInt => {}
                }
            }
        }
        lists
    }
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
    Sqlite(Vec<Value>),
    /// of PostgreSQL
    Postgres(PgRow),
}

impl Row {
    /// A text column that is not null.
    pub fn text(&self, index: usize) -> Result<String, Error> {
        self.str(index).map(str::to_string)
    }
    /// The same where it stands.
    pub fn str(&self, index: usize) -> Result<&str, Error> {
        match self {
            Row::Sqlite(row) => match row.get(index) {
                Some(Value::Text(text)) => Ok(text),
                _ => Err(Error::internal(format!("column {index} is no text"))),
            },
            Row::Postgres(row) => row.try_get(index).map_err(Error::internal),
        }
    }
    /// A text column.
    pub fn text_or_null(&self, index: usize) -> Result<Option<String>, Error> {
        match self {
            Row::Sqlite(row) => match row.get(index) {
                Some(Value::Text(text)) => Ok(Some(text.clone())),
                Some(Value::Null) => Ok(None),
                _ => Err(Error::internal(format!("column {index} is no text"))),
            },
            Row::Postgres(row) => row.try_get(index).map_err(Error::internal),
        }
    }
    /// A bigint column that is not null.
    pub fn int(&self, index: usize) -> Result<i64, Error> {
        self.int_or_null(index)?.ok_or_else(|| Error::internal(format!("column {index} is null")))
    }
    /// A bigint column.
    pub fn int_or_null(&self, index: usize) -> Result<Option<i64>, Error> {
        match self {
            Row::Sqlite(row) => match row.get(index) {
                Some(Value::Integer(number)) => Ok(Some(*number)),
                Some(Value::Null) => Ok(None),
                _ => Err(Error::internal(format!("column {index} is no number"))),
            },
            Row::Postgres(row) => row.try_get(index).map_err(Error::internal),
        }
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
