//! Redirects of clients to the bucket.

use std::sync::Arc;
use std::time::Duration;

use stoa_gomod::ModuleVersion;

use super::Tier;

/// How long a URL is valid to which clients are redirected.
const REDIRECT_VALID: Duration = Duration::from_secs(15 * 60);

impl Tier {
    /// Returns whether clients get zips directly from the bucket.
    pub(crate) fn redirects(&self) -> bool {
        self.options.redirects
    }

    /// Returns a URL that reads the zip of a version for a while. `None` if this server must send the zip itself: nobody has
    /// verified it, Athens could replace it, the bucket cannot be reached, or the credentials cannot sign.
    pub(crate) async fn redirect(&self, version: &ModuleVersion) -> Option<String> {
        if !self.options.redirects || self.is_paused() {
            return None;
        }
        let key = match self.zips.get(version).filter(|_| self.is_known(version)) {
            Some(key) => key,
            None => {
                let held = self.note(self.versions.manifest(version).await).ok()??;
                let content = held.document.present_content().filter(|content| content.zip.h1.is_some())?;
                let is_own = content.zip.key.starts_with(&self.versions.keys().contents());
                let key: Arc<str> = is_own.then(|| Arc::from(content.zip.key.as_str()))?;
                self.zips.insert(version.clone(), Arc::clone(&key));
                key
            }
        };
        let signed = self.versions.bucket().signed_url(&key, REDIRECT_VALID).await;
        signed
            .inspect_err(
                |error| log::debug!(version:%, reason = error.without_help(); "cannot sign a URL of a zip"),
            )
            .ok()?
    }
}
