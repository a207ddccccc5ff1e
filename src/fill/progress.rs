//! The progress of a download, and how waiting clients read it.
//!
//! One task downloads and is the only writer of [`Progress`]; all others watch it. Waiting clients read a
//! zip from the file that the task writes, each at its own speed, so a slow client delays no other. The
//! last [`KEPT_BACK`] bytes are withheld until the zip is verified, so no client ever receives a complete zip that
//! turns out to be wrong. These are the last bytes of the zip if its length is known, and otherwise the last bytes
//! that arrived. No client waits until a verified zip is on disk.
//!
//! If a zip download is interrupted, another download continues it in the same file. If that sends another zip, clients
//! that already received part of the first zip are disconnected. The others get the second zip.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stoa_gomod::ModuleVersion;
use stoa_store::{DraftZip, SmallFile};
use tokio::sync::watch;

use crate::policy::Rule;
use crate::unavailable::Unavailable;

/// The number of bytes of a zip that are withheld until it is verified.
pub(super) const KEPT_BACK: u64 = 64 * 1024;

/// A flight, as its waiting clients see it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) version: ModuleVersion,
    /// The rule by which it was started.
    pub(super) rule: Arc<Rule>,
    pub(super) progress: watch::Receiver<Progress>,
    /// Whether a client waits for the zip.
    pub(super) wanted: watch::Sender<bool>,
    /// Whether the flight takes the whole version, and not only its info and go.mod.
    pub(super) whole: watch::Sender<bool>,
    /// Whether an upstream may be asked. If not, the version comes from the bucket or not at all.
    pub(super) may_ask: AtomicBool,
    /// Number of transfers that this process has aborted.
    pub(super) aborted: Arc<AtomicU64>,
}

/// The part of a version that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The info and the go.mod.
    Metadata,
    /// The whole version, in the background.
    Version,
    /// The zip, for which a client waits.
    Zip,
}

/// The places from which a request may get a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// The bucket, and the upstreams of the rule.
    All,
    /// The bucket.
    BucketOnly,
}

impl Flight {
    /// Extends the flight to what another request needs. Call it under the lock of the map.
    pub(super) fn want(&self, want: Want, places: Places) {
        if places == Places::All {
            self.may_ask.store(true, Ordering::Relaxed);
        }
        if want != Want::Metadata {
            self.whole.send_replace(true);
        }
        if want == Want::Zip {
            self.wanted.send_replace(true);
        }
    }
}

/// The progress of a flight.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) info: Option<Bytes>,
    /// The go.mod, unless it is large.
    pub(super) modfile: Option<Bytes>,
    /// Whether the info and the go.mod are in the cache. A large go.mod is read from there.
    pub(super) is_cached: bool,
    pub(super) zip: Option<Arriving>,
    /// Number of bytes of the zip that are in its file.
    pub(super) written: u64,
    /// Whether the zip is complete and valid, and differs from no known hash and no stored zip.
    pub(super) is_verified: bool,
    /// Whether the flight waits for other downloads to finish.
    pub(super) is_queued: bool,
    pub(super) end: Option<Result<End, Unavailable>>,
}

/// A zip that is being written.
#[derive(Debug, Clone)]
pub(super) struct Arriving {
    pub(super) file: Arc<DraftZip>,
    /// The size of the zip according to the upstream.
    pub(super) length: Option<u64>,
}

/// The end of a successful flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The stored version is identical to the downloaded one.
    Ours,
    /// Another writer's version is stored, and the download differs or did not take place.
    Theirs,
    /// The info and the go.mod were downloaded. The zip was not, since no request needs it.
    Pair,
}

impl Progress {
    fn small(&self, file: SmallFile) -> Option<&Bytes> {
        match file {
            SmallFile::Info => self.info.as_ref(),
            SmallFile::Mod => self.modfile.as_ref(),
        }
    }

    /// Returns whether `zip` is still the zip that is being written.
    fn is_of(&self, zip: &Arriving) -> bool {
        self.zip.as_ref().is_some_and(|now| Arc::ptr_eq(&now.file, &zip.file))
    }

