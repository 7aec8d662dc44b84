//! A search as SQL: every condition is answered by an index, the viewer's grants are part of the query, pages are read
//! by key and never by offset. The JSON is never looked into.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::fhir::search::{Cursor, Filter, Order, Prefix, Query, Test};
use crate::fhir::{Key, ResourceType};
use crate::store::grants::{once_visible, visible};
use crate::store::resources::indexable;
use crate::store::{Arg, Store, Tx, Viewer};
use crate::time::Timestamp;

/// A search hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub key: Key,
    /// Its version.
    pub version: i64,
    /// When it last changed.
    pub updated: Timestamp,
    /// Its JSON text.
    pub content: String,
}

/// A page of hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub hits: Vec<Found>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
    /// How many there are in all, if it was asked for.
    pub total: Option<u64>,
}

/// A statement under construction.
struct Text {
    sql: String,
    args: Vec<Arg>,
}

impl Text {
    fn arg(&mut self, value: impl Into<Arg>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }
    fn any_of<T: Clone + Into<Arg>>(&mut self, list: &[T]) -> String {
        let marks: Vec<String> = list.iter().map(|item| self.arg(item.clone())).collect();
        if marks.is_empty() { "null".to_string() } else { marks.join(", ") }
    }
}

/// A time that everything asked for is later than, if there is one.
fn since(query: &Query) -> Option<i64> {
    query.filters.iter().find_map(|filter| match filter {
        Filter::Updated(Prefix::Gt, _, to) => Some(to - 1),
        Filter::Updated(Prefix::Ge, from, _) => Some(from - 1),
        _ => None,
    })
}

/// The reference whose index rows stand in the order of the page: whoever reads along them stops when the page is full,
/// however many there are. A poll by creation goes by the time it asks for instead.
fn leading(query: &Query, since: Option<i64>) -> Option<&Filter> {
    let ordered = match query.order {
        Order::Created => since.is_none(),
        Order::Updated => true,
        Order::Date(_) | Order::Value(_) => false,
    };
    let leads = |filter: &&Filter| match filter {
        Filter::Indexed { test: Test::References(list), not: false, .. } => list.len() == 1,
        _ => false,
    };
    query.filters.iter().find(leads).filter(|_| ordered && !query.total)
}

/// The page of a query along the index rows of its leading reference.
fn led(query: &Query, leading: &Filter, since: Option<i64>, mut text: Text) -> (String, Vec<Arg>) {
    let (way, compare) = if query.descending { ("desc", "<") } else { ("asc", ">") };
    let key = if query.order == Order::Created { "l.created" } else { "l.updated" };
    if let Filter::Indexed { name, test: Test::References(list), .. } = leading {
        let (parameter, value) =
            (text.arg(*name), text.any_of(&list.iter().map(|one| indexable(one)).collect::<Vec<_>>()));
        text.sql.push_str(&format!(
            " and l.type = $1 and l.parameter = {parameter} and l.value = {value} and l.created is not null"
        ));
    }
    if let (Some(since), Order::Updated) = (since, query.order) {
        let since = text.arg(since);
        text.sql.push_str(&format!(" and l.updated > {since}"));
    }
    if let Some(cursor) = &query.cursor {
        let (at, id) = (text.arg(cursor.key), text.arg(&cursor.id));
        text.sql.push_str(&format!(" and ({key}, l.id) {compare} ({at}, {id})"));
    }
    let limit = text.arg(i64::try_from(query.count + 1).unwrap_or(i64::MAX));
    // A cross join is taken in this order by SQLite.
    let sql = format!(
        "select r.id, r.version, r.updated, v.content, {key} from search_index l cross join resource r
         join resource_version v on v.type = r.type and v.id = r.id and v.version = r.version
         where r.id = l.id and {} order by {key} {way}, l.id {way} limit {limit}",
        text.sql
    );
    (sql, text.args)
}

impl Store {
    /// Whether this search can find nothing, known without looking: a poll since a time after which nothing changed
    /// that the viewer may see. False says nothing.
    pub fn finds_nothing(&self, query: &Query, viewer: &Viewer) -> bool {
        since(query).is_some_and(|since| self.marks.nothing_after(since, query.kind, viewer))
    }
}

