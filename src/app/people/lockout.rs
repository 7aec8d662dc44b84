//! How often anybody may try: after some tries in vain a name, or an address, has to wait, longer each time.
//!
//! Promises that a try is counted before it is looked at, so that many at once get no more than one after the other;
//! that a name nobody has is counted like any other; and that what was typed as a name is not kept, for it may have been
//! a password. Leaves out the rate of requests, which is the door's.
//! <https://pages.nist.gov/800-63-4/sp800-63b.html#throttle>

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::app::App;
use crate::error::Error;
use crate::store::Tx;
use crate::time::Timestamp;

/// Tries of one name, and from one address, before a pause follows. Many people may share an address.
const TRIES_OF_NAME: i64 = 5;
const TRIES_FROM_ADDRESS: i64 = 50;
/// The first pause; each next one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Tries are forgotten when there was none for so long.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// A try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// It may be looked at; `last`: unless it succeeds, a pause follows.
    Counted { last: bool },
    /// There is a pause.
    Locked,
}

/// Whose tries are counted.
pub(super) struct Counted {
    name: String,
    address: Option<String>,
}

impl Counted {
    pub(super) fn new(name: &str, address: Option<IpAddr>) -> Counted {
        // A proxy on this machine stands for everybody.
        let address = address.filter(|address| !address.to_canonical().is_loopback()).map(block);
        let hash = |kind: &str, text: &str| super::sha256(&format!("{kind}:{text}"));
        Counted { name: hash("name", name), address: address.map(|block| hash("address", &block)) }
    }
}

impl App {
    /// Counts a try.
    pub(super) async fn count_try(&self, whose: &Counted) -> Result<Try, Error> {
        let mut tx = self.store().begin().await?;
        let (now, mut last) = (self.now(), false);
        let name = Some((&whose.name, TRIES_OF_NAME));
        let address = whose.address.as_ref().map(|address| (address, TRIES_FROM_ADDRESS));
        for (who, most) in name.into_iter().chain(address) {
            let (failures, locked_till) = tx.count_failure(who, now.minus(FORGOTTEN)).await?;
            if now < locked_till {
                // Not committed: waiting gets no longer by trying.
                return Ok(Try::Locked);
            }
            if failures >= most {
                tx.lock_out(who, pause_after(failures - most, now)).await?;
                last = true;
            }
        }
        tx.commit().await?;
        Ok(Try::Counted { last })
    }

    /// The try that was counted was none in vain.
    pub(super) async fn forgive(tx: &mut Tx, whose: &Counted) -> Result<(), Error> {
        tx.forget_failures(&whose.name).await?;
        match &whose.address {
            Some(address) => tx.uncount_failure(address).await,
            None => Ok(()),
        }
    }
}

fn pause_after(more: i64, now: Timestamp) -> Timestamp {
    let times = u32::try_from(more.clamp(0, 16)).unwrap_or(0);
    now.plus(FIRST_PAUSE.saturating_mul(1 << times).min(LONGEST_PAUSE))
}

/// An address, or the network that one subscriber has of version 6.
fn block(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(four) => four.to_string(),
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        let pause = |more| pause_after(more, Timestamp(0)).since(Timestamp(0)).as_secs();
        assert_eq!([0, 1, 2, 4, 5, 90].map(pause), [30, 60, 120, 480, 900, 900]);
    }

    #[test]
    fn neighbours_of_version_6_are_one() {
        let block = |text: &str| block(text.parse().unwrap());
        assert_eq!(block("2001:db8:1:2:3::4"), block("2001:db8:1:2:9::1"));
        assert_ne!(block("2001:db8:1:2::"), block("2001:db8:1:3::"));
        assert_eq!(block("::ffff:192.0.2.1"), "192.0.2.1");
        let counted = |address: &str| Counted::new("ana", Some(address.parse().unwrap())).address;
        assert!(counted("127.0.0.1").is_none() && counted("::1").is_none() && counted("192.0.2.1").is_some());
    }
}
