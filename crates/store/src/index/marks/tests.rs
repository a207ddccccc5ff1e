use std::fs;

use stoa_layout::gate::Mode;

use super::*;
use crate::index::{LogKind, Stop};
use crate::list::SETTLED;
use crate::testing::{Fixture, open, version, zip};
use crate::{Record, Store, Tombstone};

const A: &str = "example.com/a@v1.0.0";
const B: &str = "example.com/b@v1.0.0";

fn reconcile(store: &Store) {
    store.index().reconcile(&Stop::default()).unwrap();
}

/// Reconciles at a time at which every folder has settled.
fn reconcile_later(fixture: &mut Fixture) {
    fixture.store.index.clock = || SystemTime::now() + 2 * SETTLED;
    reconcile(&fixture.store);
    fixture.store.index.clock = SystemTime::now;
}

/// Returns a named store with an index.
fn indexed() -> Fixture {
    let fixture = Fixture::new();
    let Fixture { dir, store } = fixture;
    let store = store.named(Some("here".to_owned()));
    reconcile(&store);
    Fixture { dir, store }
}

fn forbid(store: &Store, pair: &str) {
    let tombstone = Tombstone::now(Some("a key is in it".to_owned()));
    store.remove(&store.claim(&version(pair)).unwrap(), Some(tombstone)).unwrap();
}

fn lift(store: &Store, pair: &str) {
    assert!(store.records().lift(&store.claim(&version(pair)).unwrap()).unwrap());
}

/// Returns the marks in the log: number, version, whether it is lifted, and rank.
fn marks(store: &Store) -> Vec<(u64, String, bool, u64, String)> {
    let events = store.index().events(0, 100).unwrap();
    let marks = events.into_iter().filter_map(|event| match event.kind {
        LogKind::Marked(mark) => {
            let pair = format!("{}@{}", event.module, event.version);
            Some((event.seq, pair, mark.is_lifted, mark.counter, mark.origin))
        }
        LogKind::Published { .. } => None,
    });
    marks.collect()
}

fn mark_of(pair: &str, seq: u64, is_lifted: bool, counter: u64) -> (u64, String, bool, u64, String) {
    (seq, pair.to_owned(), is_lifted, counter, "here".to_owned())
}

#[test]
fn a_tombstone_and_its_lifting_are_events() {
    let fixture = indexed();
    let v = version(A);
    fixture.publish(&v, &zip(&v, "package a\n"));
    forbid(&fixture.store, A);
    assert_eq!(marks(&fixture.store), [mark_of(A, 2, false, 1)]);
    assert_eq!(fixture.store.index().events(0, 9).unwrap().len(), 1, "the version is no event any more");
    forbid(&fixture.store, A);
    assert_eq!(marks(&fixture.store), [mark_of(A, 2, false, 1)], "nothing new");
    lift(&fixture.store, A);
    assert_eq!(marks(&fixture.store), [mark_of(A, 3, true, 2)]);
    fixture.publish(&v, &zip(&v, "package a\n"));
    let events = fixture.store.index().events_of("example.com/a").unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [3, 4]);
    forbid(&fixture.store, B);
    assert_eq!(fixture.store.index().logged_modules("", 9).unwrap(), ["example.com/a", "example.com/b"]);
    // A pass finds nothing new.
    reconcile(&fixture.store);
    assert_eq!(marks(&fixture.store), [mark_of(A, 3, true, 2), mark_of(B, 5, false, 1)]);
    // Hashes in a record are no mark.
    let claim = fixture.store.claim(&version("example.com/c@v1.0.0")).unwrap();
    let h1 = Some(stoa_gomod::h1::hash_mod(b"x"));
    fixture.store.records().write(&claim, &Record { h1, ..Record::default() }).unwrap();
    assert_eq!(fixture.store.index().log().unwrap().last, 5);
}

