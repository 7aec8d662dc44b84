//! What the program publishes, and the terminology operations, as a client asks for them.

use serde_json::{Value, json};

use crate::gateway::{Answered, TestGateway};

const SDOHCC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
const GRAVITY: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/ValueSet/SDOHCC-ValueSet";

fn part<'a>(answer: &'a Answered, name: &str) -> &'a Value {
    let list = answer.body["parameter"].as_array().unwrap_or_else(|| panic!("{}", answer.body));
    list.iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

fn parameters(list: Value) -> Value {
    json!({"resourceType": "Parameters", "parameter": list})
}

//
#[tokio::test]
async fn what_is_published_is_read_and_found_and_never_written() {
    let county = TestGateway::county().await;
    for (who, path) in [
        ("clinic", "OperationDefinition/Task-relay"),
        ("agency", "CodeSystem/SDOHCC-CodeSystemTemporaryCodes"),
        ("desk", "ConceptMap/task-status-2.0-to-3.0"),
        ("root", "SearchParameter/Task-output-reference"),
    ] {
        let read = county.get(who, path).await;
        assert_eq!(
            (read.status, format!("{}/{}", read.body["resourceType"].as_str().unwrap(), read.id())),
            (200, path.into())
        );
        let same = [("if-none-match", read.headers["etag"].as_str())];
        assert_eq!(county.ask(who, "GET", path, None, &same).await.status, 304);
        let since = [("if-modified-since", read.headers["last-modified"].as_str())];
        assert_eq!(county.ask(who, "GET", path, None, &since).await.status, 304);
        assert_eq!(county.put("root", path, &read.body).await.status, 405);
    }
    assert_eq!(county.get("clinic", "ValueSet/none").await.status, 404);
    assert_eq!(county.get("", "ValueSet/status-reason").await.status, 401);
    let url = format!("{GRAVITY}SDOHCategory");
    let found = county.get("clinic", &format!("ValueSet?url={url}&_total=accurate")).await;
    assert_eq!((found.entries().len(), &found.body["total"]), (1, &json!(1)));
    assert_eq!(found.body["entry"][0]["fullUrl"], "https://hub.test/fhir/ValueSet/SDOHCC-ValueSetSDOHCategory");
    assert_eq!(county.get("clinic", "ValueSet?name=Loopgate").await.entries().len(), 3);
    assert_eq!(county.get("clinic", "CodeSystem?code=food-insecurity").await.entries().len(), 1);
    assert_eq!(county.get("clinic", "OperationDefinition?code=relay,loop-status").await.entries().len(), 2);
    // Page by page, each once.
    let all = county.get("clinic", "ValueSet").await.entries().len();
    let mut seen = Vec::new();
    let mut next = Some("ValueSet?_count=7&_sort=title".to_string());
    while let Some(path) = next {
        let page = county.get("clinic", &path).await;
        seen.extend(page.entries().iter().map(|one| one["title"].as_str().unwrap().to_string()));
        let links = page.body["link"].as_array().unwrap();
        let link =
            links.iter().find(|link| link["relation"] == "next").map(|link| link["url"].as_str().unwrap().to_string());
        next = link.map(|url| url.replace("https://hub.test/fhir/", ""));
    }
    assert_eq!(seen.len(), all);
    assert!(seen.is_sorted_by_key(|title| title.to_lowercase()), "{seen:?}");
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"request": {"method": "GET", "url": "CodeSystem/status-reason"}},
        {"request": {"method": "GET", "url": "ConceptMap?_summary=count"}}]});
    let answer = county.post("clinic", "", &batch).await;
    assert_eq!(answer.body["entry"][0]["resource"]["id"], "status-reason");
    assert_eq!(answer.body["entry"][1]["resource"]["total"], 2);
}

