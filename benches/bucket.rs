//! A bucket on a real S3 server, against the same work without the programs or without the bucket, in one run.
//!
//! | figure | compared with | aim |
//! | --- | --- | --- |
//! | upgrade of an Athens bucket, versions/s | a raw loop of the same requests, 64 at a time | at least 0.7 |
//! | resident memory of the upgrade | – | at most 64 MiB, whatever the number of versions |
//! | stored infos at random, requests/s | the same server without a bucket | at least 0.98 |
//! | requests of an idle server in a day | – | at most 10,000 |
//!
//! Needs the S3 server of `.ci/servers`, and wrk; says so and ends well where one is absent. `--brief` takes less time;
//! `--versions N` and `--rounds N` ask for others; `--upgrade`, `--warm` or `--idle` takes one part only.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

mod measure;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use measure::{Asked, alternating, median, peak_memory};
use testkit::bucket::{Service, TestBucket};
use testkit::gcs::Gcs;
use testkit::server::{Server, command};
use testkit::{MIGRATE, Module};

/// Number of versions of each module.
const VERSIONS: usize = 100;

/// Number of stored versions whose infos are asked for.
const STORED: usize = 1_000;

fn main() {
    testkit::set(testkit::built!());
    let asked = Asked::of_process();
    let no_wrk = || {
        let shown = Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        shown.err().map(|error| format!("wrk cannot be run ({error})"))
    };
    if let Some(reason) = Service::S3.needs_here()().or_else(no_wrk) {
        println!("{reason}: nothing is measured");
        return;
    }
    let brief = asked.has("--brief");
    let parts = ["--upgrade", "--warm", "--idle"];
    let is_asked = |part: &str| asked.has(part) || !parts.iter().any(|other| asked.has(other));
    if is_asked("--upgrade") {
        let versions = asked.number("--versions", if brief { 2_000 } else { 100_000 });
        upgrade(versions, asked.number("--rounds", if brief { 1 } else { 3 }));
    }
    if is_asked("--warm") {
        warm(asked.number("--rounds", if brief { 1 } else { 7 }), if brief { 2 } else { 5 });
    }
    if is_asked("--idle") {
        idle(Duration::from_secs(if brief { 60 } else { 600 }));
    }
}

fn upgrade(versions: usize, rounds: usize) {
    let service = Service::S3.start_here();
    let bucket = service.bucket();
    let modules = || (0..versions).map(module);
    bucket.save_all(modules());
    let (mut raw, mut whole, mut peak) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let take_raw = || {
            let begin = Instant::now();
            bucket.raw_upgrade(modules(), &format!("raw{round}"));
            begin.elapsed()
        };
        let take_whole = || {
            let begin = Instant::now();
            peak = peak_memory(migrate(&bucket, "b1").spawn().expect("it runs")).max(peak);
            let took = begin.elapsed();
            assert!(bucket.text("~stoa/state").contains("layout.b1"));
            took
        };
        let times = alternating(round, take_raw, take_whole);
        raw.push(times.0);
        whole.push(times.1);
        assert!(migrate(&bucket, "athens").status().expect("it runs").success());
    }
    let rate = |time: Duration| versions as f64 / time.as_secs_f64();
    println!("upgrade of {versions} versions, {rounds} alternating rounds");
    let (raw, whole) = (median(raw), median(whole));
    println!("raw loop, median             {:>8.0} versions/s", rate(raw));
    println!("stoa-migrate, median         {:>8.0} versions/s", rate(whole));
    println!("of the raw loop's rate       {:>8.2} (aim: at least 0.7)", rate(whole) / rate(raw));
    println!("memory at its most           {:>8.1} MiB (aim: at most 64)", peak as f64 / 1024.0);
}

fn module(n: usize) -> Module {
    Module::new(&format!("example.com/m{}@v1.0.{}", n / VERSIONS, n % VERSIONS), 300)
}

fn migrate(bucket: &TestBucket, to: &str) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["-q", "--bucket", bucket.url(), "--to", to]).envs(bucket.environment());
    command.stdout(Stdio::null());
    command
}

fn warm(rounds: usize, seconds: u32) {
    let (service, dir) = (Service::S3.start_here(), tempfile::tempdir().expect("a temporary folder"));
    let bucket = service.bucket();
    let with = start(&bucket, &dir.path().join("with"), true);
    let without = start(&bucket, &dir.path().join("without"), false);
    let (mut of_with, mut of_without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let rates = alternating(
            round,
            || wrk(dir.path(), &with.url, seconds),
            || wrk(dir.path(), &without.url, seconds),
        );
        of_with.push(rates.0);
        of_without.push(rates.1);
    }
    let middle = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (with, without) = (middle(of_with), middle(of_without));
    println!("{STORED} stored infos at random, {rounds} alternating rounds");
    println!("without a bucket, median     {without:>8.0} requests/s");
    println!("with a bucket, median        {with:>8.0} requests/s");
    println!("of the rate without          {:>8.2} (aim: at least 0.98)", with / without);
}

/// Starts a server whose store has all versions, and that has compared each with the bucket, if there is one.
fn start(bucket: &TestBucket, store: &Path, has_bucket: bool) -> Server {
    let made = Command::new(MIGRATE).args(["-q", "--store"]).arg(store).status();
    assert!(made.expect("it runs").success());
    let modules: Vec<Module> = (0..STORED).map(module).collect();
    for module in &modules {
        let (path, version) = (module.version.path().escaped(), module.version.version());
        let folder = store.join("modules").join(&*path).join(format!("@v/{version}"));
        fs::create_dir_all(&folder).expect("a folder");
        for (name, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            fs::write(folder.join(name), body).expect("a file");
        }
    }
    let mut command = command(store);
    command.args(["--offline"]).env_remove("STOA_BUCKET_URL");
    if has_bucket {
        command.envs(bucket.environment()).env("STOA_BUCKET_URL", bucket.url());
    }
    let server = Server::start_with(&mut command);
    for module in &modules {
        assert_eq!(server.get(&module.path("info")).0, 200);
    }
    server
}

fn wrk(dir: &Path, url: &str, seconds: u32) -> f64 {
    let script = dir.join("random.lua");
    let text = format!(
        "request = function() local n = math.random(0, {}) return wrk.format('GET', '/example.com/m' .. math.floor(n / {VERSIONS}) .. '/@v/v1.0.' .. (n % {VERSIONS}) .. '.info') end",
        STORED - 1
    );
    fs::write(&script, text).expect("a script");
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c32", &format!("-d{seconds}s"), "-s"]).arg(script).arg(url);
    let output = command.output().expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    line.and_then(|rate| rate.trim().parse().ok()).expect("a rate")
}

/// Counts the requests of a server that nobody uses, after what it does at its start.
fn idle(time: Duration) {
    let (gcs, dir) = (Gcs::start(), tempfile::tempdir().expect("a temporary folder"));
    let mut command = command(&dir.path().join("store"));
    command.args(["--offline"]).envs(gcs.environment()).env("STOA_BUCKET_URL", gcs.bucket("go"));
    let server = Server::start_with(&mut command);
    std::thread::sleep(Duration::from_secs(5));
    gcs.take_asked();
    std::thread::sleep(time);
    let count = gcs.take_asked().len();
    let of_day = count as f64 * 86_400.0 / time.as_secs_f64();
    println!("an idle server, {} s: {count} requests", time.as_secs());
    println!("in a day                     {of_day:>8.0} requests (aim: at most 10,000)");
    server.stop();
}
