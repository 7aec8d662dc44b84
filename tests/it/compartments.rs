//! A patient's compartment and all types at once: the same search, the same grants, pages that follow one time.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::databases::Place;
use crate::gateway::{Answered, TestGateway, county, partner};
use crate::on_both;

fn about(kind: &str, patient: &str) -> Value {
    json!({"resourceType": kind, "status": "final", "subject": {"reference": patient},
        "code": {"coding": [{"system": "urn:c", "code": "x"}]}})
}

fn condition(patient: &str) -> Value {
    let mut condition = about("Condition", patient);
    condition.as_object_mut().unwrap().remove("status");
    condition["clinicalStatus"] =
        json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]});
    condition
}

fn link(answer: &Answered, relation: &str) -> Option<String> {
    let links = answer.body["link"].as_array().unwrap();
    let link = links.iter().find(|link| link["relation"] == relation)?;
    Some(link["url"].as_str().unwrap().strip_prefix("https://hub.test/fhir").unwrap().to_string())
}

/// `Type/id` of what was found, in order; what came along is marked.
fn found(answer: &Answered) -> Vec<String> {
    assert_eq!((answer.status, answer.body["type"].as_str()), (200, Some("searchset")), "{}", answer.body);
    let entries = answer.body["entry"].as_array().cloned().unwrap_or_default();
    let one = |entry: &Value| {
        let key = entry["fullUrl"].as_str().unwrap().strip_prefix("https://hub.test/fhir/").unwrap();
        if entry["search"]["mode"] == "match" { key.to_string() } else { format!("+{key}") }
    };
    entries.iter().map(one).collect()
}

/// All pages of a search.
async fn whole(county: &TestGateway, who: &str, path: &str) -> Vec<String> {
    let mut page = county.get(who, path).await;
    let mut all = found(&page);
    while let Some(next) = link(&page, "next") {
        page = county.get(who, next.trim_start_matches('/')).await;
        all.extend(found(&page));
        assert!(all.len() < 100, "{path} has no end");
    }
    all
}

fn set(list: &[&String]) -> BTreeSet<String> {
    list.iter().map(|one| (*one).clone()).collect()
}

