//! Redirects of clients to the bucket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stoa_gomod::ModuleVersion;

use super::Tier;

/// How long a URL is valid to which clients are redirected.
const REDIRECT_VALID: Duration = Duration::from_secs(15 * 60);

/// How long a server does not ask whether a zip is still there.
const CHECK_EVERY: Duration = Duration::from_secs(15 * 60);

impl Tier {
    /// Returns whether clients get zips directly from the bucket.
    pub(crate) fn redirects(&self) -> bool {
        self.options.redirects
    }

    /// Returns a URL that reads the zip of a version for a while. `None` if this server must send the zip itself: nobody has
    /// verified it, Athens could replace it, it is gone, the bucket cannot be reached, or the credentials
    /// cannot sign.
    pub(crate) async fn redirect(&self, version: &ModuleVersion) -> Option<String> {
        if !self.options.redirects || self.is_paused() {
            return None;
        }
        let remembered = self.zips.get(version).filter(|(at, _)| at.elapsed() < CHECK_EVERY);
        let key = match remembered.filter(|_| self.is_known(version)) {
            Some((_, key)) => key,
            None => {
                let held = self.note(self.versions.manifest(version).await).ok()??;
                let content = held.document.present_content().filter(|content| content.zip.h1.is_some())?;
                let is_own = content.zip.key.starts_with(&self.versions.keys().contents());
                let key: Arc<str> = is_own.then(|| Arc::from(content.zip.key.as_str()))?;
                // A client cannot tell an object that is gone from a failure of this server.
                if !self.note(self.versions.has_content(&held.document).await).ok()? {
                    self.note_unreadable(version, &"a file is missing or was replaced");
                    return None;
                }
                self.zips.insert(version.clone(), (Instant::now(), Arc::clone(&key)));
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

#[cfg(test)]
mod tests {
    use super::super::InBucket;
    use super::super::testing::{publish, tier};
    use super::*;

    #[tokio::test]
    async fn clients_are_not_redirected_to_a_zip_that_is_gone() {
        let tier = tier(false).await;
        let [whole, gone] =
            ["example.com/m@v1.0.0", "example.com/m@v1.1.0"].map(|pair| ModuleVersion::parse(pair).unwrap());
        publish(&tier, &whole).await;
        publish(&tier, &gone).await;
        let held = tier.versions.manifest(&gone).await.unwrap().unwrap();
        let zip = &held.document.present_content().unwrap().zip;
        tier.versions.bucket().delete(&zip.key).await.unwrap();
        // The bucket in memory signs no URLs.
        for version in [&whole, &gone] {
            assert_eq!(tier.redirect(version).await, None);
        }
        assert!(tier.zips.get(&whole).is_some() && tier.zips.get(&gone).is_none());
        assert!(matches!(tier.look(&whole).await.unwrap(), InBucket::Present(_)));
        assert!(matches!(tier.look(&gone).await.unwrap(), InBucket::Known(_)));
    }
}
