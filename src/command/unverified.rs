//! The number of stored versions that no checksum database and no go.sum has confirmed.

use std::cell::OnceCell;

use stoa_gomod::ModulePath;

use super::error::CommandError;
use crate::config::{Options, Settings};
use crate::sources::{PrivateModules, Sources};

/// Counts versions without a verdict. Private modules do not count, since no checksum database is asked about them. The
/// configuration is read for the first version without a verdict.
pub(crate) struct Unverified<'a> {
    settings: &'a Settings<'a>,
    /// `None` if the configuration is invalid.
    private: OnceCell<Option<PrivateModules>>,
    count: u64,
}

impl<'a> Unverified<'a> {
    pub(crate) fn new(settings: &'a Settings<'a>) -> Self {
        Self { settings, private: OnceCell::new(), count: 0 }
    }

    /// Counts a version of a module without a verdict.
    pub(crate) fn add(&mut self, module: &ModulePath) {
        let private = self.private.get_or_init(|| match private_modules(self.settings) {
            Ok(private) => Some(private),
            Err(error) => {
                let reason = error.message.unwrap_or_default();
                log::warn!(reason; "cannot read which modules are private, so private modules count as unverified too");
                None
            }
        });
        self.count += u64::from(private.as_ref().is_none_or(|private| private.is_verified(module)));
    }

    /// Returns the number of versions.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

fn private_modules(settings: &Settings<'_>) -> Result<PrivateModules, CommandError> {
    Sources::new(settings.world()).private_modules(&settings.serve(&Options::default())?)
}
