//! The record read back, and the seals over it. Making and checking seals is the app's (`app::seals`), and so is what a
//! row means (`app::audit_events`).

use crate::error::Error;
use crate::fhir::Key;
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

/// Which rows of the record are looked at.
#[derive(Debug, Clone)]
pub struct Span<'a> {
    /// From this id on.
    pub from: &'a str,
    /// Below this id.
    pub till: &'a str,
    /// Newest first.
    pub descending: bool,
    /// Theirs; empty: anybody's.
    pub partners: &'a [String],
    /// What was done to this one alone.
    pub about: Option<&'a Key>,
}

/// Most resources asked about in one statement.
const CHUNK: usize = 200;

const SEAL: Shape = Shape::new("audit_seal", &["number", "till", "held", "hash", "signed"], 1);

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

    /// The audit rows of these bounds, newest first or oldest first: of these partners (empty: of any), and of one
    /// resource, if one is named.
    pub async fn entries_of(&mut self, span: &Span<'_>, most: i64) -> Result<Vec<Entry>, Error> {
        let mut args = args![span.from, span.till, most];
        let mut more = String::new();
        if !span.partners.is_empty() {
            let marks = crate::store::grants::marks(span.partners, &mut args);
            more.push_str(&format!(" and partner in ({marks})"));
        }
        if let Some(key) = span.about {
            let first = args.len() + 1;
            args.extend(args![key.kind.name(), &key.id, format!("%{key}/%")]);
            let (id, listed) = (first + 1, first + 2);
            more.push_str(&format!(
                " and (type = ${first} and resource = ${id} or resource = '' and detail like ${listed})"
            ));
        }
        let order = if span.descending { "desc" } else { "asc" };
        let columns = Entry::COLUMNS;
        let text = format!("select {columns} from audit where id >= $1 and id < $2{more} order by id {order} limit $3");
        let rows = self.all_aside(text, args).await?;
        rows.iter().map(Entry::of).collect()
    }

    /// Whose each of these resources is, as far as the index knows: `Type/id` and `Patient/id`.
    pub async fn patients_of(&mut self, keys: &[Key]) -> Result<Vec<(String, String)>, Error> {
        let mut found = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let mut args = Vec::new();
            let pairs: Vec<String> = chunk
                .iter()
                .map(|key| {
                    args.extend(args![key.kind.name(), &key.id]);
                    format!("(${}, ${})", args.len() - 1, args.len())
                })
                .collect();
            let text = format!(
                "select type, id, value from search_index
                 where (type, id) in (values {}) and parameter in ('patient', 'subject') and value like 'Patient/%'",
                pairs.join(", ")
            );
            for row in self.all(text, args).await? {
                found.push((format!("{}/{}", row.text(0)?, row.text(1)?), row.text(2)?));
            }
        }
        Ok(found)
    }

    /// How many audit rows have ids from this one on.
    pub async fn entries_from(&mut self, from: &str) -> Result<i64, Error> {
        let row = self.one("select count(*) from audit where id >= $1", args![from]).await?;
        row.map_or(Ok(0), |row| row.int(0))
    }
}
