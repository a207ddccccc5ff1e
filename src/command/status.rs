//! `stoa status`: the state of a store, without a change to it and without the gate.
//!
//! Both programs know a current store and an empty folder. Only `stoa-migrate` knows older layouts, so `stoa status`
//! becomes it for any other folder. Nothing is locked: the counts may change meanwhile.

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::path::Path;

use clap::Args;
use serde::Serialize;
use stoa_bucket::BucketUrl;
use stoa_layout::inventory::Found;
use stoa_layout::lock::{self, Holder};
use stoa_layout::marker::{Content, HistoryEntry, Marker, Top};
use stoa_layout::{LayoutId, Layouts, PathError, State, StepError};
use stoa_store::{CensusItem, StoreError, census, each_quarantined, verdict_at};

use super::context::{App, Common, Context, check_exists};
use super::count::counted;
use super::error::CommandError;
use super::hand_over::to_migrator;
use super::progress::When;
use super::report::{Format, Reporter, Summary, Telling};
use super::unverified::Unverified;
use super::{Command, Entry};
use crate::config::Settings;

/// The status of a store; its fields are the keys of the JSON format.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    /// The version of this format.
    format: u32,
    store: String,
    state: Kind,
    /// The layout, in the middle of a step the old one. `None` without a layout or for an unknown one.
    layout: Option<String>,
    program_layout: String,
    /// `None` where versions cannot be counted: in a newer store and in a folder that is not a store.
    versions: Option<u64>,
    /// `None` in the middle of a step too.
    modules: Option<u64>,
    bytes: Option<u64>,
    leftovers: Option<u64>,
    quarantined: Option<u64>,
    quarantined_bytes: Option<u64>,
    /// Versions that no checksum database and no go.sum has confirmed, without those of private modules.
    unverified: Option<u64>,
    last_migration: Option<HistoryEntry>,
    holders: Vec<Holder>,
    /// A remark for people.
    #[serde(skip)]
    remark: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Current,
    Old,
    Migrating,
    Newer,
    #[default]
    Empty,
    Unmarked,
    Conflict,
    Foreign,
}

/// Show the state, the layout and the content of the store, and of the bucket of the configuration
#[derive(Debug, Args)]
#[command(after_help = "\
The command works on any folder and any bucket, and changes nothing.

Examples:
  stoa status
  stoa status --format json
  stoa status --bucket s3://modules/go

Exit codes: 0 success; 65 the store does not exist or is not a folder; 69 the bucket cannot be reached; 74 the folder cannot be read.")]
pub(crate) struct ShowStatus {
    /// Show the state of this bucket only: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(long, value_name = "URL")]
    bucket: Option<BucketUrl>,

