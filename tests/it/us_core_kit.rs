//! The public US Core test kit's server checks, for the types that referrals live on: the same requests and assertions,
//! each test under our number. `conformance/requirements/us-core-kit.csv` has the list.
//!
//! Like the kit it searches by patient first, takes the values of what it found, and asks again by each of them. The data
//! is our own: one patient's, and another's that must never come along. <https://github.com/inferno-framework/us-core-test-kit>

use serde_json::{Value, json};

use crate::gateway::{Answered, EHR, TestGateway};

const CORE: &str = "http://hl7.org/fhir/us/core";

/// The searches that US Core asks for, each by its parameters; those it should have behind the bar.
const SEARCHES: &[(&str, &str)] = &[
    (
        "ServiceRequest",
        "patient; _id; patient category; patient code; patient category authored; patient status; patient code authored",
    ),
    (
        "Condition",
        "patient; patient category; patient clinical-status; patient code; patient onset-date; patient recorded-date; \
        patient abatement-date; patient asserted-date; patient category encounter; patient _lastUpdated",
    ),
    (
        "Observation",
        "patient category; patient code; patient category date; patient category status; patient code date; \
        patient category _lastUpdated",
    ),
    ("Goal", "patient; patient target-date; patient lifecycle-status; patient description"),
    ("Procedure", "patient; patient date; patient status; patient code date"),
    ("QuestionnaireResponse", "patient; _id; patient questionnaire; patient authored; patient status"),
    ("CareTeam", "patient status"),
    ("DocumentReference", "patient; _id; patient status; patient category; patient type; patient category date"),
    ("Patient", "_id; identifier; name; birthdate name; gender name"),
    ("Organization", "name; address"),
    ("Location", "name; address"),
    ("Practitioner", "_id; name; identifier"),
    ("PractitionerRole", "practitioner; specialty"),
    ("RelatedPerson", "_id; patient"),
];

/// Where a parameter's value stands.
fn at(kind: &str, name: &str) -> &'static str {
    match (kind, name) {
        (_, "_id") => "/id",
        (_, "_lastUpdated") => "/meta/lastUpdated",
        ("Patient" | "Practitioner", "name") => "/name/0/family",
        (_, "name") => "/name",
        ("Organization", "address") => "/address/0/city",
        (_, "address") => "/address/city",
        (_, "identifier") => "/identifier/0",
        (_, "birthdate") => "/birthDate",
        (_, "gender") => "/gender",
        ("RelatedPerson", "patient") => "/patient/reference",
        (_, "patient") => "/subject/reference",
        (_, "practitioner") => "/practitioner/reference",
        (_, "encounter") => "/encounter/reference",
        (_, "specialty") => "/specialty/0/coding/0",
        ("Procedure", "category") => "/category/coding/0",
        (_, "category") => "/category/0/coding/0",
        (_, "code") => "/code/coding/0",
        (_, "type") => "/type/coding/0",
        (_, "description") => "/description/coding/0",
        (_, "clinical-status") => "/clinicalStatus/coding/0",
        (_, "lifecycle-status") => "/lifecycleStatus",
        (_, "status") => "/status",
        ("ServiceRequest", "authored") => "/authoredOn",
        (_, "authored") => "/authored",
        ("Procedure", "date") => "/performedDateTime",
        ("DocumentReference", "date") => "/date",
        (_, "date") => "/effectiveDateTime",
        (_, "onset-date") => "/onsetDateTime",
        (_, "recorded-date") => "/recordedDate",
        (_, "abatement-date") => "/abatementDateTime",
        (_, "asserted-date") => "/extension/0/valueDateTime",
        (_, "target-date") => "/target/0/dueDate",
        (_, "questionnaire") => "/questionnaire",
        other => panic!("{other:?}"),
    }
}

fn is_date(name: &str) -> bool {
    name.ends_with("date") && name != "birthdate" || name == "authored" || name == "_lastUpdated"
}

