//! How often somebody may ask: each partner, each address before anybody is known, and for tokens.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use loopgate::http::ClientAddress;
use serde_json::Value;
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::{Answered, TestGateway, county};

/// A county with these limits.
async fn limited(settings: &str) -> (TestGateway, axum::Router) {
    let county = TestGateway::with(Place::sqlite(), &format!("{settings}\n{}", county())).await;
    let router = county.gateway.router();
    (county, router)
}

/// A request from this address, as the listener hands it on.
async fn from(router: &axum::Router, address: &str, request: axum::http::request::Builder) -> Answered {
    let mut request = request.body(Body::from("grant_type=client_credentials")).unwrap();
    request.extensions_mut().insert(ClientAddress(address.parse().unwrap()));
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answered { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
}

fn task(token: &str) -> axum::http::request::Builder {
    Request::get("/fhir/Task").header("authorization", format!("Bearer {token}"))
}

// OWASP API4: whoever guesses, or just asks without end, is told to wait; before anything is looked up.
#[tokio::test]
async fn an_address_may_ask_so_often_whoever_it_says_it_is() {
    let (county, router) = limited("[limits]\nrequests_per_minute_by_address = 4").await;
    for token in ["nobody", "clinic", "nobody", "agency"] {
        let answer = from(&router, "192.0.2.1", task(token)).await;
        assert_eq!(answer.status, if token == "nobody" { 401 } else { 200 });
    }
    let refused = from(&router, "192.0.2.1", task("clinic")).await;
    assert_eq!((refused.status, &refused.body["issue"][0]["code"]), (429, &Value::from("throttled")));
    let wait: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Neither another path nor a header makes it somebody else.
    for path in ["/", "/nowhere", "/hooks/clinic", "/auth/token", "/auth/jwks", "/fhir/.well-known/smart-configuration"]
    {
        let request = Request::get(path).header("x-forwarded-for", "192.0.2.9").header("x-real-ip", "192.0.2.9");
        assert_eq!(from(&router, "192.0.2.1", request).await.status, 429, "{path}");
    }
    for path in ["/health/live", "/health/ready", "/fhir/metadata"] {
        assert_eq!(from(&router, "192.0.2.1", Request::get(path)).await.status, 200, "{path}");
    }
    assert_eq!(from(&router, "192.0.2.2", task("clinic")).await.status, 200, "others have their own");
    county.clock.advance(Duration::from_secs(wait));
    assert_eq!(from(&router, "192.0.2.1", task("clinic")).await.status, 200);
}

#[tokio::test]
async fn behind_a_proxy_of_ours_its_clients_are_told_apart() {
    let settings = "trusted_proxies = [\"10.0.0.1\"]\n[limits]\nrequests_per_minute_by_address = 1";
    let (_county, router) = limited(settings).await;
    let ask = async |through: &str, client: &str| {
        from(&router, through, task("clinic").header("x-forwarded-for", client)).await.status
    };
    assert_eq!([ask("10.0.0.1", "192.0.2.1").await, ask("10.0.0.1", "192.0.2.1").await], [200, 429]);
    assert_eq!(ask("10.0.0.1", "192.0.2.2").await, 200);
    // Who is no proxy of ours can say what it likes.
    assert_eq!([ask("192.0.2.3", "192.0.2.4").await, ask("192.0.2.3", "192.0.2.5").await], [200, 429]);
}

// and OAuth's clients are told so in OAuth's words.
#[tokio::test]
async fn tokens_are_asked_for_so_often() {
    let (county, router) = limited("[limits]\ntoken_requests_per_minute = 2").await;
    let ask = async |address: &str| {
        let request = Request::post("/auth/token").header("content-type", "application/x-www-form-urlencoded");
        from(&router, address, request).await
    };
    for _ in 0..2 {
        let answer = ask("192.0.2.1").await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &Value::from("invalid_client")));
    }
    let refused = ask("192.0.2.1").await;
    assert_eq!((refused.status, &refused.body["error"]), (429, &Value::from("temporarily_unavailable")));
    assert_eq!(refused.headers["cache-control"], "no-store");
    let wait: u64 = refused.headers["retry-after"].parse().unwrap();
    assert_eq!(ask("192.0.2.2").await.status, 400, "others have their own");
    assert_eq!(from(&router, "192.0.2.1", task("clinic")).await.status, 200, "other requests go on");
    county.clock.advance(Duration::from_secs(wait));
    assert_eq!(ask("192.0.2.1").await.status, 400);
}

// Introspection and revocation cost their partner what any other request does.
#[tokio::test]
async fn asking_about_tokens_costs_a_request() {
    let (_county, router) = limited("[limits]\nrequests_per_minute = 2").await;
    let ask = async |path: &str| {
        let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        from(&router, "192.0.2.1", request.header("authorization", "Bearer clinic")).await.status
    };
    assert_eq!(
        [ask("/auth/introspect").await, ask("/auth/revoke").await, ask("/auth/introspect").await],
        [400, 400, 429]
    );
    assert_eq!(from(&router, "192.0.2.1", task("clinic")).await.status, 429);
}
