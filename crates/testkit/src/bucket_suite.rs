//! The suite of the crate `object_store`, and what the programs need besides: a service that passes answers as the
//! programs expect.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::integration as suite;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};

use crate::bucket::{Service, TestBucket, block_on};

/// Number of tasks that write one object at the same time.
const RACING: usize = 20;

/// Runs the suite in a fresh bucket.
pub fn run(bucket: &TestBucket) {
    let store = PrefixStore::new(bucket.store(), bucket.prefix().clone());
    let service = bucket.service();
    block_on(async {
        // Azurite lists from the beginning always, which the programs do.
        if service != Service::Azure || bucket.origin().is_none() {
            suite::put_get_delete_list(&store).await;
            suite::list_with_offset_exclusivity(&store).await;
        }
        suite::list_uses_directories_correctly(&store).await;
        suite::list_with_delimiter(&store).await;
        suite::rename_and_copy(&store).await;
        suite::stream_get(&store).await;
        suite::multipart_out_of_order(&store).await;
        // On Azure, the first upload that ends discards the blocks of the others.
        suite::multipart_race_condition(&store, service != Service::Azure).await;
        // The client copies on S3 without a condition, unless the service has a header of its own for it.
        if service != Service::S3 {
            suite::copy_if_not_exists(&store).await;
        }
        // It leaves objects, which the others would not expect.
        suite::put_opts(&store, true).await;
    });
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    block_on(async {
        reads_have_conditions(&store).await;
        one_writer_wins(&store).await;
    });
}

/// The suite asks for more than the programs do, and not every service has that.
async fn reads_have_conditions(store: &Arc<dyn ObjectStore>) {
    let path = Path::parse("~read/object").unwrap();
    let old = store.put(&path, "old".into()).await.unwrap().e_tag;
    let new = store.put(&path, "new".into()).await.unwrap().e_tag;
    let read = async |options| store.get_opts(&path, options).await?.bytes().await;
    let is_match = |tag: &Option<String>| GetOptions::new().with_if_match(tag.clone());
    assert_eq!(read(is_match(&new)).await.unwrap(), "new");
    let refused = read(is_match(&old)).await;
    assert!(matches!(refused, Err(Error::Precondition { .. })), "{refused:?}");
    let is_other = |tag: &Option<String>| GetOptions::new().with_if_none_match(tag.clone());
    assert_eq!(read(is_other(&old)).await.unwrap(), "new");
    let unchanged = read(is_other(&new)).await;
    assert!(matches!(unchanged, Err(Error::NotModified { .. })), "{unchanged:?}");
    assert_eq!(read(is_match(&new).with_range(Some(1..3))).await.unwrap(), "ew");
}

async fn one_writer_wins(store: &Arc<dyn ObjectStore>) {
    let path = Path::parse("~race/object").unwrap();
    for round in 0..5 {
        let current = match round {
            0 => PutMode::Create,
            _ => {
                let meta = store.head(&path).await.unwrap();
                PutMode::Update(UpdateVersion { e_tag: meta.e_tag, version: meta.version })
            }
        };
        let writers = (0..RACING).map(|n| {
            let (store, path, current) = (Arc::clone(store), path.clone(), current.clone());
            tokio::spawn(async move { store.put_opts(&path, content(round, n).into(), current.into()).await })
        });
        let results: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let winners: Vec<usize> = (0..RACING).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in results {
            let is_refusal =
                matches!(result, Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }));
            assert!(is_refusal, "{result:?}");
        }
        let found = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(found, content(round, winners[0]));
    }
}

/// Returns what a task writes. It differs each time: the tag of an object on S3 is a hash of its content.
fn content(round: usize, n: usize) -> Bytes {
    format!("round {round}, task {n}").into()
}
