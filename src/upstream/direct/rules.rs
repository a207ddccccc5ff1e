//! The rules about modules, as far as version control needs them.
//!
//! A module is *covered* if `GOPRIVATE` or a rule names it. Only for covered modules does the go command use
//! credentials, ssh and addresses that are not public. The path of a module need not be that of its repository,
//! so the versions that a rule denies are denied for the repository, too.

use ipnet::IpNet;
use reqwest::Url;
use std::net::IpAddr;
use stoa_gomod::private::Patterns;
use stoa_gomod::{ModulePath, Version, VersionRange};

/// The end of the reason why a module is not allowed, or why there is no access to it.
pub(super) const NOT_COVERED: &str = ", and neither a rule nor GOPRIVATE covers this module";

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct DirectRules {
    /// The patterns of `GOPRIVATE`.
    pub private: Patterns,
    /// The rules of the configuration, in order. The first match decides.
    pub rules: Vec<DirectRule>,
    /// Address ranges that are treated like public addresses.
    pub allow_addresses: Vec<IpNet>,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct DirectRule {
    patterns: Patterns,
    /// Hosts may ignore case in paths, so a `deny` does, too.
    lowercase: Patterns,
    covers: bool,
    allow: Vec<VersionRange>,
    deny: Vec<VersionRange>,
}

impl DirectRule {
    /// Creates a rule. `covers` is whether the modules of these patterns are covered.
    pub fn new(patterns: Patterns, covers: bool, allow: Vec<VersionRange>, deny: Vec<VersionRange>) -> Self {
        let lowercase = Patterns::parse(&patterns.to_string().to_lowercase());
        Self { patterns, lowercase, covers, allow, deny }
    }

    fn denies(&self, version: Option<&Version>) -> bool {
        let Some(version) = version else { return self.deny.iter().any(VersionRange::is_any) };
        let within = |ranges: &[VersionRange]| ranges.iter().any(|range| range.contains(version));
        within(&self.deny) || !self.allow.is_empty() && !within(&self.allow)
    }
}

impl DirectRules {
    /// Returns whether `GOPRIVATE` or a rule covers a module.
    pub(super) fn covers(&self, module: &ModulePath) -> bool {
        let rule = || self.rules.iter().find(|rule| rule.patterns.matches(module.as_str()));
        self.private.matches(module.as_str()) || rule().is_some_and(|rule| rule.covers)
    }

    /// Returns whether any module is covered.
    pub(super) fn cover_any(&self) -> bool {
        !self.private.is_empty() || self.rules.iter().any(|rule| rule.covers)
    }

    /// Returns whether any version of any module is denied.
    pub(super) fn deny_any(&self) -> bool {
        self.rules.iter().any(|rule| !rule.deny.is_empty() || !rule.allow.is_empty())
    }

    /// Returns whether a version of the module at `path` is denied. Without a version, returns whether all are.
    pub(super) fn deny(&self, path: &str, version: Option<&Version>) -> bool {
        let lowercase = path.to_lowercase();
        let exact = self.rules.iter().find(|rule| rule.patterns.matches(path));
        let similar = self.rules.iter().find(|rule| rule.lowercase.matches(&lowercase));
        exact.is_some_and(|rule| rule.denies(version)) || similar.is_some_and(|rule| rule.denies(version))
    }

    /// Returns whether modules that are not covered may be at an address.
    pub(super) fn allow_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        super::super::address::is_public(address)
            || self.allow_addresses.iter().any(|range| range.contains(&address))
    }
}

/// The place of a module in version control.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Repository {
    #[serde(rename = "URL", default)]
    pub(super) url: String,
    #[serde(rename = "Subdir", default)]
    pub(super) folder: String,
}

