//! Asking a partner's server for everything that is open, by id.

use super::client::{Failure, Server};
use super::poll;
use crate::app::{App, Claimed, Copy, ReconcilePlan};
use crate::error::Error;
use crate::fhir::ResourceType;

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: ReconcilePlan,
) -> Result<Result<(), Failure>, Error> {
    // A server that does not look at what it is asked shows everything that it has.
    let wanted = |copy: &Copy| copy.resource.kind() == ResourceType::PROCEDURE || plan.asked.contains(&copy.url);
    match poll::ask(server, &plan.searches, plan.batch, wanted).await {
        Ok(found) => app.reconciled(claimed, &plan, &found).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}
