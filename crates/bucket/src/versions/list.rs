//! Listing the versions of a module, and reading all manifests.

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use stoa_gomod::{ModulePath, Version};

use super::Versions;
use crate::{BucketError, Entry, Held, Manifest, Presence, Trouble};

/// Number of manifests that a list reads at the same time.
const NOTED_AT_ONCE: usize = 32;

/// Number of manifests of a block for each request that may be under way at the same time.
const PER_REQUEST: usize = 4;

/// Maximum number of manifests of a block, which are in memory together.
const MAX_BLOCK: usize = 512;

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

    /// Returns the versions of a module that have a manifest, in the order of versions.
    pub async fn all_of(&self, module: &ModulePath) -> Result<Vec<Version>, BucketError> {
        let listed = self.bucket.folder(&self.keys.manifests_of(module)).await?;
        let version = |entry: &Entry| Some(self.keys.version_of_manifest(&entry.key)?.version().clone());
        let mut versions: Vec<Version> = listed.entries.iter().filter_map(version).collect();
        versions.sort();
        Ok(versions)
    }

    /// Calls `each` with the manifest of every version, those that do not exist too, in the order of their keys. Reads
    /// `at_once` of them at the same time. Ends with the first manifest that cannot be read.
    pub async fn each<E: From<BucketError>>(
        &self,
        at_once: usize,
        mut each: impl AsyncFnMut(Held<Manifest>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut blocks = self.blocks(at_once)?;
        while let Some(block) = blocks.next().await? {
            for held in block {
                each(held?).await?;
            }
        }
        Ok(())
    }

    /// Returns the manifests of all versions likewise, in blocks.
    pub fn blocks(&self, at_once: usize) -> Result<ManifestBlocks, BucketError> {
        let listed = self.bucket.list(&self.keys.manifests(), None)?;
        Ok(ManifestBlocks { versions: self.clone(), listed, at_once: at_once.max(1) })
    }
}

/// Reads all manifests in blocks. No request is under way between two blocks, so the caller may take any time there.
pub struct ManifestBlocks {
    versions: Versions,
    listed: BoxStream<'static, Result<Entry, BucketError>>,
    at_once: usize,
}

impl ManifestBlocks {
    /// Returns the next manifests, or `None` at the end. A manifest in the block is an error if its content is damaged.
    pub async fn next(&mut self) -> Result<Option<Vec<Result<Held<Manifest>, BucketError>>>, BucketError> {
        let (bucket, mut keys) = (&self.versions.bucket, Vec::new());
        while keys.len() < self.at_once.saturating_mul(PER_REQUEST).min(MAX_BLOCK) {
            let Some(entry) = self.listed.try_next().await? else { break };
            if self.versions.keys.version_of_manifest(&entry.key).is_some() {
                keys.push(entry.key);
            }
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let read = stream::iter(keys).map(async |key| match bucket.document::<Manifest>(&key).await {
            Err(error) if error.trouble == Trouble::Damaged => Ok(Some(Err(error))),
            read => Ok::<_, BucketError>(read?.map(Ok)),
        });
        let read: Vec<Option<_>> = read.buffered(self.at_once).try_collect().await?;
        Ok(Some(read.into_iter().flatten().collect()))
    }
}
