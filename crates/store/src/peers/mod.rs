//! The database of the peers: the state of this deployment towards each of its peers.
//!
//! ```text
//! cache/peers/N/peers.sqlite     the highest number is current; SQLite in WAL mode, which adds -wal and -shm
//! ```
//!
//! It holds the pointers into the logs of the peers, the queue of events that wait for work, the conflicts, and the last
//! contact with each peer. A pointer moves in the transaction that queues the events before it. So the database may be
//! lost as a whole at any time: without a pointer, a peer and this deployment compare all their versions.
//!
//! A server keeps the database open, and checks before each use that it is still the current one. So the database can be
//! deleted beside a running server. The next write creates a new one, and so does every use that finds the
//! database damaged. Reading commands of other processes work beside a server.

mod database;
mod error;
mod queue;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use stoa_gomod::{H1, ModulePath, ModuleVersion, Version};
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use self::database::Database;
pub use self::error::PeersError;
pub use self::queue::{PeerSource, Queued, QueuedKind, RowChange};
pub use self::state::{Conflict, PeerState};
use crate::Store;
use crate::draft::StagedFolder;
use crate::files::lock;
use crate::numbered::{Current, Identity, Numbered};
use crate::paths::Paths;

/// The open databases of the peers in this process.
#[derive(Debug)]
pub(crate) struct OpenPeers {
    databases: Numbered,
    /// Held while a transaction writes. Threads of a process would otherwise wait for each other by polling.
    turn: Mutex<()>,
    idle: Mutex<Vec<(Identity, Database)>>,
    /// The database that was verified.
    verified: Mutex<Option<Identity>>,
}

/// The name of the database in its folder.
const FILE: &str = "peers.sqlite";

/// The folder of the databases, below the root.
const FOLDER: &str = "cache/peers";

/// The maximum number of databases that stay open.
const IDLE: usize = 4;

/// How often the database is used before an error ends the operation: another process may replace it, or write to it
/// while a read-only store reads it.
const ATTEMPTS: u32 = 3;

impl OpenPeers {
    pub(crate) fn new(paths: &Paths) -> Self {
        Self {
            databases: Numbered { folder: paths.root().join(FOLDER), file: FILE },
            turn: Mutex::default(),
            idle: Mutex::default(),
            verified: Mutex::default(),
        }
    }

    /// Returns an open database that is current. Databases that are not current any more are closed.
    fn take(&self, identity: Identity) -> Result<Database, PeersError> {
        let kept = {
            let mut idle = lock(&self.idle);
            for (_, database) in idle.extract_if(.., |(known, _)| *known != identity) {
                database.abandon();
            }
            idle.pop()
        };
        if let Some((_, database)) = kept {
            return Ok(database);
        }
        let path = self.databases.path(identity.number);
        let database = Database::open(&path)?;
        let mut verified = lock(&self.verified);
        if *verified != Some(identity) {
            database.verify(&path)?;
            *verified = Some(identity);
        }
        Ok(database)
    }

    fn put_back(&self, identity: Identity, database: Database) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE {
            idle.push((identity, database));
        }
    }

    /// Closes all databases, because they are not current any more.
    fn abandon(&self) {
        for (_, database) in std::mem::take(&mut *lock(&self.idle)) {
            database.abandon();
        }
        *lock(&self.verified) = None;
    }
}

/// The state of a deployment towards its peers. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Peers<'a>(&'a Store);

impl Store {
    /// Returns the state of this deployment towards its peers.
    pub fn peers(&self) -> Peers<'_> {
        Peers(self)
    }
}

