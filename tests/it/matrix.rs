//! Each way in × each way out × what may be wrong with the partners' servers meanwhile: both sides agree in the end, or
//! the conflict is on record; and an idle day costs what it must. The clock is moved, nobody sleeps.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use loopgate::demo::patient;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::{EHR, Fault, PANTRY, TestGateway, county};

const HOUR: Duration = Duration::from_secs(3_600);
/// What an idle hour costs: a round at each of two servers.
const IDLE_HOUR: usize = 2;
/// What comes once a day on top: at each of them a look (three requests), a reconciliation and a look at a Subscription.
const IDLE_DAY: usize = 2 * 5;

/// What something that stands before a server says in its place.
const PAGE: Fault = Fault::Say(200, &[("content-type", "text/html")], "<html>We are back soon.</html>");

/// Where the source's Task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Posted,
    Kept,
}

/// How the target is reached and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Out {
    Polled,
    Subscribed,
    Light,
}

/// What is wrong with the partners' servers, from when the referral has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Fine,
    Slow,
    DownADay,
    Answers500,
    AnsweredInItsPlace,
    LosesSubscription,
    SendsTwice,
    SendsLate,
    ClockAhead,
    ClockBehind,
    ClockSetBack,
    Restored,
}

struct Cell {
    county: TestGateway,
    way_in: In,
    out: Out,
    trouble: Trouble,
    /// The source's Task here.
    task: String,
    secret: String,
    told: u64,
}

impl Cell {
    async fn begun(way_in: In, out: Out, trouble: Trouble) -> Cell {
        let follow = if out == Out::Subscribed { "subscribe" } else { "poll" };
        let polled = format!("base = \"{PANTRY}\", follow = \"poll\"");
        let settings = county().replace(&polled, &format!("base = \"{PANTRY}\", follow = \"{follow}\""));
        let county = TestGateway::with(Place::in_memory(), &settings).await;
        for base in [EHR, PANTRY] {
            match trouble {
                Trouble::ClockAhead | Trouble::ClockSetBack => county.world.ahead(base, 600),
                Trouble::ClockBehind => county.world.ahead(base, -600),
                _ => {}
            }
        }
        county.world.at(PANTRY, |pantry| pantry.set_subscriptions(out == Out::Subscribed));
        let (task, told) = (String::new(), 0);
        let mut cell = Cell { county, way_in, out, trouble, task, secret: String::new(), told };
        cell.hours(1).await;
        if out == Out::Subscribed {
            let ours = cell.county.world.at(PANTRY, |pantry| pantry.all("Subscription")[0].clone());
            let header = ours["channel"]["header"][0].as_str().unwrap();
            cell.secret = header.strip_prefix("Authorization: ").unwrap().to_string();
            cell.notified("handshake", 0).await;
        }
        let category = if out == Out::Light { "housing-instability" } else { "food-insecurity" };
        match way_in {
            In::Posted => {
                cell.task = cell.county.refers("r1", category).await;
                cell.county.deliver_due().await;
            }
            In::Kept => {
                let owner = Some("https://hub.test/fhir/Organization/hub");
                let mut task = cell.county.referral("r1", category, owner);
                task["id"] = json!("kept");
                cell.county.world.at(EHR, |ehr| ehr.put(task));
                cell.hours(2).await;
                let all = cell.county.get("root", "Task").await.entries();
                let source =
                    all.iter().find(|one| one["partOf"].is_null()).expect("it was found at the clinic's server");
                cell.task = source["id"].as_str().unwrap().to_string();
            }
        }
        cell
    }

    async fn hours(&self, many: usize) {
        for _ in 0..many {
            self.county.later(HOUR).await;
        }
    }

    /// The pantry's server tells us something.
    async fn notified(&self, kind: &str, number: u64) {
        let mut list = vec![
            json!({"name": "status", "valueCode": "active"}),
            json!({"name": "type", "valueCode": kind}),
            json!({"name": "events-since-subscription-start", "valueString": number.to_string()}),
        ];
        if number > 0 {
            list.push(json!({"name": "notification-event", "part": [{"name": "event-number", "valueString": number.to_string()}]}));
        }
        let body = json!({"resourceType": "Bundle", "type": "history",
            "entry": [{"resource": {"resourceType": "Parameters", "parameter": list}}]});
        let request = Request::post("/hooks/pantry").header("authorization", &self.secret);
        let request = request.header("content-type", "application/fhir+json").body(Body::from(body.to_string()));
        let answer = self.county.gateway.router().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{self}");
    }

    /// The target's Task, at its own server or here.
    async fn theirs(&self) -> (String, Value) {
        let task = match self.out {
            Out::Light => {
                let ours = self.county.relayed(&self.task).await;
                self.county.task(&ours[0]).await
            }
            Out::Polled | Out::Subscribed => {
                let part_of = format!("https://hub.test/fhir/Task/{}", self.task);
                self.county.world.at(PANTRY, |pantry| {
                    let mut all =
                        pantry.all("Task").into_iter().filter(|one| one["partOf"][0]["reference"] == part_of.as_str());
                    all.next_back().cloned().unwrap_or_default()
                })
            }
        };
        (task["id"].as_str().unwrap_or_default().to_string(), task)
    }

