//! The configuration file: read once at start, checked whole, then plain data.
//!
//! Promises: every fault is reported at once, each with its key and line (a fault inside an inline table
//! names the line where that table begins); defaults and known keys come from one list, [`SETTINGS`];
//! no fault's text and no `Debug` shows a configured value, so a secret cannot leak through either.
//! The one module that reads environment variables.
//!
//! Leaves out: opening what is configured (certificates, the database, partners' servers), reloading,
//! and the resources partners become. Syntax: <https://toml.io/en/v1.1.0>.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

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
    /// The consent rule.
    pub consent: Consent,
    /// Access tokens.
    pub auth: Auth,
    /// Subscriptions and their events.
    pub subscriptions: Subscriptions,
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
}

/// `[consent]`
#[derive(Debug, Clone)]
pub struct Consent {
    /// Whether a referral needs a Consent that counts.
    pub required: bool,
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
    /// Narrows the scopes its roles grant; none: all of those.
    pub scopes: Option<Vec<String>>,
    /// Its FHIR server, if it has one.
    pub fhir: Option<Fhir>,
    /// How a referral reaches it; always there for targets.
    pub channel: Option<Channel>,
    /// What it offers; targets only.
    pub services: Vec<HealthcareService>,
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
    /// Its public keys, a JWK Set as JSON text.
    Jwks(String),
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
        /// Our private key.
        key: Secret,
    },
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

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `partner[1] (hope-foodbank).fhir.base`; empty when the file as a whole is at fault.
    pub key: String,
    /// Counted from 1; 0 when there is none.
    pub line: usize,
    /// What is wrong; never quotes a configured value.
    pub message: String,
}

