//! Conditions as SQL. Every one is answered by an index; what a chain or `_has` asks of another resource is asked only of
//! resources that the viewer may see.

use crate::fhir::ResourceType;
use crate::fhir::search::{Amount, Filter, Prefix, Test, Token};
use crate::fhir::search_index::{SEPARATOR, number};
use crate::store::grants::visible_as;
use crate::store::resources::indexable;
use crate::store::{Arg, Viewer};

/// A statement under construction.
pub(in crate::store) struct Text {
    pub(in crate::store) args: Vec<Arg>,
}

impl Text {
    pub(in crate::store) fn new() -> Self {
        Text { args: Vec::new() }
    }
    pub(in crate::store) fn arg(&mut self, value: impl Into<Arg>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }
    /// The numbers of a type's parameters.
    pub(in crate::store) fn parameters(&mut self, kind: ResourceType, names: &[&str]) -> String {
        let numbers: Vec<i64> = names.iter().map(|name| number(kind, name)).collect();
        self.any_of(&numbers)
    }
    /// Long lists repeat their last, up to a power of two: so there are few texts, and each stays prepared.
    pub(in crate::store) fn any_of<T: Clone + Into<Arg>>(&mut self, list: &[T]) -> String {
        let length = if list.len() > 4 { list.len().next_power_of_two() } else { list.len() };
        let more = list.last().into_iter().cycle().take(length - list.len());
        let marks: Vec<String> = list.iter().chain(more).map(|item| self.arg(item.clone())).collect();
        if marks.is_empty() { "null".to_string() } else { marks.join(", ") }
    }
}

/// The resources a condition is about: a table's name in the statement, and their type.
#[derive(Clone, Copy)]
pub(in crate::store) struct About<'a> {
    pub(in crate::store) kind: ResourceType,
    pub(in crate::store) viewer: &'a Viewer,
    /// How many references lie between these resources and those searched.
    pub(in crate::store) depth: usize,
}

impl About<'_> {
    pub(super) fn name(&self) -> String {
        if self.depth == 0 { "r".to_string() } else { format!("r{}", self.depth) }
    }
    fn rows(&self) -> String {
        format!("s{}", self.depth)
    }
    /// `r.type = … and r.deleted = 0 and …`: of this type, there, and visible.
    pub(super) fn there(&self, text: &mut Text) -> String {
        let (name, kind) = (self.name(), text.arg(self.kind.name()));
        let seen = visible_as(&name, self.viewer, self.kind.is_directory(), &mut text.args);
        format!("{name}.type = {kind} and {name}.deleted = 0{seen}")
    }
}

/// A condition, looked up for one resource after the other.
pub(super) fn condition(filter: &Filter, about: About<'_>, text: &mut Text) -> String {
    let (name, rows) = (about.name(), about.rows());
    match filter {
        Filter::Ids(ids) => format!("{name}.id in ({})", text.any_of(ids)),
        // The resource's own span is one microsecond, so its end is one more than its column.
        Filter::Updated(prefix, from, to) => {
            let column = format!("{name}.updated");
            span(*prefix, (&column, &column), (*from, *to), 1, text)
        }
        Filter::Indexed { name: parameter, test, not } => {
            let parameter = text.arg(number(about.kind, parameter));
            let (present, test) = test_of(test, &rows, text);
            let word = if present != *not { "exists" } else { "not exists" };
            format!(
                "{word} (select 1 from search_index {rows} where {rows}.resource = {name}.number
                 and {rows}.parameter = {parameter}{test})"
            )
        }
        Filter::Refers { names, to } => {
            let its = refers(about.kind, names, to, &rows, text);
            format!("exists (select 1 from search_index {rows} where {rows}.resource = {name}.number and {its})")
        }
        Filter::Chain { name: parameter, to } => {
            let one = |(kind, filter): &(ResourceType, Filter), text: &mut Text| {
                let other = About { kind: *kind, depth: about.depth + 1, ..about };
                let target = other.name();
                let prefix = format!("{kind}/");
                let start = i64::try_from(prefix.len() + 1).unwrap_or(i64::MAX);
                let (start, prefix) = (text.arg(start), text.arg(prefix));
                let (there, its) = (other.there(text), condition(filter, other, text));
                // What is looked up by id must be of the type that was asked for.
                format!(
                    "exists (select 1 from resource {target} where {target}.id = substr({rows}.value, cast({start} as integer))
                     and {rows}.value = {prefix} || {target}.id and {there} and {its})"
                )
            };
            let parameter = text.arg(number(about.kind, parameter));
            let any = either(to.iter().map(|target| one(target, text)).collect());
            format!(
                "exists (select 1 from search_index {rows} where {rows}.resource = {name}.number
                 and {rows}.parameter = {parameter}{any})"
            )
        }
        Filter::Has { source, name: parameter, its } => {
            let other = About { kind: *source, depth: about.depth + 1, ..about };
            let by = other.name();
            let parameter = text.arg(number(*source, parameter));
            let prefix = text.arg(format!("{}/", about.kind));
            let (there, its) = (other.there(text), condition(its, other, text));
            format!(
                "exists (select 1 from search_index {rows} join resource {by} on {by}.number = {rows}.resource
                 where {rows}.parameter = {parameter} and {rows}.found = 1
                 and {rows}.value = {prefix} || {name}.id
                 and {there} and {its})"
            )
        }
        Filter::Any(ways) => {
            let any: Vec<String> = ways.iter().map(|all| format!("(1 = 1{})", every(all, about, text))).collect();
            if any.is_empty() { "1 = 0".to_string() } else { format!("({})", any.join(" or ")) }
        }
    }
}

