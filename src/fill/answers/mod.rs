//! Lists, `@latest` and queries: what changes with time, answered from upstream and store.
//!
//! What the upstream answered is kept, in memory and below `cache/`, as it came; what is stored is merged in
//! when somebody asks, so that a version published a moment ago is listed at once. An answer has an age:
//!
//! | it is | somebody who asks |
//! | --- | --- |
//! | fresh: younger than the TTL | has it without the upstream |
//! | stale: younger than [`STALE`] TTLs | has it at once, and it is asked for anew behind his back |
//! | older | waits for the upstream, for [`PATIENCE`] at most |
//! | however old, and the upstream fails | has it, also after a restart; for [`RETRY`] nobody waits for the upstream |
//! | not there | waits for the upstream |
//!
//! Only the upstream's own word (404, 410) that there is no such thing takes an answer back, and that word
//! counts for a minute at most. It never hides what is stored. No failure is kept. However many ask the same,
//! in whatever state, the upstream is asked once at a time; nobody who asks something else waits for that.
//!
//! What a full commit hash stands for hardly ever changes: it lives [`COMMIT`] TTLs.
//!
//! Offline, and where the store may not be written to, only what is stored can be had, so lists and `@latest`
//! say just that; a query has its last answer if the version that it names is stored. Who wants nothing fetched
//! (`Disable-Module-Fetch`) has the last answer, however old, merged as ever.
//!
//! Answers are kept by whom they came from ([`tag`](crate::upstream::Upstream::tag)), so that who is asked now, by other
//! rules or on behalf of another server of the store, is never taken to have said what somebody else said.
//!
//! A kill while an answer is written leaves the old one: see `cache` of the store.

mod ask;
mod known;
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

use self::known::{Known, Weight};
use self::question::Question;
use super::once::Once;
use super::{Fill, FillError};
use crate::upstream::Upstream;

/// How to answer what changes with time.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// How long an upstream's list counts as new. Zero asks each time.
    pub list_ttl: Duration,
    /// Which modules no checksum database is asked for, by anybody through this proxy.
    pub sumdb_refuse: Patterns,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { list_ttl: Duration::from_secs(60), sumdb_refuse: Patterns::default() }
    }
}

/// How many TTLs an answer may be given while it is asked for anew.
const STALE: u32 = 10;

/// How many TTLs what a commit stands for counts as new: a day, if that is a minute.
const COMMIT: u32 = 1440;

/// How long the upstream's word that there is no such thing counts, at most.
const ABSENCE: Duration = Duration::from_secs(60);

/// How long somebody waits for a new answer who can be given an old one.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a failure nobody waits for the upstream who can be answered without, at most.
const RETRY: Duration = Duration::from_secs(10);

/// How many answers are kept in memory, and how many bytes of them.
const ENTRIES: usize = 20_000;
const BYTES: u64 = 32 << 20;

/// What is known of what upstreams answered.
#[derive(Debug)]
pub(super) struct Answers {
    ttl: Duration,
    known: Cache<Question, Known, Weight>,
    asking: Once<Question, Result<Bytes, FillError>>,
}

impl Answers {
    pub(super) fn new(options: &AnswerOptions) -> Self {
        Self {
            ttl: options.list_ttl,
            known: Cache::with_weighter(ENTRIES, BYTES, Weight),
            asking: Once::new(),
        }
    }
}

impl Fill {
    /// Is whom to ask about a module.
    fn upstream_of(&self, module: &ModulePath) -> &Upstream {
        &self.policy.rule(module).upstream
    }

    /// Whether an upstream is asked about a module at all.
    fn asks_about(&self, module: &ModulePath) -> bool {
        !self.store.is_read_only() && !self.upstream_of(module).is_offline()
    }

    /// Says why a version may not be named to a client, wherever it is known from; `what` it is the answer to.
    async fn check_named(
        &self,
        what: impl Display,
        module: &ModulePath,
        version: &Version,
    ) -> Result<(), FillError> {
        if !self.policy.rule(module).admits(version) {
            return Err(FillError::Denied(what.to_string()));
        }
        // What can be no version of this module has no record.
        let Ok(version) = ModuleVersion::new(module.clone(), version.clone()) else { return Ok(()) };
        let named = version.clone();
        match self.blocking(what, move |store| store.records().tombstone(&named)).await? {
            Some(tombstone) => Err(FillError::objection(&version, &Objection::Tombstone(tombstone))),
            None => Ok(()),
        }
    }

    /// Leaves out what may not be named: what the rules deny, and what was removed for good. If that cannot be
    /// told, no list can be given: an empty one would say that there is nothing.
    async fn leave_out(&self, module: &ModulePath, versions: &mut Vec<Version>) -> Result<(), FillError> {
        let forbidden = self.forbidden(module).await?;
        let rule = self.policy.rule(module);
        versions.retain(|version| rule.admits(version) && !forbidden.contains(version));
        Ok(())
    }
}
