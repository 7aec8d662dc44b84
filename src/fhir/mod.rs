//! FHIR R4 as data: resources, references, search, bundles, validation. Pure: no clock, no SQL, no async.
//!
//! A resource is JSON behind a newtype with small typed views for the elements the gateway reasons about. What we
//! don't understand is kept as it came. <https://hl7.org/fhir/R4/>

pub mod audit_event;
pub mod bundle;
pub mod capability_statement;
pub mod compartment;
pub mod concept_map;
pub mod definitions;
pub mod following;
pub mod json;
pub mod licensed;
pub mod links;
pub mod outcome;
pub mod patch;
pub mod path;
pub mod precondition;
pub mod profile;
pub mod published;
pub mod query;
pub mod reference;
pub mod resource;
pub mod scope;
pub mod search;
pub mod search_index;
pub mod subscription;
pub mod subset;
pub mod terminology;
pub mod validate;
pub mod views;
mod xhtml;
pub mod xml;

pub use reference::Reference;
pub use resource::{Key, Resource, ResourceType};
