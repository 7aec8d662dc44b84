//! The CapabilityStatement, made from the table that also dispatches ([`super::routes`]) and from the search index.
//!
//! Promises that nothing is claimed that is not served. Leaves out SMART URLs and patch: they come with the
//! versions that bring them. <https://hl7.org/fhir/R4/capabilitystatement.html>

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::HeaderMap;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ETAG};
use axum::response::Response;
use serde_json::{Value, json};

use super::conditional::Known;
use super::respond;
use super::routes::{Interaction, OPERATIONS, ROWS, Row};
use crate::fhir::ResourceType;
use crate::fhir::search_index::{ParameterType, own_parameters, parameters};
use crate::fhir::subscription::TOPICS;

/// When what is claimed here last changed.
const DATE: &str = "2026-11-21";
const GRAVITY: &str = "http://hl7.org/fhir/us/sdoh-clinicalcare";
const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport";

/// What this gateway can do; `own` is its FHIR base.
pub fn statement(own: &str) -> Value {
    json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": DATE,
        "publisher": "Loopgate",
        "kind": "instance",
        // The guide's coordination platform is claimed once SMART is here (conformance/not-covered.md).
        "instantiates": [format!("{BACKPORT}/CapabilityStatement/backport-subscription-server-r4")],
        "software": {"name": "Loopgate", "version": env!("CARGO_PKG_VERSION")},
        "implementation": {"description": "Loopgate: a gateway for closed-loop social-care referrals", "url": own},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        "implementationGuide": [
            format!("{GRAVITY}/ImplementationGuide/hl7.fhir.us.sdoh-clinicalcare"),
            format!("{BACKPORT}/ImplementationGuide/hl7.fhir.uv.subscriptions-backport"),
        ],
        "rest": [{
            "mode": "server",
            "documentation": "The coordination platform of the Gravity SDOH Clinical Care guide, for all four referral flows. A partner sees what it created, the Tasks it requested or owns and what they refer to, and the shared directory.",
            "security": {
                "service": [{
                    "coding": [{
                        "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                        "code": "SMART-on-FHIR",
                    }],
                    "text": "SMART Backend Services; or a bearer token agreed with a partner.",
                }],
                "description": "A bearer token in the Authorization header on every request but this one. /.well-known/smart-configuration says where to get one.",
            },
            "resource": ROWS.iter().filter_map(resource).collect::<Vec<Value>>(),
            "interaction": [{"code": "batch"}, {"code": "transaction"}],
        }],
    })
}

fn resource(row: &Row) -> Option<Value> {
    let kind = ResourceType::parse(row.kind)?;
    let offers = |interaction: Interaction| row.interactions.contains(&interaction);
    let mut out = json!({"type": row.kind});
    if row.kind == "Subscription" {
        let url = format!("{BACKPORT}/StructureDefinition/capabilitystatement-subscriptiontopic-canonical");
        out["extension"] = TOPICS.iter().map(|topic| json!({"url": url, "valueCanonical": topic.url})).collect();
    }
    if !row.profiles.is_empty() {
        out["supportedProfile"] = json!(row.profiles);
    }
    let interactions: Vec<Value> = row.interactions.iter().map(|one| json!({"code": one.code()})).collect();
    out["interaction"] = Value::Array(interactions);
    out["versioning"] = json!("versioned");
    out["readHistory"] = json!(offers(Interaction::Vread));
    out["updateCreate"] = json!(false);
    out["conditionalCreate"] = json!(offers(Interaction::Create));
    out["conditionalRead"] = json!("full-support");
    out["conditionalUpdate"] = json!(false);
    out["conditionalDelete"] = json!("not-supported");
    out["referencePolicy"] = json!(["literal"]);
    let includes = includes(kind);
    if !includes.is_empty() {
        out["searchInclude"] = json!(includes);
    }
    out["searchParam"] = Value::Array(searches(kind));
    let operations: Vec<Value> = OPERATIONS
        .iter()
        .filter(|known| known.kind == row.kind)
        .map(|known| json!({"name": known.name, "definition": known.definition}))
        .collect();
    if !operations.is_empty() {
        out["operation"] = Value::Array(operations);
    }
    Some(out)
}

