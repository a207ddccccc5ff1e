use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use stoa_layout::gate::Mode;

use super::*;
use crate::Mark;
use crate::testing::{Fixture, open, staged, version};

fn h1(letter: char) -> H1 {
    H1::new(&format!("h1:{}=", letter.to_string().repeat(43))).unwrap()
}

fn fetch(pair: &str, seq: u64) -> Queued {
    let what = QueuedKind::Fetch { h1: Some(h1('A')), gomod_h1: None, bytes: 7 };
    Queued { version: version(pair), what, is_listed: true, seq: Some(seq) }
}

fn mark(pair: &str, counter: u64, origin: &str) -> Queued {
    let reason = Some("a key is in it".to_owned());
    let at = "2026-01-02T03:04:05Z".to_owned();
    let mark = Mark { is_lifted: false, origin: origin.to_owned(), counter, at, reason };
    Queued { version: version(pair), what: QueuedKind::Mark(mark), is_listed: false, seq: None }
}

/// Returns a time at which every new event is due.
fn soon() -> i64 {
    now() + 60_000
}

fn postponed(due_ms: i64, is_parked: bool) -> RowChange<'static> {
    RowChange::Postponed { due_ms, reason: "no answer", is_parked }
}

fn file(store: &Store) -> PathBuf {
    store.peers.databases.path(store.peers.databases.newest().unwrap().unwrap())
}

const M: &str = "example.com/m@v1.0.0";
const N: &str = "example.com/n@v1.0.0";

#[test]
fn events_are_queued_with_their_pointer() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    assert!(peers.pointers("b").unwrap().is_empty() && peers.next_due(0).unwrap().is_none());
    assert_eq!(peers.state("b").unwrap(), PeerState::default());
    assert!(!fixture.dir.path().join("cache/peers").exists(), "a query creates nothing");
    let events = [fetch(M, 3), fetch(N, 4), mark(M, 2, "c")];
    assert_eq!(peers.take_in("b", Some(("index", 4)), &events, &[], &[]).unwrap(), 3);
    assert_eq!(peers.pointers("b").unwrap(), BTreeMap::from([("index".to_owned(), 4)]));
    assert!(peers.pointers("c").unwrap().is_empty());
    let due = peers.due("b", soon(), 9).unwrap();
    assert_eq!(due.len(), 3);
    for event in &events {
        assert!(due.contains(&(event.clone(), 0)), "{event:?} in {due:?}");
    }
    assert!(
        peers.due("c", soon(), 9).unwrap().is_empty()
            && peers.due("b", now() - 60_000, 9).unwrap().is_empty()
    );
    assert_eq!(peers.due("b", soon(), 2).unwrap().len(), 2);
    assert_eq!(peers.count("b").unwrap(), 3);
    let next = peers.next_due(0).unwrap().unwrap();
    assert!(next > 0 && next <= now());
    // Its state survives a restart.
    let other = open(fixture.dir.path(), Mode::ReadWrite);
    assert_eq!(other.peers().due("b", soon(), 9).unwrap(), due);
    // A pointer may go back, because an index may be older than it was.
    peers.take_in("b", Some(("index", 1)), &[], &[], &[]).unwrap();
    assert_eq!(other.peers().pointers("b").unwrap()["index"], 1);
}

