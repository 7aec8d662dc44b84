//! Conflicts: a partner's server says one thing, we say another, and no rule of who decides what (design D3) settles it.
//!
//! Both versions are on record from when it is found until both agree again or a person has settled it. Operators and
//! coordinators see them all (`Task/$conflicts`); `$loop-status` of a referral names its own.

use serde_json::{Value, json};

use super::{App, Context};
use crate::config::Role;
use crate::error::{Error, Kind};
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::{Conflict, Referral, Tx};

/// What is in conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The statuses, and neither may become the other.
    Status,
    /// Its Task is not there any more.
    Gone,
    /// It does not take what we owe it.
    Refused,
    /// What a referral rests on can't be read there any more.
    Unread,
}

const ALL: [What; 4] = [What::Status, What::Gone, What::Refused, What::Unread];

impl What {
    pub(super) fn code(self) -> &'static str {
        match self {
            What::Status => "status",
            What::Gone => "gone",
            What::Refused => "refused",
            What::Unread => "unread",
        }
    }
}

impl App {
    /// Puts a conflict about this Task on record.
    #[expect(clippy::too_many_arguments, reason = "what is in conflict, with whom, and both versions")]
    pub(super) async fn conflict(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        task: &Key,
        partner: &str,
        what: What,
        theirs: Option<&Resource>,
        why: String,
    ) -> Result<(), Error> {
        let version = self.must(tx, task).await?.version;
        tracing::warn!(partner, %task, what = what.code(), why, "in conflict with a partner's server");
        let conflict = Conflict {
            task: task.id.clone(),
            what: what.code().to_string(),
            referral: referral.task.clone(),
            partner: partner.to_string(),
            version,
            theirs: theirs.map(Resource::to_text),
            why,
            found_at: tx.stamp(),
            ended_at: None,
        };
        tx.put_conflict(&conflict).await
    }

    /// Both agree about these again.
    pub(super) async fn agreed(&self, tx: &mut Tx, task: &Key, what: &[What]) -> Result<(), Error> {
        let codes: Vec<&str> = what.iter().map(|what| what.code()).collect();
        if tx.end_conflicts(&task.id, &codes, "agreement").await? > 0 {
            tracing::info!(%task, what = codes.join(" or "), "a conflict with a partner's server has ended");
        }
        Ok(())
    }

    /// A referral's conflicts, for `$loop-status`: what, with whom, since when; the versions are for those who decide.
    pub(super) async fn conflict_parts(&self, tx: &mut Tx, referral: &str) -> Result<Vec<Value>, Error> {
        let all = tx.conflicts(Some(referral)).await?;
        Ok(all.iter().map(|one| json!({"name": "conflict", "part": self.parts(one)})).collect())
    }

    fn parts(&self, one: &Conflict) -> Vec<Value> {
        let ours = format!("{}/Task/{}/_history/{}", self.own(), one.task, one.version);
        vec![
            json!({"name": "what", "valueCode": one.what}),
            json!({"name": "with", "valueReference": {"reference": format!("{}/Organization/{}", self.own(), one.partner)}}),
            json!({"name": "since", "valueInstant": one.found_at.to_string()}),
            json!({"name": "why", "valueString": one.why}),
            json!({"name": "ours", "valueReference": {"reference": ours}}),
        ]
    }

    /// `Task/$conflicts`: all that have not ended, oldest first, with both versions.
    pub async fn conflicts(&self, context: &Context) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::TASK, 's')?;
        decides(context)?;
        let all = self.store().read().await?.conflicts(None).await?;
        let seen: Vec<(Key, i64)> =
            all.iter().map(|one| (Key::new(ResourceType::TASK, &one.task), one.version)).collect();
        self.seen(context, "search", &seen).await?;
        let mut parameters = Vec::new();
        for one in &all {
            let mut parts = self.parts(one);
            let referral = format!("{}/Task/{}", self.own(), one.referral);
            parts.push(json!({"name": "referral", "valueReference": {"reference": referral}}));
            if let Some(theirs) = one.theirs.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
                parts.push(json!({"name": "theirs", "resource": theirs}));
            }
            parameters.push(json!({"name": "conflict", "part": parts}));
        }
        Ok(json!({"resourceType": "Parameters", "parameter": parameters}))
    }

    /// `$settle` of a Task: a person has decided, and done what there was to do; its conflicts are no longer open. A
    /// difference that stays as it is was decided on, and is not shown again; the next change of the Task there is looked
    /// at anew.
    pub async fn settle_conflicts(&self, context: &Context, task: &str) -> Result<u64, Error> {
        self.check_scope(context, ResourceType::TASK, 'u')?;
        decides(context)?;
        let mut tx = self.store().begin().await?;
        let ended = tx.end_conflicts(task, &ALL.map(What::code), &context.partner.id).await?;
        if ended == 0 {
            return Err(Error::new(Kind::NotFound, "This Task is in conflict with nobody."));
        }
        self.commit(tx).await?;
        Ok(ended)
    }
}

/// Operators and coordinators decide.
fn decides(context: &Context) -> Result<(), Error> {
    if context.is(Role::Operator) || context.is(Role::Coordinator) {
        return Ok(());
    }
    Err(Error::forbidden("Conflicts are for operators and coordinators."))
}
