//! What is known of a version while it is fetched, and how those who wait for it get at it.
//!
//! One task fetches; it alone changes the [`Progress`], and everybody else watches. A zip is read by those who
//! wait from the file that it is being written to, each at its own pace: a slow client holds up nobody. The
//! last [`KEPT_BACK`] bytes stay behind until the version is published, so that no client ever has the whole
//! of a body that proves wrong: the last of the zip where its length is known, else the last that came.
//!
//! A zip that breaks off on its way from the upstream may be followed by another one. Who has got
//! some of the first is broken off then; who has got nothing yet gets the second.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use stoa_gomod::ModuleVersion;
use stoa_store::SmallFile;
use tokio::sync::watch;

use super::FillError;

/// How much of a zip nobody gets before it is published.
pub(super) const KEPT_BACK: u64 = 64 * 1024;

/// A flight as those see it who wait for it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) version: ModuleVersion,
    pub(super) progress: watch::Receiver<Progress>,
    /// Whether somebody waits for the zip.
    pub(super) wanted: watch::Sender<bool>,
    /// How many transfers this process has broken off.
    pub(super) broken_off: Arc<AtomicU64>,
}

/// How far a flight is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) info: Option<Bytes>,
    pub(super) modfile: Option<Bytes>,
    pub(super) zip: Option<Arriving>,
    /// How many bytes of the zip are in its file.
    pub(super) written: u64,
    pub(super) end: Option<Result<End, FillError>>,
}

/// A zip that is being written.
#[derive(Debug, Clone)]
pub(super) struct Arriving {
    pub(super) file: Arc<File>,
    /// What the upstream says its size is.
    pub(super) length: Option<u64>,
}

/// How a flight ends that does not fail: the version is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// What was fetched is what is stored.
    Ours,
    /// Another writer's version is stored; what was fetched differs, or nothing was fetched.
    Theirs,
}

impl Progress {
    fn small(&self, file: SmallFile) -> Option<&Bytes> {
        match file {
            SmallFile::Info => self.info.as_ref(),
            SmallFile::Mod => self.modfile.as_ref(),
        }
    }

    /// Says whether the zip that is being written is this one.
    fn is_of(&self, zip: &Arriving) -> bool {
        self.zip.as_ref().is_some_and(|now| Arc::ptr_eq(&now.file, &zip.file))
    }

    /// How much of the zip may be sent before it is published.
    pub(super) fn may_be_sent(&self) -> u64 {
        match self.zip.as_ref().map(|zip| zip.length) {
            Some(Some(length)) => self.written.min(length.saturating_sub(KEPT_BACK)),
            Some(None) => self.written.saturating_sub(KEPT_BACK),
            None => 0,
        }
    }
}

/// Waits for a flight.
#[derive(Debug)]
pub struct Waiter {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
}

/// What came of waiting.
#[derive(Debug)]
pub enum Arrival<T> {
    /// What was waited for, ahead of the whole.
    Early(T),
    /// The whole version is in the store now.
    Stored,
}

impl Waiter {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        let progress = flight.progress.clone();
        Self { flight, progress }
    }

    /// Waits for the info or the mod.
    pub async fn small(mut self, file: SmallFile) -> Result<Arrival<Bytes>, FillError> {
        let known = self.progress.wait_for(|now| now.small(file).is_some() || now.end.is_some()).await;
        let Ok(now) = known else { return Err(broken(&self.flight)) };
        match (now.small(file), &now.end) {
            (Some(bytes), _) => Ok(Arrival::Early(bytes.clone())),
            (None, Some(Err(error))) => Err(error.clone()),
            (None, _) => Ok(Arrival::Stored),
        }
    }

    /// Waits until some of the zip may be sent.
    pub async fn zip(mut self) -> Result<Arrival<Transfer>, FillError> {
        let zip = match self.progress.wait_for(|now| now.may_be_sent() > 0 || now.end.is_some()).await {
            Err(_) => return Err(broken(&self.flight)),
            Ok(now) => match (&now.end, &now.zip) {
                (Some(Err(error)), _) => return Err(error.clone()),
                (None, Some(zip)) => zip.clone(),
                _ => return Ok(Arrival::Stored),
            },
        };
        Ok(Arrival::Early(Transfer { flight: self.flight, progress: self.progress, zip, sent: 0 }))
    }

    /// Waits until the version is in the store.
    pub async fn stored(mut self) -> Result<(), FillError> {
        let known = self.progress.wait_for(|now| now.end.is_some()).await;
        let Ok(now) = known else { return Err(broken(&self.flight)) };
        match &now.end {
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
    /// Is the size of the zip, if the upstream told it.
    pub fn length(&self) -> Option<u64> {
        self.zip.length
    }

    /// Waits until there is something to read, or the end. A buffer is better taken after that than before.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.available().await.map(|_| ())
    }

    /// Reads what comes next into a buffer, waiting for it, and says how much it is; 0 at the end.
    ///
    /// An error means that what was sent is not what is in the store, or that nothing came of it: the client
    /// must not be left to believe that it has the whole.
    pub async fn next<B>(&mut self, mut buffer: B) -> io::Result<(B, usize)>
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let available = self.available().await?;
        if available == self.sent {
            return Ok((buffer, 0));
        }
        let wanted = usize::try_from(available - self.sent).unwrap_or(usize::MAX);
        let (file, offset) = (Arc::clone(&self.zip.file), self.sent);
        let reading = tokio::task::spawn_blocking(move || {
            let bytes = buffer.as_mut();
            let wanted = wanted.min(bytes.len());
            let read = bytes.get_mut(..wanted).map_or(Ok(0), |bytes| file.read_at(bytes, offset));
            (buffer, read)
        });
        let (buffer, read) = reading.await.map_err(io::Error::other)?;
        let read = read?;
        if read == 0 {
            return Err(self.broken_off("its file is shorter than what was written to it"));
        }
        self.sent += read as u64;
        Ok((buffer, read))
    }

    /// Waits until more may be sent, or all was, and says up to where.
    async fn available(&mut self) -> io::Result<u64> {
        let (zip, sent) = (&self.zip, self.sent);
        let more = |now: &Progress| now.end.is_some() || !now.is_of(zip) || now.may_be_sent() > sent;
        let reason = match self.progress.wait_for(more).await {
            Err(_) => "the fill broke off".to_owned(),
            Ok(now) => match &now.end {
                Some(Err(error)) => error.to_string(),
                Some(Ok(End::Theirs)) => "another writer has stored other bytes".to_owned(),
                _ if !now.is_of(zip) => "it broke off on its way here, and is fetched again".to_owned(),
                Some(Ok(End::Ours)) => return Ok(now.written),
                None => return Ok(now.may_be_sent()),
            },
        };
        Err(self.broken_off(&reason))
    }

    fn broken_off(&self, reason: &str) -> io::Error {
        let count = 1 + self.flight.broken_off.fetch_add(1, Ordering::Relaxed);
        let version = &self.flight.version;
        log::warn!(
            "the transfer of {version} to a client was broken off, the {count}. since the start: {reason}"
        );
        io::Error::other(format!("the transfer of {version} was broken off: {reason}"))
    }
}

fn broken(flight: &Flight) -> FillError {
    FillError::Broken(format!("the fill of {}", flight.version))
}
