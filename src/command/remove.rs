//! `stoa remove`: removes versions, forbids them with a tombstone, and lifts tombstones.
//!
//! It can run beside a server: a zip that is being sent is sent to its end. The next request downloads the version
//! again, or gets 410 if there is a tombstone.

use std::fmt::{self, Display};

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::{H1, ModulePath, ModuleVersion};
use stoa_layout::clock::now;
use stoa_layout::{Cancel, Exit};
use stoa_store::{Claim, Store, Tombstone};

use super::bucket::OnBucket;
use super::confirm::confirm;
use super::context::{Context, cancel_on_signals};
use super::count::{counted, is_zero, versions};
use super::error::CommandError;
use super::event::VersionKeys;
use super::named::{Named, pairs, versions_of};
use super::progress::When;
use super::report::{Format, Reporter, Summary, Telling};
use super::verify::unreadable_error;
use super::{Command, Entry};

/// Remove versions from the store, or forbid them
#[derive(Debug, Args)]
#[command(
    override_usage = "stoa remove [OPTIONS] <MODULE[@VERSION]>...\n       stoa remove --list [--bucket <URL>|--local] [--format <FORMAT>]",
    after_help = "\
A module without a version stands for all its versions in the store. Modules below its path are not removed. A removed \
version is downloaded again on the next request. The new download must have the hash in the checksum database, or the \
same hash as before if the database does not know the version. --forget removes the recorded hash too. Use it after the \
tag of a private module was moved. With --tombstone, requests get 410, and the version is not downloaded, imported or \
restored until --lift. A running server notices a removal or a tombstone within a second, in a bucket within a \
minute. The command asks before it removes more than 100 versions. Without a terminal it needs --yes. It can run \
beside a server, and can be stopped and run again.

Examples:
  stoa remove example.org/module@v1.2.3
  stoa remove --forget git.example.org/private@v1.2.3
  stoa remove --tombstone --reason 'contains a key, see ticket 1234' example.org/module@v1.2.3
  stoa remove --lift example.org/module@v1.2.3
  stoa remove --list

Exit codes: 0 success; 1 a version is not in the store, or has no tombstone; 64 the removal was not \
confirmed; 69 the bucket cannot be reached; 74 input/output error; 130, 143 stopped."
)]
pub(crate) struct Remove {
    /// Modules and versions to remove
    #[arg(value_name = "MODULE[@VERSION]", value_parser = Named::parse, required_unless_present = "list")]
    named: Vec<Named>,

    /// Forbid the versions from now on, even if they are not in the store
    #[arg(long)]
    tombstone: bool,

    /// Reason for the tombstone, shown to clients
    #[arg(long, value_name = "TEXT", requires = "tombstone")]
    reason: Option<String>,

    /// Lift tombstones; no version is removed
    #[arg(long, alias = "no-tombstone", conflicts_with = "tombstone")]
    lift: bool,

    /// Remove the recorded hashes too, so that a new download may have other content
    #[arg(long, conflicts_with_all = ["tombstone", "lift"])]
    forget: bool,

