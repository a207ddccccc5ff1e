//! The origin of a value.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// The place that sets a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An option of the command line.
    Option(String),
    /// A variable of the environment.
    Variable(String),
    /// A line of the config file, counted from one.
    File(PathBuf, usize),
    /// The configuration of the go command.
    GoEnv(&'static str),
    /// The program.
    Default,
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => f.write_str(name),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::GoEnv(name) => write!(f, "`go env {name}`"),
            Self::Default => f.write_str("default"),
        }
    }
}
