//! What is done about a module: where it is fetched from, whether, and which of its versions are to be had.
//!
//! Rules have patterns in the syntax of `GOPRIVATE`, matched against the module path as it is written in a
//! `go.mod` (not escaped). The first rule that matches decides, and another one stands behind them all.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use stoa_gomod::private::Patterns;
use stoa_gomod::{ModulePath, ModuleVersion, Version, VersionRange};

use super::{Checksums, FillError};
use crate::upstream::Upstream;

/// What is done about a version that is asked for and not in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is fetched, stored, and given to who asked while it arrives.
    #[default]
    Sync,
    /// It is fetched and stored in the background; who asked is told that it is not there.
    Async,
    /// Who asked is sent elsewhere; nothing is stored.
    Redirect,
    /// Who asked is sent elsewhere, and it is fetched and stored in the background.
    AsyncRedirect,
    /// It is not fetched.
    None,
}

/// Whether what is fetched is compared with what a checksum database says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumPolicy {
    /// Where an upstream passes the database on, and as far as the database knows the version.
    #[default]
    Auto,
    /// Nothing is taken that the database does not vouch for.
    Require,
    /// The database is not asked.
    Off,
}

/// A word that is none of those known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it takes one of {}", .0.join(", "))]
pub struct UnknownWord(&'static [&'static str]);

impl Mode {
    const WORDS: [(&'static str, Self); 5] = [
        ("sync", Self::Sync),
        ("async", Self::Async),
        ("redirect", Self::Redirect),
        ("async_redirect", Self::AsyncRedirect),
        ("none", Self::None),
    ];

    /// Whether who asks for what is not there is sent elsewhere.
    pub fn redirects(self) -> bool {
        matches!(self, Self::Redirect | Self::AsyncRedirect)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, mode)| mode == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromStr for Mode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::WORDS.iter().find(|(word, _)| *word == text);
        known.map(|(_, mode)| *mode).ok_or(UnknownWord(&[
            "sync",
            "async",
            "redirect",
            "async_redirect",
            "none",
        ]))
    }
}

impl FromStr for ChecksumPolicy {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "require" => Ok(Self::Require),
            "off" => Ok(Self::Off),
            _ => Err(UnknownWord(&["auto", "require", "off"])),
        }
    }
}

/// What is done about the modules of some patterns.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What is done about what is not there.
    pub mode: Mode,
    /// The base that [`Mode::Redirect`] and [`Mode::AsyncRedirect`] lead to, without a slash at its end.
    pub redirect_url: Option<String>,
    /// Where these modules are fetched from.
    pub upstream: Upstream,
    /// The only versions that are to be had; any, if it is empty.
    pub allow: Vec<VersionRange>,
    /// Versions that are not to be had, whatever `allow` says.
    pub deny: Vec<VersionRange>,
    /// Whether what is fetched is compared with what a checksum database says.
    pub checksum: ChecksumPolicy,
    /// Whether no checksum database hears of these modules, not even by a client that asks for it through this proxy.
    pub is_private: bool,
}

impl Rule {
    /// Fetches everything from an upstream, and gives it to everybody.
    pub fn fetching_from(upstream: Upstream) -> Self {
        Self {
            mode: Mode::default(),
            redirect_url: None,
            upstream,
            allow: Vec::new(),
            deny: Vec::new(),
            checksum: ChecksumPolicy::default(),
            is_private: false,
        }
    }

    /// Whether a version is to be had, stored or not.
    pub fn admits(&self, version: &Version) -> bool {
        let within = |ranges: &[VersionRange]| ranges.iter().any(|range| range.contains(version));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }

