//! The upgrade: every complete version of Athens gets a manifest.
//!
//! The listing of Athens' keys and the listing of the manifests have the same order, so both are read once, side by
//! side. A version that has a manifest is skipped. So a run that is resumed repeats little.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use stoa_bucket::{
    AthensFile, AthensFiles, AthensVersion, Bucket, BucketContext, BucketError, BucketMoved, BucketRequests,
    BucketStepError, BucketSurvey, BucketWork, Entry, Keys, Manifest, OWN, Versions,
};
use stoa_gomod::{ModuleVersion, Version};
use stoa_layout::Leftover;
use stoa_layout::events::Event;
use time::{Duration, OffsetDateTime};

use super::PAGE;
use super::blocks::{Block, Blocks};

/// Athens takes over a lock that is older than this.
const LOCK_TIMEOUT: Duration = Duration::seconds(900);

/// The folder of these locks.
const LOCKS: &str = "lock/";

/// The requests that read a version: info, mod and the end of the zip.
const READS: u64 = 3;

/// A version that has no manifest yet, with its files.
type Found = (ModuleVersion, AthensFiles);

/// Reads both listings side by side.
struct Merge<'a> {
    bucket: &'a Bucket,
    athens: Blocks,
    /// The listing of the manifests, if there are any, and its next block.
    manifests: Option<Blocks>,
    manifest: Option<Block>,
    keys: Option<&'a Keys>,
    /// The versions that Athens has locked: it is saving them.
    locked: HashSet<ModuleVersion>,
    listed: u64,
}

impl<'a> Merge<'a> {
    async fn new(bucket: &'a Bucket, keys: Option<&'a Keys>) -> Result<Self, BucketError> {
        let locked = locked(bucket).await?;
        // The listings of the detection have shown the same keys.
        bucket.take_unnameable();
        let manifests = keys.map(|keys| bucket.list(&keys.manifests(), None)).transpose()?;
        Ok(Self {
            bucket,
            athens: Blocks::new(bucket.list("", None)?),
            manifests: manifests.map(Blocks::new),
            manifest: None,
            keys,
            locked,
            listed: 0,
        })
    }

    /// Returns the next versions without a manifest. Other keys go to `leftover`, with the reason. `None` at the end.
    async fn next(
        &mut self,
        leftover: &mut impl FnMut(&Entry, &str),
    ) -> Result<Option<Vec<Found>>, BucketError> {
        let Some(block) = self.athens.next().await? else { return Ok(None) };
        self.listed += block.entries.len() as u64;
        let mut found = BTreeMap::<ModuleVersion, AthensFiles>::new();
        for entry in &block.entries {
            match AthensFile::parse(&entry.key) {
                Some((version, file)) => found.entry(version).or_default().add(file, entry.meta.clone()),
                None if entry.key.starts_with(OWN) || is_fresh_lock(self.bucket, entry) => {}
                None => leftover(entry, &reason_of(&entry.key)),
            }
        }
        if let Some(folder) = &block.folder
            && !found.is_empty()
        {
            let known = self.known(folder).await?;
            found.retain(|version, _| !known.contains(version));
        }
        Ok(Some(found.into_iter().collect()))
    }

    /// Returns the versions in a folder that have a manifest.
    async fn known(&mut self, folder: &str) -> Result<HashSet<ModuleVersion>, BucketError> {
        let (Some(manifests), Some(keys)) = (&mut self.manifests, self.keys) else {
            return Ok(HashSet::new());
        };
        let prefix = format!("{}/", keys.manifests());
        loop {
            if self.manifest.is_none() {
                self.manifest = manifests.next().await?;
            }
            let Some(block) = &self.manifest else { return Ok(HashSet::new()) };
            let at = block.folder.as_deref().and_then(|folder| folder.strip_prefix(&prefix));
            match at.map(|at| at.cmp(folder)) {
                Some(std::cmp::Ordering::Equal) => {
                    let versions = block.entries.iter();
                    return Ok(versions.filter_map(|entry| keys.version_of_manifest(&entry.key)).collect());
                }
                Some(std::cmp::Ordering::Greater) => return Ok(HashSet::new()),
                Some(std::cmp::Ordering::Less) | None => {
                    self.listed += block.entries.len() as u64;
                    self.manifest = None;
                }
            }
        }
    }

    /// Reports the keys that the client cannot name. Returns their number.
    fn unnameable(&self, work: &BucketWork<'_>) -> u64 {
        let unnameable = self.bucket.take_unnameable();
        for key in &unnameable.keys {
            report(work, self.bucket, key, 0, "foreign: Stoa cannot request a key of this form");
        }
        unnameable.count
    }
}

