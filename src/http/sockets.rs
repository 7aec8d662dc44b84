//! Sockets that subscribers open to get their notifications over: what they may say, what they are told, and when they
//! are left.
//!
//! `bind-with-token TOKEN` (a colon may follow the word) binds what `$get-ws-binding-token` gave the token for, and is
//! answered with a handshake per Subscription; `bind ID` is classic R4's, for who showed its token when it connected. What is
//! refused is answered with an OperationOutcome. Behind each notification goes a ping, whose pong says that it has arrived.
//! Everything is bounded: frames, patience, mistakes, silence.
//! <http://hl7.org/fhir/uv/subscriptions-backport/channels.html#websockets>, <https://www.rfc-editor.org/rfc/rfc6455>

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use tokio::sync::oneshot;

use super::auth;
use crate::app::{App, Socket};
use crate::error::Error;
use crate::fhir::outcome;

/// Largest message, in bytes: an order with an id or a token.
const LARGEST: usize = 1_024;
/// How often what is bound, and who is still there, is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Looks after which a socket to which nothing is bound is left; after which one hears a ping; and after which one that has
/// not answered is left.
const UNBOUND: u32 = 15;
const SILENT: u32 = 15;
const PATIENCE: u32 = 10;
/// How long writing one frame may take: who reads more slowly is left.
const SLOW: Duration = Duration::from_secs(20);
/// Frames on the way that were not answered yet.
const UNANSWERED: usize = 64;
/// Refusals after which a socket is left, and most messages of one.
const MISTAKES: u32 = 3;
const MESSAGES: u32 = 10_000;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Makes a socket of a connection. Who shows a token is known by it, and may bind in the classic way.
pub(super) async fn open(app: &App, request: Request) -> Result<Response, Error> {
    let partner = match request.headers().contains_key(AUTHORIZATION) {
        true => Some(auth::authenticate(app, request.headers(), request.extensions()).await?.partner.id.clone()),
        false => None,
    };
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|_| Error::malformed("This address is for websockets (RFC 6455)."))?;
    let (app, socket) = (app.clone(), app.open_socket(partner)?);
    let upgrade = upgrade.max_message_size(LARGEST).max_frame_size(LARGEST);
    Ok(upgrade.on_upgrade(move |wire| async move {
        let keeper = Keeper { app, socket, wire, unanswered: VecDeque::new(), pings: 0, looks: 0, heard: 0 };
        keeper.keep().await;
    }))
}

/// Why a socket is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// The other side has gone.
    Gone,
    /// It reads too slowly, or does not answer.
    Slow,
    /// Nothing is bound to it (any more).
    Unbound,
    /// Too many mistakes.
    Refused,
    /// The gateway stops.
    Leaving,
    /// The gateway can't go on with it.
    Broken,
}

impl Farewell {
    /// The code and the reason of the close frame: <https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1>.
    fn told(self) -> Option<(u16, &'static str)> {
        match self {
            Farewell::Gone => None,
            Farewell::Slow => Some((1008, "too slow")),
            Farewell::Unbound => Some((1000, "nothing is bound to this socket; get a new token")),
            Farewell::Refused => Some((1008, "too much that was refused")),
            Farewell::Leaving => Some((1001, "the gateway stops; come again")),
            Farewell::Broken => Some((1011, "come again")),
        }
    }
}

/// What a subscriber says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    BindWithToken(&'a str),
    Bind(&'a str),
    Other,
}

fn understood(text: &str) -> Said<'_> {
    let mut words = text.split_whitespace();
    let (order, what, None) = (words.next().unwrap_or(""), words.next(), words.next()) else { return Said::Other };
    match (order.strip_suffix(':').unwrap_or(order), what) {
        ("bind-with-token", Some(token)) => Said::BindWithToken(token),
        ("bind", Some(id)) => Said::Bind(id),
        _ => Said::Other,
    }
}

/// One socket and who keeps it.
struct Keeper {
    app: App,
    socket: Socket,
    wire: WebSocket,
    /// The pings that were not answered yet: number, the look at which it was sent, whom to tell.
    unanswered: VecDeque<(u64, u32, Option<oneshot::Sender<()>>)>,
    pings: u64,
    looks: u32,
    /// The look at which something was last sent or heard.
    heard: u32,
}

impl Keeper {
    async fn keep(mut self) {
        let farewell = match self.talk().await {
            Ok(never) => match never {},
            Err(farewell) => farewell,
        };
        if let Some((code, reason)) = farewell.told() {
            let frame = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
            let _ = tokio::time::timeout(GOODBYE, self.wire.send(frame)).await;
        }
        tracing::info!(why = ?farewell, "a socket has ended");
        if let Err(error) = self.app.hang_up(self.socket).await {
            tracing::warn!(%error, "a socket could not be unbound; its binding expires by itself");
        }
    }

