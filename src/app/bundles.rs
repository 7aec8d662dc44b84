//! Batch and transaction: the same use cases as single requests, each entry on its own or all in one transaction.

use std::collections::HashMap;

use serde_json::json;

use super::{Answer, App, Context};
use crate::error::{Error, Kind};
use crate::fhir::bundle::{self, Asked, Entry, Method, inside};
use crate::fhir::precondition::Precondition;
use crate::fhir::reference::{Reference, rewrite};
use crate::fhir::{Key, Resource, ResourceType, outcome, query, search, validate};
use crate::store::Tx;

/// Whether the door offers this on a type: entries of a Bundle get no more than single requests.
pub type Offered = fn(ResourceType, Method) -> bool;

fn check_offered(offered: Offered, entry: &Entry) -> Result<(), Error> {
    let name = entry.url.split(['/', '?']).next().unwrap_or("");
    let Some(kind) = ResourceType::parse(name) else {
        return Err(Error::new(Kind::NotFound, "This server does not know the type in an entry's request.url."));
    };
    if offered(kind, entry.method) {
        return Ok(());
    }
    let text = format!("{} is not offered on {kind} here; /metadata lists what is.", entry.method.name());
    Err(Error::new(Kind::MethodNotAllowed, text))
}

impl App {
    /// Answers a batch or transaction with the JSON text of the response Bundle.
    pub async fn bundle(&self, context: &Context, asked: Asked, offered: Offered) -> Result<String, Error> {
        let kind = if asked.transaction { "transaction-response" } else { "batch-response" };
        let entries = if asked.transaction {
            self.transaction(context, asked.entries, offered).await?
        } else {
            self.batch(context, asked.entries, offered).await
        };
        let mut out = format!(r#"{{"resourceType":"Bundle","id":"{}","type":"{kind}","entry":["#, crate::id::new());
        out.push_str(&entries.join(","));
        out.push_str("]}");
        Ok(out)
    }

    async fn batch(&self, context: &Context, entries: Vec<Entry>, offered: Offered) -> Vec<String> {
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let answer = match check_offered(offered, &entry) {
                Ok(()) => self.single(context, entry).await,
                Err(refusal) => Err(refusal),
            };
            answers.push(answer.unwrap_or_else(|error| {
                tracing::debug!(%error, "an entry of a batch was refused");
                json!({"response": {"status": error.kind.status().to_string(), "outcome": outcome::of(&error)}})
                    .to_string()
            }));
        }
        answers
    }

    async fn single(&self, context: &Context, entry: Entry) -> Result<String, Error> {
        match entry.method {
            Method::Get => self.get(context, &entry.url).await,
            Method::Post => {
                let resource = typed(&entry)?;
                let answer = self.create(context, resource, entry.if_none_exist.as_deref()).await?;
                Ok(self.entry_of(&answer))
            }
            Method::Put => {
                let (key, demand) = (key_of(&entry.url)?, Precondition::read(entry.if_match.as_deref(), None)?);
                let resource = entry.resource.ok_or_else(|| Error::malformed("A PUT entry has a resource."))?;
                Ok(self.entry_of(&self.update(context, &key, resource, &demand).await?))
            }
            Method::Delete => {
                self.delete(context, &key_of(&entry.url)?, &Precondition::read(entry.if_match.as_deref(), None)?)
                    .await?;
                Ok(json!({"response": {"status": "204"}}).to_string())
            }
        }
    }

