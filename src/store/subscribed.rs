//! Our Subscriptions at partners' servers: where each stands, and what was last heard.

use crate::error::Error;
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// A Subscription of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// At whose server.
    pub partner: String,
    /// `source`: Tasks it keeps for us; `target`: Tasks we gave it.
    pub side: String,
    /// What its notifications must show.
    pub secret: String,
    /// Where it stands.
    pub url: Option<String>,
    /// `wanted`, `requested`, `active`, `silent`, `error`, `refused`.
    pub state: String,
    /// The newest event number heard.
    pub last_event: Option<i64>,
    /// When anything was last heard.
    pub heard_at: Option<Timestamp>,
    /// When its server was last asked about it.
    pub checked_at: Option<Timestamp>,
    /// Why it isn't active.
    pub why: Option<String>,
}

const COLUMNS: &str = "partner, side, secret, url, state, last_event, heard_at, checked_at, why";

fn read(row: &Row) -> Result<Subscribed, Error> {
    Ok(Subscribed {
        partner: row.text(0)?,
        side: row.text(1)?,
        secret: row.text(2)?,
        url: row.text_or_null(3)?,
        state: row.text(4)?,
        last_event: row.int_or_null(5)?,
        heard_at: row.time_or_null(6)?,
        checked_at: row.time_or_null(7)?,
        why: row.text_or_null(8)?,
    })
}

impl Tx {
    /// Wants a Subscription at a partner's server, if there is none yet.
    pub async fn want_subscribed(&mut self, partner: &str, side: &str, secret: &str) -> Result<(), Error> {
        self.run(
            "insert into subscribed (partner, side, secret, state) values ($1, $2, $3, 'wanted') on conflict do nothing",
            args![partner, side, secret],
        )
        .await?;
        Ok(())
    }

    /// A partner's, locked until the transaction ends.
    pub async fn subscribed(&mut self, partner: &str) -> Result<Vec<Subscribed>, Error> {
        let lock = self.for_update();
        let text = format!("select {COLUMNS} from subscribed where partner = $1 order by side{lock}");
        self.all(text, args![partner]).await?.iter().map(read).collect()
    }

    /// Everybody's, for people who look how partners are followed.
    pub async fn all_subscribed(&mut self) -> Result<Vec<Subscribed>, Error> {
        let text = format!("select {COLUMNS} from subscribed order by partner, side");
        self.all(text, args![]).await?.iter().map(read).collect()
    }

    /// Writes one back.
    pub async fn put_subscribed(&mut self, one: &Subscribed) -> Result<(), Error> {
        self.run(
            "update subscribed set url = $1, state = $2, last_event = $3, heard_at = $4, checked_at = $5, why = $6
             where partner = $7 and side = $8",
            args![
                one.url.as_deref(),
                &one.state,
                one.last_event,
                one.heard_at,
                one.checked_at,
                one.why.as_deref(),
                &one.partner,
                &one.side
            ],
        )
        .await?;
        Ok(())
    }
}
