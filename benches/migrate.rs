//! An upgrade from v0 to the current layout, the whole process with survey, artefacts and barriers, against a
//! raw loop in the same run that makes the same renames and folders and reads the end of each zip, with as many
//! threads. And the memory that the migrator needs at its most, for a small store and a large one.
//!
//! The raw loop knows every name beforehand, judges nothing, and syncs nothing. Both work on fresh stores that
//! were synced first and are read into the page cache, in alternating rounds; for a minute after a folder was removed
//! ext4 passes over its inode at each mkdir, so nothing is removed until the end and a minute lies between two
//! measurements. `--brief` takes fewer, smaller ones; `--versions N`, `--rounds N` and `--no-memory` ask for
//! others.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

mod measure;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use measure::{Asked, alternating, median, micros, peak_memory};
use stoa_gomod::ModuleVersion;
use tempfile::TempDir;
use testkit::{MIGRATE, old};

const AIM_RATIO: f64 = 0.75;
const AIM_MIB: f64 = 64.0;

/// How long ext4 takes an inode for one that was freed lately.
const RECENTLY: Duration = Duration::from_secs(60);

fn main() {
    testkit::set(testkit::built!());
    let asked = Asked::of_process();
    let brief = asked.has("--brief");
    let versions = asked.number("--versions", if brief { 5_000 } else { 100_000 });
    let rounds = asked.number("--rounds", if brief { 3 } else { 4 });
    let pause = if brief { Duration::ZERO } else { RECENTLY };
    let sizes = if brief { [1_000, 10_000] } else { [10_000, 200_000] };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);

    let (mut raw, mut whole) = (Vec::new(), Vec::new());
    let mut kept = Vec::new();
    for round in 0..rounds {
        let stores = [fresh_store(versions), fresh_store(versions)];
        let [for_raw, for_whole] = stores.each_ref().map(|store| store.path().join("store"));
        kept.push(stores);
        let take_raw = || {
            std::thread::sleep(pause);
            read_all(&for_raw);
            raw_loop(&for_raw, versions, threads)
        };
        let take_whole = || {
            std::thread::sleep(pause);
            read_all(&for_whole);
            migrate(&for_whole)
        };
        let times = alternating(round, take_raw, take_whole);
        raw.push(times.0);
        whole.push(times.1);
    }
    drop(kept);
    let rates = |times: &[Duration]| -> Vec<String> {
        times.iter().map(|time| format!("{:.0}", versions as f64 / time.as_secs_f64())).collect()
    };
    println!("{versions} versions, {threads} threads, {rounds} alternating rounds");
    println!("raw loop, versions/s         {}", rates(&raw).join(" "));
    println!("stoa-migrate, versions/s     {}", rates(&whole).join(" "));
    let (raw, whole) = (median(raw), median(whole));
    let each = |time: Duration| micros(time) / versions as f64;
    println!("raw loop, median             {:>8.1} µs a version", each(raw));
    println!("stoa-migrate, median         {:>8.1} µs a version", each(whole));
    println!(
        "of the raw loop's rate       {:>8.2} (aim: at least {AIM_RATIO})",
        raw.as_secs_f64() / whole.as_secs_f64()
    );

    if !asked.has("--no-memory") {
        for size in sizes {
            let peak = {
                let store = fresh_store(size);
                let child = command(&store.path().join("store")).spawn().expect("it runs");
                peak_memory(child)
            };
            let mib = peak as f64 / 1024.0;
            println!("memory at {size:>7} versions    {mib:>8.1} MiB at its most (aim: under {AIM_MIB})");
        }
    }
}

/// Reads all files below a folder, because a kernel that reclaims memory early may have dropped them meanwhile.
fn read_all(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => read_all(&entry.path()),
            false => drop(fs::read(entry.path()).unwrap()),
        }
    }
}

fn fresh_store(versions: usize) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    old::athens(&dir.path().join("store"), versions);
    rustix::fs::sync();
    dir
}

fn migrate(root: &Path) -> Duration {
    let begin = Instant::now();
    let status = command(root).status().expect("it runs");
    let took = begin.elapsed();
    assert!(status.success(), "{status}");
    assert!(root.join("layout.v2").is_file());
    took
}

fn command(root: &Path) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["-q", "--to", "v2", "--store"]).arg(root);
    command.stdout(Stdio::null());
    command
}

/// The minimum work of both steps together: per version three renames into the flat tree, the removal of its
/// folder, a folder of its own, three renames into that; per module its folders.
fn raw_loop(root: &Path, versions: usize, threads: usize) -> Duration {
    let modules = names(root, versions);
    let begin = Instant::now();
    in_parallel(threads, &modules, |module| {
        fs::create_dir_all(&module.flat).unwrap();
        for (version, escaped) in &module.versions {
            let old = module.old.join(version);
            let zip = old.join("source.zip");
            read_end(&zip);
            let new = |ending: &str| module.flat.join(format!("{escaped}.{ending}"));
            fs::rename(old.join("go.mod"), new("mod")).unwrap();
            fs::rename(zip, new("zip")).unwrap();
            fs::rename(old.join(format!("{version}.info")), new("info")).unwrap();
        }
    });
    in_parallel(threads, &modules, |module| {
        for (version, _) in &module.versions {
            fs::remove_dir(module.old.join(version)).unwrap();
        }
        fs::remove_dir(&module.old).unwrap();
    });
    in_parallel(threads, &modules, |module| {
        for (_, escaped) in &module.versions {
            let new = module.flat.join(escaped);
            fs::create_dir(&new).unwrap();
            for ending in ["mod", "zip", "info"] {
                fs::rename(module.flat.join(format!("{escaped}.{ending}")), new.join(ending)).unwrap();
            }
        }
    });
    begin.elapsed()
}

struct Module {
    old: PathBuf,
    flat: PathBuf,
    /// As it is written in v0, and escaped.
    versions: Vec<(String, String)>,
}

fn names(root: &Path, versions: usize) -> Vec<Module> {
    (0..versions.div_ceil(old::VERSIONS))
        .map(|module| {
            let count = old::VERSIONS.min(versions - module * old::VERSIONS);
            let pairs: Vec<ModuleVersion> = (0..count)
                .map(|version| ModuleVersion::parse(&old::pair(module, version)).expect("a valid pair"))
                .collect();
            let path = pairs[0].path();
            Module {
                old: root.join(path.as_str()),
                flat: root.join("modules").join(path.escaped()).join("@v"),
                versions: pairs
                    .iter()
                    .map(|pair| (pair.version().as_str().to_owned(), pair.version().escaped()))
                    .collect(),
            }
        })
        .collect()
}

fn read_end(zip: &Path) {
    let file = File::open(zip).unwrap();
    let size = file.metadata().unwrap().len();
    let mut end = [0; 4096];
    assert!(file.read_at(&mut end, size.saturating_sub(4096)).unwrap() > 0);
}

fn in_parallel(threads: usize, modules: &[Module], each: impl Fn(&Module) + Sync) {
    // Neighbours share parent folders, where one would wait for the other.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(module);
                }
            });
        }
    });
}
