//! `stoa verify --bucket`: reads the versions of a bucket, seals intact ones, and moves corrupt ones to quarantine.

use std::ops::ControlFlow;
use std::sync::Mutex;

use futures_util::TryStreamExt;
use stoa_bucket::{BucketError, ExaminedThere, Held, Trouble};
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, parallel};

use super::OpenBucket;
use crate::command::error::CommandError;
use crate::command::event::{CORRUPT, VersionResult};
use crate::command::named::{Named, pairs};
use crate::command::report::Reporter;
use crate::command::verify::look::Findings;
use crate::lock::lock;

/// The settings of a verification.
pub(crate) struct VerifyBucket<'a> {
    pub(crate) named: &'a [Named],
    pub(crate) again: bool,
    pub(crate) threads: usize,
    pub(crate) cancel: &'a Cancel,
    pub(crate) reporter: &'a Reporter,
}

impl OpenBucket {
    /// Verifies the named versions, or all, and calls `absent` for names that are not there. Returns the findings up to
    /// the end, or up to the failure.
    pub(crate) fn verify(
        &self,
        what: &VerifyBucket<'_>,
        mut absent: impl FnMut(&Named),
    ) -> (Findings, Result<(), CommandError>) {
        let findings = Mutex::new(Findings::default());
        let result = self.probe().and_then(|()| {
            if what.named.is_empty() {
                return self.verify_each(what, &findings, |each| self.each_version(each)).map(drop);
            }
            for named in what.named {
                let versions = self.versions_of(named)?;
                let walk = |each: &mut EachVersion<'_>| {
                    let _ = versions.into_iter().try_for_each(each);
                    Ok(())
                };
                if !self.verify_each(what, &findings, walk)? {
                    absent(named);
                }
            }
            Ok(())
        });
        let findings = *lock(&findings);
        (findings, result)
    }

    fn versions_of(&self, named: &Named) -> Result<Vec<ModuleVersion>, CommandError> {
        match named {
            Named::Version(version) => Ok(vec![version.clone()]),
            Named::Module(module) => {
                // Also removed ones, of which the verification finds no content: a list would read the damaged manifest of
                // one and fail.
                Ok(pairs(module, &self.wait(self.versions.all_of(module))?))
            }
        }
    }

    /// Calls `each` with every version that has a manifest. No request is under way during the calls.
    pub(super) fn each_version(&self, each: &mut EachVersion<'_>) -> Result<(), CommandError> {
        let keys = self.versions.keys();
        let mut listed = self.versions.bucket().list(&keys.manifests(), None)?;
        while let Some(entry) = self.wait(listed.try_next())? {
            let Some(version) = keys.version_of_manifest(&entry.key) else { continue };
            if each(version).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Verifies the versions of a walk. Returns whether any of them exists. A thread waits for its own requests only, and
    /// reports without one, because the report blocks as long as the output is not read.
    fn verify_each(
        &self,
        what: &VerifyBucket<'_>,
        findings: &Mutex<Findings>,
        walk: impl FnOnce(&mut EachVersion<'_>) -> Result<(), CommandError>,
    ) -> Result<bool, CommandError> {
        let is_any = Mutex::new(false);
        let work = |version: ModuleVersion| {
            what.cancel.check()?;
            let looked = self.wait(self.look(&version, what.again));
            *lock(&is_any) |= !matches!(looked, Ok(Looked::Absent));
            report(&version, looked, findings, what.reporter)
        };
        parallel::each((what.threads, parallel::AHEAD), walk, &work)?;
        let is_any = *lock(&is_any);
        Ok(is_any)
    }

    async fn look(&self, version: &ModuleVersion, again: bool) -> Result<Looked, BucketError> {
        let Some(Held { document: manifest, .. }) = self.versions.manifest(version).await? else {
            return Ok(Looked::Absent);
        };
        let Some(content) = manifest.present_content() else { return Ok(Looked::Absent) };
        if content.zip.h1.is_some() && !again {
            return Ok(Looked::Skipped);
        }
        let (examined, _) = self.versions.verify(&manifest).await?;
        Ok(Looked::Examined(examined, content.zip.size))
    }
}

/// Receives a version.
type EachVersion<'a> = dyn FnMut(ModuleVersion) -> ControlFlow<()> + 'a;

/// The result for one version.
enum Looked {
    Absent,
    /// It was verified before.
    Skipped,
    /// It was read. The number is the size of its zip.
    Examined(ExaminedThere, u64),
}

/// Counts and reports the result for one version.
fn report(
    version: &ModuleVersion,
    looked: Result<Looked, BucketError>,
    findings: &Mutex<Findings>,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let mut counted = lock(findings);
    let version = version.into();
    let (event, bytes, reason) = match looked {
        Ok(Looked::Absent) => return Ok(()),
        Ok(Looked::Skipped) => {
            counted.skipped += 1;
            return Ok(());
        }
        Ok(Looked::Examined(ExaminedThere::Whole(_), bytes)) => {
            counted.verified += 1;
            counted.bytes += bytes;
            ("verified", Some(bytes), None)
        }
        Ok(Looked::Examined(ExaminedThere::Corrupt(reason), _)) => {
            counted.corrupt += 1;
            (CORRUPT, None, Some(reason))
        }
        Ok(Looked::Examined(ExaminedThere::Gone, _)) => {
            counted.corrupt += 1;
            let reason = "its files are missing, Stoa downloads it again on the next request";
            (CORRUPT, None, Some(reason.to_owned()))
        }
        Err(error) if error.trouble == Trouble::Damaged => {
            counted.unreadable += 1;
            ("unreadable", None, Some(error.without_help()))
        }
        Err(error) => return Err(error.into()),
    };
    drop(counted);
    VersionResult { event, version, bytes, reason: reason.as_deref() }.report(reporter);
    Ok(())
}
