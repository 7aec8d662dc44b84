//! What a resource must satisfy: R4's structure, cardinalities, formats, codes and invariants, then its profiles.
//!
//! [`examine`] finds everything and tells it as the standard weighs it. [`check`] is the door for writes (design D16b):
//! what is no FHIR JSON is [`Kind::Malformed`]; what breaks R4, or one of the profiles whose faults are refused, is
//! [`Kind::Invalid`]; faults against other profiles are stored and told as warnings. Terminologies that are not here
//! are left open. <https://hl7.org/fhir/R4/validation.html>

#[cfg(test)]
mod agreement;
mod binding;
mod conform;
mod contained;
mod invariant;
pub(in crate::fhir) mod narrative;
mod place;
mod primitive;
mod reading;
mod slicing;
mod walk;

use serde_json::{Map, Value};

use super::definitions::{self, TypeDef};
use super::profile::{Profile, Profiles};
use super::resource::Resource;
use crate::error::{Error, Issue, Kind};
use conform::Conform;
use place::Place;

/// How much a finding weighs. <https://hl7.org/fhir/R4/valueset-issue-severity.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The standard or the profile forbids it.
    Error,
    /// Worth mending.
    Warning,
    /// Not checked here, and why.
    Information,
}

impl Severity {
    /// The code of OperationOutcome.
    pub fn code(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Information => "information",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// What and where.
    pub issue: Issue,
    source: Source,
}

/// Which rule was broken; decides what a write does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The JSON is not that of the type.
    Structure,
    /// R4.
    Base,
    /// A profile whose faults are refused.
    Refusing,
    /// Another profile: what breaks it is stored.
    Advising,
}

impl Finding {
    fn new(severity: Severity, code: &'static str, text: String, expression: String) -> Self {
        Finding { severity, issue: Issue { code, text, expression: Some(expression) }, source: Source::Base }
    }
    /// Whether a write is refused for it.
    fn is_refused(&self) -> bool {
        // `received` and `ready` are R4's; peers of the guide's first release send them, and we read them as ours (G-188).
        let bridged = self.issue.code == "code-invalid" && self.issue.expression.as_deref() == Some("Task.status");
        self.severity == Severity::Error
            && match self.source {
                Source::Structure | Source::Base => true,
                Source::Refusing => !bridged,
                Source::Advising => false,
            }
    }
    fn structure(text: String, expression: String) -> Self {
        Finding { source: Source::Structure, ..Finding::new(Severity::Error, "structure", text, expression) }
    }
}

/// Everything there is to say about a resource, of whatever type: R4's rules first, then each profile's.
pub fn examine(resource: &Value, profiles: &Profiles) -> Vec<Finding> {
    examine_also(resource, profiles, &[])
}

/// [`examine`], and these profiles as well.
fn examine_also(resource: &Value, profiles: &Profiles, also: &[&Profile]) -> Vec<Finding> {
    let mut walk = walk::Walk { profiles, findings: Vec::new() };
    let place = Place::root(definition_of(resource).map_or("Resource", |def| def.name));
    walk.resource(resource, resource, &place, walk::Position::Own(also));
    walk.findings
}

/// [`examine`] for JSON that may be no object at all, against one profile more if it is named.
pub fn examine_value(value: &Value, profiles: &Profiles, also: Option<&str>) -> Result<Vec<Finding>, Error> {
    if !value.is_object() {
        return Err(Error::malformed("A resource is a JSON object."));
    }
    let named = also.map(|canonical| profiles.claimed(canonical)).unwrap_or_default();
    if also.is_some() && named.is_empty() {
        return Err(Error::new(Kind::NotSupported, "The profile to check against is not known here.").code("not-found"));
    }
    Ok(examine_also(value, profiles, &named))
}

