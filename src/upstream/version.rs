//! The files of one version, from one upstream.
//!
//! Two upstreams may have different files for one version, and a mixture would be neither. So the entry
//! that has the first file is asked for the other files, too. Only if a file is missing there (or, before a
//! `|`, fails) does the walk continue with the next entry, as in the go command: a module cache that is
//! served as a tree of files often has an info and a mod without a zip. A download of a zip may also fail
//! after it started: the caller reports that with [`zip_failed`](VersionSource::zip_failed), and before a
//! `|` the walk continues. If the files came from several entries, [`switched`](VersionSource::switched)
//! returns true, and the first files should be downloaded again.

use super::client::Client;
use super::direct::SharedDownload;
use super::place::{Kept, Place};
use super::{Check, MAX_INFO_BYTES, MAX_MOD_BYTES, Upstream, UpstreamError, Via, ZipDownload, retry};
use crate::byte_budget::ByteBudget;
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use stoa_gomod::ModuleVersion;

/// The files of one version, from one entry of the list. Used for one download, since it remembers the entry.
#[derive(Debug)]
pub struct VersionSource {
    upstream: Upstream,
    version: ModuleVersion,
    pin: Mutex<Pin>,
    /// The files from `direct`, which downloads all files at once.
    shared: SharedDownload,
    /// Bounds large go.mod files in memory.
    memory: Option<ByteBudget>,
}

#[derive(Debug, Default)]
struct Pin {
    /// The entry that answered last.
    entry: Option<usize>,
    /// The entry of the started zip, or of the next attempt. Requests for the other files run at the same
    /// time and may be answered later by another entry.
    zip: Option<usize>,
    /// The error of the previous attempt to download the zip.
    zip_failed: Option<UpstreamError>,
    /// The entry that has been asked for the zip a second time.
    retried: Option<usize>,
    switched: bool,
}

impl Pin {
    /// Returns the entry to ask first.
    fn first(&self) -> Option<usize> {
        self.zip.or(self.entry)
    }
}

impl VersionSource {
    pub(super) fn new(upstream: Upstream, version: ModuleVersion) -> Self {
        Self { upstream, version, pin: Mutex::default(), shared: SharedDownload::default(), memory: None }
    }

    /// Bounds large go.mod files in memory by a budget.
    pub(crate) fn within(self, memory: &ByteBudget) -> Self {
        Self { memory: Some(memory.clone()), ..self }
    }

    /// Downloads the info and checks that it names this version.
    pub async fn info(&self, via: &Via) -> Result<Bytes, UpstreamError> {
        let check = Check::Info(self.version.path(), self.version.version().as_str());
        self.body("info", MAX_INFO_BYTES, &check, via).await
    }

    /// Downloads the mod and checks that it has a module directive.
    pub async fn modfile(&self, via: &Via) -> Result<Bytes, UpstreamError> {
        self.body("mod", MAX_MOD_BYTES, &Check::Mod, via).await
    }

    /// Starts the download of the zip and checks its first bytes.
    pub async fn zip(&self, via: &Via) -> Result<ZipDownload, UpstreamError> {
        let before = self.pin().zip_failed.clone();
        let (entry, zip) =
            self.upstream.start_zip(self.first(), &self.path("zip"), via, &self.shared, before).await?;
        self.note(entry);
        self.pin().zip = Some(entry);
        Ok(zip)
    }

    /// Returns whether the same entry may be asked again for a failed zip. If so, waits for the pause
    /// before the next attempt. Each entry gets one such retry.
    pub async fn may_retry(&self, error: &UpstreamError) -> bool {
        let budget = self.upstream.inner.client.as_ref().map(Client::budget);
        let pause = budget.filter(|_| retry::is_retryable(error)).and_then(|mut budget| budget.pause(None));
        let Some(pause) = pause else { return false };
        let is_first = {
            let mut pin = self.pin();
            let asked = pin.zip;
            std::mem::replace(&mut pin.retried, asked) != asked
        };
        if is_first {
            tokio::time::sleep(pause).await;
        }
        is_first
    }

