//! What the rules must find, and what they must leave alone.

use super::{check_file, check_manifest};

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
        ("src/command_line.rs", "use clap::Parser;\nuse crate::gateway;"),
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