/// Checks a resource against the profiles that it must meet; `findings` holds what R4 has to say about it.
fn conformance(
    resource: &Value,
    profiles: &Profiles,
    also: &[&Profile],
    place: &Place<'_>,
    findings: &mut Vec<Finding>,
) {
    let (Some(def), Some(map)) = (definition_of(resource), resource.as_object()) else { return };
    let (mut duties, unknown) = profiles.of(map);
    for profile in also {
        profiles.add(&mut duties, profile);
    }
    for duty in duties {
        let source = if duty.refusing { Source::Refusing } else { Source::Advising };
        if !duty.profile.whole && !profiles.knows(&duty.profile.base) {
            let text = format!("Not checked: what the profile {} builds on is not known here.", duty.profile.title);
            findings.push(Finding::new(Severity::Information, "informational", text, place.to_string()));
        }
        let mut conform = Conform::new(profiles, duty.profile, source, resource);
        conform.resource(def, place);
        // What R4 or another profile has told of an element is not told again.
        let same = |one: &Finding, other: &Finding| {
            one.severity == other.severity
                && one.issue.code == other.issue.code
                && one.issue.expression == other.issue.expression
                && (one.issue.code != "invariant" || one.issue.text == other.issue.text)
        };
        for finding in conform.findings {
            match findings.iter_mut().find(|known| same(known, &finding)) {
                Some(known) if known.source == Source::Advising => known.source = finding.source,
                Some(_) => {}
                None => findings.push(finding),
            }
        }
    }
    if !unknown.is_empty() {
        let text = format!("Not checked: not known here are {} of the profiles that it claims.", unknown.len());
        let expression = place.at("meta").at("profile").to_string();
        findings.push(Finding::new(Severity::Information, "informational", text, expression));
    }
}

/// Checks a resource that a client wants stored; answers what is worth telling all the same.
pub fn check(resource: &Resource, profiles: &Profiles) -> Result<Vec<Finding>, Error> {
    let (refused, told): (Vec<Finding>, Vec<Finding>) =
        examine(resource.value(), profiles).into_iter().partition(Finding::is_refused);
    let malformed = refused.iter().any(|finding| finding.source == Source::Structure);
    let kind = if malformed { Kind::Malformed } else { Kind::Invalid };
    let issues = refused.into_iter().map(|finding| finding.issue).collect();
    if let Some(error) = Error::from_issues(kind, issues) {
        return Err(error);
    }
    let worth = told.into_iter().filter(|finding| {
        let of_profile = matches!(finding.source, Source::Refusing | Source::Advising);
        of_profile && finding.severity != Severity::Information
    });
    Ok(worth.map(|finding| Finding { severity: Severity::Warning, ..finding }).collect())
}

/// The type that a resource says it is of.
fn definition_of(resource: &Value) -> Option<&'static TypeDef> {
    resource.get("resourceType").and_then(Value::as_str).and_then(definitions::resource)
}

/// What a reference points at within this resource.
fn contained<'a>(reference: &Map<String, Value>, root: &'a Value) -> Option<&'a Value> {
    let id = reading::text(reference, "reference")?.strip_prefix('#')?;
    let mut contained = root.get("contained").and_then(Value::as_array).into_iter().flatten();
    contained.find(|body| body.get("id").is_some_and(|own| own == id))
}

