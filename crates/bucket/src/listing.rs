//! The sorted listing of all manifests with their tags, without reading one.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use stoa_gomod::ModuleVersion;

use crate::{BucketError, Entry, Tag, Trouble, Versions};

/// A manifest in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedManifest {
    /// The version.
    pub version: ModuleVersion,
    /// The key below the folder of the manifests. Each key is greater than the one before, bytewise.
    pub key: String,
    /// The tag.
    pub tag: Tag,
}

impl Versions {
    /// Lists all manifests, those of versions that do not exist too.
    ///
    /// # Errors
    ///
    /// Fails if the service does not sort its listings.
    pub fn listed_manifests(
        &self,
    ) -> Result<BoxStream<'static, Result<ListedManifest, BucketError>>, BucketError> {
        let listed = self.bucket().list(&self.keys().manifests(), None)?;
        let (keys, url) = (self.keys().clone(), self.bucket().url_of(&self.keys().manifests()));
        let folder = format!("{}/", keys.manifests());
        let mut last = String::new();
        let manifest = move |entry: Entry| {
            let version = keys.version_of_manifest(&entry.key)?;
            let key = entry.key.strip_prefix(&folder)?.to_owned();
            if key <= last {
                let reason = format!("the service does not sort its listings: {key} comes after {last}");
                return Some(Err(BucketError::new(Trouble::Unsupported, "list", &url, reason)));
            }
            last.clone_from(&key);
            Some(Ok(ListedManifest { version, key, tag: entry.meta.tag }))
        };
        let mut manifest = manifest;
        let listed = listed.filter_map(move |entry| {
            std::future::ready(match entry {
                Ok(entry) => manifest(entry),
                Err(error) => Some(Err(error)),
            })
        });
        Ok(listed.boxed())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::testing::{new, versions};

    #[tokio::test]
    async fn manifests_are_listed_in_order_with_the_tags_of_reads() {
        let versions = versions().await;
        // A module below another one, and a version whose text begins with another one.
        let pairs =
            ["a.b/m@v1.0.0", "a.b/m@v1.0.0-pre", "a.b/m/sub@v1.0.0", "a.b/m-x@v1.0.0", "a.b/Z@v1.0.0"];
        for pair in pairs {
            versions.publish(&new(pair, b"zip"), None).await.unwrap();
        }
        let removed = ModuleVersion::parse(pairs[0]).unwrap();
        versions.remove(&removed, None, true).await.unwrap();
        let other = format!("{}/README", versions.keys().manifests());
        versions.bucket().overwrite(&other, bytes::Bytes::new()).await.unwrap();
        let listed: Vec<ListedManifest> = versions.listed_manifests().unwrap().try_collect().await.unwrap();
        assert!(listed.is_sorted_by(|a, b| a.key < b.key), "{listed:?}");
        assert_eq!(listed.len(), pairs.len());
        for listed in listed {
            let held = versions.manifest(&listed.version).await.unwrap().unwrap();
            assert_eq!(held.tag.e_tag(), listed.tag.e_tag());
            assert_eq!(held.document.version, listed.version);
        }
    }
}
