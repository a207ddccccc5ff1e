//! The examination of a downloaded version, its comparison with all known hashes, and its publication.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::h1;
use stoa_layout::PathError;
use stoa_store::{Claim, Draft, Published, SealError, SealedDraft, Store, StoreError, VersionFile};

use super::progress::End;
use super::shared::Shared;
use super::task::{Failed, Fetch};
use crate::bucket::{Downloaded, PublishedInBucket};
use crate::sumdb::{Confirmation, Verification};
use crate::tasks::blocking;
use crate::unavailable::{Reason, Unavailable};

/// The reason why a downloaded version is not published.
enum Rejected {
    /// It is not valid, or cannot be stored.
    Seal(SealError),
    /// It does not have the hashes that it must have.
    Refused(Unavailable),
    /// It was read from the bucket, and is not the one of its manifest.
    Corrupt(Unavailable),
}

impl From<SealError> for Rejected {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl From<Unavailable> for Rejected {
    fn from(error: Unavailable) -> Self {
        Self::Refused(error)
    }
}

impl Fetch {
    /// Publishes a version whose files are downloaded. Notes that its zip is wrong, if it is.
    pub(super) async fn publish(
        &self,
        draft: Draft,
        claim: Arc<Claim>,
        (info, modfile): (Bytes, Bytes),
        verification: Verification,
        shared: Option<&Shared>,
    ) -> Result<End, Failed> {
        let confirmation = verification.outcome().await?;
        let held = Arc::clone(&claim);
        let files = (info, modfile);
        let result = self.examine_and_publish(draft, held, files, verification, confirmation, shared).await;
        match &result {
            Ok(_) => self.means.wrong.remove(&self.origin()),
            Err(Failed::Again(_)) => {}
            // The upstream has not sent it.
            Err(_) if shared.is_some_and(|shared| shared.is_read) => {}
            Err(Failed::Inconsistent(error) | Failed::Corrupt(error) | Failed::Other(error)) => {
                self.note_wrong(error, &claim);
            }
        }
        result
    }

    /// Notes that the zip is wrong, if the error says so.
    pub(super) fn note_wrong(&self, error: &Unavailable, claim: &Claim) {
        self.means.wrong.note(&self.origin(), error, claim.known_record());
    }

    async fn examine_and_publish(
        &self,
        mut draft: Draft,
        claim: Arc<Claim>,
        (info, modfile): (Bytes, Bytes),
        verification: Verification,
        confirmation: Confirmation,
        shared: Option<&Shared>,
    ) -> Result<End, Failed> {
        let confirmed = confirmation.clone();
        let (expected, progress) = (self.expected.clone(), self.progress.clone());
        let fault_there = shared.map(Shared::expected);
        let sender = match shared.filter(|shared| shared.is_read) {
            Some(shared) => Sender::Bucket { url: shared.tier().url(), version: self.version.to_string() },
            None => Sender::Upstream,
        };
        let (has_bucket, files) = (shared.is_some(), shared.map(|_| (info.clone(), modfile.clone())));
        let held = Arc::clone(&claim);
        let _examining = self.means.examining.acquire().await.map_err(|_| self.stopping())?;
        let published = blocking(&self.means.store, &self.version, move |store| {
            draft.set_mod(&modfile);
            let gomod_h1 = h1::hash_mod(&modfile);
            // A large mod takes memory from a budget.
            drop(modfile);
            let sealed = draft.seal_if(&info, |h1| {
                if let Some(reason) = fault_there.as_ref().and_then(|sealed| sealed.fault_of_zip(h1)) {
                    return Err(Rejected::Corrupt(sender.invalid(&reason)));
                }
                let fault = expected.fault_of_zip(h1).or_else(|| expected.fault_of_mod(&gomod_h1));
                if let Some(reason) = fault {
                    let version = claim.version().to_string();
                    return Err(Unavailable::Unexpected { version, reason }.into());
                }
                if let Confirmation::Confirmed(verified) = confirmed {
                    // Usually the record is already written, unless another process held the claim.
                    // It must be there before the version is.
                    verified.record(store, &claim).map_err(SealError::from)?;
                    verification.check_zip(h1, &verified)?;
                }
                let record = store.records().of(&claim).map_err(SealError::from)?.unwrap_or_default();
                if let Some(objection) = record.objection(h1, Some(&gomod_h1)) {
                    return Err(Unavailable::objection(claim.version(), &objection).into());
                }
                // A version that a writer without the claim has stored stays, and may differ.
                if !has_bucket
                    && store.locate(claim.version(), VersionFile::Info).map_err(SealError::from)?.is_none()
                {
                    // Clients get the end of the zip while it is written to disk.
                    progress.send_modify(|now| now.is_verified = true);
                }
                Ok(())
            });
            let sealed = match sealed {
                Ok(sealed) => sealed,
                Err(Rejected::Refused(error)) => return Ok(Err(error.into())),
                Err(Rejected::Corrupt(error)) => return Ok(Err(Failed::Corrupt(error))),
                Err(Rejected::Seal(SealError::Store(error))) => return Err(error),
                Err(Rejected::Seal(SealError::OtherMod { version })) => {
                    let reason = format!(
                        "{version}: the go.mod in the zip differs from the go.mod that was sent before, which has {gomod_h1}"
                    );
                    return Ok(Err(Failed::Inconsistent(sender.invalid(&reason))));
                }
                Err(Rejected::Seal(broken)) => {
                    return Ok(Err(Failed::Corrupt(sender.invalid(&broken))));
                }
            };
            if has_bucket {
                return Ok(Ok(Step::Sealed(sealed)));
            }
            Ok(Ok(Step::Published(store.publish(sealed, &claim)?)))
        });
        let published = match published.await? {
            Ok(Step::Published(published)) => Ok(published),
            Ok(Step::Sealed(sealed)) => {
                let (Some(shared), Some(files)) = (shared, files) else { return Err(self.stopping().into()) };
                match self.publish_in_bucket(shared, &sealed, &held, files).await? {
                    PublishedInBucket::Same => {}
                    // The store has no version yet. The requests that wait read the other one from the bucket.
                    PublishedInBucket::Other => return Ok(End::Theirs),
                    PublishedInBucket::Removed => return Err(Failed::Again(self.busy_in_bucket())),
                }
                let work = move |store: &Store| store.publish(sealed, &held);
                Ok(blocking(&self.means.store, &self.version, work).await?)
            }
            Err(error) => Err(error),
        };
        if let Ok(Published::Ours(_) | Published::Theirs { same: true, .. }) = &published {
            confirmation.log_published(&self.means.sumdb, &self.version);
        }
        match published {
            Ok(Published::Ours(_)) => Ok(End::Ours),
            Ok(Published::Theirs { same: true, .. }) => Ok(End::Ours),
            Ok(Published::Theirs { same: false, .. }) => Ok(End::Theirs),
            Ok(Published::Refused(objection)) => {
                Err(Unavailable::objection(&self.version, &objection).into())
            }
            Err(error) => Err(error),
        }
    }

