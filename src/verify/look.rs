//! The look at the versions of a store, on all threads: what `stoa verify` and `stoa-migrate --verify` share.
//!
//! The store may be in use meanwhile. What cannot be read is told and passed over; what cannot be written ends
//! the look, and it goes on from there when it is run again.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::gate::GateError;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit};
use stoa_store::{Store, StoreError, Verified, Which};

use crate::command::progress::Progress;
use crate::parallel;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// At the structure of each zip; changes nothing.
    Structure,
    /// At every byte; seals what is whole, and puts what is broken into quarantine.
    Whole(Which),
}

/// At what to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// All versions of a module.
    Module(ModulePath),
    /// One version.
    Version(ModuleVersion),
}

impl Named {
    /// Reads it as it is typed: `MODULE` or `MODULE@VERSION`.
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

/// What is wrong with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was read, and found broken.
    Broken,
    /// It cannot be read.
    Unreadable,
}

impl Fault {
    /// Is what it is called in lines and events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Read and found right.
    pub(crate) verified: u64,
    /// Sealed before, and not read.
    pub(crate) skipped: u64,
    pub(crate) broken: u64,
    /// Of those that are broken, without an info.
    pub(crate) leftovers: u64,
    pub(crate) unreadable: u64,
    /// Of the zips that were found right.
    pub(crate) bytes: u64,
}

impl Found {
    /// Is all that was looked at.
    pub(crate) fn versions(self) -> u64 {
        self.verified + self.skipped + self.broken + self.unreadable
    }

    /// Is the code that a program ends with after a look that came to its end.
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self { broken: 1.., .. } => Exit::FAILED,
            Self { unreadable: 1.., .. } => Exit::IO,
            _ => Exit::DONE,
        }
    }
}

/// The look did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl LookError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Gate(error) => error.exit(),
            Self::Store(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }
}

/// A look at a store.
pub(crate) struct Look<'a> {
    pub(crate) store: &'a Store,
    pub(crate) how: How,
    pub(crate) threads: usize,
    pub(crate) cancel: &'a Cancel,
    pub(crate) progress: &'a Progress,
    /// Is told of every fault, by any thread.
    pub(crate) tell: &'a (dyn Fn(&ModuleVersion, Fault, &str) + Sync),
}

/// Counts on all threads.
#[derive(Default)]
struct Counts {
    verified: AtomicU64,
    skipped: AtomicU64,
    broken: AtomicU64,
    leftovers: AtomicU64,
    unreadable: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn sum(&self) -> Found {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Found {
            verified: of(&self.verified),
            skipped: of(&self.skipped),
            broken: of(&self.broken),
            leftovers: of(&self.leftovers),
            unreadable: of(&self.unreadable),
            bytes: of(&self.bytes),
        }
    }
}

impl Look<'_> {
    /// Looks at what was named, or at everything, and hands what is not there to `absent`. Says what was found
    /// until the end, be it a bad one.
    pub(crate) fn run(
        &self,
        named: &[Named],
        mut absent: impl FnMut(&Named),
    ) -> (Found, Result<(), LookError>) {
        let counts = Counts::default();
        let work = |version: ModuleVersion| -> Result<(), LookError> {
            self.cancel.check()?;
            self.version(&version, &counts).map(drop)
        };
        let walk = |each: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>| -> Result<(), LookError> {
            if named.is_empty() {
                return Ok(self.store.each_folder(each, |error| {
                    counts.unreadable.fetch_add(1, Ordering::Relaxed);
                    log::error!("what lies below is not looked at: {error}");
                })?);
            }
            for one in named {
                match one {
                    Named::Version(version) => {
                        if matches!(self.store.verify(version, Which::Structure)?, Verified::Absent) {
                            absent(one);
                        } else if each(version.clone()).is_break() {
                            return Ok(());
                        }
                    }
                    Named::Module(module) => {
                        let Some(versions) = self.store.list(module)? else {
                            absent(one);
                            continue;
                        };
                        for version in versions.iter() {
                            let Ok(version) = ModuleVersion::new(module.clone(), version.clone()) else {
                                continue;
                            };
                            if each(version).is_break() {
                                return Ok(());
                            }
                        }
                    }
                }
            }
            Ok(())
        };
        self.progress.begin("verify", None);
        let ended = parallel::each(self.threads, walk, &work);
        self.progress.end();
        (counts.sum(), ended)
    }

    fn version(&self, version: &ModuleVersion, counts: &Counts) -> Result<(), LookError> {
        let count = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        match self.verified(version)? {
            Verified::Absent => return Ok(()),
            Verified::Sealed => count(&counts.skipped),
            Verified::Whole(bytes) => {
                counts.bytes.fetch_add(bytes, Ordering::Relaxed);
                count(&counts.verified);
            }
            Verified::Broken(reason) => {
                count(&counts.broken);
                (self.tell)(version, Fault::Broken, &reason);
            }
            Verified::Leftover => {
                count(&counts.broken);
                count(&counts.leftovers);
                let reason =
                    "it has no info, so it is a leftover: it stays where it is until it is fetched again";
                (self.tell)(version, Fault::Broken, reason);
            }
            Verified::Unreadable(error) => {
                count(&counts.unreadable);
                (self.tell)(version, Fault::Unreadable, &error.to_string());
            }
        }
        let sum = counts.sum();
        self.progress.advance(sum.versions(), sum.bytes);
        Ok(())
    }

    fn verified(&self, version: &ModuleVersion) -> Result<Verified, StoreError> {
        self.store.verify(
            version,
            match self.how {
                How::Whole(which) => which,
                How::Structure => Which::Structure,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_a_module_or_a_version() {
        assert!(matches!(Named::parse("example.com/m"), Ok(Named::Module(_))));
        assert!(matches!(Named::parse("example.com/m@v1.0.0"), Ok(Named::Version(_))));
        for bad in ["", "M", "example.com/m@", "example.com/m@latest", "/etc", "@v1.0.0"] {
            assert!(Named::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_broken_decides_the_code() {
        let exit = |broken, unreadable| Found { broken, unreadable, ..Found::default() }.exit();
        assert_eq!([exit(0, 0), exit(0, 1), exit(1, 1)], [Exit::DONE, Exit::IO, Exit::FAILED]);
    }
}
