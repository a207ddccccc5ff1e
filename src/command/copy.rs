//! The report of `stoa export` and `stoa-migrate import`: the result for each version, and the counts.

use std::fmt::{self, Display};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use serde_json::{Value, json};
use stoa_gomod::ModuleVersion;
use stoa_layout::Leftover;

use super::error::CommandError;
use super::event::VersionKeys;
use super::report::{Reporter, Summary};

/// The result for one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyResult<'a> {
    /// The version was copied, this many bytes.
    Copied(u64),
    /// An identical version was there already.
    Kept(u64),
    /// A version with other content was there already, and stays.
    Differs(&'a str),
    /// The version has a tombstone.
    Forbidden(&'a str),
    /// The version is corrupt.
    Corrupt(&'a str),
    /// The version could not be written. Others may be.
    Failed(&'a str),
    /// The version cannot be read. Others may be intact.
    Unreadable(&'a str),
}

/// The number of versions by result.
#[derive(Debug, Default)]
pub(crate) struct CopyCounts {
    pub(crate) copied: AtomicU64,
    pub(crate) kept: AtomicU64,
    pub(crate) differ: AtomicU64,
    pub(crate) forbidden: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) leftovers: AtomicU64,
    pub(crate) aside: AtomicU64,
    /// The bytes of the copied versions.
    pub(crate) bytes: AtomicU64,
    /// Versions that are copied and not visible yet.
    waiting: AtomicU64,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// The words for a copied version and for one that was there already, in lines and as the names of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    pub(crate) work: &'static str,
    pub(crate) copied: &'static str,
    pub(crate) kept: &'static str,
}

/// Counts and reports the results of one run.
pub(crate) struct CopyReport<'a> {
    words: Words,
    reporter: &'a Reporter,
    pub(crate) counts: CopyCounts,
}

#[derive(Serialize)]
struct VersionEvent<'a> {
    event: &'a str,
    #[serde(flatten)]
    version: VersionKeys<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Display for VersionEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.event, self.version)?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

#[derive(Serialize)]
struct LeftoverEvent<'a> {
    event: &'a str,
    path: String,
    bytes: u64,
    reason: &'a str,
}

impl Display for LeftoverEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}): {}", self.event, self.path, BinaryBytes(self.bytes), self.reason)
    }
}

impl<'a> CopyReport<'a> {
    pub(crate) fn new(words: Words, reporter: &'a Reporter) -> Self {
        reporter.progress().begin(words.work, None);
        Self { words, reporter, counts: CopyCounts::default() }
    }

    /// Reports the result for a version.
    pub(crate) fn version(&self, version: &ModuleVersion, result: CopyResult<'_>) {
        let counts = &self.counts;
        let (event, count, bytes, reason) = match result {
            CopyResult::Copied(bytes) => {
                add(&counts.bytes, bytes);
                (self.words.copied, &counts.copied, Some(bytes), None)
            }
            CopyResult::Kept(bytes) => (self.words.kept, &counts.kept, Some(bytes), None),
            CopyResult::Differs(reason) => ("differs", &counts.differ, None, Some(reason)),
            CopyResult::Forbidden(reason) => ("forbidden", &counts.forbidden, None, Some(reason)),
            CopyResult::Corrupt(reason) => ("broken", &counts.corrupt, None, Some(reason)),
            CopyResult::Failed(reason) => ("failed", &counts.failed, None, Some(reason)),
            CopyResult::Unreadable(reason) => ("unreadable", &counts.unreadable, None, Some(reason)),
        };
        add(count, 1);
        let event = VersionEvent { event, version: version.into(), bytes, reason };
        if reason.is_some() {
            self.reporter.problem(&event)
        } else {
            self.reporter.detail(&event)
        }
        let done = self.copied() + self.counts.kept.load(Ordering::Relaxed);
        self.reporter.progress().advance(done, self.counts.bytes.load(Ordering::Relaxed));
    }

    /// Reports a file or folder that belongs to no complete version.
    pub(crate) fn leftover(&self, leftover: &Leftover) {
        let (event, count) = match leftover.reason.starts_with("unreadable") {
            true => ("unreadable", &self.counts.unreadable),
            false => ("leftover", &self.counts.leftovers),
        };
        add(count, 1);
        self.reporter.result(&leftover_event(event, leftover));
    }

    /// Reports a file or folder that belongs to no complete version and is in its proper place.
    pub(crate) fn aside(&self, leftover: &Leftover) {
        add(&self.counts.aside, 1);
        if self.reporter.loudness().verbose {
            self.reporter.result(&leftover_event("aside", leftover));
        }
    }

