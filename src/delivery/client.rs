//! One request to a partner's server: method, URL, headers, body; bounded in time and size, redirects not followed.
//!
//! [`Transport`] is the seam for tests: the network, or simulated partners in the same process.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::{ClientTls, Config, Partner};
use crate::error::Error;
use crate::fhir::json::{self, Bounds};
use crate::fhir::reference::split_absolute;
use crate::fhir::{Key, Resource, ResourceType, xml};
use crate::time::Timestamp;

use super::guard;
use super::token::Tokens;

/// What we read, and like better: there are servers that have XML alone.
const ACCEPT: &str = "application/fhir+json, application/fhir+xml;q=0.5";

/// Most bytes read of a body that nobody asked for, and how long.
const LEFTOVER: usize = 64 * 1024;
const LINGER: Duration = Duration::from_millis(500);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, `PUT`
    pub method: &'static str,
    /// Absolute.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// JSON text.
    pub body: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, at most the configured size.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }
    /// 2xx
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
    /// The body's resource as JSON: read as XML where the answer says that it is.
    pub(super) fn value(&self, bounds: Bounds) -> Result<Value, Error> {
        let kind = self.header("content-type").and_then(|kind| kind.split(';').next()).unwrap_or_default();
        if kind.trim().to_ascii_lowercase().ends_with("xml") {
            xml::read(&self.body, bounds)
        } else {
            json::parse(&self.body, bounds)
        }
    }
    /// The body's resource.
    pub(super) fn resource(&self, bounds: Bounds) -> Result<Resource, Error> {
        Resource::from_value(self.value(bounds)?)
    }
}

/// Why there was no answer. Whether the request arrived is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError(pub String);

/// A request under way.
pub type Sending = Pin<Box<dyn Future<Output = Result<Response, SendError>> + Send>>;

/// What carries requests.
pub trait Transport: Send + Sync {
    /// Sends one request.
    fn send(&self, request: Request) -> Sending;
    /// Sends one of whose answer the status and the headers are all that matters: whoever has answered 2xx has taken it,
    /// whatever comes behind. The receiver has its own time for it, which may be longer than everybody else's.
    fn tell(&self, request: Request, _limit: Duration) -> Sending {
        self.send(request)
    }
    /// Sends one to a partner's own server, with what it knows us by, and as fast as it wants.
    fn ask(&self, _partner: &Partner, request: Request) -> Sending {
        self.send(request)
    }
}

/// The network, behind the egress guard.
#[derive(Debug, Clone)]
pub struct Network {
    client: reqwest::Client,
    most: usize,
    private: bool,
    /// The partners whose servers have a way of their own.
    ways: Arc<HashMap<String, Arc<Way>>>,
}

/// How one partner's server is sent to.
#[derive(Debug)]
struct Way {
    client: reqwest::Client,
    timeout: Option<Duration>,
    /// The pause between two requests, where it wants so many a minute.
    gap: Option<Duration>,
    /// Each request has its turn and waits for it; made when first asked for.
    turns: Mutex<Option<Interval>>,
}

impl Way {
    async fn turn(&self) {
        let Some(gap) = self.gap else { return };
        let mut turns = self.turns.lock().await;
        let turns = turns.get_or_insert_with(|| {
            let mut turns = interval(gap);
            // What was not asked for is not made up for.
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            turns
        });
        turns.tick().await;
    }
}

impl Network {
    /// A client as configured, and one with our certificate for each partner that wants one.
    pub fn new(config: &Config) -> Result<Network, Error> {
        let private = config.delivery.partner_addresses == crate::config::PartnerAddresses::AllowPrivateForTestsOnly;
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("loopgate/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(Duration::from_secs(10))
                .timeout(config.delivery.timeout)
                .pool_max_idle_per_host(8);
            if private { builder } else { builder.dns_resolver(Arc::new(guard::PublicOnly)) }
        };
        let client = builder().build().map_err(Error::internal)?;
        let mut ways = HashMap::new();
        for partner in &config.partners {
            let Some(fhir) = &partner.fhir else { continue };
            let client = match &fhir.tls {
                None => client.clone(),
                Some(tls) => identified(builder(), tls)
                    .map_err(|error| Error::internal(format!("partner {}: fhir.tls: {error}", partner.id)))?,
            };
            let gap = fhir.requests_per_minute.map(|many| Duration::from_secs(60) / many.max(1));
            ways.insert(
                partner.id.clone(),
                Arc::new(Way { client, timeout: fhir.timeout, gap, turns: Mutex::default() }),
            );
        }
        Ok(Network { client, most: config.limits.body, private, ways: Arc::new(ways) })
    }
}

