//! Checksum databases, passed on to clients and cached.
//!
//! | answer | lifetime in the cache |
//! | --- | --- |
//! | tile | the widest version seen. A database only grows, so a narrower tile is a prefix of a wider one |
//! | record (`lookup`) | unlimited, within the size of the cache: signed records do not change |
//! | tile or record that no download has proved | 10 minutes ([`UNPROVED_TTL`]), since it may be damaged and clients have no other source. Longer if the upstream fails |
//! | latest tree head | as long as a list. Longer if the upstream fails |
//! | head, or record with a head, with a wrong signature, if the key is known | not cached |
//! | any status but 200 | not cached |
//!
//! Proved answers have cache keys of their own and take precedence.
//!
//! A client with an empty cache can therefore verify offline everything that was verified through this
//! proxy before. Bodies are passed on unchanged; clients check signatures and inclusion themselves. A tile
//! or record must have the right form ([`shape`]): an HTML page with status 200 is a failure of the
//! upstream and is not cached.
//!
//! `supported` is a promise, since a client that gets a yes asks no other server. Stoa says yes if an
//! upstream does. Offline, or if the upstream fails, Stoa says yes if it has cached records of the
//! database.
//!
//! Lookups of modules that match [`sumdb_refuse`](super::AnswerOptions::sumdb_refuse) or are private by
//! their rule ([`Policy::is_private`](super::Policy::is_private)) are refused, cached or not.

mod shape;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use stoa_gomod::private::Patterns;
use stoa_gomod::sumdb::{Level, Tile, parse_record};
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::{Cached, Shelf};

use super::answers::AnswerOptions;
use super::checksum::SumdbSource;
use super::once::Once;
use super::{Fill, FillError, Phase, SumdbAnswer, Via};

/// How long a record or tile that no download has proved counts as fresh.
const UNPROVED_TTL: Duration = Duration::from_secs(10 * 60);

/// A request to a checksum database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SumdbQuestion {
    /// The latest tree head.
    Latest,
    /// The record of a version.
    Lookup(ModuleVersion),
    /// A tile of the tree.
    Tile(Tile),
}

impl SumdbQuestion {
    /// Parses the path below the name of the database.
    pub(super) fn parse(path: &str) -> Option<Self> {
        if let Some(pair) = path.strip_prefix("lookup/") {
            let (module, version) = pair.split_once('@')?;
            let (module, version) = (ModulePath::unescape(module).ok()?, Version::unescape(version).ok()?);
            return Some(Self::Lookup(ModuleVersion::new(module, version).ok()?));
        }
        match path {
            "latest" => Some(Self::Latest),
            _ => Tile::parse(path).map(Self::Tile),
        }
    }

    /// Returns the path below the name of the database.
    fn path(&self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Lookup(module) => {
                format!("lookup/{}@{}", module.path().escaped(), module.version().escaped())
            }
            Self::Tile(tile) => tile.path(),
        }
    }

    /// Returns the shelf and the key of the cached answer, proved or not. All widths of a tile share the
    /// key of the full tile.
    fn cache_key<'n>(&self, database: &'n str, is_proved: bool) -> (Shelf<'n>, String) {
        let (shelf, path) = match self {
            Self::Latest | Self::Lookup(_) => (Shelf::Records(database), self.path()),
            Self::Tile(tile) => {
                let whole = Tile { width: 1 << tile.height, ..*tile };
                (Shelf::Tiles(database), whole.path())
            }
        };
        (shelf, if is_proved { path + " proved" } else { path })
    }

    /// Extracts the answer from a cached body.
    fn answer(&self, cached: Bytes) -> Option<Bytes> {
        match self {
            Self::Latest | Self::Lookup(_) => Some(cached),
            Self::Tile(Tile { level: Level::Data, .. }) if !self.is_cacheable() => None,
            Self::Tile(Tile { level: Level::Data, .. }) => Some(cached),
            Self::Tile(tile) => {
                let wanted = shape::tile_bytes(tile);
                (cached.len() >= wanted).then(|| cached.slice(..wanted))
            }
        }
    }

    /// Returns the signed note in an answer, if it has one.
    fn note<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        match self {
            Self::Latest => Some(body),
            Self::Lookup(_) => Some(parse_record(body).map_or(&[], |record| record.rest)),
            Self::Tile(_) => None,
        }
    }

    /// Returns whether an answer may be cached: it never changes, or the newer of two answers is recognizable.
    fn is_cacheable(&self) -> bool {
        match self {
            Self::Latest | Self::Lookup(_) => true,
            // No client requests a part of a tile of records.
            Self::Tile(tile) => tile.is_whole() || tile.level != Level::Data,
        }
    }
}

