//! Reading a TOML tree so that every fault is found in one go, each with its line and key.
//!
//! serde stops at the first fault; a person who edits a file over ssh wants all of them. Each getter notes the key as known, records what
//! is wrong and hands back a default, and [`Table::finish`] complains about every key nobody asked for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line, from 1; 0 when the fault is about the file as a whole.
    pub line: usize,
    /// Dotted key, as in `destination[0].url`; may be empty.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// The text being read and what was found wrong so far.
pub struct Report<'t> {
    text: &'t str,
    faults: RefCell<Vec<Fault>>,
    /// Credentials that only systemd can give are taken on trust: the file is being checked from a shell.
    pub trust_credentials: bool,
}

impl<'t> Report<'t> {
    pub fn new(text: &'t str, trust_credentials: bool) -> Self {
        Self { text, faults: RefCell::default(), trust_credentials }
    }

    pub fn add(&self, at: usize, key: impl Into<String>, message: impl Into<String>) {
        let line = self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
        self.faults.borrow_mut().push(Fault { line, key: key.into(), message: message.into() });
    }

    /// All faults, in the order of the file.
    pub fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort();
        faults.dedup();
        faults
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub at: usize,
    pub key: String,
}

/// A table being read.
pub struct Table<'r, 't, 'v> {
    report: &'r Report<'t>,
    path: String,
    pub at: usize,
    table: Option<&'v DeTable<'t>>,
    known: RefCell<BTreeSet<&'static str>>,
    taken: Cell<bool>,
}

impl<'r, 't, 'v> Table<'r, 't, 'v> {
    pub fn root(report: &'r Report<'t>, table: &'v DeTable<'t>) -> Self {
        Self { report, path: String::new(), at: 0, table: Some(table), known: RefCell::default(), taken: Cell::default() }
    }

    /// The dotted name of one of this table's keys.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Records a fault of the table as a whole.
    pub fn fault(&self, message: impl Into<String>) {
        self.report.add(self.at, self.path.clone(), message);
    }

    /// Records a fault of a value.
    pub fn fault_at<T>(&self, value: &At<T>, message: impl Into<String>) {
        self.report.add(value.at, value.key.clone(), message);
    }

    /// Records a fault of one of the table's own keys, whatever its value is.
    pub fn fault_of(&self, key: &'static str, message: impl Into<String>) {
        let at = self.raw(key).map_or(self.at, |v| v.span().start);
        self.report.add(at, self.path(key), message);
    }

    pub fn report(&self) -> &'r Report<'t> {
        self.report
    }

    fn raw(&self, key: &'static str) -> Option<&'v Spanned<DeValue<'t>>> {
        self.known.borrow_mut().insert(key);
        self.table?.get(key)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.report.add(value.span().start, self.path(key), format!("must be {wanted}, not {}", article(found)));
    }

    pub fn has(&self, key: &'static str) -> bool {
        self.raw(key).is_some()
    }

    pub fn is_table(&self, key: &'static str) -> bool {
        self.raw(key).is_some_and(|v| v.get_ref().is_table())
    }

    /// Whether it is a list without a single item, good or bad.
    pub fn has_empty_list(&self, key: &'static str) -> bool {
        self.raw(key).and_then(|v| v.get_ref().as_array()).is_some_and(|list| list.is_empty())
    }

