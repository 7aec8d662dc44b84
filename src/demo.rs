//! `loopgate demo`: a clinic, a food bank and a housing agency, all simulated, and referrals that go round between them.
//!
//! The partners are real HTTP servers and clients in this process; the gateway is the real one, on an embedded database.
//! Each step is printed as it happens, with both sides' Task status. What is printed and logged names no patient.

pub mod patient;
pub mod server;

mod parties;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::fhir::subscription::TASK_TOPIC;
use crate::gateway::Gateway;
use crate::id;
use crate::time::{Clock, Timestamp};

use parties::{Client, House};

/// Longest wait for one step.
const PATIENCE: Duration = Duration::from_secs(15);

/// The demo's cast.
struct Cast {
    clinic: Client,
    housing: Client,
    operator: Client,
    /// What the food bank reads our Tasks' references with.
    foodbank_here: Client,
    ehr: House,
    foodbank: House,
    notified: mpsc::UnboundedReceiver<Value>,
    base: String,
    colour: bool,
}

/// A referral that went round.
struct Round {
    need: &'static str,
    flow: &'static str,
    provider: &'static str,
    task: String,
    took: Duration,
}

/// Runs the demo; answers whether every loop closed. `stop` makes the signal that ends the serving.
pub async fn run(
    listen: SocketAddr,
    data: PathBuf,
    exit: bool,
    stop: impl FnOnce() -> watch::Receiver<bool>,
) -> Result<bool, String> {
    let mut stopped = stop();
    let (end, ending) = watch::channel(false);
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (mut cast, gateway) = open(address, &data).await?;
    let serving = tokio::spawn(gateway.serve(listener, ending));
    let result = tokio::select! {
        result = play(&mut cast) => Some(result),
        _ = stopped.wait_for(|stop| *stop) => None,
    };
    let closed = match result {
        Some(result) => {
            let closed = result?;
            if !exit {
                what_next(&cast, address);
                let _ = stopped.wait_for(|stop| *stop).await;
            }
            closed
        }
        None => false,
    };
    let _ = end.send(true);
    let _ = serving.await;
    Ok(closed || !exit)
}

