//! An upstream that lies, breaks off, drips, floods or is out of order, and a real proxy in front of it.
//!
//! Whatever it does, a client gets neither a clean end of a wrong body nor the whole of one, the store is as it was,
//! the log names the reason, and nothing is remembered of it: when the upstream has become honest, the same request
//! succeeds.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::{Case, cases};

use testkit::server::{self, Server};
use testkit::tree;
use testkit::upstream::Module;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        zips_that_break_off,
        zips_that_are_others,
        zips_that_swell,
        small_files_that_are_others,
        an_empty_list_is_one,
        statuses_that_are_no_answer,
        redirects_without_an_end,
        what_changes_upstream_does_not_change_here,
    ]
}

/// What to answer, down to the bytes.
#[derive(Clone)]
enum Reply {
    /// Send this and close.
    Bytes(Vec<u8>),
    /// Send this and reset the connection.
    Reset(Vec<u8>),
    /// Send this, then a byte now and then.
    Drip(Vec<u8>),
    /// Send this, then say nothing more.
    Stall(Vec<u8>),
    /// Send this, then blanks in chunks without an end.
    Flood(Vec<u8>),
    /// Fail so often with a status, then be honest.
    Failing(u16, usize, Vec<u8>),
}

/// An upstream on loopback; it ends with the test's process.
struct Hostile {
    url: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Hostile {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hostile = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            replies: Arc::default(),
            asked: Arc::default(),
        };
        let (replies, asked) = (Arc::clone(&hostile.replies), Arc::clone(&hostile.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (replies, asked) = (Arc::clone(&replies), Arc::clone(&asked));
                std::thread::spawn(move || answer(stream, &replies, &asked));
            }
        });
        hostile
    }

    /// Offers a version honestly.
    fn offer(&self, module: &Module) {
        let list = format!("{}\n", module.version.version()).into_bytes();
        let files = [
            ("@v/list".to_owned(), list),
            ("@latest".to_owned(), module.info.clone()),
            (format!("@v/{}.info", module.version.version()), module.info.clone()),
            (format!("@v/{}.mod", module.version.version()), module.modfile.clone()),
            (format!("@v/{}.zip", module.version.version()), module.zip.clone()),
        ];
        for (name, body) in files {
            self.set(&format!("/{}/{name}", module.version.path()), ok(&body));
        }
    }

    fn set(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

fn answer(
    mut stream: TcpStream,
    replies: &Mutex<HashMap<String, Reply>>,
    asked: &Mutex<HashMap<String, usize>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    while !lines.next()?.ok()?.is_empty() {}
    *asked.lock().unwrap().entry(path.clone()).or_default() += 1;
    let mut known = replies.lock().unwrap();
    let reply = known.get_mut(&path).map(|reply| match reply {
        Reply::Failing(_, 0, honest) => ok(honest),
        Reply::Failing(status, left, _) => {
            *left -= 1;
            let text = b"out of order";
            let headers = format!("Content-Type: text/plain\r\nContent-Length: {}\r\n", text.len());
            Reply::Bytes([head(*status, &headers).as_slice(), text].concat())
        }
        reply => reply.clone(),
    });
    drop(known);
    let reply = reply.unwrap_or_else(|| Reply::Bytes(head(404, "Content-Length: 0\r\n")));
    let bytes = match &reply {
        Reply::Bytes(bytes) | Reply::Reset(bytes) | Reply::Drip(bytes) => bytes,
        Reply::Stall(bytes) | Reply::Flood(bytes) | Reply::Failing(_, _, bytes) => bytes,
    };
    stream.write_all(bytes).ok()?;
    match reply {
        Reply::Reset(_) => {
            // Only tokio's streams can be told how to close.
            stream.set_nonblocking(true).ok()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().ok()?;
            runtime.block_on(async { tokio::net::TcpStream::from_std(stream)?.set_zero_linger() }).ok()?;
        }
        Reply::Drip(_) => loop {
            std::thread::sleep(Duration::from_millis(50));
            stream.write_all(b"x").ok()?;
        },
        Reply::Stall(_) => {
            // Until the other side has had enough.
            let _ = stream.read(&mut [0; 1]);
        }
        Reply::Flood(_) => {
            let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).ok()?;
            }
        }
        Reply::Bytes(_) | Reply::Failing(..) => stream.shutdown(std::net::Shutdown::Write).ok()?,
    }
    Some(())
}

