//! Lookups in a checksum database, with proof.
//!
//! The answer to a lookup has a record and a signed tree head. The head is merged into the known heads
//! (`timeline`). Then the tiles of the largest head must contain the hash of the record.
//! Proved tiles are cached in memory.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::try_join_all;
use stoa_gomod::ModuleVersion;
use stoa_gomod::sumdb::{Hash, Proof, ProofError, Sums, TILE_HEIGHT, Tile, parse_record, record_hash};
use stoa_store::Store;

use super::state::{Database, Head};
use crate::unavailable::Unavailable;
use crate::upstream::{SumdbAnswer, UpstreamError};

/// A client of a database. If `fresh` is set, caches are bypassed.
pub(super) trait SumdbClient: Sync {
    /// Returns whether there is a server to ask.
    fn is_available(&self) -> impl Future<Output = Result<bool, UpstreamError>> + Send;
    /// Requests a path below the database's name.
    fn get(&self, path: &str, fresh: bool)
    -> impl Future<Output = Result<SumdbAnswer, UpstreamError>> + Send;
    /// Caches a proved answer; a fresh answer replaces a cached one that was wrong.
    fn cache(&self, path: &str, body: &Bytes, fresh: bool) -> impl Future<Output = ()> + Send;
}

/// The proved hashes of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvedSums {
    pub(super) sums: Sums,
    pub(super) tree_size: u64,
    /// The number and the text of the record.
    pub(super) record: (u64, String),
}

/// The reason why a lookup has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LookupError {
    #[error("no upstream forwards it")]
    NotForwarded,
    #[error("it does not know this version")]
    Unknown,
    #[error("{0}")]
    Unreachable(Unavailable),
    /// An answer has no valid proof.
    #[error("invalid {what}: {why}")]
    Bad { what: String, why: String },
    #[error("it has signed two contradicting trees and is no longer trusted")]
    Forked,
    #[error("{0}")]
    Store(Unavailable),
}

impl LookupError {
    pub(super) fn bad(what: impl Display, why: impl Display) -> Self {
        Self::Bad { what: what.to_string(), why: why.to_string() }
    }

    /// Returns the error for a defect of this program.
    pub(super) fn defect() -> Self {
        Self::Store(Unavailable::Broken("a proof of the checksum database".to_owned()))
    }
}

impl From<Unavailable> for LookupError {
    fn from(error: Unavailable) -> Self {
        Self::Store(error)
    }
}

/// A proved hash, and the tiles that prove it.
#[derive(Debug)]
pub(super) struct Proved {
    pub(super) hash: Hash,
    pub(super) tiles: Vec<Bytes>,
}

impl Database {
    /// Looks up the hashes of a version.
    pub(super) async fn look_up(
        &self,
        store: &Arc<Store>,
        client: &impl SumdbClient,
        version: &ModuleVersion,
    ) -> Result<ProvedSums, LookupError> {
        if self.has_forked.load(Ordering::Relaxed) {
            return Err(LookupError::Forked);
        }
        if !client.is_available().await.map_err(|error| self.unreachable(&error))? {
            return Err(LookupError::NotForwarded);
        }
        let path = format!("lookup/{}@{}", version.path().escaped(), version.version().escaped());
        match self.look_up_at(store, client, version, &path, false).await {
            // The cache may be wrong.
            Err(LookupError::Bad { .. }) => self.look_up_at(store, client, version, &path, true).await,
            result => result,
        }
    }

    async fn look_up_at(
        &self,
        store: &Arc<Store>,
        client: &impl SumdbClient,
        version: &ModuleVersion,
        path: &str,
        fresh: bool,
    ) -> Result<ProvedSums, LookupError> {
        let body = match self.get(client, path, fresh).await? {
            Some(body) => body,
            None => return Err(LookupError::Unknown),
        };
        let bad = |why: &str| LookupError::bad("record", why);
        let record = parse_record(&body).ok_or_else(|| bad("it is not a record"))?;
        let head = self.merge(store, client, record.rest).await?;
        self.prove_record(client, &head, record.id, record.text).await?;
        let sums = Sums::parse(record.text, version).ok_or_else(|| bad("it belongs to another version"))?;
        client.cache(path, &body, fresh).await;
        Ok(ProvedSums { sums, tree_size: head.tree.size, record: (record.id, record.text.to_owned()) })
    }

