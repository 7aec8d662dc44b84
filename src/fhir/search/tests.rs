//! What queries mean, shown on one resource in memory. That the store means the same is `tests/it/store_search.rs`.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::Kind;
use crate::fhir::{Resource, search_index};
use crate::time::{Timestamp, span_of};

const OWN: &str = "https://hub/fhir";

fn pairs(text: &str) -> Vec<(String, String)> {
    let split = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap());
    split.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn ask_of(kind: &str, text: &str, strict: bool) -> Result<Query, Error> {
    parse(ResourceType::parse(kind).unwrap(), &pairs(text), OWN, strict)
}

fn ask(text: &str, strict: bool) -> Result<Query, Error> {
    ask_of("Task", text, strict)
}

fn finds_in(resource: Value, text: &str) -> bool {
    let resource = Resource::from_value(resource).unwrap();
    let rows = search_index::rows(&resource, OWN);
    let updated = Timestamp::parse("2026-03-01T10:00:00.5Z").unwrap();
    let query = ask_of(resource.kind().name(), text, true).unwrap();
    query.filters.iter().all(|filter| satisfies(filter, "t1", updated, &rows))
}

fn check(resource: Value, found: &[&str], missed: &[&str]) {
    for text in found {
        assert!(finds_in(resource.clone(), text), "{text}");
    }
    for text in missed {
        assert!(!finds_in(resource.clone(), text), "{text}");
    }
}

fn task() -> Value {
    json!({"resourceType":"Task","status":"requested","owner":{"reference":"Organization/o1"},
        "for":{"reference":"Patient/p1"},"authoredOn":"2026-03-01T10:00:00Z",
        "requester":{"identifier":{"system":"npi","value":"A1"}},
        "meta":{"profile":["http://x/StructureDefinition/P|3.0.0"],"source":"http://ehr/fhir/Task/1",
            "tag":[{"system":"t","code":"urgent"}]},
        "identifier":[{"system":"s","value":"a,b"},{"type":{"coding":[{"system":"v2","code":"MR"}]},"value":"77"}],
        "code":{"coding":[{"system":"t","code":"Fulfill","display":"Fulfill the focal request"}],"text":"Food, please"}})
}

// R-107, G-136, R-126
#[test]
fn references_are_found_in_every_spelling_clients_use() {
    check(
        task(),
        &[
            "owner=Organization/o1",
            "owner=o1",
            "owner=https://hub/fhir/Organization/o1",
            "owner=http://hub/fhir/Organization/o1",
            "owner=Organization/o1/_history/3",
            "owner:Organization=o1",
            "owner:Organization=Organization/o1",
            "subject=p1",
            "patient=Patient/p1",
            "patient=p1",
            "owner=Organization/x,Organization/o1",
            "requester:identifier=npi|A1",
            "requester:identifier=A1",
            "requester:missing=false",
        ],
        &[
            "owner=Organization/o2",
            "owner=https://other/fhir/Organization/o1",
            "patient=p2",
            "owner:Practitioner=o1",
            "owner:Practitioner=Organization/o1",
            "requester:identifier=npi|a1",
            "requester:identifier=|A1",
            "requester=A1",
            "owner:identifier=A1",
        ],
    );
    assert!(ask("requester:identifier=npi|", false).is_err());
}

// G-137
#[test]
fn tokens_follow_the_bar_rules_and_not_finds_the_rest() {
    check(
        task(),
        &[
            "code=fulfill",
            "code=FULFILL",
            "code=t|fulfill",
            "code=t|",
            "identifier=s|a\\,b",
            "identifier=a\\,b",
            "identifier=s|",
            "status:not=draft",
            "status=draft,requested",
            "status=http://hl7.org/fhir/task-status|requested",
            "status=|Requested",
            "owner:missing=false",
            "output:missing=true",
            "business-status:not=closed",
            "_tag=t|urgent",
            "identifier=|77",
            "identifier:of-type=v2|MR|77",
            "identifier:of-type=v2|mr|77",
        ],
        &[
            "code=|fulfill",
            "code=u|fulfill",
            "code=T|fulfill",
            "status=http://other|requested",
            "status:not=requested",
            "status:not=draft,requested",
            "owner:missing=true",
            "identifier=s|A\\,B",
            "identifier=s|a,b",
            "identifier=v2|",
            "identifier=MR",
            "identifier:of-type=v2|MR|78",
            "identifier:of-type=|MR|77",
            "status=draft&status=requested",
        ],
    );
}

