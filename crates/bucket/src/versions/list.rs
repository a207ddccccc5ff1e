//! Listing the versions of a module, and reading all manifests.

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use stoa_gomod::{ModulePath, Version};

use super::Versions;
use crate::{BucketError, Held, Manifest, Presence};

/// Number of manifests that a list reads at the same time.
const NOTED_AT_ONCE: usize = 32;

/// The versions of a module in a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedThere {
    /// The versions that exist.
    pub present: Vec<Version>,
    /// The versions that have a tombstone.
    pub forbidden: Vec<Version>,
}

impl Versions {
    /// Returns the versions of a module that exist and those that have a tombstone, in no particular order.
    pub async fn list(&self, module: &ModulePath) -> Result<ListedThere, BucketError> {
        let listed = self.bucket.folder(&self.keys.manifests_of(module)).await?;
        let removed = self.bucket.folder(&self.keys.removed_of(module)).await?;
        let removed: std::collections::HashSet<&str> =
            removed.entries.iter().filter_map(|entry| entry.key.rsplit('/').next()).collect();
        let mut found = ListedThere::default();
        let mut noted = Vec::new();
        for entry in &listed.entries {
            let Some(version) = self.keys.version_of_manifest(&entry.key) else { continue };
            let version = version.version().clone();
            match removed.contains(version.as_str()) {
                true => noted.push((version, entry.key.clone())),
                false => found.present.push(version),
            }
        }
        let read = stream::iter(noted).map(async |(version, key)| {
            let manifest = self.bucket.document::<Manifest>(&key).await?;
            Ok::<_, BucketError>((version, manifest.map(|held| held.document)))
        });
        let mut read = std::pin::pin!(read.buffered(NOTED_AT_ONCE));
        while let Some((version, manifest)) = read.try_next().await? {
            match manifest {
                Some(manifest) if manifest.record.tombstone.is_some() => found.forbidden.push(version),
                Some(manifest) if manifest.state == Presence::Present => found.present.push(version),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Returns the versions of a module that have a manifest, in no particular order.
    pub async fn all_of(&self, module: &ModulePath) -> Result<Vec<Version>, BucketError> {
        let listed = self.bucket.folder(&self.keys.manifests_of(module)).await?;
        let version =
            |entry: &crate::Entry| Some(self.keys.version_of_manifest(&entry.key)?.version().clone());
        Ok(listed.entries.iter().filter_map(version).collect())
    }

    /// Calls `each` with the manifest of every version, those that do not exist too, in the order of their keys. Reads
    /// `at_once` of them at the same time.
    pub async fn each<E: From<BucketError>>(
        &self,
        at_once: usize,
        mut each: impl AsyncFnMut(Held<Manifest>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut manifests = self.manifests(at_once)?;
        while let Some(manifest) = manifests.next().await {
            each(manifest?).await?;
        }
        Ok(())
    }

    /// Returns the manifests of all versions likewise, one by one. Others follow an error of one manifest.
    pub fn manifests(
        &self,
        at_once: usize,
    ) -> Result<BoxStream<'static, Result<Held<Manifest>, BucketError>>, BucketError> {
        let listed = self.bucket.list(&self.keys.manifests(), None)?;
        let bucket = self.bucket.clone();
        let manifests = listed.map(move |entry| {
            let bucket = bucket.clone();
            async move { bucket.document::<Manifest>(&entry?.key).await }
        });
        let manifests = manifests.buffered(at_once.max(1));
        Ok(manifests.filter_map(|manifest| std::future::ready(manifest.transpose())).boxed())
    }
}
