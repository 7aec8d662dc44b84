//! Whether consent allows a referral to be passed on, and to whom. Pure; asked at every disclosure, not only at intake.
//!
//! A Consent counts when it is active, of the same patient, within `provision.period`, does not deny, names the
//! recipient where it names recipients at all (`provision.actor`; the gateway stands for all it passes on to), and
//! names the kind of need where it names kinds of need (`provision.code` of the guide's categories). A nested
//! provision that denies counts where it concerns this disclosure. A sensitive need takes a Consent that names both
//! its kind and its recipient. An exception that is narrower than that
//! (classes, labels, data) counts as one for all: what can't be kept to in part is not disclosed. <https://hl7.org/fhir/R4/consent.html>

use serde_json::Value;

use crate::fhir::Resource;
use crate::fhir::views::{SDOHCC, codings, reference_of};
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
    /// It names other recipients.
    OtherRecipient,
    /// It is for other kinds of need.
    OtherCategory,
    /// The need is sensitive, and the Consent names not both it and the recipient.
    TooBroad,
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
            Refusal::OtherRecipient => "The Consent names other recipients (provision.actor).",
            Refusal::OtherCategory => "The Consent is for other kinds of need (provision.code).",
            Refusal::TooBroad => {
                "A need of this kind takes a Consent that names it (provision.code) and its recipient (provision.actor)."
            }
        }
    }
}

/// What is about to be disclosed.
#[derive(Debug, Clone, Copy)]
pub struct Disclosure<'a> {
    /// The reference in the form the Consents use.
    pub patient: &'a str,
    /// When.
    pub now: Timestamp,
    /// The kinds of need, codes of the guide's categories.
    pub domains: &'a [&'a str],
    /// Whether the need is one of those that take a narrow Consent.
    pub sensitive: bool,
    /// To whom; none while that is open.
    pub recipient: Option<&'a Recipient>,
}

/// The references of the Consents' actors that mean the recipient, and those that mean the gateway.
#[derive(Debug, Clone, Default)]
pub struct Recipient {
    /// The recipient itself.
    pub itself: Vec<Value>,
    /// The gateway.
    pub gateway: Vec<Value>,
}

/// Whether one of these Consents allows it.
pub fn allows<'a>(consents: impl Iterator<Item = &'a Resource>, asked: &Disclosure<'_>) -> Result<(), Refusal> {
    let mut best = Refusal::Missing;
    for consent in consents {
        match judge(consent, asked) {
            Ok(()) => return Ok(()),
            Err(refusal) => best = refusal,
        }
    }
    Err(best)
}

/// The actors of a Consent that receive: what they are referred to by.
pub fn recipients(consent: &Resource) -> Vec<&Value> {
    let top = consent.at("provision");
    let nested = top.map(nested).unwrap_or_default();
    top.into_iter().chain(nested).flat_map(actors).collect()
}

/// When a Consent ends, if it says so.
pub fn ends(consent: &Resource) -> Option<Timestamp> {
    let end = consent.at("provision")?.get("period")?.get("end")?.as_str()?;
    span_of(end).map(|(_, end)| end)
}

fn judge(consent: &Resource, asked: &Disclosure<'_>) -> Result<(), Refusal> {
    if consent.text_at("status") != Some("active") {
        return Err(Refusal::NotActive);
    }
    if reference_of(consent.at("patient")) != Some(asked.patient) {
        return Err(Refusal::OtherPatient);
    }
    let narrow = |provision: Option<&Value>| {
        let named = |provision: &Value| {
            let recipient = asked.recipient.is_none_or(|to| actors(provision).any(|one| to.itself.contains(one)));
            recipient && kinds(provision).any(|kind| asked.domains.contains(&kind))
        };
        if asked.sensitive && !provision.is_some_and(named) { Err(Refusal::TooBroad) } else { Ok(()) }
    };
    let Some(provision) = consent.at("provision") else { return narrow(None) };
    if denies(provision) {
        return Err(Refusal::Denied);
    }
    if !in_period(provision, asked.now) {
        return Err(Refusal::OutOfPeriod);
    }
    if !is_for(provision, asked) {
        return Err(Refusal::OtherRecipient);
    }
    if kinds(provision).next().is_some() && !kinds(provision).any(|kind| asked.domains.contains(&kind)) {
        return Err(Refusal::OtherCategory);
    }
    for exception in nested(provision).into_iter().filter(|one| denies(one) && in_period(one, asked.now)) {
        let kind = kinds(exception).next().is_none() || kinds(exception).any(|kind| asked.domains.contains(&kind));
        if kind && concerns(exception, asked) {
            return Err(Refusal::Denied);
        }
    }
    narrow(Some(provision))
}

fn denies(provision: &Value) -> bool {
    provision.get("type").and_then(Value::as_str) == Some("deny")
}

fn in_period(provision: &Value, now: Timestamp) -> bool {
    let edge = |name: &str| provision.get("period").and_then(|period| period.get(name)).and_then(Value::as_str);
    // A bound that can't be read is no bound that is kept.
    let begun = edge("start").is_none_or(|text| span_of(text).is_some_and(|(start, _)| start <= now));
    begun && edge("end").is_none_or(|text| span_of(text).is_some_and(|(_, end)| now < end))
}

/// Whether a permission reaches this recipient: it names nobody, or it, or the gateway.
fn is_for(provision: &Value, asked: &Disclosure<'_>) -> bool {
    let Some(to) = asked.recipient else { return true };
    let mut named = actors(provision).peekable();
    named.peek().is_none() || named.any(|one| to.itself.contains(one) || to.gateway.contains(one))
}

