//! Ids: the only source of randomness in the gateway.
//!
//! Version 7 UUIDs, so that new rows land at the end of an index and ids sort by creation within a process.
//! Leaves out what an id means; that is its holder's business.

use uuid::Uuid;

/// A new id, fit for `Resource.id` (`[A-Za-z0-9\-\.]{1,64}`).
pub fn new() -> String {
    Uuid::now_v7().to_string()
}

/// A new secret of 256 random bits, as hexadecimal text: for the header secrets we hand out.
pub fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
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
        assert!(is_valid(&new()));
        assert_ne!(new(), new());
        assert_eq!(secret().len(), 64);
    }

    #[test]
    fn paths_and_blanks_are_no_ids() {
        for bad in ["", "a/b", "..%2f", "a b", "é", &"x".repeat(65)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