    /// Returns the number of bytes of the zip that may be sent.
    fn may_be_sent(&self) -> u64 {
        if self.is_verified { self.written } else { self.may_be_sent_early() }
    }

    /// Returns the number of bytes of the zip that may be sent before it is verified.
    pub(super) fn may_be_sent_early(&self) -> u64 {
        match self.zip.as_ref().map(|zip| zip.length) {
            // A wrong zip is only detected at its end. A client that lacks the last bytes knows that it failed.
            Some(Some(length)) => self.written.min(length.saturating_sub(KEPT_BACK)),
            Some(None) => self.written.saturating_sub(KEPT_BACK),
            None => 0,
        }
    }
}

/// A handle to wait for a flight.
#[derive(Debug)]
pub struct Waiter {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
    /// Maximum time to wait while the flight is queued.
    patience: Option<Duration>,
    joined: Joined,
}

/// The relation of a request to the flight that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The request has started the flight.
    No,
    /// Another request has started the flight, with the same list of upstreams.
    Same,
    /// Another request has started the flight, with another list of upstreams. So its failure says nothing about the list
    /// of this request.
    OtherUpstream,
}

/// The result of waiting for a part of a version.
#[derive(Debug)]
pub enum Arrival<T> {
    /// The part, before the version is complete.
    Early(T),
    /// The part is on disk now: in the store, or a small file in the cache.
    Stored,
}

impl Waiter {
    pub(super) fn new(flight: Arc<Flight>, joined: Joined) -> Self {
        let progress = flight.progress.clone();
        Self { flight, progress, patience: None, joined }
    }

    /// Returns whether another request started the flight.
    pub(crate) fn is_joined(&self) -> bool {
        self.joined != Joined::No
    }

    /// Returns the relation of the request to the flight.
    pub(crate) fn joined(&self) -> Joined {
        self.joined
    }

