//! Sealing versions that are in the store without a seal.
//!
//! A version that was migrated or imported is read completely at the first request for its zip. That takes CPU time
//! and memory, so the number of concurrent examinations is limited, together with those of downloads.

use std::sync::Arc;

use stoa_gomod::{H1, ModuleVersion};

use super::once::Once;
use super::{Fill, FillError};

/// The versions that are being sealed.
pub(super) type Seals = Once<ModuleVersion, Result<Option<H1>, FillError>>;

impl Fill {
    /// Seals a version. Returns `None` if the version is corrupt; it counts as absent from then on.
    ///
    /// Sealing continues after the callers have gone away, so the next request finds the seal.
    pub async fn seal(self: &Arc<Self>, version: &ModuleVersion) -> Result<Option<H1>, FillError> {
        let what = || format!("the examination of {version}");
        let work = || {
            let (fill, version, what) = (Arc::clone(self), version.clone(), what());
            async move {
                let permit = fill.examining.acquire().await;
                let _permit = permit.map_err(|_| FillError::Stopping(what.clone()))?;
                fill.blocking(what, move |store| store.seal(&version)).await
            }
        };
        let task = self.seals.join(version, work).ok_or_else(|| FillError::Busy(version.to_string()))?;
        task.wait().await.unwrap_or_else(|| Err(FillError::Broken(what())))
    }
}
