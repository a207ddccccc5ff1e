//! Attacks of one address on a real server, while a client of another address asks for small files.
//!
//! Each prints the times of the other client and the memory of the server. The assertions are about answers and memory, since times
//! depend on the machine.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use socket2::{Domain, Socket, Type};
use testkit::server::{self, Server};
use testkit::upstream::Module;
use testkit::{Case, client, create, slow, trial};

use crate::tls_client::Certificate;

pub(crate) fn cases() -> Vec<Case> {
    slow(vec![
        trial("20 connections with windows of one byte", None, windows_of_one_byte),
        trial("256 slow readers", None, slow_readers),
        trial("4,096 idle connections of one host", None, idle_connections),
        trial("9,000 hang-ups", None, hang_ups),
        trial(
            "a client at 20 KiB/s finishes where slower ones lose their places",
            None,
            an_honest_slow_client,
        ),
    ])
}

/// The address of the attacker, and that of the other client.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Maximum memory of the server, in KiB.
const MEMORY: u64 = 128 << 10;

/// A server with a small and a large module.
struct Site {
    _folder: tempfile::TempDir,
    server: Server,
    address: SocketAddr,
    small: Module,
    large: Module,
}

impl Site {
    fn start(size: usize, prepare: impl FnOnce(&mut Command)) -> Self {
        let folder = testkit::tempdir();
        let store = folder.path().join("store");
        create(&store);
        let small = Module::new("example.com/small@v1.0.0", 1000);
        let large = Module::new("example.com/large@v1.0.0", size);
        small.put_unsealed(&store);
        large.put_unsealed(&store);
        let mut command = server::command(&store);
        command.args(["--upstream", "off"]);
        prepare(&mut command);
        let server = Server::start_with(&mut command);
        let address = server.url.rsplit("://").next().unwrap().parse().unwrap();
        let site = Self { _folder: folder, server, address, small, large };
        println!("{} before: {}", site.large.zip.len(), site.memory());
        site
    }

    fn kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    fn memory(&self) -> String {
        format!("{} KiB resident, {} KiB at most", self.kib("VmRSS:"), self.kib("VmHWM:"))
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(PathBuf::from(format!("/proc/{}/fd", self.server.pid()))).unwrap().count()
    }

    /// Has the other client ask many times, each time on a new connection. Every answer must be right.
    fn ask_often(&self, when: &str, ask: impl Fn() -> bool) {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..500 {
            let begin = Instant::now();
            assert!(ask(), "the other client got no answer {when}");
            times.push(begin.elapsed());
        }
        times.sort();
        let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let longest = times.last().copied().unwrap_or_default();
        println!("{when}: median {median:.1?}, p99 {p99:.1?}, longest {longest:.1?}, {}", self.memory());
    }

    /// Asks for a small file over HTTP/1.1.
    fn small(&self) -> bool {
        let Ok(mut stream) = connect(OTHER, self.address) else { return false };
        let path = self.small.path("mod");
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(&self.small.modfile)
    }

    /// Begins to ask for the large zip.
    fn begin_large(&self, from: Ipv4Addr) -> TcpStream {
        let mut stream = connect(from, self.address).unwrap();
        let path = self.large.path("zip");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    }

    fn end(self) {
        let peak = self.kib("VmHWM:");
        assert!(self.server.stop().success());
        assert!(peak < MEMORY, "{peak} KiB");
    }
}

/// Connects from an address of this machine, with small buffers.
fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(8 * 1024)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Raises the limit of open files of this process.
fn raise_limit_of_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