// R-126, G-139
#[test]
fn the_guides_parameters_find_their_task() {
    let mut task = task();
    task["focus"] = json!({"reference": "ServiceRequest/s1"});
    task["requester"] = json!({"reference": "PractitionerRole/r1"});
    task["output"] = json!([{"valueReference": {"reference": "Procedure/x"}}]);
    check(
        task,
        &[
            "_id=t1",
            "_id=t0,t1",
            "code=fulfill",
            "patient=p1",
            "requester=PractitionerRole/r1",
            "status=requested",
            "focus=ServiceRequest/s1",
            "_lastUpdated=gt2026-03-01T10:00:00Z",
            "owner=Organization/o1",
            "output=Procedure/x",
        ],
        &["_id=T1", "output=Procedure/y", "focus=s2", "requester=Organization/r1", "code=approve"],
    );
}

//
#[test]
fn codes_are_found_by_value_set_and_by_what_they_stand_under() {
    let statuses = "http://hl7.org/fhir/us/sdoh-clinicalcare/ValueSet/SDOHCC-ValueSetReferralTaskStatus";
    let found = format!("status:in={statuses}");
    let also = format!("status:in=https://hub/fhir/ValueSet/status-reason,{statuses}|3.0.0");
    let not = format!("status:not-in={statuses}");
    check(
        task(),
        &[
            &found,
            &also,
            "status:in=http://hl7.org/fhir/ValueSet/task-status",
            "business-status:not-in=ValueSet/business-status",
        ],
        &[
            &not,
            "status:in=ValueSet/business-status",
            "business-status:in=ValueSet/business-status",
            "code:in=http://hl7.org/fhir/us/sdoh-clinicalcare/ValueSet/SDOHCC-ValueSetTaskCode",
        ],
    );
    let clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical";
    let condition =
        json!({"resourceType":"Condition","clinicalStatus":{"coding":[{"system":clinical,"code":"relapse"}]}});
    let asked = |modifier: &str, code: &str| format!("clinical-status:{modifier}={clinical}|{code}");
    check(
        condition,
        &[&asked("below", "active"), &asked("below", "relapse"), &asked("above", "relapse")],
        &[&asked("below", "inactive"), &asked("above", "active"), &asked("below", "nothing")],
    );
    check(
        json!({"resourceType":"Goal","lifecycleStatus":"on-hold"}),
        &["lifecycle-status:below=accepted", "lifecycle-status:below=proposed,accepted"],
        &["lifecycle-status:below=proposed", "lifecycle-status:above=accepted"],
    );
    for refused in [
        "code:below=http://snomed.info/sct|123",
        "code:below=fulfill",
        "status:below=requested",
        "code:above=urn:x|y",
        "code:in=http://hl7.org/fhir/us/core/ValueSet/us-core-procedure-code",
        "code:in=ValueSet/none",
        "code:in=fulfill",
        "identifier:in=ValueSet/status-reason",
        "identifier:below=s|a",
    ] {
        assert_eq!(ask(refused, false).unwrap_err().kind, Kind::Malformed, "{refused}");
    }
}

#[test]
fn text_searches_what_a_token_says() {
    check(
        task(),
        &["code:text=food", "code:text=fulfill the", "code:text=FÓOD\\, PLEASE"],
        &["code:text=please", "code:text=ocal", "status:text=requested", "code=food"],
    );
}

