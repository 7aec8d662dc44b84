//! Current versions that were read lately, kept in memory: a version never changes once it is committed, so whoever knows
//! its number needs no second copy of it. What may be seen, and which version is the current one, the database says anew
//! each time; only the text comes from here.
//!
//! Promises that no more than [`MOST`] bytes are kept, and nothing that was not committed: readers fill it, which see
//! nothing else, and transactions when they have ended well or with what others committed. Two generations stand for the
//! order of use: what was asked for since the last change stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::fhir::{Key, ResourceType};
use crate::store::resources::{COLUMNS, stored_of};
use crate::store::search::{CHUNK, Text};
use crate::store::{Stored, Tx};

/// Most bytes of both generations.
const MOST: usize = 16 << 20;

/// What an entry takes beside its text, about.
const AROUND: usize = 400;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Versions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    young: HashMap<Key, Arc<Stored>>,
    old: HashMap<Key, Arc<Stored>>,
    /// Of the young.
    bytes: usize,
}

impl Versions {
    fn get(&self, key: &Key, version: i64) -> Option<Arc<Stored>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = kept.young.get(key) {
            return (stored.version == version).then(|| stored.clone());
        }
        let stored = kept.old.remove(key).filter(|stored| stored.version == version)?;
        kept.put(&stored);
        Some(stored)
    }

    /// One that was the current version when it was read, and may be no more.
    fn last(&self, key: &Key) -> Option<Arc<Stored>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.young.get(key).or_else(|| kept.old.get(key)).cloned()
    }

    pub(super) fn put(&self, stored: &Arc<Stored>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(stored);
    }
}

impl Kept {
    fn put(&mut self, stored: &Arc<Stored>) {
        // A reader that was slow must not take the place of what came after.
        if self.young.get(&stored.key).is_some_and(|known| known.version > stored.version) {
            return;
        }
        let taken = self.young.insert(stored.key.clone(), stored.clone());
        self.bytes = (self.bytes + size(stored)).saturating_sub(taken.map_or(0, |taken| size(&taken)));
        if self.bytes > MOST / 2 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }
}

fn size(stored: &Stored) -> usize {
    stored.content.len() + AROUND
}

impl Tx {
    /// What a resource said when it was last read: good to guess by, and for nothing else.
    pub fn last_seen(&self, key: &Key) -> Option<Arc<Stored>> {
        self.versions.last(key)
    }

    /// These versions, which are there, in this order.
    pub(super) async fn versions(&mut self, wanted: Vec<(Key, i64)>) -> Result<Vec<Arc<Stored>>, Error> {
        let mut found: Vec<Option<Arc<Stored>>> =
            wanted.iter().map(|(key, version)| self.versions.get(key, *version)).collect();
        let mut kinds: Vec<ResourceType> = Vec::new();
        for ((key, _), _) in wanted.iter().zip(&found).filter(|(_, found)| found.is_none()) {
            if !kinds.contains(&key.kind) {
                kinds.push(key.kind);
            }
        }
        for kind in kinds {
            let missing: Vec<&(Key, i64)> = wanted
                .iter()
                .zip(&found)
                .filter(|((key, _), found)| key.kind == kind && found.is_none())
                .map(|(wanted, _)| wanted)
                .collect();
            let mut read = HashMap::new();
            for chunk in missing.chunks(CHUNK) {
                let mut text = Text::new();
                let name = text.arg(kind.name());
                let pairs: Vec<String> = chunk
                    .iter()
                    .map(|(key, version)| format!("({}, {})", text.arg(&key.id), text.arg(*version)))
                    .collect();
                let sql = format!(
                    "select {COLUMNS}, v.id from (values {}) as w cross join resource_version v
                     join resource r on r.type = v.type and r.id = v.id
                     where v.type = {name} and v.id = w.column1 and v.version = w.column2",
                    pairs.join(", ")
                );
                for row in self.all(sql, text.args).await? {
                    let stored = Arc::new(stored_of(&Key::new(kind, row.text(7)?), &row)?);
                    // A transaction may see what is not committed yet; it is kept when that is.
                    match self.is_writing() {
                        true => self.met_versions.push(stored.clone()),
                        false => self.versions.put(&stored),
                    }
                    read.insert((stored.key.clone(), stored.version), stored);
                }
            }
            for (wanted, found) in wanted.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = read.get(wanted).cloned();
            }
        }
        let all = found.into_iter().collect::<Option<Vec<_>>>();
        all.ok_or_else(|| Error::internal("a resource without its version"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn stored(id: &str, version: i64, length: usize) -> Arc<Stored> {
        Arc::new(Stored {
            key: Key::new(ResourceType::TASK, id),
            number: 0,
            version,
            updated: Timestamp(0),
            created: Timestamp(0),
            author: String::new(),
            deleted: false,
            method: "PUT".into(),
            content: "x".repeat(length).into(),
        })
    }

    #[test]
    fn a_version_is_found_by_its_number_alone() {
        let versions = Versions::default();
        let key = Key::new(ResourceType::TASK, "a");
        versions.put(&stored("a", 2, 10));
        assert!(versions.get(&key, 1).is_none() && versions.get(&key, 3).is_none());
        assert_eq!(versions.get(&key, 2).unwrap().version, 2);
        versions.put(&stored("a", 1, 10));
        assert!(versions.get(&key, 2).is_some(), "the newer one stays");
        versions.put(&stored("a", 3, 10));
        assert!(versions.get(&key, 2).is_none() && versions.get(&key, 3).is_some());
    }

    // P18
    #[test]
    fn no_more_is_kept_than_may_be_and_what_is_asked_for_stays() {
        let versions = Versions::default();
        let (key, length) = (Key::new(ResourceType::TASK, "wanted"), 100_000);
        versions.put(&stored("wanted", 1, length));
        for number in 0..1_000 {
            versions.put(&stored(&number.to_string(), 1, length));
            assert!(versions.get(&key, 1).is_some(), "{number}");
            let kept = versions.0.lock().unwrap();
            let held: usize = kept.young.values().chain(kept.old.values()).map(|stored| stored.content.len()).sum();
            assert!(held <= MOST + 2 * length, "{held}");
        }
        assert!(versions.get(&Key::new(ResourceType::TASK, "0"), 1).is_none());
    }
}
