//! Transactions: everything or nothing, in the standard's order whatever the order it was sent in.
//!
//! Deletes, creates, updates, conditional references, reads. What is created gets its id first, so that all links
//! to it are known before anything is stored and entries may refer to each other in a circle. Reads are answered inside
//! the transaction: one that fails undoes the rest. Leaves out histories and operations, which are asked for by
//! themselves. <https://hl7.org/fhir/R4/http.html#trules>

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::reading::shown;
use super::{Answer, App, Context, Found, Stored};
use crate::error::{Error, Kind};
use crate::fhir::bundle::inside;
use crate::fhir::links::{self, Places};
use crate::fhir::patch::Patch;
use crate::fhir::precondition::Precondition;
use crate::fhir::query::Criteria;
use crate::fhir::search::Search;
use crate::fhir::{Key, Resource, ResourceType, published, reference};
use crate::store::Tx;

/// What an interaction is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// `T/id`
    Key(Key),
    /// `T?criteria`
    Criteria(ResourceType, Criteria),
}

/// An interaction that can stand alone or in a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// create, perhaps conditional
    Create(Resource, Option<Criteria>),
    /// update, perhaps conditional
    Update(Target, Resource, Precondition),
    /// patch, perhaps conditional
    Patch(Target, Patch, Precondition),
    /// delete, perhaps conditional
    Delete(Target, Precondition),
    /// read
    Read(Key),
    /// vread
    Version(Key, i64),
    /// search-type, search-system, a search of a compartment
    Search(Box<Search>),
}

/// One entry of a transaction.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its `fullUrl`, by which other entries refer to it.
    pub full_url: Option<String>,
    /// What it asks for.
    pub ask: Ask,
}

/// What an interaction made.
#[derive(Debug, Clone)]
pub enum Made {
    /// What is stored now.
    Written(Answer),
    /// It is gone.
    Deleted,
    /// What was read.
    Read(Arc<Stored>),
    /// What was found, and by which search.
    Found(Found, Box<Search>),
}