/// Returns the versions whose locks are so young that Athens is saving them. Newer releases of Athens lock by objects.
async fn locked(bucket: &Bucket) -> Result<HashSet<ModuleVersion>, BucketError> {
    let (mut listed, mut found) = (bucket.list("lock", None)?, HashSet::new());
    while found.len() < MAX_SAVING
        && let Some(entry) = listed.try_next().await?
    {
        let version = entry.key.strip_prefix(LOCKS).and_then(|name| ModuleVersion::parse(name).ok());
        found.extend(version.filter(|_| is_fresh_lock(bucket, &entry)));
    }
    Ok(found)
}

/// Returns whether a key is a lock that Athens may hold. Athens deletes it at the end of the save.
fn is_fresh_lock(bucket: &Bucket, entry: &Entry) -> bool {
    let age = bucket.service_time().unwrap_or_else(OffsetDateTime::now_utc) - entry.meta.modified;
    entry.key.starts_with(LOCKS) && age < LOCK_TIMEOUT
}

fn reason_of(key: &str) -> String {
    let name = key.rsplit_once("/@v/").and_then(|(_, name)| name.rsplit_once('.'));
    let stem = name.filter(|(_, suffix)| AthensFile::ALL.iter().any(|file| file.suffix() == *suffix));
    match (key.split('/').next().unwrap_or_default(), stem) {
        ("lock" | "lease", _) => "foreign: a lock of Athens".to_owned(),
        ("parts", _) => "foreign: a part of an upload of Athens".to_owned(),
        (_, Some((stem, _))) if Version::new(stem).is_err() => {
            format!("alias: {stem} is not a canonical version")
        }
        _ if key.ends_with('/') => "foreign: a placeholder of a folder".to_owned(),
        _ => "foreign: not a file of a version".to_owned(),
    }
}

fn report(work: &BucketWork<'_>, bucket: &Bucket, key: &str, bytes: u64, reason: &str) {
    let (path, reason) = (PathBuf::from(bucket.url_of(key)), reason.to_owned());
    work.events.event(Event::Leftover(&Leftover { path, bytes, reason }));
}

/// Reports the files of an incomplete version.
fn report_version(work: &BucketWork<'_>, bucket: &Bucket, version: &ModuleVersion, bytes: u64, reason: &str) {
    report(work, bucket, &format!("{}/@v/{}", version.path(), version.version()), bytes, reason);
}

/// Counts the work. Reads the listings, and looks at each version as the step does.
pub(super) async fn survey(
    bucket: &Bucket,
    keys: Option<&Keys>,
    work: &BucketWork<'_>,
) -> Result<BucketSurvey, BucketStepError> {
    let versions = reader(bucket, keys)?;
    let mut survey = BucketSurvey::default();
    let mut merge = Merge::new(bucket, keys).await?;
    let locked = merge.locked.clone();
    let (mut foreign, mut looked_at) = (0, 0);
    let mut looking = FuturesUnordered::new();
    let versions = &versions;
    let look = |(version, files): Found| async move {
        let found = versions.look_at_athens(&version, Some(&files)).await?;
        Ok::<_, BucketError>((version, files, found))
    };
    let mut count = |(version, files, found): (ModuleVersion, AthensFiles, AthensVersion)| match found {
        AthensVersion::Whole(content, _) => {
            survey.versions += 1;
            survey.bytes += content.bytes();
        }
        AthensVersion::Incomplete(_) if locked.contains(&version) => {}
        AthensVersion::Incomplete(reason) => {
            survey.leftovers += 1;
            report_version(work, bucket, &version, files.bytes(), &reason);
        }
        AthensVersion::Saving | AthensVersion::Absent => {}
    };
    while let Some(found) = merge
        .next(&mut |entry, reason| {
            foreign += 1;
            report(work, bucket, &entry.key, entry.meta.size, reason);
        })
        .await?
    {
        work.cancel.check()?;
        for one in found {
            while looking.len() >= work.at_once.max(1) {
                if let Some(done) = looking.next().await {
                    count(done?);
                }
            }
            looked_at += 1;
            looking.push(look(one));
        }
    }
    while let Some(done) = looking.next().await {
        count(done?);
    }
    let unnameable = merge.unnameable(work);
    survey.leftovers += foreign + unnameable;
    survey.requests = BucketRequests {
        gets: looked_at * READS,
        puts: survey.versions,
        // The locks, and both listings.
        lists: merge.listed.div_ceil(PAGE) + 3,
    };
    Ok(survey)
}

/// Returns the versions of a bucket, for reading.
fn reader(bucket: &Bucket, keys: Option<&Keys>) -> Result<Versions, BucketError> {
    let keys =
        match keys {
            Some(keys) => keys.clone(),
            None => Keys::new(stoa_bucket::Nonce::random().map_err(|error| {
                BucketError::new(stoa_bucket::Trouble::Local, "read", bucket.url(), error)
            })?),
        };
    Ok(Versions::new(bucket.clone(), keys))
}