//
#[test]
fn uris_are_exact_and_profiles_know_their_version() {
    check(
        task(),
        &[
            "_profile=http://x/StructureDefinition/P",
            "_profile=http://x/StructureDefinition/P|3.0.0",
            "_source=http://ehr/fhir/Task/1",
            "_source:below=http://ehr/fhir/",
            "_source:above=http://ehr/fhir/Task/1/_history/2",
        ],
        &[
            "_profile=http://x/StructureDefinition/P|2.0.0",
            "_profile=http://x/structuredefinition/P",
            "_source=http://ehr/fhir",
            "_source:below=http://EHR/",
            "_source:above=http://ehr/fhir/",
        ],
    );
    let answers = json!({"resourceType":"QuestionnaireResponse","questionnaire":"https://hub/fhir/Questionnaire/q1|2"});
    check(
        answers,
        &[
            "questionnaire=https://hub/fhir/Questionnaire/q1",
            "questionnaire=https://hub/fhir/Questionnaire/q1|2",
            "questionnaire=Questionnaire/q1",
            "questionnaire=q1",
        ],
        &["questionnaire=https://hub/fhir/Questionnaire/q1|1", "questionnaire=q2"],
    );
}

//
#[test]
fn strings_start_contain_and_are_exact() {
    let patient = json!({"resourceType":"Patient","name":[{"family":"Van der Ångström","given":["Zoë"]}]});
    check(
        patient,
        &[
            "name=van",
            "name=ZOE",
            "family=van der ang",
            "name:contains=strom",
            "family:exact=Van der Ångström",
            "name=x,zo",
        ],
        &["name=angstrom", "family=zoe", "family:exact=van der ångström", "family:exact=Van", "name:contains=xyz"],
    );
}

#[test]
fn composites_and_quantities_are_read() {
    let observed = json!({"resourceType":"Observation",
        "code":{"coding":[{"system":"http://loinc.org","code":"88122-7"}]},
        "valueCodeableConcept":{"coding":[{"system":"http://loinc.org","code":"LA28397-0"}]}});
    check(
        observed,
        &[
            "code-value-concept=88122-7$LA28397-0",
            "code-value-concept=http://loinc.org|88122-7$http://loinc.org|LA28397-0",
            "code-value-concept=http://loinc.org|88122-7$LA28397-0",
            "code-value-concept=88122-7$http://loinc.org|",
            "code-value-concept=a$b,88122-7$LA28397-0",
        ],
        &[
            "code-value-concept=88122-7$LA1",
            "code-value-concept=LA28397-0$88122-7",
            "code-value-concept=|88122-7$LA28397-0",
            "code-value-concept=http://loin|88122-7$LA28397-0",
        ],
    );
    let weight = json!({"resourceType":"Observation",
        "valueQuantity":{"value":5.43,"unit":"kilo","system":"http://unitsofmeasure.org","code":"kg"}});
    check(
        weight,
        &[
            "value-quantity=5.4",
            "value-quantity=5.43|http://unitsofmeasure.org|kg",
            "value-quantity=5.43||kilo",
            "value-quantity=gt5.42",
            "value-quantity=ge5.43",
            "value-quantity=lt6",
            "value-quantity=ap5",
            "value-quantity=ne5.5",
        ],
        &["value-quantity=5.40", "value-quantity=gt5.43", "value-quantity=5.43||g", "value-quantity=sa6"],
    );
    for text in ["code-value-concept=a", "code-value-concept=a$b$c", "value-quantity=much", "value-quantity=5|kg"] {
        assert!(ask_of("Observation", text, false).is_err(), "{text}");
    }
}

