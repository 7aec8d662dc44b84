//! Search queries, from the URL on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::{ResourceType, query, search};

fuzz_target!(|input: (u8, bool, &str)| {
    let (kind, strict, text) = input;
    let kinds = [ResourceType::TASK, ResourceType::PATIENT, ResourceType::SERVICE_REQUEST, ResourceType::CONSENT];
    let Ok(pairs) = query::pairs(Some(text)) else { return };
    let _ = search::parse(kinds[usize::from(kind) % kinds.len()], &pairs, "https://hub/fhir", strict);
});
