//! Turns: what must not be done twice at once is done one after the other.
//!
//! Whether a resource is there already is asked before it is created; two gateways that ask at the same time would both
//! hear no. Whoever takes the turn of a text makes all others with the same text wait until its transaction ends. SQLite
//! has one writer, so there everybody's turn comes anyway.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::store::Tx;
use crate::store::later::Shape;

/// Rows that turns are spread over: enough that strangers seldom wait for each other.
const TURNS: u64 = 256;

const TURN: Shape = Shape {
    table: "turn",
    columns: &["number", "taken"],
    key: 1,
    or: " on conflict (number) do update set taken = excluded.taken",
};

impl Tx {
    /// Takes the turns of these texts, all at once and in order, so that nobody waits in a circle: once a transaction,
    /// before anything else is locked.
    pub async fn take_turns(&mut self, texts: &[String]) -> Result<(), Error> {
        if self.is_alone() {
            return Ok(());
        }
        let (numbers, stamp): (BTreeSet<i64>, _) = (texts.iter().map(|text| number(text)).collect(), self.stamp());
        self.insert(TURN, numbers.into_iter().map(|number| args![number, stamp]).collect()).await?;
        self.tell().await
    }

    /// Writes something of no meaning: the turn that no text has.
    pub async fn try_writing(&mut self) -> Result<(), Error> {
        let row = args![i64::try_from(TURNS).unwrap_or(i64::MAX), self.stamp()];
        self.insert(TURN, vec![row]).await
    }
}

/// The row of a text (FNV-1a): the same at every gateway, whatever it was built with.
fn number(text: &str) -> i64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    i64::try_from(hash % TURNS).unwrap_or(0)
}