/// A cached answer.
#[derive(Debug, Clone)]
pub(super) struct CachedAnswer {
    pub(super) body: Bytes,
    at: SystemTime,
    is_proved: bool,
}

/// Returns whether `at` is less than `limit` ago. A time in the future is not: the clock was set back
/// since.
fn is_younger(at: SystemTime, limit: Duration) -> bool {
    SystemTime::now().duration_since(at).is_ok_and(|age| age < limit)
}

/// The running requests to checksum databases, and the refused modules.
#[derive(Debug)]
pub(super) struct Databases {
    ttl: Duration,
    refused: Patterns,
    asking: Once<(String, String), Result<SumdbAnswer, FillError>>,
}

impl Databases {
    pub(super) fn new(options: &AnswerOptions) -> Self {
        Self { ttl: options.list_ttl, refused: options.sumdb_refuse.clone(), asking: Once::new() }
    }
}

impl Fill {
    /// Returns the source of an answer: the database's own URL, or an upstream. A lookup goes to the
    /// upstream of its module, so that no other server learns the module's name.
    fn sumdb_source(&self, name: &str, question: &SumdbQuestion) -> SumdbSource<'_> {
        let upstream = match question {
            SumdbQuestion::Lookup(module) => &self.policy.rule(module.path()).upstream,
            SumdbQuestion::Latest | SumdbQuestion::Tile(_) => self.policy.upstream_of_none(),
        };
        self.policy.checksums().source(name, upstream)
    }

    /// Returns whether this proxy serves a checksum database; `is_local` only looks at the cache.
    pub async fn sumdb_supported(&self, name: &str, via: &Via, is_local: bool) -> Result<bool, FillError> {
        let source = self.sumdb_source(name, &SumdbQuestion::Latest);
        if is_local || source.is_offline() {
            return self.has_records(name).await;
        }
        match source.supports(name, via).await {
            Ok(is_supported) => Ok(is_supported),
            Err(error) => {
                let error = FillError::upstream(format_args!("the checksum database {name}"), &error);
                if !self.has_records(name).await? {
                    return Err(error);
                }
                log::warn!(database = name, reason:% = error; "serving a checksum database from the cache");
                Ok(true)
            }
        }
    }

    /// Answers a request to a checksum database. With `is_local`, returns the cached answer or `None`.
    pub async fn sumdb(
        self: &Arc<Self>,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
        is_local: bool,
    ) -> Result<Option<SumdbAnswer>, FillError> {
        if let SumdbQuestion::Lookup(module) = question
            && (self.databases.refused.matches(module.path().as_str())
                || self.policy.is_private(module.path()))
        {
            return Err(FillError::Private(module.to_string()));
        }
        let cached = self.cached_sumdb(name, question).await;
        let is_fresh = |cached: &CachedAnswer| match question {
            SumdbQuestion::Latest => is_younger(cached.at, self.databases.ttl),
            SumdbQuestion::Lookup(_) | SumdbQuestion::Tile(_) => {
                cached.is_proved || is_younger(cached.at, UNPROVED_TTL)
            }
        };
        let is_offline = self.sumdb_source(name, question).is_offline();
        let cached = match cached {
            Some(cached) if is_local || is_offline || is_fresh(&cached) => {
                return Ok(Some(from_cache(cached.body)));
            }
            None if is_local => return Ok(None),
            cached => cached,
        };
        let what = || format!("{} of the checksum database {name}", question.path());
        if is_offline {
            return Err(FillError::Offline(what()));
        }
        let answer = match self.request_sumdb(name, question, via) {
            Ok(task) => task.wait().await.unwrap_or_else(|| Err(FillError::Broken(what()))),
            Err(error) => Err(error),
        };
        let path = question.path();
        match (answer, cached) {
            (Ok(answer), Some(cached)) if answer.status != 200 => {
                log::warn!(database = name, path, status = answer.status; "serving an expired answer of a checksum database");
                Ok(Some(from_cache(cached.body)))
            }
            (Err(error), Some(cached)) => {
                log::warn!(database = name, path, reason:% = error; "serving an expired answer of a checksum database");
                Ok(Some(from_cache(cached.body)))
            }
            (answer, _) => answer.map(Some),
        }
    }

    /// Joins the running request to the upstream, or starts one.
    fn request_sumdb(
        self: &Arc<Self>,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
    ) -> Result<super::once::Task<Result<SumdbAnswer, FillError>>, FillError> {
        let mut phase = self.phase.subscribe();
        if *phase.borrow() == Phase::Ending {
            return Err(FillError::Stopping(question.path()));
        }
        let work = || {
            let (fill, name) = (Arc::clone(self), name.to_owned());
            let (question, via) = (question.clone(), via.clone());
            async move {
                tokio::select! {
                    answer = fill.ask_sumdb(&name, &question, &via) => answer,
                    _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                        Err(FillError::Stopping(question.path()))
                    }
                }
            }
        };
        let key = (name.to_owned(), question.path());
        self.databases.asking.join(&key, work).ok_or_else(|| FillError::Busy(question.path()))
    }

    async fn ask_sumdb(
        &self,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
    ) -> Result<SumdbAnswer, FillError> {
        let path = question.path();
        let what = format!("{path} of the checksum database {name}");
        let answer = self.sumdb_source(name, question).get(name, &path, via).await;
        let answer = answer.map_err(|error| FillError::upstream(&what, &error))?;
        if answer.status != 200 {
            return Ok(answer);
        }
        if let Some(fault) = shape::fault(name, question, &answer.body) {
            let reason = format!("the upstream sent an invalid answer for {what}: {fault}");
            return Err(FillError::Upstream(reason.into()));
        }
        match self.policy.checksums().fault_of_note(name, question.note(&answer.body)) {
            // The client detects the fault, too.
            Some(fault) => {
                log::error!(database = name, path, reason = fault; "did not cache an answer of a checksum database");
            }
            None => self.cache_sumdb(name, question, &answer.body, false, false).await,
        }
        Ok(answer)
    }

    async fn has_records(&self, name: &str) -> Result<bool, FillError> {
        let database = name.to_owned();
        self.blocking(name, move |store| Ok(store.cache().has_any(Shelf::Records(&database)))).await
    }

    /// Returns the cached answer, proved ones first.
    pub(super) async fn cached_sumdb(&self, name: &str, question: &SumdbQuestion) -> Option<CachedAnswer> {
        let (name, question) = (name.to_owned(), question.clone());
        let cached = self.blocking("the cache of a checksum database", move |store| {
            let cached = |is_proved| {
                let (shelf, key) = question.cache_key(&name, is_proved);
                let Cached { at, body } = store.cache().get(shelf, &key)?;
                Some(CachedAnswer { body: question.answer(body)?, at, is_proved })
            };
            Ok(cached(true).or_else(|| cached(false)))
        });
        cached.await.ok().flatten()
    }

    /// Caches a proved answer of the right form. A narrower tile only replaces a wider one if `replaces` is
    /// set.
    pub(super) async fn cache_proved_sumdb(
        &self,
        name: &str,
        question: &SumdbQuestion,
        body: &Bytes,
        replaces: bool,
    ) {
        self.cache_sumdb(name, question, body, true, replaces).await;
    }

    async fn cache_sumdb(
        &self,
        name: &str,
        question: &SumdbQuestion,
        body: &Bytes,
        is_proved: bool,
        replaces: bool,
    ) {
        if !question.is_cacheable()
            || self.store.is_read_only()
            || shape::fault(name, question, body).is_some()
        {
            return;
        }
        let (database, question, body) = (name.to_owned(), question.clone(), body.clone());
        let result = self.blocking("the cache of a checksum database", move |store| {
            let (shelf, key) = question.cache_key(&database, is_proved);
            let is_narrower = !replaces
                && matches!(question, SumdbQuestion::Tile(_))
                && store.cache().get(shelf, &key).is_some_and(|cached| {
                    cached.body.len() >= body.len() && (is_proved || is_younger(cached.at, UNPROVED_TTL))
                });
            match is_narrower {
                true => Ok(()),
                false => store.cache().put(shelf, &key, &Cached { at: SystemTime::now(), body }),
            }
        });
        if let Err(error) = result.await {
            log::warn!(database = name, reason:% = error; "cannot cache an answer of a checksum database");
        }
    }
}

