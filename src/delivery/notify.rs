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
    if plan.rests {
        return Ok(Err(Failure::new("not tried: this server has just failed several times")));
    }
    let (url, headers, body) = (plan.endpoint.clone(), plan.headers.clone(), plan.body.clone());
    let request = Request { method: plan.method, url, headers, body };
    let answer = tokio::time::timeout(plan.timeout, transport.send(request)).await;
    let answer = answer.unwrap_or_else(|_| Err(SendError("no answer in time".into())));
    let failure = match answer {
        Ok(response) if response.is_success() => return app.notified(claimed, &plan).await.map(Ok),
        Ok(response) => Failure::answered(&response),
        Err(error) => error.into(),
    };
    app.endpoint_failed(&plan, failure.status.is_none_or(|status| status >= 500)).await?;
    // The endpoint says that it will never take it (design D15a); and whatever goes wrong in a handshake, the subscriber
    // asks again (S-054).
    if failure.status == Some(410) || matches!(plan.said, Said::Handshake(_)) {
        return app.gone(claimed, &failure.why).await.map(Ok);
    }
    Ok(Err(failure))
}
