//! One flight a version: many clients of two servers on one store, and a server that dies in the middle of a
//! fill while another one waits for it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::Case;

use testkit::client;
use testkit::server::{self, Server};
use testkit::tracer::{self, Act};
use testkit::tree::shape;
use testkit::upstream::{Module, Script, Upstream};
use testkit::{create, trial};

const PAIR: &str = "example.com/m@v1.0.0";
const ZIP: &str = "/example.com/m/@v/v1.0.0.zip";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("two servers send a new zip of 50 MB to 200 clients", resident_missing(), two_hundred_clients)
            .slow(),
        trial(
            "a zip whose download is interrupted six times reaches 40 clients of two servers",
            None,
            interrupted,
        ),
        trial("a client that waits too long for its turn gets 504", None, crowded),
        trial("modules fetched at the same time keep their own bytes", None, three_at_a_time),
        trial("a waiting server takes over from a killed server", tracer::missing(), takeover).slow(),
        trial("a waiting server takes over while the upstream is slow", None, takeover_of_a_slow_fill),
    ]
}

fn resident_missing() -> Option<String> {
    (!Path::new("/proc/self/status").exists())
        .then(|| "what a process has resident is told by /proc".to_owned())
}

/// How much a server may ever have resident.
const MOST_RESIDENT_MIB: u64 = 100;

fn two_hundred_clients() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 50 << 20);
    upstream.hold(".zip");
    let servers = [(); 2].map(|()| Server::start(&root, upstream.url()));
    std::thread::scope(|scope| {
        for n in 0..200 {
            let (server, module) = (&servers[n % 2], &module);
            scope.spawn(move || {
                let mut answer = BufReader::with_capacity(64 << 10, ask(server, ZIP));
                let length = head(&mut answer);
                assert!(length.is_none_or(|length| length == module.zip.len()), "client {n}");
                assert_eq!(read_like(&mut answer, length.is_none(), &module.zip), None, "client {n}");
            });
        }
        // None has more than the claim and the small files while the upstream thinks.
        upstream.wait_until_asked(".zip", 1);
        upstream.release();
    });
    assert_eq!(upstream.asked(".zip"), 1, "the zip was fetched more than once");
    for server in &servers {
        let mib = most_resident_mib(server.pid());
        println!("a server had {mib} MiB resident at most");
        assert!(mib < MOST_RESIDENT_MIB, "{mib} MiB were resident");
    }
    for server in servers {
        assert!(server.stop().success());
    }
    assert!(fs::read(root.join("modules/example.com/m/@v/v1.0.0/zip")).unwrap() == module.zip);
}

fn interrupted() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 20 << 20);
    let (body, validator) = (module.zip.clone(), "ETag: \"one\"");
    upstream.set(ZIP, Script::Ranged { body, validator, at_most: 3 << 20 });
    let servers = [(); 2].map(|()| Server::start(&root, upstream.url()));
    std::thread::scope(|scope| {
        for n in 0..40 {
            let (server, module) = (&servers[n % 2], &module);
            scope.spawn(move || assert!(server.get(ZIP) == (200, module.zip.clone()), "client {n}"));
        }
    });
    assert_eq!(upstream.asked(".zip"), 7, "each answer brings 3 MiB of 20");
    for server in servers {
        assert!(server.stop().success());
    }
    assert!(fs::read(root.join("modules/example.com/m/@v/v1.0.0/zip")).unwrap() == module.zip);
}

fn crowded() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    let (held, late) = (upstream.offer("example.com/held@v1.0.0", 1000), upstream.offer(PAIR, 1000));
    upstream.hold("/held/@v/v1.0.0.zip");
    let root = dir.path().join("store");
    let mut command = server::command(&root);
    command.args(["--upstream", upstream.url(), "--fill-max-concurrent", "1", "--fill-max-wait", "1s"]);
    let server = Server::start_with(&mut command);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.get(&held.path("zip")) == (200, held.zip.clone()));
        upstream.wait_until_asked("/held/@v/v1.0.0.zip", 1);
        let reply = client::get(client::address(&server.url), ZIP);
        assert_eq!((reply.status, reply.header("retry-after")), (504, Some("30")), "{}", reply.text());
        assert!(reply.text().contains("other downloads did not finish within 1 s"), "{}", reply.text());
        assert_eq!(upstream.asked("/m/@v/v1.0.0.zip"), 0);
        upstream.release();
        assert!(first.join().unwrap());
    });
    assert!(server.get(ZIP) == (200, late.zip));
    assert_eq!(upstream.asked("/m/@v/v1.0.0.zip"), 1);
    assert!(server.stop().success());
}

fn three_at_a_time() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    let modules = ["example.com/a@v1.0.0", "example.com/a/b@v1.0.0", "example.com/ab@v1.0.0"]
        .map(|pair| upstream.offer(pair, 200_000));
    upstream.hold(".zip");
    let server = Server::start(&dir.path().join("store"), upstream.url());
    let path = |module: &Module, file: &str| format!("/{}/@v/v1.0.0.{file}", module.version.path().escaped());
    std::thread::scope(|scope| {
        for module in &modules {
            let (server, path) = (&server, &path);
            scope.spawn(move || assert!(server.get(&path(module, "zip")) == (200, module.zip.clone())));
        }
        upstream.wait_until_asked(".zip", modules.len());
        upstream.release();
    });
    for module in &modules {
        for (file, content) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            assert!(server.get(&path(module, file)) == (200, content.clone()), "{}: {file}", module.version);
        }
    }
}

