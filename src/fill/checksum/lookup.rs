//! Looking a version up in a checksum database, and believing nothing that its tiles do not prove.
//!
//! A lookup answers with a record and a signed head of the tree. The head is merged into what is known
//! ([`timeline`](super::timeline)); then the tiles of the largest head must hold the hash of the record. Tiles that
//! were proved once are kept in memory.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use stoa_gomod::ModuleVersion;
use stoa_gomod::sumdb::{Hash, Proof, ProofError, Sums, TILE_HEIGHT, Tile, parse_record, record_hash};
use stoa_store::{Store, StoreError};

use super::Database;
use crate::fill::FillError;
use crate::upstream::{SumdbAnswer, UpstreamError};

/// Asks a database; what is cached may be answered from the cache unless it must be fresh.
pub(super) trait Ask: Sync {
    /// Whether there is anybody to ask.
    fn is_possible(&self) -> impl Future<Output = Result<bool, UpstreamError>> + Send;
    /// Asks for a path below the database's name.
    fn ask(&self, path: &str, fresh: bool)
    -> impl Future<Output = Result<SumdbAnswer, UpstreamError>> + Send;
    /// Keeps an answer that was proved; one that had to be fresh takes the place of what proved wrong.
    fn keep(&self, path: &str, body: &Bytes, fresh: bool) -> impl Future<Output = ()> + Send;
}

/// What a database holds for a version, proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sums: Sums,
    pub(super) tree_size: u64,
}

/// Why a database did not say what it holds for a version.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LookupError {
    #[error("no upstream passes it on")]
    NotPassedOn,
    #[error("it does not know this version")]
    Unknown,
    #[error("{0}")]
    Unreachable(FillError),
    /// What was answered is not proved: somebody lies, or is broken.
    #[error("{what} that came for it is not to be believed: {why}")]
    Bad { what: String, why: String },
    #[error("it has signed two trees that do not agree, and is not believed any more")]
    Forked,
    #[error("{0}")]
    Store(FillError),
}

impl LookupError {
    pub(super) fn bad(what: impl Display, why: impl Display) -> Self {
        Self::Bad { what: what.to_string(), why: why.to_string() }
    }

    /// What cannot be, unless something here is wrong.
    pub(super) fn broken() -> Self {
        Self::Store(FillError::Broken("a proof of the checksum database".to_owned()))
    }
}

impl From<StoreError> for LookupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// A hash that was proved, and the tiles that prove it.
#[derive(Debug)]
pub(super) struct Proved {
    pub(super) hash: Hash,
    pub(super) tiles: Vec<Bytes>,
}

impl Database {
    /// Finds what the database holds for a version.
    pub(super) async fn look_up(
        &self,
        store: &Arc<Store>,
        ask: &impl Ask,
        version: &ModuleVersion,
    ) -> Result<Found, LookupError> {
        if self.has_forked.load(Ordering::Relaxed) {
            return Err(LookupError::Forked);
        }
        if !ask.is_possible().await.map_err(|error| self.unreachable(&error))? {
            return Err(LookupError::NotPassedOn);
        }
        let path = format!("lookup/{}@{}", version.path().escaped(), version.version().escaped());
        match self.look_up_at(store, ask, version, &path, false).await {
            // It may be the cache that is wrong.
            Err(LookupError::Bad { .. }) => self.look_up_at(store, ask, version, &path, true).await,
            found => found,
        }
    }

    async fn look_up_at(
        &self,
        store: &Arc<Store>,
        ask: &impl Ask,
        version: &ModuleVersion,
        path: &str,
        fresh: bool,
    ) -> Result<Found, LookupError> {
        let body = match self.get(ask, path, fresh).await? {
            Some(body) => body,
            None => return Err(LookupError::Unknown),
        };
        let bad = |why: &str| LookupError::bad("the record", why);
        let record = parse_record(&body).ok_or_else(|| bad("it is none"))?;
        let head = self.merge(store, ask, record.rest).await?;
        let proof = Proof::of_record(&head.tree, record.id, TILE_HEIGHT);
        let proof = proof.ok_or_else(|| bad("the tree has not so many"))?;
        if self.prove(ask, &proof).await?.hash != record_hash(record.text.as_bytes()) {
            return Err(bad("the tree has another one in its place"));
        }
        let sums = Sums::parse(record.text, version).ok_or_else(|| bad("it is of another version"))?;
        ask.keep(path, &body, fresh).await;
        Ok(Found { sums, tree_size: head.tree.size })
    }

