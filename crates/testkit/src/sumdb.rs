//! An upstream on loopback that serves modules made here and passes a checksum database on, whose key is made here.
//!
//! Unlike a real one it can lie in every way that a test needs.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use stoa_gomod::sumdb::{Hash, Level, Tile, format_record, key_hash, node_hash, record_hash};
use stoa_gomod::{ModuleVersion, h1};

use super::Module;
use super::upstream::{Script, Upstream};

/// The name of the database.
pub const NAME: &str = "sum.example.org/test";

/// A running site; it ends with the test's process.
pub struct Site {
    upstream: Upstream,
    state: Arc<Mutex<State>>,
    held: Arc<Held>,
}

/// A part of those paths that are not answered now.
#[derive(Default)]
struct Held(Mutex<Option<String>>, Condvar);

/// The answers of the site.
#[derive(Default)]
pub struct State {
    /// Bodies by path.
    pub files: HashMap<String, Vec<u8>>,
    /// The records of the database.
    pub records: Vec<(String, String)>,
    /// How many records the heads that are given out say there are, if not all.
    pub signed: Option<usize>,
    /// Whether it passes the database on.
    pub passes_on: bool,
    /// Whether what is asked for the database is answered with 500.
    pub is_down: bool,
    /// Flips a bit of every signature.
    pub forges_signatures: bool,
    /// Flips a bit of every tile.
    pub forges_tiles: bool,
    /// Flips a bit of the hash in every record.
    pub forges_records: bool,
    /// The paths that were asked for.
    pub asked: Vec<String>,
}

impl Site {
    /// Starts one whose database has some records of other modules.
    pub fn start(others: usize) -> Self {
        let state = Arc::new(Mutex::new(State { passes_on: true, ..State::default() }));
        let held = Arc::<Held>::default();
        let shared = (Arc::clone(&state), Arc::clone(&held));
        let upstream = Upstream::with(move |request| {
            let (state, held) = &shared;
            let is_held =
                |held: &mut Option<String>| held.as_ref().is_some_and(|part| request.path.contains(part));
            drop(held.1.wait_while(held.0.lock().unwrap(), is_held).unwrap());
            state.lock().unwrap().answer(&request.path)
        });
        let site = Self { upstream, state, held };
        site.add_others(others);
        site
    }

    /// Returns the URL to give to `--upstream`; the database alone is at `db` below it.
    pub fn url(&self) -> &str {
        self.upstream.url()
    }

    /// Locks the answers of the site, to change them.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Answers nothing with this in its path, until [`release`](Self::release).
    pub fn hold(&self, part: &str) {
        *self.held.0.lock().unwrap() = Some(part.to_owned());
    }

    /// Answers whatever is held.
    pub fn release(&self) {
        *self.held.0.lock().unwrap() = None;
        self.held.1.notify_all();
    }

    /// Offers a version, which the database does not know.
    pub fn offer(&self, pair: &str) -> Module {
        let module = Module::new(pair, 20_000);
        self.put(&module);
        module
    }

    /// Offers these files as those of a version.
    pub fn put(&self, module: &Module) {
        let version = &module.version;
        let base = format!("/{}/@v/{}", version.path().escaped(), version.version().escaped());
        let mut state = self.state();
        for (ending, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            state.files.insert(format!("{base}.{ending}"), body.clone());
        }
    }

    /// Lets the database know a version.
    pub fn record(&self, module: &Module) {
        let Module { version, modfile, zip, .. } = module;
        let zip = stoa_gomod::zip::examine(&zip.as_slice(), version).expect("a whole zip").h1;
        let (path, number) = (version.path(), version.version());
        let modfile = h1::hash_mod(modfile);
        let text = format!("{path} {number} {zip}\n{path} {number}/go.mod {modfile}\n");
        self.state().records.push((key(version), text));
    }

