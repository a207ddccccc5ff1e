//! The config file.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stoa_layout::PathError;
use toml::de::{DeTable, DeValue};

use super::access::AccessTable;
use super::credentials::CredentialsTable;
use super::keys::{self, Key};
use super::peers::PeerTable;
use super::rules::ModuleTable;
use super::table::{self, Table};
use super::{ConfigError, Origin, shown};

/// The tables that may occur several times.
const TABLES: [&str; 4] = ["module", "credentials", "peer", "access"];

/// The content of a config file.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The path. Relative paths in the file start at its folder.
    pub(super) path: PathBuf,
    /// The keys, each with its text and its line.
    values: BTreeMap<&'static str, (String, usize)>,
    pub(super) modules: Vec<ModuleTable>,
    pub(super) credentials: Vec<CredentialsTable>,
    pub(super) peers: Vec<PeerTable>,
    pub(super) access: Vec<AccessTable>,
    /// The keys in the tables that may occur several times, for `stoa config show`.
    pub(super) in_tables: Vec<(String, String, usize)>,
    lines: Vec<String>,
    /// Lines with a key that does not exist, with a value of the wrong type, or with a wrong value in a table.
    wrong: Vec<(usize, String)>,
    /// Whether every user of the machine may read the file.
    pub(super) is_public: bool,
}

