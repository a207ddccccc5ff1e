//! Commands that list, that ask before they remove many versions, and that describe the command line.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;
use stoa_layout::{Gate, Migrator};
use stoa_store::Store;
use testkit::commands::{json, run, stoa};
use testkit::upstream::Module;
use testkit::{Case, cases, create, transcript};
use testkit::{MIGRATE, STOA};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        list_shows_stored_versions_with_size_time_and_last_use,
        remove_list_shows_all_tombstones_with_their_reasons,
        remove_of_more_than_100_versions_needs_a_confirmation,
        prune_of_more_than_half_the_versions_needs_a_confirmation,
        a_size_without_a_unit_is_read_as_bytes_with_a_warning,
        a_dry_run_says_what_would_be_removed,
        completions_and_manual_pages_include_the_commands_of_stoa_migrate,
        manual_pages_need_a_folder_that_can_be_created,
        a_closed_pipe_ends_every_command_quietly,
        a_full_standard_output_is_an_error,
        an_empty_pattern_is_refused,
        the_usage_of_remove_shows_how_to_list,
        help_is_a_field_of_its_own_in_json,
        a_command_of_stoa_migrate_is_called_by_the_name_that_was_typed,
        the_second_interrupt_ends_a_command_at_once,
    ]
}

fn store_of(pairs: impl IntoIterator<Item = String>) -> tempfile::TempDir {
    let dir = testkit::tempdir();
    create(dir.path());
    for pair in pairs {
        Module::new(&pair, 10).put_unsealed(dir.path());
    }
    dir
}

fn versions(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("example.com/m@v1.0.{n}"))
}

fn stored(root: &Path) -> usize {
    json(root, &["list"]).1.iter().filter(|line| line["event"] == "version").count()
}

fn list_shows_stored_versions_with_size_time_and_last_use() {
    let dir = store_of(["example.com/a@v1.0.0".to_owned(), "example.org/b@v2.0.0+incompatible".to_owned()]);
    let (code, lines) = json(dir.path(), &["list"]);
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!((&lines[0]["module"], &lines[0]["version"]), (&"example.com/a".into(), &"v1.0.0".into()));
    let module = Module::new("example.com/a@v1.0.0", 10);
    let bytes = module.zip.len() + module.info.len() + module.modfile.len();
    assert_eq!((&lines[0]["bytes"], &lines[0]["last_use"]), (&bytes.into(), &serde_json::Value::Null));
    assert!(lines[0]["stored"].as_str().unwrap().ends_with('Z'), "{lines:?}");
    assert_eq!((&lines[2]["versions"], &lines[2]["modules"]), (&2.into(), &2.into()), "{lines:?}");
    let table = run(dir.path(), &["list", "example.org/*"]);
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        text.starts_with("      SIZE  STORED") && text.contains("example.org/b@v2.0.0+incompatible"),
        "{text}"
    );
    assert!(!text.contains("example.com/a"), "{text}");
}

