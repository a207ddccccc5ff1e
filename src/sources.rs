//! The upstreams and checksum databases, from the configuration, the environment and the go command.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use stoa_gomod::ModulePath;
use stoa_gomod::private::Patterns;
use stoa_layout::Exit;
use stoa_store::Store;

use crate::answers::AnswerOptions;
use crate::command::error::CommandError;
use crate::config::{ModuleTable, Origin, ServeConfig, World};
use crate::fill::FlightOptions;
use crate::go_env::{self, GoEnv};
use crate::policy::{ChecksumPolicy, Mode, Policy, Rule};
use crate::services::ServiceOptions;
use crate::sumdb::{Gosumdb, SumdbOptions};
use crate::sync::{Peer, ReplicationOptions};
use crate::upstream::{Upstream, UpstreamOptions, netrc_path};

/// Finds upstreams and checksum databases, for one configuration.
pub(crate) struct Sources<'a> {
    world: &'a World,
    /// The answer of `go env`, which runs at most once, and only if its answer is needed.
    go: OnceCell<Option<GoEnv>>,
    options: OnceCell<UpstreamOptions>,
    /// The upstreams so far, so that a list is made once, with its warnings. Rules with the same list share connections.
    known: RefCell<HashMap<String, Upstream>>,
}

/// A list of upstreams and its origin. Messages name only the origin, since the list may contain credentials.
pub(crate) struct UpstreamList {
    list: String,
    pub(crate) origin: Origin,
}

/// A setting and its origin. The setting is `None` if nothing sets it.
pub(crate) struct Setting {
    value: Option<String>,
    pub(crate) origin: Origin,
}

/// The modules whose names are kept from checksum databases.
pub(crate) struct PrivateModules {
    policy: Policy,
    patterns: Patterns,
}

impl PrivateModules {
    pub(crate) fn contains(&self, module: &ModulePath) -> bool {
        self.patterns.matches(module.as_str()) || self.policy.is_private(module)
    }

    /// Returns whether versions of a module are verified against a checksum database, if there is one.
    pub(crate) fn is_verified(&self, module: &ModulePath) -> bool {
        !self.contains(module) && self.policy.rule(module).checksum != ChecksumPolicy::Off
    }
}

