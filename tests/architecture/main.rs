//! The arrows of the design, checked: which module may import which, which outside crate belongs to
//! which module, and what a file must or must not hold.
//!
//! It reads `src/**/*.rs`, `tests/**/*.rs` and `Cargo.toml` as text. It promises one line per fault,
//! `file:line: rule`, all of them at once. It leaves out types and macro expansion: an alias such as
//! `use std::time::Instant as I` goes unseen. The compiler and the reader see to the rest.
//!
//! Test modules (`#[cfg(test)]` items, and files named `tests.rs` or in a folder `tests`) are exempt from the arrows and
//! fences. The other rules hold there too.

mod cases;
mod rust;

use std::fs;
use std::io;
use std::path::Path;

use rust::{Kind, Token, mark_tests, paths, target_in_crate, tokens};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Which module stands in which layer.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["error", "id", "time", "jwt", "config"]),
    (1, &["fhir"]),
    (2, &["referral", "mapping", "directory"]),
    (3, &["store"]),
    (4, &["app"]),
    (5, &["http", "console", "delivery"]),
    (6, &["gateway", "main", "command_line", "telemetry", "demo", "check", "lib"]),
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
    ("clap", &["command_line"]),
    ("governor", &["http"]),
    ("regex", &["fhir"]),
    ("flate2", &["fhir"]),
    ("zstd", &["store"]),
    ("webpki", &["gateway"]),
    ("tracing_subscriber", &["telemetry"]),
];

/// Types whose `now` reads the clock.
const CLOCKS: &[&str] = &["SystemTime", "Instant", "Timestamp", "Zoned"];

/// No async, no runtime, no SQL: the library without doors.
const PURE: &[&str] = &["fhir", "referral", "mapping", "directory"];

const EMPTY_NAMES: &[&str] = &["manager", "service", "handler", "helper", "util", "common", "data", "info", "process"];

/// File names that end in one of the words above because FHIR says so.
const STANDARD_NAMES: &[&str] = &["healthcare_service"];

#[test]
fn the_tree_keeps_its_rules() -> io::Result<()> {
    let mut files = Vec::new();
    read_rust_files(Path::new(ROOT), "src", &mut files)?;
    read_rust_files(Path::new(ROOT), "tests", &mut files)?;
    assert!(
        files.iter().any(|(path, _)| path == "src/main.rs")
            && files.iter().any(|(path, _)| path == "tests/architecture/main.rs"),
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
