//! The one room: every use case of the gateway is a public function here, and one transaction.
//!
//! What a use case owes to others is saved in that transaction as deliveries and sent later by `delivery`. Nothing here
//! knows HTTP; nothing here waits for a network. The rules of the loop are `referral`'s; here they meet the store.

mod access_tokens;
mod answers;
mod asked;
mod audit_events;
mod bridging;
mod calling_off;
mod conditional;
mod conflicts;
mod copies;
mod deliveries;
mod events;
mod following;
mod intake;
mod interactions;
mod key_sets;
mod loop_status;
mod metrics;
mod notifications;
mod pace;
mod patching;
pub mod peers;
pub mod people;
mod polls;
mod published;
mod readiness;
mod reading;
mod receipts;
mod receiving;
mod reconciling;
mod referrals;
mod relaying;
mod resources;
mod rights;
mod rounds;
mod routing;
mod sealing;
mod seals;
mod sockets;
mod sources;
mod startup;
mod subscription_operations;
mod subscriptions;
mod targets;
mod tokens;
mod transaction;
pub mod validation;
mod visits;
mod webhook_signature;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::config::{Config, Partner, Role};
use crate::error::Error;
use crate::fhir::profile::Profiles;
use crate::fhir::reference::{Reference, lies_under, rewrite};
use crate::fhir::scope::Scopes;
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::{Recorder, Store, Tx, Written};
use crate::time::{Clock, Timestamp};

pub use crate::store::{Busy, Claimed, Kind as Owed, Outcome, Position, Stored, Viewer, When};
pub use copies::{Copy, Missing};
pub use following::{Standing, SubscribePlan};
pub use interactions::{Ask, Made, Target};
pub use key_sets::{Document, Fetch, Wanted};
pub use notifications::{NotifyPlan, Said};
pub use polls::PollPlan;
pub use reading::{Found, Versions, Whose};
pub use reconciling::ReconcilePlan;
pub use relaying::Reach;
pub use resources::Answer;
pub use rounds::Progress;
pub use seals::{Verified, verify};
pub use sockets::{Letter, Line, Socket};
pub use sources::{FetchPlan, WriteBackPlan};
pub use subscription_operations::Range;
pub use targets::{CollectPlan, DeliverPlan, Reported};
use tokens::Tokens;
pub use tokens::{Active, Identity, Issued, Refused, TokenRequest};
pub use transaction::Step;
pub use visits::Visit;

/// Who asks, and under which request id.
#[derive(Debug, Clone)]
pub struct Context {
    /// The partner whose token was shown.
    pub partner: Arc<Partner>,
    /// What the partner's configuration and its token allow.
    pub scopes: Arc<Scopes>,
    /// The X-Request-Id, for the audit.
    pub request: String,
    /// The access token's jti, if it is one of ours.
    pub token: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// Who it is, where a person signed in.
    pub person: Option<String>,
    /// What the request says of where it comes from, for all that it writes.
    pub provenance: Option<Arc<Resource>>,
}

impl Context {
    /// Whether the partner has this role.
    pub fn is(&self, role: Role) -> bool {
        self.partner.roles.contains(&role)
    }
}

/// The gateway's use cases over one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    profiles: Profiles,
    own: String,
    partners: Vec<Arc<Partner>>,
    /// Where each stands among them: there may be thousands.
    places: HashMap<String, usize>,
    store: Store,
    clock: Clock,
    recorder: Recorder,
    seal: sealing::Seal,
    counts: visits::Counts,
    known: asked::Known,
    sockets: sockets::Sockets,
    tokens: Tokens,
    passwords: people::Passwords,
    readiness: readiness::Readiness,
    /// Rounds of polling that have ended and are not recorded yet.
    ended: Mutex<Vec<rounds::Ended>>,
    wake: Notify,
}

