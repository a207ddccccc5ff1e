//! The steps between the layouts of the store, and the detection of stores without a marker.
//!
//! Each step is frozen with its own picture of both layouts. A new layout adds a file and a line in [`steps`]; the list
//! only grows. Nothing here calls the live store, so a later change of the store cannot change an old step.
//!
//! | module | purpose |
//! | --- | --- |
//! | `v0_to_v1`, `tree_to_v1`, `v1_to_v2` | the steps |
//! | `v0`, `flat`, `v2` | the pictures: where files are, and how to find them |
//! | `flow` | how every step moves versions from one picture to another |
//! | `whole` | decides which versions are whole |
//! | `detect` | recognises layouts that have no marker |
//! | `unmarked` | recognises stores whose marker is lost |
//! | `obstacles`, `refuse`, `folders` | find what forbids a step |
//! | `listed` | keeps the first of many findings for a message |
//! | `removal` | removes emptied folders |
//! | `remains` | recognises the files that a downgrade keeps, and removes them |
//! | `bucket` | the steps between the layouts of a bucket |
//! | `inventory` | lists the content of a store: whole versions and leftovers |
//! | `source` | lists the content of GOPROXY trees and module caches, for imports |

mod bucket;
mod detect;
mod flat;
mod flow;
mod folders;
mod inventory;
mod listed;
mod obstacles;
mod picture;
mod refuse;
mod remains;
mod removal;
mod source;
mod tree_to_v1;
mod unmarked;
mod v0;
mod v0_to_v1;
mod v1_to_v2;
mod v2;
mod whole;

pub use bucket::bucket_layouts;

use stoa_layout::{Detect, Inventory, Source, Step, Unmarked};

/// Returns all steps, oldest first.
pub fn steps() -> Vec<Box<dyn Step>> {
    vec![Box::new(v0_to_v1::step()), Box::new(tree_to_v1::step()), Box::new(v1_to_v2::step())]
}

/// Returns the detectors of layouts without markers. The first that answers yes decides.
pub fn detectors() -> Vec<Box<dyn Detect>> {
    vec![Box::new(detect::IsV0), Box::new(detect::IsTree)]
}

/// Returns the layouts that are recognised without their marker.
pub fn unmarked() -> Vec<Box<dyn Unmarked>> {
    vec![Box::new(unmarked::UnmarkedV2)]
}

/// Returns the inventory of all layouts.
pub fn inventory() -> Box<dyn Inventory> {
    Box::new(inventory::AllLayouts)
}

/// Returns the folders of other programs that can be imported.
pub fn sources() -> Vec<Box<dyn Source>> {
    vec![Box::new(source::Trees)]
}
