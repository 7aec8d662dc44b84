//! How often somebody may ask: each partner, and each address, before anybody is known.
//!
//! Promises that memory does not grow, whoever comes: addresses share a fixed number of allowances, and nobody can tell
//! who shares with whom. Rates follow the gateway's own clock, so that tests move it. Leaves out connections, which
//! `gateway` bounds. <https://www.rfc-editor.org/rfc/rfc6585#section-4>

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::Request;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::ClientAddress;
use crate::app::App;
use crate::config::Partner;
use crate::error::{Error, Kind};

/// Allowances that all addresses share: so many are asking at once before two of them are likely to meet in one.
const SHARED: usize = 16_384;

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

/// What everybody may still ask this minute.
pub(super) struct Allowances {
    clock: AppClock,
    partners: HashMap<String, Allowance>,
    addresses: Shared,
    tokens: Shared,
}

impl Allowances {
    pub(super) fn new(app: &App) -> Self {
        let (config, clock) = (app.config(), AppClock(app.clone()));
        let quota = |number: u32| Quota::per_minute(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN));
        let allowance = |number: u32| RateLimiter::direct_with_clock(quota(number), clock.clone());
        let limits = &config.limits;
        // People of our own organization share one allowance, as a partner's systems do.
        let each = config.partners.iter().map(|partner| &partner.id).chain([&config.gateway.id]);
        Allowances {
            partners: each.map(|id| (id.clone(), allowance(limits.requests_per_minute))).collect(),
            addresses: Shared::new(|| allowance(limits.requests_per_minute_by_address)),
            tokens: Shared::new(|| allowance(limits.token_requests_per_minute)),
            clock,
        }
    }

    /// Takes one request from a partner's allowance; 429 with the seconds to wait when none is left.
    pub(super) fn spend(&self, partner: &Partner) -> Result<(), Error> {
        self.take(self.partners.get(&partner.id))
    }

    /// Takes one request from an address's allowance.
    pub(super) fn spend_of(&self, address: Option<IpAddr>) -> Result<(), Error> {
        self.take(self.addresses.of(address))
    }

    /// Takes one request for a token.
    pub(super) fn spend_token(&self, address: Option<IpAddr>) -> Result<(), Error> {
        self.take(self.tokens.of(address))
    }

    fn take(&self, allowance: Option<&Allowance>) -> Result<(), Error> {
        let Some(Err(denied)) = allowance.map(Allowance::check) else { return Ok(()) };
        let wait = denied.wait_time_from(self.clock.now());
        let mut error = Error::new(Kind::Throttled, "Too many requests; please wait as long as Retry-After says.");
        error.retry_after = Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1));
        Err(error)
    }
}

/// Allowances by address.
struct Shared {
    /// Drawn anew at each start, so that nobody can choose an address to share another's allowance.
    secret: RandomState,
    allowances: Vec<Allowance>,
}

impl Shared {
    fn new(allowance: impl Fn() -> Allowance) -> Shared {
        Shared { secret: RandomState::new(), allowances: (0..SHARED).map(|_| allowance()).collect() }
    }

    fn of(&self, address: Option<IpAddr>) -> Option<&Allowance> {
        let number = self.secret.hash_one(network(address?)) % u64::try_from(self.allowances.len()).ok()?.max(1);
        self.allowances.get(usize::try_from(number).ok()?)
    }
}

/// What belongs to one customer of a network: an address, or with IPv6 the 64 bits that everybody has to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Where a request comes from: the other end of its connection or, where that is a proxy of ours, who it says was there.
pub(super) fn address(request: &Request, proxies: &[IpAddr]) -> Option<IpAddr> {
    let mut address = request.extensions().get::<ClientAddress>()?.0.to_canonical();
    let said = request.headers().get_all("x-forwarded-for").into_iter().rev();
    let said = said.flat_map(|value| value.to_str().unwrap_or("").rsplit(','));
    for one in said {
        if !proxies.contains(&address) {
            break;
        }
        let Ok(before) = one.trim().parse::<IpAddr>() else { break };
        address = before.to_canonical();
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_connections_unless_a_proxy_of_ours_says_otherwise() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let proxies = [ip("10.0.0.1"), ip("10.0.0.2")];
        let asked = |from: &str, said: &[&str]| {
            let mut request = Request::new(axum::body::Body::empty());
            request.extensions_mut().insert(ClientAddress(ip(from)));
            for one in said {
                request.headers_mut().append("x-forwarded-for", one.parse().unwrap());
            }
            address(&request, &proxies)
        };
        assert_eq!(asked("192.0.2.7", &["198.51.100.1"]), Some(ip("192.0.2.7")));
        assert_eq!(asked("10.0.0.1", &["198.51.100.1"]), Some(ip("198.51.100.1")));
        assert_eq!(asked("::ffff:10.0.0.1", &["1.1.1.1, 198.51.100.1", "10.0.0.2"]), Some(ip("198.51.100.1")));
        assert_eq!(asked("10.0.0.1", &["1.1.1.1, nonsense"]), Some(ip("10.0.0.1")));
        assert_eq!(asked("10.0.0.1", &[]), Some(ip("10.0.0.1")));
        assert_eq!(address(&Request::new(axum::body::Body::empty()), &proxies), None);
    }

    #[test]
    fn a_network_is_an_address_or_64_bits() {
        let ip = |text: &str| network(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2:ffff::1"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
    }
}
