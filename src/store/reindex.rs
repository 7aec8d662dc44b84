//! The index made anew, when the rules it was made by have changed ([`GENERATION`]). Once, at the start, in bounded
//! transactions; a start that breaks off goes through them again. Safe beside other gateways.

use crate::error::Error;
use crate::fhir::search_index::{GENERATION, rows};
use crate::fhir::{Key, ResourceType};
use crate::store::Store;

/// Resources indexed in one transaction.
const BATCH: i64 = 200;

impl Store {
    /// Indexes what is stored by today's rules, unless it is already. `own` is this server's base.
    pub async fn reindex(&self, own: &str) -> Result<(), Error> {
        let stored = self.read().await?.one("select generation from search_generation", args![]).await?;
        if stored.map(|row| row.int(0)).transpose()?.is_some_and(|stored| stored >= GENERATION) {
            return Ok(());
        }
        let mut last = (String::new(), 0);
        let mut count = 0_usize;
        loop {
            let keys = self
                .read()
                .await?
                .all(
                    "select type, number, id from resource where (type, number) > ($1, $2) order by type, number limit $3",
                    args![&last.0, last.1, BATCH],
                )
                .await?;
            let mut tx = self.begin().await?;
            for row in &keys {
                last = (row.text(0)?, row.int(1)?);
                let kind = ResourceType::parse(&last.0).ok_or_else(|| Error::internal("a type that is not known"))?;
                let key = Key::new(kind, row.text(2)?);
                // What is deleted is not found, whatever stands in the index.
                let Some(stored) = tx.resource_for_update(&key).await?.filter(|stored| !stored.deleted) else {
                    continue;
                };
                let rows = rows(&stored.resource()?, own);
                tx.run("delete from search_index where resource = $1", args![stored.number]).await?;
                tx.index(&stored, &[], &rows).await?;
                count += 1;
            }
            let done = i64::try_from(keys.len()).unwrap_or(0) < BATCH;
            if done {
                tx.run(
                    "insert into search_generation (id, generation) values (1, $1)
                     on conflict (id) do update set generation = excluded.generation",
                    args![GENERATION],
                )
                .await?;
            }
            tx.commit().await?;
            if done {
                break;
            }
        }
        if count > 0 {
            tracing::info!(count, "what is stored was indexed anew");
        }
        Ok(())
    }
}
