//! Knowing a partner's server: what it offers is found out, shown, and decides how it is asked; `loopgate partner check`.

use std::sync::Arc;
use std::time::Duration;

use loopgate::check;
use loopgate::config::Config;
use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{BASE, EHR, PANTRY, TestGateway, county};
use crate::on_both;

const HOUR: Duration = Duration::from_secs(3_600);

/// What `$following` says of a partner under this name.
async fn said(county: &TestGateway, partner: &str, name: &str) -> Vec<Value> {
    let answer = county.get("root", &format!("Organization/{partner}/$following")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let all = answer.body["parameter"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|one| one["name"] == name).collect()
}

async fn code(county: &TestGateway, partner: &str, name: &str) -> String {
    said(county, partner, name).await.first().map_or("", |one| one["valueCode"].as_str().unwrap_or("")).to_string()
}

/// The texts of this verdict.
async fn found(county: &TestGateway, partner: &str, verdict: &str) -> Vec<String> {
    let all = said(county, partner, "finding").await;
    let of = all.iter().filter(|one| one["part"][0]["valueCode"] == verdict);
    of.map(|one| one["part"][1]["valueString"].as_str().unwrap().to_string()).collect()
}

fn asked(county: &TestGateway, text: &str) -> usize {
    county.world.requests().iter().filter(|one| one.contains(text)).count()
}

async fn accepted_is_seen(county: &TestGateway) -> bool {
    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    county.later(Duration::from_secs(60)).await;
    county.world.at(PANTRY, |pantry| {
        let id = pantry.all("Task").last().unwrap()["id"].as_str().unwrap().to_string();
        pantry.update("Task", &id, |task| task["status"] = json!("accepted"));
    });
    county.later(HOUR).await;
    county.status(&task).await == "in-progress"
}

// G-155, G-156: what a server offers is found out once a day, kept over restarts, and shown to who runs the gateway.
on_both!(what_a_server_offers_is_known, async |place: Place| {
    let mut county = TestGateway::with(place, &county()).await.settled().await;
    assert_eq!(code(&county, "clinic", "push").await, "none");
    assert_eq!(code(&county, "clinic", "source").await, "plain");
    assert_eq!(said(&county, "clinic", "batch").await[0]["valueBoolean"], true);
    assert_eq!(found(&county, "clinic", "missing").await, Vec::<String>::new());
    assert!(found(&county, "pantry", "works").await.iter().any(|text| text.starts_with("Task?requester")));
    for (partner, status) in [("desk", 200), ("clinic", 404), ("pantry", 404)] {
        assert_eq!(county.get(partner, "Organization/pantry/$following").await.status, status, "{partner}");
    }
    for (none, why) in
        [("agency", "no FHIR server of its own"), ("hub", "that you may see"), ("nobody", "that you may see")]
    {
        let answer = county.get("root", &format!("Organization/{none}/$following")).await;
        assert!(answer.status == 404 && answer.said().contains(why), "{none}: {}", answer.body);
    }
    let metrics = county.gateway.app.metrics().await.unwrap();
    assert!(metrics.contains("loopgate_partner{partner=\"pantry\",push=\"none\",batch=\"true\"} 1"), "{metrics}");
    assert!(metrics.contains("loopgate_partner_missing{partner=\"pantry\"} 0"), "{metrics}");

    let looked = asked(&county, &format!("{PANTRY}/metadata"));
    assert_eq!(looked, 1);
    for _ in 0..3 {
        county.restart().await;
        county.deliver_due().await;
    }
    assert_eq!(asked(&county, &format!("{PANTRY}/metadata")), looked, "known by now");
    county.later(HOUR).await;
    assert_eq!(asked(&county, &format!("{PANTRY}/metadata")), looked + 1, "after a start, and not at once");
    county.later(22 * HOUR).await;
    assert_eq!(asked(&county, &format!("{PANTRY}/metadata")), looked + 1);
    county.world.at(PANTRY, |pantry| pantry.set_batch(false));
    county.later(2 * HOUR).await;
    assert_eq!(asked(&county, &format!("{PANTRY}/metadata")), looked + 2, "daily");
    assert_eq!(said(&county, "pantry", "batch").await[0]["valueBoolean"], false);
});

/// A server that can't tell what changed, or whose Tasks are whose, is followed all the same.
#[tokio::test]
async fn a_server_is_asked_in_the_way_it_answers() {
    for (ignored, batch, way, search) in [
        (&[][..], true, "plain", "/Task?requester=https://hub.test/fhir/Organization/hub&_lastUpdated=ge"),
        (&["_lastUpdated"], true, "whole", "/Task?requester=https://hub.test/fhir/Organization/hub"),
        (&["_lastUpdated"], false, "whole", "/Task?requester=https://hub.test/fhir/Organization/hub"),
        (&["requester"], true, "by-id", "/Task?_id="),
        (&["requester", "_lastUpdated"], false, "by-id", "/Task?_id="),
    ] {
        let county = TestGateway::county().await;
        // Somebody else's Task, which is none of our business, and one that names us and is none of this gateway's.
        county.world.at(PANTRY, |pantry| {
            pantry.set_batch(batch);
            for requester in ["Organization/somebody", "https://hub.test/fhir/Organization/hub"] {
                pantry.put(json!({"resourceType": "Task", "status": "requested", "intent": "order",
                    "requester": {"reference": requester}}));
            }
            pantry.ignore(ignored);
        });
        let county = county.settled().await;
        assert_eq!(code(&county, "pantry", "target").await, way, "{ignored:?}");
        assert!(accepted_is_seen(&county).await, "{ignored:?}");
        let last = county.world.requests().into_iter().rev().find(|one| one.contains(&format!("GET {PANTRY}/Task?")));
        assert!(last.as_ref().is_some_and(|one| one.contains(search)), "{ignored:?}: {last:?}");
        for stranger in ["Task/1", "Task/2"] {
            let read = format!("GET {PANTRY}/{stranger}");
            assert!(!county.world.requests().contains(&read), "{ignored:?}: {read}");
        }
        assert!(found(&county, "pantry", "missing").await.is_empty());
    }
}

// G-156: some servers want the code with every Task search.
#[tokio::test]
async fn a_code_goes_with_it_where_it_must() {
    let county = TestGateway::county().await;
    county.world.at(PANTRY, |pantry| pantry.set_batch(false));
    let plain = "Task?requester=https://hub.test/fhir/Organization/hub&_lastUpdated";
    county.world.refuse(PANTRY, "GET", plain, &[400; 20]);
    let county = county.settled().await;
    assert_eq!(code(&county, "pantry", "target").await, "coded");
    assert!(accepted_is_seen(&county).await);
    assert!(asked(&county, "&code=http://hl7.org/fhir/CodeSystem/task-code%7Cfulfill&_lastUpdated=ge2") > 0);
}

// G-156: some servers show clinical resources by their patient alone.
on_both!(a_patient_goes_with_it_where_it_must, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    county.world.at(EHR, |ehr| ehr.set_batch(false));
    county.world.refuse(EHR, "GET", "Condition?_id=loopgate-nobody&_lastUpdated", &[400]);
    let county = county.settled().await;
    assert!(found(&county, "clinic", "instead").await.iter().any(|text| text.contains("with the patient alone")));
    let task = county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    county.later(HOUR).await;
    let condition = patient::CONDITION.rsplit('/').next().unwrap();
    let person = patient::PATIENT.rsplit('/').next().unwrap();
    assert!(asked(&county, &format!("/Condition?_id={condition}&patient={person}&_lastUpdated=ge2")) > 0);
    assert!(asked(&county, &format!("/Patient?_id={person}&_lastUpdated=ge2")) > 0, "a Patient has none");
    county.world.at(EHR, |ehr| ehr.update("Condition", condition, |one| one["note"] = json!([{"text": "worse"}])));
    county.later(HOUR).await;
    let copies = county.get("root", "Condition").await.entries();
    assert_eq!(copies[0]["note"][0]["text"], "worse", "{task}");
});

