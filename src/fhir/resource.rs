//! The resource: JSON behind a newtype, its type, and its key on this server.
//!
//! Keeps every element as it came, in order, decimals as written. Leaves validation to [`super::validate`].
//! <https://hl7.org/fhir/R4/resource.html>

use std::fmt;

use serde_json::{Map, Value, json};

use super::json::{self, Bounds};
use crate::error::Error;
use crate::time::Timestamp;

/// Types with search and the interactions of the guide's coordination platform (G-139…G-154), then the types that
/// referrals may refer to and that are only copied and read, then those that the program publishes.
const TYPES: &[&str] = &[
    "AuditEvent",
    "CareTeam",
    "Condition",
    "Consent",
    "Device",
    "DocumentReference",
    "Goal",
    "Group",
    "HealthcareService",
    "Location",
    "Observation",
    "Organization",
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "Procedure",
    "Provenance",
    "Questionnaire",
    "QuestionnaireResponse",
    "RelatedPerson",
    "ServiceRequest",
    "Subscription",
    "Task",
    "AllergyIntolerance",
    "Appointment",
    "Binary",
    "CarePlan",
    "Claim",
    "Communication",
    "CommunicationRequest",
    "Contract",
    "Coverage",
    "DiagnosticReport",
    "Encounter",
    "Endpoint",
    "EpisodeOfCare",
    "FamilyMemberHistory",
    "Immunization",
    "Media",
    "Medication",
    "MedicationRequest",
    "MedicationStatement",
    "NutritionOrder",
    "RiskAssessment",
    "Specimen",
    "CodeSystem",
    "ConceptMap",
    "OperationDefinition",
    "SearchParameter",
    "StructureDefinition",
    "ValueSet",
];

/// A resource type this server knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceType(&'static str);

impl ResourceType {
    /// `Task`
    pub const AUDIT_EVENT: Self = ResourceType("AuditEvent");
    /// See above.
    pub const TASK: Self = ResourceType("Task");
    /// `ServiceRequest`
    pub const SERVICE_REQUEST: Self = ResourceType("ServiceRequest");
    /// `Procedure`
    pub const PROCEDURE: Self = ResourceType("Procedure");
    /// `Consent`
    pub const CONSENT: Self = ResourceType("Consent");
    /// `Patient`
    pub const PATIENT: Self = ResourceType("Patient");
    /// `Organization`
    pub const ORGANIZATION: Self = ResourceType("Organization");
    /// `HealthcareService`
    pub const HEALTHCARE_SERVICE: Self = ResourceType("HealthcareService");
    /// `Subscription`
    pub const SUBSCRIPTION: Self = ResourceType("Subscription");
    /// `Provenance`
    pub const PROVENANCE: Self = ResourceType("Provenance");

    /// The type of this name, if we know it.
    pub fn parse(name: &str) -> Option<Self> {
        TYPES.iter().find(|known| **known == name).map(|known| ResourceType(known))
    }
    /// All types.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|name| ResourceType(name))
    }
    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }
    /// Whether it belongs to the shared directory, which every partner may read (design D11a).
    pub fn is_directory(self) -> bool {
        matches!(
            self.0,
            "Organization" | "HealthcareService" | "Location" | "Practitioner" | "PractitionerRole" | "Questionnaire"
        )
    }
}

impl fmt::Debug for ResourceType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// A resource's place on this server: `Type/id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its type.
    pub kind: ResourceType,
    /// Its logical id.
    pub id: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: ResourceType, id: impl Into<String>) -> Self {
        Key { kind, id: id.into() }
    }
    /// Reads `Type/id`, also with `/_history/n` behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let kind = ResourceType::parse(parts.next()?)?;
        let id = parts.next().filter(|id| crate::id::is_valid(id))?;
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) | (Some("_history"), Some(_), None) => Some(Key::new(kind, id)),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind, self.id)
    }
}

/// One FHIR resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    kind: ResourceType,
    /// Always an object.
    body: Value,
}

impl Resource {
    /// Reads a resource from partner bytes.
    pub fn parse(bytes: &[u8], bounds: Bounds) -> Result<Self, Error> {
        Resource::from_value(json::parse(bytes, bounds)?)
    }

    /// A resource from JSON; an error names what makes it none.
    pub fn from_value(value: Value) -> Result<Self, Error> {
        let Value::Object(body) = &value else {
            return Err(Error::malformed("A resource is a JSON object."));
        };
        let kind = match body.get("resourceType") {
            Some(Value::String(name)) => ResourceType::parse(name)
                .ok_or_else(|| Error::malformed("This server does not know this resource type.").at("resourceType"))?,
            _ => return Err(Error::malformed("A resource has a resourceType.").at("resourceType")),
        };
        Ok(Resource { kind, body: value })
    }

    /// Reads a resource we stored ourselves.
    pub fn stored(text: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(Error::internal)?;
        Resource::from_value(value).map_err(Error::internal)
    }

