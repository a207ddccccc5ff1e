//! The environment of the program: variables and the paths of files.

use std::ffi::OsString;
use std::path::PathBuf;

/// Returns the value of a variable.
pub type Lookup = dyn Fn(&str) -> Option<OsString>;

/// The environment of the program.
pub struct World {
    /// Returns the value of a variable.
    pub variable: Box<Lookup>,
    /// The names of all variables.
    pub names: Vec<String>,
    /// The config file of the system.
    pub system_file: PathBuf,
}

impl World {
    /// Returns the environment of this process.
    pub fn of_process() -> Self {
        Self {
            variable: Box::new(|name| std::env::var_os(name)),
            names: std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect(),
            system_file: PathBuf::from("/etc/stoa/config.toml"),
        }
    }

    /// Returns the value of a variable. An empty value counts as not set.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Returns an absolute path from a variable. A relative path is ignored, as the XDG rules require.
    pub(super) fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}
