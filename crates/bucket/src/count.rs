//! The numbers of versions in a bucket, from its listings.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt};
use stoa_gomod::{ModulePath, ModuleVersion};

use crate::{BucketError, Presence, Versions};

/// The numbers of what a bucket has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountThere {
    /// Versions that exist.
    pub versions: u64,
    /// Modules with such a version.
    pub modules: u64,
    /// Quarantine entries.
    pub quarantined: u64,
}

impl Versions {
    /// Counts the versions. Reads listings, and the manifests of versions that may have been removed, `at_once` of them at
    /// the same time.
    pub async fn count(&self, at_once: usize) -> Result<CountThere, BucketError> {
        let mut absent = HashMap::<ModulePath, u64>::new();
        let looked_at = self.bucket().list(&self.keys().all_removed(), None)?.map(|entry| async {
            let Some(version) = self.keys().version_of_removed(&entry?.key) else { return Ok(None) };
            let manifest = self.manifest(&version).await?;
            let is_absent = manifest.is_some_and(|held| held.document.state == Presence::Absent);
            Ok::<_, BucketError>(Some(version).filter(|_| is_absent))
        });
        let mut looked_at = std::pin::pin!(looked_at.buffer_unordered(at_once.max(1)));
        while let Some(version) = looked_at.try_next().await? {
            if let Some(version) = version {
                *absent.entry(version.path().clone()).or_default() += 1;
            }
        }
        let (mut count, mut of_module) = (CountThere::default(), None::<(ModulePath, u64)>);
        let mut listed = self.bucket().list(&self.keys().manifests(), None)?;
        loop {
            let entry = listed.try_next().await?;
            let next = match entry {
                Some(entry) => match self.keys().version_of_manifest(&entry.key) {
                    Some(version) => Some(version),
                    None => continue,
                },
                None => None,
            };
            let path = next.as_ref().map(ModuleVersion::path);
            match &mut of_module {
                Some((module, manifests)) if Some(&*module) == path => *manifests += 1,
                _ => {
                    if let Some((module, manifests)) = of_module.take() {
                        let present = manifests.saturating_sub(absent.get(&module).copied().unwrap_or(0));
                        count.versions += present;
                        count.modules += u64::from(present > 0);
                    }
                    of_module = path.map(|path| (path.clone(), 1));
                }
            }
            if next.is_none() {
                break;
            }
        }
        let mut quarantined = self.bucket().list(&self.keys().quarantine(), None)?;
        while quarantined.try_next().await?.is_some() {
            count.quarantined += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{new, versions};

    #[tokio::test]
    async fn removed_versions_are_not_counted() {
        let versions = versions().await;
        for pair in ["a.b/m@v1.0.0", "a.b/m@v1.0.0-pre", "a.b/m/sub@v1.0.0", "a.b/n@v1.0.0"] {
            versions.publish(&new(pair, b"zip"), None).await.unwrap();
        }
        let version = |pair: &str| ModuleVersion::parse(pair).unwrap();
        versions.remove(&version("a.b/m@v1.0.0"), None, true).await.unwrap();
        versions.quarantine(&version("a.b/n@v1.0.0"), None, "test").await.unwrap();
        let expected = CountThere { versions: 2, modules: 2, quarantined: 1 };
        assert_eq!(versions.count(4).await.unwrap(), expected);
        // A version that came back has a note still.
        let before = versions.manifest(&version("a.b/m@v1.0.0")).await.unwrap();
        versions.publish(&new("a.b/m@v1.0.0", b"zip"), before.as_ref()).await.unwrap();
        assert_eq!(versions.count(1).await.unwrap(), CountThere { versions: 3, ..expected });
    }
}
