//! All layouts of the home, and the steps between them. Only the migrator links them.
//!
//! | layout | the tool NAME at VERSION | recognised by |
//! | --- | --- | --- |
//! | v0 | `tools/NAME-VERSION/bin/NAME` | at least one such file ([`v0`]) |
//! | v1 | `tools/NAME/VERSION/bin/NAME` | `layout.v1` |
//! | v2 | `toolchains/NAME/VERSION/bin/NAME`, and `settings` is called `settings.toml` | `layout.v2` |
//!
//! Every layout has a shim `bin/NAME`, a symlink to the newest version, which is derived from the rest ([`shims`]).
//!
//! A new layout costs a module `v3`, a module `v2_to_v3`, and a line in each list below. The existing modules are frozen: a
//! step must do tomorrow what it does today.

mod moving;
mod scan;
mod shims;
mod toolchain;
mod v0;
mod v0_to_v1;
mod v1;
mod v1_to_v2;
mod v2;

use stoa_layout::{LayoutId, Layouts};

use shims::Shims;

/// The layout of a new home.
pub(crate) const CURRENT: LayoutId = v2::ID;

/// Returns all layouts for the engine.
pub(crate) fn layouts() -> Layouts {
    let program = concat!("tool_home_migrate ", env!("CARGO_PKG_VERSION"));
    let mut layouts = Layouts::new(program, CURRENT, vec!["toolchains", "bin"]);
    layouts.detectors = vec![Box::new(v0::Detector)];
    layouts.unmarked = vec![Box::new(v2::MarkerLost)];
    layouts.steps = vec![Box::new(v0_to_v1::step()), Box::new(v1_to_v2::step())];
    layouts.artefacts = vec![
        Box::new(Shims { layout: v0::ID, toolchains: v0::toolchains, place: v0::place }),
        Box::new(Shims { layout: v1::ID, toolchains: v1::toolchains, place: v1::place }),
        Box::new(Shims { layout: v2::ID, toolchains: v2::toolchains, place: v2::place }),
    ];
    layouts
}
