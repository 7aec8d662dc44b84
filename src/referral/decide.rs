//! Command → event: what a party asks of a Task, and what may be stored of it. Pure.
//!
//! The author may change all but what the owner decides; the owner status, statusReason, output, and our businessStatus
//! and note; nobody else anything (design D3, G-055…G-062). What a client dropped on the way is kept. What it may not
//! change is ignored and the answer shows what is stored; an illegal step, or a negative ending without a reason, is
//! refused and nothing changes.

use serde_json::{Value, json};

use super::status::Status;
use crate::error::Error;
use crate::fhir::Resource;
use crate::fhir::views::{BUSINESS_STATUS, STATUS_REASON, Task, concept};

/// What a party is to a Task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It asked for it (Task.requester).
    Author,
    /// It is asked (Task.owner).
    Owner,
    /// It may become the owner of a Task that has none (design D9).
    Claimant,
    /// Author and owner at once: a coordinator on a Task between two of its own.
    Both,
}

/// What the body of an update was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// The status at the version the client read, when that is no longer the current version.
    pub stale_status: Option<Status>,
}

/// What was decided about an update.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It changes nothing: a repeat, or only things this party may not change.
    Unchanged,
    /// The Task becomes this.
    Changed {
        /// Its new content.
        task: Resource,
        /// The status it had.
        from: Status,
        /// The status it has.
        to: Status,
    },
}

/// The status of a stored Task.
pub fn status_of(task: &Resource) -> Status {
    Task(task).status().and_then(Status::parse).unwrap_or(Status::Requested)
}

/// Decides an update of a Task.
pub fn update(stored: &Resource, sent: &Resource, standing: Standing, basis: Basis) -> Result<Event, Error> {
    let from = status_of(stored);
    let wished = Task(sent).status().and_then(Status::parse).unwrap_or(from);
    if wished != from {
        let undoes = basis.stale_status == Some(wished);
        if undoes || (basis.stale_status.is_some_and(|stale| stale != from) && !from.may_become(wished)) {
            return Err(Error::conflict(format!(
                "This update was made from an older version and would undo the status {from}. Read the Task again."
            ))
            .at("Task.status"));
        }
        check_step(from, wished, standing)?;
    }
    let mut task = match standing {
        Standing::Author => by_author(stored, sent, from, wished),
        Standing::Owner => by_owner(stored, sent, from, wished)?,
        Standing::Claimant => claimed(stored, sent, from, wished)?,
        Standing::Both if matches!(wished, Status::Cancelled | Status::EnteredInError) && wished != from => {
            by_author(stored, sent, from, wished)
        }
        Standing::Both => {
            let owned = by_owner(stored, sent, from, wished)?;
            by_author(&owned, sent, wished, wished)
        }
    };
    if task.same_content(stored) {
        return Ok(Event::Unchanged);
    }
    if standing != Standing::Author {
        drop_stale_narrative(stored, &mut task);
    }
    Ok(Event::Changed { task, from, to: wished })
}

/// What a new referral may say of itself: what its author decides, or that it has ended, which is on record and asked of
/// nobody (G-031). That somebody has agreed to it, works on it or has paused is the word of the one who is asked (G-061),
/// and who says it in their place is not silently taken to have asked.
pub fn check_new(task: &Resource) -> Result<(), Error> {
    let status = status_of(task);
    match status {
        Status::Accepted | Status::InProgress | Status::OnHold => Err(Error::refused(
            "Task.status",
            format!(
                "A new Task can't be {status}: only the one who is asked (Task.owner) can set that (G-061). Send it as requested, or as draft."
            ),
        )),
        Status::Draft
        | Status::Requested
        | Status::Rejected
        | Status::Cancelled
        | Status::Failed
        | Status::Completed
        | Status::EnteredInError => Ok(()),
    }
}

