//! Stamps: the times that transactions carry. Those of one gateway always rise, and it is known which of them stand on
//! something that is not visible yet.

use std::sync::Arc;

/// The stamps of one gateway: they always rise.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// The last one given out.
    pub(super) last: i64,
    /// Up to here was said that nothing more would come.
    pub(super) promised: i64,
    /// Given out, and what they stand on is not visible yet.
    pub(super) open: Vec<i64>,
}

/// A stamp until what it stands on is visible, or never will be.
#[derive(Debug, Default)]
pub(super) struct Stamped {
    pub(super) stamp: i64,
    pub(super) stamps: Arc<std::sync::Mutex<Stamps>>,
}

impl Drop for Stamped {
    fn drop(&mut self) {
        let mut stamps = locked(&self.stamps);
        if let Some(index) = stamps.open.iter().position(|stamp| *stamp == self.stamp) {
            stamps.open.swap_remove(index);
        }
    }
}

pub(super) fn locked(stamps: &std::sync::Mutex<Stamps>) -> std::sync::MutexGuard<'_, Stamps> {
    stamps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
