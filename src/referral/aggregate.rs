//! How the answers of several targets become the one status the source sees (design D5). Pure.

use serde_json::Value;

use super::status::Status;
use crate::fhir::views::{SDOHCC, STATUS_REASON, codings, concept};

/// One relayed Task, as far as aggregation needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: Status,
    /// Its statusReason.
    pub reason: Option<Value>,
    /// A coordinator called it off.
    pub called_off: bool,
}

/// What the source's Task should do about the answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing new.
    Stay,
    /// Move to this status, each step a version, with this reason.
    Move(Status, Option<Value>),
    /// Every target is full, and another candidate is left (G-096).
    RelayAgain,
    /// A coordinator called the last one off: who would end the referral ends the source's Task, so it is to go elsewhere.
    Wait,
}

/// What comes next. `another` says whether somebody else can be asked, or a coordinator will look.
pub fn next(source: Status, answers: &[Answer], another: bool) -> Next {
    let live: Vec<&Answer> = answers.iter().filter(|answer| answer.status != Status::EnteredInError).collect();
    if live.is_empty() || source.is_terminal() {
        return Next::Stay;
    }
    let open: Vec<&&Answer> = live.iter().filter(|answer| !answer.status.is_terminal()).collect();
    if open.is_empty() {
        if live.iter().any(|answer| answer.status == Status::Completed) {
            return Next::Move(Status::Completed, None);
        }
        if another && live.last().is_some_and(|answer| is_capacity_rejection(answer)) {
            return Next::RelayAgain;
        }
        if live.last().is_some_and(|answer| answer.called_off) {
            return Next::Wait;
        }
        let end = if matches!(source, Status::Requested | Status::Draft) { Status::Rejected } else { Status::Failed };
        return Next::Move(end, Some(joined(&live)));
    }
    let begun = |status| matches!(status, Status::Accepted | Status::InProgress);
    let status = if open.iter().all(|answer| answer.status == Status::OnHold) {
        Status::OnHold
    } else if live.iter().any(|answer| begun(answer.status) || answer.status == Status::Completed) {
        Status::InProgress
    } else {
        return Next::Stay;
    };
    if status == source {
        return Next::Stay;
    }
    let reason = (status == Status::OnHold).then(|| joined(&live));
    Next::Move(status, reason)
}

/// Whether a target declined because it is full: by the guide's code, ours, or in words, as the public client does (G-095).
pub fn is_capacity_rejection(answer: &Answer) -> bool {
    let Some(reason) = &answer.reason else { return false };
    if answer.status != Status::Rejected {
        return false;
    }
    let full = ["no-capacity", "waitlist", "no-capacity-has-waitlist"];
    let coded =
        codings(reason).any(|(system, code)| full.contains(&code) && (system == SDOHCC || system == STATUS_REASON));
    let displays = reason.get("coding").and_then(Value::as_array).into_iter().flatten();
    let words = reason.get("text").into_iter().chain(displays.filter_map(|coding| coding.get("display")));
    coded || words.filter_map(Value::as_str).any(|words| words.to_lowercase().contains("capacity"))
}

