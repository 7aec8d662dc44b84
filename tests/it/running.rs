//! The program itself as a process, with partners on real sockets; killed when it is dropped.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use loopgate::demo::patient;
use loopgate::demo::server::{self, FhirServer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::partner;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_loopgate");
const PATIENCE: Duration = Duration::from_secs(60);

/// A partner's server on a socket: it answers late, by as much as it is told.
#[derive(Clone)]
pub struct House {
    /// Its base.
    pub base: String,
    server: Arc<Mutex<FhirServer>>,
    late: Arc<Mutex<Duration>>,
}

impl House {
    async fn open() -> House {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/fhir", listener.local_addr().unwrap());
        let mut server = FhirServer::new(&base);
        server.set_now(&now());
        server.set_if_none_exist(false);
        let house = House { base, server: Arc::new(Mutex::new(server)), late: Arc::default() };
        let answering = house.clone();
        let router = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let house = answering.clone();
            async move { house.answer(method, uri, headers, body).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        house
    }

    async fn answer(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> impl IntoResponse + use<> {
        let answer = self.act(|server| {
            server.set_now(&now());
            let headers = headers.iter();
            let headers =
                headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
            let body = String::from_utf8(body.to_vec()).unwrap();
            server.answer(&server::Request { method: method.to_string(), target: uri.to_string(), headers, body })
        });
        let late = *self.late.lock().unwrap();
        tokio::time::sleep(late).await;
        let mut headers = HeaderMap::new();
        for (name, value) in answer.headers {
            headers.insert(axum::http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        (StatusCode::from_u16(answer.status).unwrap(), headers, answer.body)
    }

    pub fn act<T>(&self, act: impl FnOnce(&mut FhirServer) -> T) -> T {
        act(&mut self.server.lock().unwrap())
    }

    pub fn answers_after(&self, late: Duration) {
        *self.late.lock().unwrap() = late;
    }

    pub fn tasks(&self) -> Vec<Value> {
        self.act(|server| server.all("Task").into_iter().cloned().collect())
    }
}

pub fn instant() -> Instant {
    Instant::now()
}

pub fn now() -> String {
    loopgate::time::Clock::system().now().to_string()
}

/// The program with its partners. Killed when it is dropped.
pub struct Running {
    pub folder: TempDir,
    port: u16,
    child: Option<Child>,
    pub ehr: House,
    pub pantry: House,
    pub http: reqwest::Client,
    pub database: String,
    /// `delivery.timeout`, and each pause of `delivery.backoff`.
    pub timeout: &'static str,
    pub pause: &'static str,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Running {
    pub async fn prepared(database: Option<&str>) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let database =
            database.map_or(format!("sqlite://{}", folder.path().join("gateway.db").display()), str::to_string);
        let (ehr, pantry) = (House::open().await, House::open().await);
        for resource in patient::context(&now()) {
            ehr.act(|server| server.put(resource));
        }
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let (port, timeout, pause, environment) = (free_port(), "1s", "1s", Vec::new());
        Running { folder, port, child: None, ehr, pantry, http, database, timeout, pause, environment }
    }

    pub fn config(&self) -> PathBuf {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{}\"\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n\
             [store]\nurl = \"{}\"\n[limits]\nrequests_per_minute = 1000000\nrequests_per_minute_by_address = 1000000\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\"\ntimeout = \"{}\"\nbackoff = [{}]\n{}{}{}",
            self.port,
            self.database,
            self.timeout,
            vec![format!("\"{}\"", self.pause); 20].join(", "),
            partner(
                "clinic",
                "\"source\"",
                &format!("fhir = {{ base = \"{}\", follow = \"poll\", poll_every = \"1s\" }}", self.ehr.base)
            ),
            partner(
                "pantry",
                "\"target\"",
                &format!(
                    "channel = \"fhir\"\nfhir = {{ base = \"{}\", follow = \"poll\", poll_every = \"1s\" }}\nservices = [{{ id = \"food\", name = \"Food\", categories = [\"food-insecurity\"] }}]",
                    self.pantry.base
                )
            ),
            partner("root", "\"operator\"", ""),
        );
        let path = self.folder.path().join("gateway.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub async fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .arg("--config")
            .arg(self.config())
            .stdout(Stdio::piped())
            .stderr(log)
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().cloned());
        self.child = Some(command.spawn().unwrap());
        let until = instant() + PATIENCE;
        while self.http.get(self.url("/health/ready")).send().await.is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(instant() < until && ended.is_none(), "does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; the exit status and how long it took.
    pub fn stop(&mut self) -> (Option<i32>, Duration) {
        let mut child = self.child.take().unwrap();
        let began = instant();
        assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "the log is no answer");
        (status.code(), began.elapsed())
    }

    pub fn ask(&self, who: &str, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path)).header("authorization", format!("Bearer {who}"))
    }

    pub async fn get(&self, who: &str, path: &str) -> Option<Value> {
        let answer = self.ask(who, reqwest::Method::GET, path).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// The clinic refers; the Task's id if the gateway said that it has it.
    pub async fn refers(&self, request: &str) -> Option<String> {
        let now = now();
        self.ehr.act(|ehr| ehr.put(patient::service_request(request, "food-insecurity", &now)));
        let there = |reference: &str| format!("{}/{reference}", self.ehr.base);
        let focus = there(&format!("ServiceRequest/{request}"));
        let owner = Some("Organization/hub");
        let task =
            patient::referral_task(None, &focus, &there(patient::REQUESTER), &there(patient::PATIENT), owner, &now);
        let sent =
            self.ask("clinic", reqwest::Method::POST, "/fhir/Task").header("content-type", "application/fhir+json");
        let answer = sent.body(task.to_string()).send().await.ok()?;
        if answer.status() != 201 && answer.status() != 200 {
            return None;
        }
        let body: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        body["id"].as_str().map(str::to_string)
    }

    /// Waits until this holds; says what was waited for when it never does.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let until = instant() + PATIENCE;
        while !holds().await {
            assert!(
                instant() < until,
                "never: {what}\n{}",
                self.log().lines().rev().take(12).collect::<Vec<_>>().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn status(&self, task: &str) -> String {
        let task = self.get("clinic", &format!("/fhir/Task/{task}")).await.unwrap_or_default();
        task["status"].as_str().unwrap_or_default().to_string()
    }

    /// The pantry's people do all that is asked of them.
    pub fn pantry_completes_all(&self) {
        for task in self.pantry.tasks() {
            if task["status"] == "completed" || task["status"] == "cancelled" {
                continue;
            }
            let (focus, subject) =
                (task["focus"]["reference"].as_str().unwrap(), task["for"]["reference"].as_str().unwrap());
            self.pantry.act(|pantry| {
                pantry.set_now(&now());
                let procedure = pantry.put(patient::procedure(focus, subject, "food-insecurity", &now()));
                let id = task["id"].as_str().unwrap();
                pantry.update("Task", id, |task| patient::completed_with(task, &format!("Procedure/{procedure}")));
            });
        }
    }

    async fn closed(&self, task: &str) -> bool {
        self.status(task).await == "completed" && {
            let loop_status = self.get("clinic", &format!("/fhir/Task/{task}/$loop-status")).await.unwrap_or_default();
            loop_status["parameter"][0] == json!({"name": "closed", "valueBoolean": true})
        }
    }

    /// Nothing that was taken is lost, nothing came twice, and every loop closes.
    pub async fn all_ends_well(&self, tasks: &[String]) {
        for task in tasks {
            self.until(&format!("Task/{task} at the pantry"), async || {
                let mine = format!("https://hub.test/fhir/Task/{task}");
                self.pantry.tasks().iter().any(|theirs| theirs["partOf"][0]["reference"] == mine)
            })
            .await;
        }
        let mut parts: Vec<String> =
            self.pantry.tasks().iter().map(|task| task["partOf"][0]["reference"].to_string()).collect();
        let all = parts.len();
        parts.sort();
        parts.dedup();
        assert_eq!(parts.len(), all, "something was delivered twice");
        self.pantry_completes_all();
        for task in tasks {
            self.until(&format!("Task/{task} closed"), async || self.closed(task).await).await;
        }
    }

    /// Design D17, rule S7.
    pub fn log_is_clean(&self) {
        let log = self.log();
        assert!(!log.is_empty());
        let patient = patient::context(&now()).remove(0);
        let mut words = vec!["food-insecurity", "Food insecurity", "Bearer"];
        words.extend(patient["birthDate"].as_str());
        words.extend(patient["name"][0]["family"].as_str());
        words.extend(patient["name"][0]["given"][0].as_str());
        for word in words {
            assert!(!log.contains(word), "the log says {word}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A number between 0 and `below`, other ones each time; no seed, as what is hit depends on the machine anyway.
pub fn random(below: u64) -> u64 {
    let id = loopgate::id::uuid();
    let hex: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&hex[hex.len() - 8..], 16).unwrap() % below
}

/// How often the program is killed: `LOOPGATE_KILLS`.
pub fn kills(usually: u64) -> u64 {
    std::env::var("LOOPGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(usually)
}
