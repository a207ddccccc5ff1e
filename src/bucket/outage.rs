//! Outages of the bucket: a failed request is the begin of one, and a successful request ends it.

use std::time::{Duration, Instant};

use stoa_bucket::{BucketError, Trouble};

use super::{Tier, uses};
use crate::lock::lock;
use crate::unavailable::Unavailable;

/// The time after a failed request without another request for stored versions.
const PAUSE: Duration = Duration::from_secs(10);

/// The value of `Retry-After` in an outage.
const RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct State {
    /// The last failure, and its time, until a request succeeds.
    pub(super) outage: Option<(Instant, String)>,
    /// The reason why the bucket is not this server's any more.
    pub(super) left: Option<String>,
    pub(super) recorded: uses::Recorded,
}

impl Tier {
    /// Notes that the bucket could not be reached at the start.
    pub(crate) fn note_outage(&self, error: BucketError) {
        let _ = self.note(Err::<(), _>(error));
    }

    /// Returns why the bucket cannot be used now, if it cannot.
    pub(crate) fn outage(&self) -> Option<String> {
        let state = lock(&self.state);
        state.left.clone().or_else(|| state.outage.as_ref().map(|(_, reason)| reason.clone()))
    }

    /// Returns whether the bucket is not this server's any more.
    pub(crate) fn has_left(&self) -> bool {
        lock(&self.state).left.is_some()
    }

    /// Returns whether stored versions are served without a look, because the bucket did not answer a moment ago.
    pub(crate) fn is_paused(&self) -> bool {
        let state = lock(&self.state);
        state.left.is_some() || state.outage.as_ref().is_some_and(|(at, _)| at.elapsed() < PAUSE)
    }

    /// Fails if the bucket did not answer a moment ago.
    pub(crate) fn check_reachable(&self, what: impl std::fmt::Display) -> Result<(), Unavailable> {
        match self.is_paused() {
            true => Err(unusable(what)),
            false => Ok(()),
        }
    }

    /// Notes the result of a request. Logs the begin and the end of an outage.
    pub(super) fn note<T>(&self, result: Result<T, BucketError>) -> Result<T, BucketError> {
        let mut state = lock(&self.state);
        match &result {
            Ok(_) => {
                if let Some((since, _)) = state.outage.take() {
                    let elapsed = since.elapsed();
                    log::info!(bucket = self.url(), outage:? = elapsed; "the bucket can be used again");
                }
            }
            Err(error) if matches!(error.trouble, Trouble::Unreachable | Trouble::Denied) => {
                if state.outage.is_none() {
                    log::warn!(bucket = self.url(), reason = error.without_help(); "cannot use the bucket, serving stored versions only");
                }
                state.outage = Some((Instant::now(), error.without_help()));
            }
            Err(error) if error.trouble == Trouble::Left => {
                if state.left.is_none() {
                    log::error!(bucket = self.url(), reason = error.without_help(); "the layout of the bucket changed, serving stored versions only");
                }
                state.left = Some(error.without_help());
            }
            Err(_) => {}
        }
        result
    }

    /// Returns the error for clients, who learn nothing of the bucket.
    pub(super) fn unavailable(&self, version: impl std::fmt::Display, error: &BucketError) -> Unavailable {
        // The others are logged once, as the begin of an outage.
        if !matches!(error.trouble, Trouble::Unreachable | Trouble::Denied | Trouble::Left) {
            log::warn!(version:%, bucket = self.url(), reason = error.without_help(); "cannot use the bucket for a version");
        }
        unusable(version)
    }

    /// Fails if the server must not use the bucket any more.
    pub(super) fn check(&self, version: impl std::fmt::Display) -> Result<(), Unavailable> {
        match lock(&self.state).left.is_some() {
            true => Err(unusable(version)),
            false => Ok(()),
        }
    }
}

/// Returns the error for clients in an outage.
pub(crate) fn unusable(version: impl std::fmt::Display) -> Unavailable {
    let reason =
        format!("cannot get {version}: the bucket of this proxy cannot be used\nhelp: try again later")
            .into();
    Unavailable::Limited { reason, status: 503, retry_after: RETRY_AFTER }
}