// G-136, G-195, R-105, R-125
#[test]
fn a_poller_never_loses_the_rest_of_a_second() {
    // the resource is at …10:00:00.5
    check(
        task(),
        &[
            "_lastUpdated=gt2026-03-01T10:00:00Z",
            "_lastUpdated=sa2026-03-01T10:00:00Z",
            "_lastUpdated=ge2026-03-01T10:00:00.5Z",
            "_lastupdated=gt2026-03-01T05:00:00.4-05:00",
            "_lastUpdated=gt2026-03-01T12:00:00.4+02:00",
            "_lastUpdated=2026-03-01",
            "_lastUpdated=eq2026-03-01T10:00",
            "_lastUpdated=lt2026-03-02",
            "_since=2026-03-01T10:00:00Z",
            "authored-on=ge2026-03-01",
            "authored-on=2026-03",
            "authored-on=lt2026-04",
            "authored-on=2026-03-01T10:00:00",
        ],
        &[
            "_lastUpdated=gt2026-03-01T10:00:00.5Z",
            "_lastUpdated=gt2026-03-01",
            "_lastUpdated=lt2026-03-01",
            "_lastUpdated=ne2026-03-01",
            "_since=2026-03-01T10:00:01Z",
            "authored-on=gt2026-03-01T10:00:00Z",
            "authored-on=eb2026-03-01",
            "authored-on=sa2026-03",
            "authored-on=2026-03-01T10:00:00-01:00",
        ],
    );
}

//
#[test]
fn approximately_is_a_tenth_of_the_distance_from_now() {
    let asked_at = |text: &str, now: &str| {
        let query = ask(text, true).unwrap().asked_at(Timestamp::parse(now).unwrap());
        let resource = Resource::from_value(task()).unwrap();
        let updated = Timestamp::parse("2026-03-01T10:00:00.5Z").unwrap();
        let rows = search_index::rows(&resource, OWN);
        query.filters.iter().all(|filter| satisfies(filter, "t1", updated, &rows))
    };
    for (text, now, found) in [
        ("authored-on=ap2026-03-02", "2026-03-02T12:00:00Z", false),
        ("authored-on=ap2026-03-02", "2026-03-10T00:00:00Z", true),
        ("authored-on=ap2026-03-11", "2026-06-01T00:00:00Z", false),
        ("authored-on=ap2026-03-09", "2026-06-01T00:00:00Z", true),
        ("authored-on=ap2026-02-21", "2025-11-01T00:00:00Z", true),
        ("_lastUpdated=ap2026-03-02", "2026-04-01T00:00:00Z", true),
        ("_lastUpdated=ap2026-03-02", "2026-03-02T12:00:00Z", false),
        ("authored-on=eq2026-03-02", "2027-03-02T12:00:00Z", false),
    ] {
        assert_eq!(asked_at(text, now), found, "{text} {now}");
    }
    let chained = ask("part-of.authored-on=ap2026-03-02", true).unwrap();
    assert_ne!(chained.clone().asked_at(Timestamp(0)), chained);
}

// https://hl7.org/fhir/R4/search.html#prefix
#[test]
fn periods_overlap_contain_and_are_open() {
    let period = |start: Option<&str>, end: Option<&str>| {
        let mut period = json!({});
        start.iter().for_each(|start| period["start"] = json!(start));
        end.iter().for_each(|end| period["end"] = json!(end));
        json!({"resourceType":"Procedure","performedPeriod":period})
    };
    check(
        period(Some("2026-02-10"), Some("2026-03-15")),
        &["date=2026", "date=gt2026-03-14", "date=lt2026-02-11", "date=ge2026-02", "date=ap2026-03", "date=sa2026-01"],
        &["date=2026-02", "date=gt2026-03", "date=sa2026-02", "date=eb2026-03-15", "date=ge2026-03-15"],
    );
    check(
        period(Some("2026-02-10"), None),
        &["date=gt2099", "date=ge2026", "date=lt2026-02-11", "date=ne2026", "date=ap2050"],
        &["date=2026", "date=eb2099", "date=lt2026-02-10"],
    );
    check(period(None, Some("2026-02-10")), &["date=lt1900", "date=eb2026-03"], &["date=sa1900", "date=gt2026-02-10"]);
}

