//! What a page brings along: `_include` and `_revinclude`, step by step, each step a few statements for the whole page.
//! What the viewer may not see is not there, and nothing is reached through it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::condition::Text;
use super::{CHUNK, Within};
use crate::error::Error;
use crate::fhir::Key;
use crate::fhir::search::Include;
use crate::store::{Stored, Tx, Viewer};

/// Most resources that come along with a page.
const MAX_INCLUDED: usize = 2_000;
/// Most steps of `:iterate`.
const MAX_STEPS: usize = 5;

impl Tx {
    /// What these hits bring along, as far as `within` allows.
    pub async fn included(
        &mut self,
        hits: &[Arc<Stored>],
        includes: &[Include],
        viewer: &Viewer,
        within: Within<'_>,
    ) -> Result<Vec<Arc<Stored>>, Error> {
        let mut known: BTreeSet<Key> = hits.iter().map(|hit| hit.key.clone()).collect();
        let mut from: Vec<Key> = known.iter().cloned().collect();
        let mut all = Vec::new();
        for step in 0..=MAX_STEPS {
            let mut keys = Vec::new();
            for include in includes.iter().filter(|include| step == 0 || include.iterate) {
                keys.extend(self.reached(&from, include).await?);
            }
            keys.retain(|key| within(key.kind).is_some() && known.insert(key.clone()));
            if all.len() + keys.len() > MAX_INCLUDED {
                return Err(too_many());
            }
            if keys.is_empty() {
                break;
            }
            let found = self.contents(&keys, viewer, within).await?;
            from = found.iter().map(|found| found.key.clone()).collect();
            all.extend(found);
        }
        Ok(all)
    }

    /// Where one include leads from these resources.
    async fn reached(&mut self, from: &[Key], include: &Include) -> Result<Vec<Key>, Error> {
        let mut reached = Vec::new();
        let kind = |key: &&Key| match include.reverse {
            true => include.target.is_none_or(|target| key.kind == target),
            false => key.kind == include.source,
        };
        let from: Vec<&Key> = from.iter().filter(kind).collect();
        for chunk in from.chunks(CHUNK) {
            let mut text = Text::new();
            let source = text.arg(include.source.name());
            let names = text.any_of(&include.names);
            let (column, by, ids): (_, _, Vec<String>) = match include.reverse {
                true => ("id", "found = 1 and value", chunk.iter().map(|key| key.to_string()).collect()),
                false => ("value", "id", chunk.iter().map(|key| key.id.clone()).collect()),
            };
            let ids = text.any_of(&ids);
            // An expression has no order of its own: SQLite would go through all rows of the type to have none twice.
            let sql = format!(
                "select distinct {column} || '' from search_index where type = {source} and parameter in ({names})
                 and {by} in ({ids}) limit {}",
                MAX_INCLUDED + 1
            );
            let rows = self.all(sql, text.args).await?;
            if rows.len() > MAX_INCLUDED {
                return Err(too_many());
            }
            for row in rows {
                let value = row.text(0)?;
                reached.extend(match include.reverse {
                    true => Some(Key::new(include.source, value)),
                    false => Key::parse(&value).filter(|key| include.target.is_none_or(|target| key.kind == target)),
                });
            }
        }
        Ok(reached)
    }
}

fn too_many() -> Error {
    let text = format!("More than {MAX_INCLUDED} resources would come along. Ask for a smaller _count.");
    Error::malformed(text).code("too-costly")
}
