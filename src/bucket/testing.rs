//! Parts that the unit tests share.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoa_bucket::{Bucket, BucketMarker, BucketState, LAYOUT, NewVersion, Origin, Record, STATE, Versions};
use stoa_gomod::zip::create;
use stoa_gomod::{ModuleVersion, h1};
use stoa_layout::events::Silent;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, Layouts, Migrator, Options, Runner};
use stoa_store::{FOLDERS, Store};

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

/// Returns a new store in a folder.
pub(crate) fn store(root: &Path) -> Arc<Store> {
    let layouts = Layouts::new("test 1", stoa_store::LAYOUT, FOLDERS.to_vec());
    let options = Options::default();
    let runner =
        Runner { root, layouts: &layouts, options: &options, events: &Silent, cancel: &Cancel::new() };
    runner.run().unwrap();
    let gate = Gate { root, current: &stoa_store::LAYOUT, migrator: &Migrator::Forbidden { name: "none" } };
    let held = gate.hold(gate.pass().unwrap(), Mode::ReadWrite).unwrap();
    Arc::new(Store::open(held, Mode::ReadWrite).unwrap())
}

/// Publishes a version in a store.
pub(crate) fn put(store: &Store, version: &ModuleVersion) {
    let (info, modfile, zip) = files(version);
    let mut draft = store.draft(version).unwrap();
    (&**draft.zip()).write_all(&zip).unwrap();
    draft.set_mod(modfile.as_bytes());
    let draft = draft.seal(info.as_bytes()).unwrap();
    store.publish(draft, &store.claim(version).unwrap()).unwrap();
}

fn files(version: &ModuleVersion) -> (String, String, Vec<u8>) {
    let info = format!("{{\"Version\":\"{}\"}}", version.version());
    let modfile = format!("module {}\n", version.path());
    let zip = create(version, [("go.mod", modfile.as_bytes())]).unwrap();
    (info, modfile, zip)
}

/// Publishes a version in the bucket.
pub(super) async fn publish(tier: &Tier, version: &ModuleVersion) {
    let (info, modfile, zip) = files(version);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&zip).unwrap();
    let new = NewVersion {
        version: version.clone(),
        info: Bytes::from(info),
        modfile: Bytes::from(modfile),
        zip: Arc::new(file),
        size: zip.len() as u64,
        h1: h1::hash_mod(&zip),
        origin: Origin::Filled,
        record: Record::default(),
    };
    tier.versions.publish(&new, None).await.unwrap();
}
