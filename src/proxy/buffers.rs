//! A pool of buffers for the bodies of zips.
//!
//! A chunk goes to the connection without a copy, and its buffer returns to the pool when its last byte was sent. The
//! size was measured: chunks of 64 KiB cost a third to a half of the throughput. Larger chunks gain little and cost memory
//! for each client.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Size of a chunk, in bytes.
pub(super) const CHUNK: usize = 256 * 1024;

/// Maximum number of unused buffers in the pool: 8 MiB.
const MAX_UNUSED: usize = 32;

/// The unused buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    unused: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer of [`CHUNK`] bytes that returns to its pool when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    pool: Arc<Buffers>,
}

impl Buffers {
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = unused.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        Buffer { bytes, filled: 0, pool: Arc::clone(self) }
    }
}

impl Buffer {
    /// Returns the first `filled` bytes, for a body to send.
    pub(super) fn into_bytes(mut self, filled: usize) -> Bytes {
        self.filled = filled.min(self.bytes.len());
        Bytes::from_owner(self)
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut unused = self.pool.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() < MAX_UNUSED {
            unused.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_to_the_pool_when_its_bytes_are_dropped() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take();
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        let bytes = buffer.into_bytes(3);
        let rest = bytes.slice(1..);
        drop(bytes);
        assert_eq!(buffers.unused.lock().unwrap().len(), 0);
        assert_eq!(&rest[..], b"bc");
        drop(rest);
        assert_eq!(buffers.unused.lock().unwrap().len(), 1);
        assert_eq!(buffers.take().as_mut().len(), CHUNK);
        assert_eq!(buffers.unused.lock().unwrap().len(), 1);
    }
}
