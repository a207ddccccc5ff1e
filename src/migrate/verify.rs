//! `--verify`: looks at every version of a store that has come to the current layout.
//!
//! `structure` takes a few reads a version and changes nothing. `full` reads every zip whole, those that are
//! sealed too, and adds its seal, or puts it into quarantine: the store may be in use meanwhile.

use std::path::Path;

use clap::ValueEnum;
use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, LayoutId, Migrator};
use stoa_store::{Store, Which};

use crate::command::progress::Progress;
use crate::verify::look::{Fault, Found, How, Look, LookError};

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Verify {
    /// At the structure of each zip; changes nothing.
    Structure,
    /// At every byte; seals what is whole, and puts what is broken into quarantine.
    Full,
}

/// Looks at every version, and hands what is broken to `tell` with its fault.
pub(super) fn run(
    root: &Path,
    layout: &LayoutId,
    verify: Verify,
    threads: usize,
    cancel: &Cancel,
    progress: &Progress,
    tell: &(dyn Fn(&ModuleVersion, Fault, &str) + Sync),
) -> Result<Found, LookError> {
    let (mode, how) = match verify {
        Verify::Structure => (Mode::ReadOnly, How::Structure),
        Verify::Full => (Mode::ReadWrite, How::Whole(Which::All)),
    };
    let gate = Gate { root, current: layout, migrator: &Migrator::Forbidden { name: "stoa-migrate" } };
    let store = Store::open(gate.hold(gate.pass()?, mode)?, mode)?;
    let (sum, ended) = Look { store: &store, how, threads, cancel, progress, tell }.run(&[], |_| {});
    ended.map(|()| sum)
}
