//! `stoa quarantine`: lists corrupt versions, publishes them again once they are repaired, or removes them.
//!
//! The list works on a store in any state and changes nothing. The other two pass the gate and can run beside a server.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use indicatif::BinaryBytes;
use serde::Serialize;
use stoa_layout::Exit;
use stoa_store::{Objection, QuarantineEntry, RecordedBy, Restored, Store, each_quarantined};

use super::bucket::OnBucket;
use super::context::{Context, check_exists};
use super::count::counted;
use super::error::CommandError;
use super::event::{VersionKeys, seconds};
use super::progress::When;
use super::report::{Format, Reporter, Summary, Telling};
use super::{Command, Entry};

/// List, restore or purge corrupt versions
#[derive(Debug, Args)]
#[command(after_help = "\
Stoa moves a version that it finds corrupt to the folder quarantine/ of the store, with the reason. The version is \
downloaded again on the next request.

Examples:
  stoa quarantine
  stoa quarantine purge --older-than 30

Exit codes: 0 success; 1 there is no such entry in quarantine, or its version is still corrupt; 69 the bucket cannot be reached; 73 another copy of the version is in \
the store.")]
pub(crate) struct Quarantine {
    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,

    #[command(flatten)]
    on: OnBucket,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List the entries with their reasons (the default); works on a store in any state
    List,
    /// Verify entries again, and put intact versions back into the store
    Restore {
        /// Entries, as `stoa quarantine list` names them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<OsString>,
    },
    /// Remove entries permanently
    Purge(Purge),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Purge {
    /// Entries, as `stoa quarantine list` names them
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<OsString>,

    /// Remove all entries
    #[arg(long)]
    all: bool,

    /// Minimum age of the entries to remove, in days
    #[arg(long, value_name = "DAYS")]
    pub(super) older_than: Option<u32>,
}

inventory::submit!(Entry::new::<Quarantine>("quarantine", 70));

impl Command for Quarantine {
    type Summary = QuarantineDone;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<QuarantineDone, CommandError> {
        let reporter = &context.reporter;
        if let Some(bucket) = context.bucket(&self.on)? {
            return bucket.quarantine(self.action.as_ref(), reporter);
        }
        match &self.action {
            None | Some(Action::List) => list(&context.root_to_look_at()?, reporter),
            Some(Action::Restore { ids }) => restore(&context.open()?, ids, reporter),
            Some(Action::Purge(what)) => purge(&context.open()?, what, reporter),
        }
    }
}

/// An entry, as it is listed or purged.
#[derive(Serialize)]
pub(super) struct EntryEvent<'a> {
    pub(super) event: &'static str,
    pub(super) id: String,
    pub(super) module: Option<&'a str>,
    pub(super) version: Option<&'a str>,
    pub(super) path: Option<String>,
    pub(super) at: String,
    pub(super) reason: Option<&'a str>,
    pub(super) bytes: Option<u64>,
}

impl<'a> EntryEvent<'a> {
    fn new(event: &'static str, entry: &'a QuarantineEntry) -> Self {
        let why = entry.why.as_ref();
        Self {
            event,
            id: entry.id.to_string_lossy().into_owned(),
            module: why.map(|why| why.module.as_ref()),
            version: why.map(|why| why.version.as_ref()),
            path: why.map(|why| why.path.to_string_lossy().into_owned()),
            at: seconds(entry.since),
            reason: why.map(|why| why.reason.as_ref()),
            bytes: entry.bytes,
        }
    }
}

impl Display for EntryEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.module, self.version) {
            (Some(module), Some(version)) => format!("{module}@{version}"),
            _ => "its reason.toml is missing or damaged".to_owned(),
        };
        if self.event == "purged" {
            let bytes = BinaryBytes(self.bytes.unwrap_or_default());
            return write!(f, "purged {} ({bytes}): {name}", self.id);
        }
        let size = self.bytes.map_or_else(|| "empty".to_owned(), |bytes| BinaryBytes(bytes).to_string());
        write!(f, "{:26}{:22}{size:>11}  {name}", self.id, self.at)?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// The number of entries that were listed, purged or restored.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct QuarantineDone {
    store: String,
    entries: u64,
    bytes: u64,
    changed: bool,
    #[serde(skip)]
    action: &'static str,
    /// The exit code if something went wrong; the error has been reported.
    #[serde(skip)]
    failed: Option<Exit>,
}

