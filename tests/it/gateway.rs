//! A gateway, an EHR and community organizations in one process: no sockets, a clock that the test moves, and a worker
//! that delivers when the test says so. A test reads as a sentence.
//!
//! Partners' servers are `loopgate::demo::server::FhirServer`s behind a transport that can lose requests and answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request as HttpRequest;
use loopgate::config::Config;
use loopgate::delivery::{Request, Response, SendError, Sending, Transport, Worker};
use loopgate::demo::patient;
use loopgate::demo::server::{self, FhirServer};
use loopgate::fhir::xml;
use loopgate::gateway::Gateway;
use loopgate::time::{Clock, Timestamp};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::databases::Place;

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

/// What happens to the next requests to a host, in order; then they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This one is answered as usual.
    None,
    /// The request never arrives.
    LoseRequest,
    /// It arrives and is acted on; the answer never comes back.
    LoseAnswer,
    /// Nothing happens, and the answer is this status.
    Answer(u16),
    /// Nothing happens, and the answer is this: status, headers, body.
    Say(u16, &'static [(&'static str, &'static str)], &'static str),
}

/// Everybody else's servers, by base; hooks collect what they are sent.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    houses: HashMap<String, FhirServer>,
    hooks: HashMap<String, Vec<Value>>,
    faults: HashMap<String, VecDeque<Fault>>,
    down: Vec<String>,
    deaf: Vec<String>,
    only_xml: Vec<String>,
    requests: Vec<String>,
    letters: Vec<Request>,
    pages: HashMap<String, (String, String)>,
    refusals: Vec<(String, VecDeque<u16>)>,
    always: Vec<(String, u16)>,
    slow: HashMap<String, (Clock, usize)>,
    /// What servers take for their own base.
    inside: HashMap<String, String>,
    /// Those that compare tags strongly.
    strong: Vec<String>,
    /// How far servers' clocks are ahead, in seconds.
    ahead: HashMap<String, i64>,
}

/// How long a slow server takes; each fourth time longer than anybody waits (`delivery.timeout`).
const SLOW: Duration = Duration::from_secs(15);
const WAITED: Duration = Duration::from_secs(20);

