//! Every setting there is: its key, its default and what it means, in one list that the reader, the README's table and
//! the tests share.

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
    row("server.trusted_proxies", "[]", "addresses of proxies in front whose X-Forwarded-For is believed"),
    row("gateway.organization.id", "required", "id of our Organization"),
    row("gateway.organization.name", "required", "name of our Organization"),
    row("store.url", "required", "sqlite://FILE or postgres://USER@HOST/DATABASE"),
    row("delivery.backoff", "[\"5s\", \"30s\", \"2m\", \"10m\", \"1h\", \"6h\", \"12h\"]", "pauses between attempts, 1 to 20; then exhausted"),
    row("delivery.jitter", "\"10%\"", "how much longer a pause may be, differently for each delivery"),
    row("delivery.timeout", "\"20s\"", "time for one attempt, 1s to 5m; a lease lasts at most twice this"),
    row("delivery.partner_addresses", "\"public_only\"", "or \"allow_private_for_tests_only\""),
    row("limits.body", "\"16MiB\"", "largest request body"),
    row("limits.depth", "100", "deepest nesting of a resource"),
    row("limits.bundle_entries", "1000", "most entries in a Bundle"),
    row("limits.string", "\"1MiB\"", "longest string"),
    row("limits.requests_per_minute", "600", "requests a minute and partner"),
    row("limits.requests_per_minute_by_address", "6000", "requests a minute and address (IPv6: 64 bits of it), before anybody is known; not for /health and /fhir/metadata"),
    row("limits.token_requests_per_minute", "120", "requests for a token a minute and address"),
    row("limits.needs_per_request", "5", "most needs sent together"),
    row("email.smtp", "required", "mail server for Subscriptions by mail (refused without this table): smtp://HOST:PORT or smtps://USER:PASSWORD@HOST"),
    row("email.from", "required", "sender's mail address"),
    row("sms.url", "required", "HTTP gateway for Subscriptions by sms (refused without this table): POST of {id, to, text} as JSON, any 2xx is taken"),
    row("sms.authorization", "none", "value of the Authorization header there, such as Bearer and a token"),
    row("consent.required", "true", "whether a referral needs a Consent"),
    row("consent.sensitive", "[\"intimate-partner-violence\"]", "categories that take a Consent which names them and the recipient"),
    row("auth.token_lifetime", "\"5m\"", "how long an access token is good for, 1s to 24h"),
    row("people.session_idle", "\"30m\"", "how long a person who does nothing stays signed in, 1m to 24h"),
    row("people.session_lifetime", "\"12h\"", "how long anybody stays signed in, up to 7d"),
    row("subscriptions.per_partner", "100", "most Subscriptions of one partner"),
    row("subscriptions.accept_past_end", "false", "take an `end` in the past as none"),
    row("subscriptions.keep_events", "\"30d\"", "how long events and tries of deliveries are kept; at least the sum of delivery.backoff"),
    row("subscriptions.key", "none", "64 hex digits that seal the headers of Subscriptions; without it a key in the database does"),
    row("validation.packages", "[]", "FHIR packages (.tgz) of guides and terminologies; profiles and codes enforced beside ours"),
    row("audit.key", "none", "64 hex digits that sign the seals of the audit record; without it seals show accidents, not whoever can write to the database"),
    row("partner.id", "required", "id of the partner and of its Organization here"),
    row("partner.name", "required", "name of its Organization"),
    row("partner.roles", "required", "any of \"source\", \"target\", \"coordinator\", \"operator\", \"auditor\""),
    row("partner.routing", "\"automatic\"", "or \"coordinator\"; sources only"),
    row("partner.require_if_match", "false", "refuse an update without If-Match"),
    row("partner.identifiers.system", "required", "namespace of a business identifier"),
    row("partner.identifiers.value", "required", "value of a business identifier"),
    row("partner.credentials.bearer_sha256", "none", "SHA-256 of its bearer token, 64 hex digits"),
    row("partner.credentials.jwks", "none", "its JWK Set, inline or as text: it gets access tokens for signed assertions (SMART Backend Services)"),
    row("partner.credentials.jwks_url", "none", "address of its JWK Set"),
    row("partner.certificates", "[]", "SHA-256 of its client certificates, 64 hex digits each: it comes with one of them, and nobody else does (needs server.tls.client_ca)"),
    row("partner.scopes", "none", "narrows the scopes its roles grant"),
    row("partner.fhir.base", "required", "base address of its FHIR server"),
    row("partner.fhir.follow", "\"auto\"", "or \"subscribe\", \"poll\""),
    row("partner.fhir.poll_every", "\"1h\"", "pause between polls while something is open, at least 15m; 5m while it is urgent"),
    row("partner.fhir.auth.kind", "\"none\"", "or \"bearer\" (token), \"backend-services\" (client_id, token_url, key)"),
    row("partner.fhir.auth.token", "none", "our bearer token there"),
    row("partner.fhir.auth.client_id", "none", "our client id there"),
    row("partner.fhir.auth.token_url", "none", "its token endpoint"),
    row("partner.fhir.auth.key", "none", "our private keys as PEM: the first signs, all are published at {public_url}/auth/jwks"),
    row("partner.fhir.auth.scope", "\"system/*.cruds\"", "what we ask its token endpoint for"),
    row("partner.fhir.our_reference", "{public_url}/fhir/Organization/{gateway.organization.id}", "how its Tasks name us in owner"),
    row("partner.fhir.write_outcomes", "\"reference\"", "or \"create\""),
    row("partner.fhir.tls.cert", "required", "PEM file with our client certificate there, and its chain (mutual TLS)"),
    row("partner.fhir.tls.key", "required", "PEM file with its private key"),
    row("partner.fhir.tls.ca", "none", "PEM file with the authorities its server's certificate comes from, in place of the public ones"),
    row("partner.fhir.timeout", "{delivery.timeout}", "time for one request there, 1s to 5m"),
    row("partner.fhir.concurrency", "4", "most requests at a time there, from one gateway, 1 to 64"),
    row("partner.fhir.requests_per_minute", "none", "most requests a minute there, from one gateway, evenly spread"),
    row("partner.channel", "none", "how a referral reaches it: \"fhir\" or \"light\"; targets need one"),
    row("partner.services.id", "required", "id of a HealthcareService; targets only"),
    row("partner.services.name", "required", "its name"),
    row("partner.services.categories", "[]", "its SDOH category codes"),
    row("partner.agreement.from", "required", "first day of an agreement by which referrals that name no Consent may be passed on to this target; never sensitive ones"),
    row("partner.agreement.until", "required", "its last day; what rests on it ends with it"),
    row("partner.receives.type", "required", "a type of which this target gets a part alone, whoever's it is but its own; any but Task"),
    row("partner.receives.elements", "required", "the elements it gets, beside those that are mandatory or change the meaning"),
];
