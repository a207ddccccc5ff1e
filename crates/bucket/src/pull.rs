//! The turn to pull from a peer: of the servers of a bucket, one asks each peer for its events.
//!
//! The turn is an object, which its holder changes every few seconds. The object also holds the pointers into the logs of
//! the peer, as far as the work for all events before them is done. So a server that takes the turn over misses nothing,
//! and repeats at most the work that was not done.
//!
//! ```text
//! ~stoa/ID/peers/NAME.json
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::manifest::fresh_nonce;
use crate::{BucketError, Document, Held, Nonce, Swapped, Tag, Versions};

/// The pointers into the logs of a peer: for each index, its last event.
pub type PullPointers = BTreeMap<String, u64>;

/// The time without a change after which another server takes the turn over.
pub const PULL_TAKEOVER: Duration = Duration::from_secs(30);

/// The pause between two changes by the holder.
pub const PULL_BEAT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PullDocument {
    nonce: Nonce,
    /// The server that pulls.
    owner: String,
    pointers: PullPointers,
}

impl Document for PullDocument {
    fn nonce(&self) -> &Nonce {
        &self.nonce
    }
}

/// The turn of one server to pull from one peer.
#[derive(Debug)]
pub struct PullTurn {
    versions: Versions,
    key: String,
    owner: String,
    takeover: Duration,
    /// The object of this server.
    mine: Option<Held<PullDocument>>,
    /// The tag of another server's object, and the time since which it has not changed.
    theirs: Option<(Tag, Instant)>,
}

/// The holder of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullHolder {
    /// This server has it, as before.
    Mine,
    /// This server has it from now on, and continues from these pointers.
    TakenOver(PullPointers),
    /// Another server has it.
    Other,
}

impl PullTurn {
    /// Returns the turn of a server, which it does not have yet.
    pub fn new(versions: Versions, peer: &str, owner: String) -> Self {
        let key = versions.keys().pull(peer);
        Self { versions, key, owner, takeover: PULL_TAKEOVER, mine: None, theirs: None }
    }

    /// Returns the turn with another time until it is taken over.
    #[must_use]
    pub fn taken_over_after(self, takeover: Duration) -> Self {
        Self { takeover, ..self }
    }

    /// Returns whether this server had the turn after the last call of [`renew`](Self::renew).
    pub fn is_mine(&self) -> bool {
        self.mine.is_some()
    }

    /// Keeps the turn, or takes it if nobody has it any more. `pointers` are those up to which the work is done. After
    /// [`PullHolder::TakenOver`] they begin with the given ones.
    ///
    /// # Errors
    ///
    /// After an error the turn may be lost, or the object changed all the same. The next call finds out.
    pub async fn renew(&mut self, pointers: &PullPointers) -> Result<PullHolder, BucketError> {
        if let Some(tag) = self.mine.as_ref().map(|held| held.tag.clone()) {
            return match self.swap(pointers.clone(), Some(&tag)).await? {
                true => Ok(PullHolder::Mine),
                false => Ok(PullHolder::Other),
            };
        }
        let found = self.versions.bucket().document::<PullDocument>(&self.key).await?;
        let Some(found) = found else {
            let begin = PullPointers::new();
            return Ok(match self.swap(begin.clone(), None).await? {
                true => PullHolder::TakenOver(begin),
                false => PullHolder::Other,
            });
        };
        let is_free = matches!(&self.theirs, Some((tag, since)) if *tag == found.tag && since.elapsed() >= self.takeover);
        if is_free {
            let pointers = found.document.pointers;
            return Ok(match self.swap(pointers.clone(), Some(&found.tag)).await? {
                true => PullHolder::TakenOver(pointers),
                false => PullHolder::Other,
            });
        }
        if self.theirs.as_ref().is_none_or(|(tag, _)| *tag != found.tag) {
            self.theirs = Some((found.tag, Instant::now()));
        }
        Ok(PullHolder::Other)
    }

    async fn swap(&mut self, pointers: PullPointers, tag: Option<&Tag>) -> Result<bool, BucketError> {
        let document = PullDocument { nonce: fresh_nonce()?, owner: self.owner.clone(), pointers };
        match self.versions.bucket().swap(&self.key, &document, tag).await? {
            Swapped::Done(tag) => {
                self.mine = Some(Held { document, tag });
                self.theirs = None;
                Ok(true)
            }
            // A request that failed has changed it all the same.
            Swapped::Lost(Some(own)) if self.mine.is_some() && own.document.owner == self.owner => {
                self.mine = Some(own);
                Ok(true)
            }
            Swapped::Lost(other) => {
                self.mine = None;
                self.theirs = other.map(|other| (other.tag, Instant::now()));
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Bucket, Keys};

    fn pointers(seq: u64) -> PullPointers {
        PullPointers::from([("index".to_owned(), seq)])
    }

    #[tokio::test]
    async fn one_server_pulls_and_another_continues_after_its_end() {
        let bucket = Bucket::in_memory();
        let keys = Keys::new(Nonce::random().unwrap());
        let turn =
            |owner: &str| PullTurn::new(Versions::new(bucket.clone(), keys.clone()), "b", owner.to_owned());
        let (mut one, mut two) = (turn("one"), turn("two").taken_over_after(Duration::ZERO));
        assert_eq!(one.renew(&pointers(5)).await.unwrap(), PullHolder::TakenOver(PullPointers::new()));
        // It has not changed since the other server looked, but nobody looked before.
        assert_eq!(two.renew(&pointers(9)).await.unwrap(), PullHolder::Other);
        assert_eq!(one.renew(&pointers(7)).await.unwrap(), PullHolder::Mine);
        assert_eq!(two.renew(&pointers(9)).await.unwrap(), PullHolder::Other);
        // The holder is gone.
        assert_eq!(two.renew(&pointers(9)).await.unwrap(), PullHolder::TakenOver(pointers(7)));
        assert_eq!(one.renew(&pointers(8)).await.unwrap(), PullHolder::Other);
        assert_eq!(one.renew(&pointers(8)).await.unwrap(), PullHolder::Other);
        assert!(!one.is_mine() && two.is_mine());
    }

    #[tokio::test]
    async fn a_request_that_failed_does_not_lose_the_turn() {
        let (bucket, keys) = (Bucket::in_memory(), Keys::new(Nonce::random().unwrap()));
        let mut turn = PullTurn::new(Versions::new(bucket.clone(), keys), "b", "one".to_owned());
        assert_eq!(turn.renew(&pointers(5)).await.unwrap(), PullHolder::TakenOver(PullPointers::new()));
        // The object was changed by a request without an answer.
        let held = turn.mine.clone().unwrap();
        assert_eq!(turn.renew(&pointers(6)).await.unwrap(), PullHolder::Mine);
        turn.mine = Some(held);
        assert_eq!(turn.renew(&pointers(7)).await.unwrap(), PullHolder::Mine);
        assert_eq!(turn.renew(&pointers(8)).await.unwrap(), PullHolder::Mine);
        // An object that cannot be read is an error, which keeps the turn.
        let tag = turn.mine.clone().unwrap().tag;
        bucket.delete(&turn.key).await.unwrap();
        assert!(bucket.write_if_absent(&turn.key, Bytes::from_static(b"{")).await.unwrap());
        turn.renew(&pointers(9)).await.unwrap_err();
        assert!(turn.is_mine() && turn.mine.as_ref().is_some_and(|held| held.tag == tag));
    }
}
