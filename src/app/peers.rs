//! Knowing a partner's server: what it offers, how we therefore follow it, and what an operator should know of it.
//!
//! Found out at start (if the last look is a quarter of an hour ago) and daily, by its CapabilityStatement, its SMART configuration and by asking searches that find
//! nothing: what a server claims and what it does are two things. No health data is sent or read. What it can't do has a
//! way round it, or is said to be missing. <https://hl7.org/fhir/R4/capabilitystatement.html>

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::pace::SOONEST;
use super::{App, Claimed, Context};
use crate::config::{Config, Follow, Partner, Role};
use crate::error::{Error, Kind};
use crate::fhir::ResourceType;
use crate::fhir::capability_statement::Push;
use crate::fhir::views::TASK_CODE;
use crate::store::{Delivery, Kind as Owed, Outcome, Peer, Tx};

/// How often a partner's server is looked at anew.
pub(super) const DAILY: Duration = Duration::from_secs(24 * 60 * 60);

/// How a server answers when asked for the Tasks that are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By whom they name, since when.
    Plain,
    /// The same with the Task's code: some servers keep Tasks apart by it (G-156).
    Coded,
    /// All of them each time: it can't tell since when.
    Whole,
    /// One by one, as far as we know their ids: it can't tell whom they name.
    ById,
}

impl Way {
    const ALL: [Way; 4] = [Way::Plain, Way::Coded, Way::Whole, Way::ById];

    /// Its code in the database.
    pub fn code(self) -> &'static str {
        match self {
            Way::Plain => "plain",
            Way::Coded => "coded",
            Way::Whole => "whole",
            Way::ById => "by-id",
        }
    }

    /// The Task search of this way below the base; `filter` says whom they name, `since` begins with `&` or is empty.
    pub fn search(self, filter: &str, since: &str) -> String {
        match self {
            Way::Plain => format!("Task?{filter}{since}"),
            Way::Coded => format!("Task?{filter}&code={TASK_CODE}%7Cfulfill{since}"),
            Way::Whole | Way::ById => format!("Task?{filter}"),
        }
    }
}

/// How a server answers when asked for what changed of what was copied from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// It does not: all of it is read anew daily.
    Unasked,
    /// By id and since when.
    ById,
    /// The same with the patients: some servers show clinical resources in no other way (G-156).
    WithPatient,
}

impl Copies {
    const ALL: [Copies; 3] = [Copies::Unasked, Copies::ById, Copies::WithPatient];

    /// Its number in the database.
    fn number(self) -> i64 {
        match self {
            Copies::Unasked => 0,
            Copies::ById => 1,
            Copies::WithPatient => 2,
        }
    }
}

/// What a look at a server came to, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What it is about; never health data.
    pub text: String,
}

/// How something is at a partner's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Works,
    /// It does not, and we do something else instead.
    Instead,
    /// The guide demands it, it is not there, and nothing makes up for it.
    Missing,
}

impl Verdict {
    /// Its word in reports.
    pub fn code(self) -> &'static str {
        match self {
            Verdict::Works => "works",
            Verdict::Instead => "instead",
            Verdict::Missing => "missing",
        }
    }
}

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Whether it takes batches.
    pub batch: bool,
    /// What Subscriptions it takes.
    pub push: Push,
    /// How the Tasks it keeps for us are asked for.
    pub source: Way,
    /// How the Tasks we gave it are asked for.
    pub target: Way,
    /// Whether and how it answers searches for what changed of what we hold copies of.
    pub copies: Copies,
    /// Whether it finds what became of our requests, by what it is based on.
    pub outcomes: bool,
    /// All of it in words.
    pub findings: Vec<Finding>,
}

impl Known {
    /// A server that nobody has looked at yet: asked as the guide says, one search after the other.
    pub(super) fn nothing() -> Known {
        let (source, target) = (Way::Plain, Way::Plain);
        let (push, copies) = (Push::None, Copies::ById);
        Known { batch: false, push, source, target, copies, outcomes: false, findings: Vec::new() }
    }

    pub(super) fn of(peer: &Peer) -> Known {
        let way = |code: &str| Way::ALL.into_iter().find(|way| way.code() == code).unwrap_or(Way::Plain);
        let findings: Value = serde_json::from_str(&peer.findings).unwrap_or_default();
        let finding = |one: &Value| {
            let all = [Verdict::Works, Verdict::Instead, Verdict::Missing];
            let verdict = all.into_iter().find(|verdict| one.get(0).is_some_and(|code| code == verdict.code()))?;
            Some(Finding { verdict, text: one.get(1)?.as_str()?.to_string() })
        };
        Known {
            batch: peer.batch,
            push: Push::parse(&peer.push).unwrap_or(Push::None),
            source: way(&peer.source),
            target: way(&peer.target),
            copies: Copies::ALL.into_iter().find(|way| way.number() == peer.copies).unwrap_or(Copies::Unasked),
            outcomes: peer.outcomes,
            findings: findings.as_array().into_iter().flatten().filter_map(finding).collect(),
        }
    }