    /// Show the state of the store of this machine only, even if the configuration has a bucket
    #[arg(long, conflicts_with = "bucket")]
    local: bool,

    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

inventory::submit!(Entry::new::<ShowStatus>("status", 50));

impl Command for ShowStatus {
    type Summary = Status;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<Status, CommandError> {
        let format = ["--format", self.format.name()].map(OsString::from);
        if let Some(bucket) = &self.bucket {
            // Only stoa-migrate knows the buckets of other programs.
            let arguments = [&["--bucket".into(), bucket.to_string().into()], &format[..]].concat();
            return Err(to_migrator(&context.global.common, "status", &arguments));
        }
        let root = context.root()?;
        context.settings.check_named()?;
        if !self.local && context.settings.bucket(None)?.is_some() {
            // That program prints both.
            let common = Common { store: Some(root), ..context.global.common.clone() };
            return Err(to_migrator(&common, "status", &format));
        }
        check_exists(&root)?;
        let mut status = of_current(&root, context.app, context.settings)?;
        if let Some(status) = status.take_if(|status| status.leftovers == Some(0)) {
            return Ok(status);
        }
        // Only stoa-migrate knows old layouts, and counts leftovers by version.
        let common = Common { store: Some(root), ..context.global.common.clone() };
        let local = self.local.then(|| OsString::from("--local"));
        let arguments: Vec<OsString> = format.into_iter().chain(local).collect();
        let error = to_migrator(&common, "status", &arguments);
        // Without it, each name that belongs to no version is counted.
        status.ok_or(error)
    }
}

/// Returns the status of a store at the layout of the program, or of an empty folder.
fn of_current(root: &Path, app: &App, settings: &Settings<'_>) -> Result<Option<Status>, CommandError> {
    let top = Top::read(root)?;
    let unverified = Unverified::new(settings);
    let status = current_or_empty(root, &app.layout, app.folders, top.as_ref(), unverified);
    Ok(status.transpose()?)
}

/// Returns the status of a store in any state.
pub(crate) fn of_any(
    root: &Path,
    layouts: &Layouts,
    settings: &Settings<'_>,
) -> Result<Status, CommandError> {
    check_exists(root)?;
    Ok(look(root, layouts, Unverified::new(settings))?)
}

fn current_or_empty(
    root: &Path,
    current: &LayoutId,
    folders: &[&str],
    top: Option<&Top>,
    unverified: Unverified<'_>,
) -> Option<Result<Status, PathError>> {
    let here = Marker::At(current.clone());
    match top {
        Some(top) if top.blocked.is_empty() && top.markers == [here.clone()] => Some({
            Count::take(root, top, folders, unverified).map(|count| {
                let mut status = Status::new(root, Kind::Current, current);
                status.layout = Some(current.to_string());
                status.set_counts(&count);
                status.read_history(root, &here);
                status
            })
        }),
        Some(top) if !top.is_empty() => None,
        _ => Some(Ok({
            let mut status = Status::new(root, Kind::Empty, current);
            status.set_counts(&Count::default());
            status
        })),
    }
}

fn look(root: &Path, layouts: &Layouts, unverified: Unverified<'_>) -> Result<Status, StepError> {
    let current = &layouts.current;
    let state = State::look(root, layouts)?;
    if let State::Empty | State::At(_) = &state
        && let Some(status) =
            current_or_empty(root, current, &layouts.folders, Top::read(root)?.as_ref(), unverified)
    {
        let mut status = status?;
        if status.leftovers != Some(0) {
            // The same leftovers as in their list: by version, not by name.
            status.take_inventory(root, layouts, &state)?;
        }
        return Ok(status);
    }
    let kind = match &state {
        State::At(_) | State::Untagged(_) => Kind::Old,
        State::Migrating { .. } | State::Creating(_) => Kind::Migrating,
        State::Newer(_) => Kind::Newer,
        State::Empty => Kind::Empty,
        State::MarkerLost { .. } => Kind::Unmarked,
        State::TwoMarkers(_) | State::Blocked(_) => Kind::Conflict,
        State::Foreign(_) => Kind::Foreign,
    };
    let mut status = Status::new(root, kind, current);
    status.layout = match &state {
        State::At(layout) | State::Untagged(layout) | State::MarkerLost { layout, .. } => {
            Some(layout.to_string())
        }
        State::Newer(Marker::At(layout)) => Some(layout.to_string()),
        State::Migrating { from, .. } | State::Newer(Marker::Migrating { from, .. }) => {
            Some(from.to_string())
        }
        _ => None,
    };
    if let Some(marker) = state.marker() {
        status.read_history(root, &marker);
        status.remark = Some(match &marker {
            Marker::Migrating { from, to } => format!("in the middle of the step from {from} to {to}"),
            Marker::Creating(layout) => format!("being created at layout {layout}"),
            Marker::At(layout) => format!("at layout {layout}"),
        });
    }
    if let Some((_, why)) = state.refusal(root, layouts) {
        status.remark = Some(why);
    }
    if let State::At(_) | State::Untagged(_) | State::Migrating { .. } | State::Creating(_) = &state {
        // The status is still useful without the counts.
        if let Err(error) = status.take_inventory(root, layouts, &state) {
            status.remark = Some(format!("cannot count the versions: {error}"));
        }
    }
    Ok(status)
}

/// The counts of a store.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    versions: u64,
    modules: u64,
    bytes: u64,
    leftovers: u64,
    quarantined: u64,
    quarantined_bytes: u64,
    /// Versions without a verdict, if they were counted.
    unverified: Option<u64>,
}