fn remove_list_shows_all_tombstones_with_their_reasons() {
    let dir = store_of([]);
    for (pair, reason) in [("example.com/a@v1.0.0", "a key"), ("example.org/b@v1.0.0", "a virus")] {
        let output = run(dir.path(), &["remove", "--tombstone", "--reason", reason, pair]);
        assert!(output.status.success(), "{}", transcript(&output));
    }
    let output = run(dir.path(), &["remove", "--list"]);
    assert!(output.status.success(), "{}", transcript(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("example.com/a@v1.0.0: a key\n"), "{text}");
    assert!(text.contains("example.org/b@v1.0.0: a virus\n"), "{text}");
    let (_, lines) = json(dir.path(), &["remove", "--list"]);
    assert_eq!(
        (&lines[0]["event"], &lines[0]["reason"]),
        (&"tombstone".into(), &"a key".into()),
        "{lines:?}"
    );
}

fn remove_of_more_than_100_versions_needs_a_confirmation() {
    let dir = store_of(versions(101));
    let refused = run(dir.path(), &["remove", "example.com/m"]);
    assert_eq!(refused.status.code(), Some(64), "{}", transcript(&refused));
    let text = transcript(&refused);
    assert!(text.contains("example.com/m: 101 versions") && text.contains("add --yes"), "{text}");
    assert_eq!(stored(dir.path()), 101);
    let dry = run(dir.path(), &["remove", "--dry-run", "example.com/m"]);
    assert!(dry.status.success(), "{}", transcript(&dry));
    let one = run(dir.path(), &["remove", "example.com/m@v1.0.0"]);
    assert!(one.status.success(), "{}", transcript(&one));
    let hundred = run(dir.path(), &["remove", "example.com/m"]);
    assert!(hundred.status.success(), "{}", transcript(&hundred));
    assert_eq!(stored(dir.path()), 0);
    let dir = store_of(versions(101));
    let confirmed = run(dir.path(), &["remove", "--yes", "example.com/m"]);
    assert!(confirmed.status.success(), "{}", transcript(&confirmed));
    assert_eq!(stored(dir.path()), 0);
}

fn prune_of_more_than_half_the_versions_needs_a_confirmation() {
    let dir = store_of(versions(20));
    let refused = run(dir.path(), &["prune", "--max-size", "1K"]);
    assert_eq!(refused.status.code(), Some(64), "{}", transcript(&refused));
    assert!(transcript(&refused).contains("of 20 versions"), "{}", transcript(&refused));
    assert_eq!(stored(dir.path()), 20);
    let confirmed = run(dir.path(), &["prune", "--max-size", "1K", "--yes"]);
    assert!(confirmed.status.success(), "{}", transcript(&confirmed));
    assert!(stored(dir.path()) < 10);
    // Few versions, or less than a half, go without a question.
    let few = store_of(versions(19));
    assert!(run(few.path(), &["prune", "--max-size", "1K"]).status.success());
    let half = store_of(versions(20));
    let bytes = json(half.path(), &["list"]).1.last().unwrap()["bytes"].as_u64().unwrap();
    let pruned = run(half.path(), &["prune", "--max-size", &format!("{}b", bytes * 2 / 3)]);
    assert!(pruned.status.success(), "{}", transcript(&pruned));
    assert!((10..20).contains(&stored(half.path())));
}

fn a_size_without_a_unit_is_read_as_bytes_with_a_warning() {
    let dir = store_of(versions(1));
    let output = run(dir.path(), &["prune", "--max-size", "5000000"]);
    assert!(output.status.success(), "{}", transcript(&output));
    assert!(
        transcript(&output).contains("warning: --max-size 5000000 has no unit"),
        "{}",
        transcript(&output)
    );
    let output = run(dir.path(), &["prune", "--max-size", "5M"]);
    assert!(!transcript(&output).contains("warning"), "{}", transcript(&output));
}

fn a_dry_run_says_what_would_be_removed() {
    let dir = store_of(versions(2));
    for arguments in
        [&["remove", "--dry-run", "example.com/m"][..], &["prune", "--dry-run", "--max-size", "0"]]
    {
        let output = run(dir.path(), arguments);
        assert!(output.status.success(), "{}", transcript(&output));
        let text = transcript(&output);
        assert!(text.contains("would remove example.com/m@v1.0.1"), "{text}");
        assert!(text.contains("would be removed") && !text.contains("\nremoved"), "{text}");
    }
    assert_eq!(stored(dir.path()), 2);
}

fn completions_and_manual_pages_include_the_commands_of_stoa_migrate() {
    let dir = testkit::tempdir();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(dir.path(), &["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", transcript(&output));
        for word in ["prune", "import-config", "config-file", "leftovers", "move", "lock-timeout"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let to = dir.path().join("man");
    for _ in 0..2 {
        let output = run(dir.path(), &["man", to.to_str().unwrap()]);
        assert!(output.status.success(), "{}", transcript(&output));
    }
    let page = |name: &str| fs::read_to_string(to.join(name)).unwrap();
    assert!(page("stoa.1").contains("stoa\\-fetch(1)"));
    assert!(page("stoa-import.1").contains("SOURCE") && page("stoa-migrate.1").contains("dry\\-run"));
    let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_str().unwrap().ends_with(".1")), "{names:?}");
}

fn manual_pages_need_a_folder_that_can_be_created() {
    let dir = testkit::tempdir();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let page = dir.path().join("pages/stoa.1");
    fs::create_dir_all(&page).unwrap();
    for to in [&file, &file.join("below"), Path::new("/proc/stoa-man"), page.parent().unwrap()] {
        let output = run(dir.path(), &["man", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(73), "{}", transcript(&output));
        assert!(transcript(&output).contains(to.to_str().unwrap()), "{}", transcript(&output));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    // The same holds for the other commands that write to a folder.
    let root = dir.path().join("store");
    create(&root);
    for to in [file.join("below"), "/proc/stoa-export".into()] {
        let output = run(&root, &["export", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(73), "{}", transcript(&output));
    }
    let output = Command::new(MIGRATE).args(["--store", "/proc/stoa"]).output().unwrap();
    assert_eq!(output.status.code(), Some(73), "{}", transcript(&output));
}

/// Runs a command whose standard output is closed before it begins, as by `head` that has read enough.
fn with_closed_output(mut command: Command) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // This process holds the writer as long as the command exists.
    drop(command);
    child.wait_with_output().unwrap()
}

fn a_closed_pipe_ends_every_command_quietly() {
    let dir = testkit::tempdir();
    let (root, other, out) = (dir.path().join("store"), dir.path().join("other"), dir.path().join("out"));
    for root in [&root, &other] {
        create(root);
        Module::new("example.com/m@v1.0.0", 10).put_unsealed(root);
    }
    fs::write(root.join("modules/notes"), "a leftover").unwrap();
    let (other, out) = (other.to_str().unwrap(), out.to_str().unwrap());
    let fetch = ["fetch", "example.com/m@v1.0.0", "--upstream", "file:///nowhere"];
    let lines: &[&[&str]] = &[
        &["list"],
        &["path", "example.com/m@v1.0.0"],
        &["status"],
        &["verify"],
        &["quarantine"],
        &["remove", "--list"],
        &["remove", "--dry-run", "example.com/m"],
        &["prune", "--dry-run", "--max-size", "0"],
        &["export", out],
        &["import", other],
        &["leftovers"],
        &["migrate", "--dry-run"],
        &["config", "show"],
        &["config", "check"],
        &["completions", "bash"],
        &["import-config", "--no-env", "--env", "ATHENS_PORT=:3000"],
        &["--help"],
        &fetch,
    ];
    for line in lines {
        let output = with_closed_output(stoa(&root, line));
        assert_eq!(output.status.code(), Some(0), "{line:?}: {}", transcript(&output));
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(!text.contains("error") && !text.contains("pipe"), "{line:?}: {text}");
    }
    let with_json =
        ["list", "status", "verify", "export", "import", "leftovers", "config", "fetch", "remove"];
    for line in lines.iter().filter(|line| with_json.contains(&line[0])) {
        let output = with_closed_output(stoa(&root, &[line, &["--format", "json"][..]].concat()));
        assert_eq!(output.status.code(), Some(0), "{line:?}: {}", transcript(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line:?}");
    }
    // The exit code still names what a command found.
    let output = with_closed_output(stoa(&root, &["path", "example.com/m@v1.1.0"]));
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
}

fn a_full_standard_output_is_an_error() {
    let dir = store_of(versions(1));
    for line in [
        &["list"][..],
        &["status"],
        &["verify"],
        &["leftovers"],
        &["config", "show"],
        &["completions", "zsh"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = stoa(dir.path(), line).stdout(full).stderr(Stdio::piped()).output().unwrap();
        // A walk over no leftovers prints nothing.
        let expected = if line[0] == "leftovers" { 0 } else { 74 };
        assert_eq!(output.status.code(), Some(expected), "{line:?}: {}", transcript(&output));
        let is_reported = transcript(&output).contains("cannot write to standard output");
        assert_eq!(is_reported, expected == 74, "{line:?}: {}", transcript(&output));
    }
}

fn an_empty_pattern_is_refused() {
    let dir = store_of(versions(2));
    for line in [
        &["list", ""][..],
        &["list", "example.com/m", " , "],
        &["prune", "--max-size", "0", "--keep", ""],
        &["prune", "--max-size", "0", "--keep", "https://example.com"],
    ] {
        let output = run(dir.path(), line);
        assert_eq!(output.status.code(), Some(64), "{line:?}: {}", transcript(&output));
        let text = transcript(&output);
        assert!(text.contains("matches no module") || text.contains("never matches a module path"), "{text}");
    }
    assert_eq!(stored(dir.path()), 2);
}

fn the_usage_of_remove_shows_how_to_list() {
    let output = run(Path::new("/nowhere"), &["remove", "--list", "example.com/m"]);
    assert_eq!(output.status.code(), Some(64), "{}", transcript(&output));
    let usage = "Usage: stoa remove [OPTIONS] <MODULE[@VERSION]>...\n       \
                 stoa remove --list [--bucket <URL>|--local] [--format <FORMAT>]\n";
    assert!(transcript(&output).contains(usage), "{}", transcript(&output));
}

fn help_is_a_field_of_its_own_in_json() {
    let dir = store_of(versions(1));
    let records = dir.path().join("records/example.com/n/@v");
    fs::create_dir_all(&records).unwrap();
    fs::write(records.join("v1.0.0.toml"), "damaged").unwrap();
    for line in
        [&["remove", "--list"][..], &["fetch", "example.com/n@v1.0.0", "--upstream", "file:///nowhere"]]
    {
        let (code, lines) = json(dir.path(), line);
        assert_ne!(code, 0, "{lines:?}");
        let texts = lines.iter().flat_map(|event| event.as_object().unwrap().values());
        assert!(texts.into_iter().all(|text| !text.to_string().contains("help: ")), "{lines:?}");
        let helps = lines.iter().filter_map(|event| event["help"].as_str());
        assert!(helps.into_iter().any(|help| help.starts_with("fix the file")), "{lines:?}");
    }
}

fn a_command_of_stoa_migrate_is_called_by_the_name_that_was_typed() {
    for (arguments, usage) in [
        (&["import"][..], "Usage: stoa import "),
        (&["leftovers", "move"], "Usage: stoa leftovers move "),
        (&["import-config", "--wrong"], "Usage: stoa import-config "),
        (&["migrate", "--wrong"], "Usage: stoa migrate "),
    ] {
        let output = Command::new(STOA).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", transcript(&output));
        assert!(transcript(&output).contains(usage), "{arguments:?}: {}", transcript(&output));
    }
}

fn the_second_interrupt_ends_a_command_at_once() {
    let dir = store_of(versions(1));
    // The command waits for the claim of the version, which this test holds.
    let gate = Gate {
        root: dir.path(),
        current: &stoa_store::LAYOUT,
        migrator: &Migrator::Forbidden { name: "stoa-migrate" },
    };
    let held = gate.hold(gate.pass().unwrap(), Mode::ReadWrite).unwrap();
    let store = Store::open(held, Mode::ReadWrite).unwrap();
    let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
    let claim = store.claim(&version).unwrap();
    let mut child = stoa(dir.path(), &["verify"]).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let proc = Path::new("/proc").join(pid.to_string());
    // The command handles signals before it starts threads. A thread must be past its check for signals.
    let waits_for_claim = format!("{} ", nix::libc::SYS_clock_nanosleep);
    testkit::until("a thread waits for the claim", || {
        fs::read_dir(proc.join("task")).unwrap().flatten().any(|task| {
            fs::read_to_string(task.path().join("syscall"))
                .is_ok_and(|call| call.starts_with(&waits_for_claim))
        })
    });
    kill(pid, Signal::SIGINT).unwrap();
    // Two signals that are pending at the same time are one.
    testkit::until("the first signal is delivered", || {
        let status = fs::read_to_string(proc.join("status")).unwrap();
        status.lines().any(|line| line == "ShdPnd:\t0000000000000000")
    });
    assert!(child.try_wait().unwrap().is_none(), "the first interrupt ended the command in the middle");
    kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", transcript(&output));
    assert!(!transcript(&output).contains("stopped by"), "{}", transcript(&output));
    drop(claim);
}