    /// Whether every version is to be had.
    pub fn admits_all(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// The rules, in order.
#[derive(Clone)]
pub struct Policy {
    rules: Vec<(Patterns, Rule)>,
    otherwise: Rule,
    checksums: Arc<Checksums>,
}

impl Policy {
    /// Tries the rules in order; `otherwise` is for modules that none matches.
    pub fn new(mut rules: Vec<(Patterns, Rule)>, mut otherwise: Rule) -> Self {
        // What is not fetched is not asked for either: a list would name versions that are not to be had.
        let all = rules.iter_mut().map(|(_, rule)| rule).chain([&mut otherwise]);
        all.filter(|rule| rule.mode == Mode::None).for_each(|rule| rule.upstream = Upstream::offline());
        Self { rules, otherwise, checksums: Arc::default() }
    }

    /// Says what fills are verified against; nothing, if nobody says it.
    pub fn verified_against(self, checksums: Checksums) -> Self {
        Self { checksums: Arc::new(checksums), ..self }
    }

    /// Whether anything must be vouched for.
    pub fn requires_checksums(&self) -> bool {
        let all = self.rules.iter().map(|(_, rule)| rule).chain([&self.otherwise]);
        all.into_iter().any(|rule| rule.checksum == ChecksumPolicy::Require)
    }

    /// Is what fills are verified against.
    pub fn checksums(&self) -> &Arc<Checksums> {
        &self.checksums
    }

    /// Is the rule that decides about a module.
    pub fn rule(&self, module: &ModulePath) -> &Rule {
        let known = self.rules.iter().find(|(patterns, _)| patterns.matches(module.as_str()));
        known.map_or(&self.otherwise, |(_, rule)| rule)
    }

    /// Says why nothing of a module is to be had, be it stored or not.
    pub fn check_module(&self, module: &ModulePath) -> Result<(), FillError> {
        match self.rule(module).deny.iter().any(VersionRange::is_any) {
            true => Err(FillError::Denied(module.to_string())),
            false => Ok(()),
        }
    }

    /// Whether no checksum database may hear of a module.
    pub fn is_private(&self, module: &ModulePath) -> bool {
        self.rule(module).is_private || self.check_module(module).is_err()
    }

    /// Is whom to ask for what belongs to no module: the upstream of the first rule that has one, beginning with what
    /// is done where no rule matches.
    pub fn upstream_of_none(&self) -> &Upstream {
        let all = [&self.otherwise].into_iter().chain(self.rules.iter().map(|(_, rule)| rule));
        all.map(|rule| &rule.upstream)
            .find(|upstream| !upstream.is_offline())
            .unwrap_or(&self.otherwise.upstream)
    }

    /// Lists the upstreams of all rules.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.rules.iter().map(|(_, rule)| rule).chain([&self.otherwise]).map(|rule| &rule.upstream)
    }

    /// Returns whether some upstream can be asked without the go command.
    pub fn has_proxy(&self) -> bool {
        self.upstreams().any(Upstream::has_proxy)
    }

    /// Says why a version is not to be had, be it stored or not.
    pub fn check(&self, version: &ModuleVersion) -> Result<(), FillError> {
        if self.rules.is_empty() && self.otherwise.admits_all() {
            return Ok(());
        }
        match self.rule(version.path()).admits(version.version()) {
            true => Ok(()),
            false => Err(FillError::Denied(version.to_string())),
        }
    }

    /// Whether nothing is fetched, whatever is asked for.
    pub fn is_offline(&self) -> bool {
        let all = self.rules.iter().map(|(_, rule)| rule).chain([&self.otherwise]);
        all.into_iter().all(|rule| rule.upstream.is_offline())
    }
}

impl From<Upstream> for Policy {
    fn from(upstream: Upstream) -> Self {
        Self::new(Vec::new(), Rule::fetching_from(upstream))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("rules", &self.rules).field("otherwise", &self.otherwise).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &[&str], deny: &[&str]) -> Rule {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Rule { allow: ranges(allow), deny: ranges(deny), ..Rule::fetching_from(Upstream::offline()) }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let none = Rule { mode: Mode::None, ..rule(&[], &[]) };
        let rules = vec![
            (Patterns::parse("example.org/Acme/open"), rule(&[], &[])),
            (Patterns::parse("example.org/Acme,*.corp.example"), none),
        ];
        let policy = Policy::new(rules, Rule { mode: Mode::Redirect, ..rule(&[], &[]) });
        for (module, mode) in [
            ("example.org/Acme/open", Mode::Sync),
            ("example.org/Acme/open/v2", Mode::Sync),
            ("example.org/Acme/closed", Mode::None),
            ("git.corp.example/x", Mode::None),
            ("example.org/acme", Mode::Redirect),
            ("corp.example/x", Mode::Redirect),
        ] {
            assert_eq!(policy.rule(&ModulePath::new(module).unwrap()).mode, mode, "{module}");
        }
    }

    #[test]
    fn what_is_denied_is_not_allowed() {
        let (allow, deny) = (&["v1.*", ">=v2.1.0"], &["v1.3.0"]);
        let policy = Policy::new(vec![(Patterns::parse("a.b"), rule(allow, deny))], rule(&[], &[]));
        let admits = |text: &str| policy.check(&ModuleVersion::parse(text).unwrap()).is_ok();
        assert!(admits("a.b@v1.2.0") && admits("a.b/v2@v2.1.0") && admits("c.d@v1.3.0"));
        assert!(!admits("a.b@v1.3.0") && !admits("a.b@v0.9.0") && !admits("a.b/v2@v2.0.9"));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for (word, mode) in Mode::WORDS {
            assert_eq!(word.parse(), Ok(mode));
            assert_eq!(mode.to_string(), word);
        }
        let unknown = "sometimes".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(unknown, "it takes one of sync, async, redirect, async_redirect, none");
        assert!("on".parse::<ChecksumPolicy>().is_err());
    }
}
