//! The configuration file: read once at start, checked whole, then plain data.
//!
//! Promises: every fault is reported at once, each with its key and line (a fault inside an inline table
//! names the line where that table begins); defaults and known keys come from one list, [`SETTINGS`];
//! no fault's text and no `Debug` shows a configured value, so a secret cannot leak through either.
//! The one module that reads environment variables.
//!
//! Leaves out: opening what is configured (certificates, the database, partners' servers), reloading,
//! and the resources partners become. Syntax: <https://toml.io/en/v1.1.0>.

mod partner;
mod people;
mod reader;
mod sections;
mod settings;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use partner::*;
pub use people::{People, PersonRole, Provider};
pub use reader::Fault;
use reader::{Place, Reader, Section};
use sections::config;
pub use settings::{SETTINGS, Setting};
use values::read_file;

/// The whole configuration, free of faults.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the gateway listens and what it is called from outside.
    pub server: Server,
    /// Our own Organization: requester of relayed Tasks.
    pub gateway: Organization,
    /// The database.
    pub store: Store,
    /// Sending to partners.
    pub delivery: Delivery,
    /// Bounds on what partners send.
    pub limits: Limits,
    /// Outgoing mail; without it e-mail Subscriptions are refused.
    pub email: Option<Email>,
    /// Where text messages are sent from; without it Subscriptions by sms are refused.
    pub sms: Option<Sms>,
    /// The consent rule.
    pub consent: Consent,
    /// Access tokens.
    pub auth: Auth,
    /// Signing in of people.
    pub people: People,
    /// Subscriptions and their events.
    pub subscriptions: Subscriptions,
    /// The record of who saw what.
    pub audit: Audit,
    /// What resources are checked against beside our own profiles.
    pub validation: Validation,
    /// The parties, in the file's order.
    pub partners: Vec<Partner>,
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// The address requests come to.
    pub listen: SocketAddr,
    /// The http(s) address partners use, without a trailing slash; the FHIR base is below it.
    pub public_url: String,
    /// TLS on `listen`; none when a proxy in front does it.
    pub tls: Option<Tls>,
    /// A second address, for metrics only; none: no metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Proxies in front whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
}

impl Server {
    /// Whether clients have to show a certificate.
    pub fn demands_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }
}

/// `server.tls`: PEM files, relative paths already joined to the configuration's folder.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities client certificates must come from; turns on mutual TLS.
    pub client_ca: Option<PathBuf>,
}

/// `gateway.organization`
#[derive(Debug, Clone)]
pub struct Organization {
    /// A FHIR id, no partner's.
    pub id: String,
    /// The name people read; not empty.
    pub name: String,
}

/// `[store]`
#[derive(Debug, Clone)]
pub struct Store {
    /// `sqlite:` or `postgres://`; secret because it may hold a password.
    pub url: Secret,
}

/// `[delivery]`
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The pauses between attempts, 1 to 20 of them; then the delivery is exhausted.
    pub backoff: Vec<Duration>,
    /// How much longer a pause may be, in percent.
    pub jitter: u32,
    /// One attempt's time, 1 s to 5 min; a lease lasts at most twice this.
    pub timeout: Duration,
    /// Which addresses may be called.
    pub partner_addresses: PartnerAddresses,
}

/// Which network addresses deliveries may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartnerAddresses {
    /// Public ones over https.
    PublicOnly,
    /// Any, also over http, polled as often as wished. For tests.
    AllowPrivateForTestsOnly,
}

/// `[limits]`: all positive.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A request's body, in bytes.
    pub body: usize,
    /// Nesting of a resource, in levels.
    pub depth: usize,
    /// Entries of one Bundle.
    pub bundle_entries: usize,
    /// One string, in bytes.
    pub string: usize,
    /// Requests a minute and partner.
    pub requests_per_minute: u32,
    /// Requests a minute and address, before anybody is known.
    pub requests_per_minute_by_address: u32,
    /// Requests for a token a minute and address.
    pub token_requests_per_minute: u32,
    /// Needs sent together (one Task per need and provider).
    pub needs_per_request: u32,
}

/// `[email]`
#[derive(Debug, Clone)]
pub struct Email {
    /// `smtp://` or `smtps://`; secret because it may hold a password.
    pub smtp: Secret,
    /// The sender's mail address.
    pub from: String,
    /// Whether a mail may carry its notification.
    pub attach: bool,
}

/// `[sms]`
#[derive(Debug, Clone)]
pub struct Sms {
    /// The address of the HTTP gateway that sends them.
    pub url: String,
    /// The value of the Authorization header there.
    pub authorization: Option<Secret>,
}

/// `[consent]`
#[derive(Debug, Clone)]
pub struct Consent {
    /// Whether a referral needs a Consent that counts.
    pub required: bool,
    /// Categories whose Consent must name them and the recipient.
    pub sensitive: Vec<String>,
}

/// `[auth]`
#[derive(Debug, Clone)]
pub struct Auth {
    /// How long an access token is good for, 1 s to 24 h.
    pub token_lifetime: Duration,
}

/// `[subscriptions]`
#[derive(Debug, Clone)]
pub struct Subscriptions {
    /// Subscriptions one partner may have; positive.
    pub per_partner: u32,
    /// Takes an `end` in the past as none instead of refusing it.
    pub accept_past_end: bool,
    /// How long events can be asked for again; at least the sum of `delivery.backoff`.
    pub keep_events: Duration,
    /// What headers are sealed with: 64 hexadecimal digits.
    pub key: Option<Secret>,
}

/// `[audit]`
#[derive(Debug, Clone)]
pub struct Audit {
    /// What seals are made with: 64 hexadecimal digits.
    pub key: Option<Secret>,
}

/// `[validation]`
#[derive(Debug, Clone)]
pub struct Validation {
    /// FHIR packages (`.tgz`).
    pub packages: Vec<PackageFile>,
}

/// One of `validation.packages`. What it holds is read by others, who tell its faults at its place.
#[derive(Debug, Clone)]
pub struct PackageFile {
    /// A relative path is already joined to the configuration's folder.
    pub path: PathBuf,
    pub(super) key: String,
    pub(super) line: usize,
}

impl PackageFile {
    /// What is wrong with it.
    pub fn fault(&self, message: &str) -> Fault {
        Fault::new(&self.key, self.line, message)
    }
}

/// A value that must not reach logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself: for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Config {
    /// The FHIR base: `{public_url}/fhir`.
    pub fn base(&self) -> String {
        format!("{}/fhir", self.server.public_url)
    }

    /// Our host, as others know it.
    pub fn host(&self) -> &str {
        let url = &self.server.public_url;
        let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        authority.split(['/', ':']).next().unwrap_or(authority)
    }

    /// Reads and checks a file; an unreadable one is a fault too.
    pub fn load(path: &Path) -> Result<Config, Vec<Fault>> {
        let text = read_file(path).map_err(|message| vec![Fault::new("", 0, message)])?;
        Config::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Checks a configuration; relative paths in it start at `folder`. Faults come in the file's order.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, Vec<Fault>> {
        let reader = Reader::new(text, folder);
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(0, |span| reader.line(span.start));
            vec![Fault::new("", line, format!("not TOML: {}", e.message()))]
        })?;
        let root = Section::open(&reader, Place::default(), false, table.into_inner());
        let config = config(&root);
        let mut faults = reader.faults.into_inner();
        faults.sort_by_key(|f| f.line);
        // A missing part has left its fault, so the second arm never hands out an empty list.
        config.filter(|_| faults.is_empty()).ok_or(faults)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
