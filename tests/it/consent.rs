//! What may be referred at all: consent that counts (D15c), and nothing that is another's (D2, D11).

use std::time::Duration;

use loopgate::demo::patient;
use serde_json::{Value, json};

use crate::acts::{HOSPITAL, reference, two_sources, without_coordinator};
use crate::databases::Place;
use crate::gateway::{EHR, PANTRY, TestGateway, county};
use crate::intake::{entry, transaction};
use crate::notifications::subscribed;
use crate::on_both;

// Nothing that is somebody else's can be referred by naming it.
#[tokio::test]
async fn a_source_cannot_refer_what_it_may_not_see() {
    let county = two_sources().await;
    let ours = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let ours = county.task(&ours).await;
    let (request, person) = (reference(&ours["focus"]), reference(&ours["for"]));
    county.world.at(HOSPITAL, |hospital| {
        hospital.put(patient::service_request("sr9", "housing-instability", "2027-01-15T08:00:00Z"))
    });
    let own = json!({"reference": format!("{HOSPITAL}/ServiceRequest/sr9")});
    let mut body = county.referral("sr9", "housing-instability", Some("Organization/hub"));
    body = serde_json::from_str(&body.to_string().replace(EHR, HOSPITAL)).unwrap();
    let with = |name: &str, value: Value| {
        let mut body = body.clone();
        body[name] = value;
        body
    };
    let input = json!([{"type": {"text": "more"}, "valueReference": {"reference": person}}]);
    for (name, value, place) in [
        ("focus", json!({"reference": request}), "Task.focus"),
        ("for", json!({"reference": person}), "Task.for"),
        ("for", json!({"reference": format!("https://hub.test/fhir/{person}")}), "Task.for"),
        ("input", input, "Task.input[0].valueReference"),
    ] {
        let mut sent = with(name, value.clone());
        let refused = county.post("hospital", "Task", &sent).await;
        assert_eq!((refused.status, refused.expression()), (422, place));
        // Nor by way of a draft.
        sent["status"] = json!("draft");
        sent[name] = if name == "focus" { own.clone() } else { Value::Null };
        if name == "for" {
            sent["for"] = json!({"reference": format!("{HOSPITAL}/{}", patient::PATIENT)});
        }
        sent.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let draft = county.post("hospital", "Task", &sent).await;
        assert_eq!(draft.status, 201, "{}", draft.body);
        let refused = county
            .change("hospital", &draft.id(), |task| {
                task[name] = value.clone();
                task["status"] = json!("requested");
            })
            .await;
        assert_eq!((refused.status, refused.expression()), (422, place), "draft {name}");
        county.change("hospital", &draft.id(), |task| task["status"] = json!("entered-in-error")).await;
    }
    // Nor by a reference into our own base from what is fetched.
    county.world.at(HOSPITAL, |hospital| {
        let mut sly = patient::service_request("sr10", "food-insecurity", "2027-01-15T08:00:00Z");
        sly["reasonReference"] = json!([{"reference": format!("https://hub.test/fhir/{person}")}]);
        hospital.put(sly)
    });
    body["focus"] = json!({"reference": format!("{HOSPITAL}/ServiceRequest/sr10")});
    assert_eq!(county.post("hospital", "Task", &body).await.status, 201);
    county.deliver_due().await;
    assert_eq!(county.get("pantry", &person).await.status, 404);
}

// D15c, inline.
// G-158, G-176, G-183, G-179
#[tokio::test]
async fn without_a_consent_that_counts_nothing_is_taken_in() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 5] = [
        ("missing", |bundle| entry(bundle, "ServiceRequest")["supportingInfo"] = Value::Null),
        ("inactive", |bundle| entry(bundle, "Consent")["status"] = json!("inactive")),
        ("denied", |bundle| entry(bundle, "Consent")["provision"]["type"] = json!("deny")),
        ("expired", |bundle| entry(bundle, "Consent")["provision"]["period"] = json!({"end": "2020-01-01"})),
        ("other", |bundle| entry(bundle, "Consent")["patient"] = json!({"reference": "Patient/OTHER"})),
    ];
    for (why, change) in changes {
        let county = TestGateway::county().await;
        let mut bundle = transaction(&county, "housing-instability");
        if why == "other" {
            let mut patient = entry(&mut bundle, "Patient").clone();
            patient["name"] = json!([{"family": "OTHER"}]);
            let made = county.post("clinic", "Patient", &patient).await;
            change(&mut bundle);
            let text = bundle.to_string().replace("Patient/OTHER", &format!("Patient/{}", made.id()));
            bundle = serde_json::from_str(&text).unwrap();
        } else {
            change(&mut bundle);
        }
        entry(&mut bundle, "ServiceRequest").as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let refused = county.post("clinic", "", &bundle).await;
        assert_eq!(refused.status, 422, "{why}: {}", refused.body);
        assert!(refused.expression().contains("supportingInfo"), "{why}: {}", refused.expression());
        assert_eq!(county.get("root", "Task").await.entries().len(), 0, "{why}");
        assert_eq!(county.get("root", "ServiceRequest").await.entries().len(), 0, "{why}");
    }
}

