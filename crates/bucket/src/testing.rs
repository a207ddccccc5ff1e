//! Parts that the unit tests share.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModuleVersion, h1};

use crate::{
    Bucket, BucketMarker, BucketState, LAYOUT, NewVersion, Origin, Record, STATE, Swapped, Versions,
};

/// Returns the versions of a new bucket in memory.
pub(crate) async fn versions() -> Versions {
    let bucket = Bucket::in_memory();
    let state = BucketState::first(BucketMarker::At(LAYOUT), "test").unwrap();
    assert!(matches!(bucket.swap(STATE, &state, None).await.unwrap(), Swapped::Done(_)));
    Versions::new(bucket, state.keys())
}

/// Returns a version to publish.
pub(crate) fn new(pair: &str, zip: &[u8]) -> NewVersion {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(zip).unwrap();
    let version = ModuleVersion::parse(pair).unwrap();
    NewVersion {
        info: Bytes::from(format!("{{\"Version\":\"{}\"}}", version.version())),
        modfile: Bytes::from(format!("module {}\n", version.path())),
        version,
        zip: Arc::new(file),
        size: zip.len() as u64,
        h1: h1::hash_mod(zip),
        origin: Origin::Filled,
        record: Record::default(),
    }
}
