//! Parts that the unit tests share.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::zip::create;
use stoa_gomod::{ModuleVersion, h1};

use crate::{
    AthensFile, Bucket, BucketMarker, BucketState, LAYOUT, NewVersion, Origin, Record, STATE, Swapped,
    Versions,
};

/// Returns the versions of a new bucket in memory.
pub(crate) async fn versions() -> Versions {
    let bucket = Bucket::in_memory();
    let state = BucketState::first(BucketMarker::At(LAYOUT), "test").unwrap();
    assert!(matches!(bucket.swap(STATE, &state, None).await.unwrap(), Swapped::Done(_)));
    Versions::new(bucket, state.keys())
}

/// Saves a version as Athens does. `files` is the number of Go files in its zip.
pub(crate) async fn save_as_athens(versions: &Versions, pair: &str, files: usize) -> ModuleVersion {
    let version = ModuleVersion::parse(pair).unwrap();
    let names: Vec<String> = (0..files).map(|n| format!("file{n}.go")).collect();
    let mut sources: Vec<(&str, &[u8])> = vec![("go.mod", b"module example.com/m\n")];
    sources.extend(names.iter().map(|name| (&**name, &b"package a\n"[..])));
    let zip = create(&version, sources).unwrap();
    let info = format!("{{\"Version\":\"{}\"}}", version.version());
    let bodies = [info.into_bytes(), b"module example.com/m\n".to_vec(), zip];
    for (file, body) in AthensFile::ALL.into_iter().zip(bodies) {
        versions.bucket().overwrite(&file.key(&version), Bytes::from(body)).await.unwrap();
    }
    version
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
