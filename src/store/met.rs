//! What a transaction has met: read and locked, or written, and so certain until its end. No statement twice for one row.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::Error;
use crate::fhir::search_index::{self, Row as IndexRow};
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::resources::{COLUMNS, RESOURCE, stored_of};
use crate::store::{Arg, Link, Referral, Relay, Stored, Tx, Viewer};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Current versions that can't change under us.
    pub(super) known: HashMap<Key, Stored>,
    /// Current versions when they were read; somebody else may have changed them since.
    pub(super) seen: HashMap<Key, Stored>,
    /// Referrals whose row is ours.
    pub(super) referrals: HashMap<String, Referral>,
    /// All relays of a referral whose row is ours.
    pub(super) relays: HashMap<String, Vec<Relay>>,
    /// Where resources came from, or were sent to.
    pub(super) links: HashMap<Key, Vec<Link>>,
    /// A link was made: what has none yet may have one.
    pub(super) linked: bool,
    /// Ids that were just made up: nobody has them yet.
    pub(super) unused: HashSet<Key>,
    /// Made in this transaction: whoever may see them was granted it here.
    pub(super) born: HashSet<Key>,
    /// Who may see what, one grantee at a time.
    grants: HashSet<(String, Key)>,
    /// Who is told of a change though nobody shows it to him any more.
    parted: HashSet<(String, Key)>,
    /// What texts say, by where they lie in memory.
    said: HashMap<usize, Said>,
}

/// A text, which stays where it is as long as this does, and what it says.
#[derive(Debug)]
struct Said {
    text: Arc<str>,
    resource: Arc<Resource>,
    rows: Option<Arc<[IndexRow]>>,
}

fn place_of(text: &Arc<str>) -> usize {
    text.as_ptr().addr()
}

impl Met {
    /// The current version, as far as it was read.
    pub(super) fn resource(&self, key: &Key) -> Option<&Stored> {
        self.known.get(key).or_else(|| self.seen.get(key))
    }

    /// This text was just made of this resource; its index rows.
    pub(super) fn wrote(&mut self, text: &Arc<str>, resource: Resource, own: &str) -> (Arc<Resource>, Arc<[IndexRow]>) {
        let rows: Arc<[IndexRow]> = search_index::rows(&resource, own).into();
        let resource = Arc::new(resource);
        let said = Said { text: text.clone(), resource: resource.clone(), rows: Some(rows.clone()) };
        self.said.insert(place_of(text), said);
        (resource, rows)
    }

    /// This grantee may see it.
    pub(super) fn granted(&mut self, grantee: &str, key: &Key) {
        self.grants.insert((grantee.to_string(), key.clone()));
    }

    /// Somebody was waited for, who may have taken back a consent: it counts as it is now.
    pub(super) fn waited(&mut self) {
        self.seen.retain(|key, _| key.kind != ResourceType::CONSENT);
    }

    /// This grantee is told that something has changed, without what.
    pub(super) fn parts(&mut self, grantee: &str, key: &Key) {
        self.parted.insert((grantee.to_string(), key.clone()));
    }

    /// Who is certain to see it, or to be told of it.
    pub(super) fn grantees<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a String> {
        self.grants.iter().chain(&self.parted).filter(move |(_, its)| its == key).map(|(grantee, _)| grantee)
    }

    /// Somebody has lost a grant: asked again, everybody's are looked up.
    pub(super) fn narrowed(&mut self) {
        self.grants.clear();
        self.born.clear();
    }

    /// Whether it is certain that the viewer may see it.
    pub(super) fn may_see(&self, viewer: &Viewer, key: &Key) -> bool {
        match viewer {
            Viewer::Operator => true,
            Viewer::Grantees(list) => list.iter().any(|one| self.grants.contains(&(one.clone(), key.clone()))),
        }
    }

