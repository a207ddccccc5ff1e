//! A table of the config file that may occur several times, such as `[[module]]`: reads its keys, and collects everything that is wrong.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table while it is read.
pub(super) struct Table<'t> {
    /// The line of its header.
    pub(super) line: usize,
    keys: BTreeMap<&'t str, (usize, &'t DeValue<'t>)>,
    line_of: &'t dyn Fn(usize) -> usize,
    has_unknown_key: bool,
    /// Lines with a reason why they are wrong.
    pub(super) faults: Vec<(usize, String)>,
}

impl<'t> Table<'t> {
    /// Finds the known keys of a table.
    pub(super) fn new(
        table: &'t DeTable<'t>,
        line: usize,
        known: &[&str],
        line_of: &'t dyn Fn(usize) -> usize,
    ) -> Self {
        let mut read =
            Self { line, keys: BTreeMap::new(), line_of, has_unknown_key: false, faults: Vec::new() };
        for (key, value) in table {
            let (name, line) = (key.get_ref().as_ref(), line_of(key.span().start));
            if known.contains(&name) {
                read.keys.insert(name, (line, value.get_ref()));
            } else {
                read.has_unknown_key = true;
                read.faults.push((line, unknown(name, known.iter().copied())));
            }
        }
        read
    }

    /// Returns the line of a key. `None` if the key is not set.
    pub(super) fn line_of_key(&self, key: &str) -> Option<usize> {
        self.keys.get(key).map(|(line, _)| *line)
    }

    /// Reads a string. A wrong value counts as not set.
    pub(super) fn text<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (line, value) = *self.keys.get(key)?;
        self.parsed(line, value, &parse)
    }

    /// Reads a string that must be there.
    pub(super) fn required<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if !self.keys.contains_key(key) {
            self.incomplete(&format!("the key {key} is missing"));
        }
        self.text(key, parse)
    }

    /// Reads a string or a whole number.
    pub(super) fn scalar<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (line, value) = *self.keys.get(key)?;
        let text = match value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            _ => None,
        };
        let text = text.ok_or_else(|| "expected a string in quotes or a number".to_owned());
        text.and_then(|text| parse(&text)).map_err(|reason| self.faults.push((line, reason))).ok()
    }

    /// Reads true or false.
    pub(super) fn switch(&mut self, key: &str) -> Option<bool> {
        let (line, value) = *self.keys.get(key)?;
        if !value.is_bool() {
            self.faults.push((line, "expected true or false, without quotes".to_owned()));
        }
        value.as_bool()
    }

    /// Reads a list of strings.
    pub(super) fn strings<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((line, value)) = self.keys.get(key).copied() else { return Vec::new() };
        let Some(values) = value.as_array() else {
            self.faults.push((line, "expected a list of strings".to_owned()));
            return Vec::new();
        };
        let parsed = values.iter().filter_map(|value: &Spanned<DeValue<'_>>| {
            let line = (self.line_of)(value.span().start);
            self.parsed(line, value.get_ref(), &parse)
        });
        parsed.collect()
    }

    fn parsed<T>(
        &mut self,
        line: usize,
        value: &DeValue<'_>,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = value.as_str().ok_or_else(|| "expected a string in quotes".to_owned()).and_then(parse);
        parsed.map_err(|reason| self.faults.push((line, reason))).ok()
    }

    /// Notes a fault of the table as a whole, unless a mistyped key is its probable cause.
    pub(super) fn incomplete(&mut self, reason: &str) {
        if !self.has_unknown_key {
            self.faults.push((self.line, reason.to_owned()));
        }
    }
}

/// Returns the reason why an unknown key is wrong, with the key that it probably means.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match super::nearest(name, known) {
        Some(nearest) => format!("unknown key {name}; did you mean {nearest}?"),
        None => format!("unknown key {name}"),
    }
}