// D15c, after the fetch.
// G-176, G-183
#[tokio::test]
async fn a_consent_that_turns_out_not_to_count_ends_the_referral_with_the_reason() {
    for change in [
        json!({"status": "inactive"}),
        json!({"provision": {"type": "deny"}}),
        json!({"provision": {"period": {"end": "2020-01-01"}}}),
        json!({"patient": {"reference": "Patient/somebody-else"}}),
    ] {
        let county = without_coordinator().await;
        county.world.at(EHR, |ehr| {
            ehr.update("Consent", "disclosure", |consent| {
                change.as_object().unwrap().iter().for_each(|(name, value)| consent[name] = value.clone());
            })
        });
        let task = county.refers("sr1", "food-insecurity").await;
        county.deliver_due().await;
        let ended = county.task(&task).await;
        assert_eq!(
            (&ended["status"], &ended["statusReason"]["coding"][0]["code"]),
            (&json!("rejected"), &json!("no-consent")),
            "{change}"
        );
        assert!(county.world.at(PANTRY, |pantry| pantry.all("Task").is_empty()));
        assert!(county.relayed(&task).await.is_empty());
    }
}

// D15c
#[tokio::test]
async fn a_revoked_consent_closes_the_targets_eyes_and_the_source_is_told() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    county.poll("clinic").await;
    let theirs = county.relayed(&task).await.remove(0);
    county.answers("agency", &theirs, "accepted").await;
    let ours = county.task(&theirs).await;
    county.ehr_changes("Consent", "disclosure", |consent| consent["status"] = json!("inactive")).await;
    for path in [format!("Task/{theirs}"), format!("Task/{task}"), reference(&ours["focus"]), reference(&ours["for"])] {
        assert_eq!(county.get("agency", &path).await.status, 404, "{path}");
    }
    for path in ["Task", "Patient", "ServiceRequest", "Consent"] {
        assert!(county.get("agency", path).await.entries().is_empty(), "{path}");
    }
    let told = county.get("clinic", &format!("Task/{task}")).await.body;
    assert_eq!(
        (&told["status"], &told["statusReason"]["coding"][0]["code"]),
        (&json!("cancelled"), &json!("no-consent"))
    );
}

