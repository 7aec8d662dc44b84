//! A notification to a subscriber's rest-hook.

use crate::app::{App, Claimed, NotifyPlan, Said};
use crate::error::Error;

use super::client::{Failure, Request, SendError, Transport};

pub(super) async fn run(
    app: &App,
    transport: &dyn Transport,
    claimed: &Claimed,
    plan: NotifyPlan,
) -> Result<Result<(), Failure>, Error> {
    let (url, headers, body) = (plan.endpoint.clone(), plan.headers.clone(), plan.body.clone());
    let request = Request { method: plan.method, url, headers, body };
    let answer = tokio::time::timeout(plan.timeout, transport.send(request)).await;
    let answer = answer.unwrap_or_else(|_| Err(SendError("no answer in time".into())));
    let handshake = matches!(plan.said, Said::Handshake(_));
    match answer {
        Ok(response) if response.is_success() => app.notified(claimed, &plan).await.map(Ok),
        // The endpoint says that it will never take it (design D15a).
        Ok(response) if response.status == 410 => app.gone(claimed, "answered 410").await.map(Ok),
        // Whatever goes wrong in a handshake, the subscriber asks again (S-054).
        Ok(response) if handshake => app.gone(claimed, &format!("answered {}", response.status)).await.map(Ok),
        Err(error) if handshake => app.gone(claimed, &error.0).await.map(Ok),
        Ok(response) => Ok(Err(Failure::answered(&response))),
        Err(error) => Ok(Err(error.into())),
    }
}
