//! What lies outside of the program and says what it should do: variables, and where files are.

use std::ffi::OsString;
use std::path::PathBuf;

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
    pub(super) fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}
