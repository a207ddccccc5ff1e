//! The verification of the versions of a store, on all threads. `stoa verify` and `stoa-migrate --verify` share it.
//!
//! The store may be in use meanwhile. A version that cannot be read is reported and skipped. A failure to write ends the
//! work, and the next run continues there.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::{Cancel, Exit};
use stoa_store::{Store, StoreError, Verified, Which};

use crate::command::error::CommandError;
use crate::command::parallel;
use crate::command::progress::Progress;

/// A module or a version on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// All versions of a module.
    Module(ModulePath),
    /// A single version.
    Version(ModuleVersion),
}

impl Named {
    /// Parses `MODULE` or `MODULE@VERSION`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return ModuleVersion::parse(text).map(Self::Version).map_err(|error| error.to_string());
        }
        ModulePath::new(text).map(Self::Module).map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Module(module) => module.fmt(f),
            Self::Version(version) => version.fmt(f),
        }
    }
}

/// A fault of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The version was read and is corrupt.
    Corrupt,
    /// The version cannot be read.
    Unreadable,
}

impl Fault {
    /// Returns the name in lines and events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "broken",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The number of versions by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Read and intact.
    pub(crate) verified: u64,
    /// Sealed before, and not read.
    pub(crate) skipped: u64,
    pub(crate) corrupt: u64,
    /// Of the corrupt versions, those without an info file.
    pub(crate) leftovers: u64,
    pub(crate) unreadable: u64,
    /// The bytes of the intact zips.
    pub(crate) bytes: u64,
}

impl Findings {
    pub(crate) fn versions(self) -> u64 {
        self.verified + self.skipped + self.corrupt + self.unreadable
    }

    /// Returns the exit code after a complete verification.
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self { corrupt: 1.., .. } => Exit::FAILED,
            Self { unreadable: 1.., .. } => Exit::IO,
            _ => Exit::DONE,
        }
    }
}

/// A verification of a store.
pub(crate) struct Look<'a> {
    pub(crate) store: &'a Store,
    pub(crate) which: Which,
    pub(crate) threads: usize,
    pub(crate) cancel: &'a Cancel,
    pub(crate) progress: &'a Progress,
    /// Called for every fault, by any thread.
    pub(crate) tell: &'a (dyn Fn(&ModuleVersion, Fault, &str) + Sync),
}

/// Counts on all threads.
#[derive(Default)]
struct Counts {
    verified: AtomicU64,
    skipped: AtomicU64,
    corrupt: AtomicU64,
    leftovers: AtomicU64,
    unreadable: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn findings(&self) -> Findings {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Findings {
            verified: of(&self.verified),
            skipped: of(&self.skipped),
            corrupt: of(&self.corrupt),
            leftovers: of(&self.leftovers),
            unreadable: of(&self.unreadable),
            bytes: of(&self.bytes),
        }
    }
}

impl Look<'_> {
    /// Verifies the named versions, or all, and calls `absent` for names that are not there. Returns the findings up to
    /// the end, or up to the failure.
    pub(crate) fn run(
        &self,
        named: &[Named],
        mut absent: impl FnMut(&Named),
    ) -> (Findings, Result<(), CommandError>) {
        let counts = Counts::default();
        let work = |version: ModuleVersion| -> Result<(), CommandError> {
            self.cancel.check()?;
            Ok(self.version(&version, &counts)?)
        };
        let walk = |each: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>| -> Result<(), CommandError> {
            if named.is_empty() {
                return Ok(self.store.each_folder(each, |error| {
                    counts.unreadable.fetch_add(1, Ordering::Relaxed);
                    log::error!(error:% = error; "cannot verify the versions below a folder");
                })?);
            }
            for name in named {
                let versions = self.versions(name)?;
                if versions.is_empty() {
                    absent(name);
                }
                if versions.into_iter().any(|version| each(version).is_break()) {
                    return Ok(());
                }
            }
            Ok(())
        };
        self.progress.begin("verify", None);
        let ended = if named.is_empty() && self.progress.is_bar() {
            // The count takes a fraction of the time: no zip is opened for it.
            std::thread::scope(|scope| {
                scope.spawn(|| self.progress.count(|each| self.store.each_folder(each, |_| {})));
                let ended = parallel::each(self.threads, walk, &work);
                self.progress.end();
                ended
            })
        } else {
            parallel::each(self.threads, walk, &work)
        };
        self.progress.end();
        (counts.findings(), ended)
    }

    /// Returns the versions that a name stands for, as far as they are in the store.
    fn versions(&self, named: &Named) -> Result<Vec<ModuleVersion>, StoreError> {
        match named {
            Named::Version(version) => {
                let absent = matches!(self.store.verify(version, Which::Structure)?, Verified::Absent);
                Ok(if absent { Vec::new() } else { vec![version.clone()] })
            }
            Named::Module(module) => versions_of(self.store, module),
        }
    }

    fn version(&self, version: &ModuleVersion, counts: &Counts) -> Result<(), StoreError> {
        let count = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        match self.store.verify(version, self.which)? {
            Verified::Absent => return Ok(()),
            Verified::Sealed => count(&counts.skipped),
            Verified::Whole(bytes) => {
                counts.bytes.fetch_add(bytes, Ordering::Relaxed);
                count(&counts.verified);
            }
            Verified::Broken(reason) => {
                count(&counts.corrupt);
                (self.tell)(version, Fault::Corrupt, &reason);
            }
            Verified::Leftover => {
                count(&counts.corrupt);
                count(&counts.leftovers);
                let reason = "it has no info file, so it is a leftover and stays in place";
                (self.tell)(version, Fault::Corrupt, reason);
            }
            Verified::Unreadable(error) => {
                count(&counts.unreadable);
                (self.tell)(version, Fault::Unreadable, &error.to_string());
            }
        }
        let findings = counts.findings();
        self.progress.advance(findings.versions(), findings.bytes);
        Ok(())
    }
}

/// Returns the versions of a module in the store.
pub(crate) fn versions_of(store: &Store, module: &ModulePath) -> Result<Vec<ModuleVersion>, StoreError> {
    Ok(pairs(module, store.list(module)?.as_deref().unwrap_or_default()))
}

/// Joins a module with each of its versions.
pub(crate) fn pairs(module: &ModulePath, versions: &[stoa_gomod::Version]) -> Vec<ModuleVersion> {
    let pair = |version: &stoa_gomod::Version| ModuleVersion::new(module.clone(), version.clone()).ok();
    versions.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_module_or_a_version() {
        assert!(matches!(Named::parse("example.com/m"), Ok(Named::Module(_))));
        assert!(matches!(Named::parse("example.com/m@v1.0.0"), Ok(Named::Version(_))));
        for bad in ["", "M", "example.com/m@", "example.com/m@latest", "/etc", "@v1.0.0"] {
            assert!(Named::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_corrupt_version_decides_the_exit_code() {
        let exit = |corrupt, unreadable| Findings { corrupt, unreadable, ..Findings::default() }.exit();
        assert_eq!([exit(0, 0), exit(0, 1), exit(1, 1)], [Exit::DONE, Exit::IO, Exit::FAILED]);
    }
}
