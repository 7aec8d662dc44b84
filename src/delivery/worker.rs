//! The worker: claims what is due, sends it, and sleeps until the next thing is due or something new is owed.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{App, Busy, Claimed, Owed};
use crate::config::Partner;
use crate::error::{Error, Kind as ErrorKind};
use crate::fhir::json::Bounds;

use super::client::{Failure, Server, Transport};
use super::token::Tokens;
use super::{collect, discover, fetch, notify, poll, reconcile, subscribe, task, write_back};

/// Requests in flight that may yet be answered soon.
const IN_FLIGHT: usize = 256;
/// Requests in flight to one server, so that it is not flooded (a partner's own may have another bound:
/// `fhir.concurrency`), and to all those of one partner.
const PER_LANE: i64 = 4;
const PER_PARTNER: i64 = 64;
/// One that takes longer than this makes room for others, and its server begins without a place until it is quick again:
/// slow servers hold nobody up, until so many of them hang.
const SLOW_AFTER: Duration = Duration::from_secs(1);
const SLOW: usize = 1_024;
/// Deliveries claimed at once.
const CLAIM: usize = 64;
/// Longest sleep: other gateways on the same database may owe something without telling us.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How often a lease is made anew within one try, which so lasts at most as many timeouts.
pub(super) const RENEWALS: u32 = 30;
/// Pause between two looks for events that are old enough to be forgotten.
const TIDY: Duration = Duration::from_secs(600);
/// How long deliveries under way may take at the end.
const DRAIN: Duration = Duration::from_secs(6);

/// Sends what is owed.
#[derive(Clone)]
pub struct Worker {
    app: App,
    transport: Arc<dyn Transport>,
    tokens: Arc<Tokens>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Worker")
    }
}

impl Worker {
    /// A worker over this transport.
    pub fn new(app: App, transport: Arc<dyn Transport>) -> Worker {
        let tokens = Arc::new(Tokens::new(app.clock()));
        Worker { app, transport, tokens }
    }

    /// Sends everything that is due now, one after the other, until nothing is; answers how many tries that took. For
    /// tests, which move the clock and then call this.
    pub async fn deliver_due(&self) -> Result<usize, Error> {
        let mut tries = 0;
        loop {
            let claimed = self.app.claim(IN_FLIGHT, &Busy::default()).await?;
            if claimed.is_empty() && self.app.rounds_waiting() == 0 {
                return Ok(tries);
            }
            for one in claimed {
                tries += 1;
                self.attend(&one).await;
            }
        }
    }