    /// Its type.
    pub fn kind(&self) -> ResourceType {
        self.kind
    }
    /// Its logical id, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.body.get("id").and_then(Value::as_str)
    }
    /// Its key, if it has an id.
    pub fn key(&self) -> Option<Key> {
        self.id().map(|id| Key::new(self.kind, id))
    }
    /// `meta.versionId`, if present and one of our numbers.
    pub fn version(&self) -> Option<i64> {
        self.at("meta")?.get("versionId")?.as_str()?.parse().ok()
    }
    /// `meta.lastUpdated`.
    pub fn last_updated(&self) -> Option<Timestamp> {
        Timestamp::parse(self.at("meta")?.get("lastUpdated")?.as_str()?)
    }

    /// Gives it its id and version, replacing what stood there, and puts both first.
    pub fn stamp(&mut self, id: &str, version: i64, updated: Timestamp) {
        let mut rest = std::mem::take(self.elements_mut());
        let mut meta = match rest.shift_remove("meta") {
            Some(Value::Object(meta)) => meta,
            _ => Map::new(),
        };
        meta.insert("versionId".into(), json!(version.to_string()));
        meta.insert("lastUpdated".into(), json!(updated.to_string()));
        let kind = self.kind.name();
        let body = self.elements_mut();
        body.insert("resourceType".into(), json!(kind));
        body.insert("id".into(), json!(id));
        body.insert("meta".into(), Value::Object(meta));
        body.extend(rest.into_iter().filter(|(key, _)| key != "resourceType" && key != "id"));
    }

    /// Sets `meta.source`: where a copy came from.
    pub fn set_source(&mut self, origin: &str) {
        let meta = self.elements_mut().entry("meta").or_insert_with(|| json!({}));
        if let Value::Object(meta) = meta {
            meta.insert("source".into(), json!(origin));
        }
    }

    /// The element of this name.
    pub fn at(&self, name: &str) -> Option<&Value> {
        self.body.get(name)
    }
    /// The text of this element, if it is a string.
    pub fn text_at(&self, name: &str) -> Option<&str> {
        self.at(name).and_then(Value::as_str)
    }
    /// The items of a repeating element; empty when absent.
    pub fn list(&self, name: &str) -> &[Value] {
        self.at(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    /// Sets an element; removes it when the value is null.
    pub fn set(&mut self, name: &str, value: Value) {
        if value.is_null() {
            self.elements_mut().shift_remove(name);
        } else {
            self.elements_mut().insert(name.to_string(), value);
        }
    }
    /// All elements, in order.
    pub fn elements(&self) -> &Map<String, Value> {
        match &self.body {
            Value::Object(map) => map,
            _ => unreachable!("from_value takes objects alone"),
        }
    }
    /// All elements, for rewriting.
    pub fn elements_mut(&mut self) -> &mut Map<String, Value> {
        match &mut self.body {
            Value::Object(map) => map,
            _ => unreachable!("from_value takes objects alone"),
        }
    }
    /// The JSON text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.body).unwrap_or_default()
    }
    /// The JSON value.
    pub fn value(&self) -> &Value {
        &self.body
    }
    /// The JSON value, given away.
    pub fn into_value(self) -> Value {
        self.body
    }
    /// Whether this is the same resource but for `id` and `meta`'s version and time.
    pub fn same_content(&self, other: &Resource) -> bool {
        fn same(one: &Map<String, Value>, other: &Map<String, Value>, but: [&str; 2]) -> bool {
            let counts = |name: &String| !but.contains(&name.as_str());
            let rest = one.iter().filter(|(name, _)| counts(name));
            one.keys().filter(|name| counts(name)).count() == other.keys().filter(|name| counts(name)).count()
                && rest.into_iter().all(|(name, value)| other.get(name) == Some(value))
        }
        let none = Map::new();
        let same_meta = match (self.at("meta"), other.at("meta")) {
            (Some(Value::Object(one)), Some(Value::Object(other))) => same(one, other, ["versionId", "lastUpdated"]),
            (Some(Value::Object(one)), None) | (None, Some(Value::Object(one))) => {
                same(one, &none, ["versionId", "lastUpdated"])
            }
            (one, other) => one == other,
        };
        self.kind == other.kind && same_meta && same(self.elements(), other.elements(), ["id", "meta"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(value: Value) -> Resource {
        Resource::from_value(value).unwrap()
    }

    #[test]
    fn a_stamp_replaces_what_the_client_claimed_and_keeps_the_rest() {
        let mut task = resource(json!({"resourceType":"Task","id":"x","meta":{"versionId":"9","profile":["p"]},
            "status":"requested","_status":{"extension":[]}}));
        task.stamp("a1", 1, Timestamp(0));
        assert_eq!(
            task.to_text(),
            r#"{"resourceType":"Task","id":"a1","meta":{"versionId":"1","profile":["p"],"lastUpdated":"1970-01-01T00:00:00Z"},"status":"requested","_status":{"extension":[]}}"#
        );
    }

    #[test]
    fn keys_are_type_and_id_and_nothing_that_looks_like_a_path() {
        assert_eq!(Key::parse("Task/1/_history/2").unwrap().to_string(), "Task/1");
        for bad in ["Task", "Task/", "task/1", "Unknown/1", "Task/1/x", "Task/a b", "Task/../1"] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn same_content_ignores_version_and_time_alone() {
        let one = resource(json!({"resourceType":"Patient","id":"1","meta":{"versionId":"1"},"active":true}));
        let two = resource(json!({"resourceType":"Patient","id":"2","active":true}));
        let three = resource(json!({"resourceType":"Patient","active":false}));
        assert!(one.same_content(&two) && two.same_content(&one));
        let tagged = resource(json!({"resourceType":"Patient","meta":{"versionId":"1","tag":[]},"active":true}));
        assert!(!one.same_content(&tagged) && !tagged.same_content(&two) && tagged.same_content(&tagged));
        let more = resource(json!({"resourceType":"Patient","active":true,"name":[]}));
        assert!(!two.same_content(&more) && !more.same_content(&two));
        assert!(!one.same_content(&three));
    }
}
