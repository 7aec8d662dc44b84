//! The door for partners and people: HTTP requests become calls of [`crate::app`], and its answers become FHIR's.
//!
//! One fallback answers every path, so that the table in [`routes`] decides alone and every refusal, also of an
//! unknown path, is an OperationOutcome. Promises: each answer carries `X-Request-Id`; each request is one log line
//! without ids or query strings; a panic is a 500 to one caller and no more. Leaves out: the console, which a later version
//! brings; what may be seen or done, which is the app's.
//! <https://hl7.org/fhir/R4/http.html>

mod auth;
mod bundles;
pub mod capability;
mod conditional;
mod door;
mod extract;
mod history;
mod hooks;
mod interactions;
mod negotiate;
mod oauth;
mod operations;
mod people;
mod rates;
mod respond;
pub mod routes;
mod sockets;
mod terminology;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, HOST};
use axum::http::{HeaderValue, Method};
use axum::response::Response;

use crate::app::people::Visit;
use crate::app::{App, Context, Identity};
use crate::error::{Error, Kind};
use crate::fhir::query;
use door::{Door, Place};
use negotiate::Format;

/// What every request needs: made once, when the router is.
struct Gate {
    app: App,
    allowances: rates::Allowances,
    statement: capability::Published,
    prefix: Vec<String>,
}

/// Everything a partner can reach.
pub fn router(app: App) -> Router {
    let gate = Arc::new(Gate::new(app));
    Router::new().fallback(move |request: Request| {
        let gate = Arc::clone(&gate);
        // Boxed where it is made: it has room for every interaction, and the layers above move what they are given.
        async move { Box::pin(gate.answer(request)).await }
    })
}

/// `/metrics` alone and without a token: for an address of its own that only the operator reaches.
pub fn metrics_router(app: App) -> Router {
    Router::new().fallback(move |request: Request| {
        let app = app.clone();
        async move {
            let id = respond::request_id(request.headers());
            let answer = match door::door(request.uri().path(), &[]) {
                Door::Metrics => respond::metrics(&app).await,
                _ => Err(respond::no_such_path()),
            };
            let answer = answer.unwrap_or_else(|error| respond::refusal(&error, &[], false));
            respond::finish(answer, request.method(), &id)
        }
    })
}

/// Where a request came from: the other end of its connection.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// What the certificate that the other end of the connection has proved to hold is known by.
#[derive(Debug, Clone)]
pub struct ClientCertificate(pub Vec<crate::config::Certified>);

/// What became known of a request on its way, for its answer and its log line.
struct Seen {
    partner: Option<String>,
    /// The pairs of the query, until they are asked for.
    pairs: Result<Vec<(String, String)>, Error>,
    format: Result<Format, Error>,
    pretty: bool,
}

impl Seen {
    fn of(request: &Request) -> Self {
        let pairs = query::pairs(request.uri().query());
        let read = pairs.as_deref().unwrap_or_default();
        let format = negotiate::acceptable(request.headers(), read);
        let pretty = read.iter().any(|(name, value)| name == "_pretty" && value == "true");
        Seen { partner: None, format, pretty, pairs }
    }

    /// The pairs of the query, once, and whether an answer can be given in a format that was asked for.
    fn agreed(&mut self) -> Result<Vec<(String, String)>, Error> {
        let pairs = std::mem::replace(&mut self.pairs, Ok(Vec::new()))?;
        self.format.clone().map(|_| pairs)
    }
}

impl Gate {
    fn new(app: App) -> Self {
        let prefix = door::prefix(&app.config().server.public_url);
        let statement = capability::Published::new(app.own());
        Gate { allowances: rates::Allowances::new(&app), statement, prefix, app }
    }

