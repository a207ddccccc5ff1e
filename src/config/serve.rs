//! What is meant for the proxy.

use std::time::Duration;

use super::fetching::{Fetching, TypedFetching};
use super::rules::{ModuleTable, parse_redirect_url};
use super::{ConfigError, Settings};
use crate::fill::{ChecksumPolicy, Mode, Sumdb};

/// What was typed for the proxy. `None` where nothing was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypedServe {
    /// The key `listen`.
    pub listen: Option<String>,
    /// The key `upstream`.
    pub upstream: Option<String>,
    /// The key `mode`.
    pub mode: Option<Mode>,
    /// The key `redirect_url`.
    pub redirect_url: Option<String>,
    /// The key `checksum`.
    pub checksum: Option<ChecksumPolicy>,
    /// The key `gosumdb`.
    pub gosumdb: Option<String>,
    /// The key `sumdbs`.
    pub sumdbs: Option<Vec<String>>,
    /// The key `sumdb_refuse`.
    pub sumdb_refuse: Option<Vec<String>>,
    /// The key `read_only`.
    pub read_only: Option<bool>,
    /// The key `offline`.
    pub offline: Option<bool>,
    /// The key `base_path`.
    pub base_path: Option<String>,
    /// The key `max_connections`.
    pub max_connections: Option<usize>,
    /// The key `grace`.
    pub grace: Option<u64>,
    /// The key `fill.max_concurrent`.
    pub fill_max_concurrent: Option<usize>,
    /// The key `fill.list_ttl`.
    pub fill_list_ttl: Option<u64>,
    /// The key `index.interval`.
    pub index_interval: Option<u64>,
    /// The key `last_use.interval`.
    pub last_use_interval: Option<u64>,
    /// How upstreams are asked.
    pub fetching: TypedFetching,
}

/// What is meant for the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// The address to listen on.
    pub listen: String,
    /// Where to fetch from, in `GOPROXY` syntax, if anything says so.
    pub upstream: Option<String>,
    /// What is done about what is not in the store, where no rule says it.
    pub mode: Mode,
    /// Where the modes that redirect lead to, where no rule says it.
    pub redirect_url: Option<String>,
    /// Whether what is fetched is compared with a checksum database, where no rule says it.
    pub checksum: ChecksumPolicy,
    /// The rules about modules, in order.
    pub modules: Vec<ModuleTable>,
    /// The checksum database, in the syntax of `GOSUMDB`, if anything says so; one that can be read.
    pub gosumdb: Option<String>,
    /// The names of the checksum databases to forward, if anything says so.
    pub sumdbs: Option<Vec<String>>,
    /// The modules about which no checksum database is asked, as patterns, if anything says so.
    pub sumdb_refuse: Option<Vec<String>>,
    /// Whether the store is not to be written to.
    pub read_only: bool,
    /// Whether nothing is to be fetched.
    pub offline: bool,
    /// The path that everything is answered below.
    pub base_path: String,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How long requests may go on after the proxy was asked to stop.
    pub grace: Duration,
    /// How many versions may be fetched at once.
    pub fill_max_concurrent: usize,
    /// How long lists count as new; zero asks each time.
    pub fill_list_ttl: Duration,
    /// How often the index is reconciled with the store; zero leaves it to others.
    pub index_interval: Duration,
    /// How often what was used is written down; zero keeps no note of it.
    pub last_use_interval: Duration,
    /// How upstreams are asked.
    pub fetching: Fetching,
}

