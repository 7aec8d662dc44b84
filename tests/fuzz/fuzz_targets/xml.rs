//! XML at the door: what is read is JSON that the JSON reader takes too, and comes back from XML the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::json::{Bounds, parse};
use loopgate_fuzz::fhir::xml::{read, write};

fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds { depth: 20, string: 400 };
    if let Ok(value) = read(bytes, bounds) {
        assert_eq!(parse(value.to_string().as_bytes(), bounds).ok().as_ref(), Some(&value));
        assert_eq!(read(write(&value).as_bytes(), Bounds::default()).ok(), Some(value));
    }
});
