//! Checksum databases, passed on with what is kept of them.
//!
//! | what | how long it is kept |
//! | --- | --- |
//! | a tile | the widest beginning of it that was seen: a database only grows, so whoever wants fewer of a tile's hashes gets the first ones |
//! | a record (`lookup`) | within the bounds of the cache: what is signed once stays true |
//! | either, if no fill has proved it | for ten minutes ([`UNPROVED`]): it may be damaged, and clients have nobody else to ask; when the upstream fails, however long |
//! | the latest tree head | as long as a list; when the upstream fails, the last one however old |
//! | a head, or a record with one, that its database has not signed, where its key is known | not at all |
//! | anything but 200 | not at all |
//!
//! What a fill has proved is kept under a name of its own, and goes before what came for a client.
//!
//! So a client with nothing of its own verifies offline what was verified through this proxy before. Bodies go
//! out as they came; clients check signatures and inclusion themselves. What is passed on as a tile or a record
//! must look like one ([`shape`]): a page with status 200 is a failure of the upstream, and not kept.
//!
//! `supported` is a promise, since a client that reads yes asks nobody else. It is given if an upstream gives
//! it, or, offline and while the upstream fails, if some of the database's records are kept.
//!
//! Nobody is asked about a module that matches [`sumdb_refuse`](super::AnswerOptions::sumdb_refuse), or whose rule
//! makes it private ([`Policy::is_private`](super::Policy::is_private)), kept or not: its name stays here.

mod shape;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use stoa_gomod::private::Patterns;
use stoa_gomod::sumdb::{Level, Tile, parse_record};
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::{Cached, Shelf};

use super::answers::AnswerOptions;
use super::checksum::Place;
use super::once::Once;
use super::{Fill, FillError, Phase, SumdbAnswer, Via};

/// How long a record or a tile that no fill has proved counts as new.
const UNPROVED: Duration = Duration::from_secs(10 * 60);

/// What can be asked of a checksum database.
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
    /// Reads the path below the name of the database.
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

    /// Is the path below the name of the database.
    fn path(&self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Lookup(module) => {
                format!("lookup/{}@{}", module.path().escaped(), module.version().escaped())
            }
            Self::Tile(tile) => tile.path(),
        }
    }

    /// Is where its answer is kept, proved or not, and under which name: all widths of a tile under that of the whole one.
    fn place<'n>(&self, database: &'n str, is_proved: bool) -> (Shelf<'n>, String) {
        let (shelf, path) = match self {
            Self::Latest | Self::Lookup(_) => (Shelf::Records(database), self.path()),
            Self::Tile(tile) => {
                let whole = Tile { width: 1 << tile.height, ..*tile };
                (Shelf::Tiles(database), whole.path())
            }
        };
        (shelf, if is_proved { path + " proved" } else { path })
    }

    /// Takes the answer out of what is kept.
    fn answer(&self, kept: Bytes) -> Option<Bytes> {
        match self {
            Self::Latest | Self::Lookup(_) => Some(kept),
            Self::Tile(Tile { level: Level::Data, .. }) if !self.may_be_kept() => None,
            Self::Tile(Tile { level: Level::Data, .. }) => Some(kept),
            Self::Tile(tile) => {
                let wanted = shape::tile_bytes(tile);
                (kept.len() >= wanted).then(|| kept.slice(..wanted))
            }
        }
    }

    /// Is the signed note in an answer, if it has one.
    fn note<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        match self {
            Self::Latest => Some(body),
            Self::Lookup(_) => Some(parse_record(body).map_or(&[], |record| record.rest)),
            Self::Tile(_) => None,
        }
    }

    /// Whether its answer stays what it is, or can be told to be newer than another one.
    fn may_be_kept(&self) -> bool {
        match self {
            Self::Latest | Self::Lookup(_) => true,
            // No client asks for the beginning of records.
            Self::Tile(tile) => tile.is_whole() || tile.level != Level::Data,
        }
    }
}

/// What is kept of an answer.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) body: Bytes,
    at: SystemTime,
    is_proved: bool,
}