fn head(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

fn announced(length: usize, body: &[u8]) -> Vec<u8> {
    [head(200, &format!("Content-Length: {length}\r\n")).as_slice(), body].concat()
}

fn chunked(body: &[u8], is_ended: bool) -> Vec<u8> {
    let mut bytes = head(200, "Transfer-Encoding: chunked\r\n");
    for chunk in body.chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    if is_ended {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    bytes
}

fn ok(body: &[u8]) -> Reply {
    Reply::Bytes(announced(body.len(), body))
}

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    body: Vec<u8>,
    /// Whether it came to an end, rather than broke off.
    is_whole: bool,
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(1000)]).into_owned()
    }
}

fn ask(url: &str, path: &str) -> Got {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    // An answer that is broken off may end with a reset: what came before counts.
    let _ = stream.read_to_end(&mut bytes);
    // Broken off before even its head was sent.
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Got { status: 200, body: Vec::new(), is_whole: false };
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let sent = &bytes[end + 4..];
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if let Some(length) = length {
        return Got { status, body: sent.to_vec(), is_whole: sent.len() == length };
    }
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let (mut body, mut at) = (Vec::new(), 0);
    let is_whole = loop {
        let Some(line) = sent[at..].windows(2).position(|two| two == b"\r\n") else { break false };
        let size = usize::from_str_radix(std::str::from_utf8(&sent[at..at + line]).unwrap(), 16).unwrap();
        if size == 0 {
            break true;
        }
        let from = at + line + 2;
        body.extend_from_slice(&sent[from.min(sent.len())..(from + size).min(sent.len())]);
        at = from + size + 2;
        if at > sent.len() {
            break false;
        }
    };
    Got { status, body, is_whole }
}

