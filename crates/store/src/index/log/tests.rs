use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};

use stoa_gomod::h1;
use stoa_layout::gate::Mode;

use super::*;
use crate::index::{Condition, ManifestChange, ManifestRow, Stop};
use crate::testing::{Fixture, modfile, open, put_unsealed, version, zip};
use crate::{Change, Record, Tombstone};

fn reconcile(store: &Store) {
    store.index().reconcile(&Stop::default()).unwrap();
}

/// Returns a store with an index.
fn indexed() -> Fixture {
    let fixture = Fixture::new();
    reconcile(&fixture.store);
    fixture
}

fn publish(fixture: &Fixture, pair: &str) {
    let v = version(pair);
    fixture.publish(&v, &zip(&v, pair));
}

fn put(fixture: &Fixture, pair: &str) -> std::path::PathBuf {
    let v = version(pair);
    put_unsealed(&fixture.store, &v, &zip(&v, pair))
}

fn events(store: &Store, after: u64) -> Vec<LogEvent> {
    store.index().events(after, 100).unwrap()
}

fn pairs(events: &[LogEvent]) -> Vec<String> {
    events.iter().map(|event| format!("{}@{}", event.module, event.version)).collect()
}

fn hashes(event: &LogEvent) -> (Option<&H1>, Option<&H1>) {
    let LogKind::Published { h1, gomod_h1, .. } = &event.kind else { panic!("{event:?}") };
    (h1.as_ref(), gomod_h1.as_ref())
}

/// Returns the number of rows without a hash, straight from the table.
fn unknown(store: &Store) -> u64 {
    let ask = |database: &Database| {
        database.ask("SELECT count(*) FROM versions WHERE h1 IS NULL", |row| row.get::<_, i64>(0))
    };
    store.index.read(ask).unwrap().cast_unsigned()
}

const A: &str = "example.com/a@v1.0.0";
const B: &str = "example.com/b@v1.0.0";
const C: &str = "example.com/c@v1.0.0";

#[test]
fn each_new_version_gets_the_next_number_and_its_hashes() {
    let fixture = indexed();
    let begun = fixture.store.index().log().unwrap();
    assert_eq!((begun.id.len(), begun.last), (32, 0));
    for pair in [B, A] {
        publish(&fixture, pair);
    }
    let found = events(&fixture.store, 0);
    assert_eq!((pairs(&found), found[0].seq, found[1].seq), (vec![B.into(), A.into()], 1, 2));
    let (h1, gomod_h1) = hashes(&found[1]);
    assert_eq!(h1.cloned(), fixture.store.seal(&version(A)).unwrap());
    assert_eq!(gomod_h1, Some(&h1::hash_mod(modfile(&version(A)).as_bytes())));
    assert_eq!(unknown(&fixture.store), 0, "the publication wrote them");
    let LogKind::Published { time, bytes, .. } = found[1].kind else { panic!("{found:?}") };
    let footprint = fixture.store.footprint(&version(A)).unwrap().unwrap();
    assert_eq!(bytes, footprint.bytes);
    let published = footprint.published.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(i128::from(time), published.as_nanos().cast_signed());
    // A pass that finds the same versions gives no new numbers.
    reconcile(&fixture.store);
    assert_eq!(events(&fixture.store, 0), found);
    assert_eq!(fixture.store.index().log().unwrap(), LogState { last: 2, ..begun.clone() });
    assert_eq!(events(&fixture.store, 1), found[1..]);
    assert_eq!(fixture.store.index().events(0, 1).unwrap(), found[..1]);
    assert!(events(&fixture.store, u64::MAX).is_empty());
    // Another process sees the same log, also in a read-only store.
    for mode in [Mode::ReadOnly, Mode::ReadWrite] {
        let other = open(fixture.dir.path(), mode);
        assert_eq!((events(&other, 0), other.index().log().unwrap().id), (found.clone(), begun.id.clone()));
    }
}

#[test]
fn a_removal_makes_no_event_and_a_new_publication_does() {
    let fixture = indexed();
    for pair in [A, B] {
        publish(&fixture, pair);
    }
    fixture.store.remove(&fixture.store.claim(&version(A)).unwrap(), None).unwrap();
    assert_eq!(pairs(&events(&fixture.store, 0)), [B]);
    assert_eq!(fixture.store.index().log().unwrap().last, 2);
    publish(&fixture, A);
    let found = events(&fixture.store, 2);
    assert_eq!((pairs(&found), found[0].seq), (vec![A.to_owned()], 3));
}