// D16
//
#[test]
fn unknown_parameters_are_ignored_unless_strict_and_unknown_modifiers_never() {
    assert_eq!(
        ask("colour=red&status=requested&_text=x&_list=y&empty=", false).unwrap().used,
        [("status".to_string(), "requested".to_string())]
    );
    for text in [
        "colour=red",
        "_text=x",
        "_content=x",
        "_list=x",
        "_filter=x",
        "_sort=colour",
        "_include=Task:colour",
        "patient.colour=red",
        "_include=Patient:organization",
    ] {
        assert_eq!(ask(text, true).unwrap_err().kind, Kind::Malformed, "{text}");
        assert!(ask(text, false).unwrap().used.is_empty(), "{text}");
    }
    for text in [
        "status:above=x",
        "status:in=http://vs",
        "status:of-type=a|b|c",
        "owner:name=1",
        "owner:not=1",
        "_id:exact=1",
        "_lastUpdated:not=2026",
        "_sort:x=status",
        "_include:all=Task:focus",
        "authored-on:not=2026",
        "authored-on=gtsoon",
        "authored-on=2026-13",
        "_lastUpdated=ge",
        "_count=x",
        "_count=-1",
        "_page=x",
        "_total=maybe",
        "_query=mine",
        "owner:missing=perhaps",
        "_count=1&_count=2",
        "identifier:of-type=MR|77",
        "status.name=x",
        "owner:Thing.name=x",
        "owner:Organization.name:above=x",
        "_has:Task:status:code=x",
        "_has:Thing:owner:code=x",
    ] {
        assert!(ask(text, false).is_err(), "{text}");
    }
    assert_eq!(ask("status=requested&status=requested", false).unwrap().filters.len(), 1, "said twice, said once");
}

//
#[test]
fn chains_and_has_lead_to_other_types() {
    let one = |text: &str| ask(text, true).unwrap().filters.remove(0);
    let Filter::Chain { name: "patient", to } = one("patient.name:exact=x") else { panic!() };
    assert_eq!(to.len(), 1);
    let Filter::Chain { to, .. } = one("owner:Organization.identifier=s|v") else { panic!() };
    assert_eq!(to[0].0, ResourceType::ORGANIZATION);
    let Filter::Chain { to, .. } = one("owner.identifier=v") else { panic!() };
    assert!(to.len() > 3, "every type that owner may be");
    let Filter::Chain { to, .. } = one("focus:ServiceRequest.patient.identifier=v") else { panic!() };
    assert!(matches!(to[0].1, Filter::Chain { name: "patient", .. }));
    let mut asked = Vec::new();
    let noted = one("focus:ServiceRequest._id=v").narrow(&mut |kind| {
        asked.push(kind);
        Ok::<_, ()>(Vec::new())
    });
    assert_eq!((noted, asked), (Ok(()), vec![ResourceType::SERVICE_REQUEST]));
    let has = ask_of("ServiceRequest", "_has:Task:focus:status:not=completed", true).unwrap().filters.remove(0);
    assert!(matches!(has, Filter::Has { source: ResourceType::TASK, name: "focus", .. }));
    assert!(!has.is_of_one_resource());
    let deep = "part-of.part-of.part-of.part-of.status=x";
    assert!(ask(deep, false).is_err(), "bounded");
}

