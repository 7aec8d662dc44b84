//! The gateway against real databases: one test program, every test on its own fresh database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod databases;
mod flows;
mod gateway;
mod oracle;
mod routing;
mod store;
mod store_commit;
mod store_events;
mod store_grants;
mod store_marks;
mod store_outbox;
mod store_search;
