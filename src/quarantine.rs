//! `stoa quarantine`: what proved broken, and what becomes of it.
//!
//! The list works on every state and changes nothing. What changes something passes the gate, and may run beside
//! a server.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use stoa_gomod::ModuleVersion;
use stoa_layout::Exit;
use stoa_store::{QuarantineEntry, Restored, Store, StoreError, each_quarantined};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::command::error::CommandError;
use crate::command::report::Format;
use crate::output;

/// What is typed.
#[derive(Debug, Args)]
pub(crate) struct Typed {
    /// Write results for people, or as JSON lines
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) format: Format,

    #[command(subcommand)]
    what: Option<What>,
}

/// What to do with it.
#[derive(Debug, Subcommand)]
enum What {
    /// Print each entry with its reason; the default. Works on every state and changes nothing
    List,
    /// Read versions whole again, and publish those that are right: once somebody has mended them there
    Restore {
        /// As the list names them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<OsString>,
    },
    /// Remove entries for good
    Purge(Purge),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Purge {
    /// As the list names them
    #[arg(value_name = "ID")]
    ids: Vec<OsString>,

    /// All of them
    #[arg(long)]
    all: bool,

    /// Those that were put there more than so many days ago
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u32>,
}

impl Typed {
    /// Whether it only looks, so that it passes no gate.
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self.what, None | Some(What::List))
    }
}

/// Lists what is in quarantine below a root.
pub(crate) fn list(root: &Path, typed: &Typed, quiet: bool) -> Result<Exit, CommandError> {
    let mut sum = Sum::default();
    let listed = each_quarantined(root, |entry| {
        if sum.entries == 0 && typed.format == Format::Human {
            output::result_line(format_args!("{:26}{:22}{:>11}  VERSION AND REASON", "ID", "SINCE", "SIZE"))?;
        }
        sum.add(&entry);
        match typed.format {
            Format::Human => output::result_line(row(&entry))?,
            Format::Json => output::result_line(value("quarantined", &entry))?,
        }
        Ok(())
    });
    match listed {
        Ok(()) => {}
        Err(ListError::Output(error)) => return Ok(output::written(Err(error))),
        Err(ListError::Store(error)) => return Err(CommandError::new(error.exit(), error)),
    }
    Ok(match typed.format {
        Format::Json => output::last_line(sum.value(root, false)),
        Format::Human if quiet => Exit::DONE,
        Format::Human => {
            output::note(format_args!("{}: {sum} in quarantine", root.display()));
            Exit::DONE
        }
    })
}

/// Why a list does not come to its end.
enum ListError {
    Store(StoreError),
    Output(io::Error),
}

impl From<StoreError> for ListError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for ListError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Restores or purges.
pub(crate) fn change(store: &Store, typed: &Typed, quiet: bool) -> Result<Exit, CommandError> {
    let told = Told { format: typed.format, quiet };
    let failed = |error: StoreError| {
        CommandError::new(error.exit(), format!("{error}; what is named after it was not touched"))
    };
    match &typed.what {
        None | Some(What::List) => list(store.root(), typed, quiet),
        Some(What::Restore { ids }) => restore(store, ids, &told).map_err(failed),
        Some(What::Purge(what)) => purge(store, what, &told).map_err(failed),
    }
}

fn restore(store: &Store, ids: &[OsString], told: &Told) -> Result<Exit, StoreError> {
    let mut exit = Exit::DONE;
    for id in ids {
        let restored = store.quarantine().restore(id)?;
        let code = told.restored(id, &restored);
        // A name in the way is the one that a person must do something about first.
        if exit != Exit::CANT_CREATE && code != Exit::DONE {
            exit = code;
        }
    }
    Ok(exit)
}

fn purge(store: &Store, what: &Purge, told: &Told) -> Result<Exit, StoreError> {
    let (mut sum, mut exit) = (Sum::default(), Exit::DONE);
    let mut one = |id: &OsStr| -> Result<bool, StoreError> {
        let purged = store.quarantine().purge(id)?;
        if let Some(entry) = &purged {
            sum.add(entry);
            told.purged(entry);
        }
        Ok(purged.is_some())
    };
    for id in &what.ids {
        if !one(id)? {
            told.failed(id, Exit::FAILED, "there is no such entry; `stoa quarantine list` lists them");
            exit = Exit::FAILED;
        }
    }
    if what.ids.is_empty() {
        let age = what.older_than.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60));
        let now = SystemTime::now();
        each_quarantined(store.root(), |entry| {
            let is_old =
                age.is_none_or(|age| now.duration_since(entry.since).is_ok_and(|passed| passed > age));
            // One that is gone by now was purged by somebody else.
            if is_old { one(&entry.id).map(drop) } else { Ok(()) }
        })?;
    }
    told.purged_all(store.root(), &sum);
    Ok(exit)
}

