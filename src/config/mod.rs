//! The configuration: the values of keys from options, variables, the config file and defaults.
//!
//! An option takes precedence over `STOA_NAME` in the environment, that over the config file, and that over the default.
//! Each key is declared once, in [`keys`]. The file is read only for a key that neither an option nor a variable sets. So a
//! command on a current store whose path is given reads no file before the gate.
//!
//! The environment (variables, the path of the system's file) is a [`World`]. Nothing here reads the process itself, except
//! for secrets in files of their own. Both programs use this code, so both find the same store.
//!
//! | module | content |
//! | --- | --- |
//! | `keys` | the declarations |
//! | `parse` | values from texts |
//! | `options` | the options that set keys |
//! | `file` | the config file |
//! | `table`, `rules`, `credentials`, `peers`, `access` | the tables of the file |
//! | `serve`, `bucket` | checks of several keys together |
//! | `size` | sizes with units |
//! | `origin`, `shown` | origins of values, and values without secrets |
//! | `world` | variables and paths |

mod access;
mod bucket;
mod credentials;
mod error;
mod file;
pub mod keys;
mod listen;
mod options;
mod origin;
pub(crate) mod parse;
mod peers;
mod rules;
mod serve;
mod shown;
pub(crate) mod size;
mod table;
mod world;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stoa_layout::PathError;

use self::file::File;
use self::keys::{Default, Key};

pub use self::access::AccessTable;
pub use self::bucket::BucketSettings;
pub use self::error::ConfigError;
pub use self::keys::ServeConfig;
pub use self::listen::ListenAddress;
pub use self::options::Options;
pub use self::origin::Origin;
pub use self::peers::PeerTable;
pub use self::rules::ModuleTable;
pub use self::shown::masked;
pub use self::world::{Lookup, World};
use crate::policy::Mode;

/// The configuration of the migrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateConfig {
    /// The maximum wait for processes that use the store.
    pub lock_timeout: Duration,
    /// The maximum number of threads.
    pub threads: usize,
    /// The same, if it is set.
    pub set_threads: Option<usize>,
    /// The mode of the folder of a new store.
    pub store_mode: u32,
}

/// A value of the configuration, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The name of the key.
    pub key: String,
    /// The value without secrets. `None` if the key is not set.
    pub value: Option<String>,
    /// The origin of the value.
    pub origin: Origin,
}

/// Resolves keys, and reads the config file for the first key that needs it.
pub struct Settings<'a> {
    world: &'a World,
    named: Option<PathBuf>,
    file: OnceCell<File>,
}

impl<'a> Settings<'a> {
    /// Begins with the value of `--config`.
    pub fn new(world: &'a World, named: Option<PathBuf>) -> Self {
        Self { world, named, file: OnceCell::new() }
    }

    /// Begins again, so that the config file is read again.
    pub fn again(&self) -> Self {
        Self::new(self.world, self.named.clone())
    }

    /// Returns the environment.
    pub fn world(&self) -> &World {
        self.world
    }

