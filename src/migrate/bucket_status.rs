//! The state of a bucket, for `stoa status --bucket`.

use std::fmt::{self, Display};

use serde::Serialize;
use stoa_bucket::{
    Bucket, BucketError, BucketLayouts, BucketLook, BucketMarker, BucketState, CountThere, Versions,
};
use stoa_layout::marker::HistoryEntry;

use crate::command::count::{counted, versions};
use crate::command::report::{Reporter, Summary};

/// The number of manifests that are read at the same time.
const AT_ONCE: usize = 32;

/// The state of a bucket; its fields are the keys of the JSON format. The keys that a folder has too mean the same.
#[derive(Debug, Serialize)]
pub(super) struct BucketStatus {
    /// The version of this format.
    format: u32,
    store: String,
    state: Kind,
    /// The layout, in the middle of a step the old one.
    layout: Option<String>,
    program_layout: String,
    /// The ID in the keys of the bucket.
    id: Option<String>,
    /// `None` where versions are not counted: without a current layout.
    versions: Option<u64>,
    modules: Option<u64>,
    quarantined: Option<u64>,
    last_migration: Option<HistoryEntry>,
    /// The process that works on the whole bucket, with its work.
    holders: Vec<Holder>,
    servers: Vec<String>,
    /// A remark for people.
    #[serde(skip)]
    remark: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Current,
    Old,
    Migrating,
    Newer,
    Empty,
    Foreign,
}

#[derive(Debug, Serialize)]
struct Holder {
    name: String,
    work: String,
}

impl BucketStatus {
    /// Reads the state of a bucket. Writes nothing.
    pub(super) async fn of(bucket: &Bucket, layouts: &BucketLayouts) -> Result<Self, BucketError> {
        let look = BucketLook::of(bucket, layouts).await?;
        let mut status = Self {
            format: 1,
            store: bucket.url().to_string(),
            state: Kind::Foreign,
            layout: None,
            program_layout: layouts.current.to_string(),
            id: None,
            versions: None,
            modules: None,
            quarantined: None,
            last_migration: None,
            holders: Vec::new(),
            servers: Vec::new(),
            remark: look.refusal(bucket, layouts).map(|(_, why)| why),
        };
        match &look {
            BucketLook::Empty => status.state = Kind::Empty,
            BucketLook::Untagged(layout) => {
                status.state = Kind::Old;
                status.layout = Some(layout.to_string());
            }
            BucketLook::Newer(marker) => {
                status.state = Kind::Newer;
                status.set_layout(marker);
            }
            BucketLook::Foreign(_) => {}
            BucketLook::Marked(held) => status.take(bucket, &held.document).await?,
        }
        Ok(status)
    }

    async fn take(&mut self, bucket: &Bucket, state: &BucketState) -> Result<(), BucketError> {
        self.set_layout(&state.marker);
        self.state = match &state.marker {
            BucketMarker::At(_) if state.is_current() => Kind::Current,
            BucketMarker::At(_) | BucketMarker::Left(_) => Kind::Old,
            BucketMarker::Migrating { .. } | BucketMarker::Creating(_) => Kind::Migrating,
        };
        self.remark = match &state.marker {
            BucketMarker::Migrating { from, to } => {
                Some(format!("in the middle of the step from {from} to {to}"))
            }
            BucketMarker::Creating(layout) => Some(format!("being created at layout {layout}")),
            BucketMarker::Left(layout) => Some(format!("downgraded to layout {layout}")),
            BucketMarker::At(_) => None,
        };
        let is_migration = |entry: &&HistoryEntry| entry.from != "empty" && entry.from != entry.to;
        self.last_migration = state.history.iter().rev().find(is_migration).cloned();
        let holder =
            |lease: &stoa_bucket::Lease| Holder { name: lease.owner.clone(), work: lease.work.clone() };
        self.holders.extend(state.lease.as_ref().map(holder));
        if matches!(state.marker, BucketMarker::Left(_)) {
            return Ok(());
        }
        self.id = Some(state.id.to_string());
        self.servers = bucket.servers(&state.keys()).await?;
        if self.state == Kind::Current {
            let counted = Versions::new(bucket.clone(), state.keys()).count(AT_ONCE).await?;
            let CountThere { versions, modules, quarantined } = counted;
            self.versions = Some(versions);
            self.modules = Some(modules);
            self.quarantined = Some(quarantined);
        }
        Ok(())
    }

    fn set_layout(&mut self, marker: &BucketMarker) {
        self.layout = match marker {
            BucketMarker::At(layout) | BucketMarker::Left(layout) => Some(layout.to_string()),
            BucketMarker::Migrating { from, .. } => Some(from.to_string()),
            BucketMarker::Creating(_) => None,
        };
    }
}

impl Display for BucketStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            Kind::Current => "current",
            Kind::Old => {
                "old: stoa-migrate upgrades it; stoa serve runs stoa-migrate unless auto_migrate is false"
            }
            Kind::Migrating => "migrating: run stoa-migrate to continue",
            Kind::Newer => "newer than this program",
            Kind::Empty => "empty: `stoa serve` prepares it",
            Kind::Foreign => "foreign: neither of Stoa nor of Athens",
        };
        let mut lines = vec![line("bucket", &self.store), line("state", state)];
        lines.extend(self.remark.as_ref().map(|remark| line("", remark)));
        let layout = self.layout.as_deref().unwrap_or("none");
        lines.push(line("layout", &format!("{layout} (this program: {})", self.program_layout)));
        if let (Some(number), Some(modules)) = (self.versions, self.modules) {
            let number = indicatif::HumanCount(number);
            lines.push(line("versions", &format!("{number} of {}", counted(modules, "module"))));
        }
        let quarantined = self.quarantined.map(|number| indicatif::HumanCount(number).to_string());
        lines.extend(quarantined.map(|number| line("quarantined", &number)));
        if let Some(HistoryEntry { from, to, finished, moved, leftovers, .. }) = &self.last_migration {
            let (moved, leftovers) = (versions(*moved), counted(*leftovers, "leftover"));
            let text = format!("{from} to {to}, {finished}: {moved}, {leftovers}");
            lines.push(line("last migration", &text));
        }
        let holder = |Holder { name, work }: &Holder| line("in use by", &format!("{name}: {work}"));
        lines.extend(self.holders.iter().map(holder));
        lines.extend(self.servers.iter().map(|server| line("in use by", server)));
        f.write_str(&lines.join("\n"))
    }
}

impl Summary for BucketStatus {
    fn report(&self, reporter: &Reporter) {
        // A failure to write is found at the end of the command.
        let _ = reporter.answer(self);
    }
}

fn line(name: &str, value: &str) -> String {
    format!("{name:16}{value}").trim_end().to_owned()
}