fn check_step(from: Status, to: Status, standing: Standing) -> Result<(), Error> {
    if !from.may_become(to) {
        let next: Vec<&str> = Status::ALL.into_iter().filter(|next| from.may_become(*next)).map(Status::code).collect();
        let text = format!("A Task that is {from} can't become {to}. It can become: {}.", next.join(", "));
        return Err(Error::refused("Task.status", text));
    }
    let by_author = matches!(to, Status::Requested | Status::Draft | Status::EnteredInError);
    let by_owner = matches!(
        to,
        Status::Accepted | Status::Rejected | Status::InProgress | Status::OnHold | Status::Failed | Status::Completed
    );
    match standing {
        Standing::Author if by_owner => {
            Err(Error::refused("Task.status", format!("Only the one who is asked (Task.owner) can set {to} (G-061).")))
        }
        Standing::Owner | Standing::Claimant if by_author => {
            Err(Error::refused("Task.status", format!("Only the one who asked (Task.requester) can set {to} (G-060).")))
        }
        Standing::Claimant if to != Status::Accepted => Err(Error::refused(
            "Task.owner",
            "This Task has no owner yet. Claim it by setting yourself as owner and accepting it in one update.",
        )),
        _ => Ok(()),
    }
}

/// Elements the owner decides.
pub(super) const OWNED: &[&str] = &["status", "statusReason", "businessStatus", "output", "note"];

fn by_author(stored: &Resource, sent: &Resource, from: Status, to: Status) -> Resource {
    let mut task = sent.clone();
    for name in OWNED.iter().filter(|name| **name != "note") {
        task.set(name, stored.at(name).cloned().unwrap_or(Value::Null));
    }
    // Who acts on it and what it hangs on can't be changed once it is on its way; a new referral is a new Task.
    if from != Status::Draft {
        for name in ["focus", "for", "owner", "requester", "partOf", "code", "intent", "authoredOn", "identifier"] {
            if let Some(value) = stored.at(name) {
                task.set(name, value.clone());
            }
        }
    }
    keep_what_was_dropped(stored, &mut task);
    task.set("status", json!(to.code()));
    if to != from {
        let reason = sent.at("statusReason").cloned();
        task.set(
            "statusReason",
            match (to, reason) {
                (Status::Cancelled, None) => concept(
                    STATUS_REASON,
                    "cancelled-by-source",
                    "Cancelled by the referral source, without a reason given.",
                ),
                (_, reason) => reason.unwrap_or(Value::Null),
            },
        );
    }
    task
}

fn by_owner(stored: &Resource, sent: &Resource, from: Status, to: Status) -> Result<Resource, Error> {
    let mut task = stored.clone();
    task.set("status", json!(to.code()));
    if to != from {
        if to.needs_reason() && Task(sent).reason_text().is_none_or(|text| text.trim().is_empty()) {
            return Err(Error::refused(
                "Task.statusReason.text",
                format!("A Task that becomes {to} says why: give statusReason.text (G-047)."),
            )
            .code("required"));
        }
        // Sent back as it was read, it belongs to the status before.
        let reason =
            sent.at("statusReason").filter(|reason| to.needs_reason() || stored.at("statusReason") != Some(*reason));
        task.set("statusReason", reason.cloned().unwrap_or(Value::Null));
    } else if let Some(reason) = sent.at("statusReason") {
        task.set("statusReason", reason.clone());
    }
    // A client that sends back what it read has said nothing about who acts next.
    let said = sent.at("businessStatus").filter(|said| to == from || stored.at("businessStatus") != Some(*said));
    if let Some(status) = said {
        task.set("businessStatus", status.clone());
    } else if to != from {
        task.set(
            "businessStatus",
            business_status(to).map_or(Value::Null, |code| concept(BUSINESS_STATUS, code, code)),
        );
    }
    if Task(sent).status() == Some("received") {
        task.set("businessStatus", concept(BUSINESS_STATUS, "delivered", "delivered"));
    }
    for name in ["output", "note"] {
        if let Some(value) = sent.at(name) {
            task.set(name, value.clone());
        }
    }
    Ok(task)
}

/// The author's narrative, if it was generated, tells of the Task before the owner's step.
fn drop_stale_narrative(stored: &Resource, task: &mut Resource) {
    let text = stored.at("text").filter(|text| task.at("text") == Some(*text));
    let generated = text.and_then(|text| text.get("status")?.as_str()).is_some_and(|status| status != "additional");
    if generated {
        task.set("text", Value::Null);
    }
}

fn claimed(stored: &Resource, sent: &Resource, from: Status, to: Status) -> Result<Resource, Error> {
    if to != Status::Accepted || from != Status::Requested {
        let text = "This Task has no owner yet. Claim it by setting yourself as owner and accepting it in one update.";
        return Err(Error::refused("Task.owner", text));
    }
    let mut task = by_owner(stored, sent, from, to)?;
    task.set("owner", sent.at("owner").cloned().unwrap_or(Value::Null));
    Ok(task)
}

