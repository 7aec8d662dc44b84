//! A partner as it is configured: who it is, how it proves that, how it is reached and followed, what it gets.
//!
//! Plain data; how it is read and checked is told beside. Leaves out the Organization and the services it becomes (app).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{Fault, Secret};
use crate::jwt::{KeySet, PrivateKey};

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
    /// What notifications to it are signed with (Standard Webhooks); none: they are not.
    pub webhook_secret: Option<Secret>,
    /// Its business identifiers (NPI and the like).
    pub identifiers: Vec<Identifier>,
    /// How it proves who it is; without them it cannot call us.
    pub credentials: Option<Credentials>,
    /// The client certificates that are its alone; with any, it comes with one of them.
    pub certificates: Vec<Certified>,
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
            webhook_secret: None,
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

/// By what a client certificate is known as a partner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certified {
    /// Its SHA-256.
    Sha256([u8; 32]),
    /// A DNS name that it is valid for, also when it is renewed.
    Dns(String),
    /// An IP address that it is valid for.
    Ip(IpAddr),
    /// A URI among its names, to the letter.
    Uri(String),
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
