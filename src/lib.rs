//! Loopgate: a FHIR R4 gateway for closed-loop social-care referrals.
//!
//! Doors (`http` in, `delivery` out), one room (`app`), one drawer (`store`), and a library without doors (`fhir`,
//! `referral`, `directory`). Calls only go right; nothing is sent while something is being decided. README.md tells
//! the architecture and a referral's way through it; `tests/architecture` holds the arrows.

pub mod app;
pub mod check;
pub mod command_line;
pub mod config;
pub mod delivery;
pub mod demo;
pub mod directory;
pub mod error;
pub mod fhir;
pub mod gateway;
pub mod http;
pub mod id;
pub mod jwt;
pub mod referral;
pub mod store;
pub mod telemetry;
pub mod time;