/// A client that shows our certificate. It is used for that partner's server alone, so that nobody can have us show it
/// somewhere else.
fn identified(builder: reqwest::ClientBuilder, tls: &ClientTls) -> Result<reqwest::Client, reqwest::Error> {
    // Of several keys the last counts, so that one in the certificate's file stands behind the one that is named.
    let both = format!("{}\n{}", tls.cert.expose(), tls.key.expose());
    let mut builder = builder.identity(reqwest::Identity::from_pem(both.as_bytes())?);
    if let Some(ca) = &tls.ca {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(ca.expose().as_bytes())?);
    }
    builder.build()
}

impl Network {
    /// Sends a request; the head of its answer.
    async fn head(self, request: Request, limit: Option<Duration>) -> Result<reqwest::Response, SendError> {
        let url = reqwest::Url::parse(&request.url).map_err(|_| SendError("the URL is no URL".into()))?;
        if !self.private && !guard::may_dial(&url) {
            return Err(SendError("the address is not public".into()));
        }
        let method = match request.method {
            "POST" => reqwest::Method::POST,
            "PUT" => reqwest::Method::PUT,
            _ => reqwest::Method::GET,
        };
        let mut building = self.client.request(method, url);
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        if let Some(limit) = limit {
            building = building.timeout(limit);
        }
        if let Some(body) = request.body {
            building = building.body(body);
        }
        building.send().await.map_err(|error| SendError(kind_of(&error).into()))
    }
}

/// The status and headers of an answer.
fn opened(answer: &reqwest::Response) -> Response {
    let text = |value: &reqwest::header::HeaderValue| Some(value.to_str().ok()?.to_string());
    let headers = answer.headers().iter().filter_map(|(name, value)| Some((name.as_str().to_string(), text(value)?)));
    Response { status: answer.status().as_u16(), headers: headers.collect(), body: Vec::new() }
}

impl Network {
    /// Sends a request; its answer, to the end.
    async fn whole(self, request: Request, limit: Option<Duration>) -> Result<Response, SendError> {
        let most = self.most;
        let mut answer = self.head(request, limit).await?;
        let mut response = opened(&answer);
        while let Some(chunk) = answer.chunk().await.map_err(|error| SendError(kind_of(&error).into()))? {
            if response.body.len() + chunk.len() > most {
                return Err(SendError("the answer is larger than this gateway takes".into()));
            }
            response.body.extend_from_slice(&chunk);
        }
        Ok(response)
    }
}

impl Transport for Network {
    fn send(&self, request: Request) -> Sending {
        Box::pin(self.clone().whole(request, None))
    }

    fn ask(&self, partner: &Partner, request: Request) -> Sending {
        let Some(way) = self.ways.get(&partner.id).cloned() else { return self.send(request) };
        let network = Network { client: way.client.clone(), ..self.clone() };
        Box::pin(async move {
            way.turn().await;
            network.whole(request, way.timeout).await
        })
    }

    fn tell(&self, request: Request, limit: Duration) -> Sending {
        let network = self.clone();
        Box::pin(async move {
            let mut answer = network.head(request, Some(limit)).await?;
            let response = opened(&answer);
            // A little more is read, so that the connection can be used again; what says more than that is left.
            let rest = async {
                let mut read = 0;
                while let Ok(Some(chunk)) = answer.chunk().await {
                    read += chunk.len();
                    if read > LEFTOVER {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(LINGER, rest).await;
            Ok(response)
        })
    }
}

/// What went wrong, without the URL.
fn kind_of(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() && is_about(error, "dns error") {
        "its name could not be resolved"
    } else if error.is_connect() && is_about(error, "certificate") {
        "its certificate is not valid"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    }
}

/// Whether one of its causes says this. The library tells them apart by text alone.
fn is_about(error: &reqwest::Error, what: &str) -> bool {
    let mut inner = std::error::Error::source(error);
    while let Some(cause) = inner {
        if cause.to_string().contains(what) {
            return true;
        }
        inner = cause.source();
    }
    false
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What went wrong; never health data.
    pub why: String,
    /// The pause the partner asked for.
    pub retry_after: Option<Duration>,
    /// The status (a mail server's code), if there was an answer.
    pub status: Option<u16>,
}

impl Failure {
    pub(super) fn new(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), retry_after: None, status: None }
    }
    /// An answer that is not what was asked for.
    pub(super) fn answered(response: &Response) -> Failure {
        let asked = response.header("retry-after").map(str::trim).and_then(|text| {
            let until = || Timestamp::parse_http_date(text);
            // By the partner's own clock, which says when it answered.
            let answered = || response.header("date").and_then(Timestamp::parse_http_date);
            text.parse().ok().map(Duration::from_secs).or_else(|| Some(until()?.since(answered()?)))
        });
        Failure {
            why: format!("answered {}", response.status),
            // A pause longer than a day is no pause.
            retry_after: asked.filter(|pause| *pause <= Duration::from_secs(86_400)),
            status: Some(response.status),
        }
    }
    /// Whether asking again at once would get the same answer.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.status, Some(401 | 403 | 404 | 410))
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Failure::new(error.0)
    }
}