/// The ways in which the kit writes a value: alone, with its system, as a reference with its type.
fn spellings(value: &Value) -> Vec<String> {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    match value {
        Value::String(one)
            if one.starts_with("Patient/") || one.starts_with("Practitioner/") || one.starts_with("Encounter/") =>
        {
            vec![one.rsplit('/').next().unwrap().to_string(), one.clone()]
        }
        Value::String(one) => vec![one.clone()],
        coding if coding.get("code").is_some() => {
            vec![text("code").to_string(), format!("{}|{}", text("system"), text("code"))]
        }
        _ => vec![text("value").to_string(), format!("{}|{}", text("system"), text("value"))],
    }
}

fn coded(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

/// What one patient has, of each type; every element that is searched by.
fn of(patient: &str, day: &str) -> Vec<Value> {
    let subject = json!({"reference": format!("Patient/{patient}")});
    let time = format!("{day}T10:00:00Z");
    let sdoh = json!([coded(&format!("{CORE}/CodeSystem/us-core-category"), "sdoh")]);
    let clinical = "http://terminology.hl7.org/CodeSystem";
    let snomed = "http://snomed.info/sct";
    let practitioner = json!({"reference": format!("Practitioner/{patient}-dr")});
    let mut all = vec![
        json!({"resourceType": "Patient", "name": [{"family": format!("Kit{patient}"), "given": ["Ann"]}], "gender": "female",
            "birthDate": "1990-02-03", "identifier": [{"system": "urn:kit", "value": format!("mrn-{patient}")}]}),
        json!({"resourceType": "Practitioner", "name": [{"family": format!("Doc{patient}")}], "identifier": [{"system": "urn:npi", "value": format!("npi-{patient}")}]}),
        json!({"resourceType": "Organization", "active": true, "name": format!("House-{patient}"), "address": [{"city": format!("City{patient}")}]}),
        json!({"resourceType": "Location", "status": "active", "name": format!("Place-{patient}"), "address": {"city": format!("City{patient}")}}),
        json!({"resourceType": "PractitionerRole", "active": true, "practitioner": practitioner, "organization": {"reference": format!("Organization/{patient}-organization")},
            "telecom": [{"system": "phone", "value": "1"}], "specialty": [coded("http://nucc.org/provider-taxonomy", &format!("20{patient}"))]}),
        json!({"resourceType": "RelatedPerson", "active": true, "patient": subject}),
        json!({"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": subject, "category": sdoh,
            "code": coded(snomed, "467771000124109"), "authoredOn": time, "occurrenceDateTime": time, "requester": practitioner}),
        json!({"resourceType": "Condition", "subject": subject, "clinicalStatus": coded(&format!("{clinical}/condition-clinical"), "resolved"),
            "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/condition-assertedDate", "valueDateTime": time}],
            "verificationStatus": coded(&format!("{clinical}/condition-ver-status"), "confirmed"), "encounter": {"reference": "Encounter/e1"},
            "category": [coded(&format!("{clinical}/condition-category"), "problem-list-item"), sdoh[0]],
            "code": coded(snomed, "733423003"), "onsetDateTime": time, "abatementDateTime": time, "recordedDate": time}),
        json!({"resourceType": "Observation", "status": "final", "subject": subject, "effectiveDateTime": time, "valueBoolean": true,
            "category": [coded(&format!("{clinical}/observation-category"), "survey"), sdoh[0]], "code": coded("http://loinc.org", "88122-7"), "performer": [practitioner]}),
        json!({"resourceType": "Goal", "lifecycleStatus": "active", "subject": subject, "description": coded(snomed, "1078229009"),
            "target": [{"measure": coded("http://loinc.org", "88122-7"), "detailString": "x", "dueDate": day}]}),
        json!({"resourceType": "Procedure", "status": "completed", "subject": subject, "code": coded(snomed, "710925007"), "performedDateTime": time,
            "category": sdoh[0]}),
        json!({"resourceType": "QuestionnaireResponse", "status": "completed", "subject": subject, "authored": time, "questionnaire": "http://kit.test/Questionnaire/q"}),
        json!({"resourceType": "CareTeam", "status": "active", "subject": subject, "participant": [{"role": [coded(snomed, "17561000")], "member": practitioner}]}),
        json!({"resourceType": "DocumentReference", "status": "current", "subject": subject, "date": time, "type": coded("http://loinc.org", "34133-9"),
            "category": [coded(&format!("{CORE}/CodeSystem/us-core-documentreference-category"), "clinical-note")],
            "content": [{"attachment": {"contentType": "text/plain", "url": "https://kit.test/a"}}]}),
    ];
    for one in &mut all {
        let kind = one["resourceType"].as_str().unwrap().to_lowercase();
        let id = match kind.as_str() {
            "patient" => patient.to_string(),
            "practitioner" => format!("{patient}-dr"),
            _ => format!("{patient}-{kind}"),
        };
        one["id"] = json!(id);
    }
    all
}

