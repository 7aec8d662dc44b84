//! Typed views of the elements the gateway reasons about. They read; they never change and never copy a resource.
//!
//! Codes are the SDOH Clinical Care guide's (<http://hl7.org/fhir/us/sdoh-clinicalcare>) and our own (`profiles/`).

use serde_json::{Value, json};

use super::resource::Resource;

/// The guide's temporary CodeSystem.
pub const SDOHCC: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/CodeSystem/SDOHCC-CodeSystemTemporaryCodes";
/// The guide's profile of a referral Task.
pub const REFERRAL_TASK_PROFILE: &str =
    "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForReferralManagement";
/// The guide's profile of a patient Task.
pub const PATIENT_TASK_PROFILE: &str =
    "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForPatient";
/// The guide's capacity extension of a HealthcareService.
pub const CAPACITY_EXTENSION: &str =
    "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-ExtensionHealthcareServiceCapacityStatus";
/// R4's Task codes.
pub const TASK_CODE: &str = "http://hl7.org/fhir/CodeSystem/task-code";
/// Our businessStatus codes (design D13).
pub const BUSINESS_STATUS: &str = "https://loopgate.org/fhir/CodeSystem/business-status";
/// Our statusReason codes.
pub const STATUS_REASON: &str = "https://loopgate.org/fhir/CodeSystem/status-reason";

/// The text of `element.reference`.
pub fn reference_of(value: Option<&Value>) -> Option<&str> {
    value?.get("reference")?.as_str()
}

/// Whether a CodeableConcept carries this coding; `None` for the system matches any.
pub fn has_coding(concept: &Value, system: Option<&str>, code: &str) -> bool {
    codings(concept).any(|(its_system, its_code)| its_code == code && system.is_none_or(|system| system == its_system))
}

/// System and code of each coding of a CodeableConcept.
pub fn codings(concept: &Value) -> impl Iterator<Item = (&str, &str)> {
    concept.get("coding").and_then(Value::as_array).into_iter().flatten().filter_map(|coding| {
        let system = coding.get("system").and_then(Value::as_str).unwrap_or("");
        Some((system, coding.get("code")?.as_str()?))
    })
}

/// A CodeableConcept of one coding, with a text.
pub fn concept(system: &str, code: &str, text: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}], "text": text})
}

/// System and value of each `identifier`.
pub fn identifiers(resource: &Resource) -> impl Iterator<Item = (&str, &str)> {
    resource.list("identifier").iter().filter_map(|identifier| {
        let system = identifier.get("system").and_then(Value::as_str).unwrap_or("");
        Some((system, identifier.get("value")?.as_str()?))
    })
}

/// A Task.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a>(pub &'a Resource);

impl<'a> Task<'a> {
    /// `Task.status`
    pub fn status(self) -> Option<&'a str> {
        self.0.text_at("status")
    }
    /// `Task.owner.reference`
    pub fn owner(self) -> Option<&'a str> {
        reference_of(self.0.at("owner"))
    }
    /// `Task.requester.reference`
    pub fn requester(self) -> Option<&'a str> {
        reference_of(self.0.at("requester"))
    }
    /// `Task.focus.reference`
    pub fn focus(self) -> Option<&'a str> {
        reference_of(self.0.at("focus"))
    }
    /// `Task.for.reference`
    pub fn patient(self) -> Option<&'a str> {
        reference_of(self.0.at("for"))
    }
    /// `Task.partOf[*].reference`
    pub fn part_of(self) -> impl Iterator<Item = &'a str> {
        self.0.list("partOf").iter().filter_map(|part| reference_of(Some(part)))
    }
    /// `Task.output`
    pub fn outputs(self) -> &'a [Value] {
        self.0.list("output")
    }
    /// `Task.output[*].valueReference.reference`
    pub fn output_references(self) -> impl Iterator<Item = &'a str> {
        self.outputs().iter().filter_map(|output| reference_of(output.get("valueReference")))
    }
    /// `Task.statusReason.text`
    pub fn reason_text(self) -> Option<&'a str> {
        self.0.at("statusReason")?.get("text")?.as_str()
    }
    /// Whether someone is asked to fulfil a ServiceRequest, rather than a patient to do something.
    pub fn is_referral(self) -> bool {
        let profiles = self.0.at("meta").and_then(|meta| meta.get("profile"));
        let claims = |url: &str| {
            profiles.and_then(Value::as_array).is_some_and(|list| list.iter().any(|profile| profile == url))
        };
        if claims(PATIENT_TASK_PROFILE) {
            return false;
        }
        claims(REFERRAL_TASK_PROFILE)
            || self.0.at("code").is_some_and(|code| has_coding(code, None, "fulfill"))
            || self.focus().is_some_and(|focus| focus.contains("ServiceRequest/"))
    }
}