impl QuarantineDone {
    pub(super) fn new(store: impl Display, action: &'static str) -> Self {
        let store = store.to_string();
        Self { store, entries: 0, bytes: 0, changed: false, action, failed: None }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }

    pub(super) fn changed(&mut self) {
        self.changed = self.entries > 0;
    }

    /// Notes the exit code of a failure that has been reported.
    pub(super) fn failed(&mut self, exit: Exit) {
        // A copy in the way is what a person must look at first.
        if self.failed != Some(Exit::CANT_CREATE) {
            self.failed = Some(exit);
        }
    }
}

impl Display for QuarantineDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (store, entries, action) = (&self.store, counted(self.entries, "entry"), self.action);
        write!(f, "{store}: {entries}, {} {action}", BinaryBytes(self.bytes))
    }
}

impl Summary for QuarantineDone {
    fn report(&self, reporter: &Reporter) {
        // Each restored entry says so itself.
        if self.action != "restored" {
            reporter.note(self);
        }
    }

    fn verdict(&self) -> Result<(), CommandError> {
        self.failed.map_or(Ok(()), |exit| Err(CommandError::reported(exit)))
    }
}

impl Context<'_> {
    /// Returns the folder of the store for a command that does not pass the gate.
    fn root_to_look_at(&self) -> Result<PathBuf, CommandError> {
        let root = self.root()?;
        self.settings.check_named()?;
        check_exists(&root)?;
        self.check_is_store(&root)?;
        Ok(root)
    }
}

fn list(root: &Path, reporter: &Reporter) -> Result<QuarantineDone, CommandError> {
    let mut done = QuarantineDone::new(root.display(), "in quarantine");
    each_quarantined(root, |entry| -> Result<(), CommandError> {
        list_header(&done, reporter)?;
        done.add(entry.bytes.unwrap_or_default());
        reporter.answer(&EntryEvent::new("quarantined", &entry))
    })?;
    Ok(done)
}

/// Prints the header of the list before its first line.
pub(super) fn list_header(done: &QuarantineDone, reporter: &Reporter) -> Result<(), CommandError> {
    if done.entries > 0 || reporter.is_json() {
        return Ok(());
    }
    reporter.bytes(format!("{:26}{:22}{:>11}  VERSION AND REASON\n", "ID", "SINCE", "SIZE").as_bytes())
}

/// A version that was restored, or that is intact in the store already.
#[derive(Serialize)]
struct RestoredEvent<'a> {
    event: &'static str,
    id: &'a str,
    #[serde(flatten)]
    version: VersionKeys<'a>,
}

impl Display for RestoredEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, id, version } = self;
        match *event {
            "restored" => write!(f, "restored {version}"),
            _ => write!(
                f,
                "{version} is in the store with the same content; `stoa quarantine purge {id}` removes the entry"
            ),
        }
    }
}

/// An entry that could not be restored or purged.
#[derive(Serialize)]
#[serde(tag = "event", rename = "error")]
struct FailedEvent<'a> {
    id: &'a str,
    code: u8,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Display for FailedEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}: {}", self.id, self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\nhelp: {help}"))
    }
}

fn restore(store: &Store, ids: &[OsString], reporter: &Reporter) -> Result<QuarantineDone, CommandError> {
    let mut done = QuarantineDone::new(store.root().display(), "restored");
    for id in ids {
        let restored = store.quarantine().restore(id).map_err(|error| untouched(error.into()))?;
        if let Some(exit) = report_restored(&id.to_string_lossy(), &restored, reporter) {
            done.failed(exit);
        }
    }
    Ok(done)
}

fn untouched(error: CommandError) -> CommandError {
    error.after("the entries after it were not touched")
}

