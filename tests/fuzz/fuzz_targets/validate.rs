//! Validation and the search index: any JSON that is a resource.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::json::Bounds;
use loopgate_fuzz::fhir::profile::Profiles;
use loopgate_fuzz::fhir::{Resource, validate};

fuzz_target!(|bytes: &[u8]| {
    let Ok(resource) = Resource::parse(bytes, Bounds { depth: 20, string: 200 }) else { return };
    let _ = validate::check(&resource, Profiles::own());
});
