//! The configuration of Athens: its config file and its variables.
//!
//! Precedence is that of Athens: variables, then the file, then the default. A variable may carry the prefix
//! `ATHENS_` twice, because Athens' library looks for that name first. A variable that is empty counts as set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stoa_layout::{Exit, PathError};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A key of the file, the variables that override it, and its default.
struct Key {
    name: &'static str,
    variables: &'static [&'static str],
    default: &'static str,
}

const fn key(name: &'static str, variables: &'static [&'static str], default: &'static str) -> Key {
    Key { name, variables, default }
}

const KEYS: [Key; 46] = [
    key("BasicAuthPass", &["BASIC_AUTH_PASS"], ""),
    key("BasicAuthUser", &["BASIC_AUTH_USER"], ""),
    key("CloudRuntime", &["ATHENS_CLOUD_RUNTIME"], "none"),
    key("DownloadMode", &["ATHENS_DOWNLOAD_MODE"], "sync"),
    key("DownloadURL", &["ATHENS_DOWNLOAD_URL"], ""),
    key("EnablePprof", &["ATHENS_ENABLE_PPROF"], "false"),
    key("FilterFile", &["ATHENS_FILTER_FILE"], ""),
    key("ForceSSL", &["PROXY_FORCE_SSL"], "false"),
    key("GithubToken", &["ATHENS_GITHUB_TOKEN"], ""),
    key("GlobalEndpoint", &["ATHENS_GLOBAL_ENDPOINT"], "http://localhost:3001"),
    key("GoBinary", &["GO_BINARY_PATH"], "go"),
    key("GoBinaryEnvVars", &["ATHENS_GO_BINARY_ENV_VARS"], "GOPROXY=direct"),
    key("GoEnv", &["GO_ENV"], "development"),
    key("GoGetDir", &["ATHENS_GOGET_DIR"], ""),
    key("GoGetWorkers", &["ATHENS_GOGET_WORKERS"], "10"),
    key("HGRCPath", &["ATHENS_HGRC_PATH"], ""),
    key("HomeTemplatePath", &["ATHENS_HOME_TEMPLATE_PATH"], "/var/lib/athens/home.html"),
    key("IndexType", &["ATHENS_INDEX_TYPE"], "none"),
    key("LogFormat", &["ATHENS_LOG_FORMAT"], "plain"),
    key("LogLevel", &["ATHENS_LOG_LEVEL"], "debug"),
    key("NETRCPath", &["ATHENS_NETRC_PATH"], ""),
    key("NetworkMode", &["ATHENS_NETWORK_MODE"], "strict"),
    key("NoSumPatterns", &["ATHENS_GONOSUM_PATTERNS"], ""),
    key("PathPrefix", &["ATHENS_PATH_PREFIX"], ""),
    key("Port", &["ATHENS_PORT", "PORT"], ":3000"),
    key("PprofPort", &["ATHENS_PPROF_PORT"], ":3001"),
    key("ProtocolWorkers", &["ATHENS_PROTOCOL_WORKERS"], "30"),
    key("RobotsFile", &["ATHENS_ROBOTS_FILE"], "robots.txt"),
    key("ShutdownTimeout", &["ATHENS_SHUTDOWN_TIMEOUT"], "60"),
    key("SingleFlightType", &["ATHENS_SINGLE_FLIGHT_TYPE"], "memory"),
    key("StashTimeout", &["ATHENS_STASH_TIMEOUT"], "600"),
    key("StatsExporter", &["ATHENS_STATS_EXPORTER"], "prometheus"),
    key("Storage.AzureBlob.AccountName", &["ATHENS_AZURE_ACCOUNT_NAME"], ""),
    key("Storage.AzureBlob.ContainerName", &["ATHENS_AZURE_CONTAINER_NAME"], ""),
    key("Storage.Disk.RootPath", &["ATHENS_DISK_STORAGE_ROOT"], ""),
    key("Storage.GCP.Bucket", &["ATHENS_STORAGE_GCP_BUCKET"], ""),
    key("Storage.S3.Bucket", &["ATHENS_S3_BUCKET_NAME"], ""),
    // Their variables, AWS_ENDPOINT and AWS_REGION, are read by Stoa too.
    key("Storage.S3.Endpoint", &[], ""),
    key("Storage.S3.Region", &[], ""),
    key("StorageType", &["ATHENS_STORAGE_TYPE"], "memory"),
    key("SumDBs", &["ATHENS_SUM_DBS"], ""),
    key("TLSCertFile", &["ATHENS_TLSCERT_FILE"], ""),
    key("TLSKeyFile", &["ATHENS_TLSKEY_FILE"], ""),
    key("Timeout", &["ATHENS_TIMEOUT"], "300"),
    key("UnixSocket", &["ATHENS_UNIX_SOCKET"], ""),
    key("ValidatorHook", &["ATHENS_PROXY_VALIDATOR"], ""),
];

/// Beginnings of keys that only configure parts of Athens that Stoa does not have.
const IGNORED_KEYS: [&str; 5] = ["Storage.", "SingleFlight.", "Index.", "Trace", "Buffalo"];

/// Beginnings of variables that only configure those parts.
const IGNORED_VARIABLES: [&str; 13] = [
    "ATHENS_AZURE_",
    "ATHENS_ETCD_",
    "ATHENS_EXTERNAL_STORAGE_",
    "ATHENS_GCP_",
    "ATHENS_INDEX_",
    "ATHENS_MINIO_",
    "ATHENS_MONGO_",
    "ATHENS_REDIS_",
    "ATHENS_S3_",
    "ATHENS_STORAGE_GCP_",
    "ATHENS_TRACE_",
    "ATHENS_SINGLE_FLIGHT_",
    "ATHENS_LOCK_",
];

/// Athens' configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read {file}, line {line}: {why}")]
    Syntax { file: String, line: usize, why: String },
    #[error("cannot translate {origin} = {value:?}: {why}")]
    Value { origin: String, value: String, why: String },
    #[error("cannot read {path}, named by {by}: no such file\nhelp: relative paths start at the current folder", path = path.display())]
    Missing { path: PathBuf, by: String },
    #[error(transparent)]
    Unreadable(#[from] PathError),
    #[error(
        "nothing to import: there is no athens.toml in this folder and no variable of Athens is set\n\
         help: set its path with --config-file"
    )]
    Nothing,
}

