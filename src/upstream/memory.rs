//! A budget for large bodies in memory.
//!
//! A list may have 8 MiB, and many clients may ask for many lists at once. So a body that exceeds [`FREE_BYTES`] takes its
//! size from a budget, until it is dropped. Callers that hold a part of a budget never wait for more of the same budget.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The size in bytes up to which a body takes nothing from the budget.
pub const FREE_BYTES: usize = 64 << 10;

/// The size in bytes of a permit.
const UNIT: usize = 64 << 10;

/// Maximum time to wait for a part of the budget.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A budget of bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    free: Arc<Semaphore>,
    units: usize,
}

/// A part of a budget, which is returned when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

impl Memory {
    /// Creates a budget.
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, u32::MAX as usize);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits for a part of the budget, at most the whole budget. Returns `None` if the wait is too long.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let units = u32::try_from(bytes.div_ceil(UNIT).min(self.units)).ok()?;
        let permit = tokio::time::timeout(MAX_WAIT, Arc::clone(&self.free).acquire_many_owned(units)).await;
        // The semaphore is never closed.
        Some(Reservation { _permit: permit.ok()?.ok()? })
    }
}

impl Reservation {
    /// Keeps the reservation for as long as a body is in memory.
    pub fn bind(self, body: Bytes) -> Bytes {
        Bytes::from_owner(Bound { body, _reservation: self })
    }
}

struct Bound {
    body: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Bound {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_of_the_budget_is_returned_with_the_last_copy_of_its_body() {
        let memory = Memory::new(4 * UNIT);
        let body = memory.reserve(3 * UNIT).await.unwrap().bind(Bytes::from_static(b"body"));
        let copy = body.clone();
        assert_eq!((copy.as_ref(), memory.free.available_permits()), (b"body".as_slice(), 1));
        drop(body);
        assert_eq!(memory.free.available_permits(), 1);
        drop(copy);
        assert_eq!(memory.free.available_permits(), 4);
        assert!(memory.reserve(100 * UNIT).await.is_some(), "more than the budget is all of it");
    }
}
