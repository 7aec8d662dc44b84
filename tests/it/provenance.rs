//! Where something comes from, said by whoever writes it: `X-Provenance`.

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::TestGateway;
use crate::intake::transaction;
use crate::on_both;

fn said() -> Value {
    json!({"resourceType": "Provenance", "recorded": "2027-01-15T08:00:00Z", "agent": [
        {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type", "code": "author"}]},
         "who": {"reference": "Organization/clinic"}}]})
}

// a create, an update, a patch and a transaction each take one, of the very version that they made.
on_both!(what_a_write_says_of_itself_is_stored_with_it, async |place: Place| {
    let county = TestGateway::with(place, &crate::gateway::county()).await;
    let header = said().to_string();
    let headers = [("x-provenance", header.as_str())];
    let targets = async |key: &str| -> Vec<String> {
        let found = county.get("clinic", &format!("Provenance?target={key}")).await;
        let entries = found.entries();
        let mut targets: Vec<String> =
            entries.iter().map(|one| one["target"][0]["reference"].as_str().unwrap().to_string()).collect();
        targets.sort_unstable();
        targets
    };
    let body = json!({"resourceType": "Patient", "name": [{"family": "X"}]});
    let made = county.ask("clinic", "POST", "Patient", Some(&body), &headers).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let key = format!("Patient/{}", made.id());
    assert_eq!(targets(&key).await, [format!("{key}/_history/1")]);
    let mut body = made.body.clone();
    body["active"] = json!(true);
    assert_eq!(county.ask("clinic", "PUT", &key, Some(&body), &headers).await.status, 200);
    let patch = json!([{"op": "replace", "path": "/active", "value": false}]);
    let typed = [headers[0], ("content-type", "application/json-patch+json")];
    assert_eq!(county.ask("clinic", "PATCH", &key, Some(&patch), &typed).await.status, 200);
    let all: Vec<String> = (1..=3).map(|version| format!("{key}/_history/{version}")).collect();
    assert_eq!(targets(&key).await, all);
    let with = county
        .get("clinic", &format!("{}&_revinclude=Provenance:target", key.replace("Patient/", "Patient?_id=")))
        .await;
    assert_eq!(with.entries().len(), 4, "A-121");
    let bundle = county.ask("clinic", "POST", "", Some(&transaction(&county, "housing-instability")), &headers).await;
    assert_eq!(bundle.status, 200, "{}", bundle.body);
    for one in bundle.entries() {
        let key = format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap());
        assert_eq!(targets(&key).await.len(), 1, "{key}");
    }
    // Nobody else hears of it by that, and a read writes none.
    assert_eq!(county.ask("clinic", "GET", &key, None, &headers).await.status, 200);
    assert_eq!(targets(&key).await.len(), 3);
    assert!(county.get("kitchen", "Provenance").await.entries().is_empty());
});

// What is wrong with it stops the write that it came with.
#[tokio::test]
async fn a_provenance_that_can_not_be_taken_stops_the_write() {
    let county = TestGateway::county().await;
    let with = |name: &str, value: Value| {
        let mut one = said();
        one[name] = value;
        one.to_string()
    };
    let elsewhere = json!([{"who": {"reference": "Patient/nobody"}}]);
    for (header, status) in [
        ("{".to_string(), 400),
        ("{\"resourceType\":\"Patient\"}".to_string(), 400),
        (with("target", json!([{"reference": "Task/1"}])), 400),
        (with("agent", Value::Null), 422),
        (with("agent", elsewhere), 422),
        (with("nonsense", json!(1)), 400),
    ] {
        let header = header.replace("\"agent\":null", "\"agent\":[]").replace(",\"agent\":[]", "");
        let body = json!({"resourceType": "Patient"});
        let refused = county.ask("clinic", "POST", "Patient", Some(&body), &[("x-provenance", &header)]).await;
        assert_eq!(refused.status, status, "{header}: {}", refused.body);
    }
    for kind in ["Patient", "Provenance"] {
        assert!(county.get("root", kind).await.entries().is_empty(), "{kind}: nothing is half done");
    }
}