    /// Publishes a sealed version in the bucket, or seals the one that was read from there.
    async fn publish_in_bucket(
        &self,
        shared: &Shared,
        sealed: &SealedDraft,
        claim: &Arc<Claim>,
        (info, modfile): (Bytes, Bytes),
    ) -> Result<PublishedInBucket, Unavailable> {
        let tier = shared.tier();
        if shared.is_read {
            if let Some(held) = shared.manifest() {
                tier.seal(&held.document, sealed.h1()).await;
            }
            tier.know(&self.version, shared.seen);
            return Ok(PublishedInBucket::Same);
        }
        let failed = |error| StoreError::from(PathError::new("open", sealed.zip_path(), error));
        let downloaded = Downloaded {
            version: self.version.clone(),
            info,
            modfile,
            zip: sealed.zip().map_err(failed)?,
            h1: sealed.h1().clone(),
            record: claim.known_record().unwrap_or_default(),
        };
        let published = tier.publish(downloaded, shared.manifest()).await?;
        if published == PublishedInBucket::Same && !self.is_stored().await? {
            // Clients get the end of the zip while it is published in the store.
            self.progress.send_modify(|now| now.is_verified = true);
        }
        Ok(published)
    }

    async fn is_stored(&self) -> Result<bool, Unavailable> {
        let version = self.version.clone();
        let work = move |store: &Store| Ok(store.locate(&version, VersionFile::Info)?.is_some());
        blocking(&self.means.store, &self.version, work).await
    }
}

/// The sender of a version.
enum Sender {
    Upstream,
    Bucket { url: String, version: String },
}

impl Sender {
    /// Returns the error for a version that is not valid. Clients learn nothing of the bucket.
    fn invalid(&self, reason: &dyn std::fmt::Display) -> Unavailable {
        Unavailable::Upstream(match self {
            Self::Upstream => format!("the upstream sent an invalid version: {reason}").into(),
            Self::Bucket { url, version } => Reason::with_text_for_client(
                format!("the bucket {url} has an invalid version: {reason}"),
                format!("the stored copy of {version} is corrupt"),
            ),
        })
    }
}

/// The state of a version after its examination.
enum Step {
    Published(Published),
    /// With a bucket, it is published there first.
    Sealed(SealedDraft),
}
