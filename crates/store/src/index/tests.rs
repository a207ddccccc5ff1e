//! The index against the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;

use super::*;
use crate::VersionFile;
use crate::testing::{Fixture, open, put_unsealed, version, zip};

type Rows = BTreeMap<(String, String), (i64, u64)>;

/// Returns the expected rows, from the files of every version.
fn tree(store: &Store) -> Rows {
    let mut rows = Rows::new();
    let each = |version: ModuleVersion| {
        let length =
            |file| store.locate(&version, file).unwrap().map_or(0, |path| fs::metadata(path).unwrap().len());
        let info = store.locate(&version, VersionFile::Info).unwrap().unwrap();
        let modified = fs::metadata(info).unwrap().modified().unwrap();
        let modified = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64;
        let bytes = [VersionFile::Info, VersionFile::Mod, VersionFile::Zip].map(length).iter().sum();
        rows.insert((version.path().to_string(), version.version().to_string()), (modified, bytes));
        std::ops::ControlFlow::Continue(())
    };
    store.each_version(each).unwrap();
    rows
}

/// Returns the rows in the tables of the index.
fn rows(store: &Store) -> Rows {
    let identity = store.index.identity().unwrap();
    let connection = rusqlite::Connection::open(store.index.databases.path(identity.number)).unwrap();
    let mut statement = connection
        .prepare("SELECT module, version, modified, bytes FROM versions WHERE modified IS NOT NULL")
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get::<_, i64>(3)? as u64))));
    rows.unwrap().map(Result::unwrap).collect()
}

fn reconcile(store: &Store) -> Reconciled {
    let done = store.index().reconcile(&Stop::default()).unwrap();
    assert_eq!(rows(store), tree(store), "{done:?}");
    assert_eq!(done.versions, rows(store).len() as u64);
    done
}

fn put(store: &Store, pair: &str) -> PathBuf {
    let v = version(pair);
    put_unsealed(store, &v, &zip(&v, pair))
}

/// A clock at which every file has settled. The change time of a file cannot be set back.
fn later() -> SystemTime {
    SystemTime::now() + 2 * crate::list::SETTLED
}

/// Reconciles at a time at which every file has settled.
fn reconcile_later(fixture: &mut Fixture) -> Reconciled {
    fixture.store.index.clock = later;
    let done = reconcile(&fixture.store);
    fixture.store.index.clock = SystemTime::now;
    done
}

/// Returns a store whose modules changed long enough ago for their stamps to be stored.
fn settled() -> Fixture {
    let mut fixture = Fixture::new();
    for pair in
        ["example.com/a@v1.0.0", "example.com/a@v1.10.0", "example.com/a@v1.9.0", "example.com/b/v2@v2.0.0"]
    {
        put(&fixture.store, pair);
    }
    reconcile_later(&mut fixture);
    fixture
}

fn file(store: &Store) -> PathBuf {
    store.index.databases.path(store.index.identity().unwrap().number)
}

#[test]
fn a_publish_is_in_the_index_at_once() {
    let fixture = Fixture::new();
    let v = version("example.com/Cap@v1.0.0");
    fixture.publish(&v, &zip(&v, "package a\n"));
    assert!(
        matches!(fixture.store.index().catalog(None, 9), Err(IndexError::Missing(_))),
        "no index was built yet"
    );
    let done = reconcile(&fixture.store);
    assert!(done.is_new && done.number == 1, "{done:?}");
    let w = version("example.com/Cap@v1.1.0");
    fixture.publish(&w, &zip(&w, "package a\n"));
    assert_eq!(rows(&fixture.store), tree(&fixture.store));
    assert_eq!(fixture.store.index().catalog(None, 9).unwrap().len(), 2);
    // A version that moves to quarantine leaves the index.
    put(&fixture.store, "example.com/broken@v1.0.0");
    reconcile(&fixture.store);
    let folder = fixture.store.paths.version(&version("example.com/broken@v1.0.0"));
    fs::write(folder.join("zip"), "no zip").unwrap();
    fixture.store.seal(&version("example.com/broken@v1.0.0")).unwrap();
    assert_eq!(rows(&fixture.store), tree(&fixture.store));
    assert_eq!(rows(&fixture.store).len(), 2);
}

