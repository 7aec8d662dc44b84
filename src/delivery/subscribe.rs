//! Our Subscription at a partner's server: made, looked after, switched on again (design D15b).
//!
//! Decides nothing but how to ask: the topic first, then a classic Subscription where topics are not known.

use serde_json::Value;

use super::client::{Failure, Response, Server, created_url};
use crate::app::{App, Claimed, Standing, SubscribePlan};
use crate::error::Error;
use crate::fhir::ResourceType;
use crate::fhir::json::parse;

pub(super) async fn run(
    app: &App,
    server: &Server<'_>,
    claimed: &Claimed,
    plan: SubscribePlan,
) -> Result<Result<(), Failure>, Error> {
    let standing = match &plan.url {
        Some(url) => look(server, url, &plan).await,
        None => make(server, &plan).await,
    };
    match standing {
        Ok(standing) => app.subscribed(claimed, standing).await.map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

async fn make(server: &Server<'_>, plan: &SubscribePlan) -> Result<Standing, Failure> {
    if !plan.offered {
        return Ok(Standing::Refused("its CapabilityStatement offers no Subscription".into()));
    }
    let mut answered = 0;
    for body in [&plan.to_topic, &plan.to_criteria] {
        let url = format!("{}/Subscription", server.base());
        let response = server.send("POST", &url, &[], Some(body.to_string())).await?;
        match refused(&response)? {
            None => {
                let Some(url) = created_url(server.base(), ResourceType::SUBSCRIPTION, &response) else {
                    return Ok(Standing::Refused("it took our Subscription and did not say where it stands".into()));
                };
                return Ok(Standing::Stands(url, status_of(server, &response)));
            }
            Some(status) => answered = status,
        }
    }
    Ok(Standing::Refused(format!("it answered {answered} to our Subscription")))
}

/// How ours is; switched on again when it is off, or tells somebody else than us.
async fn look(server: &Server<'_>, url: &str, plan: &SubscribePlan) -> Result<Standing, Failure> {
    let response = server.send("GET", url, &[], None).await?;
    match refused(&response)? {
        None => {}
        Some(404 | 410) => return Ok(Standing::Gone),
        // We may not look at it; were it made anew each time, they would pile up there.
        Some(_) => return Ok(Standing::Stands(url.to_string(), "requested".into())),
    }
    let (status, standing) = (status_of(server, &response), parse(&response.body, server.bounds).ok());
    let told = |body: &Value| body.pointer("/channel/endpoint").cloned();
    let ours = standing.as_ref().and_then(told).is_none_or(|its| Some(its) == told(&plan.to_topic));
    if ours && matches!(status.as_str(), "active" | "requested") {
        return Ok(Standing::Stands(url.to_string(), status));
    }
    // As it stands there, but on: a server may know the one kind only.
    let standing = standing.ok_or_else(|| Failure::new("answered with no JSON"))?;
    let topic = standing.get("criteria") == plan.to_topic.get("criteria");
    let mut body = if topic { plan.to_topic.clone() } else { plan.to_criteria.clone() };
    body["id"] = url.rsplit('/').next().unwrap_or_default().into();
    let response = server.send("PUT", url, &[], Some(body.to_string())).await?;
    match refused(&response)? {
        None => Ok(Standing::Stands(url.to_string(), "requested".into())),
        Some(_) => Ok(Standing::Gone),
    }
}

/// The status of an answer that says no; what may pass by itself is a failure, to be tried again.
fn refused(response: &Response) -> Result<Option<u16>, Failure> {
    match response.status {
        200..300 => Ok(None),
        400 | 403..=406 | 409..=411 | 415 | 422 | 501 => Ok(Some(response.status)),
        _ => Err(Failure::answered(response)),
    }
}

/// The status a Subscription has, or is about to have when the server does not show it.
fn status_of(server: &Server<'_>, response: &Response) -> String {
    let body = parse(&response.body, server.bounds).unwrap_or_default();
    body.get("status").and_then(Value::as_str).unwrap_or("requested").to_string()
}
