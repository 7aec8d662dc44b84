//! Asking a partner's server what has changed: one search, or one batch where the server takes batches, read to its
//! last page (design D15b).

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::app::{App, Claimed, Copy, PollPlan};
use crate::error::Error;
use crate::fhir::reference::lies_under;
use crate::fhir::{Key, Resource};
use crate::time::Timestamp;

use super::client::{Failure, Response, Server, mark_of};

/// Pages of one search: a hundred thousand changes, ten to a page. What takes longer than a lease can be renewed ends sooner.
const PAGES: usize = 10_000;

/// What a search brought.
pub(super) struct Hits {
    pub copies: Vec<Copy>,
    /// The server's own time of the first page.
    pub time: Option<Timestamp>,
}

/// Each page is taken in before the next is asked for: what changed in a long absence need not fit into memory. The
/// cursor moves when all of it has been read.
pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: PollPlan,
) -> Result<Result<(), Failure>, Error> {
    let mut all = match begin(server, &plan.searches, plan.batch).await {
        Ok(all) => all,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut time = None;
    for pages in &mut all {
        loop {
            match pages.next(server).await {
                Ok(None) => break,
                Ok(Some(found)) => {
                    if !found.is_empty() && !app.polled(claimed, found).await? {
                        // Somebody else has it.
                        return Ok(Ok(()));
                    }
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
        time = earlier(time, pages.time.or(pages.newest));
    }
    app.round_ended(claimed, time);
    Ok(Ok(()))
}

/// Several searches, in one batch where the server takes it.
pub(super) async fn ask(server: &Server<'_>, searches: &[String], in_batch: bool) -> Result<Hits, Failure> {
    let mut hits = Hits { copies: Vec::new(), time: None };
    for mut pages in begin(server, searches, in_batch).await? {
        while let Some(found) = pages.next(server).await? {
            hits.copies.extend(found);
        }
        hits.time = earlier(hits.time, pages.time.or(pages.newest));
    }
    Ok(hits)
}

/// A search below the base, with all its pages.
pub(super) async fn search(server: &Server<'_>, query: &str) -> Result<Hits, Failure> {
    ask(server, &[query.to_string()], false).await
}

/// A server's CapabilityStatement.
pub(super) async fn statement(server: &Server<'_>) -> Result<Value, Failure> {
    let response = server.send("GET", &format!("{}/metadata", server.base()), &[], None).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    value_of(server, &response)
}

/// The first pages of several searches.
async fn begin(server: &Server<'_>, searches: &[String], in_batch: bool) -> Result<Vec<Pages>, Failure> {
    if searches.len() > 1 && in_batch {
        return batch(server, searches).await;
    }
    let mut all = Vec::new();
    for query in searches {
        let response = server.send("GET", &format!("{}/{query}", server.base()), &[], None).await?;
        if !response.is_success() {
            return Err(Failure::answered(&response));
        }
        all.push(Pages::new(query, value_of(server, &response)?, date_of(&response)));
    }
    Ok(all)
}

async fn batch(server: &Server<'_>, searches: &[String]) -> Result<Vec<Pages>, Failure> {
    let entries: Vec<Value> =
        searches.iter().map(|query| json!({"request": {"method": "GET", "url": query}})).collect();
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": entries});
    let response = server.send("POST", server.base(), &[], Some(bundle.to_string())).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    let mut answer = value_of(server, &response)?;
    let entries = answer.get_mut("entry").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    if entries.len() != searches.len() {
        return Err(Failure::new("answered a batch with another number of entries"));
    }
    let page = |(query, mut entry): (&String, Value)| {
        let status = entry.pointer("/response/status").and_then(Value::as_str).unwrap_or("");
        let page = if status.starts_with('2') { entry.get_mut("resource").map(Value::take) } else { None };
        let page = page.ok_or_else(|| Failure::new("refused a search inside a batch"))?;
        Ok(Pages::new(query, page, date_of(&response)))
    };
    searches.iter().zip(entries).map(page).collect()
}

/// Where a search goes on.
enum Next {
    Here(Value),
    At(String),
    End,
}

/// A search's pages, one after the other.
struct Pages {
    next: Next,
    asked: HashSet<String>,
    /// What the server takes for its own base: behind a proxy it may not know its address.
    inside: Option<String>,
    /// The server's own time of the first page.
    time: Option<Timestamp>,
    /// The newest change that it showed, for a server that tells no time.
    newest: Option<Timestamp>,
}

impl Pages {
    fn new(query: &str, first: Value, date: Option<Timestamp>) -> Pages {
        let time = first.pointer("/meta/lastUpdated").and_then(Value::as_str).and_then(Timestamp::parse).or(date);
        let path = |url: &str| url.split('?').next().unwrap_or(url).to_string();
        let inside = link(&first, "self").and_then(|own| {
            let own = path(own);
            Some(own.strip_suffix(&path(query))?.strip_suffix('/').filter(|base| base.starts_with("http"))?.to_string())
        });
        Pages { next: Next::Here(first), asked: HashSet::new(), inside, time, newest: None }
    }

    /// Where a page's `next` is to be asked for: at the registered base, whatever the server takes for its own.
    fn place(&self, base: &str, url: &str) -> String {
        let inside = self.inside.as_deref().and_then(|inside| url.strip_prefix(inside));
        match inside.filter(|rest| rest.starts_with(['/', '?'])) {
            Some(rest) => format!("{base}{rest}"),
            None if url.starts_with("http") => url.to_string(),
            None => format!("{base}/{}", url.trim_start_matches('/')),
        }
    }

    /// The hits of the next page; none after the last.
    async fn next(&mut self, server: &Server<'_>) -> Result<Option<Vec<Copy>>, Failure> {
        let page = match std::mem::replace(&mut self.next, Next::End) {
            Next::Here(page) => page,
            Next::End => return Ok(None),
            Next::At(url) if self.asked.contains(&url) => {
                return Err(Failure::new("its search leads round in a circle"));
            }
            Next::At(_) if self.asked.len() == PAGES => return Err(Failure::new("its search has no last page")),
            Next::At(url) => {
                let response = server.send("GET", &url, &[], None).await?;
                self.asked.insert(url);
                if !response.is_success() {
                    return Err(Failure::answered(&response));
                }
                value_of(server, &response)?
            }
        };
        if page.get("resourceType").is_none_or(|kind| kind != "Bundle") {
            return Err(Failure::new("answered a search with something that is no Bundle"));
        }
        if let Some(url) = link(&page, "next") {
            self.next = Next::At(self.place(server.base(), url));
        }
        let entries = page.get("entry").and_then(Value::as_array).into_iter().flatten();
        let found: Vec<Copy> = entries.filter_map(|entry| copy_of(server.base(), entry)).collect();
        self.newest = self.newest.max(found.iter().filter_map(|copy| copy.resource.last_updated()).max());
        Ok(Some(found))
    }
}

/// A page's link of this relation.
fn link<'p>(page: &'p Value, relation: &str) -> Option<&'p str> {
    let mut links = page.get("link").and_then(Value::as_array)?.iter();
    links.find(|link| link.get("relation").is_some_and(|its| its == relation))?.get("url")?.as_str()
}

/// A hit, under its URL at this server; matches only.
fn copy_of(base: &str, entry: &Value) -> Option<Copy> {
    let mode = entry.get("search").and_then(|search| search.get("mode")).and_then(Value::as_str);
    if mode.is_some_and(|mode| mode != "match") {
        return None;
    }
    let resource = Resource::from_value(entry.get("resource")?.clone()).ok()?;
    let key: Key = resource.key()?;
    let url = format!("{base}/{key}");
    lies_under(&url, base).then(|| Copy { mark: mark_of(&resource), url, resource })
}

fn value_of(server: &Server<'_>, response: &Response) -> Result<Value, Failure> {
    response.value(server.bounds).map_err(|_| Failure::new("answered with something that is no resource"))
}

fn date_of(response: &Response) -> Option<Timestamp> {
    response.header("date").and_then(Timestamp::parse_http_date)
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
