//! Resources, their versions and their index rows: one stored copy per version, and sent back as stored.

use std::sync::Arc;

use crate::error::Error;
use crate::fhir::search_index::{Row as IndexRow, is_ordered};
use crate::fhir::subscription::Change;
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::grants::visible;
use crate::store::later::Shape;
use crate::store::{Arg, Tx, Viewer};
use crate::time::Timestamp;

/// A stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it stands.
    pub key: Key,
    /// Counted from 1.
    pub version: i64,
    /// When this version was made.
    pub updated: Timestamp,
    /// The partner that created the resource.
    pub author: String,
    /// Whether this version deleted it.
    pub deleted: bool,
    /// How this version was made: `POST`, `PUT`, `DELETE`.
    pub method: String,
    /// The JSON text; empty when deleted. Never changes, so it is shared.
    pub content: Arc<str>,
}

impl Stored {
    /// The resource, parsed.
    pub fn resource(&self) -> Result<Resource, Error> {
        Resource::stored(&self.content)
    }
}

/// What a write made.
#[derive(Debug, Clone)]
pub struct Written {
    /// The version now stored.
    pub stored: Stored,
    /// Its parsed form.
    pub resource: Resource,
    /// Its index rows.
    pub rows: Vec<IndexRow>,
}

/// One change of a transaction, for those who are to be told of it.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What changed.
    pub key: Key,
    /// The version it has now.
    pub version: i64,
    /// How.
    pub change: Change,
    /// When.
    pub at: Timestamp,
    /// Its index rows; none of what is deleted.
    pub rows: Vec<IndexRow>,
}

/// Longest value in the index, in bytes: an entry of a PostgreSQL index holds no more than 2,700. Longer ones are cut
/// there and in searches alike, so they are found.
const INDEXABLE: usize = 1_000;

pub(super) fn indexable(value: &str) -> &str {
    value.get(..value.floor_char_boundary(INDEXABLE)).unwrap_or(value)
}

const VERSION: Shape =
    Shape::new("resource_version", &["type", "id", "version", "updated", "method", "author", "content"]);
const INDEX: Shape = Shape::new(
    "search_index",
    &["type", "id", "parameter", "value", "system", "text", "low", "high", "updated", "created"],
);

pub(super) const COLUMNS: &str = "v.version, v.updated, r.author, v.method, v.content";

