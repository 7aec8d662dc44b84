//! Following a partner's server by subscription: push tells when, the poll tells what (design D15b).
//!
//! Whatever a notification says, what changed is taken in by the one poll ([`super::polls`]), so that repeats, gaps and
//! lost notifications can't make us drift; the round of `poll_every` stays as the net below. Promises: a server that
//! offers no Subscriptions is polled; one whose notifications stop, though its changes don't, is found out by the next
//! poll, polled until it speaks again, and asked about our Subscription; a Subscription that ended there is made anew.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::pace::SOONEST;
use super::peers::{DAILY, source_filter, target_filter};
use super::{App, Claimed};
use crate::config::{Follow, Partner, Role};
use crate::error::{Error, Kind};
use crate::fhir::following::{Hook, What, told};
use crate::fhir::reference::lies_under;
use crate::store::{Delivery, Kind as Owed, Outcome, Subscribed, Tx};
use crate::time::Timestamp;

/// How much later than a change its notification may come before it counts as not having come.
const LATE: Duration = Duration::from_secs(120);

/// See to our Subscription at a partner's server.
#[derive(Debug, Clone)]
pub struct SubscribePlan {
    /// Whose server.
    pub partner: Arc<Partner>,
    /// Where ours stands; none: it is to be made.
    pub url: Option<String>,
    /// Whether there is a point in making one: it is offered, or we were told to try.
    pub offered: bool,
    /// The Subscription to the guide's topic.
    pub to_topic: Value,
    /// The classic one, for servers that know no topics.
    pub to_criteria: Value,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It stands there, with this status.
    Stands(String, String),
    /// It has gone, and is to be made anew.
    Gone,
    /// The server takes none; never health data.
    Refused(String),
}

impl App {
    /// Wants Subscriptions at all servers that are to be followed so, and owes a look at each, no sooner than a quarter of
    /// an hour after the last one however often we start.
    pub(super) async fn owe_subscriptions(&self, tx: &mut Tx) -> Result<(), Error> {
        for partner in self.partners() {
            if partner.fhir.as_ref().is_none_or(|fhir| fhir.follow == Follow::Poll) {
                continue;
            }
            for side in sides(partner) {
                tx.want_subscribed(&partner.id, side, &crate::id::secret()).await?;
            }
            for one in tx.subscribed(&partner.id).await? {
                if sides(partner).any(|side| side == one.side) {
                    let due = one.checked_at.map_or(self.now(), |checked| checked.plus(SOONEST).max(self.now()));
                    self.owe_look(tx, &one, due).await?;
                }
            }
        }
        Ok(())
    }

    /// Owes a Subscription where one is wanted and there is none yet: its server takes them.
    pub(super) async fn owe_subscription(&self, tx: &mut Tx, partner: &str) -> Result<(), Error> {
        for one in tx.subscribed(partner).await?.iter().filter(|one| one.url.is_none()) {
            self.owe_look(tx, one, self.now()).await?;
        }
        Ok(())
    }

    async fn owe_look(&self, tx: &mut Tx, one: &Subscribed, due_at: Timestamp) -> Result<(), Error> {
        let subject = format!("{}/{}", one.partner, one.side);
        let (partner, lane) = (one.partner.clone(), super::lane_to(&one.partner));
        tx.enqueue(&Delivery { kind: Owed::Subscribe, subject, partner, lane, due_at }).await
    }

    /// What to do at a partner's server; none when it is not followed so any more.
    pub async fn subscribe_plan(&self, claimed: &Claimed) -> Result<Option<SubscribePlan>, Error> {
        let Some(partner) = self.partner(&claimed.partner).cloned() else { return Ok(None) };
        let Some(fhir) = partner.fhir.as_ref().filter(|fhir| fhir.follow != Follow::Poll) else { return Ok(None) };
        let mut tx = self.store().read().await?;
        // As long as that is not known there is nothing to do: what finds it out owes this again.
        let Some(offered) = self.may_subscribe(&mut tx, &partner).await? else { return Ok(None) };
        let Some(mut one) = subject(&tx.subscribed(&partner.id).await?, claimed).cloned() else { return Ok(None) };
        // One that was made where its server stood before is left there.
        one.url = one.url.filter(|url| lies_under(url, &fhir.base));
        let search = match one.side.as_str() {
            "source" => format!("Task?{}", source_filter(&partner)),
            _ => format!("Task?{}", target_filter(self.own(), self.gateway())),
        };
        let endpoint = format!("{}/hooks/{}", self.config().server.public_url, partner.id);
        let hook = Hook { endpoint, secret: one.secret };
        let (to_topic, to_criteria) = (hook.to_topic(&search), hook.to_criteria(&search));
        Ok(Some(SubscribePlan { url: one.url, offered, to_topic, to_criteria, partner }))
    }

