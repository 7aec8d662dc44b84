//! The tables of the file, one function each: what a table's values are and how they bound each other.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeValue;

use super::reader::Section;
use super::values::*;
use super::*;
use crate::jwt::{KeySet, PrivateKey};

/// Most requests at a time that one partner's server may be sent.
const MOST_AT_A_TIME: u32 = 64;

/// What partners are checked against: the general settings, and each other.
pub(super) struct Surroundings {
    private_allowed: bool,
    our_reference: String,
    ids: BTreeMap<String, String>,
    services: BTreeMap<String, String>,
    bases: BTreeMap<String, String>,
    tokens: BTreeMap<String, String>,
    certificates: BTreeMap<String, String>,
    certificates_demanded: bool,
}

// Each function below reads every value before its first `?`: a `?` further up would hide faults.

pub(super) fn config(root: &Section<'_, '_>) -> Option<Config> {
    let server = server(&root.within("server"));
    let gateway = root.within("gateway").within("organization");
    let (id, name) = (gateway.read("id", fhir_id), gateway.read("name", text));
    let url = root.within("store").read("url", database);
    let delivery = delivery(&root.within("delivery"));
    let limits = limits(&root.within("limits"));
    let email = root.table("email");
    let email = email.map(|s| (s.read("smtp", mail_server), s.read("from", mailbox), s.flag("attach")));
    let section = root.within("consent");
    let (required, sensitive) = (section.flag("required"), section.list("sensitive", category));
    let lifetime = |t: &str| between(t, SECOND..=DAY, "must be between 1s and 24h");
    let token_lifetime = root.within("auth").read("token_lifetime", lifetime);
    let section = root.within("subscriptions");
    let per_partner = section.number("per_partner");
    let accept_past_end = section.flag("accept_past_end");
    let keep_events = section.read("keep_events", duration);
    let headers_key = section.read("key", key);
    let retries = delivery.as_ref().map(|d| d.backoff.iter().sum::<Duration>());
    if keep_events.is_some() && keep_events < retries {
        section.fault("keep_events", "must be at least the sum of delivery.backoff");
    }
    let audit_key = root.within("audit").read("key", key);
    let section = root.within("validation");
    let packages = section.items("packages", "an array of strings").map(|items| {
        let read = items.into_iter().map(|item| {
            let (key, line) = (item.at.key.clone(), item.at.line);
            let path = section.text(item, text)?;
            Some(PackageFile { path: section.reader.folder.join(path), key, line })
        });
        // Every one is read before the first bad one makes the list `None`.
        read.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });

    let addresses = delivery.as_ref().map(|d| d.partner_addresses);
    let mut around = Surroundings {
        // With a fault in that setting itself, no fault may follow from its default.
        private_allowed: addresses != Some(PartnerAddresses::PublicOnly),
        our_reference: String::new(),
        ids: BTreeMap::new(),
        services: BTreeMap::new(),
        bases: BTreeMap::new(),
        tokens: BTreeMap::new(),
        certificates: BTreeMap::new(),
        certificates_demanded: server.as_ref().is_none_or(Server::demands_certificates),
    };
    let sms = root.table("sms");
    let sms = sms.map(|s| (s.read("url", |t| partner_url(t, around.private_allowed)), s.read("authorization", header)));
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

    let people = people::people(&root.within("people"), around.private_allowed, &partners);

    let email = match email {
        Some((smtp, from, attach)) => Some(Email { smtp: smtp?, from: from?, attach: attach? }),
        None => None,
    };
    let sms = match sms {
        Some((url, authorization)) => Some(Sms { url: url?, authorization }),
        None => None,
    };
    Some(Config {
        server: server?,
        gateway: Organization { id: id?, name: name? },
        store: Store { url: url? },
        delivery: delivery?,
        limits: limits?,
        email,
        sms,
        consent: Consent { required: required?, sensitive: sensitive? },
        auth: Auth { token_lifetime: token_lifetime? },
        people: people?,
        subscriptions: Subscriptions {
            per_partner: per_partner?,
            accept_past_end: accept_past_end?,
            keep_events: keep_events?,
            key: headers_key,
        },
        audit: Audit { key: audit_key },
        validation: Validation { packages: packages?? },
        partners: partners.into_iter().collect::<Option<_>>()?,
    })
}

pub(super) fn server(s: &Section<'_, '_>) -> Option<Server> {
    let listen = s.read("listen", socket);
    let public_url = s.read("public_url", http_url);
    let metrics_listen = s.read("metrics_listen", socket);
    let trusted_proxies = s.list("trusted_proxies", ip);
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
    Some(Server { listen, public_url, tls, metrics_listen, trusted_proxies: trusted_proxies? })
}

