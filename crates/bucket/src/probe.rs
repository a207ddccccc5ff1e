//! A check that a service supports conditional writes. Without them two writers could overwrite each other.
//!
//! Some services ignore the conditions, and some check them and write in two steps. The first kind is found by a few
//! requests one after the other, the second by eight writers at once.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use stoa_layout::Exit;

use crate::keys::PROBES;
use crate::manifest::fresh_nonce;
use crate::{Bucket, BucketError};

/// The number of writers that race.
const WRITERS: usize = 8;

/// A service cannot be used for writing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProbeError {
    /// It does not keep a promise that this program relies on.
    #[error(
        "cannot write to {bucket}: {observed}\nhelp: use a service with conditional writes (If-None-Match and If-Match), consistent listings and range requests"
    )]
    Unsafe {
        /// The bucket.
        bucket: String,
        /// The observation, as a clause.
        observed: String,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] BucketError),
}

impl ProbeError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unsafe { .. } => Exit::NEWER,
            Self::Request(error) => error.exit(),
        }
    }
}

impl Bucket {
    /// Checks that the service keeps what writers rely on. Leaves nothing behind, unless it is interrupted.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let folder = format!("{PROBES}/{}", fresh_nonce()?);
        let result = match self.probe_conditions(&format!("{folder}/one")).await {
            Ok(()) => self.probe_race(&format!("{folder}/race")).await,
            failed => failed,
        };
        for name in ["one", "race"] {
            if let Err(error) = self.delete(&format!("{folder}/{name}")).await {
                log::debug!(reason:% = error.without_help(); "cannot delete an object of the check of the service");
            }
        }
        result
    }

    async fn probe_conditions(&self, key: &str) -> Result<(), ProbeError> {
        let [one, two, three] = [b"one", b"two", b"3rd"].map(|text| Bytes::from_static(text));
        let Some(first) = self.create(key, one.clone()).await? else {
            return Err(self.found("the service rejected the creation of a new object"));
        };
        if self.create(key, two.clone()).await?.is_some() {
            return Err(self.found("the service ignored If-None-Match and replaced an object"));
        }
        let Some(object) = self.get(key, 64).await? else {
            return Err(self.found("the service did not return an object that was just written"));
        };
        if object.bytes != one {
            return Err(self.found("the service rejected a write but changed the object"));
        }
        let Some(second) = self.replace(key, two.clone(), &first).await? else {
            return Err(self.found("the service rejected a write with the current ETag in If-Match"));
        };
        if second == first {
            return Err(self.found("the service returned the same ETag for two contents"));
        }
        if self.replace(key, three, &first).await?.is_some() {
            return Err(self.found("the service accepted a write with an outdated ETag in If-Match"));
        }
        let listed = self.folder(key.rsplit_once('/').map_or("", |(folder, _)| folder)).await?;
        if !listed.entries.iter().any(|entry| entry.key == key) {
            return Err(self.found("a listing does not show an object that was just written"));
        }
        let Some(part) = self.read(key, Some(1..3), Some(&second)).await? else {
            return Err(self.found("the service rejected a range request with the current ETag"));
        };
        let parts: Vec<_> = part.bytes.collect().await;
        let mut read = Vec::new();
        for part in parts {
            read.extend_from_slice(&part?);
        }
        if read != two[1..3] {
            return Err(self.found("the service returned wrong bytes for a range request"));
        }
        Ok(())
    }

    async fn probe_race(&self, key: &str) -> Result<(), ProbeError> {
        let writers = (0..WRITERS).map(|n| {
            let (this, key) = (self.clone(), key.to_owned());
            tokio::spawn(async move { this.create(&key, Bytes::from(n.to_string())).await })
        });
        let mut winners = Vec::new();
        for (n, written) in join_all(writers).await.into_iter().enumerate() {
            match written {
                Ok(Ok(Some(_))) => winners.push(n.to_string()),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(self.found("the check of the service failed internally")),
            }
        }
        if winners.len() > 1 {
            let observed =
                format!("{} of {WRITERS} parallel creations of one object succeeded", winners.len());
            return Err(self.found(&observed));
        }
        let Some(object) = self.get(key, 64).await? else {
            return Err(self.found(&format!("none of {WRITERS} parallel creations of one object succeeded")));
        };
        // An answer may be lost, and then the winner does not know that it has won.
        if winners.first().is_some_and(|winner| winner.as_bytes() != object.bytes) {
            return Err(self.found("an object does not have the content of the creation that succeeded"));
        }
        Ok(())
    }

    fn found(&self, observed: &str) -> ProbeError {
        ProbeError::Unsafe { bucket: self.url().to_string(), observed: observed.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_with_conditional_writes_passes_and_nothing_stays() {
        let bucket = Bucket::in_memory();
        bucket.probe().await.unwrap();
        assert_eq!(bucket.list("", None).unwrap().count().await, 0);
    }
}
