//! Reading: read, vread, history, search. Every answer is limited by grants and on record before it leaves.

use std::sync::Arc;

use super::relaying::REFERRAL;
use super::{App, Context, Stored};
use crate::config::Role;
use crate::error::{Error, Kind};
use crate::fhir::bundle::Hit;
use crate::fhir::reference::Reference;
use crate::fhir::search::{Cursor, Query, Search, foreign_references};
use crate::fhir::views::Task;
use crate::fhir::{Key, Resource, ResourceType, published};
use crate::store::{Access, Position, Tx, Viewer, When};
use crate::time::Timestamp;

/// Most Tasks asked about at once.
const ASKED: usize = 200;

/// Most looks at a history of which parts lie outside the scopes, for one page.
const MOST_LOOKS: usize = 20;

/// A search's answer.
#[derive(Debug, Clone)]
pub struct Found {
    /// Matches, then what they include.
    pub hits: Vec<Hit>,
    /// How many there are in all, if it was asked for.
    pub total: Option<u64>,
    /// Where the next page begins.
    pub next: Option<Cursor>,
    /// The answer is complete up to here: a poller goes on from it.
    pub horizon: Timestamp,
}

/// Whose history is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One resource's.
    One(Key),
    /// That of all resources of a type.
    Type(ResourceType),
    /// That of all resources of these types.
    All(Vec<ResourceType>),
}

/// A page of a history.
#[derive(Debug, Clone)]
pub struct Versions {
    /// Newest first.
    pub list: Vec<Arc<Stored>>,
    /// Whether older ones follow.
    pub more: bool,
    /// The answer is complete up to here: who asks again since then misses nothing.
    pub horizon: Timestamp,
}

impl App {
    /// The current version.
    pub async fn read(&self, context: &Context, key: &Key) -> Result<Arc<Stored>, Error> {
        if key.kind == ResourceType::AUDIT_EVENT {
            return self.audit_event(context, key).await.map(Arc::new);
        }
        let mut tx = self.looking(key.kind).await?;
        let stored = self.read_in(&mut tx, context, key).await?;
        self.show(tx, context, shown(context, "read", &[(key.clone(), stored.version)])).await?;
        Ok(stored)
    }

    pub(super) async fn read_in(&self, tx: &mut Tx, context: &Context, key: &Key) -> Result<Arc<Stored>, Error> {
        self.scope(context, key.kind, 'r')?;
        if published::holds(key.kind) {
            let found = self.published(key)?;
            self.check_in_scope(context, 'r', &found)?;
            return Ok(Arc::new(found));
        }
        let viewer = self.viewer(context);
        let stored = match tx.resource_seen_by(key, &viewer).await? {
            Some((stored, whole)) => {
                self.check_in_scope(context, 'r', &stored)?;
                if whole { stored } else { self.partial_view(tx, &viewer, stored).await? }
            }
            None => return Err(not_found(key)),
        };
        if stored.deleted {
            return Err(Error::new(Kind::Gone, format!("This {} has been deleted.", key.kind)));
        }
        self.passed_on(context, stored)
    }

    /// One version. A viewer of part of a Task has no history.
    pub async fn vread(&self, context: &Context, key: &Key, version: i64) -> Result<Arc<Stored>, Error> {
        let mut tx = self.looking(key.kind).await?;
        let stored = self.vread_in(&mut tx, context, key, version).await?;
        self.show(tx, context, shown(context, "vread", &[(key.clone(), version)])).await?;
        Ok(stored)
    }

    pub(super) async fn vread_in(
        &self,
        tx: &mut Tx,
        context: &Context,
        key: &Key,
        version: i64,
    ) -> Result<Arc<Stored>, Error> {
        let part = self.scope(context, key.kind, 'r')?;
        if !tx.may_see(&self.viewer(context), key).await? {
            return Err(not_found(key));
        }
        let stored = tx.resource_version(key, version).await?.ok_or_else(|| not_found(key))?;
        if !part.is_empty() {
            // As it stands now it lies within the scopes, and as it stood then.
            let now = tx.resource(key).await?.ok_or_else(|| not_found(key))?;
            self.check_in_scope(context, 'r', &now)?;
            self.check_in_scope(context, 'r', &stored)?;
        }
        if stored.deleted {
            return Err(Error::new(Kind::Gone, format!("This version deleted the {}.", key.kind)));
        }
        self.passed_on(context, Arc::new(stored))
    }

