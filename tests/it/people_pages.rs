//! Signing in as a browser sees it: pages, cookies, forms, and what other people's pages can't make it do.

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use loopgate::config::PersonRole;
use serde_json::json;
use tower::ServiceExt;

use crate::databases::Place;
use crate::gateway::{TestGateway, county};
use crate::people::{PASSWORD, User, signs_in};

/// What came back.
pub struct Seen {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
    /// The value that a cookie was set to.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let all = self.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
        all.filter_map(|line| line.split(';').next()?.split_once('='))
            .find(|(its, _)| *its == name)
            .map(|(_, value)| value.to_string())
    }
}

/// One request, as a browser on our own page sends it, but for these headers.
pub async fn browse(
    county: &TestGateway,
    method: &str,
    path: &str,
    form: &[(&str, &str)],
    headers: &[(&str, &str)],
) -> Seen {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let body: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let mut request = Request::builder().method(method).uri(path);
    if headers.iter().all(|(name, _)| *name != "content-type") {
        request = request.header("content-type", "application/x-www-form-urlencoded");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = county.gateway.router().oneshot(request.body(Body::from(body.join("&"))).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Seen { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

const OURS: (&str, &str) = ("origin", "https://hub.test");

/// The cookie's line, and the token in the form of the page that one then sees.
async fn home(county: &TestGateway, cookie: &str) -> (String, String) {
    let line = format!("__Host-loopgate={cookie}");
    let seen = browse(county, "GET", "/", &[], &[("cookie", &line)]).await;
    let token = seen.text.split("name=\"token\" value=\"").nth(1).map_or("", |rest| rest.split('"').next().unwrap());
    (line, token.to_string())
}

//
#[tokio::test]
async fn a_person_signs_in_sees_who_it_is_and_signs_out() {
    let county = TestGateway::with(Place::sqlite(), &county()).await;
    let ben = User::add(&county, "ben", PersonRole::Staff("kitchen".into())).await;
    county.clock.advance(std::time::Duration::from_secs(60));
    let page = browse(&county, "GET", "/sign-in?return_to=/fhir/metadata", &[], &[]).await;
    assert!(page.status == 200 && page.text.contains("value=\"/fhir/metadata\""), "{}", page.text);
    let code = ben.code(&county.clock);
    let form = [("name", "ben"), ("password", PASSWORD), ("code", &code), ("return_to", "/fhir/metadata")];
    let seen = browse(&county, "POST", "/sign-in", &form, &[OURS]).await;
    assert_eq!((seen.status, seen.header("location")), (303, "/fhir/metadata"));
    let cookie = seen.cookie("__Host-loopgate").unwrap();
    let line = seen.header("set-cookie");
    assert_eq!(line, format!("__Host-loopgate={cookie}; Path=/; HttpOnly; SameSite=Lax; Secure"));
    assert!(cookie.len() == 64 && !seen.text.contains(&cookie));
    let (line, token) = home(&county, &cookie).await;
    let page = browse(&county, "GET", "/", &[], &[("cookie", &line)]).await;
    assert!(page.text.contains("<dd>ben</dd>") && page.text.contains("<dd>Staff of kitchen</dd>"), "{}", page.text);
    assert!(!page.text.contains(&cookie), "what the cookie holds is on no page");
    // The same session at the FHIR base, as its partner.
    let with = [("cookie", line.as_str()), ("x-csrf-token", &token), OURS];
    assert_eq!(browse(&county, "GET", "/fhir/Organization/kitchen", &[], &with).await.status, 200);
    let out = browse(&county, "POST", "/sign-out", &[("token", &token)], &[("cookie", &line), OURS]).await;
    assert_eq!((out.status, out.cookie("__Host-loopgate").as_deref()), (200, Some("")));
    assert!(out.header("set-cookie").contains("Max-Age=0") && out.text.contains("You are signed out"));
    // Whoever took a copy of the cookie has nothing.
    assert_eq!(browse(&county, "GET", "/fhir/Organization/kitchen", &[], &with).await.status, 401);
    assert!(browse(&county, "GET", "/", &[], &[("cookie", &line)]).await.text.contains("Welcome"));
    assert_eq!(browse(&county, "POST", "/sign-out", &[], &[("cookie", &line), OURS]).await.status, 200, "once more");
}

// What other people's pages send by somebody's browser changes nothing (CSRF).
#[tokio::test]
async fn nobody_elses_page_acts_for_a_person() {
    let county = TestGateway::with(Place::sqlite(), &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let cookie = signs_in(&county, &ana).await;
    let (line, token) = home(&county, &cookie).await;
    let with = ("cookie", line.as_str());
    let foreign = [
        &[][..],
        &[("origin", "https://evil.test")],
        &[("origin", "null")],
        &[OURS, ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
    ];
    for headers in foreign {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([with]).collect();
        let seen = browse(&county, "POST", "/sign-out", &[("token", &token)], &all).await;
        assert_eq!((seen.status, seen.cookie("__Host-loopgate")), (403, None), "{headers:?}");
        let form = [("name", "ana"), ("password", PASSWORD), ("code", "000000")];
        assert_eq!(
            browse(&county, "POST", "/sign-in", &form, &all).await.status,
            403,
            "signing in by force, {headers:?}"
        );
        let all: Vec<(&str, &str)> = all.iter().copied().chain([("x-csrf-token", token.as_str())]).collect();
        assert_eq!(browse(&county, "GET", "/fhir/Organization/hub", &[], &all).await.status, 401, "{headers:?}");
    }
    for wrong in ["", "x", &"0".repeat(64), &cookie] {
        assert_eq!(browse(&county, "POST", "/sign-out", &[("token", wrong)], &[with, OURS]).await.status, 403);
        let headers = [with, OURS, ("x-csrf-token", wrong)];
        assert_eq!(browse(&county, "GET", "/fhir/Organization/hub", &[], &headers).await.status, 401);
    }
    // Neither the cookie by itself, nor the token by itself, nor a cookie beside a header that is no token.
    let ours = [OURS, with];
    assert_eq!(browse(&county, "GET", "/fhir/Organization/hub", &[], &ours).await.status, 401);
    assert_eq!(
        browse(&county, "GET", "/fhir/Organization/hub", &[], &[OURS, ("x-csrf-token", &token)]).await.status,
        401
    );
    let all = [OURS, with, ("x-csrf-token", token.as_str()), ("authorization", "Basic x")];
    assert_eq!(browse(&county, "GET", "/fhir/Organization/hub", &[], &all).await.status, 401);
    assert_eq!(browse(&county, "GET", "/sign-out", &[], &ours).await.status, 405);
    assert!(county.gateway.app.session(&cookie).await.unwrap().is_some(), "still signed in");
}

#[tokio::test]
async fn what_was_wrong_is_not_to_be_seen() {
    let county = TestGateway::with(Place::sqlite(), &county()).await;
    User::add(&county, "ana", PersonRole::Coordinator).await;
    let mut said = Vec::new();
    for (name, password, code) in [
        ("ana", "wrong horse battery", "000000"),
        ("ana", PASSWORD, "000000"),
        ("nobody", PASSWORD, "000000"),
        ("<b>", "", ""),
    ] {
        let form = [("name", name), ("password", password), ("code", code), ("return_to", "https://evil.test")];
        let seen = browse(&county, "POST", "/sign-in", &form, &[OURS]).await;
        assert_eq!((seen.status, seen.cookie("__Host-loopgate")), (403, None));
        assert!(!seen.text.contains(PASSWORD) && !seen.text.contains("evil") && !seen.text.contains("<b>"));
        said.push(seen.text);
    }
    assert!(said.iter().all(|one| *one == said[0]), "the same to the byte");
}

// A way out of this site by the address one is sent back to; a session that somebody else knows.
#[tokio::test]
async fn one_is_sent_nowhere_else_and_gets_a_session_of_ones_own() {
    let county = TestGateway::with(Place::sqlite(), &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let planted = format!("__Host-loopgate={}", "a".repeat(64));
    for evil in ["https://evil.test", "//evil.test", "/\\evil.test", "/a\r\nx: y", "javascript:alert(1)"] {
        county.clock.advance(std::time::Duration::from_secs(60));
        let code = ana.code(&county.clock);
        let form = [("name", "ana"), ("password", PASSWORD), ("code", &code), ("return_to", evil)];
        let seen = browse(&county, "POST", "/sign-in", &form, &[OURS, ("cookie", &planted)]).await;
        assert_eq!((seen.status, seen.header("location")), (303, "/"), "{evil}");
        assert_ne!(seen.cookie("__Host-loopgate").unwrap(), "a".repeat(64));
        let asked: String = evil.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let page = browse(&county, "GET", &format!("/sign-in?return_to={asked}"), &[], &[]).await;
        assert!(page.text.contains("name=\"return_to\" value=\"\""), "{evil}");
    }
}

#[tokio::test]
async fn every_page_keeps_to_itself() {
    let county = TestGateway::with(Place::sqlite(), &county()).await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let cookie = format!("__Host-loopgate={}", signs_in(&county, &ana).await);
    for (method, path, headers, status) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/", &[("cookie", cookie.as_str())], 200),
        ("GET", "/sign-in", &[], 200),
        ("HEAD", "/sign-in", &[], 200),
        ("POST", "/sign-in", &[OURS], 403),
        ("POST", "/sign-in", &[], 403),
        ("POST", "/sign-in", &[OURS, ("content-type", "text/plain")], 400),
        ("GET", "/sign-in?return_to=a&return_to=b", &[], 400),
        ("POST", "/sign-out", &[OURS], 200),
    ] {
        let seen = browse(&county, method, path, &[], headers).await;
        assert_eq!(seen.status, status, "{method} {path}: {}", seen.text);
        let policy = seen.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "style-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert_eq!(
            policy.matches("unsafe").count()
                + seen.text.matches("<script").count()
                + seen.text.matches(" style=").count(),
            0
        );
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("content-type", "text/html; charset=utf-8"),
            ("strict-transport-security", "max-age=31536000"),
        ] {
            assert_eq!(seen.header(name), value, "{method} {path} {name}");
        }
    }
    let style = browse(&county, "GET", "/people.css", &[], &[]).await;
    assert_eq!((style.status, style.header("content-type")), (200, "text/css; charset=utf-8"));
}

/// what a person does is on record with the person's name, and people have no Subscriptions.
#[tokio::test]
async fn what_a_person_does_is_on_record_by_name() {
    let county = TestGateway::county().await;
    let ana = User::add(&county, "ana", PersonRole::Coordinator).await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    let cookie = signs_in(&county, &ana).await;
    let (_, token) = home(&county, &cookie).await;
    county.sessions.lock().unwrap().insert("ana".into(), (cookie, token));
    assert_eq!(county.get("ana", &format!("Task/{task}")).await.status, 200);
    let events = county.get("root", "AuditEvent?agent=Organization/hub&action=R").await;
    let read = events
        .entries()
        .into_iter()
        .find(|event| event.to_string().contains(&format!("Task/{task}/")) && event.to_string().contains("\"ana\""));
    let read = read.unwrap_or_else(|| panic!("{}", events.body));
    let agent = read["agent"].as_array().unwrap().iter().find(|agent| agent["requestor"] == true).unwrap();
    assert_eq!(
        (&agent["who"]["identifier"]["value"], &agent["type"]["coding"][0]["code"]),
        (&json!("ana"), &json!("IRCP"))
    );
    let subscription = crate::notifications::subscription("https://ehr.test/hook");
    assert_eq!(county.post("ana", "Subscription", &subscription).await.status, 403);
}

/// The roles of our own organization: what each may look at, and what it may not.
#[tokio::test]
async fn each_role_sees_its_own() {
    let county = TestGateway::county().await;
    let task = county.refers("sr1", "food-insecurity").await;
    county.deliver_due().await;
    for (name, role, reads_tasks, reads_record, has_metrics) in [
        ("ana", PersonRole::Coordinator, 200, 403, 403),
        ("ben", PersonRole::Administrator, 200, 200, 200),
        ("eva", PersonRole::Auditor, 403, 200, 403),
        ("kim", PersonRole::Staff("kitchen".into()), 404, 403, 403),
    ] {
        let user = User::add(&county, name, role).await;
        let cookie = signs_in(&county, &user).await;
        let (line, token) = home(&county, &cookie).await;
        let with = [("cookie", line.as_str()), ("x-csrf-token", &token), OURS];
        let status = async |path: &str| browse(&county, "GET", path, &[], &with).await.status;
        let read =
            (status(&format!("/fhir/Task/{task}")).await, status("/fhir/AuditEvent").await, status("/metrics").await);
        assert_eq!(read, (reads_tasks, reads_record, has_metrics), "{name}");
    }
}
