use bytes::Bytes;
use futures_util::StreamExt;
use stoa_gomod::{ModulePath, ModuleVersion, h1};
use stoa_layout::clock;

use super::{NewVersion, PublishedThere, Versions};
use crate::keys::STATE;
use crate::testing::{new, versions};
use crate::{
    AthensFile, BucketMarker, BucketState, Document, Gone, LAYOUT, Manifest, Origin, Record, Removals,
    Tombstone, Trouble,
};

async fn bytes_of(versions: &Versions, manifest: &Manifest) -> Vec<u8> {
    let zip = &manifest.present_content().unwrap().zip;
    let parts: Vec<_> = versions.zip(zip, None).await.unwrap().unwrap().bytes.collect().await;
    parts.into_iter().flat_map(|part| part.unwrap().to_vec()).collect()
}

#[tokio::test]
async fn a_published_version_is_read_and_listed() {
    let versions = versions().await;
    let large = vec![7; 20 << 20];
    for (pair, zip) in [("example.com/m@v1.0.0", &b"small"[..]), ("example.com/m@v1.0.0-pre", &large)] {
        let new = new(pair, zip);
        let PublishedThere::Ours(held) = versions.publish(&new, None).await.unwrap() else { panic!() };
        assert_eq!(bytes_of(&versions, &held.document).await, zip);
        assert_eq!(versions.manifest(&new.version).await.unwrap(), Some(*held));
    }
    publish(&versions, "example.com/m/v1.0.0/sub@v0.1.0").await;
    let module = ModulePath::new("example.com/m").unwrap();
    let mut listed: Vec<String> =
        versions.list(&module).await.unwrap().present.iter().map(ToString::to_string).collect();
    listed.sort();
    assert_eq!(listed, ["v1.0.0", "v1.0.0-pre"]);
}

async fn publish(versions: &Versions, pair: &str) -> NewVersion {
    let new = new(pair, b"zip");
    assert!(matches!(versions.publish(&new, None).await.unwrap(), PublishedThere::Ours(_)));
    new
}

#[tokio::test]
async fn the_first_writer_wins_and_other_content_goes_to_quarantine() {
    let versions = versions().await;
    let first = publish(&versions, "example.com/m@v1.0.0").await;
    let same = versions.publish(&first, None).await.unwrap();
    assert!(matches!(same, PublishedThere::Theirs { same: Some(true), .. }));
    let other = new("example.com/m@v1.0.0", b"other");
    for before in [None, versions.manifest(&first.version).await.unwrap()] {
        let lost = versions.publish(&other, before.as_ref()).await.unwrap();
        assert!(matches!(lost, PublishedThere::Theirs { same: Some(false), .. }));
    }
    assert_eq!(versions.quarantined().await.unwrap().len(), 2);
    let held = versions.manifest(&first.version).await.unwrap().unwrap();
    assert_eq!(bytes_of(&versions, &held.document).await, b"zip");
}

#[tokio::test]
async fn a_publication_replaces_content_that_is_missing_although_the_manifest_was_written_again() {
    for is_read_before in [true, false] {
        let versions = versions().await;
        let first = publish(&versions, "example.com/m@v1.0.0").await;
        let before = versions.manifest(&first.version).await.unwrap().unwrap();
        versions.delete_content(before.document.present_content().unwrap()).await.unwrap();
        let again = versions.touch(&first.version).await.unwrap().unwrap();
        assert_ne!(again.tag, before.tag);
        let published = versions.publish(&first, is_read_before.then_some(&before)).await.unwrap();
        assert!(matches!(published, PublishedThere::Ours(_)), "{published:?}");
        let now = versions.manifest(&first.version).await.unwrap().unwrap().document;
        assert!(versions.has_content(&now).await.unwrap());
        assert_eq!(now.published_at, before.document.published_at);
        // Other content does not come in this way.
        versions.delete_content(now.present_content().unwrap()).await.unwrap();
        versions.touch(&first.version).await.unwrap();
        let other = versions.publish(&new("example.com/m@v1.0.0", b"other"), None).await.unwrap();
        assert!(matches!(other, PublishedThere::Theirs { same: Some(false), .. }), "{other:?}");
    }
}