impl File {
    /// Reads a config file. Returns `None` if it does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
                return Err(ConfigError::Folder { path: path.to_owned() });
            }
            Err(error) => return Err(PathError::new("read", path, error).into()),
        };
        let lines = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
        let mode = path.metadata().map_or(0, |meta| meta.permissions().mode());
        let mut file = Self { path: path.to_owned(), lines, is_public: mode & 0o004 != 0, ..Self::default() };
        let line_of = |at: usize| 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
        let text = str::from_utf8(&bytes)
            .map_err(|error| file.wrong(line_of(error.valid_up_to()), "the line is not UTF-8"))?;
        let table = DeTable::parse(text).map_err(|error| {
            file.wrong(line_of(error.span().map_or(0, |span| span.start)), error.message())
        })?;
        file.take_values("", table.get_ref(), &line_of);
        Ok(Some(file))
    }

    /// Takes the keys of a table, whose own name with a dot is `prefix`.
    fn take_values(&mut self, prefix: &str, table: &DeTable<'_>, line_of: &dyn Fn(usize) -> usize) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            // TOML has no key that is both a value and a table.
            let name = if name == "store.path" { "store".to_owned() } else { name };
            let line = line_of(key.span().start);
            if prefix.is_empty() && TABLES.contains(&name.as_str()) {
                self.take_tables(&name, line, value.get_ref(), line_of);
                continue;
            }
            let is_table_of_ours = || {
                keys::all().any(|key| key.name.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')))
            };
            match (keys::find(&name), value.get_ref()) {
                (Some(_), DeValue::Table(inner)) if prefix.is_empty() && is_table_of_ours() => {
                    self.take_values(&format!("{name}."), inner, line_of);
                }
                (Some(key), value) => match text_of(key, value) {
                    Ok(text) => drop(self.values.insert(key.name, (text, line))),
                    Err(reason) => self.wrong.push((line, reason)),
                },
                (None, DeValue::Table(inner)) if is_table_of_ours() => {
                    self.take_values(&format!("{name}."), inner, line_of);
                }
                (None, _) => {
                    let known = keys::all().map(|key| key.name).chain(TABLES);
                    self.wrong.push((line, table::unknown(&name, known)));
                }
            }
        }
    }

    /// Takes the tables of one name.
    fn take_tables(
        &mut self,
        name: &str,
        line: usize,
        value: &DeValue<'_>,
        line_of: &dyn Fn(usize) -> usize,
    ) {
        let tables = value.as_array().filter(|all| all.iter().all(|table| table.get_ref().is_table()));
        let Some(tables) = tables else {
            return self.wrong.push((line, format!("expected tables, each below a line [[{name}]]")));
        };
        for (n, table) in tables.iter().enumerate() {
            let line = line_of(table.span().start);
            let Some(keys) = table.get_ref().as_table() else { continue };
            for (key, value) in keys {
                let (key, line) = (key.get_ref(), line_of(key.span().start));
                let text = plain_text(value.get_ref()).unwrap_or_default();
                self.in_tables.push((format!("{name}[{n}].{key}"), text, line));
            }
            match name {
                "module" => {
                    let mut table = Table::new(keys, line, &ModuleTable::KEYS, line_of);
                    let rule = ModuleTable::read(&mut table).filter(|_| table.faults.is_empty());
                    self.modules.extend(rule);
                    self.wrong.append(&mut table.faults);
                }
                "peer" => {
                    let mut table = Table::new(keys, line, &PeerTable::KEYS, line_of);
                    let peer = PeerTable::read(&mut table).filter(|_| table.faults.is_empty());
                    self.peers.extend(peer);
                    self.wrong.append(&mut table.faults);
                }
                "access" => {
                    let mut table = Table::new(keys, line, &AccessTable::KEYS, line_of);
                    let access = AccessTable::read(&mut table).filter(|_| table.faults.is_empty());
                    self.access.extend(access);
                    self.wrong.append(&mut table.faults);
                }
                _ => {
                    let mut table = Table::new(keys, line, &CredentialsTable::KEYS, line_of);
                    self.credentials.extend(CredentialsTable::read(&mut table));
                    self.wrong.append(&mut table.faults);
                }
            }
        }
    }

    /// Returns the text of a key and its line.
    pub(super) fn get(&self, key: &Key) -> Option<(&str, usize)> {
        self.values.get(key.name).map(|(text, line)| (text.as_str(), *line))
    }

    /// Returns the text of a key and its origin.
    pub(super) fn value(&self, key: &Key) -> Option<(String, Origin)> {
        self.get(key).map(|(text, line)| (text.to_owned(), Origin::File(self.path.clone(), line)))
    }

    /// Returns an error for each value that its key does not accept, without a look at other files.
    pub(super) fn faults(&self) -> Vec<ConfigError> {
        let values = keys::all().filter_map(|key| {
            let (text, line) = self.get(key)?;
            (key.check)(text).err().map(|reason| (line, reason))
        });
        let mut all: Vec<(usize, String)> = self.wrong.iter().cloned().chain(values).collect();
        all.sort();
        all.iter().map(|(line, reason)| self.wrong(*line, reason)).collect()
    }

    /// Returns an error about a line, counted from one.
    pub(super) fn wrong(&self, line: usize, reason: &str) -> ConfigError {
        let text = self.lines.get(line.saturating_sub(1)).map_or("", |text| text.trim());
        let key = text.split(['=', ' ']).next().unwrap_or_default();
        let text = match self.table_of(line) {
            Some(name) if text.starts_with(&format!("[[{name}]]")) => format!("[[{name}]]"),
            // A mistyped key may have a secret as its value, too.
            Some("peer") if PeerTable::KEYS.contains(&key) => shown::line(text),
            Some("credentials" | "peer") => shown::key(text),
            _ => shown::line(text),
        };
        ConfigError::File { path: self.path.clone(), line, text, reason: shown::masked(reason) }
    }

    /// Returns the name in the header before a line, if the line is in one of the tables that may occur several times.
    fn table_of(&self, line: usize) -> Option<&'static str> {
        let table = |line: &str| {
            let name = line.trim_start_matches('[').trim_start();
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-'));
            let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
            TABLES.into_iter().find(|table| *table == name)
        };
        let before = self.lines.iter().take(line).rev().map(|line| line.trim());
        let mut headers = before.filter(|line| line.starts_with('[') || table(line).is_some());
        headers.next().and_then(table)
    }

    /// Returns the folder at which relative paths start.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Returns whether the file itself contains a password, a token, or credentials in a URL.
    pub(super) fn has_secret(&self) -> bool {
        self.in_tables.iter().any(|(name, ..)| name.ends_with(".password") || name.ends_with(".bearer"))
            || self
                .values
                .values()
                .map(|(text, _)| text)
                .chain(self.in_tables.iter().map(|(_, text, _)| text))
                .any(|text| shown::masked(text) != *text)
    }
}

fn text_of(key: &Key, value: &DeValue<'_>) -> Result<String, String> {
    if key.is_switch() && !value.is_bool() {
        return Err("expected true or false, without quotes".to_owned());
    }
    if value.is_array() != key.is_list() && (value.is_array() || !value.is_str()) {
        return Err(if key.is_list() {
            "expected a list of strings"
        } else {
            "expected one value, not a list"
        }
        .to_owned());
    }
    let expected = if key.is_list() { "a list of strings" } else { key.value_name };
    plain_text(value).ok_or_else(|| format!("expected {expected}, not a {}", value.type_str()))
}

/// Returns a scalar as text, and a list of strings with commas.
fn plain_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Array(array) => {
            let texts = array.iter().map(|value| value.get_ref().as_str());
            texts.collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        _ => None,
    }
}
