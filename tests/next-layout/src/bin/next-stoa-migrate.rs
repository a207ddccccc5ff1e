//! `stoa-migrate` with one layout more.

use std::process::ExitCode;

fn main() -> ExitCode {
    stoa::migrate::main(&next_layout::layouts())
}
