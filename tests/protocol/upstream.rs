//! An upstream that does what a test tells it to, and counts what it is asked for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use stoa_gomod::ModuleVersion;

/// A running upstream; it ends with the process.
#[derive(Clone)]
pub(crate) struct Upstream {
    url: String,
    scripts: Arc<Mutex<HashMap<String, Script>>>,
    asked: Arc<Mutex<Vec<Request>>>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: String,
}

/// What to answer.
#[derive(Clone)]
pub(crate) enum Script {
    Body(Vec<u8>),
    Status(u16, &'static str, &'static [u8]),
    /// Without a length.
    Chunked(Vec<u8>),
    /// So many bytes of it under its length, then the end of the connection.
    Cut(Vec<u8>, usize),
    /// So many bytes of it, and the rest when the gate opens.
    Gated(Vec<u8>, usize, Gate),
    /// So many bytes of it under its length, and the end of the connection when the gate opens.
    GatedCut(Vec<u8>, usize, Gate),
}

/// Keeps answers back until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let _open = self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap();
    }
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let upstream = Self { url, scripts: Arc::default(), asked: Arc::default() };
        let shared = upstream.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let upstream = shared.clone();
                std::thread::spawn(move || upstream.answer(stream));
            }
        });
        upstream
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn set(&self, path: &str, script: Script) {
        self.scripts.lock().unwrap().insert(path.to_owned(), script);
    }

    /// Offers all of a version.
    pub(crate) fn offer(&self, module: &Module) {
        self.set(&module.path("info"), Script::Body(module.info.clone()));
        self.set(&module.path("mod"), Script::Body(module.modfile.clone()));
        self.set(&module.path("zip"), Script::Body(module.zip.clone()));
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// Is how often a path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|request| request.path == path).count()
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let path = line.split(' ').nth(1)?.replace("%21", "!");
            let mut headers = String::new();
            while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
                if reader.read_line(&mut headers).ok()? == 0 {
                    return None;
                }
            }
            // Who is counted gets what was set until then.
            let script = self.scripts.lock().unwrap().get(&path).cloned();
            self.asked.lock().unwrap().push(Request { path, headers });
            perform(script.unwrap_or(Script::Status(404, "text/plain", b"no such thing here\n")), &stream)?;
        }
    }
}

fn perform(script: Script, mut stream: &TcpStream) -> Option<()> {
    match script {
        Script::Body(body) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
            stream.write_all(&body).ok()
        }
        Script::Status(status, content_type, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
            )
            .ok()?;
            stream.write_all(body).ok()
        }
        Script::Chunked(body) => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            for chunk in body.chunks(40_000) {
                write!(stream, "{:x}\r\n", chunk.len()).ok()?;
                stream.write_all(chunk).ok()?;
                write!(stream, "\r\n").ok()?;
            }
            write!(stream, "0\r\n\r\n").ok()
        }
        Script::Cut(body, sent) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
            stream.write_all(&body[..sent]).ok()?;
            stream.shutdown(Shutdown::Both).ok()?;
            None
        }
        Script::Gated(body, sent, gate) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
            stream.write_all(&body[..sent]).ok()?;
            gate.wait();
            stream.write_all(&body[sent..]).ok()
        }
        Script::GatedCut(body, sent, gate) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
            stream.write_all(&body[..sent]).ok()?;
            gate.wait();
            stream.shutdown(Shutdown::Both).ok()?;
            None
        }
    }
}

/// A version made for a test.
#[derive(Clone)]
pub(crate) struct Module {
    pub(crate) version: ModuleVersion,
    pub(crate) info: Vec<u8>,
    pub(crate) modfile: Vec<u8>,
    pub(crate) zip: Vec<u8>,
}

impl Module {
    /// Makes one with this many bytes that do not compress.
    pub(crate) fn new(pair: &str, bytes: usize) -> Self {
        let version = ModuleVersion::parse(pair).unwrap();
        let modfile = format!("module {}\n\ngo 1.21\n", version.path()).into_bytes();
        let noise = noise(bytes);
        let files =
            [("go.mod", modfile.as_slice()), ("m.go", b"package m\n"), ("noise.bin", noise.as_slice())];
        let zip = stoa_gomod::zip::create(&version, files).unwrap();
        let info = format!("{{\"Version\":\"{}\",\"Time\":\"2024-01-02T03:04:05Z\"}}", version.version());
        Self { version, info: info.into_bytes(), modfile, zip }
    }

    /// Is the path of one of its files, as it is asked for.
    pub(crate) fn path(&self, extension: &str) -> String {
        format!("/{}/@v/{}.{extension}", self.version.path().escaped(), self.version.version().escaped())
    }

    /// Is the same, with a byte of the largest file's content turned: the zip rules hold, the CRC does not.
    pub(crate) fn with_bad_crc(mut self) -> Self {
        let middle = self.zip.len() / 2;
        self.zip[middle] ^= 0xff;
        self
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
