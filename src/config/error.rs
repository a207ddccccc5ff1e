//! What is wrong with a configuration, and where it stands.

use std::path::PathBuf;

use stoa_layout::{Exit, PathError};

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
