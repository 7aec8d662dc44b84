//! Transactions: everything or nothing, in the standard's order whatever the order it was sent in.
//!
//! Deletes, creates, updates, conditional references, reads. What is created gets its id first, so that all links
//! to it are known before anything is stored and entries may refer to each other in a circle. Reads are answered inside
//! the transaction: one that fails undoes the rest. Leaves out histories and operations, which are asked for by
//! themselves. <https://hl7.org/fhir/R4/http.html#trules>

use std::collections::{BTreeSet, HashMap};

use super::reading::shown;
use super::{App, Ask, Context, Made, Target};
use crate::error::{Error, Kind};
use crate::fhir::bundle::inside;
use crate::fhir::links::{self, Places};
use crate::fhir::patch::Patch;
use crate::fhir::precondition::Precondition;
use crate::fhir::query::Criteria;
use crate::fhir::{Key, Resource, ResourceType, published, reference};
use crate::store::{Access, Tx};

/// One entry of a transaction.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its `fullUrl`, by which other entries refer to it.
    pub full_url: Option<String>,
    /// What it asks for.
    pub ask: Ask,
}

/// What a partner saw, as it goes on record.
type Seen = Vec<Access>;

/// A create or update that waits for what it refers to.
struct Waiting {
    index: usize,
    full_url: Option<String>,
    key: Key,
    creates: bool,
    resource: Resource,
    precondition: Precondition,
}

/// A patch that waits for what it changes.
struct Patching {
    index: usize,
    full_url: Option<String>,
    key: Key,
    patch: Patch,
    precondition: Precondition,
}

impl App {
    /// Does all of it or nothing. The answers stand in the order of the steps.
    pub async fn transaction(&self, context: &Context, steps: Vec<Step>) -> Result<Vec<Made>, Error> {
        if steps.iter().all(|step| step.ask.is_read()) {
            return self.look_at_all(context, steps).await;
        }
        check_urls(&steps)?;
        let mut course = Course {
            app: self,
            context,
            tx: self.store().begin().await?,
            made: steps.iter().map(|_| None).collect(),
            written: Vec::new(),
            places: Places::new(self.own()),
            seen: Seen::new(),
        };
        course.lock(&steps).await?;
        let (mut writes, mut patches, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for (index, Step { full_url, ask }) in steps.into_iter().enumerate() {
            match ask {
                Ask::Delete(target, precondition) => {
                    let deleted = course.delete(target, &precondition).await;
                    course.put(index, deleted.map(|()| Made::Deleted))?;
                }
                Ask::Create(..) | Ask::Update(..) => writes.push((index, full_url, ask)),
                Ask::Patch(target, patch, precondition) => patches.push((index, full_url, target, patch, precondition)),
                Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => reads.push((index, ask)),
            }
        }
        // Creates before updates; a sort keeps the order of equals.
        writes.sort_by_key(|(_, _, ask)| matches!(ask, Ask::Update(..)));
        let mut waiting = Vec::with_capacity(writes.len());
        for (index, full_url, ask) in writes {
            waiting.extend(course.place(index, full_url, ask).await.map_err(|error| inside(error, index))?);
        }
        let mut patching = Vec::with_capacity(patches.len());
        for (index, full_url, target, patch, precondition) in patches {
            let key = course.patched_key(target, full_url.as_deref()).await.map_err(|error| inside(error, index))?;
            patching.push(Patching { index, full_url, key, patch, precondition });
        }
        course.write(waiting).await?;
        // Patches change what is stored by then.
        for one in patching {
            course.patch(one).await?;
        }
        for (index, ask) in reads {
            let found = self.look_up(&mut course.tx, context, ask, &mut course.seen).await;
            course.put(index, found)?;
        }
        course.end().await
    }

    /// Nothing but reads: no writer has to wait for them.
    async fn look_at_all(&self, context: &Context, steps: Vec<Step>) -> Result<Vec<Made>, Error> {
        let mut tx = self.store().read().await?;
        let (mut made, mut seen) = (Vec::with_capacity(steps.len()), Seen::new());
        for (index, step) in steps.into_iter().enumerate() {
            let found = self.look_up(&mut tx, context, step.ask, &mut seen).await;
            made.push(found.map_err(|error| inside(error, index))?);
        }
        drop(tx);
        for access in seen {
            self.on_its_way(context, access).await?;
        }
        Ok(made)
    }

    async fn look_up(&self, tx: &mut Tx, context: &Context, ask: Ask, seen: &mut Seen) -> Result<Made, Error> {
        match ask {
            // The same for everybody, and nothing that a transaction could change.
            Ask::Read(key) if published::holds(key.kind) => Ok(Made::Read(self.read(context, &key).await?)),
            Ask::Search(search) if search.kind().is_some_and(published::holds) => {
                Ok(Made::Found(self.search(context, &search).await?, search))
            }
            Ask::Read(Key { kind: ResourceType::AUDIT_EVENT, .. }) => Err(audit_apart()),
            Ask::Search(search) if search.kind() == Some(ResourceType::AUDIT_EVENT) => Err(audit_apart()),
            Ask::Read(key) => {
                let stored = self.read_in(tx, context, &key).await?;
                seen.push(shown(context, "read", &[(key, stored.version)]));
                Ok(Made::Read(stored))
            }
            Ask::Version(key, version) => {
                let stored = self.vread_in(tx, context, &key, version).await?;
                seen.push(shown(context, "vread", &[(key, version)]));
                Ok(Made::Read(stored))
            }
            Ask::Search(search) => {
                let (found, list) = self.search_in(tx, context, &search).await?;
                seen.push(self.searched(context, &search, &list));
                Ok(Made::Found(found, search))
            }
            Ask::Create(..) | Ask::Update(..) | Ask::Patch(..) | Ask::Delete(..) => {
                Err(Error::internal("a write is no read"))
            }
        }
    }
}

/// A transaction under way.
struct Course<'a> {
    app: &'a App,
    context: &'a Context,
    tx: Tx,
    made: Vec<Option<Made>>,
    /// What is written, or will be.
    written: Vec<Key>,
    /// Where the entries stand.
    places: Places,
    seen: Seen,
}

