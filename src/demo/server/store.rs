//! What a simulated server stores: every version, in order of creation.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Resources in order of creation, each with its versions, oldest first. A transaction that fails gets its clone back.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) resources: Vec<Stored>,
    positions: BTreeMap<(String, String), usize>,
    last_id: usize,
}

/// A copy of what a server stored at some time.
#[derive(Debug, Clone)]
pub struct Backup(pub(super) Store);

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) type_: String,
    pub(super) id: String,
    pub(super) versions: Vec<Value>,
}

impl Store {
    pub(super) fn find(&self, type_: &str, id: &str) -> Option<&Stored> {
        self.resources.get(*self.positions.get(&(type_.to_owned(), id.to_owned()))?)
    }

    pub(super) fn next_id(&mut self, type_: &str) -> String {
        loop {
            self.last_id += 1;
            let id = self.last_id.to_string();
            if self.find(type_, &id).is_none() {
                return id;
            }
        }
    }

    /// What is there was deleted: it has no version that can be read.
    pub(super) fn erase(&mut self, type_: &str, id: &str) {
        if let Some(position) = self.positions.get(&(type_.to_owned(), id.to_owned()))
            && let Some(stored) = self.resources.get_mut(*position)
        {
            stored.versions.clear();
        }
    }

    pub(super) fn add(&mut self, type_: &str, id: &str, resource: Value, now: &str) {
        let position = *self.positions.entry((type_.to_owned(), id.to_owned())).or_insert_with(|| {
            self.resources.push(Stored { type_: type_.to_owned(), id: id.to_owned(), versions: Vec::new() });
            self.resources.len() - 1
        });
        let Some(stored) = self.resources.get_mut(position) else { return };
        let mut given = match resource {
            Value::Object(elements) => elements,
            _ => Map::new(),
        };
        let mut meta = match given.shift_remove("meta") {
            Some(Value::Object(meta)) => meta,
            _ => Map::new(),
        };
        meta.insert("versionId".to_owned(), json!((stored.versions.len() + 1).to_string()));
        meta.insert("lastUpdated".to_owned(), json!(now));
        let mut version = Map::new();
        version.insert("resourceType".to_owned(), json!(type_));
        version.insert("id".to_owned(), json!(id));
        version.insert("meta".to_owned(), Value::Object(meta));
        version.extend(given.into_iter().filter(|(name, _)| name != "resourceType" && name != "id"));
        stored.versions.push(Value::Object(version));
    }
}

pub(super) fn text<'a>(value: &'a Value, element: &str) -> &'a str {
    value.get(element).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn version(resource: &Value) -> &str {
    text(&resource["meta"], "versionId")
}
