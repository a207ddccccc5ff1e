//! Sealing versions that are in the store without a seal.
//!
//! A version that was migrated or imported is read completely at the first request for its zip. That takes CPU time
//! and memory, so the number of concurrent examinations is limited, together with those of downloads.

use std::sync::Arc;

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::Store;
use tokio::sync::Semaphore;

use crate::tasks::{Once, blocking};
use crate::unavailable::Unavailable;

/// Minimum number of concurrent zip examinations. An examination also waits for the disk, so there may be
/// more than cores.
const MIN_EXAMINING: usize = 4;

/// Returns the limit of concurrent zip examinations: a zip with a million files takes much memory.
pub(crate) fn examining() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(examining_permits()))
}

/// Returns the number of permits of [`examining`].
pub(super) fn examining_permits() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).max(MIN_EXAMINING)
}

/// Seals versions, each once at a time.
#[derive(Debug)]
pub struct Seals {
    store: Arc<Store>,
    examining: Arc<Semaphore>,
    running: Once<ModuleVersion, Result<Option<H1>, Unavailable>>,
}

impl Seals {
    pub(crate) fn new(store: Arc<Store>, examining: Arc<Semaphore>) -> Self {
        Self { store, examining, running: Once::new() }
    }

    /// Seals a version. Returns `None` if the version is corrupt; it counts as absent from then on.
    ///
    /// Sealing continues after the callers have gone away, so the next request finds the seal.
    pub async fn seal(&self, version: &ModuleVersion) -> Result<Option<H1>, Unavailable> {
        let what = || format!("the examination of {version}");
        let work = || {
            let (store, examining) = (Arc::clone(&self.store), Arc::clone(&self.examining));
            let (version, what) = (version.clone(), what());
            async move {
                let permit = examining.acquire().await;
                let _permit = permit.map_err(|_| Unavailable::Stopping(what.clone()))?;
                blocking(&store, what, move |store| store.seal(&version)).await
            }
        };
        let task = self.running.join(version, work).ok_or_else(|| Unavailable::Busy(version.to_string()))?;
        task.wait().await.unwrap_or_else(|| Err(Unavailable::Broken(what())))
    }
}
