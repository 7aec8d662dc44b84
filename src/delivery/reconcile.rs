//! Asking a partner's server for everything that is open, by id.

use super::client::{Failure, Server};
use super::poll;
use crate::app::{App, Claimed, ReconcilePlan};
use crate::error::Error;

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: ReconcilePlan,
) -> Result<Result<(), Failure>, Error> {
    match poll::ask(server, &plan.searches, plan.batch).await {
        Ok(hits) => app.reconciled(claimed, &plan, &hits.copies).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}
