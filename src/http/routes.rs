//! The one table: which interactions, operations and profiles each type has.
//!
//! Dispatch and the CapabilityStatement are both made from [`ROWS`], so what is claimed is what is served. The rows are
//! G-139…G-154 of the guide's coordination platform, then the types that referrals may refer to and that are only
//! copied. Searches and includes are those of [`crate::fhir::search_index`]. What one partner may do to one resource is
//! the app's to say. <https://hl7.org/fhir/R4/http.html>

use crate::fhir::ResourceType;

/// What can be done with a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interaction {
    /// `POST [base]/T`
    Create,
    /// `GET [base]/T/id`
    Read,
    /// `GET [base]/T/id/_history/n`
    Vread,
    /// `PUT [base]/T/id`, `PUT [base]/T?…`
    Update,
    /// `PATCH [base]/T/id`, `PATCH [base]/T?…`
    Patch,
    /// `DELETE [base]/T/id`, `DELETE [base]/T?…`
    Delete,
    /// `GET [base]/T/id/_history`
    History,
    /// `GET [base]/T/_history`
    TypeHistory,
    /// `GET [base]/T?…`, `POST [base]/T/_search`
    Search,
}

impl Interaction {
    /// The code of <https://hl7.org/fhir/R4/valueset-type-restful-interaction.html>.
    pub fn code(self) -> &'static str {
        match self {
            Interaction::Create => "create",
            Interaction::Read => "read",
            Interaction::Vread => "vread",
            Interaction::Update => "update",
            Interaction::Patch => "patch",
            Interaction::Delete => "delete",
            Interaction::History => "history-instance",
            Interaction::TypeHistory => "history-type",
            Interaction::Search => "search-type",
        }
    }
}

/// One type of the table.
#[derive(Debug)]
pub struct Row {
    /// The type's name.
    pub kind: &'static str,
    /// What can be done with it.
    pub interactions: &'static [Interaction],
    /// The profiles whose use it supports.
    pub profiles: &'static [&'static str],
}

use Interaction::{Create, Delete, History, Patch, Read, Search, TypeHistory, Update, Vread};

const ALL: &[Interaction] = &[Create, Read, Vread, Update, Patch, Delete, History, TypeHistory, Search];
/// Part of the record of a referral: cancelled or revoked, never deleted (design D11b).
const KEPT: &[Interaction] = &[Create, Read, Vread, Update, Patch, History, TypeHistory, Search];
/// Written by the gateway alone.
const WRITTEN_HERE: &[Interaction] = &[Read, Vread, History, TypeHistory, Search];
/// Copied from a source for a referral's sake.
const COPIED: &[Interaction] = &[Read, Vread, Search];

/// Part of the program ([`crate::fhir::published`]).
const PUBLISHED: &[Interaction] = &[Read, Search];

macro_rules! gravity {
    ($name:literal) => {
        concat!("http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-", $name)
    };
}
macro_rules! us_core {
    ($name:literal) => {
        concat!("http://hl7.org/fhir/us/core/StructureDefinition/us-core-", $name)
    };
}

const fn row(kind: &'static str, interactions: &'static [Interaction], profiles: &'static [&'static str]) -> Row {
    Row { kind, interactions, profiles }
}
const fn copied(kind: &'static str) -> Row {
    row(kind, COPIED, &[])
}
const fn published(kind: &'static str) -> Row {
    row(kind, PUBLISHED, &[])
}

/// Written by the gateway alone, and never again.
const RECORDED: &[Interaction] = &[Read, Search];

/// The table.
pub static ROWS: &[Row] = &[
    row("AuditEvent", RECORDED, &[]),
    row("CareTeam", ALL, &[us_core!("careteam")]),
    row("Condition", ALL, &[gravity!("Condition")]),
    row("Consent", ALL, &[gravity!("Consent")]),
    row("Device", ALL, &[]),
    row("DocumentReference", ALL, &[us_core!("documentreference")]),
    row("Goal", ALL, &[gravity!("Goal")]),
    row("Group", ALL, &[gravity!("Group")]),
    row("HealthcareService", ALL, &[gravity!("HealthcareService")]),
    row("Location", ALL, &[gravity!("Location")]),
    row("Observation", ALL, &[gravity!("ObservationAssessment"), gravity!("ObservationScreeningResponse")]),
    row("Organization", ALL, &[us_core!("organization")]),
    row("Patient", ALL, &[us_core!("patient")]),
    row("Practitioner", ALL, &[us_core!("practitioner")]),
    // Lower case: so the guide spells this one.
    row("PractitionerRole", ALL, &[gravity!("practitionerrole")]),
    row("Procedure", ALL, &[gravity!("Procedure")]),
    row("Provenance", WRITTEN_HERE, &[]),
    row("Questionnaire", ALL, &["http://hl7.org/fhir/uv/sdc/StructureDefinition/sdc-questionnaire-extr-smap"]),
    row("QuestionnaireResponse", ALL, &["http://hl7.org/fhir/uv/sdc/StructureDefinition/sdc-questionnaireresponse"]),
    row("RelatedPerson", ALL, &[]),
    row("ServiceRequest", KEPT, &[gravity!("ServiceRequest")]),
    row(
        "Subscription",
        ALL,
        &["http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription"],
    ),
    row("Task", KEPT, &[gravity!("TaskForReferralManagement"), gravity!("TaskForPatient")]),
    copied("AllergyIntolerance"),
    copied("Appointment"),
    copied("Binary"),
    copied("CarePlan"),
    copied("Claim"),
    copied("Communication"),
    copied("CommunicationRequest"),
    copied("Contract"),
    copied("Coverage"),
    copied("DiagnosticReport"),
    copied("Encounter"),
    copied("Endpoint"),
    copied("EpisodeOfCare"),
    copied("FamilyMemberHistory"),
    copied("Immunization"),
    copied("Media"),
    copied("Medication"),
    copied("MedicationRequest"),
    copied("MedicationStatement"),
    copied("NutritionOrder"),
    copied("RiskAssessment"),
    copied("Specimen"),
    published("CodeSystem"),
    published("ConceptMap"),
    published("OperationDefinition"),
    published("SearchParameter"),
    published("StructureDefinition"),
    published("ValueSet"),
];