/// Whether something is younger than that. What comes from the future came before somebody set the clock back.
fn is_younger(at: SystemTime, limit: Duration) -> bool {
    SystemTime::now().duration_since(at).is_ok_and(|age| age < limit)
}

/// What is asked of checksum databases now, and of which modules nothing is.
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
    /// Is whom to ask a question: the database itself where its URL is known; else about a module, whom that is fetched
    /// from, and nobody else learns its name.
    fn place_of_sumdb(&self, name: &str, question: &SumdbQuestion) -> Place<'_> {
        let upstream = match question {
            SumdbQuestion::Lookup(module) => &self.policy.rule(module.path()).upstream,
            SumdbQuestion::Latest | SumdbQuestion::Tile(_) => self.policy.upstream_of_none(),
        };
        self.policy.checksums().place(name, upstream)
    }

    /// Says whether answers of a checksum database are to be had here; `is_local` asks nobody.
    pub async fn sumdb_supported(&self, name: &str, via: &Via, is_local: bool) -> Result<bool, FillError> {
        let place = self.place_of_sumdb(name, &SumdbQuestion::Latest);
        if is_local || place.is_offline() {
            return self.keeps_records(name).await;
        }
        match place.has(name, via).await {
            Ok(is_supported) => Ok(is_supported),
            Err(error) => {
                let error = FillError::upstream(format_args!("the checksum database {name}"), &error);
                if !self.keeps_records(name).await? {
                    return Err(error);
                }
                log::warn!("the checksum database {name} is answered from what is kept of it: {error}");
                Ok(true)
            }
        }
    }

    /// Asks a checksum database; `is_local` answers from what is kept, `None` if that is nothing.
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
        let kept = self.kept_of_sumdb(name, question).await;
        let is_new = |kept: &Kept| match question {
            SumdbQuestion::Latest => is_younger(kept.at, self.databases.ttl),
            SumdbQuestion::Lookup(_) | SumdbQuestion::Tile(_) => {
                kept.is_proved || is_younger(kept.at, UNPROVED)
            }
        };
        let is_offline = self.place_of_sumdb(name, question).is_offline();
        let kept = match kept {
            Some(kept) if is_local || is_offline || is_new(&kept) => return Ok(Some(as_kept(kept.body))),
            None if is_local => return Ok(None),
            kept => kept,
        };
        let what = || format!("{} of the checksum database {name}", question.path());
        if is_offline {
            return Err(FillError::Offline(what()));
        }
        let asked = match self.begin_sumdb(name, question, via) {
            Ok(asking) => asking.wait().await.unwrap_or_else(|| Err(FillError::Broken(what()))),
            Err(error) => Err(error),
        };
        match (asked, kept) {
            (Ok(answer), Some(kept)) if answer.status != 200 => {
                log::warn!("{} is answered as it was last: the upstream says {}", what(), answer.status);
                Ok(Some(as_kept(kept.body)))
            }
            (Err(error), Some(kept)) => {
                log::warn!("{} is answered as it was last: {error}", what());
                Ok(Some(as_kept(kept.body)))
            }
            (asked, _) => asked.map(Some),
        }
    }

    /// Asks the upstream, or waits for the answer to who has asked already.
    fn begin_sumdb(
        self: &Arc<Self>,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
    ) -> Result<super::once::Outcome<Result<SumdbAnswer, FillError>>, FillError> {
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
        let answer = self.place_of_sumdb(name, question).ask(name, &path, via).await;
        let answer = answer.map_err(|error| FillError::upstream(&what, &error))?;
        if answer.status != 200 {
            return Ok(answer);
        }
        if let Some(fault) = shape::fault(name, question, &answer.body) {
            let reason = format!("{what} was answered with something else than what was asked for: {fault}");
            return Err(FillError::Upstream(reason.into()));
        }
        match self.policy.checksums().fault_of_note(name, question.note(&answer.body)) {
            // Whoever asked sees for himself.
            Some(fault) => log::error!("{what} is passed on, but not kept: {fault}"),
            None => self.keep_answer(name, question, &answer.body, false, false).await,
        }
        Ok(answer)
    }

    async fn keeps_records(&self, name: &str) -> Result<bool, FillError> {
        let database = name.to_owned();
        self.blocking(name, move |store| Ok(store.cache().has_any(Shelf::Records(&database)))).await
    }

    /// Finds what is kept of an answer.
    pub(super) async fn kept_of_sumdb(&self, name: &str, question: &SumdbQuestion) -> Option<Kept> {
        let (name, question) = (name.to_owned(), question.clone());
        let kept = self.blocking("what is kept of a checksum database", move |store| {
            let kept = |is_proved| {
                let (shelf, key) = question.place(&name, is_proved);
                let Cached { at, body } = store.cache().get(shelf, &key)?;
                Some(Kept { body: question.answer(body)?, at, is_proved })
            };
            Ok(kept(true).or_else(|| kept(false)))
        });
        kept.await.ok().flatten()
    }

    /// Keeps an answer that was proved if it looks like one; of a tile, unless a wider one is kept that is not to be
    /// replaced.
    pub(super) async fn keep_of_sumdb(
        &self,
        name: &str,
        question: &SumdbQuestion,
        body: &Bytes,
        replaces: bool,
    ) {
        self.keep_answer(name, question, body, true, replaces).await;
    }

    async fn keep_answer(
        &self,
        name: &str,
        question: &SumdbQuestion,
        body: &Bytes,
        is_proved: bool,
        replaces: bool,
    ) {
        if !question.may_be_kept()
            || self.store.is_read_only()
            || shape::fault(name, question, body).is_some()
        {
            return;
        }
        let (database, question, body) = (name.to_owned(), question.clone(), body.clone());
        let kept = self.blocking("what is kept of a checksum database", move |store| {
            let (shelf, key) = question.place(&database, is_proved);
            let is_narrower = !replaces
                && matches!(question, SumdbQuestion::Tile(_))
                && store.cache().get(shelf, &key).is_some_and(|kept| {
                    kept.body.len() >= body.len() && (is_proved || is_younger(kept.at, UNPROVED))
                });
            match is_narrower {
                true => Ok(()),
                false => store.cache().put(shelf, &key, &Cached { at: SystemTime::now(), body }),
            }
        });
        if let Err(error) = kept.await {
            log::warn!("an answer of the checksum database {name} is passed on, but not kept: {error}");
        }
    }
}