impl Fault {
    fn new(key: &str, line: usize, message: impl Into<String>) -> Fault {
        let (key, message) = (key.to_owned(), message.into());
        Fault { key, line, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// One row of the settings table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The path without array indices: `partner.fhir.base`.
    pub key: &'static str,
    /// TOML as one would write it, or `required` (where its table is there), `none`, or how it follows from others.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn row(key: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { key, default, meaning }
}

/// Every setting there is. The reader takes its known keys and its defaults from here.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("server.listen", "\"127.0.0.1:8080\"", "address and port requests come to"),
    row("server.public_url", "http(s)://{server.listen}", "address partners use; the FHIR base is {public_url}/fhir"),
    row("server.tls.cert", "required", "PEM file with the certificate chain"),
    row("server.tls.key", "required", "PEM file with its private key"),
    row("server.tls.client_ca", "none", "PEM file with the authorities of client certificates; turns on mutual TLS"),
    row("server.metrics_listen", "none", "address and port metrics are served on"),
    row("gateway.organization.id", "required", "id of our Organization"),
    row("gateway.organization.name", "required", "name of our Organization"),
    row("store.url", "required", "sqlite://FILE or postgres://USER@HOST/DATABASE"),
    row("delivery.backoff", "[\"5s\", \"30s\", \"2m\", \"10m\", \"1h\", \"6h\", \"12h\"]", "pauses between attempts, 1 to 20; then exhausted"),
    row("delivery.timeout", "\"20s\"", "time for one attempt, 1s to 5m; a lease lasts at most twice this"),
    row("delivery.partner_addresses", "\"public_only\"", "or \"allow_private_for_tests_only\""),
    row("limits.body", "\"16MiB\"", "largest request body"),
    row("limits.depth", "100", "deepest nesting of a resource"),
    row("limits.bundle_entries", "1000", "most entries in a Bundle"),
    row("limits.string", "\"1MiB\"", "longest string"),
    row("limits.requests_per_minute", "600", "requests a minute and partner"),
    row("limits.needs_per_request", "5", "most needs sent together"),
    row("email.smtp", "required", "mail server: smtp://HOST:PORT or smtps://USER@HOST"),
    row("email.from", "required", "sender's mail address"),
    row("consent.required", "true", "whether a referral needs a Consent"),
    row("auth.token_lifetime", "\"5m\"", "how long an access token is good for, 1s to 24h"),
    row("subscriptions.per_partner", "100", "most Subscriptions of one partner"),
    row("subscriptions.accept_past_end", "false", "take an `end` in the past as none"),
    row("subscriptions.keep_events", "\"30d\"", "how long events are kept; at least the sum of delivery.backoff"),
    row("partner.id", "required", "id of the partner and of its Organization here"),
    row("partner.name", "required", "name of its Organization"),
    row("partner.roles", "required", "any of \"source\", \"target\", \"coordinator\", \"operator\""),
    row("partner.routing", "\"automatic\"", "or \"coordinator\"; sources only"),
    row("partner.require_if_match", "false", "refuse an update without If-Match"),
    row("partner.identifiers.system", "required", "namespace of a business identifier"),
    row("partner.identifiers.value", "required", "value of a business identifier"),
    row("partner.credentials.bearer_sha256", "none", "SHA-256 of its bearer token, 64 hex digits"),
    row("partner.credentials.jwks", "none", "its JWK Set (not available in this version)"),
    row("partner.credentials.jwks_url", "none", "address of its JWK Set (not available in this version)"),
    row("partner.scopes", "none", "narrows the scopes its roles grant"),
    row("partner.fhir.base", "required", "base address of its FHIR server"),
    row("partner.fhir.follow", "\"auto\"", "or \"subscribe\", \"poll\""),
    row("partner.fhir.poll_every", "\"1h\"", "pause between polls, at least 15m"),
    row("partner.fhir.auth.kind", "\"none\"", "or \"bearer\" (token), \"backend-services\" (not available in this version)"),
    row("partner.fhir.auth.token", "none", "our bearer token there"),
    row("partner.fhir.auth.client_id", "none", "our client id there"),
    row("partner.fhir.auth.token_url", "none", "its token endpoint"),
    row("partner.fhir.auth.key", "none", "our private key"),
    row("partner.fhir.our_reference", "{public_url}/fhir/Organization/{gateway.organization.id}", "how its Tasks name us in owner"),
    row("partner.fhir.write_outcomes", "\"reference\"", "or \"create\""),
    row("partner.channel", "none", "how a referral reaches it: \"fhir\" or \"light\"; targets need one"),
    row("partner.services.id", "required", "id of a HealthcareService; targets only"),
    row("partner.services.name", "required", "its name"),
    row("partner.services.categories", "[]", "its SDOH category codes"),
];

/// The guide's SDOHCC-ValueSetSDOHCategory (3.0).
const CATEGORIES: &str = "sdoh-category-unspecified food-insecurity housing-instability homelessness \
    inadequate-housing transportation-insecurity financial-insecurity material-hardship \
    educational-attainment employment-status veteran-status stress social-connection \
    intimate-partner-violence elder-abuse personal-health-literacy health-insurance-coverage-status \
    medical-cost-burden digital-literacy digital-access utility-insecurity language-access \
    incarceration-status protective-factor";

/// The configuration and every file it names are text a person wrote.
const LARGEST_FILE: u64 = 1024 * 1024;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Config {
    /// The FHIR base: `{public_url}/fhir`.
    pub fn base(&self) -> String {
        format!("{}/fhir", self.server.public_url)
    }

    /// Reads and checks a file; an unreadable one is a fault too.
    pub fn load(path: &Path) -> Result<Config, Vec<Fault>> {
        let text = read_file(path).map_err(|message| vec![Fault::new("", 0, message)])?;
        Config::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Checks a configuration; relative paths in it start at `folder`. Faults come in the file's order.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, Vec<Fault>> {
        let reader = Reader { text, folder, faults: RefCell::default() };
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

/// What every section shares.
struct Reader<'t> {
    text: &'t str,
    folder: &'t Path,
    faults: RefCell<Vec<Fault>>,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }

    fn fault(&self, at: &Place, message: impl Into<String>) {
        let fault = Fault::new(&at.key, at.line, message);
        self.faults.borrow_mut().push(fault);
    }

    /// `{ env = "NAME" }` or `{ file = "PATH" }`; `None` for any other table.
    fn reference(&self, table: &DeTable<'_>) -> Option<Result<String, String>> {
        let only = |key| table.get(key).filter(|_| table.len() == 1)?.get_ref().as_str();
        if let Some(name) = only("env") {
            // The variable's name is shown, its value never is: not even when it is not Unicode.
            return Some(std::env::var(name).map_err(|_| format!("environment variable {name} is not set")));
        }
        let path = self.folder.join(only("file")?);
        Some(read_file(&path).map(|text| text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// A value's path as people read it, its path in [`SETTINGS`], and its line.
#[derive(Default)]
struct Place {
    key: String,
    schema: String,
    line: usize,
}

/// A value and where it begins in the text (`None` for a default).
struct Item<'t> {
    at: Place,
    start: Option<usize>,
    value: DeValue<'t>,
}

/// A table being read. Opening one reports its unknown keys; reading a value reports what is wrong with it
/// and then gives `None`, so that the reading goes on.
struct Section<'r, 't> {
    reader: &'r Reader<'t>,
    at: Place,
    inline: bool,
    table: DeTable<'t>,
}

impl<'r, 't> Section<'r, 't> {
    fn open(reader: &'r Reader<'t>, at: Place, inline: bool, table: DeTable<'t>) -> Self {
        let mut section = Section { reader, at, inline, table };
        let id = section.table.get("id").and_then(|id| id.get_ref().as_str());
        if let (true, Some(Ok(id))) = (section.at.schema == "partner", id.map(fhir_id)) {
            // People know a partner by its id, not by its number.
            section.at.key = format!("{} ({id})", section.at.key);
        }
        let path = &section.at.schema;
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let known = SETTINGS.iter().filter_map(|s| s.key.strip_prefix(&prefix)?.split('.').next());
        for key in section.table.keys().map(|key| key.get_ref()) {
            if !known.clone().any(|k| k == key) {
                let nearest = known.clone().map(|k| (distance(key, k), k)).min();
                let hint = nearest.filter(|(d, _)| *d <= 2 && *d < key.len());
                let hint = hint.map_or(String::new(), |(_, k)| format!(" (did you mean {k}?)"));
                section.fault(key, format!("unknown key{hint}"));
            }
        }
        section
    }

    fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn place(&self, key: &str) -> Place {
        let join = |path: &str| format!("{path}.{key}").trim_start_matches('.').to_owned();
        let written = self.table.get_key_value(key).filter(|_| !self.inline);
        let line = written.map_or(self.at.line, |(k, _)| self.reader.line(k.span().start));
        let (key, schema) = (join(&self.at.key), join(&self.at.schema));
        Place { key, schema, line }
    }

    fn fault(&self, key: &str, message: impl Into<String>) {
        self.reader.fault(&self.place(key), message);
    }

    /// The value as written or by default; a fault when it is required and not there.
    fn item(&self, key: &str) -> Option<Item<'t>> {
        let at = self.place(key);
        debug_assert!(
            SETTINGS.iter().any(|s| format!("{}.", s.key).starts_with(&format!("{}.", at.schema))),
            "{} has no row",
            at.schema
        );
        if let Some(value) = self.table.get(key) {
            let (start, value) = (Some(value.span().start), value.get_ref().clone());
            return Some(Item { at, start, value });
        }
        let default = SETTINGS.iter().find(|s| s.key == at.schema)?.default;
        if default == "required" {
            self.reader.fault(&at, "is required");
        }
        // `none` and what follows from other settings is not TOML, and no default here.
        let value = DeValue::parse(default).ok()?.into_inner();
        let start = None;
        Some(Item { at, start, value })
    }

    /// `direct` takes a value as TOML has it, `parse` the text of an environment variable or file.
    fn check<T>(
        &self,
        Item { at, value, .. }: Item<'_>,
        expected: &str,
        direct: impl Fn(&DeValue<'_>) -> Option<Result<T, String>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let result = match value.as_table().and_then(|table| self.reader.reference(table)) {
            Some(text) => text.and_then(|text| parse(&text)),
            None => direct(&value).unwrap_or_else(|| Err(unexpected(expected, &value))),
        };
        result.map_err(|message| self.reader.fault(&at, message)).ok()
    }

    fn text<T>(&self, item: Item<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.check(item, "a string", |v| v.as_str().map(&parse), &parse)
    }

    fn read<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.text(self.item(key)?, parse)
    }

    fn number(&self, key: &str) -> Option<u32> {
        let positive = |text: &str, radix| match u32::from_str_radix(text, radix) {
            Ok(n) if n > 0 => Ok(n),
            _ => fault("must be a positive integer of at most 4294967295"),
        };
        let direct = |v: &DeValue<'_>| v.as_integer().map(|i| positive(i.as_str(), i.radix()));
        self.check(self.item(key)?, "a positive integer", direct, |text| positive(text, 10))
    }

    fn flag(&self, key: &str) -> Option<bool> {
        let parse = |text: &str| text.parse().or(fault("must be true or false"));
        self.check(self.item(key)?, "true or false", |v| v.as_bool().map(Ok), parse)
    }

    fn items(&self, key: &str, expected: &str) -> Option<Vec<Item<'t>>> {
        let Item { at, start, value } = self.item(key)?;
        let Some(array) = value.as_array() else {
            self.reader.fault(&at, unexpected(expected, &value));
            return None;
        };
        let items = array.iter().enumerate().map(|(i, item)| {
            // A default has no place in the text, and an inline table speaks for all that is in it.
            let start = start.map(|_| item.span().start);
            let own = start.filter(|_| !self.inline);
            let line = own.map_or(at.line, |start| self.reader.line(start));
            let (key, schema) = (format!("{}[{i}]", at.key), at.schema.clone());
            let at = Place { key, schema, line };
            let value = item.get_ref().clone();
            Item { at, start, value }
        });
        Some(items.collect())
    }

    fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let items = self.items(key, "an array of strings")?.into_iter();
        // Every element is read before the first bad one makes the list `None`.
        let read: Vec<Option<T>> = items.map(|item| self.text(item, &parse)).collect();
        read.into_iter().collect()
    }

