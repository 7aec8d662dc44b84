//! Whether consent allows a referral to be passed on. Pure.
//!
//! A Consent counts when it is active, of the same patient, within `provision.period`, and its provision does not deny
//! (interface §2). Finer semantics (recipients, categories) come with the security issue.
//! <https://hl7.org/fhir/R4/consent.html>

use serde_json::Value;

use crate::fhir::Resource;
use crate::fhir::views::reference_of;
use crate::time::{Timestamp, span_of};

/// Why a referral may not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ServiceRequest refers to no Consent.
    Missing,
    /// None of the Consents is active.
    NotActive,
    /// They are another patient's.
    OtherPatient,
    /// Its period has not begun or is over.
    OutOfPeriod,
    /// It denies.
    Denied,
}

impl Refusal {
    /// What is told to the source.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Missing => "There is no Consent in ServiceRequest.supportingInfo, and this gateway requires one.",
            Refusal::NotActive => "The Consent is not active.",
            Refusal::OtherPatient => "The Consent is not of the referral's patient.",
            Refusal::OutOfPeriod => "The Consent's period has not begun or is over.",
            Refusal::Denied => "The Consent denies the disclosure.",
        }
    }
}

/// Whether one of these Consents allows it. `patient` is the reference in the form the Consents use.
pub fn allows<'a>(consents: impl Iterator<Item = &'a Resource>, patient: &str, now: Timestamp) -> Result<(), Refusal> {
    let mut best = Refusal::Missing;
    for consent in consents {
        match judge(consent, patient, now) {
            Ok(()) => return Ok(()),
            Err(refusal) => best = refusal,
        }
    }
    Err(best)
}

fn judge(consent: &Resource, patient: &str, now: Timestamp) -> Result<(), Refusal> {
    if consent.text_at("status") != Some("active") {
        return Err(Refusal::NotActive);
    }
    if reference_of(consent.at("patient")) != Some(patient) {
        return Err(Refusal::OtherPatient);
    }
    let Some(provision) = consent.at("provision") else { return Ok(()) };
    if provision.get("type").and_then(Value::as_str) == Some("deny") {
        return Err(Refusal::Denied);
    }
    let edge = |name: &str| provision.get("period").and_then(|period| period.get(name)).and_then(Value::as_str);
    // A bound that can't be read is no bound that is kept.
    let begun = edge("start").is_none_or(|text| span_of(text).is_some_and(|(start, _)| start <= now));
    let lasts = edge("end").is_none_or(|text| span_of(text).is_some_and(|(_, end)| now < end));
    if begun && lasts { Ok(()) } else { Err(Refusal::OutOfPeriod) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(change: impl FnOnce(&mut Value)) -> Result<(), Refusal> {
        let mut consent = json!({"resourceType":"Consent","status":"active","patient":{"reference":"Patient/1"},
            "provision":{"type":"permit","period":{"start":"2026-01-01","end":"2026-12-31"}}});
        change(&mut consent);
        let consent = Resource::from_value(consent).unwrap();
        allows(std::iter::once(&consent), "Patient/1", Timestamp::parse("2026-12-31T23:00:00Z").unwrap())
    }

    // G-158
    #[test]
    fn only_an_active_permitting_consent_of_the_patient_in_its_period_counts() {
        assert_eq!(judged(|_| {}), Ok(()));
        assert_eq!(
            judged(|consent| {
                consent.as_object_mut().unwrap().remove("provision");
            }),
            Ok(())
        );
        for status in ["inactive", "rejected", "draft", "proposed", "entered-in-error"] {
            assert_eq!(judged(|consent| consent["status"] = json!(status)), Err(Refusal::NotActive));
        }
        assert_eq!(judged(|consent| consent["patient"]["reference"] = json!("Patient/2")), Err(Refusal::OtherPatient));
        assert_eq!(judged(|consent| consent["provision"]["type"] = json!("deny")), Err(Refusal::Denied));
        assert_eq!(
            judged(|consent| consent["provision"]["period"]["end"] = json!("2026-12-30")),
            Err(Refusal::OutOfPeriod)
        );
        assert_eq!(
            judged(|consent| consent["provision"]["period"]["start"] = json!("2027")),
            Err(Refusal::OutOfPeriod)
        );
        assert_eq!(
            judged(|consent| consent["provision"]["period"]["end"] = json!("someday")),
            Err(Refusal::OutOfPeriod)
        );
        assert_eq!(allows(std::iter::empty(), "Patient/1", Timestamp(0)), Err(Refusal::Missing));
    }
}