    /// A read or search inside a Bundle.
    async fn get(&self, context: &Context, url: &str) -> Result<String, Error> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        if let Some(kind) = ResourceType::parse(path.trim_end_matches('/')) {
            let query = search::parse(kind, &query::pairs(Some(query))?, self.own(), false)?;
            let found = self.search(context, &query).await?;
            let mut links = vec![("self", format!("{}/{kind}", self.own()))];
            if let Some(next) = found.next {
                links.push(("next", format!("{}/{kind}?_page={}", self.own(), next.to_text())));
            }
            let set = bundle::searchset(&found.hits, found.total, &links, found.horizon);
            return Ok(format!(r#"{{"resource":{set},"response":{{"status":"200"}}}}"#));
        }
        let stored = self.read(context, &key_of(path)?).await?;
        Ok(self.entry_of(&Answer { stored, created: false }))
    }

    fn entry_of(&self, answer: &Answer) -> String {
        let stored = &answer.stored;
        let response = json!({"status": if answer.created { "201" } else { "200" },
            "location": format!("{}/{}/_history/{}", self.own(), stored.key, stored.version),
            "etag": format!("W/\"{}\"", stored.version), "lastModified": stored.updated.to_string()});
        format!(r#"{{"fullUrl":"{}/{}","resource":{},"response":{response}}}"#, self.own(), stored.key, stored.content)
    }

    /// All or nothing. Deletes, creates, updates, then reads (R-072), whatever the order they were sent in; what is
    /// created is stored in the order of who refers to whom.
    async fn transaction(
        &self,
        context: &Context,
        entries: Vec<Entry>,
        offered: Offered,
    ) -> Result<Vec<String>, Error> {
        check_once(&entries)?;
        for (index, entry) in entries.iter().enumerate() {
            check_offered(offered, entry).map_err(|error| inside(error, index))?;
        }
        let mut answers: Vec<Option<String>> = vec![None; entries.len()];
        let mut places: HashMap<String, String> = HashMap::new();
        let mut tx = self.store().begin().await?;
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|index| entries[*index].method);
        let mut waiting: Vec<usize> = Vec::new();
        for index in order {
            let entry = &entries[index];
            match entry.method {
                Method::Delete => {
                    self.delete_in(&mut tx, context, &key_of(&entry.url)?, &Precondition::Nothing)
                        .await
                        .map_err(|error| inside(error, index))?;
                    answers[index] = Some(json!({"response": {"status": "204"}}).to_string());
                }
                Method::Post | Method::Put => waiting.push(index),
                Method::Get => {}
            }
        }
        for index in waiting.iter().copied().filter(|index| entries[*index].method == Method::Put) {
            if let Some(url) = &entries[index].full_url {
                places.insert(url.clone(), key_of(&entries[index].url)?.to_string());
            }
        }
        // What waits for nobody goes first; a circle is broken at its first member, which a reference rule then refuses.
        while !waiting.is_empty() {
            let ready =
                waiting.iter().position(|index| refers_to(&entries[*index], &entries, &waiting, *index).is_none());
            let index = waiting.remove(ready.unwrap_or(0));
            let answer = self.write_entry(&mut tx, context, &entries[index], &mut places).await;
            answers[index] = Some(self.entry_of(&answer.map_err(|error| inside(error, index))?));
        }
        self.commit(tx).await?;
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.method == Method::Get) {
            answers[index] = Some(self.get(context, &entry.url).await.map_err(|error| inside(error, index))?);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn write_entry(
        &self,
        tx: &mut Tx,
        context: &Context,
        entry: &Entry,
        places: &mut HashMap<String, String>,
    ) -> Result<Answer, Error> {
        let mut resource = match entry.method {
            Method::Put => entry.resource.clone().ok_or_else(|| Error::malformed("A PUT entry has a resource."))?,
            _ => typed(entry)?,
        };
        rewrite(&mut resource, &mut |text| places.get(text).cloned());
        if crate::fhir::reference::all(&resource).iter().any(|text| text.starts_with("urn:")) {
            let name = resource.kind().name();
            return Err(Error::invalid(name, "A urn: reference names no entry of this transaction.").code("not-found"));
        }
        validate::check(&resource)?;
        let answer = match entry.method {
            Method::Put => {
                let (key, demand) = (key_of(&entry.url)?, Precondition::read(entry.if_match.as_deref(), None)?);
                self.update_in(tx, context, &key, resource, &demand).await?
            }
            _ => self.create_in(tx, context, resource, entry.if_none_exist.as_deref()).await?,
        };
        if let Some(url) = &entry.full_url {
            places.insert(url.clone(), answer.stored.key.to_string());
        }
        Ok(answer)
    }
}

/// The first waiting entry that this one refers to.
fn refers_to(entry: &Entry, entries: &[Entry], waiting: &[usize], me: usize) -> Option<usize> {
    let texts = entry.resource.as_ref().map(crate::fhir::reference::all).unwrap_or_default();
    waiting.iter().copied().filter(|other| *other != me).find(|other| {
        entries[*other].method == Method::Post
            && entries[*other].full_url.as_ref().is_some_and(|url| texts.contains(url))
    })
}

fn typed(entry: &Entry) -> Result<Resource, Error> {
    let resource = entry.resource.clone().ok_or_else(|| Error::malformed("A POST entry has a resource."))?;
    if ResourceType::parse(entry.url.split('?').next().unwrap_or("").trim_end_matches('/')) != Some(resource.kind()) {
        return Err(Error::malformed("A POST entry's request.url is the type of its resource."));
    }
    Ok(resource)
}

fn key_of(url: &str) -> Result<Key, Error> {
    let bare = url.split('?').next().unwrap_or(url);
    match Reference::parse(bare, "") {
        Reference::Local(key) => Ok(key),
        _ => Err(Error::new(Kind::NotSupported, "An entry's request.url is Type, Type?search or Type/id here.")),
    }
}

/// One resource may be written once in a transaction.
fn check_once(entries: &[Entry]) -> Result<(), Error> {
    let mut seen: Vec<&str> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if matches!(entry.method, Method::Put | Method::Delete) {
            if seen.contains(&entry.url.as_str()) {
                return Err(Error::malformed("One resource stands twice in this transaction.")
                    .at(format!("Bundle.entry[{index}]")));
            }
            seen.push(&entry.url);
        }
        let same = |other: &&Entry| other.full_url.is_some() && other.full_url == entry.full_url;
        if entry.method != Method::Get
            && entries[..index].iter().filter(|other| other.method != Method::Get).any(|other| same(&other))
        {
            return Err(
                Error::malformed("Two entries have the same fullUrl.").at(format!("Bundle.entry[{index}].fullUrl"))
            );
        }
    }
    Ok(())
}
