//! The rules about modules, `[[module]]` in the config file.

use serde::{Deserialize, Deserializer};
use stoa_gomod::VersionRange;
use stoa_gomod::private::Patterns;

use super::parse;
use crate::policy::{ChecksumPolicy, Mode};

/// A rule of the config file. A value that it does not set comes from the top level of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleTable {
    /// The modules of the rule, in the syntax of `GOPRIVATE`.
    #[serde(deserialize_with = "patterns")]
    pub pattern: Patterns,
    /// The answer for a version that is not in the store.
    pub mode: Option<Mode>,
    /// The target of the modes that redirect.
    #[serde(default, deserialize_with = "redirect_url")]
    pub redirect_url: Option<String>,
    /// The upstreams, in the syntax of `GOPROXY`.
    #[serde(default, deserialize_with = "upstream")]
    pub upstream: Option<String>,
    /// The only allowed versions. All are allowed if there is none.
    #[serde(default, deserialize_with = "ranges")]
    pub allow: Vec<VersionRange>,
    /// Versions that are refused.
    #[serde(default, deserialize_with = "ranges")]
    pub deny: Vec<VersionRange>,
    /// The verification of downloads against the checksum database.
    pub checksum: Option<ChecksumPolicy>,
    /// The line of the config file.
    #[serde(skip)]
    pub line: usize,
}

fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
    let text = String::deserialize(deserializer)?;
    let patterns = Patterns::parse_strict(&text).map_err(serde::de::Error::custom)?;
    match patterns.is_empty() {
        true => Err(serde::de::Error::custom("an empty pattern matches no module; * matches all")),
        false => Ok(patterns),
    }
}

fn upstream<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse::upstream(&text).map(Some).map_err(serde::de::Error::custom)
}

fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<VersionRange>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn redirect_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse::redirect_url(&text).map(Some).map_err(serde::de::Error::custom)
}
