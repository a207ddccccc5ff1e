//! `stoa-migrate` with one more layout.

use std::process::ExitCode;

fn main() -> ExitCode {
    stoa::migrate::main(&next_layout::layouts())
}