/// A gateway with two patients' data, and its operator's client with it.
async fn prepared() -> TestGateway {
    let county = TestGateway::county().await;
    for (patient, day) in [("p1", "2026-03-05"), ("p2", "2025-11-20")] {
        for one in of(patient, day) {
            let path = format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap());
            let made = county.put("root", &path, &one).await;
            assert_eq!(made.status, 201, "{path}: {}", made.body);
        }
    }
    county
}

/// A search as the kit makes it: every page, each answered 200, other types only beside matches.
async fn search(county: &TestGateway, kind: &str, pairs: &[(&str, String)]) -> Vec<Value> {
    let query: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}={}", value.replace('|', "%7C"))).collect();
    let mut path = format!("{kind}?{}", query.join("&"));
    let mut found = Vec::new();
    for _ in 0..20 {
        // Of questions a minute there are only so many.
        county.clock.advance(std::time::Duration::from_secs(1));
        let page = county.get("root", &path).await;
        assert_eq!((page.status, &page.body["type"]), (200, &json!("searchset")), "{path}: {}", page.body);
        found.extend(page.entries().into_iter().filter(|one| one["resourceType"] == kind));
        let links = page.body["link"].as_array().unwrap();
        let Some(next) = links.iter().find(|link| link["relation"] == "next") else { return found };
        path = next["url"].as_str().unwrap().split_once("/fhir/").unwrap().1.to_string();
    }
    panic!("more than twenty pages")
}

