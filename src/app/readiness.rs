//! Readiness: whether the gateway can do its work now, which is to store what it is told.
//!
//! A database that is read may still be full or write-protected, so something is written. Whoever asks, and however many,
//! that happens once a while; so nobody has to know that it has recovered.

use std::time::Duration;

use tokio::sync::Mutex;

use super::App;
use crate::error::Error;
use crate::time::Timestamp;

/// How long an answer holds: anybody may ask, and each write waits for the disk.
const HOLDS: Duration = Duration::from_secs(1);

/// What was found last, and when.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Option<(Timestamp, Result<(), Error>)>>);

impl App {
    /// Whether the database takes writes.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut last = self.0.readiness.0.lock().await;
        let now = self.now();
        if let Some((at, found)) = &*last
            && *at <= now
            && now.since(*at) < HOLDS
        {
            return found.clone();
        }
        let found = self.write_something().await;
        *last = Some((self.now(), found.clone()));
        found
    }

    async fn write_something(&self) -> Result<(), Error> {
        let mut tx = self.store().begin().await?;
        tx.try_writing().await?;
        tx.commit().await
    }
}
