//! FHIRPath: any expression over a Task.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::path::{Context, Expression};
use serde_json::{Value, json};

static TASK: LazyLock<Value> = LazyLock::new(|| {
    json!({"resourceType": "Task", "id": "t", "status": "requested", "authoredOn": "2026-01-01T00:00:00Z",
        "code": {"coding": [{"system": "http://s", "code": "c"}]}, "for": {"reference": "#p"},
        "contained": [{"resourceType": "Patient", "id": "p", "birthDate": "1970-02"}],
        "input": [{"type": {"text": "a"}, "valueInteger": 1}, {"type": {"text": "b"}, "valueDecimal": 1.50}],
        "restriction": {"period": {"start": "2026-01-01"}}})
});

fuzz_target!(|text: &str| {
    let Ok(expression) = Expression::parse(text) else { return };
    let context = Context::new(&TASK);
    let _ = expression.evaluate(&context, context.resource.clone());
});