/// What a partner saw: how, and which versions.
type Seen = Vec<(&'static str, Vec<(Key, i64)>)>;

/// A create or update that waits for what it refers to.
struct Waiting {
    index: usize,
    key: Key,
    creates: bool,
    resource: Resource,
    precondition: Precondition,
}

impl App {
    /// Does one thing, in a transaction of its own.
    pub async fn perform(&self, context: &Context, ask: Ask) -> Result<Made, Error> {
        Ok(match ask {
            Ask::Create(resource, criteria) => Made::Written(self.create(context, resource, criteria.as_ref()).await?),
            Ask::Update(Target::Key(key), resource, demand) => {
                Made::Written(self.update(context, &key, resource, &demand).await?)
            }
            Ask::Update(Target::Criteria(kind, criteria), resource, demand) => {
                Made::Written(self.update_where(context, kind, &criteria, resource, &demand).await?)
            }
            Ask::Patch(Target::Key(key), patch, demand) => {
                Made::Written(self.patch(context, &key, &patch, &demand).await?)
            }
            Ask::Patch(Target::Criteria(kind, criteria), patch, demand) => {
                Made::Written(self.patch_where(context, kind, &criteria, &patch, &demand).await?)
            }
            Ask::Delete(Target::Key(key), demand) => {
                self.delete(context, &key, &demand).await?;
                Made::Deleted
            }
            Ask::Delete(Target::Criteria(kind, criteria), demand) => {
                self.delete_where(context, kind, &criteria, &demand).await?;
                Made::Deleted
            }
            Ask::Read(key) => Made::Read(self.read(context, &key).await?),
            Ask::Version(key, version) => Made::Read(self.vread(context, &key, version).await?),
            Ask::Search(search) => Made::Found(self.search(context, &search).await?, search),
        })
    }

    /// Does all of it or nothing. The answers stand in the order of the steps.
    pub async fn transaction(&self, context: &Context, steps: Vec<Step>) -> Result<Vec<Made>, Error> {
        if steps.iter().all(|step| step.ask.is_read()) {
            return self.look_at_all(context, steps).await;
        }
        check_urls(&steps)?;
        let mut made: Vec<Option<Made>> = steps.iter().map(|_| None).collect();
        let mut seen = Seen::new();
        let mut tx = self.store().begin().await?;
        let conditions = steps.iter().filter_map(|step| match &step.ask {
            Ask::Create(resource, criteria) => Some(self.turns(resource, criteria.as_ref())),
            Ask::Update(Target::Criteria(_, criteria), resource, _) => Some(self.turns(resource, Some(criteria))),
            _ => None,
        });
        let turns: Vec<String> = conditions.flatten().collect();
        tx.take_turns(&turns).await?;
        let sent = steps.iter().filter_map(|step| match &step.ask {
            Ask::Create(resource, _) | Ask::Update(_, resource, _) => Some(resource),
            Ask::Patch(..) | Ask::Delete(..) | Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => None,
        });
        let sent: Vec<&Resource> = sent.collect();
        self.look_ahead(&mut tx, context, &sent).await?;
        for step in &steps {
            if let Ask::Update(Target::Key(key), ..)
            | Ask::Patch(Target::Key(key), ..)
            | Ask::Delete(Target::Key(key), _) = &step.ask
            {
                self.hold_referrals(&mut tx, key).await?;
            }
        }

        let mut reads = Vec::new();
        let mut rest = Vec::new();
        let mut patches = Vec::new();
        let mut written: Vec<Key> = Vec::new();
        for (index, step) in steps.into_iter().enumerate() {
            match step.ask {
                Ask::Delete(target, precondition) => {
                    let deleted = self.delete_step(&mut tx, context, target, &precondition, &mut written).await;
                    deleted.map_err(|error| inside(error, index))?;
                    put(&mut made, index, Made::Deleted);
                }
                Ask::Create(..) | Ask::Update(..) => rest.push((index, step)),
                Ask::Patch(target, patch, precondition) => {
                    patches.push((index, step.full_url, target, patch, precondition))
                }
                Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => reads.push((index, step.ask)),
            }
        }
        // Creates before updates; a sort keeps the order of equals.
        rest.sort_by_key(|(_, step)| matches!(step.ask, Ask::Update(..)));
        let mut places = Places::new(self.own());
        let mut waiting = Vec::new();
        for (index, step) in rest {
            let Step { full_url, ask } = step;
            let placed = self.place_step(&mut tx, context, index, ask, &mut written).await;
            let (key, placed) = match placed.map_err(|error| inside(error, index))? {
                Placed::There(answer) => {
                    let key = answer.stored.key.clone();
                    put(&mut made, index, Made::Written(answer));
                    (key, None)
                }
                Placed::Waits(one) => (one.key.clone(), Some(one)),
            };
            if let Some(url) = &full_url {
                places.put(url, key);
            }
            waiting.extend(placed.map(|one| (one, full_url)));
        }
        let mut patched = Vec::with_capacity(patches.len());
        for (index, full_url, target, patch, precondition) in patches {
            let key = self.patch_step(&mut tx, context, target, &mut written).await;
            let key = key.map_err(|error| inside(error, index))?;
            if let Some(url) = &full_url {
                places.put(url, key.clone());
            }
            patched.push((index, full_url, key, patch, precondition));
        }
        let mut ready = Vec::with_capacity(waiting.len());
        for (mut one, full_url) in waiting {
            places.rewrite(&mut one.resource, full_url.as_deref()).map_err(|error| inside(error, one.index))?;
            ready.push(one);
        }
        let order = order(&ready);
        let mut ready: Vec<Option<Waiting>> = ready.into_iter().map(Some).collect();
        for at in order {
            let Some(one) = ready.get_mut(at).and_then(Option::take) else { continue };
            let index = one.index;
            let answer = self.write_step_of(&mut tx, context, one).await.map_err(|error| inside(error, index))?;
            put(&mut made, index, Made::Written(answer));
        }
        // Patches change what is stored by then.
        for (index, full_url, key, patch, precondition) in patched {
            let answer = async {
                let mut resource = self.patched(&mut tx, context, &key, &patch, &precondition).await?;
                places.rewrite(&mut resource, full_url.as_deref())?;
                self.check_patched(&resource)?;
                self.write_step_of(&mut tx, context, Waiting { index, key, creates: false, resource, precondition })
                    .await
            };
            let answer = answer.await.map_err(|error| inside(error, index))?;
            put(&mut made, index, Made::Written(answer));
        }
        for (index, ask) in reads {
            let found = self.look_up(&mut tx, context, ask, &mut seen).await.map_err(|error| inside(error, index))?;
            put(&mut made, index, found);
        }
        for one in made.iter_mut().flatten() {
            self.refresh(&mut tx, one).await?;
        }
        let accesses: Vec<_> = seen.iter().map(|(action, list)| shown(context, action, list)).collect();
        tx.audit(&accesses).await?;
        self.commit(tx).await?;
        for (_, list) in &seen {
            self.known_to_source(context, list).await?;
        }
        Ok(made.into_iter().flatten().collect())
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
        for (action, list) in &seen {
            self.seen(context, action, list).await?;
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
                seen.push(("read", vec![(key, stored.version)]));
                Ok(Made::Read(stored))
            }
            Ask::Version(key, version) => {
                let stored = self.vread_in(tx, context, &key, version).await?;
                seen.push(("vread", vec![(key, version)]));
                Ok(Made::Read(stored))
            }
            Ask::Search(search) => {
                let (found, list) = self.search_in(tx, context, &search).await?;
                seen.push(("search", list));
                Ok(Made::Found(found, search))
            }
            Ask::Create(..) | Ask::Update(..) | Ask::Patch(..) | Ask::Delete(..) => {
                Err(Error::internal("a write is no read"))
            }
        }
    }

    async fn delete_step(
        &self,
        tx: &mut Tx,
        context: &Context,
        target: Target,
        precondition: &Precondition,
        written: &mut Vec<Key>,
    ) -> Result<(), Error> {
        let key = match target {
            Target::Key(key) => Some(key),
            Target::Criteria(kind, criteria) => {
                self.one_match(tx, context, (kind, 'd'), &criteria).await?.map(|stored| stored.key)
            }
        };
        let Some(key) = key else { return precondition.check(None) };
        once(written, &key)?;
        self.delete_in(tx, context, &key, precondition).await
    }

    /// Which resource a patch is about.
    async fn patch_step(
        &self,
        tx: &mut Tx,
        context: &Context,
        target: Target,
        written: &mut Vec<Key>,
    ) -> Result<Key, Error> {
        let key = match target {
            Target::Key(key) => key,
            Target::Criteria(kind, criteria) => self.patched_match(tx, context, kind, &criteria).await?,
        };
        once(written, &key)?;
        Ok(key)
    }

    /// Finds out where a create or update will stand.
    async fn place_step(
        &self,
        tx: &mut Tx,
        context: &Context,
        index: usize,
        ask: Ask,
        written: &mut Vec<Key>,
    ) -> Result<Placed, Error> {
        let (resource, key, precondition) = match ask {
            Ask::Create(resource, criteria) => {
                let there = match self.existing(tx, context, &resource, criteria.as_ref()).await? {
                    Some(answer) => Some(answer),
                    None => self.sent_before(tx, context, &resource).await?,
                };
                if let Some(answer) = there {
                    self.check_left(context, 'c', &answer.stored)?;
                    // What was sent again is checked all the same: a faulty entry spoils the whole.
                    self.check(&resource)?;
                    return Ok(Placed::There(answer));
                }
                (resource, None, Precondition::Nothing)
            }
            Ask::Update(Target::Key(key), resource, precondition) => (resource, Some(key), precondition),
            Ask::Update(Target::Criteria(kind, criteria), mut resource, precondition) => {
                let key = self.place_of(tx, context, kind, &criteria, &resource).await?;
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
        once(written, &key)?;
        tx.promise(&key);
        Ok(Placed::Waits(Waiting { index, key, creates, resource, precondition }))
    }

    async fn write_step_of(&self, tx: &mut Tx, context: &Context, mut one: Waiting) -> Result<Answer, Error> {
        for (text, kind, criteria) in links::conditional(&one.resource) {
            let place = |error: Error| error.at(reference::path_of(&one.resource, &text));
            let criteria = Criteria::read(&criteria).map_err(place)?;
            let Some(found) = self.one_match(tx, context, (kind, 's'), &criteria).await.map_err(place)? else {
                let error = Error::new(Kind::Invalid, "This conditional reference finds nothing that you may see.");
                return Err(place(error.code("not-found")));
            };
            let found = found.key.to_string();
            reference::rewrite(&mut one.resource, &mut |known| (known == text).then(|| found.clone()));
        }
        self.check(&one.resource)?;
        if one.creates {
            return self.create_as(tx, context, one.resource, &one.key.id).await;
        }
        self.update_in(tx, context, &one.key, one.resource, &one.precondition).await
    }

    /// A later entry may have moved what an earlier one wrote.
    async fn refresh(&self, tx: &mut Tx, made: &mut Made) -> Result<(), Error> {
        if let Made::Written(answer) = made
            && let Some(now) = tx.resource(&answer.stored.key).await?
            && now.version != answer.stored.version
        {
            answer.stored = now;
        }
        Ok(())
    }
}

/// Reading the record goes on record at once, which a transaction can't.
fn audit_apart() -> Error {
    Error::malformed("AuditEvents are read by themselves or in a batch, not in a transaction.").code("not-supported")
}

/// Where a create or update stands.
enum Placed {
    /// It is there already, and stays as it is.
    There(Answer),
    /// It will be written.
    Waits(Waiting),
}

impl Ask {
    fn is_read(&self) -> bool {
        match self {
            Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => true,
            Ask::Create(..) | Ask::Update(..) | Ask::Patch(..) | Ask::Delete(..) => false,
        }
    }
}

fn put(made: &mut [Option<Made>], index: usize, one: Made) {
    if let Some(place) = made.get_mut(index) {
        *place = Some(one);
    }
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
        Waiting { index: 0, key, creates: true, resource, precondition: Precondition::Nothing }
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