impl<'a> Sources<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        Self { world, go: OnceCell::new(), options: OnceCell::new(), known: RefCell::default() }
    }

    /// Returns sources for another configuration of the same process. Its upstreams keep the name of this proxy in `Via`, the
    /// memory for large answers, and the scratch folder for version control.
    pub(crate) fn renewed(&self, config: &ServeConfig) -> Self {
        let renewed = Self::new(self.world);
        let mut options = renewed.options(config);
        if let Some(earlier) = self.options.get() {
            options.instance = earlier.instance;
            options.memory = earlier.memory.clone();
            options.direct = earlier.direct.with_rules_of(&options.direct);
        }
        Self { options: OnceCell::from(options), ..renewed }
    }

    /// Checks that the configuration names valid upstreams.
    pub(crate) fn check(&self, config: &ServeConfig) -> Result<(), CommandError> {
        if config.offline {
            return Ok(());
        }
        for (list, origin) in self.lists(config) {
            self.upstream(config, &list, &origin)?;
        }
        Ok(())
    }

    /// Resolves the policy for modules. `own_address` is the address of this server, if it listens.
    pub(crate) fn policy(
        &self,
        config: &ServeConfig,
        is_read_only: bool,
        own_address: Option<SocketAddr>,
    ) -> Result<Policy, CommandError> {
        let is_offline = config.offline || is_read_only;
        let otherwise = match self.upstream_list(config) {
            Some(UpstreamList { list, origin }) if !is_offline => {
                self.upstream(config, &list, &origin.to_string())?
            }
            // It has the name in `Via` of the other upstreams, by which this server recognizes its own requests.
            _ => self.upstream(config, "off", "the default")?,
        };
        if let Some(own) = own_address.filter(|_| !is_offline) {
            self.warn_about_own_address(config, own);
        }
        let rules = config.modules.iter().map(|table| {
            let upstream = match &table.upstream {
                Some(_) if is_offline => Upstream::offline(),
                Some(list) => self.upstream(config, list, &origin_of(table))?,
                None => otherwise.clone(),
            };
            let rule = Rule {
                mode: table.mode.unwrap_or(config.mode),
                redirect_url: table.redirect_url.clone().or_else(|| config.redirect_url.clone()),
                upstream,
                allow: table.allow.clone(),
                deny: table.deny.clone(),
                checksum: table.checksum.unwrap_or(config.checksum),
                // A setting for all modules does not mark any of them as private.
                is_private: table.checksum == Some(ChecksumPolicy::Off) || table.mode == Some(Mode::None),
            };
            Ok((table.pattern.clone(), rule))
        });
        let rules = rules.collect::<Result<Vec<_>, CommandError>>()?;
        let otherwise = Rule {
            mode: config.mode,
            redirect_url: config.redirect_url.clone(),
            checksum: config.checksum,
            ..Rule::fetching_from(otherwise)
        };
        Ok(Policy::new(rules, otherwise))
    }

    /// Resolves the checksum database against which downloads are verified.
    fn checksums(
        &self,
        config: &ServeConfig,
        is_required: bool,
        is_asked: bool,
    ) -> Result<SumdbOptions, CommandError> {
        let Setting { value, origin } = self.checksum_database(config);
        let sumdb = match value.as_deref().map(Gosumdb::parse) {
            None => Gosumdb::of_go().map(Some),
            Some(sumdb) => sumdb,
        };
        let sumdb = sumdb.unwrap_or_else(|error| {
            // The configuration was checked before. A value of GOSUMDB may be valid for the go command only.
            log::warn!(origin:% = origin, reason:% = error; "cannot use the checksum database: downloads are not verified against it");
            None
        });
        let Some(sumdb) = sumdb else {
            let why = "checksum is set to require, but there is no checksum database\nhelp: set one with --gosumdb, STOA_GOSUMDB or \
                       `gosumdb` in the config file";
            return if is_required {
                Err(CommandError::new(Exit::USAGE, why))
            } else {
                Ok(SumdbOptions { private: self.sumdb_refuse(config, is_asked), ..SumdbOptions::default() })
            };
        };
        let own = sumdb.url().map(|url| Upstream::new(url, self.options(config))).transpose();
        let own = own.map_err(|error| {
            CommandError::new(
                Exit::USAGE,
                format!("the URL of the checksum database {}: {error}", sumdb.name()),
            )
        })?;
        Ok(SumdbOptions { database: Some(sumdb), own, private: self.sumdb_refuse(config, true) })
    }

    /// Returns the checksum database, in the syntax of `GOSUMDB`.
    pub(crate) fn checksum_database(&self, config: &ServeConfig) -> Setting {
        let some = |value: String, origin| Some(Setting { value: Some(value), origin });
        let is_empty = |found: &Setting| found.value.as_ref().is_none_or(|value| value.trim().is_empty());
        let found = config.gosumdb.clone().and_then(|value| some(value, config.origin("gosumdb").clone()));
        let found = found.or_else(|| some(self.text("GOSUMDB")?, Origin::Variable("GOSUMDB".to_owned())));
        let found = found.or_else(|| some(self.go()?.gosumdb.clone(), Origin::GoEnv("GOSUMDB")));
        found.filter(|found| !is_empty(found)).unwrap_or(Setting { value: None, origin: Origin::Default })
    }

    /// Returns the names of the checksum databases that are forwarded to clients.
    pub(crate) fn sumdbs(&self, config: &ServeConfig, is_offline: bool, store: &Store) -> Vec<String> {
        if let Some(names) = &config.sumdbs {
            return names.clone();
        }
        let value = config.gosumdb.clone().or_else(|| self.text("GOSUMDB"));
        let value = match value.filter(|value| !value.trim().is_empty()) {
            Some(value) => Some(value),
            // Only stored answers can be served, so the go command need not exist.
            None if is_offline => return store.cache().databases(),
            None => self.checksum_database(config).value,
        };
        value.as_deref().and_then(go_env::sumdb_name).map(str::to_owned).into_iter().collect()
    }

    /// Returns the patterns of private modules, besides those of the rules. The configuration has no other list of private
    /// modules than those that no checksum database is asked about.
    pub(crate) fn private_patterns(&self, config: &ServeConfig) -> Patterns {
        let private = config.sumdb_refuse.iter().flatten().cloned().chain(self.goprivate(config));
        Patterns::parse(&private.collect::<Vec<_>>().join(","))
    }

    /// Returns the settings for downloads, lists, queries and checksum databases. `is_asked` is whether clients may ask
    /// for a checksum database.
    pub(crate) fn services(
        &self,
        config: &ServeConfig,
        policy: &Policy,
        is_asked: bool,
    ) -> Result<ServiceOptions, CommandError> {
        let sumdb = match policy.is_offline() {
            true => SumdbOptions { private: self.sumdb_refuse(config, is_asked), ..SumdbOptions::default() },
            false => self.checksums(config, policy.requires_checksums(), is_asked)?,
        };
        let private = self.private_patterns(config);
        let answers =
            AnswerOptions { list_ttl: config.fill_list_ttl, private, has_peers: !config.peers.is_empty() };
        let flights = FlightOptions {
            max_concurrent: config.fill_max_concurrent,
            is_eager: config.fill_eager,
            metadata_max: config.fill_metadata_max,
            max_wait: config.fill_max_wait,
            min_rate: config.fill_min_rate,
            wrong_pause: config.fill_wrong_pause,
            ..FlightOptions::default()
        };
        Ok(ServiceOptions { flights, absent_ttl: config.fill_absent_ttl, answers, sumdb, tier: None })
    }

    /// Returns the modules that are private: by a rule, or since no checksum database is asked about them.
    pub(crate) fn private_modules(&self, config: &ServeConfig) -> Result<PrivateModules, CommandError> {
        Ok(PrivateModules {
            policy: self.policy(config, true, None)?,
            patterns: self.sumdb_refuse(config, true),
        })
    }

    /// Returns the settings for a command that works with the checksum database, also if it may ask no server.
    pub(crate) fn services_of_command(
        &self,
        config: &ServeConfig,
        policy: &Policy,
    ) -> Result<ServiceOptions, CommandError> {
        let mut sumdb = self.checksums(config, false, true)?;
        if policy.is_offline() {
            sumdb.own = None;
        }
        Ok(ServiceOptions { sumdb, ..ServiceOptions::default() })
    }

    /// Returns the patterns of modules that no checksum database is asked about.
    fn sumdb_refuse(&self, config: &ServeConfig, is_asked: bool) -> Patterns {
        let value = match &config.sumdb_refuse {
            Some(patterns) => Some(patterns.join(",")),
            None => self.text("GONOSUMDB").or_else(|| self.text("GOPRIVATE")),
        };
        // Without a database the go command need not exist.
        let value = value.or_else(|| if is_asked { Some(self.go()?.gonosumdb.clone()) } else { None });
        Patterns::parse(&value.unwrap_or_default())
    }

    /// Returns the settings for the exchange with peers. `None` if there are none.
    pub(crate) fn replication(
        &self,
        config: &ServeConfig,
        peers: Vec<Arc<Peer>>,
    ) -> Option<ReplicationOptions> {
        let name = config.peers_name.clone().filter(|_| !peers.is_empty())?;
        let max_concurrent = config.peers_max_concurrent;
        Some(ReplicationOptions { name, peers, max_concurrent, upstream: self.options(config) })
    }

    /// Returns the options of upstreams. All lists share the go commands of `direct`.
    pub(crate) fn options(&self, config: &ServeConfig) -> UpstreamOptions {
        let options = || {
            let private = Patterns::parse(&self.goprivate(config).unwrap_or_default());
            config.upstream_options(netrc_path(|name| self.world.variable(name)), private)
        };
        self.options.get_or_init(options).clone()
    }

    /// Returns the patterns of `GOPRIVATE`.
    fn goprivate(&self, config: &ServeConfig) -> Option<String> {
        let of_go = || {
            let upstream = self.upstream_list(config).map(|found| found.list);
            // The go command need not exist if no module comes from version control.
            let go = match config.uses_direct(upstream.as_deref()) {
                true => self.go(),
                false => self.go.get()?.as_ref(),
            };
            Some(go?.goprivate.clone())
        };
        self.text("GOPRIVATE").or_else(of_go)
    }

    /// Returns the upstreams of a list.
    fn upstream(&self, config: &ServeConfig, list: &str, origin: &str) -> Result<Upstream, CommandError> {
        if let Some(known) = self.known.borrow().get(list) {
            return Ok(known.clone());
        }
        let upstream = Upstream::new(list, self.options(config)).map_err(|error| {
            CommandError::new(Exit::USAGE, format!("the upstreams from {origin}: {error}"))
        })?;
        self.known.borrow_mut().insert(list.to_owned(), upstream.clone());
        Ok(upstream)
    }

    /// Returns the lists of upstreams of the top level and of the rules, each with its origin.
    fn lists(&self, config: &ServeConfig) -> Vec<(String, String)> {
        let otherwise = self.upstream_list(config).map(|found| (found.list, found.origin.to_string()));
        let of_rules =
            config.modules.iter().filter_map(|rule| Some((rule.upstream.clone()?, origin_of(rule))));
        otherwise.into_iter().chain(of_rules).collect()
    }

    fn warn_about_own_address(&self, config: &ServeConfig, own: SocketAddr) {
        let mut warned = HashSet::new();
        for (list, origin) in self.lists(config) {
            if names_itself(&list, own) && warned.insert(list) {
                log::warn!(
                    origin, help = "set another upstream with --upstream or STOA_UPSTREAM";
                    "the upstream is this proxy itself"
                );
            }
        }
    }

    /// Returns the upstreams of modules that no rule matches. Returns `None` if nothing names them.
    pub(crate) fn upstream_list(&self, config: &ServeConfig) -> Option<UpstreamList> {
        let some = |list: String, origin| Some(UpstreamList { list, origin });
        let found = config.upstream.clone().and_then(|list| some(list, config.origin("upstream").clone()));
        let found = found.or_else(|| some(self.text("GOPROXY")?, Origin::Variable("GOPROXY".to_owned())));
        found.or_else(|| some(self.go()?.goproxy.clone(), Origin::GoEnv("GOPROXY")))
    }

    /// Returns the values that the environment and the go command give to keys that the configuration does not set.
    pub(crate) fn inherited(&self, config: &ServeConfig, key: &str) -> Option<(String, Origin)> {
        match key {
            "upstream" => self.upstream_list(config).map(|found| (found.list, found.origin)),
            "gosumdb" => {
                let found = self.checksum_database(config);
                found.value.map(|value| (value, found.origin))
            }
            "sumdb_refuse" => {
                let variable = |name: &str| Some((self.text(name)?, Origin::Variable(name.to_owned())));
                let go = || Some((self.go()?.gonosumdb.clone(), Origin::GoEnv("GONOSUMDB")));
                let found = variable("GONOSUMDB").or_else(|| variable("GOPRIVATE")).or_else(go);
                found.filter(|(value, _)| !value.is_empty())
            }
            _ => None,
        }
    }

    fn go(&self) -> Option<&GoEnv> {
        let asked = self.go.get_or_init(|| match go_env::ask() {
            Ok(env) => Some(env),
            Err(error) => {
                log::warn!(reason:% = error; "cannot ask the go command for its configuration");
                None
            }
        });
        asked.as_ref()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.world.variable(name)?.into_string().ok()
    }
}