    /// The versions of a resource, a type or all, newest first, older than `from`.
    pub async fn history(
        &self,
        context: &Context,
        whose: &Whose,
        from: Option<(ResourceType, &Position)>,
        when: &When,
        count: usize,
    ) -> Result<Versions, Error> {
        let letter = match whose {
            Whose::One(key) => self.scope(context, key.kind, 'r').map(|_| 'r')?,
            Whose::Type(kind) => self.scope(context, *kind, 's').map(|_| 's')?,
            // What the scopes leave out is left out; nothing of everything is no answer.
            Whose::All(kinds) => match kinds.iter().find(|kind| self.scope(context, **kind, 's').is_ok()) {
                Some(_) => 's',
                None => return Err(Error::forbidden("Your scopes cover the history of no type.")),
            },
        };
        let horizon = self.store().horizon();
        // One more than asked for tells whether more follow.
        let most = count.saturating_add(1);
        let mut list: Vec<Stored> = Vec::new();
        let mut from = from.map(|(kind, from)| (kind, from.clone()));
        for look in 0.. {
            let from_here = from.as_ref().map(|(kind, from)| (*kind, from));
            let found = self.versions(context, whose, from_here, when, most).await?;
            let ended = found.len() < most;
            from = found.last().map(|last| (last.key.kind, Position::of(last)));
            // Of those within the scopes now, some were outside before.
            for one in found {
                if self.in_scope(context, letter, &one)? {
                    list.push(one);
                }
            }
            if ended || list.len() >= most {
                break;
            }
            if look >= MOST_LOOKS {
                let text = "Too much of this history lies outside your scopes to be passed over; ask with _since.";
                return Err(Error::new(Kind::TooLarge, text).code("too-costly"));
            }
        }
        let more = list.len() > count;
        // Only what is shown is on record, and known to a source.
        list.truncate(count);
        if !list.iter().any(|one| published::holds(one.key.kind)) {
            self.on_record(context, "history", &list).await?;
        }
        let list =
            list.into_iter().map(|stored| self.passed_on(context, Arc::new(stored))).collect::<Result<_, _>>()?;
        Ok(Versions { list, more, horizon })
    }

    /// The next versions of a history, of resources that lie within the scopes as they stand now.
    async fn versions(
        &self,
        context: &Context,
        whose: &Whose,
        from: Option<(ResourceType, &Position)>,
        when: &When,
        most: usize,
    ) -> Result<Vec<Stored>, Error> {
        let viewer = self.viewer(context);
        Ok(match whose {
            Whose::One(key) if published::holds(key.kind) => {
                let all = self.published(key).into_iter();
                all.filter(|one| when.covers(one.updated) && from.is_none_or(|(_, from)| one.version < from.version))
                    .collect()
            }
            // No type that is part of the program has it (`http::routes`).
            Whose::Type(kind) if published::holds(*kind) => Vec::new(),
            Whose::One(key) => {
                let mut tx = self.store().read().await?;
                let now = tx.resource(key).await?.ok_or_else(|| not_found(key))?;
                if !tx.may_see(&viewer, key).await? {
                    return Err(not_found(key));
                }
                self.check_in_scope(context, 'r', &now)?;
                tx.resource_history(key, from.map_or(i64::MAX, |(_, from)| from.version), when, most).await?
            }
            Whose::Type(kind) => {
                let (from, part) = (from.map(|(_, from)| from), self.scope(context, *kind, 's')?);
                self.store().read().await?.type_history(*kind, &viewer, &part, from, when, most).await?
            }
            Whose::All(kinds) => {
                let mut tx = self.store().read().await?;
                let mut all = Vec::new();
                for kind in kinds {
                    let Ok(part) = self.scope(context, *kind, 's') else { continue };
                    let from = from.map(|(of, from)| from.seen_from(of, *kind));
                    all.extend(tx.type_history(*kind, &viewer, &part, from.as_ref(), when, most).await?);
                }
                // Of one time, by the type's name: the order that `seen_from` goes on in. The sort keeps a type's own.
                all.sort_by(|one, other| {
                    let by_time = other.updated.cmp(&one.updated);
                    by_time.then_with(|| one.key.kind.name().cmp(other.key.kind.name()))
                });
                all.truncate(most);
                all
            }
        })
    }

