//! A hand at a partner's server, outside the worker: looks at it, and acts there as its staff would.
//!
//! For `loopgate partner check` alone: by the same client, behind the same egress guard and with the same token as
//! everything else that goes there. What it writes is made up ([`crate::demo::patient`]).

use std::sync::Arc;

use serde_json::Value;

use super::client::{Failure, Server, Transport, created_url};
use super::discover;
use super::token::Tokens;
use crate::app::peers::{DiscoverPlan, Known};
use crate::config::{Config, Partner};
use crate::fhir::ResourceType;
use crate::fhir::json::Bounds;
use crate::time::Clock;

/// See the module.
pub struct Hand {
    transport: Arc<dyn Transport>,
    partner: Arc<Partner>,
    bounds: Bounds,
    tokens: Tokens,
    intermediary: String,
}

impl Hand {
    /// A hand at this partner's server.
    pub fn new(config: &Config, partner: Arc<Partner>, transport: Arc<dyn Transport>) -> Hand {
        let bounds = Bounds { depth: config.limits.depth, string: config.limits.string };
        let (tokens, intermediary) = (Tokens::new(Clock::system()), config.host().to_string());
        Hand { transport, partner, bounds, tokens, intermediary }
    }

    fn server(&self) -> Server<'_> {
        Server {
            transport: self.transport.as_ref(),
            partner: &self.partner,
            bounds: self.bounds,
            tokens: &self.tokens,
            intermediary: &self.intermediary,
        }
    }

    /// What the server offers; or why it can't be said.
    pub async fn look(&self, plan: &DiscoverPlan) -> Result<Known, String> {
        discover::look(&self.server(), plan).await.map_err(|failure| failure.why)
    }

    /// Creates a resource there; its `Type/id`.
    pub async fn create(&self, resource: &Value) -> Result<String, String> {
        let name = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
        let kind = ResourceType::parse(name).ok_or("this is no resource")?;
        let server = self.server();
        let failed = |why: String| format!("creating a {kind}: it {why}");
        let url = format!("{}/{kind}", server.base());
        let response =
            server.send("POST", &url, &[], Some(resource.to_string())).await.map_err(|failure| failed(failure.why))?;
        if !response.is_success() {
            return Err(failed(Failure::answered(&response).why));
        }
        let made = created_url(server.base(), kind, &response);
        let key =
            made.as_deref().and_then(|url| url.strip_prefix(server.base())).map(|rest| rest.trim_start_matches('/'));
        key.map(str::to_string).ok_or_else(|| failed("did not say where".into()))
    }

    /// Reads what stands there.
    pub async fn read(&self, reference: &str) -> Result<Value, String> {
        let server = self.server();
        let read = server.read(&format!("{}/{reference}", server.base())).await;
        let read = read.map_err(|failure| format!("reading {reference}: it {}", failure.why))?;
        serde_json::from_str(&read.resource.to_text()).map_err(|error| error.to_string())
    }

    /// Changes what stands there, with `If-Match`.
    pub async fn update(&self, reference: &str, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let server = self.server();
        let url = format!("{}/{reference}", server.base());
        let failed = |why: String| format!("changing {reference}: it {why}");
        let read = server.read(&url).await.map_err(|failure| failed(failure.why))?;
        let mut body: Value = serde_json::from_str(&read.resource.to_text()).map_err(|error| error.to_string())?;
        change(&mut body);
        let headers: Vec<(&str, &str)> = read.etag.iter().map(|etag| ("if-match", etag.as_str())).collect();
        let response = server.send("PUT", &url, &headers, Some(body.to_string())).await;
        let response = response.map_err(|failure| failed(failure.why))?;
        if response.is_success() { Ok(()) } else { Err(failed(Failure::answered(&response).why)) }
    }
}
