//! JSON to XML: whatever a resource holds is well-formed XML, its narrative too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::json::Bounds;
use loopgate_fuzz::fhir::xml::{read, write};
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let written = write(&json!({"resourceType": "Basic", "text": {"div": text}}));
    assert!(read(written.as_bytes(), Bounds::default()).is_ok(), "{written}");
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        // Of any JSON at all: that it ends.
        let _ = read(write(&value).as_bytes(), Bounds::default());
    }
});
