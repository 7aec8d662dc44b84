//! What a subscriber asks for itself: `$status`, `$events`, and a search for what is new.

use super::*;

// S-007, S-121, S-122
// S-120…S-126: by id, by status, both, and never another's.
// G-119, G-130
#[tokio::test]
async fn the_status_of_several_can_be_asked_for() {
    let county = TestGateway::county().await.settled().await;
    let one = subscribed(&county, "clinic", HOOK).await;
    let two = subscribed(&county, "clinic", "https://ehr.test/hook/2").await;
    let theirs = subscribed(&county, "agency", "https://agency.test/hook").await;
    assert_eq!(put(&county, &two, "off", HOOK).await.status, 200);
    let asked = async |who: &str, query: &str| {
        let answer = county.get(who, &format!("Subscription/$status{query}")).await;
        assert_eq!((answer.status, &answer.body["type"]), (200, &json!("searchset")));
        answer.entries().len()
    };
    assert_eq!(asked("clinic", "").await, 2);
    assert_eq!(asked("clinic", &format!("?id={one}&id={two}&id={theirs}")).await, 2, "S-125");
    assert_eq!(asked("clinic", "?status=off&status=error").await, 1);
    assert_eq!(asked("clinic", &format!("?id={one}&status=off")).await, 0);
    assert_eq!(asked("root", "").await, 3);
    let input = json!({"resourceType": "Parameters", "parameter": [{"name": "id", "valueId": one}]});
    let posted = county.post("clinic", "Subscription/$status", &input).await;
    assert_eq!(posted.entries().len(), 1, "S-124");
    let instance = county.get("clinic", &format!("Subscription/{one}/$status?id=other&status=off")).await;
    assert_eq!(instance.entries().len(), 1, "S-123");
    // S-121: before the handshake, after it, after one that failed, and switched off.
    let failing = "https://ehr.test/hook/failing";
    county.world.fault(failing, &[Fault::Answer(500)]);
    let new = county.post("clinic", "Subscription", &subscription(failing)).await.id();
    assert_eq!(status(&county, "clinic", &new).await, "requested");
    county.later(HANDSHAKE).await;
    for (id, expected) in [(&one, "active"), (&new, "error"), (&two, "off")] {
        assert_eq!(status(&county, "clinic", id).await, expected);
    }
    assert_eq!(county.ask("clinic", "DELETE", &format!("Subscription/{new}"), None, &[]).await.status, 204);
    // S-006…S-008: the search parameters. An endpoint that only begins alike is another.
    let longer = subscribed(&county, "clinic", &format!("{HOOK}/3")).await;
    assert_eq!(put(&county, &longer, "off", &format!("{HOOK}/3")).await.status, 200);
    for (query, found) in [
        (format!("url={HOOK}"), 2),
        (format!("url={HOOK}/3"), 1),
        (format!("url={}", &HOOK[..HOOK.len() - 1]), 0),
        ("status=active".into(), 1),
        (format!("topic={GUIDE}/Task"), 3),
        ("payload-type=application/fhir%2Bjson".into(), 3),
        ("type=rest-hook&status=off".into(), 2),
        ("filter-criteria=x".into(), 0),
    ] {
        let answer = county.get("clinic", &format!("Subscription?{query}")).await;
        assert_eq!(answer.entries().len(), found, "{query}: {}", answer.body);
    }
}

// S-131, S-134: content is a hint that never gives more; bounds are whole numbers in order.
#[tokio::test]
async fn events_are_asked_for_by_number_and_content() {
    let county = TestGateway::county().await.settled().await;
    let id = taken(&county, "clinic", &about(&format!("{GUIDE}/Task"), HOOK, &[], "full-resource")).await;
    let shy = taken(&county, "clinic", &about(&format!("{GUIDE}/Task"), "https://ehr.test/hook/2", &[], "empty")).await;
    county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let asked = async |id: &str, query: &str| county.get("clinic", &format!("Subscription/{id}/$events{query}")).await;
    let full = asked(&id, "").await.body;
    assert_eq!(
        (says(&full, "type"), full["entry"][1]["resource"]["resourceType"].clone()),
        ("query-event".into(), json!("Task"))
    );
    let less = asked(&id, "?content=id-only&eventsSinceNumber=2").await.body;
    assert!(less["entry"][1].get("resource").is_none() && numbers(&less)[0] == 2);
    assert_eq!(asked(&id, "?content=empty").await.body["entry"].as_array().unwrap().len(), 1);
    assert!(!asked(&shy, "?content=full-resource").await.body.to_string().contains("focus"));
    for query in ["?eventsSinceNumber=x", "?eventsSinceNumber=-1", "?eventsSinceNumber=3&eventsUntilNumber=2"] {
        assert_eq!(asked(&id, query).await.status, 400, "{query}");
    }
}

// S-068, S-161
// S-133, D11: at the moment of sending the grant is asked for again; the number stays, what it is about is not said.
#[tokio::test]
async fn what_was_taken_back_meanwhile_is_a_number_and_no_more() {
    let county = TestGateway::county().await.settled().await;
    let hook = "https://agency.test/hook";
    let topic = format!("{GUIDE}/Task");
    let id = taken(&county, "agency", &about(&topic, hook, &[], "full-resource")).await;
    county.world.fault(hook, &[Fault::Answer(503)]);
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let relayed = county.relayed(&task).await.pop().unwrap();
    county.takes_back("agency", &relayed).await;
    county.later(secs(5)).await;
    let told = events(&county, hook);
    assert_eq!(heard(&county, hook)[0], 1);
    assert!(told.iter().all(|bundle| !bundle.to_string().contains(&relayed)), "{told:?}");
    let asked = county.get("agency", &format!("Subscription/{id}/$events")).await.body;
    assert!(!numbers(&asked).is_empty() && !asked.to_string().contains(&relayed));
}

// S-220: pollers ask as the guide's examples do, also with its spelling of _lastUpdated.
#[tokio::test]
async fn a_poller_finds_what_is_new() {
    let county = TestGateway::county().await.settled().await;
    let before = county.clock.now().to_string();
    county.clock.advance(secs(5));
    let task = county.refers("sr1", "housing-instability").await;
    county.deliver_due().await;
    let requester = county.get("clinic", &format!("Task/{task}")).await.body["requester"]["reference"].clone();
    let requester = requester.as_str().unwrap().trim_start_matches(&format!("{BASE}/")).to_string();
    county.clock.advance(secs(5));
    let after = county.clock.now().to_string();
    for party in ["owner=https://hub.test/fhir/Organization/hub".to_string(), format!("requester={BASE}/{requester}")] {
        for name in ["_lastUpdated", "_lastupdated"] {
            for (since, count) in [(&before, 1), (&after, 0)] {
                let found = county.get("clinic", &format!("Task?{party}&{name}=gt{since}")).await;
                assert_eq!(found.status, 200, "{}", found.body);
                let ids: Vec<Value> = found.entries().iter().map(|task| task["id"].clone()).collect();
                assert_eq!(ids, vec![json!(task); count], "{party} {name} {since}");
            }
        }
    }
    let none = county.get("clinic", &format!("Task?owner={BASE}/Organization/agency&_lastUpdated=gt{before}")).await;
    assert!(none.entries().is_empty());
}