fn ask(server: &Server, path: &str) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

/// Reads the head of an answer of status 200, and says how long the body is if it is told.
fn head(answer: &mut impl BufRead) -> Option<usize> {
    let mut length = None;
    for n in 0.. {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        assert!(n > 0 || line.starts_with("HTTP/1.1 200 "), "{line}");
        if line.trim().is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        length = length.or_else(|| line.strip_prefix("content-length: ")?.trim().parse().ok());
    }
    length
}

/// Compares a body with what it should be as it comes. Says where they differ.
fn read_like(answer: &mut impl BufRead, is_chunked: bool, expected: &[u8]) -> Option<usize> {
    let (mut at, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        let mut left = expected.len();
        if is_chunked {
            let mut line = String::new();
            answer.read_line(&mut line).unwrap();
            left = usize::from_str_radix(line.trim(), 16).unwrap();
            if left == 0 {
                return (at != expected.len()).then_some(at);
            }
        }
        while left > 0 {
            let wanted = left.min(buffer.len());
            let read = answer.read(&mut buffer[..wanted]).unwrap();
            if read == 0 || expected.get(at..at + read) != Some(&buffer[..read]) {
                return Some(at);
            }
            (at, left) = (at + read, left - read);
        }
        match is_chunked {
            true => answer.read_line(&mut String::new()).map(drop).unwrap(),
            false => return (at != expected.len()).then_some(at),
        }
    }
}

fn most_resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Kills one of two servers at every call of a fill that changes the store; a client of the other waits for
/// the same version all the while.
fn takeover() {
    // Threads interleave: a run may be a call shorter than another, and the shortest is what must be hit whole.
    let undisturbed = (0..3).map(|_| {
        let dir = testkit::tempdir();
        let root = dir.path().join("store");
        let upstream = Upstream::start();
        upstream.offer(PAIR, 300_000);
        let run = race(&root, &upstream, Act::Count);
        assert!(run.calls > 0, "no call was found");
        (run.calls, shape(&root))
    });
    let undisturbed = undisturbed.min_by_key(|(calls, _)| *calls).unwrap();
    let (mut hit, mut longest) = (0, Duration::ZERO);
    for at in 1.. {
        let reached = (0..5).any(|_| {
            let dir = testkit::tempdir();
            let root = dir.path().join("store");
            let upstream = Upstream::start();
            let module = upstream.offer(PAIR, 300_000);
            let run = race(&root, &upstream, Act::Kill(at));
            assert!(run.waited == module.zip, "the other server gave wrong bytes after {:?}", run.hit);
            if run.hit.is_some() {
                longest = longest.max(run.took);
                assert_eq!(shape(&root), undisturbed.1, "after {:?}", run.hit);
            }
            run.hit.is_some()
        });
        if !reached {
            break;
        }
        hit += 1;
    }
    let found = undisturbed.0;
    println!(
        "takeover: {found} calls found, {hit} hit; the other server took {longest:.1?} at most, start to end"
    );
    assert!(hit >= found, "{found} calls were found and only {hit} were hit");
}

struct Race {
    calls: usize,
    hit: Option<String>,
    /// The answer of the undisturbed server, and the time since both were asked.
    waited: Vec<u8>,
    took: Duration,
}

/// Asks two servers for one version at a time, of which one is traced, and stops them.
fn race(root: &Path, upstream: &Upstream, act: Act) -> Race {
    create(root);
    // The index is written to by both, whenever that suits them.
    let arguments = ["--upstream", upstream.url(), "--index-interval", "0"];
    let (traced, answer) = tracer::run(server::command(root).args(arguments), root, act, |child| {
        // Begun by this thread: the tracer waits for every child of its own.
        let other = Server::start_with(server::command(root).args(arguments));
        let owner = server::listening(child);
        let asked = Instant::now();
        let waited = std::thread::scope(|scope| {
            // It may be dead already, or die of it.
            let owner = scope.spawn(|| owner.map(|url| server::get(&url, ZIP)));
            // The traced one has begun, or has ended before it could.
            testkit::until("the owner begins or ends", || upstream.asked(".info") > 0 || owner.is_finished());
            let (status, body) = other.get(ZIP);
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            if let Some(Ok((200, bytes))) = owner.join().unwrap() {
                assert!(bytes == body, "the two servers gave other bytes");
            }
            body
        });
        let took = asked.elapsed();
        server::terminate(child);
        child.stderr.take().unwrap().read_to_string(&mut String::new()).unwrap();
        assert!(other.stop().success());
        (waited, took)
    });
    // What a dead one left in staging is swept by the next that starts.
    assert!(Server::start_with(server::command(root).args(arguments)).stop().success());
    let (waited, took) = answer;
    Race { calls: traced.calls.len(), hit: traced.hit, waited, took }
}

/// The upstream thinks about the zip while the server that asked it is killed.
fn takeover_of_a_slow_fill() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let upstream = Upstream::start();
    let module: Module = upstream.offer(PAIR, 300_000);
    upstream.hold(".zip");
    let (owner, other) = (Server::start(&root, upstream.url()), Server::start(&root, upstream.url()));
    let _unanswered = ask(&owner, ZIP);
    upstream.wait_until_asked(".zip", 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.get(ZIP));
        drop(owner);
        // Nobody has told the other one: it finds the claim free, and asks by itself.
        upstream.wait_until_asked(".zip", 2);
        upstream.release();
        assert!(waiting.join().unwrap() == (200, module.zip));
    });
    assert!(other.stop().success());
}
