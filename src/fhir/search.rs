//! A search as the client asked it: query text becomes a typed [`Query`] or a 400 that says which parameter is wrong.
//!
//! Unknown parameters are ignored and left out of the self link, or refused when the client asks for
//! `handling=strict`; unknown modifiers are always refused (design D16). Leaves out how it is answered (store).
//! <https://hl7.org/fhir/R4/search.html>

use super::reference::{Reference, split_absolute};
use super::resource::ResourceType;
use super::search_index::{Parameter, ParameterType, Row, canonical_reference, fold, parameter};
use crate::error::Error;
use crate::id;
use crate::time::{Timestamp, span_of};

/// Entries of a page unless the client asks otherwise (design D16a).
pub const DEFAULT_PAGE: usize = 200;
/// Most entries of a page.
pub const MAX_PAGE: usize = 1_000;
/// Most values of one query, commas included.
const MAX_VALUES: usize = 500;

/// How a date compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// The spans are the same or the value's contains the resource's.
    Eq,
    /// Not `Eq`.
    Ne,
    /// Later.
    Gt,
    /// Earlier.
    Lt,
    /// Later or equal.
    Ge,
    /// Earlier or equal.
    Le,
}

/// A token to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `Some("")` means "has no system", `None` any.
    pub system: Option<String>,
    /// `None` means any code of the system.
    pub code: Option<String>,
}

/// What one parameter asks for; the items of a list are alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// One of these tokens.
    Tokens(Vec<Token>),
    /// One of these references, in the form of the index.
    References(Vec<String>),
    /// One of these dates: prefix, start, end.
    Dates(Vec<(Prefix, i64, i64)>),
    /// Begins with one of these, folded.
    Begins(Vec<String>),
    /// Contains one of these, folded.
    Contains(Vec<String>),
    /// Is one of these: uris, and strings with `:exact` (compared folded).
    Is(Vec<String>),
    /// Has a value at all (false: has none).
    Present(bool),
}

/// One condition; a query's conditions must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `_id`
    Ids(Vec<String>),
    /// `_lastUpdated`
    Updated(Prefix, i64, i64),
    /// Any indexed parameter; `not` also finds resources without a value.
    Indexed {
        /// The parameter's name.
        name: &'static str,
        /// What it asks for.
        test: Test,
        /// `:not`
        not: bool,
    },
}

/// What the results are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Creation; an unchanging key, so that pages don't shift (design D16a).
    Created,
    /// `_lastUpdated`
    Updated,
    /// A parameter of type date.
    Date(&'static str),
    /// A parameter of type string, token, uri or reference.
    Value(&'static str),
}

/// `_include`: from a reference parameter, optionally to one type only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The reference parameter of the matches.
    pub name: &'static str,
    /// Only targets of this type.
    pub target: Option<ResourceType>,
}

/// Where the next page begins; made of an unchanging or time key and an id, never of health data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The order key of the last entry: microseconds, or 0 where the store looks it up by the id.
    pub key: i64,
    /// The id of the last entry.
    pub id: String,
}

