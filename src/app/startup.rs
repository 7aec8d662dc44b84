//! What the gateway makes known at start: configured partners, their Organizations and services, and the polls it owes.

use std::time::Duration;

use serde_json::{Value, json};

use super::App;
use crate::config::{Partner, Role};
use crate::error::{Error, Kind as ErrorKind};
use crate::fhir::views::SDOHCC;
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::{Delivery, Kind, Tx};

/// Times the start is tried while other gateways are in the way, and the pause between.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The Organization type that marks a community organization for the public clients (reference-clients §2.3).
const ORGANIZATION_TYPE: &str = "http://hl7.org/gravity/CodeSystem/sdohcc-temporary-organization-type-codes";

impl App {
    /// Makes the configuration's partners the ones that exist. Safe at every start and from several gateways.
    /// Another gateway that starts or works at the same moment may be in the way; then it is tried again.
    pub(super) async fn introduce(&self) -> Result<(), Error> {
        for _ in 1..TRIES {
            match self.introduce_once().await {
                Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Conflict) => {
                    tracing::info!(cause = error.cause.as_deref().unwrap_or(""), "starting is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
        self.introduce_once().await
    }

    async fn introduce_once(&self) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        let names: Vec<(String, String)> =
            self.partners().iter().map(|partner| (partner.id.clone(), partner.name.clone())).collect();
        tx.put_partners(&names).await?;
        let gateway = &self.config().gateway;
        self.settle(
            &mut tx,
            json!({"resourceType": "Organization", "id": gateway.id, "active": true, "name": gateway.name}),
        )
        .await?;
        for partner in self.partners() {
            self.settle(&mut tx, organization(partner)).await?;
            for service in &partner.services {
                let key = Key::new(ResourceType::HEALTHCARE_SERVICE, &service.id);
                // A service that is there may have been kept up to date by its house: capacity above all.
                if tx.resource(&key).await?.is_none() {
                    self.settle(&mut tx, healthcare_service(partner, service)).await?;
                }
            }
        }
        self.commit(tx).await?;
        self.owe_polls().await
    }

    /// In a transaction of its own: a round of polling takes its delivery first and its partner second.
    async fn owe_polls(&self) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        for partner in self.partners().iter().filter(|partner| partner.fhir.is_some()) {
            // A gateway that starts again and again asks nobody more often for it (design D15b).
            let heard = tx.following(&partner.id).await?.heard_at;
            let pause = self.pause(&mut tx, &partner.id).await?;
            let next = heard.map(|heard| heard.plus(pause));
            let poll = Delivery {
                kind: Kind::Poll,
                subject: partner.id.clone(),
                partner: partner.id.clone(),
                lane: super::lane_to(&partner.id),
                due_at: next.unwrap_or(self.now()).max(self.now()),
            };
            tx.enqueue(&poll).await?;
        }
        // The configuration may have changed since: agreements that are gone from it end what rests on them.
        tx.due_by(self.now(), Kind::Expire, "ServiceRequest/").await?;
        self.owe_looks(&mut tx).await?;
        self.owe_reconciliations(&mut tx).await?;
        self.owe_subscriptions(&mut tx).await?;
        self.commit(tx).await
    }

    /// Stores a configured resource under its id, if it is new or has changed.
    async fn settle(&self, tx: &mut Tx, value: Value) -> Result<(), Error> {
        let resource = Resource::from_value(value)?;
        let Some(key) = resource.key() else { return Ok(()) };
        match tx.resource_for_update(&key).await? {
            None => {
                let written = self.insert_as(tx, resource, &key.id, self.gateway(), "PUT").await?;
                self.service_offered(tx, &written).await?;
            }
            Some(stored) if stored.deleted || !stored.resource()?.same_content(&resource) => {
                self.save(tx, &stored, resource, self.gateway()).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}

fn organization(partner: &Partner) -> Value {
    let mut value = json!({"resourceType": "Organization", "id": partner.id, "active": true, "name": partner.name});
    if !partner.identifiers.is_empty() {
        let list = partner.identifiers.iter().map(|one| json!({"system": one.system, "value": one.value}));
        value["identifier"] = list.collect();
    }
    if partner.roles.contains(&Role::Target) {
        value["type"] = json!([{"coding": [{"system": ORGANIZATION_TYPE, "code": "cbo"}]}]);
    }
    value
}

fn healthcare_service(partner: &Partner, service: &crate::config::HealthcareService) -> Value {
    let mut codings =
        vec![json!({"system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-category", "code": "sdoh"})];
    codings.extend(service.categories.iter().map(|code| json!({"system": SDOHCC, "code": code})));
    json!({"resourceType": "HealthcareService", "id": service.id, "active": true,
        "providedBy": {"reference": format!("Organization/{}", partner.id)},
        "category": [{"coding": codings}], "name": service.name})
}
