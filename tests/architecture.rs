//! The arrows of the design, checked: which module may import which, which outside crate belongs to
//! which module, and what a file must or must not hold.
//!
//! It reads `src/**/*.rs`, `tests/**/*.rs` and `Cargo.toml` as text. It promises one line per fault,
//! `file:line: rule`, all of them at once. It leaves out types and macro expansion: an alias such as
//! `use std::time::Instant as I` goes unseen. The compiler and the reader see to the rest.
//!
//! Test modules (`#[cfg(test)]` items, and files named `tests.rs`) are exempt from the arrows and fences.
//! The other rules hold there too.

use std::fs;
use std::io;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Which module stands in which layer.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["error", "id", "time", "jwt", "config"]),
    (1, &["fhir"]),
    (2, &["referral", "mapping", "directory"]),
    (3, &["store"]),
    (4, &["app"]),
    (5, &["http", "console", "delivery"]),
    (6, &["gateway", "main", "telemetry", "demo", "check", "lib"]),
];

/// Arrows that the layer numbers alone would allow, and that are forbidden all the same.
const FORBIDDEN: &[(&str, &str)] =
    &[("fhir", "config"), ("store", "mapping"), ("http", "store"), ("console", "store"), ("delivery", "store")];

/// The arrows inside a layer: `check-config` must say what is wrong with a key set, or a day.
const ALLOWED: &[(&str, &str)] = &[("config", "jwt"), ("config", "time")];

/// An outside crate and the modules it belongs to. The reason stands in `Cargo.toml`.
const FENCES: &[(&str, &[&str])] = &[
    ("axum", &["http", "console", "gateway", "demo"]),
    ("hyper", &["gateway"]),
    ("hyper_util", &["gateway"]),
    ("reqwest", &["delivery", "demo"]),
    ("lettre", &["delivery"]),
    ("sqlx", &["store"]),
    ("rusqlite", &["store"]),
    ("uuid", &["id"]),
    ("jiff", &["time"]),
    ("unicode_normalization", &["fhir"]),
    ("toml", &["config"]),
    ("jsonwebtoken", &["jwt"]),
    ("quick_xml", &["fhir"]),
    ("base64", &["jwt", "fhir", "app"]),
    ("argon2", &["app"]),
    ("clap", &["main"]),
    ("governor", &["http"]),
    ("regex", &["fhir"]),
    ("flate2", &["fhir"]),
    ("zstd", &["store"]),
    ("tracing_subscriber", &["telemetry"]),
];

/// Types whose `now` reads the clock.
const CLOCKS: &[&str] = &["SystemTime", "Instant", "Timestamp", "Zoned"];

/// No async, no runtime, no SQL: the library without doors.
const PURE: &[&str] = &["fhir", "referral", "mapping", "directory"];

const EMPTY_NAMES: &[&str] = &["manager", "service", "handler", "helper", "util", "common", "data", "info", "process"];

/// File names that end in one of the words above because FHIR says so.
const STANDARD_NAMES: &[&str] = &["healthcare_service"];

// ---------------------------------------------------------------------------------------------- the tests

