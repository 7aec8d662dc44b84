//! What a transaction has still to tell its database. Rows and changes whose counts nobody waits for go there together, at
//! the end or before the first statement that names one of their tables: PostgreSQL hears all in one statement, SQLite
//! each kind with one that stays prepared. What a transaction writes twice is told once, as it stands last.
//!
//! The parts of PostgreSQL's statement do not see each other's rows. So a row that is outstanding is amended here, and
//! what is told never touches one row twice.

use crate::store::Arg;

/// Most rows and changes that are kept outstanding.
const MOST: usize = 500;

/// A table and its columns. The first `key` of them name a row, or the rows that belong together, and `or` says what
/// becomes of a row that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) table: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) key: usize,
    pub(super) or: &'static str,
}

impl Shape {
    /// Rows that nobody has stored before.
    pub(super) const fn new(table: &'static str, columns: &'static [&'static str], key: usize) -> Shape {
        Shape { table, columns, key, or: "" }
    }

    pub(super) fn names(&self) -> &'static [&'static str] {
        self.columns.get(..self.key).unwrap_or(self.columns)
    }
}

/// New values of columns, by their names.
pub(super) type Values = Vec<(&'static str, Arg)>;

/// New values of the rows with this key.
#[derive(Debug)]
struct Set {
    shape: Shape,
    key: Vec<Arg>,
    values: Values,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Later {
    rows: Vec<(Shape, Vec<Vec<Arg>>)>,
    sets: Vec<Set>,
    gone: Vec<(Shape, Vec<Vec<Arg>>)>,
}

impl Later {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.sets.is_empty() && self.gone.is_empty()
    }

    /// Whether so much is outstanding that looking through it costs more than telling it.
    pub(super) fn is_much(&self) -> bool {
        let rows = self.rows.iter().chain(&self.gone).map(|(_, list)| list.len());
        rows.sum::<usize>() + self.sets.len() > MOST
    }

    /// Whether a statement names a table of which something is outstanding.
    pub(super) fn concerns(&self, text: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let outstanding = |word: &str| {
            self.rows.iter().chain(&self.gone).any(|(shape, _)| shape.table == word)
                || self.sets.iter().any(|set| set.shape.table == word)
        };
        text.split(|one: char| !one.is_ascii_alphanumeric() && one != '_').any(outstanding)
    }

    /// Whether something is outstanding of what this key names.
    pub(super) fn touches(&self, shape: Shape, key: &[Arg]) -> bool {
        let rows = self.rows.iter().chain(&self.gone).filter(|(its, _)| its.table == shape.table);
        rows.flat_map(|(_, list)| list).any(|row| row.starts_with(key))
            || self.sets.iter().any(|set| set.shape.table == shape.table && set.key.starts_with(key))
    }

    /// Whether one of these rows is outstanding already, or its removal: one statement can't both store it and replace it,
    /// nor remove it and store it anew.
    pub(super) fn has(&self, shape: Shape, rows: &[Vec<Arg>]) -> bool {
        let same = |one: &Vec<Arg>| rows.iter().any(|row| one.get(..shape.key).is_some_and(|key| row.starts_with(key)));
        let gone = self.gone.iter().filter(|(its, _)| *its == shape).flat_map(|(_, keys)| keys).any(same);
        gone || (!shape.or.is_empty() && self.of(shape).is_some_and(|list| list.iter().any(same)))
    }

    fn of(&self, shape: Shape) -> Option<&Vec<Vec<Arg>>> {
        self.rows.iter().find(|(its, _)| *its == shape).map(|(_, list)| list)
    }

    pub(super) fn insert(&mut self, shape: Shape, rows: Vec<Vec<Arg>>) {
        match self.rows.iter_mut().find(|(its, _)| *its == shape) {
            Some((_, list)) => list.extend(rows),
            None if rows.is_empty() => {}
            None => self.rows.push((shape, rows)),
        }
    }

    /// Changes the rows of a key: those that are outstanding, or else those that are stored.
    pub(super) fn set(&mut self, shape: Shape, key: Vec<Arg>, values: Values) {
        let mut amended = false;
        for (_, list) in self.rows.iter_mut().filter(|(its, _)| *its == shape) {
            for row in list.iter_mut().filter(|row| row.starts_with(&key)) {
                for (name, value) in &values {
                    let place = shape.columns.iter().position(|column| column == name);
                    if let Some(old) = place.and_then(|place| row.get_mut(place)) {
                        old.clone_from(value);
                    }
                }
                amended = true;
            }
        }
        if amended {
            return;
        }
        match self.sets.iter_mut().find(|set| set.shape == shape && set.key == key) {
            Some(set) => {
                set.values.retain(|(name, _)| values.iter().all(|(newer, _)| newer != name));
                set.values.extend(values);
            }
            None => self.sets.push(Set { shape, key, values }),
        }
    }

    /// Removes the rows of a key: all of them are outstanding, or none.
    pub(super) fn remove(&mut self, shape: Shape, key: Vec<Arg>) {
        self.sets.retain(|set| set.shape != shape || set.key != key);
        let mut dropped = false;
        for (_, list) in self.rows.iter_mut().filter(|(its, _)| *its == shape) {
            let before = list.len();
            list.retain(|row| !row.starts_with(&key));
            dropped |= list.len() < before;
        }
        self.rows.retain(|(_, list)| !list.is_empty());
        if dropped {
            return;
        }
        match self.gone.iter_mut().find(|(its, _)| *its == shape) {
            Some((_, list)) if list.contains(&key) => {}
            Some((_, list)) => list.push(key),
            None => self.gone.push((shape, vec![key])),
        }
    }

    /// Everything as statements, each with the rows of values that it is run with: what goes before what comes.
    pub(super) fn take_apart(&mut self) -> Vec<(String, Vec<Vec<Arg>>)> {
        let mut parts = Vec::new();
        for (shape, keys) in self.gone.drain(..) {
            let same = marked(shape.names(), " and ", 0);
            parts.push((format!("delete from {} where {same}", shape.table), keys));
        }
        for (shape, names, rows) in self.take_sets() {
            let (same, values) = (marked(shape.names(), " and ", 0), marked(&names, ", ", shape.key));
            parts.push((format!("update {} set {values} where {same}", shape.table), rows));
        }
        for (shape, rows) in self.rows.drain(..) {
            let marks: Vec<String> = (1..=shape.columns.len()).map(|number| format!("${number}")).collect();
            let (table, columns, or) = (shape.table, shape.columns.join(", "), shape.or);
            parts.push((format!("insert into {table} ({columns}) values ({}){or}", marks.join(", ")), rows));
        }
        parts
    }

    /// The changes: of each kind the columns, and for each row its key and their new values.
    fn take_sets(&mut self) -> Vec<(Shape, Names, Vec<Vec<Arg>>)> {
        let mut sets: Vec<(Shape, Names, Vec<Vec<Arg>>)> = Vec::new();
        for Set { shape, mut key, values } in self.sets.drain(..) {
            let (names, values): (Names, Vec<Arg>) = values.into_iter().unzip();
            key.extend(values);
            match sets.iter_mut().find(|(its, known, _)| *its == shape && *known == names) {
                Some((_, _, list)) => list.push(key),
                None => sets.push((shape, names, vec![key])),
            }
        }
        sets
    }

    /// Everything as one statement. Its text depends on what is done to which tables, not on how often, so it is planned
    /// once.
    pub(super) fn take(&mut self) -> Option<(String, Vec<Arg>)> {
        let (mut parts, mut args) = (Vec::new(), Vec::new());
        // One order, whatever was written first.
        self.rows.sort_by_key(|(shape, _)| shape.table);
        for (shape, rows) in self.rows.drain(..) {
            let (table, columns, or) = (shape.table, shape.columns.join(", "), shape.or);
            let lists = lists(rows, &mut args);
            parts.push(format!("insert into {table} ({columns}) select * from unnest({lists}){or}"));
        }
        for (shape, names, rows) in self.take_sets() {
            let (table, key) = (shape.table, shape.names());
            let columns = key.iter().chain(&names).copied().collect::<Vec<_>>().join(", ");
            let values = listed(&names, ", ", |name| format!("{name} = new.{name}"));
            let same = listed(key, " and ", |name| format!("{table}.{name} = new.{name}"));
            let lists = lists(rows, &mut args);
            parts.push(format!("update {table} set {values} from unnest({lists}) as new ({columns}) where {same}"));
        }
        for (shape, keys) in self.gone.drain(..) {
            let (table, columns) = (shape.table, shape.names().join(", "));
            let lists = lists(keys, &mut args);
            parts.push(format!("delete from {table} where ({columns}) in (select * from unnest({lists}))"));
        }
        if parts.len() < 2 {
            return parts.pop().map(|text| (text, args));
        }
        let parts: Vec<String> =
            parts.iter().enumerate().map(|(index, part)| format!("w{index} as ({part})")).collect();
        Some((format!("with {} select 1", parts.join(", ")), args))
    }
}

/// The columns that a change sets.
type Names = Vec<&'static str>;

/// Rows as columns, appended to the arguments; their placeholders.
fn lists(rows: Vec<Vec<Arg>>, args: &mut Vec<Arg>) -> String {
    let lists = Arg::lists(rows);
    let marks: Vec<String> =
        lists.iter().enumerate().map(|(index, list)| list.list_type(args.len() + index + 1)).collect();
    args.extend(lists);
    marks.join(", ")
}

/// A list of names, each equal to its placeholder, which follow the first `after`.
fn marked(names: &[&str], between: &str, after: usize) -> String {
    let mut number = after;
    listed(names, between, |name| {
        number += 1;
        format!("{name} = ${number}")
    })
}

/// A list of names, each written so.
fn listed(names: &[&str], between: &str, mut write: impl FnMut(&str) -> String) -> String {
    names.iter().map(|name| write(name)).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Shape = Shape { table: "t", columns: &["a", "b", "c"], key: 2, or: " on conflict (a, b) do nothing" };
    const INDEX: Shape = Shape::new("i", &["k", "p", "v", "u"], 2);

    #[test]
    fn rows_of_one_shape_go_together_and_everything_in_one_statement() {
        let mut later = Later::default();
        later.insert(GRANT, vec![args!["x", 1, "c"]]);
        later.insert(Shape::new("u", &["a"], 1), vec![args![None::<&str>]]);
        later.insert(GRANT, vec![args!["x", 2, None::<String>]]);
        for (key, value) in [("k", 1), ("l", 2), ("k", 3)] {
            later.set(INDEX, args![key, "p"], vec![("u", value.into())]);
        }
        later.remove(INDEX, args!["k", "q"]);
        let (text, args) = later.take().unwrap();
        assert!(later.is_empty() && later.take().is_none());
        assert_eq!(
            text,
            "with w0 as (insert into t (a, b, c) select * from unnest($1::text[], $2::bigint[], $3::text[]) \
             on conflict (a, b) do nothing), w1 as (insert into u (a) select * from unnest($4::text[])), \
             w2 as (update i set u = new.u from unnest($5::text[], $6::text[], $7::bigint[]) as new (k, p, u) \
             where i.k = new.k and i.p = new.p), \
             w3 as (delete from i where (k, p) in (select * from unnest($8::text[], $9::text[]))) select 1"
        );
        assert_eq!(args[1], Arg::Ints(vec![Some(1), Some(2)]));
        assert_eq!(args[2], Arg::Texts(vec![Some("c".into()), None]));
        assert_eq!(args[6], Arg::Ints(vec![Some(3), Some(2)]));
    }

    #[test]
    fn statements_that_are_run_row_by_row_have_their_placeholders_in_order() {
        let mut later = Later::default();
        later.insert(GRANT, vec![args!["x", 1, "c"], args!["x", 2, "c"]]);
        later.set(INDEX, args!["k", "p"], vec![("u", 1.into()), ("v", "v".into())]);
        later.remove(INDEX, args!["k", "q"]);
        let parts = later.take_apart();
        assert!(later.is_empty());
        let texts: Vec<&str> = parts.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "delete from i where k = $1 and p = $2",
                "update i set u = $3, v = $4 where k = $1 and p = $2",
                "insert into t (a, b, c) values ($1, $2, $3) on conflict (a, b) do nothing"
            ]
        );
        assert_eq!(parts[1].1, [args!["k", "p", 1, "v"]]);
        assert_eq!(parts[2].1.len(), 2);
        later.insert(GRANT, vec![args!["x", 1, "c"]; MOST]);
        assert!(!later.is_much());
        later.remove(INDEX, args!["k", "q"]);
        assert!(later.is_much());
    }

    #[test]
    fn what_is_outstanding_is_amended_and_no_row_is_told_twice() {
        let mut later = Later::default();
        later.insert(GRANT, vec![args!["x", 1, "c"]]);
        assert!(later.has(GRANT, &[args!["x", 1, "d"]]) && !later.has(GRANT, &[args!["x", 2, "c"]]));
        assert!(later.touches(GRANT, &["x".into()]) && !later.touches(GRANT, &["y".into()]));

        later.insert(INDEX, vec![args!["k", "p", "old", 1], args!["k", "q", "stays", 1]]);
        later.remove(INDEX, args!["k", "p"]);
        later.insert(INDEX, vec![args!["k", "p", "new", 2]]);
        later.set(INDEX, args!["k", "q"], vec![("u", 2.into())]);
        // Stored already, changed in two ways, and then removed.
        later.set(INDEX, args!["m", "p"], vec![("u", 1.into())]);
        later.set(INDEX, args!["m", "p"], vec![("v", "v".into())]);
        later.set(INDEX, args!["n", "p"], vec![("u", 1.into())]);
        later.remove(INDEX, args!["n", "p"]);
        assert!(later.has(INDEX, &[args!["n", "p", "anew", 1]]) && !later.has(INDEX, &[args!["o", "p", "new", 1]]));
        assert!(later.touches(INDEX, &["n".into()]));
        let (text, args) = later.take().unwrap();
        assert_eq!(text.matches("update i set").count(), 1, "{text}");
        assert!(text.contains("update i set u = new.u, v = new.v from"), "{text}");
        assert_eq!(args[2], Arg::Texts(vec![Some("stays".into()), Some("new".into())]));
        assert_eq!(args[3], Arg::Ints(vec![Some(2), Some(2)]));
        assert_eq!(args[7], Arg::Texts(vec![Some("m".into())]));
        assert_eq!(args[11], Arg::Texts(vec![Some("n".into())]));
    }

    #[test]
    fn a_statement_concerns_what_it_names() {
        let mut later = Later::default();
        later.insert(Shape::new("resource", &["a"], 1), vec![args!["x"]]);
        for (text, concerned) in [
            ("select 1 from resource r", true),
            ("select 1 from resource", true),
            ("select resource.id", true),
            ("select 1 from resource_version", false),
            ("select 1 from my_resource", false),
        ] {
            assert_eq!(later.concerns(text), concerned, "{text}");
        }
    }
}
