//! A page of `/catalog` and of `/index` in the middle of many versions, against the first page, asked of a real
//! server.
//!
//! Prints the median time of each and their ratio. The index is made of rows alone: nobody looks into a version for
//! a page. `--brief` takes fewer versions and rounds.

#![expect(clippy::expect_used, clippy::panic, reason = "a bench that cannot run says why and ends")]

mod measure;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use measure::{Asked, median, micros};
use stoa_layout::events::Silent;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, Layouts, Migrator, Options, Runner};
use stoa_store::{IndexRow, Store};

/// How many versions each module has.
const A_MODULE: usize = 100;

/// When the first version was published, in nanoseconds since 1970, and how long each took: a second.
const BEGIN: i64 = 1_600_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

const AIM: f64 = 1.5;

fn main() {
    let (versions, rounds) =
        if Asked::of_process().has("--brief") { (100_000, 40) } else { (1_000_000, 200) };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let began = Instant::now();
    make(dir.path(), versions);
    println!("an index of {versions} versions, built in {:.1?}", began.elapsed());
    let server = Server::start(dir.path());
    let mut client = server.client();
    let middle = versions / 2;
    let (module, version) = (name(middle / A_MODULE), "v1.100.0");
    let since = BEGIN / SECOND + i64::try_from(middle).expect("a small number");
    let since = time::OffsetDateTime::from_unix_timestamp(since).expect("a time");
    let since = since.format(&time::format_description::well_known::Rfc3339).expect("a time");
    for (what, first, middle) in [
        ("/catalog, pages of 1000", "/catalog".to_owned(), format!("/catalog?token={module}%7C{version}")),
        (
            "/catalog, pages of 10",
            "/catalog?pagesize=10".to_owned(),
            format!("/catalog?pagesize=10&token={module}%7C{version}"),
        ),
        ("/index, pages of 2000", "/index".to_owned(), format!("/index?since={since}")),
    ] {
        // Both are in memory then, and the databases open.
        let (a, b) = (client.get(&first), client.get(&middle));
        assert!(a != b && a.len().abs_diff(b.len()) < a.len() / 4 + 100, "{what}: not two pages of one kind");
        let (mut of_first, mut of_middle) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            of_first.push(client.time(&first));
            of_middle.push(client.time(&middle));
        }
        let (of_first, of_middle) = (median(of_first), median(of_middle));
        let ratio = of_middle.as_secs_f64() / of_first.as_secs_f64();
        println!(
            "{what:<26} first {:>8.1} µs, middle {:>8.1} µs, ratio {ratio:.2} (aim: at most {AIM})",
            micros(of_first),
            micros(of_middle)
        );
    }
}

fn name(n: usize) -> String {
    format!("example.com/organisation{:03}/module{n:06}", n / 97)
}

fn make(root: &Path, versions: usize) {
    let layouts = Layouts::new("bench", stoa_store::LAYOUT, stoa_store::FOLDERS.to_vec());
    let options = Options::default();
    let cancel = Cancel::new();
    Runner { root, layouts: &layouts, options: &options, events: &Silent, cancel: &cancel }
        .run()
        .expect("a store is made");
    let current = stoa_store::LAYOUT;
    let gate = Gate { root, current: &current, migrator: &Migrator::Forbidden { name: "none" } };
    let held = gate.hold(gate.pass().expect("it is there"), Mode::ReadWrite).expect("nobody has it");
    let store = Store::open(held, Mode::ReadWrite).expect("it opens");
    let modules = (0..versions / A_MODULE).map(|n| {
        let rows = (0..A_MODULE).map(|m| {
            let count = i64::try_from(n * A_MODULE + m).expect("a small number");
            IndexRow {
                version: format!("v1.{}.0", 100 + m),
                modified: BEGIN + count * SECOND,
                bytes: 1000,
                is_complete: true,
            }
        });
        (name(n), rows.collect())
    });
    store.index().fill(modules).expect("an index is built");
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(root: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stoa"))
            .args(["serve", "--listen", "127.0.0.1:0", "--offline", "--sumdbs", "none"])
            // There is no tree behind the rows.
            .args(["--index-interval", "0", "--store"])
            .arg(root)
            .env("STOA_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .expect("stoa starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on http://").expect("it listens").to_owned();
        Self { child, address }
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(&self.address).expect("it answers");
        stream.set_nodelay(true).expect("a socket");
        Client(BufReader::new(stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn get(&mut self, target: &str) -> Vec<u8> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: stoa\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).expect("it listens");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        assert!(line.contains(" 200 "), "{target}: {line}");
        let mut length = None;
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("a header");
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok();
            }
        }
        let mut body = vec![0; length.unwrap_or_else(|| panic!("{target}: no length"))];
        self.0.read_exact(&mut body).expect("a body");
        body
    }

    fn time(&mut self, target: &str) -> Duration {
        let began = Instant::now();
        self.get(target);
        began.elapsed()
    }
}