#[test]
fn the_tree_keeps_its_rules() -> io::Result<()> {
    let mut files = Vec::new();
    read_rust_files(Path::new(ROOT), "src", &mut files)?;
    read_rust_files(Path::new(ROOT), "tests", &mut files)?;
    assert!(
        files.iter().any(|(path, _)| path == "src/main.rs")
            && files.iter().any(|(path, _)| path == "tests/architecture.rs"),
        "found no source below {ROOT}: this test would pass whatever it holds"
    );
    let faults: Vec<String> = files.iter().flat_map(|(path, text)| check_file(path, text)).collect();
    assert!(faults.is_empty(), "{} fault(s):\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

#[test]
fn every_dependency_has_its_reason() -> io::Result<()> {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml"))?;
    let (dependencies, faults) = check_manifest(&manifest);
    assert!(dependencies > 0, "found no dependency: this test would pass whatever Cargo.toml holds");
    assert!(faults.is_empty(), "{} fault(s):\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

/// The layer table of the design, written out arrow by arrow: the tables above may not drift from it.
#[test]
fn the_arrows_are_those_of_the_design() {
    const LOW: &[&str] = &["error", "id", "time", "jwt", "config"];
    let expected = |from: &str, to: &str| match from {
        "config" => to == "jwt" || to == "time",
        "error" | "id" | "time" | "jwt" => false,
        "fhir" => ["error", "id", "time", "jwt"].contains(&to),
        "referral" | "mapping" | "directory" => LOW.contains(&to) || to == "fhir",
        "store" => LOW.contains(&to) || ["fhir", "referral", "directory"].contains(&to),
        "app" => {
            LOW.contains(&to) || PURE.contains(&to) || to == "store" // mapping is in PURE
        }
        "http" | "console" | "delivery" => LOW.contains(&to) || PURE.contains(&to) || to == "app",
        _ => true,
    };
    let modules = || LAYERS.iter().flat_map(|(_, names)| names.iter());
    for from in modules() {
        for to in modules().filter(|to| *to != from) {
            assert_eq!(may_import(from, to), expected(from, to), "{from} -> {to}");
        }
    }
}

/// Each of these must fail, at this line, for this reason.
#[test]
fn the_checker_finds_what_it_must() {
    let cases: &[(&str, &str, usize, &str)] = &[
        // Arrows.
        ("src/fhir/bundle.rs", "use crate::store::Store;", 2, "fhir may not import store"),
        ("src/fhir/bundle.rs", "use crate::config::Config;", 2, "fhir may not import config"),
        ("src/fhir.rs", "\nfn f() { crate::app::go() }", 3, "fhir may not import app"),
        ("src/error.rs", "use crate::id::Id;", 2, "error may not import id"),
        ("src/time.rs", "use super::config::Config;", 2, "time may not import config"),
        ("src/referral/decide.rs", "use super::super::directory::Slot;", 2, "referral may not import directory"),
        (
            "src/mapping/jq.rs",
            "use crate::{\n    fhir::Resource,\n    referral::{Status, Command},\n};",
            4,
            "mapping may not import referral",
        ),
        ("src/store/mod.rs", "use crate::mapping::Registry;", 2, "store may not import mapping"),
        ("src/store/mod.rs", "use crate::app;", 2, "store may not import app"),
        ("src/app/polls.rs", "use crate::http::routes;", 2, "app may not import http"),
        ("src/http/routes.rs", "use crate::store::Store;", 2, "http may not import store"),
        ("src/http/routes.rs", "use crate::delivery::Worker;", 2, "http may not import delivery"),
        (
            "src/console/queue.rs",
            "mod inner {\n    use super::super::super::http::x;\n}",
            3,
            "console may not import http",
        ),
        ("src/delivery/worker.rs", "use crate::telemetry::Metrics;", 2, "delivery may not import telemetry"),
        ("src/app/polls.rs", "use crate::Error;", 2, "crate::Error is no module of the layer table"),
        ("src/app/polls.rs", "use crate::*;", 2, "imports the whole crate"),
        ("src/mailbox.rs", "", 1, "module mailbox is not in the layer table"),
        // A test item does not open the door for what follows it.
        ("src/fhir/x.rs", "#[cfg(test)]\nuse crate::app::A;\nuse crate::app::B;", 4, "fhir may not import app"),
        (
            "src/fhir/x.rs",
            "#[cfg(test)]\nmod tests { fn f() { {} } }\nuse crate::app::B;",
            4,
            "fhir may not import app",
        ),
        // Strings and comments do not hide what follows them.
        (
            "src/fhir/x.rs",
            "const A: &str = r#\"//\"\"#; const B: char = '\"'; const C: &str = \"\\\"\"; use crate::app::B;",
            2,
            "fhir may not import app",
        ),
        (
            "src/fhir/x.rs",
            "/* /* */ */ fn f<'a>(c: &'a str) { crate::app::g(c, b'\\'', '/') }",
            2,
            "fhir may not import app",
        ),
        // Fences.
        ("src/app/polls.rs", "use axum::Router;", 2, "axum belongs to http, console, gateway, demo"),
        ("src/http/auth.rs", "use reqwest::Client;", 2, "reqwest belongs to delivery, demo"),
        ("src/app/polls.rs", "type E = sqlx::Error;", 2, "sqlx belongs to store"),
        ("src/app/polls.rs", "use {sqlx::Error as E, std::fmt};", 2, "sqlx belongs to store"),
        ("src/app/polls.rs", "use sqlx as database;", 2, "sqlx belongs to store"),
        ("src/store/mod.rs", "use jiff::Timestamp;", 2, "jiff belongs to time"),
        ("src/store/mod.rs", "use uuid::Uuid;", 2, "uuid belongs to id"),
        ("src/store/mod.rs", "let id = Uuid::now_v7();", 2, "random ids belong to id.rs"),
        ("src/store/mod.rs", "let id = Uuid::new_v4();", 2, "random ids belong to id.rs"),
        ("src/app/polls.rs", "use std::{env, fs};", 2, "std::env belongs to config"),
        ("src/app/polls.rs", "let home = ::std::env::var(\"HOME\");", 2, "std::env belongs to config"),
        ("src/main.rs", "let a = std::env::args();", 2, "std::env belongs to config"),
        ("src/app/polls.rs", "let t = std::time::SystemTime::now();", 2, "the clock belongs to time.rs"),
        ("src/delivery/worker.rs", "let t = tokio::time::Instant::now();", 2, "the clock belongs to time.rs"),
        ("src/http/auth.rs", "let t = Timestamp::now();", 2, "the clock belongs to time.rs"),
        ("src/config.rs", "let t = jiff::Zoned::now();", 2, "the clock belongs to time.rs"),
        // The pure modules.
        ("src/fhir/path.rs", "async fn f() {}", 2, "fhir is pure: no async"),
        ("src/referral/decide.rs", "fn f() {\n    g().await\n}", 3, "referral is pure: no await"),
        ("src/mapping/jq.rs", "use tokio::sync::mpsc;", 2, "mapping is pure: no tokio"),
        ("src/directory/hsds.rs", "use sqlx::Row;", 2, "directory is pure: no sqlx"),
        ("src/referral/decide.rs", "const Q: &str = \"\n  select id from task\";", 2, "SQL belongs to store"),
        ("src/app/polls.rs", "const Q: &str = \"update task set status = $1\";", 2, "SQL belongs to store"),
        ("src/console/queue.rs", "const Q: &str = r\"INSERT INTO task (id) values ($1)\";", 2, "SQL belongs to store"),
        (
            "src/http/auth.rs",
            "const Q: &str = \"with due as (select 1) select * from due\";",
            2,
            "SQL belongs to store",
        ),
        // HTTP below layer 5.
        ("src/error.rs", "fn f() -> StatusCode {}", 2, "no HTTP types below layer 5: StatusCode"),
        ("src/app/polls.rs", "use http::HeaderMap;", 2, "no HTTP types below layer 5: http"),
        ("src/store/mod.rs", "use axum::body::Body;", 2, "no HTTP types below layer 5: axum"),
        // What nothing may hold, tests included.
        ("src/app/polls.rs", "fn f() { todo!() }", 2, "no todo!"),
        (
            "src/app/polls.rs",
            "#[cfg(test)]\nmod tests { fn f() { unimplemented!(\"later\") } }",
            3,
            "no unimplemented!",
        ),
        ("tests/it/main.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}", 3, "no ignored test"),
        ("tests/it/main.rs", "#[cfg_attr(ci, ignore)]\nfn f() {}", 2, "no ignored test"),
        // Names.
        ("src/app/delivery_manager.rs", "", 1, "delivery_manager says nothing"),
        ("src/fhir/utils.rs", "", 1, "utils says nothing"),
        ("src/app/handlers/task.rs", "", 1, "handlers says nothing"),
        ("tests/it/common.rs", "", 1, "common says nothing"),
        ("src/app/polls.rs", "mod process {}", 2, "process says nothing"),
        ("src/app/polls.rs", "pub struct Info;", 2, "Info says nothing"),
        ("src/app/polls.rs", "pub(crate) enum Data {}", 2, "Data says nothing"),
        ("src/app/polls.rs", "trait Service {}", 2, "Service says nothing"),
    ];
    for (path, code, line, rule) in cases {
        let faults = check_file(path, &format!("//! Opens well.\n{code}\n"));
        let expected = format!("{path}:{line}: ");
        assert!(
            faults.iter().any(|fault| fault.starts_with(&expected) && fault.contains(rule)),
            "{path}: {code:?}\n  expected {expected}…{rule}\n  found {faults:?}"
        );
    }
    for opening in ["", "\n//! Too late.", "// Not inner.", "use std::fmt;"] {
        let faults = check_file("src/id.rs", opening);
        assert!(
            faults.iter().any(|fault| fault.starts_with("src/id.rs:1: ") && fault.contains("//!")),
            "{opening:?}: {faults:?}"
        );
    }
}

/// Each of these must pass: a checker that cries wolf is switched off.
#[test]
fn the_checker_leaves_good_code_alone() {
    let cases: &[(&str, &str)] = &[
        ("src/fhir/bundle.rs", "use crate::error::Error;\nuse crate::fhir::Resource;\nuse super::resource::Resource;"),
        (
            "src/fhir/mod.rs",
            "pub(crate) mod path;\npub(in crate::fhir) fn f() {}\nuse self::path::Path;\nuse super::time::Instant;",
        ),
        (
            "src/store/mod.rs",
            "use crate::{error::Error, fhir::{self, Resource}, referral, directory};\nuse sqlx::Row;\nconst Q: &str = \"select id from task\";",
        ),
        (
            "src/app/polls.rs",
            "use crate::store::Store;\nuse crate::mapping::Registry;\nuse crate::referral::{decide, Status as S};",
        ),
        (
            "src/http/routes.rs",
            "use axum::http::StatusCode;\nuse crate::app::referrals;\nuse crate::config::Limits;\nuse super::extract::Query;",
        ),
        ("src/delivery/client.rs", "use reqwest::StatusCode;\nasync fn f() { g().await }"),
        ("src/gateway.rs", "use crate::{http, console, delivery, store::Store};\nuse axum::Router;"),
        ("src/main.rs", "use clap::Parser;\nuse loopgate::gateway;"),
        ("src/config.rs", "use std::env;\nlet toml = toml::from_str(text);"),
        ("src/time.rs", "let t = jiff::Timestamp::now();"),
        ("src/id.rs", "let id = uuid::Uuid::now_v7();"),
        // Comments, strings, lifetimes, characters.
        (
            "src/fhir/path.rs",
            "// use crate::store::Store; todo!()\n/* async /* sqlx */ tokio */\n/// `SystemTime::now`\nconst A: &str = \"crate::app async .await Uuid::new_v4()\";",
        ),
        (
            "src/fhir/path.rs",
            "fn f<'a>(x: &'a str) -> char { let r#async = '\"'; 'x' }\nconst B: &[u8] = br##\"use crate::app::\"# todo!()\"##;",
        ),
        // FHIRPath and plain words are no SQL.
        (
            "src/fhir/path.rs",
            "const A: &str = \"select(code) from\"; const B: &str = \"Select a target from the list\"; const C: &str = \"update the set\";",
        ),
        // Test modules may look further.
        (
            "src/fhir/path.rs",
            "#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::app::x;\n    fn f() { let t = std::time::Instant::now(); }\n}",
        ),
        ("src/fhir/path.rs", "#[cfg(all(test, unix))]\n#[allow(unused)]\nmod tests {\n    use crate::store::x;\n}"),
        ("src/fhir/tests.rs", "use crate::store::x;"),
        // Words that only look like it.
        (
            "src/fhir/metadata.rs",
            "struct HealthcareService;\nstruct InfoTable;\nlet todo = 1; if todo != 2 {}\nfn ignore() {}",
        ),
        ("src/directory/healthcare_service.rs", "let http = 1; let x = row.axum;"),
        ("tests/it/main.rs", "use std::env;\nasync fn f() { reqwest::get(base).await }"),
    ];
    for (path, code) in cases {
        let faults = check_file(path, &format!("//! Opens well.\n{code}\n"));
        assert!(faults.is_empty(), "{path}: {code:?}\n  found {faults:?}");
    }
}

#[test]
fn the_manifest_check_finds_what_it_must() {
    let good = "[package]\nname = \"x\"\n\n[dependencies]\n# Why a.\na = \"1\"\nb = { version = \"1\", features = [\n  \"x\",\n] }\nc = \"1\"\n\n[dev-dependencies]\n# Why d.\nd = \"1\"\n# Why e.\n[dependencies.e]\nversion = \"1\"\n[lints.rust]\nf = \"warn\"\n";
    assert_eq!(check_manifest(good), (5, Vec::new()));
    for (manifest, line, name) in [
        ("[dependencies]\na = \"1\"\n", 2, "a"),
        ("[dependencies]\n# Why a.\na = \"1\"\n\nb = \"1\"\n", 5, "b"),
        ("[dependencies]\n#\na = \"1\"\n", 3, "a"),
        ("[dependencies]\n# Why.\n\na = \"1\"\n", 4, "a"),
        ("# Why.\n[dev-dependencies]\na = \"1\"\n", 3, "a"),
        ("[target.'cfg(unix)'.dependencies]\na.version = \"1\"\n", 2, "a"),
        ("[dependencies.a]\nversion = \"1\"\n", 1, "a"),
        ("[build-dependencies]\na = \"1\"\n", 2, "a"),
    ] {
        let (_, faults) = check_manifest(manifest);
        let expected = format!("Cargo.toml:{line}: {name} has no reason");
        assert!(
            faults.len() == 1 && faults.iter().all(|fault| fault.starts_with(&expected)),
            "{manifest:?}\n  expected {expected}\n  found {faults:?}"
        );
    }
}

// ---------------------------------------------------------------------------------------------- the rules

/// Everything one file does wrong. `path` is relative to the crate, with forward slashes.
fn check_file(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut faults = Faults { path, found: Vec::new() };
    check_names(path, &tokens, &mut faults);
    check_leftovers(&tokens, &mut faults);
    if let Some(inside) = path.strip_prefix("src/") {
        if !text.starts_with("//!") {
            faults.add(1, "a file opens with //!: what it is for, what it promises");
        }
        let file_module = module_path(inside);
        let top = file_module.first().map_or_else(|| inside.trim_end_matches(".rs"), String::as_str);
        match layer(top) {
            Some(layer) => check_arrows(top, layer, &file_module, &tokens, &mut faults),
            None => faults.add(1, format!("module {top} is not in the layer table")),
        }
    }
    faults.found.sort();
    faults.found.dedup();
    faults.found.into_iter().map(|(line, rule)| format!("{path}:{line}: {rule}")).collect()
}

struct Faults<'a> {
    path: &'a str,
    found: Vec<(usize, String)>,
}

impl Faults<'_> {
    fn add(&mut self, line: usize, rule: impl Into<String>) {
        self.found.push((line, rule.into()));
    }
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(_, names)| names.contains(&module)).map(|(layer, _)| *layer)
}

fn may_import(from: &str, to: &str) -> bool {
    match (layer(from), layer(to)) {
        _ if from == to || ALLOWED.contains(&(from, to)) => true,
        (Some(6), Some(_)) => true,
        (Some(from_layer), Some(to_layer)) => to_layer < from_layer && !FORBIDDEN.contains(&(from, to)),
        _ => false,
    }
}

/// `fhir/path.rs` is `[fhir, path]`; `fhir/mod.rs` and `fhir.rs` are `[fhir]`; the crate roots are `[]`.
fn module_path(inside_src: &str) -> Vec<String> {
    let mut parts: Vec<String> = inside_src.trim_end_matches(".rs").split('/').map(String::from).collect();
    let is_root = parts.len() == 1 && parts.iter().all(|part| part == "main" || part == "lib");
    if is_root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

fn check_arrows(top: &str, own_layer: u8, file_module: &[String], tokens: &[Token], faults: &mut Faults) {
    let in_test = mark_tests(faults.path, tokens);
    let pure = PURE.contains(&top);

    for (index, token) in tokens.iter().enumerate() {
        if in_test.get(index).copied().unwrap_or(false) {
            continue;
        }
        match token.kind {
            Kind::Text if top != "store" && is_sql(&token.text) => {
                faults.add(token.line, "SQL belongs to store");
            }
            Kind::Word if pure && ["async", "await", "tokio", "sqlx"].contains(&&*token.text) => {
                faults.add(token.line, format!("{top} is pure: no {}", token.text));
            }
            Kind::Word
                if own_layer < 5
                    && ["StatusCode", "HeaderMap", "HeaderName", "HeaderValue"].contains(&&*token.text) =>
            {
                faults.add(token.line, format!("no HTTP types below layer 5: {}", token.text));
            }
            Kind::Word | Kind::Text | Kind::Mark => {}
        }
    }

    for path in paths(file_module, tokens) {
        if in_test.get(path.index).copied().unwrap_or(false) {
            continue;
        }
        let names: Vec<&str> = path.names.iter().map(String::as_str).collect();
        let line = path.line;

        if own_layer < 6
            && let Some(target) = target_in_crate(&path)
            && target != top
        {
            if target == "*" || target == "self" {
                faults.add(line, "imports the whole crate: name the module");
            } else if layer(&target).is_none() {
                faults.add(
                    line,
                    format!("crate::{target} is no module of the layer table: import it from the module that owns it"),
                );
            } else if !may_import(top, &target) {
                faults.add(line, format!("{top} may not import {target}"));
            }
        }

        if let Some(first) = names.first()
            && (names.len() > 1 || path.is_import)
        {
            if let Some((_, owners)) = FENCES.iter().find(|(name, _)| name == first)
                && !owners.contains(&top)
            {
                faults.add(line, format!("{first} belongs to {}", owners.join(", ")));
            }
            if own_layer < 5 && ["axum", "reqwest", "http", "hyper"].contains(first) {
                faults.add(line, format!("no HTTP types below layer 5: {first}"));
            }
        }
        if names.starts_with(&["std", "env"]) && top != "config" {
            faults.add(line, "std::env belongs to config");
        }
        for pair in names.windows(2) {
            if let [kind, call] = pair {
                if CLOCKS.contains(kind) && *call == "now" && top != "time" {
                    faults.add(line, "the clock belongs to time.rs");
                }
                let random = call.starts_with("new") || call.starts_with("now");
                if *kind == "Uuid" && random && top != "id" {
                    faults.add(line, "random ids belong to id.rs");
                }
            }
        }
    }
}

/// Lower case or upper case, as SQL is written; a sentence that begins with "Select" is none.
fn is_sql(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some(first) = words.first() else {
        return false;
    };
    if *first != first.to_lowercase() && *first != first.to_uppercase() {
        return false;
    }
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let at = |index: usize| lower.get(index).map_or("", String::as_str);
    match at(0) {
        "select" => lower.iter().any(|word| word == "from"),
        "with" => lower.iter().any(|word| word.ends_with("(select")),
        "insert" => at(1) == "into",
        "delete" => at(1) == "from",
        "update" => at(2) == "set" && text.contains('='),
        "create" | "drop" | "alter" => ["table", "index", "unique", "view"].contains(&at(1)),
        "pragma" => true,
        _ => false,
    }
}

fn check_leftovers(tokens: &[Token], faults: &mut Faults) {
    for (index, token) in tokens.iter().enumerate() {
        let next = |offset: usize| tokens.get(index + offset).map_or("", Token::mark);
        match (token.kind, token.text.as_str()) {
            (Kind::Word, name @ ("todo" | "unimplemented")) if next(1) == "!" && ["(", "[", "{"].contains(&next(2)) => {
                faults.add(token.line, format!("no {name}! is left in the tree"));
            }
            (Kind::Mark, "#") if next(1) == "[" => {
                let attribute: Vec<&str> = tokens
                    .iter()
                    .skip(index + 2)
                    .take_while(|token| token.mark() != "]")
                    .filter(|token| token.kind == Kind::Word)
                    .map(|token| token.text.as_str())
                    .collect();
                let ignored = match attribute.first() {
                    Some(&"ignore") => true,
                    Some(&"cfg_attr") => attribute.contains(&"ignore"),
                    _ => false,
                };
                if ignored {
                    faults.add(token.line, "no ignored test: fix it or remove it");
                }
            }
            _ => {}
        }
    }
}

fn check_names(path: &str, tokens: &[Token], faults: &mut Faults) {
    // Below `tests/` or `src/`: every folder and the file itself.
    for part in path.trim_end_matches(".rs").split('/').skip(1) {
        check_module_name(part, 1, faults);
    }
    for pair in tokens.windows(2) {
        if let [keyword, name] = pair
            && keyword.kind == Kind::Word
            && name.kind == Kind::Word
        {
            match keyword.text.as_str() {
                "mod" => check_module_name(&name.text, name.line, faults),
                "struct" | "enum" | "trait" if is_empty_word(&name.text) => {
                    faults.add(name.line, nothing_said(&name.text));
                }
                _ => {}
            }
        }
    }
}

fn check_module_name(name: &str, line: usize, faults: &mut Faults) {
    let last = name.rsplit('_').next().unwrap_or(name);
    if is_empty_word(last) && !STANDARD_NAMES.contains(&name) {
        faults.add(line, nothing_said(name));
    }
}

fn is_empty_word(word: &str) -> bool {
    let word = word.to_lowercase();
    let singular = word.strip_suffix('s').unwrap_or(&word);
    EMPTY_NAMES.contains(&word.as_str()) || EMPTY_NAMES.contains(&singular)
}

fn nothing_said(name: &str) -> String {
    format!("{name} says nothing: name it after the standard's own word")
}

/// How many dependencies there are, and which of them have no comment: directly above, or above the
/// run of lines they stand in.
fn check_manifest(text: &str) -> (usize, Vec<String>) {
    let mut faults = Vec::new();
    let mut count = 0;
    let mut in_dependencies = false;
    let mut has_reason = false;
    let mut open_brackets = 0_i64;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        let mut dependency = None;
        if open_brackets > 0 {
            open_brackets += brackets(line);
            continue;
        }
        if line.is_empty() {
            has_reason = false;
        } else if let Some(comment) = line.strip_prefix('#') {
            has_reason = !comment.trim().is_empty();
        } else if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_matches(['[', ']']);
            let (head, last) = section.rsplit_once('.').unwrap_or(("", section));
            in_dependencies = last.ends_with("dependencies");
            if head.ends_with("dependencies") {
                dependency = Some(last);
            } else {
                has_reason = false;
            }
        } else if in_dependencies {
            open_brackets += brackets(line);
            dependency = line.split(['=', '.', ' ']).next().filter(|name| !name.is_empty());
        }
        if let Some(name) = dependency {
            count += 1;
            if !has_reason {
                faults.push(format!("Cargo.toml:{}: {name} has no reason: write a comment above it", index + 1));
            }
        }
    }
    (count, faults)
}

