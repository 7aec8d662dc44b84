//! How one value's text is understood. None of these messages may quote it: it could be a secret.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::{Certified, Secret};
use crate::time::span_of;

/// The guide's SDOHCC-ValueSetSDOHCategory (3.0).
pub(super) const CATEGORIES: &str = "sdoh-category-unspecified food-insecurity housing-instability homelessness \
    inadequate-housing transportation-insecurity financial-insecurity material-hardship \
    educational-attainment employment-status veteran-status stress social-connection \
    intimate-partner-violence elder-abuse personal-health-literacy health-insurance-coverage-status \
    medical-cost-burden digital-literacy digital-access utility-insecurity language-access \
    incarceration-status protective-factor";

/// The configuration and every file it names. A partner with keys, services and a server takes about a kilobyte, and there
/// may be thousands of them.
pub(super) const LARGEST_FILE: u64 = 16 * 1024 * 1024;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn fault<T>(message: &str) -> Result<T, String> {
    Err(message.to_owned())
}

pub(super) fn unexpected(expected: &str, found: &DeValue<'_>) -> String {
    format!("expected {expected}, found {}", found.type_str())
}

pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    let file = std::fs::File::open(path);
    match file.and_then(|f| f.take(LARGEST_FILE + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 <= LARGEST_FILE => Ok(text),
        Ok(_) => Err(format!("{} is larger than {} MiB", path.display(), LARGEST_FILE >> 20)),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

pub(super) fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let names: Vec<&str> = choices.iter().map(|c| c.0).collect();
        let chosen = choices.iter().find(|c| c.0 == text).map(|c| c.1);
        chosen.ok_or_else(|| format!("must be one of {names:?}"))
    }
}

pub(super) fn text(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => fault("must not be empty"),
        false => Ok(text.to_owned()),
    }
}

/// `system/Task.rs`, `system/*.read`: letters in order, or the words of SMART's first version. Parameters (`?…`) are
/// not served by this version, and a restriction that is not enforced must not be taken.
pub(super) fn scope(text: &str) -> Result<String, String> {
    let fault =
        || Err("must be a scope such as system/Task.rs, system/*.read, system/Task.r?status=requested".to_string());
    let Some((kind, rest)) = text.strip_prefix("system/").and_then(|rest| rest.split_once('.')) else {
        return fault();
    };
    // What the parameters mean is told by who knows them.
    let letters = rest.split_once('?').map_or(rest, |(letters, _)| letters);
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return fault();
    }
    let named = kind == "*" || (!kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphabetic()));
    let mut rest = "cruds".chars();
    let in_order = !letters.is_empty() && letters.chars().all(|letter| rest.any(|known| known == letter));
    if named && (in_order || matches!(letters, "read" | "write" | "*")) { Ok(text.to_string()) } else { fault() }
}

/// As Standard Webhooks writes secrets: `whsec_` and the base64 of 24 to 64 bytes.
pub(super) fn webhook_secret(text: &str) -> Result<Secret, String> {
    let base64 = |body: &&str| {
        let digits = body.trim_end_matches('=');
        let fits = digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        fits && body.len() - digits.len() <= 2 && body.len().is_multiple_of(4) && (32..=88).contains(&body.len())
    };
    match text.strip_prefix("whsec_").filter(base64) {
        Some(_) => Ok(Secret(text.to_owned())),
        None => fault("must be whsec_ and 24 to 64 random bytes in base64"),
    }
}

/// Fit for an HTTP header.
pub(super) fn visible(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => fault("must be visible ASCII without spaces, and not empty"),
    }
}

/// A header's whole value: visible ASCII, and spaces between.
pub(super) fn header(text: &str) -> Result<Secret, String> {
    match text == text.trim() && !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        true => Ok(Secret(text.to_owned())),
        false => fault("must be visible ASCII, not empty, without spaces at its ends"),
    }
}

pub(super) fn fhir_id(text: &str) -> Result<String, String> {
    let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    match fits && (1..=64).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => fault("must be a FHIR id: 1 to 64 letters, digits, - and ."),
    }
}

pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().or(fault("must be an IP address and port, such as 127.0.0.1:8080"))
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse::<IpAddr>().map(|address| address.to_canonical()).or(fault("must be an IP address"))
}

pub(super) fn database(text: &str) -> Result<Secret, String> {
    address(text, &["sqlite:", "postgres://", "postgresql://"])
}

pub(super) fn mail_server(text: &str) -> Result<Secret, String> {
    address(text, &["smtp://", "smtps://"])
}

pub(super) fn address(text: &str, schemes: &[&str]) -> Result<Secret, String> {
    match schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) if !rest.is_empty() => Ok(Secret(text.to_owned())),
        _ => Err(format!("must start with {}", schemes.join(" or "))),
    }
}

