//! Who saw and changed what, and how we know what happened to a referral.
//!
//! Reads are recorded before the answer leaves, many in one transaction: a [`Recorder`] gathers what arrives while the
//! writer is busy. Append only: nothing here changes or deletes a row, and `seals` shows where somebody else did. As
//! AuditEvents they are read by `app::audit_events`.

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::fhir::{Key, ResourceType};
use crate::id;
use crate::store::later::Shape;
use crate::store::{Row, Store, Tx};
use crate::time::Timestamp;

/// One answer and everything it shows, or why there was none.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Who.
    pub partner: String,
    /// `read`, `vread`, `search`, `history`, `create`, `update`, `delete`.
    pub action: &'static str,
    /// What, and which version.
    pub seen: Vec<(Key, i64)>,
    /// The X-Request-Id.
    pub request: String,
    /// The type that was asked about, where nothing was seen: a refusal, the record itself.
    pub kind: Option<ResourceType>,
    /// 0 done, 4 refused, 8 failed.
    pub outcome: i64,
    /// The access token's jti.
    pub token: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// What was asked for, in a search.
    pub query: Option<String>,
    /// Who it was, of the partner's people.
    pub person: Option<String>,
}

/// A row of the record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Ids sort by time.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub partner: String,
    /// What was done.
    pub action: String,
    /// To what: a type.
    pub kind: String,
    /// The id; empty where several were seen, or none.
    pub resource: String,
    /// The version.
    pub version: i64,
    /// The X-Request-Id.
    pub request: String,
    /// What was seen, where it was several: `Type/id/version`, parted by spaces.
    pub detail: Option<String>,
    /// 0 done, 4 refused, 8 failed.
    pub outcome: i64,
    /// The access token's jti.
    pub token: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// What was asked for, in a search.
    pub query: Option<String>,
    /// Who it was, of the partner's people.
    pub person: Option<String>,
}

impl Entry {
    pub(super) const COLUMNS: &str =
        "id, at, partner, action, type, resource, version, request, detail, outcome, token, address, query, person";

    pub(super) fn of(row: &Row) -> Result<Entry, Error> {
        Ok(Entry {
            id: row.text(0)?,
            at: row.time(1)?,
            partner: row.text(2)?,
            action: row.text(3)?,
            kind: row.text(4)?,
            resource: row.text(5)?,
            version: row.int(6)?,
            request: row.text(7)?,
            detail: row.text_or_null(8)?,
            outcome: row.int(9)?,
            token: row.text_or_null(10)?,
            address: row.text_or_null(11)?,
            query: row.text_or_null(12)?,
            person: row.text_or_null(13)?,
        })
    }

    /// Everything it says, each part with its length before it, so that no two rows say it in the same bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let numbers = [self.at.0, self.version, self.outcome].map(|number| Some(number.to_string()));
        let texts = [&self.id, &self.partner, &self.action, &self.kind, &self.resource, &self.request];
        let texts = texts.map(|text| Some(text.clone()));
        let more = [&self.detail, &self.token, &self.address, &self.query].map(Clone::clone);
        let mut out = Vec::new();
        // A row without a person says what it said before rows had one.
        let person = self.person.iter().map(|person| Some(person.clone()));
        for part in numbers.into_iter().chain(texts).chain(more).chain(person) {
            match part {
                None => out.push(b'-'),
                Some(text) => out.extend(format!("{}:{text}", text.len()).bytes()),
            }
        }
        out
    }
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

const AUDIT: Shape = Shape::new(
    "audit",
    &[
        "id", "at", "partner", "action", "type", "resource", "version", "request", "detail", "outcome", "token",
        "address", "query", "person",
    ],
    1,
);
const EVIDENCE: Shape = Shape::new("evidence", &["id", "referral", "task", "at", "who", "what", "how", "version"], 1);

