//! What a transaction has still to tell PostgreSQL. Rows and changes whose counts nobody waits for go there together, in
//! one statement each, at the end or before the first statement that names one of their tables. SQLite needs none of it:
//! there a statement has no way to go.

use crate::store::Arg;

/// A table and its columns. The first `key` of them tell a row that may be there already, and `or` says what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) table: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) key: usize,
    pub(super) or: &'static str,
}

impl Shape {
    /// Rows that nobody has stored before.
    pub(super) const fn new(table: &'static str, columns: &'static [&'static str]) -> Shape {
        Shape { table, columns, key: 0, or: "" }
    }
}

/// A change of one row, or of one resource's rows.
#[derive(Debug)]
struct Change {
    table: &'static str,
    key: String,
    text: &'static str,
    args: Vec<Arg>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Later {
    rows: Vec<(Shape, Vec<Vec<Arg>>)>,
    changes: Vec<Change>,
}

impl Later {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.changes.is_empty()
    }

    /// Whether a statement names a table of which something is outstanding.
    pub(super) fn concerns(&self, text: &str) -> bool {
        let tables = self.rows.iter().map(|(shape, _)| shape.table);
        tables.chain(self.changes.iter().map(|change| change.table)).any(|table| names(text, table))
    }

    /// Whether one of these rows is outstanding already: one statement can't store it twice.
    pub(super) fn has(&self, shape: Shape, rows: &[Vec<Arg>]) -> bool {
        let same = |one: &Vec<Arg>| rows.iter().any(|row| row.iter().zip(one).take(shape.key).all(|(a, b)| a == b));
        shape.key > 0 && self.rows.iter().any(|(its, list)| its.table == shape.table && list.iter().any(same))
    }

    pub(super) fn insert(&mut self, shape: Shape, rows: Vec<Vec<Arg>>) {
        match self.rows.iter_mut().find(|(its, _)| *its == shape) {
            Some((_, list)) => list.extend(rows),
            None if rows.is_empty() => {}
            None => self.rows.push((shape, rows)),
        }
    }

    /// Whether another kind of change to this table is outstanding: which of two came last would be anybody's guess.
    pub(super) fn is_crossed(&self, table: &str, text: &str) -> bool {
        self.changes.iter().any(|change| change.table == table && change.text != text)
    }

    /// Changes a row; an earlier change of the same kind is overtaken.
    pub(super) fn change(&mut self, table: &'static str, key: String, text: &'static str, args: Vec<Arg>) {
        self.changes.retain(|change| change.text != text || change.key != key);
        self.changes.push(Change { table, key, text, args });
    }

    /// Everything as statements, in this order: the rows, then what changes some of them.
    pub(super) fn take(&mut self) -> Vec<(String, Vec<Arg>)> {
        let (mut parts, mut args) = (Vec::new(), Vec::new());
        for (shape, rows) in self.rows.drain(..) {
            let lists = Arg::lists(rows);
            let marks: Vec<String> =
                lists.iter().enumerate().map(|(index, list)| list.list_type(args.len() + index + 1)).collect();
            let (table, columns, or) = (shape.table, shape.columns.join(", "), shape.or);
            parts.push(format!("insert into {table} ({columns}) select * from unnest({}){or}", marks.join(", ")));
            args.extend(lists);
        }
        let rows = (together(parts), args);
        let (mut parts, mut args) = (Vec::new(), Vec::new());
        for change in self.changes.drain(..) {
            parts.push(renumbered(change.text, args.len()));
            args.extend(change.args);
        }
        let changes = (together(parts), args);
        [rows, changes].into_iter().filter(|(text, _)| !text.is_empty()).collect()
    }
}

/// Several writes as one statement.
fn together(mut parts: Vec<String>) -> String {
    if parts.len() < 2 {
        return parts.pop().unwrap_or_default();
    }
    let parts: Vec<String> = parts.iter().enumerate().map(|(index, part)| format!("w{index} as ({part})")).collect();
    format!("with {} select 1", parts.join(", "))
}

/// The text with its placeholders moved up.
fn renumbered(text: &str, by: usize) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text.split('$');
    out.push_str(rest.next().unwrap_or_default());
    for part in rest {
        let digits = part.len() - part.trim_start_matches(|one: char| one.is_ascii_digit()).len();
        let (number, after) = part.split_at(digits);
        out.push_str(&format!("${}{after}", number.parse::<usize>().unwrap_or_default() + by));
    }
    out
}

/// Whether a text has this word.
fn names(text: &str, word: &str) -> bool {
    let inside = |one: Option<char>| one.is_some_and(|one| one.is_ascii_alphanumeric() || one == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !inside(before.chars().next_back()) && !inside(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Shape = Shape { table: "t", columns: &["a", "b", "c"], key: 2, or: " on conflict (a, b) do nothing" };

    #[test]
    fn rows_of_one_shape_go_together_and_changes_after_them() {
        let mut later = Later::default();
        later.insert(GRANT, vec![args!["x", 1, "c"]]);
        later.insert(Shape::new("u", &["a"]), vec![args![None::<&str>]]);
        later.insert(GRANT, vec![args!["x", 2, None::<String>]]);
        later.change("v", "k".into(), "update v set a = $1 where b = $2", args![1, "k"]);
        later.change("v", "l".into(), "update v set a = $1 where b = $2", args![2, "l"]);
        later.change("v", "k".into(), "update v set a = $1 where b = $2", args![3, "k"]);
        let told = later.take();
        assert!(later.is_empty());
        let (text, args) = &told[0];
        assert_eq!(
            text,
            "with w0 as (insert into t (a, b, c) select * from unnest($1::text[], $2::bigint[], $3::text[]) \
             on conflict (a, b) do nothing), w1 as (insert into u (a) select * from unnest($4::text[])) select 1"
        );
        assert_eq!(args[1], Arg::Ints(vec![Some(1), Some(2)]));
        assert_eq!(args[2], Arg::Texts(vec![Some("c".into()), None]));
        let (text, args) = &told[1];
        assert_eq!(
            text,
            "with w0 as (update v set a = $1 where b = $2), w1 as (update v set a = $3 where b = $4) select 1"
        );
        assert_eq!(*args, args![2, "l", 3, "k"]);
    }

    #[test]
    fn a_row_twice_and_a_change_across_are_seen() {
        let mut later = Later::default();
        later.insert(GRANT, vec![args!["x", 1, "c"]]);
        assert!(later.has(GRANT, &[args!["x", 1, "d"]]) && !later.has(GRANT, &[args!["x", 2, "c"]]));
        later.change("v", "k".into(), "update v set a = $1", args![1]);
        assert!(later.is_crossed("v", "update v set b = $1") && !later.is_crossed("v", "update v set a = $1"));
        assert!(!later.is_crossed("w", "update w set b = $1"));
    }

    #[test]
    fn a_statement_concerns_what_it_names() {
        let mut later = Later::default();
        later.insert(Shape::new("resource", &["a"]), vec![args!["x"]]);
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
