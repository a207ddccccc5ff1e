//! The state of the answers, and the versions that may be named.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::Cache;
use stoa_bucket::ListedThere;
use stoa_gomod::private::Patterns;
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::{Objection, Store};
use tokio::sync::Semaphore;

use super::answer::{Answer, Weight};
use super::question::{Asked, Question};
use crate::absences::Absences;
use crate::bucket::Tier;
use crate::byte_budget::ByteBudget;
use crate::policy::{Policy, Rule};
use crate::tasks::{Once, SharedPermits, Shutdown, blocking};
use crate::unavailable::Unavailable;

/// Settings for answers that change with time.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// How long an upstream's list counts as fresh. Zero asks the upstream each time.
    pub list_ttl: Duration,
    /// Patterns of private modules, besides those of the rules. They are never reported as absent while an upstream
    /// cannot be reached.
    pub private: Patterns,
    /// Whether lists name versions that a peer has named and that are not stored yet.
    pub has_peers: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { list_ttl: Duration::from_secs(60), private: Patterns::default(), has_peers: false }
    }
}

/// Maximum number and total size of the answers in memory.
const ENTRIES: usize = 20_000;
const BYTES: u64 = 32 << 20;

/// Maximum number of concurrent requests to upstreams. Each is an open connection.
const MAX_ASKED: usize = 64;

/// The budget for large lists on their way to clients. A client that reads slowly holds a part of it.
const MEMORY_BYTES: u32 = 16 << 20;

/// Maximum number of concurrent reads of answers from the disk.
const MAX_READ: usize = 8;

/// The maximum size in bytes of an answer that is cached. The cache on disk has the same limit.
pub(super) const MAX_CACHED_BYTES: usize = 1 << 20;

/// Answers questions about modules, from upstreams and the store.
#[derive(Debug)]
pub struct Answers {
    pub(super) store: Arc<Store>,
    /// The bucket that several servers share.
    pub(super) tier: Option<Arc<Tier>>,
    pub(super) ttl: Duration,
    pub(super) private: Patterns,
    pub(super) has_peers: bool,
    pub(super) cache: Cache<Question, Answer, Weight>,
    /// The running requests to upstreams.
    pub(super) requests: Once<Question, Result<Bytes, Unavailable>>,
    /// Limits concurrent requests to upstreams.
    pub(super) turns: SharedPermits,
    /// The budget for large lists on their way to clients.
    pub(super) memory: ByteBudget,
    /// Large lists are merged one at a time.
    pub(super) merging: Semaphore,
    /// Limits concurrent reads of answers from the disk.
    pub(super) reading: Semaphore,
    pub(super) absences: Arc<Absences>,
    pub(super) shutdown: Arc<Shutdown>,
}

impl Answers {
    /// Returns whether a module is private by a pattern, not by its rule.
    pub(crate) fn is_private(&self, module: &ModulePath) -> bool {
        self.private.matches(module.as_str())
    }

    pub(crate) fn new(
        (store, tier): (Arc<Store>, Option<Arc<Tier>>),
        policy: &Policy,
        options: &AnswerOptions,
        absences: Arc<Absences>,
        shutdown: Arc<Shutdown>,
    ) -> Arc<Self> {
        let cache = Cache::with_weighter(ENTRIES, BYTES, Weight);
        let (ttl, private) = (options.list_ttl, options.private.clone());
        let (requests, turns) = (Once::while_wanted(), SharedPermits::new(MAX_ASKED, policy.upstreams()));
        let (memory, merging) = (ByteBudget::new(MEMORY_BYTES), Semaphore::new(1));
        let reading = Semaphore::new(MAX_READ);
        Arc::new(Self {
            store,
            tier,
            ttl,
            private,
            has_peers: options.has_peers,
            cache,
            requests,
            turns,
            memory,
            merging,
            reading,
            absences,
            shutdown,
        })
    }

    /// Returns the number of permits for requests to upstreams in use, and their number.
    pub(crate) fn permits(&self) -> (usize, usize) {
        self.turns.in_use()
    }

    /// Shares the limits among the upstreams of a new policy.
    pub(crate) fn follow(&self, policy: &Policy) {
        self.turns.follow(policy.upstreams());
    }

    /// Returns whether an upstream is asked at all.
    pub(super) fn asks(&self, rule: &Rule) -> bool {
        !self.store.is_read_only() && !rule.upstream.is_offline()
    }

    /// Returns an error if a version may not be named to a client.
    pub(super) async fn check_visible(&self, asked: &Asked, version: &Version) -> Result<(), Unavailable> {
        if !asked.rule.admits(version) {
            return Err(asked.rule.denied(asked));
        }
        let version = ModuleVersion::new(asked.module().clone(), version.clone())
            .map_err(|error| Unavailable::Upstream(format!("{asked}: {error}").into()))?;
        let named = version.clone();
        match blocking(&self.store, asked, move |store| store.records().tombstone(&named)).await? {
            Some(tombstone) => Err(Unavailable::objection(&version, &Objection::Tombstone(tombstone))),
            None if self
                .versions_in_bucket(asked.module())
                .await
                .shared
                .forbidden
                .contains(version.version()) =>
            {
                Err(Unavailable::Gone(format!("{version} is forbidden in the bucket of this proxy").into()))
            }
            None => Ok(()),
        }
    }

    /// Removes versions that may not be named: denied ones, and those with a tombstone.
    ///
    /// If the tombstones cannot be read, the result is an error: an empty list would say that there are no
    /// versions.
    pub(super) async fn remove_hidden(
        &self,
        module: &ModulePath,
        rule: &Rule,
        shared: &ListedThere,
        versions: &mut Vec<Version>,
    ) -> Result<(), Unavailable> {
        let forbidden = self.tombstones(module).await?;
        let is_hidden = |version: &Version| forbidden.contains(version) || shared.forbidden.contains(version);
        versions.retain(|version| rule.admits(version) && !is_hidden(version));
        Ok(())
    }

    /// Returns the versions of a module that have a tombstone.
    pub(super) async fn tombstones(&self, module: &ModulePath) -> Result<Arc<[Version]>, Unavailable> {
        let named = module.clone();
        let what = format!("the tombstones of {module}");
        blocking(&self.store, what, move |store| store.records().tombstones(&named)).await
    }
}
