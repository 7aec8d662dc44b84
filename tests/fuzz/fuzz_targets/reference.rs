//! References, keys and preconditions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::{Key, Reference, reference};

fuzz_target!(|text: &str| {
    let _ = Reference::parse(text, "https://hub/fhir");
    let _ = reference::split_absolute(text);
    if let Some(key) = Key::parse(text) {
        assert_eq!(Key::parse(&key.to_string()), Some(key));
    }
});
