//! Notifications to a subscriber, one after the other: requests to its rest-hook, frames on its socket, mails or text
//! messages.

use std::time::Duration;

use crate::app::{App, Claimed, NotifyPlan, Said, Visit};
use crate::error::Error;
use crate::fhir::subscription::Channel;

use super::client::{Failure, Request, SendError, Transport};
use super::{mail, sms, socket};

pub(super) async fn run(app: &App, transport: &dyn Transport, claimed: &Claimed) -> Result<(), Error> {
    let mut visit = Visit::default();
    while let Some(plan) = app.notify_plan(claimed, &mut visit).await? {
        if let Some(till) = plan.rests {
            return app.left_in_peace(claimed, till).await;
        }
        match tell(app, transport, claimed, &plan).await? {
            Ok(()) => visit.took(plan),
            Err(failure) => {
                let claimed = app.notified_before(claimed, visit).await?;
                return failed(app, &claimed, &plan, failure).await;
            }
        }
    }
    if visit.has_told() { app.notified(claimed, visit).await } else { app.nothing_owed(claimed).await }
}

async fn tell(
    app: &App,
    transport: &dyn Transport,
    claimed: &Claimed,
    plan: &NotifyPlan,
) -> Result<Result<(), Failure>, Error> {
    Ok(match plan.channel {
        Channel::RestHook => request(transport, plan).await,
        Channel::Email => mail::send(app.config(), plan).await,
        Channel::Sms => match sms::request(app.config(), &claimed.subject, plan) {
            Some(request) => within(plan.timeout, transport, request).await,
            None => Err(Failure::new("there is no [sms] in the configuration any more")),
        },
        Channel::Websocket => socket::send(app, &claimed.subject, plan).await?,
    })
}

async fn failed(app: &App, claimed: &Claimed, plan: &NotifyPlan, failure: Failure) -> Result<(), Error> {
    let (trouble, over) = match plan.channel {
        // The endpoint says that it will never take it (design D15a); and whatever goes wrong in a handshake, the
        // subscriber asks again (S-054).
        Channel::RestHook => (
            failure.status.is_none_or(|status| status >= 500),
            failure.status == Some(410) || matches!(plan.said, Said::Handshake(_)),
        ),
        // The mail server is our own: what it has to say to a mail is about that mail, and its absence is not the
        // subscriber's doing, so that a first mail is tried again too.
        Channel::Email => (failure.status.is_none(), false),
        // So is the gateway of messages, which may have trouble of its own.
        Channel::Sms => (failure.status.is_none_or(|status| status >= 500), false),
        // It is not bound any more, and so not tried until it is.
        Channel::Websocket => (false, false),
    };
    app.endpoint_failed(plan, trouble).await?;
    if over {
        app.gone(claimed, &failure.why).await
    } else {
        app.failed(claimed, &failure.why, failure.retry_after).await
    }
}

async fn request(transport: &dyn Transport, plan: &NotifyPlan) -> Result<(), Failure> {
    let (url, headers, body) = (plan.endpoint.clone(), plan.headers.clone(), plan.body.clone());
    let request = Request { method: plan.method, url, headers, body };
    within(plan.timeout, transport, request).await
}

/// One try, which is over when the subscriber's time for it is (S-103).
async fn within(limit: Duration, transport: &dyn Transport, request: Request) -> Result<(), Failure> {
    let answer = tokio::time::timeout(limit, transport.tell(request, limit)).await;
    match answer.unwrap_or_else(|_| Err(SendError("no answer in time".into()))) {
        Ok(response) if response.is_success() => Ok(()),
        Ok(response) => Err(Failure::answered(&response)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::client::Sending;
    use super::*;

    struct Silent;

    impl Transport for Silent {
        fn send(&self, _: Request) -> Sending {
            Box::pin(std::future::pending())
        }
    }

    // S-103: who never answers has failed when the time is over; nobody waits on.
    #[tokio::test]
    async fn a_silent_subscriber_is_waited_for_no_longer_than_it_asked() {
        let url = "https://ehr.test/hook".to_string();
        let request = Request { method: "POST", url, headers: Vec::new(), body: None };
        let failure = within(Duration::from_millis(2), &Silent, request).await.unwrap_err();
        assert!(failure.status.is_none() && failure.why.contains("no answer in time"), "{}", failure.why);
    }
}
