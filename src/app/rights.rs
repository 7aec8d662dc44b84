//! Who may do what: the holder of a token, what a viewer sees, and what a party is to a Task (design D3, D11).

use std::sync::Arc;

use super::{App, Context};
use crate::config::{Certified, Config, Credentials, Fault, Partner, Role};
use crate::error::{Error, Kind};
use crate::fhir::scope::Scopes;
use crate::fhir::search::{Filter, Query, satisfies};
use crate::fhir::views::{Task, reference_of};
use crate::fhir::{Key, Resource, ResourceType, search_index};
use crate::referral::decide::Standing;
use crate::store::{Reason, Referral, Relay, Stored, Tx, Viewer};

/// The partner whose static token has this SHA-256. The whole list is compared, each in constant time.
pub(super) fn holder(partners: &[Arc<Partner>], shown: &[u8; 32]) -> Option<Arc<Partner>> {
    use aws_lc_rs::constant_time;
    let mut found = None;
    for partner in partners {
        if let Some(Credentials::BearerSha256(expected)) = &partner.credentials
            && constant_time::verify_slices_are_equal(shown, expected).is_ok()
        {
            found = Some(partner.clone());
        }
    }
    found
}

/// What is wrong with the scopes that are configured: one that can't be enforced would grant nothing.
pub(super) fn faults(config: &Config) -> Vec<Fault> {
    let own = config.base();
    let mut faults = Vec::new();
    for scopes in config.partners.iter().filter_map(|partner| partner.scopes.as_ref()) {
        for (index, text) in scopes.list.iter().enumerate() {
            if Scopes::parse([text.as_str()], &own).is_empty() {
                let what = "can't be enforced: it must name a type of this gateway and search parameters of that type, at \
                            most 10, without chains, _has, dates by ap, or references to other servers";
                faults.push(scopes.fault(index, what));
            }
        }
    }
    faults
}

/// A Task's place in a referral.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The source's Task.
    Source(Referral),
    /// Our Task to a target, and the referral it belongs to.
    Relayed(Relay, Referral),
    /// Neither: a patient Task, an import.
    Other,
}

