//! The door for people: signing in and out, and a page that says who one is. The console's pages come in a later version.
//!
//! A session is in one cookie that no script reads, bound to this host (`__Host-`); over plain http, which is for a
//! gateway on one's own machine alone, it has neither that name nor `Secure`, and on any other host nobody signs in.
//! Promises that nothing changes by a request that none of our own pages sent, that no page is kept on the way or shown
//! in another's frame, and that one is sent nowhere but within this site. Leaves out who may sign in, which is the app's.
//! <https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html>

mod pages;

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, COOKIE, HeaderName, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, Method};
use axum::response::Response;

use super::door::Page;
use super::{oauth, query, respond};
use crate::app::people::accounts::SignIn;
use crate::app::people::{Back, Session, Visit};
use crate::app::{App, Identity};
use crate::error::{Error, Kind};
use pages::Site;

/// Where a page may load from and send to: this site alone, and no script at all.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// What a page of a session sends with each request to the FHIR base: the form's token.
const TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");
/// Longest address that one is sent back to.
const LONGEST: usize = 512;
/// Seconds that a person may be away at the identity provider.
const AWAY: u32 = 600;
const HTML: &str = "text/html; charset=utf-8";

/// What a browser must know us by.
struct Host {
    /// As browsers send it.
    origin: String,
    /// The path of the public URL.
    prefix: String,
    /// Whether we are reached by https.
    secure: bool,
    /// Whether people may sign in.
    open: bool,
}

impl Host {
    fn of(app: &App) -> Host {
        Host::at(&app.config().server.public_url)
    }

    fn at(url: &str) -> Host {
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let secure = scheme == "https";
        let authority = authority.to_ascii_lowercase();
        let port = if secure { ":443" } else { ":80" };
        let authority = authority.strip_suffix(port).unwrap_or(&authority);
        let here = ["localhost", "127.0.0.1", "[::1]"];
        let own = here
            .iter()
            .any(|name| authority.strip_prefix(name).is_some_and(|port| port.is_empty() || port.starts_with(':')));
        let prefix = if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
        Host { origin: format!("{scheme}://{authority}"), prefix, secure, open: secure || own }
    }

    fn cookie_name(&self) -> &'static str {
        if self.secure { "__Host-loopgate" } else { "loopgate" }
    }

    /// The cookie of a sign-in that has gone to the identity provider.
    fn sign_in_name(&self) -> &'static str {
        if self.secure { "__Host-loopgate-sign-in" } else { "loopgate-sign-in" }
    }

    /// The cookie of this name; two of them are none.
    fn shown(&self, headers: &HeaderMap, name: &str) -> Option<String> {
        let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut found = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value);
        let (first, None) = (found.next()?, found.next()) else { return None };
        Some(first.to_string())
    }

    fn set_cookie(&self, name: &str, value: &str, seconds: Option<u32>) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        let age = seconds.map_or(String::new(), |seconds| format!("; Max-Age={seconds}"));
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}")
    }

    /// Whether one of our own pages sent this. Browsers say so, and nobody else's page can (CSRF).
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let only = |name: HeaderName| {
            let mut all = headers.get_all(name).into_iter();
            (all.next().map(|value| value.as_bytes().to_vec()), all.next().is_none())
        };
        let ((origin, one), (site, alone)) = (only(ORIGIN), only(HeaderName::from_static("sec-fetch-site")));
        let ours = origin.as_ref().is_none_or(|origin| *origin == self.origin.as_bytes());
        let near = site.as_ref().is_none_or(|site| site == b"same-origin");
        (origin.is_some() || site.is_some()) && ours && near && one && alone
    }
}

/// Who holds the session whose cookie is shown with a request that our own page sent with its token; for the FHIR base.
pub(super) async fn identity(app: &App, headers: &HeaderMap) -> Result<Option<Identity>, Error> {
    let host = Host::of(app);
    let token = headers.get(TOKEN).map(|token| token.as_bytes().to_vec());
    let (Some(cookie), Some(token)) = (host.shown(headers, host.cookie_name()), token) else { return Ok(None) };
    if !host.open || !host.is_own_page(headers) {
        return Ok(None);
    }
    let session = app.session(&cookie).await?;
    Ok(session.filter(|session| is_token(session, &token)).map(|session| session.identity))
}

fn is_token(session: &Session, shown: &[u8]) -> bool {
    verify_slices_are_equal(session.form_token.as_bytes(), shown).is_ok()
}

