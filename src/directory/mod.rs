//! Who offers what: choosing a provider for a need. Pure; the offers come from the store's HealthcareServices.

pub mod matching;
