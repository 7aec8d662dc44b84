//! Who saw and changed what, and how we know what happened to a referral.
//!
//! Reads are recorded before the answer leaves, many in one transaction: a [`Recorder`] gathers what arrives while the
//! writer is busy. Append only; the hash chain and AuditEvents come with the security issue.

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::fhir::Key;
use crate::id;
use crate::store::{Arg, Store, Tx};
use crate::time::Timestamp;

/// One access to one resource.
#[derive(Debug, Clone)]
pub struct Access {
    /// Who.
    pub partner: String,
    /// `read`, `vread`, `search`, `history`, `create`, `update`, `delete`.
    pub action: &'static str,
    /// What.
    pub key: Key,
    /// Which version.
    pub version: i64,
    /// The X-Request-Id.
    pub request: String,
}

/// A step of a referral and how we know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The source's Task.
    pub referral: String,
    /// The Task it happened to: the source's or a relayed one.
    pub task: String,
    /// When.
    pub at: Timestamp,
    /// Who did it: a partner's id or the gateway's organization.
    pub who: String,
    /// What: a short word such as `received`, `relayed`, `accepted`.
    pub what: String,
    /// How we know: `post`, `put`, `poll`, `delivered`, `read`, `notification`, `write-back`, `decided`.
    pub how: String,
    /// The version of the Task.
    pub version: i64,
}

impl Tx {
    /// Records accesses.
    pub async fn audit(&mut self, list: &[Access]) -> Result<(), Error> {
        let stamp = self.stamp();
        for chunk in list.chunks(100) {
            let mut text =
                String::from("insert into audit (id, at, partner, action, type, resource, version, request) values ");
            let mut args: Vec<Arg> = args![stamp];
            for (index, access) in chunk.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                let first = args.len() + 1;
                text.push_str(&format!(
                    "{comma}(${first}, $1, ${}, ${}, ${}, ${}, ${}, ${})",
                    first + 1,
                    first + 2,
                    first + 3,
                    first + 4,
                    first + 5,
                    first + 6
                ));
                args.extend(args![
                    id::new(),
                    &access.partner,
                    access.action,
                    access.key.kind.name(),
                    &access.key.id,
                    access.version,
                    &access.request,
                ]);
            }
            self.run(text, args).await?;
        }
        Ok(())
    }

    /// The accesses to a resource, oldest first.
    pub async fn accesses(&mut self, key: &Key) -> Result<Vec<(Timestamp, String, String, i64)>, Error> {
        let rows = self
            .all(
                "select at, partner, action, version from audit where type = $1 and resource = $2 order by at, id",
                args![key.kind.name(), &key.id],
            )
            .await?;
        rows.iter().map(|row| Ok((row.time(0)?, row.text(1)?, row.text(2)?, row.int(3)?))).collect()
    }

    /// Records a step.
    pub async fn put_evidence(&mut self, step: &Evidence) -> Result<(), Error> {
        self.run(
            "insert into evidence (id, referral, task, at, who, what, how, version)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            args![id::new(), &step.referral, &step.task, step.at, &step.who, &step.what, &step.how, step.version,],
        )
        .await?;
        Ok(())
    }

    /// The steps of a referral, oldest first.
    pub async fn evidence(&mut self, referral: &str) -> Result<Vec<Evidence>, Error> {
        let rows = self
            .all(
                "select referral, task, at, who, what, how, version from evidence where referral = $1 order by at, id",
                args![referral],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Evidence {
                    referral: row.text(0)?,
                    task: row.text(1)?,
                    at: row.time(2)?,
                    who: row.text(3)?,
                    what: row.text(4)?,
                    how: row.text(5)?,
                    version: row.int(6)?,
                })
            })
            .collect()
    }

    /// Counts referrals by whether they are open, ended, and known to the source.
    pub async fn referral_counts(&mut self) -> Result<(i64, i64, i64), Error> {
        let row = self.one("select count(*), count(closing), count(informed_at) from referral", args![]).await?;
        row.map_or(Ok((0, 0, 0)), |row| Ok((row.int(0)?, row.int(1)?, row.int(2)?)))
    }
}

type Entry = (Vec<Access>, oneshot::Sender<Result<(), Error>>);

/// Most requests whose accesses are recorded in one transaction.
const BATCH: usize = 256;

/// Most accesses in one of these transactions, unless a single request has more: it must not take too long.
const ROWS: usize = 4_000;

/// Records reads, many in one commit.
#[derive(Debug, Clone)]
pub struct Recorder(mpsc::Sender<Entry>);

impl Recorder {
    /// Starts recording into this store; ends when the last clone is dropped.
    pub fn start(store: Store) -> Recorder {
        let (sender, mut receiver) = mpsc::channel::<Entry>(1024);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while receiver.recv_many(&mut batch, BATCH).await > 0 {
                while !batch.is_empty() {
                    let mut rows = 0;
                    let fits = |(list, _): &&Entry| {
                        rows += list.len();
                        rows == list.len() || rows <= ROWS
                    };
                    let most = batch.iter().take_while(fits).count();
                    let (lists, waiting): (Vec<Vec<Access>>, Vec<_>) = batch.drain(..most).unzip();
                    let result = record(&store, &lists.concat()).await;
                    for done in waiting {
                        let _ = done.send(result.clone());
                    }
                }
            }
        });
        Recorder(sender)
    }

    /// Returns when the accesses are on record: only then may the answer leave.
    pub async fn record(&self, list: Vec<Access>) -> Result<(), Error> {
        if list.is_empty() {
            return Ok(());
        }
        let (done, wait) = oneshot::channel();
        self.0.send((list, done)).await.map_err(Error::unavailable)?;
        wait.await.map_err(Error::unavailable)?
    }
}

async fn record(store: &Store, list: &[Access]) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    tx.audit(list).await?;
    tx.commit().await
}
