//! The steps between the layouts of the store, each frozen with its own picture of before and after, and how
//! stores from before there were markers are known.
//!
//! A new layout costs one file and one line in [`steps`]. The list only grows, and nothing in here calls the
//! live store, so that a later change of it cannot change what an old step does.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `v0_to_v1`, `tree_to_v1`, `v1_to_v2` | the steps |
//! | `v0`, `flat`, `v2` | the pictures: where files lie, and how to find what is there |
//! | `flow` | how every step moves versions from one picture to another |
//! | `whole` | which versions are whole |
//! | `detect` | knowing stores without a marker |
//! | `refuse` | what forbids to begin |
//! | `inventory` | what lies in a store: what is whole, and what is a leftover |
//! | `source` | trees of others and the go command's own cache, to import from |

mod detect;
mod flat;
mod flow;
mod inventory;
mod picture;
mod refuse;
mod source;
mod tree_to_v1;
mod unmarked;
mod v0;
mod v0_to_v1;
mod v1_to_v2;
mod v2;
mod whole;

use stoa_layout::{Detect, Inventory, Source, Step, Unmarked};

/// All steps, oldest first.
pub fn steps() -> Vec<Box<dyn Step>> {
    vec![Box::new(v0_to_v1::step()), Box::new(tree_to_v1::step()), Box::new(v1_to_v2::step())]
}

/// Those who know stores without a marker; the first that says yes wins.
pub fn detectors() -> Vec<Box<dyn Detect>> {
    vec![Box::new(detect::IsV0), Box::new(detect::IsTree)]
}

/// Returns the layouts that are recognised without their marker.
pub fn unmarked() -> Vec<Box<dyn Unmarked>> {
    vec![Box::new(unmarked::UnmarkedV2)]
}

/// Knows what lies in a store at each of the layouts.
pub fn inventory() -> Box<dyn Inventory> {
    Box::new(inventory::Known)
}

/// Those who know folders to import from that are no stores of ours.
pub fn sources() -> Vec<Box<dyn Source>> {
    vec![Box::new(source::Trees)]
}
