//! A county in fast motion: each seed is a few referrals, everything the parties may do about them in any order, and
//! everything that may go wrong in between; then the faults stop, and what must hold is checked (`simulation_checks`).
//!
//! The seed decides everything but ids: a manual clock, no sleeps, one thread per seed, an own generator of numbers. Only
//! where a worker is cut off in the middle of its database work does the exact place depend on the machine.
//!
//! `LOOPGATE_SEEDS=5000 cargo test --test it simulation` runs more, from `LOOPGATE_SEED` on; a failure prints its seed,
//! what was done, and how to run it alone. `LOOPGATE_COVERAGE=1` with `--nocapture` tells how often what happened.

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
            let (conditional, batch) = (!dice.one_in(3), !dice.one_in(3));
            county.world.at(base, |house| {
                house.set_if_none_exist(conditional);
                house.set_batch(batch);
                house.set_subscriptions(base == PANTRY);
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

    /// A need with its own patient at its source. Every resource is marked, so that whoever sees it gives itself away:
    /// `mark` the Task and the request, `who` patient and consent, `why` the condition.
    fn need(&mut self, n: usize) -> Need {
        let dice = &mut self.dice;
        let (source, base) = if dice.one_in(4) { ("ward", WARD) } else { ("clinic", EHR) };
        let category = if dice.one_in(3) { "housing-instability" } else { "food-insecurity" };
        let flaw = match dice.below(24) {
            0 => Flaw::Denied,
            1 => Flaw::NoConsent,
            2 => Flaw::NoPatient,
            3 => Flaw::NoRequest,
            4 => Flaw::Outside,
            _ => Flaw::None,
        };
        let keeps = dice.one_in(4);
        let targets: &[&'static str] = if category == "food-insecurity" { &["pantry", "kitchen"] } else { &["agency"] };
        let (named, open) = match dice.below(6) {
            0 | 1 if !keeps => (None, true),
            2 => (dice.of(targets), false),
            _ => (None, false),
        };
        let now = self.county.clock.now().to_string();
        let renamed = |value: Value| -> Value {
            let text = value.to_string();
            let text = text.replace(patient::PATIENT, &format!("Patient/pat-{n}"));
            let text = text.replace(patient::CONSENT, &format!("Consent/consent-{n}"));
            serde_json::from_str(&text.replace(patient::CONDITION, &format!("Condition/cond-{n}"))).unwrap()
        };
        for resource in patient::context(&now) {
            let mut resource = renamed(resource);
            match resource["resourceType"].as_str().unwrap() {
                "Patient" if flaw != Flaw::NoPatient => {
                    resource["id"] = json!(format!("pat-{n}"));
                    resource["identifier"][0]["value"] = json!(format!("who{n}#"));
                }
                "Consent" => {
                    resource["id"] = json!(format!("consent-{n}"));
                    resource["sourceAttachment"]["title"] = json!(format!("who{n}#"));
                    if flaw == Flaw::Denied {
                        resource["provision"]["type"] = json!("deny");
                    }
                }
                "Condition" => {
                    resource["id"] = json!(format!("cond-{n}"));
                    resource["note"] = json!([{"text": format!("why{n}#")}]);
                }
                _ => continue,
            }
            self.county.world.at(base, |house| house.put(resource));
        }
        let mut request = renamed(patient::service_request(&format!("sr-{n}"), category, &now));
        request["note"] = json!([{"text": format!("mark{n}#")}]);
        if flaw == Flaw::NoConsent {
            request.as_object_mut().unwrap().shift_remove("supportingInfo");
        }
        let by_request = named.is_some() && self.dice.one_in(2);
        if by_request {
            request["performer"] = match named {
                Some("pantry") => json!([{"identifier": {"system": "urn:npi", "value": "77"}}]),
                Some(other) => json!([{"reference": format!("https://hub.test/fhir/Organization/{other}")}]),
                None => Value::Null,
            };
        }
        if flaw != Flaw::NoRequest {
            self.county.world.at(base, |house| house.put(request));
        }
        let owner = match named {
            Some(named) if !by_request && !keeps => Some(format!("Organization/{named}")),
            _ if open => None,
            _ if keeps => Some("https://hub.test/fhir/Organization/hub".to_string()),
            _ => Some("Organization/hub".to_string()),
        };
        let named = named.filter(|_| by_request || !keeps);
        let there = |reference: &str| if keeps { reference.to_string() } else { format!("{base}/{reference}") };
        let focus = match flaw {
            Flaw::Outside if self.dice.one_in(2) => format!("{base}-evil/ServiceRequest/sr-{n}"),
            Flaw::Outside => format!("https://evil.test/fhir/ServiceRequest/sr-{n}"),
            _ => there(&format!("ServiceRequest/sr-{n}")),
        };
        let patient = there(&format!("Patient/pat-{n}"));
        let mut body =
            patient::referral_task(None, &focus, &there(patient::REQUESTER), &patient, owner.as_deref(), &now);
        body["description"] = json!(format!("mark{n}#"));
        body["identifier"] = json!([{"system": format!("urn:{source}"), "value": format!("task-{n}")}]);
        let kept = keeps.then(|| format!("kept-{n}"));
        if let Some(kept) = &kept {
            body["id"] = json!(kept);
        }
        let by_hand = BTreeSet::new();
        let need = Need {
            n,
            source,
            base,
            category,
            flaw,
            kept,
            body,
            task: None,
            consent_withdrawn: false,
            by_hand,
            begun: false,
        };
        self.did("need", format!("{n} of {source}, {category}, {flaw:?}, named {named:?}, open {open}, kept {keeps}"));
        need
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

    async fn subscribes(&mut self) {
        let backport = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
        let body = json!({"resourceType": "Subscription", "status": "requested", "reason": "Watch my referrals",
            "criteria": loopgate::fhir::subscription::TASK_TOPIC,
            "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json",
                "_payload": {"extension": [{"url": format!("{backport}/backport-payload-content"), "valueCode": "id-only"}]}}});
        let made = self.county.post("clinic", "Subscription", &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        self.subscription = Some(made.id());
        self.county.later(HANDSHAKE).await;
    }

    /// A subscription in `error` is asked for again.
    async fn resubscribes(&mut self) {
        let Some(id) = self.subscription.clone() else { return };
        let mut body = self.county.get("clinic", &format!("Subscription/{id}")).await.body;
        if body["status"] == "error" {
            body["status"] = json!("requested");
            let answer = self.county.put("clinic", &format!("Subscription/{id}"), &body).await;
            self.did("resubscribes", format!("{}", answer.status));
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }

    async fn refers(&mut self) {
        let waiting: Vec<usize> = self.needs.iter().filter(|need| !need.begun).map(|need| need.n).collect();
        let n = match self.dice.of(&waiting) {
            Some(n) => n,
            None => return self.repeats().await,
        };
        let need = self.needs[n].clone();
        self.needs[n].begun = true;
        if need.kept.is_some() {
            self.county.world.at(need.base, |house| house.put(need.body.clone()));
            self.did("keeps its Task", format!("{n}"));
            return;
        }
        if self.dice.one_in(6) {
            // Its connection breaks: it can't know whether we took it.
            let polls = self.dice.below(40);
            let came = cut(self.county.post(need.source, "Task", &need.body), |done| done >= polls).await;
            self.did("refers, and is cut off", format!("{n} after {polls} polls: {}", came.is_some()));
            self.needs[n].begun = came.is_some();
            if let Some(answer) = came {
                self.taken(n, &answer);
            }
            return;
        }
        let answer = self.county.post(need.source, "Task", &need.body).await;
        self.did("refers", format!("{n}: {}", answer.status));
        self.taken(n, &answer);
    }

    fn taken(&mut self, n: usize, answer: &Answered) {
        self.sound(answer);
        assert!(matches!(answer.status, 200 | 201), "referral {n}: {} {}", answer.status, answer.body);
        let id = answer.id();
        match &self.needs[n].task {
            Some(known) => assert_eq!((known, answer.status), (&id, 200), "referral {n} became two"),
            None => self.needs[n].task = Some(id),
        }
    }

    /// The source sends the same referral again.
    async fn repeats(&mut self) {
        let sent: Vec<usize> = self.needs.iter().filter(|n| n.begun && n.kept.is_none()).map(|n| n.n).collect();
        let Some(n) = self.dice.of(&sent) else { return };
        let need = self.needs[n].clone();
        let answer = self.county.post(need.source, "Task", &need.body).await;
        self.did("repeats", format!("{n}: {}", answer.status));
        self.taken(n, &answer);
    }

    async fn works(&mut self) {
        let tries = self.county.deliver_due().await;
        self.did("works", format!("{tries} tries"));
    }

    async fn time_passes(&mut self) {
        let seconds = match self.dice.below(4) {
            0 => 1 + self.dice.below(10),
            1 => 30 + self.dice.below(200),
            2 => 600 + self.dice.below(3_600),
            _ => 3_700 + self.dice.below(20_000),
        };
        self.county.clock.advance(Duration::from_secs(seconds));
        self.county.world.tell_time(&self.county.clock.now().to_string());
        self.did("time passes", format!("{seconds} s"));
    }

    async fn polls(&mut self) {
        let Some(partner) = self.dice.of(&["clinic", "ward", "pantry"]) else { return };
        self.did("polls", partner.to_string());
        self.county.poll(partner).await;
    }

    fn something_breaks(&mut self) {
        let Some(place) = self.dice.of(&[EHR, EHR, PANTRY, PANTRY, WARD, HOOK]) else { return };
        if self.dice.one_in(6) {
            self.county.world.down(place);
            return self.did("is down", place.to_string());
        }
        let statuses = [500, 503, 404, 412, 429];
        let count = 1 + self.dice.below(3);
        let faults: Vec<Fault> = (0..count)
            .map(|_| match self.dice.below(3) {
                0 => Fault::LoseRequest,
                1 => Fault::LoseAnswer,
                _ => Fault::Answer(self.dice.of(&statuses).unwrap_or(500)),
            })
            .collect();
        self.county.world.fault(place, &faults);
        self.did("breaks", format!("{place}: {faults:?}"));
        for fault in &faults {
            *self.counts.entry(format!("fault {fault:?}")).or_default() += 1;
        }
    }

    /// Somebody is away until every delivery has been given up.
    async fn long_outage(&mut self) {
        let Some(place) = self.dice.of(&[EHR, EHR, PANTRY, PANTRY, WARD, HOOK]) else { return };
        self.county.world.down(place);
        let mut tries = 0;
        for _ in 0..5 {
            tries += self.county.later(Duration::from_secs(200)).await;
        }
        self.county.world.up(place);
        self.did("long outage", format!("{place}, {tries} tries"));
    }

    fn somebody_is_back(&mut self) {
        self.county.world.heal();
        self.did("all are back", String::new());
    }

    async fn restarts(&mut self) {
        self.county.restart().await;
        self.did("restarts", String::new());
    }

    /// A worker is lost in the middle of a delivery: after some requests were sent, or anywhere.
    async fn worker_is_cut_off(&mut self) {
        // Something is owed at most moments; if not, somebody asks for news.
        if self.dice.one_in(3)
            && let Some(partner) = self.dice.of(&["clinic", "ward", "pantry"])
        {
            self.county.gateway.app.poll_now(partner).await.unwrap();
        }
        let claimed = self.county.gateway.app.claim(64, &Busy::default()).await.unwrap();
        let Some(one) = self.dice.of(&claimed) else { return };
        let rest: Vec<Claimed> = claimed.into_iter().filter(|other| other.id != one.id).collect();
        self.county.gateway.app.let_go(&rest).await.unwrap();
        let kind = format!("{:?}", one.kind);
        let worker = self.county.worker().clone();
        let done = if self.dice.one_in(2) {
            let (world, before) = (self.county.world.clone(), self.county.world.asked());
            let most = before + 1 + usize::try_from(self.dice.below(4)).unwrap();
            cut(worker.attend(&one), |_| world.asked() >= most).await
        } else {
            let polls = self.dice.below(60);
            cut(worker.attend(&one), |done| done >= polls).await
        };
        self.did("worker is cut off", format!("{kind} of {}, done: {}", one.partner, done.is_some()));
        *self.counts.entry(format!("cut off in {kind}")).or_default() += u64::from(done.is_none());
        if self.dice.one_in(2) {
            self.restarts().await;
        }
    }

    /// A worker claims, and then hangs past its lease.
    async fn worker_hangs(&mut self) {
        let claimed = self.county.gateway.app.claim(3, &Busy::default()).await.unwrap();
        self.did("worker hangs", format!("with {}", claimed.len()));
        self.stale.extend(claimed);
    }

    /// It goes on as if nothing had happened; somebody else may have done its work.
    async fn hung_worker_returns(&mut self) {
        for one in std::mem::take(&mut self.stale) {
            self.did("hung worker returns", format!("{:?} of {}", one.kind, one.partner));
            self.county.worker().clone().attend(&one).await;
        }
    }

    /// A target that works on our API and has something to answer there, most of the time.
    async fn somebody_with_work(&mut self) -> Option<&'static str> {
        let open = "requested,accepted,in-progress,on-hold";
        let found = self.county.get("root", &format!("Task?requester=Organization/hub&status={open}")).await;
        let task = self.dice.of(&found.entries());
        let owner = task.as_ref().map(|task| task["owner"]["reference"].as_str().unwrap_or("").to_string());
        match owner.as_deref() {
            Some("Organization/agency") => Some("agency"),
            Some("Organization/kitchen") => Some("kitchen"),
            Some("Organization/pantry") | None if self.dice.one_in(2) => None,
            Some("") | Some(_) | None => self.dice.of(&["kitchen", "pantry", "agency"]),
        }
    }

    /// A Task that a light target may see, and what it wants to say about it.
    async fn answer_of(&mut self, partner: &str) -> Option<(String, Value)> {
        let found = self.county.get(partner, "Task?_count=50").await;
        self.sound(&found);
        let mut relayed: Vec<Value> = found.entries().into_iter().filter(|task| task["partOf"].is_array()).collect();
        if partner == "pantry" {
            // It has a server, and answers there; what it claimed here it has here.
            relayed.retain(|task| task["owner"].is_null() || self.claimed.contains(task["id"].as_str().unwrap_or("")));
        }
        let open: Vec<Value> = relayed.iter().filter(|task| !checks::status_of(task).is_terminal()).cloned().collect();
        let some = if open.is_empty() || self.dice.one_in(6) { relayed } else { open };
        let mut task = self.dice.of(&some)?;
        let id = task["id"].as_str()?.to_string();
        if self.dice.one_in(5) && task["meta"]["versionId"] != "1" {
            // It has read the Task some time ago.
            let old = self.county.get(partner, &format!("Task/{id}/_history/1")).await;
            self.sound(&old);
            if old.status == 200 {
                task = old.body;
            }
        }
        let status = Status::parse(task["status"].as_str()?)?;
        if task["owner"].is_null() {
            task["owner"] = json!({"reference": format!("Organization/{partner}")});
            task["status"] = json!("accepted");
            if partner == "pantry" {
                self.claimed.insert(id.clone());
            }
            return Some((id, task));
        }
        let legal: Vec<Status> = Status::ALL.into_iter().filter(|next| status.may_become(*next)).collect();
        let next = if self.dice.one_in(8) { self.dice.of(&Status::ALL)? } else { self.dice.of(&legal)? };
        task["status"] = json!(next.code());
        let n = task["description"].as_str().unwrap_or("").to_string();
        if next.needs_reason() && !self.dice.one_in(8) {
            let said = self.dice.of(&["at capacity", "too far away", "can't do this"])?;
            task["statusReason"] = json!({"text": format!("{said}, by-{partner} {n}")});
        }
        if next == Status::Completed {
            self.documents(partner, &mut task, &n).await;
        }
        Some((id, task))
    }

    /// A completion with its Procedure: named, only posted, to come later, or none.
    async fn documents(&mut self, partner: &str, task: &mut Value, n: &str) {
        let (focus, subject) = (task["focus"]["reference"].clone(), task["for"]["reference"].clone());
        let (Some(focus), Some(subject)) = (focus.as_str(), subject.as_str()) else { return };
        let now = self.county.clock.now().to_string();
        let mut procedure = patient::procedure(focus, subject, "food-insecurity", &now);
        procedure["note"] = json!([{"text": format!("by-{partner} {n}")}]);
        match self.dice.below(4) {
            0 => {}
            1 => self.late.push((partner.to_string(), procedure)),
            way => {
                let made = self.county.post(partner, "Procedure", &procedure).await;
                self.sound(&made);
                if made.status == 201 && way == 2 {
                    patient::completed_with(task, &format!("Procedure/{}", made.id()));
                }
            }
        }
    }

    async fn late_outcome(&mut self) {
        let Some((partner, procedure)) = self.late.pop() else { return };
        let made = self.county.post(&partner, "Procedure", &procedure).await;
        self.did("late outcome", format!("{partner}: {}", made.status));
        self.sound(&made);
    }

    async fn light_target_acts(&mut self) {
        let Some(partner) = self.somebody_with_work().await else { return };
        let Some((id, task)) = self.answer_of(partner).await else { return };
        let headers = self.maybe_if_match(&task);
        let headers: Vec<(&str, &str)> = headers.iter().map(|value| ("if-match", value.as_str())).collect();
        let answer = self.county.ask(partner, "PUT", &format!("Task/{id}"), Some(&task), &headers).await;
        self.did(
            &format!("{partner} answers"),
            format!("{id} {}: {} {}", task["status"], answer.status, answer.said()),
        );
        self.sound(&answer);
    }

    fn maybe_if_match(&mut self, task: &Value) -> Option<String> {
        let version = task["meta"]["versionId"].as_str()?;
        self.dice.one_in(2).then(|| format!("W/\"{version}\""))
    }

    /// The pantry's staff: any legal steps at its own server, perhaps several before we look.
    async fn pantry_acts(&mut self) {
        let tasks: Vec<Value> =
            self.county.world.at(PANTRY, |pantry| pantry.all("Task").into_iter().cloned().collect());
        let open: Vec<Value> = tasks.into_iter().filter(|task| !checks::status_of(task).is_terminal()).collect();
        let Some(task) = self.dice.of(&open) else { return };
        let id = task["id"].as_str().unwrap().to_string();
        let n = task["description"].as_str().unwrap_or("").to_string();
        let mut status = Status::parse(task["status"].as_str().unwrap()).unwrap();
        for _ in 0..=self.dice.below(2) {
            let legal: Vec<Status> = Status::ALL
                .into_iter()
                .filter(|next| status.may_become(*next) && *next != Status::EnteredInError)
                .collect();
            let Some(next) = self.dice.of(&legal) else { return };
            let now = self.county.clock.now().to_string();
            let mut said = json!(null);
            if next.needs_reason() && !self.dice.one_in(4) {
                let why = self.dice.of(&["at capacity", "too far away"]).unwrap_or_default();
                said = json!({"text": format!("{why}, by-pantry {n}")});
            }
            let documented = self.dice.one_in(2);
            self.county.world.at(PANTRY, |pantry| {
                let procedure = (next == Status::Completed && documented).then(|| {
                    let (focus, subject) = (task["focus"]["reference"].as_str(), task["for"]["reference"].as_str());
                    let mut done =
                        patient::procedure(focus.unwrap_or(""), subject.unwrap_or(""), "food-insecurity", &now);
                    done["note"] = json!([{"text": format!("by-pantry {n}")}]);
                    pantry.put(done)
                });
                pantry.update("Task", &id, |task| {
                    task["status"] = json!(next.code());
                    if !said.is_null() {
                        task["statusReason"] = said;
                    }
                    if let Some(procedure) = procedure {
                        patient::completed_with(task, &format!("Procedure/{procedure}"));
                    }
                });
            });
            self.did("pantry acts", format!("{id} {status} -> {next}"));
            status = next;
            self.pantry_has_news();
            if self.dice.one_in(2) {
                self.pantry_tells().await;
            }
        }
    }

    /// Our Subscriptions at the pantry, by id, and what a notification shows.
    fn ours_at_the_pantry(&self) -> Vec<(String, String, String)> {
        let all: Vec<Value> =
            self.county.world.at(PANTRY, |pantry| pantry.all("Subscription").into_iter().cloned().collect());
        let text = |value: &Value| value.as_str().unwrap_or("").trim_start_matches("Authorization: ").to_string();
        all.iter().map(|one| (text(&one["id"]), text(&one["status"]), text(&one["channel"]["header"][0]))).collect()
    }

    /// Its server counts an event for each, and has one notification more to send; some are lost.
    fn pantry_has_news(&mut self) {
        for (id, status, secret) in self.ours_at_the_pantry() {
            if status != "active" {
                continue;
            }
            let count = self.counted.entry(id.clone()).or_default();
            *count += 1;
            let count = *count;
            if self.dice.one_in(4) {
                self.did("a notification is lost", format!("{count} of {id}"));
            } else {
                self.under_way.push((secret, notification("event-notification", count)));
            }
        }
    }

    /// What is under way arrives, in some order; a Subscription that is new is shaken hands about first.
    async fn pantry_tells(&mut self) {
        for (id, status, secret) in self.ours_at_the_pantry() {
            if status == "requested" && !self.dice.one_in(4) {
                self.county.world.at(PANTRY, |pantry| {
                    pantry.update("Subscription", &id, |one| one["status"] = json!("active"));
                });
                let count = *self.counted.entry(id.clone()).or_default();
                self.tells(&secret, &notification("handshake", count)).await;
            }
        }
        let mut all = std::mem::take(&mut self.under_way);
        if self.dice.one_in(3) {
            all.reverse();
        }
        for (secret, body) in all {
            self.tells(&secret, &body).await;
        }
    }

    /// Something arrives once more.
    async fn tells_twice(&mut self) {
        let Some((secret, body)) = self.dice.of(&self.under_way) else { return };
        self.tells(&secret, &body).await;
    }

    async fn tells(&mut self, secret: &str, body: &Value) {
        let request = axum::http::Request::post("/hooks/pantry").header("authorization", secret);
        let request = request.header("content-type", "application/fhir+json");
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        let answer = tower::ServiceExt::oneshot(self.county.gateway.router(), request).await.unwrap();
        let kind = body["entry"][0]["resource"]["parameter"][1]["valueCode"].clone();
        self.did("pantry tells", format!("{kind}: {}", answer.status()));
        assert!(answer.status().as_u16() == 200, "a notification was answered {}", answer.status());
    }

    /// Its server is set up anew, and our Subscription was not in what was kept.
    fn pantry_loses_our_subscription(&mut self) {
        let all = self.ours_at_the_pantry();
        let Some((id, ..)) = self.dice.of(&all) else { return };
        self.county.world.at(PANTRY, |pantry| pantry.erase("Subscription", &id));
        self.did("pantry loses our Subscription", id);
    }

    fn keeps_a_backup(&mut self, base: &'static str) {
        let backup = self.county.world.at(base, |house| house.backup());
        self.backups.push(Kept { base, backup, counted: self.counted.clone() });
    }

    /// A server dies, and its last backups are what is left: an old one is put back.
    fn is_set_back(&mut self) {
        let Some(kept) = self.dice.of(&self.backups) else { return };
        let base = kept.base;
        self.county.world.at(base, |house| house.restore(&kept.backup));
        self.set_back.insert(base);
        if base == PANTRY {
            self.counted = kept.counted;
        }
        // What was kept after it is gone; people there enter their own Tasks again, or never do.
        for n in 0..self.needs.len() {
            let (consent, kept) = (format!("consent-{n}"), self.needs[n].kept.clone());
            if self.needs[n].base != base {
                continue;
            }
            let (inactive, lost) = self.county.world.at(base, |house| {
                let inactive = house.get("Consent", &consent).is_some_and(|one| one["status"] == "inactive");
                (inactive, kept.is_some_and(|kept| house.get("Task", &kept).is_none()))
            });
            self.needs[n].consent_withdrawn = inactive;
            if lost && self.needs[n].begun && self.dice.one_in(2) {
                self.needs[n].begun = false;
            }
        }
        self.did("is set back", base.to_string());
    }

    /// The source's Task at the gateway, changed by the source.
    fn wish(&mut self, mut task: Value) -> Value {
        let wish = self.dice.of(&["cancelled", "cancelled", "entered-in-error", "completed", "requested"]);
        task["status"] = json!(wish);
        if self.dice.one_in(2) {
            task["statusReason"] = json!({"text": "not needed any more"});
        }
        task
    }

    async fn source_changes_its_mind(&mut self) {
        let begun: Vec<usize> = self.needs.iter().filter(|need| need.begun).map(|need| need.n).collect();
        let Some(n) = self.dice.of(&begun) else { return };
        let need = self.needs[n].clone();
        if let Some(kept) = &need.kept {
            let wish = if self.dice.one_in(4) { "entered-in-error" } else { "cancelled" };
            let world = self.county.world.clone();
            let now = world.at(need.base, |house| house.get("Task", kept).cloned()).unwrap_or_default();
            let status = now["status"].as_str().and_then(Status::parse);
            if status.is_some_and(|status| status.may_become(Status::parse(wish).unwrap_or(status))) {
                world.at(need.base, |house| house.update("Task", kept, |task| task["status"] = json!(wish)));
                self.did("source ends its own Task", format!("{n} {wish}"));
            }
            return;
        }
        let Some(id) = need.task else { return };
        let task = self.county.get(need.source, &format!("Task/{id}")).await;
        assert_eq!(task.status, 200, "the source can't read its Task: {}", task.body);
        let wished = self.wish(task.body);
        let answer = self.county.put(need.source, &format!("Task/{id}"), &wished).await;
        self.did("source wishes", format!("{n} {}: {}", wished["status"], answer.status));
        self.sound(&answer);
    }

    /// The chart at the source changes: the request revoked, on hold, reworded; the consent withdrawn.
    async fn chart_changes(&mut self) {
        let begun: Vec<usize> = self.needs.iter().filter(|need| need.begun).map(|need| need.n).collect();
        let Some(n) = self.dice.of(&begun) else { return };
        let (base, request) = (self.needs[n].base, self.needs[n].request());
        let what = self.dice.of(&["revoked", "on-hold", "active", "reworded", "withdrawn"]).unwrap_or("active");
        let world = self.county.world.clone();
        match what {
            "withdrawn" => {
                let consent = format!("consent-{n}");
                world.at(base, |house| house.update("Consent", &consent, |one| one["status"] = json!("inactive")));
                self.needs[n].consent_withdrawn = true;
            }
            "reworded" => {
                let text = format!("mark{n}# again at {}", self.county.clock.now());
                world.at(base, |house| {
                    house.update("ServiceRequest", &request, |one| one["note"][0]["text"] = json!(text))
                });
            }
            status => {
                world.at(base, |house| house.update("ServiceRequest", &request, |one| one["status"] = json!(status)));
            }
        }
        self.did("chart changes", format!("{n} {what}"));
    }

    async fn coordinator_relays(&mut self) {
        let here: Vec<usize> = self.needs.iter().filter(|need| need.begun).map(|need| need.n).collect();
        let Some(n) = self.dice.of(&here) else { return };
        let Some(task) = checks::task_of(self, n).await else { return };
        let food = self.needs[n].category == "food-insecurity";
        let targets: &[&str] = if food { &["pantry", "kitchen"] } else { &["agency"] };
        let Some(target) = self.dice.of(targets) else { return };
        let body = json!({"resourceType": "Parameters",
            "parameter": [{"name": "target", "valueReference": {"reference": format!("Organization/{target}")}}]});
        let answer = self.county.post("desk", &format!("Task/{task}/$relay"), &body).await;
        self.did("coordinator relays", format!("{n} to {target}: {} {}", answer.status, answer.said()));
        self.sound(&answer);
        if answer.status == 200 {
            self.needs[n].by_hand.insert(target.to_string());
        }
    }

    /// Two parties at the same moment.
    async fn two_at_once(&mut self) {
        let Some(first) = self.somebody_with_work().await else { return };
        let second = self.dice.of(&["agency", "kitchen", "pantry", "clinic", "worker"]).unwrap_or("clinic");
        let Some((one, one_task)) = self.answer_of(first).await else { return };
        let one_path = format!("Task/{one}");
        let (this, that) = if second == "worker" {
            let county = &self.county;
            let (this, _) = tokio::join!(county.put(first, &one_path, &one_task), county.deliver_due());
            (this, None)
        } else {
            let other = if second == "clinic" {
                let parent = one_task["partOf"][0]["reference"].as_str().unwrap_or("").to_string();
                let source = self.county.get("clinic", &parent).await;
                if source.status != 200 {
                    return;
                }
                let parent = parent.rsplit('/').next().unwrap_or("").to_string();
                Some((parent, self.wish(source.body)))
            } else {
                self.answer_of(second).await
            };
            let Some((other, other_task)) = other else { return };
            let path = format!("Task/{other}");
            let county = &self.county;
            let (this, that) =
                tokio::join!(county.put(first, &one_path, &one_task), county.put(second, &path, &other_task));
            (this, Some(that))
        };
        let then = that.as_ref().map(|that| that.status);
        self.did("two at once", format!("{first} {}: {}, {second}: {then:?}", one_task["status"], this.status));
        self.sound(&this);
        that.iter().for_each(|that| self.sound(that));
    }

    pub async fn source_reads(&mut self) {
        for source in ["clinic", "ward"] {
            let found = self.county.get(source, "Task?_count=200").await;
            self.did("source reads", format!("{source}: {}", found.entries().len()));
            self.sound(&found);
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

/// A notification with this number.
fn notification(kind: &str, number: u64) -> Value {
    let mut list = vec![
        json!({"name": "status", "valueCode": "active"}),
        json!({"name": "type", "valueCode": kind}),
        json!({"name": "events-since-subscription-start", "valueString": number.to_string()}),
    ];
    if kind == "event-notification" {
        let part = json!([{"name": "event-number", "valueString": number.to_string()}]);
        list.push(json!({"name": "notification-event", "part": part}));
    }
    json!({"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Parameters", "parameter": list}}]})
}

/// Drives a future until it ends or `enough` says so after a turn; then it is dropped where it stands.
async fn cut<T>(future: impl Future<Output = T>, enough: impl Fn(u64) -> bool) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut turns = 0;
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            turns += 1;
            if enough(turns) { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
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

/// A Task for a ride home that the clinic keeps at its own server, found and relayed; its id here, and our Task's.
async fn kept_at_home(county: &TestGateway) -> (String, String) {
    let now = county.clock.now().to_string();
    let owner = Some("https://hub.test/fhir/Organization/hub");
    let focus = "ServiceRequest/sr";
    county.world.at(EHR, |ehr| {
        ehr.put(patient::service_request("sr", "housing-instability", &now));
        ehr.put(patient::referral_task(Some("kept"), focus, patient::REQUESTER, patient::PATIENT, owner, &now));
    });
    county.poll("clinic").await;
    let relayed = county.get("root", "Task?requester=Organization/hub").await.entries();
    let parent = relayed[0]["partOf"][0]["reference"].as_str().unwrap().trim_start_matches("Task/").to_string();
    (parent, relayed[0]["id"].as_str().unwrap().to_string())
}

fn status_at(county: &TestGateway, base: &str, id: &str) -> String {
    county.world.at(base, |house| house.get("Task", id).unwrap()["status"].as_str().unwrap().to_string())
}

/// The partner is away until every try has been used up, and comes back.
async fn away_too_long(county: &TestGateway, base: &str) {
    county.world.down(base);
    for _ in 0..6 {
        county.later(Duration::from_secs(300)).await;
    }
    county.world.up(base);
    for _ in 0..2 {
        county.later(Duration::from_secs(3_700)).await;
    }
}

// Seeds 60 and 146 of the first version: only a change made at its own server needs no writing there.
#[tokio::test]
async fn a_source_that_keeps_its_task_may_cancel_it_here() {
    let county = TestGateway::county().await;
    let (task, _) = kept_at_home(&county).await;
    let mut body = county.get("clinic", &format!("Task/{task}")).await.body;
    body["status"] = json!("cancelled");
    assert_eq!(county.put("clinic", &format!("Task/{task}"), &body).await.status, 200);
    county.deliver_due().await;
    assert_eq!(status_at(&county, EHR, "kept"), "cancelled");
    assert!(county.level(&task).await.1, "the loop is open");
}

// Seeds 1, 110 and 144.
#[tokio::test]
async fn an_ehr_that_was_away_too_long_gets_its_status_when_it_is_back() {
    let county = TestGateway::county().await;
    let (task, ours) = kept_at_home(&county).await;
    county.answers("agency", &ours, "accepted").await;
    away_too_long(&county, EHR).await;
    assert_eq!(status_at(&county, EHR, "kept"), "in-progress");
    assert_eq!(county.status(&task).await, "in-progress");
}

// Read once, a referral does not end because a copy could not be read again.
#[tokio::test]
async fn a_copy_that_cannot_be_read_again_does_not_end_the_referral() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.poll("clinic").await;
    county.world.at(EHR, |ehr| ehr.update("ServiceRequest", "sr1", |one| one["note"] = json!([{"text": "urgent"}])));
    // The change is heard of, and then its EHR answers nothing but searches.
    county.clock.advance(Duration::from_secs(3_700));
    county.world.tell_time(&county.clock.now().to_string());
    let polls = county.gateway.app.claim(9, &Busy::default()).await.unwrap();
    for poll in polls {
        county.worker().attend(&poll).await;
    }
    away_too_long(&county, EHR).await;
    assert_eq!(county.status(&task).await, "accepted");
    let ours = county.relayed(&task).await.remove(0);
    let focus = county.task(&ours).await["focus"]["reference"].as_str().unwrap().to_string();
    assert_eq!(county.get("agency", &focus).await.body["note"][0]["text"], "urgent");
}

// What may stand at the pantry though no answer came back is called off there once it can be reached.
#[tokio::test]
async fn a_delivery_given_up_does_not_stay_at_the_target() {
    let county = TestGateway::county().await;
    county.deliver_due().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.world.fault(PANTRY, &[Fault::LoseAnswer]);
    county.deliver_due().await;
    away_too_long(&county, PANTRY).await;
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0]["id"].as_str().unwrap().to_string());
    assert_eq!(status_at(&county, PANTRY, &theirs), "cancelled");
    assert_eq!(county.status(&task).await, "failed");
}

// What a target answered while it could not be read is read when it can.
#[tokio::test]
async fn an_answer_that_could_not_be_read_in_time_is_read_later() {
    let county = TestGateway::county().await;
    county.deliver_due().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0]["id"].as_str().unwrap().to_string());
    county.world.at(PANTRY, |pantry| pantry.update("Task", &theirs, |task| task["status"] = json!("accepted")));
    county.gateway.app.poll_now("pantry").await.unwrap();
    let polls = county.gateway.app.claim(9, &Busy::default()).await.unwrap();
    for poll in polls {
        county.worker().attend(&poll).await;
    }
    away_too_long(&county, PANTRY).await;
    assert_eq!(county.status(&task).await, "in-progress");
}

// Seed 142: both have ended it, each in its own way.
#[tokio::test]
async fn two_endings_are_on_record() {
    let county = TestGateway::county().await;
    let (task, ours) = kept_at_home(&county).await;
    county.answers("agency", &ours, "rejected").await;
    county.world.at(EHR, |ehr| ehr.update("Task", "kept", |task| task["status"] = json!("cancelled")));
    county.poll("clinic").await;
    assert_eq!((county.status(&task).await, status_at(&county, EHR, "kept")), ("failed".into(), "cancelled".into()));
    let standing = county.get("desk", &format!("Task/{task}/$loop-status")).await.body.to_string();
    assert!(standing.contains("ignored"), "{standing}");
}
