//! Websockets as a channel of notifications: tokens to bind with, which Subscription is bound to which socket of this
//! gateway, and how long.
//!
//! A token binds once, and what it bound ends when it expires; a new one goes on over the same socket. A Subscription
//! has one socket at a time, the one bound last, so that its events stay in one order. Without a socket nothing is tried:
//! events count, and all that was not taken comes when one is bound. The frames are `http`'s, the sending `delivery`'s.
//! <http://hl7.org/fhir/uv/subscriptions-backport/channels.html#websockets>

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::notifications::standing;
use super::sealing::sha256;
use super::{App, Context};
use crate::error::{Error, Kind};
use crate::fhir::ResourceType;
use crate::fhir::subscription::{Channel, Notice, websocket_url};
use crate::store::{Binding, Subscription, Tx};
use crate::time::Timestamp;

/// How long a token, and what it bound, lasts.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Most sockets open here, and most of one partner.
const MOST: usize = 1_024;
const PER_PARTNER: usize = 16;
/// Notifications that wait to be written to one socket.
const WAITING: usize = 8;

/// A text for a socket, and whom to tell that the other side has it.
#[derive(Debug)]
pub struct Letter {
    /// A notification.
    pub text: String,
    /// Dropped unsent when the socket closes.
    pub taken: oneshot::Sender<()>,
}

/// The way to one socket.
#[derive(Debug, Clone)]
pub struct Line {
    socket: String,
    letters: mpsc::Sender<Letter>,
}

impl Line {
    /// Sends a text; true when the other side has it. False: the socket is closed, and whether it arrived is unknown.
    pub async fn say(&self, text: String) -> bool {
        let (taken, answer) = oneshot::channel();
        self.letters.send(Letter { text, taken }).await.is_ok() && answer.await.is_ok()
    }
}

/// One connection, as its keeper has it.
#[derive(Debug)]
pub struct Socket {
    /// What is to be written to it.
    pub letters: mpsc::Receiver<Letter>,
    /// Says true when the gateway stops.
    pub closing: watch::Receiver<bool>,
    line: Line,
    partner: Option<String>,
    bound: HashMap<String, Timestamp>,
    _place: OwnedSemaphorePermit,
}

impl Socket {
    /// Whether any Subscription is bound to it.
    pub fn is_bound(&self) -> bool {
        !self.bound.is_empty()
    }
}

/// The sockets of this gateway.
#[derive(Debug)]
pub(super) struct Sockets {
    gateway: String,
    places: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    lines: Mutex<HashMap<String, (Line, String)>>,
}

impl Sockets {
    pub(super) fn new() -> Sockets {
        Sockets {
            gateway: crate::id::new(),
            places: Arc::new(Semaphore::new(MOST)),
            closing: watch::Sender::new(false),
            lines: Mutex::default(),
        }
    }

    /// This gateway among those on one database, until it ends.
    pub(super) fn gateway(&self) -> &str {
        &self.gateway
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<String, (Line, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        MOST - self.places.available_permits()
    }

    /// How many of a partner's have something bound to them.
    fn of(&self, partner: &str) -> usize {
        let lines = self.lines();
        let mut sockets: Vec<&str> =
            lines.values().filter(|(_, its)| its == partner).map(|(line, _)| line.socket.as_str()).collect();
        sockets.sort_unstable();
        sockets.dedup();
        sockets.len()
    }

    fn remove(&self, id: &str, socket: &str) {
        let mut lines = self.lines();
        if lines.get(id).is_some_and(|(line, _)| line.socket == socket) {
            lines.remove(id);
        }
    }
}

impl App {
    /// `$get-ws-binding-token`: for one Subscription, or for those of the caller's that have one of these ids, or for all
    /// that take a websocket (S-140). Nobody but their owner may bind them.
    pub async fn binding_token(&self, context: &Context, id: Option<&str>, ids: &[&str]) -> Result<Value, Error> {
        self.check_scope(context, ResourceType::SUBSCRIPTION, 'r')?;
        let ids = id.as_ref().map_or(ids, std::slice::from_ref);
        let mut tx = self.store().begin().await?;
        let mut own = tx.subscriptions(Some(&context.partner.id)).await?;
        if let Some(strange) = ids.iter().find(|id| !own.iter().any(|one| one.id == **id)) {
            return Err(Error::not_found("Subscription", strange));
        }
        own.retain(|one| ids.is_empty() || ids.contains(&one.id.as_str()));
        if let Some(other) = own.iter().find(|one| !ids.is_empty() && !may_be_bound(one)) {
            let text = format!("Subscription/{} is not active with a websocket as its channel.", other.id);
            return Err(Error::refused("Subscription.channel.type", text));
        }
        own.retain(may_be_bound);
        if own.is_empty() {
            return Err(Error::refused("Subscription.channel.type", "You have no active Subscription by websocket."));
        }
        let subscriptions = own.into_iter().map(|one| one.id).collect();
        let binding = Binding { partner: context.partner.id.clone(), subscriptions, till: self.now().plus(LIFETIME) };
        let token = crate::id::secret();
        tx.add_binding_token(&sha256(&token), &binding).await?;
        tx.commit().await?;
        let mut parameters = vec![
            json!({"name": "token", "valueString": token}),
            json!({"name": "expiration", "valueDateTime": binding.till.to_string()}),
        ];
        parameters.extend(binding.subscriptions.iter().map(|id| json!({"name": "subscription", "valueString": id})));
        parameters.push(json!({"name": "websocket-url", "valueUrl": websocket_url(self.own())}));
        Ok(json!({"resourceType": "Parameters", "parameter": parameters}))
    }

