//! The guide's rules for referral Tasks, ServiceRequests and Procedures beyond R4, each with its FHIRPath.
//!
//! Rules are named by their ids in `conformance/requirements`. Leaves out the guide's other profiles.

use serde_json::Value;

use crate::error::Issue;
use crate::fhir::resource::Resource;
use crate::fhir::views::{SDOHCC, TASK_CODE, Task, has_coding, reference_of};

/// What the guide adds for the types whose faults are refused.
pub(super) fn faults(resource: &Resource) -> Vec<Issue> {
    let name = resource.kind().name();
    let mut faults = Faults { name, issues: Vec::new() };
    match name {
        "Task" => task(Task(resource), &mut faults),
        "ServiceRequest" => service_request(resource, &mut faults),
        "Procedure" => procedure(resource, &mut faults),
        _ => {}
    }
    faults.issues
}

struct Faults {
    name: &'static str,
    issues: Vec<Issue>,
}

impl Faults {
    fn add(&mut self, code: &'static str, element: &str, text: impl Into<String>) {
        let expression = Some(format!("{}.{element}", self.name));
        self.issues.push(Issue { code, text: text.into(), expression });
    }
    fn required(&mut self, resource: &Resource, element: &str) -> bool {
        let there = resource.at(element).is_some() || resource.at(&format!("_{element}")).is_some();
        if !there {
            self.add("required", element, format!("{}.{element} is required.", self.name));
        }
        there
    }
    /// A Reference that is there must say something, and may only point at these types.
    fn reference(&mut self, value: Option<&Value>, element: &str, types: &[&str]) {
        let Some(value) = value else { return };
        let Some(text) = reference_of(Some(value)) else {
            return;
        };
        let kind = text.split("/_history/").next().and_then(|bare| bare.rsplit('/').nth(1));
        if !types.is_empty()
            && kind.is_some_and(|kind| crate::fhir::ResourceType::parse(kind).is_some() && !types.contains(&kind))
        {
            self.add("value", element, format!("This reference may point at: {}.", types.join(", ")));
        }
    }
}

fn task(task: Task<'_>, faults: &mut Faults) {
    let resource = task.0;
    for (index, item) in resource.list("input").iter().enumerate() {
        let additional =
            item.get("type").is_some_and(|concept| has_coding(concept, Some(SDOHCC), "additional-content"));
        if additional && item.get("valueReference").is_none() {
            faults.add("required", &format!("input[{index}].value"), "Additional content is a valueReference (G-050).");
        }
    }
    if resource.at("statusReason").is_some() && task.reason_text().is_none() {
        faults.add("required", "statusReason.text", "A statusReason has a text that people can read (G-046).");
    }
    if !task.is_referral() {
        return;
    }
    if resource.text_at("intent").is_some_and(|intent| intent != "order") {
        faults.add("value", "intent", "A referral Task has the intent order (G-039).");
    }
    if faults.required(resource, "code")
        && !resource.at("code").is_some_and(|code| has_coding(code, Some(TASK_CODE), "fulfill"))
    {
        faults.add("value", "code", format!("A referral Task has the code {TASK_CODE}#fulfill (G-040)."));
    }
    if faults.required(resource, "focus") {
        faults.reference(resource.at("focus"), "focus", &["ServiceRequest"]);
    }
    if faults.required(resource, "for") {
        faults.reference(resource.at("for"), "for", &["Patient", "RelatedPerson", "Group"]);
    }
    faults.required(resource, "authoredOn");
    if faults.required(resource, "requester") {
        faults.reference(resource.at("requester"), "requester", &["PractitionerRole", "Organization"]);
    }
}

fn service_request(resource: &Resource, faults: &mut Faults) {
    faults.required(resource, "code");
    faults.reference(resource.at("subject"), "subject", &["Patient", "Group", "Location"]);
    for element in ["bodySite", "specimen"] {
        if resource.at(element).is_some() {
            faults.add("structure", element, format!("A social-care ServiceRequest has no {element} (G-076)."));
        }
    }
}

fn procedure(resource: &Resource, faults: &mut Faults) {
    faults.required(resource, "code");
    faults.reference(resource.at("subject"), "subject", &["Patient", "Group"]);
    let performed = resource
        .elements()
        .keys()
        .any(|name| name.trim_start_matches('_').starts_with("performed") && name != "performer");
    if matches!(resource.text_at("status"), Some("completed" | "in-progress")) && !performed {
        faults.add(
            "invariant",
            "performed",
            "A completed or running Procedure says when it was performed (us-core-7, G-083).",
        );
    }
    let domains = resource
        .at("category")
        .map_or(0, |category| crate::fhir::views::codings(category).filter(|(system, _)| *system == SDOHCC).count());
    if domains > 1 {
        faults.add("structure", "category", "A Procedure has at most one SDOH domain (G-084).");
    }
}