#[test]
fn only_changed_modules_are_read_again() {
    let fixture = settled();
    assert_eq!(reconcile(&fixture.store).read, 0);
    let v = version("example.com/a@v1.11.0");
    fixture.publish(&v, &zip(&v, "package a\n"));
    assert_eq!(reconcile(&fixture.store).read, 1);
    assert_eq!(reconcile(&fixture.store).read, 1, "a young module is not skipped");
    // Versions and modules removed and copied in by hand.
    fs::remove_dir_all(fixture.store.paths.version(&version("example.com/a@v1.9.0"))).unwrap();
    fs::remove_dir_all(fixture.dir.path().join("modules/example.com/b")).unwrap();
    put(&fixture.store, "example.com/c@v0.1.0");
    let done = reconcile(&fixture.store);
    assert_eq!((done.added, done.removed, done.modules), (1, 2, 2), "{done:?}");
}

#[test]
fn an_incomplete_version_is_read_again() {
    let mut fixture = settled();
    let v = version("example.com/a@v1.2.0");
    let folder = put_unsealed(&fixture.store, &v, b"");
    fs::rename(folder.join("info"), fixture.dir.path().join("info")).unwrap();
    assert_eq!(reconcile_later(&mut fixture).read, 1);
    // The stamp of the folder of the versions does not change.
    fs::rename(fixture.dir.path().join("info"), folder.join("info")).unwrap();
    assert_eq!(reconcile(&fixture.store).added, 1);
}

