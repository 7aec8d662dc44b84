//! The real transport against real sockets: hanging, redirecting, endless and broken answers, and where the token goes.

use std::sync::Arc;
use std::time::Duration;

use loopgate::config::Config;
use loopgate::delivery::{Network, Request, SendError, Transport};
use loopgate::gateway::Gateway;
use serde_json::json;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::databases::Place;
use crate::gateway::partner;

fn config(partners: &str, addresses: &str, url: &str) -> Config {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let text = format!(
        "[server]\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"{url}\"\n\
         [limits]\nbody = \"64KiB\"\n[delivery]\ntimeout = \"1s\"\npartner_addresses = \"{addresses}\"\n{partners}"
    );
    Config::parse(&text, std::path::Path::new(".")).unwrap()
}

async fn ask(url: String, addresses: &str) -> Result<u16, SendError> {
    let network = Network::new(&config("", addresses, "sqlite://unused")).unwrap();
    let request = Request { method: "GET", url, headers: vec![], body: None };
    network.send(request).await.map(|response| response.status)
}

async fn answering(template: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(template).mount(&server).await;
    server
}

const TESTS: &str = "allow_private_for_tests_only";

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    let server = answering(ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    let asked = tokio::time::timeout(Duration::from_secs(5), ask(server.uri(), TESTS)).await.expect("waited too long");
    assert_eq!(asked, Err(SendError("no answer in time".into())));
}

// S-165
#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let server = answering(ResponseTemplate::new(200).set_body_bytes(vec![b' '; 70_000])).await;
    assert!(ask(server.uri(), TESTS).await.unwrap_err().0.contains("larger"));
    let server = answering(ResponseTemplate::new(200).set_body_bytes(vec![b' '; 60_000])).await;
    assert_eq!(ask(server.uri(), TESTS).await, Ok(200));
}

// S-103: a subscriber may ask for more time than everybody else has, and for less.
#[tokio::test]
async fn a_request_may_take_as_long_as_was_asked_for() {
    let server = answering(ResponseTemplate::new(200).set_delay(Duration::from_millis(1_500))).await;
    let network = Network::new(&config("", TESTS, "sqlite://unused")).unwrap();
    let asked = async |limit: u64| {
        let request = Request { method: "POST", url: server.uri(), headers: vec![], body: None };
        network.tell(request, Duration::from_millis(limit)).await.map(|response| response.status)
    };
    assert_eq!(asked(20_000).await, Ok(200), "delivery.timeout is a second");
    assert_eq!(asked(100).await, Err(SendError("no answer in time".into())));
}

// A partner's own server may be slower than others, and want fewer requests.
#[tokio::test]
async fn a_partners_server_has_its_own_time_and_pace() {
    let server = answering(ResponseTemplate::new(200).set_delay(Duration::from_millis(1_500))).await;
    let fhir =
        |more: &str| partner("clinic", "\"source\"", &format!("fhir = {{ base = \"{}\", {more} }}", server.uri()));
    let ask = async |config: &Config, network: &Network| {
        let request = Request { method: "GET", url: server.uri(), headers: vec![], body: None };
        network.ask(&config.partners[0], request).await.map(|response| response.status)
    };
    let patient = config(&fhir("timeout = \"10s\""), TESTS, "sqlite://unused");
    assert_eq!(ask(&patient, &Network::new(&patient).unwrap()).await, Ok(200), "delivery.timeout is a second");
    let usual = config(&fhir("follow = \"poll\""), TESTS, "sqlite://unused");
    assert_eq!(ask(&usual, &Network::new(&usual).unwrap()).await, Err(SendError("no answer in time".into())));
    server.reset().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let paced = config(&fhir("requests_per_minute = 600"), TESTS, "sqlite://unused");
    let (network, start) = (Network::new(&paced).unwrap(), std::time::Instant::now());
    for _ in 0..5 {
        assert_eq!(ask(&paced, &network).await, Ok(200));
    }
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

// S-165
#[tokio::test]
async fn a_redirect_is_an_answer_and_no_way_to_go() {
    let secret = answering(ResponseTemplate::new(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let server = answering(ResponseTemplate::new(status).insert_header("location", secret.uri())).await;
        assert_eq!(ask(server.uri(), TESTS).await, Ok(status));
    }
    assert!(secret.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn nobody_there_is_no_connection() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = ask(format!("http://{free}/fhir"), TESTS).await;
    assert_eq!(asked, Err(SendError("no connection".into())));
}

// S-165
// Who resolves to this machine is not asked, by address or by name.
#[tokio::test]
async fn an_address_inside_is_never_dialled() {
    let server = answering(ResponseTemplate::new(200)).await;
    let port = server.address().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "localhost."] {
        assert!(ask(format!("http://{host}:{port}/fhir"), "public_only").await.is_err(), "{host}");
    }
    assert!(server.received_requests().await.unwrap().is_empty());
}

// D2, D6: what lies outside the partner's base is never asked for, and its token goes nowhere else.
#[tokio::test]
async fn a_token_stays_at_its_partners_base() {
    let (ehr, evil) = (answering(ResponseTemplate::new(404)).await, answering(ResponseTemplate::new(200)).await);
    let place = Place::sqlite();
    let fhir = format!(
        "fhir = {{ base = \"{}/fhir\", follow = \"poll\", poll_every = \"1h\", auth = {{ kind = \"bearer\", token = \"hush\" }} }}",
        ehr.uri()
    );
    let config = config(&partner("clinic", "\"source\"", &fhir), TESTS, place.url());
    let network = Arc::new(Network::new(&config).unwrap());
    let gateway = Gateway::open_with(config, place.clock.clone(), network).await.unwrap();
    let post = async |focus: String| {
        let task = loopgate::demo::patient::referral_task(
            None,
            &focus,
            &format!("{}/fhir/PractitionerRole/1", ehr.uri()),
            &format!("{}/Patient/1", evil.uri()),
            Some("Organization/hub"),
            "2027-01-15T08:00:00Z",
        );
        let request = axum::http::Request::post("/fhir/Task")
            .header("authorization", "Bearer clinic")
            .header("content-type", "application/fhir+json")
            .body(axum::body::Body::from(task.to_string()))
            .unwrap();
        tower::ServiceExt::oneshot(gateway.router(), request).await.unwrap().status().as_u16()
    };
    for focus in [
        format!("{}/fhir/ServiceRequest/1", evil.uri()),
        format!("{}/other/ServiceRequest/1", ehr.uri()),
        format!("{}/fhir/../admin/ServiceRequest/1", ehr.uri()),
        format!("{}/fhir/ServiceRequest/1", ehr.uri()),
    ] {
        assert!([201, 400, 422].contains(&post(focus).await));
        gateway.worker.deliver_due().await.unwrap();
    }
    assert!(evil.received_requests().await.unwrap().is_empty());
    let asked = ehr.received_requests().await.unwrap();
    assert!(!asked.is_empty());
    for request in asked {
        assert!(request.url.path().starts_with("/fhir/"), "{}", request.url);
        assert_eq!(request.headers["authorization"], "Bearer hush", "{}", json!(request.url.path()));
    }
}
