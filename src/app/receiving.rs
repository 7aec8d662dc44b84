//! Minimum necessary: of some types a target gets some elements alone (`partner.receives`, G-185).
//!
//! Promises that what is left out is left out everywhere, is said (SUBSETTED), and can't be found out by searching,
//! sorting or subscribing either. A Task is whole, for its owner writes it back; a partner's own resources are its own.
//! <https://hl7.org/fhir/R4/search.html#elements>

use super::{App, Context};
use crate::config::{Config, Fault, Partner, Role};
use crate::error::Error;
use crate::fhir::search::{Filter, Order, Query};
use crate::fhir::subset::Subset;
use crate::fhir::{ResourceType, definitions};

/// What a search by these tells is no more than that the resource is there: whose it is, who may see it knows.
const ALWAYS: &[&str] = &["patient", "subject", "based-on", "part-of", "target"];

/// What is wrong with the types and elements that are configured: a type that does not exist would hold nothing back.
pub(super) fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    for one in config.partners.iter().flat_map(|partner| &partner.receives) {
        let known = ResourceType::parse(&one.kind).filter(|kind| *kind != ResourceType::TASK);
        let Some(def) = known.and_then(|kind| definitions::resource(kind.name())) else {
            faults
                .push(one.fault("type must be one that this gateway holds, and not Task, which its owner writes back"));
            continue;
        };
        if one.elements.iter().any(|name| def.element(name).is_none()) {
            faults.push(one.fault("elements must be elements of the type, such as name, without [x]"));
        }
    }
    faults
}

/// The part of others' resources of this type that a partner gets; none: the whole.
pub(super) fn part(partner: &Partner, kind: ResourceType) -> Option<Subset> {
    let mut found = partner.receives.iter().filter(|one| one.kind == kind.name()).peekable();
    found.peek()?;
    let mut elements: Vec<String> = found.flat_map(|one| one.elements.iter().cloned()).collect();
    if kind == ResourceType::SERVICE_REQUEST {
        // That the person must not be contacted stands here: whoever acts on a request without knowing it does harm.
        elements.push("orderDetail".into());
    }
    Some(Subset::Elements(elements))
}

impl App {
    /// Refuses a search that would tell by its hits, or by their order, what is left out.
    pub(super) fn check_asks(&self, context: &Context, query: &Query) -> Result<(), Error> {
        let ordered = query.sort.iter().any(|sort| matches!(sort.by, Order::Date(_) | Order::Value(_)));
        if ordered && gets_part(context, query.kind) {
            return Err(refused(query.kind));
        }
        self.check_filters(context, query.kind, &query.filters)
    }

    /// The same of conditions on a type.
    pub(super) fn check_filters(&self, context: &Context, kind: ResourceType, filters: &[Filter]) -> Result<(), Error> {
        filters.iter().try_for_each(|filter| check(context, kind, filter))
    }
}

fn gets_part(context: &Context, kind: ResourceType) -> bool {
    !context.is(Role::Operator) && context.partner.receives.iter().any(|one| one.kind == kind.name())
}

fn check(context: &Context, kind: ResourceType, filter: &Filter) -> Result<(), Error> {
    match filter {
        Filter::Ids(_) | Filter::Updated(..) | Filter::Refers { .. } => Ok(()),
        Filter::Indexed { name, .. } if !ALWAYS.contains(name) && gets_part(context, kind) => Err(refused(kind)),
        Filter::Indexed { .. } => Ok(()),
        Filter::Chain { name, to } => {
            if !ALWAYS.contains(name) && gets_part(context, kind) {
                return Err(refused(kind));
            }
            to.iter().try_for_each(|(kind, filter)| check(context, *kind, filter))
        }
        Filter::Has { source, name, its } => {
            if !ALWAYS.contains(name) && gets_part(context, *source) {
                return Err(refused(*source));
            }
            check(context, *source, its)
        }
        Filter::Any(ways) => ways.iter().flatten().try_for_each(|filter| check(context, kind, filter)),
    }
}

fn refused(kind: ResourceType) -> Error {
    let always = ALWAYS.join(", ");
    Error::forbidden(format!("You get a part of each {kind} here; search it by _id, _lastUpdated, {always} alone."))
}
