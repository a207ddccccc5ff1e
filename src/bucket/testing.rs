//! Parts that the unit tests share.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoa_bucket::{Bucket, BucketMarker, BucketState, LAYOUT, NewVersion, Origin, Record, STATE, Versions};
use stoa_gomod::zip::create;
use stoa_gomod::{ModuleVersion, h1};

use super::{Tier, TierOptions};

/// Returns the tier of a new bucket in memory.
pub(super) async fn tier(is_read_only: bool) -> Arc<Tier> {
    let state = BucketState::first(BucketMarker::At(LAYOUT), "test").unwrap();
    let bucket = Bucket::in_memory();
    bucket.swap(STATE, &state, None).await.unwrap();
    let versions = Versions::new(bucket, state.keys());
    let options = TierOptions {
        list_ttl: Duration::ZERO,
        max_local_size: u64::MAX,
        redirects: true,
        records_uses: false,
        is_read_only,
    };
    Arc::new(Tier::new(versions, &state, "test".to_owned(), options))
}

/// Publishes a version in the bucket.
pub(super) async fn publish(tier: &Tier, version: &ModuleVersion) {
    let modfile = format!("module {}\n", version.path());
    let zip = create(version, [("go.mod", modfile.as_bytes())]).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&zip).unwrap();
    let new = NewVersion {
        version: version.clone(),
        info: Bytes::from(format!("{{\"Version\":\"{}\"}}", version.version())),
        modfile: Bytes::from(modfile),
        zip: Arc::new(file),
        size: zip.len() as u64,
        h1: h1::hash_mod(&zip),
        origin: Origin::Filled,
        record: Record::default(),
    };
    tier.versions.publish(&new, None).await.unwrap();
}
