//! The examination of a downloaded version, its comparison with all known hashes, and its publication.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::h1;
use stoa_store::{Claim, Draft, Published, SealError};

use super::progress::End;
use super::task::{Failed, Fetch};
use crate::sumdb::{Confirmation, Verification};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

impl Fetch {
    /// Publishes a version whose files are downloaded. Notes that its zip is wrong, if it is.
    pub(super) async fn publish(
        &self,
        draft: Draft,
        claim: Arc<Claim>,
        info: Bytes,
        modfile: Bytes,
        verification: Verification,
    ) -> Result<End, Failed> {
        let confirmation = verification.outcome().await?;
        let held = Arc::clone(&claim);
        let result = self.examine_and_publish(draft, held, info, modfile, verification, confirmation).await;
        match &result {
            Ok(_) => self.means.wrong.remove(&self.version),
            Err(Failed::Inconsistent(error) | Failed::Other(error)) => self.note_wrong(error, &claim),
        }
        result
    }

    /// Notes that the zip is wrong, if the error says so.
    pub(super) fn note_wrong(&self, error: &Unavailable, claim: &Claim) {
        self.means.wrong.note(&self.version, error, claim.known_record());
    }

    async fn examine_and_publish(
        &self,
        mut draft: Draft,
        claim: Arc<Claim>,
        info: Bytes,
        modfile: Bytes,
        verification: Verification,
        confirmation: Confirmation,
    ) -> Result<End, Failed> {
        let confirmed = confirmation.clone();
        let expected = self.expected.clone();
        let _examining = self.means.examining.acquire().await.map_err(|_| self.stopping())?;
        let published = blocking(&self.means.store, &self.version, move |store| {
            draft.set_mod(&modfile);
            let gomod_h1 = h1::hash_mod(&modfile);
            // A large mod takes memory from a budget.
            drop(modfile);
            let sealed = match draft.seal(&info) {
                Ok(sealed) => sealed,
                Err(SealError::Store(error)) => return Err(error),
                Err(SealError::OtherMod { version }) => {
                    let text = format!(
                        "the upstream sent an invalid version: {version}: the go.mod in the zip differs from the go.mod that was sent before, which has {gomod_h1}"
                    );
                    return Ok(Err(Failed::Inconsistent(Unavailable::Upstream(text.into()))));
                }
                Err(broken) => {
                    let reason = format!("the upstream sent an invalid version: {broken}");
                    return Ok(Err(Unavailable::Upstream(reason.into()).into()));
                }
            };
            let fault = expected.fault_of_zip(sealed.h1());
            if let Some(reason) = fault.or_else(|| expected.fault_of_mod(&gomod_h1)) {
                let version = sealed.version().to_string();
                return Ok(Err(Unavailable::Unexpected { version, reason }.into()));
            }
            if let Confirmation::Confirmed(verified) = confirmed {
                // Usually the record is already written, unless another process held the claim.
                // It must be there before the version is.
                verified.record(store, &claim)?;
                if let Err(error) = verification.check_zip(sealed.h1(), &verified) {
                    return Ok(Err(error.into()));
                }
            }
            let published = store.publish(sealed, &claim)?;
            // The stored version is served from now on. A pair that stays is removed with the version, or evicted.
            if let Err(error) = store.pairs().remove(claim.version()) {
                log::warn!(version:% = claim.version(), reason:% = error; "cannot remove the cached info and go.mod of a version");
            }
            Ok(Ok(published))
        });
        let published = published.await?;
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
}
