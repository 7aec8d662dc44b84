//! Resources, their versions and their index rows: one stored copy per version, and sent back as stored.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::Error;
use crate::fhir::search_index::{Row as IndexRow, is_found, is_ordered, number};
use crate::fhir::subscription::Change;
use crate::fhir::{Key, Resource};
use crate::store::grants::visible;
use crate::store::later::Shape;
use crate::store::packed::{pack, unpack};
use crate::store::{Arg, Tx, Viewer, When};
use crate::time::Timestamp;

/// A stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it stands.
    pub key: Key,
    /// What the index knows the resource by; 0 of what is not stored.
    pub number: i64,
    /// Counted from 1.
    pub version: i64,
    /// When this version was made.
    pub updated: Timestamp,
    /// When the resource was.
    pub created: Timestamp,
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
    pub resource: Arc<Resource>,
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
    pub rows: Arc<[IndexRow]>,
}

/// Longest value in the index, in bytes: an entry of a PostgreSQL index holds no more than 2,700. Longer ones are cut
/// there and in searches alike, so they are found.
const INDEXABLE: usize = 1_000;

pub(super) fn indexable(value: &str) -> &str {
    value.get(..value.floor_char_boundary(INDEXABLE)).unwrap_or(value)
}

pub(super) const RESOURCE: Shape =
    Shape::new("resource", &["type", "id", "number", "version", "updated", "created", "author", "deleted"], 2);
const VERSION: Shape =
    Shape::new("resource_version", &["type", "id", "version", "updated", "method", "author", "content"], 3);
/// A row has its place among those of its parameter.
const INDEX: Shape = Shape::new(
    "search_index",
    &["resource", "parameter", "place", "found", "value", "system", "text", "low", "high", "updated", "created"],
    3,
);

