//! Partners as the database knows them: who is active, and how far we have followed each one's server.

use crate::error::Error;
use crate::store::Tx;
use crate::time::Timestamp;

/// How far a partner's server has been followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// The partner's own timestamp up to which everything was seen.
    pub cursor: Option<String>,
    /// When a round last came to its end.
    pub heard_at: Option<Timestamp>,
    /// Rounds that failed since.
    pub failures: i64,
    /// Why the last of them did; never health data.
    pub failing: Option<String>,
    /// How far a round has come that is not at its end.
    pub round: Option<String>,
}

impl Tx {
    /// The configured partners become the active ones; one that has gone is deactivated, never deleted.
    pub async fn put_partners(&mut self, partners: &[(String, String)]) -> Result<(), Error> {
        self.run("update partner set active = 0", args![]).await?;
        for (id, name) in partners {
            self.run(
                "insert into partner (id, name, active) values ($1, $2, 1)
                 on conflict (id) do update set name = excluded.name, active = 1",
                args![id, name],
            )
            .await?;
        }
        Ok(())
    }

    /// How far a partner has been followed.
    pub async fn following(&mut self, partner: &str) -> Result<Following, Error> {
        let text = "select cursor, heard_at, failures, failing, round from partner where id = $1";
        let row = self.one(text, args![partner]).await?;
        let row = row.ok_or_else(|| Error::internal(format!("partner {partner} is not in the database")))?;
        Ok(Following {
            cursor: row.text_or_null(0)?,
            heard_at: row.time_or_null(1)?,
            failures: row.int(2)?,
            failing: row.text_or_null(3)?,
            round: row.text_or_null(4)?,
        })
    }

    /// A round went well, to its end: everything up to the cursor was taken over.
    pub async fn followed(&mut self, partner: &str, cursor: Option<&str>) -> Result<(), Error> {
        let stamp = self.stamp();
        self.run(
            "update partner set cursor = coalesce($1, cursor), heard_at = $2, failures = 0, failing = null, round = null
             where id = $3",
            args![cursor, stamp, partner],
        )
        .await?;
        Ok(())
    }

    /// A round has come so far; none: it begins anew.
    pub async fn put_round(&mut self, partner: &str, round: Option<&str>) -> Result<(), Error> {
        self.run("update partner set round = $1 where id = $2", args![round, partner]).await?;
        Ok(())
    }

    /// A round goes well, and is not at its end.
    pub async fn follows(&mut self, partner: &str) -> Result<(), Error> {
        self.run("update partner set failures = 0, failing = null where id = $1", args![partner]).await?;
        Ok(())
    }

    /// The active partners whose servers were asked ever: failures in a row, and when each was last heard of.
    pub async fn all_following(&mut self) -> Result<Vec<(String, i64, Option<Timestamp>)>, Error> {
        let text = "select id, failures, heard_at from partner
            where active = 1 and (heard_at is not null or failures > 0) order by id";
        let rows = self.all(text, args![]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?, row.time_or_null(2)?))).collect()
    }

    /// Where a pass over all that is open at a partner's server goes on; none: at the beginning.
    pub async fn reconciled_to(&mut self, partner: &str) -> Result<Option<String>, Error> {
        let row = self.one("select reconciled from partner where id = $1", args![partner]).await?;
        row.map_or(Ok(None), |row| row.text_or_null(0))
    }

    /// A pass has come so far; none: to its end.
    pub async fn put_reconciled(&mut self, partner: &str, to: Option<&str>) -> Result<(), Error> {
        self.run("update partner set reconciled = $1 where id = $2", args![to, partner]).await?;
        Ok(())
    }

    /// A round failed.
    pub async fn not_followed(&mut self, partner: &str, why: &str) -> Result<i64, Error> {
        let row = self
            .one(
                "update partner set failures = failures + 1, failing = $1 where id = $2 returning failures",
                args![why, partner],
            )
            .await?;
        row.map_or(Ok(0), |row| row.int(0))
    }
}
