//! Configuration as meant: what an option, a variable, the config file and the default say together.
//!
//! An option goes before `STOA_NAME` in the environment, that before the config file, that before the default.
//! Every scalar key of the file is an option and a variable too; [`variable_of`] tells the name. The file is
//! read only when a key is asked for that neither an option nor a variable decides: a command on a current
//! store that is told where it is reads none before the gate.
//!
//! The world (variables, the place of the system's file) enters as a [`World`]; nothing in here asks the
//! process. What was typed is declared in [`cli`](crate::cli) and [`migrate`](crate::migrate), which use this
//! code both, so that both programs find the same store.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use stoa_layout::{Exit, PathError};

/// How many threads a migration may use: more than any disk can answer at once.
const MOST_THREADS: usize = 1024;

/// Looks a name up.
pub type Lookup = dyn Fn(&str) -> Option<OsString>;

/// What lies outside of the program and says what it should do.
pub struct World {
    /// Looks a variable of the environment up.
    pub variable: Box<Lookup>,
    /// The config file of the system.
    pub system_file: PathBuf,
}

impl World {
    /// Is that of this process.
    pub fn of_process() -> Self {
        Self {
            variable: Box::new(|name| std::env::var_os(name)),
            system_file: PathBuf::from("/etc/stoa/config.toml"),
        }
    }

    /// Looks a variable up; an empty one counts as not set.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Looks a variable up that holds an absolute path, as the XDG rules have it: anything else is ignored.
    fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// The configuration is wrong, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A config file was named that is not there.
    #[error("the config file {path}, named by {by}, is not there; name another one or none", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What named it.
        by: &'static str,
    },
    /// A config file that is there could not be read.
    #[error(transparent)]
    Unreadable(#[from] PathError),
    /// The file does not say something that can be meant.
    #[error("{path}, line {line}, `{text}`: {why}; mend that line", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A variable does not say something that can be meant.
    #[error("the variable {name} is {value:?}: {why}; change it or unset it")]
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing tells where the store is.
    #[error(
        "where the store is cannot be found out: neither HOME nor XDG_DATA_HOME is set; name it with --store, STOA_STORE or \
         `store` in the config file"
    )]
    NoStore,
    /// A config file was named that is a folder.
    #[error("the config file {path} is a folder; name the file in it", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// A value cannot be meant, though it has the right type.
    #[error("{whence} is {value:?}: {why}")]
    Value {
        /// The option, the variable, or the key and the file.
        whence: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ConfigError {
    /// Is the code that a program ends with for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreadable(error) => error.exit(),
            _ => Exit::USAGE,
        }
    }
}

/// What was typed for the proxy. `None` where nothing was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypedServe {
    /// The key `listen`.
    pub listen: Option<String>,
    /// The key `upstream`.
    pub upstream: Option<String>,
    /// The key `sumdbs`.
    pub sumdbs: Option<Vec<String>>,
    /// The key `read_only`.
    pub read_only: Option<bool>,
    /// The key `offline`.
    pub offline: Option<bool>,
    /// The key `base_path`.
    pub base_path: Option<String>,
    /// The key `max_connections`.
    pub max_connections: Option<usize>,
    /// The key `grace`.
    pub grace: Option<u64>,
    /// The key `fill.max_concurrent`.
    pub fill_max_concurrent: Option<usize>,
    /// The key `index.interval`.
    pub index_interval: Option<u64>,
    /// The key `last_use.interval`.
    pub last_use_interval: Option<u64>,
}

/// What is meant for the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// The address to listen on.
    pub listen: String,
    /// Where to fetch from, in `GOPROXY` syntax, if anything says so.
    pub upstream: Option<String>,
    /// The names of the checksum databases to forward, if anything says so.
    pub sumdbs: Option<Vec<String>>,
    /// Whether the store is not to be written to.
    pub read_only: bool,
    /// Whether nothing is to be fetched.
    pub offline: bool,
    /// The path that everything is answered below.
    pub base_path: String,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How long requests may go on after the proxy was asked to stop.
    pub grace: Duration,
    /// How many versions may be fetched at once.
    pub fill_max_concurrent: usize,
    /// How often the index is reconciled with the store; zero leaves it to others.
    pub index_interval: Duration,
    /// How often what was used is written down; zero keeps no note of it.
    pub last_use_interval: Duration,
}

