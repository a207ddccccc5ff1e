//! The configuration of the server, as a whole.

use std::path::PathBuf;

use super::keys::ServeConfig;
use super::{ConfigError, Options, Origin, Settings};
use crate::upstream::{Direct, DirectOptions, UpstreamOptions};

const NO_TARGET: &str = "a mode that redirects needs redirect_url";

impl ServeConfig {
    /// Returns the origin of the value of a key.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Returns the options of upstreams. `netrc` is the path at which a netrc file may be.
    pub fn upstream_options(&self, netrc: Option<PathBuf>) -> UpstreamOptions {
        UpstreamOptions {
            idle_timeout: self.upstream_idle_timeout,
            allow_private_redirects: self.fill_allow_private_redirects,
            direct: Direct::new(DirectOptions {
                max_concurrent: self.direct_max_concurrent,
                timeout: self.direct_timeout,
                ..DirectOptions::default()
            }),
            credentials: self.credentials.clone(),
            netrc,
            ..UpstreamOptions::default()
        }
    }
}

impl Settings<'_> {
    /// Resolves the configuration of the server.
    pub fn serve(&self, options: &Options) -> Result<ServeConfig, ConfigError> {
        let config = self.serve_values(options)?;
        if config.mode.redirects() && config.redirect_url.is_none() {
            return Err(self.wrong(config.origin("mode"), &config.mode.to_string(), NO_TARGET));
        }
        for rule in &config.modules {
            let mode = rule.mode.unwrap_or(config.mode);
            if mode.redirects() && rule.redirect_url.is_none() && config.redirect_url.is_none() {
                return Err(self.file()?.wrong(rule.line, &format!("{NO_TARGET} ({mode})")));
            }
        }
        Ok(config)
    }
}