impl ReadError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Unreadable(error) => error.exit(),
            _ => Exit::USAGE,
        }
    }
}

/// A value that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// A list if the file has a list.
    value: Value,
    /// The variable, or the key with file and line.
    pub(super) origin: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    List(Vec<String>),
}

impl Setting {
    /// Returns the value as text.
    pub(super) fn text(&self) -> String {
        match &self.value {
            Value::Text(text) => text.clone(),
            Value::List(parts) => parts.join(","),
        }
    }

    /// Returns the value as a list. In a variable the parts are separated by `separator`.
    pub(super) fn list(&self, separator: char) -> Vec<String> {
        match &self.value {
            Value::List(parts) => parts.clone(),
            Value::Text(text) if text.trim().is_empty() => Vec::new(),
            Value::Text(text) => text.split(separator).map(|part| part.trim().to_owned()).collect(),
        }
    }
}

/// The configuration of Athens.
#[derive(Debug, Default)]
pub(super) struct Athens {
    settings: BTreeMap<&'static str, Setting>,
    /// Keys and variables that are set and unknown.
    pub(super) unknown: Vec<String>,
}

impl Athens {
    /// Reads the text of a config file, if there is one, and the variables.
    pub(super) fn read(
        file: Option<(&str, &str)>,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, ReadError> {
        let mut athens = Self::default();
        if let Some((name, text)) = file {
            athens.read_file(name, text)?;
        }
        athens.read_variables(variables);
        Ok(athens)
    }

    /// Returns whether nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.unknown.is_empty()
    }

