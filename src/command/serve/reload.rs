//! A new configuration for a running server.
//!
//! Everything is read and checked before anything is replaced. So a server with a wrong configuration goes on with the earlier one.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::access::AccessCell;
use crate::command::error::CommandError;
use crate::config::{Options, ServeConfig, Settings};
use crate::server::{CertificateCell, Handle};
use crate::sources::Sources;

/// The parts from which a server was started, and its parts that can be replaced.
pub(super) struct Reload<'a> {
    pub(super) settings: &'a Settings<'a>,
    pub(super) options: &'a Options,
    pub(super) sources: &'a Sources<'a>,
    pub(super) is_read_only: bool,
    pub(super) address: Option<SocketAddr>,
    pub(super) handle: Handle,
    pub(super) certificate: Option<Arc<CertificateCell>>,
    pub(super) access: Arc<AccessCell>,
    /// The configuration that applies.
    config: ServeConfig,
    /// The values of all keys at the start, for a warning about keys that need a restart.
    values: Vec<(String, Option<String>)>,
    files: Option<[FileStamp; 2]>,
}

/// The identity of a file's content: its inode, its size and its time.
type FileStamp = Option<(u64, u64, i64, i64)>;

/// The keys that a reload applies. The tables of rules and credentials are among them.
const RELOADED: [&str; 11] = [
    "upstream",
    "mode",
    "redirect_url",
    "checksum",
    "tls.cert",
    "tls.key",
    "auth.users_file",
    "auth.default",
    "module",
    "credentials",
    "access",
];

impl<'a> Reload<'a> {
    pub(super) fn new(
        (settings, options, sources): (&'a Settings<'a>, &'a Options, &'a Sources<'a>),
        config: ServeConfig,
        is_read_only: bool,
        address: Option<SocketAddr>,
        (certificate, access): (Option<Arc<CertificateCell>>, Arc<AccessCell>),
    ) -> Self {
        let (values, files) = (values(settings, options), stamps(&config));
        let handle = Handle::default();
        Self {
            settings,
            options,
            sources,
            is_read_only,
            address,
            handle,
            certificate,
            access,
            config,
            values,
            files,
        }
    }

    /// Reads the configuration again and applies it, or keeps the earlier one.
    pub(super) fn run(&mut self) {
        match self.apply() {
            Ok(changed) => {
                log::info!(rules = self.config.modules.len(); "reloaded the configuration");
                if !changed.is_empty() {
                    log::warn!(
                        keys = changed.join(","), help = "restart the server";
                        "some changed keys of the configuration apply only after a restart"
                    );
                }
            }
            Err(error) => {
                let reason = error.message.unwrap_or_default();
                let help =
                    error.help.unwrap_or_else(|| "fix the configuration, then reload it again".to_owned());
                log::error!(reason, help; "cannot reload: keeping the configuration");
            }
        }
    }

    fn apply(&mut self) -> Result<Vec<String>, CommandError> {
        let settings = self.settings.again();
        let config = settings.serve(self.options)?;
        let sources = self.sources.renewed(&config);
        sources.check(&config)?;
        let policy = sources.policy(&config, self.is_read_only, self.address)?;
        let access = settings.access(&config)?;
        let files = stamps(&config);
        let certificate = super::listen::certificate(&config)?;
        let has_tls = (certificate.is_some(), self.certificate.is_some());
        let values = values(&settings, self.options);
        // From here on, nothing can fail.
        if let (Some(cell), Some(certificate)) = (&self.certificate, certificate) {
            cell.replace(certificate);
            self.files = files;
        }
        self.access.replace(access);
        self.handle.replace_policy(policy);
        self.config = config;
        let changed = values.iter().filter(|value| !self.values.contains(value)).map(|(name, _)| name);
        let removed = self.values.iter().map(|(name, _)| name);
        let removed = removed.filter(|name| !values.iter().any(|(other, _)| other == *name));
        let needs_restart = |name: &&String| {
            let table = name.split('[').next().unwrap_or_default();
            !RELOADED.contains(&table) || has_tls.0 != has_tls.1 && name.as_str() == "tls.cert"
        };
        let mut changed: Vec<String> = changed.chain(removed).filter(needs_restart).cloned().collect();
        changed.sort();
        changed.dedup();
        Ok(changed)
    }

    /// Reads the certificate again if its files have changed. Some programs that renew certificates send no signal.
    pub(super) fn renew_certificate(&mut self) {
        let Some(cell) = &self.certificate else { return };
        let files = stamps(&self.config);
        if files == self.files {
            return;
        }
        self.files = files;
        match super::listen::certificate(&self.config) {
            Ok(Some(certificate)) => {
                cell.replace(certificate);
                log::info!("reloaded the certificate, because its files have changed");
            }
            Ok(None) => {}
            Err(error) => {
                let (reason, help) = (error.message.unwrap_or_default(), error.help.unwrap_or_default());
                log::error!(reason, help; "cannot reload the certificate: keeping the earlier one");
            }
        }
    }
}

/// Returns the values of all keys, and those in the tables of the config file.
fn values(settings: &Settings<'_>, options: &Options) -> Vec<(String, Option<String>)> {
    let shown = settings.show(None, options).unwrap_or_default();
    shown.into_iter().map(|shown| (shown.key, shown.value)).collect()
}

fn stamps(config: &ServeConfig) -> Option<[FileStamp; 2]> {
    let stamp = |path: &Path| {
        let meta = path.metadata().ok()?;
        Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    Some([stamp(config.tls_cert.as_deref()?), stamp(config.tls_key.as_deref()?)])
}
