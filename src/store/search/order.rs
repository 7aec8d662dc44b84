//! The order of a page: its keys as SQL, where a page begins, and what has moved since the first page was read.
//!
//! An order that changes is read as of the moment of its first page: what has changed since is placed by the version that
//! stood then, and shown so; it must satisfy what is asked as it stood then and as it stands now. What came since is left
//! out, what is gone since or may not be seen any more as well. So the pages show, each once, what one page would have
//! shown, and nothing on them is newer than their moment: who goes on from the newest that he saw misses nothing.

use super::condition::Text;
use super::plan::time_order;
use super::{Asked, Way};
use crate::error::{Error, Kind};
use crate::fhir::search::{Filter, Moment, Order, Query, Sort, satisfies};
use crate::fhir::search_index::{Row, number, rows};
use crate::fhir::{Key, Resource, ResourceType};
use crate::store::grants::{ever_visible, once_visible};
use crate::store::packed::unpack;
use crate::store::resources::indexable;
use crate::store::{Arg, Tx, Viewer};
use crate::time::Timestamp;

/// Most of what a search finds that may have changed since its first page.
const MOVED: usize = 2_000;

/// Where a version stands in an order: what its keys are made of, then its id; in an order by time, its number.
pub(super) struct Place {
    created: i64,
    pub(super) updated: i64,
    rows: Vec<Row>,
    pub(super) id: String,
    pub(super) number: i64,
}

/// What has changed since the moment of the first page: the version that stood then, and where.
pub(super) struct Moved {
    version: i64,
    place: Place,
}

impl Tx {
    /// The moment that a search's pages show, where its order is one that changes: that of its first page.
    pub(super) async fn moment_of(&mut self, queries: &[&Query]) -> Result<Option<Moment>, Error> {
        let Some(first) = queries.first().filter(|query| query.is_ordered_by_change()) else { return Ok(None) };
        if let Some(moment) = first.cursor.as_ref().and_then(|cursor| cursor.moment.clone()) {
            return Ok(Some(moment));
        }
        let mut newest = 0;
        // The clock of another gateway may be ahead of ours.
        let others = self.is_postgres();
        for query in queries.iter().filter(|_| others) {
            let text = "select coalesce(max(updated), 0) from resource where type = $1";
            let row = self.one(text, args![query.kind.name()]).await?;
            newest = newest.max(row.map_or(Ok(0), |row| row.int(0))?);
        }
        Ok(Some(self.moment(newest)))
    }

    /// The place of the last entry of the page before, as it was then: its keys are those of that version, so that no link
    /// carries one and nothing moves when it changes or goes.
    pub(super) async fn place(&mut self, query: &Query, viewer: &Viewer) -> Result<Option<Place>, Error> {
        let Some(cursor) = &query.cursor else { return Ok(None) };
        if time_order(query).is_some() {
            let (at, id) = (cursor.key, cursor.id.clone());
            let mut args = args![query.kind.name(), &id];
            // By an id of his own making nobody learns whether it is there.
            let seen = ever_visible(viewer, query.kind.is_directory(), &mut args);
            let text = format!("select r.number from resource r where r.type = $1 and r.id = $2{seen}");
            // Of no resource: before all others of its time.
            let number = self.one(text, args).await?.map_or(Ok(0), |row| row.int(0))?;
            return Ok(Some(Place { created: at, updated: at, rows: Vec::new(), id, number }));
        }
        let mut args = args![query.kind.name(), &cursor.id, cursor.key];
        // Nobody learns by an id of his own making how what he may not see compares with what he may: an entry was visible
        // to him, and satisfied what he asked and what his scopes ask.
        let seen = once_visible(viewer, query.kind.is_directory(), &mut args);
        let sql = format!(
            "select r.created, v.updated, v.content from resource r join resource_version v on v.type = r.type
             and v.id = r.id where r.type = $1 and r.id = $2 and v.version = $3 and v.content <> ''{seen}"
        );
        let row = self.one(sql, args).await?;
        let foreign = || Error::malformed("The parameter _page is not one of our links.").code("value");
        let row = row.ok_or_else(foreign)?;
        let resource = Resource::stored(&unpack(row.str(2)?)?)?;
        let (created, updated, rows) = (row.int(0)?, row.int(1)?, rows(&resource, &query.own));
        if !stood(&query.filters, &cursor.id, updated, &rows) {
            return Err(foreign());
        }
        Ok(Some(Place { created, updated, rows, id: cursor.id.clone(), number: 0 }))
    }