/// Whatever the index knows as a reference can be included; the guide spells one of them in three parts.
fn includes(kind: ResourceType) -> Vec<String> {
    let references = own_parameters(kind).iter().filter(|parameter| parameter.kind == ParameterType::Reference);
    let mut found: Vec<String> = references.map(|parameter| format!("{kind}:{}", parameter.name)).collect();
    if kind == ResourceType::CONSENT {
        found.push("Consent:source-reference:DocumentReference".into());
    }
    found
}

fn searches(kind: ResourceType) -> Vec<Value> {
    let everywhere = [("_id", "id", "token"), ("_lastUpdated", "lastUpdated", "date")].map(|(name, definition, code)| {
        json!({"name": name, "definition": format!("http://hl7.org/fhir/SearchParameter/Resource-{definition}"), "type": code})
    });
    let indexed = parameters(kind).map(|parameter| {
        let mut out = json!({"name": parameter.name, "type": parameter.kind.code()});
        // The two that the guide defines itself.
        match (kind.name(), parameter.name) {
            ("Task", "output") => out["definition"] = json!(format!("{GRAVITY}/SearchParameter/Task-output-reference")),
            ("ServiceRequest", "supporting-info") => {
                out["definition"] = json!(format!("{GRAVITY}/SearchParameter/ServiceRequest-supporting-info"));
            }
            _ => {}
        }
        out
    });
    everywhere.into_iter().chain(indexed).collect()
}

/// The statement as `/metadata` answers it: written once, with a tag that changes when it does.
pub(super) struct Published {
    text: String,
    tag: String,
}

impl Published {
    pub(super) fn new(own: &str) -> Self {
        let text = statement(own).to_string();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Published { tag: format!("{:016x}", hasher.finish()), text }
    }

    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let known = Known::of(headers).has_tag(&self.tag);
        let mut response = if known { respond::empty(304) } else { respond::fhir(200, self.text.clone()) };
        respond::set(&mut response, ETAG, &format!("W/\"{}\"", self.tag));
        // anyone's page may read what this server can do.
        respond::set(&mut response, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        response
    }
}

#[cfg(test)]
mod tests {
    use super::super::door;
    use super::*;

    const OWN: &str = "https://hub/fhir";

    fn of(kind: &str) -> Value {
        let statement = statement(OWN);
        let all = statement["rest"][0]["resource"].as_array().unwrap();
        all.iter().find(|one| one["type"] == kind).unwrap().clone()
    }

