//! OperationOutcome: how an [`Error`] is told to a FHIR client. <https://hl7.org/fhir/R4/operationoutcome.html>

use serde_json::{Value, json};

use super::validate::Finding;
use crate::error::{Error, Kind};

/// The OperationOutcome of an error: its public issues, never its cause.
pub fn of(error: &Error) -> Value {
    let severity = if error.kind == Kind::Internal { "fatal" } else { "error" };
    let issues: Vec<Value> = error
        .issues
        .iter()
        .map(|issue| {
            let mut out = json!({"severity": severity, "code": issue.code, "diagnostics": issue.text});
            if let Some(expression) = &issue.expression {
                out["expression"] = json!([expression]);
            }
            out
        })
        .collect();
    json!({"resourceType": "OperationOutcome", "issue": issues})
}

/// The OperationOutcome of a validation: everything that was found, the gravest first; all is well if nothing was.
pub fn of_findings(findings: &[Finding], fine_text: &str) -> Value {
    if findings.is_empty() {
        return fine(fine_text);
    }
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let issues: Vec<Value> = sorted
        .into_iter()
        .map(|Finding { severity, issue, .. }| {
            let mut out = json!({"severity": severity.code(), "code": issue.code, "diagnostics": issue.text});
            if let Some(expression) = &issue.expression {
                out["expression"] = json!([expression]);
            }
            out
        })
        .collect();
    json!({"resourceType": "OperationOutcome", "issue": issues})
}

/// An OperationOutcome that says all is well.
pub fn fine(text: &str) -> Value {
    json!({"resourceType": "OperationOutcome",
        "issue": [{"severity": "information", "code": "informational", "diagnostics": text}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn the_cause_stays_inside() {
        let error = Error::internal("password=hunter2");
        assert!(!of(&error).to_string().contains("hunter2"));
        let error = Error::invalid("Task.status", "A Task has a status.");
        assert_eq!(of(&error)["issue"][0]["expression"][0], "Task.status");
    }
}
