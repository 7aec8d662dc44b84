//! Lanes: the servers behind subscribers' endpoints. One that fails again and again rests for a while, whichever gateway
//! and whichever Subscription found out; and the gateway's own secrets.

use crate::error::Error;
use crate::store::Tx;
use crate::time::Timestamp;

/// Failures in a row after which a lane rests.
const FAILURES: i64 = 3;

impl Tx {
    /// Until when a lane rests that has failed; nothing of one that works.
    pub async fn lane(&mut self, lane: &str) -> Result<Option<Timestamp>, Error> {
        let row = self.one("select rests_till from lane where name = $1", args![lane]).await?;
        row.map(|row| row.time(0)).transpose()
    }

    /// Nothing came back over a lane, or its server's own trouble: it rests till then, if that is not the first time.
    pub async fn lane_failed(&mut self, lane: &str, till: Timestamp) -> Result<(), Error> {
        self.run(
            "insert into lane (name, failures, rests_till) values ($1, 1, 0)
             on conflict (name) do update set failures = lane.failures + 1,
             rests_till = case when lane.failures + 1 >= $2 then $3 else 0 end",
            args![lane, FAILURES, till],
        )
        .await?;
        Ok(())
    }

    /// A lane works.
    pub async fn lane_works(&mut self, lane: &str) -> Result<(), Error> {
        self.run("delete from lane where name = $1", args![lane]).await?;
        Ok(())
    }

    /// A secret of the gateway's own: this one, if there is none yet.
    pub async fn own_secret(&mut self, name: &str, proposed: &str) -> Result<String, Error> {
        let text = "insert into secret (name, value) values ($1, $2) on conflict (name) do nothing";
        self.run(text, args![name, proposed]).await?;
        let row = self.one("select value from secret where name = $1", args![name]).await?;
        row.ok_or_else(|| Error::internal("the secret has gone"))?.text(0)
    }
}