#[test]
fn an_event_that_is_queued_already_keeps_its_attempts_unless_it_differs() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    let v = version(M);
    let unlisted = Queued { is_listed: false, seq: None, ..fetch(M, 0) };
    peers.take_in("b", None, std::slice::from_ref(&unlisted), &[], &[]).unwrap();
    peers.note_attempt("b", &unlisted, postponed(5, false)).unwrap();
    assert_eq!(peers.take_in("b", Some(("index", 3)), &[fetch(M, 3)], &[], &[]).unwrap(), 0);
    assert_eq!(peers.due("b", 5, 9).unwrap(), [(fetch(M, 3), 1)], "the pull adds the number and lists it");
    // A notification that comes later, without hashes.
    let what = QueuedKind::Fetch { h1: None, gomod_h1: None, bytes: 7 };
    assert_eq!(peers.take_in("b", None, &[Queued { what, ..unlisted }], &[], &[]).unwrap(), 0);
    assert_eq!(peers.due("b", 5, 9).unwrap(), [(fetch(M, 3), 1)]);
    let what = QueuedKind::Fetch { h1: Some(h1('E')), gomod_h1: Some(h1('A')), bytes: 8 };
    let other = Queued { what, ..fetch(M, 9) };
    assert_eq!(peers.take_in("b", Some(("index", 9)), std::slice::from_ref(&other), &[], &[]).unwrap(), 1);
    assert_eq!(peers.due("b", soon(), 9).unwrap(), [(other, 0)]);
    // The same version of another peer is another event.
    peers.take_in("a", None, &[fetch(M, 1)], &[], &[]).unwrap();
    let sources = peers.sources(&v).unwrap();
    let expected = [("a".to_owned(), Some(h1('A')), None), ("b".to_owned(), Some(h1('E')), Some(h1('A')))];
    assert_eq!(sources, expected);
    peers.take_in("b", None, &[mark(M, 1, "x")], &[], &[]).unwrap();
    peers.finish(&v, &h1('A')).unwrap();
    assert_eq!(peers.due("b", soon(), 9).unwrap().len(), 2, "the event of b names another hash");
    peers.finish(&v, &h1('E')).unwrap();
    assert_eq!(peers.due("b", soon(), 9).unwrap(), [(mark(M, 1, "x"), 0)], "marks stay");
    peers.note_attempt("b", &mark(M, 1, "x"), RowChange::Done).unwrap();
    assert_eq!(peers.count("b").unwrap(), 0);
}

#[test]
fn only_a_higher_mark_replaces_a_queued_mark() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    let take = |counter, origin| peers.take_in("b", None, &[mark(M, counter, origin)], &[], &[]).unwrap();
    assert_eq!((take(2, "c"), take(2, "b"), take(1, "z"), take(2, "c")), (1, 0, 0, 0));
    assert_eq!((take(2, "d"), take(3, "a"), take(2, "z")), (1, 1, 0));
    assert_eq!(peers.due("b", soon(), 9).unwrap(), [(mark(M, 3, "a"), 0)]);
}

#[test]
fn parked_events_wait_until_they_are_revived() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.take_in("b", None, &[fetch(M, 1), fetch(N, 2)], &[], &[]).unwrap();
    peers.take_in("c", None, &[fetch(N, 2)], &[], &[]).unwrap();
    let far = soon() + 1_000_000;
    peers.note_attempt("b", &fetch(M, 1), postponed(far, true)).unwrap();
    peers.note_attempt("b", &fetch(N, 2), postponed(far, false)).unwrap();
    assert!(peers.due("b", soon(), 9).unwrap().is_empty());
    let state = peers.state("b").unwrap();
    assert_eq!((state.queued, state.parked, peers.count("b").unwrap()), (1, 1, 1));
    assert!(state.oldest_queued_at.is_some_and(|at| at <= now()));
    assert!(peers.listed(version(M).path()).unwrap().is_empty());
    assert_eq!(peers.listed(version(N).path()).unwrap(), [version(N).version().clone()], "listed once");
    // An event that comes again stays parked.
    assert_eq!(peers.take_in("b", None, &[fetch(M, 9)], &[], &[]).unwrap(), 0);
    assert!(peers.due("b", far, 9).unwrap().iter().all(|(event, _)| event.version == version(N)));
    peers.note_attempt("c", &fetch(N, 2), RowChange::Done).unwrap();
    assert_eq!((peers.next_due(0).unwrap(), peers.next_due(far).unwrap()), (Some(far), None));
    assert_eq!(
        (peers.revive("b").unwrap(), peers.revive("b").unwrap(), peers.revive("c").unwrap()),
        (2, 0, 0)
    );
    assert!(peers.due("b", soon(), 9).unwrap().iter().all(|(_, attempts)| *attempts == 0));
    assert_eq!(peers.count("b").unwrap(), 2);
}