    /// A search.
    pub async fn search(&self, context: &Context, search: &Search) -> Result<Found, Error> {
        if let Some(query) = search.first().filter(|_| !search.several) {
            if published::holds(query.kind) {
                return Ok(self.find_published(&self.narrowed(context, query, 's')?));
            }
            if query.kind == ResourceType::AUDIT_EVENT {
                return self.find_audit_events(context, query, self.asked(search)).await;
            }
        }
        let viewer = self.viewer(context);
        // Taken before looking: what is stamped later may be missing, what is stamped earlier is there.
        let horizon = self.store().horizon();
        if search.queries.iter().all(|query| self.store().finds_nothing(query, &viewer)) {
            self.permitted(context, search)?;
            self.0.recorder.record(self.searched(context, search, &[])).await?;
            let total = search.first().filter(|query| query.total).map(|_| 0);
            return Ok(Found { hits: Vec::new(), total, next: None, horizon });
        }
        let mut tx = match search.kind() {
            Some(kind) => self.looking(kind).await?,
            None => self.store().look().await?,
        };
        let (found, seen) = self.search_in(&mut tx, context, search).await?;
        self.show(tx, context, self.searched(context, search, &seen)).await?;
        Ok(Found { horizon, ..found })
    }

    /// The same in a transaction; also what has to go on record.
    pub(super) async fn search_in(
        &self,
        tx: &mut Tx,
        context: &Context,
        search: &Search,
    ) -> Result<(Found, Vec<(Key, i64)>), Error> {
        let mut queries = Vec::with_capacity(search.queries.len());
        for query in self.permitted(context, search)? {
            queries.push(self.with_copies(tx, context, query).await?);
        }
        if let (Some(query), false) = (queries.first(), search.several)
            && published::holds(query.kind)
        {
            return Ok((self.find_published(query), Vec::new()));
        }
        let viewer = self.viewer(context);
        let horizon = self.store().horizon();
        let page = tx.search_all(&queries.iter().collect::<Vec<_>>(), &viewer).await?;
        let readable = |kind: ResourceType| self.scope(context, kind, 'r').ok();
        let includes = queries.first().map_or(&[][..], |query| query.includes.as_slice());
        let included = tx.included(&page.hits, includes, &viewer, &readable).await?;
        let seen: Vec<(Key, i64)> =
            page.hits.iter().chain(&included).map(|found| (found.key.clone(), found.version)).collect();
        let next = page.next.zip(page.hits.last()).map(|(cursor, last)| search.behind(&last.key, cursor));
        let hit = |found: Arc<Stored>, mode| {
            let full_url = format!("{}/{}", self.own(), found.key);
            Ok(Hit { full_url, content: self.passed_on(context, found)?.content.clone(), mode })
        };
        let hits = page.hits.into_iter().map(|found| hit(found, "match"));
        let hits = hits.chain(included.into_iter().map(|found| hit(found, "include"))).collect::<Result<_, Error>>()?;
        Ok((Found { hits, total: page.total, next, horizon }, seen))
    }

    /// The queries of a search that the partner's scopes cover, as far as they do: all that were asked for by name, else as
    /// many as there are.
    fn permitted(&self, context: &Context, search: &Search) -> Result<Vec<Query>, Error> {
        let (mut list, mut refused) = (Vec::new(), None);
        for query in &search.queries {
            match self.narrowed(context, query, 's') {
                Ok(query) => list.push(query),
                Err(error) if search.named => return Err(error),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if list.is_empty() => Err(error),
            _ => Ok(list),
        }
    }

    /// A source asks in its own URLs; the copies answer to ours.
    pub(super) async fn with_copies(&self, tx: &mut Tx, context: &Context, mut query: Query) -> Result<Query, Error> {
        for origin in foreign_references(&query) {
            let Some(link) = tx.link_from(&context.partner.id, &origin).await? else { continue };
            for filter in &mut query.filters {
                filter.each_references(&mut |list| {
                    if list.contains(&origin) {
                        list.push(link.key.to_string());
                    }
                });
            }
        }
        Ok(query)
    }

    /// A target sees the source's Task that its own is part of, without what other targets answered (design D11).
    async fn partial_view(&self, tx: &mut Tx, viewer: &Viewer, stored: Arc<Stored>) -> Result<Arc<Stored>, Error> {
        let key = stored.key.clone();
        if key.kind != ResourceType::TASK || stored.deleted {
            return Err(not_found(&key));
        }
        for relay in tx.relays(&key.id).await? {
            if tx.may_see(viewer, &Key::new(ResourceType::TASK, &relay.task)).await? {
                let mut view = stored.resource()?;
                for name in ["output", "note", "statusReason"] {
                    view.set(name, serde_json::Value::Null);
                }
                return Ok(Arc::new(Stored { content: view.to_text().into(), ..Stored::clone(&stored) }));
            }
        }
        Err(not_found(&key))
    }

    /// Begins a look at resources of this type. The directory is everybody's and goes on no record.
    async fn looking(&self, kind: ResourceType) -> Result<Tx, Error> {
        if kind.is_directory() || published::holds(kind) {
            self.store().read().await
        } else {
            self.store().look().await
        }
    }

    /// Ends a look: puts on record what is about to be shown, in the same transaction where there is one.
    async fn show(&self, mut tx: Tx, context: &Context, access: Access) -> Result<(), Error> {
        if !tx.is_writing() {
            drop(tx);
            return self.on_its_way(context, access).await;
        }
        let tasks = tasks(&access.seen);
        tx.audit(&[access]).await?;
        for source in self.sources(&context.partner) {
            self.source_has_in(&mut tx, source, &tasks, "read").await?;
        }
        self.commit(tx).await
    }

    /// A search, as it goes on record: what it shows; and that it was asked, where it names a person and shows nothing.
    pub(super) fn searched(&self, context: &Context, search: &Search, list: &[(Key, i64)]) -> Access {
        let access = Access { query: Some(self.asked(search)), ..shown(context, "search", list) };
        let person = search.queries.iter().find(|query| query.names_a_person());
        Access { kind: person.map(|query| query.kind).filter(|_| access.seen.is_empty()), ..access }
    }

    async fn on_record<'a>(
        &self,
        context: &Context,
        action: &'static str,
        list: impl IntoIterator<Item = &'a Stored>,
    ) -> Result<(), Error> {
        let seen: Vec<(Key, i64)> = list.into_iter().map(|stored| (stored.key.clone(), stored.version)).collect();
        self.seen(context, action, &seen).await
    }