impl Tx {
    /// What this transaction changed and has told nobody of yet, in order; it is told once.
    pub fn take_changes(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changes)
    }

    /// The current version, also when it is a deletion.
    pub async fn resource(&mut self, key: &Key) -> Result<Option<Stored>, Error> {
        if let Some(stored) = self.met.resource(key) {
            return Ok(Some(stored.clone()));
        }
        let stored = self.current(key).await?;
        let found = stored.clone().map(|stored| (key.clone(), stored));
        if self.is_alone() {
            self.met.known.extend(found);
        } else if self.is_writing() && key.kind != ResourceType::CONSENT {
            // A consent counts as it is when it is asked about.
            self.met.seen.extend(found);
        }
        Ok(stored)
    }

    async fn current(&mut self, key: &Key) -> Result<Option<Stored>, Error> {
        let text = format!(
            "select {COLUMNS} from resource r join resource_version v
             on v.type = r.type and v.id = r.id and v.version = r.version where r.type = $1 and r.id = $2"
        );
        self.stored(key, &text, args![key.kind.name(), &key.id]).await
    }

    /// The current version, also when it is a deletion, and whether the viewer may see it.
    pub async fn resource_seen_by(&mut self, key: &Key, viewer: &Viewer) -> Result<Option<(Arc<Stored>, bool)>, Error> {
        let mut args = args![key.kind.name(), &key.id];
        let seen = visible(viewer, key.kind.is_directory(), &mut args);
        let text = format!(
            "select r.version, cast(case when 1 = 1{seen} then 1 else 0 end as bigint) from resource r
             where r.type = $1 and r.id = $2"
        );
        let Some(row) = self.one(text, args).await? else { return Ok(None) };
        let stored = self.versions(vec![(key.clone(), row.int(0)?)]).await?.pop();
        Ok(Some((stored.ok_or_else(|| Error::internal("a resource without its version"))?, row.flag(1)?)))
    }

    /// The current version, locked until the end of this transaction: whoever decides on it decides alone.
    pub async fn resource_for_update(&mut self, key: &Key) -> Result<Option<Stored>, Error> {
        let lock = self.for_update();
        if lock.is_empty() || self.met.known.contains_key(key) {
            return self.resource(key).await;
        }
        let text = format!("select version from resource where type = $1 and id = $2{lock}");
        let row = self.one(text, args![key.kind.name(), &key.id]).await?;
        let version = row.map(|row| row.int(0)).transpose()?;
        // A version never changes: what was read before the lock is good if it is still the current one.
        let seen = self.met.seen.remove(key).filter(|seen| Some(seen.version) == version);
        let stored = match seen {
            Some(seen) => Some(seen),
            None => self.current(key).await?,
        };
        self.met.known.extend(stored.clone().map(|stored| (key.clone(), stored)));
        Ok(stored)
    }

    /// One version.
    pub async fn resource_version(&mut self, key: &Key, version: i64) -> Result<Option<Stored>, Error> {
        let text = format!(
            "select {COLUMNS} from resource r join resource_version v on v.type = r.type and v.id = r.id
             where r.type = $1 and r.id = $2 and v.version = $3"
        );
        self.stored(key, &text, args![key.kind.name(), &key.id, version]).await
    }

    async fn stored(&mut self, key: &Key, text: &str, args: Vec<Arg>) -> Result<Option<Stored>, Error> {
        let Some(row) = self.one(text, args).await? else { return Ok(None) };
        stored_of(key, &row).map(Some)
    }

    /// The versions of a resource, newest first, from `before` (exclusive) on, none made before `since`.
    pub async fn resource_history(
        &mut self,
        key: &Key,
        before: i64,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<Stored>, Error> {
        let text = format!(
            "select {COLUMNS} from resource r join resource_version v on v.type = r.type and v.id = r.id
             where r.type = $1 and r.id = $2 and v.version < $3 and v.updated >= $5
             order by v.version desc limit $4"
        );
        let args = args![key.kind.name(), &key.id, before, i64::try_from(most).unwrap_or(i64::MAX), since];
        let rows = self.all(text, args).await?;
        rows.iter().map(|row| stored_of(key, row)).collect()
    }

    /// Stores the first version of a resource. An id that is taken is a conflict.
    pub async fn insert_resource(
        &mut self,
        mut resource: Resource,
        id: &str,
        author: &str,
        method: &str,
        own: &str,
    ) -> Result<Written, Error> {
        let key = Key::new(resource.kind(), id);
        let stamp = self.stamp();
        resource.stamp(id, 1, stamp);
        self.run(
            "insert into resource (type, id, version, updated, created, author, deleted)
             values ($1, $2, 1, $3, $3, $4, 0)",
            args![key.kind.name(), id, stamp, author],
        )
        .await?;
        self.version(key, 1, resource, author, author, (method, Some(Vec::new())), own).await
    }

    /// Stores a new version on top of `current`; somebody who was faster makes it a conflict.
    pub async fn update_resource(
        &mut self,
        current: &Stored,
        mut resource: Resource,
        by: &str,
        own: &str,
    ) -> Result<Written, Error> {
        let key = current.key.clone();
        let version = current.version + 1;
        let stamp = self.stamp();
        resource.stamp(&key.id, version, stamp);
        self.move_version(&key, current.version, version, stamp, false).await?;
        let before = match current.deleted {
            true => None,
            false => Some(crate::fhir::search_index::rows(&current.resource()?, own)),
        };
        self.version(key, version, resource, &current.author, by, ("PUT", before), own).await
    }

    /// Takes out of the index what a new version changes; answers what has to be put in. Most of a Task stays the same
    /// from step to step: only the time of its references is renewed, which polls go by.
    async fn unindex(&mut self, key: &Key, before: &[IndexRow], rows: &[IndexRow]) -> Result<Vec<IndexRow>, Error> {
        fn of<'a>(list: &'a [IndexRow], name: &str) -> Vec<&'a IndexRow> {
            list.iter().filter(|row| row.parameter == name).collect()
        }
        let stamp = self.stamp();
        let mut names: Vec<&'static str> = before.iter().chain(rows).map(|row| row.parameter).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| of(before, name) != of(rows, name));
        if !names.is_empty() {
            let mut args = args![key.kind.name(), &key.id];
            let marks: Vec<String> = names
                .iter()
                .map(|name| {
                    args.push((*name).into());
                    format!("${}", args.len())
                })
                .collect();
            let marks = marks.join(", ");
            let text = format!("delete from search_index where type = $1 and id = $2 and parameter in ({marks})");
            self.run(text, args).await?;
        }
        // Ordered rows alone have a `created`; said so that no planner takes the index of all of them.
        let text = "update search_index set updated = $1 where type = $2 and id = $3 and coalesce(created, 0) <> 0";
        self.change("search_index", key.to_string(), text, args![stamp, key.kind.name(), &key.id]).await?;
        Ok(rows.iter().filter(|row| names.contains(&row.parameter)).cloned().collect())
    }

    /// Stores a deletion on top of `current`. Its index rows stay until it is made anew: searches look at what is there,
    /// but a page may go on from its place (`Cursor`).
    pub async fn delete_resource(&mut self, current: &Stored, by: &str) -> Result<(), Error> {
        let (key, version, stamp) = (&current.key, current.version + 1, self.stamp());
        self.move_version(key, current.version, version, stamp, true).await?;
        self.insert(VERSION, vec![args![key.kind.name(), &key.id, version, stamp, "DELETE", by, ""]]).await?;
        let (key, change) = (key.clone(), Change::Deleted);
        self.changes.push(Changed { key, version, change, at: stamp, rows: Vec::new() });
        Ok(())
    }

    async fn move_version(&mut self, key: &Key, from: i64, to: i64, at: Timestamp, deleted: bool) -> Result<(), Error> {
        let changed = self
            .run(
                "update resource set version = $1, updated = $2, deleted = $3 where type = $4 and id = $5 and version = $6",
                args![to, at, deleted, key.kind.name(), &key.id, from],
            )
            .await?;
        self.met.known.remove(key);
        self.met.seen.remove(key);
        if self.marks.are_kept() {
            for grantee in self.grantees(key).await? {
                self.marks.changed_for(&grantee, key.kind, at);
            }
        }
        if changed == 0 {
            return Err(Error::conflict(format!("{key} has just changed. Read it again and decide again.")));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    async fn version(
        &mut self,
        key: Key,
        version: i64,
        resource: Resource,
        author: &str,
        by: &str,
        (method, before): (&str, Option<Vec<IndexRow>>),
        own: &str,
    ) -> Result<Written, Error> {
        let stamp = self.stamp();
        let content = resource.to_text();
        let row = args![key.kind.name(), &key.id, version, stamp, method, by, content.as_str()];
        self.insert(VERSION, vec![row]).await?;
        let rows = crate::fhir::search_index::rows(&resource, own);
        let change = if version > 1 && before.is_some() { Change::Updated } else { Change::Created };
        self.changes.push(Changed { key: key.clone(), version, change, at: stamp, rows: rows.clone() });
        match before {
            Some(before) if version > 1 => {
                let new = self.unindex(&key, &before, &rows).await?;
                self.index(&key, &new, None).await?;
            }
            Some(_) => self.index(&key, &rows, Some(stamp)).await?,
            // Made anew after a deletion: what stood last goes.
            None => {
                let text = "delete from search_index where type = $1 and id = $2";
                self.run(text, args![key.kind.name(), &key.id]).await?;
                self.index(&key, &rows, None).await?;
            }
        }
        let stored = Stored {
            key,
            version,
            updated: stamp,
            author: author.to_string(),
            deleted: false,
            method: method.to_string(),
            content: content.into(),
        };
        self.met.known.insert(stored.key.clone(), stored.clone());
        self.marks.changed(stored.key.kind, stamp);
        Ok(Written { stored, resource, rows })
    }

    /// Puts rows into the index; an ordered one carries the time its resource was created.
    pub(super) async fn index(
        &mut self,
        key: &Key,
        rows: &[IndexRow],
        created: Option<Timestamp>,
    ) -> Result<(), Error> {
        let updated = self.stamp();
        let ordered = |row: &IndexRow| is_ordered(key.kind, row.parameter);
        let created = match created {
            None if rows.iter().any(ordered) => {
                let text = "select created from resource where type = $1 and id = $2";
                let row = self.one(text, args![key.kind.name(), &key.id]).await?;
                row.map(|row| row.time(0)).transpose()?
            }
            known => known,
        };
        let list = rows
            .iter()
            .map(|row| {
                let (value, system) = (indexable(&row.value), indexable(&row.system));
                let created = created.filter(|_| ordered(row));
                let text = row.text.as_str();
                args![key.kind.name(), &key.id, row.parameter, value, system, text, row.low, row.high, updated, created]
            })
            .collect();
        self.insert(INDEX, list).await
    }
}

pub(super) fn stored_of(key: &Key, row: &crate::store::Row) -> Result<Stored, Error> {
    let method = row.text(3)?;
    Ok(Stored {
        key: key.clone(),
        version: row.int(0)?,
        updated: row.time(1)?,
        author: row.text(2)?,
        deleted: method == "DELETE",
        method,
        content: row.str(4)?.into(),
    })
}
