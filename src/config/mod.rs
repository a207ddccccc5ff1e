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
//!
//! | module | what it is for |
//! | --- | --- |
//! | `world` | variables, and where files are |
//! | `file` | the config file as it is written |
//! | `rules` | the rules about modules in it |
//! | `fetching` | how upstreams are asked |
//! | `serve` | what is meant for the proxy |
//! | `variable` | values of variables |
//! | `shown` | what of it all may stand in a message |

mod error;
mod fetching;
mod file;
mod rules;
mod serve;
mod shown;
mod variable;
mod world;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stoa_layout::PathError;

use self::file::{File, Loaded, read};
use self::shown::redacted;
use self::variable::FromVariable;

pub use self::error::ConfigError;
pub use self::fetching::{Fetching, TypedFetching};
pub use self::rules::ModuleTable;
pub use self::serve::{ServeConfig, TypedServe};
pub use self::variable::{parse_switch, variable_of};
pub use self::world::{Lookup, World};

/// How many threads a migration may use: more than any disk can answer at once.
const MOST_THREADS: usize = 1024;

/// What is meant for the migrator, besides what it is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateConfig {
    /// How long to wait for those who use the store at an older layout.
    pub lock_timeout: Duration,
    /// How many threads a step may use.
    pub threads: usize,
}

/// Resolves keys, and reads the config file when the first key needs it.
pub struct Settings<'a> {
    world: &'a World,
    named: Option<PathBuf>,
    file: OnceCell<Loaded>,
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

    /// Returns the config file that was read, if one was.
    pub fn config_file(&self) -> Option<&Path> {
        let loaded = self.file.get()?;
        Some(loaded.path.as_path()).filter(|path| !path.as_os_str().is_empty())
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
        ConfigError::Value { whence, value: redacted(&value.into()), why: redacted(why) }
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
            value: redacted(&value.to_string_lossy()),
            why: redacted(&why),
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
