//! The results of the command.

use std::fmt::{self, Display};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_layout::Exit;

use super::place::Place;
use crate::command::count::{counted, is_zero, versions};
use crate::command::error::CommandError;
use crate::command::event::VersionKeys;
use crate::command::report::{Reporter, Summary};
use crate::command::verify::unreadable_error;

/// The result for one version.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The version was removed.
    Removed {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        bytes: u64,
        h1: Option<String>,
        forbidden: bool,
        #[serde(skip)]
        dry_run: bool,
    },
    /// The version was not in the store and has a tombstone now.
    Forbidden {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        #[serde(skip)]
        dry_run: bool,
    },
    /// The version was not in the store, and its recorded hash was removed.
    Forgotten {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        #[serde(skip)]
        dry_run: bool,
    },
    /// The tombstone was lifted.
    Lifted {
        #[serde(flatten)]
        version: VersionKeys<'a>,
        #[serde(skip)]
        dry_run: bool,
    },
}

impl Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Removed { dry_run, .. }
        | Self::Forbidden { dry_run, .. }
        | Self::Forgotten { dry_run, .. }
        | Self::Lifted { dry_run, .. }) = self;
        let would = |done: &'static str, plan: &'static str| if *dry_run { plan } else { done };
        match self {
            Self::Removed { version, bytes, forbidden, .. } => {
                let removed = would("removed", "would remove");
                write!(f, "{removed} {version} ({})", BinaryBytes(*bytes))?;
                if *forbidden { write!(f, " and {} it", would("forbade", "forbid")) } else { Ok(()) }
            }
            Self::Forbidden { version, .. } => {
                write!(f, "{} {version}, which is not in the store", would("forbade", "would forbid"))
            }
            Self::Forgotten { version, .. } => {
                write!(f, "{} the recorded hash of {version}", would("removed", "would remove"))
            }
            Self::Lifted { version, .. } => {
                write!(f, "{} the tombstone of {version}", would("lifted", "would lift"))
            }
        }
    }
}

/// A tombstone, as it is listed.
#[derive(Serialize)]
#[serde(tag = "event", rename = "tombstone")]
struct TombstoneEvent<'a> {
    #[serde(flatten)]
    version: VersionKeys<'a>,
    at: &'a str,
    reason: Option<&'a str>,
}

impl Display for TombstoneEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.version)?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Lists all tombstones.
pub(super) fn list(place: &dyn Place, reporter: &Reporter) -> Result<Removed, CommandError> {
    let mut listed = Removed::new(place, false);
    listed.is_list = true;
    listed.failed = place.each_tombstone(reporter, &mut |version, at, reason| {
        listed.forbidden += 1;
        reporter.answer(&TombstoneEvent { version: version.into(), at, reason })
    })?;
    Ok(listed)
}

/// The number of versions that were removed, forbidden or allowed again.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct Removed {
    pub(super) store: String,
    removed: u64,
    forbidden: u64,
    forgotten: u64,
    lifted: u64,
    bytes: u64,
    /// The versions of a bucket whose manifests are damaged. They have been reported.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) unreadable: u64,
    dry_run: bool,
    /// Whether tombstones were listed only.
    #[serde(skip)]
    is_list: bool,
    /// Whether tombstones were lifted only.
    #[serde(skip)]
    pub(super) is_lift: bool,
    /// The exit code if something went wrong; the error has been reported.
    #[serde(skip)]
    pub(super) failed: Option<Exit>,
}

impl Removed {
    pub(super) fn new(place: &dyn Place, dry_run: bool) -> Self {
        Self {
            store: place.name(),
            removed: 0,
            forbidden: 0,
            forgotten: 0,
            lifted: 0,
            bytes: 0,
            unreadable: 0,
            dry_run,
            is_list: false,
            is_lift: false,
            failed: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.removed + self.forbidden + self.forgotten + self.lifted == 0
    }

    pub(super) fn add(&mut self, event: &Event<'_>) {
        match event {
            Event::Removed { bytes, forbidden, .. } => {
                self.removed += 1;
                self.bytes += bytes;
                self.forbidden += u64::from(*forbidden);
            }
            Event::Forbidden { .. } => self.forbidden += 1,
            Event::Forgotten { .. } => self.forgotten += 1,
            Event::Lifted { .. } => self.lifted += 1,
        }
    }
}

impl Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.dry_run { "would be " } else { "" };
        if self.is_list {
            return counted(self.forbidden, "tombstone").fmt(f);
        }
        if self.is_lift {
            return write!(f, "{} {would}lifted", counted(self.lifted, "tombstone"));
        }
        write!(f, "{} {would}removed, {}", versions(self.removed), BinaryBytes(self.bytes))?;
        if self.forbidden > 0 {
            write!(f, ", {} {would}forbidden", HumanCount(self.forbidden))?;
        }
        if self.forgotten > 0 {
            write!(f, ", {} {would}removed", counted(self.forgotten, "recorded hash"))?;
        }
        Ok(())
    }
}

impl Summary for Removed {
    fn report(&self, reporter: &Reporter) {
        if reporter.is_json() {
            return reporter.result(self);
        }
        let dry = if self.dry_run { " (dry run: nothing was changed)" } else { "" };
        reporter.remark(format_args!("{}: {self}{dry}", self.store));
    }

    fn verdict(&self) -> Result<(), CommandError> {
        match (self.failed, self.unreadable) {
            (Some(exit), _) => Err(CommandError::reported(exit)),
            (None, 0) => Ok(()),
            (None, unreadable) => Err(unreadable_error(unreadable, &self.store)),
        }
    }
}