    fn stored(&self, partner: &str, tx: &Tx) -> Peer {
        let findings: Vec<Value> =
            self.findings.iter().map(|finding| json!([finding.verdict.code(), finding.text])).collect();
        Peer {
            partner: partner.to_string(),
            known_at: tx.stamp(),
            batch: self.batch,
            push: self.push.code().to_string(),
            source: self.source.code().to_string(),
            target: self.target.code().to_string(),
            copies: self.copies.number(),
            outcomes: self.outcomes,
            findings: Value::Array(findings).to_string(),
        }
    }
}

/// Look at a partner's server.
#[derive(Debug, Clone)]
pub struct DiscoverPlan {
    /// Whose.
    pub partner: Arc<Partner>,
    /// Our own base.
    pub own: String,
    /// Whom the Tasks name that it keeps for us, as a search; none: it is no source.
    pub source: Option<String>,
    /// Whom the Tasks name that we gave it.
    pub target: Option<String>,
}

impl DiscoverPlan {
    /// The plan for this partner.
    pub fn new(config: &Config, partner: Arc<Partner>) -> DiscoverPlan {
        let own = config.base();
        let has = |role| partner.roles.contains(&role);
        let source = has(Role::Source).then(|| source_filter(&partner));
        let target = has(Role::Target).then(|| target_filter(&own, &config.gateway.id));
        DiscoverPlan { own, source, target, partner }
    }
}

