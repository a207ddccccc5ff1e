//! The database's answers about some versions, as files: for an export, and from a tree or a module cache.
//!
//! ```text
//! sumdb/NAME/supported            empty
//! sumdb/NAME/latest               the tree head of all records below
//! sumdb/NAME/lookup/PATH@VERSION  a record, with that head
//! sumdb/NAME/tile/8/…             the tiles that prove the records, and the heads of earlier exports
//! ```
//!
//! A client that begins with these files needs no other: all records carry one head, so no two heads must be compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use stoa_gomod::ModuleVersion;
use stoa_gomod::sumdb::{Proof, TILE_HEIGHT, Tile, format_record, parse_record};

use super::inquiry::Verified;
use super::lookup::{LookupError, SumdbClient};
use super::question::SumdbQuestion;
use super::source::CachingClient;
use super::state::{Database, Standing, Sumdb};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::{SumdbAnswer, UpstreamError, Via};

/// A record of the database: its number and its text.
type Text = (u64, String);

/// The records to carry, by their path below the database's name.
#[derive(Debug, Default)]
pub(crate) struct Records {
    texts: BTreeMap<String, Text>,
    /// Whether the database could not be reached. Then only the cache is read, since each attempt may take long.
    is_unreachable: Arc<AtomicBool>,
}

impl Records {
    /// Adds the body of an earlier lookup, unless it is malformed.
    pub(crate) fn add_body(&mut self, path: String, body: &[u8]) {
        if let Some(record) = parse_record(body) {
            self.texts.insert(path, (record.id, record.text.to_owned()));
        }
    }
}

/// The number of records that were carried, and the reasons for the others.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) records: u64,
    pub(crate) failed: Vec<(String, String)>,
}

impl Sumdb {
    /// Returns the name of the database, if there is one.
    pub(crate) fn database_name(&self) -> Option<&str> {
        Some(self.database.as_ref()?.sumdb.name())
    }

    /// Adds the record of a version, from the cache or from the database. Returns the reason if there is none.
    pub(crate) async fn find_record(
        &self,
        version: &ModuleVersion,
        records: &mut Records,
    ) -> Result<(), String> {
        let Some(database) = &self.database else { return Ok(()) };
        let question = SumdbQuestion::Lookup(version.clone());
        if let Some(cached) = self.cached(database.sumdb.name(), &question).await {
            records.add_body(question.path(), &cached.body);
            return Ok(());
        }
        let via = Via::none();
        let caching = self.caching(database, &self.policy.load().rule(version.path()).upstream, &via);
        let client = Carrier { caching, is_unreachable: Arc::clone(&records.is_unreachable) };
        let found =
            database.look_up(&self.store, &client, version).await.map_err(|error| error.to_string())?;
        records.texts.insert(question.path(), found.record);
        Ok(())
    }