/// What is meant for the migrator, besides what it is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateConfig {
    /// How long to wait for those who use the store at an older layout.
    pub lock_timeout: Duration,
    /// How many threads a step may use.
    pub threads: usize,
}

/// The keys of the config file, as they stand there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: Option<PathBuf>,
    auto_migrate: Option<bool>,
    lock_timeout: Option<u64>,
    threads: Option<usize>,
    listen: Option<String>,
    upstream: Option<String>,
    sumdbs: Option<Vec<String>>,
    read_only: Option<bool>,
    offline: Option<bool>,
    base_path: Option<String>,
    max_connections: Option<usize>,
    grace: Option<u64>,
    #[serde(default)]
    fill: FillTable,
    #[serde(default)]
    index: IndexTable,
    #[serde(default)]
    last_use: LastUseTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FillTable {
    max_concurrent: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexTable {
    interval: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastUseTable {
    interval: Option<u64>,
}

/// Resolves keys, and reads the config file when the first key needs it.
pub struct Settings<'a> {
    world: &'a World,
    named: Option<PathBuf>,
    file: OnceCell<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    keys: File,
    /// The file; relative paths in it start from its folder.
    path: PathBuf,
}

impl Loaded {
    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

impl<'a> Settings<'a> {
    /// Begins with the config file that was typed, if one was.
    pub fn new(world: &'a World, named: Option<PathBuf>) -> Self {
        Self { world, named, file: OnceCell::new() }
    }

    /// Is the world that it resolves against.
    pub fn world(&self) -> &World {
        self.world
    }

    /// Finds the store; an absolute path.
    pub fn store(&self, typed: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
        let said = match self.above_file("store", typed.clone())? {
            Some(path) => Some(path),
            None => self.file()?.keys.store.as_ref().map(|path| self.in_folder(path)).transpose()?,
        };
        let path = match said {
            Some(path) if path.as_os_str().is_empty() => {
                return Err(self.wrong("store", typed.is_some(), "", "it is empty; name a folder"));
            }
            Some(path) => path,
            None => self.data_home().ok_or(ConfigError::NoStore)?.join("stoa"),
        };
        std::path::absolute(&path).map_err(|error| PathError::new("find", path, error).into())
    }

    /// Whether the gate may run the migrator by itself.
    pub fn auto_migrate(&self, typed: Option<bool>) -> Result<bool, ConfigError> {
        self.pick("auto_migrate", typed, |file| file.auto_migrate, true)
    }

    /// Resolves what is meant for the proxy.
    pub fn serve(&self, typed: TypedServe) -> Result<ServeConfig, ConfigError> {
        let is_typed = typed.listen.is_some();
        let listen =
            self.pick("listen", typed.listen, |file| file.listen.clone(), "127.0.0.1:3000".to_owned())?;
        let parts = listen.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(parts, Some((host, Ok(_))) if !host.is_empty()) {
            let why =
                "it takes an address and a port, as in 127.0.0.1:3000, or 0.0.0.0:3000 for all addresses";
            return Err(self.wrong("listen", is_typed, listen, why));
        }
        let is_typed = typed.upstream.is_some();
        let upstream = self.maybe("upstream", typed.upstream, |file| file.upstream.clone())?;
        if upstream.as_ref().is_some_and(|list| list.trim().is_empty()) {
            let why = "it is empty; write off to fetch nothing, or leave it out";
            return Err(self.wrong("upstream", is_typed, "", why));
        }
        let is_typed = typed.base_path.is_some();
        let base_path =
            self.pick("base_path", typed.base_path, |file| file.base_path.clone(), "/".to_owned())?;
        if !is_base_path(&base_path) {
            return Err(self.wrong("base_path", is_typed, base_path, "it takes a path, as in / or /go"));
        }
        let fill_max_concurrent = typed.fill_max_concurrent;
        let max_connections = typed.max_connections;
        Ok(ServeConfig {
            listen,
            base_path,
            upstream,
            max_connections: self.count(
                "max_connections",
                max_connections,
                |file| file.max_connections,
                4096,
                usize::MAX,
            )?,
            sumdbs: self.maybe("sumdbs", typed.sumdbs, |file| file.sumdbs.clone())?,
            read_only: self.pick("read_only", typed.read_only, |file| file.read_only, false)?,
            offline: self.pick("offline", typed.offline, |file| file.offline, false)?,
            grace: Duration::from_secs(self.pick("grace", typed.grace, |file| file.grace, 30)?),
            index_interval: Duration::from_secs(self.pick(
                "index.interval",
                typed.index_interval,
                |file| file.index.interval,
                600,
            )?),
            last_use_interval: Duration::from_secs(self.pick(
                "last_use.interval",
                typed.last_use_interval,
                |file| file.last_use.interval,
                300,
            )?),
            fill_max_concurrent: self.count(
                "fill.max_concurrent",
                fill_max_concurrent,
                |file| file.fill.max_concurrent,
                16,
                usize::MAX,
            )?,
        })
    }

    /// Resolves what is meant for the migrator.
    pub fn migrate(
        &self,
        lock_timeout: Option<u64>,
        threads: Option<usize>,
    ) -> Result<MigrateConfig, ConfigError> {
        let lock_timeout = self.pick("lock_timeout", lock_timeout, |file| file.lock_timeout, 30)?;
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.count("threads", threads, |file| file.threads, all, MOST_THREADS)?;
        Ok(MigrateConfig { lock_timeout: Duration::from_secs(lock_timeout), threads })
    }

    /// Reads the config file if one was named, even if no key needs it: that it is missing or wrong is an
    /// error.
    pub fn check_named(&self) -> Result<(), ConfigError> {
        if self.named_file().is_some() { self.file().map(|_| ()) } else { Ok(()) }
    }

    /// Picks a number from 1 to `most`.
    fn count(
        &self,
        key: &str,
        typed: Option<usize>,
        in_file: impl Fn(&File) -> Option<usize>,
        default: usize,
        most: usize,
    ) -> Result<usize, ConfigError> {
        let n = self.pick(key, typed, in_file, default)?;
        if (1..=most).contains(&n) {
            return Ok(n);
        }
        let to = if most == usize::MAX { "on".to_owned() } else { format!("to {most}") };
        Err(self.wrong(key, typed.is_some(), n.to_string(), &format!("it takes a number from 1 {to}")))
    }

    /// Says what is wrong with a value, and where it came from.
    fn wrong(&self, key: &str, is_typed: bool, value: impl Into<String>, why: &str) -> ConfigError {
        let variable = variable_of(key);
        let whence = if is_typed {
            format!("--{}", key.replace(['_', '.'], "-"))
        } else if self.world.variable(&variable).is_some() {
            format!("the variable {variable}")
        } else {
            let file = self.file.get().map(|loaded| loaded.path.display().to_string()).unwrap_or_default();
            format!("{key} in {file}")
        };
        ConfigError::Value { whence, value: value.into(), why: why.to_owned() }
    }

    fn pick<T: FromVariable>(
        &self,
        key: &str,
        typed: Option<T>,
        in_file: impl Fn(&File) -> Option<T>,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.maybe(key, typed, in_file)?.unwrap_or(default))
    }

    fn maybe<T: FromVariable>(
        &self,
        key: &str,
        typed: Option<T>,
        in_file: impl Fn(&File) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.above_file(key, typed)? {
            Some(value) => Ok(Some(value)),
            None => Ok(in_file(&self.file()?.keys)),
        }
    }

    /// What an option or a variable says.
    fn above_file<T: FromVariable>(&self, key: &str, typed: Option<T>) -> Result<Option<T>, ConfigError> {
        if typed.is_some() {
            return Ok(typed);
        }
        let name = variable_of(key);
        let Some(value) = self.world.variable(&name) else { return Ok(None) };
        T::from_variable(&value).map(Some).map_err(|why| ConfigError::Variable {
            name,
            value: value.to_string_lossy().into_owned(),
            why,
        })
    }

    fn file(&self) -> Result<&Loaded, ConfigError> {
        if let Some(loaded) = self.file.get() {
            return Ok(loaded);
        }
        let loaded = self.load()?;
        Ok(self.file.get_or_init(|| loaded))
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        if let Some((path, by)) = self.named_file() {
            return match read(&path)? {
                Some(loaded) => Ok(loaded),
                None => Err(ConfigError::Missing { path, by }),
            };
        }
        let own = self.config_home().map(|home| home.join("stoa/config.toml"));
        for path in own.iter().chain([&self.world.system_file]) {
            if let Some(loaded) = read(path)? {
                return Ok(loaded);
            }
        }
        Ok(Loaded::default())
    }

    fn named_file(&self) -> Option<(PathBuf, &'static str)> {
        let typed = self.named.clone().map(|path| (path, "--config"));
        typed.or_else(|| Some((self.world.variable("STOA_CONFIG")?.into(), "STOA_CONFIG")))
    }

    fn in_folder(&self, path: &Path) -> Result<PathBuf, ConfigError> {
        Ok(if path.as_os_str().is_empty() { PathBuf::new() } else { self.file()?.folder().join(path) })
    }

    fn config_home(&self) -> Option<PathBuf> {
        self.world.absolute("XDG_CONFIG_HOME").or_else(|| Some(self.world.absolute("HOME")?.join(".config")))
    }

    fn data_home(&self) -> Option<PathBuf> {
        self.world
            .absolute("XDG_DATA_HOME")
            .or_else(|| Some(self.world.absolute("HOME")?.join(".local/share")))
    }
}

/// Is the name of the variable of a key: `STOA_FILL_MAX_CONCURRENT` of `fill.max_concurrent`.
pub fn variable_of(key: &str) -> String {
    format!("STOA_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Reads a switch as it stands in a variable or after `=`.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("it takes true or false".to_owned()),
    }
}

/// Whether requests can begin with it: what a client or a proxy on the way would rewrite, or take for a query,
/// would never arrive.
fn is_base_path(path: &str) -> bool {
    let elements = || path.strip_suffix('/').unwrap_or(path).split('/').skip(1);
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\');
    path.starts_with('/')
        && path.chars().all(is_plain)
        && elements().all(|element| !matches!(element, "" | "." | ".."))
}

/// Reads a config file; `None` if it is not there.
fn read(path: &Path) -> Result<Option<Loaded>, ConfigError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            return Err(ConfigError::Folder { path: path.to_owned() });
        }
        Err(error) => return Err(PathError::new("read", path, error).into()),
    };
    let wrong_at = |at: usize, why: &str| {
        let line = 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
        let text = bytes.split(|byte| *byte == b'\n').nth(line - 1).unwrap_or_default();
        ConfigError::File {
            path: path.to_owned(),
            line,
            text: String::from_utf8_lossy(text).trim().to_owned(),
            why: why.to_owned(),
        }
    };
    let text = str::from_utf8(&bytes).map_err(|error| wrong_at(error.valid_up_to(), "it is not UTF-8"))?;
    let keys = toml::from_str(text)
        .map_err(|error| wrong_at(error.span().map_or(0, |span| span.start), error.message()))?;
    Ok(Some(Loaded { keys, path: path.to_owned() }))
}