    /// Returns the summary. `place` names both sides, and `more` goes into the JSON.
    pub(crate) fn done(&self, place: impl Display, more: Value) -> CopyDone {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let CopyCounts {
            copied,
            kept,
            differ,
            forbidden,
            corrupt,
            failed,
            unreadable,
            leftovers,
            aside,
            bytes,
            ..
        } = &self.counts;
        let mut json = json!({
            "event": "done", self.words.copied: count(copied), self.words.kept: count(kept),
            "differ": count(differ), "broken": count(corrupt), "failed": count(failed),
            "unreadable": count(unreadable), "bytes": count(bytes),
        });
        if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
            json.extend(more);
        }
        let mut parts = vec![
            format!("{} versions {}", HumanCount(count(copied)), self.words.copied),
            BinaryBytes(count(bytes)).to_string(),
            format!("{} {}", HumanCount(count(kept)), self.words.kept),
        ];
        let rest = [
            (leftovers, "leftovers"),
            (aside, "without a zip"),
            (differ, "differ"),
            (forbidden, "forbidden"),
            (corrupt, "corrupt"),
            (failed, "failed"),
            (unreadable, "unreadable"),
        ];
        let rest = rest.into_iter().map(|(of, word)| (count(of), word)).filter(|(count, _)| *count > 0);
        parts.extend(rest.map(|(count, word)| format!("{} {word}", HumanCount(count))));
        CopyDone { json, line: format!("{place}: {}", parts.join(", ")), problem: None }
    }

    /// Returns the number of versions that are corrupt or differ.
    pub(crate) fn problems(&self) -> u64 {
        self.counts.differ.load(Ordering::Relaxed) + self.counts.corrupt.load(Ordering::Relaxed)
    }

    pub(crate) fn copied(&self) -> u64 {
        self.counts.copied.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn unreadable(&self) -> u64 {
        self.counts.unreadable.load(Ordering::Relaxed)
    }

    /// Counts a version that is copied and not visible yet.
    pub(crate) fn waits(&self) {
        add(&self.counts.waiting, 1);
    }

    /// Reports the result for a version that was counted as copied.
    pub(crate) fn waited(&self, version: &ModuleVersion, result: CopyResult<'_>) {
        self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        self.version(version, result);
    }

    /// Returns the number of versions that are copied and not visible yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.counts.waiting.load(Ordering::Relaxed)
    }
}

fn leftover_event<'a>(event: &'a str, leftover: &'a Leftover) -> LeftoverEvent<'a> {
    let Leftover { path, bytes, reason } = leftover;
    LeftoverEvent { event, path: path.to_string_lossy().into_owned(), bytes: *bytes, reason }
}

/// The summary of a run.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct CopyDone {
    json: Value,
    #[serde(skip)]
    line: String,
    /// The error after a complete run that found something wrong.
    #[serde(skip)]
    pub(crate) problem: Option<CommandError>,
}

impl Display for CopyDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl Summary for CopyDone {
    fn verdict(&self) -> Result<(), CommandError> {
        self.problem.clone().map_or(Ok(()), Err)
    }
}

/// The relation of two folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    Same,
    /// The first is below the second.
    Inside,
    /// The second is below the first.
    Around,
}

/// Returns how two folders overlap, if they do. They need not exist yet.
pub(crate) fn overlap(first: &Path, second: &Path) -> Option<Overlap> {
    let (first, second) = (real(first), real(second));
    if first == second {
        Some(Overlap::Same)
    } else if first.starts_with(&second) {
        Some(Overlap::Inside)
    } else {
        second.starts_with(&first).then_some(Overlap::Around)
    }
}

/// Resolves the symlinks of a path, as far as the path exists.
fn real(path: &Path) -> std::path::PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in path.ancestors() {
        if let Ok(real) = existing.canonicalize() {
            return real.join(path.strip_prefix(existing).unwrap_or(Path::new("")));
        }
    }
    path
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn folders_overlap_where_they_really_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::os::unix::fs::symlink(dir.path(), at("link")).unwrap();
        assert_eq!(overlap(&at("a"), &at("link/a")), Some(Overlap::Same));
        assert_eq!(overlap(&at("link/a/b"), &at("a")), Some(Overlap::Inside));
        assert_eq!(overlap(&at("a"), &at("link/a/b/c")), Some(Overlap::Around));
        assert_eq!(overlap(&at("a"), &at("ab")), None);
    }
}
