//! `stoa verify --bucket`: reads the versions of a bucket, seals intact ones, and moves corrupt ones to quarantine.

use std::sync::Mutex;

use futures_util::{StreamExt, TryStreamExt, stream};
use stoa_bucket::{ExaminedThere, Held, Manifest};
use stoa_gomod::{ModuleVersion, Version};
use stoa_layout::Cancel;

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
    pub(crate) at_once: usize,
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
            self.wait(async {
                if what.named.is_empty() {
                    return self.verify_all(what, &findings).await;
                }
                for named in what.named {
                    let versions = self.versions_of(named).await?;
                    let found =
                        stream::iter(versions).map(|version| self.verify_one(version, what, &findings));
                    let found: Vec<bool> = found.buffer_unordered(what.at_once).try_collect().await?;
                    if !found.contains(&true) {
                        absent(named);
                    }
                }
                Ok(())
            })
        });
        let findings = *lock(&findings);
        (findings, result)
    }

    async fn versions_of(&self, named: &Named) -> Result<Vec<ModuleVersion>, CommandError> {
        match named {
            Named::Version(version) => Ok(vec![version.clone()]),
            Named::Module(module) => {
                let versions: Vec<Version> = self.versions.list(module).await?.present;
                Ok(pairs(module, &versions))
            }
        }
    }

    async fn verify_all(
        &self,
        what: &VerifyBucket<'_>,
        findings: &Mutex<Findings>,
    ) -> Result<(), CommandError> {
        let keys = self.versions.keys();
        let listed = self.versions.bucket().list(&keys.manifests(), None)?;
        let versions = listed
            .map_err(CommandError::from)
            .try_filter_map(|entry| std::future::ready(Ok(keys.version_of_manifest(&entry.key))));
        let verified = versions.map_ok(|version| self.verify_one(version, what, findings));
        verified.try_buffer_unordered(what.at_once).try_for_each(|_| std::future::ready(Ok(()))).await
    }

    /// Verifies a version. Returns false if it does not exist.
    async fn verify_one(
        &self,
        version: ModuleVersion,
        what: &VerifyBucket<'_>,
        findings: &Mutex<Findings>,
    ) -> Result<bool, CommandError> {
        what.cancel.check()?;
        let Some(Held { document: manifest, .. }) = self.versions.manifest(&version).await? else {
            return Ok(false);
        };
        let Some(content) = manifest.present_content() else { return Ok(false) };
        if content.zip.h1.is_some() && !what.again {
            lock(findings).skipped += 1;
            return Ok(true);
        }
        let (examined, _) = self.versions.verify(&manifest).await?;
        self.report(&manifest, &examined, findings, what.reporter);
        Ok(true)
    }

    fn report(
        &self,
        manifest: &Manifest,
        examined: &ExaminedThere,
        findings: &Mutex<Findings>,
        reporter: &Reporter,
    ) {
        let mut findings = lock(findings);
        let version = (&manifest.version).into();
        let bytes = manifest.present_content().map(|content| content.zip.size);
        let reason = match examined {
            ExaminedThere::Whole(_) => {
                findings.verified += 1;
                findings.bytes += bytes.unwrap_or_default();
                VersionResult { event: "verified", version, bytes, reason: None }.report(reporter);
                return;
            }
            ExaminedThere::Corrupt(reason) => reason,
            ExaminedThere::Gone => "its files are missing, Stoa downloads it again on the next request",
        };
        findings.corrupt += 1;
        VersionResult { event: CORRUPT, version, bytes: None, reason: Some(reason) }.report(reporter);
    }
}
