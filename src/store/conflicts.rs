//! Conflicts with partners' servers, both versions: for a person to decide, and a record of what was decided.

use crate::error::Error;
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// A conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The Task here.
    pub task: String,
    /// `status`, `gone`, `refused`, `unread`.
    pub what: String,
    /// The source's Task.
    pub referral: String,
    /// Whose server says otherwise.
    pub partner: String,
    /// Our version when it was found.
    pub version: i64,
    /// Their version.
    pub theirs: Option<String>,
    /// In words; never health data.
    pub why: String,
    /// When it was first found.
    pub found_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Most that are listed at once, oldest first.
const LISTED: i64 = 500;

const COLUMNS: &str = "task, what, referral, partner, version, theirs, why, found_at, ended_at";

fn read(row: &Row) -> Result<Conflict, Error> {
    Ok(Conflict {
        task: row.text(0)?,
        what: row.text(1)?,
        referral: row.text(2)?,
        partner: row.text(3)?,
        version: row.int(4)?,
        theirs: row.text_or_null(5)?,
        why: row.text(6)?,
        found_at: row.time(7)?,
        ended_at: row.time_or_null(8)?,
    })
}

impl Tx {
    /// One, whether it has ended or not.
    pub async fn conflict(&mut self, task: &str, what: &str) -> Result<Option<Conflict>, Error> {
        let text = format!("select {COLUMNS} from conflict where task = $1 and what = $2");
        self.one(text, args![task, what]).await?.as_ref().map(read).transpose()
    }

    /// Those of a referral, or all, that have not ended.
    pub async fn conflicts(&mut self, referral: Option<&str>) -> Result<Vec<Conflict>, Error> {
        let (which, args) = match referral {
            Some(referral) => ("referral = $2 and", args![LISTED, referral]),
            None => ("", args![LISTED]),
        };
        let text = format!(
            "select {COLUMNS} from conflict where {which} ended_at is null order by found_at, task, what limit $1"
        );
        self.all(text, args).await?.iter().map(read).collect()
    }

    /// Puts one on record. One that goes on keeps when it was found.
    pub async fn put_conflict(&mut self, conflict: &Conflict) -> Result<(), Error> {
        let one = conflict.clone();
        self.run(
            "insert into conflict (task, what, referral, partner, version, theirs, why, found_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict (task, what) do update set version = excluded.version, theirs = excluded.theirs,
             why = excluded.why, partner = excluded.partner,
             found_at = case when conflict.ended_at is null then conflict.found_at else excluded.found_at end,
             ended_at = null, ended_by = null",
            args![one.task, one.what, one.referral, one.partner, one.version, one.theirs, one.why, one.found_at],
        )
        .await?;
        Ok(())
    }

    /// Ends those of a Task that are of these kinds; how many there were.
    pub async fn end_conflicts(&mut self, task: &str, what: &[&str], by: &str) -> Result<u64, Error> {
        let stamp = self.stamp();
        let mut args = args![stamp, by, task];
        let mut marks = Vec::new();
        for one in what {
            args.push((*one).into());
            marks.push(format!("${}", args.len()));
        }
        let text = format!(
            "update conflict set ended_at = $1, ended_by = $2 where task = $3 and ended_at is null and what in ({})",
            marks.join(", ")
        );
        self.run(text, args).await
    }
}
