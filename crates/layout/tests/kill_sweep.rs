//! The migrator of `examples/tool_home`, killed at each call that changes the disk, and failed at each.
//!
//! After every fault the marker must be right: with `layout.vN` there is a whole home at N. No shim may be missing. A second run
//! must reach the same tree as an undisturbed run, byte by byte.
//!
//! These tests are slow: run them with `-- --include-ignored`. By default they only kill; the variable `STOA_SWEEP_ALL`
//! adds the errors. They need strace. Without it they are ignored with the reason, or fail if `CI=true`.
#![expect(clippy::disallowed_methods, reason = "tests make folders of their own")]
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/sweep.rs"]
mod sweep;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use stoa_layout::marker::{TEMPORARY_PREFIX, Top};

use support::homes;
use support::programs::migrator;
use support::tree::{self, Tree};
use sweep::{Fault, Report, Sweep};

/// A way to run the migrator.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// The layout of the home before; `None` for an empty folder.
    from: Option<&'static str>,
    to: &'static str,
    arguments: &'static [&'static str],
    always: Option<(&'static str, &'static str)>,
    /// Minimum number of calls, to detect a sweep that misses the work.
    at_least: usize,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "up", from: Some("v0"), to: "v2", arguments: &[], always: None, at_least: 60 },
    Scenario { name: "back", from: Some("v2"), to: "v0", arguments: &[], always: None, at_least: 60 },
    Scenario { name: "create", from: None, to: "v2", arguments: &[], always: None, at_least: 20 },
    Scenario {
        name: "regenerate",
        from: Some("v2"),
        to: "v2",
        arguments: &["--regenerate"],
        always: None,
        at_least: 20,
    },
    Scenario {
        name: "up_without_renameat2",
        from: Some("v0"),
        to: "v2",
        arguments: &[],
        always: NO_RENAMEAT2,
        at_least: 60,
    },
    Scenario {
        name: "back_without_renameat2",
        from: Some("v2"),
        to: "v0",
        arguments: &[],
        always: NO_RENAMEAT2,
        at_least: 60,
    },
];

/// Some file systems cannot refuse to overwrite in a rename.
const NO_RENAMEAT2: Option<(&str, &str)> = Some(("renameat2", "EINVAL"));

const FAULTS: [(&str, Fault); 5] = [
    ("kill", Fault::Kill),
    ("enospc", Fault::Error("ENOSPC")),
    ("eio", Fault::Error("EIO")),
    ("eacces", Fault::Error("EACCES")),
    ("estale", Fault::Error("ESTALE")),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for scenario in SCENARIOS {
        let tries_all = std::env::var_os("STOA_SWEEP_ALL").is_some();
        for (name, fault) in FAULTS.into_iter().take(if tries_all { FAULTS.len() } else { 1 }) {
            let name = format!("{}::{name}", scenario.name);
            trials
                .push(Trial::ignorable_test(name, move || try_one(scenario, fault)).with_ignored_flag(true));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn try_one(scenario: Scenario, fault: Fault) -> Result<Completion, Failed> {
    if let Some(reason) = sweep::unavailable() {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(reason.into());
        }
        return Ok(Completion::ignored_with(reason));
    }
    let Report { found, hit, succeeded, distinct, findings } = scenario.sweep(fault);
    println!(
        "{} {fault:?}: {found} points found, {hit} hit, {succeeded} succeeded all the same, {distinct} distinct trees, \
         {} findings",
        scenario.name,
        findings.len()
    );
    if !findings.is_empty() {
        return Err(findings.join("\n").into());
    }
    if found < scenario.at_least || hit != found || distinct < 2 {
        return Err("too few points were found or hit".into());
    }
    Ok(Completion::Completed)
}

impl Scenario {
    fn sweep(&self, fault: Fault) -> Report {
        // The regeneration has something to repair.
        let before = |home: &Path| {
            self.make(home, self.from);
            if self.arguments.contains(&"--regenerate") {
                fs::remove_file(home.join("bin/zig")).unwrap();
            }
        };
        let undisturbed: BTreeMap<&str, Tree> =
            ["v0", "v1", "v2"].into_iter().map(|layout| (layout, self.undisturbed(layout))).collect();
        let whole = &undisturbed[self.to];
        Sweep {
            before: &before,
            command: &|home| self.command(home),
            always: self.always,
            disturbed: &|home| self.judge_marker(home, &undisturbed),
            end: &|home| compare(whole, &tree::settled(home)),
            codes: &[73, 74, 75, 77],
        }
        .run(fault)
    }

    fn command(&self, home: &Path) -> Command {
        let mut command = migrator(home);
        command.args(["--to", self.to]).args(self.arguments);
        command
    }

    fn make(&self, home: &Path, layout: Option<&str>) {
        match layout {
            None => fs::create_dir(home).unwrap(),
            Some("v0") => homes::v0(home),
            Some(layout) => {
                homes::v0(home);
                let output = migrator(home).args(["--to", layout]).output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        }
    }

    /// Returns the home at a layout as an undisturbed run leaves it.
    fn undisturbed(&self, layout: &str) -> Tree {
        let dir = testkit::tempdir();
        let home = dir.path().join("home");
        if self.from.is_none() {
            fs::create_dir(&home).unwrap();
            if layout == "v2" {
                assert!(self.command(&home).output().unwrap().status.success());
            }
        } else {
            self.make(&home, Some(layout));
        }
        tree::settled(&home)
    }

    /// At a layout the home must be whole. In a step anything is allowed, but no shim may be missing.
    fn judge_marker(&self, home: &Path, undisturbed: &BTreeMap<&str, Tree>) -> Result<(), String> {
        let top = Top::read(home).unwrap().unwrap();
        let names: Vec<String> = top.markers.iter().map(ToString::to_string).collect();
        let layout = match names.as_slice() {
            [] => "v0",
            [one] => one.strip_prefix("layout.").unwrap_or_default(),
            several => return Err(format!("{} markers: {several:?}", several.len())),
        };
        for shim in ["bin/node", "bin/zig"].into_iter().filter(|_| self.name.starts_with(['u', 'b'])) {
            if home.join(shim).symlink_metadata().is_err() {
                return Err(format!("{shim} is missing under {names:?}"));
            }
        }
        match undisturbed.get(layout) {
            // A regeneration begins and ends at the same layout.
            Some(_) if self.arguments.contains(&"--regenerate") => Ok(()),
            Some(whole) => {
                compare(whole, &without_temporaries(home)).map_err(|e| format!("under {names:?}: {e}"))
            }
            None => Ok(()),
        }
    }
}

fn compare(whole: &Tree, tree: &Tree) -> Result<(), String> {
    if whole == tree { Ok(()) } else { Err(format!("another tree:\n{}", tree::difference(whole, tree))) }
}

/// Returns the home without the temporaries that a killed run may leave.
fn without_temporaries(home: &Path) -> Tree {
    let mut tree = tree::settled(home);
    tree.retain(|path, _| !path.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX)));
    tree
}
