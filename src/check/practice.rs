//! A practice referral: the whole gateway on a throw-away database, the partner's test server on one side and a partner
//! in this process on the other. The patient is made up; we play the staff of both sides.
//!
//! It uses what real referrals use: the Task is found at the source's server, fetched, relayed, posted, followed by
//! polling, and its outcome written back. Leaves behind what it created at the partner's server, and says what.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Say, line};
use crate::app::peers::Verdict;
use crate::config::{Channel, Config, Follow, Partner, PartnerAddresses, Role, Routing};
use crate::delivery::{Hand, Request, Response, Sending, Transport};
use crate::demo::patient;
use crate::demo::server::{self, FhirServer};
use crate::gateway::Gateway;
use crate::time::Clock;

/// The partner in this process; the name can't be reached from anywhere.
const OURS: &str = "https://practice.invalid/fhir";
const OUR_ID: &str = "loopgate-practice";
/// Rounds in which a step must have been taken, and the pause between them.
const ROUNDS: usize = 5;
const PAUSE: Duration = Duration::from_secs(2);

/// The network, but for the partner in this process; notes which Tasks are created.
struct Wires {
    network: Arc<dyn Transport>,
    house: Mutex<FhirServer>,
    created: Arc<Mutex<Vec<String>>>,
}

impl Transport for Wires {
    fn send(&self, request: Request) -> Sending {
        self.carry(request, |request| self.network.send(request))
    }
    fn ask(&self, partner: &Partner, request: Request) -> Sending {
        self.carry(request, |request| self.network.ask(partner, request))
    }
}

impl Wires {
    fn carry(&self, request: Request, out: impl FnOnce(Request) -> Sending) -> Sending {
        let is_task = request.method == "POST" && request.url.ends_with("/Task");
        let created = self.created.clone();
        let sending: Sending = if request.url.starts_with(OURS) {
            let answer = self.inside(&request);
            Box::pin(async move { Ok(answer) })
        } else {
            out(request)
        };
        Box::pin(async move {
            let answer = sending.await;
            if let (true, Ok(answer)) = (is_task, &answer) {
                let place =
                    answer.header("location").unwrap_or_default().split("/_history/").next().unwrap_or_default();
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let id = place.rsplit('/').next().filter(|id| !id.is_empty());
                let id = id.or_else(|| body.get("id").and_then(Value::as_str));
                let task = id.filter(|_| answer.is_success()).map(|id| format!("Task/{id}"));
                created.lock().unwrap_or_else(PoisonError::into_inner).extend(task);
            }
            answer
        })
    }

    fn inside(&self, request: &Request) -> Response {
        let mut house = self.house.lock().unwrap_or_else(PoisonError::into_inner);
        house.set_now(&Clock::system().now().to_string());
        let answer = house.answer(&server::Request {
            method: request.method.to_string(),
            target: request.url.clone(),
            headers: request.headers.clone(),
            body: request.body.clone().unwrap_or_default(),
        });
        let headers = answer.headers.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        Response { status: answer.status, headers, body: answer.body.into_bytes() }
    }
}

/// One practice referral, the partner in this role. Whether it went round.
pub(super) async fn run(
    config: &Config,
    partner: &Arc<Partner>,
    role: Role,
    network: Arc<dyn Transport>,
    folder: &Path,
    say: Say<'_>,
) -> Result<bool, String> {
    let database = Database::new(folder)?;
    let config = configuration(config, partner, role, &database.0)?;
    let house = Mutex::new(FhirServer::new(OURS));
    let created: Arc<Mutex<Vec<String>>> = Arc::default();
    let wires: Arc<dyn Transport> = Arc::new(Wires { network, house, created: created.clone() });
    let find = |id: &str| config.partners.iter().find(|one| one.id == id).cloned().map(Arc::new);
    let (Some(ours), Some(theirs)) = (find(OUR_ID), find(&partner.id)) else { return Err("no partner".into()) };
    let (source, target) = if role == Role::Target { (ours, theirs) } else { (theirs, ours) };
    let practice = Practice {
        source: (source.id.clone(), Hand::new(&config, source.clone(), wires.clone())),
        target: (target.id.clone(), Hand::new(&config, target.clone(), wires.clone())),
        gateway: Gateway::open_with(config.clone(), Clock::system(), wires).await.map_err(|error| error.to_string())?,
        created,
    };
    let act = if role == Role::Target { "target" } else { "source" };
    say(&format!("Practice, {} as {act}: a made-up referral, we play the staff of both sides", partner.name));
    let ended = practice.play(&source, &target, say).await;
    if let Err(why) = &ended {
        say(&line(Verdict::Missing, why));
    }
    Ok(ended.is_ok())
}

struct Practice {
    source: (String, Hand),
    target: (String, Hand),
    gateway: Gateway,
    created: Arc<Mutex<Vec<String>>>,
}