fn brackets(line: &str) -> i64 {
    line.chars()
        .map(|character| match character {
            '[' | '{' => 1,
            ']' | '}' => -1,
            _ => 0,
        })
        .sum()
}

// ---------------------------------------------------------------------------------------------- reading Rust

fn read_rust_files(root: &Path, folder: &str, files: &mut Vec<(String, String)>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        names.push((name, entry.file_type()?.is_dir()));
    }
    names.sort();
    for (name, is_folder) in names {
        if is_folder {
            read_rust_files(root, &name, files)?;
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(root.join(&name))?;
            files.push((name, text));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// An identifier, a keyword or a number.
    Word,
    /// What a string literal holds.
    Text,
    /// Punctuation; `::` is one mark.
    Mark,
}

#[derive(Debug)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

impl Token {
    /// The punctuation this is, or nothing.
    fn mark(&self) -> &str {
        if self.kind == Kind::Mark { &self.text } else { "" }
    }

    fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }
}

/// Rust text without comments, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let mut reader = Reader { characters: text.chars().collect(), position: 0, line: 1 };
    let mut found = Vec::new();
    while let Some(character) = reader.peek(0) {
        let line = reader.line;
        let mut add = |kind, text| found.push(Token { kind, text, line });
        if character.is_whitespace() {
            reader.take();
        } else if reader.at("//") {
            reader.take_while(|character| character != '\n');
        } else if reader.at("/*") {
            reader.block_comment();
        } else if character == '"' {
            add(Kind::Text, reader.string());
        } else if character == '\'' {
            reader.character_or_lifetime();
        } else if character.is_alphanumeric() || character == '_' {
            let word = reader.take_while(|c| c.is_alphanumeric() || c == '_');
            let is_prefix = ["r", "b", "br", "c", "cr"].contains(&word.as_str());
            let is_raw = word.ends_with('r');
            let mut hashes = 0;
            while is_raw && is_prefix && reader.peek(hashes) == Some('#') {
                hashes += 1;
            }
            if is_prefix && reader.peek(hashes) == Some('"') {
                let text = if is_raw { reader.raw_string(hashes) } else { reader.string() };
                add(Kind::Text, text);
            } else if word == "b" && reader.peek(0) == Some('\'') {
                reader.character_or_lifetime();
            } else if word == "r" && hashes == 1 {
                // A raw identifier is never a keyword; the mark keeps the two apart.
                reader.take();
                let name = reader.take_while(|c| c.is_alphanumeric() || c == '_');
                add(Kind::Word, format!("r#{name}"));
            } else {
                add(Kind::Word, word);
            }
        } else if reader.at("::") {
            reader.take();
            reader.take();
            add(Kind::Mark, String::from("::"));
        } else {
            reader.take();
            add(Kind::Mark, character.to_string());
        }
    }
    found
}