/// A ServiceRequest.
#[derive(Debug, Clone, Copy)]
pub struct ServiceRequest<'a>(pub &'a Resource);

impl<'a> ServiceRequest<'a> {
    /// `ServiceRequest.status`
    pub fn status(self) -> Option<&'a str> {
        self.0.text_at("status")
    }
    /// `ServiceRequest.doNotPerform`, which turns the request into its opposite.
    pub fn is_not_to_be_done(&self) -> bool {
        self.0.at("doNotPerform") == Some(&Value::Bool(true))
    }
    /// `ServiceRequest.subject.reference`
    pub fn subject(self) -> Option<&'a str> {
        reference_of(self.0.at("subject"))
    }
    /// The SDOH domains of `ServiceRequest.category`.
    pub fn domains(self) -> impl Iterator<Item = &'a str> {
        let all = self.0.list("category").iter().flat_map(codings);
        all.filter(|(system, _)| *system == SDOHCC).map(|(_, code)| code)
    }
    /// `ServiceRequest.performer[*]`
    pub fn performers(self) -> &'a [Value] {
        self.0.list("performer")
    }
    /// References of `supportingInfo`.
    pub fn supporting_info(self) -> impl Iterator<Item = &'a str> {
        self.0.list("supportingInfo").iter().filter_map(|item| reference_of(Some(item)))
    }
}

/// The capacity code of a HealthcareService, if it says one; the ballot's spelling reads as the final one (G-192).
pub fn capacity(service: &Resource) -> Option<&str> {
    let extension =
        service.list("extension").iter().find(|item| item.get("url").is_some_and(|url| url == CAPACITY_EXTENSION))?;
    let parts = extension.get("extension")?.as_array()?;
    let status = parts.iter().find(|part| part.get("url").is_some_and(|url| url == "capacityStatus"))?;
    let code = codings(status.get("valueCodeableConcept")?).next().map(|(_, code)| code)?;
    Some(if code == "no-capacity-has-waitlist" { "waitlist" } else { code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referral_is_told_from_a_patient_task() {
        let task = |value| Resource::from_value(value).unwrap();
        assert!(Task(&task(json!({"resourceType":"Task","code":{"coding":[{"code":"fulfill"}]}}))).is_referral());
        assert!(
            Task(&task(json!({"resourceType":"Task","focus":{"reference":"https://e/ServiceRequest/1"}})))
                .is_referral()
        );
        assert!(
            !Task(&task(json!({"resourceType":"Task","meta":{"profile":[PATIENT_TASK_PROFILE]},
            "code":{"coding":[{"code":"fulfill"}]}})))
            .is_referral()
        );
    }

    // G-192
    #[test]
    fn capacity_reads_both_spellings() {
        let service = |code: &str| {
            Resource::from_value(json!({"resourceType":"HealthcareService","extension":[
            {"url":CAPACITY_EXTENSION,"extension":[{"url":"capacityStatus","valueCodeableConcept":{"coding":[{"system":SDOHCC,"code":code}]}}]}]})).unwrap()
        };
        assert_eq!(capacity(&service("no-capacity")), Some("no-capacity"));
        assert_eq!(capacity(&service("no-capacity-has-waitlist")), Some("waitlist"));
    }
}
