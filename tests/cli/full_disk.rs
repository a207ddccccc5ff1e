//! A full disk, a quota, and a limit of the size of files: servers go on serving, and versions can be removed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::client::{self, Reply};
use testkit::commands::stoa;
use testkit::disk::{Mount, no_ext4, no_tmpfs};
use testkit::server::{self, listening};
use testkit::upstream::Upstream;
use testkit::{Case, Module, create, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, kind, missing) in [
        ("tmpfs", Kind::Tmpfs, no_tmpfs as fn() -> Option<String>),
        ("ext4", Kind::Ext4, no_ext4),
        ("ext4 without inodes", Kind::Inodes, no_ext4),
    ] {
        let missing = missing();
        let mut add = |what: &str, run: fn(Kind)| {
            cases.push(
                trial(&format!("{what} on a full {name}"), None, move || run(kind)).unless(missing.clone()),
            );
        };
        add("a server starts and recovers", a_server_starts_and_recovers);
        add("a restored store is served", a_restored_store_is_served);
        add("a running server goes on", a_running_server_goes_on);
        add("versions are removed", versions_are_removed);
        add("versions are verified", versions_are_verified);
    }
    cases.extend([
        trial("a corrupt version is read once on a full disk", None, a_corrupt_version_is_read_once)
            .unless(no_tmpfs()),
        trial("a limit of the size of files ends nothing", None, a_limit_of_the_size_of_files_ends_nothing),
        trial("the reserve belongs to the store", None, the_reserve_belongs_to_the_store),
    ]);
    cases
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tmpfs,
    Ext4,
    Inodes,
}

const STORED: &str = "example.com/a/deep/module@v1.0.0";
const UNSEALED: &str = "example.com/b/deep/module@v1.0.0";
const BROKEN: &str = "example.com/c/deep/module@v1.0.0";
const MISSING: &str = "example.com/d/deep/module@v1.0.0";

/// A store on a file system that can be filled, and an upstream.
struct Bench {
    mount: Mount,
    kind: Kind,
    upstream: Upstream,
}

impl Bench {
    fn new(kind: Kind) -> Self {
        let mount = match kind {
            Kind::Tmpfs => Mount::tmpfs("size=8m"),
            Kind::Ext4 => Mount::ext4(16, ""),
            Kind::Inodes => Mount::ext4(16, "-N 128"),
        };
        let bench = Self { mount, kind, upstream: Upstream::start() };
        // A server makes the reserve.
        bench.serve().stop();
        bench
    }

    fn root(&self) -> PathBuf {
        self.mount.path().join("store")
    }

    /// Returns the store as this process sees it.
    fn outside(&self) -> PathBuf {
        self.mount.outside().join("store")
    }

    fn fill(&self) {
        match self.kind {
            Kind::Inodes => self.mount.fill_inodes(),
            _ => self.mount.fill(),
        }
    }

    fn fetch(&self, pair: &str) -> Module {
        let module = self.upstream.offer(pair, 3000);
        self.done(&["fetch", pair, "--upstream", self.upstream.url()]);
        module
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.mount.run(stoa(&self.root(), arguments).env("GOSUMDB", "off"));
        assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
        transcript(&output)
    }

    fn serve(&self) -> Server {
        let mut command = server::command(&self.root());
        command.args(["--upstream", self.upstream.url()]).env("GOSUMDB", "off").env("STOA_LOG", "info");
        Server::start(self.mount.inside(&command))
    }
}

