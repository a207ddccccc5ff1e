//! The examination of a downloaded version, its comparison with all known hashes, and its publication.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::h1;
use stoa_store::{Claim, Draft, Published, SealError};

use super::progress::End;
use super::task::Fetch;
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
    ) -> Result<End, Unavailable> {
        let confirmation = verification.outcome().await?;
        let held = Arc::clone(&claim);
        let result = self.examine_and_publish(draft, held, info, modfile, verification, confirmation).await;
        match &result {
            Ok(_) => self.means.wrong.remove(&self.version),
            Err(error) => self.means.wrong.note(&self.version, error, claim.known_record()),
        }
        result
    }

    async fn examine_and_publish(
        &self,
        mut draft: Draft,
        claim: Arc<Claim>,
        info: Bytes,
        modfile: Bytes,
        verification: Verification,
        confirmation: Confirmation,
    ) -> Result<End, Unavailable> {
        let confirmed = confirmation.clone();
        let expected = self.expected.clone();
        let _examining = self.means.examining.acquire().await.map_err(|_| self.stopping())?;
        let published = blocking(&self.means.store, &self.version, move |store| {
            draft.write_mod(&modfile)?;
            let sealed = match draft.seal(&info) {
                Ok(sealed) => sealed,
                Err(SealError::Store(error)) => return Err(error),
                Err(broken) => {
                    let reason = format!("the upstream sent an invalid version: {broken}");
                    return Ok(Err(Unavailable::Upstream(reason.into())));
                }
            };
            let fault = expected.fault_of_zip(sealed.h1());
            if let Some(reason) = fault.or_else(|| expected.fault_of_mod(&h1::hash_mod(&modfile))) {
                let version = sealed.version().to_string();
                return Ok(Err(Unavailable::Unexpected { version, reason }));
            }
            if let Confirmation::Confirmed(verified) = confirmed {
                // Usually the record is already written, unless another process held the claim.
                // It must be there before the version is.
                verified.record(store, &claim)?;
                if let Err(error) = verification.check_zip(sealed.h1(), &verified) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(store.publish(sealed, &claim)?))
        });
        let published = published.await?;
        if let Ok(Published::Ours(_) | Published::Theirs { same: true, .. }) = &published {
            confirmation.log_published(&self.means.sumdb, &self.version);
        }
        match published {
            Ok(Published::Ours(_)) => Ok(End::Ours),
            Ok(Published::Theirs { same: true, .. }) => Ok(End::Ours),
            Ok(Published::Theirs { same: false, .. }) => Ok(End::Theirs),
            Ok(Published::Refused(objection)) => Err(Unavailable::objection(&self.version, &objection)),
            Err(error) => Err(error),
        }
    }
}