/// A batch that is offered and refused is not sent again; the searches go one by one.
#[tokio::test]
async fn a_batch_that_fails_is_not_insisted_on() {
    let county = TestGateway::county().await;
    county.world.refuse_exactly(&format!("POST {EHR}"), 403);
    let county = county.settled().await;
    assert_eq!(said(&county, "clinic", "batch").await[0]["valueBoolean"], false);
    county.refers("r1", "food-insecurity").await;
    county.deliver_due().await;
    let before = county.world.requests().iter().filter(|one| **one == format!("POST {EHR}")).count();
    county.later(HOUR).await;
    assert_eq!(county.world.requests().iter().filter(|one| **one == format!("POST {EHR}")).count(), before);
}

/// Operators and coordinators can have a server asked now; nobody else learns that there is one.
#[tokio::test]
async fn an_operator_has_a_server_asked_now() {
    let county = TestGateway::county().await.settled().await;
    let round = || asked(&county, &format!("GET {PANTRY}/Task?requester={BASE}/Organization/hub&_lastUpdated"));
    for (partner, status, asks) in [("root", 200, 1), ("desk", 200, 1), ("clinic", 404, 0), ("pantry", 404, 0)] {
        let before = round();
        let answer = county.post(partner, "Organization/pantry/$poll", &json!({"resourceType": "Parameters"})).await;
        assert_eq!(answer.status, status, "{partner}: {}", answer.body);
        county.deliver_due().await;
        assert_eq!(round(), before + asks, "{partner}");
    }
    assert_eq!(county.get("root", "Organization/pantry/$poll").await.status, 405);
}

