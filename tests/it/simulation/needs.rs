//! What is referred, and how it reaches the gateway: needs with a patient each, sent once, twice, or cut off in between.

use super::*;

impl Simulation {
    /// A need with its own patient at its source. Every resource is marked, so that whoever sees it gives itself away:
    /// `mark` the Task and the request, `who` patient and consent, `why` the condition.
    pub(super) fn need(&mut self, n: usize) -> Need {
        let dice = &mut self.dice;
        let (source, base) = if dice.one_in(4) { ("ward", WARD) } else { ("clinic", EHR) };
        let category = if dice.one_in(3) { "housing-instability" } else { "food-insecurity" };
        let flaw = match dice.below(24) {
            0 => Flaw::Denied,
            1 => Flaw::NoConsent,
            2 => Flaw::NoPatient,
            3 => Flaw::NoRequest,
            4 => Flaw::Outside,
            _ => Flaw::None,
        };
        let keeps = dice.one_in(4);
        let targets: &[&'static str] = if category == "food-insecurity" { &["pantry", "kitchen"] } else { &["agency"] };
        let (named, open) = match dice.below(6) {
            0 | 1 if !keeps => (None, true),
            2 => (dice.of(targets), false),
            _ => (None, false),
        };
        let now = self.county.clock.now().to_string();
        let renamed = |value: Value| -> Value {
            let text = value.to_string();
            let text = text.replace(patient::PATIENT, &format!("Patient/pat-{n}"));
            let text = text.replace(patient::CONSENT, &format!("Consent/consent-{n}"));
            serde_json::from_str(&text.replace(patient::CONDITION, &format!("Condition/cond-{n}"))).unwrap()
        };
        for resource in patient::context(&now) {
            let mut resource = renamed(resource);
            match resource["resourceType"].as_str().unwrap() {
                "Patient" if flaw != Flaw::NoPatient => {
                    resource["id"] = json!(format!("pat-{n}"));
                    resource["identifier"][0]["value"] = json!(format!("who{n}#"));
                }
                "Consent" => {
                    resource["id"] = json!(format!("consent-{n}"));
                    resource["sourceAttachment"]["title"] = json!(format!("who{n}#"));
                    if flaw == Flaw::Denied {
                        resource["provision"]["type"] = json!("deny");
                    }
                }
                "Condition" => {
                    resource["id"] = json!(format!("cond-{n}"));
                    resource["note"] = json!([{"text": format!("why{n}#")}]);
                }
                _ => continue,
            }
            self.county.world.at(base, |house| house.put(resource));
        }
        let mut request = renamed(patient::service_request(&format!("sr-{n}"), category, &now));
        request["note"] = json!([{"text": format!("mark{n}#")}]);
        if flaw == Flaw::NoConsent {
            request.as_object_mut().unwrap().shift_remove("supportingInfo");
        }
        let by_request = named.is_some() && self.dice.one_in(2);
        if by_request {
            request["performer"] = match named {
                Some("pantry") => json!([{"identifier": {"system": "urn:npi", "value": "77"}}]),
                Some(other) => json!([{"reference": format!("https://hub.test/fhir/Organization/{other}")}]),
                None => Value::Null,
            };
        }
        if flaw != Flaw::NoRequest {
            self.county.world.at(base, |house| house.put(request));
        }
        let owner = match named {
            Some(named) if !by_request && !keeps => Some(format!("Organization/{named}")),
            _ if open => None,
            _ if keeps => Some("https://hub.test/fhir/Organization/hub".to_string()),
            _ => Some("Organization/hub".to_string()),
        };
        let named = named.filter(|_| by_request || !keeps);
        let there = |reference: &str| if keeps { reference.to_string() } else { format!("{base}/{reference}") };
        let focus = match flaw {
            Flaw::Outside if self.dice.one_in(2) => format!("{base}-evil/ServiceRequest/sr-{n}"),
            Flaw::Outside => format!("https://evil.test/fhir/ServiceRequest/sr-{n}"),
            _ => there(&format!("ServiceRequest/sr-{n}")),
        };
        let patient = there(&format!("Patient/pat-{n}"));
        let mut body =
            patient::referral_task(None, &focus, &there(patient::REQUESTER), &patient, owner.as_deref(), &now);
        body["description"] = json!(format!("mark{n}#"));
        body["identifier"] = json!([{"system": format!("urn:{source}"), "value": format!("task-{n}")}]);
        let kept = keeps.then(|| format!("kept-{n}"));
        if let Some(kept) = &kept {
            body["id"] = json!(kept);
        }
        let by_hand = BTreeSet::new();
        let need = Need {
            n,
            source,
            base,
            category,
            flaw,
            kept,
            body,
            task: None,
            consent_withdrawn: false,
            by_hand,
            begun: false,
        };
        self.did("need", format!("{n} of {source}, {category}, {flaw:?}, named {named:?}, open {open}, kept {keeps}"));
        need
    }

    pub(super) async fn subscribes(&mut self) {
        let backport = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
        let body = json!({"resourceType": "Subscription", "status": "requested", "reason": "Watch my referrals",
            "criteria": loopgate::fhir::subscription::TASK_TOPIC,
            "channel": {"type": "rest-hook", "endpoint": HOOK, "payload": "application/fhir+json",
                "_payload": {"extension": [{"url": format!("{backport}/backport-payload-content"), "valueCode": "id-only"}]}}});
        let made = self.county.post("clinic", "Subscription", &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        self.subscription = Some(made.id());
        self.county.later(HANDSHAKE).await;
    }

    /// A subscription in `error` is asked for again.
    pub(super) async fn resubscribes(&mut self) {
        let Some(id) = self.subscription.clone() else { return };
        let mut body = self.county.get("clinic", &format!("Subscription/{id}")).await.body;
        if body["status"] == "error" {
            body["status"] = json!("requested");
            let answer = self.county.put("clinic", &format!("Subscription/{id}"), &body).await;
            self.did("resubscribes", format!("{}", answer.status));
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }

    pub(super) async fn refers(&mut self) {
        let waiting: Vec<usize> = self.needs.iter().filter(|need| !need.begun).map(|need| need.n).collect();
        let n = match self.dice.of(&waiting) {
            Some(n) => n,
            None => return self.repeats().await,
        };
        let need = self.needs[n].clone();
        self.needs[n].begun = true;
        if need.kept.is_some() {
            self.county.world.at(need.base, |house| house.put(need.body.clone()));
            self.did("keeps its Task", format!("{n}"));
            return;
        }
        if self.dice.one_in(6) {
            // Its connection breaks: it can't know whether we took it.
            let polls = self.dice.below(40);
            let came = cut(self.county.post(need.source, "Task", &need.body), |done| done >= polls).await;
            self.did("refers, and is cut off", format!("{n} after {polls} polls: {}", came.is_some()));
            self.needs[n].begun = came.is_some();
            if let Some(answer) = came {
                self.taken(n, &answer);
            }
            return;
        }
        let answer = self.county.post(need.source, "Task", &need.body).await;
        self.did("refers", format!("{n}: {}", answer.status));
        self.taken(n, &answer);
    }

    pub(super) fn taken(&mut self, n: usize, answer: &Answered) {
        self.sound(answer);
        assert!(matches!(answer.status, 200 | 201), "referral {n}: {} {}", answer.status, answer.body);
        let id = answer.id();
        match &self.needs[n].task {
            Some(known) => assert_eq!((known, answer.status), (&id, 200), "referral {n} became two"),
            None => self.needs[n].task = Some(id),
        }
    }

    /// The source sends the same referral again.
    pub(super) async fn repeats(&mut self) {
        let sent: Vec<usize> = self.needs.iter().filter(|n| n.begun && n.kept.is_none()).map(|n| n.n).collect();
        let Some(n) = self.dice.of(&sent) else { return };
        let need = self.needs[n].clone();
        let answer = self.county.post(need.source, "Task", &need.body).await;
        self.did("repeats", format!("{n}: {}", answer.status));
        self.taken(n, &answer);
    }
}