impl Course<'_> {
    /// Takes all locks, in the order in which everybody does.
    async fn lock(&mut self, steps: &[Step]) -> Result<(), Error> {
        let conditions = steps.iter().filter_map(|step| match &step.ask {
            Ask::Create(resource, criteria) => Some(self.app.turns(resource, criteria.as_ref())),
            Ask::Update(Target::Criteria(_, criteria), resource, _) => Some(self.app.turns(resource, Some(criteria))),
            _ => None,
        });
        let turns: Vec<String> = conditions.flatten().collect();
        self.tx.take_turns(&turns).await?;
        let sent = steps.iter().filter_map(|step| match &step.ask {
            Ask::Create(resource, _) | Ask::Update(_, resource, _) => Some(resource),
            Ask::Patch(..) | Ask::Delete(..) | Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => None,
        });
        let sent: Vec<&Resource> = sent.collect();
        self.app.look_ahead(&mut self.tx, self.context, &sent).await?;
        let changed: BTreeSet<&Key> = steps.iter().filter_map(|step| step.ask.changed()).collect();
        for key in &changed {
            self.app.hold_referrals(&mut self.tx, key).await?;
        }
        // What is to be changed is not shared before: two that share it and then change it would wait for each other.
        for key in changed.iter().filter(|key| key.kind == ResourceType::CONSENT) {
            self.tx.resource_for_update(key).await?;
        }
        Ok(())
    }

    /// What became of an entry.
    fn put(&mut self, index: usize, one: Result<Made, Error>) -> Result<(), Error> {
        let one = one.map_err(|error| inside(error, index))?;
        if let Some(place) = self.made.get_mut(index) {
            *place = Some(one);
        }
        Ok(())
    }

    async fn delete(&mut self, target: Target, precondition: &Precondition) -> Result<(), Error> {
        let key = self.app.deleted_key(&mut self.tx, self.context, target).await?;
        let Some(key) = key else { return precondition.check(None) };
        once(&mut self.written, &key)?;
        self.app.delete_in(&mut self.tx, self.context, &key, precondition).await
    }

    /// Finds out where a create or update will stand; `None`: it is there already, and stays as it is.
    async fn place(&mut self, index: usize, full_url: Option<String>, ask: Ask) -> Result<Option<Waiting>, Error> {
        let (app, context, tx) = (self.app, self.context, &mut self.tx);
        let (resource, key, precondition) = match ask {
            Ask::Create(resource, criteria) => {
                let there = match app.existing(tx, context, &resource, criteria.as_ref()).await? {
                    Some(answer) => Some(answer),
                    None => app.sent_before(tx, context, &resource).await?,
                };
                if let Some(answer) = there {
                    app.check_left(context, 'c', &answer.stored)?;
                    // What was sent again is checked all the same: a faulty entry spoils the whole.
                    app.check(&resource)?;
                    if let Some(url) = &full_url {
                        self.places.put(url, answer.stored.key.clone());
                    }
                    self.put(index, Ok(Made::Written(answer)))?;
                    return Ok(None);
                }
                (resource, None, Precondition::Nothing)
            }
            Ask::Update(Target::Key(key), resource, precondition) => (resource, Some(key), precondition),
            Ask::Update(Target::Criteria(kind, criteria), mut resource, precondition) => {
                let key = app.place_of(tx, context, kind, &criteria, &resource).await?;
                match &key {
                    Some(key) => resource.set("id", key.id.as_str().into()),
                    None => precondition.check(None)?,
                }
                (resource, key, precondition)
            }
            Ask::Patch(..) | Ask::Delete(..) | Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => {
                return Err(Error::internal("only creates and updates are placed"));
            }
        };
        let creates = key.is_none();
        let key = key.unwrap_or_else(|| Key::new(resource.kind(), crate::id::new()));
        once(&mut self.written, &key)?;
        self.tx.promise(&key);
        if let Some(url) = &full_url {
            self.places.put(url, key.clone());
        }
        Ok(Some(Waiting { index, full_url, key, creates, resource, precondition }))
    }

    /// Which resource a patch is about.
    async fn patched_key(&mut self, target: Target, full_url: Option<&str>) -> Result<Key, Error> {
        let key = self.app.patched_key(&mut self.tx, self.context, target).await?;
        once(&mut self.written, &key)?;
        if let Some(url) = full_url {
            self.places.put(url, key.clone());
        }
        Ok(key)
    }

    /// Writes what has its place.
    async fn write(&mut self, mut waiting: Vec<Waiting>) -> Result<(), Error> {
        for one in &mut waiting {
            let rewritten = self.places.rewrite(&mut one.resource, one.full_url.as_deref());
            rewritten.map_err(|error| inside(error, one.index))?;
        }
        let order = order(&waiting);
        let mut waiting: Vec<Option<Waiting>> = waiting.into_iter().map(Some).collect();
        for at in order {
            let Some(one) = waiting.get_mut(at).and_then(Option::take) else { continue };
            let index = one.index;
            let made = self.write_one(&one.key, one.creates, one.resource, &one.precondition).await;
            self.put(index, made)?;
        }
        Ok(())
    }

    async fn patch(&mut self, one: Patching) -> Result<(), Error> {
        let made = async {
            let patched = self.app.patched(&mut self.tx, self.context, &one.key, &one.patch, &one.precondition);
            let mut resource = patched.await?;
            self.places.rewrite(&mut resource, one.full_url.as_deref())?;
            self.app.check_patched(&resource)?;
            self.write_one(&one.key, false, resource, &one.precondition).await
        };
        let made = made.await;
        self.put(one.index, made)
    }

    async fn write_one(
        &mut self,
        key: &Key,
        creates: bool,
        mut resource: Resource,
        precondition: &Precondition,
    ) -> Result<Made, Error> {
        let (app, context, tx) = (self.app, self.context, &mut self.tx);
        for (text, kind, criteria) in links::conditional(&resource) {
            let place = |error: Error| error.at(reference::path_of(&resource, &text));
            let criteria = Criteria::read(&criteria).map_err(place)?;
            let Some(found) = app.one_match(tx, context, (kind, 's'), &criteria).await.map_err(place)? else {
                let error = Error::new(Kind::Invalid, "This conditional reference finds nothing that you may see.");
                return Err(place(error.code("not-found")));
            };
            let found = found.key.to_string();
            reference::rewrite(&mut resource, &mut |known| (known == text).then(|| found.clone()));
        }
        app.check(&resource)?;
        Ok(Made::Written(if creates {
            app.create_as(tx, context, resource, &key.id).await?
        } else {
            app.update_in(tx, context, key, resource, precondition).await?
        }))
    }

    /// Commits, with what was seen on record.
    async fn end(mut self) -> Result<Vec<Made>, Error> {
        for made in self.made.iter_mut().flatten() {
            // A later entry may have moved what an earlier one wrote.
            if let Made::Written(answer) = made
                && let Some(now) = self.tx.resource(&answer.stored.key).await?
                && now.version != answer.stored.version
            {
                answer.stored = now;
            }
        }
        self.tx.audit(&self.seen).await?;
        self.app.commit(self.tx).await?;
        for access in &self.seen {
            self.app.known_to_source(self.context, &access.seen).await?;
        }
        Ok(self.made.into_iter().flatten().collect())
    }
}

