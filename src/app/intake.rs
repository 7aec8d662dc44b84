//! Taking in a Task: whom its owner means, whether it is the same referral sent before, and what has to be done first.
//!
//! What a source refers to must be its own; what can't be taken is refused, or, where the Task is kept at the source's
//! server, rejected there with the reason (design D1, D8, D12).

use super::{Answer, App, Context};
use crate::config::Role;
use crate::error::Error;
use crate::fhir::reference::{Reference, lies_under, same_base, split_absolute};
use crate::fhir::views::{STATUS_REASON, Task, concept, identifiers, reference_of};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::referral::Status;
use crate::referral::decide::{self, status_of};
use crate::store::{Kind as Owed, Reason, Referral, Stored, Tx, Viewer, Written};
use serde_json::{Value, json};

/// Who a source means by a Task's owner (design D12).
pub(super) enum Meant {
    /// The gateway's organization.
    Us,
    /// Nobody in particular: whoever can.
    Anyone,
    /// This partner, perhaps for one of its services.
    Partner(String, Option<String>),
}

impl Meant {
    /// The partner, and its service.
    fn performer(self) -> (Option<String>, Option<String>) {
        match self {
            Meant::Partner(partner, service) => (Some(partner), service),
            Meant::Us | Meant::Anyone => (None, None),
        }
    }
}

impl App {
    /// Takes in a Task: a referral to broker, a coordinator's own relay, an import, or something else to keep.
    pub(super) async fn submit(&self, tx: &mut Tx, context: &Context, mut task: Resource) -> Result<Answer, Error> {
        if Task(&task).is_referral() {
            decide::normalise(&mut task);
        }
        if context.is(Role::Operator) && !context.is(Role::Source) {
            return self.keep(tx, context, task).await;
        }
        if !Task(&task).is_referral() {
            return self.keep(tx, context, task).await;
        }
        if context.is(Role::Coordinator) && Task(&task).part_of().next().is_some() {
            return self.relay_by_hand(tx, context, task).await;
        }
        if let Some(existing) = self.same_referral(tx, &context.partner.id, &task).await? {
            return Ok(Answer::new(existing, false));
        }
        decide::check_new(&task)?;
        let source = if context.is(Role::Source) { context.partner.id.clone() } else { self.gateway().to_string() };
        let written = self.take_in(tx, &source, &self.viewer(context), task, None).await?;
        let stored = self.must(tx, &written.stored.key).await?;
        Ok(Answer::new(stored, true))
    }

    /// What [`App::submit`] would answer instead of a new Task: entries of a transaction refer to what is there.
    pub(super) async fn sent_before(
        &self,
        tx: &mut Tx,
        context: &Context,
        task: &Resource,
    ) -> Result<Option<Answer>, Error> {
        if !self.may_be_repeated(context, task) {
            return Ok(None);
        }
        let Some(stored) = self.same_referral(tx, &context.partner.id, task).await? else { return Ok(None) };
        self.audit(tx, context, "read", &stored).await?;
        Ok(Some(Answer::new(stored, false)))
    }

    /// Whether this is a party's referral, which is taken once: no import, no patient Task, no relay by hand.
    fn may_be_repeated(&self, context: &Context, task: &Resource) -> bool {
        let import = context.is(Role::Operator) && !context.is(Role::Source);
        let by_hand = context.is(Role::Coordinator) && Task(task).part_of().next().is_some();
        task.kind() == ResourceType::TASK && Task(task).is_referral() && !import && !by_hand
    }

    /// Stores a Task that is nobody's referral: a patient Task, an import.
    pub(super) async fn keep(&self, tx: &mut Tx, context: &Context, mut task: Resource) -> Result<Answer, Error> {
        self.localise(tx, &mut task, Some(&context.partner)).await?;
        if !context.is(Role::Operator) {
            self.check_visible(tx, &self.viewer(context), &task).await?;
        }
        let author = self.author_of(context, ResourceType::TASK).to_string();
        let written = self.insert(tx, task, &author).await?;
        let key = std::slice::from_ref(&written.stored.key);
        tx.grant(&author, key, "", Reason::Author).await?;
        let view = Task(&written.resource);
        for party in [view.owner(), view.requester()].into_iter().flatten() {
            if let Some(party) = self.local(party).filter(|key| key.kind == ResourceType::ORGANIZATION) {
                tx.grant(&party.id, key, "", Reason::Party).await?;
            }
        }
        Ok(Answer::new(written.stored, true))
    }

