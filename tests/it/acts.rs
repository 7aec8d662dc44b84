//! What parties do in the tests of the flows, one word for each act; and the counties those tests take place in.

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, EHR, PANTRY, TestGateway, county, partner};

/// A county in which the clinic's referrals are routed by the coordinator.
pub async fn by_hand() -> TestGateway {
    let settings = county().replace("roles = [\"source\"]", "roles = [\"source\"]\nrouting = \"coordinator\"");
    TestGateway::with(Place::sqlite(), &settings).await
}

/// A county without a coordinator.
pub async fn without_coordinator() -> TestGateway {
    let settings = county().replace(&partner("desk", "\"coordinator\"", ""), "");
    TestGateway::with(Place::sqlite(), &settings).await
}

/// A county with one more source, `hospital`, whose server is at this base.
pub async fn two_sources() -> TestGateway {
    let fhir = format!("fhir = {{ base = \"{HOSPITAL}\", follow = \"poll\", poll_every = \"1h\" }}");
    let settings = county() + &partner("hospital", "\"source\"", &fhir);
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    county.world.open(HOSPITAL);
    let now = county.clock.now().to_string();
    county.world.tell_time(&now);
    for resource in patient::context(&now) {
        county.world.at(HOSPITAL, |hospital| hospital.put(resource));
    }
    county
}

/// The second source's FHIR base.
pub const HOSPITAL: &str = "https://hospital.test/fhir";

/// A reference from the EHR, absolute.
pub fn there(reference: &str) -> String {
    format!("{EHR}/{reference}")
}

/// The text at `element.reference`.
pub fn reference(value: &Value) -> String {
    value["reference"].as_str().unwrap_or_default().to_string()
}

/// The Parameters of `$relay`.
pub fn relay_to(targets: &[&str]) -> Value {
    let part = |target: &&str| json!({"name": "target", "valueReference": {"reference": target}});
    json!({"resourceType": "Parameters", "parameter": targets.iter().map(part).collect::<Vec<_>>()})
}

impl TestGateway {
    /// A party reads its Task, changes it and PUTs it.
    pub async fn change(&self, partner: &str, task: &str, change: impl FnOnce(&mut Value)) -> Answered {
        let path = format!("Task/{task}");
        let read = self.get(partner, &path).await;
        assert_eq!(read.status, 200, "{partner} reads {path}: {}", read.body);
        let mut body = read.body;
        change(&mut body);
        self.put(partner, &path, &body).await
    }

    /// The coordinator relays; the ids of the new Tasks.
    pub async fn relays(&self, task: &str, targets: &[&str]) -> Vec<String> {
        let answer = self.post("desk", &format!("Task/{task}/$relay"), &relay_to(targets)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.entries().iter().map(|task| task["id"].as_str().unwrap().to_string()).collect()
    }

    /// A referral that nobody offers, fetched and then relayed by the coordinator to these; the source's Task and ours.
    pub async fn split(&self, request: &str, targets: &[&str]) -> (String, Vec<String>) {
        let task = self.refers(request, "elder-abuse").await;
        self.deliver_due().await;
        let relayed = self.relays(&task, targets).await;
        self.deliver_due().await;
        (task, relayed)
    }

    /// A light target posts what it did, based on the ServiceRequest of its Task; the Procedure's reference.
    pub async fn did(&self, partner: &str, task: &str) -> String {
        let theirs = self.get(partner, &format!("Task/{task}")).await.body;
        let (focus, subject) = (reference(&theirs["focus"]), reference(&theirs["for"]));
        let procedure = patient::procedure(&focus, &subject, "food-insecurity", "2027-01-15T09:00:00Z");
        let answer = self.post(partner, "Procedure", &procedure).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        format!("Procedure/{}", answer.id())
    }

    /// The one Task at the pantry's server.
    pub fn at_pantry(&self) -> Value {
        self.world.at(PANTRY, |pantry| pantry.all("Task").last().map(|task| (*task).clone())).unwrap_or_default()
    }

    /// The pantry's staff changes its newest Task, and the gateway asks what is new.
    pub async fn pantry_says(&self, change: impl FnOnce(&mut Value)) {
        let id = self.at_pantry()["id"].as_str().unwrap().to_string();
        self.world.at(PANTRY, |pantry| pantry.update("Task", &id, change));
        self.poll("pantry").await;
    }

    /// The EHR's staff changes something there, and the gateway asks what is new.
    pub async fn ehr_changes(&self, kind: &str, id: &str, change: impl FnOnce(&mut Value)) {
        self.later(std::time::Duration::from_secs(1)).await;
        assert!(self.world.at(EHR, |ehr| ehr.update(kind, id, change)));
        self.poll("clinic").await;
    }

    /// The statuses a Task has had, oldest first, without repeats.
    pub async fn steps(&self, task: &str) -> Vec<String> {
        let found = self.get("root", &format!("Task/{task}/_history?_count=100")).await;
        let mut steps: Vec<String> =
            found.entries().iter().rev().map(|task| task["status"].as_str().unwrap().to_string()).collect();
        steps.dedup();
        steps
    }

    /// A part of `$loop-status`, as the coordinator sees it.
    pub async fn loop_part(&self, task: &str, name: &str, value: &str) -> Value {
        let answer = self.get("desk", &format!("Task/{task}/$loop-status")).await;
        let parameters = answer.body["parameter"].as_array().cloned().unwrap_or_default();
        parameters.iter().find(|one| one["name"] == name).map(|one| one[value].clone()).unwrap_or_default()
    }

    /// Who has to act, by id.
    pub async fn waiting_on(&self, task: &str) -> String {
        let reference = self.loop_part(task, "waitingOn", "valueReference").await;
        reference["reference"].as_str().unwrap_or("").rsplit('/').next().unwrap_or("").to_string()
    }

    /// The source's resources, posted here in the order the public EHR client needs; the ServiceRequest is not.
    /// Answers the ids by type.
    pub async fn posts_context(&self, partner: &str) -> std::collections::HashMap<String, String> {
        let now = self.clock.now().to_string();
        let mut ids = std::collections::HashMap::new();
        for mut resource in patient::context(&now) {
            let kind = resource["resourceType"].as_str().unwrap().to_string();
            if matches!(kind.as_str(), "Organization" | "Goal") {
                continue;
            }
            resource.as_object_mut().unwrap().shift_remove("id");
            let mut text = resource.to_string();
            for (kind, id) in &ids {
                for name in ["pat-53234", "jan-water", "role-jan-water", "food-insecurity", "disclosure"] {
                    text = text.replace(&format!("\"{kind}/{name}\""), &format!("\"{kind}/{id}\""));
                }
            }
            text = text.replace(patient::CLINIC, &format!("Organization/{partner}"));
            let answer = self.post(partner, &kind, &serde_json::from_str(&text).unwrap()).await;
            assert_eq!(answer.status, 201, "{kind}: {}", answer.body);
            ids.insert(kind, answer.id());
        }
        ids
    }
}