fn windows_of_one_byte() {
    let certificate = Certificate::new();
    let folder = testkit::tempdir();
    let (cert, key) = certificate.write(folder.path());
    let site = Site::start(16 << 20, |command| {
        command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    });
    let path = site.small.path("mod");
    let ask = || {
        let name = ServerName::try_from("localhost").unwrap();
        let session = rustls::ClientConnection::new(certificate.client(&["http/1.1"]), name).unwrap();
        let stream = connect(OTHER, site.address).unwrap();
        let answer = crate::tls_client::ask(&mut rustls::StreamOwned::new(session, stream), &path).unwrap();
        answer.starts_with("HTTP/1.1 200 ")
    };
    site.ask_often("before", ask);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let uri = format!("https://localhost{}", site.large.path("zip"));
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..20 {
            let stream = connect(ATTACKER, site.address).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let connector = tokio_rustls::TlsConnector::from(certificate.client(&["h2"]));
            let name = ServerName::try_from("localhost").unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            let mut builder = h2::client::Builder::new();
            let handshake = builder.initial_window_size(1).handshake::<_, Bytes>(stream);
            let (mut send, connection) = handshake.await.unwrap();
            tokio::spawn(async move { drop(connection.await) });
            let mut answers = Vec::new();
            for _ in 0..256 {
                // The server allows fewer.
                let ready = tokio::time::timeout(Duration::from_millis(300), send.clone().ready()).await;
                let Ok(Ok(mut ready)) = ready else { break };
                let request = hyper::Request::builder().uri(&uri).body(()).unwrap();
                let Ok((answer, _)) = ready.send_request(request, true) else { break };
                send = ready;
                answers.push(answer);
            }
            held.push((send, answers));
        }
        held
    });
    let requests: usize = held.iter().map(|(_, answers)| answers.len()).sum();
    println!("{requests} requests under way, {} descriptors", site.descriptors());
    assert!(requests >= 20, "{requests}");
    site.ask_often("during", ask);
    drop(held);
    drop(runtime);
    site.ask_often("after", ask);
    site.end();
}

fn slow_readers() {
    let site = Site::start(16 << 20, |_| {});
    site.ask_often("before", || site.small());
    let readers: Vec<TcpStream> = (0..256).map(|_| site.begin_large(ATTACKER)).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = [0];
            while !is_over.load(Ordering::Relaxed) {
                readers.iter().for_each(|mut reader| drop(reader.read(&mut byte)));
                thread::sleep(Duration::from_millis(100));
            }
        });
        site.ask_often("during", || site.small());
        // The other client gets large files, too.
        let whole = client::get(site.address, &site.large.path("zip"));
        assert!(whole.is_whole && whole.body == site.large.zip);
        is_over.store(true, Ordering::Relaxed);
    });
    println!("256 readers: {}", site.memory());
    drop(readers);
    site.ask_often("after", || site.small());
    site.end();
}

fn idle_connections() {
    raise_limit_of_files();
    let site = Site::start(1000, |_| {});
    site.ask_often("before", || site.small());
    let mut idle = Vec::new();
    for n in 0..4096 {
        // Those above the limit are closed at once.
        let Ok(mut stream) = connect(ATTACKER, site.address) else { continue };
        match n % 2 {
            // One with a request behind it, and one that never had any.
            0 => drop(write!(stream, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")),
            _ => drop(write!(stream, "GET /hea")),
        }
        idle.push(stream);
    }
    println!("{} descriptors", site.descriptors());
    site.ask_often("during", || site.small());
    drop(idle);
    site.ask_often("after", || site.small());
    site.end();
}

fn hang_ups() {
    let site = Site::start(4 << 20, |_| {});
    site.ask_often("before", || site.small());
    let before = site.descriptors();
    thread::scope(|scope| {
        let attackers: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| (0..1500).for_each(|_| drop(site.begin_large(ATTACKER)))))
            .collect();
        site.ask_often("during", || site.small());
        attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    });
    let mut tries = 0;
    while site.descriptors() > before + 20 {
        tries += 1;
        assert!(tries < 3000, "{} descriptors are open", site.descriptors());
        thread::sleep(Duration::from_millis(10));
    }
    site.ask_often("after", || site.small());
    site.end();
}

fn an_honest_slow_client() {
    let site = Site::start(5 << 18, |command| {
        command.args(["--max-connections", "6", "--limits-connections-per-address", "6"]);
    });
    let stalled: Vec<TcpStream> = (0..5).map(|_| site.begin_large(ATTACKER)).collect();
    let mut honest = site.begin_large(OTHER);
    let zip = site.large.zip.clone();
    let reader = thread::spawn(move || {
        let (mut answer, mut part) = (Vec::new(), [0; 2048]);
        let begin = Instant::now();
        while !answer.ends_with(&zip) {
            let read = honest.read(&mut part).unwrap();
            assert_ne!(read, 0, "disconnected after {} bytes", answer.len());
            answer.extend_from_slice(&part[..read]);
            let due = Duration::from_secs_f64(answer.len() as f64 / (20.0 * 1024.0));
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        begin.elapsed()
    });
    // All places are taken. The next client gets one when the stalled readers are known to be slow.
    let begin = Instant::now();
    assert!(site.small());
    println!("a place after {:.1?}", begin.elapsed());
    let took = reader.join().unwrap();
    println!("{} bytes in {took:.1?}", site.large.zip.len());
    drop(stalled);
    site.end();
}
