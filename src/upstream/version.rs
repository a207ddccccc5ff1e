//! The files of one version, from one upstream.
//!
//! Two upstreams may have different bytes under one name, and a version made of both would be neither. So the
//! entry of the list that gives the first file is asked for the others too. Only if it does not have one of
//! them (or, behind a `|`, fails) does the walk go on from there, as the go command's would: a module cache
//! that is served as a tree of files often has an info and a mod without the zip. A zip may fail long after
//! it was begun: who reads it tells so with [`zip_failed`](VersionSource::zip_failed), and behind a `|` the walk goes
//! on then, too. If the files came from more than one entry, [`switched`](VersionSource::switched) tells, and what
//! was got before ought to be got again.

use super::client::Client;
use super::direct::Keep;
use super::{Check, MAX_INFO_BYTES, MAX_MOD_BYTES, Upstream, UpstreamError, Via, ZipDownload, retry};
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use stoa_gomod::ModuleVersion;

/// The files of one version, from one entry of the list. For one fill: it remembers who answered.
#[derive(Debug)]
pub struct VersionSource {
    upstream: Upstream,
    version: ModuleVersion,
    pin: Mutex<Pin>,
    /// What `direct` got: all files of the version at once.
    keep: Keep,
}

#[derive(Debug, Default)]
struct Pin {
    /// The entry that answered last.
    entry: Option<usize>,
    /// The entry that has begun the zip, or is to begin the next one. The others are asked for at the same time, and
    /// may be answered later.
    zip: Option<usize>,
    /// Why the zip that was begun before failed.
    zip_failed: Option<UpstreamError>,
    /// The entry that is asked for the zip a second time.
    asked_again: Option<usize>,
    switched: bool,
}

impl Pin {
    /// Is the entry to be asked first.
    fn first(&self) -> Option<usize> {
        self.zip.or(self.entry)
    }
}

impl VersionSource {
    pub(super) fn new(upstream: Upstream, version: ModuleVersion) -> Self {
        Self { upstream, version, pin: Mutex::default(), keep: Keep::default() }
    }

    /// Fetches the info, which names this version.
    pub async fn info(&self, via: &Via) -> Result<Bytes, UpstreamError> {
        let check = Check::Info(self.version.path(), self.version.version().as_str());
        self.body("info", MAX_INFO_BYTES, &check, via).await
    }

    /// Fetches the mod, which has a module directive.
    pub async fn modfile(&self, via: &Via) -> Result<Bytes, UpstreamError> {
        self.body("mod", MAX_MOD_BYTES, &Check::Mod, via).await
    }

    /// Begins to fetch the zip, which begins like one.
    pub async fn zip(&self, via: &Via) -> Result<ZipDownload, UpstreamError> {
        let before = self.pin().zip_failed.clone();
        let (entry, zip) =
            self.upstream.begin_zip(self.first(), &self.path("zip"), via, &self.keep, before).await?;
        self.note(entry);
        self.pin().zip = Some(entry);
        Ok(zip)
    }

    /// Says whether the zip that failed may come whole from the same entry, and waits until that may be asked again.
    pub async fn may_ask_again(&self, error: &UpstreamError) -> bool {
        let budget = self.upstream.inner.client.as_ref().map(Client::budget);
        let pause = budget.filter(|_| retry::may_come_whole(error)).and_then(|mut budget| budget.pause(None));
        let Some(pause) = pause else { return false };
        let is_first = {
            let mut pin = self.pin();
            let asked = pin.zip;
            std::mem::replace(&mut pin.asked_again, asked) != asked
        };
        if is_first {
            tokio::time::sleep(pause).await;
        }
        is_first
    }

    /// Notes that the zip that was begun last failed on its way, and says whether the list has an entry that may be
    /// asked for it now. That is the one which [`zip`](Self::zip) asks then.
    pub fn zip_failed(&self, error: &UpstreamError) -> bool {
        let mut pin = self.pin();
        let next = pin.zip.and_then(|entry| self.upstream.inner.next_after(entry, error));
        if next.is_some() {
            (pin.zip, pin.zip_failed) = (next, Some(error.clone()));
        }
        next.is_some()
    }

    /// Waits until version control is asked, which may take as long as nothing else does. Who asks holds nothing then
    /// that others wait for.
    pub async fn at_direct(&self) {
        self.keep.asked().await;
    }

    /// Says whether the files that were got came from more than one entry.
    pub fn switched(&self) -> bool {
        self.pin().switched
    }

    /// Returns the entry that the zip comes from, else the one that answered last, fit to be shown; `None` if none
    /// did.
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
        let (entry, body) =
            self.upstream.body(self.first(), &self.path(extension), limit, check, via, &self.keep).await?;
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
    fn who_has_the_zip_is_asked_again_whoever_answers_last() {
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
    fn a_zip_that_failed_is_asked_for_elsewhere_behind_a_bar() {
        let upstream =
            Upstream::new("http://a.example|http://b.example,direct", UpstreamOptions::default()).unwrap();
        let source = upstream.version(&ModuleVersion::parse("example.com/m@v1.0.0").unwrap());
        let error = UpstreamError::Transport { url: "http://a.example/".into(), reason: "reset".into() };
        assert!(!source.zip_failed(&error), "none was begun");
        source.pin().zip = Some(0);
        assert!(source.zip_failed(&error));
        assert_eq!(source.first(), 1);
        assert!(!source.zip_failed(&error), "behind a comma only absence counts");
        assert_eq!(source.first(), 1);
    }
}