    fn tables(&self, key: &str) -> Vec<Section<'r, 't>> {
        let items = self.items(key, "an array of tables").unwrap_or_default();
        items.into_iter().filter_map(|item| self.section(item)).collect()
    }

    fn table(&self, key: &str) -> Option<Section<'r, 't>> {
        self.section(self.item(key)?)
    }

    /// The table, or an empty one, in which everything has its default.
    fn within(&self, key: &str) -> Section<'r, 't> {
        let (at, empty) = (self.place(key), DeTable::new());
        self.table(key).unwrap_or_else(|| Section::open(self.reader, at, self.inline, empty))
    }

    fn section(&self, Item { mut at, start, value }: Item<'t>) -> Option<Section<'r, 't>> {
        let text = self.reader.text.as_bytes();
        let braces = start.filter(|start| text.get(*start) == Some(&b'{'));
        if let Some(start) = braces {
            at.line = self.reader.line(start);
        }
        let inline = self.inline || braces.is_some();
        let DeValue::Table(table) = value else {
            self.reader.fault(&at, unexpected("a table", &value));
            return None;
        };
        Some(Section::open(self.reader, at, inline, table))
    }

    /// A fault when the value stands elsewhere too; `seen` maps values to where they were first.
    fn unique(&self, seen: &mut BTreeMap<String, String>, key: &str, value: String) {
        if let Some(first) = seen.get(&value) {
            self.fault(key, format!("must differ from {first}"));
        } else {
            seen.insert(value, self.place(key).key);
        }
    }
}

/// What partners are checked against: the general settings, and each other.
struct Surroundings {
    private_allowed: bool,
    our_reference: String,
    ids: BTreeMap<String, String>,
    services: BTreeMap<String, String>,
    bases: BTreeMap<String, String>,
    tokens: BTreeMap<String, String>,
}

// Each function below reads every value before its first `?`: a `?` further up would hide faults.

fn config(root: &Section<'_, '_>) -> Option<Config> {
    let server = server(&root.within("server"));
    let gateway = root.within("gateway").within("organization");
    let (id, name) = (gateway.read("id", fhir_id), gateway.read("name", text));
    let url = root.within("store").read("url", database);
    let delivery = delivery(&root.within("delivery"));
    let limits = limits(&root.within("limits"));
    let email = root.table("email");
    let email = email.map(|s| (s.read("smtp", mail_server), s.read("from", mailbox)));
    let required = root.within("consent").flag("required");
    let lifetime = |t: &str| between(t, SECOND..=DAY, "must be between 1s and 24h");
    let token_lifetime = root.within("auth").read("token_lifetime", lifetime);
    let section = root.within("subscriptions");
    let per_partner = section.number("per_partner");
    let accept_past_end = section.flag("accept_past_end");
    let keep_events = section.read("keep_events", duration);
    let retries = delivery.as_ref().map(|d| d.backoff.iter().sum::<Duration>());
    if keep_events.is_some() && keep_events < retries {
        section.fault("keep_events", "must be at least the sum of delivery.backoff");
    }

    let addresses = delivery.as_ref().map(|d| d.partner_addresses);
    let mut around = Surroundings {
        // With a fault in that setting itself, no fault may follow from its default.
        private_allowed: addresses != Some(PartnerAddresses::PublicOnly),
        our_reference: String::new(),
        ids: BTreeMap::new(),
        services: BTreeMap::new(),
        bases: BTreeMap::new(),
        tokens: BTreeMap::new(),
    };
    if let Some(id) = &id {
        gateway.unique(&mut around.ids, "id", id.clone());
    }
    if let (Some(server), Some(id)) = (&server, &id) {
        let base = format!("{}/fhir", server.public_url);
        around.our_reference = format!("{base}/Organization/{id}");
        let own = "the gateway's own base".to_owned();
        around.bases.insert(base.to_ascii_lowercase(), own);
    }
    let partners = root.tables("partner").into_iter();
    let partners: Vec<_> = partners.map(|s| partner(s, &mut around)).collect();

    let email = match email {
        Some((smtp, from)) => Some(Email { smtp: smtp?, from: from? }),
        None => None,
    };
    Some(Config {
        server: server?,
        gateway: Organization { id: id?, name: name? },
        store: Store { url: url? },
        delivery: delivery?,
        limits: limits?,
        email,
        consent: Consent { required: required? },
        auth: Auth { token_lifetime: token_lifetime? },
        subscriptions: Subscriptions {
            per_partner: per_partner?,
            accept_past_end: accept_past_end?,
            keep_events: keep_events?,
        },
        partners: partners.into_iter().collect::<Option<_>>()?,
    })
}

