//! The worker: claims what is due, sends it, and sleeps until the next thing is due or something new is owed.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{App, Claimed, Owed};
use crate::config::Partner;
use crate::error::Error;
use crate::fhir::json::Bounds;

use super::client::{Failure, Server, Transport};
use super::token::Tokens;
use super::{collect, discover, fetch, notify, poll, reconcile, subscribe, task, write_back};

/// Requests in flight that may yet be answered soon, in all, and to one partner.
const IN_FLIGHT: usize = 64;
const PER_PARTNER: usize = 4;
/// One that takes longer than this makes room for others: slow servers hold nobody up, until so many of them hang.
const SLOW_AFTER: Duration = Duration::from_secs(2);
const SLOW: usize = 1_024;
/// Deliveries claimed at once.
const CLAIM: usize = 16;
/// Longest sleep: other gateways on the same database may owe something without telling us.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How often a lease is made anew within one try, which so lasts at most as many timeouts.
const RENEWALS: u32 = 30;
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
            let claimed = self.app.claim(IN_FLIGHT, &[]).await?;
            if claimed.is_empty() {
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
        let held = Held::default();
        let mut tidied = self.app.now();
        while !*stop.borrow() {
            if self.app.now() >= tidied.plus(TIDY) {
                // What is left for now is left for the next look.
                let more = self.app.forget_old_events().await.unwrap_or(false);
                tidied = if more { tidied } else { self.app.now() };
            }
            while under_way.try_join_next().is_some() {}
            let claimed = match held.room() {
                0 => Vec::new(),
                room => self.app.claim(room.min(CLAIM), &held.busy()).await.unwrap_or_else(|error| {
                    tracing::error!(cause = error.cause.as_deref().unwrap_or(""), "could not look for what is owed");
                    Vec::new()
                }),
            };
            let mut too_many = Vec::new();
            for one in claimed {
                // A claim may bring more of one partner than it can take at once.
                if held.over(&one.partner) >= PER_PARTNER {
                    too_many.push(one);
                    continue;
                }
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
                    held.remove(&one);
                });
            }
            if !too_many.is_empty() {
                let _ = self.app.hand_back(&too_many).await;
            }
            let pause = self.pause().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.app.owed() => {}
                Some(_) = under_way.join_next(), if !under_way.is_empty() => {}
                _ = stop.changed() => {}
            }
        }
        let drained = tokio::time::timeout(DRAIN, async { while under_way.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            under_way.abort_all();
            let rest = held.all();
            if let Err(error) = self.app.let_go(&rest).await {
                tracing::warn!(%error, "leases could not be handed back; they run out by themselves");
            }
        }
    }

    async fn pause(&self) -> Duration {
        match self.app.next_due().await {
            Ok(Some(due)) => {
                let micros = u64::try_from(due.0.saturating_sub(self.app.now().0)).unwrap_or(0);
                // Due but not claimed means its partner is busy: what ends next will wake us.
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
            Ok(Err(failure)) => {
                tracing::info!(
                    kind = claimed.kind.code(),
                    partner = claimed.partner,
                    subject = claimed.subject,
                    attempt = claimed.attempts,
                    why = failure.why,
                    "a delivery failed"
                );
                self.app.failed(claimed, &failure.why, failure.retry_after).await
            }
            Err(error) => {
                let cause = error.cause.clone().unwrap_or_default();
                tracing::error!(kind = claimed.kind.code(), subject = claimed.subject, %error, cause, "a delivery could not be recorded");
                self.app.failed(claimed, "the gateway could not record the result", None).await
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
        if !matches!(claimed.kind, Owed::Poll | Owed::Discover | Owed::Reconcile)
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
            Owed::Notify => match app.notify_plan(claimed).await? {
                Some(plan) => notify::run(app, self.transport.as_ref(), claimed, plan).await,
                None => app.nothing_owed(claimed).await.map(Ok),
            },
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
struct Held(Arc<Mutex<Vec<(Claimed, bool)>>>);

impl Held {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Claimed, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn add(&self, one: &Claimed) {
        self.lock().push((one.clone(), false));
    }
    fn remove(&self, one: &Claimed) {
        self.lock().retain(|(other, _)| other.id != one.id);
    }
    fn is_slow(&self, one: &Claimed) {
        self.lock().iter_mut().filter(|(other, _)| other.id == one.id).for_each(|(_, slow)| *slow = true);
    }
    fn all(&self) -> Vec<Claimed> {
        self.lock().iter().map(|(one, _)| one.clone()).collect()
    }
    /// How many more may be begun.
    fn room(&self) -> usize {
        let held = self.lock();
        let slow = held.iter().filter(|(_, slow)| *slow).count();
        if slow >= SLOW { 0 } else { IN_FLIGHT.saturating_sub(held.len() - slow) }
    }
    fn over(&self, lane: &str) -> usize {
        self.lock().iter().filter(|(one, _)| one.partner == lane).count()
    }
    /// The partners that can take no more.
    fn busy(&self) -> Vec<String> {
        let mut lanes: Vec<String> = self.lock().iter().map(|(one, _)| one.partner.clone()).collect();
        lanes.sort_unstable();
        let mut busy: Vec<String> = lanes
            .chunk_by(|one, other| one == other)
            .filter(|same| same.len() >= PER_PARTNER)
            .filter_map(|same| same.first().cloned())
            .collect();
        busy.dedup();
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(id: usize, lane: &str) -> Claimed {
        Claimed::for_test(&id.to_string(), lane)
    }

    // S-106
    // P12: what hangs makes room, up to a bound; one partner takes a few at a time.
    #[test]
    fn slow_servers_make_room_and_one_partner_takes_a_few() {
        let held = Held::default();
        for id in 0..IN_FLIGHT {
            held.add(&claimed(id, &format!("lane{}", id % 20)));
        }
        assert_eq!(held.room(), 0);
        for id in 0..10 {
            held.is_slow(&claimed(id, ""));
        }
        assert_eq!(held.room(), 10);
        assert_eq!((held.over("lane0"), held.over("lane19"), held.busy().len()), (4, 3, 4));
        held.remove(&claimed(0, ""));
        assert_eq!((held.room(), held.over("lane0"), held.busy().len()), (10, 3, 3));
        for id in 100..100 + SLOW {
            held.add(&claimed(id, "far"));
            held.is_slow(&claimed(id, "far"));
        }
        assert_eq!(held.room(), 0, "the bound of what hangs");
    }
}