impl Tx {
    /// Answers a search for a viewer.
    pub async fn search(&mut self, query: &Query, viewer: &Viewer) -> Result<Page, Error> {
        let mut text = Text { sql: String::new(), args: args![query.kind.name()] };
        let directory = query.kind.is_directory();
        text.sql.push_str("r.type = $1 and r.deleted = 0");
        let seen = visible(viewer, directory, &mut text.args);
        text.sql.push_str(&seen);
        let since = since(query);
        let leading = leading(query, since);
        for filter in
            query.filters.iter().filter(|filter| leading.is_none_or(|leading| !std::ptr::eq(leading, *filter)))
        {
            let condition = condition(filter, since, &mut text);
            text.sql.push_str(" and ");
            text.sql.push_str(&condition);
        }
        let total = if query.total {
            let sql = format!("select count(*) from resource r where {}", text.sql);
            let rows = self.all_aside(sql, text.args.clone()).await?;
            Some(rows.first().map_or(Ok(0), |row| row.int(0))?.unsigned_abs())
        } else {
            None
        };
        if query.count == 0 {
            return Ok(Page { hits: Vec::new(), next: None, total });
        }
        let (sql, args) = match leading {
            Some(filter) => led(query, filter, since, text),
            None => paged(query, viewer, text),
        };
        let rows = self.all_aside(sql, args).await?;
        let more = rows.len() > query.count;
        let mut hits = Vec::with_capacity(rows.len());
        let mut next = None;
        for row in rows.iter().take(query.count) {
            let id = row.text(0)?;
            next = Some(Cursor { key: row.int(4)?, id: id.clone() });
            hits.push(Found {
                key: Key::new(query.kind, id),
                version: row.int(1)?,
                updated: row.time(2)?,
                content: row.text(3)?,
            });
        }
        Ok(Page { hits, next: if more { next } else { None }, total })
    }

    /// What the hits refer to by this parameter, as far as the viewer may see it.
    pub async fn included(
        &mut self,
        hits: &[Found],
        name: &str,
        target: Option<ResourceType>,
        viewer: &Viewer,
    ) -> Result<Vec<Found>, Error> {
        let mut keys: Vec<Key> = Vec::new();
        for chunk in hits.chunks(200) {
            let Some(first) = chunk.first() else { continue };
            let mut text = Text { sql: String::new(), args: args![first.key.kind.name(), name] };
            let ids: Vec<String> = chunk.iter().map(|hit| hit.key.id.clone()).collect();
            let marks = text.any_of(&ids);
            let sql = format!(
                "select distinct value from search_index where type = $1 and parameter = $2 and id in ({marks})"
            );
            for row in self.all(sql, text.args).await? {
                let key = Key::parse(&row.text(0)?).filter(|key| target.is_none_or(|target| key.kind == target));
                keys.extend(key);
            }
        }
        self.contents(&keys, viewer).await
    }

    /// The current contents of these resources, as far as the viewer may see them; at most a thousand of a type.
    pub async fn contents(&mut self, keys: &[Key], viewer: &Viewer) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let mut kinds: Vec<ResourceType> = keys.iter().map(|key| key.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let ids: BTreeSet<String> = keys.iter().filter(|key| key.kind == kind).map(|key| key.id.clone()).collect();
            let ids: Vec<String> = ids.into_iter().take(1_000).collect();
            let mut text = Text { sql: String::new(), args: args![kind.name()] };
            let marks = text.any_of(&ids);
            let seen = visible(viewer, kind.is_directory(), &mut text.args);
            let sql = format!(
                "select r.id, r.version, r.updated, v.content from resource r join resource_version v
                 on v.type = r.type and v.id = r.id and v.version = r.version
                 where r.type = $1 and r.deleted = 0 and r.id in ({marks}){seen} order by r.id"
            );
            for row in self.all(sql, text.args).await? {
                found.push(Found {
                    key: Key::new(kind, row.text(0)?),
                    version: row.int(1)?,
                    updated: row.time(2)?,
                    content: row.text(3)?,
                });
            }
        }
        Ok(found)
    }
}

/// The page of a query: order, cursor and limit around its conditions.
fn paged(query: &Query, viewer: &Viewer, mut text: Text) -> (String, Vec<Arg>) {
    let few = query.filters.iter().any(is_few);
    let (way, compare) = if query.descending { ("desc", "<") } else { ("asc", ">") };
    let key = match query.order {
        // Of a few, none is looked for along the order of all: `+ 0` keeps the planner from trying.
        Order::Created if few => "r.created + 0".to_string(),
        Order::Updated if few => "r.updated + 0".to_string(),
        Order::Created => "r.created".to_string(),
        Order::Updated => "r.updated".to_string(),
        Order::Date(name) => {
            let mark = text.arg(name);
            format!(
                "coalesce((select min(o.low) from search_index o where o.type = r.type and o.id = r.id
                 and o.parameter = {mark}), 0)"
            )
        }
        Order::Value(name) => {
            let mark = text.arg(name);
            format!(
                "coalesce((select min(o.value) from search_index o where o.type = r.type and o.id = r.id
                 and o.parameter = {mark}), '')"
            )
        }
    };
    let time = matches!(query.order, Order::Created | Order::Updated);
    // The cursor of a value order is the last entry's id alone; its value is looked up, so that no link carries one.
    let shown = if time { key.clone() } else { "cast(0 as bigint)".to_string() };
    if let Some(cursor) = &query.cursor {
        let id = text.arg(&cursor.id);
        let edge = if time {
            text.arg(cursor.key)
        } else {
            // Nobody learns by an id of his own making how what he may not see compares with what he may.
            let seen = once_visible(viewer, query.kind.is_directory(), &mut text.args);
            format!("(select {key} from resource r where r.type = $1 and r.id = {id}{seen})")
        };
        text.sql.push_str(&format!(" and ({key} {compare} {edge} or ({key} = {edge} and r.id {compare} {id}))"));
    }
    let limit = text.arg(i64::try_from(query.count + 1).unwrap_or(i64::MAX));
    let sql = format!(
        "select r.id, r.version, r.updated, v.content, {shown} from resource r
         join resource_version v on v.type = r.type and v.id = r.id and v.version = r.version
         where {} order by {key} {way}, r.id {way} limit {limit}",
        text.sql
    );
    (sql, text.args)
}