/// A value that a variable can hold.
trait FromVariable: Sized {
    fn from_variable(value: &OsStr) -> Result<Self, String>;
}

impl FromVariable for PathBuf {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        Ok(Self::from(value))
    }
}

impl FromVariable for String {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        value.to_str().map(str::to_owned).ok_or_else(|| "it is not UTF-8".to_owned())
    }
}

impl FromVariable for Vec<String> {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        let text = String::from_variable(value)?;
        Ok(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
    }
}

impl FromVariable for bool {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        parse_switch(&value.to_string_lossy())
    }
}

impl FromVariable for u64 {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        value.to_string_lossy().parse().map_err(|_| "it takes a number".to_owned())
    }
}

impl FromVariable for usize {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        value.to_string_lossy().parse().map_err(|_| "it takes a number".to_owned())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write config files")]
mod tests {
    use super::*;
    use std::fs;

    fn world(home: &Path, variables: &[(&str, &str)]) -> World {
        let mut all: Vec<(String, OsString)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        all.push(("HOME".to_owned(), home.into()));
        World {
            variable: Box::new(move |name| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())),
            system_file: home.join("etc.toml"),
        }
    }

    fn own_file(home: &Path, text: &str) -> PathBuf {
        let path = home.join(".config/stoa/config.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn option_before_variable_before_file_before_default() {
        let dir = tempfile::tempdir().unwrap();
        let bare = world(dir.path(), &[]);
        let listen = |world: &World, typed: Option<&str>| {
            let options = TypedServe { listen: typed.map(str::to_owned), ..Default::default() };
            Settings::new(world, None).serve(options).unwrap().listen
        };
        assert_eq!(listen(&bare, None), "127.0.0.1:3000");
        fs::write(&bare.system_file, "listen = '127.0.0.1:1'").unwrap();
        assert_eq!(listen(&bare, None), "127.0.0.1:1");
        own_file(dir.path(), "listen = '127.0.0.1:2'");
        assert_eq!(listen(&bare, None), "127.0.0.1:2");
        let set = world(dir.path(), &[("STOA_LISTEN", "127.0.0.1:3")]);
        assert_eq!(listen(&set, None), "127.0.0.1:3");
        assert_eq!(listen(&set, Some("127.0.0.1:4")), "127.0.0.1:4");
        assert_eq!(listen(&world(dir.path(), &[("STOA_LISTEN", "")]), None), "127.0.0.1:2");
    }

    #[test]
    fn the_store_is_found_by_the_xdg_rules() {
        let dir = tempfile::tempdir().unwrap();
        let find = |variables: &[(&str, &str)]| {
            Settings::new(&world(dir.path(), variables), None).store(None).unwrap()
        };
        assert_eq!(find(&[]), dir.path().join(".local/share/stoa"));
        assert_eq!(find(&[("XDG_DATA_HOME", "relative")]), dir.path().join(".local/share/stoa"));
        assert_eq!(find(&[("XDG_DATA_HOME", "/data")]), Path::new("/data/stoa"));
        own_file(dir.path(), "store = 'beside'");
        assert_eq!(find(&[("XDG_DATA_HOME", "/data")]), dir.path().join(".config/stoa/beside"));
        assert_eq!(find(&[("STOA_STORE", "/said")]), Path::new("/said"));
    }

    #[test]
    fn without_a_home_the_store_must_be_named() {
        let world = World { variable: Box::new(|_| None), system_file: "/nonexistent/x".into() };
        let error = Settings::new(&world, None).store(None).unwrap_err();
        assert!(matches!(error, ConfigError::NoStore));
        assert_eq!(error.exit(), Exit::USAGE);
    }

    #[test]
    fn no_file_is_read_where_an_option_or_a_variable_decides() {
        let dir = tempfile::tempdir().unwrap();
        own_file(dir.path(), "this is not TOML");
        let world = world(dir.path(), &[("STOA_STORE", "/said"), ("STOA_AUTO_MIGRATE", "false")]);
        let settings = Settings::new(&world, None);
        assert_eq!(settings.store(None).unwrap(), Path::new("/said"));
        assert!(!settings.auto_migrate(None).unwrap());
        settings.check_named().unwrap();
        assert!(settings.migrate(None, None).is_err());
    }

    #[test]
    fn what_is_wrong_in_a_file_names_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        for (text, line, key) in [
            ("listen = 'a:1'\n\nlisten_on = 'b'\n", 3, "listen_on"),
            ("[fill]\nmax = 3\n", 2, "max"),
            ("# é\nlock_timeout = 'soon'\n", 2, "lock_timeout"),
            ("[fill]\n\nmax_concurrent = -1\n", 3, "max_concurrent"),
            ("store = [\n", 1, "store"),
        ] {
            let path = own_file(dir.path(), text);
            let world = world(dir.path(), &[]);
            let error = Settings::new(&world, None).auto_migrate(None).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
            assert!(message.contains(&format!("line {line},")), "{text}: {message}");
            assert!(message.contains(key), "{message}");
            assert_eq!(error.exit(), Exit::USAGE);
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.toml");
        let bare = world(dir.path(), &[]);
        let typed = Settings::new(&bare, Some(missing.clone())).check_named().unwrap_err();
        assert!(typed.to_string().contains("--config"), "{typed}");
        let set = world(dir.path(), &[("STOA_CONFIG", missing.to_str().unwrap())]);
        let variable = Settings::new(&set, None).check_named().unwrap_err();
        assert!(variable.to_string().contains("STOA_CONFIG"), "{variable}");
        assert_eq!((typed.exit(), variable.exit()), (Exit::USAGE, Exit::USAGE));
    }

    #[test]
    fn a_named_file_must_be_text() {
        let dir = tempfile::tempdir().unwrap();
        let bare = world(dir.path(), &[]);
        let folder = Settings::new(&bare, Some(dir.path().to_owned())).check_named().unwrap_err();
        assert!(folder.to_string().contains("is a folder"), "{folder}");
        let path = dir.path().join("latin.toml");
        fs::write(&path, b"# one\nlisten = '\xe9'\n").unwrap();
        let latin = Settings::new(&bare, Some(path)).check_named().unwrap_err();
        assert!(latin.to_string().contains("latin.toml, line 2, `listen = "), "{latin}");
        assert_eq!((folder.exit(), latin.exit()), (Exit::USAGE, Exit::USAGE));
    }

    #[test]
    fn variables_that_cannot_be_meant_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("STOA_READ_ONLY", "perhaps"), ("STOA_FILL_MAX_CONCURRENT", "many"), ("STOA_GRACE", "-1")]
        {
            let world = world(dir.path(), &[(name, text)]);
            let error = Settings::new(&world, None).serve(TypedServe::default()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(error.exit(), Exit::USAGE);
        }
    }

