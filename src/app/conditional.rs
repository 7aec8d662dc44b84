//! Conditional interactions: a search stands where an id would, and finds at most one resource.
//!
//! What is searched is what the partner may see. Two that ask at the same time follow each other ([`App::turns`]), so
//! that neither creates what the other is creating. <https://hl7.org/fhir/R4/http.html#ccreate>,
//! <https://hl7.org/fhir/R4/http.html#cond-update>, <https://hl7.org/fhir/R4/http.html#3.1.0.7.1>

use super::reading::access;
use super::{Answer, App, Context, Stored};
use crate::error::{Error, Kind};
use crate::fhir::precondition::Precondition;
use crate::fhir::query::{self, Criteria};
use crate::fhir::views::{Task, identifiers};
use crate::fhir::{Key, Resource, ResourceType, search};
use crate::store::{Access, Tx};

impl App {
    /// Updates the one resource that the criteria describe, or creates it when there is none.
    pub(super) async fn update_where(
        &self,
        tx: &mut Tx,
        context: &Context,
        (kind, criteria): (ResourceType, &Criteria),
        mut resource: Resource,
        precondition: &Precondition,
    ) -> Result<Answer, Error> {
        tx.take_turns(&self.turns(&resource, Some(criteria))).await?;
        match self.place_of(tx, context, kind, criteria, &resource).await? {
            Some(key) => {
                resource.set("id", key.id.as_str().into());
                self.update_in(tx, context, &key, resource, precondition).await
            }
            None => {
                precondition.check(None)?;
                self.create_in(tx, context, resource, None).await
            }
        }
    }

    /// Where a conditional update goes: to the one match, or to the id in the body when there is none; `None`: it is a
    /// create.
    pub(super) async fn place_of(
        &self,
        tx: &mut Tx,
        context: &Context,
        kind: ResourceType,
        criteria: &Criteria,
        resource: &Resource,
    ) -> Result<Option<Key>, Error> {
        let named = resource.id().map(|id| Key::new(kind, id));
        match (self.one_match(tx, context, (kind, 'u'), criteria).await?, named) {
            (Some(found), Some(named)) if found.key != named => {
                let text = "The body's id is not that of the resource this search finds. Leave it out.";
                Err(Error::malformed(text).at(format!("{kind}.id")))
            }
            (Some(found), _) => Ok(Some(found.key)),
            // One that may not be seen is nobody's to know: the update will tell as much as one of that id does.
            (None, Some(named))
                if tx.resource(&named).await?.is_some() && tx.may_see(&self.viewer(context), &named).await? =>
            {
                let text = "This search finds nothing, and the body's id is taken by another resource.";
                Err(Error::conflict(text).at(format!("{kind}.id")))
            }
            (None, named) => Ok(named),
        }
    }

    /// The one resource that the criteria describe, among those the partner may see; 412 when there are several. Whether
    /// there is one is told only to who may do what is to be done with it: the scope's letter.
    pub(super) async fn one_match(
        &self,
        tx: &mut Tx,
        context: &Context,
        (kind, letter): (ResourceType, char),
        criteria: &Criteria,
    ) -> Result<Option<Stored>, Error> {
        self.scope(context, kind, letter)?;
        let mut asked = search::parse(kind, criteria.pairs(), self.own(), true)?.asked_at(self.now());
        if asked.filters.is_empty() {
            return Err(Error::malformed("A condition names at least one search parameter with a value."));
        }
        asked.count = 2;
        let query = self.with_copies(tx, context, self.narrowed(context, &asked, letter)?).await?;
        let page = tx.search(&query, &self.viewer(context)).await?;
        match page.hits.as_slice() {
            // Nothing was shown, but that there is nobody (see `search::Query::names_a_person`).
            [] if asked.names_a_person() && tx.is_writing() => {
                let pairs = criteria.pairs().iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let query = Some(query::link(kind.name(), pairs));
                tx.audit(&[Access { kind: Some(kind), query, ..access(context, "search", Vec::new()) }]).await?;
                Ok(None)
            }
            [] => Ok(None),
            [one] => tx.resource(&one.key).await,
            _ => {
                let text = format!("Several {kind} resources match the condition; it must name one.");
                Err(Error::new(Kind::VersionConflict, text).code("multiple-matches"))
            }
        }
    }

    /// What creating this must not meet at the same time: the same condition, and of a Task the same referral (design
    /// D8).
    pub(super) fn turns(&self, resource: &Resource, criteria: Option<&Criteria>) -> Vec<String> {
        let kind = resource.kind();
        let mut texts: Vec<String> =
            criteria.map(|criteria| format!("{kind}?{:?}", criteria.pairs())).into_iter().collect();
        if kind == ResourceType::TASK {
            texts.extend(identifiers(resource).map(|(system, value)| format!("Task {system}|{value}")));
            // An entry of the same Bundle is new: nobody else can send it.
            let focus = Task(resource).focus().filter(|focus| !focus.starts_with("urn:"));
            texts.extend(focus.map(|focus| format!("focus {focus}")));
        }
        texts
    }
}
