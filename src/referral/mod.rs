//! The closed loop, pure: which steps a referral may take and who may take them, what is relayed, how the answers of
//! several targets become one, whether consent allows it, and when the loop is closed. No clock, no SQL, no async.
//!
//! The words are the guide's: source, intermediary (us), target. Design D3–D9, D13; guide G-015…G-037, G-055…G-067.

pub mod aggregate;
pub mod bridge;
pub mod closure;
pub mod consent;
pub mod decide;
pub mod patients;
pub mod relay;
pub mod status;

pub use status::Status;