/// A referral of resources that the clinic posted here: the source's Task, the agency's, the ids by type.
async fn posted_here(county: &TestGateway) -> (String, String, std::collections::HashMap<String, String>) {
    let answer = county.post("clinic", "", &transaction(county, "housing-instability")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id = |one: &Value| one["id"].as_str().unwrap().to_string();
    let ids: std::collections::HashMap<String, String> =
        answer.entries().iter().map(|one| (one["resourceType"].as_str().unwrap().to_string(), id(one))).collect();
    let theirs = county.relayed(&ids["Task"]).await.remove(0);
    (ids["Task"].clone(), theirs, ids)
}

// D15c: on our own server.
#[tokio::test]
async fn a_consent_taken_back_here_counts_however_it_is_taken_back() {
    for deleted in [false, true] {
        let county = TestGateway::county().await;
        let (task, theirs, ids) = posted_here(&county).await;
        let ours = county.task(&theirs).await;
        let path = format!("Consent/{}", ids["Consent"]);
        let mut consent = county.get("clinic", &path).await.body;
        consent["status"] = json!("rejected");
        let answer = match deleted {
            true => county.ask("clinic", "DELETE", &path, None, &[]).await,
            false => county.put("clinic", &path, &consent).await,
        };
        assert!(answer.status < 300, "{}", answer.body);
        for path in [format!("Task/{theirs}"), reference(&ours["focus"]), reference(&ours["for"])] {
            assert_eq!(county.get("agency", &path).await.status, 404, "{path}, deleted: {deleted}");
        }
        assert_eq!(county.status(&task).await, "cancelled");
    }
}

// D15c: nothing that comes later opens it again, not while the target's server has still to be told.
#[tokio::test]
async fn what_a_revoked_consent_closed_stays_closed() {
    let county = TestGateway::county().await;
    let bundle =
        transaction(&county, "housing-instability").to_string().replace("Organization/hub", "Organization/pantry");
    let answer = county.post("clinic", "", &serde_json::from_str(&bundle).unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let find = |kind: &str| answer.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    county.deliver_due().await;
    county.world.down(PANTRY);
    let (mut consent, mut request) = (find("Consent"), find("ServiceRequest"));
    consent["status"] = json!("inactive");
    request["patientInstruction"] = json!("ring twice");
    let person = reference(&request["subject"]);
    assert_eq!(county.get("pantry", &person).await.status, 200);
    for one in [consent, request] {
        let path = format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap());
        assert_eq!(county.put("clinic", &path, &one).await.status, 200);
        assert_eq!(county.get("pantry", &person).await.status, 404, "after {path}");
    }
    county.world.up(PANTRY);
    county.later(std::time::Duration::from_secs(5)).await;
    assert_eq!(county.at_pantry()["status"], "cancelled");
    county.poll("pantry").await;
    assert_eq!(county.get("pantry", &person).await.status, 404);
}

// D15c: a referral is about its patient.
#[tokio::test]
async fn a_task_for_another_patient_than_its_requests_is_refused() {
    let county = TestGateway::county().await;
    let mut bundle = transaction(&county, "housing-instability");
    let mut other = entry(&mut bundle, "Patient").clone();
    other["name"] = json!([{"family": "Else"}]);
    let other = county.post("clinic", "Patient", &other).await.id();
    entry(&mut bundle, "Task")["for"] = json!({"reference": format!("Patient/{other}")});
    let refused = county.post("clinic", "", &bundle).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(refused.expression().ends_with(".for"), "{}", refused.expression());
}

// SP-10, D15c: a consent that runs out ends what rests on it, unasked and within a second, and one that was extended
// ends it when it ends.
// G-176
#[tokio::test]
async fn a_consent_that_runs_out_closes_the_targets_eyes() {
    let county = TestGateway::county().await;
    let end = |seconds| {
        let end = county.clock.now().plus(Duration::from_secs(seconds));
        json!({"type": "permit", "period": {"end": end.to_string()}})
    };
    let mut bundle = transaction(&county, "housing-instability");
    entry(&mut bundle, "Consent")["provision"] = end(3_600);
    let answer = county.post("clinic", "", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let find = |kind: &str| answer.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    let task = find("Task")["id"].as_str().unwrap().to_string();
    let theirs = county.relayed(&task).await.remove(0);
    let person = reference(&find("ServiceRequest")["subject"]);
    // Extended before it ran out.
    let mut consent = find("Consent");
    consent["provision"] = end(7_200);
    let path = format!("Consent/{}", consent["id"].as_str().unwrap());
    assert_eq!(county.put("clinic", &path, &consent).await.status, 200);
    county.later(Duration::from_secs(3_600)).await;
    assert_eq!(county.get("agency", &person).await.status, 200);
    county.later(Duration::from_secs(3_599)).await;
    assert_eq!(county.get("agency", &person).await.status, 200);
    // A second is over when it has passed.
    county.later(Duration::from_secs(2)).await;
    for path in [&person, &format!("Task/{theirs}")] {
        assert_eq!(county.get("agency", path).await.status, 404, "{path}");
    }
    let told = county.get("clinic", &format!("Task/{task}")).await.body;
    assert_eq!(
        (&told["status"], &told["statusReason"]["coding"][0]["code"]),
        (&json!("cancelled"), &json!("no-consent"))
    );
}

fn to(partner: &str) -> Value {
    let role =
        json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]});
    json!({"role": role, "reference": {"reference": format!("Organization/{partner}")}})
}