/// A partner's FHIR server.
pub(super) struct Server<'a> {
    pub transport: &'a dyn Transport,
    pub partner: &'a Partner,
    pub bounds: Bounds,
    pub tokens: &'a Tokens,
    /// Our name in `X-Intermediary`: what we send is not as its author wrote it (R-013).
    pub intermediary: &'a str,
}

/// A resource that was read, with its ETag.
pub(super) struct Read {
    pub resource: Resource,
    pub etag: Option<String>,
}

impl Server<'_> {
    pub(super) fn base(&self) -> &str {
        self.partner.fhir.as_ref().map_or("", |fhir| fhir.base.as_str())
    }

    /// Whether this lies below the partner's base.
    pub(super) fn has(&self, url: &str) -> bool {
        let inside = |rest: &str| (rest.is_empty() || rest.starts_with(['/', '?'])) && !leads_up(rest);
        url.strip_prefix(self.base()).is_some_and(inside) && !self.base().is_empty()
    }

    /// Sends a request below the partner's base, with its token; the token goes nowhere else.
    pub(super) async fn send(
        &self,
        method: &'static str,
        url: &str,
        more: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Response, Failure> {
        if !self.has(url) {
            return Err(Failure::new("the URL lies outside the partner's registered base"));
        }
        let mut more = more.to_vec();
        if body.is_some() {
            more.push(("x-intermediary", self.intermediary));
        }
        let more = more.as_slice();
        let token = self.tokens.token(self.transport, self.partner).await?;
        let asking = request(method, url, token.as_deref(), more, body.clone());
        let response = self.transport.ask(self.partner, asking).await?;
        match token {
            // Once more with a new token (design §6): the old one may have been taken back.
            Some(token) if response.status == 401 && self.tokens.refused(self.partner, &token).await => {
                let token = self.tokens.token(self.transport, self.partner).await?;
                Ok(self.transport.ask(self.partner, request(method, url, token.as_deref(), more, body)).await?)
            }
            _ => Ok(response),
        }
    }

    /// Reads one resource; what comes must be the one that was asked for.
    pub(super) async fn read(&self, url: &str) -> Result<Read, Failure> {
        let response = self.send("GET", url, &[], None).await?;
        if !response.is_success() {
            return Err(Failure::answered(&response));
        }
        let resource = response.resource(self.bounds);
        let resource = resource.map_err(|_| Failure::new("answered with something that is no resource"))?;
        if let Some((_, key)) = split_absolute(url)
            && resource.key().as_ref() != Some(&key)
        {
            return Err(Failure::new("answered with another resource than was asked for"));
        }
        Ok(Read { etag: etag_of(&response, &resource), resource })
    }

    /// Writes a resource, and tells what stands there then: as the answer shows it, else as it is read. A 200 alone may
    /// come from something that stands before the server.
    pub(super) async fn write(&self, url: &str, tag: Option<&str>, resource: &Resource) -> Result<Written, Failure> {
        let headers: Vec<(&str, &str)> = tag.iter().map(|tag| ("if-match", *tag)).collect();
        let response = self.send("PUT", url, &headers, Some(resource.to_text())).await?;
        if matches!(response.status, 409 | 412) {
            return Ok(Written::Raced);
        }
        if !response.is_success() {
            return Err(Failure::answered(&response));
        }
        let shown = response.resource(self.bounds).ok().filter(|shown| shown.key() == resource.key());
        Ok(Written::Stands(match shown {
            Some(resource) => Read { etag: etag_of(&response, &resource), resource },
            None => self.read(url).await?,
        }))
    }
}

/// What became of a write.
pub(super) enum Written {
    /// This stands there now.
    Stands(Read),
    /// Something else was written meanwhile.
    Raced,
}

