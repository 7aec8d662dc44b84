//! Where partners' notifications arrive: `POST /hooks/{partner}` with the secret that our Subscription asked for.
//!
//! Promises that a notification is on record before it is acknowledged, and that whoever does not know the secret
//! learns nothing: neither who is a partner nor what was sent. <http://hl7.org/fhir/uv/subscriptions-backport>

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;

use super::negotiate::{self, Format};
use super::{auth, extract, respond};
use crate::app::App;
use crate::error::{Error, Kind};
use crate::fhir::json::{self, Bounds};
use crate::fhir::xml;

/// Takes a notification in. Its body may be empty (classic Subscriptions); what can't be read counts as news.
pub(super) async fn take(app: &App, partner: &str, request: Request) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let Some(secret) = auth::bearer(&parts.headers) else {
        return Err(Error::new(Kind::Unauthenticated, "Send the header that our Subscription asked for."));
    };
    let limits = &app.config().limits;
    let bytes = extract::body(body, &parts.headers, limits.body).await?;
    let bounds = Bounds { depth: limits.depth, string: limits.string };
    let body = match negotiate::resource(&parts.headers) {
        Ok(Format::Xml) => xml::read(&bytes, bounds),
        Ok(Format::Json) | Err(_) => json::parse(&bytes, bounds),
    };
    let body = body.unwrap_or(Value::Null);
    app.heard(partner, secret, &body).await?;
    Ok(respond::empty(200))
}
