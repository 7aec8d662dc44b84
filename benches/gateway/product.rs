//! The product under measurement: the real program in a process of its own, with a small county of partners, and the
//! requests it is loaded with. Every referral has its own ServiceRequest; patient and Consent are here, consent counts.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loopgate::demo::patient;
use serde_json::{Value, json};

use super::client::{Connection, Requests, Until, load, request};
use super::runner::Server;

/// A gateway and what its database already holds.
pub struct Product {
    pub server: Server,
    pub url: String,
    /// Where the pantry's server and the clinic's hook are.
    world: String,
    folder: PathBuf,
    places: Vec<(String, String)>,
    /// Partners of its configuration beside the usual ones.
    more: String,
    /// How long it took from the start of the process to the first 200.
    pub start: Duration,
}

/// Variables for the dynamic linker: a library that counts or leaves out fsync.
pub type Environment = Vec<(String, String)>;

impl Product {
    /// Starts on a database that is new, and puts the patient's context there.
    pub async fn fresh(url: &str, folder: &Path, world: &str, environment: &Environment) -> Product {
        let mut product = Product::start(url, folder, world, environment, Vec::new(), 0).await;
        product.introduce().await;
        product
    }

    /// The same, and so many programs of operators more, `s0`, `s1` …, who may subscribe to all.
    pub async fn with_subscribers(url: &str, folder: &Path, world: &str, subscribers: usize) -> Product {
        let mut product = Product::start(url, folder, world, &Vec::new(), Vec::new(), subscribers).await;
        product.introduce().await;
        product
    }

    /// The same, and these partners more.
    pub async fn with_partners(url: &str, folder: &Path, world: &str, partners: &str) -> Product {
        let mut product = Product::launch(&free(), url, folder, world, &Vec::new(), Vec::new(), partners).await;
        product.introduce().await;
        product
    }

    /// Starts on a database that is there, with the context that another has put in it.
    pub async fn start(
        url: &str,
        folder: &Path,
        world: &str,
        environment: &Environment,
        places: Vec<(String, String)>,
        subscribers: usize,
    ) -> Product {
        let subscribers: String =
            (0..subscribers).map(|number| partner(&format!("s{number}"), "operator", "")).collect();
        Product::launch(&free(), url, folder, world, environment, places, &subscribers).await
    }

