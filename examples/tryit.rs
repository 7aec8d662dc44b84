use std::io::BufRead;
fn main() {
    for path in std::io::stdin().lock().lines() {
        let path = path.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(&bytes) else {
            println!("{path}: no json");
            continue;
        };
        for f in loopgate::fhir::validate::examine(&map) {
            if f.severity == loopgate::fhir::validate::Severity::Error {
                println!("{path}: {} {} {}", f.issue.code, f.issue.expression.unwrap_or_default(), f.issue.text);
            }
        }
    }
}
