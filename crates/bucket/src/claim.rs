//! Claims: of several servers, one downloads a version.
//!
//! A claim is advisory. Nothing relies on it but the number of downloads: the manifest decides which version is
//! published. The holder changes its claim every few seconds. A server that waits takes over a claim that has not
//! changed for half a minute on its own clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stoa_gomod::ModuleVersion;
use tokio::task::AbortHandle;

use crate::manifest::fresh_nonce;
use crate::{BucketError, Document, Held, Nonce, Presence, Swapped, Versions};

/// The times of claims.
#[derive(Debug, Clone, Copy)]
pub struct ClaimTimes {
    /// The pause between two beats of the holder.
    pub beat: Duration,
    /// The time without a change after which a waiting server takes the claim over.
    pub takeover: Duration,
    /// The first and the longest pause between two looks of a waiting server.
    pub poll: (Duration, Duration),
}

impl Default for ClaimTimes {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { beat: seconds(10), takeover: seconds(30), poll: (seconds(1), seconds(5)) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClaimDocument {
    nonce: Nonce,
    owner: String,
    beat: u64,
}

impl Document for ClaimDocument {
    fn nonce(&self) -> &Nonce {
        &self.nonce
    }
}

/// A claim that this process holds. Dropping it gives it back.
#[derive(Debug)]
pub struct ClaimThere {
    versions: Versions,
    key: String,
    beating: AbortHandle,
}

impl Drop for ClaimThere {
    fn drop(&mut self) {
        self.beating.abort();
        if self.versions.has_left() {
            return;
        }
        let (versions, key) = (self.versions.clone(), std::mem::take(&mut self.key));
        let delete = async move {
            if let Err(error) = versions.bucket().delete(&key).await {
                // It is taken over.
                log::debug!(reason:% = error.without_help(); "cannot delete the claim of a version");
            }
        };
        // Without a runtime the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(delete);
        }
    }
}

impl Versions {
    /// Claims a version for a download. Waits while another server holds the claim. Returns `None` if the version
    /// exists by then.
    pub async fn claim(
        &self,
        version: &ModuleVersion,
        owner: &str,
        times: ClaimTimes,
    ) -> Result<Option<ClaimThere>, BucketError> {
        let key = self.keys().claim(version);
        let mut seen: Option<(Held<ClaimDocument>, Instant)> = None;
        let mut pause = times.poll.0;
        loop {
            let free = match &seen {
                None => Some(None),
                Some((held, since)) if since.elapsed() >= times.takeover => Some(Some(&held.tag)),
                Some(_) => None,
            };
            if let Some(tag) = free {
                let document = ClaimDocument { nonce: fresh_nonce()?, owner: owner.to_owned(), beat: 0 };
                match self.bucket().swap(&key, &document, tag).await? {
                    Swapped::Done(tag) => {
                        let held = Held { document, tag };
                        let beating = tokio::spawn(beat(self.clone(), key.clone(), held, times.beat));
                        let beating = beating.abort_handle();
                        let claim = ClaimThere { versions: self.clone(), key, beating };
                        // The last holder may have published it just before it gave the claim back.
                        return Ok(if self.exists(version).await? { None } else { Some(claim) });
                    }
                    Swapped::Lost(other) => seen = other.map(|other| (other, Instant::now())),
                }
            }
            if self.exists(version).await? {
                return Ok(None);
            }
            if seen.is_none() {
                continue;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(times.poll.1);
            let now = self.bucket().document::<ClaimDocument>(&key).await?;
            seen = match (now, seen.take()) {
                (Some(now), Some((before, since))) if now.tag == before.tag => Some((before, since)),
                (Some(now), _) => Some((now, Instant::now())),
                (None, _) => None,
            };
        }
    }

    async fn exists(&self, version: &ModuleVersion) -> Result<bool, BucketError> {
        let held = self.manifest(version).await?;
        Ok(held.is_some_and(|held| held.document.state == Presence::Present))
    }
}

async fn beat(versions: Versions, key: String, mut held: Held<ClaimDocument>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if versions.has_left() {
            return;
        }
        let Ok(nonce) = fresh_nonce() else { continue };
        let next = ClaimDocument { nonce, beat: held.document.beat + 1, ..held.document.clone() };
        match versions.bucket().swap(&key, &next, Some(&held.tag)).await {
            Ok(Swapped::Done(tag)) => held = Held { document: next, tag },
            // The download goes on: the manifest decides.
            Ok(Swapped::Lost(_)) => return,
            Err(error) => log::debug!(reason:% = error.without_help(); "cannot renew the claim of a version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PublishedThere;
    use crate::testing::{new, versions};

    fn times() -> ClaimTimes {
        let ms = Duration::from_millis;
        ClaimTimes { beat: ms(20), takeover: ms(300), poll: (ms(10), ms(20)) }
    }

    #[tokio::test]
    async fn one_server_downloads_and_the_others_wait_for_the_version() {
        let versions = versions().await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let servers = (0..10).map(|n| {
            let (versions, version) = (versions.clone(), version.clone());
            tokio::spawn(async move {
                let Some(claim) = versions.claim(&version, &n.to_string(), times()).await.unwrap() else {
                    return 0;
                };
                tokio::time::sleep(Duration::from_millis(500)).await;
                let published = versions.publish(&new("example.com/m@v1.0.0", b"zip"), None).await.unwrap();
                assert!(matches!(published, PublishedThere::Ours(_)));
                drop(claim);
                1
            })
        });
        let downloads: i32 =
            futures_util::future::join_all(servers).await.into_iter().map(|done| done.unwrap()).sum();
        assert_eq!(downloads, 1);
    }

    #[tokio::test]
    async fn the_claim_of_a_dead_server_is_taken_over() {
        let versions = versions().await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let first = versions.claim(&version, "first", times()).await.unwrap().unwrap();
        first.beating.abort();
        let began = Instant::now();
        let second = versions.claim(&version, "second", times()).await.unwrap();
        assert!(second.is_some() && began.elapsed() >= times().takeover);
    }
}
