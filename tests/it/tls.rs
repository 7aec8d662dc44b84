//! TLS: the gateway's own listener, 1.2 and 1.3, and client certificates where a CA for them is configured (G-180); and
//! our own certificate at partners' servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use loopgate::config::Config;
use loopgate::delivery::{Network, Request, SendError, Transport};
use loopgate::gateway::Gateway;
use loopgate::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::databases::Place;
use crate::gateway::partner;

const CERTIFICATE: &[u8] = include_bytes!("keys/hub.pem");
const NEXT: &[u8] = include_bytes!("keys/next.pem");
const CLIENT: &[u8] = include_bytes!("keys/client.pem");
const OTHER: &[u8] = include_bytes!("keys/other.pem");
/// Valid for ehr.clinic.test.
const NAMED: &[u8] = include_bytes!("keys/named.pem");
/// For URIs and IP addresses.
const ADDRESSED: &[u8] = include_bytes!("keys/addressed.pem");

/// Where the keys of the tests are.
fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys")
}

/// Serves over TLS; answers the address and the switch that stops it.
pub async fn serve(place: &Place, more: &str) -> (String, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    serve_for(place, &keys(), more, "").await
}

/// The same with the keys of this folder, and for these partners.
async fn serve_for(
    place: &Place,
    keys: &Path,
    more: &str,
    partners: &str,
) -> (String, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let text = format!(
        "[server]\npublic_url = \"https://localhost\"\ntls = {{ cert = \"hub.pem\", key = \"hub.key\"{more} }}\n\
         [gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n[store]\nurl = \"{}\"\n{partners}",
        place.url()
    );
    let config = Config::parse(&text, keys).unwrap();
    let network = Arc::new(Network::new(&config).unwrap());
    let gateway = Gateway::open_with(config, Clock::system(), network).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(async move { gateway.serve(listener, stopped).await.unwrap() });
    (url, stop, serving)
}

fn client() -> reqwest::ClientBuilder {
    trusting(CERTIFICATE)
}

fn trusting(certificate: &[u8]) -> reqwest::ClientBuilder {
    let trusted = reqwest::Certificate::from_pem(certificate).unwrap();
    reqwest::Client::builder().tls_certs_only([trusted]).no_proxy()
}

// R-014, G-181: who speaks 1.3 alone is served.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_speaks_tls_itself_and_stops_when_told() {
    let place = Place::sqlite();
    let (url, stop, serving) = serve(&place, "").await;
    let answer = client().build().unwrap().get(format!("{url}/fhir/metadata")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.headers().contains_key("date"), "R-014");
    let newest = client().min_tls_version(reqwest::tls::Version::TLS_1_3).build().unwrap();
    assert_eq!(newest.get(format!("{url}/fhir/metadata")).send().await.unwrap().status().as_u16(), 200);
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(plain.get(url.replace("https", "http")).send().await.is_err());
    let stranger = plain.get(format!("{url}/fhir/metadata")).send().await;
    assert!(stranger.is_err(), "a certificate nobody vouches for was taken");
    stop.send(true).unwrap();
    serving.await.unwrap();
}

/// A ClientHello without TLS 1.3, of this version at most.
fn hello(version: u8) -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],        // groups: P-256
        &[0, 11, 0, 2, 1, 0],                   // point formats: uncompressed
        &[0, 13, 0, 8, 0, 6, 4, 3, 4, 1, 8, 4], // signatures: ECDSA and RSA with SHA-256
    ]
    .concat();
    let mut body = vec![0x03, version];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    [&[0x16, 0x03, 0x01, 0, length + 4, 0x01, 0, 0, length][..], &body].concat()
}

/// G-180: whoever speaks TLS 1.1 at most gets an alert where TLS 1.2 gets a ServerHello.
///
/// M-2.01, U-1.01
/// G-178
#[tokio::test(flavor = "multi_thread")]
async fn older_versions_of_tls_are_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const HANDSHAKE: u8 = 0x16;
    const ALERT: u8 = 0x15;
    let place = Place::sqlite();
    let (url, stop, serving) = serve(&place, "").await;
    let address = url.strip_prefix("https://").unwrap().replace("localhost", "127.0.0.1");
    for (version, answer) in [(3, HANDSHAKE), (2, ALERT), (1, ALERT)] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(&hello(version)).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), answer, "TLS 1.{}", i16::from(version) - 1);
    }
    stop.send(true).unwrap();
    serving.await.unwrap();
}

// G-182
//
#[tokio::test(flavor = "multi_thread")]
async fn with_a_client_ca_only_its_certificates_get_in() {
    let place = Place::sqlite();
    let (url, stop, serving) = serve(&place, ", client_ca = \"partners.pem\"").await;
    let nobody = client().build().unwrap().get(format!("{url}/fhir/metadata")).send().await;
    assert!(nobody.is_err(), "a client without a certificate was let in");
    let identity = reqwest::Identity::from_pem(CLIENT).unwrap();
    let known = client().identity(identity).build().unwrap().get(format!("{url}/fhir/metadata")).send().await;
    assert_eq!(known.unwrap().status().as_u16(), 200);
    stop.send(true).unwrap();
    serving.await.unwrap();
}

/// Two partners with servers that ask for certificates: one is shown ours.
fn partners(base: &str, tls: &str) -> Config {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys");
    let text = format!(
        "[server]\npublic_url = \"https://hub.test\"\n[gateway]\norganization = {{ id = \"hub\", name = \"Hub\" }}\n\
         [store]\nurl = \"sqlite://unused\"\n[delivery]\npartner_addresses = \"allow_private_for_tests_only\"\n\
         [[partner]]\nid = \"known\"\nname = \"Known\"\nroles = [\"source\"]\nfhir = {{ base = \"{base}/fhir\", {tls} }}\n\
         [[partner]]\nid = \"other\"\nname = \"Other\"\nroles = [\"source\"]\nfhir = {{ base = \"{base}/elsewhere\" }}\n"
    );
    Config::parse(&text, &keys).unwrap()
}