    /// Waits a limited time while the flight is queued. The flight keeps its place in the queue.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    async fn wait_for(
        &mut self,
        mut is_reached: impl FnMut(&Progress) -> bool,
    ) -> Result<watch::Ref<'_, Progress>, Unavailable> {
        if let Some(patience) = self.patience {
            let waiting = self.progress.wait_for(&mut is_reached);
            let is_late = tokio::time::timeout(patience, waiting).await.is_err();
            if is_late && self.progress.borrow().is_queued {
                let version = self.flight.version.to_string();
                return Err(Unavailable::Crowded { version, waited: patience });
            }
        }
        self.progress.wait_for(is_reached).await.map_err(|_| internal(&self.flight))
    }

    /// Waits for the info or the mod.
    pub async fn small(mut self, file: SmallFile) -> Result<Arrival<Bytes>, Unavailable> {
        let is_there = |now: &Progress| now.small(file).is_some() || now.is_cached || now.end.is_some();
        let now = self.wait_for(is_there).await?;
        match (now.small(file), &now.end) {
            (Some(bytes), _) => Ok(Arrival::Early(bytes.clone())),
            (None, Some(Err(error))) => Err(error.clone()),
            (None, _) => Ok(Arrival::Stored),
        }
    }

    /// Waits until part of the zip may be sent.
    pub async fn zip(mut self) -> Result<Arrival<Transfer>, Unavailable> {
        let now = self.wait_for(|now| now.may_be_sent_early() > 0 || now.end.is_some()).await?;
        let zip = match (&now.end, &now.zip) {
            (Some(Err(error)), _) => return Err(error.clone()),
            (None, Some(zip)) => zip.clone(),
            _ => return Ok(Arrival::Stored),
        };
        drop(now);
        Ok(Arrival::Early(Transfer { flight: self.flight, progress: self.progress, zip, sent: 0 }))
    }

    /// Waits until the version is in the store.
    pub async fn stored(self) -> Result<(), Unavailable> {
        self.stored_with(|_| {}).await
    }

    /// Waits until the version is in the store. Each number of bytes of the zip that arrives goes to `arrived`.
    pub async fn stored_with(mut self, arrived: impl Fn(u64)) -> Result<(), Unavailable> {
        let mut seen = 0;
        let reached = self.wait_for(|now| {
            arrived(now.written.saturating_sub(seen));
            // The number starts again with another attempt.
            seen = now.written;
            now.end.is_some()
        });
        match &reached.await?.end {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// A zip on its way to one client.
#[derive(Debug)]
pub struct Transfer {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
    zip: Arriving,
    sent: u64,
}

impl Transfer {
    /// Returns the size of the zip if the upstream sent it.
    pub fn length(&self) -> Option<u64> {
        self.zip.length
    }

    /// Waits for data or the end. Callers take a buffer only afterwards, so that waiting transfers hold none.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.available().await.map(|_| ())
    }

    /// Reads the next part into a buffer and returns its length, which is 0 at the end.
    ///
    /// # Errors
    ///
    /// An error means that the sent bytes differ from the stored zip, or that the zip was not verified. The caller
    /// must make sure that the client does not take the transfer for complete.
    pub async fn next<B>(&mut self, mut buffer: B) -> io::Result<(B, usize)>
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let available = self.available().await?;
        if available == self.sent {
            return Ok((buffer, 0));
        }
        let left = usize::try_from(available - self.sent).unwrap_or(usize::MAX);
        let (file, offset) = (&self.zip.file, self.sent);
        // What was just written is in the page cache, and needs no other thread.
        let read = match file.read_now(offset, beginning(&mut buffer, left)) {
            Some(read) => read,
            None => {
                let file = Arc::clone(file);
                let reading = tokio::task::spawn_blocking(move || {
                    let read = file.read_at(beginning(&mut buffer, left), offset);
                    (buffer, read)
                });
                let (back, read) = reading.await.map_err(io::Error::other)?;
                buffer = back;
                read?
            }
        };
        if read == 0 {
            return Err(self.abort("the zip file is truncated"));
        }
        self.sent += read as u64;
        Ok((buffer, read))
    }

    /// Waits until more may be sent or all was sent. Returns the end of the part that may be sent.
    async fn available(&mut self) -> io::Result<u64> {
        let (zip, sent) = (&self.zip, self.sent);
        let more = |now: &Progress| {
            now.end.is_some() || now.is_verified || !now.is_of(zip) || now.may_be_sent() > sent
        };
        let reason = match self.progress.wait_for(more).await {
            Err(_) => "internal error: the download failed".to_owned(),
            Ok(now) => match &now.end {
                // It cannot be stored, but the client gets the right bytes.
                Some(Err(_)) if now.is_verified && now.is_of(zip) => return Ok(now.written),
                Some(Err(error)) => error.to_string(),
                Some(Ok(End::Theirs | End::Pair)) => "another process stored a different zip".to_owned(),
                _ if !now.is_of(zip) => "the download from the upstream failed and was restarted".to_owned(),
                Some(Ok(End::Ours)) => return Ok(now.written),
                None => return Ok(now.may_be_sent()),
            },
        };
        Err(self.abort(&reason))
    }

    fn abort(&self, reason: &str) -> io::Error {
        let count = 1 + self.flight.aborted.fetch_add(1, Ordering::Relaxed);
        let version = &self.flight.version;
        log::warn!(version:% = version, reason, aborted_total = count; "aborted a transfer");
        io::Error::other(format!("aborted the transfer of {version}: {reason}"))
    }
}

/// Returns the first bytes of a buffer.
fn beginning<B: AsMut<[u8]>>(buffer: &mut B, size: usize) -> &mut [u8] {
    let bytes = buffer.as_mut();
    let size = size.min(bytes.len());
    bytes.split_at_mut(size).0
}

fn internal(flight: &Flight) -> Unavailable {
    Unavailable::Broken(format!("the download of {}", flight.version))
}