impl Places {
    fn tell_time(&mut self, now: Timestamp) {
        for (base, house) in &mut self.houses {
            let ahead = self.ahead.get(base).copied().unwrap_or(0);
            let off = Duration::from_secs(ahead.unsigned_abs());
            let theirs = if ahead < 0 { now.minus(off) } else { now.plus(off) };
            house.set_now(&theirs.to_string());
        }
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Opens a FHIR server at this base.
    pub fn open(&self, base: &str) {
        self.lock().houses.insert(base.to_string(), FhirServer::new(base));
    }
    /// Acts as the staff of the server at this base.
    pub fn at<T>(&self, base: &str, act: impl FnOnce(&mut FhirServer) -> T) -> T {
        act(self.lock().houses.get_mut(base).expect("no server at this base"))
    }
    /// The next requests to this base (or hook) meet these faults.
    pub fn fault(&self, base: &str, faults: &[Fault]) {
        self.lock().faults.entry(base.to_string()).or_default().extend(faults);
    }
    /// The next requests of this method to this type at this base are answered so, whatever comes in between.
    pub fn refuse(&self, base: &str, method: &str, kind: &str, statuses: &[u16]) {
        let start = format!("{method} {base}/{kind}");
        self.lock().refusals.push((start, statuses.iter().copied().collect()));
    }
    /// Every request that is exactly this, `METHOD url`, is answered so.
    pub fn refuse_exactly(&self, request: &str, status: u16) {
        self.lock().always.push((request.to_string(), status));
    }
    /// A document at this address, with its `Cache-Control`.
    pub fn page(&self, url: &str, cache_control: &str, body: &str) {
        self.lock().pages.insert(url.to_string(), (cache_control.to_string(), body.to_string()));
    }
    /// Nothing at this base answers until [`World::up`].
    pub fn down(&self, base: &str) {
        self.lock().down.push(base.to_string());
    }
    /// It answers again.
    pub fn up(&self, base: &str) {
        self.lock().down.retain(|down| down != base);
    }
    /// The notifications that arrived at a hook.
    pub fn heard(&self, hook: &str) -> Vec<Value> {
        self.lock().hooks.get(hook).cloned().unwrap_or_default()
    }
    /// `METHOD url` of every request the gateway sent, in order.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }
    /// The requests themselves.
    pub fn letters(&self) -> Vec<Request> {
        self.lock().letters.clone()
    }
    /// The server at this base ignores searches by identifier and shows everything.
    pub fn deaf(&self, base: &str) {
        self.lock().deaf.push(base.to_string());
    }
    /// The server at this base writes XML, whatever it is asked for.
    pub fn only_xml(&self, base: &str) {
        self.lock().only_xml.push(base.to_string());
    }
    /// URL and body of every request with a body that the gateway sent, in order, whether it arrived or not.
    pub fn bodies(&self) -> Vec<(String, String)> {
        self.letters().into_iter().filter_map(|letter| Some((letter.url, letter.body?))).collect()
    }
    /// How many requests the gateway has sent.
    pub fn asked(&self) -> usize {
        self.lock().requests.len()
    }
    /// No fault is left, and everybody is up.
    pub fn heal(&self) {
        let mut places = self.lock();
        places.faults.clear();
        places.always.clear();
        places.down.clear();
        places.slow.clear();
    }
    /// The server at this base takes its time, by this clock: 15 seconds an answer, and each fourth comes too late,
    /// whatever it has done.
    pub fn slow(&self, base: &str, clock: &Clock) {
        self.lock().slow.insert(base.to_string(), (clock.clone(), 0));
    }
    /// The server at this base stands behind a proxy, and takes this for its own base.
    pub fn inside(&self, base: &str, inside: &str) {
        self.lock().inside.insert(base.to_string(), inside.to_string());
    }
    /// The server at this base compares tags strongly: a weak one in `If-Match` never matches.
    pub fn strong(&self, base: &str) {
        self.lock().strong.push(base.to_string());
    }
    /// The clock of the server at this base is so many seconds ahead of everybody's, or behind.
    pub fn ahead(&self, base: &str, seconds: i64) {
        self.lock().ahead.insert(base.to_string(), seconds);
    }
    /// Sets everybody's clock, as wrong as it is.
    pub fn tell_time(&self, now: &str) {
        self.lock().tell_time(Timestamp::parse(now).expect("an instant"));
    }

    fn answer(&self, request: Request) -> Result<Response, SendError> {
        let mut places = self.lock();
        places.requests.push(format!("{} {}", request.method, request.url));
        places.letters.push(request.clone());
        let lost = || Err(SendError("no answer in time".into()));
        let house = places.houses.keys().find(|base| request.url.starts_with(base.as_str())).cloned();
        let place = house.clone().unwrap_or_else(|| request.url.clone());
        if places.down.contains(&place) {
            return lost();
        }
        let fault = places.faults.get_mut(&place).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::LoseRequest) => return lost(),
            Some(Fault::Answer(status)) => return Ok(Response { status, headers: vec![], body: b"{}".to_vec() }),
            Some(Fault::Say(status, headers, body)) => {
                let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
                return Ok(Response { status, headers, body: body.as_bytes().to_vec() });
            }
            Some(Fault::LoseAnswer | Fault::None) | None => {}
        }
        let asked = format!("{} {}", request.method, request.url);
        let refusal = places.refusals.iter_mut().find(|(start, left)| asked.starts_with(start) && !left.is_empty());
        if let Some(status) = refusal.and_then(|(_, left)| left.pop_front()) {
            return Ok(Response { status, headers: vec![], body: b"{}".to_vec() });
        }
        if let Some((_, status)) = places.always.iter().find(|(exactly, _)| *exactly == asked) {
            return Ok(Response { status: *status, headers: vec![], body: b"{}".to_vec() });
        }
        if let Some((kept, body)) = places.pages.get(&request.url) {
            let headers = vec![("cache-control".to_string(), kept.clone())];
            return Ok(Response { status: 200, headers, body: body.clone().into_bytes() });
        }
        let mut request = request;
        if places.deaf.iter().any(|base| request.url.starts_with(base.as_str())) {
            request.url = request.url.split("?identifier=").next().unwrap_or_default().to_string();
        }
        let weak = request.headers.iter().any(|(name, value)| name == "if-match" && value.starts_with("W/"));
        if weak && places.strong.contains(&place) {
            return Ok(Response { status: 412, headers: vec![], body: b"{}".to_vec() });
        }
        let in_xml = house.as_ref().is_some_and(|base| places.only_xml.contains(base));
        let mut answer = match house.and_then(|base| places.houses.get_mut(&base)) {
            Some(house) => {
                let answer = house.answer(&server::Request {
                    method: request.method.to_string(),
                    target: request.url,
                    headers: request.headers,
                    body: request.body.unwrap_or_default(),
                });
                let headers = answer.headers.into_iter().map(|(name, value)| (name.to_lowercase(), value));
                Response { status: answer.status, headers: headers.collect(), body: answer.body.into_bytes() }
            }
            None if request.url.contains("/hook") => {
                let heard = request.body.map(|body| serde_json::from_str(&body).unwrap_or(Value::String(body)));
                places.hooks.entry(request.url).or_default().extend(heard);
                Response { status: 200, headers: vec![], body: vec![] }
            }
            None => return Err(SendError("no connection".into())),
        };
        if let Some(inside) = places.inside.get(&place) {
            answer.body = String::from_utf8(answer.body).unwrap().replace(&place, inside).into_bytes();
            answer.headers.iter_mut().for_each(|(_, value)| *value = value.replace(&place, inside));
        }
        if in_xml && !answer.body.is_empty() {
            answer.body = xml::write(&serde_json::from_slice(&answer.body).unwrap()).into_bytes();
            answer.headers.retain(|(name, _)| name != "content-type");
            answer.headers.push(("content-type".into(), "application/fhir+xml;charset=utf-8".into()));
        }
        let mut in_time = true;
        if let Some((clock, asked)) = places.slow.get_mut(&place) {
            *asked += 1;
            in_time = *asked % 4 != 0;
            clock.advance(if in_time { SLOW } else { WAITED });
            let now = clock.now();
            places.tell_time(now);
        }
        if fault == Some(Fault::LoseAnswer) || !in_time { lost() } else { Ok(answer) }
    }
}

impl Transport for World {
    fn send(&self, request: Request) -> Sending {
        let world = self.clone();
        Box::pin(async move { world.answer(request) })
    }
}

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