    /// Returns a setting that is set and not empty.
    pub(super) fn set(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name).filter(|setting| !setting.text().is_empty())
    }

    /// Returns a setting that is set and differs from its default.
    pub(super) fn changed(&self, name: &str) -> Option<&Setting> {
        let default = default_of(name);
        self.set(name).filter(|setting| setting.text() != default)
    }

    /// Returns a value, or its default.
    pub(super) fn text(&self, name: &str) -> String {
        self.settings.get(name).map_or_else(|| default_of(name).to_owned(), Setting::text)
    }

    /// Returns a number, or its default.
    pub(super) fn number(&self, name: &str) -> Result<u64, ReadError> {
        let text = self.set(name).map_or_else(|| default_of(name).to_owned(), Setting::text);
        text.trim().parse().map_err(|_| self.wrong(name, "expected a number"))
    }

    /// Returns an error about the value of a key.
    pub(super) fn wrong(&self, name: &str, why: &str) -> ReadError {
        ReadError::Value { origin: self.origin(name), value: self.text(name), why: why.to_owned() }
    }

    /// Returns the origin of a value: its variable, or its key with file and line.
    pub(super) fn origin(&self, name: &str) -> String {
        self.settings.get(name).map_or_else(|| name.to_owned(), |setting| setting.origin.clone())
    }

    fn read_file(&mut self, name: &str, text: &str) -> Result<(), ReadError> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            ReadError::Syntax { file: name.to_owned(), line, why: error.message().to_owned() }
        })?;
        self.read_table("", table.get_ref(), &|at| format!("{name}, line {}", line_of(text, at)));
        Ok(())
    }

    fn read_table(&mut self, above: &str, table: &DeTable<'_>, place: &dyn Fn(usize) -> String) {
        for (key, value) in table {
            let path = format!("{above}{}", key.get_ref());
            if let DeValue::Table(table) = value.get_ref() {
                self.read_table(&format!("{path}."), table, place);
                continue;
            }
            let place = place(key.span().start);
            // Athens ignores case too.
            match KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(&path)) {
                Some(key) => {
                    let origin = format!("{} ({place})", key.name);
                    self.settings.insert(key.name, Setting { value: value_of(value), origin });
                }
                None if IGNORED_KEYS.iter().any(|begin| path.starts_with(begin)) => {}
                None => self.unknown.push(format!("{path} ({place})")),
            }
        }
    }

    fn read_variables(&mut self, variables: &BTreeMap<String, String>) {
        for key in &KEYS {
            let names = key.variables.iter().flat_map(|name| [format!("ATHENS_{name}"), (*name).to_owned()]);
            let mut set = names.filter_map(|name| Some((variables.get(&name)?.clone(), name)));
            // Athens reads PORT if ATHENS_PORT is empty.
            if let Some((value, origin)) = set.find(|(value, _)| key.name != "Port" || !value.is_empty()) {
                self.settings.insert(key.name, Setting { value: Value::Text(value), origin });
            }
        }
        let is_known = |name: &str| {
            let plain = name.strip_prefix("ATHENS_").unwrap_or(name);
            KEYS.iter().any(|key| key.variables.contains(&name) || key.variables.contains(&plain))
                || IGNORED_VARIABLES.iter().any(|begin| name.starts_with(begin))
        };
        let unknown = variables.keys().filter(|name| name.starts_with("ATHENS_") && !is_known(name));
        self.unknown.extend(unknown.cloned());
    }
}

/// Returns whether a variable is one of Athens'.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with("ATHENS_") || KEYS.iter().any(|key| key.variables.contains(&name))
}

