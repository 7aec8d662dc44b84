//! The demo's four referrals, each as the parties live it.

use std::time::Duration;

use serde_json::{Value, json};

use super::parties::House;
use super::{Cast, PATIENCE, Round, moment, parameter, patient, say};
use crate::fhir::subscription::TASK_TOPIC;

/// The clinic asks to be told when its Tasks change.
pub(super) async fn subscribe(cast: &mut Cast) -> Result<(), String> {
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
pub(super) async fn food(cast: &mut Cast) -> Result<Round, String> {
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
pub(super) async fn housing(cast: &mut Cast) -> Result<Round, String> {
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
pub(super) async fn ride(cast: &mut Cast) -> Result<Round, String> {
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
pub(super) async fn declined(cast: &mut Cast) -> Result<Round, String> {
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

pub(super) fn status_of(resource: &Value) -> String {
    text(&resource["status"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_string()
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
