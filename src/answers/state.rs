//! The state of the answers, and the versions that may be named.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::Cache;
use stoa_gomod::private::Patterns;
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::{Objection, Store};

use super::answer::{Answer, Weight};
use super::question::{Asked, Question};
use crate::policy::Rule;
use crate::tasks::{Once, Shutdown, blocking};
use crate::unavailable::Unavailable;

/// Settings for answers that change with time.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// How long an upstream's list counts as fresh. Zero asks the upstream each time.
    pub list_ttl: Duration,
    /// Patterns of private modules, besides those of the rules. They are never reported as absent while an upstream
    /// cannot be reached.
    pub private: Patterns,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { list_ttl: Duration::from_secs(60), private: Patterns::default() }
    }
}

/// Maximum number and total size of the answers in memory.
const ENTRIES: usize = 20_000;
const BYTES: u64 = 32 << 20;

/// Answers questions about modules, from upstreams and the store.
#[derive(Debug)]
pub struct Answers {
    pub(super) store: Arc<Store>,
    pub(super) ttl: Duration,
    pub(super) private: Patterns,
    pub(super) cache: Cache<Question, Answer, Weight>,
    /// The running requests to upstreams.
    pub(super) requests: Once<Question, Result<Bytes, Unavailable>>,
    pub(super) shutdown: Arc<Shutdown>,
}

impl Answers {
    pub(crate) fn new(store: Arc<Store>, options: &AnswerOptions, shutdown: Arc<Shutdown>) -> Arc<Self> {
        let cache = Cache::with_weighter(ENTRIES, BYTES, Weight);
        let (ttl, private) = (options.list_ttl, options.private.clone());
        Arc::new(Self { store, ttl, private, cache, requests: Once::new(), shutdown })
    }

    /// Returns whether an upstream is asked at all.
    pub(super) fn asks(&self, rule: &Rule) -> bool {
        !self.store.is_read_only() && !rule.upstream.is_offline()
    }

    /// Returns an error if a version may not be named to a client.
    pub(super) async fn check_visible(&self, asked: &Asked, version: &Version) -> Result<(), Unavailable> {
        if !asked.rule.admits(version) {
            return Err(Unavailable::Denied(asked.to_string()));
        }
        let version = ModuleVersion::new(asked.module().clone(), version.clone())
            .map_err(|error| Unavailable::Upstream(format!("{asked}: {error}").into()))?;
        let named = version.clone();
        match blocking(&self.store, asked, move |store| store.records().tombstone(&named)).await? {
            Some(tombstone) => Err(Unavailable::objection(&version, &Objection::Tombstone(tombstone))),
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
        versions: &mut Vec<Version>,
    ) -> Result<(), Unavailable> {
        let named = module.clone();
        let what = format!("the tombstones of {module}");
        let forbidden = blocking(&self.store, what, move |store| store.records().tombstones(&named)).await?;
        versions.retain(|version| rule.admits(version) && !forbidden.contains(version));
        Ok(())
    }
}
