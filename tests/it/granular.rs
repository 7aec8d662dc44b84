//! Scopes with parameters: `system/Patient.rs?gender=female` is a part of a type, on whichever way one asks for it
//!

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, HOOK, TestGateway, county, partner};
use crate::notifications::{parameters, subscribed, subscription};
use crate::on_both;

/// All who run the gateway, so that it is the scopes alone that refuse.
const ROLES: &str = "\"operator\", \"coordinator\", \"source\"";

fn person(value: &str, gender: &str) -> Value {
    json!({"resourceType": "Patient", "identifier": [{"system": "urn:p", "value": value}], "gender": gender})
}

fn holder(id: &str, scopes: &[&str]) -> String {
    partner(id, ROLES, &format!("scopes = {}", json!(scopes)))
}

async fn with(place: Place, holders: &[String]) -> TestGateway {
    TestGateway::with(place, &(county() + &holders.concat())).await
}

fn with_id(mut resource: Value, id: &str) -> Value {
    resource["id"] = json!(id);
    resource
}

/// The business identifiers of what was found.
fn names(answer: &Answered) -> Vec<String> {
    let name = |one: &Value| one["identifier"][0]["value"].as_str().map(str::to_string);
    let mut names: Vec<String> = answer.entries().iter().filter_map(name).collect();
    names.sort();
    names.dedup();
    names
}

const WOMEN: &str = "system/Patient.cruds?gender=female";

