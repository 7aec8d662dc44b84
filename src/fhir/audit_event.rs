//! AuditEvents by the Basic Audit Log Patterns of IHE, rendered from what is on record (A-100…A-105).
//!
//! One row of the record is one answer; it becomes an AuditEvent for each patient it was about. What a search
//! found is never repeated, only what was asked and about whom. Leaves out where rows come from (`app::audit_events`).
//! <https://profiles.ihe.net/ITI/BALP/>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::resource::ResourceType;
use crate::time::Timestamp;

const BALP: &str = "https://profiles.ihe.net/ITI/BALP";
const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const EVENT_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-event-type";
const ENTITY_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";
const INTERACTION: &str = "http://hl7.org/fhir/restful-interaction";

/// The words on record that are told apart; whatever else was done is an operation.
pub const ACTIONS: [&str; 19] = [
    "create",
    "update",
    "patch",
    "delete",
    "read",
    "vread",
    "history",
    "search",
    "notify",
    "disclose",
    "send",
    "consent",
    "user-added",
    "user-reset",
    "user-role",
    "user-removed",
    "login",
    "logout",
    "lockout",
];

/// What the policy begins with that names an access token.
pub const TOKEN: &str = "urn:ietf:params:oauth:jti:";

/// How what is on record ended: done, refused, failed.
pub const OUTCOMES: [i64; 3] = [0, 4, 8];

/// One event: what was done to what, by whom, for one patient or none.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its id.
    pub id: &'a str,
    /// When.
    pub at: Timestamp,
    /// The word on record: `read`, `search`, `notify`, …
    pub action: &'a str,
    /// The type asked about.
    pub kind: &'a str,
    /// 0 done, 4 refused, 8 failed.
    pub outcome: i64,
    /// Whose token was shown, or to whom it was sent; empty: nobody known.
    pub partner: &'a str,
    /// The access token's jti.
    pub token: Option<&'a str>,
    /// Where the request came from.
    pub address: Option<&'a str>,
    /// What was asked for; of an account, the role it has now.
    pub query: Option<&'a str>,
    /// Who it was, of the partner's people: a name, or `issuer|sub`.
    pub person: Option<&'a str>,
    /// The X-Request-Id.
    pub request: &'a str,
    /// What was shown or changed: `Type/id` and version; version 0 where none is known.
    pub seen: &'a [(String, i64)],
    /// Whose it is.
    pub patient: Option<&'a str>,
    /// The gateway's Organization.
    pub server: &'a str,
    /// The gateway's host.
    pub host: &'a str,
}

/// How an action on record is told in the standard's words.
struct Words {
    /// C, R, U, D or E.
    action: &'static str,
    subtype: Value,
    profile: &'static str,
    client: Value,
    server: Value,
}

fn words(event: &Event<'_>) -> Words {
    let coded = |system: &str, code: &str, text: &str| json!({"system": system, "code": code, "display": text});
    let interaction = |code: &str| json!({"system": INTERACTION, "code": code});
    let source = || coded(DCM, "110153", "Source Role ID");
    let destination = || coded(DCM, "110152", "Destination Role ID");
    // Of a read the server is the source; of everything else the client.
    let (sends, asks) = ((source(), destination()), (destination(), source()));
    let ((client, server), action, profile, subtype) = match event.action {
        "create" => (sends, "C", "Create", interaction("create")),
        "update" => (sends, "U", "Update", interaction("update")),
        "patch" => (sends, "U", "Update", interaction("patch")),
        "delete" => {
            let custodian = "http://terminology.hl7.org/CodeSystem/provenance-participant-type";
            let parties = (coded(DCM, "110150", "Application"), coded(custodian, "custodian", "Custodian"));
            (parties, "D", "Delete", interaction("delete"))
        }
        "read" => (asks, "R", "Read", interaction("read")),
        "vread" => (asks, "R", "Read", interaction("vread")),
        "history" => (asks, "R", "Read", interaction("history-instance")),
        "search" => (sends, "E", "Query", interaction("search-type")),
        "notify" | "disclose" => {
            let subtype = coded("http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle", "disclose", "Disclose");
            (asks, "R", "PrivacyDisclosure.Source", subtype)
        }
        "send" => {
            let subtype = coded("http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle", "transmit", "Transmit");
            (asks, "E", "", subtype)
        }
        "consent" => {
            let subtype = json!({"system": format!("{BALP}/CodeSystem/AuthZsubType"), "code": "AuthZ-Consent"});
            (sends, "E", "AuthZconsent", subtype)
        }
        "user-added" => (sends, "C", "", coded(DCM, "110137", "User Security Attributes Changed")),
        "user-reset" => (sends, "U", "", coded(DCM, "110137", "User Security Attributes Changed")),
        "user-role" => (sends, "U", "", coded(DCM, "110136", "Security Roles Changed")),
        "user-removed" => (sends, "D", "", coded(DCM, "110137", "User Security Attributes Changed")),
        "login" | "lockout" => (sends, "E", "", coded(DCM, "110122", "Login")),
        "logout" => (sends, "E", "", coded(DCM, "110123", "Logout")),
        _ => (sends, "E", "", interaction("operation")),
    };
    Words { action, subtype, profile, client, server }
}

