//! Topics and their filters: who is told of what.

use super::*;

// S-063, S-064
// S-061…S-065: filters are a conjunction, commas a choice; what does not match is no event.
#[tokio::test]
async fn filters_narrow_what_is_told() {
    let county = TestGateway::county().await.settled().await;
    let topic = format!("{GUIDE}/Task");
    let hook = |name: &str| format!("https://{name}.test/hook");
    for (name, filters) in [
        ("all", &["status=requested,accepted,in-progress"][..]),
        ("mine", &["Task?requester=PractitionerRole/nobody"]),
        ("hub", &["Task.owner=https://hub.test/fhir/Organization/hub", "status=accepted"]),
        ("either", &["owner=Organization/nobody,Organization/hub"]),
    ] {
        taken(&county, "clinic", &about(&topic, &hook(name), filters, "id-only")).await;
    }
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.answers("agency", &relayed, "accepted").await;
    county.answers("agency", &relayed, "completed").await;
    county.deliver_due().await;
    let count = |name: &str| heard(&county, &hook(name)).len();
    assert_eq!(count("mine"), 0);
    assert_eq!(count("hub"), 1, "both must hold");
    assert!(count("all") >= 3 && count("either") == count("all") + 1, "{} {}", count("all"), count("either"));
    for name in ["all", "hub", "either"] {
        assert_eq!(heard(&county, &hook(name)), up_to(count(name) as i64), "{name}");
    }
}

// S-062
// S-011, S-013, G-118: the ServiceRequest topic fires on update and not on create.
#[tokio::test]
async fn a_request_is_told_of_when_it_changes() {
    let county = TestGateway::county().await.settled().await;
    let body = about(&format!("{GUIDE}/Servicerequest"), "https://agency.test/hook", &[], "id-only");
    taken(&county, "agency", &body).await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    assert!(events(&county, "https://agency.test/hook").is_empty(), "created is no event here");
    let mut source = county.get("clinic", &format!("Task/{task}")).await.body;
    source["status"] = json!("cancelled");
    source["statusReason"] = json!({"text": "not needed any more"});
    assert_eq!(county.put("clinic", &format!("Task/{task}"), &source).await.status, 200);
    county.deliver_due().await;
    let told = events(&county, "https://agency.test/hook");
    assert!(!told.is_empty());
    assert!(foci(&told[0])[0].contains("/ServiceRequest/"), "{}", told[0]);
    let alias = about(&format!("{GUIDE}/ServiceRequest"), HOOK, &["_id=a"], "empty");
    taken(&county, "clinic", &alias).await;
}

// G-118: both filters of the ServiceRequest topic, each with a value that fits and one that doesn't.
#[tokio::test]
async fn each_filter_of_the_request_topic_works() {
    let county = TestGateway::county().await.settled().await;
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let theirs = county.relayed(&task).await.remove(0);
    let request = county.get("agency", &format!("Task/{theirs}")).await.body["focus"]["reference"].clone();
    let id = request.as_str().unwrap().rsplit('/').next().unwrap().to_string();
    let fitting = format!("_id={id}");
    let filters = [
        ("updated", "_lastUpdated=gt2001-01-01T00:00:00Z", "_lastUpdated=lt2001-01-01T00:00:00Z"),
        ("id", fitting.as_str(), "_id=another"),
    ];
    let hook = |name: &str, fits: bool| format!("https://{name}-{fits}.test/hook");
    for (name, good, bad) in filters {
        for (fits, filter) in [(true, good), (false, bad)] {
            let topic = format!("{GUIDE}/Servicerequest");
            taken(&county, "agency", &about(&topic, &hook(name, fits), &[filter], "id-only")).await;
        }
    }
    let mut source = county.get("clinic", &format!("Task/{task}")).await.body;
    source["status"] = json!("cancelled");
    assert_eq!(county.put("clinic", &format!("Task/{task}"), &source).await.status, 200);
    county.deliver_due().await;
    for (name, ..) in filters {
        let told = events(&county, &hook(name, true));
        assert!(foci(told.last().unwrap())[0].ends_with(&format!("/ServiceRequest/{id}")), "{name}");
        assert_eq!(county.world.heard(&hook(name, false)).len(), 1, "{name}: the handshake alone");
    }
}

