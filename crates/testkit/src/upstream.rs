//! A scripted upstream: an HTTP server on loopback that answers as a test tells it to, and notes what it is asked for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub use crate::module::Module;

/// A running upstream; it ends with the test's process.
#[derive(Clone)]
pub struct Upstream {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
    /// Answers where there is no script for a path.
    handler: Option<Handler>,
}

type Handler = Box<dyn Fn(&Request) -> Script + Send + Sync>;

#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    requests: Vec<Request>,
    /// The ending of those paths that are not answered now.
    held: Option<String>,
    /// The status of all answers, in place of the scripts.
    status: Option<&'static str>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The path, with `!` and `@` not encoded.
    pub path: String,
    /// All header lines.
    pub headers: String,
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// An answer.
#[derive(Clone)]
pub enum Script {
    Body(Vec<u8>),
    Status(u16, &'static str, &'static [u8]),
    /// Without a length.
    Chunked(Vec<u8>),
    /// Some bytes of it under its length, then the end of the connection.
    Cut(Vec<u8>, usize),
    /// Some bytes of it, and the rest when the gate opens.
    Gated(Vec<u8>, usize, Gate),
    /// Some bytes of it under its length, and the end of the connection when the gate opens.
    GatedCut(Vec<u8>, usize, Gate),
    /// Understands `Range` and `If-Range`, and ends each answer after this many bytes of the body.
    Ranged {
        body: Vec<u8>,
        validator: &'static str,
        at_most: usize,
    },
    /// These bytes, head included, then the end of the connection when the gate opens.
    GatedRaw(Vec<u8>, Gate),
    /// The first answer to requests with `Range`, and the second to others.
    ByRange(Box<[Script; 2]>),
    /// This many bytes of it each time, with a pause after each.
    Paced(Vec<u8>, usize, Duration),
    /// Some bytes of it at once, and the rest as `Paced`.
    FastThenSlow(Vec<u8>, usize, usize, Duration),
    /// A status so many times, then an honest body.
    Failing(u16, usize, Vec<u8>),
    /// These bytes, head included, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, then a reset of the connection.
    Reset(Vec<u8>),
    /// These bytes, then nothing more, until the client gives up.
    Stall(Vec<u8>),
    /// These bytes, one after another.
    Slow(Vec<u8>),
    /// These bytes, then one more now and then, for ever.
    Drip(Vec<u8>),
    /// These bytes, then blanks in chunks without an end.
    Flood(Vec<u8>),
}

/// Makes the head of an answer after which the connection ends. Each header ends with `\r\n`.
pub fn head(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

/// Makes an answer whose length is announced, whatever the body's is.
pub fn announced(length: usize, body: &[u8]) -> Vec<u8> {
    [head(200, &format!("Content-Length: {length}\r\n")).as_slice(), body].concat()
}

/// Keeps answers back until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let _open = self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap();
    }
}

impl Upstream {
    /// Starts an upstream that has nothing yet.
    pub fn start() -> Self {
        Self::run(None)
    }

