//! The worker: claims what is due, sends it, and sleeps until the next thing is due or something new is owed.

use std::collections::HashMap;
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
use super::{collect, fetch, notify, poll, subscribe, task, write_back};

/// Requests in flight in all, and to one partner.
const IN_FLIGHT: usize = 64;
const PER_PARTNER: usize = 4;
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
    /// Which partners' servers take batches, as far as they were asked.
    batches: Arc<Mutex<HashMap<String, bool>>>,
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
        Worker { app, transport, batches: Arc::default(), tokens }
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
        let held: Arc<Mutex<Vec<Claimed>>> = Arc::default();
        let mut tidied = self.app.now();
        while !*stop.borrow() {
            if self.app.now() >= tidied.plus(TIDY) {
                // What is left for now is left for the next look.
                let more = self.app.forget_old_events().await.unwrap_or(false);
                tidied = if more { tidied } else { self.app.now() };
            }
            while under_way.try_join_next().is_some() {}
            let room = IN_FLIGHT.saturating_sub(under_way.len());
            let claimed = match room {
                0 => Vec::new(),
                room => self.app.claim(room.min(PER_PARTNER * 4), &busy(&held)).await.unwrap_or_else(|error| {
                    tracing::error!(cause = error.cause.as_deref().unwrap_or(""), "could not look for what is owed");
                    Vec::new()
                }),
            };
            let mut too_many = Vec::new();
            for one in claimed {
                // A claim may bring more of one partner than it can take at once.
                if count(&held, &one.partner) >= PER_PARTNER {
                    too_many.push(one);
                    continue;
                }
                lock(&held).push(one.clone());
                let (worker, held) = (self.clone(), held.clone());
                under_way.spawn(async move {
                    worker.attend(&one).await;
                    lock(&held).retain(|other| other.id != one.id);
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
            let rest = lock(&held).clone();
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
        if claimed.kind != Owed::Poll && app.partner(&claimed.partner).is_none() {
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
                Some(plan) => {
                    let partner = plan.partner.clone();
                    let server = self.server(&partner);
                    let batches = plan.searches.len() > 1 && self.takes_batches(&server).await;
                    poll::run(app, &server, claimed, plan, batches).await
                }
                None => app.nothing_owed(claimed).await.map(Ok),
            },
        }
    }

    /// Asked once per partner and process; a server that does not say is asked one by one.
    async fn takes_batches(&self, server: &Server<'_>) -> bool {
        let id = &server.partner.id;
        let known = self.batches.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        if let Some(known) = known {
            return known;
        }
        match poll::takes_batches(server).await {
            Ok(takes) => {
                self.batches.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), takes);
                takes
            }
            Err(_) => false,
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

fn lock(held: &Mutex<Vec<Claimed>>) -> std::sync::MutexGuard<'_, Vec<Claimed>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(held: &Mutex<Vec<Claimed>>, partner: &str) -> usize {
    lock(held).iter().filter(|one| one.partner == partner).count()
}

fn busy(held: &Mutex<Vec<Claimed>>) -> Vec<String> {
    let mut partners: Vec<String> = lock(held).iter().map(|one| one.partner.clone()).collect();
    partners.sort_unstable();
    partners.dedup();
    partners.retain(|partner| count(held, partner) >= PER_PARTNER);
    partners
}
