//! What can be asked about Subscriptions: `$status`, `$events`.
//!
//! Another partner's Subscription does not exist for the one who asks (S-125).

use serde_json::Value;

use super::notifications::standing;
use super::subscriptions::at_most;
use super::{App, Context};
use crate::config::Role;
use crate::error::{Error, Kind};
use crate::fhir::subscription::{Content, Notice, Standing, notification, status_set};
use crate::store::{Subscription, Tx};

/// Most events in one answer; the rest is asked for by number.
const EVENTS: usize = 1_000;

impl App {
    /// `$status` of one Subscription, or of those of the caller's that have one of these ids and one of these statuses.
    pub async fn subscription_status(
        &self,
        context: &Context,
        id: Option<&str>,
        ids: &[&str],
        statuses: &[&str],
    ) -> Result<Value, Error> {
        let mut tx = self.store().read().await?;
        let list: Vec<Subscription> = match id {
            Some(id) => vec![self.own_subscription(&mut tx, context, id).await?],
            None => {
                let owner = (!context.is(Role::Operator)).then_some(context.partner.id.as_str());
                let mut all = tx.subscriptions(owner).await?;
                all.retain(|one| {
                    (ids.is_empty() || ids.contains(&one.id.as_str()))
                        && (statuses.is_empty() || statuses.contains(&one.status.as_str()))
                });
                all
            }
        };
        let asked = list.iter().map(|one| self.asked_of(one)).collect::<Result<Vec<_>, Error>>()?;
        let standings: Vec<Standing<'_>> = list.iter().zip(&asked).map(|(one, asked)| standing(one, asked)).collect();
        Ok(status_set(self.own(), &standings))
    }

    /// `$events`: events again, as a notification Bundle, with at most the Subscription's own content; what the caller may
    /// no longer see keeps its number alone (S-130…S-134).
    pub async fn subscription_events(
        &self,
        context: &Context,
        id: &str,
        (from, to): (Option<i64>, Option<i64>),
        content: Option<Content>,
    ) -> Result<Value, Error> {
        let mut tx = self.store().read().await?;
        let one = self.own_subscription(&mut tx, context, id).await?;
        let asked = self.asked_of(&one)?;
        if asked.subject.is_classic() {
            return Err(Error::new(Kind::Invalid, "Classic criteria have no numbered events.").code("not-supported"));
        }
        let (from, to) = (from.unwrap_or(1).max(1), to.unwrap_or(i64::MAX));
        if from > to {
            return Err(
                Error::new(Kind::Malformed, "eventsSinceNumber is larger than eventsUntilNumber.").code("value")
            );
        }
        let content = at_most(&asked, content);
        let mut shown = Vec::new();
        for event in tx.events(id, from, to, EVENTS).await? {
            shown.push(self.shown(&mut tx, &one, event, content).await?);
        }
        drop(tx);
        self.disclosed(&one, &shown).await?;
        let standing = Standing { content, ..standing(&one, &asked) };
        Ok(notification(self.own(), standing, Notice::Query, &shown, self.now()))
    }

    /// A Subscription of the caller's, or anybody's for an operator.
    pub(super) async fn own_subscription(
        &self,
        tx: &mut Tx,
        context: &Context,
        id: &str,
    ) -> Result<Subscription, Error> {
        let one = tx.subscription(id).await?;
        let one = one.filter(|one| context.is(Role::Operator) || one.partner == context.partner.id);
        one.ok_or_else(|| Error::not_found("Subscription", id))
    }
}