fn request(
    method: &'static str,
    url: &str,
    token: Option<&str>,
    more: &[(&str, &str)],
    body: Option<String>,
) -> Request {
    let mut headers = vec![("accept".to_string(), ACCEPT.to_string())];
    if let Some(token) = token {
        headers.push(("authorization".to_string(), format!("Bearer {token}")));
    }
    if body.is_some() {
        headers.push(("content-type".to_string(), "application/fhir+json; charset=utf-8".to_string()));
    }
    headers.extend(more.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    Request { method, url: url.to_string(), headers, body }
}

/// Whether a URL's path has a segment that a client would take as "one level up".
fn leads_up(rest: &str) -> bool {
    let path = rest.split(['?', '#']).next().unwrap_or(rest).to_ascii_lowercase().replace("%2e", ".");
    path.split(['/', '\\']).any(|segment| segment == "..")
}

/// The ETag of an answer: the header, where it is one, else the version the resource claims.
pub(super) fn etag_of(response: &Response, resource: &Resource) -> Option<String> {
    let header = response.header("etag").map(str::trim).filter(|tag| tag.ends_with('"')).map(str::to_string);
    header.or_else(|| version_tag(resource))
}

/// A tag in its other form, weak or strong: to a server that compares strongly, as RFC 9110 has it, a weak one never
/// matches, and others know no other.
pub(super) fn other_form(tag: &str) -> String {
    tag.strip_prefix("W/").map_or_else(|| format!("W/{tag}"), str::to_string)
}

/// What tells this version of a resource from every other: its number and its time, because a server that is restored
/// from a backup counts anew. For comparing; `If-Match` takes the ETag.
pub(super) fn mark_of(resource: &Resource) -> Option<String> {
    let meta = resource.at("meta")?;
    let part = |name| meta.get(name).and_then(Value::as_str);
    Some(format!("{} {}", part("versionId")?, part("lastUpdated")?))
}

/// `W/"n"` from `meta.versionId`.
fn version_tag(resource: &Resource) -> Option<String> {
    let version = resource.at("meta")?.get("versionId")?.as_str()?;
    Some(format!("W/\"{version}\""))
}

/// Where a created resource of this type stands: from Location, else from the body's id.
pub(super) fn created_url(base: &str, kind: ResourceType, response: &Response) -> Option<String> {
    let location = response.header("location").or_else(|| response.header("content-location"));
    let from_location = location.and_then(|location| {
        let bare = location.split("/_history/").next().unwrap_or(location);
        let tail: Vec<&str> = bare.rsplitn(3, '/').take(2).collect();
        let key = Key::parse(&format!("{}/{}", tail.get(1)?, tail.first()?)).filter(|key| key.kind == kind)?;
        Some(format!("{base}/{key}"))
    });
    from_location.or_else(|| {
        let resource = response.resource(Bounds::default()).ok()?;
        resource.key().filter(|key| key.kind == kind).map(|key| format!("{base}/{key}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-107
    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let date = ("date", "Thu, 26 Nov 2026 10:00:00 GMT");
        for (headers, seconds) in [
            (&[("retry-after", " 77 ")][..], Some(77)),
            (&[("retry-after", "Thu, 26 Nov 2026 10:10:00 GMT"), date], Some(600)),
            (&[("retry-after", "Thu, 26 Nov 2026 09:00:00 GMT"), date], Some(0)),
            (&[("retry-after", "Thu, 26 Nov 2026 10:10:00 GMT")], None),
            (&[("retry-after", "Sat, 28 Nov 2026 10:10:00 GMT"), date], None),
            (&[("retry-after", "86401")], None),
            (&[("retry-after", "soon"), date], None),
            (&[], None),
        ] {
            let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let failure = Failure::answered(&Response { status: 503, headers, body: Vec::new() });
            assert_eq!(failure.retry_after, seconds.map(Duration::from_secs), "{seconds:?}");
        }
    }

    #[test]
    fn a_created_resource_is_found_by_location_or_body() {
        let answer = |headers: &[(&str, &str)], body: &str| Response {
            status: 201,
            headers: headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            body: body.as_bytes().to_vec(),
        };
        let base = "https://cbo/fhir";
        for location in ["https://cbo/fhir/Task/7/_history/1", "Task/7", "/fhir/Task/7", "http://inside:8080/x/Task/7"]
        {
            assert_eq!(
                created_url(base, ResourceType::TASK, &answer(&[("location", location)], "")).as_deref(),
                Some("https://cbo/fhir/Task/7"),
                "{location}"
            );
        }
        let body = r#"{"resourceType":"Task","id":"7"}"#;
        assert_eq!(
            created_url(base, ResourceType::TASK, &answer(&[], body)).as_deref(),
            Some("https://cbo/fhir/Task/7")
        );
        assert_eq!(created_url(base, ResourceType::TASK, &answer(&[], "")), None);
        assert_eq!(created_url(base, ResourceType::PROCEDURE, &answer(&[("location", "Task/7")], body)), None);
    }
}
