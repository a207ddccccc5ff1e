//! The files of one version, from one upstream.
//!
//! Two upstreams may have different files for one version, and a mixture would be neither. So the entry
//! that has the first file is asked for the other files, too. Only if a file is missing there (or, before a
//! `|`, fails) does the walk continue with the next entry, as in the go command: a module cache that is
//! served as a tree of files often has an info and a mod without a zip. If the files came from several entries, [`switched`](VersionSource::switched)
//! returns true, and the first files should be downloaded again.
//!
//! A download of a zip may also fail after it started. The caller reports that with
//! [`zip_failed`](VersionSource::zip_failed) and calls [`zip`](VersionSource::zip) again. A proxy is asked for the rest
//! of its zip, as long as the attempts bring some of it. Before a `|` the walk continues with the next entry.

use super::beginning::Beginning;
use super::direct::SharedDownload;
use super::download::ByteStream;
use super::limit::Turn;
use super::place::Kept;
use super::{Check, MAX_INFO_BYTES, MAX_MOD_BYTES, Upstream, UpstreamError, Via, ZipDownload, retry};
use crate::byte_budget::ByteBudget;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stoa_gomod::ModuleVersion;

/// Maximum number of attempts to download a zip.
const MAX_ATTEMPTS: u32 = 64;

/// The number of bytes that an attempt must bring to be repeated after a timeout.
const MIN_BYTES_BEFORE_STALL: u64 = 64 * 1024;

/// The files of one version, from one entry of the list. Used for one download, since it remembers the entry.
#[derive(Debug)]
pub struct VersionSource {
    upstream: Upstream,
    version: ModuleVersion,
    pin: Mutex<Pin>,
    /// The files from `direct`, which downloads all files at once.
    shared: SharedDownload,
    /// The turns of the requests to each entry that limits requests.
    turns: Vec<Turn>,
    /// Bounds large go.mod files in memory.
    memory: Option<ByteBudget>,
    /// The files, if they come from a place that is no upstream.
    given: Option<GivenFiles>,
}

/// Starts to read a zip from a place that is no upstream. An error is the reason.
pub struct OpenZip(pub BoxFuture<'static, Result<ByteStream, String>>);

impl std::fmt::Debug for OpenZip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenZip")
    }
}

/// The files of a version from a place that is no upstream, and that has all of them.
#[derive(Debug)]
pub struct GivenFiles {
    /// The name of the place, for messages and the log.
    pub origin: String,
    /// The info.
    pub info: Bytes,
    /// The go.mod.
    pub modfile: Bytes,
    /// The size of the zip in bytes.
    pub size: u64,
    /// Starts to read the zip. It is read once.
    pub zip: Mutex<Option<OpenZip>>,
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
    /// The part of the zip that the previous attempts brought.
    beginning: Option<Beginning>,
    attempts: Attempts,
    switched: bool,
}

/// The attempts to download a zip.
#[derive(Debug, Default)]
struct Attempts {
    count: u32,
    /// The number of bytes that all of them brought together.
    reached: u64,
}

impl Attempts {
    /// Counts a failed attempt. Returns whether it brought enough new bytes and a further attempt is allowed.
    fn may_repeat(&mut self, reached: u64, error: &UpstreamError) -> bool {
        let enough = match error {
            // The connection stalled after it made progress. A transfer that is always slow is not repeated.
            UpstreamError::Timeout { .. } => MIN_BYTES_BEFORE_STALL,
            _ if retry::is_retryable(error) => 1,
            _ => u64::MAX,
        };
        self.count += 1;
        let new = reached.saturating_sub(self.reached);
        self.reached = self.reached.max(reached);
        new >= enough && self.count < MAX_ATTEMPTS
    }
}

impl Pin {
    /// Returns the entry to ask first.
    fn first(&self) -> Option<usize> {
        self.zip.or(self.entry)
    }
}

impl VersionSource {
    pub(super) fn new(upstream: Upstream, version: ModuleVersion) -> Self {
        let turns = upstream.inner.places.iter().map(|_| Turn::default()).collect();
        let (pin, shared) = (Mutex::default(), SharedDownload::default());
        Self { upstream, version, pin, shared, turns, memory: None, given: None }
    }

    /// Takes all files from another place, and asks no upstream.
    pub(crate) fn with_files(self, given: GivenFiles) -> Self {
        Self { given: Some(given), ..self }
    }

    /// Bounds large go.mod files in memory by a budget.
    pub(crate) fn within(self, memory: &ByteBudget) -> Self {
        Self { memory: Some(memory.clone()), ..self }
    }

    /// Downloads the info and checks that it names this version.
    pub async fn info(&self, via: &Via) -> Result<Bytes, UpstreamError> {
        if let Some(given) = &self.given {
            return Ok(given.info.clone());
        }
        let check = Check::Info(self.version.path(), self.version.version().as_str());
        self.body("info", MAX_INFO_BYTES, &check, via).await
    }

    /// Downloads the mod and checks that it has a module directive.
    pub async fn modfile(&self, via: &Via) -> Result<Bytes, UpstreamError> {
        if let Some(given) = &self.given {
            return Ok(given.modfile.clone());
        }
        self.body("mod", MAX_MOD_BYTES, &Check::Mod, via).await
    }

