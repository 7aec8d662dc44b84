//! The lists in `conformance/requirements`: every row is well formed, what is met is met by a test that names it, and
//! what is open only shrinks.
//!
//! Reads the CSV files and the tests as text. Whether a test proves what it names, a reader has to judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How many rows of each list are still open. Lower it when you close one; it is never raised.
const OPEN: &[(&str, char, usize)] = &[
    ("gravity", 'G', 0),
    ("rest", 'R', 0),
    ("subscriptions", 'S', 0),
    ("subscription-kit", 'K', 0),
    ("subscription-client-kit", 'L', 0),
    ("smart-kit", 'M', 0),
    ("us-core-kit", 'U', 0),
    ("security", 'A', 0),
];

const LEVELS: &[&str] = &["must", "should", "could", "info"];

#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    statement: String,
    level: String,
    status: String,
    place: String,
}

/// The fields of a CSV line; a field in quotes may hold commas, and a quote written twice.
fn fields(line: &str) -> Vec<String> {
    let (mut out, mut quoted) = (vec![String::new()], false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => out.last_mut().unwrap().push(letters.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            letter => out.last_mut().unwrap().push(letter),
        }
    }
    out
}

fn rows(text: &str) -> Result<Vec<Row>, String> {
    let mut lines = text.lines();
    if lines.next() != Some("id,statement,level,status,where") {
        return Err("the first line is not id,statement,level,status,where".into());
    }
    lines
        .map(|line| match <[String; 5]>::try_from(fields(line)) {
            Ok([id, statement, level, status, place]) => Ok(Row { id, statement, level, status, place }),
            Err(found) => Err(format!("{} fields, not 5: {line}", found.len())),
        })
        .collect()
}

/// The text of a test: the comments and attributes above it, and its body. None where no test has this name.
fn test_of(source: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = source.lines().collect();
    let at = lines.iter().position(|line| {
        let line = line.trim_start();
        line.contains(&format!("fn {name}(")) || line.starts_with(&format!("on_both!({name},"))
    })?;
    let indent = lines[at].len() - lines[at].trim_start().len();
    let above = |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
    let start = at - lines[..at].iter().rev().take_while(above).count();
    let is_test = lines[at].contains("on_both!")
        || lines[start..at].iter().any(|line| line.contains("test]") || line.contains("test("));
    // The end is the next line that is not further in: a closing brace or, for one line, the next item.
    let end = lines[at + 1..]
        .iter()
        .position(|line| !line.trim().is_empty() && line.len() - line.trim_start().len() <= indent);
    is_test.then(|| lines[start..=end.map_or(lines.len() - 1, |end| at + 1 + end)].join("\n"))
}

fn faults(letter: char, rows: &[Row], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows {
        let mut fault = |text: String| faults.push(format!("{}: {text}", row.id));
        let digits = row.id.strip_prefix(letter).and_then(|rest| rest.strip_prefix('-')).unwrap_or("");
        if digits.len() < 3 || !digits.starts_with(|first: char| first.is_ascii_digit()) {
            fault(format!("an id here is {letter}-nnn"));
        }
        if !seen.insert(&row.id) {
            fault("it stands twice".into());
        }
        if row.statement.len() < 5 {
            fault("no statement".into());
        }
        if !LEVELS.contains(&row.level.as_str()) {
            fault(format!("a level is one of {LEVELS:?}"));
        }
        match row.status.as_str() {
            "open" => {}
            "not-applicable" if row.place.len() < 10 => fault("no reason why it does not apply".into()),
            "not-applicable" => {}
            "met" => {
                for place in row.place.split("; ") {
                    let test = place.split_once("::").and_then(|(path, name)| test_of(&read(path)?, name));
                    match test {
                        None => fault(format!("there is no test {place}")),
                        Some(text) if !text.contains(&row.id) => fault(format!("{place} does not name it")),
                        Some(_) => {}
                    }
                }
            }
            other => fault(format!("a status is met, not-applicable or open, not {other}")),
        }
    }
    faults
}

#[test]
fn every_met_requirement_has_a_test_that_names_it_and_the_open_ones_shrink() {
    let folder = Path::new(ROOT).join("conformance/requirements");
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).ok();
    let mut wrong = Vec::new();
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|end| end == "csv"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for name in &names {
        if OPEN.iter().all(|(known, ..)| known != name) {
            wrong.push(format!("{name}.csv: say in OPEN how many of its rows are open"));
        }
    }
    for (name, letter, most) in OPEN {
        let text = fs::read_to_string(folder.join(format!("{name}.csv"))).unwrap();
        let rows = rows(&text).unwrap_or_else(|error| panic!("{name}.csv: {error}"));
        let open = rows.iter().filter(|row| row.status == "open").count();
        if open != *most {
            wrong.push(format!("{name}.csv: {open} rows are open and OPEN says {most}; it may only be lowered"));
        }
        wrong.extend(faults(*letter, &rows, read).into_iter().map(|fault| format!("{name}.csv: {fault}")));
    }
    assert!(wrong.is_empty(), "{} fault(s):\n{}", wrong.len(), wrong.join("\n"));
}

// G-110: the Backport guide is followed when each of its musts is.
#[test]
fn nothing_that_the_backport_guide_demands_is_open() {
    let path = Path::new(ROOT).join("conformance/requirements/subscriptions.csv");
    let all = rows(&fs::read_to_string(path).unwrap()).unwrap();
    let musts: Vec<&Row> = all.iter().filter(|row| row.level == "must").collect();
    assert!(musts.len() > 50);
    let open: Vec<&str> = musts.iter().filter(|row| row.status == "open").map(|row| row.id.as_str()).collect();
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn the_check_finds_what_it_must() {
    let source = "// G-001\n#[test]\nfn good() {\n    check();\n}\n\nfn no_test() { /* G-001 */ }\n// G-003\non_both!(both, async |p| x(p).await);\n";
    let read = |path: &str| (path == "tests/a.rs").then(|| source.to_string());
    let check = |line: &str| {
        let text = format!("id,statement,level,status,where\n{line}\n");
        rows(&text).map_or_else(|error| vec![error], |rows| faults('G', &rows, read))
    };
    for good in [
        "G-001,It is so.,must,met,tests/a.rs::good",
        "G-003,\"It, and \"\"that\"\".\",should,met,tests/a.rs::both",
        "G-002,It is so.,could,open,",
        "G-002,It is so.,info,not-applicable,Nobody here does this.",
    ] {
        assert_eq!(check(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "G-001,It is so.,must,met,tests/a.rs::no_test",
        "G-001,It is so.,must,met,tests/a.rs::nowhere",
        "G-001,It is so.,must,met,tests/b.rs::good",
        "G-002,It is so.,must,met,tests/a.rs::good",
        "G-001,It is so.,must,met,",
        "G-001,It is so.,must,not-applicable,",
        "G-001,It is so.,must,done,",
        "G-001,It is so.,SHALL,open,",
        "R-001,It is so.,must,open,",
        "G-001,,must,open,",
        "G-001,It is so.,must",
        "G-001,It is so.,must,open,\nG-001,It is so.,must,open,",
    ] {
        assert!(!check(bad).is_empty(), "{bad}");
    }
}