//
on_both!(a_compartment_and_all_types_are_searched, async |place: Place| {
    let limited = partner("limited", "\"operator\"", "scopes = [\"system/Condition.rs\"]");
    let county = TestGateway::with(place, &format!("{}{limited}", county())).await;
    let make = async |body: Value| {
        let kind = body["resourceType"].as_str().unwrap().to_string();
        let made = county.post("clinic", &kind, &body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        format!("{kind}/{}", made.id())
    };
    let ann = make(json!({"resourceType": "Patient", "gender": "female"})).await;
    let ben = make(json!({"resourceType": "Patient", "gender": "male"})).await;
    let (hers, his) = (make(condition(&ann)).await, make(condition(&ben)).await);
    let seen = make(about("Observation", &ann)).await;
    let mut told = about("Observation", &ben);
    told["performer"] = json!([{"reference": ann}]);
    let told = make(told).await;

    // One type of it: about her, or by her. The self link says where.
    let one = county.get("clinic", &format!("{ann}/Observation?code=x&colour=red")).await;
    assert_eq!(found(&one), [told.clone(), seen.clone()], "newest first");
    assert_eq!(link(&one, "self").unwrap(), format!("/{ann}/Observation?code=x"));
    assert_eq!(found(&county.get("clinic", &format!("{ann}/Condition")).await), std::slice::from_ref(&hers));
    assert_eq!(found(&county.get("clinic", &format!("{ann}/Patient")).await), std::slice::from_ref(&ann));
    assert_eq!(found(&county.get("clinic", &format!("{ann}/Task?status=requested")).await), Vec::<String>::new());
    assert_eq!(found(&county.get("clinic", "Patient/nobody/Condition").await), Vec::<String>::new());
    let chained = format!("{ann}/Observation?subject:Patient.gender=male&_include=Observation:subject");
    assert_eq!(found(&county.get("clinic", &chained).await), [told.clone(), format!("+{ben}")]);

    // All of it, and the same as a form.
    let types = "_type=Patient,Condition,Observation";
    let all = county.get("clinic", &format!("{ann}/*?{types}&_total=accurate")).await;
    assert_eq!(found(&all), [told.clone(), seen.clone(), hers.clone(), ann.clone()]);
    assert_eq!((all.body["total"].as_u64(), link(&all, "next")), (Some(4), None));
    assert_eq!(link(&all, "self").unwrap(), format!("/{ann}/*?{types}&_total=accurate"));
    assert!(
        set(&found(&county.get("clinic", &format!("{ann}/*")).await).iter().collect::<Vec<_>>())
            .is_superset(&set(&[&told, &seen, &hers, &ann]))
    );
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for path in [format!("{ann}/*/_search?{types}"), format!("{ann}/Observation/_search?code=x")] {
        let by_form = county.ask("clinic", "POST", &path, None, &form).await;
        assert_eq!(found(&by_form), found(&county.get("clinic", &path.replace("/_search", "")).await), "{path}");
    }

    // Everything at once.
    let all = county.get("clinic", &format!("?{types}&code=x")).await;
    let everybody = found(&county.get("clinic", &format!("?{types}")).await);
    assert_eq!(found(&all), everybody, "a Patient has no code: nobody was asked for one");
    assert_eq!(link(&all, "self").unwrap(), format!("?{types}"));
    assert_eq!(everybody, [told.clone(), seen.clone(), his.clone(), hers.clone(), ben.clone(), ann.clone()]);
    let common = "?_type=Observation,Condition&code=urn:c|x&_include=Observation:subject&_include=Condition:subject";
    let with = found(&county.get("clinic", common).await);
    assert_eq!(with[..4], [told.clone(), seen.clone(), his.clone(), hers.clone()]);
    assert_eq!(set(&with[4..].iter().collect::<Vec<_>>()), set(&[&format!("+{ann}"), &format!("+{ben}")]));
    let counted = county.get("clinic", "?_type=Observation,Condition&_summary=count").await;
    assert_eq!((counted.body["total"].as_u64(), found(&counted).len()), (Some(4), 0));
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"request": {"method": "GET", "url": "?_type=Observation,Condition&_summary=count"}},
        {"request": {"method": "GET", "url": format!("https://hub.test/fhir/{ann}/Condition")}}]});
    let batch = county.post("clinic", "", &batch).await.entries();
    assert_eq!((batch[0]["total"].as_u64(), batch[1]["entry"].as_array().map(Vec::len)), (Some(4), Some(1)));

    // Others see nothing of it, and no number.
    for path in [
        format!("{ann}/*?_total=accurate"),
        format!("?{types}&_total=accurate"),
        format!("{ann}/Condition?_total=accurate"),
    ] {
        let nothing = county.get("agency", &path).await;
        assert_eq!((found(&nothing).len(), nothing.body["total"].as_u64()), (0, Some(0)), "{path}");
    }
    assert!(found(&county.get("limited", "?_sort=_lastUpdated").await).iter().all(|one| one.starts_with("Condition/")));
    assert_eq!(county.get("limited", "?_type=Condition,Observation").await.status, 403);
    assert_eq!(county.get("limited", &format!("{ann}/Observation")).await.status, 403);
    assert_eq!(county.get("", &format!("{ann}/*")).await.status, 401);

    // What not all types know is no less unknown here.
    let strict = [("prefer", "handling=strict")];
    for (path, status) in [
        ("?_type=Observation,Condition&code=x", 200),
        ("?_type=Observation,Condition&clinical-status=active", 400),
        ("?_type=Observation,Condition&_sort=-_lastUpdated", 200),
        ("?_type=Observation,Condition&_sort=code", 400),
        ("?_type=Observation,Condition&_include=Task:focus", 400),
    ] {
        assert_eq!(county.ask("clinic", "GET", path, None, &strict).await.status, status, "{path}");
    }
    let ignored = county.get("clinic", "?_type=Observation,Condition&clinical-status=active&_sort=code").await;
    assert_eq!(
        (found(&ignored).len(), link(&ignored, "self").unwrap()),
        (4, "?_type=Observation,Condition".to_string())
    );
    assert_eq!(county.get("clinic", "").await.status, 400, "all there is, without a word");
    for bad in [
        "_type=Nope",
        "_type=ValueSet",
        "_type=AuditEvent",
        "_type=,",
        "_type=Task&_type=Goal",
        "_page=1.x",
        "_page=1.Nope/x",
        "code:wrong=x&_type=Condition",
    ] {
        assert_eq!(county.get("clinic", &format!("?{bad}")).await.status, 400, "{bad}");
    }
    for (path, status) in [(format!("{ann}/Organization"), 404), ("Group/1/*".to_string(), 404)] {
        assert_eq!(county.get("clinic", &path).await.status, status, "{path}");
    }
    assert_eq!(county.post("clinic", &format!("{ann}/Condition"), &condition(&ann)).await.status, 405);
    assert_eq!(county.ask("clinic", "HEAD", &format!("{ann}/Condition"), None, &[]).await.status, 200);
});

// also where everything has one time.
on_both!(pages_over_all_types_neither_repeat_nor_skip, async |place: Place| {
    let county = TestGateway::with(place, &county()).await;
    let patient = json!({"fullUrl": "urn:uuid:p", "resource": {"resourceType": "Patient"}, "request": {"method": "POST", "url": "Patient"}});
    let entries = |kinds: &[&str]| -> Vec<Value> {
        let entry = |kind: &&str| {
            let body = if *kind == "Condition" { condition("urn:uuid:p") } else { about(kind, "urn:uuid:p") };
            json!({"resource": body, "request": {"method": "POST", "url": kind}})
        };
        [patient.clone()].into_iter().chain(kinds.iter().map(entry)).collect()
    };
    for kinds in [["Condition", "Observation", "Condition"], ["Observation", "Observation", "Condition"]] {
        let sent = json!({"resourceType": "Bundle", "type": "transaction", "entry": entries(&kinds)});
        assert_eq!(county.post("clinic", "", &sent).await.status, 200);
    }
    for order in ["", "&_sort=_lastUpdated", "&_sort=-_lastUpdated"] {
        let asked = format!("?_type=Observation,Condition,Patient{order}");
        let all = whole(&county, "clinic", &asked).await;
        assert_eq!((all.len(), set(&all.iter().collect::<Vec<_>>()).len()), (8, 8), "{order}");
        for count in [1, 2, 3, 7, 8] {
            assert_eq!(whole(&county, "clinic", &format!("{asked}&_count={count}")).await, all, "{order} by {count}");
        }
    }
    let first = county.get("clinic", "?_type=Observation,Condition&_count=1").await;
    let next = link(&first, "next").unwrap();
    // What comes in the meantime is newer than where the first page began.
    assert_eq!(county.post("clinic", "Patient", &json!({"resourceType": "Patient"})).await.status, 201);
    let rest = county.get("clinic", &format!("{}&_count=99", &next.replace("_count=1&", ""))).await;
    assert_eq!(found(&rest).len(), 5);
});
