//! The first lines of a server's log: the version, the store, the configuration and the command to try.

use std::net::SocketAddr;
use std::path::Path;

use stoa_layout::LayoutId;
use stoa_store::Store;

use crate::config::{ServeConfig, World};
use crate::policy::{ChecksumPolicy, Mode, Policy};
use crate::sources::{Setting, Sources};

/// The parts of a server that its first lines describe.
pub(crate) struct Startup<'a> {
    pub(crate) store: &'a Store,
    pub(crate) layout: &'a LayoutId,
    pub(crate) config: &'a ServeConfig,
    pub(crate) config_file: Option<&'a Path>,
    pub(crate) sources: &'a Sources<'a>,
    pub(crate) policy: &'a Policy,
    /// Whether the server has a bucket.
    pub(crate) has_bucket: bool,
    /// The name of the checksum database that downloads are verified against.
    pub(crate) database: Option<&'a str>,
    /// The address of the first TCP socket, if there is one.
    pub(crate) address: Option<SocketAddr>,
}

impl Startup<'_> {
    /// Logs the lines.
    pub(crate) fn log(&self) {
        log::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(); "starting stoa");
        let access = if self.store.is_read_only() { "read-only" } else { "read-write" };
        log::info!(path:% = self.store.root().display(), layout:% = self.layout, access; "using a store");
        match self.config_file {
            Some(path) => log::info!(path:% = path.display(); "using a config file"),
            None => log::info!("using no config file"),
        }
        self.log_upstream();
        self.log_checksum_database();
        let Some(address) = self.address else {
            return log::info!("ready to serve at unix sockets");
        };
        let url = self.url(address);
        log::info!(
            address:% = address, url, command = format!("GOPROXY={url} go mod download");
            "ready to serve: run the command to try it"
        );
    }

    fn log_upstream(&self) {
        let rules = self.config.modules.len();
        let reason = match (self.config.offline, self.store.is_read_only(), self.config.mode) {
            (true, ..) => "the configuration sets offline",
            (_, true, _) => "the store is read-only",
            (.., Mode::None) if self.policy.is_offline() => "the configuration sets the mode none",
            _ if self.policy.is_offline() => "there is no upstream",
            _ => {
                let origin = self
                    .sources
                    .upstream_list(self.config)
                    .map_or_else(|| "rules of the config file".to_owned(), |list| list.origin.to_string());
                let upstream = self.policy.upstream_of_none();
                log::info!(upstream:% = upstream, origin, rules; "missing modules are downloaded from an upstream");
                for table in self.config.modules.iter().filter(|table| table.upstream.is_some()) {
                    log::debug!(modules:? = table.pattern; "a module rule sets another upstream");
                }
                return;
            }
        };
        match self.has_bucket {
            true => log::info!(reason; "offline: only modules in the store and in the bucket are served"),
            false => log::info!(reason; "offline: only stored modules are served"),
        }
    }

    fn log_checksum_database(&self) {
        let mode = match self.config.checksum {
            ChecksumPolicy::Auto => "auto",
            ChecksumPolicy::Require => "require",
            ChecksumPolicy::Off => "off",
        };
        match self.database {
            Some(name) => {
                let Setting { origin, .. } = self.sources.checksum_database(self.config);
                log::info!(database = name, mode, origin:% = origin; "downloads are verified against a checksum database");
            }
            // An offline server verifies nothing.
            None if self.policy.is_offline() => {}
            None => log::info!(mode; "downloads are not verified against a checksum database"),
        }
    }

    /// Returns the value of `GOPROXY` for a client on this machine.
    fn url(&self, address: SocketAddr) -> String {
        let ip = address.ip();
        let host = match (ip.is_unspecified(), address.is_ipv6()) {
            (true, _) => "localhost".to_owned(),
            (false, true) => format!("[{ip}]"),
            (false, false) => ip.to_string(),
        };
        let scheme = if self.config.tls_cert.is_some() { "https" } else { "http" };
        format!("{scheme}://{host}:{}{}", address.port(), self.config.base_path.trim_end_matches('/'))
    }
}

/// Returns why no missing module can be downloaded although the configuration does not say so.
pub(crate) fn degraded(
    config: &ServeConfig,
    policy: &Policy,
    is_read_only: bool,
    sources: &Sources<'_>,
    world: &World,
) -> Option<String> {
    if config.offline || is_read_only || config.mode == Mode::None || policy.has_proxy() {
        return None;
    }
    if !policy.is_offline() {
        let reason = "the only upstream is version control (direct), which needs the go command in PATH";
        return (!has_go(world)).then(|| reason.to_owned());
    }
    // A list that consists of `off` is a decision.
    let has_list = sources.upstream_list(config).is_some();
    (!has_list)
        .then(|| "no upstream is configured, and the go command cannot be asked for GOPROXY".to_owned())
}

/// Returns whether the go command can be found as a shell would find it.
fn has_go(world: &World) -> bool {
    use rustix::fs::{Access, access};
    let path = world.variable("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| {
        let file = folder.join("go");
        file.is_file() && access(&file, Access::EXEC_OK).is_ok()
    })
}