/// The AuditEvent.
pub fn render(event: &Event<'_>) -> Value {
    let words = words(event);
    let (mut profile, done) = (words.profile.to_string(), event.outcome == 0);
    let of_patients = ["Create", "Read", "Update", "Delete", "Query"].contains(&words.profile);
    if event.patient.is_some() && of_patients {
        profile.insert_str(0, "Patient");
    }
    let mut meta = json!({"versionId": "1", "lastUpdated": event.at.to_string()});
    if done && !profile.is_empty() {
        meta["profile"] = json!([format!("{BALP}/StructureDefinition/IHE.BasicAudit.{profile}")]);
    }
    let kind = match event.action {
        "notify" | "disclose" => json!({"system": DCM, "code": "110106", "display": "Export"}),
        "consent" => json!({"system": DCM, "code": "110113", "display": "Security Alert"}),
        _ if is_about_an_account(event) => json!({"system": DCM, "code": "110113", "display": "Security Alert"}),
        "login" | "lockout" | "logout" => json!({"system": DCM, "code": "110114", "display": "User Authentication"}),
        _ => json!({"system": EVENT_TYPE, "code": "rest", "display": "RESTful Operation"}),
    };
    let server = json!({"reference": format!("Organization/{}", event.server)});
    let mut out = json!({
        "resourceType": "AuditEvent", "id": event.id, "meta": meta, "type": kind, "subtype": [words.subtype],
        "action": words.action, "recorded": event.at.to_string(), "outcome": event.outcome.to_string(),
    });
    if !done {
        out["outcomeDesc"] = json!(match (event.action, event.outcome) {
            ("lockout", _) => "Locked out after too many tries in vain",
            (_, 4) => "Refused",
            _ => "Failed",
        });
    }
    let mut agents = vec![
        client(event, words.client),
        json!({"type": {"coding": [words.server]}, "who": server, "requestor": false,
            "network": {"address": event.host, "type": "1"}}),
    ];
    if let Some(token) = event.token {
        let kind = json!({"system": format!("{BALP}/CodeSystem/UserAgentTypes"), "code": "UserOauthAgent"});
        agents.push(json!({"type": {"coding": [kind]}, "who": named(event.partner), "requestor": true,
            "policy": [format!("{TOKEN}{token}")]}));
    }
    if let Some(person) = event.person.filter(|_| !is_about_an_account(event)) {
        agents.push(user(person, words.action));
    }
    out["agent"] = Value::Array(agents);
    out["source"] = json!({"observer": server});
    let entities = entities(event);
    if !entities.is_empty() {
        out["entity"] = Value::Array(entities);
    }
    out
}

/// Whether a person's account was changed: the person is what it is about, not who did it.
fn is_about_an_account(event: &Event<'_>) -> bool {
    matches!(event.action, "user-added" | "user-reset" | "user-role" | "user-removed")
}

/// A person, as records know people.
fn identified(person: &str) -> Value {
    match person.split_once('|') {
        Some((issuer, subject)) => json!({"identifier": {"system": issuer, "value": subject}}),
        None => json!({"identifier": {"value": person}}),
    }
}

/// The person who asked: who reads receives what there is, who writes is its author.
fn user(person: &str, action: &str) -> Value {
    let (code, display) =
        if matches!(action, "R" | "E") { ("IRCP", "information recipient") } else { ("AUT", "author (originator)") };
    let role = json!({"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": code,
        "display": display});
    json!({"type": {"coding": [role]}, "who": identified(person), "requestor": true})
}

/// Who is named by a partner's id; the id is its client id, too.
fn named(partner: &str) -> Value {
    if partner.is_empty() {
        return json!({"display": "unknown"});
    }
    json!({"reference": format!("Organization/{partner}"), "identifier": {"value": partner}})
}

fn client(event: &Event<'_>, role: Value) -> Value {
    let mut agent = json!({"type": {"coding": [role]}, "who": named(event.partner), "requestor": event.token.is_none() && (event.person.is_none() || is_about_an_account(event))});
    if let Some(address) = event.address {
        agent["network"] = json!({"address": address, "type": "2"});
    }
    agent
}