    pub fn text(&self, key: &'static str) -> Option<At<String>> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::String(s) => Some(At { value: s.to_string(), at: value.span().start, key: self.path(key) }),
            _ => {
                self.wrong(key, value, "a text");
                None
            }
        }
    }

    /// A text that may not be empty.
    pub fn name(&self, key: &'static str) -> Option<At<String>> {
        let text = self.text(key)?;
        if text.value.trim().is_empty() {
            self.fault_at(&text, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// A text without which the table makes no sense.
    pub fn required(&self, key: &'static str) -> Option<At<String>> {
        if !self.has(key) {
            self.report.add(self.at, self.path(key), "is missing");
            return None;
        }
        self.name(key)
    }

    pub fn flag(&self, key: &'static str, default: bool) -> bool {
        match self.raw(key) {
            None => default,
            Some(value) => value.get_ref().as_bool().unwrap_or_else(|| {
                self.wrong(key, value, "true or false");
                default
            }),
        }
    }

    pub fn number(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(value) = self.raw(key) else { return default };
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong(key, value, "a whole number");
            return default;
        };
        match u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
            Ok(n) if range.contains(&n) => n,
            _ => {
                let (from, to) = (range.start(), range.end());
                self.report.add(value.span().start, self.path(key), format!("must be from {from} to {to}"));
                default
            }
        }
    }

    /// A list of texts; each with its place.
    pub fn texts(&self, key: &'static str) -> Option<Vec<At<String>>> {
        let value = self.raw(key)?;
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(key, value, "a list of texts");
            return None;
        };
        let mut out = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let key = format!("{}[{index}]", self.path(key));
            match item.get_ref() {
                DeValue::String(s) => out.push(At { value: s.to_string(), at: item.span().start, key }),
                other => self.report.add(item.span().start, key, format!("must be a text, not {}", article(other.type_str()))),
            }
        }
        Some(out)
    }

    /// A table; an empty one when it is absent, so that defaults come from one place.
    pub fn table(&self, key: &'static str) -> Table<'r, 't, 'v> {
        self.table_if_given(key).unwrap_or_else(|| Table {
            report: self.report,
            path: self.path(key),
            at: self.at,
            table: None,
            known: RefCell::default(),
            taken: Cell::default(),
        })
    }

    /// A table whose being there means something; `None` when it is absent or no table.
    pub fn table_if_given(&self, key: &'static str) -> Option<Table<'r, 't, 'v>> {
        let value = self.raw(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key, value, "a table");
            return None;
        };
        Some(Table {
            report: self.report,
            path: self.path(key),
            at: value.span().start,
            table: Some(table),
            known: RefCell::default(),
            taken: Cell::default(),
        })
    }

    /// A list of tables, as `[[key]]` or inline; texts in it are passed to `text`.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'r, 't, 'v>> {
        self.items(key, "a table")
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| match item {
                Item::Table(table) => Some(table),
                Item::Text(text) => {
                    self.fault_at(&text, "must be a table, not a text");
                    None
                }
            })
            .collect()
    }

    /// A list of tables and texts, `wanted` in the words of a fault; `None` when it is absent or no list.
    pub fn items(&self, key: &'static str, wanted: &str) -> Option<Vec<Item<'r, 't, 'v>>> {
        let value = self.raw(key)?;
        let Some(list) = value.get_ref().as_array() else {
            if value.get_ref().is_table() {
                let path = self.path(key);
                self.fault_of(key, format!("must be a list of tables; write [[{path}]], with two brackets"));
            } else {
                self.wrong(key, value, &format!("a list, each item {wanted}"));
            }
            return None;
        };
        let mut out = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let path = format!("{}[{index}]", self.path(key));
            let at = item.span().start;
            match item.get_ref() {
                DeValue::Table(t) => {
                    out.push(Item::Table(Table {
                        report: self.report,
                        path,
                        at,
                        table: Some(t),
                        known: RefCell::default(),
                        taken: Cell::default(),
                    }));
                }
                DeValue::String(s) => out.push(Item::Text(At { value: s.to_string(), at, key: path })),
                other => self.report.add(at, path, format!("must be {wanted}, not {}", article(other.type_str()))),
            }
        }
        Some(out)
    }

    /// All entries of a table whose keys are free, with their raw values.
    pub fn entries(&self) -> Vec<(At<String>, &'v Spanned<DeValue<'t>>)> {
        let Some(table) = self.table else { return Vec::new() };
        table.iter().map(|(k, v)| (At { value: k.get_ref().to_string(), at: k.span().start, key: self.path(k.get_ref()) }, v)).collect()
    }

    /// A table made from one entry of [`Table::entries`], if it is one.
    pub fn entry_table(&self, key: &At<String>, value: &'v Spanned<DeValue<'t>>) -> Option<Table<'r, 't, 'v>> {
        let table = value.get_ref().as_table()?;
        Some(Table {
            report: self.report,
            path: key.key.clone(),
            at: value.span().start,
            table: Some(table),
            known: RefCell::default(),
            taken: Cell::default(),
        })
    }

    /// No key is complained about.
    pub fn take_all(&self) {
        self.taken.set(true);
    }

    /// Complains about every key nobody asked for.
    pub fn finish(&self) {
        if self.taken.get() {
            return;
        }
        let known = self.known.borrow();
        for (key, _) in self.entries() {
            if known.contains(key.value.as_str()) {
                continue;
            }
            let near = known.iter().map(|k| (strsim::damerau_levenshtein(k, &key.value), *k)).min();
            let hint = match near {
                Some((distance, near)) if distance <= 2 || near.starts_with(&key.value) => format!("; did you mean {near}?"),
                _ => format!("; known here: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.report.add(key.at, key.key, format!("there is no such key{hint}"));
        }
    }
}

/// One item of a mixed list.
pub enum Item<'r, 't, 'v> {
    Table(Table<'r, 't, 'v>),
    Text(At<String>),
}

/// TOML's name of a type in the words of the messages.
pub fn article(kind: &str) -> &str {
    match kind {
        "string" => "a text",
        "integer" => "a whole number",
        "float" => "a number with a fraction",
        "boolean" => "true or false",
        "datetime" => "a date or time",
        "array" => "a list",
        _ => "a table",
    }
}