    /// Records what a partner is about to see; if that is how a source learns of the end, the loop closes here.
    pub(super) async fn seen(&self, context: &Context, action: &'static str, list: &[(Key, i64)]) -> Result<(), Error> {
        self.on_its_way(context, shown(context, action, list)).await
    }

    /// The same of what is already put in the record's words.
    pub(super) async fn on_its_way(&self, context: &Context, access: Access) -> Result<(), Error> {
        let list = access.seen.clone();
        self.0.recorder.record(access).await?;
        self.known_to_source(context, &list).await
    }

    /// Who reads its own Task knows its status.
    pub(super) async fn known_to_source(&self, context: &Context, list: &[(Key, i64)]) -> Result<(), Error> {
        // A version that is asked for by number is one the source may have known of; it counts as well.
        for source in self.sources(&context.partner) {
            self.source_has(source, &tasks(list), "read").await?;
        }
        Ok(())
    }

    /// Notes that a partner has these versions of Tasks: evidence, where it is their source; version 0: that there is one, no
    /// more.
    pub(super) async fn source_saw(&self, partner: &str, tasks: &[(String, i64)], how: &str) -> Result<(), Error> {
        let Some(partner) = self.partner(partner).filter(|_| !tasks.is_empty()) else { return Ok(()) };
        for (task, _) in tasks.iter().filter(|(_, version)| *version == 0) {
            self.told_of(&partner.id, task, how).await?;
        }
        for source in self.sources(partner) {
            self.source_has(source, tasks, how).await?;
        }
        Ok(())
    }

    async fn source_has(&self, source: &str, tasks: &[(String, i64)], how: &str) -> Result<(), Error> {
        for chunk in tasks.chunks(ASKED) {
            let mut reader = self.store().read().await?;
            let waiting = reader.uninformed(source, &ids(chunk)).await?;
            drop(reader);
            if !waiting.is_empty() {
                let mut tx = self.store().begin().await?;
                self.source_has_in(&mut tx, source, chunk, how).await?;
                self.commit(tx).await?;
            }
        }
        Ok(())
    }

    async fn source_has_in(&self, tx: &mut Tx, source: &str, tasks: &[(String, i64)], how: &str) -> Result<(), Error> {
        for chunk in tasks.chunks(ASKED) {
            for referral in tx.uninformed(source, &ids(chunk)).await? {
                let version = chunk.iter().find(|(id, _)| *id == referral.task).map_or(0, |(_, version)| *version);
                self.informed(tx, &referral.task, version, how).await?;
            }
        }
        Ok(())
    }

    /// A reference that names something this viewer may not see names nothing.
    pub(super) async fn check_visible(&self, tx: &mut Tx, viewer: &Viewer, resource: &Resource) -> Result<(), Error> {
        let texts = crate::fhir::reference::all(resource);
        self.check_texts(tx, viewer, resource, texts).await
    }