#[test]
fn only_versions_that_may_be_listed_are_listed() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    let unlisted = Queued { is_listed: false, ..fetch("example.com/m@v1.2.0", 3) };
    let events = [fetch("example.com/m@v1.10.0", 1), fetch("example.com/m@v1.9.0", 2), unlisted];
    peers.take_in("b", None, &events, &[], &[]).unwrap();
    peers.take_in("b", None, &[mark("example.com/m@v1.3.0", 1, "b"), fetch(N, 4)], &[], &[]).unwrap();
    let listed = peers.listed(version(M).path()).unwrap();
    assert_eq!(listed.iter().map(Version::as_str).collect::<Vec<_>>(), ["v1.9.0", "v1.10.0"]);
}

#[test]
fn a_pointer_is_finished_up_to_the_first_event_that_waits() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    let finished = |seq: u64| BTreeMap::from([("index".to_owned(), seq)]);
    peers.take_in("b", Some(("index", 9)), &[fetch(M, 4), fetch(N, 7)], &[], &[]).unwrap();
    peers.take_in("c", Some(("index", 3)), &[fetch(M, 2)], &[], &[]).unwrap();
    assert_eq!(peers.finished("b").unwrap(), finished(3));
    peers.finish(&version(M), &h1('A')).unwrap();
    assert_eq!(peers.finished("b").unwrap(), finished(6));
    peers.note_attempt("b", &fetch(N, 7), postponed(soon(), false)).unwrap();
    assert_eq!(peers.finished("b").unwrap(), finished(6));
    peers.note_attempt("b", &fetch(N, 7), postponed(soon(), true)).unwrap();
    assert_eq!(peers.finished("b").unwrap(), finished(9));
    assert_eq!(peers.finished("c").unwrap(), finished(3));
    let other = BTreeMap::from([("other".to_owned(), 5)]);
    peers.note_compared("b").unwrap();
    peers.note_compared("c").unwrap();
    peers.replace_pointers("b", &other).unwrap();
    assert_eq!(peers.state("b").unwrap().compared_at, None, "a comparison may have queued events elsewhere");
    assert!(peers.state("c").unwrap().compared_at.is_some());
    assert_eq!((peers.pointers("b").unwrap(), peers.pointers("c").unwrap()), (other, finished(3)));
}

#[test]
fn an_event_that_is_done_is_no_work_again_and_still_names_its_peer() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.note_conflict("b", &version(M), &h1('A'), &h1('E')).unwrap();
    // Its version was here before.
    assert_eq!(peers.take_in("b", None, &[], &[fetch(M, 3)], &[]).unwrap(), 0);
    assert!(peers.conflicts(None, 9).unwrap().is_empty());
    // Its work is done.
    peers.take_in("c", None, &[fetch(N, 4)], &[], &[]).unwrap();
    peers.finish(&version(N), &h1('A')).unwrap();
    for (peer, pair) in [("b", M), ("c", N)] {
        assert_eq!(peers.take_in(peer, None, &[fetch(pair, 9)], &[], &[]).unwrap(), 0);
        peers.revive(peer).unwrap();
        assert!(peers.due(peer, soon(), 9).unwrap().is_empty());
        assert_eq!(peers.state(peer).unwrap().queued + peers.state(peer).unwrap().parked, 0);
        assert_eq!(peers.sources(&version(pair)).unwrap()[0].0, peer);
        assert!(peers.listed(version(pair).path()).unwrap().is_empty());
    }
    // Other content, or a tombstone in between, means work.
    let what = QueuedKind::Fetch { h1: Some(h1('I')), gomod_h1: None, bytes: 1 };
    assert_eq!(peers.take_in("b", None, &[Queued { what, ..fetch(M, 10) }], &[], &[]).unwrap(), 1);
    peers.forget(&version(N)).unwrap();
    assert_eq!(peers.take_in("c", None, &[fetch(N, 11)], &[], &[]).unwrap(), 1);
}

