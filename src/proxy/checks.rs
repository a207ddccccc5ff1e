//! The checks of a stored version before it is served: the comparison with the bucket, and the checksum database.

use std::time::Duration;

use stoa_gomod::{H1, ModuleVersion};

use super::{Client, Proxy};
use crate::policy::{ChecksumPolicy, Permit};
use crate::sumdb::Standing;
use crate::unavailable::Unavailable;

/// How long a request waits for the verification of a stored version.
const VERIFY_LIMIT: Duration = Duration::from_secs(10);

impl Proxy {
    /// Returns whether a stored version must be compared with the bucket before it is served. Makes no system call.
    pub(super) fn is_to_compare(&self, version: &ModuleVersion) -> bool {
        self.services.tier.as_ref().is_some_and(|tier| !tier.is_known(version) && !tier.is_paused())
    }

    /// Compares a stored version with the bucket, once. A version that was removed there is removed here.
    pub(super) async fn compare_stored(&self, permit: Permit<'_>) -> Result<(), Unavailable> {
        let version = permit.version();
        match &self.services.tier {
            Some(tier) if self.is_to_compare(version) => {
                tier.check_stored(self.store(), version).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a stored version must be verified before it is served. Only a policy of `require` demands it,
    /// and the question makes no system call.
    pub(super) fn is_to_verify(&self, permit: Permit<'_>, seal: Option<&H1>) -> bool {
        permit.rule().checksum == ChecksumPolicy::Require
            && !self.services.sumdb.is_confirmed(permit.version(), seal)
    }

    /// Verifies a stored version, if it must be verified before it is served. For a peer, no checksum database is asked.
    pub(super) async fn verify_stored(
        &self,
        client: Client<'_>,
        permit: Permit<'_>,
    ) -> Result<(), Unavailable> {
        if !self.is_to_verify(permit, None) {
            return Ok(());
        }
        let version = permit.version();
        let verify = async {
            let (sumdb, rule, via) = (&self.services.sumdb, permit.rule(), client.via());
            match client.is_peer {
                true => sumdb.compare_with_record(version).await,
                false => sumdb.verify_stored(version, rule, &via).await,
            }
        };
        let not_yet = |why: &dyn std::fmt::Display| {
            Unavailable::NotYetVerified(format!("cannot verify the stored version {version}: {why}").into())
        };
        let Ok(standing) = tokio::time::timeout(VERIFY_LIMIT, verify).await else {
            return Err(not_yet(&format_args!("there is no answer after {VERIFY_LIMIT:?}")));
        };
        match standing? {
            Standing::Absent | Standing::Confirmed | Standing::NotAsked => Ok(()),
            // It is in quarantine, so it is downloaded again now.
            Standing::Differs(_) if !self.store().is_read_only() => Ok(()),
            Standing::Differs(reason) => Err(Unavailable::Differs(format!("{version}: {reason}").into())),
            Standing::Unreachable(error) => Err(not_yet(&error)),
            Standing::Unconfirmed(why) => Err(Unavailable::Unverified(
                format!("refused the stored version {version}: no checksum database confirmed it: {why}")
                    .into(),
            )),
            Standing::Offline => Err(Unavailable::Unverified(
                format!(
                    "refused the stored version {version}: it is not verified, and this proxy is offline; \
                     `stoa fetch --from go.sum` verifies it with the hashes of a go.sum"
                )
                .into(),
            )),
        }
    }
}