impl Practice {
    async fn play(&self, source: &Partner, target: &Partner, say: Say<'_>) -> Result<(), String> {
        let now = Clock::system().now().to_string();
        let ours = source.fhir.as_ref().map_or("", |fhir| fhir.our_reference.as_str());
        let category = target.services.first().and_then(|service| service.categories.first());
        let category = category.map_or("food-insecurity", String::as_str);
        let mut request = patient::service_request("practice", category, &now);
        request["performer"] = json!([{"reference": format!("{}/Organization/{}", self.gateway.app.own(), target.id)}]);
        let mut all = patient::context(&now);
        all.push(request);
        all.push(patient::referral_task(
            None,
            "ServiceRequest/practice",
            patient::REQUESTER,
            patient::PATIENT,
            Some(ours),
            &now,
        ));
        let kept = self.put(all).await?;
        say(&line(Verdict::Works, &format!("{}: a patient, a request and {kept} are made", source.name)));

        let before = self.noted().len();
        let posted = async || Ok(self.noted().get(before).cloned());
        let task = self.until("our Task to be created at the target's server", &self.source.0, posted).await?;
        say(&line(Verdict::Works, &format!("{}: takes our {task}", target.name)));

        self.target.1.update(&task, |task| task["status"] = json!("accepted")).await?;
        self.source_says(&kept, "in-progress").await?;
        say(&line(Verdict::Works, &format!("{}: accepts it, and {} sees it", target.name, source.name)));

        let theirs = self.target.1.read(&task).await?;
        let text = |name: &str| theirs[name]["reference"].as_str().unwrap_or_default().to_string();
        let procedure = patient::procedure(&text("focus"), &text("for"), category, &now);
        let outcome = self.target.1.create(&procedure).await?;
        self.target.1.update(&task, |task| patient::completed_with(task, &outcome)).await?;
        self.source_says(&kept, "completed").await?;
        let ended = self.source.1.read(&kept).await?;
        if ended["output"].as_array().is_none_or(Vec::is_empty) {
            return Err(format!("{}: completed without the outcome", source.name));
        }
        say(&line(
            Verdict::Works,
            &format!("{}: completes it with {outcome}, and {} has the outcome", target.name, source.name),
        ));
        Ok(())
    }

    /// Creates resources at the source, in an order in which references lead backwards; the last one's `Type/id`.
    async fn put(&self, resources: Vec<Value>) -> Result<String, String> {
        let mut renamed: Vec<(String, String)> = Vec::new();
        let mut last = String::new();
        for mut resource in resources {
            let text = |name: &str| resource[name].as_str().unwrap_or_default().to_string();
            let old = format!("\"{}/{}\"", text("resourceType"), text("id"));
            if let Some(elements) = resource.as_object_mut() {
                elements.shift_remove("id");
            }
            let mut written = resource.to_string();
            for (from, to) in &renamed {
                written = written.replace(from, to);
            }
            let resource: Value = serde_json::from_str(&written).map_err(|error| error.to_string())?;
            last = self.source.1.create(&resource).await?;
            renamed.push((old, format!("\"{last}\"")));
        }
        Ok(last)
    }

    fn noted(&self) -> Vec<String> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn source_says(&self, task: &str, status: &str) -> Result<(), String> {
        let seen = async || {
            let read = self.source.1.read(task).await?;
            Ok((read["status"] == status).then_some(()))
        };
        self.until(&format!("the source's Task to be {status}"), &self.target.0, seen).await
    }

    /// Asks the partner's server and delivers, until this is so.
    async fn until<T>(
        &self,
        what: &str,
        partner: &str,
        mut so: impl AsyncFnMut() -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            self.gateway.app.poll_now(partner).await.map_err(|error| error.to_string())?;
            self.gateway.worker.deliver_due().await.map_err(|error| error.to_string())?;
            if let Some(found) = so().await? {
                return Ok(found);
            }
        }
        let troubles = self.gateway.app.troubles().await.map_err(|error| error.to_string())?;
        Err(format!("waited in vain for {what} ({})", troubles.join("; ")))
    }
}

/// A database file that is thrown away.
struct Database(PathBuf);

impl Database {
    fn new(folder: &Path) -> Result<Database, String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let one = Database(folder.join(format!("practice-{}.db", crate::id::new())));
        Ok(one)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.0.display()));
        }
    }
}

/// The gateway as it is configured, with two partners only: this one in this role, and ours.
fn configuration(config: &Config, partner: &Partner, role: Role, database: &Path) -> Result<Config, String> {
    let (ours, channel) = match role {
        Role::Target => ("source", ""),
        Role::Source | Role::Coordinator | Role::Operator | Role::Auditor => ("target", "channel = \"fhir\"\n"),
    };
    let text = format!(
        "[server]\npublic_url = {:?}\n[gateway]\norganization = {{ id = {:?}, name = {:?} }}\n[store]\nurl = {:?}\n\
         [delivery]\nbackoff = [\"1s\", \"1s\", \"1s\"]\npartner_addresses = \"{}\"\n\
         [[partner]]\nid = \"{OUR_ID}\"\nname = \"Practice partner\"\nroles = [\"{ours}\"]\n{channel}\
         fhir = {{ base = \"{OURS}\", follow = \"poll\" }}\n",
        config.server.public_url,
        config.gateway.id,
        config.gateway.name,
        format!("sqlite://{}", database.display()),
        match config.delivery.partner_addresses {
            PartnerAddresses::PublicOnly => "public_only",
            PartnerAddresses::AllowPrivateForTestsOnly => "allow_private_for_tests_only",
        },
    );
    let parsed = Config::parse(&text, Path::new(""));
    let mut practice =
        parsed.map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let mut partner = partner.clone();
    partner.roles = vec![role];
    partner.routing = Routing::Automatic;
    partner.channel = (role == Role::Target).then_some(Channel::Fhir);
    if let Some(fhir) = &mut partner.fhir {
        // Nothing of ours is to stay there that goes on by itself.
        fhir.follow = Follow::Poll;
    }
    practice.limits = config.limits.clone();
    practice.partners.push(partner);
    Ok(practice)
}
