//! The steps between the layouts of a bucket, and the detection of buckets that Athens filled.
//!
//! | module | purpose |
//! | --- | --- |
//! | `athens` | recognises the key shape of Athens |
//! | `athens_to_b1` | the step |
//! | `blocks` | reads a listing folder by folder |
//! | `upgrade`, `downgrade` | its two directions |

mod athens;
mod athens_to_b1;
mod blocks;
mod downgrade;
mod upgrade;

use stoa_bucket::{BucketLayouts, LAYOUT};

/// The number of keys in an answer to a listing.
const PAGE: u64 = 1000;

/// Returns the layouts of a bucket. `program` is the program and its version.
pub fn bucket_layouts(program: &str) -> BucketLayouts {
    BucketLayouts {
        program: program.to_owned(),
        current: LAYOUT,
        steps: vec![Box::new(athens_to_b1::AthensToB1)],
        detectors: vec![Box::new(athens::IsAthens)],
    }
}