    /// Proves records under the largest known head, and hands the files to `put`, with their paths below the database's
    /// name. `previous` is the head of an earlier export to the same place. Clients that know this head, or the head of
    /// another export of this store, can prove that the new head extends it.
    pub(crate) async fn carry<E>(
        &self,
        records: &Records,
        previous: Option<&[u8]>,
        mut put: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<Carried, E> {
        let mut carried = Carried::default();
        let Some(database) = &self.database else { return Ok(carried) };
        let via = Via::none();
        let caching = self.caching(database, self.policy.load().upstream_of_none(), &via);
        let client = Carrier { caching, is_unreachable: Arc::clone(&records.is_unreachable) };
        let failed = |path: &str, error: LookupError| (path.to_owned(), error.to_string());
        let previous = match previous {
            Some(note) => match database.merge(&self.store, &client, note).await {
                Ok(_) => database.open(note).ok(),
                Err(error) => {
                    carried.failed.push(failed("latest", error));
                    None
                }
            },
            None => None,
        };
        let head = match database.largest(&self.store, &client).await {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(carried),
            Err(error) => {
                carried.failed.push(failed("latest", error));
                return Ok(carried);
            }
        };
        let mut earlier = match self.exported(database).await {
            Ok(sizes) => sizes,
            Err(error) => {
                carried.failed.push(("latest".to_owned(), error.to_string()));
                Vec::new()
            }
        };
        earlier.extend(previous.map(|previous| previous.tree.size));
        for size in earlier.into_iter().rev().filter(|size| *size < head.tree.size) {
            let proved = match Proof::of_prefix(&head.tree, size, TILE_HEIGHT) {
                Some(proof) => database.prove(&client, &proof).await.map(|proved| (proof, proved)),
                None => Err(LookupError::defect()),
            };
            match proved {
                Ok((proof, proved)) => put_tiles(&proof, &proved.tiles, &mut put)?,
                Err(error) => {
                    carried.failed.push(failed("latest", error));
                    break;
                }
            }
        }
        for (path, (id, text)) in &records.texts {
            let proved = database.prove_record(&client, &head, *id, text).await;
            let proved = proved.and_then(|(proof, tiles)| {
                let body = format_record(*id, text);
                let body = body.ok_or_else(|| LookupError::bad("record", "it is not a record"))?;
                Ok((proof, tiles, body))
            });
            match proved {
                Ok((proof, tiles, body)) => {
                    put_tiles(&proof, &tiles, &mut put)?;
                    put(path, &[body.as_bytes(), &head.note].concat())?;
                    carried.records += 1;
                }
                Err(error) => carried.failed.push(failed(path, error)),
            }
        }
        if carried.records > 0 {
            // First, since clients may know the head as soon as it is exported.
            self.note_exported(database, head.tree.size).await;
            put("latest", &head.note)?;
            put("supported", b"")?;
        }
        Ok(carried)
    }

    async fn exported(&self, database: &Database) -> Result<Vec<u64>, Unavailable> {
        let name = database.sumdb.name().to_owned();
        blocking(&self.store, "earlier exports", move |store| store.tree_heads().exported(&name)).await
    }

    async fn note_exported(&self, database: &Database, size: u64) {
        if self.store.is_read_only() {
            return;
        }
        let name = database.sumdb.name().to_owned();
        let noted =
            blocking(&self.store, "an export", move |store| store.tree_heads().note_exported(&name, size));
        if let Err(error) = noted.await {
            log::warn!(reason:% = error; "cannot record an export: later exports may lack the proofs that clients of this export need");
        }
    }

    /// Takes the record of a version from a folder, with its proof, into the cache. Compares the stored version with it.
    pub(crate) async fn take_record(
        &self,
        folder: &Path,
        version: &ModuleVersion,
    ) -> Result<Standing, Unavailable> {
        let Some(database) = &self.database else { return Ok(Standing::NotAsked) };
        if !self.may_ask_about(version) {
            return Ok(Standing::NotAsked);
        }
        let via = Via::none();
        let caching = self.caching(database, self.policy.load().upstream_of_none(), &via);
        let client = FolderClient { folder, caching };
        match database.look_up(&self.store, &client, version).await {
            Ok(proved) => {
                let verified = Verified::proved(database.sumdb.name(), proved);
                self.settle_if_stored(version, verified).await
            }
            Err(LookupError::Store(error)) => Err(error),
            Err(error) => Ok(Standing::Unconfirmed(error.to_string().into())),
        }
    }
}

fn put_tiles<E>(
    proof: &Proof,
    contents: &[Bytes],
    put: &mut impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    proof.tiles().iter().zip(contents).try_for_each(|(tile, content)| put(&Tile::path(tile), content))
}

/// Answers from the cache, and asks the database only for answers that are missing there.
struct Carrier<'a> {
    caching: CachingClient<'a>,
    is_unreachable: Arc<AtomicBool>,
}

impl Carrier<'_> {
    async fn request(&self, path: &str) -> Result<SumdbAnswer, UpstreamError> {
        if !self.is_unreachable.load(Ordering::Relaxed) && self.caching.is_available().await? {
            return self.caching.get(path, true).await;
        }
        Ok(SumdbAnswer { status: 404, content_type: None, body: Bytes::new() })
    }
}

impl SumdbClient for Carrier<'_> {
    async fn is_available(&self) -> Result<bool, UpstreamError> {
        Ok(true)
    }

    async fn get(&self, path: &str, fresh: bool) -> Result<SumdbAnswer, UpstreamError> {
        if !fresh && let Some(body) = self.caching.cached(path).await {
            return Ok(SumdbAnswer { status: 200, content_type: None, body });
        }
        let answer = self.request(path).await;
        if answer.as_ref().is_err_and(|error| !error.is_absent()) {
            self.is_unreachable.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn cache(&self, path: &str, body: &Bytes, fresh: bool) {
        self.caching.cache(path, body, fresh).await;
    }
}

/// Answers from the files of a folder, and from the cache.
struct FolderClient<'a> {
    folder: &'a Path,
    caching: CachingClient<'a>,
}

impl SumdbClient for FolderClient<'_> {
    async fn is_available(&self) -> Result<bool, UpstreamError> {
        Ok(true)
    }

    async fn get(&self, path: &str, fresh: bool) -> Result<SumdbAnswer, UpstreamError> {
        let file: PathBuf = self.folder.join(path);
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        let body = match read.ok().flatten() {
            Some(body) => Some(body),
            None if !fresh => self.caching.cached(path).await,
            None => None,
        };
        let status = if body.is_some() { 200 } else { 404 };
        Ok(SumdbAnswer { status, content_type: None, body: body.unwrap_or_default() })
    }

    async fn cache(&self, path: &str, body: &Bytes, fresh: bool) {
        self.caching.cache(path, body, fresh).await;
    }
}

/// More than the size of any answer that is carried.
const FILE_LIMIT: u64 = 1 << 20;

/// Reads a small file. Returns `None` if it cannot be read or is no small file.
fn read(path: &Path) -> Option<Bytes> {
    let is_small = |meta: &std::fs::Metadata| meta.is_file() && meta.len() <= FILE_LIMIT;
    std::fs::symlink_metadata(path).ok().filter(is_small)?;
    std::fs::read(path).ok().map(Bytes::from)
}