struct Reader {
    characters: Vec<char>,
    position: usize,
    line: usize,
}

impl Reader {
    fn peek(&self, offset: usize) -> Option<char> {
        self.characters.get(self.position + offset).copied()
    }

    fn at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, character)| self.peek(offset) == Some(character))
    }

    fn take(&mut self) -> Option<char> {
        let character = self.peek(0)?;
        self.position += 1;
        if character == '\n' {
            self.line += 1;
        }
        Some(character)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(character) = self.peek(0).filter(|character| wanted(*character)) {
            text.push(character);
            self.take();
        }
        text
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            let step = if self.at("/*") {
                1
            } else if self.at("*/") {
                -1
            } else {
                0
            };
            depth += step;
            if step != 0 {
                self.take();
            }
            if self.take().is_none() || depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) -> String {
        self.take();
        let mut text = String::new();
        while let Some(character) = self.take() {
            match character {
                '"' => break,
                '\\' => text.extend(self.take().filter(|next| *next == '\n').map(|_| ' ')),
                _ => text.push(character),
            }
        }
        text
    }

    fn raw_string(&mut self, hashes: usize) -> String {
        let end: String = format!("\"{}", "#".repeat(hashes));
        for _ in 0..=hashes {
            self.take();
        }
        let mut text = String::new();
        while !self.at(&end) {
            match self.take() {
                Some(character) => text.push(character),
                None => return text,
            }
        }
        for _ in 0..=hashes {
            self.take();
        }
        text
    }

    fn character_or_lifetime(&mut self) {
        self.take();
        if self.peek(0) == Some('\\') {
            self.take();
            self.take();
            self.take_while(|character| character != '\'');
            self.take();
        } else if self.peek(1) == Some('\'') {
            self.take();
            self.take();
        } else {
            self.take_while(|character| character.is_alphanumeric() || character == '_');
        }
    }
}