#[tokio::test]
async fn a_fill_that_began_before_a_removal_publishes_nothing() {
    let versions = versions().await;
    let first = publish(&versions, "example.com/m@v1.0.0").await;
    let before = versions.manifest(&first.version).await.unwrap();
    let had = versions.remove(&first.version, None, true).await.unwrap().unwrap();
    versions.delete_content(&had).await.unwrap();
    assert!(versions.list(first.version.path()).await.unwrap().present.is_empty());
    for stale in [None, before.as_ref()] {
        assert!(matches!(versions.publish(&first, stale).await.unwrap(), PublishedThere::Removed));
    }
    let now = versions.manifest(&first.version).await.unwrap().unwrap();
    assert_eq!(now.document.record.h1.as_ref(), Some(&first.h1));
    assert_eq!(now.document.record.gomod_h1, Some(h1::hash_mod(&first.modfile)));
    assert!(matches!(versions.publish(&first, Some(&now)).await.unwrap(), PublishedThere::Ours(_)));
    assert_eq!(versions.list(first.version.path()).await.unwrap().present.len(), 1);
    let tombstone = Tombstone::new(clock::now(), Some("bad".to_owned()));
    versions.remove(&first.version, Some(tombstone), true).await.unwrap();
    for before in [None, versions.manifest(&first.version).await.unwrap()] {
        let forbidden = versions.publish(&first, before.as_ref()).await.unwrap();
        assert!(matches!(forbidden, PublishedThere::Forbidden(_)), "{forbidden:?}");
    }
}

#[tokio::test]
async fn a_quarantined_version_is_restored_or_purged() {
    let versions = versions().await;
    let first = publish(&versions, "example.com/m@v1.0.0").await;
    let entry = versions.quarantine(&first.version, None, "test").await.unwrap().unwrap();
    assert!(versions.list(first.version.path()).await.unwrap().present.is_empty());
    assert!(versions.restore(&entry, &first.h1).await.unwrap());
    assert_eq!(versions.list(first.version.path()).await.unwrap().present.len(), 1);
    assert!(versions.quarantined().await.unwrap().is_empty());
    let entry = versions.quarantine(&first.version, None, "test").await.unwrap().unwrap();
    versions.purge(&entry).await.unwrap();
    assert!(versions.quarantined().await.unwrap().is_empty());
}