//
#[test]
fn order_page_and_includes_are_read() {
    let query = ask(
        "_sort=-_lastUpdated&_count=5000&_include=Task:focus&_include=Task:output:Procedure&_include=Task:code",
        false,
    )
    .unwrap();
    assert_eq!((query.sort.as_slice(), query.count), (&[Sort { by: Order::Updated, descending: true }][..], MAX_PAGE));
    assert_eq!(query.includes.len(), 2);
    let service = ask_of("HealthcareService", "_include=HealthCareService:location", true).unwrap();
    assert_eq!(service.includes[0].names, ["location"]);
    let all = ask("_include=*&_revinclude=Provenance:target&_include:iterate=ServiceRequest:patient", true).unwrap();
    assert!(all.includes[0].names.len() > 5 && all.includes[1].reverse && all.includes[2].iterate);
    assert!(ask("_include=Task:focus:Thing", false).is_err());
    assert!(ask("_count=0", false).unwrap().total && ask("_summary=count", false).unwrap().total);
    assert!(ask("_total=accurate", false).unwrap().total && !ask("_total=none", false).unwrap().total);
    let sorted = ask("_sort=status,-authored-on,colour,_id", false).unwrap();
    assert_eq!(
        sorted.sort.iter().map(|one| (one.by, one.descending)).collect::<Vec<_>>(),
        [(Order::Value("status"), false), (Order::Date("authored-on"), true), (Order::Id, false)]
    );
    assert_eq!(sorted.used, [("_sort".to_string(), "status,-authored-on,_id".to_string())]);
    let moment = Moment { at: 900, open: vec![890, 899] };
    for moment in [None, Some(Moment { open: Vec::new(), ..moment.clone() }), Some(moment)] {
        let cursor = Cursor { key: 5, id: "a.b-c".into(), moment };
        assert_eq!(ask(&format!("_page={}", cursor.to_text()), false).unwrap().cursor, Some(cursor));
    }
    let many = format!("5~384{}.abc", "~1".repeat(MAX_OPEN + 1));
    let least = ask("_page=5~-8000000000000000~1.abc", false).unwrap().cursor.unwrap().moment.unwrap();
    assert_eq!(least.floor(), i64::MIN);
    for bad in ["5", "5~.abc", "5~x.abc", "5~384~.abc", "~5.abc", many.as_str()] {
        assert!(ask(&format!("_page={bad}"), false).is_err(), "{bad}");
    }
}

/// [`Prefix::holds`] once more, by looking at every instant there is.
fn naive(prefix: Prefix, (low, high): (i64, i64), (from, to): (i64, i64)) -> bool {
    let target: Vec<i64> = (low..high).collect();
    let inside = |instant: &i64| (from..to).contains(instant);
    let within = target.iter().all(inside);
    match prefix {
        Prefix::Eq => within,
        Prefix::Ne => !within,
        Prefix::Gt => target.iter().any(|instant| *instant >= to),
        Prefix::Lt => target.iter().any(|instant| *instant < from),
        Prefix::Ge => target.iter().any(|instant| *instant >= to) || within,
        Prefix::Le => target.iter().any(|instant| *instant < from) || within,
        Prefix::Sa => target.iter().all(|instant| *instant >= to),
        Prefix::Eb => target.iter().all(|instant| *instant < from),
        Prefix::Ap => target.iter().any(inside),
    }
}

const DATES: &[&str] = &[
    "2025",
    "2026",
    "2026-02",
    "2026-02-28",
    "2026-03",
    "2026-03-01",
    "2026-03-01T00:00:00Z",
    "2026-03-01T10:00Z",
    "2026-03-01T10:00:00Z",
    "2026-03-01T10:00:00.5Z",
    "2026-03-01T12:00:00+02:00",
    "2026-03-01T23:30:00-05:00",
    "2026-03-02",
    "9999-12-31",
];

/// Text that is often nearly a query.
fn queryish() -> impl Strategy<Value = (String, String)> {
    const KINDS: &[&str] = &["Task", "Patient", "Group", "Thing", "ServiceRequest", "*"];
    const NAMES: &[&str] = &[
        "owner",
        "patient",
        "status",
        "focus",
        "code",
        "_id",
        "_lastUpdated",
        "_has",
        "_include",
        "_revinclude",
        "_sort",
        "_page",
        "_count",
        "identifier",
        "value-quantity",
        "characteristic-value",
        "target",
        "name",
        "",
        "_since",
    ];
    let part = prop_oneof![
        prop::sample::select(NAMES).prop_map(String::from),
        prop::sample::select(KINDS).prop_map(String::from),
        "\\PC{0,6}",
    ];
    let mark = prop::sample::select(&[":", ".", "|", "$", ",", "\\", "-", "ge", "", ":not", ":missing"][..]);
    let text = prop::collection::vec((part, mark), 0..6)
        .prop_map(|parts| parts.into_iter().map(|(part, mark)| part + mark).collect::<String>());
    (text.clone(), text)
}

