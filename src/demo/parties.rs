//! The demo's parties as they are outside: a FHIR server on a socket of its own, and an HTTP client with a token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::server::{self, FhirServer};
use crate::time::Clock;

/// A partner's FHIR server, shared between its socket and its staff.
#[derive(Clone)]
pub(super) struct House {
    /// Its base.
    pub base: String,
    server: Arc<Mutex<FhirServer>>,
    hook: Option<mpsc::UnboundedSender<Value>>,
}

impl House {
    /// Opens a house on a free port. Notifications that arrive at `/hook` come out of the channel.
    pub(super) async fn open(token: &str) -> Result<(House, mpsc::UnboundedReceiver<Value>), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let base = format!("http://{address}/fhir");
        let mut server = FhirServer::new(&base);
        server.require_bearer(token);
        let (hook, heard) = mpsc::unbounded_channel();
        let house = House { base, server: Arc::new(Mutex::new(server)), hook: Some(hook) };
        let router = Router::new().fallback(answer).with_state(house.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((house, heard))
    }

    /// Where its notifications go.
    pub(super) fn hook(&self) -> String {
        self.base.replace("/fhir", "/hook")
    }

    /// Its records, as its staff sees them.
    pub(super) fn staff(&self) -> MutexGuard<'_, FhirServer> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.set_now(&Clock::system().now().to_string());
        server
    }
}

async fn answer(State(house): State<House>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = axum::body::to_bytes(body, 1 << 24).await.unwrap_or_default();
    if parts.uri.path() == "/hook" {
        if let (Some(hook), Ok(bundle)) = (&house.hook, serde_json::from_slice(&bytes)) {
            let _ = hook.send(bundle);
        }
        return axum::http::StatusCode::OK.into_response();
    }
    let headers =
        parts.headers.iter().filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_string())));
    let asked = server::Request {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or_else(String::new, |target| target.to_string()),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&bytes).into_owned(),
    };
    let answered = house.staff().answer(&asked);
    let mut response = Response::builder().status(answered.status);
    for (name, value) in answered.headers {
        response = response.header(name, value);
    }
    response.body(answered.body.into()).unwrap_or_default()
}

/// A party that works on the gateway's API.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    /// Its bearer token.
    pub token: String,
}

impl Client {
    pub(super) fn new(base: &str, token: &str) -> Result<Client, String> {
        let http = reqwest::Client::builder().no_proxy().build().map_err(|error| error.to_string())?;
        Ok(Client { http, base: base.to_string(), token: token.to_string() })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, String> {
        self.send(reqwest::Method::GET, path, None).await
    }
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }
    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(reqwest::Method::PUT, path, Some(body)).await
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let what = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let mut request = self.http.request(method, format!("{}/{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/fhir+json").body(body.to_string());
        }
        let response = request.send().await.map_err(|error| format!("{what}: {error}"))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| format!("{what}: {error}"))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{what}: {error}"))?;
        if status.is_success() {
            Ok(value)
        } else {
            let said = value["issue"][0]["diagnostics"].as_str().unwrap_or("").to_string();
            Err(format!("{what} answered {status}: {said}"))
        }
    }
}
