//! A pool of buffers for the bodies of zips.
//!
//! A chunk goes to the connection without a copy, and its buffer returns to the pool when its last byte was sent. The
//! size was measured: chunks of 64 KiB cost a third to a half of the throughput. Larger chunks gain little and cost memory
//! for each client. With many zips under way the chunks shrink, so that all together hold about [`TOTAL`] bytes.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::lock::lock;

/// The size of a chunk, in bytes, as long as few zips are under way.
const CHUNK: usize = 256 * 1024;

/// The size of a chunk if many zips are under way.
const MIN_CHUNK: usize = 16 * 1024;

/// The memory for the chunks of all zips under way, as long as that is enough for chunks of [`MIN_CHUNK`].
const TOTAL: usize = 32 << 20;

/// Maximum size of the unused buffers in the pool.
const MAX_UNUSED: usize = 8 << 20;

/// The unused buffers, and the number of zips under way.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    unused: Mutex<Unused>,
    open: AtomicUsize,
}

#[derive(Debug, Default)]
struct Unused {
    buffers: Vec<Box<[u8]>>,
    bytes: usize,
}

/// A zip under way, which takes its buffers from here.
#[derive(Debug)]
pub(super) struct OpenZip(Arc<Buffers>);

/// A buffer that returns to its pool when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    pool: Arc<Buffers>,
}

impl Buffers {
    /// Counts a zip under way.
    pub(super) fn open(self: &Arc<Self>) -> OpenZip {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenZip(Arc::clone(self))
    }

    /// Returns a buffer for the next chunk of a zip.
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let size = chunk(self.open.load(Ordering::Relaxed));
        let bytes = lock(&self.unused).take(size);
        let bytes = bytes.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        Buffer { bytes, filled: 0, pool: Arc::clone(self) }
    }
}

/// Returns the size of a chunk for a number of zips under way.
fn chunk(open: usize) -> usize {
    let share = (TOTAL / open.max(1)).clamp(MIN_CHUNK, CHUNK);
    // A power of two, so that few sizes are in the pool.
    1 << share.ilog2()
}

impl Unused {
    /// Takes a buffer of a size. Buffers of other sizes are freed on the way.
    fn take(&mut self, size: usize) -> Option<Box<[u8]>> {
        loop {
            let bytes = self.buffers.pop()?;
            self.bytes -= bytes.len();
            if bytes.len() == size {
                return Some(bytes);
            }
        }
    }

    fn put(&mut self, bytes: Box<[u8]>) {
        if self.bytes + bytes.len() <= MAX_UNUSED {
            self.bytes += bytes.len();
            self.buffers.push(bytes);
        }
    }
}

impl OpenZip {
    /// Returns the pool.
    pub(super) fn pool(&self) -> Arc<Buffers> {
        Arc::clone(&self.0)
    }
}

impl Deref for OpenZip {
    type Target = Arc<Buffers>;

    fn deref(&self) -> &Arc<Buffers> {
        &self.0
    }
}

impl Drop for OpenZip {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
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
        lock(&self.pool.unused).put(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_to_the_pool_when_its_bytes_are_dropped() {
        let buffers = Arc::new(Buffers::default());
        let unused = || lock(&buffers.unused).buffers.len();
        let mut buffer = buffers.take();
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        let bytes = buffer.into_bytes(3);
        let rest = bytes.slice(1..);
        drop(bytes);
        assert_eq!(unused(), 0);
        assert_eq!(&rest[..], b"bc");
        drop(rest);
        assert_eq!(unused(), 1);
        assert_eq!(buffers.take().as_mut().len(), CHUNK);
        assert_eq!(unused(), 1);
    }

    #[test]
    fn chunks_shrink_with_the_number_of_zips() {
        for (open, size) in
            [(0, CHUNK), (1, CHUNK), (128, CHUNK), (129, CHUNK / 2), (256, 128 << 10), (5000, MIN_CHUNK)]
        {
            assert_eq!(chunk(open), size, "{open}");
        }
        let buffers = Arc::new(Buffers::default());
        let mut open: Vec<_> = (0..256).map(|_| buffers.open()).collect();
        assert_eq!(open[0].take().as_mut().len(), 128 << 10);
        open.truncate(1);
        assert_eq!(buffers.take().as_mut().len(), CHUNK);
        assert_eq!(lock(&buffers.unused).buffers.len(), 1);
        // The pool keeps at most its maximum.
        drop((0..40).map(|_| buffers.take()).collect::<Vec<_>>());
        assert_eq!(lock(&buffers.unused).bytes, MAX_UNUSED);
    }
}