/// Writes the manifests.
pub(super) async fn make(context: &BucketContext<'_>) -> Result<BucketMoved, BucketStepError> {
    let mut pass =
        Pass { context, moved: BucketMoved::default(), saving: Vec::new(), locked: HashSet::new() };
    pass.all().await?;
    pass.look_again().await?;
    Ok(pass.moved)
}

struct Pass<'a> {
    context: &'a BucketContext<'a>,
    moved: BucketMoved,
    /// Versions that Athens may have been saving.
    saving: Vec<Found>,
    /// The versions that Athens has locked.
    locked: HashSet<ModuleVersion>,
}

/// The result for one version.
enum One {
    Adopted(Option<Box<Manifest>>),
    Saving(Found),
    Incomplete(Found, String),
}

/// Number of versions in progress that are looked at again at the end. There are few, unless Athens is just filling the
/// bucket.
const MAX_SAVING: usize = 10_000;

impl Pass<'_> {
    async fn all(&mut self) -> Result<(), BucketStepError> {
        let BucketContext { bucket, keys, work, .. } = *self.context;
        let versions = Versions::new(bucket.clone(), keys.clone());
        let mut merge = Merge::new(bucket, Some(keys)).await?;
        self.locked = std::mem::take(&mut merge.locked);
        let mut running = FuturesUnordered::new();
        let mut foreign = 0;
        while let Some(found) = merge
            .next(&mut |entry, reason| {
                foreign += 1;
                report(&work, bucket, &entry.key, entry.meta.size, reason);
            })
            .await?
        {
            for one in found {
                while running.len() >= work.at_once.max(1) {
                    if let Some(done) = self.context.lease.during(running.try_next()).await? {
                        self.done(done);
                    }
                }
                self.check()?;
                running.push(adopt(&versions, one));
            }
        }
        while let Some(done) = self.context.lease.during(running.try_next()).await? {
            self.done(done);
            self.check()?;
        }
        self.moved.leftovers += foreign + merge.unnameable(&work);
        Ok(())
    }

    fn check(&self) -> Result<(), BucketStepError> {
        self.context.lease.check()?;
        Ok(self.context.work.cancel.check()?)
    }

    fn done(&mut self, one: One) {
        let BucketContext { bucket, work, .. } = *self.context;
        match one {
            One::Adopted(manifest) => {
                self.moved.versions += 1;
                let content = manifest.as_deref().and_then(Manifest::present_content);
                self.moved.bytes += content.map_or(0, stoa_bucket::VersionContent::bytes);
                let (items, bytes) = (self.moved.versions, self.moved.bytes);
                work.events.event(Event::Progress { items, bytes });
            }
            One::Incomplete(found, _) if self.locked.contains(&found.0) => self.done(One::Saving(found)),
            One::Saving(found) if self.saving.len() < MAX_SAVING => self.saving.push(found),
            One::Saving(_) => self.moved.in_progress += 1,
            One::Incomplete((version, files), reason) => {
                self.moved.leftovers += 1;
                report_version(&work, bucket, &version, files.bytes(), &reason);
            }
        }
    }

    /// Looks again at the versions that were being saved. Those that still are, are left for the first request.
    async fn look_again(&mut self) -> Result<(), BucketStepError> {
        let versions = Versions::new(self.context.bucket.clone(), self.context.keys.clone());
        for (version, files) in std::mem::take(&mut self.saving) {
            self.check()?;
            match versions.look_at_athens(&version, None).await? {
                AthensVersion::Whole(content, saved) => {
                    let held = versions.adopt_unchecked(&version, *content, saved).await?;
                    self.done(One::Adopted(held.map(|held| Box::new(held.document))));
                }
                AthensVersion::Saving => self.moved.in_progress += 1,
                AthensVersion::Incomplete(_) if self.locked.contains(&version) => self.moved.in_progress += 1,
                AthensVersion::Incomplete(reason) => self.done(One::Incomplete((version, files), reason)),
                AthensVersion::Absent => {}
            }
        }
        Ok(())
    }
}

async fn adopt(versions: &Versions, (version, files): Found) -> Result<One, BucketStepError> {
    match versions.look_at_athens(&version, Some(&files)).await? {
        AthensVersion::Whole(content, saved) => {
            let held = versions.adopt_unchecked(&version, *content, saved).await?;
            Ok(One::Adopted(held.map(|held| Box::new(held.document))))
        }
        AthensVersion::Saving => Ok(One::Saving((version, files))),
        AthensVersion::Incomplete(reason) => Ok(One::Incomplete((version, files), reason)),
        AthensVersion::Absent => {
            Ok(One::Incomplete((version, files), "incomplete: its files were deleted".to_owned()))
        }
    }
}