    /// A relay is stored, or has changed.
    pub(super) fn relay(&mut self, relay: &Relay) {
        if let Some(list) = self.relays.get_mut(&relay.referral) {
            match list.iter_mut().find(|one| one.task == relay.task) {
                Some(one) => *one = relay.clone(),
                None => list.push(relay.clone()),
            }
        }
    }
}

impl Tx {
    /// Whether a question has a way to go, so that it pays to ask several at once.
    pub fn is_remote(&self) -> bool {
        self.is_postgres()
    }

    /// What a version says: parsed once in a transaction, however often it is asked for.
    pub fn parsed(&mut self, stored: &Stored) -> Result<Arc<Resource>, Error> {
        let said = self.met.said.get(&place_of(&stored.content));
        if let Some(said) = said.filter(|said| Arc::ptr_eq(&said.text, &stored.content)) {
            return Ok(said.resource.clone());
        }
        let (text, resource) = (stored.content.clone(), Arc::new(stored.resource()?));
        self.met.said.insert(place_of(&text), Said { text, resource: resource.clone(), rows: None });
        Ok(resource)
    }

    /// Its index rows.
    pub(super) fn indexed(&mut self, stored: &Stored, own: &str) -> Result<Arc<[IndexRow]>, Error> {
        let resource = self.parsed(stored)?;
        let said = self.met.said.get_mut(&place_of(&stored.content));
        if let Some(rows) = said.as_ref().and_then(|said| said.rows.as_ref()) {
            return Ok(rows.clone());
        }
        let rows: Arc<[IndexRow]> = search_index::rows(&resource, own).into();
        said.into_iter().for_each(|said| said.rows = Some(rows.clone()));
        Ok(rows)
    }

    /// An id that was just made up: nobody has to look whether it is taken.
    pub fn unused(&mut self, key: &Key) {
        self.met.unused.insert(key.clone());
    }

    /// Reads the current versions of these resources ahead, and whether one of these grantees may see each, all at once.
    /// Answers those that were not met before.
    pub async fn look_ahead(&mut self, mut keys: Vec<Key>, grantees: &[String]) -> Result<Vec<Stored>, Error> {
        if !self.is_remote() || !self.is_writing() {
            return Ok(Vec::new());
        }
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| {
            let met = self.met.resource(key).is_some() || self.met.unused.contains(key);
            !met && !self.later.touches(RESOURCE, &[key.kind.name().into(), (&key.id).into()])
        });
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // What is outstanding is none of theirs.
        let text = format!(
            "select {COLUMNS}, r.type, r.id, (select min(g.partner) from unnest($3::text[]) as one (partner)
             join resource_grant g on g.partner = one.partner and g.type = r.type and g.id = r.id and g.ended is null)
             from unnest($1::text[], $2::text[]) as asked (type, id)
             join resource r on r.type = asked.type and r.id = asked.id
             join resource_version v on v.type = r.type and v.id = r.id and v.version = r.version"
        );
        let list = |texts: Vec<&str>| Arg::Texts(texts.into_iter().map(|text| Some(text.to_string())).collect());
        let kinds = list(keys.iter().map(|key| key.kind.name()).collect());
        let ids = list(keys.iter().map(|key| key.id.as_str()).collect());
        let grantees = list(grantees.iter().map(String::as_str).collect());
        let mut found = Vec::with_capacity(keys.len());
        for row in self.ask_now(text, vec![kinds, ids, grantees]).await? {
            let kind = row.text(7)?;
            let kind = ResourceType::parse(&kind).ok_or_else(|| Error::internal(format!("unknown type {kind}")))?;
            let key = Key::new(kind, row.text(8)?);
            let stored = stored_of(&key, &row)?;
            if let Some(grantee) = row.text_or_null(9)? {
                self.met.granted(&grantee, &key);
            }
            // What this transaction wrote carries its stamp, and is not committed.
            if stored.updated < self.stamp() {
                self.versions.put(&Arc::new(stored.clone()));
            }
            self.met.seen.insert(key, stored.clone());
            found.push(stored);
        }
        Ok(found)
    }
}