/// Adds up entries.
#[derive(Debug, Default)]
struct Sum {
    entries: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, entry: &QuarantineEntry) {
        self.entries += 1;
        self.bytes += entry.bytes.unwrap_or_default();
    }

    fn value(&self, root: &Path, changed: bool) -> Value {
        json!({
            "event": "done", "store": root.to_string_lossy(), "entries": self.entries, "bytes": self.bytes,
            "changed": changed,
        })
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries, {}", HumanCount(self.entries), BinaryBytes(self.bytes))
    }
}

/// Tells what becomes of each entry, in the format that was asked for.
struct Told {
    format: Format,
    quiet: bool,
}

impl Told {
    fn restored(&self, id: &OsStr, restored: &Restored) -> Exit {
        let text = id.to_string_lossy();
        match restored {
            Restored::Done(version) => {
                self.event("restored", id, version, format_args!("restored {version}"));
                Exit::DONE
            }
            Restored::There(version) => {
                self.event("there", id, version, format_args!(
                    "{version} is there with the same content, so there is nothing to restore; `stoa quarantine purge {text}` removes the entry"
                ));
                Exit::DONE
            }
            Restored::Taken { version, reason } => self.failed(id, Exit::CANT_CREATE, format_args!(
                "{version} is there with another content: {reason}; move that one away first if this one is to stand"
            )),
            Restored::Broken { version, reason } => self.failed(id, Exit::FAILED, format_args!(
                "{version} is broken still: {reason}; mend it in quarantine/{text}/version, or purge it and let it be fetched again"
            )),
            Restored::Refused { version, objection } => self.failed(id, Exit::FAILED, format_args!(
                "{version} must not be restored: {objection}; `stoa remove --lift {version}` takes a tombstone off again"
            )),
            Restored::Unfit(reason) => self.failed(id, Exit::FAILED, format_args!("it cannot be restored: {reason}")),
            Restored::Absent => self.failed(id, Exit::FAILED, "there is no such entry; `stoa quarantine list` lists them"),
        }
    }

    fn purged(&self, entry: &QuarantineEntry) {
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => {
                let bytes = BinaryBytes(entry.bytes.unwrap_or_default());
                self.line(format_args!("purged {} ({bytes}): {}", entry.id.to_string_lossy(), name(entry)));
            }
            Format::Json => self.line(value("purged", entry)),
        }
    }

    fn purged_all(&self, root: &Path, sum: &Sum) {
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => output::note(format_args!("{}: {sum} purged", root.display())),
            Format::Json => self.line(sum.value(root, sum.entries > 0)),
        }
    }

    fn event(&self, event: &str, id: &OsStr, version: &ModuleVersion, line: impl Display) {
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => self.line(line),
            Format::Json => self.line(json!({
                "event": event, "id": id.to_string_lossy(), "module": version.path().as_str(),
                "version": version.version().as_str(),
            })),
        }
    }

    fn failed(&self, id: &OsStr, exit: Exit, message: impl Display) -> Exit {
        let id = id.to_string_lossy();
        match self.format {
            Format::Human => output::fail(exit, format_args!("{id}: {message}")),
            Format::Json => {
                let message = message.to_string();
                self.line(json!({ "event": "error", "id": id, "code": exit.code(), "message": message }));
                exit
            }
        }
    }

    fn line(&self, line: impl Display) {
        // A reader that went away must not stop the work half-way.
        let _ = output::result_line(line);
    }
}

fn row(entry: &QuarantineEntry) -> String {
    let size = entry.bytes.map_or_else(|| "nothing".to_owned(), |bytes| BinaryBytes(bytes).to_string());
    let reason = match &entry.why {
        Some(why) => format!("{}: {}", name(entry), why.reason),
        None => name(entry),
    };
    format!("{:26}{:22}{size:>11}  {reason}", entry.id.to_string_lossy(), time(entry))
}

fn name(entry: &QuarantineEntry) -> String {
    match &entry.why {
        Some(why) => format!("{}@{}", why.module, why.version),
        None => "its reason.toml is missing or damaged".to_owned(),
    }
}

fn time(entry: &QuarantineEntry) -> String {
    let whole = OffsetDateTime::from(entry.since).replace_nanosecond(0).ok();
    whole.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn value(event: &str, entry: &QuarantineEntry) -> Value {
    let why = entry.why.as_ref();
    json!({
        "event": event,
        "id": entry.id.to_string_lossy(),
        "module": why.map(|why| &why.module),
        "version": why.map(|why| &why.version),
        "path": why.map(|why| why.path.to_string_lossy()),
        "at": time(entry),
        "reason": why.map(|why| &why.reason),
        "bytes": entry.bytes,
    })
}
