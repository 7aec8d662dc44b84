//! Where in a resource a check stands, as a FHIRPath that is only written out when there is a fault to tell.
//!
//! <https://hl7.org/fhir/R4/operationoutcome-definitions.html#OperationOutcome.issue.expression>

use std::fmt;

/// A place: a name or a number behind another place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'p> {
    parent: Option<&'p Place<'p>>,
    step: Step<'p>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'p> {
    Name(&'p str),
    Index(usize),
    Same,
}

impl<'p> Place<'p> {
    /// The resource's type, where every expression begins.
    pub(crate) fn root(name: &'p str) -> Self {
        Place { parent: None, step: Step::Name(name) }
    }
    /// An element within this place.
    pub(crate) fn at(&'p self, name: &'p str) -> Self {
        Place { parent: Some(self), step: Step::Name(name) }
    }
    /// Whether this stands in something of this name, as one in another of the same name does.
    pub(crate) fn is_within(&self, name: &str) -> bool {
        let named = |place: &Place<'_>| matches!(place.step, Step::Name(own) if own == name);
        let mut above = std::iter::successors(Some(self), |place| place.parent);
        above.by_ref().any(named) && above.find(|place| matches!(place.step, Step::Name(_))).is_some_and(named)
    }
    /// One of several there.
    pub(crate) fn nth(&'p self, index: Option<usize>) -> Self {
        Place { parent: Some(self), step: index.map_or(Step::Same, Step::Index) }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(out)?;
        }
        match self.step {
            Step::Name(name) if self.parent.is_some() => write!(out, ".{name}"),
            Step::Name(name) => out.write_str(name),
            Step::Index(index) => write!(out, "[{index}]"),
            Step::Same => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_fhirpath() {
        let task = Place::root("Task");
        let input = task.at("input");
        let second = input.nth(Some(1));
        assert_eq!(second.at("value").nth(None).to_string(), "Task.input[1].value");
    }
}