//
#[tokio::test]
async fn a_value_set_is_expanded() {
    let county = TestGateway::county().await;
    let url = format!("{GRAVITY}SDOHCategory");
    let all = county.get("clinic", &format!("ValueSet/$expand?url={url}|3.0.0")).await;
    assert_eq!((all.status, &all.body["expansion"]["total"]), (200, &json!(24)), "{}", all.body);
    assert_eq!(all.body["resourceType"], "ValueSet");
    let posted = parameters(json!([{"name": "url", "valueUri": url}, {"name": "filter", "valueString": "food"}]));
    let food = county.post("clinic", "ValueSet/$expand", &posted).await;
    assert_eq!(food.body["expansion"]["contains"][0]["code"], "food-insecurity", "{}", food.body);
    assert_eq!(food.body["expansion"]["contains"][0]["display"], "Food Insecurity");
    let page = county.get("clinic", "ValueSet/SDOHCC-ValueSetSDOHCategory/$expand?count=5&offset=22").await;
    assert_eq!(page.body["expansion"]["contains"].as_array().unwrap().len(), 2);
    assert_eq!((&page.body["expansion"]["offset"], &page.body["expansion"]["total"]), (&json!(22), &json!(24)));
    let none = county.get("clinic", "ValueSet/SDOHCC-ValueSetSDOHCategory/$expand?count=0").await;
    assert!(none.body["expansion"]["contains"].is_null());
    let r4 = county.get("clinic", "ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/task-status").await;
    assert_eq!(r4.body["expansion"]["total"], 12);
    for (path, status) in [
        ("ValueSet/$expand", 422),
        ("ValueSet/$expand?url=http://example.org/none", 404),
        ("ValueSet/none/$expand", 404),
        ("ValueSet/$expand?url=http://hl7.org/fhir/us/core/ValueSet/us-core-condition-code", 422),
        ("ValueSet/status-reason/$expand?count=many", 400),
        ("CodeSystem/$expand", 404),
    ] {
        let refused = county.get("clinic", path).await;
        assert_eq!((refused.status, &refused.body["resourceType"]), (status, &json!("OperationOutcome")), "{path}");
    }
}

// A licensed system is looked at for its form, and else left open.
#[tokio::test]
async fn a_code_is_checked_as_far_as_its_system_is_held() {
    let county = TestGateway::county().await;
    let set = format!("{GRAVITY}SDOHCategory");
    let ask = |query: String| {
        let county = &county;
        async move { county.get("clinic", &query).await }
    };
    for (query, result) in [
        (format!("ValueSet/$validate-code?url={set}&system={SDOHCC}&code=food-insecurity"), true),
        (
            format!("ValueSet/$validate-code?url={set}&code=food-insecurity&display=Food Insecurity")
                .replace(' ', "%20"),
            true,
        ),
        (format!("ValueSet/$validate-code?url={set}&system={SDOHCC}&code=food-insecurity&display=Hunger"), false),
        (format!("ValueSet/$validate-code?url={set}&system={SDOHCC}&code=enrolled"), false),
        ("ValueSet/status-reason/$validate-code?code=no-consent".into(), true),
        ("ValueSet/us-core-condition-code/$validate-code?system=http://snomed.info/sct&code=160245001".into(), true),
        ("ValueSet/us-core-condition-code/$validate-code?system=http://snomed.info/sct&code=food".into(), false),
        ("ValueSet/us-core-condition-code/$validate-code?system=http://snomed.info/sct&code=733423004".into(), false),
        (format!("CodeSystem/$validate-code?url={SDOHCC}&code=waitlist"), true),
        ("CodeSystem/status-reason/$validate-code?code=nothing".into(), false),
        ("CodeSystem/$validate-code?url=http://loinc.org&code=88124-4".into(), false),
    ] {
        let answer = ask(query.clone()).await;
        assert_eq!(
            (answer.status, &part(&answer, "result")["valueBoolean"]),
            (200, &json!(result)),
            "{query}: {}",
            answer.body
        );
        assert_eq!(part(&answer, "message").is_null(), result, "{query}");
    }
    for query in [
        "ValueSet/us-core-condition-code/$validate-code?system=http://snomed.info/sct&code=733423003",
        "CodeSystem/$validate-code?url=http://loinc.org&code=88124-3",
        "CodeSystem/$lookup?system=http://snomed.info/sct&code=733423003",
    ] {
        let open = ask(query.into()).await;
        assert_eq!((open.status, &open.body["issue"][0]["code"]), (422, &json!("not-supported")), "{query}");
        assert!(open.said().contains("Not checked"), "{}", open.said());
    }
    // One good coding is enough, whatever else stands beside it.
    let concept = json!({"coding": [{"system": "http://snomed.info/sct", "code": "733423003"}, {"system": SDOHCC, "code": "food-insecurity"}]});
    let body = parameters(
        json!([{"name": "url", "valueUri": set}, {"name": "codeableConcept", "valueCodeableConcept": concept}]),
    );
    let answer = county.post("clinic", "ValueSet/$validate-code", &body).await;
    assert_eq!(part(&answer, "result")["valueBoolean"], true);
    assert_eq!(part(&answer, "display")["valueString"], "Food Insecurity");
    let body = parameters(
        json!([{"name": "url", "valueUri": set}, {"name": "coding", "valueCoding": {"system": SDOHCC, "code": "x"}}]),
    );
    assert_eq!(part(&county.post("clinic", "ValueSet/$validate-code", &body).await, "result")["valueBoolean"], false);
}

