//! Many processes at once on one store: one creates it, one upgrades it, one publishes a version.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use testkit::Case;

use stoa_layout::ExclusiveLock;
use testkit::server::{self, Server};
use testkit::tracer::{self, Act};
use testkit::upstream::Upstream;
use testkit::{MIGRATE, STOA, old, transcript};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        testkit::trial("fifty starters make one store", None, fifty_starters),
        testkit::trial("fifty starters on an old store upgrade it once", None, one_migration),
        testkit::trial("a process that waits for a migration writes nothing", tracer::missing(), waiting),
        testkit::trial("two servers download one version once for fifty clients", None, one_fetch),
    ]
}

fn fifty_starters() {
    let dir = testkit::tempdir();
    let root = dir.path().join("not/there/yet");
    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut command = Command::new(STOA);
            command.args(testkit::commands::CREATING).arg("--store").arg(&root);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        // The gate is passed, and the version is not there.
        assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    }
    let marker = fs::read_to_string(root.join("layout.v2")).unwrap();
    assert_eq!(marker.matches("[[history]]").count(), 1, "{marker}");
    let mut names: Vec<String> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["cache", "index", "layout.v2", "modules", "quarantine", "records", "staging", "store.lock"]
    );
}

fn one_migration() {
    const VERSIONS: usize = 2000;
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    old::athens(&root, VERSIONS);
    let start = Barrier::new(50);
    let (servers, markers): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let (root, start) = (&root, &start);
        let servers: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(move || {
                    start.wait();
                    let server = Server::start(root, "off");
                    // It listens, so the store is current.
                    (server, marker(root))
                })
            })
            .collect();
        let others: Vec<_> = (0..40)
            .map(|n| {
                scope.spawn(move || {
                    let pair = old::pair(n, n % 10);
                    let mut command = Command::new(STOA);
                    command.args(["path", &pair, "--store"]).arg(root).env("STOA_LOG", "warn");
                    start.wait();
                    let output = command.output().unwrap();
                    assert!(output.status.success(), "{pair}: {}", transcript(&output));
                    let path = String::from_utf8(output.stdout).unwrap();
                    assert!(Path::new(path.trim()).is_file(), "{pair}: {path}");
                    marker(root)
                })
            })
            .collect();
        let (servers, mut markers): (Vec<_>, Vec<_>) =
            servers.into_iter().map(|server| server.join().unwrap()).unzip();
        markers.extend(others.into_iter().map(|other| other.join().unwrap()));
        (servers, markers)
    });
    // Whoever saw the marker first saw the same file, written once, as all who came later.
    let last = marker(&root);
    assert!(markers.iter().all(|seen| *seen == last), "the marker was written again: {markers:?}");
    let content = fs::read_to_string(root.join("layout.v2")).unwrap();
    assert_eq!(content.matches("[[history]]").count(), 2, "{content}");
    assert_eq!(content.matches(&format!("moved = {VERSIONS}\n")).count(), 2, "{content}");
    for (n, server) in servers.iter().enumerate() {
        let (path, version) = stoa_path(&old::pair(n, n % 10));
        let (status, body) = server.get(&format!("/{path}/@v/{version}.mod"));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    for server in servers {
        assert!(server.stop().success());
    }
    assert_eq!(marker(&root), last);
}

/// A starter that waits for a migrator at work, and goes on once the marker is there: it writes nothing below
/// the root. It tries to get the lock, and so opens that file.
fn waiting() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    old::athens(&root, 10);
    let mut migrate = Command::new(MIGRATE);
    let migrated = migrate.args(["-q", "--store"]).arg(&root).output().unwrap();
    assert!(migrated.status.success(), "{}", transcript(&migrated));
    // The moment before a migrator's last rename.
    let (begun, ended) = (root.join("migrating.v1-v2"), root.join("layout.v2"));
    fs::rename(&ended, &begun).unwrap();
    let lock = ExclusiveLock::try_acquire(&root, "a migrator").unwrap().unwrap();
    let before = fs::metadata(root.join("store.lock")).unwrap();
    let mut starter = Command::new(STOA);
    starter.args(["path", &old::pair(0, 0), "--store"]).arg(&root).env("STOA_LOG", "warn");
    let (run, told) = tracer::run(&mut starter, &root, Act::Record, |child| {
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        while !told.contains("waiting for") && stderr.read_line(&mut told).unwrap() > 0 {}
        // It says that it waits.
        fs::rename(&begun, &ended).unwrap();
        stderr.read_to_string(&mut told).unwrap();
        told
    });
    drop(lock);
    assert_eq!(run.code, 0, "{told}");
    assert!(told.contains("waiting for"), "it did not wait: {told}");
    assert!(run.calls.iter().all(|call| call == "open store.lock"), "{:?}", run.calls);
    let after = fs::metadata(root.join("store.lock")).unwrap();
    assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
}

/// Returns the stamps that a second write of the marker would change.
fn marker(root: &Path) -> (u64, i64, i64, u64) {
    let meta = fs::metadata(root.join("layout.v2")).unwrap();
    (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}

fn stoa_path(pair: &str) -> (String, String) {
    let version = stoa_gomod::ModuleVersion::parse(pair).unwrap();
    (version.path().escaped(), version.version().escaped())
}

fn one_fetch() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/large@v1.0.0", 8 << 20);
    let servers: Vec<Server> = (0..2)
        .map(|_| Server::start_with(server::command(&root).args(["--upstream", upstream.url()])))
        .collect();
    let start = Barrier::new(50);
    std::thread::scope(|scope| {
        for n in 0..50 {
            let (servers, module, start) = (&servers, &module, &start);
            scope.spawn(move || {
                start.wait();
                let (status, body) = servers[n % 2].get("/example.com/large/@v/v1.0.0.zip");
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
                assert!(body == module.zip, "client {n} has other bytes");
            });
        }
    });
    assert_eq!(upstream.asked("v1.0.0.zip"), 1, "the zip was fetched more than once");
    for server in servers {
        assert!(server.stop().success());
    }
    let folder = root.join("modules/example.com/large/@v/v1.0.0");
    assert_eq!(fs::read(folder.join("zip")).unwrap(), module.zip);
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 0);
    let mut staged: Vec<_> =
        fs::read_dir(root.join("staging")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    staged.sort();
    assert_eq!(staged, ["claims", "reserve"]);
}