    async fn launch(
        address: &str,
        url: &str,
        folder: &Path,
        world: &str,
        environment: &Environment,
        places: Vec<(String, String)>,
        more: &str,
    ) -> Product {
        let file = folder.join(format!("config-{}.toml", address.replace(':', "-")));
        std::fs::write(&file, config(address, url, world) + more).unwrap();
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_loopgate"))
            .args(["serve", "--config"])
            .arg(&file)
            .envs(environment.iter().cloned())
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Server::of(child, address.to_string());
        let ask = request("GET", "/health/ready", "", &[], "");
        while began.elapsed() < Duration::from_secs(30) {
            if let Ok(mut connection) = Connection::open(address).await
                && matches!(connection.ask(&ask).await, Ok((200, _)))
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = began.elapsed();
        let (url, world, folder, more) = (url.to_string(), world.to_string(), folder.to_path_buf(), more.to_string());
        Product { server, url, world, folder, places, more, start }
    }

    /// The same database under a new process.
    pub async fn restart(self) -> Product {
        self.restart_after(async || {}).await
    }

    /// The same, and something is done to the database in between. It keeps its address, by which its Tasks are known.
    pub async fn restart_after(self, act: impl AsyncFnOnce()) -> Product {
        let Product { server, url, world, folder, places, more, .. } = self;
        let address = server.address.clone();
        drop(server);
        act().await;
        Product::launch(&address, &url, &folder, &world, &Vec::new(), places, &more).await
    }

    /// One request that has to succeed.
    pub async fn ask(&self, token: &str, method: &str, path: &str, body: &str) -> Value {
        let mut connection = Connection::open(&self.server.address).await.unwrap();
        let (status, bytes) = connection.ask(&request(method, path, token, &[], body)).await.unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }

    /// The patient and what a referral refers to, as the clinic posts it.
    async fn introduce(&mut self) {
        self.places.push((patient::CLINIC.into(), "Organization/clinic".into()));
        for one in patient::context(NOW) {
            if one["resourceType"] == "Organization" {
                continue;
            }
            let (kind, id) = (one["resourceType"].as_str().unwrap().to_string(), one["id"].as_str().unwrap());
            let before = format!("{kind}/{id}");
            let made = self.ask("clinic", "POST", &format!("/fhir/{kind}"), &self.placed(&one)).await;
            self.places.push((before, format!("{kind}/{}", made["id"].as_str().unwrap())));
        }
    }

    fn placed(&self, value: &Value) -> String {
        let mut text = value.to_string();
        for (from, to) in &self.places {
            text = text.replace(&format!("\"{from}\""), &format!("\"{to}\""));
        }
        text
    }

    /// A Task of about 4 kB, for this ServiceRequest, with this owner.
    pub fn task(&self, focus: &str, owner: &str) -> Value {
        let task = patient::referral_task(None, focus, patient::REQUESTER, patient::PATIENT, Some(owner), NOW);
        let mut task: Value = serde_json::from_str(&self.placed(&task)).unwrap();
        task["note"] = json!([{"text": prose(1_376)}, {"text": prose(1_548)}]);
        task
    }

    fn service_request(&self) -> Value {
        let mut value = patient::service_request("x", "food-insecurity", NOW);
        value.as_object_mut().unwrap().shift_remove("id");
        serde_json::from_str(&self.placed(&value)).unwrap()
    }

    /// Posts so many ServiceRequests; their references.
    pub async fn service_requests(&self, count: usize) -> Vec<String> {
        let one = self.service_request();
        let mut made = Vec::new();
        while made.len() < count {
            let entries: Vec<Value> = (0..100.min(count - made.len()))
                .map(|_| json!({"resource": one, "request": {"method": "POST", "url": "ServiceRequest"}}))
                .collect();
            let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": entries});
            let answer = self.ask("clinic", "POST", "/fhir", &bundle.to_string()).await;
            for entry in answer["entry"].as_array().unwrap() {
                made.push(format!("ServiceRequest/{}", entry["resource"]["id"].as_str().unwrap()));
            }
        }
        made
    }

    /// POSTs of a Task that is brokered at once: its ServiceRequest is here already.
    pub async fn creates(&self, count: usize) -> (Requests, Vec<Value>) {
        let list = self.service_requests(count).await;
        let tasks: Vec<Value> = list.iter().map(|focus| self.task(focus, "Organization/agency")).collect();
        let bodies: Vec<Vec<u8>> =
            tasks.iter().map(|task| request("POST", "/fhir/Task", "clinic", &[], &task.to_string())).collect();
        (Arc::new(move |number| bodies[number].clone()), tasks)
    }

    /// POSTs of a Task that is stored and matched, and asks nothing of anybody else: what the bare create does.
    pub fn kept(&self) -> (Requests, Value) {
        let mut task = self.task("x", patient::PATIENT);
        let elements = task.as_object_mut().unwrap();
        elements.shift_remove("focus");
        elements["meta"] =
            json!({"profile": ["http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForPatient"]});
        let text = self.placed(&task);
        let body = request("POST", "/fhir/Task", "clinic", &[], &text);
        (Arc::new(move |_| body.clone()), serde_json::from_str(&text).unwrap())
    }

    /// POSTs of a draft: stored, and nobody is told.
    pub fn kept_draft(&self, task: &Value) -> (Requests, Value) {
        let body = request("POST", "/fhir/Task", "root", &[], &task.to_string());
        (Arc::new(move |_| body.clone()), task.clone())
    }

    /// A transaction of ServiceRequest and Task.
    pub fn referral(&self, owner: &str) -> Value {
        let task = self.task("urn:uuid:11111111-1111-4111-8111-111111111111", owner);
        json!({"resourceType": "Bundle", "type": "transaction", "entry": [
            {"fullUrl": "urn:uuid:11111111-1111-4111-8111-111111111111", "resource": self.service_request(),
                "request": {"method": "POST", "url": "ServiceRequest"}},
            {"fullUrl": "urn:uuid:22222222-2222-4222-8222-222222222222", "resource": task,
                "request": {"method": "POST", "url": "Task"}}]})
    }

    pub fn referrals(&self, owner: &str) -> Requests {
        let body = request("POST", "/fhir", "clinic", &[], &self.referral(owner).to_string());
        Arc::new(move |_| body.clone())
    }

    /// Takes in so many referrals to the agency.
    pub async fn seed(&self, count: usize) {
        let until = Until { time: Duration::from_secs(120), count };
        let seen = load(&self.server.address, 16, &self.referrals("Organization/agency"), until, false, None).await;
        assert_eq!(seen.bad, 0, "{}", seen.first_bad);
    }

    /// The agency's open Tasks, oldest first.
    pub async fn open_tasks(&self, most: usize) -> Vec<Value> {
        let mut found = Vec::new();
        let mut path = "/fhir/Task?owner=Organization/agency&status=requested&_count=1000".to_string();
        while found.len() < most {
            let page = self.ask("agency", "GET", &path, "").await;
            let entries = page["entry"].as_array().cloned().unwrap_or_default();
            found.extend(entries.into_iter().map(|entry| entry["resource"].clone()));
            let next = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").cloned();
            let Some(next) = next else { break };
            path = next["url"].as_str().unwrap().split_once("/fhir").map(|(_, rest)| format!("/fhir{rest}")).unwrap();
        }
        found.truncate(most);
        found
    }

    /// PUTs that accept these Tasks, each with its `If-Match`.
    pub fn accepts(tasks: Vec<Value>) -> Requests {
        let bodies: Vec<Vec<u8>> = tasks
            .into_iter()
            .map(|mut task| {
                task["status"] = json!("accepted");
                let tag = format!("W/\"{}\"", task["meta"]["versionId"].as_str().unwrap_or("1"));
                let path = format!("/fhir/Task/{}", task["id"].as_str().unwrap());
                request("PUT", &path, "agency", &[("if-match", &tag)], &task.to_string())
            })
            .collect();
        Arc::new(move |number| bodies[number].clone())
    }
}

/// An address that nobody has.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// So many characters of what people might write: a line that is repeated would be packed away.
fn prose(length: usize) -> String {
    let words: Vec<&str> = WORDS.split(' ').collect();
    let (mut text, mut state) = (String::new(), length);
    while text.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(words[(state >> 33) % words.len()]);
        text.push(if state >> 60 == 0 { '.' } else { ' ' });
    }
    text.truncate(length);
    text
}