// each interaction sees and leaves what lies in the part and nothing else; what is refused changes nothing.
on_both!(every_interaction_keeps_to_the_part, async |place: Place| {
    let county = with(place, &[holder("women", &[WOMEN])]).await;
    let ada = county.post("root", "Patient", &person("ada", "female")).await.id();
    let bob = county.post("root", "Patient", &person("bob", "male")).await.id();
    let patch = json!([{"op": "add", "path": "/language", "value": "en"}]);
    let out = json!([{"op": "replace", "path": "/gender", "value": "male"}]);
    let as_patch = [("content-type", "application/json-patch+json")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (a, b) = (format!("Patient/{ada}"), format!("Patient/{bob}"));
    let cases: [(&str, &str, Option<&Value>, &[(&str, &str)], u16); 27] = [
        ("GET", &a, None, &[], 200),
        ("HEAD", &a, None, &[], 200),
        ("GET", &b, None, &[], 404),
        ("GET", &format!("{a}/_history/1"), None, &[], 200),
        ("GET", &format!("{b}/_history/1"), None, &[], 404),
        ("GET", &format!("{a}/_history"), None, &[], 200),
        ("GET", &format!("{b}/_history"), None, &[], 404),
        ("GET", &format!("{b}/$validate"), None, &[], 404),
        ("POST", "Patient/_search", None, &form, 200),
        ("POST", "Patient", Some(&person("cid", "male")), &[], 403),
        ("POST", "Patient", Some(&person("cleo", "female")), &[], 201),
        // What lies outside is not there.
        ("POST", "Patient", Some(&person("bob", "female")), &[("if-none-exist", "identifier=urn:p|bob")], 201),
        ("PUT", &a, Some(&with_id(person("ada", "male"), &ada)), &[], 403),
        ("PUT", &b, Some(&with_id(person("bob", "female"), &bob)), &[], 404),
        ("PUT", "Patient/dan", Some(&with_id(person("dan", "male"), "dan")), &[], 403),
        ("PUT", "Patient/eve", Some(&with_id(person("eve", "female"), "eve")), &[], 201),
        ("PUT", "Patient?identifier=urn:p|ada", Some(&person("ada", "male")), &[], 403),
        ("PATCH", &a, Some(&out), &as_patch, 403),
        ("PATCH", &b, Some(&patch), &as_patch, 404),
        ("PATCH", &a, Some(&patch), &as_patch, 200),
        ("PATCH", "Patient?gender=male", Some(&patch), &as_patch, 404),
        ("DELETE", &b, None, &[], 404),
        ("DELETE", "Patient?gender=male", None, &[], 204),
        ("DELETE", "Patient/eve", None, &[], 204),
        ("GET", "Patient/eve", None, &[], 404),
        ("GET", "Patient/_history?_since=2020", None, &[], 200),
        ("GET", "_history", None, &[], 200),
    ];
    let men = async || names(&county.get("root", "Patient?gender=male").await);
    for (method, path, body, headers, status) in cases {
        let answer = county.ask("women", method, path, body, headers).await;
        let what = format!("{method} {path}: {}", answer.body);
        assert_eq!(answer.status, status, "{what}");
        assert!(!answer.body.to_string().contains("\"male\""), "{what}");
        assert_eq!(men().await, ["bob"], "{what}");
    }
    assert_eq!(names(&county.get("women", "Patient").await), ["ada", "bob", "cleo"]);
    assert_eq!(county.get("women", "Patient?_summary=count").await.body["total"], 3);
    assert_eq!(county.get("women", "Patient?gender=male&_total=accurate").await.body["total"], 0);
    assert_eq!(names(&county.get("women", &format!("Patient?_id={bob},{ada}")).await), ["ada"]);
    assert_eq!(county.get("women", &format!("Patient/{bob}/Patient")).await.entries().len(), 0);
    // Pages are full.
    let page = county.get("women", "Patient?_count=2&_sort=gender").await;
    assert_eq!(page.entries().len(), 2);
    assert!(page.body["link"].to_string().contains("next"));
});

/// entries are judged like requests; a transaction with one outside changes nothing.
#[tokio::test]
async fn each_entry_keeps_to_the_part() {
    let county = with(Place::sqlite(), &[holder("women", &[WOMEN])]).await;
    let bob = county.post("root", "Patient", &person("bob", "male")).await.id();
    let entry = |method: &str, url: &str, resource: Option<Value>| {
        let mut entry = json!({"request": {"method": method, "url": url}});
        if let Some(resource) = resource {
            entry["resource"] = resource;
        }
        entry
    };
    let outside = [
        (entry("POST", "Patient", Some(person("cid", "male"))), 403),
        (entry("PUT", &format!("Patient/{bob}"), Some(with_id(person("bob", "female"), &bob))), 404),
        (entry("DELETE", &format!("Patient/{bob}"), None), 404),
        (entry("GET", &format!("Patient/{bob}"), None), 404),
        (entry("GET", &format!("Patient/{bob}/_history/1"), None), 404),
    ];
    for (one, status) in outside {
        let good = entry("POST", "Patient", Some(person("ada", "female")));
        let bundle = |kind: &str| json!({"resourceType": "Bundle", "type": kind, "entry": [good.clone(), one.clone()]});
        let before = county.get("root", "Patient?_summary=count").await.body["total"].clone();
        let whole = county.post("women", "", &bundle("transaction")).await;
        assert_eq!(whole.status, status, "{one}: {}", whole.body);
        assert_eq!(county.get("root", "Patient?_summary=count").await.body["total"], before, "{one}");
        let batch = county.post("women", "", &bundle("batch")).await.body;
        let of = |index: usize| batch["entry"][index]["response"]["status"].as_str().unwrap()[..3].to_string();
        assert_eq!((of(0), of(1)), ("201".into(), status.to_string()), "{one}");
    }
    let found = entry("GET", "Patient?gender=male,female", None);
    let answer = county.post("women", "", &json!({"resourceType": "Bundle", "type": "batch", "entry": [found]})).await;
    assert!(answer.body.to_string().contains("ada") && !answer.body.to_string().contains("bob"), "{}", answer.body);
    // A reference by condition finds nobody outside.
    let link = json!({"resourceType": "Patient", "gender": "female",
        "link": [{"type": "seealso", "other": {"reference": "Patient?identifier=urn:p|bob"}}]});
    let bundle =
        json!({"resourceType": "Bundle", "type": "transaction", "entry": [entry("POST", "Patient", Some(link))]});
    assert_eq!(county.post("women", "", &bundle).await.status, 422);
}

// of a history, versions within the part of what lies within it now; pages of any size show the same.
on_both!(a_history_shows_the_part, async |place: Place| {
    let county = with(place, &[holder("women", &[WOMEN])]).await;
    let mut seen = Vec::new();
    for name in ["ada", "bea", "cid"] {
        let id = county.post("root", "Patient", &person(name, "unknown")).await.id();
        for gender in ["female", "male", if name == "cid" { "unknown" } else { "female" }] {
            let put = county.put("root", &format!("Patient/{id}"), &with_id(person(name, gender), &id)).await;
            assert_eq!(put.status, 200);
        }
        let statuses = [1, 2, 3, 4].map(|version| format!("Patient/{id}/_history/{version}"));
        for (index, path) in statuses.iter().enumerate() {
            let expected = if name != "cid" && index % 2 == 1 { 200 } else { 404 };
            assert_eq!(county.get("women", path).await.status, expected, "{name} {path}");
        }
        if name == "cid" {
            assert_eq!(county.get("women", &format!("Patient/{id}/_history")).await.status, 404);
        } else {
            assert_eq!(county.get("women", &format!("Patient/{id}/_history")).await.entries().len(), 2);
            seen.extend([format!("{id}4"), format!("{id}2")]);
        }
    }
    seen.sort();
    let bases = ["Patient/_history", "_history?_type=Patient"];
    for (base, size) in bases.iter().flat_map(|base| [1, 2, 3, 100].map(|size| (*base, size))) {
        let mut path = format!("{base}{}_count={size}", if base.contains('?') { '&' } else { '?' });
        let mut found = Vec::new();
        for _ in 0..6 {
            let answer = county.get("women", &path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            let of =
                |one: &Value| format!("{}{}", one["id"].as_str().unwrap(), one["meta"]["versionId"].as_str().unwrap());
            found.extend(answer.entries().iter().map(of));
            let next = answer.body["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next");
            let Some(next) = next else { break };
            path = next["url"].as_str().unwrap().split_once("/fhir/").unwrap().1.to_string();
        }
        found.sort();
        assert_eq!(found, seen, "{base} {size}");
    }
});

// what comes along, and what is asked about, keeps to the part as well; several parts add up.
on_both!(includes_and_chains_keep_to_the_part, async |place: Place| {
    let scopes =
        ["system/Condition.rs", "system/Patient.rs?gender=female&_lastUpdated=ge2000", "system/Patient.s?gender=other"];
    let county = with(place, &[holder("lister", &scopes)]).await;
    for (name, gender) in [("ada", "female"), ("bob", "male"), ("kim", "other")] {
        let id = county.post("root", "Patient", &person(name, gender)).await.id();
        let condition = json!({"resourceType": "Condition", "identifier": [{"value": format!("{name}'s")}],
            "subject": {"reference": format!("Patient/{id}")}, "code": {"text": "x"}, "category": [{"text": "y"}],
            "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}});
        let made = county.post("root", "Condition", &condition).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    for (path, found) in [
        ("Condition", &["ada's", "bob's", "kim's"][..]),
        // To include is to read.
        ("Condition?_include=Condition:subject", &["ada", "ada's", "bob's", "kim's"]),
        ("Patient", &["ada", "kim"]),
        ("Patient?_revinclude=Condition:subject", &["ada", "ada's", "kim", "kim's"]),
        ("Condition?patient.identifier=urn:p|", &["ada's", "kim's"]),
        ("Condition?patient.gender=male", &[]),
        ("Condition?patient.gender:not=male", &["ada's", "kim's"]),
        ("Patient?_has:Condition:subject:code:text=x", &["ada", "kim"]),
        ("Patient?gender=male,other", &["kim"]),
    ] {
        let answer = county.get("lister", path).await;
        assert_eq!(names(&answer), found, "{path}: {}", answer.body);
    }
});

/// a Task is moved within the part, and not out of it.
#[tokio::test]
async fn a_task_stays_in_the_part() {
    let begins = "system/Task.rus?status=requested,accepted";
    let agency = format!(
        "channel = \"light\"\nscopes = [\"{begins}\", \"system/Patient.rs\"]\nservices = [{{ id = \"agency-housing\""
    );
    let settings = county().replacen("channel = \"light\"\nservices = [{ id = \"agency-housing\"", &agency, 1);
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.remove(0);
    assert_eq!(county.get("agency", "Task").await.entries().len(), 1);
    assert_eq!(county.answers("agency", &relayed, "accepted").await.status, 200);
    let out = county.answers("agency", &relayed, "in-progress").await;
    assert_eq!((out.status, county.task(&relayed).await["status"].as_str()), (403, Some("accepted")), "{}", out.body);
    assert!(out.said().contains("outside"), "{}", out.body);
    // The source's own Task lies outside now that it is in progress, also as the view that targets have of it.
    assert_eq!(county.task(&task).await["status"], "in-progress");
    assert_eq!(county.get("agency", &format!("Task/{task}")).await.status, 404);
}

/// A-034, S-160: a Subscription tells of the configured part, and goes on for no token that has less.
#[tokio::test]
async fn notifications_keep_to_the_part() {
    let county =
        with(Place::sqlite(), &[holder("hears", &["system/Subscription.cruds", "system/Task.rs?priority=urgent"])])
            .await;
    subscribed(&county, "hears", HOOK).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let told = county.world.heard(HOOK);
    let named: Vec<&Value> = told
        .iter()
        .filter(|bundle| parameters(bundle).iter().any(|one| one["part"].to_string().contains("focus")))
        .collect();
    assert!(named.is_empty(), "{named:?}");
    let mut urgent = county.referral("sr2", "housing-instability", Some("Organization/hub"));
    urgent["priority"] = json!("urgent");
    assert_eq!(county.post("clinic", "Task", &urgent).await.status, 201);
    county.deliver_due().await;
    let told = county.world.heard(HOOK);
    assert!(told.iter().any(|bundle| bundle.to_string().contains("focus")), "{told:?}");
}

/// What takes all of a type is refused to who has a part, and says so.
#[tokio::test]
async fn operations_and_the_record_take_the_whole() {
    let scopes = [
        "system/Task.cruds?status=requested",
        "system/AuditEvent.rs?action=R",
        "system/Subscription.cruds?status=active",
    ];
    let county = with(Place::sqlite(), &[holder("part", &scopes)]).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    for path in ["Task/$conflicts", &format!("Task/{task}/$loop-status"), "AuditEvent", "Subscription/$status"] {
        let answer = county.get("part", path).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
        assert!(answer.said().contains("part of"), "{path}: {}", answer.body);
    }
    let refused = county.post("part", "Subscription", &subscription(HOOK)).await;
    assert_eq!(refused.status, 403, "as requested it lies outside: {}", refused.body);
}

/// G-185, A-034: what a target does not get it can't find out by the scopes it asks for.
#[tokio::test]
async fn a_part_tells_nothing_that_is_left_out() {
    let with = "channel = \"light\"\nreceives = [{ type = \"Patient\", elements = [\"name\"] }]\n\
        scopes = [\"system/Patient.rs?gender=female\", \"system/Task.rs\"]\nservices = [{ id = \"agency-housing\"";
    let settings = county().replacen("channel = \"light\"\nservices = [{ id = \"agency-housing\"", with, 1);
    let county = TestGateway::with(Place::sqlite(), &settings).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let person = county.task(&task).await["for"]["reference"].as_str().unwrap().to_string();
    for path in [&person, "Patient", &format!("{person}/_history"), "Task?patient.name=x"] {
        let answer = county.get("agency", path).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
        assert!(answer.said().contains("a part of each"), "{path}: {}", answer.body);
    }
}

/// What can't be enforced is a fault of the configuration.
#[test]
fn scopes_that_mean_nothing_are_refused() {
    for (scope, good) in [
        ("system/Task.rs?owner=Organization/agency&status=requested", true),
        ("system/Task.rs?patient.name=x", false),
        ("system/Task.rs?colour=blue", false),
        ("system/Tusk.rs", false),
        ("system/*.rs?_id=x", false),
    ] {
        let text = county() + &holder("part", &[scope]);
        let text = format!(
            "[server]\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n\
             [store]\nurl = \"sqlite://x.db\"\n{text}"
        );
        let config = loopgate::config::Config::parse(&text, std::path::Path::new(".")).unwrap();
        let faults = loopgate::app::validation::profiles(&config).err().unwrap_or_default();
        assert_eq!(faults.is_empty(), good, "{scope}: {faults:?}");
        let named = faults.iter().all(|fault| fault.to_string().contains("(part).scopes[0]: can't be enforced"));
        assert!(named, "{faults:?}");
    }
}

/// U-6.02: as the US Core kit asks for them, by category: what is read and found carries one that was granted.
#[tokio::test]
async fn categories_are_granted_by_themselves() {
    const CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/condition-category";
    let scopes = ["encounter-diagnosis", "problem-list-item"]
        .map(|code| format!("system/Condition.rs?category={CATEGORY}|{code}"));
    let held: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let county = with(Place::sqlite(), &[holder("one", &held[..1]), holder("both", &held)]).await;
    let patient = county.post("root", "Patient", &person("ada", "female")).await.id();
    let mut ids = Vec::new();
    for code in ["encounter-diagnosis", "problem-list-item", "health-concern"] {
        let condition = json!({"resourceType": "Condition", "subject": {"reference": format!("Patient/{patient}")},
            "code": {"text": "x"}, "category": [{"coding": [{"system": CATEGORY, "code": code}]}],
            "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}});
        ids.push(county.post("root", "Condition", &condition).await.id());
    }
    for (who, most) in [("one", 1), ("both", 2)] {
        let found = county.get(who, &format!("Condition?patient={patient}&_total=accurate")).await;
        assert_eq!((found.entries().len(), &found.body["total"]), (most, &json!(most)), "{who}: {}", found.body);
        for (index, id) in ids.iter().enumerate() {
            let status = county.get(who, &format!("Condition/{id}")).await.status;
            assert_eq!(status, if index < most { 200 } else { 404 }, "{who} {index}");
        }
    }
}

// a link of one's own making does not tell how what is left out sorts.
on_both!(a_made_up_page_tells_nothing_of_what_is_left_out, async |place: Place| {
    let county = with(place, &[holder("women", &["system/Patient.rs?gender=female"])]).await;
    let mut ids = Vec::new();
    for (name, gender, born) in [("ada", "female", "1950"), ("bob", "male", "1970"), ("zoe", "female", "1990")] {
        let mut one = person(name, gender);
        one["birthDate"] = json!(born);
        ids.push(county.post("root", "Patient", &one).await.id());
    }
    let page = async |id: &str| county.get("women", &format!("Patient?_sort=birthdate&_page=1.{id}")).await;
    assert_eq!(names(&page(&ids[0]).await), ["zoe"], "what was seen is a place");
    let (hidden, nobody) = (page(&ids[1]).await, page("nobody").await);
    assert_eq!((hidden.status, &hidden.body["issue"]), (400, &nobody.body["issue"]));
});