fn server(s: &Section<'_, '_>) -> Option<Server> {
    let listen = s.read("listen", socket);
    let public_url = s.read("public_url", http_url);
    let metrics_listen = s.read("metrics_listen", socket);
    let tls = s.table("tls").map(|s| {
        let file = |key| s.read(key, |t| text(t).map(|path| s.reader.folder.join(path)));
        (file("cert"), file("key"), file("client_ca"))
    });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let tls = match tls {
        Some((cert, key, client_ca)) => Some(Tls { cert: cert?, key: key?, client_ca }),
        None => None,
    };
    let listen = listen?;
    let public_url = public_url.unwrap_or_else(|| format!("{scheme}://{listen}"));
    Some(Server { listen, public_url, tls, metrics_listen })
}

fn delivery(s: &Section<'_, '_>) -> Option<Delivery> {
    const ADDRESSES: &[(&str, PartnerAddresses)] = &[
        ("public_only", PartnerAddresses::PublicOnly),
        ("allow_private_for_tests_only", PartnerAddresses::AllowPrivateForTestsOnly),
    ];
    let backoff = s.list("backoff", duration);
    if backoff.as_ref().is_some_and(|b| b.is_empty() || b.len() > 20) {
        s.fault("backoff", "must have 1 to 20 pauses");
    }
    let limited = |t: &str| between(t, SECOND..=MINUTE * 5, "must be between 1s and 5m");
    let timeout = s.read("timeout", limited);
    let partner_addresses = s.read("partner_addresses", one_of(ADDRESSES));
    Some(Delivery { backoff: backoff?, timeout: timeout?, partner_addresses: partner_addresses? })
}

fn limits(s: &Section<'_, '_>) -> Option<Limits> {
    let (body, string) = (s.read("body", size), s.read("string", size));
    let (depth, bundle_entries) = (s.number("depth"), s.number("bundle_entries"));
    let (requests, needs) = (s.number("requests_per_minute"), s.number("needs_per_request"));
    Some(Limits {
        body: body?,
        depth: usize::try_from(depth?).ok()?,
        bundle_entries: usize::try_from(bundle_entries?).ok()?,
        string: string?,
        requests_per_minute: requests?,
        needs_per_request: needs?,
    })
}

fn partner(s: Section<'_, '_>, around: &mut Surroundings) -> Option<Partner> {
    const ROLES: &[(&str, Role)] = &[
        ("source", Role::Source),
        ("target", Role::Target),
        ("coordinator", Role::Coordinator),
        ("operator", Role::Operator),
    ];
    const ROUTINGS: &[(&str, Routing)] = &[("automatic", Routing::Automatic), ("coordinator", Routing::Coordinator)];
    const CHANNELS: &[(&str, Channel)] =
        &[("fhir", Channel::Fhir), ("light", Channel::Light), ("mapped", Channel::Mapped), ("email", Channel::Email)];
    let id = s.read("id", fhir_id);
    if let Some(id) = &id {
        s.unique(&mut around.ids, "id", id.clone());
    }
    let name = s.read("name", text);
    let roles = s.list("roles", one_of(ROLES));
    let routing = s.read("routing", one_of(ROUTINGS));
    let require_if_match = s.flag("require_if_match");
    let identifiers: Vec<_> = s.tables("identifiers").iter().map(identifier).collect();
    let credentials = s.table("credentials").map(|s| credentials(&s, around));
    let scopes = s.list("scopes", scope);
    let fhir = s.table("fhir").map(|s| fhir(&s, around));
    let channel = s.read("channel", one_of(CHANNELS));
    let services = s.tables("services");
    let services: Vec<_> = services.iter().map(|s| service(s, around)).collect();

    if let Some(roles) = &roles {
        if roles.is_empty() {
            s.fault("roles", "must name at least one role");
        }
        if s.has("routing") && !roles.contains(&Role::Source) {
            s.fault("routing", "is for sources only");
        }
        if s.has("services") && !roles.contains(&Role::Target) {
            s.fault("services", "are for targets only");
        }
        if !s.has("channel") && roles.contains(&Role::Target) {
            s.fault("channel", "is required for a target");
        }
    }
    match channel {
        Some(Channel::Fhir) if !s.has("fhir") => s.fault("channel", "\"fhir\" needs fhir.base"),
        Some(Channel::Mapped | Channel::Email) => {
            s.fault("channel", "not available in this version (use \"fhir\" or \"light\")");
        }
        Some(Channel::Fhir | Channel::Light) | None => {}
    }
    Some(Partner {
        id: id?,
        name: name?,
        roles: roles?,
        routing: routing?,
        require_if_match: require_if_match?,
        identifiers: identifiers.into_iter().collect::<Option<_>>()?,
        credentials: credentials.flatten(),
        scopes,
        fhir: fhir.flatten(),
        channel,
        services: services.into_iter().collect::<Option<_>>()?,
    })
}

fn identifier(s: &Section<'_, '_>) -> Option<Identifier> {
    let (system, value) = (s.read("system", text), s.read("value", text));
    let (system, value) = (system?, value?);
    Some(Identifier { system, value })
}

fn credentials(s: &Section<'_, '_>, around: &mut Surroundings) -> Option<Credentials> {
    if ["bearer_sha256", "jwks", "jwks_url"].iter().filter(|key| s.has(key)).count() != 1 {
        s.reader.fault(&s.at, "must have exactly one of bearer_sha256, jwks, jwks_url");
    }
    let hash = s.read("bearer_sha256", sha256);
    if let Some(hash) = &hash {
        s.unique(&mut around.tokens, "bearer_sha256", format!("{hash:?}"));
    }
    let key_set = |text: &str| match text.contains("\"keys\"") {
        true => Ok(text.to_owned()),
        false => fault("must be a JWK Set"),
    };
    let direct = |v: &DeValue<'_>| match v {
        DeValue::String(text) => Some(key_set(text)),
        // To be rendered as JSON when key sets are used; until then the fault below is all it leads to.
        DeValue::Table(table) if table.contains_key("keys") => Some(Ok(String::new())),
        DeValue::Table(_) => Some(key_set("")),
        _ => None,
    };
    let jwks = s.item("jwks");
    let jwks = jwks.and_then(|item| s.check(item, "a table or a string", direct, key_set));
    let jwks_url = s.read("jwks_url", |t| partner_url(t, around.private_allowed));
    for key in ["jwks", "jwks_url"].iter().filter(|key| s.has(key)) {
        s.fault(key, "not available in this version (use bearer_sha256)");
    }
    let (jwks, jwks_url) = (jwks.map(Credentials::Jwks), jwks_url.map(Credentials::JwksUrl));
    hash.map(Credentials::BearerSha256).or(jwks).or(jwks_url)
}

