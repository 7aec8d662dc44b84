//! Time, and what goes wrong in it: servers that break or are set back, workers that are cut off or hang, restarts.

use super::*;

impl Simulation {
    pub(super) async fn works(&mut self) {
        let tries = self.county.deliver_due().await;
        self.did("works", format!("{tries} tries"));
    }

    pub(super) async fn time_passes(&mut self) {
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

    pub(super) async fn polls(&mut self) {
        let Some(partner) = self.dice.of(&["clinic", "ward", "pantry"]) else { return };
        self.did("polls", partner.to_string());
        self.county.poll(partner).await;
    }

    pub(super) fn something_breaks(&mut self) {
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
    pub(super) async fn long_outage(&mut self) {
        let Some(place) = self.dice.of(&[EHR, EHR, PANTRY, PANTRY, WARD, HOOK]) else { return };
        self.county.world.down(place);
        let mut tries = 0;
        for _ in 0..5 {
            tries += self.county.later(Duration::from_secs(200)).await;
        }
        self.county.world.up(place);
        self.did("long outage", format!("{place}, {tries} tries"));
    }

    pub(super) fn somebody_is_back(&mut self) {
        self.county.world.heal();
        self.did("all are back", String::new());
    }

    pub(super) async fn restarts(&mut self) {
        self.county.restart().await;
        self.did("restarts", String::new());
    }

    /// A worker is lost in the middle of a delivery: after some requests were sent, or anywhere.
    pub(super) async fn worker_is_cut_off(&mut self) {
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
    pub(super) async fn worker_hangs(&mut self) {
        let claimed = self.county.gateway.app.claim(3, &Busy::default()).await.unwrap();
        self.did("worker hangs", format!("with {}", claimed.len()));
        self.stale.extend(claimed);
    }

    /// It goes on as if nothing had happened; somebody else may have done its work.
    pub(super) async fn hung_worker_returns(&mut self) {
        for one in std::mem::take(&mut self.stale) {
            self.did("hung worker returns", format!("{:?} of {}", one.kind, one.partner));
            self.county.worker().clone().attend(&one).await;
        }
    }

    pub(super) fn keeps_a_backup(&mut self, base: &'static str) {
        let backup = self.county.world.at(base, |house| house.backup());
        self.backups.push(Kept { base, backup, counted: self.counted.clone() });
    }

    /// A server dies, and its last backups are what is left: an old one is put back.
    pub(super) fn is_set_back(&mut self) {
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
}

/// Drives a future until it ends or `enough` says so after a turn; then it is dropped where it stands.
pub(super) async fn cut<T>(future: impl Future<Output = T>, enough: impl Fn(u64) -> bool) -> Option<T> {
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
