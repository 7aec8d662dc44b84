//! A county in fast motion: each seed is a few referrals, everything the parties may do about them in any order, and
//! everything that may go wrong in between; then the faults stop, and what must hold is checked (`simulation_checks`).
//!
//! The seed decides everything but ids: a manual clock, no sleeps, one thread per seed, an own generator of numbers. Only
//! where a worker is cut off in the middle of its database work does the exact place depend on the machine.
//!
//! `LOOPGATE_SEEDS=5000 cargo test --test it simulation` runs more, from `LOOPGATE_SEED` on; a failure prints its seed,
//! what was done, and how to run it alone. `LOOPGATE_COVERAGE=1` with `--nocapture` tells how often what happened.

mod acts;
mod found;
mod needs;
mod pushes;
mod troubles;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use loopgate::app::{Busy, Claimed};
use loopgate::demo::patient;
use loopgate::demo::server::Backup;
use loopgate::referral::Status;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, EHR, Fault, HANDSHAKE, HOOK, PANTRY, TestGateway, partner};
use crate::simulation_checks as checks;
use troubles::cut;

/// Seeds in `cargo test`.
const SEEDS: u64 = 120;
/// Threads that run seeds side by side.
const SIDE_BY_SIDE: usize = 2;
/// Actions in one seed, at most and at least.
const ACTIONS: (u64, u64) = (20, 70);
/// Rounds after the faults in which everything must have become quiet.
const ROUNDS: usize = 40;

/// The second clinic, whose referrals a coordinator routes.
pub const WARD: &str = "https://ward.test/fhir";

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    /// One time in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    /// One of these.
    pub fn of<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(list.len() as u64)).ok()?;
        list.get(index).cloned()
    }
}

/// What is wrong with a referral from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The Consent denies.
    Denied,
    /// There is no Consent.
    NoConsent,
    /// The Patient can't be read.
    NoPatient,
    /// The ServiceRequest can't be read.
    NoRequest,
    /// The focus lies outside the source's base.
    Outside,
}

/// A referral, as the world outside knows it.
#[derive(Debug, Clone)]
pub struct Need {
    pub n: usize,
    pub source: &'static str,
    /// The source's base.
    pub base: &'static str,
    pub category: &'static str,
    pub flaw: Flaw,
    /// The Task's id at the EHR, where it is kept.
    pub kept: Option<String>,
    /// What is posted.
    pub body: Value,
    /// Its id here, once the gateway has said 2xx.
    pub task: Option<String>,
    /// The consent was withdrawn at the source.
    pub consent_withdrawn: bool,
    /// Whom a coordinator sent it to.
    pub by_hand: BTreeSet<String>,
    begun: bool,
}

impl Need {
    /// Its ServiceRequest's id at the source.
    pub fn request(&self) -> String {
        format!("sr-{}", self.n)
    }
}

/// What was done, for people.
pub type Journal = Arc<Mutex<Vec<String>>>;

/// One run.
pub struct Simulation {
    pub county: TestGateway,
    pub dice: Dice,
    pub needs: Vec<Need>,
    pub subscription: Option<String>,
    journal: Journal,
    counts: BTreeMap<String, u64>,
    /// Claims of a worker that has hung since.
    stale: Vec<Claimed>,
    /// Procedures that come after the completion: by whom, and what.
    late: Vec<(String, Value)>,
    /// Tasks that the pantry has tried to claim.
    claimed: BTreeSet<String>,
    /// What the partners' servers kept of themselves, oldest first.
    backups: Vec<Kept>,
    /// Who was set back to a backup.
    pub set_back: BTreeSet<&'static str>,
    /// How many events each Subscription of ours at the pantry has had, by its id.
    counted: BTreeMap<String, u64>,
    /// Notifications that are on their way: what they show, and what they say.
    under_way: Vec<(String, Value)>,
}

/// A backup: whose, what is in it, and how many events its Subscriptions had had.
#[derive(Clone)]
struct Kept {
    base: &'static str,
    backup: Backup,
    counted: BTreeMap<String, u64>,
}

/// Services by category.
pub fn offers(target: &str, category: &str) -> bool {
    match target {
        "pantry" | "kitchen" => category == "food-insecurity",
        "agency" => category == "housing-instability",
        _ => false,
    }
}

