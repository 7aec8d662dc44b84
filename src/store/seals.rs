//! The record read back, and the seals over it. Making and checking seals is the app's (`app::seals`), and so is what a
//! row means (`app::audit_events`).

use std::collections::BTreeSet;

use crate::error::Error;
use crate::fhir::search_index::{number, parameter};
use crate::fhir::{Key, ResourceType};
use crate::store::later::Shape;
use crate::store::search::Text;
use crate::store::{Arg, Entry, Tx};

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
#[derive(Debug, Clone, Default)]
pub struct Span<'a> {
    /// From this id on.
    pub from: &'a str,
    /// Below this id.
    pub till: &'a str,
    /// Newest first.
    pub descending: bool,
    /// Theirs; empty: anybody's.
    pub partners: &'a [String],
    /// What was done to these; of more than one also whatever showed several, which the caller looks through. Empty: to
    /// anything.
    pub about: &'a [Key],
    /// What was done; empty: anything.
    pub actions: &'a [&'static str],
    /// Anything but these actions.
    pub but: bool,
    /// How it ended; empty: in any way.
    pub outcomes: &'a [i64],
    /// With these access tokens; empty: with any or none.
    pub tokens: &'a [String],
}

/// Most resources asked about in one statement.
const CHUNK: usize = 200;

const SEAL: Shape = Shape::new("audit_seal", &["number", "till", "held", "hash", "signed"], 1);

impl Span<'_> {
    fn sql(&self, most: i64) -> (String, Vec<Arg>) {
        let mut text = Text::new();
        let mut sql = format!(
            "select {} from audit where id >= {} and id < {}",
            Entry::COLUMNS,
            text.arg(self.from),
            text.arg(self.till)
        );
        if !self.partners.is_empty() {
            sql.push_str(&format!(" and partner in ({})", text.any_of(self.partners)));
        }
        if !self.actions.is_empty() {
            let word = if self.but { "not in" } else { "in" };
            sql.push_str(&format!(" and action {word} ({})", text.any_of(self.actions)));
        }
        if !self.outcomes.is_empty() {
            sql.push_str(&format!(" and outcome in ({})", text.any_of(self.outcomes)));
        }
        if !self.tokens.is_empty() {
            sql.push_str(&format!(" and token in ({})", text.any_of(self.tokens)));
        }
        match self.about {
            [] => {}
            [key] => sql.push_str(&format!(
                " and (type = {} and resource = {} or resource = '' and detail like {})",
                text.arg(key.kind.name()),
                text.arg(&key.id),
                text.arg(format!("%{key}/%"))
            )),
            // An id tells a row from most others; of what type it is, the caller sees.
            keys => {
                let ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
                let ids = text.any_of(&ids);
                sql.push_str(&format!(" and (resource in ({ids}) or resource = '' and detail is not null)"));
            }
        }
        let order = if self.descending { "desc" } else { "asc" };
        sql.push_str(&format!(" order by id {order} limit {}", text.arg(most)));
        (sql, text.args)
    }
}

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

    /// The last of the next so many audit rows between these ids; none if there are fewer.
    pub async fn entry_after(
        &mut self,
        from: &str,
        till: &str,
        descending: bool,
        many: i64,
    ) -> Result<Option<String>, Error> {
        let order = if descending { "desc" } else { "asc" };
        let text = format!("select id from audit where id >= $1 and id < $2 order by id {order} limit 1 offset $3");
        self.one(text, args![from, till, many - 1]).await?.map(|row| row.text(0)).transpose()
    }

    /// The resources that say they are of this patient, and the patient; none if they are more than `most`.
    pub async fn resources_of(&mut self, patient: &Key, most: i64) -> Result<Option<Vec<Key>>, Error> {
        let mut text = Text::new();
        let (value, limit) = (text.arg(patient.to_string()), text.arg(most + 1));
        let names = ResourceType::all().flat_map(|kind| ["patient", "subject"].map(|name| (kind, name)));
        let names = names.filter(|(kind, name)| parameter(*kind, name).is_some());
        let names: Vec<String> = names
            .map(|(kind, name)| format!("({}, {})", text.arg(kind.name()), text.arg(number(kind, name))))
            .collect();
        let sql = format!(
            "select distinct r.type, r.id from (values {}) as w cross join search_index s cross join resource r
             where s.value = {value} and s.found = 1 and s.parameter = w.column2 and r.type = w.column1
             and r.number = s.resource limit {limit}",
            names.join(", ")
        );
        let rows = self.all(sql, text.args).await?;
        if rows.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        let mut all = vec![patient.clone()];
        for row in rows {
            all.extend(Key::parse(&format!("{}/{}", row.text(0)?, row.text(1)?)));
        }
        Ok(Some(all))
    }

    /// The audit rows of a span, in its order.
    pub async fn entries_of(&mut self, span: &Span<'_>, most: i64) -> Result<Vec<Entry>, Error> {
        let (sql, args) = span.sql(most);
        let rows = self.all_aside(sql, args).await?;
        rows.iter().map(Entry::of).collect()
    }

    /// How the database goes about the rows of a span, in its own words.
    pub async fn explained_entries(&mut self, span: &Span<'_>, most: i64) -> Result<String, Error> {
        let ((sql, args), (word, column)) = (span.sql(most), self.explain());
        let rows = self.all(format!("{word} {sql}"), args).await?;
        let lines: Result<Vec<String>, Error> = rows.iter().map(|row| row.text(column)).collect();
        Ok(lines?.join("\n"))
    }

    /// Whose each of these resources is, as far as the index knows: `Type/id` and `Patient/id`.
    pub async fn patients_of(&mut self, keys: &[Key]) -> Result<Vec<(String, String)>, Error> {
        let mut found = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let mut text = Text::new();
            let kinds: BTreeSet<ResourceType> = chunk.iter().map(|key| key.kind).collect();
            let names = kinds.iter().flat_map(|kind| ["patient", "subject"].map(|name| number(*kind, name)));
            let names = text.any_of(&names.collect::<Vec<i64>>());
            let mut args = text.args;
            let pairs: Vec<String> = chunk
                .iter()
                .map(|key| {
                    args.extend(args![key.kind.name(), &key.id]);
                    format!("(${}, ${})", args.len() - 1, args.len())
                })
                .collect();
            let text = format!(
                "select r.type, r.id, s.value from (values {}) as w cross join resource r cross join search_index s
                 where r.type = w.column1 and r.id = w.column2 and s.resource = r.number
                 and s.parameter in ({names}) and s.value like 'Patient/%'",
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