proptest! {
    #[test]
    fn dates_compare_as_every_instant_of_them_does(
        prefix in 0..9_usize, low in -9_i64..9, width in 1_i64..9, from in -9_i64..9, wide in 1_i64..9,
    ) {
        let prefix = Prefix::ALL[prefix].1;
        let (target, asked) = ((low, low + width), (from, from + wide));
        prop_assert_eq!(prefix.holds(target, asked), naive(prefix, target, asked), "{:?} {:?} {:?}", prefix, target, asked);
    }

    #[test]
    fn a_date_is_found_by_every_prefix_that_holds(
        prefix in 0..9_usize, stored in prop::sample::select(DATES), asked in prop::sample::select(DATES),
    ) {
        let (code, prefix) = Prefix::ALL[prefix];
        let (target, span) = (span_of(stored).unwrap(), span_of(asked).unwrap());
        let expected = prefix.holds((target.0.0, target.1.0), (span.0.0, span.1.0));
        let procedure = json!({"resourceType":"Procedure","performedDateTime":stored});
        prop_assert_eq!(finds_in(procedure, &format!("date={code}{asked}")), expected);
    }

    #[test]
    fn any_query_never_panics((name, value) in queryish(), kind in prop::sample::select(&["Task", "Group", "Observation"][..])) {
        let kind = ResourceType::parse(kind).unwrap();
        for strict in [true, false] {
            if let Ok(query) = parse(kind, &[(name.clone(), value.clone())], OWN, strict) {
                prop_assert!(!query.sort.is_empty());
                prop_assert!(query.filters.iter().all(|filter| !satisfies(filter, "x", Timestamp(0), &[]) || filter.is_of_one_resource()));
            }
        }
    }

    #[test]
    fn the_index_finds_what_it_indexed(
        code in "[A-Za-z0-9-]{1,12}", id in "[A-Za-z0-9.-]{1,20}", text in "[\\p{L} ,|$\\\\]{1,12}", number in -1_000_000_i64..1_000_000,
    ) {
        let escaped: String = text.chars().flat_map(|c| if ",|$\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect();
        let task = json!({"resourceType":"Task","status":code,"focus":{"reference":format!("ServiceRequest/{id}")},
            "identifier":[{"system":text,"value":text}],"code":{"text":text},"owner":{"identifier":{"value":text}},
            "meta":{"profile":[format!("http://x/{id}")]}});
        for query in [
            format!("status={code}"),
            format!("status=http://hl7.org/fhir/task-status|{}", code.to_uppercase()),
            format!("focus=ServiceRequest/{id}"),
            format!("focus={id}"),
            format!("focus:ServiceRequest={id}"),
            format!("identifier={escaped}|{escaped}"),
            format!("identifier={escaped}|"),
            format!("identifier={escaped}"),
            format!("owner:identifier=|{escaped}"),
            format!("code:text={escaped}"),
            format!("_profile=http://x/{id}"),
        ] {
            prop_assert!(finds_in(task.clone(), &query), "{query}");
        }
        let patient = json!({"resourceType":"Patient","name":[{"family":text}]});
        for query in ["family", "family:exact", "family:contains", "name"] {
            prop_assert!(finds_in(patient.clone(), &format!("{query}={escaped}")), "{query}={escaped}");
        }
        let amount = format!("{}.{:02}", number / 100, (number % 100).abs());
        let value: Value = serde_json::from_str(&amount).unwrap();
        let observation = json!({"resourceType":"Observation","valueQuantity":{"value":value,"code":text,"system":text},
            "code":{"coding":[{"system":text,"code":text}]},"valueCodeableConcept":{"coding":[{"code":text}]}});
        for query in [
            format!("value-quantity={amount}"),
            format!("value-quantity=ge{amount}|{escaped}|{escaped}"),
            format!("value-quantity=le{amount}||{escaped}"),
            format!("code-value-concept={escaped}|{escaped}${escaped}"),
        ] {
            prop_assert!(finds_in(observation.clone(), &query), "{query}");
        }
        let group = json!({"resourceType":"Group","characteristic":[{"code":{"coding":[{"code":text}]},"valueBoolean":true}]});
        let query = format!("characteristic-value={escaped}$true");
        prop_assert!(finds_in(group, &query));
    }
}
