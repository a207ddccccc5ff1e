//! Recognises a bucket that Athens filled.

use async_trait::async_trait;
use stoa_bucket::{
    ATHENS, AthensFile, AthensFiles, AthensVersion, Bucket, BucketDetection, BucketError, DetectBucket, Keys,
    Nonce, Versions,
};
use stoa_layout::LayoutId;

use super::blocks::Blocks;

/// The layout that Athens writes to S3, Google Cloud Storage and Azure: `MODULE/@v/VERSION.{info,mod,zip}`.
pub(super) struct IsAthens;

/// Number of foreign keys and folders after which a bucket without a complete version is no bucket of Athens.
const MAX_FOREIGN: usize = 5000;

#[async_trait(?Send)]
impl DetectBucket for IsAthens {
    fn layout(&self) -> LayoutId {
        ATHENS
    }

    async fn detect(&self, bucket: &Bucket) -> Result<BucketDetection, BucketError> {
        let mut blocks = Blocks::new(bucket.list("", None)?);
        let (mut of_minio, mut foreign, mut is_saving) = (None, 0, false);
        // A folder that no module path begins with, such as that of the locks of Athens, and the name after it.
        let (mut skipped, mut after) = (None, String::new());
        // Only for its reading methods: no object has this ID.
        let versions = Versions::new(bucket.clone(), Keys::new(no_id(bucket)?));
        while let Some(block) = blocks.next().await? {
            let mut found = std::collections::BTreeMap::<_, AthensFiles>::new();
            // Some services begin each listing at the first key.
            for entry in block.entries.into_iter().filter(|entry| entry.key > after) {
                match AthensFile::parse(&entry.key) {
                    Some((version, file)) => found.entry(version).or_default().add(file, entry.meta),
                    None => {
                        foreign += 1;
                        skipped = foreign_folder(&entry.key).map(ToOwned::to_owned);
                        if of_minio.is_none() && is_of_minio(&entry.key) {
                            of_minio = Some(entry.key);
                        }
                    }
                }
            }
            for (version, files) in found {
                match versions.look_at_athens(&version, Some(&files)).await? {
                    AthensVersion::Whole(..) => return Ok(BucketDetection::Yes),
                    AthensVersion::Saving => is_saving = true,
                    AthensVersion::Incomplete(_) | AthensVersion::Absent => {}
                }
            }
            if foreign > MAX_FOREIGN {
                break;
            }
            if let Some(folder) = skipped.take() {
                // The next character after the slash: everything in the folder sorts before this name.
                after = format!("{folder}0");
                blocks = Blocks::new(bucket.list("", Some(&after))?);
            }
        }
        let url = bucket.url();
        Ok(match of_minio {
            _ if is_saving => BucketDetection::Refuse(format!(
                "cannot use {url}: Athens is saving its first version there, nothing was changed\n\
                 help: run again in 15 minutes"
            )),
            Some(key) => BucketDetection::Refuse(format!(
                "cannot use {url}: {key} has the key format of the minio storage of Athens, nothing was changed\n\
                 help: copy the bucket to a folder DIR, and import the folder into an empty bucket with `stoa import DIR --bucket URL`"
            )),
            None => BucketDetection::No,
        })
    }
}

/// Returns the first part of a key if no module path begins with it.
fn foreign_folder(key: &str) -> Option<&str> {
    let (first, _) = key.split_once('/')?;
    stoa_gomod::ModulePath::new(first).is_err().then_some(first)
}

/// Returns whether a key has the shape of the minio storage: `MODULE/VERSION/go.mod`.
fn is_of_minio(key: &str) -> bool {
    let Some((rest, name)) = key.rsplit_once('/') else { return false };
    let Some((module, version)) = rest.rsplit_once('/') else { return false };
    let is_file = matches!(name, "go.mod" | "source.zip") || name.strip_suffix(".info") == Some(version);
    is_file && stoa_gomod::ModuleVersion::parse(&format!("{module}@{version}")).is_ok()
}

fn no_id(bucket: &Bucket) -> Result<Nonce, BucketError> {
    Nonce::random()
        .map_err(|error| BucketError::new(stoa_bucket::Trouble::Local, "read", bucket.url(), error))
}
