//! Who asks, and how often: a bearer token names a partner, and each partner has its requests per minute.
//!
//! Promises that the token is neither logged nor kept. Knowing a token is the app's. Rates follow the gateway's own clock, so that tests move it.
//! <https://www.rfc-editor.org/rfc/rfc6750>

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::app::{App, Identity};
use crate::config::{Partner, Role};
use crate::error::{Error, Kind};

/// The partner whose token is shown; 401 without one, or with one we don't know.
pub(super) async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Identity, Error> {
    let Some(token) = bearer(headers) else {
        return Err(Error::new(Kind::Unauthenticated, "Send your token: Authorization: Bearer …"));
    };
    Identity::known(app.authenticate(token).await?)
}

/// 403 for anyone but operators.
pub(super) fn operator(partner: &Partner) -> Result<(), Error> {
    if partner.roles.contains(&Role::Operator) { Ok(()) } else { Err(Error::forbidden("This is for operators.")) }
}

/// The token of the one `Authorization: Bearer` header; two of them name nobody.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).into_iter();
    let (first, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = first.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The gateway's clock, as governor wants it.
#[derive(Clone)]
struct AppClock(App);

impl Clock for AppClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.now().0).unwrap_or(0))
    }
}

type Allowance = RateLimiter<NotKeyed, InMemoryState, AppClock, NoOpMiddleware<Duration>>;

/// What each partner may still ask this minute. As many as there are partners: nothing here grows.
pub(super) struct Allowances {
    clock: AppClock,
    each: HashMap<String, Allowance>,
}

impl Allowances {
    pub(super) fn new(app: &App) -> Self {
        let config = app.config();
        let quota = Quota::per_minute(NonZeroU32::new(config.limits.requests_per_minute).unwrap_or(NonZeroU32::MIN));
        let clock = AppClock(app.clone());
        let allowance = || RateLimiter::direct_with_clock(quota, clock.clone());
        let each = config.partners.iter().map(|partner| (partner.id.clone(), allowance())).collect();
        Allowances { clock, each }
    }

    /// Takes one request from a partner's allowance; 429 with the seconds to wait when none is left.
    pub(super) fn spend(&self, partner: &Partner) -> Result<(), Error> {
        let Some(Err(denied)) = self.each.get(&partner.id).map(Allowance::check) else { return Ok(()) };
        let wait = denied.wait_time_from(self.clock.now());
        let mut error = Error::new(Kind::Throttled, "Too many requests; please wait as long as Retry-After says.");
        error.retry_after = Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1));
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_counts() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            headers
        };
        assert_eq!(bearer(&with("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&with("bearer  abc ")), Some("abc"));
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(&with(bad)), None, "{bad}");
        }
        let mut two = with("Bearer abc");
        two.append(AUTHORIZATION, "Bearer def".parse().unwrap());
        assert_eq!(bearer(&two), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
