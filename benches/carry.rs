//! An import against `cp -a` of the same files, in alternating rounds of one run: many small versions from an Athens
//! store into a new one. And a second run, which finds everything there, and an export.
//!
//! An import does more than `cp -a`: it judges each version, reads its zip whole and hashes it, writes a seal,
//! and waits for the disk before a version becomes visible. So `cp -a` is measured alone, and with a `sync` of the
//! file system behind it. `--brief` takes fewer and smaller rounds; `--versions N` and `--rounds N` ask for others.

#![expect(
    clippy::expect_used,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

mod measure;
use std::process::Command;
use std::time::Duration;

use measure::{Asked, alternating, median, micros, timed};
use testkit::{MIGRATE, STOA, create, old};

fn main() {
    testkit::set(testkit::built!());
    let asked = Asked::of_process();
    let brief = asked.has("--brief");
    let versions = asked.number("--versions", if brief { 1_000 } else { 10_000 });
    let rounds = asked.number("--rounds", if brief { 1 } else { 3 });

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
            let copied = timed(Command::new("cp").arg("-a").arg(&source).arg(&copy));
            [copied, copied + timed(Command::new("sync").arg("-f").arg(&copy))]
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
        let ([copied, synced], [first, second, exported]) = alternating(round, copies, imports);
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
        let each = micros(time) / versions as f64;
        let ratio = time.as_secs_f64() / synced.as_secs_f64();
        println!(
            "    {name:<18} {:>8.2} s {each:>8.0} µs a version {ratio:>7.2} of cp -a and sync",
            time.as_secs_f64()
        );
    }
}
