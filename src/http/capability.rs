//! The CapabilityStatement, made from the table that also dispatches ([`super::routes`]) and from the search index.
//!
//! Promises that nothing is claimed that is not served, and that what is served is claimed.
//! <https://hl7.org/fhir/R4/capabilitystatement.html>

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::HeaderMap;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ETAG, VARY};
use axum::response::Response;
use serde_json::{Value, json};

use super::conditional::Known;
use super::respond;
use super::routes::{Interaction, ROWS, Row, operations_of};
use crate::fhir::patch::JSON_PATCH;
use crate::fhir::search_index::{EVERYWHERE, Parameter, ParameterType, own_parameters};
use crate::fhir::subscription::{TOPICS, websocket_url};
use crate::fhir::{ResourceType, compartment};

/// When what is claimed here last changed.
const DATE: &str = "2026-11-26";
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
        // What both ask for stands in conformance/capability, and the tests below compare.
        "instantiates": [
            format!("{GRAVITY}/CapabilityStatement/SDOHCC-CoordinationPlatform"),
            format!("{BACKPORT}/CapabilityStatement/backport-subscription-server-r4"),
        ],
        "software": {"name": "Loopgate", "version": env!("CARGO_PKG_VERSION")},
        "implementation": {"description": "Loopgate: a gateway for closed-loop social-care referrals", "url": own},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        "patchFormat": ["application/fhir+json", "application/fhir+xml", JSON_PATCH],
        "implementationGuide": [
            format!("{GRAVITY}/ImplementationGuide/hl7.fhir.us.sdoh-clinicalcare"),
            format!("{BACKPORT}/ImplementationGuide/hl7.fhir.uv.subscriptions-backport"),
        ],
        "rest": [{
            "mode": "server",
            "extension": [{
                "url": "http://hl7.org/fhir/StructureDefinition/capabilitystatement-websocket",
                "valueUri": websocket_url(own),
            }],
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
            "interaction":
                [{"code": "batch"}, {"code": "transaction"}, {"code": "history-system"}, {"code": "search-system"}],
            "searchParam": everywhere().collect::<Vec<Value>>(),
            "compartment": [compartment::DEFINITION],
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
    // An update from a version that is not the current one is refused: by If-Match, or by what the body undoes.
    let updates = offers(Interaction::Update);
    out["versioning"] = json!(if updates { "versioned-update" } else { "versioned" });
    out["readHistory"] = json!(offers(Interaction::Vread));
    out["updateCreate"] = json!(false);
    out["conditionalCreate"] = json!(offers(Interaction::Create));
    out["conditionalRead"] = json!("full-support");
    out["conditionalUpdate"] = json!(updates);
    out["conditionalDelete"] = json!(if offers(Interaction::Delete) { "single" } else { "not-supported" });
    out["referencePolicy"] = json!(["literal"]);
    let includes = includes(kind);
    if !includes.is_empty() {
        out["searchInclude"] = json!(includes);
    }
    out["searchRevInclude"] = json!(reverse_includes(kind));
    out["searchParam"] = Value::Array(searches(kind));
    let operations: Vec<Value> =
        operations_of(row.kind).map(|known| json!({"name": known.name, "definition": known.definition})).collect();
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

/// What refers to a type by a parameter that names it.
fn reverse_includes(kind: ResourceType) -> Vec<String> {
    let types = ROWS.iter().filter_map(|row| ResourceType::parse(row.kind));
    let mut found = Vec::new();
    for source in types {
        let references = own_parameters(source).iter().filter(|parameter| parameter.kind == ParameterType::Reference);
        let to_it = references.filter(|parameter| parameter.targets.contains(&kind.name()));
        found.extend(to_it.map(|parameter| format!("{source}:{}", parameter.name)));
    }
    // It is of every type.
    if !found.iter().any(|one| one == "Provenance:target") {
        found.push("Provenance:target".into());
    }
    found
}

/// The parameters that all types have.
fn everywhere() -> impl Iterator<Item = Value> {
    let own = [("_id", "id", "token"), ("_lastUpdated", "lastUpdated", "date")].map(|(name, definition, code)| {
        json!({"name": name, "definition": format!("http://hl7.org/fhir/SearchParameter/Resource-{definition}"), "type": code})
    });
    own.into_iter().chain(EVERYWHERE.iter().map(searched))
}

fn searches(kind: ResourceType) -> Vec<Value> {
    everywhere().chain(own_parameters(kind).iter().map(searched)).collect()
}

fn searched(parameter: &Parameter) -> Value {
    let mut out = json!({"name": parameter.name, "type": parameter.kind.code()});
    if let Some(definition) = parameter.definition {
        out["definition"] = json!(definition);
    }
    out
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
        respond::set(&mut response, VARY, "Accept");
        response
    }
}

#[cfg(test)]
mod tests {
    use super::super::door;
    use super::*;
    use crate::fhir::search;

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
    /// G-139
    /// G-140
    /// G-141
    /// G-142
    /// G-143
    /// G-144
    /// G-145
    /// G-146
    /// G-147
    /// G-148
    /// G-149
    /// G-150
    /// G-151
    /// G-152
    /// G-153
    /// G-154
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
                ("patch", "/1", "PATCH"),
                ("delete", "/1", "DELETE"),
                ("history-instance", "/1/_history", "GET"),
                ("history-type", "/_history", "GET"),
                ("vread", "/1/_history/1", "GET"),
            ] {
                assert_eq!(codes.contains(&code.to_string()), allowed(rest).contains(&method), "{kind} {code}");
            }
            for operation in resource["operation"].as_array().into_iter().flatten() {
                let name = operation["name"].as_str().unwrap();
                let known = operations_of(kind).find(|known| known.name == name).unwrap();
                for (claimed, rest) in
                    [(known.on_type, format!("/${name}")), (known.on_instance, format!("/1/${name}"))]
                {
                    assert_eq!(allowed(&rest).contains(&"POST"), claimed, "{kind}{rest}");
                }
            }
        }
    }

    /// What is claimed of searches is what the search understands, to the letter.
    /// G-139…G-154
    #[test]
    fn every_claimed_parameter_and_include_is_understood() {
        let statement = statement(OWN);
        let understood = |kind: &str, name: &str, value: &str| {
            let pair = (name.to_string(), value.to_string());
            search::parse(ResourceType::parse(kind).unwrap(), &[pair], OWN, true).map(|query| query.used.len())
        };
        for resource in statement["rest"][0]["resource"].as_array().unwrap() {
            let kind = resource["type"].as_str().unwrap();
            for parameter in resource["searchParam"].as_array().unwrap() {
                let value = match parameter["type"].as_str().unwrap() {
                    "date" => "2026",
                    "quantity" => "5",
                    "composite" => "a$b",
                    _ => "a",
                };
                let name = parameter["name"].as_str().unwrap();
                assert_eq!(understood(kind, name, value).unwrap(), 1, "{kind}?{name}");
            }
            for (name, claimed) in [("_include", "searchInclude"), ("_revinclude", "searchRevInclude")] {
                for one in resource[claimed].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    assert_eq!(understood(kind, name, one).unwrap(), 1, "{kind}?{name}={one}");
                }
            }
        }
        assert!(understood("Task", "colour", "a").is_err());
    }

    /// The lines of an expected statement that ours does not meet.
    fn lacking(expected: &str) -> Vec<&str> {
        let statement = statement(OWN);
        let all = statement["rest"][0]["resource"].as_array().unwrap();
        let has = |value: &Value, name: &str| value.as_array().is_some_and(|list| list.iter().any(|one| one == name));
        let named = |value: &Value, key: &str, name: &str| {
            value.as_array().is_some_and(|list| list.iter().any(|one| one[key] == name))
        };
        let met = |line: &&str| {
            let [kind, _, what, name] = line.split(',').collect::<Vec<_>>()[..] else { return false };
            let nothing = Value::Null;
            let resource = all.iter().find(|one| one["type"] == kind).unwrap_or(&nothing);
            match (kind, what) {
                ("*", "format") => has(&statement["format"], name),
                ("*", "interaction") => named(&statement["rest"][0]["interaction"], "code", name),
                (_, "interaction") => named(&resource["interaction"], "code", name),
                (_, "search") => named(&resource["searchParam"], "name", name),
                (_, "operation") => named(&resource["operation"], "name", name),
                (_, "include") => has(&resource["searchInclude"], name),
                (_, "profile") => has(&resource["supportedProfile"], name),
                (_, "versioning") => resource["versioning"] == name,
                _ => false,
            }
        };
        expected.lines().skip(1).filter(|line| !met(line)).collect()
    }

    // G-001, G-109, G-130, G-139, G-140, G-141, G-142, G-143, G-144, G-145, G-146, G-147, G-148, G-149, G-150, G-151,
    // G-152, G-153, G-154, R-126
    #[test]
    fn what_it_says_it_instantiates_it_does() {
        let own = statement(OWN);
        for (name, expected) in [
            (
                "SDOHCC-CoordinationPlatform",
                include_str!("../../conformance/capability/SDOHCC-CoordinationPlatform.csv"),
            ),
            (
                "backport-subscription-server-r4",
                include_str!("../../conformance/capability/backport-subscription-server-r4.csv"),
            ),
        ] {
            assert!(expected.lines().count() > 8, "{name}");
            assert_eq!(lacking(expected), Vec::<&str>::new(), "{name}");
            assert!(own["instantiates"].as_array().unwrap().iter().any(|one| one.as_str().unwrap().ends_with(name)));
        }
        let security = &own["rest"][0]["security"]["service"][0]["coding"][0];
        assert_eq!((&own["fhirVersion"], &security["code"]), (&json!("4.0.1"), &json!("SMART-on-FHIR")));
    }

    #[test]
    fn the_comparison_finds_what_is_not_there() {
        for line in [
            "Task,SHALL,interaction,delete",
            "Task,SHALL,search,colour",
            "Task,SHALL,include,Task:colour",
            "Nope,SHALL,interaction,read",
            "*,SHALL,format,ttl",
            "Group,SHALL,search,characteristic-value-of-all",
            "Task,SHALL,versioning,no-version",
            "Task,SHALL",
        ] {
            assert_eq!(lacking(&format!("type,level,what,name\n{line}")), [line]);
        }
    }

    // D11b
    #[test]
    fn what_a_referral_rests_on_is_never_deleted() {
        for kept in ["Task", "ServiceRequest", "Provenance"] {
            assert!(!names(&of(kept)["interaction"], "code").contains(&"delete".to_string()), "{kept}");
        }
    }

    // S-005
    // S-001…S-003
    #[test]
    fn subscriptions_are_advertised() {
        let resource = of("Subscription");
        let guides = statement(OWN)["implementationGuide"].to_string();
        assert!(guides.contains("/ImplementationGuide/hl7.fhir.uv.subscriptions-backport"), "S-004");
        // S-002, G-116, G-118: byte for byte what a subscriber writes.
        assert_eq!(
            names(&resource["extension"], "valueCanonical"),
            TOPICS.iter().map(|topic| topic.url).collect::<Vec<_>>()
        );
        assert!(resource["supportedProfile"][0].as_str().unwrap().ends_with("/backport-subscription"));
        assert_eq!(
            names(&resource["operation"], "name"),
            ["status", "events", "get-ws-binding-token", "resend", "pause", "resume", "deliveries", "validate"]
        );
    }

    // R-001, G-001
    #[test]
    fn the_statement_is_r4s() {
        let statement = statement(OWN);
        assert_eq!((&statement["fhirVersion"], &statement["kind"]), (&json!("4.0.1"), &json!("instance")));
        assert_eq!(
            names(&statement["rest"][0]["interaction"], "code"),
            ["batch", "transaction", "history-system", "search-system"]
        );
        //
        assert_eq!(statement["rest"][0]["compartment"], json!(["http://hl7.org/fhir/CompartmentDefinition/patient"]));
        assert!(names(&statement["rest"][0]["searchParam"], "name").contains(&"_lastUpdated".to_string()));
        assert_eq!(
            names(&of("Task")["operation"], "name"),
            ["relay", "loop-status", "conflicts", "settle", "validate"]
        );
        let conditional = |kind: &str| (of(kind)["conditionalUpdate"].clone(), of(kind)["conditionalDelete"].clone());
        assert_eq!(conditional("Condition"), (json!(true), json!("single")));
        assert_eq!(conditional("Task"), (json!(true), json!("not-supported")));
        assert_eq!(conditional("Provenance"), (json!(false), json!("not-supported")));
        assert!(of("Task")["searchRevInclude"].as_array().unwrap().contains(&json!("Provenance:target")));
    }

    // R-010, M-1.04
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
        assert_eq!(one.answer(&HeaderMap::new()).headers()["access-control-allow-origin"], "*");
    }
}
