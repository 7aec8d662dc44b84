//! Writing our status to a Task that is kept at the source's server: each status as its own legal step, nothing but
//! status, statusReason, businessStatus, output and note, and always with `If-Match` (design D12a, G-067).

use serde_json::{Value, json};

use crate::app::{App, Claimed, Copy, WriteBackPlan};
use crate::error::Error;
use crate::fhir::Resource;
use crate::fhir::views::{Task, identifiers, reference_of};
use crate::referral::decide::status_of;

use super::client::{Failure, Server, Written, created_url, mark_of, other_form};
use super::poll::search;

/// Times the version may change under us in one try.
const RACES: usize = 4;

enum End {
    /// It says what ours says.
    Written(Option<String>),
    /// The source has ended it.
    Overtaken,
}

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: WriteBackPlan,
) -> Result<Result<(), Failure>, Error> {
    match write(server, &plan).await {
        Ok(End::Written(mark)) => app.written_back(claimed, plan.version, mark.as_deref()).await.map(Ok),
        Ok(End::Overtaken) => app.overtaken(claimed).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

async fn write(server: &Server<'_>, plan: &WriteBackPlan) -> Result<End, Failure> {
    let mut ours = plan.task.clone();
    place_outcomes(server, plan, &mut ours).await?;
    let end = status_of(&ours);
    let (mut refused, mut swapped) = (None, false);
    'again: for _ in 0..RACES {
        let read = server.read(&plan.url).await?;
        let (mut remote, mut etag) = (read.resource, read.etag);
        let focus = Task(&remote).focus().unwrap_or_default();
        if !plan.focus.is_empty()
            && !plan.focus.iter().any(|place| place == focus || *place == format!("{}/{focus}", server.base()))
        {
            // A server that was set back to a backup gives ids anew.
            return Err(Failure::new("its Task is about something else"));
        }
        // Refused, and nothing has changed: it wants the other form.
        swapped ^= refused.is_some() && refused == etag;
        let from = status_of(&remote);
        let Some(way) = from.way_to(end) else {
            return if from.is_terminal() {
                Ok(End::Overtaken)
            } else {
                Err(Failure::new("its Task has moved past ours"))
            };
        };
        if way.is_empty() && same_answer(&remote, &ours) {
            return Ok(End::Written(mark_of(&remote)));
        }
        let steps: Vec<_> = if way.is_empty() { vec![end] } else { way };
        let last = steps.len() - 1;
        for (index, status) in steps.into_iter().enumerate() {
            let mut next = remote.clone();
            next.set("status", json!(status.code()));
            next.set("statusReason", Value::Null);
            if index == last {
                for name in ANSWER {
                    next.set(name, ours.at(name).cloned().or_else(|| kept(name, &remote)).unwrap_or(Value::Null));
                }
            }
            let tag = etag.as_deref().map(|tag| if swapped { other_form(tag) } else { tag.to_string() });
            match server.write(&plan.url, tag.as_deref(), &next).await? {
                Written::Raced => {
                    refused = etag;
                    continue 'again;
                }
                Written::Stands(read) if status_of(&read.resource) == status => {
                    (remote, etag) = (read.resource, read.etag);
                }
                Written::Stands(_) => return Err(Failure::new("took our answer and does not show it")),
            }
        }
        return Ok(End::Written(mark_of(&remote)));
    }
    Err(Failure::new("its Task kept changing while it was written"))
}

const ANSWER: [&str; 4] = ["statusReason", "businessStatus", "output", "note"];

/// What the source wrote itself and we say nothing about stays.
fn kept(name: &str, remote: &Resource) -> Option<Value> {
    (name == "note" || name == "output").then(|| remote.at(name).cloned()).flatten()
}

fn same_answer(remote: &Resource, ours: &Resource) -> bool {
    ANSWER.iter().all(|name| ours.at(name).is_none() || remote.at(name) == ours.at(name))
}

/// Creates the outcomes at the source's server, once each, and names them there (`write_outcomes = "create"`).
async fn place_outcomes(server: &Server<'_>, plan: &WriteBackPlan, ours: &mut Resource) -> Result<(), Failure> {
    for (reference, outcome) in &plan.outcomes {
        let kind = outcome.kind();
        let Some((system, value)) = identifiers(outcome).last() else { continue };
        let the_same = |copy: &Copy| identifiers(&copy.resource).any(|mark| mark == (system, value));
        let found = search(server, &format!("{kind}?identifier={system}%7C{value}"), the_same).await?;
        let url = match found.into_iter().next() {
            Some(copy) => copy.url,
            None => {
                let only_once = format!("identifier={system}|{value}");
                let headers = [("if-none-exist", only_once.as_str())];
                let url = format!("{}/{kind}", server.base());
                let response = server.send("POST", &url, &headers, Some(outcome.to_text())).await?;
                if !response.is_success() {
                    return Err(Failure::answered(&response));
                }
                created_url(server.base(), kind, &response)
                    .ok_or_else(|| Failure::new("created the outcome, and did not say where"))?
            }
        };
        let relative = url.strip_prefix(server.base()).unwrap_or(&url).trim_start_matches('/').to_string();
        let mut outputs = ours.list("output").to_vec();
        for output in &mut outputs {
            if reference_of(output.get("valueReference")) == Some(reference.as_str()) {
                output["valueReference"]["reference"] = json!(relative);
            }
        }
        ours.set("output", Value::Array(outputs));
    }
    Ok(())
}
