//! What partners' servers offer, as it was last found out.

use crate::error::Error;
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// A partner's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whose.
    pub partner: String,
    /// When it was found out.
    pub known_at: Timestamp,
    /// Whether it takes batches.
    pub batch: bool,
    /// What Subscriptions it takes: `topic`, `unsaid`, `none`.
    pub push: String,
    /// How the Tasks it keeps for us are asked for: `plain`, `coded`, `whole`, `by-id`.
    pub source: String,
    /// How the Tasks we gave it are asked for.
    pub target: String,
    /// Whether and how it answers searches for what changed of what we hold copies of: 0, 1, 2.
    pub copies: i64,
    /// Whether it finds what became of our requests.
    pub outcomes: bool,
    /// JSON, for people.
    pub findings: String,
}

const COLUMNS: &str = "partner, known_at, batch, push, source, target, copies, outcomes, findings";

fn read(row: &Row) -> Result<Peer, Error> {
    Ok(Peer {
        partner: row.text(0)?,
        known_at: row.time(1)?,
        batch: row.flag(2)?,
        push: row.text(3)?,
        source: row.text(4)?,
        target: row.text(5)?,
        copies: row.int(6)?,
        outcomes: row.flag(7)?,
        findings: row.text(8)?,
    })
}

impl Tx {
    /// What is known of a partner's server.
    pub async fn peer(&mut self, partner: &str) -> Result<Option<Peer>, Error> {
        let text = format!("select {COLUMNS} from peer where partner = $1");
        self.one(text, args![partner]).await?.as_ref().map(read).transpose()
    }

    /// What is known of all of them.
    pub async fn peers(&mut self) -> Result<Vec<Peer>, Error> {
        let text = format!("select {COLUMNS} from peer order by partner");
        self.all(text, args![]).await?.iter().map(read).collect()
    }

    /// What was found out now.
    pub async fn put_peer(&mut self, peer: &Peer) -> Result<(), Error> {
        let one = peer.clone();
        self.run(
            "insert into peer (partner, known_at, batch, push, source, target, copies, outcomes, findings)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (partner) do update set known_at = excluded.known_at, batch = excluded.batch,
             push = excluded.push, source = excluded.source, target = excluded.target, copies = excluded.copies,
             outcomes = excluded.outcomes, findings = excluded.findings",
            args![
                one.partner,
                one.known_at,
                one.batch,
                one.push,
                one.source,
                one.target,
                one.copies,
                one.outcomes,
                one.findings
            ],
        )
        .await?;
        Ok(())
    }
}
