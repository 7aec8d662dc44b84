//! The gateway against real databases: one test program, every test on its own fresh database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod acts;
mod back;
mod bundles;
mod closing;
mod conditional;
mod consent;
mod databases;
mod door;
mod faults;
mod flows;
mod following;
mod gateway;
mod intake;
mod network;
mod notifications;
mod oracle;
mod program;
mod public_clients;
mod relaying;
mod routing;
mod simulation;
mod simulation_checks;
mod smart;
mod steps;
mod store;
mod store_commit;
mod store_events;
mod store_grants;
mod store_marks;
mod store_outbox;
mod store_search;
mod subscribing;
mod terminology;
mod tls;
mod xml;
