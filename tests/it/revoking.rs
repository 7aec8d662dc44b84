//! A consent that is taken back while something is being disclosed: one comes after the other, whichever it is (D15c).

use std::time::Duration;

use loopgate::fhir::{Key, ResourceType};
use loopgate::store::Store;
use serde_json::{Value, json};

use crate::acts::reference;
use crate::databases::Place;
use crate::gateway::{BASE, TestGateway, county};
use crate::intake::{entry, transaction};
use crate::on_both;

/// A referral in one Bundle that rests on a Consent which is here already; and that Consent.
async fn resting_on_what_is_here(county: &TestGateway) -> (Value, Value) {
    let ids = county.posts_context("clinic").await;
    let consent = county.get("clinic", &format!("Consent/{}", ids["Consent"])).await.body;
    let mut bundle = transaction(county, "housing-instability");
    let request = entry(&mut bundle, "ServiceRequest");
    request["supportingInfo"] = json!([{"reference": format!("Consent/{}", ids["Consent"])}]);
    for name in ["subject", "requester"] {
        let kind = if name == "subject" { "Patient" } else { "PractitionerRole" };
        request[name] = json!({"reference": format!("{kind}/{}", ids[kind])});
    }
    request.as_object_mut().unwrap().shift_remove("reasonReference");
    let task = entry(&mut bundle, "Task");
    task["for"] = json!({"reference": format!("Patient/{}", ids["Patient"])});
    task["requester"] = json!({"reference": "Organization/clinic"});
    let entries = bundle["entry"].as_array_mut().unwrap();
    entries.retain(|one| ["Task", "ServiceRequest"].contains(&one["resource"]["resourceType"].as_str().unwrap()));
    (bundle, consent)
}

/// Returns when somebody waits for another's lock, or nobody has for so long that nobody will.
async fn somebody_waits(store: &Store) {
    let waits = async {
        loop {
            let mut reader = store.read().await.unwrap();
            let row = reader.one("select count(*) from pg_locks where not granted", Vec::new()).await.unwrap().unwrap();
            if row.int(0).unwrap() > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), waits).await;
}

fn key(consent: &Value) -> Key {
    Key::new(ResourceType::CONSENT, consent["id"].as_str().unwrap())
}

// D15c, SP-10: two connections, where the database lets two write.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_refers_waits_for_whoever_takes_the_consent_back() {
    let Some(place) = Place::postgres().await else { return };
    let county = TestGateway::with(place, &county()).await;
    let (bundle, consent) = resting_on_what_is_here(&county).await;
    let store = county.store().await;
    let mut tx = store.begin().await.unwrap();
    let stored = tx.resource_for_update(&key(&consent)).await.unwrap().unwrap();
    let mut body = stored.resource().unwrap();
    body.set("status", json!("inactive"));
    tx.update_resource(&stored, body, "clinic", BASE).await.unwrap();
    let (answer, ()) = tokio::join!(county.post("clinic", "", &bundle), async {
        somebody_waits(&store).await;
        tx.commit().await.unwrap();
    });
    assert_eq!(
        (answer.status, answer.expression()),
        (422, "Bundle.entry[0].resource.supportingInfo"),
        "{}",
        answer.body
    );
    assert!(county.get("agency", "Task").await.entries().is_empty());
}

// D15c: and the other way about. The transaction of the test holds what one that refers holds.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_the_consent_back_waits_for_whoever_refers() {
    let Some(place) = Place::postgres().await else { return };
    let county = TestGateway::with(place, &county()).await;
    let (_, mut consent) = resting_on_what_is_here(&county).await;
    let store = county.store().await;
    let mut tx = store.begin().await.unwrap();
    tx.resource_for_update(&key(&consent)).await.unwrap().unwrap();
    consent["status"] = json!("inactive");
    let path = key(&consent).to_string();
    let (answer, ()) = tokio::join!(county.put("clinic", &path, &consent), async {
        somebody_waits(&store).await;
        let waiting = county.get("clinic", &path).await.body;
        assert_eq!(waiting["status"], "active");
        tx.commit().await.unwrap();
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
}

// Two that rest on a Consent and change it follow each other: neither waits for what the other shares.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_rest_on_a_consent_and_change_it_follow_each_other() {
    let Some(place) = Place::postgres().await else { return };
    let county = TestGateway::with(place, &county()).await;
    for round in 0..4 {
        let (bundle, consent) = resting_on_what_is_here(&county).await;
        let with = |day: u32| {
            let (mut bundle, mut consent) = (bundle.clone(), consent.clone());
            consent["dateTime"] = json!(format!("2026-03-0{day}"));
            consent.as_object_mut().unwrap().shift_remove("meta");
            // Another need: the same twice is one referral.
            for name in ["ServiceRequest", "Task"] {
                entry(&mut bundle, name)["identifier"] =
                    json!([{"system": "urn:s", "value": format!("{round}-{day}")}]);
            }
            let put = json!({"resource": consent, "request": {"method": "PUT", "url": key(&consent).to_string()}});
            bundle["entry"].as_array_mut().unwrap().push(put);
            bundle
        };
        let (one, other) = (with(1), with(2));
        let (one, other) = tokio::join!(county.post("clinic", "", &one), county.post("clinic", "", &other));
        assert_eq!((one.status, other.status), (200, 200), "{} {}", one.body, other.body);
    }
}

