//! The cost of the gate, against a raw call in the same run.
//!
//! Prints the time of one `faccessat`, of one pass of the gate, and the difference; then the time of a whole
//! `stoa path` against `true`, and how many system calls of it touch the store before the version is looked
//! for. `--brief` takes fewer rounds.

#![expect(clippy::expect_used, reason = "a bench that cannot run says why and ends")]

mod measure;

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use measure::{Asked, median, micros};
use rustix::fs::{Access, AtFlags, CWD};
use stoa_layout::events::Silent;
use stoa_layout::{Cancel, Gate, Layouts, Migrator, Options, Runner};

fn main() {
    let (rounds, calls, starts) =
        if Asked::of_process().has("--brief") { (5, 20_000, 40) } else { (15, 200_000, 400) };
    let dir = tempfile::tempdir().expect("a temporary folder");
    create(dir.path());

    let marker = dir.path().join("layout.v2");
    let migrator = Migrator::Forbidden { name: "stoa-migrate" };
    let gate = Gate { root: dir.path(), current: &stoa_store::LAYOUT, migrator: &migrator };
    let (mut raw, mut passed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        raw.push(each(calls, || {
            rustix::fs::accessat(CWD, black_box(&marker), Access::EXISTS, AtFlags::empty()).is_ok()
        }));
        passed.push(each(calls, || black_box(&gate).pass().is_ok()));
    }
    let (raw, passed) = (median(raw), median(passed));
    println!("faccessat             {:>8.3} µs", micros(raw));
    println!("the gate              {:>8.3} µs", micros(passed));
    println!("the gate adds         {:>8.3} µs (aim: under 2 µs)", micros(passed.saturating_sub(raw)));

    let stoa = env!("CARGO_BIN_EXE_stoa");
    let mut path = Command::new(stoa);
    path.args(["path", "example.com/m@v1.0.0", "--store"]).arg(dir.path());
    let (mut program, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        program.push(start(&mut path));
        nothing.push(start(&mut Command::new("true")));
    }
    println!("`true`                {:>8.3} ms", micros(median(nothing)) / 1000.0);
    println!("`stoa path`           {:>8.3} ms", micros(median(program)) / 1000.0);
    match calls_on_the_store(stoa, dir.path()) {
        Some(lines) => {
            println!("calls on the store of one `stoa path`:");
            lines.iter().for_each(|line| println!("    {line}"));
        }
        None => println!("strace is not here: system calls are not counted"),
    }
}

fn create(root: &Path) {
    let layouts = Layouts::new("bench", stoa_store::LAYOUT, stoa_store::FOLDERS.to_vec());
    let options = Options::default();
    let runner =
        Runner { root, layouts: &layouts, options: &options, events: &Silent, cancel: &Cancel::new() };
    runner.run().expect("a store");
}

fn each(calls: u32, mut call: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    for _ in 0..calls {
        assert!(black_box(call()), "the marker is there");
    }
    begin.elapsed() / calls
}

fn start(command: &mut Command) -> Duration {
    let begin = Instant::now();
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it runs");
    begin.elapsed()
}

fn calls_on_the_store(stoa: &str, root: &Path) -> Option<Vec<String>> {
    let output = Command::new("strace")
        .args(["-f", "-e", "trace=file,desc", stoa, "path", "example.com/m@v1.0.0", "--store"])
        .arg(root)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let name = root.to_string_lossy().into_owned();
    Some(
        text.lines()
            .filter(|line| line.contains(&name) && !line.contains("execve"))
            .map(str::to_owned)
            .collect(),
    )
}
