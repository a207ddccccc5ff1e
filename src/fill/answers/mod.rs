//! Lists, `@latest` and queries: answers that change with time, from upstream and store.
//!
//! Answers of upstreams are cached in memory and below `cache/`, unchanged. Stored versions are merged in
//! for each request, so a version that was just published is listed at once. The age of an answer decides:
//!
//! | age | reaction |
//! | --- | --- |
//! | fresh: younger than the TTL | the answer is served without asking the upstream |
//! | stale: younger than [`STALE_TTLS`] TTLs | the answer is served immediately and refreshed in the background |
//! | older | the client waits for the upstream, for at most [`MAX_WAIT`] |
//! | any age, and the upstream fails | the answer is served, also after a restart. For [`FAILURE_TTL`] no client waits for the upstream again |
//! | no answer | the client waits for the upstream |
//!
//! Only a 404 or 410 from the upstream withdraws an answer, for at most a minute. It never hides stored
//! versions. Failures are never cached. Equal requests share one request to the upstream and do not delay
//! other requests.
//!
//! The version of a full commit hash hardly ever changes, so its answer lives [`COMMIT_TTLS`] TTLs.
//!
//! Offline, and if the store is read-only, only stored versions are available, so lists and `@latest`
//! contain only these. A query gets its last answer if the version in it is stored. A client that sends
//! `Disable-Module-Fetch` gets the last answer of any age, merged as usual.
//!
//! The cache key contains the list of upstreams ([`tag`](crate::upstream::Upstream::tag)), so answers of
//! different upstreams, by other rules or other servers of the same store, are never confused.
//!
//! A kill during a write to the cache leaves the old answer: see `cache` of the store.

mod answer;
mod ask;
mod latest;
mod list;
mod question;
mod stored;

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::Cache;
use stoa_gomod::private::Patterns;
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::Objection;

use self::answer::{Answer, Weight};
use self::question::Question;
use super::once::Once;
use super::{Fill, FillError};
use crate::upstream::Upstream;

/// Settings for answers that change with time.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// How long an upstream's list counts as fresh. Zero asks the upstream each time.
    pub list_ttl: Duration,
    /// The modules whose lookups in checksum databases are refused.
    pub sumdb_refuse: Patterns,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { list_ttl: Duration::from_secs(60), sumdb_refuse: Patterns::default() }
    }
}

/// Number of TTLs during which a stale answer is served while it is refreshed.
const STALE_TTLS: u32 = 10;

/// Number of TTLs for the version of a full commit hash: one day with the default TTL.
const COMMIT_TTLS: u32 = 1440;

/// Maximum time that an upstream's 404 or 410 counts as fresh.
const ABSENCE_TTL: Duration = Duration::from_secs(60);

/// Maximum time that a client waits for the upstream if there is an old answer.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Maximum time after a failure during which old answers are served without asking the upstream.
const FAILURE_TTL: Duration = Duration::from_secs(10);

/// Maximum number and total size of the answers in memory.
const ENTRIES: usize = 20_000;
const BYTES: u64 = 32 << 20;

/// The cached answers of upstreams, and the running requests.
#[derive(Debug)]
pub(super) struct Answers {
    ttl: Duration,
    cache: Cache<Question, Answer, Weight>,
    requests: Once<Question, Result<Bytes, FillError>>,
}

impl Answers {
    pub(super) fn new(options: &AnswerOptions) -> Self {
        Self {
            ttl: options.list_ttl,
            cache: Cache::with_weighter(ENTRIES, BYTES, Weight),
            requests: Once::new(),
        }
    }
}

impl Fill {
    /// Returns the upstream of a module.
    fn upstream_of(&self, module: &ModulePath) -> &Upstream {
        &self.policy.rule(module).upstream
    }

    /// Returns whether upstreams are asked about a module at all.
    fn asks_about(&self, module: &ModulePath) -> bool {
        !self.store.is_read_only() && !self.upstream_of(module).is_offline()
    }

    /// Returns an error if a version may not be named to a client; `what` names the question.
    async fn check_visible(
        &self,
        what: impl Display,
        module: &ModulePath,
        version: &Version,
    ) -> Result<(), FillError> {
        if !self.policy.rule(module).admits(version) {
            return Err(FillError::Denied(what.to_string()));
        }
        // An invalid version of the module has no record.
        let Ok(version) = ModuleVersion::new(module.clone(), version.clone()) else { return Ok(()) };
        let named = version.clone();
        match self.blocking(what, move |store| store.records().tombstone(&named)).await? {
            Some(tombstone) => Err(FillError::objection(&version, &Objection::Tombstone(tombstone))),
            None => Ok(()),
        }
    }

    /// Removes versions that may not be named: denied ones, and those with a tombstone.
    ///
    /// If the tombstones cannot be read, the result is an error: an empty list would say that there are no
    /// versions.
    async fn remove_hidden(&self, module: &ModulePath, versions: &mut Vec<Version>) -> Result<(), FillError> {
        let forbidden = self.forbidden(module).await?;
        let rule = self.policy.rule(module);
        versions.retain(|version| rule.admits(version) && !forbidden.contains(version));
        Ok(())
    }
}