    /// Remove nothing, and list all tombstones with their reasons
    #[arg(long, conflicts_with_all = ["named", "tombstone", "lift", "forget", "dry_run", "yes"])]
    list: bool,

    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask, even for more than 100 versions
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    on: OnBucket,

    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

inventory::submit!(Entry::new::<Remove>("remove", 80));

impl Command for Remove {
    type Summary = Removed;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<Removed, CommandError> {
        if let Some(bucket) = context.bucket(&self.on)? {
            if self.list {
                return list(&bucket, &context.reporter);
            }
            let cancel = cancel_on_signals(&context.reporter, false)?;
            return self.run_on(&bucket, &cancel, &context.reporter);
        }
        if self.list {
            let (store, cancel) = (context.upgrade_and_look()?, Cancel::default());
            let place = InStore { store: &store, cancel: &cancel };
            return list(&place, &context.reporter);
        }
        let store = context.open_or_look(self.dry_run)?;
        let cancel = context.cancel(&store)?;
        let place = InStore { store: &store, cancel: &cancel };
        self.run_on(&place, &cancel, &context.reporter)
    }
}

impl Remove {
    fn run_on(
        &self,
        place: &dyn Place,
        cancel: &Cancel,
        reporter: &Reporter,
    ) -> Result<Removed, CommandError> {
        let mut removed = Removed::new(place, self.dry_run);
        removed.is_lift = self.lift;
        let work = Work { reporter, place, args: self, cancel };
        work.ask()?;
        if !self.dry_run {
            place.begin_writing()?;
        }
        match work.all(&mut removed) {
            Ok(()) => Ok(removed),
            Err(error) if removed.is_empty() => Err(error.resumable()),
            Err(error) => Err(error.after(format_args!("{removed} in {} before that", removed.store))),
        }
    }
}

/// Receives a tombstone: version, time and reason.
pub(super) type EachTombstone<'a> =
    dyn FnMut(&ModuleVersion, &str, Option<&str>) -> Result<(), CommandError> + 'a;

/// Receives the error about a version that is skipped.
pub(super) type Unreadable<'a> = dyn FnMut(CommandError) + 'a;

/// The place of the versions: a store in a folder, or a bucket.
pub(super) trait Place {
    /// Returns its name, for messages.
    fn name(&self) -> String;
    /// Returns the versions of a module, with those that only have a recorded hash if asked for. Calls `unreadable` for
    /// each of which that cannot be known.
    fn versions(
        &self,
        module: &ModulePath,
        with_records: bool,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError>;
    /// Returns the versions of a module that have a tombstone, likewise.
    fn tombstones(
        &self,
        module: &ModulePath,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError>;
    /// Returns the size of a version, or of its pair in the cache. `None` if there is neither.
    fn bytes(&self, version: &ModuleVersion) -> Result<Option<u64>, CommandError>;
    /// Returns the maximum number of versions between [`Self::begin`] and [`Self::end`].
    fn batch(&self) -> usize {
        1
    }
    /// Prepares for the removal of some versions.
    fn begin(&self, _versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(())
    }
    /// Ends the removal of some versions, also if not all could be removed.
    fn end(&self, _versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(())
    }
    /// Removes a version, and forbids it if a time and a reason are given. Returns its size and its hash.
    fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<(String, Option<String>)>,
    ) -> Result<(Option<u64>, Option<H1>), CommandError>;
    /// Returns whether a hash of the version is recorded.
    fn has_hashes(&self, version: &ModuleVersion) -> Result<bool, CommandError>;
    /// Removes a version and its recorded hash. Returns its size, and whether there was a hash.
    fn forget(&self, version: &ModuleVersion) -> Result<(Option<u64>, bool), CommandError>;
    /// Returns whether a version has a tombstone.
    fn has_tombstone(&self, version: &ModuleVersion) -> Result<bool, CommandError>;
    /// Removes the tombstone of a version. Returns whether there was one.
    fn lift(&self, version: &ModuleVersion) -> Result<bool, CommandError>;
    /// Calls `each` with every tombstone. Returns the exit code if some could not be read,
    /// which is reported.
    fn each_tombstone(
        &self,
        reporter: &Reporter,
        each: &mut EachTombstone<'_>,
    ) -> Result<Option<Exit>, CommandError>;
    /// Prepares for changes.
    fn begin_writing(&self) -> Result<(), CommandError> {
        Ok(())
    }
}

/// A store in a folder.
struct InStore<'a> {
    store: &'a Store,
    cancel: &'a Cancel,
}

impl InStore<'_> {
    /// Waits for the claim: another process may be about to publish the version.
    fn claim(&self, version: &ModuleVersion) -> Result<Claim, CommandError> {
        self.store.claim_while(version, || Ok(self.cancel.check()?))
    }
}

