//! What it costs to be safe: P17, a token's check, in this process; P23, all of authentication, validation, audit and
//! outbox beside a create's CPU time. The last two are taken from the bare server, once with those rows and once without.

use std::hint::black_box;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use loopgate::app::{App, TokenRequest};
use loopgate::config::Config;
use loopgate::fhir::Resource;
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::validate::check;
use loopgate::gateway::Gateway;
use loopgate::id;
use loopgate::jwt::{Assertion, KeySet, PrivateKey};
use loopgate::time::Clock;
use serde_json::json;

use super::checks::{cpu, each};
use super::client::Until;
use super::goals::{Size, always, file};
use super::product::Product;
use super::runner::{Report, Server, median, middle};

/// A gateway in this process, an access token of its partner `app`, and what one asymmetric verification costs.
async fn with_token(folder: &Path) -> (App, String, f64) {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let key = PrivateKey::parse(&format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"))
        .unwrap()
        .remove(0);
    let set = json!({"keys": [key.public]}).to_string();
    let toml = format!(
        "[server]\npublic_url = \"https://hub.bench\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"sqlite://{}\"\n\
         [auth]\ntoken_lifetime = \"1h\"\n[[partner]]\nid = \"app\"\nname = \"App\"\nroles = [\"source\"]\n\
         credentials = {{ jwks = '{set}' }}\n",
        file(folder, "token.db")
    );
    let config = Config::parse(&toml, Path::new(".")).unwrap();
    let app = Gateway::open(config, Clock::system()).await.unwrap().app;
    let now = app.now().seconds();
    let claims =
        json!({"iss": "app", "sub": "app", "aud": "https://hub.bench/auth/token", "exp": now + 200, "jti": id::new()});
    let assertion = key.sign(&claims).unwrap();
    let set = KeySet::parse(&set).unwrap();
    let verify = each(200, || {
        let assertion = Assertion::read(&assertion).unwrap();
        black_box(assertion.verify(&set).unwrap());
    });
    let request = TokenRequest {
        grant_type: Some("client_credentials".into()),
        scope: Some("system/Task.cruds system/ServiceRequest.cruds system/Procedure.rs".into()),
        client_assertion_type: Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into()),
        client_assertion: Some(assertion.clone()),
        certificate: Vec::new(),
    };
    let token = app.grant_token(&request).await.unwrap().token;
    (app, token, verify)
}

/// Microseconds of CPU that one check of a token takes.
async fn token_check(app: &App, token: &str, turns: u32) -> f64 {
    let before = cpu();
    for _ in 0..turns {
        assert!(black_box(app.authenticate(black_box(token)).await.unwrap()).is_some());
    }
    (cpu() - before).as_secs_f64() * 1e6 / f64::from(turns)
}

pub async fn tokens(report: &mut Report, folder: &Path, quick: bool) -> f64 {
    report.heading("P17 a token's check");
    let (app, token, verify) = with_token(folder).await;
    let turns = if quick { 50_000 } else { 200_000 };
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(token_check(&app, &token, turns).await);
    }
    let cost = median(times);
    let shown =
        format!("access token of {} bytes, {:.0}/s; one ES384 verification is {verify:.0} µs", token.len(), 1e6 / cost);
    report.line(
        "P17",
        "known key, not expired, not taken back",
        &shown,
        &format!("{cost:.2} µs"),
        "≤ 5 µs",
        cost <= 5.0,
    );
    report.note(
        "an assertion's signature is verified once, when the token is given; a token has an HMAC and no signature",
    );
    cost
}

pub async fn tax(report: &mut Report, size: &Size, folder: &Path, (ideal, product): (&Server, &Product), token: f64) {
    report.heading("P23 the safety tax of a create");
    let (kept, task) = product.kept();
    let body = always("POST", "/Task", "", &task.to_string());
    let untold = Server::bare("ideal-untold", &file(folder, "untold.db"));
    let until = Until { count: size.writes * 8, ..size.counting() };
    let (mut mine, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.rounds.max(3) {
        mine.push(product.server.round(8, &kept, until).await);
        with.push(ideal.round(8, &body, until).await);
        without.push(untold.round(8, &body, until).await);
    }
    let (mine, with, without) = (middle(mine), middle(with), middle(without));
    let resource = Resource::from_value(task).unwrap();
    let profiles = Profiles::own();
    let validation = each(20_000, || drop(black_box(check(black_box(&resource), profiles))));
    let rows = (with.cpu - without.cpu).max(0.0);
    let share = (token + validation + rows) / mine.cpu;
    let shown = format!(
        "token {token:.1} + validation {validation:.1} + audit and outbox {rows:.0} µs / a create {:.0} µs (c=8)",
        mine.cpu
    );
    report.line("P23", "create, kept", &shown, &format!("{:.0} %", share * 100.0), "≤ 40 %", share <= 0.4);
}
