//! Wrong invocations of the real programs: exit codes, and the texts on stderr.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use testkit::programs::{Ended, Programs};
use testkit::upstream::Module;
use testkit::{Case, cases};

pub(super) fn cases() -> Vec<Case> {
    cases![every_refusal]
}

const PAIR: &str = "example.org/m@v1.0.0";

/// Invocations that are wrong by themselves.
const USAGE: &[&str] = &[
    "stoa",
    "stoa server",
    "stoa serve --listen",
    "stoa serve --listen here",
    "stoa serve --unknown",
    "stoa serve --read-only=perhaps",
    "stoa serve --base-path go",
    "stoa serve --base-path /go/../x",
    "stoa serve --upstream ftp://example.org",
    "stoa serve --fill-max-concurrent 0",
    "stoa serve --fill-max-zip-size big",
    "stoa serve --fill-list-ttl soon",
    "stoa path",
    "stoa path example.org/m",
    "stoa path example.org/m@latest",
    "stoa path NotAPath@v1.0.0",
    "stoa path example.org/m@v1.0.0 --file exe",
    "stoa path example.org/m@v1.0.0 --config missing.toml",
    "stoa path example.org/m@v1.0.0 -v -q",
    "stoa path example.org/m@v1.0.0 --no-migrate --auto-migrate",
    "stoa status --format xml",
    "stoa verify --threads 0",
    "stoa verify not-a-version",
    "stoa quarantine unknown",
    "stoa quarantine restore",
    "stoa remove",
    "stoa remove example.org/m@",
    "stoa prune",
    "stoa prune --threads 1",
    "stoa prune --unused-since yesterday",
    "stoa prune --unused-since 2999-01-31",
    "stoa prune --max-size 10Q",
    "stoa leftovers move",
    "stoa export",
    "stoa fetch",
    "stoa fetch --from missing.mod",
    "stoa fetch example.org/m@",
    "stoa import",
    "stoa import-config missing.toml",
    "stoa-migrate unknown",
    "stoa-migrate leftovers x",
    "stoa-migrate --to V2",
    "stoa-migrate --to v99",
    "stoa-migrate --from v99",
    "stoa-migrate --lock-timeout soon",
    "stoa-migrate --threads 0",
    "stoa-migrate --format xml",
    "stoa-migrate --verify some",
    "stoa-migrate --config missing.toml",
    "stoa-migrate --to v2 --to v2",
    "stoa-migrate import missing",
];

/// Config files that cannot be used.
const CONFIGS: &[(&str, &str)] = &[
    ("an unknown key", "stor = \"/srv/stoa\"\n"),
    ("an unknown key in a table", "[fill]\nlist_tll = 5\n"),
    ("a wrong type", "read_only = \"perhaps\"\n"),
    ("no TOML", "store = \n"),
    ("a rule without a pattern", "[[module]]\nmode = \"sync\"\n"),
    ("an unknown mode", "[[module]]\npattern = \"*\"\nmode = \"later\"\n"),
];

/// Commands that work on a store.
const ON_A_STORE: &[&str] = &[
    "stoa serve --upstream off",
    "stoa path example.org/m@v1.0.0",
    "stoa status",
    "stoa verify",
    "stoa quarantine",
    "stoa quarantine restore example.org/m@v1.0.0",
    "stoa remove example.org/m@v1.0.0",
    "stoa prune --unused-since 2020-01-31",
    "stoa leftovers",
    "stoa export out",
    "stoa fetch --upstream off example.org/m@v1.0.0",
    "stoa-migrate --dry-run",
    "stoa-migrate",
    "stoa-migrate leftovers",
];

/// Makes what is at a path.
type Make = fn(&Path);