    /// The target's staff take a step, and its server tells us as it does.
    async fn steps(&mut self, status: &str) {
        let times = if self.trouble == Trouble::SendsTwice { 2 } else { 1 };
        for _ in 0..times {
            let (id, task) = self.theirs().await;
            if self.out == Out::Light {
                self.county.answers("agency", &id, status).await;
                continue;
            }
            self.county.world.at(PANTRY, |pantry| {
                if status == "completed" {
                    let text = |name: &str| task[name]["reference"].as_str().unwrap().to_string();
                    let done = patient::procedure(&text("focus"), &text("for"), "food-insecurity", "2026-11-26");
                    let done = format!("Procedure/{}", pantry.put(done));
                    pantry.update("Task", &id, |task| patient::completed_with(task, &done));
                } else {
                    pantry.update("Task", &id, |task| task["status"] = json!(status));
                }
            });
        }
        let tells = !matches!(self.trouble, Trouble::LosesSubscription | Trouble::DownADay);
        if self.out == Out::Subscribed && tells {
            self.told += 1;
            if self.trouble == Trouble::SendsLate {
                self.hours(2).await;
            }
            for _ in 0..times {
                self.notified("event-notification", self.told).await;
            }
        }
        self.county.deliver_due().await;
    }

    async fn conflicts(&self) -> usize {
        let answer = self.county.get("desk", "Task/$conflicts").await;
        answer.body["parameter"].as_array().map_or(0, Vec::len)
    }

    fn at_home(&self) -> Value {
        self.county.world.at(EHR, |ehr| ehr.get("Task", "kept").map_or(Value::Null, |task| task["status"].clone()))
    }

    async fn runs(mut self) {
        let world = self.county.world.clone();
        let backups = [EHR, PANTRY].map(|base| (base, world.at(base, |house| house.backup())));
        for base in [EHR, PANTRY] {
            match self.trouble {
                Trouble::Slow => world.slow(base, &self.county.clock),
                Trouble::Answers500 => world.fault(base, &[Fault::Answer(500); 6]),
                Trouble::AnsweredInItsPlace => world.fault(base, &[PAGE; 6]),
                Trouble::ClockSetBack => world.ahead(base, 0),
                Trouble::DownADay => world.down(base),
                _ => {}
            }
        }
        if self.trouble == Trouble::LosesSubscription {
            world.at(PANTRY, |pantry| {
                let id = pantry.all("Subscription").last().map(|one| one["id"].as_str().unwrap().to_string());
                id.iter().for_each(|id| pantry.erase("Subscription", id));
            });
        }
        self.steps("accepted").await;
        self.hours(if self.trouble == Trouble::DownADay { 24 } else { 2 }).await;
        match self.trouble {
            Trouble::DownADay => world.heal(),
            Trouble::Restored => {
                backups.iter().for_each(|(base, backup)| world.at(base, |house| house.restore(backup)));
                self.hours(26).await;
                let behind = self.out != Out::Light;
                assert_eq!(self.conflicts().await, usize::from(behind), "{self}: the older status is on record");
                if behind {
                    self.steps("accepted").await;
                }
            }
            _ => {}
        }
        self.hours(2).await;
        self.steps("in-progress").await;
        self.hours(1).await;
        self.steps("completed").await;
        self.hours(27).await;
        let (_, theirs) = self.theirs().await;
        let ours = self.county.task(&self.task).await;
        assert_eq!((&theirs["status"], &ours["status"]), (&json!("completed"), &json!("completed")), "{self}");
        if self.out != Out::Light {
            assert!(ours["output"].as_array().is_some_and(|all| !all.is_empty()), "{self}: the outcome is linked");
        }
        if self.way_in == In::Kept {
            assert_eq!(self.at_home(), "completed", "{self}");
        }
        assert_eq!(self.conflicts().await, 0, "{self}");
        // An idle day, hour by hour: what is asked, and no more.
        world.heal();
        self.hours(1).await;
        let begun = world.asked();
        let mut busy = 0;
        for _ in 0..24 {
            let before = world.asked();
            self.hours(1).await;
            let asked = world.requests().split_off(before);
            assert!(asked.len() <= IDLE_HOUR + IDLE_DAY, "{self}: in an idle hour {asked:#?}");
            busy += usize::from(asked.len() > IDLE_HOUR);
        }
        let asked = world.requests().split_off(begun);
        assert!(asked.len() <= 24 * IDLE_HOUR + IDLE_DAY, "{self}: {} in an idle day: {asked:#?}", asked.len());
        assert!(busy <= 6, "{self}: {busy} hours of an idle day were not idle");
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?} × {:?} × {:?}", self.way_in, self.out, self.trouble)
    }
}

/// One trouble, all ways in and out.
async fn all_ways(trouble: Trouble) {
    for way_in in [In::Posted, In::Kept] {
        for out in [Out::Polled, Out::Subscribed, Out::Light] {
            Cell::begun(way_in, out, trouble).await.runs().await;
        }
    }
}

macro_rules! matrix {
    ($($name:ident: $trouble:ident,)*) => {$(
        // G-132, G-134, D3: one row of the matrix.
        #[tokio::test]
        async fn $name() {
            all_ways(Trouble::$trouble).await;
        }
    )*};
}

matrix! {
    partners_are_fine: Fine,
    partners_are_slow: Slow,
    partners_are_down_for_a_day: DownADay,
    partners_answer_500: Answers500,
    something_answers_200_in_partners_place: AnsweredInItsPlace,
    a_partner_loses_our_subscription: LosesSubscription,
    a_partner_sends_everything_twice: SendsTwice,
    a_partner_sends_late: SendsLate,
    partners_clocks_are_ten_minutes_ahead: ClockAhead,
    partners_clocks_are_ten_minutes_behind: ClockBehind,
    partners_clocks_are_set_back: ClockSetBack,
    partners_are_restored_from_an_old_backup: Restored,
}
