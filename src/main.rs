//! `stoa`: a Go module proxy whose store upgrades itself.

use std::process::ExitCode;

use stoa::command::{self, App};

fn main() -> ExitCode {
    command::main(&App {
        layout: stoa_store::LAYOUT,
        folders: &stoa_store::FOLDERS,
        migrator: stoa::migrate::command_line,
    })
}
