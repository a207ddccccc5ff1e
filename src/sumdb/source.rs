//! The server that is asked for a checksum database, and the cache in front of it.

use bytes::Bytes;

use super::lookup::SumdbClient;
use super::question::SumdbQuestion;
use super::state::{Database, Sumdb};
use crate::upstream::{SumdbAnswer, Upstream, UpstreamError, Via};

/// The server that is asked for a database.
#[derive(Debug, Clone)]
pub(super) enum SumdbSource {
    /// The database itself, at its own URL.
    Database(Upstream),
    /// An upstream that may forward the database.
    Upstream(Upstream),
}

impl SumdbSource {
    /// Returns whether there is no server to ask.
    pub(super) fn is_offline(&self) -> bool {
        match self {
            Self::Database(upstream) | Self::Upstream(upstream) => upstream.is_offline(),
        }
    }

    /// Returns whether the server forwards the database.
    pub(super) async fn supports(&self, name: &str, via: &Via) -> Result<bool, UpstreamError> {
        match self {
            Self::Database(_) => Ok(true),
            Self::Upstream(upstream) => upstream.sumdb_supported(name, via).await,
        }
    }

    /// Requests a path below the name of the database.
    pub(super) async fn get(&self, name: &str, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        match self {
            Self::Database(own) => own.sumdb_here(path, via).await,
            Self::Upstream(upstream) => upstream.sumdb(name, path, via).await,
        }
    }
}

/// Asks the source of a database, and caches proved answers, for clients too.
pub(super) struct CachingClient<'a> {
    sumdb: &'a Sumdb,
    database: &'a Database,
    source: SumdbSource,
    via: &'a Via,
}

impl Sumdb {
    /// Returns the server that is asked for a database: its own URL if there is one, or else this upstream.
    pub(super) fn source(&self, name: &str, upstream: &Upstream) -> SumdbSource {
        match self.named(name).and_then(|database| database.own.as_ref()) {
            Some(own) => SumdbSource::Database(own.clone()),
            None => SumdbSource::Upstream(upstream.clone()),
        }
    }

    /// Returns a client that asks the database's own URL or this upstream.
    pub(super) fn caching<'a>(
        &'a self,
        database: &'a Database,
        upstream: &Upstream,
        via: &'a Via,
    ) -> CachingClient<'a> {
        let source = self.source(database.sumdb.name(), upstream);
        CachingClient { sumdb: self, database, source, via }
    }
}

impl CachingClient<'_> {
    /// Returns the cached answer for a path.
    pub(super) async fn cached(&self, path: &str) -> Option<Bytes> {
        let question = SumdbQuestion::parse(path)?;
        Some(self.sumdb.cached(self.database.sumdb.name(), &question).await?.body)
    }
}

impl SumdbClient for CachingClient<'_> {
    async fn is_available(&self) -> Result<bool, UpstreamError> {
        self.source.supports(self.database.sumdb.name(), self.via).await
    }

    async fn get(&self, path: &str, fresh: bool) -> Result<SumdbAnswer, UpstreamError> {
        if !fresh && let Some(body) = self.cached(path).await {
            return Ok(SumdbAnswer { status: 200, content_type: None, body });
        }
        self.source.get(self.database.sumdb.name(), path, self.via).await
    }

    async fn cache(&self, path: &str, body: &Bytes, fresh: bool) {
        if let Some(question) = SumdbQuestion::parse(path) {
            self.sumdb.cache_proved(self.database.sumdb.name(), &question, body, fresh).await;
        }
    }
}