    fn names(value: &Value, key: &str) -> Vec<String> {
        value.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_string()).collect()
    }

    /// What is claimed is what is dispatched, both ways.
    #[test]
    fn the_statement_and_the_table_agree() {
        let statement = statement(OWN);
        let all = statement["rest"][0]["resource"].as_array().unwrap();
        assert_eq!(all.len(), ROWS.len());
        for resource in all {
            let kind = resource["type"].as_str().unwrap();
            let codes = names(&resource["interaction"], "code");
            let allowed = |rest: &str| door::door(&format!("/fhir/{kind}{rest}"), &[]).allowed();
            for (code, rest, method) in [
                ("create", "", "POST"),
                ("search-type", "", "GET"),
                ("read", "/1", "GET"),
                ("update", "/1", "PUT"),
                ("delete", "/1", "DELETE"),
                ("history-instance", "/1/_history", "GET"),
                ("vread", "/1/_history/1", "GET"),
            ] {
                assert_eq!(codes.contains(&code.to_string()), allowed(rest).contains(&method), "{kind} {code}");
            }
            for operation in resource["operation"].as_array().into_iter().flatten() {
                let name = operation["name"].as_str().unwrap();
                let known = OPERATIONS.iter().find(|known| known.kind == kind && known.name == name).unwrap();
                for (claimed, rest) in
                    [(known.on_type, format!("/${name}")), (known.on_instance, format!("/1/${name}"))]
                {
                    assert_eq!(allowed(&rest).contains(&"POST"), claimed, "{kind}{rest}");
                }
            }
        }
    }

    // G-139…G-154, and D11b.
    #[test]
    fn the_coordination_platforms_interactions_are_there() {
        for (kind, interactions, searches, includes) in [
            (
                "Task",
                "create read update search-type",
                "_id code patient requester status focus _lastUpdated owner output",
                "Task:focus Task:output",
            ),
            (
                "ServiceRequest",
                "create read update search-type",
                "_id category intent patient status _lastUpdated code occurrence performer requester supporting-info",
                "ServiceRequest:supporting-info ServiceRequest:patient ServiceRequest:requester ServiceRequest:performer",
            ),
            (
                "Procedure",
                "create read update search-type",
                "_id based-on category patient performer status _lastUpdated code date",
                "",
            ),
            (
                "Condition",
                "read search-type",
                "_id category patient _lastUpdated clinical-status code verification-status",
                "",
            ),
            ("Observation", "read search-type", "_id category patient status _lastUpdated code date derived-from", ""),
            (
                "Goal",
                "read search-type",
                "_id category patient _lastUpdated achievement-status lifecycle-status target-date",
                "",
            ),
            (
                "Consent",
                "read search-type",
                "_id source-reference _lastUpdated",
                "Consent:source-reference:DocumentReference",
            ),
            ("DocumentReference", "create read update search-type", "_id _lastUpdated", ""),
            ("Patient", "read search-type", "_id _lastUpdated", ""),
            ("Practitioner", "read search-type", "_id _lastUpdated", ""),
            (
                "PractitionerRole",
                "read search-type",
                "_id _lastUpdated organization practitioner",
                "PractitionerRole:organization PractitionerRole:practitioner",
            ),
            ("Organization", "read search-type", "_id _lastUpdated", ""),
            ("HealthcareService", "read search-type", "_id location _lastUpdated", "HealthcareService:location"),
            ("Location", "read search-type", "_id", ""),
            ("RelatedPerson", "read search-type", "_id", ""),
            ("CareTeam", "read search-type", "_id", ""),
            ("Device", "read search-type", "_id", ""),
            ("Group", "read search-type", "_id characteristic member managing-entity _lastUpdated", "Group:member"),
            ("Questionnaire", "read search-type", "url version", ""),
            ("QuestionnaireResponse", "create read update search-type", "_id author patient questionnaire status", ""),
            ("Subscription", "create read update delete", "", ""),
        ] {
            let resource = of(kind);
            let (codes, offered) = (names(&resource["interaction"], "code"), names(&resource["searchParam"], "name"));
            assert!(interactions.split(' ').all(|code| codes.contains(&code.to_string())), "{kind}: {codes:?}");
            assert!(searches.split_whitespace().all(|name| offered.contains(&name.to_string())), "{kind}: {offered:?}");
            let included = resource["searchInclude"].to_string();
            assert!(
                includes.split_whitespace().all(|one| included.contains(&format!("\"{one}\""))),
                "{kind}: {included}"
            );
        }
        for kept in ["Task", "ServiceRequest", "Provenance"] {
            assert!(!names(&of(kept)["interaction"], "code").contains(&"delete".to_string()), "{kept}");
        }
    }

    // S-001…S-003
    #[test]
    fn subscriptions_are_advertised() {
        let resource = of("Subscription");
        // S-002, G-116, G-118: byte for byte what a subscriber writes.
        assert_eq!(
            names(&resource["extension"], "valueCanonical"),
            TOPICS.iter().map(|topic| topic.url).collect::<Vec<_>>()
        );
        assert!(resource["supportedProfile"][0].as_str().unwrap().ends_with("/backport-subscription"));
        assert_eq!(names(&resource["operation"], "name"), ["status", "events"]);
        assert!(statement(OWN)["instantiates"][0].as_str().unwrap().ends_with("backport-subscription-server-r4"));
    }

    //
    #[test]
    fn the_statement_is_r4s() {
        let statement = statement(OWN);
        assert_eq!((&statement["fhirVersion"], &statement["kind"]), (&json!("4.0.1"), &json!("instance")));
        assert_eq!(names(&statement["rest"][0]["interaction"], "code"), ["batch", "transaction"]);
        assert_eq!(names(&of("Task")["operation"], "name"), ["relay", "loop-status"]);
    }

    #[test]
    fn the_tag_follows_the_text() {
        let one = Published::new(OWN);
        assert_eq!(one.tag, Published::new(OWN).tag);
        assert_ne!(one.tag, Published::new("https://other/fhir").tag);
        let mut headers = HeaderMap::new();
        headers.insert("if-none-match", format!("W/\"{}\"", one.tag).parse().unwrap());
        assert_eq!(
            (one.answer(&headers).status().as_u16(), one.answer(&HeaderMap::new()).status().as_u16()),
            (304, 200)
        );
    }
}
