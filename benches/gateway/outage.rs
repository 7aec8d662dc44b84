//! B3: catching up with a target's server that could not be asked for long. One referral goes through the product; it is
//! then copied in the database, as in [`super::scale`], and at its target, so that setting up a hundred thousand takes a
//! minute.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::goals::file;
use super::partners::{Houses, until};
use super::product::{Product, partner};
use super::runner::Report;
use super::scale;

/// A target whose server could not be asked while so much changed there.
pub async fn caught_up(report: &mut Report, changes: usize, folder: &Path, world: &str) {
    report.heading(&format!("B3  a target's server is back, where {changes} Tasks have changed"));
    let houses = Houses::open().await;
    let base = format!("http://{}/far/fhir", houses.address);
    let fhir = format!("channel = \"fhir\"\nfhir = {{ base = \"{base}\", follow = \"poll\", poll_every = \"1d\" }}");
    let path = file(folder, "outage.db");
    let far = partner("far", "target", &fhir);
    let product = Product::with_partners(&format!("sqlite://{path}"), folder, world, &far).await;
    product.ask("clinic", "POST", "/fhir", &product.referral("Organization/far").to_string()).await;
    until("it arrives", 30, async || houses.arrived() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let said = said(&product, &path).await;
    let product = product.restart_after(async || many_there(&houses, &path, &said, changes).await).await;
    report.note(&format!("{changes} referrals copied here and there in {} s", began.elapsed().as_secs()));
    // What is looked at at each start.
    tokio::time::sleep(Duration::from_secs(3)).await;
    (0..changes).for_each(|index| houses.accepts(index));
    let (cpu, began) = (product.server.cpu(), Instant::now());
    product.ask("root", "POST", "/fhir/Organization/far/$poll", r#"{"resourceType":"Parameters"}"#).await;
    let mut most = 0.0_f64;
    until("all are seen", 7_200, async || {
        // Each look counts them all.
        tokio::time::sleep(Duration::from_millis(200.max(changes as u64 / 50))).await;
        most = most.max(product.server.memory());
        product.ask("root", "GET", "/fhir/Task?status=in-progress&_summary=count", "").await["total"] == changes
    })
    .await;
    let (took, cpu) = (began.elapsed().as_secs_f64(), product.server.cpu() - cpu);
    let rate = changes as f64 / took;
    report.note(&format!(
        "{took:.1} s, {rate:.0} changes/s, {:.0} µs of CPU a change, {most:.0} MB at most",
        cpu.as_secs_f64() * 1e6 / changes as f64
    ));
    let minutes = 100_000.0 / rate / 60.0;
    report.line(
        "B3",
        "100,000 changes of a day's absence",
        &format!("{rate:.0} changes/s"),
        &format!("{minutes:.1} min"),
        "≤ 60 min",
        minutes <= 60.0,
    );
}

/// What stands here of the one referral that was made: type, id, and what it says.
async fn said(product: &Product, path: &str) -> Vec<(String, String, String)> {
    let mut said = Vec::new();
    for (kind, id) in scale::made(path).await {
        let text = product.ask("root", "GET", &format!("/fhir/{kind}/{id}"), "").await.to_string();
        said.push((kind, id, text));
    }
    said
}

/// This one becomes so many, in the database and at its target.
async fn many_there(houses: &Houses, path: &str, said: &[(String, String, String)], many: usize) {
    let mut db = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
    for (kind, id, text) in said {
        // In what is packed ids can't be replaced: the version that will be read stands as it was written.
        let current = "update resource_version set content = $1 where type = $2 and id = $3
            and version = (select version from resource where type = $2 and id = $3)";
        sqlx::query(current).bind(text).bind(kind).bind(id).execute(&mut db).await.unwrap();
    }
    db.close().await.unwrap();
    scale::copy(path, many - 1).await;
    let mut kept = houses.kept();
    let (at, text) = kept.tasks[0].clone();
    for number in 1..many {
        let copied = said.iter().fold(text.clone(), |text, (_, id, _)| text.replace(id, &scale::copied(id, number)));
        let id = serde_json::from_str::<Value>(&copied).unwrap()["id"].as_str().unwrap().to_string();
        kept.add(id, at, copied);
    }
}