// Our own topics: what was done, who has capacity, who consents.
#[tokio::test]
async fn our_own_topics_tell_what_they_say() {
    let county = TestGateway::county().await.settled().await;
    taken(&county, "clinic", &about(&format!("{OURS}/capacity"), HOOK, &[], "id-only")).await;
    let service = "HealthcareService/agency-housing";
    let mut body = county.get("agency", service).await.body;
    body["comment"] = json!("we have moved");
    assert_eq!(county.put("agency", service, &body).await.status, 200);
    county.deliver_due().await;
    assert!(events(&county, HOOK).is_empty(), "no news about capacity");
    let extension =
        "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-ExtensionHealthcareServiceCapacityStatus";
    let code = json!([{"url": "capacityStatus", "valueCodeableConcept": {"coding": [{
        "system": "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes", "code": "no-capacity"}]}}]);
    body["extension"] = json!([{"url": extension, "extension": code}]);
    let answer = county.put("agency", service, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    county.deliver_due().await;
    let told = events(&county, HOOK);
    assert_eq!((told.len(), foci(&told[0])), (1, vec![format!("{BASE}/{service}")]));

    let consents = "https://ehr.test/hook/consents";
    taken(&county, "clinic", &about(&format!("{OURS}/consent"), consents, &[], "id-only")).await;
    let patient = json!({"resourceType": "Patient", "name": [{"family": "X", "given": ["Y"]}], "gender": "unknown",
        "identifier": [{"system": "urn:x", "value": "1"}]});
    let patient = county.post("clinic", "Patient", &patient).await;
    assert_eq!(patient.status, 201, "{}", patient.body);
    let consent = json!({"resourceType": "Consent", "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IDSCL"}]}],
        "patient": {"reference": format!("Patient/{}", patient.id())}, "policyRule": {"text": "opt in"},
        "organization": [{"reference": "Organization/clinic"}], "dateTime": "2026-01-01"});
    let made = county.post("clinic", "Consent", &consent).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let gone = county.ask("clinic", "DELETE", &format!("Consent/{}", made.id()), None, &[]).await;
    assert!(matches!(gone.status, 200 | 204));
    county.deliver_due().await;
    let told = events(&county, consents);
    let entries: Vec<&Value> = told.iter().flat_map(|bundle| &bundle["entry"].as_array().unwrap()[1..]).collect();
    let last = entries.last().unwrap();
    assert_eq!((&last["request"]["method"], &last["response"]["status"]), (&json!("DELETE"), &json!("204")), "S-089");
    assert_eq!(heard(&county, consents), [1, 2]);
}

// G-117: the guide's five filters of the Task topic, each with a value that fits and one that doesn't.
#[tokio::test]
async fn each_filter_of_the_task_topic_works() {
    let county = TestGateway::county().await.settled().await;
    let filters = [
        ("updated", "_lastUpdated=gt2001-01-01T00:00:00Z", "_lastUpdated=lt2001-01-01T00:00:00Z"),
        ("code", "code=http://hl7.org/fhir/CodeSystem/task-code|fulfill", "code=abort"),
        ("owner", "owner=https://hub.test/fhir/Organization/hub", "owner=Organization/agency"),
        ("requester", "requester=", "requester=Organization/agency"),
        ("status", "status=requested,received", "status=draft"),
    ];
    let probe = county.refers("sr0", "housing-instability").await;
    county.deliver_due().await;
    let requester = county.get("clinic", &format!("Task/{probe}")).await.body["requester"]["reference"].clone();
    let hook = |name: &str, fits: bool| format!("https://{name}-{fits}.test/hook");
    for (name, good, bad) in filters {
        let good =
            if name == "requester" { format!("{good}{}", requester.as_str().unwrap()) } else { good.to_string() };
        for (fits, filter) in [(true, good.as_str()), (false, bad)] {
            taken(&county, "clinic", &about(&format!("{GUIDE}/Task"), &hook(name, fits), &[filter], "id-only")).await;
        }
    }
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    for (name, ..) in filters {
        let told = events(&county, &hook(name, true));
        assert_eq!(told.first().map(foci), Some(vec![format!("{BASE}/Task/{task}")]), "{name}");
        assert!(events(&county, &hook(name, false)).is_empty(), "{name}");
        assert_eq!(county.world.heard(&hook(name, false)).len(), 1, "{name}: the handshake alone");
    }
}
