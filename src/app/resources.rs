//! Writing: create, update, delete of any resource; Tasks and Subscriptions go on to their own rules.

use std::sync::Arc;

use super::reading::access;
use super::{App, Context, Stored, Target};
use crate::config::Role;
use crate::error::{Error, Kind};
use crate::fhir::precondition::Precondition;
use crate::fhir::query::Criteria;
use crate::fhir::validate::Finding;
use crate::fhir::{Key, Resource, ResourceType, search, subset};
use crate::store::{Reason, Tx, Viewer};
use serde_json::{Value, json};

/// What a write made.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What is stored now.
    pub stored: Stored,
    /// Whether this request created it; false also for the same referral sent twice.
    pub created: bool,
    /// What was stored all the same (design D16b).
    pub warnings: Vec<Finding>,
}

impl Answer {
    /// One without warnings.
    pub fn new(stored: Stored, created: bool) -> Self {
        Answer { stored, created, warnings: Vec::new() }
    }
}

impl App {
    /// Creates a resource. The same one sent twice (`If-None-Exist`, or design D8 for referrals) is answered with the
    /// first.
    pub(super) async fn create(
        &self,
        context: &Context,
        resource: Resource,
        if_none_exist: Option<&Criteria>,
    ) -> Result<Answer, Error> {
        let warnings = self.check(&resource)?;
        let mut tx = self.store().begin().await?;
        tx.take_turns(&self.turns(&resource, if_none_exist)).await?;
        self.look_ahead(&mut tx, context, &[&resource]).await?;
        let answer = self.create_in(&mut tx, context, resource, if_none_exist).await?;
        self.commit(tx).await?;
        Ok(Answer { warnings, ..answer })
    }

    pub(super) async fn create_in(
        &self,
        tx: &mut Tx,
        context: &Context,
        resource: Resource,
        if_none_exist: Option<&Criteria>,
    ) -> Result<Answer, Error> {
        if let Some(existing) = self.existing(tx, context, &resource, if_none_exist).await? {
            return Ok(existing);
        }
        self.create_as(tx, context, resource, &crate::id::new()).await
    }

    /// What `If-None-Exist` finds, for one who might create it.
    pub(super) async fn existing(
        &self,
        tx: &mut Tx,
        context: &Context,
        resource: &Resource,
        if_none_exist: Option<&Criteria>,
    ) -> Result<Option<Answer>, Error> {
        self.scope(context, resource.kind(), 'c')?;
        self.may_write(context, resource)?;
        let Some(criteria) = if_none_exist else { return Ok(None) };
        let Some(stored) = self.one_match(tx, context, (resource.kind(), 'c'), criteria).await? else {
            return Ok(None);
        };
        self.audit(tx, context, "read", &stored).await?;
        let passed = self.passed_on(context, Arc::new(stored))?;
        Ok(Some(Answer::new(Stored::clone(&passed), false)))
    }

    /// Creates a resource under this id of ours, whatever id it carries.
    pub(super) async fn create_as(
        &self,
        tx: &mut Tx,
        context: &Context,
        mut resource: Resource,
        id: &str,
    ) -> Result<Answer, Error> {
        self.scope(context, resource.kind(), 'c')?;
        self.may_write(context, &resource)?;
        subset::check_whole(&resource)?;
        resource.set("id", id.into());
        let kind = resource.kind();
        let answer = match kind {
            ResourceType::TASK => self.submit(tx, context, resource).await?,
            ResourceType::SUBSCRIPTION => self.subscribe(tx, context, resource).await?,
            _ => {
                self.localise(tx, &mut resource, Some(&context.partner)).await?;
                if !context.is(Role::Operator) {
                    self.check_visible(tx, &self.viewer(context), &resource).await?;
                }
                let author = self.author_of(context, kind).to_string();
                let written = self.insert(tx, resource, &author).await?;
                tx.grant(&author, std::slice::from_ref(&written.stored.key), "", Reason::Author).await?;
                self.outcome_arrived(tx, &written).await?;
                self.service_offered(tx, &written).await?;
                Answer::new(written.stored, true)
            }
        };
        self.check_left(context, 'c', &answer.stored)?;
        self.audit(tx, context, if answer.created { "create" } else { "read" }, &answer.stored).await?;
        Ok(answer)
    }

