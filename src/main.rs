//! `stoa`: a Go module proxy whose store upgrades itself.

use std::process::ExitCode;

use stoa::cli;
use stoa::command::App;

fn main() -> ExitCode {
    cli::main(&App { layout: stoa_store::LAYOUT, folders: &stoa_store::FOLDERS })
}
