//! One notification over the socket that a Subscription is bound to. It counts as delivered when the other side has
//! answered the ping behind it: then its WebSocket has read everything before (RFC 6455 §5.5.3), which a write alone
//! would not say. When no answer comes in time, the Subscription is unbound, and the same events come over the next socket.

use crate::app::{App, NotifyPlan};
use crate::error::Error;

use super::client::Failure;

pub(super) async fn send(app: &App, subscription: &str, plan: &NotifyPlan) -> Result<Result<(), Failure>, Error> {
    let Some(line) = &plan.line else { return Ok(Err(Failure::new("no socket is bound"))) };
    let said = line.say(plan.body.clone().unwrap_or_default());
    let failure = match tokio::time::timeout(plan.timeout, said).await {
        Ok(true) => return Ok(Ok(())),
        Ok(false) => "the socket was closed",
        Err(_) => "no answer in time over the socket",
    };
    app.cut(subscription, line).await?;
    Ok(Err(Failure::new(failure)))
}