#[test]
fn hashes_of_versions_that_a_pass_found_are_filled_in_when_they_are_sealed() {
    let fixture = Fixture::new();
    for pair in [A, B] {
        put(&fixture, pair);
    }
    reconcile(&fixture.store);
    let found = events(&fixture.store, 0);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|event| hashes(event) == (None, None)), "{found:?}");
    let h1 = fixture.store.seal(&version(A)).unwrap();
    let found = events(&fixture.store, 0);
    assert_eq!(hashes(&found[0]).0, h1.as_ref());
    assert!(hashes(&found[0]).1.is_some() && hashes(&found[1]) == (None, None));
    assert_eq!(unknown(&fixture.store), 1, "it is kept");
    let other = open(fixture.dir.path(), Mode::ReadOnly);
    assert_eq!(events(&other, 0), found);
    fixture.store.seal(&version(B)).unwrap();
    let of_reader = events(&other, 0);
    assert!(hashes(&of_reader[1]).0.is_some(), "a reader fills it in and keeps nothing");
    assert_eq!(unknown(&fixture.store), 1);
}

#[test]
fn a_seal_that_is_not_valid_any_more_gives_no_hash() {
    let fixture = Fixture::new();
    let folder = put(&fixture, A);
    fixture.store.seal(&version(A)).unwrap();
    fs::write(folder.join("zip"), "another").unwrap();
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    fs::File::open(folder.join("zip")).unwrap().set_modified(future).unwrap();
    reconcile(&fixture.store);
    assert_eq!(hashes(&events(&fixture.store, 0)[0]), (None, None));
}

#[test]
fn changed_content_is_a_new_event_without_the_old_hashes() {
    let fixture = indexed();
    for pair in [A, B] {
        publish(&fixture, pair);
    }
    let first = events(&fixture.store, 0);
    // A person replaces the version.
    fs::remove_dir_all(fixture.store.paths.version(&version(A))).unwrap();
    let v = version(A);
    put_unsealed(&fixture.store, &v, &zip(&v, "package longer\n\nvar X = 1\n"));
    reconcile(&fixture.store);
    let found = events(&fixture.store, 0);
    assert_eq!((pairs(&found), found[1].seq), (vec![B.to_owned(), A.to_owned()], 3));
    assert_eq!(hashes(&found[1]), (None, None));
    let h1 = fixture.store.seal(&v).unwrap();
    assert_eq!(hashes(&events(&fixture.store, 0)[1]).0, h1.as_ref());
    assert_ne!(hashes(&first[0]).0, h1.as_ref());
}

#[test]
fn only_complete_versions_are_events() {
    let fixture = indexed();
    let folder = put(&fixture, A);
    let zip = fixture.dir.path().join("zip");
    fs::rename(folder.join("zip"), &zip).unwrap();
    reconcile(&fixture.store);
    assert_eq!(fixture.store.index().catalog(None, 9).unwrap().len(), 1);
    assert!(events(&fixture.store, 0).is_empty());
    assert!(fixture.store.index().logged_modules("", 9).unwrap().is_empty());
    fs::rename(&zip, folder.join("zip")).unwrap();
    reconcile(&fixture.store);
    assert_eq!(pairs(&events(&fixture.store, 0)), [A]);
}

#[test]
fn events_of_a_module_and_modules_with_events_are_listed() {
    let fixture = indexed();
    for pair in [C, A, "example.com/a@v1.1.0", "example.com/a/v2@v2.0.0"] {
        publish(&fixture, pair);
    }
    let index = fixture.store.index();
    assert_eq!(pairs(&index.events_of("example.com/a").unwrap()), [A, "example.com/a@v1.1.0"]);
    assert!(index.events_of("example.com/z").unwrap().is_empty());
    let all = ["example.com/a", "example.com/a/v2", "example.com/c"];
    assert_eq!(index.logged_modules("", 9).unwrap(), all);
    assert_eq!(index.logged_modules("", 2).unwrap(), all[..2]);
    assert_eq!(index.logged_modules("example.com/a", 9).unwrap(), all[1..]);
}

#[test]
fn a_new_index_begins_a_new_log() {
    let fixture = indexed();
    publish(&fixture, A);
    let old = fixture.store.index().log().unwrap();
    fs::remove_dir_all(fixture.dir.path().join("index/1")).unwrap();
    assert!(fixture.store.index().log().unwrap_err().needs_rebuild());
    reconcile(&fixture.store);
    let new = fixture.store.index().log().unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(pairs(&events(&fixture.store, 0)), [A]);
}

