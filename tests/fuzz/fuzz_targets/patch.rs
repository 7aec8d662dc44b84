//! Patches: any JSON Patch and any FHIRPath Patch on a Task. What comes out is a Task.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::Resource;
use loopgate_fuzz::fhir::json::{Bounds, parse};
use loopgate_fuzz::fhir::patch::Patch;
use serde_json::json;

static TASK: LazyLock<Resource> = LazyLock::new(|| {
    Resource::from_value(json!({"resourceType": "Task", "id": "t", "status": "requested", "intent": "order",
        "code": {"coding": [{"system": "http://s", "code": "c"}]}, "_priority": {"id": "p"},
        "input": [{"type": {"text": "a"}, "valueInteger": 1}, {"type": {"text": "b"}, "valueDecimal": 1.50}]}))
    .unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds { depth: 20, string: 200 };
    let Ok(value) = parse(bytes, bounds) else { return };
    let patch = if value.is_array() { Patch::json(value) } else { Patch::entry(&value, bounds) };
    if let Ok(patched) = patch.and_then(|patch| patch.apply(&TASK, bounds)) {
        assert_eq!((patched.kind(), patched.id()), (TASK.kind(), TASK.id()));
    }
});
