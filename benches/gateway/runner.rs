//! Processes under measurement, CPU time, medians, and the lines that are printed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::{Requests, Seen, Until, load};

/// A server in a process of its own; killed when dropped.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn of(child: Child, address: String) -> Server {
        Server { child, address }
    }

    /// One of the bare servers: this program again.
    pub fn bare(what: &str, file: &str) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--bare", what, file])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("port ").unwrap();
        Server { child, address: format!("127.0.0.1:{port}") }
    }

    /// User and system time of the process so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    /// Resident memory, in megabytes.
    pub fn memory(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
        kilobytes / 1024.0
    }

    /// One round of load on it.
    pub async fn round(&self, connections: usize, requests: &Requests, until: Until) -> Round {
        let before = self.cpu();
        let seen = load(&self.address, connections, requests, until, false, None).await;
        Round::of(seen, self.cpu() - before)
    }
}

/// User and system time of a process.
pub fn cpu_of(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Clock ticks are hundredths of a second on every Linux this runs on.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// What one round saw.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// CPU time of the server per request, in microseconds.
    pub cpu: f64,
    /// Requests per second on the wall clock.
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub answered: usize,
}

impl Round {
    pub fn of(seen: Seen, cpu: Duration) -> Round {
        // A figure of refusals says nothing of the work that was to be measured.
        assert!(seen.bad == 0, "{} of {} refused, first: {}", seen.bad, seen.bad + seen.answered, seen.first_bad);
        Round {
            cpu: cpu.as_secs_f64() * 1e6 / seen.answered.max(1) as f64,
            rate: seen.rate(),
            p50: seen.at(0.5),
            p99: seen.at(0.99),
            answered: seen.answered,
        }
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The round in the middle, by CPU time.
pub fn middle(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|one, other| one.cpu.total_cmp(&other.cpu));
    let index = rounds.len() / 2;
    rounds.into_iter().nth(index).unwrap_or_default()
}

/// A server, a number of connections, what is asked, and until when.
pub type Side<'a> = (&'a Server, usize, Requests, Until);

/// Rounds of both sides in turn, so that what else the machine does meets both; the middle one of each.
pub async fn in_turn(rounds: usize, one: Side<'_>, other: Side<'_>) -> (Round, Round) {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ones.push(one.0.round(one.1, &one.2, one.3).await);
        others.push(other.0.round(other.1, &other.2, other.3).await);
    }
    (middle(ones), middle(others))
}

/// Every line of the report, for the table at the end.
pub struct Report {
    missed: Vec<String>,
    met: usize,
}

impl Report {
    pub fn new() -> Report {
        Report { missed: Vec::new(), met: 0 }
    }

    pub fn heading(&self, text: &str) {
        println!("\n{text}");
    }

    /// A figure that no goal judges.
    pub fn note(&self, text: &str) {
        println!("      {text}");
    }

    /// Product against denominator by CPU time: must and reach are upper bounds of the ratio.
    pub fn ratio(&mut self, goal: &str, what: &str, (mine, name, bare): (&Round, &str, &Round), must: f64, reach: f64) {
        let ratio = mine.cpu / bare.cpu;
        let shown = format!(
            "{:.0} µs ({:.0}/s, p50 {}, p99 {}) / {name} {:.0} µs ({:.0}/s)",
            mine.cpu,
            mine.rate,
            ms(mine.p50),
            ms(mine.p99),
            bare.cpu,
            bare.rate
        );
        self.line(goal, what, &shown, &format!("{ratio:.2}×"), &format!("≤ {must}× / {reach}×"), ratio <= must);
    }

    /// Any other goal.
    pub fn line(&mut self, goal: &str, what: &str, shown: &str, value: &str, bound: &str, met: bool) {
        let verdict = if met { "met" } else { "missed" };
        println!("{goal:<5} {what}: {shown} = {value} [{bound}] {verdict}");
        if met {
            self.met += 1;
        } else {
            self.missed.push(format!("{goal} {what} {value} [{bound}]"));
        }
    }

    pub fn end(&self) {
        println!("\n{} met, {} missed", self.met, self.missed.len());
        for missed in &self.missed {
            println!("      missed: {missed}");
        }
    }
}

pub fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}