#[test]
fn the_index_recovers_from_every_kind_of_damage() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 8] = [
        ("deleted", |file| fs::remove_dir_all(file.parent().unwrap().parent().unwrap()).unwrap()),
        ("its file deleted", |file| fs::remove_file(file).unwrap()),
        ("cut", |file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(5000).unwrap()),
        ("emptied", |file| fs::write(file, "").unwrap()),
        ("replaced by garbage", |file| fs::write(file, [0x5a; 9000]).unwrap()),
        ("garbage in the middle", |file| {
            let mut bytes = fs::read(file).unwrap();
            let length = bytes.len();
            bytes[4096 + 8..length].fill(0x5a);
            fs::write(file, bytes).unwrap();
        }),
        ("of another release", |file| {
            rusqlite::Connection::open(file).unwrap().pragma_update(None, "user_version", 77).unwrap();
        }),
        ("a folder in its place", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    let fixture = settled();
    for (name, harm) in harms {
        harm(&file(&fixture.store));
        // A new process, because this process keeps the database open.
        let other = open(fixture.dir.path(), Mode::ReadWrite);
        let done = reconcile(&other);
        assert!(done.is_new, "{name}: {done:?}");
        assert_eq!(fixture.store.index().catalog(None, 99).unwrap().len(), 4, "{name}: others switch to it");
        assert!(!reconcile(&other).is_new, "{name}");
    }
}

#[test]
fn inconsistent_rows_are_found() {
    for harm in [
        "DELETE FROM versions WHERE version = 'v1.9.0'",
        "INSERT INTO versions (module, version, modified, bytes) VALUES ('example.com/a', 'v7.0.0', 1, 1)",
        "DELETE FROM modules",
    ] {
        let fixture = settled();
        let connection = rusqlite::Connection::open(file(&fixture.store)).unwrap();
        assert!(connection.execute(harm, []).unwrap() > 0);
        drop(connection);
        let other = open(fixture.dir.path(), Mode::ReadWrite);
        assert!(reconcile(&other).is_new, "{harm}");
    }
}

#[test]
fn a_restored_older_index_is_brought_up_to_date() {
    let fixture = settled();
    let index = file(&fixture.store);
    let old = fixture.dir.path().join("old");
    fs::copy(&index, &old).unwrap();
    for pair in ["example.com/a@v1.11.0", "example.com/new@v1.0.0"] {
        let v = version(pair);
        fixture.publish(&v, &zip(&v, "package a\n"));
    }
    fs::remove_dir_all(fixture.dir.path().join("modules/example.com/b")).unwrap();
    reconcile(&fixture.store);
    // Restored as a whole: no file of the newer database stays beside it.
    fs::remove_dir_all(index.parent().unwrap()).unwrap();
    fs::create_dir(index.parent().unwrap()).unwrap();
    fs::rename(&old, &index).unwrap();
    let done = reconcile(&fixture.store);
    assert!(!done.is_new, "{done:?}");
    assert_eq!((done.added, done.removed), (2, 1));
}

#[test]
fn rows_written_during_a_pass_stay() {
    let fixture = settled();
    let identity = fixture.store.index.identity().unwrap();
    let mut database = fixture.store.index.open(identity, Access::Write, PATIENCE).unwrap();
    let seen =
        reconcile::read_module(&fixture.store.paths, version("example.com/a@v1.0.0").path(), None, later)
            .unwrap()
            .unwrap();
    assert!(seen.stamp.is_some());
    let v = version("example.com/a@v1.11.0");
    fixture.publish(&v, &zip(&v, "package a\n"));
    let is_there = |_: &str, version: &str| version == "v1.11.0";
    database.apply(&[seen], is_there).unwrap();
    assert_eq!(rows(&fixture.store), tree(&fixture.store));
    assert_eq!(database.stored_stamp("example.com/a").unwrap(), None, "it is read again");
}

#[test]
fn a_version_that_cannot_be_read_does_not_block_the_others() {
    let fixture = settled();
    // A symlink to itself cannot be followed.
    let folder = fixture.store.paths.version(&version("example.com/a@v1.9.0"));
    fs::remove_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(&folder, &folder).unwrap();
    put(&fixture.store, "example.com/a@v1.11.0");
    put(&fixture.store, "example.com/new@v1.0.0");
    fs::remove_dir_all(fixture.store.paths.version(&version("example.com/a@v1.10.0"))).unwrap();
    for _ in 0..2 {
        fixture.store.index().reconcile(&Stop::default()).unwrap();
        let mut expected = tree(&fixture.store);
        let row = rows(&fixture.store).remove(&("example.com/a".to_owned(), "v1.9.0".to_owned()));
        expected.insert(("example.com/a".to_owned(), "v1.9.0".to_owned()), row.expect("the row stays"));
        assert_eq!(rows(&fixture.store), expected);
    }
    fs::remove_file(&folder).unwrap();
    reconcile(&fixture.store);
}

#[test]
fn pages_of_any_size_add_up_to_the_catalog() {
    let fixture = Fixture::new();
    // Sorting by path element and by text gives different orders.
    for pair in [
        "example.com/a-b@v1.0.0",
        "example.com/a/v2@v2.0.0",
        "example.com/a@v1.0.0",
        "example.com/a@v1.0.0-RC1",
        "example.com/Z@v1.0.0",
        "example.com/a@v0.0.0-20240102030405-abcdefabcdef",
    ] {
        put(&fixture.store, pair);
    }
    reconcile(&fixture.store);
    let all = fixture.store.index().catalog(None, 100).unwrap();
    assert_eq!(all.len(), 6);
    for size in 1..8 {
        let mut found = Vec::new();
        loop {
            let last: Option<CatalogEntry> = found.last().cloned();
            let after = last.as_ref().map(|last| (last.module.as_str(), last.version.as_str()));
            let page = fixture.store.index().catalog(after, size).unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, all, "pages of {size}");
    }
}

#[test]
fn every_version_has_its_own_time() {
    let fixture = Fixture::new();
    let instant = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for n in 0..50 {
        let folder = put(&fixture.store, &format!("example.com/m{}@v1.0.{n}", n % 7));
        fs::File::open(folder.join("info")).unwrap().set_modified(instant).unwrap();
    }
    reconcile(&fixture.store);
    let feed = fixture.store.index().feed(0, 100).unwrap();
    assert_eq!(feed.len(), 50);
    let times: Vec<i64> = feed.iter().map(|entry| entry.time - 1_700_000_000_000_000_000).collect();
    assert_eq!(times, (0..50).collect::<Vec<i64>>());
    // Another pass keeps the instants.
    reconcile(&fixture.store);
    assert_eq!(fixture.store.index().feed(0, 100).unwrap(), feed);
    assert_eq!(fixture.store.index().feed(feed[20].time, 5).unwrap(), feed[20..25]);
}

#[test]
fn any_file_time_can_be_stored() {
    let fixture = Fixture::new();
    for (n, seconds) in [(0, 1 << 34), (1, 1 << 34), (2, (1 << 34) - 5)] {
        let folder = put(&fixture.store, &format!("example.com/m@v1.0.{n}"));
        let instant = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::open(folder.join("info")).unwrap().set_modified(instant).unwrap();
    }
    for _ in 0..2 {
        fixture.store.index().reconcile(&Stop::default()).unwrap();
        let feed = fixture.store.index().feed(0, 9).unwrap();
        assert_eq!(feed.len(), 3);
        assert!(feed.is_sorted_by(|a, b| a.time < b.time), "{feed:?}");
    }
}

#[test]
fn two_stores_share_one_index() {
    let fixture = settled();
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    std::thread::scope(|scope| {
        for (n, store) in [&fixture.store, &other].into_iter().enumerate() {
            scope.spawn(move || {
                for i in 0..20 {
                    let v = version(&format!("example.com/{n}@v1.0.{i}"));
                    let claim = store.claim(&v).unwrap();
                    let draft = crate::testing::draft(store, &v, &zip(&v, "package a\n"));
                    store.publish(draft, &claim).unwrap();
                    if i % 7 == n {
                        store.index().reconcile(&Stop::default()).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(rows(&fixture.store), tree(&fixture.store), "every row was written with its publish");
    reconcile(&other);
}

#[test]
fn a_read_only_store_is_not_written_to() {
    let fixture = settled();
    let names = || -> Vec<PathBuf> {
        let mut names: Vec<_> = fs::read_dir(file(&fixture.store).parent().unwrap())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        names
    };
    // While a writing server has the index open, and after it was closed.
    let reader = open(fixture.dir.path(), Mode::ReadOnly);
    fixture.store.index().catalog(None, 9).unwrap();
    assert!(names().len() > 1, "{:?}", names());
    for close in [false, true] {
        if close {
            fixture.store.index.readers.lock().unwrap().clear();
            *fixture.store.index.writer.lock().unwrap() = None;
        }
        let before = names();
        assert_eq!(reader.index().catalog(None, 9).unwrap().len(), 4);
        assert_eq!(reader.index().feed(0, 2).unwrap().len(), 2);
        assert_eq!(names(), before);
    }
    assert_eq!(names().len(), 1);
    assert!(reader.index().reconcile(&Stop::default()).is_err());
}

#[test]
fn a_read_only_store_reads_the_index_of_an_earlier_release() {
    let fixture = settled();
    let all = fixture.store.index().catalog(None, 9).unwrap();
    let path = file(&fixture.store);
    fixture.store.index.abandon();
    let earlier = rusqlite::Connection::open(&path).unwrap();
    let change = "DROP TABLE manifests; DROP TABLE bucket; ALTER TABLE versions DROP COLUMN wanted;
        PRAGMA user_version = 1;";
    earlier.execute_batch(change).unwrap();
    let reader = open(fixture.dir.path(), Mode::ReadOnly);
    assert_eq!(reader.index().catalog(None, 9).unwrap(), all);
    assert_eq!(reader.index().feed(i64::MIN, 9).unwrap().len(), all.len());
    assert!(fixture.store.index().catalog(None, 9).unwrap_err().needs_rebuild(), "others rebuild it");
    earlier.pragma_update(None, "user_version", 99).unwrap();
    assert!(reader.index().catalog(None, 9).is_err());
}

#[test]
fn a_reconciliation_stops_on_request() {
    let fixture = settled();
    let stop = Stop::default();
    stop.ask();
    assert!(matches!(fixture.store.index().reconcile(&stop), Err(IndexError::Stopped)));
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    fs::remove_dir_all(file(&other).parent().unwrap()).unwrap();
    assert!(matches!(other.index().reconcile(&stop), Err(IndexError::Stopped)));
    assert!(crate::testing::staged(fixture.dir.path()).is_empty(), "the unfinished index was removed");
}

#[test]
fn all_files_of_the_index_have_the_owner_and_the_mode_of_the_root() {
    use std::os::unix::fs::{PermissionsExt, lchown};
    let fixture = Fixture::new();
    let root = fixture.dir.path();
    if rustix::process::geteuid().is_root() {
        lchown(root, Some(65534), Some(65534)).unwrap();
    }
    let owner = fs::metadata(root).unwrap().uid();
    fs::set_permissions(root, fs::Permissions::from_mode(0o2770)).unwrap();
    let store = open(root, Mode::ReadWrite);
    reconcile(&store);
    let v = version("example.com/m@v1.0.0");
    let claim = store.claim(&v).unwrap();
    let draft = crate::testing::draft(&store, &v, &zip(&v, "package a\n"));
    store.publish(draft, &claim).unwrap();
    let folder = root.join("index/1");
    assert_eq!(fs::metadata(&folder).unwrap().uid(), owner);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (owner, 0o660), "{entry:?}");
        names.push(entry.file_name());
    }
    assert_eq!(names.len(), 3, "{names:?}");
}

const BUCKET: &str = "0123";

/// Returns a change: the version exists since a time, or does not exist.
fn change(pair: &str, tag: &str, published: Option<i64>) -> ManifestChange {
    let now = Some(ManifestRow { tag: tag.to_owned(), published, ..ManifestRow::default() });
    ManifestChange { version: version(pair), condition: Condition::Always, now }
}

fn listed(store: &Store) -> Vec<(String, i64)> {
    let feed = store.index().feed(i64::MIN, 99).unwrap();
    let of_feed: BTreeSet<_> = feed.iter().map(|entry| (&entry.module, &entry.version)).collect();
    let catalog = store.index().catalog(None, 99).unwrap();
    assert_eq!(catalog.iter().map(|entry| (&entry.module, &entry.version)).collect::<BTreeSet<_>>(), of_feed);
    feed.iter().map(|entry| (format!("{}@{}", entry.module, entry.version), entry.time)).collect()
}

#[test]
fn rows_of_the_store_and_of_the_bucket_leave_each_other_alone() {
    let mut fixture = settled();
    let index = || fixture.store.index();
    let (a, far) = ("example.com/a@v1.0.0", "example.com/far@v1.0.0");
    assert!(!index().note_manifests(BUCKET, None, &[change(far, "1", Some(5))]).unwrap(), "not begun");
    assert!(!index().change_bucket(Some(BUCKET)).unwrap());
    assert!(!index().has_bucket(BUCKET).unwrap());
    let times = |store: &Store, pair: &str| listed(store).into_iter().find(|(listed, _)| listed == pair);
    let local = times(&fixture.store, a).unwrap().1;
    let changes =
        [change(a, "1", Some(7)), change(far, "1", Some(7)), change("example.com/x@v1.0.0", "1", None)];
    assert!(index().note_manifests(BUCKET, None, &changes).unwrap());
    assert!(index().complete_bucket(BUCKET, &index().bucket_token(BUCKET).unwrap().unwrap()).unwrap());
    assert!(index().has_bucket(BUCKET).unwrap() && !index().has_bucket("other").unwrap());
    assert_eq!(listed(&fixture.store)[..2], [(a.to_owned(), 7), (far.to_owned(), 8)], "the manifests decide");
    assert_eq!(listed(&fixture.store).len(), 5);
    // A pass over the store keeps them, and they do not count as damage.
    reconcile_later(&mut fixture);
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    assert!(!reconcile(&other).is_new);
    assert_eq!(listed(&other).len(), 5);
    // Evicted.
    fs::remove_dir_all(fixture.store.paths.version(&version(a))).unwrap();
    assert_eq!(reconcile(&fixture.store).removed, 1);
    assert_eq!(listed(&fixture.store)[0], (a.to_owned(), 7));
    // Removed there: stored versions are hidden, and come back with their own time if there is no bucket any more.
    let b = "example.com/b/v2@v2.0.0";
    let index = || fixture.store.index();
    index().note_manifests(BUCKET, None, &[change(a, "2", None), change(b, "2", None)]).unwrap();
    assert_eq!((times(&fixture.store, a), times(&fixture.store, b)), (None, None));
    put(&fixture.store, a);
    reconcile(&fixture.store);
    assert_eq!(times(&fixture.store, a), None);
    while index().change_bucket(None).unwrap() {}
    let now: BTreeSet<String> = listed(&fixture.store).into_iter().map(|(pair, _)| pair).collect();
    assert_eq!(now, tree(&fixture.store).keys().map(|(m, v)| format!("{m}@{v}")).collect());
    assert!(times(&fixture.store, a).unwrap().1 >= local);
    assert!(index().manifests("", 9).unwrap().is_empty() && !index().has_bucket(BUCKET).unwrap());
}

#[test]
fn another_bucket_removes_the_rows_of_the_first_in_parts() {
    let fixture = settled();
    let index = fixture.store.index();
    index.change_bucket(Some(BUCKET)).unwrap();
    let many: Vec<_> =
        (0..2500).map(|n| change(&format!("example.com/far@v1.{n}.0"), "1", Some(1000))).collect();
    index.note_manifests(BUCKET, None, &many).unwrap();
    assert!(index.complete_bucket(BUCKET, &index.bucket_token(BUCKET).unwrap().unwrap()).unwrap());
    assert!(index.change_bucket(Some("other")).unwrap());
    // The process was killed. Nothing belongs to a bucket now.
    assert!(
        !index.note_manifests(BUCKET, None, &many).unwrap()
            && !index.note_manifests("other", None, &many).unwrap()
    );
    assert!(!index.has_bucket(BUCKET).unwrap());
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    assert!(other.index().change_bucket(Some("other")).unwrap());
    assert!(!other.index().change_bucket(Some("other")).unwrap());
    assert!(!other.index().change_bucket(Some("other")).unwrap());
    assert_eq!((listed(&other).len(), index.manifests("", 9).unwrap()), (4, vec![]));
    assert!(index.note_manifests("other", None, &many[..3]).unwrap());
    assert_eq!(listed(&other).len(), 7);
}

#[test]
fn a_change_of_a_manifest_that_is_older_than_its_row_is_left_out() {
    let fixture = settled();
    let index = fixture.store.index();
    index.change_bucket(Some(BUCKET)).unwrap();
    let far = "example.com/far@v1.0.0";
    let on = |tag: Option<&str>, change: ManifestChange| ManifestChange {
        condition: Condition::Tag(tag.map(str::to_owned)),
        ..change
    };
    index.note_manifests(BUCKET, None, &[on(Some("1"), change(far, "2", Some(7)))]).unwrap();
    assert_eq!(index.manifests("", 9).unwrap(), vec![]);
    index.note_manifests(BUCKET, None, &[on(None, change(far, "1", Some(7)))]).unwrap();
    index.note_manifests(BUCKET, None, &[on(None, change(far, "3", None))]).unwrap();
    let known = KnownManifest { key: "example.com/far/@v/v1.0.0.json".to_owned(), tag: "1".to_owned() };
    assert_eq!(index.manifests("", 9).unwrap(), std::slice::from_ref(&known));
    assert_eq!(index.manifests(&known.key, 9).unwrap(), []);
    index.note_manifests(BUCKET, None, &[on(Some("1"), change(far, "2", None))]).unwrap();
    assert_eq!(listed(&fixture.store).len(), 4);
    let gone = ManifestChange { now: None, ..change(far, "", None) };
    index.note_manifests(BUCKET, None, &[gone]).unwrap();
    assert_eq!(index.manifests("", 9).unwrap(), []);
}

#[test]
fn a_pass_cannot_complete_rows_that_began_after_it() {
    let fixture = settled();
    let index = fixture.store.index();
    assert_eq!(index.bucket_token(BUCKET).unwrap(), None);
    index.change_bucket(Some(BUCKET)).unwrap();
    let old = index.bucket_token(BUCKET).unwrap().unwrap();
    // Another server changes to another bucket and back.
    for id in ["other", BUCKET] {
        while index.change_bucket(Some(id)).unwrap() {}
    }
    let new = index.bucket_token(BUCKET).unwrap().unwrap();
    let changes = [change("example.com/far@v1.0.0", "1", Some(5))];
    assert!(!index.note_manifests(BUCKET, Some(&old), &changes).unwrap());
    assert!(!index.complete_bucket(BUCKET, &old).unwrap());
    assert!(index.manifests("", 9).unwrap().is_empty() && !index.has_bucket(BUCKET).unwrap());
    assert!(index.note_manifests(BUCKET, Some(&new), &changes).unwrap());
    assert!(index.complete_bucket(BUCKET, &new).unwrap() && index.has_bucket(BUCKET).unwrap());
}