#[test]
fn the_result_of_an_attempt_changes_only_the_event_that_was_tried() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    let what = QueuedKind::Fetch { h1: Some(h1('E')), gomod_h1: None, bytes: 7 };
    let newer = Queued { what, ..fetch(M, 5) };
    peers.take_in("b", None, &[newer.clone(), mark(M, 3, "c")], &[], &[]).unwrap();
    for change in [RowChange::Done, RowChange::Forgotten, postponed(soon() * 2, true)] {
        peers.note_attempt("b", &fetch(M, 1), change).unwrap();
        peers.note_attempt("b", &mark(M, 2, "c"), change).unwrap();
        assert_eq!(peers.due("b", soon(), 9).unwrap().len(), 2, "{change:?}");
    }
    peers.note_attempt("b", &newer, RowChange::Forgotten).unwrap();
    peers.note_attempt("b", &mark(M, 3, "c"), RowChange::Done).unwrap();
    assert_eq!(peers.count("b").unwrap(), 0);
    assert_eq!(
        peers.take_in("b", None, &[newer], &[], &[]).unwrap(),
        1,
        "a forgotten event means work again"
    );
}

#[test]
fn parked_events_are_forgotten_and_mean_work_when_they_come_again() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.take_in("b", None, &[fetch(M, 1), fetch(N, 2)], &[], &[]).unwrap();
    peers.note_attempt("b", &fetch(M, 1), postponed(soon(), true)).unwrap();
    peers.forget_parked("b").unwrap();
    assert_eq!((peers.state("b").unwrap().parked, peers.count("b").unwrap()), (0, 1));
    assert_eq!(peers.take_in("b", None, &[fetch(M, 1), fetch(N, 2)], &[], &[]).unwrap(), 1);
}

#[test]
fn an_event_that_a_wrong_clock_has_postponed_is_due() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.take_in("b", None, &[fetch(M, 1), fetch(N, 2)], &[], &[]).unwrap();
    let day = 24 * 60 * 60 * 1000;
    peers.note_attempt("b", &fetch(M, 1), postponed(now() + 365 * day, false)).unwrap();
    peers.note_attempt("b", &fetch(N, 2), postponed(now() + day / 24, false)).unwrap();
    assert_eq!(peers.due("b", now(), 9).unwrap(), [(fetch(M, 1), 1)]);
}

#[test]
fn a_notification_moves_no_event_out_of_the_way_of_the_pointer() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.take_in("b", Some(("index", 9)), &[fetch(M, 4)], &[], &[]).unwrap();
    let what = QueuedKind::Fetch { h1: Some(h1('E')), gomod_h1: None, bytes: 7 };
    for event in [fetch(M, 4), Queued { what, ..fetch(M, 4) }] {
        peers.take_in("b", None, &[Queued { seq: None, ..event }], &[], &[]).unwrap();
        assert_eq!(peers.finished("b").unwrap()["index"], 3);
    }
}