#[tokio::test]
async fn files_that_athens_has_saved_again_are_not_deleted() {
    for overwritten in [None, Some(AthensFile::Info), Some(AthensFile::Mod), Some(AthensFile::Zip)] {
        for purges in [true, false] {
            let versions = versions().await;
            let pair = "example.com/m@v1.0.0";
            let version = crate::testing::save_as_athens(&versions, pair, 1).await;
            let held = versions.adopt_missing(&version).await.unwrap().unwrap();
            if let Some(file) = overwritten {
                let key = file.key(&version);
                let before = versions.bucket().get(&key, 1 << 20).await.unwrap().unwrap();
                // Of the same size.
                let other: Vec<u8> = before.bytes.iter().map(|byte| byte ^ 1).collect();
                versions.bucket().overwrite(&key, Bytes::from(other)).await.unwrap();
            }
            if purges {
                let entry = versions.quarantine(&version, None, "test").await.unwrap().unwrap();
                let at_athens = versions.quarantined_at_athens().await.unwrap();
                assert_eq!(at_athens.len(), usize::from(overwritten != Some(AthensFile::Zip)));
                versions.purge(&entry).await.unwrap();
                assert!(versions.quarantined().await.unwrap().is_empty());
            } else {
                let had = versions.remove(&version, None, true).await.unwrap().unwrap();
                assert_eq!(Some(&had), held.document.present_content());
                versions.delete_content(&had).await.unwrap();
            }
            for file in AthensFile::ALL {
                let found = versions.bucket().head(&file.key(&version)).await.unwrap();
                assert_eq!(found.is_some(), overwritten.is_some(), "{overwritten:?} {file:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_manifest_that_others_change_again_and_again_is_no_outage() {
    let versions = versions().await;
    let first = publish(&versions, "example.com/m@v1.0.0").await;
    let key = versions.keys().manifest(&first.version);
    let other = |now: Option<&Manifest>| {
        let next = now.unwrap().rewritten().unwrap();
        // The bucket is in memory and answers at once.
        let write = versions.bucket().overwrite(&key, Bytes::from(next.to_bytes().unwrap()));
        futures_util::FutureExt::now_or_never(write).unwrap().unwrap();
        Ok(Some(now.unwrap().rewritten().unwrap()))
    };
    let error = versions.change(&first.version, other).await.unwrap_err();
    assert_eq!((error.trouble, error.exit()), (Trouble::Contended, stoa_layout::Exit::BUSY));
    assert!(error.to_string().ends_with("help: run the command again"), "{error}");
}

#[tokio::test]
async fn nothing_is_acknowledged_after_a_step_back_began() {
    let versions = versions().await;
    publish(&versions, "example.com/m@v1.0.0").await;
    let held = BucketState::read(versions.bucket()).await.unwrap().unwrap();
    let mut left = held.document.rewritten("test").unwrap();
    left.marker = BucketMarker::Migrating { from: LAYOUT, to: crate::ATHENS };
    versions.bucket().swap(STATE, &left, Some(&held.tag)).await.unwrap();
    let error = versions.publish(&new("example.com/m@v1.1.0", b"zip"), None).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Left);
    assert!(
        versions.remove(&ModuleVersion::parse("example.com/m@v1.0.0").unwrap(), None, true).await.is_err()
    );
}

#[tokio::test]
async fn all_manifests_are_read_in_order_and_a_damaged_one_is_an_error_of_its_own() {
    let versions = versions().await;
    let all: Vec<_> = (10..30).map(|n| new(&format!("example.com/m@v1.0.{n}"), b"zip")).collect();
    for new in &all {
        versions.publish(new, None).await.unwrap();
    }
    let damaged = versions.keys().manifest(&all[7].version);
    versions.bucket().overwrite(&damaged, Bytes::from_static(b"{broken")).await.unwrap();
    let foreign = format!("{}/example.com/m/@v/note", versions.keys().manifests());
    versions.bucket().overwrite(&foreign, Bytes::new()).await.unwrap();
    let (mut blocks, mut read, mut sizes) = (versions.blocks(2).unwrap(), Vec::new(), Vec::new());
    while let Some(block) = blocks.next().await.unwrap() {
        sizes.push(block.len());
        read.extend(block.into_iter().map(|read| read.map(|held| held.document.version)));
    }
    assert_eq!((sizes, read.len()), (vec![8, 8, 4], all.len()));
    for (n, (read, new)) in read.into_iter().zip(&all).enumerate() {
        match read {
            Ok(version) => assert_eq!(version, new.version),
            Err(error) => assert_eq!((n, error.trouble), (7, Trouble::Damaged), "{error}"),
        }
    }
    let error = versions.each(2, async |_| Ok::<_, crate::BucketError>(())).await.unwrap_err();
    assert!(error.to_string().contains("v1.0.17.json"), "{error}");
}

#[tokio::test]
async fn a_block_of_manifests_is_limited_whatever_the_number_of_requests() {
    let versions = versions().await;
    for n in 0..600 {
        let version = ModuleVersion::parse(&format!("example.com/m@v1.0.{n}")).unwrap();
        let manifest = Manifest::absent(version.clone(), Origin::Filled, Record::default()).unwrap();
        let bytes = Bytes::from(manifest.to_bytes().unwrap());
        versions.bucket().overwrite(&versions.keys().manifest(&version), bytes).await.unwrap();
    }
    let (mut blocks, mut sizes) = (versions.blocks(1000).unwrap(), Vec::new());
    while let Some(block) = blocks.next().await.unwrap() {
        sizes.push(block.len());
    }
    assert_eq!(sizes, [512, 88]);
}

#[tokio::test]
async fn many_versions_are_removed_with_two_writes_of_the_list_of_removals() {
    let versions = versions().await;
    let all: Vec<_> = (0..5).map(|n| new(&format!("example.com/m@v1.0.{n}"), b"zip")).collect();
    for new in &all {
        versions.publish(new, None).await.unwrap();
    }
    let names: Vec<_> = all.iter().map(|new| new.version.clone()).collect();
    let gone = || async {
        let held = versions.bucket().document::<Gone>(&versions.keys().gone()).await.unwrap().unwrap();
        held.document
    };
    versions.announce(&names).await.unwrap();
    let announced = gone().await;
    assert_eq!((announced.next, announced.since(0)), (5, Removals::Some(names.clone())));
    for name in &names {
        assert!(versions.remove_announced(name, None, true).await.unwrap().is_some());
    }
    assert_eq!(gone().await, announced);
    assert!(versions.list(names[0].path()).await.unwrap().present.is_empty());
    // A server may have looked at a manifest before it changed.
    versions.announce_again(&names).await.unwrap();
    assert_eq!(gone().await.since(5), Removals::Some(names));
}
