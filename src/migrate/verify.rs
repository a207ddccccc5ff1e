//! `--verify`: looks at every version of a store that has come to the current layout.
//!
//! `structure` takes a few reads a version and changes nothing. `full` reads every zip whole, those that are
//! sealed too, and adds its seal, or puts it into quarantine: the store may be in use meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use stoa_gomod::ModuleVersion;
use stoa_layout::gate::{GateError, Mode};
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit, Gate, LayoutId, Migrator};
use stoa_store::{Store, StoreError};

use crate::parallel;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Verify {
    /// At the structure of each zip; changes nothing.
    Structure,
    /// At every byte; seals what is whole, and puts what is broken into quarantine.
    Full,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) versions: u64,
    pub(super) broken: u64,
}

/// The look did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl VerifyError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Gate(error) => error.exit(),
            Self::Store(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }
}

/// Looks at every version, and hands what is broken to `tell` with its fault.
pub(super) fn run(
    root: &Path,
    layout: &LayoutId,
    how: Verify,
    threads: usize,
    cancel: &Cancel,
    tell: &(dyn Fn(&ModuleVersion, &str) + Sync),
) -> Result<Verified, VerifyError> {
    let mode = if how == Verify::Full { Mode::ReadWrite } else { Mode::ReadOnly };
    let gate = Gate { root, current: layout, migrator: &Migrator::Forbidden { name: "stoa-migrate" } };
    let store = Store::open(gate.hold(gate.pass()?, mode)?, mode)?;
    let (versions, broken) = (AtomicU64::new(0), AtomicU64::new(0));
    let look = |version: ModuleVersion| -> Result<(), VerifyError> {
        cancel.check()?;
        if let Some(fault) = fault(&store, &version, how)? {
            broken.fetch_add(1, Ordering::Relaxed);
            tell(&version, &fault);
        }
        versions.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    parallel::each(threads, |each| Ok(store.each_version(each)?), &look)?;
    Ok(Verified { versions: versions.into_inner(), broken: broken.into_inner() })
}

fn fault(store: &Store, version: &ModuleVersion, how: Verify) -> Result<Option<String>, StoreError> {
    match how {
        Verify::Structure => store.find_structural_fault(version),
        Verify::Full => store.verify(version),
    }
}
