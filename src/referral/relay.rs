//! What an intermediary makes of a referral: its own ServiceRequest (`filler-order`, `basedOn` the original) and its own
//! Task (`partOf` the original) for one target (G-016…G-021).
//!
//! All references are to resources on this server; the sender makes them absolute. Everything the original says and
//! the target needs is carried along, `orderDetail` (do not contact) included (G-075).

use serde_json::{Value, json};

use crate::fhir::reference;
use crate::fhir::views::{BUSINESS_STATUS, REFERRAL_TASK_PROFILE, TASK_CODE, concept};
use crate::fhir::{Key, Resource, ResourceType};
use crate::time::Timestamp;

/// The profile of a referral ServiceRequest.
const REQUEST_PROFILE: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-ServiceRequest";

/// Who is asked to fulfil a referral.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The partner's id, which is its Organization's too.
    pub partner: String,
    /// The HealthcareService it is asked for, if one is meant.
    pub service: Option<String>,
}

/// Our ServiceRequest to a target. `original` is our copy of the source's; no target means an open referral.
pub fn service_request(original: &Resource, target: Option<&Target>, now: Timestamp) -> Resource {
    let mut request = original.clone();
    for name in ["id", "meta", "text", "identifier", "performer", "performerType", "replaces"] {
        request.set(name, Value::Null);
    }
    let mut meta = json!({"profile": [REQUEST_PROFILE]});
    if let Some(labels) = original.at("meta").and_then(|meta| meta.get("security")) {
        meta["security"] = labels.clone();
    }
    request.set("meta", meta);
    request.set("status", json!("active"));
    request.set("intent", json!("filler-order"));
    request.set("authoredOn", json!(now.to_string()));
    if let Some(key) = original.key() {
        request.set("basedOn", json!([{"reference": key.to_string()}]));
    }
    if let Some(target) = target {
        let mut performers = vec![json!({"reference": format!("Organization/{}", target.partner)})];
        if let Some(service) = &target.service {
            performers.insert(0, json!({"reference": format!("HealthcareService/{service}")}));
        }
        request.set("performer", Value::Array(performers));
    }
    carry_contained(&mut request, original);
    request
}

/// Carries along what of the original's contained resources ours refers to, and no more: a `#…` that leads nowhere, and
/// something contained that nobody refers to, are both wrong (ref-1, dom-3).
pub fn carry_contained(ours: &mut Resource, original: &Resource) {
    ours.set("contained", Value::Null);
    let mut kept: Vec<Value> = Vec::new();
    loop {
        let inner = kept.iter().flat_map(reference::texts);
        let said: Vec<String> = reference::all(ours).into_iter().chain(inner).collect();
        let wanted = |one: &&Value| {
            let id = one.get("id").and_then(Value::as_str);
            let is_named = id.is_some_and(|id| said.iter().any(|text| text.strip_prefix('#') == Some(id)));
            is_named && !kept.contains(one)
        };
        let more: Vec<Value> = original.list("contained").iter().filter(wanted).cloned().collect();
        if more.is_empty() {
            break;
        }
        kept.extend(more);
    }
    if !kept.is_empty() {
        ours.set("contained", Value::Array(kept));
    }
}

/// What our Task to a target is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The source's Task, as stored here.
    pub original: &'a Resource,
    /// Our ServiceRequest's id.
    pub request: &'a str,
    /// Our Organization's id.
    pub gateway: &'a str,
    /// The system of our Task identifiers.
    pub identifier_system: &'a str,
    /// The id the Task will have; also its identifier's value, so that a repeated delivery is recognized.
    pub id: &'a str,
}