/// For each token, whether it belongs to a `#[cfg(test)]` item.
fn mark_tests(path: &str, tokens: &[Token]) -> Vec<bool> {
    let mut marks = vec![path.ends_with("/tests.rs"); tokens.len()];
    let mark = |index: usize| tokens.get(index).map_or("", Token::mark);
    let word = |index: usize, word: &str| tokens.get(index).is_some_and(|token| token.is_word(word));
    for start in 0..tokens.len() {
        let whole_file = mark(start + 1) == "!";
        let bracket = start + 1 + usize::from(whole_file);
        let is_attribute = mark(start) == "#" && mark(bracket) == "[" && word(bracket + 1, "cfg");
        let is_test = word(bracket + 3, "test") || (word(bracket + 3, "all") && word(bracket + 5, "test"));
        if !(is_attribute && is_test) {
            continue;
        }
        let end = if whole_file { tokens.len() } else { item_end(tokens, start) };
        for inside in marks.iter_mut().take(end).skip(start) {
            *inside = true;
        }
    }
    marks
}

/// Behind the item whose first attribute begins at `start`: behind its `;` or its closing brace.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.mark() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// One path as the code names it, groups spelled out: `use a::{b, c::d}` is `a::b` and `a::c::d`.
struct NamedPath {
    names: Vec<String>,
    /// Where it stands: the file's module and the inline modules around it.
    module: Vec<String>,
    /// Behind `use` or `extern crate`.
    is_import: bool,
    line: usize,
    index: usize,
}