impl Settings<'_> {
    /// Resolves what is meant for the proxy.
    pub fn serve(&self, typed: TypedServe) -> Result<ServeConfig, ConfigError> {
        let is_typed = typed.listen.is_some();
        let listen =
            self.pick("listen", typed.listen, |file| file.listen.clone(), "127.0.0.1:3000".to_owned())?;
        let parts = listen.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(parts, Some((host, Ok(_))) if !host.is_empty()) {
            let why =
                "it takes an address and a port, as in 127.0.0.1:3000, or 0.0.0.0:3000 for all addresses";
            return Err(self.wrong("listen", is_typed, listen, why));
        }
        let is_typed = typed.upstream.is_some();
        let upstream = self.maybe("upstream", typed.upstream, |file| file.upstream.clone())?;
        if upstream.as_ref().is_some_and(|list| list.trim().is_empty()) {
            let why = "it is empty; write off to fetch nothing, or leave it out";
            return Err(self.wrong("upstream", is_typed, "", why));
        }
        let is_typed = typed.base_path.is_some();
        let base_path =
            self.pick("base_path", typed.base_path, |file| file.base_path.clone(), "/".to_owned())?;
        if !is_base_path(&base_path) {
            return Err(self.wrong("base_path", is_typed, base_path, "it takes a path, as in / or /go"));
        }
        let is_typed = typed.gosumdb.is_some();
        let gosumdb = self.maybe("gosumdb", typed.gosumdb, |file| file.gosumdb.clone())?;
        if let Some(Err(error)) = gosumdb.as_deref().map(Sumdb::parse) {
            return Err(self.wrong("gosumdb", is_typed, gosumdb.unwrap_or_default(), &error.to_string()));
        }
        let (mode, redirect_url) = self.redirection(typed.mode, typed.redirect_url)?;
        let fill_max_concurrent = typed.fill_max_concurrent;
        let max_connections = typed.max_connections;
        Ok(ServeConfig {
            listen,
            base_path,
            upstream,
            max_connections: self.count(
                "max_connections",
                max_connections,
                |file| file.max_connections,
                4096,
                usize::MAX,
            )?,
            mode,
            redirect_url,
            checksum: self.pick(
                "checksum",
                typed.checksum,
                |file| file.checksum,
                ChecksumPolicy::default(),
            )?,
            gosumdb,
            modules: self.file()?.keys.module.clone(),
            sumdbs: self.maybe("sumdbs", typed.sumdbs, |file| file.sumdbs.clone())?,
            sumdb_refuse: self.maybe("sumdb_refuse", typed.sumdb_refuse, |file| file.sumdb_refuse.clone())?,
            fill_list_ttl: Duration::from_secs(self.pick(
                "fill.list_ttl",
                typed.fill_list_ttl,
                |file| file.fill.list_ttl,
                60,
            )?),
            fetching: self.fetching(typed.fetching)?,
            read_only: self.pick("read_only", typed.read_only, |file| file.read_only, false)?,
            offline: self.pick("offline", typed.offline, |file| file.offline, false)?,
            grace: Duration::from_secs(self.pick("grace", typed.grace, |file| file.grace, 30)?),
            index_interval: Duration::from_secs(self.pick(
                "index.interval",
                typed.index_interval,
                |file| file.index.interval,
                600,
            )?),
            last_use_interval: Duration::from_secs(self.pick(
                "last_use.interval",
                typed.last_use_interval,
                |file| file.last_use.interval,
                300,
            )?),
            fill_max_concurrent: self.count(
                "fill.max_concurrent",
                fill_max_concurrent,
                |file| file.fill.max_concurrent,
                16,
                usize::MAX,
            )?,
        })
    }

    /// Resolves what is done about what is not there, and sees to it that every redirection leads somewhere.
    fn redirection(
        &self,
        mode: Option<Mode>,
        redirect_url: Option<String>,
    ) -> Result<(Mode, Option<String>), ConfigError> {
        const NOWHERE: &str = "it takes a redirect_url beside it, to lead to";
        let (mode_is_typed, url_is_typed) = (mode.is_some(), redirect_url.is_some());
        let url = self.maybe("redirect_url", redirect_url, |file| file.redirect_url.clone())?;
        let parsed = url.as_deref().map(parse_redirect_url).transpose();
        let url = parsed
            .map_err(|why| self.wrong("redirect_url", url_is_typed, url.clone().unwrap_or_default(), why))?;
        let mode = self.pick("mode", mode, |file| file.mode, Mode::default())?;
        if mode.redirects() && url.is_none() {
            return Err(self.wrong("mode", mode_is_typed, mode.to_string(), NOWHERE));
        }
        for rule in &self.file()?.keys.module {
            let its_mode = rule.mode.unwrap_or(mode);
            if its_mode.redirects() && rule.redirect_url.is_none() && url.is_none() {
                let whence = format!("the mode of {} in the config file", rule.pattern);
                return Err(ConfigError::Value {
                    whence,
                    value: its_mode.to_string(),
                    why: NOWHERE.to_owned(),
                });
            }
        }
        Ok((mode, url))
    }
}

/// Whether requests can begin with it: what a client or a proxy on the way would rewrite, or take for a query,
/// would never arrive.
fn is_base_path(path: &str) -> bool {
    let elements = || path.strip_suffix('/').unwrap_or(path).split('/').skip(1);
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\');
    path.starts_with('/')
        && path.chars().all(is_plain)
        && elements().all(|element| !matches!(element, "" | "." | ".."))
}
