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

/// Pages of one search.
const PAGES: usize = 1_000;

/// What a search brought.
pub(super) struct Hits {
    pub copies: Vec<Copy>,
    /// The server's own time of the first page.
    pub time: Option<Timestamp>,
}

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: PollPlan,
) -> Result<Result<(), Failure>, Error> {
    match ask(server, &plan.searches, plan.batch).await {
        Ok(hits) => app.polled(claimed, hits.copies, hits.time).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

/// Several searches, in one batch where the server takes it.
pub(super) async fn ask(server: &Server<'_>, searches: &[String], in_batch: bool) -> Result<Hits, Failure> {
    if searches.len() > 1 && in_batch { batch(server, searches).await } else { one_by_one(server, searches).await }
}

/// A server's CapabilityStatement.
pub(super) async fn statement(server: &Server<'_>) -> Result<Value, Failure> {
    let response = server.send("GET", &format!("{}/metadata", server.base()), &[], None).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    value_of(server, &response)
}

async fn one_by_one(server: &Server<'_>, searches: &[String]) -> Result<Hits, Failure> {
    let mut all = Hits { copies: Vec::new(), time: None };
    for query in searches {
        let hits = search(server, query).await?;
        all.time = earlier(all.time, hits.time);
        all.copies.extend(hits.copies);
    }
    Ok(all)
}

async fn batch(server: &Server<'_>, searches: &[String]) -> Result<Hits, Failure> {
    let entries: Vec<Value> =
        searches.iter().map(|query| json!({"request": {"method": "GET", "url": query}})).collect();
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": entries});
    let response = server.send("POST", server.base(), &[], Some(bundle.to_string())).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    let answer = value_of(server, &response)?;
    let entries = answer.get("entry").and_then(Value::as_array).cloned().unwrap_or_default();
    if entries.len() != searches.len() {
        return Err(Failure::new("answered a batch with another number of entries"));
    }
    let mut all = Hits { copies: Vec::new(), time: None };
    for entry in entries {
        let status =
            entry.get("response").and_then(|response| response.get("status")).and_then(Value::as_str).unwrap_or("");
        let Some(page) = entry.get("resource").filter(|_| status.starts_with('2')) else {
            return Err(Failure::new("refused a search inside a batch"));
        };
        let hits = pages(server, page.clone(), date_of(&response)).await?;
        all.time = earlier(all.time, hits.time);
        all.copies.extend(hits.copies);
    }
    Ok(all)
}

/// A search below the base, with all its pages.
pub(super) async fn search(server: &Server<'_>, query: &str) -> Result<Hits, Failure> {
    let response = server.send("GET", &format!("{}/{query}", server.base()), &[], None).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    let page = value_of(server, &response)?;
    pages(server, page, date_of(&response)).await
}

async fn pages(server: &Server<'_>, first: Value, date: Option<Timestamp>) -> Result<Hits, Failure> {
    let mut hits = Hits { copies: Vec::new(), time: None };
    let mut page = first;
    let mut asked: HashSet<String> = HashSet::new();
    for number in 0..PAGES {
        if page.get("resourceType").is_none_or(|kind| kind != "Bundle") {
            return Err(Failure::new("answered a search with something that is no Bundle"));
        }
        let meta = page.get("meta").and_then(|meta| meta.get("lastUpdated")).and_then(Value::as_str);
        if number == 0 {
            hits.time = meta.and_then(Timestamp::parse).or(date);
        }
        for entry in page.get("entry").and_then(Value::as_array).into_iter().flatten() {
            hits.copies.extend(copy_of(server.base(), entry));
        }
        let links = page.get("link").and_then(Value::as_array).into_iter().flatten();
        let next = links.clone().find(|link| link.get("relation").is_some_and(|relation| relation == "next"));
        let Some(url) = next.and_then(|link| link.get("url")).and_then(Value::as_str) else {
            // A server that tells no time: the newest change it showed.
            let newest = hits.copies.iter().filter_map(|copy| copy.resource.last_updated()).max();
            hits.time = hits.time.or(newest);
            return Ok(hits);
        };
        let url = if url.starts_with("http") {
            url.to_string()
        } else {
            format!("{}/{}", server.base(), url.trim_start_matches('/'))
        };
        if !asked.insert(url.clone()) {
            return Err(Failure::new("its search leads round in a circle"));
        }
        let response = server.send("GET", &url, &[], None).await?;
        if !response.is_success() {
            return Err(Failure::answered(&response));
        }
        page = value_of(server, &response)?;
    }
    Err(Failure::new("its search has no last page"))
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