    /// Proves that the tree of a head has a record with this text at this number. Returns the proof with its tiles.
    pub(super) async fn prove_record(
        &self,
        client: &impl SumdbClient,
        head: &Head,
        id: u64,
        text: &str,
    ) -> Result<(Proof, Vec<Bytes>), LookupError> {
        let bad = |why: &str| LookupError::bad("record", why);
        let proof = Proof::of_record(&head.tree, id, TILE_HEIGHT);
        let proof = proof.ok_or_else(|| bad("its number exceeds the size of the tree"))?;
        let proved = self.prove(client, &proof).await?;
        match proved.hash == record_hash(text.as_bytes()) {
            true => Ok((proof, proved.tiles)),
            false => Err(bad("the tree has a different record with this number")),
        }
    }

    /// Proves a hash of the tree. If the proof fails, requests the tiles again, bypassing all caches.
    pub(super) async fn prove(
        &self,
        client: &impl SumdbClient,
        proof: &Proof,
    ) -> Result<Proved, LookupError> {
        match self.prove_by(client, proof, false).await {
            Err(LookupError::Bad { .. }) => self.prove_by(client, proof, true).await,
            proved => proved,
        }
    }

    async fn prove_by(
        &self,
        client: &impl SumdbClient,
        proof: &Proof,
        fresh: bool,
    ) -> Result<Proved, LookupError> {
        let tiles = try_join_all(proof.tiles().iter().map(|tile| self.tile(client, *tile, fresh))).await?;
        let hash = proof.hash(&tiles).map_err(|error: ProofError| LookupError::bad("tiles", error))?;
        for (tile, content) in proof.tiles().iter().zip(&tiles) {
            if fresh || self.tiles.get(tile).is_none() {
                self.tiles.insert(*tile, content.clone());
                client.cache(&tile.path(), content, fresh).await;
            }
        }
        Ok(Proved { hash, tiles })
    }

    async fn tile(&self, client: &impl SumdbClient, tile: Tile, fresh: bool) -> Result<Bytes, LookupError> {
        let whole = Tile { width: 1 << tile.height, ..tile };
        let begin_of = |content: Bytes| match content.len() == whole.width as usize * 32 {
            true => content.slice(..tile.width as usize * 32),
            // A wrong size is detected by the proof.
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
            LookupError::Unreachable(Unavailable::Upstream(
                format!("{} of the checksum database {} is missing", tile.path(), self.sumdb.name()).into(),
            ))
        };
        match self.get(client, &tile.path(), fresh).await? {
            Some(content) => Ok(content),
            // The server may only have the full tile by now.
            None if tile != whole => {
                self.get(client, &whole.path(), fresh).await?.map(begin_of).ok_or_else(missing)
            }
            None => Err(missing()),
        }
    }

    /// Requests a path. Returns `None` if the server answered that it does not exist.
    async fn get(
        &self,
        client: &impl SumdbClient,
        path: &str,
        fresh: bool,
    ) -> Result<Option<Bytes>, LookupError> {
        let answer = client.get(path, fresh).await;
        let what = || format!("{path} of the checksum database {}", self.sumdb.name());
        match answer {
            Ok(SumdbAnswer { status: 200, body, .. }) => Ok(Some(body)),
            Ok(SumdbAnswer { status: 404 | 410, .. }) => Ok(None),
            Ok(SumdbAnswer { status, .. }) => {
                let text = format!("{} failed with status {status}", what());
                Err(LookupError::Unreachable(match status {
                    408 | 504 => Unavailable::Timeout(text.into()),
                    _ => Unavailable::Upstream(text.into()),
                }))
            }
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &UpstreamError) -> LookupError {
        let what = format!("the checksum database {}", self.sumdb.name());
        LookupError::Unreachable(Unavailable::upstream(what, error))
    }
}