/// Primitive extensions that public clients lose between GET and PUT stay, unless their primitive went too.
pub(super) fn keep_what_was_dropped(stored: &Resource, task: &mut Resource) {
    let kept: Vec<(String, Value)> = stored
        .elements()
        .iter()
        .filter(|(name, _)| name.strip_prefix('_').is_some_and(|bare| stored.at(bare) == task.at(bare)))
        .filter(|(name, _)| task.at(name).is_none())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in kept {
        task.set(&name, value);
    }
}

/// The businessStatus that goes with a status when nobody said a better one (design D13).
pub fn business_status(status: Status) -> Option<&'static str> {
    match status {
        Status::Draft | Status::EnteredInError => None,
        Status::Requested => Some("submitted"),
        Status::Accepted => Some("service-pending"),
        Status::InProgress => Some("service-started"),
        Status::OnHold => Some("awaiting-client"),
        Status::Rejected | Status::Cancelled | Status::Failed | Status::Completed => Some("closed"),
    }
}

/// A Task moved one legal step by the gateway itself.
pub fn moved(task: &Resource, to: Status, reason: Option<Value>) -> Resource {
    let mut task = task.clone();
    task.set("status", json!(to.code()));
    task.set("statusReason", reason.unwrap_or(Value::Null));
    task.set("businessStatus", business_status(to).map_or(Value::Null, |code| concept(BUSINESS_STATUS, code, code)));
    task
}