pub(super) fn delivery(s: &Section<'_, '_>) -> Option<Delivery> {
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
    let jitter = s.read("jitter", percent);
    Some(Delivery { backoff: backoff?, jitter: jitter?, timeout: timeout?, partner_addresses: partner_addresses? })
}

pub(super) fn limits(s: &Section<'_, '_>) -> Option<Limits> {
    let (body, string) = (s.read("body", size), s.read("string", size));
    let (depth, bundle_entries) = (s.number("depth"), s.number("bundle_entries"));
    let (requests, needs) = (s.number("requests_per_minute"), s.number("needs_per_request"));
    let (by_address, tokens) = (s.number("requests_per_minute_by_address"), s.number("token_requests_per_minute"));
    Some(Limits {
        body: body?,
        depth: usize::try_from(depth?).ok()?,
        bundle_entries: usize::try_from(bundle_entries?).ok()?,
        string: string?,
        requests_per_minute: requests?,
        requests_per_minute_by_address: by_address?,
        token_requests_per_minute: tokens?,
        needs_per_request: needs?,
    })
}

pub(super) fn partner(s: Section<'_, '_>, around: &mut Surroundings) -> Option<Partner> {
    const ROLES: &[(&str, Role)] = &[
        ("source", Role::Source),
        ("target", Role::Target),
        ("coordinator", Role::Coordinator),
        ("operator", Role::Operator),
        ("auditor", Role::Auditor),
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
    let webhook_secret = s.has("webhook_secret").then(|| s.read("webhook_secret", webhook_secret)).flatten();
    let identifiers: Vec<_> = s.tables("identifiers").iter().map(identifier).collect();
    let credentials = s.table("credentials").map(|s| credentials(&s, around));
    let certificates = s.items("certificates", "an array of strings").and_then(|items| {
        let read = items.into_iter().map(|item| {
            let at = item.at.clone();
            let certified = s.text(item, certified)?;
            s.unique_at(&mut around.certificates, &at, format!("{certified:?}"));
            Some(certified)
        });
        // Every one is read before the first bad one makes the list `None`.
        read.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    if certificates.as_ref().is_some_and(|list| !list.is_empty()) && !around.certificates_demanded {
        s.fault("certificates", "need server.tls.client_ca");
    }
    let scopes = s.list("scopes", scope).map(|list| {
        let at = s.place("scopes");
        ScopeList { list, key: at.key, line: at.line }
    });
    let fhir = s.table("fhir").map(|s| fhir(&s, around));
    let channel = s.read("channel", one_of(CHANNELS));
    let services = s.tables("services");
    let services: Vec<_> = services.iter().map(|s| service(s, around)).collect();
    let agreement = s.table("agreement").map(|s| agreement(&s));
    let receives: Vec<_> = s.tables("receives").iter().map(received).collect();

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
        if s.has("agreement") && !roles.contains(&Role::Target) {
            s.fault("agreement", "is for targets only");
        }
        if s.has("receives") && !roles.contains(&Role::Target) {
            s.fault("receives", "is for targets only");
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
        webhook_secret,
        identifiers: identifiers.into_iter().collect::<Option<_>>()?,
        credentials: credentials.flatten(),
        certificates: certificates?,
        scopes,
        fhir: fhir.flatten(),
        channel,
        services: services.into_iter().collect::<Option<_>>()?,
        agreement: agreement.flatten(),
        receives: receives.into_iter().collect::<Option<_>>()?,
    })
}

pub(super) fn identifier(s: &Section<'_, '_>) -> Option<Identifier> {
    let (system, value) = (s.read("system", text), s.read("value", text));
    let (system, value) = (system?, value?);
    Some(Identifier { system, value })
}

pub(super) fn credentials(s: &Section<'_, '_>, around: &mut Surroundings) -> Option<Credentials> {
    if ["bearer_sha256", "jwks", "jwks_url"].iter().filter(|key| s.has(key)).count() != 1 {
        s.reader.fault(&s.at, "must have exactly one of bearer_sha256, jwks, jwks_url");
    }
    let hash = s.read("bearer_sha256", sha256);
    if let Some(hash) = &hash {
        s.unique(&mut around.tokens, "bearer_sha256", format!("{hash:?}"));
    }
    let key_set = |text: &str| KeySet::parse(text).map_err(str::to_owned);
    let direct = |v: &DeValue<'_>| match v {
        DeValue::String(text) => Some(key_set(text)),
        DeValue::Table(_) => Some(key_set(&json(v).to_string())),
        _ => None,
    };
    let jwks = s.item("jwks");
    let jwks = jwks.and_then(|item| s.check(item, "a table or a string", direct, key_set));
    let jwks_url = s.read("jwks_url", |t| partner_url(t, around.private_allowed));
    let (jwks, jwks_url) = (jwks.map(Credentials::Jwks), jwks_url.map(Credentials::JwksUrl));
    hash.map(Credentials::BearerSha256).or(jwks).or(jwks_url)
}

pub(super) fn fhir(s: &Section<'_, '_>, around: &mut Surroundings) -> Option<Fhir> {
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
    let tls = s.table("tls").map(|s| client_tls(&s));
    if tls.is_some() && base.as_ref().is_some_and(|base| base.starts_with("http:")) {
        s.fault("tls", "needs a base with https");
    }
    let timeout = s.read("timeout", |t| between(t, SECOND..=MINUTE * 5, "must be between 1s and 5m"));
    let concurrency = s.number("concurrency");
    if concurrency.is_some_and(|many| many > MOST_AT_A_TIME) {
        s.fault("concurrency", format!("must be at most {MOST_AT_A_TIME}"));
    }
    let requests_per_minute = s.number("requests_per_minute");
    let tls = match tls {
        Some(tls) => Some(tls?),
        None => None,
    };
    Some(Fhir {
        base: base?,
        follow: follow?,
        poll_every: poll_every?,
        auth: auth?,
        our_reference: our_reference.unwrap_or_else(|| around.our_reference.clone()),
        write_outcomes: write_outcomes?,
        tls,
        timeout,
        concurrency: usize::try_from(concurrency?).ok()?,
        requests_per_minute,
    })
}

/// Our certificate at a partner's server. Whether certificate and key belong together is seen where they are used.
fn client_tls(s: &Section<'_, '_>) -> Option<ClientTls> {
    let pem = |key, mark: &'static str| {
        s.read(key, move |t| {
            let text = read_file(&s.reader.folder.join(text(t)?))?;
            if text.contains(mark) { Ok(Secret(text)) } else { Err(format!("must be a PEM file with “{mark}”")) }
        })
    };
    let cert = pem("cert", "-----BEGIN CERTIFICATE-----");
    let (key, ca) = (pem("key", "PRIVATE KEY-----"), pem("ca", "-----BEGIN CERTIFICATE-----"));
    let (cert, key) = (cert?, key?);
    Some(ClientTls { cert, key, ca })
}