impl App {
    /// Starts on a migrated store: makes the configured partners, organizations and services known, and owes the polls.
    pub async fn start(config: Config, store: Store, clock: Clock) -> Result<App, Error> {
        let own = config.base();
        let profiles = validation::profiles(&config).map_err(|faults| {
            Error::malformed(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let partners: Vec<Arc<Partner>> = config.partners.iter().cloned().map(Arc::new).collect();
        let places = partners.iter().enumerate().map(|(place, partner)| (partner.id.clone(), place)).collect();
        let recorder = Recorder::start(store.clone());
        let tokens = Tokens::new(&config);
        let seal = App::seal(&config, &store).await?;
        let inner = Inner {
            seal,
            counts: Default::default(),
            known: Default::default(),
            sockets: sockets::Sockets::new(),
            config,
            profiles,
            own,
            partners,
            places,
            store,
            clock,
            recorder,
            tokens,
            passwords: people::Passwords::new(),
            readiness: Default::default(),
            ended: Mutex::default(),
            wake: Notify::new(),
        };
        let app = App(Arc::new(inner));
        app.introduce().await?;
        Ok(app)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }
    /// Our FHIR base, without trailing slash.
    pub fn own(&self) -> &str {
        &self.0.own
    }
    /// Our host, as `X-Intermediary` names it.
    pub fn name_as_intermediary(&self) -> &str {
        self.config().host()
    }
    /// The time.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
    /// The clock.
    pub fn clock(&self) -> Clock {
        self.0.clock.clone()
    }
    /// The gateway's Organization id, which is also the grantee that coordinators read as.
    pub fn gateway(&self) -> &str {
        &self.0.config.gateway.id
    }
    /// The store, for the use cases.
    fn store(&self) -> &Store {
        &self.0.store
    }
    /// The partner with this id.
    pub fn partner(&self, id: &str) -> Option<&Arc<Partner>> {
        self.0.partners.get(*self.0.places.get(id)?)
    }
    /// All configured partners.
    pub fn partners(&self) -> &[Arc<Partner>] {
        &self.0.partners
    }
    /// Returns when something may have become due.
    pub async fn owed(&self) {
        self.0.wake.notified().await;
    }
    /// Something may have become due.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Keys and tokens.
    fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Tells the subscribers, commits, then lets the worker look, if there is something to look at. A transaction that
    /// changed a resource ends here and nowhere else.
    async fn commit(&self, mut tx: Tx) -> Result<(), Error> {
        self.number_events(&mut tx).await?;
        let owes = tx.owes();
        tx.commit().await?;
        if owes {
            self.wake();
        }
        Ok(())
    }

    /// Stores the first version of a resource, under the id it was given here, or a new one.
    async fn insert(&self, tx: &mut Tx, resource: Resource, author: &str) -> Result<Written, Error> {
        let id = resource.id().map_or_else(crate::id::new, str::to_string);
        self.insert_as(tx, resource, &id, author, "POST").await
    }

    async fn insert_as(
        &self,
        tx: &mut Tx,
        resource: Resource,
        id: &str,
        author: &str,
        method: &str,
    ) -> Result<Written, Error> {
        tx.insert_resource(resource, id, author, method, self.own()).await
    }

    /// Stores a new version.
    async fn save(&self, tx: &mut Tx, current: &Stored, resource: Resource, by: &str) -> Result<Written, Error> {
        tx.update_resource(current, resource, by, self.own()).await
    }

    /// The current version of something that must be there.
    async fn must(&self, tx: &mut Tx, key: &Key) -> Result<Stored, Error> {
        let stored = tx.resource_for_update(key).await?;
        stored.filter(|stored| !stored.deleted).ok_or_else(|| Error::internal(format!("{key} has gone")))
    }

    /// What the current version of something that must be there says.
    async fn says(&self, tx: &mut Tx, key: &Key) -> Result<Arc<Resource>, Error> {
        let stored = self.must(tx, key).await?;
        tx.parsed(&stored)
    }

    /// Rewrites the references a partner sent into those of this server: our own base becomes relative, and what we
    /// have a copy of becomes the copy. Answers which URLs at the partner's base are left.
    async fn localise(
        &self,
        tx: &mut Tx,
        resource: &mut Resource,
        partner: Option<&Partner>,
    ) -> Result<Vec<String>, Error> {
        let mut known: Vec<(String, String)> = Vec::new();
        let mut left: Vec<String> = Vec::new();
        for text in crate::fhir::reference::all(resource) {
            if known.iter().any(|(from, _)| *from == text) {
                continue;
            }
            match Reference::parse(&text, self.own()) {
                Reference::Local(key) if text.starts_with("http") => known.push((text, key.to_string())),
                Reference::Remote { base, key } => {
                    let origin = format!("{base}/{key}");
                    let Some(partner) = partner else { continue };
                    if let Some(link) = tx.link_from(&partner.id, &origin).await? {
                        known.push((text, link.key.to_string()));
                    } else if partner.fhir.as_ref().is_some_and(|fhir| lies_under(&origin, &fhir.base)) {
                        left.push(origin);
                    }
                }
                _ => {}
            }
        }
        rewrite(resource, &mut |text| known.iter().find(|(from, _)| from == text).map(|(_, to)| to.clone()));
        left.dedup();
        Ok(left)
    }

    /// The same resource with every local reference made absolute: what we send carries those (design D12a).
    pub fn absolute(&self, resource: &Resource) -> Resource {
        let mut out = resource.clone();
        rewrite(&mut out, &mut |text| Key::parse(text).map(|_| format!("{}/{text}", self.own())));
        out
    }

    /// A reference's key, if it is to a resource here.
    fn local(&self, text: &str) -> Option<Key> {
        match Reference::parse(text, self.own()) {
            Reference::Local(key) => Some(key),
            _ => None,
        }
    }

    /// The Organization of a partner or of the gateway.
    fn organization(id: &str) -> Key {
        Key::new(ResourceType::ORGANIZATION, id)
    }
}

impl App {
    /// How many requests at a time each partner's own server takes, by its lane.
    pub fn concurrency(&self) -> HashMap<String, i64> {
        let with = self.partners().iter().filter_map(|partner| Some((&partner.id, partner.fhir.as_ref()?)));
        with.map(|(id, fhir)| (lane_to(id), i64::try_from(fhir.concurrency).unwrap_or(i64::MAX))).collect()
    }
}

/// The lane of what goes to a partner's own server.
fn lane_to(partner: &str) -> String {
    format!("fhir:{partner}")
}