// R-140, D13
#[tokio::test]
async fn a_code_is_looked_up_and_translated() {
    let county = TestGateway::county().await;
    let own = "https://loopgate.org/fhir/CodeSystem/business-status";
    let found = county.get("clinic", &format!("CodeSystem/$lookup?system={own}&code=waitlisted")).await;
    assert_eq!(found.status, 200, "{}", found.body);
    assert!(part(&found, "display")["valueString"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(part(&found, "name")["valueString"], "LoopgateBusinessStatus");
    assert_eq!(county.get("clinic", &format!("CodeSystem/$lookup?system={own}&code=x")).await.status, 404);
    assert_eq!(
        county.get("clinic", "CodeSystem/business-status/$lookup?code=closed").await.status,
        404,
        "of the type alone"
    );

    let map = "https://loopgate.org/fhir/ConceptMap/task-status-2.0-to-3.0";
    let told = county.get("clinic", &format!("ConceptMap/$translate?url={map}&code=received")).await;
    assert_eq!(part(&told, "result")["valueBoolean"], true, "{}", told.body);
    let parts = part(&told, "match")["part"].as_array().unwrap();
    let of = |name: &str| parts.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(of("concept")["valueCoding"]["code"], "requested");
    assert_eq!(of("equivalence")["valueCode"], "wider");
    assert_eq!(of("product")["part"][1]["valueCoding"]["code"], "delivered");
    let coding = json!({"system": SDOHCC, "code": "no-capacity-has-waitlist"});
    let body = parameters(json!([{"name": "coding", "valueCoding": coding}]));
    let told = county.post("clinic", "ConceptMap/$translate", &body).await;
    assert!(told.body.to_string().contains("\"waitlist\""), "{}", told.body);
    let by_id = county.get("clinic", "ConceptMap/task-status-2.0-to-3.0/$translate?code=ready").await;
    assert!(by_id.body.to_string().contains("\"accepted\""));
    for (query, status) in [
        ("ConceptMap/$translate?url=urn:none&code=x", 404),
        ("ConceptMap/$translate?system=http://snomed.info/sct&code=1", 404),
        ("ConceptMap/$translate", 422),
        ("ConceptMap/task-status-2.0-to-3.0/$translate?code=accepted&reverse=true", 400),
    ] {
        assert_eq!(county.get("clinic", query).await.status, status, "{query}");
    }
}
