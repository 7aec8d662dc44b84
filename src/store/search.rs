//! A search as SQL: every condition is answered by an index, the viewer's grants are part of the query, pages are read
//! by key and never by offset. The JSON is never looked into. Which way a page is read is `plan`'s to say.

mod condition;
mod include;
mod order;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Error;
use crate::fhir::search::{Cursor, Filter, Moment, Order, Query, Test};
use crate::fhir::search_index::number;
use crate::fhir::{Key, ResourceType};
use crate::store::grants::marks;
use crate::store::resources::indexable;
use crate::store::{Arg, Store, Stored, Tx, Viewer};
pub(super) use condition::{About, Text, every};
use condition::{condition, listed};
use order::{Place, beyond, key_of, word};
pub(super) use plan::SHORT;
use plan::{Walk, short, since, time_order, walk};

/// A page of hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub hits: Vec<Arc<Stored>>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
    /// How many there are in all, if it was asked for.
    pub total: Option<u64>,
}

/// What must hold of the resources of a type for the one who looks; none: he may not look at the type.
pub type Within<'a> = &'a (dyn Fn(ResourceType) -> Option<Vec<Filter>> + Sync);

/// Most resources that a chain is resolved to beforehand; it is followed from each hit when there are more.
const RESOLVED: usize = 100;

/// Most resources asked about in one statement.
pub(super) const CHUNK: usize = 200;

/// How the resources of a page are found.
enum Way {
    /// This filter's short list.
    Short(usize),
    /// What a walk goes along, as a list; with `true` only what changed since the time asked for.
    Listed(Walk, bool),
    /// What the viewer was granted.
    Granted,
    /// What changed since the time asked for.
    Recent,
    /// Along index rows in the order of the page.
    Along(Walk),
    /// Along all resources of the type.
    Whole,
}

