//! Subscriptions by mail: whom they may go to, and what they say.
//!
//! A mail lies open on its way (S-155), so it says that something happened and where to read it, never what or about
//! whom: no name, no status, nobody's id but the Subscription's and the Tasks', which show nothing without a token. It is
//! plain text; where the configuration lets it, the notification is attached, with the same content. <http://hl7.org/fhir/uv/subscriptions-backport/channels.html#email>

use super::asked::Content;
use super::notification::Shown;

/// Longest address, in bytes (RFC 5321 with its brackets off).
const LONGEST: usize = 254;

/// The one address behind a `mailto:`; none where there are several, headers, or anything that needs quoting.
pub(super) fn address(endpoint: &str) -> Option<&str> {
    let address = endpoint.strip_prefix("mailto:").filter(|address| address.len() <= LONGEST)?;
    let (user, host) = address.split_once('@')?;
    let parts = |text: &str, more: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        text.split('.').all(|part| !part.is_empty() && part.chars().all(known))
    };
    let hyphens = host.split('.').any(|part| part.starts_with('-') || part.ends_with('-'));
    (user.len() <= 64 && parts(user, "!#$*+-/=^_`{|}~'") && parts(host, "-") && !hyphens).then_some(address)
}

/// A mail's text: about these events, or the first one, which says that mails will come.
pub fn mail(house: &str, own: &str, id: &str, content: Content, events: &[Shown]) -> String {
    let mut text = match events {
        [] => format!("From now on you get a mail when something happens to what you follow at {house}.\n"),
        [..] => format!("Something has happened to what you follow at {house}.\n"),
    };
    text.push_str(&format!("\nSubscription: {id}\n"));
    if let [first, .., last] | [first @ last] = events {
        let (from, to) = (first.event.number, last.event.number);
        text.push_str(&format!("Events: {from} to {to}\n\nTo read of them:\n"));
        text.push_str(&format!("{own}/Subscription/{id}/$events?eventsSinceNumber={from}&eventsUntilNumber={to}\n"));
        let mut foci: Vec<String> = match content {
            Content::Empty => Vec::new(),
            Content::IdOnly | Content::FullResource => {
                let named = events.iter().filter(|shown| shown.named);
                named.map(|shown| format!("{own}/{}\n", shown.event.focus)).collect()
            }
        };
        foci.sort_unstable();
        foci.dedup();
        text.extend(foci);
    }
    text.push_str("\nMails say nothing about people. To get no more of them, switch the Subscription off:\n");
    text.push_str(&format!("{own}/Subscription/{id}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-151, S-028
    #[test]
    fn a_mail_goes_to_one_plain_address() {
        for fine in ["someone@x.org", "a.b+c@x-y.example", "o'neil@localhost"] {
            assert_eq!(address(&format!("mailto:{fine}")), Some(fine));
        }
        let long = format!("{}@x.org", "a".repeat(65));
        for bad in [
            "",
            "x.org",
            "@x.org",
            "a@",
            "a@b@c",
            "a@x.org,b@x.org",
            "a@x.org;b@x.org",
            "a@x.org?subject=x",
            "a%40b@x.org",
            "a@x.org\r\nBcc: b@x.org",
            "a b@x.org",
            "\"a\"@x.org",
            "<a@x.org>",
            ".a@x.org",
            "a..b@x.org",
            "a@x..org",
            "a@-x.org",
            "a@[127.0.0.1]",
            "ä@x.org",
            &long,
        ] {
            assert_eq!(address(&format!("mailto:{bad}")), None, "{bad}");
        }
        assert_eq!(address("someone@x.org"), None);
    }
}
