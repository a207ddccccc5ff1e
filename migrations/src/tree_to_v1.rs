//! tree → v1: a GOPROXY file tree at the root itself moves below `modules/`, with escaped names.
//!
//! ```text
//! before                                        after
//! github.com/!azure/sdk/@v/v1.0.0.mod           modules/github.com/!azure/sdk/@v/v1.0.0.mod
//! github.com/Azure/sdk/@v/v1.0.0.zip            modules/github.com/!azure/sdk/@v/v1.0.0.zip
//! ```
//!
//! The step back always writes escaped names.

use crate::flat::{self, Flat};
use crate::flow::Flow;
use crate::v0_to_v1::{leave_nothing_empty, make_modules};

pub(crate) fn step() -> Flow {
    Flow {
        from: flat::TREE,
        to: flat::V1,
        description: "move all modules below modules/",
        old: &Flat::Tree,
        new: &Flat::V1,
        is_foreign: true,
        folders_up: make_modules,
        folders_back: leave_nothing_empty,
        removed_back: &[],
    }
}
