//! The report of an import: the result of each version, the leftovers by reason, and the counts.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Exit, Leftover};

use super::Import;
use crate::command::error::CommandError;
use crate::command::event::VersionKeys;
use crate::command::report::{Reporter, Summary};
use crate::migrate::events::text;

/// The result for one version.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    /// The version was imported, with this number of bytes.
    Imported(u64),
    /// The store has the same version already.
    Skipped(u64),
    /// The store has a different version, which stays.
    Differs(&'a str),
    /// The version has a tombstone.
    Forbidden(&'a str),
    /// The version is corrupt.
    Broken(&'a str),
    /// The version cannot be written. Other versions may succeed.
    Failed(&'a str),
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Imported {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        bytes: u64,
    },
    Skipped {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        bytes: u64,
    },
    Differs {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        reason: &'a str,
    },
    Forbidden {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        reason: &'a str,
    },
    Broken {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        reason: &'a str,
    },
    Failed {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        reason: &'a str,
    },
    Leftover {
        path: String,
        bytes: u64,
        reason: &'a str,
    },
    Aside {
        path: String,
        bytes: u64,
        reason: &'a str,
    },
    Unreadable {
        path: String,
        bytes: u64,
        reason: &'a str,
    },
}

impl Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imported { version, .. } => write!(f, "imported {version}"),
            Self::Skipped { version, .. } => write!(f, "skipped {version}"),
            Self::Differs { version, reason } => write!(f, "differs {version}: {reason}"),
            Self::Forbidden { version, reason } => write!(f, "forbidden {version}: {reason}"),
            Self::Broken { version, reason } => write!(f, "corrupt {version}: {reason}"),
            Self::Failed { version, reason } => write!(f, "failed {version}: {reason}"),
            Self::Leftover { path, bytes, reason } => {
                write!(f, "leftover {path} ({}): {reason}", BinaryBytes(*bytes))
            }
            Self::Aside { path, bytes, reason } => {
                write!(f, "skipped {path} ({}): {reason}", BinaryBytes(*bytes))
            }
            Self::Unreadable { path, bytes, reason } => {
                write!(f, "unreadable {path} ({}): {reason}", BinaryBytes(*bytes))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    imported: AtomicU64,
    skipped: AtomicU64,
    differ: AtomicU64,
    forbidden: AtomicU64,
    broken: AtomicU64,
    failed: AtomicU64,
    unreadable: AtomicU64,
    leftovers: AtomicU64,
    aside: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn value(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// The report of one import.
pub(in crate::migrate) struct Report<'a> {
    reporter: &'a Reporter,
    counts: Counts,
    /// The leftovers by reason.
    reasons: Mutex<BTreeMap<String, u64>>,
}

impl<'a> Report<'a> {
    pub(in crate::migrate) fn new(reporter: &'a Reporter) -> Self {
        Self { reporter, counts: Counts::default(), reasons: Mutex::default() }
    }

    /// Reports the result for a version.
    pub(super) fn version(&self, version: &ModuleVersion, verdict: Verdict<'_>) {
        let counts = &self.counts;
        let version = VersionKeys::from(version);
        match verdict {
            Verdict::Imported(bytes) => {
                add(&counts.bytes, bytes);
                add(&counts.imported, 1);
                self.reporter.detail(&Event::Imported { version, bytes });
            }
            Verdict::Skipped(bytes) => {
                add(&counts.skipped, 1);
                self.reporter.detail(&Event::Skipped { version, bytes });
            }
            Verdict::Differs(reason) => {
                add(&counts.differ, 1);
                self.reporter.problem(&Event::Differs { version, reason });
            }
            Verdict::Forbidden(reason) => {
                add(&counts.forbidden, 1);
                self.reporter.problem(&Event::Forbidden { version, reason });
            }
            Verdict::Broken(reason) => {
                add(&counts.broken, 1);
                self.reporter.problem(&Event::Broken { version, reason });
            }
            Verdict::Failed(reason) => {
                add(&counts.failed, 1);
                self.reporter.problem(&Event::Failed { version, reason });
            }
        }
        let done = [
            &counts.imported,
            &counts.skipped,
            &counts.differ,
            &counts.forbidden,
            &counts.broken,
            &counts.failed,
        ];
        let done = done.into_iter().map(value).sum();
        self.reporter.progress().advance(done, value(&counts.bytes));
    }

    /// Reports a leftover of the source. People see each with `--verbose`, and otherwise the numbers by reason.
    pub(super) fn leftover(&self, leftover: &Leftover) {
        let Leftover { path, bytes, reason } = leftover;
        let (path, bytes) = (text(path), *bytes);
        if reason.starts_with("unreadable") {
            add(&self.counts.unreadable, 1);
            return self.reporter.problem(&Event::Unreadable { path, bytes, reason });
        }
        add(&self.counts.leftovers, 1);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        *reasons.entry(kind_of(reason).to_owned()).or_default() += 1;
        drop(reasons);
        self.reporter.detail(&Event::Leftover { path, bytes, reason });
    }

    /// Reports a version without a zip, which is normal in a module cache.
    pub(super) fn aside(&self, leftover: &Leftover) {
        add(&self.counts.aside, 1);
        if self.reporter.loudness().verbose {
            let Leftover { path, bytes, reason } = leftover;
            self.reporter.detail(&Event::Aside { path: text(path), bytes: *bytes, reason });
        }
    }

    /// Counts a version that is copied and not yet visible.
    pub(super) fn copied(&self) {
        add(&self.counts.waiting, 1);
    }

    /// Reports the result for a version that was counted as copied.
    pub(super) fn published(&self, version: &ModuleVersion, verdict: Verdict<'_>) {
        self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        self.version(version, verdict);
    }

    /// Returns the summary of an import that reached its end.
    pub(in crate::migrate) fn imported(&self, import: &Import<'_>) -> Imported {
        let counts = &self.counts;
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        Imported {
            store: text(import.root),
            source: text(import.source),
            imported: value(&counts.imported),
            skipped: value(&counts.skipped),
            differ: value(&counts.differ),
            forbidden: value(&counts.forbidden),
            broken: value(&counts.broken),
            failed: value(&counts.failed),
            unreadable: value(&counts.unreadable),
            leftovers: value(&counts.leftovers),
            without_zip: value(&counts.aside),
            bytes: value(&counts.bytes),
            dry_run: import.dry_run,
            reasons: reasons.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
        }
    }

    /// Returns the work done by an import that stopped early.
    pub(in crate::migrate) fn so_far(&self, import: &Import<'_>) -> String {
        let (source, root) = (import.source.display(), import.root.display());
        let imported = HumanCount(value(&self.counts.imported));
        let done = format!("imported {imported} versions from {source} into {root} before that");
        match value(&self.counts.waiting) {
            0 => done,
            waiting => format!("{done}, and discarded {} copies", HumanCount(waiting)),
        }
    }
}

/// Returns the kind of a leftover: the part of its reason before the details.
fn kind_of(reason: &str) -> &str {
    match reason.split_once(':') {
        Some((kind, _)) if !kind.contains(' ') => kind,
        _ if reason.starts_with("foreign") => "foreign",
        _ if reason == "symlink" => "symlink",
        _ => "other",
    }
}

/// The summary of an import.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(in crate::migrate) struct Imported {
    store: String,
    source: String,
    imported: u64,
    skipped: u64,
    differ: u64,
    forbidden: u64,
    broken: u64,
    failed: u64,
    unreadable: u64,
    leftovers: u64,
    without_zip: u64,
    bytes: u64,
    dry_run: bool,
    #[serde(skip)]
    reasons: Vec<(String, u64)>,
}

impl Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dry = if self.dry_run { " (dry run, nothing was written)" } else { "" };
        let done = if self.dry_run { "would import" } else { "imported" };
        let (versions, bytes) = (HumanCount(self.imported), BinaryBytes(self.bytes));
        write!(
            f,
            "from {} into {}{dry}: {done} {versions} versions, {bytes}; {} already in the store",
            self.source,
            self.store,
            HumanCount(self.skipped)
        )?;
        let rest = [
            (self.without_zip, "without a zip"),
            (self.differ, "differ"),
            (self.forbidden, "forbidden"),
            (self.broken, "corrupt"),
            (self.failed, "failed"),
            (self.unreadable, "unreadable"),
        ];
        for (count, word) in rest.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {} {word}", HumanCount(count))?;
        }
        if self.leftovers > 0 {
            let kinds: Vec<String> =
                self.reasons.iter().map(|(kind, count)| format!("{} {kind}", HumanCount(*count))).collect();
            write!(f, "\n{} leftovers not imported: {}", HumanCount(self.leftovers), kinds.join(", "))?;
        }
        Ok(())
    }
}

