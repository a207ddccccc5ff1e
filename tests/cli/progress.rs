//! The progress bar, as it is drawn on a terminal.

use std::fs;
use std::process::Command;

use testkit::programs::{Ended, Programs};
use testkit::terminal::{OnTerminal, missing_terminal};
use testkit::upstream::{Gate, Script, Upstream};
use testkit::{Case, Module, trial};

pub(crate) fn cases() -> Vec<Case> {
    let cases: [(&str, fn()); 5] = [
        ("the bar of a fetch moves within a large zip", fetch_moves),
        ("Ctrl-C on a terminal clears the bar and ends with 130", interrupted),
        ("an import shows the total, and bytes before a version is published", import_shows_a_total),
        ("the check of a store without its marker shows a total", check_shows_a_total),
        ("the bar of a dry run says what would be done", dry_run),
    ];
    cases.map(|(name, run)| trial(name, None, run).needs(missing_terminal)).into()
}

const BIG: &str = "example.com/big@v1.0.0";

/// Offers a zip of more than 4 MiB that pauses after 3 MiB.
fn paused(upstream: &Upstream) -> (Module, Gate) {
    let (module, gate) = (upstream.offer(BIG, 4 << 20), Gate::default());
    upstream.set(&module.path("zip"), Script::Gated(module.zip.clone(), 3 << 20, gate.clone()));
    (module, gate)
}

fn fetch(programs: &Programs, upstream: &Upstream, pairs: &[&str]) -> Command {
    programs.command("stoa", [&["fetch", "--upstream", upstream.url()], pairs].concat())
}

fn fetch_moves() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let store = programs.make_store();
    let (_, gate) = paused(&upstream);
    upstream.offer("example.com/small@v1.0.0", 10);
    let absent = ["example.com/none@v1.0.0", "example.com/none@v1.1.0"];
    let wanted = [&[BIG, "example.com/small@v1.0.0"], absent.as_slice()].concat();
    let mut terminal = OnTerminal::start(&fetch(&programs, &upstream, &wanted));
    terminal.wait_for("fetch [===============>    ] 3 of 4 versions, 3.00 MiB");
    gate.open();
    let (code, lines) = terminal.end();
    assert_eq!((code, lines.len()), (1, 5), "{lines:#?}");
    // The failures are above the bar, and the bar is gone.
    assert!(lines[..2].iter().all(|line| line.starts_with("failed example.com/none@v1.")), "{lines:#?}");
    let counts = "2 versions downloaded, 4.00 MiB, 0 already there, 2 not found or refused";
    assert_eq!(lines[2], format!("{}: {counts}", store.display()));
    assert_eq!(lines[3], "error: 2 versions not found or refused");
    assert!(lines[4].starts_with("help: "), "{lines:#?}");
}

fn interrupted() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    programs.make_store();
    let _gate = paused(&upstream);
    let mut terminal = OnTerminal::start(&fetch(&programs, &upstream, &[BIG]));
    terminal.wait_for("0 of 1 version, 3.00 MiB");
    terminal.press_ctrl(b'C');
    let (code, lines) = terminal.end();
    assert_eq!(code, 130, "{lines:#?}");
    assert!(lines.iter().any(|line| line == "stopping; press Ctrl-C again to stop at once"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("error: stopped by Ctrl-C")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("fetch ")), "{lines:#?}");
}

/// Makes a tree for an import: the given version, and two small ones.
fn tree(programs: &Programs, module: &Module) -> String {
    let root = programs.folder().join("tree");
    let small = ["example.com/a@v1.0.0", "example.com/b@v1.0.0"].map(|pair| Module::new(pair, 1000));
    for module in small.iter().chain([module]) {
        for (ending, content) in [("mod", &module.modfile), ("zip", &module.zip), ("info", &module.info)] {
            let path = root.join(module.path(ending).trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }
    root.to_str().unwrap().to_owned()
}

fn import_shows_a_total() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let store = programs.make_store();
    let (module, gate) = paused(&upstream);
    let tree = tree(&programs, &module);
    // An import waits for a version that another process downloads, so its bar stays.
    let fetching = fetch(&programs, &upstream, &[BIG]).spawn().unwrap();
    upstream.wait_until_asked(".zip", 1);
    let mut terminal = OnTerminal::start(&programs.command("stoa-migrate", ["import", &tree]));
    terminal.wait_for(" of 3 versions, 4.00 MiB");
    gate.open();
    let (code, lines) = terminal.end();
    assert_eq!(code, 0, "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let end = format!("into {}: imported 2 versions, ", store.display());
    assert!(lines[0].contains(&end) && lines[0].ends_with("; 1 already in the store"), "{lines:#?}");
    assert_eq!(Ended::from_child(fetching).code, 0);
}

fn check_shows_a_total() {
    let programs = Programs::current();
    let store = programs.make_store();
    let tree = tree(&programs, &Module::new(BIG, 1000));
    assert_eq!(programs.migrate(["import", &tree]).code, 0);
    fs::remove_file(store.join("layout.v2")).unwrap();
    let mut terminal = OnTerminal::start(&programs.command("stoa-migrate", ["--from", "v2"]));
    terminal.wait_for("check layout v2 [>                   ] 0 of 3 versions");
    let (code, lines) = terminal.end();
    let end = format!("{} is at layout v2", store.display());
    assert_eq!((code, lines), (0, vec!["restored the marker of layout v2".to_owned(), end]));
}

fn dry_run() {
    let programs = Programs::current();
    let store = programs.make_store();
    let tree = tree(&programs, &Module::new(BIG, 1000));
    let mut terminal = OnTerminal::start(&programs.command("stoa-migrate", ["import", "--dry-run", &tree]));
    terminal.wait_for("would import ");
    let (code, lines) = terminal.end();
    assert_eq!((code, lines.len()), (0, 1), "{lines:#?}");
    let dry = "(dry run, nothing was written): would import 3 versions, ";
    assert!(lines[0].contains(dry), "{lines:#?}");
    assert!(!store.join("modules/example.com").exists());
}
