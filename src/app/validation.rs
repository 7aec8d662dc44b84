//! Validation as a use case: the profiles in force, and what a resource is told by them.
//!
//! The profiles are ours and those of the packages that the configuration names (`validation.packages`), read once at
//! the start. <https://hl7.org/fhir/R4/validation.html>

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::{App, Context};
use crate::config::{Config, Fault};
use crate::error::Error;
use crate::fhir::profile::Profiles;
use crate::fhir::profile::package::Package;
use crate::fhir::validate::{self, Finding};
use crate::fhir::{Key, Resource, ResourceType, outcome};

/// Most bytes of a package file.
const LARGEST_PACKAGE: u64 = 64 << 20;

/// The profiles of a configuration; or every package of it that can't be read, and every type, element or
/// scope that it names and that is none.
pub fn profiles(config: &Config) -> Result<Profiles, Vec<Fault>> {
    let mut faults = super::receiving::faults(config);
    faults.extend(super::rights::faults(config));
    if faults.is_empty() && config.validation.packages.is_empty() {
        return Ok(Profiles::own().clone());
    }
    let mut packages = Vec::new();
    for file in &config.validation.packages {
        match package(&file.path) {
            Ok(package) => packages.push(package),
            Err(why) => faults.push(file.fault(&why)),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    for package in &packages {
        tracing::info!(package = package.name, structures = package.structures.len(), "profiles loaded");
    }
    Ok(Profiles::with(&packages))
}

fn package(path: &Path) -> Result<Package, String> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).and_then(|file| file.take(LARGEST_PACKAGE + 1).read_to_end(&mut bytes));
    match opened {
        Err(error) => Err(format!("it can't be read: {}", error.kind())),
        Ok(_) if bytes.len() as u64 > LARGEST_PACKAGE => Err("it is larger than 64 MiB".into()),
        Ok(_) => Package::read(&bytes).map_err(|error| error.text().trim_end_matches('.').to_string()),
    }
}

impl App {
    /// Refuses what may not be stored; answers what is worth telling all the same.
    pub(super) fn check(&self, resource: &Resource) -> Result<Vec<Finding>, Error> {
        validate::check(resource, self.profiles())
    }

    /// `$validate`: what is sent, or what is stored under this id, against R4, its profiles and the one that is named.
    /// Nothing is stored; the answer is an OperationOutcome.
    pub async fn validate(
        &self,
        context: &Context,
        kind: ResourceType,
        id: Option<&str>,
        sent: Option<&Value>,
        profile: Option<&str>,
    ) -> Result<Value, Error> {
        let stored;
        let resource = match (sent, id) {
            (Some(sent), _) => sent,
            (None, Some(id)) => {
                stored = self.read(context, &Key::new(kind, id)).await?.resource()?.into_value();
                &stored
            }
            (None, None) => return Err(Error::malformed("$validate needs a resource, in the body or as a parameter.")),
        };
        if resource.get("resourceType").and_then(Value::as_str) != Some(kind.name()) {
            return Err(Error::malformed(format!("A {kind} was to be sent to this address.")).at("resourceType"));
        }
        let findings = validate::examine_value(resource, self.profiles(), profile)?;
        Ok(outcome::of_findings(&findings, "No fault found."))
    }

    /// The profiles in force.
    pub fn profiles(&self) -> &Profiles {
        &self.0.profiles
    }
}