#[test]
fn an_index_of_the_earlier_schema_is_built_again() {
    let fixture = indexed();
    publish(&fixture, A);
    let number = fixture.store.index.databases.newest().unwrap().unwrap();
    let path = fixture.store.index.databases.path(number);
    fixture.store.index.abandon();
    let earlier = rusqlite::Connection::open(&path).unwrap();
    let change = "DROP TABLE log; DROP TABLE marks; DROP TABLE record_folders; DROP INDEX versions_by_seq;
        ALTER TABLE versions DROP COLUMN seq; PRAGMA user_version = 2;";
    earlier.execute_batch(change).unwrap();
    drop(earlier);
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    assert!(other.index().events(0, 9).unwrap_err().needs_rebuild());
    assert!(other.index().reconcile(&Stop::default()).unwrap().is_new);
    assert_eq!(
        (pairs(&events(&other, 0)), pairs(&events(&fixture.store, 0))),
        (vec![A.into()], vec![A.into()])
    );
    // Without its identity the log is damaged.
    let newest = other.index.databases.path(other.index.databases.newest().unwrap().unwrap());
    rusqlite::Connection::open(newest).unwrap().execute("DELETE FROM log", []).unwrap();
    let third = open(fixture.dir.path(), Mode::ReadWrite);
    assert!(third.index().reconcile(&Stop::default()).unwrap().is_new);
}

#[test]
fn numbers_from_before_a_power_cut_are_not_given_again() {
    let fixture = indexed();
    publish(&fixture, A);
    let number = fixture.store.index.databases.newest().unwrap().unwrap();
    fixture.store.index.abandon();
    let database = rusqlite::Connection::open(fixture.store.index.databases.path(number)).unwrap();
    database.execute("UPDATE log SET boot = 'another boot'", []).unwrap();
    drop(database);
    publish(&fixture, B);
    let found = events(&fixture.store, 0);
    assert_eq!((found[0].seq, found[1].seq), (1, 2 + SKIPPED.cast_unsigned()));
    reconcile(&fixture.store);
    publish(&fixture, C);
    assert_eq!(events(&fixture.store, 0)[2].seq, 3 + SKIPPED.cast_unsigned(), "only once");
}

#[test]
fn versions_of_a_bucket_are_events_too() {
    let fixture = indexed();
    let index = fixture.store.index();
    index.change_bucket(Some("id")).unwrap();
    let change = |pair: &str, tag: &str, published: Option<i64>| ManifestChange {
        version: version(pair),
        condition: Condition::Always,
        now: Some(ManifestRow { tag: tag.to_owned(), published, ..ManifestRow::default() }),
    };
    index.note_manifests("id", None, &[change(A, "1", Some(7)), change(B, "1", None)]).unwrap();
    let found = events(&fixture.store, 0);
    assert_eq!(pairs(&found), [A]);
    assert!(matches!(found[0].kind, LogKind::Published { time: 7, .. }));
    // A copy in the store, and its eviction, make no event.
    publish(&fixture, A);
    assert!(hashes(&events(&fixture.store, 0)[0]).0.is_some());
    fs::remove_dir_all(fixture.store.paths.version(&version(A))).unwrap();
    reconcile(&fixture.store);
    let evicted = events(&fixture.store, 0);
    assert_eq!((evicted.len(), evicted[0].seq), (1, found[0].seq));
    assert!(hashes(&evicted[0]).0.is_some());
    index.note_manifests("id", None, &[change(A, "2", None)]).unwrap();
    assert!(events(&fixture.store, 0).is_empty());
    index.note_manifests("id", None, &[change(A, "3", Some(9))]).unwrap();
    let found = events(&fixture.store, 1);
    assert_eq!(hashes(&found[0]), (None, None), "it may have other content");
    // A version that is stored here and about to go from the bucket is no event.
    publish(&fixture, A);
    index.note_manifests("id", None, &[ManifestChange { now: None, ..change(A, "", None) }]).unwrap();
    assert!(events(&fixture.store, 0).is_empty());
}

