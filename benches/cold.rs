//! A cold zip through stoa against the same download straight from its upstream, alternating in one run.
//!
//! The upstream is on loopback. It takes 20 ms to begin an answer, as one over a network does, and sends 12.5 MB/s;
//! after that it answers at once and as fast as it can. Time to the first byte of the body, and to
//! its last; medians. `--brief` takes fewer rounds, `--unthrottled` leaves out the slow upstream.

#![expect(
    clippy::expect_used,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::server::Server;
use testkit::upstream::Module;

/// How much longer the way through stoa may take: to the first byte, and to the last.
const AIMS: (f64, f64) = (1.1, 1.1);

/// The same to the last byte if the upstream is as fast as it can, for 1 MiB and for 50 MiB.
const UNTHROTTLED_AIMS: (f64, f64) = (4.0, 2.5);

const RATE: f64 = 12.5e6;

const LATENCY: Duration = Duration::from_millis(20);

fn main() {
    testkit::set(testkit::built!());
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let (brief, only_unthrottled) = (has("--brief"), has("--unthrottled"));
    let dir = tempfile::tempdir().expect("a temporary folder");
    touch_memory(dir.path());
    let mut missed = Vec::new();
    for (way, pace) in [("12.5 MB/s, 20 ms", Some((RATE, LATENCY))), ("unthrottled", None)] {
        if only_unthrottled && pace.is_some() {
            continue;
        }
        let upstream = Upstream::start(pace);
        let store = dir.path().join(if pace.is_some() { "paced" } else { "free" });
        let server = Server::start(&store, &upstream.url);
        for (mib, rounds) in [(1, if brief { 7 } else { 15 }), (50, if brief { 2 } else { 11 })] {
            let (mut straight, mut through) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                let module = Module::new(&format!("example.com/size{mib}@v1.0.{round}"), mib << 20);
                let path = upstream.offer(&module);
                let take = |url: &str, times: &mut Vec<Times>| {
                    times.push(download(url, &path, module.zip.len()));
                };
                if round % 2 == 0 {
                    take(&upstream.url, &mut straight);
                    take(&server.url, &mut through);
                } else {
                    take(&server.url, &mut through);
                    take(&upstream.url, &mut straight);
                }
                upstream.files.lock().expect("the files").clear();
            }
            let (straight, through) = (medians(straight), medians(through));
            println!("{mib} MiB, {way}");
            let aims = match (pace, mib) {
                (Some(_), _) => (Some(AIMS.0), AIMS.1),
                (None, 1) => (None, UNTHROTTLED_AIMS.0),
                (None, _) => (None, UNTHROTTLED_AIMS.1),
            };
            for (what, straight, through, aim) in [
                ("first byte", straight.0, through.0, aims.0),
                ("in all", straight.1, through.1, Some(aims.1)),
            ] {
                let ratio = through / straight;
                let text = aim.map_or_else(String::new, |aim| format!(" (aim: at most {aim})"));
                println!(
                    "    {what:<11} straight {straight:>8.1} ms   through stoa {through:>8.1} ms   ratio {ratio:.2}{text}"
                );
                if let Some(aim) = aim.filter(|aim| ratio > *aim) {
                    missed.push(format!("{mib} MiB, {way}, {what}: {ratio:.2} is more than {aim}"));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("; "));
}

/// Fills the page cache once. On a virtual machine, memory that was never used costs ten times as much at its first use,
/// which only the way through stoa would pay.
fn touch_memory(dir: &Path) {
    let mut file = tempfile::tempfile_in(dir).expect("a file");
    let piece = vec![1; 1 << 20];
    (0..3 << 10).for_each(|_| file.write_all(&piece).expect("3 GiB of free space"));
}

type Times = (Duration, Duration);

/// In milliseconds.
fn medians(times: Vec<Times>) -> (f64, f64) {
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    (
        median(times.iter().map(|(first, _)| *first).collect()),
        median(times.into_iter().map(|(_, all)| all).collect()),
    )
}

/// Downloads, and says how long it took to the first byte of the body and to its end.
fn download(url: &str, path: &str, length: usize) -> Times {
    let address = url.strip_prefix("http://").expect("a plain URL");
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).expect("a head") > 0, "broken off");
        assert!(!line.starts_with("HTTP/") || line.contains(" 200 "), "{path}: {line}");
    }
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(reader.fill_buf().expect("a body"));
    let first = began.elapsed();
    let had = body.len();
    reader.consume(had);
    reader.read_to_end(&mut body).expect("a body");
    assert_eq!(body.len(), length, "{path}");
    (first, began.elapsed())
}

/// An upstream with a latency and a rate, or without.
struct Upstream {
    url: String,
    files: Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>,
}

impl Upstream {
    fn start(pace: Option<(f64, Duration)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let files: Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>> = Arc::default();
        let shared = Arc::clone(&files);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &files, pace));
            }
        });
        Self { url, files }
    }

    /// Offers a version; the path of its zip.
    fn offer(&self, module: &Module) -> String {
        let base = format!("/{}/@v/{}", module.version.path(), module.version.version());
        let mut files = self.files.lock().expect("the files");
        files.insert(format!("{base}.info"), Arc::new(module.info.clone()));
        files.insert(format!("{base}.mod"), Arc::new(module.modfile.clone()));
        files.insert(format!("{base}.zip"), Arc::new(module.zip.clone()));
        format!("{base}.zip")
    }
}

fn serve(
    mut stream: TcpStream,
    files: &Mutex<HashMap<String, Arc<Vec<u8>>>>,
    pace: Option<(f64, Duration)>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut is_last = false;
        loop {
            let line = lines.next()?.ok()?;
            is_last |= line.eq_ignore_ascii_case("connection: close");
            if line.is_empty() {
                break;
            }
        }
        let file = files.lock().ok()?.get(&path).cloned();
        if let Some((_, latency)) = pace {
            std::thread::sleep(latency);
        }
        let Some(file) = file else {
            // It carries no checksum database.
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        };
        let began = Instant::now();
        let mut head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()).into_bytes();
        let mut sent = 0;
        for chunk in file.chunks(16 * 1024) {
            head.extend_from_slice(chunk);
            stream.write_all(&head).ok()?;
            head.clear();
            sent += chunk.len();
            if let Some((rate, _)) = pace {
                let due = Duration::from_secs_f64(sent as f64 / rate);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        if is_last {
            return Some(());
        }
    }
}