// D15c: whoever wins, nobody sees anything in the end.
on_both!(a_consent_taken_back_while_it_is_used_leaves_nothing_open, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    for round in 0..8 {
        let (bundle, mut consent) = resting_on_what_is_here(&county).await;
        consent["status"] = json!("inactive");
        let path = key(&consent).to_string();
        let (referred, taken_back) = tokio::join!(
            async {
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                county.post("clinic", "", &bundle).await
            },
            county.put("clinic", &path, &consent),
        );
        assert_eq!(taken_back.status, 200, "{}", taken_back.body);
        assert!([200, 422].contains(&referred.status), "{}", referred.body);
        for kind in ["Task", "ServiceRequest", "Patient", "Consent"] {
            assert!(county.get("agency", kind).await.entries().is_empty(), "{kind}, round {round}");
        }
    }
});

// D15c: a request that rests on another Consent than before, or on none, is judged anew.
#[tokio::test]
async fn a_request_that_no_longer_rests_on_its_consent_ends() {
    let county = TestGateway::county().await;
    let (bundle, _) = resting_on_what_is_here(&county).await;
    let answer = county.post("clinic", "", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let find = |kind: &str| answer.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    let (mut request, task) = (find("ServiceRequest"), find("Task"));
    let person = reference(&request["subject"]);
    assert_eq!(county.get("agency", &person).await.status, 200);
    request.as_object_mut().unwrap().shift_remove("supportingInfo");
    let path = format!("ServiceRequest/{}", request["id"].as_str().unwrap());
    let changed = county.put("clinic", &path, &request).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(county.get("agency", &person).await.status, 404);
    let told = county.get("clinic", &format!("Task/{}", task["id"].as_str().unwrap())).await.body;
    assert_eq!(
        (&told["status"], &told["statusReason"]["coding"][0]["code"]),
        (&json!("cancelled"), &json!("no-consent"))
    );
}

// D15c: a referral's row comes first: who holds it and wants what it rests on never waits for who holds that and wants it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_in_a_circle() {
    let Some(place) = Place::postgres().await else { return };
    let county = TestGateway::with(place, &county()).await;
    let (bundle, consent) = resting_on_what_is_here(&county).await;
    let answer = county.post("clinic", "", &bundle).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let find = |kind: &str| answer.entries().into_iter().find(|one| one["resourceType"] == kind).unwrap();
    let (request, task) = (find("ServiceRequest"), find("Task"));
    let store = county.store().await;
    for (index, resource) in [&request, &consent].into_iter().enumerate() {
        let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
        let key = Key::new(kind, resource["id"].as_str().unwrap());
        let mut body = county.get("clinic", &key.to_string()).await.body;
        body["language"] = json!(["en", "es"][index]);
        let patch = json!([{"op": "add", "path": "/language", "value": "de"}]);
        let as_patch = [("content-type", "application/json-patch+json")];
        for method in ["PUT", "PATCH"] {
            let mut tx = store.begin().await.unwrap();
            tx.referral(task["id"].as_str().unwrap()).await.unwrap().unwrap();
            let (path, by) =
                (key.to_string(), if method == "PUT" { (&body, &[][..]) } else { (&patch, &as_patch[..]) });
            let (changed, ()) = tokio::join!(county.ask("clinic", method, &path, Some(by.0), by.1), async {
                somebody_waits(&store).await;
                tx.resource_for_update(&key).await.expect("no circle").unwrap();
                tx.commit().await.unwrap();
            });
            assert_eq!(changed.status, 200, "{method} {key}: {}", changed.body);
        }
    }
}
