//! The interface's example, the least there can be, and every fault with its key and line.

use std::path::Path;

use toml::de::DeValue;

use super::values::*;
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
[sms]
url = "https://sms.example/send"
authorization = "Bearer s3cret-sms"
[consent]
required = true
[auth]
token_lifetime = "5m"
[people]
session_idle = "20m"
[people.provider]
issuer = "https://login.example/"
client_id = "hub"
client_secret = "s3cret-login"
roles = [{ value = "desk", role = "coordinator" }, { value = "a", role = "staff", partner = "hope-foodbank" }]
[subscriptions]
per_partner     = 100
accept_past_end = false
[[partner]]
id           = "mercy-clinic"
name         = "Mercy Clinic"
roles        = ["source"]
routing      = "coordinator"
require_if_match = false
webhook_secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
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
            ["partner", list @ ("identifiers" | "services" | "receives"), key] => {
                partner_with(&format!("{list} = [{{ {key} = 1979-05-27 }}]"))
            }
            ["people", "provider", "roles", key] => format!("people.provider.roles = [{{ {key} = 1979-05-27 }}]"),
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
            // S-132
            ("[subscriptions]\nkeep_events = \"1h\"", "line 6: subscriptions.keep_events: must be at least the sum of delivery.backoff"),
            ("[auth]\ntoken_lifetime = \"25h\"", "line 6: auth.token_lifetime: must be between 1s and 24h"),
            ("[sms]\nauthorization = \"x\"", "line 5: sms.url: is required"),
            ("[sms]\nurl = \"http://sms.example/\"", "line 6: sms.url: must be https (http needs delivery.partner_addresses = \"allow_private_for_tests_only\")"),
            ("[sms]\nurl = \"https://sms.example/\"\nauthorization = \" x\"", "line 7: sms.authorization: must be visible ASCII, not empty, without spaces at its ends"),
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

// What rests on a day that never comes would never end, or never begin.
#[test]
fn a_day_is_one_of_the_calendar() {
    use super::values::day;
    for good in ["2026-01-31", "2028-02-29", "2000-02-29", "2026-12-31"] {
        assert_eq!(day(good).as_deref(), Ok(good));
    }
    for bad in ["2026-02-30", "2026-02-29", "2100-02-29", "2026-04-31", "2026-13-01", "2026-00-10", "2026-01-00"] {
        assert!(day(bad).unwrap_err().contains("calendar"), "{bad}");
    }
    for bad in ["2026-1-1", "26-01-01", "2026-01", "2026-01-01T00:00:00Z", "2026-01-1T", "+026-01-01", ""] {
        assert!(day(bad).unwrap_err().contains("calendar"), "{bad}");
    }
}

// G-135
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
            ("scopes = [\"a b\"]", "scopes[0]", "must be a scope such as system/Task.rs, system/*.read, system/Task.r?status=requested"),
            ("certificates = [\"dns:*.example.org\"]", "certificates[0]", "must be dns: and a whole name in small letters, such as dns:ehr.example.org"),
            ("certificates = [\"dns:org\"]", "certificates[0]", "must be dns: and a whole name in small letters, such as dns:ehr.example.org"),
            ("certificates = [\"ip:192.0.2\"]", "certificates[0]", "must be ip: and an address, such as ip:192.0.2.7"),
            ("certificates = [\"uri:ehr\"]", "certificates[0]", "must be uri: and a URI, such as uri:spiffe://example.org/ehr"),
            ("certificates = [\"12\"]", "certificates[0]", "must be 64 hex digits"),
            ("certificates = [\"0000000000000000000000000000000000000000000000000000000000000000\"]", "certificates", "need server.tls.client_ca"),
            ("credentials = {}", "credentials", "must have exactly one of bearer_sha256, jwks, jwks_url"),
            ("credentials = { bearer_sha256 = \"+1\" }", "credentials.bearer_sha256", "must be 64 hex digits"),
            ("credentials = { jwks = { key = [] } }", "credentials.jwks", "must be a JWK Set: an object with keys"),
            ("credentials = { jwks = \"{\" }", "credentials.jwks", "must be a JWK Set as JSON"),
            ("credentials = { jwks = { keys = [{ kty = \"EC\", d = \"s3cret\" }] } }", "credentials.jwks", "must hold public keys only; this one shows a private key, which is lost with it"),
            ("credentials = { jwks_url = \"http://x\" }", "credentials.jwks_url", "must be https (http needs delivery.partner_addresses = \"allow_private_for_tests_only\")"),
            ("fhir = {}", "fhir.base", "is required"),
            ("fhir = { base = \"http://x\" }", "fhir.base", "must be https (http needs delivery.partner_addresses = \"allow_private_for_tests_only\")"),
            ("fhir = { base = \"http://127.0.0.1:8080/fhir/\" }\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\"", "fhir.base", "must differ from the gateway's own base"),
            ("fhir = { base = \"https://x\",\n follow = \"me\" }", "fhir.follow", "must be one of [\"subscribe\", \"poll\", \"auto\"]"),
            // S-223
            ("fhir = { base = \"https://x\", poll_every = \"14m\" }", "fhir.poll_every", "must be at least 15m"),
            ("fhir = { base = \"https://x\", timeout = \"6m\" }", "fhir.timeout", "must be between 1s and 5m"),
            ("fhir = { base = \"https://x\", concurrency = 65 }", "fhir.concurrency", "must be at most 64"),
            ("fhir = { base = \"https://x\", requests_per_minute = 0 }", "fhir.requests_per_minute", "must be a positive integer of at most 4294967295"),
            (concat!("fhir = { base = \"https://x\", tls = { cert = \"", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml\", key = \"", env!("CARGO_MANIFEST_DIR"), "/tests/it/keys/client.pem\" } }"), "fhir.tls.cert", "must be a PEM file with “-----BEGIN CERTIFICATE-----”"),
            (concat!("fhir = { base = \"http://x\", tls = { cert = \"", env!("CARGO_MANIFEST_DIR"), "/tests/it/keys/client.pem\", key = \"", env!("CARGO_MANIFEST_DIR"), "/tests/it/keys/client.pem\" } }\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\""), "fhir.tls", "needs a base with https"),
            ("fhir = { base = \"https://x\", auth = { kind = \"bearer\" } }", "fhir.auth.token", "is required with kind = \"bearer\""),
            ("fhir = { base = \"https://x\", auth = { token = \"t\" } }", "fhir.auth.token", "is only for kind = \"bearer\""),
            ("fhir = { base = \"https://x\", auth = { kind = \"bearer\", token = \"s3cret\\r\\nX: y\" } }", "fhir.auth.token", "must be visible ASCII without spaces, and not empty"),
            ("fhir = { base = \"https://x\", auth = { kind = \"backend-services\", client_id = \"c\", token_url = \"https://x/t\", key = \"k\" } }", "fhir.auth.key", "must be PEM with private keys: EC on P-384, or RSA of at least 2048 bits"),
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
            "line 18: partner[2] (a).roles[1]: must be one of [\"source\", \"target\", \"coordinator\", \"operator\", \"auditor\"]",
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