/// Answers with a page, whatever comes.
pub(super) async fn answer(
    app: &App,
    page: Page,
    request: Request,
    address: Option<IpAddr>,
    allowed: Result<(), Error>,
    id: &str,
) -> Response {
    let host = Host::of(app);
    let site = Site { name: &app.config().gateway.name, prefix: &host.prefix };
    let cookie = host.shown(request.headers(), host.cookie_name());
    let visit = Visit { request: id.to_string(), address, cookie };
    let opened = match allowed {
        Ok(()) => opened(app, &host, &site, page, request, &visit).await,
        Err(error) => Err(error),
    };
    let mut response = match opened {
        Ok(response) => response,
        Err(error) => {
            if let Some(cause) = &error.cause {
                tracing::error!(request = id, cause, "a page failed");
            }
            let mut response = respond::text(error.kind.status(), HTML, pages::fault(&site, error.text()));
            if let Some(seconds) = error.retry_after {
                respond::set(&mut response, RETRY_AFTER, &seconds.to_string());
            }
            response
        }
    };
    for (name, value) in [
        ("content-security-policy", POLICY),
        // Not no-referrer: then a form's Origin would be null.
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ] {
        respond::set(&mut response, HeaderName::from_static(name), value);
    }
    if host.secure {
        let name = HeaderName::from_static("strict-transport-security");
        respond::set(&mut response, name, "max-age=31536000");
    }
    if page != Page::Style {
        respond::set(&mut response, CACHE_CONTROL, "no-store");
    }
    response
}

async fn opened(
    app: &App,
    host: &Host,
    site: &Site<'_>,
    page: Page,
    request: Request,
    visit: &Visit,
) -> Result<Response, Error> {
    let headers = request.headers();
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    if !host.open && !matches!(page, Page::Home | Page::Style) {
        return Err(Error::forbidden("People sign in over https alone: server.public_url says http."));
    }
    match page {
        Page::Style => {
            let mut response = respond::text(200, "text/css; charset=utf-8", pages::STYLE.to_string());
            respond::set(&mut response, CACHE_CONTROL, "public, max-age=3600");
            Ok(response)
        }
        Page::Home => {
            let session = match &visit.cookie {
                Some(cookie) if host.open => app.session(cookie).await?,
                _ => None,
            };
            let body = match session {
                Some(session) => pages::home(site, &session),
                None => pages::landing(site, app.own(), host.open),
            };
            Ok(respond::text(200, HTML, body))
        }
        Page::SignIn if is_get => {
            let pairs = query::pairs(request.uri().query())?;
            let return_to = query::once(&pairs, "return_to")?.and_then(within).unwrap_or("");
            let body = match &app.config().people.provider {
                Some(_) => pages::at_provider(site, return_to),
                None => pages::sign_in(site, return_to, false),
            };
            Ok(respond::text(200, HTML, body))
        }
        Page::Provider => {
            let pairs = query::pairs(request.uri().query())?;
            let begun = app.begin_sign_in(query::once(&pairs, "return_to")?.and_then(within)).await?;
            let mut response = respond::empty(303);
            respond::set(&mut response, LOCATION, &begun.address);
            let cookie = host.set_cookie(host.sign_in_name(), &begun.cookie, Some(AWAY));
            respond::set(&mut response, SET_COOKIE, &cookie);
            Ok(response)
        }
        Page::Callback => {
            let pairs = query::pairs(request.uri().query())?;
            let (state, code) = (query::once(&pairs, "state")?, query::once(&pairs, "code")?);
            let cookie = host.shown(headers, host.sign_in_name());
            let back = Back { state, code, iss: query::once(&pairs, "iss")?, cookie };
            let arrived = app.finish_sign_in(&back, visit).await?;
            let mut response = signed_in(host, arrived.return_to.as_deref(), &arrived.cookie);
            let over = host.set_cookie(host.sign_in_name(), "", Some(0));
            if let Ok(over) = over.parse() {
                response.headers_mut().append(SET_COOKIE, over);
            }
            Ok(response)
        }
        Page::SignIn => {
            let form = form(host, request).await?;
            let value = |name: &str| form.iter().find(|(its, _)| its == name).map_or("", |(_, value)| value.as_str());
            let (name, password, code) = (value("name"), value("password"), value("code"));
            let typed = SignIn { name: name.into(), password: password.into(), code: code.into() };
            let return_to = within(value("return_to"));
            match app.sign_in(&typed, visit).await? {
                Some(cookie) => Ok(signed_in(host, return_to, &cookie)),
                None => Ok(respond::text(403, HTML, pages::sign_in(site, return_to.unwrap_or(""), true))),
            }
        }
        Page::SignOut => {
            let form = form(host, request).await?;
            let session = match &visit.cookie {
                Some(cookie) => app.session(cookie).await?,
                None => None,
            };
            if let Some(session) = session {
                let token = form.iter().find(|(name, _)| name == "token").map_or("", |(_, token)| token.as_str());
                if !is_token(&session, token.as_bytes()) {
                    return Err(foreign());
                }
                app.sign_out(visit).await?;
            }
            let mut response =
                respond::text(200, HTML, pages::signed_out(site, app.provider_sign_out().await.as_deref()));
            respond::set(&mut response, SET_COOKIE, &host.set_cookie(host.cookie_name(), "", Some(0)));
            Ok(response)
        }
    }
}