/// The type that a reference points at, as far as its text tells; what is contained is looked up in its holder.
fn target_type<'a>(reference: &'a str, root: &'a Value) -> Option<&'a str> {
    let root = root.as_object()?;
    if let Some(id) = reference.strip_prefix('#') {
        let mut contained = reading::items(root, "contained");
        let own = if id.is_empty() { Some(root) } else { contained.find(|body| reading::text(body, "id") == Some(id)) };
        return own.and_then(|body| reading::text(body, "resourceType"));
    }
    let bare = reference.split(['?', '#']).next()?.split("/_history/").next()?;
    bare.rsplit('/').nth(1).filter(|name| definitions::resource(name).is_some())
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::views::{SDOHCC, TASK_CODE};
    use serde_json::json;

    fn task() -> Value {
        json!({"resourceType":"Task","status":"requested","intent":"order",
            "code":{"coding":[{"system":TASK_CODE,"code":"fulfill"}]},"focus":{"reference":"https://e/fhir/ServiceRequest/1"},
            "for":{"reference":"https://e/fhir/Patient/1"},"authoredOn":"2026-01-01T00:00:00Z",
            "requester":{"reference":"PractitionerRole/1"}})
    }

    fn faults(value: Value) -> Vec<String> {
        match check(&Resource::from_value(value).unwrap(), Profiles::own()) {
            Ok(_) => Vec::new(),
            Err(error) => error.issues.into_iter().filter_map(|issue| issue.expression).collect(),
        }
    }

    fn with(name: &str, value: Value) -> Value {
        let mut task = task();
        task[name] = value;
        task
    }

    #[test]
    fn a_good_referral_task_passes_and_keeps_extensions() {
        assert_eq!(faults(task()), Vec::<String>::new());
        assert_eq!(
            faults(with("_status", json!({"extension":[{"url":"http://example.org/x","valueCode":"y"}]}))),
            Vec::<String>::new()
        );
    }

    // G-038 to G-050: each rule broken alone names its element.
    // G-039, G-040, G-041, G-042, G-044, G-046
    #[test]
    fn each_broken_rule_names_its_element() {
        for (name, value, expression) in [
            ("status", json!("done"), "Task.status"),
            ("intent", json!("plan"), "Task.intent"),
            ("code", json!({"coding":[{"system":TASK_CODE,"code":"approve"}]}), "Task.code"),
            ("focus", json!({"reference":"ServiceRequest/"}), "Task.focus"),
            ("focus", json!({"reference":"Patient/1"}), "Task.focus"),
            ("for", json!({"reference":"Organization/1"}), "Task.for"),
            ("requester", json!({"reference":"Practitioner/1"}), "Task.requester"),
            ("authoredOn", json!("yesterday"), "Task.authoredOn"),
            ("statusReason", json!({"coding":[{"code":"x"}]}), "Task.statusReason.text"),
            ("priority", json!("soon"), "Task.priority"),
            ("output", json!([{"type":{"text":"x"}}]), "Task.output[0].value"),
            (
                "input",
                json!([{"type":{"coding":[{"system":SDOHCC,"code":"additional-content"}]},"valueString":"x"}]),
                "Task.input[0].value",
            ),
            ("note", json!([]), "Task.note"),
            ("description", json!(""), "Task.description"),
        ] {
            assert_eq!(faults(with(name, value)), [expression], "{name}");
        }
        for name in ["status", "intent", "focus", "for", "authoredOn", "requester"] {
            let mut bare = task();
            bare.as_object_mut().unwrap().shift_remove(name);
            assert_eq!(faults(bare), [format!("Task.{name}")]);
        }
    }

    #[test]
    fn wrong_forms_and_unknown_elements_are_malformed() {
        for (name, value) in [
            ("status", json!(["requested"])),
            ("for", json!("Patient/1")),
            ("colour", json!("red")),
            ("output", json!({"type":{}})),
            ("description", json!(1)),
        ] {
            let error = check(&Resource::from_value(with(name, value)).unwrap(), Profiles::own()).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed, "{name}");
        }
    }

    // G-083, G-068
    #[test]
    fn all_faults_come_at_once() {
        assert_eq!(
            faults(json!({"resourceType":"ServiceRequest","status":"x","intent":"order","bodySite":[{"text":"x"}]})),
            ["ServiceRequest.status", "ServiceRequest.subject", "ServiceRequest.code", "ServiceRequest.bodySite"]
        );
        assert_eq!(
            faults(
                json!({"resourceType":"Procedure","status":"completed","subject":{"reference":"Patient/1"},"code":{"coding":[{"system":"http://snomed.info/sct","code":"710925007"}]}})
            ),
            ["Procedure.performed"]
        );
    }
}
