//! Reading one TOML table: known keys, defaults, references to the environment and to files, and faults that name key
//! and line.
//!
//! Promises: a value that can't be read leaves its fault and gives `None`, so that the reading goes on and every fault
//! is reported at once. Leaves out which settings there are ([`super::settings`]) and what they mean.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::settings::SETTINGS;
use super::values::{distance, fault, fhir_id, read_file, unexpected};

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `partner[1] (hope-foodbank).fhir.base`; empty when the file as a whole is at fault.
    pub key: String,
    /// Counted from 1; 0 when there is none.
    pub line: usize,
    /// What is wrong; never quotes a configured value.
    pub message: String,
}

impl Fault {
    pub(super) fn new(key: &str, line: usize, message: impl Into<String>) -> Fault {
        let (key, message) = (key.to_owned(), message.into());
        Fault { key, line, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// What every section shares.
pub(super) struct Reader<'t> {
    pub(super) text: &'t str,
    pub(super) folder: &'t Path,
    pub(super) faults: RefCell<Vec<Fault>>,
    /// Where lines end: every key asks for its line, and there may be a hundred thousand.
    ends: Vec<usize>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, folder: &'t Path) -> Reader<'t> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset);
        Reader { text, folder, faults: RefCell::default(), ends: ends.collect() }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end < offset)
    }

    pub(super) fn fault(&self, at: &Place, message: impl Into<String>) {
        let fault = Fault::new(&at.key, at.line, message);
        self.faults.borrow_mut().push(fault);
    }

    /// `{ env = "NAME" }` or `{ file = "PATH" }`; `None` for any other table.
    pub(super) fn reference(&self, table: &DeTable<'_>) -> Option<Result<String, String>> {
        let only = |key| table.get(key).filter(|_| table.len() == 1)?.get_ref().as_str();
        if let Some(name) = only("env") {
            // The variable's name is shown, its value never is: not even when it is not Unicode.
            return Some(std::env::var(name).map_err(|_| format!("environment variable {name} is not set")));
        }
        let path = self.folder.join(only("file")?);
        Some(read_file(&path).map(|text| text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// A value's path as people read it, its path in [`SETTINGS`], and its line.
#[derive(Clone, Default)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) schema: String,
    pub(super) line: usize,
}

/// A value and where it begins in the text (`None` for a default).
pub(super) struct Item<'t> {
    pub(super) at: Place,
    pub(super) start: Option<usize>,
    pub(super) value: DeValue<'t>,
}

/// A table being read. Opening one reports its unknown keys; reading a value reports what is wrong with it
/// and then gives `None`, so that the reading goes on.
pub(super) struct Section<'r, 't> {
    pub(super) reader: &'r Reader<'t>,
    pub(super) at: Place,
    pub(super) inline: bool,
    pub(super) table: DeTable<'t>,
}

impl<'r, 't> Section<'r, 't> {
    pub(super) fn open(reader: &'r Reader<'t>, at: Place, inline: bool, table: DeTable<'t>) -> Self {
        let mut section = Section { reader, at, inline, table };
        let id = section.table.get("id").and_then(|id| id.get_ref().as_str());
        if let (true, Some(Ok(id))) = (section.at.schema == "partner", id.map(fhir_id)) {
            // People know a partner by its id, not by its number.
            section.at.key = format!("{} ({id})", section.at.key);
        }
        let path = &section.at.schema;
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let known = SETTINGS.iter().filter_map(|s| s.key.strip_prefix(&prefix)?.split('.').next());
        for key in section.table.keys().map(|key| key.get_ref()) {
            if !known.clone().any(|k| k == key) {
                let nearest = known.clone().map(|k| (distance(key, k), k)).min();
                let hint = nearest.filter(|(d, _)| *d <= 2 && *d < key.len());
                let hint = hint.map_or(String::new(), |(_, k)| format!(" (did you mean {k}?)"));
                section.fault(key, format!("unknown key{hint}"));
            }
        }
        section
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn place(&self, key: &str) -> Place {
        let join = |path: &str| format!("{path}.{key}").trim_start_matches('.').to_owned();
        let written = self.table.get_key_value(key).filter(|_| !self.inline);
        let line = written.map_or(self.at.line, |(k, _)| self.reader.line(k.span().start));
        let (key, schema) = (join(&self.at.key), join(&self.at.schema));
        Place { key, schema, line }
    }

    pub(super) fn fault(&self, key: &str, message: impl Into<String>) {
        self.reader.fault(&self.place(key), message);
    }

    /// The value as written or by default; a fault when it is required and not there.
    pub(super) fn item(&self, key: &str) -> Option<Item<'t>> {
        let at = self.place(key);
        debug_assert!(
            SETTINGS.iter().any(|s| format!("{}.", s.key).starts_with(&format!("{}.", at.schema))),
            "{} has no row",
            at.schema
        );
        if let Some(value) = self.table.get(key) {
            let (start, value) = (Some(value.span().start), value.get_ref().clone());
            return Some(Item { at, start, value });
        }
        let default = SETTINGS.iter().find(|s| s.key == at.schema)?.default;
        if default == "required" {
            self.reader.fault(&at, "is required");
        }
        // `none` and what follows from other settings is not TOML, and no default here.
        let value = DeValue::parse(default).ok()?.into_inner();
        let start = None;
        Some(Item { at, start, value })
    }

    /// `direct` takes a value as TOML has it, `parse` the text of an environment variable or file.
    pub(super) fn check<T>(
        &self,
        Item { at, value, .. }: Item<'_>,
        expected: &str,
        direct: impl Fn(&DeValue<'_>) -> Option<Result<T, String>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let result = match value.as_table().and_then(|table| self.reader.reference(table)) {
            Some(text) => text.and_then(|text| parse(&text)),
            None => direct(&value).unwrap_or_else(|| Err(unexpected(expected, &value))),
        };
        result.map_err(|message| self.reader.fault(&at, message)).ok()
    }

    pub(super) fn text<T>(&self, item: Item<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.check(item, "a string", |v| v.as_str().map(&parse), &parse)
    }

    pub(super) fn read<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.text(self.item(key)?, parse)
    }

    pub(super) fn number(&self, key: &str) -> Option<u32> {
        let positive = |text: &str, radix| match u32::from_str_radix(text, radix) {
            Ok(n) if n > 0 => Ok(n),
            _ => fault("must be a positive integer of at most 4294967295"),
        };
        let direct = |v: &DeValue<'_>| v.as_integer().map(|i| positive(i.as_str(), i.radix()));
        self.check(self.item(key)?, "a positive integer", direct, |text| positive(text, 10))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let parse = |text: &str| text.parse().or(fault("must be true or false"));
        self.check(self.item(key)?, "true or false", |v| v.as_bool().map(Ok), parse)
    }

    pub(super) fn items(&self, key: &str, expected: &str) -> Option<Vec<Item<'t>>> {
        let Item { at, start, value } = self.item(key)?;
        let Some(array) = value.as_array() else {
            self.reader.fault(&at, unexpected(expected, &value));
            return None;
        };
        let items = array.iter().enumerate().map(|(i, item)| {
            // A default has no place in the text, and an inline table speaks for all that is in it.
            let start = start.map(|_| item.span().start);
            let own = start.filter(|_| !self.inline);
            let line = own.map_or(at.line, |start| self.reader.line(start));
            let (key, schema) = (format!("{}[{i}]", at.key), at.schema.clone());
            let at = Place { key, schema, line };
            let value = item.get_ref().clone();
            Item { at, start, value }
        });
        Some(items.collect())
    }

    pub(super) fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let items = self.items(key, "an array of strings")?.into_iter();
        // Every element is read before the first bad one makes the list `None`.
        let read: Vec<Option<T>> = items.map(|item| self.text(item, &parse)).collect();
        read.into_iter().collect()
    }

    pub(super) fn tables(&self, key: &str) -> Vec<Section<'r, 't>> {
        let items = self.items(key, "an array of tables").unwrap_or_default();
        items.into_iter().filter_map(|item| self.section(item)).collect()
    }

    pub(super) fn table(&self, key: &str) -> Option<Section<'r, 't>> {
        self.section(self.item(key)?)
    }

    /// The table, or an empty one, in which everything has its default.
    pub(super) fn within(&self, key: &str) -> Section<'r, 't> {
        let (at, empty) = (self.place(key), DeTable::new());
        self.table(key).unwrap_or_else(|| Section::open(self.reader, at, self.inline, empty))
    }

    pub(super) fn section(&self, Item { mut at, start, value }: Item<'t>) -> Option<Section<'r, 't>> {
        let text = self.reader.text.as_bytes();
        let braces = start.filter(|start| text.get(*start) == Some(&b'{'));
        if let Some(start) = braces {
            at.line = self.reader.line(start);
        }
        let inline = self.inline || braces.is_some();
        let DeValue::Table(table) = value else {
            self.reader.fault(&at, unexpected("a table", &value));
            return None;
        };
        Some(Section::open(self.reader, at, inline, table))
    }

    /// A fault when the value stands elsewhere too; `seen` maps values to where they were first.
    pub(super) fn unique(&self, seen: &mut BTreeMap<String, String>, key: &str, value: String) {
        self.unique_at(seen, &self.place(key), value);
    }

    /// The same of one item of a list.
    pub(super) fn unique_at(&self, seen: &mut BTreeMap<String, String>, at: &Place, value: String) {
        if let Some(first) = seen.get(&value) {
            self.reader.fault(at, format!("must differ from {first}"));
        } else {
            seen.insert(value, at.key.clone());
        }
    }
}
