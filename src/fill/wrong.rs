//! Versions whose downloaded zip proved wrong. The next downloads of such a version are spaced, so that requests for it do
//! not download the zip each time. Meanwhile requests get the same error at once.
//!
//! Each list of upstreams has entries of its own, so that a wrong zip of a peer delays no download from the usual upstreams.
//! The list is in memory only. A publish clears the entry of a version, and so does a change of its record, for example
//! by `stoa remove --forget`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::Record;

use crate::unavailable::Unavailable;

/// Maximum number of versions in the list.
const MAX_VERSIONS: usize = 10_000;

/// The longest time without a download.
const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);

/// A version, and the tag of the list of upstreams that it comes from.
pub(super) type Origin = (ModuleVersion, Option<String>);

/// The versions whose zip proved wrong.
#[derive(Debug)]
pub(super) struct WrongZips {
    versions: Mutex<HashMap<Origin, Wrong>>,
    /// The time without a download after the first wrong zip of a version. Each further time is twice as long.
    first_pause: Duration,
}

#[derive(Debug)]
struct Wrong {
    error: Unavailable,
    /// The record of the version at that time.
    record: Option<Record>,
    pause: Duration,
    until: Instant,
}

impl WrongZips {
    pub(super) fn new(first_pause: Duration) -> Self {
        Self { versions: Mutex::default(), first_pause }
    }

    /// Returns the error of the last download if the next one may not start yet.
    pub(super) fn check(&self, origin: &Origin, record: Option<&Record>) -> Result<(), Unavailable> {
        self.check_at(origin, record, Instant::now())
    }

    /// Notes that the zip of a version proved wrong. Ignores errors that are not about the zip.
    pub(super) fn note(&self, origin: &Origin, error: &Unavailable, record: Option<Record>) {
        self.note_at(origin, error, record, Instant::now());
    }

    /// Forgets a version.
    pub(super) fn remove(&self, origin: &Origin) {
        self.lock().remove(origin);
    }

    fn check_at(&self, origin: &Origin, record: Option<&Record>, now: Instant) -> Result<(), Unavailable> {
        let mut versions = self.lock();
        let Some(wrong) = versions.get(origin) else { return Ok(()) };
        if facts(wrong.record.as_ref()) != facts(record) {
            versions.remove(origin);
            return Ok(());
        }
        let left = wrong.until.saturating_duration_since(now);
        if left.is_zero() { Ok(()) } else { Err(wrong.error.clone().repeated(left)) }
    }

    fn note_at(&self, origin: &Origin, error: &Unavailable, record: Option<Record>, now: Instant) {
        if !matches!(error, Unavailable::Differs(_) | Unavailable::Upstream(_)) {
            return;
        }
        let mut versions = self.lock();
        let before = versions.get(origin).map(|wrong| wrong.pause.saturating_mul(2));
        let pause = before.unwrap_or(self.first_pause).min(MAX_PAUSE);
        if versions.len() >= MAX_VERSIONS && before.is_none() {
            make_room(&mut versions, now);
        }
        let wrong = Wrong { error: error.clone(), record, pause, until: now + pause };
        versions.insert(origin.clone(), wrong);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Wrong>> {
        // No code that can panic runs under this lock.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the parts of a record that decide which zip is right.
fn facts(record: Option<&Record>) -> Option<(Option<&H1>, Option<&H1>, bool)> {
    record.map(|record| (record.h1.as_ref(), record.gomod_h1.as_ref(), record.tombstone.is_some()))
}

/// Removes the versions whose pause is over, or else the version whose pause ends first.
fn make_room(versions: &mut HashMap<Origin, Wrong>, now: Instant) {
    versions.retain(|_, wrong| wrong.until > now);
    if versions.len() >= MAX_VERSIONS {
        let first = versions.iter().min_by_key(|(_, wrong)| wrong.until).map(|(origin, _)| origin.clone());
        if let Some(first) = first {
            versions.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn version(number: usize) -> Origin {
        (ModuleVersion::parse(&format!("example.com/m@v1.{number}.0")).unwrap(), None)
    }

    fn wrong() -> Unavailable {
        Unavailable::Upstream("it is invalid".to_owned().into())
    }

    #[test]
    fn pauses_double_up_to_ten_minutes() {
        let zips = WrongZips::new(10 * SECOND);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            zips.note_at(&version(1), &wrong(), None, now);
            let error = zips.check_at(&version(1), None, now).unwrap_err();
            let pause = error.retry_after().unwrap();
            assert_eq!(error.to_string(), "it is invalid");
            assert!(zips.check_at(&version(1), None, now + pause - SECOND).is_err());
            now += pause;
            assert!(zips.check_at(&version(1), None, now).is_ok());
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert!(zips.check_at(&version(2), None, now).is_ok());
    }

    #[test]
    fn a_publish_and_a_change_of_the_record_clear_a_version() {
        let (zips, now) = (WrongZips::new(SECOND), Instant::now());
        zips.note_at(&version(1), &wrong(), None, now);
        zips.remove(&version(1));
        assert!(zips.check_at(&version(1), None, now).is_ok());
        let record = Record { h1: Some(stoa_gomod::h1::hash_mod(b"module m")), ..Record::default() };
        zips.note_at(&version(1), &wrong(), Some(record.clone()), now);
        assert!(zips.check_at(&version(1), Some(&record), now).is_err());
        assert!(zips.check_at(&version(1), None, now).is_ok());
        assert!(zips.check_at(&version(1), Some(&record), now).is_ok());
    }

    #[test]
    fn a_wrong_zip_of_one_list_delays_no_other_list() {
        let (zips, now) = (WrongZips::new(SECOND), Instant::now());
        let of_peer = (version(1).0, Some("peer".to_owned()));
        zips.note_at(&of_peer, &wrong(), None, now);
        assert!(zips.check_at(&version(1), None, now).is_ok());
        assert!(zips.check_at(&of_peer, None, now).is_err());
        zips.remove(&version(1));
        assert!(zips.check_at(&of_peer, None, now).is_err());
    }

    #[test]
    fn only_wrong_zips_are_noted() {
        let (zips, now) = (WrongZips::new(SECOND), Instant::now());
        zips.note_at(&version(1), &Unavailable::Stopping("m".to_owned()), None, now);
        let reason = "another hash".to_owned();
        zips.note_at(&version(1), &Unavailable::Unexpected { version: "m".to_owned(), reason }, None, now);
        assert!(zips.check_at(&version(1), None, now).is_ok());
    }

    #[test]
    fn the_number_of_versions_is_limited() {
        let (zips, now) = (WrongZips::new(SECOND), Instant::now());
        for number in 0..=MAX_VERSIONS {
            zips.note_at(&version(number), &wrong(), None, now + Duration::from_nanos(number as u64));
        }
        assert_eq!(zips.lock().len(), MAX_VERSIONS);
        assert!(zips.check_at(&version(0), None, now).is_ok());
        assert!(zips.check_at(&version(MAX_VERSIONS), None, now).is_err());
        zips.note_at(&version(MAX_VERSIONS + 1), &wrong(), None, now + 2 * SECOND);
        assert_eq!(zips.lock().len(), 1);
    }
}
