//! The pure layers of the product, taken by path: a fuzzer needs neither database nor HTTP, and builds in a minute.
#![allow(dead_code, unused_imports)]

#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/fhir/mod.rs"]
pub mod fhir;
#[path = "../../../src/id.rs"]
pub mod id;
#[path = "../../../src/jwt.rs"]
pub mod jwt;
#[path = "../../../src/time.rs"]
pub mod time;
