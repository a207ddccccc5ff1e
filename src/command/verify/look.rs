//! The verification of the versions of a store, on all threads. `stoa verify` and `stoa-migrate --verify` share it.
//!
//! The store may be in use meanwhile. A version that cannot be read is reported and skipped. A failure to write ends the
//! work, and the next run continues there.

use std::fmt::{self, Display};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, Exit, parallel};
use stoa_store::{Store, StoreError, Verified, Which};

use crate::command::error::CommandError;
use crate::command::event::{CORRUPT, VersionResult};
use crate::command::named::{Named, versions_of};
use crate::command::report::Reporter;
use crate::lock::lock;

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
    /// Symlinks in the place of folders.
    pub(crate) symlinks: u64,
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
            Self { corrupt: 1.., .. } | Self { symlinks: 1.., unreadable: 0, .. } => Exit::FAILED,
            Self { unreadable: 1.., .. } => Exit::IO,
            _ => Exit::DONE,
        }
    }
}

/// A symlink in the place of a folder.
#[derive(Serialize)]
#[serde(tag = "event", rename = "symlink")]
struct SymlinkEvent {
    path: String,
}

impl Display for SymlinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "symlink {}: it is in the place of a folder, so nothing is written below it", self.path)
    }
}

/// A verification of a store.
pub(crate) struct Look<'a> {
    pub(crate) store: &'a Store,
    pub(crate) which: Which,
    pub(crate) threads: usize,
    pub(crate) cancel: &'a Cancel,
    pub(crate) reporter: &'a Reporter,
}

impl Look<'_> {
    /// Verifies the named versions, or all, and calls `absent` for names that are not there. Returns the findings up to
    /// the end, or up to the failure.
    pub(crate) fn run(
        &self,
        named: &[Named],
        mut absent: impl FnMut(&Named),
    ) -> (Findings, Result<(), CommandError>) {
        let findings = Mutex::new(Findings::default());
        let progress = self.reporter.progress();
        let work = |version: ModuleVersion| -> Result<(), CommandError> {
            self.cancel.check()?;
            Ok(self.version(&version, &findings)?)
        };
        let walk = |each: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>| -> Result<(), CommandError> {
            if named.is_empty() {
                let unreadable = |error: StoreError| {
                    lock(&findings).unreadable += 1;
                    log::error!(error:% = error; "cannot verify the versions below a folder");
                };
                let symlink = |path: &Path| {
                    lock(&findings).symlinks += 1;
                    self.reporter.problem(&SymlinkEvent { path: path.to_string_lossy().into_owned() });
                };
                self.store.each_folder_and_symlink(each, unreadable, symlink)?;
                return Ok(self.store.each_symlink_in_records(symlink)?);
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
        progress.begin("verify", None);
        let ended = if named.is_empty() && progress.is_bar() {
            // The count takes a fraction of the time: no zip is opened for it.
            std::thread::scope(|scope| {
                parallel::start(scope, || progress.count(|each| self.store.each_folder(each, |_| {})));
                let ended = parallel::each((self.threads, parallel::AHEAD), walk, &work);
                progress.end();
                ended
            })
        } else {
            parallel::each((self.threads, parallel::AHEAD), walk, &work)
        };
        progress.end();
        (*lock(&findings), ended)
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

    fn version(&self, version: &ModuleVersion, findings: &Mutex<Findings>) -> Result<(), StoreError> {
        let verified = self.store.verify(version, self.which)?;
        let mut all = lock(findings);
        let fault = match verified {
            Verified::Absent => return Ok(()),
            Verified::Sealed => {
                all.skipped += 1;
                None
            }
            Verified::Whole(bytes) => {
                all.verified += 1;
                all.bytes += bytes;
                None
            }
            Verified::Broken(reason) => {
                all.corrupt += 1;
                Some((CORRUPT, reason))
            }
            Verified::Leftover => {
                all.corrupt += 1;
                all.leftovers += 1;
                Some((CORRUPT, "it has no info file, so it is a leftover and stays in place".to_owned()))
            }
            Verified::Unreadable(error) => {
                all.unreadable += 1;
                Some(("unreadable", error.to_string()))
            }
        };
        self.reporter.progress().advance(all.versions(), all.bytes);
        drop(all);
        if let Some((event, reason)) = fault {
            let version = version.into();
            self.reporter.result(&VersionResult { event, version, bytes: None, reason: Some(&reason) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_version_decides_the_exit_code() {
        let exit = |corrupt, unreadable| Findings { corrupt, unreadable, ..Findings::default() }.exit();
        assert_eq!([exit(0, 0), exit(0, 1), exit(1, 1)], [Exit::DONE, Exit::IO, Exit::FAILED]);
    }
}
