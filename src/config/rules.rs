//! The rules about modules, `[[module]]` in the config file.

use serde::{Deserialize, Deserializer};
use stoa_gomod::VersionRange;
use stoa_gomod::private::Patterns;

use crate::fill::{ChecksumPolicy, Mode};

/// A rule as it stands in the config file; what it does not say is as elsewhere in the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleTable {
    /// Which modules it is about, in the syntax of `GOPRIVATE`.
    #[serde(deserialize_with = "patterns")]
    pub pattern: Patterns,
    /// What is done about what is not in the store.
    pub mode: Option<Mode>,
    /// Where the modes that redirect lead to.
    #[serde(default, deserialize_with = "redirect_url")]
    pub redirect_url: Option<String>,
    /// Where to fetch from, in the syntax of `GOPROXY`.
    pub upstream: Option<String>,
    /// The only versions that are to be had.
    #[serde(default, deserialize_with = "ranges")]
    pub allow: Vec<VersionRange>,
    /// Versions that are not to be had.
    #[serde(default, deserialize_with = "ranges")]
    pub deny: Vec<VersionRange>,
    /// Whether what is fetched is compared with what a checksum database says.
    pub checksum: Option<ChecksumPolicy>,
}

fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
    let text = String::deserialize(deserializer)?;
    let patterns = Patterns::parse_strict(&text).map_err(serde::de::Error::custom)?;
    match patterns.is_empty() {
        true => Err(serde::de::Error::custom("no module matches an empty pattern; * matches all")),
        false => Ok(patterns),
    }
}

fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<VersionRange>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn redirect_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_redirect_url(&text).map(Some).map_err(serde::de::Error::custom)
}

/// Reads the base of a redirection. It is told to every client, and so holds no credentials.
pub(super) fn parse_redirect_url(text: &str) -> Result<String, &'static str> {
    let url = reqwest::Url::parse(text).map_err(|_| "it takes a URL, as in https://proxy.example.org")?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if !is_plain || url.query().is_some() || url.fragment().is_some() {
        return Err("it takes an http or https URL without a query");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("every client gets to see it: leave the credentials out");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