/// Turns the codes of older peers into those that are stored and sent (G-188), before a Task is first stored.
pub fn normalise(task: &mut Resource) {
    let business = match Task(task).status() {
        Some("received") => Some("delivered"),
        _ => None,
    };
    let status = status_of(task);
    if Task(task).status().is_some() {
        task.set("status", json!(status.code()));
    }
    if let Some(code) = business {
        task.set("businessStatus", concept(BUSINESS_STATUS, code, code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    const FRESH: Basis = Basis { stale_status: None };

    fn task(status: &str) -> Resource {
        Resource::from_value(json!({"resourceType":"Task","id":"1","status":status,"intent":"order",
            "focus":{"reference":"ServiceRequest/1"},"owner":{"reference":"Organization/o"},"description":"d",
            "_description":{"extension":[{"url":"x","valueCode":"y"}]}}))
        .unwrap()
    }

    fn with(mut task: Resource, name: &str, value: Value) -> Resource {
        task.set(name, value);
        task
    }

    fn changed(event: Event) -> Resource {
        match event {
            Event::Changed { task, .. } => task,
            Event::Unchanged => panic!("unchanged"),
        }
    }

    // what the author's generated narrative tells is no longer so; one that says more is the author's own word.
    #[test]
    fn an_owners_step_drops_the_generated_narrative() {
        for (status, kept) in [("generated", false), ("additional", true)] {
            let stored = with(task("accepted"), "text", json!({"status": status, "div": "<div>accepted</div>"}));
            let sent = with(stored.clone(), "status", json!("in-progress"));
            let now = changed(update(&stored, &sent, Standing::Owner, FRESH).unwrap());
            assert_eq!(now.at("text").is_some(), kept, "{status}");
            assert_eq!(update(&stored, &stored, Standing::Owner, FRESH).unwrap(), Event::Unchanged);
        }
    }

    // G-056, G-059: whatever else an owner sends is ignored.
    #[test]
    fn an_owner_changes_status_reason_output_and_nothing_else() {
        let sent = with(
            with(
                with(task("accepted"), "description", json!("other")),
                "focus",
                json!({"reference":"ServiceRequest/2"}),
            ),
            "output",
            json!([{"type":{"text":"x"},"valueString":"y"}]),
        );
        let stored = changed(update(&task("requested"), &sent, Standing::Owner, FRESH).unwrap());
        assert_eq!(stored.text_at("description"), Some("d"));
        assert_eq!(Task(&stored).focus(), Some("ServiceRequest/1"));
        assert_eq!((status_of(&stored), stored.list("output").len()), (Status::Accepted, 1));
    }

    // G-060, G-061
    #[test]
    fn each_status_is_set_by_its_own_side() {
        for (from, to, standing) in [
            ("requested", "accepted", Standing::Author),
            ("accepted", "completed", Standing::Author),
            ("draft", "requested", Standing::Owner),
            ("requested", "entered-in-error", Standing::Owner),
        ] {
            let error = update(&task(from), &task(to), standing, FRESH).unwrap_err();
            assert_eq!(
                (error.kind, error.issues[0].expression.as_deref()),
                (Kind::Refused, Some("Task.status")),
                "{from} {to}"
            );
        }
        assert!(update(&task("draft"), &task("requested"), Standing::Author, FRESH).is_ok());
        assert!(update(&task("completed"), &task("entered-in-error"), Standing::Author, FRESH).is_ok());
    }

    // G-062
    #[test]
    fn a_negative_ending_says_why_unless_it_is_the_sources_cancellation() {
        for (from, to) in [("requested", "rejected"), ("accepted", "failed"), ("accepted", "cancelled")] {
            let error = update(&task(from), &task(to), Standing::Owner, FRESH).unwrap_err();
            assert_eq!(error.issues[0].expression.as_deref(), Some("Task.statusReason.text"));
            let sent = with(task(to), "statusReason", json!({"text":"because"}));
            assert!(update(&task(from), &sent, Standing::Owner, FRESH).is_ok());
        }
        let cancelled = changed(update(&task("accepted"), &task("cancelled"), Standing::Author, FRESH).unwrap());
        assert!(Task(&cancelled).reason_text().unwrap().contains("source"));
    }

    #[test]
    fn what_a_client_dropped_is_kept_and_a_repeat_changes_nothing() {
        let mut sent = with(task("requested"), "priority", json!("urgent"));
        sent.set("_description", Value::Null);
        let stored = changed(update(&task("requested"), &sent, Standing::Author, FRESH).unwrap());
        assert!(stored.at("_description").is_some());
        assert_eq!(update(&task("accepted"), &task("accepted"), Standing::Owner, FRESH).unwrap(), Event::Unchanged);
    }

    // design D10
    #[test]
    fn a_stale_body_may_not_undo_a_newer_status() {
        let stale = Basis { stale_status: Some(Status::InProgress) };
        assert_eq!(
            update(&task("on-hold"), &task("in-progress"), Standing::Owner, stale).unwrap_err().kind,
            Kind::Conflict
        );
        let stale = Basis { stale_status: Some(Status::Requested) };
        assert_eq!(
            update(&task("accepted"), &task("requested"), Standing::Author, stale).unwrap_err().kind,
            Kind::Conflict
        );
        // made from an older version of the same status, and a step that is still legal
        assert!(update(&task("requested"), &task("accepted"), Standing::Owner, stale).is_ok());
    }

    // design D9
    #[test]
    fn claiming_is_accepting_with_oneself_as_owner() {
        let open = with(task("requested"), "owner", Value::Null);
        let sent = with(task("accepted"), "owner", json!({"reference":"Organization/me"}));
        let stored = changed(update(&open, &sent, Standing::Claimant, FRESH).unwrap());
        assert_eq!(Task(&stored).owner(), Some("Organization/me"));
        let sent = with(task("rejected"), "statusReason", json!({"text":"no"}));
        assert_eq!(
            update(&open, &sent, Standing::Claimant, FRESH).unwrap_err().issues[0].expression.as_deref(),
            Some("Task.owner")
        );
    }

    #[test]
    fn received_is_stored_as_requested_and_delivered() {
        let stored = changed(update(&task("requested"), &task("received"), Standing::Owner, FRESH).unwrap());
        assert_eq!(status_of(&stored), Status::Requested);
        assert_eq!(stored.at("businessStatus").unwrap()["coding"][0]["code"], "delivered");
    }

    proptest! {
        #[test]
        fn no_command_makes_an_illegal_step(from in 0..10usize, to in 0..10usize, who in 0..4usize, stale in proptest::option::of(0..10usize)) {
            let (from, to) = (Status::ALL[from], Status::ALL[to]);
            let standing = [Standing::Author, Standing::Owner, Standing::Claimant, Standing::Both][who];
            let sent = with(task(to.code()), "statusReason", json!({"text":"x"}));
            let basis = Basis { stale_status: stale.map(|index| Status::ALL[index]) };
            if let Ok(Event::Changed { task, .. }) = update(&task(from.code()), &sent, standing, basis) {
                let now = status_of(&task);
                prop_assert!(now == from || from.may_become(now));
            }
        }
    }
}