pub(super) fn mailbox(text: &str) -> Result<String, String> {
    // Enough to keep a header or a second address from slipping in; the mail server checks the rest.
    let plain = text.chars().all(|c| !c.is_control() && !c.is_whitespace() && !"<>,;:\"".contains(c));
    match text.split_once('@') {
        Some((user, host)) if plain && !user.is_empty() && !host.is_empty() && !host.contains('@') => {
            Ok(text.to_owned())
        }
        _ => fault("must be a mail address"),
    }
}

pub(super) fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|u| u.0 == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|n| *n > 0)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    // Ten years at most: what is added to an instant must stay one.
    let read = amount(text, UNITS).map(Duration::from_millis).filter(|d| *d <= DAY * 3650);
    read.ok_or_else(|| "must be a duration, such as 250ms, 20s, 5m, 12h, 30d; at most 3650d".to_owned())
}

pub(super) fn between(text: &str, bounds: RangeInclusive<Duration>, rule: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if bounds.contains(&d) { Ok(d) } else { fault(rule) })
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    const UNITS: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let read = amount(text, UNITS).and_then(|n| usize::try_from(n).ok());
    read.ok_or_else(|| "must be a size, such as 64B, 1KiB, 16MiB, 1GiB".to_owned())
}

pub(super) fn http_url(text: &str) -> Result<String, String> {
    let fits = || {
        let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"))?;
        let authority = rest.split('/').next()?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "443"),
        };
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(name), // no @: no user
        };
        let port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().ok()? > 0;
        let path = rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
        Some(host && port && path)
    };
    match fits() {
        Some(true) => Ok(text.trim_end_matches('/').to_owned()),
        Some(false) | None => fault("must be an http(s) URL without user, query or fragment"),
    }
}

pub(super) fn partner_url(text: &str, private_allowed: bool) -> Result<String, String> {
    match http_url(text)? {
        url if url.starts_with("http://") && !private_allowed => {
            fault("must be https (http needs delivery.partner_addresses = \"allow_private_for_tests_only\")")
        }
        url => Ok(url),
    }
}

pub(super) fn sha256(text: &str) -> Result<[u8; 32], String> {
    let byte = |i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(byte).collect();
    let digits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = bytes.filter(|_| digits).and_then(|b| b.try_into().ok());
    hash.ok_or_else(|| "must be 64 hex digits".to_owned())
}

/// A day of the calendar.
pub(super) fn day(text: &str) -> Result<String, String> {
    match text.len() == "2026-12-31".len() && span_of(text).is_some() {
        true => Ok(text.to_owned()),
        false => fault("must be a day of the calendar, such as 2026-12-31"),
    }
}

/// Longest URI by which a certificate is known.
const LONGEST_URI: usize = 2_048;

/// As `openssl x509 -fingerprint -sha256` prints it, or without its colons; or `dns:`, `ip:` or `uri:` and a name.
pub(super) fn certified(text: &str) -> Result<Certified, String> {
    let label = |label: &str| {
        let fits = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (1..=63).contains(&label.len()) && fits && !label.starts_with('-') && !label.ends_with('-')
    };
    match text.split_once(':') {
        Some(("dns", name)) if name.len() <= 253 && name.contains('.') && name.split('.').all(label) => {
            Ok(Certified::Dns(name.to_owned()))
        }
        Some(("dns", _)) => fault("must be dns: and a whole name in small letters, such as dns:ehr.example.org"),
        Some(("ip", address)) => match address.parse() {
            Ok(address) => Ok(Certified::Ip(address)),
            Err(_) => fault("must be ip: and an address, such as ip:192.0.2.7"),
        },
        Some(("uri", uri)) => {
            let fits = uri.contains(':') && uri.len() <= LONGEST_URI && uri.bytes().all(|b| b.is_ascii_graphic());
            if fits {
                Ok(Certified::Uri(uri.to_owned()))
            } else {
                fault("must be uri: and a URI, such as uri:spiffe://example.org/ehr")
            }
        }
        _ => sha256(&text.replace(':', "")).map(Certified::Sha256),
    }
}

pub(super) fn category(code: &str) -> Result<String, String> {
    match CATEGORIES.split(' ').any(|known| known == code) {
        true => Ok(code.to_owned()),
        false => fault("must be one of the guide's SDOH category codes, such as food-insecurity"),
    }
}

pub(super) fn key(text: &str) -> Result<Secret, String> {
    sha256(text).map(|_| Secret(text.to_owned()))
}

pub(super) fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    number.filter(|number| *number <= 100).ok_or_else(|| "must be a percentage from 0% to 100%".to_owned())
}

/// Levenshtein's edit distance.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            left = (diagonal + usize::from(x != y)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// A TOML value as JSON: key sets are written inline.
pub(super) fn json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Integer(number) => number.as_str().into(),
        DeValue::Float(number) => number.as_str().into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(list) => list.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, item)| (key.get_ref().to_string(), json(item.get_ref())));
            entries.collect::<serde_json::Map<_, _>>().into()
        }
    }
}