/// A server whose log is read at its end.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let Some(url) = listening(&mut child) else {
            panic!("stoa does not listen: {}", transcript(&child.wait_with_output().unwrap()))
        };
        Self { child, url }
    }

    fn get(&self, path: &str) -> Reply {
        client::get(client::address(&self.url), path)
    }

    #[track_caller]
    fn serves(&self, module: &Module) {
        for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            let reply = self.get(&module.path(extension));
            assert!(reply.status == 200 && reply.body == *body, "{extension}: {}", reply.text());
        }
    }

    /// Waits until the answer to `/readyz` is this one.
    #[track_caller]
    fn is_ready(&self, expected: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let reply = self.get("/readyz");
            assert_eq!(reply.status, 200);
            if reply.text() == expected {
                return;
            }
            assert!(Instant::now() < end, "{:?}", reply.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it and returns its log.
    fn stop(mut self) -> String {
        server::terminate(&self.child);
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FULL: &str = "the disk is full: stored versions are served and nothing is added";
const RECOVERED: &str = "the disk has space again: versions are downloaded on request again";

fn lines(log: &str, sentence: &str) -> usize {
    log.lines().filter(|line| line.contains(sentence)).count()
}

fn assert_disk_full(reply: &Reply) {
    assert_eq!(reply.status, 507, "{}", reply.text());
    assert_eq!(
        reply.text(),
        "disk full: this proxy has no space to store the version (see the server log)\n\
         help: try again later, or ask the operator of this proxy to free space\n"
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

fn a_server_starts_and_recovers(kind: Kind) {
    let bench = Bench::new(kind);
    let stored = bench.fetch(STORED);
    let unsealed = Module::new(UNSEALED, 3000);
    unsealed.put_unsealed(&bench.outside());
    Module::new(BROKEN, 3000).with_bad_crc().put_unsealed(&bench.outside());
    let (missing, broken) = (bench.upstream.offer(MISSING, 3000), bench.upstream.offer(BROKEN, 3000));
    bench.fill();

    let server = bench.serve();
    server.is_ready("ready\ndegraded: disk full\n");
    for _ in 0..2 {
        server.serves(&stored);
        server.serves(&unsealed);
        assert_disk_full(&server.get(&missing.path("zip")));
        assert_eq!(server.get(&broken.path("zip")).status, 507);
    }
    assert_eq!(server.get("/example.com/a/deep/module/@v/list").text(), "v1.0.0\n");
    assert!(!bench.outside().join("modules/example.com/b/deep/module/@v/v1.0.0/ziphash").exists());

    bench.mount.empty();
    server.is_ready("ready\n");
    server.serves(&missing);
    server.serves(&broken);
    let log = server.stop();
    assert_eq!((lines(&log, FULL), lines(&log, RECOVERED)), (1, 1), "{log}");
    assert_eq!(fs::read_dir(bench.outside().join("quarantine")).unwrap().count(), 1);
}

fn a_restored_store_is_served(kind: Kind) {
    let bench = Bench::new(kind);
    let stored = bench.fetch(STORED);
    let unsealed = Module::new(UNSEALED, 3000);
    unsealed.put_unsealed(&bench.outside());
    for folder in ["staging", "index", "cache", "quarantine"] {
        fs::remove_dir_all(bench.outside().join(folder)).unwrap();
    }
    let missing = bench.upstream.offer(MISSING, 3000);
    bench.fill();
    let server = bench.serve();
    server.is_ready("ready\ndegraded: disk full\n");
    server.serves(&stored);
    server.serves(&unsealed);
    assert_disk_full(&server.get(&missing.path("zip")));
    bench.mount.empty();
    server.is_ready("ready\n");
    server.serves(&missing);
    let log = server.stop();
    assert_eq!((lines(&log, FULL), lines(&log, RECOVERED)), (1, 1), "{log}");
    let space = fs::metadata(bench.outside().join("staging/reserve/space")).unwrap();
    assert_eq!(space.len(), 1 << 20);
}

/// Returns the number of bytes that a process has read.
fn bytes_read(child: &Child) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

fn a_corrupt_version_is_read_once() {
    let bench = Bench::new(Kind::Tmpfs);
    let broken = Module::new(BROKEN, 3_000_000).with_bad_crc();
    let folder = broken.put_unsealed(&bench.outside());
    let good = bench.upstream.offer(BROKEN, 3_000_000);
    bench.fill();
    let server = bench.serve();
    let asks = || assert_eq!(server.get(&broken.path("zip")).status, 507);
    let before = bytes_read(&server.child);
    asks();
    let first = bytes_read(&server.child) - before;
    assert!(first >= 3_000_000, "{first}");
    for _ in 0..3 {
        asks();
    }
    let later = bytes_read(&server.child) - before - first;
    assert!(later < 3_000_000, "{later} bytes for three more requests");
    // A person repairs the file in its place.
    let zip = fs::OpenOptions::new().write(true).open(folder.join("zip")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&zip, &good.zip, 0).unwrap();
    zip.set_len(good.zip.len() as u64).unwrap();
    assert_eq!(server.get(&good.path("zip")).status, 200);
    server.stop();
    assert_eq!(fs::read_dir(bench.outside().join("quarantine")).unwrap().count(), 0);
    let audit = fs::read_to_string(bench.outside().join("records/audit/current")).unwrap_or_default();
    assert!(!audit.contains("quarantine"), "nothing was moved: {audit}");
}

fn versions_are_verified(kind: Kind) {
    let bench = Bench::new(kind);
    let folder = Module::new(UNSEALED, 3000).put_unsealed(&bench.outside());
    let broken = Module::new(BROKEN, 3000).with_bad_crc().put_unsealed(&bench.outside());
    let verify = || {
        let output = bench.mount.run(&stoa(&bench.root(), &["verify"]));
        assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
        let text = transcript(&output);
        assert!(text.contains(&format!("corrupt {BROKEN}")) && text.contains("1 version verified"), "{text}");
        text
    };
    bench.fill();
    assert!(verify().contains(FULL));
    assert!(broken.join("zip").is_file() && !folder.join("ziphash").exists());
    bench.mount.empty();
    verify();
    assert!(!broken.exists() && folder.join("ziphash").exists());
}

fn a_running_server_goes_on(kind: Kind) {
    let bench = Bench::new(kind);
    let server = bench.serve();
    let stored = bench.upstream.offer(STORED, 3000);
    server.serves(&stored);
    let unsealed = Module::new(UNSEALED, 3000);
    unsealed.put_unsealed(&bench.outside());
    let missing = bench.upstream.offer(MISSING, 300_000);
    bench.fill();
    assert_disk_full(&server.get(&missing.path("zip")));
    server.is_ready("ready\ndegraded: disk full\n");
    server.serves(&stored);
    server.serves(&unsealed);
    bench.mount.empty();
    // Without a question to `/readyz`: the next request tries again.
    server.serves(&missing);
    server.is_ready("ready\n");
    let log = server.stop();
    assert_eq!((lines(&log, FULL), lines(&log, RECOVERED)), (1, 1), "{log}");
}

/// Returns the record of a version.
fn record(root: &Path, pair: &str) -> String {
    let (module, version) = pair.split_once('@').unwrap();
    fs::read_to_string(root.join(format!("records/{module}/@v/{version}.toml"))).unwrap()
}

fn versions_are_removed(kind: Kind) {
    let bench = Bench::new(kind);
    let pairs = ["e", "f", "g"].map(|name| format!("example.com/{name}/one/two/three@v1.0.0"));
    for pair in &pairs {
        bench.fetch(pair);
    }
    let unsealed = Module::new(UNSEALED, 3000);
    unsealed.put_unsealed(&bench.outside());
    let broken = Module::new(BROKEN, 3000).with_bad_crc().put_unsealed(&bench.outside());
    let verified = bench.mount.run(&stoa(&bench.root(), &["verify"]));
    assert!(verified.status.code() == Some(1) && !broken.exists(), "{}", transcript(&verified));

    // Filled before each command: the space for a record must come from the reserve, which is filled again.
    let removed = |pair: &str| {
        assert!(record(&bench.outside(), pair).contains("h1 = \"h1:"), "{pair}");
        let (module, version) = pair.split_once('@').unwrap();
        assert!(!bench.outside().join(format!("modules/{module}/@v/{version}")).exists(), "{pair}");
    };
    for pair in &pairs[..2] {
        bench.fill();
        bench.done(&["remove", pair]);
        removed(pair);
    }
    bench.fill();
    bench.done(&["remove", "--tombstone", "--reason", "never wanted", MISSING]);
    assert!(record(&bench.outside(), MISSING).contains("never wanted"));
    bench.fill();
    bench.done(&["quarantine", "purge", "--all"]);
    assert_eq!(fs::read_dir(bench.outside().join("quarantine")).unwrap().count(), 0);
    bench.fill();
    bench.done(&["prune", "--max-size", "0", "--yes"]);
    removed(&pairs[2]);
    removed(UNSEALED);

    bench.mount.empty();
    bench.serve().stop();
    let reserve = bench.outside().join("staging/reserve");
    assert_eq!(fs::metadata(reserve.join("space")).unwrap().len(), 1 << 20);
    assert_eq!(fs::read_dir(reserve).unwrap().count(), 33);
}

fn a_limit_of_the_size_of_files_ends_nothing() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    create(&root);
    let upstream = Upstream::start();
    let (small, large) = (upstream.offer(STORED, 3000), upstream.offer(MISSING, 3_000_000));
    let limited = |command: &Command| {
        let mut outer = Command::new("sh");
        // In blocks of 512 bytes, or of 1024: less than the large zip.
        outer
            .args(["-c", "ulimit -f 1024; exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        outer.env("GOSUMDB", "off").env("STOA_LOG", "info").env_remove("STOA_STORE");
        outer
    };
    let mut command = server::command(&root);
    let server = Server::start(limited(command.args(["--upstream", upstream.url()])));
    // The answer to HEAD waits for the whole zip.
    let reply = client::ask(client::address(&server.url), "HEAD", &large.path("zip"), &[]);
    assert_eq!(reply.status, 507);
    let body =
        client::ask(client::address(&server.url), "GET", &large.path("zip"), &[("If-None-Match", "\"x\"")]);
    assert_eq!(
        (body.status, body.text()),
        (
            507,
            "file size limit: this proxy must not write files as large as this version (see the server log)\n\
             help: ask the operator of this proxy to raise the limit of the size of files\n"
        )
    );
    server.serves(&small);
    server.is_ready("ready\ndegraded: file size limit\n");
    let log = server.stop();
    assert!(log.contains("raise the limit of the size of files"), "{log}");
    let fetched = limited(&stoa(&root, &["fetch", MISSING, "--upstream", upstream.url()])).output().unwrap();
    assert!(fetched.status.code().is_some_and(|code| code == 74), "{}", transcript(&fetched));
}

fn the_reserve_belongs_to_the_store() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    create(&root);
    let upstream = Upstream::start();
    let module = upstream.offer(STORED, 3000);
    let serve = || {
        let mut command = server::command(&root);
        command.args(["--upstream", upstream.url()]).env("GOSUMDB", "off");
        let server = Server::start(command);
        server.serves(&module);
        server.stop();
    };
    serve();
    let reserve = root.join("staging/reserve");
    let space = fs::metadata(reserve.join("space")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&space) * 512 >= 1 << 20);
    let done = |arguments: &[&str]| {
        let output = stoa(&root, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
        transcript(&output)
    };
    assert!(done(&["leftovers"]).contains("no leftovers"));
    let status: serde_json::Value =
        serde_json::from_slice(&stoa(&root, &["status", "--format", "json"]).output().unwrap().stdout)
            .unwrap();
    assert_eq!((&status["leftovers"], &status["versions"]), (&0.into(), &1.into()));
    done(&["verify"]);
    done(&["migrate", "--to", "v1"]);
    assert!(!root.join("staging").exists());
    serve();
    assert!(reserve.join("space").exists());
}