/// Reading the record goes on record at once, which a transaction can't.
fn audit_apart() -> Error {
    Error::malformed("AuditEvents are read by themselves or in a batch, not in a transaction.").code("not-supported")
}

/// One resource is written once in a transaction.
fn once(written: &mut Vec<Key>, key: &Key) -> Result<(), Error> {
    if written.contains(key) {
        let text = "Another entry of this transaction deletes or updates the same resource; each may stand once.";
        return Err(Error::malformed(text).code("duplicate"));
    }
    written.push(key.clone());
    Ok(())
}

/// A `fullUrl` names one entry.
fn check_urls(steps: &[Step]) -> Result<(), Error> {
    let mut known: Vec<&str> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let Some(url) = step.full_url.as_deref().filter(|_| matches!(step.ask, Ask::Create(..) | Ask::Update(..)))
        else {
            continue;
        };
        if known.contains(&url) {
            let error = Error::malformed("Two entries of this transaction have the same fullUrl.").code("duplicate");
            return Err(error.at(format!("Bundle.entry[{index}].fullUrl")));
        }
        known.push(url);
    }
    Ok(())
}

/// In which order to write: what waits for nobody first, and of those what needs no search first. In a circle somebody
/// has to begin: no Task, which wants to see all that it is about.
fn order(waiting: &[Waiting]) -> Vec<usize> {
    let created = waiting.iter().enumerate().filter(|(_, one)| one.creates);
    let created: HashMap<String, usize> = created.map(|(at, one)| (one.key.to_string(), at)).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); waiting.len()];
    let mut open: Vec<usize> = vec![0; waiting.len()];
    for (at, one) in waiting.iter().enumerate() {
        let texts = reference::all(&one.resource);
        let needs: BTreeSet<usize> = texts.iter().filter_map(|text| created.get(text).copied()).collect();
        for need in needs.into_iter().filter(|need| *need != at) {
            followers[need].push(at);
            open[at] += 1;
        }
    }
    let searches: Vec<bool> = waiting.iter().map(|one| !links::conditional(&one.resource).is_empty()).collect();
    let mut left: Vec<usize> = (0..waiting.len()).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while !left.is_empty() {
        let first = |fits: &dyn Fn(usize) -> bool| left.iter().position(|at| fits(*at));
        let found = first(&|at| open[at] == 0 && !searches[at])
            .or_else(|| first(&|at| open[at] == 0))
            .or_else(|| first(&|at| waiting[at].key.kind != ResourceType::TASK));
        let at = left.remove(found.unwrap_or(0));
        for follower in &followers[at] {
            open[*follower] = open[*follower].saturating_sub(1);
        }
        order.push(at);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn waits(id: &str, value: Value) -> Waiting {
        let resource = Resource::from_value(value).unwrap();
        let key = Key::new(resource.kind(), id);
        Waiting { index: 0, full_url: None, key, creates: true, resource, precondition: Precondition::Nothing }
    }

    //
    #[test]
    fn what_is_referred_to_is_written_first_and_a_circle_begins_with_no_task() {
        let task = json!({"resourceType": "Task", "focus": {"reference": "ServiceRequest/s"}, "partOf": [{"reference": "Procedure/p"}]});
        let list = [
            waits("t", task),
            waits("s", json!({"resourceType": "ServiceRequest", "subject": {"reference": "Patient/a"}})),
            waits(
                "a",
                json!({"resourceType": "Patient", "managingOrganization": {"reference": "Organization?name=x"}}),
            ),
            waits("p", json!({"resourceType": "Procedure", "partOf": [{"reference": "Task/t"}]})),
            waits("o", json!({"resourceType": "Organization", "partOf": {"reference": "Organization/o"}})),
        ];
        assert_eq!(order(&list), [4, 2, 1, 3, 0]);
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn a_key_stands_once() {
        let mut written = Vec::new();
        assert!(once(&mut written, &Key::new(ResourceType::TASK, "1")).is_ok());
        assert!(once(&mut written, &Key::new(ResourceType::TASK, "2")).is_ok());
        assert_eq!(once(&mut written, &Key::new(ResourceType::TASK, "1")).unwrap_err().kind, Kind::Malformed);
    }
}