/// Returns the line number of an offset in a text, counted from one.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Reads a file that a setting names. Relative paths start at the current folder.
pub(super) fn read_named(path: &Path, by: &str) -> Result<String, ReadError> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ReadError::Missing { path: path.to_owned(), by: by.to_owned() },
        _ => PathError::new("read", path, error).into(),
    })?;
    as_text(&path.display().to_string(), bytes)
}

/// Decodes bytes as text.
pub(super) fn as_text(name: &str, bytes: Vec<u8>) -> Result<String, ReadError> {
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        ReadError::Syntax { file: name.to_owned(), line, why: "it is not UTF-8".to_owned() }
    })
}

fn default_of(name: &str) -> &'static str {
    KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default)
}

fn value_of(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::Array(parts) => Value::List(parts.iter().map(|part| text_of(part.get_ref())).collect()),
        other => Value::Text(text_of(other)),
    }
}

fn text_of(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(is) => is.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(set: &[(&str, &str)]) -> BTreeMap<String, String> {
        set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const FILE: &str = "GoGetWorkers = 7\nport = \":8080\"\nNoSumPatterns = [\"a.b/*\", \"c.d\"]\n\
        Odd = true\n[Storage]\n  [Storage.Disk]\n  RootPath = \"/srv/athens\"\n  [Storage.S3]\n  Secret = \"s\"\n";

    #[test]
    fn a_variable_overrides_the_file_and_the_file_the_default() {
        let read = |set: &[(&str, &str)]| Athens::read(Some(("athens.toml", FILE)), &variables(set)).unwrap();
        let athens = read(&[]);
        assert_eq!(athens.number("GoGetWorkers").unwrap(), 7);
        assert_eq!(athens.text("Port"), ":8080");
        assert_eq!(athens.text("Storage.Disk.RootPath"), "/srv/athens");
        assert_eq!(athens.text("DownloadMode"), "sync");
        assert_eq!(athens.set("NoSumPatterns").unwrap().list(','), ["a.b/*", "c.d"]);
        assert_eq!(athens.origin("Port"), "Port (athens.toml, line 2)");
        assert_eq!(athens.unknown, ["Odd (athens.toml, line 4)"]);
        let athens = read(&[("PORT", "1"), ("ATHENS_GONOSUM_PATTERNS", "x.y,z"), ("ATHENS_PORT", "")]);
        assert_eq!((athens.text("Port"), athens.origin("Port")), ("1".to_owned(), "PORT".to_owned()));
        assert_eq!(athens.set("NoSumPatterns").unwrap().list(','), ["x.y", "z"]);
        assert_eq!(read(&[("PORT", "1"), ("ATHENS_PORT", "2")]).text("Port"), "2");
        assert_eq!(read(&[("ATHENS_BASIC_AUTH_USER", "me")]).text("BasicAuthUser"), "me");
        assert_eq!(read(&[("ATHENS_DOWNLOAD_URL", "")]).set("DownloadURL"), None);
    }

    #[test]
    fn unknown_variables_are_reported() {
        let set = [("ATHENS_TYPO", "1"), ("ATHENS_S3_BUCKET_NAME", "x"), ("HOME", "/")];
        let athens = Athens::read(None, &variables(&set)).unwrap();
        assert_eq!(athens.unknown, ["ATHENS_TYPO"]);
        assert!(is_variable("ATHENS_TYPO") && is_variable("BASIC_AUTH_PASS") && !is_variable("HOME"));
    }

    #[test]
    fn an_unreadable_value_is_named_by_file_and_line() {
        let error = Athens::read(Some(("athens.toml", "Port = 1\n\nx = [\n")), &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().starts_with("cannot read athens.toml, line "), "{error}");
        let athens = Athens::read(Some(("a.toml", "GoGetWorkers = \"many\"")), &BTreeMap::new()).unwrap();
        let error = athens.number("GoGetWorkers").unwrap_err().to_string();
        assert_eq!(error, "cannot translate GoGetWorkers (a.toml, line 1) = \"many\": expected a number");
    }
}
