//! Ids: the only source of randomness in the gateway.
//!
//! Their first half is the time, so that new rows land at the end of an index and ids sort by creation within a process.
//! What is stored is named in twenty characters, for an id stands in many rows and indexes ([`new`]); UUIDs are for what has
//! to be one ([`uuid()`]). Ids of a given time sort by that time, whoever made them: [`at`], [`from`].
//! Leaves out what an id means; that is its holder's business.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use uuid::{Builder, Uuid};

/// Five bits each, in their order; none that is taken for another when people read it to each other.
const LETTERS: [char; 32] = [
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'j', 'k', 'm', 'n', 'p',
    'q', 'r', 's', 't', 'v', 'w', 'x', 'y', 'z',
];

/// A new id, fit for `Resource.id` (`[A-Za-z0-9\-\.]{1,64}`): of a version 7 UUID the milliseconds, the counter, which
/// begins anywhere in each of them, and ten more bits of chance.
pub fn new() -> String {
    let bits = Uuid::now_v7().as_u128();
    // Without the version and the variant.
    let id = (bits >> 80 << 52) | (bits >> 64 & 0xfff) << 40 | (bits << 66 >> 88);
    let letter = |place: u32| usize::try_from(id >> (5 * place) & 0x1f).ok().and_then(|index| LETTERS.get(index));
    (0..20).rev().filter_map(letter).collect()
}

/// A new UUID, for `urn:uuid:`.
pub fn uuid() -> String {
    Uuid::now_v7().to_string()
}

/// A new id of this time (microseconds since 1970): ids of later microseconds are greater, and so are later ones of this process.
pub fn at(micros: i64) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut rest = [0; 8];
    // The first two bits are the variant's.
    let count = COUNT.fetch_add(1, Ordering::Relaxed) & 0x3fff_ffff;
    rest[..4].copy_from_slice(&count.to_be_bytes());
    rest[4..].copy_from_slice(&Uuid::new_v4().as_bytes()[12..]);
    of(micros, rest)
}

/// What every id of this time or later is not less than.
pub fn from(micros: i64) -> String {
    of(micros, [0; 8])
}

/// When an id of [`at`] was made.
pub fn time_of(id: &str) -> Option<i64> {
    let bytes = Uuid::parse_str(id).ok()?.into_bytes();
    let millis = bytes[..6].iter().fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte));
    let micros = (i64::from(bytes[6] & 0x0f) << 8) | i64::from(bytes[7]);
    Some(millis * 1_000 + micros.min(999))
}

/// Milliseconds, then the microseconds where version 7 allows for more precision, then the rest.
fn of(micros: i64, rest: [u8; 8]) -> String {
    let micros = u64::try_from(micros).unwrap_or(0);
    let more = u16::try_from(micros % 1_000).unwrap_or(0).to_be_bytes();
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&more);
    bytes[2..].copy_from_slice(&rest);
    Builder::from_unix_timestamp_millis(micros / 1_000, &bytes).into_uuid().to_string()
}

/// A new secret of 256 random bits, as hexadecimal text: for whatever must not be guessed.
pub fn secret() -> String {
    // A UUID has 122 random bits: three of them, and their SHA-256.
    let bits = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
    digest(&SHA256, &bits).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text may stand as a FHIR id: <https://hl7.org/fhir/R4/datatypes.html#id>.
pub fn is_valid(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_are_fhir_ids_and_differ() {
        let ids: Vec<String> = (0..10_000).map(|_| new()).collect();
        assert!(ids.iter().all(|id| is_valid(id) && id.len() == 20));
        assert!(ids.is_sorted_by(|one, next| one < next), "in the order they were made");
        // Those that an earlier program made were UUIDs: new ones stand behind them.
        assert!(ids[0] > uuid() && uuid().len() == 36);
        assert_eq!(secret().len(), 64);
    }

    #[test]
    fn ids_of_a_time_sort_by_it() {
        let time = 1_800_000_000_123_456;
        let (one, two, later) = (at(time), at(time), at(time + 1));
        assert!(from(time) <= one && one < two && two < from(time + 1) && two < later, "{one} {two} {later}");
        assert!(is_valid(&one) && time_of(&one) == Some(time) && time_of("x").is_none());
        assert!(uuid() > at(1_000) && time_of(&uuid()).is_some() && time_of(&new()).is_none());
    }

    #[test]
    fn paths_and_blanks_are_no_ids() {
        for bad in ["", "a/b", "..%2f", "a b", "é", &"x".repeat(65)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
