//! Migrations: each brings the schema one step further, once, in order, all in one transaction. Append only; what was run
//! is kept word for word, so that a file which was changed afterwards is found out. Rules: `migrations/README.md`.

use crate::error::Error;
use crate::store::Tx;

/// Their texts, counted from 1.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_spine.sql"),
    include_str!("../../migrations/0002_tokens.sql"),
    include_str!("../../migrations/0003_subscriptions.sql"),
    include_str!("../../migrations/0004_turns.sql"),
    include_str!("../../migrations/0005_following.sql"),
    include_str!("../../migrations/0006_search.sql"),
    include_str!("../../migrations/0007_attempts.sql"),
    include_str!("../../migrations/0008_lanes.sql"),
    include_str!("../../migrations/0009_type_history.sql"),
    include_str!("../../migrations/0010_peer.sql"),
    include_str!("../../migrations/0011_open.sql"),
    include_str!("../../migrations/0012_sockets.sql"),
    include_str!("../../migrations/0013_audit_seals.sql"),
    include_str!("../../migrations/0014_conflict.sql"),
    include_str!("../../migrations/0015_delivery_lanes.sql"),
    include_str!("../../migrations/0016_reconciling.sql"),
    include_str!("../../migrations/0017_late_outcomes.sql"),
    include_str!("../../migrations/0018_people.sql"),
    include_str!("../../migrations/0019_found.sql"),
    include_str!("../../migrations/0020_sign_in.sql"),
    include_str!("../../migrations/0021_due.sql"),
    include_str!("../../migrations/0022_packed.sql"),
    include_str!("../../migrations/0023_provider_sessions.sql"),
    include_str!("../../migrations/0024_rounds.sql"),
    include_str!("../../migrations/0025_numbers.sql"),
];

/// Runs what has not been run. A second gateway waits for the first.
pub(super) async fn run(tx: &mut Tx) -> Result<(), Error> {
    tx.lock_schema().await?;
    tx.script("create table if not exists migration (version bigint not null primary key, text text not null)").await?;
    let done = tx.all("select version, text from migration order by version", args![]).await?;
    for (index, row) in done.iter().enumerate() {
        match MIGRATIONS.get(index) {
            Some(text) if *text == row.text(1)? => {}
            Some(_) => return Err(Error::internal(format!("migration {} has changed since it was run", row.int(0)?))),
            None => return Err(Error::internal("the database was migrated by a newer version of this program")),
        }
    }
    for (index, text) in MIGRATIONS.iter().enumerate().skip(done.len()) {
        tx.script(text).await?;
        let version = i64::try_from(index + 1).map_err(Error::internal)?;
        tx.run("insert into migration (version, text) values ($1, $2)", args![version, *text]).await?;
    }
    Ok(())
}
