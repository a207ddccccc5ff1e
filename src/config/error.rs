//! Errors of the configuration.

use std::path::PathBuf;

use stoa_layout::{Exit, PathError};

/// The configuration is wrong, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A config file does not exist.
    #[error("cannot read the config file {path}, set by {by}: it does not exist\nhelp: set the path of an existing file", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The option or variable that names the file.
        by: &'static str,
    },
    /// A config file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] PathError),
    /// A line of the config file is wrong.
    #[error("{path}, line {line}, `{text}`: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// The text of the line, without secrets.
        text: String,
        /// The reason.
        reason: String,
    },
    /// The location of the store is unknown.
    #[error(
        "cannot find the store: neither HOME nor XDG_DATA_HOME is set\nhelp: set it with --store, STOA_STORE or `store` in the \
         config file"
    )]
    NoStore,
    /// A folder was named as the config file.
    #[error("cannot read the config file {path}: it is a folder\nhelp: set the path of the file in it", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// An option or a variable has a wrong value.
    #[error("{origin} is {value:?}: {reason}")]
    Value {
        /// The option or the variable.
        origin: String,
        /// The value, without secrets.
        value: String,
        /// The reason.
        reason: String,
    },
}

impl ConfigError {
    /// Returns the line of the config file, if the error is about one.
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// Returns the exit code of a program for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreadable(error) => error.exit(),
            _ => Exit::USAGE,
        }
    }
}
