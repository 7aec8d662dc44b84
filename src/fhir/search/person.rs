//! Whether a search names a person who is cared for: then that it found nothing, or how many, is something about that
//! person, and goes on record though nothing was shown. What merely asks what is new names nobody.

use super::{Filter, Query, Test};
use crate::fhir::ResourceType;

/// The types that are persons who are cared for, and those close to them.
const PERSONS: [&str; 2] = ["Patient", "RelatedPerson"];
/// What leads to them, where a search says by which business identifier.
const LEAD: [&str; 4] = ["patient", "subject", "beneficiary", "subscriber"];

impl Query {
    /// See the module.
    pub fn names_a_person(&self) -> bool {
        self.filters.iter().any(|filter| names(self.kind, filter))
    }
}

fn names(kind: ResourceType, filter: &Filter) -> bool {
    match filter {
        Filter::Updated(..) => false,
        Filter::Ids(_) => PERSONS.contains(&kind.name()),
        Filter::Indexed { name, test, .. } => {
            PERSONS.contains(&kind.name())
                || match test {
                    Test::References(list) => list.iter().any(|reference| leads(reference)),
                    Test::Tokens(_) => LEAD.contains(name),
                    Test::Says(_)
                    | Test::Dates(_)
                    | Test::Amounts(_)
                    | Test::Pairs(_)
                    | Test::Begins(_)
                    | Test::Contains(_)
                    | Test::Exact(_)
                    | Test::Is(_)
                    | Test::Below(_)
                    | Test::Above(_)
                    | Test::Present(_) => false,
                }
        }
        Filter::Refers { .. } => true,
        Filter::Chain { to, .. } => to.iter().any(|(kind, filter)| names(*kind, filter)),
        Filter::Has { source, its, .. } => PERSONS.contains(&kind.name()) || names(*source, its),
        Filter::Any(ways) => ways.iter().flatten().any(|filter| names(kind, filter)),
    }
}

/// Whether a reference, ours or another server's, is to a person.
fn leads(reference: &str) -> bool {
    let mut parts = reference.rsplit('/').skip(1);
    parts.next().is_some_and(|kind| PERSONS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::fhir::query::pairs;

    //
    #[test]
    fn a_search_that_names_a_person_is_no_poll() {
        let of = |text: &str| {
            let (kind, asked) = text.split_once('?').unwrap();
            parse(ResourceType::parse(kind).unwrap(), &pairs(Some(asked)).unwrap(), "https://hub/fhir", true)
                .unwrap()
                .names_a_person()
        };
        for person in [
            "Patient?name=x",
            "Patient?_id=x",
            "Patient?identifier=s|1",
            "Patient?birthdate=1950&_lastUpdated=ge2026",
            "Patient?_has:Task:patient:status=requested",
            "RelatedPerson?patient=p",
            "Task?patient=p",
            "Task?subject=p",
            "Task?patient=https://ehr.test/fhir/Patient/p",
            "Task?patient:identifier=s|1",
            "Task?patient.name=x",
            "Task?owner.name=x",
            "Condition?subject.birthdate=1950",
            "Organization?_has:Patient:organization:name=x",
        ] {
            assert!(of(person), "{person}");
        }
        for nobody in [
            "Task?owner=Organization/o&_lastUpdated=ge2026",
            "Task?status=requested&_count=5",
            "Task?owner:identifier=npi|1",
            "Task?owner:Organization.name=x",
            "Patient?_lastUpdated=ge2026",
            "Task?patient:missing=true",
            "Condition?code=x",
        ] {
            assert!(!of(nobody), "{nobody}");
        }
    }
}
