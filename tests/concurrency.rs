//! Many processes at once on one store: one creates it, one publishes a version.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use support::server::{self, Server};
use support::upstream::Upstream;
use support::{STOA, told};

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let tests = vec![
        support::trial("fifty starters make one store", None, fifty_starters),
        support::trial("two servers and fifty clients fetch one version once", None, one_fetch),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn fifty_starters() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/there/yet");
    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut command = Command::new(STOA);
            command.args(["path", "example.com/m@v1.0.0", "--store"]).arg(&root);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        // The gate is passed, and the version is not there.
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
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

fn one_fetch() {
    let dir = tempfile::tempdir().unwrap();
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
    let staged: Vec<_> =
        fs::read_dir(root.join("staging")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(staged, ["claims"]);
}