// SP-10: the consent's recipients are kept to: whom it does not name is not asked, and loses what it had when the
// consent is narrowed; the one whom it names keeps it.
// G-176, G-183
#[tokio::test]
async fn a_consent_that_names_recipients_is_for_nobody_else() {
    let county = TestGateway::county().await;
    let mut bundle = transaction(&county, "food-insecurity");
    entry(&mut bundle, "Consent")["provision"]["actor"] = json!([to("kitchen")]);
    let answer = county.post("clinic", "", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let find = |kind: &str| answer.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    let task = find("Task")["id"].as_str().unwrap().to_string();
    let relayed = county.relayed(&task).await;
    assert_eq!(relayed.len(), 1);
    assert_eq!(county.task(&relayed[0]).await["owner"]["reference"], "Organization/kitchen");
    // A coordinator can't send it elsewhere.
    let target = |id: &str| {
        json!({"resourceType": "Parameters", "parameter": [{"name": "target",
        "valueReference": {"reference": format!("Organization/{id}")}}]})
    };
    let refused = county.post("desk", &format!("Task/{task}/$relay"), &target("pantry")).await;
    assert_eq!((refused.status, refused.expression()), (422, "ServiceRequest.supportingInfo"), "{}", refused.body);
    let mut consent = find("Consent");
    let path = format!("Consent/{}", consent["id"].as_str().unwrap());
    consent["provision"]["actor"] = json!([to("kitchen"), to("agency")]);
    assert_eq!(county.put("clinic", &path, &consent).await.status, 200);
    assert_eq!(county.post("desk", &format!("Task/{task}/$relay"), &target("agency")).await.status, 200);
    let person = reference(&find("ServiceRequest")["subject"]);
    for who in ["kitchen", "agency"] {
        assert_eq!(county.get(who, &person).await.status, 200, "{who}");
    }
    consent.as_object_mut().unwrap().remove("meta");
    consent["provision"]["actor"] = json!([to("agency")]);
    assert_eq!(county.put("clinic", &path, &consent).await.status, 200);
    assert_eq!(county.get("kitchen", &person).await.status, 404);
    assert_eq!(county.get("agency", &person).await.status, 200);
    assert_ne!(county.status(&task).await, "cancelled");
}

// TC-06: a sensitive need takes a consent that names it and its recipient.
#[tokio::test]
async fn a_sensitive_need_takes_a_narrow_consent() {
    let settings = format!("{}[consent]\nsensitive = [\"housing-instability\"]\n", crate::gateway::county());
    let county = TestGateway::with(crate::databases::Place::sqlite(), &settings).await;
    let broad = transaction(&county, "housing-instability");
    let refused = county.post("clinic", "", &broad).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let mut narrow = broad.clone();
    let system = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
    entry(&mut narrow, "Consent")["provision"]["code"] =
        json!([{"coding": [{"system": system, "code": "housing-instability"}]}]);
    entry(&mut narrow, "Consent")["provision"]["actor"] = json!([to("agency")]);
    let answer = county.post("clinic", "", &narrow).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// The parameters of a referral's `$loop-status` with this name.
async fn loop_status(county: &TestGateway, task: &str, name: &str) -> Vec<String> {
    let status = county.get("desk", &format!("Task/{task}/$loop-status")).await.body;
    let all = status["parameter"].as_array().unwrap().iter().filter(|one| one["name"] == name);
    all.map(|one| one["part"].to_string()).collect()
}

// LP-15, SP-10: who had to be told that consent ended, who has taken it, when and how, is on record for the coordinator.
on_both!(that_consent_ended_is_told_with_receipts, async |place: Place| {
    const THEIRS: &str = "https://agency.test/hook";
    let county = TestGateway::with(place, &county()).await;
    // By notification, by asking, and at the target's own server.
    for (request, kind, who, how) in [
        ("sr1", "housing-instability", "agency", "asked"),
        ("sr2", "food-insecurity", "pantry", "delivered"),
        ("sr3", "housing-instability", "agency", "notification"),
    ] {
        if how == "notification" {
            subscribed(&county, "agency", THEIRS).await;
        }
        let task = county.refers(request, kind).await;
        county.deliver_due().await;
        county.poll("clinic").await;
        let theirs = county.relayed(&task).await.remove(0);
        county.answers(who, &theirs, "accepted").await;
        county.deliver_due().await;
        let before = county.world.heard(THEIRS).len();
        county.ehr_changes("Consent", "disclosure", |consent| consent["status"] = json!("inactive")).await;
        if how == "asked" {
            let untold = loop_status(&county, &task, "untold").await;
            assert_eq!(untold.len(), 1);
            assert!(untold[0].contains("Organization/agency") && untold[0].contains(&theirs), "{untold:?}");
            assert_eq!(county.get(who, &format!("Task/{theirs}")).await.status, 404);
        }
        county.deliver_due().await;
        if how == "notification" {
            let heard = county.world.heard(THEIRS);
            assert_eq!(heard.len(), before + 1);
            assert!(!heard[before].to_string().contains(&theirs), "that something changed, and not what");
        }
        assert!(loop_status(&county, &task, "untold").await.is_empty(), "{how}");
        let steps = loop_status(&county, &task, "step").await;
        let said = |what: &str, how: &str| {
            steps
                .iter()
                .filter(|step| {
                    step.contains(&format!("\"{what}\""))
                        && step.contains(&format!("Organization/{who}"))
                        && step.contains(&format!("\"{how} of Task/{theirs}"))
                })
                .count()
        };
        assert_eq!((said("consent-ended", "closed"), said("consent-ended-told", how)), (1, 1), "{steps:?}");
        // Asking again is no second receipt.
        county.get(who, &format!("Task/{theirs}")).await;
        assert_eq!(loop_status(&county, &task, "step").await.len(), steps.len());
        county.ehr_changes("Consent", "disclosure", |consent| consent["status"] = json!("active")).await;
    }
});