#[test]
fn conflicts_and_contacts_are_noted() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    assert!(peers.note_conflict("b", &version(N), &h1('A'), &h1('E')).unwrap());
    assert!(!peers.note_conflict("b", &version(N), &h1('A'), &h1('E')).unwrap());
    assert!(peers.note_conflict("b", &version(N), &h1('A'), &h1('I')).unwrap());
    peers.note_conflict("a", &version(M), &h1('A'), &h1('E')).unwrap();
    let conflicts = peers.conflicts(None, 9).unwrap();
    let [first, second] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    assert_eq!((first.peer.as_str(), &first.version), ("a", &version(M)));
    assert_eq!((&second.ours, &second.theirs, second.at <= now()), (&h1('A'), &h1('I'), true));
    assert_eq!(peers.conflicts(None, 1).unwrap().len(), 1);
    assert_eq!(peers.conflicts(Some("b"), 1).unwrap(), conflicts[1..]);
    peers.settle_conflict("a", &version(M)).unwrap();
    peers.settle_conflict("a", &version(M)).unwrap();
    assert_eq!(peers.conflicts(None, 9).unwrap(), conflicts[1..]);
    peers.note_contact("b", Err("the connection was refused")).unwrap();
    let state = peers.state("b").unwrap();
    assert_eq!(state.error.as_deref(), Some("the connection was refused"));
    assert!(state.contact_at.is_none() && state.error_at.is_some() && state.conflicts == 1);
    peers.take_in("b", Some(("index", 5)), &[], &[], &[]).unwrap();
    peers.take_in("b", Some(("other", 2)), &[], &[], &[]).unwrap();
    peers.note_contact("b", Ok(("index", 9))).unwrap();
    peers.note_compared("b").unwrap();
    let state = peers.state("b").unwrap();
    assert_eq!(
        (state.pointer, state.their_last, state.index_id.as_deref()),
        (Some(5), Some(9), Some("index"))
    );
    assert!(state.contact_at.is_some() && state.compared_at.is_some() && state.error.is_some());
    peers.keep_only(&["a", "c"]).unwrap();
    assert_eq!(peers.state("b").unwrap(), PeerState::default());
    assert!(peers.pointers("b").unwrap().is_empty() && peers.conflicts(None, 9).unwrap().is_empty());
}

#[test]
fn a_peer_with_ever_new_indexes_has_a_bounded_number_of_pointers() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.take_in("c", Some(("0", 1)), &[], &[], &[]).unwrap();
    for n in 0..100 {
        peers.take_in("b", Some((&n.to_string(), n)), &[], &[], &[]).unwrap();
    }
    let pointers = peers.pointers("b").unwrap();
    assert!(pointers.len() <= 65 && pointers["99"] == 99, "{pointers:?}");
    assert_eq!(peers.pointers("c").unwrap().len(), 1);
}

