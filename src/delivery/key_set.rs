//! Reading a partner's JWK Set at its registered address, and what an identity provider publishes and answers, behind the same egress guard as everything we ask for.
//!
//! Promises a bounded answer and that a redirect is not followed. Leaves out what the keys are used for.
//! <https://www.rfc-editor.org/rfc/rfc7517#section-5>, <https://www.rfc-editor.org/rfc/rfc9111#section-5.2>

use std::sync::Arc;
use std::time::Duration;

use super::client::{Request, Transport};
use crate::app::{Document, Fetch, Wanted};

/// Largest key set, in bytes.
const LARGEST: usize = 256 * 1024;

/// How `app` reads key sets and asks an identity provider.
pub fn fetch(transport: Arc<dyn Transport>) -> Fetch {
    Arc::new(move |wanted| {
        let transport = transport.clone();
        Box::pin(async move {
            let Wanted { url, form, authorization } = wanted;
            let mut headers = vec![("accept".to_string(), "application/json".to_string())];
            headers.extend(authorization.map(|value| ("authorization".to_string(), value)));
            if form.is_some() {
                headers.push(("content-type".to_string(), "application/x-www-form-urlencoded".to_string()));
            }
            let method = if form.is_some() { "POST" } else { "GET" };
            let answer = transport.send(Request { method, url, headers, body: form }).await;
            let answer = answer.map_err(|error| error.0)?;
            if !answer.is_success() {
                return Err(format!("it answered {}", answer.status));
            }
            let keep = answer.header("cache-control").and_then(kept);
            if answer.body.len() > LARGEST {
                return Err("it is larger than 256 KiB".into());
            }
            let text = String::from_utf8(answer.body).map_err(|_| "it is not UTF-8")?;
            Ok(Document { text, keep })
        })
    })
}

/// How long an answer may be kept; none when its `Cache-Control` does not say.
fn kept(header: &str) -> Option<Duration> {
    let directives = || header.split(',').map(str::trim);
    if directives().any(|one| ["no-store", "no-cache"].iter().any(|no| one.eq_ignore_ascii_case(no))) {
        return Some(Duration::ZERO);
    }
    let age = directives().find_map(|one| {
        let (name, seconds) = one.split_once('=')?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| seconds.trim().trim_matches('"').parse().ok())?
    });
    age.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn a_key_set_is_kept_as_long_as_its_server_says() {
        let seconds = |header: &str| kept(header).map(|time| time.as_secs());
        assert_eq!(seconds("public, max-age=600"), Some(600));
        assert_eq!(seconds("Max-Age = \"60\", must-revalidate"), Some(60));
        assert_eq!(seconds("max-age=600, no-cache"), Some(0));
        assert_eq!(seconds("No-Store"), Some(0));
        assert_eq!(seconds("public"), None);
        assert_eq!(seconds("max-age=soon"), None);
    }
}
