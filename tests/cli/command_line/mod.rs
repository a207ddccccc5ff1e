//! The command lines of both programs: what they print, where, and the codes that they end with.

mod serving;
mod status;
mod untouched;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Case;

use serde_json::Value;

use testkit::programs::{Ended, Programs};
use testkit::tree::snapshot;
use testkit::upstream::Module;
use testkit::{missing_tool, trial};

const PAIR: &str = "example.org/m@v1.0.0";

pub(crate) fn cases() -> Vec<Case> {
    let go = missing_tool("go", &["version"]);
    vec![
        trial("help and version end with 0", None, help_and_version_end_with_0),
        trial("wrong usage ends with 64", None, wrong_usage_ends_with_64),
        trial("every scalar key is an option", None, every_scalar_key_is_an_option),
        trial(
            "a wrong config file names file line and key",
            None,
            a_wrong_config_file_names_file_line_and_key,
        ),
        trial("the sample config means what it says", None, the_sample_config_means_what_it_says),
        trial("both programs find the same store", None, both_programs_find_the_same_store),
        trial("path prints where a file lies", None, path_prints_where_a_file_lies),
        trial("path prints names that are not utf-8", None, path_prints_names_that_are_not_utf_8),
        trial("migrate hands everything on", None, migrate_hands_everything_on),
        trial("a new store is reported in both formats", None, a_new_store_is_reported_in_both_formats),
        trial("a dry run writes nothing", None, a_dry_run_writes_nothing),
        trial("a migration is reported in both formats", None, a_migration_is_reported_in_both_formats),
        trial("no create makes no store", None, no_create_makes_no_store),
        trial("regenerate leaves the same store", None, regenerate_leaves_the_same_store),
        trial("unknown layouts are 78", None, unknown_layouts_are_78),
        trial("status works on every state and changes none", None, status::status_works_on_every_state),
        trial("status counts versions", None, status::status_counts_versions),
        trial(
            "status names the processes that use the store",
            None,
            status::status_names_the_processes_that_use_the_store,
        ),
        trial("a closed output does not panic", None, a_closed_output_does_not_panic),
        trial("serve listens, and stops at a signal", None, serving::serve_listens_and_stops_at_a_signal),
        trial("serve holds the store", None, serving::serve_holds_the_store),
        trial("serve reports why it cannot listen", None, serving::serve_reports_why_it_cannot_listen),
        trial(
            "a file in place of a store is refused alike",
            None,
            untouched::a_file_in_place_of_a_store_is_refused_alike,
        ),
        trial("two markers are refused alike", None, untouched::two_markers_are_refused_alike),
        trial(
            "a server that cannot start changes no store",
            None,
            untouched::a_server_that_cannot_start_changes_no_store,
        ),
        trial("a dry run changes no store", None, untouched::a_dry_run_changes_no_store),
        trial(
            "commands that need a store create none",
            None,
            untouched::commands_that_need_a_store_create_none,
        ),
        trial("serve refuses a wrong upstream", None, serving::serve_refuses_a_wrong_upstream),
        trial(
            "serve reports that its upstream is itself",
            None,
            serving::serve_reports_that_its_upstream_is_itself,
        ),
        trial("serve is offline without a go command", None, serving::serve_is_offline_without_a_go_command),
        trial(
            "serve fetches from the upstream that go is set up with",
            go,
            serving::serve_fetches_from_the_upstream_that_go_is_set_up_with,
        ),
    ]
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn config(programs: &Programs, text: &str) -> PathBuf {
    let path = programs.folder().join("home/.config/stoa/config.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn help_and_version_end_with_0() {
    let programs = Programs::current();
    for name in ["stoa", "stoa-migrate"] {
        for option in ["--help", "--version", "-h", "-V"] {
            let ended = Ended::of(programs.command(name, [option]));
            assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{name} {option}");
            assert!(ended.out.contains("stoa"), "{ended:?}");
        }
    }
    assert_eq!(programs.stoa(["serve", "--help"]).code, 0);
    assert!(!programs.store().exists());
}

fn wrong_usage_ends_with_64() {
    let programs = Programs::current();
    for arguments in [
        &[][..],
        &["server"],
        &["serve", "--listen"],
        &["serve", "--listen", "here"],
        &["serve", "--unknown"],
        &["serve", "--read-only=perhaps"],
        &["serve", "--base-path", "go"],
        &["serve", "--base-path", "/go/../x"],
        &["serve", "--upstream", ""],
        &["serve", "--fill-max-concurrent", "0"],
        &["path"],
        &["path", "example.org/m"],
        &["path", "example.org/m@latest"],
        &["path", "Not a path@v1.0.0"],
        &["path", PAIR, "--file", "exe"],
        &["path", PAIR, "--config", "missing.toml"],
        &["path", PAIR, "--store", ""],
        &["path", PAIR, "-v", "-q"],
        &["prune", "--threads", "1"],
        &["prune", "--unused-since", "2999-01-31"],
        &["fetch", "--from", concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-MIT")],
        &["status", "--format", "xml"],
    ] {
        let ended = programs.stoa(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("error: ") || arguments.is_empty(), "{arguments:?}: {ended:?}");
    }
    assert!(!programs.store().exists());
    for arguments in [
        &["leftovers", "x"][..],
        &["imports", "x"],
        &["unknown"],
        &["--to", "V2"],
        &["--from", ""],
        &["--lock-timeout", "soon"],
        &["--threads", "0"],
        &["--threads", "99999999", "--verify", "full"],
        &["--format", "xml"],
        &["--config", "missing.toml"],
        &["--to", "v2", "--to", "v2"],
    ] {
        let ended = programs.migrate(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("error: "), "{arguments:?}: {ended:?}");
    }
}

fn every_scalar_key_is_an_option() {
    let programs = Programs::current();
    let help = programs.stoa(["serve", "--help"]).out + &programs.migrate(["--help"]).out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let sample: toml::Table = toml::from_str(&uncommented(&sample())).unwrap();
    // Tables of rules live in the file alone.
    let is_rules =
        |value: &toml::Value| value.as_array().is_some_and(|all| all.iter().any(toml::Value::is_table));
    let keys =
        sample.iter().filter(|(_, value)| !is_rules(value)).flat_map(|(key, value)| match value.as_table() {
            Some(table) => table.keys().map(|name| format!("{key}.{name}")).collect(),
            None => vec![key.clone()],
        });
    let keys: Vec<String> = keys.collect();
    assert!(keys.len() >= 13, "{keys:?}");
    for key in keys {
        // In the file, the folder of the store is a key of the table with its limits.
        let key = if key == "store.path" { "store".to_owned() } else { key };
        let option = format!("--{}", key.replace(['_', '.'], "-"));
        assert!(
            help.contains(&format!("{option} ")) || help.contains(&format!("{option}[")),
            "{option}: {help}"
        );
        assert!(help.contains(&format!("[key: {key}]")), "{key}: {help}");
    }
}

fn sample() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/installer/sample-config.toml")).unwrap()
}

/// The sample with each of its keys switched on.
fn uncommented(sample: &str) -> String {
    let switch_on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    sample.lines().map(switch_on).collect::<Vec<_>>().join("\n")
}

fn a_wrong_config_file_names_file_line_and_key() {
    let programs = Programs::current();
    for (text, line, key) in [
        ("# first\nstor = '/x'\n", 2, "stor"),
        ("threads = 1\n\n[fill]\nmaximum = 1\n", 4, "maximum"),
        ("offline = 'yes'\n", 1, "offline"),
    ] {
        let path = config(&programs, text);
        for ended in
            [programs.stoa(["path", PAIR]), programs.migrate(["--dry-run"]), programs.stoa(["serve"])]
        {
            assert_eq!(ended.code, 64, "{ended:?}");
            for part in [path.to_str().unwrap(), &format!("line {line}"), key] {
                assert!(ended.err.contains(part), "{part}: {ended:?}");
            }
        }
    }
    assert!(!programs.store().exists());
}

fn the_sample_config_means_what_it_says() {
    let programs = Programs::current();
    let sample = sample();
    for text in [sample.clone(), uncommented(&sample)] {
        config(&programs, &text);
        let ended = programs.migrate(["--dry-run"]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

fn both_programs_find_the_same_store() {
    let programs = Programs::current();
    let found = |name: &str, prepare: &dyn Fn(&mut Command)| {
        let mut command = programs.command(name, ["status", "--format", "json"]);
        command.env_remove("STOA_STORE");
        prepare(&mut command);
        let ended = Ended::of(command);
        assert_eq!(ended.code, 65, "{ended:?}");
        let message = lines(&ended.out)[0]["message"].as_str().unwrap().to_owned();
        message.strip_prefix("there is no store in ").unwrap().to_owned()
    };
    let (home, here) = (programs.folder().join("home"), programs.folder());
    let assert_found = |expected: &Path, prepare: &dyn Fn(&mut Command)| {
        for name in ["stoa", "stoa-migrate"] {
            assert_eq!(Path::new(&found(name, prepare)), expected, "{name}");
        }
    };
    assert_found(&home.join(".local/share/stoa"), &|_| {});
    assert_found(&here.join("data/stoa"), &|command| {
        command.env("XDG_DATA_HOME", here.join("data"));
    });
    let file = config(&programs, "store = 'in-file'\n");
    assert_found(&file.with_file_name("in-file"), &|_| {});
    assert_found(&here.join("in-variable"), &|command| {
        command.env("STOA_STORE", here.join("in-variable"));
    });
    assert_found(&here.join("typed"), &|command| {
        command.env("STOA_STORE", "/in-variable").args(["--store", "typed"]);
    });
    let other = here.join("other.toml");
    fs::write(&other, "store = '/other'\n").unwrap();
    assert_found(Path::new("/other"), &|command| {
        command.env("STOA_CONFIG", &other);
    });
}

fn path_prints_where_a_file_lies() {
    let programs = Programs::current();
    let root = programs.make_store();
    let module = Module::new("example.org/Cased@v1.0.0-RC1", 10);
    let folder = module.put_unsealed(&root);
    for file in ["info", "mod", "zip"] {
        let ended = programs.stoa(["path", "example.org/Cased@v1.0.0-RC1", "--file", file]);
        assert_eq!((ended.code, ended.out), (0, format!("{}\n", folder.join(file).display())));
        assert_eq!(ended.err, "");
    }
    let absent = programs.stoa(["path", "example.org/Cased@v1.0.1"]);
    assert_eq!((absent.code, absent.out.as_str()), (1, ""));
    assert!(
        absent.err.starts_with("error: ") && absent.err.contains("example.org/Cased@v1.0.1"),
        "{absent:?}"
    );
}

fn path_prints_names_that_are_not_utf_8() {
    let programs = Programs::current();
    let store = programs.folder().join(OsStr::from_bytes(b"a\xffb"));
    let mut made = programs.command::<&str>("stoa-migrate", []);
    assert_eq!(
        Ended::of({
            made.arg("--store").arg(&store);
            made
        })
        .code,
        0
    );
    Module::new(PAIR, 10).put_unsealed(&store);
    let output = programs.command("stoa", ["path", PAIR]).arg("--store").arg(&store).output().unwrap();
    let printed = Path::new(OsStr::from_bytes(output.stdout.strip_suffix(b"\n").unwrap()));
    assert!(printed.starts_with(&store) && printed.is_file(), "{printed:?}");
}

fn migrate_hands_everything_on() {
    let programs = Programs::current();
    let store = programs.folder().join("migrate");
    let store = store.to_str().unwrap();
    let help = programs.stoa(["migrate", "--help"]);
    let own = programs.migrate(["--help"]).out;
    assert_eq!(
        help.out,
        own.replace("Usage: stoa-migrate", "Usage: stoa migrate")
            .replace("       stoa-migrate [", "       stoa migrate [")
    );
    let typed_before = programs.stoa(["--store", store, "migrate", "--dry-run", "--format=json"]);
    let typed_after = programs.stoa(["migrate", "--dry-run", "--store", store, "--format", "json"]);
    assert_eq!(typed_before.out, typed_after.out);
    assert!(typed_before.out.contains(store), "{typed_before:?}");
    assert_eq!(programs.stoa(["migrate", "--unknown"]).code, 64);
    assert_eq!(programs.stoa(["migrate", "--to", "v9"]).code, 78);
    assert!(!Path::new(store).exists());
    assert_eq!(programs.stoa(["--store", "migrate", "migrate"]).code, 0);
    assert!(Path::new(store).join("layout.v2").exists());
}

fn a_new_store_is_reported_in_both_formats() {
    let programs = Programs::current();
    let store = programs.store();
    let made = programs.migrate::<&str>([]);
    assert_eq!((made.code, made.err.as_str()), (0, ""));
    assert!(made.out.contains(store.to_str().unwrap()) && made.out.contains("layout v2"), "{made:?}");
    let json = lines(&programs.migrate(["--format", "json"]).out);
    assert_eq!(json.len(), 1);
    let expected = serde_json::json!({
        "event": "done", "store": store, "layout": "v2", "changed": false, "pending": false,
    });
    assert_eq!(json[0], expected);
    fs::remove_dir_all(&store).unwrap();
    let json = lines(&programs.migrate(["--format", "json"]).out);
    assert_eq!(json.last().unwrap()["changed"], true);
    assert!(json.iter().all(|line| line["event"].is_string()), "{json:?}");
    assert_eq!(programs.migrate(["-q", "--regenerate"]).out, "");
}

fn a_dry_run_writes_nothing() {
    let programs = Programs::next();
    let human = programs.migrate(["--dry-run"]);
    assert_eq!(human.code, 0);
    assert!(human.out.contains("would create a store at layout v3"), "{human:?}");
    let json = lines(&programs.migrate(["--dry-run", "--format", "json"]).out);
    assert_eq!((&json[0]["event"], &json[0]["creates"]), (&"plan".into(), &"v3".into()));
    assert_eq!(json.last().unwrap()["pending"], true);
    assert!(!programs.store().exists());

    let made = Programs::current().migrate(["--store", programs.store().to_str().unwrap()]);
    assert_eq!(made.code, 0);
    fs::remove_file(programs.store().join("store.lock")).unwrap();
    let before = snapshot(&programs.store());
    let human = programs.migrate(["--dry-run"]);
    assert!(human.out.contains("v2 to v3: create a folder for labels"), "{human:?}");
    let json = lines(&programs.migrate(["--dry-run", "--format", "json"]).out);
    let step = &json[0]["steps"][0];
    assert_eq!((&step["from"], &step["to"], &step["direction"]), (&"v2".into(), &"v3".into(), &"up".into()));
    assert_eq!(json.last().unwrap()["pending"], true);
    assert_eq!(snapshot(&programs.store()), before);

    assert_eq!(programs.migrate::<&str>([]).code, 0);
    let json = lines(&programs.migrate(["--dry-run", "--format", "json"]).out);
    assert_eq!(json.last().unwrap()["pending"], false);
}

fn a_migration_is_reported_in_both_formats() {
    let programs = Programs::next();
    let made = Programs::current().migrate(["--store", programs.store().to_str().unwrap()]);
    assert_eq!(made.code, 0);
    let up = lines(&programs.migrate(["--format", "json"]).out);
    let told: Vec<(&str, &str)> = up
        .iter()
        .map(|line| (line["event"].as_str().unwrap(), line["state"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(told, [("plan", ""), ("step", "begun"), ("step", "done"), ("done", "")]);
    for step in &up[1..3] {
        assert_eq!((&step["from"], &step["to"]), (&"v2".into(), &"v3".into()), "{step}");
    }
    assert_eq!((&up[3]["layout"], &up[3]["changed"]), (&"v3".into(), &true.into()));
    let back = programs.migrate(["--to", "v2", "--progress", "never"]);
    assert_eq!((back.code, back.err.as_str()), (0, ""));
    assert!(back.out.contains("v3 to v2") && back.out.contains("is at layout v2"), "{back:?}");
    let quiet = programs.migrate(["-q"]);
    assert_eq!((quiet.code, quiet.out.as_str(), quiet.err.as_str()), (0, "", ""));
    assert!(programs.store().join("layout.v3").exists());
}

fn no_create_makes_no_store() {
    let programs = Programs::current();
    for arguments in [&["--no-create"][..], &["--no-create", "--dry-run"]] {
        let ended = programs.migrate(arguments);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    }
    assert!(!programs.store().exists());
    // What was begun is finished, and a plan says so.
    let store = programs.store();
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("creating.v2"), "").unwrap();
    let planned = programs.migrate(["--no-create", "--dry-run"]);
    assert!(planned.code == 0 && planned.out.contains("would create a store"), "{planned:?}");
    let made = programs.migrate(["--no-create"]);
    assert!(made.code == 0 && store.join("layout.v2").is_file(), "{made:?}");
}

fn regenerate_leaves_the_same_store() {
    let programs = Programs::current();
    let root = programs.make_store();
    Module::new(PAIR, 10).put_unsealed(&root);
    let before = testkit::tree::shape(&root);
    let ended = programs.migrate(["--regenerate"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(testkit::tree::shape(&root), before);
    let marker = fs::read_to_string(root.join("layout.v2")).unwrap();
    assert_eq!(marker.matches("[[history]]").count(), 2, "{marker}");
    fs::rename(root.join("layout.v2"), root.join("migrating.v2-v2")).unwrap();
    assert_eq!(programs.stoa(["path", PAIR]).code, 0);
    assert_eq!(testkit::tree::shape(&root), before);
}

fn unknown_layouts_are_78() {
    let programs = Programs::current();
    for arguments in [["--to", "v9"], ["--from", "v9"]] {
        let human = programs.migrate(arguments);
        assert_eq!(human.code, 78, "{human:?}");
        assert!(human.err.starts_with("error: ") && human.err.contains("v9"), "{human:?}");
        let json = programs.migrate(arguments.iter().chain(&["--format", "json"]));
        let last = lines(&json.out).pop().unwrap();
        assert_eq!((json.code, &last["event"], &last["code"]), (78, &"error".into(), &78.into()));
        assert_eq!(json.err, "");
    }
    assert!(!programs.store().exists());
}

fn a_closed_output_does_not_panic() {
    let programs = Programs::current();
    let root = programs.make_store();
    Module::new(PAIR, 10).put_unsealed(&root);
    for (name, arguments) in
        [("stoa", &["path", PAIR][..]), ("stoa", &["status"]), ("stoa-migrate", &["--regenerate"])]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = programs.command(name, arguments);
        command.stdout(writer);
        let ended = Ended::of(command);
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        assert!([0, 74].contains(&ended.code), "{ended:?}");
    }
    assert!(root.join("layout.v2").exists());
}
