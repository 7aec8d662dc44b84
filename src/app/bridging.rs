//! What was written by an older release of the guide, on its way to others: read as [`crate::referral::bridge`] brings it,
//! and put on record when it is relayed.

use std::sync::Arc;

use serde_json::json;

use super::{App, Context, Stored, receiving};
use crate::config::Role;
use crate::error::Error;
use crate::fhir::{Key, Resource};
use crate::referral::bridge;
use crate::store::{Reason, Tx};

impl App {
    /// The text in which a partner reads it: its author and operators as it is stored, others in the present release, and
    /// a target what it is to have of it.
    pub(super) fn passed_on(&self, context: &Context, stored: Arc<Stored>) -> Result<Arc<Stored>, Error> {
        if stored.author == context.partner.id || context.is(Role::Operator) || stored.deleted {
            return Ok(stored);
        }
        let mut text = None;
        if bridge::may_differ(stored.key.kind, &stored.content)
            && let Ok(mut resource) = stored.resource()
            && !bridge::to_current(&mut resource).is_empty()
        {
            text = Some(resource.to_text());
        }
        if let Some(part) = receiving::part(&context.partner, stored.key.kind) {
            text = Some(part.of(text.as_deref().unwrap_or(&stored.content))?);
        }
        Ok(match text {
            Some(text) => Arc::new(Stored { content: text.into(), ..Stored::clone(&stored) }),
            None => stored,
        })
    }

    /// Puts on record which of these a target will read otherwise than their author wrote them, and how.
    pub(super) async fn say_what_is_bridged(
        &self,
        tx: &mut Tx,
        source: &str,
        target: &str,
        relayed: &str,
        keys: &[Key],
    ) -> Result<(), Error> {
        let mut said: Vec<(&'static str, Vec<Key>)> = Vec::new();
        for key in keys {
            let Some(stored) = tx.resource(key).await?.filter(|stored| !stored.deleted) else { continue };
            if stored.author == target || !bridge::may_differ(key.kind, &stored.content) {
                continue;
            }
            for change in bridge::to_current(&mut Resource::clone(&*tx.parsed(&stored)?)) {
                match said.iter_mut().find(|(text, _)| *text == change) {
                    Some((_, keys)) => keys.push(key.clone()),
                    None => said.push((change, vec![key.clone()])),
                }
            }
        }
        for (change, keys) in said {
            let targets: Vec<_> = keys.iter().map(|key| json!({"reference": key.to_string()})).collect();
            let provenance = json!({"resourceType": "Provenance", "target": targets, "recorded": tx.stamp().to_string(),
                "activity": {"text": change},
                "agent": [{"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type", "code": "assembler"}]},
                    "who": {"reference": format!("Organization/{}", self.gateway())}}]});
            let written = self.insert(tx, Resource::from_value(provenance)?, self.gateway()).await?;
            let key = std::slice::from_ref(&written.stored.key);
            tx.grant(source, key, "", Reason::Author).await?;
            tx.grant(self.gateway(), key, "", Reason::Author).await?;
            tx.grant(target, key, relayed, Reason::Context).await?;
        }
        Ok(())
    }
}