    /// What has changed since the moment of the first page and was found then as it is now.
    pub(super) async fn moved(
        &mut self,
        asked: &Asked<'_>,
        way: &Way,
        place: Option<&Place>,
    ) -> Result<Vec<Moved>, Error> {
        let Some(moment) = &asked.moment else { return Ok(Vec::new()) };
        let mut text = Text::new();
        let sql = asked.candidates(way, moment, place, &mut text);
        let rows_found = self.all_aside(sql, text.args).await?;
        if rows_found.len() > MOVED {
            let text = format!(
                "More than {MOVED} of what this search finds have changed since its first page. Begin it anew, with larger pages or by less that changes."
            );
            return Err(Error::new(Kind::Gone, text).code("too-costly"));
        }
        let (mut versions, mut created) = (Vec::new(), Vec::new());
        for row in rows_found {
            versions.push((Key::new(asked.about.kind, row.text(0)?), row.int(1)?));
            created.push(row.int(2)?);
        }
        let mut moved = Vec::new();
        for (stored, created) in self.versions(versions).await?.into_iter().zip(created) {
            let rows = rows(&stored.resource()?, &asked.query.own);
            let (id, number, Timestamp(updated)) = (stored.key.id.clone(), stored.number, stored.updated);
            if stood(&asked.filters, &id, updated, &rows) {
                moved.push(Moved { version: stored.version, place: Place { created, updated, rows, id, number } });
            }
        }
        Ok(moved)
    }
}

/// Whether a version with these rows satisfied what is asked of it alone.
fn stood(filters: &[Filter], id: &str, updated: i64, rows: &[Row]) -> bool {
    let mut alone = filters.iter().filter(|filter| filter.is_of_one_resource());
    alone.all(|filter| satisfies(filter, id, Timestamp(updated), rows))
}

impl Asked<'_> {
    /// What has changed since a moment, with the version that stood then: id, version, creation; in an order by time only
    /// what stood behind the place.
    fn candidates(&self, way: &Way, moment: &Moment, place: Option<&Place>, text: &mut Text) -> String {
        let floor = moment.floor();
        let all = match way {
            Way::Listed(walk, _) | Way::Along(walk) => {
                let list = self.walked(walk, Some(floor.max(self.since.unwrap_or(floor))), text);
                let rest = self.conditions(&walk.answers, text);
                format!("{rest} and r.number in (select l.resource from search_index l where {list})")
            }
            Way::Short(_) | Way::Granted | Way::Recent | Way::Whole => self.all(way, text),
        };
        let (at, after) = (text.arg(moment.at), text.arg(floor));
        let (moved, stood) = match moment.open.as_slice() {
            [] => (String::new(), format!("w.updated <= {at}")),
            open => {
                let open = text.any_of(open);
                let moved = format!(" and (r.updated > {at} or r.updated in ({open}))");
                (moved, format!("w.updated <= {at} and w.updated not in ({open})"))
            }
        };
        let behind = match (time_order(self.query), place) {
            (Some((_, descending)), Some(place)) => {
                let (at, last) = (text.arg(place.updated), text.arg(place.number));
                format!(" and (v.updated, r.number) {} ({at}, {last})", if descending { "<" } else { ">" })
            }
            _ => String::new(),
        };
        let limit = text.arg(i64::try_from(MOVED + 1).unwrap_or(i64::MAX));
        // A cross join is taken in this order by SQLite.
        format!(
            "select r.id, v.version, r.created from resource r cross join resource_version v
             where v.type = r.type and v.id = r.id and v.content <> '' and v.version = (
                 select max(w.version) from resource_version w where w.type = r.type and w.id = r.id and {stood})
             and {all} and r.updated > {after}{moved}{behind} limit {limit}"
        )
    }

    /// A page with what has moved since the first one, where it stood then.
    pub(super) fn with_moved(&self, page: &str, moved: &[Moved], place: Option<&Place>, text: &mut Text) -> String {
        let sort = &self.query.sort;
        let timed = time_order(self.query).is_some();
        let keys: Vec<String> = match timed {
            true => vec!["at".to_string()],
            false => (0..sort.len()).map(|index| format!("key{index}")).collect(),
        };
        let mut columns = vec!["id", "version"];
        columns.extend((!timed).then_some("at"));
        columns.extend(keys.iter().map(String::as_str));
        columns.extend(timed.then_some("number"));
        let tie = if timed { "number" } else { "id" };
        let row = |one: &Moved, text: &mut Text| {
            let mut row = vec![text.arg(&one.place.id), text.arg(one.version)];
            row.extend((!timed).then(|| text.arg(one.version)));
            row.extend(sort.iter().map(|sort| one.place.key(sort, text)));
            row.extend(timed.then(|| text.arg(one.place.number)));
            format!("({})", row.join(", "))
        };
        let rows: Vec<String> = moved.iter().map(|one| row(one, text)).collect();
        let named: Vec<String> =
            columns.iter().enumerate().map(|(index, name)| format!("column{} as {name}", index + 1)).collect();
        let behind = place.map(|place| {
            let last = if timed { text.arg(place.number) } else { text.arg(&place.id) };
            beyond(sort, &keys, (tie, &last), place, text)
        });
        let behind = behind.unwrap_or_default();
        let order: Vec<String> =
            sort.iter().zip(&keys).map(|(one, key)| format!("{key} {}", word(one.descending))).collect();
        let (columns, last) = (columns.join(", "), sort.last().is_some_and(|one| one.descending));
        format!(
            "select id, version, at from (
                 select {columns} from ({page}) as here
                 union all
                 select {columns} from (select {} from (values {}) as stood) as moved where 1 = 1{behind}
             ) as whole order by {}, {tie} {} limit {}",
            named.join(", "),
            rows.join(", "),
            order.join(", "),
            word(last),
            self.limit(text)
        )
    }
}