/// What the SQL of a page is made from.
struct Asked<'a> {
    query: &'a Query,
    /// The query's conditions, chains resolved.
    filters: Vec<Filter>,
    since: Option<i64>,
    about: About<'a>,
    /// When the first page was read, in an order that changes.
    moment: Option<Moment>,
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
        self.search_all(&[query], viewer).await
    }

    /// Answers several, of different types and alike but for their conditions, as one: their pages are merged by the time
    /// that orders them.
    pub async fn search_all(&mut self, queries: &[&Query], viewer: &Viewer) -> Result<Page, Error> {
        let (mut found, mut total) = (Vec::new(), 0);
        let moment = self.moment_of(queries).await?;
        for query in queries {
            let asked = Asked { moment: moment.clone(), ..self.asked(query, viewer).await? };
            let way = self.way(&asked).await?;
            if query.total {
                let (sql, args) = asked.count(&way);
                let rows = self.all_aside(sql, args).await?;
                total += rows.first().map_or(Ok(0), |row| row.int(0))?.unsigned_abs();
            }
            if query.count > 0 {
                let (sql, args) = self.page_of(&asked, &way).await?;
                for row in self.all_aside(sql, args).await? {
                    found.push((Key::new(query.kind, row.text(0)?), row.int(1)?, row.int(2)?));
                }
            }
        }
        let Some(first) = queries.first() else { return Ok(Page { hits: Vec::new(), next: None, total: None }) };
        if let ([_, _, ..], Some((_, descending))) = (queries, time_order(first)) {
            // Of one time, by the type's name: the order a next page goes on in. The sort keeps a type's own.
            found.sort_by(|(one, _, at), (other, _, then)| {
                let by_time = if descending { then.cmp(at) } else { at.cmp(then) };
                by_time.then_with(|| one.kind.name().cmp(other.kind.name()))
            });
        }
        let more = found.len() > first.count;
        found.truncate(first.count);
        let next = found.last().filter(|_| more);
        let next = next.map(|(key, _, at)| Cursor { key: *at, id: key.id.clone(), moment });
        let hits = self.versions(found.into_iter().map(|(key, version, _)| (key, version)).collect()).await?;
        Ok(Page { hits, next, total: first.total.then_some(total) })
    }

    /// How the database goes about a search's page, in its own words: an index, or all of a table.
    pub async fn explained(&mut self, query: &Query, viewer: &Viewer) -> Result<String, Error> {
        let moment = self.moment_of(&[query]).await?;
        let asked = Asked { moment, ..self.asked(query, viewer).await? };
        let way = self.way(&asked).await?;
        let (sql, args) = self.page_of(&asked, &way).await?;
        let (word, column) = self.explain();
        let rows = self.all(format!("{word} {sql}"), args).await?;
        let lines: Result<Vec<String>, Error> = rows.iter().map(|row| row.text(column)).collect();
        Ok(lines?.join("\n"))
    }

    async fn asked<'a>(&mut self, query: &'a Query, viewer: &'a Viewer) -> Result<Asked<'a>, Error> {
        let mut filters = Vec::with_capacity(query.filters.len());
        for filter in &query.filters {
            filters.push(self.resolved(filter, query.kind, viewer).await?);
        }
        let about = About { kind: query.kind, viewer, depth: 0 };
        Ok(Asked { query, filters, since: since(query), about, moment: None })
    }

    async fn page_of(&mut self, asked: &Asked<'_>, way: &Way) -> Result<(String, Vec<Arg>), Error> {
        let place = self.place(asked.query, asked.about.viewer).await?;
        let moved = self.moved(asked, way, place.as_ref()).await?;
        let mut text = Text::new();
        let page = match (way, time_order(asked.query)) {
            (Way::Along(walk), Some(order)) => asked.along(walk, order, place.as_ref(), &mut text),
            _ => asked.page(way, place.as_ref(), &mut text),
        };
        let page = if moved.is_empty() { page } else { asked.with_moved(&page, &moved, place.as_ref(), &mut text) };
        Ok((page, text.args))
    }

    /// Which way the page is read.
    async fn way(&mut self, asked: &Asked<'_>) -> Result<Way, Error> {
        if let Some(index) = short(&asked.filters) {
            return Ok(Way::Short(index));
        }
        let restricted = matches!(asked.about.viewer, Viewer::Grantees(_)) && !asked.about.kind.is_directory();
        let walk = walk(asked.about.kind, &asked.filters);
        let Some((order, descending)) = time_order(asked.query) else {
            return Ok(match walk {
                Some(walk) => Way::Listed(walk, asked.since.is_some()),
                None if restricted => Way::Granted,
                None => Way::Whole,
            });
        };
        if let (Some(since), Order::Created) = (asked.since, order) {
            // What was made since has changed since: where that fills the page there is no need to look for more.
            let filled = descending && self.one_of(asked.made(walk.as_ref(), since)).await?;
            // A poll: what changed since is a short list, unless it asks for the beginning of time.
            if !filled && self.are_few(asked.recent(walk.as_ref())).await? {
                return Ok(walk.map_or(Way::Recent, |walk| Way::Listed(walk, true)));
            }
        }
        match walk {
            // Of the parties one asks for oneself: what the walk passes is visible.
            Some(walk) if walk.parameter != "status" => Ok(Way::Along(walk)),
            walk => {
                if restricted && self.are_few(asked.granted()).await? {
                    return Ok(Way::Granted);
                }
                Ok(walk.map_or(Way::Whole, Way::Along))
            }
        }
    }

    async fn one_of(&mut self, (sql, args): (String, Vec<Arg>)) -> Result<bool, Error> {
        Ok(self.one(sql, args).await?.is_some())
    }

    async fn are_few(&mut self, (sql, args): (String, Vec<Arg>)) -> Result<bool, Error> {
        let sql = format!("select count(*) from ({sql} limit {}) as few", SHORT + 1);
        Ok(self.one(sql, args).await?.map_or(Ok(0), |row| row.int(0))? <= SHORT)
    }

    /// A chain or `_has` of few resources as a condition on references or ids, which an index answers. What the viewer may
    /// not see is not there.
    async fn resolved(&mut self, filter: &Filter, kind: ResourceType, viewer: &Viewer) -> Result<Filter, Error> {
        match filter {
            Filter::Ids(_) | Filter::Updated(..) | Filter::Indexed { .. } | Filter::Refers { .. } => Ok(filter.clone()),
            Filter::Chain { name, to } => {
                let (mut chain, mut references) = (Vec::new(), Some(Vec::new()));
                for (target, inner) in to {
                    let inner = Box::pin(self.resolved(inner, *target, viewer)).await?;
                    let about = About { kind: *target, viewer, depth: 1 };
                    let ids = self.few(about, &inner, "r1.id", "").await?;
                    references = references.zip(ids).map(|(mut list, ids)| {
                        list.extend(ids.into_iter().map(|id| format!("{target}/{id}")));
                        list
                    });
                    chain.push((*target, inner));
                }
                Ok(match references {
                    Some(list) => Filter::Indexed { name, test: Test::References(list), not: false },
                    None => Filter::Chain { name, to: chain },
                })
            }
            Filter::Has { source, name, its } => {
                let its = Box::pin(self.resolved(its, *source, viewer)).await?;
                let about = About { kind: *source, viewer, depth: 1 };
                let join = "join search_index o on o.resource = r1.number and o.parameter = ";
                let join = format!("{join}{}", number(*source, name));
                let values = self.few(about, &its, "distinct o.value", &join).await?;
                Ok(match values {
                    Some(values) => {
                        let keys = values.iter().filter_map(|value| Key::parse(value));
                        Filter::Ids(keys.filter(|key| key.kind == kind).map(|key| key.id).collect())
                    }
                    None => Filter::Has { source: *source, name, its: Box::new(its) },
                })
            }
            Filter::Any(ways) => {
                let mut resolved = Vec::with_capacity(ways.len());
                for way in ways {
                    let mut all = Vec::with_capacity(way.len());
                    for filter in way {
                        all.push(Box::pin(self.resolved(filter, kind, viewer)).await?);
                    }
                    resolved.push(all);
                }
                Ok(Filter::Any(resolved))
            }
        }
    }

    /// What this column holds for the resources that satisfy a filter, if they are few.
    async fn few(
        &mut self,
        about: About<'_>,
        filter: &Filter,
        column: &str,
        join: &str,
    ) -> Result<Option<Vec<String>>, Error> {
        let mut text = Text::new();
        let there = about.there(&mut text);
        let holds = match short(std::slice::from_ref(filter)) {
            Some(_) => listed(filter, about, &mut text),
            None => condition(filter, about, &mut text),
        };
        let sql = format!("select {column} from resource r1 {join} where {there} and {holds} limit {}", RESOLVED + 1);
        let rows = self.all_aside(sql, text.args).await?;
        if rows.len() > RESOLVED {
            return Ok(None);
        }
        rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>().map(Some)
    }

    /// The current contents of these resources, as far as the viewer may see them and as they satisfy what `within` asks
    /// of their type; none where it answers none.
    pub async fn contents(
        &mut self,
        keys: &[Key],
        viewer: &Viewer,
        within: Within<'_>,
    ) -> Result<Vec<Arc<Stored>>, Error> {
        let mut found = Vec::new();
        let kinds: BTreeSet<ResourceType> = keys.iter().map(|key| key.kind).collect();
        for kind in kinds {
            let Some(only) = within(kind) else { continue };
            let ids: BTreeSet<&str> = keys.iter().filter(|key| key.kind == kind).map(|key| key.id.as_str()).collect();
            let ids: Vec<&str> = ids.into_iter().collect();
            for chunk in ids.chunks(CHUNK) {
                let mut text = Text::new();
                let about = About { kind, viewer, depth: 0 };
                let (there, only) = (about.there(&mut text), every(&only, about, &mut text));
                let marks = text.any_of(chunk);
                let sql = format!(
                    "select r.id, r.version from resource r where {there}{only} and r.id in ({marks}) order by r.id"
                );
                for row in self.all(sql, text.args).await? {
                    found.push((Key::new(kind, row.text(0)?), row.int(1)?));
                }
            }
        }
        self.versions(found).await
    }
}

