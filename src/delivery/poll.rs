//! Asking a partner's server what has changed: one search, or one batch where the server takes batches, read to its
//! last page (design D15b).

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{App, Claimed, Copy, PollPlan, Progress};
use crate::error::Error;
use crate::fhir::reference::lies_under;
use crate::fhir::{Key, Resource};
use crate::time::Timestamp;

use super::client::{Failure, Response, Server, mark_of};
use super::worker::RENEWALS;

/// Pages of one search: a hundred thousand changes, ten to a page.
const PAGES: usize = 10_000;
/// Longest address of a page.
const LONGEST: usize = 8_192;
/// Most hits that are held at once of searches for what we know of.
const HITS: usize = 5_000;
/// How far a round has come is kept with each page that brought something, and so often where pages bring nothing.
const KEEP: Duration = Duration::from_secs(60);

/// Each page is taken in before the next is asked for: what changed in a long absence need not fit into memory, and what
/// was taken in is not asked for again, whatever happens to the rest. The cursor moves when all of it has been read.
pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: PollPlan,
) -> Result<Result<(), Failure>, Error> {
    let mut all = match &plan.begun {
        Some(begun) => Pages::of(server, &plan.searches, Some(begun)),
        None => match begin(server, &plan.searches, plan.batch).await {
            Ok(all) => all,
            Err(failure) => return Ok(Err(failure)),
        },
    };
    // A try ends before it is taken for one that hangs.
    let enough = app.now().plus(app.config().delivery.timeout * (RENEWALS / 2));
    let (mut kept_at, mut got_on) = (app.now(), false);
    let mut stuck = plan.begun.as_ref();
    let mut time = plan.begun.as_ref().and_then(|begun| begun.time);
    for (index, pages) in all.iter_mut().enumerate() {
        loop {
            let found = match pages.next(server).await {
                Ok(None) => break,
                Ok(Some(found)) => found,
                Err(failure) => {
                    let dead = pages.endless || matches!(failure.status, Some(400 | 404 | 410 | 422));
                    // Who is away, or asks for peace, has said nothing about the place.
                    let answered = !matches!(failure.status, None | Some(429 | 503));
                    if let Some(begun) = stuck.filter(|_| dead || answered) {
                        app.round_stuck(claimed, begun, dead).await?;
                    } else if pages.endless {
                        app.round_stuck(claimed, &unread(&pages.search), true).await?;
                    } else if got_on {
                        app.round_got_on(claimed).await?;
                    }
                    return Ok(Err(failure));
                }
            };
            stuck = None;
            let now = app.now();
            let then = earlier(time, pages.began(now));
            let rest = match pages.next {
                Next::End => plan.searches.get(index + 1).map(|search| Progress { time: then, ..unread(search) }),
                Next::Here(_) | Next::At(_) => Some(pages.progress(then)),
            };
            let kept = rest.as_ref().filter(|_| !found.is_empty() || now >= kept_at.plus(KEEP));
            if kept.is_some() {
                (kept_at, got_on) = (now, true);
            }
            if (!found.is_empty() || kept.is_some()) && !app.polled(claimed, found, kept).await? {
                // Somebody else has it.
                return Ok(Ok(()));
            }
            if now >= enough && kept.is_some() {
                return app.round_goes_on(claimed).await.map(Ok);
            }
        }
        time = earlier(time, pages.began(app.now()));
    }
    app.round_ended(claimed, &plan, time);
    Ok(Ok(()))
}

/// What several searches find of what is wanted, in one batch where the server takes it.
pub(super) async fn ask(
    server: &Server<'_>,
    searches: &[String],
    in_batch: bool,
    wanted: impl Fn(&Copy) -> bool,
) -> Result<Vec<Copy>, Failure> {
    let mut copies = Vec::new();
    for mut pages in begin(server, searches, in_batch).await? {
        while let Some(found) = pages.next(server).await? {
            copies.extend(found.into_iter().filter(|copy| wanted(copy)));
            if copies.len() > HITS {
                return Err(Failure::new("its search finds more than there can be"));
            }
        }
    }
    Ok(copies)
}

/// What a search below the base finds of what is wanted, on all its pages.
pub(super) async fn search(
    server: &Server<'_>,
    query: &str,
    wanted: impl Fn(&Copy) -> bool,
) -> Result<Vec<Copy>, Failure> {
    ask(server, &[query.to_string()], false, wanted).await
}

/// A server's CapabilityStatement.
pub(super) async fn statement(server: &Server<'_>) -> Result<Value, Failure> {
    let response = server.send("GET", &format!("{}/metadata", server.base()), &[], None).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    value_of(server, &response)
}

