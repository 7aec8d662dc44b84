//! What validation costs, in this process and on one thread: P8 and P9, and its memory. What is divided is CPU time of
//! the thread.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Duration;

use loopgate::fhir::Resource;
use loopgate::fhir::profile::Profiles;
use loopgate::fhir::validate::{Severity, check, examine};
use serde_json::{Value, json};

use super::runner::Report;

const FIXTURES: &str = include_str!("../../tests/it/validation/fixtures.json");

/// CPU time of this thread so far.
pub fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// Microseconds of CPU that one turn takes, when so many are done in a row.
pub fn each(turns: u32, mut act: impl FnMut()) -> f64 {
    let before = cpu();
    for _ in 0..turns {
        act();
    }
    (cpu() - before).as_secs_f64() * 1e6 / f64::from(turns)
}

/// Both sides in turn; the ratio in the middle, with its two sides.
fn in_turn(rounds: usize, mut mine: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> (f64, f64, f64) {
    let mut all: Vec<(f64, f64)> = (0..rounds).map(|_| (mine(), theirs())).collect();
    all.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    let (mine, theirs) = all[all.len() / 2];
    (mine, theirs, mine / theirs)
}

fn fixture(name: &str) -> Value {
    let mut all: HashMap<String, Value> = serde_json::from_str(FIXTURES).unwrap();
    all.remove(name).unwrap()
}

/// The referral Task of the tests, with more of what referral Tasks have: 3.9 kB.
pub fn task() -> Value {
    let mut task = fixture("referral-task");
    let input = |number: usize| {
        json!({"type": {"coding": [{"system": "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes",
            "code": "additional-content"}]}, "valueReference": {"reference": format!("DocumentReference/d{number}"), "display": "Intake form"}})
    };
    let mut number = 0;
    while task.to_string().len() < 3_500 {
        task["input"].as_array_mut().unwrap().push(input(number));
        number += 1;
    }
    let note = "The family needs food for the coming weeks and prefers to be called in the afternoon. ";
    let short = 3_900_usize.saturating_sub(task.to_string().len() + 60);
    let text: String = note.chars().cycle().take(short).collect();
    task["note"].as_array_mut().unwrap().push(json!({"time": "2026-01-02T10:00:00Z", "text": text.trim()}));
    task
}

pub fn measure(report: &mut Report, quick: bool, wanted: &dyn Fn(&[&str]) -> bool) {
    // The kernel may count a thread's time in ticks of ten milliseconds: a round lasts a quarter of a second or more.
    let (rounds, turns) = if quick { (5, 10_000) } else { (9, 20_000) };
    if wanted(&["P8"]) {
        one_task(report, rounds, turns);
    }
    if wanted(&["P9"]) {
        bundles(report, if quick { 3 } else { 5 });
    }
}

fn one_task(report: &mut Report, rounds: usize, turns: u32) {
    report.heading("P8  validation of one Task against R4 and its profile");
    let task = task();
    let text = task.to_string();
    let profiles = Profiles::own();
    let parse = || each(turns, || drop(black_box(serde_json::from_str::<Value>(black_box(&text)).unwrap())));
    let resource = Resource::from_value(task).unwrap();
    assert!(check(&resource, profiles).unwrap().is_empty());
    let (mine, theirs, ratio) =
        in_turn(rounds, || each(turns, || drop(black_box(check(black_box(&resource), profiles)))), parse);
    let shown = format!("{mine:.1} µs, {:.0}/s / D10 {theirs:.1} µs to parse {} bytes", 1e6 / mine, text.len());
    report.line(
        "P8",
        "referral Task, profile, slices, bindings, invariants",
        &shown,
        &format!("{ratio:.2}×"),
        "≤ 10× / 5×",
        ratio <= 10.0,
    );
    for name in
        ["questionnaire-task", "service-request", "condition", "consent", "screening-response", "capacity", "patient"]
    {
        let value = fixture(name);
        let text = value.to_string();
        let parse = || each(turns, || drop(black_box(serde_json::from_str::<Value>(black_box(&text)).unwrap())));
        let (mine, theirs, ratio) =
            in_turn(rounds.min(5), || each(turns, || drop(black_box(examine(black_box(&value), profiles)))), parse);
        report.note(&format!("{name}: {mine:.1} µs / {theirs:.1} µs to parse {} bytes = {ratio:.2}×", text.len()));
    }
}

fn bundles(report: &mut Report, rounds: usize) {
    report.heading("P9  validation of a Bundle");
    let profiles = Profiles::own();
    let kinds = ["referral-task", "service-request", "patient", "condition", "consent"].map(fixture);
    let bundle = |count: usize| {
        let entry = |number: usize| {
            let mut resource = kinds[number % kinds.len()].clone();
            resource["id"] = json!(format!("r{number}"));
            let url = format!("https://ehr.example/fhir/{}/r{number}", resource["resourceType"].as_str().unwrap());
            json!({"fullUrl": url, "resource": resource})
        };
        json!({"resourceType": "Bundle", "type": "collection", "entry": (0..count).map(entry).collect::<Vec<_>>()})
    };
    let (small, large) = (bundle(1_000), bundle(10_000));
    let found = examine(&small, profiles);
    assert!(found.iter().all(|one| one.severity != Severity::Error), "{:?}", found.first());
    let (mine, theirs, ratio) = in_turn(
        rounds,
        || each(2, || drop(black_box(examine(black_box(&large), profiles)))),
        || each(20, || drop(black_box(examine(black_box(&small), profiles)))),
    );
    let shown = format!("10,000 entries {:.0} ms / 1,000 entries {:.1} ms", mine / 1e3, theirs / 1e3);
    report.line(
        "P9",
        "Bundle, entries against their profiles",
        &shown,
        &format!("{ratio:.1}×"),
        "≤ 11×",
        ratio <= 11.0,
    );
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:").map(str::to_string));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    let before = resident();
    drop(black_box(examine(&large, profiles)));
    report.note(&format!(
        "validating the {:.0} MB of the large one raised the peak of memory by {:.1} MB",
        large.to_string().len() as f64 / 1e6,
        resident() - before
    ));
    let bad = bundle_of_faults(&large);
    let (mine, theirs, ratio) = in_turn(
        rounds,
        || each(1, || drop(black_box(examine(black_box(&bad), profiles)))),
        || each(1, || drop(black_box(examine(black_box(&large), profiles)))),
    );
    report.note(&format!(
        "with a fault in every entry {:.0} ms, {ratio:.2}× of without ({:.0} ms)",
        mine / 1e3,
        theirs / 1e3
    ));
}

/// Each entry's status is wrong.
fn bundle_of_faults(bundle: &Value) -> Value {
    let mut bad = bundle.clone();
    for entry in bad["entry"].as_array_mut().into_iter().flatten() {
        entry["resource"]["status"] = json!("wrong");
    }
    bad
}