/// The search for the Tasks a source keeps for us.
pub(super) fn source_filter(partner: &Partner) -> String {
    let fhir = partner.fhir.as_ref();
    let (ours, base) = fhir.map_or(("", ""), |fhir| (fhir.our_reference.as_str(), fhir.base.as_str()));
    format!("owner={}", ours.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')).unwrap_or(ours))
}

/// The search for the Tasks we gave a target.
pub(super) fn target_filter(own: &str, gateway: &str) -> String {
    format!("requester={own}/Organization/{gateway}")
}

impl App {
    /// Owes a look at each server, no sooner than a quarter of an hour after the last one however often we start.
    pub(super) async fn owe_looks(&self, tx: &mut Tx) -> Result<(), Error> {
        for partner in self.partners().iter().filter(|partner| partner.fhir.is_some()) {
            let known = tx.peer(&partner.id).await?;
            let due_at = known.map_or(self.now(), |peer| peer.known_at.plus(SOONEST).max(self.now()));
            let (kind, id, lane) = (Owed::Discover, &partner.id, super::lane_to(&partner.id));
            let (subject, partner) = (id.clone(), id.clone());
            tx.enqueue(&Delivery { kind, subject, partner, lane, due_at }).await?;
            // One that failed is tried as if for the first time: the configuration may have been mended.
            tx.make_due(kind, id, due_at).await?;
        }
        Ok(())
    }

    /// What to look at; none when it has no server any more.
    pub fn discover_plan(&self, claimed: &Claimed) -> Option<DiscoverPlan> {
        let partner = self.partner(&claimed.partner).filter(|partner| partner.fhir.is_some())?;
        Some(DiscoverPlan::new(self.config(), partner.clone()))
    }

    /// What a look came to. A server that takes Subscriptions by now is asked for one.
    pub async fn discovered(&self, claimed: &Claimed, known: &Known) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        if !tx.holds(claimed).await? {
            return Ok(());
        }
        let before = tx.peer(&claimed.partner).await?.map(|peer| Known::of(&peer));
        if before.as_ref() != Some(known) {
            for finding in &known.findings {
                let (partner, verdict, text) = (&claimed.partner, finding.verdict.code(), &finding.text);
                match finding.verdict {
                    Verdict::Works | Verdict::Instead => tracing::info!(partner, verdict, text, "a partner's server"),
                    Verdict::Missing => tracing::warn!(partner, verdict, text, "a partner's server"),
                }
            }
        }
        tx.put_peer(&known.stored(&claimed.partner, &tx)).await?;
        let auto = self
            .partner(&claimed.partner)
            .and_then(|one| one.fhir.as_ref())
            .is_some_and(|fhir| fhir.follow == Follow::Auto);
        if auto && known.push != Push::None && before.is_none_or(|before| before.push == Push::None) {
            self.owe_subscription(&mut tx, &claimed.partner).await?;
        }
        tx.finish(claimed, &Outcome::Again(self.now().plus(DAILY))).await?;
        self.commit(tx).await
    }

    /// What is known of a partner's server, for those who ask it; not in words, which every round would read in vain.
    pub(super) async fn known(&self, tx: &mut Tx, partner: &str) -> Result<Option<Known>, Error> {
        let wordless = |peer: Peer| Known::of(&Peer { findings: String::new(), ..peer });
        Ok(tx.peer(partner).await?.map(wordless))
    }

    /// `$following` of a partner's Organization, for operators and coordinators: what its server offers, how it is
    /// followed, and when it was last heard of.
    pub async fn following_of(&self, context: &Context, id: &str) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::ORGANIZATION, 'r')?;
        let partner = self.partner_for(context, id)?;
        let mut tx = self.store().read().await?;
        let mut parameters = Vec::new();
        let mut add = |name: &str, kind: &str, value: Value| parameters.push(json!({"name": name, kind: value}));
        let following = tx.following(&partner.id).await?;
        if let Some(heard) = following.heard_at {
            add("heard", "valueInstant", json!(heard.to_string()));
        }
        add("failures", "valueInteger", json!(following.failures));
        if let Some(why) = following.failing {
            add("failing", "valueString", json!(why));
        }
        if let Some(due) = tx.due_of(Owed::Poll, &partner.id).await? {
            add("next", "valueInstant", json!(due.to_string()));
        }
        for one in tx.subscribed(&partner.id).await? {
            let mut part =
                vec![json!({"name": "side", "valueCode": one.side}), json!({"name": "state", "valueCode": one.state})];
            part.extend(one.why.map(|why| json!({"name": "why", "valueString": why})));
            parameters.push(json!({"name": "subscription", "part": part}));
        }
        if let Some(peer) = tx.peer(&partner.id).await? {
            let known = Known::of(&peer);
            parameters.push(json!({"name": "known", "valueInstant": peer.known_at.to_string()}));
            parameters.push(json!({"name": "push", "valueCode": known.push.code()}));
            parameters.push(json!({"name": "batch", "valueBoolean": known.batch}));
            let has = |role| partner.roles.contains(&role);
            for (role, name, way) in [(Role::Source, "source", known.source), (Role::Target, "target", known.target)] {
                if has(role) {
                    parameters.push(json!({"name": name, "valueCode": way.code()}));
                }
            }
            for finding in known.findings {
                parameters.push(json!({"name": "finding", "part": [
                    {"name": "verdict", "valueCode": finding.verdict.code()},
                    {"name": "text", "valueString": finding.text}]}));
            }
        }
        Ok(json!({"resourceType": "Parameters", "parameter": parameters}))
    }

    /// The partner with this Organization and a server, for those who run the gateway; nobody else learns of it.
    fn partner_for(&self, context: &Context, id: &str) -> Result<Arc<Partner>, Error> {
        let may = context.is(Role::Operator) || context.is(Role::Coordinator);
        let found = self.partner(id).filter(|_| may).ok_or_else(|| Error::not_found("Organization", id))?;
        if found.fhir.is_none() {
            return Err(Error::new(Kind::NotFound, "This Organization has no FHIR server of its own to ask."));
        }
        Ok(Arc::clone(found))
    }

    /// `$poll` of a partner's Organization: its server is asked now.
    pub async fn poll_of(&self, context: &Context, id: &str) -> Result<(), Error> {
        self.check_scope(context, ResourceType::ORGANIZATION, 'u')?;
        let partner = self.partner_for(context, id)?;
        self.poll_now(&partner.id).await
    }

    /// Whether a partner's server is to be asked for a Subscription; none while that is not known.
    pub(super) async fn may_subscribe(&self, tx: &mut Tx, partner: &Partner) -> Result<Option<bool>, Error> {
        let follow = partner.fhir.as_ref().map_or(Follow::Poll, |fhir| fhir.follow);
        Ok(match follow {
            Follow::Poll => Some(false),
            Follow::Subscribe => Some(true),
            Follow::Auto => self.known(tx, &partner.id).await?.map(|known| known.push != Push::None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_search_is_asked_in_the_way_its_server_answers() {
        let asked = |way: Way| way.search("owner=Organization/hub", "&_lastUpdated=ge2026");
        assert_eq!(asked(Way::Plain), "Task?owner=Organization/hub&_lastUpdated=ge2026");
        assert_eq!(
            asked(Way::Coded),
            "Task?owner=Organization/hub&code=http://hl7.org/fhir/CodeSystem/task-code%7Cfulfill&_lastUpdated=ge2026"
        );
        assert_eq!(asked(Way::Whole), "Task?owner=Organization/hub");
    }
}
