//! Taking in referrals and every step on a Task: the one place where a status changes, whichever way it came.
//!
//! A light target's PUT, a polled Task, a source's cancellation and the gateway's own aggregation all go through
//! [`App::write_step`]: save, tell the subscribers, put the step on record, and owe what follows.

use serde_json::{Value, json};

use super::rights::Place;
use super::{Answer, App, Context};
use crate::config::Role;
use crate::error::{Error, Kind};
use crate::fhir::reference::{Reference, lies_under, same_base, split_absolute};
use crate::fhir::views::{STATUS_REASON, Task, concept, identifiers, reference_of};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::referral::Status;
use crate::referral::decide::{self, Basis, Event, Standing, status_of};
use crate::store::{Delivery, Evidence, Kind as Owed, Reason, Referral, Stored, Tx, Viewer, Written};

/// Who a source means by a Task's owner (design D12).
enum Meant {
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
            return Ok(Answer { stored: existing, created: false });
        }
        let source = if context.is(Role::Source) { context.partner.id.clone() } else { self.gateway().to_string() };
        let written = self.take_in(tx, &source, &self.viewer(context), task, None).await?;
        let stored = self.must(tx, &written.stored.key).await?;
        Ok(Answer { stored, created: true })
    }

    /// Stores a Task that is nobody's referral: a patient Task, an import.
    async fn keep(&self, tx: &mut Tx, context: &Context, mut task: Resource) -> Result<Answer, Error> {
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
        self.publish(tx, &written).await?;
        Ok(Answer { stored: written.stored, created: true })
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
                && !status_of(&stored.resource()?).is_terminal()
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
            task: key.id.clone(),
            source: source.to_string(),
            focus,
            performer,
            service,
            kept_at: kept_at.map(str::to_string),
            request: None,
            patient: None,
            fetched: false,
            held: false,
            held_why: None,
            closing: None,
            informed_at: None,
            informed_how: None,
            created: tx.stamp(),
        };
        tx.insert_referral(&referral).await?;
        let how = if kept_at.is_some() { "poll" } else { "post" };
        self.note(tx, &referral, &key, source, "received", how, 1).await?;
        self.publish(tx, &written).await?;
        if status != Status::Draft {
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
        let referral = Referral {
            task: key.id.clone(),
            source: source.to_string(),
            focus,
            performer: None,
            service: None,
            kept_at: Some(kept_at.to_string()),
            request: None,
            patient: None,
            fetched: false,
            held: false,
            held_why: None,
            closing: None,
            informed_at: None,
            informed_how: None,
            created: tx.stamp(),
        };
        tx.insert_referral(&referral).await?;
        self.note(tx, &referral, &key, source, "received", "poll", 1).await?;
        self.end_source(tx, referral, concept(STATUS_REASON, "other", why)).await?;
        Ok(written)
    }

    /// Whether the focus may be read: it is here and the source's own, or lies below the source's registered base.
    async fn reachable(&self, tx: &mut Tx, source: &str, task: &Resource) -> Result<bool, Error> {
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
    async fn origin_of(&self, tx: &mut Tx, source: &str, focus: &str) -> Result<String, Error> {
        let Some(key) = self.local(focus) else { return Ok(canonical(focus)) };
        let origin = tx.links_of(&key).await?.into_iter().find(|link| link.partner == source);
        Ok(origin.map_or_else(|| key.to_string(), |link| link.origin))
    }

    /// A referral that is no draft: fetch what it refers to, or go on at once when everything is here.
    async fn begin_work(&self, tx: &mut Tx, referral: Referral, reachable: bool) -> Result<(), Error> {
        if !reachable {
            // Never fetched: it lies outside what the partner registered (design D6).
            let text = "Task.focus lies outside this partner's registered FHIR base, so it is not read.";
            return self.end_source(tx, referral, concept(STATUS_REASON, "out-of-base", text)).await;
        }
        let key = Key::new(ResourceType::TASK, &referral.task);
        let task = self.must(tx, &key).await?.resource()?;
        match Task(&task).focus().and_then(|focus| self.local(focus)) {
            Some(request) if self.all_here(tx, &referral, &task, &request).await? => {
                self.proceed(tx, referral, &request).await.map(|_| ())
            }
            _ => self.owe(tx, Owed::Fetch, &referral.task, &referral.source).await,
        }
    }

    /// Whether nothing that the referral refers to has still to be read at the source.
    async fn all_here(&self, tx: &mut Tx, referral: &Referral, task: &Resource, request: &Key) -> Result<bool, Error> {
        let Some(fhir) = self.partner(&referral.source).and_then(|partner| partner.fhir.as_ref()) else {
            return Ok(true);
        };
        let away = |resource: &Resource| {
            crate::fhir::reference::all(resource)
                .iter()
                .any(|text| split_absolute(text).is_some_and(|(base, _)| same_base(base, &fhir.base)))
        };
        Ok(!away(task) && !away(&self.must(tx, request).await?.resource()?))
    }

    /// Needs sent together share a groupIdentifier; at most so many at once (design D1).
    async fn check_needs(&self, tx: &mut Tx, source: &str, task: &Resource) -> Result<(), Error> {
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

    async fn meant(&self, tx: &mut Tx, source: &str, task: &Resource) -> Result<Meant, Error> {
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
    async fn named(&self, tx: &mut Tx, reference: &Value) -> Result<Option<Meant>, Error> {
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
                let provider = service.resource()?;
                let provider = reference_of(provider.at("providedBy")).and_then(|text| self.local(text));
                if let Some(partner) = provider.filter(|provider| self.partner(&provider.id).is_some()) {
                    return Ok(Some(Meant::Partner(partner.id, Some(key.id))));
                }
            }
        }
        // The source's own record of an organization (a copy here) carries the identifiers that tell who it is.
        if let Some(key) = reference_of(Some(reference)).and_then(|text| self.local(text)) {
            if let Some(copy) = tx.resource(&key).await?.filter(|stored| !stored.deleted) {
                let copy = copy.resource()?;
                let known = |partner: &&std::sync::Arc<crate::config::Partner>| {
                    identifiers(&copy).any(|(system, value)| {
                        partner.identifiers.iter().any(|one| one.value == value && one.system == system)
                    })
                };
                if let Some(partner) = self.partners().iter().find(known) {
                    return Ok(Some(Meant::Partner(partner.id.clone(), None)));
                }
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

    /// A party's update of a Task.
    pub(super) async fn step(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        mut sent: Resource,
        if_match: Option<i64>,
    ) -> Result<Answer, Error> {
        let mut place = self.place(tx, key).await?;
        let viewer = self.viewer(context);
        let Some(stored) = tx.resource_for_update(key).await? else { return self.import(tx, context, key, sent).await };
        if !tx.may_see(&viewer, key).await? {
            if tx.lost_the_claim(&viewer, key).await? {
                let kind = if if_match.is_some() { Kind::VersionConflict } else { Kind::Conflict };
                return Err(Error::new(
                    kind,
                    "This Task can't be claimed any more: another organization has it, or it was called off.",
                ));
            }
            return Err(Error::not_found(key.kind.name(), &key.id));
        }
        let current = stored.resource()?;
        let standing = self.standing(tx, context, &stored, &current, &place).await?;
        self.check_version(context, &stored, if_match)?;
        let basis = self.basis(tx, &stored, &sent, if_match).await?;
        if standing == Standing::Claimant {
            self.check_claim(tx, context, &sent).await?;
        }
        self.localise(tx, &mut sent, Some(&context.partner)).await?;
        if matches!(place, Place::Other) && !Task(&current).is_referral() {
            let Some(task) = decide::update_other(&current, &sent, standing)? else {
                return Ok(Answer { stored, created: false });
            };
            self.check_added(tx, &viewer, &current, &task).await?;
            let written = self.save(tx, &stored, task, &context.partner.id).await?;
            return Ok(Answer { stored: written.stored, created: false });
        }
        let Event::Changed { mut task, from, to } = decide::update(&current, &sent, standing, basis)? else {
            return Ok(Answer { stored, created: false });
        };
        if let (Place::Source(referral), Status::Draft) = (&mut place, from) {
            self.aim(tx, referral, &mut task).await?;
        }
        self.check_added(tx, &viewer, &current, &task).await?;
        let by = context.partner.id.clone();
        self.write_step(tx, place, &stored, task, (from, to), &by, "put").await?;
        let stored = self.must(tx, key).await?;
        if !self.is_kept(tx, key).await? {
            self.own_end(tx, context, &stored).await?;
        }
        Ok(Answer { stored, created: false })
    }

    /// A source that ended its referral itself has the final version in the answer to its own update.
    async fn own_end(&self, tx: &mut Tx, context: &Context, stored: &Stored) -> Result<(), Error> {
        let Some(referral) = tx.referral(&stored.key.id).await? else { return Ok(()) };
        if self.sources(&context.partner).contains(&referral.source.as_str()) && referral.closing.is_some() {
            self.informed(tx, &referral.task, stored.version, "own update").await?;
        }
        Ok(())
    }

    pub(super) async fn is_kept(&self, tx: &mut Tx, key: &Key) -> Result<bool, Error> {
        Ok(tx.referral(&key.id).await?.is_some_and(|referral| referral.kept_at.is_some()))
    }

    /// What status the client read, when it read an older version (design D10). `If-Match` has settled that already.
    async fn basis(
        &self,
        tx: &mut Tx,
        stored: &Stored,
        sent: &Resource,
        if_match: Option<i64>,
    ) -> Result<Basis, Error> {
        let read = sent.version().filter(|version| if_match.is_none() && *version < stored.version && *version > 0);
        let Some(version) = read else { return Ok(Basis { stale_status: None }) };
        let older = tx.resource_version(&stored.key, version).await?;
        let stale_status = older.map(|older| older.resource()).transpose()?.map(|older| status_of(&older));
        Ok(Basis { stale_status })
    }

    /// One claims for oneself: one's Organization, or one of its services.
    async fn check_claim(&self, tx: &mut Tx, context: &Context, sent: &Resource) -> Result<(), Error> {
        let named = match sent.at("owner") {
            Some(owner) => self.named(tx, owner).await?,
            None => None,
        };
        match named {
            Some(Meant::Partner(partner, _)) if partner == context.partner.id => Ok(()),
            _ => Err(Error::refused(
                "Task.owner",
                format!(
                    "To claim this Task, set Task.owner to your own Organization/{} and accept it.",
                    context.partner.id
                ),
            )),
        }
    }

    /// Saves a step and does everything that follows from it, in this transaction.
    #[expect(clippy::too_many_arguments, reason = "what happened, to what, by whom, and how we know")]
    pub(super) async fn write_step(
        &self,
        tx: &mut Tx,
        place: Place,
        stored: &Stored,
        task: Resource,
        (from, to): (Status, Status),
        by: &str,
        how: &str,
    ) -> Result<(), Error> {
        let written = self.save(tx, stored, task, by).await?;
        match place {
            Place::Other => Ok(()),
            Place::Relayed(relay, referral) => {
                if from != to {
                    self.note(tx, &referral, &written.stored.key, by, to.code(), how, written.stored.version).await?;
                }
                self.after_target(tx, relay, referral, written, (from, to), by).await
            }
            Place::Source(referral) => {
                if from != to {
                    self.note(tx, &referral, &written.stored.key, by, to.code(), how, written.stored.version).await?;
                }
                self.after_source(tx, referral, written, (from, to)).await
            }
        }
    }

    /// What follows from a step on the source's Task that aggregation did not make.
    async fn after_source(
        &self,
        tx: &mut Tx,
        mut referral: Referral,
        written: Written,
        (from, to): (Status, Status),
    ) -> Result<(), Error> {
        if from == Status::Draft && to == Status::Requested {
            let key = &written.stored.key;
            tx.grant(self.gateway(), std::slice::from_ref(key), &key.id, Reason::Party).await?;
            let reachable = self.reachable(tx, &referral.source, &written.resource).await?;
            return self.begin_work(tx, referral, reachable).await;
        }
        if to.is_terminal() && from != to {
            referral.closing = Some(written.stored.version);
            referral.held = false;
            tx.update_referral(&referral).await?;
            let why = Task(&written.resource).reason_text().unwrap_or("Cancelled by the referral source.").to_string();
            self.withdraw(tx, &referral, &why).await?;
        }
        self.owe_write_back(tx, &referral).await
    }

    /// Puts a step on record.
    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    pub(super) async fn note(
        &self,
        tx: &mut Tx,
        referral: &Referral,
        task: &Key,
        who: &str,
        what: &str,
        how: &str,
        version: i64,
    ) -> Result<(), Error> {
        let step = Evidence {
            referral: referral.task.clone(),
            task: task.id.clone(),
            at: tx.stamp(),
            who: who.to_string(),
            what: what.to_string(),
            how: how.to_string(),
            version,
        };
        tx.put_evidence(&step).await
    }

    /// The source has this version of its Task; if it is the final one, the loop is closed (design D12b).
    pub(super) async fn informed(&self, tx: &mut Tx, task: &str, version: i64, how: &str) -> Result<(), Error> {
        let Some(mut referral) = tx.referral(task).await? else { return Ok(()) };
        let Some(closing) = referral.closing else { return Ok(()) };
        if referral.informed_at.is_some() || version < closing {
            return Ok(());
        }
        referral.informed_at = Some(tx.stamp());
        referral.informed_how = Some(how.to_string());
        tx.update_referral(&referral).await?;
        let (key, source) = (Key::new(ResourceType::TASK, task), referral.source.clone());
        self.note(tx, &referral, &key, &source, "informed", how, version).await
    }

    /// Owes something now.
    pub(super) async fn owe(&self, tx: &mut Tx, kind: Owed, subject: &str, partner: &str) -> Result<(), Error> {
        let due_at = self.now();
        tx.enqueue(&Delivery { kind, subject: subject.to_string(), partner: partner.to_string(), due_at }).await
    }

    /// The same now, whatever went wrong before: somebody has asked for it.
    pub(super) async fn owe_afresh(&self, tx: &mut Tx, kind: Owed, subject: &str, partner: &str) -> Result<(), Error> {
        self.owe(tx, kind, subject, partner).await?;
        tx.make_due(kind, subject, self.now()).await
    }

    /// A Task kept at the source's server has to be brought in line. Also when the source made the change: it may have
    /// made it here; and where its own Task says so already, nothing is written and the source is known to know.
    pub(super) async fn owe_write_back(&self, tx: &mut Tx, referral: &Referral) -> Result<(), Error> {
        if referral.kept_at.is_some() {
            self.owe(tx, Owed::WriteBack, &referral.task, &referral.source).await?;
        }
        Ok(())
    }

    /// Ends the source's Task negatively: rejected while nothing was accepted, failed after (design D6).
    pub(super) async fn end_source(&self, tx: &mut Tx, referral: Referral, reason: Value) -> Result<(), Error> {
        let key = Key::new(ResourceType::TASK, &referral.task);
        let from = status_of(&self.must(tx, &key).await?.resource()?);
        let to = if matches!(from, Status::Requested | Status::Draft) { Status::Rejected } else { Status::Failed };
        let why = reason.get("text").and_then(Value::as_str).unwrap_or("").to_string();
        self.move_source(tx, referral.clone(), to, Some(reason)).await?;
        // Nobody goes on working for a referral that has ended; what was prepared for it goes too.
        self.withdraw(tx, &referral, &why).await
    }
}

/// A focus as it is remembered: without a version.
pub(super) fn canonical(focus: &str) -> String {
    focus.split("/_history/").next().unwrap_or(focus).to_string()
}
