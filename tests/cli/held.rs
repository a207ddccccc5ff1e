//! Locks of strangers: a claim that is held without progress, and `store.lock` in the hands of another program.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, SEEK_SET, flock};
use testkit::client;
use testkit::programs::{Ended, Programs};
use testkit::server::{self, Server};
use testkit::upstream::{Module, Script, Upstream};
use testkit::{Case, missing_tool, trial};

pub(crate) fn cases() -> Vec<Case> {
    let is_linux = (!cfg!(target_os = "linux")).then(|| "only Linux has locks of open files".to_owned());
    vec![
        trial("a claim held by a stranger ends with 503 and 75", is_linux.clone(), a_claim_of_a_stranger),
        trial("a slow download of another process is waited for", is_linux, a_slow_download),
        trial(
            "a stranger with store.lock is named",
            missing_tool("flock", &["--version"]),
            a_stranger_with_the_lock,
        )
        .slow(),
        trial("a stranger with the lock of the usage data is named", None, a_stranger_with_the_usage_data),
        trial("a stranger with the lock of the audit log stops no line", None, a_stranger_with_the_audit_log),
    ]
}

const PAIR: &str = "example.com/m@v1.0.0";

/// Locks all bytes of the claims as a user could who may only read the store.
fn hold_all_claims(root: &Path) -> File {
    let file = File::open(root.join("staging/claims")).unwrap();
    let all = flock { l_type: F_RDLCK as i16, l_whence: SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    // The server may hold the claim of a version that it verifies in the background.
    while let Err(errno) = fcntl(&file, FcntlArg::F_OFD_SETLK(&all)) {
        assert_eq!(errno, nix::errno::Errno::EAGAIN);
        std::thread::sleep(Duration::from_millis(10));
    }
    file
}

/// Starts a server with a short claim timeout, and collects its log.
fn start(root: &Path, upstream: &str) -> (Server, Arc<Mutex<String>>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = server::command(root);
    command.args(["--upstream", upstream]).env("STOA_CLAIM_TIMEOUT", "2s").stderr(writer);
    let server = Server::start_with(&mut command);
    let log = Arc::new(Mutex::new(String::new()));
    let lines = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            lines.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    (server, log)
}

fn a_claim_of_a_stranger() {
    let programs = Programs::current();
    let root = programs.make_store();
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 1000);
    let stored = Module::new("example.com/stored@v1.0.0", 10);
    stored.put_unsealed(&root);
    let (server, log) = start(&root, upstream.url());
    assert_eq!(server.get(&module.path("info")).0, 200);
    let held = hold_all_claims(&root);
    let zips = [module.path("zip"), stored.path("zip")];
    std::thread::scope(|scope| {
        for path in &zips {
            let server = &server;
            scope.spawn(move || {
                let reply = client::get(client::address(&server.url), path);
                assert_eq!(
                    (reply.status, reply.header("retry-after")),
                    (503, Some("30")),
                    "{}",
                    reply.text()
                );
                let text = reply.text();
                assert!(
                    text.contains("cannot lock example.com/") && text.contains("without progress"),
                    "{text}"
                );
                assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
            });
        }
        // Others are served meanwhile.
        assert_eq!(server.get(&stored.path("info")).0, 200);
    });
    let text = log.lock().unwrap().clone();
    assert!(text.contains("waiting for a version that another process has claimed"), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "the holder has its number: {text}");
    let mut remove = programs.command("stoa", ["remove", "example.com/stored@v1.0.0"]);
    remove.env("STOA_CLAIM_TIMEOUT", "1s");
    let removed = Ended::of(remove);
    assert_eq!(removed.code, 75, "{removed:?}");
    assert!(removed.err.contains(&format!("process {}", std::process::id())), "{removed:?}");
    drop(held);
    for (path, zip) in zips.iter().zip([&module.zip, &stored.zip]) {
        assert!(server.get(path) == (200, zip.clone()));
    }
    assert!(server.stop().success());
}

fn a_slow_download() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 200_000);
    // Some nine seconds: several times the claim timeout.
    let pace = Script::Paced(module.zip.clone(), 20_000, Duration::from_millis(900));
    upstream.set(&module.path("zip"), pace);
    let (owner, _) = start(&root, upstream.url());
    let (other, _) = start(&root, upstream.url());
    std::thread::scope(|scope| {
        let (owner, module) = (&owner, &module);
        scope.spawn(move || assert!(owner.get(&module.path("zip")) == (200, module.zip.clone())));
        upstream.wait_until_asked(".zip", 1);
        assert!(other.get(&module.path("zip")) == (200, module.zip.clone()));
    });
    assert_eq!(upstream.asked(".zip"), 1, "the other process waited for the first");
    for server in [owner, other] {
        assert!(server.stop().success());
    }
}

fn a_stranger_with_the_lock() {
    let programs = Programs::current();
    let root = programs.make_store();
    let lock = root.join("store.lock");
    let mut stranger = Command::new("flock");
    stranger.arg("-o").arg(&lock).args(["sh", "-c", "echo locked; cat"]);
    let mut stranger = stranger.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(stranger.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ended = programs.stoa(["verify"]);
    let migrated = programs.migrate(["--regenerate", "--lock-timeout", "1s"]);
    drop(stranger.stdin.take());
    assert!(stranger.wait().unwrap().success());
    for (ended, code) in [(ended, 75), (migrated, 75)] {
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.err.contains("(process "), "{ended:?}");
        assert!(ended.err.contains("flock"), "{ended:?}");
    }
    assert!(fs::metadata(&lock).is_ok());
}

/// Opens a file or folder for reading, and locks it.
fn hold(path: &Path) -> File {
    let file = File::open(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    file
}

fn a_stranger_with_the_usage_data() {
    let programs = Programs::current();
    let root = programs.make_store();
    Module::new(PAIR, 10).put_unsealed(&root);
    let prune = ["prune", "--max-size", "0", "--yes"];
    assert_eq!(programs.stoa(["prune", "--max-size", "1G", "--yes"]).code, 0);
    let lock = root.join("cache/last-use/lock");
    let held = hold(&lock);
    let ended = programs.stoa(prune);
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.err.contains(lock.to_str().unwrap()), "{ended:?}");
    let pid = format!("(process {}", std::process::id());
    assert!(!cfg!(target_os = "linux") || ended.err.contains(&pid), "{ended:?}");
    drop(held);
    assert_eq!(programs.stoa(prune).code, 0);
}

fn a_stranger_with_the_audit_log() {
    let programs = Programs::current();
    let root = programs.make_store();
    for number in 0..8 {
        Module::new(&format!("example.com/m@v1.{number}.0"), 10).put_unsealed(&root);
    }
    let audit = root.join("records/audit");
    fs::create_dir_all(&audit).unwrap();
    // The first line fills the file.
    let line = "{}\n".repeat((4 << 20) / 3);
    fs::write(audit.join("current"), &line).unwrap();
    let _held = hold(&audit);
    let ended = programs.stoa(["prune", "--max-size", "0", "--yes"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.err.matches("the audit log is locked").count(), 1, "{ended:?}");
    let read = |name: &str| fs::read_to_string(audit.join(name)).unwrap();
    let older = read("1");
    assert!(older.starts_with(&line) && older.len() < 5 << 20);
    assert_eq!((older[line.len()..].to_owned() + &read("current")).matches("v1.").count(), 8);
}
