//! The configuration of the server, as a whole.

use std::path::PathBuf;

use stoa_gomod::private::Patterns;

use super::file::File;
use super::keys::ServeConfig;
use super::rules::ModuleTable;
use super::{ConfigError, Options, Origin, Settings, key};
use crate::eviction::{EvictionOptions, Limits};
use crate::policy::{ChecksumPolicy, Mode};
use crate::upstream::{Direct, DirectOptions, DirectRule, DirectRules, UpstreamOptions};

/// The keys that limit the store of a server without a bucket.
const LIMITS: [&str; 3] = ["store.max_size", "store.min_free", "store.unused_for"];

const HAS_BUCKET: &str = "with a bucket the store is a cache; set bucket.max_local_size instead";

const NO_TARGET: &str = "a mode that redirects needs redirect_url";

impl ServeConfig {
    /// Returns the origin of the value of a key.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Returns whether some list of upstreams names version control; `upstream` is the list of the default rule.
    pub fn uses_direct(&self, upstream: Option<&str>) -> bool {
        let lists = self.modules.iter().filter_map(|table| table.upstream.as_deref()).chain(upstream);
        lists.into_iter().any(names_direct)
    }

    /// Returns the settings for the eviction, if the store has a limit. `private` are the private modules, besides those of
    /// the rules.
    pub(crate) fn eviction(&self, private: Patterns) -> Option<EvictionOptions> {
        let limits = Limits {
            max_size: self.store_max_size,
            min_free: self.store_min_free,
            // Without recorded uses, every version would look unused.
            unused_for: self.store_unused_for.filter(|_| !self.last_use_interval.is_zero()),
        };
        let keep = Patterns::parse(&self.store_keep.as_deref().unwrap_or_default().join(","));
        (!limits.is_empty()).then(|| EvictionOptions { keep, private, ..EvictionOptions::new(limits) })
    }

    /// Returns the options of upstreams. `netrc` is the path at which a netrc file may be, and `private` are the
    /// patterns of `GOPRIVATE`.
    pub fn upstream_options(&self, netrc: Option<PathBuf>, private: Patterns) -> UpstreamOptions {
        UpstreamOptions {
            idle_timeout: self.upstream_idle_timeout,
            allow_private_redirects: self.fill_allow_private_redirects,
            direct: Direct::new(DirectOptions {
                max_concurrent: self.direct_max_concurrent,
                timeout: self.direct_timeout,
                max_size: self.direct_max_size,
                rules: self.direct_rules(private),
                ..DirectOptions::default()
            }),
            credentials: self.credentials.clone(),
            netrc,
            ..UpstreamOptions::default()
        }
    }

    fn direct_rules(&self, private: Patterns) -> DirectRules {
        let rules = self.modules.iter().map(|table| {
            let (allow, deny) = (table.allow.clone(), table.deny.clone());
            DirectRule::new(table.pattern.clone(), covers(table), allow, deny)
        });
        DirectRules { private, rules: rules.collect(), allow_addresses: self.direct_allow_addresses.clone() }
    }
}

/// Returns whether a rule says that its modules may be private: it names version control as their upstream, or
/// keeps their names from checksum databases. A rule for the modules of all hosts says so about none.
fn covers(table: &ModuleTable) -> bool {
    let names_some = table.pattern.all_name_a_host();
    let is_private = table.checksum == Some(ChecksumPolicy::Off);
    names_some && (is_private || table.upstream.as_deref().is_some_and(names_direct))
}

fn names_direct(list: &str) -> bool {
    list.split([',', '|']).any(|entry| entry.trim() == "direct")
}

impl Settings<'_> {
    /// Resolves the configuration of the server.
    pub fn serve(&self, options: &Options) -> Result<ServeConfig, ConfigError> {
        let config = self.serve_values(options)?;
        if let Some(fault) = self.limits_beside_bucket(options)?.into_iter().next() {
            return Err(fault);
        }
        let mode = (config.mode, config.origin("mode"));
        match self.redirects_without_target(self.file()?, mode, config.redirect_url.is_some()).next() {
            Some(fault) => Err(fault),
            None => self.without_half_of_tls(&config).map_or(Ok(config), Err),
        }
    }

    /// Returns an error for each limit of the store beside a bucket.
    pub(super) fn limits_beside_bucket(&self, options: &Options) -> Result<Vec<ConfigError>, ConfigError> {
        let file = self.loaded()?;
        let set = |name| -> Result<_, ConfigError> {
            let key = key(name);
            Ok(self.above_file(key, options)?.or_else(|| file.value(key)))
        };
        let mut faults = Vec::new();
        if set("bucket.url")?.is_some() {
            for name in LIMITS {
                faults.extend(set(name)?.map(|(text, origin)| self.wrong(&origin, &text, HAS_BUCKET)));
            }
        }
        Ok(faults)
    }

    /// Returns an error if only one of the two files for TLS is set.
    fn without_half_of_tls(&self, config: &ServeConfig) -> Option<ConfigError> {
        let (key, path, other) = match (&config.tls_cert, &config.tls_key) {
            (Some(path), None) => ("tls.cert", path, "tls.key"),
            (None, Some(path)) => ("tls.key", path, "tls.cert"),
            _ => return None,
        };
        let reason = format!("TLS needs {other}, too");
        Some(self.wrong(config.origin(key), &path.to_string_lossy(), &reason))
    }

    /// Returns an error for each mode that redirects without a target. `mode` is that of the top level.
    pub(super) fn redirects_without_target<'f>(
        &self,
        file: &'f File,
        (mode, origin): (Mode, &Origin),
        has_target: bool,
    ) -> impl Iterator<Item = ConfigError> + use<'f> {
        let is_wrong = mode.redirects() && !has_target;
        let of_top_level = is_wrong.then(|| self.wrong(origin, &mode.to_string(), NO_TARGET));
        let of_rules = file.modules.iter().filter_map(move |rule| {
            // The error of the top level is enough for a rule that has its mode from there.
            let of_rule = rule.mode.unwrap_or(if is_wrong { Mode::default() } else { mode });
            let is_wrong = of_rule.redirects() && rule.redirect_url.is_none() && !has_target;
            is_wrong.then(|| file.wrong(rule.line, &format!("{NO_TARGET} ({of_rule})")))
        });
        of_top_level.into_iter().chain(of_rules)
    }
}
