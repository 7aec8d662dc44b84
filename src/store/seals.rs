//! The seals of the audit rows, and the rows they hold. Making and checking them is the app's (`app::seals`).

use crate::error::Error;
use crate::store::later::Shape;
use crate::store::{Entry, Tx};

/// A sealed block of audit rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// From 1, without gaps.
    pub number: i64,
    /// The block ends before this id, and begins where the one before ends.
    pub till: String,
    /// How many rows it holds.
    pub held: i64,
    /// Of the seal before and of everything in the block, hexadecimal.
    pub hash: String,
    /// Which key made the hash; empty: none.
    pub signed: String,
}

const SEAL: Shape = Shape::new("audit_seal", &["number", "till", "held", "hash", "signed"]);

impl Tx {
    /// The newest seal.
    pub async fn last_seal(&mut self) -> Result<Option<Seal>, Error> {
        Ok(self.seals("desc", i64::MAX, 1).await?.pop())
    }

    /// The seals after this number, in order.
    pub async fn seals_after(&mut self, number: i64, most: i64) -> Result<Vec<Seal>, Error> {
        self.seals("asc", number, most).await
    }

    async fn seals(&mut self, order: &str, edge: i64, most: i64) -> Result<Vec<Seal>, Error> {
        let side = if order == "asc" { ">" } else { "<=" };
        let text = format!(
            "select number, till, held, hash, signed from audit_seal where number {side} $1 order by number {order} limit $2"
        );
        let rows = self.all(text, args![edge, most]).await?;
        rows.iter()
            .map(|row| {
                Ok(Seal {
                    number: row.int(0)?,
                    till: row.text(1)?,
                    held: row.int(2)?,
                    hash: row.text(3)?,
                    signed: row.text(4)?,
                })
            })
            .collect()
    }

    /// Seals a block; a conflict where another gateway was faster.
    pub async fn put_seal(&mut self, seal: &Seal) -> Result<(), Error> {
        let row = args![seal.number, &seal.till, seal.held, &seal.hash, &seal.signed];
        self.insert(SEAL, vec![row]).await
    }

    /// The audit rows whose ids are not below `from` and below `till`, in the order of ids.
    pub async fn entries(&mut self, from: &str, till: &str, most: i64) -> Result<Vec<Entry>, Error> {
        let text = format!("select {} from audit where id >= $1 and id < $2 order by id limit $3", Entry::COLUMNS);
        let rows = self.all_aside(text, args![from, till, most]).await?;
        rows.iter().map(Entry::of).collect()
    }

    /// How many audit rows have ids from this one on.
    pub async fn entries_from(&mut self, from: &str) -> Result<i64, Error> {
        let row = self.one("select count(*) from audit where id >= $1", args![from]).await?;
        row.map_or(Ok(0), |row| row.int(0))
    }
}
