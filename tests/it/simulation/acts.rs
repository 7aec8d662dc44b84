//! What the parties' staff do: targets answer, sources change their minds and their charts, coordinators relay.

use super::*;

impl Simulation {
    /// A target that works on our API and has something to answer there, most of the time.
    pub(super) async fn somebody_with_work(&mut self) -> Option<&'static str> {
        let open = "requested,accepted,in-progress,on-hold";
        let found = self.county.get("root", &format!("Task?requester=Organization/hub&status={open}")).await;
        let task = self.dice.of(&found.entries());
        let owner = task.as_ref().map(|task| task["owner"]["reference"].as_str().unwrap_or("").to_string());
        match owner.as_deref() {
            Some("Organization/agency") => Some("agency"),
            Some("Organization/kitchen") => Some("kitchen"),
            Some("Organization/pantry") | None if self.dice.one_in(2) => None,
            Some("") | Some(_) | None => self.dice.of(&["kitchen", "pantry", "agency"]),
        }
    }

    /// A Task that a light target may see, and what it wants to say about it.
    pub(super) async fn answer_of(&mut self, partner: &str) -> Option<(String, Value)> {
        let found = self.county.get(partner, "Task?_count=50").await;
        self.sound(&found);
        let mut relayed: Vec<Value> = found.entries().into_iter().filter(|task| task["partOf"].is_array()).collect();
        if partner == "pantry" {
            // It has a server, and answers there; what it claimed here it has here.
            relayed.retain(|task| task["owner"].is_null() || self.claimed.contains(task["id"].as_str().unwrap_or("")));
        }
        let open: Vec<Value> = relayed.iter().filter(|task| !checks::status_of(task).is_terminal()).cloned().collect();
        let some = if open.is_empty() || self.dice.one_in(6) { relayed } else { open };
        let mut task = self.dice.of(&some)?;
        let id = task["id"].as_str()?.to_string();
        if self.dice.one_in(5) && task["meta"]["versionId"] != "1" {
            // It has read the Task some time ago.
            let old = self.county.get(partner, &format!("Task/{id}/_history/1")).await;
            self.sound(&old);
            if old.status == 200 {
                task = old.body;
            }
        }
        let status = Status::parse(task["status"].as_str()?)?;
        if task["owner"].is_null() {
            task["owner"] = json!({"reference": format!("Organization/{partner}")});
            task["status"] = json!("accepted");
            if partner == "pantry" {
                self.claimed.insert(id.clone());
            }
            return Some((id, task));
        }
        let legal: Vec<Status> = Status::ALL.into_iter().filter(|next| status.may_become(*next)).collect();
        let next = if self.dice.one_in(8) { self.dice.of(&Status::ALL)? } else { self.dice.of(&legal)? };
        task["status"] = json!(next.code());
        let n = task["description"].as_str().unwrap_or("").to_string();
        if next.needs_reason() && !self.dice.one_in(8) {
            let said = self.dice.of(&["at capacity", "too far away", "can't do this"])?;
            task["statusReason"] = json!({"text": format!("{said}, by-{partner} {n}")});
        }
        if next == Status::Completed {
            self.documents(partner, &mut task, &n).await;
        }
        Some((id, task))
    }

    /// A completion with its Procedure: named, only posted, to come later, or none.
    pub(super) async fn documents(&mut self, partner: &str, task: &mut Value, n: &str) {
        let (focus, subject) = (task["focus"]["reference"].clone(), task["for"]["reference"].clone());
        let (Some(focus), Some(subject)) = (focus.as_str(), subject.as_str()) else { return };
        let now = self.county.clock.now().to_string();
        let mut procedure = patient::procedure(focus, subject, "food-insecurity", &now);
        procedure["note"] = json!([{"text": format!("by-{partner} {n}")}]);
        match self.dice.below(4) {
            0 => {}
            1 => self.late.push((partner.to_string(), procedure)),
            way => {
                let made = self.county.post(partner, "Procedure", &procedure).await;
                self.sound(&made);
                if made.status == 201 && way == 2 {
                    patient::completed_with(task, &format!("Procedure/{}", made.id()));
                }
            }
        }
    }

    pub(super) async fn late_outcome(&mut self) {
        let Some((partner, procedure)) = self.late.pop() else { return };
        let made = self.county.post(&partner, "Procedure", &procedure).await;
        self.did("late outcome", format!("{partner}: {}", made.status));
        self.sound(&made);
    }

    pub(super) async fn light_target_acts(&mut self) {
        let Some(partner) = self.somebody_with_work().await else { return };
        let Some((id, task)) = self.answer_of(partner).await else { return };
        let headers = self.maybe_if_match(&task);
        let headers: Vec<(&str, &str)> = headers.iter().map(|value| ("if-match", value.as_str())).collect();
        let answer = self.county.ask(partner, "PUT", &format!("Task/{id}"), Some(&task), &headers).await;
        self.did(
            &format!("{partner} answers"),
            format!("{id} {}: {} {}", task["status"], answer.status, answer.said()),
        );
        self.sound(&answer);
    }

    pub(super) fn maybe_if_match(&mut self, task: &Value) -> Option<String> {
        let version = task["meta"]["versionId"].as_str()?;
        self.dice.one_in(2).then(|| format!("W/\"{version}\""))
    }

    /// The pantry's staff: any legal steps at its own server, perhaps several before we look.
    pub(super) async fn pantry_acts(&mut self) {
        let tasks: Vec<Value> =
            self.county.world.at(PANTRY, |pantry| pantry.all("Task").into_iter().cloned().collect());
        let open: Vec<Value> = tasks.into_iter().filter(|task| !checks::status_of(task).is_terminal()).collect();
        let Some(task) = self.dice.of(&open) else { return };
        let id = task["id"].as_str().unwrap().to_string();
        let n = task["description"].as_str().unwrap_or("").to_string();
        let mut status = Status::parse(task["status"].as_str().unwrap()).unwrap();
        for _ in 0..=self.dice.below(2) {
            let legal: Vec<Status> = Status::ALL
                .into_iter()
                .filter(|next| status.may_become(*next) && *next != Status::EnteredInError)
                .collect();
            let Some(next) = self.dice.of(&legal) else { return };
            let now = self.county.clock.now().to_string();
            let mut said = json!(null);
            if next.needs_reason() && !self.dice.one_in(4) {
                let why = self.dice.of(&["at capacity", "too far away"]).unwrap_or_default();
                said = json!({"text": format!("{why}, by-pantry {n}")});
            }
            let documented = self.dice.one_in(2);
            self.county.world.at(PANTRY, |pantry| {
                let procedure = (next == Status::Completed && documented).then(|| {
                    let (focus, subject) = (task["focus"]["reference"].as_str(), task["for"]["reference"].as_str());
                    let mut done =
                        patient::procedure(focus.unwrap_or(""), subject.unwrap_or(""), "food-insecurity", &now);
                    done["note"] = json!([{"text": format!("by-pantry {n}")}]);
                    pantry.put(done)
                });
                pantry.update("Task", &id, |task| {
                    task["status"] = json!(next.code());
                    if !said.is_null() {
                        task["statusReason"] = said;
                    }
                    if let Some(procedure) = procedure {
                        patient::completed_with(task, &format!("Procedure/{procedure}"));
                    }
                });
            });
            self.did("pantry acts", format!("{id} {status} -> {next}"));
            status = next;
            self.pantry_has_news();
            if self.dice.one_in(2) {
                self.pantry_tells().await;
            }
        }
    }

    /// Our Subscriptions at the pantry, by id, and what a notification shows.
    pub(super) fn ours_at_the_pantry(&self) -> Vec<(String, String, String)> {
        let all: Vec<Value> =
            self.county.world.at(PANTRY, |pantry| pantry.all("Subscription").into_iter().cloned().collect());
        let text = |value: &Value| value.as_str().unwrap_or("").trim_start_matches("Authorization: ").to_string();
        all.iter().map(|one| (text(&one["id"]), text(&one["status"]), text(&one["channel"]["header"][0]))).collect()
    }

    /// The source's Task at the gateway, changed by the source.
    pub(super) fn wish(&mut self, mut task: Value) -> Value {
        let wish = self.dice.of(&["cancelled", "cancelled", "entered-in-error", "completed", "requested"]);
        task["status"] = json!(wish);
        if self.dice.one_in(2) {
            task["statusReason"] = json!({"text": "not needed any more"});
        }
        task
    }

    pub(super) async fn source_changes_its_mind(&mut self) {
        let begun: Vec<usize> = self.needs.iter().filter(|need| need.begun).map(|need| need.n).collect();
        let Some(n) = self.dice.of(&begun) else { return };
        let need = self.needs[n].clone();
        if let Some(kept) = &need.kept {
            let wish = if self.dice.one_in(4) { "entered-in-error" } else { "cancelled" };
            let world = self.county.world.clone();
            let now = world.at(need.base, |house| house.get("Task", kept).cloned()).unwrap_or_default();
            let status = now["status"].as_str().and_then(Status::parse);
            if status.is_some_and(|status| status.may_become(Status::parse(wish).unwrap_or(status))) {
                world.at(need.base, |house| house.update("Task", kept, |task| task["status"] = json!(wish)));
                self.did("source ends its own Task", format!("{n} {wish}"));
            }
            return;
        }
        let Some(id) = need.task else { return };
        let task = self.county.get(need.source, &format!("Task/{id}")).await;
        assert_eq!(task.status, 200, "the source can't read its Task: {}", task.body);
        let wished = self.wish(task.body);
        let answer = self.county.put(need.source, &format!("Task/{id}"), &wished).await;
        self.did("source wishes", format!("{n} {}: {}", wished["status"], answer.status));
        self.sound(&answer);
    }

    /// The chart at the source changes: the request revoked, on hold, reworded; the consent withdrawn.
    pub(super) async fn chart_changes(&mut self) {
        let begun: Vec<usize> = self.needs.iter().filter(|need| need.begun).map(|need| need.n).collect();
        let Some(n) = self.dice.of(&begun) else { return };
        let (base, request) = (self.needs[n].base, self.needs[n].request());
        let what = self.dice.of(&["revoked", "on-hold", "active", "reworded", "withdrawn"]).unwrap_or("active");
        let world = self.county.world.clone();
        match what {
            "withdrawn" => {
                let consent = format!("consent-{n}");
                world.at(base, |house| house.update("Consent", &consent, |one| one["status"] = json!("inactive")));
                self.needs[n].consent_withdrawn = true;
            }
            "reworded" => {
                let text = format!("mark{n}# again at {}", self.county.clock.now());
                world.at(base, |house| {
                    house.update("ServiceRequest", &request, |one| one["note"][0]["text"] = json!(text))
                });
            }
            status => {
                world.at(base, |house| house.update("ServiceRequest", &request, |one| one["status"] = json!(status)));
            }
        }
        self.did("chart changes", format!("{n} {what}"));
    }

    pub(super) async fn coordinator_relays(&mut self) {
        let here: Vec<usize> = self.needs.iter().filter(|need| need.begun).map(|need| need.n).collect();
        let Some(n) = self.dice.of(&here) else { return };
        let Some(task) = checks::task_of(self, n).await else { return };
        let food = self.needs[n].category == "food-insecurity";
        let targets: &[&str] = if food { &["pantry", "kitchen"] } else { &["agency"] };
        let Some(target) = self.dice.of(targets) else { return };
        let body = json!({"resourceType": "Parameters",
            "parameter": [{"name": "target", "valueReference": {"reference": format!("Organization/{target}")}}]});
        let answer = self.county.post("desk", &format!("Task/{task}/$relay"), &body).await;
        self.did("coordinator relays", format!("{n} to {target}: {} {}", answer.status, answer.said()));
        self.sound(&answer);
        if answer.status == 200 {
            self.needs[n].by_hand.insert(target.to_string());
        }
    }

    /// Two parties at the same moment.
    pub(super) async fn two_at_once(&mut self) {
        let Some(first) = self.somebody_with_work().await else { return };
        let second = self.dice.of(&["agency", "kitchen", "pantry", "clinic", "worker"]).unwrap_or("clinic");
        let Some((one, one_task)) = self.answer_of(first).await else { return };
        let one_path = format!("Task/{one}");
        let (this, that) = if second == "worker" {
            let county = &self.county;
            let (this, _) = tokio::join!(county.put(first, &one_path, &one_task), county.deliver_due());
            (this, None)
        } else {
            let other = if second == "clinic" {
                let parent = one_task["partOf"][0]["reference"].as_str().unwrap_or("").to_string();
                let source = self.county.get("clinic", &parent).await;
                if source.status != 200 {
                    return;
                }
                let parent = parent.rsplit('/').next().unwrap_or("").to_string();
                Some((parent, self.wish(source.body)))
            } else {
                self.answer_of(second).await
            };
            let Some((other, other_task)) = other else { return };
            let path = format!("Task/{other}");
            let county = &self.county;
            let (this, that) =
                tokio::join!(county.put(first, &one_path, &one_task), county.put(second, &path, &other_task));
            (this, Some(that))
        };
        let then = that.as_ref().map(|that| that.status);
        self.did("two at once", format!("{first} {}: {}, {second}: {then:?}", one_task["status"], this.status));
        self.sound(&this);
        that.iter().for_each(|that| self.sound(that));
    }

    pub async fn source_reads(&mut self) {
        for source in ["clinic", "ward"] {
            let found = self.county.get(source, "Task?_count=200").await;
            self.did("source reads", format!("{source}: {}", found.entries().len()));
            self.sound(&found);
        }
    }
}
