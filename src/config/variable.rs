//! Values of variables, and what a variable is called.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::fill::{ChecksumPolicy, Mode};

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

/// A value that a variable can hold.
pub(super) trait FromVariable: Sized {
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

impl FromVariable for Mode {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        value.to_string_lossy().parse().map_err(|error: crate::fill::UnknownWord| error.to_string())
    }
}

impl FromVariable for ChecksumPolicy {
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        value.to_string_lossy().parse().map_err(|error: crate::fill::UnknownWord| error.to_string())
    }
}
