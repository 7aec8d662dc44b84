//! The configuration file: read once at start, checked whole, then plain data.
//!
//! Promises: every fault is reported at once, each with its key and line (a fault inside an inline table
//! names the line where that table begins); defaults and known keys come from one list, [`SETTINGS`];
//! no fault's text and no `Debug` shows a configured value, so a secret cannot leak through either.
//! The one module that reads environment variables.
//!
//! Leaves out: opening what is configured (certificates, the database, partners' servers), reloading,
//! and the resources partners become. Syntax: <https://toml.io/en/v1.1.0>.

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

use crate::jwt::{KeySet, PrivateKey};

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

/// `[[partner]]`: a party to referrals.
#[derive(Debug, Clone)]
pub struct Partner {
    /// A FHIR id, unique: its Organization's id here and its client id.
    pub id: String,
    /// The name people read; not empty.
    pub name: String,
    /// What it does; not empty.
    pub roles: Vec<Role>,
    /// Who picks the target of its referrals.
    pub routing: Routing,
    /// An update without If-Match is refused.
    pub require_if_match: bool,
    /// Its business identifiers (NPI and the like).
    pub identifiers: Vec<Identifier>,
    /// How it proves who it is; without them it cannot call us.
    pub credentials: Option<Credentials>,
    /// SHA-256 of the client certificates that are its alone; with any, it comes with one of them.
    pub certificates: Vec<[u8; 32]>,
    /// Narrows the scopes its roles grant; none: all of those.
    pub scopes: Option<ScopeList>,
    /// Its FHIR server, if it has one.
    pub fhir: Option<Fhir>,
    /// How a referral reaches it; always there for targets.
    pub channel: Option<Channel>,
    /// What it offers; targets only.
    pub services: Vec<HealthcareService>,
    /// The agreement by which referrals without a Consent may be passed on to it; targets only.
    pub agreement: Option<Agreement>,
    /// The types of which it gets a part alone; targets only.
    pub receives: Vec<Receives>,
}

impl Partner {
    /// A party of which nothing more is configured.
    pub fn new(id: String, name: String, roles: Vec<Role>) -> Partner {
        Partner {
            id,
            name,
            roles,
            routing: Routing::Automatic,
            require_if_match: false,
            identifiers: Vec::new(),
            credentials: None,
            certificates: Vec::new(),
            scopes: None,
            fhir: None,
            channel: None,
            services: Vec::new(),
            agreement: None,
            receives: Vec::new(),
        }
    }
}

/// `partner.agreement`: stands in for the Consent of a referral that names none.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// Its first day.
    pub from: String,
    /// Its last day.
    pub until: String,
}

/// `partner.scopes`. Whether each is one that can be enforced is told by who knows them.
#[derive(Debug, Clone)]
pub struct ScopeList {
    /// As they are written.
    pub list: Vec<String>,
    pub(super) key: String,
    pub(super) line: usize,
}

impl ScopeList {
    /// What is wrong with one of them.
    pub fn fault(&self, index: usize, message: &str) -> Fault {
        Fault::new(&format!("{}[{index}]", self.key), self.line, message)
    }
}

/// What a target gets of others' resources of one type. Whether type and elements exist is told by who knows them.
#[derive(Debug, Clone)]
pub struct Receives {
    /// The type.
    pub kind: String,
    /// The elements, beside those that are mandatory or change the meaning.
    pub elements: Vec<String>,
    pub(super) key: String,
    pub(super) line: usize,
}

impl Receives {
    /// What is wrong with it.
    pub fn fault(&self, message: &str) -> Fault {
        Fault::new(&self.key, self.line, message)
    }
}

/// What a partner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends referrals.
    Source,
    /// Provides what is referred for.
    Target,
    /// Picks targets for others' referrals.
    Coordinator,
    /// Runs this gateway.
    Operator,
    /// Reads who saw what, and nothing else.
    Auditor,
}