#[test]
fn a_manifest_names_the_size_the_hashes_and_the_mark_of_its_version() {
    let fixture = indexed();
    let index = fixture.store.index();
    index.change_bucket(Some("id")).unwrap();
    let h1 = Some(h1::hash_mod(b"zip"));
    let mark = |counter, is_lifted| Mark {
        is_lifted,
        origin: "here".to_owned(),
        counter,
        at: "2026-01-02T03:04:05Z".to_owned(),
        reason: None,
    };
    let note = |tag: &str, row: Option<ManifestRow>| {
        let now = row.map(|row| ManifestRow { tag: tag.to_owned(), ..row });
        let change = ManifestChange { version: version(A), condition: Condition::Always, now };
        index.note_manifests("id", None, &[change]).unwrap();
    };
    let present = ManifestRow { published: Some(7), bytes: Some(70), ..ManifestRow::default() };
    note("1", Some(present.clone()));
    let unsealed = events(&fixture.store, 0);
    let named = ManifestRow { h1: h1.clone(), gomod_h1: h1.clone(), ..present };
    note("2", Some(named.clone()));
    let sealed = events(&fixture.store, 0);
    let LogKind::Published { time: 7, bytes: 70, .. } = sealed[0].kind else { panic!("{sealed:?}") };
    assert_eq!((hashes(&unsealed[0]), hashes(&sealed[0])), ((None, None), (h1.as_ref(), h1.as_ref())));
    assert_eq!((sealed.len(), sealed[0].seq), (1, unsealed[0].seq), "a seal is no event");
    // Removed for good, and allowed again.
    note("3", Some(ManifestRow { mark: Some(mark(1, false)), ..ManifestRow::default() }));
    let forbidden = events(&fixture.store, 0);
    assert_eq!((forbidden.len(), &forbidden[0].kind), (1, &LogKind::Marked(mark(1, false))));
    note("4", Some(ManifestRow { mark: Some(mark(2, true)), ..named }));
    let lifted = events(&fixture.store, forbidden[0].seq);
    assert_eq!(lifted.len(), 2, "the lifting and the version: {lifted:?}");
    // A higher mark in the record of the store hides the one of the bucket.
    let claim = fixture.store.claim(&version(A)).unwrap();
    assert!(fixture.store.apply_mark(&claim, &mark(3, false), "test").unwrap());
    let marks = |after| {
        let events = fixture.store.index().events(after, 9).unwrap().into_iter();
        events.filter(|event| matches!(event.kind, LogKind::Marked(_))).collect::<Vec<_>>()
    };
    assert_eq!((marks(0).len(), &marks(0)[0].kind), (1, &LogKind::Marked(mark(3, false))));
    fixture.store.records().write(&claim, &Record::default()).unwrap();
    assert_eq!((marks(0).len(), &marks(0)[0].kind), (1, &LogKind::Marked(mark(2, true))));
    // The rows go with the bucket.
    while index.change_bucket(None).unwrap() {}
    assert!(events(&fixture.store, 0).is_empty());
}

#[test]
fn concurrent_publications_of_two_stores_get_different_numbers() {
    let fixture = indexed();
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    std::thread::scope(|scope| {
        for (n, store) in [&fixture.store, &other].into_iter().enumerate() {
            scope.spawn(move || {
                for i in 0..20 {
                    let v = version(&format!("example.com/{n}@v1.0.{i}"));
                    let claim = store.claim(&v).unwrap();
                    store.publish(crate::testing::draft(store, &v, &zip(&v, "package a\n")), &claim).unwrap();
                }
            });
        }
        // A reader that follows the log misses none.
        let mut seen: Vec<LogEvent> = Vec::new();
        while seen.len() < 40 {
            let new = fixture.store.index().events(seen.last().map_or(0, |event| event.seq), 7).unwrap();
            seen.extend(new);
            reconcile(&other);
        }
        let unique: BTreeSet<u64> = seen.iter().map(|event| event.seq).collect();
        assert_eq!(unique.len(), 40);
        assert_eq!(pairs(&seen).into_iter().collect::<BTreeSet<_>>().len(), 40);
    });
}

#[test]
fn the_listener_hears_of_every_change() {
    let fixture = indexed();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&heard);
    fixture.store.listen(Box::new(move |version, change| {
        listener.lock().unwrap().push((version.to_string(), change));
    }));
    fixture.store.listen(Box::new(|_, _| panic!("only the first listener is called")));
    publish(&fixture, A);
    let claim = fixture.store.claim(&version(A)).unwrap();
    fixture.store.remove(&claim, Some(Tombstone::now(None))).unwrap();
    fixture.store.records().write(&claim, &Record::default()).unwrap();
    let heard = heard.lock().unwrap();
    assert!(heard.iter().all(|(version, _)| version == A));
    let changes: Vec<Change> = heard.iter().map(|(_, change)| *change).collect();
    assert_eq!(changes, [Change::Published, Change::Recorded, Change::Removed, Change::Recorded]);
}
