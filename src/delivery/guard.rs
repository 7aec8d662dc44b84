//! The egress guard: which addresses a partner's URL may lead to. The resolver itself filters, so that the address
//! checked is the address dialled; literal addresses are checked before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A resolver that gives public addresses only.
#[derive(Debug)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err("no public address".into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether a URL may be dialled at all: http(s), no credentials in it, and no address that is not public. The host is
/// read by the URL parser, which knows decimal, octal and hexadecimal spellings.
pub(super) fn may_dial(url: &reqwest::Url) -> bool {
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    plain && bare.parse::<IpAddr>().map_or(true, is_public)
}

/// Whether an address is on the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(four) => is_public_v4(four),
        IpAddr::V6(six) => is_public_v6(six),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let reserved = matches!(
        (a, b, c),
        (0 | 10 | 127 | 240..=255, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !reserved && !address.is_multicast()
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let reserved = a & 0xfe00 == 0xfc00
        || a & 0xffc0 == 0xfe80
        || a & 0xffc0 == 0xfec0
        || (a == 0x2001 && (b < 0x200 || b == 0xdb8))
        // An IPv4 address in the oldest way.
        || address.segments().iter().take(6).all(|segment| *segment == 0)
        || a == 0x2002
        || (a == 0x64 && b == 0xff9b)
        || (a == 0x100 && b == 0)
        || (a == 0x3fff && b < 0x1000)
        || a == 0x5f00;
    !(reserved || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-165
    #[test]
    fn only_public_addresses_are_dialled() {
        for bad in [
            "http://127.0.0.1/",
            "http://10.1.2.3/",
            "http://192.168.0.1/",
            "http://172.20.0.1/",
            "http://169.254.169.254/",
            "http://100.64.0.1/",
            "http://0.0.0.0/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[fc00::1]/",
            "http://[fe80::1]/",
            "http://[2002:7f00:1::]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[64:ff9b:1::7f00:1]/",
            "http://[::7f00:1]/",
            "http://[2001:0:7f00:1::]/",
            "ftp://8.8.8.8/",
            "http://user@8.8.8.8/",
        ] {
            assert!(!may_dial(&reqwest::Url::parse(bad).unwrap()), "{bad}");
        }
        for good in ["https://8.8.8.8/fhir", "https://ehr.example/fhir", "https://[2606:4700::1]/"] {
            assert!(may_dial(&reqwest::Url::parse(good).unwrap()), "{good}");
        }
    }
}