    /// A connection has been made: by this partner, if its request showed a token.
    pub fn open_socket(&self, partner: Option<String>) -> Result<Socket, Error> {
        let sockets = &self.0.sockets;
        let full = |_| Error::unavailable("As many sockets are open as this gateway takes.");
        let place = Arc::clone(&sockets.places).try_acquire_owned().map_err(full)?;
        let (sender, letters) = mpsc::channel(WAITING);
        let line = Line { socket: crate::id::new(), letters: sender };
        let closing = sockets.closing.subscribe();
        Ok(Socket { letters, closing, line, partner, bound: HashMap::new(), _place: place })
    }

    /// `bind-with-token`: what the token is good for is bound to this socket. The handshakes, one per Subscription, which
    /// go out before anything else is written.
    pub async fn bind(&self, socket: &mut Socket, token: &str) -> Result<Vec<String>, Error> {
        let mut tx = self.store().begin().await?;
        let Some(binding) = tx.use_binding_token(&sha256(token)).await? else {
            return Err(Error::forbidden("This token binds nothing, or not any more; ask for a new one."));
        };
        self.bind_all(tx, socket, binding).await
    }

    /// `bind` of classic R4: for a Subscription of the partner whose token the request for the connection showed (S-208).
    pub async fn bind_classic(&self, socket: &mut Socket, id: &str) -> Result<Vec<String>, Error> {
        let Some(partner) = socket.partner.clone() else {
            let text = "Who you are is not known: connect with your token, or ask for one with $get-ws-binding-token and bind-with-token.";
            return Err(Error::forbidden(text));
        };
        let mut tx = self.store().begin().await?;
        let own = tx.subscription(id).await?.filter(|one| one.partner == partner && may_be_bound(one));
        let one = own.ok_or_else(|| Error::not_found("Subscription", id))?;
        if !self.asked_of(&one)?.subject.is_classic() {
            return Err(Error::forbidden("A Subscription to a topic is bound with a token: $get-ws-binding-token."));
        }
        let till = self.now().plus(LIFETIME);
        self.bind_all(tx, socket, Binding { partner, subscriptions: vec![id.to_string()], till }).await
    }

