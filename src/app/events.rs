//! Events: what a transaction changed becomes, for every subscription it concerns, an event with the next number.
//!
//! Last thing before the commit, so that every change counts wherever it was made, grants are those that the transaction
//! leaves behind, and a subscriber's row is locked for a moment only. Rows are locked in one order in all transactions.
//! Who is told is decided by grant here and by grant again when it is sent (design D11, D15a).

use super::App;
use crate::error::Error;
use crate::fhir::search::{self, satisfies};
use crate::fhir::subscription::{self, Change, News, Subject, Topic, answers_to, criteria_code, topics_of};
use crate::fhir::views::capacity;
use crate::fhir::{Resource, ResourceType, search_index};
use crate::store::{self, Changed, Subscription, Tx};

impl App {
    /// Numbers the events of what this transaction changed, and owes the notifications.
    pub(super) async fn number_events(&self, tx: &mut Tx) -> Result<(), Error> {
        let mut told: Vec<(Subscription, Changed)> = Vec::new();
        let (mut list, mut asked) = (Vec::new(), Vec::new());
        for mut changed in tx.take_changes() {
            let topics = topics(&changed);
            if topics.is_empty() {
                continue;
            }
            if changed.change == Change::Deleted {
                // What it was: a deletion is news to whoever followed that.
                let last = tx.resource_version(&changed.key, changed.version - 1).await?;
                let last = last.filter(|last| !last.deleted).map(|last| last.resource()).transpose()?;
                changed.rows = last.map(|last| search_index::rows(&last, self.own())).unwrap_or_default().into();
            }
            let terms = answers_to(&changed.key, &changed.rows);
            asked.push(store::News { focus: changed.key.clone(), topics, terms });
            list.push(changed);
        }
        if asked.is_empty() {
            return Ok(());
        }
        for (changed, followers) in list.into_iter().zip(tx.subscribers(&asked).await?) {
            for one in followers {
                if self.concerns(tx, &one, &changed).await? {
                    told.push((one, changed.clone()));
                }
            }
        }
        // Stable: the events of one subscription stay in the order of the changes.
        told.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
        for (one, changed) in told {
            let Changed { key, version, change, .. } = changed;
            let counted = tx.insert_event(&one.id, &key, version, change).await?;
            if counted.is_some_and(|(_, sends)| sends) {
                self.owe_notice(tx, &one, self.now()).await?;
            }
        }
        Ok(())
    }

    /// Whether a subscription that was found by its terms is really about this change.
    async fn concerns(&self, tx: &mut Tx, one: &Subscription, changed: &Changed) -> Result<bool, Error> {
        if one.ends.is_some_and(|end| end <= self.now()) {
            return Ok(false);
        }
        let Ok(asked) = Resource::stored(&one.resource).and_then(|resource| subscription::parse(&resource, self.own()))
        else {
            // Taken in by an earlier version. It must not stop what everybody else does.
            tracing::warn!(subscription = one.id, "this Subscription is not understood any more");
            return Ok(false);
        };
        let holds = |filter| satisfies(filter, &changed.key.id, changed.at, &changed.rows);
        if !asked.filters.iter().all(holds) {
            return Ok(false);
        }
        match asked.subject {
            Subject::Criteria(_) => Ok(true),
            Subject::Topic(topic) => Ok(self.triggers(topic, changed)? && self.is_news(tx, topic, changed).await?),
        }
    }

    fn triggers(&self, topic: &Topic, changed: &Changed) -> Result<bool, Error> {
        if changed.change == Change::Deleted || topic.current.is_empty() {
            return Ok(true);
        }
        let pairs = topic.current.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<(String, String)> = pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let current = search::parse(topic.kind, &pairs, self.own(), true)?;
        let holds = |filter| satisfies(filter, &changed.key.id, changed.at, &changed.rows);
        Ok(current.filters.iter().all(holds))
    }

    async fn is_news(&self, tx: &mut Tx, topic: &Topic, changed: &Changed) -> Result<bool, Error> {
        match topic.news {
            News::Any => Ok(true),
            News::Capacity => {
                let mut seen = Vec::new();
                for version in [changed.version - 1, changed.version] {
                    let stored = tx.resource_version(&changed.key, version).await?.filter(|stored| !stored.deleted);
                    let resource = stored.map(|stored| stored.resource()).transpose()?;
                    seen.push(resource.and_then(|resource| capacity(&resource).map(str::to_string)));
                }
                Ok(seen.windows(2).any(|pair| pair.first() != pair.last()))
            }
        }
    }
}

/// What the subscriptions are found by that such a change may concern.
fn topics(changed: &Changed) -> Vec<String> {
    let kind = changed.key.kind;
    let mut found: Vec<String> =
        topics_of(kind).filter(|topic| topic.on.contains(&changed.change)).map(|topic| topic.url.to_string()).collect();
    // Classic criteria know no deletions (S-202).
    if changed.change != Change::Deleted && kind != ResourceType::SUBSCRIPTION {
        found.push(criteria_code(kind));
    }
    found
}