fn entities(event: &Event<'_>) -> Vec<Value> {
    let entity = |kind: &str, role: &str| json!({"type": {"system": ENTITY_TYPE, "code": kind}, "role": {"system": ROLE, "code": role}});
    let mut all = Vec::new();
    if let Some(patient) = event.patient {
        let mut one = entity("1", "1");
        one["what"] = json!({"reference": patient});
        all.push(one);
    }
    if let Some(person) = event.person.filter(|_| is_about_an_account(event)) {
        let mut one = entity("1", "11");
        one["what"] = identified(person);
        if let Some(now) = event.query {
            one["detail"] = json!([{"type": "role", "valueString": now}]);
        }
        all.push(one);
        return all;
    }
    match event.query {
        Some(query) => {
            let mut one = entity("2", "24");
            one["query"] = json!(STANDARD.encode(query));
            all.push(one);
        }
        None => {
            for (key, version) in event.seen {
                let reference = if *version > 0 { format!("{key}/_history/{version}") } else { key.clone() };
                let mut one = entity("2", "4");
                one["what"] = json!({"reference": reference});
                all.push(one);
            }
        }
    }
    if event.seen.is_empty() && event.query.is_none() && ResourceType::parse(event.kind).is_some() {
        let mut one = entity("2", "4");
        one["what"] = json!({"type": event.kind, "display": "all of this type, or one that is not known"});
        all.push(one);
    }
    if !event.request.is_empty() {
        let system = format!("{BALP}/CodeSystem/BasicAuditEntityType");
        all.push(json!({"type": {"system": system, "code": "XrequestId"},
            "what": {"identifier": {"value": event.request}}}));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(action: &'a str, seen: &'a [(String, i64)]) -> Event<'a> {
        Event {
            id: "e",
            at: Timestamp(0),
            action,
            kind: "Task",
            outcome: 0,
            partner: "clinic",
            token: None,
            address: Some("192.0.2.1"),
            query: None,
            person: None,
            request: "r1",
            seen,
            patient: None,
            server: "hub",
            host: "hub.test",
        }
    }

    fn codes(event: &Value, name: &str) -> Vec<String> {
        let all = event["agent"].as_array().unwrap().iter();
        all.map(|agent| agent["type"]["coding"][0][name].as_str().unwrap().to_string()).collect()
    }

    //
    #[test]
    fn every_interaction_is_told_in_the_patterns_words() {
        let seen = [("Task/1".to_string(), 2)];
        for (action, letter, subtype, client, server) in [
            ("create", "C", "create", "110153", "110152"),
            ("update", "U", "update", "110153", "110152"),
            ("patch", "U", "patch", "110153", "110152"),
            ("search", "E", "search-type", "110153", "110152"),
            ("read", "R", "read", "110152", "110153"),
            ("vread", "R", "vread", "110152", "110153"),
            ("delete", "D", "delete", "110150", "custodian"),
        ] {
            let event = render(&event(action, &seen));
            assert_eq!((&event["action"], &event["subtype"][0]["code"]), (&json!(letter), &json!(subtype)));
            assert_eq!(codes(&event, "code"), [client, server], "{action}");
            assert_eq!((&event["type"]["code"], &event["outcome"]), (&json!("rest"), &json!("0")));
            assert_eq!(event["source"]["observer"]["reference"], "Organization/hub");
            assert!(event["agent"].as_array().unwrap().iter().all(|one| one["network"]["address"].is_string()));
        }
        let refused = render(&Event { outcome: 4, ..event("read", &seen) });
        assert_eq!((&refused["outcome"], &refused["outcomeDesc"]), (&json!("4"), &json!("Refused")));
    }

    //
    #[test]
    fn entities_and_the_token_are_the_patterns() {
        let seen = [("Task/1".to_string(), 2)];
        let read = Event { patient: Some("Patient/p"), token: Some("j1"), ..event("read", &seen) };
        let told = render(&read);
        assert!(told["meta"]["profile"][0].as_str().unwrap().ends_with("IHE.BasicAudit.PatientRead"));
        assert_eq!(told["entity"][0]["what"]["reference"], "Patient/p");
        assert_eq!(told["entity"][1]["what"]["reference"], "Task/1/_history/2");
        assert_eq!(told["entity"][2]["what"]["identifier"]["value"], "r1");
        assert_eq!(told["agent"][2]["policy"][0], "urn:ietf:params:oauth:jti:j1");
        let search = render(&Event { query: Some("Task?owner=x"), ..event("search", &seen) });
        assert_eq!(search["entity"][0]["query"], STANDARD.encode("Task?owner=x"));
        assert!(!search.to_string().contains("Task/1"), "what was found is not repeated");
        //
        let sent = render(&Event { patient: Some("Patient/p"), ..event("disclose", &seen) });
        assert_eq!((&sent["type"]["code"], &sent["subtype"][0]["code"]), (&json!("110106"), &json!("disclose")));
    }
}