impl Place for InStore<'_> {
    fn name(&self) -> String {
        self.store.root().to_string_lossy().into_owned()
    }

    fn versions(
        &self,
        module: &ModulePath,
        with_records: bool,
        _: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        let mut versions = versions_of(self.store, module)?;
        versions.extend(pairs(module, &self.store.pairs().versions(module)?));
        if with_records {
            versions.extend(pairs(module, &self.store.records().versions(module)?));
        }
        Ok(versions)
    }

    fn tombstones(
        &self,
        module: &ModulePath,
        _: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        Ok(pairs(module, &self.store.records().tombstones(module)?))
    }

    fn bytes(&self, version: &ModuleVersion) -> Result<Option<u64>, CommandError> {
        match self.store.footprint(version)? {
            Some(footprint) => Ok(Some(footprint.bytes)),
            None => Ok(self.store.pairs().size(version)?),
        }
    }

    fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<(String, Option<String>)>,
    ) -> Result<(Option<u64>, Option<H1>), CommandError> {
        let tombstone = tombstone.map(|(at, reason)| Tombstone { at, reason });
        let removed = self.store.remove(&self.claim(version)?, tombstone)?;
        Ok((removed.bytes, removed.h1))
    }

    fn has_hashes(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.store.records().get(version)?.is_some_and(|mut record| record.forget()))
    }

    fn forget(&self, version: &ModuleVersion) -> Result<(Option<u64>, bool), CommandError> {
        let claim = self.claim(version)?;
        // The version goes first: it must not be served without its record.
        let bytes = self.store.remove_unrecorded(&claim)?.bytes;
        Ok((bytes, self.store.records().forget(&claim)?))
    }

    fn has_tombstone(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.store.records().tombstone(version)?.is_some())
    }

    fn lift(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.store.records().lift(&self.claim(version)?)?)
    }

    fn each_tombstone(
        &self,
        reporter: &Reporter,
        each: &mut EachTombstone<'_>,
    ) -> Result<Option<Exit>, CommandError> {
        let mut failed = None;
        self.store.records().each_tombstone(|version, tombstone| match tombstone {
            Ok(tombstone) => each(&version, &tombstone.at, tombstone.reason.as_deref()),
            Err(error) => {
                failed = Some(error.exit());
                reporter.error(&error.into());
                Ok(())
            }
        })?;
        Ok(failed)
    }
}

/// The number of versions up to which the command does not ask.
const ASK_ABOVE: usize = 100;

/// The result for one version.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
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
fn list(place: &dyn Place, reporter: &Reporter) -> Result<Removed, CommandError> {
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
    store: String,
    removed: u64,
    forbidden: u64,
    forgotten: u64,
    lifted: u64,
    bytes: u64,
    /// The versions of a bucket whose manifests are damaged. They have been reported.
    #[serde(skip_serializing_if = "is_zero")]
    unreadable: u64,
    dry_run: bool,
    /// Whether tombstones were listed only.
    #[serde(skip)]
    is_list: bool,
    /// Whether tombstones were lifted only.
    #[serde(skip)]
    is_lift: bool,
    /// The exit code if something went wrong; the error has been reported.
    #[serde(skip)]
    failed: Option<Exit>,
}

impl Removed {
    fn new(place: &dyn Place, dry_run: bool) -> Self {
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

    fn is_empty(&self) -> bool {
        self.removed + self.forbidden + self.forgotten + self.lifted == 0
    }

    fn add(&mut self, event: &Event<'_>) {
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
        if self.unreadable > 0 {
            return Err(unreadable_error(self.unreadable, &self.store));
        }
        self.failed.map_or(Ok(()), |exit| Err(CommandError::reported(exit)))
    }
}

struct Work<'a> {
    reporter: &'a Reporter,
    place: &'a dyn Place,
    args: &'a Remove,
    cancel: &'a Cancel,
}

