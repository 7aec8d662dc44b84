//! PATCH: an update whose body is made here, from what is stored.
//!
//! One path with PUT: the patched resource goes through [`App::update_in`], so the same rights (design D3), status
//! machine (D4), versions (D10) and rules hold. What a partner may not see or change is refused before the patch is looked
//! at, so that no `test` operation tells what stands there. A PATCH never creates.
//! <https://hl7.org/fhir/R4/http.html#patch>

use super::{Answer, App, Context, Target};
use crate::error::{Error, Kind};
use crate::fhir::json::Bounds;
use crate::fhir::patch::Patch;
use crate::fhir::precondition::Precondition;
use crate::fhir::validate::Finding;
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::Tx;

impl App {
    /// Changes a resource: one with this key, or the one that the criteria describe.
    pub(super) async fn patch(
        &self,
        context: &Context,
        target: Target,
        patch: &Patch,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        let mut tx = self.store().begin().await?;
        let key = self.patched_key(&mut tx, context, target).await?;
        let resource = self.patched(&mut tx, context, &key, patch, precondition).await?;
        let warnings = self.check_patched(&resource)?;
        let answer = self.update_in(&mut tx, context, &key, resource, precondition).await?;
        self.commit(tx).await?;
        Ok(Answer { warnings, ..answer })
    }

    /// Which resource a patch is about; 404 when a condition finds none.
    pub(super) async fn patched_key(&self, tx: &mut Tx, context: &Context, target: Target) -> Result<Key, Error> {
        let (kind, criteria) = match target {
            Target::Key(key) => return Ok(key),
            Target::Criteria(kind, criteria) => (kind, criteria),
        };
        let found = self.one_match(tx, context, (kind, 'u'), &criteria).await?;
        found.map(|stored| stored.key).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("This search finds no {kind} that you may see; a PATCH creates none."))
        })
    }

    /// What the stored resource becomes, for one who may change it.
    pub(super) async fn patched(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        patch: &Patch,
        precondition: &Precondition,
    ) -> Result<Resource, Error> {
        self.scope(context, key.kind, 'u')?;
        // The referral's row is locked before the Task's, as everywhere.
        let place = match key.kind {
            ResourceType::TASK => Some(self.place(tx, key).await?),
            _ => {
                self.hold_referrals(tx, key).await?;
                None
            }
        };
        let stored = tx.resource_for_update(key).await?.ok_or_else(|| Error::not_found(key.kind.name(), &key.id))?;
        self.check_in_scope(context, 'u', &stored)?;
        self.check_seen(tx, context, key, precondition).await?;
        if stored.deleted {
            return Err(Error::new(Kind::Gone, "This resource has been deleted."));
        }
        let current = stored.resource()?;
        match &place {
            Some(place) => {
                self.standing(tx, context, &stored, &current, place).await?;
            }
            None => self.may_change(context, &stored)?,
        }
        self.check_version(context, &stored, precondition)?;
        let limits = &self.config().limits;
        patch.apply(&current, Bounds { depth: limits.depth, string: limits.string })
    }
}

impl App {
    /// The rules that every write keeps. What a well-formed patch leaves is not malformed but invalid.
    pub(super) fn check_patched(&self, resource: &Resource) -> Result<Vec<Finding>, Error> {
        self.check(resource).map_err(|mut error| {
            if error.kind == Kind::Malformed {
                error.kind = Kind::Invalid;
            }
            error
        })
    }
}
