//! A gateway, an EHR and community organizations in one process: no sockets, a clock that the test moves, and a worker
//! that delivers when the test says so. A test reads as a sentence.
//!
//! Partners' servers are `loopgate::demo::server::FhirServer`s behind a transport that can lose requests and answers.

mod world;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request as HttpRequest;
use loopgate::config::Config;
use loopgate::delivery::Worker;
use loopgate::demo::patient;
use loopgate::gateway::Gateway;
use loopgate::time::Clock;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;

pub use world::{Fault, World};

/// The gateway's FHIR base.
pub const BASE: &str = "https://hub.test/fhir";
/// The clinic's FHIR base.
pub const EHR: &str = "https://ehr.test/fhir";
/// The pantry's FHIR base.
pub const PANTRY: &str = "https://pantry.test/fhir";
/// Where the clinic takes notifications.
pub const HOOK: &str = "https://ehr.test/hook";

/// The handshake follows the answer to the create after so long (S-050).
pub const HANDSHAKE: Duration = Duration::from_millis(300);

/// A gateway under test.
pub struct TestGateway {
    /// The gateway itself.
    pub gateway: Gateway,
    /// The other servers.
    pub world: World,
    /// The time.
    pub clock: Clock,
    router: axum::Router,
    place: Place,
    settings: String,
    /// Who asks by a session instead of a token: its cookie and its form's token.
    pub sessions: Mutex<HashMap<String, (String, String)>>,
}

/// An answer of the gateway.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// The JSON body; null when there is none.
    pub body: Value,
}

impl Answered {
    /// The id of the resource in the body.
    pub fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_default().to_string()
    }
    /// The first issue's expression.
    pub fn expression(&self) -> &str {
        self.body["issue"][0]["expression"][0].as_str().unwrap_or("")
    }
    /// The first issue's text.
    pub fn said(&self) -> &str {
        self.body["issue"][0]["diagnostics"].as_str().unwrap_or("")
    }
    /// The resources of a Bundle.
    pub fn entries(&self) -> Vec<Value> {
        let entries = self.body["entry"].as_array().cloned().unwrap_or_default();
        entries.into_iter().map(|entry| entry["resource"].clone()).collect()
    }
}

/// The configuration's partners. A partner's token is its id.
pub fn partner(id: &str, roles: &str, more: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "[[partner]]\nid = \"{id}\"\nname = \"{id}\"\nroles = [{roles}]\ncredentials = {{ bearer_sha256 = \"{digest}\" }}\n{more}\n"
    )
}

/// The usual county: a clinic with an EHR, a pantry with a server, a light agency, a second food target, a coordinator
/// and an operator.
pub fn county() -> String {
    [
        partner("clinic", "\"source\"", &format!("fhir = {{ base = \"{EHR}\", follow = \"poll\", poll_every = \"1h\" }}")),
        partner(
            "pantry",
            "\"target\"",
            &format!(
                "channel = \"fhir\"\nidentifiers = [{{ system = \"urn:npi\", value = \"77\" }}]\nfhir = {{ base = \"{PANTRY}\", follow = \"poll\", poll_every = \"1h\" }}\nservices = [{{ id = \"pantry-food\", name = \"Pantry\", categories = [\"food-insecurity\"] }}]"
            ),
        ),
        partner(
            "agency",
            "\"target\"",
            "channel = \"light\"\nservices = [{ id = \"agency-housing\", name = \"Housing\", categories = [\"housing-instability\"] }]",
        ),
        partner(
            "kitchen",
            "\"target\"",
            "channel = \"light\"\nservices = [{ id = \"zz-kitchen-food\", name = \"Kitchen\", categories = [\"food-insecurity\"] }]",
        ),
        partner("desk", "\"coordinator\"", ""),
        partner("root", "\"operator\"", ""),
    ]
    .concat()
}

impl TestGateway {
    /// The usual county on a fresh SQLite database.
    pub async fn county() -> TestGateway {
        TestGateway::with(Place::sqlite(), &county()).await
    }

    /// These settings (partners and any further TOML tables) on this database. `{BASE}` and friends are fixed.
    pub async fn with(place: Place, settings: &str) -> TestGateway {
        let world = World::default();
        let clock = place.clock.clone();
        world.open(EHR);
        world.open(PANTRY);
        world.tell_time(&clock.now().to_string());
        for resource in patient::context(&clock.now().to_string()) {
            world.at(EHR, |ehr| ehr.put(resource));
        }
        let gateway = open(&place, settings, &world).await;
        let router = gateway.router();
        TestGateway { gateway, world, clock, router, place, settings: settings.to_string(), sessions: Mutex::default() }
    }

    /// Stops the gateway where it stands and starts another on the same database, as after a crash.
    pub async fn restart(&mut self) {
        self.gateway = open(&self.place, &self.settings, &self.world).await;
        self.router = self.gateway.router();
    }

    /// The same, after an operator has taken this partner out of the configuration.
    pub async fn without(&mut self, partner: &str) {
        let blocks: Vec<&str> = self.settings.split("[[partner]]").collect();
        let kept: Vec<&str> =
            blocks.into_iter().filter(|block| !block.contains(&format!("id = \"{partner}\"\nname"))).collect();
        self.settings = kept.join("[[partner]]");
        self.restart().await;
    }

    /// One more gateway over the same database, in the same world.
    pub async fn another(&self) -> Gateway {
        open(&self.place, &self.settings, &self.world).await
    }

    /// A gateway over the same database with other settings.
    pub async fn over(&self, settings: &str) -> Gateway {
        open(&self.place, settings, &self.world).await
    }

    /// The gateway's database, for what no partner can do.
    pub async fn store(&self) -> loopgate::store::Store {
        self.place.open().await
    }