fn ids(found: &[Value]) -> Vec<&str> {
    let mut ids: Vec<&str> = found.iter().map(|one| one["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// Whether this is what was asked for, told without the server's index.
fn fits(resource: &Value, kind: &str, name: &str, value: &str) -> bool {
    let bare = value.rsplit('|').next().unwrap();
    let (list, _) = at(kind, name).split_once("/coding").unwrap_or((at(kind, name), ""));
    let text = resource.pointer(list.strip_suffix("/0").unwrap_or(list)).unwrap_or(&Value::Null).to_string();
    text.to_lowercase().contains(&bare.to_lowercase())
}

// U-2.01, U-2.03, U-2.04, U-2.05, U-2.08, U-2.09, U-3.01: every search that US Core asks for, by each spelling of its values,
// by GET and by POST; all that fits is found and nothing of another patient.
#[tokio::test]
async fn every_search_finds_what_it_was_made_of() {
    let county = prepared().await;
    let mine = of("p1", "2026-03-05");
    let mut count = 0;
    for (kind, sets) in SEARCHES {
        let own = mine.iter().find(|one| one["resourceType"] == *kind).unwrap();
        let path = format!("{kind}/{}", own["id"].as_str().unwrap());
        let read = county.get("root", &path).await;
        assert_eq!((read.status, &read.body["resourceType"], &read.body["id"]), (200, &json!(kind), &own["id"]));
        for set in sets.split("; ") {
            let names: Vec<&str> = set.split_whitespace().collect();
            let values: Vec<Vec<String>> = names
                .iter()
                .map(|name| {
                    let value = read.body.pointer(at(kind, name)).unwrap_or_else(|| panic!("{kind} {name}"));
                    // The kit asks for a day of a time, as the day before and after bound it (U-2.06).
                    if is_date(name) { vec![value.as_str().unwrap()[..10].to_string()] } else { spellings(value) }
                })
                .collect();
            let mut counts = Vec::new();
            for spelling in 0..2 {
                let pairs: Vec<(&str, String)> = names
                    .iter()
                    .copied()
                    .zip(values.iter().map(|all| all[spelling.min(all.len() - 1)].clone()))
                    .collect();
                let found = search(&county, kind, &pairs).await;
                assert!(ids(&found).contains(&own["id"].as_str().unwrap()), "{kind} {pairs:?}: {:?}", ids(&found));
                for one in &found {
                    for (name, value) in &pairs {
                        assert!(fits(one, kind, name, value), "{kind} {name}={value}: {}", one["id"]);
                    }
                }
                let form: Vec<String> =
                    pairs.iter().map(|(name, value)| format!("{name}={}", value.replace('|', "%7C"))).collect();
                let posted = post(&county, kind, &form.join("&")).await;
                assert_eq!((posted.status, posted.entries().len()), (200, found.len()), "POST {kind} {pairs:?}");
                counts.push(found.len());
                count += 1;
            }
            assert_eq!(counts[0], counts[1], "{kind} {set}: a spelling finds more than another");
        }
    }
    assert!(count > 90, "{count}");
}

async fn post(county: &TestGateway, kind: &str, form: &str) -> Answered {
    use tower::ServiceExt;
    let request = axum::http::Request::post(format!("/fhir/{kind}/_search"))
        .header("authorization", "Bearer root")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(axum::body::Body::from(form.to_string()))
        .unwrap();
    let response = county.gateway.router().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answered { status, headers: Default::default(), body: serde_json::from_slice(&bytes).unwrap_or_default() }
}

// U-2.06: gt, ge a day before and lt, le a day after find it, the other way round they don't.
#[tokio::test]
async fn dates_are_compared() {
    let county = prepared().await;
    let mine = of("p1", "2026-03-05");
    for (kind, sets) in SEARCHES {
        let own = mine.iter().find(|one| one["resourceType"] == *kind).unwrap();
        let mut names: Vec<&str> = sets.split(['+', ';', ' ']).filter(|name| is_date(name)).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let time = if name == "_lastUpdated" {
                county.clock.now().to_string()
            } else {
                "2026-03-05T10:00:00Z".to_string()
            };
            let shifted = |days: i64| {
                let at = loopgate::time::Timestamp::parse(&time).unwrap();
                let day = std::time::Duration::from_secs(86_400);
                let at = if days < 0 { at.minus(day) } else { at.plus(day) };
                format!(
                    "{}-05:00",
                    loopgate::time::Timestamp(at.0 - 5 * 3_600 * 1_000_000).to_string().get(..19).unwrap()
                )
            };
            for (prefix, days, finds) in [
                ("gt", -1, true),
                ("ge", -1, true),
                ("lt", 1, true),
                ("le", 1, true),
                ("gt", 1, false),
                ("lt", -1, false),
            ] {
                let pairs = [("patient", "p1".to_string()), (name, format!("{prefix}{}", shifted(days)))];
                let found = search(&county, kind, &pairs).await;
                assert_eq!(ids(&found).contains(&own["id"].as_str().unwrap()), finds, "{kind}?{name}={}", pairs[1].1);
            }
        }
    }
}

// U-2.02, U-2.07: no status has to be given; of several, all are found.
#[tokio::test]
async fn one_of_several_values_is_enough() {
    let county = prepared().await;
    for (kind, name, several) in [
        ("ServiceRequest", "status", "draft,active,completed"),
        ("Observation", "status", "registered,final,amended"),
        ("Procedure", "status", "preparation,completed"),
        ("Goal", "lifecycle-status", "proposed,active"),
        ("CareTeam", "status", "proposed,active"),
        ("Condition", "clinical-status", "active,resolved"),
    ] {
        let one = search(&county, kind, &[("patient", "p1".into())]).await;
        let all = search(&county, kind, &[("patient", "p1".into()), (name, several.into())]).await;
        assert_eq!((ids(&all), all.len()), (ids(&one), 1), "{kind}");
        let first = several.split(',').next().unwrap();
        let none = search(&county, kind, &[("patient", "p1".into()), (name, first.into())]).await;
        assert!(none.is_empty(), "{kind} {first}");
    }
}

// U-2.10: the Provenance of what is found comes along.
#[tokio::test]
async fn provenance_comes_along() {
    let county = TestGateway::county().await;
    county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    for kind in ["ServiceRequest", "Condition", "Consent", "Patient"] {
        let all = county.get("root", &format!("{kind}?_revinclude=Provenance:target")).await;
        let found = all.body["entry"].as_array().unwrap();
        let provenance: Vec<&Value> =
            found.iter().filter(|one| one["resource"]["resourceType"] == "Provenance").collect();
        assert!(!provenance.is_empty(), "{kind}");
        for one in provenance {
            assert_eq!(one["search"]["mode"], "include");
            let agents = one["resource"]["agent"].as_array().unwrap();
            // U-4.02: who is a person or a device acts for somebody.
            for agent in agents {
                let who = agent["who"]["reference"].as_str().unwrap_or_default();
                let alone = who.contains("Practitioner/") || who.contains("Device/");
                assert!(!alone || agent["onBehalfOf"].is_object(), "{agent}");
            }
        }
    }
}

// U-1.02, U-1.03, U-1.04, U-1.05, U-6.01: what the server says of itself, without a token.
#[tokio::test]
async fn the_server_says_what_it_is() {
    let county = TestGateway::county().await;
    let statement = county.get("", "metadata").await;
    assert_eq!((statement.status, &statement.body["resourceType"]), (200, &json!("CapabilityStatement")));
    let findings = loopgate::fhir::validate::examine(&statement.body, loopgate::fhir::profile::Profiles::own());
    let wrong = |one: &&loopgate::fhir::validate::Finding| one.severity == loopgate::fhir::validate::Severity::Error;
    assert_eq!(findings.iter().find(wrong), None);
    assert_eq!(statement.body["fhirVersion"], "4.0.1");
    assert!(statement.body["format"].as_array().unwrap().contains(&json!("json")));
    let all = statement.body["rest"][0]["resource"].as_array().unwrap();
    let profiles: Vec<&str> = all
        .iter()
        .flat_map(|one| one["supportedProfile"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let core = profiles.iter().filter(|profile| profile.starts_with(CORE)).count();
    assert!(
        profiles.contains(&format!("{CORE}/StructureDefinition/us-core-patient").as_str()) && core > 1,
        "{profiles:?}"
    );
    let smart = county.get("", ".well-known/smart-configuration").await.body;
    assert!(smart["scopes_supported"].as_array().unwrap().contains(&json!("system/*.rs")));
    assert!(smart["introspection_endpoint"].is_string());
}

// U-4.01, U-5.01, U-5.02: what was stored is valid as US Core has it, says why something is missing, and what it refers to
// is there.
#[tokio::test]
async fn what_is_found_is_valid_and_resolves() {
    let county = prepared().await;
    for one in of("p1", "2026-03-05") {
        let (kind, id) = (one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap());
        let read = county.get("root", &format!("{kind}/{id}")).await.body;
        let told = county.get("root", &format!("{kind}/{id}/$validate")).await;
        assert_eq!(told.status, 200);
        let errors: Vec<&Value> =
            told.body["issue"].as_array().unwrap().iter().filter(|issue| issue["severity"] == "error").collect();
        assert!(errors.is_empty(), "{kind}: {errors:?}");
        for element in ["subject", "patient", "practitioner", "requester"] {
            let Some(reference) = read[element]["reference"].as_str() else { continue };
            let named = county.get("root", reference).await;
            assert_eq!(named.status, 200, "{kind}.{element}");
            assert!(reference.ends_with(&format!("{}/{}", named.body["resourceType"].as_str().unwrap(), named.id())));
        }
    }
    // A reason for what is missing stays.
    let reason = json!({"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]});
    let mut patient = of("p3", "2026-01-01").remove(0);
    patient.as_object_mut().unwrap().shift_remove("birthDate");
    patient["_birthDate"] = reason.clone();
    assert_eq!(county.put("root", "Patient/p3", &patient).await.status, 201);
    assert_eq!(county.get("root", "Patient/p3").await.body["_birthDate"], reason);
    let unknown = coded("http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown");
    let observation = json!({"resourceType": "Observation", "id": "p3-o", "status": "final", "code": {"text": "x"},
        "category": [coded(&format!("{CORE}/CodeSystem/us-core-category"), "sdoh")], "subject": {"reference": "Patient/p3"},
        "effectiveDateTime": "2026-01-01", "dataAbsentReason": unknown});
    assert_eq!(county.put("root", "Observation/p3-o", &observation).await.status, 201);
    assert_eq!(county.get("root", "Observation/p3-o").await.body["dataAbsentReason"], unknown);
}

// U-5.03: screening and assessment by category.
#[tokio::test]
async fn screenings_are_found_by_category() {
    let county = prepared().await;
    let sdoh =
        |found: &[Value]| found.iter().all(|one| one["category"].to_string().contains("\"sdoh\"")) && !found.is_empty();
    assert!(sdoh(&search(&county, "Observation", &[("patient", "p1".into()), ("category", "survey".into())]).await));
    assert!(sdoh(
        &search(&county, "Condition", &[("patient", "p1".into()), ("category", "problem-list-item".into())]).await
    ));
    assert!(
        search(&county, "Condition", &[("patient", "p1".into()), ("category", "health-concern".into())])
            .await
            .is_empty()
    );
}

// U-3.02: the types that are only copied are searched like the others.
#[tokio::test]
async fn what_was_copied_is_searched_too() {
    let county = TestGateway::county().await;
    let task = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    county.world.at(EHR, |ehr| {
        let subject = ehr.get("ServiceRequest", "sr1").unwrap()["subject"].clone();
        ehr.put(
            json!({"resourceType": "CarePlan", "id": "plan", "status": "active", "intent": "plan", "subject": subject,
            "category": [coded(&format!("{CORE}/CodeSystem/careplan-category"), "assess-plan")]}),
        );
        ehr.put(json!({"resourceType": "Coverage", "id": "cover", "status": "active", "beneficiary": subject,
            "payor": [{"display": "A payer"}]}));
        ehr.update("ServiceRequest", "sr1", |request| {
            let also = [json!({"reference": "CarePlan/plan"}), json!({"reference": "Coverage/cover"})];
            request["supportingInfo"].as_array_mut().unwrap().extend(also);
        });
    });
    let id = county.post("clinic", "Task", &task).await.id();
    county.deliver_due().await;
    let patient = county.task(&id).await["for"]["reference"].as_str().unwrap().to_string();
    for (path, found) in [
        (format!("CarePlan?patient={patient}&category=assess-plan"), 1),
        (format!("CarePlan?patient={patient}&category=other"), 0),
        (format!("Coverage?patient={patient}"), 1),
        ("Coverage?patient=another".to_string(), 0),
    ] {
        let answer = county.get("clinic", &path).await;
        assert_eq!((answer.status, answer.entries().len()), (200, found), "{path}: {}", answer.body);
    }
}