/// The row of a type.
pub fn row_of(kind: ResourceType) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.kind == kind.name())
}

/// The types that are searched together: all whose versions are stored, not the program's own and the record.
pub fn stored() -> impl Iterator<Item = ResourceType> {
    let stored = ROWS.iter().filter(|row| row.interactions.contains(&Vread));
    stored.filter_map(|row| ResourceType::parse(row.kind))
}

/// An operation the gateway has.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name, without `$`.
    pub name: &'static str,
    /// The type it belongs to.
    pub kind: &'static str,
    /// Offered on the type's instances.
    pub on_instance: bool,
    /// Offered on the type itself.
    pub on_type: bool,
    /// Changes nothing and may be asked by GET.
    pub get: bool,
    /// Its OperationDefinition.
    pub definition: &'static str,
}

macro_rules! backport {
    ($name:literal) => {
        concat!("http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-", $name)
    };
}

const fn on_instance(kind: &'static str, name: &'static str, get: bool, definition: &'static str) -> Operation {
    Operation { name, kind, on_instance: true, on_type: false, get, definition }
}
const fn on_both(kind: &'static str, name: &'static str, definition: &'static str) -> Operation {
    Operation { name, kind, on_instance: true, on_type: true, get: true, definition }
}

/// The operations.
pub static OPERATIONS: &[Operation] = &[
    on_instance("Task", "relay", false, "https://loopgate.org/fhir/OperationDefinition/Task-relay"),
    on_instance("Task", "loop-status", true, "https://loopgate.org/fhir/OperationDefinition/Task-loop-status"),
    Operation {
        on_instance: false,
        ..on_both("Task", "conflicts", "https://loopgate.org/fhir/OperationDefinition/Task-conflicts")
    },
    on_instance("Task", "settle", false, "https://loopgate.org/fhir/OperationDefinition/Task-settle"),
    on_both("Subscription", "status", backport!("status")),
    on_instance("Subscription", "events", true, backport!("events")),
    on_both("Subscription", "get-ws-binding-token", backport!("get-ws-binding-token")),
    on_instance("Subscription", "resend", false, backport!("resend")),
    on_instance("Subscription", "pause", false, "https://loopgate.org/fhir/OperationDefinition/Subscription-pause"),
    on_instance("Subscription", "resume", false, "https://loopgate.org/fhir/OperationDefinition/Subscription-resume"),
    on_both("Subscription", "deliveries", "https://loopgate.org/fhir/OperationDefinition/Subscription-deliveries"),
    on_instance("Organization", "poll", false, "https://loopgate.org/fhir/OperationDefinition/Organization-poll"),
    on_instance(
        "Organization",
        "following",
        true,
        "https://loopgate.org/fhir/OperationDefinition/Organization-following",
    ),
    on_both("ValueSet", "expand", "http://hl7.org/fhir/OperationDefinition/ValueSet-expand"),
    on_both("ValueSet", "validate-code", "http://hl7.org/fhir/OperationDefinition/ValueSet-validate-code"),
    on_both("CodeSystem", "validate-code", "http://hl7.org/fhir/OperationDefinition/CodeSystem-validate-code"),
    Operation {
        on_instance: false,
        ..on_both("CodeSystem", "lookup", "http://hl7.org/fhir/OperationDefinition/CodeSystem-lookup")
    },
    on_both("ConceptMap", "translate", "http://hl7.org/fhir/OperationDefinition/ConceptMap-translate"),
    on_both(ANY, "validate", "http://hl7.org/fhir/OperationDefinition/Resource-validate"),
];

/// Stands for every type of the table.
const ANY: &str = "Resource";

/// The operations of a type.
pub fn operations_of(kind: &str) -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().filter(move |known| known.kind == kind || known.kind == ANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_type_that_stands_once() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ResourceType::parse(row.kind).is_some(), "{}", row.kind);
            assert!(ROWS.iter().skip(index + 1).all(|other| other.kind != row.kind), "{}", row.kind);
            assert!(row.interactions.contains(&Read) && row.interactions.contains(&Search), "{}", row.kind);
        }
        assert!(OPERATIONS.iter().all(|known| known.kind == ANY || ROWS.iter().any(|row| row.kind == known.kind)));
    }
}
