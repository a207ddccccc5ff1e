//! An import against `cp -a` of the same files, in alternating rounds of one run: many small versions from an Athens
//! store into a new one. And a second run, which finds everything there, and an export.
//!
//! What `cp -a` does not do, and an import does: judge each version, read its zip whole and hash it, write a seal,
//! and wait for the disk before a version becomes visible. So `cp -a` is measured alone, and with a `sync` of the
//! file system behind it. `--brief` takes fewer and smaller rounds; `--versions N` and `--rounds N` ask for others.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{MIGRATE, STOA, create, old};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<usize>().ok()
    };
    let brief = has("--brief");
    let versions = number("--versions").unwrap_or(if brief { 1_000 } else { 10_000 });
    let rounds = number("--rounds").unwrap_or(if brief { 1 } else { 3 });

    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = dir.path().join("source");
    old::athens(&source, versions);
    rustix::fs::sync();
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..rounds {
        let at = |name: &str| dir.path().join(format!("{name}-{round}"));
        let (copy, store, tree) = (at("copy"), at("store"), at("tree"));
        create(&store);
        rustix::fs::sync();
        let copies = || {
            let begin = Instant::now();
            run(Command::new("cp").arg("-a").arg(&source).arg(&copy));
            let copied = begin.elapsed();
            run(Command::new("sync").arg("-f").arg(&copy));
            [copied, begin.elapsed()]
        };
        let imports = || {
            let import = || {
                timed(Command::new(MIGRATE).args(["import", "-q"]).arg(&source).arg("--store").arg(&store))
            };
            let (first, second) = (import(), import());
            let exported =
                timed(Command::new(STOA).args(["export", "-q"]).arg(&tree).arg("--store").arg(&store));
            [first, second, exported]
        };
        // Whoever goes second may find the disk busier.
        let ([copied, synced], [first, second, exported]) = if round % 2 == 0 {
            let copied = copies();
            (copied, imports())
        } else {
            let imported = imports();
            (copies(), imported)
        };
        for (times, time) in times.iter_mut().zip([copied, synced, first, second, exported]) {
            times.push(time);
        }
    }
    println!("{versions} versions of three files each, {rounds} alternating rounds, medians");
    let medians = times.map(median);
    let synced = medians[1];
    for (name, time) in
        ["cp -a", "cp -a, and sync", "import", "import once more", "export"].iter().zip(medians)
    {
        let each = time.as_secs_f64() * 1e6 / versions as f64;
        let ratio = time.as_secs_f64() / synced.as_secs_f64();
        println!(
            "    {name:<18} {:>8.2} s {each:>8.0} µs a version {ratio:>7.2} of cp -a and sync",
            time.as_secs_f64()
        );
    }
}

fn timed(command: &mut Command) -> Duration {
    let begin = Instant::now();
    run(command);
    begin.elapsed()
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().expect("it runs");
    assert!(status.success(), "{command:?}: {status}");
}

/// Is the middle one, or what lies between the two in the middle.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2
}