/// The reasons of all targets in one: their codings, and their texts one after the other.
fn joined(answers: &[&Answer]) -> Value {
    let mut texts: Vec<&str> = Vec::new();
    let mut all: Vec<Value> = Vec::new();
    for reason in answers.iter().filter_map(|answer| answer.reason.as_ref()) {
        if let Some(text) = reason.get("text").and_then(Value::as_str).filter(|text| !texts.contains(text)) {
            texts.push(text);
        }
        for coding in reason.get("coding").and_then(Value::as_array).into_iter().flatten() {
            if !all.contains(coding) {
                all.push(coding.clone());
            }
        }
    }
    let text = if texts.is_empty() { "The organization gave no reason.".to_string() } else { texts.join("; ") };
    if all.is_empty() {
        return concept(STATUS_REASON, "other", &text);
    }
    let mut reason = concept(STATUS_REASON, "other", &text);
    reason["coding"] = Value::Array(all);
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: Status, text: &str) -> Answer {
        Answer { status, reason: (!text.is_empty()).then(|| json!({"text": text})), called_off: false }
    }

    fn moved(source: Status, answers: &[Answer]) -> Option<Status> {
        match next(source, answers, false) {
            Next::Move(status, _) => Some(status),
            _ => None,
        }
    }

    #[test]
    fn the_table_of_d5() {
        use Status::*;
        for (source, answers, expected) in [
            (Accepted, vec![Requested], None),
            (Accepted, vec![Accepted], Some(InProgress)),
            (Accepted, vec![Requested, Accepted], Some(InProgress)),
            (InProgress, vec![InProgress], None),
            (InProgress, vec![Completed, Requested], None),
            (Accepted, vec![Completed, Requested], Some(InProgress)),
            (InProgress, vec![Completed], Some(Completed)),
            (InProgress, vec![Completed, Rejected], Some(Completed)),
            (Accepted, vec![Rejected], Some(Failed)),
            (Requested, vec![Rejected], Some(Rejected)),
            (InProgress, vec![Failed, Cancelled], Some(Failed)),
            (InProgress, vec![OnHold], Some(OnHold)),
            (OnHold, vec![InProgress], Some(InProgress)),
            (InProgress, vec![OnHold, Accepted], None),
            (Cancelled, vec![Completed], None),
            (Accepted, vec![EnteredInError], None),
        ] {
            let answers: Vec<Answer> = answers.into_iter().map(|status| answer(status, "")).collect();
            assert_eq!(moved(source, &answers), expected, "{source} {answers:?}");
        }
    }

    // G-095, G-096
    #[test]
    fn a_full_house_is_asked_past_while_somebody_is_left() {
        for reason in [
            json!({"text":"Rejected - at capacity"}),
            json!({"coding":[{"system":SDOHCC,"code":"no-capacity"}],"text":"x"}),
            json!({"coding":[{"system":SDOHCC,"code":"waitlist"}],"text":"x"}),
            json!({"coding":[{"system":"urn:theirs","code":"17","display":"At Capacity"}]}),
        ] {
            let full = [Answer { status: Status::Rejected, reason: Some(reason), called_off: false }];
            assert_eq!(next(Status::Accepted, &full, true), Next::RelayAgain);
            assert!(matches!(next(Status::Accepted, &full, false), Next::Move(Status::Failed, Some(_))));
        }
        let no = [answer(Status::Rejected, "not eligible")];
        assert!(matches!(next(Status::Accepted, &no, true), Next::Move(Status::Failed, _)));
    }

    // D5, D12
    #[test]
    fn what_a_coordinator_calls_off_goes_elsewhere() {
        let off = Answer { called_off: true, ..answer(Status::Cancelled, "wrong house") };
        let no = answer(Status::Rejected, "too far");
        assert_eq!(next(Status::InProgress, std::slice::from_ref(&off), false), Next::Wait);
        assert_eq!(next(Status::Accepted, &[no.clone(), off.clone()], false), Next::Wait);
        assert!(matches!(next(Status::Accepted, &[off.clone(), no], false), Next::Move(Status::Failed, _)));
        let done = answer(Status::Completed, "");
        assert_eq!(next(Status::InProgress, &[done, off.clone()], false), Next::Move(Status::Completed, None));
        assert_eq!(next(Status::InProgress, &[answer(Status::Accepted, ""), off], false), Next::Stay);
    }

    #[test]
    fn the_reasons_of_all_are_told() {
        let answers = [
            answer(Status::Rejected, "too far"),
            answer(Status::Failed, "nobody came"),
            answer(Status::Failed, "too far"),
        ];
        let Next::Move(_, Some(reason)) = next(Status::Accepted, &answers, false) else { panic!() };
        assert_eq!(reason["text"], "too far; nobody came");
    }
}
