//! `--verify`: checks every version of a store at the current layout. The store may be in use meanwhile.

use std::path::Path;

use clap::ValueEnum;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, LayoutId, Migrator};
use stoa_store::Which;

use crate::command::context::open_store;
use crate::command::error::CommandError;
use crate::command::report::Reporter;
use crate::command::verify::look::{Findings, Look};
use crate::config::Settings;

/// The depth of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Verify {
    /// Check the structure of each zip; changes nothing
    Structure,
    /// Read every zip completely, and move corrupt versions to quarantine
    Full,
}

/// Checks every version, and reports corrupt and unreadable versions.
pub(super) fn run(
    root: &Path,
    settings: &Settings<'_>,
    layout: &LayoutId,
    verify: Verify,
    threads: usize,
    cancel: &Cancel,
    reporter: &Reporter,
) -> Result<Findings, CommandError> {
    let (mode, which) = match verify {
        Verify::Structure => (Mode::ReadOnly, Which::Structure),
        Verify::Full => (Mode::ReadWrite, Which::All),
    };
    let gate = Gate { root, current: layout, migrator: &Migrator::Forbidden { name: "stoa-migrate" } };
    let held = gate.hold(gate.pass()?, mode)?;
    let store = open_store(held, mode, settings, "stoa-migrate --verify")?;
    let store = store.metered(reporter.progress().meter());
    let (findings, ended) = Look { store: &store, which, threads, cancel, reporter }.run(&[], |_| {});
    ended.map(|()| findings)
}
