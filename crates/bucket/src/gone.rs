//! The numbered list of the last removals. Servers read it again and again to learn which versions they must look at
//! again before they serve them from their own store.
//!
//! A removal is added before the manifest changes, and again afterwards. So a server that sees the list unchanged has nothing
//! to look at, also if the removal was interrupted, or if the server looked before the manifest had changed.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use stoa_gomod::ModuleVersion;

use crate::manifest::fresh_nonce;
use crate::{Bucket, BucketError, Document, Held, Keys, Nonce, Swapped, Tag, Trouble};

/// Number of removals that the list keeps.
const KEPT: usize = 10_000;

/// Maximum size of the names in the list in bytes. The object stays below the maximum size of a document.
const KEPT_BYTES: usize = 2 << 20;

/// How often a removal is added again after another process was first.
const ATTEMPTS: usize = 100;

/// The last removals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    nonce: Nonce,
    /// The number of the next removal.
    pub next: u64,
    /// The last removals, oldest first. The number of the last one is `next - 1`.
    pub versions: VecDeque<ModuleVersion>,
}

impl Document for Gone {
    fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| error.to_string())
    }
}

/// The removals since an earlier look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removals {
    /// These versions.
    Some(Vec<ModuleVersion>),
    /// More than the list keeps: every version must be looked at again.
    TooMany,
}

impl Gone {
    /// Drops the oldest removals that are too many.
    fn trim(&mut self) {
        let bytes =
            |version: &ModuleVersion| version.path().as_str().len() + version.version().as_str().len();
        let mut left = KEPT_BYTES;
        let fits = |version: &&ModuleVersion| {
            let rest = left.checked_sub(bytes(version));
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let kept = self.versions.iter().rev().take(KEPT).take_while(fits).count();
        self.versions.drain(..self.versions.len() - kept);
    }

    /// Returns the removals from this number on.
    pub fn since(&self, number: u64) -> Removals {
        let Some(new) = self.next.checked_sub(number).and_then(|new| usize::try_from(new).ok()) else {
            // The list is not the one that the number is of.
            return Removals::TooMany;
        };
        if new > self.versions.len() {
            return Removals::TooMany;
        }
        Removals::Some(self.versions.range(self.versions.len() - new..).cloned().collect())
    }
}

/// Adds removals to the list, all by one write. Those that the list cannot keep count too, so servers learn that they have
/// missed some.
pub(crate) async fn add(bucket: &Bucket, keys: &Keys, versions: &[ModuleVersion]) -> Result<(), BucketError> {
    let key = keys.gone();
    let mut held: Option<Held<Gone>> = bucket.document(&key).await?;
    for _ in 0..ATTEMPTS {
        let (mut gone, tag): (Gone, Option<Tag>) = match held {
            Some(held) => (Gone { nonce: fresh_nonce()?, ..held.document }, Some(held.tag)),
            None => (Gone { nonce: fresh_nonce()?, next: 0, versions: VecDeque::new() }, None),
        };
        gone.next += versions.len() as u64;
        gone.versions.extend(versions.iter().cloned());
        gone.trim();
        match bucket.swap(&key, &gone, tag.as_ref()).await? {
            Swapped::Done(_) => return Ok(()),
            Swapped::Lost(other) => held = other,
        }
    }
    let reason = format!("other processes changed it in each of {ATTEMPTS} attempts");
    Err(BucketError::new(Trouble::Contended, "write", bucket.url_of(&key), reason))
}

/// Writes an empty list whose next removal has this number, unless there is a list.
pub(crate) async fn start(bucket: &Bucket, keys: &Keys, next: u64) -> Result<(), BucketError> {
    let gone = Gone { nonce: fresh_nonce()?, next, versions: VecDeque::new() };
    bucket.swap(&keys.gone(), &gone, None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_learns_what_was_removed_since_its_last_look() {
        let bucket = Bucket::in_memory();
        let keys = Keys::new(Nonce::random().unwrap());
        let version = |n: usize| ModuleVersion::parse(&format!("example.com/m@v1.0.{n}")).unwrap();
        let added = (0..20).map(|n| {
            let (bucket, keys) = (bucket.clone(), keys.clone());
            tokio::spawn(async move { add(&bucket, &keys, &[version(n)]).await })
        });
        for added in futures_util::future::join_all(added).await {
            added.unwrap().unwrap();
        }
        let read = || async { bucket.document::<Gone>(&keys.gone()).await.unwrap().unwrap().document };
        let gone = read().await;
        assert_eq!(gone.next, 20);
        assert_eq!(gone.since(20), Removals::Some(vec![]));
        assert!(matches!(gone.since(3), Removals::Some(some) if some.len() == 17));
        assert_eq!(gone.since(21), Removals::TooMany);
        let many: Vec<_> = (0..KEPT).map(version).collect();
        add(&bucket, &keys, &many).await.unwrap();
        let gone = read().await;
        assert_eq!((gone.next, gone.versions.len()), (20 + KEPT as u64, KEPT));
        assert_eq!(gone.since(20), Removals::Some(many));
        assert_eq!(gone.since(19), Removals::TooMany);
        // More at once than the list keeps.
        let more: Vec<_> = (0..KEPT + 5).map(|n| version(n + KEPT)).collect();
        add(&bucket, &keys, &more).await.unwrap();
        let (before, gone) = (gone.next, read().await);
        assert_eq!((gone.next, gone.versions.len()), (before + more.len() as u64, KEPT));
        assert_eq!(gone.since(before), Removals::TooMany);
        assert_eq!(gone.since(before + 5), Removals::Some(more[5..].to_vec()));
        // Names that are too long for so many.
        let long = "a".repeat(250);
        let long: Vec<_> = (0..KEPT)
            .map(|n| ModuleVersion::parse(&format!("a.b/{long}/{long}@v1.0.{n}")).unwrap())
            .collect();
        add(&bucket, &keys, &long).await.unwrap();
        let gone = read().await;
        assert!((1000..KEPT).contains(&gone.versions.len()), "{}", gone.versions.len());
        assert_eq!(gone.since(gone.next - 1000), Removals::Some(long[KEPT - 1000..].to_vec()));
        assert_eq!(gone.since(gone.next - KEPT as u64), Removals::TooMany);
    }
}
