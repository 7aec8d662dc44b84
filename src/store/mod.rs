//! The drawer: the only SQL of the gateway, one text for SQLite and PostgreSQL.
//!
//! A write goes through a [`Tx`]: everything one use case changes and owes is in one transaction. On SQLite there is one
//! writer, and transactions that wait for it are committed together, each answered after the commit (group commit);
//! reads go to connections of their own and see what is committed. On PostgreSQL both use the pool, and rows that only
//! have to be there at the end are told together (`later`).
//!
//! Leaves out every decision: what may be stored is `app`'s and `referral`'s business. Types are text and bigint only;
//! time is microseconds UTC and comes, like ids, from us. Rules for migrations: `migrations/README.md`.

/// The arguments of a statement, in the order of its placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::Arg::from($value)),*] };
}

mod audit;
mod conflicts;
mod grants;
mod history;
mod lanes;
mod later;
mod links;
mod marks;
mod met;
mod migrations;
mod numbers;
mod outbox;
mod packed;
mod partners;
mod peers;
mod people;
mod referrals;
mod reindex;
mod resources;
mod seals;
mod search;
mod sockets;
mod sql;
mod sqlite;
mod stamps;
mod subscribed;
mod subscriptions;
mod tokens;
mod turns;
mod values;
mod versions;
mod writer;

pub use audit::{Access, Entry, Evidence, Recorder};
pub use conflicts::Conflict;
pub use grants::{Reason, Viewer};
pub use history::{Position, When};
pub use links::Link;
pub use outbox::{Attempt, Busy, Claimed, Delivery, Kind, Outcome};
pub use partners::Following;
pub use peers::Peer;
pub use people::{Account, Session};
pub use referrals::{Copied, Referral, Relay};
pub use resources::{Changed, Stored, Written};
pub use seals::{Seal, Span};
pub use search::{Page, Within};
pub use sockets::Binding;
pub use sql::{Store, Tx};
pub use subscribed::Subscribed;
pub use subscriptions::{News, Subscription, Terms, Underway};
pub use values::{Arg, Row};