    /// Starts an upstream that answers by a function, where there is no script for a path.
    pub fn with(handler: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Self {
        Self::run(Some(Box::new(handler)))
    }

    fn run(handler: Option<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { handler, ..Shared::default() });
        let upstream = Self { url, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Otherwise the kernel waits for an acknowledgement between the head and the body.
                drop(stream.set_nodelay(true));
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.answer(stream));
            }
        });
        upstream
    }

    /// Returns the URL to give to `--upstream`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sets the answer for a path.
    pub fn set(&self, path: &str, script: Script) {
        self.shared.state.lock().unwrap().scripts.insert(path.to_owned(), script);
    }

    /// Returns the script for a path.
    pub fn script(&self, path: &str) -> Option<Script> {
        self.shared.state.lock().unwrap().scripts.get(path).cloned()
    }

    /// Offers a text at a path.
    pub fn put(&self, path: &str, body: &str) {
        self.set(path, Script::Body(body.as_bytes().to_vec()));
    }

    /// Makes a version with this many incompressible bytes, and offers it and its place in the list.
    pub fn offer(&self, pair: &str, bytes: usize) -> Module {
        let module = Module::new(pair, bytes);
        self.serve(&module);
        let mut state = self.shared.state.lock().unwrap();
        let path = format!("/{}/@v/list", module.version.path().escaped());
        let list = state.scripts.entry(path).or_insert_with(|| Script::Body(Vec::new()));
        if let Script::Body(list) = list {
            list.extend_from_slice(format!("{}\n", module.version.version()).as_bytes());
        }
        module
    }

    /// Offers the three files of a version.
    pub fn serve(&self, module: &Module) {
        for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            self.set(&module.path(extension), Script::Body(body.clone()));
        }
    }

    /// Answers no path with this ending, until [`release`](Self::release).
    pub fn hold(&self, ending: &str) {
        self.shared.state.lock().unwrap().held = Some(ending.to_owned());
    }

    /// Answers all requests that are held.
    pub fn release(&self) {
        self.shared.state.lock().unwrap().held = None;
        self.shared.released.notify_all();
    }

    /// Answers all requests with a status, as in `503 Unavailable`, or by the scripts again.
    pub fn fail(&self, status: Option<&'static str>) {
        self.shared.state.lock().unwrap().status = status;
    }

    /// Waits until paths with this ending were asked for so often.
    pub fn wait_until_asked(&self, ending: &str, times: usize) {
        crate::until(&format!("{times} requests for {ending}"), || self.asked(ending) >= times);
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// Returns how often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.requests_like(|known| known == path)
    }

    /// Returns how often paths with this ending were asked for.
    pub fn asked(&self, ending: &str) -> usize {
        self.requests_like(|known| known.ends_with(ending))
    }

    /// Returns how often paths with this part were asked for.
    pub fn asked_at(&self, part: &str) -> usize {
        self.requests_like(|known| known.contains(part))
    }

    fn requests_like(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        let state = self.shared.state.lock().unwrap();
        state.requests.iter().filter(|request| is_meant(&request.path)).count()
    }
}

impl State {
    /// Chooses the answer to a request, as things are now.
    fn choose(&mut self, request: &Request, handled: Option<Script>) -> Script {
        if let Some(status) = self.status {
            let length = "Content-Length: 8";
            return Script::Raw(
                format!("HTTP/1.1 {status}\r\nConnection: close\r\n{length}\r\n\r\nnot now\n").into_bytes(),
            );
        }
        match self.scripts.get_mut(&request.path) {
            Some(Script::Failing(status, left, body)) => {
                if *left == 0 {
                    return Script::Body(body.clone());
                }
                *left -= 1;
                Script::Status(*status, "text/plain", b"out of order")
            }
            Some(script) => script.clone(),
            None => {
                handled.unwrap_or(Script::Status(404, "text/plain", b"not found: no such version here\n"))
            }
        }
    }
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let request = read(&mut reader)?;
            let handled = self.handler.as_ref().map(|handler| handler(&request));
            let mut state = self.state.lock().unwrap();
            let is_held = |state: &State| {
                state.held.as_ref().is_some_and(|ending| request.path.ends_with(ending.as_str()))
            };
            // A request that is counted gets the answer that was set until then, unless it is held.
            let script = if is_held(&state) {
                state.requests.push(request.clone());
                let mut state = self.released.wait_while(state, |state| is_held(state)).unwrap();
                state.choose(&request, handled)
            } else {
                state.requests.push(request.clone());
                let script = state.choose(&request, handled);
                drop(state);
                script
            };
            perform(script, &request, &stream)?;
            if request.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                return None;
            }
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let method = words.next()?.to_owned();
    let path = words.next()?.replace("%21", "!").replace("%40", "@");
    let mut headers = String::new();
    loop {
        let from = headers.len();
        if reader.read_line(&mut headers).ok()? == 0 {
            return None;
        }
        if &headers[from..] == "\r\n" {
            let mut request = Request { method, path, headers, body: Vec::new() };
            let length = request.header("Content-Length").and_then(|length| length.parse().ok());
            request.body.resize(length.unwrap_or(0), 0);
            reader.read_exact(&mut request.body).ok()?;
            return Some(request);
        }
    }
}

