//! Numbers of resources: what the index knows them by, in a third of the room that their ids take. Nobody outside sees one.
//!
//! A gateway takes them from the database by the block, in a transaction of its own before the one that needs them: so
//! they cost no round trip, and nobody waits for anybody's commit. A transaction that needs very many takes a block itself. No
//! number is given twice; those that a stopped gateway has left, or that were for what was taken back, stay unused.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::store::{Store, Tx};

/// How many are taken at once.
const BLOCK: i64 = 10_000;

/// A transaction begins with no fewer than these at hand: more than most ever need.
const ENOUGH: i64 = 2_000;

/// Those that this gateway has taken and not used.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Vec<Range<i64>>>);

impl Numbers {
    fn next(&self) -> Option<i64> {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.retain(|block| !block.is_empty());
        blocks.first_mut()?.next()
    }

    fn are_enough(&self) -> bool {
        let blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.iter().map(|block| block.end - block.start).sum::<i64>() >= ENOUGH
    }

    fn add(&self, block: Range<i64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

impl Store {
    /// Sees to it that there are enough.
    pub(super) async fn stock_numbers(&self) -> Result<(), Error> {
        if self.numbers.are_enough() {
            return Ok(());
        }
        let mut tx = self.unstamped().await?;
        let block = tx.take_numbers().await?;
        tx.commit().await?;
        self.numbers.add(block);
        Ok(())
    }
}

impl Tx {
    /// One that no resource has.
    pub(super) async fn number(&mut self) -> Result<i64, Error> {
        if let Some(number) = self.numbers.next() {
            return Ok(number);
        }
        // Taken back with this transaction, so that nobody else may have one of these.
        if self.own_numbers.is_empty() {
            self.own_numbers = self.take_numbers().await?;
        }
        self.own_numbers.next().ok_or_else(|| Error::internal("no number is left"))
    }

    async fn take_numbers(&mut self) -> Result<Range<i64>, Error> {
        let text = "update resource_number set next = next + $1 returning next";
        let row = self.one(text, args![BLOCK]).await?;
        let end = row.ok_or_else(|| Error::internal("no numbers are kept"))?.int(0)?;
        Ok(end - BLOCK..end)
    }
}