impl Count {
    /// Counts a store at the current layout. Every other name in its root is a leftover.
    fn take(
        root: &Path,
        top: &Top,
        folders: &[&str],
        mut unverified: Unverified<'_>,
    ) -> Result<Self, PathError> {
        let is_folder =
            |name: &&&str| std::fs::symlink_metadata(root.join(name)).is_ok_and(|meta| meta.is_dir());
        let ours = folders.iter().filter(is_folder).count() as u64;
        let mut count = Self { leftovers: top.others_count.saturating_sub(ours), ..Self::default() };
        let mut module = None;
        path_errors(census(root, |item| {
            match item {
                CensusItem::Version(stored) => {
                    // A damaged record confirms nothing, and `stoa verify` reports it.
                    if !matches!(verdict_at(root, &stored.version), Ok(Some(_))) {
                        unverified.add(stored.version.path());
                    }
                    count.versions += 1;
                    count.bytes += stored.bytes + stored.seal_bytes;
                    // The versions of a module come one after the other.
                    if module.as_ref() != Some(stored.version.path()) {
                        count.modules += 1;
                        module = Some(stored.version.path().clone());
                    }
                }
                CensusItem::Leftover(_) => count.leftovers += 1,
            }
            Ok(())
        }))?;
        count.unverified = Some(unverified.count());
        count.quarantine(root)?;
        Ok(count)
    }

    /// Counts the quarantine.
    fn quarantine(&mut self, root: &Path) -> Result<(), PathError> {
        path_errors(each_quarantined(root, |entry| {
            self.quarantined += 1;
            self.quarantined_bytes += entry.bytes.unwrap_or_default();
            Ok(())
        }))
    }
}

/// Turns the error of a walk that takes no lock and writes nothing into the only kind that it can be.
fn path_errors(walked: Result<(), StoreError>) -> Result<(), PathError> {
    match walked {
        Err(StoreError::Path(error)) => Err(error),
        _ => Ok(()),
    }
}

impl Status {
    fn new(root: &Path, state: Kind, current: &LayoutId) -> Self {
        Self {
            format: 1,
            store: root.to_string_lossy().into_owned(),
            state,
            program_layout: current.to_string(),
            holders: lock::holders(root),
            ..Self::default()
        }
    }

    fn set_counts(&mut self, count: &Count) {
        self.versions = Some(count.versions);
        self.modules = Some(count.modules);
        self.bytes = Some(count.bytes);
        self.leftovers = Some(count.leftovers);
        self.quarantined = Some(count.quarantined);
        self.quarantined_bytes = Some(count.quarantined_bytes);
        // Counted at the current layout only.
        self.unverified = count.unverified.or(self.unverified);
    }

    /// Counts versions and leftovers, in the middle of a step too.
    fn take_inventory(&mut self, root: &Path, layouts: &Layouts, state: &State) -> Result<(), StepError> {
        let Some(inventory) = layouts.inventory.as_deref() else { return Ok(()) };
        let mut count = Count::default();
        inventory.take(root, state, &mut |found| {
            match found {
                Found::Whole { bytes, is_first_of_group, .. } => {
                    count.versions += 1;
                    count.bytes += bytes;
                    count.modules += u64::from(is_first_of_group);
                }
                Found::Leftover { .. } => count.leftovers += 1,
                Found::Aside { .. } => {}
            }
            Ok(())
        })?;
        count.quarantine(root)?;
        self.set_counts(&count);
        if matches!(state, State::Migrating { from, to } if from != to) {
            // A module may be on both sides, and finding out would take memory.
            self.modules = None;
        }
        Ok(())
    }

    /// Reads the last migration from the marker. Creating a store and regenerating derived files do not count.
    fn read_history(&mut self, root: &Path, marker: &Marker) {
        let (content, warning) = Content::read(root, marker, "");
        if let Some(warning) = warning {
            log::warn!("{warning}");
        }
        self.last_migration = content.history.into_iter().rev().find(HistoryEntry::is_migration);
    }