/// Sends a browser on with its new session.
fn signed_in(host: &Host, return_to: Option<&str>, cookie: &str) -> Response {
    let home = format!("{}/", host.prefix);
    let mut response = respond::empty(303);
    respond::set(&mut response, LOCATION, return_to.unwrap_or(&home));
    respond::set(&mut response, SET_COOKIE, &host.set_cookie(host.cookie_name(), cookie, None));
    response
}

/// What a form of ours was filled in with.
async fn form(host: &Host, request: Request) -> Result<Vec<(String, String)>, Error> {
    if !host.is_own_page(request.headers()) {
        return Err(foreign());
    }
    oauth::form(request)
        .await?
        .map_err(|refused| Error::malformed(format!("This form can't be read: {}.", refused.description)))
}

fn foreign() -> Error {
    let text = "This was not sent by a page of this site, or by one that is too old. Nothing was changed; go back and try again.";
    Error::new(Kind::Forbidden, text)
}

/// An address within this site, to be sent back to.
fn within(text: &str) -> Option<&str> {
    let fits = text.starts_with('/') && !text.starts_with("//") && text.len() <= LONGEST;
    (fits && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // API: an open redirect.
    #[test]
    fn one_is_sent_within_this_site_alone() {
        for good in ["/", "/fhir/metadata", "/a?b=c#d", "/a//b"] {
            assert_eq!(within(good), Some(good));
        }
        for bad in [
            "",
            "//evil.test",
            "https://evil.test",
            "/\\evil.test",
            "\\\\evil.test",
            "/a\r\nset-cookie: a=b",
            "/\t/evil.test",
            "javascript:x",
            " /",
            "evil",
            &format!("/{}", "x".repeat(600)),
        ] {
            assert_eq!(within(bad), None, "{bad}");
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_pages_are_ours() {
        let host = Host { origin: "https://hub.test".into(), prefix: String::new(), secure: true, open: true };
        for good in [
            &[("origin", "https://hub.test")][..],
            &[("sec-fetch-site", "same-origin")],
            &[("origin", "https://hub.test"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(host.is_own_page(&headers(good)), "{good:?}");
        }
        for bad in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "http://hub.test")],
            &[("origin", "https://hub.test.evil.test")],
            &[("origin", "https://hub.test"), ("origin", "https://evil.test")],
            &[("origin", "https://hub.test"), ("sec-fetch-site", "cross-site")],
            &[("origin", "https://evil.test"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("referer", "https://hub.test/")],
        ] {
            assert!(!host.is_own_page(&headers(bad)), "{bad:?}");
        }
    }

    #[test]
    fn without_tls_people_sign_in_on_their_own_machine_alone() {
        for (url, origin, prefix, secure, open) in [
            ("https://Hub.Test:443/a/b", "https://hub.test", "/a/b", true, true),
            ("https://hub.test:8443", "https://hub.test:8443", "", true, true),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "", false, true),
            ("http://localhost:80", "http://localhost", "", false, true),
            ("http://[::1]:8080", "http://[::1]:8080", "", false, true),
            ("http://hub.test", "http://hub.test", "", false, false),
            ("http://127.0.0.1.hub.test", "http://127.0.0.1.hub.test", "", false, false),
            ("http://localhost.hub.test", "http://localhost.hub.test", "", false, false),
        ] {
            let host = Host::at(url);
            assert_eq!(
                (host.origin.as_str(), host.prefix.as_str(), host.secure, host.open),
                (origin, prefix, secure, open)
            );
        }
        assert_eq!(
            Host::at("http://localhost").set_cookie("c", "v", Some(0)),
            "c=v; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        );
    }

    #[test]
    fn one_cookie_counts_and_two_do_not() {
        let host = Host { origin: String::new(), prefix: String::new(), secure: true, open: true };
        let shown = |pairs: &[(&'static str, &str)]| host.shown(&headers(pairs), host.cookie_name());
        assert_eq!(shown(&[("cookie", "a=b; __Host-loopgate=x")]).as_deref(), Some("x"));
        assert_eq!(shown(&[("cookie", "a=b"), ("cookie", "__Host-loopgate=x")]).as_deref(), Some("x"));
        assert_eq!(shown(&[("cookie", "__Host-loopgate=x; __Host-loopgate=y")]), None);
        assert_eq!(shown(&[("cookie", "loopgate=x")]), None);
        assert_eq!(host.set_cookie("c", "v", None), "c=v; Path=/; HttpOnly; SameSite=Lax; Secure");
    }
}
