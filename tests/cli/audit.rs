//! The audit log, and listings whose reader goes away.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::inject::{self, failing};
use testkit::programs::{Ended, Programs};
use testkit::tree::snapshot;
use testkit::upstream::Module;
use testkit::{Case, cases, trial};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        every_change_of_a_version_has_a_line_in_the_audit_log,
        a_listing_writes_no_line,
        the_line_is_on_disk_before_a_change_that_fails,
        an_audit_log_that_cannot_be_written_is_a_warning,
        moved_leftovers_have_a_line_and_the_log_outlives_a_downgrade,
        a_listing_ends_quietly_when_its_reader_goes_away,
    ];
    let name = "a_full_log_that_cannot_be_renamed_gets_each_line_once";
    cases.push(trial(name, None, a_full_log_gets_each_line_once).needs(inject::missing));
    cases
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const LOG: &str = "records/audit/current";

/// A store with some versions that were put there by hand.
fn store(versions: &[&str]) -> Programs {
    let programs = Programs::current();
    let root = programs.make_store();
    for version in versions {
        Module::new(version, 10).put_unsealed(&root);
    }
    programs
}

fn lines(root: &Path) -> Vec<Value> {
    let text = fs::read_to_string(root.join(LOG)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[track_caller]
fn done(programs: &Programs, arguments: &[&str]) -> Ended {
    let ended = programs.stoa(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
    ended
}

fn every_change_of_a_version_has_a_line_in_the_audit_log() {
    let other = "example.com/other@v1.0.0";
    let programs = store(&[PAIR, other, "example.com/pruned@v1.0.0", "example.com/cut@v1.0.0"]);
    let root = programs.store();
    let zip = root.join("modules/example.com/cut/@v/v1.0.0/zip");
    let whole = fs::read(&zip).unwrap();
    testkit::next_write_time();
    fs::write(&zip, &whole[..whole.len() - 9]).unwrap();
    assert_eq!(programs.stoa(["verify"]).code, 1);
    let entry = fs::read_dir(root.join("quarantine")).unwrap().next().unwrap().unwrap().path();
    fs::write(entry.join("version/zip"), &whole).unwrap();
    let id = entry.file_name().unwrap().to_str().unwrap().to_owned();
    done(&programs, &["quarantine", "restore", &id]);
    let mut remove = programs.command("stoa", ["remove", other]);
    remove.env("SUDO_USER", "alice");
    assert_eq!(Ended::of(remove).code, 0);
    done(&programs, &["remove", "--tombstone", "--reason", "a key, see \"1234\"", PAIR]);
    done(&programs, &["remove", "--lift", PAIR]);
    done(&programs, &["remove", "--forget", PAIR]);
    done(&programs, &["prune", "--max-size", "0", "--yes"]);
    let lines = lines(&root);
    let acts: Vec<String> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key}: {line}"));
            format!("{}: {} {}@{}", text("command"), text("act"), text("module"), text("version"))
        })
        .collect();
    let mut expected = vec![
        "verify: quarantine example.com/cut@v1.0.0",
        "quarantine: restore example.com/cut@v1.0.0",
        "remove: remove example.com/other@v1.0.0",
        "remove: tombstone example.com/Cap/m@v1.0.0",
        "remove: lift example.com/Cap/m@v1.0.0",
        "remove: forget example.com/Cap/m@v1.0.0",
    ];
    let (first, pruned) = acts.split_at(expected.len().min(acts.len()));
    assert_eq!(first, expected);
    let mut pruned = pruned.to_vec();
    pruned.sort();
    expected = vec!["prune: remove example.com/cut@v1.0.0", "prune: remove example.com/pruned@v1.0.0"];
    assert_eq!(pruned, expected);
    assert!(lines[0]["reason"].as_str().unwrap().starts_with("its zip: "), "{}", lines[0]);
    assert_eq!((&lines[2]["sudo_user"], &lines[3]["sudo_user"]), (&"alice".into(), &Value::Null));
    assert_eq!(lines[3]["reason"], "a key, see \"1234\"");
    let uid = rustix::process::getuid().as_raw();
    for line in &lines {
        assert_eq!(line["uid"], uid, "{line}");
        assert!(uid != 0 || line["user"] == "root", "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z') && line["pid"].is_u64(), "{line}");
    }
    // A purge of a second entry.
    Module::new("example.com/cut@v1.0.0", 10).put_unsealed(&root);
    testkit::next_write_time();
    fs::write(&zip, &whole[..whole.len() - 9]).unwrap();
    assert_eq!(programs.stoa(["verify"]).code, 1);
    done(&programs, &["quarantine", "purge", "--all"]);
    let last = self::lines(&root).pop().unwrap();
    assert_eq!((&last["act"], &last["module"]), (&"purge".into(), &"example.com/cut".into()), "{last}");
    assert!(last["path"].as_str().unwrap().starts_with("quarantine/"), "{last}");
}

fn a_listing_writes_no_line() {
    let programs = store(&[PAIR]);
    let root = programs.store();
    fs::write(root.join("modules/junk"), "x").unwrap();
    done(&programs, &["verify"]);
    let before = snapshot(&root);
    for listing in [
        &["list"][..],
        &["leftovers"],
        &["leftovers", "list", "--format", "json"],
        &["quarantine"],
        &["remove", "--list"],
        &["remove", "--dry-run", PAIR],
        &["prune", "--dry-run", "--max-size", "0"],
        &["status"],
    ] {
        done(&programs, listing);
    }
    assert_eq!(snapshot(&root), before);
    assert!(!root.join("records/audit").exists());
    // Neither does a command that finds nothing to change.
    assert_eq!(programs.stoa(["remove", "example.com/none@v1.0.0"]).code, 1);
    assert_eq!(programs.stoa(["remove", "--lift", PAIR]).code, 1);
    assert!(!root.join("records/audit").exists());
}

fn the_line_is_on_disk_before_a_change_that_fails() {
    let programs = store(&[PAIR]);
    let root = programs.store();
    // A damaged record stops the removal after its line.
    let record = root.join("records/example.com/!cap/m/@v/v1.0.0.toml");
    fs::create_dir_all(&record).unwrap();
    assert_eq!(programs.stoa(["remove", PAIR]).code, 74);
    assert!(root.join("modules/example.com/!cap/m/@v/v1.0.0").is_dir());
    let acts: Vec<Value> = lines(&root).iter().map(|line| line["act"].clone()).collect();
    assert_eq!(acts, ["remove"]);
}

fn an_audit_log_that_cannot_be_written_is_a_warning() {
    let programs = store(&[PAIR]);
    let root = programs.store();
    fs::write(root.join("records/audit"), "a file is in the way").unwrap();
    let removed = done(&programs, &["remove", PAIR]);
    assert!(removed.err.contains("cannot write to the audit log"), "{removed:?}");
    assert!(!root.join("modules/example.com/!cap/m/@v/v1.0.0").exists());
}

fn a_full_log_gets_each_line_once() {
    let programs = store(&[PAIR]);
    let root = programs.store();
    // As a server makes the reserve, which is taken piece by piece on a full disk.
    fs::create_dir_all(root.join("staging/reserve")).unwrap();
    fs::write(root.join("staging/reserve/space"), vec![0; 1 << 20]).unwrap();
    fs::create_dir(root.join("records/audit")).unwrap();
    let filler = format!("{{\"act\":\"{}\"}}\n", "x".repeat(5 << 20));
    fs::write(root.join(LOG), filler).unwrap();
    let remove = programs.command("stoa", ["remove", PAIR]);
    let ended = Ended::of(failing(&remove, &[("renameat2", "error=ENOSPC")], Some(&root.join(LOG))));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.err.matches("cannot write to the audit log").count(), 1, "{ended:?}");
    assert_eq!(lines(&root).len(), 2);
    assert_eq!(fs::metadata(root.join("staging/reserve/space")).unwrap().len(), 1 << 20);
    // The next line renames it.
    done(&programs, &["remove", "--tombstone", PAIR]);
    assert!(root.join("records/audit/1").is_file());
}

