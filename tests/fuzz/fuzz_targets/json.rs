//! JSON at the door: what is read is written and read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::Resource;
use loopgate_fuzz::fhir::json::{Bounds, parse};

fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds { depth: 20, string: 200 };
    if let Ok(value) = parse(bytes, bounds) {
        assert_eq!(parse(value.to_string().as_bytes(), bounds).ok().as_ref(), Some(&value));
        let _ = Resource::from_value(value);
    }
});