    /// What came of looking after our Subscription.
    pub async fn subscribed(&self, claimed: &Claimed, standing: Standing) -> Result<(), Error> {
        let now = self.now();
        let mut tx = self.store().begin().await?;
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        let all = tx.subscribed(&claimed.partner).await?;
        let Some(mut one) = subject(&all, claimed).cloned() else { return Ok(()) };
        one.checked_at = Some(now);
        let mut again = now.plus(DAILY);
        match standing {
            Standing::Stands(url, status) => {
                if one.url.as_ref() != Some(&url) {
                    (one.url, one.last_event) = (Some(url), None);
                }
                // A handshake may have come before the answer to our POST did; silence ends when something is heard.
                if !matches!(one.state.as_str(), "active" | "silent") {
                    one.state = if status == "active" { "active" } else { "requested" }.into();
                }
                one.why = one.why.filter(|_| one.state == "silent");
            }
            Standing::Gone => {
                (one.url, one.state, again) = (None, "wanted".into(), now);
                one.why = Some("it was not there any more".into());
            }
            Standing::Refused(why) => {
                tracing::info!(partner = one.partner, side = one.side, why, "takes no Subscription; it is polled");
                (one.url, one.state, one.why) = (None, "refused".into(), Some(why));
            }
        }
        tx.put_subscribed(&one).await?;
        tx.finish(claimed, &Outcome::Again(again)).await?;
        self.commit(tx).await
    }

    /// A notification came for a partner, showing this secret. What is new makes us ask; 401 for any other secret.
    pub async fn heard(&self, partner: &str, secret: &str, body: &Value) -> Result<(), Error> {
        let unknown = || Error::new(Kind::Unauthenticated, "This secret is not that of a Subscription of ours.");
        let partner = self.partner(partner).ok_or_else(unknown)?.clone();
        let same = |one: &Subscribed| {
            aws_lc_rs::constant_time::verify_slices_are_equal(one.secret.as_bytes(), secret.as_bytes()).is_ok()
        };
        let mut tx = self.store().begin().await?;
        let one = tx.subscribed(&partner.id).await?.into_iter().find(same);
        let mut one = one.ok_or_else(unknown)?;
        let told = told(body);
        let known = told.newest.is_some_and(|newest| one.last_event.is_some_and(|last| newest <= last));
        let news = match told.what {
            // It counts from where it stands: what came before, the next poll finds.
            What::Handshake => false,
            // A count that we have not heard of: a notification got lost.
            What::Heartbeat => told.newest.is_some_and(|newest| newest > one.last_event.unwrap_or(0)),
            What::Events => !known,
        };
        // A server that begins to count anew says so, or is found out by what it tells of no more.
        one.last_event = if told.what == What::Handshake { told.newest } else { one.last_event.max(told.newest) };
        let repeated = told.what == What::Events && known;
        if !repeated {
            one.heard_at = Some(self.now());
        }
        if told.ailing {
            one.state = "error".into();
            one.why = Some("its server says that the Subscription is off or in error".into());
            self.owe_look(&mut tx, &one, self.now()).await?;
        } else if !repeated {
            (one.state, one.why) = ("active".into(), None);
        }
        tx.put_subscribed(&one).await?;
        if news {
            self.owe_afresh(&mut tx, Owed::Poll, &partner.id, &partner.id).await?;
        }
        self.commit(tx).await
    }

    /// A poll found a change of this time that no notification told of: its server has gone silent.
    pub(super) async fn silent(&self, tx: &mut Tx, partner: &str, changed: Timestamp) -> Result<(), Error> {
        if self.now() < changed.plus(LATE) {
            return Ok(());
        }
        for mut one in tx.subscribed(partner).await? {
            if one.state == "active" && one.heard_at.is_none_or(|heard| heard < changed) {
                tracing::warn!(partner, side = one.side, "a change was found that no notification told of");
                // Whatever number comes next is news.
                (one.state, one.last_event) = ("silent".into(), None);
                one.why = Some("a poll found a change that no notification told of".into());
                tx.put_subscribed(&one).await?;
                self.owe_look(tx, &one, self.now()).await?;
            }
        }
        Ok(())
    }
}

/// What a partner's Tasks are to us: those it keeps for us, those we gave it.
fn sides(partner: &Partner) -> impl Iterator<Item = &'static str> {
    let has = |role| partner.roles.contains(&role);
    let sides = [has(Role::Source).then_some("source"), has(Role::Target).then_some("target")];
    sides.into_iter().flatten()
}

/// The one a delivery is about.
fn subject<'s>(all: &'s [Subscribed], claimed: &Claimed) -> Option<&'s Subscribed> {
    all.iter().find(|one| format!("{}/{}", one.partner, one.side) == claimed.subject)
}
