use std::fs;

use rusqlite::Connection;

use super::uses::PENDING;
use super::*;
use crate::testing::{Fixture, open, staged, version};
use stoa_layout::gate::Mode;

const OLD: SystemTime = SystemTime::UNIX_EPOCH;

fn serving(fixture: &Fixture) -> Store {
    let store = open(fixture.dir.path(), Mode::ReadWrite);
    store.usage().start();
    store
}

/// Makes all usage data older.
fn age(fixture: &Fixture, days: i64) {
    let connection = Connection::open(fixture.dir.path().join("cache/last-use/last-use.sqlite")).unwrap();
    connection.execute("UPDATE uses SET day = day - ?1", [days]).unwrap();
    connection.execute("UPDATE began SET day = day - ?1", [days]).unwrap();
}

#[test]
fn the_latest_of_three_days_counts_as_the_last_use() {
    let fixture = Fixture::new();
    let store = serving(&fixture);
    let [used, unused] = ["example.com/m@v1.0.0", "example.com/m@v1.1.0"].map(version);
    store.usage().note(&used);
    assert_eq!(store.usage().flush().unwrap(), 1);
    age(&fixture, 20);
    store.usage().note(&used);
    assert_eq!(store.usage().flush().unwrap(), 0, "a version is recorded once a day");
    let today = Day::today();
    let ask = |version, published| store.usage().last_uses().unwrap().of(version, published).unwrap();
    assert_eq!(ask(&used, OLD), Day(today.0 - 20));
    assert_eq!(
        ask(&unused, OLD),
        Day(today.0 - 20),
        "a version without a use counts from the start of the recording"
    );
    assert_eq!(ask(&unused, SystemTime::now()), today);
    assert_eq!(ask(&unused, SystemTime::now() + Duration::from_secs(10 * SECONDS)), today);
    drop(store);
    let store = serving(&fixture);
    age(&fixture, 10);
    store.usage().note(&used);
    store.usage().flush().unwrap();
    let mut uses = store.usage().last_uses().unwrap();
    assert_eq!(uses.of(&used, OLD).unwrap(), today);
    assert_eq!(uses.of(&unused, OLD).unwrap(), Day(today.0 - 30));
    assert_eq!(uses.sweep(&store).unwrap(), 1, "the version is not in the store");
    assert_eq!(uses.of(&used, OLD).unwrap(), Day(today.0 - 30));
    assert_eq!(uses.sweep(&store).unwrap(), 0);
    assert_eq!(uses.began(), Day(today.0 - 30));
}

#[test]
fn lost_or_damaged_usage_data_starts_anew() {
    let fixture = Fixture::new();
    let store = serving(&fixture);
    let v = version("example.com/m@v1.0.0");
    let folder = fixture.dir.path().join("cache/last-use");
    type Harm = fn(&Path);
    let harms: [Harm; 6] = [
        |folder| fs::remove_dir_all(folder.parent().unwrap()).unwrap(),
        |folder| {
            fs::write(
                folder.join(FILE),
                "no database, and longer than its header is, to be sure of that: ".repeat(9),
            )
            .unwrap()
        },
        |folder| fs::write(folder.join(FILE), "").unwrap(),
        |folder| {
            let whole = fs::read(folder.join(FILE)).unwrap();
            fs::write(folder.join(FILE), &whole[..whole.len() / 2]).unwrap();
        },
        |folder| {
            Connection::open(folder.join(FILE)).unwrap().pragma_update(None, "user_version", 7).unwrap();
        },
        |folder| {
            Connection::open(folder.join(FILE)).unwrap().execute("DELETE FROM began", []).unwrap();
        },
    ];
    for (n, harm) in harms.into_iter().enumerate() {
        store.usage().note(&v);
        store.usage().flush().unwrap();
        age(&fixture, 50);
        harm(&folder);
        let store = serving(&fixture);
        assert_eq!(store.usage().last_uses().unwrap().began(), Day::today(), "harm {n}");
        assert_eq!(store.usage().last_uses().unwrap().of(&v, OLD).unwrap(), Day::today(), "harm {n}");
        store.usage().note(&v);
        assert_eq!(store.usage().flush().unwrap(), 1, "harm {n}");
    }
    assert!(staged(fixture.dir.path()).is_empty());
}