fn from_cache(body: Bytes) -> SumdbAnswer {
    SumdbAnswer { status: 200, content_type: None, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(path: &str) -> SumdbQuestion {
        SumdbQuestion::Tile(Tile::parse(path).unwrap())
    }

    #[test]
    fn a_wider_tile_answers_requests_for_a_narrower_one() {
        let whole = Bytes::from_iter((0..256 * 32).map(|n| (n / 32) as u8));
        let narrow = tile("tile/8/0/001.p/3");
        assert_eq!(narrow.cache_key("db", false), tile("tile/8/0/001").cache_key("db", false));
        assert_eq!(narrow.answer(whole.clone()).unwrap(), whole.slice(..96));
        assert_eq!(narrow.answer(whole.slice(..96)).unwrap(), whole.slice(..96));
        assert_eq!(narrow.answer(whole.slice(..64)), None);
        assert_eq!(tile("tile/8/0/001").answer(whole.clone()).unwrap(), whole);
        assert_eq!(tile("tile/8/0/001").answer(whole.slice(..96)), None);
        assert_ne!(tile("tile/8/1/001").cache_key("db", false), narrow.cache_key("db", false));
        assert_ne!(narrow.cache_key("db", true), narrow.cache_key("db", false));
    }

    #[test]
    fn only_full_tiles_of_records_are_cached() {
        let kept = Bytes::from_static(b"records");
        assert!(tile("tile/8/data/000").is_cacheable() && !tile("tile/8/data/000.p/3").is_cacheable());
        assert_eq!(tile("tile/8/data/000").answer(kept.clone()), Some(kept.clone()));
        assert_eq!(tile("tile/8/data/000.p/3").answer(kept), None);
    }

    #[test]
    fn paths_are_escaped() {
        let module = ModuleVersion::parse("example.com/Cap@v1.0.0-RC1").unwrap();
        assert_eq!(SumdbQuestion::Lookup(module).path(), "lookup/example.com/!cap@v1.0.0-!r!c1");
        for path in
            ["latest", "lookup/example.com/!cap@v1.0.0-!r!c1", "tile/8/0/x001/234.p/5", "tile/8/data/000"]
        {
            assert_eq!(SumdbQuestion::parse(path).unwrap().path(), path);
        }
        for path in ["supported", "lookup/example.com/Cap@v1.0.0", "lookup/example.com", "tile/8/0/1", ""] {
            assert_eq!(SumdbQuestion::parse(path), None, "{path}");
        }
    }
}
