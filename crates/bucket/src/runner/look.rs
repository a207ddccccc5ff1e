//! The state of a bucket for the runner. It is never a guess: a bucket that is not recognised for certain is refused.

use futures_util::TryStreamExt;
use stoa_layout::{Exit, LayoutId};

use super::step::{BucketDetection, BucketLayouts};
use crate::keys::{OWN, PROBES, STATE};
use crate::{Bucket, BucketError, BucketMarker, BucketState, Held, Trouble};

/// Number of keys that a message about a foreign bucket names.
const NAMED: usize = 5;

/// The state of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketLook {
    /// There is no object.
    Empty,
    /// The bucket is at a layout without a state, recognised by its content.
    Untagged(LayoutId),
    /// The bucket has a state with a known marker.
    Marked(Box<Held<BucketState>>),
    /// The bucket has a state with an unknown marker: of a newer layout, or in a step of another release.
    Newer(BucketMarker),
    /// Any other bucket. The text says what it is and what to do.
    Foreign(String),
}

impl BucketLook {
    /// Returns the state of a bucket. Writes nothing.
    pub async fn of(bucket: &Bucket, layouts: &BucketLayouts) -> Result<Self, BucketError> {
        match BucketState::read(bucket).await {
            Ok(Some(held)) => {
                let is_known = match &held.document.marker {
                    BucketMarker::At(layout) | BucketMarker::Creating(layout) => {
                        layouts.knows(layout) && layouts.is_tagged(layout)
                    }
                    BucketMarker::Left(layout) => layouts.knows(layout) && !layouts.is_tagged(layout),
                    BucketMarker::Migrating { from, to } => layouts.between(from, to).is_some(),
                };
                let marker = held.document.marker.clone();
                return Ok(if is_known { Self::Marked(Box::new(held)) } else { Self::Newer(marker) });
            }
            Ok(None) => {}
            Err(error) if error.trouble == Trouble::Damaged => {
                return Ok(Self::Foreign(format!(
                    "{error}\nhelp: restore an older version of the object, or use a newer release"
                )));
            }
            Err(error) => return Err(error),
        }
        let mut listed = bucket.list("", None)?;
        let mut named = Vec::new();
        while named.len() < NAMED
            && let Some(entry) = listed.try_next().await?
        {
            // A check of the service that was interrupted.
            if !entry.key.starts_with(PROBES) {
                named.push(entry.key);
            }
        }
        drop(listed);
        let url = bucket.url();
        if named.is_empty() {
            return match bucket.take_unnameable().keys.first() {
                None => Ok(Self::Empty),
                Some(key) => Ok(Self::Foreign(foreign(bucket, &[format!("{key:?}")]))),
            };
        }
        if let Some(own) = bucket.list(OWN, None)?.try_next().await?
            && !own.key.starts_with(PROBES)
        {
            let text = format!(
                "cannot use {url}: it has {}, but not the object {STATE}, nothing was changed\n\
                 help: restore {STATE} from a backup or an older version of the object",
                own.key
            );
            return Ok(Self::Foreign(text));
        }
        for detector in &layouts.detectors {
            match detector.detect(bucket).await? {
                BucketDetection::Yes => return Ok(Self::Untagged(detector.layout())),
                BucketDetection::No => {}
                BucketDetection::Refuse(text) => return Ok(Self::Foreign(text)),
            }
        }
        Ok(Self::Foreign(foreign(bucket, &named)))
    }

    /// Returns the exit code and the message for a bucket that must not be used. `None` if it may be used.
    pub fn refusal(&self, bucket: &Bucket, layouts: &BucketLayouts) -> Option<(Exit, String)> {
        match self {
            Self::Empty | Self::Untagged(_) | Self::Marked(_) => None,
            Self::Newer(marker) => Some((
                Exit::NEWER,
                format!(
                    "cannot use {}: {} does not know its marker {marker}, nothing was changed\n\
                     help: use the release that {STATE} names in written_by, or a newer release",
                    bucket.url(),
                    layouts.program
                ),
            )),
            Self::Foreign(text) => Some((Exit::NOT_A_STORE, text.clone())),
        }
    }
}

fn foreign(bucket: &Bucket, named: &[String]) -> String {
    format!(
        "cannot use {}: it has {}, but no {STATE} and no version of Athens, nothing was changed\n\
         help: use an empty bucket, or an empty prefix, as in {}/go",
        bucket.url(),
        named.join(", "),
        bucket.url()
    )
}
