//! The history of a type: the versions of all its resources, newest first, as far as a viewer may see them.
//!
//! Pages are read by key: what is written in the meantime is newer than the page before, so nothing is repeated or
//! skipped. Leaves out the history of one resource (`resources`). <https://hl7.org/fhir/R4/http.html#history>

use std::cmp::Ordering;

use crate::error::Error;
use crate::fhir::{Key, ResourceType};
use crate::store::grants::{marks, visible};
use crate::store::resources::{COLUMNS, Stored, stored_of};
use crate::store::search::SHORT;
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

impl Tx {
    /// The versions of a type, newest first, from `before` (exclusive) on, none made before `since`.
    pub async fn type_history(
        &mut self,
        kind: ResourceType,
        viewer: &Viewer,
        before: Option<&Position>,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<Stored>, Error> {
        let few = self.sees_few(kind, viewer).await?;
        let (sql, args) = asked(kind, viewer, before, since, most, few);
        let rows = self.all_aside(sql, args).await?;
        rows.iter().map(|row| stored_of(&Key::new(kind, row.text(6)?), row)).collect()
    }

    /// How the database goes about it, in its own words.
    pub async fn type_history_explained(
        &mut self,
        kind: ResourceType,
        viewer: &Viewer,
        before: Option<&Position>,
    ) -> Result<String, Error> {
        let few = self.sees_few(kind, viewer).await?;
        let (sql, args) = asked(kind, viewer, before, Timestamp(i64::MIN), 1, few);
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
    before: Option<&Position>,
    since: Timestamp,
    most: usize,
    few: bool,
) -> (String, Vec<Arg>) {
    let mut args = args![kind.name(), since, i64::try_from(most).unwrap_or(i64::MAX)];
    // Of a short list, none is looked for along the order of all: `+ 0` keeps the planner from trying.
    let (seen, at) = match viewer {
        Viewer::Grantees(grantees) if few => {
            (format!(" and v.id in ({})", granted(grantees, &mut args)), "v.updated + 0")
        }
        Viewer::Grantees(_) | Viewer::Operator => (visible(viewer, kind.is_directory(), &mut args), "v.updated"),
    };
    let mut edge = String::new();
    if let Some(before) = before {
        let first = args.len() + 1;
        args.extend(args![before.updated, &before.id, before.version]);
        edge = format!(" and ({at}, v.id, v.version) < (${first}, ${}, ${})", first + 1, first + 2);
    }
    // A cross join is taken in this order by SQLite.
    let sql = format!(
        "select {COLUMNS}, v.id from resource_version v cross join resource r
         where v.type = $1 and {at} >= $2 and r.type = v.type and r.id = v.id{seen}{edge}
         order by {at} desc, v.id desc, v.version desc limit $3"
    );
    (sql, args)
}