impl Asked<'_> {
    /// What changed since the time asked for: of a walk, or of all.
    fn recent(&self, walk: Option<&Walk>) -> (String, Vec<Arg>) {
        let mut text = Text::new();
        let sql = match walk {
            // Of any status: more than are asked for, told by index rows alone.
            Some(walk) => {
                let any = Walk { statuses: Vec::new(), ..walk.clone() };
                format!("select 1 from search_index l where {}", self.walked(&any, self.since, &mut text))
            }
            None => {
                let (kind, since) = (text.arg(self.about.kind.name()), text.arg(self.since.unwrap_or(i64::MIN)));
                format!("select 1 from resource r where r.type = {kind} and r.updated > {since}")
            }
        };
        (sql, text.args)
    }

    /// One row if more than a page of a walk, or of all, was made since then; of a walk, index rows alone tell.
    fn made(&self, walk: Option<&Walk>, since: i64) -> (String, Vec<Arg>) {
        let mut text = Text::new();
        let (from, at) = match walk {
            Some(walk) => (format!("search_index l where {}", self.walked(walk, None, &mut text)), "l.created"),
            None => (format!("resource l where l.type = {}", text.arg(self.about.kind.name())), "l.created"),
        };
        let mut sql = format!("select 1 from {from} and {at} > {}", text.arg(since));
        if let Some(cursor) = &self.query.cursor {
            sql.push_str(&format!(" and {at} < {}", text.arg(cursor.key)));
        }
        let count = text.arg(i64::try_from(self.query.count).unwrap_or(i64::MAX));
        (format!("{sql} limit 1 offset {count}"), text.args)
    }

    /// What the viewer was granted of the type.
    fn granted(&self) -> (String, Vec<Arg>) {
        let mut text = Text::new();
        let sql = self.grants("1", "", &mut text);
        (sql, text.args)
    }

    fn grants(&self, column: &str, join: &str, text: &mut Text) -> String {
        let kind = text.arg(self.about.kind.name());
        let partners = match self.about.viewer {
            Viewer::Operator => "null".to_string(),
            Viewer::Grantees(list) => marks(list, &mut text.args),
        };
        format!(
            "select {column} from resource_grant g {join} where g.partner in ({partners}) and g.type = {kind}
             and g.ended is null"
        )
    }

    /// The index rows of a walk, as one list; only of what changed since a time, where there is one.
    fn walked(&self, walk: &Walk, since: Option<i64>, text: &mut Text) -> String {
        let parameter = text.arg(number(self.about.kind, walk.parameter));
        let values: Vec<&str> = walk.values.iter().map(|value| indexable(value)).collect();
        let values = text.any_of(&values);
        let mut sql = format!("l.parameter = {parameter} and l.value in ({values})");
        if !walk.statuses.is_empty() {
            let statuses: Vec<&str> = walk.statuses.iter().map(|status| indexable(status)).collect();
            let statuses = text.any_of(&statuses);
            sql.push_str(&match since {
                // Only for the index that has the order by change: a status may have very many that changed long ago.
                Some(_) => format!(" and coalesce(l.system, '') in ({statuses})"),
                None => format!(" and l.system in ({statuses}) and l.system <> ''"),
            });
        }
        sql.push_str(" and l.created is not null");
        if let Some(since) = since {
            sql.push_str(&format!(" and l.found = 1 and l.updated > {}", text.arg(since)));
        }
        sql
    }

    /// Everything that must hold of `resource r`, but what the way answers.
    fn conditions(&self, answered: &[usize], text: &mut Text) -> String {
        let mut sql = self.about.there(text);
        for (index, filter) in self.filters.iter().enumerate() {
            if !answered.contains(&index) {
                sql.push_str(" and ");
                sql.push_str(&condition(filter, self.about, text));
            }
        }
        sql
    }

    /// The resources of a way, in no order.
    fn all(&self, way: &Way, text: &mut Text) -> String {
        match way {
            Way::Short(index) => {
                let list = self.filters.get(*index).map(|filter| listed(filter, self.about, text));
                format!("{} and {}", self.conditions(&[*index], text), list.unwrap_or_else(|| "1 = 1".into()))
            }
            Way::Listed(walk, recent) => {
                let list = self.walked(walk, self.since.filter(|_| *recent), text);
                let rest = self.conditions(&walk.answers, text);
                format!("{rest} and r.number in (select l.resource from search_index l where {list})")
            }
            Way::Along(walk) => self.all(&Way::Listed(walk.clone(), true), text),
            Way::Granted => {
                let join = "join resource q on q.type = g.type and q.id = g.id";
                let list = self.grants("q.number", join, text);
                format!("{} and r.number in ({list})", self.conditions(&[], text))
            }
            Way::Recent | Way::Whole => self.conditions(&[], text),
        }
    }

    fn count(&self, way: &Way) -> (String, Vec<Arg>) {
        let mut text = Text::new();
        let all = self.all(way, &mut text);
        (format!("select count(*) from resource r where {all}"), text.args)
    }

    /// One more than the page has, to know whether there is a next one.
    fn limit(&self, text: &mut Text) -> String {
        text.arg(i64::try_from(self.query.count + 1).unwrap_or(i64::MAX))
    }

    /// ` and …`: what has not changed since the moment of the first page; all else is placed by what stood then.
    fn unmoved(&self, column: &str, text: &mut Text) -> String {
        let Some(moment) = &self.moment else { return String::new() };
        let mut sql = String::new();
        // Behind a newer one all are older: a second bound would only draw the planner away from the first.
        if self.query.cursor.is_none() || !matches!(time_order(self.query), Some((_, true))) {
            sql = format!(" and {column} <= {}", text.arg(moment.at));
        }
        if !moment.open.is_empty() {
            sql.push_str(&format!(" and {column} not in ({})", text.any_of(&moment.open)));
        }
        sql
    }

    /// The page along a walk; several walks are read as far as the page needs, and merged.
    fn along(&self, walk: &Walk, (order, descending): (Order, bool), place: Option<&Place>, text: &mut Text) -> String {
        let (way, compare) = if descending { ("desc", "<") } else { ("asc", ">") };
        let key = if order == Order::Created { "l.created" } else { "l.updated" };
        let limit = self.limit(text);
        let any = [String::new()];
        let statuses = if walk.statuses.is_empty() { &any[..] } else { &walk.statuses };
        let mut walks: Vec<String> = Vec::new();
        for value in &walk.values {
            for status in statuses {
                let parameter = text.arg(number(self.about.kind, walk.parameter));
                let mut sql = format!(
                    "l.parameter = {parameter} and l.value = {} and l.created is not null",
                    text.arg(indexable(value))
                );
                if !status.is_empty() {
                    let status = text.arg(indexable(status));
                    sql.push_str(&match order {
                        Order::Created => format!(" and l.system = {status} and l.system <> ''"),
                        // Only for the index that has the order by change.
                        _ => format!(" and coalesce(l.system, '') = {status}"),
                    });
                }
                if order == Order::Updated {
                    sql.push_str(" and l.found = 1");
                    sql.push_str(&self.unmoved("l.updated", text));
                }
                if let Some(since) = self.since {
                    sql.push_str(&format!(" and l.updated > {}", text.arg(since)));
                }
                if let Some(place) = place {
                    let (at, last) = (text.arg(place.updated), text.arg(place.number));
                    sql.push_str(&format!(" and ({key}, l.resource) {compare} ({at}, {last})"));
                }
                let rest = self.conditions(&walk.answers, text);
                // A cross join is taken in this order by SQLite.
                walks.push(format!(
                    "select r.id as id, r.version as version, {key} as at, l.resource as number
                     from search_index l cross join resource r where r.number = l.resource and {rest} and {sql}
                     order by {key} {way}, l.resource {way} limit {limit}"
                ));
            }
        }
        match walks.as_slice() {
            [one] => one.clone(),
            many => {
                let each = many
                    .iter()
                    .enumerate()
                    .map(|(index, one)| format!("select id, version, at, number from ({one}) as w{index}"));
                format!("{} order by at {way}, number {way} limit {limit}", each.collect::<Vec<_>>().join(" union "))
            }
        }
    }

    /// The page of any other way: order, place and limit around its conditions. Each row: id, version, and the keys of the
    /// order; of an order by time its number behind them, of any other the version once more before them.
    fn page(&self, way: &Way, place: Option<&Place>, text: &mut Text) -> String {
        let mut all = self.all(way, text);
        // Of a short list, none is looked for along the order of all: `+ 0` keeps the planner from trying.
        let sorted = match way {
            Way::Short(_) | Way::Listed(..) | Way::Granted | Way::Recent => " + 0",
            Way::Along(_) | Way::Whole => "",
        };
        all.push_str(&self.unmoved(&format!("r.updated{sorted}"), text));
        let keys: Vec<String> = self.query.sort.iter().map(|one| key_of(self.about.kind, one, sorted, text)).collect();
        let last = self.query.sort.last().is_some_and(|one| one.descending);
        let (columns, tie) = match (time_order(self.query), keys.as_slice()) {
            (Some((_, descending)), [key]) => {
                if let Some(place) = place {
                    let (at, last) = (text.arg(place.updated), text.arg(place.number));
                    let compare = if descending { "<" } else { ">" };
                    all.push_str(&format!(" and ({key}, r.number) {compare} ({at}, {last})"));
                }
                (format!("{key} as at, r.number as number"), "number")
            }
            _ => {
                if let Some(place) = place {
                    let id = text.arg(&place.id);
                    all.push_str(&beyond(&self.query.sort, &keys, ("r.id", &id), place, text));
                }
                let named: Vec<String> =
                    keys.iter().enumerate().map(|(index, key)| format!(", {key} as key{index}")).collect();
                (format!("r.version as at{}", named.concat()), "id")
            }
        };
        let order: Vec<String> =
            self.query.sort.iter().zip(&keys).map(|(one, key)| format!("{key} {}", word(one.descending))).collect();
        let limit = self.limit(text);
        format!(
            "select r.id as id, r.version as version, {columns} from resource r where {all}
             order by {}, r.{tie} {} limit {limit}",
            order.join(", "),
            word(last)
        )
    }
}