/// Whether a refusal reaches this recipient: it names nobody, or it. While nobody is chosen, none is refused.
fn concerns(provision: &Value, asked: &Disclosure<'_>) -> bool {
    let mut named = actors(provision).peekable();
    named.peek().is_none() || asked.recipient.is_some_and(|to| named.any(|one| to.itself.contains(one)))
}

fn nested(provision: &Value) -> Vec<&Value> {
    provision.get("provision").and_then(Value::as_array).map(|list| list.iter().collect()).unwrap_or_default()
}

/// References of the actors that receive; one without a known role is one of them.
fn actors(provision: &Value) -> impl Iterator<Item = &Value> {
    let all = provision.get("actor").and_then(Value::as_array).into_iter().flatten();
    all.filter(|actor| {
        let mut roles = actor.get("role").into_iter().flat_map(codings).map(|(_, code)| code).peekable();
        roles.peek().is_none() || roles.any(|code| ["IRCP", "PRCP"].contains(&code))
    })
    .filter_map(|actor| actor.get("reference"))
}

/// The kinds of need that a provision is about.
fn kinds(provision: &Value) -> impl Iterator<Item = &str> {
    let all = provision.get("code").and_then(Value::as_array).into_iter().flatten().flat_map(codings);
    all.filter(|(system, _)| *system == SDOHCC).map(|(_, code)| code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(recipient: Option<&Recipient>, sensitive: bool) -> Disclosure<'_> {
        let now = Timestamp::parse("2026-12-31T23:00:00Z").unwrap();
        Disclosure { patient: "Patient/1", now, domains: &["food-insecurity"], sensitive, recipient }
    }

    fn judged(change: impl FnOnce(&mut Value)) -> Result<(), Refusal> {
        let mut consent = json!({"resourceType":"Consent","status":"active","patient":{"reference":"Patient/1"},
            "provision":{"type":"permit","period":{"start":"2026-01-01","end":"2026-12-31"}}});
        change(&mut consent);
        let consent = Resource::from_value(consent).unwrap();
        allows(std::iter::once(&consent), &asked(None, false))
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
        assert_eq!(allows(std::iter::empty(), &asked(None, false)), Err(Refusal::Missing));
    }

    // SP-10, TC-06, G-183: to whom, for what, and exceptions; sensitive needs take a Consent that names both.
    #[test]
    fn recipients_kinds_and_exceptions_are_kept_to() {
        let organization = |id: &str| json!({"reference": format!("Organization/{id}")});
        let actor = |id: &str| json!({"role": {"coding": [{"code": "IRCP"}]}, "reference": organization(id)});
        let kind = |code: &str| json!([{"coding": [{"system": SDOHCC, "code": code}]}]);
        let pantry = Recipient { itself: vec![organization("pantry")], gateway: vec![organization("hub")] };
        for (provision, open, to_pantry, sensitive) in [
            (json!({}), Ok(()), Ok(()), Err(Refusal::TooBroad)),
            (json!({"actor": [actor("pantry")]}), Ok(()), Ok(()), Err(Refusal::TooBroad)),
            (json!({"actor": [actor("hub")]}), Ok(()), Ok(()), Err(Refusal::TooBroad)),
            (json!({"actor": [actor("other")]}), Ok(()), Err(Refusal::OtherRecipient), Err(Refusal::OtherRecipient)),
            (
                json!({"actor": [{"role": {"coding": [{"code": "CST"}]}, "reference": organization("clinic")}]}),
                Ok(()),
                Ok(()),
                Err(Refusal::TooBroad),
            ),
            (json!({"code": kind("food-insecurity")}), Ok(()), Ok(()), Err(Refusal::TooBroad)),
            (json!({"code": kind("food-insecurity"), "actor": [actor("pantry")]}), Ok(()), Ok(()), Ok(())),
            (json!({"code": kind("food-insecurity"), "actor": [actor("hub")]}), Ok(()), Ok(()), Err(Refusal::TooBroad)),
            (
                json!({"code": kind("elder-abuse")}),
                Err(Refusal::OtherCategory),
                Err(Refusal::OtherCategory),
                Err(Refusal::OtherCategory),
            ),
            (
                json!({"provision": [{"type": "deny", "actor": [actor("pantry")]}]}),
                Ok(()),
                Err(Refusal::Denied),
                Err(Refusal::Denied),
            ),
            (
                json!({"provision": [{"type": "deny", "actor": [actor("other")]}]}),
                Ok(()),
                Ok(()),
                Err(Refusal::TooBroad),
            ),
            (
                json!({"provision": [{"type": "deny", "code": kind("food-insecurity")}]}),
                Err(Refusal::Denied),
                Err(Refusal::Denied),
                Err(Refusal::Denied),
            ),
            (
                json!({"provision": [{"type": "deny", "period": {"end": "2020"}}]}),
                Ok(()),
                Ok(()),
                Err(Refusal::TooBroad),
            ),
        ] {
            let consent = json!({"resourceType": "Consent", "status": "active", "patient": {"reference": "Patient/1"},
                "provision": provision});
            let consent = Resource::from_value(consent).unwrap();
            let said = |asked: Disclosure<'_>| allows(std::iter::once(&consent), &asked);
            assert_eq!(said(asked(None, false)), open, "{provision}");
            assert_eq!(said(asked(Some(&pantry), false)), to_pantry, "{provision}");
            assert_eq!(said(asked(Some(&pantry), true)), sensitive, "{provision}");
        }
    }
}
