//! Crowds of clients with questions: memory and descriptors of the real server.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use testkit::server::{self, Server};
use testkit::upstream::{Module, Script, Upstream, announced};
use testkit::{Case, client, create, trial};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("1,100 clients that hang up leave free descriptors", None, hang_ups),
        trial("400 lists of 8 MiB stay within 128 MiB", None, large_lists).slow(),
    ]
}

/// Reads a number of KiB in the status of a process.
fn kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(PathBuf::from(format!("/proc/{pid}/fd"))).unwrap().count()
}

fn hang_ups() {
    let dir = testkit::tempdir();
    let (store, upstream) = (dir.path().join("store"), Upstream::start());
    create(&store);
    let module = Module::new("example.com/stored@v1.0.0", 1000);
    module.put_unsealed(&store);
    // It answers nothing but files of the stored module.
    upstream.hold("list");
    let server = Server::start(&store, upstream.url());
    let before = descriptors(server.pid());
    for n in 0..22 {
        let clients: Vec<TcpStream> = (0..50)
            .map(|m| {
                let mut stream = TcpStream::connect(client::address(&server.url)).unwrap();
                write!(stream, "GET /example.com/m{n}x{m}/@v/list HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                stream
            })
            .collect();
        upstream.wait_until_asked("list", 50 * (n + 1));
        drop(clients);
    }
    // Without an end of the questions, this is 1,100 for a minute.
    let mut tries = 0;
    while descriptors(server.pid()) > before + 50 {
        tries += 1;
        assert!(tries < 1000, "{} descriptors are open", descriptors(server.pid()));
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    assert_eq!(server.get(&module.path("info")), (200, module.info.clone()));
    println!("{before} descriptors before, {} after", descriptors(server.pid()));
    upstream.release();
    assert!(server.stop().success());
}

const LIST_BYTES: usize = 8 << 20;

fn large_lists() {
    let dir = testkit::tempdir();
    let store = dir.path().join("store");
    let mut list = Vec::with_capacity(LIST_BYTES);
    for n in 0.. {
        let line = format!("v1.{}.{}\n", n / 1000, n % 1000);
        if list.len() + line.len() > LIST_BYTES {
            break;
        }
        list.extend_from_slice(line.as_bytes());
    }
    let answer = announced(list.len(), &list);
    let upstream = Upstream::with(move |request| match request.path.ends_with("/list") {
        true => Script::Raw(answer.clone()),
        false => Script::Status(404, "text/plain", b"no"),
    });
    let server = Server::start_with(server::command(&store).args(["--upstream", upstream.url()]));
    // Clients that read nothing hold a part of the budget. The others get their list or a 503.
    let address = client::address(&server.url);
    let ask = |n: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /example.com/m{n}/@v/list HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    let silent: Vec<TcpStream> = (0..398).map(ask).collect();
    thread::sleep(Duration::from_secs(4));
    let peak = kib(server.pid(), "VmHWM:");
    println!("{peak} KiB with 398 clients that read nothing");
    drop(silent);
    for n in 400..402 {
        let (status, body) = server.get(&format!("/example.com/m{n}/@v/list"));
        assert_eq!((status, body.len()), (200, list.len()));
    }
    let peak = kib(server.pid(), "VmHWM:");
    println!("{peak} KiB at the end");
    assert!(peak < 128 << 10, "{peak} KiB");
}