/// ` and …` for each of these conditions.
pub(in crate::store) fn every(filters: &[Filter], about: About<'_>, text: &mut Text) -> String {
    filters.iter().map(|filter| format!(" and {}", condition(filter, about, text))).collect()
}

/// The same condition as the list of those who satisfy it; for filters of which [`super::plan`] knows that the list is
/// short.
pub(super) fn listed(filter: &Filter, about: About<'_>, text: &mut Text) -> String {
    let (name, rows) = (about.name(), about.rows());
    let its = match filter {
        Filter::Indexed { name: parameter, test, not: false } => {
            let parameter = text.arg(number(about.kind, parameter));
            format!("{rows}.parameter = {parameter}{}", test_of(test, &rows, text).1)
        }
        Filter::Refers { names, to } => refers(about.kind, names, to, &rows, text),
        Filter::Ids(_)
        | Filter::Updated(..)
        | Filter::Indexed { .. }
        | Filter::Chain { .. }
        | Filter::Has { .. }
        | Filter::Any(_) => {
            return condition(filter, about, text);
        }
    };
    format!("{name}.number in (select {rows}.resource from search_index {rows} where {rows}.found = 1 and {its})")
}

fn refers(kind: ResourceType, names: &[&'static str], to: &str, rows: &str, text: &mut Text) -> String {
    let (names, to) = (text.parameters(kind, names), text.arg(indexable(to)));
    format!("{rows}.parameter in ({names}) and {rows}.value = {to}")
}

/// ` and …` of one index row, and whether such a row must be there.
pub(super) fn test_of(test: &Test, rows: &str, text: &mut Text) -> (bool, String) {
    let sql = match test {
        Test::Present(wanted) => return (*wanted, String::new()),
        Test::Tokens(list) => either(of_tokens(list, rows, text)),
        Test::Pairs(list) => either(list.iter().map(|pair| of_pair(pair, rows, text)).collect()),
        Test::References(list) | Test::Is(list) => {
            let list: Vec<&str> = list.iter().map(|value| indexable(value)).collect();
            format!(" and {rows}.value in ({})", text.any_of(&list))
        }
        Test::Exact(list) => {
            let list: Vec<&str> = list.iter().map(|value| indexable(value)).collect();
            format!(" and {rows}.system in ({})", text.any_of(&list))
        }
        Test::Begins(list) => either(list.iter().map(|part| like(&format!("{rows}.value"), part, "", text)).collect()),
        Test::Contains(list) => {
            either(list.iter().map(|part| like(&format!("{rows}.value"), part, "%", text)).collect())
        }
        Test::Says(list) => either(list.iter().map(|part| like(&format!("{rows}.text"), part, "%\n", text)).collect()),
        Test::Below(list) => {
            either(list.iter().map(|uri| begins(&format!("{rows}.value"), &text.arg(indexable(uri)))).collect())
        }
        Test::Above(list) => {
            either(list.iter().map(|uri| begins(&text.arg(indexable(uri)), &format!("{rows}.value"))).collect())
        }
        Test::Dates(list) => {
            let (low, high) = (format!("{rows}.low"), format!("{rows}.high"));
            // Dates have no value; saying so lets their own, smaller index answer.
            let one = |(prefix, from, to): &(Prefix, i64, i64), text: &mut Text| {
                format!("{rows}.value = '' and {}", span(*prefix, (&low, &high), (*from, *to), 0, text))
            };
            either(list.iter().map(|date| one(date, text)).collect())
        }
        Test::Amounts(list) => either(list.iter().map(|amount| of_amount(amount, rows, text)).collect()),
    };
    (true, sql)
}

/// Many codes of one system are one list.
fn of_tokens(list: &[Token], rows: &str, text: &mut Text) -> Vec<String> {
    let mut systems: Vec<(Option<&str>, Vec<&Token>)> = Vec::new();
    for token in list {
        let system = token.system.as_deref();
        let same = |group: &[&Token]| token.code.is_some() && group.iter().all(|other| other.code.is_some());
        match systems.iter_mut().find(|(known, group)| *known == system && same(group)) {
            Some((_, group)) => group.push(token),
            None => systems.push((system, vec![token])),
        }
    }
    let one = |group: &[&Token], text: &mut Text| match group {
        [one] => of_token(one, rows, text),
        many => {
            let codes: Vec<&str> = many.iter().filter_map(|token| token.code.as_deref()).map(indexable).collect();
            let system = many.first().map(|one| Token { code: None, system: one.system.clone() });
            let system = system.map(|system| of_token(&system, rows, text)).unwrap_or_default();
            format!("{rows}.value in ({}) and {system}", text.any_of(&codes))
        }
    };
    systems.iter().map(|(_, group)| one(group, text)).collect()
}

fn of_token(token: &Token, rows: &str, text: &mut Text) -> String {
    let mut parts = Vec::new();
    if let Some(code) = &token.code {
        parts.push(format!("{rows}.value = {}", text.arg(indexable(code))));
    }
    if let Some(system) = &token.system {
        parts.push(format!("{rows}.system = {}", text.arg(indexable(system))));
    }
    if parts.is_empty() { "1 = 1".to_string() } else { parts.join(" and ") }
}

/// Both halves of a composite's value and system, as far as they are asked for.
fn of_pair((one, other): &(Token, Token), rows: &str, text: &mut Text) -> String {
    let mut halves = |column: &str, one: Option<&String>, other: Option<&String>| {
        let column = format!("{rows}.{column}");
        match (one, other) {
            (Some(one), Some(other)) => {
                let both = format!("{one}{SEPARATOR}{other}");
                Some(format!("{column} = {}", text.arg(indexable(&both))))
            }
            (Some(one), None) => Some(begins(&column, &text.arg(format!("{one}{SEPARATOR}")))),
            (None, Some(other)) => {
                let end = text.arg(format!("{SEPARATOR}{other}"));
                Some(format!("substr({column}, length({column}) - length({end}) + 1) = {end}"))
            }
            (None, None) => None,
        }
    };
    let codes = halves("value", one.code.as_ref(), other.code.as_ref());
    let systems = halves("system", one.system.as_ref(), other.system.as_ref());
    let parts: Vec<String> = codes.into_iter().chain(systems).collect();
    if parts.is_empty() { "1 = 1".to_string() } else { parts.join(" and ") }
}

fn of_amount(amount: &Amount, rows: &str, text: &mut Text) -> String {
    let (low, high) = (format!("{rows}.low"), format!("{rows}.high"));
    let mut sql = span(amount.prefix, (&low, &high), (amount.from, amount.to), 0, text);
    if let Some(system) = &amount.system {
        sql.push_str(&format!(" and {rows}.system = {}", text.arg(indexable(system))));
    }
    if let Some(unit) = &amount.unit {
        sql.push_str(&format!(" and {rows}.value = {}", text.arg(indexable(unit))));
    }
    sql
}

fn either(parts: Vec<String>) -> String {
    let joined: Vec<String> = parts.into_iter().map(|part| format!("({part})")).collect();
    if joined.is_empty() { " and 1 = 0".to_string() } else { format!(" and ({})", joined.join(" or ")) }
}

/// Whether one text begins with another, to the letter on both databases (`like` is not).
fn begins(whole: &str, start: &str) -> String {
    format!("substr({whole}, 1, length({start})) = {start}")
}

fn like(column: &str, part: &str, before: &str, text: &mut Text) -> String {
    let escaped = indexable(part).replace('!', "!!").replace('%', "!%").replace('_', "!_");
    format!("{column} like {} escape '!'", text.arg(format!("{before}{escaped}%")))
}

/// [`Prefix::holds`] in SQL; `less` is what the end column lacks.
fn span(prefix: Prefix, (low, high): (&str, &str), (from, to): (i64, i64), less: i64, text: &mut Text) -> String {
    let ends = to.saturating_sub(less);
    let contained = |text: &mut Text| format!("({low} >= {} and {high} <= {})", text.arg(from), text.arg(ends));
    match prefix {
        Prefix::Eq => contained(text),
        Prefix::Ne => format!("not {}", contained(text)),
        Prefix::Gt => format!("{high} > {}", text.arg(ends)),
        Prefix::Lt => format!("{low} < {}", text.arg(from)),
        // An instant that lies in the asked span lies after its start: one comparison, which an index answers.
        Prefix::Ge if less == 1 => format!("{low} >= {}", text.arg(from)),
        Prefix::Le if less == 1 => format!("{low} < {}", text.arg(to)),
        Prefix::Ge => format!("({high} > {} or {})", text.arg(ends), contained(text)),
        Prefix::Le => format!("({low} < {} or {})", text.arg(from), contained(text)),
        Prefix::Sa => format!("{low} >= {}", text.arg(to)),
        Prefix::Eb => format!("{high} <= {}", text.arg(from.saturating_sub(less))),
        Prefix::Ap => format!("({low} < {} and {high} > {})", text.arg(to), text.arg(from.saturating_sub(less))),
    }
}