/// Makes the data folder anew, opens the partners' houses and the gateway.
async fn open(address: SocketAddr, data: &Path) -> Result<(Cast, Gateway), String> {
    let database = data.join("loopgate.db");
    for name in ["loopgate.db", "loopgate.db-wal", "loopgate.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    std::fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
    let [clinic, housing, foodbank, operator, to_ehr, to_foodbank] = std::array::from_fn(|_| id::secret());
    let (ehr, notified) = House::open(&to_ehr).await?;
    let (pantry, _) = House::open(&to_foodbank).await?;
    let base = format!("http://{address}");
    let text = configuration(
        &base,
        &database,
        &[&clinic, &housing, &foodbank, &operator],
        &[(&ehr.base, &to_ehr), (&pantry.base, &to_foodbank)],
    );
    let config = Config::parse(&text, data)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let gateway = Gateway::open(config, Clock::system()).await.map_err(|error| error.to_string())?;
    let fhir = format!("{base}/fhir");
    let cast = Cast {
        clinic: Client::new(&fhir, &clinic)?,
        housing: Client::new(&fhir, &housing)?,
        operator: Client::new(&fhir, &operator)?,
        foodbank_here: Client::new(&fhir, &foodbank)?,
        ehr,
        foodbank: pantry,
        notified,
        base: fhir,
        colour: std::io::stdout().is_terminal(),
    };
    Ok((cast, gateway))
}

fn configuration(base: &str, database: &Path, tokens: &[&String; 4], servers: &[(&String, &String); 2]) -> String {
    let digest = |token: &String| -> String {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let [clinic, housing, foodbank, operator] = tokens.map(digest);
    let [(ehr, to_ehr), (pantry, to_pantry)] = servers;
    let url = format!("sqlite://{}", database.display()).replace('\\', "/").replace('"', "");
    format!(
        r#"
[server]
public_url = "{base}"
[gateway]
organization = {{ id = "hub", name = "County Referral Hub" }}
[store]
url = "{url}"
[delivery]
backoff = ["200ms", "1s", "5s", "30s"]
partner_addresses = "allow_private_for_tests_only"
[limits]
requests_per_minute = 100000
requests_per_minute_by_address = 100000

[[partner]]
id = "mercy-clinic"
name = "Mercy Clinic"
roles = ["source"]
credentials = {{ bearer_sha256 = "{clinic}" }}
fhir = {{ base = "{ehr}", follow = "poll", poll_every = "250ms", auth = {{ kind = "bearer", token = "{to_ehr}" }} }}

[[partner]]
id = "hope-foodbank"
name = "Hope Food Bank"
roles = ["target"]
channel = "fhir"
credentials = {{ bearer_sha256 = "{foodbank}" }}
fhir = {{ base = "{pantry}", follow = "poll", poll_every = "250ms", auth = {{ kind = "bearer", token = "{to_pantry}" }} }}
services = [{{ id = "pantry", name = "Food pantry", categories = ["food-insecurity"] }}]

[[partner]]
id = "harbor-housing"
name = "Harbor Housing"
roles = ["target"]
channel = "light"
credentials = {{ bearer_sha256 = "{housing}" }}
services = [
  {{ id = "shelter", name = "Emergency housing", categories = ["housing-instability", "homelessness"] }},
  {{ id = "rides", name = "Rides to appointments", categories = ["transportation-insecurity"] }},
]

[[partner]]
id = "operations"
name = "Operations"
roles = ["operator"]
credentials = {{ bearer_sha256 = "{operator}" }}
"#
    )
}

/// All rounds, then the table of how they ended.
async fn play(cast: &mut Cast) -> Result<bool, String> {
    let now = moment().to_string();
    for resource in patient::context(&now) {
        cast.ehr.staff().put(resource);
    }
    say(cast, "Mercy Clinic", "subscribes to its referrals", "-", "-");
    subscribe(cast).await?;
    let rounds = [food(cast).await?, housing(cast).await?, ride(cast).await?, declined(cast).await?];
    line("");
    line("  need            flow            provider         status       level  closed   took");
    let mut all = true;
    for round in &rounds {
        let status = status_of(&cast.operator.get(&format!("Task/{}", round.task)).await?);
        let found = cast.operator.get(&format!("Task/{}/$loop-status", round.task)).await?;
        let closed = parameter(&found, "closed").and_then(|value| value["valueBoolean"].as_bool()).unwrap_or(false);
        let level = parameter(&found, "level").and_then(|value| value["valueCode"].as_str()).unwrap_or("?").to_string();
        all &= closed;
        line(&format!(
            "  {:<15} {:<15} {:<16} {:<12} {:<6} {:<6} {:>5.1} s",
            round.need,
            round.flow,
            round.provider,
            status,
            level,
            if closed { "yes" } else { "NO" },
            round.took.as_secs_f64()
        ));
    }
    line("");
    line(if all { "Every loop is closed." } else { "A loop did not close." });
    Ok(all)
}

/// The clinic asks to be told when its Tasks change.
async fn subscribe(cast: &mut Cast) -> Result<(), String> {
    let backport = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
    let subscription = json!({"resourceType": "Subscription", "status": "requested", "reason": "Watch my referrals",
        "criteria": TASK_TOPIC,
        "channel": {"type": "rest-hook", "endpoint": cast.ehr.hook(), "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": format!("{backport}/backport-payload-content"), "valueCode": "id-only"}]}}});
    let made = cast.clinic.post("Subscription", &subscription).await?;
    let path = format!("Subscription/{}", made["id"].as_str().unwrap_or(""));
    wait("the subscription's handshake", async || Ok(status_of(&cast.clinic.get(&path).await?) == "active")).await?;
    let _ = cast.notified.try_recv();
    Ok(())
}