    /// Starts the download of the zip and checks its first bytes. After a failed attempt, the download may start
    /// behind the part that is known.
    pub async fn zip(&self, via: &Via) -> Result<ZipDownload, UpstreamError> {
        if let Some(given) = &self.given {
            let open = given.zip.lock().unwrap_or_else(PoisonError::into_inner).take();
            let failed = |reason| UpstreamError::Transport { url: given.origin.clone(), reason };
            let open = open.ok_or_else(|| failed("it was read already".to_owned()))?;
            let stream = open.0.await.map_err(failed)?;
            return ZipDownload::of_stream(given.origin.clone(), stream, given.size).await;
        }
        let (before, beginning) = {
            let pin = self.pin();
            (pin.zip_failed.clone(), pin.beginning.clone())
        };
        let path = self.path("zip");
        let kept = Kept { memory: None, ..self.kept() };
        let started =
            self.upstream.start_zip(self.first(), &path, via, kept, before, beginning.as_ref()).await;
        let (entry, zip) = started?;
        self.note(entry);
        self.pin().zip = Some(entry);
        Ok(zip)
    }

    /// Notes that a download of the zip failed when the caller had `size` bytes of the zip. Returns whether
    /// [`zip`](Self::zip) may be called again, which asks the same entry or the next one. Waits for the pause before
    /// that.
    pub async fn zip_failed(&self, error: &UpstreamError, failed: &ZipDownload, size: u64) -> bool {
        let pause = {
            let mut pin = self.pin();
            let Some(entry) = pin.zip else { return false };
            let may_repeat = pin.attempts.may_repeat(size, error);
            let next = self.upstream.inner.next_after(entry, error);
            // A stalled connection has taken its time. Another upstream is more likely to be faster.
            let may_repeat = may_repeat && (next.is_none() || !error.is_timeout());
            let pause = if may_repeat { self.pause_before_retry(entry) } else { None };
            let Some(chosen) = pause.map(|_| entry).or(next) else { return false };
            pin.zip = Some(chosen);
            pin.zip_failed = Some(error.clone());
            pin.beginning = Some(failed.beginning(entry, size));
            pause
        };
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        true
    }

    /// Returns the pause before an entry is asked again for a failed zip. `None` if the entry is not a proxy.
    fn pause_before_retry(&self, entry: usize) -> Option<Duration> {
        self.upstream.inner.places.get(entry)?.budget()?.pause(None)
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
        entry.is_some_and(|place| place.is_direct())
    }

    /// Returns whether the files came from more than one entry.
    pub fn switched(&self) -> bool {
        self.pin().switched
    }

    /// Returns the entry of the zip, or else the entry that answered last, without credentials. `None` if
    /// no entry has answered.
    pub fn origin(&self) -> Option<String> {
        if let Some(given) = &self.given {
            return Some(given.origin.clone());
        }
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
        let path = self.path(extension);
        let (entry, body) = self.upstream.body(self.first(), &path, limit, check, via, self.kept()).await?;
        self.note(entry);
        Ok(body)
    }

    fn kept(&self) -> Kept<'_> {
        Kept { shared: Some(&self.shared), memory: self.memory.as_ref(), turns: &self.turns }
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
    use super::super::download::Download;
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

    #[tokio::test]
    async fn a_failed_zip_is_requested_from_the_next_entry_after_a_bar() {
        let upstream =
            Upstream::new("http://a.example|http://b.example,direct", UpstreamOptions::default()).unwrap();
        let source = upstream.version(&ModuleVersion::parse("example.com/m@v1.0.0").unwrap());
        let error = UpstreamError::BadAnswer { url: "http://a.example/".into(), reason: "too long".into() };
        let failed =
            ZipDownload::start(Download::whole("a".into(), Bytes::from_static(b"PK"), 10)).await.unwrap();
        assert!(!source.zip_failed(&error, &failed, 2).await, "no zip has started");
        source.pin().zip = Some(0);
        assert!(source.zip_failed(&error, &failed, 2).await);
        assert_eq!(source.first(), 1);
        assert!(!source.zip_failed(&error, &failed, 2).await, "after a comma only absence counts");
        assert_eq!(source.first(), 1);
    }

    #[test]
    fn attempts_that_bring_bytes_may_be_repeated_up_to_a_limit() {
        let broken = UpstreamError::Transport { url: "http://a.example/".into(), reason: "reset".into() };
        let stalled = UpstreamError::Timeout { url: "http://a.example/".into(), reason: "no byte".into() };
        let mut attempts = Attempts::default();
        assert!(!attempts.may_repeat(0, &broken));
        assert!(attempts.may_repeat(5, &broken));
        assert!(!attempts.may_repeat(5, &broken) && !attempts.may_repeat(4, &broken));
        assert!(!attempts.may_repeat(MIN_BYTES_BEFORE_STALL, &stalled));
        assert!(attempts.may_repeat(2 * MIN_BYTES_BEFORE_STALL, &stalled));
        let many = (1..1000).map(|more| 2 * MIN_BYTES_BEFORE_STALL + more);
        let repeated = many.take_while(|reached| attempts.may_repeat(*reached, &broken)).count();
        assert_eq!(repeated, MAX_ATTEMPTS as usize - 7);
    }
}
