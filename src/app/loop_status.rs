//! `$loop-status`: how far a referral is, whose turn it is, until when, and each step with its evidence.

use serde_json::{Value, json};

use super::receipts::untold;
use super::{App, Context};
use crate::config::Role;
use crate::error::Error;
use crate::fhir::views::Task;
use crate::fhir::{Key, ResourceType};
use crate::referral::closure::{Known, Level, Turn, assess};
use crate::referral::decide::status_of;

impl App {
    /// The loop of a source's Task, for its source and any coordinator; nobody else learns that it exists.
    pub async fn loop_status(&self, context: &Context, task: &str) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::TASK, 'r')?;
        let mut tx = self.store().read().await?;
        let allowed =
            |source: &str| context.is(Role::Operator) || context.is(Role::Coordinator) || source == context.partner.id;
        let referral = tx.referral(task).await?.filter(|referral| allowed(&referral.source));
        let referral = referral.ok_or_else(|| Error::not_found("Task", task))?;
        let key = Key::new(ResourceType::TASK, task);
        let stored = tx.resource(&key).await?.ok_or_else(|| Error::not_found("Task", task))?;
        let resource = stored.resource()?;
        let mut relays = Vec::new();
        for relay in tx.relays(task).await? {
            if let Some(theirs) = tx.resource(&Key::new(ResourceType::TASK, &relay.task)).await? {
                let reached = relay.reached.is_some() && !relay.withdrawn;
                relays.push((relay.partner, status_of(&theirs.resource()?), theirs.updated, reached));
            }
        }
        let known = Known {
            source: status_of(&resource),
            outcome: !Task(&resource).outputs().is_empty(),
            reason: Task(&resource).reason_text().is_some(),
            informed: referral.informed_at.is_some(),
            fetched: referral.fetched,
            held: referral.held,
            relays,
            since: stored.updated,
        };
        let (level, turn, due) = assess(&known);
        let organization = |id: &str| json!({"reference": format!("{}/Organization/{id}", self.own())});
        let waiting = match &turn {
            Turn::Nobody => None,
            Turn::Gateway | Turn::Coordinator => Some(organization(self.gateway())),
            Turn::Source => Some(organization(&referral.source)),
            Turn::Target(partner) => Some(organization(partner)),
        };
        let mut parameters = vec![
            json!({"name": "closed", "valueBoolean": level >= Level::L4}),
            json!({"name": "level", "valueCode": level.code()}),
        ];
        if let Some(waiting) = waiting {
            parameters.push(json!({"name": "waitingOn", "valueReference": waiting}));
        }
        if let Some(due) = due {
            parameters.push(json!({"name": "due", "valueDateTime": due.to_string()}));
        }
        if let Some(why) = referral.held_why.filter(|_| referral.held) {
            parameters.push(json!({"name": "held", "valueString": why}));
        }
        parameters.extend(self.conflict_parts(&mut tx, task).await?);
        let steps = tx.evidence(task).await?;
        for (partner, task) in untold(&steps) {
            parameters.push(json!({"name": "untold", "part": [
                {"name": "who", "valueReference": organization(partner)},
                {"name": "task", "valueReference": {"reference": format!("{}/Task/{task}", self.own())}},
            ]}));
        }
        for step in steps {
            parameters.push(json!({"name": "step", "part": [
                {"name": "what", "valueCode": step.what},
                {"name": "who", "valueReference": organization(&step.who)},
                {"name": "when", "valueInstant": step.at.to_string()},
                {"name": "evidence", "valueString": format!("{} of Task/{} version {}", step.how, step.task, step.version)},
            ]}));
        }
        Ok(json!({"resourceType": "Parameters", "parameter": parameters}))
    }
}