#[test]
fn a_lost_or_damaged_database_starts_anew() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 8] = [
        ("cache deleted", |file| fs::remove_dir_all(file.ancestors().nth(3).unwrap()).unwrap()),
        ("folder deleted", |file| fs::remove_dir_all(file.parent().unwrap()).unwrap()),
        ("file deleted", |file| fs::remove_file(file).unwrap()),
        ("cut", |file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(5000).unwrap()),
        ("emptied", |file| fs::write(file, "").unwrap()),
        ("replaced by garbage", |file| fs::write(file, [0x5a; 9000]).unwrap()),
        ("of another release", |file| {
            rusqlite::Connection::open(file).unwrap().pragma_update(None, "user_version", 77).unwrap();
        }),
        ("a folder in its place", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    let fixture = Fixture::new();
    for (name, harm) in harms {
        fixture.store.peers().take_in("b", Some(("index", 4)), &[fetch(M, 3)], &[], &[]).unwrap();
        let path = file(&fixture.store);
        // In the file, not only in its log.
        drop(rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
        harm(&path);
        // A new process, because this process keeps the database open.
        let other = open(fixture.dir.path(), Mode::ReadWrite);
        assert_eq!(other.peers().count("b").unwrap(), 0, "{name}");
        assert!(other.peers().pointers("b").unwrap().is_empty(), "{name}");
        assert_eq!(
            other.peers().take_in("b", Some(("new", 1)), &[fetch(N, 1)], &[], &[]).unwrap(),
            1,
            "{name}"
        );
        // This process changes to the new database, and what it writes is there for the other.
        assert_eq!(fixture.store.peers().pointers("b").unwrap()["new"], 1, "{name}");
        fixture.store.peers().finish(&version(N), &h1('A')).unwrap();
        assert_eq!(other.peers().count("b").unwrap(), 0, "{name}");
        assert!(staged(fixture.dir.path()).is_empty(), "{name}");
        let left = fs::read_dir(fixture.dir.path().join("cache/peers")).unwrap().count();
        assert_eq!(left, 1, "{name}: older databases are removed");
    }
}

#[test]
fn a_cache_that_is_deleted_beside_an_open_database_is_created_again() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    for n in 1..4 {
        assert_eq!(peers.take_in("b", Some(("index", n)), &[fetch(M, n)], &[], &[]).unwrap(), 1);
        fs::remove_dir_all(fixture.dir.path().join("cache")).unwrap();
        if n > 1 {
            assert!(peers.pointers("b").unwrap().is_empty());
        }
        peers.note_contact("b", Ok(("index", n))).unwrap();
        assert_eq!(peers.state("b").unwrap().their_last, Some(n));
        // It is not only in a deleted file that this process has open.
        let other = open(fixture.dir.path(), Mode::ReadWrite);
        assert_eq!(other.peers().state("b").unwrap().their_last, Some(n));
        peers.finish(&version(M), &h1('A')).unwrap();
    }
}

#[test]
fn reading_works_beside_a_server_and_creates_nothing() {
    let fixture = Fixture::new();
    let reader = open(fixture.dir.path(), Mode::ReadOnly);
    assert_eq!(reader.peers().count("b").unwrap(), 0);
    assert!(!fixture.dir.path().join("cache/peers").exists());
    assert!(matches!(reader.peers().take_in("b", None, &[], &[], &[]), Err(PeersError::Store(_))));
    for n in 1..20 {
        let pair = format!("example.com/m@v1.{n}.0");
        fixture.store.peers().take_in("b", Some(("index", n)), &[fetch(&pair, n)], &[], &[]).unwrap();
        assert_eq!(reader.peers().count("b").unwrap(), n);
        let command = open(fixture.dir.path(), Mode::ReadWrite);
        assert_eq!(command.peers().pointers("b").unwrap()["index"], n);
    }
    fs::write(file(&fixture.store), "damaged".repeat(900)).unwrap();
    assert!(matches!(reader.peers().count("b"), Err(PeersError::Broken { .. })));
}

#[test]
fn a_hard_linked_copy_gets_a_database_of_its_own() {
    let fixture = Fixture::new();
    fixture.store.peers().take_in("b", Some(("index", 4)), &[fetch(M, 3)], &[], &[]).unwrap();
    let path = file(&fixture.store);
    let copy = fixture.dir.path().join("copy.sqlite");
    fs::hard_link(&path, &copy).unwrap();
    assert_eq!(fixture.store.peers().count("b").unwrap(), 0);
    fixture.store.peers().take_in("b", None, &[fetch(N, 3)], &[], &[]).unwrap();
    assert_ne!(fs::metadata(file(&fixture.store)).unwrap().ino(), fs::metadata(&copy).unwrap().ino());
}

/// The number of events in a batch of [`queue_and_pointer_move_together_when_the_process_is_killed`].
const BATCH: u64 = 40;

/// The store on which [`takes_in_events_until_it_is_killed`] works.
const ROOT: &str = "STOA_TEST_PEERS_ROOT";

#[test]
#[ignore = "runs only as a child of another test"]
fn takes_in_events_until_it_is_killed() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let store = open(Path::new(&root), Mode::ReadWrite);
    let peers = store.peers();
    let mut seq = peers.pointers("b").unwrap().get("index").copied().unwrap_or_default();
    loop {
        let events: Vec<_> =
            (seq..seq + BATCH).map(|n| fetch(&format!("example.com/m@v1.{n}.0"), n)).collect();
        seq += BATCH;
        peers.take_in("b", Some(("index", seq)), &events, &[], &[]).unwrap();
        println!("{seq}");
    }
}

