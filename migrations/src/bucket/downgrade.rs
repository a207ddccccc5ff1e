//! The way back: what servers have filled is copied to the keys of Athens, and everything below the ID is deleted. Before
//! that the bucket gets a new ID, so that nothing is deleted that another process may still use.
//!
//! The copies are made before anything is deleted, and the info last, so Athens sees a version only when it is whole.
//! A key of Athens that exists is never changed. If its content differs, the step ends before anything is deleted.

use super::PAGE;
use futures_util::{StreamExt, TryStreamExt};
use stoa_bucket::{
    AthensFile, Bucket, BucketContext, BucketError, BucketMoved, BucketStepError, BucketSurvey, BucketWork,
    Content, Held, Keys, Manifest, Presence, VersionContent, Versions,
};
use stoa_gomod::ModuleVersion;
use stoa_layout::events::Event;
use stoa_layout::{Exit, Leftover};

/// Fails while servers use the bucket, and if Athens would serve a version that is in quarantine. The first check is a
/// courtesy: a server that goes on learns by its next write that the bucket was downgraded.
pub(super) async fn prepare(
    bucket: &Bucket,
    keys: Option<&Keys>,
    resumes: bool,
) -> Result<(), BucketStepError> {
    let Some(keys) = keys else { return Ok(()) };
    let url = bucket.url();
    let names = bucket.servers(keys).await?;
    if !names.is_empty() {
        let message = format!(
            "cannot downgrade {url}: it is in use by {}\n\
             help: stop these servers, then run again (a server that was killed counts as running for two minutes)",
            names.join(", ")
        );
        return Err(BucketStepError::Refused { exit: Exit::BUSY, message });
    }
    // A step that has begun must not stop here: entries cannot be purged in the middle of a step.
    if resumes {
        return Ok(());
    }
    let served = Versions::new(bucket.clone(), keys.clone()).quarantined_at_athens().await?;
    if served.is_empty() {
        return Ok(());
    }
    let versions = counted(served.len() as u64, "corrupt version", "corrupt versions");
    let message = format!(
        "cannot downgrade {url}: Athens would serve {versions} of the quarantine, whose files are at the keys of Athens\n\
         help: delete the quarantine with `stoa quarantine purge --bucket {url} --all`, then run again"
    );
    Err(BucketStepError::Refused { exit: Exit::CANT_CREATE, message })
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Counts the work.
pub(super) async fn survey(
    bucket: &Bucket,
    keys: Option<&Keys>,
    work: &BucketWork<'_>,
) -> Result<BucketSurvey, BucketStepError> {
    let (mut survey, mut manifests) = (BucketSurvey::default(), 0u64);
    let Some(keys) = keys else { return Ok(survey) };
    let versions = Versions::new(bucket.clone(), keys.clone());
    let each = async |held: Held<Manifest>| -> Result<(), BucketStepError> {
        work.cancel.check()?;
        manifests += 1;
        if let Some(content) = held.document.present_content().filter(|content| is_own(content, keys)) {
            survey.versions += 1;
            survey.bytes += content.bytes();
            // The content and the place of the zip are looked at, and three files are written.
            survey.requests.gets += 2;
            survey.requests.puts += 3;
        }
        Ok(())
    };
    versions.each(work.at_once, each).await?;
    // The manifests are listed to copy, and all keys below the ID to delete them.
    survey.requests.gets += manifests;
    survey.requests.lists += 2 * manifests.div_ceil(PAGE) + survey.versions.div_ceil(PAGE) + 3;
    Ok(survey)
}

/// Returns whether the zip is an object of this program, not one of Athens.
fn is_own(content: &VersionContent, keys: &Keys) -> bool {
    content.zip.key.starts_with(&keys.root())
}

/// Copies and deletes.
pub(super) async fn make(context: &BucketContext<'_>) -> Result<BucketMoved, BucketStepError> {
    let BucketContext { bucket, keys, lease, work } = context;
    let versions = Versions::new((*bucket).clone(), (*keys).clone());
    let listed = bucket.list(&keys.manifests(), None)?;
    let mut moved = BucketMoved::default();
    let mut tombstones = 0u64;
    let versions = &versions;
    let copies = listed.map_err(BucketStepError::from).map_ok(|entry| async move {
        let Some(held) = bucket.document::<Manifest>(&entry.key).await? else { return Ok(None) };
        let manifest = held.document;
        let is_forbidden = manifest.record.tombstone.is_some();
        match manifest.present_content().filter(|content| is_own(content, keys)) {
            Some(content) if bucket.head(&content.zip.key).await?.is_none() => {
                let leftover = Leftover {
                    path: bucket.url_of(&content.zip.key).into(),
                    bytes: 0,
                    reason: format!("incomplete: the zip of {} is missing", manifest.version),
                };
                work.events.event(Event::Leftover(&leftover));
                Ok(Some((0, is_forbidden)))
            }
            Some(content) => {
                copy(versions, &manifest.version, content).await?;
                Ok(Some((content.bytes(), is_forbidden)))
            }
            None => Ok(Some((0, is_forbidden && manifest.state == Presence::Absent))),
        }
    });
    let mut copies = std::pin::pin!(copies.try_buffer_unordered(work.at_once.max(1)));
    while let Some(copied) = lease.during(copies.try_next()).await? {
        work.cancel.check()?;
        let Some((bytes, is_forbidden)) = copied else { continue };
        tombstones += u64::from(is_forbidden);
        if bytes > 0 {
            moved.versions += 1;
            moved.bytes += bytes;
            work.events.event(Event::Progress { items: moved.versions, bytes: moved.bytes });
        }
    }
    let quarantined = versions.quarantined().await?.len() as u64;
    if tombstones > 0 || quarantined > 0 {
        work.events.event(Event::Warning(format!(
            "deleting {} and {}, because Athens supports neither",
            counted(tombstones, "tombstone", "tombstones"),
            counted(quarantined, "quarantine entry", "quarantine entries")
        )));
    }
    let folders = bucket.folders_of_ids().await?;
    // Nobody reads what is below these folders after this write. A process that was suspended before it is refused, and
    // one that is suspended after it may go on at any time: if the downgrade was undone meanwhile, the bucket has an ID
    // that is not among these.
    lease.retire_id().await?;
    for folder in folders {
        let below = bucket.list(&folder, None)?.map_ok(|entry| entry.key).boxed();
        lease.during(bucket.delete_all(below, || {})).await?;
    }
    Ok(moved)
}

/// Copies a version to the keys of Athens, the info last.
async fn copy(
    versions: &Versions,
    version: &ModuleVersion,
    content: &VersionContent,
) -> Result<(), BucketStepError> {
    let bucket = versions.bucket();
    let key = AthensFile::Zip.key(version);
    let is_there =
        bucket.head(&key).await?.is_some() || !bucket.copy_if_absent(&content.zip.key, &key).await?;
    if is_there && !is_same(bucket, &content.zip.key, &key).await? {
        return Err(differs(bucket, version, &key));
    }
    for (file, small) in [(AthensFile::Mod, &content.modfile), (AthensFile::Info, &content.info)] {
        let key = file.key(version);
        let Some(bytes) = versions.small(small).await? else {
            let message = format!(
                "cannot copy {version}: the object of its info or mod is missing, nothing was deleted\n\
                 help: undo the downgrade with `stoa-migrate --bucket {}`, start a server, request the version, and \
                 downgrade again",
                bucket.url()
            );
            return Err(BucketStepError::Refused { exit: Exit::CANT_CREATE, message });
        };
        if !bucket.write_if_absent(&key, bytes).await? {
            return Err(differs(bucket, version, &key));
        }
    }
    Ok(())
}

fn differs(bucket: &Bucket, version: &ModuleVersion, key: &str) -> BucketStepError {
    let message = format!(
        "cannot copy {version} to {}: the object exists and differs, nothing was deleted\n\
         help: delete or rename the object, and run again",
        bucket.url_of(key)
    );
    BucketStepError::Refused { exit: Exit::CANT_CREATE, message }
}

/// Returns whether two objects have the same bytes.
async fn is_same(bucket: &Bucket, one: &str, other: &str) -> Result<bool, BucketError> {
    let (Some(one), Some(other)) =
        (bucket.read(one, None, None).await?, bucket.read(other, None, None).await?)
    else {
        return Ok(false);
    };
    if one.meta.size != other.meta.size {
        return Ok(false);
    }
    let (mut one, mut other) = (Parts::new(one), Parts::new(other));
    loop {
        one.fill().await?;
        other.fill().await?;
        let common = one.held.len().min(other.held.len());
        if one.held[..common] != other.held[..common] {
            return Ok(false);
        }
        if common == 0 {
            return Ok(one.held.len() == other.held.len());
        }
        one.held = one.held.slice(common..);
        other.held = other.held.slice(common..);
    }
}

/// The content of an object, part by part.
struct Parts {
    content: Content,
    held: bytes::Bytes,
}

impl Parts {
    fn new(content: Content) -> Self {
        Self { content, held: bytes::Bytes::new() }
    }

    /// Reads the next part if nothing is left of the last one.
    async fn fill(&mut self) -> Result<(), BucketError> {
        while self.held.is_empty() {
            match self.content.bytes.try_next().await? {
                Some(part) => self.held = part,
                None => break,
            }
        }
        Ok(())
    }
}
