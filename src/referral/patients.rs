//! Updates of a Task that is no referral, such as a questionnaire for a patient. Pure.
//!
//! The same rights as for a referral; a Task for a patient goes the guide's steps (G-108), any other those of R4. What a
//! client dropped on the way is kept.

use super::decide::{OWNED, Standing, keep_what_was_dropped};
use crate::error::Error;
use crate::fhir::Resource;
use crate::fhir::views::Task;

/// Decides an update of a Task that is no referral, such as a questionnaire for a patient: the same rights, and no way
/// out of an ending but `entered-in-error` (G-107). Nothing when it changes nothing.
pub fn update_other(stored: &Resource, sent: &Resource, standing: Standing) -> Result<Option<Resource>, Error> {
    const ENDINGS: [&str; 5] = ["completed", "cancelled", "failed", "rejected", "entered-in-error"];
    let (from, to) = (Task(stored).status().unwrap_or(""), Task(sent).status().unwrap_or(""));
    if from != to && ENDINGS.contains(&from) && to != "entered-in-error" {
        return Err(Error::refused("Task.status", format!("A Task that is {from} can't become anything else.")));
    }
    if from != to && is_for_patient(stored) {
        check_patients_step(from, to, standing)?;
    }
    let mut task = match standing {
        Standing::Author | Standing::Both => sent.clone(),
        Standing::Owner | Standing::Claimant => stored.clone(),
    };
    for name in OWNED {
        if let Some(value) = sent.at(name) {
            task.set(name, value.clone());
        }
    }
    keep_what_was_dropped(stored, &mut task);
    Ok((!task.same_content(stored)).then_some(task))
}

/// Whether a patient, or who stands for one, is asked.
fn is_for_patient(task: &Resource) -> bool {
    let owner = Task(task).owner().unwrap_or_default();
    let mut parts = owner.split("/_history/").next().unwrap_or_default().rsplit('/').skip(1);
    matches!(parts.next(), Some("Patient" | "RelatedPerson"))
}

/// The steps of the guide's Task for a patient, and whose they are (G-108). No application of a patient has a token
/// here: what the patient did is told by who asked, which therefore may take the patient's steps as well as its own.
fn check_patients_step(from: &str, to: &str, standing: Standing) -> Result<(), Error> {
    let legal = matches!(
        (from, to),
        (_, "entered-in-error")
            | ("draft", "ready")
            | ("ready" | "on-hold", "in-progress")
            | ("ready" | "in-progress", "on-hold")
            | ("ready" | "in-progress" | "on-hold", "completed" | "failed" | "cancelled")
    );
    if !legal {
        let text = "A Task for a patient goes from ready to in-progress or on-hold, from any of these to completed, failed or cancelled, and no other way.";
        return Err(Error::refused("Task.status", text));
    }
    if matches!(to, "ready" | "entered-in-error") && matches!(standing, Standing::Owner | Standing::Claimant) {
        return Err(Error::refused("Task.status", "Only the one who asked (Task.requester) can set this (G-108)."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn task(status: &str) -> Resource {
        Resource::from_value(json!({"resourceType":"Task","id":"1","status":status,"intent":"order",
            "focus":{"reference":"ServiceRequest/1"},"owner":{"reference":"Organization/o"},"description":"d"}))
        .unwrap()
    }

    fn with(mut task: Resource, name: &str, value: Value) -> Resource {
        task.set(name, value);
        task
    }

    // G-101, G-107: `ready` is a status of its own there, and the owner changes no more than anywhere.
    #[test]
    fn a_patients_task_keeps_its_own_words() {
        let sent = with(task("in-progress"), "description", json!("other"));
        let stored = update_other(&task("ready"), &sent, Standing::Owner).unwrap().unwrap();
        assert_eq!((Task(&stored).status(), stored.text_at("description")), (Some("in-progress"), Some("d")));
        assert_eq!(update_other(&task("ready"), &task("ready"), Standing::Author).unwrap(), None);
        assert!(update_other(&task("completed"), &task("in-progress"), Standing::Owner).is_err());
        assert!(update_other(&task("completed"), &task("entered-in-error"), Standing::Author).is_ok());
    }

    // G-108: the guide's steps, each by its own side.
    #[test]
    fn a_patients_task_goes_the_guides_way() {
        let of =
            |status: &str| with(task(status), "owner", json!({"reference": "https://e/fhir/Patient/p/_history/1"}));
        let all = ["draft", "ready", "in-progress", "on-hold", "completed", "failed", "cancelled", "entered-in-error"];
        let by = |standing: Standing| {
            let mut found = Vec::new();
            for from in all {
                for to in all.into_iter().filter(|to| *to != from) {
                    if update_other(&of(from), &of(to), standing).is_ok() {
                        found.push(format!("{from} {to}"));
                    }
                }
            }
            found
        };
        let mut author = by(Standing::Author);
        let owner = by(Standing::Owner);
        let work = [
            "ready in-progress",
            "ready on-hold",
            "ready completed",
            "ready failed",
            "ready cancelled",
            "in-progress on-hold",
            "in-progress completed",
            "in-progress failed",
            "in-progress cancelled",
            "on-hold in-progress",
            "on-hold completed",
            "on-hold failed",
            "on-hold cancelled",
        ];
        assert_eq!(owner, work);
        // What the patient did, cancelling included, is told by who asked: no application of a patient has a token here.
        assert!(work.iter().all(|step| author.iter().any(|its| its == step)), "{author:?}");
        author.retain(|step| !work.contains(&step.as_str()));
        assert!(author.iter().all(|step| step == "draft ready" || step.ends_with(" entered-in-error")), "{author:?}");
        assert_eq!(author.len(), 8);
        // A Task of another kind has the steps of R4.
        assert!(update_other(&task("ready"), &task("requested"), Standing::Author).is_ok());
    }
}