pub(super) fn outbound(s: &Section<'_, '_>, around: &Surroundings) -> Option<OutboundAuth> {
    // A kind and its own keys: required with that kind, wrong with any other.
    const KINDS: &[(&str, &[&str])] =
        &[("none", &[]), ("bearer", &["token"]), ("backend-services", &["client_id", "token_url", "key"])];
    let kind = s.read("kind", one_of(KINDS));
    let token = s.read("token", |t| visible(t).map(Secret));
    let client_id = s.read("client_id", text);
    let token_url = s.read("token_url", |t| partner_url(t, around.private_allowed));
    let keys = s.read("key", |t| PrivateKey::parse(t).map_err(str::to_owned));
    let scope = s.read("scope", text);
    let wanted = kind?;
    for (name, own) in KINDS {
        for key in own.iter().filter(|key| s.has(key) != wanted.contains(key)) {
            let rule = if s.has(key) { "is only for" } else { "is required with" };
            s.fault(key, format!("{rule} kind = \"{name}\""));
        }
    }
    if s.has("scope") && !wanted.contains(&"client_id") {
        s.fault("scope", "is only for kind = \"backend-services\"");
    }
    if wanted.contains(&"client_id") {
        let (client_id, token_url) = (client_id?, token_url?);
        Some(OutboundAuth::BackendServices { client_id, token_url, scope: scope?, keys: keys? })
    } else if wanted.contains(&"token") {
        Some(OutboundAuth::Bearer(token?))
    } else {
        Some(OutboundAuth::None)
    }
}

pub(super) fn service(s: &Section<'_, '_>, around: &mut Surroundings) -> Option<HealthcareService> {
    let (id, name) = (s.read("id", fhir_id), s.read("name", text));
    if let Some(id) = &id {
        s.unique(&mut around.services, "id", id.clone());
    }
    let categories = s.list("categories", category);
    Some(HealthcareService { id: id?, name: name?, categories: categories? })
}

pub(super) fn agreement(s: &Section<'_, '_>) -> Option<Agreement> {
    let (from, until) = (s.read("from", day), s.read("until", day));
    let (from, until) = (from?, until?);
    if until < from {
        s.fault("until", "must not be before from");
    }
    Some(Agreement { from, until })
}

pub(super) fn received(s: &Section<'_, '_>) -> Option<Receives> {
    let (kind, elements) = (s.read("type", text), s.list("elements", text));
    Some(Receives { kind: kind?, elements: elements?, key: s.at.key.clone(), line: s.at.line })
}