fn settings(follow: &str) -> String {
    let fhir = |base: &str| format!("fhir = {{ base = \"{base}\", follow = \"{follow}\", poll_every = \"1h\" }}");
    [
        partner("clinic", "\"source\"", &fhir(EHR)),
        partner("ward", "\"source\"", &format!("routing = \"coordinator\"\n{}", fhir(WARD))),
        partner(
            "pantry",
            "\"target\"",
            &format!("channel = \"fhir\"\nidentifiers = [{{ system = \"urn:npi\", value = \"77\" }}]\n{}\nservices = [{{ id = \"pantry-food\", name = \"Pantry\", categories = [\"food-insecurity\"] }}]", fhir(PANTRY)),
        ),
        partner("agency", "\"target\"", "channel = \"light\"\nservices = [{ id = \"agency-housing\", name = \"Housing\", categories = [\"housing-instability\"] }]"),
        partner("kitchen", "\"target\"", "channel = \"light\"\nservices = [{ id = \"zz-kitchen-food\", name = \"Kitchen\", categories = [\"food-insecurity\"] }]"),
        partner("desk", "\"coordinator\"", ""),
        partner("root", "\"operator\"", ""),
    ]
    .concat()
}

impl Simulation {
    async fn new(seed: u64, journal: Journal) -> Simulation {
        let mut dice = Dice(seed);
        dice.next();
        let follow = dice.of(&["poll", "auto", "subscribe"]).unwrap_or("poll");
        let county = TestGateway::with(Place::in_memory(), &settings(follow)).await;
        county.world.open(WARD);
        for base in [EHR, WARD, PANTRY] {
            let (conditional, batch, small_pages) = (!dice.one_in(3), !dice.one_in(3), dice.one_in(3));
            county.world.at(base, |house| {
                house.set_if_none_exist(conditional);
                house.set_batch(batch);
                house.set_subscriptions(base == PANTRY);
                if small_pages {
                    house.set_page_size(2);
                }
            });
            county.world.ahead(base, dice.of(&[0, 0, 600, -600]).unwrap_or(0));
        }
        county.world.tell_time(&county.clock.now().to_string());
        let now = county.clock.now().to_string();
        for resource in patient::context(&now) {
            county.world.at(WARD, |ward| ward.put(resource));
        }
        let mut one = Simulation {
            county,
            dice,
            needs: Vec::new(),
            subscription: None,
            journal,
            counts: BTreeMap::new(),
            stale: Vec::new(),
            late: Vec::new(),
            claimed: BTreeSet::new(),
            backups: Vec::new(),
            set_back: BTreeSet::new(),
            counted: BTreeMap::new(),
            under_way: Vec::new(),
        };
        let referrals = 1 + one.dice.below(5);
        for n in 0..referrals {
            let need = one.need(usize::try_from(n).unwrap());
            one.needs.push(need);
        }
        one.did("follows", follow.to_string());
        [EHR, WARD, PANTRY].into_iter().for_each(|base| one.keeps_a_backup(base));
        one
    }

    fn did(&mut self, kind: &str, what: String) {
        *self.counts.entry(kind.to_string()).or_default() += 1;
        let at = self.county.clock.now();
        self.journal.lock().unwrap().push(format!("{at} {kind}: {what}"));
    }

    /// No request may be answered with a server error, whatever it is.
    fn sound(&self, answer: &Answered) {
        assert!(answer.status < 500, "the gateway answered {}: {}", answer.status, answer.body);
    }

    async fn run(&mut self) {
        self.subscribes().await;
        let actions = ACTIONS.0 + self.dice.below(ACTIONS.1 - ACTIONS.0);
        for _ in 0..self.needs.len() {
            if !self.dice.one_in(4) {
                self.refers().await;
            }
        }
        if !self.dice.one_in(4) {
            self.works().await;
        }
        for _ in 0..actions {
            self.act().await;
        }
        self.settle().await;
        checks::at_the_end(self).await;
    }