    /// The same referral, sent before: the same identifier, or the same absolute focus while the first is open (D8).
    pub(super) async fn same_referral(
        &self,
        tx: &mut Tx,
        source: &str,
        task: &Resource,
    ) -> Result<Option<Stored>, Error> {
        for (system, value) in identifiers(task) {
            let escaped = value.replace('\\', "\\\\").replace(',', "\\,");
            let pair = ("identifier".to_string(), format!("{system}|{escaped}"));
            let mut query = search::parse(ResourceType::TASK, &[pair], self.own(), true)?;
            query.count = 5;
            let viewer = Viewer::Grantees(vec![source.to_string()]);
            for hit in tx.search(&query, &viewer).await?.hits {
                if tx.referral(&hit.key.id).await?.is_some_and(|referral| referral.source == source) {
                    return tx.resource(&hit.key).await;
                }
            }
        }
        let Some(focus) = Task(task).focus() else { return Ok(None) };
        // One request here may be about several Tasks; the same absolute focus again is the same push repeated.
        let focus = self.origin_of(tx, source, focus).await?;
        if !focus.starts_with("http") {
            return Ok(None);
        }
        for referral in tx.referrals_by_focus(source, &focus).await? {
            let key = Key::new(ResourceType::TASK, &referral.task);
            if let Some(stored) = tx.resource(&key).await?
                && !status_of(&*tx.parsed(&stored)?).is_terminal()
            {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// Stores a source's Task as a referral and owes what comes next; it names nothing that the viewer may not see. `kept_at` is its URL when it lives at the source.
    pub(super) async fn take_in(
        &self,
        tx: &mut Tx,
        source: &str,
        viewer: &Viewer,
        mut task: Resource,
        kept_at: Option<&str>,
    ) -> Result<Written, Error> {
        let partner = self.partner(source).cloned();
        let focus = self.origin_of(tx, source, Task(&task).focus().unwrap_or("")).await?;
        self.check_needs(tx, source, &task).await?;
        let meant = self.meant(tx, source, &task).await?;
        self.localise(tx, &mut task, partner.as_deref()).await?;
        if let Meant::Us = meant {
            task.set("owner", json!({"reference": format!("Organization/{}", self.gateway())}));
        }
        let reachable = self.reachable(tx, source, &task).await?;
        self.check_visible(tx, viewer, &task).await?;
        let status = status_of(&task);
        let written = self.insert(tx, task, source).await?;
        let key = written.stored.key.clone();
        tx.grant(source, std::slice::from_ref(&key), "", Reason::Author).await?;
        if status != Status::Draft {
            tx.grant(self.gateway(), std::slice::from_ref(&key), &key.id, Reason::Party).await?;
        }
        let (performer, service) = meant.performer();
        let referral = Referral {
            performer,
            service,
            kept_at: kept_at.map(str::to_string),
            ..Referral::new(&key.id, source, focus, tx.stamp())
        };
        tx.insert_referral(&referral).await?;
        let how = if kept_at.is_some() { "poll" } else { "post" };
        self.note(tx, &referral, &key, source, "received", how, 1).await?;
        // What has ended already is on record, and asked of nobody.
        if status != Status::Draft && !status.is_terminal() {
            self.begin_work(tx, referral, reachable).await?;
        }
        Ok(written)
    }

    /// A Task kept at the source's server that can't be taken: it is on record, and its own Task says so there. Nothing
    /// is looked over in silence.
    pub(super) async fn refuse_kept(
        &self,
        tx: &mut Tx,
        source: &str,
        task: Resource,
        kept_at: &str,
        why: &str,
    ) -> Result<Written, Error> {
        let focus = canonical(Task(&task).focus().unwrap_or(""));
        let written = self.insert(tx, task, source).await?;
        let key = written.stored.key.clone();
        tx.grant(source, std::slice::from_ref(&key), "", Reason::Author).await?;
        tx.grant(self.gateway(), std::slice::from_ref(&key), &key.id, Reason::Party).await?;
        let referral =
            Referral { kept_at: Some(kept_at.to_string()), ..Referral::new(&key.id, source, focus, tx.stamp()) };
        tx.insert_referral(&referral).await?;
        self.note(tx, &referral, &key, source, "received", "poll", 1).await?;
        self.end_source(tx, referral, concept(STATUS_REASON, "other", why)).await?;
        Ok(written)
    }

    /// Whether the focus may be read: it is here and the source's own, or lies below the source's registered base.
    pub(super) async fn reachable(&self, tx: &mut Tx, source: &str, task: &Resource) -> Result<bool, Error> {
        match Reference::parse(Task(task).focus().unwrap_or(""), self.own()) {
            Reference::Local(key) => {
                let viewer = Viewer::Grantees(vec![source.to_string()]);
                if tx.resource(&key).await?.is_none() || !tx.may_see(&viewer, &key).await? {
                    return Err(Error::invalid(
                        "Task.focus",
                        "This ServiceRequest is not here. Post it first, or give its absolute URL at your own server (G-030).",
                    )
                    .code("not-found"));
                }
                Ok(true)
            }
            Reference::Remote { base: at, key } => {
                let fhir = self.partner(source).and_then(|partner| partner.fhir.as_ref());
                Ok(fhir.is_some_and(|fhir| lies_under(&format!("{at}/{key}"), &fhir.base)))
            }
            _ => Err(Error::invalid(
                "Task.focus",
                "The focus is a reference to a ServiceRequest: Type/id, or its absolute URL.",
            )),
        }
    }

    /// A draft says anew whom it means and what it is about; what it says when it is requested counts.
    pub(super) async fn aim(&self, tx: &mut Tx, referral: &mut Referral, task: &mut Resource) -> Result<(), Error> {
        let meant = self.meant(tx, &referral.source, task).await?;
        if let Meant::Us = meant {
            task.set("owner", json!({"reference": format!("Organization/{}", self.gateway())}));
        }
        (referral.performer, referral.service) = meant.performer();
        self.reachable(tx, &referral.source, task).await?;
        referral.focus = self.origin_of(tx, &referral.source, Task(task).focus().unwrap_or("")).await?;
        tx.update_referral(referral).await
    }

    /// A focus as it is remembered: where the source keeps it, however it was spelt, without a version.
    pub(super) async fn origin_of(&self, tx: &mut Tx, source: &str, focus: &str) -> Result<String, Error> {
        let Some(key) = self.local(focus) else { return Ok(canonical(focus)) };
        let origin = tx.links_of(&key).await?.into_iter().find(|link| link.partner == source);
        Ok(origin.map_or_else(|| key.to_string(), |link| link.origin))
    }

    /// A referral that is no draft: fetch what it refers to, or go on at once when everything is here.
    pub(super) async fn begin_work(&self, tx: &mut Tx, referral: Referral, reachable: bool) -> Result<(), Error> {
        if !reachable {
            // Never fetched: it lies outside what the partner registered (design D6).
            let text = "Task.focus lies outside this partner's registered FHIR base, so it is not read.";
            return self.end_source(tx, referral, concept(STATUS_REASON, "out-of-base", text)).await;
        }
        let key = Key::new(ResourceType::TASK, &referral.task);
        let task = self.says(tx, &key).await?;
        match Task(&task).focus().and_then(|focus| self.local(focus)) {
            Some(request) if self.all_here(tx, &referral, &task, &request).await? => {
                self.proceed(tx, referral, &request).await.map(|_| ())
            }
            _ => self.owe(tx, Owed::Fetch, &referral.task, &referral.source).await,
        }
    }

    /// Whether nothing that the referral refers to has still to be read at the source.
    pub(super) async fn all_here(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        task: &Resource,
        request: &Key,
    ) -> Result<bool, Error> {
        let Some(fhir) = self.partner(&referral.source).and_then(|partner| partner.fhir.as_ref()) else {
            return Ok(true);
        };
        let away = |resource: &Resource| {
            crate::fhir::reference::all(resource)
                .iter()
                .any(|text| split_absolute(text).is_some_and(|(base, _)| same_base(base, &fhir.base)))
        };
        Ok(!away(task) && !away(&*self.says(tx, request).await?))
    }

    /// Needs sent together share a groupIdentifier; at most so many at once (design D1).
    pub(super) async fn check_needs(&self, tx: &mut Tx, source: &str, task: &Resource) -> Result<(), Error> {
        let Some(value) = task.at("groupIdentifier").and_then(|one| one.get("value")).and_then(Value::as_str) else {
            return Ok(());
        };
        if value.contains([',', '|', '\\']) {
            return Ok(());
        }
        let pair = ("group-identifier".to_string(), value.to_string());
        let mut query = search::parse(ResourceType::TASK, &[pair], self.own(), true)?;
        (query.total, query.count) = (true, 0);
        let viewer = Viewer::Grantees(vec![source.to_string()]);
        let most = u64::from(self.config().limits.needs_per_request);
        if tx.search(&query, &viewer).await?.total.unwrap_or(0) >= most {
            return Err(Error::refused(
                "Task.groupIdentifier",
                format!("At most {most} needs can be sent under one groupIdentifier."),
            ));
        }
        Ok(())
    }

    pub(super) async fn meant(&self, tx: &mut Tx, source: &str, task: &Resource) -> Result<Meant, Error> {
        let Some(owner) = task.at("owner") else { return Ok(Meant::Anyone) };
        if let Some(found) = self.named(tx, owner).await? {
            return Ok(found);
        }
        let base = self.partner(source).and_then(|partner| partner.fhir.as_ref()).map(|fhir| &fhir.base);
        let ours =
            self.partner(source).and_then(|partner| partner.fhir.as_ref()).map(|fhir| fhir.our_reference.as_str());
        match reference_of(Some(owner)).map(|text| (text, Reference::parse(text, self.own()))) {
            // Somebody in the directory whom we can't reach is still not us.
            Some((_, Reference::Local(key))) if tx.resource(&key).await?.is_some() => Ok(Meant::Partner(key.id, None)),
            // A relative id that we don't know is the source's own id of us; so is an id under its own base.
            Some((_, Reference::Local(_))) => Ok(Meant::Us),
            Some((text, _)) if Some(text) == ours => Ok(Meant::Us),
            Some((_, Reference::Remote { base: at, .. })) if base.is_some_and(|base| same_base(base, &at)) => {
                Ok(Meant::Us)
            }
            Some(_) => Err(Error::invalid(
                "Task.owner",
                "This owner is no partner of the gateway. Name the gateway's Organization, a partner's, or none.",
            )),
            None => Ok(Meant::Anyone),
        }
    }

    /// The partner that a reference names: by our URL, else by identifier.
    pub(super) async fn named(&self, tx: &mut Tx, reference: &Value) -> Result<Option<Meant>, Error> {
        if let Some(key) = reference_of(Some(reference)).and_then(|text| self.local(text)) {
            if key == App::organization(self.gateway()) {
                return Ok(Some(Meant::Us));
            }
            if key.kind == ResourceType::ORGANIZATION && self.partner(&key.id).is_some() {
                return Ok(Some(Meant::Partner(key.id, None)));
            }
            if key.kind == ResourceType::HEALTHCARE_SERVICE
                && let Some(service) = tx.resource(&key).await?.filter(|stored| !stored.deleted)
            {
                let provider = tx.parsed(&service)?;
                let provider = reference_of(provider.at("providedBy")).and_then(|text| self.local(text));
                if let Some(partner) = provider.filter(|provider| self.partner(&provider.id).is_some()) {
                    return Ok(Some(Meant::Partner(partner.id, Some(key.id))));
                }
            }
        }
        // The source's own record of an organization (a copy here) carries the identifiers that tell who it is.
        if let Some(key) = reference_of(Some(reference)).and_then(|text| self.local(text))
            && let Some(copy) = tx.resource(&key).await?.filter(|stored| !stored.deleted)
        {
            let copy = tx.parsed(&copy)?;
            let known = |partner: &&std::sync::Arc<crate::config::Partner>| {
                identifiers(&copy).any(|(system, value)| {
                    partner.identifiers.iter().any(|one| one.value == value && one.system == system)
                })
            };
            if let Some(partner) = self.partners().iter().find(known) {
                return Ok(Some(Meant::Partner(partner.id.clone(), None)));
            }
        }
        let text = |name: &str| reference.get("identifier").and_then(|one| one.get(name)).and_then(Value::as_str);
        if let Some(value) = text("value") {
            let system = text("system");
            let matches = |partner: &&std::sync::Arc<crate::config::Partner>| {
                partner
                    .identifiers
                    .iter()
                    .any(|one| one.value == value && system.is_none_or(|system| system == one.system))
            };
            if let Some(partner) = self.partners().iter().find(matches) {
                return Ok(Some(Meant::Partner(partner.id.clone(), None)));
            }
        }
        Ok(None)
    }

    /// The partner and service a ServiceRequest names as its performer.
    pub(super) async fn named_performer(
        &self,
        tx: &mut Tx,
        performers: &[Value],
    ) -> Result<Option<(String, Option<String>)>, Error> {
        for performer in performers {
            if let Some(Meant::Partner(partner, service)) = self.named(tx, performer).await? {
                return Ok(Some((partner, service)));
            }
        }
        Ok(None)
    }
}

/// A focus as it is remembered: without a version.
pub(super) fn canonical(focus: &str) -> String {
    focus.split("/_history/").next().unwrap_or(focus).to_string()
}
