//! Subscriptions in every encoding, and notifications from a partner's server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::json::{Bounds, parse};
use loopgate_fuzz::fhir::{Resource, following, subscription};

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = parse(bytes, Bounds { depth: 20, string: 2_000 }) else { return };
    let _ = following::told(&value);
    let Ok(resource) = Resource::from_value(value) else { return };
    if let Ok(asked) = subscription::parse(&resource, "https://hub/fhir") {
        let _ = (asked.server("id"), subscription::terms(&asked.filters), asked.subject.code());
    }
});
