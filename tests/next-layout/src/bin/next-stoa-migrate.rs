//! `stoa-migrate` with one more layout.

use std::process::ExitCode;

fn main() -> ExitCode {
    stoa::migrate::main(&next_layout::layouts(), &stoa_migrations::bucket_layouts("next-stoa-migrate"))
}
