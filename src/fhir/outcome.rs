//! OperationOutcome: how an [`Error`] is told to a FHIR client. <https://hl7.org/fhir/R4/operationoutcome.html>

use serde_json::{Value, json};

use super::validate::Finding;
use crate::error::{Error, Issue, Kind};

/// The OperationOutcome of an error: its public issues, never its cause.
pub fn of(error: &Error) -> Value {
    let severity = if error.kind == Kind::Internal { "fatal" } else { "error" };
    with(error.issues.iter().map(|issue| told(severity, issue)))
}

/// The OperationOutcome of a validation: everything that was found, the gravest first; all is well if nothing was.
pub fn of_findings(findings: &[Finding], fine_text: &str) -> Value {
    if findings.is_empty() {
        return fine(fine_text);
    }
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    with(sorted.into_iter().map(|finding| told(finding.severity.code(), &finding.issue)))
}

/// An OperationOutcome that says all is well.
pub fn fine(text: &str) -> Value {
    with([json!({"severity": "information", "code": "informational", "diagnostics": text})])
}

fn with(issues: impl IntoIterator<Item = Value>) -> Value {
    json!({"resourceType": "OperationOutcome", "issue": issues.into_iter().collect::<Vec<_>>()})
}

fn told(severity: &str, issue: &Issue) -> Value {
    let mut out = json!({"severity": severity, "code": issue.code, "diagnostics": issue.text});
    if let Some(expression) = &issue.expression {
        out["expression"] = json!([expression]);
    }
    out
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