const WORDS: &str = "the family needs food for coming weeks and prefers to be called in afternoon she has two children no car \
    lives near bus stop asked about pantry hours eligibility form benefits rent heating bill landlord notice interpreter \
    Spanish appointment Tuesday morning please call before visiting mother works nights grandmother watches kids diabetes \
    diet low sodium clinic follow up next month client declined transport voucher caseworker left message waiting list intake \
    completed documents missing identification proof of income household size four expecting baby shelter referral previous";

pub const NOW: &str = "2026-11-21T10:00:00Z";

/// A partner of the configuration.
pub fn partner(id: &str, role: &str, more: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "[[partner]]\nid = \"{id}\"\nname = \"{id}\"\nroles = [\"{role}\"]\ncredentials = {{ bearer_sha256 = \"{digest}\" }}\n{more}\n"
    )
}

/// A partner's token is its id.
fn config(address: &str, url: &str, world: &str) -> String {
    let agency = "channel = \"light\"\nservices = [{ id = \"agency-food\", name = \"Agency\", categories = [\"food-insecurity\"] }]";
    let pantry = format!(
        "channel = \"fhir\"\nfhir = {{ base = \"http://{world}/fhir\", follow = \"poll\", poll_every = \"1h\" }}"
    );
    [
        format!(
            "[server]\nlisten = \"{address}\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"{url}\"\n\
             [limits]\nrequests_per_minute = 4000000000\nrequests_per_minute_by_address = 4000000000\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\"\n"
        ),
        partner("clinic", "source", ""),
        partner("agency", "target", agency),
        partner("pantry", "target", &pantry),
        partner("root", "operator", ""),
    ]
    .concat()
}
