//! What Subscriptions ask for, read once: unsealed, parsed and checked anew only when they have changed.
//!
//! Kept by the Subscription's id beside the text and the sealed headers that it was read from, and good for these alone:
//! so nobody has to say when one has changed, and another gateway may have changed it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::App;
use crate::error::Error;
use crate::fhir::subscription::{self, Asked};
use crate::store::Subscription;

/// Most Subscriptions that are kept in mind.
const MOST: usize = 10_000;

/// See the module.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<String, One>>);

struct One {
    resource: String,
    headers: Option<String>,
    asked: Arc<Asked>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Known(..)")
    }
}

impl Known {
    fn get(&self, one: &Subscription) -> Option<Arc<Asked>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&one.id)?;
        (found.resource == one.resource && found.headers == one.headers).then(|| found.asked.clone())
    }

    fn put(&self, one: &Subscription, asked: &Arc<Asked>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST && !known.contains_key(&one.id) {
            known.clear();
        }
        let (resource, headers) = (one.resource.clone(), one.headers.clone());
        known.insert(one.id.clone(), One { resource, headers, asked: asked.clone() });
    }
}

impl App {
    /// What a subscription asks for, its headers included.
    pub(super) fn asked_of(&self, one: &Subscription) -> Result<Arc<Asked>, Error> {
        if let Some(asked) = self.0.known.get(one) {
            return Ok(asked);
        }
        let asked = Arc::new(subscription::parse(&self.with_headers(one)?, self.own())?);
        self.0.known.put(one, &asked);
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Resource;
    use serde_json::json;

    fn one(hook: &str, headers: &str) -> (Subscription, Arc<Asked>) {
        let resource = json!({"resourceType": "Subscription", "status": "active", "reason": "r", "criteria": "Task?",
            "channel": {"type": "rest-hook", "endpoint": hook}});
        let resource = Resource::from_value(resource).unwrap();
        let asked = Arc::new(subscription::parse(&resource, "https://hub/fhir").unwrap());
        let (id, resource, headers) = ("s1".to_string(), resource.to_text(), Some(headers.to_string()));
        (Subscription { id, resource, headers, ..Subscription::default() }, asked)
    }

    // S-037: what was changed, its text or its headers alone, is read anew.
    #[test]
    fn what_has_changed_is_not_known() {
        let known = Known::default();
        let (first, asked) = one("https://a/hook", "sealed");
        known.put(&first, &asked);
        assert!(known.get(&first).is_some());
        for (other, _) in [one("https://b/hook", "sealed"), one("https://a/hook", "sealed anew")] {
            assert!(known.get(&other).is_none());
        }
        assert!(known.get(&Subscription { headers: None, ..first }).is_none());
    }
}
