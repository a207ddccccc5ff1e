//! `stoa` with one more layout.

use std::process::ExitCode;

use stoa::command::{self, App};

fn main() -> ExitCode {
    command::main(&App {
        layout: next_layout::LAYOUT,
        folders: &next_layout::FOLDERS,
        migrator: stoa::migrate::command_line,
    })
}