    #[test]
    fn values_that_cannot_be_meant_say_where_they_came_from() {
        let dir = tempfile::tempdir().unwrap();
        for (key, wrong) in [
            ("listen", "localhost"),
            ("listen", ":3000"),
            ("listen", "127.0.0.1:70000"),
            ("upstream", " "),
            ("base_path", "go"),
            ("base_path", "/go//x"),
            ("base_path", "//"),
            ("base_path", "/../x"),
            ("base_path", "/a?b"),
            ("base_path", "/a b"),
        ] {
            let path = own_file(dir.path(), &format!("{key} = '{wrong}'"));
            let name = variable_of(key);
            let (bare, set) = (world(dir.path(), &[]), world(dir.path(), &[(&name, wrong)]));
            for (world, whence) in [(&bare, path.to_str().unwrap()), (&set, name.as_str())] {
                let error = Settings::new(world, None).serve(TypedServe::default()).unwrap_err();
                let message = error.to_string();
                assert!(message.contains(whence), "{message}");
                assert_eq!(error.exit(), Exit::USAGE);
            }
        }
        own_file(dir.path(), "base_path = '/go/x/'\nthreads = 100000");
        let world = world(dir.path(), &[("STOA_FILL_MAX_CONCURRENT", "1")]);
        let settings = Settings::new(&world, None);
        let options = TypedServe { fill_max_concurrent: Some(0), ..Default::default() };
        let error = settings.serve(options).unwrap_err().to_string();
        assert!(error.contains("--fill-max-concurrent") && error.contains("\"0\""), "{error}");
        assert_eq!(settings.serve(TypedServe::default()).unwrap().base_path, "/go/x/");
        let error = settings.migrate(None, None).unwrap_err().to_string();
        assert!(error.contains("threads in ") && error.contains("from 1 to 1024"), "{error}");
    }

    #[test]
    fn lists_are_split_at_commas() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path(), &[("STOA_SUMDBS", "a.example, b.example,")]);
        let config = Settings::new(&world, None).serve(TypedServe::default()).unwrap();
        assert_eq!(config.sumdbs, Some(vec!["a.example".to_owned(), "b.example".to_owned()]));
    }
}
