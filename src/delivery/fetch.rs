//! Reading what a referral refers to: the start URLs, and what those refer to at the same server, a few steps deep.

use crate::app::{App, Claimed, Copy, FetchPlan, Missing, Reach};
use crate::error::Error;
use crate::fhir::Resource;
use crate::fhir::reference::{Reference, all, lies_under, split_absolute};

use super::client::{Failure, Server, mark_of};

/// Tries in which a passing fault of anything stops the whole round; after that only the essential does.
const PATIENT_TRIES: i64 = 2;

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: FetchPlan,
) -> Result<Result<(), Failure>, Error> {
    match read_all(app, server, plan.starts, plan.reach, claimed.attempts <= PATIENT_TRIES).await {
        Ok((copies, missing)) => app.fetched(claimed, copies, &missing).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

type Gathered = (Vec<Copy>, Vec<Missing>);

/// Reads URLs and what they refer to below the server's base, as far as the plan says. `strict`: a passing fault ends the round.
pub(super) async fn read_all(
    app: &App,
    server: &Server<'_>,
    starts: Vec<String>,
    reach: Reach,
    strict: bool,
) -> Result<Gathered, Failure> {
    let mut copies: Vec<Copy> = Vec::new();
    let mut missing: Vec<Missing> = Vec::new();
    let mut seen: Vec<String> = starts.clone();
    let mut level = starts;
    for step in 0..=reach.depth {
        let mut next = Vec::new();
        for url in level {
            match server.read(&url).await {
                Ok(read) => {
                    if step < reach.depth {
                        for found in below(app, server.base(), &read.resource) {
                            if !seen.contains(&found) && seen.len() < reach.most {
                                seen.push(found.clone());
                                next.push(found);
                            }
                        }
                    }
                    copies.push(Copy { url, mark: mark_of(&read.resource), resource: read.resource });
                }
                Err(failure) if strict && !failure.is_absent() => {
                    let kind = split_absolute(&url).map_or("a resource", |(_, key)| key.kind.name());
                    return Err(Failure { why: format!("{kind} could not be read: {}", failure.why), ..failure });
                }
                Err(failure) => {
                    missing.push(Missing { url, deleted: failure.status == Some(410), why: failure.why });
                }
            }
        }
        level = next;
    }
    Ok((copies, missing))
}

/// The URLs a resource refers to below its own server's base. Tasks and Provenances lead elsewhere.
pub(super) fn below(app: &App, base: &str, resource: &Resource) -> Vec<String> {
    let urls = all(resource).into_iter().filter_map(|text| match Reference::parse(&text, app.own()) {
        // Relative there means: at that server.
        Reference::Local(key) if !text.starts_with("http") => Some((key.kind, format!("{base}/{key}"))),
        Reference::Remote { base: at, key } => Some((key.kind, format!("{at}/{key}"))),
        _ => None,
    });
    urls.filter(|(kind, url)| !matches!(kind.name(), "Task" | "Provenance" | "Subscription") && lies_under(url, base))
        .map(|(_, url)| url)
        .collect()
}
