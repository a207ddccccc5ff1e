//! A number of bytes that the large bodies in memory share.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The size up to which a body takes nothing from the budget.
pub(crate) const SMALL_BODY: usize = 64 << 10;

/// A limit on the total size of large bodies in memory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ByteBudget {
    free: Arc<Semaphore>,
    kib: u32,
}

/// A part of a budget, released when it and the body that it holds are dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ByteBudget {
    /// Creates a budget of `bytes`.
    pub(crate) fn new(bytes: u32) -> Self {
        let kib = bytes.div_ceil(1024).max(1);
        Self { free: Arc::new(Semaphore::new(kib as usize)), kib }
    }

    /// Reserves a part for a body of this size if it fits now.
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reserved> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.kib_of(bytes)).ok()?;
        Some(Reserved { _permit: Some(permit) })
    }

    /// Waits until a body of this size fits. A body that exceeds the whole budget gets all of it.
    pub(crate) async fn reserve(&self, bytes: u64) -> Reserved {
        let kib = self.kib_of(bytes);
        // The semaphore is never closed.
        Reserved { _permit: Arc::clone(&self.free).acquire_many_owned(kib).await.ok() }
    }

    fn kib_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.kib)
    }
}

impl Reserved {
    /// Returns a body that keeps its part of the budget until its last clone is dropped.
    pub(crate) fn hold(self, body: Bytes) -> Bytes {
        Bytes::from_owner(Held { body, _reserved: self })
    }
}

struct Held {
    body: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_keeps_its_part_until_its_last_clone_is_dropped() {
        let budget = ByteBudget::new(8 << 10);
        let body = budget.reserve(5000).await.hold(Bytes::from_static(b"body"));
        assert_eq!(budget.free.available_permits(), 3);
        let part = body.slice(1..);
        drop(body);
        assert_eq!((budget.free.available_permits(), &part[..]), (3, b"ody".as_slice()));
        drop(part);
        let all = budget.reserve(u64::MAX).await;
        assert_eq!(budget.free.available_permits(), 0);
        drop(all);
        assert_eq!(budget.free.available_permits(), 8);
    }
}
