//! `stoa-migrate`: brings a store to another layout. The one program that knows the old ones.

use std::process::ExitCode;

use stoa_layout::Layouts;

fn main() -> ExitCode {
    let program = concat!("stoa-migrate ", env!("CARGO_PKG_VERSION"));
    let mut layouts = Layouts::new(program, stoa_store::LAYOUT, stoa_store::FOLDERS.to_vec());
    layouts.steps = stoa_migrations::steps();
    layouts.detectors = stoa_migrations::detectors();
    layouts.unmarked = stoa_migrations::unmarked();
    layouts.artefacts = vec![Box::new(stoa_store::IndexArtefact)];
    layouts.inventory = Some(stoa_migrations::inventory());
    layouts.sources = stoa_migrations::sources();
    stoa::migrate::main(&layouts, &stoa_migrations::bucket_layouts(program))
}