fn paths(file_module: &[String], tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let before = index.checked_sub(1).and_then(|before| tokens.get(before));
        match (token.kind, token.text.as_str()) {
            (Kind::Mark, "{") => depth += 1,
            (Kind::Mark, "}") => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, opened_at)| *opened_at <= depth);
            }
            (Kind::Word, "mod") => {
                let name = tokens.get(index + 1).filter(|name| name.kind == Kind::Word);
                if let Some(name) = name
                    && tokens.get(index + 2).map(Token::mark) == Some("{")
                {
                    inline.push((name.text.clone(), depth + 1));
                }
            }
            (Kind::Word, _) if before.is_none_or(|before| before.mark() != ".") => {
                let mut ends = Vec::new();
                let next = spell_out(tokens, index, &[], &mut ends);
                let mut module = file_module.to_vec();
                module.extend(inline.iter().map(|(name, _)| name.clone()));
                let is_import = before.is_some_and(|before| before.is_word("use") || before.is_word("crate"));
                found.extend(ends.into_iter().map(|(names, index, line)| NamedPath {
                    names,
                    module: module.clone(),
                    is_import,
                    line,
                    index,
                }));
                index = next;
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    found
}

type PathEnd = (Vec<String>, usize, usize);

/// Follows a path from the word at `index`; returns the index behind it.
fn spell_out(tokens: &[Token], index: usize, prefix: &[String], ends: &mut Vec<PathEnd>) -> usize {
    let Some(token) = tokens.get(index) else {
        return index + 1;
    };
    let mut names = prefix.to_vec();
    names.push(token.text.clone());
    let is = |at: usize, mark: &str| tokens.get(at).is_some_and(|token| token.mark() == mark);
    let is_step = |at: usize| tokens.get(at).is_some_and(|token| token.kind == Kind::Word || token.mark() == "*");
    if !is(index + 1, "::") {
        ends.push((names, index, token.line));
        return index + 1;
    }
    if is_step(index + 2) {
        return spell_out(tokens, index + 2, &names, ends);
    }
    if !is(index + 2, "{") {
        ends.push((names, index, token.line));
        return index + 2;
    }
    let mut at = index + 3;
    while at < tokens.len() && !is(at, "}") {
        if is_step(at) {
            at = spell_out(tokens, at, &names, ends);
            if tokens.get(at).is_some_and(|token| token.is_word("as")) {
                at += 2;
            }
        } else {
            at += 1;
        }
    }
    at + 1
}

/// The top-level module of ours that a path names, if it names one.
fn target_in_crate(path: &NamedPath) -> Option<String> {
    let mut absolute = path.module.clone();
    let mut names = path.names.iter().map(String::as_str).peekable();
    match names.next()? {
        "crate" => absolute.clear(),
        "self" => {}
        "super" => {
            absolute.pop();
        }
        _ => return None,
    }
    while names.next_if_eq(&"super").is_some() {
        absolute.pop();
    }
    absolute.extend(names.map(String::from));
    absolute.into_iter().next()
}