/// A food need: the clinic's Task, the food bank's own FHIR server (indirect).
async fn food(cast: &mut Cast) -> Result<Round, String> {
    let begun = moment();
    let task = refer(cast, "sr-food", "food-insecurity").await?;
    say(cast, "Mercy Clinic", "refers a food need", &source(cast, &task).await?, "-");
    let theirs = wait_for("the food bank to have its Task", async || Ok(first_id(&cast.foodbank, "requested"))).await?;
    say(
        cast,
        "Loopgate",
        "posts its own Task to Hope Food Bank",
        &source(cast, &task).await?,
        &at(&cast.foodbank, &theirs),
    );
    for (status, act, becomes) in
        [("accepted", "accepts", "in-progress"), ("in-progress", "packs the groceries", "in-progress")]
    {
        cast.foodbank.staff().update("Task", &theirs, |task| task["status"] = json!(status));
        until(cast, &task, becomes).await?;
        say(cast, "Hope Food Bank", act, &source(cast, &task).await?, &at(&cast.foodbank, &theirs));
    }
    let (based_on, subject) = {
        let server = cast.foodbank.staff();
        let task = server.get("Task", &theirs).cloned().unwrap_or_default();
        (text(&task["focus"]["reference"]), text(&task["for"]["reference"]))
    };
    let now = moment().to_string();
    let procedure = cast.foodbank.staff().put(patient::procedure(&based_on, &subject, "food-insecurity", &now));
    let done = format!("Procedure/{procedure}");
    cast.foodbank.staff().update("Task", &theirs, |task| patient::completed_with(task, &done));
    until(cast, &task, "completed").await?;
    say(
        cast,
        "Hope Food Bank",
        "hands over the food, documents it",
        &source(cast, &task).await?,
        &at(&cast.foodbank, &theirs),
    );
    learn(cast, &task, "completed", &at(&cast.foodbank, &theirs)).await?;
    Ok(Round { need: "food", flow: "indirect", provider: "Hope Food Bank", task, took: moment().since(begun) })
}

/// A housing need: the agency has only a client, and works on the gateway (indirect light).
async fn housing(cast: &mut Cast) -> Result<Round, String> {
    let begun = moment();
    let task = refer(cast, "sr-housing", "housing-instability").await?;
    say(cast, "Mercy Clinic", "refers a housing need", &source(cast, &task).await?, "-");
    let theirs = found_by_housing(cast).await?;
    say(cast, "Harbor Housing", "finds its Task", &source(cast, &task).await?, "requested");
    serve(cast, &task, &theirs, "housing-instability").await?;
    learn(cast, &task, "completed", "completed").await?;
    Ok(Round { need: "housing", flow: "indirect light", provider: "Harbor Housing", task, took: moment().since(begun) })
}

/// A ride: the Task stays on the clinic's server; the gateway finds it there and writes the status back (direct light).
async fn ride(cast: &mut Cast) -> Result<Round, String> {
    let begun = moment();
    let now = moment().to_string();
    let kept = {
        let mut server = cast.ehr.staff();
        server.put(patient::service_request("sr-ride", "transportation-insecurity", &now));
        let owner = format!("{}/Organization/hub", cast.base);
        server.put(patient::referral_task(
            Some("kept-here"),
            "ServiceRequest/sr-ride",
            patient::REQUESTER,
            patient::PATIENT,
            Some(&owner),
            &now,
        ))
    };
    say(cast, "Mercy Clinic", "keeps a Task for a ride at home", &at(&cast.ehr, &kept), "-");
    let theirs = found_by_housing(cast).await?;
    say(cast, "Loopgate", "finds it there, relays it", &at(&cast.ehr, &kept), "requested");
    let found = cast.operator.get(&format!("Task/{theirs}")).await?;
    let task = text(&found["partOf"][0]["reference"]).replace("Task/", "");
    serve(cast, &task, &theirs, "transportation-insecurity").await?;
    wait("the clinic's own Task to be completed", async || Ok(at(&cast.ehr, &kept) == "completed")).await?;
    closed(cast, &task).await?;
    say(cast, "Loopgate", "writes the outcome to the clinic's Task", &at(&cast.ehr, &kept), "completed");
    Ok(Round { need: "ride", flow: "direct light", provider: "Harbor Housing", task, took: moment().since(begun) })
}