/// Reports the result for one entry, and returns the exit code if it failed.
fn report_restored(id: &str, restored: &Restored, reporter: &Reporter) -> Option<Exit> {
    let (exit, message, help) = match restored {
        Restored::Done(version) | Restored::There(version) => {
            let event = if matches!(restored, Restored::Done(_)) { "restored" } else { "there" };
            reporter.result(&RestoredEvent { event, id, version: version.into() });
            return None;
        }
        Restored::Taken { version, reason } => (
            Exit::CANT_CREATE,
            format!("{version} is in the store with other content: {reason}"),
            Some(format!(
                "to restore this one, remove the other and its recorded hash with `stoa remove --forget {version}` first"
            )),
        ),
        Restored::Broken { version, reason } => (
            Exit::FAILED,
            format!("{version} is still corrupt: {reason}"),
            Some(format!(
                "repair it in quarantine/{id}/version, or purge it; in both cases the next request downloads the version"
            )),
        ),
        Restored::Refused { version, objection } => (
            Exit::FAILED,
            format!("{version} must not be restored: {objection}"),
            match objection {
                Objection::Tombstone(_) => {
                    Some(format!("`stoa remove --lift {version}` lifts the tombstone"))
                }
                Objection::Differs { by: RecordedBy::Removal, .. } => Some(format!(
                    "`stoa remove --forget {version}` removes the recorded hash, and the stored copy if there is one"
                )),
                // The content that a checksum database or a go.sum knows is the right one.
                Objection::Differs { .. } => None,
            },
        ),
        Restored::Unfit(reason) => (Exit::FAILED, format!("it cannot be restored: {reason}"), None),
        Restored::Absent => return Some(absent(id, reporter)),
    };
    restored::failed(id, exit, message, help, reporter);
    Some(exit)
}

/// The results of a restoration, as a store and a bucket report them.
pub(super) mod restored {
    use stoa_gomod::ModuleVersion;
    use stoa_layout::Exit;

    use super::{FailedEvent, Reporter, RestoredEvent};

    pub(in crate::command) fn done(id: &str, version: &ModuleVersion, reporter: &Reporter) {
        reporter.result(&RestoredEvent { event: "restored", id, version: version.into() });
    }

    pub(in crate::command) fn failed(
        id: &str,
        exit: Exit,
        message: String,
        help: Option<String>,
        reporter: &Reporter,
    ) {
        reporter.problem(&FailedEvent { id, code: exit.code(), message, help });
    }
}

pub(super) fn absent(id: &str, reporter: &Reporter) -> Exit {
    let (message, help) = (
        "there is no such entry in quarantine".to_owned(),
        "`stoa quarantine list` lists the entries".to_owned(),
    );
    reporter.problem(&FailedEvent { id, code: Exit::FAILED.code(), message, help: Some(help) });
    Exit::FAILED
}

fn purge(store: &Store, what: &Purge, reporter: &Reporter) -> Result<QuarantineDone, CommandError> {
    let mut done = QuarantineDone::new(store.root().display(), "purged");
    let mut one = |id: &OsStr| -> Result<bool, CommandError> {
        let purged = store.quarantine().purge(id).map_err(|error| untouched(error.into()))?;
        if let Some(entry) = &purged {
            done.add(entry.bytes.unwrap_or_default());
            reporter.result(&EntryEvent::new("purged", entry));
        }
        Ok(purged.is_some())
    };
    let mut failed = None;
    for id in &what.ids {
        if !one(id)? {
            failed = Some(absent(&id.to_string_lossy(), reporter));
        }
    }
    if what.ids.is_empty() {
        let age = what.older_than.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60));
        let now = SystemTime::now();
        each_quarantined(store.root(), |entry| -> Result<(), CommandError> {
            let is_old =
                age.is_none_or(|age| now.duration_since(entry.since).is_ok_and(|passed| passed > age));
            // An entry that is gone by now was purged by another process.
            if is_old { one(&entry.id).map(drop) } else { Ok(()) }
        })?;
    }
    done.changed();
    done.failed = failed;
    Ok(done)
}
