//! `stoa remove` and `stoa prune`, and a server that notes what is used, killed at every system call that changes the
//! store, and with each of them failing.
//!
//! A version is whole at its place or not there at all, and its record is on disk before it goes; a tombstone that
//! was asked for is there once that was reported; a server answers and ends as it should whatever becomes of its notes.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};
use testkit::Case;

use rusqlite::Connection;
use testkit::commands::{run, stoa};
use testkit::server;
use testkit::sweep::{Observed, Scenario, failed_clearly, only_stderr, trials};
use testkit::tracer::{LOWER_LAYER, Traced};
use testkit::upstream::Module;
use testkit::{create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    let mut tests = trials(&[
        ("remove", remove),
        ("remove for good", remove_for_good),
        ("remove and forget", remove_and_forget),
        ("lift", lift),
        ("prune", prune),
        ("notes of last use", notes_of_last_use),
        ("remove from a lower layer", remove_from_a_lower_layer),
        ("quarantine from a lower layer", quarantine_from_a_lower_layer),
        ("purge in a lower layer", purge_in_a_lower_layer),
    ]);
    // It is a part of the one for good: killed only.
    tests.retain(|test| !test.name().starts_with("remove: ") || test.name() == "remove: SIGKILL");
    tests
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const FOLDER: &str = "modules/example.com/!cap/m/@v/v1.0.0";
const RECORD: &str = "records/example.com/!cap/m/@v/v1.0.0.toml";

/// Whether a version is there; then it is whole.
fn is_there(folder: &Path, module: &Module, traced: &Traced) -> bool {
    let files = [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)];
    if !folder.exists() {
        return false;
    }
    for (name, content) in files {
        assert!(
            fs::read(folder.join(name)).is_ok_and(|is| is == *content),
            "{name} of what is there, after {:?}",
            traced.hit
        );
    }
    true
}

/// Returns the record in a file, which is whole if it exists.
fn record(path: &Path, traced: &Traced) -> Option<toml::Table> {
    let text = fs::read_to_string(path).ok()?;
    let record = toml::from_str::<toml::Table>(&text);
    assert!(record.is_ok() && !text.is_empty(), "a damaged record after {:?}: {text}", traced.hit);
    record.ok()
}

fn remove() -> Scenario {
    removing(&["remove", PAIR], |record| record.contains_key("h1"))
}

fn remove_for_good() -> Scenario {
    removing(&["remove", "--tombstone", "--reason", "a key is in it", PAIR], |record| {
        record.contains_key("h1")
            && record["tombstone"].as_table().is_some_and(|tombstone| tombstone["reason"].is_str())
    })
}

fn removing(arguments: &'static [&'static str], is_recorded: fn(&toml::Table) -> bool) -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    Scenario {
        prepare: Box::new(move |dir| {
            create(&dir.join("store"));
            module.put_unsealed(&dir.join("store"));
        }),
        command: Box::new(move |root| stoa(root, arguments)),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let is_there = is_there(&root.join(FOLDER), &whole, traced);
            let record = record(&root.join(RECORD), traced);
            assert!(
                is_there || record.as_ref().is_some_and(is_recorded),
                "gone unrecorded: {:?}",
                traced.hit
            );
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || !is_there, "success was reported after {:?}", traced.hit);
            }
        }),
        again: Box::new(move |root| {
            let output = run(root, arguments);
            // 1: it went in the run before.
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            assert!(!root.join(FOLDER).exists());
        }),
    }
}

/// Brings a version to its place, whatever a removal by files has left there.
fn fetch_and_purge(root: &Path, module: &Module) {
    let tree = root.with_file_name("tree");
    module.put_flat(&tree);
    let output = stoa(root, &["fetch", PAIR, "--upstream", &format!("file://{}", tree.display())])
        .env("STOA_CHECKSUM", "off")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    for name in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
        assert!(fs::read(root.join(FOLDER).join(name.0)).unwrap() == *name.1);
    }
    let output = run(root, &["quarantine", "purge", "--all"]);
    assert!(output.status.success(), "{}", transcript(&output));
    let _ = fs::remove_dir_all(tree);
}

/// The files go one by one, the info first: without it the version is not in the store.
fn remove_from_a_lower_layer() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    Scenario {
        prepare: Box::new(move |dir| {
            create(&dir.join("store"));
            module.put_unsealed(&dir.join("store"));
        }),
        command: Box::new(move |root| {
            let mut command = stoa(root, &["remove", PAIR]);
            command.env(LOWER_LAYER, "1");
            command
        }),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let folder = root.join(FOLDER);
            if folder.join("info").exists() {
                is_there(&folder, &whole, traced);
            } else {
                let record = record(&root.join(RECORD), traced);
                assert!(record.is_some_and(|record| record.contains_key("h1")), "{:?}", traced.hit);
            }
            if !is_kill {
                failed_clearly(traced, observed);
            }
        }),
        again: Box::new(move |root| {
            let module = Module::new(PAIR, 20_000);
            let output = run(root, &["remove", PAIR]);
            // 1: it went in the run before.
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            fetch_and_purge(root, &module);
        }),
    }
}

