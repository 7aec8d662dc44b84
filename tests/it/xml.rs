//! XML on every interaction: what a client that knows nothing else sends and gets.

use axum::body::Body;
use axum::http::Request;
use loopgate::demo::patient;
use loopgate::fhir::json::Bounds;
use loopgate::fhir::xml;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::gateway::{EHR, PANTRY, TestGateway};

/// What came back: status, `Content-Type`, `Content-Length`, the XML, and what it says.
pub struct Got {
    status: u16,
    kind: String,
    length: usize,
    text: String,
    pub says: Value,
}

/// One request of a client that speaks XML alone.
async fn ask(county: &TestGateway, who: &str, method: &str, path: &str, body: Option<&Value>) -> Got {
    let more = [("accept", "application/fhir+xml"), ("content-type", "application/fhir+xml; charset=utf-8")];
    let body = body.map(xml::write).unwrap_or_default();
    send(county, who, method, path, &more, body).await
}

pub async fn send(
    county: &TestGateway,
    who: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Got {
    let mut request = Request::builder().method(method).uri(format!("/fhir/{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !who.is_empty() {
        request = request.header("authorization", format!("Bearer {who}"));
    }
    let response = county.gateway.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_string());
    let (status, kind) = (response.status().as_u16(), header("content-type").unwrap_or_default());
    let length = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let says =
        if text.is_empty() { Value::Null } else { xml::read(text.as_bytes(), Bounds::default()).unwrap_or_default() };
    Got { status, kind, length, text, says }
}

// G-002, R-002, R-006: a referral from the first POST to its history, in XML alone.
#[tokio::test]
async fn a_clinic_that_speaks_xml_refers() {
    let county = TestGateway::county().await;
    let task = county.referral("sr1", "food-insecurity", Some("Organization/hub"));
    let made = ask(&county, "clinic", "POST", "Task", Some(&task)).await;
    assert_eq!((made.status, made.says["status"].as_str()), (201, Some("requested")), "{}", made.text);
    assert_eq!(made.kind, "application/fhir+xml; charset=utf-8");
    let id = made.says["id"].as_str().unwrap().to_string();
    county.deliver_due().await;

    let read = ask(&county, "clinic", "GET", &format!("Task/{id}"), None).await;
    let as_json = county.get("clinic", &format!("Task/{id}")).await;
    assert_eq!(read.says, as_json.body);
    let head = ask(&county, "clinic", "HEAD", &format!("Task/{id}"), None).await;
    assert_eq!((head.status, head.length, head.text.as_str()), (200, read.text.len(), ""));

    let mut changed = read.says.clone();
    changed["status"] = json!("cancelled");
    let updated = ask(&county, "clinic", "PUT", &format!("Task/{id}"), Some(&changed)).await;
    assert_eq!((updated.status, updated.says["status"].as_str()), (200, Some("cancelled")), "{}", updated.text);
    assert_eq!(ask(&county, "clinic", "GET", &format!("Task/{id}/_history/1"), None).await.says["status"], "requested");
    let history = ask(&county, "clinic", "GET", &format!("Task/{id}/_history"), None).await;
    assert_eq!((history.status, history.says["type"].as_str()), (200, Some("history")), "{}", history.text);
    let found = ask(&county, "clinic", "GET", "Task?_include=Task:focus", None).await;
    assert_eq!(found.says["type"], "searchset");
    assert!(found.says["entry"].as_array().unwrap().len() >= 2, "{}", found.text);
    let told = ask(&county, "desk", "GET", &format!("Task/{id}/$loop-status"), None).await;
    assert_eq!((told.status, told.says["resourceType"].as_str()), (200, Some("Parameters")), "{}", told.text);
    let statement = ask(&county, "", "GET", "metadata", None).await;
    assert_eq!(statement.says["format"], json!(["application/fhir+json", "application/fhir+xml", "json", "xml"]));
    assert_eq!(statement.says, county.get("", "metadata").await.body);
}

// R-006, G-003: Bundles in XML, and what is stored is the same as from JSON.
// R-057
#[tokio::test]
async fn a_transaction_may_be_xml() {
    let county = TestGateway::county().await;
    let patient = json!({"resourceType": "Patient", "text": {"status": "generated",
            "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">\n <b>Jo</b>  Doe &amp; more</div>"},
        "identifier": [{"system": "urn:p", "value": "1"}], "gender": "female",
        "name": [{"family": "Doe", "given": ["Jo", null], "_given": [null, {"id": "g2", "extension": [{"url": "http://e/x", "valueDecimal": 1.50}]}]}]});
    let entry = |method: &str, url: &str| json!({"resource": patient, "request": {"method": method, "url": url}});
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [entry("POST", "Patient")]});
    let done = ask(&county, "root", "POST", "", Some(&bundle)).await;
    assert_eq!((done.status, done.says["type"].as_str()), (200, Some("transaction-response")), "{}", done.text);
    let stored = county.get("root", "Patient?identifier=urn:p|1").await.entries()[0].clone();
    for (name, value) in patient.as_object().unwrap() {
        assert_eq!(&stored[name], value, "{name}");
    }
    let broken = json!({"resourceType": "Bundle", "type": "transaction", "entry": [entry("POST", "Patient"), {"request": {"method": "POST", "url": "Patient"}}]});
    let refused = ask(&county, "root", "POST", "", Some(&broken)).await;
    assert_eq!((refused.status, refused.says["resourceType"].as_str()), (400, Some("OperationOutcome")));
}