    /// Notes that the last download of the zip failed. Returns whether the list has a next entry to ask,
    /// which [`zip`](Self::zip) then uses.
    pub fn zip_failed(&self, error: &UpstreamError) -> bool {
        let mut pin = self.pin();
        let next = pin.zip.and_then(|entry| self.upstream.inner.next_after(entry, error));
        if next.is_some() {
            (pin.zip, pin.zip_failed) = (next, Some(error.clone()));
        }
        next.is_some()
    }

    /// Waits until version control is asked, which takes longer than anything else. The caller then
    /// releases what other downloads wait for.
    pub async fn at_direct(&self) {
        self.shared.started().await;
    }

    /// Returns whether version control has sent all files of the version already.
    pub fn has_all(&self) -> bool {
        self.shared.is_complete()
    }

    /// Returns whether the last answer came from version control.
    pub fn is_direct(&self) -> bool {
        let entry = self.pin().first().and_then(|entry| self.upstream.inner.places.get(entry));
        entry.is_some_and(Place::is_direct)
    }

    /// Returns whether the files came from more than one entry.
    pub fn switched(&self) -> bool {
        self.pin().switched
    }

    /// Returns the entry of the zip, or else the entry that answered last, without credentials. `None` if
    /// no entry has answered.
    pub fn origin(&self) -> Option<String> {
        let entry = self.pin().first()?;
        self.upstream.inner.places.get(entry).map(|place| place.shown())
    }

    async fn body(
        &self,
        extension: &str,
        limit: u64,
        check: &Check<'_>,
        via: &Via,
    ) -> Result<Bytes, UpstreamError> {
        let from = Kept { shared: Some(&self.shared), memory: self.memory.as_ref() };
        let (entry, body) =
            self.upstream.body(self.first(), &self.path(extension), limit, check, via, from).await?;
        self.note(entry);
        Ok(body)
    }

    fn path(&self, extension: &str) -> String {
        format!("{}/@v/{}.{extension}", self.version.path().escaped(), self.version.version().escaped())
    }

    fn first(&self) -> usize {
        self.pin().first().unwrap_or(0)
    }

    fn note(&self, entry: usize) {
        let mut pin = self.pin();
        pin.switched |= pin.entry.is_some_and(|before| before != entry);
        pin.entry = Some(entry);
    }

    fn pin(&self) -> MutexGuard<'_, Pin> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::UpstreamOptions;
    use super::*;

    #[test]
    fn the_entry_of_the_zip_is_asked_first() {
        let list = "http://a.example,http://b.example";
        let upstream = Upstream::new(list, UpstreamOptions::default()).unwrap();
        let source = upstream.version(&ModuleVersion::parse("example.com/m@v1.0.0").unwrap());
        source.note(1);
        source.pin().zip = Some(1);
        assert!(!source.switched());
        source.note(0);
        assert!(source.switched());
        assert_eq!((source.first(), source.origin().as_deref()), (1, Some("http://b.example/")));
    }

    #[test]
    fn a_failed_zip_is_requested_from_the_next_entry_after_a_bar() {
        let upstream =
            Upstream::new("http://a.example|http://b.example,direct", UpstreamOptions::default()).unwrap();
        let source = upstream.version(&ModuleVersion::parse("example.com/m@v1.0.0").unwrap());
        let error = UpstreamError::Transport { url: "http://a.example/".into(), reason: "reset".into() };
        assert!(!source.zip_failed(&error), "no zip has started");
        source.pin().zip = Some(0);
        assert!(source.zip_failed(&error));
        assert_eq!(source.first(), 1);
        assert!(!source.zip_failed(&error), "after a comma only absence counts");
        assert_eq!(source.first(), 1);
    }
}