impl App {
    /// A certificate that is bound to a partner is that partner's alone, and a partner with certificates asks over a
    /// connection that proved one of them.
    pub fn check_certificate(&self, partner: &Partner, shown: &[Certified]) -> Result<(), Error> {
        let holds = |one: &Partner| one.certificates.iter().any(|known| shown.contains(known));
        let bound = !partner.certificates.is_empty() || self.partners().iter().any(|one| holds(one));
        match !bound || holds(partner) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unauthenticated,
                "Connect with the client certificate that is registered for you, and with no other's.",
            )),
        }
    }

    /// What a partner's reads are limited to.
    pub(super) fn viewer(&self, context: &Context) -> Viewer {
        if context.is(Role::Operator) {
            return Viewer::Operator;
        }
        let mut grantees = vec![context.partner.id.clone()];
        if context.is(Role::Coordinator) {
            grantees.push(self.gateway().to_string());
        }
        Viewer::Grantees(grantees)
    }

    /// Whose referrals a partner speaks for as their source: its own, and a coordinator for the gateway's organization.
    pub(super) fn sources<'a>(&'a self, partner: &'a Partner) -> Vec<&'a str> {
        let own = partner.roles.contains(&Role::Source).then_some(partner.id.as_str());
        let gateway = partner.roles.contains(&Role::Coordinator).then(|| self.gateway());
        own.into_iter().chain(gateway).collect()
    }

    /// Whose resources a partner creates: a coordinator acts for the gateway's organization on Tasks and requests.
    pub(super) fn author_of<'a>(&'a self, context: &'a Context, kind: ResourceType) -> &'a str {
        let for_gateway = matches!(kind, ResourceType::TASK | ResourceType::SERVICE_REQUEST);
        if for_gateway && context.is(Role::Coordinator) { self.gateway() } else { &context.partner.id }
    }

    /// Where a Task stands in a referral. The referral's row is locked first, always: so two parties that write to one
    /// referral follow each other instead of meeting in the middle.
    pub(super) async fn place(&self, tx: &mut Tx, task: &Key) -> Result<Place, Error> {
        if let Some(relay) = tx.relay(&task.id).await? {
            let referral = tx.referral(&relay.referral).await?;
            let referral = referral.ok_or_else(|| Error::internal("a relay without a referral"))?;
            // Somebody may have been waited for.
            let relay = match tx.is_remote() {
                true => tx.relay(&task.id).await?.ok_or_else(|| Error::internal("the relay has gone"))?,
                false => relay,
            };
            return Ok(Place::Relayed(relay, referral));
        }
        Ok(tx.referral(&task.id).await?.map_or(Place::Other, Place::Source))
    }

    /// What the asking party is to a Task it may see. Neither author nor owner: 403 (G-057).
    pub(super) async fn standing(
        &self,
        tx: &mut Tx,
        context: &Context,
        stored: &Stored,
        task: &Resource,
        place: &Place,
    ) -> Result<Standing, Error> {
        let me = context.partner.id.as_str();
        let coordinator = context.is(Role::Coordinator);
        let (author, owner) = match place {
            Place::Source(referral) => {
                (self.sources(&context.partner).contains(&referral.source.as_str()), coordinator)
            }
            Place::Relayed(relay, _) => match &relay.partner {
                Some(partner) => (coordinator, partner == me),
                None => {
                    let may = tx.grantees_for(&relay.task, Reason::Claim).await?;
                    if may.iter().any(|partner| partner == me) {
                        return Ok(Standing::Claimant);
                    }
                    (coordinator, false)
                }
            },
            Place::Other => {
                let owner = Task(task).owner().and_then(|text| self.local(text));
                let mine = owner.is_some_and(|key| key == App::organization(me));
                (stored.author == me || (coordinator && stored.author == self.gateway()), mine)
            }
        };
        match (author, owner) {
            (true, true) => Ok(Standing::Both),
            (true, false) => Ok(Standing::Author),
            (false, true) => Ok(Standing::Owner),
            (false, false) => Err(Error::forbidden(
                "Only the one who asked (Task.requester) and the one who is asked (Task.owner) may change a Task.",
            )),
        }
    }

    /// Whether the caller's scopes allow this on all of a type: `c`, `r`, `u`, `d` or `s`.
    pub(super) fn check_scope(&self, context: &Context, kind: ResourceType, letter: char) -> Result<(), Error> {
        if self.scope(context, kind, letter)?.is_empty() {
            return Ok(());
        }
        Err(Error::forbidden(format!("Your scopes cover a part of {kind}; this takes a scope without parameters.")))
    }

    /// What the caller's scopes ask of the resources of a type for this, if they allow it on any.
    pub(super) fn scope(&self, context: &Context, kind: ResourceType, letter: char) -> Result<Vec<Filter>, Error> {
        let part = context.scopes.part_of(kind, letter);
        let part = part.ok_or_else(|| Error::forbidden(format!("Your scopes do not cover this on {kind}.")))?;
        // A client chooses its scopes: no more is found out by them than by searching.
        self.check_filters(context, kind, &part)?;
        Ok(part)
    }

    /// Whether a version lies within the caller's scopes; one that deleted its resource lies in no part.
    pub(super) fn in_scope(&self, context: &Context, letter: char, stored: &Stored) -> Result<bool, Error> {
        let part = self.scope(context, stored.key.kind, letter)?;
        if part.is_empty() || stored.deleted {
            return Ok(part.is_empty());
        }
        let rows = search_index::rows(&stored.resource()?, self.own());
        Ok(part.iter().all(|filter| satisfies(filter, &stored.key.id, stored.updated, &rows)))
    }

    /// Refuses what lies outside the caller's scopes as if it were not there.
    pub(super) fn check_in_scope(&self, context: &Context, letter: char, stored: &Stored) -> Result<(), Error> {
        match self.in_scope(context, letter, stored)? {
            true => Ok(()),
            false => Err(Error::not_found(stored.key.kind.name(), &stored.key.id)),
        }
    }

    /// Refuses a write that leaves something outside the caller's scopes.
    pub(super) fn check_left(&self, context: &Context, letter: char, stored: &Stored) -> Result<(), Error> {
        match self.in_scope(context, letter, stored)? {
            true => Ok(()),
            false => {
                let kind = stored.key.kind;
                Err(Error::forbidden(format!(
                    "Your scopes cover a part of {kind}, and what this would leave is outside."
                )))
            }
        }
    }

    /// A query that finds no more than the scopes allow: this letter on its own type, searching on those it asks about.
    pub(super) fn narrowed(&self, context: &Context, query: &Query, letter: char) -> Result<Query, Error> {
        let part = self.scope(context, query.kind, letter)?;
        let mut query = query.clone();
        for filter in &mut query.filters {
            filter.narrow(&mut |kind| self.scope(context, kind, 's'))?;
        }
        self.check_asks(context, &query)?;
        query.filters.extend(part);
        Ok(query)
    }

    /// Whether a Subscription may tell of this type: it goes on after the token, by what is configured.
    pub(super) fn check_told(&self, context: &Context, kind: ResourceType) -> Result<(), Error> {
        let configured = self.configured_scopes(&context.partner.id).part_of(kind, 'r');
        if Some(self.scope(context, kind, 'r')?) == configured {
            return Ok(());
        }
        let text = format!("A Subscription goes on after your token: ask with all the scopes you have on {kind}.");
        Err(Error::forbidden(text))
    }

    /// Whether a partner may create or change resources of this type at all.
    pub(super) fn may_write(&self, context: &Context, resource: &Resource) -> Result<(), Error> {
        if context.is(Role::Operator) || context.is(Role::Coordinator) {
            return Ok(());
        }
        let kind = resource.kind();
        let allowed = match kind.name() {
            "Organization" | "Provenance" => false,
            "HealthcareService" => {
                // A service belongs to the one who provides it; nobody speaks for another house.
                let provider = reference_of(resource.at("providedBy")).and_then(|text| self.local(text));
                let own = provider.is_some_and(|key| key == App::organization(&context.partner.id));
                if context.is(Role::Target) && !own {
                    return Err(Error::refused(
                        "HealthcareService.providedBy",
                        format!("Give your own Organization as the provider: Organization/{}.", context.partner.id),
                    ));
                }
                own
            }
            "Task" | "ServiceRequest" | "Patient" => context.is(Role::Source),
            _ => true,
        };
        if allowed { Ok(()) } else { Err(Error::forbidden(format!("Your role does not write {kind} here."))) }
    }

    /// Whether a partner may change a resource it may see: only the author, an operator, or a coordinator in the
    /// directory. Anything else does not exist for it.
    pub(super) fn may_change(&self, context: &Context, stored: &Stored) -> Result<(), Error> {
        let kind = stored.key.kind;
        let own = stored.author == context.partner.id || stored.author == self.author_of(context, kind);
        let directory = kind.is_directory() && context.is(Role::Coordinator);
        // A configured service may be kept up to date by the house that provides it.
        let provider = kind == ResourceType::HEALTHCARE_SERVICE
            && stored
                .resource()
                .ok()
                .and_then(|service| reference_of(service.at("providedBy")).and_then(|text| self.local(text)))
                == Some(App::organization(&context.partner.id));
        if own || directory || provider || context.is(Role::Operator) {
            return Ok(());
        }
        Err(Error::forbidden(format!("Only its author may change this {kind}.")))
    }

    /// Whether an Organization comes from the configuration, and so can't be changed or deleted.
    pub(super) fn is_configured(&self, key: &Key) -> bool {
        key.kind == ResourceType::ORGANIZATION && (key.id == self.gateway() || self.partner(&key.id).is_some())
    }
}
