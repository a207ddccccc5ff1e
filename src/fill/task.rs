//! The state of the task that downloads one version.

use std::sync::{Arc, Mutex};

use stoa_gomod::ModuleVersion;
use tokio::sync::watch;

use super::expected::Expected;
use super::means::Means;
use super::progress::{Flight, Progress};
use super::wrong::Origin;
use crate::policy::Rule;
use crate::unavailable::Unavailable;
use crate::upstream::{Upstream, UpstreamError, Via};

/// The failure of a flight.
pub(super) enum Failed {
    /// The files of the version do not belong together, so its cached pair must not be used again.
    Inconsistent(Unavailable),
    /// The zip is not valid, or is not the one of its manifest.
    Corrupt(Unavailable),
    Other(Unavailable),
    /// The version is in the bucket now, or no longer there. The flight starts again. The error is for the client if that
    /// happens too often.
    Again(Unavailable),
}

impl From<Unavailable> for Failed {
    fn from(error: Unavailable) -> Self {
        Self::Other(error)
    }
}

/// The task of a flight.
pub(super) struct Fetch {
    pub(super) means: Arc<Means>,
    pub(super) version: ModuleVersion,
    pub(super) rule: Arc<Rule>,
    pub(super) via: Via,
    pub(super) flight: Arc<Flight>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) wanted: watch::Receiver<bool>,
    pub(super) whole: watch::Receiver<bool>,
    pub(super) expected: Expected,
    /// The result so far, for the metrics.
    pub(super) seen: Mutex<Seen>,
}

/// The parts of the result of a flight that metrics name.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The name of the place of the files.
    pub(super) origin: Option<String>,
    /// The size of the zip in bytes.
    pub(super) bytes: u64,
}

impl Fetch {
    pub(super) fn upstream(&self) -> &Upstream {
        &self.rule.upstream
    }

    /// Returns the version and its list of upstreams.
    pub(super) fn origin(&self) -> Origin {
        (self.version.clone(), self.upstream().tag().map(str::to_owned))
    }

    pub(super) fn failed(&self, error: &UpstreamError) -> Unavailable {
        Unavailable::upstream(&self.version, error)
    }

    pub(super) fn stopping(&self) -> Unavailable {
        Unavailable::Stopping(self.version.to_string())
    }
}