    fn for_people(&self) -> String {
        let state = match self.state {
            Kind::Current => "current",
            Kind::Old => {
                "old: stoa-migrate upgrades it; stoa runs stoa-migrate at its next start unless auto_migrate is false"
            }
            Kind::Migrating => "migrating: run stoa-migrate to continue",
            Kind::Newer => "newer than this program",
            Kind::Empty => "empty: there is no store yet",
            Kind::Unmarked => "unmarked: the marker of the store is missing",
            Kind::Conflict => "conflict: the store does not have exactly one valid marker",
            Kind::Foreign => "foreign: not a store",
        };
        let mut lines = vec![line("store", &self.store), line("state", state)];
        if let Some(remark) =
            self.remark.as_ref().filter(|_| !matches!(self.state, Kind::Current | Kind::Empty))
        {
            lines.push(line("", remark));
        }
        let layout = self.layout.as_deref().unwrap_or("none");
        lines.push(line("layout", &format!("{layout} (this program: {})", self.program_layout)));
        let count = |n: u64| indicatif::HumanCount(n).to_string();
        if let Some(versions) = self.versions {
            let of = self.modules.map_or_else(String::new, |n| format!(" of {}", counted(n, "module")));
            let bytes = indicatif::BinaryBytes(self.bytes.unwrap_or_default());
            lines.push(line("versions", &format!("{}{of}, {bytes}", count(versions))));
        }
        lines.extend(self.leftovers.map(|number| line("leftovers", &count(number))));
        if let Some(number) = self.quarantined {
            let bytes = indicatif::BinaryBytes(self.quarantined_bytes.unwrap_or_default());
            let bytes = if number == 0 { String::new() } else { format!(", {bytes}") };
            lines.push(line("quarantined", &format!("{}{bytes}", count(number))));
        }
        if let Some(number) = self.unverified.filter(|number| *number > 0) {
            let text = format!("{}, not confirmed by a checksum database or a go.sum", count(number));
            lines.push(line("unverified", &text));
        }
        if let Some(last) = &self.last_migration {
            let HistoryEntry { from, to, finished, moved, leftovers, .. } = last;
            let text = format!(
                "{from} to {to}, {finished}: {} moved, {}",
                counted(*moved, "version"),
                counted(*leftovers, "leftover")
            );
            lines.push(line("last migration", &text));
        }
        lines.extend(self.holders.iter().map(|holder| line("in use by", &holder.to_string())));
        lines.join("\n")
    }
}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.for_people())
    }
}

impl Summary for Status {
    fn report(&self, reporter: &Reporter) {
        // A failure to write is found at the end of the command.
        let _ = reporter.answer(self);
    }
}

fn line(name: &str, value: &str) -> String {
    format!("{name:16}{value}").trim_end().to_owned()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make stores by hand")]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::World;

    #[test]
    fn versions_leftovers_and_the_quarantine_are_counted_apart() {
        let dir = testkit::tempdir();
        for (path, content) in [
            ("layout.v2", ""),
            ("store.lock", ""),
            ("modules/example.org/a/@v/v1.0.0/info", "{}"),
            ("modules/example.org/a/@v/v1.0.0/zip", "1234"),
            ("modules/example.org/a/@v/v1.0.0/ziphash", "h1:"),
            ("modules/example.org/a/@v/v1.1.0/info", "{}"),
            ("modules/example.org/a/v2/@v/v2.0.0-!r!c1/info", "{}"),
            ("modules/example.org/b/@v/v1.0.0/mod", "left"),
            ("modules/example.org/README", "left"),
            ("quarantine/x/reason.toml", ""),
            ("quarantine/x/version/zip", "123"),
            ("records", "a file where a folder belongs"),
            ("modules/example.org/b/@v/v0.1.0/info", "{}"),
            ("notes.txt", "left"),
            ("lost+found/x", ""),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let top = Top::read(dir.path()).unwrap().unwrap();
        let world = World {
            variable: Box::new(|name| (name == "GONOSUMDB").then(|| "example.org/b".into())),
            names: Vec::new(),
            system_file: dir.path().join("none"),
        };
        let settings = Settings::new(&world, None);
        let folders = ["modules", "quarantine", "records"];
        let count = Count::take(dir.path(), &top, &folders, Unverified::new(&settings)).unwrap();
        let expected = Count {
            versions: 4,
            modules: 3,
            bytes: 15,
            leftovers: 4,
            quarantined: 1,
            quarantined_bytes: 3,
            unverified: Some(3),
        };
        assert_eq!(count, expected);
    }
}
