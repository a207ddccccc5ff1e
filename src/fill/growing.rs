//! A zip that is being written, and its continuation by another download.
//!
//! After an interruption, the flight starts a second download, of the rest of the zip or of the whole zip. The
//! bytes that are sent again are compared with those in the file. If they are identical, the zip grows on in the same
//! draft, and clients notice nothing. Otherwise it is another zip, which gets a draft of its own. Clients that already
//! received part of the first zip are disconnected then, and the others get the second zip.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use bytes::Bytes;
use stoa_layout::PathError;
use stoa_store::{Draft, DraftZip, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::pace::Pace;
use super::progress::{Arriving, Progress};
use super::slots::Slot;
use super::task::Fetch;
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, ZipDownload};

/// Maximum number of chunks that wait to be written. With more, their memory leaves the cache of the CPU before it is used
/// again, and each copy of the download takes longer.
const CHUNKS_AHEAD: usize = 2;

/// Maximum number of written chunks that wait in memory to be hashed. The others are read from the file.
const CHUNKS_TO_HASH: usize = 4;

/// Number of bytes of a zip after which the file is synced in the background.
const UNSYNCED_BYTES: u64 = 8 << 20;

/// The size of one read of a file.
const PIECE: usize = 256 * 1024;

/// A zip that is being written.
pub(super) struct Growing {
    pub(super) draft: Draft,
    /// The number of bytes in the file.
    pub(super) size: u64,
}

impl Fetch {
    /// Returns the zip that a download continues: the given one, or a new one if there is none or if the download is
    /// of another zip.
    pub(super) async fn join_beginning(
        &self,
        growing: Option<Growing>,
        draft: Option<Result<Draft, Unavailable>>,
        download: &mut ZipDownload,
    ) -> Result<Growing, Unavailable> {
        match (growing, draft) {
            (Some(growing), _) if download.may_continue() => Ok(growing),
            (None, Some(draft)) => Ok(self.start_writing(draft?, download)),
            _ => Ok(self.start_writing(self.new_draft().await?, download)),
        }
    }

    /// Makes an empty draft.
    pub(super) async fn new_draft(&self) -> Result<Draft, Unavailable> {
        let version = self.version.clone();
        blocking(&self.means.store, &self.version, move |store| store.draft(&version)).await
    }

    /// Starts another draft for a download, with the bytes before the download's position from the draft so far.
    async fn copy_draft(
        &self,
        beginning: &Draft,
        download: &mut ZipDownload,
    ) -> Result<Growing, Unavailable> {
        let (version, size) = (self.version.clone(), download.position());
        let beginning = beginning.zip();
        let draft = blocking(&self.means.store, &self.version, move |store| {
            let draft = store.draft(&version)?;
            let copied = copy(&beginning, &draft.zip(), size);
            copied.map_err(|error| PathError::new("write", draft.zip_path(), error))?;
            Ok(draft)
        });
        Ok(self.start_writing(draft.await?, download))
    }

    /// Starts to write a download to a draft, which has all bytes before the download's position.
    fn start_writing(&self, draft: Draft, download: &mut ZipDownload) -> Growing {
        let size = download.position();
        download.set_apart();
        let arriving = Arriving { file: draft.zip(), length: download.length };
        // This disconnects the clients that have part of another zip. The others wait for this one.
        self.progress.send_modify(|now| (now.zip, now.written) = (Some(arriving), size));
        Growing { draft, size }
    }

    /// Receives a download up to its end. Returns the upstream's error if it fails. Local failures are reported first.
    pub(super) async fn receive(
        &self,
        download: &mut ZipDownload,
        zip: &mut Growing,
        (pace, slot): (&mut Pace, &Slot),
    ) -> Result<Result<(), UpstreamError>, Unavailable> {
        match self.compare(download, zip, (pace, slot)).await? {
            Ok(true) => {}
            Ok(false) => *zip = self.copy_draft(&zip.draft, download).await?,
            Err(error) => return Ok(Err(error)),
        }
        self.append(download, zip, (pace, slot)).await
    }