impl Peers<'_> {
    /// Returns the pointers into the logs of a peer: for each ID of an index, the last event that was looked at.
    pub fn pointers(&self, peer: &str) -> Result<BTreeMap<String, u64>, PeersError> {
        self.read(|database| state::pointers(database, peer))
    }

    /// Returns the pointers up to which the work of a peer is done or parked.
    pub fn finished(&self, peer: &str) -> Result<BTreeMap<String, u64>, PeersError> {
        self.read(|database| state::finished(database, peer))
    }

    /// Replaces the pointers into the logs of a peer. A comparison of all versions is due after it.
    pub fn replace_pointers(&self, peer: &str, pointers: &BTreeMap<String, u64>) -> Result<(), PeersError> {
        let now = now();
        self.write(|database| state::replace_pointers(database, peer, pointers, now))
    }

    /// Queues events of a peer and moves the pointer for one of its indexes, in one transaction. `here` are events whose
    /// version is here, `differing` those whose version is here with other content. Both are done. Returns the number of events that are new in the queue.
    ///
    /// A version has at most one published event and one mark of each peer in the queue. An event that is queued already
    /// keeps its attempts, unless it differs. A mark that is lower than the queued one is left out.
    pub fn take_in(
        &self,
        peer: &str,
        pointer: Option<(&str, u64)>,
        events: &[Queued],
        here: &[Queued],
        differing: &[Queued],
    ) -> Result<u64, PeersError> {
        let now = now();
        self.write(|database| queue::take_in(database, peer, pointer, events, (here, differing), now))
    }

    /// Returns up to `limit` queued events of a peer that are due, the longest due first, with the number of their attempts.
    pub fn due(&self, peer: &str, now_ms: i64, limit: usize) -> Result<Vec<(Queued, u32)>, PeersError> {
        self.read(|database| queue::due(database, peer, now_ms, limit))
    }

    /// Returns the first time after `after_ms` at which an event is due. `None` if there is none.
    pub fn next_due(&self, after_ms: i64) -> Result<Option<i64>, PeersError> {
        self.read(|database| queue::next_due(database, after_ms))
    }

    /// Notes that the published events of a version with this hash or without a hash are done, those of every peer: the
    /// version is here.
    pub fn finish(&self, version: &ModuleVersion, h1: &H1) -> Result<(), PeersError> {
        self.write(|database| queue::finish(database, version, h1))
    }

    /// Removes the parked events of a peer.
    pub fn forget_parked(&self, peer: &str) -> Result<(), PeersError> {
        self.write(|database| queue::forget_parked(database, peer))
    }

    /// Removes all published events of a version, so that a later event of it means work: it got a tombstone.
    pub fn forget(&self, version: &ModuleVersion) -> Result<(), PeersError> {
        self.write(|database| queue::forget(database, version))
    }

    /// Notes the result of an attempt. Without effect if another event of the version has replaced this one meanwhile.
    pub fn note_attempt(&self, peer: &str, event: &Queued, change: RowChange<'_>) -> Result<(), PeersError> {
        self.write(|database| queue::change(database, peer, event, &change))
    }

    /// Makes all events of a peer due now, with no attempts. Returns the number of those that were parked or waited.
    pub fn revive(&self, peer: &str) -> Result<u64, PeersError> {
        let now = now();
        self.write(|database| queue::revive(database, peer, now))
    }

    /// Returns the number of queued events of a peer that are not parked.
    pub fn count(&self, peer: &str) -> Result<u64, PeersError> {
        self.read(|database| queue::count(database, peer, false))
    }

    /// Returns the versions of a module that a peer has, that are queued to be fetched and may be listed, ordered.
    pub fn listed(&self, module: &ModulePath) -> Result<Vec<Version>, PeersError> {
        self.read(|database| queue::listed(database, module))
    }

    /// Returns the peers that have a version, with the hashes of its zip and its go.mod as they named them. Events that are
    /// done count too, parked ones do not.
    pub fn sources(&self, version: &ModuleVersion) -> Result<Vec<PeerSource>, PeersError> {
        self.read(|database| queue::sources(database, version))
    }

    /// Notes that a peer has a version with another hash than this deployment. Returns whether that is new.
    pub fn note_conflict(
        &self,
        peer: &str,
        version: &ModuleVersion,
        ours: &H1,
        theirs: &H1,
    ) -> Result<bool, PeersError> {
        let now = now();
        self.write(|database| state::note_conflict(database, peer, version, [ours, theirs], now))
    }

    /// Returns up to `limit` conflicts with a peer or with all peers, sorted by peer, module and version.
    pub fn conflicts(&self, peer: Option<&str>, limit: usize) -> Result<Vec<Conflict>, PeersError> {
        self.read(|database| state::conflicts(database, peer, None, limit))
    }

    /// Returns up to `limit` conflicts with a peer after a version, sorted by module and version as texts.
    pub fn conflicts_after(
        &self,
        peer: &str,
        after: Option<&ModuleVersion>,
        limit: usize,
    ) -> Result<Vec<Conflict>, PeersError> {
        self.read(|database| state::conflicts(database, Some(peer), after, limit))
    }

    /// Removes a conflict.
    pub fn settle_conflict(&self, peer: &str, version: &ModuleVersion) -> Result<(), PeersError> {
        self.write(|database| state::settle_conflict(database, peer, version))
    }

    /// Notes the result of a request to a peer: the ID of its index and the last event in it, or an error.
    pub fn note_contact(&self, peer: &str, result: Result<(&str, u64), &str>) -> Result<(), PeersError> {
        let now = now();
        self.write(|database| state::note_contact(database, peer, result, now))
    }

    /// Notes that all versions were compared with those of a peer now.
    pub fn note_compared(&self, peer: &str) -> Result<(), PeersError> {
        let now = now();
        self.write(|database| state::note_compared(database, peer, now))
    }

    /// Removes everything about all peers but these.
    pub fn keep_only(&self, peers: &[&str]) -> Result<(), PeersError> {
        let peers = serde_json::Value::from(peers).to_string();
        self.write(|database| state::keep_only(database, &peers))
    }

    /// Returns the state towards a peer. Everything is empty for an unknown peer.
    pub fn state(&self, peer: &str) -> Result<PeerState, PeersError> {
        self.read(|database| state::of(database, peer))
    }

    /// Asks the current database. Without a database the answer is that of an empty one.
    fn read<T: Default>(&self, ask: impl Fn(&Database) -> rusqlite::Result<T>) -> Result<T, PeersError> {
        if self.0.is_read_only() {
            return self.read_only(ask);
        }
        let peers = &self.0.peers;
        if matches!(peers.databases.current(true)?, Current::Missing) {
            peers.abandon();
            return Ok(T::default());
        }
        self.ask(ask)
    }

    fn write<T>(&self, change: impl Fn(&Database) -> rusqlite::Result<T>) -> Result<T, PeersError> {
        self.0.check_writable()?;
        let _turn = lock(&self.0.peers.turn);
        self.ask(change)
    }

    /// Uses the current database. A missing or damaged database is replaced by an empty one.
    fn ask<T>(&self, ask: impl Fn(&Database) -> rusqlite::Result<T>) -> Result<T, PeersError> {
        let peers = &self.0.peers;
        let mut attempts = 1..ATTEMPTS;
        loop {
            let before = peers.databases.newest()?;
            let fault = match self.ask_current(&ask) {
                Err(error @ PeersError::Broken { .. }) => error,
                asked => return asked,
            };
            peers.abandon();
            if attempts.next().is_none() {
                return Err(fault);
            }
            if before.is_some() {
                log::warn!(reason:% = fault; "replacing the database of the peers");
            }
            self.renew(before)?;
        }
    }

    fn ask_current<T>(&self, ask: impl Fn(&Database) -> rusqlite::Result<T>) -> Result<T, PeersError> {
        let peers = &self.0.peers;
        let identity = match peers.databases.current(true)? {
            Current::Missing => {
                let path = peers.databases.folder.clone();
                return Err(PeersError::Broken {
                    path,
                    reason: "another program keeps removing it".to_owned(),
                });
            }
            Current::Broken(path, reason) => {
                return Err(PeersError::Broken { path, reason: reason.to_owned() });
            }
            Current::At(identity) => identity,
        };
        let database = peers.take(identity)?;
        let path = peers.databases.path(identity.number);
        let answer = ask(&database).map_err(|source| PeersError::of(&path, source))?;
        peers.put_back(identity, database);
        Ok(answer)
    }

    fn read_only<T: Default>(&self, ask: impl Fn(&Database) -> rusqlite::Result<T>) -> Result<T, PeersError> {
        let databases = &self.0.peers.databases;
        let mut attempts = 1..ATTEMPTS;
        loop {
            let path = match databases.current(false)? {
                Current::Missing => return Ok(T::default()),
                Current::Broken(path, reason) => {
                    return Err(PeersError::Broken { path, reason: reason.to_owned() });
                }
                Current::At(identity) => databases.path(identity.number),
            };
            let asked = Database::open_read_only(&path)
                .and_then(|database| ask(&database).map_err(|source| PeersError::of(&path, source)));
            match asked {
                // A file without a log is read as if nobody wrote to it.
                Err(error) if attempts.next().is_some() => {
                    log::debug!(reason:% = error; "reading the database of the peers again");
                }
                asked => return asked,
            }
        }
    }

    /// Creates an empty database as the next number, unless there is a newer one than `before`.
    fn renew(&self, before: Option<u32>) -> Result<(), PeersError> {
        let store = self.0;
        let databases = &store.peers.databases;
        let aside = StagedFolder::new(store.staging()?.fresh());
        store.durable.create_dir(&aside.path)?;
        let path = aside.path.join(FILE);
        // SQLite gives its other files the owner of this file.
        drop(store.durable.create_file(&path)?);
        Database::create(&path)?;
        // The database is closed, so opening the file here releases no lock of SQLite.
        let file = fs::File::open(&path).at("open", &path)?;
        durable::sync_file(&file, &path)?;
        drop(file);
        durable::sync_dir(&aside.path)?;
        store.durable.ensure_dirs(store.root(), Path::new(FOLDER))?;
        databases.bring_in(aside, before)?;
        self.remove_older();
        Ok(())
    }

    /// Removes all but the current database. A process that still has an older one open loses what it writes
    /// there: pointers and queue together.
    fn remove_older(&self) {
        let databases = &self.0.peers.databases;
        let removed = databases.all().and_then(|mut all| {
            all.pop();
            for number in all {
                let Ok(run) = self.0.staging() else { return Ok(()) };
                let staged = StagedFolder::new(run.fresh());
                match durable::rename(&databases.folder.join(number.to_string()), &staged.path) {
                    // Another process was faster.
                    Err(error) if error.is_not_found() => staged.keep(),
                    renamed => renamed?,
                }
            }
            Ok(())
        });
        if let Err(error) = removed {
            log::warn!(reason:% = error; "cannot remove an older database of the peers");
        }
    }
}

/// Returns the current time in milliseconds since 1970.
fn now() -> i64 {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
}
