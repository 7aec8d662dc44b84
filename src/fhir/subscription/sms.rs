//! Subscriptions by text message: which numbers they may go to, and what they say: whose message it is, the
//! Subscription's id, and that something has changed (G-122). No Bundle (G-123), nothing about anybody.

/// Longest number, in digits (E.164), and the shortest with its country.
const LONGEST: usize = 15;
const SHORTEST: usize = 7;

/// The number behind a `tel:` with its country, without what only helps the eye (RFC 3966); none for anything else.
pub(super) fn number(endpoint: &str) -> Option<String> {
    let number = endpoint.strip_prefix("tel:+")?;
    let digits: String = number.chars().filter(|c| !"-.()".contains(*c)).collect();
    let fits = (SHORTEST..=LONGEST).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && !digits.starts_with('0');
    fits.then(|| format!("+{digits}"))
}

/// What a message says: about news, or that from now on there will be some.
pub fn sms(house: &str, id: &str, news: bool) -> String {
    let text = if news { "updated content is available" } else { "you get a message here when something changes" };
    format!("{house}: {text}. Subscription {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-157, S-028
    #[test]
    fn a_message_goes_to_one_number_with_its_country() {
        for fine in ["tel:+15551234567", "tel:+1-555-123-4567", "tel:+1(555)123.4567"] {
            assert_eq!(number(fine).as_deref(), Some("+15551234567"), "{fine}");
        }
        for bad in [
            "",
            "tel:5551234567",
            "tel:+0551234567",
            "tel:+1555",
            "tel:+1234567890123456",
            "tel:+15551234567;ext=3",
            "tel:+15551234567,+15551234568",
            "tel:+1 555 123 4567",
            "tel:+1555a234567",
            "+15551234567",
            "sms:+15551234567",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