/// A proxy in front of the hostile upstream.
struct Scene {
    hostile: Hostile,
    server: Server,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let hostile = Hostile::start();
        let dir = tempfile::tempdir().unwrap();
        let mut command = server::command(&dir.path().join("store"));
        command
            .args(["--upstream", &hostile.url, "--upstream-idle-timeout", "1"])
            .stderr(File::create(dir.path().join("log")).unwrap());
        let server = Server::start_with(&mut command);
        let scene = Self { hostile, server, dir };
        // The index of the new store is built in staging.
        until(|| scene.dir.path().join("store/index/1").is_dir() && scene.is_at_rest());
        scene
    }

    fn ask(&self, path: &str) -> Got {
        ask(&self.server.url, path)
    }

    /// Whether nothing is under way in the store.
    fn is_at_rest(&self) -> bool {
        let shape = self.stored();
        let staged = shape.keys().filter(|path| path.starts_with("staging") && path.components().count() > 2);
        staged.into_iter().all(|path| path.ends_with("lock"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What is in the store but for what is derived.
    fn stored(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut shape = tree::shape(&self.dir.path().join("store"));
        // The file that claims are locks on stays.
        shape.remove(Path::new("staging/claims"));
        shape.retain(|path, _| {
            ["modules", "staging", "quarantine", "records"].iter().any(|top| path.starts_with(top))
        });
        shape
    }

    /// Waits until the store is as it was: what a failed fill made is removed a moment after its end.
    fn is_as_before(&self, what: &str, before: &BTreeMap<PathBuf, Vec<u8>>) {
        let began = Instant::now();
        while self.stored() != *before {
            let now = self.stored();
            let of = |one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
                one.iter()
                    .filter(|(path, bytes)| other.get(*path) != Some(*bytes))
                    .map(|(path, _)| path.clone())
                    .collect()
            };
            let (came, went) = (of(&now, before), of(before, &now));
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: came {came:?}, went {went:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has one file of a module answered by `reply`, asks for it, and looks at all that must hold then.
    fn suffers(&self, what: &str, module: &Module, file: &str, reply: Reply, status: u16, words: &str) {
        let path = format!("/{}/{file}", module.version.path());
        let before = self.stored();
        self.hostile.offer(module);
        let honest = self.hostile.replies.lock().unwrap().insert(path.clone(), reply).unwrap();
        let Reply::Bytes(honest) = honest else { unreachable!("an honest answer") };
        let honest = &honest[honest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4..];

        let got = self.ask(&path);
        if got.status == 200 {
            // It had begun before the fault was seen; that may only be so for a zip.
            assert!(file.ends_with(".zip"), "{what}: {}", got.text());
            assert!(!got.is_whole, "{what}: a clean end");
            assert!(got.body.len() + 60_000 < honest.len(), "{what}: {} bytes", got.body.len());
        } else {
            assert_eq!(got.status, status, "{what}: {}", got.text());
            assert!(got.is_whole && got.text().contains(words), "{what}: {}", got.text());
        }
        self.is_as_before(what, &before);
        let log = self.log();
        let name = module.version.path().as_str();
        assert!(
            log.lines().any(|line| line.contains(name) && line.contains(words)),
            "{what}: no line of {name} with {words:?} in the log:\n{log}"
        );

        self.hostile.offer(module);
        let got = self.ask(&path);
        assert!(
            got.status == 200 && got.is_whole && got.body == honest,
            "{what}, then honest: {}",
            got.text()
        );
        if file.starts_with("@v/v1") {
            // The rest of the version follows by itself; a small zip is had when it is stored, and a large one is
            // whole then.
            let zip = self.ask(&format!("/{}/@v/v1.0.0.zip", module.version.path()));
            assert!(zip.is_whole && zip.body == module.zip, "{what}, its zip: {}", zip.text());
        }
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Small enough to be held back whole, and large enough to be begun.
const SIZES: [(&str, usize); 2] = [("small", 5_000), ("large", 400_000)];

fn suffers_zip(scene: &Scene, name: &str, status: u16, words: &str, reply: impl Fn(&Module) -> Reply) {
    for (size, bytes) in SIZES {
        let module = Module::new(&format!("example.com/{name}/{size}@v1.0.0"), bytes);
        let reply = reply(&module);
        scene.suffers(&format!("{name}, {size}"), &module, "@v/v1.0.0.zip", reply, status, words);
    }
}

fn zips_that_break_off() {
    let scene = Scene::new();
    suffers_zip(&scene, "short", 502, "cannot download", |module| {
        Reply::Bytes(announced(module.zip.len() + 1000, &module.zip))
    });
    suffers_zip(&scene, "cut-chunks", 502, "cannot download", |module| {
        Reply::Bytes(chunked(&module.zip[..module.zip.len() - 500], false))
    });
    suffers_zip(&scene, "no-last-chunk", 502, "cannot download", |module| {
        Reply::Bytes(chunked(&module.zip, false))
    });
    suffers_zip(&scene, "reset", 502, "cannot download", |module| {
        Reply::Reset(announced(module.zip.len(), &module.zip[..module.zip.len() / 2]))
    });
    suffers_zip(&scene, "stall", 504, "timed out", |module| {
        Reply::Stall(announced(module.zip.len(), &module.zip[..module.zip.len() / 2]))
    });
    suffers_zip(&scene, "drip", 504, "timed out", |module| {
        Reply::Drip(announced(module.zip.len(), &module.zip[..1000]))
    });
}

fn zips_that_are_others() {
    let scene = Scene::new();
    suffers_zip(&scene, "cut", 502, "invalid version", |module| ok(&module.zip[..module.zip.len() - 300]));
    suffers_zip(&scene, "longer", 502, "invalid version", |module| {
        Reply::Bytes(announced(module.zip.len() - 1000, &module.zip))
    });
    suffers_zip(&scene, "crc", 502, "invalid version", |module| {
        let mut zip = module.zip.clone();
        let middle = zip.len() / 2;
        zip[middle] ^= 0x55;
        ok(&zip)
    });
    suffers_zip(&scene, "hole", 502, "invalid version", |module| {
        let mut zip = module.zip.clone();
        let middle = zip.len() / 2;
        zip[middle..middle + 1000].fill(0);
        Reply::Bytes(chunked(&zip, true))
    });
    suffers_zip(&scene, "prefix", 502, "invalid version", |module| {
        ok(&Module::new("example.com/another@v1.0.0", module.zip.len()).zip)
    });
    suffers_zip(&scene, "version-in-zip", 502, "invalid version", |module| {
        ok(&Module::new(&format!("{}@v1.0.1", module.version.path()), module.zip.len()).zip)
    });
    suffers_zip(&scene, "page", 502, "it is not a zip", |_| ok(b"<html>Please log in</html>"));
    suffers_zip(&scene, "empty", 502, "it is not a zip", |_| ok(b""));
    suffers_zip(&scene, "huge", 502, "exceeds the limit", |module| {
        Reply::Bytes(announced(600 << 20, &module.zip))
    });
}

fn zips_that_swell() {
    let scene = Scene::new();
    for (name, size) in [("liar", 100_u32), ("bomb", 0xf000_0000)] {
        let module = Module::new(&format!("example.com/{name}@v1.0.0"), 1000);
        let zeros = vec![0; 8 << 20];
        let files = [("go.mod", module.modfile.as_slice()), ("zeros", zeros.as_slice())];
        let mut zip = stoa_gomod::zip::create(&module.version, files).unwrap();
        assert!(zip.len() < 1 << 20, "it shrinks well");
        assert_eq!(redeclare(&mut zip, zeros.len() as u32, size), 1);
        scene.suffers(name, &module, "@v/v1.0.0.zip", ok(&zip), 502, "invalid version");
    }
}

/// Changes the size that a zip declares for what has this size, in the directory; how often it did.
fn redeclare(zip: &mut [u8], from: u32, to: u32) -> usize {
    let mut changed = 0;
    for at in 0..zip.len().saturating_sub(46) {
        if zip[at..].starts_with(b"PK\x01\x02") && zip[at + 24..at + 28] == from.to_le_bytes() {
            zip[at + 24..at + 28].copy_from_slice(&to.to_le_bytes());
            changed += 1;
        }
    }
    changed
}

fn small_files_that_are_others() {
    let scene = Scene::new();
    let page = || ok(b"\n<!DOCTYPE html><html>Please log in</html>");
    let cut = |body: &[u8]| Reply::Bytes(announced(1000, body));
    let flood = || Reply::Flood(head(200, "Transfer-Encoding: chunked\r\n"));
    let info = br#"{"Version":"v1.0.1","Time":"2024-01-02T03:04:05Z"}"#;
    let (other, odd) = ("invalid answer", "invalid version");
    for (name, file, reply, status, words) in [
        ("info-version", "@v/v1.0.0.info", ok(info), 502, "v1.0.1"),
        ("info-page", "@v/v1.0.0.info", page(), 502, other),
        ("info-empty", "@v/v1.0.0.info", ok(b""), 502, other),
        ("info-array", "@v/v1.0.0.info", ok(b"[]"), 502, other),
        ("info-cut", "@v/v1.0.0.info", cut(info), 502, "cannot download"),
        ("info-nothing", "@v/v1.0.0.info", Reply::Bytes(head(200, "")), 502, other),
        ("info-reset", "@v/v1.0.0.info", Reply::Reset(announced(500, b"{")), 502, "cannot download"),
        ("info-stall", "@v/v1.0.0.info", Reply::Stall(announced(50, b"{")), 504, "timed out"),
        ("info-drip", "@v/v1.0.0.info", Reply::Drip(announced(100_000, b"{")), 504, "timed out"),
        ("info-flood", "@v/v1.0.0.info", flood(), 502, "exceeds the limit"),
        ("mod-page", "@v/v1.0.0.mod", page(), 502, other),
        ("mod-empty", "@v/v1.0.0.mod", ok(b""), 502, other),
        ("mod-flood", "@v/v1.0.0.mod", flood(), 502, "exceeds the limit"),
        ("mod-stall", "@v/v1.0.0.mod", Reply::Stall(announced(50, b"module")), 504, "timed out"),
        ("list-page", "@v/list", page(), 502, other),
        ("list-flood", "@v/list", flood(), 502, "exceeds the limit"),
        ("list-stall", "@v/list", Reply::Stall(announced(50, b"v1")), 504, "timed out"),
        ("latest-page", "@latest", page(), 502, other),
        ("latest-empty", "@latest", ok(b""), 502, other),
    ] {
        let module = Module::new(&format!("example.com/{name}@v1.0.0"), 1000);
        scene.suffers(name, &module, file, reply, status, words);
    }
    // The go.mod in the zip is another one. The mod itself had been told before that could be known.
    let module = Module::new("example.com/mod-other@v1.0.0", 1000);
    let lie = ok(b"module example.com/mod-other\n\nrequire example.com/evil v1.0.0\n");
    let before = scene.stored();
    scene.hostile.offer(&module);
    scene.hostile.set("/example.com/mod-other/@v/v1.0.0.mod", lie);
    let got = scene.ask("/example.com/mod-other/@v/v1.0.0.zip");
    assert!(got.status == 502 && got.text().contains(odd), "{}", got.text());
    scene.is_as_before("mod-other", &before);
    scene.hostile.offer(&module);
    assert_eq!(scene.ask("/example.com/mod-other/@v/v1.0.0.zip").body, module.zip);
    assert_eq!(scene.ask("/example.com/mod-other/@v/v1.0.0.mod").body, module.modfile);
}

fn an_empty_list_is_one() {
    let scene = Scene::new();
    let module = Module::new("example.com/untagged@v1.0.0", 1000);
    scene.hostile.offer(&module);
    scene.hostile.set("/example.com/untagged/@v/list", ok(b""));
    let got = scene.ask("/example.com/untagged/@v/list");
    assert_eq!((got.status, got.body.len()), (200, 0), "{}", got.text());
}

fn statuses_that_are_no_answer() {
    let scene = Scene::new();
    let files = ["@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/list", "@latest"];
    for (n, file) in files.iter().enumerate() {
        for (status, told, tries) in
            [(429, 502, 3), (500, 502, 3), (503, 502, 3), (504, 504, 1), (403, 403, 1)]
        {
            let name = format!("example.com/s{status}/f{n}");
            let module = Module::new(&format!("{name}@v1.0.0"), 1000);
            let reply = Reply::Failing(status, usize::MAX, Vec::new());
            scene.suffers(&name, &module, file, reply, told, &format!("status {status}"));
            // And once more when it was honest.
            assert_eq!(scene.hostile.asked(&format!("/{name}/{file}")), tries + 1, "{name}");
        }
        // Twice out of order, then fine: nobody notices.
        let module = Module::new(&format!("example.com/twice/f{n}@v1.0.0"), 1000);
        scene.hostile.offer(&module);
        let path = format!("/{}/{file}", module.version.path());
        let mut replies = scene.hostile.replies.lock().unwrap();
        let Some(Reply::Bytes(honest)) = replies.get(&path).cloned() else { unreachable!("offered") };
        let body = honest[honest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4..].to_vec();
        replies.insert(path.clone(), Reply::Failing(500, 2, body.clone()));
        drop(replies);
        let got = scene.ask(&path);
        assert!(got.status == 200 && got.body == body, "{path}: {}", got.text());
        assert_eq!(scene.hostile.asked(&path), 3);
        if file.starts_with("@v/v1") {
            // The rest of the version follows by itself; this is had when it is stored.
            assert_eq!(scene.ask(&format!("/{}/@v/v1.0.0.zip", module.version.path())).body, module.zip);
        }
    }
}

fn redirects_without_an_end() {
    let scene = Scene::new();
    for (n, file) in
        ["@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/list", "@latest"].iter().enumerate()
    {
        let module = Module::new(&format!("example.com/circle/f{n}@v1.0.0"), 1000);
        let headers = format!("Location: /{}/{file}\r\nContent-Length: 0\r\n", module.version.path());
        let reply = Reply::Bytes(head(302, &headers));
        scene.suffers("redirects", &module, file, reply, 502, "redirected more than 10 times");
    }
}

fn what_changes_upstream_does_not_change_here() {
    let scene = Scene::new();
    let module = Module::new("example.com/moved@v1.0.0", 5_000);
    scene.hostile.offer(&module);
    let path = "/example.com/moved/@v/v1.0.0.zip";
    assert_eq!(scene.ask(path).body, module.zip);
    let before = scene.stored();
    let other = Module::new("example.com/moved@v1.0.0", 9_000);
    scene.hostile.set(path, ok(&other.zip));
    assert_eq!(scene.ask(path).body, module.zip);
    assert_eq!(scene.hostile.asked(path), 1);
    assert_eq!(scene.stored(), before);
    // Another process on the same store sees the same.
    let second = Server::start(Path::new(&scene.dir.path().join("store")), &scene.hostile.url);
    assert_eq!(second.get(path), (200, module.zip));
    assert_eq!(scene.hostile.asked(path), 1);
}
