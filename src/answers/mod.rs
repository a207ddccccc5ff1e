//! Lists, `@latest` and queries: answers that change with time, from upstream and store.
//!
//! Answers of upstreams are cached in memory and below `cache/`, unchanged. Stored versions are merged in
//! for each request, so a version that was just published is listed at once. The age of an answer decides:
//!
//! | age | reaction |
//! | --- | --- |
//! | fresh: younger than the TTL | the answer is served without asking the upstream |
//! | stale: younger than [`STALE_TTLS`](answer::STALE_TTLS) TTLs | the answer is served immediately and refreshed in the background |
//! | older | the client waits for the upstream, for at most [`MAX_WAIT`](ask::MAX_WAIT) |
//! | any age, and the upstream fails | the answer is served, also after a restart. For [`FAILURE_TTL`](answer::FAILURE_TTL) no client waits for the upstream again |
//! | no answer | the client waits for the upstream |
//!
//! Only a 404 or 410 from the upstream withdraws an answer. It is remembered for some seconds, see
//! [`Absences`](crate::absences::Absences), and never hides stored versions. Failures are never cached. Equal requests share
//! one request to the upstream, which ends when no client waits for it. A refresh in the background continues.
//! The number of concurrent requests to upstreams is limited, and no upstream gets all of them.
//!
//! A 404 can also mean that another upstream could not be reached, see [`Unreached`](crate::unavailable::Unavailable::Unreached).
//! It is only reported for public modules of which nothing is known, and never cached.
//!
//! A stored version that is better than the upstream's `@latest` is the latest at once. Prefixes and comparisons are
//! answered likewise.
//!
//! The version of a full commit hash hardly ever changes, so its answer lives [`COMMIT_TTLS`](memory::COMMIT_TTLS) TTLs.
//!
//! Offline, and if the store is read-only, only versions in the store and in the bucket are available, so lists and
//! `@latest` contain only these. A query gets its last answer if the version in it is stored. A client that sends
//! `Disable-Module-Fetch` gets the last answer of any age, merged as usual.
//!
//! The cache key contains the list of upstreams ([`tag`](crate::upstream::Upstream::tag)), so answers of
//! different upstreams, by other rules or other servers of the same store, are never confused.
//!
//! A kill during a write to the cache leaves the old answer: see `cache` of the store.

mod answer;
mod ask;
mod better;
mod latest;
mod list;
mod memory;
mod question;
mod state;
mod stored;

pub use self::state::{AnswerOptions, Answers};