/// Each file is at its place or in quarantine.
fn quarantine_from_a_lower_layer() -> Scenario {
    let corrupt = || {
        let mut module = Module::new(PAIR, 20_000);
        module.zip.truncate(10_000);
        module
    };
    Scenario {
        prepare: Box::new(move |dir| {
            create(&dir.join("store"));
            corrupt().put_unsealed(&dir.join("store"));
        }),
        command: Box::new(move |root| {
            let mut command = stoa(root, &["verify"]);
            command.env(LOWER_LAYER, "1");
            command
        }),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, _, _| {
            let module = corrupt();
            let files = [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)];
            let entries = fs::read_dir(root.join("quarantine")).unwrap();
            let entries: Vec<_> = entries.map(|entry| entry.unwrap().path().join("version")).collect();
            for (name, content) in files {
                let places =
                    entries.iter().map(|entry| entry.join(name)).chain([root.join(FOLDER).join(name)]);
                let found = places.filter(|place| fs::read(place).is_ok_and(|is| is == *content)).count();
                assert_eq!(found, 1, "{name} after {:?}", traced.hit);
            }
            let folder = root.join(FOLDER);
            if folder.join("info").exists() {
                is_there(&folder, &module, traced);
            }
        }),
        again: Box::new(move |root| {
            // 1: the version is corrupt, or its files have no info.
            let output = run(root, &["verify"]);
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            fetch_and_purge(root, &Module::new(PAIR, 20_000));
        }),
    }
}

/// The rest of an entry can be purged, or goes at the next start.
fn purge_in_a_lower_layer() -> Scenario {
    Scenario {
        prepare: Box::new(move |dir| {
            let root = dir.join("store");
            create(&root);
            let mut module = Module::new(PAIR, 20_000);
            module.zip.truncate(10_000);
            module.put_unsealed(&root);
            assert_eq!(run(&root, &["verify"]).status.code(), Some(1));
        }),
        command: Box::new(move |root| {
            let mut command = stoa(root, &["quarantine", "purge", "--all"]);
            command.env(LOWER_LAYER, "1");
            command
        }),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, _, _| {
            for entry in fs::read_dir(root.join("quarantine")).unwrap() {
                let entry = entry.unwrap().path();
                let is_empty = fs::read_dir(&entry).unwrap().count() == 0;
                assert!(is_empty || entry.join("reason.toml").exists(), "{:?}", traced.hit);
            }
        }),
        again: Box::new(move |root| {
            let output = run(root, &["quarantine", "purge", "--all"]);
            assert!(output.status.success(), "{}", transcript(&output));
            assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 0);
        }),
    }
}

/// A version whose hash an earlier removal recorded goes together with that hash.
fn remove_and_forget() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    let arguments = ["remove", "--forget", PAIR];
    Scenario {
        prepare: Box::new(move |dir| {
            let root = dir.join("store");
            create(&root);
            module.put_unsealed(&root);
            let output = run(&root, &["remove", PAIR]);
            assert!(output.status.success(), "{}", transcript(&output));
            module.put_unsealed(&root);
        }),
        command: Box::new(move |root| stoa(root, &arguments)),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let is_there = is_there(&root.join(FOLDER), &whole, traced);
            let record = record(&root.join(RECORD), traced);
            assert!(!is_there || record.is_some(), "there without its record after {:?}", traced.hit);
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || !is_there && record.is_none(), "success after {:?}", traced.hit);
            }
        }),
        again: Box::new(move |root| {
            let output = run(root, &arguments);
            // 1: it went in the run before.
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            assert!(!root.join(FOLDER).exists() && !root.join(RECORD).exists());
        }),
    }
}