/// A need that can't be met: the clinic names the provider, gets a no with its reason, and the loop is closed all the same.
async fn declined(cast: &mut Cast) -> Result<Round, String> {
    let begun = moment();
    let task = refer(cast, "sr-shelter", "homelessness").await?;
    say(cast, "Mercy Clinic", "refers a need for shelter", &source(cast, &task).await?, "-");
    let theirs = found_by_housing(cast).await?;
    let mut ours = cast.housing.get(&format!("Task/{theirs}")).await?;
    ours["status"] = json!("rejected");
    ours["statusReason"] = json!({"text": "This household is outside the area we serve."});
    let after = cast.housing.put(&format!("Task/{theirs}"), &ours).await?;
    until(cast, &task, "failed").await?;
    say(cast, "Harbor Housing", "declines, and says why", &source(cast, &task).await?, &status_of(&after));
    learn(cast, &task, "failed", "rejected").await?;
    Ok(Round { need: "shelter", flow: "indirect light", provider: "Harbor Housing", task, took: moment().since(begun) })
}

/// The clinic makes a ServiceRequest at home and posts a Task about it.
async fn refer(cast: &Cast, request: &str, category: &str) -> Result<String, String> {
    let now = moment().to_string();
    cast.ehr.staff().put(patient::service_request(request, category, &now));
    let there = |reference: &str| format!("{}/{reference}", cast.ehr.base);
    let task = patient::referral_task(
        None,
        &there(&format!("ServiceRequest/{request}")),
        &there(patient::REQUESTER),
        &there(patient::PATIENT),
        Some("Organization/hub"),
        &now,
    );
    Ok(text(&cast.clinic.post("Task", &task).await?["id"]))
}

/// The agency looks for Tasks that are for it and still to be answered.
async fn found_by_housing(cast: &Cast) -> Result<String, String> {
    wait_for("the housing agency to find its Task", async || {
        let found = cast.housing.get("Task?owner=Organization/harbor-housing&status=requested").await?;
        Ok(found["entry"][0]["resource"]["id"].as_str().map(str::to_string))
    })
    .await
}

/// The agency accepts, starts, documents and completes.
async fn serve(cast: &Cast, task: &str, theirs: &str, category: &str) -> Result<(), String> {
    let path = format!("Task/{theirs}");
    for (status, act) in [("accepted", "accepts"), ("in-progress", "begins")] {
        let mut ours = cast.housing.get(&path).await?;
        ours["status"] = json!(status);
        let after = cast.housing.put(&path, &ours).await?;
        until(cast, task, "in-progress").await?;
        say(cast, "Harbor Housing", act, &source(cast, task).await?, &status_of(&after));
    }
    let mut ours = cast.housing.get(&path).await?;
    let now = moment().to_string();
    let procedure =
        patient::procedure(&text(&ours["focus"]["reference"]), &text(&ours["for"]["reference"]), category, &now);
    let made = cast.housing.post("Procedure", &procedure).await?;
    patient::completed_with(&mut ours, &format!("Procedure/{}", text(&made["id"])));
    let after = cast.housing.put(&path, &ours).await?;
    until(cast, task, "completed").await?;
    say(cast, "Harbor Housing", "does it, documents it", &source(cast, task).await?, &status_of(&after));
    Ok(())
}

/// The clinic is notified, reads its Task and what came of it; that closes the loop.
async fn learn(cast: &mut Cast, task: &str, status: &str, target: &str) -> Result<(), String> {
    let path = format!("Task/{task}");
    let told = async {
        loop {
            match cast.notified.recv().await {
                Some(bundle) if bundle.to_string().contains(&path) => {
                    let mine = cast.clinic.get(&path).await?;
                    if status_of(&mine) == status {
                        return Ok(mine);
                    }
                }
                Some(_) => {}
                None => return Err("the clinic's hook has closed".to_string()),
            }
        }
    };
    let mine = tokio::time::timeout(PATIENCE, told).await.map_err(|_| "no notification came".to_string())??;
    for output in mine["output"].as_array().into_iter().flatten() {
        cast.clinic.get(&text(&output["valueReference"]["reference"])).await?;
    }
    closed(cast, task).await?;
    say(cast, "Mercy Clinic", "is notified, reads how it ended", status, target);
    Ok(())
}

