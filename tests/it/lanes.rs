//! Many endpoints, some of which never answer: nobody else waits for them, and no server is asked for more than a little
//! at once. The worker runs as it does in a gateway, over a transport on which some servers hang.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loopgate::delivery::{Request, Sending, Transport, Worker};
use loopgate::time::Clock;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};

use crate::databases::Place;
use crate::gateway::{TestGateway, World, county as partners};
use crate::notifications::{heard, numbers, says, subscription, up_to};
use crate::on_both;

/// Longer than anything here takes on a machine that is not broken, and shorter than `delivery.timeout`.
const PATIENCE: Duration = Duration::from_secs(60);

/// The world, but for servers that hang, and one that answers when it is let.
#[derive(Clone)]
struct Slow {
    world: World,
    let_through: Arc<Semaphore>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    arrived: Arc<Notify>,
    clock: Clock,
}

impl Slow {
    fn over(county: &TestGateway) -> Slow {
        let (asked, arrived) = (Arc::default(), Arc::default());
        let (world, clock) = (county.world.clone(), county.clock.clone());
        Slow { world, let_through: Arc::new(Semaphore::new(0)), asked, arrived, clock }
    }
    /// How many requests have come to hosts with this word in their names.
    fn asked(&self, word: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(host, _)| host.contains(word)).map(|(_, count)| count).sum()
    }
    /// Waits for something that requests bring about. Where nothing comes for a second, a second passes here too: what
    /// the database had no time for is tried again after a pause.
    async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        let wait = async {
            loop {
                let next = self.arrived.notified();
                if done().await {
                    return;
                }
                if tokio::time::timeout(Duration::from_secs(1), next).await.is_err() {
                    self.clock.advance(Duration::from_secs(1));
                }
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited too long: {what}");
    }
}

impl Transport for Slow {
    fn send(&self, request: Request) -> Sending {
        let slow = self.clone();
        Box::pin(async move {
            let host = request.url.split('/').nth(2).unwrap_or_default().to_string();
            *slow.asked.lock().unwrap().entry(host.clone()).or_default() += 1;
            slow.arrived.notify_one();
            if host.contains("hung") {
                std::future::pending::<()>().await;
            }
            if host.contains("gated") {
                slow.let_through.acquire().await.unwrap().forget();
            }
            let answer = slow.world.send(request).await;
            slow.arrived.notify_one();
            answer
        })
    }
}

/// A worker at work; it ends when this is dropped.
fn at_work(county: &TestGateway, slow: &Slow) -> watch::Sender<bool> {
    let worker = Worker::new(county.gateway.app.clone(), Arc::new(slow.clone()));
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(worker.run(stopped));
    stop
}

async fn subscribed(county: &TestGateway, who: &str, hooks: impl Iterator<Item = String>) {
    for hook in hooks {
        assert_eq!(county.post(who, "Subscription", &subscription(&hook)).await.status, 201);
    }
    county.later(crate::gateway::HANDSHAKE).await;
}

// S-106, P12: hundreds of endpoints of three partners hang; another partner's hook, and another of the same partner's,
// hear everything, in order, while they do.
on_both!(endpoints_that_hang_delay_nobody_else, async |place: Place| {
    let settings = format!("[delivery]\nbackoff = [\"5s\", \"30s\"]\ntimeout = \"2m\"\n{}", partners());
    let county = TestGateway::with(place, &settings).await.settled().await;
    let hung =
        |who: &'static str, many: usize| (0..many).map(move |number| format!("https://hung{number}.{who}.test/hook"));
    subscribed(&county, "clinic", hung("clinic", 40)).await;
    subscribed(&county, "desk", hung("desk", 99)).await;
    subscribed(&county, "root", hung("root", 99)).await;
    let (own, other) = ("https://quick.clinic.test/hook", "https://quick.agency.test/hook");
    subscribed(&county, "clinic", std::iter::once(own.to_string())).await;
    subscribed(&county, "agency", std::iter::once(other.to_string())).await;

    let slow = Slow::over(&county);
    let _stop = at_work(&county, &slow);
    let task = county.refers("sr1", "housing-instability").await;
    slow.until("the referral is relayed", async || !county.relayed(&task).await.is_empty()).await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    assert_eq!(county.answers("agency", &relayed, "accepted").await.status, 200);
    for (who, hook) in [("clinic", own), ("agency", other)] {
        slow.until(hook, async || {
            let found = county.get(who, "Subscription/$status").await;
            let count = |resource: &Value| {
                let bundle = json!({"entry": [{"resource": resource}]});
                says(&bundle, "events-since-subscription-start").parse::<usize>().unwrap_or(0)
            };
            let most = found.entries().iter().map(count).max().unwrap_or(0);
            most >= 2 && heard(&county, hook).len() >= most
        })
        .await;
        assert_eq!(heard(&county, hook), up_to(heard(&county, hook).len() as i64));
    }
    assert!(slow.asked("hung") >= 40 + 2 * 50, "they were asked meanwhile: {}", slow.asked("hung"));
});

// S-106: one server, many Subscriptions: four requests at a time and no more, the partner's other servers go on; each
// Subscription's events in order in the end.
on_both!(a_server_is_asked_a_little_at_once, async |place: Place| {
    let settings = format!("[delivery]\nbackoff = [\"5s\", \"30s\"]\ntimeout = \"2m\"\n{}", partners());
    let county = TestGateway::with(place, &settings).await.settled().await;
    let hooks: Vec<String> = (0..12).map(|number| format!("https://gated.test/hook/{number}")).collect();
    subscribed(&county, "clinic", hooks.iter().cloned()).await;
    subscribed(&county, "clinic", std::iter::once("https://gated.test:8443/hook".to_string())).await;
    let quick = "https://quick.test/hook";
    subscribed(&county, "clinic", std::iter::once(quick.to_string())).await;

    let slow = Slow::over(&county);
    let _stop = at_work(&county, &slow);
    let first = county.refers("sr1", "housing-instability").await;
    slow.until("a port of its own", async || slow.asked("gated.test:8443") == 1).await;
    slow.until("relayed", async || !county.relayed(&first).await.is_empty()).await;
    county.refers("sr2", "housing-instability").await;
    slow.until("the quick one", async || heard(&county, quick).len() >= 4).await;
    let at_once = || slow.asked("gated.test") - slow.asked("gated.test:8443");
    slow.until("four at a time", async || at_once() >= 4).await;
    assert_eq!(at_once(), 4);
    slow.let_through.add_permits(10_000);
    for hook in &hooks {
        slow.until(hook, async || heard(&county, hook).len() >= 4).await;
        let told = heard(&county, hook);
        assert_eq!(told, up_to(told.len() as i64));
        let bundles = county.world.heard(hook);
        assert!(
            bundles.iter().filter(|bundle| !numbers(bundle).is_empty()).count() <= 2 + told.len(),
            "{}",
            json!(bundles)
        );
    }
});