    /// Proves a hash of the tree. Tiles that prove nothing are asked for once more, past every cache.
    pub(super) async fn prove(&self, ask: &impl Ask, proof: &Proof) -> Result<Proved, LookupError> {
        match self.prove_by(ask, proof, false).await {
            Err(LookupError::Bad { .. }) => self.prove_by(ask, proof, true).await,
            proved => proved,
        }
    }

    async fn prove_by(&self, ask: &impl Ask, proof: &Proof, fresh: bool) -> Result<Proved, LookupError> {
        let asked = proof.tiles().iter().map(|tile| Box::pin(self.tile(ask, *tile, fresh))).collect();
        let tiles = all(asked).await.into_iter().collect::<Result<Vec<Bytes>, _>>()?;
        let hash = proof.hash(&tiles).map_err(|error: ProofError| LookupError::bad("the tiles", error))?;
        for (tile, content) in proof.tiles().iter().zip(&tiles) {
            if fresh || self.tiles.get(tile).is_none() {
                self.tiles.insert(*tile, content.clone());
                ask.keep(&tile.path(), content, fresh).await;
            }
        }
        Ok(Proved { hash, tiles })
    }

    async fn tile(&self, ask: &impl Ask, tile: Tile, fresh: bool) -> Result<Bytes, LookupError> {
        let whole = Tile { width: 1 << tile.height, ..tile };
        let begin_of = |content: Bytes| match content.len() == whole.width as usize * 32 {
            true => content.slice(..tile.width as usize * 32),
            // Its size will tell that it is wrong.
            false => content,
        };
        if !fresh {
            if let Some(content) = self.tiles.get(&tile) {
                return Ok(content);
            }
            if let Some(content) = self.tiles.get(&whole) {
                return Ok(begin_of(content));
            }
        }
        let missing = || {
            LookupError::Unreachable(FillError::Upstream(
                format!("{} of the checksum database {} is not to be had", tile.path(), self.sumdb.name())
                    .into(),
            ))
        };
        match self.get(ask, &tile.path(), fresh).await? {
            Some(content) => Ok(content),
            // The beginning of one that is whole by now.
            None if tile != whole => {
                self.get(ask, &whole.path(), fresh).await?.map(begin_of).ok_or_else(missing)
            }
            None => Err(missing()),
        }
    }

    /// Gets a path. `None` if it was answered that there is no such thing.
    async fn get(&self, ask: &impl Ask, path: &str, fresh: bool) -> Result<Option<Bytes>, LookupError> {
        let answer = ask.ask(path, fresh).await;
        let what = || format!("{path} of the checksum database {}", self.sumdb.name());
        match answer {
            Ok(SumdbAnswer { status: 200, body, .. }) => Ok(Some(body)),
            Ok(SumdbAnswer { status: 404 | 410, .. }) => Ok(None),
            Ok(SumdbAnswer { status, .. }) => {
                let text = format!("{} was answered with status {status}", what());
                Err(LookupError::Unreachable(match status {
                    408 | 504 => FillError::Timeout(text.into()),
                    _ => FillError::Upstream(text.into()),
                }))
            }
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &UpstreamError) -> LookupError {
        let what = format!("the checksum database {}", self.sumdb.name());
        LookupError::Unreachable(FillError::upstream(what, error))
    }
}

/// Waits for all of some futures at once.
async fn all<F: Future>(futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (future, None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut waiting {
            if output.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        match waiting.iter().all(|(_, output)| output.is_some()) {
            true => Poll::Ready(waiting.iter_mut().filter_map(|(_, output)| output.take()).collect()),
            false => Poll::Pending,
        }
    })
    .await
}
