//! What a transaction has met: read and locked, or written, and so certain until its end. No statement twice for one row.

use std::collections::{HashMap, HashSet};

use crate::fhir::Key;
use crate::store::{Referral, Relay, Stored, Viewer};

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
    /// Who may see what, one grantee at a time.
    grants: HashSet<(String, Key)>,
}

impl Met {
    /// The current version, as far as it was read.
    pub(super) fn resource(&self, key: &Key) -> Option<&Stored> {
        self.known.get(key).or_else(|| self.seen.get(key))
    }

    /// This grantee may see it.
    pub(super) fn granted(&mut self, grantee: &str, key: &Key) {
        self.grants.insert((grantee.to_string(), key.clone()));
    }

    /// Somebody has lost a grant: asked again, everybody's are looked up.
    pub(super) fn narrowed(&mut self) {
        self.grants.clear();
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