/// Returns the origin of the upstreams of a rule, for messages.
fn origin_of(rule: &ModuleTable) -> String {
    format!("the rule of {}", rule.pattern)
}

/// Returns whether an entry of a list in the syntax of `GOPROXY` is the address of this server. That happens if
/// `go env -w GOPROXY` names the server on its own machine.
fn names_itself(list: &str, own: SocketAddr) -> bool {
    list.split([',', '|']).filter_map(|entry| reqwest::Url::parse(entry.trim()).ok()).any(|url| {
        let host = url.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let is_local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let is_here = ip.is_some_and(|ip| ip == own.ip())
            || is_local && (own.ip().is_loopback() || own.ip().is_unspecified());
        is_here && url.port_or_known_default() == Some(own.port())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_knows_its_own_address() {
        for (list, own, is_own) in [
            ("http://127.0.0.1:3000", "127.0.0.1:3000", true),
            ("http://localhost:3000/,direct", "127.0.0.1:3000", true),
            ("https://proxy.example|http://[::1]:3000", "[::]:3000", true),
            ("http://192.0.2.1", "192.0.2.1:80", true),
            ("http://127.0.0.1:3001", "127.0.0.1:3000", false),
            ("http://localhost:3000", "192.0.2.1:3000", false),
            ("https://proxy.example:3000,off", "0.0.0.0:3000", false),
            ("direct", "127.0.0.1:3000", false),
        ] {
            assert_eq!(names_itself(list, own.parse().unwrap()), is_own, "{list} {own}");
        }
    }
}
