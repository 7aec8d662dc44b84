//! The history of a type: the versions of all its resources, newest first, as far as a viewer may see them.
//!
//! Pages are read by key: what is written in the meantime is newer than the page before, so nothing is repeated or
//! skipped. Leaves out the history of one resource (`resources`). <https://hl7.org/fhir/R4/http.html#history>

use std::cmp::Ordering;

use crate::error::Error;
use crate::fhir::search::Filter;
use crate::fhir::{Key, ResourceType};
use crate::store::grants::{marks, visible};
use crate::store::resources::{COLUMNS, Stored, stored_of};
use crate::store::search::{About, SHORT, Text, every};
use crate::store::{Arg, Tx, Viewer};
use crate::time::Timestamp;

/// Where a version stands in a history: a page goes on from the last entry of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// When it was made.
    pub updated: Timestamp,
    /// Whose version it is.
    pub id: String,
    /// Its number.
    pub version: i64,
}

impl Position {
    /// Where this version stands.
    pub fn of(stored: &Stored) -> Position {
        Position { updated: stored.updated, id: stored.key.id.clone(), version: stored.version }
    }

    /// The same place in the history of all, which this version of `own` stands in, for the versions of `other`: of one
    /// time, types follow each other by their names.
    pub fn seen_from(&self, own: ResourceType, other: ResourceType) -> Position {
        // No id is empty and no version is 0: nothing of this time is before it.
        let edge = |updated: i64| Position { updated: Timestamp(updated), id: String::new(), version: 0 };
        match own.name().cmp(other.name()) {
            Ordering::Equal => self.clone(),
            Ordering::Less => edge(self.updated.0.saturating_add(1)),
            Ordering::Greater => edge(self.updated.0),
        }
    }
}

/// Of which time the versions of a history are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// Made then or later.
    pub since: Timestamp,
    /// The current one at some point from here to there, which is exclusive.
    pub at: Option<(Timestamp, Timestamp)>,
}

impl When {
    /// Of any time.
    pub const EVER: When = When { since: Timestamp(i64::MIN), at: None };

    /// Whether the only version there is, made then, is of this time.
    pub fn covers(&self, made: Timestamp) -> bool {
        made >= self.since && self.at.is_none_or(|(_, to)| made < to)
    }

    /// Whether `resource_version v` is of this time, ` and …`.
    pub(super) fn of_version(&self, updated: &str, args: &mut Vec<Arg>) -> String {
        let mut mark = |at: Timestamp| {
            args.push(Arg::from(at));
            format!("${}", args.len())
        };
        let mut sql = format!(" and {updated} >= {}", mark(self.since));
        if let Some((from, to)) = self.at {
            // Numbers follow each other without gaps: the next version ended this one.
            sql.push_str(&format!(
                " and {updated} < {} and not exists (select 1 from resource_version n where n.type = v.type
                 and n.id = v.id and n.version = v.version + 1 and n.updated <= {})",
                mark(to),
                mark(from)
            ));
        }
        sql
    }
}

impl Tx {
    /// The versions of a type, newest first, from `before` (exclusive) on; of resources that satisfy `only` as they stand
    /// now.
    pub async fn type_history(
        &mut self,
        kind: ResourceType,
        viewer: &Viewer,
        only: &[Filter],
        before: Option<&Position>,
        when: &When,
        most: usize,
    ) -> Result<Vec<Stored>, Error> {
        let few = self.sees_few(kind, viewer).await?;
        let (sql, args) = asked(kind, viewer, only, before, when, most, few);
        let rows = self.all_aside(sql, args).await?;
        rows.iter().map(|row| stored_of(&Key::new(kind, row.text(7)?), row)).collect()
    }

    /// How the database goes about it, in its own words.
    pub async fn type_history_explained(
        &mut self,
        kind: ResourceType,
        viewer: &Viewer,
        before: Option<&Position>,
    ) -> Result<String, Error> {
        let few = self.sees_few(kind, viewer).await?;
        let (sql, args) = asked(kind, viewer, &[], before, &When::EVER, 1, few);
        let (word, column) = self.explain();
        let rows = self.all(format!("{word} {sql}"), args).await?;
        let lines: Result<Vec<String>, Error> = rows.iter().map(|row| row.text(column)).collect();
        Ok(lines?.join("\n"))
    }

    /// Whether the viewer was granted so little of a type that it is read by key.
    async fn sees_few(&mut self, kind: ResourceType, viewer: &Viewer) -> Result<bool, Error> {
        let Viewer::Grantees(grantees) = viewer else { return Ok(false) };
        if kind.is_directory() {
            return Ok(false);
        }
        let mut args = args![kind.name()];
        let granted = granted(grantees, &mut args);
        let sql = format!("select count(*) from ({granted} limit {}) as few", SHORT + 1);
        Ok(self.one(sql, args).await?.map_or(Ok(0), |row| row.int(0))? <= SHORT)
    }
}

/// The ids of a type, which is the first argument, that these were granted.
fn granted(grantees: &[String], args: &mut Vec<Arg>) -> String {
    let partners = marks(grantees, args);
    format!("select g.id from resource_grant g where g.partner in ({partners}) and g.type = $1 and g.ended is null")
}

fn asked(
    kind: ResourceType,
    viewer: &Viewer,
    only: &[Filter],
    before: Option<&Position>,
    when: &When,
    most: usize,
    few: bool,
) -> (String, Vec<Arg>) {
    let mut args = args![kind.name(), i64::try_from(most).unwrap_or(i64::MAX)];
    // Of a short list, none is looked for along the order of all: `+ 0` keeps the planner from trying.
    let (seen, at) = match viewer {
        Viewer::Grantees(grantees) if few => {
            (format!(" and v.id in ({})", granted(grantees, &mut args)), "v.updated + 0")
        }
        Viewer::Grantees(_) | Viewer::Operator => (visible(viewer, kind.is_directory(), &mut args), "v.updated"),
    };
    let mut edge = when.of_version(at, &mut args);
    if let Some(before) = before {
        let first = args.len() + 1;
        args.extend(args![before.updated, &before.id, before.version]);
        edge.push_str(&format!(" and ({at}, v.id, v.version) < (${first}, ${}, ${})", first + 1, first + 2));
    }
    let mut text = Text { args };
    let only = every(only, About { kind, viewer, depth: 0 }, &mut text);
    // A cross join is taken in this order by SQLite.
    let sql = format!(
        "select {COLUMNS}, v.id from resource_version v cross join resource r
         where v.type = $1 and r.type = v.type and r.id = v.id{only}{seen}{edge}
         order by {at} desc, v.id desc, v.version desc limit $2"
    );
    (sql, text.args)
}