fn fhir(s: &Section<'_, '_>, around: &mut Surroundings) -> Option<Fhir> {
    const FOLLOWS: &[(&str, Follow)] =
        &[("subscribe", Follow::Subscribe), ("poll", Follow::Poll), ("auto", Follow::Auto)];
    const OUTCOMES: &[(&str, WriteOutcomes)] =
        &[("reference", WriteOutcomes::Reference), ("create", WriteOutcomes::Create)];
    let base = s.read("base", |t| partner_url(t, around.private_allowed));
    if let Some(base) = &base {
        s.unique(&mut around.bases, "base", base.to_ascii_lowercase());
    }
    let follow = s.read("follow", one_of(FOLLOWS));
    let poll_every = s.read("poll_every", |t| match duration(t)? {
        pause if pause < MINUTE * 15 && !around.private_allowed => fault("must be at least 15m"),
        pause => Ok(pause),
    });
    let auth = outbound(&s.within("auth"), around);
    let our_reference = s.read("our_reference", visible);
    let write_outcomes = s.read("write_outcomes", one_of(OUTCOMES));
    Some(Fhir {
        base: base?,
        follow: follow?,
        poll_every: poll_every?,
        auth: auth?,
        our_reference: our_reference.unwrap_or_else(|| around.our_reference.clone()),
        write_outcomes: write_outcomes?,
    })
}

fn outbound(s: &Section<'_, '_>, around: &Surroundings) -> Option<OutboundAuth> {
    // A kind and its own keys: required with that kind, wrong with any other.
    const KINDS: &[(&str, &[&str])] =
        &[("none", &[]), ("bearer", &["token"]), ("backend-services", &["client_id", "token_url", "key"])];
    let kind = s.read("kind", one_of(KINDS));
    let token = s.read("token", |t| visible(t).map(Secret));
    let client_id = s.read("client_id", text);
    let token_url = s.read("token_url", |t| partner_url(t, around.private_allowed));
    let key = s.read("key", |t| text(t).map(Secret));
    let wanted = kind?;
    for (name, own) in KINDS {
        for key in own.iter().filter(|key| s.has(key) != wanted.contains(key)) {
            let rule = if s.has(key) { "is only for" } else { "is required with" };
            s.fault(key, format!("{rule} kind = \"{name}\""));
        }
    }
    if wanted.contains(&"client_id") {
        s.fault("kind", "not available in this version (use \"bearer\")");
        Some(OutboundAuth::BackendServices { client_id: client_id?, token_url: token_url?, key: key? })
    } else if wanted.contains(&"token") {
        Some(OutboundAuth::Bearer(token?))
    } else {
        Some(OutboundAuth::None)
    }
}

fn service(s: &Section<'_, '_>, around: &mut Surroundings) -> Option<HealthcareService> {
    let (id, name) = (s.read("id", fhir_id), s.read("name", text));
    if let Some(id) = &id {
        s.unique(&mut around.services, "id", id.clone());
    }
    let categories = s.list("categories", |code| match CATEGORIES.split(' ').any(|c| c == code) {
        true => Ok(code.to_owned()),
        false => fault("must be one of the guide's SDOH category codes, such as food-insecurity"),
    });
    Some(HealthcareService { id: id?, name: name?, categories: categories? })
}

// How one value's text is understood. None of these messages may quote it: it could be a secret.

fn fault<T>(message: &str) -> Result<T, String> {
    Err(message.to_owned())
}

fn unexpected(expected: &str, found: &DeValue<'_>) -> String {
    format!("expected {expected}, found {}", found.type_str())
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    let file = std::fs::File::open(path);
    match file.and_then(|f| f.take(LARGEST_FILE + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 <= LARGEST_FILE => Ok(text),
        Ok(_) => Err(format!("{} is larger than 1 MiB", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let names: Vec<&str> = choices.iter().map(|c| c.0).collect();
        let chosen = choices.iter().find(|c| c.0 == text).map(|c| c.1);
        chosen.ok_or_else(|| format!("must be one of {names:?}"))
    }
}

fn text(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => fault("must not be empty"),
        false => Ok(text.to_owned()),
    }
}

/// `system/Task.rs`, `system/*.read`: letters in order, or the words of SMART's first version. Parameters (`?…`) are
/// not served by this version, and a restriction that is not enforced must not be taken.
fn scope(text: &str) -> Result<String, String> {
    let fault = || Err("must be a scope such as system/Task.rs or system/*.read, without parameters".to_string());
    let Some((kind, letters)) = text.strip_prefix("system/").and_then(|rest| rest.split_once('.')) else {
        return fault();
    };
    let named = kind == "*" || (!kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphabetic()));
    let mut rest = "cruds".chars();
    let in_order = !letters.is_empty() && letters.chars().all(|letter| rest.any(|known| known == letter));
    if named && (in_order || matches!(letters, "read" | "write" | "*")) { Ok(text.to_string()) } else { fault() }
}

/// Fit for an HTTP header.
fn visible(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => fault("must be visible ASCII without spaces, and not empty"),
    }
}

fn fhir_id(text: &str) -> Result<String, String> {
    let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    match fits && (1..=64).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => fault("must be a FHIR id: 1 to 64 letters, digits, - and ."),
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().or(fault("must be an IP address and port, such as 127.0.0.1:8080"))
}

fn database(text: &str) -> Result<Secret, String> {
    address(text, &["sqlite:", "postgres://", "postgresql://"])
}

fn mail_server(text: &str) -> Result<Secret, String> {
    address(text, &["smtp://", "smtps://"])
}

fn address(text: &str, schemes: &[&str]) -> Result<Secret, String> {
    match schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) if !rest.is_empty() => Ok(Secret(text.to_owned())),
        _ => Err(format!("must start with {}", schemes.join(" or "))),
    }
}

