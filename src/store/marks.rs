//! When something last changed for whom: what answers a poll that has nothing to find without asking the database.
//!
//! A mark stands for a grantee (or everybody) and a type: no resource of that type that the grantee may see has changed
//! after it. Marks are set while a transaction writes, before it commits, never taken back and never lowered: a mark
//! that stands too high costs a look into the database, and one that stood too low would hide a change. What changed
//! before this gateway started is below the floor.
//!
//! For the embedded database only, whose one gateway makes every change. With PostgreSQL the floor is never set.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::fhir::ResourceType;
use crate::store::Viewer;
use crate::time::Timestamp;

/// See the module. Grows with partners and types, not with resources.
#[derive(Debug, Default)]
pub(super) struct Marks(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    floor: Option<i64>,
    everybody: HashMap<ResourceType, i64>,
    grantees: HashMap<String, HashMap<ResourceType, i64>>,
}

impl Marks {
    /// From now on every change sets its marks; nothing stored is newer than this.
    pub(super) fn begin(&self, newest: i64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).floor = Some(newest);
    }

    /// Whether marks are kept at all.
    pub(super) fn are_kept(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).floor.is_some()
    }

    /// A resource of this type changes.
    pub(super) fn changed(&self, kind: ResourceType, at: Timestamp) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mark = inner.everybody.entry(kind).or_insert(at.0);
        *mark = at.0.max(*mark);
    }

    /// A resource of this type changes that the grantee may see, or may see from now on.
    pub(super) fn changed_for(&self, grantee: &str, kind: ResourceType, at: Timestamp) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !inner.grantees.contains_key(grantee) {
            inner.grantees.insert(grantee.to_string(), HashMap::new());
        }
        if let Some(kinds) = inner.grantees.get_mut(grantee) {
            let mark = kinds.entry(kind).or_insert(at.0);
            *mark = at.0.max(*mark);
        }
    }

    /// Whether nothing of this type that the viewer may see can have changed after this time.
    pub(super) fn nothing_after(&self, since: i64, kind: ResourceType, viewer: &Viewer) -> bool {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(floor) = inner.floor else { return false };
        let mark = match viewer {
            Viewer::Grantees(list) if !kind.is_directory() => {
                let marks = list.iter().filter_map(|grantee| inner.grantees.get(grantee)?.get(&kind));
                marks.copied().max()
            }
            Viewer::Grantees(_) | Viewer::Operator => inner.everybody.get(&kind).copied(),
        };
        since >= mark.unwrap_or(floor).max(floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_speaks_for_its_grantee_and_type_and_never_falls() {
        let (task, patient) = (ResourceType::TASK, ResourceType::parse("Patient").unwrap());
        let of = |who: &str| Viewer::Grantees(vec![who.to_string()]);
        let marks = Marks::default();
        marks.changed_for("a", task, Timestamp(5));
        assert!(!marks.nothing_after(9, task, &of("a")), "no floor, no promise");
        marks.begin(3);
        for (since, kind, who, nothing) in [
            (4, task, "a", false),
            (5, task, "a", true),
            (2, patient, "a", false),
            (3, patient, "a", true),
            (3, task, "b", true),
        ] {
            assert_eq!(marks.nothing_after(since, kind, &of(who)), nothing, "{since} {kind} {who}");
        }
        marks.changed_for("a", task, Timestamp(4));
        assert!(!marks.nothing_after(4, task, &of("a")));
        let both = Viewer::Grantees(vec!["b".into(), "a".into()]);
        assert!(!marks.nothing_after(4, task, &both));
        marks.changed(task, Timestamp(7));
        assert!(!marks.nothing_after(6, task, &Viewer::Operator) && marks.nothing_after(7, task, &Viewer::Operator));
        marks.changed(ResourceType::ORGANIZATION, Timestamp(8));
        assert!(!marks.nothing_after(7, ResourceType::ORGANIZATION, &of("b")), "the directory is everybody's");
    }
}