#[test]
fn a_damaged_database_that_is_in_use_is_not_replaced() {
    let fixture = Fixture::new();
    let store = serving(&fixture);
    store.usage().flush().unwrap();
    let folder = fixture.dir.path().join("cache/last-use");
    let other = serving(&fixture);
    let held = other.usage().last_uses().unwrap();
    fs::write(folder.join(FILE), "x".repeat(5000)).unwrap();
    let v = version("example.com/m@v1.0.0");
    store.usage().note(&v);
    let fresh = serving(&fixture);
    assert!(matches!(fresh.usage().flush(), Err(LastUseError::Broken { .. })));
    drop(held);
    fresh.usage().flush().unwrap();
    store.usage().flush().unwrap();
    assert_eq!(
        store.usage().last_uses().unwrap().notes.as_ref().unwrap().day(&v).unwrap(),
        Some(Day::today())
    );
}

#[test]
fn unwritten_uses_are_bounded_and_survive_a_failed_write() {
    let fixture = Fixture::new();
    let store = serving(&fixture);
    let nth = |n: usize| version(&format!("example.com/m@v1.0.{n}"));
    let asked = (0..PENDING + 10).filter(|n| store.usage().note(&nth(*n))).count();
    assert!(asked > PENDING / 2, "{asked}");
    assert_eq!(store.uses.pending().len(), PENDING);
    let cache = fixture.dir.path().join("cache");
    fs::remove_dir(&cache).unwrap();
    fs::write(&cache, "in the way").unwrap();
    store.usage().flush().unwrap_err();
    assert_eq!(store.uses.pending().len(), PENDING);
    fs::remove_file(&cache).unwrap();
    assert_eq!(store.usage().flush().unwrap(), PENDING);
    assert!(!store.usage().note(&nth(PENDING + 9)), "a use above the bound is recorded later");
    assert_eq!(store.usage().flush().unwrap(), 1);
    let none = open(fixture.dir.path(), Mode::ReadWrite);
    assert!(!none.usage().note(&nth(0)));
    assert_eq!(none.usage().flush().unwrap(), 0);
}

#[test]
fn a_read_only_store_ignores_usage_data_that_needs_a_repair() {
    let fixture = Fixture::new();
    let v = version("example.com/m@v1.0.0");
    let store = serving(&fixture);
    store.usage().note(&v);
    store.usage().flush().unwrap();
    age(&fixture, 5);
    let folder = fixture.dir.path().join("cache/last-use");
    let [database, journal] = [FILE.to_owned(), format!("{FILE}-journal")].map(|name| folder.join(name));
    let whole = fs::read(&database).unwrap();
    // The files in the middle of a large transaction, as a killed writer leaves them.
    let mut writer = Connection::open(&database).unwrap();
    writer.pragma_update(None, "cache_size", 1).unwrap();
    let transaction = writer.transaction().unwrap();
    for n in 0..2000 {
        let module = format!("example.com/{n}/{}", "x".repeat(200));
        transaction.execute("INSERT INTO uses VALUES (?1, 'v1.0.0', 1)", [module]).unwrap();
    }
    let half = [&database, &journal].map(|path| fs::read(path).unwrap());
    drop(transaction);
    drop(writer);
    let reader = open(fixture.dir.path(), Mode::ReadOnly);
    let ask = || reader.usage().last_uses().unwrap().of(&v, OLD).unwrap();
    for bytes in [b"".to_vec(), b"no database".repeat(100), whole[..whole.len() / 2].to_vec()] {
        fs::write(&database, &bytes).unwrap();
        assert_eq!(ask(), Day::today());
        assert_eq!(fs::read(&database).unwrap(), bytes);
    }
    fs::write(&database, &half[0]).unwrap();
    fs::write(&journal, &half[1]).unwrap();
    assert_eq!(ask(), Day::today());
    assert_eq!(fs::read(&journal).unwrap(), half[1]);
    // A process that can write rolls the transaction back, and then a reader finds the data again.
    let day = Day(Day::today().0 - 5);
    assert_eq!(serving(&fixture).usage().last_uses().unwrap().of(&v, OLD).unwrap(), day);
    assert_eq!(ask(), day);
}

#[test]
fn a_read_only_store_writes_no_usage_data() {
    let fixture = Fixture::new();
    let v = version("example.com/m@v1.0.0");
    let reader = open(fixture.dir.path(), Mode::ReadOnly);
    reader.usage().start();
    assert!(!reader.usage().note(&v));
    assert_eq!(reader.usage().last_uses().unwrap().of(&v, OLD).unwrap(), Day::today());
    assert_eq!(fs::read_dir(fixture.dir.path().join("cache")).unwrap().count(), 0);
    let store = serving(&fixture);
    store.usage().note(&v);
    store.usage().flush().unwrap();
    age(&fixture, 5);
    assert_eq!(reader.usage().last_uses().unwrap().of(&v, OLD).unwrap(), Day(Day::today().0 - 5));
}