    /// Works until told to stop; then lets what is under way finish, and gives the rest back.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut under_way: JoinSet<()> = JoinSet::new();
        let held = Held::with(self.app.concurrency());
        let mut tidied = self.app.now();
        while !*stop.borrow() {
            if self.app.now() >= tidied.plus(TIDY) {
                // What is left for now is left for the next look.
                let more = self.app.forget_old_events().await.unwrap_or(false);
                tidied = if more { tidied } else { self.app.now() };
            }
            while under_way.try_join_next().is_some() {}
            let busy = held.busy();
            let claimed = match held.room() {
                // What has ended is recorded all the same.
                0 if self.app.rounds_waiting() < CLAIM => Vec::new(),
                room => self.app.claim(room.min(CLAIM), &busy).await.unwrap_or_else(|error| {
                    tracing::error!(cause = error.cause.as_deref().unwrap_or(""), "could not look for what is owed");
                    Vec::new()
                }),
            };
            let more = claimed.len() == CLAIM
                || self.app.rounds_waiting() >= CLAIM
                || (!claimed.is_empty() && held.is_uneven(&busy));
            for one in claimed {
                held.add(&one);
                let (worker, held) = (self.clone(), held.clone());
                under_way.spawn(async move {
                    let mut attending = pin!(worker.attend(&one));
                    let soon = tokio::time::timeout(SLOW_AFTER, attending.as_mut()).await;
                    if soon.is_err() {
                        held.is_slow(&one);
                        worker.app.wake();
                        attending.await;
                    }
                    held.remove(&one, soon.is_ok());
                });
            }
            if more {
                continue;
            }
            // What ends tells of itself what it owes; that it makes room matters where there was none.
            let full = !busy.full.is_empty();
            let busy = held.busy();
            let waits = full || !busy.full.is_empty() || held.room() == 0;
            let pause = self.pause(&held, &busy).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.app.owed() => {}
                Some(_) = under_way.join_next(), if waits && !under_way.is_empty() => {}
                _ = stop.changed() => {}
            }
        }
        let drained = tokio::time::timeout(DRAIN, async { while under_way.join_next().await.is_some() {} }).await;
        if let Err(error) = self.app.claim(0, &Busy::default()).await {
            tracing::warn!(%error, "rounds that had ended could not be recorded; they are asked again");
        }
        if drained.is_err() {
            under_way.abort_all();
            let rest = held.all();
            if let Err(error) = self.app.let_go(&rest).await {
                tracing::warn!(%error, "leases could not be handed back; they run out by themselves");
            }
        }
    }

    async fn pause(&self, held: &Held, busy: &Busy) -> Duration {
        match self.app.next_due(busy).await {
            // What ends next will wake us.
            _ if held.room() == 0 => LONGEST_SLEEP,
            Ok(Some(due)) => {
                let micros = u64::try_from(due.0.saturating_sub(self.app.now().0)).unwrap_or(0);
                Duration::from_micros(micros.max(5_000)).min(LONGEST_SLEEP)
            }
            _ => LONGEST_SLEEP,
        }
    }

    /// One delivery, start to end. Whatever happens is recorded; a lease that could not be given back runs out.
    pub async fn attend(&self, claimed: &Claimed) {
        let sent = tokio::select! {
            sent = self.send(claimed) => sent,
            lost = self.keep(claimed) => match lost {
                Some(failure) => Ok(Err(failure)),
                // Somebody else has it, and will record what comes of it.
                None => return,
            },
        };
        let result = match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => self.app.failed(claimed, &failure.why, failure.retry_after).await,
            Err(error) => {
                let cause = error.cause.clone().unwrap_or_default();
                tracing::error!(kind = claimed.kind.code(), subject = claimed.subject, %error, cause, "a delivery could not be recorded");
                if claimed.kind == Owed::Notify && error.kind == ErrorKind::Unavailable {
                    self.app.unrecorded(claimed).await
                } else {
                    self.app.failed(claimed, "the gateway could not record the result", None).await
                }
            }
        };
        if let Err(error) = result {
            let cause = error.cause.clone().unwrap_or_default();
            tracing::error!(
                kind = claimed.kind.code(),
                subject = claimed.subject,
                cause,
                "a failed delivery could not be recorded"
            );
        }
    }

    /// Keeps the lease while a try takes its time: many requests to a slow server last longer than one lease. Ends when
    /// the lease is lost, or with a failure when the try has taken too long.
    async fn keep(&self, claimed: &Claimed) -> Option<Failure> {
        for _ in 0..RENEWALS {
            tokio::time::sleep(self.app.config().delivery.timeout).await;
            if let Ok(false) = self.app.renew(claimed).await {
                return None;
            }
        }
        Some(Failure::new("it took too long in all"))
    }

    async fn send(&self, claimed: &Claimed) -> Result<Result<(), Failure>, Error> {
        let app = &self.app;
        if !matches!(claimed.kind, Owed::Poll | Owed::Discover | Owed::Reconcile | Owed::Expire)
            && app.partner(&claimed.partner).is_none()
        {
            return Ok(Err(Failure::new("the partner is not in the configuration any more")));
        }
        match claimed.kind {
            Owed::Fetch => match app.fetch_plan(claimed).await? {
                Some(plan) => fetch::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::Deliver => match app.deliver_plan(claimed).await? {
                Some(plan) => task::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::Collect => match app.collect_plan(claimed).await? {
                Some(plan) => collect::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::WriteBack => match app.write_back_plan(claimed).await? {
                Some(plan) => write_back::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::Notify => notify::run(app, self.transport.as_ref(), claimed).await.map(Ok),
            Owed::Subscribe => match app.subscribe_plan(claimed).await? {
                Some(plan) => subscribe::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::Poll => match app.poll_plan(claimed).await? {
                Some(plan) => poll::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::Reconcile => match app.reconcile_plan(claimed).await? {
                Some(plan) => reconcile::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
            Owed::Expire => app.consent_ends(claimed).await.map(Ok),
            Owed::Discover => match app.discover_plan(claimed) {
                Some(plan) => discover::run(app, &self.server(&plan.partner.clone()), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
        }
    }

    fn server<'a>(&'a self, partner: &'a Partner) -> Server<'a> {
        let limits = &self.app.config().limits;
        Server {
            transport: self.transport.as_ref(),
            partner,
            bounds: Bounds { depth: limits.depth, string: limits.string },
            tokens: &self.tokens,
            intermediary: self.app.name_as_intermediary(),
        }
    }
}

/// What is under way, and whether it takes long.
#[derive(Clone, Default)]
struct Held {
    places: Arc<Mutex<Places>>,
    /// The lanes with another bound than most, and the same, the narrowest first.
    of_lane: Arc<HashMap<String, i64>>,
    narrowest: Arc<Vec<(i64, String)>>,
}

#[derive(Default)]
struct Places {
    held: Vec<(Claimed, bool)>,
    /// The servers that were slow last; no more of them than may hang.
    slow: HashSet<String>,
}

impl Held {
    fn with(bounds: HashMap<String, i64>) -> Held {
        let of_lane: HashMap<String, i64> = bounds.into_iter().filter(|(_, most)| *most != PER_LANE).collect();
        let mut narrowest: Vec<(i64, String)> = of_lane.iter().map(|(lane, most)| (*most, lane.clone())).collect();
        narrowest.sort_unstable();
        Held { places: Arc::default(), of_lane: Arc::new(of_lane), narrowest: Arc::new(narrowest) }
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn add(&self, one: &Claimed) {
        let mut places = self.lock();
        let slow = places.slow.contains(&one.lane);
        places.held.push((one.clone(), slow));
    }
    /// It has ended, soon or late.
    fn remove(&self, one: &Claimed, soon: bool) {
        let mut places = self.lock();
        places.held.retain(|(other, _)| other.id != one.id);
        if soon {
            places.slow.remove(&one.lane);
        }
    }
    fn is_slow(&self, one: &Claimed) {
        let mut places = self.lock();
        places.held.iter_mut().filter(|(other, _)| other.id == one.id).for_each(|(_, slow)| *slow = true);
        if places.slow.len() < SLOW {
            places.slow.insert(one.lane.clone());
        }
    }
    fn all(&self) -> Vec<Claimed> {
        self.lock().held.iter().map(|(one, _)| one.clone()).collect()
    }
    /// How many more may be begun.
    fn room(&self) -> usize {
        let held = &self.lock().held;
        let slow = held.iter().filter(|(_, slow)| *slow).count();
        if slow >= SLOW { 0 } else { IN_FLIGHT.saturating_sub(held.len() - slow) }
    }
    /// The servers and the partners that can take no more, and how many the others can take: each as many as the fullest
    /// of them.
    fn busy(&self) -> Busy {
        let places = self.lock();
        let mut full = Vec::new();
        // Only what is held is gone through: there may be thousands of lanes.
        let mut left = |most: i64, bounds: &HashMap<String, i64>, name: fn(&Claimed) -> &str| {
            let mut left: HashMap<&str, i64> = HashMap::new();
            for (one, _) in &places.held {
                let name = name(one);
                *left.entry(name).or_insert_with(|| bounds.get(name).copied().unwrap_or(most)) -= 1;
            }
            full.extend(left.iter().filter(|(_, left)| **left <= 0).map(|(name, _)| name.to_string()));
            left.into_values().filter(|left| *left > 0).min().map_or(most, |left| left.min(most))
        };
        let per_lane = left(PER_LANE, &self.of_lane, |one| &one.lane);
        let per_partner = left(PER_PARTNER, &HashMap::new(), |one| &one.partner);
        let narrowest = self.narrowest.iter().find(|(_, lane)| !full.contains(lane)).map(|(most, _)| *most);
        Busy { full, per_lane: narrowest.map_or(per_lane, |most| most.min(per_lane)), per_partner }
    }
    /// Whether a claim may have kept something back where there was room: a lane that was fuller, or has a smaller bound,
    /// counts for all.
    fn is_uneven(&self, busy: &Busy) -> bool {
        busy.per_lane < PER_LANE || !self.of_lane.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(id: usize, lane: &str) -> Claimed {
        Claimed::for_test(&id.to_string(), "house", lane)
    }

    // S-106
    // P12: what hangs makes room, up to a bound; one server takes a few at a time, and the servers of one partner some more.
    #[test]
    fn slow_servers_make_room_and_one_server_takes_a_few() {
        let held = Held::default();
        let places = IN_FLIGHT;
        for id in 0..4 {
            let busy = held.busy();
            assert_eq!((busy.full.len(), busy.per_lane), (0, 4 - id));
            held.add(&claimed(id.try_into().unwrap(), "https://a"));
        }
        let busy = held.busy();
        assert_eq!((busy.full, busy.per_lane, busy.per_partner), (vec!["https://a".to_string()], 4, 60));
        held.add(&claimed(9, "https://a:8443"));
        assert_eq!(held.busy().per_lane, 3);
        held.remove(&claimed(9, "https://a:8443"), true);
        assert_eq!(held.room(), places - 4);
        let own = Held::with(HashMap::from([("fhir:house".to_string(), 1), ("fhir:mill".to_string(), PER_LANE)]));
        assert_eq!((own.busy().full.len(), own.busy().per_lane), (0, 1), "a bound of its own");
        own.add(&claimed(0, "fhir:house"));
        assert_eq!((own.busy().full, own.busy().per_lane), (vec!["fhir:house".to_string()], 4));
        held.is_slow(&claimed(0, "https://a"));
        assert_eq!((held.room(), held.busy().full.len()), (places - 3, 1), "it still counts for its server");
        held.remove(&claimed(0, "https://a"), false);
        held.add(&claimed(0, "https://a"));
        assert_eq!(held.room(), places - 3, "it was slow last time: it takes no place from the quick");
        held.remove(&claimed(0, "https://a"), true);
        held.add(&claimed(0, "https://a"));
        assert_eq!(held.room(), places - 4, "quick again");
        for id in 4..64 {
            held.add(&claimed(id, &format!("https://{id}")));
        }
        assert!(held.busy().full.contains(&"house".to_string()));
        for id in 100..100 + SLOW {
            held.add(&claimed(id, "far"));
            held.is_slow(&claimed(id, "far"));
        }
        assert_eq!(held.room(), 0, "the bound of what hangs");
    }
}
