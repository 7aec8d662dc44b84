//! `loopgate demo`: a clinic, a food bank and a housing agency, all simulated, and referrals that go round between them.
//!
//! The partners are real HTTP servers and clients in this process; the gateway is the real one, on an embedded database.
//! Each step is printed as it happens, with both sides' Task status. What is printed and logged names no patient.

pub mod patient;
pub mod server;

mod parties;
mod rounds;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::gateway::Gateway;
use crate::id;
use crate::time::{Clock, Timestamp};

use parties::{Client, House};
use rounds::{declined, food, housing, ride, status_of, subscribe};

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

fn moment() -> Timestamp {
    Clock::system().now()
}

fn parameter<'a>(parameters: &'a Value, name: &str) -> Option<&'a Value> {
    parameters["parameter"].as_array()?.iter().find(|one| one["name"] == name)
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