fn as_kept(body: Bytes) -> SumdbAnswer {
    SumdbAnswer { status: 200, content_type: None, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(path: &str) -> SumdbQuestion {
        SumdbQuestion::Tile(Tile::parse(path).unwrap())
    }

    #[test]
    fn a_wider_tile_answers_for_a_narrower_one() {
        let whole = Bytes::from_iter((0..256 * 32).map(|n| (n / 32) as u8));
        let narrow = tile("tile/8/0/001.p/3");
        assert_eq!(narrow.place("db", false), tile("tile/8/0/001").place("db", false));
        assert_eq!(narrow.answer(whole.clone()).unwrap(), whole.slice(..96));
        assert_eq!(narrow.answer(whole.slice(..96)).unwrap(), whole.slice(..96));
        assert_eq!(narrow.answer(whole.slice(..64)), None);
        assert_eq!(tile("tile/8/0/001").answer(whole.clone()).unwrap(), whole);
        assert_eq!(tile("tile/8/0/001").answer(whole.slice(..96)), None);
        assert_ne!(tile("tile/8/1/001").place("db", false), narrow.place("db", false));
        assert_ne!(narrow.place("db", true), narrow.place("db", false));
    }

    #[test]
    fn of_records_only_whole_tiles_are_kept() {
        let kept = Bytes::from_static(b"records");
        assert!(tile("tile/8/data/000").may_be_kept() && !tile("tile/8/data/000.p/3").may_be_kept());
        assert_eq!(tile("tile/8/data/000").answer(kept.clone()), Some(kept.clone()));
        assert_eq!(tile("tile/8/data/000.p/3").answer(kept), None);
    }

    #[test]
    fn names_are_escaped_as_they_are_asked_for() {
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