    /// Reads the part of a download that is already in the file. Returns whether it is identical. If not, the download
    /// is at the first chunk that differs.
    async fn compare(
        &self,
        download: &mut ZipDownload,
        zip: &Growing,
        (pace, slot): (&mut Pace, &Slot),
    ) -> Result<Result<bool, UpstreamError>, Unavailable> {
        while download.position() < zip.size {
            let from = download.position();
            let mut chunk = match self.next_chunk(download, pace, slot).await? {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Ok(false)),
                Err(error) => return Ok(Err(error)),
            };
            let known = usize::try_from(zip.size - from).unwrap_or(usize::MAX).min(chunk.len());
            let rest = chunk.split_off(known);
            let (file, sent, path) = (zip.draft.zip(), chunk.clone(), zip.draft.zip_path());
            let is_same = blocking(&self.means.store, &self.version, move |_| {
                let mut written = vec![0; sent.len()];
                let read = file.read_exact_at(&mut written, from);
                read.map_err(|error| PathError::new("read", path, error))?;
                Ok(written == sent)
            });
            if !is_same.await? {
                // Also the rest, which follows it.
                download.put_back([chunk, rest].concat().into());
                return Ok(Ok(false));
            }
            download.put_back(rest);
        }
        Ok(Ok(true))
    }

    /// Writes a download to the file on a thread of the blocking pool.
    async fn append(
        &self,
        download: &mut ZipDownload,
        zip: &mut Growing,
        (pace, slot): (&mut Pace, &Slot),
    ) -> Result<Result<(), UpstreamError>, Unavailable> {
        let (chunks, arrivals) = mpsc::channel(CHUNKS_AHEAD);
        let (file, size, progress) = (zip.draft.zip(), zip.size, self.progress.clone());
        let (to_hash, written) = sync_channel::<(u64, Bytes)>(CHUNKS_TO_HASH);
        let hashed = Arc::clone(&file);
        let writing =
            tokio::task::spawn_blocking(move || write(&file, size, arrivals, (&progress, &to_hash)));
        // The hash may lag behind, so it delays neither the download nor the clients. It starts after the writer, because it
        // waits for it, and there may be only one thread for both.
        let progress = self.progress.clone();
        let hashing = tokio::task::spawn_blocking(move || {
            written.iter().for_each(|(at, chunk)| hashed.hash_early(at, &chunk));
            let size = progress.borrow().written;
            hashed.hash_early(size, &[]);
        });
        let received = loop {
            match self.next_chunk(download, pace, slot).await? {
                Ok(Some(chunk)) => match chunks.send(chunk).await {
                    Ok(()) => {}
                    // The writer has failed; its error is returned below.
                    Err(_) => break Ok(()),
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(chunks);
        let written = writing.await.map_err(|error| {
            log::error!(version:% = self.version, reason:% = error; "a task panicked");
            Unavailable::Broken(self.version.to_string())
        })?;
        zip.size = written.map_err(|error| {
            let error = StoreError::from(PathError::new("write", zip.draft.zip_path(), error));
            self.means.store.note_failure(&error);
            error
        })?;
        // A panic was printed. What is not hashed is read when the draft is sealed.
        let _ = hashing.await;
        // `ZipDownload` has already compared the length with the announced one.
        Ok(received)
    }
}

/// Appends chunks to a file of some size. Returns its new size.
fn write(
    zip: &Arc<DraftZip>,
    mut size: u64,
    mut chunks: mpsc::Receiver<Bytes>,
    (progress, to_hash): (&watch::Sender<Progress>, &SyncSender<(u64, Bytes)>),
) -> io::Result<u64> {
    let mut file: &File = zip;
    let (mut synced, mut syncing) = (size, None::<JoinHandle<()>>);
    while let Some(chunk) = chunks.blocking_recv() {
        file.write_all(&chunk)?;
        let at = size;
        size += chunk.len() as u64;
        progress.send_modify(|now| now.written = size);
        let _ = to_hash.try_send((at, chunk));
        // Clients wait for the final sync before publishing, so it should have little left to do.
        if size - synced >= UNSYNCED_BYTES && syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            let zip = Arc::clone(zip);
            syncing = Some(tokio::task::spawn_blocking(move || zip.sync_early()));
            synced = size;
        }
    }
    Ok(size)
}

/// Copies the first bytes of a file to the start of an empty file.
fn copy(from: &File, mut to: &File, size: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut copied = 0;
    while copied < size {
        let wanted = usize::try_from(size - copied).unwrap_or(usize::MAX).min(PIECE);
        let Some(piece) = piece.get_mut(..wanted) else { break };
        from.read_exact_at(piece, copied)?;
        to.write_all(piece)?;
        copied += wanted as u64;
    }
    Ok(())
}