    async fn act(&mut self) {
        match self.dice.below(68) {
            0..5 => self.refers().await,
            5..11 => self.works().await,
            11..21 => self.light_target_acts().await,
            21..28 => self.pantry_acts().await,
            28 => self.source_changes_its_mind().await,
            29 => self.chart_changes().await,
            30..33 => self.coordinator_relays().await,
            33..37 => self.two_at_once().await,
            37 => self.source_reads().await,
            38..42 => self.time_passes().await,
            42..46 => self.polls().await,
            46..49 => self.something_breaks(),
            49 => self.somebody_is_back(),
            50..54 => self.worker_is_cut_off().await,
            54 => self.restarts().await,
            55 => self.worker_hangs().await,
            56 => self.hung_worker_returns().await,
            57 => self.late_outcome().await,
            58 => self.repeats().await,
            59 | 60 => self.long_outage().await,
            61 | 62 => self.pantry_tells().await,
            63 => self.pantry_loses_our_subscription(),
            64 => {
                if let Some(base) = self.dice.of(&[EHR, WARD, PANTRY]) {
                    self.keeps_a_backup(base);
                }
            }
            65 => self.is_set_back(),
            66 => self.tells_twice().await,
            _ => self.resubscribes().await,
        }
    }

    /// The faults stop, everybody is up, and time passes until nothing is left to do but to ask for news.
    async fn settle(&mut self) {
        self.county.world.heal();
        self.journal.lock().unwrap().push("--- the faults stop".to_string());
        while self.needs.iter().any(|need| !need.begun) {
            self.refers().await;
        }
        self.hung_worker_returns().await;
        while !self.late.is_empty() {
            self.late_outcome().await;
        }
        self.resubscribes().await;
        self.under_way.clear();
        self.quiet().await;
        // A day, so that each server has been compared.
        for _ in 0..26 {
            self.county.later(Duration::from_secs(3_700)).await;
        }
        self.quiet().await;
        self.source_reads().await;
        self.quiet().await;
    }

    /// Two rounds in a row of polls alone.
    pub async fn quiet(&mut self) {
        let mut in_a_row = 0;
        for _ in 0..ROUNDS {
            let tries = self.county.later(Duration::from_secs(3_700)).await;
            in_a_row = if tries == 3 { in_a_row + 1 } else { 0 };
            if in_a_row == 2 {
                return;
            }
        }
        panic!("it never became quiet");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One seed on a runtime of its own: what was done how often, or what went wrong.
fn play(seed: u64) -> Result<BTreeMap<String, u64>, String> {
    let journal: Journal = Arc::default();
    let kept = journal.clone();
    let result = std::panic::catch_unwind(AssertUnwindSafe(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut simulation = Simulation::new(seed, kept).await;
            simulation.run().await;
            simulation.counts
        })
    }));
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
        let done = journal.lock().unwrap().join("\n  ");
        format!("seed {seed}: {text}\nwhat was done:\n  {done}\nagain: LOOPGATE_SEED={seed} LOOPGATE_SEEDS=1 cargo test --test it simulation")
    })
}

// Design §8: what must hold at the end of every simulation.
#[test]
fn every_seed_ends_well() {
    let (first, count) = (number("LOOPGATE_SEED").unwrap_or(1), number("LOOPGATE_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let failures: Mutex<Vec<String>> = Mutex::default();
    let totals: Mutex<BTreeMap<String, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            // A transaction is one deep call without optimisation, SQLite's own frames at its end.
            let roomy = std::thread::Builder::new().stack_size(16 << 20);
            let played = roomy.spawn_scoped(scope, || {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        return;
                    }
                    match play(seed) {
                        Ok(counts) => {
                            let mut totals = totals.lock().unwrap();
                            counts.into_iter().for_each(|(name, times)| *totals.entry(name).or_default() += times);
                        }
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
            played.unwrap();
        }
    });
    if std::env::var("LOOPGATE_COVERAGE").is_ok() {
        totals.lock().unwrap().iter().for_each(|(name, times)| eprintln!("{times:>8} {name}"));
    }
    let failures = failures.into_inner().unwrap();
    let heads: Vec<&str> = failures.iter().filter_map(|failure| failure.lines().next()).collect();
    assert!(
        failures.is_empty(),
        "{} of {count} seeds failed.\n{}\n\n{}",
        failures.len(),
        heads.join("\n"),
        failures[0]
    );
}