    /// Returns the path of the config file, if one was read.
    pub fn config_file(&self) -> Option<&Path> {
        self.file.get().map(|file| file.path.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Returns the folder of the store as an absolute path.
    pub fn store(&self, typed: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
        Ok(self.find_store(typed)?.0)
    }

    /// Like [`Settings::store`], with the origin of the path.
    pub fn find_store(&self, typed: Option<PathBuf>) -> Result<(PathBuf, Origin), ConfigError> {
        let key = key("store");
        // A path need not be UTF-8, so it is not read as text.
        let variable = || self.world.variable(&key.variable()).map(PathBuf::from);
        let (path, origin) = if let Some(path) = typed {
            (path, Origin::Option(key.option()))
        } else if let Some(path) = variable() {
            (path, Origin::Variable(key.variable()))
        } else if let Some((text, line)) = self.file()?.get(key) {
            let file = self.file()?;
            let path = parse::path(text).map_err(|reason| file.wrong(line, &reason))?;
            (file.folder().join(path), Origin::File(file.path.clone(), line))
        } else {
            (self.data_home().ok_or(ConfigError::NoStore)?.join("stoa"), Origin::Default)
        };
        if let Err(reason) = parse::path(&path.to_string_lossy()) {
            return Err(self.wrong(&origin, &path.to_string_lossy(), &reason));
        }
        let path = std::path::absolute(&path).map_err(|error| PathError::new("find", path, error))?;
        Ok((path, origin))
    }

    /// Returns whether the gate may run the migrator.
    pub fn auto_migrate(&self, typed: Option<bool>) -> Result<bool, ConfigError> {
        let options = Options::default().with("auto_migrate", typed);
        Ok(self.value("auto_migrate", &options, Default::Value("true"), parse::switch)?.0)
    }

    /// Returns the maximum time to wait for the holder of a claim that makes no progress.
    pub fn claim_timeout(&self) -> Result<Duration, ConfigError> {
        let key = key("claim_timeout");
        Ok(self.value(key.name, &Options::default(), key.default, parse::timeout)?.0)
    }

    /// Returns the name of this deployment among its peers.
    pub fn peers_name(&self) -> Result<Option<String>, ConfigError> {
        let key = key("peers.name");
        let parse = |text: &str| parse::peer_name(text).map(Some);
        Ok(self.value(key.name, &Options::default(), key.default, parse)?.0)
    }

    /// Resolves the configuration of the migrator.
    pub fn migrate(
        &self,
        lock_timeout: Option<&str>,
        threads: Option<usize>,
        store_mode: Option<&str>,
    ) -> Result<MigrateConfig, ConfigError> {
        let options = Options::default().with("lock_timeout", lock_timeout).with("threads", threads);
        let options = options.with("store_mode", store_mode);
        let store_mode = self.value("store_mode", &options, key("store_mode").default, parse::mode)?.0;
        let lock_timeout =
            self.value("lock_timeout", &options, key("lock_timeout").default, parse::duration)?.0;
        let threads = |text: &str| parse::threads(text).map(Some);
        let threads = self.value("threads", &options, key("threads").default, threads)?.0;
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let set_threads = threads;
        Ok(MigrateConfig { lock_timeout, threads: threads.unwrap_or_else(all), set_threads, store_mode })
    }

    /// Reads the config file if `--config` or `STOA_CONFIG` names it, even if no key needs it: an error in it is reported.
    pub fn check_named(&self) -> Result<(), ConfigError> {
        if self.named_file().is_some() { self.file().map(|_| ()) } else { Ok(()) }
    }

    /// Returns everything that is wrong, in the order of the lines of the config file.
    pub fn faults(&self, options: &Options) -> Vec<ConfigError> {
        let file = match self.loaded() {
            Ok(file) => file,
            Err(error) => return vec![error],
        };
        let mut faults = file.faults();
        faults.extend(file.credentials.iter().filter_map(|table| table.resolve(file).err()));
        faults.extend(keys::all().filter_map(|key| {
            let (text, origin) = match self.above_file(key, options) {
                Ok(found) => found?,
                Err(error) => return Some(error),
            };
            (key.check)(&text).err().map(|reason| self.wrong(&origin, &text, &reason))
        }));
        let set = |name| self.above_file(key(name), options).ok().flatten().or_else(|| file.value(key(name)));
        let mode = set("mode").and_then(|(text, origin)| Some((text.trim().parse().ok()?, origin)));
        let (mode, origin) = mode.unwrap_or((Mode::default(), Origin::Default));
        let has_target = set("redirect_url").is_some();
        let own_name = set("peers.name").map(|(text, _)| text.trim().to_owned());
        faults.extend(Self::faults_of_peers(file, own_name.as_deref()));
        faults.extend(self.faults_of_access(file, set("auth.users_file"), set("auth.default")));
        faults.extend(self.limits_beside_bucket(options).unwrap_or_default());
        faults.extend(self.redirects_without_target(file, (mode, &origin), has_target));
        faults.sort_by_key(|fault| fault.line().unwrap_or(usize::MAX));
        faults
    }

    /// Returns warnings about the configuration: public files with secrets.
    pub fn warnings(&self) -> Result<Vec<String>, ConfigError> {
        let file = self.file()?;
        let is_risky = file.is_public && file.has_secret();
        let path = file.path.display();
        let warning = format!("{path} contains a secret and every user can read it\nhelp: chmod o-r {path}");
        Ok(if is_risky { vec![warning] } else { Vec::new() })
    }

    /// Returns every key with its value and origin, and the tables of the config file.
    pub fn show(&self, typed_store: Option<PathBuf>, options: &Options) -> Result<Vec<Shown>, ConfigError> {
        let mut all = Vec::new();
        for key in keys::all() {
            let (value, origin) = match (key.name, self.text(key, options)?) {
                ("store", _) => {
                    let (path, origin) = self.find_store(typed_store.clone())?;
                    (Some(path.display().to_string()), origin)
                }
                (_, Some((text, origin))) => (Some(masked(&text)), origin),
                ("threads", None) => {
                    (Some(self.migrate(None, None, None)?.threads.to_string()), Origin::Default)
                }
                (_, None) => match key.default {
                    Default::Value(text) => (Some(text.to_owned()), Origin::Default),
                    Default::Unset(..) => (None, Origin::Default),
                },
            };
            all.push(Shown { key: key.name.to_owned(), value, origin });
        }
        let file = self.file()?;
        for (name, text, line) in &file.in_tables {
            let is_secret = name.ends_with(".password") || name.ends_with(".bearer");
            let value = if is_secret { "***".to_owned() } else { masked(text) };
            let origin = Origin::File(file.path.clone(), *line);
            all.push(Shown { key: name.clone(), value: Some(value), origin });
        }
        Ok(all)
    }

    fn modules(&self) -> Result<Vec<ModuleTable>, ConfigError> {
        Ok(self.file()?.modules.clone())
    }

    /// Resolves a key.
    fn value<T: std::default::Default>(
        &self,
        name: &str,
        options: &Options,
        default: Default,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(T, Origin), ConfigError> {
        let (text, origin) = match (self.text(key(name), options)?, default) {
            (Some(found), _) => found,
            (None, Default::Value(text)) => (text.to_owned(), Origin::Default),
            (None, Default::Unset(..)) => return Ok((T::default(), Origin::Default)),
        };
        match parse(&text) {
            Ok(value) => Ok((value, origin)),
            Err(reason) => Err(self.wrong(&origin, &text, &reason)),
        }
    }

    /// Returns the text of a key and its origin. Returns `None` if nothing sets it.
    fn text(&self, key: &Key, options: &Options) -> Result<Option<(String, Origin)>, ConfigError> {
        if let Some(found) = self.above_file(key, options)? {
            return Ok(Some(found));
        }
        Ok(self.file()?.value(key))
    }

    /// Returns the text of an option or a variable.
    fn above_file(&self, key: &Key, options: &Options) -> Result<Option<(String, Origin)>, ConfigError> {
        if let Some(text) = options.get(key.name) {
            return Ok(Some((text.to_owned(), Origin::Option(key.option()))));
        }
        let variable = key.variable();
        let Some(value) = self.world.variable(&variable) else { return Ok(None) };
        match value.into_string() {
            Ok(text) => Ok(Some((text, Origin::Variable(variable)))),
            // A path need not be UTF-8, and `find_store` reads it by itself.
            Err(_) if key.name == "store" => Ok(None),
            Err(value) => {
                let origin = Origin::Variable(variable);
                Err(self.wrong(&origin, &value.to_string_lossy(), "the value is not UTF-8"))
            }
        }
    }

    /// Returns an error about a value.
    fn wrong(&self, origin: &Origin, value: &str, reason: &str) -> ConfigError {
        match (origin, self.file.get()) {
            (Origin::File(_, line), Some(file)) => file.wrong(*line, reason),
            _ => ConfigError::Value {
                origin: origin.to_string(),
                value: masked(value),
                reason: masked(reason),
            },
        }
    }

    fn file(&self) -> Result<&File, ConfigError> {
        let file = self.loaded()?;
        // A wrong value is an error even for a command that does not need its key.
        file.faults().into_iter().next().map_or(Ok(file), Err)
    }

    /// Returns the config file, even if a value in it is wrong.
    fn loaded(&self) -> Result<&File, ConfigError> {
        match self.file.get() {
            Some(file) => Ok(file),
            None => self.load().map(|file| self.file.get_or_init(|| file)),
        }
    }

    fn load(&self) -> Result<File, ConfigError> {
        if let Some((path, by)) = self.named_file() {
            if let Err(reason) = parse::path(&path.to_string_lossy()) {
                let value = path.display().to_string();
                return Err(ConfigError::Value { origin: by.to_owned(), value, reason });
            }
            return File::read(&path)?.ok_or(ConfigError::Missing { path, by });
        }
        let own = self.config_home().map(|home| home.join("stoa/config.toml"));
        for path in own.iter().chain([&self.world.system_file]) {
            if let Some(file) = File::read(path)? {
                return Ok(file);
            }
        }
        Ok(File::default())
    }

    fn named_file(&self) -> Option<(PathBuf, &'static str)> {
        let typed = self.named.clone().map(|path| (path, "--config"));
        typed.or_else(|| Some((self.world.variable("STOA_CONFIG")?.into(), "STOA_CONFIG")))
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

/// Returns a key that is declared. A name that is not declared is a mistake that the tests find.
fn key(name: &str) -> &'static Key {
    keys::find(name).unwrap_or(&keys::GENERAL[0])
}

/// Variables of Stoa that are not keys. The last is for tests.
const OTHER_VARIABLES: [&str; 3] = ["STOA_CONFIG", "STOA_LOG", "STOA_SWEEP_ALL"];

/// Returns variables that look like keys and are not, each with the nearest known name.
///
/// Kubernetes sets variables for services, also for those with a name such as `stoa` or `stoa-proxy`. They are ignored.
pub fn unknown_variables(world: &World) -> Vec<(String, Option<String>)> {
    let known: Vec<String> =
        keys::all().map(Key::variable).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    let is_of_kubernetes = |name: &str| {
        let parts = ["_SERVICE_PORT", "_PORT_"];
        parts.iter().any(|part| name.contains(part))
            || name.ends_with("_SERVICE_HOST")
            || name.ends_with("_PORT")
    };
    let unknown = world
        .names
        .iter()
        .filter(|name| name.starts_with("STOA_") && !known.contains(name) && !is_of_kubernetes(name));
    unknown
        .map(|name| (name.clone(), nearest(name, known.iter().map(String::as_str)).map(str::to_owned)))
        .collect()
}

/// Returns the known name that a mistyped name probably means.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = known.map(|known| (strsim::damerau_levenshtein(name, known), known));
    let (distance, known) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2.max(name.len() / 4)).then_some(known)
}
