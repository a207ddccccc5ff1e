//! `stoa` with one more layout.

use std::process::ExitCode;

use stoa::cli;
use stoa::command::App;

fn main() -> ExitCode {
    cli::main(&App { layout: next_layout::LAYOUT, folders: &next_layout::FOLDERS })
}