    /// Forgets the first round of questions: what follows is about what a test does.
    pub async fn settled(self) -> TestGateway {
        self.deliver_due().await;
        self
    }

    /// The worker's turn: everything due is sent.
    pub async fn deliver_due(&self) -> usize {
        self.worker().deliver_due().await.unwrap()
    }

    /// The worker.
    pub fn worker(&self) -> &Worker {
        &self.gateway.worker
    }

    /// Time passes for everybody, and the worker has its turn.
    pub async fn later(&self, duration: Duration) -> usize {
        self.clock.advance(duration);
        self.world.tell_time(&self.clock.now().to_string());
        self.deliver_due().await
    }

    /// Asks this partner's server now, and takes in what it says.
    pub async fn poll(&self, partner: &str) {
        self.clock.advance(Duration::from_secs(1));
        self.world.tell_time(&self.clock.now().to_string());
        self.gateway.app.poll_now(partner).await.unwrap();
        self.deliver_due().await;
    }

    /// One request to the gateway with a partner's token.
    pub async fn ask(
        &self,
        partner: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answered {
        let mut request = HttpRequest::builder().method(method).uri(format!("/fhir/{path}"));
        let session = self.sessions.lock().unwrap().get(partner).cloned();
        if let Some((cookie, token)) = session {
            request = request.header("cookie", format!("__Host-loopgate={cookie}"));
            request = request.header("origin", "https://hub.test").header("x-csrf-token", token);
        } else if !partner.is_empty() {
            request = request.header("authorization", format!("Bearer {partner}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                if !headers.iter().any(|(name, _)| *name == "content-type") {
                    request = request.header("content-type", "application/fhir+json");
                }
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
        Answered { status, headers, body }
    }

    /// GET
    pub async fn get(&self, partner: &str, path: &str) -> Answered {
        self.ask(partner, "GET", path, None, &[]).await
    }
    /// POST
    pub async fn post(&self, partner: &str, path: &str, body: &Value) -> Answered {
        self.ask(partner, "POST", path, Some(body), &[]).await
    }
    /// PUT
    pub async fn put(&self, partner: &str, path: &str, body: &Value) -> Answered {
        self.ask(partner, "PUT", path, Some(body), &[]).await
    }

    /// The clinic makes a ServiceRequest at home (id `request`) and posts a Task about it; the Task's id here.
    pub async fn refers(&self, request: &str, category: &str) -> String {
        let answer = self.post("clinic", "Task", &self.referral(request, category, Some("Organization/hub"))).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.id()
    }

    /// The Task such a referral is made with; its ServiceRequest is put at the EHR.
    pub fn referral(&self, request: &str, category: &str, owner: Option<&str>) -> Value {
        let now = self.clock.now().to_string();
        self.world.at(EHR, |ehr| ehr.put(patient::service_request(request, category, &now)));
        let there = |reference: &str| format!("{EHR}/{reference}");
        let focus = there(&format!("ServiceRequest/{request}"));
        patient::referral_task(None, &focus, &there(patient::REQUESTER), &there(patient::PATIENT), owner, &now)
    }

    /// A Task's status, read by the operator (which is nobody's reading but the operator's).
    pub async fn status(&self, task: &str) -> String {
        self.task(task).await["status"].as_str().unwrap_or("").to_string()
    }

    /// A Task, read by the operator.
    pub async fn task(&self, task: &str) -> Value {
        let answer = self.get("root", &format!("Task/{task}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The ids of the Tasks relayed for this one, oldest first.
    pub async fn relayed(&self, task: &str) -> Vec<String> {
        let found = self.get("root", &format!("Task?part-of=Task/{task}&_sort=authored-on")).await;
        found.entries().iter().map(|task| task["id"].as_str().unwrap().to_string()).collect()
    }

    /// What this partner may see by way of this Task is taken back.
    pub async fn takes_back(&self, partner: &str, task: &str) {
        let mut tx = self.store().await.begin().await.unwrap();
        tx.end_grants(partner, task, None).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A light target PUTs its Task with this status; a reason where one is owed.
    pub async fn answers(&self, partner: &str, task: &str, status: &str) -> Answered {
        let path = format!("Task/{task}");
        let mut body = self.get(partner, &path).await.body;
        body["status"] = json!(status);
        if matches!(status, "rejected" | "cancelled" | "failed") {
            body["statusReason"] = json!({"text": "we can't help with this"});
        }
        self.put(partner, &path, &body).await
    }

    /// `$loop-status` as the coordinator sees it: level and closed.
    pub async fn level(&self, task: &str) -> (String, bool) {
        let answer = self.get("desk", &format!("Task/{task}/$loop-status")).await;
        let parameters = answer.body["parameter"].as_array().cloned().unwrap_or_default();
        let find = |name: &str| parameters.iter().find(|one| one["name"] == name).cloned().unwrap_or_default();
        let level = find("level")["valueCode"].as_str().unwrap_or("").to_string();
        (level, find("closed")["valueBoolean"].as_bool().unwrap_or(false))
    }
}

/// What stands in the settings before their first table is the server's.
async fn open(place: &Place, settings: &str, world: &World) -> Gateway {
    let text = format!(
        "[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"{}\"\n{}\n[server]\npublic_url = \"https://hub.test\"\n{settings}",
        place.url(),
        if settings.contains("[delivery]") {
            ""
        } else {
            "[delivery]\nbackoff = [\"5s\", \"30s\", \"2m\"]\njitter = \"0%\"\n"
        },
    );
    let config = Config::parse(&text, std::path::Path::new(".")).unwrap();
    Gateway::open_with(config, place.clock.clone(), Arc::new(world.clone())).await.unwrap()
}