/// Our Task to a target; without one it is open for claiming (design D9).
pub fn task(parts: Parts<'_>, target: Option<&Target>, now: Timestamp) -> Resource {
    let Parts { original, request, gateway, identifier_system, id } = parts;
    let mut body = json!({"resourceType": "Task",
        "meta": {"profile": [REFERRAL_TASK_PROFILE]},
        "identifier": [{"system": identifier_system, "value": id}],
        "partOf": [],
        "status": "requested",
        "businessStatus": concept(BUSINESS_STATUS, "submitted", "submitted"),
        "intent": "order",
        "code": {"coding": [{"system": TASK_CODE, "code": "fulfill", "display": "Fulfill the focal request"}]},
        "focus": {"reference": format!("ServiceRequest/{request}")},
        "authoredOn": now.to_string(),
        "requester": {"reference": format!("Organization/{gateway}")}});
    if let Some(key) = original.key() {
        body["partOf"] = json!([{"reference": Key::new(ResourceType::TASK, key.id).to_string()}]);
    }
    if let Some(target) = target {
        body["owner"] = json!({"reference": format!("Organization/{}", target.partner)});
    }
    for name in ["for", "priority", "groupIdentifier", "description", "restriction", "input", "reasonCode", "encounter"]
    {
        if let Some(value) = original.at(name) {
            body[name] = value.clone();
        }
    }
    let Value::Object(map) = body else { return original.clone() };
    let mut task = original.clone();
    *task.elements_mut() = map;
    carry_contained(&mut task, original);
    task
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::profile::Profiles;
    use crate::fhir::validate;
    use crate::fhir::views::SDOHCC;

    fn originals() -> (Resource, Resource) {
        let request = json!({"resourceType":"ServiceRequest","id":"sr0","meta":{"source":"https://ehr/fhir/ServiceRequest/1"},
            "status":"active","intent":"order","category":[{"coding":[{"system":SDOHCC,"code":"food-insecurity"}]}],
            "code":{"coding":[{"code":"467771000124109"}]},"orderDetail":[{"coding":[{"system":SDOHCC,"code":"contacting-subject-prohibited"}]}],
            "subject":{"reference":"Patient/p"},"supportingInfo":[{"reference":"Consent/c"}],"identifier":[{"value":"mine"}]});
        let task = json!({"resourceType":"Task","id":"t0","status":"requested","intent":"order","priority":"urgent",
            "code":{"coding":[{"system":TASK_CODE,"code":"fulfill"}]},"focus":{"reference":"ServiceRequest/sr0"},
            "for":{"reference":"Patient/p"},"authoredOn":"2020-01-01","requester":{"reference":"PractitionerRole/r"}});
        (Resource::from_value(request).unwrap(), Resource::from_value(task).unwrap())
    }

    // G-016, G-017, G-075
    #[test]
    fn our_request_is_a_filler_order_based_on_the_original_and_carries_the_safety_flag() {
        let (original, _) = originals();
        let target = Target { partner: "pantry".into(), service: Some("s1".into()) };
        let request = service_request(&original, Some(&target), Timestamp(0));
        assert_eq!(request.text_at("intent"), Some("filler-order"));
        assert_eq!(request.list("basedOn")[0]["reference"], "ServiceRequest/sr0");
        assert_eq!(request.list("performer")[0]["reference"], "HealthcareService/s1");
        assert_eq!(request.list("orderDetail"), original.list("orderDetail"));
        assert!(request.at("identifier").is_none() && request.id().is_none());
        validate::check(&request, Profiles::own()).unwrap();
    }

    #[test]
    fn what_is_contained_goes_along_as_far_as_it_is_referred_to() {
        let contained = json!([{"resourceType": "Organization", "id": "o", "name": "A", "partOf": {"reference": "#p"}},
            {"resourceType": "Organization", "id": "p", "name": "B"}, {"resourceType": "Patient", "id": "x"}]);
        let (mut request, mut source) = originals();
        request.set("contained", contained.clone());
        request.set("requester", json!({"reference": "#o"}));
        request.set("performer", json!([{"reference": "#p"}]));
        let target = Target { partner: "pantry".into(), service: None };
        let ours = service_request(&request, Some(&target), Timestamp(0));
        assert_eq!(ours.list("contained"), &contained.as_array().unwrap()[..2]);
        validate::check(&ours, Profiles::own()).unwrap();
        source.set("contained", contained);
        source.set("requester", json!({"reference": "#o"}));
        let parts = Parts { original: &source, request: "sr1", gateway: "hub", identifier_system: "urn:x", id: "t1" };
        assert!(task(parts, None, Timestamp(0)).at("contained").is_none(), "our Task's requester is us");
    }

    // G-018, G-021
    #[test]
    fn our_task_is_part_of_the_original_and_ours() {
        let (_, original) = originals();
        let target = Target { partner: "pantry".into(), service: None };
        let parts = Parts { original: &original, request: "sr1", gateway: "hub", identifier_system: "urn:x", id: "t1" };
        let ours = task(parts, Some(&target), Timestamp(0));
        assert_eq!(ours.list("partOf")[0]["reference"], "Task/t0");
        assert_eq!(ours.text_at("priority"), Some("urgent"));
        assert_eq!(ours.at("requester").unwrap()["reference"], "Organization/hub");
        assert_eq!(ours.at("owner").unwrap()["reference"], "Organization/pantry");
        assert_eq!(ours.text_at("authoredOn"), Some("1970-01-01T00:00:00Z"));
        validate::check(&ours, Profiles::own()).unwrap();
        assert!(task(parts, None, Timestamp(0)).at("owner").is_none());
    }
}
