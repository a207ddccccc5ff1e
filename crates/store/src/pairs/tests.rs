use super::bound::BLOCK;
use super::*;
use crate::testing::{Fixture, damages, info, modfile, put_unsealed, staged, version, zip};
use crate::{Published, Restored};
use std::fs;

fn pair(version: &ModuleVersion) -> Pair {
    Pair {
        tag: "0123456789abcdef".to_owned(),
        origin: "https://proxy.example/".to_owned(),
        info: info(version).into(),
        modfile: modfile(version).into(),
    }
}

fn put(fixture: &Fixture, version: &ModuleVersion, max_bytes: u64) {
    let claim = fixture.store.claim(version).unwrap();
    fixture.store.pairs().put(&claim, &pair(version), max_bytes).unwrap();
}

#[test]
fn a_version_that_enters_the_store_has_no_pair() {
    let fixture = Fixture::new();
    let (store, v) = (&fixture.store, version("example.com/m@v1.0.0"));
    let bytes = zip(&v, "package m\n");
    put(&fixture, &v, 1 << 20);
    assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
    assert!(store.pairs().get(&v).is_none(), "a fill");

    store.quarantine_version(&store.claim(&v).unwrap(), "for the test").unwrap();
    put(&fixture, &v, 1 << 20);
    let entry = fs::read_dir(fixture.dir.path().join("quarantine")).unwrap().next().unwrap().unwrap();
    let restored = store.quarantine().restore(&entry.file_name()).unwrap();
    assert!(matches!(restored, Restored::Done(_)), "{restored:?}");
    assert!(store.pairs().get(&v).is_none(), "a restore");

    store.remove(&store.claim(&v).unwrap(), None).unwrap();
    put(&fixture, &v, 1 << 20);
    let batch = store.batch().unwrap();
    let mut draft = store.draft(&v).unwrap();
    (&**draft.zip()).write_all(&bytes).unwrap();
    draft.set_mod(modfile(&v).as_bytes());
    let drafts = batch.settle(vec![draft.seal_unsynced(info(&v).as_bytes()).unwrap()]).unwrap();
    for draft in drafts {
        let claim = store.claim(&v).unwrap();
        assert!(matches!(batch.publish(draft, &claim).unwrap(), Published::Ours(_)));
    }
    batch.finish().unwrap();
    assert!(store.pairs().get(&v).is_none(), "an import");

    // Another process stored the version first.
    put(&fixture, &v, 1 << 20);
    assert_eq!(fixture.publish(&v, &bytes), Published::Theirs { same: true });
    assert!(store.pairs().get(&v).is_none(), "a version that was there before");
}

#[test]
fn a_pair_is_found_until_it_is_removed() {
    let fixture = Fixture::new();
    let v = version("example.com/Cap@v1.0.0-RC1");
    let pairs = fixture.store.pairs();
    assert!(pairs.get(&v).is_none());
    put(&fixture, &v, 1 << 20);
    put(&fixture, &v, 1 << 20);
    let (found, expected) = (pairs.get(&v).unwrap(), pair(&v));
    assert_eq!((&found.tag, &found.origin, &found.info), (&expected.tag, &expected.origin, &expected.info));
    assert_eq!(found.modfile().unwrap(), expected.modfile);
    assert_eq!(found.gomod_h1(), h1::hash_mod(&expected.modfile));
    assert_eq!(pairs.versions(v.path()).unwrap(), [v.version().clone()]);
    assert!(pairs.get(&version("example.com/Cap@v1.0.0")).is_none());
    assert!(pairs.remove(&v).unwrap().is_some());
    assert_eq!(pairs.remove(&v).unwrap(), None);
    assert!(pairs.get(&v).is_none() && staged(fixture.dir.path()).is_empty());
}

#[test]
fn a_pair_goes_with_its_version() {
    let fixture = Fixture::new();
    let v = version("example.com/m@v1.0.0");
    put(&fixture, &v, 1 << 20);
    put_unsealed(&fixture.store, &v, b"no zip");
    assert_eq!(fixture.store.seal(&v).unwrap(), None);
    assert!(fixture.store.pairs().get(&v).is_none(), "the version is in quarantine");
    put(&fixture, &v, 1 << 20);
    let removed = fixture.store.remove(&fixture.store.claim(&v).unwrap(), None).unwrap();
    assert!(removed.bytes.is_some() && fixture.store.pairs().get(&v).is_none());
}

#[test]
fn a_damaged_pair_counts_as_absent_and_can_be_replaced() {
    let fixture = Fixture::new();
    let v = version("example.com/m@v1.0.0");
    put(&fixture, &v, 1 << 20);
    let path = fixture.store.pairs().path(&v);
    let whole = fs::read(&path).unwrap();
    for damage in damages(&whole) {
        fs::write(&path, &damage).unwrap();
        assert!(fixture.store.pairs().get(&v).is_none(), "{:?}", String::from_utf8_lossy(&damage));
    }
    let other = version("example.com/m@v1.0.1");
    fs::write(fixture.store.pairs().path(&other), &whole).unwrap();
    assert!(fixture.store.pairs().get(&other).is_none(), "a pair under another name");
    put(&fixture, &v, 1 << 20);
    assert!(fixture.store.pairs().get(&v).is_some());
}