/// Sends an answer. `None` ends the connection.
fn perform(script: Script, request: &Request, mut stream: &TcpStream) -> Option<()> {
    let length = |mut stream: &TcpStream, length: usize| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").ok()
    };
    match script {
        Script::Body(body) => {
            length(stream, body.len())?;
            return stream.write_all(&body).ok();
        }
        Script::Status(status, content_type, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
            )
            .ok()?;
            return stream.write_all(body).ok();
        }
        Script::Chunked(body) => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            for chunk in body.chunks(40_000) {
                write!(stream, "{:x}\r\n", chunk.len()).ok()?;
                stream.write_all(chunk).ok()?;
                write!(stream, "\r\n").ok()?;
            }
            return write!(stream, "0\r\n\r\n").ok();
        }
        Script::Gated(body, sent, gate) => {
            length(stream, body.len())?;
            stream.write_all(&body[..sent]).ok()?;
            gate.wait();
            return stream.write_all(&body[sent..]).ok();
        }
        Script::Cut(body, sent) => {
            length(stream, body.len())?;
            stream.write_all(&body[..sent]).ok()?;
            stream.shutdown(Shutdown::Both).ok()?;
        }
        Script::Ranged { body, validator, at_most } => {
            let (range, condition) = (request.header("Range"), request.header("If-Range"));
            let is_same = condition.is_none_or(|value| validator.ends_with(&format!(": {value}")));
            let from = range.filter(|_| is_same).map(|range| {
                let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                from.expect("a range to the end").parse::<usize>().unwrap()
            });
            let (status, headers) = match from {
                Some(from) if from >= body.len() => {
                    stream.write_all(&head(416, "Content-Length: 0\r\n")).ok()?;
                    return None;
                }
                Some(from) => {
                    let (last, all) = (body.len() - 1, body.len());
                    (206, format!("Content-Range: bytes {from}-{last}/{all}\r\n"))
                }
                None => (200, String::new()),
            };
            let rest = &body[from.unwrap_or(0)..];
            let length = rest.len();
            let head = head(status, &format!("{headers}{validator}\r\nContent-Length: {length}\r\n"));
            stream.write_all(&head).ok()?;
            stream.write_all(&rest[..length.min(at_most)]).ok()?;
            stream.shutdown(Shutdown::Write).ok()?;
        }
        Script::GatedRaw(bytes, gate) => {
            stream.write_all(&bytes).ok()?;
            gate.wait();
            stream.shutdown(Shutdown::Write).ok()?;
        }
        Script::ByRange(answers) => {
            let [ranged, whole] = *answers;
            let chosen = if request.header("Range").is_some() { ranged } else { whole };
            return perform(chosen, request, stream);
        }
        Script::Paced(body, bytes, pause) => {
            return perform(Script::FastThenSlow(body, 0, bytes, pause), request, stream);
        }
        Script::FastThenSlow(body, at_once, bytes, pause) => {
            length(stream, body.len())?;
            stream.write_all(&body[..at_once]).ok()?;
            for piece in body[at_once..].chunks(bytes) {
                stream.write_all(piece).ok()?;
                std::thread::sleep(pause);
            }
        }
        Script::GatedCut(body, sent, gate) => {
            length(stream, body.len())?;
            stream.write_all(&body[..sent]).ok()?;
            gate.wait();
            stream.shutdown(Shutdown::Both).ok()?;
        }
        Script::Raw(bytes) | Script::Failing(_, _, bytes) => {
            stream.write_all(&bytes).ok()?;
            stream.shutdown(Shutdown::Write).ok()?;
        }
        Script::Reset(bytes) => {
            stream.write_all(&bytes).ok()?;
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok()?;
        }
        Script::Stall(bytes) => {
            stream.write_all(&bytes).ok()?;
            let _ = stream.read(&mut [0; 1]);
        }
        Script::Slow(bytes) => {
            for byte in bytes {
                stream.write_all(&[byte]).ok()?;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Script::Drip(bytes) => {
            stream.write_all(&bytes).ok()?;
            loop {
                std::thread::sleep(Duration::from_millis(50));
                stream.write_all(b"x").ok()?;
            }
        }
        Script::Flood(bytes) => {
            stream.write_all(&bytes).ok()?;
            let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).ok()?;
            }
        }
    }
    None
}