// G-182, S-166: our certificate is for the partner's own server; nobody else, not even a subscriber whose endpoint is
// there, has us show it.
#[tokio::test(flavor = "multi_thread")]
async fn a_partners_server_is_shown_our_certificate() {
    let place = Place::sqlite();
    let (url, stop, serving) = serve(&place, ", client_ca = \"partners.pem\"").await;
    let url = url.replace("127.0.0.1", "localhost");
    let config = partners(&url, "tls = { cert = \"client.pem\", key = \"client.pem\", ca = \"hub.pem\" }");
    let network = Network::new(&config).unwrap();
    let request = || Request { method: "GET", url: format!("{url}/fhir/metadata"), headers: vec![], body: None };
    let known = network.ask(&config.partners[0], request()).await;
    assert_eq!(known.map(|answer| answer.status), Ok(200));
    let nothing = Err(SendError("its certificate is not valid".into()));
    assert_eq!(network.ask(&config.partners[1], request()).await, nothing);
    assert_eq!(network.tell(request(), std::time::Duration::from_secs(5)).await, nothing);
    assert_eq!(network.send(request()).await, nothing);
    // Without an authority of its own the server's certificate is nobody's, whatever we show.
    let config = partners(&url, "tls = { cert = \"client.pem\", key = \"client.pem\" }");
    assert_eq!(Network::new(&config).unwrap().ask(&config.partners[0], request()).await, nothing);
    stop.send(true).unwrap();
    serving.await.unwrap();
    // Another's key: seen at the start, and said whose it is.
    let config = partners(&url, "tls = { cert = \"client.pem\", key = \"hub.key\" }");
    let error = Network::new(&config).unwrap_err();
    assert!(error.cause.as_deref().unwrap_or("").starts_with("partner known: fhir.tls"), "{error:?}");
}

// a certificate is its partner's, and no header speaks for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_bound_to_a_partner_is_nobody_elses() {
    let place = Place::sqlite();
    let partners = [
        // As openssl prints it.
        partner(
            "clinic",
            "\"source\"",
            "certificates = [\"B9:53:D9:11:23:46:4F:FC:17:43:A0:67:D3:54:F7:2D:B4:5F:1E:43:D2:81:8F:B3:FB:E7:84:61:07:99:C8:C0\"]",
        ),
        partner("hospital", "\"source\"", ""),
        partner("ehr", "\"source\"", "certificates = [\"dns:ehr.clinic.test\"]"),
        partner("lab", "\"source\"", "certificates = [\"dns:lab.clinic.test\"]"),
        partner("ward", "\"source\"", "certificates = [\"uri:spiffe://clinic.test/ehr\"]"),
        partner("wards", "\"source\"", "certificates = [\"uri:spiffe://clinic.test/eh\", \"dns:clinic.test\"]"),
        partner("desk", "\"source\"", "certificates = [\"ip:2001:db8::7\"]"),
        partner("desks", "\"source\"", "certificates = [\"ip:192.0.2.8\"]"),
    ]
    .concat();
    let (url, stop, serving) = serve_for(&place, &keys(), ", client_ca = \"partners.pem\"", &partners).await;
    let ask = async |shown: &[u8], token: &str| {
        let identity = reqwest::Identity::from_pem(shown).unwrap();
        let client = client().identity(identity).build().unwrap();
        let asked = client.get(format!("{url}/fhir/Task")).header("authorization", format!("Bearer {token}"));
        let asked = asked.header("x-client-cert", "clinic").header("x-ssl-client-verify", "SUCCESS");
        asked.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(CLIENT, "clinic").await, 200);
    assert_eq!(ask(OTHER, "clinic").await, 401, "with somebody else's certificate");
    assert_eq!(ask(CLIENT, "hospital").await, 401, "with the clinic's certificate");
    assert_eq!(ask(OTHER, "hospital").await, 200, "to whom none is bound");
    // By a name that the certificate is valid for.
    assert_eq!(ask(NAMED, "ehr").await, 200);
    // Or an address: it is two partners' here, by another name each.
    for (token, status) in
        [("ward", 200), ("desk", 200), ("wards", 401), ("desks", 401), ("ehr", 401), ("hospital", 401)]
    {
        assert_eq!(ask(ADDRESSED, token).await, status, "{token}");
    }
    for (shown, token) in [(OTHER, "ehr"), (CLIENT, "ehr"), (NAMED, "lab"), (NAMED, "hospital"), (NAMED, "clinic")] {
        assert_eq!(ask(shown, token).await, 401, "{token}");
    }
    stop.send(true).unwrap();
    serving.await.unwrap();
}

// Certificates are read again while the gateway runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart() {
    let (place, folder) = (Place::sqlite(), tempfile::tempdir().unwrap());
    let put = |from: &str, to: &str| std::fs::copy(keys().join(from), folder.path().join(to)).unwrap();
    put("hub.pem", "hub.pem");
    put("hub.key", "hub.key");
    let (url, stop, serving) = serve_for(&place, folder.path(), "", "").await;
    let served = async |certificate: &[u8]| {
        trusting(certificate).build().unwrap().get(format!("{url}/fhir/metadata")).send().await.is_ok()
    };
    assert!(served(CERTIFICATE).await && !served(NEXT).await);
    put("next.pem", "hub.pem");
    put("next.key", "hub.key");
    let taken = async {
        while !served(NEXT).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.expect("the new certificate is served");
    assert!(!served(CERTIFICATE).await);
    stop.send(true).unwrap();
    serving.await.unwrap();
}