#[test]
fn the_hash_of_a_pair_is_checked_once_for_each_state_of_its_file() {
    let fixture = Fixture::new();
    let (store, v) = (&fixture.store, version("example.com/m@v1.0.0"));
    put(&fixture, &v, 1 << 20);
    let path = store.pairs().path(&v);
    assert!(store.pairs().get(&v).is_some() && store.known_pairs.is_empty(), "it changed a moment ago");
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let found = store.pairs().get(&v).unwrap();
    // A known pair is not read again, or the other origin would not be found here.
    let stamp = Stamp::of(&Metadata::of_file(&file).unwrap());
    let known = store.known_pairs.get(&stamp).unwrap();
    store.known_pairs.insert(stamp, KnownPair { origin: "from memory".to_owned(), ..known });
    let again = store.pairs().get(&v).unwrap();
    assert_eq!((again.origin.as_str(), again.modfile().unwrap()), ("from memory", found.modfile().unwrap()));
    // Another version in the place of the file is not taken for it.
    let other = version("example.com/m@v1.0.1");
    fs::hard_link(&path, store.pairs().path(&other)).unwrap();
    assert!(store.pairs().get(&other).is_none());
    let whole = fs::read(&path).unwrap();
    file.write_all_at(b"x", whole.len() as u64 - 1).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    assert!(store.pairs().get(&v).is_none(), "the damage is found");
}

#[test]
fn every_version_with_a_pair_is_visited() {
    let fixture = Fixture::new();
    let versions =
        ["example.com/a@v1.0.0", "example.com/Cap@v1.0.0-RC1", "example.com/Cap@v1.1.0"].map(version);
    assert!(fixture.store.pairs().each(|_| panic!("there is none")).is_ok());
    for v in &versions {
        put(&fixture, v, 1 << 20);
    }
    fs::write(fixture.store.pairs().folder(versions[0].path()).join("v1.9.0"), "not a pair").unwrap();
    let mut visited = Vec::new();
    let mut visit = |v| {
        visited.push(v);
        ControlFlow::Continue(())
    };
    fixture.store.pairs().each(&mut visit).unwrap();
    visited.sort_by_key(ModuleVersion::to_string);
    let mut expected = versions.to_vec();
    expected.sort_by_key(ModuleVersion::to_string);
    assert_eq!(visited, expected);
    let mut count = 0;
    let stop = |_| {
        count += 1;
        ControlFlow::Break(())
    };
    fixture.store.pairs().each(stop).unwrap();
    assert_eq!(count, 1);
}

#[test]
fn nothing_is_removed_through_a_symlink() {
    let fixture = Fixture::new();
    let (v, other) = (version("example.com/m@v1.0.0"), version("example.com/other@v1.0.0"));
    let pairs = fixture.store.pairs();
    put(&fixture, &v, 1 << 20);
    put(&fixture, &other, 1 << 20);
    let elsewhere = testkit::tempdir();
    let (folder, moved) = (pairs.folder(v.path()), elsewhere.path().join("pairs"));
    fs::rename(&folder, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &folder).unwrap();
    let foreign = pairs.folder(other.path()).join("notes.txt");
    fs::write(&foreign, "").unwrap();
    put(&fixture, &version("example.com/new@v1.0.0"), 0);
    assert!(moved.join("v1.0.0").exists() && foreign.exists() && !pairs.path(&other).exists());
    let failed = pairs.remove(&v).unwrap_err();
    assert!(matches!(&failed, StoreError::Path(error) if error.is_symlink_on_the_way()), "{failed}");
    let claim = fixture.store.claim(&v).unwrap();
    assert!(pairs.put(&claim, &pair(&v), 1 << 20).is_err() && moved.join("v1.0.0").exists());
    assert!(staged(fixture.dir.path()).is_empty());
}

#[test]
fn the_least_recently_used_pairs_are_removed_above_the_bound() {
    let fixture = Fixture::new();
    let versions: Vec<_> = (0..8).map(|n| version(&format!("example.com/m{}@v1.{n}.0", n % 3))).collect();
    let day = Duration::from_secs(86_400);
    for (n, v) in versions.iter().enumerate() {
        put(&fixture, v, 8 * BLOCK);
        let file = File::open(fixture.store.pairs().path(v)).unwrap();
        file.set_modified(SystemTime::now() - day * (20 - u32::try_from(n).unwrap())).unwrap();
    }
    let pairs = fixture.store.pairs();
    let present = |v: &ModuleVersion| pairs.path(v).exists();
    assert!(versions.iter().all(present), "nothing is removed up to the bound");
    // A hit renews the time, so the next two are the oldest.
    assert!(pairs.get(&versions[0]).is_some());
    let new = version("example.com/new@v1.0.0");
    put(&fixture, &new, 8 * BLOCK);
    let left: Vec<bool> = versions.iter().map(present).collect();
    assert_eq!(left, [true, false, false, true, true, true, true, true]);
    assert!(present(&new));
    let last = version("example.com/last@v1.0.0");
    put(&fixture, &last, 0);
    assert!(!versions.iter().any(present) && !present(&new) && present(&last));
    assert_eq!(fs::read_dir(fixture.dir.path().join("cache/pairs")).unwrap().count(), 1);
}
