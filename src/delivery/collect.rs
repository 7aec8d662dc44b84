//! Reading a Task at a partner's server, and the outcomes its output names there.

use crate::app::{App, Claimed, CollectPlan, Copy, Reported};
use crate::error::Error;
use crate::fhir::ResourceType;
use crate::fhir::views::reference_of;
use crate::referral::Status;
use crate::referral::decide::status_of;

use super::client::{Failure, Server, mark_of};
use super::fetch::{below, read_all};
use super::poll::search;

/// Tries in which a missing outcome holds the answer back; after that the answer is passed on without it (design D5).
const PATIENT_TRIES: i64 = 3;

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: CollectPlan,
) -> Result<Result<(), Failure>, Error> {
    let read = match server.read(&plan.url).await {
        Ok(read) => read,
        Err(failure) if failure.status == Some(410) => return app.vanished(claimed, true).await.map(Ok),
        // A server that is being set up again may know nothing for a moment.
        Err(failure) if failure.status == Some(404) && claimed.attempts > PATIENT_TRIES => {
            return app.vanished(claimed, false).await.map(Ok);
        }
        Err(failure) => return Ok(Err(failure)),
    };
    let mut outcomes: Vec<Copy> = Vec::new();
    if let Some(reach) = plan.outcomes {
        let mut named = read.resource.clone();
        // Only the outputs are followed; what the Task itself refers to is ours already.
        let output = named.at("output").cloned().unwrap_or_default();
        named.elements_mut().retain(|name, _| name == "resourceType");
        named.set("output", output);
        let patient = claimed.attempts <= PATIENT_TRIES;
        // A target's own patient record stays where it is.
        let starts = below(app, server.base(), &named).into_iter().filter(|url| !url.contains("/Patient/")).collect();
        match read_all(app, server, starts, reach, patient).await {
            Ok((_, missing)) if patient && !missing.is_empty() => {
                return Ok(Err(Failure::new("an outcome could not be read")));
            }
            Ok((copies, _)) => outcomes = copies,
            Err(failure) => return Ok(Err(failure)),
        }
        if let Some(request) = plan.request.filter(|_| status_of(&read.resource) == Status::Completed) {
            let known: Vec<String> = outcomes.iter().map(|copy| copy.url.clone()).collect();
            let of_it = |copy: &Copy| {
                let based_on = copy.resource.list("basedOn").iter();
                let mut based_on = based_on.filter_map(|item| reference_of(Some(item)));
                let done = copy.resource.kind() == ResourceType::PROCEDURE && based_on.any(|text| text == request);
                done && !known.contains(&copy.url)
            };
            match search(server, &format!("Procedure?based-on={request}&_count={}", reach.most), of_it).await {
                Ok(new) => outcomes.extend(new.into_iter().take(reach.most)),
                Err(failure) if patient && !failure.is_absent() => return Ok(Err(failure)),
                // The Task has said what it had to say.
                Err(_) => {}
            }
        }
    }
    let task = Copy { url: plan.url, mark: mark_of(&read.resource), resource: read.resource };
    app.collected(claimed, Reported { task, outcomes }).await.map(Ok)
}