impl Summary for Imported {
    fn report(&self, reporter: &Reporter) {
        reporter.result(self);
        if self.leftovers > 0 && !reporter.loudness().verbose {
            reporter.remark("run with -v to list the leftovers");
        }
    }

    fn verdict(&self) -> Result<(), CommandError> {
        let (source, root) = (&self.source, &self.store);
        let mut wrong = Vec::new();
        if self.differ + self.broken > 0 {
            let count = HumanCount(self.differ + self.broken);
            wrong.push(format!(
                "{count} versions of {source} differ from those in {root} or are corrupt (listed above) and were not imported"
            ));
        }
        if self.failed > 0 {
            let count = HumanCount(self.failed);
            wrong.push(format!("{count} versions of {source} could not be written to {root} (listed above)"));
        }
        if !wrong.is_empty() {
            return Err(CommandError::new(Exit::FAILED, wrong.join("; ")));
        }
        if self.unreadable > 0 {
            let count = HumanCount(self.unreadable);
            let message =
                format!("cannot read {count} paths in {source} (listed above); they were not imported");
            return Err(CommandError::new(Exit::IO, message).help("fix the cause, then run again"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_summed_up_by_kind() {
        for (reason, kind) in [
            ("incomplete: no zip", "incomplete"),
            ("alias: main is not a canonical version", "alias"),
            ("foreign file", "foreign"),
            ("symlink", "symlink"),
            ("its info already exists at /s/x", "other"),
            ("its name has 300 bytes: too long", "other"),
        ] {
            assert_eq!(kind_of(reason), kind, "{reason}");
        }
    }
}