/// What [`stored_of`] reads; others may follow.
pub(super) const COLUMNS: &str = "v.version, v.updated, r.author, v.method, v.content, r.created, r.number";

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
        if self.met.unused.contains(key) {
            return Ok(None);
        }
        let stored = self.current(key).await?;
        let found = stored.clone().map(|stored| (key.clone(), stored));
        if self.is_alone() {
            self.met.known.extend(found);
        } else if self.is_writing() {
            self.met.seen.extend(found);
        }
        Ok(stored)
    }

    async fn current(&mut self, key: &Key) -> Result<Option<Stored>, Error> {
        let text = format!(
            "select {COLUMNS} from resource r join resource_version v
             on v.type = r.type and v.id = r.id and v.version = r.version where r.type = $1 and r.id = $2"
        );
        let place = args![key.kind.name(), &key.id];
        let row = self.one_named(RESOURCE, &place, text, place.clone()).await?;
        row.map(|row| stored_of(key, &row)).transpose()
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
        self.locked(key, self.for_update()).await
    }

    /// The current version, which nobody changes until the end of this transaction: many may rest on it at once.
    pub async fn resource_held(&mut self, key: &Key) -> Result<Option<Stored>, Error> {
        self.locked(key, self.for_share()).await
    }

    async fn locked(&mut self, key: &Key, lock: &'static str) -> Result<Option<Stored>, Error> {
        if lock.is_empty() || self.met.known.contains_key(key) {
            return self.resource(key).await;
        }
        let text = format!("select version from resource where type = $1 and id = $2{lock}");
        let place = args![key.kind.name(), &key.id];
        let row = self.one_named(RESOURCE, &place, text, place.clone()).await?;
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

    /// The versions of a resource, newest first, from `before` (exclusive) on.
    pub async fn resource_history(
        &mut self,
        key: &Key,
        before: i64,
        when: &When,
        most: usize,
    ) -> Result<Vec<Stored>, Error> {
        let mut args = args![key.kind.name(), &key.id, before, i64::try_from(most).unwrap_or(i64::MAX)];
        let time = when.of_version("v.updated", &mut args);
        let text = format!(
            "select {COLUMNS} from resource r join resource_version v on v.type = r.type and v.id = r.id
             where r.type = $1 and r.id = $2 and v.version < $3{time} order by v.version desc limit $4"
        );
        let rows = self.all(text, args).await?;
        rows.iter().map(|row| stored_of(key, row)).collect()
    }

    /// Stores the first version of a resource. An id that is taken is a conflict, at the commit at the latest.
    pub async fn insert_resource(
        &mut self,
        resource: Resource,
        id: &str,
        author: &str,
        method: &str,
        own: &str,
    ) -> Result<Written, Error> {
        let key = Key::new(resource.kind(), id);
        let (stamp, number) = (self.stamp(), self.number().await?);
        self.insert(RESOURCE, vec![args![key.kind.name(), id, number, 1, stamp, stamp, author, false]]).await?;
        self.met.unused.remove(&key);
        self.met.born.insert(key.clone());
        if !self.met.linked {
            self.met.links.insert(key.clone(), Vec::new());
        }
        let (author, method, content) = (author.to_string(), method.to_string(), "".into());
        let (version, deleted) = (1, false);
        let first = Stored { key, number, version, updated: stamp, created: stamp, author, deleted, method, content };
        let by = first.author.clone();
        self.version(first, resource, &by, Some(Arc::default()), own).await
    }

    /// Stores a new version on top of `current`; somebody who was faster makes it a conflict.
    pub async fn update_resource(
        &mut self,
        current: &Stored,
        resource: Resource,
        by: &str,
        own: &str,
    ) -> Result<Written, Error> {
        let (version, stamp) = (current.version + 1, self.stamp());
        self.move_version(current, version, stamp, false).await?;
        let before = match current.deleted {
            true => None,
            false => Some(self.indexed(current, own)?),
        };
        let method = "PUT".to_string();
        let next = Stored { version, updated: stamp, deleted: false, method, content: "".into(), ..current.clone() };
        self.version(next, resource, by, before, own).await
    }

    /// Stores a deletion on top of `current`. Its index rows stay until it is made anew: searches look at what is there,
    /// but a page may go on from its place (`Cursor`).
    pub async fn delete_resource(&mut self, current: &Stored, by: &str) -> Result<(), Error> {
        let (key, version, stamp) = (&current.key, current.version + 1, self.stamp());
        self.move_version(current, version, stamp, true).await?;
        self.insert(VERSION, vec![args![key.kind.name(), &key.id, version, stamp, "DELETE", by, ""]]).await?;
        let (key, change) = (key.clone(), Change::Deleted);
        self.changes.push(Changed { key, version, change, at: stamp, rows: Arc::default() });
        Ok(())
    }

    async fn move_version(&mut self, current: &Stored, to: i64, at: Timestamp, deleted: bool) -> Result<(), Error> {
        let key = &current.key;
        let place = args![key.kind.name(), &key.id];
        let mut moved = true;
        if self.met.known.get(key).is_some_and(|known| known.version == current.version) {
            let values = vec![("version", to.into()), ("updated", at.into()), ("deleted", deleted.into())];
            self.set(RESOURCE, place, values).await?;
        } else {
            let text = "update resource set version = $3, updated = $4, deleted = $5 where type = $1 and id = $2 and version = $6";
            let args = [place, args![to, at, deleted, current.version]].concat();
            moved = self.run(text, args).await? > 0;
        }
        self.met.known.remove(key);
        self.met.seen.remove(key);
        // To whom it was granted in this transaction, the grant has said it.
        if self.marks.are_kept() && !self.met.born.contains(key) {
            for grantee in self.grantees(key).await? {
                self.marks.changed_for(&grantee, key.kind, at);
            }
        }
        if !moved {
            return Err(Error::conflict(format!("{key} has just changed. Read it again and decide again.")));
        }
        Ok(())
    }

    /// Stores what a new version says; what is `before` in the index is none where it was deleted.
    async fn version(
        &mut self,
        mut stored: Stored,
        mut resource: Resource,
        by: &str,
        before: Option<Arc<[IndexRow]>>,
        own: &str,
    ) -> Result<Written, Error> {
        let (key, version, stamp) = (stored.key.clone(), stored.version, self.stamp());
        resource.stamp(&key.id, version, stamp);
        stored.content = resource.to_text().into();
        let row = args![key.kind.name(), &key.id, version, stamp, &stored.method, by, pack(&stored.content)?];
        self.insert(VERSION, vec![row]).await?;
        let (resource, rows) = self.met.wrote(&stored.content, resource, own);
        let change = if version > 1 && before.is_some() { Change::Updated } else { Change::Created };
        self.changes.push(Changed { key: key.clone(), version, change, at: stamp, rows: rows.clone() });
        // Made anew after a deletion: what stood last goes.
        if before.is_none() {
            self.run("delete from search_index where resource = $1", args![stored.number]).await?;
        }
        self.index(&stored, before.as_deref().unwrap_or_default(), &rows).await?;
        self.marks.changed(key.kind, stamp);
        self.met.known.insert(key, stored.clone());
        Ok(Written { stored, resource })
    }

    /// Puts into the index what a version says, where the version before said `before`. Most of a Task stays the same from
    /// step to step: only the time of its ordered rows is renewed, which polls go by.
    pub(super) async fn index(&mut self, stored: &Stored, before: &[IndexRow], rows: &[IndexRow]) -> Result<(), Error> {
        let (kind, at) = (stored.key.kind, stored.updated);
        let mut stood: BTreeMap<(&str, i64), &IndexRow> = placed(before).collect();
        let mut new = Vec::new();
        for ((name, place), row) in placed(rows) {
            // An ordered row carries the times of its resource.
            let ordered = is_ordered(kind, name);
            let updated = if ordered { at } else { Timestamp(0) };
            let key = args![stored.number, number(kind, name), place];
            let (value, system) = (indexable(&row.value), indexable(&row.system));
            match stood.remove(&(name, place)) {
                Some(same) if same == row && !ordered => {}
                Some(same) if same == row => self.set(INDEX, key, vec![("updated", updated.into())]).await?,
                Some(_) => {
                    let values = vec![
                        ("value", value.into()),
                        ("system", system.into()),
                        ("text", row.text.as_str().into()),
                        ("low", row.low.into()),
                        ("high", row.high.into()),
                        ("updated", updated.into()),
                    ];
                    self.set(INDEX, key, values).await?;
                }
                None => {
                    let created = ordered.then_some(stored.created);
                    let (found, text) = (is_found(kind, name), row.text.as_str());
                    new.push([key, args![found, value, system, text, row.low, row.high, updated, created]].concat());
                }
            }
        }
        let gone = stood.into_keys().map(|(name, place)| args![stored.number, number(kind, name), place]);
        self.remove(INDEX, gone.collect()).await?;
        self.insert(INDEX, new).await
    }
}

/// Rows with the name of their parameter and their place among its own.
fn placed(rows: &[IndexRow]) -> impl Iterator<Item = ((&'static str, i64), &IndexRow)> {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    rows.iter().map(move |row| {
        let count = counts.entry(row.parameter).or_default();
        *count += 1;
        ((row.parameter, *count), row)
    })
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
        content: unpack(row.str(4)?)?,
        created: row.time(5)?,
        number: row.int(6)?,
    })
}