fn condition(filter: &Filter, since: Option<i64>, text: &mut Text) -> String {
    match filter {
        Filter::Ids(ids) => {
            let marks = text.any_of(ids);
            format!("r.id in ({marks})")
        }
        // The resource's own span is one microsecond, so its end is one more than its column.
        Filter::Updated(prefix, from, to) => span(*prefix, ("r.updated", "r.updated"), (*from, *to), 1, text),
        Filter::Indexed { name, test, not } => {
            let since = match since {
                Some(since) if matches!(test, Test::References(_)) && !*not => {
                    format!(" and s.updated > {}", text.arg(since))
                }
                _ => String::new(),
            };
            let parameter = text.arg(*name);
            let mut present = true;
            let inner = match test {
                Test::Present(wanted) => {
                    present = *wanted;
                    String::new()
                }
                Test::Tokens(list) => {
                    let one: Vec<String> = list
                        .iter()
                        .map(|token| {
                            let mut parts = Vec::new();
                            if let Some(code) = &token.code {
                                parts.push(format!("s.value = {}", text.arg(indexable(code))));
                            }
                            if let Some(system) = &token.system {
                                parts.push(format!("s.system = {}", text.arg(indexable(system))));
                            }
                            if parts.is_empty() { "1 = 1".to_string() } else { parts.join(" and ") }
                        })
                        .collect();
                    either(one)
                }
                Test::References(list) | Test::Is(list) => {
                    let list: Vec<&str> = list.iter().map(|value| indexable(value)).collect();
                    format!(" and s.value in ({})", text.any_of(&list))
                }
                Test::Begins(list) => either(list.iter().map(|begin| like(begin, "", text)).collect()),
                Test::Contains(list) => either(list.iter().map(|part| like(part, "%", text)).collect()),
                Test::Dates(list) => {
                    let one = |(prefix, from, to): &(Prefix, i64, i64)| {
                        // Dates have no value; saying so lets their own, smaller index answer.
                        format!("s.value = '' and {}", span(*prefix, ("s.low", "s.high"), (*from, *to), 0, text))
                    };
                    either(list.iter().map(one).collect())
                }
            };
            if is_few(filter) {
                // Few resources name one party since a time, or one identifier: the list drives the search. A poll is
                // one range scan.
                return format!(
                    "r.id in (select s.id from search_index s where s.type = $1 and s.parameter = {parameter}{inner}{since})"
                );
            }
            let word = if present != *not { "exists" } else { "not exists" };
            format!(
                "{word} (select 1 from search_index s where s.type = r.type and s.id = r.id and s.parameter = {parameter}{inner})"
            )
        }
    }
}

fn either(parts: Vec<String>) -> String {
    let joined: Vec<String> = parts.into_iter().map(|part| format!("({part})")).collect();
    if joined.is_empty() { " and 1 = 0".to_string() } else { format!(" and ({})", joined.join(" or ")) }
}

fn like(part: &str, before: &str, text: &mut Text) -> String {
    let escaped = indexable(part).replace('!', "!!").replace('%', "!%").replace('_', "!_");
    format!("s.value like {} escape '!'", text.arg(format!("{before}{escaped}%")))
}

/// Whether only few resources satisfy a condition: then it drives the search.
fn is_few(filter: &Filter) -> bool {
    match filter {
        Filter::Indexed { test: Test::References(_), not: false, .. } => true,
        Filter::Indexed { name, test: Test::Tokens(_) | Test::Is(_), not: false } => SELECTIVE.contains(name),
        Filter::Ids(_) => true,
        Filter::Indexed { .. } | Filter::Updated(..) => false,
    }
}

/// Tokens and uris whose one value few resources have; of a status or a code, many do.
const SELECTIVE: [&str; 6] =
    ["identifier", "group-identifier", "requisition", "service-category", "service-type", "url"];

/// [`Prefix::holds`] in SQL; `less` is what the end column lacks.
fn span(prefix: Prefix, (low, high): (&str, &str), (from, to): (i64, i64), less: i64, text: &mut Text) -> String {
    match prefix {
        Prefix::Eq => format!("({low} >= {} and {high} <= {})", text.arg(from), text.arg(to - less)),
        Prefix::Ne => format!("not ({low} >= {} and {high} <= {})", text.arg(from), text.arg(to - less)),
        Prefix::Gt => format!("{high} > {}", text.arg(to - less)),
        Prefix::Lt => format!("{low} < {}", text.arg(from)),
        Prefix::Ge => format!("{high} > {}", text.arg(from - less)),
        Prefix::Le => format!("{low} < {}", text.arg(to)),
    }
}