/// Who, method, path, headers, body, status, format.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

// R-002, R-003, R-004, R-008: each in the format it asks for, errors too.
// G-002
#[tokio::test]
async fn answers_come_in_the_format_that_is_asked_for() {
    let county = TestGateway::county().await;
    let xml = "application/fhir+xml; charset=utf-8";
    let json = "application/fhir+json; charset=utf-8";
    let form = ("content-type", "application/x-www-form-urlencoded");
    let wants_xml = ("accept", "application/fhir+xml");
    let wants_json = ("accept", "application/fhir+json");
    let sends_xml = ("content-type", "text/xml");
    let cases: &[Case] = &[
        ("clinic", "GET", "Task?_format=xml", &[wants_json], "", 200, xml),
        ("clinic", "GET", "Task?_format=application/fhir%2Bxml", &[], "", 200, xml),
        ("clinic", "GET", "Task?_format=text/xml", &[], "", 200, xml),
        ("clinic", "GET", "Task?_format=json", &[wants_xml], "", 200, json),
        ("clinic", "GET", "Task", &[("accept", "text/xml")], "", 200, xml),
        ("clinic", "GET", "Task", &[("accept", "application/xml")], "", 200, xml),
        ("clinic", "POST", "Task/_search", &[form], "_format=xml", 200, xml),
        ("clinic", "POST", "Task/_search", &[form], "_format=xml&status:fuzzy=a", 400, xml),
        ("", "GET", "Task", &[wants_xml], "", 401, xml),
        ("nobody", "GET", "Task?_format=xml", &[], "", 401, xml),
        ("clinic", "GET", "Task/none", &[wants_xml], "", 404, xml),
        ("clinic", "GET", "Nope", &[wants_xml], "", 404, xml),
        ("clinic", "DELETE", "Task/1", &[wants_xml], "", 405, xml),
        ("clinic", "GET", "Task?_format=ttl", &[wants_xml], "", 406, json),
        ("clinic", "POST", "Task", &[wants_xml, ("content-type", "text/plain")], "x", 415, xml),
        ("clinic", "POST", "Task", &[wants_xml, sends_xml, ("content-encoding", "gzip")], "x", 415, xml),
        // The format of the body is told by Content-Type alone, and not the answer's.
        ("clinic", "POST", "Task?_format=xml", &[("content-type", "application/fhir+json")], "{", 400, xml),
        ("clinic", "POST", "Task", &[wants_json, sends_xml], "<Task/>", 400, json),
        ("clinic", "POST", "Task", &[sends_xml], "{\"resourceType\":\"Task\"}", 400, json),
        ("clinic", "POST", "Task", &[wants_xml, sends_xml], "<Task xmlns='http://hl7.org/fhir'/>", 422, xml),
        ("clinic", "POST", "Task", &[wants_xml, sends_xml], "<Patient xmlns='http://hl7.org/fhir'/>", 400, xml),
        ("clinic", "PATCH", "Task/1", &[wants_xml, ("content-type", "application/xml-patch+xml")], "<x/>", 415, xml),
    ];
    for (who, method, path, headers, body, status, kind) in cases {
        let got = send(&county, who, method, path, headers, body.to_string()).await;
        assert_eq!((got.status, got.kind.as_str()), (*status, *kind), "{method} {path} {headers:?}: {}", got.text);
        if *kind == xml {
            let expected = if *status == 200 { "Bundle" } else { "OperationOutcome" };
            assert_eq!(got.says["resourceType"], expected, "{method} {path}: {}", got.text);
        }
    }
}

// G-002: an EHR and a pantry whose servers write XML alone.
#[tokio::test]
async fn partners_whose_servers_have_xml_alone_are_read() {
    let county = TestGateway::county().await;
    county.world.only_xml(EHR);
    county.world.only_xml(PANTRY);
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    assert_eq!(county.status(&task).await, "accepted");
    let theirs = county.world.at(PANTRY, |pantry| pantry.all("Task")[0].clone());
    let id = theirs["id"].as_str().unwrap();
    county.world.at(PANTRY, |pantry| pantry.update("Task", id, |task| task["status"] = json!("accepted")));
    county.poll("pantry").await;
    assert_eq!(county.status(&task).await, "in-progress");
    county.world.at(PANTRY, |pantry| {
        let focus = theirs["focus"]["reference"].as_str().unwrap();
        let subject = theirs["for"]["reference"].as_str().unwrap();
        let procedure = pantry.put(patient::procedure(focus, subject, "food-insecurity", "2027-01-15T09:00:00Z"));
        pantry.update("Task", id, |task| patient::completed_with(task, &format!("Procedure/{procedure}")));
    });
    county.poll("pantry").await;
    assert_eq!(county.status(&task).await, "completed");
}