fn mailbox(text: &str) -> Result<String, String> {
    // Enough to keep a header or a second address from slipping in; the mail server checks the rest.
    let plain = text.chars().all(|c| !c.is_control() && !c.is_whitespace() && !"<>,;:\"".contains(c));
    match text.split_once('@') {
        Some((user, host)) if plain && !user.is_empty() && !host.is_empty() && !host.contains('@') => {
            Ok(text.to_owned())
        }
        _ => fault("must be a mail address"),
    }
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|u| u.0 == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|n| *n > 0)
}

fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    // Ten years at most: what is added to an instant must stay one.
    let read = amount(text, UNITS).map(Duration::from_millis).filter(|d| *d <= DAY * 3650);
    read.ok_or_else(|| "must be a duration, such as 250ms, 20s, 5m, 12h, 30d; at most 3650d".to_owned())
}

fn between(text: &str, bounds: RangeInclusive<Duration>, rule: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if bounds.contains(&d) { Ok(d) } else { fault(rule) })
}

fn size(text: &str) -> Result<usize, String> {
    const UNITS: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let read = amount(text, UNITS).and_then(|n| usize::try_from(n).ok());
    read.ok_or_else(|| "must be a size, such as 64B, 1KiB, 16MiB, 1GiB".to_owned())
}

fn http_url(text: &str) -> Result<String, String> {
    let fits = || {
        let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"))?;
        let authority = rest.split('/').next()?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "443"),
        };
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(name), // no @: no user
        };
        let port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().ok()? > 0;
        let path = rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
        Some(host && port && path)
    };
    match fits() {
        Some(true) => Ok(text.trim_end_matches('/').to_owned()),
        Some(false) | None => fault("must be an http(s) URL without user, query or fragment"),
    }
}