    async fn bind_all(&self, mut tx: Tx, socket: &mut Socket, binding: Binding) -> Result<Vec<String>, Error> {
        let Binding { partner, subscriptions, till } = binding;
        if socket.partner.as_ref().is_some_and(|its| *its != partner) || self.partner(&partner).is_none() {
            return Err(Error::forbidden("This socket is another partner's."));
        }
        let sockets = &self.0.sockets;
        if socket.bound.is_empty() && sockets.of(&partner) >= PER_PARTNER {
            let text = format!("A partner has at most {PER_PARTNER} sockets here; bind more to one, or close some.");
            return Err(Error::new(Kind::Throttled, text));
        }
        let (mut handshakes, mut bound) = (Vec::new(), Vec::new());
        for id in subscriptions {
            let own = tx.subscription(&id).await?.filter(|one| one.partner == partner && may_be_bound(one));
            let Some(mut one) = own else { continue };
            let asked = self.asked_of(&one)?;
            handshakes.push(self.said_to(&asked, standing(&one, &asked), Notice::Handshake, &[])?);
            one.said = Some(self.now());
            tx.update_subscription(&one).await?;
            self.owe_notice_afresh(&mut tx, &one).await?;
            tx.bind(&id, &socket.line.socket, sockets.gateway(), till).await?;
            bound.push(id);
        }
        if bound.is_empty() {
            return Err(Error::refused("Subscription.status", "None of these Subscriptions is active any more."));
        }
        // Known here before anybody can be told to send over it.
        sockets.lines().extend(bound.iter().map(|id| (id.clone(), (socket.line.clone(), partner.clone()))));
        if let Err(error) = self.commit(tx).await {
            bound.iter().for_each(|id| sockets.remove(id, &socket.line.socket));
            return Err(error);
        }
        socket.partner = Some(partner);
        socket.bound.extend(bound.into_iter().map(|id| (id, till)));
        Ok(handshakes)
    }

    /// Lets go what has expired, was switched off, or is bound to another socket by now. False when nothing is left of
    /// what was bound.
    pub async fn still_bound(&self, socket: &mut Socket) -> Result<bool, Error> {
        if socket.bound.is_empty() {
            return Ok(true);
        }
        let now = self.now();
        let over: Vec<String> =
            socket.bound.iter().filter(|(_, till)| **till <= now).map(|(id, _)| id.clone()).collect();
        self.let_go_of(socket, &over).await?;
        let known = self.store().read().await?.bound_to(&socket.line.socket).await?;
        let lost: Vec<String> = socket.bound.keys().filter(|id| !known.contains(id)).cloned().collect();
        self.let_go_of(socket, &lost).await?;
        Ok(socket.is_bound())
    }

    /// A connection has ended: nothing is bound to it any more.
    pub async fn hang_up(&self, mut socket: Socket) -> Result<(), Error> {
        let all: Vec<String> = socket.bound.keys().cloned().collect();
        self.let_go_of(&mut socket, &all).await
    }

    async fn let_go_of(&self, socket: &mut Socket, ids: &[String]) -> Result<(), Error> {
        for id in ids {
            socket.bound.remove(id);
            self.0.sockets.remove(id, &socket.line.socket);
            self.unbind(id, &socket.line.socket).await?;
        }
        Ok(())
    }

    /// Nothing is sent to a Subscription over this socket any more; what it is owed waits for the next one.
    pub(super) async fn unbind(&self, id: &str, socket: &str) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        tx.unbind(id, socket).await?;
        self.commit(tx).await
    }

    /// What was sent over a line did not arrive for all we know: it is not used again.
    pub async fn cut(&self, id: &str, line: &Line) -> Result<(), Error> {
        self.0.sockets.remove(id, &line.socket);
        self.unbind(id, &line.socket).await
    }

    /// The line that a Subscription is bound to, if it is one of this gateway's. One that is not there any more binds
    /// nothing: its gateway has died, or the binding has expired.
    pub(super) async fn line_of(&self, one: &Subscription) -> Result<Option<Line>, Error> {
        let Some(socket) = one.socket.as_deref().filter(|socket| !socket.is_empty()) else { return Ok(None) };
        let line = self.0.sockets.lines().get(&one.id).map(|(line, _)| line.clone());
        let line = line.filter(|line| line.socket == socket);
        if line.is_none() {
            self.unbind(&one.id, socket).await?;
        }
        Ok(line)
    }

    /// The gateway stops: all sockets are told. Returns when the last one has ended.
    pub async fn close_sockets(&self) {
        let sockets = &self.0.sockets;
        sockets.closing.send_replace(true);
        let all = u32::try_from(MOST).unwrap_or(u32::MAX);
        drop(sockets.places.acquire_many(all).await);
    }
}

/// Whether it takes a websocket now.
fn may_be_bound(one: &Subscription) -> bool {
    one.socket.is_some() && one.status == "active"
}

/// What a new standing starts with: bound to nothing, if it takes a socket at all.
pub(super) fn unbound(channel: Channel) -> Option<String> {
    match channel {
        Channel::Websocket => Some(String::new()),
        Channel::RestHook | Channel::Email | Channel::Sms => None,
    }
}