    /// Lets the database grow.
    pub fn add_others(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            let n = state.records.len();
            state.records.push((n.to_string(), format!("example.org/other{n} v1.0.0 h1:x\n")));
        }
    }

    /// How often a path with this in it was asked for.
    pub fn asked(&self, part: &str) -> usize {
        self.state().asked.iter().filter(|path| path.contains(part)).count()
    }
}

/// Returns the value for `--gosumdb`.
pub fn verifier_key() -> String {
    format!("{NAME}+{:08x}+{}", key_hash(NAME, &public_key()), STANDARD.encode(public_key()))
}

fn key(version: &ModuleVersion) -> String {
    format!("{}@{}", version.path().escaped(), version.version().escaped())
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public_key() -> Vec<u8> {
    [vec![1], signing_key().verifying_key().as_bytes().to_vec()].concat()
}

impl State {
    fn answer(&mut self, path: &str) -> Script {
        self.asked.push(path.to_owned());
        let absent = Script::Status(404, "text/plain", b"not found: no such thing here\n");
        let passed_on = path.strip_prefix(&format!("/sumdb/{NAME}/")).filter(|_| self.passes_on);
        let body = match passed_on.or_else(|| path.strip_prefix("/db/")) {
            Some(_) if self.is_down => return Script::Status(500, "text/plain", b""),
            Some("supported") => Some(Vec::new()),
            Some(rest) => match rest.strip_prefix("lookup/") {
                Some(version) => self.look_up(version),
                None => self.tile(rest),
            },
            None => self.files.get(path).cloned(),
        };
        body.map_or(absent, Script::Body)
    }

    fn size(&self) -> usize {
        self.signed.unwrap_or(self.records.len())
    }

    fn look_up(&self, version: &str) -> Option<Vec<u8>> {
        let id = self.records[..self.size()].iter().position(|(key, _)| key == version)?;
        let mut text = self.records[id].1.clone();
        if self.forges_records {
            text = text.replacen("h1:", "h1:A", 1);
        }
        Some((format_record(id as u64, &text)? + &self.head()).into_bytes())
    }

    /// A signed head.
    fn head(&self) -> String {
        let levels = self.levels();
        let mut hash: Option<Hash> = None;
        for (level, hashes) in levels.iter().enumerate() {
            // A row of whole subtrees, one for each bit of the size.
            if self.size() >> level & 1 == 1 {
                let left = hashes[(self.size() >> level) - 1];
                hash = Some(hash.map_or(left, |right| node_hash(&left, &right)));
            }
        }
        let root = STANDARD.encode(hash.expect("a database has records"));
        let text = format!("go.sum database tree\n{}\n{root}\n", self.size());
        let mut signature = key_hash(NAME, &public_key()).to_be_bytes().to_vec();
        signature.extend(signing_key().sign(text.as_bytes()).to_bytes());
        if self.forges_signatures {
            signature[20] ^= 1;
        }
        format!("{text}\n\u{2014} {NAME} {}\n", STANDARD.encode(signature))
    }

    fn tile(&self, path: &str) -> Option<Vec<u8>> {
        let tile = Tile::parse(path)?;
        let Level::Hashes(level) = tile.level else { return None };
        let first = (tile.index << tile.height) as usize;
        let levels = self.levels();
        let level = levels.get(level as usize * 8)?;
        // As databases may: what is whole by now is to be had whole.
        if !tile.is_whole() && level.len() >= first + (1 << tile.height) {
            return None;
        }
        let hashes = level.get(first..first + tile.width as usize)?;
        let mut body = hashes.concat();
        if self.forges_tiles {
            body[3] ^= 4;
        }
        Some(body)
    }

    fn levels(&self) -> Vec<Vec<Hash>> {
        let leaves = self.records.iter().map(|(_, text)| record_hash(text.as_bytes()));
        let mut levels = vec![leaves.collect::<Vec<_>>()];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            levels
                .push(below.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect());
        }
        levels
    }
}