fn partner_url(text: &str, private_allowed: bool) -> Result<String, String> {
    match http_url(text)? {
        url if url.starts_with("http://") && !private_allowed => {
            fault("must be https (http needs delivery.partner_addresses = \"allow_private_for_tests_only\")")
        }
        url => Ok(url),
    }
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let byte = |i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(byte).collect();
    let digits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = bytes.filter(|_| digits).and_then(|b| b.try_into().ok());
    hash.ok_or_else(|| "must be 64 hex digits".to_owned())
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            left = (diagonal + usize::from(x != y)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// Four lines: what follows begins on line 5.
    const LEAST: &str = "[gateway]\norganization = { id = \"hub\", name = \"Hub\" }\n[store]\nurl = \"sqlite://x\"\n";
    const HASH: &str = "AbCdEf0123456789abcdef0123456789abcdef0123456789abcdef0123456789";

    /// The example of the interface, its token from a file, and every other setting that can stand beside.
    const EXAMPLE: &str = r#"
[server]
listen     = "127.0.0.1:8080"
public_url = "https://hub.example.org/"
tls        = { cert = "hub.pem", key = "hub.key", client_ca = "partners.pem" }
metrics_listen = "127.0.0.1:9090"
[gateway]
organization = { id = "hub", name = "County Referral Hub" }
[store]
url = "postgres://u:s3cret-db@host/db"
[delivery]
backoff           = ["5s", "30s", "2m", "10m", "1h", "6h", "12h"]
timeout           = "20s"
partner_addresses = "public_only"
[limits]
body = "16MiB"
requests_per_minute = 6_00
[email]
smtp = "smtp://u:s3cret-mail@127.0.0.1:25"
from = "no-reply@hub.example.org"
[consent]
required = true
[auth]
token_lifetime = "5m"
[subscriptions]
per_partner     = 100
accept_past_end = false
[[partner]]
id           = "mercy-clinic"
name         = "Mercy Clinic"
roles        = ["source"]
routing      = "coordinator"
require_if_match = false
identifiers  = [{ system = "http://hl7.org/fhir/sid/us-npi", value = "1234567893" }]
credentials  = { bearer_sha256 = "HASH" }
scopes       = ["system/Task.rs"]
fhir         = { base = "https://ehr.example/fhir", follow = "auto", poll_every = "1h",
                 auth = { kind = "bearer", token = { file = "TOKEN" } } }
[[partner]]
id          = "hope-foodbank"
name        = { env = "PATH" }
roles       = ["target"]
channel     = "fhir"
fhir.base   = "https://foodbank.example/fhir/"
services    = [{ id = "pantry", name = "Food pantry", categories = ["food-insecurity"] }]
"#;

    fn example(token_file: &str) -> String {
        EXAMPLE.replace("HASH", HASH).replace("TOKEN", token_file)
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = Config::parse(text, Path::new("/conf")).err().unwrap_or_default();
        faults.iter().map(Fault::to_string).collect()
    }

    fn partner_with(rest: &str) -> String {
        format!("{LEAST}[[partner]]\nid = \"a\"\nname = \"A\"\nroles = [\"source\"]\n{rest}")
    }

    #[test]
    fn the_interfaces_example() {
        let folder = std::env::temp_dir().join(format!("loopgate-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "s3cret-token\r\n").unwrap();
        std::fs::write(folder.join("loopgate.toml"), example("token")).unwrap();
        let config = Config::load(&folder.join("loopgate.toml")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();

        assert_eq!(config.base(), "https://hub.example.org/fhir");
        assert_eq!(config.server.tls.as_ref().unwrap().cert, folder.join("hub.pem"));
        assert_eq!(config.limits.body, 16 << 20);
        assert_eq!(config.limits.requests_per_minute, 600);
        assert_eq!(config.limits.needs_per_request, 5);
        assert_eq!(config.delivery.backoff.len(), 7);
        assert_eq!(config.subscriptions.keep_events, DAY * 30);
        let [mercy, hope] = config.partners.as_slice() else { panic!("two partners") };
        assert_eq!(mercy.routing, Routing::Coordinator);
        assert!(matches!(mercy.credentials, Some(Credentials::BearerSha256(h)) if h[..3] == [0xab, 0xcd, 0xef]));
        let fhir = mercy.fhir.as_ref().unwrap();
        assert!(matches!(&fhir.auth, OutboundAuth::Bearer(token) if token.expose() == "s3cret-token"));
        assert_eq!(fhir.our_reference, "https://hub.example.org/fhir/Organization/hub");
        let fhir = hope.fhir.as_ref().unwrap();
        assert_eq!(fhir.base, "https://foodbank.example/fhir");
        assert_eq!((fhir.follow, fhir.poll_every), (Follow::Auto, MINUTE * 60));
        assert_eq!(hope.channel, Some(Channel::Fhir));
        assert_eq!(hope.services[0].categories, ["food-insecurity"]);
        let shown = format!("{config:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("171, 205"), "{shown}");
    }

    #[test]
    fn the_least_there_can_be() {
        let config = Config::parse(LEAST, Path::new("")).unwrap();
        assert_eq!(config.server.public_url, "http://127.0.0.1:8080");
        assert!(config.consent.required && config.email.is_none() && config.partners.is_empty());
    }

    #[test]
    fn the_reader_reads_every_setting_and_no_other() {
        // The other direction is the debug_assert in `Section::item`, run by every test.
        for setting in SETTINGS {
            let path = setting.key.split('.').collect::<Vec<_>>();
            let text = match path.as_slice() {
                ["partner", list @ ("identifiers" | "services"), key] => {
                    partner_with(&format!("{list} = [{{ {key} = 1979-05-27 }}]"))
                }
                ["partner", key @ ..] => format!("[[partner]]\n{} = 1979-05-27", key.join(".")),
                _ => format!("{} = 1979-05-27", setting.key),
            };
            let found = Config::parse(&text, Path::new("")).unwrap_err().into_iter().any(|f| {
                let key = f.key.replace("[0]", "").replace(" (a)", "");
                key == setting.key && f.message.contains("expected ") && f.message.ends_with("datetime")
            });
            assert!(found, "{} is not read", setting.key);
            let toml = DeValue::parse(setting.default).is_ok();
            let words = ["required", "none"].contains(&setting.default) || setting.default.contains("{");
            assert!(toml != words && !setting.meaning.is_empty(), "{}", setting.key);
        }
    }

    #[test]
    fn one_general_fault() {
        #[rustfmt::skip]
        const CASES: &[(&str, &str)] = &[
            ("[limits]\ndepht = 1", "line 6: limits.depht: unknown key (did you mean depth?)"),
            ("\n[colours]", "line 6: colours: unknown key"),
            ("partner = 1", "line 5: store.partner: unknown key"),
            ("[[partners]]", "line 5: partners: unknown key (did you mean partner?)"),
            ("[partner]", "line 5: partner: expected an array of tables, found table"),
            ("[limits]\ndepth = \"1\"", "line 6: limits.depth: expected a positive integer, found string"),
            ("[limits]\ndepth = -1", "line 6: limits.depth: must be a positive integer of at most 4294967295"),
            ("[limits]\nbody = \"0B\"", "line 6: limits.body: must be a size, such as 64B, 1KiB, 16MiB, 1GiB"),
            ("[consent]\nrequired = 1", "line 6: consent.required: expected true or false, found integer"),
            ("[server]\ntls = 1", "line 6: server.tls: expected a table, found integer"),
            ("[server]\ntls = { cert = \"c\",\n kay = \"\", key = \"k\" }", "line 6: server.tls.kay: unknown key (did you mean key?)"),
            ("[server]\ntls.key = \"k\"", "line 6: server.tls.cert: is required"),
            ("[server]\nlisten = \"localhost:1\"", "line 6: server.listen: must be an IP address and port, such as 127.0.0.1:8080"),
            ("[server]\npublic_url = \"ftp://x\"", "line 6: server.public_url: must be an http(s) URL without user, query or fragment"),
            ("[delivery]\nbackoff = [\"5s\",\n \"5x\"]", "line 7: delivery.backoff[1]: must be a duration, such as 250ms, 20s, 5m, 12h, 30d; at most 3650d"),
            ("[delivery]\nbackoff = []", "line 6: delivery.backoff: must have 1 to 20 pauses"),
            ("[delivery]\nbackoff = \"1s\"", "line 6: delivery.backoff: expected an array of strings, found string"),
            ("[delivery]\ntimeout = \"6m\"", "line 6: delivery.timeout: must be between 1s and 5m"),
            ("[delivery]\npartner_addresses = \"all\"", "line 6: delivery.partner_addresses: must be one of [\"public_only\", \"allow_private_for_tests_only\"]"),
            ("[subscriptions]\nkeep_events = \"1h\"", "line 6: subscriptions.keep_events: must be at least the sum of delivery.backoff"),
            ("[auth]\ntoken_lifetime = \"25h\"", "line 6: auth.token_lifetime: must be between 1s and 24h"),
            ("[email]\nfrom = \"a@b\"", "line 5: email.smtp: is required"),
            ("[email]\nsmtp = \"smtp://h\"\nfrom = \"a@b, c@d\"", "line 7: email.from: must be a mail address"),
            ("[limits]\nbody = { env = \"LOOPGATE_UNSET\" }", "line 6: limits.body: environment variable LOOPGATE_UNSET is not set"),
            ("[limits]\nbody = { env = \"PATH\" }", "line 6: limits.body: must be a size, such as 64B, 1KiB, 16MiB, 1GiB"),
            ("[limits]\nbody = { env = \"PATH\", file = \"x\" }", "line 6: limits.body: expected a string, found table"),
            ("[limits]\nbody = { file = \"none\" }", "line 6: limits.body: cannot read /conf/none: No such file or directory (os error 2)"),
            ("[limits]\n\nbody = \"s3cret", "line 7: not TOML: invalid basic string, expected `\"`"),
        ];
        for (text, fault) in CASES {
            assert_eq!(faults(&format!("{LEAST}{text}")), [*fault], "{text}");
        }
        assert_eq!(
            faults("[gateway]\norganization.id = \"/\"\norganization.name = \" \"\n[store]\nurl = \"mysql://\""),
            [
                "line 2: gateway.organization.id: must be a FHIR id: 1 to 64 letters, digits, - and .",
                "line 3: gateway.organization.name: must not be empty",
                "line 5: store.url: must start with sqlite: or postgres:// or postgresql://",
            ]
        );
        assert_eq!(faults("").len(), 3);
        let fault = &Config::load(Path::new("/no/such.toml")).unwrap_err()[0];
        assert!(fault.to_string().starts_with("cannot read /no/such.toml: "), "{fault}");
    }

    #[test]
    fn one_partners_fault() {
        #[rustfmt::skip]
        const CASES: &[(&str, &str, &str)] = &[
            ("colour = 1", "colour", "unknown key"),
            ("channel = \"mapped\"", "channel", "not available in this version (use \"fhir\" or \"light\")"),
            ("channel = \"email\"", "channel", "not available in this version (use \"fhir\" or \"light\")"),
            ("channel = \"fhir\"", "channel", "\"fhir\" needs fhir.base"),
            ("services = []", "services", "are for targets only"),
            ("identifiers = [{ system = \"s\" }]", "identifiers[0].value", "is required"),
            ("identifiers = [1]", "identifiers[0]", "expected a table, found integer"),
            ("scopes = [\"a b\"]", "scopes[0]", "must be a scope such as system/Task.rs or system/*.read, without parameters"),
            ("credentials = {}", "credentials", "must have exactly one of bearer_sha256, jwks, jwks_url"),
            ("credentials = { bearer_sha256 = \"+1\" }", "credentials.bearer_sha256", "must be 64 hex digits"),
            ("credentials = { jwks = { keys = [] } }", "credentials.jwks", "not available in this version (use bearer_sha256)"),
            ("credentials = { jwks_url = \"https://x\" }", "credentials.jwks_url", "not available in this version (use bearer_sha256)"),
            ("fhir = {}", "fhir.base", "is required"),
            ("fhir = { base = \"http://x\" }", "fhir.base", "must be https (http needs delivery.partner_addresses = \"allow_private_for_tests_only\")"),
            ("fhir = { base = \"http://127.0.0.1:8080/fhir/\" }\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\"", "fhir.base", "must differ from the gateway's own base"),
            ("fhir = { base = \"https://x\",\n follow = \"me\" }", "fhir.follow", "must be one of [\"subscribe\", \"poll\", \"auto\"]"),
            ("fhir = { base = \"https://x\", poll_every = \"14m\" }", "fhir.poll_every", "must be at least 15m"),
            ("fhir = { base = \"https://x\", auth = { kind = \"bearer\" } }", "fhir.auth.token", "is required with kind = \"bearer\""),
            ("fhir = { base = \"https://x\", auth = { token = \"t\" } }", "fhir.auth.token", "is only for kind = \"bearer\""),
            ("fhir = { base = \"https://x\", auth = { kind = \"bearer\", token = \"s3cret\\r\\nX: y\" } }", "fhir.auth.token", "must be visible ASCII without spaces, and not empty"),
            ("fhir = { base = \"https://x\", auth = { kind = \"backend-services\", client_id = \"c\", token_url = \"https://x/t\", key = \"k\" } }", "fhir.auth.kind", "not available in this version (use \"bearer\")"),
        ];
        for (text, key, message) in CASES {
            let expected = format!("line 9: partner[0] (a).{key}: {message}");
            assert_eq!(faults(&partner_with(text)), [expected], "{text}");
        }
        for url in ["https://u@h", "https://h?q", "https://h/#f", "https://", "https://h:x", "h"] {
            let found = faults(&partner_with(&format!("fhir.base = \"{url}\"")));
            assert!(found.len() == 1 && found[0].contains("must be an http(s) URL"), "{url}: {found:?}");
        }
        for url in ["https://h", "https://h:8443/a/b", "https://[::1]/fhir", "https://[::1]:80"] {
            assert!(faults(&partner_with(&format!("fhir.base = \"{url}\""))).is_empty(), "{url}");
        }
        let tests = "fhir = { base = \"http://x\", poll_every = \"250ms\" }\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\"";
        assert!(faults(&partner_with(tests)).is_empty());
    }

    #[test]
    fn several_faults_at_once_and_between_partners() {
        let shared = format!("fhir.base = \"https://X/f\"\ncredentials.bearer_sha256 = \"{HASH}\"\n");
        let more = "[[partner]]\nid = \"hub\"\nname = \"\"\nroles = []\n\
            [[partner]]\nid = \"a\"\nname = 1\nroles = [\"target\", \"boss\"]\nfhir.base = \"https://x/f/\"\n\
            services = [{ id = \"s\", name = \"S\" },\n{ id = \"s\", name = \"S\", categories = [\"food\"] }]\n\
            [[partner]]\nid = \"b\"\nname = \"B\"\nroles = [\"target\"]\nrouting = \"automatic\"\n";
        let hash = HASH.to_lowercase();
        let text = format!("{}{more}credentials.bearer_sha256 = \"{hash}\"", partner_with(&shared));
        let found = faults(&text);
        assert_eq!(
            found,
            [
                "line 12: partner[1] (hub).id: must differ from gateway.organization.id",
                "line 13: partner[1] (hub).name: must not be empty",
                "line 14: partner[1] (hub).roles: must name at least one role",
                "line 16: partner[2] (a).id: must differ from partner[0] (a).id",
                "line 17: partner[2] (a).name: expected a string, found integer",
                "line 18: partner[2] (a).roles[1]: must be one of [\"source\", \"target\", \"coordinator\", \"operator\"]",
                "line 19: partner[2] (a).fhir.base: must differ from partner[0] (a).fhir.base",
                "line 21: partner[2] (a).services[1].id: must differ from partner[2] (a).services[0].id",
                "line 21: partner[2] (a).services[1].categories[0]: must be one of the guide's SDOH category codes, such as food-insecurity",
                "line 22: partner[3] (b).channel: is required for a target",
                "line 26: partner[3] (b).routing: is for sources only",
                "line 27: partner[3] (b).credentials.bearer_sha256: must differ from partner[0] (a).credentials.bearer_sha256",
            ]
        );
    }

    #[test]
    fn no_fault_shows_a_value() {
        // Every string of the example is wrong in turn, and is not in the fault that says so.
        let secret = "\n s3cret/?#";
        // The names of environment variables and files may be shown, so there are none here.
        let text = example("").replace("{ file = \"\" }", "\"token\"");
        let text = text.replace("{ env = \"PATH\" }", "\"Hope\"").replace("100", "\"s3cret\"");
        for (i, _) in text.match_indices(" \"") {
            let bad = format!("{} \"\"\"{secret}{}", &text[..i], text[i + 2..].replacen('"', "\"\"\"", 1));
            let found = faults(&bad);
            assert!(!found.is_empty() && !found.concat().contains("s3cret"), "{found:?}");
        }
    }
}