impl Cursor {
    /// The opaque form in a link.
    pub fn to_text(&self) -> String {
        format!("{:x}.{}", self.key, self.id)
    }
    fn parse(text: &str) -> Option<Self> {
        let (key, id) = text.split_once('.')?;
        let key = i64::from_str_radix(key, 16).ok()?;
        id::is_valid(id).then(|| Cursor { key, id: id.to_string() })
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The type searched.
    pub kind: ResourceType,
    /// All must hold.
    pub filters: Vec<Filter>,
    /// The order of the results.
    pub order: Order,
    /// Newest or largest first.
    pub descending: bool,
    /// Most matches of a page; 0 asks for the total alone.
    pub count: usize,
    /// Where the page begins.
    pub cursor: Option<Cursor>,
    /// What to add to the page.
    pub includes: Vec<Include>,
    /// Whether the total was asked for.
    pub total: bool,
    /// The parameters that were used, for the self link.
    pub used: Vec<(String, String)>,
}

/// Reads a query. `own` is this server's base.
pub fn parse(kind: ResourceType, pairs: &[(String, String)], own: &str, strict: bool) -> Result<Query, Error> {
    let mut query = Query {
        kind,
        filters: Vec::new(),
        order: Order::Created,
        descending: true,
        count: DEFAULT_PAGE,
        cursor: None,
        includes: Vec::new(),
        total: false,
        used: Vec::new(),
    };
    let mut values = 0;
    for (name, value) in pairs {
        values += 1 + value.matches(',').count();
        if values > MAX_VALUES {
            return Err(Error::malformed("This search has too many values.").code("too-costly"));
        }
        if value.is_empty() {
            continue;
        }
        if apply(&mut query, name, value, own)? {
            query.used.push((name.clone(), value.clone()));
        } else if strict {
            return Err(unknown(kind, name));
        }
    }
    Ok(query)
}

fn unknown(kind: ResourceType, name: &str) -> Error {
    let shown: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_:.".contains(*c)).take(64).collect();
    Error::malformed(format!("{kind} has no search parameter “{shown}” here; /metadata lists them."))
        .code("not-supported")
}

fn bad(name: &str, what: &str) -> Error {
    Error::malformed(format!("The search parameter {name} {what}")).code("value")
}

/// Puts one parameter into the query; false when it is unknown.
fn apply(query: &mut Query, written: &str, value: &str, own: &str) -> Result<bool, Error> {
    let (name, modifier) = match written.split_once(':') {
        Some((name, modifier)) => (name, Some(modifier)),
        None => (written, None),
    };
    match name {
        "_id" => query.filters.push(Filter::Ids(split(value))),
        "_lastUpdated" | "_lastupdated" => {
            let (prefix, low, high) = instant_value(value).ok_or_else(|| bad(name, "is no date."))?;
            query.filters.push(Filter::Updated(prefix, low, high));
        }
        "_count" => {
            query.count = value.parse::<usize>().map_err(|_| bad(name, "is no number."))?.min(MAX_PAGE);
            query.total |= query.count == 0;
        }
        "_summary" => match value {
            "count" => (query.count, query.total) = (0, true),
            "false" => {}
            _ => return Ok(false),
        },
        "_total" => query.total |= value == "accurate",
        "_page" => query.cursor = Some(Cursor::parse(value).ok_or_else(|| bad(name, "is not one of our links."))?),
        "_sort" => return Ok(sort(query, value)),
        "_include" => return include(query, value),
        "_format" | "_pretty" => {}
        _ => {
            let Some(parameter) = parameter(query.kind, name) else { return Ok(false) };
            query.filters.push(filter(parameter, modifier, value, own)?);
            return Ok(true);
        }
    }
    match modifier {
        Some("iterate") if name == "_include" => Ok(true),
        Some(_) => Err(bad(name, "takes no such modifier.")),
        None => Ok(true),
    }
}

fn sort(query: &mut Query, value: &str) -> bool {
    // One key decides; what a client puts behind it would only order equal keys, which the id already does.
    let key = value.split(',').next().unwrap_or(value);
    let (name, descending) = key.strip_prefix('-').map_or((key, false), |name| (name, true));
    let order = match (name, parameter(query.kind, name)) {
        ("_lastUpdated", _) => Order::Updated,
        (_, Some(parameter)) if parameter.kind == ParameterType::Date => Order::Date(parameter.name),
        (_, Some(parameter)) => Order::Value(parameter.name),
        _ => return false,
    };
    (query.order, query.descending) = (order, descending);
    true
}

fn include(query: &mut Query, value: &str) -> Result<bool, Error> {
    let mut parts = value.split(':');
    let (kind, name, target) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    // The guide's own statement spells HealthcareService with a capital C (gravity §4.2).
    if !kind.eq_ignore_ascii_case(query.kind.name()) {
        return Ok(false);
    }
    let Some(parameter) = parameter(query.kind, name).filter(|known| known.kind == ParameterType::Reference) else {
        return Ok(false);
    };
    let target = match target {
        None => None,
        Some(name) => Some(ResourceType::parse(name).ok_or_else(|| bad("_include", "names a type we don't know."))?),
    };
    query.includes.push(Include { name: parameter.name, target });
    Ok(true)
}

fn filter(parameter: &'static Parameter, modifier: Option<&str>, value: &str, own: &str) -> Result<Filter, Error> {
    let name = parameter.name;
    let indexed = |test| Ok(Filter::Indexed { name, test, not: false });
    match (modifier, parameter.kind) {
        (Some("missing"), _) => match value {
            "true" => indexed(Test::Present(false)),
            "false" => indexed(Test::Present(true)),
            _ => Err(bad(name, "with :missing takes true or false.")),
        },
        (None, ParameterType::Token) => indexed(Test::Tokens(split(value).iter().map(|text| token(text)).collect())),
        (Some("not"), ParameterType::Token) => {
            let test = Test::Tokens(split(value).iter().map(|text| token(text)).collect());
            Ok(Filter::Indexed { name, test, not: true })
        }
        (None, ParameterType::Reference) => {
            let found = split(value).iter().flat_map(|text| references(parameter, text, own)).collect();
            indexed(Test::References(found))
        }
        (Some(modifier), ParameterType::Reference) => {
            let kind = ResourceType::parse(modifier).ok_or_else(|| bad(name, "takes no such modifier."))?;
            indexed(Test::References(split(value).iter().map(|id| format!("{kind}/{id}")).collect()))
        }
        (None, ParameterType::Date) => {
            let dates: Option<Vec<_>> = split(value).iter().map(|text| date_value(text)).collect();
            indexed(Test::Dates(dates.ok_or_else(|| bad(name, "is no date."))?))
        }
        (None, ParameterType::Text) => indexed(Test::Begins(split(value).iter().map(|text| fold(text)).collect())),
        (Some("contains"), ParameterType::Text) => {
            indexed(Test::Contains(split(value).iter().map(|text| fold(text)).collect()))
        }
        (Some("exact"), ParameterType::Text) => indexed(Test::Is(split(value).iter().map(|text| fold(text)).collect())),
        (None, ParameterType::Uri) => indexed(Test::Is(split(value))),
        (Some(_), _) => Err(bad(name, "takes no such modifier.")),
    }
}

/// Splits at commas that are not escaped, and takes the escapes off.
fn split(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => parts.push(String::new()),
            '\\' => parts.last_mut().into_iter().for_each(|part| part.extend(characters.next())),
            other => parts.last_mut().into_iter().for_each(|part| part.push(other)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn token(text: &str) -> Token {
    match text.split_once('|') {
        None => Token { system: None, code: Some(text.to_string()) },
        Some((system, code)) => {
            Token { system: Some(system.to_string()), code: (!code.is_empty()).then(|| code.to_string()) }
        }
    }
}

fn references(parameter: &Parameter, text: &str, own: &str) -> Vec<String> {
    match Reference::parse(text, own) {
        Reference::Other(id) if id::is_valid(&id) => {
            parameter.targets.iter().map(|target| format!("{target}/{id}")).collect()
        }
        _ => vec![canonical_reference(text, own)],
    }
}

fn prefixed(text: &str) -> (Prefix, &str) {
    for (code, prefix) in [
        ("eq", Prefix::Eq),
        ("ne", Prefix::Ne),
        ("gt", Prefix::Gt),
        ("lt", Prefix::Lt),
        ("ge", Prefix::Ge),
        ("le", Prefix::Le),
        ("sa", Prefix::Gt),
        ("eb", Prefix::Lt),
    ] {
        if let Some(rest) = text.strip_prefix(code) {
            return (prefix, rest);
        }
    }
    (Prefix::Eq, text)
}

fn date_value(text: &str) -> Option<(Prefix, i64, i64)> {
    let (prefix, rest) = prefixed(text);
    let (low, high) = span_of(rest)?;
    Some((prefix, low.0, high.0))
}

/// A `_lastUpdated` value. With a time of day it is the instant itself, not the second it lies in: a poller that
/// asks for what came after the last thing it saw must never lose what came later in the same second.
fn instant_value(text: &str) -> Option<(Prefix, i64, i64)> {
    let (prefix, low, high) = date_value(text)?;
    let has_time = text.contains('T');
    Some(match prefix {
        Prefix::Gt if has_time => (prefix, low, low + 1),
        _ => (prefix, low, high),
    })
}

impl Prefix {
    /// Whether a resource's span compares so with the asked one.
    pub fn holds(self, (low, high): (i64, i64), (from, to): (i64, i64)) -> bool {
        match self {
            Prefix::Eq => from <= low && high <= to,
            Prefix::Ne => !(from <= low && high <= to),
            Prefix::Gt => high > to,
            Prefix::Lt => low < from,
            Prefix::Ge => high > from,
            Prefix::Le => low < to,
        }
    }
}

/// The absolute URLs of other servers that a query's references name, so that they can be looked up among the
/// copies.
pub fn foreign_references(query: &Query) -> Vec<String> {
    let mut found = Vec::new();
    for filter in &query.filters {
        if let Filter::Indexed { test: Test::References(list), .. } = filter {
            found.extend(list.iter().filter(|text| split_absolute(text).is_some()).cloned());
        }
    }
    found
}

/// Whether a resource with these index rows satisfies a condition: what the store answers in SQL, answered for one
/// resource in memory (subscription filters).
pub fn satisfies(filter: &Filter, id: &str, updated: Timestamp, rows: &[Row]) -> bool {
    match filter {
        Filter::Ids(ids) => ids.iter().any(|wanted| wanted == id),
        Filter::Updated(prefix, from, to) => prefix.holds((updated.0, updated.0 + 1), (*from, *to)),
        Filter::Indexed { name, test, not } => {
            let mine: Vec<&Row> = rows.iter().filter(|row| row.parameter == *name).collect();
            let any = |holds: &dyn Fn(&Row) -> bool| mine.iter().any(|row| holds(row));
            let found = match test {
                Test::Present(wanted) => mine.is_empty() != *wanted,
                Test::Tokens(list) => any(&|row| {
                    list.iter().any(|token| {
                        token.system.as_ref().is_none_or(|system| *system == row.system)
                            && token.code.as_ref().is_none_or(|code| *code == row.value)
                    })
                }),
                Test::References(list) | Test::Is(list) => any(&|row| list.contains(&row.value)),
                Test::Begins(list) => any(&|row| list.iter().any(|text| row.value.starts_with(text))),
                Test::Contains(list) => any(&|row| list.iter().any(|text| row.value.contains(text))),
                Test::Dates(list) => {
                    any(&|row| list.iter().any(|(prefix, from, to)| prefix.holds((row.low, row.high), (*from, *to))))
                }
            };
            found != *not
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::{Resource, search_index};
    use proptest::prelude::*;
    use serde_json::json;

    const OWN: &str = "https://hub/fhir";

    fn ask(text: &str, strict: bool) -> Result<Query, Error> {
        let pairs: Vec<(String, String)> = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        parse(ResourceType::TASK, &pairs, OWN, strict)
    }

    fn finds(text: &str) -> bool {
        let task = Resource::from_value(
            json!({"resourceType":"Task","status":"requested","owner":{"reference":"Organization/o1"},
            "for":{"reference":"Patient/p1"},"authoredOn":"2026-03-01T10:00:00Z",
            "identifier":[{"system":"s","value":"a,b"}],"code":{"coding":[{"system":"t","code":"fulfill"}]}}),
        )
        .unwrap();
        let rows = search_index::rows(&task, OWN);
        let updated = Timestamp::parse("2026-03-01T10:00:00.5Z").unwrap();
        ask(text, true).unwrap().filters.iter().all(|filter| satisfies(filter, "t1", updated, &rows))
    }

    // G-136, R-107
    #[test]
    fn references_are_found_in_every_spelling_clients_use() {
        for text in [
            "owner=Organization/o1",
            "owner=o1",
            "owner=https://hub/fhir/Organization/o1",
            "owner:Organization=o1",
            "subject=p1",
            "patient=Patient/p1",
            "owner=Organization/x,Organization/o1",
        ] {
            assert!(finds(text), "{text}");
        }
        for text in ["owner=Organization/o2", "owner=https://other/fhir/Organization/o1", "patient=p2"] {
            assert!(!finds(text), "{text}");
        }
    }

    // G-137
    #[test]
    fn tokens_follow_the_bar_rules_and_not_finds_the_rest() {
        for text in [
            "code=fulfill",
            "code=t|fulfill",
            "code=t|",
            "identifier=s|a\\,b",
            "status:not=draft",
            "status=draft,requested",
            "owner:missing=false",
            "output:missing=true",
            "business-status:not=closed",
        ] {
            assert!(finds(text), "{text}");
        }
        for text in ["code=|fulfill", "code=u|fulfill", "status:not=requested", "owner:missing=true"] {
            assert!(!finds(text), "{text}");
        }
    }

    // G-136, G-195
    #[test]
    fn a_poller_never_loses_the_rest_of_a_second() {
        // the resource is at …10:00:00.5
        for text in [
            "_lastUpdated=gt2026-03-01T10:00:00Z",
            "_lastUpdated=ge2026-03-01T10:00:00.5Z",
            "_lastupdated=gt2026-03-01T05:00:00.4 -05:00".replace(' ', "").as_str(),
            "_lastUpdated=2026-03-01",
            "_lastUpdated=lt2026-03-02",
            "authored-on=ge2026-03-01",
            "authored-on=2026-03",
            "authored-on=lt2026-04",
        ] {
            assert!(finds(text), "{text}");
        }
        for text in [
            "_lastUpdated=gt2026-03-01T10:00:00.5Z",
            "_lastUpdated=gt2026-03-01",
            "_lastUpdated=lt2026-03-01",
            "authored-on=gt2026-03-01T10:00:00Z",
        ] {
            assert!(!finds(text), "{text}");
        }
    }

    #[test]
    fn unknown_parameters_are_ignored_unless_strict_and_unknown_modifiers_never() {
        assert_eq!(
            ask("colour=red&status=requested", false).unwrap().used,
            [("status".to_string(), "requested".to_string())]
        );
        assert_eq!(ask("colour=red", true).unwrap_err().kind, crate::error::Kind::Malformed);
        for text in ["status:above=x", "owner:identifier=x", "_id:exact=1", "authored-on=gtsoon", "_count=x", "_page=x"]
        {
            assert!(ask(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn order_page_and_includes_are_read() {
        let query = ask(
            "_sort=-_lastUpdated&_count=5000&_include=Task:focus&_include=Task:output:Procedure&_include=Task:code",
            false,
        )
        .unwrap();
        assert_eq!((query.order, query.descending, query.count), (Order::Updated, true, MAX_PAGE));
        assert_eq!(query.includes.len(), 2);
        assert!(ask("_count=0", false).unwrap().total);
        assert_eq!(ask("_sort=authored-on", false).unwrap().order, Order::Date("authored-on"));
        let cursor = Cursor { key: 5, id: "abc".into() };
        assert_eq!(ask(&format!("_page={}", cursor.to_text()), false).unwrap().cursor, Some(cursor));
    }

    proptest! {
        #[test]
        fn any_query_text_never_panics(name in "[a-zA-Z_:.-]{0,20}", value in "\\PC{0,40}") {
            let _ = parse(ResourceType::TASK, &[(name, value)], OWN, true);
        }

        #[test]
        fn the_index_finds_what_it_indexed(code in "[a-z0-9-]{1,12}", id in "[A-Za-z0-9.-]{1,20}") {
            let task = Resource::from_value(json!({"resourceType":"Task","status":code,"focus":{"reference":format!("ServiceRequest/{id}")}})).unwrap();
            let rows = search_index::rows(&task, OWN);
            for (name, value) in [("status", code.clone()), ("focus", format!("ServiceRequest/{id}")), ("focus", id.clone())] {
                let query = parse(ResourceType::TASK, &[(name.into(), value)], OWN, true).unwrap();
                prop_assert!(query.filters.iter().all(|filter| satisfies(filter, "x", Timestamp(0), &rows)));
            }
        }
    }
}