/// XML that was written to hurt: told off, and nothing is stored.
#[tokio::test]
async fn hostile_xml_is_refused() {
    let county = TestGateway::county().await;
    let laughs = (1..30).map(|n| format!("<!ENTITY l{n} \"&l{};&l{};\">", n - 1, n - 1)).collect::<String>();
    let deep = format!("{}{}", "<extension url='u'>".repeat(50_000), "</extension>".repeat(50_000));
    let wide: String = (0..100_000).map(|n| format!(" a{n}='x'")).collect();
    let prefixes: String = (0..100_000).map(|n| format!(" xmlns:a{n}='x'")).collect();
    let task = |inside: &str| format!("<Task xmlns='http://hl7.org/fhir'>{inside}</Task>");
    for (status, body) in [
        (400, format!("<!DOCTYPE l [<!ENTITY l0 \"ha\">{laughs}]>{}", task("<description value='&l29;'/>"))),
        (400, format!("<!DOCTYPE t SYSTEM \"file:///etc/passwd\">{}", task(""))),
        (
            400,
            format!(
                "<!DOCTYPE t [<!ENTITY x SYSTEM \"https://ehr.test/secret\">]>{}",
                task("<description value='&x;'/>")
            ),
        ),
        (400, task("<description value='&x;'/>")),
        (400, task(&deep)),
        (400, task(&format!("<status{wide}/>"))),
        (400, task(&format!("<status{prefixes}/>"))),
        (413, task(&format!("<description value='{}'/>", "x".repeat((1 << 20) + 1)))),
        (400, task("<xi:include xmlns:xi='http://www.w3.org/2001/XInclude' href='file:///etc/passwd'/>")),
        (400, "<".repeat(100_000)),
        (400, "<a".repeat(100_000)),
        (400, "<!--".repeat(100_000)),
    ] {
        let wants = [("content-type", "application/fhir+xml")];
        let got = send(&county, "clinic", "POST", "Task", &wants, body.clone()).await;
        assert_eq!(got.status, status, "{:.80}: {}", body, got.text);
        assert!(!got.text.contains("passwd") && !got.text.contains("secret"), "{}", got.text);
    }
    assert!(county.world.requests().iter().all(|request| !request.contains("secret")));
    assert!(county.get("root", "Task").await.entries().is_empty());
}

/// JSON → XML → JSON is the same, number for number and narrative for narrative; XML → JSON → XML is the same text.
fn comes_back(name: &str, before: &Value) {
    let text = xml::write(before);
    let after = xml::read(text.as_bytes(), Bounds::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    // Numbers are compared by their digits.
    assert_eq!(after, *before, "{name}");
    assert_eq!(xml::write(&after), text, "{name}");
}

// R-006: every instance and definition of the guide's releases, where they lie beside the project; and everything that
// is the project's own: the fixtures, what is published, what the demonstration's parties send, what the gateway makes.
#[tokio::test]
async fn everything_at_hand_comes_back_from_xml() {
    for ((release, name), value) in crate::validation::examples() {
        comes_back(&format!("{release}/{name}"), &value);
    }
    let mut own = 0;
    let mut back = |name: &str, value: &Value| {
        own += 1;
        comes_back(name, value);
    };
    for (name, value) in crate::validation::fixtures() {
        back(&name, &value);
    }
    for resource in loopgate::fhir::published::all() {
        back(resource.id().unwrap_or_default(), resource.value());
    }
    for resource in patient::context("2027-01-15T08:00:00Z") {
        back("of the demonstration", &resource);
    }
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    for path in [
        "metadata".to_string(),
        format!("Task/{task}/_history"),
        "Provenance".into(),
        "AuditEvent?_count=50".into(),
        "Organization".into(),
        "Task/none".into(),
        format!("Task/{task}/$loop-status"),
    ] {
        back(&path, &county.get("root", &path).await.body);
    }
    assert!(own > 100, "{own}");
    // Digits, primitives that have extensions alone, padded lists, white space and entities in a narrative.
    let hard = r##"{"resourceType": "Observation", "status": "final", "_status": {"id": "s", "extension": [{"url": "http://e/x", "valueDecimal": 1.00}]},
        "text": {"status": "additional", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">\n <p>a  b\tc</p>\r\n&#160;&amp;&lt;<br/> \u00e9</div>"},
        "code": {"text": " two  blanks ", "_text": {"extension": [{"url": "http://e/x", "valueString": "line\nline"}]}},
        "_issued": {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]},
        "valueQuantity": {"value": 0.010000000000000000000000001, "_value": {"id": "v"}}, "component": [{"code": {"text": "x"}, "valueQuantity": {"value": -1.50e-7}}],
        "contained": [{"resourceType": "Patient", "id": "p", "name": [{"given": [null, "B", null], "_given": [{"id": "g"}, null, {"extension": [{"url": "http://example.org/u", "valueBoolean": false}]}]}]}],
        "subject": {"reference": "#p"}}"##;
    comes_back("the hard one", &loopgate::fhir::json::parse(hard.as_bytes(), Bounds::default()).unwrap());
}
