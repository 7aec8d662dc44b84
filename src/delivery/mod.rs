//! The door out: a worker that claims what is owed and sends it.
//!
//! Nothing is decided here. A delivery is planned by `app` from the state at the time of sending, sent without any
//! transaction open, and reported back; whatever goes wrong is retried with backoff and is visible. Each partner has a
//! few requests in flight at most, so that a slow one delays nobody else.

mod client;
mod collect;
mod discover;
mod fetch;
mod guard;
mod hand;
mod key_set;
mod mail;
mod notify;
mod poll;
mod reconcile;
mod sms;
mod socket;
mod subscribe;
mod task;
mod token;
mod worker;
mod write_back;

pub use client::{Network, Request, Response, SendError, Sending, Transport};
pub use hand::Hand;
pub use key_set::fetch as fetch_key_sets;
pub use worker::Worker;