    /// Replaces a resource, if what the client demands of the stored one holds.
    pub(super) async fn update(
        &self,
        context: &Context,
        target: Target,
        resource: Resource,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        let warnings = self.check(&resource)?;
        let mut tx = self.store().begin().await?;
        let answer = match target {
            Target::Key(key) => self.update_in(&mut tx, context, &key, resource, precondition).await?,
            Target::Criteria(kind, criteria) => {
                self.update_where(&mut tx, context, (kind, &criteria), resource, precondition).await?
            }
        };
        self.commit(tx).await?;
        Ok(Answer { warnings, ..answer })
    }

    pub(super) async fn update_in(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        resource: Resource,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        self.scope(context, key.kind, 'u')?;
        let answer = self.replace(tx, context, key, resource, precondition).await?;
        self.check_left(context, 'u', &answer.stored)?;
        Ok(answer)
    }

    async fn replace(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        mut resource: Resource,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        if resource.kind() != key.kind {
            return Err(Error::malformed("The body is of another type than the URL.").at("resourceType"));
        }
        if resource.id() != Some(key.id.as_str()) {
            return Err(Error::malformed("The body's id is not the URL's.").at(format!("{}.id", key.kind)));
        }
        subset::check_whole(&resource)?;
        if self.is_configured(key) {
            return Err(Error::new(Kind::MethodNotAllowed, "This Organization comes from the configuration."));
        }
        if key.kind == ResourceType::TASK {
            let answer = self.step(tx, context, key, resource, precondition).await?;
            self.audit(tx, context, "update", &answer.stored).await?;
            return Ok(answer);
        }
        let viewer = self.viewer(context);
        self.hold_referrals(tx, key).await?;
        let stored = tx.resource_for_update(key).await?;
        let Some(stored) = stored else {
            return self.import(tx, context, key, resource, precondition).await;
        };
        if !tx.may_see(&viewer, key).await? {
            return Err(Error::not_found(key.kind.name(), &key.id));
        }
        self.check_in_scope(context, 'u', &stored)?;
        self.may_change(context, &stored)?;
        if key.kind == ResourceType::HEALTHCARE_SERVICE {
            self.may_write(context, &resource)?;
        }
        self.check_version(context, &stored, precondition)?;
        if key.kind == ResourceType::SUBSCRIPTION {
            let answer = self.resubscribe(tx, context, &stored, resource).await?;
            self.audit(tx, context, "update", &answer.stored).await?;
            return Ok(answer);
        }
        self.localise(tx, &mut resource, Some(&context.partner)).await?;
        if viewer != Viewer::Operator {
            self.check_visible(tx, &viewer, &resource).await?;
        }
        if !stored.deleted && tx.parsed(&stored)?.same_content(&resource) {
            return Ok(Answer::new(stored, false));
        }
        let written = self.save(tx, &stored, resource, &context.partner.id).await?;
        self.origin_changed(tx, &written.stored.key, &written.resource).await?;
        self.outcome_arrived(tx, &written).await?;
        self.service_offered(tx, &written).await?;
        self.audit(tx, context, "update", &written.stored).await?;
        // What was deleted is there anew.
        Ok(Answer::new(written.stored, stored.deleted))
    }

    /// PUT to an id that is not here: an operator's import; for everybody else ids are ours to give (design D11b).
    pub(super) async fn import(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        mut resource: Resource,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        if !context.is(Role::Operator) {
            return Err(Error::new(
                Kind::MethodNotAllowed,
                format!("There is no {} with this id, and ids are given by this server. POST it instead.", key.kind),
            ));
        }
        precondition.check(None)?;
        self.localise(tx, &mut resource, Some(&context.partner)).await?;
        let written = self.insert_as(tx, resource, &key.id, &context.partner.id, "PUT").await?;
        tx.grant(&context.partner.id, std::slice::from_ref(key), "", Reason::Author).await?;
        self.audit(tx, context, "create", &written.stored).await?;
        Ok(Answer::new(written.stored, true))
    }

    /// Deletes a resource that nothing rests on; none is as good as deleted.
    pub(super) async fn delete(
        &self,
        context: &Context,
        target: Target,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        match self.deleted_key(&mut tx, context, target).await? {
            Some(key) => self.delete_in(&mut tx, context, &key, precondition).await?,
            None => precondition.check(None)?,
        }
        self.commit(tx).await
    }