impl Work<'_> {
    /// Asks first if many versions would go: a module in place of a version is the usual cause.
    fn ask(&self) -> Result<(), CommandError> {
        let Remove { lift, dry_run, yes, .. } = *self.args;
        if lift || dry_run || yes {
            return Ok(());
        }
        let (mut count, mut bytes, mut lines) = (0, 0, Vec::new());
        for named in &self.args.named {
            let (mut here, mut size) = (0, 0);
            // Reported by the removal.
            for version in self.versions(named, &mut |_| {})? {
                let Some(bytes) = self.place.bytes(&version)? else { continue };
                (here, size) = (here + 1, size + bytes);
            }
            let plan = format!("{named}: {}, {}", versions(here as u64), BinaryBytes(size));
            lines.extend((here > 0).then_some(plan));
            (count, bytes) = (count + here, bytes + size);
        }
        if count <= ASK_ABOVE {
            return Ok(());
        }
        lines.iter().for_each(|line| self.reporter.remark(line));
        confirm(&format!(
            "{}, {}, would be removed from {}",
            versions(count as u64),
            BinaryBytes(bytes),
            self.place.name()
        ))
    }

    fn all(&self, removed: &mut Removed) -> Result<(), CommandError> {
        for named in &self.args.named {
            let mut is_met = false;
            let unreadable = &mut |error: CommandError| {
                is_met = true;
                removed.unreadable += 1;
                self.reporter.error(&error);
            };
            for batch in self.versions(named, unreadable)?.chunks(self.place.batch()) {
                self.cancel.check()?;
                is_met |= self.batch(batch, removed)?;
            }
            if !is_met {
                removed.failed = Some(Exit::FAILED);
                self.reporter.error(&self.missing(named));
            }
        }
        Ok(())
    }

    /// Works on some versions. Returns whether there was something to do.
    fn batch(&self, versions: &[ModuleVersion], removed: &mut Removed) -> Result<bool, CommandError> {
        let removes = !self.args.dry_run && !self.args.lift;
        if removes {
            self.place.begin(versions)?;
        }
        let mut events = Vec::new();
        let done = self.each(versions, &mut events);
        let ended = if removes { self.place.end(versions) } else { Ok(()) };
        // Printed last, because servers wait for the end and the output may block.
        for event in &events {
            removed.add(event);
            self.reporter.result(event);
        }
        done.and(ended).map(|()| !events.is_empty())
    }

    fn each<'v>(
        &self,
        versions: &'v [ModuleVersion],
        events: &mut Vec<Event<'v>>,
    ) -> Result<(), CommandError> {
        for version in versions {
            self.cancel.check()?;
            let event = match (self.args.lift, self.args.forget) {
                (true, _) => self.lift(version)?,
                (_, true) => self.forget(version)?,
                _ => self.remove(version)?,
            };
            events.extend(event);
        }
        Ok(())
    }

    fn versions(
        &self,
        named: &Named,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        let module = match named {
            Named::Version(version) => return Ok(vec![version.clone()]),
            Named::Module(module) => module,
        };
        if self.args.lift {
            return self.place.tombstones(module, unreadable);
        }
        let mut versions = self.place.versions(module, self.args.forget, unreadable)?;
        versions.sort();
        versions.dedup();
        Ok(versions)
    }

    fn remove<'v>(&self, version: &'v ModuleVersion) -> Result<Option<Event<'v>>, CommandError> {
        let Remove { tombstone: forbidden, dry_run, .. } = *self.args;
        let (bytes, h1) = if dry_run {
            (self.place.bytes(version)?, None)
        } else {
            let tombstone = forbidden.then(|| (now(), self.args.reason.clone()));
            self.place.remove(version, tombstone)?
        };
        let (version, h1) = (VersionKeys::from(version), h1.map(|h1| h1.to_string()));
        Ok(match bytes {
            Some(bytes) => Some(Event::Removed { version, bytes, h1, forbidden, dry_run }),
            None => forbidden.then_some(Event::Forbidden { version, dry_run }),
        })
    }

    fn forget<'v>(&self, version: &'v ModuleVersion) -> Result<Option<Event<'v>>, CommandError> {
        let dry_run = self.args.dry_run;
        let (bytes, is_forgotten) = if dry_run {
            (self.place.bytes(version)?, self.place.has_hashes(version)?)
        } else {
            self.place.forget(version)?
        };
        let version = VersionKeys::from(version);
        Ok(match bytes {
            Some(bytes) => Some(Event::Removed { version, bytes, h1: None, forbidden: false, dry_run }),
            None => is_forgotten.then_some(Event::Forgotten { version, dry_run }),
        })
    }

    fn lift<'v>(&self, version: &'v ModuleVersion) -> Result<Option<Event<'v>>, CommandError> {
        let dry_run = self.args.dry_run;
        let is_lifted = match dry_run {
            true => self.place.has_tombstone(version)?,
            false => self.place.lift(version)?,
        };
        Ok(is_lifted.then(|| Event::Lifted { version: version.into(), dry_run }))
    }

    fn missing(&self, named: &Named) -> CommandError {
        let root = self.place.name();
        let error = |text: String| CommandError::new(Exit::FAILED, text);
        match (self.args.lift, named) {
            (true, _) => error(format!("{named} has no tombstone in {root}")),
            (false, _) if self.args.forget => {
                error(format!("{named} is not in {root} and has no recorded hash"))
            }
            (false, Named::Version(_)) => error(format!("{named} is not in {root}")),
            (false, Named::Module(_)) => error(format!("no version of {named} is in {root}"))
                .help("to forbid a version that is not in the store, write MODULE@VERSION"),
        }
    }
}