    async fn talk(&mut self) -> Result<std::convert::Infallible, Farewell> {
        let mut look = tokio::time::interval(LOOK);
        let (mut mistakes, mut messages) = (0, 0);
        let mut closing = self.socket.closing.clone();
        loop {
            tokio::select! {
                message = self.wire.recv() => {
                    messages += 1;
                    self.heard = self.looks;
                    let refused = match message {
                        Some(Ok(Message::Text(text))) => self.ordered(text.as_str()).await?,
                        Some(Ok(Message::Pong(number))) => { self.answered(&number); false }
                        Some(Ok(Message::Ping(_))) => false,
                        Some(Ok(Message::Binary(_))) => true,
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Farewell::Gone),
                    };
                    mistakes += u32::from(refused);
                    if mistakes >= MISTAKES || messages >= MESSAGES {
                        return Err(Farewell::Refused);
                    }
                }
                Some(letter) = self.socket.letters.recv(), if self.unanswered.len() < UNANSWERED => {
                    // A pong for each notification is owed to us, no word too many.
                    messages = 0;
                    self.write(Message::text(letter.text)).await?;
                    self.ping(Some(letter.taken)).await?;
                }
                _ = look.tick() => self.look().await?,
                () = async { let _ = closing.wait_for(|closing| *closing).await; } => return Err(Farewell::Leaving),
            }
        }
    }

    /// Does what a message says; true when it was refused.
    async fn ordered(&mut self, text: &str) -> Result<bool, Farewell> {
        let handshakes = match understood(text) {
            Said::BindWithToken(token) => self.app.bind(&mut self.socket, token).await,
            Said::Bind(id) => self.app.bind_classic(&mut self.socket, id).await,
            Said::Other => Err(Error::malformed("Say bind-with-token and a token of $get-ws-binding-token.")),
        };
        match handshakes {
            Ok(handshakes) => {
                for handshake in handshakes {
                    self.write(Message::text(handshake)).await?;
                }
                Ok(false)
            }
            Err(error) => {
                if let Some(cause) = &error.cause {
                    tracing::error!(cause, "binding a socket failed");
                }
                self.write(Message::text(outcome::of(&error).to_string())).await?;
                Ok(true)
            }
        }
    }

    /// The other side has read everything up to this ping.
    fn answered(&mut self, number: &[u8]) {
        let Ok(number) = number.try_into().map(u64::from_be_bytes) else { return };
        while let Some((_, _, taken)) = self.unanswered.pop_front_if(|(ping, ..)| *ping <= number) {
            if let Some(taken) = taken {
                // Nobody waits any more: it was too late, and comes again.
                let _ = taken.send(());
            }
        }
    }

    async fn look(&mut self) -> Result<(), Farewell> {
        self.looks += 1;
        if self.unanswered.front().is_some_and(|(_, since, _)| self.looks - since >= PATIENCE) {
            return Err(Farewell::Slow);
        }
        let bound = self.app.still_bound(&mut self.socket).await.map_err(|_| Farewell::Broken)?;
        if !bound || (!self.socket.is_bound() && self.looks >= UNBOUND) {
            return Err(Farewell::Unbound);
        }
        if self.unanswered.is_empty() && self.looks - self.heard >= SILENT {
            self.ping(None).await?;
        }
        Ok(())
    }

    async fn ping(&mut self, taken: Option<oneshot::Sender<()>>) -> Result<(), Farewell> {
        self.pings += 1;
        self.unanswered.push_back((self.pings, self.looks, taken));
        let number = self.pings.to_be_bytes().to_vec();
        self.write(Message::Ping(number.into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Farewell> {
        match tokio::time::timeout(SLOW, self.wire.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Farewell::Gone),
            Err(_) => Err(Farewell::Slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-141, S-208: with and without the colon.
    #[test]
    fn orders_are_understood_in_their_spellings() {
        for text in ["bind-with-token abc", "bind-with-token: abc", " bind-with-token:  abc\r\n"] {
            assert_eq!(understood(text), Said::BindWithToken("abc"), "{text}");
        }
        assert_eq!(understood("bind s1"), Said::Bind("s1"));
        for text in ["", "bind", "bind-with-token", "bind-with-token:abc", "bind a b", "unbind a", "{}"] {
            assert_eq!(understood(text), Said::Other, "{text}");
        }
    }
}