impl Tx {
    /// Records accesses: a row for each, which stands by the resource where there is one alone, and lists them where a
    /// page shows several.
    pub async fn audit(&mut self, list: &[Access]) -> Result<(), Error> {
        let stamp = self.stamp();
        let row = |access: &Access| {
            let (kind, id, version, listed) = match access.seen.as_slice() {
                [] => (access.kind.map(ResourceType::name)?, "", 0, None),
                [(key, version)] => (key.kind.name(), key.id.as_str(), *version, None),
                [(key, _), ..] => (key.kind.name(), "", 0, Some(listed(&access.seen))),
            };
            let Access { partner, action, request, outcome, token, address, query, person, .. } = access;
            let (token, address, query) = (token.clone(), address.clone(), query.clone());
            Some(args![
                id::at(stamp.0),
                stamp,
                partner,
                *action,
                kind,
                id,
                version,
                request,
                listed,
                *outcome,
                token,
                address,
                query,
                person.clone()
            ])
        };
        self.insert(AUDIT, list.iter().filter_map(row).collect()).await
    }

    /// The accesses to a resource, oldest first; what was refused is none.
    pub async fn accesses(&mut self, key: &Key) -> Result<Vec<(Timestamp, String, String, i64)>, Error> {
        let text = "select at, partner, action, version, detail, id from audit where type = $1 and resource = $2 and outcome = 0
             union all
             select at, partner, action, version, detail, id from audit where resource = '' and detail like $3
             order by 1, 6";
        let rows = self.all(text, args![key.kind.name(), &key.id, format!("%{key}/%")]).await?;
        let mut found = Vec::new();
        for row in rows {
            let (at, partner, action) = (row.time(0)?, row.text(1)?, row.text(2)?);
            match row.text_or_null(4)? {
                None => found.push((at, partner, action, row.int(3)?)),
                Some(listed) => {
                    for version in listed.split(' ').filter_map(|one| one.strip_prefix(&format!("{key}/"))) {
                        let version = version.parse().map_err(Error::internal)?;
                        found.push((at, partner.clone(), action.clone(), version));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Records a step.
    pub async fn put_evidence(&mut self, step: &Evidence) -> Result<(), Error> {
        let row = args![id::new(), &step.referral, &step.task, step.at, &step.who, &step.what, &step.how, step.version];
        self.insert(EVIDENCE, vec![row]).await
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

/// The resources of a page: `Type/id/version`, parted by spaces.
fn listed(seen: &[(Key, i64)]) -> String {
    let list: Vec<String> = seen.iter().map(|(key, version)| format!("{key}/{version}")).collect();
    list.join(" ")
}

type Waiting = (Access, oneshot::Sender<Result<(), Error>>);

/// Most requests whose accesses are recorded in one transaction.
const BATCH: usize = 256;

/// Records reads, many in one commit.
#[derive(Debug, Clone)]
pub struct Recorder(mpsc::Sender<Waiting>);

impl Recorder {
    /// Starts recording into this store; ends when the last clone is dropped.
    pub fn start(store: Store) -> Recorder {
        let (sender, mut receiver) = mpsc::channel::<Waiting>(1024);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while receiver.recv_many(&mut batch, BATCH).await > 0 {
                let (list, waiting): (Vec<Access>, Vec<_>) = batch.drain(..).unzip();
                let result = record(&store, &list).await;
                for done in waiting {
                    let _ = done.send(result.clone());
                }
            }
        });
        Recorder(sender)
    }

    /// Returns when the access is on record: only then may the answer leave.
    pub async fn record(&self, access: Access) -> Result<(), Error> {
        if access.seen.is_empty() && access.kind.is_none() {
            return Ok(());
        }
        let (done, wait) = oneshot::channel();
        self.0.send((access, done)).await.map_err(Error::unavailable)?;
        wait.await.map_err(Error::unavailable)?
    }
}

async fn record(store: &Store, list: &[Access]) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    tx.audit(list).await?;
    tx.commit().await
}