async fn closed(cast: &Cast, task: &str) -> Result<(), String> {
    let path = format!("Task/{task}/$loop-status");
    wait("the loop to close", async || {
        let found = cast.operator.get(&path).await?;
        Ok(parameter(&found, "closed").is_some_and(|value| value["valueBoolean"] == true))
    })
    .await
}

async fn until(cast: &Cast, task: &str, status: &str) -> Result<(), String> {
    wait(&format!("the source's Task to be {status}"), async || Ok(source(cast, task).await? == status)).await
}

/// The status of the source's Task, read by operations so that it does not count as the clinic's reading.
async fn source(cast: &Cast, task: &str) -> Result<String, String> {
    Ok(status_of(&cast.operator.get(&format!("Task/{task}")).await?))
}

fn at(house: &House, task: &str) -> String {
    house.staff().get("Task", task).map(status_of).unwrap_or_default()
}

fn first_id(house: &House, status: &str) -> Option<String> {
    let server = house.staff();
    server.all("Task").into_iter().find(|task| task["status"] == status).map(|task| text(&task["id"]))
}

fn moment() -> Timestamp {
    Clock::system().now()
}

fn status_of(resource: &Value) -> String {
    text(&resource["status"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_string()
}

fn parameter<'a>(parameters: &'a Value, name: &str) -> Option<&'a Value> {
    parameters["parameter"].as_array()?.iter().find(|one| one["name"] == name)
}

async fn wait(what: &str, done: impl AsyncFn() -> Result<bool, String>) -> Result<(), String> {
    wait_for(what, async || Ok(done().await?.then_some(()))).await
}

async fn wait_for<T>(what: &str, found: impl AsyncFn() -> Result<Option<T>, String>) -> Result<T, String> {
    let begun = moment();
    loop {
        if let Some(found) = found().await? {
            return Ok(found);
        }
        if moment().since(begun) > PATIENCE {
            return Err(format!("Waited {} s for {what}, in vain.", PATIENCE.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// One line per step: party, act, the source's status, the target's status.
fn say(cast: &Cast, party: &str, act: &str, source: &str, target: &str) {
    let colour = match party {
        "Mercy Clinic" => "36",
        "Loopgate" => "35",
        "Hope Food Bank" => "32",
        _ => "33",
    };
    let party = format!("{party:<15}");
    let party = if cast.colour { format!("\x1b[{colour}m{party}\x1b[0m") } else { party };
    line(&format!("  {party} {act:<40} source: {source:<12} target: {target}"));
}

fn line(text: &str) {
    // A closed pipe is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn what_next(cast: &Cast, address: SocketAddr) {
    line("");
    line(&format!("The gateway serves at http://{address}, its FHIR base is {}. Ctrl-C stops it.", cast.base));
    line(&format!("The clinic's FHIR server is {}, the food bank's {}.", cast.ehr.base, cast.foodbank.base));
    line("");
    line("Tokens:");
    for (name, client) in [
        ("Mercy Clinic", &cast.clinic),
        ("Hope Food Bank", &cast.foodbank_here),
        ("Harbor Housing", &cast.housing),
        ("Operations", &cast.operator),
    ] {
        line(&format!("  {name:<15} {}", client.token));
    }
    line("");
    line("What to try next:");
    line(&format!("  curl {}/metadata", cast.base));
    line(&format!("  curl -H 'Authorization: Bearer {}' '{}/Task?_include=Task:focus'", cast.clinic.token, cast.base));
    line(&format!(
        "  curl -H 'Authorization: Bearer {}' '{}/Task?owner=Organization/harbor-housing'",
        cast.housing.token, cast.base
    ));
    line(&format!("  curl -H 'Authorization: Bearer {}' http://{address}/metrics", cast.operator.token));
}
