//! A notification to a subscriber's rest-hook.

use crate::app::{App, Claimed, NotifyPlan};
use crate::error::Error;

use super::client::{Failure, Request, Transport};

pub(super) async fn run(
    app: &App,
    transport: &dyn Transport,
    claimed: &Claimed,
    plan: NotifyPlan,
) -> Result<Result<(), Failure>, Error> {
    let (url, headers) = (plan.endpoint.clone(), plan.headers.clone());
    let request = Request { method: "POST", url, headers, body: Some(plan.body.clone()) };
    match transport.send(request).await {
        Ok(response) if response.is_success() => app.notified(claimed, &plan).await.map(Ok),
        // The endpoint says that it will never take it (design D15a). A failed handshake is not tried for hours either.
        Ok(response) if response.status == 410 => app.gone(claimed, "answered 410").await.map(Ok),
        Ok(response) => Ok(Err(Failure::answered(&response))),
        Err(error) => Ok(Err(error.into())),
    }
}