    /// The same for what an update adds, so that nobody hands on what is not theirs.
    pub(super) async fn check_added(
        &self,
        tx: &mut Tx,
        viewer: &Viewer,
        before: &Resource,
        after: &Resource,
    ) -> Result<(), Error> {
        let known = crate::fhir::reference::all(before);
        let mut texts = crate::fhir::reference::all(after);
        texts.retain(|text| !known.contains(text));
        self.check_texts(tx, viewer, after, texts).await
    }

    /// Reads ahead what these resources refer to, and for a referral what that refers to in turn: rules that look at one
    /// after the other then find them all there.
    pub(super) async fn look_ahead(&self, tx: &mut Tx, context: &Context, sent: &[&Resource]) -> Result<(), Error> {
        if !tx.is_remote() {
            return Ok(());
        }
        let mut grantees = vec![context.partner.id.clone()];
        if context.is(Role::Coordinator) {
            grantees.push(self.gateway().to_string());
        }
        let named = |resource: &Resource| -> Vec<Key> {
            let texts = crate::fhir::reference::all(resource);
            texts.iter().filter_map(|text| self.local(text)).filter(|key| key.kind != ResourceType::TASK).collect()
        };
        let refers = sent.iter().any(|resource| resource.kind() == ResourceType::TASK && Task(resource).is_referral());
        let mut level: Vec<Key> = sent.iter().flat_map(|resource| named(resource)).collect();
        for _ in 0..=REFERRAL.depth {
            // Guessed by what was read before, the next levels come with this one.
            let mut next = 0;
            while refers && level.len() < REFERRAL.most {
                let Some(key) = level.get(next) else { break };
                next += 1;
                let last = tx.last_seen(key).filter(|last| !last.deleted && !last.key.kind.is_directory());
                for key in last.map_or_else(|| Ok(Vec::new()), |last| last.resource().map(|last| named(&last)))? {
                    if !level.contains(&key) {
                        level.push(key);
                    }
                }
            }
            level.truncate(REFERRAL.most);
            let found = tx.look_ahead(std::mem::take(&mut level), &grantees).await?;
            for stored in found.iter().filter(|stored| refers && !stored.deleted && !stored.key.kind.is_directory()) {
                level.extend(named(&stored.resource()?));
            }
        }
        Ok(())
    }

    async fn check_texts(
        &self,
        tx: &mut Tx,
        viewer: &Viewer,
        resource: &Resource,
        texts: Vec<String>,
    ) -> Result<(), Error> {
        for text in texts {
            if let Reference::Local(key) = Reference::parse(&text, self.own()) {
                let stored = tx.resource(&key).await?.filter(|stored| !stored.deleted);
                if !tx.is_promised(&key) && (stored.is_none() || !tx.may_see(viewer, &key).await?) {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "A reference to a {} names one that is not here. Create it first, or leave it out.",
                            key.kind
                        ),
                    )
                    .code("not-found")
                    .at(crate::fhir::reference::path_of(resource, &text)));
                }
                let task = Task(resource);
                let part = key.kind == ResourceType::TASK && task.is_referral() && task.part_of().any(|of| of == text);
                if let Some(whole) = stored.filter(|_| part)
                    && !Task(&*tx.parsed(&whole)?).is_referral()
                {
                    let text = "A referral is part of another referral and of no other Task (G-049).";
                    return Err(Error::invalid("Task.partOf", text));
                }
            }
        }
        Ok(())
    }
}

/// The Tasks among these.
fn tasks(list: &[(Key, i64)]) -> Vec<(String, i64)> {
    let tasks = list.iter().filter(|(key, _)| key.kind == ResourceType::TASK);
    tasks.map(|(key, version)| (key.id.clone(), *version)).collect()
}

fn ids(tasks: &[(String, i64)]) -> Vec<String> {
    tasks.iter().map(|(id, _)| id.clone()).collect()
}

fn not_found(key: &Key) -> Error {
    Error::not_found(key.kind.name(), &key.id)
}

/// What goes on record: the directory and what is part of the program are everybody's, and do not.
pub(super) fn shown(context: &Context, action: &'static str, list: &[(Key, i64)]) -> Access {
    let private = list.iter().filter(|(key, _)| !key.kind.is_directory() && !published::holds(key.kind));
    access(context, action, private.cloned().collect())
}

/// What somebody did to these, as it goes on record.
pub(super) fn access(context: &Context, action: &'static str, seen: Vec<(Key, i64)>) -> Access {
    Access {
        partner: context.partner.id.clone(),
        action,
        seen,
        request: context.request.clone(),
        token: context.token.clone(),
        address: context.address.clone(),
        person: context.person.clone(),
        ..Access::default()
    }
}