#[test]
fn queue_and_pointer_move_together_when_the_process_is_killed() {
    use std::io::BufRead;
    let fixture = Fixture::new();
    let mut before = 0;
    for round in 1..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "peers::tests::takes_in_events_until_it_is_killed"])
            .env(ROOT, fixture.dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let reported: Vec<u64> =
            lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).take(5 * round).collect();
        // It goes on meanwhile, so the kill comes at any point of a transaction.
        child.kill().unwrap();
        child.wait().unwrap();
        let peers = fixture.store.peers();
        let (pointer, queued) = (peers.pointers("b").unwrap()["index"], peers.count("b").unwrap());
        assert_eq!(pointer, queued, "after {reported:?}");
        assert!(pointer >= *reported.last().unwrap() && pointer > before, "{pointer} after {reported:?}");
        before = pointer;
    }
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    peers.take_in("b", Some(("index", 4)), &[fetch(M, 3)], &[], &[]).unwrap();
    let failed: Result<(), _> = peers.write(|database| {
        let transaction = database.begin()?;
        state::move_pointer(database, "b", "index", 9, now())?;
        drop(transaction);
        Err(rusqlite::Error::QueryReturnedNoRows)
    });
    assert!(matches!(failed, Err(PeersError::Database { .. })));
    assert_eq!((peers.pointers("b").unwrap()["index"], peers.count("b").unwrap()), (4, 1));
}

#[test]
fn many_threads_share_the_database() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    std::thread::scope(|scope| {
        for peer in ["a", "b", "c"] {
            scope.spawn(move || {
                for n in 0..30 {
                    let v = format!("example.com/{peer}@v1.{n}.0");
                    peers.take_in(peer, Some(("index", n)), &[fetch(&v, n)], &[], &[]).unwrap();
                    if n % 2 == 0 {
                        peers.finish(&version(&v), &h1('A')).unwrap();
                    }
                    assert!(peers.listed(version(&v).path()).unwrap().len() as u64 <= n + 1);
                }
            });
        }
    });
    for peer in ["a", "b", "c"] {
        assert_eq!((peers.count(peer).unwrap(), peers.pointers(peer).unwrap()["index"]), (15, 29));
    }
}

#[test]
fn rows_that_are_done_cost_no_query_anything() {
    let fixture = Fixture::new();
    fixture.store.peers().take_in("b", None, &[fetch(M, 1)], &[], &[]).unwrap();
    let path = file(&fixture.store);
    // A database of an earlier release gets the indexes when it is opened.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("DROP INDEX queue_parked; DROP INDEX queue_by_place").unwrap();
    drop(connection);
    let database = Database::open(&path).unwrap();
    let plan = |sql: &str| {
        let mut statement = database.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines = statement.query_map(["b"], |row| row.get::<_, String>(3)).unwrap();
        lines.map(|line| line.unwrap()).collect::<Vec<_>>().join("\n")
    };
    assert!(plan(queue::count_sql(true)).contains("queue_parked"), "{}", plan(queue::count_sql(true)));
    assert!(plan(queue::count_sql(false)).contains("INDEX queue_by"), "{}", plan(queue::count_sql(false)));
    assert!(plan(state::FINISHED).contains("queue_by_place"), "{}", plan(state::FINISHED));
}

#[test]
fn conflicts_are_read_in_pages() {
    let fixture = Fixture::new();
    let peers = fixture.store.peers();
    let pairs = [M, "example.com/m@v1.1.0", N];
    for pair in pairs {
        peers.note_conflict("b", &version(pair), &h1('A'), &h1('E')).unwrap();
        peers.note_conflict("c", &version(pair), &h1('A'), &h1('E')).unwrap();
    }
    let mut after = None;
    for pair in pairs {
        let page = peers.conflicts_after("b", after.as_ref(), 1).unwrap();
        assert_eq!((page.len(), page[0].peer.as_str(), &page[0].version), (1, "b", &version(pair)));
        after = Some(page[0].version.clone());
    }
    assert!(peers.conflicts_after("b", after.as_ref(), 1).unwrap().is_empty());
}