/// Who picks a referral's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// The source's choice goes straight on.
    Automatic,
    /// A coordinator decides.
    Coordinator,
}

/// A business identifier.
#[derive(Debug, Clone)]
pub struct Identifier {
    /// Its namespace, a URI; not empty.
    pub system: String,
    /// Not empty.
    pub value: String,
}

/// How a partner proves who it is.
#[derive(Clone)]
pub enum Credentials {
    /// The SHA-256 of its bearer token.
    BearerSha256([u8; 32]),
    /// Its public keys.
    Jwks(KeySet),
    /// Where its JWK Set is.
    JwksUrl(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash lets a guessed token be checked offline, so it stays out of logs too.
        f.write_str(match self {
            Credentials::BearerSha256(_) => "BearerSha256(..)",
            Credentials::Jwks(_) => "Jwks(..)",
            Credentials::JwksUrl(_) => "JwksUrl(..)",
        })
    }
}

/// A partner's FHIR server.
#[derive(Debug, Clone)]
pub struct Fhir {
    /// Its base, http(s), without a trailing slash, query, fragment or user; no other partner's.
    pub base: String,
    /// How we learn what changed there.
    pub follow: Follow,
    /// The pause between polls; at least 15 min outside tests.
    pub poll_every: Duration,
    /// How we prove who we are there.
    pub auth: OutboundAuth,
    /// How its Tasks name us in `owner`.
    pub our_reference: String,
    /// How outcomes get there.
    pub write_outcomes: WriteOutcomes,
    /// Our certificate there; none: it asks for none.
    pub tls: Option<ClientTls>,
    /// One request's time, 1 s to 5 min; none: `delivery.timeout`.
    pub timeout: Option<Duration>,
    /// Requests at a time, 1 to 64.
    pub concurrency: usize,
    /// Requests a minute; none: as many as there are.
    pub requests_per_minute: Option<u32>,
}

/// `fhir.tls`: mutual TLS with a partner's server. The files' text.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Our certificate and its chain.
    pub cert: Secret,
    /// Its private key.
    pub key: Secret,
    /// The authorities the server's certificate comes from; none: the public ones.
    pub ca: Option<Secret>,
}

/// How we learn what changed on a partner's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// By Subscription.
    Subscribe,
    /// By asking.
    Poll,
    /// By Subscription where the server offers it, by asking where not or when it goes silent.
    Auto,
}

/// How we prove who we are on a partner's server.
#[derive(Debug, Clone)]
pub enum OutboundAuth {
    /// Not at all.
    None,
    /// A fixed bearer token, visible ASCII.
    Bearer(Secret),
    /// SMART Backend Services.
    BackendServices {
        /// Our client id there.
        client_id: String,
        /// Its token endpoint.
        token_url: String,
        /// What we ask for there.
        scope: String,
        /// Our private keys: the first signs, all are published.
        keys: Vec<PrivateKey>,
    },
}

impl OutboundAuth {
    /// Our keys there; none unless we sign.
    pub fn keys(&self) -> &[PrivateKey] {
        match self {
            OutboundAuth::BackendServices { keys, .. } => keys,
            OutboundAuth::None | OutboundAuth::Bearer(_) => &[],
        }
    }
}

/// How outcomes get to a source's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcomes {
    /// As references to the resources here.
    Reference,
    /// As resources created there.
    Create,
}

/// How a referral reaches a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// We create the Task on its FHIR server.
    Fhir,
    /// It works on our API.
    Light,
    /// In its own format.
    Mapped,
    /// By mail.
    Email,
}

/// What a target offers; becomes a HealthcareService unless a directory provides it.
#[derive(Debug, Clone)]
pub struct HealthcareService {
    /// A FHIR id, unique over all partners.
    pub id: String,
    /// The name people read; not empty.
    pub name: String,
    /// SDOH category codes of the guide.
    pub categories: Vec<String>,
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
