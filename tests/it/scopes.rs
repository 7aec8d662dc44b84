//! What a token's scopes allow, whatever its holder's role: each interaction and each operation takes its letter, also
//! within Bundles, and nothing goes round them.

use loopgate::http::routes::OPERATIONS;
use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, HOOK, TestGateway, county, partner};
use crate::notifications::subscription;

const LETTERS: [&str; 5] = ["c", "r", "u", "d", "s"];
/// All who run the gateway, so that it is the scopes alone that refuse.
const ROLES: &str = "\"operator\", \"coordinator\", \"source\"";

fn patient(value: &str) -> Value {
    json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": value}], "gender": "female"})
}

fn holder(id: &str, scopes: &str) -> String {
    partner(id, ROLES, &format!("scopes = [{scopes}]"))
}

async fn with(holders: &[String]) -> TestGateway {
    TestGateway::with(Place::sqlite(), &(county() + &holders.concat())).await
}

/// A-032: c creates; r reads, versions and one resource's history; u updates, also what is new, and patches; d deletes;
/// s searches, and is the history of a type. Conditions and HEAD are no way round.
#[tokio::test]
async fn each_interaction_takes_its_letter() {
    let holders = LETTERS.map(|letter| holder(&format!("only-{letter}"), &format!("\"system/Patient.{letter}\"")));
    let county = with(&holders).await;
    let id = county.post("root", "Patient", &patient("a")).await.id();
    let at = format!("Patient/{id}");
    let mut same = patient("a");
    same["id"] = json!(id);
    let mut new = patient("n");
    new["id"] = json!("new");
    let patch = json!([{"op": "add", "path": "/language", "value": "en"}]);
    let as_patch = [("content-type", "application/json-patch+json")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let asked: [(&str, &str, &str, Option<&Value>, &[(&str, &str)]); 17] = [
        ("c", "POST", "Patient", Some(&patient("c")), &[]),
        ("c", "POST", "Patient", Some(&patient("x")), &[("if-none-exist", "identifier=urn:p|x")]),
        ("r", "GET", &at, None, &[]),
        ("r", "HEAD", &at, None, &[]),
        ("r", "GET", &format!("{at}/_history/1"), None, &[]),
        ("r", "GET", &format!("{at}/_history"), None, &[]),
        ("s", "GET", "Patient?identifier=urn:p|a", None, &[]),
        ("s", "POST", "Patient/_search", None, &form),
        ("s", "GET", "Patient/_history", None, &[]),
        ("u", "PUT", &at, Some(&same), &[]),
        ("u", "PUT", "Patient/new", Some(&new), &[]),
        ("u", "PUT", "Patient?identifier=urn:p|a", Some(&patient("a")), &[]),
        ("u", "PUT", "Patient?identifier=urn:p|nobody", Some(&patient("nobody")), &[("if-match", "*")]),
        ("u", "PATCH", &at, Some(&patch), &as_patch),
        ("u", "PATCH", "Patient?identifier=urn:p|a", Some(&patch), &as_patch),
        ("d", "DELETE", "Patient?identifier=urn:p|no-such", None, &[]),
        ("d", "DELETE", "Patient/none", None, &[]),
    ];
    for (needs, method, path, body, headers) in asked {
        // Who may comes last, so that what is refused is refused while it would change something.
        for letter in LETTERS.into_iter().filter(|letter| *letter != needs).chain([needs]) {
            let answer = county.ask(&format!("only-{letter}"), method, path, body, headers).await;
            let what = format!("{letter}: {method} {path}: {}", answer.body);
            assert_eq!(answer.status == 403, letter != needs, "{what}");
            let nothing_matches = path.ends_with("nobody") && answer.status == 412;
            assert!(letter != needs || answer.status < 300 || nothing_matches, "{what}");
            assert!(letter == needs || !answer.body.to_string().contains("urn:p"), "{what}");
        }
    }
}

/// M-5.17
/// A-033, R-079: in a batch an entry beyond the scopes is refused alone; a transaction with one changes nothing.
#[tokio::test]
async fn each_entry_of_a_bundle_takes_its_letter() {
    let county = with(&[holder("clerk", "\"system/Patient.cru\", \"system/Task.r\"")]).await;
    let id = county.post("root", "Patient", &patient("a")).await.id();
    let condition = json!({"resourceType": "Condition", "subject": {"reference": format!("Patient/{id}")},
        "code": {"text": "x"}, "category": [{"text": "y"}]});
    let post = |resource: &Value| json!({"resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}});
    let plain = |method: &str, url: &str| json!({"request": {"method": method, "url": url}});
    // A reference by condition is a search, too.
    let found = json!({"resourceType": "Patient", "link": [{"type": "seealso", "other": {"reference": "Patient?identifier=urn:p|a"}}]});
    let refused = [
        post(&condition),
        plain("GET", "Patient?identifier=urn:p|a"),
        plain("GET", "Condition/1"),
        plain("DELETE", &format!("Patient/{id}")),
        plain("GET", "Task?patient.identifier=urn:p|a"),
    ];
    let count = async || county.get("root", "Patient?_summary=count").await.body["total"].clone();
    for entry in &refused {
        let bundle = |kind: &str| {
            let entries = [post(&patient("new")), entry.clone(), plain("GET", &format!("Patient/{id}"))];
            json!({"resourceType": "Bundle", "type": kind, "entry": entries})
        };
        let before = count().await;
        let whole = county.post("clerk", "", &bundle("transaction")).await;
        assert_eq!(whole.status, 403, "{entry}: {}", whole.body);
        assert!(whole.expression().starts_with("Bundle.entry[1]"), "{}", whole.body);
        assert_eq!(count().await, before, "{entry}");
        let batch = county.post("clerk", "", &bundle("batch")).await;
        let statuses: Vec<&str> = batch.body["entry"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["response"]["status"].as_str().unwrap()[..3])
            .collect();
        assert_eq!(statuses, ["201", "403", "200"], "{entry}: {}", batch.body);
    }
    assert_eq!(county.get("root", &format!("Patient/{id}")).await.status, 200);
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [post(&found)]});
    assert_eq!(county.post("clerk", "", &bundle).await.status, 403);
}

/// A-033: what is included is read; what may not be read is left out, and nothing is found through what may not be
/// searched.
#[tokio::test]
async fn includes_and_chains_keep_to_the_scopes() {
    let county = with(&[holder("lister", "\"system/Task.rs\", \"system/ServiceRequest.s\"")]).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let kinds = |answer: &Answered| {
        let mut kinds: Vec<String> =
            answer.entries().iter().map(|one| one["resourceType"].as_str().unwrap().to_string()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let found = "Task?_include=Task:focus&_include=Task:patient";
    assert_eq!(kinds(&county.get("root", found).await), ["Patient", "ServiceRequest", "Task"]);
    assert_eq!(kinds(&county.get("lister", found).await), ["Task"]);
    let found = "ServiceRequest?_include=ServiceRequest:patient&_revinclude=Provenance:target&_revinclude=Task:focus";
    assert_eq!(kinds(&county.get("root", found).await), ["Patient", "Provenance", "ServiceRequest", "Task"]);
    assert_eq!(kinds(&county.get("lister", found).await), ["ServiceRequest", "Task"]);
    for (path, status) in [
        ("Task?patient.gender=female", 403),
        ("Task?focus:ServiceRequest.status=active", 200),
        ("Task?_has:Provenance:target:recorded=ge2001", 403),
    ] {
        assert_eq!(county.get("lister", path).await.status, status, "{path}");
    }
}

/// The letter that each operation takes on its own type, and on the type it shows; none where nothing of a partner's is
/// shown, or where what is stored is read as always.
fn letters(kind: &str, name: &str) -> Option<(&'static str, Option<&'static str>)> {
    match (kind, name) {
        ("Task", "relay") => Some(("c", None)),
        ("Task", "loop-status") => Some(("r", None)),
        ("Task", "conflicts") => Some(("s", None)),
        ("Task", "settle") => Some(("u", None)),
        ("Subscription", "status" | "deliveries" | "get-ws-binding-token") => Some(("r", None)),
        ("Subscription", "events") => Some(("r", Some("system/Task.r"))),
        ("Subscription", "resend" | "pause" | "resume") => Some(("u", None)),
        ("Organization", "following") => Some(("r", None)),
        ("Organization", "poll") => Some(("u", None)),
        ("ValueSet" | "CodeSystem" | "ConceptMap", _) | (_, "validate") => None,
        other => panic!("{other:?}: say here which letter it takes"),
    }
}

/// A-033, A-035, S-160: an operation shows and does no more than the scopes allow.
#[tokio::test]
async fn each_operation_takes_its_letter() {
    let named = |kind: &str, name: &str| format!("{}-{name}", kind.to_lowercase());
    let taking = || OPERATIONS.iter().filter_map(|known| Some((known, letters(known.kind, known.name)?)));
    let mut holders = vec![holder("other", "\"system/Patient.cruds\"")];
    for (known, (letter, also)) in taking() {
        let own = format!("system/{}.{letter}", known.kind);
        let rest: String = LETTERS.into_iter().filter(|other| *other != letter).collect();
        let all = also.map(|also| format!(", \"{also}\"")).unwrap_or_default();
        holders.push(holder(&named(known.kind, known.name), &format!("\"{own}\"{all}")));
        holders.push(holder(
            &format!("not-{}", named(known.kind, known.name)),
            &format!("\"system/{}.{rest}\"{all}", known.kind),
        ));
    }
    holders.push(holder("half", "\"system/Subscription.cruds\""));
    let county = with(&holders).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let heard = county.post("clinic", "Subscription", &subscription(HOOK)).await.id();
    for (known, _) in taking() {
        let id = match known.kind {
            "Task" => task.as_str(),
            "Subscription" => heard.as_str(),
            _ => "pantry",
        };
        let ways = [
            (known.on_instance, format!("{}/{id}/${}", known.kind, known.name)),
            (known.on_type, format!("{}/${}", known.kind, known.name)),
        ];
        for (_, path) in ways.into_iter().filter(|(offered, _)| *offered) {
            let method = if known.get { "GET" } else { "POST" };
            let body = json!({"resourceType": "Parameters", "parameter": [
                {"name": "target", "valueReference": {"reference": "Organization/agency"}}]});
            let body = (!known.get).then_some(&body);
            for who in ["other".to_string(), format!("not-{}", named(known.kind, known.name))] {
                let answer = county.ask(&who, method, &path, body, &[]).await;
                assert_eq!(answer.status, 403, "{who}: {path}: {}", answer.body);
            }
            let answer = county.ask(&named(known.kind, known.name), method, &path, body, &[]).await;
            assert_ne!(answer.status, 403, "{path}: {}", answer.body);
        }
    }
    // Who may not read Tasks is told nothing of them, neither by events nor by a Subscription of its own.
    assert_eq!(county.get("half", &format!("Subscription/{heard}/$events")).await.status, 403);
    assert_eq!(county.get("half", &format!("Subscription/{heard}/$status")).await.status, 200);
    let refused = county.post("half", "Subscription", &subscription("https://half.test/hook")).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let read = county.get("half", &format!("Subscription/{heard}")).await;
    let mut off = read.body.clone();
    off["status"] = json!("off");
    assert_eq!(
        county.put("half", &format!("Subscription/{heard}"), &off).await.status,
        200,
        "to switch off shows nothing"
    );
    off["status"] = json!("requested");
    assert_eq!(county.put("half", &format!("Subscription/{heard}"), &off).await.status, 403);
}