fn moved_leftovers_have_a_line_and_the_log_outlives_a_downgrade() {
    let programs = store(&[PAIR]);
    let root = programs.store();
    fs::write(root.join("modules/junk"), "x").unwrap();
    let to = programs.folder().join("out");
    done(&programs, &["leftovers", "move", to.to_str().unwrap()]);
    let lines = lines(&root);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let new = to.join("modules/junk");
    let expected = ["leftovers move", "move", "modules/junk", new.to_str().unwrap()];
    assert_eq!(["command", "act", "path", "to"].map(|key| lines[0][key].as_str().unwrap()), expected);
    assert_eq!(lines[0]["reason"], "foreign: it belongs to no version");
    // The log is a part of the store, and no leftover of it.
    assert!(done(&programs, &["leftovers"]).out.is_empty());
    let text = fs::read(root.join(LOG)).unwrap();
    assert_eq!(programs.migrate(["--to", "v1"]).code, 0);
    assert_eq!(fs::read(root.join(LOG)).unwrap(), text);
    assert_eq!(programs.migrate::<&str>([]).code, 0);
    assert_eq!(fs::read(root.join(LOG)).unwrap(), text);
    assert!(done(&programs, &["leftovers"]).out.is_empty());
}

fn a_listing_ends_quietly_when_its_reader_goes_away() {
    let versions: Vec<String> = (0..40).map(|n| format!("example.com/m{n}@v1.0.0")).collect();
    let programs = store(&versions.iter().map(String::as_str).collect::<Vec<_>>());
    let root = programs.store();
    for n in 0..40 {
        fs::write(root.join(format!("modules/junk{n}")), "x").unwrap();
        let entry = root.join(format!("quarantine/{n}"));
        fs::create_dir(&entry).unwrap();
        fs::write(entry.join("reason.toml"), "").unwrap();
    }
    let tombstones = versions.iter().map(|version| version.replace("v1.0.0", "v1.0.1"));
    let forbid: Vec<String> =
        ["remove", "--tombstone"].map(str::to_owned).into_iter().chain(tombstones).collect();
    done(&programs, &forbid.iter().map(String::as_str).collect::<Vec<_>>());
    let listings: [(&str, &[&str]); 14] = [
        ("stoa", &["leftovers"]),
        ("stoa", &["list"]),
        ("stoa", &["quarantine"]),
        ("stoa", &["remove", "--list"]),
        ("stoa", &["remove", "--dry-run", "--tombstone", "example.com/m1"]),
        ("stoa", &["prune", "--dry-run", "--max-size", "0"]),
        ("stoa", &["status"]),
        ("stoa", &["config", "show"]),
        ("stoa", &["completions", "bash"]),
        ("stoa", &["--help"]),
        ("stoa-migrate", &["leftovers"]),
        ("stoa-migrate", &["--dry-run", "--to", "v0"]),
        ("stoa-migrate", &["--help"]),
        ("stoa-migrate", &["import-config", "--help"]),
    ];
    for (program, arguments) in listings {
        for format in [&[][..], &["--format", "json"]] {
            let arguments = [arguments, format].concat();
            let ended = without_reader(programs.command(program, &arguments));
            // A usage error has its own text: not every command has a format.
            if ended.code == 64 && !format.is_empty() {
                continue;
            }
            assert!(!ended.err.contains("error"), "{program} {arguments:?}: {ended:?}");
            assert!(!ended.err.to_lowercase().contains("pipe"), "{program} {arguments:?}: {ended:?}");
            assert!(ended.code == 0, "{program} {arguments:?}: {ended:?}");
        }
    }
}

/// Runs a command whose standard output nobody reads: the other end is closed before it writes.
fn without_reader(mut command: Command) -> Ended {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    Ended { code: child.wait().unwrap().code().unwrap_or(-1), out: String::new(), err }
}