/// Several searches; the first pages of a batch have been read.
async fn begin(server: &Server<'_>, searches: &[String], in_batch: bool) -> Result<Vec<Pages>, Failure> {
    match searches.len() > 1 && in_batch {
        true => batch(server, searches).await,
        false => Ok(Pages::of(server, searches, None)),
    }
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
        let mut pages = Pages::at(unread(query), Next::End);
        if status.split(' ').next().and_then(|code| code.parse().ok()).is_some_and(|code| pages.may_do_without(code)) {
            return Ok(pages);
        }
        let page = if status.starts_with('2') { entry.get_mut("resource").map(Value::take) } else { None };
        let page = page.ok_or_else(|| Failure::new("refused a search inside a batch"))?;
        pages.opened(&page, date_of(&response));
        pages.next = Next::Here(page);
        Ok(pages)
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
    search: String,
    next: Next,
    asked: HashSet<String>,
    /// Pages that were read, in earlier tries, too.
    read: usize,
    /// What the server takes for its own base: behind a proxy it may not know its address.
    inside: Option<String>,
    /// The server's own time of the first page.
    time: Option<Timestamp>,
    /// The newest change that it showed, for a server that tells no time.
    newest: Option<Timestamp>,
    /// It leads round in a circle, or nowhere.
    endless: bool,
}

/// A search at its beginning.
fn unread(search: &str) -> Progress {
    Progress { search: search.to_string(), next: None, inside: None, pages: 0, time: None, stuck: 0 }
}

impl Pages {
    /// Searches that are read one after the other, the first of them perhaps from where another try had come to.
    fn of(server: &Server<'_>, searches: &[String], begun: Option<&Progress>) -> Vec<Pages> {
        let begun = begun.cloned().into_iter();
        let rest = searches.iter().skip(begun.len()).map(|search| unread(search));
        let at = |place: Progress| {
            let url = place.next.clone().unwrap_or_else(|| format!("{}/{}", server.base(), place.search));
            Pages::at(place, Next::At(url))
        };
        begun.chain(rest).map(at).collect()
    }

    fn at(place: Progress, next: Next) -> Pages {
        let Progress { search, inside, pages: read, .. } = place;
        let (asked, time, newest, endless) = (HashSet::new(), None, None, false);
        Pages { search, next, asked, read, inside, time, newest, endless }
    }

    /// How far it has been read.
    fn progress(&self, time: Option<Timestamp>) -> Progress {
        let next = match &self.next {
            Next::At(url) => Some(url.clone()),
            Next::Here(_) | Next::End => None,
        };
        let (search, inside, pages) = (self.search.clone(), self.inside.clone(), self.read);
        Progress { search, next, inside, pages, time, stuck: 0 }
    }

    /// The server's time when it was begun; no later than ours where only its changes tell, and one may come from the future.
    fn began(&self, now: Timestamp) -> Option<Timestamp> {
        self.time.or(self.newest.map(|newest| newest.min(now)))
    }

    /// Whether this answer to the first question ends it and nothing else: a server may know of Tasks and not find all that
    /// they refer to. That is compared daily.
    fn may_do_without(&self, status: u16) -> bool {
        let refused = matches!(status, 400 | 403..=406 | 413 | 414 | 422 | 501);
        let without = refused && self.read == 0 && !self.search.starts_with("Task?");
        if without {
            let kind = self.search.split('?').next().unwrap_or_default();
            tracing::info!(
                kind,
                status,
                "a partner's server does not answer this search; what was copied is compared daily"
            );
        }
        without
    }

    /// What the first page tells of its server. Of two clocks the slower counts: a cursor that is too early costs a repeat.
    fn opened(&mut self, first: &Value, date: Option<Timestamp>) {
        let told = first.pointer("/meta/lastUpdated").and_then(Value::as_str).and_then(Timestamp::parse);
        self.time = earlier(told, date);
        let path = |url: &str| url.split('?').next().unwrap_or(url).to_string();
        self.inside = link(first, "self").and_then(|own| {
            let own = path(own);
            let inside = own.strip_suffix(&path(&self.search))?.strip_suffix('/')?;
            inside.starts_with("http").then(|| inside.to_string())
        });
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
                self.endless = true;
                return Err(Failure::new("its search leads round in a circle"));
            }
            Next::At(_) if self.read >= PAGES => {
                self.endless = true;
                return Err(Failure::new("its search has no last page"));
            }
            Next::At(url) if !server.has(&url) => {
                self.endless = true;
                return Err(Failure::new("its search leads outside the partner's registered base"));
            }
            Next::At(url) => {
                let response = server.send("GET", &url, &[], None).await?;
                self.asked.insert(url);
                if self.may_do_without(response.status) {
                    return Ok(None);
                }
                if !response.is_success() {
                    return Err(Failure::answered(&response));
                }
                let page = value_of(server, &response)?;
                if self.read == 0 {
                    self.opened(&page, date_of(&response));
                }
                page
            }
        };
        self.read += 1;
        if page.get("resourceType").is_none_or(|kind| kind != "Bundle") {
            return Err(Failure::new("answered a search with something that is no Bundle"));
        }
        if let Some(url) = link(&page, "next") {
            if url.len() > LONGEST {
                return Err(Failure::new("its next page has too long an address"));
            }
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
    response.value(server.bounds).map_err(|_| {
        let why = "answered with something that is no resource";
        Failure { status: Some(response.status), ..Failure::new(why) }
    })
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