impl Repository {
    /// Returns the path that the module would have without a go-import meta tag. `None` if the repository is local.
    pub(super) fn module_path(&self, module: &str) -> Option<String> {
        let (host, path) = host_and_path(&self.url)?;
        let host = host.trim_end_matches('.');
        let elements = path.split('/').filter(|element| !element.is_empty());
        let root = elements.collect::<Vec<_>>().join("/");
        let root = root.strip_suffix(".git").unwrap_or(&root);
        let mut real = format!("{}/{root}", host.strip_prefix("www.").unwrap_or(host));
        if !self.folder.is_empty() {
            real = format!("{real}/{}", self.folder.trim_matches('/'));
        }
        if let Some(major) = major_element(module)
            && real.rsplit('/').next() != Some(major)
        {
            real = format!("{real}/{major}");
        }
        Some(real)
    }
}

/// Returns the last element of a path if it is a major version: `v2`.
fn major_element(path: &str) -> Option<&str> {
    let last = path.rsplit('/').next()?;
    let digits = last.strip_prefix('v')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(last)
}

/// Splits the URL of a repository, also in the form of scp: `git@host:path`.
fn host_and_path(url: &str) -> Option<(String, String)> {
    let decoded = |path: &str| percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    if url.contains("://") {
        let url = Url::parse(url).ok()?;
        return Some((url.host_str()?.to_lowercase(), decoded(url.path())));
    }
    let (host, path) = url.split_once(':')?;
    let host = host.rsplit('@').next().unwrap_or(host);
    (!host.is_empty() && !host.contains('/')).then(|| (host.to_lowercase(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(patterns: &str, covers: bool, deny: &[&str]) -> DirectRule {
        let deny = deny.iter().map(|text| text.parse().unwrap()).collect();
        DirectRule::new(Patterns::parse(patterns), covers, Vec::new(), deny)
    }

    #[test]
    fn the_first_matching_rule_or_goprivate_covers_a_module() {
        let rules = DirectRules {
            private: Patterns::parse("*.corp.example"),
            rules: vec![rule("a.example/open", false, &[]), rule("a.example", true, &[])],
            allow_addresses: Vec::new(),
        };
        for (module, covered) in [
            ("git.corp.example/x", true),
            ("a.example/open/x", false),
            ("a.example/x", true),
            ("b.example/x", false),
        ] {
            assert_eq!(rules.covers(&ModulePath::new(module).unwrap()), covered, "{module}");
        }
        assert!(rules.cover_any() && !rules.deny_any());
    }

    #[test]
    fn a_deny_ignores_case_and_an_exception_before_it_holds() {
        let rules = DirectRules {
            rules: vec![
                rule("h.example/Bad/good", false, &[]),
                rule("h.example/Bad", false, &["*"]),
                rule("h.example/x", false, &["v1.3.0"]),
            ],
            ..DirectRules::default()
        };
        let version = Version::new("v1.3.0").unwrap();
        assert!(rules.deny("h.example/Bad/x", None) && rules.deny("h.example/bad/x", Some(&version)));
        assert!(!rules.deny("h.example/Bad/good", None) && !rules.deny("h.example/badly", None));
        assert!(!rules.deny("h.example/x", None) && rules.deny("h.example/x", Some(&version)));
    }

    #[test]
    fn repositories_have_the_path_of_a_module() {
        let path = |url: &str, folder: &str, module: &str| {
            let repository = Repository { url: url.to_owned(), folder: folder.to_owned() };
            repository.module_path(module)
        };
        for (url, folder, module, expected) in [
            ("https://H.example/a/b.git", "", "v.example/x", "h.example/a/b"),
            ("https://u@h.example:443/a//%62/", "", "v.example/x/v2", "h.example/a/b/v2"),
            ("https://www.h.example./a/./b", "c/v2", "v.example/x/v2", "h.example/a/b/c/v2"),
            ("git@h.example:a/b.git", "", "v.example/x", "h.example/a/b"),
            ("ssh://git@h.example/a/b", "c", "v.example/x", "h.example/a/b/c"),
        ] {
            assert_eq!(path(url, folder, module).as_deref(), Some(expected), "{url}");
        }
        assert_eq!(path("file:///srv/git/x", "", "v.example/x"), None);
        assert_eq!(path("/srv/git/x", "", "v.example/x"), None);
    }
}