#[test]
fn marks_that_were_written_without_the_index_are_found_by_a_pass() {
    let mut fixture = indexed();
    forbid(&fixture.store, A);
    reconcile_later(&mut fixture);
    // By another process, whose index could not be written.
    let other = open(fixture.dir.path(), Mode::ReadWrite).named(Some("here".to_owned()));
    let index = fixture.dir.path().join("index");
    fs::rename(&index, fixture.dir.path().join("aside")).unwrap();
    lift(&other, A);
    forbid(&other, B);
    fs::rename(fixture.dir.path().join("aside"), &index).unwrap();
    assert_eq!(marks(&fixture.store), [mark_of(A, 1, false, 1)]);
    reconcile(&fixture.store);
    let expected = [mark_of(A, 2, true, 2), mark_of(B, 3, false, 1)];
    assert_eq!(marks(&fixture.store), expected);
    reconcile_later(&mut fixture);
    assert_eq!(marks(&fixture.store), expected);
    // Removed by hand, and a damaged record keeps its row.
    fs::remove_dir_all(fixture.dir.path().join("records/example.com/b")).unwrap();
    let damaged = fixture.store.paths.record(&version(A));
    let whole = fs::read(&damaged).unwrap();
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, "").unwrap();
    for _ in 0..2 {
        reconcile(&fixture.store);
        assert_eq!(marks(&fixture.store), [mark_of(A, 2, true, 2)]);
    }
    fs::write(&damaged, whole).unwrap();
    reconcile(&fixture.store);
    assert_eq!(marks(&fixture.store), [mark_of(A, 2, true, 2)]);
    fs::remove_file(&damaged).unwrap();
    reconcile(&fixture.store);
    assert!(marks(&fixture.store).is_empty());
}

#[test]
fn a_new_index_has_the_marks_of_all_records() {
    let fixture = indexed();
    forbid(&fixture.store, B);
    let path = fixture.store.paths.record(&version(A));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A record of an earlier release.
    fs::write(&path, "[tombstone]\nat = \"2026-01-02T03:04:05Z\"\n").unwrap();
    fs::remove_dir_all(fixture.dir.path().join("index/1")).unwrap();
    reconcile(&fixture.store);
    let mut found = marks(&fixture.store);
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let [old, new] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((old.1.as_str(), old.2, old.3, old.4.as_str()), (A, false, 1, ""));
    assert_eq!((new.1.as_str(), new.2, new.3, new.4.as_str()), (B, false, 1, "here"));
}

#[test]
fn records_are_read_only_if_their_folder_has_changed() {
    let mut fixture = indexed();
    forbid(&fixture.store, A);
    reconcile_later(&mut fixture);
    let module = version(A).path().clone();
    let read = |fixture: &Fixture, clock| {
        let read = |database: &Database| read_records(&fixture.store.paths, &module, clock, database);
        fixture.store.index.read(read).unwrap()
    };
    assert!(read(&fixture, SystemTime::now).is_none());
    forbid(&fixture.store, "example.com/a@v1.1.0");
    let seen = read(&fixture, SystemTime::now).unwrap();
    assert!(seen.stamp.is_none() && seen.differing.is_empty(), "the folder is young, and the row is there");
    assert!(read(&fixture, || SystemTime::now() + 2 * SETTLED).unwrap().stamp.is_some());
}

#[test]
fn a_record_that_is_newer_than_the_pass_counts() {
    let fixture = indexed();
    forbid(&fixture.store, A);
    let identity = fixture.store.index.identity().unwrap();
    let open_database =
        || fixture.store.index.open(identity, super::super::Access::Write, super::super::PATIENCE).unwrap();
    let mut database = open_database();
    // The pass read the record before it was written.
    let seen = SeenRecords {
        module: "example.com/a".to_owned(),
        differing: vec!["v1.0.0".to_owned(), "no version".to_owned()],
        stamp: None,
        is_gone: true,
    };
    database.apply_records(&fixture.store.paths, &[seen]).unwrap();
    assert_eq!(marks(&fixture.store), [mark_of(A, 1, false, 1)]);
    assert_eq!(database.record_folders("", 9).unwrap(), ["example.com/a"]);
}
