//! Layout v3: layout v2 with a folder for each record and a folder `labels`. The code is that of the real programs; only
//! the values differ.

mod inventory;
mod records;
mod v2_to_v3;

use stoa_layout::{LayoutId, Layouts};

/// The current layout.
pub const LAYOUT: LayoutId = LayoutId::fixed("v3");

/// The folders of an empty store.
pub const FOLDERS: [&str; 7] = ["modules", "staging", "quarantine", "index", "cache", "records", "labels"];

/// Returns all layouts up to v3.
pub fn layouts() -> Layouts {
    let program = concat!("next-stoa-migrate ", env!("CARGO_PKG_VERSION"));
    let mut layouts = Layouts::new(program, LAYOUT, FOLDERS.to_vec());
    layouts.steps = stoa_migrations::steps();
    layouts.steps.push(Box::new(v2_to_v3::Step));
    layouts.detectors = stoa_migrations::detectors();
    layouts.inventory = Some(Box::new(inventory::UpToV3(stoa_migrations::inventory())));
    layouts.sources = stoa_migrations::sources();
    layouts
}
