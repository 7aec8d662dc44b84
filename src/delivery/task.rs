//! Posting our Task to a target's server, and calling it off there.
//!
//! Nothing is posted twice: whenever the outcome of an earlier try may be unknown, the server is searched for our
//! identifier first, and what it answers is compared by us, identifier and `partOf` (design D8).

use serde_json::{Value, json};

use crate::app::{App, Claimed, Copy, DeliverPlan};
use crate::error::Error;
use crate::fhir::views::{STATUS_REASON, Task, concept, identifiers};
use crate::fhir::{Resource, ResourceType};
use crate::referral::Status;
use crate::referral::decide::status_of;

use super::client::{Failure, Read, Server, Written, created_url, mark_of, other_form};
use super::poll::search;

/// Times the version may change under us in one try.
const RACES: usize = 3;

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: DeliverPlan,
) -> Result<Result<(), Failure>, Error> {
    let mut remote = plan.remote.clone();
    if remote.is_none() && (claimed.repeated || plan.lost || plan.withdrawn.is_some()) {
        match find(server, &plan).await {
            Ok(found) => remote = found,
            Err(failure) => return Ok(Err(failure)),
        }
    }
    match (remote, &plan.withdrawn) {
        (Some(url), Some(why)) => call_off(app, server, claimed, &plan, url, why).await,
        (None, Some(_)) => app.called_off(claimed).await.map(Ok),
        (Some(url), None) => app.delivered(claimed, &url, None).await.map(Ok),
        (None, None) => match post(server, &plan).await {
            Ok((url, mark)) => app.delivered(claimed, &url, mark.as_deref()).await.map(Ok),
            Err(failure) => Ok(Err(failure)),
        },
    }
}

async fn post(server: &Server<'_>, plan: &DeliverPlan) -> Result<(String, Option<String>), Failure> {
    let (system, value) = &plan.identifier;
    let only_once = format!("identifier={system}|{value}");
    let url = format!("{}/Task", server.base());
    let response = server.send("POST", &url, &[("if-none-exist", &only_once)], Some(plan.task.to_text())).await?;
    if !response.is_success() {
        return Err(Failure::answered(&response));
    }
    let url = created_url(server.base(), ResourceType::TASK, &response);
    let url = url.ok_or_else(|| Failure::new("created the Task, and did not say where"))?;
    let mark = response.resource(server.bounds).ok().and_then(|task| mark_of(&task));
    Ok((url, mark))
}

/// Where our Task stands at the server, if an earlier try left it there.
async fn find(server: &Server<'_>, plan: &DeliverPlan) -> Result<Option<String>, Failure> {
    let (system, value) = &plan.identifier;
    let ours = |copy: &Copy| is_ours(plan, &copy.resource);
    let found = search(server, &format!("Task?identifier={system}%7C{value}"), ours).await?;
    Ok(found.into_iter().next().map(|copy| copy.url))
}

fn is_ours(plan: &DeliverPlan, task: &Resource) -> bool {
    let (system, value) = &plan.identifier;
    let same = identifiers(task).any(|(its_system, its_value)| its_system == system && its_value == value);
    same && Task(task).part_of().any(|part| part == plan.part_of)
}

/// Calls it off where it stands. A server that was set back to a backup may have lost it, and given its id to another.
async fn call_off(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: &DeliverPlan,
    mut url: String,
    why: &str,
) -> Result<Result<(), Failure>, Error> {
    let mut refused = None;
    for _ in 0..RACES {
        let read = match server.read(&url).await {
            Ok(read) if is_ours(plan, &read.resource) => Some(read),
            Ok(_) => None,
            Err(failure) if matches!(failure.status, Some(404 | 410)) => None,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(Read { resource, etag }) = read else {
            match find(server, plan).await {
                Ok(Some(elsewhere)) if elsewhere != url => url = elsewhere,
                Ok(_) => return app.called_off(claimed).await.map(Ok),
                Err(failure) => return Ok(Err(failure)),
            }
            continue;
        };
        // Refused, and nothing has changed: it wants the other form.
        let swapped = refused.is_some() && refused == etag;
        let status = status_of(&resource);
        if status == Status::Cancelled {
            return app.called_off(claimed).await.map(Ok);
        }
        if status.is_terminal() {
            return app.ended_first(claimed, &url, mark_of(&resource).as_deref()).await.map(Ok);
        }
        let mut task = resource;
        task.set("status", json!(Status::Cancelled.code()));
        task.set("statusReason", concept(STATUS_REASON, "cancelled-by-source", why));
        task.set("businessStatus", Value::Null);
        let tag = etag.as_deref().map(|tag| if swapped { other_form(tag) } else { tag.to_string() });
        match server.write(&url, tag.as_deref(), &task).await {
            Ok(Written::Stands(read)) if status_of(&read.resource) == Status::Cancelled => {
                return app.called_off(claimed).await.map(Ok);
            }
            Ok(Written::Stands(_)) => {
                return Ok(Err(Failure::new("took the calling off and does not show it")));
            }
            Ok(Written::Raced) => refused = etag,
            Err(failure) => return Ok(Err(failure)),
        }
    }
    Ok(Err(Failure::new("the Task kept changing while it was called off")))
}
