//! The rules per module: its upstream, its mode, and the allowed versions.
//!
//! The patterns of a rule have the syntax of `GOPRIVATE` and match the unescaped module path. The first
//! matching rule applies. If no rule matches, the default rule applies.
//!
//! The rules are asked once per request. The answer is a [`Permit`] or a [`ModulePermit`], which everything that
//! downloads or answers demands.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use stoa_gomod::private::Patterns;
use stoa_gomod::{ModulePath, ModuleVersion, Version, VersionRange};

use crate::unavailable::Unavailable;
use crate::upstream::Upstream;

/// The reaction to a request for a version that is not in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Stoa downloads and stores the version, and sends it to the client while it arrives.
    #[default]
    Sync,
    /// Stoa answers 404 and downloads the version in the background.
    Async,
    /// Stoa redirects the client and stores nothing.
    Redirect,
    /// Stoa redirects the client and downloads the version in the background.
    AsyncRedirect,
    /// Stoa answers 404 and downloads nothing.
    None,
}

/// Whether downloads are verified against a checksum database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChecksumPolicy {
    /// Versions are verified if an upstream serves the database and the database knows them.
    #[default]
    Auto,
    /// Versions that the database does not confirm are refused.
    Require,
    /// The database is not asked.
    Off,
}

/// An unknown value; lists the valid values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", .0.join(", "))]
pub struct UnknownWord(&'static [&'static str]);

impl Mode {
    const WORDS: [(&'static str, Self); 5] = [
        ("sync", Self::Sync),
        ("async", Self::Async),
        ("redirect", Self::Redirect),
        ("async_redirect", Self::AsyncRedirect),
        ("none", Self::None),
    ];

    /// Returns whether clients are redirected.
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

/// The rule for the modules of some patterns.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The reaction to requests for missing versions.
    pub mode: Mode,
    /// The base URL of redirects, without a trailing slash.
    pub redirect_url: Option<String>,
    /// The upstream of these modules.
    pub upstream: Upstream,
    /// The allowed versions. If empty, all versions are allowed.
    pub allow: Vec<VersionRange>,
    /// The denied versions, even if `allow` contains them.
    pub deny: Vec<VersionRange>,
    /// Whether these modules are verified against a checksum database.
    pub checksum: ChecksumPolicy,
    /// Whether the names of these modules are kept from checksum databases. This also applies to a client
    /// that asks a database through this proxy.
    pub is_private: bool,
    /// The reason for which versions are denied. Clients see it.
    pub reason: Option<Arc<str>>,
}

impl Rule {
    /// Returns a rule that allows every version and downloads it from an upstream.
    pub fn fetching_from(upstream: Upstream) -> Self {
        Self {
            mode: Mode::default(),
            redirect_url: None,
            upstream,
            allow: Vec::new(),
            deny: Vec::new(),
            checksum: ChecksumPolicy::default(),
            is_private: false,
            reason: None,
        }
    }

    /// Returns the rule with another upstream, from which missing versions are fetched while the client waits.
    #[must_use]
    pub(crate) fn fetching_now_from(&self, upstream: Upstream) -> Self {
        Self { mode: Mode::Sync, upstream, ..self.clone() }
    }

    /// Returns whether a version is allowed, whether it is stored or not.
    pub fn admits(&self, version: &Version) -> bool {
        let within = |ranges: &[VersionRange]| ranges.iter().any(|range| range.contains(version));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }

    /// Returns the error for a version or a module that the rule denies.
    pub(crate) fn denied(&self, name: impl fmt::Display) -> Unavailable {
        Unavailable::Denied { name: name.to_string(), reason: self.reason.clone() }
    }

    /// Returns whether every version is allowed.
    pub fn admits_all(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// The permission to serve a version, and the rule of its module.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a> {
    version: &'a ModuleVersion,
    rule: &'a Arc<Rule>,
}

impl<'a> Permit<'a> {
    /// Returns the permitted version.
    pub fn version(self) -> &'a ModuleVersion {
        self.version
    }

    /// Returns the rule of the module.
    pub fn rule(self) -> &'a Arc<Rule> {
        self.rule
    }

    /// Returns the permission with another rule of the module, which has other upstreams.
    pub(crate) fn with_rule<'b>(self, rule: &'b Arc<Rule>) -> Permit<'b>
    where
        'a: 'b,
    {
        Permit { version: self.version, rule }
    }
}

/// The permission to answer questions about a module, and its rule. Single versions may be denied all the same, see
/// [`Rule::admits`].
#[derive(Debug, Clone, Copy)]
pub struct ModulePermit<'a> {
    module: &'a ModulePath,
    rule: &'a Arc<Rule>,
}

impl<'a> ModulePermit<'a> {
    /// Returns the module.
    pub fn module(self) -> &'a ModulePath {
        self.module
    }

    /// Returns the rule of the module.
    pub fn rule(self) -> &'a Arc<Rule> {
        self.rule
    }
}

/// An ordered list of rules and a default rule.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<(Patterns, Arc<Rule>)>,
    otherwise: Arc<Rule>,
}

