//! `stoa list --bucket`.

use std::ops::ControlFlow;

use stoa_bucket::{BucketError, Manifest};
use stoa_gomod::private::Patterns;

use super::{AT_ONCE, OpenBucket};
use crate::command::context::Context;
use crate::command::error::CommandError;
use crate::command::list::{HEADER, Listed, VersionEvent};
use crate::command::unverified::Unverified;

impl OpenBucket {
    /// Lists the versions in the bucket.
    pub(crate) fn list(&self, patterns: &[Patterns], context: &Context<'_>) -> Result<Listed, CommandError> {
        let reporter = &context.reporter;
        let mut listed = Listed::new(self.to_string());
        let mut unverified = Unverified::new(context.settings);
        let mut each = |manifest: Manifest| -> Result<(), CommandError> {
            let Some(content) = manifest.present_content() else { return Ok(()) };
            let module = manifest.version.path();
            if !patterns.is_empty() && !patterns.iter().any(|patterns| patterns.matches(module.as_str())) {
                return Ok(());
            }
            if listed.is_empty() && !reporter.is_json() {
                reporter.bytes(HEADER.as_bytes())?;
            }
            listed.add(&manifest.version, content.bytes());
            let verified_by = manifest.record.verdict.as_ref().map(|verdict| verdict.database.clone());
            if verified_by.is_none() {
                unverified.add(module);
            }
            reporter.answer(&VersionEvent {
                version: (&manifest.version).into(),
                bytes: content.bytes(),
                stored: manifest.published_at.clone(),
                last_use: None,
                verified_by,
            })
        };
        let unreadable = |error: BucketError| {
            reporter.error(&error.into());
        };
        listed.unreadable = self.each_manifest(AT_ONCE, &unreadable, &mut |manifest| {
            each(manifest)?;
            Ok(ControlFlow::Continue(()))
        })?;
        listed.unverified = unverified.count();
        Ok(listed)
    }
}