    /// Which resource a delete is about.
    pub(super) async fn deleted_key(
        &self,
        tx: &mut Tx,
        context: &Context,
        target: Target,
    ) -> Result<Option<Key>, Error> {
        match target {
            Target::Key(key) => Ok(Some(key)),
            Target::Criteria(kind, criteria) => {
                Ok(self.one_match(tx, context, (kind, 'd'), &criteria).await?.map(|stored| stored.key))
            }
        }
    }

    pub(super) async fn delete_in(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        self.scope(context, key.kind, 'd')?;
        let fixed = matches!(key.kind, ResourceType::TASK | ResourceType::SERVICE_REQUEST | ResourceType::PROVENANCE);
        let why = match (fixed, self.is_configured(key)) {
            (true, _) => Some("it is part of the record; cancel or revoke it instead"),
            (false, true) => Some("it comes from the configuration, and goes with it"),
            (false, false) => None,
        };
        if let Some(why) = why {
            return Err(Error::new(Kind::MethodNotAllowed, format!("This {} can't be deleted: {why}.", key.kind)));
        }
        self.hold_referrals(tx, key).await?;
        let Some(stored) = tx.resource_for_update(key).await? else { return precondition.check(None) };
        if !tx.may_see(&self.viewer(context), key).await? {
            return Err(Error::not_found(key.kind.name(), &key.id));
        }
        self.check_in_scope(context, 'd', &stored)?;
        self.may_change(context, &stored)?;
        precondition.check(current(&stored))?;
        if stored.deleted {
            return Ok(());
        }
        self.check_unused(tx, key).await?;
        tx.delete_resource(&stored, &context.partner.id).await?;
        if key.kind == ResourceType::CONSENT {
            // Taken away is taken back (design D15c).
            self.consent_changed(tx, key).await?;
        }
        if key.kind == ResourceType::SUBSCRIPTION {
            self.unsubscribe(tx, &key.id).await?;
        }
        self.audit(tx, context, "delete", &stored).await
    }

    /// A Task is not left without its patient, its parties and its outcome. A Consent may go: taken away is taken
    /// back.
    async fn check_unused(&self, tx: &mut Tx, key: &Key) -> Result<(), Error> {
        for name in ["subject", "requester", "owner", "output"] {
            let mut query = search::parse(ResourceType::TASK, &[(name.into(), key.to_string())], self.own(), true)?;
            query.count = 1;
            if !tx.search(&query, &Viewer::Operator).await?.hits.is_empty() {
                return Err(Error::conflict(format!("A Task refers to this {}, so it stays.", key.kind)));
            }
        }
        Ok(())
    }

    /// What the client demands against what is stored; partners may be bound to send `If-Match` (design D10, R-045).
    pub(super) fn check_version(
        &self,
        context: &Context,
        stored: &Stored,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        if *precondition == Precondition::Nothing && context.partner.require_if_match {
            return Err(Error::malformed("This server requires If-Match on your updates.").code("required"));
        }
        precondition.check(current(stored))
    }

    pub(super) async fn audit(
        &self,
        tx: &mut Tx,
        context: &Context,
        action: &'static str,
        stored: &Stored,
    ) -> Result<(), Error> {
        tx.audit(&[access(context, action, vec![(stored.key.clone(), stored.version)])]).await?;
        if matches!(action, "create" | "update") { self.attest(tx, context, stored).await } else { Ok(()) }
    }

    /// Stores what the request says of where it comes from (`X-Provenance`) with what it wrote.
    async fn attest(&self, tx: &mut Tx, context: &Context, stored: &Stored) -> Result<(), Error> {
        let Some(said) = &context.provenance else { return Ok(()) };
        self.check_scope(context, ResourceType::PROVENANCE, 'c')?;
        let mut provenance = Resource::clone(said);
        let target = format!("{}/_history/{}", stored.key, stored.version);
        provenance.set("target", json!([{"reference": target}]));
        provenance.set("id", Value::Null);
        self.check(&provenance)?;
        self.localise(tx, &mut provenance, Some(&context.partner)).await?;
        if !context.is(Role::Operator) {
            self.check_visible(tx, &self.viewer(context), &provenance).await?;
        }
        let author = self.author_of(context, ResourceType::PROVENANCE).to_string();
        let written = self.insert(tx, provenance, &author).await?.stored;
        tx.grant(&author, std::slice::from_ref(&written.key), "", Reason::Author).await?;
        tx.audit(&[access(context, "create", vec![(written.key, written.version)])]).await
    }
}

/// The version a precondition is checked against.
fn current(stored: &Stored) -> Option<i64> {
    (!stored.deleted).then_some(stored.version)
}