fn config() -> Config {
    let text = format!(
        "[server]\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"sqlite://none.db\"\n{}",
        county()
    );
    Config::parse(&text, std::path::Path::new(".")).unwrap()
}

/// The report before go-live: what works, what is missing, what is done instead; it reads no health data, writes nothing.
#[tokio::test]
async fn the_report_tells_what_is_missing() {
    let county = TestGateway::county().await;
    let (config, world) = (config(), Arc::new(county.world.clone()));
    let report = async |named: &str| {
        let partner = check::partner(&config, named).unwrap();
        let mut lines = Vec::new();
        let ready =
            check::report(&config, &partner, world.clone(), &mut |line: &str| lines.push(line.to_string())).await;
        (ready, lines)
    };
    let before = county.world.asked();
    let (ready, lines) = report("clinic").await;
    assert!(ready, "{lines:#?}");
    assert!(lines[0].contains("clinic") && lines.last().unwrap().starts_with("Ready"), "{lines:#?}");
    let asked = county.world.requests().split_off(before);
    assert_eq!(
        asked,
        [format!("GET {EHR}/metadata"), format!("GET {EHR}/.well-known/smart-configuration"), format!("POST {EHR}")]
    );
    let by_url = report(PANTRY).await;
    assert!(by_url.0 && by_url.1[0].contains("pantry"), "{:#?}", by_url.1);

    // A server that takes no Tasks, speaks another release, and refuses to be asked for ours.
    county.world.page(
        &format!("{PANTRY}/metadata"),
        "",
        &json!({"resourceType": "CapabilityStatement", "fhirVersion": "3.0.2", "format": ["json"],
            "rest": [{"mode": "server", "resource": [{"type": "Task", "interaction": [{"code": "read"}]}]}]})
        .to_string(),
    );
    county.world.refuse(PANTRY, "GET", "Task?identifier", &[403]);
    let (ready, lines) = report("pantry").await;
    assert!(!ready);
    for expected in [
        "missing  FHIR R4: it speaks another release",
        "missing  Task: create, update, search-type",
        "missing  Task?identifier: it answered 403",
        "instead  batch: not offered",
        "instead  Procedure: read is not offered",
        "Not ready: 3 things",
    ] {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:#?}");
    }
    // One that does not know us says so to every question; the report does once.
    county.world.at(EHR, |ehr| ehr.require_bearer("another"));
    let (ready, lines) = report("clinic").await;
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("401")).collect();
    assert!(told.len() == 1 && told[0].contains("missing  its searches: it answered 401 to every one"), "{lines:#?}");
    assert!(!ready && lines.last().unwrap().starts_with("Not ready: 1 thing that"), "{lines:#?}");
    county.world.down(EHR);
    let (ready, lines) = report("clinic").await;
    assert!(!ready && lines[1].contains("no answer in time"), "{lines:#?}");
    assert!(check::partner(&config, "agency").unwrap_err().contains("no FHIR server"));
    assert!(check::partner(&config, "http://10.0.0.1/fhir").is_err() && check::partner(&config, "who").is_err());
    assert!(check::partner(&config, "https://new.test/fhir/").is_ok());
}

/// A made-up referral goes round the loop over a partner's server, as source and as target.
#[tokio::test]
async fn a_practice_referral_goes_round() {
    let county = TestGateway::county().await;
    let (config, folder) = (config(), tempfile::tempdir().unwrap());
    let practise = async |named: &str| {
        let mut lines = Vec::new();
        let partner = check::partner(&config, named).unwrap();
        let say = &mut |line: &str| lines.push(line.to_string());
        let closed = check::practise(&config, &partner, Arc::new(county.world.clone()), folder.path(), say).await;
        (closed.unwrap(), lines)
    };
    let (closed, lines) = practise("pantry").await;
    assert!(closed, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("pantry: completes it with Procedure/")), "{lines:#?}");
    county.world.at(PANTRY, |pantry| {
        assert_eq!(pantry.all("Task").len(), 1);
        assert_eq!(pantry.all("Task")[0]["status"], "completed");
        assert!(pantry.all("Subscription").is_empty());
    });
    let (closed, lines) = practise("clinic").await;
    assert!(closed, "{lines:#?}");
    county.world.at(EHR, |ehr| {
        let task = ehr.all("Task")[0].clone();
        assert_eq!((&task["status"], task["output"].as_array().map(Vec::len)), (&json!("completed"), Some(1)));
        assert_eq!(task["for"]["reference"], ehr.all("ServiceRequest")[0]["subject"]["reference"]);
        assert_ne!(task["for"]["reference"], patient::PATIENT, "its own ids");
    });
    county.world.refuse(PANTRY, "POST", "Task", &[403; 10]);
    let (closed, lines) = practise("pantry").await;
    assert!(!closed && lines.last().unwrap().contains("waited in vain"), "{lines:#?}");
    assert!(lines.last().unwrap().ends_with("(deliver: answered 403)"), "{lines:#?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}