impl Place {
    /// A key of the order, as it is at this place.
    fn key(&self, sort: &Sort, text: &mut Text) -> String {
        let mine = |name: &'static str| self.rows.iter().filter(move |row| row.parameter == name);
        match sort.by {
            Order::Created => text.arg(self.created),
            Order::Updated => text.arg(self.updated),
            Order::Id => text.arg(&self.id),
            Order::Date(name) => {
                let lows = mine(name).map(|row| row.low);
                let low = if sort.descending { lows.max() } else { lows.min() };
                text.arg(low.unwrap_or(i64::MIN))
            }
            // Which text comes first is the database's to say.
            Order::Value(name) => {
                let values: Vec<String> =
                    mine(name).map(|row| format!("({})", text.arg(indexable(&row.value)))).collect();
                match values.is_empty() {
                    true => text.arg(""),
                    false => {
                        let first = if sort.descending { "max" } else { "min" };
                        format!("(select {first}(column1) from (values {}) as edge)", values.join(", "))
                    }
                }
            }
        }
    }
}

/// The word for a way.
pub(super) fn word(descending: bool) -> &'static str {
    if descending { "desc" } else { "asc" }
}

/// A key of the order as SQL: of several values the first of that way; none at all comes before all others.
pub(super) fn key_of(kind: ResourceType, sort: &Sort, sorted: &str, text: &mut Text) -> String {
    let first = if sort.descending { "max" } else { "min" };
    let of = |column: &str, name: &'static str, none: Arg, text: &mut Text| {
        let (name, none) = (text.arg(number(kind, name)), text.arg(none));
        format!(
            "coalesce((select {first}(o.{column}) from search_index o where o.resource = r.number
             and o.parameter = {name}), {none})"
        )
    };
    match sort.by {
        Order::Created => format!("r.created{sorted}"),
        Order::Updated => format!("r.updated{sorted}"),
        Order::Id => "r.id".to_string(),
        Order::Date(name) => of("low", name, Arg::Int(i64::MIN), text),
        Order::Value(name) => of("value", name, Arg::from(""), text),
    }
}

/// ` and (…)`: behind a place, key by key; of what is alike in all of them, behind the last one.
pub(super) fn beyond(
    sort: &[Sort],
    keys: &[String],
    (tie, last): (&str, &str),
    place: &Place,
    text: &mut Text,
) -> String {
    let mut equal = String::new();
    let mut ways: Vec<String> = Vec::new();
    for (one, key) in sort.iter().zip(keys) {
        let at = place.key(one, text);
        let compare = if one.descending { "<" } else { ">" };
        ways.push(format!("({equal}{key} {compare} {at})"));
        equal.push_str(&format!("{key} = {at} and "));
    }
    let compare = if sort.last().is_some_and(|one| one.descending) { "<" } else { ">" };
    ways.push(format!("({equal}{tie} {compare} {last})"));
    format!(" and ({})", ways.join(" or "))
}