impl Policy {
    /// Creates a policy; `otherwise` applies to modules that match no rule.
    pub fn new(mut rules: Vec<(Patterns, Rule)>, mut otherwise: Rule) -> Self {
        // With mode `none`, lists must not name versions that cannot be downloaded.
        let all = rules.iter_mut().map(|(_, rule)| rule).chain([&mut otherwise]);
        all.filter(|rule| rule.mode == Mode::None).for_each(|rule| rule.upstream = Upstream::offline());
        let rules = rules.into_iter().map(|(patterns, rule)| (patterns, Arc::new(rule))).collect();
        Self { rules, otherwise: Arc::new(otherwise) }
    }

    /// Returns whether a rule requires verification.
    pub fn requires_checksums(&self) -> bool {
        self.all().any(|rule| rule.checksum == ChecksumPolicy::Require)
    }

    /// Returns the rule that applies to a module.
    pub fn rule(&self, module: &ModulePath) -> &Arc<Rule> {
        let matching = self.rules.iter().find(|(patterns, _)| patterns.matches(module.as_str()));
        matching.map_or(&self.otherwise, |(_, rule)| rule)
    }

    /// Returns the permission to serve a version, or an error if the version is denied, whether it is stored or not.
    pub fn permit<'a>(&'a self, version: &'a ModuleVersion) -> Result<Permit<'a>, Unavailable> {
        let rule = self.rule(version.path());
        match rule.admits(version.version()) {
            true => Ok(Permit { version, rule }),
            false => Err(rule.denied(version)),
        }
    }

    /// Returns the permission to answer questions about a module, or an error if all its versions are denied.
    pub fn permit_module<'a>(&'a self, module: &'a ModulePath) -> Result<ModulePermit<'a>, Unavailable> {
        let rule = self.rule(module);
        match rule.deny.iter().any(VersionRange::is_any) {
            true => Err(rule.denied(module)),
            false => Ok(ModulePermit { module, rule }),
        }
    }

    /// Returns whether the name of a module is kept from checksum databases.
    pub fn is_private(&self, module: &ModulePath) -> bool {
        self.rule(module).is_private || self.permit_module(module).is_err()
    }

    /// Returns the upstream for requests that belong to no module: the upstream of the default rule, or
    /// else of the first rule that has an upstream.
    pub fn upstream_of_none(&self) -> &Upstream {
        let all = [&self.otherwise].into_iter().chain(self.rules.iter().map(|(_, rule)| rule));
        all.map(|rule| &rule.upstream)
            .find(|upstream| !upstream.is_offline())
            .unwrap_or(&self.otherwise.upstream)
    }

    /// Returns the upstreams of all rules.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.all().map(|rule| &rule.upstream)
    }

    /// Returns whether some upstream can be asked without the go command.
    pub fn has_proxy(&self) -> bool {
        self.upstreams().any(Upstream::has_proxy)
    }

    /// Returns whether no rule has an upstream.
    pub fn is_offline(&self) -> bool {
        self.upstreams().all(Upstream::is_offline)
    }

    /// Returns all rules, the default rule last.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().map(|(_, rule)| rule).chain([&self.otherwise])
    }

    fn all(&self) -> impl Iterator<Item = &Rule> {
        self.rules().map(Arc::as_ref)
    }
}

/// The policy of a server, which a reload replaces.
#[derive(Debug)]
pub struct PolicyCell(ArcSwap<Policy>);

impl PolicyCell {
    /// Begins with a policy.
    pub fn new(policy: Policy) -> Self {
        Self(ArcSwap::from_pointee(policy))
    }

    /// Returns the policy of this moment. A request keeps it to its end.
    pub fn load(&self) -> Arc<Policy> {
        self.0.load_full()
    }

    /// Replaces the policy.
    pub fn replace(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }
}

impl From<Upstream> for Policy {
    fn from(upstream: Upstream) -> Self {
        Self::new(Vec::new(), Rule::fetching_from(upstream))
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
    fn the_first_matching_rule_applies() {
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
    fn deny_overrides_allow() {
        let (allow, deny) = (&["v1.*", ">=v2.1.0"], &["v1.3.0"]);
        let policy = Policy::new(vec![(Patterns::parse("a.b"), rule(allow, deny))], rule(&[], &[]));
        let admits = |text: &str| policy.permit(&ModuleVersion::parse(text).unwrap()).is_ok();
        assert!(admits("a.b@v1.2.0") && admits("a.b/v2@v2.1.0") && admits("c.d@v1.3.0"));
        assert!(!admits("a.b@v1.3.0") && !admits("a.b@v0.9.0") && !admits("a.b/v2@v2.0.9"));
    }

    #[test]
    fn modes_parse_as_they_are_printed() {
        for (word, mode) in Mode::WORDS {
            assert_eq!(word.parse(), Ok(mode));
            assert_eq!(mode.to_string(), word);
        }
        let unknown = "sometimes".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(unknown, "must be one of sync, async, redirect, async_redirect, none");
        assert!("on".parse::<ChecksumPolicy>().is_err());
    }
}
