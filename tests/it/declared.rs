//! What the CapabilityStatement declares is what works: each parameter is taken by a strict search and filters, each
//! include is taken, and what is not declared is refused.

use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::validation::fixtures;

/// A value of a parameter's type that nothing has.
fn nothing(type_: &str) -> &'static str {
    match type_ {
        "token" => "urn:none|none",
        "reference" => "http://nowhere.test/fhir/Basic/none",
        "date" => "1850-01-01",
        "string" => "zzzznone",
        "uri" => "urn:none",
        "quantity" => "eq987654|urn:none|none",
        "composite" => "urn:none|none$urn:none|none",
        other => panic!("{other}"),
    }
}

// G-139 to G-154, R-126
#[tokio::test]
async fn every_declared_search_works_and_no_other() {
    let county = TestGateway::county().await;
    let mut stored = Vec::new();
    for (name, resource) in fixtures() {
        let kind = resource["resourceType"].as_str().unwrap().to_string();
        if ["Task", "Bundle", "Parameters", "Appointment", "AllergyIntolerance", "MedicationRequest"]
            .contains(&kind.as_str())
        {
            continue;
        }
        let mut resource = resource;
        resource["id"] = json!(name);
        let made = county.put("root", &format!("{kind}/{name}"), &resource).await;
        assert_eq!(made.status, 201, "{name}: {}", made.body);
        stored.push(kind);
    }
    let statement = county.get("root", "metadata").await.body;
    let strict = [("prefer", "handling=strict")];
    let mut filtered = 0;
    for resource in statement["rest"][0]["resource"].as_array().unwrap() {
        let kind = resource["type"].as_str().unwrap();
        // Of questions a minute there are only so many.
        county.clock.advance(std::time::Duration::from_secs(60));
        let all = county.get("root", &format!("{kind}?_count=1000")).await.entries().len();
        assert!(all > 0 || !stored.iter().any(|one| one == kind), "{kind}");
        for parameter in resource["searchParam"].as_array().unwrap() {
            let (name, type_) = (parameter["name"].as_str().unwrap(), parameter["type"].as_str().unwrap());
            let value = if name == "_id" { "none" } else { nothing(type_) };
            let path = format!("{kind}?{name}={}", value.replace('|', "%7C"));
            let found = county.ask("root", "GET", &path, None, &strict).await;
            assert_eq!(found.status, 200, "{path}: {}", found.body);
            assert_eq!(found.entries(), Vec::<Value>::new(), "{path}");
            let link = found.body["link"][0]["url"].as_str().unwrap();
            assert!(link.contains(&format!("{name}=")), "{path}: {link}");
            filtered += all;
            let missing = county.ask("root", "GET", &format!("{kind}?{name}:nonsense=x"), None, &strict).await;
            assert_eq!(missing.status, 400, "{kind}?{name}:nonsense");
        }
        for (element, parameter) in [("searchInclude", "_include"), ("searchRevInclude", "_revinclude")] {
            for include in resource[element].as_array().into_iter().flatten() {
                let path = format!("{kind}?{parameter}={}", include.as_str().unwrap());
                let found = county.ask("root", "GET", &path, None, &strict).await;
                assert_eq!(found.status, 200, "{path}: {}", found.body);
                assert!(found.body["link"][0]["url"].as_str().unwrap().contains(parameter), "{path}");
            }
        }
        for other in ["colour=red", "_text=x", "_content=x", "_list=x", "_filter=x", "near=1", "_include=Task:colour"] {
            let refused = county.ask("root", "GET", &format!("{kind}?{other}"), None, &strict).await;
            assert_eq!(refused.status, 400, "{kind}?{other}");
        }
    }
    assert!(filtered > 100, "{filtered}");
}
