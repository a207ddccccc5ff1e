//! What is told of modules that are carried into a store, or out of it: each version that is no matter of course,
//! what came of all, and how far it is.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use stoa_gomod::ModuleVersion;
use stoa_layout::Leftover;

use crate::command::progress::{Progress, Screen};
use crate::command::report::Format;
use crate::command::report::{Loudness, Telling};

/// What came of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate<'a> {
    /// It was carried over, so many bytes.
    Carried(u64),
    /// It was there already.
    Kept(u64),
    /// Another one was there already, and stands.
    Differs(&'a str),
    /// It was removed for good, and stays away.
    Forbidden(&'a str),
    /// It is not what it says.
    Broken(&'a str),
    /// It could not be written, which says nothing of the others.
    Failed(&'a str),
    /// It cannot be read, which says nothing of its content.
    Unreadable(&'a str),
}

/// How many versions came to what.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) carried: AtomicU64,
    pub(crate) kept: AtomicU64,
    pub(crate) differ: AtomicU64,
    pub(crate) forbidden: AtomicU64,
    pub(crate) broken: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) leftovers: AtomicU64,
    pub(crate) aside: AtomicU64,
    /// Of those that were carried.
    pub(crate) bytes: AtomicU64,
    /// Those that are copied, and not visible yet.
    waiting: AtomicU64,
}

/// Counts one more, and is the new number.
fn add(count: &AtomicU64, more: u64) -> u64 {
    count.fetch_add(more, Ordering::Relaxed) + more
}

/// What the words of a work are.
pub(crate) struct Words {
    /// What it is called.
    pub(crate) work: &'static str,
    /// What a version was that was carried, and one that was there.
    pub(crate) carried: &'static str,
    pub(crate) kept: &'static str,
}

/// Tells of one work.
pub(crate) struct Report {
    words: Words,
    format: Format,
    quiet: bool,
    verbose: bool,
    progress: Progress,
    pub(crate) sum: Sum,
}

impl Report {
    pub(crate) fn new(words: Words, telling: Telling, loudness: Loudness) -> Self {
        let (Telling { format, progress: when }, Loudness { quiet, verbose }) = (telling, loudness);
        let progress = Progress::new(Screen::default(), when, quiet || format == Format::Json);
        progress.begin(words.work, None);
        Self { words, format, quiet, verbose, progress, sum: Sum::default() }
    }

    /// Tells what came of a version.
    pub(crate) fn version(&self, version: &ModuleVersion, fate: Fate<'_>) {
        let (event, of, reason) = match fate {
            Fate::Carried(bytes) => {
                add(&self.sum.bytes, bytes);
                (self.words.carried, &self.sum.carried, Ok(bytes))
            }
            Fate::Kept(bytes) => (self.words.kept, &self.sum.kept, Ok(bytes)),
            Fate::Differs(reason) => ("differs", &self.sum.differ, Err(reason)),
            Fate::Forbidden(reason) => ("forbidden", &self.sum.forbidden, Err(reason)),
            Fate::Broken(reason) => ("broken", &self.sum.broken, Err(reason)),
            Fate::Failed(reason) => ("failed", &self.sum.failed, Err(reason)),
            Fate::Unreadable(reason) => ("unreadable", &self.sum.unreadable, Err(reason)),
        };
        add(of, 1);
        if self.format == Format::Json {
            let (module, number) = (version.path().as_str(), version.version().as_str());
            let mut value = json!({ "event": event, "module": module, "version": number });
            match reason {
                Ok(bytes) => value["bytes"] = bytes.into(),
                Err(reason) => value["reason"] = reason.into(),
            }
            self.line(&value);
        } else if let Err(reason) = reason {
            self.problem(format_args!("{event} {version}: {reason}"));
        } else if self.verbose {
            self.result(format_args!("{event} {version}"));
        }
        let done = self.sum.carried.load(Ordering::Relaxed) + self.sum.kept.load(Ordering::Relaxed);
        self.progress.advance(done, self.sum.bytes.load(Ordering::Relaxed));
    }

    /// Tells of something that is of no whole version.
    pub(crate) fn leftover(&self, leftover: &Leftover) {
        if leftover.reason.starts_with("unreadable") {
            add(&self.sum.unreadable, 1);
            return self.tell_leftover("unreadable", leftover);
        }
        add(&self.sum.leftovers, 1);
        self.tell_leftover("leftover", leftover);
    }

    /// Tells of something that is of no whole version, and belongs where it is.
    pub(crate) fn aside(&self, leftover: &Leftover) {
        add(&self.sum.aside, 1);
        if self.verbose {
            self.tell_leftover("aside", leftover);
        }
    }

    fn tell_leftover(&self, event: &str, leftover: &Leftover) {
        let Leftover { path, bytes, reason } = leftover;
        if self.format == Format::Json {
            let path = path.to_string_lossy();
            self.line(&json!({ "event": event, "path": path, "bytes": bytes, "reason": reason }));
        } else {
            self.result(format_args!("{event} {} ({}): {reason}", path.display(), BinaryBytes(*bytes)));
        }
    }

    /// Ends the work, and tells what came of all in one line. `more` goes into the JSON.
    pub(crate) fn done(&self, what: impl Display, more: Value) {
        self.progress.end();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Sum {
            carried, kept, differ, forbidden, broken, failed, unreadable, leftovers, aside, bytes, ..
        } = &self.sum;
        if self.format == Format::Json {
            let mut value = json!({
                "event": "done", self.words.carried: count(carried), self.words.kept: count(kept),
                "differ": count(differ), "broken": count(broken), "failed": count(failed),
                "unreadable": count(unreadable), "bytes": count(bytes),
            });
            if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
                value.extend(more);
            }
            return self.line(&value);
        }
        let mut parts = vec![
            format!("{} versions {}", HumanCount(count(carried)), self.words.carried),
            format!("{}", BinaryBytes(count(bytes))),
            format!("{} {}", HumanCount(count(kept)), self.words.kept),
        ];
        let rest = [
            (leftovers, "leftovers"),
            (aside, "without a zip"),
            (differ, "differ"),
            (forbidden, "forbidden"),
            (broken, "broken"),
            (failed, "failed"),
            (unreadable, "unreadable"),
        ];
        let rest = rest.into_iter().map(|(of, word)| (count(of), word)).filter(|(count, _)| *count > 0);
        parts.extend(rest.map(|(count, word)| format!("{} {word}", HumanCount(count))));
        self.result(format_args!("{what}: {}", parts.join(", ")));
    }

    /// Ends the work where it failed.
    pub(crate) fn end(&self) {
        self.progress.end();
    }

    /// How many versions are not as they should be.
    pub(crate) fn problems(&self) -> u64 {
        self.sum.differ.load(Ordering::Relaxed) + self.sum.broken.load(Ordering::Relaxed)
    }

    /// How many were carried.
    pub(crate) fn carried(&self) -> u64 {
        self.sum.carried.load(Ordering::Relaxed)
    }

    /// How many could not be written.
    pub(crate) fn failed(&self) -> u64 {
        self.sum.failed.load(Ordering::Relaxed)
    }

    /// Counts one that is copied, and not visible yet.
    pub(crate) fn waits(&self) {
        add(&self.sum.waiting, 1);
    }

    /// Tells what came of one that was counted as copied.
    pub(crate) fn waited(&self, version: &ModuleVersion, fate: Fate<'_>) {
        self.sum.waiting.fetch_sub(1, Ordering::Relaxed);
        self.version(version, fate);
    }

    /// How many are copied, and not visible yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.sum.waiting.load(Ordering::Relaxed)
    }

    /// How many could not be read.
    pub(crate) fn unreadable(&self) -> u64 {
        self.sum.unreadable.load(Ordering::Relaxed)
    }

    /// Writes a result, above the bar if there is one.
    fn result(&self, line: impl Display) {
        if !self.quiet {
            self.progress.screen().suspend(|| print(line));
        }
    }

    /// Writes what is told in any case.
    fn problem(&self, line: impl Display) {
        self.progress.screen().suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }

    fn line(&self, value: &Value) {
        print(value);
    }
}

/// A reader that went away must not stop the work half-way.
fn print(line: impl Display) {
    let line = format!("{line}\n");
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// How two folders lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// Both are the same.
    Same,
    /// The first lies in the second.
    Inside,
    /// The second lies in the first.
    Around,
}

/// Whether one of two folders lies in the other; they need not be there yet.
pub(crate) fn overlap(one: &Path, other: &Path) -> Option<Overlap> {
    let (one, other) = (real(one), real(other));
    if one == other {
        Some(Overlap::Same)
    } else if one.starts_with(&other) {
        Some(Overlap::Inside)
    } else {
        other.starts_with(&one).then_some(Overlap::Around)
    }
}

/// Is a path without symlinks, as far as it is there.
fn real(path: &Path) -> std::path::PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        if let Ok(real) = there.canonicalize() {
            return real.join(path.strip_prefix(there).unwrap_or(Path::new("")));
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