    /// From the first byte to the log line.
    async fn answer(&self, request: Request) -> Response {
        let began = self.app.now();
        let id = respond::request_id(request.headers());
        let (method, sent) = (request.method().clone(), request.headers().get(respond::REQUEST_ID).cloned());
        let door = door::door(request.uri().path(), &self.prefix);
        let token_shown = request.headers().contains_key(axum::http::header::AUTHORIZATION);
        let mut known = Seen::of(&request);

        let outcome = caught(pin!(self.open(&door, request, &id, &mut known))).await;
        let outcome = outcome.unwrap_or_else(|| Err(Error::internal("a panic while answering")));
        let answer = outcome.unwrap_or_else(|error| {
            if let Some(cause) = &error.cause {
                tracing::error!(request = id, cause, "answering failed");
            }
            // The interaction may exist for the type and be refused for this one resource: then it isn't allowed here.
            let allow: Vec<&str> = door.allowed().into_iter().filter(|offered| *offered != method.as_str()).collect();
            match &door {
                // OAuth's clients read OAuth's errors.
                Door::Token | Door::Introspect | Door::Revoke | Door::BackChannelLogout
                    if error.kind == Kind::Throttled =>
                {
                    oauth::later(&error)
                }
                _ => respond::refusal(&error, &allow, token_shown),
            }
        });
        // An answer before the formats are agreed on, such as a 401, is in the one asked for if there is one.
        let answer = respond::formatted(answer, known.format.unwrap_or(Format::Json), known.pretty).await;
        let mut answer = respond::finish(answer, &method, &id);
        respond::correlate(&mut answer, sent, &id);
        if matches!(&door, Door::Fhir(place) if *place != Place::Metadata) {
            // references, and codes of older releases, are not always as their author wrote them.
            respond::set(&mut answer, respond::INTERMEDIARY, self.app.name_as_intermediary());
            // No cache keeps health data, or answers with a status of yesterday.
            answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        tracing::info!(
            method = if method.as_str().len() > 16 { "?" } else { method.as_str() },
            route = door.label(),
            status = answer.status().as_u16(),
            ms = (self.app.now().0 - began.0) / 1_000,
            partner = known.partner,
            request = id,
            "answered"
        );
        answer
    }

    /// Refuses in the order of what the caller must mend first: rate, path, token, method, format, body.
    async fn open(&self, door: &Door, request: Request, id: &str, known: &mut Seen) -> Result<Response, Error> {
        // RFC 9112 §3.2: two would be one to us and the other to somebody on the way.
        if request.headers().get_all(HOST).iter().nth(1).is_some() {
            return Err(Error::malformed("A request has one Host."));
        }
        let address = rates::address(&request, &self.app.config().server.trusted_proxies);
        if door.is_counted() {
            self.allowances.spend_of(address)?;
        }
        if door.needs_token() {
            return self.admit(door, request, address, id, known).await;
        }
        door.check(request.method())?;
        match door {
            Door::Fhir(Place::Metadata) | Door::SmartConfiguration if *request.method() == Method::OPTIONS => {
                Ok(respond::preflight())
            }
            Door::People(page) => {
                let allowed = if page.signs_in() { self.allowances.spend_token(address) } else { Ok(()) };
                Ok(people::answer(&self.app, *page, request, address, allowed, id).await)
            }
            Door::Live => Ok(respond::live()),
            Door::Ready => Ok(respond::ready(self.app.ready().await)),
            Door::Fhir(Place::Metadata) => {
                known.agreed()?;
                Ok(self.statement.answer(request.headers()))
            }
            Door::SmartConfiguration => Ok(oauth::configuration(&self.app)),
            Door::Keys => Ok(oauth::keys(&self.app)),
            Door::Hook(partner) => hooks::take(&self.app, partner, request).await,
            Door::Websocket => sockets::open(&self.app, request).await,
            Door::Token => {
                self.allowances.spend_token(address)?;
                oauth::token(&self.app, request).await
            }
            Door::BackChannelLogout => {
                self.allowances.spend_token(address)?;
                let visit = Visit { request: id.to_string(), address, cookie: None };
                oauth::back_channel_logout(&self.app, request, &visit).await
            }
            Door::Introspect => oauth::introspect(&self.app, &self.allowances, request).await,
            Door::Revoke => oauth::revoke(&self.app, &self.allowances, request).await,
            Door::Metrics | Door::Fhir(_) | Door::Nowhere | Door::Unknown => Err(respond::no_such_path()),
        }
    }

    /// The doors that a partner's token opens.
    async fn admit(
        &self,
        door: &Door,
        request: Request,
        address: Option<IpAddr>,
        id: &str,
        known: &mut Seen,
    ) -> Result<Response, Error> {
        let Identity { partner, scopes, token, person } =
            auth::authenticate(&self.app, request.headers(), request.extensions()).await?;
        known.partner = Some(partner.id.clone());
        self.allowances.spend(&partner)?;
        door.check(request.method())?;
        let address = address.map(|address| address.to_string());
        let provenance = extract::provenance(request.headers(), &self.app.config().limits)?;
        let context = Context { partner, scopes, request: id.to_string(), token, address, person, provenance };
        match door {
            Door::Fhir(place) => {
                let method = request.method().clone();
                let asked = extract::read(request, place, &self.app.config().limits, known).await?;
                let answer = match place {
                    Place::Base if method == Method::POST => {
                        bundles::answer(&self.app, &context, &self.statement, asked).await
                    }
                    place => interactions::answer(&self.app, &context, place, asked).await,
                };
                if let Err(error) = &answer {
                    self.app.refused(&context, place.action(&method), error, place.about()).await?;
                }
                answer
            }
            Door::Metrics => {
                auth::operator(&context.partner)?;
                respond::metrics(&self.app).await
            }
            _ => Err(respond::no_such_path()),
        }
    }
}

/// Runs a future to its end; `None` when it panicked. What it held is dropped, so an open transaction rolls back.
async fn caught<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Err(_) => Poll::Ready(None),
    })
    .await
}

impl Door {
    /// 404 where nothing is offered, 405 where something else is.
    fn check(&self, method: &Method) -> Result<(), Error> {
        let allowed = self.allowed();
        if allowed.is_empty() {
            return Err(respond::no_such_path());
        }
        if allowed.contains(&method.as_str()) {
            return Ok(());
        }
        Err(Error::new(
            Kind::MethodNotAllowed,
            "This is not offered here; /metadata lists the interactions of each type.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stays_with_its_request() {
        assert_eq!(caught(pin!(async { 1 })).await, Some(1));
        let panics = pin!(async {
            if true {
                panic!("on purpose")
            }
        });
        assert_eq!(caught(panics).await, None);
    }

    #[test]
    fn what_the_table_does_not_offer_is_405_and_what_nobody_knows_404() {
        let check = |path: &str, method: Method| door::door(path, &[]).check(&method).map_err(|error| error.kind);
        assert_eq!(check("/fhir/Task", Method::POST), Ok(()));
        assert_eq!(check("/fhir/Task/1", Method::DELETE), Err(Kind::MethodNotAllowed));
        assert_eq!(check("/fhir/Provenance/1", Method::PATCH), Err(Kind::MethodNotAllowed));
        assert_eq!(check("/fhir/Encounter", Method::POST), Err(Kind::MethodNotAllowed));
        assert_eq!(check("/fhir/Encounter/1/_history", Method::GET), Err(Kind::NotFound));
        assert_eq!(check("/fhir/Nope/1", Method::GET), Err(Kind::NotFound));
    }
}
