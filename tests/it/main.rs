//! The gateway against real databases: one test program, every test on its own fresh database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod databases;
mod door;
mod faults;
mod flows;
mod following;
mod gateway;
mod network;
mod notifications;
mod process;
mod store;
mod store_commit;
mod store_events;
mod store_outbox;
mod store_search;
