//! The profiles that resources are checked against: our own (`profiles/`), and those of a guide's packages beside them.
//!
//! Which of them a resource must meet: those that it claims in `meta.profile`, and those that its type and content call
//! for ([`Profiles::of`]). Our own stand for the guide's of the same purpose: a claim of the guide's canonical means ours,
//! and the guide's as well where its package is loaded. <https://hl7.org/fhir/R4/profiling.html>

mod additional;
mod choice;
pub mod package;
mod slicing;
mod structure;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

pub(in crate::fhir) use additional::Additional;
pub(in crate::fhir) use slicing::{Discriminator, Kind, Slicing, Step};
pub use structure::Profile;
pub(in crate::fhir) use structure::{Child, Node, Rule, bare};

use super::definitions::{self, Form};
use super::published;
use super::terminology::Terminology;
use package::Package;

/// The base of our own canonicals.
const OWN: &str = "https://loopgate.org/fhir/StructureDefinition/";
/// R4's own.
const CORE: &str = "http://hl7.org/fhir/StructureDefinition/";
/// What comes before the resource's type in the canonicals of guides whose packages need not be loaded.
const SPEAKING: &[&str] = &[
    "http://hl7.org/fhir/us/core/StructureDefinition/us-core-",
    "http://hl7.org/fhir/uv/sdc/StructureDefinition/sdc-",
];
/// Our profiles whose faults are refused on a write (design D16b).
const REFUSING: &[&str] = &["referral-task", "patient-task", "service-request", "procedure"];

/// Profiles and the terminology they bind to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Profiles(Arc<Held>);

#[derive(Debug)]
struct Held {
    by_url: HashMap<String, Profile>,
    /// From a canonical of others to those of ours that stand for it.
    ours: HashMap<String, Vec<String>>,
    terminology: Terminology,
}

/// A profile that a resource must meet.
#[derive(Debug, Clone, Copy)]
pub struct Duty<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// Whether a write that breaks it is refused; else it is stored with a warning.
    pub refusing: bool,
}

impl Profiles {
    /// Those of the program itself.
    pub fn own() -> &'static Profiles {
        static OWN: OnceLock<Profiles> = OnceLock::new();
        OWN.get_or_init(|| {
            let definitions = published::all().iter().filter_map(|resource| Profile::read(resource.elements()));
            Profiles::holding(definitions, Terminology::held().clone())
        })
    }

    /// Ours, and those of these packages.
    pub fn with(packages: &[Package]) -> Profiles {
        let own = published::all().iter().map(|resource| resource.elements());
        let terminology =
            packages.iter().fold(Terminology::held().clone(), |held, package| held.with(&package.terminology));
        let theirs = packages.iter().flat_map(|package| &package.structures);
        Profiles::holding(own.chain(theirs).filter_map(Profile::read), terminology)
    }

    /// Where a canonical comes twice the first is held: ours, then the packages in their order.
    fn holding(profiles: impl Iterator<Item = Profile>, terminology: Terminology) -> Profiles {
        let mut by_url = HashMap::new();
        let mut ours: HashMap<String, Vec<String>> = HashMap::new();
        for profile in profiles {
            if profile.url.starts_with(OWN) {
                for other in &profile.complies_with {
                    ours.entry(other.clone()).or_default().push(profile.url.clone());
                }
            }
            by_url.entry(profile.url.clone()).or_insert(profile);
        }
        Profiles(Arc::new(Held { by_url, ours, terminology }))
    }

    /// The profile of this canonical.
    pub fn get(&self, canonical: &str) -> Option<&Profile> {
        self.0.by_url.get(bare(canonical))
    }
    /// Whether this canonical is R4's own, or one of these.
    pub fn knows(&self, canonical: &str) -> bool {
        let core = bare(canonical).strip_prefix(CORE).is_some_and(|name| definitions::of(name).is_some());
        core || self.get(canonical).is_some()
    }
    /// The code systems and value sets that come with them.
    pub fn terminology(&self) -> &Terminology {
        &self.0.terminology
    }

    /// The profiles that a resource must meet, and the claims that are not known here.
    pub fn of<'a>(&'a self, resource: &'a Map<String, Value>) -> (Vec<Duty<'a>>, Vec<&'a str>) {
        let mut duties: Vec<Duty<'a>> = Vec::new();
        let mut unknown = Vec::new();
        let type_name = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
        for name in choice::called_for(resource) {
            if let Some(own) = self.get(&format!("{OWN}{name}")) {
                self.add(&mut duties, own);
            }
        }
        for claim in claims(resource) {
            let known = self.claimed(claim);
            if known.is_empty() && bare(claim) != format!("{CORE}{type_name}") {
                unknown.push(claim);
            }
            // A claim of a profile for another type is told by its own check.
            for profile in known {
                self.add(&mut duties, profile);
            }
        }
        (duties, unknown)
    }

    /// What a canonical stands for here: the profile itself, and ours for the same purpose.
    pub fn claimed(&self, canonical: &str) -> Vec<&Profile> {
        let ours = self.0.ours.get(bare(canonical)).into_iter().flatten().filter_map(|url| self.get(url));
        self.get(canonical).into_iter().chain(ours).collect()
    }

    /// With what it builds on, and with the guide's that ours stands for, where that is loaded.
    pub(in crate::fhir) fn add<'a>(&'a self, duties: &mut Vec<Duty<'a>>, profile: &'a Profile) {
        if duties.iter().any(|duty| std::ptr::eq(duty.profile, profile)) {
            return;
        }
        duties.push(Duty { profile, refusing: self.is_refusing(profile) });
        let more = profile.complies_with.iter().chain([&profile.base]);
        for other in more.filter_map(|url| self.get(url)) {
            self.add(duties, other);
        }
    }

    /// Ours, or one that ours stands for.
    fn is_refusing(&self, profile: &Profile) -> bool {
        let own = |url: &str| url.strip_prefix(OWN).is_some_and(|name| REFUSING.contains(&name));
        own(&profile.url) || self.0.ours.get(&profile.url).is_some_and(|ours| ours.iter().any(|url| own(url)))
    }

    /// The resource or data type that a profile's canonical is about; none if it isn't known here.
    pub fn type_of<'a>(&'a self, canonical: &'a str) -> Option<&'a str> {
        let url = bare(canonical);
        let core = url.strip_prefix(CORE).filter(|name| definitions::of(name).is_some());
        let known = || Some(self.claimed(url).first()?.type_name.as_str());
        core.or_else(known).or_else(|| by_its_name(url))
    }
}

/// The resource type that a profile of a guide beside ours has in its name: `…/us-core-practitionerrole`,
/// `…/us-core-observation-lab`.
fn by_its_name(url: &str) -> Option<&'static str> {
    let name = SPEAKING.iter().find_map(|base| url.strip_prefix(base))?.split('-').next()?;
    let mut types = definitions::types().filter(|def| def.form == Form::Resource);
    types.find(|def| def.name.eq_ignore_ascii_case(name)).map(|def| def.name)
}

/// `meta.profile`
pub(super) fn claims(resource: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let list = resource.get("meta").and_then(|meta| meta.get("profile")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}
