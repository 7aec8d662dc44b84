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
        let mut from: Vec<Arc<Stored>> = hits.to_vec();
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
            from.clone_from(&found);
            all.extend(found);
        }
        Ok(all)
    }

    /// Where one include leads from these resources.
    async fn reached(&mut self, from: &[Arc<Stored>], include: &Include) -> Result<Vec<Key>, Error> {
        let mut reached = Vec::new();
        let kind = |from: &&Arc<Stored>| match include.reverse {
            true => include.target.is_none_or(|target| from.key.kind == target),
            false => from.key.kind == include.source,
        };
        let from: Vec<&Arc<Stored>> = from.iter().filter(kind).collect();
        for chunk in from.chunks(CHUNK) {
            let mut text = Text::new();
            let names = text.parameters(include.source, &include.names);
            // An expression has no order of its own: SQLite would go through all rows of the type to have none twice.
            let sql = match include.reverse {
                true => {
                    let source = text.arg(include.source.name());
                    let values: Vec<String> = chunk.iter().map(|from| from.key.to_string()).collect();
                    let values = text.any_of(&values);
                    format!(
                        "select distinct r.id || '' from search_index s cross join resource r
                         where r.type = {source} and r.number = s.resource and s.parameter in ({names}) and s.found = 1
                         and s.value in ({values})"
                    )
                }
                false => {
                    let numbers: Vec<i64> = chunk.iter().map(|from| from.number).collect();
                    let numbers = text.any_of(&numbers);
                    format!(
                        "select distinct value || '' from search_index
                         where resource in ({numbers}) and parameter in ({names})"
                    )
                }
            };
            let sql = format!("{sql} limit {}", MAX_INCLUDED + 1);
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