fn lift() -> Scenario {
    Scenario {
        prepare: Box::new(|dir| {
            create(&dir.join("store"));
            let output = run(&dir.join("store"), &["remove", "--tombstone", PAIR]);
            assert!(output.status.success(), "{}", transcript(&output));
        }),
        command: Box::new(|root| stoa(root, &["remove", "--lift", PAIR])),
        drive: Box::new(only_stderr),
        check: Box::new(|root, traced, observed, is_kill| {
            let record = record(&root.join(RECORD), traced);
            let has = |key| record.as_ref().is_some_and(|record| record.contains_key(key));
            assert_ne!(has("tombstone"), has("lift"), "after {:?}", traced.hit);
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || has("lift"), "success was reported after {:?}", traced.hit);
            }
        }),
        again: Box::new(|root| {
            let output = run(root, &["remove", "--lift", PAIR]);
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            let record: toml::Table = fs::read_to_string(root.join(RECORD)).unwrap().parse().unwrap();
            assert_eq!(record.keys().collect::<Vec<_>>(), ["lift"]);
        }),
    }
}

/// Versions that were published a day after the other, oldest first; one of them is left.
const PAIRS: [&str; 3] = ["example.com/c@v1.0.0", "example.com/b@v1.0.0", "example.com/a@v1.0.0"];
const PRUNE: [&str; 5] = ["prune", "--max-size", "30k", "--threads", "1"];

fn prune() -> Scenario {
    let modules = || PAIRS.map(|pair| Module::new(pair, 20_000));
    let (put, whole) = (modules(), modules());
    Scenario {
        prepare: Box::new(move |dir| {
            create(&dir.join("store"));
            for (module, days) in put.iter().zip([9, 8, 7]) {
                let folder = module.put_unsealed(&dir.join("store"));
                let past = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
                fs::File::open(folder.join("info")).unwrap().set_modified(past).unwrap();
            }
        }),
        command: Box::new(|root| stoa(root, &PRUNE)),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let mut left = Vec::new();
            for module in &whole {
                let name = module.version.path();
                let is_there = is_there(&root.join(format!("modules/{name}/@v/v1.0.0")), module, traced);
                let record = record(&root.join(format!("records/{name}/@v/v1.0.0.toml")), traced);
                assert!(
                    is_there || record.is_some_and(|record| record.contains_key("h1")),
                    "{name} is gone unrecorded after {:?}",
                    traced.hit
                );
                left.extend(is_there.then_some(name.as_str()));
            }
            assert_eq!(left.last(), Some(&"example.com/a"), "the newest is left after {:?}", traced.hit);
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || left.len() == 1, "success was reported after {:?}", traced.hit);
            }
        }),
        again: Box::new(|root| {
            let output = run(root, &PRUNE);
            assert!(output.status.success(), "{}", transcript(&output));
        }),
    }
}

const MOD: &str = "/example.com/!cap/m/@v/v1.0.0.mod";

/// Whether the use of the version is noted, by a database that is sound if it is there at all.
fn is_noted(root: &Path) -> bool {
    let path = root.join("cache/last-use/last-use.sqlite");
    let connection = Connection::open(path).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let ask =
        connection.query_row("SELECT count(*) FROM uses WHERE module = 'example.com/Cap/m'", [], |row| {
            row.get::<_, i64>(0)
        });
    ask.is_ok_and(|count| count == 1)
}

fn notes_of_last_use() -> Scenario {
    let module = Module::new(PAIR, 2000);
    let whole = Module::new(PAIR, 2000);
    let command = |root: &Path| {
        let mut command = server::command(root);
        command.args(["--upstream", "off", "--index-interval", "0", "--last-use-interval", "600"]);
        command
    };
    Scenario {
        prepare: Box::new(move |dir| {
            create(&dir.join("store"));
            module.put_unsealed(&dir.join("store"));
        }),
        command: Box::new(command),
        drive: Box::new(|child| {
            let mut observed = Observed::default();
            if let Some(url) = server::listening(child) {
                observed.answers.push(server::get(&url, MOD).map_err(|error| error.to_string()));
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            assert!(is_there(&root.join(FOLDER), &whole, traced));
            let is_of_notes = traced.hit.as_ref().is_some_and(|hit| hit.contains("last-use"));
            if !is_kill {
                failed_clearly(traced, observed);
                for answer in &observed.answers {
                    assert!(
                        answer.as_ref().is_ok_and(|(status, body)| (*status, body) == (200, &whole.modfile)),
                        "{answer:?} after {:?}",
                        traced.hit
                    );
                }
                // What may be lost fails no answer and no server.
                assert!(!is_of_notes || traced.code == 0, "{} after {:?}", traced.code, traced.hit);
            }
            if root.join("cache/last-use/last-use.sqlite").exists() {
                is_noted(root);
            }
        }),
        again: Box::new(move |root| {
            let mut command = command(root);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let url = server::listening(&mut child).unwrap();
            assert_eq!(server::get(&url, MOD).unwrap().0, 200);
            server::terminate(&child);
            assert!(child.wait().unwrap().success());
            assert!(is_noted(root));
        }),
    }
}
