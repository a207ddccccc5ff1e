//! A module proxy on loopback that serves modules made here, and counts what it is asked for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use stoa_gomod::ModuleVersion;

/// A running upstream; it ends with the test's process.
pub struct Upstream {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    files: Mutex<HashMap<String, Vec<u8>>>,
    asked: Mutex<HashMap<String, usize>>,
    /// The ending of those paths that are not answered now.
    held: Mutex<Option<String>>,
    released: Condvar,
    /// What everything is answered with, where that is not what it is.
    status: Mutex<Option<&'static str>>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.answer(stream));
            }
        });
        Self { address, state }
    }

    /// Is the URL to give to `--upstream`.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Offers a version with files of this many incompressible bytes in all.
    pub fn offer(&self, pair: &str, bytes: usize) -> Module {
        let module = Module::new(pair, bytes);
        let version = &module.version;
        let base = format!("/{}/@v/{}", version.path().escaped(), version.version().escaped());
        let mut files = self.state.files.lock().unwrap();
        files.insert(format!("{base}.info"), module.info.clone());
        files.insert(format!("{base}.mod"), module.modfile.clone());
        files.insert(format!("{base}.zip"), module.zip.clone());
        let list = files.entry(format!("/{}/@v/list", version.path().escaped())).or_default();
        list.extend_from_slice(format!("{}\n", version.version()).as_bytes());
        module
    }

    /// Lets nobody have a path with this ending, until [`release`](Self::release).
    pub fn hold(&self, ending: &str) {
        *self.state.held.lock().unwrap() = Some(ending.to_owned());
    }

    /// Answers whatever is held.
    pub fn release(&self) {
        *self.state.held.lock().unwrap() = None;
        self.state.released.notify_all();
    }

    /// Waits until a path with this ending was asked for so often.
    pub fn wait_until_asked(&self, ending: &str, times: usize) {
        while self.asked(ending) < times {
            std::thread::yield_now();
        }
    }

    /// Offers a body at a path.
    pub fn put(&self, path: &str, body: &str) {
        self.state.files.lock().unwrap().insert(path.to_owned(), body.as_bytes().to_vec());
    }

    /// Answers everything with a status, as in `503 Unavailable`, or as ever again.
    pub fn fail(&self, status: Option<&'static str>) {
        *self.state.status.lock().unwrap() = status;
    }

    /// Is how often something with this in its path was asked for.
    pub fn asked_at(&self, part: &str) -> usize {
        let asked = self.state.asked.lock().unwrap();
        asked.iter().filter(|(path, _)| path.contains(part)).map(|(_, n)| n).sum()
    }

    /// Is how often a path was asked for.
    pub fn asked(&self, ending: &str) -> usize {
        self.state
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(path, _)| path.ends_with(ending))
            .map(|(_, n)| n)
            .sum()
    }
}

impl State {
    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let path = line.split(' ').nth(1)?.replace("%21", "!");
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok()?;
                if header.trim().is_empty() {
                    break;
                }
            }
            *self.asked.lock().unwrap().entry(path.clone()).or_default() += 1;
            let is_held =
                |held: &mut Option<String>| held.as_ref().is_some_and(|ending| path.ends_with(ending));
            drop(self.released.wait_while(self.held.lock().unwrap(), is_held).unwrap());
            let body = self.files.lock().unwrap().get(&path).cloned();
            let fails = *self.status.lock().unwrap();
            let (status, body) = match (fails, body) {
                (Some(status), _) => (status, b"not now\n".to_vec()),
                (None, Some(body)) => ("200 OK", body),
                (None, None) => ("404 Not Found", b"not found: no such version here\n".to_vec()),
            };
            write!(writer, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
            writer.write_all(&body).ok()?;
        }
    }
}

/// A module version made for a test.
pub struct Module {
    pub version: ModuleVersion,
    pub info: Vec<u8>,
    pub modfile: Vec<u8>,
    pub zip: Vec<u8>,
}

impl Module {
    pub fn new(pair: &str, bytes: usize) -> Self {
        let version = ModuleVersion::parse(pair).expect("a valid pair");
        let modfile = format!("module {}\n\ngo 1.21\n", version.path()).into_bytes();
        let noise = noise(pair, bytes);
        let files = [
            ("go.mod", modfile.as_slice()),
            ("m.go", b"package m\n\nconst Answer = 42\n".as_slice()),
            ("noise.bin", noise.as_slice()),
        ];
        let zip = stoa_gomod::zip::create(&version, files).expect("valid files");
        let info = format!("{{\"Version\":\"{}\",\"Time\":\"2024-01-02T03:04:05Z\"}}", version.version());
        Self { version, info: info.into_bytes(), modfile, zip }
    }

    /// Puts the version into a store as a migration does: whole, and not sealed.
    pub fn put_unsealed(&self, root: &std::path::Path) -> std::path::PathBuf {
        let (path, version) = (self.version.path().escaped(), self.version.version().escaped());
        let folder = root.join("modules").join(path).join("@v").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in [("mod", &self.modfile), ("zip", &self.zip), ("info", &self.info)] {
            std::fs::write(folder.join(name), content).unwrap();
        }
        folder
    }
}

impl Module {
    /// Puts the version into an Athens disk store.
    pub fn put_v0(&self, root: &std::path::Path) -> std::path::PathBuf {
        let version = self.version.version().as_str();
        let folder = root.join(self.version.path().as_str()).join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("go.mod"), &self.modfile).unwrap();
        std::fs::write(folder.join("source.zip"), &self.zip).unwrap();
        std::fs::write(folder.join(format!("{version}.info")), &self.info).unwrap();
        folder
    }

    /// Puts the version into a GOPROXY file tree at `base`: the root of a tree, or `modules` at layout v1.
    pub fn put_flat(&self, base: &std::path::Path) -> std::path::PathBuf {
        let folder = base.join(self.version.path().escaped()).join("@v");
        std::fs::create_dir_all(&folder).unwrap();
        for (ending, content) in [("mod", &self.modfile), ("zip", &self.zip), ("info", &self.info)] {
            let name = format!("{}.{ending}", self.version.version().escaped());
            std::fs::write(folder.join(name), content).unwrap();
        }
        folder
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut state = seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
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