/// States of the place where the store should be.
const STATES: &[(&str, Make)] = &[
    ("a store that is not there, and must not be created", |_| {}),
    ("a folder with something else", |root| {
        fs::create_dir(root).unwrap();
        fs::write(root.join("notes.txt"), "mine").unwrap();
    }),
    ("a file", |root| fs::write(root, "a file").unwrap()),
    ("a store of a newer release", |root| {
        fs::create_dir(root).unwrap();
        fs::write(
            root.join("layout.v9"),
            "written_by = \"stoa-migrate 9.0.0\"\nwritten_at = \"2024-01-02T03:04:05Z\"\n",
        )
        .unwrap();
    }),
    ("a store with two markers", |root| {
        fs::create_dir(root).unwrap();
        for layout in ["v1", "v2"] {
            let marker = "written_by = \"stoa-migrate 0.1.0\"\nwritten_at = \"2024-01-02T03:04:05Z\"\n";
            fs::write(root.join(format!("layout.{layout}")), marker).unwrap();
        }
    }),
    ("an older store, which must not be migrated", |root| {
        Module::new(PAIR, 100).put_v0(root);
    }),
];

/// Commands that a store with one version refuses, or whose check fails.
const REFUSED: &[&str] = &[
    "stoa path example.org/other@v1.0.0",
    "stoa path example.org/m@v1.0.0 --file zip --read-only",
    "stoa verify example.org/other@v1.0.0",
    "stoa quarantine restore example.org/m@v1.0.0",
    "stoa quarantine purge example.org/m@v1.0.0",
    "stoa remove example.org/other@v1.0.0",
    "stoa remove --lift example.org/m@v1.0.0",
    "stoa export store",
    "stoa export store/modules",
    "stoa fetch --upstream off example.org/other@v1.0.0",
    "stoa fetch --upstream http://127.0.0.1:1 example.org/other@v1.0.0",
    "stoa import store",
    "stoa import bin",
    "stoa leftovers move store",
    "stoa-migrate --from v0",
    "stoa-migrate --to v0 --dry-run",
];

fn every_refusal() {
    let mut text = String::new();
    let programs = Programs::current();
    for line in USAGE {
        text += &refused(&programs, line, &[]);
    }
    for (what, config) in CONFIGS {
        text += &format!("# a config file with {what}\n\n");
        fs::write(programs.folder().join("config.toml"), config).unwrap();
        text += &refused(&programs, "stoa serve --config config.toml", &[]);
    }
    for (name, value) in [("STOA_READ_ONLY", "perhaps"), ("STOA_FILL_MAX_CONCURRENT", "many")] {
        text += &format!("# with {name}={value}\n\n");
        text += &refused(&programs, "stoa serve", &[(name, value)]);
    }
    for (what, make) in STATES {
        text += &format!("# {what}\n\n");
        for line in ON_A_STORE {
            let programs = Programs::current();
            make(&programs.store());
            let is_migrate = line.starts_with("stoa-migrate");
            let mut variables = vec![("STOA_AUTO_MIGRATE", "false")];
            variables.truncate(if is_migrate { 0 } else { 1 });
            let no_create = if *line == "stoa-migrate" { "stoa-migrate --no-create" } else { line };
            text += &ended(&programs, no_create, &variables).1;
        }
    }
    text += "# a store with one version\n\n";
    for line in REFUSED {
        let programs = Programs::current();
        programs.make_store();
        Module::new(PAIR, 100).put_unsealed(&programs.store());
        text += &ended(&programs, line, &[]).1;
    }
    super::compare("refusals", &text);
}

/// Runs a command line that must not succeed.
fn refused(programs: &Programs, line: &str, variables: &[(&str, &str)]) -> String {
    let (code, text) = ended(programs, line, variables);
    assert_ne!(code, 0, "{text}");
    text
}

/// Runs a command line, and writes down how it ended.
fn ended(programs: &Programs, line: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let mut words = line.split(' ');
    let mut command = programs.command(words.next().unwrap(), words);
    command.envs(variables.iter().copied());
    let ended = Ended::from_child(stopped_if_it_stays(command.spawn().unwrap(), line));
    let text = format!("{}{}", ended.out, ended.err);
    let text = text
        .replace(programs.folder().to_str().unwrap(), "[DIR]")
        .replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
    let lines: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    (ended.code, format!("$ {line}\n{lines}[exit {}]\n\n", ended.code))
}

/// Waits for a program that should refuse to run. The test fails if it runs instead.
fn stopped_if_it_stays(mut child: Child, line: &str) -> Child {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{line} was not refused");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}
